"""One experiment: train every network of the sweep, measure it, write the record."""

from __future__ import annotations

import hashlib
import json
import time
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import torch
from filelock import FileLock, Timeout
from safetensors.torch import save
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset, default_collate

from ..attacks import protocol_attacks
from ..bound import measure
from ..data import load_digits, load_mnist
from ..files import write_at_once
from ..models import load_weights, network_of
from ..photographs import ImageSets, find_tiny_imagenet, load_images, loader, pixels
from ..records import SCHEMA, load_record, name_of, read_network, stored, summaries, write_record
from .processes import is_first, rank_and_count, wait_for_all
from .provenance import checksum_of_images, environment
from .settings import DECODED_ONCE, Settings
from .train import train


def run(
    settings: Settings,
    out: str | Path,
    *,
    device: str = "cpu",
    progress: bool = False,
    command: str | None = None,
) -> dict:
    """Train and measure all models of an experiment, and write its record.

    May be killed at any moment: started again with the same settings it continues, and on a
    CPU it ends in the same record bit for bit (`provenance.timing` apart). Several processes
    may run it at once, with the same folder: each takes the next network that no other is at.

    Parameters
    ----------
    settings : Settings
        E.g. `PRESETS["digits"]`, or `PRESETS["digits"].change(seeds=(1,))`.
    out : str or Path
        Folder of the record.
    device : str
        A PyTorch device. A record that was continued elsewhere names all its machines.
    progress : bool
        Show progress bars.
    command : str, optional
        For the record: what the user typed.

    Returns
    -------
    dict
        As :func:`lesson_utils.records.load_record`.

    Raises
    ------
    ValueError
        A setting is out of range, or `out` holds an experiment with other settings or images.
    ModuleNotFoundError
        foolbox is missing.
    FileNotFoundError
        The data set is missing; see :func:`lesson_utils.data.load_mnist`.
    """
    settings.check()
    _attacks(settings)  # complains now, and not after the training, if foolbox is missing
    out = Path(out)
    rank, count = rank_and_count()
    data, settings = open_data(settings)
    lock = FileLock(out / "state" / "run.lock")
    if is_first():
        with lock:
            _begin(settings, out, data, device, command)
    data = ImageSets(*(_moved(images, device) for images in data))
    plan = settings.models()
    if count == 1:
        _work_beside_others(plan, data, settings, out, progress)
    else:  # all train each network together, and measure side by side
        for strength, seed in plan:
            _train_model(strength, seed, data, settings, out, progress)
        for strength, seed in plan[rank::count]:
            _measure_model(name_of(strength, seed), data, settings, out)
    wait_for_all()
    if is_first():
        with lock:
            _write_record(settings, out)
    wait_for_all()
    return load_record(out)


def _work_beside_others(plan, data, settings: Settings, out: Path, progress: bool) -> None:
    """Train and measure what no other process is at; then wait for the others, or for their end.

    The system gives back the locks of a process that died: what it left is done here.
    """
    at_once, as_long_as_it_takes = 0, -1  # seconds to wait for a lock
    for patience in (at_once, as_long_as_it_takes):
        for strength, seed in plan:
            name = name_of(strength, seed)
            with suppress(Timeout), FileLock(out / "state" / f"{name}.lock", patience):
                _train_model(strength, seed, data, settings, out, progress)
                _measure_model(name, data, settings, out)


def open_data(settings: Settings) -> tuple[ImageSets, Settings]:
    """Images to train on and to measure; and the settings, with the classes counted."""
    name = settings.data.data
    if name not in ("digits", "mnist"):
        return _open_photographs(settings)
    data = load_digits() if name == "digits" else load_mnist()
    n, m = settings.data.train_images, settings.measuring.images
    if n > len(data.x_train) or m > len(data.x_test):
        raise ValueError(
            f"{name} has {len(data.x_train)} training and {len(data.x_test)} test images: "
            f"train_images = {n} or images = {m} is too large"
        )
    train_images = TensorDataset(data.x_train[:n], data.y_train[:n])
    test_images = TensorDataset(data.x_test[:m], data.y_test[:m])
    return ImageSets(train_images, test_images), settings.change(classes=10)


def _open_photographs(settings: Settings) -> tuple[ImageSets, Settings]:
    wanted = settings.data
    root = find_tiny_imagenet() if wanted.data == "tiny-imagenet" else wanted.data
    options = {"size": wanted.size, "classes": wanted.classes}
    if wanted.size <= DECODED_ONCE:
        train_images, test = load_images(root, **options)
        classes = int(train_images.tensors[1].max()) + 1
    else:
        rank, count = rank_and_count()
        options["batch_size"] = settings.training.batch_size // count
        options["workers"] = wanted.workers
        train_images = loader(root, "train", share=(rank, count), **options)
        test = loader(root, "val", **options).dataset
        classes = len(test.classes)
    images = settings.measuring.images
    if images > len(test):
        raise ValueError(f"{root} has {len(test)} images in val/, fewer than {images}")
    # The files are sorted by class: measure on some of all classes.
    chosen = torch.randperm(len(test), generator=torch.Generator().manual_seed(0))
    x, y = default_collate([test[i] for i in chosen[:images].tolist()])
    return ImageSets(train_images, TensorDataset(pixels(x), y)), settings.change(classes=classes)


def _moved(images: TensorDataset | DataLoader, device: str) -> TensorDataset | DataLoader:
    """Images in memory go to the device at once; batches go there one by one, in training."""
    if isinstance(images, DataLoader):
        return images
    return TensorDataset(*(part.to(device) for part in images.tensors))


def _begin(settings: Settings, out: Path, data: ImageSets, device: str, command) -> None:
    """Note settings and provenance at the first start; compare them when a run continues."""
    path = out / "state" / "run.json"
    asked = settings.to_table() | {"data_sha256": checksum_of_images(data)}
    weights = settings.network.weights
    if weights not in ("", "pretrained"):
        asked["weights_sha256"] = hashlib.sha256(Path(weights).read_bytes()).hexdigest()
    asked = json.loads(json.dumps(asked))
    began = datetime.now(UTC).isoformat(timespec="seconds")
    state = {"settings": asked, "command": command, "environments": [], "timing": {"began": began}}
    if path.exists():
        state = json.loads(path.read_text())
        old = state["settings"]
        changed = [f"{key} = {old.get(key)}" for key in asked if old.get(key) != asked[key]]
        if changed:
            raise ValueError(
                f"{out} holds an experiment with other settings ({', '.join(changed)}): "
                "continue with these, or choose another folder"
            )
    here = environment(device)
    if here not in state["environments"]:
        state["environments"].append(here)
    write_at_once(path, json.dumps(state, indent=1).encode())


def _attacks(settings: Settings) -> dict:
    return protocol_attacks(settings.measuring.cw_rounds, settings.measuring.cw_steps)


def _precision(tf32: bool) -> None:
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = tf32


def _train_model(
    strength: float, seed: int, data: ImageSets, settings: Settings, out: Path, progress: bool
) -> None:
    """Train a model and write its weights, unless that is done."""
    name = name_of(strength, seed)
    target = out / "models" / f"{name}.safetensors"
    checkpoint = out / "state" / f"{name}.training.safetensors"
    if not target.exists():
        _precision(settings.sweep.tf32)
        weights = settings.network.weights
        model = network_of(settings.to_table(), seed, pretrained=weights == "pretrained")
        if weights not in ("", "pretrained"):
            load_weights(model, weights)
        history = train(
            model.to(data.test.tensors[0].device),
            data.train,
            strength=strength,
            recipe=settings.training,
            seed=seed,
            checkpoint=checkpoint,
            progress=progress,
        )
        if is_first():
            notes = {"history": json.dumps(history._asdict())}
            write_at_once(target, save(model.state_dict(), metadata=notes))
    wait_for_all()
    checkpoint.unlink(missing_ok=True)


def _measure_model(name: str, data: ImageSets, settings: Settings, out: Path) -> None:
    """Write every value of every image for one model, unless that is done or it diverged."""
    path = out / "state" / f"{name}.samples.safetensors"
    if path.exists():
        return
    model, history = read_network(out, name, settings.to_table())
    if history["diverged"] is not None:
        return
    began = time.perf_counter()
    _precision(tf32=False)
    x, y = data.test.tensors
    model.to(x.device)
    values = measured(model, x) | {"label": y.cpu()}
    attacked = x[: settings.measuring.attack_images]
    for attack_name, attack in _attacks(settings).items():
        values[attack_name] = attack(model, attacked).distance.cpu()
    seconds = time.perf_counter() - began
    write_at_once(path, save(values, metadata={"seconds": f"{seconds:.3f}"}))


def measured(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """All that :func:`lesson_utils.measure` says of each image, as tensors by name."""
    return {name: torch.as_tensor(values) for name, values in measure(model, x).to_dict().items()}


def _write_record(settings: Settings, out: Path) -> None:
    provenance = json.loads((out / "state" / "run.json").read_text())
    models, merged, timing = [], {}, {"training": {}, "measuring": {}}
    for strength, seed in settings.models():
        name = name_of(strength, seed)
        _, history = read_network(out, name, settings.to_table())
        timing["training"][name] = round(history.pop("seconds"), 3)
        models.append({"name": name, "strength": strength, "seed": seed, **history})
        if history["diverged"] is None:
            values, notes = stored(out / "state" / f"{name}.samples.safetensors")
            timing["measuring"][name] = float(notes["seconds"])
            models[-1] |= summaries(values)
            merged |= {f"{name}/{key}": value for key, value in values.items()}
    write_at_once(out / "samples.safetensors", save(merged))
    provenance["timing"] |= timing
    record = {"schema": SCHEMA, "settings": provenance.pop("settings"), "provenance": provenance}
    write_record(out, {**record, "models": models})
