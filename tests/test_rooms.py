"""The house rules: light import, imports only downwards, documented public names."""

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import lesson_utils

HOUSE = Path(lesson_utils.__file__).parent
# Lowest room first: a room may import from the rooms named for it, and from no other
# but the lowest, which names what is missing.
MAY_IMPORT = {
    "extras": set(),
    "gradients": set(),
    "geometry": {"gradients"},
    "homogeneity": {"gradients"},
    "toy": {"gradients"},
    "attacks": {"gradients"},
    "models": set(),
    "data": set(),
    "training": {"geometry", "models", "data"},
    "images": {"data", "training"},
    "checks": set(),
    "experiments": {"attacks", "data", "geometry", "images", "models", "training"},
    "plots": set(),
    "widgets": {"plots", "toy"},
}
CORE = ("extras", "gradients", "geometry", "homogeneity", "toy", "attacks")


def imports_of(path, *, inside_functions=True):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree) if inside_functions else tree.body:
        if isinstance(node, ast.ImportFrom):
            yield node.level, node.module or ""
        elif isinstance(node, ast.Import):
            yield from ((0, alias.name) for alias in node.names)


def test_every_room_has_a_place():
    rooms = {path.stem for path in HOUSE.glob("*.py")} - {"__init__", "__main__"}
    assert rooms == set(MAY_IMPORT)


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_imports_go_downwards(room):
    inner = {module for level, module in imports_of(HOUSE / f"{room}.py") if level}
    assert inner - {"extras"} <= MAY_IMPORT[room]


@pytest.mark.parametrize("room", CORE)
def test_core_needs_torch_and_numpy_only(room):
    imports = imports_of(HOUSE / f"{room}.py", inside_functions=False)
    outer = {module.split(".")[0] for level, module in imports if not level}
    assert outer - set(sys.stdlib_module_names) <= {"torch", "numpy"}


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
    """Two thousand lines were the aim before photographs and several processes came."""
    lines = {path.stem: code_lines(path) for path in HOUSE.glob("*.py")}
    program = sum(lines.pop(room) for room in ("experiments", "images", "extras", "__main__"))
    assert sum(lines.values()) < 1720  # definitions, attacks, training, pictures
    assert program < 650  # the paper's protocol and the command line


def public_functions():
    for room in MAY_IMPORT:
        module = __import__(f"lesson_utils.{room}", fromlist=["_"])
        for name, value in vars(module).items():
            own = getattr(value, "__module__", None) == module.__name__
            if (
                own
                and not name.startswith("_")
                and (inspect.isfunction(value) or inspect.isclass(value))
            ):
                yield pytest.param(value, id=f"{room}.{name}")


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
