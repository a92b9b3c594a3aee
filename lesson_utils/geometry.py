"""Saliency map, alignment and linearized robustness.

Notation: Ψ^i is logit i, i* the predicted class, g = ∇Ψ^{i*}(x) the saliency map.
Source of all definitions: Etmann, Lunz, Maass, Schönlieb, *On the Connection
Between Adversarial Robustness and Saliency Map Interpretability*, ICML 2019.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .gradients import Model, forward, gradient, inner, norm, per_sample, ranked_margins


class LinearizedRobustness(NamedTuple):
    """Result of :func:`linearized_robustness`; each field has shape `(batch,)`."""

    value: Tensor
    """ρ̃(x), in the L2 units of x."""
    prediction: Tensor
    """i*, the predicted class."""
    runner_up: Tensor
    """j*, the class that attains the minimum."""


@torch.enable_grad()
def saliency_map(model: Model, x: Tensor, target: int | Tensor | None = None) -> Tensor:
    """Gradient of one logit by the input, g = ∇Ψ^i(x), with its sign.

    Parameters
    ----------
    model : callable
        Maps `(batch, *input_shape)` to logits `(batch, n_classes)`; in eval mode.
    x : Tensor, `(batch, *input_shape)`
    target : int or Tensor of int `(batch,)`, optional
        The class i; by default the predicted class of each sample.

    Returns
    -------
    Tensor, `(batch, *input_shape)`
        In logit units per unit of x.

    Raises
    ------
    TypeError, ValueError
        See :func:`lesson_utils.gradients.check_input`; also for a `target` of the
        wrong type or shape.
    IndexError
        `target` is no class of the model.
    """
    leaf, logits = forward(model, x)
    index = _target_index(target, logits)
    return gradient(logits.gather(1, index[:, None]), leaf)


def _target_index(target: int | Tensor | None, logits: Tensor) -> Tensor:
    batch, n = logits.shape
    if target is None:
        return logits.argmax(1)
    index = torch.as_tensor(target, device=logits.device)
    if index.is_floating_point() or index.is_complex() or index.dtype == torch.bool:
        raise TypeError(f"target must hold class indices (integers), got {index.dtype}")
    if index.ndim == 0:
        index = index.expand(batch)
    if index.shape != (batch,):
        raise ValueError(
            f"target must be one class or one class a sample, shape ({batch},), got {tuple(index.shape)}"
        )
    if (index < 0).any() or (index >= n).any():
        raise IndexError(
            f"target must lie in 0 … {n - 1} for a model with {n} logits, "
            f"got values from {int(index.min())} to {int(index.max())}"
        )
    return index.long()


def alignment(x: Tensor, saliency: Tensor) -> Tensor:
    """Alignment of input and saliency map, ``α(x) = |⟨x, g⟩| / ‖g‖``.

    α depends on the origin of x and on Ψ, not only on the classifier: see lesson 04.

    Parameters
    ----------
    x, saliency : Tensor, `(batch, *input_shape)`
        Of equal shape and dtype.

    Returns
    -------
    Tensor, `(batch,)`
        In the L2 units of x. NaN where the saliency map is zero: α is undefined there.

    Raises
    ------
    TypeError, ValueError
        The two are no floating-point batches of one shape, dtype and device.
    """
    for name, value in (("x", x), ("saliency", saliency)):
        if not isinstance(value, Tensor) or not value.is_floating_point():
            raise TypeError(f"{name} must be a floating-point torch.Tensor: use .float() on images")
    if x.ndim < 2 or x.numel() == 0 or x.shape != saliency.shape:
        raise ValueError(
            "x and saliency must be non-empty batches of one shape (batch, *input_shape), "
            f"got {tuple(x.shape)} and {tuple(saliency.shape)}"
        )
    if (x.dtype, x.device) != (saliency.dtype, saliency.device):
        raise ValueError(
            f"x and saliency must share dtype and device, got {x.dtype} on {x.device} and "
            f"{saliency.dtype} on {saliency.device}: use saliency.to(x)"
        )
    direction = saliency / per_sample(norm(saliency), saliency)  # 0/0 = NaN where g = 0
    return inner(x, direction).abs()


@torch.enable_grad()
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
        At a tie of logits the first maximal class is i* and the value is 0; where all
        gradient differences vanish with positive margins it is +inf.

    Raises
    ------
    TypeError, ValueError
        See :func:`lesson_utils.gradients.check_input`; also for `top_k < 1`.

    Notes
    -----
    In float32 the margin loses digits close to the boundary (15 % at a relative
    distance of 1e-6): use float64 there.
    """
    if top_k is not None and top_k < 1:
        raise ValueError(f"top_k must be at least 1, got {top_k}")
    leaf, logits = forward(model, x)
    prediction = logits.argmax(1)
    value = torch.full_like(logits[:, 0], torch.inf)
    runner_up = torch.full_like(prediction, -1)
    for rival, margin, grad in ranked_margins(logits, leaf, top_k=top_k):
        distance = torch.where(margin == 0, 0.0, margin / norm(grad))  # 0/0 at a tie is 0
        closer = (distance < value) | (runner_up < 0)
        value = torch.where(closer, distance, value)
        runner_up = torch.where(closer, rival, runner_up)
    return LinearizedRobustness(value.detach(), prediction, runner_up)
