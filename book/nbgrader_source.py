"""Writes lessons as assignments for nbgrader: `python book/nbgrader_source.py COURSE LESSON …`.

The stub of a coded exercise becomes an answer cell that holds the solution, its check an autograded
cell. Every other exercise gets a cell for a text that a person marks. A star is worth one point.
"""

import re
import shutil
import sys
from pathlib import Path

import nbformat

STATED = re.compile(r"\{exercise\} \w+ · \d+ minutes · (★+)\n:label: (ex-[\w-]+)")
RECORD = re.compile(r'"(recorded/[\w-]+)"')
CHECK = re.compile(r"exercises\.(\w+)\.check\((.+)\)$")


def mark(cell, name: str, points: int = 0, *, answer: bool = False):
    """Enter a cell for nbgrader: students write answers, points make a cell count."""
    cell.metadata["nbgrader"] = {
        "schema_version": 3,
        "grade_id": name,
        "solution": answer,
        "locked": not answer,
        "task": False,
        "grade": points > 0,
        **({"points": points} if points else {}),
    }


def convert(notebook):
    """Turn a lesson into the source of an assignment, in place."""
    kept, label, points, coded = [], None, 0, False
    for cell, following in zip(notebook.cells, [*notebook.cells[1:], None], strict=True):
        if stated := STATED.search(cell.source):
            points, label, coded = len(stated[1]), stated[2], False
        if "solution" not in cell.metadata.get("tags", []):
            kept.append(cell)
        elif f"{{solution}} {label}\n" in cell.source and not coded:
            mark(cell, label, points, answer=True)
            kept.append(cell)
        if check := CHECK.match(cell.source):
            coded, (name, answer) = True, check.groups()
            right = re.sub(r"\s*assert exercises\..*", "", following.source)
            kept[-2].source += f"\n\n\n### BEGIN SOLUTION\n{right}\n### END SOLUTION"
            mark(kept[-2], name, answer=True)
            verdict = f"exercises.{name}.check({answer}, seed=1)"
            cell.source = f"verdict = {verdict}\nassert verdict, verdict"
            mark(cell, f"{name}-check", points)
    notebook.cells = kept


def main(course: str, *lessons: str):
    """Write each lesson, with the checks and records that it reads, to a folder of its own."""
    for lesson in map(Path, lessons):
        notebook = nbformat.read(lesson, as_version=4)
        convert(notebook)
        name = f"lesson{lesson.name[:2]}"
        folder = Path(course, "source", name)
        (folder / "exercises").mkdir(parents=True, exist_ok=True)
        for file in ("__init__.py", f"{name}.py"):
            shutil.copy(lesson.with_name("exercises") / file, folder / "exercises")
        for record in {name for cell in notebook.cells for name in RECORD.findall(cell.source)}:
            shutil.copytree(lesson.parent / record, folder / record, dirs_exist_ok=True)
        nbformat.write(notebook, folder / lesson.name)


if __name__ == "__main__":
    main(*sys.argv[1:])
