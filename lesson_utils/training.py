"""Training, plain and robust (double backpropagation)."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, distributed, nn
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

_Batch = tuple[Tensor, Tensor, int, int]
"""Images and labels of this process, how many of them count, and the size of the whole batch."""


def gradient_penalty_loss(
    model: nn.Module, x: Tensor, y: Tensor, strength: float
) -> tuple[Tensor, Tensor]:
    """Cross-entropy with a penalty on its input gradient.

    ``mean_b ℓ(Ψ(x_b), y_b) + λ · mean_b ‖∇_x ℓ(Ψ(x_b), y_b)‖²``

    The gradient is taken per sample, x in pixels of [0, 1]. Training by the gradient
    of a gradient is double backpropagation (Drucker & LeCun 1992).

    Parameters
    ----------
    model : nn.Module
        In whatever mode the training uses. BatchNorm in train mode makes the gradient
        of one sample depend on the others: keep it in eval mode.
    x : Tensor, `(batch, *input_shape)`
    y : Tensor of int, `(batch,)`
        True labels.
    strength : float
        λ ≥ 0; with 0 no second gradient is computed.

    Returns
    -------
    loss : Tensor, scalar
        The whole objective, ready for `.backward()`.
    penalty : Tensor, scalar
        The mean squared gradient norm, detached; 0 where `strength` is 0.

    Raises
    ------
    ValueError
        `strength` is negative.
    """
    if not strength >= 0:
        raise ValueError(f"strength must be a number ≥ 0, got {strength}")
    if strength == 0:
        return cross_entropy(model(x), y), x.new_zeros(())
    x = x.detach().clone().requires_grad_(True)
    losses = cross_entropy(model(x), y, reduction="none")
    (grad,) = torch.autograd.grad(losses.sum(), x, create_graph=True)
    penalty = grad.flatten(1).square().sum(1).mean()
    return losses.mean() + strength * penalty, penalty.detach()


def fit(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    strength: float = 0.0,
    epochs: int = 20,
    batch_size: int = 64,
    learning_rate: float = 1e-3,
    seed: int = 0,
) -> nn.Module:
    """Train `model` in place with Adam and return it in eval mode.

    Parameters
    ----------
    model : nn.Module
    x, y : Tensor
        Training images and labels.
    strength : float
        λ of :func:`gradient_penalty_loss`.
    epochs, batch_size, learning_rate
        As usual.
    seed : int
        Of the order of the batches and of dropout. The same seed, machine and number
        of threads give the same weights; the global random state is left as it was.
    """
    optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate)
    model.train()
    with torch.random.fork_rng(devices=[x.device] if x.is_cuda else []):
        torch.manual_seed(seed)
        for _ in range(epochs):
            for batch in torch.randperm(len(x), device=x.device).split(batch_size):
                optimizer.zero_grad()
                loss, _ = gradient_penalty_loss(model, x[batch], y[batch], strength)
                loss.backward()
                optimizer.step()
    return model.eval()


@dataclass(frozen=True)
class Recipe:
    """Stochastic gradient descent with momentum and step decay, by default the paper's for MNIST.

    From `mnist_example.ini` of the authors' code; their weight penalty 1e-6·‖w‖² is a
    `weight_decay` of 2e-6 in PyTorch, which adds weight_decay·w to the gradient.
    """

    epochs: int = 200
    batch_size: int = 100
    learning_rate: float = 1e-3
    momentum: float = 0.9
    weight_decay: float = 2e-6
    decay_every: int = 80
    """Epochs after which the learning rate is multiplied by `decay_factor`, again and again."""
    decay_factor: float = 0.1
    augment: bool = False
    """Mirror half of the images of a batch and shift it as a whole, by up to an eighth of its width."""
    clip: float = math.inf
    """Scale the gradient of a step down to this length, if it is longer (Pascanu et al. 2013)."""
    freeze_statistics: bool = False
    """Keep batch normalisation in eval mode: in train mode it couples the samples of a batch."""


class History(NamedTuple):
    """How a training went."""

    losses: list[float]
    """Mean of the whole objective over each epoch."""
    diverged: int | None
    """First epoch (counted from 0) that ended with a loss or weight that is not finite."""
    seconds: float
    """Wall-clock time, interruptions left out."""


def train(
    model: nn.Module,
    x: Tensor | DataLoader,
    y: Tensor | None = None,
    *,
    strength: float,
    recipe: Recipe,
    seed: int = 0,
    checkpoint: Path | None = None,
    progress: bool = False,
) -> History:
    """Train a model in place by double backpropagation, and leave it in eval mode.

    In several processes (:func:`join_processes`) each takes its share of every batch
    (`DistributedDataParallel`). Up to rounding the result is that of one process, if there
    is neither dropout nor batch normalisation in train mode.

    Parameters
    ----------
    model : nn.Module
    x, y : Tensor
        Training images, float in [0, 1] or bytes, and labels. Or x a DataLoader of
        images and labels in batches (for each process its share), and no y.
    strength : float
        λ of :func:`gradient_penalty_loss`.
    recipe : Recipe
    seed : int
        Of the order of the batches, of shifts and of dropout.
    checkpoint : Path, optional
        File that holds the state after each epoch. If it exists training continues from
        it. On a CPU the weights are then bit for bit those of an uninterrupted run:
        all that is random in an epoch follows from the seed and the number of the epoch.
    progress : bool
        Show a progress bar (tqdm).

    Returns
    -------
    History

    Raises
    ------
    ValueError
        `strength` is negative, or the checkpoint is of another training.
    """
    from tqdm.auto import tqdm

    if not strength >= 0:
        raise ValueError(f"strength must be a number ≥ 0, got {strength}")
    # this memory format makes the convolutions faster on a CPU
    _training_mode(model.to(memory_format=torch.channels_last), recipe)
    shared = DistributedDataParallel(model) if processes()[1] > 1 else model
    optimizer = torch.optim.SGD(
        model.parameters(),
        lr=recipe.learning_rate,
        momentum=recipe.momentum,
        weight_decay=recipe.weight_decay,
    )
    n = len(x) if isinstance(x, Tensor) else len(x.dataset)
    rules = {item.name: getattr(recipe, item.name) for item in fields(Recipe)}
    identity = json.dumps([rules, strength, seed, n])
    epochs = _resume(checkpoint, identity, model, optimizer)  # rows: seconds, loss
    steps = math.ceil(n / recipe.batch_size)
    bar = tqdm(
        desc=f"λ = {strength:g}",
        total=recipe.epochs * steps,
        initial=len(epochs) * steps,
        disable=not progress or processes()[0] > 0,
    )
    device = next(model.parameters()).device
    step = partial(_step, shared, optimizer, strength, recipe.clip)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), bar:
        while len(epochs) < recipe.epochs and all(math.isfinite(loss) for _, loss in epochs):
            began = time.perf_counter()
            order = _start_epoch(len(epochs), seed, n)
            decay = recipe.decay_factor ** (len(epochs) // recipe.decay_every)
            optimizer.param_groups[0]["lr"] = recipe.learning_rate * decay
            batches = _shares(x, y, order, recipe) if y is not None else _loaded(x, len(epochs))
            loss = _epoch(step, batches, device, bar)
            finite = all(p.isfinite().all() for p in model.parameters())
            epochs.append([time.perf_counter() - began, loss if finite else math.nan])
            _save(checkpoint, identity, model, optimizer, epochs)
    model.eval().to(memory_format=torch.contiguous_format)
    losses = [loss for _, loss in epochs]
    diverged = next((e for e, loss in enumerate(losses) if not math.isfinite(loss)), None)
    return History(losses[:diverged], diverged, sum(row[0] for row in epochs))


def join_processes(device: str = "cpu") -> str:
    """Under torchrun: meet the other processes. Does nothing in a process of its own.

    Parameters
    ----------
    device : str
        `cpu`, or `cuda`: then each process of a machine takes a GPU of its own.

    Returns
    -------
    str
        The device of this process.
    """
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return device
    # After a restart torchrun's store still holds the addresses of the processes that died
    # (PyTorch issue 135712): each attempt keeps its entries apart.
    store, rank, world = next(distributed.rendezvous("env://"))
    store = distributed.PrefixStore(os.environ["TORCHELASTIC_RESTART_COUNT"], store)
    patience = timedelta(days=1)  # others may train or measure for hours meanwhile
    if device == "cuda":
        device = f"cuda:{os.environ['LOCAL_RANK']}"
        torch.cuda.set_device(device)
    distributed.init_process_group(store=store, rank=rank, world_size=world, timeout=patience)
    return device


def processes() -> tuple[int, int]:
    """Number of this process among those that train together, and how many they are."""
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1


def _training_mode(model: nn.Module, recipe: Recipe) -> None:
    model.train()
    for module in model.modules():
        if recipe.freeze_statistics and isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()


def _start_epoch(epoch: int, seed: int, n: int) -> Tensor:
    """Seed dropout and draw an order of n images, from seed and epoch alone."""
    state = np.random.SeedSequence([seed, epoch]).generate_state(1, np.uint64)
    torch.manual_seed(int(state[0]))
    return torch.as_tensor(np.random.default_rng([seed, epoch]).permutation(n))


def _shares(x: Tensor, y: Tensor, order: Tensor, recipe: Recipe) -> Iterator[_Batch]:
    rank, world = processes()
    for batch in order.split(recipe.batch_size):
        images = pixels(x[batch.to(x.device)])
        if recipe.augment:  # before it is shared out, so that all processes draw alike
            images = _flip_and_shift(images)
        count = len(range(rank, len(batch), world))
        # Of a batch with fewer images than processes some get a copy that does not count.
        mine = slice(rank, None, world) if count else slice(1)
        yield images[mine], y[batch.to(y.device)][mine], count, len(batch)


def pixels(images: Tensor) -> Tensor:
    """Images in [0, 1]: bytes are divided by 255."""
    return images / 255 if images.dtype == torch.uint8 else images


def _loaded(loader: DataLoader, epoch: int) -> Iterator[_Batch]:
    if hasattr(loader.sampler, "set_epoch"):
        loader.sampler.set_epoch(epoch)
    for images, labels in loader:
        yield images, labels, len(labels), len(labels) * processes()[1]


def _flip_and_shift(x: Tensor) -> Tensor:
    from torchvision.transforms.v2 import RandomCrop

    mirrored = torch.rand(len(x), 1, 1, 1, device=x.device) < 0.5
    shift = RandomCrop(x.shape[2:], padding=x.shape[3] // 8, padding_mode="reflect")
    return shift(torch.where(mirrored, x.flip(3), x))


def _step(
    model, optimizer, strength: float, clip: float, x: Tensor, y: Tensor, weight: float
) -> Tensor:
    optimizer.zero_grad()
    loss, _ = gradient_penalty_loss(model, x, y, strength)
    (weight * loss).backward()
    if clip < math.inf:
        nn.utils.clip_grad_norm_(model.parameters(), clip)
    optimizer.step()
    return loss.detach()


def _epoch(step, batches: Iterable[_Batch], device: torch.device, bar) -> float:
    """One pass over the data; mean of the objective over all images of all processes."""
    total, seen, world = torch.zeros((), dtype=torch.float64, device=device), 0, processes()[1]
    for x, y, count, size in batches:  # count: images of this process, of `size` in all
        # Processes average their gradients: weighted so, that is the gradient of the whole batch.
        loss = step(x.to(device), y.to(device), count * world / size)
        total += loss.double() * count
        seen += count
        bar.update()
    sums = torch.stack([total, total.new_tensor(seen)])
    if world > 1:
        distributed.all_reduce(sums)
    return (sums[0] / sums[1]).item()


def write(path: Path, content: bytes) -> None:
    """Replace a file at one stroke: a reader, at any moment, finds the old or the new content."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(path.name + ".part")
    unfinished.write_bytes(content)
    os.replace(unfinished, path)


def _save(checkpoint: Path | None, identity: str, model, optimizer, epochs) -> None:
    if checkpoint is None or processes()[0] > 0:
        return
    from safetensors.torch import save

    tensors = {f"weight.{name}": value.contiguous() for name, value in model.state_dict().items()}
    tensors["epochs"] = torch.tensor(epochs, dtype=torch.float64)
    for name, p in model.named_parameters():
        if optimizer.defaults["momentum"]:
            tensors[f"momentum.{name}"] = optimizer.state[p]["momentum_buffer"].contiguous()
    write(checkpoint, save(tensors, metadata={"training": identity}))


@torch.no_grad()
def _resume(checkpoint: Path | None, identity: str, model, optimizer) -> list[list[float]]:
    """Load the checkpoint, if there is one; a row of seconds and losses for each epoch done."""
    if checkpoint is None or not checkpoint.exists():
        return []
    from safetensors import safe_open

    with safe_open(checkpoint, "pt") as stored:
        if stored.metadata()["training"] != identity:
            raise ValueError(
                f"{checkpoint} belongs to another training, {stored.metadata()['training']} and "
                f"not {identity}: delete it, or name another file"
            )
        for name, value in model.state_dict().items():
            value.copy_(stored.get_tensor(f"weight.{name}"))
        for name, p in model.named_parameters():
            if optimizer.defaults["momentum"]:
                momentum = stored.get_tensor(f"momentum.{name}")
                optimizer.state[p]["momentum_buffer"] = torch.empty_like(p).copy_(momentum)
        return stored.get_tensor("epochs").tolist()


@torch.no_grad()
def accuracy(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """Share of samples whose predicted class is `y`."""
    return (model(x).argmax(1) == y).double().mean().item()
