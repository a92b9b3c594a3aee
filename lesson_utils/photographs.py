"""Image folders: Tiny ImageNet, Imagenette, ImageNet, and any in one of their layouts."""

from __future__ import annotations

import hashlib
import io
import os
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, DistributedSampler, TensorDataset

from .data import data_root
from .extras import needed_by
from .files import UserError, listed, remove_unfinished, write_at_once
from .validation import check_integer

with needed_by("lesson_utils.photographs"):
    from filelock import FileLock
    from PIL import Image, ImageOps, UnidentifiedImageError
    from torchvision.datasets import Imagenette
    from torchvision.datasets.folder import IMG_EXTENSIONS
    from torchvision.datasets.utils import download_and_extract_archive
    from torchvision.transforms import v2

TINY_ZIP = "http://cs231n.stanford.edu/tiny-imagenet-200.zip", "90528d7ca1a48142e341f4ef8d21d0de"
"""Address and MD5 of the official archive. Tests put their own archive here."""


ENDINGS = (*IMG_EXTENSIONS, ".gif")
"""Endings of the files that are taken for images, in capitals too; others are skipped."""

STRAY = "@eadir", "@recycle", "#recycle", "#snapshot", "__macosx", "__pycache__", "lost+found"
"""Folders that programs leave behind, and that hold no images of a class. So do hidden ones."""

DECODING = 3
"""Version of `_read`: what it decodes otherwise is not taken from an older cache."""


class ImageSets(NamedTuple):
    """Images and labels of an experiment.

    Few images are tensors in memory, floats in [0, 1] or bytes; many are decoded as they are
    needed, and come in batches of floats. Of Imagenette the test part has a third tensor: which
    images a network pretrained on ImageNet has not been trained on.
    """

    train: TensorDataset | DataLoader
    test: TensorDataset


def pixels(images: Tensor) -> Tensor:
    """Images in [0, 1]: bytes are divided by 255."""
    return images / 255 if images.dtype == torch.uint8 else images


class Split(NamedTuple):
    """What lies in one split of an image folder."""

    samples: list[tuple[str, int]]
    """Files of the images, and their labels."""
    classes: list[str]
    problems: list[str]
    """Why it cannot be used as it is, and the remedy; empty if it can."""
    skipped: Counter
    """Files that are no images, by ending; and folders that are no class, by name."""


def look_through(folder: Path, split: str, wanted: int = 0) -> Split:
    """Find the images of one split; see :class:`Photographs` for the layouts.

    Raises
    ------
    ValueError
        `wanted` is more than there are classes.
    """
    skipped, problems, samples, classes = Counter(), [], [], []
    try:
        known = _classes(folder)
        if not 0 <= wanted <= len(known):
            raise ValueError(f"classes must be 0 (all) … {len(known)}, got {wanted}")
        classes = [
            known[k * len(known) // (wanted or len(known))] for k in range(wanted or len(known))
        ]
        labels = {name: label for label, name in enumerate(classes)}
        annotations = folder / split / "val_annotations.txt"
        sorted_in_text = annotations.exists() and _holds_images(folder / split / "images")
        if sorted_in_text:
            samples = _annotated(annotations, labels)
        else:
            _refuse_flat(folder / split)
            found = dict(_walk(folder / split, classes, skipped))
            samples = [(file, labels[name]) for name in classes for file in found.get(name, ())]
        there = {label for _, label in samples}
        if empty := [name for name in classes if labels[name] not in there]:
            where = f"{folder / split} has no valid file for the classes"
            if sorted_in_text:
                where = f"{annotations} names no files of"
            problems.append(
                f"{where} {listed(empty)}. Images end in {', '.join(ENDINGS)};"
                " was the archive unpacked to the end?"
            )
    except UserError as error:
        problems.append(str(error))
    return Split(samples, classes, problems, skipped)


def _text(path: Path) -> list[str]:
    """Lines of a text that are not blank, in UTF-8 or UTF-16, with a byte order mark or without."""
    content = path.read_bytes()
    encoding = "utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    lines = content.decode(encoding, "replace").splitlines()
    if {"\0", "\ufffd"} & set("".join(lines)):  # \ufffd replaces what is no text
        raise UserError(f"{path} is no text in UTF-8: save it so, or unpack it again")
    return [line.strip() for line in lines if line.strip()]


def _is_stray(path: Path, top: str) -> bool:
    """Whether a folder holds nothing of its own: hidden, left by a program, or a link back."""
    if path.name.startswith(".") or path.name.lower() in STRAY:
        return True
    if not path.is_symlink():
        return False
    target, place = os.path.realpath(path), os.path.realpath(path.parent)
    return any(os.path.commonpath((target, one)) in (target, top) for one in (place, top))


def _classes(folder: Path) -> list[str]:
    """Names of the classes, sorted: of `wnids.txt`, or else of the folders in `train`."""
    wnids, train = folder / "wnids.txt", folder / "train"
    if wnids.exists():
        known = sorted({name for line in _text(wnids) for name in line.split()})
    elif train.is_dir():
        top = os.path.realpath(train)
        folders = [path for path in train.iterdir() if path.is_dir()]
        known = sorted(path.name for path in folders if not _is_stray(path, top))
    else:
        raise UserError(_MISSING.format(train))
    if not known:
        where = wnids if wnids.exists() else train
        raise UserError(f"{where} names no classes: it should hold one folder a class")
    return known


_MISSING = (
    "{} is missing: an image folder has train/<class>/… and val/<class>/…, or the files of Tiny "
    "ImageNet; was its archive unpacked to the end?"
)


def _refuse_flat(folder: Path) -> None:
    """Refuse images that lie side by side, without folders that tell their classes."""
    if not folder.is_dir():
        raise UserError(_MISSING.format(folder))
    if _holds_images(folder) and not any(
        path.is_dir() and not _is_stray(path, os.path.realpath(folder)) for path in folder.iterdir()
    ):
        raise UserError(
            f"{folder} holds images but no folder for each class, as the validation archive of "
            "ImageNet does: sort them into folders. For ImageNet, delete this folder, put "
            "ILSVRC2012_img_val.tar and ILSVRC2012_devkit_t12.tar.gz beside it, and run "
            f"torchvision.datasets.ImageNet({str(folder.parent)!r}, split='val')"
        )
    annotations = folder / "val_annotations.txt"
    if folder.name == "val" and _holds_images(folder / "images") and not annotations.exists():
        raise UserError(
            f"{annotations} is missing, which names the classes of the files in images: "
            "unpack the archive of Tiny ImageNet again"
        )


def _is_image(name: str) -> bool:
    return name.lower().endswith(ENDINGS) and not name.startswith(".")


def _holds_images(folder: Path) -> bool:
    return folder.is_dir() and any(_is_image(path.name) for path in folder.iterdir())


def _walk(folder: Path, classes: list[str], skipped: Counter) -> Iterator[tuple[str, list[str]]]:
    """Files of each class, at any depth, by folder and name; links are followed, but not back."""
    top, seen = os.path.realpath(folder), set()
    for path in folder.iterdir():
        if path.is_dir() and path.name not in classes:
            skipped[f"{path.name}/"] += 1
        elif path.is_file():
            skipped[path.suffix.lower() or path.name] += 1
    for name in classes:
        files = []
        for place, folders, names in os.walk(folder / name, followlinks=True):
            keep = [f for f in folders if not _is_stray(Path(place) / f, top)]
            skipped.update(f"{f}/" for f in set(folders) - set(keep))
            folders[:] = [] if os.path.realpath(place) in seen else keep
            if os.path.realpath(place) not in seen:
                seen.add(os.path.realpath(place))
                files += [(place, file) for file in names if _is_image(file)]
                skipped.update(Path(f).suffix.lower() or f for f in names if not _is_image(f))
        yield name, [os.path.join(*file) for file in sorted(files)]


def _annotated(annotations: Path, labels: dict[str, int]) -> list[tuple[str, int]]:
    """Files and labels of Tiny ImageNet's validation split."""
    classes, folder = {}, annotations.with_name("images")
    for line in _text(annotations):
        file, name, *_ = [*line.split("\t" if "\t" in line else None), "", ""]
        if not name.strip() or classes.get(file, name.strip()) != name.strip():
            raise UserError(f"{annotations}, line {line!r}: no class, or two classes for a file")
        classes[file] = name.strip()
    unnamed = sorted(
        p.name for p in folder.iterdir() if _is_image(p.name) and p.name not in classes
    )
    if unnamed:
        raise UserError(
            f"{annotations} is not whole: it names no class for {listed(unnamed)}. "
            "Unpack the archive of Tiny ImageNet again"
        )
    return [(str(folder / f), labels[name]) for f, name in classes.items() if name in labels]


class Photographs(Dataset):
    """One split of an image folder: pairs of an image in RGB and its label.

    Two layouts are understood: `train/<class>/…` and `val/<class>/…`, at any depth below the
    class (ImageNet, Imagenette), and that of Tiny ImageNet, where `wnids.txt` names the
    classes and `val/val_annotations.txt` the class of each file in `val/images`; if these were
    sorted into `val/<class>/…`, the annotations do not count. The classes are those in
    `wnids.txt` or else the folders in `train`; what belongs to no class is ignored, and so are
    hidden files and folders, those in :data:`STRAY`, links back into the same folder, and files
    without one of :data:`ENDINGS`.

    An image is turned as its EXIF orientation says (one that cannot be read counts as none). Of
    an animated one the first frame counts. Grey, palette and CMYK become RGB; of 16 bits the
    values 0 … 65535 become 0 … 255; transparency is dropped.

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

    Attributes
    ----------
    samples : list of (str, int)
        File and label of each image.

    Raises
    ------
    FileNotFoundError
        The split is missing, or not sorted; or classes have no images. The message names
        folder and remedy.
    ValueError
        More classes are asked for than there are. On access: an image cannot be read; the
        message names its file and class.
    """

    def __init__(self, root: str | Path | None, split: str, *, classes=0, transform=None):
        self.folder, self.transform = data_root(root), transform
        try:
            classes = check_integer("classes", classes, least=0)
            self.samples, self.classes, problems, _ = look_through(self.folder, split, classes)
        except ValueError as error:
            raise UserError(str(error)) from error
        if problems:
            raise FileNotFoundError(problems[0])
        self.targets = [label for _, label in self.samples]

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        file, label = self.samples[i]
        try:
            image = _read(file)
        except Exception as error:  # OSError, SyntaxError, struct.error, …: PIL raises many
            raise UserError(
                f"{file} (class {self.classes[label]}) cannot be read: {error}. A list of all "
                "such files: python -m lesson_utils.experiments check-data FOLDER"
            ) from error
        return image if self.transform is None else self.transform(image), label


LONGEST = 20
"""A photograph of one's own is at most so many of its shorter sides long: the rest would be cut off."""


def read_photograph(file: str | Path | bytes | memoryview, size: int = 224) -> Tensor:
    """One photograph of one's own, upright, as a batch of one for a model.

    Modes and orientation as for :class:`Photographs`. The shorter side is resized to `size`
    (bilinear, with antialiasing; a smaller image is enlarged) and the middle is cropped.

    Parameters
    ----------
    file : str, Path, bytes, bytearray or memoryview
        A file (`~` is the home folder), or the content of one: of an upload widget,
        `upload.value[0].content`.
    size : int
        Height and width in pixels.

    Returns
    -------
    Tensor, `(1, 3, size, size)`, float32 in [0, 1]

    Raises
    ------
    FileNotFoundError
    TypeError
        `file` is neither of them.
    ValueError
        It is an address, a folder, no image that can be read, or a longer one than 20 of its
        shorter sides; the message says why.
    """
    size = check_integer("size", size)
    is_content = isinstance(file, (bytes, bytearray, memoryview))
    if not is_content and not isinstance(file, (str, Path)):
        raise TypeError(
            "file must be a path, or the bytes of a file (of an upload upload.value[0].content, of "
            f"an open file file.read()), got {type(file).__name__}: save pictures and arrays first"
        )
    source = io.BytesIO(file) if is_content else os.path.expanduser(str(file))
    name = f"a photograph of {len(source.getbuffer())} bytes" if is_content else file
    if not is_content and not os.path.isfile(source):
        _refuse_no_file(str(file), source)
    try:
        image = _read(source)
    except UnidentifiedImageError as error:
        raise UserError(
            f"{name} cannot be read: it is no image in a format that Pillow knows (JPEG, PNG, WebP, "
            "…; HEIC is none): save it as JPEG"
        ) from error
    except Image.DecompressionBombError as error:
        raise UserError(f"{name} has too many pixels: make it smaller, {size} suffice") from error
    except Exception as error:  # PIL raises many
        remedy = ": copy or download it again" * (
            not isinstance(error, (UserError, PermissionError))
        )
        raise UserError(f"{name} cannot be read: {error}{remedy}") from error
    height, width = image.shape[1:]
    if max(height, width) > LONGEST * min(height, width):
        raise UserError(f"{name} has {height}×{width} pixels, a strip: cut a square out of it")
    return v2.Compose([v2.Resize(size), v2.CenterCrop(size)])(image)[None] / 255


def _refuse_no_file(file: str, place: str) -> None:
    if re.match(r"\w{2,}:/", file):  # pathlib makes one slash of two
        raise UserError(f"file {file} is an address: download the photograph, and name the file")
    if os.path.isdir(place):
        raise UserError(f"file {file} is a folder: name one photograph in it")
    raise FileNotFoundError(f"there is no photograph {file} (from the folder {Path.cwd()})")


def _read(file: str | io.BytesIO) -> Tensor:
    """Bytes `(3, height, width)` of an image in any mode, upright."""
    # The content, and not the file, which Pillow (13) maps into memory as if it were upright.
    content = io.BytesIO(Path(file).read_bytes()) if isinstance(file, str) else file
    with Image.open(content) as image:
        image.load()  # what cannot be decoded is said here
        with suppress(Exception):  # an orientation that cannot be read is none
            ImageOps.exif_transpose(image, in_place=True)
        sixteen_bits = image.mode == "I" and image.format in ("PNG", "PPM")
        if image.mode.startswith("I;16") or sixteen_bits:
            grey = np.asarray(image).astype(np.float64) / 257  # 65535 is white
            image = Image.fromarray(grey.round().astype(np.uint8))
        elif image.mode in ("I", "F"):
            raise UserError(
                f"its grey values (mode {image.mode}) have no known range: save it with 8 or 16 bits"
            )
        image.info.pop("transparency", None)  # of many values PIL warns that they are dropped
        return v2.functional.pil_to_tensor(image.convert("RGB"))


class ImageReport(NamedTuple):
    """What :func:`check_images` found; as text, a table and lists of at most 20 lines."""

    images: dict[str, int]
    """Number of image files in each split, the faulty ones included."""
    classes: int
    """Number of classes."""
    modes: dict[str, int]
    """Number of readable images in each mode of PIL: RGB, L (grey), CMYK, …"""
    faulty: list[str]
    """For each file that cannot be read: file, class and reason."""
    problems: list[str]
    """What is wrong with a split as a whole, and the remedy."""
    sizes: dict[str, tuple[int, int]]
    """Of each split, the number of images in its smallest and in its largest class."""
    skipped: dict[str, dict[str, int]]
    """Of each split: files that are no images, by ending; folders that are no class, by name."""

    def __str__(self) -> str:
        rows = [("split", "images", "classes", "images a class")]
        for split, n in self.images.items():
            least, most = self.sizes[split]
            rows.append((split, f"{n:,}", f"{self.classes:,}", f"{least:,} … {most:,}"))
        lines = ["  ".join(f"{cell:>14}" for cell in row) for row in rows]
        lines.append("modes: " + (listed((f"{k} {n:,}" for k, n in self.modes.items()), 20) or "-"))
        for split, found in self.skipped.items():
            counts = (f"{name} {n:,}" for name, n in sorted(found.items()))
            lines.append(f"skipped in {split}: {listed(counts, 20) or 'nothing'}")
        for title, found in (("problems", self.problems), ("cannot be read", self.faulty)):
            lines.append(f"{title}: {len(found):,}")
            lines += [f"  {line}" for line in found[:20]]
            lines += [f"  … and {len(found) - 20:,} more"] * (len(found) > 20)
        return "\n".join(lines)


def check_images(root: str | Path | None, *, progress: bool = False) -> ImageReport:
    """Decode every file of an image folder, both splits, and report all that is there.

    Grey, palette, transparent and CMYK images are no fault: :class:`Photographs` converts them.

    Parameters
    ----------
    root : str or Path, optional
        As for :class:`Photographs`, whose errors are reported as problems.
    progress : bool
        Show a progress bar (tqdm).
    """
    from tqdm.auto import tqdm

    images, modes, faulty, problems, sizes, skipped, names = {}, Counter(), [], [], {}, {}, set()
    for split in ("train", "val"):
        found = look_through(data_root(root), split)
        images[split], skipped[split] = len(found.samples), dict(found.skipped)
        problems += found.problems
        names |= set(found.classes)
        count = Counter(label for _, label in found.samples)
        counts = [count[label] for label in range(len(found.classes))] or [0]
        sizes[split] = min(counts), max(counts)
        for file, label in tqdm(found.samples, split, disable=not progress):
            try:
                _read(file)
                with Image.open(file) as image:
                    modes[image.mode] += 1
            except Exception as error:
                faulty.append(f"{file} (class {found.classes[label]}) cannot be read: {error}")
    problems = list(dict.fromkeys(problems))  # what both splits lack is said once
    return ImageReport(images, len(names), dict(modes), faulty, problems, sizes, skipped)


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
    where those change, the images are decoded anew. Several processes make it once: the first
    decodes, and the others wait. An image replaced by another of exactly as
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
        The cache cannot be written: give another folder by `cache`.
    """
    size = check_integer("size", size)
    parts, cut = [], v2.Compose([v2.Resize(size), v2.CenterCrop(size)])
    for split in ("train", "val"):
        images = Photographs(root, split, classes=classes, transform=cut)
        key = hashlib.sha256(repr((DECODING, inventory(images))).encode()).hexdigest()[:16]
        path = Path(cache or images.folder / ".cache").expanduser() / f"{split}-{size}-{key}.uint8"
        if not _is_whole(path, 3 * size**2 * len(images)):
            _decode(images, path, 3 * size**2 * len(images))
        content = torch.from_file(str(path), False, 3 * size**2 * len(images), dtype=torch.uint8)
        labels = torch.tensor(images.targets)
        parts.append(TensorDataset(content.view(-1, 3, size, size), labels))
    return ImageSets(*parts)


def _is_whole(path: Path, size: int) -> bool:
    return path.exists() and path.stat().st_size == size


def _decode(images: Photographs, path: Path, size: int) -> None:
    """Write a cache, unless another process does, or did, meanwhile."""
    try:
        lock = path.with_suffix(".lock")
        with FileLock(lock):
            try:
                remove_unfinished(path)
                if not _is_whole(path, size):
                    write_at_once(path, b"".join(image.numpy().tobytes() for image, _ in images))
            finally:  # whoever comes later finds the cache; who waits has it open
                with suppress(OSError):
                    lock.unlink()
    except OSError as error:
        raise OSError(
            f"{path} cannot be written ({error}): name another folder for decoded photographs, "
            "--cache FOLDER on the command line"
        ) from error


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
        call = f"find_tiny_imagenet({str(root)!r}, download=True)"
        raise _not_there("Tiny ImageNet", root, "tiny-imagenet-200", call)
    return found


def _not_there(name: str, root: Path, folders: str, call: str, packed=()) -> FileNotFoundError:
    fetch = f"from lesson_utils.photographs import {call.split('(')[0]}; {call}"
    where = f"not in {root}. Set LESSONS_DATA to the folder that holds {folders}"
    if packed:
        where = f'in {root}, but packed. Unpack it: tar -xzf "{packed[0]}" -C "{root}"'
    return FileNotFoundError(f'{name} is {where}, or fetch it: python -c "{fetch}"')


def find_imagenette(root: str | Path | None = None, *, download: str = "") -> Path:
    """Folder of Imagenette: ten classes of ImageNet, 9,469 photographs to train and 3,925 to test.

    The first with a `train/n01440764` of: the folder itself; `imagenette2`, `imagenette2-320`,
    `imagenette2-160` in it; any `imagenette*` in it (which may hold other sizes, or a part).

    Parameters
    ----------
    root : str or Path, optional
        By default the folder of :func:`~lesson_utils.data.data_root`.
    download : str
        Fetch an official archive if nothing is found: `160px` (100 MB), `320px` (340 MB), both
        named for the shorter side, or `full` (1.6 GB). Needs a network; torchvision compares
        the checksum. What is found is taken, whatever its size: for one size, name its folder.

    Raises
    ------
    FileNotFoundError
        Nothing is found, or an archive that is packed or was unpacked in part; the message holds
        the command, or the remedy.
    ValueError
        `download` is none of these.
    RuntimeError
        What was downloaded is not the official archive.

    References
    ----------
    Howard, *Imagenette*, https://github.com/fastai/imagenette.
    """
    if download and download not in ("160px", "320px", "full"):
        raise ValueError(f"download must be '160px', '320px' or 'full', got {download!r}")
    root = data_root(root)
    official = [root / f"imagenette2{size}" for size in ("", "-320", "-160")]
    places = [root, *official, *sorted(root.glob("imagenette*"))]
    found = next((place for place in places if (place / "train" / "n01440764").is_dir()), None)
    # torchvision fetches nothing into a folder that is there
    if found is None and (half := next((place for place in official if place.is_dir()), None)):
        raise FileNotFoundError(
            f"{half} has no train/n01440764: its archive was not unpacked to the end. Delete this "
            "folder; then unpack the archive again, or give the command anew"
        )
    if found is None and download:
        Imagenette(root, size=download, download=True)
        return find_imagenette(root)
    if found is None:
        folders = "imagenette2, imagenette2-320, imagenette2-160 or another imagenette*"
        call = f"find_imagenette({str(root)!r}, download='320px')"
        raise _not_there("Imagenette", root, folders, call, sorted(root.glob("imagenette*gz")))
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
