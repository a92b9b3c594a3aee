"""Refuse what is undefined: the one place where a model and an input are questioned.

The functions of the book call these before they compute anything. Each refusal names the
argument, what was found, and what to do.

A model is questioned in three ways. Its modules say whether they are in train mode. Four samples
of the batch are sent through it once more, in other company, while all that it does is watched
(:class:`_Watch`): it must draw no random numbers, change none of its buffers, and keep full
precision. And the logits of these samples must be what they are in the whole batch, without any
derivative by another sample (:func:`check_company`).
"""

from __future__ import annotations

import functools
import math
import operator
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress

import torch
from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_forward_hook,
    register_module_forward_pre_hook,
)
from torch.overrides import TorchFunctionMode

Model = Callable[[Tensor], Tensor]
Bounds = tuple[float, float]

# Layers that answer differently in train and eval mode, or mix the samples of a batch.
_DROPOUT, _NORM = nn.modules.dropout._DropoutNd, nn.modules.batchnorm._NormBase
_MODE_DEPENDENT = (_DROPOUT, _NORM, nn.RReLU)
_PRECISIONS = (torch.float32, torch.float64)
_COMPILED = threading.RLock()  # the stance of torch.compile is one for all threads


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
        `x` is no tensor, or holds anything but 32- or 64-bit floating-point numbers; `model` cannot
        be called, or is a class.
    ValueError
        `x` is empty, sparse, has no batch dimension or is not finite; `model` is in train
        mode with dropout or batch normalisation; `torch.autocast` is on. The message names
        the remedy.
    """
    if not callable(model) or isinstance(model, type):
        remedy = f"an instance, {model.__name__}(…)" if isinstance(model, type) else "an nn.Module"
        raise TypeError(f"model must be a network or a function, got {model!r}: pass {remedy}")
    check_floating("x", x)
    if x.dtype not in _PRECISIONS:
        raise TypeError(
            f"x holds {x.dtype}: inner products with gradients lose their digits there. "
            "Measure in single precision: x.float() and model.float()"
        )
    if x.layout != torch.strided:
        raise ValueError(f"x is stored as {x.layout}: use x.to_dense(), one array for all samples")
    if x.is_meta:
        raise ValueError(
            "x is on the device 'meta', where tensors have no entries: use another one"
        )
    if x.ndim < 2:
        raise ValueError(
            f"x must be a batch of shape (batch, *input_shape), got {tuple(x.shape)}: "
            "for a single sample use x.unsqueeze(0)"
        )
    if x.numel() == 0:
        raise ValueError(f"x is empty (shape {tuple(x.shape)}): pass at least one sample")
    check_finite("x", x)
    if torch.is_autocast_enabled(x.device.type):
        raise ValueError(
            f"torch.autocast is on for {x.device.type}: half precision loses the digits of margins "
            "and gradients. Call outside of it, or inside torch.autocast(..., enabled=False)"
        )
    if isinstance(model, nn.Module):
        _check_module(model)


def check_floating(name: str, values: Tensor) -> None:
    """Refuse what is no tensor of floating-point numbers."""
    if not isinstance(values, Tensor):
        found = type(values).__name__
        raise TypeError(f"{name} must be a torch.Tensor, got {found}: use torch.as_tensor({name})")
    if not values.is_floating_point():
        raise TypeError(
            f"{name} holds {values.dtype}, but floating-point numbers are needed: "
            f"use {name}.float(), and {name}.float() / 255 for images stored as bytes"
        )
    if values.is_nested:
        raise ValueError(
            f"{name} is a nested tensor, whose samples have shapes of their own: pass those of one "
            "shape together, torch.stack(samples)"
        )


def check_agreement(model: Model, x: Tensor) -> None:
    """Refuse a module whose weights are all on another device, or of another dtype, than x."""
    tensors = (*model.parameters(), *model.buffers()) if isinstance(model, nn.Module) else ()
    tensors = [t for t in tensors if t.is_floating_point()]
    for attribute in ("device", "dtype"):
        found, mine = {getattr(t, attribute) for t in tensors}, getattr(x, attribute)
        if found and mine not in found:
            theirs = ", ".join(sorted(map(str, found)))
            raise ValueError(
                f"model and x disagree in {attribute}: model has {theirs}, x has {mine}. "
                f"Move one of them: x.to({attribute}) or model.to({attribute})"
            )


def restricted(model: Model, rows: Tensor) -> Model:
    """The model for some samples of its batch, `rows` of int or bool.

    It is the model itself, unless that is bound to the samples of one batch, as
    :func:`lesson_utils.bound.binarize` with one class a sample is, and says so by a method `restricted_to`.
    """
    return model.restricted_to(rows) if hasattr(model, "restricted_to") else model


def leaf_and_logits(model: Model, x: Tensor) -> tuple[Tensor, Tensor]:
    """A fresh leaf copy of `x`, and its logits with the graph kept, in the dtype of `x` or a finer one.

    Margins of logits in double precision are taken there, and rounded to the dtype of `x` after that.
    No question is asked but that the logits are a tensor: for loops over inputs that were checked
    once.
    """
    leaf = x.detach().clone().requires_grad_(True)
    with torch.enable_grad():
        logits = differentiable(model, leaf.clone())  # a clone: the model may change its input
    if logits.dtype in _PRECISIONS:
        logits = logits.to(torch.promote_types(x.dtype, logits.dtype))
    return leaf, logits


def logits_alone(model: Model, x: Tensor) -> Tensor:
    """The logits of a copy of x, without a graph. A model that differentiates inside gets one."""
    try:
        with torch.no_grad():
            return as_tensor_of_logits(model(x.clone()))
    except RuntimeError as error:
        if "not require grad" not in str(error):
            raise
    return leaf_and_logits(model, x)[1].detach()


def differentiable(model: Model, x: Tensor) -> Tensor:
    """The logits of a model, such that any number of right derivatives can be taken.

    A compiled model runs uncompiled: its compiled graph allows one backward pass only.
    """
    with _uncompiled(), _LaidOutAnew():
        return as_tensor_of_logits(model(x))


@contextmanager
def _uncompiled() -> Iterator[None]:
    """Without what `torch.compile` made of a model or of its parts."""
    if "torch._dynamo" not in sys.modules:  # nothing was compiled
        yield
        return
    with _COMPILED, torch.compiler.set_stance("force_eager"), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Using `torch.compile.* global hooks")  # ours
        yield


class _LaidOutAnew(TorchFunctionMode):
    """While a model is called: normalisation of one sample gets input and gradient in one order in memory.

    On a CPU, where one has its channels first and the other last and the axis of the batch has length 1,
    as behind an image that is read as tokens, PyTorch (2.15) differentiates wrongly, without a
    word. Instance normalisation makes such an axis itself.
    """

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func.__name__ not in ("batch_norm", "instance_norm"):
            return func(*args, **kwargs)
        x = kwargs.pop("input") if "input" in kwargs else args[0]
        single = isinstance(x, Tensor) and (len(x) == 1 or func.__name__ == "instance_norm")
        output = func(x.contiguous() if single else x, *args[1:], **kwargs)
        if single and output.requires_grad:
            output.register_hook(Tensor.contiguous)
        return output


def as_tensor_of_logits(logits: object) -> Tensor:
    """What a model returned, if that is a tensor; else a refusal with the remedy for its type."""
    if isinstance(logits, Tensor):
        if logits.is_complex():
            raise TypeError(f"model(x) holds {logits.dtype}: return real logits, e.g. output.real")
        if logits.layout != torch.strided:
            raise TypeError(f"model(x) is stored as {logits.layout}: return output.to_dense()")
        return logits
    if hasattr(logits, "logits"):
        remedy = "output.logits"
    elif isinstance(logits, Mapping):
        key = "logits" if "logits" in logits else next(iter(logits), "logits")
        remedy = f"output[{key!r}]"
    else:
        remedy = "output[0]" if isinstance(logits, tuple | list) else "the tensor of logits"
    raise TypeError(
        f"model(x) must be a tensor (batch, n_classes), got {type(logits).__name__}: wrap model in "
        f"a function or an nn.Module that returns {remedy}"
    )


def check_is_differentiable(model: nn.Module) -> None:
    """Refuse a model whose weights take no part in gradients."""
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if tensor.is_inference():
            raise ValueError(
                f"model was built inside torch.inference_mode(), where its '{name}' can take no part "
                "in gradients: build it outside, or inside torch.no_grad()"
            )


def _check_module(model: nn.Module) -> None:
    check_is_differentiable(model)
    for name, module in model.named_modules():
        where = f"layer '{name or type(module).__name__}' ({type(module).__name__})"
        # a frozen scripted module has no mode any more
        if isinstance(module, _MODE_DEPENDENT) and getattr(module, "training", False):
            raise ValueError(
                f"model is in train mode: its {where} answers differently there, "
                "so there is no single function Ψ to measure. Call model.eval() first"
            )
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is None:
            raise ValueError(
                f"model mixes the samples of a batch: its {where} keeps no running statistics. "
                "Build it with track_running_stats=True"
            )


class _Watch(TorchFunctionMode):
    """Sees the operations and the modules that a model calls in this thread, and refuses some.

    A model may be a module, or any function around some: each is questioned before it is called.
    What happens inside scripted modules cannot be seen, except by its effects.
    """

    def __init__(self, model: Model, x: Tensor):
        super().__init__()
        self.model = _as_module(model)
        self.thread, self.device = threading.get_ident(), x.device
        self.eps = torch.finfo(x.dtype).eps
        on_gpu = [torch.cuda.default_generators[x.device.index]] if x.is_cuda else []
        self.random = [(g, g.get_state()) for g in (torch.default_generator, *on_gpu)]
        self.modules, self.outermost, self.buffers, self.changed = set(), None, [], []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for part in result if isinstance(result, tuple | list) else (result,):
            if isinstance(part, Tensor) and part.requires_grad:
                self._refuse_reduced(part.dtype)
                # An LSTM takes and returns all digits, whatever it computes with.
                if torch.is_autocast_enabled(self.device.type):
                    self._refuse_reduced(torch.get_autocast_dtype(self.device.type))
        return result

    def _refuse_reduced(self, dtype: torch.dtype) -> None:
        self.eps = max(self.eps, torch.finfo(dtype).eps)
        if self.eps > torch.finfo(torch.float32).eps:
            raise ValueError(
                f"model computes in {dtype}: margins and gradients lose their digits. Let "
                "it compute in single precision: model.float(), without casts or autocast inside"
            )

    def before_module(self, module: nn.Module, inputs) -> None:
        if threading.get_ident() != self.thread:
            return
        if module not in self.modules:
            _check_module(module)
            self.modules.update(module.modules())
        if self.outermost is None:
            self.outermost = module
            for path, part in module.named_modules():
                if getattr(part, "training", False) or not isinstance(part, _NORM):
                    for name, buffer in part.named_buffers(recurse=False):
                        old = buffer.clone() if _has_entries(buffer) else None
                        self.buffers.append((f"{path}.{name}".lstrip("."), part, name, buffer, old))

    @torch.no_grad()
    def after_module(self, module: nn.Module, inputs, output) -> None:
        """Undo what the outermost module did to its buffers: those that it had when it was called.

        Once it has returned they may be others: `torch.func.functional_call` lends it some.
        """
        if threading.get_ident() != self.thread or module is not self.outermost:
            return
        for path, part, name, buffer, _ in self.buffers:
            if getattr(part, name, None) is not buffer:
                put_back = setattr if hasattr(part, name) else nn.Module.register_buffer
                put_back(part, name, buffer)
                self.changed.append(path)
        pairs = [(path, buffer, old) for path, _, _, buffer, old in self.buffers if old is not None]
        # NaN is as it was. All together: to ask for each buffer would stop a GPU each time.
        same = [((buffer == old) | (old != old)).all() for _, buffer, old in pairs]
        same = torch.stack([s.to(self.device) for s in same]).tolist() if same else []
        for (path, buffer, old), unchanged in zip(pairs, same, strict=True):
            if not unchanged:
                buffer.copy_(old)
                self.changed.append(path)
        self.outermost, self.buffers = None, []

    def undone(self) -> str:
        """What the model did to its buffers and to the random state, after it is undone."""
        deeds = [f"changes its buffer '{path}'" for path in self.changed]
        for generator, state in self.random:
            if not torch.equal(generator.get_state(), state):
                generator.set_state(state)
                deeds.append("draws random numbers")
        return deeds[0] if deeds else ""


def _has_entries(buffer: Tensor) -> bool:
    """Whether the numbers of a buffer can be compared; not those that `torch.vmap` keeps for itself."""
    dense = buffer.layout == torch.strided and not buffer.is_meta
    return dense and not torch._C._functorch.is_functorch_wrapped_tensor(buffer)


@contextmanager
def watched(model: Model, x: Tensor) -> Iterator[_Watch]:
    """Watch a model while it is called, as `.model` of the watch; refuse what it does to its buffers and to the random state.

    Raises
    ------
    ValueError
        See :func:`compute_alone`.
    """
    watch = _Watch(model, x)
    try:
        with (
            _uncompiled(),
            watch,
            register_module_forward_pre_hook(watch.before_module),
            register_module_forward_hook(watch.after_module, always_call=True),
        ):
            yield watch
    finally:
        deed = watch.undone()
    if deed:
        raise ValueError(
            f"model {deed} when it is called (dropout, batch statistics, stochastic depth, spectral "
            "norm in train mode?): there is no single function Ψ to measure. Call model.eval() "
            "first, and pass training=False to functions such as dropout"
        )


def compute_alone(model: Model, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Send up to four samples, spread over the batch, through a watched model in pairs.

    Returns
    -------
    rows : Tensor of int, `(k,)`
        Which samples, none where the output is no logits (:func:`check_logits` will say why).
    logits : Tensor, `(k, n_classes)`
    tolerance : Tensor, `(k, 1)`
        How far rounding may take the logits of each sample, relative to its summands
        ``|Ψ| + Σ_m |x_m ∂_m Ψ|``: the logits themselves may cancel.

    Raises
    ------
    ValueError
        `model` draws random numbers, changes its buffers, computes in half precision, or lets the
        logits of one sample of a pair depend on the other one (nothing of it leaves a trace); or
        it fails, and its weights are on another device or of another dtype than x.
    """
    count = min(4, len(x))
    rows = torch.arange(count, device=x.device) * (len(x) - 1) // max(count - 1, 1)
    pairs, found = [rows] if len(x) == 1 else [rows[0::2], rows[1::2]], []
    pairs = [pair.expand(min(2, len(x))) for pair in pairs]  # one sample is its own company
    sizes, mixed = [], []
    try:
        with watched(model, x) as watch:
            for pair in pairs:
                with _hint_at_axes(x):
                    leaf, logits = leaf_and_logits(restricted(watch.model, pair), x[pair])
                if watch.changed:  # and changed back, which is no graph to go backward through
                    break
                if logits.ndim != 2 or len(logits) != len(pair) or not logits.requires_grad:
                    return rows[:0], logits, logits.new_zeros(0)
                found.append(logits.detach())
                for k in range(len(pair)):
                    slope = _slope(logits[k].max(), leaf, keep=k == 0).abs()
                    mixed.append((torch.cat([slope[:k], slope[k + 1 :]]) > 0).any())
                    summands = (leaf.detach()[k].abs() * slope[k]).nansum()
                    sizes.append(found[-1][k].abs().max() + summands)
    except RuntimeError:
        check_agreement(model, x)  # the likely reason
        raise
    if torch.stack(mixed).any():
        _refuse_mixing("the logits of a sample have a derivative by another sample")
    # Accelerators choose other kernels, and TF32, for other batch sizes.
    rounding = watch.eps**0.5 if x.device.type == "cpu" else 1e-2
    return torch.cat(pairs), torch.cat(found), rounding * torch.stack(sizes)[:, None]


@contextmanager
def _hint_at_axes(x: Tensor) -> Iterator[None]:
    """Where a model fails, and x looks like images in another layout, a note to the error says so."""
    try:
        yield
    except Exception as error:
        if x.ndim == 3 and x.shape[0] in (1, 3):
            error.add_note(f"x has shape {tuple(x.shape)}. If that is one image, use x[None]")
        if x.ndim == 4 and x.shape[3] in (1, 3) and x.shape[1] not in (1, 3):
            error.add_note(
                f"x has shape {tuple(x.shape)}. If the channels come last, use x.movedim(-1, 1)"
            )
        raise


def _as_module(model: Model) -> Model:
    """A method of a module as a module, so that the buffers of its owner are watched."""
    method = model
    while isinstance(method, functools.partial):
        method = method.func
    owner = getattr(method, "__self__", None)
    return _Method(owner, model) if isinstance(owner, nn.Module) else model


class _Method(nn.Module):
    """Calls a method of `owner`."""

    def __init__(self, owner: nn.Module, method: Model):
        super().__init__()
        self.owner, self.method = owner, method
        self.training = owner.training  # and not that of its parts

    def forward(self, x: Tensor) -> object:
        return self.method(x)


def _slope(logit: Tensor, leaf: Tensor, *, keep: bool) -> Tensor:
    """Gradient of one logit by the whole batch; zero where there is none."""
    (grad,) = torch.autograd.grad(logit, leaf, retain_graph=keep, allow_unused=True)
    return torch.zeros_like(leaf) if grad is None else grad


def check_company(logits: Tensor, rows: Tensor, alone: Tensor, tolerance: Tensor) -> None:
    """Refuse logits of a whole batch, of which some rows differ from those that :func:`compute_alone` found.

    It cannot be seen what a batch does to the other samples only.
    """
    if len(rows) and logits.shape[1:] != alone.shape[1:]:
        _refuse_mixing("the number of logits depends on the batch")
    # NaN alone is a difference, too
    if len(rows) and not ((alone - logits[rows]).abs() <= tolerance).all():
        _refuse_mixing("a sample has other logits alone than beside other samples")


def _refuse_mixing(found: str) -> None:
    raise ValueError(
        f"model mixes the samples of a batch, or it is random: {found}. Per-sample gradients are "
        "undefined for it; normalise within a sample, or pass samples one by one"
    )


def check_finite(name: str, values: Tensor) -> None:
    """Refuse values of which some are NaN or infinite, and say in which samples."""
    finite = values.isfinite().flatten(1).all(1)
    if not finite.all():
        bad = (~finite).nonzero().flatten().tolist()
        shown = ", ".join(map(str, bad[:5])) + (", …" if len(bad) > 5 else "")
        raise ValueError(
            f"{name} is not finite (NaN or infinity) in {len(bad)} of {len(values)} samples "
            f"(indices {shown}): drop or repair these samples"
        )


def check_shape_of_logits(logits: Tensor, x: Tensor) -> None:
    """Refuse logits that are not `(batch, n ≥ 2)`."""
    shape = tuple(logits.shape)
    if len(shape) == 2 and shape[0] == len(x) and shape[1] == 1:
        raise ValueError(
            "model(x) has one logit column, but a classifier needs at least two: turn a binary "
            "score psi, decided by its sign, into torch.cat([-psi / 2, psi / 2], dim=1)"
        )
    if len(shape) != 2 or shape[0] != len(x):
        squeezed = " (a .squeeze() without dim drops the axis of a batch of one)" * (len(x) == 1)
        raise ValueError(
            f"model(x) must have shape (batch, n_classes) with batch = {len(x)}, got {shape}: "
            f"return one row of logits a sample{squeezed}"
        )


def check_logits(logits: Tensor, x: Tensor) -> None:
    """Refuse logits that are not finite `(batch, n ≥ 2)` with a gradient; see :func:`lesson_utils.autograd.checked_logits`."""
    check_shape_of_logits(logits, x)
    if logits.dtype not in _PRECISIONS:
        raise ValueError(
            f"model(x) holds {logits.dtype}: return the logits in single or double precision"
        )
    check_finite("model(x)", logits)
    if not logits.requires_grad:
        raise ValueError(
            "model(x) carries no gradient: remove torch.no_grad(), .detach() or .numpy() from the model"
        )


def class_index(target: int | Tensor | None, logits: Tensor, name: str = "target") -> Tensor:
    """Classes `(batch,)` from None (the predicted ones), one class, or one class a sample.

    `name` is what the argument is called where it comes from.

    Raises
    ------
    TypeError, ValueError, IndexError
        `target` is not integer, has another shape, or is no class of the model.
    """
    batch, n = logits.shape
    if target is None:
        return logits.argmax(1)
    try:
        index = torch.as_tensor(target, device=logits.device)
    except (TypeError, ValueError, RuntimeError):  # a word, None in a list, lists of two lengths
        raise TypeError(f"{name} must hold class indices (integers), got {target!r}") from None
    if index.is_floating_point() or index.is_complex() or index.dtype == torch.bool:
        raise TypeError(f"{name} must hold class indices (integers), got {index.dtype}")
    index = index.long()  # those without a sign know no comparison
    if index.ndim == 0:
        index = index.expand(batch)
    if index.shape != (batch,):
        raise ValueError(
            f"{name} must be one class or one class a sample, shape ({batch},), "
            f"got {tuple(index.shape)}"
        )
    if (index < 0).any() or (index >= n).any():
        raise IndexError(
            f"{name} must lie in 0 … {n - 1} for a model with {n} logits, "
            f"got values from {int(index.min())} to {int(index.max())}"
        )
    return index


def check_labels(y: Tensor, x: Tensor, name: str = "y") -> None:
    """Refuse labels that are not one integer for each of the samples x, of which there must be one."""
    if len(x) == 0:
        raise ValueError(f"x is empty (shape {tuple(x.shape)}): pass at least one sample")
    if not isinstance(y, Tensor):
        raise TypeError(
            f"{name} must be a torch.Tensor, got {type(y).__name__}: use torch.as_tensor({name})"
        )
    if y.is_floating_point() or y.is_complex() or y.dtype == torch.bool:
        raise TypeError(
            f"{name} must hold labels (integers), got {y.dtype}: use {name}.long(), and "
            f"{name}.argmax(1) for rows with one number a class"
        )
    if y.shape != (len(x),):
        raise ValueError(
            f"{name} must be one label a sample of x, shape ({len(x)},), got {tuple(y.shape)}: "
            f"use {name}.argmax(1) for rows with one number a class, {name}.flatten() for a column"
        )


def check_label_range(y: Tensor, logits: Tensor, name: str = "y") -> None:
    """Refuse labels that are no classes of a model with these logits."""
    n, y = logits.shape[1], y.long()  # labels without a sign know no comparison
    if (y < 0).any() or (y >= n).any():
        raise IndexError(
            f"{name} must lie in 0 … {n - 1} for a model with {n} logits, got labels from "
            f"{int(y.min())} to {int(y.max())}: number the classes from 0, or give the model more"
        )


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
        check_floating(name, value)
    kinds = [(tuple(v.shape), v.dtype, str(v.device)) for v in (x, saliency)]
    if x.ndim < 2 or x.numel() == 0 or kinds[0] != kinds[1]:
        raise ValueError(
            "x and saliency must be non-empty batches of one shape (batch, *input_shape), one dtype "
            f"and one device (saliency.to(x) mends these two), got {kinds[0]} and {kinds[1]}"
        )


def check_integer(name: str, value: int, *, least: int = 1) -> int:
    """`value` as an int; refused if it is no integer, below `least`, or more than 63 bits hold."""
    found = None
    with suppress(TypeError):  # also that of a tensor of several entries
        found = operator.index(value)
    if found is None or isinstance(value, bool):
        remedy = f": use int({value!r})" if isinstance(value, (float, str)) else ""
        raise TypeError(f"{name} must be an integer, got {value!r}{remedy}")
    if found < least:
        raise ValueError(f"{name} must be at least {least}, got {found}")
    if found >= 2**63:
        raise ValueError(f"{name} must be below 2**63, got {found}")
    return found


def in_chunks(x: Tensor, chunk_size: int | None) -> tuple[Tensor, ...]:
    """Rows of x, `chunk_size` at a time; None: as many as keep one gradient under 2^22 numbers."""
    if chunk_size is None:
        chunk_size = max(1, 2**22 // x[0].numel())
    chunk_size = check_integer("chunk_size", chunk_size)
    return torch.arange(len(x), device=x.device).split(chunk_size)


def check_number(name: str, value: float, *, positive: bool = False) -> None:
    """Refuse what is no number, negative or infinite; and 0, if it must be positive."""
    if not hasattr(value, "__float__") or math.prod(getattr(value, "shape", ())) != 1:
        raise TypeError(f"{name} must be a number, got {value!r}")
    if not 0 <= value < math.inf or (positive and value == 0):
        least = "> 0" if positive else "≥ 0"
        raise ValueError(f"{name} must be a number {least} and finite, got {value}")
