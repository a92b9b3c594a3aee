"""Exact robustness of ReLU nets in the plane, against search and against the attack."""

import numpy as np
import pytest
import torch
from torch import nn

from lesson_utils import jacobian, linearized_robustness, minimal_l2
from lesson_utils.models import mlp
from lesson_utils.toy import PlanarReLUNet

ARCHITECTURES = [
    [2, 6, 2],
    [2, 12, 3],
    [2, 8, 8, 4],
    [2, 20, 20, 3],
    [2, 10, 10, 10, 5],
]


@pytest.fixture(params=[(s, k) for s in ARCHITECTURES for k in range(2)], ids=str)
def case(request):
    sizes, seed = request.param
    torch.manual_seed(seed)
    net = mlp(sizes).double()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.normal_()
    return PlanarReLUNet(net), torch.randn(30, 2, dtype=torch.float64)


def area(polygon):
    x, y = polygon.T
    return abs(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2


def test_regions_tile_the_window_and_logits_are_affine_there(case):
    net, _ = case
    regions = net.linear_regions(center=(0.5, -1.0), radius=2.0)
    assert sum(area(r.polygon) for r in regions) == pytest.approx(16.0, rel=1e-9)
    rng = np.random.default_rng(0)
    for region in regions:
        weights = rng.dirichlet(np.ones(len(region.polygon)), size=3)
        points = weights @ region.polygon
        expected = points @ region.weight.T + region.bias
        got = net(torch.as_tensor(points)).detach().numpy()
        np.testing.assert_allclose(got, expected, rtol=1e-8, atol=1e-8)


def test_cells_tile_the_window_and_name_the_decision(case):
    net, _ = case
    cells = net.cells()
    assert sum(area(polygon) for _, polygon in cells) == pytest.approx(36.0, rel=1e-9)
    for i, polygon in cells:
        if area(polygon) > 1e-8:
            assert net(torch.as_tensor(polygon.mean(0))[None]).argmax(1).item() == i


def test_boundary_segments_are_ties_of_the_two_largest_logits(case):
    net, _ = case
    segments, classes = net.boundary()
    assert len(segments) > 0
    for share in (0.1, 0.5, 0.9):
        points = segments[:, 0] + share * (segments[:, 1] - segments[:, 0])
        logits = net(torch.as_tensor(points)).detach().numpy()
        rows = np.arange(len(points))
        first, second = logits[rows, classes[:, 0]], logits[rows, classes[:, 1]]
        np.testing.assert_allclose(first, second, atol=1e-7)
        assert (np.maximum(first, second) >= logits.max(1) - 1e-7).all()


def test_robustness_against_dense_search(case):
    net, x = case
    rho, foot = net.robustness(x), net.closest_adversary(x)
    torch.testing.assert_close((foot - x).norm(dim=1), rho)
    decision = net(x).argmax(1)
    angle = torch.arange(1440, dtype=torch.float64) * torch.pi / 720
    rays = torch.stack([angle.cos(), angle.sin()], dim=1)
    generator = torch.Generator().manual_seed(0)
    for b in range(len(x)):
        steps = torch.linspace(0, 1 - 1e-6, 50, dtype=torch.float64)[:, None, None]
        inside = (x[b] + steps * rho[b] * rays).reshape(-1, 2)
        assert (net(inside).argmax(1) == decision[b]).all()
        around = foot[b] + 1e-6 * torch.randn(300, 2, generator=generator, dtype=torch.float64)
        assert (net(around).argmax(1) != decision[b]).any()


def test_attack_is_never_below(case):
    net, x = case
    assert (minimal_l2(net, x).distance >= net.robustness(x) - 1e-9).all()


def test_attack_is_mostly_exact_over_all_networks():
    """Random weights make islands that no descent finds; trained networks have fewer."""
    shares = []
    for sizes in ARCHITECTURES:
        torch.manual_seed(5)
        net, x = PlanarReLUNet(mlp(sizes).double()), torch.randn(50, 2).double()
        rho, attack = net.robustness(x), minimal_l2(net, x).distance
        finite = rho.isfinite()
        shares.append((attack[finite] <= 1.001 * rho[finite] + 1e-9).double().mean().item())
    assert np.nanmean(shares) > 0.8


def test_linearization_is_exact_where_its_ball_stays_in_one_region(case):
    net, x = case
    rho, lin = net.robustness(x), linearized_robustness(net, x).value
    radius = net.affine_radius(x)
    affine = lin <= radius
    assert affine.any() or len(net.net) > 4  # deep random nets: regions smaller than any margin
    torch.testing.assert_close(lin[affine], rho[affine])
    assert (rho[~affine] >= radius[~affine] - 1e-9).all()
    # radius itself: within it the gradients do not change, just beyond it some do
    _, here = jacobian(net, x)
    angle = torch.arange(720, dtype=torch.float64) * torch.pi / 360
    rays = torch.stack([angle.cos(), angle.sin()], dim=1)
    for b in range(5):
        _, inside = jacobian(net, x[b] + 0.999 * radius[b] * rays)
        torch.testing.assert_close(inside, here[b].expand_as(inside))
        _, beyond = jacobian(net, x[b] + 1.01 * radius[b] * rays)
        assert (beyond - here[b]).abs().max() > 1e-9


def test_other_class_far_away_and_nowhere():
    far = mlp([2, 2, 2]).double()
    with torch.no_grad():
        for parameter in far.parameters():
            parameter.zero_()
        far[1].weight[0, 0] = 1.0  # relu(x1) − 1000 against 0
        far[3].weight[0, 0] = 1.0
        far[3].bias[0] = -1000.0
    x = torch.tensor([[0.0, 3.0], [-5.0, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(
        PlanarReLUNet(far).robustness(x), torch.tensor([1000.0, 1005.0]).double()
    )
    with torch.no_grad():
        far[3].weight[0, 0] = -1.0
    nowhere = PlanarReLUNet(far)
    assert (nowhere.robustness(x) == torch.inf).all()
    assert nowhere.closest_adversary(x).isnan().all()


def test_where_all_logits_tie_the_first_class_decides():
    # Without biases every neuron is off in the cone x1 < 0, x2 < 0, and all logits are 0 there.
    net = mlp([2, 2, 3], bias=False).double()
    with torch.no_grad():
        net[1].weight.copy_(torch.eye(2))
        net[3].weight.copy_(torch.tensor([[-1.0, -1.0], [1.0, 0.0], [0.0, 1.0]]))
    planar = PlanarReLUNet(net)
    x = torch.tensor([[-1.0, -2.0], [3.0, 1.0], [2.0, -1.0]], dtype=torch.float64)
    assert planar(x).argmax(1).tolist() == [0, 1, 1]
    expected = torch.tensor([1.0, 2**0.5, 2.0], dtype=torch.float64)
    torch.testing.assert_close(planar.robustness(x), expected)


def test_refusals():
    with pytest.raises(ValueError, match="Linear, ReLU, Linear"):
        PlanarReLUNet(mlp([2, 4, 3], activation=nn.GELU))
    with pytest.raises(ValueError, match="2 inputs"):
        PlanarReLUNet(mlp([3, 4, 3]))


@pytest.mark.parametrize("seed", [0, 336, 342])
def test_what_lies_beyond_the_window_may_be_nearer(seed):
    """Neither the company of a point nor the window that it needs moves its distances."""
    torch.manual_seed(seed)
    planar = PlanarReLUNet(mlp([2, 8, 3]).double().eval())
    x = 4 * torch.rand(30, 2).double() - 2
    rho, radius = planar.robustness(x), planar.affine_radius(x)
    angles = torch.linspace(0, 2 * torch.pi, 721).double()
    around = torch.stack([angles.cos(), angles.sin()], 1)
    for k in range(0, 30, 3):
        one = x[k : k + 1]
        torch.testing.assert_close(planar.robustness(one), rho[k : k + 1])
        torch.testing.assert_close(planar.affine_radius(one), radius[k : k + 1])
        if rho[k].isfinite():  # a disc of one class
            disc = one + 0.999 * rho[k] * around * torch.linspace(0.05, 1, 40)[:, None, None]
            assert (planar(disc.flatten(0, 1)).argmax(1) == planar(one).argmax(1)).all()
            assert planar(planar.closest_adversary(one)).topk(2).values.diff().abs() < 1e-9
