"""Sphinx extension: numbers that a lesson has in JupyterLab too, and the bars of its solutions.

Exercises, definitions, theorems, … are numbered through their lesson, as lesson and number, 3.2.
sphinx-exercise and sphinx-proof count them with Sphinx's own numbers of figures, which here, where
the chapters have no numbers but in their titles, run through the whole book. An equation has its
place among the displayed formulas of its lesson, as JupyterLab counts them; those without a label
show no number. Both packages also give the inside of every box the same id, and an id must stand on
a page once.
"""

import re

from docutils import nodes
from sphinx_exercise.nodes import solution_node


def number(app, env):
    """Give what is numbered in a lesson the number of the lesson and one of its own, in order."""
    for name, numbers in env.toc_fignumbers.items():
        lesson = re.match(r"lessons/(\d+)_", name)
        for kind, labels in numbers.items() if lesson else ():
            if kind != "displaymath":
                numbered = enumerate(list(labels), start=1)
                numbers[kind] = {label: (int(lesson[1]), k) for k, label in numbered}
        if lesson and "displaymath" in numbers:
            formulas = enumerate(env.get_doctree(name).findall(nodes.math_block), start=1)
            numbers["displaymath"] = {one["ids"][0]: (k,) for k, one in formulas if one["ids"]}
    return []


def drop_shared_ids(app, doctree, name):
    """Leave the inside of exercises, solutions and proofs without an id."""
    for section in doctree.findall(nodes.section):
        if section["ids"] in (["exercise-content"], ["solution-content"], ["proof-content"]):
            section["ids"] = []
    for proof in doctree.findall(nodes.admonition):
        if proof["ids"] == ["proof"]:
            proof["ids"] = []


def name_words(app, doctree, name):
    """Where a solution in code stands before it, say that the other one is in words."""
    for solution in doctree.findall(solution_node):
        place = solution.parent.index(solution)
        before = solution.parent[place - 1] if place else solution
        if "tag_solution" in before.get("classes", []):
            solution[0].children = [nodes.Text("Solution in words")]


def setup(app):
    """Connect the steps; the numbers late, because Sphinx counts at the same event."""
    app.connect("doctree-resolved", drop_shared_ids)
    app.connect("doctree-resolved", name_words)
    app.connect("env-get-updated", number, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
