"""The stored records: complete, in agreement with themselves, and with the networks they ship."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save

from lesson_utils import measure
from lesson_utils.experiments import PRESETS, Settings, merge
from lesson_utils.experiments.images import open_data
from lesson_utils.experiments.provenance import PACKAGES
from lesson_utils.files import write_at_once
from lesson_utils.records import (
    ATTACKS,
    bundled_images,
    growth_laws,
    growth_window,
    interval,
    load_model,
    load_record,
    load_samples,
    load_sweep,
    local_exponents,
    medians,
    middles,
    pairs_of,
    slope,
    stored,
    summary,
    verdict,
    write_record_json,
)

ROOT = Path(__file__).parents[1]
FOLDERS = sorted(path.parent for path in (ROOT / "lessons" / "recorded").glob("*/record.json"))


@pytest.fixture(params=FOLDERS, ids=lambda folder: folder.name)
def folder(request):
    return request.param


def shipped(folder):
    """Entries of the networks whose weights come with a record: of a joined one, its first seed."""
    names = {path.stem for path in (folder / "models").glob("*.safetensors")}
    return [model for model in load_record(folder)["models"] if model["name"] in names]


def test_the_records():
    names = [folder.name for folder in FOLDERS]
    assert names == ["imagenette", "imagenette-base", "mnist", "tiny-imagenet"]


def test_provenance(folder):
    record = load_record(folder)
    settings, provenance = record["settings"], record["provenance"]
    assert re.fullmatch("[0-9a-f]{64}", settings["data_sha256"])
    name = re.match(
        r"python -m lesson_utils\.experiments ([\w-]+) .*--out FOLDER", provenance["command"]
    ).group(1)
    preset = PRESETS[name].to_table()
    for key in ("data", "network", "epochs", "batch_size", "learning_rate", "images"):
        assert settings[key] == preset[key], key
    for environment in provenance["environments"]:
        assert {"torch", "numpy", "foolbox"} <= set(environment["packages"]) <= set(PACKAGES)
        assert "dirty" not in environment["code"]
        assert environment["device"] and environment["threads"] >= 1
    for kind in ("training", "measuring"):
        assert set(provenance["timing"][kind]) == {model["name"] for model in record["models"]}
    for path in folder.rglob("*.json"):  # nothing of the machine where it ran
        assert not re.search(r"/(work|home|tmp|root)/", path.read_text())


def test_summaries_agree_with_the_values(folder):
    record = load_record(folder)
    for model in record["models"]:
        values = load_samples(folder, model["strength"], model["seed"])
        hits = (values["prediction"] == values["label"]).double().mean().item()
        assert model["accuracy"] == hits
        for name, found in model["quantities"].items():
            assert found == pytest.approx(summary(values[name]), nan_ok=True), name
            count = "attack_images" if name in ATTACKS else "images"
            assert len(values[name]) == record["settings"][count]


def test_the_theorem_holds_at_every_point(folder):
    """In float32: a tolerance of some roundings of ‖x‖."""
    record = load_record(folder)
    for model in record["models"]:
        v = load_samples(folder, model["strength"], model["seed"])
        rounding = 100 * torch.finfo(torch.float32).eps * v["input_norm"]
        assert (v["linearized_robustness"] <= v["bound"] + rounding).all()
        assert (v["linearized_robustness"] <= v["tight_bound"] + rounding).all()
        assert (v["linearized_robustness"] >= v["lower_bound"] - rounding).all()


def test_shipped_networks_are_small(folder):
    files = list((folder / "models").glob("*.safetensors"))
    least = 1 if folder.name == "imagenette-base" else 2
    assert len(files) == len(shipped(folder)) >= least
    assert all("half" in model and model["seed"] == 0 for model in shipped(folder))
    sizes = [path.stat().st_size for path in files]
    assert max(sizes) < 8e6 and sum(sizes) < (4e6 if folder.name == "mnist" else 14e6)


def test_shipped_networks_give_the_numbers_noted_for_bundled_images(folder):
    """These need no download, so that this runs everywhere."""
    record = load_record(folder)
    x, y = bundled_images(record["settings"])
    for model in shipped(folder):
        again = measure(load_model(folder, model["strength"]), x)
        if y is not None:
            hits = (again.prediction == y).double().mean().item()
            assert hits == pytest.approx(model["bundled"]["accuracy"], abs=0.005)
        for name in ("alignment", "linearized_robustness", "degree_of_homogeneity"):
            median = model["bundled"]["quantities"][name]["median"]
            assert summary(getattr(again, name))["median"] == pytest.approx(median, rel=0.01), name


def test_shipped_networks_give_the_numbers_of_the_record_where_the_data_is(folder):
    record = load_record(folder)
    settings = Settings.from_table(record["settings"])
    try:
        data, _ = open_data(settings)
    except FileNotFoundError as error:
        assert "LESSONS_DATA" in str(error)
        return
    for model in shipped(folder):
        net, values = (f(folder, model["strength"]) for f in (load_model, load_samples))
        again = measure(net, data.test.tensors[0])
        assert (again.prediction == values["prediction"]).double().mean() > 0.99
        for name in ("alignment", "linearized_robustness"):
            half = model["half"]["quantities"][name]["median"]
            assert summary(getattr(again, name))["median"] == pytest.approx(half, rel=0.01)
            assert half == pytest.approx(summary(values[name])["median"], rel=0.02)


def test_the_record_of_mnist_is_joined_with_single_networks_of_the_same_layout(tmp_path):
    """Folders as they were before files carried their settings: one λ, one seed each."""
    recorded = ROOT / "lessons" / "recorded" / "mnist"
    record = load_record(recorded)
    before = set(pairs_of(record["settings"]))
    entry = next(model for model in record["models"] if model["name"] == "strength-0.1-seed-0")
    values, _ = stored(recorded / "samples.safetensors")
    folders = []
    for seed in (101, 102):
        name = f"strength-0.1-seed-{seed}"
        start = f"{entry['name']}/"
        mine = {k.replace(start, f"{name}/"): v for k, v in values.items() if k.startswith(start)}
        timing = {kind: {name: 1.0} for kind in ("training", "measuring")}
        new = {k: v for k, v in entry.items() if k not in ("half", "bundled")}
        settings = {"strengths": [0.1], "seeds": [seed], "repeated": [], "clip": "inf"}
        settings = {k: v for k, v in record["settings"].items() if k != "models"} | settings
        provenance = record["provenance"] | {"timing": {"began": "2026-11-26"} | timing}
        provenance = {k: v for k, v in provenance.items() if k != "merged"}
        folders.append(tmp_path / name)
        write_at_once(folders[-1] / "samples.safetensors", save(mine))
        weights = (recorded / "models" / f"{entry['name']}.safetensors").read_bytes()
        write_at_once(folders[-1] / "models" / f"{name}.safetensors", weights)
        content = {"schema": 1, "settings": settings, "provenance": provenance}
        write_record_json(folders[-1], content | {"models": [new | {"name": name, "seed": seed}]})
    joined = merge([recorded, *folders], tmp_path / "joined")
    pairs = [(model["strength"], model["seed"]) for model in joined["models"]]
    assert set(pairs) == before | {(0.1, 101), (0.1, 102)} and len(pairs) == len(before) + 2
    assert pairs == pairs_of(joined["settings"])
    kept = {model["name"]: model for model in joined["models"]}
    assert all(kept[model["name"]] == model for model in record["models"])
    assert load_samples(tmp_path / "joined", 0.1, 101)
    assert load_model(tmp_path / "joined", 0.1, 101)


def sweep_of(logs, images=40):
    """λ → (trainings, quantities, images), medians exp(logs), all images of a network alike."""
    return {s: np.exp(np.array(rows))[..., None].repeat(images, -1) for s, rows in logs.items()}


def test_middles_are_geometric_means_of_medians():
    values = np.array([[[1.0, 2.0, 4.0, 9.0]], [[12.0, 12.0, 12.0, np.nan]]])
    assert middles({0.0: values})[0, 0] == pytest.approx(6.0)  # of 3, the mean of 2 and 4, and 12


def test_medians_are_geometric_means_over_the_trainings_that_did_not_diverge():
    def network(strength, seed, median, diverged=None):
        found = {"median": median, "low": median / 2, "high": median * 3}
        found = {} if diverged else {"quantities": {"pgd": found}}
        return {"strength": strength, "seed": seed, "diverged": diverged} | found

    networks = network(1.0, 0, 5.0), network(0.0, 0, 2.0), network(0.0, 1, 8.0)
    middle, bars = medians({"models": [*networks, network(1.0, 1, 1.0, diverged=3)]}, "pgd")
    assert middle == pytest.approx([4, 5])
    assert bars == pytest.approx(np.array([[2, 2.5], [8, 10]]))


def test_an_interval_without_any_spread_is_a_point():
    sweep = sweep_of({0.0: [[0.0], [0.0]], 1.0: [[1.0]]})
    found = interval(sweep, lambda m: m[1, 0] / m[0, 0], 50)
    assert found == {"value": np.e, "low": np.e, "high": np.e, "trainings": 1}


def test_an_interval_over_trainings_has_the_width_of_their_spread():
    """Logarithms of many trainings, normal with deviation 0.1; a λ with one borrows it."""
    dice = np.random.default_rng(1)
    logs = {0.0: dice.normal(0, 0.1, (400, 1)), 1.0: [[1.0]], 2.0: dice.normal(0, 0.1, (4, 1))}
    found = interval(sweep_of(logs), lambda m: np.log(m[:, 0]), 2000)
    half = (np.array(found["high"]) - found["low"]) / 2
    expected = 1.96 * 0.1 / np.sqrt([400, 1, 4])
    assert half == pytest.approx(expected, rel=0.12)
    alone = interval(sweep_of({1.0: [[1.0]]}), lambda m: m[0, 0], 50)
    assert alone["low"] == alone["high"]  # nothing is known of the spread


def test_a_mean_of_two_or_three_trainings_has_not_too_narrow_an_interval():
    """Values lie nearer to their own mean than to the true one: √(k/(k−1)) makes up for it."""
    dice = np.random.default_rng(2)
    logs = {float(s): dice.normal(0, 0.1, (2 + s % 2, 1)) for s in range(60)}
    found = interval(sweep_of(logs, images=2), lambda m: np.log(m[:, 0]), 1000)
    half = (np.array(found["high"]) - found["low"]) / 2
    expected = 1.96 * 0.1 / np.sqrt([2 + s % 2 for s in range(60)])
    assert np.mean(half / expected) == pytest.approx(1, rel=0.1)


def test_an_interval_over_images_is_that_of_a_median():
    """Of n normal values the median has the deviation 1.2533/√n; images are drawn alike for all."""
    values = np.exp(np.random.default_rng(3).normal(0, 1, (1, 1, 900)))
    found = interval({0.0: values, 1.0: 3 * values}, lambda m: np.log(m[:, 0]), 2000)
    half = (np.array(found["high"]) - found["low"]) / 2
    assert half == pytest.approx(1.96 * 1.2533 / 30, rel=0.2)
    same = interval({0.0: values, 1.0: 3 * values}, lambda m: m[1, 0] / m[0, 0], 200)
    assert [same["low"], same["high"]] == pytest.approx([3, 3])


def test_verdicts():
    def found(low, high, trainings=3):
        return {"low": low, "high": high, "trainings": trainings}

    assert verdict([found(1.1, 2), found(1.2, 3)], above=1) == "reproduced"
    assert verdict([found(0.1, 0.9)], above=1) == "not reproduced"
    assert verdict([found(1.1, 2), found(0.9, 3)], above=1) == "undecided"
    assert verdict([found(1.1, 2, trainings=2)], above=1) == "undecided"
    assert verdict([found(1.1, 2), found(0.9, 3, trainings=1)], above=1) == "reproduced"


RHO = np.array([0.2, 0.3, 0.5, 0.9, 1.4])


def test_each_law_of_growth_finds_itself():
    made = {
        "power law": (2 * RHO**1.5, (2, 1.5)),
        "line": (-0.2 + 3 * RHO, (-0.2, 3)),
        "line from the floor": (np.hypot(0.4, -0.5 + 3 * RHO), (-0.5, 3)),
    }
    for name, (alpha, parameters) in made.items():
        found = growth_laws(RHO, alpha, floor=0.4)
        assert found[name]["parameters"] == pytest.approx(parameters, rel=1e-3), name
        assert found[name]["error"] < 1e-10 and found[name]["fitted"] == pytest.approx(alpha)
        others = [found[other]["error"] for other in made if other != name]
        assert min(others) > 1e-3
    law = growth_laws(RHO, 2 * RHO**1.5, floor=0.4)["line"]
    off = np.log(law["fitted"] / (2 * RHO**1.5))
    assert law["error"] == pytest.approx((off**2).sum()) and law["worst"] == abs(off).max()


def test_local_exponents():
    assert local_exponents(RHO, 7 * RHO**1.3) == pytest.approx(np.full(4, 1.3))
    assert slope(RHO, 7 * RHO**1.3) == pytest.approx(1.3)


def test_the_window_of_growth_ends_at_the_most_robust_network_and_might_end_elsewhere(tmp_path):
    distances = {0.0: [1.0], 0.1: [1.5, 1.6], 0.3: [1.62], 1.0: [1.6, 1.7], 3.0: [0.8]}
    values, models = {}, []
    for s, seeds in distances.items():
        for seed, d in enumerate(seeds):
            row = d * torch.linspace(0.9, 1.1, 21)
            values |= {f"strength-{s:g}-seed-{seed}/{name}": row.clone() for name in ATTACKS}
            models.append({"strength": s, "seed": seed, "diverged": None})
    (tmp_path / "samples.safetensors").write_bytes(save(values))
    write_record_json(tmp_path, {"schema": 1, "models": models})
    assert growth_window(tmp_path) == ([0.0, 0.1, 0.3, 1.0], [0.1, 0.3, 1.0])
    one = load_sweep(tmp_path, [0.1, 1.0], ["nearest_adversary", "pgd"], seed=1)
    assert {s: v.shape for s, v in one.items()} == {0.1: (1, 2, 21), 1.0: (1, 2, 21)}
    with pytest.raises(KeyError, match=r"strength-0\.3-seed-1"):
        load_sweep(tmp_path, [0.1, 0.3], ["pgd"], seed=1)


def test_a_thousand_classes():
    """The rival's place says which `top_k` is exact, and the bound holds for every photograph."""
    path = ROOT / "lessons" / "recorded" / "thousand-classes" / "measured.json"
    measured = json.loads(path.read_text(encoding="utf-8"))
    assert len({row["sha256"] for row in measured["photographs"]}) == 40
    assert len({row["label"] for row in measured["photographs"]}) == 29
    for row in measured["photographs"]:
        exact = row["linearized_robustness"]
        assert exact <= row["bound"] and row["rank_of_rival"] >= 1
        for k in (5, 20, 100):
            assert row[f"top_{k}"] >= exact * (1 - 1e-4)
            if row["rank_of_rival"] <= k:
                assert row[f"top_{k}"] == pytest.approx(exact, rel=1e-4)
        linear, bias = abs(row["homogeneous"]), abs(row["bias"])
        assert row["degree_of_homogeneity"] == pytest.approx(linear / (linear + bias), rel=1e-4)


def test_alignment_from_the_mean_beside_that_from_black():
    """Both from the same weights; that from black is the one of the record, up to half precision."""
    folder = ROOT / "lessons" / "recorded" / "from-the-mean"
    notes = json.loads((folder / "measured.json").read_text(encoding="utf-8"))
    values, _ = stored(folder / "samples.safetensors")
    assert set(values) == {f"{name}/{origin}" for name in notes for origin in ("black", "mean")}
    for name, found in notes.items():
        assert "dirty" not in found["made"]["code"]
        record, network = name.split("/")
        strength, seed = re.fullmatch(r"strength-(.+)-seed-(\d+)", network).groups()
        for origin in ("black", "mean"):
            assert found[origin] == pytest.approx(np.median(values[f"{name}/{origin}"]))
        there = load_samples(folder.parent / record, float(strength), int(seed))["alignment"]
        assert found["black"] == pytest.approx(np.median(there), rel=0.03)


def test_the_exchange_of_relu6():
    """The predictions give the accuracies, on the photographs of the record that it goes with."""
    recorded = ROOT / "lessons" / "recorded"
    measured = json.loads((recorded / "relu6" / "measured.json").read_text(encoding="utf-8"))
    assert "dirty" not in measured["made"]["code"]
    settings = load_record(recorded / "imagenette-base")["settings"]
    assert measured["data_sha256"] == settings["data_sha256"]
    values = load_samples(recorded / "imagenette-base", 0.0)
    labels = [int(k) for k in measured["labels"]]
    assert labels == values["label"].tolist() and len(labels) == measured["images"]
    for found in measured["networks"].values():
        hits = [int(k) == y for k, y in zip(found["predictions"], labels, strict=True)]
        assert found["accuracy"] == pytest.approx(np.mean(hits))
        right = found["accuracy_unseen"] * measured["unseen"]
        assert right == pytest.approx(round(right))
    after = measured["networks"]["ReLU, two plain epochs"]
    full = "".join(map(str, values["prediction"].tolist()))
    same = [one == other for one, other in zip(after["predictions"], full, strict=True)]
    assert np.mean(same) > 0.99  # half precision
    for name in ("alignment", "linearized_robustness"):
        median = np.median(values[name][: measured["measured"]])
        assert after[name] == pytest.approx(median, rel=0.05)  # half precision moves single ones


def test_measured_folders():
    """Those that hold what a script measured once, beside the records of runs."""
    folders = (ROOT / "lessons" / "recorded").glob("*/measured.json")
    assert sorted(path.parent.name for path in folders) == [
        "from-the-mean", "relu6", "thousand-classes",
    ]  # fmt: skip
