"""Exercises of the lessons: their checks are right about right, blank and wrong answers."""

import importlib
import json
import re
import sys
from pathlib import Path

import pytest
import torch

from lesson_utils.checks import Exercise

LESSONS = Path(__file__).parents[1] / "lessons"
sys.path.insert(0, str(LESSONS))
MODULES = {path.stem: path for path in sorted((LESSONS / "exercises").glob("lesson*.py"))}
NOTEBOOKS = {f"lesson{path.name[:2]}": path for path in sorted(LESSONS.glob("*.ipynb"))}


def exercises(module):
    found = vars(importlib.import_module(f"exercises.{module}"))
    return {name: value for name, value in found.items() if isinstance(value, Exercise)}


ALL = [
    pytest.param(exercise, id=f"{module}.{name}")
    for module in MODULES
    for name, exercise in exercises(module).items()
]
MISTAKES = [
    pytest.param(one.values[0], hint, id=f"{one.id}-{k}")
    for one in ALL
    for k, hint in enumerate(one.values[0].mistakes)
]

STATED = re.compile(r"\{exercise\} (\w+) · (\d+) minutes · (★+)\n:label: (ex-[\w-]+)\n")


@pytest.fixture(autouse=True, params=[torch.float32, torch.float64], ids=str)
def default_dtype(request):
    """Some lessons compute in float64."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(request.param)
    yield
    torch.set_default_dtype(before)


# --- the check itself -----------------------------------------------------------

TWICE = Exercise(
    solution=lambda x: 2 * x,
    inputs=lambda dice: (torch.randn(4, generator=dice),),
    shows="Twice is twice.",
    mistakes={"you squared.": lambda x: x**2, "you averaged.": lambda x: 2 * x.mean()},
)


def stub(x): ...


def spoils_its_argument(x):
    x *= 2
    return x


def test_right_answers_in_any_form():
    for answer in (lambda x: x + x, lambda x: (2 * x).tolist(), lambda x: 2 * x.numpy()):
        verdict = TWICE.check(answer)
        assert verdict and repr(verdict) == "✔ Right. Twice is twice."
    assert TWICE.check(spoils_its_argument)  # each call gets arguments of its own


@pytest.mark.parametrize("blank", [None, ..., stub, lambda x: ...])
def test_blank_answers_are_not_judged(blank):
    verdict = TWICE.check(blank)
    assert not verdict
    assert repr(verdict) == "– Not attempted yet."


def test_wrong_answers():
    def says(answer):
        verdict = TWICE.check(answer)
        assert not verdict
        return repr(verdict)

    assert says(lambda x: x * x) == "✘ Not yet: you squared."
    assert says(lambda x: 2 * x.sum() / 4) == "✘ Not yet: you averaged."
    assert "shape (3,), the right one (4,)" in says(lambda x: x[1:])
    assert "1.5 times the right one" in says(lambda x: 3 * x)
    assert "not str" in says(lambda x: "two")
    assert "stops with ZeroDivisionError: division by zero" in says(lambda x: 1 / 0)
    assert "stops with TypeError" in says(lambda: 1)


def test_a_number_is_an_answer():
    number = Exercise(lambda: 0.25, lambda dice: (), "A quarter.", {"upside down.": lambda: 4})
    assert number.check(0.25) and number.check(torch.tensor(0.25)) and number.check(1 / 4)
    assert "upside down" in repr(number.check(4.0))
    assert not number.check(0.26)


def test_pairs_are_compared_entry_by_entry():
    pair = Exercise(lambda x: (x, -x), TWICE.inputs, "A pair.", {})
    assert pair.check(lambda x: (x, 0 - x))
    assert not pair.check(lambda x: (x, x))
    assert "shape" in repr(pair.check(lambda x: x))


def test_arguments_are_fresh_unless_a_seed_is_given():
    seen = []
    for seed in (None, None, 1, 1):
        TWICE.check(lambda x: seen.append(x) or 2 * x, seed=seed)
    assert not torch.equal(seen[0], seen[5])
    assert not torch.equal(seen[0], seen[1])
    assert torch.equal(seen[10], seen[15])
    state = torch.get_rng_state()
    TWICE.check(stub)
    assert torch.equal(torch.get_rng_state(), state)  # the lesson's own seed is left alone


# --- the exercises of the lessons -------------------------------------------------


@pytest.mark.parametrize("exercise", ALL)
def test_the_solution_is_right(exercise):
    for seed in range(10):
        assert exercise.check(exercise.solution, seed=seed), seed


@pytest.mark.parametrize("exercise", ALL)
def test_a_stub_is_not_judged_and_other_answers_are_wrong(exercise):
    assert repr(exercise.check(lambda *arguments: ...)) == "– Not attempted yet."
    assert repr(exercise.check(lambda *arguments: "?", seed=0)).startswith("✘")


@pytest.mark.parametrize(("exercise", "hint"), MISTAKES)
def test_each_mistake_gets_its_own_hint(exercise, hint):
    for seed in range(10):
        assert repr(exercise.check(exercise.mistakes[hint], seed=seed)) == f"✘ Not yet: {hint}"


@pytest.mark.parametrize("exercise", ALL)
def test_texts(exercise):
    assert len(exercise.mistakes) >= 2
    for text in (exercise.shows, *exercise.mistakes):
        assert text[-1] in ".?!"


@pytest.mark.parametrize("module", MODULES)
def test_a_lesson_has_its_exercises_in_the_pattern(module):
    cells = json.loads(NOTEBOOKS[module].read_text(encoding="utf-8"))["cells"]
    texts = ["".join(cell["source"]) for cell in cells]
    tags = [cell["metadata"].get("tags", []) for cell in cells]
    stated = [label for text in texts for *_, label in STATED.findall(text)]
    assert len(set(stated)) == len(stated) == sum(text.count("{exercise}") for text in texts)
    assert 3 <= len(stated) <= 6
    assert any("## Exercises" in text for text in texts)
    coded = exercises(module)
    assert len(coded) >= 2
    for name in coded:
        check = [k for k, text in enumerate(texts) if text.startswith(f"exercises.{name}.check(")]
        assert len(check) == 1, name
        (k,) = check
        assert "..." in texts[k - 1]  # the stub
        assert f"assert exercises.{name}.check(" in texts[k + 1]
        assert {"solution", "hide-cell"} <= set(tags[k + 1])
        assert cells[k + 1]["metadata"]["jupyter"]["source_hidden"]
        assert "solution" not in tags[k - 1] + tags[k]
    worked = {
        label for t, g in zip(texts, tags, strict=True) if "solution" in g for label in solved(t)
    }
    assert set(stated) == worked | {label for label, name in attached(texts, coded)}
    for text, tag in zip(texts, tags, strict=True):
        assert "{solution}" not in text or "solution" in tag


def solved(text):
    return re.findall(r"\{solution\} (ex-[\w-]+)\n:class: dropdown\n", text)


def attached(texts, coded):
    """Coded exercises, with the label of the exercise that was stated last before their check."""
    last = None
    for text in texts:
        last = ([label for *_, label in STATED.findall(text)] or [last])[-1]
        for name in coded:
            if text.startswith(f"exercises.{name}.check("):
                assert last == f"ex-{name.replace('_', '-')}"
                yield last, name


def test_labels_of_exercises_are_those_of_one_exercise_each():
    labels = [label for path in NOTEBOOKS.values() for *_, label in STATED.findall(markdown(path))]
    assert len(labels) == len(set(labels))
    for path in NOTEBOOKS.values():
        text = markdown(path)
        assert set(solved(text)) <= {label for *_, label in STATED.findall(text)}
        assert set(re.findall(r"\{ref\}`(ex-[\w-]+)`", text)) <= set(labels)


def markdown(path):
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")
