"""Bad input: one clear error that names the argument and the remedy."""

import math
import re

import numpy as np
import pytest
import torch
from random_nets import Around
from torch import nn

from lesson_utils import (
    AffineClassifier,
    BinaryClassifier,
    alignment,
    binarize,
    homogeneous_decomposition,
    jacobian,
    linearized_robustness,
    measure,
    minimal_l2,
    saliency_map,
)
from lesson_utils.attacks import projected_gradient
from lesson_utils.data import load_sample_photographs
from lesson_utils.models import SmallNet, mlp
from lesson_utils.plots import image_grid
from lesson_utils.saliency import alignment_of_noise
from lesson_utils.training import accuracy, fit, gradient_penalty_loss

FUNCTIONS = [
    saliency_map,
    linearized_robustness,
    minimal_l2,
    jacobian,
    measure,
    homogeneous_decomposition,
]
NET = mlp([4, 8, 3]).eval()
X = torch.rand(5, 4, generator=torch.Generator().manual_seed(0))


def nan_in_third_sample():
    x = X.clone()
    x[2, 1] = torch.nan
    return x


BAD_INPUTS = {
    "a list": ([[0.0] * 4], TypeError, r"x must be a torch\.Tensor.*torch\.as_tensor"),
    "half precision": (X.half(), TypeError, r"float16.*x\.float\(\) and model\.float\(\)"),
    "integers": (torch.zeros(5, 4, dtype=torch.uint8), TypeError, r"x holds torch\.uint8.*/ 255"),
    "NaN": (nan_in_third_sample(), ValueError, r"x is not finite.*1 of 5.*indices 2.*drop"),
    "infinity": (X / 0, ValueError, r"x is not finite"),
    "no samples": (X[:0], ValueError, r"x is empty.*at least one"),
    "no entries": (X[:, :0], ValueError, r"x is empty"),
    "no batch axis": (X[0], ValueError, r"x must be a batch.*unsqueeze"),
    "another dtype": (X.double(), ValueError, r"disagree in dtype.*float32.*float64"),
}


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("case", BAD_INPUTS)
def test_bad_input(function, case):
    x, error, message = BAD_INPUTS[case]
    with pytest.raises(error, match=message):
        function(NET, x)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")
@pytest.mark.parametrize("function", [*FUNCTIONS, lambda net, x: fit(net, x, LABELS[:2])])
def test_samples_of_several_shapes(function):
    x = torch.nested.nested_tensor([torch.rand(3, 4), torch.rand(2, 4)])
    with pytest.raises(ValueError, match=r"x is a nested tensor.*torch\.stack\(samples\)"):
        function(NET, x)


LABELS = torch.tensor([0, 1, 2, 1, 0])
BAD_LABELS = {
    "a list": (LABELS.tolist(), TypeError, r"y must be a torch\.Tensor, got list.*as_tensor\(y\)"),
    "floats": (LABELS.float(), TypeError, r"y must hold labels.*float32: use y\.long\(\)"),
    "truth values": (LABELS > 0, TypeError, r"y must hold labels.*torch\.bool"),
    "probabilities": (torch.rand(5, 3), TypeError, r"y must hold labels.*y\.argmax\(1\)"),
    "one hot": (torch.eye(3).long()[LABELS], ValueError, r"shape \(5,\), got \(5, 3\).*argmax"),
    "a column": (LABELS[:, None], ValueError, r"shape \(5,\), got \(5, 1\).*y\.flatten\(\)"),
    "one for all": (LABELS[0], ValueError, r"shape \(5,\), got \(\)"),
    "too few": (
        LABELS[:4],
        ValueError,
        r"y must be one label a sample of x, shape \(5,\), got \(4,\)",
    ),
    "too many": (torch.cat([LABELS, LABELS]), ValueError, r"shape \(5,\), got \(10,\)"),
}
OUT_OF_RANGE = {"from one": LABELS + 1, "negative": LABELS - 1, "to be ignored": LABELS - 100}
WITH_LABELS = {
    "fit": lambda net, x, y: fit(net, x, y, epochs=1)[-1].weight.sum().item(),
    "gradient_penalty_loss": lambda net, x, y: gradient_penalty_loss(net, x, y, 1.0)[0].item(),
    "plain": lambda net, x, y: gradient_penalty_loss(net, x, y, 0.0)[0].item(),
    "accuracy": accuracy,
}


@pytest.mark.parametrize("function", WITH_LABELS)
@pytest.mark.parametrize("case", BAD_LABELS)
def test_bad_labels(function, case):
    y, error, message = BAD_LABELS[case]
    with pytest.raises(error, match=message):
        WITH_LABELS[function](mlp([4, 3]).eval(), X, y)


@pytest.mark.parametrize("function", ["fit", "gradient_penalty_loss", "plain"])
@pytest.mark.parametrize("case", OUT_OF_RANGE)
def test_labels_that_are_no_classes(function, case):
    net, y = mlp([4, 3]).eval(), OUT_OF_RANGE[case]
    with pytest.raises(IndexError, match=rf"0 … 2 .* got labels from {y.min()} to {y.max()}"):
        WITH_LABELS[function](net, X, y)
    assert not net.training


@pytest.mark.parametrize("function", WITH_LABELS)
def test_integers_of_any_width_are_labels(function):
    found = set()
    for dtype in (torch.int64, torch.int32, torch.int16, torch.uint8):
        torch.manual_seed(0)
        found.add(WITH_LABELS[function](mlp([4, 3]).eval(), X, LABELS.to(dtype)))
    assert len(found) == 1


@pytest.mark.parametrize("function", WITH_LABELS)
def test_training_on_nothing_and_by_what_returns_no_logits(function):
    call = WITH_LABELS[function]
    with pytest.raises(ValueError, match=r"x is empty.*at least one"):
        call(mlp([4, 3]), X[:0], LABELS[:0])
    with pytest.raises(TypeError, match=r"model\(x\) must be a tensor.*got tuple.*output\[0\]"):
        call(Returning(lambda logits: (logits, logits)), X, LABELS)
    with pytest.raises(ValueError, match="one logit column"):
        call(Returning(lambda logits: logits[:, :1]), X, 0 * LABELS)
    with pytest.raises(ValueError, match=r"batch = 5, got \(5, 3, 1\)"):
        call(Returning(lambda logits: logits[..., None]), X, LABELS)


@pytest.mark.parametrize("layer", [nn.Dropout(), nn.BatchNorm1d(4)])
def test_no_accuracy_in_train_mode_and_no_trace(layer):
    net = nn.Sequential(layer, nn.Linear(4, 3)).train()
    before = [b.clone() for b in (*net.buffers(), torch.get_rng_state())]
    for model in (net, lambda x: net(x)):
        with pytest.raises(ValueError, match=r"train mode.*model\.eval\(\)"):
            accuracy(model, X, LABELS)
    with pytest.raises(ValueError, match=r"draws random numbers.*model\.eval\(\)"):
        accuracy(lambda x: nn.functional.dropout(NET(x)), X, LABELS)
    assert all(map(torch.equal, before, (*net.buffers(), torch.get_rng_state())))
    net.eval()
    assert 0 <= accuracy(net, X, LABELS) <= 1


def test_models_that_cannot_be_trained():
    with pytest.raises(TypeError, match=r"model must be an nn\.Module with weights, got function"):
        fit(lambda x: NET(x), X, LABELS)
    for net in (mlp([4, 3]).requires_grad_(False), nn.Flatten()):
        with pytest.raises(ValueError, match=r"no weight to train.*requires_grad_\(True\)"):
            fit(net, X, LABELS)
    with pytest.raises(ValueError, match=r"x is not finite.*indices 2"):
        fit(mlp([4, 3]), nan_in_third_sample(), LABELS)
    for call in WITH_LABELS.values():
        with pytest.raises(ValueError, match=r"disagree in dtype.*x\.to\(dtype\)"):
            call(mlp([4, 3]), X.double(), LABELS)
    assert all(p.grad is None for p in fit(mlp([4, 3]), X, LABELS, epochs=1).parameters())


class Returning(nn.Module):
    """A network with something around its logits."""

    def __init__(self, wrap):
        super().__init__()
        self.net, self.wrap = mlp([4, 3]), wrap

    def forward(self, x):
        return self.wrap(self.net(x))


@pytest.mark.parametrize("function", FUNCTIONS)
def test_another_device(function):
    # "meta" is a device every machine has.
    with pytest.raises(ValueError, match=r"disagree in device.*meta.*cpu"):
        function(mlp([4, 8, 3]).eval().to("meta"), X)


BAD_MODELS = {
    "one column": (lambda x: x[:, :1], r"one logit column.*torch\.cat\(\[-psi / 2, psi / 2\]"),
    "one axis": (lambda x: x[:, 0], r"shape \(batch, n_classes\)"),
    "three axes": (lambda x: x[:, :, None], r"shape \(batch, n_classes\)"),
    "another batch": (lambda x: x[:2], r"batch = 5"),
    "NaN logits": (lambda x: x.log() * 0 / 0, r"model\(x\) is not finite"),
    "detached": (lambda x: x.detach(), r"carries no gradient.*no_grad"),
    "ignores x": (lambda x: torch.ones(5, 3, requires_grad=True) * 1, r"does not depend on x"),
}


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("case", BAD_MODELS)
def test_bad_model(function, case):
    logits, message = BAD_MODELS[case]
    with pytest.raises(ValueError, match=message):
        function(Around(logits), X)


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("layer", [nn.Dropout(), nn.BatchNorm1d(4), nn.RReLU()])
def test_train_mode(function, layer):
    net = nn.Sequential(nn.Linear(4, 4), layer, nn.Linear(4, 3)).train()
    with pytest.raises(ValueError, match=r"train mode.*layer '1'.*model\.eval\(\)"):
        function(net, X)
    function(net.eval(), X)


def test_train_mode_without_such_layers_is_fine():
    net = mlp([4, 8, 3]).train()
    assert torch.equal(saliency_map(net, X), saliency_map(net.eval(), X))


def test_batch_statistics_are_refused_in_eval_mode_too():
    net = nn.Sequential(nn.BatchNorm1d(4, track_running_stats=False), nn.Linear(4, 3)).eval()
    with pytest.raises(ValueError, match="mixes the samples"):
        saliency_map(net, X)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_a_model_that_mixes_samples_is_refused(function):
    net = Around(lambda x: x[:, :3] - x[:, :3].mean(0))
    with pytest.raises(ValueError, match="mixes the samples"):
        function(net, X)


@pytest.mark.parametrize(
    ("target", "error", "message"),
    [
        (3, IndexError, r"target must lie in 0 … 2"),
        (-1, IndexError, r"target must lie in 0 … 2"),
        (torch.tensor([0, 1, 2, 1, 7]), IndexError, "values from 0 to 7"),
        (torch.tensor([0, 1]), ValueError, r"shape \(5,\), got \(2,\)"),
        (1.0, TypeError, "target must hold class indices"),
        ("1", TypeError, "target must hold class indices"),
        ([0, None, 1, 2, 0], TypeError, "target must hold class indices"),
        (torch.ones(5, dtype=torch.bool), TypeError, "target must hold class indices"),
    ],
)
def test_bad_target(target, error, message):
    with pytest.raises(error, match=message):
        saliency_map(NET, X, target)


def test_bad_arguments():
    with pytest.raises(ValueError, match="top_k must be at least 1"):
        linearized_robustness(NET, X, top_k=0)
    with pytest.raises(ValueError, match="increasing pair"):
        minimal_l2(NET, X, bounds=(1, 0))
    with pytest.raises(ValueError, match=r"outside bounds.*bounds=None"):
        minimal_l2(NET, X + 3, bounds=(0, 1))


COUNTS = {
    "steps": lambda v: projected_gradient(NET, X, steps=v),
    "rounds": lambda v: projected_gradient(NET, X, rounds=v),
    "batch_size": lambda v: fit(mlp([4, 3]), X, LABELS, batch_size=v),
    "chunk_size": lambda v: measure(NET, X, chunk_size=v),
    "top_k": lambda v: linearized_robustness(NET, X, top_k=v),
    r"sizes\[1\]": lambda v: mlp([4, v, 3]),
    "widths": lambda v: SmallNet(widths=(v, 2, 2)),
    "n_classes": lambda v: SmallNet(n_classes=v),
    "size": load_sample_photographs,
    "columns": lambda v: image_grid(torch.rand(2, 8, 8), columns=v),
    "d": lambda v: alignment_of_noise(1.0, v),
}


@pytest.mark.parametrize("name", COUNTS)
def test_counts(name):
    for value in (0, -1):
        with pytest.raises(ValueError, match=f"^{name} must be at least 1, got {value}$"):
            COUNTS[name](value)
    with pytest.raises(ValueError, match=rf"^{name} must be below 2\*\*63, got {2**64}$"):
        COUNTS[name](2**64)
    for value in (2.0, 1.5, math.nan, "2", True, torch.tensor([2, 2]), torch.tensor(2.5)):
        with pytest.raises(
            TypeError, match=rf"^{name} must be an integer, got {re.escape(repr(value))}"
        ):
            COUNTS[name](value)
    for value in (np.int64(2), torch.tensor(2)):
        COUNTS[name](value)


@pytest.mark.parametrize(
    ("name", "value", "error", "message"),
    [
        ("epochs", -1, ValueError, "at least 0"),
        ("epochs", 1.5, TypeError, "an integer"),
        ("seed", -1, ValueError, "at least 0"),
        ("seed", "a", TypeError, "an integer"),
        ("learning_rate", -1.0, ValueError, "a number ≥ 0 and finite"),
        ("learning_rate", math.inf, ValueError, "a number ≥ 0 and finite"),
        ("learning_rate", "a", TypeError, "a number"),
        ("strength", -1, ValueError, "a number ≥ 0 and finite"),
        ("strength", math.inf, ValueError, "a number ≥ 0 and finite"),
        ("strength", math.nan, ValueError, "a number ≥ 0 and finite"),
        ("strength", "a", TypeError, "a number"),
        ("strength", torch.ones(2), TypeError, "a number"),
        ("seed", 2**63, ValueError, r"below 2\*\*63"),
    ],
)
def test_settings_of_training(name, value, error, message):
    net = mlp([4, 3])
    before = [p.clone() for p in net.parameters()]
    with pytest.raises(error, match=f"^{name} must be {message}, got {re.escape(repr(value))}"):
        fit(net, X, LABELS, **{"epochs": 1, name: value})
    assert all(map(torch.equal, before, net.parameters()))


@pytest.mark.parametrize(
    ("index", "error"), [(-1, IndexError), (3, IndexError), (1.0, TypeError), ("a", TypeError)]
)
def test_classes_to_binarize(index, error):
    """The message names the argument."""
    with pytest.raises(error, match=r"^j must"):
        binarize(NET, 0, index)(X)
    with pytest.raises(error, match=r"^i must"):
        binarize(NET, index, 0)(X)


def test_no_class_to_binarize():
    with pytest.raises(TypeError, match=r"^i must hold class indices"):
        binarize(NET, None, 0)


def test_alignment_arguments():
    g = torch.rand(5, 4)
    with pytest.raises(ValueError, match="one shape"):
        alignment(X, g[:, :2])
    with pytest.raises(ValueError, match="one shape"):
        alignment(X[:0], g[:0])
    with pytest.raises(TypeError, match="floating-point"):
        alignment(X.long(), g)
    with pytest.raises(ValueError, match=r"saliency\.to\(x\)"):
        alignment(X.double(), g)


def test_toy_arguments():
    with pytest.raises(ValueError, match="non-zero"):
        BinaryClassifier([0.0, 0.0])
    with pytest.raises(ValueError, match="disagree in dtype"):
        BinaryClassifier([1.0, 2.0]).robustness(torch.rand(3, 2))


def test_affine_classifier_of_scores_without_end_and_of_samples_of_another_size():
    with pytest.raises(ValueError, match=r"Ψ\(x\) is not finite"):
        AffineClassifier(torch.eye(3) * 1e30).robustness(1e20 * torch.rand(4, 3))
    with pytest.raises(ValueError, match=r"x has 4 entries a sample, but weight has rows of 3"):
        AffineClassifier(torch.eye(3)).robustness(torch.rand(4, 4))


# --- edge cases that are answers, not errors ---------------------------------


def test_zero_gradient_is_nan_for_its_sample_alone():
    net = Around(lambda x: torch.stack([x.relu().sum(1), -x.relu().sum(1) - 1], 1))
    x = torch.tensor([[1.0, 2.0], [-1.0, -2.0], [3.0, 0.5]])
    alpha = alignment(x, saliency_map(net, x))
    assert alpha.isnan().tolist() == [False, True, False]
    value = linearized_robustness(net, x).value
    assert value[1] == torch.inf
    assert value[[0, 2]].isfinite().all()


def test_tie_takes_the_first_class_and_gives_zero():
    net = Around(lambda x: torch.stack([x[:, 0], x[:, 0], x[:, 1]], 1))
    result = linearized_robustness(net, torch.tensor([[2.0, 1.0], [1.0, 2.0], [1.0, 1.0]]))
    assert result.prediction.tolist() == [0, 2, 0]
    assert result.value[2] == 0
    assert result.runner_up[[0, 2]].tolist() == [2, 2]  # the twin has no boundary with class 0
    torch.testing.assert_close(result.value[0], torch.tensor(0.5**0.5))


def test_failed_attack_is_infinite_not_zero():
    net = Around(lambda x: torch.stack([x.sum(1) * 0 + 1, x.sum(1) * 0], 1))
    result = minimal_l2(net, X)
    assert not result.success.any()
    assert (result.distance == torch.inf).all()
    assert result.adversarial.isnan().all()


def test_tiny_and_huge_gradients():
    plain = linearized_robustness(Around(lambda x: x), X).value
    for scale in (2.0**-100, 2.0**100):  # their squares leave the range of float32
        net = Around(lambda x, s=scale: x * s)
        torch.testing.assert_close(linearized_robustness(net, X).value, plain)
        assert alignment(X, saliency_map(net, X)).isfinite().all()


def test_inputs_and_parameters_are_left_alone():
    x = X.clone()
    net = mlp([4, 8, 3]).eval()
    for function in FUNCTIONS:
        function(net, x)
    assert torch.equal(x, X)
    assert not x.requires_grad
    assert all(p.grad is None for p in net.parameters())
