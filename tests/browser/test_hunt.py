"""The counterexample hunt of a page: what it finds breaks the claim, by Python's own numbers."""

import json

import pytest
import torch

from lesson_utils import measure
from lesson_utils.models import mlp
from lesson_utils.toy import AffineClassifier, PlanarReLUNet

PAGE = "book/try"
HUNT = "[data-kind=hunt]"
BROKEN = {
    "rho <= alpha": lambda v: v["rho"] > v["alpha"],
    "rho = rho0": lambda v: v["rho"] != pytest.approx(v["rho0"]),
    "if margin <= margin2 then rho <= rho2": lambda v: (
        v["margin"] <= v["margin2"] + 1e-9 and v["rho"] > v["rho2"]
    ),
    "tilde = rho": lambda v: v["tilde"] != pytest.approx(v["rho"]),
    "2 * alpha - 1 <= bound / (1 + norm)": lambda v: 2 * v["alpha"] - 1 > v["bound"] / (1 + v["norm"]),
}  # fmt: skip


def opened(page, place, state=""):
    page.goto(f"{place}/{PAGE}.html{state}")
    page.locator(HUNT).scroll_into_view_if_needed()
    return rested(page)


def rested(page):
    page.wait_for_timeout(300)
    page.locator(f"{HUNT}[data-state=rest]").wait_for(timeout=90_000)
    return page.locator(f"{HUNT} .side p").first.text_content()


def claim(page, words):
    page.locator(HUNT).get_by_role("textbox").fill(words)
    page.keyboard.press("Enter")
    return rested(page)


def model_of(net, *, biased=True):
    bias = torch.tensor(net["bias"], dtype=torch.float64) * biased
    weight = torch.tensor(net["weight"], dtype=torch.float64)
    if "hidden" not in net:
        return AffineClassifier(weight, bias)
    model = mlp([2, len(net["hidden"]), len(bias)]).double()
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([unit[0] for unit in net["hidden"]]))
        model[1].bias.copy_(biased * torch.tensor([unit[1] for unit in net["hidden"]]))
        model[3].weight.copy_(weight)
        model[3].bias.copy_(bias)
    return PlanarReLUNet(model)


def values_of(found):
    """The quantities that claims name, by Python."""
    net, values = found["net"], {}
    for sign, point, biased in (("", "x", True), ("2", "y", True), ("0", "x", False)):
        model = model_of(net, biased=biased)
        x = torch.tensor([found[point]], dtype=torch.float64)
        m = measure(model, x)
        scores = model(x)[0]
        margin = scores[m.prediction[0]] - scores[m.runner_up[0]]
        numbers = {
            "rho": model.robustness(x),
            "tilde": m.linearized_robustness,
            "alpha": m.alignment,
            "margin": margin,
            "norm": m.input_norm,
            "bound": m.bound,
            "degree": m.degree_of_homogeneity,
        }
        values |= {name + sign: value.item() for name, value in numbers.items()}
    return values


@pytest.mark.parametrize(
    ("words", "kind"),
    [(words, kind) for words in BROKEN for kind in ("affine", "ReLU network")
     if (words, kind) != ("tilde = rho", "affine")],
)  # fmt: skip
def test_what_breaks_a_claim_breaks_it_in_python(page, address, words, kind):
    opened(page, address)
    page.locator(HUNT).get_by_role("combobox", name="classifiers").select_option(kind)
    text = claim(page, words)
    assert text.startswith("Broken at try"), text
    found = json.loads(page.locator(HUNT).get_attribute("data-found"))
    assert BROKEN[words](values_of(found))
    numbers = [v for row in found["net"]["weight"] for v in row]
    assert sum(v in (-1, 0, 1) for v in numbers) >= len(numbers) / 2, "made simple"
    assert page.locator(f"{HUNT} svg polygon").count() >= 2
    assert page.complaints == []


def test_the_theorem_survives_and_the_page_says_what_that_means(page, address):
    opened(page, address)
    text = claim(page, "tilde <= bound")
    assert text.startswith("20,000 tries, and none breaks it. That is no proof")
    assert page.locator(f"{HUNT} svg polygon").count() == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("rho", "is missing before \"the end\""),
        ("rho <= beauty", '"beauty" is no number and none of rho'),
        ("rho <= (alpha", '")" is missing'),
        ("rho <= alpha alpha", '"alpha" comes too late'),
        ("if rho <= 1 rho < 2", '"then" is missing'),
        ("alert(1) = 1", '"alert" is no number'),
        ("rho <= constructor", '"constructor" is no number'),
    ],
)  # fmt: skip
def test_what_is_no_claim_is_named(page, address, words, said):
    opened(page, address)
    assert said in claim(page, words)
    assert page.complaints == []


def test_a_link_leads_to_the_same_hunt(page, address):
    opened(page, address)
    page.locator(HUNT).get_by_role("combobox", name="claim").select_option("rho = rho0")
    page.locator(HUNT).get_by_role("button", name="Hunt again").click()
    text = rested(page)
    page.wait_for_function("/hunt.claim=rho%20%3D%20rho0&hunt.seed=1/.test(location.hash)")
    link = page.url
    page.goto("about:blank")
    assert opened(page, address, "#" + link.split("#")[1]) == text
