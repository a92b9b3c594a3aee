"""What the page "Inside the helper module" shows, and `tests/test_rooms.py` holds.

The rooms are the files and folders of `lesson_utils`, the arrows their real imports.
"""

from __future__ import annotations

import ast
import inspect
import json
import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import lesson_utils

HOUSE = Path(lesson_utils.__file__).parent

# Definitions, propositions and theorems of the lessons, by label, and the code that computes them.
CODE = {
    "def-saliency": ["saliency.saliency_map"],
    "def-robustness": ["toy.AffineClassifier.robustness", "toy.PlanarReLUNet.robustness"],
    "prop-attack": ["attacks.AttackResult", "attacks.minimal_l2"],
    "thm-toy": ["toy.BinaryClassifier"],
    "prop-bias": ["toy.BinaryClassifier"],
    "prop-multiclass": ["toy.AffineClassifier.robustness"],
    "def-linearized": ["linearized.linearized_robustness"],
    "prop-exact": ["toy.PlanarReLUNet.affine_radius"],
    "thm-decomposition": ["homogeneity.homogeneous_decomposition"],
    "def-degree": ["homogeneity.degree_of_homogeneity"],
    "def-binarized": ["bound.binarize"],
    "prop-binarized": ["bound.Measurements"],
    "lem-bias": ["bound.Measurements"],
    "lem-direction": ["bound.Measurements"],
    "thm-bound": ["bound.bound_terms", "bound.Measurements.bound"],
    "prop-tight": ["bound.Measurements.lower_bound", "bound.Measurements.tight_bound"],
    "prop-loss-gradient": ["training.gradient_penalty_loss"],
    "prop-noise": ["saliency.alignment_of_noise"],
}
# The others are shown, or used in a proof, in the lesson itself.
WITHOUT_CODE = {
    "prop-lipschitz", "prop-shift", "def-homogeneous", "lem-euler", "cor-collapse",
    "prop-worst-loss", "def-coarse", "prop-coarse", "prop-black",
    "prop-bias-factor", "prop-exponents", "prop-origin", "def-centred", "prop-centred", "prop-trivial",
}  # fmt: skip


LESSONS = Path(__file__).parents[1] / "lessons"
_STATEMENT = re.compile(r"\{prf:(?!ref|proof)\w+\} ([^\n]+)\n:label: ([a-z-]+)")


def statements() -> dict[str, str]:
    """Every numbered statement of the lessons: its label, and lesson and title."""
    found = {}
    for path in sorted(LESSONS.glob("*.ipynb")):
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            for title, label in _STATEMENT.findall("".join(cell["source"])):
                found[label] = f"lesson {int(path.name[:2])}: {title}"
    return found


def files_of(room: str) -> list[Path]:
    """The Python files of a room: one, or those of a folder."""
    folder = HOUSE / room
    return sorted(folder.glob("*.py")) if folder.is_dir() else [HOUSE / f"{room}.py"]


EVERYWHERE = "extras"
"""The room that any may import: it names packages that are missing. The picture leaves it out."""


def rooms() -> set[str]:
    """Names of all rooms."""
    inside = {p.stem for p in HOUSE.glob("*.py")} | {p.parent.name for p in HOUSE.glob("*/*.py")}
    return inside - {"__init__", "__main__"}


def imports_of(path: Path, *, inside_functions: bool = True) -> Iterator[tuple[str | None, str]]:
    """What a file imports: pairs of a room, None for what lies outside the house, and a module."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    depth = len(path.relative_to(HOUSE).parts)  # 1 for a file of the house, 2 in a folder
    for node in ast.walk(tree) if inside_functions else tree.body:
        if isinstance(node, ast.ImportFrom) and node.level == depth:
            for name in [node.module] if node.module else [item.name for item in node.names]:
                yield name.split(".")[0], name
        elif isinstance(node, ast.ImportFrom) and node.level:  # another file of the same folder
            yield path.parent.name, node.module
        elif isinstance(node, ast.ImportFrom):
            yield None, node.module
        elif isinstance(node, ast.Import):
            yield from ((None, item.name) for item in node.names)


def rooms_below(room: str) -> set[str]:
    """The rooms that a room imports from."""
    found = {other for path in files_of(room) for other, _ in imports_of(path)}
    return found - {None, room}


def levels() -> dict[str, int]:
    """Height of each room: 0 for those that import from no other, else one above the highest below."""
    found: dict[str, int] = {}

    def height(room: str) -> int:
        if room not in found:
            below = rooms_below(room) - {EVERYWHERE}
            found[room] = max((height(other) + 1 for other in below), default=0)
        return found[room]

    for room in sorted(rooms() - {EVERYWHERE}):
        height(room)
    return found


def place_of(name: str) -> tuple[str, int]:
    """File, below `lesson_utils`, and line of a function, class or property named from its room."""
    room, *attributes = name.split(".")
    thing = import_module(f"lesson_utils.{room}")
    for attribute in attributes:
        thing = getattr(thing, attribute)
    thing = thing.fget if isinstance(thing, property) else inspect.unwrap(thing)
    path = Path(inspect.getsourcefile(thing)).relative_to(HOUSE)
    return path.as_posix(), inspect.getsourcelines(thing)[1]


def purpose_of(room: str) -> str:
    """First sentence of the documentation of a room."""
    text = inspect.getdoc(import_module(f"lesson_utils.{room}"))
    return text.split("\n\n")[0].replace("\n", " ").split(". ")[0].rstrip(".") + "."
