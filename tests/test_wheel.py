"""The wheel alone, as it would be in any folder with PyTorch: the core works, the rest says what it needs."""

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
CORE = """
import torch
from lesson_utils import alignment, linearized_robustness, measure, minimal_l2, saliency_map
from lesson_utils.models import SmallNet
from lesson_utils.training import fit, gradient_penalty_loss

model = SmallNet((1, 8, 8)).eval()
x = torch.rand(5, 1, 8, 8)
print(alignment(x, saliency_map(model, x)) - measure(model, x).alignment)
print(linearized_robustness(model, x).value <= 2 * minimal_l2(model, x).distance)
"""
MISSING = {
    "import lesson_utils.plots": ("lesson_utils.plots", "matplotlib>=3.9"),
    "import lesson_utils.widgets": ("lesson_utils.plots", "matplotlib>=3.9"),
    "from lesson_utils import data; data.load_digits()": ("load_digits", "scikit-learn>=1.5"),
    "from lesson_utils import data; data.load_sample_photographs()": (
        "load_sample_photographs",
        "scikit-learn>=1.5",
    ),
    "from lesson_utils import data; data.load_mnist('.')": ("load_mnist", "torchvision>=0.23"),
    "from lesson_utils import models; models.resnet()": ("resnet", "torchvision>=0.23"),
    "from lesson_utils import models; models.load_weights(None, 'a.safetensors')": (
        "load_weights",
        "safetensors>=0.4.5",
    ),
    "import torch, lesson_utils; from torch.nn import Flatten; "
    "lesson_utils.measure(Flatten(), torch.rand(2, 1, 3)).to_frame()": (
        "Measurements.to_frame",
        "pandas>=2.2",
    ),
    "import lesson_utils.records": ("lesson_utils.records", "safetensors>=0.4.5"),
    "import lesson_utils.photographs": ("lesson_utils.photographs", "pillow"),
    "import torch; from lesson_utils import attacks; "
    "attacks.by_foolbox(None, torch.nn.Flatten(), torch.rand(2, 1, 3))": (
        "by_foolbox",
        "foolbox>=3.3.4",
    ),
}


def dependencies(name, found=None):
    """A distribution and all that it requires without extras, as installed here."""
    found = {} if found is None else found
    if canonicalize_name(name) not in found:
        found[canonicalize_name(name)] = metadata.distribution(name)
        for line in metadata.requires(name) or []:
            requirement = Requirement(line)
            environments = [{"extra": extra} for extra in ("", *requirement.extras)]
            if requirement.marker is None or any(map(requirement.marker.evaluate, environments)):
                dependencies(requirement.name, found)
    return found


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built from a copy, so that nothing is written into the repository."""
    source = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    shutil.copytree(
        ROOT / "lesson_utils",
        source / "lesson_utils",
        ignore=shutil.ignore_patterns("__pycache__"),
    )
    pip = [sys.executable, "-m", "pip", "--quiet", "wheel", "--no-index", "--no-deps"]
    subprocess.run([*pip, "--no-build-isolation", "-w", source, source], check=True)
    return next(source.glob("*.whl"))


@pytest.fixture(scope="module")
def site(wheel, tmp_path_factory):
    """A folder of packages that holds the wheel and its dependencies, and nothing else."""
    folder = tmp_path_factory.mktemp("site")
    pip = [sys.executable, "-m", "pip", "--quiet", "install", "--no-index", "--no-deps"]
    subprocess.run([*pip, "--target", folder, wheel], check=True)
    for distribution in dependencies("torch", dependencies("numpy")).values():
        for top in {file.parts[0] for file in distribution.files} - {"..", "__pycache__"}:
            if not (folder / top).exists():
                (folder / top).symlink_to(distribution.locate_file(top))
    return folder


def run(site, *arguments):
    """A process whose only packages are those of the folder, outside the repository."""
    environment = {**os.environ, "PYTHONPATH": str(site), "LESSONS_DATA": ""}
    return subprocess.run(
        [sys.executable, "-S", *arguments],
        cwd=site.parent, env=environment, capture_output=True, text=True,
    )  # fmt: skip


def test_every_file_of_the_package_is_in_the_wheel(wheel):
    files = {path for path in (ROOT / "lesson_utils").rglob("*") if path.is_file()}
    expected = {str(p.relative_to(ROOT)) for p in files if "__pycache__" not in p.parts}
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert packed == expected


def test_the_core_works(site):
    done = run(site, "-c", CORE)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def messages(site):
    """What each of the codes ends with, all tried in one process: it takes seconds to start."""
    code = """
import json, sys
found = {}
for code in json.loads(sys.argv[1]):
    try:
        exec(code, {})
    except ModuleNotFoundError as error:
        found[code] = str(error)
print(json.dumps(found))
"""
    done = run(site, "-c", code, json.dumps(list(MISSING)))
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("code", MISSING)
def test_what_is_missing_is_named_with_the_command_that_brings_it(messages, code):
    what, requirement = MISSING[code]
    package = re.match("[a-z-]+", requirement)[0]
    expected = (
        f"{what} needs {package}, which is not installed: python -m pip install '{requirement}'"
    )
    if package == "torchvision":  # in the version that fits the torch that is here
        expected += f" 'torch=={metadata.version('torch')}'"
    assert messages[code] == expected


def test_the_experiments_name_all_that_they_need_at_once(site):
    done = run(site, "-m", "lesson_utils.experiments", "--help")
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("ModuleNotFoundError: lesson_utils.experiments needs tyro, foolbox, ")
    for requirement in ("torchvision>=0.23", "foolbox>=3.3.4", "tyro>=1.0", "scipy>=1.15"):
        assert f"'{requirement}'" in last


def test_the_report_lists_what_is_missing_and_one_command(site):
    done = run(site, "-m", "lesson_utils")
    assert done.returncode == 0, done.stderr
    assert re.search("torch +[0-9]", done.stdout)
    assert re.search("scikit-learn +missing, needed for the lessons", done.stdout)
    command = re.search("all missing +python -m pip install (.+)", done.stdout)[1]
    for requirement in ("torchvision>=0.23", "matplotlib>=3.9", "pandas>=2.2", "tyro>=1.0"):
        assert f"'{requirement}'" in command
    assert "-e" not in command.split()


def test_without_metadata_the_bare_name_is_advised(site, tmp_path):
    """As in a copied folder: the lessons' zip is one."""
    shutil.copytree(site, tmp_path / "site", symlinks=True)
    shutil.rmtree(next((tmp_path / "site").glob("robustness_and_saliency-*.dist-info")))
    done = run(tmp_path / "site", "-c", "import lesson_utils.plots")
    assert done.stderr.strip().endswith("python -m pip install 'matplotlib'")
    assert done.stderr.count("Traceback") == 1
