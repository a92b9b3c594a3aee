"""Sphinx extension: the weights of the recorded networks as scripts of the book.

A page asks for a network by a name made from its weights (`lesson_utils.browser`). The scripts
are written from the records when a book is built, and read when a reader asks for the network.
"""

import re
from pathlib import Path

from sphinx.util import logging

from lesson_utils.browser import for_browser
from lesson_utils.records import load_record, read_network

RECORD = Path(__file__).resolve().parents[2] / "lessons" / "recorded" / "mnist"
SHAPE = 1, 28, 28
FOLDER = "_static/networks"
ASKED = re.compile(r'"key": "([0-9a-f]{12})"')


def write_networks(app, exception):
    """Put the scripts into a finished book, and see that its pages ask for no other."""
    if exception or app.builder.name != "html":
        return
    folder = Path(app.outdir, FOLDER)
    folder.mkdir(parents=True, exist_ok=True)
    written = set()
    settings = load_record(RECORD)["settings"]
    for path in sorted((RECORD / "models").glob("*.safetensors")):
        network = for_browser(read_network(RECORD, path.stem, settings)[0], SHAPE)
        written.add(network.digest)
        for name, text in network.scripts().items():
            (folder / name).write_text(text, encoding="utf-8")
    for page in Path(app.outdir).glob("*/*.html"):
        for key in set(ASKED.findall(page.read_text(encoding="utf-8"))) - written:
            logging.getLogger(__name__).warning("%s shows a network of no record: %s", page, key)


def setup(app):
    """Connect the step."""
    app.connect("build-finished", write_networks)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
