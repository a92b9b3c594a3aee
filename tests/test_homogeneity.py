"""Ψ^i = ⟨x, ∇Ψ^i⟩ + Σ_ℓ ⟨b_ℓ, ∂Ψ^i/∂b_ℓ⟩, against forward mode and against bias gradients."""

import warnings

import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from random_nets import PassesOn, random_net
from torch import nn
from torch.nn.utils.prune import random_unstructured

from lesson_utils import AffineClassifier, homogeneous_decomposition
from lesson_utils.models import Normalize, SmallNet, mlp

seeds = st.integers(0, 2**32 - 1)


def decompose(model, x, target=None):
    """The decomposition, with any warning turned into an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return homogeneous_decomposition(model, x, target)


def forward_mode(model, x, index):
    return torch.func.jvp(model, (x,), (x,))[1].gather(1, index[:, None]).squeeze(1).detach()


@settings(max_examples=60)
@given(seed=seeds, dtype=st.sampled_from([torch.float64, torch.float32]))
def test_biases_account_for_everything(seed, dtype):
    model, shape = random_net(seed, dtype)
    x = torch.randn(7, *shape, dtype=dtype)
    result = decompose(model, x)
    logits = model(x).detach()
    size = sum((c.abs() for c in result.per_layer.values()), result.homogeneous.abs() + 1)
    tolerance = 1e3 * torch.finfo(dtype).eps * size
    assert (result.residual.abs() <= tolerance).all()
    assert ((result.homogeneous + result.bias - logits.amax(1)).abs() <= tolerance).all()
    # Forward mode knows nothing of hooks or backward passes.
    jvp = forward_mode(model, x, logits.argmax(1))
    assert ((jvp - result.homogeneous).abs() <= tolerance).all()
    assert ((result.degree >= 0) & (result.degree <= 1)).all()


@settings(max_examples=20)
@given(seed=seeds)
def test_targets(seed):
    model, shape = random_net(seed)
    x = torch.randn(5, *shape, dtype=torch.float64)
    logits = model(x).detach()
    for target in (0, torch.arange(5) % logits.shape[1]):
        index = torch.as_tensor(target).expand(5)
        result = decompose(model, x, target)
        total = result.homogeneous + result.bias
        torch.testing.assert_close(total, logits.gather(1, index[:, None]).squeeze(1))
        torch.testing.assert_close(result.homogeneous, forward_mode(model, x, index))


def test_contributions_are_bias_times_bias_gradient():
    """Layer by layer against autograd's own gradient by the bias parameter, one sample at a time."""
    torch.manual_seed(0)
    model, x = SmallNet((1, 8, 8)).double().eval(), torch.rand(3, 1, 8, 8).double()
    result = decompose(model, x)
    assert list(result.per_layer) == ["0", "3", "6", "10", "13"]
    for b in range(3):
        model.zero_grad()
        model(x[b : b + 1]).amax().backward()
        for name, contribution in result.per_layer.items():
            bias = model.get_submodule(name).bias
            assert contribution[b].item() == pytest.approx(
                (bias * bias.grad).sum().item(), rel=1e-9
            )


def test_batch_norm_enters_with_its_effective_bias():
    norm = nn.BatchNorm1d(2, eps=0.0)
    norm.running_mean[:] = torch.tensor([3.0, -1.0])
    norm.running_var[:] = torch.tensor([4.0, 9.0])
    norm.weight.data[:] = torch.tensor([2.0, 6.0])
    norm.bias.data[:] = torch.tensor([1.0, 0.0])
    result = decompose(norm.eval(), torch.tensor([[5.0, 0.0], [0.0, 5.0]]), target=0)
    torch.testing.assert_close(result.per_layer["BatchNorm1d"], torch.tensor([-2.0, -2.0]))
    torch.testing.assert_close(result.homogeneous, torch.tensor([5.0, 0.0]))


def test_an_input_shift_is_a_bias_and_is_listed():
    torch.manual_seed(0)
    model = nn.Sequential(Normalize(0.5, 0.25), mlp([64, 20, 10])).eval()
    x = torch.rand(4, 1, 8, 8)
    assert list(decompose(model, x).per_layer) == ["0", "1.1", "1.3"]
    affine = AffineClassifier([[1.0, 2.0], [0.0, 1.0]], [0.5, 3.0])
    result = decompose(affine, torch.rand(3, 2).double(), target=1)
    torch.testing.assert_close(result.bias, torch.full((3,), 3.0).double())


def test_without_biases_the_logit_is_homogeneous():
    torch.manual_seed(0)
    model, x = mlp([64, 30, 30, 10], bias=False).double().eval(), torch.rand(5, 64).double()
    result = decompose(model, x)
    assert result.per_layer == {}
    torch.testing.assert_close(result.bias, torch.zeros(5).double(), rtol=0, atol=1e-14)
    torch.testing.assert_close(result.degree, torch.ones(5).double())


@pytest.mark.parametrize("make", [torchvision.models.resnet18, torchvision.models.resnet50])
def test_resnets(make):
    torch.manual_seed(0)
    model, x = make(weights=None).eval(), torch.rand(2, 3, 64, 64)
    result = decompose(model, x)
    assert (result.residual.abs() < 1e-4 * (1 + result.bias.abs())).all()
    assert {"bn1", "fc", "layer1.0.bn1"} <= set(result.per_layer)
    channels_last = decompose(model.to(memory_format=torch.channels_last), x)
    torch.testing.assert_close(channels_last.bias, result.bias, rtol=1e-3, atol=1e-4)


def test_a_module_called_twice_contributes_twice():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.head = nn.Linear(4, 4), nn.Linear(4, 3)

        def forward(self, x):
            return self.head(self.layer(self.layer(x).relu()).relu())

    torch.manual_seed(0)
    result = decompose(Twice().double().eval(), torch.randn(6, 4).double())
    assert list(result.per_layer) == ["layer", "head"]
    assert result.residual.abs().max() < 1e-12


NOT_HOMOGENEOUS = {
    "GELU": nn.GELU(),
    "SiLU": nn.SiLU(),
    "Sigmoid": nn.Sigmoid(),
    "Softmax": nn.Softmax(dim=1),
    "LayerNorm": nn.LayerNorm(20),
    "GroupNorm": nn.GroupNorm(2, 20),
}


@pytest.mark.parametrize("name", NOT_HOMOGENEOUS)
def test_where_the_theorem_fails_a_warning_names_the_module(name):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 20), NOT_HOMOGENEOUS[name], nn.Linear(20, 3)).eval()
    x = torch.randn(5, 6)
    with pytest.warns(UserWarning, match=rf"'1' \({name}\)"):
        result = homogeneous_decomposition(model, x)
    assert result.residual.abs().max() > 1e-3
    # the definition of β holds all the same
    torch.testing.assert_close(result.homogeneous + result.bias, model(x).detach().amax(1))


def test_relu6_fails_only_where_it_saturates():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 20), nn.ReLU6(), nn.Linear(20, 3)).eval()
    x = torch.randn(5, 6)
    assert model[0](x).max() < 6
    assert decompose(model, x).residual.abs().max() < 1e-5
    with pytest.warns(UserWarning, match=r"'1' \(ReLU6\)"):
        homogeneous_decomposition(model, 50 * x)


def test_a_bias_by_hand_is_noticed():
    class ByHand(nn.Module):
        def __init__(self):
            super().__init__()
            self.shift = nn.Parameter(torch.ones(3))

        def forward(self, x):
            return x + self.shift

    model = nn.Sequential(nn.Linear(4, 3), ByHand()).eval()
    with pytest.warns(UserWarning, match=r"'1' \(ByHand\)"):
        homogeneous_decomposition(model, torch.rand(2, 4))


def test_refusals_and_clean_up():
    model, x = mlp([4, 8, 3]), torch.rand(5, 4)
    with pytest.raises(TypeError, match=r"nn\.Module"):
        homogeneous_decomposition(lambda y: model(y), x)
    with pytest.raises(IndexError, match="target"):
        homogeneous_decomposition(model, x, 3)
    assert not any(module._forward_hooks for module in model.modules())


# --- whatever axis is the batch ---------------------------------------------------------------


class TokensFirst(nn.Module):
    """A dense layer on (tokens, batch, features), with as many tokens as samples."""

    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Linear(3, 5), nn.Linear(5, 4)

    def forward(self, x):
        tokens = self.embed(x.view(len(x), -1, 3).transpose(0, 1)).relu()
        return self.head(tokens.amax(0))


class Windows(nn.Module):
    """Windows of an image, folded into the batch."""

    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Conv2d(1, 4, 2), nn.Linear(4, 4)

    def forward(self, x):
        windows = x.view(len(x), -1, 3).unfold(1, 3, 3).reshape(-1, 1, 3, 3)
        features = self.embed(windows).relu().amax((2, 3))
        return self.head(features.view(len(x), -1, 4).mean(1))


class Siamese(nn.Module):
    """One branch for two halves of the input, stacked in one batch."""

    def __init__(self):
        super().__init__()
        self.branch, self.head = nn.Linear(9, 4), nn.Linear(4, 4)

    def forward(self, x):
        one, two = self.branch(torch.cat([x[:, :9], x[:, 9:]])).relu().chunk(2)
        return self.head(torch.maximum(one, two))


class Loop(nn.Module):
    """One sample after the other, without a batch axis."""

    def __init__(self):
        super().__init__()
        self.embed, self.norm, self.head = nn.Linear(18, 6), nn.BatchNorm1d(6), nn.Linear(6, 4)

    def forward(self, x):
        return torch.stack([self.head(self.norm(self.embed(one)[None]).relu()[0]) for one in x])


class NormalizedReLU(nn.BatchNorm1d):
    """Batch normalisation with an activation inside, as timm has it."""

    def forward(self, x):
        return super().forward(x).relu_()


class StandardisedLinear(nn.Linear):
    """Another weight, and an activation inside."""

    def forward(self, x):
        return nn.functional.leaky_relu(
            nn.functional.linear(x, self.weight - self.weight.mean(1, keepdim=True), self.bias)
        )


class PaddedConv(nn.Conv1d):
    def forward(self, x):
        padded = nn.functional.pad(x[:, None], (1, 1))
        return super().forward(padded).relu().flatten(1)


def derived():
    return nn.Sequential(
        StandardisedLinear(18, 8), NormalizedReLU(8), PaddedConv(1, 2, 3), nn.Linear(16, 4)
    )


def without_bias():
    bare = nn.BatchNorm1d(6, affine=False)
    half = nn.BatchNorm1d(6)
    half.bias = None
    return nn.Sequential(nn.Linear(18, 6), bare, nn.ReLU(), half, nn.ReLU(), nn.Linear(6, 4))


def by_copies(model, x, index):
    """⟨b, ∂Ψ/∂b⟩ the slow way: scale one bias at a time, and take a difference quotient."""
    result = {}
    for name, module in model.named_modules():
        bias = getattr(module, "bias", None)
        mean = getattr(module, "running_mean", None)
        values = [t for t in (bias, mean) if t is not None]
        if values:
            scores = []
            for scale in (1 + 1e-6, 1 - 1e-6):
                kept = [t.detach().clone() for t in values]
                with torch.no_grad():
                    for t in values:
                        t *= scale
                    scores.append(model(x).gather(1, index[:, None]).squeeze(1))
                    for t, old in zip(values, kept, strict=True):
                        t.copy_(old)
            result[name] = (scores[0] - scores[1]) / 2e-6
    return result


@pytest.mark.parametrize(
    "make", [TokensFirst, Windows, Siamese, Loop, derived, without_bias], ids=lambda f: f.__name__
)
def test_each_layer_and_sample_by_scaling_its_bias(make):
    torch.manual_seed(3)
    model, x = make().double().eval(), torch.randn(6, 18, dtype=torch.float64)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
            if module.bias is not None:
                module.bias.data.normal_()
    result = decompose(model, x)
    expected = by_copies(model, x, model(x).argmax(1))
    assert list(result.per_layer) == list(expected)
    for name, value in expected.items():
        torch.testing.assert_close(result.per_layer[name], value, rtol=1e-6, atol=1e-8)


def test_an_activation_inside_that_is_not_homogeneous_is_named():
    class Smooth(nn.Linear):
        def forward(self, x):
            return nn.functional.silu(super().forward(x))

    model = nn.Sequential(Smooth(4, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
    with pytest.warns(UserWarning, match=r"Not positively homogeneous: '0' \(Smooth\)$"):
        homogeneous_decomposition(model, torch.randn(5, 4))


def test_an_activation_is_named_before_layers_that_may_be_innocent():
    class Padded(nn.Linear):
        """As timm's convolutions: derived, and homogeneous all the same."""

    model = nn.Sequential(Padded(4, 8), nn.GELU(), nn.Linear(8, 3)).eval()
    message = r"Not positively homogeneous: '1' \(GELU\); perhaps also '0' \(Padded\)$"
    with pytest.warns(UserWarning, match=message):
        homogeneous_decomposition(model, torch.randn(5, 4))


def test_frozen_and_shared_biases():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 3))
    model[2].bias = model[0].bias
    model, x = model.double().requires_grad_(False).eval(), torch.randn(5, 4).double()
    result = decompose(model, x)
    assert result.residual.abs().max() < 1e-12
    assert (result.per_layer["0"] != 0).any()
    assert (result.per_layer["2"] == 0).all()  # both of them are counted at the first


def test_a_bias_that_is_computed_anew_in_each_call_is_no_other_one():
    """Pruning replaces the bias: its place in memory may become that of any other tensor."""
    torch.manual_seed(4)
    net, x = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8)).eval(), torch.rand(4, 8)
    expected = homogeneous_decomposition(net, x)
    for k in (0, 2):
        random_unstructured(net[k], "bias", 0.0)
    for _ in range(10):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the residual is the biases, which have no layer
            found = homogeneous_decomposition(net, x)
        torch.testing.assert_close(found.bias, expected.bias)
        torch.testing.assert_close(found.homogeneous, expected.homogeneous)


@pytest.mark.parametrize("wrap", [PassesOn, lambda m: torch.compile(m, backend="eager")])
def test_what_is_wrapped_counts_once(wrap):
    net, x = mlp([4, 6, 3]).eval(), torch.rand(5, 4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = homogeneous_decomposition(nn.Sequential(wrap(Normalize(0.5, 0.25)), net), x)
    expected = homogeneous_decomposition(nn.Sequential(Normalize(0.5, 0.25), net), x)
    torch.testing.assert_close(list(found.per_layer.values()), list(expected.per_layer.values()))
    linear = nn.Linear(4, 4)
    with pytest.warns(UserWarning, match=r"Not positively homogeneous: '1' \(GELU\)$"):
        homogeneous_decomposition(
            nn.Sequential(wrap(linear), nn.GELU(), nn.Sequential(), net).eval(), x
        )
