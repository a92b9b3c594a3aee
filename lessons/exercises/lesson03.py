"""The linear toy model."""

import torch

from lesson_utils import BinaryClassifier
from lesson_utils.autograd import norm
from lesson_utils.checks import Exercise, Progress


def _points_and_normal(dice):
    """A batch of 6 points of R^5 on both sides of a hyperplane through 0, and its normal vector."""
    z = torch.randn(5, generator=dice)
    size = 10 ** (2 * torch.rand((), generator=dice) - 1)
    x = torch.randn(6, 5, generator=dice)
    return x + torch.tensor([1.0, -1, 1, -1, 1, -1])[:, None] * z, size * z


def _cosine(x, z):
    return torch.nn.functional.cosine_similarity(x, z[None])


angle = Exercise(
    solution=lambda x, z: BinaryClassifier(z).robustness(x),
    inputs=_points_and_normal,
    shows="Length times cosine is the distance to the boundary, on either side of it.",
    mistakes={
        "half of the points have a negative score. Did you forget the absolute value?": (
            lambda x, z: norm(x) * _cosine(x, z)
        ),
        "a score is not yet a distance: it grows with z. Did you divide by the norm of z?": (
            lambda x, z: (x @ z).abs()
        ),
        "you divided by the square of the norm of z. Twice z has the same boundary, and so the same ρ.": (
            lambda x, z: (x @ z / z.square().sum()).abs()
        ),
        "this is the way along the boundary, ‖x‖ sin δ, not the way to it.": (
            lambda x, z: norm(x) * (1 - _cosine(x, z) ** 2).sqrt()
        ),
        "this is |cos δ|, a number without unit. A distance grows with the image.": (
            lambda x, z: _cosine(x, z).abs()
        ),
        "you averaged over the batch; one number for each sample is asked for.": (
            lambda x, z: (norm(x) * _cosine(x, z).abs()).mean()
        ),
    },
    shape_stated=False,
)

adversary = Exercise(
    solution=lambda x, z: (
        x + 1.01 * (BinaryClassifier(z).closest_adversary(x) - x)
    ),
    inputs=_points_and_normal,
    shows="One step along the saliency map, 1 % beyond the boundary, changes every decision.",
    mistakes={
        "the step has the right direction but not the right length. Is z a unit vector?": (
            lambda x, z: x - 1.01 * (x @ z / z.norm())[:, None] * z
        ),
        "you walk away from the boundary. Which sign has ⟨x, z⟩ where you want to go?": (
            lambda x, z: x + 1.01 * (x @ z / z.norm() ** 2)[:, None] * z
        ),
        "you stop on the boundary, where the two classes tie: go 1 % further.": (
            lambda x, z: x - (x @ z / z.norm() ** 2)[:, None] * z
        ),
        "half of the points go the wrong way: ρ has no sign, and the step needs the one of ⟨x, z⟩.": (
            lambda x, z: (
                x - 1.01 * ((x @ z).abs() / z.norm() ** 2)[:, None] * z
            )
        ),
        "this is the step e alone. Where does it begin?": (
            lambda x, z: -1.01 * (x @ z / z.norm() ** 2)[:, None] * z
        ),
    },
    shape_stated=False,
)


def progress():
    """The exercises of this lesson: done, or open."""
    return Progress(globals())
