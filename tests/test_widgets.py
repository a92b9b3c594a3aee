"""Widgets without a browser: what they write into a page, and what they share with Python.

What they do in a browser is tested in tests/browser.
"""

import json
import re

import matplotlib.pyplot as plt
import pytest
import torch
import traitlets
from bs4 import BeautifulSoup

from lesson_utils import alignment, plots, saliency_map, widgets
from lesson_utils.models import mlp
from lesson_utils.toy import PlanarReLUNet
from lesson_utils.widgets import AffineExplorer, FrameSlider, PlanarExplorer, ToyExplorer

VIEW = "application/vnd.jupyter.widget-view+json"


@pytest.fixture
def book(monkeypatch):
    monkeypatch.setenv("LESSONS_BOOK", "1")


@pytest.fixture(autouse=True)
def no_book(request, monkeypatch):
    if "book" not in request.fixturenames:
        monkeypatch.delenv("LESSONS_BOOK", raising=False)


def draw(height, name="a"):
    figure, axis = plt.subplots(figsize=(3, 2))
    axis.bar([0], [height])
    axis.set(ylim=(0, 5), title=name)
    return figure


def words(height, name="a"):
    return f"Bar <{name}> of height {height} </script>."


def counted(calls):
    def drawn(*values):
        calls.append(values)
        return draw(*values)

    return drawn


def test_player_holds_every_frame_and_caption_in_order(book):
    slider = FrameSlider(draw, words, {"height": [1, 2.5, 4], "name": ["a", "b"]})
    bundle = slider._repr_mimebundle_()
    assert set(bundle) == {"text/html", "text/plain"}
    soup = BeautifulSoup(bundle["text/html"], "html.parser")
    assert [len(soup.select(name)) for name in ("div.frames", "img", "p")] == [1, 1, 1]
    assert soup.img["alt"] == soup.p.text == words(1, "a")
    ranges = soup.select("input[type=range]")
    assert [(i["aria-label"], i["max"], i["aria-valuetext"]) for i in ranges] == [
        ("height", "2", "1"),
        ("name", "1", "a"),
    ]
    content = json.loads(soup.select_one("script[type='application/json']").string)
    assert content["texts"] == [["1", "2.5", "4"], ["a", "b"]]
    values = [(h, n) for h in (1, 2.5, 4) for n in "ab"]
    assert content["captions"] == [words(*v) for v in values]
    frames = [soup.img["src"], *content["frames"][1:]]
    assert content["frames"][0] is None and len(set(frames)) == 6
    assert all(re.match(r"data:image/(webp|svg\+xml);base64,", frame) for frame in frames)


def test_frames_are_drawn_only_for_a_page(book, monkeypatch):
    calls = []
    slider = FrameSlider(counted(calls), words, {"height": [1, 2, 3]})
    assert calls == []
    slider._repr_mimebundle_()
    assert calls == [(1,), (2,), (3,)]
    monkeypatch.delenv("LESSONS_BOOK")
    assert VIEW in slider._repr_mimebundle_()
    assert calls[3:] == [(1,)]  # live: the first picture alone


def test_live_slider_runs_the_function():
    calls = []
    box = FrameSlider(counted(calls), words, {"height": [1, 2, 3], "name": ["a", "b"]}).live()
    height, name, picture, caption = box.children
    first = picture.value
    height.value = 3
    name.value = "b"
    assert calls == [(1, "a"), (3, "a"), (3, "b")]
    assert picture.value != first
    assert BeautifulSoup(picture.value, "html.parser").img["alt"] == words(3, "b")
    assert BeautifulSoup(caption.value, "html.parser").text == words(3, "b")


def test_figures_are_closed(book):
    before = plt.get_fignums()
    FrameSlider(draw, words, {"height": [1, 2]}).html()
    FrameSlider(draw, words, {"height": [1, 2]}).live()
    assert plt.get_fignums() == before


def test_no_player_over_the_limit(monkeypatch):
    monkeypatch.setattr(widgets, "MAX_PLAYER", 10_000)
    with pytest.raises(ValueError, match=r"more than 10,000.*fewer values \(9 frames now\)"):
        FrameSlider(draw, words, {"height": range(9)}).html()


@pytest.mark.parametrize(
    ("sliders", "message"),
    [
        ({}, "one or two, got 0"),
        ({"a": [1], "b": [1], "c": [1]}, "one or two, got 3"),
        ({"a": [1], "b": []}, "'b' has no values"),
    ],
)
def test_sliders_are_checked(sliders, message):
    with pytest.raises(ValueError, match=message):
        FrameSlider(draw, words, sliders)


def test_picture_needs_alternative_text():
    with pytest.raises(ValueError, match="alt must describe"):
        plots.picture(draw(1), " ")
    plt.close("all")


def planar():
    torch.manual_seed(0)
    return PlanarReLUNet(mlp([2, 6, 3]).double())


EXPLORERS = {
    "toy": ToyExplorer,
    "affine": AffineExplorer,
    "planar": lambda: PlanarExplorer(planar()),
}


@pytest.mark.parametrize("name", EXPLORERS)
def test_explorer_is_live_with_a_kernel_and_html_in_a_page(name, monkeypatch):
    explorer = EXPLORERS[name]()
    assert VIEW in explorer._repr_mimebundle_()[0]
    monkeypatch.setenv("LESSONS_BOOK", "1")
    bundle = explorer._repr_mimebundle_()
    assert set(bundle) == {"text/html", "text/plain"}
    soup = BeautifulSoup(bundle["text/html"], "html.parser")
    script = soup.select_one("script[type=module]").string
    assert soup.div["id"] in script and '"x": [' in script and "data:text/javascript" in script
    assert len(bundle["text/html"]) < 60_000
    assert "http" not in script.replace("http://www.w3.org/2000/svg", "")


def test_two_explorers_in_one_state_have_a_place_each():
    places = [BeautifulSoup(ToyExplorer().html(), "html.parser").div["id"] for _ in range(2)]
    assert places[0] != places[1]


def test_explorers_share_state_and_tell_who_observes():
    explorer, seen = ToyExplorer(), []
    explorer.observe(lambda change: seen.append(change["new"]), names="x")
    explorer.set_state({"x": [2, -1]})  # what the browser sends; JSON has no 2.0
    assert seen == [[2.0, -1.0]] and isinstance(explorer.x[0], float)
    assert explorer.get_state("x") == {"x": [2.0, -1.0]}


@pytest.mark.parametrize("wrong", [{"x": [1.0]}, {"x": ["a", 1.0]}, {"view": 0.0}])
def test_explorers_refuse_what_is_no_point(wrong):
    with pytest.raises(traitlets.TraitError):
        ToyExplorer(**wrong)


def test_models_of_the_explorers():
    toy = ToyExplorer(z=[3.0, 4.0])
    assert toy.model.robustness(torch.tensor([[3.0, 4.0]], dtype=torch.float64)).item() == 5.0
    affine = AffineExplorer(
        z=[1.0, 2.0], b=0.5, three=True, third=[1.0, 0.0, 2.0], shift=2.0, v=[1.0, -1.0]
    )
    point = torch.tensor([[1.0, 1.0]], dtype=torch.float64)
    # ∓(3 + 0.5)/2 and 1 + 2, and 2 · ⟨x, v⟩ = 0 added to each
    assert affine.model(point).tolist() == [[-1.75, 1.75, 3.0]]
    assert saliency_map(affine.model, point).tolist() == [[3.0, -2.0]]
    assert alignment(point, saliency_map(affine.model, point)).item() == pytest.approx(1 / 13**0.5)


def test_planar_explorer_reaches_three_times_as_far_as_it_draws():
    explorer = PlanarExplorer(planar(), view=2.0)
    assert explorer.reach == 6.0
    area = sum(_area(region["polygon"]) for region in explorer.regions)
    assert area == pytest.approx(12.0**2)
    assert sum(_area(polygon) for _, polygon in explorer.cells) == pytest.approx(12.0**2)


def _area(polygon):
    following = polygon[1:] + polygon[:1]
    return abs(sum(a[0] * b[1] - a[1] * b[0] for a, b in zip(polygon, following, strict=True))) / 2
