"""Run by `make resolve`: whether there is a set of versions for every Python promised.

uv resolves for a Python that need not be here, and installs nothing. With the versions of
constraints.txt, every package must be there as a wheel, so that nobody needs a compiler, and
no package may be without a version.
"""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
OLDEST_PYTHON = PROJECT["requires-python"].removeprefix(">=")
PINNED = ["--constraint", "constraints.txt", "--all-extras", "--no-build"]
LOOSE = ["--all-extras", "--resolution"]
CASES = [  # Debian 12 has Python 3.11.2
    *(
        (python, PINNED)
        for python in (f"{OLDEST_PYTHON}.0", "3.11.2", "3.12.0", "3.13.0", "3.14.0")
    ),
    (f"{OLDEST_PYTHON}.0", [*LOOSE, "lowest-direct"]),
    ("3.14.0", [*LOOSE, "highest"]),
]


def resolve(python, options):
    """The versions that uv finds, one a line, or its reason why there are none."""
    command = [
        sys.executable,
        "-m",
        "uv",
        "pip",
        "compile",
        "--quiet",
        "--no-header",
        "--no-annotate",
    ]
    command += ["--python-version", python, *options, "pyproject.toml"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def names(text):
    """The names in lines `name==version`, as package indices compare them."""
    return {re.sub("[-_.]+", "-", name).lower() for name in re.findall(r"^([\w.-]+)==", text, re.M)}


def main():
    """Print one line a case; the exit status is the number of those that cannot be installed."""
    failed = 0
    pinned = names((ROOT / "constraints.txt").read_text(encoding="utf-8"))
    for python, options in CASES:
        done = resolve(python, options)
        said = done.stderr if done.returncode else f"{len(names(done.stdout))} packages"
        loose = names(done.stdout) - pinned if options is PINNED else set()
        failed += bool(done.returncode or loose)
        said += f"; not in constraints.txt: {', '.join(sorted(loose))}" if loose else ""
        print(f"Python {python}, {' '.join(options)}: {said}", flush=True)
    return failed


if __name__ == "__main__":
    sys.exit(main())
