"""Random networks of the class to which the homogeneous decomposition applies, and their parts."""

import random

import torch
from torch import nn

from lesson_utils.models import Normalize


class Around(nn.Module):
    """A module around any function of x."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


class Residual(nn.Module):
    """x + block(x), with an in-place ReLU behind it as in torchvision's ResNets."""

    def __init__(self, block):
        super().__init__()
        self.block = block

    def forward(self, x):
        out = self.block(x)
        out += x
        return nn.functional.relu(out, inplace=True)


class Concatenate(nn.Module):
    """Outputs of two branches side by side, as in a DenseNet."""

    def __init__(self, *branches):
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x):
        return torch.cat([branch(x) for branch in self.branches], dim=1)


def activation(rng):
    return rng.choice(
        [
            nn.ReLU(),
            nn.ReLU(inplace=True),
            nn.LeakyReLU(rng.uniform(0.01, 0.5)),
            nn.PReLU(init=rng.uniform(0, 0.5)),
        ]
    )


def dense_net(rng, n):
    d = rng.randint(2, 12)
    layers, width = [nn.Flatten()], d
    for _ in range(rng.randint(1, 4)):
        following = rng.randint(3, 24)
        layers.append(nn.Linear(width, following, bias=rng.random() < 0.9))
        if rng.random() < 0.4:
            layers.append(nn.BatchNorm1d(following, affine=rng.random() < 0.7))
        layers.append(activation(rng))
        if rng.random() < 0.4:
            layers.append(Residual(nn.Linear(following, following)))
        width = following
    return nn.Sequential(*layers, nn.Dropout(0.5), nn.Linear(width, n)), (d,)


def conv_net(rng, n):
    channels, size = rng.choice([1, 3]), 8
    layers = [Normalize([0.4] * channels, [0.3] * channels)] if rng.random() < 0.5 else []
    width = channels
    for _ in range(rng.randint(1, 2)):
        following = rng.choice([4, 6])
        layers += [
            nn.Conv2d(width, following, 3, padding=1),
            nn.BatchNorm2d(following),
            activation(rng),
        ]
        if rng.random() < 0.5:
            layers.append(Residual(nn.Conv2d(following, following, 3, padding=1)))
        if rng.random() < 0.5:
            layers.append(Concatenate(nn.Conv2d(following, 3, 1), nn.AvgPool2d(3, 1, 1)))
            following += 3
        layers.append(rng.choice([nn.MaxPool2d(2), nn.AvgPool2d(2)]))
        width, size = following, size // 2
    if rng.random() < 0.5:
        layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, n)]
    else:
        layers += [nn.Flatten(), nn.Linear(width * size * size, n)]
    return nn.Sequential(*layers), (channels, 8, 8)


def random_net(seed, dtype=torch.float64):
    """A network in eval mode with random weights, biases and batch statistics, and its input shape."""
    rng = random.Random(seed)
    torch.manual_seed(seed % 2**31)
    make = dense_net if rng.random() < 0.6 else conv_net
    net, shape = make(rng, rng.randint(2, 20))
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.running_mean.normal_()
                module.running_var.uniform_(0.3, 2)
                if module.affine:
                    module.weight.normal_()
                    module.bias.normal_()
            elif getattr(module, "bias", None) is not None:
                module.bias.normal_()
    return net.to(dtype).eval(), shape


class PassesOn(nn.Module):
    """A wrapper that answers every question like what it wraps, as some trackers do."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def __getattr__(self, name):
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("inner"), name)

    def forward(self, x):
        return self.inner(x)
