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
    from scipy import optimize, stats

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
    """Medians of a quantity over a sweep: of each λ the geometric mean over its trainings.

    Trainings that diverged do not count.

    Returns
    -------
    middle : array, `(n,)`
    bars : array, `(2, n)`
        How far the 95 % interval over the *images* reaches below and above, as matplotlib's
        `errorbar` takes it. What another training would change, :func:`interval` knows.
    """
    trained = [m for m in record["models"] if m["diverged"] is None]
    strengths = sorted({m["strength"] for m in trained})
    rows = [[m["quantities"][quantity] for m in trained if m["strength"] == s] for s in strengths]
    middle, low, high = (
        np.array([stats.gmean([found[k] for found in row]) for row in rows])
        for k in ("median", "low", "high")
    )
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


def load_sweep(
    folder: str | Path,
    strengths: Sequence[float],
    quantities: Sequence[str],
    seed: int | None = None,
) -> dict[float, np.ndarray]:
    """Measured values of all trainings of some λ, on images that all quantities were measured on.

    Parameters
    ----------
    folder : str or Path
        Of a record.
    strengths : sequence of float
    quantities : sequence of str
        As in :func:`load_samples`; also "nearest_adversary", :func:`smallest_attack`.
    seed : int, optional
        Only trainings with this seed. By default all that did not diverge.

    Returns
    -------
    dict
        For each λ an array `(trainings, quantities, images)`.

    Raises
    ------
    KeyError
        A λ has no such training, or a quantity is not in the record.
    """
    models = load_record(folder)["models"]
    there = [(m["strength"], m["seed"]) for m in models if m["diverged"] is None]

    def values(pair):
        found = load_samples(folder, *pair)
        return [
            (smallest_attack(found) if name == "nearest_adversary" else found[name]).numpy()
            for name in quantities
        ]

    sweep = {
        s: [values(pair) for pair in there if pair[0] == s and seed in (None, pair[1])]
        for s in strengths
    }
    missing = [name_of(s, seed or 0) for s, rows in sweep.items() if not rows]
    if missing:
        raise KeyError(f"{folder} has no values of {missing[0]}: never trained, or diverged")
    n = min(len(v) for rows in sweep.values() for row in rows for v in row)
    return {s: np.array([[v[:n] for v in r] for r in rows], float) for s, rows in sweep.items()}


def middles(sweep: Mapping[float, np.ndarray]) -> np.ndarray:
    """Of each λ the geometric mean over its trainings of the median over images.

    `sweep` is one of :func:`load_sweep`; returns an array `(strengths, quantities)`.
    """
    return np.array([stats.gmean(_median(values)) for values in sweep.values()])


def interval(sweep: Mapping[float, np.ndarray], statistic: Callable, resamples: int = 1000) -> dict:
    """A statistic of :func:`middles`, with a 95 % interval over trainings *and* images.

    A hierarchical bootstrap of fixed seed. Each draw takes images with replacement, the same
    for all networks, and for each training a deviation from the mean of its λ, in logarithms
    and for all quantities at once. The deviations are those found in the sweep, over all λ with
    k ≥ 2 trainings, times √(k/(k−1)), because a mean over k lies too close to its own values.
    So a λ that was trained once is given the spread of the others. It takes for granted that
    the spread is the same for all λ. Where no λ was trained twice nothing is known of the
    spread, and the interval is over images alone.

    Parameters
    ----------
    sweep : dict
        From :func:`load_sweep`. The medians have to be positive and finite.
    statistic : callable
        Takes an array `(strengths, quantities)` like :func:`middles`; returns a number or an array.
    resamples : int

    Returns
    -------
    dict
        `value`, and the ends `low`, `high` of the interval (lists for an array); `trainings`, the fewest of a λ.
    """
    dice = np.random.default_rng(0)
    (images,) = {values.shape[-1] for values in sweep.values()}
    drawn = dice.integers(images, size=(resamples, images))
    centres, deviations = [], []
    for values in sweep.values():
        # one training and quantity at a time: (resamples, images) is large enough
        centres.append([[np.log(_median(v[drawn])) for v in row] for row in values])
        logs, k = np.log(_median(values)), len(values)
        if k > 1:
            deviations.extend((logs - logs.mean(0)) * math.sqrt(k / (k - 1)))
    rows = []
    for logs in centres:
        logs = np.moveaxis(logs, 2, 0)  # (resamples, trainings, quantities)
        if deviations:
            logs = logs + np.array(deviations)[dice.integers(len(deviations), size=logs.shape[:2])]
        rows.append(logs.mean(1))
    found = [statistic(row) for row in np.exp(np.stack(rows, axis=1))]
    low, high = np.quantile(found, [0.025, 0.975], axis=0).tolist()
    value = np.asarray(statistic(middles(sweep))).tolist()
    fewest = min(len(values) for values in sweep.values())
    return {"value": value, "low": low, "high": high, "trainings": fewest}


def verdict(found: Sequence[Mapping], above: float) -> str:
    """What intervals say to the statement "more than `above`": the rules of lesson 9 in code.

    Parameters
    ----------
    found : sequence of dict
        From :func:`interval` or :func:`growth_exponent`, one for each end of the window. Only
        those count in which every λ has three trainings or more.
    above : float

    Returns
    -------
    str
        "reproduced" or "not reproduced" if all intervals that count lie on one side of
        `above`, "undecided" if they do not, or if none counts.
    """
    counted = [f for f in found if f["trainings"] >= 3]
    if counted and all(f["low"] > above for f in counted):
        return "reproduced"
    if counted and all(f["high"] < above for f in counted):
        return "not reproduced"
    return "undecided"


def growth_window(folder: str | Path) -> tuple[list[float], list[float]]:
    """The networks along which robustness grows: from the smallest λ to the most robust one.

    Most robust is the λ whose nearest adversary is farthest away, by :func:`middles`.

    Returns
    -------
    window : list of float
        Its λ, in order.
    ends : list of float
        All λ at which it might end: the :func:`interval` of the quotient of their nearest
        adversary and the farthest one reaches 1. The end of `window` is one of them.
    """
    record = load_record(folder)
    strengths = sorted({m["strength"] for m in record["models"] if m["diverged"] is None})
    sweep = load_sweep(folder, strengths, ["nearest_adversary"])
    top = int(middles(sweep)[:, 0].argmax())
    behind = interval(sweep, lambda m: m[:, 0] / m[top, 0])["high"]
    ends = [s for s, high in zip(strengths, behind, strict=True) if high >= 1]
    return strengths[: top + 1], ends


def growth_exponent(
    folder: str | Path,
    strengths: Sequence[float],
    *,
    of: str = "alignment",
    against: str = "linearized_robustness",
    seed: int | None = None,
    resamples: int = 1000,
) -> dict[str, float]:
    """How fast a median grows with another over the networks of a sweep: `of ≈ c · against^p`.

    p is the slope of the least-squares line through the logarithms of :func:`middles`. More
    than 1 is growth faster than linear, less than 1 is slower.

    Parameters
    ----------
    folder : str or Path
        Of a record.
    strengths : sequence of float
        λ of the networks, at least two.
    of, against : str
        Quantities as in :func:`load_sweep`. Where one was measured on fewer images, only
        these count for both.
    seed : int, optional
        Only trainings with this seed; the interval is then over images alone.
    resamples : int
        Of the :func:`interval`.

    Returns
    -------
    dict
        `exponent`, the ends `low`, `high` of its 95 % interval, and `trainings`, the fewest of a λ.

    Raises
    ------
    KeyError
        A network or a quantity is not in the record.
    """
    sweep = load_sweep(folder, strengths, [against, of], seed)
    found = interval(sweep, lambda m: slope(*m.T), resamples)
    return {"exponent": found.pop("value"), **found}


def middle_places(n: int) -> list[int]:
    """Of n networks the place in the middle, or the two where n is even: there halves meet.

    Of `m`, in the order of λ, the halves are `m[: k + 1]` and `m[k:]` for each place k.
    """
    return sorted({(n - 1) // 2, n // 2})


def growth_bends(
    folder: str | Path,
    ends: Sequence[float],
    *,
    against: str = "linearized_robustness",
    resamples: int = 1000,
) -> dict[tuple[float, float], dict]:
    """By how much the growth of median α slows down: p of the first half less p of the second.

    Parameters
    ----------
    folder : str or Path
        Of a record.
    ends : sequence of float
        Each a λ at which the window may end; see :func:`growth_window`.
    against : str
        As in :func:`growth_exponent`.
    resamples : int
        Of the :func:`interval`.

    Returns
    -------
    dict
        For each end and each λ in the middle of its window, :func:`middle_places`, the interval.
    """
    models = load_record(folder)["models"]
    strengths = sorted({m["strength"] for m in models if m["diverged"] is None})
    found = {}
    for end in ends:
        upto = [s for s in strengths if s <= end]
        sweep = load_sweep(folder, upto, [against, "alignment"])
        for k in middle_places(len(upto)):

            def bend(m, k=k):
                return slope(*m[: k + 1].T) - slope(*m[k:].T)

            found[end, upto[k]] = interval(sweep, bend, resamples)
    return found


def local_exponents(rho: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Exponents between neighbours, Δlog α / Δlog ρ̃: `(n,)` each to `(n − 1,)`."""
    return np.diff(np.log(alpha)) / np.diff(np.log(rho))


def growth_laws(rho: np.ndarray, alpha: np.ndarray, floor: float) -> dict[str, dict]:
    """Three laws of growth, fitted and judged in one metric, the squared error of log α.

    Parameters
    ----------
    rho, alpha : array, `(n,)`
        Medians of n ≥ 3 networks, positive.
    floor : float
        α of a map of noise, 0.6745 ‖x‖/√d (lesson 10). Known, not fitted.

    Returns
    -------
    dict
        Of "power law" c·ρ̃^p, "line" a + b·ρ̃, and "line from the floor"
        √(floor² + (a + b·ρ̃)²), each with two free `parameters`: (c, p), or (a, b). Further
        `error`, the sum of the squares of log(fitted/α), `worst`, the largest of their absolute
        values, and `fitted`, `(n,)`.
    """
    tiny = 1e-9 * np.min(alpha)  # a line may pass below zero while one looks for the best

    def line(parameters):
        return np.maximum(parameters[0] + parameters[1] * rho, tiny)

    def from_floor(parameters):
        return np.hypot(floor, line(parameters))

    def power(parameters):
        return parameters[0] * rho ** parameters[1]

    p = slope(rho, alpha)
    straight = np.polynomial.Polynomial.fit(rho, alpha, 1, w=1 / alpha).convert().coef
    starts = {"power law": (power, [np.exp(np.mean(np.log(alpha) - p * np.log(rho))), p])}
    starts |= {"line": (line, straight), "line from the floor": (from_floor, straight)}
    found = {}
    for name, (law, start) in starts.items():

        def miss(parameters, law=law):
            return np.log(law(parameters) / alpha)

        best = optimize.least_squares(miss, start, x_scale=np.abs(start) + 1e-3)
        off = miss(best.x)
        found[name] = {
            "parameters": tuple(best.x.tolist()),
            "error": float((off**2).sum()),
            "worst": float(abs(off).max()),
            "fitted": law(best.x),
        }
    return found


def slope(x: np.ndarray, y: np.ndarray) -> float:
    """P of y ≈ c·x^p: the slope of the least-squares line through the logarithms, `(n,)` each."""
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])


def _median(values: np.ndarray) -> np.ndarray:
    """Over the last axis: the mean of the middle two of an even number; NaN is left out."""
    return (np.nanmedian if np.isnan(values).any() else np.median)(values, axis=-1)


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
        "ratio": float(np.median(linear / near)),
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


def stored(path: Path, start: str = "") -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors of a file whose names begin with `start`, and the notes beside them. Raises as :func:`notes_of`."""
    notes = notes_of(path)
    with safe_open(path, "pt") as file:
        names = [name for name in file.keys() if name.startswith(start)]  # noqa: SIM118
        return {name: file.get_tensor(name) for name in names}, notes


def store(path: Path, tensors: Mapping[str, Tensor], notes: Mapping[str, str]) -> None:
    """Write such a file, at one stroke."""
    write_at_once(path, save(dict(tensors), metadata=dict(notes)))


def values_of(folder: Path, name: str) -> tuple[dict[str, Tensor], str | None]:
    """Every measured value of a network of a record, and what decided about them, if it says so.

    Raises as :func:`notes_of`; no values of a network that is not there, or diverged.
    """
    start = f"{name}/"
    values, notes = stored(folder / "samples.safetensors", start)
    return {k.removeprefix(start): v for k, v in values.items()}, notes.get(name)


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
