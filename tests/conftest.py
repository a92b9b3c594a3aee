import hashlib
import os
import struct

import pytest
import torch
from hypothesis import settings

from lesson_utils import data
from lesson_utils.data import load_digits
from lesson_utils.models import SmallNet, mlp
from lesson_utils.training import fit

# Timings are no test; and what passes here today must pass there tomorrow.
settings.register_profile("here", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "here")


@pytest.fixture(scope="session")
def digits():
    return load_digits()


@pytest.fixture(scope="session", params=["mlp", "deep-mlp", "smallnet"])
def digits_net(request, digits):
    """A network trained on digits, in eval mode."""
    make = {
        "mlp": lambda: mlp([64, 100, 10]),
        "deep-mlp": lambda: mlp([64, 64, 64, 10]),
        "smallnet": lambda: SmallNet((1, 8, 8)),
    }[request.param]
    torch.manual_seed(0)
    return fit(make(), digits.x_train, digits.y_train, epochs=10)


def idx(values):
    """The idx format of MNIST: two zero bytes, type (8: bytes), dimensions, sizes, content."""
    header = struct.pack(f">HBB{values.ndim}I", 0, 8, values.ndim, *values.shape)
    return header + values.numpy().tobytes()


@pytest.fixture
def made_up_mnist(tmp_path, monkeypatch):
    """Files of 40 and 10 random images, entered in the table of official files; their contents."""
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    generator = torch.Generator().manual_seed(0)
    written, table = {}, {}
    for part, n in (("train", 40), ("t10k", 10)):
        images = torch.randint(0, 256, (n, 28, 28), generator=generator).byte()
        labels = torch.randint(0, 10, (n,), generator=generator).byte()
        for name, values in (("images-idx3", images), ("labels-idx1", labels)):
            content = idx(values)
            (raw / f"{part}-{name}-ubyte").write_bytes(content)
            table[f"{part}-{name}-ubyte"] = hashlib.sha256(content).hexdigest()
            written[f"{part}-{name}"] = values
    monkeypatch.setattr(data, "MNIST_FILES", table)
    monkeypatch.setenv("LESSONS_DATA", str(tmp_path))
    return raw, written
