"""`train`: the paper's loop, interrupted and not."""

import contextlib
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, scaled_dot_product_attention
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, TensorDataset

from lesson_utils.experiments import train as module
from lesson_utils.experiments.depthwise import DepthwiseTwice
from lesson_utils.experiments.settings import Recipe
from lesson_utils.experiments.train import flip_and_shift, seed_epoch, train
from lesson_utils.models import SmallNet, mlp
from lesson_utils.training import backward, fit, gradient_penalty_loss

RECIPE = Recipe(epochs=4, batch_size=50, learning_rate=0.5, decay_every=3)


@pytest.fixture(scope="module")
def images(digits):
    return digits.x_train[:220], digits.y_train[:220]


def smallnet(seed=0, dropout=True, dtype=torch.float32):
    torch.manual_seed(seed)
    net = SmallNet((1, 8, 8), widths=(4, 8, 8), hidden=16).to(dtype)
    if not dropout:
        net[-2] = nn.Identity()
    return net


def one(net, images, strength=0.0, *, seed=0, recipe=RECIPE, **options):
    images = images if isinstance(images, DataLoader) else TensorDataset(*images)
    return train(net, images, strength=strength, seed=seed, recipe=recipe, **options)


def weights(net):
    return torch.cat([p.detach().flatten() for p in net.parameters()])


def test_strength_zero_is_plain_training_bit_for_bit(images):
    x, y = images
    ours = smallnet()
    history = one(ours, images)
    # The same in the words of PyTorch alone, dropout included.
    plain = smallnet().to(memory_format=torch.channels_last)
    sgd = torch.optim.SGD(plain.parameters(), lr=0.5, momentum=0.9, weight_decay=2e-6)
    schedule = torch.optim.lr_scheduler.StepLR(sgd, step_size=3, gamma=0.1)
    with torch.random.fork_rng():
        for epoch in range(4):
            total = 0.0
            order = seed_epoch(epoch, 0, len(x))
            for batch in order.split(50):
                sgd.zero_grad()
                loss = cross_entropy(plain(x[batch]), y[batch])
                loss.backward()
                sgd.step()
                total += loss.item() * len(batch)
            schedule.step()
    assert torch.equal(weights(ours), weights(plain))
    assert history.losses[-1] == pytest.approx(total / len(x), rel=1e-6)
    assert history.losses[-1] < history.losses[0]
    assert not ours.training


def test_seed_decides_order_and_dropout_and_the_global_state_stays(images):
    state = torch.random.get_rng_state()
    nets = {}
    for name, seed in (("first", 0), ("again", 0), ("other", 1)):
        nets[name] = smallnet()
        torch.random.set_rng_state(state)
        one(nets[name], images, seed=seed)
        assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(weights(nets["first"]), weights(nets["again"]))
    assert not torch.equal(weights(nets["first"]), weights(nets["other"]))


def test_every_epoch_and_seed_has_its_own_order_of_all_images():
    first, second, other = (seed_epoch(*which, 20) for which in ((0, 0), (1, 0), (0, 1)))
    assert torch.equal(first.sort().values, torch.arange(20))
    assert not torch.equal(first, second)
    assert not torch.equal(first, other)


def batch_norm():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10)
    )


def reused():
    """Frozen, unused and tied weights, and one layer under two names."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), *(nn.Linear(64, 64) for _ in range(4)), nn.Linear(64, 10))
    net[1].requires_grad_(False)
    net[2].weight = net[3].weight
    net[4] = net[3]
    net.unused = nn.Identity()
    net.unused.weight = nn.Parameter(torch.ones(3))
    return net


@pytest.mark.parametrize("make", [smallnet, batch_norm, reused])
@pytest.mark.parametrize(
    "kind", [{"momentum": 0.0}, {"momentum": 0.9}, {"optimizer": "adam", "learning_rate": 0.01}]
)
def test_resumed_training_ends_in_the_same_bits(images, tmp_path, monkeypatch, make, kind):
    options = {
        "epochs": 4,
        "batch_size": 50,
        "learning_rate": 0.1,
        "decay_every": 2,
        "augment": True,
    }
    recipe = Recipe(**options | kind)

    def run(checkpoint=None):
        net = make()
        strength = 0.0 if make is batch_norm else 0.1
        history = one(net, images, strength, recipe=recipe, checkpoint=checkpoint)
        return torch.cat([v.flatten().double() for v in net.state_dict().values()]), history.losses

    def store_and_keep(path, tensors, notes, store=module.store):
        store(path, tensors, notes)
        snapshots.append(path.read_bytes())

    whole, losses = run()
    snapshots = []  # the checkpoint of each epoch
    monkeypatch.setattr(module, "store", store_and_keep)
    run(tmp_path / "state")
    assert len(snapshots) == 4
    for snapshot in snapshots:
        (tmp_path / "state").write_bytes(snapshot)
        resumed, resumed_losses = run(tmp_path / "state")
        assert torch.equal(resumed, whole)
        assert resumed_losses == losses


def test_frozen_statistics_stay(images):
    for frozen in (True, False):
        net = batch_norm()
        before = net[1].running_mean.clone()
        one(net, images, recipe=replace(RECIPE, freeze_statistics=frozen, learning_rate=0.01))
        assert torch.equal(net[1].running_mean, before) == frozen
        assert not net[1].training


def test_clipping_shortens_a_long_step_and_leaves_a_short_one(images):
    def step(clip):
        recipe = Recipe(1, 220, learning_rate=0.5, momentum=0.0, weight_decay=0.0, clip=clip)
        net = smallnet(dtype=torch.float64)
        before = weights(net)
        one(net, (images[0].double(), images[1]), 0.1, recipe=recipe)
        return weights(net) - before

    whole = step(torch.inf)
    length = whole.norm() / 0.5  # of the gradient
    short = step(length.item() / 3)
    torch.testing.assert_close(short, whole / 3, rtol=1e-5, atol=1e-9)  # PyTorch adds 1e-6
    assert torch.equal(step(length.item() * 3), whole)


def test_bytes_are_pixels(images):
    x, y = (images[0] * 255).round().byte(), images[1]
    from_bytes, from_floats = smallnet(), smallnet()
    one(from_bytes, (x, y), 0.1)
    one(from_floats, (x / 255, y), 0.1)
    assert torch.equal(weights(from_bytes), weights(from_floats))


def test_loader_gives_the_same_as_tensors(images):
    """One batch an epoch, so that the order plays no part."""
    x, y = images[0].double(), images[1]
    recipe = replace(RECIPE, batch_size=len(x), learning_rate=0.05)
    by_tensor, by_loader = (smallnet(dropout=False, dtype=x.dtype) for _ in range(2))
    one(by_tensor, (x, y), 0.1, recipe=recipe)
    loader = DataLoader(TensorDataset(x, y), batch_size=len(x))
    history = one(by_loader, loader, 0.1, recipe=recipe)
    torch.testing.assert_close(weights(by_loader), weights(by_tensor), rtol=1e-9, atol=1e-9)
    assert len(history.losses) == 4


def test_augmented_images_are_mirrored_and_shifted():
    torch.manual_seed(0)
    x = torch.arange(64.0).view(1, 1, 8, 8).expand(200, 3, 8, 8)
    rows, columns = set(), set()
    for _ in range(60):
        seen = flip_and_shift(x)
        assert seen.shape == x.shape
        assert torch.equal(seen[:, 0], seen[:, 2])  # channels move together
        inner = seen[:, 0, 2:6, 2:6]  # a shift by at most one pixel leaves these in the image
        plain = inner[:, 0, 1] > inner[:, 0, 0]  # to the right brighter: not mirrored
        assert 0.3 < plain.double().mean() < 0.7
        rows |= set((inner[plain][:, 0, 0] // 8).int().tolist())
        columns |= set((inner[plain][:, 0, 0] % 8).int().tolist())
    assert rows == columns == {1, 2, 3}


def test_checkpoint_of_another_training_is_refused(images, tmp_path):
    one(smallnet(), images, 0.1, checkpoint=tmp_path / "state")
    with pytest.raises(ValueError, match="belongs to another training"):
        one(smallnet(), images, 0.2, checkpoint=tmp_path / "state")
    with pytest.raises(ValueError, match="belongs to another training"):
        one(smallnet(), images, 0.1, seed=1, checkpoint=tmp_path / "state")


@pytest.mark.parametrize("strength", [0.0, 1e30])
def test_divergence_is_noticed(images, strength):
    rate = 1e30 if strength == 0 else 0.5
    recipe = Recipe(epochs=5, batch_size=50, learning_rate=rate)
    history = one(smallnet(), images, strength, recipe=recipe)
    assert history.diverged is not None
    assert history.diverged < 4
    assert len(history.losses) == history.diverged


def test_input_is_checked(images):
    for strength in (-1.0, float("nan")):
        with pytest.raises(ValueError, match="number ≥ 0"):
            one(smallnet(), images, strength)


def test_progress_goes_to_the_error_stream_if_asked_for(images, capsys):
    for shown in (False, True):
        one(mlp([64, 10]), images, 0.5, progress=shown)
        bar = capsys.readouterr().err
        assert ("λ = 0.5" in bar) == shown
    steps = 4 * -(-len(images[0]) // 50)
    assert f"{steps}/{steps}" in bar


def test_a_penalty_beside_batch_statistics_is_refused(images):
    recipe = replace(RECIPE, epochs=1, learning_rate=0.01)
    with pytest.raises(ValueError, match=r"layer '1' \(BatchNorm2d\).*freeze_statistics=True"):
        one(batch_norm(), images, 0.1, recipe=recipe)
    frozen = one(batch_norm(), images, 0.1, recipe=replace(recipe, freeze_statistics=True))
    assert frozen.diverged is None


def test_a_single_image_left_over_joins_the_batch_before_it(images):
    x, y = images
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8), nn.Linear(8, 10))
    sizes = []
    net.register_forward_hook(lambda module, inputs, output: sizes.append(len(output)))
    one(net, (x[:21], y[:21]), recipe=replace(RECIPE, epochs=1, batch_size=5))
    assert sizes == [5, 5, 5, 6]
    sizes.clear()
    net[2].eval()  # no statistics are taken: no reason to change a batch
    recipe = replace(RECIPE, epochs=1, batch_size=5, freeze_statistics=True)
    one(net, (x[:21], y[:21]), recipe=recipe)
    assert sizes == [5, 5, 5, 5, 1]


def test_attention_is_trained_with_a_penalty(images):
    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.key, self.head = nn.Linear(8, 8), nn.Linear(64, 10)

        def forward(self, x):
            rows = self.key(x.flatten(1).view(-1, 1, 8, 8))
            mixed = nn.functional.scaled_dot_product_attention(rows, rows, rows)
            return self.head(mixed.flatten(1))

    torch.manual_seed(0)
    recipe = replace(RECIPE, learning_rate=0.1)
    history = one(Attention(), images, 0.1, recipe=recipe)
    assert history.losses[-1] < history.losses[0]


@pytest.mark.parametrize("stride, padding, dilation", [(1, 1, 1), (2, 0, 1), ((2, 1), (0, 2), 2)])
def test_depthwise_convolutions_twice_differentiated_are_pytorchs(stride, padding, dilation):
    def objective(double):
        torch.manual_seed(0)
        shape = {"stride": stride, "padding": padding, "dilation": dilation, "bias": False}
        net = nn.Sequential(
            nn.Conv2d(3, 6, 3), nn.Softplus(), nn.Conv2d(6, 6, 3, groups=6, **shape),
            nn.Softplus(), nn.Conv2d(6, 12, 2, groups=6, bias=False), nn.Flatten(), nn.LazyLinear(4),
        ).double()  # fmt: skip
        x, y = torch.rand(5, 3, 11, 12, dtype=torch.float64), torch.arange(5) % 4
        net(x)  # makes the last layer
        with double:
            loss, penalty = gradient_penalty_loss(net, x, y, 3.0)
        loss.backward()
        return [loss, penalty, *(p.grad for p in net.parameters())]

    calls = []
    plain, fast = objective(contextlib.nullcontext()), objective(counted(calls))
    assert len(calls) == 2  # of the two convolutions in groups
    for a, b in zip(plain, fast, strict=True):
        torch.testing.assert_close(b, a, rtol=1e-10, atol=1e-12)


def counted(calls):
    """The context, which notes each convolution that it takes over."""

    class Counted(DepthwiseTwice):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            output = super().__torch_function__(func, types, args, kwargs)
            name = type(getattr(output, "grad_fn", None)).__name__
            calls.extend([name] * (name == "_ConvolutionBackward"))
            return output

    return Counted()


class WithState(nn.Module):
    """A network with something in its state that is no dense tensor."""

    def __init__(self, kind):
        super().__init__()
        self.net = mlp([64, 10])
        made = {"sparse": torch.eye(3).to_sparse(), "expanded": torch.ones(1).expand(9)}
        self.register_buffer("a", made.get(kind))

    def forward(self, x):
        return self.net(x)


class WithExtraState(WithState):
    def get_extra_state(self):
        return {"steps": 3}

    def set_extra_state(self, state):
        pass


@pytest.mark.parametrize("kind", ["sparse", "expanded", "extra"])
def test_what_no_checkpoint_can_hold_is_refused_before_the_first_step(kind, images, tmp_path):
    net, told = {"extra": WithExtraState}.get(kind, WithState)(kind), []
    recipe = replace(RECIPE, epochs=1)
    images = images[0].flatten(1), images[1]
    options = {"recipe": recipe, "after_epoch": told.append}
    with pytest.raises(ValueError, match=r"which a checkpoint cannot hold.*without checkpoint"):
        one(net, images, checkpoint=tmp_path / "a", **options)
    assert not told
    one(net, images, **options)
    assert told


@pytest.mark.parametrize("memory", ["tensors", "loader"])
def test_after_a_failure_the_model_answers_as_one_that_is_done(memory):
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(4 * 36, 3))
    x, y = torch.rand(8, 1, 8, 8, requires_grad=True), torch.full((8,), 7)  # no class of the model
    images = TensorDataset(x, y)
    with pytest.raises(IndexError, match="0 … 2"):
        data = images if memory == "tensors" else DataLoader(images, 4)
        train(net, data, strength=0.0, recipe=Recipe(epochs=1))
    assert not any(module.training for module in net.modules())
    assert x.grad is None and net[0].weight.is_contiguous()


class Attention(nn.Module):
    """Attention inside a checkpoint, which calls it again in each backward pass."""

    def __init__(self):
        super().__init__()
        self.embed, self.qkv, self.head = nn.Linear(4, 8), nn.Linear(8, 24), nn.Linear(8, 3)

    def block(self, z):
        q, k, v = self.qkv(z).unflatten(2, (3, 2, 4)).movedim(2, 0).transpose(2, 3)
        return z + scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)

    def forward(self, x, again=True):
        z = self.embed(x)
        z = checkpoint(self.block, z, use_reentrant=False) if again else self.block(z)
        return self.head(z.mean(1))


def test_attention_in_a_checkpoint():
    torch.manual_seed(0)
    net, x, y = Attention(), torch.rand(4, 5, 4), torch.tensor([0, 1, 2, 0])
    slopes = []
    for model in (net, lambda x: net(x, again=False)):
        loss, _ = gradient_penalty_loss(model, x, y, 1.0)
        backward(loss, 1.0)
        slopes.append([p.grad.clone() for p in net.parameters()])
        net.zero_grad()
    torch.testing.assert_close(*slopes)
    for strength in (0.0, 1.0):
        fit(net, x, y, strength=strength, epochs=1)
        recipe = Recipe(epochs=1, batch_size=2)
        train(net, TensorDataset(x, y), strength=strength, recipe=recipe)
