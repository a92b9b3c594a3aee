"""Affine counterexamples."""

import torch

from lesson_utils import AffineClassifier, alignment, linearized_robustness
from lesson_utils.autograd import gradient, inner
from lesson_utils.checks import Exercise, Progress
from lesson_utils.models import Normalize


def _normalised_images(dice):
    """Four images in normalised coordinates, maps, and mean and deviation of three channels."""
    y, g = torch.randn(2, 4, 3, 2, 3, generator=dice)
    mean, std = torch.rand(2, 3, generator=dice)
    return y, g, 0.02 + 0.9 * mean, 0.03 + 0.4 * std


def _to_pixels(y, mean, std):
    return y * std[:, None, None] + mean[:, None, None]


def _in_pixels(y, g, mean, std):
    x = _to_pixels(y, mean, std).requires_grad_(True)
    score = (Normalize(mean.tolist(), std.tolist())(x) * g).sum((1, 2, 3))
    return alignment(x.detach(), gradient(score, x))


in_pixels = Exercise(
    solution=_in_pixels,
    inputs=_normalised_images,
    shows="One network, and α in the units of the image, whatever the network does inside.",
    mistakes={
        "these are normalised coordinates, as if the origin were the mean colour.": (
            lambda y, g, mean, std: alignment(y, g)
        ),
        "x is in pixels now, but g still says how much the score changes for one unit of y.": (
            lambda y, g, mean, std: alignment(_to_pixels(y, mean, std), g)
        ),
        "one unit of x is 1/σ units of y. Does the score change more or less for it?": (
            lambda y, g, mean, std: alignment(
                _to_pixels(y, mean, std), g * std[:, None, None]
            )
        ),
        "some of the inner products are negative. Did you forget the absolute value?": (
            lambda y, g, mean, std: (
                _in_pixels(y, g, mean, std)
                * inner(
                    _to_pixels(y, mean, std), g / std[:, None, None]
                ).sign()
            )
        ),
        "you took the scale back and not the shift: black is still not the origin.": (
            lambda y, g, mean, std: alignment(
                y * std[:, None, None], g / std[:, None, None]
            )
        ),
    },
)


def _weight_and_points(dice):
    """A linear classifier of 5 classes with weight vectors of different lengths, and 20 points."""
    lengths = torch.tensor([0.5, 1.0, 1.5, 2.0, 2.5])[:, None]
    weight = lengths * torch.randn(5, 6, generator=dice)
    return weight, torch.randn(20, 6, generator=dice)


def _ranked(weight, x, rank):
    return (x @ weight.T).argsort(1, descending=True)[:, rank]


def _nearest_weight(weight, x):
    distances = torch.cdist(weight, weight).fill_diagonal_(torch.inf)
    return distances.argmin(1)[_ranked(weight, x, 0)]


subtract = Exercise(
    solution=lambda weight, x: (
        linearized_robustness(AffineClassifier(weight), x).runner_up
    ),
    inputs=_weight_and_points,
    shows="Seen from the right rival, alignment is robustness.",
    mistakes={
        "the class with the second largest score need not have the nearest boundary.": (
            lambda weight, x: _ranked(weight, x, 1)
        ),
        "minus its own score, the winning class has the saliency map 0, and α is undefined.": (
            lambda weight, x: _ranked(weight, x, 0)
        ),
        "this is the class that matters least.": lambda weight, x: _ranked(
            weight, x, -1
        ),
        "you compared weight vectors alone. Where the boundary is depends on x too.": (
            _nearest_weight
        ),
    },
)


def _weight_and_bias(dice):
    """Three to five classes, and at least three pixels more than classes."""
    n = torch.randint(3, 6, (), generator=dice).item()
    d = n + torch.randint(3, 9, (), generator=dice).item()
    weight = torch.randn(n, d, generator=dice)
    return weight, 3 * torch.randn(n, generator=dice)


def _centred(values):
    return values - values.mean(0)


def _all_zero(weight, bias):
    return -torch.linalg.pinv(weight) @ bias


def _origin(weight, bias):
    return _all_zero(_centred(weight), _centred(bias))


def _tie_of_two(weight, bias):
    model = AffineClassifier(weight[:2], bias[:2])
    return model.closest_adversary(torch.zeros_like(weight[:1]))[0]


origin = Exercise(
    solution=_origin,
    inputs=_weight_and_bias,
    shows="One point lies on all boundaries; seen from there no class has a bias of its own.",
    mistakes={
        "all scores are zero there. They tie, but must the tie be at zero? A shorter c exists.": (
            _all_zero
        ),
        "at −c all classes tie. Which sign have the biases on the other side of the equation?": (
            lambda weight, bias: -_origin(weight, bias)
        ),
        "only two of the classes tie there.": _tie_of_two,
    },
    tolerance=1e-4,
)


def progress():
    """The exercises of this lesson: done, or open."""
    return Progress(globals())
