"""Saliency map, alignment, linearized robustness, and the bound that connects them.

Notation: Ψ^i is logit i, i* the predicted class, g = ∇Ψ^{i*}(x) the saliency map.
Source of all definitions: Etmann, Lunz, Maass, Schönlieb, *On the Connection
Between Adversarial Robustness and Saliency Map Interpretability*, ICML 2019.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from .extras import needed_by
from .gradients import (
    Model,
    attach,
    check_input,
    check_logits,
    degree_of_homogeneity,
    forward,
    gradient,
    inner,
    margin,
    norm,
    per_sample,
    pick,
    ranked_margins,
    target_index,
)


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
    index = target_index(target, logits)
    return gradient(pick(logits, index), leaf)


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
    kinds = [(tuple(v.shape), v.dtype, str(v.device)) for v in (x, saliency)]
    if x.ndim < 2 or x.numel() == 0 or kinds[0] != kinds[1]:
        raise ValueError(
            "x and saliency must be non-empty batches of one shape (batch, *input_shape), one dtype "
            f"and one device (saliency.to(x) mends these two), got {kinds[0]} and {kinds[1]}"
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
    value, runner_up, _, _ = _nearest_linear_boundary(logits, leaf, top_k)
    return LinearizedRobustness(value, logits.argmax(1), runner_up)


class Binarized(nn.Module):
    """See :func:`binarize`."""

    bound_to_batch = True  # classes are per sample: this module knows the samples of one batch

    def __init__(self, model: Model, i: Tensor, j: Tensor):
        super().__init__()
        self.model = model
        self.i, self.j = i, j

    def score(self, y: Tensor) -> Tensor:
        """Ψ†(y) = Ψ^i(y) − Ψ^j(y), `(batch,)`."""
        logits = self.model(y)
        i, j = (target_index(index, logits) for index in (self.i, self.j))
        return margin(logits, i, j)

    def forward(self, y: Tensor) -> Tensor:
        """Two logits (−Ψ†/2, +Ψ†/2), `(batch, 2)`: class 1 where class i beats class j."""
        half = self.score(y) / 2
        return torch.stack([-half, half], dim=1)


def binarize(model: Model, i: int | Tensor, j: int | Tensor) -> Binarized:
    """Binary classifier of class i against class j, Ψ†(y) = Ψ^i(y) − Ψ^j(y).

    With i = i* and j = j* of a point x it is the classifier binarized at x.

    Parameters
    ----------
    model : callable
        Maps `(batch, *input_shape)` to logits `(batch, n_classes)`.
    i, j : int or Tensor of int `(batch,)`
        The two classes; a tensor binds the result to batches of that length.

    Returns
    -------
    Binarized
        A module with the two logits (−Ψ†/2, +Ψ†/2), so that every function of this
        package applies to it; `.score(y)` is Ψ†(y) itself.

    Raises
    ------
    TypeError, ValueError, IndexError
        When called, if i or j are no classes of the model, one or one a sample.
    """
    return Binarized(model, i, j)


class Measurements(NamedTuple):
    """Result of :func:`measure`; every field has shape `(batch,)`.

    Lengths are in the L2 units of x.
    """

    prediction: Tensor
    """i*, the predicted class."""
    runner_up: Tensor
    """j*, the class that attains the minimum in ρ̃."""
    input_norm: Tensor
    """‖x‖."""
    alignment: Tensor
    """``α = |⟨x, g⟩| / ‖g‖``."""
    binarized_alignment: Tensor
    """``α† = |⟨x, g†⟩| / ‖g†‖``."""
    linearized_robustness: Tensor
    """``ρ̃ = |Ψ†| / ‖g†‖``."""
    direction_gap: Tensor
    """‖x‖ · ‖ḡ† − ḡ‖, the second term of the bound."""
    unsigned_direction_gap: Tensor
    """‖x‖ · min(‖ḡ† − ḡ‖, ‖ḡ† + ḡ‖): α does not see the sign of g."""
    bias_gap: Tensor
    """``|β†| / ‖g†‖``, the third term."""
    homogeneous: Tensor
    """⟨x, g⟩, the homogeneous part of the predicted logit."""
    bias: Tensor
    """β = Ψ^{i*} − ⟨x, g⟩, its non-homogeneous part."""

    @property
    def bound(self) -> Tensor:
        """Upper bound of ρ̃ in the theorem: α + direction gap + bias gap."""
        return self.alignment + self.direction_gap + self.bias_gap

    @property
    def lower_bound(self) -> Tensor:
        """The same steps from below: α − direction gap − bias gap ≤ ρ̃."""
        return self.alignment - self.direction_gap - self.bias_gap

    @property
    def tight_bound(self) -> Tensor:
        """Without Cauchy–Schwarz: ``α + |α† − α| + bias gap``."""
        return self.alignment + (self.binarized_alignment - self.alignment).abs() + self.bias_gap

    @property
    def degree_of_homogeneity(self) -> Tensor:
        """``|⟨x, g⟩| / (|⟨x, g⟩| + |β|)``, in [0, 1]."""
        return degree_of_homogeneity(self.homogeneous, self.bias)

    def to_dict(self) -> dict[str, np.ndarray]:
        """All fields and derived quantities as NumPy arrays by name: a table, one row a sample."""
        derived = ("bound", "lower_bound", "tight_bound", "degree_of_homogeneity")
        return {name: getattr(self, name).cpu().numpy() for name in (*self._fields, *derived)}

    def to_frame(self):
        """The table of :meth:`to_dict` as a pandas data frame (pandas must be installed)."""
        with needed_by("Measurements.to_frame"):
            import pandas

        return pandas.DataFrame(self.to_dict())


def measure(model: Model, x: Tensor, *, chunk_size: int | None = None) -> Measurements:
    """Everything the bound theorem speaks of, per sample, in one pass.

    One forward and n backward passes: one for g, n − 1 for the margins.

    Parameters
    ----------
    model : callable
        Maps `(batch, *input_shape)` to logits `(batch, n_classes)`; in eval mode.
    x : Tensor, `(batch, *input_shape)`
    chunk_size : int, optional
        Samples at once. By default as many as keep one gradient under 2^22 numbers: 5,349
        of MNIST's, 27 of 3×224×224 pixels. The result does not depend on it (up to rounding).

    Returns
    -------
    Measurements

    Raises
    ------
    TypeError, ValueError
        See :func:`lesson_utils.gradients.check_input`; also for `chunk_size < 1`.
    """
    check_input(model, x)
    if chunk_size is None:
        chunk_size = max(1, 2**22 // x[0].numel())
    if chunk_size < 1:
        raise ValueError(f"chunk_size must be at least 1, got {chunk_size}")
    parts = [_measure_chunk(model, chunk) for chunk in x.split(chunk_size)]
    return Measurements(*map(torch.cat, zip(*parts, strict=True)))


@torch.enable_grad()
def _measure_chunk(model: Model, x: Tensor) -> Measurements:
    """The measurements of samples that :func:`measure` has checked."""
    leaf, logits = attach(model, x)
    check_logits(logits, x)
    x, prediction = x.detach(), logits.argmax(1)
    top = pick(logits, prediction)
    g = gradient(top, leaf, keep_graph=True)
    value, runner_up, psi_dagger, g_dagger = _nearest_linear_boundary(logits, leaf)
    size = norm(x)
    unit, unit_dagger = (v / per_sample(norm(v), v) for v in (g, g_dagger))
    apart, opposed = size * norm(unit_dagger - unit), size * norm(unit_dagger + unit)
    homogeneous = inner(x, g)
    return Measurements(
        prediction=prediction,
        runner_up=runner_up,
        input_norm=size,
        alignment=inner(x, unit).abs(),
        binarized_alignment=inner(x, unit_dagger).abs(),
        linearized_robustness=value,
        direction_gap=apart,
        unsigned_direction_gap=torch.minimum(apart, opposed),
        bias_gap=(psi_dagger - inner(x, g_dagger)).abs() / norm(g_dagger),
        homogeneous=homogeneous,
        bias=top.detach() - homogeneous,
    )


def _nearest_linear_boundary(
    logits: Tensor, leaf: Tensor, top_k: int | None = None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """ρ̃, j*, the margin Ψ† and its gradient g† at the minimum over the rivals."""
    best = None
    for rival, psi, grad in ranked_margins(logits, leaf, top_k=top_k):
        distance = torch.where(psi == 0, 0.0, psi / norm(grad))  # 0/0 at a tie is 0
        found = (distance, rival, psi, grad)
        if best is not None:
            closer = distance < best[0]
            pairs = zip(found, best, strict=True)
            found = tuple(torch.where(per_sample(closer, new), new, old) for new, old in pairs)
        best = found
    return best


class BoundTerms(NamedTuple):
    """Result of :func:`bound_terms`; each field has shape `(batch,)`."""

    alignment: Tensor
    """α."""
    direction_gap: Tensor
    """‖x‖ · ‖ḡ† − ḡ‖."""
    bias_gap: Tensor
    """``|β†| / ‖g†‖``."""
    bound: Tensor
    """The sum of the three."""
    linearized_robustness: Tensor
    """ρ̃, never larger than the bound."""


def bound_terms(model: Model, x: Tensor) -> BoundTerms:
    """The three terms of the bound, ``ρ̃ ≤ α + ‖x‖·‖ḡ† − ḡ‖ + |β†|/‖g†‖``, and both sides of it.

    A selection of what :func:`measure` returns, which see for parameters and errors.
    """
    m = measure(model, x)
    return BoundTerms(m.alignment, m.direction_gap, m.bias_gap, m.bound, m.linearized_robustness)
