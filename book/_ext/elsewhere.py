"""Sphinx extension: the lessons elsewhere, as files of the built book, on Binder and on Colab.

One setting, `repository: url` in `_config.yml`, names the public repository. While it is
empty there are no launch buttons, and the recipes of the pages say OWNER/NAME.
"""

import subprocess
import sys
from pathlib import Path

PLACEHOLDER = "https://github.com/OWNER/NAME"
LESSONS = "_static/robustness-and-saliency-lessons.zip"
STUDENT = Path(__file__).resolve().parents[1] / "student.py"


def write_lessons(app, exception):
    """Put the student version into a finished book: a notebook alone has no exercises to check."""
    if exception is None and app.builder.name == "html":
        subprocess.run([sys.executable, STUDENT, Path(app.outdir, LESSONS)], check=True)


def offer_notebook(app, pagename, templatename, context, doctree):
    """Begin a lesson with buttons that give its notebook, and all that it needs."""
    if context.get("page_source_suffix") == ".ipynb":
        files = {
            "All lessons (zip)": (
                LESSONS,
                "The lessons without solutions, with all that they need",
            ),
            "Download notebook": (
                f"_sources/{context['sourcename']}",
                "This lesson with its solutions; it runs in the unpacked folder of the zip",
            ),
        }
        buttons = [
            f'<a class="download-notebook" href="{context["pathto"](file, resource=True)}" '
            f'title="{title}" download>{text}</a>'
            for text, (file, title) in files.items()
        ]
        context["body"] = "".join(buttons) + context["body"]


def drop_launch_buttons(app, config):
    """Without the address of the repository they would lead nowhere."""
    if not config.html_theme_options.get("repository_url"):
        config.html_theme_options["launch_buttons"] = {}


def name_repository(app, docname, source):
    """Put the address of the repository into the recipes."""
    url = app.config.html_theme_options.get("repository_url")
    if url:
        source[0] = source[0].replace(PLACEHOLDER, url)


def setup(app):
    """Connect the steps."""
    app.connect("config-inited", drop_launch_buttons)
    app.connect("source-read", name_repository)
    app.connect("html-page-context", offer_notebook)
    app.connect("build-finished", write_lessons)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
