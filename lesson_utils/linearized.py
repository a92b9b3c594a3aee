"""Linearized robustness ρ̃, the distance to the boundary of the linearized classifier (lesson 5).

Source: Etmann et al. 2019, definition 3.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .autograd import (
    check_gradient,
    checked_logits,
    norm,
    per_sample,
    ranked_margins,
    with_gradients,
)
from .validation import Model, check_integer


class LinearizedRobustness(NamedTuple):
    """Result of :func:`linearized_robustness`; each field has shape `(batch,)`."""

    value: Tensor
    """ρ̃(x), in the L2 units of x."""
    prediction: Tensor
    """i*, the predicted class."""
    runner_up: Tensor
    """j*, the class that attains the minimum."""


@with_gradients
def linearized_robustness(
    model: Model, x: Tensor, *, top_k: int | None = None
) -> LinearizedRobustness:
    """Distance to the decision boundary of the linearized classifier.

    ``ρ̃(x) = min_{j≠i*} (Ψ^{i*}(x) − Ψ^j(x)) / ‖∇Ψ^{i*}(x) − ∇Ψ^j(x)‖``

    One forward and n − 1 backward passes. Exact (ρ̃ = ρ) for affine models; in
    general neither an upper nor a lower bound of ρ.

    Parameters
    ----------
    model : callable
        Maps `(batch, *input_shape)` to logits `(batch, n_classes)`; in eval mode.
    x : Tensor, `(batch, *input_shape)`
    top_k : int, optional
        Look only at the k rivals with the largest logits. The minimum over fewer
        classes can only be larger: the result is then an *upper bound* of ρ̃.

    Returns
    -------
    LinearizedRobustness
        `.value` (L2 units of x), `.prediction` i*, `.runner_up` j*, each `(batch,)`.
        At a tie of logits the first maximal class is i* and the value is 0. A rival whose
        gradient is that of i* has no boundary with it (a twin logit, an equal row) and does not
        count, not even at a tie; where that holds for all rivals the value is +inf.

    Raises
    ------
    TypeError, ValueError
        See :func:`lesson_utils.autograd.checked_logits`; also for a `top_k` that is no integer ≥ 1,
        and for a gradient that is not finite.

    Notes
    -----
    In float32 the margin loses digits close to the boundary (15 % at a relative
    distance of 1e-6): use float64 there.
    """
    if top_k is not None:
        check_integer("top_k", top_k)
    leaf, logits = checked_logits(model, x)
    value, runner_up, _, _ = nearest_linear_boundary(logits, leaf, top_k)
    return LinearizedRobustness(value, logits.argmax(1), runner_up)


def nearest_linear_boundary(
    logits: Tensor, leaf: Tensor, top_k: int | None = None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """ρ̃, j*, the margin Ψ† and its gradient g† at the minimum over the rivals."""
    best, culprit = None, logits.argmax(1)
    finite = torch.ones_like(culprit, dtype=torch.bool)
    for rival, psi, grad in ranked_margins(logits, leaf, top_k=top_k):
        length = norm(grad)
        culprit = torch.where(finite, rival, culprit)
        finite = finite & length.isfinite()
        # Equal gradients: there is no boundary with this rival, not even where it ties.
        distance = torch.where(length == 0, torch.inf, psi / length)
        found = (distance, rival, psi, grad)
        if best is None:
            best = found
            continue
        closer = distance < best[0]
        # Copies only where one is needed: rarely, after the first rivals. (To ask takes no time on
        # a CPU, but stops a GPU, which copies faster than it stops.)
        if closer.is_cuda or closer.any():
            pairs = zip(found, best, strict=True)
            best = tuple(torch.where(per_sample(closer, new), new, old) for new, old in pairs)
    check_gradient(finite, culprit)
    return best
