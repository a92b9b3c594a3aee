"""Saliency maps."""

import torch

from lesson_utils import alignment, saliency_map
from lesson_utils.autograd import gradient, inner, norm
from lesson_utils.checks import Exercise, Progress
from lesson_utils.models import mlp


def _images(dice, size):
    """Images of 2×4 grey values: in each three black pixels, a white one, and one of faint ink."""
    x = 0.1 + 0.8 * torch.rand(size, 8, generator=dice)
    places = torch.rand(size, 8, generator=dice).argsort(1)
    faint = 10 ** (-4 + 3 * torch.rand(size, 1, generator=dice))
    x.scatter_(1, places[:, :3], 0.0).scatter_(1, places[:, 3:4], 1.0)
    return x.scatter(1, places[:, 4:5], faint).view(size, 1, 2, 4)


def _images_and_maps(dice):
    return _images(dice, 6), torch.randn(6, 1, 2, 4, generator=dice)


def _on_ink(x, g):
    share_on_black = (g.square() * (x == 0)).sum((1, 2, 3)) / norm(g) ** 2
    return alignment(x, g) / (1 - share_on_black).sqrt()


def _ink_of(x, g):
    return torch.where(x == 0, 0, g)


def _network_and_images(dice):
    model = mlp([8, 8, 4])
    for p in model.parameters():
        p.data = (
            3 * torch.randn(p.shape, generator=dice) / p.shape[-1] ** 0.5
        )
    return model, _images(dice, 5)


def _loss_gradient(model, x, of=lambda p: -p.log()):
    leaf = x.clone().requires_grad_(True)
    return gradient(of(model(leaf).softmax(1).amax(1)), leaf)


def _mean_map(model, x):
    """Mean of the saliency maps of all classes, weighted by their probabilities."""
    return _loss_gradient(model, x) + saliency_map(model, x)


def _maps_of_all_lengths(dice):
    """Maps of all lengths; the first two follow their images, with and against."""
    x, g = _images_and_maps(dice)
    g[:2] += torch.tensor([5.0, -5.0]).view(2, 1, 1, 1) * x[:2]
    return x, g * 10 ** (2 * torch.rand(6, 1, 1, 1, generator=dice) - 1)


alignment_by_hand = Exercise(
    solution=lambda x, g: (
        norm(x) * torch.cosine_similarity(x.flatten(1), g.flatten(1)).abs()
    ),
    inputs=_maps_of_all_lengths,
    shows="Twice the map has the same alignment, twice the image has twice as much.",
    mistakes={
        "some of the inner products are negative. Did you forget the absolute value?": (
            lambda x, g: inner(x, g) / norm(g)
        ),
        "a map that is twice as long would count twice. Did you divide by its length?": (
            lambda x, g: inner(x, g).abs()
        ),
        "this is the cosine, a number without unit. Only the length of the map is taken out.": (
            lambda x, g: inner(x, g).abs() / (norm(x) * norm(g))
        ),
        "you divided by the square of the length of the map.": (
            lambda x, g: inner(x, g).abs() / norm(g) ** 2
        ),
        "⟨x, |g|⟩ counts what speaks against as if it spoke for. The absolute value stands outside.": (
            lambda x, g: inner(x, g.abs()) / norm(g)
        ),
        "you divided by the length of all maps together. Each sample has a map of its own.": (
            lambda x, g: inner(x, g).abs() / g.norm()
        ),
        "you divided by the length of the image. Which of the two lengths is taken out?": (
            lambda x, g: inner(x, g).abs() / norm(x)
        ),
        "you averaged over the batch; one number for each sample is asked for.": (
            lambda x, g: alignment(x, g).mean()
        ),
    },
)

on_ink = Exercise(
    solution=_on_ink,
    inputs=_images_and_maps,
    shows="A map that is silent where there is no ink is better aligned than the whole map.",
    mistakes={
        "this is α itself. Does the length of the map still count the black pixels?": alignment,
        "some of the inner products are negative. Did you forget the absolute value?": (
            lambda x, g: _on_ink(x, g) * inner(x, g).sign()
        ),
        "nothing is left of the inner product. Did you keep the black pixels and drop the ink?": (
            lambda x, g: torch.zeros(len(x))
        ),
        "you divided by the length of all maps together. Each sample has a map of its own.": (
            lambda x, g: inner(x, g).abs() / _ink_of(x, g).norm()
        ),
        "you averaged over the batch; one number for each sample is asked for.": (
            lambda x, g: _on_ink(x, g).mean()
        ),
        "the absolute value stands outside: ⟨x, |g|⟩ counts what speaks against as if it spoke for.": (
            lambda x, g: inner(x, g.abs()) / norm(_ink_of(x, g))
        ),
        "⟨x, |g|⟩ is another number than |⟨x, g⟩|. And is it the length of the remaining map?": (
            lambda x, g: inner(x, g.abs()) / norm(g)
        ),
        "a length is the root of a sum of squares, not a sum of absolute values.": (
            lambda x, g: (
                inner(x, g).abs() / _ink_of(x, g).abs().flatten(1).sum(1)
            )
        ),
    },
)

loss_gradient = Exercise(
    solution=_loss_gradient,
    inputs=_network_and_images,
    shows="The gradient of the loss is a mixture of the saliency maps of all classes.",
    mistakes={
        "this is the gradient of the largest score, not of the loss.": saliency_map,
        "this is the gradient of log p, and the loss is −log p.": (
            lambda model, x: -_loss_gradient(model, x)
        ),
        "this is the gradient of log Σ exp Ψ, one of the two terms of the loss.": _mean_map,
        "you differentiate p, and the loss is −log p.": (
            lambda model, x: _loss_gradient(model, x, of=lambda p: p)
        ),
        "you averaged over the batch: each sample has a loss of its own, and its gradient.": (
            lambda model, x: _loss_gradient(model, x) / len(x)
        ),
    },
)


def progress():
    """The exercises of this lesson: done, or open."""
    return Progress(globals())
