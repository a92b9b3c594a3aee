"""Where a record comes from: images, code, packages and machine."""

from __future__ import annotations

import hashlib
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import torch
from torch import nn

from ..photographs import ImageSets, inventory
from .processes import rank_and_count

PACKAGES = ("torch", "torchvision", "numpy", "scikit-learn", "safetensors", "foolbox")


def checksums(data: ImageSets) -> dict[str, str]:
    """SHA-256 of the training images with their labels, and of all images.

    Of all pixels; of large training images, of their files' names and sizes.
    """
    digest, found = hashlib.sha256(), {}
    for name, images in zip(("train_sha256", "data_sha256"), data, strict=True):
        if isinstance(images, torch.utils.data.DataLoader):
            digest.update(repr(inventory(images.dataset)).encode())
        else:
            for part in images.tensors:
                digest.update(part.contiguous().numpy())
        found[name] = digest.hexdigest()
    return found


def checksum_of_network(model: nn.Module) -> str:
    """SHA-256 of the weights and buffers of a network on the CPU."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.contiguous().numpy())
    return digest.hexdigest()


def differences(old: dict, new: dict) -> str:
    """What differs between two tables, with the old values; empty if nothing does."""
    names = [name for name in (old | new) if old.get(name) != new.get(name)]
    return ", ".join(f"{name} = {old.get(name)}" for name in names)


def environment(device: str) -> dict:
    """Code, packages and machine."""
    git = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    try:
        code = subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        code = "not under version control"
    cuda = torch.device(device).type == "cuda"
    return {
        "code": f"{sys.modules['lesson_utils'].__version__} ({code})",
        "python": platform.python_version(),
        "packages": {package: metadata.version(package) for package in PACKAGES},
        "device": torch.cuda.get_device_name(device) if cuda else f"{device} {platform.machine()}",
        "threads": torch.get_num_threads(),
        "processes": rank_and_count()[1],
    }
