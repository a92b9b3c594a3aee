"""The closest adversary that a local search finds, in the Euclidean norm."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..autograd import inner, leaf_and_logits, norm, per_sample, ranking
from ..validation import Bounds, Model, check_integer
from .common import (
    AttackResult,
    Task,
    as_result,
    ask,
    bisect,
    boundary,
    is_adversarial,
    without_twins,
)
from .proposals import (
    around,
    deepfool,
    elsewhere,
    far_and_wide,
    in_ball,
    leaping_walk,
    nearest_of,
    penalty_method,
)

# Up to so many entries a sample, random points cover the directions.
FEW_DIMENSIONS = 8
# Walks from random points in every search, before those that `restarts` asks for.
WALKS = 2


@torch.inference_mode(False)
def minimal_l2(
    model: Model, x: Tensor, *, bounds: Bounds | None = None, restarts: int = 0
) -> AttackResult:
    """Search the closest input with another decision, in the Euclidean norm.

    DeepFool, four walks like DDN that leap further (two of them from random points), and a penalty
    method with the objective of Carlini and Wagner propose adversaries, and random directions where
    these find none. Each is pulled in, the nearest with precision: the foot of the perpendicular
    from x to the tangent plane of the decision boundary gives a closer point, and so on until nothing
    improves. For an affine classifier the tangent plane is the boundary, and the result is ρ up
    to rounding, where the nearest boundary is that with one of the ten strongest rivals. In a few
    dimensions random points of the ball that is left are tried too, and DeepFool from some of them.

    The distance is an *upper bound* of ρ, and no more: a nearer adversary may lie where no
    descent leads, and a failed search proves nothing. The best of four attacks of adv-lib (ALMA, DDN
    and FMN with a thousand steps each, Carlini and Wagner with nine times three hundred) came
    nearer by more than 1 % at 1 and 6 of 40 images of MNIST for the networks of lesson 9 with
    λ = 0 and 1, in the box, by 2 and 17 % at most. With 30 `restarts` it was 1 and none.

    Up to rounding a sample's result does not depend on the other samples of the batch; random
    points come from a generator of the search's own with a fixed seed.

    Parameters
    ----------
    model : callable
        Maps `(batch, *input_shape)` to logits `(batch, n_classes)`; in eval mode.
    x : Tensor, `(batch, *input_shape)`
    bounds : (float, float), optional
        Admissible range of every entry, e.g. `(0, 1)` for pixels. None: all of R^d.
    restarts : int
        Further walks, each from a random point about as far away as the nearest adversary so far,
        every fourth towards one of the weaker rivals. The distance can only fall; eight of them
        take about as long as the search without.

    Returns
    -------
    AttackResult
        The attack is on the *predicted* class of x, as in the definition of ρ; true
        labels play no part. An adversary has finite scores and another decision, in this
        batch and alone; it lies a few roundings of the scores beyond the boundary. The lead of a
        class that ties with i* at x and has its gradient there (a twin) counts where it is more
        than rounding.

    Raises
    ------
    TypeError, ValueError
        See :func:`lesson_utils.validation.check_input`; also for bounds that are no
        increasing pair or do not contain x (a few roundings are forgiven: x is clipped), and for
        `restarts` that are no integer ≥ 0.

    References
    ----------
    Moosavi-Dezfooli, Fawzi, Frossard, *DeepFool*, CVPR 2016.
    Carlini, Wagner, *Towards evaluating the robustness of neural networks*, S&P 2017.
    Rony et al., *Decoupling Direction and Norm* (DDN), CVPR 2019.
    """
    check_integer("restarts", restarts, least=0)
    task = ask(model, x, bounds)
    best = _nearer(task, torch.full_like(task.x, torch.nan), deepfool(task))
    best = _nearer(task, best, leaping_walk(task, best, start=best, spread=10.0))
    best = _nearer(task, best, leaping_walk(task, best, start=task.x, spread=1.0))
    best = _nearer(task, best, penalty_method(task))
    for k in range(WALKS):
        best = _nearer(task, best, _walk_from_elsewhere(task, best, k))
    failed = ~best.flatten(1).isfinite().all(1)
    if failed.any():
        best[failed] = far_and_wide(task.of(failed))
    if task.x[0].numel() <= FEW_DIMENSIONS:
        best = _each(_from_all_sides, task, _each(around, task, best))
    best = _each(_pull_in, task, best)
    if restarts == 0:
        return as_result(task, best)
    # Only now: what is nearer at first sight may end further away than what it takes the place of.
    for k in range(WALKS, WALKS + restarts):
        best = _nearer(task, best, _walk_from_elsewhere(task, best, k))
    return as_result(task, _each(_pull_in, task, best))


def _walk_from_elsewhere(task: Task, best: Tensor, k: int) -> Tensor:
    """The k-th walk from a random point about as far away as `best`."""
    rival = None
    if k % 4 == 3:  # for a rival that is not the strongest at x: the others seldom end there
        order = ranking(without_twins(task, task.x, -task.margins), task.label)[:, 2:6]
        rival = order[:, k // 4 % order.shape[1]] if order.shape[1] else None
    start = elsewhere(task, best, seed=k)
    return leaping_walk(task, best, start=start, spread=10.0, rival=rival)


def _nearer(task: Task, best: Tensor, found: Tensor) -> Tensor:
    """`best`, or where that is nearer what a proposal `found` becomes after it is pulled in."""
    # Pulling in helps by a fifth, seldom by more: what lies further out is left alone.
    found = bisect(task, found, start=task.x + 0.8 * (found - task.x), halvings=3)
    limit = norm(best - task.x)
    near = is_adversarial(task, found) & ~(norm(found - task.x) > 1.2 * limit)
    rows, best = near.nonzero().flatten(), best.clone()
    if len(rows):
        part = task.of(rows)
        found = _approach(part, found[rows])
        better = is_adversarial(part, found) & ~(norm(found - part.x) >= limit[rows])
        best[rows] = torch.where(per_sample(better, found), found, best[rows])
    return best


def _each(improve, task: Task, y: Tensor) -> Tensor:
    """`improve` the adversaries among the points y, and leave the others."""
    rows = is_adversarial(task, y).nonzero().flatten()
    y = y.clone()
    if len(rows):
        y[rows] = improve(task.of(rows), y[rows])
    return y


def _from_all_sides(task: Task, y: Tensor, points: int = 128) -> Tensor:
    """Adversaries y, or nearer ones: DeepFool from random points of the ball that y bounds."""
    x, starts = task.x, in_ball(task, y, points)
    many = task.of(torch.arange(len(x), device=x.device).repeat(points))
    found = deepfool(many, steps=10, start=starts.flatten(0, 1))
    found = _each(lambda part, at: _approach(part, at, rounds=5), many, found)
    found = nearest_of(task, found.view_as(starts))
    return torch.where(per_sample(norm(found - x) < norm(y - x), x), found, y)


def _pull_in(task: Task, y: Tensor) -> Tensor:
    """Move adversaries y towards x along the decision boundary until nothing improves."""
    y = _approach(task, y, rounds=30, enough=1e-4)
    # where the boundary is flat: its foot, to the last digit
    y = _approach(task, y, rounds=1, enough=0)
    # The boundary is near: the last of ten halvings between x and y would begin about here.
    start = task.x + 0.999 * (y - task.x)
    return bisect(task, y, start=start, halvings=round(-math.log2(torch.finfo(y.dtype).eps)) - 10)


def _approach(task: Task, y: Tensor, *, rounds: int = 10, enough: float = 1e-2) -> Tensor:
    """Move adversaries y towards x along the decision boundary, and never further away.

    The foot of the perpendicular from x to the tangent plane of the boundary is nearer than y,
    and so is the whole segment between them: y moves as far along it as it stays an adversary.
    The next plane is that where the segment left the adversaries, on the other side of a kink.
    A sample rests when the foot is nearer by less than the share `enough` of its distance, or
    when two rounds in a row gained less.
    """
    y, place, tired = y.clone(), y.clone(), torch.zeros_like(task.label, dtype=torch.bool)
    active = torch.arange(len(y), device=y.device)
    for _ in range(rounds):
        part, here = task.of(active), y[active]
        radius, foot = norm(here - part.x), _foot_on_tangent(part, place[active])
        near = norm(foot - part.x) < (1 - enough) * radius
        active, radius, here, foot = active[near], radius[near], here[near], foot[near]
        if len(active) == 0:
            break
        inside, outside = _last_crossing(task.of(active), foot, here)
        y[active], place[active] = inside, outside
        lame = 1 - norm(inside - task.x[active]) / radius < enough
        resting = lame & tired[active]
        tired[active] = lame
        active = active[~resting]
        if len(active) == 0:
            break
    return y


def _last_crossing(task: Task, foot: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """On the segment from `foot` to the adversary y: an adversary, and a point just not one; twice `foot` if that is one."""
    inside, outside = foot.clone(), foot.clone()
    rows = (~is_adversarial(task, foot)).nonzero().flatten()
    if len(rows):
        part, low, way = task.of(rows), foot[rows], y[rows] - foot[rows]
        inside[rows] = bisect(part, y[rows], start=low, halvings=2)
        outside[rows] = inside[rows] - way / 2**2
    return inside, outside


def _foot_on_tangent(task: Task, y: Tensor) -> Tensor:
    """Point nearest to x on the tangent plane at y of the boundary, inside the bounds.

    A few roundings beyond the plane: where the boundary is flat the foot is an adversary.

    Plane: {p : m + ⟨w, p − y⟩ = 0} with m the margin at y and w its gradient. With the unit
    vector n = w/‖w‖ it is {p : ⟨n, p − x⟩ = s}, s = ⟨n, y − x⟩ − m/‖w‖, and the nearest
    point is x + s·n. In a box it is clip(x + t·n); ⟨n, clip(x + t·n) − x⟩ grows with t,
    so that t is found by bisection.
    """
    leaf, logits = leaf_and_logits(task.model, y)
    roundings = 16 * torch.finfo(y.dtype).eps
    lead = 16 * torch.finfo(logits.dtype).eps * logits.abs().amax(1)
    distance, n = boundary(without_twins(task, y, logits), leaf, task.label, lead=lead)
    s = inner(n, y - task.x) - distance - roundings * norm(y)
    if task.bounds is None:
        return task.x + per_sample(s, y) * n
    # The clipped solution lies further out than the free one: widen, then halve.
    low, high = 1e3 * s.clamp(max=0), 1e3 * s.clamp(min=0)
    for _ in range(40):
        middle = (low + high) / 2
        short = inner(n, task.clip(task.x + per_sample(middle, y) * n) - task.x) < s
        low, high = torch.where(short, middle, low), torch.where(short, high, middle)
    return task.clip(task.x + per_sample(low, y) * n)  # the end beyond the plane
