"""Training of one network of an experiment: interruptible, in one process or several."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from ..files import UserError
from ..photographs import pixels
from ..records import store, stored
from ..training import backward, cut_into_batches, gradient_penalty_loss
from ..validation import check_integer, check_number
from .depthwise import DepthwiseTwice
from .processes import is_first, rank_and_count, shared, summed
from .settings import Recipe

_Batch = tuple[Tensor, Tensor, int, int]
"""Images and labels of this process, how many of them count, and the size of the whole batch."""


class History(NamedTuple):
    """How a training went."""

    losses: list[float]
    """Mean of the whole objective over each epoch."""
    diverged: int | None
    """First epoch (counted from 0) that ended with a loss or weight that is not finite; or the
    last, if scores of images that are to be measured are not."""
    seconds: float
    """Wall-clock time, interruptions left out."""


def train(
    model: nn.Module,
    images: TensorDataset | DataLoader,
    *,
    strength: float,
    recipe: Recipe,
    seed: int = 0,
    checkpoint: Path | None = None,
    progress: bool = False,
    after_epoch: Callable[[History], None] | None = None,
) -> History:
    """Train a model in place by double backpropagation, and leave it in eval mode.

    In several processes (:func:`~lesson_utils.experiments.processes.join_processes`)
    each takes its share of every batch
    (`DistributedDataParallel`). Up to rounding the result is that of one process, if there
    is neither dropout nor batch normalisation in train mode.

    Parameters
    ----------
    model : nn.Module
    images : TensorDataset or DataLoader
        Training images and labels. Few: in memory, float in [0, 1] or bytes. Many: in
        batches of floats, for each process its share.
    strength : float
        λ of :func:`lesson_utils.training.gradient_penalty_loss`.
    recipe : Recipe
    seed : int
        Of the order of the batches, of shifts and of dropout.
    checkpoint : Path, optional
        File that holds the state after each epoch. If it exists training continues from
        it. On a CPU the weights are then bit for bit those of an uninterrupted run:
        all that is random in an epoch follows from the seed and the number of the epoch.
    progress : bool
        Show a progress bar (tqdm).
    after_epoch : callable, optional
        Told after each epoch how the training went so far.

    Returns
    -------
    History

    Raises
    ------
    ValueError
        `strength` or `seed` is negative, or the checkpoint is of another training, or cannot hold
        the model.
    """
    from tqdm.auto import tqdm

    check_number("strength", strength)
    seed = check_integer("seed", seed, least=0)
    _check_can_be_stored(checkpoint, model)
    weights, rate, decay = model.parameters(), recipe.learning_rate, recipe.weight_decay
    if recipe.optimizer == "adam":
        optimizer = torch.optim.Adam(weights, rate, (recipe.momentum, 0.99), weight_decay=decay)
    else:
        optimizer = torch.optim.SGD(weights, rate, recipe.momentum, weight_decay=decay)
    n = len(images.dataset) if isinstance(images, DataLoader) else len(images)
    identity = json.dumps([asdict(recipe), strength, seed, n])
    epochs = _resume(checkpoint, identity, model, optimizer)  # rows: seconds, loss
    steps = math.ceil(n / recipe.batch_size)
    bar = tqdm(
        desc=f"λ = {strength:g}",
        total=recipe.epochs * steps,
        initial=len(epochs) * steps,
        disable=not progress or not is_first(),
    )
    device = next(model.parameters()).device
    random = torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])
    with _training_mode(model, recipe), random, bar:
        parallel = shared(model)
        while len(epochs) < recipe.epochs and all(math.isfinite(loss) for _, loss in epochs):
            began = time.perf_counter()
            order = seed_epoch(len(epochs), seed, n)
            steps_down = len(epochs) // recipe.decay_every
            optimizer.param_groups[0]["lr"] = rate * recipe.decay_factor**steps_down
            if isinstance(images, DataLoader):
                batches = _loaded(images, len(epochs))
            else:
                whole = cut_into_batches(model, order, recipe.batch_size)
                batches = _shares(images, whole, recipe.augment)
            check = len(epochs) == 0  # whether the penalty is one for each sample
            loss = _epoch(parallel, optimizer, batches, strength, recipe.clip, bar, check=check)
            finite = all(p.isfinite().all() for p in model.parameters())
            epochs.append([time.perf_counter() - began, loss if finite else math.nan])
            if after_epoch is not None:
                after_epoch(_history(epochs))
            _save(checkpoint, identity, model, optimizer, epochs)
    return _history(epochs)


def _history(epochs: list[list[float]]) -> History:
    losses = [loss for _, loss in epochs]
    diverged = next((e for e, loss in enumerate(losses) if not math.isfinite(loss)), None)
    return History(losses[:diverged], diverged, sum(row[0] for row in epochs))


@contextmanager
def _training_mode(model: nn.Module, recipe: Recipe) -> Iterator[None]:
    """Train mode, in a memory format that makes convolutions faster on a CPU; then eval mode."""
    model.to(memory_format=torch.channels_last).train()
    for module in model.modules():
        if recipe.freeze_statistics and isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()
    try:
        yield
    finally:  # also where a label is refused
        model.eval().to(memory_format=torch.contiguous_format)


def seed_epoch(epoch: int, seed: int, n: int) -> Tensor:
    """Seed dropout and draw an order of n images, from seed and epoch alone."""
    state = np.random.SeedSequence([seed, epoch]).generate_state(1, np.uint64)
    torch.manual_seed(int(state[0]))
    return torch.as_tensor(np.random.default_rng([seed, epoch]).permutation(n))


def _shares(data: TensorDataset, batches: list[Tensor], augment: bool) -> Iterator[_Batch]:
    """The batches of an epoch, of each batch the part of this process."""
    (x, y), (rank, world) = data.tensors, rank_and_count()
    for batch in batches:
        images = pixels(x[batch.to(x.device)])
        if augment:  # before it is shared out, so that all processes draw alike
            images = flip_and_shift(images)
        count = len(range(rank, len(batch), world))
        # Of a batch with fewer images than processes some get a copy that does not count.
        mine = slice(rank, None, world) if count else slice(1)
        yield images[mine], y[batch.to(y.device)][mine], count, len(batch)


def _loaded(loader: DataLoader, epoch: int) -> Iterator[_Batch]:
    if hasattr(loader.sampler, "set_epoch"):
        loader.sampler.set_epoch(epoch)
    for images, labels in loader:
        yield images, labels, len(labels), len(labels) * rank_and_count()[1]


def flip_and_shift(x: Tensor) -> Tensor:
    """Mirror half of the images, and shift all alike by up to an eighth of their width."""
    from torchvision.transforms.v2 import RandomCrop

    mirrored = torch.rand(len(x), 1, 1, 1, device=x.device) < 0.5
    shift = RandomCrop(x.shape[2:], padding=x.shape[3] // 8, padding_mode="reflect")
    return shift(torch.where(mirrored, x.flip(3), x))


def _epoch(
    model: nn.Module,
    optimizer,
    batches: Iterable[_Batch],
    strength: float,
    clip: float,
    bar,
    *,
    check: bool,
) -> float:
    """One pass over the data; mean of the objective over all images of all processes."""
    device, world = next(model.parameters()).device, rank_and_count()[1]
    total, seen = torch.zeros((), dtype=torch.float64, device=device), 0
    for x, y, count, size in batches:  # count: images of this process, of `size` in all
        optimizer.zero_grad()
        with DepthwiseTwice():
            x, y = x.to(device), y.to(device)
            loss, _ = gradient_penalty_loss(model, x, y, strength, check=check and seen == 0)
        # Processes average their gradients: weighted so, that is the gradient of the whole batch.
        backward(count * world / size * loss, strength)
        if clip < math.inf:
            nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()
        total += loss.detach().double() * count
        seen += count
        bar.update()
    total, seen = summed(torch.stack([total, total.new_tensor(seen)]))
    return (total / seen).item()


def _check_can_be_stored(checkpoint: Path | None, model: nn.Module) -> None:
    """Refuse to begin a training whose state no checkpoint can hold, or give back."""
    for name, value in model.state_dict().items() if checkpoint is not None else ():
        is_tensor = isinstance(value, Tensor)
        if not is_tensor or value.layout != torch.strided:
            found = f"stored as {value.layout}" if is_tensor else "no tensor"
        elif 0 in value.stride() and value.numel() > 1:
            found = "expanded, several entries that share one place in memory"
        else:
            continue
        raise UserError(
            f"the model's '{name}' is {found}, which a checkpoint cannot hold: make it a dense tensor, "
            "e.g. by .to_dense() or .clone(), or train without checkpoint"
        )


def _save(checkpoint: Path | None, identity: str, model, optimizer, epochs) -> None:
    if checkpoint is None or not is_first():
        return
    dense = {"memory_format": torch.contiguous_format}
    # Copies: tied layers share their memory, of which the file knows nothing.
    tensors = {f"weight.{name}": v.clone(**dense) for name, v in model.state_dict().items()}
    tensors["epochs"] = torch.tensor(epochs, dtype=torch.float64)
    for name, p in model.named_parameters():
        for key, value in optimizer.state.get(p, {}).items():
            if value is not None:  # as where there is no momentum
                tensors[f"{key}.{name}"] = value.clone(**dense)
    store(checkpoint, tensors, {"training": identity})


@torch.no_grad()
def _resume(checkpoint: Path | None, identity: str, model, optimizer) -> list[list[float]]:
    """Load the checkpoint, if there is one; a row of seconds and losses for each epoch done."""
    if checkpoint is None or not checkpoint.exists():
        return []
    tensors, notes = stored(checkpoint)
    if notes.get("training") != identity:
        raise UserError(
            f"{checkpoint} belongs to another training, {notes.get('training')} and not "
            f"{identity}: delete it, or name another file"
        )
    for name, value in model.state_dict().items():
        value.copy_(tensors[f"weight.{name}"])
    for name, p in model.named_parameters():
        for key in "momentum_buffer", "exp_avg", "exp_avg_sq", "step":
            if (value := tensors.get(f"{key}.{name}")) is not None:
                optimizer.state[p][key] = value if key == "step" else value.to(p.device)
    return tensors["epochs"].tolist()
