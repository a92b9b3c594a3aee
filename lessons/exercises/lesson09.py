"""The MNIST experiment."""

import torch

from lesson_utils.checks import Exercise, Progress


def _distances(dice):
    """Distances found by three attacks on eleven images. Some attacks fail, on each image another
    set of them; on one or two images, and these may be any, all of them do.
    """
    size = 10 ** (6 * torch.rand((), generator=dice) - 3)
    found = size * torch.rand(3, 11, generator=dice)
    fails = torch.rand(3, 11, generator=dice) < 0.1
    fails[torch.randint(3, (11,), generator=dice), torch.arange(11)] = False
    fails[:, 0] = torch.tensor([True, False, False])
    fails[:, 1] = True
    fails[:, 2] |= torch.rand((), generator=dice) < 0.5
    order = torch.randperm(11, generator=dice)
    return (torch.where(fails, torch.inf, found)[:, order],)


def _median_of_smallest(distances):
    columns = zip(*distances.tolist(), strict=True)
    return sorted(min(column) for column in columns)[
        distances.shape[1] // 2
    ]


def _finite(distances):
    return torch.where(distances.isfinite(), distances, torch.nan)


upper_bound = Exercise(
    solution=_median_of_smallest,
    inputs=_distances,
    shows=(
        "Each image has its own best attack. The median of these distances is proved to be an "
        "upper bound of the median of ρ."
    ),
    mistakes={
        "you took the best attack of all images together. Another attack may be better on this one.": (
            lambda d: d.median(1).values.amin()
        ),
        "the largest distance is the weakest statement. Which one proves most about ρ?": (
            lambda d: d.amax(0).median()
        ),
        "a weak attack takes nothing away from a strong one: do not average over the attacks.": (
            lambda d: d.median(0).values.median()
        ),
        "a mean is drawn by a few far images, and ruined by one infinite one. Take the median.": (
            lambda d: d.amin(0).mean()
        ),
        "an image that no attack has reached counts, too, as +∞. It moves the median.": (
            lambda d: _finite(d.amin(0)).nanmedian()
        ),
        "a failed attack found no adversary at distance 0. It found none at all.": (
            lambda d: torch.where(d.isfinite(), d, 0).amin(0).median()
        ),
        "one median over attacks and images together mixes weak and strong attacks.": (
            lambda d: _finite(d).nanmedian()
        ),
    },
    shape_stated=False,
)


def _curve(dice):
    """Medians of networks, in any order, that nearly follow a law of growth, or of decay, in any unit."""
    n = torch.randint(4, 8, (), generator=dice).item()
    rho = (0.2 + torch.rand(n, generator=dice)).cumsum(0)
    power = 0.4 + 1.6 * torch.rand((), generator=dice)
    if torch.rand((), generator=dice) < 0.5:
        power = -power
    noise = 0.05 * torch.randn(n, generator=dice)
    a, b = 10 ** (4 * torch.rand(2, generator=dice) - 2)
    order = torch.randperm(n, generator=dice)
    return a * rho[order], b * (rho**power * noise.exp())[order]


def _line(x, y):
    """Slope of the least-squares line, from the normal equations."""
    design = torch.stack([x, torch.ones_like(x)], 1).double()
    return torch.linalg.lstsq(design, y[:, None].double()).solution[0, 0]


exponent = Exercise(
    solution=lambda rho, alpha: _line(rho.log(), alpha.log()),
    inputs=_curve,
    shows=(
        "The slope in logarithms has no unit: in centimetres or in pixels the exponent is the same."
    ),
    mistakes={
        "this is the slope of α against ρ̃ themselves. It depends on the unit; take logarithms.": (
            lambda rho, alpha: _line(rho, alpha)
        ),
        "you exchanged the axes: how α grows with ρ̃, not ρ̃ with α.": (
            lambda rho, alpha: _line(alpha.log(), rho.log())
        ),
        "log α alone would make it an exponential law, α ≈ c·exp(pρ̃). Take the logarithm of ρ̃, too.": (
            lambda rho, alpha: _line(rho, alpha.log())
        ),
        "you joined the first and the last network. A line through all of them uses all of them.": (
            lambda rho, alpha: (
                (alpha[-1] / alpha[0]).log() / (rho[-1] / rho[0]).log()
            )
        ),
        "this is the correlation, which says how straight the line is, and not how steep.": (
            lambda rho, alpha: torch.corrcoef(
                torch.stack([rho.log(), alpha.log()])
            )[0, 1]
        ),
        "that is right but for the sign of falling curves: a quotient of deviations has none.": (
            lambda rho, alpha: alpha.log().std() / rho.log().std()
        ),
        "without an intercept the line must pass through the origin. What is α at ρ̃ = 1?": (
            lambda rho, alpha: (
                (rho.log() * alpha.log()).sum() / rho.log().square().sum()
            )
        ),
    },
    shape_stated=False,
)


def progress():
    """The exercises of this lesson: done, or open."""
    return Progress(globals())
