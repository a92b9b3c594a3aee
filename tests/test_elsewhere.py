"""The lessons where a reader may open them: the recipes of the book, run line by line."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "book" / "how_to_use.md").read_text(encoding="utf-8")
SETTINGS = yaml.safe_load((ROOT / "book" / "_config.yml").read_text(encoding="utf-8"))
URL = "https://github.com/OWNER/NAME"


def load_extension():
    path = ROOT / "book" / "_ext" / "elsewhere.py"
    spec = importlib.util.spec_from_file_location("elsewhere", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def repository(tmp_path):
    """A git repository of what a lesson needs, at an address on this machine."""
    folder = tmp_path / "origin"
    folder.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    for name in ("lesson_utils", "lessons"):
        compiled = shutil.ignore_patterns("__pycache__", "recorded")
        shutil.copytree(ROOT / name, folder / name, ignore=compiled)
    author = ["-c", "user.name=A", "-c", "user.email=a@example.org"]
    for words in (["init", "--quiet"], ["add", "."], [*author, "commit", "--quiet", "-m", "all"]):
        subprocess.run(["git", *words], cwd=folder, check=True)
    return folder.as_uri()


@pytest.fixture
def python(tmp_path):
    """An environment of its own where, as on Colab, PyTorch and other packages are there already."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "env"], check=True)
    folder = next((tmp_path / "env").rglob("site-packages"))
    there = "\n".join(path for path in sys.path if path.endswith("site-packages"))
    (folder / "there.pth").write_text(there, encoding="utf-8")
    return tmp_path / "env" / Path(sys.executable).parent.name / "python"


def recipe():
    """The lines of the first cell on Colab, as the page prints them."""
    (block,) = re.findall(r"```text\n(.*?git clone.*?)```", PAGE, flags=re.S)
    return [line.strip() for line in block.strip().splitlines()]


def test_the_lines_for_colab(tmp_path, repository, python):
    """Run as they stand, but for the address; off the network, because all packages are there."""
    folder = tmp_path / "content"
    folder.mkdir()
    clone, install, go = recipe()
    assert clone.startswith("!git clone ") and URL in clone
    command = clone.removeprefix("!").replace(URL, repository)
    subprocess.run(command, shell=True, cwd=folder, check=True)
    assert install.startswith("%pip install ")
    command = f"'{python}' -m {install.removeprefix('%')} --no-index --no-build-isolation"
    subprocess.run(command, shell=True, cwd=folder, check=True)
    where = folder / go.removeprefix("%cd ")
    code = "import exercises, lesson_utils; from lesson_utils.data import load_digits; "
    code += "print(lesson_utils.__file__, len(load_digits().x_test))"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [python, "-c", code], cwd=where, env=environment, check=True, capture_output=True, text=True
    )
    file, images = done.stdout.split()
    assert Path(file).is_relative_to(tmp_path / "env") and images == "500"


def test_one_setting_brings_the_buttons_that_need_an_address():
    extension = load_extension()
    assert SETTINGS["repository"]["url"] == "" or extension.PLACEHOLDER == URL
    for url, expected in (("", {}), ("https://github.com/a/b", SETTINGS["launch_buttons"])):
        options = {"repository_url": url, "launch_buttons": SETTINGS["launch_buttons"]}
        config = SimpleNamespace(html_theme_options=options)
        extension.set_address(None, config)
        assert options["launch_buttons"] == expected
        for kind in ("repository", "source", "edit_page", "issues"):
            assert options.get(f"use_{kind}_button", False) == bool(url)
        source = [PAGE]
        extension.name_repository(SimpleNamespace(config=config), "page", source)
        assert (URL in source[0]) == (url == "")


def test_the_page_names_the_zip_that_the_book_holds():
    assert f"../{load_extension().LESSONS}" in PAGE
