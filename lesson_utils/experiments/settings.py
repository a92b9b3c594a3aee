"""The settings of an experiment, in groups, and the presets from `presets.toml`."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

SETS = "digits", "mnist", "tiny-imagenet"
"""The data sets that have a name; any other is a folder."""

DECODED_ONCE = 128
"""Photographs up to this size are decoded once and kept as bytes, larger ones anew each time."""


@dataclass(frozen=True)
class Data:
    """Images to train on and to measure."""

    data: str = "mnist"
    """digits, mnist, tiny-imagenet, or a folder with train/ and val/"""
    train_images: int = 60_000
    """of digits and MNIST: train on the first so many"""
    classes: int = 0
    """of photographs: keep so many classes, equally spaced; 0: all"""
    size: int = 64
    """of photographs: height and width in pixels"""
    workers: int = 0
    """of photographs of more than 128 pixels: processes that decode them"""


@dataclass(frozen=True)
class Network:
    """The network, and what its training starts from."""

    network: str = "smallnet"
    """smallnet, resnet18, resnet34, resnet50, resnet101, resnet152"""
    width: int = 64
    """of a residual network: channels of its first block"""
    weights: str = ""
    """all trainings start from: a file of weights, or `pretrained`; empty: from random weights"""


@dataclass(frozen=True)
class Recipe:
    """Stochastic gradient descent with momentum and step decay, by default the paper's for MNIST.

    From `mnist_example.ini` of the authors' code; their weight penalty 1e-6·‖w‖² is a
    `weight_decay` of 2e-6 in PyTorch, which adds weight_decay·w to the gradient.
    """

    epochs: int = 200
    """passes over the training images"""
    batch_size: int = 100
    """images a step, of all processes together"""
    learning_rate: float = 1e-3
    """length of a step through that of its gradient, at the beginning"""
    momentum: float = 0.9
    """share of the last step that is added to the next"""
    weight_decay: float = 2e-6
    """this times the weights is added to their gradient"""
    decay_every: int = 80
    """epochs after which the learning rate is multiplied by `decay_factor`, again and again"""
    decay_factor: float = 0.1
    """see `decay_every`"""
    augment: bool = False
    """mirror half of the images of a batch and shift it as a whole, by up to an eighth of its width"""
    clip: float = math.inf
    """scale the gradient of a step down to this length, if it is longer (Pascanu et al. 2013)"""
    freeze_statistics: bool = False
    """keep batch normalisation in eval mode: in train mode it couples the samples of a batch"""


@dataclass(frozen=True)
class Sweep:
    """The networks to train."""

    strengths: tuple[float, ...] = (0.0,)
    """values of λ, in the per-sample convention: λ times the mean of ‖∇ℓ‖², pixels in [0, 1]"""
    seeds: tuple[int, ...] = (0,)
    """seeds of weights, order of images, and dropout"""
    repeated: tuple[float, ...] = ()
    """those λ that are trained with every seed; the others with the first only"""
    tf32: bool = False
    """on a GPU: train with TF32 (measurements never use it)"""


@dataclass(frozen=True)
class Measuring:
    """What is measured of each network."""

    images: int = 1000
    """measure on the first so many test images"""
    attack_images: int = 1000
    """attack the first so many of them"""
    cw_rounds: int = 9
    """Carlini-Wagner: values of its constant"""
    cw_steps: int = 200
    """Carlini-Wagner: steps of Adam for each of them"""


@dataclass(frozen=True)
class Settings:
    """All that decides about a record beside the code and the machine."""

    data: Data = field(default_factory=Data)
    network: Network = field(default_factory=Network)
    training: Recipe = field(default_factory=Recipe)
    sweep: Sweep = field(default_factory=Sweep)
    measuring: Measuring = field(default_factory=Measuring)

    @classmethod
    def from_table(cls, table: Mapping) -> Settings:
        """Settings from a table of all groups, such as a record has.

        It may be older than some settings, which then have their default, or know more.
        """
        table = {k: tuple(v) if isinstance(v, list) else v for k, v in table.items()}
        groups = {}
        for group in fields(cls):
            known = [item.name for item in fields(group.default_factory)]
            groups[group.name] = group.default_factory(**{k: table[k] for k in known if k in table})
        return cls(**groups)

    def to_table(self) -> dict:
        """All groups in one table, by the name of the setting."""
        return {name: value for group in asdict(self).values() for name, value in group.items()}

    def change(self, **settings) -> Settings:
        """A copy with other values for some settings, named as in the command line.

        Raises
        ------
        TypeError
            There is no such setting.
        """
        table = self.to_table()
        if unknown := settings.keys() - table.keys():
            raise TypeError(f"there are no settings {sorted(unknown)}, only {sorted(table)}")
        return self.from_table(table | settings)

    def models(self) -> list[tuple[float, int]]:
        """Pairs (λ, seed): every λ with the first seed, the repeated ones with all."""
        first, *others = self.sweep.seeds
        plan = [(strength, first) for strength in self.sweep.strengths]
        return plan + [(strength, seed) for seed in others for strength in self.sweep.repeated]

    def check(self) -> None:
        """Refuse what no run could do.

        Raises
        ------
        ValueError
            The message names the setting.
        """
        if self.data.data not in SETS and not Path(self.data.data).is_dir():
            raise ValueError(f"data must be {', '.join(SETS)} or a folder, got {self.data.data!r}")
        sweep, measuring = self.sweep, self.measuring
        if not sweep.strengths or not sweep.seeds:
            raise ValueError("strengths and seeds must name at least one value each")
        if not set(sweep.repeated) <= set(sweep.strengths):
            raise ValueError(f"repeated must be strengths of the sweep, got {sweep.repeated}")
        may_be_zero = "classes", "workers"
        for name, value in self.to_table().items():
            least = 0 if name in may_be_zero else 1
            if type(value) is int and value < least:
                raise ValueError(f"{name} must be at least {least}, got {value}")
        if measuring.attack_images > measuring.images:
            raise ValueError("attack_images are the first of images: there cannot be more of them")


_presets = tomllib.loads(Path(__file__).with_name("presets.toml").read_text(encoding="utf-8"))
PRESETS = {name: Settings.from_table(table) for name, table in _presets.items()}
"""The experiments, from `presets.toml`."""
