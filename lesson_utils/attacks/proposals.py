"""Adversaries that need not be close yet: DeepFool, walks on spheres, a penalty method."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..autograd import leaf_and_logits, norm, per_sample, ranking
from .common import (
    Task,
    advance,
    ascent,
    bisect,
    boundary,
    decides_otherwise,
    is_adversarial,
    unit,
    without_twins,
)


def deepfool(task: Task, steps: int = 50, *, start: Tensor | None = None) -> Tensor:
    """Step to the nearest linearized boundary until the decision changes, from x or `start`."""
    y = (task.x if start is None else start).clone()
    active = torch.arange(len(y), device=y.device)
    for k in range(steps):
        part, here = task.of(active), y[active]
        # For an affine classifier the first step is the last: there the nearest may be a weak rival's.
        step = _to_nearest_boundary(part, here, rivals=10 if k == 0 else 3)
        y[active], fooled = advance(part, here, step)
        active = active[~fooled]
        if len(active) == 0:
            break
    return y


def _to_nearest_boundary(task: Task, y: Tensor, rivals: int) -> Tensor:
    """Step from y to the nearest of the linearized boundaries with some rivals, and a little beyond it."""
    leaf, logits = leaf_and_logits(task.model, y)
    logits = without_twins(task, y, logits)
    strongest = ranking(logits, task.label)[:, 1:][:, :rivals]
    nearest, direction = torch.full_like(task.length, torch.inf), torch.zeros_like(y)
    for k, rival in enumerate(strongest.unbind(1), start=1):
        distance, normal = boundary(logits, leaf, task.label, rival, keep=k < strongest.shape[1])
        closer = distance.abs() < nearest
        nearest = torch.where(closer, distance.abs(), nearest)
        direction = torch.where(per_sample(closer, y), -normal, direction)
    # 2 % overshoot, and a part of the unit so that a tie does not stall the walk
    stride = torch.where(nearest.isfinite(), 1.02 * nearest + 1e-3 * task.length, 0.0)
    return per_sample(stride, y) * direction


def leaping_walk(
    task: Task, best: Tensor, *, start: Tensor, spread: float, rival: Tensor | None = None
) -> Tensor:
    """Ascend the loss on a sphere whose radius shrinks when fooled and grows when not; NaN for no adversary.

    DDN, with first steps that leap out of the valley where `best` lies, and last ones a two-hundredth of
    them. It sets out from `start`; the first radius is that of `best`, or where there is none the
    unit of length. The spread of the scores at which the loss is taken goes from
    `spread` to 30: in the end the strongest rival counts alone, see :func:`.common.ascent`; or
    `rival`, `(batch,)`, from the beginning.
    """
    steps, x, nearest, first = 20, task.x, _Nearest(task), norm(best - task.x)
    known = first.isfinite()
    delta = torch.where(per_sample(known, start), start, x) - x
    first = radius = torch.where(known, first, task.length)
    for step in range(steps):
        done = _done(step, steps)
        share, level = 0.1 - 0.09 * done, spread ** (1 - done) * 30**done
        direction, fooled, finite = ascent(task, x + delta, spread=level, rival=rival)
        nearest.offer(delta, fooled)
        # Where the scores are no numbers there is no direction: half the way back.
        longer = torch.where(finite, (1 + share) * radius, radius / 2)
        radius = torch.where(fooled, (1 - share) * radius, longer)
        ahead = delta + per_sample((2 - 1.99 * done) * first, x) * direction
        delta = task.clip(x + per_sample(radius, x) * unit(ahead)[2]) - x
    return x + nearest.delta


def elsewhere(task: Task, y: Tensor, seed: int) -> Tensor:
    """A point about as far from x as y, in a random direction; after an even seed it still leans to y.

    The noise is the same for every sample, so that none depends on its company.
    """
    x, noise = task.x, _noise(task.x[:1].shape, _generator(seed))
    share = 10 if seed % 2 else 3
    direction = unit(unit(y - x)[2] + share * unit(noise)[2].to(x))[2]
    return task.clip(x + per_sample(norm(y - x), x) * direction)


def _generator(seed: int) -> torch.Generator:
    return torch.Generator("cpu").manual_seed(seed)


def _noise(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Normal numbers: the same on every device, and whatever dtype and device are the default ones."""
    return torch.randn(shape, generator=generator, dtype=torch.float64, device="cpu")


def penalty_method(task: Task, steps: int = 30) -> Tensor:
    """Descend ‖v‖² + c · max(0, margin) with momentum, v = (y − x)/length; NaN for no adversary.

    It is the objective of Carlini and Wagner. c, which they search for in an outer loop, grows at each
    step where y does not fool and shrinks where it does, and of the margin's gradient the
    direction alone counts: so neither the units of x nor those of the scores matter. As in
    augmented Lagrangian attacks (ALMA) an adversary is still driven a little, and so it does not
    fall back across the boundary at the next step. The steps are half a unit long at the beginning,
    a two-hundredth at the end; their direction is the mean of about the last five gradients.
    """
    x, length, nearest = task.x, per_sample(task.length, task.x), _Nearest(task)
    v, c, momentum = torch.zeros_like(x), torch.full_like(task.length, 2.0), torch.zeros_like(x)
    for step in range(steps):
        y = task.clip(x + length * v)
        leaf, logits = leaf_and_logits(task.model, y)
        fooled = decides_otherwise(task, y, logits)
        nearest.offer(y - x, fooled)
        v = (y - x) / length
        _, normal = boundary(without_twins(task, y, logits), leaf, task.label)
        drive = torch.where(fooled, 0.3 * c, c)
        momentum = momentum.lerp(2 * v + per_sample(drive, v) * normal, max(1 / 5, 1 / (step + 1)))
        c = torch.where(fooled, 0.9 * c, 1.1 * c)
        v = v - 0.5 * (1 - 0.99 * _done(step, steps)) * unit(momentum)[2]
    return x + nearest.delta


def _done(step: int, steps: int) -> float:
    """From 0 to 1, slowly at both ends: a cosine schedule."""
    return (1 - math.cos(math.pi * step / steps)) / 2


class _Nearest:
    """The shortest step from x to an adversary so far; NaN before the first."""

    def __init__(self, task: Task):
        self.delta = torch.full_like(task.x, torch.nan)
        self.norm = torch.full_like(task.length, torch.inf)

    def offer(self, delta: Tensor, fooled: Tensor) -> None:
        """Keep `delta` where it fools and is shorter."""
        size = norm(delta)
        keep = fooled & (size < self.norm)
        self.norm = torch.where(keep, size, self.norm)
        self.delta = torch.where(per_sample(keep, delta), delta, self.delta)


def around(task: Task, y: Tensor, *, points: int = 256, rounds: int = 8) -> Tensor:
    """Nearer adversaries among random points of the ball around x that y bounds.

    They scatter about y, from a thousandth of its distance up to the distance itself. The
    noise is the same for every sample, so that none depends on its company.
    """
    x, generator = task.x, _generator(0)
    share = torch.linspace(0, 1, points, dtype=torch.float32, device="cpu")
    for _ in range(rounds):
        radius = norm(y - x)
        noise = _noise((points, *x[0].shape), generator)
        noise *= 10 ** (-3 * share**2).view(-1, *[1] * (x.ndim - 1))
        offsets = (y - x) + per_sample(radius, x) * noise.to(x)[:, None]
        size = norm(offsets.flatten(0, 1)).view(points, -1) / radius
        inside = offsets * (0.999 / size.clamp(min=1)).view(points, -1, *[1] * (x.ndim - 1))
        found = nearest_of(task, task.clip(x + inside))
        known = found.flatten(1).isfinite().all(1)
        y = torch.where(per_sample(known, y), bisect(task, found, halvings=6), y)
    return y


def far_and_wide(task: Task, directions: int = 16) -> Tensor:
    """The nearest adversary in a few random directions, at lengths that double; NaN for none.

    Needs no gradient: for samples around which the scores are constant.
    """
    x, found = task.x, torch.full_like(task.x, torch.nan)
    rays = unit(_noise((directions, *x[0].shape), _generator(0)))[2].to(x)[:, None]
    for k in range(-6, 12):
        size = per_sample(2.0**k * task.length, x)
        missing = per_sample(~found.flatten(1).isfinite().all(1), x)
        found = torch.where(missing, nearest_of(task, task.clip(x + size * rays)), found)
    return bisect(task, found, halvings=6)


def in_ball(task: Task, y: Tensor, points: int) -> Tensor:
    """Random points, `(points, batch, *input_shape)`, of the ball around x that y bounds.

    As many in each part of it, of equal volume; the same for every sample but for the radius.
    """
    x, generator = task.x, _generator(1)
    directions = unit(_noise((points, *x[0].shape), generator))[2]
    share = torch.rand(points, generator=generator, dtype=torch.float64, device="cpu")
    inside = per_sample(share ** (1 / x[0].numel()), directions) * directions
    return task.clip(x + per_sample(norm(y - x), x) * inside.to(x)[:, None])


def nearest_of(task: Task, points: Tensor) -> Tensor:
    """Of `points`, `(k, batch, *input_shape)`, the nearest adversary of each sample; NaN for none."""
    k, batch = points.shape[:2]
    samples = torch.arange(batch, device=points.device)
    many, points = task.of(samples.repeat(k)), points.flatten(0, 1)
    distance = torch.where(is_adversarial(many, points), norm(points - many.x), torch.inf)
    least, first = distance.view(k, batch).min(0)
    nearest = points[first * batch + samples]
    return torch.where(per_sample(least.isfinite(), nearest), nearest, torch.nan)
