"""Every widget by keyboard, and as a screen reader is told of it: names, values, one sentence at rest."""

import re

import pytest
from bs4 import BeautifulSoup
from test_built_book import LESSONS, PAGES, cells, soup_of

PLANES = {"toy": "03_linear_toy_model", "affine": "04_affine", "planar": "05_linearized"}
# What stands in the tab order of the page, but the formulas.
STOPS = "a[href], button, input, select, textarea, summary, [tabindex='0'], [role=slider]"


def page_of(part):
    return next(lesson for lesson in LESSONS if part in lesson)


def pages_with_widgets(html):
    return [page for page in PAGES if soup_of(html, page).select("[data-kind]")]


def tree(page):
    """The accessibility tree of Chromium: role, name and value of each element that is not hidden."""
    session = page.context.new_cdp_session(page)
    nodes = session.send("Accessibility.getFullAXTree")["nodes"]
    value = lambda node, key: node.get(key, {}).get("value", "")  # noqa: E731
    return [
        (value(node, "role"), value(node, "name"), value(node, "value"))
        for node in nodes
        if not node.get("ignored")
    ]


def opened(page, address, name):
    page.goto(f"{address}/{name}.html")
    page.evaluate("window.MathJax?.startup?.promise")


@pytest.mark.parametrize("lesson", LESSONS)
def test_formulas_are_read_but_are_no_stop_of_the_tab_key(page, address, lesson):
    opened(page, address, lesson)
    formulas = page.locator("mjx-container")
    assert formulas.count() > 20
    assert page.locator("span.math [tabindex]").count() == 0
    assert page.locator("mjx-assistive-mml math").count() == formulas.count()
    seen = "all => all.filter((e) => e.checkVisibility({ visibilityProperty: true })).length"
    roles = [role for role, _, _ in tree(page)]
    assert roles.count("MathMLMath") == formulas.evaluate_all(seen)


def test_every_control_of_every_widget_has_a_name(page, address, html):
    found = pages_with_widgets(html)
    assert len(found) >= 8
    for name in found:
        opened(page, address, name)
        page.wait_for_selector("[data-kind] :is(input, select, button, [role=slider])")
        named = [node for node in tree(page) if node[0] == "slider"]
        sliders = page.locator("[data-kind] :is(input[type=range], [role=slider])")
        assert len(named) >= sliders.count()
        for _, label, _ in named:
            assert re.search(r"\w", label) and not re.search(r"\d\.\d", label), (name, label)
        for role, label, _ in tree(page):
            if role in ("button", "checkbox", "combobox", "textbox"):
                assert label.strip(), (name, role)


@pytest.mark.parametrize("kind", PLANES)
def test_points_move_by_every_key_of_a_slider_and_the_page_stays(page, address, kind):
    opened(page, address, page_of(PLANES[kind]))
    place = page.locator(f"[data-kind={kind}]").first
    place.scroll_into_view_if_needed()
    for handle in place.locator("[role=slider]").all():
        handle.focus()
        for key, axis, sign in (
            ("Home", 0, -1), ("End", 0, 1), ("PageUp", 1, 1), ("PageDown", 1, -1),
            ("ArrowLeft", 0, -1), ("ArrowRight", 0, 1), ("ArrowDown", 1, -1), ("ArrowUp", 1, 1),
        ):  # fmt: skip
            before, scrolled = where(handle), page.evaluate("scrollY")
            page.keyboard.press(key)
            page.wait_for_timeout(60)
            moved = where(handle)[axis] - before[axis]
            assert moved * sign > 0, (key, moved)
            assert page.evaluate("scrollY") == scrolled
            if key in ("Home", "End"):
                assert abs(where(handle)[0]) == pytest.approx(0.98 * view(handle), abs=0.02)


def where(handle):
    return [float(n) for n in re.findall(r"-?\d+\.\d+", handle.get_attribute("aria-valuetext"))]


def view(handle):
    return float(handle.get_attribute("aria-valuemax"))


@pytest.mark.parametrize("kind", PLANES)
def test_one_short_sentence_is_said_when_a_point_stops(page, address, kind):
    opened(page, address, page_of(PLANES[kind]))
    place = page.locator(f"[data-kind={kind}]").first
    said = place.locator("[aria-live=polite].said")
    assert said.text_content() == ""
    page.evaluate(
        """(live) => { window.heard = [];
        new MutationObserver(() => heard.push(live.textContent)).observe(live, { childList: true }) }""",
        said.element_handle(),
    )
    handle = place.locator("[role=slider]").last
    handle.focus()
    for _ in range(6):
        page.keyboard.press("ArrowRight")
    page.wait_for_function("heard.length > 0")
    page.wait_for_timeout(900)
    heard = page.evaluate("heard")
    assert len(heard) == 1 and len(heard[0]) < 100
    rho = float(place.locator("[data-name=rho]").get_attribute("data-value"))
    assert f"{rho:.2f}" in heard[0]


@pytest.mark.parametrize("kind", PLANES)
def test_start_again_puts_everything_back(page, address, kind):
    opened(page, address, page_of(PLANES[kind]))
    place = page.locator(f"[data-kind={kind}]").first
    values = "rows => rows.map((row) => row.dataset.value)"
    start = place.locator("[data-value]").evaluate_all(values)
    for handle in place.locator("[role=slider]").all():
        handle.press("PageDown")
    assert place.locator("[data-value]").evaluate_all(values) != start
    place.get_by_role("button", name="Start again").press("Enter")
    assert place.locator("[data-value]").evaluate_all(values) == start


def test_the_explorer_of_lesson_3_is_near(page, address, html):
    """How many stops lie before it: the page's links and buttons, and no formula."""
    opened(page, address, page_of("03_linear"))
    stops = page.evaluate(
        """(stops) => { const all = [...document.querySelectorAll(`article ${stops.split(", ").join(", article ")}`)];
        return all.filter((e) => e.checkVisibility() && e.tabIndex >= 0).findIndex((e) => e.closest("[data-kind]")) }""",
        STOPS,
    )
    assert 0 <= stops < 40


def test_players_tell_their_caption_once_they_rest(page, address):
    lesson = next(one for one in LESSONS if "FrameSlider(" in "".join(cells(one, "code")))
    opened(page, address, lesson)
    player = page.locator(".frames").first
    slider = player.locator("input").first
    slider.focus()
    for _ in range(3):
        page.keyboard.press("ArrowRight")
    assert player.locator(".said").text_content() == ""
    page.wait_for_timeout(900)
    assert player.locator(".said").text_content() == player.locator("p").text_content()
    assert (
        BeautifulSoup(player.inner_html(), "html.parser").select("output:not(.share output)") == []
    )
