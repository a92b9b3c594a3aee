"""Logits and their input gradients, one sample at a time.

Lowest room of the package. Every quantity of the book is built from the logits
Ψ(x) and the gradients ∇Ψ^i(x), so the questions asked of a model and an input
are asked here, once, before anything is computed.

The batch is a convenience, never part of a definition: samples are independent,
so the gradient of the *sum* over the batch holds each sample's own gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

Model = Callable[[Tensor], Tensor]

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
    if len(x) > 1 and not getattr(model, "bound_to_batch", False):
        _check_samples_are_independent(model, x)


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
    alone, together = model(x[:1]), model(x[:2])[:1]
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
    """Refuse logits that are not finite `(batch, n ≥ 2)` with a gradient; see :func:`forward`."""
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


def forward(model: Model, x: Tensor) -> tuple[Tensor, Tensor]:
    """Run `model` on a fresh leaf copy of `x`, with the graph kept for gradients.

    Returns
    -------
    x : Tensor, `(batch, *input_shape)`
        The leaf to differentiate by.
    logits : Tensor, `(batch, n_classes)`
        Ψ(x), attached to `x`.

    Raises
    ------
    TypeError, ValueError
        See :func:`check_input`; also for logits that are not `(batch, n ≥ 2)`, not
        finite, or not differentiable with respect to `x`.
    """
    check_input(model, x)
    leaf, logits = attach(model, x)
    check_logits(logits, x)
    return leaf, logits


def target_index(target: int | Tensor | None, logits: Tensor) -> Tensor:
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


def attach(model: Model, x: Tensor) -> tuple[Tensor, Tensor]:
    """:func:`forward` without the checks, for loops over inputs that were checked once."""
    leaf = x.detach().clone().requires_grad_(True)
    with torch.enable_grad():
        return leaf, model(leaf)


def gradient(output: Tensor, x: Tensor, *, keep_graph: bool = False) -> Tensor:
    """Per-sample gradient of `output`, `(batch,)`, by the leaf `x`, `(batch, *input_shape)`."""
    return gradients(output, [x], keep_graph=keep_graph)[0]


def gradients(output: Tensor, leaves: list[Tensor], *, keep_graph: bool = False) -> list[Tensor]:
    """:func:`gradient` by several leaves at once; the first one is x, on which Ψ must depend."""
    grads = torch.autograd.grad(output.sum(), leaves, retain_graph=keep_graph, allow_unused=True)
    if grads[0] is None:
        raise ValueError(
            "model(x) does not depend on x: the model must not detach or copy its input"
        )
    pairs = zip(grads, leaves, strict=True)
    return [torch.zeros_like(leaf) if grad is None else grad for grad, leaf in pairs]


@torch.enable_grad()
def jacobian(model: Model, x: Tensor) -> tuple[Tensor, Tensor]:
    """All logits and all their gradients: one forward pass, n backward passes.

    A plain loop over the classes needs less time and a quarter of the memory of
    `torch.func.vmap(torch.func.jacrev(...))` on a CPU (see `tests/benchmarks`).

    Returns
    -------
    logits : Tensor, `(batch, n_classes)`
    gradients : Tensor, `(batch, n_classes, *input_shape)`
        `gradients[b, i]` is ∇Ψ^i at sample `b`.
    """
    leaf, logits = forward(model, x)
    n = logits.shape[1]
    rows = [gradient(logits[:, i], leaf, keep_graph=i < n - 1) for i in range(n)]
    return logits.detach(), torch.stack(rows, dim=1)


def pick(logits: Tensor, index: Tensor) -> Tensor:
    """Ψ^i of each sample, `(batch,)`, for one class i `(batch,)` a sample."""
    return logits.gather(1, index[:, None]).squeeze(1)


def margin(logits: Tensor, i: Tensor, j: Tensor) -> Tensor:
    """Ψ^i − Ψ^j of each sample, `(batch,)`, for one pair of classes `(batch,)` a sample."""
    return pick(logits, i) - pick(logits, j)


def margin_gradient(
    logits: Tensor, x: Tensor, reference: Tensor, rival: Tensor, *, keep_graph: bool = False
) -> tuple[Tensor, Tensor]:
    """:func:`margin` and its gradient, for one pair of classes `(batch,)` a sample."""
    value = margin(logits, reference, rival)
    return value.detach(), gradient(value, x, keep_graph=keep_graph)


def ranking(logits: Tensor, reference: Tensor) -> Tensor:
    """Classes by falling logit, `(batch, n_classes)`, with the reference class first."""
    # At +inf the reference comes first and is no rival of its own; ties keep their order.
    raised = logits.detach().scatter(1, reference[:, None], torch.inf)
    return raised.argsort(dim=1, descending=True, stable=True)


def ranked_margins(
    logits: Tensor, x: Tensor, *, reference: Tensor | None = None, top_k: int | None = None
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Margins Ψ^{i*} − Ψ^j and their gradients, the strongest rival j first.

    One backward pass a rival, and one gradient in memory at a time.

    Parameters
    ----------
    logits, x : Tensor
        As returned by :func:`forward`.
    reference : Tensor of int, `(batch,)`, optional
        The class i*; by default the first maximal logit.
    top_k : int, optional
        Stop after this many rivals.

    Yields
    ------
    rival : Tensor of int, `(batch,)`
    margin : Tensor, `(batch,)`
    gradient : Tensor, `(batch, *input_shape)`
    """
    reference = logits.argmax(1) if reference is None else reference
    rivals = ranking(logits, reference)[:, 1:][:, :top_k].unbind(1)
    for rank, rival in enumerate(rivals, start=1):
        keep = rank < len(rivals)
        yield rival, *margin_gradient(logits, x, reference, rival, keep_graph=keep)


def norm(v: Tensor) -> Tensor:
    """Euclidean norm of each sample of `v`, `(batch, *shape)`, flattened: `(batch,)`.

    Scaled by the largest entry, as BLAS does, so that tiny or huge gradients of a
    saturated network neither underflow nor overflow.
    """
    flat = v.flatten(1)
    scale = flat.abs().amax(1).clamp(min=torch.finfo(v.dtype).tiny)
    return scale * torch.linalg.vector_norm(flat / scale[:, None], dim=1)


def inner(v: Tensor, w: Tensor) -> Tensor:
    """Inner product ⟨v, w⟩ of each pair of samples, flattened: `(batch,)`."""
    return (v.flatten(1) * w.flatten(1)).sum(1)


def degree_of_homogeneity(homogeneous: Tensor, bias: Tensor) -> Tensor:
    """``|⟨x, g⟩| / (|⟨x, g⟩| + |β|)``, in [0, 1]: the share of a logit that is homogeneous."""
    return homogeneous.abs() / (homogeneous.abs() + bias.abs())


def per_sample(values: Tensor, like: Tensor) -> Tensor:
    """Reshape `(batch,)` to `(batch, 1, …, 1)`, to multiply samples of the shape of `like`."""
    return values.view(-1, *[1] * (like.ndim - 1))
