"""No small change of a right answer passes its check, unless it is equal where it is asked for."""

import ast
import json
from dataclasses import replace
from itertools import cycle

import pytest
import torch
from mutations import mutants, names_of
from test_exercises import MODULES, NOTEBOOKS, exercises

from lesson_utils.checks import DRAWS

# Names of what is never negative where the statement asks; "result" is the answer itself.
SIGNLESS = {
    "lesson01.on_ink": {"x", "share_on_black", "result"},
    "lesson01.loss_gradient": {"x", "p", "i", "leaf"},
    "lesson02.by_samples": {"x", "decision", "k", "other", "_nearest", "found", "result"},
    "lesson02.certificate": {"rho", "result"},
    "lesson03.angle": {"result"},
    "lesson04.in_pixels": {"mean", "std", "result"},
    "lesson04.subtract": {"top", "winner", "lengths", "distances", "result"},
    "lesson05.foot": {"value"},
    "lesson05.probabilities": {"margin", "rho", "m", "r", "value", "slope", "tanh", "result"},
    "lesson06.fold": {"s"},
    "lesson07.gap_from_angle": {"size", "degrees", "angle", "deg2rad", "sin", "result"},
    "lesson07.rho_from_alpha": {"a", "alpha", "layers", "depth", "degree", "one", "result"},
    "lesson08.our_strength": {
        "strength",
        "batch_size",
        "white",
        "x",
        "pixels",
        "mean",
        "ours",
        "y",
    },
    "lesson08.factor": {"t", "after", "before", "loss", "_penalty", "len", "ones", "result"},
    "lesson09.upper_bound": {"distances", "column", "min", "result"},
    "lesson09.exponent": {"rho", "alpha"},
    "lesson10.share_of_noise": {"alpha", "size", "d", "z", "_tail", "cdf", "result"},
    "lesson10.gpu_hours": {
        *("strength", "plain", "cost", "epochs", "per_second", "speed", "seconds", "count", "len"),
        *("IMAGES", "result"),
    },
    "lesson11.bias_factor": {"degree", "s", "b", "opposite", "where", "result"},
    "lesson11.degree_from": {"part", "rest", "result"},
    "lesson12.centred_map": {"prediction", "k", "len"},
    "lesson12.share_inside": {"result"},
}
EQUAL = {}

NAMES = [(module, name) for module in MODULES for name in exercises(module)]


def from_exercises(module, name):
    """The solution of an exercise and the functions that it calls, with the imports."""
    body = ast.parse(MODULES[module].read_text(encoding="utf-8")).body
    (call,) = [s.value for s in body if names_of(s) == {name}]
    (solution,) = [k.value for k in call.keywords if k.arg == "solution"]
    answer = solution.id if isinstance(solution, ast.Name) else "answer"
    if answer == "answer":
        body = [*body, *ast.parse(f"answer = {ast.unparse(solution)}").body]
    used, before = {answer}, set()
    while used != before:
        before = used
        needed = [s for s in body if names_of(s) & used]
        used = used | {n.id for s in needed for n in ast.walk(s) if isinstance(n, ast.Name)}
    imports = [s for s in body if isinstance(s, ast.Import | ast.ImportFrom)]
    source = "\n".join(map(ast.unparse, [*imports, *needed]))
    return source, answer, {n for s in needed for n in names_of(s)}


def from_notebook(module, name):
    """The solution that a reader is shown, with the imports of the lesson."""
    cells = json.loads(NOTEBOOKS[module].read_text(encoding="utf-8"))["cells"]
    texts = ["".join(c["source"]) for c in cells if c["cell_type"] == "code"]
    (cell,) = [t for t in texts if f"assert exercises.{name}.check(" in t]
    functions = [s for s in ast.parse(cell).body if isinstance(s, ast.FunctionDef)]
    used = {n.id for f in functions for n in ast.walk(f) if isinstance(n, ast.Name)}
    imports = [
        ast.unparse(statement)
        for text in texts
        if "%" not in text
        for statement in ast.parse(text).body
        if isinstance(statement, ast.Import | ast.ImportFrom)
        and used & {(alias.asname or alias.name).split(".")[0] for alias in statement.names}
    ]
    answer = cell.split(f"exercises.{name}.check(")[1].split(")")[0]
    body = [ast.unparse(f) for f in functions]
    return "\n".join([*imports, *body]), answer, {f.name for f in functions}


def answer_of(source, answer):
    """The function; a module that stops, or a function that is none, is no answer."""
    names = {"__name__": "mutant"}
    exec(compile(source, "<mutant>", "exec"), names)
    return names[answer]


def drawn(exercise, seed):
    """The exercise with the arguments and right answers of one seed, for many answers."""
    dice = torch.Generator().manual_seed(seed)
    cases = [exercise.inputs(dice) for _ in range(DRAWS)]
    right = cycle([exercise.solution(*case) for case in cases])
    again = cycle(cases)
    return replace(
        exercise,
        inputs=lambda dice: next(again),
        solution=lambda *case: next(right),
        mistakes={},
    )


def survivors(module, name):
    """Mutants that pass on some seed, and how many were tried."""
    exercise = exercises(module)[name]
    fixed = [drawn(exercise, seed) for seed in range(3)]
    signless = SIGNLESS.get(f"{module}.{name}", set())
    found, tried = set(), 0
    for source, answer, functions in (from_exercises(module, name), from_notebook(module, name)):
        assert all(one.check(answer_of(source, answer)) for one in fixed)
        for key, changed in mutants(source, functions, answer, signless):
            tried += 1
            try:
                mutant = answer_of(changed, answer)
            except Exception:
                continue
            if any(one.check(mutant) for one in fixed):
                found.add(key)
    return found, tried


@pytest.mark.parametrize(("module", "name"), NAMES, ids=lambda one: one)
def test_no_mutant_passes(module, name):
    found, tried = survivors(module, name)
    assert tried > 40
    assert found <= EQUAL.get(f"{module}.{name}", set())
