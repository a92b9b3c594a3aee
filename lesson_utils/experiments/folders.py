"""The folder of a run: what lies there, what decided about it, and the record that is made of it."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import torch
from filelock import FileLock
from torch import Tensor, nn

from .. import records
from ..files import UserError, listed, remove_unfinished, write_at_once
from ..photographs import ImageSets
from .provenance import checksum_of_network, differences, environment
from .settings import Settings


@dataclass
class Work:
    """What the steps of a run share."""

    settings: Settings
    out: Path
    data: ImageSets
    sums: dict[str, str]
    """Checksums of images and of weights to start from, by the names they have in a record."""
    device: str
    progress: bool
    todo: int
    """Networks to train; 0 after the time for them was estimated."""
    threads: set[int] = field(default_factory=set)
    """With so many threads something was computed here, as the provenance says."""

    def table(self) -> dict:
        """Settings and checksums, as a record has them."""
        return self.settings.to_table() | self.sums

    def values_note(self, model: nn.Module) -> dict:
        """What decides about the values measured of a network."""
        sums = {"data_sha256": self.sums["data_sha256"], "network": checksum_of_network(model)}
        return self.settings.deciding_values() | sums


class Network(NamedTuple):
    """One network of a record, with all that is known of it."""

    weights: Path
    entry: dict
    """What `record.json` says of it."""
    values: dict[str, Tensor]
    note: str | None
    """What decided about the values, if it is known."""
    seconds: dict[str, float]
    """That it took, by step: `training`, and `measuring` unless it diverged."""


def identity(table: dict, measured: bool = True) -> dict:
    """What decides about all numbers of a record, from its settings; or about the weights alone."""
    settings = Settings.from_table(table)
    names = "data_sha256" if measured else "train_sha256", "weights_sha256"
    values = settings.deciding_values() if measured else {}
    return settings.deciding() | values | {name: table[name] for name in names if name in table}


def weights_note(table: dict, strength: float, seed: int) -> dict:
    """What decides about the weights of a network: lies beside them in their file."""
    return identity(table, measured=False) | {"strength": strength, "seed": seed}


def pair_of(note: dict) -> tuple[float, int]:
    """λ and seed of a network, from what a record says, or what decided about it."""
    return note["strength"], note["seed"]


def networks_in(folder: Path) -> dict[str, dict]:
    """What decided about each trained network that lies in the folder of a run, by its name.

    Raises
    ------
    UserError
        A file of weights is damaged, of another network, or does not say what it was made with.
    """
    found = {}
    for path in sorted((folder / "models").glob("*.safetensors")):
        notes = records.notes_of(path)
        if "settings" not in notes:
            raise UserError(
                f"{path} does not say with which settings it was trained: it is an exported copy, "
                "or of an earlier version. Such a folder is not continued: choose another"
            )
        found[path.stem] = json.loads(notes["settings"])
        if records.name_of(*pair_of(found[path.stem])) != path.stem:
            raise UserError(f"{path} holds another network than its name says: delete it")
    return found


def values_in(out: Path, name: str) -> tuple[dict[str, Tensor], dict]:
    """What was measured of a network, and notes about it; both empty if nothing was.

    It lies in `state/`, or else in the record that was made of it.
    """
    path = out / "state" / f"{name}.samples.safetensors"
    if path.exists():
        return records.stored(path)
    if (out / "record.json").exists() and (out / "samples.safetensors").exists():
        values, note = records.values_of(out, name)
        seconds = records.load_record(out)["provenance"]["timing"]["measuring"].get(name)
        return values, {"settings": note, "seconds": seconds}
    return {}, {}


def refuse_changes(
    where: Path, old: dict, new: dict, remedy: str = "continue with these, or choose another folder"
) -> None:
    """Refuse to go on with what was made with other settings."""
    if changed := differences(old, new):
        sums = " (a checksum stands for images, or for weights to start from)"
        remedy += sums if "sha256" in changed else ""
        raise UserError(f"{where} is of an experiment with other settings ({changed}): {remedy}")


def check_folder(work: Work, kept: dict[str, dict]) -> dict:
    """Refuse a folder made otherwise, or not all there; returns what :func:`_begun` finds."""
    out, asked, begun = work.out, work.table(), _begun(work.out)
    recorded = (out / "record.json").exists()
    measured = recorded or any((out / "state").glob("*.samples.safetensors"))
    if begun:  # before anything was measured, one may still choose what will be
        before = begun["settings"]
        refuse_changes(out, identity(before, measured), identity(asked, measured))
        if measured and before["attack_images"] > asked["attack_images"]:
            many = before["attack_images"]
            raise UserError(f"{out} has attacks on {many} images: ask for at least so many")
    for pair in (*map(pair_of, kept.values()), *work.settings.models()):
        name = records.name_of(*pair)
        if name in kept:
            where = out / "models" / f"{name}.safetensors"
            refuse_changes(where, kept[name], weights_note(asked, *pair))
    names = [model["name"] for model in records.load_record(out)["models"]] if recorded else []
    if missing := [name for name in names if name not in kept]:
        raise UserError(
            f"{out} holds a record without the weights of {listed(missing)}: a copy with "
            "some of the networks is not continued, choose another folder"
        )
    return begun


def _begun(out: Path) -> dict:
    """Settings and provenance of a run, or else of the record that was made of it; or {}."""
    path = out / "state" / "run.json"
    if path.exists():
        try:
            return json.loads(path.read_text())
        except ValueError as error:
            raise UserError(f"{path} is damaged ({error}): delete it and start again") from error
    if (out / "record.json").exists():
        record = records.load_record(out)
        return {"settings": record["settings"], **record["provenance"]}
    return {}


def begin(work: Work, kept: dict[str, dict], command: str | None) -> None:
    """Note settings and provenance at the first start; compare them when a run continues."""
    asked, state = work.table(), check_folder(work, kept)
    if state:
        before, known = state["settings"], (state["command"] or "").split("\n")
        grows = work.todo or before["attack_images"] < asked["attack_images"]
        if command and command not in known and grows:  # one a line
            state["command"] = "\n".join(filter(None, [*known, command]))
    else:
        began = datetime.now(UTC).isoformat(timespec="seconds")
        state = {"command": command, "environments": [], "timing": {"began": began}}
    _write_state(work.out, state | {"settings": asked})


def _write_state(out: Path, state: dict) -> None:
    write_at_once(out / "state" / "run.json", json.dumps(state, indent=1).encode())


def name_machine(work: Work) -> None:
    """Note this machine in the provenance, now that it has computed something."""
    threads = torch.get_num_threads()
    if threads in work.threads:
        return
    work.threads.add(threads)
    here = environment(work.device)
    with FileLock(work.out / "state" / "run.lock"):
        state = _begun(work.out)
        if here not in state["environments"]:
            state["environments"].append(here)
            _write_state(work.out, state)


def write_record(work: Work) -> None:
    """Write the record of all networks of the folder that are trained and measured."""
    out, provenance, networks = work.out, _begun(work.out), []
    finished = ["state/run", "samples", "record"]  # files, whatever they end in
    settings = provenance.pop("settings")
    for name, note in networks_in(out).items():
        weights, values, about = out / "models" / f"{name}.safetensors", {}, {}
        history = json.loads(records.notes_of(weights)["history"])
        seconds = {"training": round(history.pop("seconds"), 3)}
        entry = {"name": name, "strength": note["strength"], "seed": note["seed"], **history}
        if history["diverged"] is None:
            values, about = values_in(out, name)
            if not values or len(values[records.ATTACKS[0]]) < settings["attack_images"]:
                continue  # another process is at it, and will write the record again
            seconds["measuring"] = float(about["seconds"])
            entry |= records.summaries(values)
        networks.append(Network(weights, entry, values, about.get("settings"), seconds))
        finished += [f"models/{name}", f"state/{name}"]
    for path in finished:
        remove_unfinished(out / path)
    sweep = work.settings.sweep
    settings |= {name: list(getattr(sweep, name)) for name in ("strengths", "seeds", "repeated")}
    write_networks(out, settings, provenance, networks)


def write_networks(
    folder: Path, settings: dict, provenance: dict, networks: Iterable[Network]
) -> None:
    """Write a record; its `strengths`, `seeds` and `repeated` become those of the networks."""
    found = {pair_of(network.entry): network for network in networks}
    if set(found) != set(records.pairs_of(settings)):
        settings = {k: v for k, v in settings.items() if k != "models"} | records.grid_of(found)
    ordered = {found[pair].entry["name"]: found[pair] for pair in records.pairs_of(settings)}
    timing = {"began": provenance["timing"]["began"]}
    for step in ("training", "measuring"):
        timing[step] = {k: n.seconds[step] for k, n in ordered.items() if step in n.seconds}
    values = {f"{name}/{k}": v for name, n in ordered.items() for k, v in n.values.items()}
    notes = {name: n.note for name, n in ordered.items() if n.note}
    records.store(folder / "samples.safetensors", values, notes)
    record = {"schema": records.SCHEMA, "settings": settings}
    record["provenance"] = provenance | {"timing": timing}
    records.write_record_json(folder, record | {"models": [n.entry for n in ordered.values()]})
