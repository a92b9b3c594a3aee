"""Adversaries that need not be close yet: DeepFool and DDN."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..autograd import leaf_and_logits, norm, per_sample, ranking
from .common import Task, advance, ascent, bisect, boundary, is_adversarial, unit


def deepfool(task: Task, *, rival: Tensor | None = None, steps: int = 50) -> Tensor:
    """Step to the nearest linearized boundary (or that with `rival`) until the decision changes."""
    y = task.x.clone()
    active = torch.arange(len(y), device=y.device)
    for _ in range(steps):
        part, here = task.of(active), y[active]
        step = _to_nearest_boundary(part, here, None if rival is None else rival[active])
        y[active], fooled = advance(part, here, step)
        active = active[~fooled]
        if len(active) == 0:
            break
    return y


def _to_nearest_boundary(task: Task, y: Tensor, rival: Tensor | None) -> Tensor:
    """Step from y to the nearest of ten linearized boundaries, and a little beyond it."""
    leaf, logits = leaf_and_logits(task.model, y)
    rivals = ranking(logits, task.label)[:, 1:11] if rival is None else rival[:, None]
    nearest, direction = torch.full_like(task.length, torch.inf), torch.zeros_like(y)
    for k, rival in enumerate(rivals.unbind(1), start=1):
        distance, normal = boundary(logits, leaf, task.label, rival, keep=k < rivals.shape[1])
        closer = distance.abs() < nearest
        nearest = torch.where(closer, distance.abs(), nearest)
        direction = torch.where(per_sample(closer, y), -normal, direction)
    # 2 % overshoot, and a part of the unit so that a tie does not stall the walk
    stride = torch.where(nearest.isfinite(), 1.02 * nearest + 1e-3 * task.length, 0.0)
    return per_sample(stride, y) * direction


def ddn(task: Task, steps: int = 60) -> Tensor:
    """The walk that is usual, without the last of its hundred steps: pulling in takes fewer.

    Its leaps and its spread of scores depend on x little; see :func:`walk`.
    """
    usual = (1 / task.length).clamp(1 / 30, 30) * task.length  # 1, unless that is out of proportion
    own = (0.1, 1e3), (0.1, 1e3)
    pace = {"leaps": (1, 0.01), "change": (0.05, 0.05), "spread": own}
    return walk(task, task.x, usual, 100, until=steps, **pace)


def walk(
    task: Task,
    start: Tensor,
    first: Tensor,
    steps: int,
    *,
    leaps: tuple[float, float],
    change: tuple[float, float],
    spread: tuple[tuple[float, float], tuple[float, float]],
    until: int | None = None,
) -> Tensor:
    """Ascend the loss on a sphere whose radius shrinks when fooled and grows when not; NaN for no adversary.

    The first radius is `first`. Each pair is a value at the beginning and one at the end: of the
    length of a step in units of `first`, of the share by which the radius changes, and of the
    spread of the scores, or its limits, at which the loss is taken (see :func:`.common.ascent`).
    """
    x, delta, radius = task.x, start - task.x, first
    best, best_norm = torch.full_like(x, torch.nan), torch.full_like(task.length, torch.inf)
    for step in range(steps if until is None else until):
        done = (1 - math.cos(math.pi * step / steps)) / 2  # from 0 to 1
        leap, share = ((1 - done) * a + done * b for a, b in (leaps, change))
        limits = tuple(a ** (1 - done) * b**done for a, b in zip(*spread, strict=True))
        direction, fooled, finite = ascent(task, x + delta, spread=limits)
        size = norm(delta)
        keep = fooled & (size < best_norm)
        best_norm = torch.where(keep, size, best_norm)
        best = torch.where(per_sample(keep, x), delta, best)
        # Where the scores are no numbers there is no direction: half the way back.
        longer = torch.where(finite, 1 + share, 0.5)
        radius = radius * torch.where(fooled, 1 - share, longer)
        ahead = delta + per_sample(leap * first, x) * direction
        delta = task.clip(x + per_sample(radius, x) * unit(ahead)[2]) - x
    return x + best


def around(task: Task, y: Tensor, *, points: int = 256, rounds: int = 8) -> Tensor:
    """Nearer adversaries among random points of the ball around x that y bounds.

    They scatter about y, from a thousandth of its distance up to the distance itself. The
    noise is the same for every sample, so that none depends on its company.
    """
    x, generator = task.x, torch.Generator().manual_seed(0)
    for _ in range(rounds):
        radius = norm(y - x)
        noise = torch.randn(points, *x[0].shape, generator=generator, dtype=torch.float64)
        noise *= 10 ** (-3 * torch.linspace(0, 1, points) ** 2).view(-1, *[1] * (x.ndim - 1))
        offsets = (y - x) + per_sample(radius, x) * noise.to(x)[:, None]
        size = norm(offsets.flatten(0, 1)).view(points, -1) / radius
        inside = offsets * (0.999 / size.clamp(min=1)).view(points, -1, *[1] * (x.ndim - 1))
        found = _nearest_of(task, task.clip(x + inside))
        known = found.flatten(1).isfinite().all(1)
        y = torch.where(per_sample(known, y), bisect(task, found, halvings=6), y)
    return y


def far_and_wide(task: Task, directions: int = 16) -> Tensor:
    """The nearest adversary in a few random directions, at lengths that double; NaN for none.

    Needs no gradient: for samples around which the scores are constant.
    """
    x, generator = task.x, torch.Generator().manual_seed(0)
    found = torch.full_like(x, torch.nan)
    noise = torch.randn(directions, *x[0].shape, generator=generator, dtype=torch.float64)
    rays = unit(noise)[2].to(x)[:, None]
    for k in range(-6, 12):
        size = per_sample(2.0**k * task.length, x)
        missing = per_sample(~found.flatten(1).isfinite().all(1), x)
        found = torch.where(missing, _nearest_of(task, task.clip(x + size * rays)), found)
    return bisect(task, found, halvings=6)


def _nearest_of(task: Task, points: Tensor) -> Tensor:
    """Of `points`, `(k, batch, *input_shape)`, the nearest adversary of each sample; NaN for none."""
    k, batch = points.shape[:2]
    samples = torch.arange(batch, device=points.device)
    many, points = task.of(samples.repeat(k)), points.flatten(0, 1)
    distance = torch.where(is_adversarial(many, points), norm(points - many.x), torch.inf)
    least, first = distance.view(k, batch).min(0)
    nearest = points[first * batch + samples]
    return torch.where(per_sample(least.isfinite(), nearest), nearest, torch.nan)
