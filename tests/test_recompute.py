"""The numbers of lessons 9 to 11 and of the paper map, from the stored values by other code.

Nothing of `lesson_utils.records` computes here; it is only what the results are held against.
"""

import json
import math
import re
import struct
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file
from scipy.optimize import minimize

from lesson_utils import records

RECORDED = Path(__file__).parents[1] / "lessons" / "recorded"
FLOOR = 0.6745  # median of |N(0, 1)|
ATTACKS = "gradient", "pgd", "deepfool", "carlini_wagner", "minimal_l2"
TYPES = {"F32": "<f4", "F64": "<f8", "I64": "<i8", "I32": "<i4", "U8": "u1", "F16": "<f2"}


def read(name):
    """(λ, seed) → quantity → values, from the bytes of the file."""
    raw = (RECORDED / name / "samples.safetensors").read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    header, body, found = json.loads(raw[8 : 8 + length]), raw[8 + length :], {}
    for key, entry in header.items():
        place = re.fullmatch(r"strength-(.+)-seed-(\d+)/(\w+)", key)
        if place and entry["dtype"] in TYPES:
            start, end = entry["data_offsets"]
            values = np.frombuffer(body[start:end], TYPES[entry["dtype"]]).astype(float)
            found.setdefault((float(place[1]), int(place[2])), {})[place[3]] = values
    return found


DIGITS, PHOTOGRAPHS = read("mnist"), read("tiny-imagenet")


def median(values):
    ordered = sorted(v for v in values if not math.isnan(v))
    n = len(ordered)
    return (ordered[(n - 1) // 2] + ordered[n // 2]) / 2


def nearest(v):
    return [min(v[a][k] for a in ATTACKS) for k in range(len(v["pgd"]))]


def middle(data, strength, quantity, images=None):
    """Geometric mean over trainings of the median over images."""
    logs = []
    for (s, _), v in data.items():
        if s == strength:
            values = nearest(v) if quantity == "nearest" else v[quantity]
            logs.append(math.log(median(values[:images])))
    return math.exp(sum(logs) / len(logs))


def line_slope(x, y):
    x, y = [math.log(v) for v in x], [math.log(v) for v in y]
    mx, my = sum(x) / len(x), sum(y) / len(y)
    cov = sum((a - mx) * (b - my) for a, b in zip(x, y, strict=True))
    return cov / sum((a - mx) ** 2 for a in x)


def exponent(data, strengths, of="alignment", against="linearized_robustness", images=None):
    columns = ([middle(data, s, q, images) for s in strengths] for q in (against, of))
    return line_slope(*columns)


def window(data):
    strengths = sorted({s for s, _ in data})
    far = [middle(data, s, "nearest") for s in strengths]
    return strengths[: far.index(max(far)) + 1]


@pytest.mark.parametrize("name", ["mnist", "tiny-imagenet", "imagenette"])
def test_windows_and_exponents(name):
    data, folder = read(name), RECORDED / name
    found, ends = records.growth_window(folder)
    assert found == window(data) and found[-1] in ends
    attacked = len(next(iter(data.values()))["pgd"])
    for end in ends:
        upto = [s for s in sorted({s for s, _ in data}) if s <= end]
        parts = [upto]
        for half in {(len(upto) - 1) // 2, len(upto) // 2}:
            parts += [upto[: half + 1], upto[half:]]
        for some in (part for part in parts if len(part) > 1):
            for of in ("alignment", "binarized_alignment"):
                theirs = records.growth_exponent(folder, some, of=of, resamples=2)
                assert theirs["exponent"] == pytest.approx(exponent(data, some, of))
            theirs = records.growth_exponent(folder, some, against="nearest_adversary", resamples=2)
            mine = exponent(data, some, against="nearest", images=attacked)
            assert theirs["exponent"] == pytest.approx(mine)


def test_an_interval_over_trainings_and_images_by_another_bootstrap():
    """Normal deviations of the pooled size in place of drawn ones, images by weights."""
    strengths = [0.0, 0.1, 1.0]
    quantities = "linearized_robustness", "alignment"
    logs = {
        s: np.log([[median(v[q]) for q in quantities] for (t, _), v in DIGITS.items() if t == s])
        for s in strengths
    }
    off = np.concatenate([row - row.mean(0) for row in logs.values()])
    cov = off.T @ off / sum(len(row) - 1 for row in logs.values())
    dice, draws = np.random.default_rng(5), []
    for _ in range(300):
        picked = dice.integers(1000, size=1000)
        centre = []
        for s in strengths:
            nets = [v for (t, _), v in DIGITS.items() if t == s]
            rows = np.log([[np.median(v[q][picked]) for q in quantities] for v in nets])
            centre.append(rows.mean(0) + dice.multivariate_normal([0, 0], cov / len(nets)))
        draws.append(line_slope(*np.exp(centre).T))
    low, high = np.quantile(draws, [0.025, 0.975])
    theirs = records.growth_exponent(RECORDED / "mnist", strengths)
    width = high - low
    assert [theirs["low"], theirs["high"]] == pytest.approx([low, high], abs=0.2 * width)


def test_exponents_by_seed():
    """Lesson 9: one seed says superlinear, four do not."""
    found = [
        exponent({k: v for k, v in DIGITS.items() if k[1] == seed}, [0.0, 1.0]) for seed in range(5)
    ]
    assert found == pytest.approx([1.26, 0.86, 0.90, 0.83, 0.93], abs=0.005)


def test_where_a_window_is_cut():
    """Lesson 9: how much the exponent falls between the halves, for each end and middle."""
    found = {}
    for end in (1.0, 2.0, 3.0):
        upto = [s for s in sorted({s for s, _ in DIGITS}) if s <= end]
        for k in {(len(upto) - 1) // 2, len(upto) // 2}:
            halves = upto[: k + 1], upto[k:]
            for against, images in (("linearized_robustness", None), ("nearest", 200)):
                first, second = (
                    exponent(DIGITS, half, against=against, images=images) for half in halves
                )
                found[end, upto[k], against] = round(first - second, 2)
    by_rho, by_attack = (
        [v for key, v in sorted(found.items()) if key[2] == against]
        for against in ("linearized_robustness", "nearest")
    )
    assert by_rho == [0.32, 0.62, 0.72, 0.82, 0.98]
    assert by_attack == [1.49, 1.14, 1.07, 1.07, 1.62]


@pytest.mark.parametrize(
    ("name", "end", "alpha", "near"),
    [
        ("mnist", 1.0, 1.43, 1.21),
        ("tiny-imagenet", 5.0, 14.3, 4.03),
        ("imagenette", 1.0, 1.66, 1.58),
        ("imagenette", 3.0, 1.83, 1.60),
    ],
)
def test_growth_from_no_penalty_to_an_end(name, end, alpha, near):
    """C5, on the attacked images."""
    data = read(name)
    attacked = len(next(iter(data.values()))["pgd"])
    for quantity, expected in (("alignment", alpha), ("nearest", near)):
        images = attacked if quantity == "alignment" else None
        grown = middle(data, end, quantity, images) / middle(data, 0.0, quantity, images)
        assert grown == pytest.approx(expected, rel=0.004)


def rank_correlation(a, b):
    ranks = [np.argsort(np.argsort(v)) for v in (a, b)]
    return np.corrcoef(ranks)[0, 1]


@pytest.mark.parametrize(
    ("name", "top", "share", "ratio", "order"),
    [
        ("mnist", 1.0, [0.925, 0.995], [1.24, 1.52], 0.92),
        ("tiny-imagenet", 5.0, [0.37, 0.66], [1.0, 1.02], 0.98),
        ("imagenette", 3.0, [0.49, 0.85], [1.0, 1.25], 0.93),
    ],
)
def test_approximation_in_every_training(name, top, share, ratio, order):
    """C3: share of images above the nearest adversary, median quotient, rank correlation."""
    rows = []
    for (s, _), v in read(name).items():
        if s <= top:
            near = np.array(nearest(v))
            rho = v["linearized_robustness"][: len(near)]
            rows.append([(rho > near).mean(), median(rho / near), rank_correlation(rho, near)])
    low, high = np.min(rows, 0), np.max(rows, 0)
    assert [low[0], high[0]] == pytest.approx(share, abs=0.01)
    assert [low[1], high[1]] == pytest.approx(ratio, abs=0.015)
    assert low[2] > order


def test_the_trivial_bound():
    """Lessons 9 to 11: where the theorem says less than ‖x‖ plus the bias gap."""

    def larger(data, strength):
        v = data[strength, 0]
        return float(np.mean(v["bound"] > v["input_norm"] + v["bias_gap"]))

    assert larger(DIGITS, 0.0) == pytest.approx(0.38, abs=0.005)
    assert larger(DIGITS, 10.0) == pytest.approx(0.90, abs=0.005)
    shares = [larger(PHOTOGRAPHS, s) for s in window(PHOTOGRAPHS)]
    assert [min(shares), max(shares)] == pytest.approx([0.09, 0.23], abs=0.005)
    for v in [*DIGITS.values(), *PHOTOGRAPHS.values()]:
        trivial = v["input_norm"] + v["bias_gap"]
        assert (v["linearized_robustness"] <= trivial * (1 + 1e-5)).all()


def test_laws_of_growth_on_photographs():
    """Lesson 10: sums of squared logarithmic errors and the largest ones, by a simplex search."""
    rho, alpha = (
        np.array([middle(PHOTOGRAPHS, s, q) for s in window(PHOTOGRAPHS)])
        for q in ("linearized_robustness", "alignment")
    )
    noise = FLOOR * middle(PHOTOGRAPHS, 0.0, "input_norm") / math.sqrt(3 * 64**2)
    laws = {
        "power law": (lambda t, r: t[0] * r ** t[1], (4, 1.7)),
        "line": (lambda t, r: np.maximum(t[0] + t[1] * r, 1e-9), (-0.6, 4)),
        "line from the floor": (
            lambda t, r: np.hypot(noise, np.maximum(t[0] + t[1] * r, 1e-9)),
            (-1.4, 5),
        ),
    }

    def best(name, rows):
        law, start = laws[name]
        return minimize(
            lambda t: np.sum(np.log(np.abs(law(t, rho[rows])) / alpha[rows]) ** 2),
            start,
            method="Nelder-Mead",
            options={"xatol": 1e-8, "fatol": 1e-12, "maxiter": 4000},
        ).fun

    every, late = slice(None), slice(3, None)
    printed = {"power law": 0.066, "line": 0.335, "line from the floor": 0.057}
    theirs = records.growth_laws(rho, alpha, noise)
    for name, error in printed.items():
        assert best(name, every) == pytest.approx(error, abs=0.001)
        assert theirs[name]["error"] == pytest.approx(best(name, every), rel=1e-3)
    assert best("line", late) < 0.5 * best("power law", late)
    local = np.diff(np.log(alpha)) / np.diff(np.log(rho))
    assert local == pytest.approx([1.24, 1.41, 2.22, 2.62, 2.11, 1.96, 1.57], abs=0.006)
    assert line_slope(rho, alpha) == pytest.approx(1.87, abs=0.005)


def test_photographs_that_every_network_gets_right():
    """In the first training of each λ."""
    first = {key: v for key, v in PHOTOGRAPHS.items() if key[1] == 0}
    right = np.all([v["prediction"] == v["label"] for v in first.values()], axis=0)
    some = {key: {q: v[q][right] for q in v if len(v[q]) == len(right)} for key, v in first.items()}
    assert right.sum() == 304
    assert exponent(some, window(PHOTOGRAPHS)) == pytest.approx(1.74, abs=0.005)


def test_the_cancelling_parts_on_photographs():
    """Lesson 11: median |2h† − 1|, share of opposite signs, lengths at λ = 5, degrees."""

    def of_the_difference(v):
        a, b, rho = (v[q] for q in ("binarized_alignment", "bias_gap", "linearized_robustness"))
        signs = np.where(np.abs(np.abs(a - b) - rho) < np.abs(a + b - rho), -1, 1)
        assert np.allclose(np.abs(a + signs * b), rho, atol=1e-3 * v["input_norm"])
        return median(abs((a - b) / (a + b))), float(np.mean(signs < 0))

    first, last = (of_the_difference(PHOTOGRAPHS[s, 0]) for s in (0.0, 5.0))
    assert first == pytest.approx((0.25, 0.77), abs=0.006)
    assert last == pytest.approx((0.16, 0.88), abs=0.006)
    lengths = [
        median(PHOTOGRAPHS[5.0, 0][q])
        for q in ("binarized_alignment", "bias_gap", "linearized_robustness")
    ]
    assert lengths == pytest.approx([3.3, 3.2, 1.0], abs=0.05)
    degrees = [median(PHOTOGRAPHS[s, 0]["degree_of_homogeneity"]) for s in (0.0, 2.0, 5.0)]
    assert degrees == pytest.approx([0.26, 0.44, 0.40], abs=0.005)
    by_seed = [
        [median(DIGITS[s, seed]["degree_of_homogeneity"]) for s in (0.0, 1.0)] for seed in range(3)
    ]
    expected = [[0.98, 0.98], [0.96, 0.92], [0.94, 0.92]]
    assert np.allclose(by_seed, expected, atol=0.005)


def test_the_quality_of_the_linearization():
    """Lesson 9: share above a proved distance, and the median quotient, at λ = 0, 0.1 and 1."""
    for strength in (0.0, 0.1, 1.0):
        v = DIGITS[strength, 0]
        near = np.array(nearest(v))
        linear = v["linearized_robustness"][: len(near)]
        theirs = records.linearization_error(records.load_samples(RECORDED / "mnist", strength))
        assert theirs["above"] == pytest.approx(np.mean(linear > near))
        assert theirs["ratio"] == pytest.approx(median(linear / near), rel=1e-6)
    v = PHOTOGRAPHS[5.0, 0]
    same = [median(v["linearized_robustness"][:100]), median(nearest(v))]
    assert same == pytest.approx([0.936, 0.924], abs=0.001)


@pytest.mark.parametrize(
    ("name", "end", "expected"),
    [
        ("mnist", 1.0, 0.977),
        ("tiny-imagenet", 5.0, 1.61),
        ("imagenette", 1.0, 0.497),
        ("imagenette", 3.0, 0.540),
    ],
)
def test_degrees_at_both_ends(name, end, expected):
    """Lesson 11, direction."""
    data = read(name)
    grown = [middle(data, s, "degree_of_homogeneity") for s in (end, 0.0)]
    assert grown[0] / grown[1] == pytest.approx(expected, rel=0.005)


def test_the_degree_and_the_connection_along_the_sweep():
    """Lesson 11, prediction: one pair a training."""
    for end, expected in ((1.0, 0.709), (2.0, 0.789), (3.0, 0.845)):
        pairs = [
            (
                median(v["degree_of_homogeneity"]),
                np.corrcoef(v["alignment"], v["linearized_robustness"])[0, 1],
            )
            for (s, _), v in DIGITS.items()
            if s <= end
        ]
        assert rank_correlation(*np.transpose(pairs)) == pytest.approx(expected, abs=0.002)


def test_growth_seen_from_the_mean():
    """Lessons 10 and 11: medians of what was measured of each network at hand."""
    file = RECORDED / "from-the-mean" / "samples.safetensors"
    seen = load_file(file)
    for kind, top, expected in (
        ("mnist", "1", 1.05),
        ("tiny-imagenet", "2", 0.915),
        ("imagenette", "1", 0.92),
    ):
        grown = {}
        for origin in ("black", "mean"):
            logs = {
                s: [
                    math.log(median(v.tolist()))
                    for name, v in seen.items()
                    if re.fullmatch(rf"{kind}/strength-{s}-seed-\d+/{origin}", name)
                ]
                for s in ("0", top)
            }
            grown[origin] = np.mean(logs[top]) - np.mean(logs["0"])
        assert math.exp(grown["mean"] - grown["black"]) == pytest.approx(expected, abs=0.01)


def test_growth_without_biases():
    """Lesson 11, the intervention on photographs: factors of α and ρ̃ from λ = 0 to 2."""
    for arm, of_alpha, of_rho in (("no-biases", 4.0, 3.1), ("biases", 6.8, 3.3)):
        low, high = (
            load_file(RECORDED / "without-biases" / f"{arm}-seed-0-strength-{s}.safetensors")
            for s in (0, 2)
        )
        for kind, expected in (("alignment", of_alpha), ("linearized_robustness", of_rho)):
            factor = median(high[kind].tolist()) / median(low[kind].tolist())
            assert factor == pytest.approx(expected, abs=0.06)
