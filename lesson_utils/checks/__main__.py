"""Checks the notebooks of a class: `python -m lesson_utils.checks FOLDER`.

Each notebook is run as it is, in a kernel of its own and in a fresh folder with copies of the
exercises and records of the lessons. A cell that stops does not keep the next ones from running.
After each check the answer is checked once more, on arguments that are the same for all, by the
exercises that belong to this copy of the book. One line is written for each notebook and exercise.
Nothing leaves this machine. The code of the notebooks is run with all your rights.
"""

from __future__ import annotations

import argparse
import ast
import csv
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

LESSONS = Path(__file__).parents[2] / "lessons"
VERDICTS = {"✔": "right", "✘": "wrong", "–": "open"}
COLUMNS = ("notebook", "exercise", "verdict", "hint")


def main(arguments: list[str] | None = None) -> None:
    """Command line; see `--help`."""
    parser = argparse.ArgumentParser(
        prog="python -m lesson_utils.checks",
        description="Run the checks of all notebooks in a folder, and write a CSV line for each "
        "notebook and exercise: notebook, exercise, verdict (right, wrong, open, missing, error), "
        "hint. The code of the notebooks is run on this machine; nothing is sent anywhere.",
    )
    parser.add_argument("folder", type=Path, help="where the notebooks are, also in its folders")
    parser.add_argument("--out", type=Path, help="the CSV file (default: standard output)")
    parser.add_argument(
        "--lessons",
        type=Path,
        default=LESSONS,
        help="the folder of the lessons, with `exercises` in it (default: %(default)s)",
    )
    parser.add_argument(
        "--seconds", type=int, default=600, help="time for one cell (default: %(default)s)"
    )
    asked = parser.parse_args(arguments)
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(encoding="utf-8")
    if not asked.folder.is_dir():
        parser.error(f"{asked.folder} is no folder")
    if not (asked.lessons / "exercises").is_dir():
        parser.error(f"{asked.lessons} has no folder `exercises`: name the lessons by --lessons")
    try:
        import nbclient  # noqa: F401 (it comes with JupyterLab)
    except ImportError:
        parser.error("nbclient is missing: install the package with the extra `lessons`")
    notebooks = sorted(
        path for path in asked.folder.rglob("*.ipynb") if ".ipynb_checkpoints" not in path.parts
    )
    if asked.out:
        opened = asked.out.open("w", encoding="utf-8", newline="")
    else:
        opened = nullcontext(sys.stdout)
    with opened as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(COLUMNS)
        for path in notebooks:
            name = path.relative_to(asked.folder).as_posix()
            print(name, file=sys.stderr)
            for row in check_notebook(path, asked.lessons.resolve(), seconds=asked.seconds):
                table.writerow((name, *row))
            file.flush()


def check_notebook(path: Path, lessons: Path, *, seconds: int) -> Iterator[tuple[str, str, str]]:
    """Run a notebook and its checks.

    Parameters
    ----------
    path : Path
        Of the notebook; the file is only read.
    lessons : Path
        Holds the folder `exercises`.
    seconds : int
        After which a cell is interrupted.

    Yields
    ------
    exercise, verdict, hint : str
        A line for each exercise of the lesson that the notebook imports; the verdict is `right`,
        `wrong`, `open` (not attempted), `missing` (the notebook has no check of it) or `error`
        (the check could not be run: the function is not defined, or the kernel died).
    """
    import nbformat

    try:
        notebook = nbformat.read(path, as_version=4)
        module = lesson_of(notebook)
    except Exception as error:  # whatever was handed in
        yield "", "error", f"cannot be read: {type(error).__name__}"
        return
    if module is None or not (lessons / "exercises" / f"{module}.py").is_file():
        yield "", "error", "imports no exercises: `from exercises import lesson01 as exercises`"
        return
    checks = add_checks(notebook, module)
    run(notebook, lessons, seconds)
    for name in names_of(lessons / "exercises" / f"{module}.py"):
        yield name, *(verdict_of(checks[name]) if name in checks else ("missing", ""))


def lesson_of(notebook) -> str | None:
    """The module of exercises that a notebook imports."""
    for cell in notebook.cells:
        if cell.cell_type == "code" and (
            found := re.search(r"from exercises import (lesson\d+)", cell.source)
        ):
            return found[1]
    return None


def names_of(module: Path) -> list[str]:
    """The exercises that a module defines, in their order."""
    return [
        statement.targets[0].id
        for statement in ast.parse(module.read_text(encoding="utf-8")).body
        if isinstance(statement, ast.Assign)
        and isinstance(statement.value, ast.Call)
        and ast.unparse(statement.value.func) == "Exercise"
    ]


def add_checks(notebook, module: str) -> dict:
    """Take out the solutions of the book; after each check add one whose result is read.

    Returns
    -------
    dict
        Names of exercises, and the cell that was added after the last check of each.
    """
    import nbformat

    cells, added = [], {}
    for cell in notebook.cells:
        if "solution" in cell.metadata.get("tags", []):
            continue
        cells.append(cell)
        for name, answer in checks_in(cell):
            source = (
                f"__import__('importlib').import_module('exercises.{module}')"
                f".{name}.check({answer}, seed=1)"
            )
            added[name] = nbformat.v4.new_code_cell(source)
            cells.append(added[name])
    notebook.cells = cells
    return added


def checks_in(cell) -> Iterator[tuple[str, str]]:
    """Names and answers of the checks in a cell; an assertion belongs to a solution."""
    if cell.cell_type != "code":
        return
    lines = [line for line in cell.source.splitlines() if line.lstrip()[:1] not in ("%", "!")]
    try:
        statements = ast.parse("\n".join(lines)).body
    except SyntaxError:
        return
    for statement in statements:
        for node in ast.walk(statement):
            if isinstance(statement, ast.Assert) or not isinstance(node, ast.Call):
                continue
            found = re.fullmatch(r"exercises\.(\w+)\.check", ast.unparse(node.func))
            if found and node.args:
                yield found[1], ast.unparse(node.args[0])


def run(notebook, lessons: Path, seconds: int) -> None:
    """Run all cells of a notebook, in place, where its imports and records are found."""
    from nbclient import NotebookClient
    from nbclient.exceptions import DeadKernelError

    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as place:
        for name in ("exercises", "recorded"):
            if (lessons / name).is_dir():
                shutil.copytree(lessons / name, Path(place, name))
        client = NotebookClient(
            notebook,
            kernel_name="python3",
            allow_errors=True,
            timeout=seconds,
            interrupt_on_timeout=True,
            resources={"metadata": {"path": place}},
        )
        try:
            client.execute(stderr=subprocess.DEVNULL)  # what the kernel says of itself
        except DeadKernelError:  # of what came after it nothing is known
            return
        except Exception as error:
            print(f"  {type(error).__name__}: {error}", file=sys.stderr)


def verdict_of(cell) -> tuple[str, str]:
    """Verdict and hint from the output of a check."""
    for output in cell.outputs:
        if output.output_type == "execute_result":
            mark, _, text = output.data.get("text/plain", "").partition(" ")
            if mark in VERDICTS:
                return VERDICTS[mark], text.removeprefix("Right. ").removeprefix("Not yet: ")
        if output.output_type == "error":
            return "error", f"{output.ename}: {output.evalue}"
    return "error", "the notebook did not get as far as this check"


if __name__ == "__main__":
    main()
