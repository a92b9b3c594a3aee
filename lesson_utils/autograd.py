"""Logits Ψ(x), their gradients ∇Ψ^i(x), norms and inner products, one sample at a time.

The batch is a convenience, never part of a definition: samples are independent,
so the gradient of the *sum* over the batch holds each sample's own gradient.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import wraps

import torch
from torch import Tensor

from .validation import (
    Model,
    check_company,
    check_input,
    check_logits,
    compute_alone,
    leaf_and_logits,
)


def with_gradients(function):
    """Let a function differentiate, whether or not its caller has switched gradients off."""

    @wraps(function)
    def call(*args, **kwargs):
        with torch.inference_mode(False), torch.enable_grad():
            return function(*args, **kwargs)

    return call


def checked_logits(model: Model, x: Tensor) -> tuple[Tensor, Tensor]:
    """Run `model` on a fresh leaf copy of `x`, with the graph kept for gradients.

    The model never gets `x` itself, and is questioned first: up to four samples go forward and
    back once more, a 64th part of what a batch of 256 costs (see :mod:`lesson_utils.validation`).

    Returns
    -------
    x : Tensor, `(batch, *input_shape)`
        The leaf to differentiate by.
    logits : Tensor, `(batch, n_classes)`
        Ψ(x), attached to `x`, of its dtype or, where the model computes so, in double precision.

    Raises
    ------
    TypeError, ValueError
        See :func:`lesson_utils.validation.check_input` and :func:`lesson_utils.validation.compute_alone`;
        also for logits that are no tensor, not `(batch, n ≥ 2)`, not finite, not
        differentiable with respect to `x`, or other for some samples in company than alone.
    """
    check_input(model, x)
    alone = compute_alone(model, x)
    leaf, logits = leaf_and_logits(model, x)
    check_logits(logits, x)
    check_company(logits.detach(), *alone)
    return leaf, logits


def gradient(output: Tensor, x: Tensor, *, keep_graph: bool = False) -> Tensor:
    """Per-sample gradient of `output`, `(batch,)`, by the leaf `x`, `(batch, *input_shape)`."""
    return gradients(output, [x], keep_graph=keep_graph)[0]


def check_gradient(finite: Tensor, class_of: Tensor) -> None:
    """Refuse gradients of some classes that are not finite at some samples, both `(batch,)`."""
    if finite.all():
        return
    bad = ~finite
    samples, classes = bad.nonzero().flatten().tolist(), class_of[bad].tolist()
    shown = ", ".join(map(str, samples[:5])) + (", …" if len(samples) > 5 else "")
    raise ValueError(
        f"the gradient of model(x) by x is not finite (NaN or infinity) in {len(samples)} of "
        f"{len(finite)} samples (indices {shown}), first for class {classes[0]}: as those of roots, "
        "logarithms and norms at 0 are, on either side of torch.where. Keep their arguments away "
        "from 0, e.g. (z + 1e-12).sqrt(), or drop these samples"
    )


def gradients(output: Tensor, leaves: list[Tensor], *, keep_graph: bool = False) -> list[Tensor]:
    """:func:`gradient` by several leaves at once; the first one is x, on which Ψ must depend."""
    grads = torch.autograd.grad(output.sum(), leaves, retain_graph=keep_graph, allow_unused=True)
    if grads[0] is None:
        raise ValueError(
            "model(x) does not depend on x: the model must not detach or copy its input"
        )
    pairs = zip(grads, leaves, strict=True)
    return [torch.zeros_like(leaf) if grad is None else grad for grad, leaf in pairs]


@with_gradients
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
    leaf, logits = checked_logits(model, x)
    n = logits.shape[1]
    rows = [gradient(logits[:, i], leaf, keep_graph=i < n - 1) for i in range(n)]
    for i, row in enumerate(rows):
        check_gradient(row.flatten(1).isfinite().all(1), logits.new_full((len(x),), i).long())
    return logits.detach().to(x.dtype), torch.stack(rows, dim=1)


def logit_of(logits: Tensor, index: Tensor) -> Tensor:
    """Ψ^i of each sample, `(batch,)`, for one class i `(batch,)` a sample."""
    return logits.gather(1, index[:, None]).squeeze(1)


def margin(logits: Tensor, i: Tensor, j: Tensor) -> Tensor:
    """Ψ^i − Ψ^j of each sample, `(batch,)`, for one pair of classes `(batch,)` a sample."""
    return logit_of(logits, i) - logit_of(logits, j)


def margin_gradient(
    logits: Tensor, x: Tensor, reference: Tensor, rival: Tensor, *, keep_graph: bool = False
) -> tuple[Tensor, Tensor]:
    """:func:`margin` and its gradient, for one pair of classes `(batch,)` a sample."""
    value = margin(logits, reference, rival)
    return value.detach().to(x.dtype), gradient(value, x, keep_graph=keep_graph)


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
        As returned by :func:`checked_logits`.
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

    The squares of tiny or huge gradients of a saturated network neither underflow nor overflow:
    those of single precision are summed in double, others scaled by the largest entry, as in BLAS.
    """
    flat = v.flatten(1)
    if v.dtype == torch.float32:
        return torch.linalg.vector_norm(flat, dim=1, dtype=torch.float64).to(v.dtype)
    scale = flat.abs().amax(1).clamp(min=torch.finfo(v.dtype).tiny)
    return scale * torch.linalg.vector_norm(flat / scale[:, None], dim=1)


def inner(v: Tensor, w: Tensor) -> Tensor:
    """Inner product ⟨v, w⟩ of each pair of samples, flattened: `(batch,)`."""
    return (v.flatten(1) * w.flatten(1)).sum(1)


def per_sample(values: Tensor, like: Tensor) -> Tensor:
    """Reshape `(batch,)` to `(batch, 1, …, 1)`, to multiply samples of the shape of `like`."""
    return values.view(-1, *[1] * (like.ndim - 1))
