"""How long things take, as ratios within one run: `make benchmark`.

Compare the rows of one group; the absolute times depend on the machine.
"""

import foolbox
import pytest
import torch
from torch.func import jacrev, vmap

from lesson_utils import homogeneous_decomposition, linearized_robustness, measure, minimal_l2
from lesson_utils.data import load_digits
from lesson_utils.models import SmallNet, mlp, resnet
from lesson_utils.training import fit, gradient_penalty_loss

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.fixture(scope="module")
def case():
    """256 images of 28×28 pixels, ten classes, the paper's MNIST network."""
    torch.manual_seed(0)
    return SmallNet().eval(), torch.rand(256, 1, 28, 28)


def one_forward_n_backward(model, x):
    x = x.clone().requires_grad_(True)
    logits = model(x)
    for i in range(logits.shape[1]):
        torch.autograd.grad(logits[:, i].sum(), x, retain_graph=True)


def by_vmap(model, x):
    jacobian = vmap(jacrev(lambda one: model(one[None])[0]), chunk_size=64)(x)
    logits = model(x).detach()
    first = logits.argmax(1)
    rows = torch.arange(len(x))
    margins = logits[rows, first][:, None] - logits
    lengths = (jacobian[rows, first][:, None] - jacobian).flatten(2).norm(dim=2)
    return (margins / lengths).nan_to_num(nan=torch.inf).amin(1)


@pytest.mark.benchmark(group="linearized robustness, 256 × 28×28, 10 classes")
@pytest.mark.parametrize(
    "function",
    [linearized_robustness, one_forward_n_backward, by_vmap],
    ids=["lesson_utils", "1 forward + 10 backward", "vmap(jacrev)"],
)
def test_linearized_robustness(benchmark, case, function):
    benchmark.pedantic(function, case, rounds=15, warmup_rounds=2)


def by_foolbox(model, x):
    wrapped = foolbox.PyTorchModel(model, bounds=(-1e3, 1e3))
    label = model(x).argmax(1)
    best = torch.full((len(x),), torch.inf)
    for attack in (foolbox.attacks.L2DeepFoolAttack(), foolbox.attacks.DDNAttack()):
        adversarial, _, _ = attack(wrapped, x, label, epsilons=None)
        best = torch.minimum(best, (adversarial - x).flatten(1).norm(dim=1))
    return best


def ours(model, x):
    return minimal_l2(model, x).distance


@pytest.mark.parametrize("net", ["mlp", "smallnet"])
@pytest.mark.parametrize("function", [ours, by_foolbox], ids=["lesson_utils", "foolbox"])
def test_minimal_l2(benchmark, function, net):
    benchmark.group = f"closest adversary, 200 digits, {net}"
    digits = load_digits()
    torch.manual_seed(0)
    model = mlp([64, 100, 10]) if net == "mlp" else SmallNet((1, 8, 8))
    fit(model, digits.x_train, digits.y_train, epochs=10)
    distance = benchmark.pedantic(function, (model, digits.x_test[:200]), rounds=3, warmup_rounds=1)
    benchmark.extra_info["median distance"] = distance.median().item()
    print(f"\nmedian distance: {distance.median():.4f}")


def one_forward_one_backward(model, x):
    x = x.clone().requires_grad_(True)
    torch.autograd.grad(model(x).amax(1).sum(), x)


def one_forward_two_backward(model, x):
    x = x.clone().requires_grad_(True)
    score = model(x).amax(1).sum()
    torch.autograd.grad(score, x, retain_graph=True)
    torch.autograd.grad(score, x)


@pytest.mark.benchmark(group="every term of the bound, 256 × 28×28, 10 classes")
@pytest.mark.parametrize(
    "function", [measure, one_forward_n_backward], ids=["measure", "1 forward + 10 backward"]
)
def test_measure(benchmark, case, function):
    benchmark.pedantic(function, case, rounds=15, warmup_rounds=2)


@pytest.mark.benchmark(group="every term of the bound, ResNet-18, 2 × 3×224×224, 1,000 classes")
@pytest.mark.parametrize(
    "function", [measure, one_forward_n_backward], ids=["measure", "1 forward + 1,000 backward"]
)
def test_measure_many_classes(benchmark, function):
    torch.manual_seed(0)
    case = resnet(18, 1000, width=16).eval(), torch.rand(2, 3, 224, 224)
    benchmark.pedantic(function, case, rounds=3)


@pytest.mark.benchmark(group="contributions of all layers, 256 × 28×28")
@pytest.mark.parametrize(
    "function",
    [homogeneous_decomposition, one_forward_one_backward, one_forward_two_backward],
    ids=["lesson_utils", "1 forward + 1 backward", "1 forward + 2 backward"],
)
def test_layer_contributions(benchmark, case, function):
    benchmark.pedantic(function, case, rounds=15, warmup_rounds=2)


def timed(function):
    """The function, and then whatever it has left for the GPU to do."""

    def call(*arguments):
        function(*arguments)
        if DEVICE == "cuda":
            torch.cuda.synchronize()

    return call


@pytest.mark.benchmark(
    group=f"forward and backward of a training step, batch of 100 28×28, {DEVICE}"
)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("strength", [0.0, 1.0], ids=["plain", "double backward"])
def test_training_step(benchmark, strength, layout):
    torch.manual_seed(0)
    net = SmallNet().to(DEVICE, memory_format=layout)
    x, y = torch.rand(100, 1, 28, 28, device=DEVICE), torch.randint(0, 10, (100,), device=DEVICE)

    def step():
        net.zero_grad()
        gradient_penalty_loss(net, x, y, strength)[0].backward()

    benchmark.pedantic(timed(step), rounds=15, warmup_rounds=3)
