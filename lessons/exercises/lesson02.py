"""Adversarial robustness."""

import torch

from lesson_utils import BinaryClassifier, jacobian, saliency_map
from lesson_utils.autograd import norm
from lesson_utils.checks import Exercise, Progress
from lesson_utils.models import mlp


def _network_and_classes(dice):
    """A network of 4 classes, images that it decides, and for each a rival at random."""
    model = mlp([6, 12, 4])
    for p in model.parameters():
        p.data = 2 * torch.randn(p.shape, generator=dice)
    x = torch.rand(5, 1, 2, 3, generator=dice)
    prediction = model(x).argmax(1)
    rival = (prediction + torch.randint(1, 4, (5,), generator=dice)) % 4
    return model, x, prediction, rival


def _unit(v):
    return v / norm(v).view(-1, 1, 1, 1)


def _attack_direction(model, x, prediction, rival):
    _, gradients = jacobian(model, x)
    rows = torch.arange(len(x))
    return _unit(gradients[rows, rival] - gradients[rows, prediction])


def _map(model, x, classes):
    return saliency_map(model, x, target=classes)


attack_direction = Exercise(
    solution=_attack_direction,
    inputs=_network_and_classes,
    shows="Two saliency maps give the direction in which the margin falls fastest.",
    mistakes={
        "in this direction the margin grows. Which way does it fall?": (
            lambda model, x, prediction, rival: (
                -_attack_direction(model, x, prediction, rival)
            )
        ),
        "the score of the winner falls fastest there. The margin is a difference of two scores.": (
            lambda model, x, prediction, rival: (
                -_unit(_map(model, x, prediction))
            )
        ),
        "the score of the rival rises fastest there. The margin is a difference of two scores.": (
            lambda model, x, prediction, rival: _unit(_map(model, x, rival))
        ),
        "the direction is right, the length is not: a unit vector is asked for.": (
            lambda model, x, prediction, rival: (
                _map(model, x, rival) - _map(model, x, prediction)
            )
        ),
        "you made unit vectors before the difference was taken: another direction.": (
            lambda model, x, prediction, rival: _unit(
                _unit(_map(model, x, rival))
                - _unit(_map(model, x, prediction))
            )
        ),
        "you divided by the length of all directions together. Each image has one of its own.": (
            lambda model, x, prediction, rival: (
                torch.nn.functional.normalize(
                    _map(model, x, rival) - _map(model, x, prediction),
                    dim=(0, 1, 2, 3),
                )
            )
        ),
    },
)


def _samples_and_decisions(dice):
    """Nine samples of R^4, near or far, with three decisions, made two, three and four times."""
    names = torch.randperm(10, generator=dice)[:3]
    decision = names.repeat_interleave(torch.tensor([2, 3, 4]))
    size = 10 ** (4 * torch.rand((), generator=dice) - 1)
    x = size * torch.randn(9, 4, generator=dice)
    return x, decision[torch.randperm(9, generator=dice)]


def _nearest(x, decision, *, other):
    """Distance from each sample to the nearest one with another, or with the same, decision."""
    found = []
    for k, point in enumerate(x):
        counts = (decision != decision[k]) == other
        counts[k] = False
        found.append(norm(x[counts] - point).min())
    return torch.stack(found)


by_samples = Exercise(
    solution=lambda x, decision: _nearest(x, decision, other=True),
    inputs=_samples_and_decisions,
    shows="One sample with another decision is enough to bound ρ from above.",
    mistakes={
        "this is the distance to the nearest sample with the same decision. It proves nothing.": (
            lambda x, decision: _nearest(x, decision, other=False)
        ),
        "the nearest sample of all is the sample itself. Which samples are adversaries of it?": (
            lambda x, decision: torch.zeros(len(x))
        ),
        "this is the nearest of the other samples. Is its decision another one?": (
            lambda x, decision: _nearest(
                x, torch.arange(len(x)), other=True
            )
        ),
        "this is the square of a distance.": (
            lambda x, decision: _nearest(x, decision, other=True) ** 2
        ),
        "ρ belongs to a sample: one bound for each of them is asked for.": (
            lambda x, decision: _nearest(x, decision, other=True).min()
        ),
    },
)


def _known_and_new_points(dice):
    """Points of R^3 well inside one class with their exact ρ; others near them, others nearer to
    the boundary, one of the points themselves, and one far from all.
    """
    z = torch.randn(3, generator=dice)
    inwards = z / z.norm()
    noise = torch.randn(21, 3, generator=dice)
    x = 4 * inwards + 0.6 * noise[:12]
    near = x[:6] + 0.6 * noise[12:18]
    between = 1.5 * inwards + noise[18:]
    y = torch.cat([near, between, x[6:7], 100 + near[:1]])
    size = 10 ** (2 * torch.rand((), generator=dice) - 0.5)
    return size * x, BinaryClassifier(z).robustness(size * x), size * y


def _bounds(x, rho, y):
    """What each known point says about each new one, `(m, n)`; negative where it says nothing."""
    return torch.stack([rho - norm(x - point) for point in y])


def _by_nearest(x, rho, y):
    bounds, nearest = _bounds(x, rho, y), torch.cdist(y, x).argmin(1)
    return bounds[range(len(y)), nearest].clamp(min=0)


certificate = Exercise(
    solution=lambda x, rho, y: _bounds(x, rho, y).amax(1).clamp(min=0),
    inputs=_known_and_new_points,
    shows="A ball without a change of mind holds smaller balls around each of its points.",
    mistakes={
        "a negative bound promises nothing, and a distance is never negative.": (
            lambda x, rho, y: _bounds(x, rho, y).amax(1)
        ),
        "the nearest known point need not promise most. One further away may have a larger ρ.": (
            _by_nearest
        ),
        "each known point gives a bound that holds. You took the weakest, not the strongest.": (
            lambda x, rho, y: _bounds(x, rho, y).amin(1).clamp(min=0)
        ),
        "zero is never wrong and promises nothing. Some known points say more about these.": (
            lambda x, rho, y: torch.zeros(len(y))
        ),
        "you added the distance. That is a bound from above.": (
            lambda x, rho, y: (rho[:, None] + torch.cdist(x, y)).amin(0)
        ),
    },
)


def progress():
    """The exercises of this lesson: done, or open."""
    return Progress(globals())
