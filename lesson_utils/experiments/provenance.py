"""Where a record comes from: images, code, packages and machine."""

from __future__ import annotations

import hashlib
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import torch

from ..photographs import ImageSets, inventory
from .processes import rank_and_count

PACKAGES = ("torch", "torchvision", "numpy", "scikit-learn", "safetensors", "foolbox")


def checksum_of_images(data: ImageSets) -> str:
    """SHA-256 of all pixels and labels; of large images that of their files' names and sizes."""
    digest = hashlib.sha256()
    for images in data:
        if isinstance(images, torch.utils.data.DataLoader):
            digest.update(repr(inventory(images.dataset)).encode())
        else:
            for part in images.tensors:
                digest.update(part.contiguous().numpy())
    return digest.hexdigest()


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
