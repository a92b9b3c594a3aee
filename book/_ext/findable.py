"""Sphinx extension: what the search finds.

A term of the glossary leads to its definition, and to the lesson that the definition names; a
symbol leads to the page of notation too. The excerpts show text (search.js).
"""

from functools import cache

from docutils import nodes
from sphinx import addnodes

GLOSSARY, NOTATION = "book/glossary", "book/notation"


@cache
def terms_of_pages(env):
    """The terms that lead to a page beside the glossary, by the name of the page."""
    found = {}
    for item in env.get_doctree(GLOSSARY).findall(nodes.definition_list_item):
        names = [term.astext() for term in item.findall(nodes.term)]
        symbols = [name for name in names if len(name) <= 2 and not name.isascii()]
        found.setdefault(NOTATION, []).extend(symbols)
        for link in item.findall(addnodes.pending_xref):
            found.setdefault(link["reftarget"], []).extend(names)
    return found


def enter_terms(app, doctree, docname):
    """Enter into the index of a page the terms that lead to it."""
    if names := terms_of_pages(app.env).get(docname):
        entries = [("single", name, "", "main", None) for name in names]
        doctree.append(addnodes.index(entries=entries))


def load_excerpts(app, pagename, templatename, context, doctree):
    """Give the page of the search, and no other, its script."""
    if pagename == "search":
        app.add_js_file("search.js")


def setup(app):
    """Connect the steps."""
    app.connect("doctree-resolved", enter_terms)
    app.connect("html-page-context", load_excerpts)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
