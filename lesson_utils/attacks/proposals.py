"""Adversaries that need not be close yet: DeepFool and DDN."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from ..autograd import gradient, leaf_and_logits, margin_gradient, norm, per_sample, ranked_margins
from ..validation import Bounds, Model
from .common import clip, is_adversarial


def deepfool(
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
        leaf, logits = leaf_and_logits(model, here)
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
        y[active] = clip(here + step, bounds)
        active = active[~is_adversarial(model, y[active], own)]
        if len(active) == 0:
            break
    return y


def ddn(model: Model, x: Tensor, label: Tensor, bounds: Bounds | None, steps: int = 100) -> Tensor:
    """Ascend the loss on a sphere whose radius shrinks when fooled and grows when not."""
    delta, best = torch.zeros_like(x), torch.zeros_like(x)
    best_norm = x.new_full(label.shape, torch.inf)
    radius = torch.ones_like(best_norm)
    for step in range(steps):
        leaf, logits = leaf_and_logits(model, x + delta)
        fooled, length = logits.argmax(1) != label, norm(delta)
        keep = fooled & (length < best_norm)
        best_norm = torch.where(keep, length, best_norm)
        best = torch.where(per_sample(keep, x), delta, best)
        grad = gradient(cross_entropy(logits, label, reduction="none"), leaf)
        rate = 0.01 + 0.99 * (1 + math.cos(math.pi * step / steps)) / 2
        delta = delta + rate * grad / per_sample(norm(grad).clamp(min=1e-30), x)
        radius = radius * torch.where(fooled, 0.95, 1.05)
        delta = delta * per_sample(radius / norm(delta).clamp(min=1e-30), x)
        delta = clip(x + delta, bounds) - x
    return x + best
