"""Attacks: adversarial examples as upper bounds of the robustness ρ(x).

An attack that finds F(x + e) ≠ F(x) proves ρ(x) ≤ ‖e‖ and nothing more. The
definition of ρ knows no box, so the default searches all of R^d; `bounds=(0, 1)`
keeps the adversary an image and can only make the distance larger.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from .extras import needed_by
from .gradients import (
    Model,
    attach,
    forward,
    gradient,
    inner,
    margin_gradient,
    norm,
    per_sample,
    pick,
    ranked_margins,
    ranking,
)

Bounds = tuple[float, float]


class AttackResult(NamedTuple):
    """Result of an attack."""

    distance: Tensor
    """`(batch,)`: ‖adversarial − x‖, an upper bound of ρ(x); +inf where the attack failed."""
    adversarial: Tensor
    """`(batch, *input_shape)`: classified differently from x; NaN where the attack failed."""
    success: Tensor
    """`(batch,)` of bool."""


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
        See :func:`lesson_utils.gradients.check_input`; also for bounds that are no
        increasing pair or do not contain x.

    References
    ----------
    Moosavi-Dezfooli, Fawzi, Frossard, *DeepFool*, CVPR 2016.
    Rony et al., *Decoupling Direction and Norm* (DDN), CVPR 2019.
    """
    _check_bounds(x, bounds)
    _, logits = forward(model, x)
    x, label = x.detach(), logits.argmax(1)
    distance = x.new_full(label.shape, torch.inf)
    adversarial = torch.full_like(x, torch.nan)
    for found in _proposals(model, x, logits.detach(), bounds):
        fooled = _fooled(model, found, label)
        found = _bisect(model, x, found, label, halvings=8)
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


def line_search(model: Model, x: Tensor) -> AttackResult:
    """Gradient attack: leave x in the direction in which its loss grows fastest, and no other.

    The direction is that of the gradient of the cross-entropy at x; the step is the first
    that changes the decision, found by a grid of lengths (10 % apart, up to 4‖x‖) and bisection.
    Searches all of R^d. Parameters, result and errors: as :func:`minimal_l2`.
    """
    _, logits = forward(model, x)
    x, label = x.detach(), logits.argmax(1)
    direction, _ = _ascent(model, x, label)
    before, after, found = x, x, torch.zeros_like(label, dtype=torch.bool)
    for k in range(90):
        here = x + per_sample(1e-3 * 1.1**k * norm(x), x) * direction
        before = torch.where(per_sample(found, x), before, after)
        after = torch.where(per_sample(found, x), after, here)
        found |= _fooled(model, after, label)
        if found.all():
            break
    return _result(model, x, _bisect(model, before, after, label, halvings=12), label)


def projected_gradient(
    model: Model, x: Tensor, *, steps: int = 20, rounds: int = 10
) -> AttackResult:
    """Projected gradient descent in balls around x, with a bisection over their radius ε.

    In each ball the loss is ascended from x, by steps of ε/4 in the direction of its
    gradient. The radius begins at ‖x‖/10, doubles until the decision changes, and is then
    bisected: `rounds` balls in all. Searches all of R^d. Parameters, result and errors: as
    :func:`minimal_l2`. (foolbox has the attack too, with one ε for all samples of a batch.)

    References
    ----------
    Madry et al., *Towards deep learning models resistant to adversarial attacks*, ICLR 2018.
    """
    _, logits = forward(model, x)
    x, label = x.detach(), logits.argmax(1)
    best, low = x, torch.zeros_like(norm(x))
    high = torch.full_like(low, torch.inf)
    for _ in range(rounds):
        radius = torch.where(high.isfinite(), (low + high) / 2, (2 * low).clamp(min=norm(x) / 10))
        y = _ascend_in_ball(model, x, label, radius, steps)
        fooled = _fooled(model, y, label)
        low, high = torch.where(fooled, low, radius), torch.where(fooled, norm(y - x), high)
        best = torch.where(per_sample(fooled, x), y, best)
    return _result(model, x, best, label)


def _ascend_in_ball(model: Model, x: Tensor, label: Tensor, radius: Tensor, steps: int) -> Tensor:
    y = x.clone()
    active = torch.arange(len(x), device=x.device)
    for _ in range(steps):
        direction, fooled = _ascent(model, y[active], label[active])
        active, direction = active[~fooled], direction[~fooled]
        if len(active) == 0:
            break
        move = y[active] - x[active] + per_sample(radius[active] / 4, x) * direction
        shrink = (radius[active] / norm(move)).clamp(max=1)  # back into the ball
        y[active] = x[active] + per_sample(shrink, x) * move
    return y


def _ascent(model: Model, x: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
    """Unit vector in which the cross-entropy ℓ grows fastest (0 for no gradient), and if x fools.

    Taken from log(e^ℓ − 1) = log Σ_{j≠label} e^{Ψ^j} − Ψ^label, whose gradient has the same
    direction: that of ℓ itself rounds to nothing where the network is sure of itself.
    """
    leaf, logits = attach(model, x)
    rivals = logits.scatter(1, label[:, None], -torch.inf).logsumexp(1)
    grad = gradient(rivals - pick(logits, label), leaf)
    length = norm(grad).clamp(min=torch.finfo(x.dtype).tiny)
    return grad / per_sample(length, x), logits.argmax(1) != label


def _result(model: Model, x: Tensor, found: Tensor, label: Tensor) -> AttackResult:
    success = _fooled(model, found, label)
    distance = torch.where(success, norm(found - x), torch.inf)
    return AttackResult(distance, torch.where(per_sample(success, x), found, torch.nan), success)


def by_foolbox(attack, model: nn.Module, x: Tensor) -> AttackResult:
    """Run an L2 attack of foolbox on the predicted classes.

    foolbox knows no unbounded search. Its bounds are set to ±10 for every entry, far
    beyond any pixel that an adversary needs, so that all of R^d is searched in effect.

    Parameters
    ----------
    attack : foolbox.attacks.Attack
        E.g. `foolbox.attacks.L2DeepFoolAttack()`; one that minimises the distance.
    model, x
        As in :func:`minimal_l2`; `model` must be an nn.Module.

    Returns
    -------
    AttackResult
    """
    with needed_by("by_foolbox"):
        import foolbox

    _, logits = forward(model, x)
    x, label = x.detach(), logits.argmax(1)
    wrapped = foolbox.PyTorchModel(model, bounds=(-10, 10), device=x.device)
    found, _, _ = attack(wrapped, x, label, epsilons=None)
    return _result(model, x, found, label)


def _check_bounds(x: Tensor, bounds: Bounds | None) -> None:
    if bounds is None:
        return
    low, high = bounds
    if not low < high:
        raise ValueError(f"bounds must be an increasing pair (low, high), got {bounds}")
    if isinstance(x, Tensor) and x.numel() and (x.min() < low or x.max() > high):
        raise ValueError(
            f"x lies outside bounds {bounds}: its values run from {x.min():.4g} to {x.max():.4g}. "
            "Rescale x, or use bounds=None to search all of R^d"
        )


def _clip(x: Tensor, bounds: Bounds | None) -> Tensor:
    return x if bounds is None else x.clamp(*bounds)


@torch.no_grad()
def _fooled(model: Model, x: Tensor, label: Tensor) -> Tensor:
    return model(x).argmax(1) != label


def _proposals(model: Model, x: Tensor, logits: Tensor, bounds: Bounds | None) -> Iterator[Tensor]:
    label = logits.argmax(1)
    yield _deepfool(model, x, label, bounds)
    # The nearest boundary by linearization need not be the nearest: try other rivals too.
    for rival in ranking(logits, label)[:, 1:3].unbind(1):
        yield _deepfool(model, x, label, bounds, rival=rival, steps=20)
    yield _ddn(model, x, label, bounds)


def _deepfool(
    model: Model,
    x: Tensor,
    label: Tensor,
    bounds: Bounds | None,
    *,
    rival: Tensor | None = None,
    steps: int = 50,
) -> Tensor:
    """Step to the nearest linearized boundary (or that with `rival`) until the decision changes."""
    y = x.clone()
    active = torch.arange(len(x), device=x.device)
    for _ in range(steps):
        here, own = y[active], label[active]
        leaf, logits = attach(model, here)
        if rival is None:
            ranked = ranked_margins(logits, leaf, reference=own, top_k=10)
            margins = ((m, w) for _, m, w in ranked)
        else:
            margins = [margin_gradient(logits, leaf, own, rival[active])]
        nearest = torch.full_like(logits[:, 0], torch.inf)
        step = torch.zeros_like(here)
        for margin, w in margins:
            length = norm(w)
            distance = margin.abs() / length
            closer = distance < nearest
            nearest = torch.where(closer, distance, nearest)
            # 2 % overshoot, and an absolute 1e-4 so that a tie at x does not stall the walk
            stride = (1.02 * distance + 1e-4) / length
            step = torch.where(per_sample(closer, x), -per_sample(stride, x) * w, step)
        y[active] = _clip(here + step, bounds)
        active = active[~_fooled(model, y[active], own)]
        if len(active) == 0:
            break
    return y


def _ddn(model: Model, x: Tensor, label: Tensor, bounds: Bounds | None, steps: int = 100) -> Tensor:
    """Ascend the loss on a sphere whose radius shrinks when fooled and grows when not."""
    delta, best = torch.zeros_like(x), torch.zeros_like(x)
    best_norm = x.new_full(label.shape, torch.inf)
    radius = torch.ones_like(best_norm)
    for step in range(steps):
        leaf, logits = attach(model, x + delta)
        fooled, length = logits.argmax(1) != label, norm(delta)
        keep = fooled & (length < best_norm)
        best_norm = torch.where(keep, length, best_norm)
        best = torch.where(per_sample(keep, x), delta, best)
        grad = gradient(cross_entropy(logits, label, reduction="none"), leaf)
        rate = 0.01 + 0.99 * (1 + math.cos(math.pi * step / steps)) / 2
        delta = delta + rate * grad / per_sample(norm(grad).clamp(min=1e-30), x)
        radius = radius * torch.where(fooled, 0.95, 1.05)
        delta = delta * per_sample(radius / norm(delta).clamp(min=1e-30), x)
        delta = _clip(x + delta, bounds) - x
    return x + best


def _pull_in(
    model: Model, x: Tensor, y: Tensor, label: Tensor, bounds: Bounds | None, rounds: int = 30
) -> Tensor:
    """Move adversaries y towards x along the decision boundary, and never further away."""
    damping = torch.ones_like(y.flatten(1)[:, 0])
    active = torch.arange(len(x), device=x.device)
    for _ in range(rounds):
        x_, y_, label_, damping_ = x[active], y[active], label[active], damping[active]
        foot = _foot_on_tangent(model, x_, y_, label_, bounds)
        aim = y_ + per_sample(damping_, x) * (foot - y_) - x_
        radius = norm(y_ - x_)
        # The point at the *present* distance in the new direction: adversarial means progress.
        rim = _clip(x_ + per_sample(radius / norm(aim), x) * aim, bounds)
        better = _fooled(model, rim, label_)
        hit = active[better]
        if len(hit):
            y[hit] = _bisect(model, x_[better], rim[better], label_[better], halvings=8)
        gain = 1 - norm(y[active] - x_) / radius
        damping[active] = torch.where(better, (2 * damping_).clamp(max=1), damping_ / 2)
        active = active[(gain > 1e-3) | (~better & (damping[active] > 0.05))]
        if len(active) == 0:
            break
    eps = torch.finfo(x.dtype).eps
    y = _bisect(model, x, y, label, halvings=round(-math.log2(eps)))
    # The last foot is exact where the boundary is flat. Both candidates go a few roundings
    # beyond the boundary, so that the decision there is no matter of luck.
    for candidate in (y, _foot_on_tangent(model, x, y, label, bounds)):
        beyond = _clip(x + (1 + 16 * eps) * (candidate - x), bounds)
        better = norm(beyond - x) <= (1 + 32 * eps) * norm(y - x)
        better &= _fooled(model, beyond, label)
        y = torch.where(per_sample(better, x), beyond, y)
    return y


@torch.no_grad()
def _bisect(model: Model, x: Tensor, y: Tensor, label: Tensor, *, halvings: int) -> Tensor:
    """Boundary point on the segment from x (not fooled) to y (fooled), on the fooled side."""
    low, high = x.new_zeros(len(x)), x.new_ones(len(x))
    for _ in range(halvings):
        middle = (low + high) / 2
        fooled = _fooled(model, x + per_sample(middle, x) * (y - x), label)
        low, high = torch.where(fooled, low, middle), torch.where(fooled, middle, high)
    return torch.where(per_sample(high < 1, x), x + per_sample(high, x) * (y - x), y)


def _foot_on_tangent(
    model: Model, x: Tensor, y: Tensor, label: Tensor, bounds: Bounds | None
) -> Tensor:
    """Point nearest to x on the tangent plane at y of the boundary, inside the bounds.

    Plane: {p : m + ⟨w, p − y⟩ = 0} with m the margin at y and w its gradient. The
    nearest point is x + s·w; in a box it is clip(x + s·w), and ⟨w, clip(x + s·w)⟩
    grows with s, so that s is found by bisection.
    """
    leaf, logits = attach(model, y)
    _, margin, w = next(ranked_margins(logits, leaf, reference=label, top_k=1))
    offset = inner(w, y - x) - margin  # the plane is ⟨w, p − x⟩ = offset
    s = offset / norm(w) ** 2
    if bounds is None:
        return x + per_sample(s, x) * w
    # The clipped solution lies further out than the free one: widen, then halve.
    low, high = 1e3 * s.clamp(max=0), 1e3 * s.clamp(min=0)
    for _ in range(40):
        middle = (low + high) / 2
        short = inner(w, _clip(x + per_sample(middle, x) * w, bounds) - x) < offset
        low, high = torch.where(short, middle, low), torch.where(short, high, middle)
    return _clip(x + per_sample(low, x) * w, bounds)  # the end beyond the plane
