"""What attacks share: their result, the test whether a point is adversarial, bisection."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..autograd import norm, per_sample
from ..validation import Bounds, Model


class AttackResult(NamedTuple):
    """Result of an attack."""

    distance: Tensor
    """`(batch,)`: ‖adversarial − x‖, an upper bound of ρ(x); +inf where the attack failed."""
    adversarial: Tensor
    """`(batch, *input_shape)`: classified differently from x; NaN where the attack failed."""
    success: Tensor
    """`(batch,)` of bool."""


def as_result(model: Model, x: Tensor, found: Tensor, label: Tensor) -> AttackResult:
    """Judge the points `found`, one a sample: adversaries count, all else is a failure."""
    success = is_adversarial(model, found, label)
    distance = torch.where(success, norm(found - x), torch.inf)
    return AttackResult(distance, torch.where(per_sample(success, x), found, torch.nan), success)


def clip(x: Tensor, bounds: Bounds | None) -> Tensor:
    """The nearest point inside the bounds; x itself where there are none."""
    return x if bounds is None else x.clamp(*bounds)


@torch.no_grad()
def is_adversarial(model: Model, x: Tensor, label: Tensor) -> Tensor:
    """Whether each sample is classified otherwise than as `label`, `(batch,)` of bool."""
    return model(x).argmax(1) != label


@torch.no_grad()
def bisect(model: Model, x: Tensor, y: Tensor, label: Tensor, *, halvings: int) -> Tensor:
    """Boundary point on the segment from x (not fooled) to y (fooled), on the fooled side."""
    low, high = x.new_zeros(len(x)), x.new_ones(len(x))
    for _ in range(halvings):
        middle = (low + high) / 2
        fooled = is_adversarial(model, x + per_sample(middle, x) * (y - x), label)
        low, high = torch.where(fooled, low, middle), torch.where(fooled, middle, high)
    return torch.where(per_sample(high < 1, x), x + per_sample(high, x) * (y - x), y)
