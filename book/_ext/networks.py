"""Sphinx extension: the weights of the recorded networks, and the digits, as scripts of the book.

A page asks for a network by a name made from its weights (`lesson_utils.browser`). The scripts
are written from the records when a book is built, and read when a reader asks for the network.
"""

import re
from pathlib import Path

from sphinx.util import logging

from lesson_utils.browser import digits_for_browser, for_browser
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
    settings = load_record(RECORD)["settings"]
    names = [path.stem for path in sorted((RECORD / "models").glob("*.safetensors"))]
    networks = [read_network(RECORD, name, settings)[0] for name in names]
    packed = [digits_for_browser(), *(for_browser(network, SHAPE) for network in networks)]
    for name, text in (file for one in packed for file in one.scripts().items()):
        (folder / name).write_text(text, encoding="utf-8")
    written = {one.digest for one in packed}
    for page in Path(app.outdir).glob("*/*.html"):
        for key in set(ASKED.findall(page.read_text(encoding="utf-8"))) - written:
            logging.getLogger(__name__).warning(
                "%s asks for numbers that no script has: %s", page, key
            )


def setup(app):
    """Connect the step."""
    app.connect("build-finished", write_networks)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
