"""`train`: the paper's loop, alone and together, interrupted and not."""

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from lesson_utils import training
from lesson_utils.models import SmallNet, mlp
from lesson_utils.training import Recipe, train

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
    (history,) = train([net], *images, strengths=[strength], seeds=[seed], recipe=recipe, **options)
    return history


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
            order = training._start_epoch(epoch, [0], len(x))[0]
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


def test_every_epoch_has_its_own_order_of_all_images():
    first, second = (training._start_epoch(epoch, [0, 1], 20) for epoch in (0, 1))
    assert torch.equal(first.sort(1).values, torch.arange(20).expand(2, -1))
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(first[0], second[0])


def test_together_is_one_by_one_without_dropout(images):
    """Convolution, max pooling and double backward under vmap, in float64."""
    x, y = images[0].double(), images[1]
    strengths, seeds = [0.0, 0.3, 3.0, 0.3], [0, 0, 0, 3]
    make = [lambda seed=seed: smallnet(seed, dropout=False, dtype=x.dtype) for seed in seeds]
    together, single = [net() for net in make], [net() for net in make]
    options = {"recipe": RECIPE, "strengths": strengths, "seeds": seeds}
    histories = train(together, x, y, **options)
    for k, net in enumerate(single):
        alone = one(net, (x, y), strengths[k], seed=seeds[k])
        torch.testing.assert_close(weights(together[k]), weights(net), rtol=1e-9, atol=1e-9)
        assert histories[k].losses == pytest.approx(alone.losses, rel=1e-9)
    # and the four did become four different models
    assert all((weights(together[0]) - weights(net)).abs().max() > 1e-3 for net in together[1:])


def test_dropout_differs_between_models_trained_together(images):
    nets = [smallnet(0), smallnet(0)]
    train(nets, *images, recipe=RECIPE, strengths=[0.0, 0.0], seeds=[0, 0])
    assert not torch.equal(weights(nets[0]), weights(nets[1]))


@pytest.mark.parametrize("team", [1, 2])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_resumed_training_ends_in_the_same_bits(images, tmp_path, monkeypatch, team, momentum):
    recipe = Recipe(epochs=4, batch_size=50, learning_rate=0.5, decay_every=2, momentum=momentum)
    options = {"recipe": recipe, "strengths": [0.1, 1.0][:team], "seeds": [0, 1][:team]}

    def run(checkpoint=None):
        nets = [smallnet(seed) for seed in range(team)]
        histories = train(nets, *images, checkpoint=checkpoint, **options)
        return torch.stack([weights(net) for net in nets]), [h.losses for h in histories]

    def write_and_keep(path, content, write=training.write):
        snapshots.append(content)
        write(path, content)

    whole, losses = run()
    snapshots = []  # the checkpoint of each epoch
    monkeypatch.setattr(training, "write", write_and_keep)
    run(tmp_path / "state")
    assert len(snapshots) == 4
    for snapshot in snapshots:
        (tmp_path / "state").write_bytes(snapshot)
        resumed, resumed_losses = run(tmp_path / "state")
        assert torch.equal(resumed, whole)
        assert resumed_losses == losses


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


def test_a_diverged_model_does_not_disturb_the_others(images):
    x, y = images[0].double(), images[1]
    nets = [smallnet(0, dropout=False, dtype=x.dtype) for _ in range(2)]
    good, bad = train(nets, x, y, recipe=RECIPE, strengths=[0.1, 1e300], seeds=[0, 0])
    alone = smallnet(0, dropout=False, dtype=x.dtype)
    one(alone, (x, y), 0.1)
    torch.testing.assert_close(weights(nets[0]), weights(alone), rtol=1e-9, atol=1e-9)
    assert bad.diverged == 0
    assert good.diverged is None


def test_input_is_checked(images):
    options = {"recipe": RECIPE, "seeds": [0]}
    with pytest.raises(ValueError, match="at least one model"):
        train([], *images, strengths=[], seeds=[], recipe=RECIPE)
    with pytest.raises(ValueError, match="one strength and one seed"):
        train([smallnet()], *images, strengths=[0.0, 1.0], **options)
    with pytest.raises(ValueError, match="numbers ≥ 0"):
        train([smallnet()], *images, strengths=[float("nan")], **options)


def test_progress_goes_to_the_error_stream_if_asked_for(images, capsys):
    for shown in (False, True):
        one(mlp([64, 10]), images, 0.5, progress=shown)
        bar = capsys.readouterr().err
        assert ("λ = 0.5" in bar) == shown
    steps = 4 * -(-len(images[0]) // 50)
    assert f"{steps}/{steps}" in bar
