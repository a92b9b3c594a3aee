"""The command line of the experiments, made from the dataclasses of the settings."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Union

import tyro

from ..photographs import check_images
from .exporting import export
from .processes import join_processes
from .run import run
from .settings import PRESETS, Settings

PROGRAM = "python -m lesson_utils.experiments"
_PAPER = Settings()


@dataclass(frozen=True)
class Experiment:
    """Train and measure the networks of an experiment."""

    out: Path
    """folder of the record, continued if it is there; e.g. --out runs/first --strengths 0 0.1"""
    device: str = "cpu"
    """a PyTorch device, such as cuda"""
    quiet: tyro.conf.FlagCreatePairsOff[bool] = False
    """no progress bars"""
    settings: tyro.conf.OmitArgPrefixes[tyro.conf.FlagConversionOff[Settings]] = _PAPER


@dataclass(frozen=True)
class CheckData:
    """Look through a folder of photographs, and name what cannot be read."""

    folder: tyro.conf.Positional[Path]
    """with train/ and val/"""


@dataclass(frozen=True)
class Export:
    """Copy a record with the weights of a few networks, in half precision."""

    folder: tyro.conf.Positional[Path]
    """a finished record"""
    target: tyro.conf.Positional[Path]
    """folder of the copy"""
    strengths: tuple[float, ...]
    """values of λ of these networks"""


def _summary(settings: Settings) -> str:
    """What a preset does."""
    sweep = ", ".join(f"{strength:g}" for strength in settings.sweep.strengths)
    trainings = settings.training.epochs * len(settings.models())
    return f"{settings.data.data}, λ = {sweep}: {trainings} epochs in all"


def _commands() -> type:
    """One subcommand a preset, whose defaults are those of the preset; and the others."""
    presets = [
        Annotated[
            Experiment,
            tyro.conf.subcommand(
                name,
                default=Experiment(tyro.MISSING, settings=settings),
                description=_summary(settings),
            ),
        ]
        for name, settings in PRESETS.items()
    ]
    others = [
        Annotated[CheckData, tyro.conf.subcommand("check-data")],
        Annotated[Export, tyro.conf.subcommand("export")],
    ]
    return Union[tuple(presets + others)]  # noqa: UP007


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line; see `--help`."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    given = tyro.cli(_commands(), prog=PROGRAM, description=_DESCRIPTION, args=arguments)
    if isinstance(given, CheckData):
        print(*check_images(given.folder, progress=True)._asdict().items(), sep="\n")
    elif isinstance(given, Export):
        export(given.folder, given.target, given.strengths)
    else:
        device = join_processes(given.device)
        command = f"{PROGRAM} {shlex.join(_without_path(arguments, given.out))}"
        run(given.settings, given.out, device=device, progress=not given.quiet, command=command)


def _without_path(words: list[str], out: Path) -> list[str]:
    """The words of a command with FOLDER for the folder of the record, which is nobody's concern."""
    kept = []
    for word in words:
        option, _, value = word.rpartition("=")
        if option in ("", "--out") and value and Path(value) == out:
            word = f"{option}=FOLDER" if option else "FOLDER"
        kept.append(word)
    return kept


_DESCRIPTION = sys.modules[__package__].__doc__
