"""Networks in the pages of lessons: what each shows of the bench, driven by keys and held against Python."""

import json
import re

import pytest
import torch
from test_built_book import LESSONS, cells
from test_hunt import HUNT, rested, values_of
from test_networks import BENCH, answered, compare, opened, recorded, shown
from test_training_in_the_page import TRAINING, numbers, ready, train_until

from lesson_utils import alignment, jacobian, linearized_robustness, measure, saliency_map
from lesson_utils.autograd import inner, norm
from lesson_utils.data import load_digits


def lesson_with(code):
    (found,) = (lesson for lesson in LESSONS if code in "\n".join(cells(lesson, "code")))
    return found


def part(name):
    return lesson_with(f'part="{name}"')


@pytest.fixture(scope="module")
def images():
    """The images of these pages, the first of each class, in double precision."""
    data = load_digits(enlarged=True)
    first = [data.y_test.tolist().index(k) for k in range(10)]
    return data.x_test[first].double()


def networks():
    """The networks of these pages, by the place where they are shown."""
    return {"first": recorded(0).double(), "second": recorded(1).double()}


def choose(page, k):
    page.locator(f"{BENCH} .draw select").first.select_option(str(k))
    answered(page)


def holds(page, which, row, value):
    """Wait until a row of a network has this value."""
    cell = page.locator(f"{BENCH} [data-network={which}] [data-name={row}]").element_handle()
    close = "([cell, v]) => Math.abs(Number(cell.dataset.value) - v) <= 1e-6 * (1 + Math.abs(v))"
    page.wait_for_function(close, arg=[cell, value])


def said(page, words):
    """Wait until a screen reader is told."""
    sentence = page.locator(f"{BENCH} .side p[aria-live=polite]").element_handle()
    page.wait_for_function("([p, words]) => p.textContent.includes(words)", arg=[sentence, words])


def test_the_map_of_another_class(page, address, images):
    opened(page, address, name=part("class"))
    select = page.get_by_role("combobox", name="map of")
    assert select.locator("option").count() == 11
    picture = page.locator(f"{BENCH} [data-network=first] canvas")
    of_decision = picture.evaluate("c => c.toDataURL()")
    select.focus()
    for _ in range(5):  # past the decision and the classes 0 to 3
        page.keyboard.press("ArrowDown")
    assert select.input_value() == "4"
    for which, net in networks().items():
        x, g = images[:1], saliency_map(net, images[:1], target=4)
        holds(page, which, "alpha", alignment(x, g).item())
        holds(page, which, "score", net(x)[0, 4].item())
        cosine = inner(x, g) / norm(x) / norm(g)
        holds(page, which, "angle", torch.rad2deg(torch.acos(cosine)).item())
        assert shown(page, which)["winner"] == 0
    said(page, "map of class 4")
    assert picture.evaluate("c => c.toDataURL()") != of_decision
    bars = page.locator(f"{BENCH} [data-network=first] svg").first.get_attribute("aria-label")
    score = networks()["first"](images[:1])[0, 4].item()
    assert f"4: {score:.1f}," in bars and "NaN" not in bars
    page.wait_for_function("location.hash === '#network.target=4'")
    page.reload()
    page.locator(BENCH).scroll_into_view_if_needed()
    answered(page)
    assert select.input_value() == "4"
    said(page, "map of class 4")
    choose(page, 7)
    net = networks()["second"]
    g = saliency_map(net, images[7:8], target=4)
    holds(page, "second", "alpha", alignment(images[7:8], g).item())
    assert page.complaints == []


def test_the_scaled_image_of_a_lesson(page, address, images):
    opened(page, address, name=part("scale"))
    choose(page, 1)
    slider = page.get_by_role("slider", name="factor c of the scaled image")
    slider.press("End")
    for which, net in networks().items():
        x = images[1:2]
        m = measure(net, x)
        holds(page, which, "beta", m.bias.item())
        holds(page, which, "homogeneous", m.homogeneous.item())
        holds(page, which, "degree", m.degree_of_homogeneity.item())
        holds(page, which, "scaled", net(2 * x)[0, m.prediction].item())
        label = page.locator(f"{BENCH} [data-network={which}] svg[viewBox='0 0 300 156']")
        assert f"β = {m.bias.item():.2f}" in label.get_attribute("aria-label")
    net, x = networks()["first"], images[1:2]
    said(page, f"β = {measure(net, x).bias.item():.2f}, the image's part")
    said(page, f"At c = 2.00 it is {net(2 * x)[0, 1].item():.2f}.")
    assert page.get_by_role("button", name="Walk to the boundary").count() == 0
    assert page.complaints == []


def signed_distance_of_black(net, x):
    lin = linearized_robustness(net, x)
    scores, gradients = jacobian(net, x)
    normal = gradients[0, lin.prediction[0]] - gradients[0, lin.runner_up[0]]
    margin = scores[0, lin.prediction[0]] - scores[0, lin.runner_up[0]]
    return ((margin - (x[0] * normal.view_as(x[0])).sum()) / normal.norm()).item()


@pytest.mark.parametrize(("k", "digit"), list(enumerate([5, 3, 4, 6])))
def test_where_black_lies(page, address, k, digit):
    opened(page, address, name=part("black"))
    choose(page, k)
    x = load_digits(enlarged=True).x_test[digit : digit + 1].double()
    for which, net in networks().items():
        m, black = measure(net, x), signed_distance_of_black(net, x)
        holds(page, which, "tilde", m.linearized_robustness.item())
        holds(page, which, "black", black)
        holds(page, which, "binarized", m.binarized_alignment.item())
        assert abs(m.linearized_robustness.item() - black) == pytest.approx(
            m.binarized_alignment.item()
        )
        figure = page.locator(f"{BENCH} [data-network={which}] svg[viewBox='0 0 300 150']")
        side = "the winner's side" if black > 0 else "the rival's side"
        assert side in figure.get_attribute("aria-label")
    assert page.complaints == []


def test_black_itself_lies_where_black_lies(page, address):
    opened(page, address, name=part("black"))
    page.get_by_role("button", name="Empty the image").click()
    answered(page)
    for which, net in networks().items():
        tilde = linearized_robustness(net, torch.zeros(1, 1, 28, 28).double()).value.item()
        holds(page, which, "tilde", tilde)
        holds(page, which, "black", tilde)
        holds(page, which, "binarized", 0.0)
    assert page.complaints == []


def test_a_common_shift_moves_alignment_alone(page, address, images):
    opened(page, address, name=part("shift"))
    choose(page, 3)
    x, before = images[3:4], {which: shown(page, which) for which in networks()}
    slider = page.get_by_role("slider", name="add κ/2")
    picture = page.locator(f"{BENCH} [data-network=first] canvas")
    pictures = {picture.evaluate("c => c.toDataURL()")}
    for key, shift in (("ArrowLeft", -0.02), ("End", 1.0), ("Home", -1.0)):
        slider.press(key)
        for which, net in networks().items():
            g = saliency_map(net, x) + shift * x
            holds(page, which, "alpha", alignment(x, g).item())
            now = shown(page, which)
            for row in ("winner", "centred", "binarized", "tilde"):
                assert now[row] == pytest.approx(before[which][row], rel=1e-9)
        pictures.add(picture.evaluate("c => c.toDataURL()"))
    assert len(pictures) == 4
    for which, net in networks().items():
        scores, gradients = jacobian(net, x)
        own = gradients[0, scores[0].argmax()] - gradients[0].mean(0)
        centred = alignment(x, own.view_as(x)).item()
        assert before[which]["centred"] == pytest.approx(centred, rel=1e-6)
    page.wait_for_function("/network.shift=-1/.test(location.hash)")
    assert page.complaints == []


def test_a_choice_that_a_part_does_not_offer_changes_nothing(page, address, images):
    opened(page, address, "#network.target=4&network.shift=1")
    compare(shown(page), recorded(0), images[3:4])
    assert page.complaints == []


def test_the_bench_of_a_lesson(page, address, images):
    opened(page, address, name=lesson_with("NetworkExplorer(choice, examples"))
    choose(page, 6)
    compare(shown(page), recorded(0), images[6:7])
    page.locator(f"{BENCH} [data-network=second] select").select_option("λ = 10")
    answered(page)
    compare(shown(page, "second"), recorded(10), images[6:7])
    assert page.complaints == []


def test_training_in_a_lesson(page, address):
    page.goto(f"{address}/{lesson_with('TrainingExplorer()')}.html")
    page.locator(TRAINING).scroll_into_view_if_needed()
    ready(page)
    start = numbers(page, "first")
    assert start == numbers(page, "second") and start["epoch"] == 0
    train_until(page, 2)
    assert numbers(page, "first")["accuracy"] > start["accuracy"] + 0.3
    assert numbers(page, "first")["alpha"] != numbers(page, "second")["alpha"]
    assert page.complaints == []


def test_the_hunt_of_a_lesson_finds_what_its_text_says(page, address):
    lesson = lesson_with("HuntExplorer()")
    page.goto(f"{address}/{lesson}.html")
    page.locator(HUNT).scroll_into_view_if_needed()
    assert rested(page).startswith("Broken at try 4;")
    found = json.loads(page.locator(HUNT).get_attribute("data-found"))
    call = r"AffineClassifier\((\[\[.*?\]\]), (\[.*?\])\)"
    code = "\n".join(cells(lesson, "code"))
    weight, bias = re.search(r"caught = " + call, code).groups()
    assert found["net"] == {"weight": json.loads(weight), "bias": json.loads(bias)}
    values = values_of(found)
    assert values["rho"] == pytest.approx(0.5**0.5) and values["alpha"] == 0
    # the other explorer of the page keeps its own part of the address
    page.locator("[data-kind=affine] input[type=range]").first.press("ArrowRight")
    page.locator(HUNT).get_by_role("button", name="Hunt again").click()
    wanted = "location.hash.includes('affine.b=') && location.hash.includes('hunt.seed=1')"
    page.wait_for_function(wanted)
    assert page.complaints == []
