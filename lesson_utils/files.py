"""Files that are complete whenever they are there."""

from __future__ import annotations

import os
from pathlib import Path


def write_at_once(path: Path, content: bytes) -> None:
    """Replace a file at one stroke: a reader, at any moment, finds the old or the new content."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(path.name + ".part")
    unfinished.write_bytes(content)
    os.replace(unfinished, path)
