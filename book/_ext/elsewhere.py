"""Sphinx extension: the lessons elsewhere, as files of the built book, on paper, on Binder and on Colab.

One setting, `repository: url` in `_config.yml`, names the public repository. While it is
empty there are no buttons that launch a lesson, show its source or report an issue, and the
recipes of the pages say OWNER/NAME.
"""

import subprocess
import sys
from pathlib import Path

from lesson_utils import __version__

PLACEHOLDER = "https://github.com/OWNER/NAME"
LESSONS = "_static/robustness-and-saliency-lessons.zip"
PRINT = {
    "Print": ("all", "This page on paper, with code and solutions"),
    "Print without code": ("text", "This page on paper, without code and solutions"),
}
STUDENT = Path(__file__).resolve().parents[1] / "student.py"


def write_lessons(app, exception):
    """Put the student version into a finished book: a notebook alone has no exercises to check."""
    if exception is None and app.builder.name == "html":
        subprocess.run([sys.executable, STUDENT, Path(app.outdir, LESSONS)], check=True)


def offer_tools(app, pagename, templatename, context, doctree):
    """Begin a lesson with its tools: the notebook, all that it needs, and the page on paper."""
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
        links = [
            f'<a class="download-notebook" href="{context["pathto"](file, resource=True)}" '
            f'title="{title}" download>{text}</a>'
            for text, (file, title) in files.items()
        ]
        buttons = [
            f'<button type="button" data-print-page="{what}" title="{title}">{text}</button>'
            for text, (what, title) in PRINT.items()
        ]
        tools = "".join([*links, *buttons])
        context["body"] = f'<div class="lesson-tools">{tools}</div>' + context["body"]


def set_address(app, config):
    """With the address of the repository, buttons lead to it; without, they would lead nowhere."""
    options = config.html_theme_options
    if not options.get("repository_url"):
        options["launch_buttons"] = {}
    else:
        kinds = ("repository", "source", "edit_page", "issues")
        options.update({f"use_{kind}_button": True for kind in kinds})


def name_version(app, config):
    """Say on each page which version of the book it is."""
    config.version = config.release = __version__
    footer = config.html_theme_options.get("extra_footer", "")
    config.html_theme_options["extra_footer"] = f"{footer}<p>Version {__version__}</p>"


def name_repository(app, docname, source):
    """Put the address of the repository into the recipes."""
    url = app.config.html_theme_options.get("repository_url")
    if url:
        source[0] = source[0].replace(PLACEHOLDER, url)


def setup(app):
    """Connect the steps."""
    app.connect("config-inited", set_address)
    app.connect("config-inited", name_version)
    app.connect("source-read", name_repository)
    app.connect("html-page-context", offer_tools)
    app.connect("build-finished", write_lessons)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
