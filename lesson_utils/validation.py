"""Refuse what is undefined: the one place where a model and an input are questioned.

The functions of the book call these before they compute anything. Each refusal names the
argument, what was found, and what to do.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

Model = Callable[[Tensor], Tensor]
Bounds = tuple[float, float]

# Layers that answer differently in train and eval mode, or mix the samples of a batch.
_MODE_DEPENDENT = (
    nn.modules.dropout._DropoutNd,
    nn.modules.batchnorm._NormBase,
    nn.RReLU,
)


def check_input(model: Model, x: Tensor) -> None:
    """Refuse a batch or a model for which the book's quantities are undefined.

    Parameters
    ----------
    model : callable
        Maps `(batch, *input_shape)` to logits `(batch, n_classes)`.
    x : Tensor
        Batch of inputs.

    Raises
    ------
    TypeError
        `x` is no tensor, or holds integers or half-precision numbers.
    ValueError
        `x` is empty, has no batch dimension or is not finite; `model` is in train
        mode with dropout or batch normalisation, or treats a sample differently in
        company; the two live on different devices or in different dtypes. The message
        names the remedy.
    """
    if not isinstance(x, Tensor):
        raise TypeError(f"x must be a torch.Tensor, got {type(x).__name__}: use torch.as_tensor(x)")
    if not x.is_floating_point():
        raise TypeError(
            f"x holds {x.dtype}, but gradients need floating point: "
            "use x.float(), and x.float() / 255 for images stored as bytes"
        )
    if x.dtype in (torch.float16, torch.bfloat16):
        raise TypeError(
            f"x holds {x.dtype}: inner products with gradients lose their digits there. "
            "Measure in single precision: x.float() and model.float()"
        )
    if x.ndim < 2:
        raise ValueError(
            f"x must be a batch of shape (batch, *input_shape), got {tuple(x.shape)}: "
            "for a single sample use x.unsqueeze(0)"
        )
    if x.numel() == 0:
        raise ValueError(f"x is empty (shape {tuple(x.shape)}): pass at least one sample")
    _check_finite("x", x)
    if isinstance(model, nn.Module):
        _check_module(model, x)
    if len(x) > 1:
        _check_samples_are_independent(model, x)


def restricted(model: Model, rows: Tensor) -> Model:
    """The model for some samples of its batch, `rows` of int or bool.

    It is the model itself, unless that is bound to the samples of one batch, as
    :func:`lesson_utils.binarize` with one class a sample is, and says so by a method `restricted_to`.
    """
    return model.restricted_to(rows) if hasattr(model, "restricted_to") else model


def _check_module(model: nn.Module, x: Tensor) -> None:
    for name, module in model.named_modules():
        if not isinstance(module, _MODE_DEPENDENT):
            continue
        where = f"layer '{name or type(module).__name__}' ({type(module).__name__})"
        if module.training:
            raise ValueError(
                f"model is in train mode: its {where} answers differently there, "
                "so there is no single function Ψ to measure. Call model.eval() first"
            )
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is None:
            raise ValueError(
                f"model mixes the samples of a batch: its {where} keeps no running statistics. "
                "Build it with track_running_stats=True"
            )
    tensors = [p for p in (*model.parameters(), *model.buffers()) if p.is_floating_point()]
    for attribute, remedy in (("device", "x.to(device)"), ("dtype", "x.to(dtype)")):
        found = {getattr(p, attribute) for p in tensors}
        mine = getattr(x, attribute)
        if found and mine not in found:
            theirs = ", ".join(sorted(map(str, found)))
            raise ValueError(
                f"model and x disagree in {attribute}: model has {theirs}, x has {mine}. "
                f"Move one of them: {remedy} or model.to({attribute})"
            )


@torch.no_grad()
def _check_samples_are_independent(model: Model, x: Tensor) -> None:
    """Two samples tell: the first must have the same logits alone and in company."""
    one, two = (torch.arange(n, device=x.device) for n in (1, 2))
    alone, together = restricted(model, one)(x[one]), restricted(model, two)(x[two])[:1]
    if alone.shape != together.shape or alone.ndim != 2:
        return  # `check_logits` will say what is wrong
    # Accelerators choose other kernels, and TF32, for other batch sizes.
    rounding = torch.finfo(x.dtype).eps ** 0.5 if x.device.type == "cpu" else 1e-2
    tolerance = rounding * together.abs().amax().clamp(min=1e-30)
    if ((alone - together).abs() > tolerance).any():
        raise ValueError(
            "model gives a sample other logits alone than beside another sample: it mixes the "
            "samples of a batch, or it is random. Per-sample gradients are undefined for it; "
            "normalise within a sample, or pass samples one by one"
        )


def _check_finite(name: str, values: Tensor) -> None:
    finite = values.isfinite().flatten(1).all(1)
    if not finite.all():
        bad = (~finite).nonzero().flatten().tolist()
        shown = ", ".join(map(str, bad[:5])) + (", …" if len(bad) > 5 else "")
        raise ValueError(
            f"{name} is not finite (NaN or infinity) in {len(bad)} of {len(values)} samples "
            f"(indices {shown}): drop or repair these samples"
        )


def check_logits(logits: Tensor, x: Tensor) -> None:
    """Refuse logits that are not finite `(batch, n ≥ 2)` with a gradient; see :func:`lesson_utils.autograd.checked_logits`."""
    shape = tuple(logits.shape)
    if len(shape) == 2 and shape[0] == len(x) and shape[1] == 1:
        raise ValueError(
            "model(x) has one logit column, but a classifier needs at least two: turn a binary "
            "score psi, decided by its sign, into torch.cat([-psi / 2, psi / 2], dim=1)"
        )
    if len(shape) != 2 or shape[0] != len(x):
        raise ValueError(
            f"model(x) must have shape (batch, n_classes) with batch = {len(x)}, got {shape}: "
            "return one row of logits a sample"
        )
    _check_finite("model(x)", logits)
    if not logits.requires_grad:
        raise ValueError(
            "model(x) carries no gradient: remove torch.no_grad(), .detach() or .numpy() from the model"
        )


def class_index(target: int | Tensor | None, logits: Tensor) -> Tensor:
    """Classes `(batch,)` from None (the predicted ones), one class, or one class a sample.

    Raises
    ------
    TypeError, ValueError, IndexError
        `target` is not integer, has another shape, or is no class of the model.
    """
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
            f"target must be one class or one class a sample, shape ({batch},), "
            f"got {tuple(index.shape)}"
        )
    if (index < 0).any() or (index >= n).any():
        raise IndexError(
            f"target must lie in 0 … {n - 1} for a model with {n} logits, "
            f"got values from {int(index.min())} to {int(index.max())}"
        )
    return index.long()


def check_bounds(x: Tensor, bounds: Bounds | None) -> Bounds | None:
    """Refuse bounds that are no increasing pair, or that x does not keep; return them as floats.

    x may miss them by a few roundings, as a resized image does: an attack clips it.
    """
    if bounds is None:
        return None
    try:
        low, high = (math.nan if isinstance(end, str) else float(end) for end in bounds)
    except (
        TypeError,
        ValueError,
        RuntimeError,
    ):  # no sequence, not two, or tensors of many entries
        low = high = math.nan
    if not low < high:
        raise ValueError(
            "bounds must be an increasing pair of numbers (low, high), one for all entries of x, "
            f"got {bounds}. Rescale x if its entries have ranges of their own"
        )
    if isinstance(x, Tensor) and x.is_floating_point() and x.numel():
        ends = [abs(end) for end in (low, high) if math.isfinite(end)]
        rounding = 4 * torch.finfo(x.dtype).eps * max(ends, default=0.0)
        if x.min() < low - rounding or x.max() > high + rounding:
            raise ValueError(
                f"x lies outside bounds {low, high}: its values run from {x.min():.9g} to "
                f"{x.max():.9g}. Rescale x, or use bounds=None to search all of R^d"
            )
    return low, high


def check_alignment(x: Tensor, saliency: Tensor) -> None:
    """Refuse a pair of which one is no batch of the other's kind."""
    for name, value in (("x", x), ("saliency", saliency)):
        if not isinstance(value, Tensor) or not value.is_floating_point():
            raise TypeError(f"{name} must be a floating-point torch.Tensor: use .float() on images")
    kinds = [(tuple(v.shape), v.dtype, str(v.device)) for v in (x, saliency)]
    if x.ndim < 2 or x.numel() == 0 or kinds[0] != kinds[1]:
        raise ValueError(
            "x and saliency must be non-empty batches of one shape (batch, *input_shape), one dtype "
            f"and one device (saliency.to(x) mends these two), got {kinds[0]} and {kinds[1]}"
        )


def check_at_least_one(name: str, value: int) -> None:
    """Refuse a count below 1."""
    if value < 1:
        raise ValueError(f"{name} must be at least 1, got {value}")


def check_strength(strength: float) -> None:
    """Refuse a λ that is negative or not a number."""
    if not strength >= 0:
        raise ValueError(f"strength must be a number ≥ 0, got {strength}")
