"""Homogeneous decomposition of a logit (lesson 6).

``Ψ^i(x) = ⟨x, ∇Ψ^i(x)⟩ + β^i(x)``.

For networks of affine layers and positively 1-homogeneous activations the second
part is a sum over the biases of the layers, ``β^i(x) = Σ_ℓ ⟨b_ℓ, ∂Ψ^i/∂b_ℓ⟩`` (Euler's theorem
for (x, b) ↦ Ψ). Etmann et al. 2019, homogeneous decomposition theorem.
"""

from __future__ import annotations

import threading
import warnings
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook
from torch.overrides import TorchFunctionMode

from .autograd import (
    check_gradient,
    checked_logits,
    gradients,
    leaf_and_logits,
    logit_of,
    with_gradients,
)
from .validation import class_index, restricted

_AFFINE = (nn.Linear, nn.modules.conv._ConvNd)
_BATCH_NORM = nn.modules.batchnorm._BatchNorm
# Positively 1-homogeneous (or linear) in eval mode, without a bias of their own.
_ACTIVATIONS = (nn.ReLU, nn.LeakyReLU, nn.PReLU, nn.RReLU, nn.Identity)
_POOLINGS = ("_MaxPoolNd", "_AdaptiveMaxPoolNd", "_AvgPoolNd", "_AdaptiveAvgPoolNd")
_RESHAPINGS = (nn.Flatten, nn.Unflatten, nn.Upsample, nn.modules.padding._ReflectionPadNd)
_HOMOGENEOUS = (
    *_ACTIVATIONS,
    *(getattr(nn.modules.pooling, name) for name in _POOLINGS),
    nn.Sequential,  # an empty one
    *(*_RESHAPINGS, nn.modules.padding._ReplicationPadNd, nn.modules.dropout._DropoutNd),
)


class Decomposition(NamedTuple):
    """Result of :func:`homogeneous_decomposition`; tensors have shape `(batch,)`."""

    homogeneous: Tensor
    """⟨x, ∇Ψ^i(x)⟩."""
    bias: Tensor
    """``β^i(x) = Ψ^i(x) − ⟨x, ∇Ψ^i(x)⟩``."""
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
    if _says_its_bias(module):
        return module.effective_bias()
    if isinstance(module, _AFFINE):
        return module.bias
    if isinstance(module, _BATCH_NORM):
        shift = -module.running_mean / (module.running_var + module.eps).sqrt()
        shift = shift if module.weight is None else module.weight * shift
        return shift if module.bias is None else shift + module.bias
    return None


def _says_its_bias(module: nn.Module) -> bool:
    """Whether its class defines `effective_bias`: a wrapper that passes all questions on does not."""
    return hasattr(type(module), "effective_bias")


class _Probes(TorchFunctionMode):
    """Makes what a model adds something to differentiate by, in this thread and without a trace.

    Wherever a layer uses its bias it gets a copy of it, to differentiate by. To what batch
    normalisation computes, and to the output of a module with a method `effective_bias`, a zero is
    added. So neither an activation within a layer nor one in place behind it bends the derivative.
    """

    def __init__(self, model: nn.Module):
        super().__init__()
        self.thread, self.names, self.biases, self.leaves = threading.get_ident(), [], [], []
        self.copies, self.zeros = {}, {}
        # Kept, so that no other tensor gets the name `id` of one that its module has replaced.
        self.kept = []
        for name, module in model.named_modules():
            bias = effective_bias(module)
            if bias is None:
                continue
            by_hand, batch_norm = _says_its_bias(module), isinstance(module, _BATCH_NORM)
            leaf = torch.zeros_like(bias) if by_hand or batch_norm else bias.detach().clone()
            leaf.requires_grad_(True)
            key = module if by_hand else module.running_mean if batch_norm else bias
            self.kept.append(key)
            if by_hand or batch_norm:
                self.zeros[id(key)] = leaf
            else:  # a bias that two modules share counts at the first
                self.copies.setdefault(id(key), leaf)
            self.names.append(name or type(module).__name__)
            self.biases.append(bias.detach())
            self.leaves.append(leaf)

    def _plus_zero(self, key: object, output: Tensor) -> Tensor:
        zero = self.zeros.get(id(key))
        if zero is None:
            return output
        return output + (zero.view(-1, *[1] * (output.ndim - 2)) if zero.ndim else zero)

    def __torch_function__(self, func, types, args=(), kwargs=None):
        args = [self.copies.get(id(a), a) for a in args]
        kwargs = {name: self.copies.get(id(a), a) for name, a in (kwargs or {}).items()}
        output = func(*args, **kwargs)
        if func.__name__ == "batch_norm":
            for tensor in (*args, *kwargs.values()):
                output = self._plus_zero(tensor, output)
        return output

    def after_module(self, module: nn.Module, inputs, output):
        mine = threading.get_ident() == self.thread and isinstance(output, Tensor)
        return self._plus_zero(module, output) if mine else None


@with_gradients
def homogeneous_decomposition(
    model: nn.Module, x: Tensor, target: int | Tensor | None = None
) -> Decomposition:
    """Split a logit into its homogeneous part and the contributions of the biases.

    One forward and one backward pass of each sample by itself serve all layers: so it does not
    matter which axis of a layer's output is the batch. (And one forward pass of the batch.)

    Parameters
    ----------
    model : nn.Module
        In eval mode. A module that is called twice contributes the sum of its calls, and a bias
        that two modules share all of it to the first of them.
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
    _, logits = checked_logits(model, x)
    index, probes = class_index(target, logits.detach()), _Probes(model)
    with register_module_forward_hook(probes.after_module):
        rows = torch.arange(len(x), device=x.device).split(1)
        parts = [_parts(restricted(model, row), x[row], index[row], probes) for row in rows]
    score, homogeneous, contributions, size = (torch.cat(part) for part in zip(*parts, strict=True))
    check_gradient(homogeneous.isfinite(), index)
    bias = (score - homogeneous).to(x.dtype)
    per_layer = dict(zip(probes.names, contributions.unbind(1), strict=True))
    residual = bias - contributions.sum(1)
    eps = max(torch.finfo(t.dtype).eps for t in (x, *probes.biases))
    if (residual.abs() > 100 * eps * size.clamp(min=1e-30)).any():
        _warn_not_homogeneous(model, residual, bias)
    return Decomposition(homogeneous, bias, per_layer, residual)


def _parts(model: nn.Module, x: Tensor, index: Tensor, probes: _Probes) -> tuple[Tensor, ...]:
    """Of one sample: score, ⟨x, g⟩, contributions `(1, layers)`, and the size of all summands."""
    with probes:
        leaf, logits = leaf_and_logits(model, x)
    score = logit_of(logits, index)
    grads = gradients(score, [leaf, *probes.leaves])
    pairs = list(zip((x.detach(), *probes.biases), grads, strict=True))
    sums = torch.stack([(value * grad).sum() for value, grad in pairs])[None]
    size = torch.stack([(value * grad).abs().sum() for value, grad in pairs]).sum()
    return score.detach(), sums[:, 0], sums[:, 1:], size[None]


def _warn_not_homogeneous(model: nn.Module, residual: Tensor, bias: Tensor) -> None:
    covered = (*_HOMOGENEOUS, *_AFFINE, _BATCH_NORM)
    others, derived = [], []  # a class derived from one of PyTorch's own may do more inside
    for name, module in model.named_modules():
        if next(module.children(), None) is not None or _says_its_bias(module):
            continue
        if not isinstance(module, covered):
            others.append(f"'{name or 'model'}' ({type(module).__name__})")
        elif not type(module).__module__.startswith("torch.nn."):
            derived.append(f"'{name or 'model'}' ({type(module).__name__})")
    kinds = [", ".join(kind) for kind in (others, derived) if kind]
    named = "; perhaps also ".join(kinds)
    named = named or "an operation outside its modules, or a bias used by hand"
    warnings.warn(
        f"the biases do not account for the non-homogeneous part: residual up to "
        f"{residual.abs().max():.3g} of |β| up to {bias.abs().max():.3g}. "
        f"Not positively homogeneous: {named}",
        stacklevel=4,  # past `with_gradients`
    )
