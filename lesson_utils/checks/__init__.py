"""Checks that a reader's answer to an exercise is right, or which likely mistake it is.

The exercises themselves, with their solutions and mistakes, lie beside the lessons, in
`lessons/exercises`. `python -m lesson_utils.checks FOLDER` checks the notebooks of a class.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field

import torch

from .diagnosis import NoAnswer, agree, answers, differs, precision, read

DRAWS = 5
"""How many times a check draws arguments."""


class Verdict:
    """What :meth:`Exercise.check` says; true if the answer is right."""

    def __init__(self, right: bool, text: str):
        self.right, self.text = right, text

    def __bool__(self) -> bool:
        return self.right

    def __repr__(self) -> str:
        return self.text


@dataclass
class Exercise:
    """A coded exercise: the reader writes a function, or names a number."""

    solution: Callable
    """A right answer, by another way than the one that the reader is asked to take."""
    inputs: Callable[[torch.Generator], tuple]
    """Draws fresh arguments for the answer, from all that the statement allows."""
    shows: str
    """What a right answer has shown."""
    mistakes: Mapping[str, Callable]
    """Plausible wrong answers, each under the hint that is meant for those who give it."""
    tolerance: float = 1e-5
    """Admitted difference, relative to the largest entry."""
    shape_stated: bool = True
    """Whether the statement gives the shape; if not, axes of length one may be added."""
    done: bool = field(default=False, init=False)
    """Whether an answer was right since the lesson was started."""

    def check(self, answer, *, seed: int | None = None) -> Verdict:
        """Compare an answer with the right one on random arguments.

        Parameters
        ----------
        answer : callable or value
            An untouched stub returns None: that is neither right nor wrong. The values may be
            tensors, arrays, numbers or lists of these. What is computed in half precision is
            compared as closely as half precision admits.
        seed : int, optional
            Of the arguments; by default others at each call.

        Returns
        -------
        Verdict
            A notebook displays its text. Errors of the answer are part of the text: none is raised.
        """
        with _usual_torch():
            verdict = self._judge(answer, seed)
        self.done = self.done or verdict.right
        return verdict

    def _judge(self, answer, seed: int | None) -> Verdict:
        dice = torch.Generator()
        dice.manual_seed(dice.seed() if seed is None else seed)
        cases = [self.inputs(dice) for _ in range(DRAWS)]
        right = [read(self.solution(*case)) for case in cases]
        try:
            given = answers(answer, cases, right, any_shape=not self.shape_stated)
        except NoAnswer as problem:
            return Verdict(False, str(problem))
        coarse = precision(given)
        tolerance = max(self.tolerance, coarse)
        hints = (hint for hint in self.mistakes if self._is(hint, given, cases, tolerance))
        if not agree(given, right, tolerance):
            hint = next(hints, None) or differs(given, right, cases, tolerance, answer)
            return Verdict(False, f"✘ Not yet: {hint}")
        if coarse > self.tolerance and next(hints, None):
            text = "✘ In so few digits your answer cannot be told from a wrong one: use float32."
            return Verdict(False, text)
        return Verdict(True, f"✔ Right. {self.shows}")

    def _is(self, hint: str, given, cases, tolerance: float) -> bool:
        """Whether an answer is what the mistake with this hint leads to."""
        try:
            return all(
                agree([parts], [read(self.mistakes[hint](*case))], tolerance)
                for parts, case in zip(given, cases, strict=True)
            )
        except Exception:  # where the reader's code has changed settings of PyTorch
            return False


class Progress:
    """The exercises of a lesson, done or open since it was started; nothing is stored.

    Parameters
    ----------
    lesson : mapping
        Names and values, the exercises among them: the globals of a module.
    """

    def __init__(self, lesson: Mapping[str, object]):
        found = {name: one for name, one in lesson.items() if isinstance(one, Exercise)}
        self.done = [name for name, one in found.items() if one.done]
        self.open = [name for name, one in found.items() if not one.done]
        self._names = list(found)

    def __repr__(self) -> str:
        width = max(map(len, self._names), default=0)
        rows = [
            f"{name:{width}}  {'✔ done' if name in self.done else '– open'}" for name in self._names
        ]
        return "\n".join([*rows, f"{len(self.done)} of {len(self._names)} done"])


@contextmanager
def _usual_torch() -> Iterator[None]:
    """The settings under which arguments can be drawn and differentiated, and no trace of them."""
    before = torch.get_default_dtype()
    if before.itemsize < 4:
        torch.set_default_dtype(torch.float32)
    try:
        here = nullcontext() if torch.get_default_device().type == "cpu" else torch.device("cpu")
        with here, torch.inference_mode(False), torch.enable_grad():
            yield
    finally:
        torch.set_default_dtype(before)
