"""Natural images."""

import torch

from lesson_utils.autograd import inner, norm
from lesson_utils.checks import Exercise, Progress


def _alignments(dice):
    """Alignments of the order that noise has, and lengths of images; few pixels, so that
    no answer, not even a wrong one, is zero to rounding.
    """
    size = 10 ** (3 * torch.rand(6, generator=dice) - 1.5)
    d = torch.randint(16, 50, (), generator=dice).item()
    scale = torch.cat(
        [2 * torch.rand(5, generator=dice), torch.tensor([0.01])]
    )
    return scale * size / d**0.5, size, d


def _tail(z):
    """Share of a normal variable outside [−z, z]."""
    return 2 * torch.distributions.Normal(0.0, 1.0).cdf(-z)


share_of_noise = Exercise(
    solution=lambda alpha, size, d: _tail(alpha / size * d**0.5),
    inputs=_alignments,
    shows=(
        "A share of 0.05 says that one map of noise in twenty is aligned as well. "
        "Half of them have α ≥ 0.67 ‖x‖/√d."
    ),
    mistakes={
        "that is the share of maps that are aligned worse.": (
            lambda alpha, size, d: 1 - _tail(alpha / size * d**0.5)
        ),
        "α is an absolute value: both tails of the bell count.": (
            lambda alpha, size, d: _tail(alpha / size * d**0.5) / 2
        ),
        "one entry of a random unit vector is of the order 1/√d, not 1/d.": (
            lambda alpha, size, d: _tail(alpha / size * d)
        ),
        "where is the length of the image? α is not a cosine yet.": (
            lambda alpha, size, d: _tail(alpha * d**0.5)
        ),
        "one entry of a random unit vector gets smaller with d. Where is d?": (
            lambda alpha, size, d: _tail(alpha / size)
        ),
        "erfc(z) belongs to a bell with the variance 1/2: what does it want instead of z?": (
            lambda alpha, size, d: torch.erfc(alpha / size * d**0.5)
        ),
    },
    tolerance=1e-3,
    shape_stated=False,
)


def _two_maps(dice):
    """Two maps of each of four images, neither centred: alike, opposed, and nearly unrelated."""
    a, b = 3 * torch.rand(2, 4, 5, 7, generator=dice) - 0.3
    alike = torch.tensor([2.0, -2.0, 1.0, -0.3])[
        torch.randperm(4, generator=dice)
    ]
    return a, 2 * b + alike[:, None, None] * a + 4


def _centred(a):
    return a.flatten(1) - a.flatten(1).mean(1, keepdim=True)


def _cosine(a, b):
    return inner(a, b) / (norm(a) * norm(b))


def _by_corrcoef(a, b):
    rows = zip(a.flatten(1), b.flatten(1), strict=True)
    return torch.stack(
        [torch.corrcoef(torch.stack(pair))[0, 1] for pair in rows]
    )


correlation = Exercise(
    solution=_by_corrcoef,
    inputs=_two_maps,
    shows=(
        "A correlation does not see the brightness of a map, nor its contrast: only where it is "
        "strong and where it is weak."
    ),
    mistakes={
        "this is a cosine. Two maps without negative entries have a large one, whatever they show.": _cosine,
        "this is a covariance. In other units of g it would be another number.": (
            lambda a, b: inner(_centred(a), _centred(b)) / a[0].numel()
        ),
        "subtract the mean over the pixels of each image, not over the images of the batch.": (
            lambda a, b: _cosine(a - a.mean(0), b - b.mean(0))
        ),
        "one number an image is asked for. You took all pixels of all images together.": (
            lambda a, b: torch.corrcoef(
                torch.stack([a.flatten(), b.flatten()])
            )[0, 1]
        ),
        "the squared correlation loses the sign.": (
            lambda a, b: _by_corrcoef(a, b) ** 2
        ),
        "you took the absolute value. Where one map is strong and the other weak, it is negative.": (
            lambda a, b: _by_corrcoef(a, b).abs()
        ),
        "this is the slope of the line through the pixels, which depends on the units of the maps.": (
            lambda a, b: (
                inner(_centred(a), _centred(b)) / norm(_centred(a)) ** 2
            )
        ),
    },
    tolerance=1e-4,
)

IMAGES = 1_281_167


def _plan(dice):
    """Values of λ, epochs, and images that one GPU takes a second.

    Zero stands anywhere in the list, two or three times; one small λ stands there twice, as if
    for two seeds.
    """
    n = torch.randint(3, 9, (), generator=dice).item()
    zeros = torch.randint(2, 4, (), generator=dice).item()
    values = [*[0.0] * zeros, 1e-6, 1e-6, *(0.1 * 3.0**k for k in range(n))]
    order = torch.randperm(len(values), generator=dice).tolist()
    epochs = torch.randint(2, 21, (), generator=dice).item()
    speed = 200 + 1000 * torch.rand((), generator=dice).item()
    return [values[k] for k in order], epochs, speed


def _hours(strengths, epochs, speed):
    seconds = 0.0
    for strength in strengths:
        for _ in range(epochs):
            seconds += (2.5 if strength else 1.0) * IMAGES / speed
    return seconds / 3600


def _of(cost):
    """Hours of a plan, if a network of strength λ costs cost(λ) plain ones."""
    return lambda strengths, epochs, speed: (
        sum(map(cost, strengths)) * epochs * IMAGES / speed / 3600
    )


gpu_hours = Exercise(
    solution=_hours,
    inputs=_plan,
    shows=(
        "The preset asks for 33 GPU hours at 400 images a second. The two things that help are "
        "fewer values of λ and a faster decoder of JPEG files."
    ),
    mistakes={
        "the network with λ = 0 needs no second gradient.": _of(
            lambda s: 2.5
        ),
        "the penalty is free in your count.": _of(lambda s: 1.0),
        "the network with λ = 0 is trained, too: its epochs cost as much as plain ones do.": _of(
            lambda s: 2.5 * (s > 0)
        ),
        "you counted one plain training, as if the list began with its only zero. How many are there?": (
            lambda strengths, epochs, speed: (
                _of(lambda s: 2.5)(strengths[1:], epochs, speed)
                + _of(lambda s: 1.0)(strengths[:1], epochs, speed)
            )
        ),
        "one network for each entry of the list: a λ that stands there twice is trained twice.": (
            lambda strengths, epochs, speed: _hours(
                set(strengths), epochs, speed
            )
        ),
        "the cost of a step does not grow with λ.": _of(
            lambda s: 1 + 1.5 * s
        ),
        "every image is seen once in each epoch.": (
            lambda strengths, epochs, speed: _hours(strengths, 1, speed)
        ),
        "these are seconds.": (
            lambda strengths, epochs, speed: (
                3600 * _hours(strengths, epochs, speed)
            )
        ),
        "these are minutes.": (
            lambda strengths, epochs, speed: (
                60 * _hours(strengths, epochs, speed)
            )
        ),
    },
    shape_stated=False,
)


def progress():
    """The exercises of this lesson: done, or open."""
    return Progress(globals())
