"""Affine classifiers: everything is known exactly, and must come out to 1e-12 (float64)."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lesson_utils import (
    AffineClassifier,
    BinaryClassifier,
    alignment,
    linearized_robustness,
    minimal_l2,
    saliency_map,
)
from lesson_utils.saliency import alignment_of_noise

EXACT = {"rtol": 1e-12, "atol": 1e-12}


def close(a, b, **kwargs):
    torch.testing.assert_close(a, b, **(kwargs or EXACT))


def normal(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


dimensions = st.integers(1, 40)
class_counts = st.integers(2, 12)
seeds = st.integers(0, 2**32 - 1)


# --- numbers one can check by hand -------------------------------------------


def test_binary_by_hand():
    model = BinaryClassifier([3.0, 4.0], b=5.0)
    x = torch.tensor([[1.0, 3.0], [0.0, 0.0], [-3.0, -4.0]], dtype=torch.float64)
    close(model.score(x), torch.tensor([20.0, 5.0, -20.0], dtype=torch.float64))
    assert model(x).argmax(1).tolist() == [1, 1, 0]
    close(model.robustness(x), torch.tensor([4.0, 1.0, 4.0], dtype=torch.float64))
    close(alignment(x, saliency_map(model, x)), torch.tensor([3.0, 0, 5], dtype=torch.float64))
    foot = torch.tensor([-1.4, -0.2], dtype=torch.float64)
    close(model.closest_adversary(x)[0], foot)


def test_three_classes_by_hand():
    # Boundaries x1 = x2 (0 | 1) and x1 = 0, x2 = 0 (against class 2, whose logit is 0).
    model = AffineClassifier([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
    x = torch.tensor([[3.0, 1.0], [0.5, -4.0], [-1.0, -2.0]], dtype=torch.float64)
    expected = torch.tensor([2 / math.sqrt(2), 0.5, 1.0], dtype=torch.float64)
    close(model.robustness(x), expected)
    result = linearized_robustness(model, x)
    close(result.value, expected)
    assert result.prediction.tolist() == [0, 0, 2]
    assert result.runner_up.tolist() == [1, 2, 0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_weights_at_either_end_of_the_range(dtype):
    """Scores of any scale have the same ρ: lengths and margins neither overflow nor vanish."""
    torch.manual_seed(0)
    weight, x = torch.randn(4, 9, dtype=dtype), torch.rand(20, 9, dtype=dtype)
    expected = AffineClassifier(weight).robustness(x)
    top, least = torch.finfo(dtype).max, torch.finfo(dtype).tiny
    largest = (x @ weight.T).abs().max().maximum(weight.abs().max())
    for scale in (0.9 * top / largest, 1e4 * least):
        model = AffineClassifier(scale * weight)
        torch.testing.assert_close(model.robustness(x), expected, rtol=1e-3, atol=0)
        step = (model.closest_adversary(x) - x).norm(dim=1)
        torch.testing.assert_close(step, expected, rtol=1e-3, atol=1e-6)


def test_equal_rows_have_no_boundary_between_them():
    model = AffineClassifier([[1.0, 0.0], [1.0, 0.0], [-1.0, 0.0]])
    x = torch.tensor([[2.0, 5.0]], dtype=torch.float64)
    close(model.robustness(x), torch.tensor([2.0], dtype=torch.float64))
    with pytest.raises(ValueError, match="never change"):
        AffineClassifier([[1.0, 0.0], [1.0, 0.0]])


# --- C1: linear binary -------------------------------------------------------


@given(d=dimensions, seed=seeds)
def test_linear_binary_robustness_is_alignment(d, seed):
    model, x = BinaryClassifier(normal(d, seed=seed)), normal(20, d, seed=seed + 1)
    z = model.weight[1] - model.weight[0]
    alpha = alignment(x, saliency_map(model, x))
    cosine = (x @ z) / (x.norm(dim=1) * z.norm())
    close(alpha, model.robustness(x))
    close(alpha, x.norm(dim=1) * cosine.abs())


# --- C2: affine --------------------------------------------------------------


@given(d=dimensions, seed=seeds, b=st.floats(-10, 10))
def test_bias_moves_robustness_by_at_most_b_over_norm(d, seed, b):
    model, x = BinaryClassifier(normal(d, seed=seed), b), normal(20, d, seed=seed + 1)
    z = model.weight[1] - model.weight[0]
    gap = (model.robustness(x) - alignment(x, saliency_map(model, x))).abs()
    assert (gap <= abs(b) / z.norm() + 1e-12 * (1 + gap)).all()
    # Attained wherever Ψ and ⟨x, z⟩ have one sign.
    same = (model.score(x) * (x @ z)) > 0
    close(gap[same], torch.full_like(gap[same], abs(b) / z.norm().item()))


# --- ρ̃ = ρ on every affine model ---------------------------------------------


@given(n=class_counts, d=dimensions, seed=seeds)
def test_linearized_robustness_is_exact_on_affine_models(n, d, seed):
    model = AffineClassifier(normal(n, d, seed=seed), normal(n, seed=seed + 1))
    x = normal(20, d, seed=seed + 2)
    close(linearized_robustness(model, x).value, model.robustness(x))


@given(n=class_counts, d=dimensions, seed=seeds)
def test_closest_adversary_lies_on_the_boundary_at_distance_rho(n, d, seed):
    model = AffineClassifier(normal(n, d, seed=seed), normal(n, seed=seed + 1))
    x = normal(20, d, seed=seed + 2)
    rho, foot = model.robustness(x), model.closest_adversary(x)
    close((foot - x).norm(dim=1), rho)
    top = model(foot).topk(2, dim=1).values
    close(top[:, 0], top[:, 1], rtol=0, atol=1e-11)
    prediction = model(x).argmax(1)
    assert (model(x + 0.999 * (foot - x)).argmax(1) == prediction).all()
    assert (model(x + 1.001 * (foot - x)).argmax(1) != prediction).all()


@given(n=st.integers(3, 12), d=dimensions, k=st.integers(1, 5), seed=seeds)
def test_top_k_is_an_upper_bound(n, d, k, seed):
    model = AffineClassifier(normal(n, d, seed=seed), normal(n, seed=seed + 1))
    x = normal(20, d, seed=seed + 2)
    full, part = (linearized_robustness(model, x, top_k=top).value for top in (None, k))
    assert (part >= full).all()
    close(linearized_robustness(model, x, top_k=n - 1).value, full)


# --- what ρ̃ notices and what α notices ---------------------------------------


class Changed(nn.Module):
    """`model` with a changed scale, origin or a function added to every logit."""

    def __init__(self, model, *, scale=1.0, shift=None, origin=0.0):
        super().__init__()
        self.model, self.scale, self.shift, self.origin = model, scale, shift, origin

    def forward(self, x):
        logits = self.scale * self.model(x - self.origin)
        return logits if self.shift is None else logits + (x @ self.shift)[:, None]


def smooth_net(n, d, seed):
    torch.manual_seed(seed % 2**31)
    return nn.Sequential(nn.Linear(d, 16), nn.GELU(), nn.Linear(16, n)).double().eval()


@settings(max_examples=40)
@given(n=class_counts, d=dimensions, seed=seeds, scale=st.floats(1e-20, 1e20))
def test_scaling_the_logits_changes_neither(n, d, seed, scale):
    model, x = smooth_net(n, d, seed), normal(10, d, seed=seed)
    scaled = Changed(model, scale=scale)
    close(alignment(x, saliency_map(scaled, x)), alignment(x, saliency_map(model, x)))
    close(
        linearized_robustness(scaled, x).value,
        linearized_robustness(model, x).value,
        rtol=1e-9,
        atol=1e-12,
    )


@settings(max_examples=40)
@given(n=class_counts, d=st.integers(2, 40), seed=seeds)
def test_logit_shift_changes_alignment_only(n, d, seed):
    model, x = smooth_net(n, d, seed), normal(10, d, seed=seed)
    shifted = Changed(model, shift=normal(d, seed=seed + 1))
    close(
        linearized_robustness(shifted, x).value,
        linearized_robustness(model, x).value,
        rtol=1e-9,
        atol=1e-9,
    )
    gap = alignment(x, saliency_map(shifted, x)) - alignment(x, saliency_map(model, x))
    assert gap.abs().max() > 1e-3


@settings(max_examples=40)
@given(n=class_counts, d=st.integers(2, 40), seed=seeds)
def test_origin_changes_alignment_only(n, d, seed):
    model, x = smooth_net(n, d, seed), normal(10, d, seed=seed)
    origin = normal(d, seed=seed + 1)
    moved = Changed(model, origin=origin)
    close(
        linearized_robustness(moved, x + origin).value,
        linearized_robustness(model, x).value,
        rtol=1e-9,
        atol=1e-9,
    )
    before = alignment(x, saliency_map(model, x))
    after = alignment(x + origin, saliency_map(moved, x + origin))
    assert (after - before).abs().max() > 1e-3


# --- the attack finds the closed form ----------------------------------------


@settings(max_examples=25)
@given(n=class_counts, d=dimensions, seed=seeds, offset=st.sampled_from([0, 100, 1e4]))
def test_attack_recovers_the_closed_form(n, d, seed, offset):
    """To the rounding of the scores, which a number added to all of them makes coarser."""
    model = AffineClassifier(normal(n, d, seed=seed), normal(n, seed=seed + 1) + offset)
    x = normal(10, d, seed=seed + 2)
    result = minimal_l2(model, x)
    assert result.success.all()
    exact = 1e-9 * (1 + offset / 100)
    close(result.distance, model.robustness(x), rtol=exact, atol=exact)
    assert (model(result.adversarial).argmax(1) != model(x).argmax(1)).all()


def test_attack_in_a_box_solves_the_quadratic_program():
    # Boundary x1 + 3·x2 = 3.5 seen from the origin of the unit square. Over R² the foot is
    # 0.35·(1, 3), outside; in the square the closest boundary point is (0.5, 1).
    model = BinaryClassifier([1.0, 3.0], b=-3.5)
    x = torch.zeros(1, 2, dtype=torch.float64)
    close(minimal_l2(model, x).distance[0].item(), 3.5 / math.sqrt(10), rtol=1e-9, atol=0)
    boxed = minimal_l2(model, x, bounds=(0, 1))
    close(boxed.adversarial[0], torch.tensor([0.5, 1.0]).double(), rtol=0, atol=1e-6)
    assert model(boxed.adversarial).argmax(1).item() == 1


def test_attack_from_a_point_on_the_boundary():
    model = BinaryClassifier([1.0, 3.0])
    result = minimal_l2(model, torch.tensor([[3.0, -1.0]], dtype=torch.float64))
    assert result.success.all()
    assert result.distance[0] < 1e-12


def test_alignment_of_noise_is_what_noise_has():
    torch.manual_seed(0)
    x = torch.rand(1, 3000)
    found = alignment(x.expand(4000, -1), torch.randn(4000, 3000)).median()
    expected = alignment_of_noise(x.norm(), 3000)
    assert abs(found / expected - 1) < 0.05
    assert expected == pytest.approx(0.6745 * x.norm().item() / 3000**0.5, rel=1e-4)
