"""One experiment: train every network of the sweep, measure it, write the record."""

from __future__ import annotations

import hashlib
import json
import time
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import torch
from filelock import FileLock, Timeout
from safetensors.torch import save
from torch import Tensor, nn
from tqdm.auto import tqdm

from ..attacks import protocol_attacks
from ..bound import measure
from ..files import UserError, for_the_user, listed, remove_unfinished, write_at_once
from ..models import load_weights, network_of
from ..photographs import ImageSets
from ..records import (
    ATTACKS,
    SCHEMA,
    grid_of,
    load_record,
    name_of,
    notes_of,
    pairs_of,
    read_network,
    stored,
    summaries,
    write_record,
)
from .images import moved, open_data
from .processes import check_device, is_first, rank_and_count, share_cores, wait_for_all
from .provenance import checksum_of_network, checksums, differences, environment
from .settings import Settings
from .train import History, train


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


def run(
    settings: Settings,
    out: str | Path,
    *,
    device: str = "cpu",
    cache: str | Path | None = None,
    progress: bool = False,
    command: str | None = None,
) -> dict:
    """Train and measure all networks of an experiment, and write its record.

    May be killed at any moment: started again with the same settings it continues, and on a
    CPU it ends in the same record bit for bit (`provenance.timing` apart). Several processes
    may run it at once, with the same folder: each takes the next network that no other is at.

    A folder may grow: with other λ or seeds the networks that are there stay, and the record is
    of all; with more `attack_images` the attacks are repeated on all of these. Whatever else
    decides about the numbers must stay as it was. The place of the images may change, and so
    may settings that the experiment does not use.

    Parameters
    ----------
    settings : Settings
        E.g. `PRESETS["digits"]`, or `PRESETS["digits"].change(seeds=(1,))`.
    out : str or Path
        Folder of the record.
    device : str
        A PyTorch device. A record that was continued elsewhere names all its machines.
    cache : str or Path, optional
        Folder for decoded photographs; see :func:`~lesson_utils.photographs.load_images`.
    progress : bool
        Print what will be done and the expected time, and show progress bars.
    command : str, optional
        For the record: what the user typed.

    Returns
    -------
    dict
        As :func:`lesson_utils.records.load_record`.

    Raises
    ------
    ValueError
        A setting is out of range, `out` holds an experiment with other settings or images, or
        a file is damaged.
    ModuleNotFoundError
        foolbox is missing.
    FileNotFoundError
        The data set is missing; see :func:`lesson_utils.data.load_mnist`.
    """
    settings.check()
    check_device(device)
    _attacks(settings)  # complains now, and not after the training, if foolbox is missing
    out = Path(out)
    rank, count = rank_and_count()
    data, settings = open_data(settings, cache)
    plan, kept = settings.models(), networks_in(out)
    todo = [pair for pair in plan if name_of(*pair) not in kept]
    sums = checksums(data) | _checksum_of_start(settings, kept, todo)
    data = ImageSets(*(moved(images, device) for images in data))
    work = Work(settings, out, data, sums, device, progress and is_first(), len(todo))
    _check_kept(work, kept)
    if is_first():
        with FileLock(out / "state" / "run.lock"):
            _begin(work, command)
        if work.progress:
            print(_announcement(work, plan))
    wait_for_all()
    everything = plan + [pair for pair in map(_pair, kept.values()) if pair not in plan]
    if count == 1:
        _work_beside_others(work, everything)
    else:  # all train each network together, and measure side by side
        for strength, seed in plan:
            _train_model(work, strength, seed)
        for strength, seed in everything[rank::count]:
            _measure_model(work, name_of(strength, seed))
    wait_for_all()
    if is_first():
        with FileLock(out / "state" / "run.lock"):
            _write_record(work)
    wait_for_all()
    return load_record(out)


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
        if name_of(*_pair(found[path.stem])) != path.stem:
            raise UserError(f"{path} holds another network than its name says: delete it")
    return found


def _pair(note: dict) -> tuple[float, int]:
    return note["strength"], note["seed"]


def _checksum_of_start(settings: Settings, kept: dict[str, dict], todo: list) -> dict[str, str]:
    """Checksum of a file of weights to start from; these are refused if they do not fit."""
    weights = settings.network.weights
    if weights == "":
        return {}
    if weights != "pretrained" and not todo and not Path(weights).is_file():  # no longer needed
        return {key: note[key] for note in kept.values() for key in note if key == "weights_sha256"}
    with for_the_user(Exception):  # each format has errors of its own, and so has a download
        model = network_of(settings.to_table(), pretrained=weights == "pretrained")
        if weights == "pretrained":
            return {}
        load_weights(model, weights)
    return {"weights_sha256": hashlib.sha256(Path(weights).read_bytes()).hexdigest()}


def _check_kept(work: Work, kept: dict[str, dict]) -> None:
    """Refuse a folder whose networks were made otherwise, or are not all there."""
    _check_recorded(work)
    for pair in (*map(_pair, kept.values()), *work.settings.models()):
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


def _announcement(work: Work, plan: list) -> str:
    settings = work.settings
    strengths = ", ".join(f"{strength:g}" for strength in settings.sweep.strengths)
    return (
        f"{len(plan)} networks ({settings.network.network}, λ = {strengths}), "
        f"{len(plan) - work.todo} of them trained already.\n"
        f"Training: {settings.training.epochs} epochs of {settings.data.data} each. Measuring: "
        f"{settings.measuring.images} images, {settings.measuring.attack_images} of them attacked."
        f"\nFolder: {work.out}. Ctrl-C stops, and the same command continues."
    )


def _work_beside_others(work: Work, plan: list[tuple[float, int]]) -> None:
    """Train and measure what no other process is at; then wait for the others, or for their end.

    The system gives back the locks of a process that died: what it left is done here.
    """
    at_once, as_long_as_it_takes = 0, -1  # seconds to wait for a lock
    state = work.out / "state"
    with share_cores(state) as share:
        for patience in (at_once, as_long_as_it_takes):
            for strength, seed in plan:
                name = name_of(strength, seed)
                with suppress(Timeout), FileLock(state / f"{name}.lock", patience):
                    share()
                    _train_model(work, strength, seed)
                    _measure_model(work, name)


def _check_recorded(work: Work) -> dict:
    """Settings that the folder says it has, {} if it is new; refuse others that decide."""
    out, asked = work.out, work.settings.to_table() | work.sums
    before = {}
    if (out / "state" / "run.json").exists():
        before = _read_json(out / "state" / "run.json")["settings"]
    elif (out / "record.json").exists():
        with for_the_user(ValueError):
            before = load_record(out)["settings"]
    if before:
        refuse_changes(out, identity(before), identity(asked))
        many = before["attack_images"]
        if many > asked["attack_images"]:
            raise UserError(f"{out} has attacks on {many} images: ask for at least so many")
    return before


def _begin(work: Work, command: str | None) -> None:
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


def identity(table: dict) -> dict:
    """What decides about all numbers of a record, from its settings."""
    settings = Settings.from_table(table)
    sums = {name: table[name] for name in ("data_sha256", "weights_sha256") if name in table}
    return settings.deciding() | settings.deciding_values() | sums


def _read_json(path: Path) -> dict:
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}): delete it and start again") from error


def _restore_state(out: Path) -> None:
    """Write from a record what `state/` held when it was made."""
    with for_the_user(ValueError):
        record = load_record(out)
        merged, notes = stored(out / "samples.safetensors")
    for model in record["models"]:
        start, note = f"{model['name']}/", notes.get(model["name"])
        if note is not None:
            values = {k.removeprefix(start): v for k, v in merged.items() if k.startswith(start)}
            seconds = record["provenance"]["timing"]["measuring"][model["name"]]
            content = save(values, metadata={"settings": note, "seconds": f"{seconds:.3f}"})
            write_at_once(out / "state" / f"{model['name']}.samples.safetensors", content)
    state = {"settings": record["settings"], **record["provenance"]}
    write_at_once(out / "state" / "run.json", json.dumps(state, indent=1).encode())


def _name_machine(work: Work) -> None:
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


def _after_epoch(work: Work, history: History) -> None:
    _name_machine(work)
    done = len(history.losses)
    if work.progress and work.todo and done:
        left = history.seconds / done * (work.settings.training.epochs * work.todo - done)
        hours = timedelta(seconds=round(left))
        tqdm.write(f"About {hours} (h:min:s) of training are left for one process.")
        work.todo = 0


def _attacks(settings: Settings) -> dict:
    return protocol_attacks(settings.measuring.cw_rounds, settings.measuring.cw_steps)


def _precision(tf32: bool) -> None:
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = tf32


def _train_model(work: Work, strength: float, seed: int) -> None:
    """Train a network and write its weights, unless that is done."""
    name, settings, x = name_of(strength, seed), work.settings, work.data.test.tensors[0]
    target = work.out / "models" / f"{name}.safetensors"
    checkpoint = work.out / "state" / f"{name}.training.safetensors"
    if not target.exists():
        _precision(settings.sweep.tf32)
        weights = settings.network.weights
        model = network_of(settings.to_table(), seed, pretrained=weights == "pretrained")
        if weights not in ("", "pretrained"):
            load_weights(model, weights)
        if checkpoint.exists():
            with for_the_user(ValueError):
                notes_of(checkpoint)
        history = train(
            model.to(x.device),
            work.data.train,
            strength=strength,
            recipe=settings.training,
            seed=seed,
            checkpoint=checkpoint,
            progress=work.progress,
            after_epoch=partial(_after_epoch, work),
        )
        if history.diverged is None and not _finite_scores(model, x):
            last = len(history.losses) - 1
            history = history._replace(losses=history.losses[:last], diverged=last)
        if is_first():
            note = json.dumps(weights_note(work.settings, work.sums, strength, seed))
            notes = {"history": json.dumps(history._asdict()), "settings": note}
            write_at_once(target, save(model.state_dict(), metadata=notes))
    wait_for_all()
    checkpoint.unlink(missing_ok=True)


@torch.no_grad()
def _finite_scores(model: nn.Module, x: Tensor) -> bool:
    return all(model(part).isfinite().all() for part in x.split(100))


def _measure_model(work: Work, name: str) -> None:
    """Write every value of every image for one network, unless that is done or it diverged."""
    path, settings = work.out / "state" / f"{name}.samples.safetensors", work.settings
    with for_the_user(ValueError):
        model, history = read_network(work.out, name, settings.to_table())
    if history["diverged"] is not None:
        return
    note, many = json.dumps(work.values_note(model)), settings.measuring.attack_images
    if path.exists():
        with for_the_user(ValueError):
            values, notes = stored(path)
        if notes.get("settings") == note and len(values[ATTACKS[0]]) >= many:
            return
    began = time.perf_counter()
    _precision(tf32=False)
    x, y = work.data.test.tensors
    model.to(x.device)
    steps = _attacks(settings).items()
    with tqdm(total=1 + len(steps), desc=f"measuring {name}", disable=not work.progress) as bar:
        values = measured(model, x) | {"label": y.cpu()}
        _name_machine(work)
        for attack_name, attack in steps:
            bar.update()
            bar.set_postfix_str(attack_name)
            values[attack_name] = attack(model, x[:many]).distance.cpu()
        bar.update()
    seconds = time.perf_counter() - began
    write_at_once(path, save(values, metadata={"settings": note, "seconds": f"{seconds:.3f}"}))


def measured(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """All that :func:`lesson_utils.measure` says of each image, as tensors by name."""
    return {name: torch.as_tensor(values) for name, values in measure(model, x).to_dict().items()}


def _write_record(work: Work) -> None:
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
        entries[_pair(note)] = entry
        for path in ("models/{}.safetensors", "state/{}.training.safetensors"):
            remove_unfinished(out / path.format(name))
    settings |= {} if set(entries) == set(asked) else grid_of(entries)
    models = [entries[pair] for pair in pairs_of(settings)]
    for path in (out / "state" / "run.json", out / "samples.safetensors", out / "record.json"):
        remove_unfinished(path)
    write_at_once(out / "samples.safetensors", save(merged, metadata=notes))
    provenance["timing"] |= timing
    record = {"schema": SCHEMA, "settings": settings, "provenance": provenance}
    write_record(out, {**record, "models": models})
