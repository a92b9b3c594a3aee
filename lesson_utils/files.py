"""Files that are complete whenever they are there, and what is said to users about them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from uuid import uuid4


class UserError(ValueError):
    """What the user can mend: the command line shows the message alone, without a traceback."""


@contextmanager
def for_the_user(*kinds: type[Exception]) -> Iterator[None]:
    """Errors of these kinds, whose messages say what to do, as errors of the user."""
    try:
        yield
    except kinds as error:
        raise UserError(str(error)) from error


def listed(items: Iterable, most: int = 5) -> str:
    """The first few items, and how many more there are."""
    items = [str(item) for item in items]
    more = f" and {len(items) - most:,} more" if len(items) > most else ""
    return ", ".join(items[:most]) + more


def write_at_once(path: Path, content: bytes) -> None:
    """Replace a file at one stroke: a reader, at any moment, finds the old or the new content.

    Several processes may do so at once, each under a name of its own until the file is complete.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.name}.{uuid4().hex}.part")
    try:
        unfinished.write_bytes(content)
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def remove_unfinished(path: Path) -> None:
    """Remove what killed processes left of a file. The caller knows that no other writes it now."""
    for unfinished in path.parent.glob(f"{path.name}.*.part"):
        unfinished.unlink(missing_ok=True)


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """A folder to fill, which takes its name when it is complete, and otherwise leaves nothing."""
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UserError(f"{target} is not empty: delete it, or choose another folder")
    target.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent) as place:
        folder = Path(place) / target.name
        folder.mkdir()
        yield folder
        if target.exists():
            target.rmdir()
        folder.rename(target)
