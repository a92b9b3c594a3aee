"""Packages that only some rooms need: what is missing is named, with the command that brings it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib import metadata

PROJECT = "robustness-and-saliency"
PACKAGE_OF = {"sklearn": "scikit-learn", "PIL": "pillow", "IPython": "ipython"}
"""Packages whose modules have another name."""


@contextmanager
def needed_by(what: str) -> Iterator[None]:
    """Import what is not part of the core, for the thing that is named.

    Parameters
    ----------
    what : str
        What cannot do without it, as a reader knows it: a module or a function.

    Raises
    ------
    ModuleNotFoundError
        A package is missing; the message holds the command that installs it.

    Examples
    --------
    ::

        with needed_by("Measurements.to_frame"):
            import pandas
    """
    try:
        yield
    except ModuleNotFoundError as error:
        module = (error.name or "").split(".")[0]
        if module in ("", "lesson_utils"):  # a mistake of ours, or a message that says it already
            raise
        package = PACKAGE_OF.get(module, module)
        raise ModuleNotFoundError(
            f"{what} needs {package}, which is not installed: {command([package])}"
        ) from None


def command(packages: Iterable[str]) -> str:
    """The pip command that installs packages in versions that this project admits.

    It works in any folder: the project itself is in no package index, and not named.
    """
    wanted = [_requirement(package) for package in packages]
    if any(_name(requirement) == "torchvision" for requirement in wanted):
        # Each torchvision names one torch, and pip would put it in the place of the one here.
        wanted.append(f"torch=={metadata.version('torch')}")
    return " ".join(["python -m pip install", *(f"'{one}'" for one in wanted)])


def _requirement(package: str) -> str:
    """The requirement that the installed project states for a package; the bare name otherwise."""
    try:
        stated = metadata.requires(PROJECT) or []
    except metadata.PackageNotFoundError:  # a copied folder, as in the lessons' zip
        stated = []
    found = [line.split(";")[0].strip() for line in stated if _name(line) == _name(package)]
    return next(iter(found), package)


def _name(requirement: str) -> str:
    """The name in a requirement, as package indices compare names."""
    name = re.match(r"[\w.-]*\w", requirement)[0]
    return re.sub(r"[-_.]+", "-", name).lower()
