"""Any model, any caller: the right number, or a refusal that says why, and never a trace."""

import functools
import importlib
import re
import sys
import threading
import warnings
from collections import OrderedDict
from types import SimpleNamespace

import pytest
import torch
from random_nets import Around, PassesOn
from torch import nn
from torch.nn.functional import dropout

from lesson_utils import (
    AffineClassifier,
    BinaryClassifier,
    alignment,
    binarize,
    bound_terms,
    homogeneous_decomposition,
    jacobian,
    linearized_robustness,
    measure,
    minimal_l2,
    saliency_map,
)
from lesson_utils.attacks import line_search, projected_gradient
from lesson_utils.models import Normalize, SmallNet, mlp
from lesson_utils.training import accuracy, fit, gradient_penalty_loss

torch.manual_seed(0)
NET = mlp([64, 20, 5]).eval()
X = torch.rand(4, 64)
LABELS = torch.arange(4) % 3
FUNCTIONS = [saliency_map, jacobian, linearized_robustness, measure, homogeneous_decomposition]


# --- mixing and randomness -----------------------------------------------------------------


def without_first_of_batch(x):
    return NET(torch.cat([0 * x[:1], x[1:]]))


@torch.no_grad()
def spread(x):
    return x.std(0) if len(x) > 1 else 1.0


MIXING = {
    "maximum": lambda x: NET(x / x.max()),
    "maximum as a number": lambda x: NET(x / x.max().item()),
    "mean": lambda x: NET(x - x.mean(0)),
    "statistics without gradient": lambda x: NET(x / spread(x)),
    "a threshold of the batch": lambda x: NET(x * (x > x.mean(0))),
    "neighbours": lambda x: NET(x + 0.01 * x.roll(1, 0)),
    "the other end": lambda x: NET(x + x.flip(0)),
    "place": lambda x: NET(x * torch.arange(1, len(x) + 1)[:, None]),
    "first place": without_first_of_batch,
    "softmax over the batch": lambda x: NET(x).softmax(0),
}


@pytest.mark.parametrize("batch", [2, 3, 4, 17])
@pytest.mark.parametrize("name", MIXING)
def test_mixing_is_refused(name, batch):
    x = torch.rand(batch, 64, generator=torch.Generator().manual_seed(batch))
    x[0, 0] = 2  # the maximum is in the first sample
    for model in (MIXING[name], Around(MIXING[name])):
        for function in (saliency_map, linearized_robustness, measure):
            with pytest.raises(ValueError, match="mixes the samples of a batch"):
                function(model, x)


def test_mixing_that_shows_in_derivatives_only_is_refused():
    x = X.clone()
    x[:, 0] = 1  # the maximum of each sample alone is that of the batch
    with pytest.raises(ValueError, match="derivative by another sample"):
        saliency_map(MIXING["maximum"], x)


@pytest.mark.parametrize("loud", range(4))
def test_a_sample_with_large_scores_hides_no_mixing_in_the_others(loud):
    x = X.clone()
    x[loud] *= 1e3
    with pytest.raises(ValueError, match="mixes the samples of a batch"):
        linearized_robustness(lambda z: NET(z + 0.1 * z.flip(0).detach().clamp(0, 1)), x)


def test_one_by_one_is_the_remedy():
    model = Around(lambda x: NET(x.reshape(1, 64) / x.max()))  # takes no other batch
    alone = torch.cat([linearized_robustness(model, one[None]).value for one in X])
    torch.testing.assert_close(measure(model, X, chunk_size=1).linearized_robustness, alone)


def stochastic_depth(x):
    return NET(x) if torch.rand(()) < 0.999 else NET(0 * x)


LSTM = nn.LSTM(8, 5, num_layers=2, dropout=0.01, batch_first=True)
ATTENTION = nn.MultiheadAttention(8, 2, dropout=0.01, batch_first=True)
RANDOM = {
    "dropout by function": lambda x: NET(dropout(x, 0.001)),
    "stochastic depth": stochastic_depth,
    "noise": lambda x: NET(x + 1e-6 * torch.randn_like(x)),
    "LSTM": lambda x: LSTM(x.view(-1, 8, 8))[0][:, -1],
    "attention": lambda x: ATTENTION(*3 * [x.view(-1, 8, 8)])[0][:, 0],
}


@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("name", RANDOM)
def test_randomness_is_refused_each_time_and_leaves_the_random_state(name, batch):
    state = torch.get_rng_state()
    for _ in range(5):
        with pytest.raises(ValueError, match=r"draws random numbers.*model\.eval\(\)"):
            linearized_robustness(RANDOM[name], X[:batch])
    assert torch.equal(state, torch.get_rng_state())


def batch_norm():
    return nn.Sequential(nn.Linear(64, 8), nn.BatchNorm1d(8), nn.Linear(8, 3))


AROUND = {
    "lambda": lambda net: lambda x: net(x),
    "partial": lambda net: functools.partial(lambda scale, x: net(scale * x), 2.0),
    "bound method": lambda net: net.forward,
    "deeper": lambda net: Around(lambda x: net[2](net[1](net[0](x)))),
}


@pytest.mark.parametrize("name", AROUND)
def test_train_mode_is_seen_through_wrappers(name):
    net = batch_norm()
    before = [b.clone() for b in net.buffers()]
    with pytest.raises(ValueError, match=r"train mode.*BatchNorm1d.*model\.eval\(\)"):
        saliency_map(AROUND[name](net), X)
    assert all(map(torch.equal, before, net.buffers()))
    saliency_map(AROUND[name](net.eval()), X)


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
@pytest.mark.parametrize("wrap", [lambda net: net, AROUND["lambda"]])
@pytest.mark.parametrize(
    "net",
    [
        torch.jit.script(batch_norm()),
        nn.Sequential(nn.utils.parametrizations.spectral_norm(nn.Linear(64, 5))),
        nn.Sequential(nn.utils.spectral_norm(nn.Linear(64, 5))),
    ],
    ids=["scripted", "parametrized", "hooked"],
)
def test_a_model_that_changes_itself_is_refused_and_put_back(net, wrap):
    before = {name: b.clone() for name, b in net.named_buffers()}
    with pytest.raises(ValueError, match=r"changes its buffer '.*model\.eval\(\)"):
        saliency_map(wrap(net.train()), X)
    for name, buffer in net.named_buffers():
        assert torch.equal(buffer, before[name])
    saliency_map(wrap(net.eval()), X)


class ByHand(nn.Module):
    """Batch normalisation written by hand, which binds new buffers to their names."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(64, 3)
        self.register_buffer("mean", torch.zeros(64))

    def forward(self, x):
        if self.training:
            self.mean = 0.9 * self.mean + 0.1 * x.detach().mean(0)
        return self.head(x - self.mean)


def test_a_buffer_that_is_replaced_is_put_back():
    model = ByHand()
    mean = model.mean
    with pytest.raises(ValueError, match=r"changes its buffer '.*mean'"):
        saliency_map(model, X)
    assert model.mean is mean
    assert (mean == 0).all()
    saliency_map(model.eval(), X)


def normalized():
    return nn.Sequential(Normalize(0.5, 0.25), mlp([64, 20, 5])).eval()


def test_functional_call_gets_its_tensors_and_the_module_keeps_its_own():
    net = normalized()
    mean = net[0].mean
    lent = {name: value.detach().clone() for name, value in net.state_dict().items()}
    found = linearized_robustness(lambda x: torch.func.functional_call(net, lent, (x,)), X)
    torch.testing.assert_close(found.value, linearized_robustness(net, X).value)
    assert net[0].mean is mean


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_an_ensemble_by_vmap(device):
    nets = [normalized() for _ in range(3)]
    parameters, buffers = torch.func.stack_module_state(nets)
    base = normalized().to(device)
    mean = base[0].mean

    def one(parameters, buffers, x):
        return torch.func.functional_call(base, (parameters, buffers), (x,))

    def ensemble(x):
        return torch.func.vmap(one, (0, 0, None))(parameters, buffers, x).mean(0)

    found = linearized_robustness(ensemble, X)
    expected = linearized_robustness(lambda x: sum(net(x) for net in nets) / 3, X)
    torch.testing.assert_close(found.value, expected.value, rtol=1e-4, atol=1e-5)
    assert base[0].mean is mean


class WithBuffer(nn.Module):
    """A network with a buffer, to which it does something before each pass."""

    def __init__(self, buffer, deed=lambda self: None):
        super().__init__()
        self.net, self.deed = mlp([64, 20, 5]), deed
        self.register_buffer("a", buffer)

    def forward(self, x):
        self.deed(self)
        return self.net(x)


@pytest.mark.filterwarnings("ignore:Sparse CSR:UserWarning")
def test_buffers_of_any_kind():
    for buffer in (torch.eye(4).to_sparse(), torch.eye(4).to_sparse_csr(), torch.ones(1).expand(9)):
        model = WithBuffer(buffer).eval()
        found = linearized_robustness(model, X).value
        torch.testing.assert_close(found, linearized_robustness(model.net, X).value)
    with pytest.raises(ValueError, match="disagree in device"):
        saliency_map(normalized().to("meta"), X)


DEEDS = {
    "deleted": lambda self: self.__delattr__("a") if "a" in self._buffers else None,
    "replaced": lambda self: self.__setattr__("a", self.a + 1),
    "no buffer": lambda self: self.__setattr__("a", None),
}


@pytest.mark.parametrize("name", DEEDS)
def test_what_a_model_does_to_its_buffer_is_undone(name):
    model = WithBuffer(torch.ones(1).expand(9), DEEDS[name])
    buffer = model.a
    for wrapped in (model, lambda x: model(x)):
        with pytest.raises(ValueError, match=r"changes its buffer 'a'.*model\.eval\(\)"):
            saliency_map(wrapped, X)
        assert model.a is buffer
        assert (buffer == 1).all()


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
def test_half_precision_in_a_scripted_model_is_seen_at_its_logits():
    class Half(nn.Module):
        def forward(self, x):
            return x.to(torch.bfloat16)[:, :3]

    with pytest.raises(ValueError, match=r"computes in torch\.bfloat16"):
        saliency_map(torch.jit.script(Half()), X)


def test_a_module_compiled_in_place():
    net = mlp([64, 20, 5]).eval()
    net.load_state_dict(NET.state_dict())
    net.compile(backend="aot_eager")
    net(X)
    torch.testing.assert_close(
        measure(net, X).linearized_robustness, measure(NET, X).linearized_robustness
    )


@pytest.mark.parametrize("seed", range(20))
def test_the_points_of_the_package_itself_are_taken(seed):
    """On the boundary the scores cancel: their rounding is no mixing."""
    generator = torch.Generator().manual_seed(seed)
    model = BinaryClassifier(torch.randn(784, generator=generator), 0.3)
    foot = model.closest_adversary(torch.rand(8, 784, generator=generator))
    scale = foot.norm(dim=1)
    assert (model.robustness(foot) < 1e-5 * scale).all()
    assert (linearized_robustness(model, foot).value < 1e-5 * scale).all()


# --- precision and outputs -------------------------------------------------------------------

HALF = mlp([64, 20, 5]).bfloat16().eval()
LONG = nn.LSTM(8, 8, batch_first=True)


def half_lstm(x):
    with torch.autocast("cpu", torch.bfloat16):
        return LONG(x)[0].float()


REDUCED = {
    "casts around a module": lambda x: HALF(x.bfloat16()).float(),
    "a cast of the input": lambda x: NET(x.half().float()),
    "autocast inside": torch.autocast("cpu", torch.bfloat16)(lambda x: NET(x).float()),
    "autocast around an LSTM": lambda x: NET(8 * half_lstm(x.view(-1, 8, 8)).flatten(1)),
    "a tuple": lambda x: sum(NET(part.float()) for part in x.bfloat16().chunk(1)),
}


@pytest.mark.parametrize("name", REDUCED)
def test_reduced_precision_inside_is_refused(name):
    with pytest.raises(ValueError, match=r"computes in torch\.(b?float16).*model\.float\(\)"):
        linearized_robustness(REDUCED[name], X)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_autocast_around_the_call_is_refused(function):
    with torch.autocast("cpu", torch.bfloat16):
        with pytest.raises(ValueError, match=r"torch\.autocast is on for cpu.*enabled=False"):
            function(NET, X)
        with torch.autocast("cpu", enabled=False):
            function(NET, X)


BLACK = X.clone()
BLACK[1, ::5] = 0
NOT_FINITE = {
    "NaN": lambda x: NET(x.abs().sqrt()),
    "infinity": lambda x: NET(x.sqrt()),
    "torch.where": lambda x: NET(torch.where(x > 0, x.log(), 0.0)),
    "one rival": lambda x: torch.cat([NET(x), x.abs().sqrt().sum(1, keepdim=True) - 50], 1),
}


@pytest.mark.parametrize("function", [*FUNCTIONS, minimal_l2])
@pytest.mark.parametrize("name", NOT_FINITE)
def test_a_gradient_that_is_not_finite_is_refused(name, function):
    if name == "one rival" and function in (saliency_map, homogeneous_decomposition, minimal_l2):
        return  # that gradient is not asked for
    with pytest.raises(
        ValueError, match=r"gradient of .* 1 of 4 samples \(indices 1\), first for class"
    ):
        function(
            NOT_FINITE[name], BLACK
        ) if function is not homogeneous_decomposition else function(
            Around(NOT_FINITE[name]), BLACK
        )


OUTPUTS = {
    "tuple": (lambda y: (y, y), r"got tuple.*output\[0\]"),
    "list": (lambda y: [y], r"got list.*output\[0\]"),
    "dict": (lambda y: {"out": y}, r"got dict.*output\['out'\]"),
    "ordered": (lambda y: OrderedDict(aux=y, logits=y), r"output\['logits'\]"),
    "object": (lambda y: SimpleNamespace(logits=y), r"SimpleNamespace.*output\.logits"),
    "array": (lambda y: y.detach().numpy(), r"got ndarray.*the tensor of logits"),
    "nothing": (lambda y: None, r"got NoneType.*the tensor of logits"),
}


@pytest.mark.parametrize("function", FUNCTIONS)
def test_outputs_that_are_other_tensors(function):
    with pytest.raises(TypeError, match=r"model\(x\) holds torch\.complex64: return real logits"):
        function(Around(lambda x: NET(x) + 0j), X)
    with pytest.raises(TypeError, match=r"stored as torch\.sparse_coo: return output\.to_dense"):
        function(Around(lambda x: NET(x).to_sparse()), X)


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("name", OUTPUTS)
def test_outputs_that_are_no_tensor(name, function):
    wrap, message = OUTPUTS[name]
    with pytest.raises(TypeError, match=rf"model\(x\) must be a tensor.*{message}"):
        function(Around(lambda x: wrap(NET(x))), X)


def test_other_refusals():
    with pytest.raises(ValueError, match=r"x is stored as torch\.sparse_coo: use x\.to_dense"):
        saliency_map(NET, X.to_sparse())
    with pytest.raises(ValueError, match=r"batch = 1, got \(5,\).*squeeze"):
        saliency_map(lambda x: NET(x).squeeze(), X[:1])
    with pytest.raises(ValueError, match=r"holds torch\.int64: return the logits"):
        saliency_map(lambda x: torch.stack([NET(x).argmax(1)] * 2, 1), X)
    with pytest.raises(ValueError, match="x is on the device 'meta'"):
        saliency_map(NET, X.to("meta"))
    with pytest.raises(ValueError, match="i and j must be two classes, got 2 twice"):
        binarize(NET, 2, 2)
    with pytest.raises(ValueError, match="i and j must be two classes, got 1 twice"):
        binarize(NET, torch.tensor([0, 1, 2, 3]), 1)(X)
    with torch.inference_mode():
        there = mlp([64, 5]).eval()
    with pytest.raises(ValueError, match=r"built inside torch\.inference_mode\(\)"):
        saliency_map(there, X)
    with pytest.raises(ValueError, match=r"built inside torch\.inference_mode\(\)"):
        fit(there, X, torch.arange(4), epochs=1)


# --- sound requests --------------------------------------------------------------------------


def with_its_own_gradient(x):
    (slope,) = torch.autograd.grad(NET(x).square().sum(), x, create_graph=True)
    return NET(x) + 0 * slope.sum(1, keepdim=True)


@pytest.mark.parametrize("attack", [minimal_l2, line_search, projected_gradient])
def test_attacks_on_a_model_that_differentiates_inside(attack):
    model = Around(with_its_own_gradient).eval()
    found, expected = attack(model, X), attack(NET, X)
    torch.testing.assert_close(found.distance, expected.distance, rtol=1e-4, atol=1e-5)
    assert accuracy(model, X, LABELS) == accuracy(NET, X, LABELS)


class Double(nn.Module):
    net = mlp([64, 20, 5]).double().eval()
    net.load_state_dict(NET.state_dict())

    def forward(self, x):
        return self.net(x.double())


def compiled():
    return torch.compile(NET, backend="aot_eager")


SOUND = {
    "in place at first": lambda: Around(lambda x: NET(x.mul_(2).div_(2))),
    "64 bits for 32": lambda: Around(Double()),
    "a gradient inside": lambda: Around(with_its_own_gradient),
    "squeeze": lambda: lambda x: NET(x).squeeze(),
    "a function around a compiled one": lambda: functools.partial(compiled()),
    "compiled": compiled,
}


@pytest.mark.filterwarnings("ignore:.*global hooks:UserWarning")
@pytest.mark.parametrize("name", SOUND)
def test_the_right_number(name):
    model, x = SOUND[name](), X.clone()
    for _ in range(2):
        expected, found = measure(NET, X), measure(model, x)
        for value, want in zip(found, expected, strict=True):
            torch.testing.assert_close(value, want, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(saliency_map(model, x), saliency_map(NET, X))
    assert torch.equal(x, X)


def test_margins_of_64_bits_are_not_rounded_before_they_are_taken():
    model = Around(lambda x: Double.net(x.double()) + 1e6)
    expected = linearized_robustness(NET, X).value
    for value in (linearized_robustness(model, X).value, measure(model, X).linearized_robustness):
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, expected, rtol=1e-4, atol=1e-6)
    result, usual = minimal_l2(model, X), minimal_l2(NET, X)
    torch.testing.assert_close(result.distance, usual.distance, rtol=1e-2, atol=1e-5)
    assert jacobian(model, X)[0].dtype == torch.float32
    assert homogeneous_decomposition(NET, X).bias.dtype == torch.float32


def test_a_decision_in_64_bits_is_the_decision():
    offsets = torch.tensor([0.0, 3e-9, -1.0]).double()
    model, x = Around(lambda x: x.double() + offsets).eval(), torch.tensor([[0.5, 0.5, 0.1]])
    assert linearized_robustness(model, x).prediction.tolist() == [1]
    result = minimal_l2(model, x)
    assert result.success.all()
    assert model(result.adversarial).argmax(1).tolist() == [0]
    assert 0 < result.distance < 1e-6


def test_32_bits_for_64():
    model = Around(lambda x: NET(x.float()).double())
    value = linearized_robustness(model, X.double()).value
    assert value.dtype == torch.float64
    torch.testing.assert_close(value.float(), linearized_robustness(NET, X).value)


def test_a_model_bound_to_its_batch_is_measured_in_chunks():
    full = linearized_robustness(NET, X)
    binary = binarize(NET, full.prediction, full.runner_up)
    for chunk in (1, 2, 3):
        found = measure(binary, X, chunk_size=chunk)
        torch.testing.assert_close(found.linearized_robustness, full.value)
    parts = homogeneous_decomposition(binary, X, target=1)
    torch.testing.assert_close(parts.homogeneous + parts.bias, binary.score(X).detach() / 2)


def test_binarized_twice_and_by_lists():
    full = linearized_robustness(NET, X)
    i, j = full.prediction, full.runner_up
    for binary in (
        binarize(binarize(NET, i, j), 1, 0),
        binarize(NET, i.tolist(), j.tolist()),
        binarize(NET, i.numpy(), j.numpy()),
    ):
        for chunk in (None, 1, 3):
            found = measure(binary, X, chunk_size=chunk)
            torch.testing.assert_close(found.linearized_robustness, full.value)
        assert minimal_l2(binary, X).success.all()


def test_what_binarize_is_given():
    for output in (lambda y: (y,), lambda y: {"out": y}):
        binary = binarize(lambda x, output=output: output(NET(x)), 0, 1)
        for call in (binary, lambda x, binary=binary: measure(binary, x)):
            with pytest.raises(TypeError, match=r"model\(x\) must be a tensor.*output\["):
                call(X)
    for column in (lambda x: NET(x)[:, 0], lambda x: NET(x)[:, :1]):
        with pytest.raises(ValueError, match=r"model\(x\)"):
            binarize(column, 0, 1)(X)
    x = X.clone()
    binarize(lambda x: NET(x.mul_(2)), 0, 1)(x)
    assert torch.equal(x, X)


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
def test_frozen_scripted_modules():
    net = batch_norm().eval()
    scripted = torch.jit.freeze(torch.jit.script(net))
    for model in (scripted, lambda x: scripted(x)):
        for function in (saliency_map, linearized_robustness, measure):
            torch.testing.assert_close(function(model, X), function(net, X))
        torch.testing.assert_close(minimal_l2(model, X).distance, minimal_l2(net, X).distance)
        assert accuracy(model, X, LABELS) == accuracy(net, X, LABELS)


@pytest.mark.parametrize("function", [*FUNCTIONS, minimal_l2])
def test_what_is_no_model(function):
    with pytest.raises(TypeError, match=r"model must be .*got None"):
        function(None, X)
    if function is not homogeneous_decomposition:
        with pytest.raises(TypeError, match=r"pass an instance, Linear\("):
            function(nn.Linear, X)


def test_threads_that_share_one_network():
    torch.manual_seed(0)
    net = SmallNet((1, 8, 8), widths=(4, 8, 8), hidden=16).eval()
    batches = [torch.rand(3, 1, 8, 8) for _ in range(8)]
    expected = [homogeneous_decomposition(net, x) for x in batches]
    found, failures = {}, []

    def work(k):
        try:
            for _ in range(3):
                found[k] = homogeneous_decomposition(net, batches[k]), measure(net, batches[k])
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    for k, (parts, m) in found.items():
        torch.testing.assert_close(parts.per_layer, expected[k].per_layer)
        torch.testing.assert_close(m.bias, expected[k].bias, rtol=1e-4, atol=1e-5)


# --- one sample ------------------------------------------------------------------------------


class ByFormula(nn.Module):
    """Batch or instance normalisation in eval mode, written out."""

    def __init__(self, norm):
        super().__init__()
        self.norm = norm

    def forward(self, z):
        n = self.norm
        mean, var = n.running_mean, n.running_var
        if mean is None:
            mean, var = z.mean((2, 3)), z.var((2, 3), unbiased=False)
        z = (z - mean[..., None, None]) / (var[..., None, None] + n.eps).sqrt()
        return n.weight[:, None, None] * z + n.bias[:, None, None]


class Tokens(nn.Module):
    """Behind, or before, the normalisation the channels of an image become the last axis."""

    def __init__(self, norm, before):
        super().__init__()
        self.conv, self.norm, self.before = nn.Conv2d(3, 8, 3, padding=1), norm, before
        self.mix, self.head = nn.Linear(8, 8), nn.Linear(8, 4)

    def forward(self, x):
        z = self.conv(x)
        if self.before:
            shape = z.shape
            z = self.norm(self.mix(z.flatten(2).transpose(1, 2)).transpose(1, 2).view(shape))
            return self.head(z.relu().mean((2, 3)))
        z = self.norm(z).flatten(2).transpose(1, 2)
        return self.head((z + self.mix(z).relu()).mean(1))


NORMS = {
    "batch": lambda: nn.BatchNorm2d(8),
    "instance": lambda: nn.InstanceNorm2d(8, affine=True),
    "instance, with statistics": lambda: nn.InstanceNorm2d(
        8, affine=True, track_running_stats=True
    ),
}


@pytest.mark.parametrize("before", [False, True])
@pytest.mark.parametrize("name", NORMS)
def test_one_sample_that_is_normalised_and_read_as_tokens(name, before):
    """PyTorch's own derivative is wrong there: a batch of one, or samples one by one."""
    torch.manual_seed(0)
    norm = NORMS[name]()
    for value in norm.state_dict().values():
        value.copy_(torch.rand_like(value.float()) + 0.2)
    model = Tokens(norm, before).eval()
    plain = Tokens(ByFormula(norm), before).eval()
    plain.load_state_dict(
        {k.replace("norm.", "norm.norm."): v for k, v in model.state_dict().items()}
    )
    x, y = torch.rand(3, 3, 8, 8), torch.tensor([0, 1, 2])
    expected = jacobian(plain, x)[1]
    close = {"rtol": 1e-3, "atol": 1e-5 * expected.abs().max().item()}
    one_by_one = torch.cat([jacobian(model, x[k : k + 1])[1] for k in range(3)])
    torch.testing.assert_close(one_by_one, expected, **close)
    torch.testing.assert_close(jacobian(model, x)[1], expected, **close)
    looped = jacobian(Around(lambda x: torch.cat([model(one) for one in x.split(1)])), x)[1]
    torch.testing.assert_close(looped, expected, **close)
    alpha = measure(plain, x).alignment
    torch.testing.assert_close(measure(model, x, chunk_size=1).alignment, alpha, rtol=1e-3, atol=0)
    slopes = []
    for net in (model, plain):
        loss, penalty = gradient_penalty_loss(net, x[:1], y[:1], 10.0)
        slopes.append([penalty, *torch.autograd.grad(loss, list(net.conv.parameters()))])
    torch.testing.assert_close(*slopes, rtol=1e-3, atol=1e-4)
    if name == "batch":
        with warnings.catch_warnings():  # the residual is rounding
            warnings.simplefilter("error")
            parts = homogeneous_decomposition(model, x)
        by_hand = (x * expected[range(3), model(x).argmax(1)]).flatten(1).sum(1)
        torch.testing.assert_close(parts.homogeneous, by_hand, rtol=1e-3, atol=1e-5)


# --- compiled, delegating and bound ----------------------------------------------------------


class Mirrors(PassesOn):
    def forward(self, x):
        return self.inner(1 - x)


def test_what_is_around_a_compiled_model_counts():
    compiled = torch.compile(NET, backend="eager")
    factor = torch.tensor([1.0, -2, 3, 1, 1])
    hooked = torch.compile(NET, backend="eager")
    hooked.register_forward_hook(lambda module, args, output: factor * output)
    shifted = torch.compile(NET, backend="eager")
    shifted.register_forward_pre_hook(lambda module, args: (args[0] ** 2,))
    cases = [
        (compiled, NET),
        (hooked, lambda x: factor * NET(x)),
        (shifted, lambda x: NET(x**2)),
        (Mirrors(compiled).eval(), lambda x: NET(1 - x)),
        (nn.Sequential(compiled), NET),
    ]
    for model, plain in cases:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            value = linearized_robustness(model, X).value
            distance = minimal_l2(model, X).distance
            loss = gradient_penalty_loss(model, X, LABELS, 0.5)
            share = accuracy(model, X, LABELS)
        torch.testing.assert_close(value, linearized_robustness(plain, X).value)
        torch.testing.assert_close(distance, minimal_l2(plain, X).distance)
        torch.testing.assert_close(loss, gradient_penalty_loss(plain, X, LABELS, 0.5))
        assert share == accuracy(plain, X, LABELS)


@pytest.mark.parametrize("bind", [lambda m: m.forward, lambda m: functools.partial(m.forward)])
@pytest.mark.parametrize("scale", [1.0, 1e-4])
def test_a_method_of_a_model_that_changes_itself(bind, scale):
    net = WithRunningMean().eval()
    with pytest.raises(ValueError, match="changes its buffer"):
        saliency_map(bind(net), scale * X[:1])
    with pytest.raises(ValueError, match="changes its buffer"):
        accuracy(bind(net), scale * X, LABELS)
    assert not net.mean.any()
    torch.testing.assert_close(saliency_map(bind(NET), X), saliency_map(NET, X))
    frozen = nn.Sequential(nn.Linear(64, 8), nn.BatchNorm1d(8).eval(), nn.Linear(8, 3))
    modes = [module.training for module in frozen.modules()]
    saliency_map(bind(frozen), X)
    assert modes == [module.training for module in frozen.modules()] == [True, True, False, True]
    with pytest.raises(ValueError, match="train mode"):
        saliency_map(bind(nn.Sequential(nn.Dropout(), NET).train()), X)
    NET.eval()


class WithRunningMean(ByHand):
    def forward(self, x):
        self.mean.mul_(0.9).add_(0.1 * x.detach().mean(0))
        return self.head(x - self.mean)


def test_a_default_dtype_of_few_digits():
    x = torch.rand(512, 64)
    expected = linearized_robustness(NET, x).value
    for dtype in (torch.bfloat16, torch.float16):
        torch.set_default_dtype(dtype)
        try:
            found = linearized_robustness(NET, x).value
        finally:
            torch.set_default_dtype(torch.float32)
        torch.testing.assert_close(found, expected)


def test_classes_and_labels_without_a_sign():
    signed = torch.tensor([0, 1, 2, 3])
    for dtype in (torch.uint8, torch.uint16, torch.uint32, torch.uint64):
        index = signed.to(dtype)
        torch.testing.assert_close(saliency_map(NET, X, index), saliency_map(NET, X, signed))
        for strength in (0.0, 1.0):
            loss = gradient_penalty_loss(NET, X, index, strength)
            torch.testing.assert_close(loss, gradient_penalty_loss(NET, X, signed, strength))
        assert accuracy(NET, X, index) == accuracy(NET, X, signed)
        with pytest.raises(IndexError, match="0 … 4"):
            saliency_map(NET, X, (signed + 5).to(dtype))


@pytest.mark.parametrize(
    ("shape", "note"),
    [((3, 32, 32), r"one image, use x\[None\]"), ((2, 32, 32, 3), r"x\.movedim\(-1, 1\)")],
)
def test_images_in_another_layout_get_a_note(shape, note):
    conv = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.LazyLinear(5)).eval()
    conv(torch.rand(2, 3, 32, 32))
    for model in (conv, nn.Sequential(Normalize([0.5] * 3, [0.2] * 3), conv)):
        with pytest.raises((RuntimeError, ValueError)) as found:
            measure(model, torch.rand(shape))
        assert re.search(note, "".join(found.value.__notes__))


# --- ties ------------------------------------------------------------------------------------


@pytest.mark.parametrize("twins", [12, 13, 19])
@pytest.mark.parametrize("scale", [0.0, 1.0])
def test_many_twins(twins, scale):
    """However many equal rows there are, zero rows too, the nearest boundary is that of another."""
    torch.manual_seed(0)
    weight = torch.randn(20, 5).double()
    weight[:twins] = scale * torch.randn(5).double()
    model, x = AffineClassifier(weight), torch.randn(4000, 5).double()
    x = x[model(x).argmax(1) < twins][:40]
    assert len(x)
    expected = model.robustness(x)
    assert expected.isfinite().all()
    torch.testing.assert_close(minimal_l2(model, x).distance, expected, rtol=1e-6, atol=1e-9)
    assert line_search(model, x).success.all()
    assert projected_gradient(model, x).success.all()


def test_a_twin_is_no_rival():
    """Two equal rows tie everywhere: there is no boundary between them."""
    model, x = AffineClassifier([[1.0, 0], [1.0, 0], [0, 1.0]]), torch.tensor([[1.0, 0.5]]).double()
    expected = torch.tensor([0.5 / 2**0.5]).double()
    full = linearized_robustness(model, x)
    for value in (model.robustness(x), full.value, minimal_l2(model, x).distance):
        torch.testing.assert_close(value, expected)
    assert full.runner_up.item() == 2
    m = measure(model, x)
    torch.testing.assert_close(m.linearized_robustness, expected)
    assert m.bound.isfinite().all()
    assert (m.bound >= expected).all()


def test_a_tie_with_another_row_is_a_boundary():
    model = AffineClassifier([[1.0, 0], [1.0, 0], [0, 1.0]])
    x = torch.tensor([[1.0, 1.0], [-1.0, -1.0]]).double()
    assert model.robustness(x).tolist() == [0, 0]
    full = linearized_robustness(model, x)
    assert full.value.tolist() == [0, 0]
    assert full.prediction.tolist() == [0, 0]  # the first maximal class
    only_twins = Around(lambda x: torch.stack([x.sum(1), x.sum(1)], 1))
    assert linearized_robustness(only_twins, x).value.tolist() == [torch.inf, torch.inf]


# --- no trace --------------------------------------------------------------------------------


@pytest.mark.parametrize("strength", [0.0, 1.0])
def test_training_leaves_the_images_alone(strength):
    x = torch.rand(4, 64, requires_grad=True)
    fit(mlp([64, 5]), x, LABELS, epochs=1, strength=strength)
    assert x.grad is None
    gradient_penalty_loss(mlp([64, 5]), x, LABELS, strength)[0].backward()
    assert x.grad is None
    with_graph = nn.Linear(64, 64)(x)
    fit(mlp([64, 5]), with_graph, LABELS, epochs=2, strength=strength)


CALLS = {
    "saliency_map": saliency_map,
    "jacobian": jacobian,
    "linearized_robustness": linearized_robustness,
    "measure": measure,
    "bound_terms": bound_terms,
    "homogeneous_decomposition": homogeneous_decomposition,
    "minimal_l2": minimal_l2,
    "minimal_l2, restarted": lambda model, x: minimal_l2(model, x, restarts=4),
    "binarize": lambda model, x: binarize(model, 0, 1)(x),
    "alignment": lambda model, x: alignment(x, x + 1),
    "gradient_penalty_loss": lambda model, x: gradient_penalty_loss(model, x, LABELS, 1.0),
    "accuracy": lambda model, x: accuracy(model, x, LABELS),
    "fit": lambda model, x: fit(model, x, LABELS, epochs=0),
}
STATES = {
    "gradients": torch.enable_grad,
    "no gradients": torch.no_grad,
    "inference": torch.inference_mode,
}


def traces(model, x):
    """All that a call might leave changed."""
    tensors = [x.detach(), *model.state_dict().values(), torch.get_rng_state()]
    modules = list(model.modules())
    return [t.clone() for t in tensors], [
        [p.grad is None and p.requires_grad for p in model.parameters()],
        [x.grad, x.requires_grad, x.is_inference()],
        [m.training for m in modules],
        [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in modules],
        len(nn.modules.module._global_forward_hooks),
        len(nn.modules.module._global_forward_pre_hooks),
        torch.get_default_dtype(),
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        torch.overrides._get_current_function_mode_stack(),
    ]


class Fails(nn.Module):
    """A network that fails at its call number `after`."""

    def __init__(self, after):
        super().__init__()
        self.net, self.left = batch_norm().eval(), after

    def forward(self, x):
        self.left -= 1
        if self.left < 0:
            raise ArithmeticError
        return self.net(x)


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("name", CALLS)
def test_no_trace(name, state):
    for frozen in (False, name == "saliency_map"):
        model = batch_norm().eval().requires_grad_(not frozen)
        with STATES[state]():
            x = X.clone()
            before = traces(model, x)
            CALLS[name](model, x)
            after = traces(model, x)
        assert all(map(torch.equal, before[0], after[0]))
        assert before[1] == after[1]


@pytest.mark.parametrize("after", [0, 1, 2, 3])
@pytest.mark.parametrize("name", [n for n in CALLS if n not in ("alignment", "fit")])
def test_no_trace_after_an_exception(name, after):
    model, x = Fails(after), X.clone().requires_grad_(True)
    before = traces(model, x)
    try:
        CALLS[name](model, x)
    except ArithmeticError:
        assert model.left < 0
    after = traces(model, x)
    assert all(map(torch.equal, before[0], after[0]))
    assert before[1] == after[1]


def test_calls_lose_no_reference_to_none():
    """With torch 2.6 and 2.7 three were lost a forward pass, until Python 3.11 died of it."""
    importlib.import_module("torch._dynamo")  # as every optimizer does
    saliency_map(NET, X)
    before = sys.getrefcount(None)
    for _ in range(100):
        saliency_map(NET, X)
    assert sys.getrefcount(None) > before - 100
