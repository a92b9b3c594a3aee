import os

import pytest
import torch
from hypothesis import settings

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
