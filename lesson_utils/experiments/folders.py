"""The folder of a run: what lies there, what decided about it, and the record that is made of it."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import torch
from filelock import FileLock
from safetensors.torch import save
from torch import nn

from ..files import UserError, for_the_user, listed, remove_unfinished, write_at_once
from ..photographs import ImageSets
from ..records import (
    ATTACKS,
    SCHEMA,
    grid_of,
    load_record,
    name_of,
    notes_of,
    pairs_of,
    stored,
    summaries,
    write_record_json,
)
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

    def values_note(self, model: nn.Module) -> dict:
        """What decides about the values measured of a network."""
        sums = {"data_sha256": self.sums["data_sha256"], "network": checksum_of_network(model)}
        return self.settings.deciding_values() | sums


def weights_note(settings: Settings, sums: dict, strength: float, seed: int) -> dict:
    """What decides about the weights of a network: lies beside them in their file."""
    sums = {name: sums[name] for name in ("train_sha256", "weights_sha256") if name in sums}
    return settings.deciding() | sums | {"strength": strength, "seed": seed}


def networks_in(folder: Path) -> dict[str, dict]:
    """What decided about each trained network that lies in the folder of a run, by its name.

    Raises
    ------
    UserError
        A file of weights is damaged, of another network, or does not say what it was made with.
    """
    found = {}
    for path in sorted((folder / "models").glob("*.safetensors")):
        with for_the_user(ValueError):
            notes = notes_of(path)
        if "settings" not in notes:
            raise UserError(
                f"{path} does not say with which settings it was trained: it is an exported copy, "
                "or of an earlier version. Such a folder is not continued: choose another"
            )
        found[path.stem] = json.loads(notes["settings"])
        if name_of(*pair_of(found[path.stem])) != path.stem:
            raise UserError(f"{path} holds another network than its name says: delete it")
    return found


def pair_of(note: dict) -> tuple[float, int]:
    """λ and seed of a network, from what decided about it."""
    return note["strength"], note["seed"]


def check_kept(work: Work, kept: dict[str, dict]) -> None:
    """Refuse a folder whose networks were made otherwise, or are not all there."""
    _check_recorded(work)
    for pair in (*map(pair_of, kept.values()), *work.settings.models()):
        name = name_of(*pair)
        if name in kept:
            where = work.out / "models" / f"{name}.safetensors"
            refuse_changes(where, kept[name], weights_note(work.settings, work.sums, *pair))
    if (work.out / "record.json").exists():
        with for_the_user(ValueError):
            recorded = [model["name"] for model in load_record(work.out)["models"]]
        if missing := [name for name in recorded if name not in kept]:
            raise UserError(
                f"{work.out} holds a record without the weights of {listed(missing)}: a copy with "
                "some of the networks is not continued, choose another folder"
            )


def refuse_changes(where: Path, old: dict, new: dict) -> None:
    """Refuse to go on with what was made with other settings."""
    if changed := differences(old, new):
        sums = " (a checksum stands for images, or for weights to start from)"
        raise UserError(
            f"{where} is of an experiment with other settings ({changed}): continue with these, "
            f"or choose another folder{sums if 'sha256' in changed else ''}"
        )


def _check_recorded(work: Work) -> dict:
    """Settings that the folder says it has, {} if it is new; refuse others that decide."""
    out, asked = work.out, work.settings.to_table() | work.sums
    before = {}
    if (out / "state" / "run.json").exists():
        before = _read_json(out / "state" / "run.json")["settings"]
    elif (out / "record.json").exists():
        with for_the_user(ValueError):
            before = load_record(out)["settings"]
    measured = (out / "record.json").exists() or any((out / "state").glob("*.samples.safetensors"))
    if before:  # before anything was measured, one may still choose what will be
        refuse_changes(out, identity(before, measured), identity(asked, measured))
        many = before["attack_images"]
        if measured and many > asked["attack_images"]:
            raise UserError(f"{out} has attacks on {many} images: ask for at least so many")
    return before


def begin(work: Work, command: str | None) -> None:
    """Note settings and provenance at the first start; compare them when a run continues."""
    path, asked = work.out / "state" / "run.json", work.settings.to_table() | work.sums
    before = _check_recorded(work)
    began = datetime.now(UTC).isoformat(timespec="seconds")
    state = {"command": command, "environments": [], "timing": {"began": began}}
    if before:
        if not path.exists():
            _restore_state(work.out)
        state = _read_json(path)
        known = (state["command"] or "").split("\n")
        grows = work.todo or before["attack_images"] < asked["attack_images"]
        if command and command not in known and grows:  # one a line
            state["command"] = "\n".join(filter(None, [*known, command]))
        if not Path(asked["weights"]).is_file():
            asked["weights"] = before["weights"]
    write_at_once(path, json.dumps(state | {"settings": asked}, indent=1).encode())


def identity(table: dict, measured: bool = True) -> dict:
    """What decides about all numbers of a record, from its settings; or about the weights alone."""
    settings = Settings.from_table(table)
    names = "data_sha256" if measured else "train_sha256", "weights_sha256"
    values = settings.deciding_values() if measured else {}
    return settings.deciding() | values | {name: table[name] for name in names if name in table}


def _read_json(path: Path) -> dict:
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}): delete it and start again") from error


def _restore_state(out: Path) -> None:
    """Write from a record what `state/` held when it was made."""
    with for_the_user(ValueError):
        record = load_record(out)
        path = out / "samples.safetensors"
        merged, notes = stored(path) if path.exists() else ({}, {})
    for model in record["models"]:
        start, note = f"{model['name']}/", notes.get(model["name"])
        if note is not None:
            values = {k.removeprefix(start): v for k, v in merged.items() if k.startswith(start)}
            seconds = record["provenance"]["timing"]["measuring"][model["name"]]
            content = save(values, metadata={"settings": note, "seconds": f"{seconds:.3f}"})
            write_at_once(out / "state" / f"{model['name']}.samples.safetensors", content)
    state = {"settings": record["settings"], **record["provenance"]}
    write_at_once(out / "state" / "run.json", json.dumps(state, indent=1).encode())


def name_machine(work: Work) -> None:
    """Note this machine in the provenance, now that it has computed something."""
    path, threads = work.out / "state" / "run.json", torch.get_num_threads()
    if threads not in work.threads:
        work.threads.add(threads)
        here = environment(work.device)
        with FileLock(path.with_name("run.lock")):
            state = _read_json(path)
            if here not in state["environments"]:
                state["environments"].append(here)
                write_at_once(path, json.dumps(state, indent=1).encode())


def write_record(work: Work) -> None:
    """Write the record of all networks of the folder that are trained and measured."""
    out, asked = work.out, work.settings.models()
    provenance = _read_json(out / "state" / "run.json")
    settings, timing = provenance.pop("settings"), {"training": {}, "measuring": {}}
    entries, merged, notes = {}, {}, {}
    for name, note in networks_in(out).items():
        history = json.loads(notes_of(out / "models" / f"{name}.safetensors")["history"])
        seconds, entry = history.pop("seconds"), {"name": name}
        entry |= {"strength": note["strength"], "seed": note["seed"], **history}
        if history["diverged"] is None:
            path = out / "state" / f"{name}.samples.safetensors"
            values, about = stored(path) if path.exists() else ({}, {})
            if not values or len(values[ATTACKS[0]]) < settings["attack_images"]:
                continue  # another process is at it, and will write the record again
            timing["measuring"][name], notes[name] = float(about["seconds"]), about["settings"]
            entry |= summaries(values)
            merged |= {f"{name}/{key}": value for key, value in values.items()}
            remove_unfinished(path)
        timing["training"][name] = round(seconds, 3)
        entries[pair_of(note)] = entry
        for path in ("models/{}.safetensors", "state/{}.training.safetensors"):
            remove_unfinished(out / path.format(name))
    grid = ("strengths", "seeds", "repeated")
    table = {name: list(getattr(work.settings.sweep, name)) for name in grid}
    settings |= table if set(entries) == set(asked) else grid_of(entries)
    models = [entries[pair] for pair in pairs_of(settings)]
    for path in (out / "state" / "run.json", out / "samples.safetensors", out / "record.json"):
        remove_unfinished(path)
    write_at_once(out / "samples.safetensors", save(merged, metadata=notes))
    provenance["timing"] |= timing
    record = {"schema": SCHEMA, "settings": settings, "provenance": provenance}
    write_record_json(out, {**record, "models": models})
