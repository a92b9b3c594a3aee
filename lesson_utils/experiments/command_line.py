"""The command line of the experiments, made from the dataclasses of the settings."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Union

import tyro

from ..files import UserError
from ..photographs import check_images
from ..records import table
from .exporting import export
from .merging import merge
from .processes import is_first, join_processes
from .run import run
from .settings import PRESETS, Settings

PROGRAM = "python -m lesson_utils.experiments"
_PAPER = Settings()


class Experiment(NamedTuple):
    """Train and measure the networks of an experiment."""

    out: Path
    """folder of the record, continued if it is there; e.g. --out runs/first --strengths 0 0.1"""
    device: str = "cpu"
    """a PyTorch device, such as cuda"""
    cache: Path | None = None
    """folder for decoded photographs, if that of the data cannot be written"""
    quiet: tyro.conf.FlagCreatePairsOff[bool] = False
    """no plan, no progress bars, no table"""
    settings: tyro.conf.OmitArgPrefixes[tyro.conf.FlagConversionOff[Settings]] = _PAPER


class CheckData(NamedTuple):
    """Look through a folder of photographs, and name what cannot be read."""

    folder: tyro.conf.Positional[Path]
    """with train/ and val/"""


class Export(NamedTuple):
    """Copy a record with the weights of a few networks, in half precision."""

    folder: tyro.conf.Positional[Path]
    """a finished record"""
    target: tyro.conf.Positional[Path]
    """folder of the copy"""
    strengths: tuple[float, ...]
    """values of λ of these networks"""
    data: Path | None = None
    """folder of the photographs, if it is no longer where the record says"""
    cache: Path | None = None
    """folder for decoded photographs, if that of the data cannot be written"""


class Merge(NamedTuple):
    """Join records of one experiment with different λ or seeds, from several machines, to one."""

    folders: tyro.conf.Positional[tuple[Path, ...]]
    """finished records, or exported ones"""
    out: Path
    """folder of the record that has all their networks"""


def _summary(settings: Settings) -> str:
    """What a preset does."""
    sweep = ", ".join(f"{strength:g}" for strength in settings.sweep.strengths)
    trainings = settings.training.epochs * len(settings.models())
    return f"{settings.data.data}, λ = {sweep}: {trainings} epochs in all"


def _commands() -> type:
    """One subcommand a preset, whose defaults are those of the preset; and one a class."""
    presets = tyro.extras.subcommand_type_from_defaults(
        {name: Experiment(tyro.MISSING, settings=preset) for name, preset in PRESETS.items()},
        {name: _summary(preset) for name, preset in PRESETS.items()},
    )
    return Union[presets, CheckData, Export, Merge]  # noqa: UP007


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line; see `--help`.

    What the user can mend is one line, with exit status 2; any other error is a fault of this
    package, and keeps its traceback. Status 1: `check-data` found faults. 130: stopped by Ctrl-C.
    """
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    given = tyro.cli(_commands(), prog=PROGRAM, description=_DESCRIPTION, args=arguments)
    try:
        status = _do(given, arguments)
    except (UserError, OSError, ModuleNotFoundError) as error:
        print(f"{PROGRAM}: {' '.join(str(error).split())}", file=sys.stderr)
        status = 2
    except KeyboardInterrupt:
        again = f"{PROGRAM} {shlex.join(arguments)}"
        print(f"\nStopped. What is done is kept; to continue: {again}", file=sys.stderr)
        status = 130
    if status:
        sys.exit(status)


def _do(given: Experiment | CheckData | Export | Merge, arguments: list[str]) -> int:
    """What the command asks for; returns the exit status."""
    if isinstance(given, CheckData):
        report = check_images(given.folder, progress=True)
        print(report)
        return 1 if report.problems or report.faulty else 0
    if isinstance(given, Export):
        export(given.folder, given.target, given.strengths, data=given.data, cache=given.cache)
        return 0
    if isinstance(given, Merge):
        print(table(merge(given.folders, given.out)), f"Record: {given.out}", sep="\n")
        return 0
    device = join_processes(given.device)
    command = f"{PROGRAM} {shlex.join(_without_paths(arguments))}"
    options = {"device": device, "cache": given.cache, "progress": not given.quiet}
    record = run(given.settings, given.out, command=command, **options)
    if not given.quiet and is_first():
        print(table(record), f"Record: {given.out}", sep="\n")
        print(f"Next: {PROGRAM} export {given.out} FOLDER --strengths … copies some networks;")
        print(f'in Python: lesson_utils.records.load_record("{given.out}")')
    return 0


def _without_paths(words: list[str]) -> list[str]:
    """The words of a command with FOLDER for the folders of record and cache: nobody's concern."""
    return [
        "FOLDER"
        if before in ("--out", "--cache")
        else re.sub("^(--out|--cache)=.*", r"\1=FOLDER", word)
        for before, word in zip(["", *words], words, strict=False)
    ]


_DESCRIPTION = sys.modules[__package__].__doc__
