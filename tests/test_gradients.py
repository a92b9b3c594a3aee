"""Every gradient computed twice: by the loop over backward passes and by torch.func."""

import pytest
import torch
from torch import nn
from torch.func import jacrev, vmap

from lesson_utils import jacobian, linearized_robustness, saliency_map
from lesson_utils.autograd import inner, norm
from lesson_utils.models import SmallNet, mlp

NETS = {
    "mlp": (lambda: mlp([36, 20, 7]), (1, 6, 6)),
    "bias-free": (lambda: mlp([36, 20, 20, 3], bias=False), (36,)),
    "gelu": (lambda: mlp([36, 20, 4], activation=nn.GELU), (4, 9)),
    "two classes": (lambda: mlp([36, 8, 2]), (36,)),
    "smallnet": (lambda: SmallNet((3, 8, 8), n_classes=5), (3, 8, 8)),
}


@pytest.fixture(params=NETS)
def case(request):
    make, shape = NETS[request.param]
    torch.manual_seed(1)
    return make().double().eval(), torch.rand(6, *shape, dtype=torch.float64)


def reference(model, x):
    return vmap(jacrev(lambda one: model(one[None])[0]))(x)


def test_jacobian(case):
    model, x = case
    logits, gradients = jacobian(model, x)
    torch.testing.assert_close(logits, model(x).detach())
    torch.testing.assert_close(gradients, reference(model, x))


def test_saliency_map(case):
    model, x = case
    rows = torch.arange(len(x))
    full = reference(model, x)
    torch.testing.assert_close(saliency_map(model, x), full[rows, model(x).argmax(1)])
    torch.testing.assert_close(saliency_map(model, x, 1), full[:, 1])
    mixed = rows % full.shape[1]
    torch.testing.assert_close(saliency_map(model, x, mixed), full[rows, mixed])


def test_linearized_robustness_from_the_definition(case):
    model, x = case
    logits, full = model(x), reference(model, x)
    result = linearized_robustness(model, x)
    for b in range(len(x)):
        i = logits[b].argmax().item()
        quotients = {
            j: ((logits[b, i] - logits[b, j]) / (full[b, i] - full[b, j]).norm()).item()
            for j in range(logits.shape[1])
            if j != i
        }
        assert result.prediction[b] == i
        assert result.runner_up[b] == min(quotients, key=quotients.get)
        assert result.value[b].item() == pytest.approx(min(quotients.values()), rel=1e-12)


def test_samples_do_not_see_each_other(case):
    model, x = case
    together = linearized_robustness(model, x).value
    alone = torch.cat([linearized_robustness(model, one[None]).value for one in x])
    torch.testing.assert_close(together, alone)


def test_norm_and_inner():
    v, w = torch.randn(4, 2, 3, 5), torch.randn(4, 2, 3, 5)
    torch.testing.assert_close(norm(v), v.flatten(1).norm(dim=1))
    torch.testing.assert_close(inner(v, w), (v * w).sum((1, 2, 3)))
    assert norm(torch.zeros(2, 3)).tolist() == [0.0, 0.0]
    assert norm(torch.full((1, 4), 1e30)).item() == pytest.approx(2e30)


def test_works_inside_no_grad(case):
    model, x = case
    expected = saliency_map(model, x)
    with torch.no_grad():
        assert torch.equal(saliency_map(model, x), expected)
