"""Finding one's way: welcome page, search, links from code to the API, previews of links."""

import re

import pytest
from test_built_book import LESSONS, PAGES, TOC, soup_of

WELCOME = TOC["root"]
FOUND = {
    "λ": "08_robust_training|book/notation",
    "BatchNorm": "06_homogeneous|10_imagenet",
    "ResNet": "10_imagenet",
    "bias": "glossary.html#term-bias$",
    "α": "glossary.html#term-",
}


def results(page, address, query):
    page.goto(f"{address}/search.html?q={query}")
    page.wait_for_function(
        "document.querySelector('p.search-summary')?.textContent.includes('finished')"
    )
    page.wait_for_load_state("networkidle")  # the excerpts are fetched
    page.wait_for_timeout(500)
    return page.locator("#search-results ul.search > li")


@pytest.mark.parametrize("query", FOUND)
def test_search_finds_the_right_place_first(page, address, query):
    found = results(page, address, query)
    addresses = [item.locator("a").first.get_attribute("href") for item in found.all()[:4]]
    assert any(re.search(FOUND[query], address) for address in addresses), addresses
    assert page.complaints == []


@pytest.mark.parametrize("query", ["alignment", "λ", "bias", "homogeneous"])
def test_excerpts_show_text(page, address, query):
    texts = [item.text_content() for item in results(page, address, query).all()]
    excerpts = page.locator("#search-results p.context").all_text_contents()
    assert len(excerpts) >= 3
    for text in excerpts:
        assert not re.search(r"\\[a-z(\[]|Contents|Show code|import ", text), text
    assert texts


def test_welcome_page_has_a_picture_and_three_ways_to_begin(page, address):
    page.goto(f"{address}/{WELCOME}.html")
    assert page.locator("article img").first.get_attribute("alt").startswith("Top row")
    links = page.locator(".start a")
    assert [link.text_content().strip() for link in links.all()] == [
        "Start lesson 1", "Move a slider", "Run it",
    ]  # fmt: skip
    links.first.click()
    page.wait_for_url(f"**/{LESSONS[0]}.html")


def test_lesson_1_is_the_next_page_after_the_welcome():
    assert PAGES[1] == LESSONS[0]


def test_welcome_page_leads_to_every_widget(html):
    soup = soup_of(html, WELCOME)
    links = [a["href"] for a in soup.select("section#what-moves a[href*='#']")]
    leads_to = set()
    for link in links:
        file, _, anchor = link.partition("#")
        target = (html / WELCOME).parent / file if file else html / f"{WELCOME}.html"
        page = str(target.resolve().relative_to(html.resolve())).removesuffix(".html")
        place = soup_of(html, page).find(id=anchor) if anchor else None
        if place and place.select("[data-kind]"):
            leads_to.add(page)
    assert leads_to == {page for page in PAGES if soup_of(html, page).select("[data-kind]")}


def test_pages_say_what_they_are(html):
    from lesson_utils import __version__

    for name in PAGES:
        soup = soup_of(html, name)
        assert len(soup.find("meta", attrs={"name": "description"})["content"]) > 40
        for tag in ("og:title", "og:description", "og:site_name"):
            assert soup.find("meta", property=tag)["content"]
        assert f"Version {__version__}" in soup.select_one(".bd-footer-content").get_text()


@pytest.mark.parametrize("lesson", LESSONS)
def test_functions_in_code_lead_to_their_entries(html, lesson):
    api = soup_of(html, "book/api")
    links = {a["href"] for a in soup_of(html, lesson).select("a.sphinx-codeautolink-a")}
    inside = [link.partition("#")[2] for link in links if "api.html#" in link]
    assert len(inside) >= 2
    assert all(api.find(id=anchor) for anchor in inside)


def test_api_page_begins_with_an_overview_and_sets_its_formulas(page, address):
    import lesson_utils

    page.goto(f"{address}/book/api.html")
    overview = page.locator("section#overview table a")
    names = {name.rpartition(".")[2] for name in overview.all_text_contents()}
    left_out = {
        "AttackResult",
        "BoundTerms",
        "Decomposition",
        "LinearizedRobustness",
        "Measurements",
    }
    assert set(lesson_utils.__all__) - left_out <= names
    page.wait_for_selector("section#overview mjx-container")
    entry = page.locator("dl:has(> dt[id='lesson_utils.saliency.alignment']) mjx-container")
    assert entry.count() >= 1
    assert page.locator("mjx-merror").count() == 0


def test_a_link_shows_what_it_leads_to(page, address, html):
    name = next(one for one in LESSONS if "07_bound" in one)
    page.goto(f"{address}/{name}.html")
    page.evaluate("MathJax.startup.promise")
    link = page.locator(
        "article a[href*='#thm-'], article a[href*='#prop-'], article a[href*='#def-']"
    ).first
    link.scroll_into_view_if_needed()
    link.hover()
    box = page.locator(".preview")
    box.wait_for()
    assert len(box.text_content()) > 40
    page.keyboard.press("Escape")
    assert box.count() == 0
    assert len(page.locator("[id]").evaluate_all("a => a.map(e => e.id)")) == len(
        set(page.locator("[id]").evaluate_all("a => a.map(e => e.id)"))
    )
    page.goto((html / f"{name}.html").as_uri())
    link.focus()
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Tab")
    box.wait_for()
    assert page.complaints == []


def test_previews_show_terms_equations_and_references(html):
    import json

    kinds = set()
    for name in PAGES:
        store = soup_of(html, name).find(id="previews")
        for text in json.loads(store.string).values() if store else []:
            assert " id=" not in text and "<a " not in text
            kinds |= {
                kind for kind in ("proof", "citation", "math", "exercise", "sig") if kind in text
            }
    assert kinds == {"proof", "citation", "math", "exercise", "sig"}
