"""Sphinx extension: from each function in a cell to its API entry, by sphinx-codeautolink.

One thing of it is changed. It expects a title in each section, and the boxes of proofs and exercises
have sections inside that have none. What it finds it keeps for no later build: the Makefile reads
and writes all pages in each.
"""

from docutils import nodes
from sphinx_codeautolink.extension.block import CodeBlockAnalyser


def leave_section(self, section):
    """Forget the title of a section, if it had one."""
    if any(isinstance(child, nodes.title) for child in section):
        self.title_stack.pop()


def setup(app):
    """Load the extension with this change."""
    CodeBlockAnalyser.depart_section = leave_section
    app.setup_extension("sphinx_codeautolink")
    return {"parallel_read_safe": True, "parallel_write_safe": True}
