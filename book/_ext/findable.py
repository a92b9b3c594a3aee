"""Sphinx extension: what the search finds.

A term of the glossary leads to its definition, and to the lesson that the definition names. So
the aliases of a term, such as a symbol, lead there too. The excerpts show text (search.js).
"""

from docutils import nodes
from sphinx import addnodes

GLOSSARY = "book/glossary"


def lessons_of(definition, known):
    """The pages of lessons to which a definition leads."""
    for link in definition.findall(addnodes.pending_xref):
        name = "lessons/" + link["reftarget"].rpartition("/")[2].removesuffix(".ipynb")
        if name in known:
            yield name


def index_lessons(app, env):
    """Enter the terms of the glossary into the index of their lessons too."""
    entries = env.get_domain("index").entries
    terms = {}
    for item in env.get_doctree(GLOSSARY).findall(nodes.definition_list_item):
        names = [term.astext() for term in item.findall(nodes.term)]
        for lesson in lessons_of(item, env.found_docs):
            terms.setdefault(lesson, []).extend(names)
    for lesson, names in terms.items():
        found = [entry for entry in entries.get(lesson, []) if entry[2]]  # without ours of last time
        entries[lesson] = found + [("single", name, "", "main", None) for name in names]
    return []


def load_excerpts(app, pagename, templatename, context, doctree):
    """Give the page of the search, and no other, its script."""
    if pagename == "search":
        app.add_js_file("search.js")


def setup(app):
    """Connect the steps."""
    app.connect("env-updated", index_lessons)
    app.connect("html-page-context", load_excerpts)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
