"""Random small models, wrappers, dtypes, memory formats and callers, against a plain Jacobian in 64 bits."""

import copy
import random
import warnings

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lesson_utils import (
    alignment,
    bound_terms,
    homogeneous_decomposition,
    jacobian,
    linearized_robustness,
    measure,
    saliency_map,
)

ACTIVATIONS = [nn.ReLU, nn.LeakyReLU, nn.GELU, nn.Tanh, nn.SiLU, nn.Softplus]


class Attention(nn.Module):
    """Over the rows of an image, within a sample."""

    def __init__(self, channels):
        super().__init__()
        self.mix = nn.MultiheadAttention(channels, 1, batch_first=True)

    def forward(self, x):
        tokens = x.flatten(2).transpose(1, 2)
        return (tokens + self.mix(tokens, tokens, tokens)[0]).transpose(1, 2).view_as(x)


class Folded(nn.Module):
    """A dense layer that sees rows of pixels, not samples."""

    def __init__(self, width):
        super().__init__()
        self.dense = nn.Linear(width, width)

    def forward(self, x):
        return self.dense(x.flatten(0, 2)).view_as(x)


def network(rng, classes):
    channels, size = rng.choice([1, 2, 3]), rng.choice([4, 6])
    activation = rng.choice(ACTIVATIONS)
    layers, width = [], channels
    for _ in range(rng.randint(1, 2)):
        following = rng.choice([4, 6])
        normalise = rng.choice(
            [
                nn.Identity,
                lambda c: nn.BatchNorm2d(c, affine=rng.random() < 0.5),
                lambda c: nn.GroupNorm(2, c),
                lambda c: nn.InstanceNorm2d(c, affine=True),
            ]
        )
        layers += [nn.Conv2d(width, following, 3, padding=1), normalise(following), activation()]
        layers += rng.choice([[], [Attention(following)], [Folded(size)], [nn.Dropout(0.3)]])
        width = following
    layers += rng.choice([[], [nn.AdaptiveAvgPool2d(2)]])
    side = 2 if isinstance(layers[-1], nn.AdaptiveAvgPool2d) else size
    layers += [nn.Flatten(), nn.Linear(width * side * side, classes)]
    net = nn.Sequential(*layers).double().eval()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    return net, (channels, size, size)


class Holder(nn.Module):
    def __init__(self, function, net):
        super().__init__()
        self.net, self.function = net, function

    def forward(self, x):
        return self.function(x)


WRAPPERS = {
    "plain": lambda net: net,
    "module": lambda net: Holder(lambda x: net(x), net),
    "in place": lambda net: Holder(lambda x: net(x.mul_(2).div_(2)), net),
    "other dtype": lambda net: Holder(lambda x: net(x).double(), net),
    "sliced": lambda net: Holder(
        lambda x: torch.cat([net(x[k : k + 1]) for k in range(len(x))]), net
    ),
}
FORMATS = {
    "contiguous": lambda x: x,
    "channels last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "transposed": lambda x: x.transpose(2, 3).contiguous().transpose(2, 3),
    "strided": lambda x: torch.stack([x, x], dim=-1)[..., 0],
    "in a graph": lambda x: x.clone().requires_grad_(True) * 1,
}
CONTEXTS = [torch.enable_grad, torch.no_grad, torch.inference_mode]


def by_the_book(net, x):
    """All quantities in 64 bits from one Jacobian a sample, by formulas and nothing else."""
    rows = []
    for one in x:
        psi = net(one[None])[0].detach()
        gradients = torch.autograd.functional.jacobian(lambda y: net(y[None])[0], one).flatten(1)
        one, i = one.flatten(), psi.argmax()
        quotients = (psi[i] - psi) / (gradients[i] - gradients).norm(dim=1)
        quotients[i] = torch.inf
        j = quotients.argmin()
        g, g_dagger = gradients[i], gradients[i] - gradients[j]
        unit, unit_dagger = g / g.norm(), g_dagger / g_dagger.norm()
        size = one.norm()
        rows.append(
            {
                "input_norm": size,
                "alignment": (one @ unit).abs(),
                "binarized_alignment": (one @ unit_dagger).abs(),
                "linearized_robustness": quotients[j],
                "direction_gap": size * (unit_dagger - unit).norm(),
                "unsigned_direction_gap": size
                * min((unit_dagger - unit).norm(), (unit_dagger + unit).norm()),
                "bias_gap": (psi[i] - psi[j] - one @ g_dagger).abs() / g_dagger.norm(),
                "homogeneous": one @ g,
                "bias": psi[i] - one @ g,
                "prediction": i,
                "runner_up": j,
                "psi": psi,
                "gradients": gradients,
                "runners": quotients.sort().values[:2],
                "margins": psi.sort().values[-2:],
            }
        )
    return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}


@settings(max_examples=40)
@given(
    seed=st.integers(0, 2**32 - 1),
    wrapper=st.sampled_from(sorted(WRAPPERS)),
    form=st.sampled_from(sorted(FORMATS)),
    dtype=st.sampled_from([torch.float64, torch.float32]),
    context=st.sampled_from(CONTEXTS),
    batch=st.integers(1, 7),
    chunk=st.sampled_from([None, 1, 2, 5]),
)
def test_every_quantity(seed, wrapper, form, dtype, context, batch, chunk):
    rng = random.Random(seed)
    torch.manual_seed(seed % 2**31)
    net, shape = network(rng, rng.randint(2, 6))
    x = torch.randn(batch, *shape, dtype=dtype)
    expected = by_the_book(net, x.double())
    model = WRAPPERS[wrapper](copy.deepcopy(net).to(dtype))
    before = x.clone()
    with context():
        given = FORMATS[form](x)
        m = measure(model, given, chunk_size=chunk)
        logits, gradients = jacobian(model, given)
        rho, g = linearized_robustness(model, given), saliency_map(model, given)
        alpha, bound = alignment(given.detach(), g), bound_terms(model, given).bound
        parts = homogeneous_decomposition_without_warning(model, given)
    assert torch.equal(x, before)
    loose = 1e-8 if dtype == torch.float64 else 2e-3

    def close(found, want):
        torch.testing.assert_close(
            found.double(), want, rtol=loose, atol=loose * (1 + want.abs().max())
        )

    close(logits, expected["psi"])
    close(gradients.flatten(2), expected["gradients"])
    # Where two classes or two rivals are as near as rounding, either may be named.
    clear = [expected[name].diff(dim=1).squeeze(1) > loose for name in ("margins", "runners")]
    keep = clear[0] & clear[1]
    assert torch.equal(m.prediction[keep], expected["prediction"][keep])
    assert torch.equal(m.runner_up[keep], expected["runner_up"][keep])
    for name in m._fields[2:] if keep.any() else ():
        close(getattr(m, name)[keep], expected[name][keep])
    assert torch.equal(rho.prediction, m.prediction)
    close(rho.value, m.linearized_robustness.double())
    close(alpha, m.alignment.double())
    close(bound, m.bound.double())
    close(parts.homogeneous, m.homogeneous.double())
    close(parts.bias, m.bias.double())
    close(sum(parts.per_layer.values()) + parts.residual, m.bias.double())


def homogeneous_decomposition_without_warning(model, x):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return homogeneous_decomposition(model, x)
