"""Training, plain and robust (double backpropagation)."""

from __future__ import annotations

import copy
import json
import math
import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap
from torch.nn.functional import cross_entropy


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


class History(NamedTuple):
    """How the training of one model went."""

    losses: list[float]
    """Mean of the whole objective over each epoch."""
    diverged: int | None
    """First epoch (counted from 0) that ended with a loss or weight that is not finite."""
    seconds: float
    """Wall-clock time of all models that were trained together, interruptions left out."""


def train(
    models: Sequence[nn.Module],
    x: Tensor,
    y: Tensor,
    *,
    strengths: Sequence[float],
    seeds: Sequence[int],
    recipe: Recipe,
    checkpoint: Path | None = None,
    progress: bool = False,
) -> list[History]:
    """Train models in place by double backpropagation, each with its own λ; leave them in eval mode.

    One model is trained by the plain loop. Several are trained together, as one
    batched network (`torch.func.vmap`): up to rounding and the draws of dropout the result
    is that of one after the other. A model that diverges does not disturb the others.

    Parameters
    ----------
    models : sequence of nn.Module
        Of one architecture, without batch normalisation in train mode; on the device of `x`.
    x, y : Tensor
        Training images and labels.
    strengths, seeds : sequence
        λ of :func:`gradient_penalty_loss` and the seed of the order of the batches, one a
        model. Dropout follows the seed of the first.
    recipe : Recipe
    checkpoint : Path, optional
        File that holds the state after each epoch. If it exists training continues from
        it. On a CPU the weights are then bit for bit those of an uninterrupted run:
        all that is random in an epoch follows from the seed and the number of the epoch.
    progress : bool
        Show a progress bar (tqdm).

    Returns
    -------
    list of History

    Raises
    ------
    ValueError
        `models`, `strengths` and `seeds` are not of one length ≥ 1, a strength is
        negative, or the checkpoint is of another training.
    """
    from tqdm.auto import tqdm

    if not len(models) == len(strengths) == len(seeds) >= 1:
        raise ValueError("train needs at least one model, and one strength and one seed a model")
    if not all(strength >= 0 for strength in strengths):
        raise ValueError(f"strengths must be numbers ≥ 0, got {list(strengths)}")
    team = _Single(*models, *strengths) if len(models) == 1 else _Team(models, strengths)
    optimizer = torch.optim.SGD(
        team.parameters.values(),
        lr=recipe.learning_rate,
        momentum=recipe.momentum,
        weight_decay=recipe.weight_decay,
    )
    identity = json.dumps([asdict(recipe), list(strengths), list(seeds), len(x)])
    epochs = _resume(checkpoint, identity, team.parameters, optimizer)  # rows: seconds, losses
    batches = math.ceil(len(x) / recipe.batch_size)
    bar = tqdm(
        desc=f"λ = {', '.join(map(str, strengths))}"[:40],
        total=recipe.epochs * batches,
        initial=len(epochs) * batches,
        disable=not progress,
    )
    with torch.random.fork_rng(devices=[x.device] if x.is_cuda else []), bar:
        while len(epochs) < recipe.epochs and not _all_diverged(epochs):
            began = time.perf_counter()
            order = _start_epoch(len(epochs), seeds, len(x)).to(x.device)
            decay = recipe.decay_factor ** (len(epochs) // recipe.decay_every)
            optimizer.param_groups[0]["lr"] = recipe.learning_rate * decay
            losses = _epoch(team, optimizer, x, y, order.split(recipe.batch_size, 1), bar)
            epochs.append([time.perf_counter() - began, *losses])
            _save(checkpoint, identity, team.parameters, optimizer, epochs)
    team.hand_back()
    seconds = sum(row[0] for row in epochs)
    return [_history([row[m] for row in epochs], seconds) for m in range(1, len(models) + 1)]


class _Single:
    """One model and its objective."""

    def __init__(self, model: nn.Module, strength: float):
        # this memory format makes the convolutions faster on a CPU
        self.model = model.to(memory_format=torch.channels_last).train()
        self.strength = strength
        self.parameters = dict(model.named_parameters())

    def objectives(self, x: Tensor, y: Tensor) -> Tensor:
        return gradient_penalty_loss(self.model, x[0], y[0], self.strength)[0].unsqueeze(0)

    def hand_back(self) -> None:
        self.model.eval()


class _Team:
    """Several models as one: weights, images and objectives have a leading axis of models."""

    def __init__(self, models: Sequence[nn.Module], strengths: Sequence[float]):
        self.models = [model.train() for model in models]
        self.parameters, self.buffers = stack_module_state(self.models)
        self.skeleton = copy.deepcopy(models[0]).to("meta")
        self.strengths = torch.as_tensor(strengths).to(next(iter(self.parameters.values())))

    def _forward(self, parameters, buffers, x: Tensor) -> Tensor:
        return functional_call(self.skeleton, (parameters, buffers), (x,))

    def objectives(self, x: Tensor, y: Tensor) -> Tensor:
        x = x.detach().requires_grad_(True)
        forward = vmap(self._forward, randomness="different")
        logits = forward(self.parameters, self.buffers, x)
        losses = cross_entropy(logits.flatten(0, 1), y.flatten(), reduction="none").view_as(y)
        (grad,) = torch.autograd.grad(losses.sum(), x, create_graph=True)
        return losses.mean(1) + self.strengths * grad.flatten(2).square().sum(2).mean(1)

    @torch.no_grad()
    def hand_back(self) -> None:
        for m, model in enumerate(self.models):
            for name, parameter in model.eval().named_parameters():
                parameter.copy_(self.parameters[name][m])


def _start_epoch(epoch: int, seeds: Sequence[int], n: int) -> Tensor:
    """Seed dropout and draw the orders of the n images, `(models, n)`, from (seed, epoch) alone."""
    state = np.random.SeedSequence([seeds[0], epoch]).generate_state(1, np.uint64)
    torch.manual_seed(int(state[0]))
    orders = [np.random.default_rng([seed, epoch]).permutation(n) for seed in seeds]
    return torch.as_tensor(np.stack(orders))


def _epoch(team, optimizer, x: Tensor, y: Tensor, batches, bar) -> list[float]:
    """One pass over the data; mean objective of each model, NaN where its weights are not finite."""
    total = 0.0
    for batch in batches:  # indices, `(models, batch)`
        optimizer.zero_grad()
        objectives = team.objectives(x[batch], y[batch])
        objectives.sum().backward()  # models share no weights: each gets its own gradient
        optimizer.step()
        total = total + objectives.detach().double() * batch.shape[1]
        bar.update()
    for parameter in team.parameters.values():  # 0 · finite = 0, 0 · inf = NaN
        total = total + (0 * parameter.detach().reshape(len(total), -1)).sum(1)
    return (total / len(x)).tolist()


def _all_diverged(epochs: list[list[float]]) -> bool:
    return bool(epochs) and not any(map(math.isfinite, epochs[-1][1:]))


def _history(losses: list[float], seconds: float) -> History:
    diverged = next((e for e, loss in enumerate(losses) if not math.isfinite(loss)), None)
    return History(losses[:diverged], diverged, seconds)


def write(path: Path, content: bytes) -> None:
    """Replace a file at one stroke: a reader, at any moment, finds the old or the new content."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(path.name + ".part")
    unfinished.write_bytes(content)
    os.replace(unfinished, path)


def _save(checkpoint: Path | None, identity: str, parameters, optimizer, epochs) -> None:
    if checkpoint is None:
        return
    from safetensors.torch import save

    tensors = {"epochs": torch.tensor(epochs, dtype=torch.float64)}
    for name, p in parameters.items():
        tensors[f"weight.{name}"] = p.detach().contiguous()
        if optimizer.defaults["momentum"]:
            tensors[f"momentum.{name}"] = optimizer.state[p]["momentum_buffer"].contiguous()
    write(checkpoint, save(tensors, metadata={"training": identity}))


@torch.no_grad()
def _resume(checkpoint: Path | None, identity: str, parameters, optimizer) -> list[list[float]]:
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
        for name, p in parameters.items():
            p.copy_(stored.get_tensor(f"weight.{name}"))
            if optimizer.defaults["momentum"]:
                momentum = stored.get_tensor(f"momentum.{name}")
                optimizer.state[p]["momentum_buffer"] = torch.empty_like(p).copy_(momentum)
        return stored.get_tensor("epochs").tolist()


@torch.no_grad()
def accuracy(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """Share of samples whose predicted class is `y`."""
    return (model(x).argmax(1) == y).double().mean().item()
