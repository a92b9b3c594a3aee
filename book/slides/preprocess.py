"""Slides of a lesson: its marked cells, with MyST turned into what nbconvert can show.

A cell is marked by `slideshow.slide_type` in its metadata, which JupyterLab sets. A marked text
may hold several pages: each heading begins a slide, and a proof, or what is too much, lies below.
"""

import re
from pathlib import Path

import nbformat
from nbconvert.preprocessors import Preprocessor
from nbformat.v4 import new_markdown_cell

LESSONS = Path(__file__).parents[2] / "lessons"
FULL = 1200  # weight of a page; what continues a slide has a third of it
DIRECTIVE = re.compile(r"^(`{3,})\{(?:prf:)?(\w+)\} *(.*)\n((?::.*\n)*)((?s:.*?))^\1$", re.M)
ROLES = {
    r"^(\$\$.*?)\$\$ \(eq-([\w-]+)\)$": r"\1 \\tag{\2}$$",
    r"\{eq\}`eq-([\w-]+)`": r"(\1)",
    r"\{cite:t\}`([^`]+)`": lambda keys: works(keys[1]),
    r"\{cite(?::p)?\}`([^`]+)`": lambda keys: f"[{works(keys[1])}]",
    r"\{[\w:]+\}`([^`<]+) <[^`]+>`": r"\1",
    r"\{py:\w+\}`([^`]+)`": r"`\1`",
    r"\[([^\]]+)\]\([^)]+\.ipynb[^)]*\)": r"\1",
}


def works(keys: str) -> str:
    """Of citation keys, first author and year: `Etmann 2019, Tsipras 2019`."""
    return ", ".join(f"{a.title()} {year}" for a, year in re.findall(r"([a-z]+)(\d{4})", keys))


def title(kind: str, name: str) -> str:
    """Of a directive: `Theorem (Name)`; an admonition has a title of its own."""
    return name if kind == "admonition" else kind.title() + f" ({name})" * bool(name)


def plain(source: str, titles: dict[str, str]) -> str:
    """Text without roles, equation labels and links to notebooks."""
    for pattern, replacement in ROLES.items():
        source = re.sub(pattern, replacement, source, flags=re.M | re.S)
    return re.sub(r"\{(?:prf:)?ref\}`([\w-]+)`", lambda label: titles[label[1]], source)


def blocks(source: str):
    """Pairs of kind and text: headings, paragraphs, and each directive as a box."""
    end = 0
    for directive in [*DIRECTIVE.finditer(source), None]:
        start = directive.start() if directive else len(source)
        for text in filter(None, re.split(r"\n{2,}(?!\$\$)", source[end:start].strip())):
            yield "heading" if text.startswith("#") else "text", text
        if directive:
            _, kind, name, _, body = directive.groups()
            inside = f"**{title(kind, name)}**\n\n{body.strip()}"
            yield kind, f'<div class="box {kind}">\n\n{inside}\n\n</div>'
            end = directive.end()


def weight(text: str) -> int:
    """Characters, and more where a formula stands on lines of its own."""
    return len(text) + 60 * text.count("$$")


def pages(source: str, slide_type: str):
    """Pairs of slide type and text. The type `slide` leaves out what stands before a heading."""
    sections = [[]]
    for kind, text in blocks(source):
        if kind == "heading":
            sections.append([])
        sections[-1].append((kind, text))
    if slide_type == "slide" and len(sections) > 1:
        sections[0] = []
    for section in filter(None, sections):
        first = section is sections[0]
        page, shown = [], slide_type if first else "slide"
        room = FULL if "slide" in shown else FULL // 3
        for kind, text in sorted(section, key=lambda block: block[0] == "proof"):
            full = kind == "proof" or sum(map(weight, [*page, text])) > room
            if full and page and not page[-1].startswith("#"):
                yield shown, "\n\n".join(page)
                page, shown, room = [], "subslide", FULL
            page.append(text)
        yield shown, "\n\n".join(page)


def labelled() -> dict[str, str]:
    """Titles of definitions, theorems, exercises, … by label: lessons refer to each other."""
    titles = {}
    for path in LESSONS.glob("*.ipynb"):
        cells = nbformat.read(path, as_version=4).cells
        texts = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
        exercises = 0
        for _, kind, name, options, _ in DIRECTIVE.findall(texts):
            exercises += kind == "exercise"
            for label in re.findall(r"^:label: (.*)", options, flags=re.M):
                number = f"Exercise {int(path.name[:2])}.{exercises}"
                titles[label] = number if kind == "exercise" else title(kind, name)
    return titles


class MarkedCells(Preprocessor):
    """Leaves the slides of an executed notebook."""

    def preprocess(self, notebook, resources):
        """Called by nbconvert."""
        titles, cells = labelled(), []
        for cell in notebook.cells:
            slide_type = cell.metadata.get("slideshow", {}).get("slide_type", "skip")
            if cell.cell_type == "code" or slide_type in ("skip", "notes"):
                cells += [cell] * (slide_type != "skip")
                continue
            for shown, text in pages(plain(cell.source, titles), slide_type):
                metadata = {"slideshow": {"slide_type": shown}}
                cells.append(new_markdown_cell(text, metadata=metadata))
        # A heading whose cell was not chosen is no slide.
        following = [c.metadata["slideshow"]["slide_type"] for c in cells[1:]] + ["slide"]
        notebook.cells = [
            cell
            for cell, after in zip(cells, following, strict=True)
            if not re.fullmatch("#.*", cell.source) or "slide" not in after
        ]
        return notebook, resources
