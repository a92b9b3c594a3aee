"""`load_mnist` on small files in the official format, and on the official ones where they are."""

import gzip
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from lesson_utils import data
from lesson_utils.data import MNIST_FILES, data_root, load_mnist


def test_what_is_written_is_read(made_up_mnist):
    _, written = made_up_mnist
    loaded = load_mnist()
    assert loaded.x_train.shape == (40, 1, 28, 28)
    assert loaded.x_train.dtype == torch.float32
    assert torch.equal((loaded.x_train[:, 0] * 255).round().byte(), written["train-images-idx3"])
    assert torch.equal((loaded.x_test[:, 0] * 255).round().byte(), written["t10k-images-idx3"])
    assert torch.equal(loaded.y_train.byte(), written["train-labels-idx1"])
    assert torch.equal(loaded.y_test, written["t10k-labels-idx1"].long())
    assert 0 <= loaded.x_train.min() <= loaded.x_train.max() <= 1


def test_root(made_up_mnist, monkeypatch):
    raw, written = made_up_mnist
    monkeypatch.setenv("LESSONS_DATA", "/nowhere")
    loaded = load_mnist(raw.parents[1])
    assert torch.equal(loaded.y_test, written["t10k-labels-idx1"].long())


def test_missing_files_are_named_with_the_command_that_fetches_them(made_up_mnist, tmp_path):
    raw, _ = made_up_mnist
    (raw / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(FileNotFoundError) as error:
        load_mnist()
    message = str(error.value)
    assert "not there: t10k-labels-idx1-ubyte)" in message
    assert f"load_mnist({str(tmp_path)!r}, download=True)" in message
    assert "LESSONS_DATA" in message


def test_damaged_files_are_named(made_up_mnist):
    raw, _ = made_up_mnist
    truncated, altered = raw / "train-images-idx3-ubyte", raw / "t10k-labels-idx1-ubyte"
    truncated.write_bytes(truncated.read_bytes()[:-7])
    altered.write_bytes(altered.read_bytes()[:-1] + b"\x0b")
    with pytest.raises(ValueError, match="damaged") as error:
        load_mnist()
    message = str(error.value)
    assert f"official one: {truncated.name}, {altered.name}." in message
    assert f"load_mnist({str(raw.parents[1])!r}, download=True)" in message


@pytest.fixture
def torchvision_fetches(made_up_mnist, monkeypatch, tmp_path):
    """Torchvision's download brings the files of `made_up_mnist`; it obeys no older layout."""
    raw, _ = made_up_mnist
    whole = {name: (raw / name).read_bytes() for name in data.MNIST_FILES}

    def fetch(root, download):
        assert download
        assert not (Path(root) / "MNIST").exists()  # else torchvision would be content with it
        (Path(root) / "MNIST" / "raw").mkdir(parents=True)
        for name, content in whole.items():
            (Path(root) / "MNIST" / "raw" / name).write_bytes(content)

    monkeypatch.setattr("torchvision.datasets.mnist.MNIST", fetch)
    return raw


def test_the_remedy_helps_with_the_old_layout(torchvision_fetches):
    raw = torchvision_fetches
    shutil.rmtree(raw)
    processed = raw.with_name("processed")
    processed.mkdir()
    for name in ("training.pt", "test.pt"):
        (processed / name).write_bytes(b"of an old torchvision")
    with pytest.raises(FileNotFoundError, match="processed is of an old torchvision") as error:
        load_mnist()
    exec(str(error.value).split('python -c "')[1].rstrip('"'))  # the command of the message
    assert len(load_mnist().y_test) == 10
    assert sorted(path.name for path in raw.parent.iterdir()) == ["processed", "raw"]


def test_the_remedy_helps_with_damaged_files(torchvision_fetches):
    damaged = torchvision_fetches / "t10k-labels-idx1-ubyte"
    damaged.write_bytes(b"half")
    with pytest.raises(ValueError, match="damaged") as error:
        load_mnist()
    exec(str(error.value).split('python -c "')[1].rstrip('"'))
    assert len(load_mnist().y_test) == 10


def test_packed_files_are_named_with_the_command_that_unpacks_them(made_up_mnist):
    raw, _ = made_up_mnist
    for path in list(raw.iterdir()):
        (raw / f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    with pytest.raises(FileNotFoundError) as error:
        load_mnist()
    command = f"gunzip {raw}/*.gz"
    assert f"Unpack the files there: {command}." in str(error.value)
    subprocess.run(command, shell=True, check=True)
    assert len(load_mnist().y_test) == 10


def test_unofficial_files_are_refused(made_up_mnist, monkeypatch):
    monkeypatch.setattr(data, "MNIST_FILES", MNIST_FILES)
    with pytest.raises(ValueError, match=r"damaged.*train-images.*t10k-labels"):
        load_mnist()


def test_official_files():
    """Facts about the real data where the machine has it, and the refusal where not."""
    if not (data_root() / "MNIST" / "raw" / "train-images-idx3-ubyte").exists():
        with pytest.raises(FileNotFoundError, match="not there"):
            load_mnist()
        return
    loaded = load_mnist()
    assert loaded.x_train.shape == (60_000, 1, 28, 28)
    assert loaded.x_test.shape == (10_000, 1, 28, 28)
    assert loaded.y_train[:5].tolist() == [5, 0, 4, 1, 9]
    assert loaded.x_train.mean().item() == pytest.approx(0.1307, abs=1e-4)
