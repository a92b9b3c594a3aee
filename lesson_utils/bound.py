"""The classifier binarized at a point, and the bound of ρ̃ by alignment (lesson 7).

``ρ̃(x) ≤ α(x) + ‖x‖·‖ḡ† − ḡ‖ + |β†|/‖g†‖``

Source: Etmann et al. 2019, bound for general models.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from .autograd import (
    checked_logits,
    gradient,
    inner,
    logit_of,
    margin,
    norm,
    per_sample,
    with_gradients,
)
from .extras import needed_by
from .homogeneity import degree_of_homogeneity
from .linearized import nearest_linear_boundary
from .validation import (
    Model,
    as_tensor_of_logits,
    check_input,
    check_shape_of_logits,
    class_index,
    in_chunks,
    restricted,
)


class Binarized(nn.Module):
    """See :func:`binarize`."""

    def __init__(self, model: Model, i: Tensor, j: Tensor):
        super().__init__()
        self.model = model
        self.i, self.j = i, j

    def restricted_to(self, rows: Tensor) -> Binarized:
        """The same for some samples of the batch; see :func:`lesson_utils.validation.restricted`."""
        i, j = (k[rows] if isinstance(k, Tensor) and k.ndim else k for k in (self.i, self.j))
        return Binarized(restricted(self.model, rows), i, j)

    def score(self, y: Tensor) -> Tensor:
        """``Ψ†(y) = Ψ^i(y) − Ψ^j(y)``, `(batch,)`."""
        logits = as_tensor_of_logits(self.model(y.clone()))  # some models change their input
        check_shape_of_logits(logits, y)
        i, j = (class_index(at, logits, name) for at, name in ((self.i, "i"), (self.j, "j")))
        _check_different(i, j)
        return margin(logits, i, j)

    def forward(self, y: Tensor) -> Tensor:
        """Two logits (−Ψ†/2, +Ψ†/2), `(batch, 2)`: class 1 where class i beats class j."""
        half = self.score(y) / 2
        return torch.stack([-half, half], dim=1)


def binarize(model: Model, i: int | Tensor, j: int | Tensor) -> Binarized:
    """Binary classifier of class i against class j, ``Ψ†(y) = Ψ^i(y) − Ψ^j(y)``.

    With i = i* and j = j* of a point x it is the classifier binarized at x.

    Parameters
    ----------
    model : callable
        Maps `(batch, *input_shape)` to logits `(batch, n_classes)`.
    i, j : int or Tensor of int `(batch,)`
        The two classes; a tensor (or a list, or an array) binds the result to batches of that length.

    Returns
    -------
    Binarized
        A module with the two logits (−Ψ†/2, +Ψ†/2), so that every function of this
        package applies to it; `.score(y)` is Ψ†(y) itself.

    Raises
    ------
    ValueError
        i and j are the same class (of a sample).
    TypeError
        i or j is None, or a word.
    TypeError, ValueError, IndexError
        When called, if i or j are no classes of the model, one or one a sample.
    """
    i, j = (_as_index(name, index) for name, index in (("i", i), ("j", j)))
    if i.ndim == j.ndim == 0:
        _check_different(i, j)
    return Binarized(model, i, j)


def _as_index(name: str, index: int | Tensor) -> Tensor:
    try:
        return index if isinstance(index, Tensor) else torch.as_tensor(index, device="cpu")
    except (TypeError, ValueError, RuntimeError):  # None, a word, lists of two lengths
        raise TypeError(f"{name} must hold class indices (integers), got {index!r}") from None


def _check_different(i: Tensor, j: Tensor) -> None:
    if (i == j).any():
        found = i[i == j].flatten()[0].item()
        raise ValueError(f"i and j must be two classes, got {found} twice: Ψ^i − Ψ^i is zero")


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
    """``β = Ψ^{i*} − ⟨x, g⟩``, its non-homogeneous part."""

    @property
    def bound(self) -> Tensor:
        """Upper bound of ρ̃ in the theorem: α + direction gap + bias gap."""
        return self.alignment + self.direction_gap + self.bias_gap

    @property
    def lower_bound(self) -> Tensor:
        """The same steps from below: ``α − direction gap − bias gap ≤ ρ̃``."""
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


@with_gradients
def measure(model: Model, x: Tensor, *, chunk_size: int | None = None) -> Measurements:
    """Everything the bound theorem speaks of, per sample, in one pass.

    One forward and n backward passes: one for g, n − 1 for the margins. (To question the model
    four samples a chunk go forward and back once more.)

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
        See :func:`lesson_utils.autograd.checked_logits`; also for a `chunk_size` that is no integer ≥ 1.
    """
    check_input(model, x)
    chunks = in_chunks(x, chunk_size)
    parts = [_measure_chunk(restricted(model, rows), x[rows]) for rows in chunks]
    return Measurements(*map(torch.cat, zip(*parts, strict=True)))


def _measure_chunk(model: Model, x: Tensor) -> Measurements:
    """The measurements of some samples."""
    leaf, logits = checked_logits(model, x)
    x, prediction = x.detach(), logits.argmax(1)
    top = logit_of(logits, prediction)
    g = gradient(top, leaf, keep_graph=True)
    value, runner_up, psi_dagger, g_dagger = nearest_linear_boundary(logits, leaf)
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
        bias=(top.detach() - homogeneous).to(x.dtype),
    )


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
