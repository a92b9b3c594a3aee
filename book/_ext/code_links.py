"""Sphinx extension: from each function in a cell to its API entry, by sphinx-codeautolink.

Three things of it are changed. It expects a title in each section, and the boxes of proofs and
exercises have sections inside that have none. Between two builds it keeps what it has found only
of sources that end in `.rst`, and it links only in pages that are read again, not in all that are
written again: both would lose their links.
"""

import json
from pathlib import Path

from docutils import nodes
from sphinx_codeautolink.extension import SphinxCodeAutoLink
from sphinx_codeautolink.extension.block import (
    CodeBlockAnalyser,
    CodeExample,
    Name,
    SourceTransform,
)
from sphinx_codeautolink.extension.cache import DataCache


def leave_section(self, section):
    """Forget the title of a section, if it had one."""
    if any(isinstance(child, nodes.title) for child in section):
        self.title_stack.pop()


def read_cache(self):
    """Take what was found in the builds before, whatever the source is."""
    path = self.cache_dir / self.cache_filename
    found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    for page, blocks in found.items():
        for block in blocks:
            block["example"] = CodeExample(**block["example"])
            block["names"] = [Name(**name) for name in block["names"]]
        self.transforms[page] = [SourceTransform(**block) for block in blocks]


resolve = SphinxCodeAutoLink.generate_backref_tables


def note_written(self, app, doctree, docname):
    """Link in every page that is written."""
    self.outdated_docs.add(str(Path(docname)))
    return resolve(self, app, doctree, docname)


def setup(app):
    """Load the extension with these changes."""
    CodeBlockAnalyser.depart_section = leave_section
    DataCache.read = read_cache
    SphinxCodeAutoLink.generate_backref_tables = note_written
    app.setup_extension("sphinx_codeautolink")
    return {"parallel_read_safe": True, "parallel_write_safe": True}
