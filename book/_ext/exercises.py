"""Sphinx extension: exercises are numbered through their lesson, as lesson and number, 3.2.

sphinx-exercise counts them with Sphinx's own numbers of figures, which here, where the chapters
have no numbers but in their titles, run through the whole book. It also gives the inside of every
exercise the same id, as sphinx-proof does, and an id must stand on a page once.
"""

import re

from docutils import nodes


def number(app, env):
    """Give the exercises of a lesson its number and one of their own, in their order."""
    for name, numbers in env.toc_fignumbers.items():
        if (lesson := re.match(r"lessons/(\d+)_", name)) and "exercise" in numbers:
            labels = list(numbers["exercise"])
            numbers["exercise"] = {
                label: (int(lesson[1]), k) for k, label in enumerate(labels, start=1)
            }
    return []


def drop_shared_ids(app, doctree, name):
    """Leave the inside of exercises, solutions and proofs without an id."""
    for section in doctree.findall(nodes.section):
        if section["ids"] in (["exercise-content"], ["solution-content"], ["proof-content"]):
            section["ids"] = []
    for proof in doctree.findall(nodes.admonition):
        if proof["ids"] == ["proof"]:
            proof["ids"] = []


def setup(app):
    """Connect the steps; the numbers late, because Sphinx counts at the same event."""
    app.connect("doctree-resolved", drop_shared_ids)
    app.connect("env-get-updated", number, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
