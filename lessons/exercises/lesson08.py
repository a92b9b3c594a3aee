"""Robust training."""

import torch
from torch.nn.functional import cross_entropy

from lesson_utils import BinaryClassifier, gradient_penalty_loss
from lesson_utils.autograd import norm
from lesson_utils.checks import Exercise, Progress


def _numbers(dice):
    """A λ' below or above 1, a batch, and a white of 2 to 300."""
    strength = 10 ** (4 * torch.rand((), generator=dice).item() - 3)
    batch_size = torch.randint(20, 60, (), generator=dice).item()
    return (
        strength,
        batch_size,
        2 + 298 * torch.rand((), generator=dice).item(),
    )


def _measured(strength, batch_size, white):
    """Both penalties of one batch, computed as the two codes do."""
    dice = torch.Generator().manual_seed(0)
    options = {"generator": dice, "dtype": torch.float64}
    model = BinaryClassifier(torch.randn(5, **options))
    x = torch.rand(batch_size, 5, **options)
    y = torch.randint(2, (batch_size,), generator=dice)
    pixels = (white * x).requires_grad_(True)
    mean = cross_entropy(model(pixels / white), y)
    (theirs,) = torch.autograd.grad(mean, pixels)
    _, ours = gradient_penalty_loss(model, x, y, 1.0)
    return (strength * norm(theirs).square().mean() / ours).item()


our_strength = Exercise(
    solution=_measured,
    inputs=_numbers,
    shows=(
        "A λ without batch size and pixel unit says nothing: theirs shrinks by (B · w)², "
        "at B = 32 and w = 255 by a factor of 67 million."
    ),
    mistakes={
        "you multiplied. Is the gradient of the mean longer or shorter than a sample's own?": (
            lambda strength, batch_size, white: (
                strength * (batch_size * white) ** 2
            )
        ),
        "the penalty is a square: a factor of the gradient enters twice.": (
            lambda strength, batch_size, white: (
                strength / (batch_size * white)
            )
        ),
        "this is right for pixels in [0, 1]. What does the unit of a pixel do to a gradient?": (
            lambda strength, batch_size, white: strength / batch_size**2
        ),
        "this is right for the unit of the pixels. You left out the mean over the batch.": (
            lambda strength, batch_size, white: strength / white**2
        ),
        "the batch is right. In larger numbers the same image has a smaller gradient, not a larger one.": (
            lambda strength, batch_size, white: (
                strength * (white / batch_size) ** 2
            )
        ),
        "the pixels are right. The outer mean is in both objectives; look at the inner one, squared.": (
            lambda strength, batch_size, white: (
                strength / (batch_size * white**2)
            )
        ),
        "the batch is right. The unit of the pixels enters squared as well.": (
            lambda strength, batch_size, white: (
                strength / (batch_size**2 * white)
            )
        ),
    },
    shape_stated=False,
)


def _margins_and_loudness(dice):
    """Margins of both signs, and a number above 1 or below."""
    m = 3 * torch.rand(6, generator=dice)
    sign = torch.tensor([1.0, -1, 1, -1, 1, -1])
    exponent = 0.5 + torch.rand((), generator=dice).item()
    louder = torch.rand((), generator=dice) < 0.5
    return m * sign, 2.0 ** (exponent if louder else -exponent)


def _penalty(m, t):
    """Of one-dimensional samples at m, whose margin for class 1 is t times themselves."""
    leaf = m[:, None].clone().requires_grad_(True)
    scores = t * BinaryClassifier(torch.ones(1).to(m))(leaf)
    loss = cross_entropy(
        scores, torch.ones(len(m), dtype=torch.long), reduction="sum"
    )
    return norm(torch.autograd.grad(loss, leaf)[0]).square()


def _share(m, t):
    """How much smaller or larger σ(−m) becomes."""
    return torch.sigmoid(-t * m) / torch.sigmoid(-m)


factor = Exercise(
    solution=lambda m, t: _penalty(m, t) / _penalty(m, 1.0),
    inputs=_margins_and_loudness,
    shows=(
        "A right sample pays most at t = 1.278 / m, the number of the proposition, and less on "
        "either side, shouting or whispering. A wrong one pays more, the louder it is."
    ),
    mistakes={
        "σ(−m) changes, and the slope of the margin does, too.": lambda m, t: (
            _share(m, t) ** 2
        ),
        "this is the factor of the length. The penalty is its square.": (
            lambda m, t: t * _share(m, t)
        ),
        "the slope grows by t, but the derivative of the loss by the margin changes as well.": (
            lambda m, t: torch.full_like(m, t**2)
        ),
        "does the loss of a right sample with a large margin have a large gradient? Check the sign.": (
            lambda m, t: (t * _share(-m, t)) ** 2
        ),
        "you squared one of the two factors only.": lambda m, t: (
            t * _share(m, t) ** 2
        ),
    },
    shape_stated=False,
)


def progress():
    """The exercises of this lesson: done, or open."""
    return Progress(globals())
