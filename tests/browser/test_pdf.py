"""The printed book: all of it is there, its links lead somewhere, and nothing is cut off or closed."""

import re
import unicodedata

import pytest
from pypdf import PdfReader
from test_built_book import LESSONS, PAGES, cells

from book.print_pdf import PAGE, PDF, open_book

FIGURES = sum(source.count("plots.show(") for page in LESSONS for source in cells(page, "code"))
TITLES = [cells(page, "markdown")[0].splitlines()[0].removeprefix("# ") for page in LESSONS]
CUT_OFF = """() => [...document.querySelectorAll("pre, table, img, dt, p, mjx-container > mjx-math")]
    .filter(e => e.getBoundingClientRect().right > document.documentElement.clientWidth + 1
        || (e.matches("pre") && e.scrollWidth > e.clientWidth))
    .map(e => e.outerHTML.slice(0, 200))"""


@pytest.fixture(scope="module")
def pdf():
    assert PDF.exists(), "the book is not printed: run `make pdf` first"
    return PdfReader(PDF)


@pytest.fixture(scope="module")
def texts(pdf):
    # Chromium writes "ffi" as one glyph.
    return [unicodedata.normalize("NFKC", page.extract_text()) for page in pdf.pages]


@pytest.fixture(scope="module")
def paper(browser):
    assert PAGE.exists(), "the book is not printed: run `make pdf` first"
    page = open_book(browser)
    yield page
    page.close()


def marked(element):
    """The elements of the tree that screen readers read, from `element` on."""
    element = element.get_object()
    if isinstance(element, list):
        for child in element:
            yield from marked(child)
    elif isinstance(element, dict):
        yield element
        if "/K" in element:
            yield from marked(element["/K"])


def test_pages_are_numbered_and_the_file_has_a_title(pdf, texts):
    assert pdf.metadata.title == "Robustness and Saliency"
    assert len(texts) > 40
    for number, text in enumerate(texts, 1):
        assert text.endswith(f", page {number}")


def test_every_lesson_has_a_bookmark_to_the_page_that_it_begins(pdf, texts):
    def flat(outline):
        for item in outline:
            yield from flat(item) if isinstance(item, list) else [item]

    numbers = {item.title: pdf.get_destination_page_number(item) for item in flat(pdf.outline)}
    assert set(TITLES) <= set(numbers)
    for title in TITLES:
        assert texts[numbers[title]].startswith(title)


def test_contents_have_the_numbers_of_the_pages(pdf):
    contents = unicodedata.normalize("NFKC", pdf.pages[0].extract_text())
    for title in TITLES:
        place = next(p for n, p in pdf.named_destinations.items() if n == place_of(title))
        number = pdf.get_destination_page_number(place) + 1
        name = re.escape(title)  # Chromium may write the number first
        assert re.search(rf"{name}\s*{number}\b|\b{number}\s*{name}", contents), title


def place_of(title):
    return f"/document-{LESSONS[TITLES.index(title)]}"


def test_links_lead_into_the_book_or_to_the_web(pdf):
    links = [a.get_object() for page in pdf.pages for a in page.get("/Annots", [])]
    inner = [link["/Dest"] for link in links if "/Dest" in link]
    assert len(inner) > 2 * len(PAGES)
    assert set(inner) <= set(pdf.named_destinations)
    outer = [link["/A"]["/URI"] for link in links if "/A" in link]
    assert [address for address in outer if not address.startswith("https://")] == []


def test_figures_have_their_alternative_texts(pdf):
    tree = marked(pdf.trailer["/Root"]["/StructTreeRoot"])
    texts = [str(e.get("/Alt", "")) for e in tree if e.get("/S") == "/Figure"]
    assert sum(len(text) > 20 for text in texts) >= FIGURES > 0
    assert all(texts)  # what networks of the page draw has no more than a name before they run


def test_hidden_code_is_shown(texts):
    assert sum(text.count("plots.show(") for text in texts) >= FIGURES


def test_every_box_opens_for_printing_and_closes_again(paper):
    closed = paper.locator("details:not([open])")
    before = closed.count()
    assert before > 0
    paper.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert closed.count() == 0
    assert paper.locator(".toggle-hidden").count() == 0
    paper.evaluate("dispatchEvent(new Event('afterprint'))")
    assert closed.count() == before


def test_nothing_is_wider_than_the_paper(paper):
    paper.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert paper.evaluate(CUT_OFF) == []


def test_nothing_to_click_is_printed(paper):
    controls = ("button", "input", ".headerlink", ".bd-header", "nav.bd-links", ".hide > summary")
    visible = {name: paper.locator(f"{name}:visible").count() for name in controls}
    assert visible == dict.fromkeys(controls, 0)


def test_dark_page_is_printed_light(page, address):
    page.goto(f"{address}/{LESSONS[0]}.html")
    page.evaluate("document.documentElement.dataset.theme = 'dark'")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.evaluate("document.documentElement.dataset.theme") == "light"
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"
