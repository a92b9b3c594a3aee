"""The images of an experiment: opened in one way, whatever they are."""

from __future__ import annotations

from pathlib import Path

import torch
from torch.utils.data import DataLoader, TensorDataset, default_collate

from ..data import load_digits, load_mnist
from ..files import UserError, for_the_user
from ..photographs import (
    ImageSets,
    Photographs,
    find_imagenette,
    find_tiny_imagenet,
    load_images,
    loader,
    pixels,
)
from .processes import rank_and_count
from .settings import DECODED_ONCE, Settings


def open_data(settings: Settings, cache: str | Path | None = None) -> tuple[ImageSets, Settings]:
    """Images to train on and to measure; and the settings, with the classes counted."""
    name = settings.data.data
    if name not in ("digits", "mnist"):
        return _open_photographs(settings, cache)
    with for_the_user(ValueError):
        data = load_digits() if name == "digits" else load_mnist()
    n, m = settings.data.train_images, settings.measuring.images
    if n > len(data.x_train) or m > len(data.x_test):
        raise UserError(
            f"{name} has {len(data.x_train)} training and {len(data.x_test)} test images: "
            f"train_images = {n} or images = {m} is too large"
        )
    train_images = TensorDataset(data.x_train[:n], data.y_train[:n])
    test_images = TensorDataset(data.x_test[:m], data.y_test[:m])
    return ImageSets(train_images, test_images), settings.change(classes=10)


def _open_photographs(settings: Settings, cache) -> tuple[ImageSets, Settings]:
    wanted, count = settings.data, rank_and_count()[1]
    finders = {"tiny-imagenet": find_tiny_imagenet, "imagenette": find_imagenette}
    root = finders[wanted.data]() if wanted.data in finders else wanted.data
    if wanted.data == "imagenette" and (found := len(Photographs(root, "val").classes)) != 10:
        raise UserError(
            f"{root} has {found} of the 10 classes of Imagenette: its archive was not unpacked to "
            "the end. Delete this folder, and unpack the archive again"
        )
    options = {"size": wanted.size, "classes": wanted.classes}
    if wanted.size <= DECODED_ONCE:
        train_images, test = load_images(root, cache=cache, **options)
        classes = int(train_images.tensors[1].max()) + 1
    else:
        if settings.training.batch_size % count:
            raise UserError(f"batch_size must be a multiple of the number of processes, {count}")
        options |= {"batch_size": settings.training.batch_size // count, "workers": wanted.workers}
        train_images = loader(root, "train", share=rank_and_count(), **options)
        test = loader(root, "val", **options).dataset
        classes = len(test.classes)
    if classes < 2:
        raise UserError(f"{root} has one class only: a classifier needs two at least")
    images = settings.measuring.images
    if images > len(test):
        raise UserError(f"{root} has {len(test)} images in val/, fewer than {images}")
    # The files are sorted by class: measure on some of all classes.
    chosen = torch.randperm(len(test), generator=torch.Generator().manual_seed(0))[:images].tolist()
    x, y = default_collate([test[i] for i in chosen])
    parts = [pixels(x), y]
    if wanted.data == "imagenette":  # its photographs come from both parts of ImageNet
        files = Photographs(root, "val", classes=wanted.classes).samples
        unseen = [Path(files[i][0]).name.startswith("ILSVRC2012_val") for i in chosen]
        parts.append(torch.tensor(unseen))
    return ImageSets(train_images, TensorDataset(*parts)), settings.change(classes=classes)


def moved(images: TensorDataset | DataLoader, device: str) -> TensorDataset | DataLoader:
    """Images in memory go to the device at once; batches go there one by one, in training."""
    if isinstance(images, DataLoader):
        return images
    return TensorDataset(*(part.to(device) for part in images.tensors))
