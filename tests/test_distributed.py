"""Training in several processes: really under torchrun, two processes on one machine."""

import subprocess
import sys
from pathlib import Path

import distributed_training
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from lesson_utils.records import load_record

SCRIPT = Path(distributed_training.__file__)


def torchrun(folder, *words, restarts=0):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node=2", f"--max-restarts={restarts}", str(SCRIPT), str(folder)]
    return subprocess.run([*command, *words], capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def alone():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    model, history = distributed_training.trained()
    torch.set_num_threads(threads)
    return {**model.state_dict(), "losses": torch.tensor(history.losses)}


def assert_same(result, alone):
    """Up to the rounding of other sums: 1e-9 of each tensor's largest entry, in float64."""
    assert result.keys() == alone.keys()
    for name, expected in alone.items():
        tolerance = 1e-9 * expected.abs().max().item()
        torch.testing.assert_close(result[name], expected, atol=tolerance, rtol=0)


def test_two_processes_give_the_weights_of_one(tmp_path, alone):
    done = torchrun(tmp_path)
    assert done.returncode == 0, done.stderr
    assert_same(load_file(tmp_path / "result.safetensors"), alone)


def test_training_survives_the_loss_of_a_worker(tmp_path, alone):
    done = torchrun(tmp_path, "die", restarts=1)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "died").exists()
    assert "SIGKILL" in done.stderr or "exitcode: -9" in done.stderr.replace(" :", ":")
    assert_same(load_file(tmp_path / "result.safetensors"), alone)


def test_without_a_restart_the_loss_is_an_error(tmp_path):
    assert torchrun(tmp_path, "die").returncode != 0
    assert (tmp_path / "checkpoint.safetensors").exists()
    assert not (tmp_path / "result.safetensors").exists()


def test_a_cold_cache_is_made_once_under_torchrun(tmp_path):
    """Two processes want the photographs at once, and none may find an unfinished file."""
    for split in ("train", "val"):
        for k in range(20):
            path = tmp_path / "data" / split / f"c{k % 2}" / f"{k}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.effect_noise((32, 32), 80).save(path)
    options = ["--data", str(tmp_path / "data"), "--size", "32", "--width", "8", "--classes", "0"]
    options += ["--epochs", "1", "--images", "4", "--attack-images", "1", "--cw-rounds", "1"]
    options += ["--cw-steps", "1", "--strengths", "0", "--freeze-statistics", "False"]
    options += ["--out", str(tmp_path / "out")]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command += ["-m", "lesson_utils.experiments", "tiny-imagenet-cpu", *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert (
        sorted(path.suffix for path in (tmp_path / "data" / ".cache").iterdir()) == [".uint8"] * 2
    )
    (model,) = load_record(tmp_path / "out")["models"]
    assert model["diverged"] is None
    assert done.stdout.count("Record: ") == 1  # one process speaks
