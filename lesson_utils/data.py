"""Data sets as float tensors with pixels in [0, 1]."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

SPLIT_SEED = 0
"""Seed of the fixed train/test split."""


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
    classes: Sequence[int] | None = None, *, dtype: torch.dtype | None = None
) -> Dataset:
    """The 1,797 handwritten digits, 8×8 pixels, that come with scikit-learn.

    Nothing is downloaded. A fixed stratified split keeps 500 of the 1,797 for testing.

    Parameters
    ----------
    classes : sequence of int, optional
        Keep these digits only; label k then stands for `classes[k]`.
    dtype : torch.dtype, optional
        Of the images, by default PyTorch's default dtype; the original 17 grey values 0 … 16 become 0, 1/16, … 1.

    Returns
    -------
    Dataset
        Images `(n, 1, 8, 8)`.

    Raises
    ------
    ValueError
        `classes` is not a list of at least two different digits.

    References
    ----------
    Alpaydin, Kaynak, *Optical Recognition of Handwritten Digits*, UCI 1998.
    """
    from sklearn import datasets, model_selection

    images, labels = datasets.load_digits(return_X_y=True)
    train, test = model_selection.train_test_split(
        range(len(labels)), test_size=500, stratify=labels, random_state=SPLIT_SEED
    )
    x = torch.as_tensor(images / 16, dtype=dtype or torch.get_default_dtype()).view(-1, 1, 8, 8)
    y = torch.as_tensor(labels, dtype=torch.int64)
    parts = []
    for index in (train, test):
        parts += _keep_classes(x[index], y[index], classes)
    return Dataset(*parts)


def _keep_classes(x: Tensor, y: Tensor, classes: Sequence[int] | None) -> tuple[Tensor, Tensor]:
    if classes is None:
        return x, y
    if len(classes) < 2 or len(set(classes)) < len(classes) or not set(classes) <= set(range(10)):
        raise ValueError(f"classes must name at least two different digits 0 … 9, got {classes}")
    position = torch.full((10,), -1)
    position[list(classes)] = torch.arange(len(classes))
    keep = position[y] >= 0
    return x[keep], position[y[keep]]
