"""Gradient attacks: along one direction, and by projected gradient descent in balls."""

from __future__ import annotations

import torch
from torch import Tensor

from ..autograd import checked_logits, gradient, leaf_and_logits, logit_of, norm, per_sample
from ..validation import Model
from .common import AttackResult, as_result, bisect, is_adversarial


def line_search(model: Model, x: Tensor) -> AttackResult:
    """Gradient attack: leave x in the direction in which its loss grows fastest, and no other.

    The direction is that of the gradient of the cross-entropy at x; the step is the first
    that changes the decision, found by a grid of lengths (10 % apart, up to 4‖x‖) and bisection.
    Searches all of R^d. Parameters, result and errors: as :func:`minimal_l2`.
    """
    _, logits = checked_logits(model, x)
    x, label = x.detach(), logits.argmax(1)
    direction, _ = _ascent(model, x, label)
    before, after, found = x, x, torch.zeros_like(label, dtype=torch.bool)
    for k in range(90):
        here = x + per_sample(1e-3 * 1.1**k * norm(x), x) * direction
        before = torch.where(per_sample(found, x), before, after)
        after = torch.where(per_sample(found, x), after, here)
        found |= is_adversarial(model, after, label)
        if found.all():
            break
    return as_result(model, x, bisect(model, before, after, label, halvings=12), label)


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
    _, logits = checked_logits(model, x)
    x, label = x.detach(), logits.argmax(1)
    best, low = x, torch.zeros_like(norm(x))
    high = torch.full_like(low, torch.inf)
    for _ in range(rounds):
        radius = torch.where(high.isfinite(), (low + high) / 2, (2 * low).clamp(min=norm(x) / 10))
        y = _ascend_in_ball(model, x, label, radius, steps)
        fooled = is_adversarial(model, y, label)
        low, high = torch.where(fooled, low, radius), torch.where(fooled, norm(y - x), high)
        best = torch.where(per_sample(fooled, x), y, best)
    return as_result(model, x, best, label)


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
    leaf, logits = leaf_and_logits(model, x)
    rivals = logits.scatter(1, label[:, None], -torch.inf).logsumexp(1)
    grad = gradient(rivals - logit_of(logits, label), leaf)
    length = norm(grad).clamp(min=torch.finfo(x.dtype).tiny)
    return grad / per_sample(length, x), logits.argmax(1) != label
