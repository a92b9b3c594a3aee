"""The bound theorem: ρ̃ ≤ α + ‖x‖·‖ḡ† − ḡ‖ + |β†|/‖g†‖, its other forms, and what measures it."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from random_nets import random_net
from torch import nn

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
    saliency_map,
)
from lesson_utils.autograd import inner, norm
from lesson_utils.models import SmallNet, mlp

seeds = st.integers(0, 2**32 - 1)


def slack(m, dtype=torch.float64):
    """Rounding: the margin is a difference of numbers of the size of its summands."""
    size = m.alignment + m.binarized_alignment + m.bias_gap + m.input_norm + 1
    return 1e3 * torch.finfo(dtype).eps * size


def check(m, dtype=torch.float64):
    rho, tolerance = m.linearized_robustness, slack(m, dtype)
    assert (rho <= m.bound + tolerance).all()
    assert (rho >= m.lower_bound - tolerance).all()
    assert (rho <= m.tight_bound + tolerance).all()
    assert (m.tight_bound <= m.alignment + m.unsigned_direction_gap + m.bias_gap + tolerance).all()
    assert (m.unsigned_direction_gap <= m.direction_gap).all()


def test_no_violation_in_a_hundred_thousand_points():
    points = 0
    for seed in range(60):
        model, shape = random_net(seed)
        n = 4000 if len(shape) == 1 else 300
        generator = torch.Generator().manual_seed(seed)
        x = 2 * torch.randn(n, *shape, generator=generator, dtype=torch.float64)
        m = measure(model, x)
        defined = m.alignment.isfinite() & m.linearized_robustness.isfinite()
        points += int(defined.sum())
        check(type(m)(*(values[defined] for values in m)))
    assert points >= 100_000


@settings(max_examples=40)
@given(seed=seeds)
def test_bound_in_single_precision(seed):
    model, shape = random_net(seed, torch.float32)
    m = measure(model, torch.randn(50, *shape))
    keep = m.alignment.isfinite() & m.linearized_robustness.isfinite() & (m.bias_gap < 1e4)
    check(type(m)(*(values[keep] for values in m)), torch.float32)


@settings(max_examples=40)
@given(seed=seeds)
def test_every_field_from_its_definition(seed):
    model, shape = random_net(seed)
    x = torch.randn(6, *shape, dtype=torch.float64)
    m, full = measure(model, x), linearized_robustness(model, x)
    logits, gradients = jacobian(model, x)
    rows = torch.arange(len(x))
    i, j = full.prediction, full.runner_up
    g, g_dagger = gradients[rows, i], gradients[rows, i] - gradients[rows, j]
    psi_dagger = logits[rows, i] - logits[rows, j]
    beta_dagger = psi_dagger - inner(x, g_dagger)
    unit, unit_dagger = ((v.flatten(1).T / norm(v)).T for v in (g, g_dagger))
    expected = {
        "prediction": i,
        "runner_up": j,
        "input_norm": norm(x),
        "alignment": alignment(x, saliency_map(model, x)),
        "binarized_alignment": alignment(x, g_dagger),
        "linearized_robustness": full.value,
        "direction_gap": norm(x) * norm(unit_dagger - unit),
        "unsigned_direction_gap": norm(x)
        * torch.minimum(norm(unit_dagger - unit), norm(unit_dagger + unit)),
        "bias_gap": beta_dagger.abs() / norm(g_dagger),
        "homogeneous": inner(x, g),
        "bias": logits[rows, i] - inner(x, g),
    }
    for name, value in expected.items():
        torch.testing.assert_close(getattr(m, name), value, rtol=1e-9, atol=1e-9, equal_nan=True)
    terms = bound_terms(model, x)
    for name in terms._fields:
        assert torch.equal(getattr(terms, name).nan_to_num(), getattr(m, name).nan_to_num())


@settings(max_examples=30)
@given(seed=seeds)
def test_binarization_changes_nothing_for_linearized_robustness(seed):
    model, shape = random_net(seed)
    x = torch.randn(8, *shape, dtype=torch.float64)
    full = linearized_robustness(model, x)
    binary = binarize(model, full.prediction, full.runner_up)
    result = linearized_robustness(binary, x)
    torch.testing.assert_close(result.value, full.value, rtol=1e-9, atol=1e-12)
    assert (binary.score(x) >= 0).all()
    torch.testing.assert_close(
        alignment(x, saliency_map(binary, x)), measure(model, x).binarized_alignment,
        rtol=1e-9, atol=1e-9, equal_nan=True,
    )  # fmt: skip


@given(seed=seeds, chunk=st.integers(1, 12))
@settings(max_examples=20)
def test_chunks_change_nothing(seed, chunk):
    model, shape = random_net(seed)
    x = torch.randn(11, *shape, dtype=torch.float64)
    whole, parts = measure(model, x), measure(model, x, chunk_size=chunk)
    for name, value in whole.to_dict().items():
        np.testing.assert_allclose(parts.to_dict()[name], value, rtol=1e-8, atol=1e-8)


@settings(max_examples=25)
@given(d=st.integers(1, 30), seed=seeds)
def test_homogeneous_binary_models_collapse_the_bound(d, seed):
    z = torch.randn(d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    x = torch.randn(20, d, generator=torch.Generator().manual_seed(seed + 1), dtype=torch.float64)
    m = measure(BinaryClassifier(z), x)
    torch.testing.assert_close(m.linearized_robustness, m.alignment, rtol=1e-12, atol=1e-12)
    assert m.bias_gap.max() < 1e-12
    assert m.direction_gap.max() < 1e-6  # a distance of unit vectors: half the digits


def test_measure_agrees_with_the_decomposition(digits, digits_net):
    x = digits.x_test[:50]
    m, d = measure(digits_net, x), homogeneous_decomposition(digits_net, x)
    torch.testing.assert_close(m.homogeneous, d.homogeneous, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(m.bias, d.bias, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(m.degree_of_homogeneity, d.degree, rtol=1e-3, atol=1e-4)
    check(m, torch.float32)


MANY_CLASSES = """
import resource, torch
from lesson_utils import measure

torch.set_num_threads(1)
model = torch.nn.Sequential(
    torch.nn.AvgPool2d(32), torch.nn.Flatten(), torch.nn.Linear(147, 1000)
)
measure(model, torch.rand(1, 3, 224, 224))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
measure(model, torch.rand(6, 3, 224, 224))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no getrusage")
def test_a_thousand_classes_of_large_images_need_little_memory():
    """All gradients at once would be 6 × 1,000 × 3 × 224 × 224 float32 numbers: 3.6 GB."""
    command = [sys.executable, "-c", MANY_CLASSES]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    megabytes = int(done.stdout) / (1e3 if sys.platform == "linux" else 1e6)
    assert megabytes < 300


def test_memory_layout_and_in_place_layers_do_not_matter():
    torch.manual_seed(0)
    plain = SmallNet((3, 16, 16)).double().eval()
    x = torch.rand(4, 3, 16, 16).double()
    expected = measure(plain, x).to_dict()
    for module in plain.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = True
    last = measure(
        plain.to(memory_format=torch.channels_last), x.to(memory_format=torch.channels_last)
    )
    for name, value in last.to_dict().items():
        np.testing.assert_allclose(value, expected[name], rtol=1e-9, atol=1e-9)


def test_edge_cases():
    tie = measure(AffineClassifier([[1.0, 0.0], [0.0, 1.0]]), torch.ones(1, 2).double())
    assert tie.linearized_robustness.item() == 0
    flat = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 2)).double().eval()
    with torch.no_grad():
        flat[0].bias.fill_(-100)
        flat[2].bias.copy_(torch.tensor([1.0, 0.0]))
    m = measure(flat, torch.rand(1, 2).double())
    assert m.alignment.isnan().item()
    assert m.linearized_robustness.item() == torch.inf


def test_tables():
    model, x = mlp([4, 8, 3]).eval(), torch.rand(5, 4)
    table = measure(model, x).to_dict()
    assert {"alignment", "bound", "lower_bound", "tight_bound", "degree_of_homogeneity"} <= set(
        table
    )
    assert all(isinstance(v, np.ndarray) and v.shape == (5,) for v in table.values())


def test_frame():
    import pandas

    frame = measure(mlp([4, 8, 3]).eval(), torch.rand(5, 4)).to_frame()
    assert isinstance(frame, pandas.DataFrame)
    assert len(frame) == 5


def test_refusals():
    model, x = mlp([4, 8, 3]).eval(), torch.rand(5, 4)
    with pytest.raises(ValueError, match="chunk_size"):
        measure(model, x, chunk_size=0)
    with pytest.raises(IndexError, match="j must lie"):
        binarize(model, 0, 3)(x)
    with pytest.raises(ValueError, match=r"shape \(4,\)"):
        binarize(model, torch.zeros(5, dtype=torch.long), 1)(x[:4])
