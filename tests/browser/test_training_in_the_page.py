"""Robust training in the page: its gradient against PyTorch, and the explorer that shows it."""

import re

import pytest
import torch

from lesson_utils.browser import digits_for_browser
from lesson_utils.data import load_digits
from lesson_utils.models import mlp
from lesson_utils.training import gradient_penalty_loss
from lesson_utils.widgets import FOLDER

PAGE = "book/try"
TRAINING = "[data-kind=training]"
OBJECTIVE = """async ([source, job]) => {
    const worker = new Worker(URL.createObjectURL(new Blob([source], { type: "text/javascript" })));
    const answer = new Promise((resolve, reject) => {
        worker.onmessage = ({ data }) => (data.error ? reject(new Error(data.error)) : resolve(data.result));
    });
    worker.postMessage({ ...job, numbers: Float64Array.from(job.numbers), images: job.images.map((x) => Float64Array.from(x)) });
    const { loss, penalty, gradient } = await answer;
    worker.terminate();
    return [loss, penalty, [...gradient]];
}"""


@pytest.mark.parametrize("strength", [0.0, 0.1, 3.0])
@pytest.mark.parametrize("sizes", [[64, 100, 10], [64, 7, 10]])
def test_gradient_of_the_penalised_objective_is_that_of_pytorch(page, sizes, strength):
    torch.manual_seed(1)
    model = mlp(sizes).double()
    data = load_digits(dtype=torch.float64)
    x, y = data.x_train[:64], data.y_train[:64]
    objective, penalty = gradient_penalty_loss(model, x, y, strength)
    objective.backward()
    expected = torch.cat([p.grad.flatten() for p in model.parameters()])
    job = {
        "job": "objective",
        "numbers": torch.cat([p.detach().flatten() for p in model.parameters()]).tolist(),
        "images": x.flatten(1).tolist(),
        "labels": y.tolist(),
        "strength": strength,
        "sizes": sizes,
    }
    source = "".join(
        (FOLDER / name).read_text() for name in ("engine.js", "random.js", "training.js")
    )
    found = page.evaluate(OBJECTIVE, [source, job])
    gradient = torch.tensor(found[2], dtype=torch.float64)
    assert ((gradient - expected).norm() / expected.norm()).item() < 1e-10
    assert found[0] + strength * found[1] == pytest.approx(objective.item(), rel=1e-12)
    if strength > 0:
        assert found[1] == pytest.approx(penalty.item(), rel=1e-12)


def test_digits_of_the_page_are_those_of_the_lessons():
    packed, data = digits_for_browser(), load_digits()
    rows = torch.frombuffer(bytearray(packed.numbers), dtype=torch.uint8).view(-1, 65)
    assert torch.equal(rows[:, :64].float() / 16, torch.cat([data.x_train, data.x_test]).flatten(1))
    assert torch.equal(rows[:, 64].long(), torch.cat([data.y_train, data.y_test]))
    assert packed.description == {"train": 1297}


def opened(page, place, state=""):
    page.goto(f"{place}/{PAGE}.html{state}")
    page.locator(TRAINING).scroll_into_view_if_needed()
    ready(page)


def ready(page):
    rows = f"[...document.querySelectorAll('{TRAINING} [data-name=tilde]')]"
    page.wait_for_function(f"{rows}.length === 2", timeout=60_000)
    page.locator(f"{TRAINING} .side p").first.get_by_text("Not trained yet").wait_for(
        timeout=60_000
    )


def numbers(page, which):
    cells = page.locator(f"{TRAINING} [data-network={which}] [data-value]").evaluate_all(
        "cells => cells.map(cell => [cell.dataset.name, Number(cell.dataset.value)])"
    )
    return dict(cells)


def train_until(page, epoch):
    page.locator(TRAINING).get_by_role("button", name="Train").click()
    enough = "([t, n]) => Number(document.querySelector(`${t} [data-network=second] [data-name=epoch]`).dataset.value) >= n"
    page.wait_for_function(enough, arg=[TRAINING, epoch], timeout=120_000)


def test_training_makes_the_penalised_network_robust(page, address):
    opened(page, address)
    start = numbers(page, "first")
    assert start == numbers(page, "second"), "both begin with the same weights"
    assert start["accuracy"] < 0.4
    maps = page.locator(f"{TRAINING} [data-network=second] canvas").first
    before = maps.evaluate("c => c.toDataURL()")
    train_until(page, 15)
    page.locator(TRAINING).get_by_role("button", name="Pause").click()
    sentence = page.locator(f"{TRAINING} .side p").first
    sentence.get_by_text(re.compile("Epoch")).wait_for(timeout=60_000)
    plain, robust = numbers(page, "first"), numbers(page, "second")
    assert plain["epoch"] == robust["epoch"] >= 15
    assert plain["accuracy"] > 0.9 and robust["accuracy"] > 0.8
    assert robust["alpha"] > 1.05 * plain["alpha"] and robust["tilde"] > 1.05 * plain["tilde"]
    assert maps.evaluate("c => c.toDataURL()") != before
    page.locator(TRAINING).get_by_role("button", name="Start again").click()
    ready(page)
    assert numbers(page, "first") == start, "one seed, one beginning"
    page.locator(TRAINING).get_by_role("button", name="Another seed").click()
    page.locator(f"{TRAINING} .side p").first.get_by_text("seed 1").wait_for()
    assert numbers(page, "first") != start
    assert page.complaints == []


def test_sliders_by_keyboard_and_their_state_in_the_address(page, address):
    opened(page, address)
    slider = page.locator(f"{TRAINING} [data-network=second] input[type=range]")
    assert slider.get_attribute("aria-valuetext") == "1"
    slider.press("ArrowLeft")
    ready(page)
    assert slider.get_attribute("aria-valuetext") == "0.3"
    page.wait_for_function("location.hash === '#training.second=0.3'")
    # the bench of the same page writes beside it, and neither takes what is the other's
    page.get_by_role("slider", name="factor c of the scaled image").press("Home")
    page.wait_for_function("location.hash === '#training.second=0.3&network.c=0'")
    page.reload()
    page.locator(TRAINING).scroll_into_view_if_needed()
    ready(page)
    assert slider.get_attribute("aria-valuetext") == "0.3"
    assert page.get_by_role("slider", name="factor c of the scaled image").input_value() == "0"
