"""What is wrong with an answer: read it, compare it with the right one, and say how they differ."""

from __future__ import annotations

import copy
import dis
import inspect
import io
import textwrap
import tokenize
import traceback
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

SMALL = 9
"""Arguments with more entries are not printed."""


class NoAnswer(Exception):
    """Nothing that could be compared with the right answer; the text says why."""


def answers(answer, cases, right, *, any_shape: bool) -> list[list[Tensor]]:
    """What an answer gives for each case.

    Parameters
    ----------
    answer : callable or value
    cases : list of tuples
        The arguments of a callable answer.
    right : list of lists of tensors
        The right answers.
    any_shape : bool
        See :func:`read`.

    Raises
    ------
    NoAnswer
        If it was not attempted, is no function where one is wanted, stops with an error, or
        returns nothing or no numbers.
    """
    if answer is None or answer is ...:
        raise NoAnswer("– Not attempted yet.")
    if cases[0] and not callable(answer):
        raise NoAnswer("✘ Pass the function itself, without calling it: its name alone.")
    function = answer if callable(answer) else lambda: answer
    given = []
    for case, like in zip(cases, right, strict=True):
        try:
            value = function(*copy.deepcopy(case))
        except KeyboardInterrupt:  # of a reader who has waited too long
            raise
        except BaseException as error:  # even of exit()
            raise NoAnswer(f"✘ Your code stops with {_stop(function, error, case)}") from None
        if value is ... or (value is None and _left_blank(function)):
            raise NoAnswer("– Not attempted yet.")
        if value is None:
            raise NoAnswer("✘ Your function returns nothing: is a `return` missing?")
        given.append(read(value, like, any_shape=any_shape))
    return given


# --- reading values -----------------------------------------------------------------


def read(value, like: list[Tensor] | None = None, *, any_shape: bool = False) -> list[Tensor]:
    """Tensors of an answer: one, or as many as a tuple holds.

    Parameters
    ----------
    value : tensor, array, number, or list or tuple of these
    like : list of tensors, optional
        The right answer. Where it is one tensor, a tuple of several is stacked.
    any_shape : bool
        Take away axes of length one that the right answer does not have.

    Raises
    ------
    NoAnswer
        If these are no numbers, or not as many tensors as the right answer has.
    """
    if like is None:
        return [_tensor(part) for part in (value if isinstance(value, tuple) else (value,))]
    if len(like) == 1:
        parts = [value]
    elif isinstance(value, tuple | list) and len(value) == len(like):
        parts = list(value)
    else:
        raise NoAnswer(
            f"✘ Not yet: wanted are {len(like)} tensors, in a tuple, of {_shapes(like)}."
        )
    if isinstance(value, tuple) and hasattr(value, "values"):  # as x.min(0) returns
        raise NoAnswer("✘ Not yet: yours are values and indices, a pair: take its `.values`.")
    try:
        tensors = [_tensor(part) for part in parts]
    except NoAnswer:
        raise
    except Exception:  # whatever it is, it is no tensor
        kind = type(value).__name__
        raise NoAnswer(f"✘ Not yet: an answer of numbers is wanted, not {kind}.") from None
    if any_shape:
        return [
            x.view_as(y) if [n for n in x.shape if n > 1] == list(y.shape) else x
            for x, y in zip(tensors, like, strict=True)
        ]
    return tensors


def _tensor(value) -> Tensor:
    if isinstance(value, list | tuple) and len(value):
        return torch.stack([_tensor(entry) for entry in value])
    try:
        tensor = torch.as_tensor(value)
    except ValueError:  # an array that runs backwards
        tensor = torch.as_tensor(value.copy())
    if tensor.is_complex():
        raise NoAnswer("✘ Not yet: real numbers are wanted, not complex ones.")
    return tensor.detach().cpu().clone()


def precision(given: list[list[Tensor]]) -> float:
    """Eight units in the last place of the coarsest type of number among the answers."""
    kinds = {part.dtype for parts in given for part in parts if part.is_floating_point()}
    return max((8 * torch.finfo(kind).eps for kind in kinds), default=0.0)


# --- comparing ----------------------------------------------------------------------


def agree(given: list[list[Tensor]], right: list[list[Tensor]], tolerance: float) -> bool:
    """Whether all answers are the right ones, up to a tolerance relative to the largest entry."""
    return all(
        len(a) == len(b) and all(_close(x, y, tolerance) for x, y in zip(a, b, strict=True))
        for a, b in zip(given, right, strict=True)
    )


def _close(x: Tensor, y: Tensor, tolerance: float) -> bool:
    return x.shape == y.shape and bool(_matches(x, y, tolerance).all())


def _matches(x: Tensor, y: Tensor, tolerance: float) -> Tensor:
    """Entries that agree; NaN agrees with NaN."""
    x, y = x.double(), y.double()
    finite = y[y.isfinite()].abs()
    largest = finite.max().item() if len(finite) else 0.0
    return torch.isclose(x, y, rtol=0, atol=tolerance * max(1e-12, largest), equal_nan=True)


# --- code that does not answer ------------------------------------------------------


def _left_blank(function: Callable) -> bool:
    """Whether nothing stands in the body of a function but a docstring, `...` or `pass`."""
    code = getattr(inspect.unwrap(function), "__code__", None)
    if code is None:
        return False
    idle = {"RESUME", "NOP", "LOAD_CONST", "RETURN_CONST", "RETURN_VALUE"}
    if any(step.opname not in idle for step in dis.get_instructions(code)):
        return False
    try:  # `return None` and `pass` are the same to the interpreter
        text = inspect.getsource(code)
        words = [t.string for t in tokenize.generate_tokens(io.StringIO(text).readline)]
    except (OSError, SyntaxError, tokenize.TokenError):  # typed in where no text is kept
        return True
    return "return" not in words


def _stop(function: Callable, error: BaseException, case: Sequence) -> str:
    """What stopped the answer, and where in the reader's own code."""
    function = inspect.unwrap(function)
    said = traceback.format_exception_only(error)[-1].strip().splitlines()[0]
    file = getattr(getattr(function, "__code__", None), "co_filename", None)
    steps = [s for s in traceback.extract_tb(error.__traceback__) if s.filename == file]
    if steps:
        code = f": `{textwrap.shorten(steps[-1].line, 76)}`" if steps[-1].line else ""
        return f"{said} (line {steps[-1].lineno}{code})"
    try:
        inspect.signature(function).bind(*case)
    except TypeError:
        return f"{said}: the check calls it with {_count(len(case), 'argument')}."
    except ValueError:  # a builtin does not say what it takes
        pass
    return said


# --- values that are not right ------------------------------------------------------


def differs(given, right, cases, tolerance: float, function: Callable) -> str:
    """How an answer differs from the right one, with one entry as an example."""
    parts = range(len(right[0]))
    wrong = [
        k for k in parts if not agree([[a[k]] for a in given], [[b[k]] for b in right], tolerance)
    ]
    k = wrong[0]
    place = f"in part {k + 1} of the tuple " if len(parts) > 1 else ""
    a, b = [one[k] for one in given], [one[k] for one in right]
    for x, y in zip(a, b, strict=True):
        if x.shape != y.shape:
            return place + _shape(x, y, a, b, tolerance)
    what = _relation(a, b, tolerance) or _how_many(a, b, tolerance)
    return f"{place}{what} {_example(a, b, cases, tolerance, function)}"


def _shape(x: Tensor, y: Tensor, a, b, tolerance: float) -> str:
    text = f"your answer has shape {tuple(x.shape)}, the right one {tuple(y.shape)}."
    if x.numel() == y.numel() and x.squeeze().shape == y.squeeze().shape:
        return f"{text} `squeeze` and `unsqueeze` take away and add axes of length one."
    turned = [one.T if one.ndim == 2 else one for one in a]
    if all(_close(one, other, tolerance) for one, other in zip(turned, b, strict=True)):
        return f"{text} It is the right one, transposed."
    if x.numel() == 1 and y.ndim:
        return f"{text} Did you add, or average, over everything?"
    return text


def _relation(a: list[Tensor], b: list[Tensor], tolerance: float) -> str | None:
    """The rule by which all values come from the right ones, if there is a simple one."""

    def are(values) -> bool:
        return all(_close(x, y.double(), tolerance) for x, y in zip(a, values, strict=True))

    a, b = [x.double() for x in a], [y.double() for y in b]
    if any((x.isnan() & ~y.isnan()).any() for x, y in zip(a, b, strict=True)):
        return "some of your values are NaN, as 0/0 is, or the root of a negative number."
    if all(not x.count_nonzero() for x in a):
        return "your answer is zero everywhere."
    if _all_equal(a) and not _all_equal(b):
        return "your answer is the same, whatever the arguments are."
    if are([-y for y in b]):
        return "the sign is the wrong one everywhere."
    largest = [_largest(y) for y in b]
    pairs = [
        (x.flatten()[k].item(), y.flatten()[k].item())
        for x, y, k in zip(a, b, largest, strict=True)
    ]
    factors = [x / y if y else 0.0 for x, y in pairs]
    if are([factors[0] * y for y in b]):
        times = {"2": "twice", "0.5": "half of", "-2": "minus twice"}
        number = f"{factors[0]:.4g}"
        return f"your answer is {times.get(number, f'{number} times')} the right one, everywhere."
    offset = pairs[0][0] - pairs[0][1]
    if are([y + offset for y in b]):
        side = "larger" if offset > 0 else "smaller"
        return f"your answer is {side} than the right one by {abs(offset):.4g}, everywhere."
    if all(_close(x.abs(), y.abs(), tolerance) for x, y in zip(a, b, strict=True)):
        return "the sizes are right, some of the signs are not."
    for word, rule in {"reciprocal": torch.reciprocal, "square": torch.square}.items():
        if are([rule(y) for y in b]):
            return f"your answer is the {word} of the right one."
    if all((y >= 0).all() for y in b) and are([y.sqrt() for y in b]):
        return "your answer is the square root of the right one."
    if any(y.numel() > 1 for y in b):
        if all(_close(_in_order(x), _in_order(y), tolerance) for x, y in zip(a, b, strict=True)):
            return "the values are the right ones, in another order."
        if are([factor * y for factor, y in zip(factors, b, strict=True)]):
            few = ", ".join(f"{factor:.3g}" for factor in factors[:3])
            return f"your answer is a multiple of the right one, another at each call: {few}, …"
    return None


def _all_equal(values: list[Tensor]) -> bool:
    return all(torch.equal(x, values[0]) for x in values)


def _largest(values: Tensor) -> int:
    return values.flatten().abs().nan_to_num(0, 0, 0).argmax().item()


def _in_order(values: Tensor) -> Tensor:
    return values.flatten().sort().values


def _how_many(a: list[Tensor], b: list[Tensor], tolerance: float) -> str:
    good = [_matches(x, y, tolerance) for x, y in zip(a, b, strict=True)]
    total, count = sum(map(Tensor.numel, good)), sum(one.sum().item() for one in good)
    return f"{count or 'none'} of your {total} values {'are' if count > 1 else 'is'} right."


def _example(a, b, cases, tolerance: float, function: Callable) -> str:
    """The entry that is furthest from right, in the first draw in which one is wrong."""
    for x, y, case in zip(a, b, cases, strict=True):
        good = _matches(x, y, tolerance)
        if good.all():
            continue
        gap = (x.double() - y.double()).abs().nan_to_num(torch.inf).masked_fill(good, -1)
        where = [k.item() for k in torch.unravel_index(gap.argmax(), gap.shape)]
        yours, wanted = x[tuple(where)].item(), y[tuple(where)].item()
        label = f"Entry {where[0] if len(where) == 1 else where}" if where else "For example"
        text = f"{label}: yours is {_number(yours)}, right is {_number(wanted)}"
        if x.is_floating_point() or y.is_floating_point():
            text += _compared(yours, wanted)
        return f"{text}{_arguments(case, x, where, function)}."
    raise AssertionError("an answer without a wrong entry is right")


def _compared(yours: float, wanted: float) -> str:
    gap = yours - wanted
    if not abs(gap) < float("inf"):  # infinite, or NaN
        return ""
    ratio = f"ratio {yours / wanted:.3g}, " if wanted else ""
    return f" ({ratio}difference {gap:.3g})"


def _arguments(case: Sequence, answer: Tensor, where: list[int], function: Callable) -> str:
    """The arguments that are small enough to be printed; of a batch the sample in question."""
    try:
        names = list(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        names = []
    names += [f"argument {k + 1}" for k in range(len(names), len(case))]
    shown = []
    for name, value in zip(names, case, strict=False):
        if where and isinstance(value, Tensor) and value.shape[:1] == answer.shape[:1]:
            name, value = f"{name}[{where[0]}]", value[where[0]].squeeze()
        text = _printed(value)
        if text:
            shown.append(f"{name} = {text}")
    return f", for {', '.join(shown)}" if shown else ""


def _printed(value) -> str:
    if isinstance(value, Tensor) and value.numel() <= SMALL:
        return _printed(value.tolist())
    if isinstance(value, list | tuple) and len(value) <= SMALL:
        entries = [_printed(entry) for entry in value]
        return f"[{', '.join(entries)}]" if all(entries) else ""
    return _number(value) if isinstance(value, int | float) else ""


def _number(value: float) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _count(n: int, one: str, many: str | None = None) -> str:
    return f"{n} {one if n == 1 else many or one + 's'}"


def _shapes(tensors: list[Tensor]) -> str:
    return "shapes " + " and ".join(str(tuple(one.shape)) for one in tensors)
