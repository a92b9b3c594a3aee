"""Sphinx extension: what a link leads to, seen before one goes there.

Each page carries the definitions, statements, equations, exercises, references, terms and
functions that its links lead to, as HTML in a script element; `previews.js` shows them.
"""

import json
from pathlib import Path
from urllib.parse import unquote

from bs4 import BeautifulSoup

SHOWN = "div.proof, div.exercise, div.math, div.citation, dt"
USELESS = ".headerlink, script, style, img, .viewcode-link, .proof .proof"
LONGEST = 4000
MARK = '<script type="application/json" id="previews">'


def preview_of(target):
    """HTML of a preview: what stands at an anchor, or, of a name or a term, what is said of it."""
    parts = [target]
    if target.name == "dt":
        said = target.find_next_sibling("dd")
        parts.append(said.find("p") if said and "sig" in target.get("class", []) else said)
    text = ""
    for part in filter(None, parts):
        copy = BeautifulSoup(str(part), "html.parser")
        for useless in copy.select(USELESS):
            useless.decompose()
        for element in copy.select("[id]"):
            del element["id"]
        for link in copy.select("a"):
            link.unwrap()
        if part.name in ("dt", "dd"):
            copy.find(part.name).name = "div"
        text += str(copy)
    return text if len(text) <= LONGEST else ""


def write_previews(app, exception):
    """Put into each finished page the previews of its links."""
    if exception or app.builder.name != "html":
        return
    out = Path(app.outdir)
    paths = [out / f"{name}.html" for name in app.env.found_docs]
    texts = {path: path.read_text(encoding="utf-8").split(MARK)[0] for path in paths}
    soups = {path: BeautifulSoup(text, "html.parser") for path, text in texts.items()}
    targets = {
        (path, element["id"]): element
        for path, soup in soups.items()
        for element in soup.select(SHOWN)
        if element.get("id")
    }
    for path, soup in soups.items():
        found = {}
        for link in soup.select("article.bd-article a[href*='#']"):
            file, _, anchor = link["href"].partition("#")
            there = (path.parent / unquote(file)).resolve() if file else path
            target = targets.get((there, unquote(anchor)))
            if (
                target is not None
                and link["href"] not in found
                and "headerlink" not in link.get("class", [])
            ):
                found[link["href"]] = preview_of(target)
        found = {address: text for address, text in found.items() if text}
        if found:
            data = json.dumps(found).replace("</", "<\\/")
            text = texts[path].rstrip().removesuffix("</html>").rstrip().removesuffix("</body>")
            path.write_text(f"{text}{MARK}{data}</script>\n</body>\n</html>\n", encoding="utf-8")


def setup(app):
    """Connect the step, after the pages are complete."""
    app.add_js_file("previews.js")
    app.connect("build-finished", write_previews, priority=950)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
