"""The numbers of lessons 9 to 11 and of the paper map, from the stored values by other code.

Nothing of `lesson_utils.records` computes here; it is only what the results are held against.
"""

import json
import math
import re
import struct
from functools import cache
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
TYPES["BOOL"] = "?"


@cache
def read(name):
    """(λ, seed) → quantity → values, from the bytes of the file; also the nearest adversary."""
    raw = (RECORDED / name / "samples.safetensors").read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    header, body, found = json.loads(raw[8 : 8 + length]), raw[8 + length :], {}
    for key, entry in header.items():
        place = re.fullmatch(r"strength-(.+)-seed-(\d+)/(\w+)", key)
        if place and entry["dtype"] in TYPES:
            start, end = entry["data_offsets"]
            values = np.frombuffer(body[start:end], TYPES[entry["dtype"]]).astype(float)
            found.setdefault((float(place[1]), int(place[2])), {})[place[3]] = values
    for v in found.values():
        v["nearest"] = np.array([min(row) for row in zip(*(v[a] for a in ATTACKS), strict=True)])
    return found


DIGITS, PHOTOGRAPHS, IMAGENET = map(read, ("mnist", "tiny-imagenet", "imagenette"))


def median(values):
    ordered = sorted(v for v in values if not math.isnan(v))
    n = len(ordered)
    return (ordered[(n - 1) // 2] + ordered[n // 2]) / 2


def middle(data, strength, quantity, images=None):
    """Geometric mean over trainings of the median over images."""
    logs = []
    for (s, _), v in data.items():
        if s == strength:
            logs.append(math.log(median(v[quantity][:images])))
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


def bootstrap(data, strengths, quantities, statistic):
    """A 95 % interval: normal deviations of the pooled size in place of drawn ones."""
    nets = [[v for (t, _), v in data.items() if t == s] for s in strengths]
    images = min(len(v[q]) for row in nets for v in row for q in quantities)
    values = [np.array([[v[q][:images] for q in quantities] for v in row]) for row in nets]
    logs = [np.log(np.median(row, -1)) for row in values]
    off = np.concatenate([row - row.mean(0) for row in logs])
    cov = off.T @ off / max(sum(len(row) - 1 for row in logs), 1)
    dice, found = np.random.default_rng(5), []
    for _ in range(600):
        picked = dice.integers(images, size=images)
        centre = [
            np.log(np.median(row[..., picked], -1)).mean(0)
            + dice.multivariate_normal(np.zeros(len(cov)), cov / len(row))
            for row in values
        ]
        found.append(statistic(np.exp(centre)))
    return np.quantile(found, [0.025, 0.975], axis=0)


def quotient(m):
    return m[1, 0] / m[0, 0]


def agree(mine, theirs, printed):
    """(Middle, low, high): ends to a fifth of the width."""
    fifth = 0.2 * (mine[2] - mine[1])
    for other in (theirs, printed):
        assert mine[0] == pytest.approx(other[0], rel=0.004, abs=0.001)
        assert list(mine[1:]) == pytest.approx(other[1:], abs=fifth)


@pytest.mark.parametrize(
    ("name", "end", "against", "printed"),
    [
        ("mnist", 1.0, "linearized_robustness", [0.995, 0.87, 1.10]),
        ("mnist", 1.0, "nearest", [1.92, 1.55, 2.30]),
        ("mnist", 2.0, "nearest", [1.94, 1.53, 2.33]),
        ("mnist", 3.0, "nearest", [1.93, 1.50, 2.30]),
        ("tiny-imagenet", 5.0, "linearized_robustness", [1.87, 1.61, 2.09]),
        ("tiny-imagenet", 5.0, "nearest", [1.97, 1.42, 2.54]),
        ("imagenette", 0.01, "linearized_robustness", [0.797, 0.38, 1.15]),
        ("imagenette", 0.03, "linearized_robustness", [0.997, 0.65, 1.29]),
        ("imagenette", 0.1, "linearized_robustness", [1.08, 0.75, 1.34]),
        ("imagenette", 0.3, "linearized_robustness", [1.14, 0.80, 1.40]),
        ("imagenette", 1.0, "linearized_robustness", [1.135, 0.76, 1.53]),
        ("imagenette", 3.0, "linearized_robustness", [1.13, 0.68, 1.49]),
        ("imagenette", 0.01, "nearest", [1.30, -0.46, 3.89]),
        ("imagenette", 0.03, "nearest", [1.72, 0.32, 3.20]),
        ("imagenette", 0.1, "nearest", [1.75, 0.26, 2.57]),
        ("imagenette", 0.3, "nearest", [1.70, 0.31, 2.34]),
        ("imagenette", 1.0, "nearest", [1.49, 0.42, 2.16]),
        ("imagenette", 3.0, "nearest", [1.43, 0.51, 1.95]),
    ],
)
def test_an_exponent_of_a_whole_window(name, end, against, printed):
    """C6, with an interval over trainings and images by another bootstrap."""
    data, theirs = read(name), "nearest_adversary" if against == "nearest" else against
    upto = [s for s in sorted({s for s, _ in data}) if s <= end]
    images = len(data[0.0, 0][against])
    ends = bootstrap(data, upto, (against, "alignment"), lambda m: line_slope(*m.T))
    found = records.growth_exponent(RECORDED / name, upto, against=theirs)
    mine = [exponent(data, upto, against=against, images=images), *ends]
    agree(mine, [found[k] for k in ("exponent", "low", "high")], printed)
    if (name, against) == ("mnist", "nearest"):
        assert ends[0] > 1.3


@pytest.mark.parametrize(
    ("name", "end", "quantity", "printed"),
    [
        ("mnist", 1.0, "alignment", [1.43, 1.38, 1.48]),
        ("mnist", 1.0, "nearest", [1.21, 1.17, 1.27]),
        ("mnist", 2.0, "alignment", [1.43, 1.38, 1.48]),
        ("mnist", 2.0, "nearest", [1.18, 1.13, 1.25]),
        ("mnist", 3.0, "alignment", [1.40, 1.35, 1.45]),
        ("mnist", 3.0, "nearest", [1.17, 1.13, 1.24]),
        ("tiny-imagenet", 5.0, "alignment", [14.3, 10.9, 18.1]),
        ("tiny-imagenet", 5.0, "nearest", [4.03, 2.80, 5.52]),
        ("imagenette", 0.01, "alignment", [1.49, 0.93, 2.15]),
        ("imagenette", 0.01, "nearest", [1.36, 1.08, 1.67]),
        ("imagenette", 1.0, "alignment", [1.66, 1.24, 2.47]),
        ("imagenette", 1.0, "nearest", [1.58, 1.35, 1.79]),
        ("imagenette", 3.0, "alignment", [1.835, 1.30, 2.44]),
        ("imagenette", 3.0, "nearest", [1.60, 1.34, 1.90]),
    ],
)
def test_growth_from_no_penalty_to_an_end(name, end, quantity, printed):
    """C5, on the attacked images."""
    data = read(name)
    images = len(data[0.0, 0]["nearest"])
    first, last = (middle(data, s, quantity, images) for s in (0.0, end))
    pair = (quantity, "nearest")  # so that only the attacked images count
    ends = bootstrap(data, [0.0, end], pair, quotient)
    theirs = [q.replace("nearest", "nearest_adversary") for q in pair]
    sweep = records.load_sweep(RECORDED / name, [0.0, end], theirs)
    found = records.interval(sweep, quotient)
    agree([last / first, *ends], [found[k] for k in ("value", "low", "high")], printed)


def test_exponents_by_seed():
    """Lesson 9: against ρ̃ one seed says superlinear, four do not; against the attacks all do."""
    alone = [{key: v for key, v in DIGITS.items() if key[1] == seed} for seed in range(5)]
    found = [exponent(one, [0.0, 1.0]) for one in alone]
    assert found == pytest.approx([1.26, 0.86, 0.90, 0.83, 0.93], abs=0.005)
    found = [exponent(one, [0.0, 1.0], against="nearest", images=200) for one in alone]
    assert found == pytest.approx([2.03, 1.89, 2.27, 1.58, 1.75], abs=0.006)


def test_where_a_window_is_cut():
    """Lesson 9: how much the exponent falls between the halves, for each end and middle."""
    found, three = {}, [1.0, 2.0, 3.0]
    names = {"linearized_robustness": "linearized_robustness", "nearest": "nearest_adversary"}
    theirs = {
        against: records.growth_bends(RECORDED / "mnist", three, against=name, resamples=2)
        for against, name in names.items()
    }
    for end in three:
        upto = [s for s in sorted({s for s, _ in DIGITS}) if s <= end]
        for k in {(len(upto) - 1) // 2, len(upto) // 2}:
            halves = upto[: k + 1], upto[k:]
            for against, images in (("linearized_robustness", None), ("nearest", 200)):
                first, second = (
                    exponent(DIGITS, half, against=against, images=images) for half in halves
                )
                found[end, upto[k], against] = round(first - second, 2)
                bend = theirs[against][end, upto[k]]["value"]
                assert bend == pytest.approx(first - second)
    assert all(len(row) == 5 for row in theirs.values())
    by_rho, by_attack = (
        [v for key, v in sorted(found.items()) if key[2] == against]
        for against in ("linearized_robustness", "nearest")
    )
    assert by_rho == [0.32, 0.62, 0.72, 0.82, 0.98]
    assert by_attack == [1.49, 1.14, 1.07, 1.07, 1.62]


def rank_correlation(a, b):
    ranks = [np.argsort(np.argsort(v)) for v in (a, b)]
    return np.corrcoef(ranks)[0, 1]


@pytest.mark.parametrize(
    ("name", "top", "share", "ratio", "order"),
    [
        ("mnist", 1.0, [0.925, 0.995], [1.24, 1.52], 0.92),
        ("tiny-imagenet", 5.0, [0.37, 0.66], [1.0, 1.02], 0.98),
        ("imagenette", 3.0, [0.49, 0.86], [1.0, 1.25], 0.93),
    ],
)
def test_approximation_in_every_training(name, top, share, ratio, order):
    """C3: share of images above the nearest adversary, median quotient, rank correlation."""
    rows = []
    for (s, _), v in read(name).items():
        if s <= top:
            near = v["nearest"]
            rho = v["linearized_robustness"][: len(near)]
            rows.append([(rho > near).mean(), median(rho / near), rank_correlation(rho, near)])
    low, high = np.min(rows, 0), np.max(rows, 0)
    assert [low[0], high[0]] == pytest.approx(share, abs=0.01)
    assert [low[1], high[1]] == pytest.approx(ratio, abs=0.015)
    assert low[2] > order


@pytest.mark.parametrize(
    ("data", "strengths", "share"),
    [
        (DIGITS, [0.0], [0.377, 0.500]),
        (DIGITS, [1.0], [0.837, 0.858]),
        (DIGITS, [10.0], [0.896, 0.896]),
        (PHOTOGRAPHS, window(PHOTOGRAPHS), [0.090, 0.288]),
        (IMAGENET, [0.0], [0.006, 0.007]),
        (IMAGENET, [1.0], [0.243, 0.298]),
        (IMAGENET, [3.0], [0.300, 0.371]),
        (IMAGENET, window(IMAGENET), [0.006, 0.371]),
    ],
)
def test_the_trivial_bound(data, strengths, share):
    """Lessons 9 to 11: where the theorem says less than ‖x‖ plus the bias gap, by training."""
    larger = []
    for (s, _), v in data.items():
        trivial = v["input_norm"] + v["bias_gap"]
        assert (v["linearized_robustness"] <= trivial * (1 + 1e-5)).all()
        if s in strengths:
            larger.append(np.mean(v["bound"] > trivial))
    assert [min(larger), max(larger)] == pytest.approx(share, abs=0.0011)


@pytest.mark.parametrize(
    ("name", "pixels", "strength", "noise", "bound"),
    [
        ("mnist", 28**2, 0.0, [14.2, 14.7], [4.5, 5.3]),
        ("mnist", 28**2, 1.0, [20.0, 22.3], [4.3, 4.4]),
        ("tiny-imagenet", 3 * 64**2, 0.0, [1.04, 1.09], [163, 163]),
        ("tiny-imagenet", 3 * 64**2, 5.0, [12.0, 12.9], [48, 60]),
        ("imagenette", 3 * 128**2, 0.0, [0.26, 0.31], [100, 124]),
        ("imagenette", 3 * 128**2, 1.0, [0.40, 0.56], [194, 201]),
        ("imagenette", 3 * 128**2, 3.0, [0.47, 0.61], [195, 232]),
    ],
)
def test_the_floor_of_noise_and_the_bound(name, pixels, strength, noise, bound):
    """Lessons 9 and 10: α in units of noise, and the bound in units of ρ̃, by training."""
    nets = [v for (s, _), v in read(name).items() if s == strength]
    unit = FLOOR / math.sqrt(pixels)
    times = [median(v["alignment"] / (unit * v["input_norm"])) for v in nets]
    assert [min(times), max(times)] == pytest.approx(noise, rel=0.02)
    wide = [1 / median(v["linearized_robustness"] / v["bound"]) for v in nets]
    assert [min(wide), max(wide)] == pytest.approx(bound, rel=0.015)


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


@pytest.mark.parametrize(("data", "n", "p"), [(PHOTOGRAPHS, 304, 1.74), (IMAGENET, 738, 1.01)])
def test_photographs_that_every_network_gets_right(data, n, p):
    """In the first training of each λ."""
    first = {key: v for key, v in data.items() if key[1] == 0 and key[0] in window(data)}
    right = np.all([v["prediction"] == v["label"] for v in first.values()], axis=0)
    some = {key: {q: v[q][right] for q in v if len(v[q]) == len(right)} for key, v in first.items()}
    assert right.sum() == n
    assert exponent(some, window(data)) == pytest.approx(p, abs=0.005)


@pytest.mark.parametrize(
    ("strength", "unseen", "seen"),
    [
        (0.0, [0.978, 0.104, 0.373], [0.930, 0.097, 0.301]),
        (0.003, [0.978, 0.137, 0.514], [0.908, 0.116, 0.485]),
        (0.01, [0.985, 0.144, 0.605], [0.924, 0.148, 0.502]),
        (0.03, [0.970, 0.180, 0.674], [0.906, 0.173, 0.535]),
        (0.1, [0.970, 0.182, 0.733], [0.902, 0.178, 0.555]),
        (0.3, [0.948, 0.176, 0.564], [0.875, 0.183, 0.511]),
        (1.0, [0.940, 0.202, 0.582], [0.871, 0.178, 0.490]),
        (3.0, [0.851, 0.172, 0.532], [0.790, 0.195, 0.517]),
    ],
)
def test_photographs_that_the_pretrained_network_has_seen(strength, unseen, seen):
    """Lesson 10: accuracy, and medians of α and ρ̃."""
    v = IMAGENET[strength, 0]
    for part, n, printed in ((v["unseen"] == 1, 134, unseen), (v["unseen"] == 0, 866, seen)):
        hits = np.mean((v["prediction"] == v["label"])[part])
        lengths = [median(v[q][part]) for q in ("alignment", "linearized_robustness")]
        assert part.sum() == n
        assert [hits, *lengths] == pytest.approx(printed, abs=0.0006)


@pytest.mark.parametrize(
    ("data", "strength", "sizes", "opposite", "connection"),
    [
        (PHOTOGRAPHS, 0.0, [0.249, 0.278, 0.253], [0.771, 0.782, 0.765], [0.156, 0.140, 0.160]),
        (PHOTOGRAPHS, 5.0, [0.159, 0.126, 0.127], [0.875, 0.894, 0.896], [0.127, 0.082, 0.045]),
        (IMAGENET, 0.0, [0.577, 0.615, 0.567], [0.574, 0.591, 0.573], [0.203, 0.137, 0.160]),
        (IMAGENET, 0.003, [0.618], [0.545], [0.063]),
        (IMAGENET, 0.01, [0.552], [0.560], [0.172]),
        (IMAGENET, 0.03, [0.542], [0.507], [0.131]),
        (IMAGENET, 0.1, [0.579], [0.516], [0.198]),
        (IMAGENET, 0.3, [0.574], [0.542], [0.257]),
        (IMAGENET, 1.0, [0.524, 0.522, 0.586], [0.503, 0.554, 0.561], [0.181, 0.090, 0.077]),
        (IMAGENET, 3.0, [0.508, 0.515, 0.577], [0.554, 0.550, 0.528], [0.099, 0.124, 0.074]),
    ],
)
def test_the_cancelling_parts_on_photographs(data, strength, sizes, opposite, connection):
    """Lesson 11: median |2h† − 1|, share of opposite signs, correlation of α and ρ̃, by training."""
    rows = []
    for v in (v for (s, _), v in sorted(data.items()) if s == strength):
        a, b, rho = (v[q] for q in ("binarized_alignment", "bias_gap", "linearized_robustness"))
        signs = np.where(np.abs(np.abs(a - b) - rho) < np.abs(a + b - rho), -1, 1)
        assert np.allclose(np.abs(a + signs * b), rho, atol=1e-3 * v["input_norm"])
        together = np.corrcoef(v["alignment"], rho)[0, 1]
        rows.append([median(abs((a - b) / (a + b))), np.mean(signs < 0), together])
    assert np.transpose(rows) == pytest.approx(np.array([sizes, opposite, connection]), abs=6e-4)


def test_lengths_and_degrees():
    """Lesson 11: lengths at λ = 5, degrees along two sweeps and by seed."""
    lengths = [
        median(PHOTOGRAPHS[5.0, 0][q])
        for q in ("binarized_alignment", "bias_gap", "linearized_robustness")
    ]
    assert lengths == pytest.approx([3.3, 3.2, 1.0], abs=0.05)
    degrees = [median(PHOTOGRAPHS[s, 0]["degree_of_homogeneity"]) for s in (0.0, 2.0, 5.0)]
    assert degrees == pytest.approx([0.26, 0.44, 0.40], abs=0.005)
    degrees = [middle(IMAGENET, s, "degree_of_homogeneity") for s in window(IMAGENET)]
    expected = [0.187, 0.157, 0.156, 0.140, 0.114, 0.111, 0.093, 0.101]
    assert degrees == pytest.approx(expected, abs=0.0006)
    by_seed = [
        [median(DIGITS[s, seed]["degree_of_homogeneity"]) for s in (0.0, 1.0)] for seed in range(5)
    ]
    expected = [[0.98, 0.98], [0.96, 0.92], [0.94, 0.92], [0.95, 0.89], [0.95, 0.96]]
    assert np.allclose(by_seed, expected, atol=0.0055)


KINDS = "linearized_robustness", "binarized_alignment", "alignment"


def parts(m):
    """Parts of the biases and of the direction in p − 1, from middles `(strengths, kinds)`."""
    of_biases, p = (line_slope(m[:, 0], m[:, k]) for k in (1, 2))
    return np.array([of_biases - 1, p - of_biases])


@pytest.mark.parametrize(
    ("name", "end", "biases", "direction"),
    [
        ("mnist", 1.0, [-0.327, -0.41, -0.25], [0.322, 0.23, 0.41]),
        ("mnist", 2.0, [-0.448, -0.53, -0.37], [0.356, 0.28, 0.44]),
        ("mnist", 3.0, [-0.551, -0.62, -0.48], [0.390, 0.31, 0.47]),
        ("tiny-imagenet", 2.0, [0.637, 0.44, 0.83], [0.232, 0.10, 0.37]),
        ("tiny-imagenet", 5.0, [0.707, 0.47, 0.91], [0.161, 0.07, 0.25]),
        ("imagenette", 1.0, [-0.053, -0.39, 0.29], [0.187, -0.01, 0.38]),
        ("imagenette", 3.0, [-0.057, -0.47, 0.28], [0.184, -0.01, 0.35]),
    ],
)
def test_parts_of_an_exponent(name, end, biases, direction):
    """Lesson 11, size: of the whole window."""
    data = read(name)
    upto = [s for s in sorted({s for s, _ in data}) if s <= end]
    mine = parts(np.array([[middle(data, s, kind) for kind in KINDS] for s in upto]))
    ends = bootstrap(data, upto, KINDS, parts)
    found = records.interval(records.load_sweep(RECORDED / name, upto, KINDS), parts)
    theirs = [found[k] for k in ("value", "low", "high")]
    for k, printed in enumerate((biases, direction)):
        agree([mine[k], *ends[:, k]], [row[k] for row in theirs], printed)


@pytest.mark.parametrize(
    ("end", "cut", "expected"),
    [
        (1.0, 0.03, [0.337, -0.021]),
        (1.0, 0.1, [0.607, 0.015]),
        (2.0, 0.1, [0.822, -0.098]),
        (3.0, 0.1, [0.995, -0.179]),
        (3.0, 0.3, [1.305, -0.325]),
    ],
)
def test_parts_of_a_bend(end, cut, expected):
    """Lesson 11, size, digits: first half less second."""
    upto = [s for s in sorted({s for s, _ in DIGITS}) if s <= end]
    m, k = np.array([[middle(DIGITS, s, kind) for kind in KINDS] for s in upto]), upto.index(cut)
    bend = parts(m[: k + 1]) - parts(m[k:])
    assert bend == pytest.approx(np.array(expected), abs=6e-4)


def test_the_quality_of_the_linearization():
    """Lesson 9: share above a proved distance, and the median quotient, at λ = 0, 0.1 and 1."""
    for strength in (0.0, 0.1, 1.0):
        v = DIGITS[strength, 0]
        near = v["nearest"]
        linear = v["linearized_robustness"][: len(near)]
        theirs = records.linearization_error(records.load_samples(RECORDED / "mnist", strength))
        assert theirs["above"] == pytest.approx(np.mean(linear > near))
        assert theirs["ratio"] == pytest.approx(median(linear / near), rel=1e-6)
    v = PHOTOGRAPHS[5.0, 0]
    same = [median(v["linearized_robustness"][:100]), median(v["nearest"])]
    assert same == pytest.approx([0.936, 0.924], abs=0.001)


@pytest.mark.parametrize(
    ("name", "end", "printed"),
    [
        ("mnist", 1.0, [0.978, 0.94, 1.01]),
        ("tiny-imagenet", 5.0, [1.61, 1.44, 1.81]),
        ("imagenette", 1.0, [0.497, 0.41, 0.60]),
        ("imagenette", 3.0, [0.540, 0.46, 0.63]),
    ],
)
def test_degrees_at_both_ends(name, end, printed):
    """Lesson 11, direction."""
    data, quantity = read(name), ["degree_of_homogeneity"]
    first, last = (middle(data, s, *quantity) for s in (0.0, end))
    ends = bootstrap(data, [0.0, end], quantity, quotient)
    sweep = records.load_sweep(RECORDED / name, [0.0, end], quantity)
    found = records.interval(sweep, quotient)
    agree([last / first, *ends], [found[k] for k in ("value", "low", "high")], printed)


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
