"""The protocol on tiny data: records, resuming after SIGKILL, the command line."""

import hashlib
import json
import math
import os
import random
import re
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from PIL import Image, ImageOps
from safetensors.torch import load_file, save

from lesson_utils import data, measure, records
from lesson_utils.data import load_digits
from lesson_utils.experiments import PRESETS, command_line, export, images, merge, run
from lesson_utils.experiments.command_line import main
from lesson_utils.experiments.processes import share_cores
from lesson_utils.experiments.provenance import checksum_of_network
from lesson_utils.experiments.settings import RANGES
from lesson_utils.models import network_of
from lesson_utils.records import (
    bundled_images,
    growth_exponent,
    linearization_error,
    load_model,
    load_record,
    load_samples,
    medians,
    smallest_attack,
    summary,
    write_record_json,
)

RUN = sys.modules["lesson_utils.experiments.run"]  # the module: `run` is its function
ATTACKS = {"gradient", "pgd", "deepfool", "carlini_wagner", "minimal_l2"}
TINY = PRESETS["digits"].change(
    train_images=200,
    epochs=3,
    decay_every=2,
    strengths=(0.0, 0.1),
    images=20,
    attack_images=4,
    cw_rounds=2,
    cw_steps=10,
)
LEAST = TINY.change(
    train_images=60,
    epochs=2,
    strengths=(0.0,),
    images=6,
    attack_images=1,
    cw_rounds=1,
    cw_steps=2,
)


def without_timing(record):
    provenance = {k: v for k, v in record["provenance"].items() if k != "timing"}
    return {**record, "provenance": provenance}


def contents(folder):
    """Everything in a record but its timing and the state of the run."""
    files = sorted(path for path in folder.rglob("*.safetensors") if "state" not in path.parts)
    assert files
    tensors = {
        f"{path.relative_to(folder)}/{key}": value.numpy().tobytes()
        for path in files
        for key, value in load_file(path).items()
    }
    return without_timing(json.loads((folder / "record.json").read_text())), tensors


@pytest.fixture(scope="module")
def record(tmp_path_factory):
    folder = tmp_path_factory.mktemp("record")
    run(TINY, folder)
    return folder


def test_record_says_what_was_done(record):
    text = (record / "record.json").read_text()

    def refuse(word):
        raise AssertionError(f"{word} is no JSON")

    assert json.loads(text, parse_constant=refuse)["schema"] == records.SCHEMA
    found = load_record(record)
    assert found["settings"]["strengths"] == [0.0, 0.1]
    assert len(found["settings"]["data_sha256"]) == 64
    provenance = found["provenance"]
    (environment,) = provenance["environments"]
    assert environment["packages"]["torch"] == torch.__version__.split("+")[0]
    assert environment["threads"] == torch.get_num_threads()
    assert set(provenance["timing"]) == {"began", "training", "measuring"}
    assert [(m["strength"], m["seed"], m["diverged"]) for m in found["models"]] == [
        (0.0, 0, None),
        (0.1, 0, None),
    ]
    for model in found["models"]:
        assert len(model["losses"]) == 3
        assert 0 <= model["accuracy"] <= 1
        assert set(model["quantities"]) > ATTACKS | {"alignment", "linearized_robustness"}


def test_record_agrees_with_the_values_it_summarizes(record, digits):
    for model in load_record(record)["models"]:
        values = load_samples(record, model["strength"])
        assert set(values) == set(model["quantities"]) | {"label", "prediction", "runner_up"}
        assert torch.equal(values["label"], digits.y_test[:20])
        hits = (values["prediction"] == values["label"]).double().mean().item()
        assert model["accuracy"] == hits
        for name, found in model["quantities"].items():
            assert found == summary(values[name])
            assert found["images"] == (4 if name in ATTACKS else 20)


def test_medians_of_a_sweep_and_the_smallest_attack(record):
    middle, bars = medians(load_record(record), "minimal_l2")
    for k, strength in enumerate(TINY.sweep.strengths):
        values = load_samples(record, strength)
        found = summary(values["minimal_l2"])
        assert middle[k] == pytest.approx(found["median"])
        assert middle[k] - bars[0, k] == pytest.approx(found["low"])
        assert middle[k] + bars[1, k] == pytest.approx(found["high"])
        best = smallest_attack(values)
        assert all((best <= values[name]).all() for name in ATTACKS)
        assert best.min() > 0


def test_linearization_error_by_hand():
    near = torch.tensor([1.0, 2.0, 3.0, 4.0])
    values = {name: near + 1 for name in ATTACKS} | {"deepfool": near}
    values["linearized_robustness"] = torch.tensor([0.5, 6.0, 4.5, 8.0, 99.0])  # one not attacked
    found = linearization_error(values)
    assert (found["above"], found["ratio"]) == (0.75, 1.75)  # quotients 0.5, 1.5, 2, 3
    assert found["rank_correlation"] == pytest.approx(0.8)  # order 0, 2, 1, 3


def test_weights_of_the_record_give_its_numbers(record, digits):
    for strength in TINY.sweep.strengths:
        net, values = load_model(record, strength), load_samples(record, strength)
        again = measure(net, digits.x_test[:20])
        torch.testing.assert_close(values["alignment"], again.alignment)
        torch.testing.assert_close(values["linearized_robustness"], again.linearized_robustness)
        assert values["minimal_l2"].min() > 0
    with pytest.raises(FileNotFoundError, match=r"only of: strength-0-seed-0, strength-0\.1-s"):
        load_model(record, 5.0)
    with pytest.raises(FileNotFoundError, match="no finished record"):
        load_record(record / "models")


def test_record_of_another_version_is_refused(record, tmp_path):
    content = json.loads((record / "record.json").read_text())
    (tmp_path / "record.json").write_text(json.dumps({**content, "schema": 0}))
    with pytest.raises(ValueError, match="schema 0"):
        load_record(tmp_path)


def test_half_precision_copy(record, tmp_path):
    export(record, tmp_path / "copy", [0.1])
    copy, original = load_record(tmp_path / "copy"), load_record(record)
    half, on_digits = copy["models"][1].pop("half"), copy["models"][1].pop("bundled")
    assert copy == original
    assert on_digits["quantities"]["alignment"]["images"] == 500
    assert 0 <= on_digits["accuracy"] <= 1
    stored = load_file(tmp_path / "copy/models/strength-0.1-seed-0.safetensors")
    assert {value.dtype for value in stored.values()} == {torch.float16}
    assert next(load_model(tmp_path / "copy", 0.1).parameters()).dtype == torch.float32
    whole = original["models"][1]
    assert half["accuracy"] == pytest.approx(whole["accuracy"], abs=0.05)
    for name in ("alignment", "linearized_robustness"):
        before, after = whole["quantities"][name]["median"], half["quantities"][name]["median"]
        assert after == pytest.approx(before, rel=0.02)
        assert after != before
    with pytest.raises(FileNotFoundError, match="only of"):
        load_model(tmp_path / "copy", 0.0)
    assert load_samples(tmp_path / "copy", 0.0).keys() == load_samples(record, 0.0).keys()


def test_export_spares_what_is_there_and_refuses_what_it_cannot_copy(least, tmp_path, monkeypatch):
    before = contents(least)
    for target in (least, f"{least}/../{least.name}", least / "state"):
        with pytest.raises(ValueError, match="not empty: delete it, or choose another"):
            export(least, target, [0.0])
    assert contents(least) == before
    with pytest.raises(ValueError, match=r"no network of λ = 7.*it has λ = 0\.0, 0\.1"):
        export(least, tmp_path / "copy", [0.0, 7.0])
    real = images.load_digits

    def others():
        found = real()
        return found._replace(x_test=found.x_test.flip(0))

    monkeypatch.setattr(images, "load_digits", others)
    with pytest.raises(ValueError, match="are not those that"):
        export(least, tmp_path / "copy", [0.0])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["least"]  # nothing half done


def test_an_exported_copy_is_not_continued(least, tmp_path):
    export(least, tmp_path / "copy", [0.1])
    export(least, tmp_path / "bare", [])
    for name, message in (("copy", "exported copy"), ("bare", "without the weights of")):
        before = sorted((tmp_path / name).rglob("*"))
        with pytest.raises(ValueError, match=message):
            run(LEAST.change(strengths=(0.0, 0.1)), tmp_path / name)
        assert sorted((tmp_path / name).rglob("*")) == before


def test_finished_record_is_not_computed_again(record):
    before = contents(record)
    stamps = {path: path.stat().st_mtime_ns for path in (record / "models").iterdir()}
    run(TINY, record)
    assert contents(record) == before
    assert stamps == {path: path.stat().st_mtime_ns for path in (record / "models").iterdir()}


def test_processes_side_by_side_take_different_models(record, tmp_path):
    """A second process leaves the model alone that the first is at, and waits for it at the end."""
    begun = tmp_path / "state" / "strength-0-seed-0.lock"
    begun.parent.mkdir()
    arguments = json.dumps(TINY.to_table()), str(tmp_path)
    script = """
import json, sys
from lesson_utils.experiments import Settings, run
run(Settings.from_table(json.loads(sys.argv[1])), sys.argv[2])
"""
    with FileLock(begun):
        other = subprocess.Popen([sys.executable, "-c", script, *arguments])
        last = tmp_path / "state" / "strength-0.1-seed-0.samples.safetensors"
        deadline = time.monotonic() + 120
        while not last.exists():
            assert other.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
        time.sleep(0.2)
        assert other.poll() is None
        assert not (tmp_path / "models" / "strength-0-seed-0.safetensors").exists()
    assert other.wait(120) == 0
    assert contents(tmp_path) == contents(record)


def test_other_settings_or_images_are_refused(record, tmp_path, made_up_mnist):
    with pytest.raises(ValueError, match=r"other settings \(epochs = 3\)"):
        run(TINY.change(epochs=4), record)
    folder = tmp_path / "mnist"
    tiny = TINY.change(data="mnist", train_images=40, images=10, epochs=1, strengths=(0.0,))
    run(tiny, folder)
    raw, _ = made_up_mnist
    path = raw / "t10k-labels-idx1-ubyte"
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([(content[-1] + 1) % 10]))
    data.MNIST_FILES[path.name] = hashlib.sha256(path.read_bytes()).hexdigest()
    with pytest.raises(ValueError, match="data_sha256"):
        run(tiny, folder)


def test_a_diverged_model_is_recorded_and_the_sweep_goes_on(tmp_path):
    tiny = TINY.change(strengths=(1e30, 0.0))
    found = run(tiny, tmp_path)
    bad, good = found["models"]
    assert bad["diverged"] is not None
    assert "accuracy" not in bad
    assert good["diverged"] is None
    assert good["accuracy"] > 0
    with pytest.raises(KeyError, match="diverged"):
        load_samples(tmp_path, 1e30)
    with pytest.raises(ValueError, match="diverged in epoch"):
        load_model(tmp_path, 1e30)


def test_infinite_scores_are_a_divergence_too(tmp_path):
    """The weights are finite, but the scores of the images are not."""
    found = run(LEAST.change(strengths=(1234567.0, 0.0)), tmp_path)
    bad, good = found["models"]
    assert (bad["diverged"], len(bad["losses"])) == (1, 1)
    weights = load_file(tmp_path / "models" / f"{bad['name']}.safetensors")
    assert all(value.isfinite().all() for value in weights.values())
    assert good["diverged"] is None
    assert "diverged in epoch 1" in records.table(found)


# --- a folder that is continued, with the same settings or with others -----------


@pytest.fixture(scope="module")
def least_made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made") / "least"
    run(LEAST.change(strengths=(0.0, 0.1)), folder)
    return folder


@pytest.fixture
def least(least_made, tmp_path):
    """A folder with the record of two networks that cost next to nothing; a copy for each test."""
    return Path(shutil.copytree(least_made, tmp_path / "least"))


def test_weights_of_another_recipe_are_refused_whatever_was_deleted(least):
    other = LEAST.change(epochs=9, learning_rate=0.5)
    before = contents(least)
    shutil.rmtree(least / "state")
    with pytest.raises(ValueError, match=r"other settings \(epochs = 2, learning_rate = 0\.03\)"):
        run(other, least)
    assert contents(least) == before
    (least / "record.json").unlink()
    (least / "samples.safetensors").unlink()
    with pytest.raises(ValueError, match=r"strength-0-seed-0\.safetensors is of .*epochs = 2"):
        run(other, least)
    with pytest.raises(ValueError, match="train_sha256"):
        run(LEAST.change(train_images=61), least)


def test_weights_under_another_name_are_refused(least):
    models = least / "models"
    (models / "strength-0-seed-0.safetensors").rename(models / "strength-5-seed-0.safetensors")
    with pytest.raises(ValueError, match=r"strength-5-seed-0.* another network than its name"):
        run(LEAST.change(strengths=(0.1, 5.0)), least)


def test_strengths_of_one_name_are_not_confused(tmp_path):
    run(LEAST.change(strengths=(1.0000001,)), tmp_path)
    with pytest.raises(ValueError, match=r"strength = 1\.0000001"):
        run(LEAST.change(strengths=(1.0,)), tmp_path)


def test_without_its_state_a_record_stays_to_the_last_bit(least, monkeypatch):
    """Nothing is trained or measured again; code, machine and times are those of then."""
    before = (least / "record.json").read_bytes(), contents(least)
    shutil.rmtree(least / "state")
    for name in ("train", "measure"):
        monkeypatch.setattr(RUN, name, None)
    run(LEAST.change(strengths=(0.0, 0.1)), least)
    assert ((least / "record.json").read_bytes(), contents(least)) == before


@pytest.mark.parametrize("with_state", [True, False])
def test_a_grown_folder_has_the_record_of_one_that_began_so(tmp_path, with_state):
    final = LEAST.change(
        strengths=(0.0, 0.05, 0.1), seeds=(0, 3), repeated=(0.05,), attack_images=2
    )
    run(final, tmp_path / "whole")
    for change in (
        {"strengths": (0.1,)},
        {"strengths": (0.0,)},
        {"strengths": (0.05,), "seeds": (0, 3), "repeated": (0.05,)},
        {"strengths": (0.05,), "attack_images": 2},
    ):
        found = run(LEAST.change(**change), tmp_path / "grown")
        if not with_state:
            shutil.rmtree(tmp_path / "grown" / "state")
    assert len(found["models"]) == 4
    assert contents(tmp_path / "grown") == contents(tmp_path / "whole")
    with pytest.raises(ValueError, match="attacks on 2 images: ask for at least so many"):
        run(LEAST, tmp_path / "grown")


def test_networks_that_are_there_are_not_trained_again(least):
    models = least / "models"
    stamps = {path: path.stat().st_mtime_ns for path in models.iterdir()}
    run(LEAST.change(strengths=(0.2,)), least)
    assert stamps == {path: path.stat().st_mtime_ns for path in stamps}
    assert [m["strength"] for m in load_record(least)["models"]] == [0.0, 0.1, 0.2]


def test_a_record_lists_what_is_there_whatever_another_process_asked_for(least):
    path = least / "state" / "run.json"
    state = json.loads(path.read_text())
    state["settings"] |= {"strengths": [5.0, 6.0], "seeds": [7]}
    path.write_text(json.dumps(state))
    found = run(LEAST.change(strengths=(0.1,)), least)
    assert (found["settings"]["strengths"], found["settings"]["seeds"]) == ([0.0, 0.1], [0])
    assert len(found["models"]) == 2


def test_values_that_were_deleted_are_measured_again(least, least_made):
    shutil.rmtree(least / "state")
    (least / "samples.safetensors").unlink()
    run(LEAST.change(strengths=(0.0, 0.1)), least)
    assert contents(least) == contents(least_made)


def test_what_is_measured_may_change_until_something_is(tmp_path, monkeypatch):
    """Hours of training are not lost because the attacks asked for would take days."""

    def stopped(*args, **options):
        raise KeyboardInterrupt

    many = LEAST.change(attack_images=6, cw_steps=1000, images=300)
    with monkeypatch.context() as patched:
        patched.setattr(RUN, "measure", stopped)
        with pytest.raises(KeyboardInterrupt):
            run(many, tmp_path)
    trained = (tmp_path / "models" / "strength-0-seed-0.safetensors").read_bytes()
    with pytest.raises(ValueError, match="epochs = 2"):
        run(LEAST.change(epochs=3), tmp_path)
    found = run(LEAST, tmp_path)
    assert (tmp_path / "models" / "strength-0-seed-0.safetensors").read_bytes() == trained
    assert (found["settings"]["images"], found["settings"]["cw_steps"]) == (6, 2)
    with pytest.raises(ValueError, match="cw_steps = 2"):
        run(LEAST.change(cw_steps=3), tmp_path)


def test_networks_that_fill_no_grid_are_listed(least):
    found = run(LEAST.change(strengths=(0.1,), seeds=(5,)), least)
    pairs = [(m["strength"], m["seed"]) for m in found["models"]]
    assert pairs == [(0.0, 0), (0.1, 0), (0.1, 5)]
    assert found["settings"]["seeds"] == [0, 5]
    assert found["settings"]["repeated"] == [0.1]
    found = run(LEAST.change(strengths=(0.7,), seeds=(5,)), least)
    pairs = [[m["strength"], m["seed"]] for m in found["models"]]
    assert pairs == found["settings"]["models"] == [[0.0, 0], [0.1, 0], [0.1, 5], [0.7, 5]]
    assert len(medians(found, "alignment")[0]) == 3  # one for each λ


def test_idle_options_and_places_do_not_matter(least):
    before = contents(least)
    idle = {"workers": 3, "width": 32, "size": 99, "freeze_statistics": True}
    run(LEAST.change(strengths=(0.0, 0.1), **idle), least)
    after = contents(least)
    for name in idle:
        after[0]["settings"][name] = before[0]["settings"][name]
    assert after == before


def test_another_network_in_the_place_of_one_is_measured_anew(least):
    """Its values would be those of weights that are no more."""
    path = least / "models" / "strength-0-seed-0.safetensors"
    weights, notes = records.stored(path)
    path.write_bytes(save({k: 2 * v for k, v in weights.items()}, metadata=notes))
    found = run(LEAST.change(strengths=(0.0, 0.1)), least)
    again = measure(load_model(least, 0.0), load_digits().x_test[:6])
    expected = pytest.approx(summary(again.alignment), rel=1e-5)  # measured channels last
    assert found["models"][0]["quantities"]["alignment"] == expected


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("models/strength-0-seed-0.safetensors", "is damaged"),
        ("state/strength-0-seed-0.samples.safetensors", "is damaged"),
        ("state/run.json", "is damaged"),
        ("record.json", "is damaged"),
    ],
)
def test_damaged_files_are_named_with_the_remedy(least, least_made, name, message):
    path = least / name
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ValueError, match=f"{re.escape(str(path))} {message} .*delete it"):
        run(LEAST.change(strengths=(0.0, 0.1)), least)
    path.unlink()
    if name.startswith("models"):  # the record speaks of it
        (least / "record.json").unlink()
    run(LEAST.change(strengths=(0.0, 0.1)), least)
    assert contents(least) == contents(least_made)


def test_a_damaged_checkpoint_is_named(tmp_path):
    path = tmp_path / "state" / "strength-0-seed-0.training.safetensors"
    path.parent.mkdir()
    path.write_bytes(b"half a file")
    with pytest.raises(ValueError, match=r"training\.safetensors is damaged .*delete it"):
        run(LEAST, tmp_path)


def test_damaged_records_are_named(least):
    for name, read in (
        ("record.json", load_record),
        ("samples.safetensors", lambda folder: load_samples(folder, 0.0)),
        ("models/strength-0-seed-0.safetensors", lambda folder: load_model(folder, 0.0)),
    ):
        whole = (least / name).read_bytes()
        (least / name).write_bytes(whole[:99])
        with pytest.raises(ValueError, match=f"{name} is damaged"):
            read(least)
        (least / name).write_bytes(whole)
    (least / "record.json").write_text("[]")
    with pytest.raises(ValueError, match="is damaged"):
        load_record(least)


def test_a_machine_is_named_when_it_has_computed_something(tmp_path, monkeypatch):
    def fails(*args, **options):
        raise RuntimeError("out of memory")

    with monkeypatch.context() as patched:
        patched.setattr("lesson_utils.experiments.train._epoch", fails)
        with pytest.raises(RuntimeError, match="out of memory"):
            run(LEAST, tmp_path)
    state = json.loads((tmp_path / "state" / "run.json").read_text())
    assert state["environments"] == []
    assert len(run(LEAST, tmp_path)["provenance"]["environments"]) == 1


def test_commands_that_let_a_folder_grow_are_kept(tmp_path):
    run(LEAST, tmp_path, command="one")
    run(LEAST, tmp_path, command="the same again")
    found = run(LEAST.change(strengths=(0.1,)), tmp_path, command="two")
    assert found["provenance"]["command"] == "one\ntwo"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data": "letters"}, "digits, mnist"),
        ({"strengths": ()}, "at least one"),
        ({"repeated": (7.0,)}, "repeated must be"),
        ({"epochs": 0}, "epochs must be at least 1"),
        ({"epochs": 2.5}, "epochs must be a whole number"),
        ({"epochs": True}, "epochs must be a whole number"),
        ({"attack_images": 21}, "attack_images"),
        ({"images": 501}, "500 test images"),
        ({"train_images": 0}, "train_images must be at least 1"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"cw_rounds": 0}, "cw_rounds must be at least 1"),
        ({"cw_steps": -1}, "cw_steps must be at least 1"),
        ({"clip": 0.0}, "clip must be more than 0"),
        ({"clip": -1.0}, "clip must be more than 0"),
        ({"clip": math.nan}, "clip must be more than 0"),
        ({"decay_factor": -1.0}, "decay_factor must be"),
        ({"decay_factor": 1.5}, "decay_factor must be"),
        ({"learning_rate": -0.1}, "learning_rate must be"),
        ({"learning_rate": math.inf}, "learning_rate must be"),
        ({"optimizer": "lbfgs"}, "optimizer must be sgd or adam, got lbfgs"),
        ({"score_scale": 0.0}, "score_scale must be"),
        ({"learning_rate": "fast"}, "learning_rate must be a number"),
        ({"momentum": 1.0}, "momentum must be"),
        ({"weight_decay": -1e-6}, "weight_decay must be"),
        ({"strengths": (0.0, math.nan)}, "strengths must be finite"),
        ({"strengths": (0.0, math.inf)}, "strengths must be finite"),
        ({"strengths": (0.0, -1.0)}, "strengths must be finite"),
        ({"strengths": (1.0000001, 1.0000004)}, "strengths must be different"),
        ({"strengths": (0.1, 0.0, 0.1)}, "strengths must be different"),
        ({"strengths": (0.0, -0.0)}, "strengths must be different"),
        ({"repeated": (0.0, 0.0)}, "repeated must be different"),
        ({"seeds": (0, 0)}, "seeds must be different"),
        ({"seeds": (0, -1)}, "seeds must be"),
        ({"seeds": (0.5,)}, "seeds must be a whole number"),
        ({"augment": "no"}, "augment must be of type bool"),
        ({"workers": -1}, "workers must be at least 0"),
        ({"classes": 1}, "classes must be 0"),
        ({"network": "net"}, "network must be smallnet, efficientnet-lite0, resnet18"),
        ({"network": "resnet17"}, "network must be smallnet, efficientnet-lite0, resnet18"),
        ({"network": "resnet18"}, "network must be smallnet for digits"),
        ({"width": 4}, "width must be at least 8"),
        ({"weights": "pretrained"}, "weights are pretrained for residual"),
        ({"weights": "nowhere.safetensors"}, "no file of weights nowhere"),
        ({"weights": __file__}, f"{__file__} is no whole file of weights by torch.save"),
    ],
)
def test_settings_are_checked_before_anything_is_done(change, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        run(TINY.change(**change), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_every_number_of_the_settings_has_a_range():
    table = TINY.to_table()
    numbers = {name for name, value in table.items() if type(value) in (int, float)}
    named = {name for _, names in RANGES.values() for name in names}
    assert named == numbers | {"strengths", "seeds", "optimizer", "network"}


def test_presets_pass_their_own_check(tmp_path):
    for name, preset in PRESETS.items():
        complete = preset.change(data=str(tmp_path) if name == "imagenet" else preset.data.data)
        if preset.training.freeze_statistics and not preset.network.weights:
            with pytest.raises(ValueError, match=r"freeze_statistics keeps .* name the weights"):
                complete.check()
            complete = complete.change(weights="base.safetensors")
        complete.check()


def test_pretrained_weights_exist_for_some_networks_only(photographs):
    fits = PRESETS["imagenet"].change(data=str(photographs))
    fits.check()
    for change in ({"width": 32}, {"size": 64}, {"classes": 20}, {"network": "smallnet"}):
        with pytest.raises(ValueError, match="weights are pretrained for residual networks"):
            fits.change(**change).check()


def test_without_foolbox_or_device_nothing_is_done(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="device 'meta' cannot be used"):
        run(TINY, tmp_path / "out", device="meta")
    with pytest.raises(ValueError, match="device 'toaster' cannot be used"):
        run(TINY, tmp_path / "out", device="toaster")
    monkeypatch.setitem(sys.modules, "foolbox.attacks", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'foolbox"):
        run(TINY, tmp_path / "out")
    assert not (tmp_path / "out").exists()


TEN = (
    *("n01440764", "n02102040", "n02979186", "n03000684", "n03028079"),
    *("n03394916", "n03417042", "n03425413", "n03445777", "n03888257"),
)
"""The wnids of Imagenette."""


@pytest.fixture
def photographs(tmp_path, monkeypatch):
    """Tiny ImageNet's layout: 20 classes of one image each to train and to test, and a grey one.

    Beside it Imagenette: one image of each class in each split, three of them from ImageNet's validation.
    """
    root, rows = tmp_path / "tiny-imagenet-200", []
    names = [f"n{k:02}" for k in range(20)]
    for k, name in enumerate(names):
        for path in (
            root / "train" / name / "images" / f"{name}_0.JPEG",
            root / "val" / "images" / f"val_{k}.JPEG",
        ):
            path.parent.mkdir(parents=True, exist_ok=True)
            noise = Image.effect_noise((64, 64), 80)
            (noise if k == 3 else ImageOps.colorize(noise, "black", (255, 12 * k, 99))).save(path)
        rows.append(f"val_{k}.JPEG\t{name}\t0\t0\t62\t62\n")
    (root / "val" / "val_annotations.txt").write_text("".join(rows))
    (root / "wnids.txt").write_text("\n".join(names))
    for k, wnid in enumerate(TEN):
        for split in ("train", "val"):
            kind = "ILSVRC2012_val" if split == "val" and k < 3 else wnid
            path = tmp_path / "imagenette2-160" / split / wnid / f"{kind}_{k:08}.JPEG"
            path.parent.mkdir(parents=True)
            Image.effect_noise((60, 40), 80).save(path)
    monkeypatch.setenv("LESSONS_DATA", str(tmp_path))
    return root


def start_of(photographs, settings, classes=20):
    """A file of weights to start from, beside the photographs; the network is not trained."""
    path = photographs.parent / "start.safetensors"
    torch.manual_seed(0)
    start = network_of(settings.to_table() | {"classes": classes})
    records.store(path, start.state_dict(), {})
    return str(path)


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_runs_from_the_command_line(name, tmp_path, made_up_mnist, photographs):
    preset = PRESETS[name]
    few = [str(strength) for strength in preset.sweep.strengths[:2]]
    options = ["--train-images", "40", "--images", "6", "--attack-images", "1", "--epochs", "1"]
    options += ["--cw-rounds", "1", "--cw-steps", "2", "--quiet"]
    if preset.network.network == "smallnet":
        options += ["--seeds", "0", "4", "--strengths", *few, "--repeated", few[0]]
    else:  # takes longer
        few = few[:1]
        options += ["--strengths", *few, "--seeds", "0", "--repeated", *few]
        options += ["--width", "8", "--batch-size", "10", "--size", "32"]
    if name == "imagenet":  # its pretrained weights are not here, and 224 pixels take long
        options += ["--data", str(photographs), "--network", "resnet18"]
        options += ["--size", "136", "--workers", "1"]
        preset = preset.change(network="resnet18")
    classes = 20 if "tiny" in name or name == "imagenet" else 10
    if preset.training.freeze_statistics:
        small = preset.change(width=8, size=136 if name == "imagenet" else 32)
        options += ["--weights", start_of(photographs, small, classes)]
    main([name, "--out", str(tmp_path / "out"), *options])
    found = load_record(tmp_path / "out")
    trained = [(float(few[0]), 0), (float(few[-1]), 0), (float(few[0]), 4)]
    trained = trained if preset.network.network == "smallnet" else trained[:1]
    assert [(m["strength"], m["seed"]) for m in found["models"]] == trained
    assert found["settings"]["learning_rate"] == preset.training.learning_rate
    command = found["provenance"]["command"]
    assert command.startswith(f"python -m lesson_utils.experiments {name} --out FOLDER")
    assert "--epochs 1" in command
    main(["export", str(tmp_path / "out"), str(tmp_path / "copy"), "--strengths", few[-1]])
    assert found["settings"]["classes"] == classes
    if preset.data.data == "imagenette":
        unseen, label = (
            load_samples(tmp_path / "out", float(few[0]))[k] for k in ("unseen", "label")
        )
        assert unseen.sum() <= 3 and unseen.tolist() == (label < 3).tolist()
    images, _ = bundled_images(found["settings"])
    logits = load_model(tmp_path / "copy", float(few[-1]))(images[:2])
    assert logits.shape == (2, classes)


def test_unseen_photographs_are_known_among_a_part_of_the_classes_too(photographs):
    part = PRESETS["imagenette"].change(classes=5, size=32, images=5, attack_images=1)
    data, _ = images.open_data(part)
    _, label, unseen = data.test.tensors
    assert unseen.tolist() == (label < 2).tolist()  # of every second class, the first and the third


@pytest.mark.parametrize("change", [{"size": 32}, {"size": 136}, {"size": 32, "classes": 5}])
def test_imagenette_unpacked_in_part_is_refused(photographs, change):
    for split in ("train", "val"):
        shutil.rmtree(photographs.parent / "imagenette2-160" / split / TEN[4])
    part = PRESETS["imagenette"].change(images=5, attack_images=1, **change)
    message = (
        "imagenette2-160 has 9 of the 10 classes of Imagenette: .* Delete this folder, and unpack"
    )
    with pytest.raises(ValueError, match=message):
        images.open_data(part)


def tiny_photographs(photographs, **change):
    few = {"images": 8, "attack_images": 1, "cw_rounds": 1, "cw_steps": 2, "epochs": 1, "size": 32}
    preset = PRESETS["tiny-imagenet-cpu"].change(width=8, batch_size=6, strengths=(0.1,))
    settings = preset.change(**few | change)
    return settings.change(weights=change.get("weights") or start_of(photographs, settings))


def test_copies_start_from_the_named_weights(photographs, tmp_path):
    base = tmp_path / "base"
    run(tiny_photographs(photographs, seeds=(3,)), base)
    weights = base / "models" / "strength-0.1-seed-3.safetensors"
    still = tiny_photographs(photographs, weights=str(weights), learning_rate=1e-30)
    found = run(still, tmp_path / "copies")
    start, copy = load_model(base, 0.1, 3), load_model(tmp_path / "copies", 0.1)
    for name, value in copy.state_dict().items():
        torch.testing.assert_close(value, start.state_dict()[name], msg=name)
    assert found["settings"]["weights_sha256"] == checksum_of_network(start)
    # A base that was trained again, on another machine, notes another time: the weights count.
    values, notes = records.stored(weights)
    records.store(weights, values, notes | {"history": "{}"})
    assert run(still, tmp_path / "copies") == found
    weights.write_bytes((tmp_path / "copies/models/strength-0.1-seed-0.safetensors").read_bytes())
    with pytest.raises(ValueError, match="weights_sha256"):
        run(still, tmp_path / "copies")


def test_scores_to_start_from_can_be_small(photographs, tmp_path):
    still = tiny_photographs(photographs, learning_rate=1e-30)
    run(still, tmp_path / "large")
    run(still.change(score_scale=0.25), tmp_path / "small")
    large, small = load_model(tmp_path / "large", 0.1), load_model(tmp_path / "small", 0.1)
    x = torch.rand(4, 3, 32, 32)
    torch.testing.assert_close(small(x), large(x) / 4)
    with pytest.raises(ValueError, match=r"other settings \(score_scale = 0.25"):
        run(still.change(score_scale=0.5), tmp_path / "small")
    with pytest.raises(ValueError, match="score_scale"):
        run(still, tmp_path / "small")


def test_finished_folders_do_not_need_the_base_weights_or_the_place_of_the_data(
    photographs, tmp_path
):
    base, out = tmp_path / "base", tmp_path / "out"
    run(tiny_photographs(photographs), base)
    weights = base / "models" / "strength-0.1-seed-0.safetensors"
    settings = tiny_photographs(photographs, weights=str(weights), data=str(photographs))
    before = run(settings, out)
    weights.unlink()
    moved = photographs.rename(tmp_path / "moved")
    found = run(settings.change(data=str(moved), workers=2, attack_images=2), out)
    assert found["settings"]["data"] == str(moved)
    assert found["settings"]["weights_sha256"] == before["settings"]["weights_sha256"]
    with pytest.raises(ValueError, match="no file of weights"):
        run(settings.change(data=str(moved), strengths=(0.2,), attack_images=2), out)
    again = moved.rename(photographs)
    with pytest.raises(ValueError, match=r"moved is not there: .*\(--data\)"):
        export(out, tmp_path / "copy", [0.1])
    export(out, tmp_path / "copy", [0.1], data=again)
    assert load_model(tmp_path / "copy", 0.1)


def test_some_images_of_all_classes_are_measured(photographs, tmp_path):
    run(tiny_photographs(photographs, images=20), tmp_path / "all")
    run(tiny_photographs(photographs), tmp_path / "some")
    every, some = (load_samples(tmp_path / name, 0.1)["label"] for name in ("all", "some"))
    assert sorted(every.tolist()) == list(range(20))
    assert some.tolist() == every[:8].tolist() != sorted(some.tolist())
    with pytest.raises(ValueError, match="20 images in val/, fewer than 21"):
        run(tiny_photographs(photographs, images=21), tmp_path / "none")


def test_large_photographs_give_the_record_of_their_names(photographs, tmp_path):
    large = tiny_photographs(photographs, data=str(photographs), size=136, epochs=1)
    found = run(large, tmp_path / "out")
    assert found["settings"]["classes"] == 20
    assert run(large, tmp_path / "out") == found
    first = photographs / "train" / "n00" / "images" / "n00_0.JPEG"
    first.rename(first.with_name("other.JPEG"))
    with pytest.raises(ValueError, match="data_sha256"):
        run(large, tmp_path / "out")


def test_two_processes_make_the_record_of_one(photographs, tmp_path):
    """Without random cuts. float32, trained twice by double backpropagation: 3 % apart at most."""
    command = ["tiny-imagenet-cpu", "--width", "8", "--batch-size", "6", "--strengths", "0", "0.1"]
    command += ["--epochs", "2", "--images", "8", "--attack-images", "1", "--cw-rounds", "1"]
    small = PRESETS["tiny-imagenet-cpu"].change(width=8, size=32)
    command += ["--cw-steps", "2", "--size", "32", "--quiet"]
    command += ["--weights", start_of(photographs, small), "--out"]
    main([*command, str(tmp_path / "one")])
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    launch += ["-m", "lesson_utils.experiments", *command, str(tmp_path / "two")]
    done = subprocess.run(launch, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    one, two = load_record(tmp_path / "one"), load_record(tmp_path / "two")
    assert [record["provenance"]["environments"][0]["processes"] for record in (one, two)] == [1, 2]
    assert one["settings"] == two["settings"]
    for alone, shared in zip(one["models"], two["models"], strict=True):
        assert shared["losses"] == pytest.approx(alone["losses"], rel=0.01)
        for name in ("alignment", "linearized_robustness"):
            median = alone["quantities"][name]["median"]
            assert shared["quantities"][name]["median"] == pytest.approx(median, rel=0.03)


def test_folders_of_photographs_are_looked_through(photographs, capsys):
    main(["check-data", str(photographs)])
    shown = capsys.readouterr().out
    rows = [line.split() for line in shown.splitlines()]
    assert rows[1:3] == [[split, "20", "20", "1", "…", "1"] for split in ("train", "val")]
    assert "modes: RGB 38, L 2" in shown
    assert "problems: 0" in shown and "cannot be read: 0" in shown


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--strengths", "0", "nan"], "strengths must be finite and at least 0"),
        (["--strengths", "-1"], "strengths must be finite and at least 0"),
        (["--seeds", "-1"], "seeds must be"),
        (["--learning-rate", "-1"], "learning_rate must be"),
        (["--network", "lenet"], "network must be smallnet"),
        (["--data", "/nowhere"], "data must be digits"),
        (["--device", "cuda:7"], "device 'cuda:7' cannot be used"),
        (["--weights", "/nowhere.pt"], "no file of weights /nowhere.pt"),
    ],
)
def test_errors_of_the_user_are_one_line(words, message, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["digits", "--out", str(tmp_path / "out"), *words])
    shown = capsys.readouterr()
    assert stop.value.code == 2
    assert message in shown.err
    assert shown.err.count("\n") == 1 and "Traceback" not in shown.err
    assert not (tmp_path / "out").exists()


def test_errors_of_other_commands_are_one_line(least, tmp_path, capsys):
    nowhere = str(tmp_path / "nowhere")
    for words in (
        ["export", nowhere, str(tmp_path / "copy"), "--strengths", "0"],
        ["export", str(least), str(tmp_path / "copy"), "--strengths", "7"],
        ["merge", str(least), nowhere, "--out", str(tmp_path / "copy")],
    ):
        with pytest.raises(SystemExit) as stop:
            main(words)
        assert stop.value.code == 2
        assert capsys.readouterr().err.count("\n") == 1
        assert not (tmp_path / "copy").exists()


def test_errors_of_ours_keep_their_traceback(tmp_path, monkeypatch):
    def fails(*args, **options):
        return int("no number")

    monkeypatch.setattr(RUN, "train", fails)
    with pytest.raises(ValueError, match="invalid literal"):
        main(["digits", "--out", str(tmp_path / "out")])


def test_ctrl_c_says_how_to_go_on(tmp_path, monkeypatch, capsys):
    def stopped(*args, **options):
        raise KeyboardInterrupt

    words = ["digits", "--out", str(tmp_path / "my out"), "--epochs", "3"]
    monkeypatch.setattr(RUN, "train", stopped)
    with pytest.raises(SystemExit) as stop:
        main(words)
    assert stop.value.code == 130
    last = capsys.readouterr().err.splitlines()[-1]
    command = last.split("to continue: python -m lesson_utils.experiments ")[1]
    assert shlex.split(command) == words


def test_a_run_says_what_it_will_do_and_what_came_out(tmp_path, capsys):
    command = ["digits", "--train-images", "60", "--epochs", "2", "--images", "6"]
    command += ["--attack-images", "1", "--cw-rounds", "1", "--cw-steps", "2"]
    out = tmp_path / "out"
    main([*command, f"--out={out}", "--strengths", "0", "0.1"])
    shown = capsys.readouterr()
    assert "2 networks (smallnet, λ = 0, 0.1), 0 of them trained already." in shown.out
    assert f"Folder: {out}. Ctrl-C stops, and the same command continues." in shown.out
    assert "(h:min:s) of training are left" in shown.out
    assert "measuring strength-0.1-seed-0" in shown.err
    record = load_record(out)
    assert records.table(record) in shown.out
    assert f"Next: python -m lesson_utils.experiments export {out} " in shown.out
    assert record["provenance"]["command"].endswith("--out=FOLDER --strengths 0 0.1")
    main([*command, f"--out={out}", "--strengths", "0", "0.1", "--quiet"])
    assert capsys.readouterr().out == ""
    lines = records.table(record).splitlines()
    for line, model in zip(lines[1:], record["models"], strict=True):
        names = "alignment", "linearized_robustness", "minimal_l2"
        found = [model["quantities"][name]["median"] for name in names]
        expected = [model["strength"], model["seed"], model["accuracy"], *found]
        assert [float(word) for word in line.split()] == pytest.approx(expected, rel=0.005)


def test_only_the_paths_of_record_and_cache_are_hidden(monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(
        command_line, "run", lambda settings, out, **options: asked.append((settings, options))
    )
    for words, expected in (
        (["digits", "--out", "digits"], "digits --out FOLDER"),
        (["digits", "--out=a b", "--quiet"], "digits --out=FOLDER --quiet"),
        (["digits", "--strengths", "1", "--out", "1"], "digits --strengths 1 --out FOLDER"),
        (["digits", "--cache=c", "--out", "o"], "digits --cache=FOLDER --out FOLDER"),
    ):
        main([*words, "--quiet"])
        _, options = asked[-1]
        assert options["command"] == f"python -m lesson_utils.experiments {expected} --quiet"


def test_switches_can_be_given_both_values(monkeypatch):
    asked = []
    monkeypatch.setattr(command_line, "run", lambda settings, *rest, **more: asked.append(settings))
    for preset in ("tiny-imagenet-cpu", "digits"):
        for value in (True, False):
            words = ["--augment", str(value), "--freeze-statistics", str(value)]
            main([preset, "--out", "o", "--quiet", *words])
            training = asked[-1].training
            assert (training.augment, training.freeze_statistics) == (value, value)


def test_presets_are_what_the_text_says():
    paper = PRESETS["mnist"]
    strengths, training = paper.sweep.strengths, paper.training
    assert len(strengths) == len(set(strengths)) == 16
    assert (training.epochs, training.batch_size, paper.data.train_images) == (200, 100, 60_000)
    assert (paper.measuring.images, paper.measuring.attack_images) == (1000, 1000)
    repeats = [strength for strength, _ in paper.models()]
    assert sum(repeats.count(strength) >= 3 for strength in strengths) == 2


def test_help_reads_well(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    assert stop.value.code == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in (*PRESETS, "export", "record.json"))
    with pytest.raises(SystemExit):
        main(["mnist", "--help"])
    shown = capsys.readouterr().out
    assert "--learning-rate" in shown
    assert "default: 200" in shown


# --- summaries -----------------------------------------------------------------


def test_summary_by_hand():
    found = summary([3.0, 1.0, 2.0])
    assert (found["median"], found["images"], found["finite"]) == (2.0, 3, 1.0)
    assert (found["low"], found["high"]) == (1.0, 3.0)
    constant = summary(torch.full((10,), 4.0))
    assert (constant["low"], constant["median"], constant["high"]) == (4.0, 4.0, 4.0)


def test_failures_are_infinite_and_undefined_values_are_left_out():
    inf, nan = float("inf"), float("nan")
    found = summary([1.0, inf, 2.0, inf, inf])
    assert (found["median"], found["finite"], found["images"]) == (inf, 0.4, 5)
    assert summary([1.0, 2.0, 3.0, 4.0, inf])["median"] == 3.0
    assert summary([nan, 1.0, 2.0, 3.0]) == summary([1.0, 2.0, 3.0])
    empty = summary([nan])
    assert empty["images"] == 0
    assert empty["median"] != empty["median"]


def test_interval_has_the_width_that_theory_says():
    # Standard error of the median of n normal values: √(π / 2n).
    generator = torch.Generator().manual_seed(0)
    found = summary(torch.randn(1000, generator=generator))
    expected = 2 * 1.96 * (torch.pi / 2000) ** 0.5
    assert found["high"] - found["low"] == pytest.approx(expected, rel=0.25)
    assert found["low"] < found["median"] < found["high"]


# --- killed and started again ----------------------------------------------------

ATTEMPTS = """
import json, os, signal, sys, time, traceback
from pathlib import Path

import foolbox, safetensors.torch, sklearn.datasets, sklearn.model_selection, tqdm.auto
import torch._dynamo  # the first optimizer of a process imports it, which takes seconds
from lesson_utils.experiments import Settings, run

torch.set_num_threads(1)


def written(folder):
    files = []
    for path in (*folder.rglob("*.json"), *folder.rglob("*.safetensors")):
        try:
            files.append((str(path.relative_to(folder)), path.stat().st_mtime_ns))
        except FileNotFoundError:  # replaced at this moment
            pass
    return set(files)


def attempt(settings, folder, writes, delay):
    # run; kill it some seconds after it has written so many files
    child = os.fork()  # imports are done: the time is spent in the experiment
    if child == 0:
        status = 1
        try:
            run(settings, folder)
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    seen = written(folder)
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            assert status == 0
            return True
        now = written(folder)
        writes -= len(now - seen)
        seen |= now
        if writes <= 0:
            time.sleep(delay)
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return False
        time.sleep(0.002)


settings, folder, kills = json.loads(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3])
settings = Settings.from_table(settings)
assert attempt(settings, folder / "whole", 1e9, 0)
found = []
while not attempt(settings, folder / "killed", *kills.pop(0)):
    files = (folder / "killed").rglob("*.safetensors")
    found.append([str(path.relative_to(folder / "killed")) for path in files])
print(json.dumps(found))
"""


def test_killed_at_random_points_it_ends_in_the_same_record(tmp_path):
    """Two networks; more than fifty files are written in a run."""
    settings = LEAST.change(strengths=(0.0, 0.1), epochs=25, decay_every=20)
    dice = random.Random(0)
    strikes = [(dice.randint(2, 9), dice.uniform(0, 0.05)) for _ in range(9)] + [(1e9, 0)]
    script = [sys.executable, "-c", ATTEMPTS]
    arguments = [json.dumps(settings.to_table()), str(tmp_path), json.dumps(strikes)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    environment["OMP_NUM_THREADS"] = "1"
    done = subprocess.run(
        [*script, *arguments], capture_output=True, text=True, check=False, env=environment
    )
    assert done.returncode == 0, done.stderr
    kills = json.loads(done.stdout.splitlines()[-1])
    # It was killed often, in training and in measuring.
    assert len(kills) >= 4
    assert any("state/strength-0-seed-0.training.safetensors" in files for files in kills)
    assert any("models/strength-0-seed-0.safetensors" in files for files in kills)
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")
    assert not list((tmp_path / "killed").rglob("*.part"))
    assert not list((tmp_path / "killed").rglob("*.training.safetensors"))


WRITES = """
import sys
from pathlib import Path
from lesson_utils.files import write_at_once

content = sys.argv[2].encode() * 100_000
for _ in range(30):
    write_at_once(Path(sys.argv[1]), content)
"""


def test_a_file_that_several_write_is_always_whole(tmp_path):
    path = tmp_path / "new" / "file"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    environment["OMP_NUM_THREADS"] = "1"
    command = [sys.executable, "-c", WRITES, str(path)]
    started = [subprocess.Popen([*command, letter], env=environment) for letter in "abc"]
    seen = set()
    while any(process.poll() is None for process in started):
        if path.exists():
            content = path.read_bytes()
            assert len(content) == 100_000
            seen.add(content[:1])
            assert len(set(content)) == 1
    assert [process.returncode for process in started] == [0, 0, 0]
    assert seen and [file.name for file in path.parent.iterdir()] == ["file"]


def test_what_a_killed_process_left_unfinished_is_removed(tmp_path):
    left = [
        tmp_path / "state" / "run.json.1.part",
        tmp_path / "state" / "strength-0-seed-0.training.safetensors.2.part",
        tmp_path / "state" / "strength-0-seed-0.samples.safetensors.3.part",
        tmp_path / "models" / "strength-0-seed-0.safetensors.4.part",
    ]
    for path in left:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"half")
    run(LEAST, tmp_path)
    assert not list(tmp_path.rglob("*.part"))


def test_processes_side_by_side_share_the_cores(tmp_path, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    before = torch.get_num_threads()
    torch.set_num_threads(6)
    try:
        with share_cores(tmp_path) as share:
            share()
            assert torch.get_num_threads() == 6
            with FileLock(tmp_path / "process-1.lock"):  # another process begins
                share()
                assert torch.get_num_threads() == 3
                with share_cores(tmp_path) as third:
                    third()
                    assert torch.get_num_threads() == 1  # a third of what it found, 3
            share()
            assert torch.get_num_threads() == 6
        assert torch.get_num_threads() == 6
        monkeypatch.setenv("OMP_NUM_THREADS", "2")
        with FileLock(tmp_path / "process-0.lock"), share_cores(tmp_path) as share:
            share()
            assert torch.get_num_threads() == 6  # the user has decided
    finally:
        torch.set_num_threads(before)


# --- records of several machines, joined -----------------------------------------


def test_six_folders_of_a_class_become_one_record(tmp_path, capsys):
    """What the lecturer's guide describes: one network a student, one figure for all."""
    command = ["digits", "--train-images", "60", "--epochs", "2", "--images", "6", "--quiet"]
    command += ["--attack-images", "2", "--cw-rounds", "1", "--cw-steps", "2"]
    strengths = ["0.3", "0", "0.01", "0.1", "0.03", "1"]
    for k, strength in enumerate(strengths):
        main([*command, "--strengths", strength, "--out", str(tmp_path / f"student-{k}")])
    main([*command, "--strengths", *strengths, "--out", str(tmp_path / "alone")])
    folders = [str(tmp_path / f"student-{k}") for k in range(6)]
    main(["merge", *folders, "--out", str(tmp_path / "class")])
    joined, alone = (load_record(tmp_path / name) for name in ("class", "alone"))
    assert records.table(joined) in capsys.readouterr().out
    ordered = sorted(map(float, strengths))
    assert joined["settings"]["strengths"] == ordered
    assert joined["models"] == sorted(alone["models"], key=lambda model: model["strength"])
    assert len(medians(joined, "alignment")[0]) == 6
    for strength in ordered:
        mine, other = (load_samples(tmp_path / name, strength) for name in ("class", "alone"))
        assert all(torch.equal(mine[name].nan_to_num(), other[name].nan_to_num()) for name in mine)
        assert load_model(tmp_path / "class", strength)
    growth_exponent(tmp_path / "class", ordered)
    sources = joined["provenance"]["merged"]
    assert [source["models"] for source in sources] == [
        [f"strength-{strength}-seed-0"] for strength in strengths
    ]
    assert all("--out FOLDER" in source["command"] for source in sources)
    assert set(joined["provenance"]["timing"]["training"]) == {m["name"] for m in joined["models"]}
    assert len(joined["provenance"]["environments"]) == 1
    # It goes on like any other folder, and is exported like any other.
    main([*command, "--strengths", "3", "--out", str(tmp_path / "class")])
    assert len(load_record(tmp_path / "class")["models"]) == 7
    export(tmp_path / "class", tmp_path / "copy", [0.1])
    assert load_model(tmp_path / "copy", 0.1)


def test_the_example_of_the_api_page_leads_from_run_to_figure(tmp_path, monkeypatch):
    page = (Path(__file__).parents[1] / "book" / "api.md").read_text(encoding="utf-8")
    example = page.split("### From run to figure")[1]
    code, command = (
        example.split(f"```{language}\n")[1].split("```")[0] for language in ("python", "bash")
    )
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(code, names)
    assert (tmp_path / "runs" / "first.png").stat().st_size > 5000
    assert len(names["rho"]) == 3 and len(names["distance"]) == 5
    before = contents(tmp_path / "runs" / "first")
    main([*shlex.split(command)[3:], "--quiet"])  # the same settings: all is done
    assert contents(tmp_path / "runs" / "first") == before


def test_merged_seeds_describe_the_networks_that_are_there(least, tmp_path):
    run(LEAST.change(strengths=(0.1,), seeds=(4,)), tmp_path / "b")
    found = merge([tmp_path / "b", least], tmp_path / "ab")
    settings = found["settings"]
    assert (settings["strengths"], settings["seeds"]) == ([0.0, 0.1], [0, 4])
    assert settings["repeated"] == [0.1] and "models" not in settings
    run(LEAST.change(strengths=(0.5,), seeds=(9,)), tmp_path / "c")
    found = merge([tmp_path / "ab", tmp_path / "c"], tmp_path / "abc")
    pairs = [[0.0, 0], [0.1, 0], [0.1, 4], [0.5, 9]]
    assert found["settings"]["models"] == pairs
    assert [[m["strength"], m["seed"]] for m in found["models"]] == pairs
    assert len(found["provenance"]["merged"]) == 3  # a merged record names all it came from
    again = merge([tmp_path / "abc", tmp_path / "b", tmp_path / "ab"], tmp_path / "again")
    assert again["provenance"]["merged"] == found["provenance"]["merged"]  # each of them once
    run(LEAST.change(strengths=(0.9,)), tmp_path / "ab")
    found = merge([tmp_path / "ab"], tmp_path / "grown")
    sources = [source["models"] for source in found["provenance"]["merged"]]
    assert sources[-1] == ["strength-0.9-seed-0"]
    assert set(found["provenance"]["timing"]["measuring"]) == {m["name"] for m in found["models"]}
    found = load_record(tmp_path / "abc")
    assert len(medians(found, "alignment")[0]) == 3


def test_only_records_of_one_experiment_are_joined(least, tmp_path):
    for name, change, message in (
        ("epochs", {"epochs": 1}, r"epochs = 1\).*epochs = 2"),
        ("images", {"train_images": 61}, "data_sha256"),
        ("attacks", {"attack_images": 2}, r"attack_images = 2\).*attack_images = 1"),
        ("cw", {"cw_steps": 3}, r"cw_steps = 3\)"),
    ):
        run(LEAST.change(strengths=(0.7,), **change), tmp_path / name)
        with pytest.raises(ValueError, match=message):
            merge([least, tmp_path / name], tmp_path / "joined")
    other = Path(shutil.copytree(least, tmp_path / "other"))
    same = merge([least, other], tmp_path / "same")  # the same network twice counts once
    assert len(same["models"]) == 2
    path = other / "samples.safetensors"
    values, notes = records.stored(path)
    values["strength-0-seed-0/alignment"][0] += 1e-6
    path.write_bytes(save(values, metadata=notes))
    with pytest.raises(ValueError, match="have two networks strength-0-seed-0"):
        merge([least, other], tmp_path / "joined")
    shutil.copy(least / "samples.safetensors", path)
    models = other / "models"
    (models / "strength-0-seed-0.safetensors").replace(models / "strength-0.1-seed-0.safetensors")
    with pytest.raises(ValueError, match=r"strength-0\.1-seed-0\.safetensors is of .*strength = 0"):
        merge([other], tmp_path / "joined")
    with pytest.raises(ValueError, match="not empty"):
        merge([least], other)
    assert not (tmp_path / "joined").exists()


def test_of_full_and_exported_weights_the_full_ones_are_kept(least, tmp_path):
    export(least, tmp_path / "half", [0.0])
    for order in ((least, tmp_path / "half"), (tmp_path / "half", least)):
        target = tmp_path / f"joined-{order[0].name}"
        found = merge(order, target)
        assert "half" not in found["models"][0]
        stored = load_file(target / "models" / "strength-0-seed-0.safetensors")
        assert {value.dtype for value in stored.values()} == {torch.float32}


def test_growth_exponent_of_a_power_law(tmp_path):
    """Three networks whose alignment is the square of their robustness, on 50 images."""
    rho = torch.rand(50, generator=torch.Generator().manual_seed(0)) + 0.5
    rows = {f"strength-{s:g}-seed-0": (1 + s) * rho for s in (0.0, 1.0, 3.0)}
    values = {f"{name}/linearized_robustness": row for name, row in rows.items()}
    values |= {f"{name}/alignment": 2 * row**2 for name, row in rows.items()}
    values |= {f"{name}/minimal_l2": row[:7] ** 0.5 for name, row in rows.items()}
    (tmp_path / "samples.safetensors").write_bytes(save(values))
    models = [{"strength": s, "seed": 0, "diverged": None} for s in (0.0, 1.0, 3.0)]
    write_record_json(tmp_path, {"schema": 1, "models": models})
    found = growth_exponent(tmp_path, [0.0, 1.0, 3.0])
    expected = {"exponent": 2, "low": 2, "high": 2, "trainings": 1}
    assert found == pytest.approx(expected, abs=1e-6)
    of_few = growth_exponent(tmp_path, [0.0, 3.0], against="minimal_l2")
    assert of_few["exponent"] == pytest.approx(4, abs=1e-6)
    noisy = {name: value * torch.rand(len(value)).exp() for name, value in values.items()}
    (tmp_path / "samples.safetensors").write_bytes(save(noisy))
    found = growth_exponent(tmp_path, [0.0, 1.0, 3.0])
    assert found["low"] < found["exponent"] < found["high"]
    assert found["high"] - found["low"] > 0.05
    with pytest.raises(KeyError, match="never trained"):
        growth_exponent(tmp_path, [0.0, 2.0])
