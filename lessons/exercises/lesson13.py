"""A network of your own."""

import torch

from lesson_utils.checks import Exercise, Progress


def _reported(dice):
    """What was measured outside of the normalisation: values, gradients, inputs, mean, deviation."""
    value = 0.1 + torch.rand(4, generator=dice)
    gradient, u = torch.randn(2, 4, 6, generator=dice)
    mu, sigma = (
        torch.randn((), generator=dice).item(),
        0.5 + torch.rand((), generator=dice).item(),
    )
    return value, gradient, u, mu, sigma


def _along(x, gradient):
    return torch.einsum("bd,bd->b", x, gradient).abs() / gradient.norm(
        dim=1
    )


def _in_units_of_x(value, gradient, u, mu, sigma):
    return sigma * value, _along(sigma * u + mu, gradient)


in_units_of_x = Exercise(
    solution=_in_units_of_x,
    inputs=_reported,
    shows="Distances scale with σ; α changes with the origin, and no factor mends it.",
    mistakes={
        "a step of 1 in x is a step of 1/σ in u: which of the two numbers is larger?": (
            lambda value, gradient, u, mu, sigma: (
                value / sigma,
                _along(sigma * u + mu, gradient),
            )
        ),
        "this is α of u. Which point is x?": (
            lambda value, gradient, u, mu, sigma: (
                sigma * value,
                _along(u, gradient),
            )
        ),
        "α needs the point x itself, with its mean: a factor σ alone is not enough.": (
            lambda value, gradient, u, mu, sigma: (
                sigma * value,
                _along(sigma * u, gradient),
            )
        ),
        "undo the normalisation in the other order: u = (x − μ)/σ.": (
            lambda value, gradient, u, mu, sigma: (
                sigma * value,
                _along(sigma * (u + mu), gradient),
            )
        ),
        "α is an absolute value.": (
            lambda value, gradient, u, mu, sigma: (
                sigma * value,
                ((sigma * u + mu) * gradient).sum(1) / gradient.norm(dim=1),
            )
        ),
    },
)


def _scores(dice):
    scores = torch.stack(
        [torch.randperm(9, generator=dice) for _ in range(6)]
    )
    rivals = torch.cat([scores.argmax(1)[:1], scores.argmin(1)[1:2]])
    others = torch.randint(9, (4,), generator=dice)
    return scores * 1.5 - 5.0, torch.cat([rivals, others])


def _place(scores, rival):
    order = scores.argsort(1, descending=True)
    return (order == rival[:, None]).int().argmax(1)


rank_of_rival = Exercise(
    solution=_place,
    inputs=_scores,
    shows="Rank 1 is the second-best score: top_k=1 would have found it.",
    mistakes={
        "you counted from the worst score.": (
            lambda scores, rival: (
                (scores.argsort(1) == rival[:, None]).int().argmax(1)
            )
        ),
        "you counted the rival itself: the predicted class has rank 0.": (
            lambda scores, rival: _place(scores, rival) + 1
        ),
        "argsort lists classes by rank. You want the rank of a class: its place in that list.": (
            lambda scores, rival: scores.argsort(1, descending=True)[
                torch.arange(len(rival)), rival
            ]
        ),
    },
)


def progress():
    """The exercises of this lesson: done, or open."""
    return Progress(globals())
