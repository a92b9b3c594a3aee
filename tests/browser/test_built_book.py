"""Opens the built pages, as files and in a browser, and looks at what is on them."""

import json
import re
import zipfile
from pathlib import Path

import pytest
import yaml
from bs4 import BeautifulSoup

ROOT = Path(__file__).parents[2]
TOC = yaml.safe_load((ROOT / "book" / "_toc.yml").read_text(encoding="utf-8"))
PAGES = [TOC["root"]] + [c["file"] for part in TOC["parts"] for c in part["chapters"]]
LESSONS = [page for page in PAGES if page.startswith("lessons/")]


def cells(lesson, kind):
    notebook = json.loads((ROOT / f"{lesson}.ipynb").read_text(encoding="utf-8"))
    return ["".join(c["source"]) for c in notebook["cells"] if c["cell_type"] == kind]


def soup_of(html, page):
    return BeautifulSoup((html / f"{page}.html").read_text(encoding="utf-8"), "html.parser")


def test_every_lesson_is_in_the_table_of_contents():
    notebooks = sorted(p.stem for p in (ROOT / "lessons").glob("*.ipynb"))
    assert notebooks == sorted(Path(lesson).name for lesson in LESSONS)
    assert len(LESSONS) >= 8


@pytest.mark.parametrize("lesson", LESSONS)
def test_lesson_has_its_title_and_figures_and_no_traceback(html, lesson):
    soup = soup_of(html, lesson)
    title = cells(lesson, "markdown")[0].splitlines()[0].removeprefix("# ")
    assert soup.h1.get_text().startswith(title)
    expected = sum(source.count("plots.show(") for source in cells(lesson, "code"))
    figures = [i for i in soup.select(".cell_output img") if not i.find_parent(class_="frames")]
    assert len(figures) == expected >= 2
    assert all(len(figure["alt"]) > 20 for figure in figures)
    assert len(soup.select(".cell_output")) > expected, "outputs other than figures are missing"
    for sign in (".output_traceback", ".output.traceback", ".system-message", ".problematic"):
        assert not soup.select(sign)
    assert "Traceback (most recent call last)" not in soup.get_text()


@pytest.mark.parametrize("lesson", LESSONS)
def test_outputs_are_sentences_and_tables_with_few_digits(html, lesson):
    soup = soup_of(html, lesson)
    texts = soup.select(".cell_output .output.text_plain, .cell_output .output.stream")
    tables = soup.select(".cell_output table")
    assert tables and all("numbers" in table["class"] for table in tables)
    assert all(table.thead.th.get_text() or table.thead.find_all("th")[1:] for table in tables)
    for text in (one.get_text() for one in [*texts, *(td for t in tables for td in t("td"))]):
        assert not re.search(r"^\s*[\[({]|tensor\(|array\(|torch\.Size|np\.float", text), text
        for decimals in re.findall(r"\d\.(\d+)", text):
            assert len(decimals.lstrip("0")) <= 4, text


@pytest.mark.parametrize("lesson", LESSONS)
def test_claims_are_folded_into_a_bar_that_counts_them(html, lesson):
    notebook = json.loads((ROOT / f"{lesson}.ipynb").read_text(encoding="utf-8"))
    cells = [c for c in notebook["cells"] if "checks" in c["metadata"].get("tags", [])]
    bars = soup_of(html, lesson).select(".tag_checks details")
    assert len(bars) == len(cells) > 0
    for bar, cell in zip(bars, cells, strict=True):
        n = len(re.findall(r"^\s*assert ", "".join(cell["source"]), flags=re.M))
        assert f"✓ {n} claim" in bar.summary.get_text()
        assert "assert " in bar.pre.get_text() and not bar.has_attr("open")


@pytest.mark.parametrize("lesson", LESSONS)
def test_numbers_of_equations_are_those_of_jupyterlab(html, lesson):
    """The place among the displayed formulas, as text names it in other lessons."""
    text = "\n".join(cells(lesson, "markdown"))
    formulas = re.findall(r"\$\$(?s:.*?)\$\$(?: \((eq-[\w-]+)\)$)?", text, flags=re.M)
    expected = {f"equation-{label}": f"({k})" for k, label in enumerate(formulas, 1) if label}
    found = {
        one.find_parent(class_="math")["id"]: re.sub(r"[^(\d)]", "", one.get_text())
        for one in soup_of(html, lesson).select(".eqno")
    }
    assert found == expected


@pytest.mark.parametrize("lesson", LESSONS)
def test_exercises_have_the_numbers_of_their_lesson(html, lesson):
    soup = soup_of(html, lesson)
    labels = re.findall(r"^:label: (ex-.*)", "\n".join(cells(lesson, "markdown")), flags=re.M)
    chapter = int(Path(lesson).name[:2])
    for k, label in enumerate(labels, start=1):
        assert soup.find(id=label).p.get_text().startswith(f"Exercise {chapter}.{k} ")
    assert len({tag["id"] for tag in soup.select("[id]")}) == len(soup.select("[id]"))


@pytest.mark.parametrize("name", PAGES)
def test_page_in_the_browser(page, address, name):
    page.goto(f"{address}/{name}.html", wait_until="networkidle")
    assert page.complaints == []
    own = (address, "data:", f"blob:{address}")  # blob: the worker that computes networks
    assert [url for url in page.requested if not url.startswith(own)] == []
    formulas = page.locator(".math").count()
    if formulas:
        page.wait_for_function(
            "n => document.querySelectorAll('.math mjx-container').length >= n", arg=formulas
        )
    assert page.locator("mjx-merror, [data-mjx-error]").count() == 0
    broken = """Promise.all([...document.images].map((image) => {
        image.loading = "eager"; // or one that is far below is not asked for
        return image.decode().then(() => 0, () => 1);
    })).then((failures) => failures.reduce((a, b) => a + b, 0))"""
    assert page.evaluate(broken) == 0


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_light_and_reads_no_network_before_it_is_seen(page, address, html, name):
    page.set_viewport_size({"width": 390, "height": 200})
    page.goto(f"{address}/{name}.html", wait_until="networkidle")
    assert [url for url in page.requested if "/networks/" in url] == []
    assert (html / f"{name}.html").stat().st_size < 1_500_000


def test_formulas_and_links_work_without_a_server(page, html):
    page.goto((html / f"{LESSONS[2]}.html").as_uri())
    page.wait_for_selector(".math mjx-container")
    assert page.complaints == []
    page.get_by_role("link", name="lesson 1", exact=True).first.click()
    page.wait_for_url(f"**/{LESSONS[0]}.html")


def test_dark_mode_leaves_the_colours_of_figures_alone(page, address):
    page.goto(f"{address}/{LESSONS[0]}.html")
    page.evaluate("document.documentElement.dataset.theme = 'dark'")
    style = (
        page.locator(".cell_output img")
        .nth(2)
        .evaluate(
            "i => { const s = getComputedStyle(i); return [s.filter, s.backgroundColor, s.opacity] }"
        )
    )
    assert style == ["none", "rgb(255, 255, 255)", "1"]


@pytest.mark.parametrize("name", PAGES)
def test_nothing_is_cut_off_on_a_phone(page, address, name):
    page.set_viewport_size({"width": 390, "height": 800})
    page.goto(f"{address}/{name}.html", wait_until="networkidle")
    page.evaluate("window.MathJax?.startup?.promise")
    overflow = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    assert page.evaluate(overflow) <= 1
    figures = page.locator("article img.dark-light")
    cut = """(images) => images.filter((image) => image.getBoundingClientRect().right > innerWidth
        || image.parentElement.scrollWidth > image.parentElement.clientWidth + 1).map((image) => image.alt)"""
    assert figures.evaluate_all(cut) == []


def test_the_formula_of_the_welcome_page_is_whole_on_a_phone(page, address):
    page.set_viewport_size({"width": 390, "height": 800})
    page.goto(f"{address}/{PAGES[0]}.html")
    page.evaluate("MathJax.startup.promise")
    formula = page.locator("div.math mjx-container")
    assert formula.evaluate("f => f.scrollWidth - f.clientWidth") <= 1


@pytest.mark.parametrize("width", [390, 1400])
def test_tools_of_a_lesson_leave_its_title_alone(page, address, width):
    page.set_viewport_size({"width": width, "height": 800})
    page.goto(f"{address}/{LESSONS[1]}.html")
    tools, title = (page.locator(part).bounding_box() for part in (".lesson-tools", "h1 >> nth=-1"))
    assert tools["y"] + tools["height"] <= title["y"]


def test_page_is_printed_with_or_without_code_and_solutions(page, address):
    page.goto(f"{address}/{LESSONS[1]}.html")
    page.evaluate("print = () => { window.printed = (window.printed ?? 0) + 1 }")
    page.emulate_media(media="print")
    counted = ".cell_input pre, .solution, .cell_output img"
    page.evaluate("document.querySelectorAll('details').forEach((d) => { d.open = true })")

    def shown(what):
        page.evaluate(f"document.querySelector('[data-print-page={what}]').click()")
        page.wait_for_function("window.printed")
        page.evaluate("delete window.printed")
        names = counted.split(", ")
        return [page.locator(f"{name}:visible").count() for name in names]

    code, solutions, figures = shown("all")
    assert code > 10 and solutions > 0 and figures > 2
    left_code, left_solutions, left_figures = shown("text")
    assert left_code == left_solutions == 0
    assert left_figures > 2


def test_next_page_leads_through_all_pages(page, address):
    page.goto(f"{address}/{PAGES[0]}.html")
    for name in PAGES[1:]:
        page.locator("a.right-next").click()
        page.wait_for_url(f"**/{name}.html")


def test_search_finds_alignment(page, address):
    page.goto(f"{address}/search.html?q=alignment")
    # results come one after the other
    page.wait_for_selector(f"#search-results ul.search a[href*='{LESSONS[0]}']")
    found = page.locator("#search-results ul.search a").evaluate_all("a => a.map(e => e.pathname)")
    assert any(LESSONS[0] in path for path in found)
    assert page.complaints == []
    assert [url for url in page.requested if not url.startswith((address, "data:"))] == []


def test_hidden_code_opens_and_closes(page, address):
    page.goto(f"{address}/{LESSONS[0]}.html")
    box = page.locator("details.hide").first
    code = box.locator("pre").first
    assert not code.is_visible()
    box.locator("summary").click()
    assert code.is_visible()
    box.locator("summary").press("Enter")
    assert not code.is_visible()


def test_dark_mode_by_its_button(page, address):
    page.goto(f"{address}/{LESSONS[0]}.html")
    seen = set()
    for _ in range(3):
        page.locator("button.theme-switch-button:visible").first.click()
        seen.add(page.evaluate("document.documentElement.dataset.theme"))
    assert seen == {"light", "dark"}


@pytest.mark.parametrize("lesson", LESSONS)
def test_button_gives_the_notebook(page, address, lesson):
    page.goto(f"{address}/{lesson}.html")
    with page.expect_download() as waiting:
        page.get_by_role("link", name="Download notebook").click()
    download = waiting.value
    assert download.suggested_filename == f"{Path(lesson).name}.ipynb"
    given = json.loads(Path(download.path()).read_text(encoding="utf-8"))
    assert given == json.loads((ROOT / f"{lesson}.ipynb").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", ["book/how_to_use", LESSONS[0]])
def test_link_gives_all_that_the_lessons_need(page, address, name):
    page.goto(f"{address}/{name}.html")
    with page.expect_download() as waiting:
        page.get_by_role("link", name=re.compile("all lessons", re.I)).click()
    with zipfile.ZipFile(waiting.value.path()) as packed:
        files = {Path(name).relative_to(Path(name).parts[0]) for name in packed.namelist()}
    lessons = {Path(lesson).with_suffix(".ipynb").name for lesson in LESSONS}
    assert lessons <= {str(file) for file in files}
    assert Path("lesson_utils/__init__.py") in files and Path("exercises/lesson01.py") in files
