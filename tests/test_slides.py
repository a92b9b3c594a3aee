"""The slides of the lessons: which cells are marked, and what `make slides` makes of them."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from bs4 import BeautifulSoup

from book.slides.preprocess import labelled, pages, plain, without_display

ROOT = Path(__file__).parents[1]
LESSONS = sorted((ROOT / "lessons").glob("*.ipynb"))
LOCAL = {"reveal.css", "reveal.js", "notes.js", "tex-svg.js"}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """All slides, written as `make slides` does, but without running the lessons."""
    folder = tmp_path_factory.mktemp("slides")
    command = [sys.executable, "-m", "nbconvert", "--config", "book/slides/config.json"]
    options = ["--ExecutePreprocessor.enabled=False", "--output-dir", str(folder)]
    subprocess.run([*command, *options, *map(str, LESSONS)], check=True, cwd=ROOT)
    return folder


@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
def test_marked_cells(path):
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    marked = [cell for cell in cells if "slideshow" in cell["metadata"]]
    assert 8 <= len(marked) <= 20
    assert marked[0] is cells[0] and marked[-1] is cells[-1]  # the title, the summary
    assert sum("plots.show(" in "".join(cell["source"]) for cell in marked) >= 2
    for cell in marked:
        assert "solution" not in cell["metadata"].get("tags", [])
        assert not re.search(r"\{exercise\}|exercises\.", "".join(cell["source"]))
        kind = cell["metadata"]["slideshow"]["slide_type"]
        assert kind in ("slide", "subslide", "fragment", "-", "notes")


@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
def test_slides(written, path):
    page = (written / f"{path.stem}.slides.html").read_text(encoding="utf-8")
    soup = BeautifulSoup(page, "html.parser")
    slides = [one for one in soup.find_all("section") if not one.find("section")]
    assert 10 <= len(slides) <= 24
    assert slides[0].h1 and slides[-1].find_parent("section").h2.text.startswith("Summary")
    for slide in slides:
        assert len(slide.find_all(["h1", "h2"])) <= 1
        texts = " ".join(text.text for text in slide.find_all(class_="jp-RenderedMarkdown"))
        assert not re.search(
            r"\{(prf|ref|eq|cite|py|admonition|exercise|important)\b|```|:label:|\(eq-", texts
        )
    # nothing is loaded but what lies beside the slides
    loaded = [tag.get("src") or tag.get("href") for tag in soup.select("[src], link[href]")]
    assert {address for address in loaded if not address.startswith("data:")} == {
        f"_static/{name}" for name in LOCAL
    }
    assert not re.search(r"""(url\(|import\b[^;\n]*)["']?(https?:)?//""", page)


def test_directives_and_roles():
    source = (
        "Before.\n\n## A heading\n\nBy {eq}`eq-sum` and {prf:ref}`thm-one` "
        "([Etmann et al. 2019](references.md#etmann2019)),\n\n"
        "$$a = b$$ (eq-sum)\n\n````{prf:proof}\nSee [lesson 1](01_a.ipynb#b).\n\n"
        "```{note}\nHere.\n```\n````\n\nAfter {prf:ref}`that one <thm-one>`."
    )
    text = plain(source, {"thm-one": "Theorem 3.1", "eq-sum": "2"})
    assert "By (2) and Theorem 3.1 (Etmann et al. 2019)," in text
    assert "$$a = b \\tag{2}$$" in text
    shown = list(pages(text, "fragment"))
    assert [kind for kind, _ in shown] == ["fragment", "slide", "subslide"]
    assert shown[1][1].startswith("## A heading") and shown[1][1].endswith("After that one.")
    assert shown[2][1].startswith('<div class="box proof">\n\n**Proof**\n\nSee lesson 1.')
    assert list(pages(text, "slide")) == shown[1:]


def test_what_is_numbered_has_its_number():
    source = "```{prf:theorem} One\n:label: thm-one\nIt holds.\n```"
    ((_, text),) = pages(plain(source, {"thm-one": "Theorem 3.1"}), "fragment")
    assert "**Theorem 3.1 (One)**" in text and text.endswith("It holds.\n\n</div>")


def test_code_that_only_shows_is_left_out():
    assert without_display("a = 1\nplots.table(\n    ['a'],\n    {1: a},\n)\nb = 2\nprint(b)") == (
        "a = 1\nb = 2"
    )
    assert without_display("print('a')") == ""


def test_numbers_are_those_of_the_book():
    titles = labelled()
    assert titles["eq-alignment"] == "3"  # the third displayed formula of lesson 1
    assert titles["thm-bound"] == "Theorem 7.1"
    assert titles["ex-contrast"] == "Exercise 6.5"


def test_what_is_too_much_for_a_page_lies_below():
    long = "word " * 150
    shown = list(pages(f"## A heading\n\n{long}\n\n{long}\n\n{long}", "slide"))
    assert [kind for kind, _ in shown] == ["slide", "subslide", "subslide"]
    assert len(list(pages("word " * 1000, "slide"))) == 1  # a paragraph stays in one piece
