"""Write the lessons without their solutions, with all that they need, to a folder: `make student`.

The folder runs as it is wherever its packages are: `lesson_utils` lies beside the lessons.
The book offers it as one zip; its `requirements.txt` says what to install.
"""

import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LESSONS = ROOT / "lessons"
READ_ME = """\
Robustness and Saliency: the lessons without the solutions of their exercises.

You need Python {python} and, on Linux, 7 GB of disk. In this folder:

    python3 -m venv .venv
    .venv/bin/pip install -r requirements.txt
    .venv/bin/jupyter lab

On Windows the folder is .venv\\Scripts. Code is under the MIT licence, text and figures under
CC BY 4.0, some weights and photographs under licences of their own (see LICENSE).
"""


def write(folder):
    """Write the student version into a folder that does not exist or is empty."""
    folder = Path(folder)
    notebooks = sorted(map(str, LESSONS.glob("*.ipynb")))
    convert = ["-m", "nbconvert", "--config", str(ROOT / "book" / "student.json")]
    convert += ["--log-level", "WARN", "--output-dir", str(folder), *notebooks]
    subprocess.run([sys.executable, *convert], check=True)
    compiled = shutil.ignore_patterns("__pycache__")
    for source in (LESSONS / "exercises", LESSONS / "recorded", ROOT / "lesson_utils"):
        shutil.copytree(source, folder / source.name, ignore=compiled)
    for name in ("constraints.txt", "LICENSE", "lessons/references.md"):
        shutil.copy(ROOT / name, folder)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    wanted = [line for name in ("lessons", "pretrained", "lab") for line in extras[name]]
    wanted = project["dependencies"] + wanted
    others = [line for line in wanted if not line.startswith(project["name"])]
    lines = "\n".join(["--constraint constraints.txt", *others])
    (folder / "requirements.txt").write_text(f"{lines}\n", encoding="utf-8")
    readme = READ_ME.format(python=project["requires-python"].removeprefix(">=") + " or newer")
    (folder / "README.txt").write_text(readme, encoding="utf-8")


def write_zip(path):
    """Write the student version as a zip that unpacks into one folder."""
    path = Path(path)
    folder = path.with_name(path.stem)
    shutil.rmtree(folder, ignore_errors=True)
    write(folder)
    shutil.make_archive(str(folder), "zip", path.parent, folder.name)
    shutil.rmtree(folder)


if __name__ == "__main__":
    target = sys.argv[1]
    (write_zip if target.endswith(".zip") else write)(target)
