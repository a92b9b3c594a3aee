"""Sphinx extension: citations of the lessons, written as links that hold without Sphinx too.

JupyterLab knows no bibliography. So a lesson names a work in words, with a link to a list beside the
lessons: `([Etmann et al. 2019](references.md#etmann2019))`, or `[Etmann et al. (2019)](…)` in a
sentence. The book makes of each the citation that it is, with its entry on the page of references.
"""

import re

LINK = r"\[[^\[\]]+\]\(references\.md#(\w+)\)"
IN_BRACKETS = re.compile(rf"\(({LINK}(?:; {LINK})*)\)")
IN_A_SENTENCE = re.compile(LINK)


def cite(source: str) -> str:
    """The source of a lesson with roles in place of links to the list."""

    def keys(found):
        return ",".join(IN_A_SENTENCE.findall(found[0]))

    source = IN_BRACKETS.sub(lambda found: f"{{cite}}`{keys(found)}`", source)
    return IN_A_SENTENCE.sub(r"{cite:t}`\1`", source)


def read(app, name, source):
    """Called by Sphinx when it reads a page."""
    if name.startswith("lessons/"):
        source[0] = cite(source[0])


def setup(app):
    """Connect the step."""
    app.connect("source-read", read)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
