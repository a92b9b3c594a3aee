"""Join records of one experiment, whose networks were trained on several machines, to one."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from safetensors.torch import save
from torch import Tensor

from ..files import UserError, for_the_user, new_folder, write_at_once
from ..records import SCHEMA, grid_of, load_record, notes_of, pairs_of, stored, write_record_json
from .folders import identity, refuse_changes, weights_note
from .provenance import differences
from .settings import Settings


def merge(folders: Sequence[str | Path], target: str | Path) -> dict:
    """Join records of one experiment with different λ or seeds to one record.

    They must agree in all that decides about the numbers: images, network, recipe, weights to
    start from, and measuring. Their code and machines may differ: the new record names all. A
    network that is in several must be the same in each, number by number.

    Parameters
    ----------
    folders : sequence of str or Path
        Finished records, or copies made by :func:`~lesson_utils.experiments.export`.
    target : str or Path
        Must be new, or empty. Weights are copied as they are, full or half.

    Returns
    -------
    dict
        The new record. Its settings and command are those of the first, and `strengths`,
        `seeds` and `repeated` describe the networks that are there, see
        :func:`lesson_utils.records.load_record`. `provenance["merged"]` lists, for each record,
        its command, machines and networks.

    Raises
    ------
    ValueError
        Two records do not belong together, a file is damaged, or `target` is not empty.
    """
    if not folders:
        raise UserError("merge needs the folders of at least one record")
    folders = [Path(folder) for folder in folders]
    networks: dict[str, _Network] = {}
    sources, first = [], None
    with for_the_user(ValueError):
        for folder in folders:
            record = load_record(folder)
            first = first or record
            _refuse_others(folder, record["settings"], folders[0], first["settings"])
            for found in _networks(folder, record):
                name = found.entry["name"]
                known = networks.setdefault(name, found)
                if not known.is_same_as(found):
                    raise UserError(f"{folder} and {known.folder} have two networks {name}")
                if found.fullness > known.fullness:
                    networks[name] = found
            sources += _sources(record)
    pairs = {(n.entry["strength"], n.entry["seed"]): n for n in networks.values()}
    settings = {key: value for key, value in first["settings"].items() if key != "models"}
    settings |= grid_of(pairs)
    provenance = first["provenance"] | {"merged": sources}
    environments = [machine for source in sources for machine in source["environments"]]
    provenance["environments"] = [
        m for k, m in enumerate(environments) if m not in environments[:k]
    ]
    steps = {kind: {} for kind in ("training", "measuring")}
    for source in reversed(sources):
        for kind, seconds in steps.items():
            seconds |= source["timing"][kind]
    provenance["timing"] = {"began": min(s["timing"]["began"] for s in sources), **steps}
    ordered = [pairs[pair] for pair in pairs_of(settings)]
    with new_folder(Path(target)) as folder:
        for network in ordered:
            if network.fullness:
                write_at_once(folder / "models" / network.path.name, network.path.read_bytes())
        values = {f"{n.entry['name']}/{k}": v for n in ordered for k, v in n.values.items()}
        notes = {n.entry["name"]: n.note for n in ordered if n.note}
        write_at_once(folder / "samples.safetensors", save(values, metadata=notes))
        record = {"schema": SCHEMA, "settings": settings, "provenance": provenance}
        write_record_json(folder, record | {"models": [n.entry for n in ordered]})
    return load_record(target)


class _Network(NamedTuple):
    """One network of a record, with all that is known of it."""

    folder: Path
    entry: dict
    values: dict[str, Tensor]
    note: str | None
    """What decided about the values, if the record says so."""

    @property
    def path(self) -> Path:
        return self.folder / "models" / f"{self.entry['name']}.safetensors"

    @property
    def fullness(self) -> int:
        """0 without weights, 1 with half of their digits, 2 with all."""
        return 0 if not self.path.exists() else 1 if "half" in self.entry else 2

    def is_same_as(self, other: _Network) -> bool:
        """Whether all numbers agree, bit by bit; half weights are not compared with full ones."""
        mine, theirs = (
            {key: value for key, value in network.entry.items() if key not in ("half", "bundled")}
            for network in (self, other)
        )
        same = json.dumps(mine) == json.dumps(theirs) and _equal(self.values, other.values)
        if not self.fullness or self.fullness != other.fullness:
            return same
        return same and _equal(stored(self.path)[0], stored(other.path)[0])


def _equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """Bit by bit, so that NaN equals NaN."""
    parts = [{key: value.numpy().tobytes() for key, value in d.items()} for d in (one, other)]
    return parts[0] == parts[1]


def _networks(folder: Path, record: dict) -> Iterator[_Network]:
    """The networks of a record, whose weights must be those that the record speaks of."""
    values, notes = stored(folder / "samples.safetensors")
    settings = record["settings"]
    for entry in record["models"]:
        start = f"{entry['name']}/"
        mine = {k.removeprefix(start): v for k, v in values.items() if k.startswith(start)}
        found = _Network(folder, entry, mine, notes.get(entry["name"]))
        if not mine and entry["diverged"] is None:
            raise UserError(f"{folder} has no values of {entry['name']}")
        if found.fullness:
            about = notes_of(found.path)
            if "settings" in about:
                pair = entry["strength"], entry["seed"]
                wanted = weights_note(Settings.from_table(settings), settings, *pair)
                refuse_changes(found.path, json.loads(about["settings"]), wanted)
        yield found


def _refuse_others(folder: Path, settings: dict, first: Path, expected: dict) -> None:
    old, new = (
        identity(table) | {"attack_images": table["attack_images"]}
        for table in (settings, expected)
    )
    if changed := differences(old, new):
        there = differences(new, old)
        raise UserError(
            f"{folder} ({changed}) and {first} ({there}) are of two experiments: "
            "only records that agree in this can be joined"
        )


def _sources(record: dict) -> list[dict]:
    """Provenance of the networks of a record; if it was merged itself, that of all its sources."""
    provenance = dict(record["provenance"])
    merged = provenance.pop("merged", [])
    known = {name for source in merged for name in source["models"]}
    names = [model["name"] for model in record["models"] if model["name"] not in known]
    return merged + ([provenance | {"models": names}] if names else [])
