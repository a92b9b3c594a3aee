"""pyproject.toml, constraints.txt, environment.yml and the README tell one story."""

import re
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]


def constraints():
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [Requirement(line) for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(pin.name): pin for pin in pins}


def requirements():
    groups = {"dependencies": PROJECT["dependencies"], **EXTRAS}
    for group, lines in groups.items():
        for line in lines:
            requirement = Requirement(line)
            if canonicalize_name(requirement.name) != canonicalize_name(PROJECT["name"]):
                yield pytest.param(requirement, id=f"{group}:{requirement.name}")


def environment():
    return yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))


def pip_section():
    return next(d["pip"] for d in environment()["dependencies"] if isinstance(d, dict))


def test_constraints_are_exact_versions():
    for pin in constraints().values():
        assert [s.operator for s in pin.specifier] == ["=="], pin
        assert pin.url is None, pin
        assert "+" not in str(pin.specifier), f"{pin}: a local build that others cannot install"


@pytest.mark.parametrize("requirement", list(requirements()))
def test_every_requirement_is_pinned_to_a_version_it_allows(requirement):
    pin = constraints()[canonicalize_name(requirement.name)]
    version = next(iter(pin.specifier)).version
    assert requirement.specifier.contains(version), f"{requirement} but constraints.txt has {pin}"


def test_tests_run_with_the_pinned_versions():
    for name in ("torch", "torchvision", "numpy", "scikit-learn", "matplotlib", "jupyterlab"):
        pinned = next(iter(constraints()[name].specifier)).version
        assert metadata.version(name).split("+")[0] == pinned


def test_core_needs_torch_and_numpy_only():
    assert {Requirement(line).name for line in PROJECT["dependencies"]} == {"torch", "numpy"}


def test_environment_installs_this_project_with_these_constraints():
    constraint, editable = pip_section()
    assert constraint == "--constraint constraints.txt"
    extras = re.fullmatch(r"--editable \.\[(.+)\]", editable).group(1).split(",")
    assert {"book", "test"} <= set(extras) <= set(EXTRAS)
    assert environment()["name"] == PROJECT["name"]


def test_environment_python_is_allowed_and_is_the_one_of_ci():
    python = next(d for d in environment()["dependencies"] if str(d).startswith("python="))
    version = python.removeprefix("python=")
    assert SpecifierSet(PROJECT["requires-python"]).contains(version)
    workflow = (ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8")
    assert f'python-version: "{version}"' in workflow
    assert sys.version_info >= (3, 11)


def closure(extra):
    """Names of the packages that an extra brings, as installed here."""
    found, todo = set(), [(PROJECT["name"], extra)]
    while todo:
        name, extra = todo.pop()
        for line in metadata.requires(name) or []:
            requirement = Requirement(line)
            if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
                pairs = [(requirement.name, e) for e in ("", *requirement.extras)]
                todo += [pair for pair in pairs if pair not in found]
                found |= set(pairs)
    return {canonicalize_name(name) for name, _ in found}


def test_a_notebook_host_keeps_its_own_server():
    """Colab's would stop working with another one; its recipe installs these extras."""
    assert {"torchvision", "foolbox", "tyro", "anywidget"} <= closure("lessons")
    assert not {"jupyterlab", "notebook", "jupyter-server"} & closure("pretrained")
    assert "jupyterlab" in closure("lab")


def test_the_environment_is_one_that_repo2docker_reads():
    """It takes Python's version from the file, and must see that pip needs the whole repository.

    It sees that by an option that names a local folder (repo2docker 2026.4).
    """
    assert set(environment()) == {"name", "channels", "dependencies"}
    assert environment()["channels"] == ["conda-forge"]
    python, pip, section = environment()["dependencies"]
    assert re.fullmatch(r"python=3\.\d+", python) and pip == "pip" and list(section) == ["pip"]
    assert all(re.fullmatch(r"--\w+ \S+", line) for line in section["pip"])


def workflows():
    return sorted((ROOT / ".github" / "workflows").glob("*.yml"))


@pytest.mark.parametrize("path", workflows(), ids=lambda path: path.stem)
def test_steps_of_workflows_call_what_is_there(path):
    """Their syntax is checked by `make workflows`."""
    jobs = yaml.safe_load(path.read_text(encoding="utf-8"))["jobs"]
    commands = [step["run"] for job in jobs.values() for step in job["steps"] if "run" in step]
    text = "\n".join(commands)
    assert set(re.findall(r"\bmake ([a-z-]+)", text)) <= targets()
    assert all((ROOT / name).exists() for name in re.findall(r"(?:bash|python) ([\w./]+)", text))
    assert "make " in text or ".ci/run" in text


def targets():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    return set(re.findall(r"^([a-z-]+):.*##", makefile, flags=re.M))


def test_hooks_run_the_pinned_versions():
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    revisions = {repo["repo"].split("/")[-1]: repo["rev"].lstrip("v") for repo in hooks["repos"]}
    assert revisions["ruff-pre-commit"] == next(iter(constraints()["ruff"].specifier)).version
    assert revisions["nbstripout"] == next(iter(constraints()["nbstripout"].specifier)).version


def test_one_version_everywhere():
    import lesson_utils

    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == lesson_utils.__version__ == metadata.version(PROJECT["name"])


def test_commands_in_the_texts_exist():
    pages = "README.md", "book/how_to_use.md", "book/teaching.md", "CONTRIBUTING.md", ".ci/run"
    for page in pages:
        text = (ROOT / page).read_text(encoding="utf-8")
        named = set(re.findall(r"(?:^|`)make ([a-z-]+)", text, flags=re.M))
        assert named <= targets(), page
        assert named, page
