"""Image folders: Tiny ImageNet, Imagenette, ImageNet, and any in one of their layouts."""

from __future__ import annotations

import hashlib
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from .data import data_root
from .extras import needed_by
from .files import write_at_once

with needed_by("lesson_utils.photographs"):
    from PIL import Image
    from torchvision.datasets import ImageFolder
    from torchvision.datasets.utils import download_and_extract_archive
    from torchvision.transforms import v2

TINY_ZIP = "http://cs231n.stanford.edu/tiny-imagenet-200.zip", "90528d7ca1a48142e341f4ef8d21d0de"
"""Address and MD5 of the official archive. Tests put their own archive here."""


class ImageSets(NamedTuple):
    """Images and labels of an experiment.

    Few images are tensors in memory, floats in [0, 1] or bytes; many are decoded as they are
    needed, and come in batches of floats.
    """

    train: TensorDataset | DataLoader
    test: TensorDataset


def pixels(images: Tensor) -> Tensor:
    """Images in [0, 1]: bytes are divided by 255."""
    return images / 255 if images.dtype == torch.uint8 else images


class Photographs(ImageFolder):
    """One split of an image folder: pairs of an image in RGB and its label.

    Two layouts are understood: `train/<class>/…` and `val/<class>/…`, at any depth below the
    class (ImageNet, Imagenette), and that of Tiny ImageNet, where `wnids.txt` names the
    classes and `val/val_annotations.txt` the class of each file in `val/images`. The classes
    are those in `wnids.txt` or else the folders in `train`; what belongs to no class is ignored.

    Parameters
    ----------
    root : str or Path, optional
        By default the folder of :func:`~lesson_utils.data.data_root`.
    split : str
        `train` or `val`.
    classes : int
        Keep so many classes, equally spaced in their sorted list; 0: all. Label k is `.classes[k]`.
    transform : callable, optional
        Applied to each image, bytes `(3, height, width)`.

    Raises
    ------
    FileNotFoundError
        The split is missing; or classes have no images, which the message names.
    ValueError
        More classes are asked for than there are. On access: an image cannot be read; the
        message names its file and class.
    """

    def __init__(self, root: str | Path | None, split: str, *, classes=0, transform=None):
        self.folder, self.wanted = data_root(root), classes
        if not (self.folder / split).is_dir():
            raise FileNotFoundError(
                f"{self.folder / split} is missing: an image folder has train/<class>/… and "
                "val/<class>/…, or the files of Tiny ImageNet"
            )
        super().__init__(self.folder / split, transform, loader=_read)

    def find_classes(self, directory: str) -> tuple[list[str], dict[str, int]]:
        """Names of the classes, and the label of each; called by torchvision."""
        wnids = self.folder / "wnids.txt"
        if wnids.exists():
            known = sorted(wnids.read_text().split())
        else:
            known, _ = super().find_classes(self.folder / "train")
        n = self.wanted or len(known)
        if not 1 <= n <= len(known):
            raise ValueError(f"classes must be 0 (all) … {len(known)}, got {n}")
        kept = [known[k * len(known) // n] for k in range(n)]
        return kept, {name: label for label, name in enumerate(kept)}

    @staticmethod
    def make_dataset(directory, class_to_idx, **options) -> list[tuple[str, int]]:
        """Files and labels; called by torchvision."""
        annotations = Path(directory) / "val_annotations.txt"
        if not annotations.exists():
            return ImageFolder.make_dataset(directory, class_to_idx, **options)
        rows = [line.split("\t")[:2] for line in annotations.read_text().splitlines()]
        if empty := class_to_idx.keys() - {name for _, name in rows}:
            raise FileNotFoundError(f"{annotations} names no files of {', '.join(sorted(empty))}")
        folder = annotations.with_name("images")
        return [(str(folder / f), class_to_idx[name]) for f, name in rows if name in class_to_idx]

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        try:
            return super().__getitem__(i)
        except Exception as error:  # OSError, SyntaxError, struct.error, …: PIL raises many
            file, label = self.samples[i]
            raise ValueError(
                f"{file} (class {self.classes[label]}) cannot be read: {error}. A list of all "
                "such files: python -m lesson_utils.experiments check-data FOLDER"
            ) from error


def _read(file: str) -> Tensor:
    """Bytes `(3, height, width)`; grey, CMYK and palette images become RGB, transparency goes."""
    with Image.open(file) as image:
        return v2.functional.pil_to_tensor(image.convert("RGB"))


class ImageReport(NamedTuple):
    """What :func:`check_images` found."""

    images: dict[str, int]
    """Number of image files in each split, the faulty ones included."""
    classes: int
    """Number of classes."""
    modes: dict[str, int]
    """Number of readable images in each mode of PIL: RGB, L (grey), CMYK, …"""
    faulty: list[str]
    """For each file that cannot be read: file, class and reason."""


def check_images(root: str | Path | None, *, progress: bool = False) -> ImageReport:
    """Decode every file of an image folder, both splits, and report what is there.

    Grey, palette, transparent and CMYK images are no fault: :class:`Photographs` converts them.

    Parameters
    ----------
    root : str or Path, optional
        As for :class:`Photographs`, whose errors about missing folders and classes it raises.
    progress : bool
        Show a progress bar (tqdm).
    """
    from tqdm.auto import tqdm

    images, modes, faulty = {}, Counter(), []
    for split in ("train", "val"):
        found = Photographs(root, split)
        images[split] = len(found)
        for i in tqdm(range(len(found)), split, disable=not progress):
            try:
                found[i]
                modes[Image.open(found.samples[i][0]).mode] += 1
            except ValueError as error:
                faulty.append(str(error))
    return ImageReport(images, len(found.classes), dict(modes), faulty)


def load_images(
    root: str | Path | None,
    *,
    classes: int = 0,
    size: int = 64,
    cache: str | Path | None = None,
) -> ImageSets:
    """An image folder as tensors of bytes, decoded once and from then on read from a cache.

    The shorter side is resized to `size` (bilinear, with antialiasing) and the middle is
    cropped; images of `size` × `size` stay as they are. The pixels lie in a file that is mapped
    into memory: what is not used is not read, and what is written into the tensors does not
    reach the file. Only the first call needs memory, twice the size of it.

    The file is named for the split, `size`, and the names and sizes in bytes of the images:
    where those change, the images are decoded anew. An image replaced by another of exactly as
    many bytes goes unnoticed; delete the cache then, which never does harm.

    Parameters
    ----------
    root, classes
        As for :class:`Photographs`.
    size : int
        Height and width in pixels.
    cache : str or Path, optional
        Folder of the cache, by default `.cache` in `root`.

    Returns
    -------
    ImageSets
        Images `(n, 3, size, size)` of **uint8** in 0 … 255: see :func:`pixels`. The test part
        is the split `val`.

    Raises
    ------
    FileNotFoundError, ValueError
        As :class:`Photographs`.
    OSError
        The cache cannot be written: give another folder.
    """
    parts, cut = [], v2.Compose([v2.Resize(size), v2.CenterCrop(size)])
    for split in ("train", "val"):
        images = Photographs(root, split, classes=classes, transform=cut)
        key = hashlib.sha256(repr(inventory(images)).encode()).hexdigest()[:16]
        path = Path(cache or images.folder / ".cache").expanduser() / f"{split}-{size}-{key}.uint8"
        if not path.exists():
            write_at_once(path, b"".join(image.numpy().tobytes() for image, _ in images))
        content = torch.from_file(str(path), False, 3 * size**2 * len(images), dtype=torch.uint8)
        labels = torch.tensor(images.targets)
        parts.append(TensorDataset(content.view(-1, 3, size, size), labels))
    return ImageSets(*parts)


def inventory(images: Photographs) -> list[tuple[str, int]]:
    """Name, below the folder, and size in bytes of each file."""
    return [
        (str(Path(file).relative_to(images.folder)), Path(file).stat().st_size)
        for file, _ in images.samples
    ]


def find_tiny_imagenet(root: str | Path | None = None, *, download: bool = False) -> Path:
    """Folder of Tiny ImageNet: 200 classes, 500 photographs to train and 50 to test each, 64×64.

    The first that has a `wnids.txt` of: the folder itself, `tiny-imagenet-200` in it, any
    `tiny-imagenet-*` in it (which may hold a part of the classes).

    Parameters
    ----------
    root : str or Path, optional
        By default the folder of :func:`~lesson_utils.data.data_root`.
    download : bool
        Fetch the official archive (about 250 MB) if nothing is found; needs a network.

    Raises
    ------
    FileNotFoundError
        Nothing is found; the message holds the command that fetches it.
    RuntimeError
        What was downloaded is not the official archive.

    References
    ----------
    Le, Yang, *Tiny ImageNet visual recognition challenge*, Stanford CS 231N 2015.
    """
    root = data_root(root)
    places = [root, root / "tiny-imagenet-200", *sorted(root.glob("tiny-imagenet-*"))]
    found = next((place for place in places if (place / "wnids.txt").exists()), None)
    if found is None and download:
        download_and_extract_archive(TINY_ZIP[0], str(root), md5=TINY_ZIP[1])
        return places[1]
    if found is None:
        fetch = f"from lesson_utils.photographs import find_tiny_imagenet; find_tiny_imagenet({str(root)!r}, download=True)"
        raise FileNotFoundError(
            f"Tiny ImageNet is not in {root}. Set LESSONS_DATA to the folder that holds "
            f'tiny-imagenet-200, or fetch it: python -c "{fetch}"'
        )
    return found


def loader(
    root: str | Path | None,
    split: str,
    *,
    classes: int = 0,
    size: int = 224,
    batch_size: int = 64,
    workers: int = 0,
    share: tuple[int, int] = (0, 1),
) -> DataLoader:
    """Batches of an image folder too large for :func:`load_images`, decoded as they are needed.

    Training images are shuffled, cut at random (`RandomResizedCrop`) and mirrored by half; call
    `.sampler.set_epoch(epoch)` before each epoch, from which the order follows. Of test images
    the shorter side is resized to 256/224 of `size` and the middle cropped.

    Parameters
    ----------
    root, split, classes
        As for :class:`Photographs`.
    size : int
        Height and width in pixels.
    batch_size : int
        For each process.
    workers : int
        Processes that decode; 0 decodes in this one.
    share : (int, int)
        Number of this process and number of all (`DistributedSampler`). Each gets its own share
        of the images; where these do not divide evenly, some are in two shares.

    Returns
    -------
    torch.utils.data.DataLoader
        Of pairs: float32 images `(batch, 3, size, size)` in [0, 1], not normalised (that is a
        layer of the model), and labels `(batch,)` of int64.

    Raises
    ------
    FileNotFoundError, ValueError
        As :class:`Photographs`, while iterating too.
    """
    train = split == "train"
    test_cut = [v2.Resize(size * 256 // 224), v2.CenterCrop(size)]
    cut = [v2.RandomResizedCrop(size), v2.RandomHorizontalFlip()] if train else test_cut
    transform = v2.Compose([*cut, v2.ToDtype(torch.float32, scale=True)])
    images = Photographs(root, split, classes=classes, transform=transform)
    rank, world = share
    sampler = DistributedSampler(images, world, rank, shuffle=train)
    return DataLoader(images, batch_size, sampler=sampler, num_workers=workers)
