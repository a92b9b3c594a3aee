"""Networks that run in the page: the engine against PyTorch, and the robustness bench that shows it."""

import base64
import json
import re

import pytest
import torch
from test_built_book import ROOT

from lesson_utils import measure, minimal_l2, saliency_map
from lesson_utils.browser import MAX_SCRIPT, for_browser
from lesson_utils.data import load_digits
from lesson_utils.models import Normalize
from lesson_utils.records import load_model
from lesson_utils.widgets import FOLDER

PAGE = "book/try"
STRENGTHS = 0, 0.1, 1, 10, 100
BENCH = "[data-kind=network]"
# An engine of the test's own, fed as a page feeds its own.
ENGINE = """async ([source, description, numbers, images]) => {
    const worker = new Worker(URL.createObjectURL(new Blob([source], { type: "text/javascript" })));
    const ask = (job) => new Promise((resolve, reject) => {
        worker.onmessage = ({ data }) => (data.error ? reject(new Error(data.error)) : resolve(data.result));
        worker.postMessage({ network: "a", ...job });
    });
    const bytes = Uint8Array.from(atob(numbers), (letter) => letter.charCodeAt(0)).buffer;
    await ask({ job: "load", description, bytes });
    const answers = [[], [], []];
    for (const image of images) {
        const { scores, gradients } = await ask({ job: "gradients", image: Float64Array.from(image) });
        const map = await ask({ job: "map", image: Float64Array.from(image) });
        [[scores], gradients, map.gradients].forEach((part, k) => answers[k].push(...part));
    }
    worker.terminate();
    const text = (blob) => new Promise((resolve) => {
        const reader = new FileReader();
        reader.onload = () => resolve(reader.result.split(",")[1]);
        reader.readAsDataURL(blob);
    });
    return Promise.all(answers.map((part) => text(new Blob(part))));
}"""


def recorded(strength):
    return load_model(ROOT / "lessons" / "recorded" / "mnist", strength)


@pytest.fixture(scope="module")
def images():
    """The images of the page: the first of each class."""
    data = load_digits(enlarged=True)
    return data.x_test[[data.y_test.tolist().index(k) for k in range(10)]]


def in_the_browser(page, network, x):
    """Scores, gradients of all classes and map of each image, as the engine computes them."""
    numbers = base64.b64encode(network.numbers).decode()
    source = (FOLDER / "engine.js").read_text(encoding="utf-8")
    rows = x.double().flatten(1).tolist()
    answers = page.evaluate(ENGINE, [source, network.description, numbers, rows])
    scores, gradients, maps = (
        torch.frombuffer(bytearray(base64.b64decode(text)), dtype=torch.float64) for text in answers
    )
    return scores.view(len(x), -1), gradients.view(len(x), -1, x[0].numel()), maps.view(len(x), -1)


def in_pytorch(model, x):
    """The gradients of all classes, `(images, classes, pixels)`."""
    x = x.clone().requires_grad_(True)
    columns = model(x).sum(0).unbind()
    maps = [torch.autograd.grad(column, x, retain_graph=True)[0].flatten(1) for column in columns]
    return torch.stack(maps, 1)


def agree(page, model, x, tolerance):
    """Scores and maps of all images, and the gradients of all classes of the first ten."""
    scores, gradients, maps = in_the_browser(page, for_browser(model, x.shape[1:]), x)
    model, x = model.double(), x.double()
    expected = model(x).detach()
    derivatives, expected_maps = in_pytorch(model, x[:10]), saliency_map(model, x).flatten(1)
    size = expected.abs().amax(1, keepdim=True)
    assert ((scores - expected).abs() <= tolerance * size).all()
    assert ((maps - expected_maps).norm(dim=1) <= tolerance * expected_maps.norm(dim=1)).all()
    apart = (gradients[:10] - derivatives).norm(dim=2)
    assert (apart <= tolerance * derivatives.norm(dim=2)).all()


@pytest.mark.parametrize("strength", STRENGTHS)
def test_engine_agrees_with_pytorch_on_the_recorded_networks(page, strength):
    agree(page, recorded(strength), load_digits(enlarged=True).x_test[100:200], 1e-10)


def test_engine_agrees_on_every_kind_of_layer(page):
    torch.manual_seed(0)
    norm = torch.nn.BatchNorm2d(5)
    norm.running_mean, norm.running_var = torch.randn(5), torch.rand(5) + 0.5
    model = torch.nn.Sequential(
        Normalize([0.4, 0.5, 0.6], [0.2, 0.3, 0.25]),
        torch.nn.Conv2d(3, 5, 4, stride=2, padding=1, bias=False),
        norm,
        torch.nn.Sequential(torch.nn.ReLU(), torch.nn.MaxPool2d(3, stride=2)),
        torch.nn.Conv2d(5, 6, 2),
        torch.nn.ReLU(),
        torch.nn.Flatten(),
        torch.nn.Dropout(),
        torch.nn.Linear(36, 7),
        torch.nn.ReLU(),
        torch.nn.Linear(7, 3),
    ).eval()
    agree(page, model, torch.rand(20, 3, 17, 21), 1e-6)


def test_scripts_hold_the_networks_and_are_small(html):
    files = {path.name: path for path in (html / "_static" / "networks").iterdir()}
    for strength in STRENGTHS:
        scripts = for_browser(recorded(strength), (1, 28, 28)).scripts()
        for name, text in scripts.items():
            assert files[name].read_text(encoding="utf-8") == text
            assert len(text) <= MAX_SCRIPT == 500_000
    page = (html / f"{PAGE}.html").read_text(encoding="utf-8")
    assert len(page) < 400_000, "no weights in the page"


def opened(page, place, state="", name=PAGE):
    """The bench of a page once both its networks have answered."""
    page.goto(f"{place}/{name}.html{state}")
    page.locator(BENCH).scroll_into_view_if_needed()
    answered(page)


def answered(page, networks=2):
    """Wait until nothing is computed any more: the last number that a network gives is there."""
    page.wait_for_function(
        """([bench, n]) => {
            const bodies = [...document.querySelectorAll(`${bench} .net`)].filter((net) => net.querySelector("select").value);
            return bodies.length === n && bodies.every((net) => net.dataset.state === "rest");
        }""",
        arg=[BENCH, networks],
        timeout=60_000,
    )


def shown(page, which="first"):
    rows = page.locator(f"{BENCH} [data-network={which}] [data-value]").evaluate_all(
        "cells => cells.map(cell => [cell.dataset.name, cell.dataset.value])"
    )
    return {name: float(re.sub("class ", "", value)) for name, value in rows if "not" not in value}


def compare(found, model, x):
    m = measure(model.double(), x.double())
    expected = {
        "winner": m.prediction,
        "rival": m.runner_up,
        "alpha": m.alignment,
        "tilde": m.linearized_robustness,
        "bound": m.bound,
        "direction": m.direction_gap,
        "bias": m.bias_gap,
        "degree": m.degree_of_homogeneity,
        "beta": m.bias,
        "trivial": m.input_norm + m.bias_gap,
        "angle": torch.rad2deg(torch.acos(m.homogeneous.sign() * m.alignment / m.input_norm)),
    }
    for name, value in expected.items():
        assert found[name] == pytest.approx(value.item(), rel=1e-6), name
    return m


def settled_box(page, canvas):
    """Where it is, in view, once figures and formulas that come late push it no more."""
    before, box = None, canvas.bounding_box()
    while box != before:
        canvas.scroll_into_view_if_needed()
        page.wait_for_timeout(400)
        before, box = box, canvas.bounding_box()
    return box


def drawn(page):
    """The image that the address of the page holds, and the whole state."""
    page.wait_for_timeout(500)
    state = dict(part.split("=") for part in page.evaluate("location.hash")[1:].split("&") if part)
    digits = re.sub(r"z(\d+)z", lambda found: "0" * int(found[1]), state["network.x"])
    x = torch.tensor([int(digit, 16) / 15 for digit in digits], dtype=torch.float32)
    return x.view(1, 1, 28, 28)


@pytest.mark.parametrize("strength", STRENGTHS)
def test_numbers_are_those_of_python(page, address, images, strength):
    opened(page, address)
    page.locator(f"{BENCH} [data-network=first] select").select_option(f"λ = {strength}")
    page.locator(f"{BENCH} .draw select").select_option("6")
    answered(page)
    compare(shown(page), recorded(strength), images[6:7])
    compare(shown(page, "second"), recorded(1), images[6:7])
    assert page.complaints == []
    outside = [u for u in page.requested if not u.startswith((address, "data:", f"blob:{address}"))]
    assert outside == []


def test_drawing_by_mouse_and_by_keys(page, address):
    opened(page, address)
    before = shown(page)
    page.get_by_role("button", name="Empty the image").click()
    canvas = page.locator(f"{BENCH} .draw canvas")
    box = settled_box(page, canvas)
    page.mouse.move(box["x"] + box["width"] * 0.5, box["y"] + box["height"] * 0.2)
    page.mouse.down()
    for share in (0.4, 0.6, 0.8):
        page.mouse.move(box["x"] + box["width"] * 0.5, box["y"] + box["height"] * share)
    page.mouse.up()
    answered(page)
    x = drawn(page)
    assert x.amax() == 1 and x[0, 0, 6:22, 13:15].amin() > 0.9 and x[..., :9].amax() == 0
    found = shown(page)
    assert found != before
    compare(found, recorded(0), x)
    canvas.focus()
    for key in ["ArrowLeft"] * 4 + ["Space"] + ["ArrowUp"] * 3 + ["Space", "ArrowLeft"]:
        page.keyboard.press(key)
    assert canvas.evaluate("c => getComputedStyle(c).outlineStyle") == "solid"
    assert page.locator(f"{BENCH} .side p").first.text_content() == "Pen up, row 12, column 10."
    answered(page)
    more = drawn(page)
    assert more[0, 0, 11:15, 10].amin() == 1 and x[0, 0, 11:15, 10].amax() == 0
    compare(shown(page), recorded(0), more)
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Delete")
    answered(page)
    assert drawn(page)[0, 0, 11, 10] == 0
    assert page.locator(f"{BENCH} .draw select").input_value() == "-1"
    assert page.complaints == []


def test_a_finger_draws_and_the_page_does_not_scroll(browser, address):
    context = browser.new_context(viewport={"width": 390, "height": 800}, has_touch=True)
    page = context.new_page()
    opened(page, address)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    canvas = page.locator(f"{BENCH} .draw canvas")
    box, scrolled = settled_box(page, canvas), page.evaluate("scrollY")
    touch = context.new_cdp_session(page)
    for kind, points in (
        ("touchStart", [{"x": box["x"] + 20, "y": box["y"] + 150}]),
        ("touchMove", [{"x": box["x"] + 20, "y": box["y"] + 90}]),
        ("touchMove", [{"x": box["x"] + 20, "y": box["y"] + 30}]),
        ("touchEnd", []),
    ):
        touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
    assert drawn(page)[0, 0, 5:15, 1:3].amin() > 0.5
    assert page.evaluate("scrollY") == scrolled
    context.close()


@pytest.mark.parametrize("strength", [0, 1])
def test_the_walk_ends_at_the_boundary(page, address, images, strength):
    page.emulate_media(reduced_motion="reduce")
    opened(page, address, f"#network.first={'%CE%BB%20%3D%20' + str(strength)}&network.x=image9")
    page.get_by_role("button", name="Walk to the boundary").first.click()
    sentence = page.locator(f"{BENCH} .side p").first
    page.wait_for_function("p => /ρ is at most/.test(p.textContent)", arg=sentence.element_handle())
    model, x = recorded(strength).double(), images[8:9].double()
    found = shown(page)
    nearest = minimal_l2(model, x).distance.item()
    assert nearest * (1 - 1e-6) <= found["distance"] < 1.2 * nearest
    assert found["distance"] == pytest.approx(walked(model, x), rel=1e-5)
    become = int(re.search(r"becomes class (\d)", sentence.text_content())[1])
    assert become != found["winner"]
    assert page.locator(f"{BENCH} [data-network=first] canvas:visible").count() == 3


def walked(model, x):
    """Distance of the end of the walk, by PyTorch: DeepFool, then twenty halvings."""
    label, first = model(x).argmax(1), measure(model, x).linearized_robustness
    y = x
    while model(y).argmax(1) == label:
        m = measure(model, y)
        leaf = y.clone().requires_grad_(True)
        scores = model(leaf)
        (normal,) = torch.autograd.grad(
            (scores[0, m.prediction] - scores[0, m.runner_up]).sum(), leaf
        )
        y = y - (1.02 * m.linearized_robustness + 1e-3 * first) / normal.norm() * normal
    inside, outside = 0.0, 1.0
    for _ in range(20):
        middle = (inside + outside) / 2
        stays = model(x + middle * (y - x)).argmax(1) == label
        inside, outside = (middle, outside) if stays else (inside, middle)
    return (outside * (y - x)).norm().item()


def test_the_scaled_image_follows_its_slider(page, address, images):
    opened(page, address)
    slider = page.get_by_role("slider", name="factor c of the scaled image")
    for key, c in (("ArrowLeft", 0.98), ("Home", 0.0), ("End", 2.0)):
        slider.press(key)
        expected = recorded(0).double()(c * images[3:4].double())[0, 3].item()
        close = "([cell, value]) => Math.abs(Number(cell.dataset.value) - value) < 1e-6"
        cell = page.locator(f"{BENCH} [data-network=first] [data-name=scaled]").element_handle()
        page.wait_for_function(close, arg=[cell, expected])
    label = page.locator(f"{BENCH} [data-network=first] svg[viewBox='0 0 300 156']").get_attribute(
        "aria-label"
    )
    assert f"β = {shown(page)['beta']:.2f}" in label


def test_the_address_leads_back(page, address):
    opened(page, address)
    start = page.url
    assert "#" not in start, "the state that a page begins with needs no words"
    page.locator(f"{BENCH} [data-network=second] select").select_option("λ = 100")
    page.locator(f"{BENCH} .draw canvas").press("Space")
    page.get_by_role("slider", name="factor c of the scaled image").press("Home")
    answered(page)
    found, second = shown(page), shown(page, "second")
    x = drawn(page)
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.locator(BENCH).get_by_role("button", name="Copy link").click()
    page.wait_for_function(
        "t => document.querySelector(t).textContent", arg=f"{BENCH} .share output"
    )
    link = page.evaluate("navigator.clipboard.readText()")
    assert link == page.url != start
    page.goto("about:blank")
    page.goto(link)
    answered(page)
    assert (shown(page), shown(page, "second")) == (found, second)
    assert torch.equal(drawn(page), x)
    page.evaluate("location.hash = ''")  # back to the beginning, without loading the page
    page.wait_for_function(
        "t => document.querySelector(t).value === 'λ = 1'",
        arg=f"{BENCH} [data-network=second] select",
    )
    assert page.complaints == []


@pytest.mark.parametrize(
    "state", ["network.x=zzz", "network.x=image99", "network.x=fff", "network.first=%E0%A4%A", "network.c=x", "network.second=toString", "other.x=1&&=", "z9999z"]
)  # fmt: skip
def test_a_spoilt_address_counts_as_none(page, address, images, state):
    opened(page, address, f"#{state}")
    compare(shown(page), recorded(0), images[3:4])
    assert page.complaints == []


def test_the_bench_works_from_a_file_and_loads_when_it_is_seen(page, html, images):
    page.set_viewport_size({"width": 1000, "height": 150})
    page.goto((html / f"{PAGE}.html").as_uri())
    page.wait_for_timeout(500)
    assert not [url for url in page.requested if "/networks/" in url]
    page.locator(BENCH).scroll_into_view_if_needed()
    answered(page)
    assert len([url for url in page.requested if "/networks/" in url]) == 4
    compare(shown(page, "second"), recorded(1), images[3:4])
    assert page.complaints == []


def test_a_network_that_is_not_there_is_named(page, address):
    page.route("**/networks/*-1.js", lambda route: route.abort())
    page.goto(f"{address}/{PAGE}.html")
    page.locator(BENCH).scroll_into_view_if_needed()
    sentence = page.locator(f"{BENCH} .side p").first
    page.wait_for_function(
        "p => /λ = 0: there is no .*-1.js/.test(p.textContent)", arg=sentence.element_handle()
    )


def test_a_page_names_its_networks_by_their_weights(html):
    text = (html / f"{PAGE}.html").read_text(encoding="utf-8")
    state = json.loads(re.search(r"const state = (\{.*?\}), listeners", text)[1])
    keys = [for_browser(recorded(s), (1, 28, 28)).digest for s in STRENGTHS]
    assert [network["key"] for network in state["networks"]] == keys
