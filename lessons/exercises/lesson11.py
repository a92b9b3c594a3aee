"""Explaining the observations."""

import torch

from lesson_utils.checks import Exercise, Progress


def _degrees(dice):
    """Degrees below and above one half, each with signs that agree and that do not; then exactly
    one half, both, and one, both.
    """
    low, high = torch.rand(2, 4, generator=dice)
    edges = torch.tensor([0.5, 0.5, 1.0, 1.0])
    degree = torch.cat([0.05 + 0.43 * low, 0.52 + 0.43 * high, edges])
    return degree, torch.tensor([True, False] * 6)


def _from_parts(degree, agree):
    """From a score that has these parts: |s| = degree, |β| = 1 − degree."""
    s, b = degree, 1 - degree
    return torch.where(agree, s / (s + b), s / (s - b).abs())


bias_factor = Exercise(
    solution=_from_parts,
    inputs=_degrees,
    shows=(
        "Where the signs agree, the factor is the degree. Where they do not, it explodes at one "
        "half: there the two parts cancel, and x lies on the boundary."
    ),
    mistakes={
        "right where the signs agree. Where they do not, the parts are subtracted.": (
            lambda degree, agree: degree
        ),
        "upside down: α† is the numerator.": (
            lambda degree, agree: 1 / _from_parts(degree, agree)
        ),
        "a distance is not negative. What happens at degrees below one half?": (
            lambda degree, agree: torch.where(
                agree, degree, degree / (2 * degree - 1)
            )
        ),
        "the numerator is missing where the signs do not agree: α† is |⟨x, g†⟩|/‖g†‖.": (
            lambda degree, agree: torch.where(
                agree, degree, 1 / (2 * degree - 1).abs()
            )
        ),
        "right where the signs do not agree. Where they do, the parts are added.": (
            lambda degree, agree: degree / (2 * degree - 1).abs()
        ),
        "you exchanged the two cases.": (
            lambda degree, agree: _from_parts(degree, ~agree)
        ),
        "this is the share of the bias. α† has the homogeneous part on top.": (
            lambda degree, agree: torch.where(
                agree, 1 - degree, (1 - degree) / (2 * degree - 1).abs()
            )
        ),
    },
    shape_stated=False,
)


def _stored(dice):
    """Parts and shifts of eight points, of both signs; in the last the shift takes all of β."""
    homogeneous, bias, shift = torch.randn(3, 8, generator=dice)
    return homogeneous, bias, torch.cat([shift[:7], -bias[7:]])


def _seen_from(homogeneous, bias, shift):
    """From the score, which no origin changes, and its homogeneous part."""
    score, part = homogeneous + bias, homogeneous - shift
    return 1 / (1 + ((score - part) / part).abs())


def _degree(part, rest):
    return part.abs() / (part.abs() + rest.abs())


degree_from = Exercise(
    solution=_seen_from,
    inputs=_stored,
    shows=(
        "The score does not change, only the way in which it is cut in two. Wherever "
        "⟨c, g⟩ = −β the degree is 1."
    ),
    mistakes={
        "the two parts still add up to the score. What ⟨x, g⟩ loses, β gains.": (
            lambda h, b, s: _degree(h - s, b)
        ),
        "this is the degree seen from the old origin.": (
            lambda h, b, s: _degree(h, b)
        ),
        "the sign: x − c is what is left of x.": (
            lambda h, b, s: _degree(h + s, b - s)
        ),
        "the sign: if one part loses ⟨c, g⟩, the other one does not lose it, too.": (
            lambda h, b, s: _degree(h - s, b - s)
        ),
        "the degree divides by |⟨x − c, g⟩| + |β|, not by the score: the parts may have different signs.": (
            lambda h, b, s: (h - s).abs() / (h + b).abs()
        ),
        "this is the part of the bias. The degree has the homogeneous part on top.": (
            lambda h, b, s: _degree(b + s, h - s)
        ),
    },
    shape_stated=False,
)


def progress():
    """The exercises of this lesson: done, or open."""
    return Progress(globals())
