"""Prints the book, built as one page by `--builder singlehtml`, to one PDF with Chromium.

With the word `text`, without code and solutions.
"""

import os
import shutil
import sys
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

from playwright.sync_api import sync_playwright
from pypdf import PdfReader

BUILD = Path(__file__).parent / "_build"
PAGE = BUILD / "singlehtml" / "index.html"
PDF = BUILD / "pdf" / "robustness-and-saliency.pdf"
FLAGS = "--no-sandbox --disable-gpu --disable-quic --disable-background-networking --disable-component-update --disable-sync"
MARGINS = {"top": "18mm", "bottom": "20mm", "left": "20mm", "right": "20mm"}
FOOTER = f"""<div style="width: 100%; font-size: 8pt; text-align: center"><span class="title"></span>
{version("robustness-and-saliency")}, page <span class="pageNumber"></span></div>"""
READY = """() => [...document.images].every(i => i.complete)
    && [...document.querySelectorAll(".math")].every(m => m.querySelector("mjx-container"))"""
# Subtitle, authors and licences stand elsewhere on the page.
TITLE_PAGE = """document.querySelector("#jb-print-docs-body h1").after(
    ...document.querySelectorAll(".bd-article h1 + p, .bd-footer-content__inner"))"""

NUMBER = """(pages) => document.querySelectorAll("#jb-print-toc a").forEach((link) => {
    const page = pages[decodeURIComponent(link.hash.slice(1))];
    if (page) link.dataset.page = page;
})"""


@contextmanager
def chromium():
    """The system's Chromium, for as long as the `with` block runs."""
    names = ("chromium", "chromium-browser", "google-chrome")
    path = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, names)), None)
    if not path:
        raise SystemExit("no Chromium found: apt-get install chromium, or set CHROMIUM to its path")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS.split())
        yield browser
        browser.close()


def open_book(browser):
    """The page as it will be printed, with every formula drawn at the width of the paper."""
    page = browser.new_page(viewport={"width": 642, "height": 971}, color_scheme="light")
    page.emulate_media(media="print")
    page.goto(PAGE.as_uri())
    page.evaluate("MathJax.startup.promise.then(() => document.fonts.ready)")
    page.wait_for_function(READY)
    page.evaluate(TITLE_PAGE)
    return page


def number_contents(page, path):
    """Write into the list of contents the pages on which its entries begin, as a first print has them."""
    pdf = PdfReader(path)
    pages = {
        name.lstrip("/"): str(pdf.get_destination_page_number(place) + 1)
        for name, place in pdf.named_destinations.items()
    }
    page.evaluate(NUMBER, pages)


def main(what="all"):
    """Sphinx writes the page into a folder, but its links as if it lay above that folder."""
    text = (PAGE.parent / "book" / "index.html").read_text(encoding="utf-8")
    PAGE.write_text(text.replace('href="book/index.html#', 'href="#'), encoding="utf-8")
    path = PDF if what == "all" else PDF.with_stem(f"{PDF.stem}-{what}")
    path.parent.mkdir(parents=True, exist_ok=True)
    layout = {"format": "A4", "margin": MARGINS, "print_background": True}
    footer = {"display_header_footer": True, "header_template": " ", "footer_template": FOOTER}
    with chromium() as browser:
        page = open_book(browser)
        for printing in range(2):  # the first, to learn the numbers of the pages
            page.evaluate("what => { document.documentElement.dataset.print = what }", what)
            page.pdf(path=path, tagged=True, outline=True, **layout, **footer)
            if printing == 0:
                number_contents(page, path)
    print(f"Open {path.relative_to(BUILD.parents[1])}")


if __name__ == "__main__":
    main(*sys.argv[1:])
