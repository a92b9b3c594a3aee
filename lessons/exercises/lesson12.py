"""Beyond the paper."""

import torch

from lesson_utils.autograd import inner, norm
from lesson_utils.checks import Exercise, Progress


def _gradients(dice):
    """Gradients of five scores at four images of six pixels, and the predicted classes."""
    gradients = torch.randn(4, 5, 6, generator=dice)
    return gradients, torch.randint(5, (4,), generator=dice)


def _one_by_one(gradients, prediction):
    rows = []
    for own, k in zip(gradients, prediction.tolist(), strict=True):
        weights = torch.full((len(own), 1), -1 / len(own)).to(own)
        weights[k] += 1
        rows.append((weights * own).sum(0))
    return torch.stack(rows)


def _own(gradients, prediction):
    return gradients[torch.arange(len(gradients)), prediction]


centred_map = Exercise(
    solution=_one_by_one,
    inputs=_gradients,
    shows=(
        "A function added to all scores adds the same to the map and to the mean, and cancels."
    ),
    mistakes={
        "this is the map of the score itself. Subtract what all scores have in common.": _own,
        "the mean is over the classes of one image, not over the images of the batch.": (
            lambda g, i: _own(g, i) - _own(g, i).mean(0)
        ),
        "you subtracted the sum of all gradients. The centred score subtracts the mean.": (
            lambda g, i: _own(g, i) - g.sum(1)
        ),
        "the mean is over all classes, the predicted one included; yours is a multiple of it.": (
            lambda g, i: (
                _own(g, i) - (g.sum(1) - _own(g, i)) / (g.shape[1] - 1)
            )
        ),
        "one number a pixel: average over the classes only, not over the pixels.": (
            lambda g, i: _own(g, i) - g.mean((1, 2))[:, None]
        ),
        "this is the mean alone. Which score's own gradient comes before it?": (
            lambda g, i: g.mean(1)
        ),
    },
    shape_stated=False,
)


def _maps_and_basis(dice):
    """Maps of six pixels, and two or three orthonormal directions."""
    n = torch.randint(2, 4, (), generator=dice).item()
    basis, _ = torch.linalg.qr(torch.randn(6, n, generator=dice))
    return torch.randn(4, 6, generator=dice), basis.T.contiguous()


def _by_what_is_left(g, basis):
    left = g - sum(inner(g, v.expand_as(g))[:, None] * v for v in basis)
    return 1 - (norm(left) / norm(g)) ** 2


share_inside = Exercise(
    solution=_by_what_is_left,
    inputs=_maps_and_basis,
    shows=(
        "Pythagoras: the squares inside and outside add up, so that the share lies between 0 and 1."
    ),
    mistakes={
        "this is the share of the length. The squares add up, the lengths do not.": (
            lambda g, basis: (g @ basis.T).norm(dim=1) / g.norm(dim=1)
        ),
        "this is the part outside.": (
            lambda g, basis: (
                1 - (g @ basis.T).square().sum(1) / g.square().sum(1)
            )
        ),
        "a share has no unit: divide by the square of the whole map.": (
            lambda g, basis: (g @ basis.T).square().sum(1)
        ),
        "square each coefficient before you add: signs must not cancel.": (
            lambda g, basis: (
                (g @ basis.T).sum(1).square() / g.square().sum(1)
            )
        ),
        "a share for each image. You added over the batch.": (
            lambda g, basis: (g @ basis.T).square().sum() / g.square().sum()
        ),
        "a norm is made of squares: sums of absolute values do not add up by Pythagoras.": (
            lambda g, basis: (g @ basis.T).abs().sum(1) / g.abs().sum(1)
        ),
    },
    shape_stated=False,
)


def progress():
    """The exercises of this lesson: done, or open."""
    return Progress(globals())
