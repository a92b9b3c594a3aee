"""`minimal_l2` on trained networks, and against foolbox's attacks."""

import foolbox
import pytest
import torch

from lesson_utils import minimal_l2
from lesson_utils.gradients import norm

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
def test_never_worse_than_foolbox(digits, digits_net, bounds):
    x = digits.x_test[:150]
    ours = minimal_l2(digits_net, x, bounds=bounds)
    theirs = foolbox_distance(digits_net, x, bounds)
    assert ours.success.all()
    assert (ours.distance <= (1 + ROUNDING) * theirs).all()
    # and it does improve on them: "never worse" alone would hold for a copy
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
