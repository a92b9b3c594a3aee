"""The linear toy model."""

import torch

from lesson_utils import BinaryClassifier
from lesson_utils.autograd import norm
from lesson_utils.checks import Exercise


def _points_and_normal(dice):
    """A batch of 6 points of R^5 on both sides of a hyperplane through 0, and its normal vector."""
    z = 3 * torch.randn(5, generator=dice)
    x = torch.randn(6, 5, generator=dice)
    return x + torch.tensor([1.0, -1, 1, -1, 1, -1])[:, None] * z / 3, z


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
        "this is |cos δ|, a number without unit. A distance grows with the image.": (
            lambda x, z: _cosine(x, z).abs()
        ),
        "you averaged over the batch; one number for each sample is asked for.": (
            lambda x, z: (norm(x) * _cosine(x, z).abs()).mean()
        ),
    },
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
    },
)
