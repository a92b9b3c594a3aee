"""Homogeneous decomposition."""

import copy
import warnings

import torch
from torch import nn

from lesson_utils import (
    AffineClassifier,
    homogeneous_decomposition,
    jacobian,
)
from lesson_utils.checks import Exercise, Progress
from lesson_utils.models import Normalize, mlp


def _network_and_image(dice):
    """Three dense layers with biases of both signs, and one image with parts of either sign."""
    net = mlp([6, 12, 8, 3])
    for p in net.parameters():
        p.data = torch.randn(p.shape, generator=dice)
    return net, torch.rand(1, 1, 2, 3, generator=dice)


def _winner(net, x):
    """Score of the predicted class, and its inner product of image and gradient."""
    logits, gradients = jacobian(net, x)
    i = logits.argmax(1).item()
    return logits[0, i], (gradients[0, i] * x[0]).sum()


def _beta(net, x):
    score, homogeneous = _winner(net, x)
    return (score - homogeneous).detach()


def _bias_terms(net, x):
    net.zero_grad()
    net(x).amax().backward()
    layers = [layer for layer in net if isinstance(layer, nn.Linear)]
    return [
        (layer.bias.detach(), layer.bias.grad.clone()) for layer in layers
    ]


beta = Exercise(
    solution=_beta,
    inputs=_network_and_image,
    shows="The biases of all layers together make up what the image does not: Ψ − ⟨x, ∇Ψ⟩.",
    mistakes={
        "this is the homogeneous part, ⟨x, ∇Ψ⟩. What do the biases add?": (
            lambda net, x: _winner(net, x)[1].detach()
        ),
        "this is the whole score. Which part of it comes from the biases?": (
            lambda net, x: _winner(net, x)[0].detach()
        ),
        "these are the derivatives alone. Each is multiplied by its bias.": (
            lambda net, x: sum(d.sum() for b, d in _bias_terms(net, x))
        ),
        "these are the biases alone. How much of each arrives at the score?": (
            lambda net, x: sum(b.sum() for b, d in _bias_terms(net, x))
        ),
        "contributions have signs, and cancel: do not add absolute values.": (
            lambda net, x: sum(
                (b * d).abs().sum() for b, d in _bias_terms(net, x)
            )
        ),
        "this is the bias of the last layer. The layers before have biases, too.": (
            lambda net, x: (
                _bias_terms(net, x)[-1][0] * _bias_terms(net, x)[-1][1]
            ).sum()
        ),
        "this is the bias of the first layer only.": (
            lambda net, x: (
                _bias_terms(net, x)[0][0] * _bias_terms(net, x)[0][1]
            ).sum()
        ),
        "one class is asked for, the predicted one. You added up all scores.": (
            lambda net, x: _beta_of_sum(net, x)
        ),
    },
)


def _beta_of_sum(net, x):
    logits, gradients = jacobian(net, x)
    return (logits.sum() - (gradients.sum(1) * x).sum()).detach()


def _dense_and_shift(dice):
    """A dense layer, a mean of either sign, and a deviation below or above 1."""
    weight, bias = (
        torch.randn(4, 6, generator=dice),
        torch.randn(4, generator=dice),
    )
    m, s = (0.2 + 0.5 * torch.rand(2, generator=dice)).tolist()
    wide, negative = (torch.rand(2, generator=dice) < 0.5).tolist()
    return weight, bias, -m if negative else m, 1 / s if wide else s


def _folded(weight, bias, m, s):
    """An affine function from its value and its gradients at 0."""
    both = nn.Sequential(Normalize(m, s), AffineClassifier(weight, bias))
    value, gradients = jacobian(both, torch.zeros(1, weight.shape[1]))
    return gradients[0], value[0]


fold = Exercise(
    solution=_folded,
    inputs=_dense_and_shift,
    shows=(
        "The function is the same, so β is the same. The long bar has moved into the "
        "bias of the first dense layer: who is to blame depends on how one writes it."
    ),
    mistakes={
        "the weight is right. The shift passes through the weight before it meets the bias.": (
            lambda weight, bias, m, s: (weight / s, bias - m / s)
        ),
        "the bias is right. The division acts on the image, too.": (
            lambda weight, bias, m, s: (
                weight,
                bias - weight.sum(1) * m / s,
            )
        ),
        "you shifted the bias only. Shift and division act on the image, before the weight does.": (
            lambda weight, bias, m, s: (weight, bias - m)
        ),
        "you shifted the bias only, and by too little: the division acts on the image, too.": (
            lambda weight, bias, m, s: (weight, bias - m / s)
        ),
        "the shift has passed through the weight. Now the division: it acts on both.": (
            lambda weight, bias, m, s: (weight, bias - weight.sum(1) * m)
        ),
        "the weight is right. Does the shift make nothing of the bias?": (
            lambda weight, bias, m, s: (weight / s, bias)
        ),
        "the shift meets each weight with its sign: do not add absolute values.": (
            lambda weight, bias, m, s: (
                weight / s,
                bias - weight.abs().sum(1) * m / s,
            )
        ),
        "the mean is subtracted before the division. Is yours divided?": (
            lambda weight, bias, m, s: (
                weight / s,
                bias - weight.sum(1) * m,
            )
        ),
        "look at the sign of the shift: what does the layer return for a black image?": (
            lambda weight, bias, m, s: (
                weight / s,
                bias + weight.sum(1) * m / s,
            )
        ),
        "the bias of the dense layer is added after the division, and is not divided.": (
            lambda weight, bias, m, s: (
                weight / s,
                (bias - weight.sum(1) * m) / s,
            )
        ),
    },
)


def _clipped_network(dice):
    """Of the 16 neurons of a sample some are negative, some in between, some saturated."""
    net = mlp([5, 16, 3], activation=nn.ReLU6).eval()
    for p in net.parameters():
        p.data = torch.randn(p.shape, generator=dice)
    return net, 4 * torch.randn(6, 1, 5, generator=dice)


def _residual(net, x):
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # it says that ReLU6 is not homogeneous
        return homogeneous_decomposition(
            copy.deepcopy(net).double(), x.double()
        ).residual


def _sum_over(neurons, constant=6.0):
    """Sum of the output weights of some neurons, times a constant or what they hold."""

    def answer(net, x):
        before = net[1](net[0](x))
        weight = net[3].weight[net(x).argmax(1)]
        held = before if constant is None else constant
        return (held * weight * neurons(before)).sum(1)

    return answer


def _saturated(before):
    return before > 6


hidden_part = Exercise(
    solution=_residual,
    inputs=_clipped_network,
    shows="Each saturated neuron is a bias of 6. With these the decomposition is complete again.",
    mistakes={
        "not every active neuron is clipped.": _sum_over(
            lambda before: before > 0
        ),
        "this is what the neurons would pass on. What do they pass on?": (
            _sum_over(_saturated, constant=None)
        ),
        "you counted the neurons. How strongly does each of them act on the logit?": (
            lambda net, x: 6.0 * _saturated(net[1](net[0](x))).sum(1)
        ),
        "the sign: the constant is a part of the logit, nothing is taken off.": (
            _sum_over(_saturated, constant=-6.0)
        ),
        "the bias of the last layer is known to the theorem. Leave it out.": (
            lambda net, x: (
                _sum_over(_saturated)(net, x)
                + net[3].bias[net(x).argmax(1)]
            )
        ),
    },
)


def progress():
    """The exercises of this lesson: done, or open."""
    return Progress(globals())
