import re

import pytest
import timm
import torch
import torchvision
from random_nets import Around
from safetensors.torch import save_file
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from lesson_utils import gradient_penalty_loss
from lesson_utils.data import (
    data_root,
    load_digits,
    load_sample_photographs,
    load_sample_squares,
)
from lesson_utils.models import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    IMAGENETTE,
    Normalize,
    SmallNet,
    efficientnet_lite0,
    load_weights,
    mlp,
    resnet,
)
from lesson_utils.training import accuracy, fit

# --- models ------------------------------------------------------------------


def test_smallnet_is_the_papers():
    net = SmallNet()
    kinds = [type(layer).__name__ for layer in net]
    assert kinds == ["Conv2d", "ReLU", "MaxPool2d"] * 3 + [
        "Flatten", "Linear", "ReLU", "Dropout", "Linear",
    ]  # fmt: skip
    assert [m.out_channels for m in net if isinstance(m, nn.Conv2d)] == [32, 64, 128]
    assert sum(p.numel() for p in net.parameters()) == 241_546
    assert net(torch.rand(2, 1, 28, 28)).shape == (2, 10)
    with pytest.raises(ValueError, match="too small"):
        SmallNet((1, 7, 7))


def test_normalize_by_hand_and_per_channel():
    x = torch.rand(2, 3, 4, 4)
    expected = (x - torch.tensor([0.1, 0.2, 0.3]).view(1, 3, 1, 1)) / 0.5
    torch.testing.assert_close(Normalize([0.1, 0.2, 0.3], [0.5, 0.5, 0.5])(x), expected)
    torch.testing.assert_close(Normalize(0.5, 0.25)(x), (x - 0.5) / 0.25)
    assert repr(Normalize(127 / 255, 0.25)) == "Normalize(mean=0.498, std=0.25)"
    assert repr(Normalize([0.1, 0.2], [1, 1])) == "Normalize(mean=[0.1, 0.2], std=[1, 1])"
    two = Normalize([0.1, 0.2], [1.0, 1.0])
    for shape in ((2, 3, 4, 4), (2, 4, 4), (2,)):
        with pytest.raises(ValueError, match=r"\(batch, 2, …\).* got " + re.escape(str(shape))):
            two(torch.rand(shape))
    with pytest.raises(ValueError, match="std must be positive"):
        Normalize(0.5, 0.0)
    with pytest.raises(ValueError, match="one length"):
        Normalize([0.1, 0.2], 1.0)


def test_mlp():
    net = mlp([64, 30, 20, 10], bias=False, activation=nn.Tanh)
    assert sum(p.numel() for p in net.parameters()) == 64 * 30 + 30 * 20 + 20 * 10
    assert isinstance(net[-1], nn.Linear)
    assert net(torch.rand(2, 1, 8, 8)).shape == (2, 10)
    with pytest.raises(ValueError, match="input and output"):
        mlp([64])


@pytest.mark.parametrize("depth", [18, 50])
def test_resnet_is_torchvisions_behind_a_normalisation(depth):
    theirs = torchvision.models.get_model(f"resnet{depth}", num_classes=10)
    ours = resnet(depth, 10)
    assert isinstance(ours[0], Normalize)
    assert shapes(ours[1]) == shapes(theirs)
    ours[1].load_state_dict(theirs.state_dict())
    x = torch.rand(2, 3, 64, 64)
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
    assert torch.allclose(ours.eval()(x), theirs.eval()((x - mean) / std), atol=1e-5)


def shapes(model):
    return {name: value.shape for name, value in model.state_dict().items()}


def test_narrow_resnet_for_small_images():
    wide, narrow = (resnet(18, 10, width=w, small_images=True) for w in (64, 16))
    count = [sum(p.numel() for p in net.parameters()) for net in (wide, narrow)]
    assert 15 < count[0] / count[1] < 16.5  # a quarter of the channels on either side
    seen = []
    narrow[1].layer1.register_forward_hook(lambda module, x, y: seen.append(y.shape))
    assert narrow.eval()(torch.rand(2, 3, 64, 64)).shape == (2, 10)
    assert seen == [(2, 16, 32, 32)]  # one stride of two, no pooling before the blocks
    with pytest.raises(ValueError, match="pretrained weights need"):
        resnet(18, 10, pretrained=True)


@pytest.mark.parametrize("name", ["weights.safetensors", "weights.pt"])
def test_load_weights(tmp_path, name):
    torch.manual_seed(0)
    trained, other = mlp([4, 3, 2]), mlp([4, 3, 2])
    save = save_file if name.endswith("safetensors") else torch.save
    save(trained.state_dict(), tmp_path / name)
    x = torch.rand(5, 4)
    assert not torch.equal(trained(x), other(x))
    assert torch.equal(load_weights(other.train(), tmp_path / name)(x), trained(x))
    assert not other.training
    for net, finding in (
        (
            mlp([4, 3, 5]),  # other classes
            r"3.weight has shape \(2, 3\), in the network \(5, 3\); .*: make a network with as many "
            "classes, or cut these rows",
        ),
        (mlp([5, 3, 2]), r"1.weight has shape \(3, 4\), in the network \(3, 5\)$"),
        (
            nn.Sequential(mlp([4, 3, 2])),
            r"0.1.weight is missing, and 1.\w+ is not in the network: weights of another network, "
            "or of one inside another module$",
        ),
        (mlp([4, 3, 3, 2]), r"3.weight has shape .*; 3.bias .*; 5.weight is missing …"),
        (mlp([4, 3, 2], bias=False), "1.bias is not in the network; 3.bias is not in the network"),
    ):
        before = {key: value.clone() for key, value in net.state_dict().items()}
        with pytest.raises(RuntimeError, match=f"{name} does not hold weights of .*{finding}"):
            load_weights(net, tmp_path / name)
        assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())


def test_efficientnet_has_the_logits_of_the_code_that_the_weights_were_made_for():
    # computed with the package efficientnet-lite-pytorch 0.1.0, images as (255·x − 127)/128
    classes = [0, 217, 482, 663, 698, 985, 999]
    expected = torch.tensor(
        [
            [1.3563691, -0.4160456, 0.1493404, 6.7156935, 8.1908283, 0.2406595, -0.8741687],
            [-1.5009094, 0.7726741, 0.8721021, -0.5647439, -0.7849800, 6.9229650, -0.4591866],
        ]
    )
    x = load_sample_photographs(224)
    net = efficientnet_lite0(activation=nn.ReLU6, pretrained=True).eval()
    with torch.no_grad():
        logits = net(x)
        ten = efficientnet_lite0(IMAGENETTE, activation=nn.ReLU6, pretrained=True).eval()(x)
    torch.testing.assert_close(logits[:, classes], expected, atol=1e-5, rtol=0)
    assert logits.argmax(1).tolist() == [698, 985]  # palace, daisy
    torch.testing.assert_close(ten, logits[:, list(IMAGENETTE)], atol=1e-5, rtol=1e-5)


def test_efficientnet_with_relu_scales_with_its_image_but_for_the_biases():
    info = timm.data.ImageNetInfo()
    names = info.label_names()
    assert sorted(names[k] for k in IMAGENETTE) == [names[k] for k in IMAGENETTE]
    assert all(name in info.index_to_description(k) for k, name in IMAGENETTE.items())
    net = efficientnet_lite0(4).eval().double()
    assert not any(isinstance(module, nn.ReLU6) for module in net.modules())
    assert net[1].classifier.out_features == 4
    torch.testing.assert_close(
        net[0](torch.tensor(127 / 255.0).expand(1, 3, 1, 1)).abs().max().item(),
        0.0,
        atol=1e-6,
        rtol=0,
    )
    x = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.bias.zero_(), module.running_mean.zero_()
        net[1].classifier.bias.zero_()
        torch.testing.assert_close(net[1](3 * x), 3 * net[1](x))
    for classes in (10, 0, (1000,), (-1, 3), (), (4, 4)):
        with pytest.raises(ValueError, match="classes"):
            efficientnet_lite0(classes, pretrained=True)
    for classes in (1.5, None, True, "ten"):
        with pytest.raises(TypeError, match="classes must be an integer"):
            efficientnet_lite0(classes)
    for classes in ((0, 1.0), [True, False], torch.tensor([0.0, 1.0]), ["5"]):
        with pytest.raises(TypeError, match="each of classes must be an integer"):
            efficientnet_lite0(classes)
    for options, message in (
        ({"classes": {0, 1}}, "classes must have an order, as a list has, got set"),
        ({"classes": frozenset([3, 4])}, "classes must have an order"),
        ({"activation": nn.ReLU()}, "activation must make a module"),
        ({"activation": "relu"}, "activation must make a module"),
        ({"pretrained": "weights.pt"}, "pretrained must be True or False, got 'weights.pt'"),
    ):
        with pytest.raises(TypeError, match=message):
            efficientnet_lite0(**options)
    assert efficientnet_lite0(torch.tensor(5))[1].classifier.out_features == 5
    assert efficientnet_lite0(range(3), pretrained=True)[1].classifier.out_features == 3


def test_load_weights_executes_nothing(tmp_path):
    torch.save({"weight": print}, tmp_path / "weights.pt")
    with pytest.raises(RuntimeError, match=r"read with weights.only") as error:
        load_weights(mlp([4, 2]), tmp_path / "weights.pt")
    assert "\n" not in str(error.value) and "=False" not in str(error.value)


def test_load_weights_asks_for_a_network_and_a_file(tmp_path):
    net = mlp([4, 2])
    for path in (None, b"a.pt", net.state_dict()):
        with pytest.raises(
            TypeError, match=r"path must be the name of a file, got .*load_state_dict"
        ):
            load_weights(net, path)
    save_file(net.state_dict(), tmp_path / "a.SafeTensors")
    for model in (None, nn.Linear, lambda x: x):
        with pytest.raises(TypeError, match=r"model must be a network, an nn\.Module, got "):
            load_weights(model, tmp_path / "a.SafeTensors")
    assert load_weights(net, tmp_path / "a.SafeTensors") is net


def test_files_that_hold_something_else_get_one_sentence(tmp_path):
    net = mlp([4, 2])
    torch.save({"state_dict": net.state_dict(), "epoch": 3}, tmp_path / "checkpoint.pt")
    torch.save([torch.rand(3)], tmp_path / "list.pt")
    torch.save(net, tmp_path / "model.pt")
    save_file(net.state_dict(), tmp_path / "safe.pt")
    torch.jit.save(torch.jit.trace(net, torch.rand(1, 4)), tmp_path / "script.pt")
    torch.save(net.state_dict(), tmp_path / "half.pt")
    (tmp_path / "half.pt").write_bytes((tmp_path / "half.pt").read_bytes()[:700])
    torch.save({name: value * 1j for name, value in net.state_dict().items()}, tmp_path / "i.pt")
    (tmp_path / "empty.pt").write_bytes(b"")
    (tmp_path / "empty.safetensors").write_bytes(b"")
    (tmp_path / "text.pt").write_text("no weights")
    (tmp_path / "text.safetensors").write_text("no weights")
    for name, finding in (
        ("checkpoint.pt", "holds a dict with state_dict, epoch: save the weights alone"),
        ("list.pt", "holds a list: save the weights alone"),
        ("i.pt", "complex: 1.weight, 1.bias"),
        *(
            (
                name,
                "is no whole file of weights by torch.save, or holds more .*: copy .*, or save the",
            )
            for name in ("model.pt", "script.pt", "half.pt", "text.pt", "empty.pt")
        ),
        (
            "safe.pt",
            r"is no file of torch.save \(safetensors must end in .safetensors\): rename it",
        ),
        ("empty.safetensors", "is no whole file of weights by safetensors: copy or download it"),
        ("text.safetensors", "is no whole file of weights by safetensors: copy or download it"),
    ):
        with pytest.raises(RuntimeError, match=f"{name} .*{finding}") as error:
            load_weights(net, tmp_path / name)
        assert "\n" not in str(error.value) and "False" not in str(error.value)


# --- data --------------------------------------------------------------------


def test_digits():
    data = load_digits()
    assert data.x_train.shape == (1297, 1, 8, 8)
    assert data.x_test.shape == (500, 1, 8, 8)
    assert data.x_train.dtype == torch.float32
    assert data.x_train.min() == 0
    assert data.x_train.max() == 1
    assert set(data.y_test.tolist()) == set(range(10))
    # The split is fixed for good: lessons and records rely on it.
    assert data.y_test[:10].tolist() == load_digits().y_test[:10].tolist()
    assert torch.equal(data.x_test.sum(), load_digits().x_test.sum())


def test_enlarged_digits():
    small, large = load_digits([3, 8]).x_test, load_digits([3, 8], enlarged=True).x_test
    assert large.shape == (len(small), 1, 28, 28)
    inside = large[..., 4:24, 4:24]
    assert inside.sum() == pytest.approx(large.sum().item(), rel=1e-5)  # the frame is black
    assert inside.mean() == pytest.approx(small.mean().item(), rel=0.03)
    assert 0 <= large.min() <= large.max() <= 1
    # Each picture shows what it showed: small again, of all originals it is most like its own.
    back = torch.nn.functional.interpolate(inside, size=8, mode="area").flatten(1)
    unit = torch.nn.functional.normalize(small.flatten(1), dim=1)
    own = (back @ unit.T).argmax(1) == torch.arange(len(small))
    assert own.double().mean() > 0.9


def test_squares_of_the_sample_photographs():
    whole, squares = load_sample_photographs(256), load_sample_squares(64)
    assert squares.shape == (32, 3, 64, 64)
    assert torch.equal(squares[1], whole[0, :, :64, 64:128])  # row by row
    assert torch.equal(squares[16 + 7], whole[1, :, 64:128, 192:])
    assert len(load_sample_squares(128)) == 8


def test_digit_classes():
    data, full = load_digits([3, 8], dtype=torch.float64), load_digits(dtype=torch.float64)
    assert set(data.y_train.tolist()) == {0, 1}
    assert torch.equal(data.x_test[data.y_test == 1], full.x_test[full.y_test == 8])
    for bad in ([3], [3, 3], [3, 11]):
        with pytest.raises(ValueError, match="two different digits"):
            load_digits(bad)


def test_data_root(monkeypatch, tmp_path):
    monkeypatch.delenv("LESSONS_DATA", raising=False)
    assert data_root().name == "data"
    monkeypatch.setenv("LESSONS_DATA", str(tmp_path))
    assert data_root() == tmp_path
    assert data_root(tmp_path / "own") == tmp_path / "own"


# --- training ----------------------------------------------------------------


def test_penalty_by_hand():
    # One dense layer, two classes: ∇ℓ = (softmax(Ψ) − onehot(y)) · W.
    layer = nn.Linear(3, 2).double()
    x, y = torch.rand(4, 3).double(), torch.tensor([0, 1, 1, 0])
    logits = layer(x)
    errors = logits.softmax(1) - nn.functional.one_hot(y, 2)
    expected = (errors @ layer.weight).square().sum(1).mean()
    loss, penalty = gradient_penalty_loss(layer, x, y, 0.7)
    torch.testing.assert_close(penalty, expected.detach())
    torch.testing.assert_close(loss, nn.functional.cross_entropy(logits, y) + 0.7 * expected)


def test_penalty_does_not_depend_on_how_the_batch_is_cut():
    net = mlp([5, 8, 3]).double()
    x, y = torch.rand(6, 5).double(), torch.randint(0, 3, (6,))
    whole = gradient_penalty_loss(net, x, y, 1.0)[1]
    single = [gradient_penalty_loss(net, x[[b]], y[[b]], 1.0)[1] for b in range(6)]
    torch.testing.assert_close(whole, torch.stack(single).mean())


def test_penalty_gradient_on_a_smooth_net():
    torch.manual_seed(0)
    net = mlp([3, 4, 2], activation=nn.Tanh).double()
    x, y = torch.rand(5, 3).double(), torch.tensor([0, 1, 0, 1, 1])
    weight = net[1].weight

    def loss(values):
        parameters = dict(net.named_parameters()) | {"1.weight": values}
        called = lambda batch: torch.func.functional_call(net, parameters, (batch,))  # noqa: E731
        return gradient_penalty_loss(called, x, y, 2.0)[0]

    assert torch.autograd.gradcheck(loss, weight.detach().clone().requires_grad_(True))


def test_strength_zero_is_the_plain_loss_and_negative_is_refused():
    net, x, y = mlp([5, 8, 3]), torch.rand(6, 5), torch.randint(0, 3, (6,))
    loss, penalty = gradient_penalty_loss(net, x, y, 0)
    assert torch.equal(loss, nn.functional.cross_entropy(net(x), y))
    assert penalty == 0
    for bad in (-1.0, float("nan")):
        with pytest.raises(ValueError, match="≥ 0"):
            gradient_penalty_loss(net, x, y, bad)


def trained(digits, strength=0.0, **options):
    torch.manual_seed(0)
    net = mlp([64, 50, 10])
    return fit(net, digits.x_train, digits.y_train, strength=strength, epochs=5, **options)


def test_fit_learns_repeats_and_leaves_the_global_seed_alone(digits):
    first = trained(digits)
    state = torch.random.get_rng_state()
    again = trained(digits)
    assert not first.training
    assert torch.equal(first[1].weight, again[1].weight)
    assert not torch.equal(first[1].weight, trained(digits, seed=1)[1].weight)
    assert accuracy(first, digits.x_test, digits.y_test) > 0.85
    torch.manual_seed(0)
    mlp([64, 50, 10])
    assert torch.equal(state, torch.random.get_rng_state())


def test_penalty_lowers_the_input_gradient(digits):
    plain, robust = trained(digits), trained(digits, strength=3.0)
    _, before = gradient_penalty_loss(plain, digits.x_test, digits.y_test, 1.0)
    _, after = gradient_penalty_loss(robust, digits.x_test, digits.y_test, 1.0)
    assert after < 0.8 * before


def test_a_penalty_beside_batch_statistics_is_refused():
    net, x, y = (
        nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 3)),
        torch.rand(6, 4),
        torch.arange(6) % 3,
    )
    before = net[0].running_mean.clone()
    for call in (
        lambda: gradient_penalty_loss(net, x, y, 1.0),
        lambda: fit(net, x, y, strength=1.0),
    ):
        with pytest.raises(ValueError, match=r"layer '0' \(BatchNorm1d\).*no penalty per sample"):
            call()
    with pytest.raises(ValueError, match="no penalty per sample"):
        fit(net.eval(), x, y, strength=1.0)  # it would train in train mode
    assert torch.equal(net[0].running_mean, before)
    assert not net.training
    whole = gradient_penalty_loss(net, x, y, 1.0)[1]
    single = [gradient_penalty_loss(net, x[[b]], y[[b]], 1.0)[1] for b in range(6)]
    torch.testing.assert_close(whole, torch.stack(single).mean())
    fit(net, x[:5], y[:5], batch_size=2, epochs=1)  # a last batch of one
    assert not torch.equal(net[0].running_mean, before)


BATCH_NORM = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3))
HIDDEN = {
    "a function": lambda x: BATCH_NORM(x),
    "a method": BATCH_NORM.forward,
    "batch_norm": lambda x: nn.functional.batch_norm(x, None, None, training=True)[:, :3],
    "the mean": lambda x: BATCH_NORM[0](x - x.mean(0)),
    "the largest": lambda x: BATCH_NORM[0](x / x.max()),
}


@pytest.mark.parametrize("name", HIDDEN)
@pytest.mark.parametrize("batch", [2, 7])
def test_a_penalty_beside_hidden_statistics_is_refused(name, batch):
    x, y = torch.rand(batch, 4), torch.arange(batch) % 3
    for model in (HIDDEN[name], Around(HIDDEN[name])):
        with pytest.raises(ValueError, match=r"mixes the samples.*no penalty per sample"):
            gradient_penalty_loss(model, x, y, 1.0)
    with pytest.raises(ValueError, match=r"mixes the samples.*no penalty per sample"):
        fit(nn.Sequential(nn.Linear(4, 4), Around(HIDDEN[name])), x, y, strength=1.0)
    if name != "batch_norm":
        fit(nn.Sequential(nn.Linear(4, 4), Around(HIDDEN[name])), x, y, epochs=1)  # no penalty


def test_the_question_changes_no_penalty():
    x, y = torch.rand(6, 4), torch.arange(6) % 3
    net = nn.Sequential(nn.Linear(4, 6), nn.Dropout(), nn.GroupNorm(2, 6), nn.Linear(6, 3))
    found = []
    for check in (True, False):
        torch.manual_seed(0)
        net.zero_grad()
        gradient_penalty_loss(net, x, y, 1.0, check=check)[0].backward()
        found.append(torch.cat([p.grad.flatten() for p in net.parameters()]))
    assert torch.equal(*found)


def test_a_penalty_of_compiled_models():
    x, y = torch.rand(6, 4), torch.arange(6) % 3
    net = mlp([4, 8, 3])
    expected = gradient_penalty_loss(net, x, y, 1.0)
    inside = nn.Sequential(torch.compile(net, backend="aot_eager"))
    for model in (torch.compile(net, backend="aot_eager"), inside):
        found = gradient_penalty_loss(model, x, y, 1.0)
        found[0].backward()
        torch.testing.assert_close(found, expected)
    fit(inside, x, y, strength=1.0, epochs=1)


@pytest.mark.parametrize("attention", [nn.MultiheadAttention(4, 1, batch_first=True), None])
def test_a_penalty_of_attention_with_a_kernel_of_its_own_choice(attention):
    x, y = torch.rand(6, 5, 4), torch.arange(6) % 3
    head = nn.Linear(4, 3)

    def model(x):
        with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
            if attention is None:
                return head(nn.functional.scaled_dot_product_attention(x, x, x).mean(1))
            return head(attention(x, x, x, need_weights=False)[0].mean(1))

    loss, penalty = gradient_penalty_loss(model, x, y, 1.0)
    loss.backward()
    assert penalty > 0


def test_batch_normalisation_and_a_single_image():
    x, y = torch.rand(6, 4), torch.arange(6) % 3
    for images, size in ((6, 1), (1, 64)):
        with pytest.raises(ValueError, match=r"x is a batch of one image.*batch_size ≥ 2"):
            fit(BATCH_NORM, x[:images], y[:images], batch_size=size)
        assert not BATCH_NORM.training
    spatial = nn.Sequential(nn.BatchNorm2d(1), nn.Flatten(), nn.Linear(4, 3))
    fit(spatial, x.view(6, 1, 2, 2), y, batch_size=1, epochs=1)


def test_images_of_bytes_are_refused():
    net, x, y = mlp([4, 3]), torch.zeros(6, 4, dtype=torch.uint8), torch.arange(6) % 3
    for call in (
        lambda: fit(net, x, y),
        lambda: gradient_penalty_loss(net, x, y, 0.0),
        lambda: accuracy(net, x, y),
    ):
        with pytest.raises(TypeError, match=r"x holds torch\.uint8.*x\.float\(\) / 255"):
            call()


def test_the_penalty_needs_no_gradient_mode_and_leaves_the_images_alone():
    net = nn.Sequential(nn.ReLU(inplace=True), mlp([4, 8, 3]))
    x, y = torch.randn(6, 4), torch.arange(6) % 3
    before = x.clone()
    expected = gradient_penalty_loss(net, x, y, 1.0)
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            torch.testing.assert_close(
                gradient_penalty_loss(net, x.clone(), y.clone(), 1.0), expected
            )
    accuracy(net, x, y)
    gradient_penalty_loss(net, x, y, 0.0)
    assert torch.equal(x, before)
