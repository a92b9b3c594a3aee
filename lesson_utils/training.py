"""Training, plain and robust (double backpropagation; lesson 8)."""

from __future__ import annotations

from contextlib import nullcontext
from inspect import signature

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import (
    batch_norm,
    cross_entropy,
    multi_head_attention_forward,
    scaled_dot_product_attention,
)
from torch.overrides import TorchFunctionMode

from .autograd import per_sample, with_gradients
from .validation import (
    as_tensor_of_logits,
    check_agreement,
    check_finite,
    check_floating,
    check_integer,
    check_is_differentiable,
    check_label_range,
    check_labels,
    check_number,
    check_shape_of_logits,
    differentiable,
    logits_alone,
    watched,
)


@with_gradients
def gradient_penalty_loss(
    model: nn.Module, x: Tensor, y: Tensor, strength: float, *, check: bool = True
) -> tuple[Tensor, Tensor]:
    """Cross-entropy with a penalty on its input gradient.

    ``mean_b ℓ(Ψ(x_b), y_b) + λ · mean_b ‖∇_x ℓ(Ψ(x_b), y_b)‖²``

    The gradient is taken per sample, x in pixels of [0, 1]. Training by the gradient
    of a gradient is double backpropagation (Drucker & LeCun 1992).

    Parameters
    ----------
    model : nn.Module
        In whatever mode the training uses, but with batch normalisation in eval mode where
        `strength > 0`: in train mode the gradient by one sample depends on the others.
    x : Tensor, `(batch, *input_shape)`
    y : Tensor of int, `(batch,)`
        True labels, numbered from 0.
    strength : float
        λ ≥ 0; with 0 no second gradient is computed.
    check : bool
        Where `strength > 0`, ask by one more backward pass whether the loss of a sample has a
        derivative by another one. A training asks at its first step.

    Returns
    -------
    loss : Tensor, scalar
        The whole objective, ready for `.backward()`, or for :func:`backward` if the model has both
        attention and checkpoints (`torch.utils.checkpoint`).
    penalty : Tensor, scalar
        The mean squared gradient norm, detached; 0 where `strength` is 0.

    Raises
    ------
    TypeError
        `x` holds no floating-point numbers, `y` no integers, `strength` is no number, or `model`
        returns no tensor.
    ValueError
        `x` is empty, `y` is not one label a sample, `model` returns no logits `(batch, n ≥ 2)`; or
        `strength` is negative or infinite, or positive while batch normalisation is in train mode
        or the model mixes samples in another way.
    IndexError
        `y` holds a label that is no class of the model (on a GPU: an error of CUDA's).
    """
    check_number("strength", strength)
    check_floating("x", x)
    check_labels(y, x)
    if strength == 0:
        return _cross_entropy(model, x.detach(), y, "mean"), x.new_zeros(())
    _check_penalty_is_per_sample(model)
    x = x.detach().clone().requires_grad_(True)
    with _TwiceDifferentiable(), sdpa_kernel(SDPBackend.MATH):
        losses = _cross_entropy(model, x, y, "none", differentiable)
        # in here too: a checkpoint calls its part of the model again
        (grad,) = torch.autograd.grad(losses.sum(), x, create_graph=True)
        if check and len(x) > 1:
            _check_independence(losses, x, grad.detach())
    penalty = grad.flatten(1).square().sum(1).mean()
    return losses.mean() + strength * penalty, penalty.detach()


def backward(loss: Tensor, strength: float) -> None:
    """Differentiate a loss by the weights, also through a checkpoint with attention.

    A checkpoint calls its part of the model again here, and attention must choose the same kernel
    as before.

    Parameters
    ----------
    loss : Tensor, scalar
        Of :func:`gradient_penalty_loss`, or a multiple of it.
    strength : float
        The λ that it was given.
    """
    with sdpa_kernel(SDPBackend.MATH) if strength > 0 else nullcontext():
        loss.backward()


class _TwiceDifferentiable(TorchFunctionMode):
    """While a model is called: no statistics of a batch, and attention by the kernel with a second derivative.

    It sees what modules inside functions do, and a kernel that the model chooses for itself.
    """

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is batch_norm:
            settings = signature(batch_norm).bind(*args, **kwargs).arguments
            if settings.get("training", False):
                _refuse_batch_statistics("a batch normalisation that it calls")
        if func in (scaled_dot_product_attention, multi_head_attention_forward):
            with sdpa_kernel(SDPBackend.MATH):
                return func(*args, **kwargs)
        return func(*args, **kwargs)


def _check_independence(losses: Tensor, x: Tensor, grad: Tensor) -> None:
    """Refuse losses of which some have a derivative by another sample.

    Every other loss gets a minus sign: then the gradient by each sample changes its sign with its
    own loss, and in no other way.
    """
    signs = torch.ones_like(losses)
    signs[1::2] = -1
    # With a graph, as `grad` was computed: without one, layers take formulas that round otherwise.
    (signed,) = torch.autograd.grad(losses, x, signs, create_graph=True)
    apart = (signed.detach() * per_sample(signs, x) - grad).flatten(1).abs().amax(1)
    if (apart > 1e-3 * grad.flatten(1).abs().amax(1)).any():
        raise ValueError(
            "model mixes the samples of a batch: the loss of a sample has a derivative by another "
            "one, so that with strength > 0 there is no penalty per sample. Normalise within a sample"
        )


def _called(model: nn.Module, x: Tensor) -> Tensor:
    return as_tensor_of_logits(model(x))


def _cross_entropy(model: nn.Module, x: Tensor, y: Tensor, reduction: str, call=_called) -> Tensor:
    try:
        logits = call(model, x.clone())  # the model may change its input in place
    except RuntimeError:
        check_agreement(model, x)  # the likely reason
        raise
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise ValueError(
            "x is a batch of one image, of which batch normalisation in train mode has no "
            "statistics: use two images at least and a batch_size ≥ 2, or put it into eval mode"
        ) from error
    check_shape_of_logits(logits, x)
    if not y.is_cuda:  # to ask would stop a GPU at every step
        check_label_range(y, logits)
    return cross_entropy(logits, y.to(torch.long, copy=True), reduction=reduction)


@with_gradients
def fit(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    strength: float = 0.0,
    epochs: int = 20,
    batch_size: int = 64,
    learning_rate: float = 1e-3,
    seed: int = 0,
) -> nn.Module:
    """Train `model` in place with Adam and return it in eval mode.

    Parameters
    ----------
    model : nn.Module
    x : Tensor, `(n, *input_shape)`
        Training images.
    y : Tensor of int, `(n,)`
        Their labels, numbered from 0.
    strength : float
        λ of :func:`gradient_penalty_loss`.
    epochs, batch_size, learning_rate
        As usual.
    seed : int
        Of the order of the batches and of dropout. The same seed, machine and number
        of threads give the same weights; the global random state is left as it was.

    Raises
    ------
    TypeError, ValueError, IndexError
        See :func:`gradient_penalty_loss`; also for a `batch_size` that is no integer ≥ 1, for `epochs`
        or a `seed` that is none ≥ 0, and for a `learning_rate` that is no number ≥ 0. With
        `strength > 0` a model with batch normalisation is refused: this function trains in train
        mode. (:func:`lesson_utils.experiments.train.train` can freeze it.)
    """
    check_number("strength", strength)
    check_floating("x", x)
    check_labels(y, x)
    check_finite("x", x)
    epochs = check_integer("epochs", epochs, least=0)
    batch_size = check_integer("batch_size", batch_size)
    seed = check_integer("seed", seed, least=0)
    check_number("learning_rate", learning_rate)
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be an nn.Module with weights, got {type(model).__name__}")
    check_is_differentiable(model)
    if not any(p.requires_grad for p in model.parameters()):
        raise ValueError(
            "model has no weight to train: give it layers with weights, or thaw those that it has "
            "by model.requires_grad_(True)"
        )
    if strength > 0:
        _check_penalty_is_per_sample(model, will_train=True)
    optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate)
    model.train()
    try:
        with torch.random.fork_rng(devices=[x.device] if x.is_cuda else []):
            torch.manual_seed(seed)
            for epoch in range(epochs):
                order = torch.randperm(len(x), device=x.device)
                for step, batch in enumerate(cut_into_batches(model, order, batch_size)):
                    optimizer.zero_grad()
                    some, first = (x[batch], y[batch]), epoch == step == 0
                    loss, _ = gradient_penalty_loss(model, *some, strength, check=first)
                    backward(loss, strength)
                    optimizer.step()
    finally:  # also where a label is refused
        model.eval()
        optimizer.zero_grad()
    return model


def cut_into_batches(model: nn.Module, order: Tensor, batch_size: int) -> list[Tensor]:
    """Cut an order of images into batches.

    If `model` has batch normalisation in train mode, a single image that is left over joins the
    batch before it: one image has no statistics.
    """
    parts = list(order.split(batch_size))
    if len(parts) > 1 and len(parts[-1]) == 1 and _training_batch_norm(model):
        parts[-2:] = [torch.cat(parts[-2:])]
    return parts


def _training_batch_norm(model: nn.Module, *, will_train: bool = False) -> str:
    """Name of a batch normalisation that uses the statistics of the batch; empty if there is none."""
    for name, module in model.named_modules() if isinstance(model, nn.Module) else ():
        kind = getattr(module, "original_name", type(module).__name__)  # scripted modules keep it
        known = isinstance(module, nn.modules.batchnorm._BatchNorm) or kind.startswith("BatchNorm")
        if known and (will_train or module.training or module.running_mean is None):
            return f"'{name or 'model'}' ({kind})"
    return ""


def _check_penalty_is_per_sample(model: nn.Module, *, will_train: bool = False) -> None:
    if found := _training_batch_norm(model, will_train=will_train):
        _refuse_batch_statistics(f"its layer {found}")


def _refuse_batch_statistics(found: str) -> None:
    raise ValueError(
        f"model mixes the samples of a batch: {found} is in train mode, so that with "
        "strength > 0 there is no penalty per sample. Put batch normalisation into eval mode "
        "and train by gradient_penalty_loss, or by experiments.train with "
        "Recipe(freeze_statistics=True); or use GroupNorm"
    )


@with_gradients
def accuracy(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """Share of samples whose predicted class is `y`.

    `x` and `y` are those of :func:`gradient_penalty_loss`, and refused as there; and so is a `model`
    in train mode with dropout or batch normalisation, or that is random or changes its buffers.
    """
    check_floating("x", x)
    check_labels(y, x)
    try:
        with watched(model, x) as watch:
            logits = logits_alone(watch.model, x)
    except RuntimeError:
        check_agreement(model, x)  # the likely reason
        raise
    check_shape_of_logits(logits, x)
    return (logits.argmax(1) == y.long()).double().mean().item()
