"""Image folders made here: colours tell the classes, so that a wrong label is a wrong colour."""

import hashlib
import http.server
import io
import os
import shutil
import subprocess
import sys
import tarfile
import threading
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from torchvision.datasets import Imagenette

from lesson_utils import photographs as images
from lesson_utils.data import Dataset
from lesson_utils.photographs import (
    Photographs,
    check_images,
    find_imagenette,
    find_tiny_imagenet,
    load_images,
    loader,
    read_photograph,
)

COLOURS = {"n01": (250, 20, 20), "n02": (20, 250, 20), "n03": (20, 20, 250), "n09": (9, 9, 9)}


def put(path, name="n01", size=(64, 64), mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new("RGB", size, COLOURS[name])
    (image.quantize() if mode == "P" else image.convert(mode)).save(path)


def tensors(root, **options):
    """The four tensors of a small image set."""
    return Dataset(*(part for images in load_images(root, **options) for part in images.tensors))


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.fixture
def folder(tmp_path):
    """`train/<class>/…` with 3 images a class, one of them in a subfolder, `val` with 2."""
    for name in ("n02", "n01", "n03"):
        for k in range(2):
            put(tmp_path / "train" / name / f"{k}.png", name)
            put(tmp_path / "val" / name / f"{k}.png", name)
        put(tmp_path / "train" / name / "deep" / "er" / "a.JPEG", name)
    (tmp_path / "train" / "notes.txt").write_text("a file, no class")
    (tmp_path / "train" / "n01" / "notes.txt").write_text("no image")
    (tmp_path / "val" / ".hidden").mkdir()
    return tmp_path


@pytest.fixture
def tiny(tmp_path):
    """The official layout, where `wnids.txt` names three of four classes and in another order."""
    root = tmp_path / "tiny-imagenet-200"
    rows = []
    for k, name in enumerate(("n03", "n09", "n01", "n02", "n03")):
        put(root / "train" / name / "images" / f"{name}_{k}.JPEG", name)
        (root / "train" / name / f"{name}_boxes.txt").write_text("no image")
        put(root / "val" / "images" / f"val_{k}.JPEG", name)
        rows.append(f"val_{k}.JPEG\t{name}\t0\t32\t44\t62\n")
    (root / "val" / "val_annotations.txt").write_text("".join(rows))
    (root / "wnids.txt").write_text("n03\nn01\nn02\n")
    return root


def listed(root, split, classes=0):
    """Files, labels, names of the classes."""
    found = Photographs(root, split, classes=classes)
    return [file for file, _ in found.samples], found.targets, found.classes


def assert_colours_are_those_of(names, pixels, labels, tolerance=6):
    """JPEG may change a colour by a little; colours of two classes are 230 apart."""
    expected = torch.tensor([COLOURS[names[label]] for label in labels.tolist()])
    assert (pixels.int() - expected[:, :, None, None]).abs().max() <= tolerance


def test_labels_are_those_of_the_sorted_folders(folder):
    files, labels, names = listed(folder, "train")
    assert names == ["n01", "n02", "n03"]
    assert labels == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert {os.path.relpath(file, folder / "train" / "n01") for file in files[:3]} == {
        "0.png",
        "1.png",
        os.path.join("deep", "er", "a.JPEG"),
    }
    loaded = tensors(folder)
    assert [tuple(part.shape) for part in loaded] == [(9, 3, 64, 64), (9,), (6, 3, 64, 64), (6,)]
    assert loaded.x_train.dtype == loaded.x_test.dtype == torch.uint8
    assert loaded.y_train.dtype == loaded.y_test.dtype == torch.int64
    assert loaded.y_test.tolist() == [0, 0, 1, 1, 2, 2]
    assert_colours_are_those_of(names, loaded.x_train, loaded.y_train)
    assert_colours_are_those_of(names, loaded.x_test, loaded.y_test)


def test_tiny_imagenet_reads_annotations_and_ignores_other_classes(tiny):
    files, labels, names = listed(tiny, "val")
    assert names == ["n01", "n02", "n03"]
    assert [os.path.basename(file) for file in files] == [f"val_{k}.JPEG" for k in (0, 2, 3, 4)]
    assert labels == [2, 0, 1, 2]
    assert listed(tiny, "train")[1] == [0, 1, 2, 2]
    for root in (tiny, tiny.parent):
        loaded = tensors(find_tiny_imagenet(root))
        assert loaded.y_test.tolist() == labels
        assert_colours_are_those_of(names, loaded.x_train, loaded.y_train)
        assert_colours_are_those_of(names, loaded.x_test, loaded.y_test)


def test_so_many_classes_equally_spaced(tiny, tmp_path):
    names = [f"c{k:02}" for k in range(20)]
    for name in names:
        put(tmp_path / "train" / name / "0.png")
    assert listed(tmp_path, "train", 5)[2] == ["c00", "c04", "c08", "c12", "c16"]
    assert listed(tmp_path, "train", 3)[2] == ["c00", "c06", "c13"]
    assert listed(tmp_path, "train", 20)[2] == names
    assert listed(tmp_path, "train", 0)[2] == names
    for number, message in ((21, "0 .all. … 20, got 21"), (-1, "at least 0, got -1")):
        with pytest.raises(ValueError, match=message):
            listed(tmp_path, "train", number)
    for number in ("a", 2.5):
        with pytest.raises(TypeError, match=f"classes must be an integer, got {number!r}"):
            listed(tmp_path, "train", number)
    loaded = tensors(tiny, classes=2)  # not the first two in wnids.txt, and renumbered
    assert loaded.y_test.tolist() == [0, 1]
    assert_colours_are_those_of(["n01", "n02"], loaded.x_train, loaded.y_train)
    assert_colours_are_those_of(["n01", "n02"], loaded.x_test, loaded.y_test)


def test_missing_folders_are_named(folder, tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match=r"nowhere/train is missing"):
        listed(tmp_path / "nowhere", "train")
    (folder / "val").rename(folder / "test")
    with pytest.raises(FileNotFoundError, match=r"/val is missing: an image folder has"):
        tensors(folder)
    found = check_images(folder)
    assert [problem.split(":")[0] for problem in found.problems] == [f"{folder}/val is missing"]
    assert found.images == {"train": 9, "val": 0}
    monkeypatch.setenv("LESSONS_DATA", str(folder))
    assert len(listed(None, "train")[0]) == 9


def test_empty_classes_are_named(folder, tiny):
    for file in (folder / "val" / "n02").iterdir():
        file.unlink()
    with pytest.raises(FileNotFoundError, match=r"no valid file for the classes n02\."):
        listed(folder, "val")
    (folder / "train" / "n04").mkdir()
    found = check_images(folder)
    both = ("train", "n04"), ("val", "n02, n04")
    for problem, (split, names) in zip(found.problems, both, strict=True):
        assert f"{split} has no valid file for the classes {names}." in problem
    assert found.images == {"train": 9, "val": 4}
    (tiny / "wnids.txt").write_text("n01 n02 n03 n77")
    with pytest.raises(FileNotFoundError, match=r"no valid file for the classes n77\."):
        listed(tiny, "train")
    with pytest.raises(FileNotFoundError, match=r"val_annotations.txt names no files of n77"):
        listed(tiny, "val")


def test_what_belongs_to_no_class_of_train_is_ignored(folder):
    put(folder / "val" / "n09" / "0.png", "n09")
    assert listed(folder, "val")[1] == [0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize(
    ("mode", "ending"), [("L", "JPEG"), ("CMYK", "JPEG"), ("P", "png"), ("RGBA", "png")]
)
def test_other_modes_become_rgb(folder, mode, ending):
    grey = Image.new("RGB", (1, 1), COLOURS["n02"]).convert("L").getpixel((0, 0))
    put(folder / "train" / "n02" / f"other.{ending}", "n02", mode=mode)
    found = check_images(folder)
    assert found.modes == {"RGB": 15, mode: 1}
    assert found.faulty == []
    pixel = tensors(folder).x_train[[5]].int()
    assert listed(folder, "train")[0][5].endswith(f"other.{ending}")
    expected = torch.tensor([grey] * 3 if mode == "L" else COLOURS["n02"])
    assert (pixel - expected[:, None, None]).abs().max() <= 6


def saved(folder, name, image, **options):
    """Bytes `(3, height, width)` of an image after a way through a file."""
    path = folder / name
    image.save(path, **options)
    return images._read(str(path))


@pytest.mark.parametrize("name", ["ramp.png", "ramp.tif", "ramp.pgm"])
def test_grey_with_16_bits_keeps_its_ramp(tmp_path, name):
    """0 … 65535 become 0 … 255, rounded: black and white would have a mean of 251."""
    ramp = np.linspace(0, 65535, 256 * 4).round().astype(np.uint16).reshape(4, 256)
    found = saved(tmp_path, name, Image.fromarray(ramp))
    assert torch.equal(found, torch.tensor((ramp / 257).round()).byte().expand(3, 4, 256))
    assert 127 <= found.double().mean() <= 128


@pytest.mark.parametrize("mode", ["I", "F"])
def test_grey_without_a_known_range_is_refused_by_name(folder, mode):
    Image.new(mode, (64, 64), 3).save(folder / "train" / "n01" / "1.tif")
    with pytest.raises(ValueError, match=rf"1\.tif \(class n01\) .*mode {mode}.* no known range"):
        tensors(folder)
    (faulty,) = check_images(folder).faulty
    assert "1.tif" in faulty and "8 or 16 bits" in faulty


@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_stand_upright(tmp_path, orientation):
    """Red is on the left of green above blue; the file holds it turned, and says how."""
    picture = Image.new("RGB", (40, 20), "red")
    ImageDraw.Draw(picture).rectangle((20, 0, 39, 9), fill="lime")
    ImageDraw.Draw(picture).rectangle((20, 10, 39, 19), fill="blue")
    turn = Image.Transpose
    inverse = [None, None, turn.FLIP_LEFT_RIGHT, turn.ROTATE_180, turn.FLIP_TOP_BOTTOM]
    inverse += [turn.TRANSPOSE, turn.ROTATE_90, turn.TRANSVERSE, turn.ROTATE_270]
    held = picture if orientation == 1 else picture.transpose(inverse[orientation])
    exif = Image.Exif()
    exif[0x0112] = orientation
    for mode in ("L", "RGBA", "CMYK", "RGB"):  # uncompressed TIFF may be mapped into memory
        of_mode = held.convert(mode)
        turned, straight = (
            saved(tmp_path, "a.tif", image, exif=tag)
            for image, tag in ((of_mode, exif), (picture.convert(mode), Image.Exif()))
        )
        assert torch.equal(turned, straight)
    for name in ("a.jpg", "a.png"):
        found = saved(tmp_path, name, held, exif=exif)
        expected = torch.tensor(np.asarray(picture)).permute(2, 0, 1)
        assert found.shape == expected.shape
        middles = found[:, 5::10, 10::20].int() - expected[:, 5::10, 10::20].int()
        assert middles.abs().max() <= 40  # colours are 255 apart


@pytest.mark.parametrize("exif", [b"Exif\0\0nonsense", b"Exif\0\0II*\0\xff\xff\xff\xff"])
def test_an_orientation_that_cannot_be_read_is_none(tmp_path, exif):
    found = saved(tmp_path, "a.jpg", Image.new("RGB", (40, 20), "red"), exif=exif)
    assert found.shape == (3, 20, 40)


@pytest.mark.parametrize("ending", ["gif", "png", "webp", "tif"])
def test_of_animated_images_the_first_frame_counts(tmp_path, ending):
    red, blue = (Image.new("RGB", (16, 16), colour) for colour in ("red", "blue"))
    found = saved(tmp_path, f"a.{ending}", red, save_all=True, append_images=[blue])
    assert (found[0] > 240).all() and (found[2] < 10).all()


STRAYS = (".ipynb_checkpoints", "@eaDir", "__MACOSX", ".hidden", "lost+found")


def test_stray_folders_are_neither_classes_nor_duplicates(folder):
    before = [listed(folder, split) for split in ("train", "val")]
    for split in ("train", "val"):
        for name in STRAYS:
            put(folder / split / name / "0.png")
            put(folder / split / "n01" / name / "0.png")
        put(folder / split / "n02" / "._0.png")
        (folder / split / "itself").symlink_to(folder / split)
        (folder / split / "n01" / "up").symlink_to(folder / split, target_is_directory=True)
        (folder / split / "n01" / "round").symlink_to(".")
        (folder / split / "twin").symlink_to("n01")
    assert [listed(folder, split) for split in ("train", "val")] == before
    found = check_images(folder)
    assert (found.images, found.classes, found.problems) == ({"train": 9, "val": 6}, 3, [])
    for split in ("train", "val"):
        assert found.skipped[split]["@eaDir/"] == 2
        assert found.skipped[split]["itself/"] == found.skipped[split]["twin/"] == 1


def test_links_to_folders_elsewhere_are_followed(folder, tmp_path):
    before = listed(folder, "train")[1]
    place = tmp_path / "elsewhere"
    (folder / "train" / "n02").rename(place)
    (folder / "train" / "n02").symlink_to(place)
    (place / "back").symlink_to(folder / "train")
    assert listed(folder, "train")[1] == before


def test_skipped_endings_are_counted(folder):
    for name in ("a.heic", "b.heic", "c.GIF"):
        put(folder / "val" / "n01" / name.replace("heic", "png"))
        (folder / "val" / "n01" / name.replace("heic", "png")).rename(folder / "val" / "n01" / name)
    found = check_images(folder)
    assert found.images["val"] == 7  # the GIF counts
    assert found.skipped["val"] == {".heic": 2, ".hidden/": 1}
    assert found.skipped["train"] == {".txt": 2}
    assert "skipped in val: .heic 2, .hidden/ 1" in str(found)


def test_the_flat_validation_folder_of_imagenet_is_recognised(folder):
    shutil.rmtree(folder / "val")
    for k in range(3):
        put(folder / "val" / f"ILSVRC2012_val_0000000{k}.JPEG")
    truncate(folder / "train" / "n03" / "deep" / "er" / "a.JPEG")
    with pytest.raises(FileNotFoundError, match=r"/val holds images but no folder for each class"):
        listed(folder, "val")
    found = check_images(folder)  # all of train is looked at, and nothing of it lost
    (problem,) = found.problems
    assert "torchvision.datasets.ImageNet(" in problem and "sort them" in problem
    assert len(found.faulty) == 1 and found.images["train"] == 9


def test_long_lists_are_cut(tmp_path):
    for k in range(300):
        put(tmp_path / "train" / f"c{k:03}" / "0.png", size=(8, 8))
        (tmp_path / "train" / f"c{k:03}" / "1.png").write_text("no image")
    put(tmp_path / "val" / "c000" / "0.png", size=(8, 8))
    with pytest.raises(FileNotFoundError, match=r"c001, c002, .* and 294 more\.") as error:
        listed(tmp_path, "val")
    assert len(str(error.value)) < 400
    found = check_images(tmp_path)
    assert len(found.faulty) == 300
    assert len(str(found).splitlines()) < 40
    assert "… and 280 more" in str(found)


def sort_into_folders(root):
    """What the usual scripts make of the validation files of Tiny ImageNet."""
    for row in (root / "val" / "val_annotations.txt").read_text().splitlines():
        file, name = row.split("\t")[:2]
        target = root / "val" / name / "images" / file
        target.parent.mkdir(parents=True, exist_ok=True)
        (root / "val" / "images" / file).rename(target)


@pytest.mark.parametrize("left", ["empty", "gone"])
def test_tiny_imagenet_sorted_into_folders_with_annotations_left_behind(tiny, left):
    labels = listed(tiny, "val")[1]
    sort_into_folders(tiny)
    if left == "gone":
        (tiny / "val" / "images").rmdir()
    _, found, names = listed(tiny, "val")
    assert sorted(found) == sorted(labels) and found == sorted(found)
    loaded = tensors(tiny)
    assert_colours_are_those_of(names, loaded.x_test, loaded.y_test)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
def test_texts_of_tiny_imagenet_in_other_encodings(tiny, encoding):
    before = listed(tiny, "val")
    for path in (tiny / "wnids.txt", tiny / "val" / "val_annotations.txt"):
        text = "\n" + path.read_text().replace("\n", "\r\n\r\n") + "  \n"
        path.write_bytes(text.encode(encoding))
    if encoding in ("utf-16-le", "utf-16-be"):  # without a byte order mark
        with pytest.raises(FileNotFoundError, match=r"wnids\.txt is no text in UTF-8: save it so"):
            listed(tiny, "val")
    else:
        assert listed(tiny, "val") == before


def test_doubled_lines_of_tiny_imagenet_count_once(tiny):
    before = listed(tiny, "val")
    for path in (tiny / "wnids.txt", tiny / "val" / "val_annotations.txt"):
        path.write_text(2 * path.read_text())
    assert listed(tiny, "val") == before


def test_an_interrupted_unpacking_of_tiny_imagenet_is_named_with_the_remedy(tiny):
    annotations = tiny / "val" / "val_annotations.txt"
    whole = annotations.read_text()
    for text, message in (
        (whole[: len(whole) // 2].rsplit("\n", 1)[0], r"is not whole: it names no class for val_2"),
        (whole + "val_9.JPEG\n", r"val_annotations\.txt, line 'val_9.JPEG': no class"),
        (whole + "val_0.JPEG\tn01\n", r"val_annotations\.txt, line .*two classes"),
        ("", r"is not whole: it names no class for val_0\.JPEG"),
    ):
        annotations.write_text(text)
        with pytest.raises(FileNotFoundError, match=message):
            listed(tiny, "val")
    annotations.unlink()
    with pytest.raises(FileNotFoundError, match=r"val_annotations\.txt is missing.* again"):
        listed(tiny, "val")
    (tiny / "wnids.txt").write_text("\n")
    with pytest.raises(FileNotFoundError, match=r"wnids\.txt names no classes"):
        listed(tiny, "train")


def test_check_lists_every_faulty_file(folder, tiny):
    truncate(folder / "train" / "n03" / "deep" / "er" / "a.JPEG")
    (folder / "val" / "n01" / "text.JPEG").write_text("not an image")
    found = check_images(folder)
    assert found.images == {"train": 9, "val": 7}
    assert found.classes == 3
    assert found.modes == {"RGB": 14}
    truncated, text = found.faulty
    assert "a.JPEG (class n03) cannot be read" in truncated and "truncated" in truncated.lower()
    assert "text.JPEG (class n01) cannot be read: cannot identify" in text
    (tiny / "val" / "images" / "val_3.JPEG").unlink()
    (missing,) = check_images(tiny).faulty
    assert "val_3.JPEG (class n02) cannot be read: [Errno 2] No such file" in missing


def test_a_faulty_file_is_named_and_no_cache_is_left(folder):
    truncate(folder / "val" / "n02" / "1.png")
    with pytest.raises(ValueError, match=r"1\.png \(class n02\) cannot be read") as error:
        tensors(folder)
    assert "python -m lesson_utils.experiments check-data" in str(error.value)
    assert not list((folder / ".cache").glob("val*"))
    put(folder / "val" / "n02" / "1.png", "n02")
    assert len(tensors(folder).x_test) == 6


def test_images_of_the_size_stay_untouched(tmp_path):
    noise = torch.randint(0, 256, (8, 8, 3), dtype=torch.uint8)
    for split in ("train", "val"):
        put(tmp_path / split / "a" / "0.png", size=(8, 8))
        Image.fromarray(noise.numpy()).save(tmp_path / split / "a" / "0.png")
    assert torch.equal(tensors(tmp_path, size=8).x_train[0], noise.permute(2, 0, 1))


@pytest.mark.parametrize("size", [(96, 48), (48, 96)])
def test_others_are_resized_by_the_shorter_side_and_cropped_in_the_middle(tmp_path, size):
    """A white square in the middle of black fills what is kept; fine stripes give grey."""
    square, stripes = Image.new("RGB", size), Image.new("RGB", size)
    left, top = (size[0] - 48) // 2, (size[1] - 48) // 2
    ImageDraw.Draw(square).rectangle((left, top, left + 47, top + 47), fill="white")
    for x in range(1, size[0], 4):
        ImageDraw.Draw(stripes).rectangle((x, 0, x + 1, size[1]), fill="white")
    for split in ("train", "val"):
        for name, image in (("square", square), ("stripes", stripes)):
            put(tmp_path / split / name / "0.png", size=size)
            image.save(tmp_path / split / name / "0.png")
    kept = tensors(tmp_path, size=12).x_train
    assert kept.shape == (2, 3, 12, 12)
    assert kept[0, :, 1:-1, 1:-1].min() == 255
    # Without antialiasing the middle of each four columns would be taken, which is white.
    assert (kept[1, :, :, 1:-1].int() - 127).abs().max() < 20
    middle, label = next(iter(loader(tmp_path, "val", size=12, batch_size=2)))
    assert middle.shape == (2, 3, 12, 12)
    assert middle[0].min() == 1  # squares come first
    assert label.tolist() == [0, 1]


@pytest.fixture
def decoded(monkeypatch):
    """The files decoded so far."""
    files, read = [], images._read
    monkeypatch.setattr(images, "_read", lambda file: (files.append(file), read(file))[1])
    return files


def test_the_second_call_decodes_nothing(folder, decoded):
    first = tensors(folder)
    assert len(decoded) == 15
    second = tensors(folder)
    assert len(decoded) == 15
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_the_cache_is_of_split_classes_size_and_files(folder, decoded):
    tensors(folder)
    assert tensors(folder, size=32).x_train.shape[-1] == 32
    assert len(decoded) == 30
    tensors(folder, classes=2)
    assert len(decoded) == 40
    put(folder / "val" / "n01" / "0.png", "n02", size=(70, 90))  # another size in bytes, too
    assert tensors(folder).x_test[0, :, 0, 0].tolist() == list(COLOURS["n02"])
    assert len(decoded) == 46  # the six of val, not the nine of train
    (folder / "train" / "n01" / "1.png").rename(folder / "train" / "n01" / "zzz.png")
    assert len(tensors(folder).x_train) == 9
    assert len(decoded) == 55


def test_the_cache_lies_where_it_is_told_to_and_writes_do_not_reach_it(folder, tmp_path, decoded):
    elsewhere = tmp_path / "elsewhere"
    loaded = tensors(folder, cache=elsewhere)
    assert not (folder / ".cache").exists()
    assert sorted(file.stat().st_size for file in elsewhere.iterdir()) == [
        6 * 3 * 64 * 64,
        9 * 3 * 64 * 64,
    ]
    loaded.x_train.zero_()
    assert tensors(folder, cache=str(elsewhere)).x_train.max() > 200
    assert len(decoded) == 15
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match="file"):
        tensors(folder, cache=tmp_path / "file" / "cache")


def test_a_call_that_was_killed_does_no_harm(folder, decoded):
    expected = tensors(folder)
    for file in (folder / ".cache").iterdir():
        file.with_name(file.name + ".part").write_bytes(file.read_bytes()[:1000])
        file.unlink()
    again = tensors(folder)
    assert len(decoded) == 30
    assert all(torch.equal(a, b) for a, b in zip(expected, again, strict=True))


def test_a_truncated_cache_is_made_anew(folder, decoded):
    expected = [part.clone() for part in tensors(folder)]
    for file in (folder / ".cache").iterdir():
        file.write_bytes(file.read_bytes()[:-100])
    again = tensors(folder)
    assert len(decoded) == 30
    assert all(torch.equal(a, b) for a, b in zip(expected, again, strict=True))


def test_a_cache_that_cannot_be_written_says_what_to_do(folder, tmp_path):
    (folder / ".cache").write_text("in the way, as a folder that may only be read would be")
    with pytest.raises(OSError, match=r"cannot be written .*--cache FOLDER"):
        tensors(folder)
    assert len(tensors(folder, cache=tmp_path / "mine").x_test) == 6


COLD = """
import sys, time
from lesson_utils import photographs

read, times = photographs._read, []

def slow(file):
    times.append(file)
    time.sleep(0.01)
    return read(file)

photographs._read = slow
print("ready", flush=True)
sys.stdin.readline()
sets = photographs.load_images(sys.argv[1], size=16)
print(len(times), int(sum(part.tensors[0].long().sum() for part in sets)))
"""


def test_several_processes_make_a_cold_cache_once(folder):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = str(Path(images.__file__).parents[2])
    command = [sys.executable, "-c", COLD, str(folder)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    started = [subprocess.Popen(command, env=environment, **pipes) for _ in range(3)]
    assert [process.stdout.readline() for process in started] == ["ready\n"] * 3
    for process in started:
        process.stdin.write("go\n")
        process.stdin.flush()
    found = [process.communicate(timeout=120)[0].split() for process in started]
    assert {process.returncode for process in started} == {0}
    assert sum(int(count) for count, _ in found) == 15  # each image was decoded by one of them
    expected = sum(part.tensors[0].long().sum() for part in load_images(folder, size=16))
    assert {int(total) for _, total in found} == {int(expected)}
    assert len(list((folder / ".cache").iterdir())) == 2


@pytest.fixture
def served(tmp_path, monkeypatch):
    """A folder, and the address at which this machine serves its files to itself."""
    folder = tmp_path / "server"
    folder.mkdir()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=folder)

        def log_message(self, *args):
            pass

    monkeypatch.setenv("no_proxy", "*")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield folder, f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


def md5(path):
    return hashlib.md5(path.read_bytes()).hexdigest()


@pytest.fixture
def server(tiny, tmp_path, served):
    """Address and MD5 of an archive with the files of `tiny`."""
    folder, address = served
    with zipfile.ZipFile(folder / "tiny.zip", "w") as packed:
        for file in sorted(tiny.rglob("*")):
            packed.write(file, file.relative_to(tmp_path))
    return f"{address}/tiny.zip", md5(folder / "tiny.zip")


def test_tiny_imagenet_is_fetched_if_it_is_wanted_and_missing(server, tmp_path, monkeypatch):
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("LESSONS_DATA", str(home))
    with pytest.raises(FileNotFoundError, match="LESSONS_DATA") as error:
        find_tiny_imagenet()
    monkeypatch.setattr(images, "TINY_ZIP", (server[0], "0" * 32))
    with pytest.raises(RuntimeError, match="corrupted"):
        find_tiny_imagenet(download=True)
    assert not (home / "tiny-imagenet-200").exists()
    monkeypatch.setattr(images, "TINY_ZIP", server)
    exec(str(error.value).split('python -c "')[1].rstrip('"'))  # the command of the message
    assert tensors(find_tiny_imagenet()).y_test.tolist() == [2, 0, 1, 2]
    monkeypatch.setattr(images, "TINY_ZIP", ("http://127.0.0.1:1/nothing.zip", server[1]))
    assert set(tensors(find_tiny_imagenet(download=True), classes=2).y_test.tolist()) == {0, 1}


def test_a_part_of_tiny_imagenet_is_found_after_the_whole(tiny, tmp_path):
    tiny.rename(tmp_path / "tiny-imagenet-100")
    assert len(tensors(find_tiny_imagenet(tmp_path)).y_test) == 4
    put(tmp_path / "tiny-imagenet-200" / "train" / "n09" / "images" / "0.JPEG", "n09")
    put(tmp_path / "tiny-imagenet-200" / "val" / "n09" / "images" / "0.JPEG", "n09")
    (tmp_path / "tiny-imagenet-200" / "wnids.txt").write_text("n09\n")
    assert len(tensors(find_tiny_imagenet(tmp_path)).y_test) == 1


@pytest.fixture
def imagenette(tmp_path):
    """One image of two classes in each split, in the official layout of the smallest archive."""
    for split in ("train", "val"):
        for wnid, name in (("n01440764", "n01"), ("n03888257", "n02")):
            put(tmp_path / "imagenette2-160" / split / wnid / f"{wnid}_1.JPEG", name)
    return tmp_path / "imagenette2-160"


def test_imagenette_is_found_in_any_size_the_largest_first(imagenette):
    home = imagenette.parent
    assert find_imagenette(home) == find_imagenette(imagenette) == imagenette
    assert tensors(imagenette, size=8).y_test.tolist() == [0, 1]
    for name in ("imagenette-224", "imagenette2-320", "imagenette2"):
        shutil.copytree(imagenette, home / name)
        assert find_imagenette(home) == home / ("imagenette2-160" if "-224" in name else name)
    shutil.rmtree(home / "imagenette2")
    (home / "imagenette2" / "train").mkdir(
        parents=True
    )  # unpacked in part: the classes are missing
    assert (
        find_imagenette(home) == find_imagenette(home, download="full") == home / "imagenette2-320"
    )


def test_imagenette_that_is_packed_or_unpacked_in_part_gets_a_remedy(imagenette):
    home = imagenette.parent
    for download in (True, "160", 320):
        with pytest.raises(ValueError, match="must be '160px', '320px' or 'full', got "):
            find_imagenette(home, download=download)
    shutil.rmtree(imagenette / "train" / "n01440764")
    for download in ("", "160px"):
        with pytest.raises(
            FileNotFoundError, match=r"imagenette2-160 has no .* Delete this folder;"
        ):
            find_imagenette(home, download=download)
    imagenette.rename(home / "other")
    with pytest.raises(
        FileNotFoundError, match=r"imagenette2-160 or another imagenette\*, or fetch"
    ):
        find_imagenette(home)
    with tarfile.open(home / "imagenette2-160.tgz", "w:gz") as archive:
        put(home / "other" / "train" / "n01440764" / "a.JPEG")
        archive.add(home / "other", "imagenette2-160")
    with pytest.raises(FileNotFoundError, match=r"is in .*, but packed\. .*, or fetch it") as error:
        find_imagenette(home)
    command = str(error.value).split("Unpack it: ")[1].split(", or fetch")[0]
    subprocess.run(command, shell=True, check=True)
    assert find_imagenette(home) == imagenette


def test_imagenette_is_fetched_if_it_is_wanted_and_missing(
    imagenette, served, tmp_path, monkeypatch
):
    home, (folder, address) = tmp_path / "home", served
    home.mkdir()
    packed = folder / "imagenette2-320.tgz"
    with tarfile.open(packed, "w:gz") as archive:
        archive.add(imagenette, "imagenette2-320")
    with pytest.raises(FileNotFoundError, match="LESSONS_DATA") as error:
        find_imagenette(home)
    assert list(home.iterdir()) == []
    official, address = Imagenette._ARCHIVES, f"{address}/{packed.name}"
    assert set(official) == {"160px", "320px", "full"}
    monkeypatch.setitem(official, "320px", (address, "0" * 32))
    with pytest.raises(RuntimeError, match="corrupted"):
        find_imagenette(home, download="320px")
    monkeypatch.setitem(official, "320px", (address, md5(packed)))
    exec(str(error.value).split('python -c "')[1].rstrip('"'))  # the command of the message
    assert find_imagenette(home) == home / "imagenette2-320"


@pytest.mark.parametrize("how", ["file", "bytes", "memoryview"])
def test_a_photograph_of_ones_own(how, tmp_path):
    """Left half red, right half blue, 80 × 60, turned on its side as a camera does."""
    image = Image.new("RGB", (80, 60), (255, 0, 0))
    image.paste((0, 0, 255), (40, 0, 80, 60))
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn clockwise, so that red is above
    image.save(tmp_path / "a.png", exif=exif)
    content = (tmp_path / "a.png").read_bytes()
    given = {"file": tmp_path / "a.png", "bytes": content, "memoryview": memoryview(content)}
    x = read_photograph(given[how], 30)
    assert x.shape == (1, 3, 30, 30) and x.dtype == torch.float32
    assert x[0, :, 3, 15].tolist() == [1, 0, 0] and x[0, :, 26, 15].tolist() == [0, 0, 1]
    assert read_photograph(given[how], 200).shape == (1, 3, 200, 200)  # enlarged


def test_photographs_in_other_modes(tmp_path):
    grey = np.full((40, 40), 0.5)
    Image.fromarray((grey * 65535).astype(np.uint16)).save(tmp_path / "sixteen.png")
    Image.new("RGBA", (40, 40), (128, 128, 128, 0)).save(tmp_path / "clear.png")
    for name in ("sixteen.png", "clear.png"):
        assert read_photograph(tmp_path / name, 8).sub(0.5).abs().max() < 0.003
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(
        ValueError, match=r"text.png cannot be read: it is no image .* save it as JPEG"
    ):
        read_photograph(tmp_path / "text.png")
    Image.new("RGB", (63, 3)).save(tmp_path / "strip.png")
    with pytest.raises(ValueError, match=r"strip.png has 3×63 pixels, a strip"):
        read_photograph(tmp_path / "strip.png")
    for content in (b"no image", bytearray(b"no image")):
        with pytest.raises(ValueError, match="a photograph of 8 bytes cannot be read"):
            read_photograph(content)
    Image.fromarray(grey.astype(np.float32)).save(tmp_path / "real.tif")
    with pytest.raises(ValueError, match="no known range: save it with 8 or 16 bits"):
        read_photograph(tmp_path / "real.tif")


def test_what_is_no_file_of_a_photograph_gets_one_sentence(tmp_path, monkeypatch):
    address = "https://example.org/a.png"
    for file in (address, Path(address)):
        with pytest.raises(
            ValueError, match=r"file https:/.* is an address: download the photograph"
        ):
            read_photograph(file)
    with pytest.raises(ValueError, match="is a folder: name one photograph in it"):
        read_photograph(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no photograph none.png \(from the folder /.*\)$"):
        read_photograph("none.png")
    monkeypatch.setenv("HOME", str(tmp_path))
    put(tmp_path / "a.png")
    assert torch.equal(read_photograph("~/a.png", 8), read_photograph(tmp_path / "a.png", 8))
    opened = io.BytesIO((tmp_path / "a.png").read_bytes())
    with Image.open(tmp_path / "a.png") as picture:
        for file in (picture, opened, np.zeros((8, 8, 3)), [1], ({"content": b""},), None):
            kind = type(file).__name__
            with pytest.raises(
                TypeError, match=rf"value\[0\].content, .*\.read\(\)\), got {kind}:"
            ):
                read_photograph(file)
    truncate(tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"a.png cannot be read: .*: copy or download it again"):
        read_photograph(tmp_path / "a.png")


@pytest.mark.filterwarnings("error")
def test_a_palette_with_transparency_is_read_without_a_warning(tmp_path):
    colours = Image.new("P", (40, 40), 7)
    colours.putpalette([250, 20, 20] * 256)
    colours.save(tmp_path / "a.png", transparency=bytes(range(256)))
    x = read_photograph(tmp_path / "a.png", 8)
    assert (255 * x[0, :, 0, 0]).round().tolist() == [250, 20, 20]


def test_loader_gives_floats_in_fixed_order(folder, tiny):
    for root in (folder, tiny):
        batches = list(loader(root, "val", size=32, batch_size=3))
        x, y = (torch.cat(parts) for parts in zip(*batches, strict=True))
        assert x.dtype == torch.float32 and x.shape[1:] == (3, 32, 32)
        assert y.tolist() == listed(root, "val")[1]
        assert 0 <= x.min() <= x.max() <= 1
        assert_colours_are_those_of(["n01", "n02", "n03"], (x * 255).round(), y)


def test_training_is_shuffled_anew_each_epoch(folder):
    def order(epoch):
        batches = loader(folder, "train", size=8, batch_size=4)
        batches.sampler.set_epoch(epoch)
        x, y = (torch.cat(parts) for parts in zip(*batches, strict=True))
        assert_colours_are_those_of(["n01", "n02", "n03"], (x * 255).round(), y)
        assert sorted(y.tolist()) == [0, 0, 0, 1, 1, 1, 2, 2, 2]
        return y.tolist()

    assert order(0) == order(0)
    assert len({tuple(order(epoch)) for epoch in range(4)}) > 1


def test_training_cuts_and_mirrors_at_random(tmp_path):
    """Red grows to the right and green downwards; a mirror image turns red round, never green."""
    picture = Image.new("RGB", (64, 64))
    picture.putdata([(4 * x, 4 * y, 0) for y in range(64) for x in range(64)])
    for split in ("train", "val"):
        put(tmp_path / split / "n01" / "0.png")
        picture.save(tmp_path / split / "n01" / "0.png")
    batches = loader(tmp_path, "train", size=16, batch_size=1)
    torch.manual_seed(0)
    seen = torch.cat([x for _ in range(20) for x, _ in batches])
    to_the_right = (seen[:, 0, :, -1] > seen[:, 0, :, 0]).all(1)
    assert 0 < to_the_right.sum() < 20
    assert (seen[:, 1, -1] > seen[:, 1, 0]).all()
    assert len(seen[:, 1, 0, 0].unique()) > 5
    fixed = loader(tmp_path, "val", size=16, batch_size=1)
    assert torch.equal(*(next(iter(fixed))[0] for _ in range(2)))


@pytest.mark.parametrize("workers", [0, 2])
def test_loader_names_the_faulty_file(folder, workers):
    truncate(folder / "train" / "n02" / "1.png")
    with pytest.raises(ValueError, match=r"n02.1\.png \(class n02\) cannot be read"):
        list(loader(folder, "train", size=16, batch_size=2, workers=workers))


def test_shares_of_two_processes_are_disjoint_and_cover_everything(folder):
    put(folder / "train" / "n01" / "tenth.png")
    put(folder / "val" / "n01" / "third.png")
    put(folder / "val" / "n01" / "fourth.png")
    for split, n in (("val", 8), ("train", 10)):
        shares = [loader(folder, split, size=8, batch_size=2, share=(rank, 2)) for rank in (0, 1)]
        parts = [list(share.sampler) for share in shares]
        assert len(parts[0]) == len(parts[1]) == n // 2
        assert sorted(parts[0] + parts[1]) == list(range(n))
        labels = listed(folder, split)[1]
        for share, part in zip(shares, parts, strict=True):
            assert torch.cat([y for _, y in share]).tolist() == [labels[i] for i in part]
