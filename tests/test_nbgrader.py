"""The lessons as sources of nbgrader assignments; nbgrader itself is not needed here."""

import re

import nbformat
import pytest
import torch
from test_exercises import MODULES, NOTEBOOKS, exercises

from book.nbgrader_source import STATED, convert, main


def converted(module):
    notebook = nbformat.read(NOTEBOOKS[module], as_version=4)
    convert(notebook)
    return notebook


def graded(notebook):
    """Cells that nbgrader knows, by their names."""
    return {c.metadata.nbgrader.grade_id: c for c in notebook.cells if "nbgrader" in c.metadata}


def released(cell):
    """What nbgrader leaves of an answer."""
    return re.sub(r"(?s)\s*### BEGIN SOLUTION.*### END SOLUTION", "", cell.source)


@pytest.mark.parametrize("module", MODULES)
def test_every_exercise_is_an_answer_with_points(module):
    lesson = nbformat.read(NOTEBOOKS[module], as_version=4)
    notebook = converted(module)
    nbformat.validate(notebook)
    cells = graded(notebook)
    assert len(cells) == sum("nbgrader" in cell.metadata for cell in notebook.cells)
    stars = [len(found[1]) for cell in lesson.cells if (found := STATED.search(cell.source))]
    checks = {name: cell for name, cell in cells.items() if name.endswith("-check")}
    assert sum(c.metadata.nbgrader.get("points", 0) for c in cells.values()) == sum(stars)
    assert {name.removesuffix("-check") for name in checks} == set(exercises(module))
    for name, check in checks.items():
        answer = cells[name.removesuffix("-check")]
        assert released(answer) in [cell.source for cell in lesson.cells]  # the stub
        assert check.metadata.nbgrader.locked and not answer.metadata.nbgrader.locked
        assert "assert exercises." not in answer.source


@pytest.mark.parametrize("module", MODULES)
def test_no_solution_is_left_outside_the_answers(module):
    notebook = converted(module)
    for cell in notebook.cells:
        text = "" if cell.metadata.get("nbgrader", {}).get("solution") else cell.source
        assert "{solution}" not in text and "BEGIN SOLUTION" not in text
        assert "solution" not in cell.metadata.get("tags", []) or not text


def test_right_and_blank_answers_of_a_source(tmp_path):
    main(str(tmp_path), str(NOTEBOOKS["lesson03"]))
    folder = tmp_path / "source" / "lesson03"
    written = sorted(str(path.relative_to(folder)) for path in folder.rglob("*.*"))
    assert written == [
        "03_linear_toy_model.ipynb",
        "exercises/__init__.py",
        "exercises/lesson03.py",
    ]
    cells = graded(nbformat.read(folder / written[0], as_version=4))
    from exercises import lesson03

    for name in ("angle", "adversary"):
        names = {"torch": torch, "exercises": lesson03}
        exec(cells[name].source + "\n" + cells[f"{name}-check"].source, names)
        with pytest.raises(AssertionError, match="Not attempted"):
            exec(released(cells[name]) + "\n" + cells[f"{name}-check"].source, names)


def test_source_of_a_lesson_brings_the_records_that_it_reads(tmp_path):
    main(str(tmp_path), str(NOTEBOOKS["lesson09"]))
    recorded = NOTEBOOKS["lesson09"].with_name("recorded") / "mnist"
    copied = tmp_path / "source" / "lesson09" / "recorded" / "mnist"
    wanted = {path.relative_to(recorded) for path in recorded.rglob("*")}
    assert {path.relative_to(copied) for path in copied.rglob("*")} == wanted
    assert not list((tmp_path / "source" / "lesson09" / "recorded").glob("[!m]*"))
