"""Slides of a lesson: its marked cells, with MyST turned into what nbconvert can show.

A cell is marked by `slideshow.slide_type` in its metadata, which JupyterLab sets. A marked text
may hold several pages: each heading begins a slide, and a proof, or what is too much, lies below.
"""

import ast
import re
from pathlib import Path

import nbformat
from nbconvert.preprocessors import Preprocessor
from nbformat.v4 import new_markdown_cell

LESSONS = Path(__file__).parents[2] / "lessons"
FULL = 1200  # weight of a page; what continues a slide has a third of it
DIRECTIVE = re.compile(r"^(`{3,})\{(?:prf:)?(\w+)\} *(.*)\n((?::.*\n)*)((?s:.*?))^\1$", re.M)
FORMULA = re.compile(r"(\$\$(?s:.*?))\$\$(?: \((eq-[\w-]+)\)$)?", re.M)
LABELLED = re.compile(r"\{(?:prf:)?\w+\} *(.*)\n:label: (\S+)$", re.M)
ROLES = {
    r"\{[\w:]+\}`([^`<]+) <[^`]+>`": r"\1",
    r"\[([^\]]+)\]\([^)]+\.(?:ipynb|md)[^)]*\)": r"\1",
}


def title(kind: str, name: str) -> str:
    """Of a directive: `Theorem (Name)`; an admonition has a title of its own."""
    return name if kind == "admonition" else kind.title() + f" ({name})" * bool(name)


def plain(source: str, titles: dict[str, str]) -> str:
    """Text with titles and numbers in place of roles and labels, and without links to files."""
    for pattern, replacement in ROLES.items():
        source = re.sub(pattern, replacement, source)

    def with_number(formula):
        number = f" \\tag{{{titles[formula[2]]}}}" if formula[2] else ""
        return f"{formula[1]}{number}$$"

    def with_title(directive):
        name = f" ({directive[1]})" if directive[1] else ""
        return f"{{admonition}} {titles[directive[2]]}{name}"

    source = FORMULA.sub(with_number, source)
    source = LABELLED.sub(with_title, source)
    source = re.sub(r"\{eq\}`(eq-[\w-]+)`", lambda label: f"({titles[label[1]]})", source)
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
    """By label, titles and numbers as the book has them: exercises, theorems, …, and formulas."""
    titles = {}
    for path in LESSONS.glob("*.ipynb"):
        cells = nbformat.read(path, as_version=4).cells
        texts = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
        counts = {}
        for _, kind, _, options, _ in DIRECTIVE.findall(texts):
            counts[kind] = counts.get(kind, 0) + 1
            for label in re.findall(r"^:label: (.*)", options, flags=re.M):
                titles[label] = f"{kind.title()} {int(path.name[:2])}.{counts[kind]}"
        formulas = enumerate(FORMULA.findall(texts), start=1)
        titles |= {label: str(k) for k, (_, label) in formulas if label}
    return titles


def without_display(source: str) -> str:
    """Code without the statements that only print, tabulate or draw: a slide shows what they show."""
    lines = source.splitlines()
    for statement in reversed(ast.parse(source).body):
        if ast.unparse(statement).startswith(("print(", "plots.table(", "plots.show(")):
            del lines[statement.lineno - 1 : statement.end_lineno]
    return "\n".join(lines).strip()


class MarkedCells(Preprocessor):
    """Leaves the slides of an executed notebook."""

    def preprocess(self, notebook, resources):
        """Called by nbconvert."""
        titles, cells = labelled(), []
        for cell in notebook.cells:
            slide_type = cell.metadata.get("slideshow", {}).get("slide_type", "skip")
            if cell.cell_type == "code":
                cell.source = without_display(cell.source)
                if not cell.source:
                    cell.metadata["transient"] = {"remove_source": True}
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
