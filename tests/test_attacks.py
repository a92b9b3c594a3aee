"""`minimal_l2` on trained networks, and against foolbox's attacks."""

import foolbox
import pytest
import torch
from random_nets import Around

from lesson_utils import AffineClassifier, BinaryClassifier, binarize, minimal_l2
from lesson_utils.attacks import by_foolbox, line_search, projected_gradient, protocol_attacks
from lesson_utils.attacks.common import ascent, ask
from lesson_utils.autograd import norm
from lesson_utils.models import mlp
from lesson_utils.toy import PlanarReLUNet

# The adversary is placed a few float32 roundings beyond the boundary.
ROUNDING = 1e-5


def foolbox_distance(model, x, bounds):
    """Nearest of foolbox's DeepFool and DDN, both on the predicted class."""
    wrapped = foolbox.PyTorchModel(model, bounds=bounds or (-1e3, 1e3))
    label = model(x).argmax(1)
    best = torch.full((len(x),), torch.inf)
    for attack in (foolbox.attacks.L2DeepFoolAttack(), foolbox.attacks.DDNAttack()):
        adversarial, _, success = attack(wrapped, x, label, epsilons=None)
        distance = torch.where(success, norm(adversarial - x), torch.inf)
        best = torch.minimum(best, distance)
    return best


@pytest.mark.parametrize("bounds", [None, (0, 1)])
def test_never_one_percent_worse_than_foolbox(digits, digits_net, bounds):
    x = digits.x_test[:150]
    ours = minimal_l2(digits_net, x, bounds=bounds)
    theirs = foolbox_distance(digits_net, x, bounds)
    assert ours.success.all()
    assert (ours.distance <= 1.01 * theirs).all()
    assert (ours.distance <= (1 + ROUNDING) * theirs).double().mean() > 0.9
    # and it does improve on them: a copy would pass the above, too
    assert (ours.distance < 0.999 * theirs).double().mean() > 0.2


def test_result_is_what_it_says(digits, digits_net):
    x = digits.x_test[:100]
    label = digits_net(x).argmax(1)
    free, boxed = minimal_l2(digits_net, x), minimal_l2(digits_net, x, bounds=(0, 1))
    for result in (free, boxed):
        assert (digits_net(result.adversarial).argmax(1) != label).all()
        torch.testing.assert_close(result.distance, norm(result.adversarial - x))
        just_inside = x + (1 - 1e-3) * (result.adversarial - x)
        assert (digits_net(just_inside).argmax(1) == label).double().mean() > 0.95
    assert boxed.adversarial.min() >= 0
    assert boxed.adversarial.max() <= 1
    assert free.distance.median() <= boxed.distance.median()


def test_same_call_same_answer(digits, digits_net):
    x = digits.x_test[:20]
    assert torch.equal(minimal_l2(digits_net, x).distance, minimal_l2(digits_net, x).distance)


def test_restarts_only_come_nearer_and_each_sample_by_itself(digits, digits_net):
    x = digits.x_test[:40]
    without = minimal_l2(digits_net, x, bounds=(0, 1)).distance
    found = minimal_l2(digits_net, x, bounds=(0, 1), restarts=6)
    assert (found.distance <= (1 + ROUNDING) * without).all()
    if any(isinstance(module, torch.nn.Conv2d) for module in digits_net.modules()):
        assert (found.distance < 0.999 * without).any()
    alone = [
        minimal_l2(digits_net, one, bounds=(0, 1), restarts=6).distance for one in x[:5].split(1)
    ]
    torch.testing.assert_close(torch.cat(alone), found.distance[:5], rtol=1e-4, atol=0)
    constant = Around(lambda x: x.flatten(1)[:, :2] * 0 + torch.tensor([1, 0])).eval()
    nowhere = minimal_l2(constant, x, restarts=2)
    assert not nowhere.success.any()


def test_restarts_find_a_rival_that_is_flat_and_weak_at_x():
    # The plane of class 1 is at distance 1; class 2 rises only beyond |x_1| = 0.1, and wins at 0.1 + 1/3.
    def scores(x):
        return torch.stack([0 * x[:, 0], x[:, 0] - 1, 9 * (x[:, 1].abs() - 0.1).relu() - 3], 1)

    x, model = torch.zeros(1, 20), Around(scores).eval()
    assert minimal_l2(model, x).distance.item() == pytest.approx(1, rel=1e-4)
    found = minimal_l2(model, x, restarts=8)
    assert found.distance.item() == pytest.approx(0.1 + 1 / 3, rel=1e-4)
    assert model(found.adversarial).argmax() == 2


def test_ascent_towards_one_rival_alone(digits, digits_net):
    x, c = digits.x_test[:4], torch.arange(10)
    task = ask(digits_net, x)
    rival = torch.where(task.label == c[3], c[5], c[3])
    direction = ascent(task, x, spread=10.0, rival=rival)[0]
    leaf = x.clone().requires_grad_()
    rows = torch.arange(4)
    lead = digits_net(leaf)[rows, rival] - digits_net(leaf)[rows, task.label]
    (grad,) = torch.autograd.grad(lead.sum(), leaf)
    torch.testing.assert_close(direction, grad / norm(grad).view(-1, 1, 1, 1))


@pytest.mark.parametrize("restarts, error", [(-1, ValueError), (1.0, TypeError), (True, TypeError)])
def test_restarts_that_are_no_number_of_them(restarts, error, digits_net, digits):
    with pytest.raises(error, match="restarts"):
        minimal_l2(digits_net, digits.x_test[:1], restarts=restarts)


def deepfool(model, x):
    return by_foolbox(foolbox.attacks.L2DeepFoolAttack(), model, x)


def carlini_wagner(model, x):
    attack = foolbox.attacks.L2CarliniWagnerAttack(5, steps=120, stepsize=5e-3, initial_const=1.0)
    return by_foolbox(attack, model, x)


SIMPLE = pytest.mark.parametrize(
    "attack", [line_search, projected_gradient, deepfool, carlini_wagner]
)


@SIMPLE
def test_simple_attacks_find_what_they_say_and_minimal_l2_is_rarely_beaten(
    attack, digits, digits_net
):
    x = digits.x_test[:40]
    result = attack(digits_net, x)
    ok = result.success
    assert ok.double().mean() > 0.8
    assert (digits_net(result.adversarial[ok]).argmax(1) != digits_net(x[ok]).argmax(1)).all()
    torch.testing.assert_close(result.distance[ok], norm(result.adversarial[ok] - x[ok]))
    assert (result.distance[~ok] == torch.inf).all()
    best = minimal_l2(digits_net, x).distance
    assert (best <= 1.01 * result.distance).double().mean() > 0.85
    assert result.distance.median() < 2.5 * best.median()


@SIMPLE
def test_two_classes_on_a_line(attack):
    """ρ of an affine classifier is known, and every gradient points the right way."""
    torch.manual_seed(0)
    classifier, x = BinaryClassifier(torch.randn(12), 0.3).eval(), torch.randn(20, 12)
    exact = classifier.robustness(x)
    found = attack(classifier, x)
    assert found.success.all()
    assert (found.distance >= (1 - ROUNDING) * exact).all()
    assert (found.distance <= 1.06 * exact + 2e-3).all()


@SIMPLE
def test_where_there_is_no_other_class_every_attack_fails(attack):
    def one_class(x):  # the first score leads everywhere, the second follows it
        return torch.stack([x.sum(1).tanh() + 3, x.sum(1).tanh()], dim=1)

    result = attack(Around(one_class).eval(), torch.rand(4, 5))
    assert not result.success.any()
    assert (result.distance == torch.inf).all()
    assert result.adversarial.isnan().all()


@pytest.mark.parametrize("attack", [line_search, projected_gradient])
def test_confidence_hides_nothing(attack, digits, digits_net):
    """Logits times a million leave the classifier as it is, but cross-entropy has no gradient then."""
    x = digits.x_test[:20]
    sure = torch.nn.Sequential(digits_net, Scale(1e6)).eval()
    assert torch.nn.functional.cross_entropy(sure(x), sure(x).argmax(1)) == 0
    usual, found = attack(digits_net, x), attack(sure, x)
    assert found.success.double().mean() > 0.8
    assert found.distance.median() < 1.5 * usual.distance.median()


class Scale(torch.nn.Module):
    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def forward(self, logits):
        return self.factor * logits


OURS = pytest.mark.parametrize("attack", [minimal_l2, line_search, projected_gradient])
ALL = pytest.mark.parametrize("attack", [minimal_l2, line_search, projected_gradient, deepfool])
BOTH = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)


# --- an adversary is a point with finite scores and another decision -------------


@ALL
@BOTH
@pytest.mark.parametrize("fill", [torch.nan, torch.inf, -torch.inf])
def test_scores_that_are_no_numbers_decide_nothing(attack, dtype, fill):
    def scores(x):  # class 1 wherever the scores are numbers
        first = x[:, 0].clamp(min=0).sqrt()
        both = torch.stack([first, 2 * first + 1], dim=1)
        return torch.where((x[:, :1] > 0), both, torch.full_like(both, fill) * both.detach())

    result = attack(Around(scores).eval(), torch.tensor([[0.5, 0.3], [0.01, 2.0]], dtype=dtype))
    assert not result.success.any()
    assert (result.distance == torch.inf).all()


@OURS
@BOTH
def test_a_walk_steps_back_from_where_there_are_no_numbers(attack, dtype):
    def scores(x):  # the decision changes at x = 0.2, and x < 0 has no scores
        return torch.stack([x[:, 0].sqrt() - 0.2**0.5, 0 * x[:, 1]], dim=1)

    x = torch.tensor([[0.5, 0.3], [1.0, -2.0]], dtype=dtype)
    result = attack(Around(scores).eval(), x)
    assert result.success.all()
    exact = x[:, 0] - 0.2
    assert (result.distance >= (1 - ROUNDING) * exact).all()
    assert (result.distance <= (1 + ROUNDING if attack is minimal_l2 else 1.7) * exact).all()


# --- neither the scale of the scores nor that of x matters -----------------------


@OURS
@BOTH
@pytest.mark.parametrize("power", [-38, -25, -10, 10, 25, 37])
def test_the_scale_of_the_scores_does_not_matter(attack, dtype, power):
    torch.manual_seed(0)
    x, weight = torch.rand(64, 3, dtype=dtype), torch.eye(3, dtype=dtype)
    bias = torch.tensor([0.3, 0.1, 0], dtype=dtype)
    exact = AffineClassifier(weight, bias).robustness(x)
    result = attack(AffineClassifier(weight * 10.0**power, bias * 10.0**power).eval(), x)
    assert result.success.all()
    assert (result.distance >= exact - 1e-5).all()
    assert (result.distance <= (1 + ROUNDING if attack is minimal_l2 else 1.3) * exact + 1e-5).all()


@OURS
@BOTH
@pytest.mark.parametrize("scale", [1e-12, 1e-4, 1.0, 1e4, 1e12])
def test_the_units_of_x_do_not_matter(attack, dtype, scale):
    torch.manual_seed(0)
    x = scale * torch.rand(20, 6, dtype=dtype)
    classifier = BinaryClassifier(torch.randn(6, dtype=dtype), 0.3 * scale).eval()
    exact, result = classifier.robustness(x), attack(classifier, x)
    assert result.success.all()
    assert (result.distance >= (1 - 1e-4) * exact - 1e-6 * scale).all()
    tolerance = 1e-4 if attack is minimal_l2 else 0.02
    assert (result.distance <= (1 + tolerance) * exact + 1e-5 * scale).all()


@ALL
@BOTH
def test_from_the_zero_image(attack, dtype):
    torch.manual_seed(0)
    net = mlp([9, 8, 3]).to(dtype).eval()
    x = torch.zeros(1, 9, dtype=dtype)
    result = attack(net, x)
    assert result.success.all()
    assert result.distance.isfinite().all()
    assert result.distance > 0
    assert (net(result.adversarial).argmax(1) != net(x).argmax(1)).all()
    classifier = BinaryClassifier(torch.ones(4, dtype=dtype), 2.0).eval()
    found = attack(classifier, torch.zeros(1, 4, dtype=dtype)).distance
    assert 1 - ROUNDING <= found <= 1.06


# --- a twin of the predicted class is no rival -----------------------------------


@OURS
@BOTH
@pytest.mark.parametrize("d", [3, 20, 300, 784])
def test_the_rounding_between_equal_rows_is_no_adversary(attack, dtype, d):
    for n in (3, 7, 17):  # kernels round the last columns of a product otherwise than the first
        torch.manual_seed(0)
        weight, bias = torch.randn(n, d, dtype=dtype), torch.randn(n, dtype=dtype)
        weight[-1], bias[-1] = weight[0], bias[0]
        x = torch.randn(8, d, dtype=dtype) + 0.2 * weight[0]
        exact = AffineClassifier(weight[:-1].double(), bias[:-1].double()).robustness(x.double())
        result = attack(AffineClassifier(weight, bias), x)
        assert result.success.all()
        assert (result.distance >= (1 - 1e-4) * exact - ROUNDING * norm(x)).all()
        if attack is minimal_l2:
            assert (result.distance <= (1 + 1e-4) * exact + ROUNDING * norm(x)).all()


@pytest.mark.parametrize("name", ["deepfool", "carlini_wagner"])
def test_foolbox_finds_no_rounding_between_equal_rows(name):
    torch.manual_seed(0)
    weight = torch.randn(7, 300)
    weight[-1] = weight[0]
    model, x = AffineClassifier(weight), torch.randn(4, 300) + 0.2 * weight[0]
    result, exact = protocol_attacks(3, 40)[name](model, x), model.robustness(x)
    assert (result.distance >= (1 - ROUNDING) * exact).all()
    assert (result.distance <= 1.06 * exact).all()


@OURS
@BOTH
def test_a_twin_that_is_computed_in_another_order(attack, dtype):
    torch.manual_seed(0)
    net, order = mlp([64, 30, 3]).to(dtype).eval(), torch.randperm(30)
    x = torch.rand(16, 64, dtype=dtype)

    def with_a_twin(y):
        hidden, last = net[:3](y), net[3]
        twin = hidden[:, order] @ last.weight[:, order].T + last.bias
        return torch.cat([net(y), twin[:, [favourite]]], 1)

    favourite = net(x).argmax(1).mode().values.item()
    without, found = attack(net, x), attack(Around(with_a_twin).eval(), x)
    mine = net(x).argmax(1) == favourite
    assert mine.sum() >= 8
    torch.testing.assert_close(found.distance[mine], without.distance[mine], rtol=1e-3, atol=0)


@OURS
def test_classes_that_tie_where_both_are_dead_are_rivals_elsewhere(attack):
    def scores(x):  # both zero in a quadrant; beyond it class 1 leads where x_1 > x_0, 0
        return x.relu()

    x = torch.tensor([[-0.5, -0.3], [-0.1, -2.0]])
    result = attack(Around(scores).eval(), x)
    if attack is minimal_l2:
        torch.testing.assert_close(result.distance, -x[:, 1], rtol=1e-2, atol=0)
    assert (result.distance >= 0.99 * -x[:, 1]).all()


def test_a_rival_that_only_ties_wins_if_it_comes_first():
    x = torch.rand(5, 3) + 0.1
    tie = Around(lambda x: torch.stack([0 * x[:, 0], x[:, 0].relu()], 1)).eval()
    torch.testing.assert_close(minimal_l2(tie, x).distance, x[:, 0], rtol=1e-4, atol=0)


# --- a success does not depend on the company ------------------------------------


@OURS
@BOTH
def test_an_adversary_is_one_alone_and_in_any_company(attack, dtype):
    for seed in range(12):
        torch.manual_seed(seed)
        d = (5, 20, 64, 300)[seed % 4]
        model = AffineClassifier(torch.randn(10, d, dtype=dtype), torch.randn(10, dtype=dtype))
        x = torch.randn(100, d, dtype=dtype) * (1, 10, 100)[seed % 3]
        label, (distance, y, success) = model(x).argmax(1), attack(model, x)
        assert success.all()
        for size in (1, 2, 50, 100):
            decisions = torch.cat([model(part).argmax(1) for part in y.split(size)])
            assert (decisions != label).all()
        assert (model(y[::3]).argmax(1) != label[::3]).all()
        if attack is minimal_l2:  # and yet no further away than rounding asks for
            rho = AffineClassifier(model.weight.double(), model.bias.double()).robustness(
                x.double()
            )
            assert ((distance - rho).abs() <= ROUNDING * (rho + norm(x))).all()


@pytest.mark.parametrize("levels", [8, 1000])
def test_rounded_scores_jump_and_the_adversary_lies_behind_the_jump(levels):
    torch.manual_seed(0)
    net, x = mlp([64, 20, 5]).eval(), torch.rand(40, 64)

    def rounded(x):
        exact = net(x)
        return exact + ((levels * exact).round() / levels - exact).detach()

    label, result = rounded(x).argmax(1), minimal_l2(Around(rounded).eval(), x)
    assert result.success.double().mean() > 0.5
    for size in (1, 2, 3, 7):
        for rows in result.success.nonzero().flatten().split(size):
            assert (rounded(result.adversarial[rows]).argmax(1) != label[rows]).all()


# --- sound requests ----------------------------------------------------------------


@OURS
def test_a_model_bound_to_its_batch(attack, digits, digits_net):
    x = digits.x_test[:30]
    first, second = digits_net(x).topk(2, dim=1).indices.unbind(1)
    result = attack(binarize(digits_net, first, second), x)
    assert result.success.double().mean() > 0.8
    ok = result.success
    logits = digits_net(result.adversarial[ok])
    rows = torch.arange(len(logits))
    assert (logits[rows, second[ok]] > logits[rows, first[ok]]).all()
    one = attack(binarize(digits_net, int(first[0]), int(second[0])), x[:1])
    torch.testing.assert_close(one.distance, result.distance[:1], rtol=0.05, atol=0)


def test_bounds_forgive_a_rounding_and_are_kept(digits, digits_net):
    x = digits.x_test[:20]
    beyond = x + torch.where(x == 0, -6e-8, 0) + torch.where(x == 1, 1.2e-7, 0)
    assert beyond.min() < 0
    assert beyond.max() > 1
    result = minimal_l2(digits_net, beyond, bounds=(0, 1))
    assert result.success.all()
    assert result.adversarial.min() >= 0
    assert result.adversarial.max() <= 1
    for bad in (1, (0,), (0, 1, 2), ("0", "1"), (None, 1), (0, torch.nan), torch.rand(2, 64)):
        with pytest.raises(ValueError, match="increasing pair of numbers"):
            minimal_l2(digits_net, x, bounds=bad)
    with pytest.raises(ValueError, match="outside bounds"):
        minimal_l2(digits_net, x * 1.001, bounds=(0, 1))


@BOTH
@pytest.mark.parametrize("attack", [deepfool, carlini_wagner])
def test_foolbox_far_from_the_origin_and_without_a_trace(attack, dtype):
    torch.manual_seed(0)
    net = mlp([6, 12, 3]).to(dtype).eval()
    x = (40 * torch.randn(10, 6)).to(dtype)
    random, before = torch.get_rng_state(), x.clone()
    result = attack(net, x)
    assert (result.success == result.distance.isfinite()).all()
    assert result.adversarial.dtype == dtype
    assert all(p.grad is None and p.requires_grad for p in net.parameters())
    assert torch.equal(torch.get_rng_state(), random)
    assert torch.equal(x, before)
    assert attack(lambda y: net(y), x).distance.equal(result.distance)


@pytest.mark.parametrize("of_scores", [1e-3, 1, 1e3])
@pytest.mark.parametrize("of_x", [1e-3, 1, 1e3])
def test_carlini_wagner_of_the_experiments_knows_no_units(of_x, of_scores, digits, digits_net):
    attack = protocol_attacks(cw_rounds=5, cw_steps=100)["carlini_wagner"]
    x = digits.x_test[:20]

    def in_other_units(z):
        return of_scores * digits_net(z / of_x)

    found = attack(in_other_units, of_x * x)
    best = of_x * minimal_l2(digits_net, x).distance
    assert found.success.all()
    assert (found.distance / best).median() < 1.02
    assert (found.distance / best).quantile(0.9) < 1.2


def test_carlini_wagner_of_the_experiments_in_as_many_dimensions_as_a_photograph():
    """A boundary much nearer than a step of one size for all entries is long."""
    torch.manual_seed(0)
    d = 3 * 64 * 64
    classifier, x = BinaryClassifier(torch.randn(d), 0.3).eval(), torch.rand(6, d)
    near = classifier.closest_adversary(x) + 0.01 * (x - classifier.closest_adversary(x))
    exact = classifier.robustness(near)
    found = protocol_attacks(cw_rounds=4, cw_steps=50)["carlini_wagner"](classifier, near)
    assert (found.distance / exact).amax() < 1.3  # steps of one size: 800
    tied = classifier.closest_adversary(x)  # no margin at all
    assert protocol_attacks(1, 50)["carlini_wagner"](classifier, tied).success.all()


def test_foolbox_attack_that_minimises_nothing():
    with pytest.raises(TypeError, match="L2DeepFoolAttack"):
        by_foolbox(foolbox.attacks.L2PGD(), mlp([6, 12, 3]).eval(), torch.rand(2, 6))


@ALL
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_attacks_leave_no_trace_and_work_without_gradients(attack, mode):
    torch.manual_seed(0)
    net, x = mlp([6, 12, 3]).eval(), torch.rand(10, 6)
    before, random = x.clone(), torch.get_rng_state()
    usual = attack(net, x)
    with mode():
        quiet = attack(net, x)
    assert torch.equal(usual.distance, quiet.distance)
    assert torch.equal(x, before)
    assert not x.requires_grad
    assert torch.equal(torch.get_rng_state(), random)
    assert all(p.grad is None and p.requires_grad for p in net.parameters())


@OURS
def test_neither_the_default_dtype_nor_the_default_device_matters(attack):
    torch.manual_seed(0)
    deeper, small = mlp([20, 12, 3]).eval(), mlp([6, 12, 3]).eval()
    flat = Around(lambda x: torch.stack([0 * x[:, 0], (norm(x) - 3).relu() - 0.5], 1)).eval()
    options = {"restarts": 4} if attack is minimal_l2 else {}
    for net, x in (
        (deeper, torch.rand(9, 20)),
        (small, torch.rand(9, 6)),
        (flat, torch.rand(2, 9)),
    ):
        usual = attack(net, x, **options).distance
        with torch.device("meta"):
            torch.testing.assert_close(attack(net, x, **options).distance, usual, rtol=0, atol=0)
        torch.set_default_dtype(torch.float64)
        try:
            found = attack(net, x, **options).distance
        finally:
            torch.set_default_dtype(torch.float32)
        torch.testing.assert_close(found, usual, rtol=0, atol=0)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("name", ["deepfool", "carlini_wagner"])
def test_attacks_of_the_experiments_work_without_gradients(mode, name):
    torch.manual_seed(0)
    net, x, attack = mlp([6, 12, 3]).eval(), torch.rand(5, 6), protocol_attacks(2, 20)[name]
    usual = attack(net, x)
    with mode():
        assert torch.equal(attack(net, x).distance, usual.distance)


# --- accuracy: exact values in the plane -------------------------------------------


def test_the_search_finds_nearly_every_nearest_point_in_the_plane():
    """Random weights make islands that no descent finds, and samples without a gradient."""
    missed = found = 0
    for sizes, seed in (([2, 12, 3], 0), ([2, 8, 8, 4], 100), ([2, 6, 2], 200)):
        torch.manual_seed(seed)
        net = mlp(sizes).double()
        with torch.no_grad():
            for parameter in net.parameters():
                parameter.normal_()
        net, x = PlanarReLUNet(net), torch.randn(30, 2).double()
        exact, result = net.robustness(x), minimal_l2(net, x)
        finite = exact.isfinite()
        assert (result.distance >= exact - 1e-9).all()
        assert result.success[finite].all()
        missed += int((result.distance[finite] > 1.01 * exact[finite]).sum())
        found += int(finite.sum())
    assert found >= 80
    assert missed <= 2


@BOTH
def test_where_the_gradient_vanishes_random_directions_lead_out(dtype):
    def scores(x):  # class 0 on the unit ball, around whose inner half nothing changes
        return torch.stack([0 * x.sum(1), (norm(x) - 0.5).relu() - 0.5], dim=1)

    x = torch.zeros(2, 30, dtype=dtype)
    x[1, 0] = 0.2
    result = minimal_l2(Around(scores).eval(), x)
    assert result.success.all()
    exact = 1 - norm(x)
    assert (result.distance >= (1 - ROUNDING) * exact).all()
    assert (result.distance <= 1.01 * exact).all()


def test_a_model_is_never_asked_about_no_sample():
    """Many a network of a library fails at an empty batch, for which -1 in a shape has no value."""
    torch.manual_seed(0)
    net = mlp([6, 8, 3]).eval()

    def at_least_one(x):
        assert len(x), "an empty batch"
        return net(x.reshape(len(x), 2, -1).flatten(1))

    at_least_one = Around(at_least_one)
    for x in (torch.rand(1, 6), torch.rand(7, 6), torch.zeros(2, 6)):
        for bounds in (None, (0, 1)):
            found = minimal_l2(at_least_one, x, bounds=bounds, restarts=5)
            expected = minimal_l2(net, x, bounds=bounds, restarts=5)
            torch.testing.assert_close(found.distance, expected.distance)
        for attack in (line_search, projected_gradient):
            torch.testing.assert_close(attack(at_least_one, x).distance, attack(net, x).distance)


@pytest.mark.parametrize("seed", [38, 230, 336])
def test_needles_in_the_plane(seed):
    """Regions of another class so narrow that neither a walk nor a random point meets them."""
    torch.manual_seed(seed)
    sizes = [[2, 8, 3], [2, 16, 16, 3], [2, 12, 12, 12, 4], [2, 6, 2], [2, 30, 5], [2, 10, 10, 2]]
    net = mlp(sizes[seed % 6]).double().eval()
    x = 4 * torch.rand(30, 2).double() - 2
    rho = PlanarReLUNet(net).robustness(x)
    found = minimal_l2(net, x).distance
    reached = rho.isfinite()
    assert reached.any()
    assert (found[reached] <= 1.01 * rho[reached]).all()
    assert (found[reached] >= (1 - 1e-6) * rho[reached]).all()
