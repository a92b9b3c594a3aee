"""The lessons without their solutions, as `make student` writes them."""

import json
import subprocess
import sys
from pathlib import Path

from test_exercises import MODULES, NOTEBOOKS

CONFIGURATION = Path(__file__).parents[1] / "book" / "student.json"


def test_no_solution_is_left_in_the_student_version(tmp_path):
    """Written with the configuration that `make student` uses."""
    command = [sys.executable, "-m", "nbconvert", "--config", str(CONFIGURATION)]
    notebooks = [str(NOTEBOOKS[module]) for module in MODULES]
    subprocess.run([*command, "--output-dir", str(tmp_path), *notebooks], check=True)
    for module in MODULES:
        whole = json.loads(NOTEBOOKS[module].read_text(encoding="utf-8"))["cells"]
        left = json.loads((tmp_path / NOTEBOOKS[module].name).read_text(encoding="utf-8"))["cells"]
        tagged = [cell for cell in whole if "solution" in cell["metadata"].get("tags", [])]
        assert len(tagged) >= 3
        assert [cell["id"] for cell in left] == [c["id"] for c in whole if c not in tagged]
        text = "\n".join("".join(cell["source"]) for cell in left)
        assert not any("".join(cell["source"]) in text for cell in tagged)
        assert "Solution of" not in text and "assert exercises." not in text
        assert "exercises." in text
        assert not any(cell.get("outputs") for cell in left)
