"""The house rules: light import, imports only downwards, documented public names."""

import ast
import importlib
import inspect
import re
import subprocess
import sys
from pathlib import Path

import inside  # of the page "Inside the helper module": both read the same facts
import pytest

import lesson_utils

ROOT = Path(__file__).parents[1]
HOUSE = inside.HOUSE
MATHEMATICS = "autograd", "saliency", "linearized", "homogeneity", "bound"
# Lowest room first: a room may import from the rooms named for it, and from no other.
MAY_IMPORT = {
    "extras": set(),
    "files": set(),
    "validation": set(),
    "autograd": {"validation"},
    "saliency": {"validation", "autograd"},
    "linearized": {"validation", "autograd"},
    "homogeneity": {"validation", "autograd"},
    "bound": {"validation", "autograd", "linearized", "homogeneity"},
    "toy": {"validation", "autograd"},
    "attacks": {"validation", "autograd"},
    "models": {"validation"},
    "data": {"validation"},
    "training": {"validation", "autograd"},
    "browser": {"models", "data"},
    "photographs": {"validation", "data", "files"},
    "records": {"attacks", "models", "data", "files"},
    "checks": set(),
    "plots": {"validation"},
    "widgets": {"plots", "toy", "saliency", "browser"},
    "comparison": {"validation", "saliency", "bound", "attacks", "plots"},
    "experiments": {
        "files",
        "validation",
        "attacks",
        "bound",
        "models",
        "data",
        "photographs",
        "training",
        "records",
    },
}
NEEDS_TORCH_ONLY = "extras", "validation", *MATHEMATICS, "toy", "attacks", "training", "checks"


def test_every_room_has_a_place():
    assert inside.rooms() == set(MAY_IMPORT)


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_imports_go_downwards(room):
    order = list(MAY_IMPORT)
    found = inside.rooms_below(room)
    assert found - {inside.EVERYWHERE} <= MAY_IMPORT[room]  # which names what is missing
    assert all(order.index(other) < order.index(room) for other in found)


def test_no_room_imports_the_experiments():
    assert not [room for room, allowed in MAY_IMPORT.items() if "experiments" in allowed]


@pytest.mark.parametrize("room", NEEDS_TORCH_ONLY)
def test_these_need_torch_and_numpy_only(room):
    for path in inside.files_of(room):
        outer = {
            m.split(".")[0] for r, m in inside.imports_of(path, inside_functions=False) if not r
        }
        assert outer - set(sys.stdlib_module_names) <= {"torch", "numpy"}, path


def test_records_can_be_read_without_attacks_locks_and_git():
    heavy = "foolbox", "filelock", "subprocess"
    source = (HOUSE / "records.py").read_text(encoding="utf-8")
    assert not any(name in source for name in heavy)


def test_import_is_light():
    heavy = (
        "matplotlib",
        "torchvision",
        "sklearn",
        "ipywidgets",
        "IPython",
        "safetensors",
        "foolbox",
    )
    code = f"import sys, lesson_utils; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def code_lines(path):
    """Lines that are neither blank nor comment nor docstring: documentation is not rationed."""
    text = path.read_text(encoding="utf-8")
    documentation = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            documentation |= set(range(node.lineno, node.end_lineno + 1))
    lines = enumerate(text.splitlines(), start=1)
    return sum(n not in documentation and line.strip()[:1] not in ("", "#") for n, line in lines)


def test_the_house_stays_small():
    lines = {room: sum(map(code_lines, inside.files_of(room))) for room in MAY_IMPORT}
    program = lines.pop("experiments")
    mathematics = sum(lines.pop(room) for room in MATHEMATICS)
    assert mathematics <= 450
    assert program <= 1135  # why not 550, as was planned: CONTRIBUTING.md, "The helper module"
    assert sum(lines.values()) <= 3800  # toy models, attacks, data, training, pictures, …


def public_functions():
    for room in MAY_IMPORT:
        for path in inside.files_of(room):
            place = path.relative_to(HOUSE).with_suffix("")
            if place.name == "__main__":
                continue
            name = ".".join(part for part in place.parts if part != "__init__")
            module = importlib.import_module(f"lesson_utils.{name}")
            for name, value in vars(module).items():
                own = getattr(value, "__module__", None) == module.__name__
                kind = inspect.isfunction(value) or inspect.isclass(value)
                if own and kind and not name.startswith("_"):
                    yield pytest.param(value, id=f"{module.__name__}.{name}")


@pytest.mark.parametrize("thing", list(public_functions()))
def test_public_names_are_documented(thing):
    assert (inspect.getdoc(thing) or "").strip()


def test_all_names_exist():
    assert all(hasattr(lesson_utils, name) for name in lesson_utils.__all__)


def test_environment_report():
    command = [sys.executable, "-m", "lesson_utils"]
    report = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    for fact in ("Python", "torch ", "device", "digits", "MNIST"):
        assert fact in report
    assert "missing" not in report


def test_environment_report_says_how_to_get_data_and_finds_it(made_up_mnist, monkeypatch):
    from lesson_utils.__main__ import report

    raw, _ = made_up_mnist
    assert f"found in {raw}" in report()
    monkeypatch.setenv("LESSONS_DATA", "/nowhere")
    assert "load_mnist('/nowhere', download=True)" in report()


def test_every_numbered_statement_is_on_the_page_or_known_to_have_no_code():
    text = "".join(p.read_text(encoding="utf-8") for p in (ROOT / "lessons").glob("*.ipynb"))
    labels = set(re.findall(r":label: ((?:def|lem|prop|thm|cor)-[a-z-]+)", text))
    assert len(labels) > 25
    assert set(inside.CODE) | inside.WITHOUT_CODE == labels == set(inside.statements())
    assert not set(inside.CODE) & inside.WITHOUT_CODE


@pytest.mark.parametrize("name", sorted({name for names in inside.CODE.values() for name in names}))
def test_the_page_names_the_line_of_the_code(name):
    file, line = inside.place_of(name)
    text = (HOUSE / file).read_text(encoding="utf-8").splitlines()
    last = name.split(".")[-1]
    assert any(f"def {last}" in row or f"class {last}" in row for row in text[line - 1 : line + 2])


def test_every_room_says_what_it_is_for():
    assert all(len(inside.purpose_of(room)) > 20 for room in inside.rooms())
