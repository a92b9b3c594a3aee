"""Saliency map and alignment (lessons 1 and 4).

``g = ∇Ψ^{i*}(x)`` and ``α(x) = |⟨x, g⟩| / ‖g‖``.

Source: Etmann, Lunz, Maass, Schönlieb, *On the Connection Between Adversarial Robustness and
Saliency Map Interpretability*, ICML 2019, definitions 1 and 2.
"""

from __future__ import annotations

from statistics import NormalDist

from torch import Tensor

from .autograd import (
    check_gradient,
    checked_logits,
    gradient,
    inner,
    logit_of,
    norm,
    per_sample,
    with_gradients,
)
from .validation import Model, check_alignment, check_integer, class_index


@with_gradients
def saliency_map(model: Model, x: Tensor, target: int | Tensor | None = None) -> Tensor:
    """Gradient of one logit by the input, ``g = ∇Ψ^i(x)``, with its sign.

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
        See :func:`lesson_utils.validation.check_input`; also for a `target` of the
        wrong type or shape, and for a gradient that is not finite.
    IndexError
        `target` is no class of the model.
    """
    leaf, logits = checked_logits(model, x)
    index = class_index(target, logits)
    saliency = gradient(logit_of(logits, index), leaf)
    check_gradient(saliency.flatten(1).isfinite().all(1), index)
    return saliency


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
    check_alignment(x, saliency)
    direction = saliency / per_sample(norm(saliency), saliency)  # 0/0 = NaN where g = 0
    return inner(x, direction).abs()


def alignment_of_noise(length: float | Tensor, d: int) -> float | Tensor:
    """Median alignment of an image with a map of noise, independent normal entries: 0.6745 ‖x‖/√d.

    Lesson 10. The entry of a random unit vector along x is nearly normal with variance 1/d, and
    half of the absolute values of a standard normal variable are above 0.6745.

    Parameters
    ----------
    length : float or Tensor
        ‖x‖, of one image or of several.
    d : int
        Number of entries of x, large.
    """
    return NormalDist().inv_cdf(0.75) * length / check_integer("d", d) ** 0.5
