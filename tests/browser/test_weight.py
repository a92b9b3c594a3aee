"""What a page weighs, and that nothing jumps while it loads on a slow line."""

import pytest
from test_built_book import LESSONS, PAGES

SHIFTS = """window.shifts = [];
new PerformanceObserver((list) => list.getEntries().forEach((entry) => {
    if (!entry.hadRecentInput) shifts.push([entry.startTime, entry.value]);
})).observe({ type: "layout-shift", buffered: true });"""
# Drawn, and no file has come for a second.
SETTLED = """() => performance.now() - 1000 > Math.max(
    0, ...performance.getEntriesByType("resource").map((entry) => entry.responseEnd))"""


def fetched(page, address, name):
    """Opens a page as a new reader does; the sizes of the files that came, by address."""
    sizes = {}
    page.on("response", lambda response: sizes.update({response.url: response}))
    page.goto(f"{address}/{name}.html", wait_until="networkidle")
    page.evaluate("window.MathJax?.startup?.promise")
    came = dict(sizes)  # to ask for a body lets more come
    return {url: len(response.body()) for url, response in came.items() if url.startswith(address)}


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_light(page, address, name):
    sizes = fetched(page, address, name)
    # the networks of a widget that is seen come when the page is there
    sizes = {url: size for url, size in sizes.items() if "/_static/networks/" not in url}
    formulas = sum(size for url, size in sizes.items() if "/mathjax/" in url)
    assert formulas < 1.0e6
    assert not [url for url in sizes if "fontawesome" in url or "searchindex" in url]
    assert sum(size for url, size in sizes.items() if url.endswith((".css", ".js"))) < 1.6e6
    assert sum(sizes.values()) < 2.5e6


def test_icons_are_drawn(page, address):
    page.goto(f"{address}/{LESSONS[0]}.html")
    icons = page.locator(":is(i, span)[class*='fa-']:visible").all()
    assert len(icons) >= 5
    for icon in icons:
        letter, font = icon.evaluate(
            "i => { const s = getComputedStyle(i, '::before'); return [s.content, s.fontFamily] }"
        )
        assert letter not in ("none", "normal") and "Awesome" in font
    loaded = "[...document.fonts].filter(f => f.family.includes('Awesome') && f.status === 'loaded').length"
    page.wait_for_function(f"{loaded} > 0")


@pytest.mark.parametrize("name", PAGES)
def test_nothing_jumps_while_a_page_loads(browser, slow_address, name):
    context = browser.new_context(viewport={"width": 1400, "height": 900})
    page = context.new_page()
    page.add_init_script(SHIFTS)
    page.goto(f"{slow_address}/{name}.html", timeout=90_000)
    page.evaluate("Promise.all([window.MathJax?.startup?.promise, document.fonts.ready])")
    page.wait_for_function(SETTLED, timeout=90_000)
    total = sum(value for _, value in page.evaluate("shifts"))
    context.close()
    assert total <= 0.05


def test_figures_are_files_with_a_place_of_their_own(page, address):
    page.goto(f"{address}/{LESSONS[0]}.html")
    figures = page.locator(".cell_output img.dark-light")
    assert figures.count() >= 2
    for figure in figures.all():
        assert "/_images/" in figure.evaluate("i => i.src")
        figure.scroll_into_view_if_needed()
        figure.evaluate("i => i.decode()")
        drawn = figure.evaluate("i => i.naturalWidth / i.naturalHeight")
        kept = figure.evaluate("i => i.getAttribute('width') / i.getAttribute('height')")
        assert kept == pytest.approx(drawn, rel=0.02)
