"""The protocol on tiny data: records, resuming after SIGKILL, the command line."""

import hashlib
import json
import os
import random
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
from lesson_utils.experiments import PRESETS, export, run
from lesson_utils.experiments.command_line import main
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
)

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
        assert middle[k] == found["median"]
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
    assert (found["above"], found["ratio"]) == (0.75, 1.5)  # quotients 0.5, 1.5, 2, 3
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


def test_settings_are_checked_before_anything_is_done(tmp_path, monkeypatch):
    folder = tmp_path / "out"
    for change, message in (
        ({"data": "letters"}, "digits, mnist"),
        ({"strengths": ()}, "at least one"),
        ({"repeated": (7.0,)}, "repeated must be"),
        ({"epochs": 0}, "epochs must be at least 1"),
        ({"attack_images": 21}, "attack_images"),
        ({"images": 501}, "500 test images"),
    ):
        with pytest.raises(ValueError, match=message):
            run(TINY.change(**change), folder)
    monkeypatch.setitem(sys.modules, "foolbox.attacks", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install .*crosscheck"):
        run(TINY, folder)
    assert not folder.exists()


@pytest.fixture
def photographs(tmp_path, monkeypatch):
    """Tiny ImageNet's layout: 20 classes of one image each to train and to test, and a grey one."""
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
    monkeypatch.setenv("LESSONS_DATA", str(tmp_path))
    return root


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
        options += ["--strengths", *few]
        options += ["--width", "8", "--batch-size", "10", "--size", "32"]
    if name == "imagenet":  # its pretrained weights are not here, and 224 pixels take long
        options += ["--data", str(photographs), "--weights", "", "--network", "resnet18"]
        options += ["--size", "136", "--workers", "1"]
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
    classes = 10 if preset.network.network == "smallnet" else 20
    assert found["settings"]["classes"] == classes
    images, _ = bundled_images(found["settings"])
    logits = load_model(tmp_path / "copy", float(few[-1]))(images[:2])
    assert logits.shape == (2, classes)


def tiny_photographs(photographs, **change):
    few = {"images": 8, "attack_images": 1, "cw_rounds": 1, "cw_steps": 2, "epochs": 1, "size": 32}
    preset = PRESETS["tiny-imagenet-cpu"].change(width=8, batch_size=6, strengths=(0.1,))
    return preset.change(**few | change)


def test_copies_start_from_the_named_weights(photographs, tmp_path):
    base = tmp_path / "base"
    run(tiny_photographs(photographs, seeds=(3,)), base)
    weights = base / "models" / "strength-0.1-seed-3.safetensors"
    still = tiny_photographs(photographs, weights=str(weights), learning_rate=1e-30)
    found = run(still, tmp_path / "copies")
    start, copy = load_model(base, 0.1, 3), load_model(tmp_path / "copies", 0.1)
    for name, value in copy.state_dict().items():
        torch.testing.assert_close(value, start.state_dict()[name], msg=name)
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    assert found["settings"]["weights_sha256"] == digest
    weights.write_bytes((tmp_path / "copies/models/strength-0.1-seed-0.safetensors").read_bytes())
    with pytest.raises(ValueError, match="weights_sha256"):
        run(still, tmp_path / "copies")


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
    """Without random cuts. float32, trained twice by double backpropagation: 1 % apart at most."""
    command = ["tiny-imagenet-cpu", "--width", "8", "--batch-size", "6", "--strengths", "0", "0.1"]
    command += ["--epochs", "2", "--images", "8", "--attack-images", "1", "--cw-rounds", "1"]
    command += ["--cw-steps", "2", "--size", "32", "--quiet", "--out"]
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
            assert shared["quantities"][name]["median"] == pytest.approx(median, rel=0.01)


def test_folders_of_photographs_are_looked_through(photographs, capsys):
    main(["check-data", str(photographs)])
    shown = capsys.readouterr().out
    assert "('images', {'train': 20, 'val': 20})" in shown
    assert "('modes', {'RGB': 38, 'L': 2})" in shown
    assert "('faulty', [])" in shown


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
    """Three models; more than a hundred files are written in a run."""
    change = {"epochs": 35, "decay_every": 20, "attack_images": 1}
    settings = TINY.change(strengths=(0.0, 0.1, 0.3), **change)
    dice = random.Random(0)
    strikes = [(dice.randint(2, 15), dice.uniform(0, 0.1)) for _ in range(10)] + [(1e9, 0)]
    script = [sys.executable, "-c", ATTEMPTS]
    arguments = [json.dumps(settings.to_table()), str(tmp_path), json.dumps(strikes)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
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


def test_growth_exponent_of_a_power_law(tmp_path):
    """Three networks whose alignment is the square of their robustness, on 50 images."""
    rho = torch.rand(50, generator=torch.Generator().manual_seed(0)) + 0.5
    rows = {f"strength-{s:g}-seed-0": (1 + s) * rho for s in (0.0, 1.0, 3.0)}
    values = {f"{name}/linearized_robustness": row for name, row in rows.items()}
    values |= {f"{name}/alignment": 2 * row**2 for name, row in rows.items()}
    values |= {f"{name}/minimal_l2": row[:7] ** 0.5 for name, row in rows.items()}
    (tmp_path / "samples.safetensors").write_bytes(save(values))
    found = growth_exponent(tmp_path, [0.0, 1.0, 3.0])
    assert found == pytest.approx({"exponent": 2, "low": 2, "high": 2}, abs=1e-6)
    of_few = growth_exponent(tmp_path, [0.0, 3.0], against="minimal_l2")
    assert of_few["exponent"] == pytest.approx(4, abs=1e-6)
    noisy = {name: value * torch.rand(len(value)).exp() for name, value in values.items()}
    (tmp_path / "samples.safetensors").write_bytes(save(noisy))
    found = growth_exponent(tmp_path, [0.0, 1.0, 3.0])
    assert found["low"] < found["exponent"] < found["high"]
    assert found["high"] - found["low"] > 0.05
    with pytest.raises(KeyError, match="never trained"):
        growth_exponent(tmp_path, [0.0, 2.0])
