"""The closest adversary that a local search finds, in the Euclidean norm."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from ..autograd import (
    checked_logits,
    inner,
    leaf_and_logits,
    norm,
    per_sample,
    ranked_margins,
    ranking,
)
from ..validation import Bounds, Model, check_bounds
from .common import AttackResult, bisect, clip, is_adversarial
from .proposals import ddn, deepfool


@torch.enable_grad()
def minimal_l2(model: Model, x: Tensor, *, bounds: Bounds | None = None) -> AttackResult:
    """Search the closest input with another decision, in the Euclidean norm.

    DeepFool (free, and towards each of the two strongest rivals) and DDN propose
    adversaries; bisection on the segment to x brings them to the decision boundary, and
    the nearest one is pulled in: the foot of the perpendicular from x to the tangent plane
    of the boundary gives a closer point, and so on until nothing improves. For an affine
    classifier the tangent plane is the boundary, and the result is ρ up to rounding.

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
        labels play no part.

    Raises
    ------
    TypeError, ValueError
        See :func:`lesson_utils.validation.check_input`; also for bounds that are no
        increasing pair or do not contain x.

    References
    ----------
    Moosavi-Dezfooli, Fawzi, Frossard, *DeepFool*, CVPR 2016.
    Rony et al., *Decoupling Direction and Norm* (DDN), CVPR 2019.
    """
    check_bounds(x, bounds)
    _, logits = checked_logits(model, x)
    x, label = x.detach(), logits.argmax(1)
    distance = x.new_full(label.shape, torch.inf)
    adversarial = torch.full_like(x, torch.nan)
    for found in _proposals(model, x, logits.detach(), bounds):
        fooled = is_adversarial(model, found, label)
        found = bisect(model, x, found, label, halvings=8)
        found_at = torch.where(fooled, norm(found - x), torch.inf)
        nearer = found_at < distance
        distance = torch.where(nearer, found_at, distance)
        adversarial = torch.where(per_sample(nearer, x), found, adversarial)
    success = distance.isfinite()
    if success.any():
        adversarial[success] = _pull_in(
            model, x[success], adversarial[success], label[success], bounds
        )
        distance[success] = norm(adversarial[success] - x[success])
    return AttackResult(distance, adversarial, success)


def _proposals(model: Model, x: Tensor, logits: Tensor, bounds: Bounds | None) -> Iterator[Tensor]:
    label = logits.argmax(1)
    yield deepfool(model, x, label, bounds)
    # The nearest boundary by linearization need not be the nearest: try other rivals too.
    for rival in ranking(logits, label)[:, 1:3].unbind(1):
        yield deepfool(model, x, label, bounds, rival=rival, steps=20)
    yield ddn(model, x, label, bounds)


def _pull_in(
    model: Model, x: Tensor, y: Tensor, label: Tensor, bounds: Bounds | None, rounds: int = 30
) -> Tensor:
    """Move adversaries y towards x along the decision boundary, and never further away."""
    damping = torch.ones_like(y.flatten(1)[:, 0])
    active = torch.arange(len(x), device=x.device)
    for _ in range(rounds):
        x_, y_, label_, damping_ = x[active], y[active], label[active], damping[active]
        foot = _foot_on_tangent(model, x_, y_, label_, bounds)
        direction = y_ + per_sample(damping_, x) * (foot - y_) - x_
        radius = norm(y_ - x_)
        # The point at the *present* distance in the new direction: adversarial means progress.
        turned = clip(x_ + per_sample(radius / norm(direction), x) * direction, bounds)
        better = is_adversarial(model, turned, label_)
        improved = active[better]
        if len(improved):
            y[improved] = bisect(model, x_[better], turned[better], label_[better], halvings=8)
        gain = 1 - norm(y[active] - x_) / radius
        damping[active] = torch.where(better, (2 * damping_).clamp(max=1), damping_ / 2)
        active = active[(gain > 1e-3) | (~better & (damping[active] > 0.05))]
        if len(active) == 0:
            break
    eps = torch.finfo(x.dtype).eps
    y = bisect(model, x, y, label, halvings=round(-math.log2(eps)))
    # The last foot is exact where the boundary is flat. Both candidates go a few roundings
    # beyond the boundary, so that the decision there is no matter of luck.
    for candidate in (y, _foot_on_tangent(model, x, y, label, bounds)):
        beyond = clip(x + (1 + 16 * eps) * (candidate - x), bounds)
        better = norm(beyond - x) <= (1 + 32 * eps) * norm(y - x)
        better &= is_adversarial(model, beyond, label)
        y = torch.where(per_sample(better, x), beyond, y)
    return y


def _foot_on_tangent(
    model: Model, x: Tensor, y: Tensor, label: Tensor, bounds: Bounds | None
) -> Tensor:
    """Point nearest to x on the tangent plane at y of the boundary, inside the bounds.

    Plane: {p : m + ⟨w, p − y⟩ = 0} with m the margin at y and w its gradient. The
    nearest point is x + s·w; in a box it is clip(x + s·w), and ⟨w, clip(x + s·w)⟩
    grows with s, so that s is found by bisection.
    """
    leaf, logits = leaf_and_logits(model, y)
    _, margin, w = next(ranked_margins(logits, leaf, reference=label, top_k=1))
    offset = inner(w, y - x) - margin  # the plane is ⟨w, p − x⟩ = offset
    s = offset / norm(w) ** 2
    if bounds is None:
        return x + per_sample(s, x) * w
    # The clipped solution lies further out than the free one: widen, then halve.
    low, high = 1e3 * s.clamp(max=0), 1e3 * s.clamp(min=0)
    for _ in range(40):
        middle = (low + high) / 2
        short = inner(w, clip(x + per_sample(middle, x) * w, bounds) - x) < offset
        low, high = torch.where(short, middle, low), torch.where(short, high, middle)
    return clip(x + per_sample(low, x) * w, bounds)  # the end beyond the plane
