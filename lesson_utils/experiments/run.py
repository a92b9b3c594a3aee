"""One experiment: train every network of the sweep, measure it, write the record."""

from __future__ import annotations

import json
import time
from contextlib import suppress
from datetime import timedelta
from functools import partial
from pathlib import Path

import torch
from filelock import FileLock, Timeout
from torch import Tensor, nn
from tqdm.auto import tqdm

from ..attacks import protocol_attacks
from ..bound import measure
from ..files import for_the_user
from ..models import load_weights, network_of
from ..photographs import ImageSets
from ..records import ATTACKS, load_record, name_of, read_network, store
from . import folders
from .folders import Work
from .images import moved, open_data
from .processes import check_device, is_first, rank_and_count, share_cores, wait_for_all
from .provenance import checksum_of_network, checksums
from .settings import Settings
from .train import History, train


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
    protocol_attacks(1, 1)  # complains now, and not after the training, if foolbox is missing
    out = Path(out)
    rank, count = rank_and_count()
    data, settings = open_data(settings, cache)
    plan, kept = settings.models(), folders.networks_in(out)
    todo = [pair for pair in plan if name_of(*pair) not in kept]
    sums = checksums(data) | _checksum_of_start(settings, kept, todo)
    data = ImageSets(*(moved(images, device) for images in data))
    work = Work(settings, out, data, sums, device, progress and is_first(), len(todo))
    folders.check_folder(work, kept)  # before anything is written
    if is_first():
        with FileLock(out / "state" / "run.lock"):
            folders.begin(work, kept, command)
        if work.progress:
            print(_announcement(work, plan))
    wait_for_all()
    everything = plan + [p for p in map(folders.pair_of, kept.values()) if p not in plan]
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
            folders.write_record(work)
    wait_for_all()
    return load_record(out)


def _checksum_of_start(settings: Settings, kept: dict[str, dict], todo: list) -> dict[str, str]:
    """Checksum of the weights to start from, if they are of a file; refused if they do not fit.

    Not of the file: two machines that train the same network note different times in theirs.
    """
    file = settings.weights_file()
    if file and not todo and not file.is_file():  # no longer needed
        return {key: note[key] for note in kept.values() for key in note if key == "weights_sha256"}
    with for_the_user(Exception):  # each format has errors of its own, and so has a download
        start = _at_the_start(settings)
    return {"weights_sha256": checksum_of_network(start)} if file else {}


def _at_the_start(settings: Settings, seed: int = 0) -> nn.Module:
    """The network that a training starts from."""
    file, start = settings.weights_file(), settings.network
    model = network_of(settings.to_table(), seed, pretrained=start.weights == "pretrained")
    model = load_weights(model, file) if file else model
    *_, last = model.modules()  # the scores are what it gives
    last.load_state_dict({key: w * start.score_scale for key, w in last.state_dict().items()})
    return model


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


def _after_epoch(work: Work, history: History) -> None:
    folders.name_machine(work)
    done = len(history.losses)
    if work.progress and work.todo and done:
        left = history.seconds / done * (work.settings.training.epochs * work.todo - done)
        hours = timedelta(seconds=round(left))
        tqdm.write(f"About {hours} (h:min:s) of training are left for one process.")
        work.todo = 0


def _precision(tf32: bool) -> None:
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = tf32


def _train_model(work: Work, strength: float, seed: int) -> None:
    """Train a network and write its weights, unless that is done."""
    name, settings, x = name_of(strength, seed), work.settings, work.data.test.tensors[0]
    target = work.out / "models" / f"{name}.safetensors"
    checkpoint = work.out / "state" / f"{name}.training.safetensors"
    if not target.exists():
        _precision(settings.sweep.tf32)
        model = _at_the_start(settings, seed).to(x.device)
        history = train(
            model,
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
            note = json.dumps(folders.weights_note(work.table(), strength, seed))
            notes = {"history": json.dumps(history._asdict()), "settings": note}
            store(target, model.state_dict(), notes)
    wait_for_all()
    checkpoint.unlink(missing_ok=True)


@torch.no_grad()
def _finite_scores(model: nn.Module, x: Tensor) -> bool:
    return all(model(part).isfinite().all() for part in x.split(100))


def _measure_model(work: Work, name: str) -> None:
    """Write every value of every image for one network, unless that is done or it diverged."""
    path, settings = work.out / "state" / f"{name}.samples.safetensors", work.settings
    model, history = read_network(work.out, name, settings.to_table())
    if history["diverged"] is not None:
        return
    note, many = json.dumps(work.values_note(model)), settings.measuring.attack_images
    values, about = folders.values_in(work.out, name)
    if about.get("settings") == note and len(values[ATTACKS[0]]) >= many:
        return
    began = time.perf_counter()
    _precision(tf32=False)
    x, y, *unseen = work.data.test.tensors
    # this memory format makes convolutions faster on a CPU, on photographs nearly twice
    model.to(x.device, memory_format=torch.channels_last)
    attacks = protocol_attacks(settings.measuring.cw_rounds, settings.measuring.cw_steps)
    steps = tqdm(attacks.items(), f"measuring {name}", disable=not work.progress)
    values = measured(model, x) | {"label": y.cpu()}
    if unseen:
        values["unseen"] = unseen[0].cpu()
    folders.name_machine(work)
    for attack_name, attack in steps:
        steps.set_postfix_str(attack_name)
        values[attack_name] = attack(model, x[:many]).distance.cpu()
    seconds = time.perf_counter() - began
    store(path, values, {"settings": note, "seconds": f"{seconds:.3f}"})


def measured(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """All that :func:`lesson_utils.measure` says of each image, as tensors by name."""
    return {name: torch.as_tensor(values) for name, values in measure(model, x).to_dict().items()}
