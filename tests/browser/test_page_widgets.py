"""Players and explorers in the built pages: by keyboard, mouse and finger, without a kernel."""

import json
import re

import pytest
from bs4 import BeautifulSoup
from test_built_book import LESSONS, cells

PLAYERS = [lesson for lesson in LESSONS if "FrameSlider(" in "".join(cells(lesson, "code"))]
TOY, AFFINE, PLANAR = (
    next(lesson for lesson in LESSONS if f"import {name}" in "".join(cells(lesson, "code")))
    for name in ("ToyExplorer", "AffineExplorer", "PlanarExplorer")
)
STEP = 0.06  # one press of an arrow key on a plane of half-width 3


def opened(page, address, lesson):
    page.goto(f"{address}/{lesson}.html")
    page.wait_for_selector(".frames, .explorer svg [role=slider]")
    page.evaluate("MathJax.startup.promise")  # formulas change the heights


def number(page, name):
    return float(page.locator(f".explorer [data-name={name}]").get_attribute("data-value"))


def numbers(page):
    rows = page.locator(".explorer [data-value]").evaluate_all(
        "cells => cells.map(cell => [cell.dataset.name, cell.dataset.value])"
    )
    return dict(rows)


def explorers_of(lesson):
    """The explorers that a lesson makes and shows, by their kinds."""
    made, shown = {}, []
    for code in cells(lesson, "code"):
        for name, kind in re.findall(r"^(\w+) = (\w+)Explorer\(", code, re.M):
            made[name] = kind.lower()
        last = code.splitlines()[-1]
        shown += [made[last]] if last in made else []
    return shown


def test_every_lesson_has_something_to_move(html):
    assert len(PLAYERS) >= 3
    for lesson in LESSONS:
        players = "\n".join(cells(lesson, "code")).count("FrameSlider(")
        soup = BeautifulSoup((html / f"{lesson}.html").read_text(encoding="utf-8"), "html.parser")
        assert len(soup.select(".frames")) == players
        kinds = [place["data-kind"] for place in soup.select("div[id^=explorer-]")]
        assert kinds == explorers_of(lesson)
        assert players + len(kinds) > 0
        for player in soup.select(".frames"):
            assert len(str(player)) < 500_000
    assert sum((html / f"{lesson}.html").stat().st_size for lesson in LESSONS) < 15e6


@pytest.mark.parametrize("lesson", PLAYERS)
def test_every_slider_of_a_player_moves_by_keyboard(page, address, lesson):
    opened(page, address, lesson)
    for player in page.locator(".frames").all():
        content = json.loads(player.locator("script[type='application/json']").text_content())
        texts, captions = content["texts"], content["captions"]
        image, caption = player.locator("img"), player.locator("p")
        sliders = player.locator("input[type=range]").all()
        assert len(sliders) == len(texts)
        for slider, values in zip(sliders, texts, strict=True):
            slider.focus()
            assert slider.evaluate("s => getComputedStyle(s).outlineStyle") == "solid"
            before = image.get_attribute("src"), caption.text_content()
            page.keyboard.press("ArrowRight")
            assert image.get_attribute("src") != before[0]
            assert caption.text_content() != before[1]
            assert image.get_attribute("alt") == caption.text_content()
            assert slider.get_attribute("aria-valuetext") == values[1]
            page.keyboard.press("End")
            assert slider.get_attribute("aria-valuetext") == values[-1]
        assert caption.text_content() == captions[-1]
        assert image.get_attribute("src") == content["frames"][-1]
        for slider in sliders:
            slider.press("Home")
        assert caption.text_content() == captions[0]


@pytest.mark.parametrize("lesson", PLAYERS)
def test_players_fit_a_phone_without_scrolling(page, address, lesson):
    page.set_viewport_size({"width": 390, "height": 800})
    opened(page, address, lesson)
    for image in page.locator(".frames img").all():
        assert image.evaluate(
            "i => i.getBoundingClientRect().right <= i.closest('.frames').getBoundingClientRect().right"
        )


@pytest.mark.parametrize("lesson", PLAYERS)
def test_every_frame_is_a_picture(page, address, lesson):
    opened(page, address, lesson)
    sizes = page.evaluate("""() => Promise.all([...document.querySelectorAll(".frames")].map(async (root) => {
        const { frames } = JSON.parse(root.querySelector("script").textContent);
        frames[0] = root.querySelector("img").src;
        return Promise.all(frames.map(async (src) => {
            const image = new Image();
            image.src = src;
            await image.decode();
            return image.naturalWidth / image.naturalHeight;
        }));
    }))""")
    for ratios in sizes:
        assert max(ratios) - min(ratios) < 0.02, "the frames differ in shape: the page would jump"


def drag(page, handle, by, *, x="x"):
    box = page.locator(f".explorer [data-handle={handle}] .ring").bounding_box()
    start = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(*start)
    page.mouse.down()
    for share in (0.3, 0.7, 1.0):
        page.mouse.move(start[0] + share * by[0], start[1] + share * by[1])
    page.mouse.up()


def where(page, handle):
    text = page.locator(f".explorer [data-handle={handle}]").get_attribute("aria-valuetext")
    return [float(value) for value in re.findall(r"-?\d+\.\d+", text)]


def test_toy_explorer_by_mouse_keys_and_finger(page, address):
    opened(page, address, TOY)
    page.locator(".explorer").scroll_into_view_if_needed()
    seen = {number(page, "rho")}

    def all_three_agree():
        rho, alpha, product = (number(page, name) for name in ("rho", "alpha", "product"))
        assert abs(rho - alpha) < 1e-12 and abs(rho - product) < 1e-12
        assert rho not in seen, "nothing changed"
        seen.add(rho)

    for handle, by in (("x", (-60, -45)), ("z", (70, 20)), ("x", (30, 200))):
        before = where(page, handle)
        drag(page, handle, by)
        moved = [a - b for a, b in zip(where(page, handle), before, strict=True)]
        assert moved[0] * by[0] > 0 > moved[1] * by[1]  # the picture's y axis points up
        all_three_agree()
    for handle in "xz":
        page.locator(f".explorer [data-handle={handle}]").focus()
        before = where(page, handle)
        page.keyboard.press("ArrowRight")
        page.keyboard.press("Shift+ArrowUp")
        after = where(page, handle)
        assert after[0] - before[0] == pytest.approx(STEP, abs=0.011)
        assert after[1] - before[1] == pytest.approx(5 * STEP, abs=0.011)
        all_three_agree()
    for _ in range(80):  # z cannot be made zero, nor leave the picture
        page.keyboard.press("Shift+ArrowDown")
    assert where(page, "z")[1] >= -3
    assert page.complaints == []


def test_a_finger_drags_and_the_page_does_not_scroll(browser, address):
    context = browser.new_context(viewport={"width": 390, "height": 800}, has_touch=True)
    page = context.new_page()
    opened(page, address, TOY)
    page.locator(".explorer svg").scroll_into_view_if_needed()
    box = page.locator(".explorer [data-handle=x] .ring").bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    before, scrolled = number(page, "rho"), page.evaluate("scrollY")
    touch = context.new_cdp_session(page)
    for kind, points in (
        ("touchStart", [{"x": x + 15, "y": y}]),  # beside it: a finger is not a needle
        ("touchMove", [{"x": x, "y": y - 60}]),
        ("touchEnd", []),
    ):
        touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
    page.wait_for_timeout(200)
    assert number(page, "rho") != before
    assert page.evaluate("scrollY") == scrolled
    context.close()


def test_affine_explorer_says_what_stays(page, address):
    opened(page, address, AFFINE)
    start = numbers(page)
    sentence = page.locator("[data-kind=affine] p")
    slider = page.locator("[data-kind=affine] input[type=range]")
    again = page.get_by_role("button", name="Start again")

    def press(control, key, times):
        control.focus()
        for _ in range(times):
            page.keyboard.press(key)

    actions = [
        (lambda: press(slider.nth(0), "ArrowRight", 9), "rho", "alpha"),
        (lambda: press(slider.nth(1), "ArrowRight", 9), "alpha", "rho"),
        (lambda: press(page.locator(".explorer input[type=checkbox]"), "Space", 1), "rho", "alpha"),
        (lambda: press(page.locator(".explorer [data-handle=c]"), "ArrowUp", 5), "alpha", "rho"),
        (lambda: drag(page, "c", (50, 40)), "alpha", "rho"),
    ]
    for act, changed, same in actions:
        act()
        now = numbers(page)
        assert abs(float(now[changed]) - float(start[changed])) > 1e-3
        assert abs(float(now[same]) - float(start[same])) < 1e-9
        symbol = {"rho": "ρ", "alpha": "α"}
        assert f"{symbol[same]} stays" in sentence.text_content()
        assert f"{symbol[changed]} stays" not in sentence.text_content()
        again.click()
        assert numbers(page) == start
    drag(page, "x", (-80, 60))
    assert numbers(page) != start
    assert page.complaints == []


def test_planar_explorer_follows_the_point(page, address):
    opened(page, address, PLANAR)
    page.locator(".explorer").scroll_into_view_if_needed()
    seen, verdicts = [numbers(page)], set()
    for by in ((60, 0), (-90, 30), (0, -90), (-60, -60), (150, 20), (40, 120)):
        drag(page, "x", by)
        now = numbers(page)
        assert now not in seen
        seen.append(now)
        rho, tilde, radius = (number(page, name) for name in ("rho", "tilde", "radius"))
        text = page.locator(".explorer p").text_content()
        if tilde < radius:
            assert "stays in the blue region" in text and abs(rho - tilde) < 1e-9
        else:
            assert "leaves the blue region" in text and rho >= radius - 1e-9
        verdicts.add(tilde < radius)
    page.locator(".explorer [data-handle=x]").press("ArrowLeft")
    assert numbers(page) not in seen
    assert page.complaints == []


def test_widgets_work_from_a_file(page, html):
    page.goto((html / f"{TOY}.html").as_uri())
    page.wait_for_selector(".explorer svg [role=slider]")
    before = number(page, "rho")
    page.locator(".explorer [data-handle=x]").press("ArrowUp")
    assert number(page, "rho") != before
    page.goto((html / f"{PLAYERS[0]}.html").as_uri())
    source = page.locator(".frames img").get_attribute("src")
    page.locator(".frames input").first.press("ArrowRight")
    assert page.locator(".frames img").get_attribute("src") != source
    assert page.complaints == []


def test_the_state_that_a_page_starts_with_is_the_one_of_the_notebook(page, address):
    """The numbers on the page are those that the Python cell beside it prints."""
    from lesson_utils.widgets import ToyExplorer

    call = re.search(r"ToyExplorer\((.*)\)", "\n".join(cells(TOY, "code"))).group(1)
    explorer = eval(f"ToyExplorer({call})", {"ToyExplorer": ToyExplorer})
    opened(page, address, TOY)
    assert where(page, "x") == explorer.x and where(page, "z") == explorer.z


def to_nine_digits(values):
    return {
        name: re.sub(r"\d+\.\d{9,}", lambda number: f"{float(number[0]):.9f}", value)
        for name, value in values.items()
    }


def test_an_explorer_keeps_its_state_in_the_address(page, address):
    opened(page, address, TOY)
    assert page.evaluate("location.hash") == ""
    page.locator(".explorer [data-handle=x]").press("ArrowRight")
    found, at = numbers(page), where(page, "x")
    page.wait_for_function("location.hash.startsWith('#toy.x=')")
    link = page.url
    page.goto("about:blank")
    page.goto(link)
    page.wait_for_selector(".explorer [data-value]")
    assert to_nine_digits(numbers(page)) == to_nine_digits(found)
    assert where(page, "x") == at
    page.locator(".explorer [data-handle=x]").press("ArrowLeft")  # back where the page begins
    page.wait_for_function("location.hash === ''")
    page.evaluate("location.hash = '#toy.x=1e9,what'")
    assert numbers(page) != found
    assert page.complaints == []


def test_players_keep_their_places_apart(page, address):
    opened(page, address, PLAYERS[0])
    players = page.locator(".frames").all()
    for player in players:
        player.locator("input").first.press("ArrowRight")
    captions = page.locator(".frames p").all_text_contents()
    names = ["frames.at=", *(f"frames{n}.at=" for n in range(2, len(players) + 1))]
    wanted = "names => names.every((name) => location.hash.slice(1).split('&').some((part) => part.startsWith(name)))"
    page.wait_for_function(wanted, arg=names)
    page.reload()
    assert page.locator(".frames p").all_text_contents() == captions
    assert page.complaints == []
