"""Finished records of long runs: read, summarise and compare them.

A record is a folder: `record.json` (settings, provenance, a summary of each network),
`samples.safetensors` (every measured value of every image) and `models/` (weights, of all
networks or of some). `lesson_utils.experiments` makes them.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from .attacks import ATTACKS
from .data import load_digits, load_sample_photographs
from .extras import needed_by
from .files import UserError, write_at_once
from .models import network_of

with needed_by("lesson_utils.records"):
    from safetensors import SafetensorError, safe_open
    from safetensors.torch import save
    from scipy import stats

SCHEMA = 1
"""Version of the layout of `record.json`."""

_REMEDY = "fetch it anew, or delete it and run the experiment again, which makes it anew"


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
        as returned by :func:`summary`. In `settings` the lists `strengths`, `seeds` and
        `repeated` are of the networks that are there. Where these do not fill such a grid,
        as after a merge, `settings["models"]` lists their pairs (λ, seed).

    Raises
    ------
    FileNotFoundError
        The folder has no record, or not yet.
    ValueError
        The record is of another version of this package, or damaged.
    """
    path = Path(folder) / "record.json"
    if not path.exists():
        raise FileNotFoundError(
            f"{folder} has no finished record: see python -m lesson_utils.experiments --help"
        )

    def numbers(pairs):
        return {k: float(v) if v in ("inf", "nan") else v for k, v in pairs}

    try:
        record = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=numbers)
        schema = record["schema"]
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(f"{path} is damaged ({error!r}): {_REMEDY}") from error
    if schema != SCHEMA:
        raise UserError(f"{path} has schema {schema}, this package reads {SCHEMA}")
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
    name = name_of(strength, seed)
    model, history = read_network(Path(folder), name, load_record(folder)["settings"])
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
    ValueError
        The file is damaged.
    """
    name = name_of(strength, seed)
    values, _ = values_of(Path(folder), name)
    if not values:
        raise KeyError(f"{folder} has no values of {name}: never trained, or diverged")
    return values


def medians(record: dict, quantity: str) -> tuple[np.ndarray, np.ndarray]:
    """Medians of a quantity over a sweep: of each λ the first network in the record, unless it diverged.

    Returns
    -------
    middle : array, `(n,)`
    bars : array, `(2, n)`
        How far the 95 % interval reaches below and above, as matplotlib's `errorbar` takes it.
    """
    first = {m["strength"]: m for m in reversed(record["models"])}
    sweep = [m for m in record["models"] if m is first[m["strength"]] and m["diverged"] is None]
    rows = [m["quantities"][quantity] for m in sweep]
    middle, low, high = (np.array([row[k] for row in rows]) for k in ("median", "low", "high"))
    return middle, np.stack([middle - low, high - middle])


def table(record: dict) -> str:
    """One line a network: λ, seed, accuracy, and the medians of α, ρ̃ and the attack `minimal_l2`."""
    lines = ["       λ  seed  accuracy       α       ρ̃  attack"]
    for model in record["models"]:
        line = f"{model['strength']:8g}  {model['seed']:4}  "
        if model["diverged"] is None:
            names = "alignment", "linearized_robustness", "minimal_l2"
            found = (model["quantities"][name]["median"] for name in names)
            line += f"{model['accuracy']:8.3f}" + "".join(f"{median:8.3g}" for median in found)
        else:
            line += f"diverged in epoch {model['diverged']}"
        lines.append(line)
    return "\n".join(lines)


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
    x = [values[against][:n].numpy() for values in samples]
    y = [values[of][:n].numpy() for values in samples]

    def exponent(*columns, axis):  # the networks' x, then their y, images along the axis
        logs = np.log([np.median(column, axis=axis) for column in columns])
        log_x, log_y = logs[: len(x)], logs[len(x) :]
        log_x, log_y = log_x - log_x.mean(0), log_y - log_y.mean(0)
        return (log_x * log_y).sum(0) / (log_x * log_x).sum(0)

    low, high = np.quantile(_resampled(x + y, exponent, resamples), [0.025, 0.975]).tolist()
    return {"exponent": float(exponent(*x, *y, axis=-1)), "low": low, "high": high}


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
    return {
        "above": (linear > near).double().mean().item(),
        "ratio": (linear / near).median().item(),
        "rank_correlation": float(stats.spearmanr(near, linear).statistic),
    }


def bundled_images(settings: Mapping) -> tuple[Tensor, Tensor | None]:
    """Images for the networks of a record that need no download, and labels if they have any.

    The digits of scikit-learn, enlarged for MNIST; for photographs its two sample photographs.
    `settings` are those of the record.
    """
    if settings["data"] not in ("digits", "mnist"):
        return load_sample_photographs(settings["size"]), None
    digits = load_digits(enlarged=settings["data"] == "mnist")
    return digits.x_test, digits.y_test


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
    medians = _resampled([values], np.median, resamples)
    # no interpolation: between infinities there is nothing
    low, high = np.quantile(medians, [0.025, 0.975], method="inverted_cdf").tolist()
    middle, finite = float(np.median(values)), float(np.isfinite(values).mean())
    return {"median": middle, "low": low, "high": high, "images": len(values), "finite": finite}


def summaries(values: Mapping[str, Tensor]) -> dict:
    """Accuracy, where there are labels, and the :func:`summary` of each quantity of a network."""
    quantities = {k: summary(v) for k, v in values.items() if v.is_floating_point()}
    if "label" not in values:
        return {"quantities": quantities}
    hits = values["prediction"] == values["label"]
    return {"accuracy": hits.double().mean().item(), "quantities": quantities}


def _resampled(columns: list[np.ndarray], statistic: Callable, resamples: int) -> np.ndarray:
    """The statistic of so many draws of images with replacement, all columns alike; seed 0."""
    if len(columns[0]) < 2:  # which scipy refuses: there is only one draw
        return np.repeat(statistic(*columns, axis=-1), resamples)
    with np.errstate(invalid="ignore"):  # infinite values: we use the draws, not scipy's interval
        drawn = stats.bootstrap(
            columns,
            statistic,
            n_resamples=resamples,
            paired=True,
            vectorized=True,
            method="percentile",
            rng=np.random.default_rng(0),
        )
    return drawn.bootstrap_distribution


def name_of(strength: float, seed: int) -> str:
    """Name of a network in a record."""
    return f"strength-{strength + 0.0:g}-seed-{seed}"  # -0.0 + 0.0 is 0.0


def grid_of(pairs: Iterable[tuple[float, int]]) -> dict:
    """The settings `strengths`, `seeds` and `repeated` that describe networks, pairs (λ, seed).

    The first seed is that of most λ. Where the pairs do not fill such a grid, every λ with the
    first seed and the repeated ones with all, `models` lists them.
    """
    pairs = set(pairs)
    strengths = sorted({strength for strength, _ in pairs})
    count = Counter(seed for _, seed in pairs)
    seeds = sorted(count, key=lambda seed: (-count[seed], seed))
    full = [s for s in strengths if all((s, seed) in pairs for seed in seeds)]
    repeated = full if len(seeds) > 1 else []
    grid = {"strengths": strengths, "seeds": seeds, "repeated": repeated}
    if set(pairs_of(grid)) != pairs:
        grid["models"] = sorted(pairs, key=lambda pair: (seeds.index(pair[1]), pair[0]))
    return grid


def pairs_of(settings: Mapping) -> list[tuple[float, int]]:
    """Pairs (λ, seed) of the networks that settings describe, in the order of the record."""
    if "models" in settings:
        return [(strength, seed) for strength, seed in settings["models"]]
    first, *others = settings["seeds"]
    plan = [(strength, first) for strength in settings["strengths"]]
    return plan + [(strength, seed) for seed in others for strength in settings["repeated"]]


def read_network(folder: Path, name: str, settings: Mapping) -> tuple[nn.Module, dict]:
    """A network of a record or an unfinished run in eval mode, and the history of its training.

    Raises
    ------
    FileNotFoundError
        It is not there; the message names those that are.
    ValueError
        Its file is damaged, or of another network.
    """
    path, model = folder / "models" / f"{name}.safetensors", network_of(settings)
    if not path.exists():
        there = ", ".join(sorted(other.stem for other in path.parent.glob("*.safetensors")))
        raise FileNotFoundError(f"{folder} has no weights of {name}, only of: {there}")
    weights, notes = stored(path)
    try:
        model.load_state_dict(weights)
        return model.eval(), json.loads(notes["history"])
    except (RuntimeError, TypeError, KeyError) as error:
        raise UserError(f"{path} does not hold what the record says: {_REMEDY}") from error


def notes_of(path: Path) -> dict[str, str]:
    """The notes beside the tensors of a file.

    Raises
    ------
    ValueError
        It is damaged.
    """
    try:
        with safe_open(path, "pt") as file:
            return file.metadata() or {}
    except SafetensorError as error:
        raise UserError(f"{path} is damaged ({error}): {_REMEDY}") from error


def stored(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors of a file, and the notes beside them. Raises as :func:`notes_of`."""
    notes = notes_of(path)
    with safe_open(path, "pt") as file:
        return {key: file.get_tensor(key) for key in file.keys()}, notes  # noqa: SIM118


def store(path: Path, tensors: Mapping[str, Tensor], notes: Mapping[str, str]) -> None:
    """Write such a file, at one stroke."""
    write_at_once(path, save(dict(tensors), metadata=dict(notes)))


def values_of(folder: Path, name: str) -> tuple[dict[str, Tensor], str | None]:
    """Every measured value of a network of a record, and what decided about them, if it says so.

    Raises as :func:`notes_of`; no values of a network that is not there, or diverged.
    """
    values, notes = stored(folder / "samples.safetensors")
    start = f"{name}/"
    found = {k.removeprefix(start): v for k, v in values.items() if k.startswith(start)}
    return found, notes.get(name)


def write_record_json(folder: Path, record: dict) -> None:
    """Write `record.json`; its numbers that are not finite as text, since JSON knows none."""
    content = json.dumps(_as_text(record), indent=1, allow_nan=False)
    write_at_once(folder / "record.json", content.encode())


def _as_text(value):
    if isinstance(value, dict):
        return {key: _as_text(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_as_text(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
