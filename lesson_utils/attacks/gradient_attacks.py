"""Gradient attacks: along one direction, and by projected gradient descent in balls."""

from __future__ import annotations

import torch
from torch import Tensor

from ..autograd import norm, per_sample
from ..validation import Model, check_integer
from .common import AttackResult, Task, as_result, ascent, ask, bisect, is_adversarial


@torch.inference_mode(False)
def line_search(model: Model, x: Tensor) -> AttackResult:
    """Gradient attack: leave x in the direction in which its loss grows fastest, and no other.

    The direction is that of the gradient of the cross-entropy at x; the step is the first
    that changes the decision, found by a grid of 90 lengths and bisection. The lengths grow
    by a constant factor (about 10 %), from a twentieth of the distance to the linearized
    boundary with the strongest rival, to 4‖x‖ or 64 times that distance.
    Searches all of R^d. Parameters, result and errors: as :func:`minimal_l2`.
    """
    task = ask(model, x)
    x, first = task.x, task.length / 20
    last = torch.maximum(4 * norm(x), 64 * task.length)
    direction, _, _ = ascent(task, x)
    before, after = x, x
    found = torch.zeros_like(task.label, dtype=torch.bool)
    for k in range(90):
        here = x + per_sample(first * (last / first) ** (k / 89), x) * direction
        before = torch.where(per_sample(found, x), before, after)
        after = torch.where(per_sample(found, x), after, here)
        found |= is_adversarial(task, after)
        if found.all():
            break
    return as_result(task, bisect(task, after, start=before, halvings=12))


@torch.inference_mode(False)
def projected_gradient(
    model: Model, x: Tensor, *, steps: int = 20, rounds: int = 10
) -> AttackResult:
    """Projected gradient descent in balls around x, with a bisection over their radius ε.

    In each ball the loss is ascended from x, by steps of ε/4 in the direction of its
    gradient. The radius begins at twice the distance to the linearized boundary with the
    strongest rival, doubles until the decision changes, and is then bisected: `rounds`
    balls in all. Searches all of R^d. Parameters, result and errors: as
    :func:`minimal_l2`; `steps` and `rounds` are integers ≥ 1. (foolbox has the attack too, with
    one ε for all samples of a batch.)

    References
    ----------
    Madry et al., *Towards deep learning models resistant to adversarial attacks*, ICLR 2018.
    """
    steps, rounds = check_integer("steps", steps), check_integer("rounds", rounds)
    task = ask(model, x)
    x, best = task.x, task.x
    low, high = torch.zeros_like(task.length), torch.full_like(task.length, torch.inf)
    for _ in range(rounds):
        radius = torch.where(high.isfinite(), (low + high) / 2, 2 * torch.maximum(low, task.length))
        y = _ascend_in_ball(task, radius, steps)
        fooled = is_adversarial(task, y)
        low, high = torch.where(fooled, low, radius), torch.where(fooled, norm(y - x), high)
        best = torch.where(per_sample(fooled, x), y, best)
    return as_result(task, best)


def _ascend_in_ball(task: Task, radius: Tensor, steps: int) -> Tensor:
    y = task.x.clone()
    active = torch.arange(len(y), device=y.device)
    for _ in range(steps):
        part, ball = task.of(active), radius[active]
        direction, fooled, finite = ascent(part, y[active])
        move = y[active] - part.x + per_sample(ball / 4, y) * direction
        move = per_sample((ball / norm(move)).clamp(max=1), y) * move  # back into the ball
        # Where the scores are no numbers there is no direction: half the way back.
        move = torch.where(per_sample(finite, y), move, move / 2)
        y[active] = torch.where(per_sample(fooled, y), y[active], part.x + move)
        active = active[~fooled]
        if len(active) == 0:
            break
    return y
