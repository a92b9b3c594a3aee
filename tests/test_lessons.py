"""What every lesson must have, whatever it teaches."""

import json
import re
import statistics
from pathlib import Path

import pytest

LESSONS = sorted((Path(__file__).parents[1] / "lessons").glob("*.ipynb"))


@pytest.fixture(params=LESSONS, ids=lambda path: path.stem)
def notebook(request):
    return json.loads(request.param.read_text(encoding="utf-8"))


def sources(notebook, kind):
    return ["".join(c["source"]) for c in notebook["cells"] if c["cell_type"] == kind]


def test_committed_without_outputs(notebook):
    for cell in notebook["cells"]:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None


def test_opens_with_title_time_needs_and_goals(notebook):
    opening = sources(notebook, "markdown")[0]
    assert opening.startswith("# ")
    for word in ("**Time:**", "**You need:**", "**You will:**", "**Data:**"):
        assert word in opening


def test_ends_with_summary_tolerance_and_what_comes_next(notebook):
    closing = sources(notebook, "markdown")[-1]
    for part in ("## Summary", "How far your numbers may differ", "**Next:**"):
        assert part in closing


def test_names_common_mistakes_before_the_exercises(notebook):
    texts = sources(notebook, "markdown")
    box = next(k for k, text in enumerate(texts) if "{admonition} Common mistakes" in text)
    assert texts[box + 1].startswith("## Exercises")


def test_asserts_what_it_claims(notebook):
    assert sum("assert " in source for source in sources(notebook, "code")) >= 6


def test_one_idea_a_cell(notebook):
    def code_lines(source):  # the alternative text of a figure is prose
        lines = [line.strip() for line in source.splitlines()]
        return sum(bool(line) and not line.startswith(('"', "'")) for line in lines)

    lengths = [code_lines(source) for source in sources(notebook, "code")]
    assert statistics.median(lengths) <= 6
    assert max(lengths) <= 20


def test_every_figure_has_alternative_text(notebook):
    code = "\n".join(sources(notebook, "code"))
    assert code.count("plots.show(") >= 2
    assert "plt.show(" not in code


def test_uses_nothing_that_hangs_without_a_browser(notebook):
    code = "\n".join(sources(notebook, "code"))
    assert "interact(" not in code
    assert "widgets.Output(" not in code


def test_the_main_line_has_at_most_4000_words(notebook):
    """The text up to the exercises, without optional sections."""
    words, optional = 0, False
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        heading = next((line for line in source.splitlines() if line.startswith("## ")), None)
        if heading is not None:
            if heading == "## Exercises":
                break
            optional = "optional" in heading.lower()
        if cell["cell_type"] == "markdown" and not optional:
            words += len(source.split())
    assert 1000 < words <= 4000


def test_the_graph_of_the_lessons_agrees_with_what_they_need():
    """Every arrow is a need, and every need is an arrow or a chain of arrows."""
    needs = {}
    for path in LESSONS:
        opening = sources(json.loads(path.read_text(encoding="utf-8")), "markdown")[0]
        line = opening.split("**You need:**")[1].split("\n- ")[0]
        needs[int(path.name[:2])] = {int(n) for n in re.findall(r"\((\d\d)_\w+\.ipynb\)", line)}
    picture = LESSONS[0].parents[1] / "book" / "_static" / "lessons.svg"
    arrows = re.findall(r'<path id="(\d+)-(\d+)"', picture.read_text(encoding="utf-8"))
    drawn = {n: {int(a) for a, b in arrows if int(b) == n} for n in needs}
    assert all(drawn[n] <= needs[n] for n in needs)

    def before(n):
        return drawn[n].union(*(before(m) for m in drawn[n]))

    assert all(needs[n] <= before(n) for n in needs)
