"""The paper's protocol, end to end: train a network for each λ, measure it, keep a record.

A record is a folder: `record.json` (settings, provenance, a summary of each model),
`samples.safetensors` (every measured value of every image), `models/` (weights) and `state/`
(what an interrupted run continues from; it may be deleted when the record is there).

The same command may be started several times at once, with the same folder: each process takes
the next network that no other works on.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import platform
import shlex
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import UTC, datetime
from functools import partial
from importlib import metadata
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock, Timeout
from safetensors import safe_open
from safetensors.torch import load_file, save
from torch import Tensor, distributed, nn
from torch.utils.data import TensorDataset, default_collate

from .attacks import AttackResult, by_foolbox, line_search, minimal_l2, projected_gradient
from .data import Dataset, load_digits, load_mnist, load_sample_photographs
from .geometry import measure
from .images import check_images, find_tiny_imagenet, inventory, load_images, loader
from .models import SmallNet, load_weights, resnet
from .training import Recipe, join_processes, pixels, processes, train, write

SCHEMA = 1
"""Version of the layout of `record.json`."""

SMALL = 128
"""Photographs up to this size are decoded once and kept as bytes, larger ones anew each time."""

ATTACKS = ("gradient", "pgd", "deepfool", "carlini_wagner", "minimal_l2")
"""Upper bounds of ρ over all of R^d, in every record."""

PACKAGES = ("torch", "torchvision", "numpy", "scikit-learn", "safetensors", "foolbox")


def _setting(default, text: str):
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True)
class Settings(Recipe):
    """All that decides about a record beside the code and the machine; the recipe included."""

    data: str = _setting("mnist", "digits, mnist, tiny-imagenet, or a folder with train/ and val/")
    train_images: int = _setting(60_000, "of digits and MNIST: train on the first so many")
    classes: int = _setting(0, "of photographs: keep so many classes, equally spaced; 0: all")
    size: int = _setting(64, "of photographs: height and width in pixels")
    workers: int = _setting(0, f"processes that decode photographs of more than {SMALL} pixels")
    network: str = _setting("smallnet", "smallnet, resnet18, resnet50, …")
    width: int = _setting(64, "of a residual network: channels of its first block")
    weights: str = _setting("", "all trainings start from: a file of weights, or `pretrained`")
    strengths: tuple[float, ...] = _setting((0.0,), "values of λ, in the per-sample convention")
    seeds: tuple[int, ...] = _setting((0,), "seeds of weights, order of images, and dropout")
    repeated: tuple[float, ...] = _setting((), "those λ that are trained with every seed")
    tf32: bool = _setting(False, "on a GPU: train with TF32 (measurements never use it)")
    images: int = _setting(1000, "measure on the first so many test images")
    attack_images: int = _setting(1000, "attack the first so many of them")
    cw_rounds: int = _setting(9, "Carlini-Wagner: values of its constant")
    cw_steps: int = _setting(200, "Carlini-Wagner: steps of Adam for each of them")

    def models(self) -> list[tuple[float, int]]:
        """Pairs (λ, seed): every λ with the first seed, the repeated ones with all."""
        first, *others = self.seeds
        plan = [(strength, first) for strength in self.strengths]
        return plan + [(strength, seed) for seed in others for strength in self.repeated]


def _settings(table: dict) -> Settings:
    """Settings from a table, which may be older than some of them, or know more."""
    known = {item.name: table.get(item.name, item.default) for item in fields(Settings)}
    return Settings(**{k: tuple(v) if isinstance(v, list) else v for k, v in known.items()})


_tables = tomllib.loads(Path(__file__).with_name("presets.toml").read_text(encoding="utf-8"))
PRESETS = {name: _settings(table) for name, table in _tables.items()}
"""The experiments, from `presets.toml`."""


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
    may run it at once, with the same folder.

    Parameters
    ----------
    settings : Settings
        E.g. `PRESETS["digits"]`, or `dataclasses.replace(PRESETS["digits"], seeds=(1,))`.
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
        As :func:`load_record`.

    Raises
    ------
    ValueError
        A setting is out of range, or `out` holds an experiment with other settings or images.
    ModuleNotFoundError
        foolbox is missing.
    FileNotFoundError
        The data set is missing; see :func:`lesson_utils.data.load_mnist`.
    """
    _check(settings)
    _attacks(settings)  # complains now, and not after the training, if foolbox is missing
    out, (rank, world), (data, settings) = Path(out), processes(), _load(settings)
    lock = FileLock(out / "state" / "run.lock")
    if rank == 0:
        with lock:
            _begin(settings, out, data, device, command)
    data = Dataset(*(part.to(device) if isinstance(part, Tensor) else part for part in data))
    plan = settings.models()
    if world == 1:
        _take_turns(plan, data, settings, out, progress)
    else:  # all train each network together, and measure side by side
        for strength, seed in plan:
            _train_model(strength, seed, data, settings, out, progress)
        for strength, seed in plan[rank::world]:
            _measure_model(_name(strength, seed), data, settings, out)
    _meet()
    if rank == 0:
        with lock:
            _write_record(settings, out)
    _meet()
    return load_record(out)


def _take_turns(plan, data: Dataset, settings: Settings, out: Path, progress: bool) -> None:
    """Train and measure what no other process is at; then wait for the others, or for their end.

    The system gives back the locks of a process that died: what it left is done here.
    """
    for patience in (0, -1):
        for strength, seed in plan:
            name = _name(strength, seed)
            with suppress(Timeout), FileLock(out / "state" / f"{name}.lock", patience):
                _train_model(strength, seed, data, settings, out, progress)
                _measure_model(name, data, settings, out)


def _meet() -> None:
    """Wait for the other processes, if there are any."""
    if processes()[1] > 1:
        distributed.barrier()


def _name(strength: float, seed: int) -> str:
    return f"strength-{strength:g}-seed-{seed}"


def _check(settings: Settings) -> None:
    sets = "digits", "mnist", "tiny-imagenet"
    if settings.data not in sets and not Path(settings.data).is_dir():
        raise ValueError(f"data must be {', '.join(sets)} or a folder, got {settings.data!r}")
    if not settings.strengths or not settings.seeds:
        raise ValueError("strengths and seeds must name at least one value each")
    if not set(settings.repeated) <= set(settings.strengths):
        raise ValueError(f"repeated must be strengths of the sweep, got {settings.repeated}")
    for name, value in asdict(settings).items():
        least = int(name not in ("classes", "workers"))
        if type(value) is int and value < least:
            raise ValueError(f"{name} must be at least {least}, got {value}")
    if settings.attack_images > settings.images:
        raise ValueError("attack_images are the first of images: there cannot be more of them")


def _attacks(settings: Settings) -> dict[str, Callable[[nn.Module, Tensor], AttackResult]]:
    """The attacks by name."""
    try:
        from foolbox.attacks import L2CarliniWagnerAttack, L2DeepFoolAttack
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"DeepFool and Carlini-Wagner are foolbox's, and {error.name} is missing: "
            "pip install -c constraints.txt -e '.[lessons,crosscheck]'"
        ) from error
    rounds, steps = settings.cw_rounds, settings.cw_steps
    carlini_wagner = L2CarliniWagnerAttack(rounds, steps, stepsize=1 / steps, initial_const=1.0)
    deepfool = partial(by_foolbox, L2DeepFoolAttack())
    by_cw = partial(by_foolbox, carlini_wagner)
    functions = line_search, projected_gradient, deepfool, by_cw, minimal_l2
    return dict(zip(ATTACKS, functions, strict=True))


def _load(settings: Settings) -> tuple[Dataset, Settings]:
    """Images to train on (a DataLoader, if they are large) and to measure; classes counted."""
    if settings.data not in ("digits", "mnist"):
        return _load_photographs(settings)
    data = load_digits() if settings.data == "digits" else load_mnist()
    n, m = settings.train_images, settings.images
    if n > len(data.x_train) or m > len(data.x_test):
        raise ValueError(
            f"{settings.data} has {len(data.x_train)} training and {len(data.x_test)} test images: "
            f"train_images = {n} or images = {m} is too large"
        )
    parts = data.x_train[:n], data.y_train[:n], data.x_test[:m], data.y_test[:m]
    return Dataset(*parts), replace(settings, classes=10)


def _load_photographs(settings: Settings) -> tuple[Dataset, Settings]:
    root = find_tiny_imagenet() if settings.data == "tiny-imagenet" else settings.data
    options = {"size": settings.size, "classes": settings.classes}
    if settings.size <= SMALL:
        x, y, x_test, y_test = load_images(root, **options)
        test, classes = TensorDataset(x_test, y_test), int(y.max()) + 1
    else:
        share, batch_size = processes(), settings.batch_size // processes()[1]
        options |= {"batch_size": batch_size, "workers": settings.workers}
        x, y = loader(root, "train", share=share, **options), None
        test = loader(root, "val", **options).dataset
        classes = len(test.classes)
    if settings.images > len(test):
        raise ValueError(f"{root} has {len(test)} images in val/, fewer than {settings.images}")
    # The files are sorted by class: measure on some of all classes.
    chosen = torch.randperm(len(test), generator=torch.Generator().manual_seed(0))
    x_test, y_test = default_collate([test[i] for i in chosen[: settings.images].tolist()])
    return Dataset(x, y, pixels(x_test), y_test), replace(settings, classes=classes)


def _begin(settings: Settings, out: Path, data: Dataset, device: str, command) -> None:
    """Note settings and provenance at the first start; compare them when a run continues."""
    path, digest = out / "state" / "run.json", hashlib.sha256()
    for part in data:
        if isinstance(part, Tensor):
            digest.update(part.contiguous().numpy())
        elif part is not None:  # of large images names and sizes must do
            digest.update(repr(inventory(part.dataset)).encode())
    asked = asdict(settings) | {"data_sha256": digest.hexdigest()}
    if settings.weights not in ("", "pretrained"):
        asked["weights_sha256"] = hashlib.sha256(Path(settings.weights).read_bytes()).hexdigest()
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
    environment = _environment(device)
    if environment not in state["environments"]:
        state["environments"].append(environment)
    write(path, json.dumps(state, indent=1).encode())


def _environment(device: str) -> dict:
    """Code, packages and machine."""
    git = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    try:
        code = subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        code = "not under version control"
    cuda = torch.device(device).type == "cuda"
    return {
        "code": f"{sys.modules[__package__].__version__} ({code})",
        "python": platform.python_version(),
        "packages": {package: metadata.version(package) for package in PACKAGES},
        "device": torch.cuda.get_device_name(device) if cuda else f"{device} {platform.machine()}",
        "threads": torch.get_num_threads(),
        "processes": processes()[1],
    }


def _network(settings: Settings, seed: int = 0, *, pretrained: bool = False) -> nn.Module:
    sides = {"digits": (1, 8, 8), "mnist": (1, 28, 28)}
    shape, classes = sides.get(settings.data, (3, settings.size, settings.size)), settings.classes
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if settings.network == "smallnet":
            return SmallNet(shape, classes or 10)
        depth, small = int(settings.network.removeprefix("resnet")), settings.size <= SMALL
        options = {"small_images": small, "pretrained": pretrained}
        return resnet(depth, classes, width=settings.width, **options)


def _precision(tf32: bool) -> None:
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = tf32


def _train_model(
    strength: float, seed: int, data: Dataset, settings: Settings, out: Path, progress
):
    """Train a model and write its weights, unless that is done."""
    name = _name(strength, seed)
    target = out / "models" / f"{name}.safetensors"
    checkpoint = out / "state" / f"{name}.training.safetensors"
    if not target.exists():
        _precision(settings.tf32)
        model = _network(settings, seed, pretrained=settings.weights == "pretrained")
        if settings.weights not in ("", "pretrained"):
            load_weights(model, settings.weights)
        model = model.to(data.x_test.device)
        options = {"recipe": settings, "checkpoint": checkpoint, "progress": progress}
        history = train(model, data.x_train, data.y_train, strength=strength, seed=seed, **options)
        if processes()[0] == 0:
            story = {"history": json.dumps(history._asdict())}
            write(target, save(model.state_dict(), metadata=story))
    _meet()
    checkpoint.unlink(missing_ok=True)


def _measure_model(name: str, data: Dataset, settings: Settings, out: Path) -> None:
    """Write every value of every image for one model, unless that is done or it diverged."""
    path = out / "state" / f"{name}.samples.safetensors"
    if path.exists():
        return
    model, history = _read_model(out, name, settings)
    if history["diverged"] is not None:
        return
    began = time.perf_counter()
    _precision(tf32=False)
    values = _samples(model.to(data.x_test.device), data.x_test, data.y_test)
    few = data.x_test[: settings.attack_images]
    for attack_name, attack in _attacks(settings).items():
        values[attack_name] = attack(model, few).distance.cpu()
    seconds = time.perf_counter() - began
    write(path, save(values, metadata={"seconds": f"{seconds:.3f}"}))


def _samples(model: nn.Module, x: Tensor, label: Tensor | None = None) -> dict[str, Tensor]:
    measured = {k: torch.as_tensor(v) for k, v in measure(model, x).to_dict().items()}
    return measured if label is None else {"label": label.cpu(), **measured}


def summary(values, resamples: int = 1000) -> dict[str, float]:
    """Median with a 95 % interval, by a bootstrap of fixed seed.

    Parameters
    ----------
    values : array-like, `(n,)`
        +inf (a failed attack) counts as the largest value; NaN (undefined) is left out.
    resamples : int

    Returns
    -------
    dict
        `median`, `low`, `high`, the number of `images` that counted, and the share of
        `finite` values among them: the success rate of an attack.
    """
    values = np.asarray(values, dtype=float)
    values = values[~np.isnan(values)]
    if len(values) == 0:
        return {"median": np.nan, "low": np.nan, "high": np.nan, "images": 0, "finite": np.nan}
    drawn = np.random.default_rng(0).integers(len(values), size=(resamples, len(values)))
    medians = np.median(values[drawn], axis=1)
    low, high = np.quantile(medians, [0.025, 0.975], method="inverted_cdf").tolist()
    middle, finite = float(np.median(values)), float(np.isfinite(values).mean())
    return {"median": middle, "low": low, "high": high, "images": len(values), "finite": finite}


def _summaries(values: dict[str, Tensor]) -> dict:
    """Accuracy, where there are labels, and the summary of each quantity."""
    quantities = {k: summary(v) for k, v in values.items() if v.is_floating_point()}
    if "label" not in values:
        return {"quantities": quantities}
    hits = values["prediction"] == values["label"]
    return {"accuracy": hits.double().mean().item(), "quantities": quantities}


def _write_record(settings: Settings, out: Path) -> None:
    provenance = json.loads((out / "state" / "run.json").read_text())
    models, merged, timing = [], {}, {"training": {}, "measuring": {}}
    for strength, seed in settings.models():
        name = _name(strength, seed)
        _, history = _read_model(out, name, settings)
        timing["training"][name] = round(history.pop("seconds"), 3)
        models.append({"name": name, "strength": strength, "seed": seed, **history})
        if history["diverged"] is None:
            path = out / "state" / f"{name}.samples.safetensors"
            values, notes = _stored(path)
            timing["measuring"][name] = float(notes["seconds"])
            models[-1] |= _summaries(values)
            merged |= {f"{name}/{key}": value for key, value in values.items()}
    write(out / "samples.safetensors", save(merged))
    provenance["timing"] |= timing
    record = {"schema": SCHEMA, "settings": provenance.pop("settings"), "provenance": provenance}
    _write_json(out, {**record, "models": models})


def _write_json(folder: Path, record: dict) -> None:
    content = json.dumps(_as_text(record), indent=1, allow_nan=False)
    write(folder / "record.json", content.encode())


def _as_text(value):
    """JSON knows no infinity: numbers that are not finite become text, and back on reading."""
    if isinstance(value, dict):
        return {key: _as_text(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_as_text(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _read_model(folder: Path, name: str, settings: Settings) -> tuple[nn.Module, dict]:
    path, model = folder / "models" / f"{name}.safetensors", _network(settings)
    if not path.exists():
        there = ", ".join(sorted(other.stem for other in path.parent.glob("*.safetensors")))
        raise FileNotFoundError(f"{folder} has no weights of {name}, only of: {there}")
    weights, notes = _stored(path)
    model.load_state_dict(weights)
    return model.eval(), json.loads(notes["history"])


def _stored(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors of a file, and the notes beside them."""
    with safe_open(path, "pt") as stored:
        return {key: stored.get_tensor(key) for key in stored.keys()}, stored.metadata()  # noqa: SIM118


def load_record(folder: str | Path) -> dict:
    """Read `record.json` of a record.

    Parameters
    ----------
    folder : str or Path

    Returns
    -------
    dict
        `schema`, `settings`, `provenance` and `models`: a list of dicts with `name`,
        `strength`, `seed`, `losses` (one an epoch), `diverged` (an epoch, or None) and, unless
        it diverged, `accuracy` and `quantities`: each field of `Measurements` and each attack,
        as returned by :func:`summary`.

    Raises
    ------
    FileNotFoundError
        The folder has no record, or not yet.
    ValueError
        The record is of another version of this package.
    """
    path = Path(folder) / "record.json"
    if not path.exists():
        raise FileNotFoundError(
            f"{folder} has no finished record: see python -m lesson_utils.experiments --help"
        )

    def numbers(pairs):
        return {k: float(v) if v in ("inf", "nan") else v for k, v in pairs}

    record = json.loads(path.read_text(), object_pairs_hook=numbers)
    if record["schema"] != SCHEMA:
        raise ValueError(f"{path} has schema {record['schema']}, this package reads {SCHEMA}")
    return record


def load_model(folder: str | Path, strength: float, seed: int = 0) -> nn.Module:
    """A network of a record, in eval mode, float32 on the CPU.

    Raises
    ------
    FileNotFoundError
        There is no record, or it comes without this model: the message names those it has.
    ValueError
        The training of this model diverged.
    """
    name = _name(strength, seed)
    model, history = _read_model(Path(folder), name, _settings(load_record(folder)["settings"]))
    if history["diverged"] is not None:
        raise ValueError(f"the training of {name} diverged in epoch {history['diverged']}")
    return model


def load_samples(folder: str | Path, strength: float, seed: int = 0) -> dict[str, Tensor]:
    """Every measured value of one network of a record, by quantity.

    Tensors `(images,)`, or `(attack_images,)` for an attack: its distance from each image, in
    the L2 units of x, +inf where it failed. Also `label`, the true class.

    Raises
    ------
    KeyError
        The record has no values of such a network, or it diverged.
    """
    start, values = _name(strength, seed) + "/", load_file(Path(folder) / "samples.safetensors")
    found = {k.removeprefix(start): v for k, v in values.items() if k.startswith(start)}
    if not found:
        raise KeyError(f"{folder} has no values of {start[:-1]}: never trained, or diverged")
    return found


def medians(record: dict, quantity: str) -> tuple[np.ndarray, np.ndarray]:
    """Medians of a quantity over the networks of a sweep: those of the first seed that did not diverge.

    Returns
    -------
    middle : array, `(n,)`
    bars : array, `(2, n)`
        How far the 95 % interval reaches below and above, as matplotlib's `errorbar` takes it.
    """
    first = record["settings"]["seeds"][0]
    sweep = [m for m in record["models"] if m["seed"] == first and m["diverged"] is None]
    rows = [m["quantities"][quantity] for m in sweep]
    middle, low, high = (np.array([row[k] for row in rows]) for k in ("median", "low", "high"))
    return middle, np.stack([middle - low, high - middle])


def growth_exponent(
    folder: str | Path,
    strengths: Sequence[float],
    *,
    of: str = "alignment",
    against: str = "linearized_robustness",
    seed: int = 0,
    resamples: int = 1000,
) -> dict[str, float]:
    """How fast a median grows with another over the networks of a sweep: `of ≈ c · against^p`.

    p is the slope of the least-squares line through the logarithms of the medians. More than 1
    is growth faster than linear, less than 1 is slower.

    Parameters
    ----------
    folder : str or Path
        Of a record.
    strengths : sequence of float
        λ of the networks, at least two that did not diverge.
    of, against : str
        Quantities as in :func:`load_samples`. Where one was measured on fewer images, only
        these count for both.
    seed : int
        Of the networks.
    resamples : int
        Of the bootstrap. It draws images, the same for all networks; what another training
        would change it does not know.

    Returns
    -------
    dict
        `exponent`, and the ends `low`, `high` of its 95 % interval.

    Raises
    ------
    KeyError
        A network or a quantity is not in the record.
    """
    samples = [load_samples(folder, strength, seed) for strength in strengths]
    n = min(len(values[name]) for values in samples for name in (of, against))
    both = np.stack([[values[name][:n].numpy() for name in (against, of)] for values in samples])
    drawn = np.random.default_rng(0).integers(n, size=(resamples, n))
    drawn = np.concatenate([np.arange(n)[None], drawn])  # first the images as they are
    logs = np.log(np.median(both[:, :, drawn], axis=-1))
    x, y = np.moveaxis(logs - logs.mean(0), 1, 0)  # each (networks, resamples + 1)
    slope = (x * y).sum(0) / (x * x).sum(0)
    low, high = np.quantile(slope[1:], [0.025, 0.975]).tolist()
    return {"exponent": float(slope[0]), "low": low, "high": high}


def smallest_attack(values: dict[str, Tensor]) -> Tensor:
    """Distance found by the best attack on each image, `(attack_images,)`: our upper bound of ρ.

    `values` are those of one network, from :func:`load_samples`.
    """
    return torch.stack([values[name] for name in ATTACKS]).amin(0)


def linearization_error(values: dict[str, Tensor]) -> dict[str, float]:
    """How ρ̃ compares with the distance of the nearest adversary, over the attacked images.

    `values` are those of one network, from :func:`load_samples`.

    Returns
    -------
    dict
        `above`: share of images on which ρ̃ is larger than ρ can be, because an attack has
        proved it; `ratio`: median of ρ̃ through that distance; `rank_correlation` of the two.
    """
    near = smallest_attack(values)
    linear = values["linearized_robustness"][: len(near)]
    ranks = torch.stack([v.argsort().argsort().double() for v in (near, linear)])
    above, ratio = (linear > near).double().mean().item(), (linear / near).median().item()
    order = torch.corrcoef(ranks)[0, 1].item()
    return {"above": above, "ratio": ratio, "rank_correlation": order}


def bundled_images(settings: Settings) -> tuple[Tensor, Tensor | None]:
    """Images for the networks of an experiment that need no download, and labels if they have any.

    The digits of scikit-learn, enlarged for MNIST; for photographs its two sample photographs.
    """
    if settings.data not in ("digits", "mnist"):
        return load_sample_photographs(settings.size), None
    digits = load_digits(enlarged=settings.data == "mnist")
    return digits.x_test, digits.y_test


def export(folder: str | Path, target: str | Path, strengths: Sequence[float]) -> dict:
    """Copy a record with the weights of a few models only, in half precision.

    What the rounding does to these is measured, and noted with each as `half`: accuracy and
    quantities as in the record, attacks apart. For those without the data `bundled` notes the
    same on images of scikit-learn that fit the network: see :func:`bundled_images`.

    Parameters
    ----------
    folder, target : str or Path
    strengths : sequence of float
        λ of the models to be copied, of the first seed.

    Returns
    -------
    dict
        The new record.
    """
    folder, target, record = Path(folder), Path(target), load_record(folder)
    settings = _settings(record["settings"])
    data, settings = _load(settings)
    for strength in strengths:
        name = _name(strength, settings.seeds[0])
        model, history = _read_model(folder, name, settings)
        content = save(model.half().state_dict(), metadata={"history": json.dumps(history)})
        write(target / "models" / f"{name}.safetensors", content)
        entry = next(one for one in record["models"] if one["name"] == name)
        entry["half"] = _summaries(_samples(model.float(), data.x_test, data.y_test))
        entry["bundled"] = _summaries(_samples(model, *bundled_images(settings)))
    write(target / "samples.safetensors", (folder / "samples.safetensors").read_bytes())
    _write_json(target, record)
    return record


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m lesson_utils.experiments", description=__doc__)
    commands = parser.add_subparsers(dest="name", required=True, metavar="COMMAND")
    look = argparse.ArgumentDefaultsHelpFormatter
    for name, preset in PRESETS.items():
        text = f"{len(preset.models())} models on {preset.data}, {preset.epochs} epochs"
        command = commands.add_parser(name, help=text, description=text, formatter_class=look)
        command.add_argument("--out", required=True, type=Path, help="folder of the record")
        command.add_argument("--device", default="cpu", help="a PyTorch device, such as cuda")
        command.add_argument("--quiet", action="store_true", help="no progress bars")
        for item in fields(preset):
            default = getattr(preset, item.name)
            kind = {"type": type(default)}
            if isinstance(default, tuple):
                kind = {"type": type((*default, 0.0)[0]), "nargs": "*"}
            elif default is False:
                kind = {"action": "store_true"}
            flag, text = "--" + item.name.replace("_", "-"), item.metadata.get("help", "see Recipe")
            command.add_argument(flag, default=default, help=text, **kind)
    command = commands.add_parser("check-data", help="look through a folder of photographs")
    command.add_argument("folder", type=Path, help="with train/ and val/")
    command = commands.add_parser("export", help="copy a record with a few models, half precision")
    command.add_argument("folder", type=Path, help="a finished record")
    command.add_argument("target", type=Path, help="folder of the copy")
    command.add_argument("--strengths", type=float, nargs="+", required=True, help="values of λ")
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line; see `--help`."""
    arguments = sys.argv[1:] if arguments is None else arguments
    given = _parser().parse_args(arguments)
    if given.name == "check-data":
        print(*check_images(given.folder, progress=True)._asdict().items(), sep="\n")
        return
    if given.name == "export":
        export(given.folder, given.target, given.strengths)
        return
    settings = _settings(vars(given))
    words = ["FOLDER" if word == str(given.out) else word for word in arguments]
    command = "python -m lesson_utils.experiments " + shlex.join(words)
    device = join_processes(given.device)
    run(settings, given.out, device=device, progress=not given.quiet, command=command)


if __name__ == "__main__":
    main()
