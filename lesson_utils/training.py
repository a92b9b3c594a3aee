"""Training, plain and robust (double backpropagation; lesson 8)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from .validation import check_strength


def gradient_penalty_loss(
    model: nn.Module, x: Tensor, y: Tensor, strength: float
) -> tuple[Tensor, Tensor]:
    """Cross-entropy with a penalty on its input gradient.

    ``mean_b ℓ(Ψ(x_b), y_b) + λ · mean_b ‖∇_x ℓ(Ψ(x_b), y_b)‖²``

    The gradient is taken per sample, x in pixels of [0, 1]. Training by the gradient
    of a gradient is double backpropagation (Drucker & LeCun 1992).

    Parameters
    ----------
    model : nn.Module
        In whatever mode the training uses. BatchNorm in train mode makes the gradient
        of one sample depend on the others: keep it in eval mode.
    x : Tensor, `(batch, *input_shape)`
    y : Tensor of int, `(batch,)`
        True labels.
    strength : float
        λ ≥ 0; with 0 no second gradient is computed.

    Returns
    -------
    loss : Tensor, scalar
        The whole objective, ready for `.backward()`.
    penalty : Tensor, scalar
        The mean squared gradient norm, detached; 0 where `strength` is 0.

    Raises
    ------
    ValueError
        `strength` is negative.
    """
    check_strength(strength)
    if strength == 0:
        return cross_entropy(model(x), y), x.new_zeros(())
    x = x.detach().clone().requires_grad_(True)
    losses = cross_entropy(model(x), y, reduction="none")
    (grad,) = torch.autograd.grad(losses.sum(), x, create_graph=True)
    penalty = grad.flatten(1).square().sum(1).mean()
    return losses.mean() + strength * penalty, penalty.detach()


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
    x, y : Tensor
        Training images and labels.
    strength : float
        λ of :func:`gradient_penalty_loss`.
    epochs, batch_size, learning_rate
        As usual.
    seed : int
        Of the order of the batches and of dropout. The same seed, machine and number
        of threads give the same weights; the global random state is left as it was.
    """
    optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate)
    model.train()
    with torch.random.fork_rng(devices=[x.device] if x.is_cuda else []):
        torch.manual_seed(seed)
        for _ in range(epochs):
            for batch in torch.randperm(len(x), device=x.device).split(batch_size):
                optimizer.zero_grad()
                loss, _ = gradient_penalty_loss(model, x[batch], y[batch], strength)
                loss.backward()
                optimizer.step()
    return model.eval()


@torch.no_grad()
def accuracy(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """Share of samples whose predicted class is `y`."""
    return (model(x).argmax(1) == y).double().mean().item()
