"""Data sets as float tensors with pixels in [0, 1]."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from .extras import needed_by
from .validation import check_integer

SPLIT_SEED = 0
"""Seed of the fixed train/test split."""

MNIST_FILES = {
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}  # fmt: skip
"""SHA-256 of the official files, uncompressed. Tests put their own files in this table."""


class Dataset(NamedTuple):
    """Images `(n, channels, height, width)` in [0, 1] and labels `(n,)` of int64."""

    x_train: Tensor
    y_train: Tensor
    x_test: Tensor
    y_test: Tensor


def data_root(root: str | Path | None = None) -> Path:
    """Folder of downloaded data: the argument, else `$LESSONS_DATA`, else `./data`."""
    return Path(root or os.environ.get("LESSONS_DATA") or "data").expanduser()


def load_digits(
    classes: Sequence[int] | None = None,
    *,
    dtype: torch.dtype | None = None,
    enlarged: bool = False,
) -> Dataset:
    """The 1,797 handwritten digits, 8×8 pixels, that come with scikit-learn.

    Nothing is downloaded. A fixed stratified split keeps 500 of the 1,797 for testing.

    Parameters
    ----------
    classes : sequence of int, optional
        Keep these digits only; label k then stands for `classes[k]`.
    dtype : torch.dtype, optional
        Of the images, by default PyTorch's default dtype; the original 17 grey values 0 … 16 become 0, 1/16, … 1.
    enlarged : bool
        Interpolate the images to 20×20 pixels and frame them by 4 black ones, as MNIST does.

    Returns
    -------
    Dataset
        Images `(n, 1, 8, 8)`, or `(n, 1, 28, 28)`.

    Raises
    ------
    ValueError
        `classes` is not a list of at least two different digits.

    References
    ----------
    Alpaydin, Kaynak, *Optical Recognition of Handwritten Digits*, UCI 1998.
    """
    with needed_by("load_digits"):
        from sklearn import datasets, model_selection

    images, labels = datasets.load_digits(return_X_y=True)
    train, test = model_selection.train_test_split(
        range(len(labels)), test_size=500, stratify=labels, random_state=SPLIT_SEED
    )
    x = torch.as_tensor(images / 16, dtype=dtype or torch.get_default_dtype()).view(-1, 1, 8, 8)
    y = torch.as_tensor(labels, dtype=torch.int64)
    if enlarged:
        x = functional.pad(functional.interpolate(x, size=20, mode="bilinear"), (4, 4, 4, 4))
    parts = []
    for index in (train, test):
        parts += _keep_classes(x[index], y[index], classes)
    return Dataset(*parts)


def load_sample_photographs(size: int = 64) -> Tensor:
    """The two photographs that come with scikit-learn, a temple and a flower.

    They are by danielbuechele and vultilion (flickr.com), under CC BY 2.0.

    Returns
    -------
    Tensor, `(2, 3, size, size)`, in [0, 1]: the middle square, reduced with antialiasing.

    Notes
    -----
    Pillow reduces them: torchvision rounds bytes differently from version to version, and the
    maps of a standard network show it.
    """
    with needed_by("load_sample_photographs"):
        from sklearn.datasets import load_sample_images
        from torchvision.transforms.v2 import CenterCrop, Compose, PILToTensor, Resize, ToPILImage

    size = check_integer("size", size)
    cut = Compose([ToPILImage(), Resize(size), CenterCrop(size), PILToTensor()])
    return torch.stack([cut(image) for image in load_sample_images().images]) / 255


def load_sample_squares(size: int = 64) -> Tensor:
    """The sample photographs of 256×256 pixels, cut into squares: pictures of sky, wall and petal.

    Returns
    -------
    Tensor, `(2·(256/size)², 3, size, size)`, in [0, 1]: row by row, the temple first.
    """
    size = check_integer("size", size)
    rows = load_sample_photographs(256).unfold(2, size, size).unfold(3, size, size)
    return rows.permute(0, 2, 3, 1, 4, 5).reshape(-1, 3, size, size)


def load_mnist(root: str | Path | None = None, *, download: bool = False) -> Dataset:
    """The 60,000 and 10,000 handwritten digits of MNIST, 28×28 pixels.

    The files are read by torchvision from `root/MNIST/raw`, after their checksums were
    compared with those of the official ones.

    Parameters
    ----------
    root : str or Path, optional
        By default the folder of :func:`data_root`.
    download : bool
        Fetch what is missing or damaged (about 11 MB) with torchvision; needs a network.

    Returns
    -------
    Dataset
        Images `(n, 1, 28, 28)`, float32.

    Raises
    ------
    FileNotFoundError
        Files are missing; the message holds the command that fetches them.
    ValueError
        Files are truncated or altered; the message names them.

    References
    ----------
    LeCun, Bottou, Bengio, Haffner, *Gradient-based learning applied to document
    recognition*, Proceedings of the IEEE 1998.
    """
    with needed_by("load_mnist"):
        from torchvision.datasets import mnist

    root = data_root(root)
    raw = root / "MNIST" / "raw"
    if download and any(faults := _faults_of_mnist(raw)):
        root.mkdir(parents=True, exist_ok=True)
        # Apart: what torchvision finds in `root`, of an old layout or damaged, it would not replace.
        with tempfile.TemporaryDirectory(dir=root) as fresh:
            mnist.MNIST(fresh, download=True)
            raw.mkdir(parents=True, exist_ok=True)
            for name in faults[0] + faults[1]:
                os.replace(Path(fresh) / "MNIST" / "raw" / name, raw / name)
    check_mnist(root)
    parts = []
    for part in ("train", "t10k"):
        images = mnist.read_image_file(str(raw / f"{part}-images-idx3-ubyte"))
        labels = mnist.read_label_file(str(raw / f"{part}-labels-idx1-ubyte"))
        parts += [images.unsqueeze(1).float() / 255, labels]
    return Dataset(*parts)


def check_mnist(root: str | Path | None = None) -> Path:
    """Folder of the MNIST files, after their checksums were compared.

    Parameters, errors: as :func:`load_mnist`.
    """
    root = data_root(root)
    raw = root / "MNIST" / "raw"
    fetch = f"from lesson_utils.data import load_mnist; load_mnist({str(root)!r}, download=True)"
    missing, damaged = _faults_of_mnist(raw)
    if missing:
        packed = all((raw / f"{name}.gz").exists() for name in missing)
        old = (root / "MNIST" / "processed").exists()
        raise FileNotFoundError(
            f"MNIST is not in {raw} (not there: {', '.join(missing)}). "
            + ("MNIST/processed is of an old torchvision, and is not read. " if old else "")
            + (f"Unpack the files there: gunzip {raw}/*.gz. Or set" if packed else "Set")
            + f' LESSONS_DATA to the folder that holds MNIST/raw, or fetch it: python -c "{fetch}"'
        )
    if damaged:
        raise ValueError(
            f"MNIST in {raw} is damaged, its SHA-256 is not the official one: {', '.join(damaged)}. "
            f'Fetch these files again, which replaces them: python -c "{fetch}"'
        )
    return raw


def _faults_of_mnist(raw: Path) -> tuple[list[str], list[str]]:
    """Names of the files that are missing, and of those that are not the official ones."""
    missing = [name for name in MNIST_FILES if not (raw / name).is_file()]
    found = {
        name: hashlib.sha256((raw / name).read_bytes()).hexdigest()
        for name in MNIST_FILES
        if name not in missing
    }
    return missing, [name for name, digest in found.items() if digest != MNIST_FILES[name]]


def _keep_classes(x: Tensor, y: Tensor, classes: Sequence[int] | None) -> tuple[Tensor, Tensor]:
    if classes is None:
        return x, y
    if len(classes) < 2 or len(set(classes)) < len(classes) or not set(classes) <= set(range(10)):
        raise ValueError(f"classes must name at least two different digits 0 … 9, got {classes}")
    position = torch.full((10,), -1)
    position[list(classes)] = torch.arange(len(classes))
    keep = position[y] >= 0
    return x[keep], position[y[keep]]
