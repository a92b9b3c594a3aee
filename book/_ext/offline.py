"""Sphinx extension: the built book needs no other host, and can be built as one page.

MathJax comes from the wheel `sphinx-mathjax-offline`. One file of it, `tex-svg.js`, holds
the TeX reader and the glyphs, needs nothing else, and works from `file://` too. Jupyter
Book's Thebe scripts (run cells on a remote kernel) are dropped: they are not used here,
would load from another host, and are declared twice, which the browser reports as an error.
"""

import os
import shutil
from importlib.metadata import files
from pathlib import Path

SCRIPT = "mathjax/tex-svg.js"


def copy_mathjax(app, exception):
    """Put MathJax beside the other static files of a finished HTML build."""
    if exception or app.builder.format != "html":
        return
    source = next(f for f in files("sphinx-mathjax-offline") if str(f).endswith(SCRIPT))
    target = Path(app.outdir, "_static", SCRIPT)
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source.locate(), target)


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
    app.connect("config-inited", lambda app, config: setattr(config, "mathjax_path", SCRIPT))
    app.connect("html-page-context", drop_thebe, priority=900)
    app.connect("build-finished", copy_mathjax)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
