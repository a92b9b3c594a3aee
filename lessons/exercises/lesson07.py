"""The bound theorem."""

import torch

from lesson_utils import linearized_robustness
from lesson_utils.autograd import norm
from lesson_utils.checks import Exercise, Progress


def _sizes_and_angles(dice):
    """Lengths below and above 1; angles from 0 to 180 degrees, these two among them."""
    size = 10 ** (2 * torch.rand(6, generator=dice) - 1.5)
    degrees = 180 * torch.rand(6, generator=dice)
    return size, torch.cat([degrees[:4], torch.tensor([0.0, 180.0])])


def _chord(size, degrees):
    """Length of the difference of two unit vectors of the plane."""
    angle = degrees.deg2rad()
    one = torch.stack([angle.cos(), angle.sin()], dim=1)
    return size * norm(one - one.new_tensor([1.0, 0.0]))


gap_from_angle = Exercise(
    solution=_chord,
    inputs=_sizes_and_angles,
    shows="It grows with the angle up to 2‖x‖, where the two maps are opposed.",
    mistakes={
        "sine and cosine of PyTorch want radians.": (
            lambda size, degrees: 2 * size * torch.sin(degrees / 2)
        ),
        "that is the height of one unit vector over the other, not the distance of their tips.": (
            lambda size, degrees: size * degrees.deg2rad().sin()
        ),
        "twice that height: the angle of 2‖x‖ sin is not θ itself. Draw both unit vectors.": (
            lambda size, degrees: 2 * size * degrees.deg2rad().sin()
        ),
        "that is the way along the circle. The difference of two vectors is a straight line.": (
            lambda size, degrees: size * degrees.deg2rad()
        ),
        "that is the square of the length of the difference, times ‖x‖.": (
            lambda size, degrees: size * 2 * (1 - degrees.deg2rad().cos())
        ),
        "you forgot to multiply by ‖x‖.": (
            lambda size, degrees: _chord(torch.ones_like(size), degrees)
        ),
        "half of it is missing: draw both unit vectors and cut the angle in two.": (
            lambda size, degrees: _chord(size, degrees) / 2
        ),
    },
    shape_stated=False,
)


def _alignments_and_depths(dice):
    layers = torch.tensor([1, 2, 3, 4, 1, 2])
    order = torch.randperm(6, generator=dice)
    alpha = 10 ** (2.2 * torch.rand(6, generator=dice) - 1.5)
    return alpha, layers[order]


def _measured(alpha, layers):
    """Powers of one variable: there α is the distance to 0, and the degree is known."""

    def one(a, degree):
        def model(y):
            return torch.cat([-(y**degree) / 2, y**degree / 2], dim=1)

        return linearized_robustness(model, a.view(1, 1)).value

    pairs = zip(alpha, layers.tolist(), strict=True)
    return torch.cat([one(a, 2**depth) for a, depth in pairs])


rho_from_alpha = Exercise(
    solution=_measured,
    inputs=_alignments_and_depths,
    shows=(
        "ρ̃ and α are proportional, and not equal: without any bias β is not zero "
        "where the degree is not one."
    ),
    mistakes={
        "that is the corollary for degree one. What is Ψ(2x) here, if Ψ(x) is 1?": (
            lambda alpha, layers: alpha
        ),
        "the degree is not the number of layers: each layer squares what the one before has made.": (
            lambda alpha, layers: alpha / layers
        ),
        "each layer doubles the degree. Doubling again and again is not adding 2.": (
            lambda alpha, layers: alpha / (2 * layers)
        ),
        "that is right for one hidden layer. What do the next ones do?": (
            lambda alpha, layers: alpha / 2
        ),
        "upside down: the steeper the score, the nearer its linearization falls to zero.": (
            lambda alpha, layers: alpha * 2**layers
        ),
        "you counted one layer too many: the last one is linear.": (
            lambda alpha, layers: alpha / 2 ** (layers + 1)
        ),
        "the layers act one after the other: their degrees are multiplied, L times 2.": (
            lambda alpha, layers: alpha / layers**2
        ),
    },
    shape_stated=False,
)


def progress():
    """The exercises of this lesson: done, or open."""
    return Progress(globals())
