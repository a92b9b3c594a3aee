"""Networks for the browser, without a browser: what is packed, what is refused, what Python shares.

That the engine computes them rightly is tested in tests/browser.
"""

import base64
import json
import re

import pytest
import torch
import traitlets
from bs4 import BeautifulSoup
from torch import nn

from lesson_utils import measure, saliency_map
from lesson_utils.browser import MAX_SCRIPT, digits_for_browser, for_browser
from lesson_utils.models import Normalize, SmallNet, mlp
from lesson_utils.widgets import NetworkExplorer, TrainingExplorer


def small(seed=0, activation=nn.ReLU):
    torch.manual_seed(seed)
    return mlp([36, 5, 3], activation=activation).eval()


@pytest.fixture
def images():
    return torch.rand(4, 1, 6, 6, generator=torch.Generator().manual_seed(0))


def numbers(packed):
    return torch.frombuffer(bytearray(packed.numbers), dtype=torch.float32)


def test_weights_are_packed_exactly_and_in_the_order_of_the_engine():
    net = nn.Sequential(nn.Conv2d(2, 3, 3, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(12, 2))
    net = net.eval()
    packed = for_browser(net, (2, 4, 4))
    kinds = [layer["kind"] for layer in packed.description["layers"]]
    assert kinds == ["convolution", "relu", "flatten", "dense"]
    expected = [
        net[0].weight.permute(0, 2, 3, 1).flatten(),
        torch.zeros(3),
        net[3].weight.flatten(),
        net[3].bias,
    ]
    assert torch.equal(numbers(packed), torch.cat(expected))
    counts = [n for layer in packed.description["layers"] for n in layer["sizes"].values()]
    assert counts == [54, 3, 24, 2]


@pytest.mark.parametrize(("dtype", "width"), [("half", 2), ("float", 4), ("double", 8)])
def test_as_few_bytes_as_hold_every_weight(dtype, width):
    model = small().double()
    for parameter in model.parameters():
        parameter.data = getattr(torch.rand_like(parameter), dtype)().double() - 0
    packed = for_browser(model, (1, 6, 6))
    assert packed.description["width"] == width
    assert len(packed.numbers) == width * sum(p.numel() for p in model.parameters())


def test_normalisations_become_a_factor_and_a_shift():
    norm = nn.BatchNorm1d(2).double()
    norm.running_mean, norm.running_var = torch.tensor([1.0, 2.0]), torch.tensor([4.0, 9.0])
    norm.weight.data, norm.bias.data, norm.eps = torch.tensor([2.0, 3.0]), torch.ones(2), 0.0
    model = nn.Sequential(Normalize([0.5, 0.25], [0.5, 0.25]), norm).eval()
    packed = for_browser(model, (2,))
    expected = [2.0, 4.0, -1.0, -1.0, 1.0, 1.0, 0.0, -1.0]
    assert [layer["kind"] for layer in packed.description["layers"]] == ["normalization"] * 2
    assert packed.numbers == torch.tensor(expected).half().numpy().tobytes()


def test_scripts_come_in_parts_of_the_same_name():
    packed = for_browser(SmallNet().half().float().eval(), (1, 28, 28))
    files = packed.scripts()
    assert list(files) == [f"{packed.digest}-0.js", f"{packed.digest}-1.js"]
    assert all(len(text.encode()) <= MAX_SCRIPT for text in files.values())
    contents = [
        json.loads(re.fullmatch(r".*push\((.*)\);\n", text, re.S)[1]) for text in files.values()
    ]
    assert [c[:3] for c in contents] == [[packed.digest, 0, 2], [packed.digest, 1, 2]]
    assert contents[0][3] == packed.description and contents[1][3] is None
    assert b"".join(base64.b64decode(c[4]) for c in contents) == packed.numbers


def test_other_weights_have_another_name():
    names = {for_browser(small(seed), (1, 6, 6)).digest for seed in (0, 0, 1)}
    assert len(names) == 2
    assert for_browser(small(), (36,)).digest not in names


class OwnForward(nn.Sequential):
    def forward(self, x):
        return -super().forward(x)


@pytest.mark.parametrize(
    "layer",
    [
        nn.GELU(),
        nn.Conv2d(1, 2, 3, groups=1, dilation=2),
        nn.Conv2d(2, 2, 3, groups=2),
        nn.Conv2d(1, 2, (3, 2)),
        nn.Conv2d(1, 2, 3, padding="same"),
        nn.Conv2d(1, 2, 3, padding=1, padding_mode="reflect"),
        nn.MaxPool2d(2, padding=1),
        nn.MaxPool2d(2, ceil_mode=True),
        nn.MaxPool2d(3, dilation=2),
        nn.AvgPool2d(2),
        nn.BatchNorm2d(1, track_running_stats=False),
        nn.Flatten(2),
        nn.LayerNorm(6),
        OwnForward(nn.ReLU()),
    ],
    ids=str,
)
def test_what_the_engine_does_not_know_is_named(layer):
    model = nn.Sequential(nn.Identity(), layer).eval()
    with pytest.raises(TypeError, match=r"(?s)cannot compute model\.1, .*it knows Normalize"):
        for_browser(model, (1, 6, 6))


def test_models_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"model\.eval\(\)"):
        for_browser(small().train(), (1, 6, 6))
    with pytest.raises(ValueError, match=r"does not take an input of shape \(1, 6, 7\)"):
        for_browser(small(), (1, 6, 7))


def test_explorer_shares_its_image_as_a_tensor(images):
    explorer, seen = NetworkExplorer({"a": small(), "b": small(1)}, images), []
    assert torch.equal(explorer.x, images[:1]) and (explorer.first, explorer.second) == ("a", "")
    explorer.observe(lambda change: seen.append(change["new"]), names="x")
    explorer.set_state({"x": [0.5] * 36})  # what the browser sends
    assert len(seen) == 1 and torch.equal(seen[0], torch.full((1, 1, 6, 6), 0.5))
    explorer.x = images[2:3]
    assert explorer.get_state("x") == {"x": images[2].flatten().tolist()}
    assert len(seen) == 2
    assert measure(explorer.models["a"], explorer.x).alignment.shape == (1,)
    images[2] = 0  # the explorer has a copy
    assert explorer.x.amax() > 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": torch.zeros(1, 6, 6)}, r"shape \(1, 1, 6, 6\) of one image, got \(1, 6, 6\)"),
        ({"x": [0.0] * 36}, "Tensor"),
        ({"first": "c"}, "no network 'c', only"),
        ({"first": ""}, "no network ''"),
        ({"second": "c"}, "no network 'c'"),
        ({"c": 3.0}, "greater than 2.0"),
        ({"part": "map"}, "'part' trait"),
        ({"target": -2}, "less than -1"),
        ({"shift": 1.5}, "greater than 1.0"),
    ],
)
def test_explorer_refuses_what_it_cannot_show(images, change, message):
    with pytest.raises(traitlets.TraitError, match=message):
        NetworkExplorer({"a": small()}, images, **change)


@pytest.mark.parametrize(
    ("models", "wrong", "error", "message"),
    [
        ({}, None, ValueError, "models is empty"),
        ({"a": small().train()}, None, ValueError, r"model\.eval\(\)"),
        ({"a": small()}, torch.zeros(6, 6), ValueError, r"\(n, channels, height, width\), got \(6, 6\)"),
        ({"a": small()}, torch.zeros(0, 1, 6, 6), ValueError, "n, channels"),
        ({"a": small()}, torch.zeros(2, 1, 6, 7), ValueError, "does not take"),
        ({"a": small()}, torch.zeros(2, 1, 6, 6, dtype=torch.uint8), TypeError, r"float\(\) / 255"),
        ({"a": small()}, [[0.0]], TypeError, "Tensor"),
    ],
)  # fmt: skip
def test_explorer_refuses_what_are_no_models_or_images(images, models, wrong, error, message):
    with pytest.raises(error, match=message):
        NetworkExplorer(models, images if wrong is None else wrong)


def test_the_kernel_answers_for_layers_that_the_engine_does_not_know(images):
    model = small(activation=nn.GELU)
    explorer, sent = NetworkExplorer({"plain": small(), "smooth": model}, images), []
    assert ["kernel" in network for network in explorer.networks] == [False, True]
    explorer.send = sent.append
    rows = [image.flatten().tolist() for image in images]
    for number, (job, some) in enumerate(
        [("scores", rows), ("map", rows[:1]), ("gradients", rows[:1])]
    ):
        content = {"job": job, "network": "smooth", "images": some, "id": number}
        explorer._handle_custom_msg(content, [])
    assert [answer["id"] for answer in sent] == [0, 1, 2]
    scores, best, every = (answer["result"] for answer in sent)
    assert torch.tensor(scores) == pytest.approx(model(images).detach().numpy())
    x = images[:1]
    maps = [saliency_map(model, x, torch.tensor([k])).flatten() for k in range(3)]
    assert torch.allclose(torch.tensor(every["gradients"]), torch.stack(maps))
    assert torch.allclose(torch.tensor(best["gradients"][0]), maps[model(x).argmax()])
    assert every["scores"] == best["scores"] == pytest.approx(scores[0])


def test_a_page_has_no_weights_and_no_network_that_needs_a_kernel(images, monkeypatch):
    monkeypatch.setenv("LESSONS_BOOK", "1")
    explorer = NetworkExplorer({"a": small()}, images, second="a")
    soup = BeautifulSoup(explorer._repr_mimebundle_()["text/html"], "html.parser")
    assert soup.div["data-kind"] == "network"
    state = re.search(r"const state = (\{.*?\}), listeners", soup.script.string)[1]
    key = for_browser(small(), (1, 6, 6)).digest
    assert json.loads(state)["networks"] == [{"name": "a", "key": key}]
    assert json.loads(state)["x"] == images[0].flatten().tolist()
    with pytest.raises(TypeError, match=r"cannot compute model\.2, GELU"):
        NetworkExplorer({"a": small(activation=nn.GELU)}, images).html()


@pytest.mark.parametrize("part", ["all", "class", "scale", "black", "shift"])
def test_a_part_of_the_bench_has_its_state_in_the_page(images, part):
    explorer = NetworkExplorer({"a": small()}, images, part=part, target=2, shift=-0.5, c=0.5)
    html = explorer.html()
    state = json.loads(re.search(r"const state = (\{.*?\}), listeners", html)[1])
    expected = {"part": part, "target": 2, "shift": -0.5, "c": 0.5}
    assert {key: state[key] for key in expected} == expected


def test_training_explorer_has_its_digits_in_lab_and_their_name_in_a_page(monkeypatch):
    explorer = TrainingExplorer(second=0.3, seed=3)
    packed = digits_for_browser()
    assert explorer.digits["numbers"] == packed.numbers
    monkeypatch.setenv("LESSONS_BOOK", "1")
    html = explorer.html()
    assert len(html) < 100_000 and f'"digits": {{"key": "{packed.digest}"}}' in html
    assert '"seed": 3' in html and 'data-kind="training"' in html
    with pytest.raises(traitlets.TraitError, match="one of"):
        TrainingExplorer(first=0.2)
