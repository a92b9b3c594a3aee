"""Checks that a reader's answer to an exercise is right, or which likely mistake it is.

The exercises themselves, with their solutions and mistakes, lie beside the lessons, in
`lessons/exercises`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor


class Verdict:
    """What :meth:`Exercise.check` says; true if the answer is right."""

    def __init__(self, right: bool, text: str):
        self.right, self.text = right, text

    def __bool__(self) -> bool:
        return self.right

    def __repr__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Exercise:
    """A coded exercise: the reader writes a function, or names a number."""

    solution: Callable
    """A right answer, by another way than the one that the reader is asked to take."""
    inputs: Callable[[torch.Generator], tuple]
    """Draws fresh arguments for the answer."""
    shows: str
    """What a right answer has shown."""
    mistakes: Mapping[str, Callable]
    """Plausible wrong answers, each under the hint that is meant for those who give it."""
    tolerance: float = 1e-5
    """Admitted difference, relative to the largest entry."""

    def check(self, answer, *, seed: int | None = None) -> Verdict:
        """Compare an answer with the right one on random arguments.

        Parameters
        ----------
        answer : callable or value
            An untouched stub returns None: that is neither right nor wrong.
        seed : int, optional
            Of the arguments; by default others at each call.

        Returns
        -------
        Verdict
            A notebook displays its text. Errors of the answer are part of the text: none is raised.
        """
        if answer is None or answer is ...:
            return Verdict(False, "– Not attempted yet.")
        dice = torch.Generator()
        dice.manual_seed(dice.seed() if seed is None else seed)
        function = answer if callable(answer) else lambda: answer
        cases, given = [self.inputs(dice) for _ in range(5)], []
        for case in cases:
            try:
                given.append(function(*copy.deepcopy(case)))
            except Exception as error:
                return Verdict(False, f"✘ Your code stops with {type(error).__name__}: {error}")
        if any(value is None or value is ... for value in given):
            return Verdict(False, "– Not attempted yet.")

        def is_that_of(other: Callable) -> bool:
            pairs = zip(given, cases, strict=True)
            return all(_same(value, other(*case), self.tolerance) for value, case in pairs)

        if is_that_of(self.solution):
            return Verdict(True, f"✔ Right. {self.shows}")
        for hint, wrong in self.mistakes.items():
            if is_that_of(wrong):
                return Verdict(False, f"✘ Not yet: {hint}")
        return Verdict(False, f"✘ Not yet. {_difference(given[0], self.solution(*cases[0]))}")


def _tensors(value) -> list[Tensor]:
    parts = value if isinstance(value, tuple) else (value,)
    return [torch.as_tensor(part).detach().double() for part in parts]


def _same(value, other, tolerance: float) -> bool:
    try:
        a, b = _tensors(value), _tensors(other)
    except (TypeError, ValueError, RuntimeError):  # no numbers at all
        return False
    if [part.shape for part in a] != [part.shape for part in b]:
        return False
    scale = [tolerance * max(1e-12, y.abs().nan_to_num(0, 0, 0).amax().item()) for y in b]
    pairs = zip(a, b, scale, strict=True)
    return all(torch.allclose(x, y, rtol=0, atol=t, equal_nan=True) for x, y, t in pairs)


def _difference(value, right) -> str:
    try:
        a, b = ([tuple(part.shape) for part in _tensors(one)] for one in (value, right))
    except (TypeError, ValueError, RuntimeError):
        return f"An answer of numbers is wanted, not {type(value).__name__}."
    if a != b:
        return f"Your answer has shape {a}, the right one {b}.".replace("[", "").replace("]", "")
    return "Its shape is right, its values are not: try it on a case that you can do by hand."
