"""Join records of one experiment, whose networks were trained on several machines, to one."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from safetensors.torch import save

from .. import records
from ..files import UserError, new_folder, write_at_once
from .folders import Network, identity, pair_of, refuse_changes, weights_note, write_networks
from .provenance import differences


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
        :func:`lesson_utils.records.load_record`. `provenance["merged"]` lists, for each record
        once, its command, machines and networks.

    Raises
    ------
    ValueError
        Two records do not belong together, a file is damaged, or `target` is not empty.
    """
    if not folders:
        raise UserError("merge needs the folders of at least one record")
    networks: dict[str, Network] = {}
    sources, machines, first = [], [], records.load_record(folders[0])
    for folder in map(Path, folders):
        record = records.load_record(folder)
        theirs, ours = _identity(record), _identity(first)
        agree = f"{folders[0]} has {differences(ours, theirs)}; only records that agree are joined"
        refuse_changes(folder, theirs, ours, remedy=agree)
        for network in _networks(folder, record):
            name = network.entry["name"]
            known = networks.setdefault(name, network)
            if not _are_same(known, network):
                raise UserError(f"{folder} and {known.weights.parents[1]} have two networks {name}")
            networks[name] = max(known, network, key=_fullness)
        sources += [source for source in _sources(record) if source not in sources]
    for source in sources:
        machines += [machine for machine in source["environments"] if machine not in machines]
    provenance = first["provenance"] | {"merged": sources, "environments": machines}
    provenance["timing"] = {"began": min(source["timing"]["began"] for source in sources)}
    with new_folder(Path(target)) as folder:
        for network in filter(_fullness, networks.values()):
            copy = folder / "models" / network.weights.name
            write_at_once(copy, network.weights.read_bytes())
        write_networks(folder, first["settings"], provenance, networks.values())
    return records.load_record(target)


def _networks(folder: Path, record: dict) -> Iterator[Network]:
    """The networks of a record, whose weights must be those that the record speaks of."""
    timing = record["provenance"]["timing"]
    for entry in record["models"]:
        name, weights = entry["name"], folder / "models" / f"{entry['name']}.safetensors"
        values, note = records.values_of(folder, name)
        if not values and entry["diverged"] is None:
            raise UserError(f"{folder} has no values of {name}")
        about = records.notes_of(weights) if weights.exists() else {}
        if "settings" in about:
            wanted = weights_note(record["settings"], *pair_of(entry))
            refuse_changes(weights, json.loads(about["settings"]), wanted)
        steps = ("training", "measuring")
        seconds = {step: timing[step][name] for step in steps if name in timing[step]}
        yield Network(weights, entry, values, note, seconds)


def _fullness(network: Network) -> int:
    """0 without weights, 1 with half of their digits, 2 with all."""
    return 0 if not network.weights.exists() else 1 if "half" in network.entry else 2


def _are_same(one: Network, other: Network) -> bool:
    """Whether all numbers agree, bit by bit; half weights are not compared with full ones."""
    alike = 0 < _fullness(one) == _fullness(other)
    return _numbers(one, alike) == _numbers(other, alike)


def _numbers(network: Network, with_weights: bool) -> tuple[str, bytes, bytes]:
    """What a record says of a network, its values, and its weights if these are wanted."""
    entry = {k: v for k, v in network.entry.items() if k not in ("half", "bundled")}
    weights = records.stored(network.weights)[0] if with_weights else {}
    return json.dumps(entry), save(network.values), save(weights)


def _identity(record: dict) -> dict:
    """What records must agree in to be joined."""
    return identity(record["settings"]) | {"attack_images": record["settings"]["attack_images"]}


def _sources(record: dict) -> list[dict]:
    """Provenance of the networks of a record; if it was merged itself, that of all its sources."""
    provenance = dict(record["provenance"])
    merged = provenance.pop("merged", [])
    known = {name for source in merged for name in source["models"]}
    names = [model["name"] for model in record["models"] if model["name"] not in known]
    return merged + ([provenance | {"models": names}] if names else [])
