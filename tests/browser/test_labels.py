"""Names of points in the explorers of the plane: whole, and beside the point, wherever it is."""

from itertools import product

import pytest
import torch

from lesson_utils.models import mlp
from lesson_utils.toy import PlanarReLUNet
from lesson_utils.widgets import AffineExplorer, PlanarExplorer, ToyExplorer


@pytest.fixture(autouse=True)
def book(monkeypatch):
    monkeypatch.setenv("LESSONS_BOOK", "1")


def shown(page, explorer):
    page.set_content(explorer._repr_mimebundle_()["text/html"])
    page.locator(".explorer [data-handle] text").first.wait_for(state="attached")
    return page.locator(".explorer")


@pytest.mark.parametrize("corner", list(product((-2.9, 0.0, 2.9), repeat=2)), ids=str)
def test_names_are_not_cut(page, corner):
    at = [float(value) for value in corner]
    explorers = ToyExplorer(x=at, z=[1.0, 2.0]), AffineExplorer(x=[1.0, 1.0], c=at)
    for explorer in explorers:
        explorer = shown(page, explorer)
        square = explorer.locator("svg").bounding_box()
        for name in explorer.locator("[data-handle] text").all():
            box = name.bounding_box()
            assert square["x"] <= box["x"] and square["y"] <= box["y"]
            assert box["x"] + box["width"] <= square["x"] + square["width"]
            assert box["y"] + box["height"] <= square["y"] + square["height"]


def test_tips_of_arrows_are_not_under_the_points(page):
    explorer = shown(page, ToyExplorer(x=[2.0, 0.0], z=[0.0, 2.0]))
    tips = explorer.evaluate(
        """explorer => [...explorer.querySelectorAll("g > polygon")]
            .map(one => [...one.points].map(p => [p.x, p.y]))
            .filter(points => points.length === 3).map(points => points[0])"""
    )
    assert len(tips) == 2
    place = explorer.locator("[data-handle=x]").get_attribute("transform")
    left, top = map(float, place.removeprefix("translate(").rstrip(")").split(","))
    assert min(abs(left - a) + abs(top - b) for a, b in tips) == pytest.approx(10, abs=0.1)


def test_decisions_have_the_names_of_the_classes(page):
    torch.manual_seed(0)
    net = PlanarReLUNet(mlp([2, 8, 3]).double())
    names = ["digit 1", "digit 6", "digit 7"]
    winner = shown(page, PlanarExplorer(net, names=names)).locator("[data-name=winner]")
    assert winner.inner_text() in names
    winner = shown(page, PlanarExplorer(net)).locator("[data-name=winner]")
    assert winner.inner_text() in ("class 0", "class 1", "class 2")
