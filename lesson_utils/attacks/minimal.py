"""The closest adversary that a local search finds, in the Euclidean norm."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from ..autograd import inner, leaf_and_logits, norm, per_sample, ranking
from ..validation import Bounds, Model
from .common import AttackResult, Task, as_result, ask, bisect, boundary, is_adversarial, scores
from .proposals import around, ddn, deepfool, far_and_wide

# Up to so many entries a sample, random points cover the directions.
FEW_DIMENSIONS = 8


@torch.inference_mode(False)
def minimal_l2(model: Model, x: Tensor, *, bounds: Bounds | None = None) -> AttackResult:
    """Search the closest input with another decision, in the Euclidean norm.

    DeepFool (free, and towards each of the two strongest rivals) and DDN propose
    adversaries, and random directions where these find none. Each is pulled in, the nearest
    with precision: bisection on the segment to x brings it to the decision boundary; the
    foot of the perpendicular from x to the tangent plane of the boundary gives a closer
    point, and so on until nothing improves. For an affine classifier the tangent plane is
    the boundary, and the result is ρ up to rounding. In a few dimensions random points of
    the ball that is left are tried too.

    The distance is an *upper bound* of ρ, and no more: a nearer adversary may lie where no
    descent leads, and a failed search proves nothing. Up to rounding a sample's result does
    not depend on the other samples of the batch; random points come from a generator of the
    search's own with a fixed seed.

    Parameters
    ----------
    model : callable
        Maps `(batch, *input_shape)` to logits `(batch, n_classes)`; in eval mode.
    x : Tensor, `(batch, *input_shape)`
    bounds : (float, float), optional
        Admissible range of every entry, e.g. `(0, 1)` for pixels. None: all of R^d.

    Returns
    -------
    AttackResult
        The attack is on the *predicted* class of x, as in the definition of ρ; true
        labels play no part. An adversary has finite scores and another decision, in this
        batch and alone; it lies a few roundings of the scores beyond the boundary.

    Raises
    ------
    TypeError, ValueError
        See :func:`lesson_utils.validation.check_input`; also for bounds that are no
        increasing pair or do not contain x (a few roundings are forgiven: x is clipped).

    References
    ----------
    Moosavi-Dezfooli, Fawzi, Frossard, *DeepFool*, CVPR 2016.
    Rony et al., *Decoupling Direction and Norm* (DDN), CVPR 2019.
    """
    task = ask(model, x, bounds)
    best = torch.full_like(task.x, torch.nan)
    for found in _proposals(task):
        found = bisect(task, found, halvings=5)
        # Pulling in helps by a fifth, seldom by more: what lies further out is left alone.
        hopeless = norm(found - task.x) > 1.2 * norm(best - task.x)
        found = torch.where(per_sample(hopeless, found), torch.nan, found)
        best = _nearer(task, best, _each(_approach, task, found))
    failed = ~best.flatten(1).isfinite().all(1)
    if failed.any():
        best[failed] = far_and_wide(task.of(failed))
    if task.x[0].numel() <= FEW_DIMENSIONS:
        best = _each(around, task, best)
    return as_result(task, _each(_pull_in, task, best))


def _proposals(task: Task) -> Iterator[Tensor]:
    yield deepfool(task)
    # The nearest boundary by linearization need not be the nearest: try other rivals too.
    for rival in ranking(scores(task, task.x), task.label)[:, 1:3].unbind(1):
        yield deepfool(task, rival=rival, steps=20)
    yield ddn(task)


def _nearer(task: Task, y: Tensor, other: Tensor) -> Tensor:
    """Of two points a sample the adversary that is nearer to x; y where `other` is none."""
    nearer = is_adversarial(task, other) & ~(norm(other - task.x) >= norm(y - task.x))
    return torch.where(per_sample(nearer, y), other, y)


def _each(improve, task: Task, y: Tensor) -> Tensor:
    """`improve` the adversaries among the points y, and leave the others."""
    rows = is_adversarial(task, y).nonzero().flatten()
    y = y.clone()
    if len(rows):
        y[rows] = improve(task.of(rows), y[rows])
    return y


def _pull_in(task: Task, y: Tensor) -> Tensor:
    """Move adversaries y towards x along the decision boundary until nothing improves."""
    y = _approach(task, y, rounds=30, enough=1e-3, patience=0.05, halvings=6)
    return bisect(task, y, halvings=round(-math.log2(torch.finfo(y.dtype).eps)))


def _approach(
    task: Task,
    y: Tensor,
    *,
    rounds: int = 6,
    enough: float = 3e-2,
    patience: float = 0.2,
    halvings: int = 4,
) -> Tensor:
    """Move adversaries y towards x along the decision boundary, and never further away.

    A sample rests when a round gains less than the share `enough` of its distance, and
    after failures when its steps are damped below `patience`.
    """
    y, damping = y.clone(), torch.ones_like(task.length)
    active = torch.arange(len(y), device=y.device)
    for _ in range(rounds):
        part, here, damped = task.of(active), y[active], damping[active]
        radius = norm(here - part.x)
        foot = _foot_on_tangent(part, here)
        direction = here + per_sample(damped, y) * (foot - here) - part.x
        # The point at the *present* distance in the new direction: adversarial means progress.
        turned = part.clip(part.x + per_sample(radius / norm(direction), y) * direction)
        # Where the boundary is flat the foot is best, a few roundings beyond.
        foot = part.clip(part.x + (1 + 16 * torch.finfo(y.dtype).eps) * (foot - part.x))
        flat = is_adversarial(part, foot) & (norm(foot - part.x) < radius)
        better = flat | is_adversarial(part, turned)
        improved = active[better & ~flat]
        if len(improved):
            turned = turned[better & ~flat]
            y[improved] = bisect(task.of(improved), turned, halvings=halvings)
        y[active[flat]] = foot[flat]
        gain = 1 - norm(y[active] - part.x) / radius
        damping[active] = torch.where(better, (2 * damped).clamp(max=1), damped / 2)
        active = active[(gain > enough) | (~better & (damping[active] > patience))]
        if len(active) == 0:
            break
    return y


def _foot_on_tangent(task: Task, y: Tensor) -> Tensor:
    """Point nearest to x on the tangent plane at y of the boundary, inside the bounds.

    Plane: {p : m + ⟨w, p − y⟩ = 0} with m the margin at y and w its gradient. With the unit
    vector n = w/‖w‖ it is {p : ⟨n, p − x⟩ = s}, s = ⟨n, y − x⟩ − m/‖w‖, and the nearest
    point is x + s·n. In a box it is clip(x + t·n); ⟨n, clip(x + t·n) − x⟩ grows with t,
    so that t is found by bisection.
    """
    leaf, logits = leaf_and_logits(task.model, y)
    distance, n = boundary(logits, leaf, task.label)
    s = inner(n, y - task.x) - distance
    if task.bounds is None:
        return task.x + per_sample(s, y) * n
    # The clipped solution lies further out than the free one: widen, then halve.
    low, high = 1e3 * s.clamp(max=0), 1e3 * s.clamp(min=0)
    for _ in range(40):
        middle = (low + high) / 2
        short = inner(n, task.clip(task.x + per_sample(middle, y) * n) - task.x) < s
        low, high = torch.where(short, middle, low), torch.where(short, high, middle)
    return task.clip(task.x + per_sample(low, y) * n)  # the end beyond the plane
