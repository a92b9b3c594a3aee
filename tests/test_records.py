"""The stored records: complete, in agreement with themselves, and with the networks they ship."""

import re
from pathlib import Path

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
    load_model,
    load_record,
    load_samples,
    medians,
    pairs_of,
    stored,
    summary,
    write_record_json,
)

ROOT = Path(__file__).parents[1]
FOLDERS = sorted(path.parent for path in (ROOT / "lessons" / "recorded").glob("*/record.json"))


@pytest.fixture(params=FOLDERS, ids=lambda folder: folder.name)
def folder(request):
    return request.param


def shipped(record):
    return [model for model in record["models"] if "half" in model]


def test_there_are_two_records():
    assert [folder.name for folder in FOLDERS] == ["mnist", "tiny-imagenet"]


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
        assert set(environment["packages"]) == set(PACKAGES)
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
    assert len(files) == len(shipped(load_record(folder))) >= 2
    assert sum(path.stat().st_size for path in files) < (4e6 if folder.name == "mnist" else 8e6)


def test_shipped_networks_give_the_numbers_noted_for_bundled_images(folder):
    """These need no download, so that this runs everywhere."""
    record = load_record(folder)
    x, y = bundled_images(record["settings"])
    for model in shipped(record):
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
    for model in shipped(record):
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
    entry = next(model for model in record["models"] if model["name"] == "strength-0.1-seed-0")
    values, _ = stored(recorded / "samples.safetensors")
    folders = []
    for seed in (1, 2):
        name = f"strength-0.1-seed-{seed}"
        mine = {k.replace(entry["name"], name): v for k, v in values.items() if entry["name"] in k}
        timing = {kind: {name: 1.0} for kind in ("training", "measuring")}
        new = {k: v for k, v in entry.items() if k not in ("half", "bundled")}
        settings = {"strengths": [0.1], "seeds": [seed], "repeated": [], "clip": "inf"}
        provenance = record["provenance"] | {"timing": {"began": "2026-11-26"} | timing}
        folders.append(tmp_path / name)
        write_at_once(folders[-1] / "samples.safetensors", save(mine))
        weights = (recorded / "models" / f"{entry['name']}.safetensors").read_bytes()
        write_at_once(folders[-1] / "models" / f"{name}.safetensors", weights)
        content = {"schema": 1, "settings": record["settings"] | settings, "provenance": provenance}
        write_record_json(folders[-1], content | {"models": [new | {"name": name, "seed": seed}]})
    for many, repeated in ((1, [0.0, 1.0]), (2, [0.0, 0.1, 1.0])):
        joined = merge([recorded, *folders[:many]], tmp_path / f"joined-{many}")
        assert joined["settings"]["strengths"] == record["settings"]["strengths"]
        assert joined["settings"]["seeds"] == [0, 1, 2]
        assert joined["settings"]["repeated"] == repeated
        assert len(joined["models"]) == len(record["models"]) + many
        assert ("models" in joined["settings"]) == (many == 1)  # then they fill no grid
        pairs = [(model["strength"], model["seed"]) for model in joined["models"]]
        assert pairs == pairs_of(joined["settings"])
        assert joined["provenance"]["command"] == record["provenance"]["command"]
        kept = {model["name"]: model for model in joined["models"]}
        assert all(kept[model["name"]] == model for model in record["models"])
        assert load_samples(tmp_path / f"joined-{many}", 0.1, 1)
        assert load_model(tmp_path / f"joined-{many}", 0.1, 1)
        assert medians(joined, "alignment")[0].tolist() == medians(record, "alignment")[0].tolist()
