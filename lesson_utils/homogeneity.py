"""Homogeneous decomposition of a logit (lesson 6).

Ψ^i(x) = ⟨x, ∇Ψ^i(x)⟩ + β^i(x).

For networks of affine layers and positively 1-homogeneous activations the second
part is a sum over the biases of the layers, β^i(x) = Σ_ℓ ⟨b_ℓ, ∂Ψ^i/∂b_ℓ⟩ (Euler's theorem
for (x, b) ↦ Ψ). Etmann et al. 2019, homogeneous decomposition theorem.
"""

from __future__ import annotations

import warnings
from contextlib import ExitStack
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from .autograd import gradients, inner, leaf_and_logits, logit_of
from .validation import check_input, check_logits, class_index

_AFFINE = (nn.Linear, nn.modules.conv._ConvNd)
_BATCH_NORM = nn.modules.batchnorm._BatchNorm
# Positively 1-homogeneous (or linear) in eval mode, without a bias of their own.
_HOMOGENEOUS = (
    nn.ReLU,
    nn.LeakyReLU,
    nn.PReLU,
    nn.RReLU,
    nn.modules.pooling._MaxPoolNd,
    nn.modules.pooling._AdaptiveMaxPoolNd,
    nn.modules.pooling._AvgPoolNd,
    nn.modules.pooling._AdaptiveAvgPoolNd,
    nn.modules.dropout._DropoutNd,
    nn.modules.padding._ReflectionPadNd,
    nn.modules.padding._ReplicationPadNd,
    nn.Flatten,
    nn.Unflatten,
    nn.Identity,
    nn.Upsample,
)


class Decomposition(NamedTuple):
    """Result of :func:`homogeneous_decomposition`; tensors have shape `(batch,)`."""

    homogeneous: Tensor
    """⟨x, ∇Ψ^i(x)⟩."""
    bias: Tensor
    """β^i(x) = Ψ^i(x) − ⟨x, ∇Ψ^i(x)⟩."""
    per_layer: dict[str, Tensor]
    """Contribution ⟨b_ℓ, ∂Ψ^i/∂b_ℓ⟩ of each layer with a bias, by module name, in call order."""
    residual: Tensor
    """β^i − Σ_ℓ: rounding noise where the theorem applies."""

    @property
    def degree(self) -> Tensor:
        """Degree of homogeneity, ``|⟨x, g⟩| / (|⟨x, g⟩| + |β|)``, in [0, 1]."""
        return degree_of_homogeneity(self.homogeneous, self.bias)


def degree_of_homogeneity(homogeneous: Tensor, bias: Tensor) -> Tensor:
    """``|⟨x, g⟩| / (|⟨x, g⟩| + |β|)``, in [0, 1]: the share of a logit that is homogeneous."""
    return homogeneous.abs() / (homogeneous.abs() + bias.abs())


def effective_bias(module: nn.Module) -> Tensor | None:
    """What a module adds to its output whatever its input; None where it adds nothing.

    The bias of dense and convolutional layers, b − w·μ/√(σ² + ε) for batch
    normalisation, and `module.effective_bias()` for any module that defines it.

    Parameters
    ----------
    module : nn.Module

    Returns
    -------
    Tensor or None
        Shape `(channels,)`, or a single number.
    """
    if hasattr(module, "effective_bias"):
        return module.effective_bias()
    if isinstance(module, _AFFINE):
        return module.bias
    if isinstance(module, _BATCH_NORM):
        shift = -module.running_mean / (module.running_var + module.eps).sqrt()
        return shift if module.weight is None else module.weight * shift + module.bias
    return None


def _probe_biases(model: nn.Module, x: Tensor) -> tuple[Tensor, Tensor, list]:
    """Leaf and logits; for each call of a module with a bias its name, bias, and a zero in between.

    The zero is added to the output of the module, to differentiate by. A leaf of its own, because
    the output itself may be changed in place by the next layer (in-place ReLU, `out += identity`),
    which would bend the derivative.
    """
    probes = []

    def add_zero(name: str, bias: Tensor, module: nn.Module, inputs, output: Tensor) -> Tensor:
        by_channel = bias.ndim == 1 and not isinstance(module, nn.Linear)
        bias = bias.view(-1, *[1] * (output.ndim - 2)) if by_channel else bias
        zero = torch.zeros_like(output, requires_grad=True)
        probes.append((name, bias, zero))
        return output + zero

    with ExitStack() as hooks:
        for name, module in model.named_modules():
            if (bias := effective_bias(module)) is not None:
                hook = partial(add_zero, name or type(module).__name__, bias.detach())
                hooks.enter_context(module.register_forward_hook(hook))
        return *leaf_and_logits(model, x), probes


@torch.enable_grad()
def homogeneous_decomposition(
    model: nn.Module, x: Tensor, target: int | Tensor | None = None
) -> Decomposition:
    """Split a logit into its homogeneous part and the contributions of the biases.

    One forward and one backward pass serve all layers.

    Parameters
    ----------
    model : nn.Module
        In eval mode. A module that is called twice contributes the sum of its calls.
    x : Tensor, `(batch, *input_shape)`
    target : int or Tensor of int `(batch,)`, optional
        The class i; by default the predicted class of each sample.

    Returns
    -------
    Decomposition
        In logit units.

    Raises
    ------
    TypeError, ValueError, IndexError
        See :func:`lesson_utils.saliency.saliency_map`; also if `model` is no nn.Module.

    Warns
    -----
    UserWarning
        If the contributions do not add up to β within rounding. The message names the
        modules that are not positively homogeneous (GELU, LayerNorm, a saturated ReLU6).
    """
    if not isinstance(model, nn.Module):
        raise TypeError(
            f"model must be an nn.Module so that its layers can be found, got {type(model).__name__}: "
            "wrap the function in a module"
        )
    check_input(model, x)
    leaf, logits, probes = _probe_biases(model, x)
    check_logits(logits, x)
    x = x.detach()
    index = class_index(target, logits)
    score = logit_of(logits, index)
    grads = gradients(score, [leaf, *(zero for _, _, zero in probes)])
    homogeneous = inner(x, grads[0])
    bias = score.detach() - homogeneous
    per_layer: dict[str, Tensor] = {}
    size = inner(x.abs(), grads[0].abs())  # of all summands, to judge the rounding
    for (name, b, _), grad in zip(probes, grads[1:], strict=True):
        summands = (b * grad).flatten(1)
        per_layer[name] = per_layer.get(name, 0) + summands.sum(1)
        size = size + summands.abs().sum(1)
    residual = bias - sum(per_layer.values(), torch.zeros_like(bias))
    if (residual.abs() > 100 * torch.finfo(x.dtype).eps * size.clamp(min=1e-30)).any():
        _warn_not_homogeneous(model, residual, bias)
    return Decomposition(homogeneous, bias, per_layer, residual)


def _warn_not_homogeneous(model: nn.Module, residual: Tensor, bias: Tensor) -> None:
    leaves = [(n, m) for n, m in model.named_modules() if not any(m.children())]
    suspects = [
        f"'{name or 'model'}' ({type(module).__name__})"
        for name, module in leaves
        if not isinstance(module, (*_HOMOGENEOUS, *_AFFINE, _BATCH_NORM))
        and not hasattr(module, "effective_bias")
    ]
    named = ", ".join(suspects) or "an operation outside its modules, or a bias used by hand"
    warnings.warn(
        f"the biases do not account for the non-homogeneous part: residual up to "
        f"{residual.abs().max():.3g} of |β| up to {bias.abs().max():.3g}. "
        f"Not positively homogeneous: {named}",
        stacklevel=3,
    )
