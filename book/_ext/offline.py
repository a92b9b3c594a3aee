"""Sphinx extension: the built book needs no other host, and can be built as one page.

MathJax comes from the wheel `sphinx-mathjax-offline`, in parts that work from `file://` too: the
TeX reader, the setter, its fonts, and the copy of each formula that screen readers read. Its menu
stays away, which would make every formula a stop of the Tab key. Jupyter Book's Thebe scripts
(run cells on a remote kernel) are dropped: they are not used here, would load from another host,
and are declared twice, which the browser reports as an error.
"""

import os
import re
import shutil
from importlib.metadata import files
from pathlib import Path

FOLDER = "mathjax"
PARTS = [
    "core",
    "input/tex-base",
    "input/tex/extensions/ams",
    "input/tex/extensions/noundefined",
    "output/chtml",
    "a11y/assistive-mml",
]
FONTS = "output/chtml/fonts/tex"  # loaded by the setter
# How MathJax is told the same.
SETTINGS = {
    "loader": {"load": [part.replace("input/tex/extensions", "[tex]") for part in PARTS]},
    "tex": {"packages": ["base", "ams", "noundefined"]},
    "options": {"processHtmlClass": "tex2jax_process|mathjax_process|math|output_area"},
}


def copy_mathjax(app, exception):
    """Put the parts of MathJax beside the other static files of a finished HTML build."""
    if exception or app.builder.format != "html":
        return
    names = re.compile(rf".*/{FOLDER}/((?:startup|{'|'.join([*PARTS, FONTS])})\.js|.*\.woff)$")
    for file in files("sphinx-mathjax-offline"):
        if found := names.match(str(file)):
            target = Path(app.outdir, "_static", FOLDER, found[1])
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file.locate(), target)


def set_mathjax(app, config):
    """Name MathJax's first script and its parts."""
    config.mathjax_path = f"{FOLDER}/startup.js"
    config.mathjax3_config = SETTINGS


def drop_thebe(app, pagename, templatename, context, doctree):
    """Keep only the scripts of a page that have nothing to do with Thebe."""
    scripts = context.get("script_files", [])
    told = [f"{getattr(s, 'filename', s)} {getattr(s, 'attributes', '')}".lower() for s in scripts]
    scripts[:] = [s for s, text in zip(scripts, told, strict=True) if "thebe" not in text]


def share_visitors(app, config):
    """Nodes registered for `html` alone are lost once any extension names `singlehtml`."""
    handlers = app.registry.translation_handlers
    handlers["singlehtml"] = handlers["html"] | handlers.get("singlehtml", {})


def setup(app):
    """Connect the steps; late, because other extensions add their scripts first."""
    os.environ["LESSONS_BOOK"] = "1"  # the widgets of the lessons write themselves as HTML
    app.connect("config-inited", share_visitors)
    app.connect("config-inited", set_mathjax)
    app.connect("html-page-context", drop_thebe, priority=900)
    app.connect("build-finished", copy_mathjax)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
