"""Linearized robustness."""

import torch
from torch import nn

from lesson_utils import (
    AffineClassifier,
    BinaryClassifier,
    jacobian,
    linearized_robustness,
    saliency_map,
)
from lesson_utils.autograd import norm
from lesson_utils.checks import Exercise, Progress
from lesson_utils.models import mlp


def _network_and_points(dice):
    """A network of 5 classes on R^4 with random weights, without dead regions, and 8 points."""
    net = mlp([4, 12, 5], activation=nn.Softplus)
    for p in net.parameters():
        p.data = torch.randn(p.shape, generator=dice)
    return net, torch.randn(8, 4, generator=dice)


def _foot(model, x):
    """The closest adversary of the affine classifier with the same value and gradients."""
    logits, gradients = jacobian(model, x)
    offsets = logits - torch.einsum("bnd,bd->bn", gradients, x)
    feet = [
        AffineClassifier(weight, bias).closest_adversary(point[None])
        for weight, bias, point in zip(gradients, offsets, x, strict=True)
    ]
    return torch.cat(feet)


def _towards(model, x, rival):
    """The foot on the linearized boundary with one rival."""
    logits, gradients = jacobian(model, x)
    rows, winner = torch.arange(len(x)), logits.argmax(1)
    margin = logits[rows, winner] - logits[rows, rival]
    g = gradients[rows, winner] - gradients[rows, rival]
    return x - (margin / norm(g) ** 2)[:, None] * g


def _along_winner(model, x):
    g, rho = saliency_map(model, x), linearized_robustness(model, x).value
    return x - (rho / norm(g))[:, None] * g


def _not_normalised(model, x):
    lin = linearized_robustness(model, x)
    g = saliency_map(model, x) - saliency_map(
        model, x, target=lin.runner_up
    )
    return x - lin.value[:, None] * g


foot = Exercise(
    solution=_foot,
    inputs=_network_and_points,
    shows="At distance ρ̃ the linearized classifier ties. Repeat the step from there, and you have DeepFool.",
    mistakes={
        "you went away from the boundary. In which direction does the margin fall?": (
            lambda model, x: 2 * x - _foot(model, x)
        ),
        "the direction is not a unit vector, so your step is not ρ̃ long.": _not_normalised,
        "a margin falls fastest against the gradient of a difference, not against g alone.": (
            _along_winner
        ),
        "the second largest logit is not always the rival at the smallest distance.": (
            lambda model, x: _towards(
                model, x, model(x).topk(2).indices[:, 1]
            )
        ),
    },
)


def _margins_and_rho(dice):
    margin = 0.03 + 4.4 * torch.rand(6, generator=dice).square()
    return margin, 0.03 + 2 * torch.rand(6, generator=dice).square()


def _measured(margin, rho):
    """Models of one input, whose boundary is 0 and whose score at ρ is the margin."""
    values = []
    for m, r in zip(margin, rho, strict=True):
        model = nn.Sequential(
            BinaryClassifier((m / r)[None]), nn.Softmax(1)
        )
        values.append(linearized_robustness(model, r.view(1, 1)).value)
    return torch.cat(values)


probabilities = Exercise(
    solution=_measured,
    inputs=_margins_and_rho,
    shows="Equal decisions, equal ρ, and yet ρ̃ grows exponentially with the margin.",
    mistakes={
        "the decisions stay, but ρ̃ does not. Work out margin and slope of the probabilities.": (
            lambda margin, rho: rho
        ),
        "that is the new margin over the old slope. The slope changes as well.": (
            lambda margin, rho: rho * torch.tanh(margin / 2) / margin
        ),
        "that is the old margin over the new slope. The margin changes as well.": (
            lambda margin, rho: rho * 2 * torch.cosh(margin / 2) ** 2
        ),
        "a factor of two: when one probability falls, the other one rises.": (
            lambda margin, rho: 2 * rho * torch.sinh(margin) / margin
        ),
        "half of it: the slope of tanh(m/2) has a factor ½ of its own.": (
            lambda margin, rho: rho * torch.sinh(margin) / (2 * margin)
        ),
    },
    shape_stated=False,
)


def _relu_network_and_points(dice):
    """A network of 4 classes with one hidden layer; output weights of different lengths."""
    net = mlp([6, 10, 4])
    for p in net.parameters():
        p.data = torch.randn(p.shape, generator=dice)
    net[3].weight.data *= torch.tensor([[0.3], [1.0], [2.0], [4.0]])
    net[3].bias.data -= 40  # also the largest score may be negative
    return net, 2 * torch.randn(24, 1, 2, 3, generator=dice)


def _steepest(net):
    """Largest singular value of the first weight matrix, by the eigenvalues of its square."""
    weight = net[1].weight.detach()
    return torch.linalg.eigvalsh(weight @ weight.T)[-1].sqrt()


def _over(net, x, length):
    """Margin over the length for the pair (winner, rival), for every rival; inf for i* itself."""
    logits = net(x).detach()
    rows = []
    for scores in logits:
        i = scores.argmax()
        rest = [
            (scores[i] - scores[j]) / length(i, j)
            for j in range(len(scores))
            if j != i
        ]
        rows.append(torch.stack(rest))
    return torch.stack(rows)


def _lipschitz(net, x):
    outer = net[3].weight.detach()
    return _over(
        net, x, lambda i, j: _steepest(net) * (outer[i] - outer[j]).norm()
    ).amin(1)


def _of_second(net, x):
    """The bound towards the class with the second largest logit only."""
    logits, outer = net(x).detach(), net[3].weight.detach()
    top, classes = logits.topk(2, dim=1)
    length = (outer[classes[:, 0]] - outer[classes[:, 1]]).norm(dim=1)
    return (top[:, 0] - top[:, 1]) / (_steepest(net) * length)


def _with_length(length):
    return lambda net, x: _over(
        net, x, lambda i, j: length(net, i, j)
    ).amin(1)


lipschitz = Exercise(
    solution=_lipschitz,
    inputs=_relu_network_and_points,
    shows="A slope that is nowhere exceeded gives a lower bound of ρ, with a proof and without a search.",
    mistakes={
        "with the root of the sum of squares the bound holds, but it is weaker than the one asked for.": (
            _with_length(
                lambda net, i, j: (
                    net[1].weight.norm()
                    * (net[3].weight[i] - net[3].weight[j]).norm()
                ).detach()
            )
        ),
        "the hidden layer stretches as well. Where is the largest singular value of W?": (
            _with_length(
                lambda net, i, j: (
                    (net[3].weight[i] - net[3].weight[j]).norm().detach()
                )
            )
        ),
        "a margin is a difference of two scores, and so is the row that counts.": (
            _with_length(
                lambda net, i, j: (
                    _steepest(net) * net[3].weight[i].norm().detach()
                )
            )
        ),
        "the lengths add up to more than the length of the difference: a bound, but a weaker one.": (
            _with_length(
                lambda net, i, j: (
                    _steepest(net)
                    * (net[3].weight[i].norm() + net[3].weight[j].norm())
                ).detach()
            )
        ),
        "the second largest logit need not give the smallest quotient. Ask all rivals.": _of_second,
        "you took the largest quotient. Every margin must stay positive.": (
            lambda net, x: _over(
                net,
                x,
                lambda i, j: (
                    _steepest(net)
                    * (net[3].weight[i] - net[3].weight[j]).norm().detach()
                ),
            ).amax(1)
        ),
        "you averaged over the batch; one number for each sample is asked for.": (
            lambda net, x: _lipschitz(net, x).mean()
        ),
    },
)


def progress():
    """The exercises of this lesson: done, or open."""
    return Progress(globals())
