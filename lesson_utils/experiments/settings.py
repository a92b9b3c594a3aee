"""The settings of an experiment, in groups, and the presets from `presets.toml`."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

from ..files import UserError
from ..records import name_of, pairs_of

SETS = "digits", "mnist", "tiny-imagenet", "imagenette"
"""The data sets that have a name; any other is a folder."""

DECODED_ONCE = 128
"""Photographs up to this size are decoded once and kept as bytes, larger ones anew each time."""

RESNETS = "resnet18", "resnet34", "resnet50", "resnet101", "resnet152"
NETWORKS = "smallnet", "efficientnet-lite0", *RESNETS

_COUNTS = (
    *("train_images", "size", "epochs", "batch_size", "decay_every"),
    *("images", "attack_images", "cw_rounds", "cw_steps"),
)
RANGES = {
    "finite and at least 0": (lambda v: 0 <= v < math.inf, ("strengths", "weight_decay")),
    "finite and more than 0": (lambda v: 0 < v < math.inf, ("learning_rate", "score_scale")),
    "more than 0; inf: no clipping": (lambda v: v > 0, ("clip",)),
    "at least 0 and less than 1": (lambda v: 0 <= v < 1, ("momentum",)),
    "more than 0 and at most 1": (lambda v: 0 < v <= 1, ("decay_factor",)),
    "at least 0": (lambda v: v >= 0, ("workers",)),
    "0 … 2^63 − 1": (lambda v: 0 <= v < 2**63, ("seeds",)),
    "0, for all, or at least 2": (lambda v: v == 0 or v >= 2, ("classes",)),
    "at least 8": (lambda v: v >= 8, ("width",)),
    "at least 1": (lambda v: v >= 1, _COUNTS),
    "sgd or adam": (lambda v: v in ("sgd", "adam"), ("optimizer",)),
    ", ".join(NETWORKS): (lambda v: v in NETWORKS, ("network",)),
}
"""What a setting may be: a test, and the settings that must pass it, each value of a list."""

KINDS = {
    "int": (int, "a whole number"),
    "float": ((int, float), "a number"),
    "bool": (bool, "of type bool"),
    "str": (str, "of type str"),
}
"""Types of a setting, by the name of its type."""


@dataclass(frozen=True)
class Data:
    """Images to train on and to measure."""

    data: str = "mnist"
    """digits, mnist, tiny-imagenet, imagenette, or a folder with train/ and val/"""
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
    """smallnet, efficientnet-lite0, resnet18, resnet34, resnet50, resnet101, resnet152"""
    width: int = 64
    """of a residual network: channels of its first block"""
    weights: str = ""
    """all trainings start from: a file of weights, or `pretrained`; empty: from random weights"""
    score_scale: float = 1.0
    """all trainings start from scores times this: the decisions are the same, but where a network is
    less sure of itself, all images have a gradient of the loss, and not the misread ones alone"""


@dataclass(frozen=True)
class Recipe:
    """Optimizer and step decay, by default the paper's for MNIST.

    From `mnist_example.ini` of the authors' code; their weight penalty 1e-6·‖w‖² is a
    `weight_decay` of 2e-6 in PyTorch, which adds weight_decay·w to the gradient.
    """

    epochs: int = 200
    """passes over the training images"""
    batch_size: int = 100
    """images a step, of all processes together"""
    optimizer: str = "sgd"
    """sgd: stochastic gradient descent; adam: steps in units of each weight's usual gradient, with
    `momentum` for β₁ and 0.99 for β₂"""
    learning_rate: float = 1e-3
    """length of a step through that of its gradient, at the beginning"""
    momentum: float = 0.9
    """share of the last steps that goes into the next"""
    weight_decay: float = 2e-6
    """this times the weights is added to their gradient"""
    decay_every: int = 80
    """epochs after which the learning rate is multiplied by `decay_factor`, again and again"""
    decay_factor: float = 0.1
    """see `decay_every`"""
    augment: bool = False
    """mirror half of the images of a batch and shift it as a whole, by up to an eighth of its width;
    photographs of more than 128 pixels always are cut at random and mirrored by half"""
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
        return pairs_of(self.to_table())

    def weights_file(self) -> Path | None:
        """The file of weights that all trainings start from, if there is one."""
        weights = self.network.weights
        return None if weights in ("", "pretrained") else Path(weights)

    def deciding(self) -> dict:
        """The settings that decide about weights, and nothing else: no paths, no idle options.

        λ, seed, and the checksums of images and of weights to start from decide as well.
        """
        start = "file" if self.weights_file() else self.network.weights
        photographs = self.data.data not in SETS[:2]
        idle = {
            "width": self.network.network not in RESNETS,
            "score_scale": self.network.score_scale == 1,
            "optimizer": self.training.optimizer == "sgd",
            "freeze_statistics": self.network.network == "smallnet",  # no batch normalisation
            "size": not photographs,
            "augment": photographs and self.data.size > DECODED_ONCE,
        }
        table = self.to_table() | {"weights": start}
        others = "network", "weights", "width", "score_scale", "size", "tf32"
        names = [name for name in (*asdict(self.training), *others) if not idle.get(name)]
        return {name: table[name] for name in names}

    def deciding_values(self) -> dict:
        """As :meth:`deciding`, for what is measured of a network; `attack_images` may grow."""
        measuring = asdict(self.measuring)
        del measuring["attack_images"]
        return measuring

    def check(self) -> None:
        """Refuse what no run could do, or what would mean nothing.

        Raises
        ------
        ValueError
            The message names the setting.
        """
        kinds = {f.name: f.type for group in fields(self) for f in fields(group.default_factory)}
        for name, value in self.to_table().items():
            known, words = KINDS[kinds[name].removeprefix("tuple[").removesuffix(", ...]")]
            for v in value if isinstance(value, tuple) else (value,):
                if not isinstance(v, known) or isinstance(v, bool) != (known is bool):
                    raise UserError(f"{name} must be {words}, got {value!r}")
        for words, (test, names) in RANGES.items():
            for name in names:
                value = self.to_table()[name]
                if not all(map(test, value if isinstance(value, tuple) else (value,))):
                    raise UserError(f"{name} must be {words}, got {value}")
        self._check_sweep()
        self._check_meaning()

    def _check_sweep(self) -> None:
        sweep = self.sweep
        if not sweep.strengths or not sweep.seeds:
            raise UserError("strengths and seeds must name at least one value each")
        if not set(sweep.repeated) <= set(sweep.strengths):
            raise UserError(f"repeated must be strengths of the sweep, got {sweep.repeated}")
        for name in ("strengths", "repeated", "seeds"):
            values = getattr(sweep, name)
            written = values if name == "seeds" else [name_of(strength, 0) for strength in values]
            if len(set(written)) < len(written):
                raise UserError(
                    f"{name} must be different, to six significant digits, got {values}"
                )
        if self.measuring.attack_images > self.measuring.images:
            raise UserError("attack_images are the first of images: there cannot be more of them")

    def _check_meaning(self) -> None:
        data, network = self.data, self.network
        if data.data not in SETS and not Path(data.data).is_dir():
            raise UserError(f"data must be {', '.join(SETS)} or a folder, got {data.data!r}")
        photographs, small = data.data not in SETS[:2], network.network == "smallnet"
        large = photographs and data.size > DECODED_ONCE
        if not (photographs or small):
            raise UserError(f"network must be smallnet for {data.data}, whose images are grey")
        if small and photographs and data.size < 8:
            raise UserError(f"size must be at least 8 for smallnet, got {data.size}")
        if self.training.freeze_statistics and not (small or network.weights):
            raise UserError(
                "freeze_statistics keeps those that the network begins with: name the weights of "
                "one that was trained before (weights; the presets NAME-base train one)"
            )
        if network.weights == "pretrained":
            known = large and network.network in RESNETS and network.width == 64
            known = known and data.classes in (0, 1000)
            if network.network == "efficientnet-lite0":
                known = data.classes == (0 if data.data == "imagenette" else 1000)
            if not known:
                raise UserError(
                    "weights are pretrained for residual networks of width 64, 1000 classes and "
                    f"photographs of more than {DECODED_ONCE} pixels, and for efficientnet-lite0 "
                    "with all of imagenette or 1000 classes: name a file, or none"
                )


_presets = tomllib.loads(Path(__file__).with_name("presets.toml").read_text(encoding="utf-8"))
PRESETS = {name: Settings.from_table(table) for name, table in _presets.items()}
"""The experiments, from `presets.toml`."""
