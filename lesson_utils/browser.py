"""Networks for the browser: what the engine of the explorers reads, and the scripts of a page that hold it.

The engine is `explorers/engine.js`: plain JavaScript in double precision, from a description and bytes.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from .data import load_digits
from .models import Normalize

MAX_SCRIPT = 500_000
"""Largest size of a script in bytes: larger networks come in parts."""


class Packed(NamedTuple):
    """Numbers for the browser: a network, or images."""

    description: dict
    """What the numbers are; of a network the shape of an input, the layers and the bytes a number."""
    numbers: bytes
    """Of a network all weights, one layer after the other, little-endian."""

    @property
    def digest(self) -> str:
        """A name that nothing else has."""
        content = json.dumps(self.description).encode() + self.numbers
        return hashlib.sha256(content).hexdigest()[:12]

    def scripts(self) -> dict[str, str]:
        """The same as scripts by file name, each of at most `MAX_SCRIPT` bytes.

        A page reads them as it needs them, from a server or from a file; numbers are in base64.
        """
        step = (MAX_SCRIPT - 20_000) // 4 * 3  # base64 writes 4 letters for 3 bytes
        parts = [self.numbers[k : k + step] for k in range(0, len(self.numbers), step)]
        files = {}
        for k, part in enumerate(parts):
            about = self.description if k == 0 else None
            content = [self.digest, k, len(parts), about, base64.b64encode(part).decode()]
            call = f"(window.lessonNetworks ??= []).push({json.dumps(content)});\n"
            files[f"{self.digest}-{k}.js"] = call
        return files


def for_browser(model: nn.Module, shape: Sequence[int]) -> Packed:
    """Description and weights of a model that the browser's engine can compute.

    The numbers are written with 2, 4 or 8 bytes, the fewest that hold every weight exactly: the
    engine has the weights of the model, not rounded ones.

    Parameters
    ----------
    model : nn.Module
        An `nn.Sequential` of `Normalize`, `Linear`, `Conv2d`, `BatchNorm1d`, `BatchNorm2d`, `ReLU`,
        `MaxPool2d`, `Flatten`, `Identity` and `Dropout`, in eval mode; also such ones within one another.
    shape : sequence of int
        Of one input: `(channels, height, width)` or `(entries,)`.

    Raises
    ------
    TypeError
        The engine has no such layer, or not with such an option; the message names it.
    ValueError
        The model is in train mode, or its layers do not fit an input of this shape.
    """
    if model.training:
        raise ValueError("model is in train mode: call model.eval() first")
    layers, weights = [], []
    for name, module in _layers_of(model):
        found = _described(name, module)
        if found is None:
            continue
        kind, options, tensors = found
        weights += [tensor.detach().cpu().double().flatten() for tensor in tensors.values()]
        sizes = {key: tensor.numel() for key, tensor in tensors.items()}
        layers.append({"kind": kind, "sizes": sizes, **options})
    _check_it_runs(model, shape)
    values = torch.cat(weights) if weights else torch.zeros(0, dtype=torch.float64)
    width, dtype = _narrowest(values)
    description = {"shape": list(shape), "width": width, "layers": layers}
    return Packed(description, values.to(dtype).numpy().astype(f"<f{width}").tobytes())


def digits_for_browser() -> Packed:
    """The digits of :func:`lesson_utils.data.load_digits`: 64 grey values 0 … 16 and a label each, training first."""
    data = load_digits()
    parts = ((data.x_train, data.y_train), (data.x_test, data.y_test))
    rows = [torch.cat([(16 * x).flatten(1), y[:, None]], 1) for x, y in parts]
    numbers = torch.cat(rows).round().to(torch.uint8).numpy().tobytes()
    return Packed({"train": len(data.x_train)}, numbers)


def _layers_of(module: nn.Module, name: str = "model") -> list[tuple[str, nn.Module]]:
    # A subclass with a `forward` of its own may do anything else with its layers.
    if type(module).forward is nn.Sequential.forward:
        return [
            layer
            for key, part in module.named_children()
            for layer in _layers_of(part, f"{name}.{key}")
        ]
    return [(name, module)]


def _described(name: str, module: nn.Module) -> tuple[str, dict, dict[str, Tensor]] | None:
    """Kind, options and numbers of a layer; None for one that does nothing in eval mode."""
    kind = type(module)
    if kind in (nn.Dropout, nn.Dropout2d, nn.Identity):
        return None
    if kind is nn.ReLU:
        return "relu", {}, {}
    if kind is nn.Flatten and (module.start_dim, module.end_dim) == (1, -1):
        return "flatten", {}, {}
    if kind is nn.Linear:
        return "dense", {}, {"weight": module.weight, "bias": _bias_of(module, len(module.weight))}
    if kind is Normalize:
        scale = 1 / module.std.double()
        return "normalization", {}, {"scale": scale, "shift": -module.mean.double() * scale}
    if kind in (nn.BatchNorm1d, nn.BatchNorm2d) and module.running_mean is not None:
        scale = 1 / (module.running_var.double() + module.eps).sqrt()
        shift = -module.running_mean.double() * scale
        if module.affine:
            scale, shift = scale * module.weight, shift * module.weight + module.bias
        return "normalization", {}, {"scale": scale, "shift": shift}
    if kind is nn.MaxPool2d and not module.ceil_mode and not module.return_indices:
        size, stride = _square(module.kernel_size), _square(module.stride)
        if size and stride and _square(module.padding) == 0 and _square(module.dilation) == 1:
            return "pooling", {"size": size, "stride": stride}, {}
    if kind is nn.Conv2d and module.groups == 1 and module.padding_mode == "zeros":
        size, stride, padding = map(_square, (module.kernel_size, module.stride, module.padding))
        if size and stride and padding is not None and _square(module.dilation) == 1:
            weight = module.weight.permute(0, 2, 3, 1)  # channels last, as the engine reads them
            tensors = {"weight": weight, "bias": _bias_of(module, len(weight))}
            return "convolution", {"size": size, "stride": stride, "padding": padding}, tensors
    raise TypeError(
        f"the browser's engine cannot compute {name}, {module}: it knows Normalize, Linear, Conv2d, "
        "BatchNorm1d, BatchNorm2d, ReLU, MaxPool2d and Flatten, with square kernels, no groups and "
        "no dilation"
    )


def _square(size) -> int | None:
    """The one number of a square kernel, stride or padding; None if it is not square."""
    sizes = {size} if isinstance(size, int) else set(size)
    return sizes.pop() if len(sizes) == 1 and not isinstance(size, str) else None


def _bias_of(module: nn.Module, outputs: int) -> Tensor:
    return torch.zeros(outputs) if module.bias is None else module.bias


def _narrowest(values: Tensor) -> tuple[int, torch.dtype]:
    """Bytes a number, and the type, of the smallest numbers that hold all values exactly."""
    for width, dtype in ((2, torch.float16), (4, torch.float32)):
        if torch.equal(values.to(dtype).double(), values):
            return width, dtype
    return 8, torch.float64


def _check_it_runs(model: nn.Module, shape: Sequence[int]) -> None:
    parameter = next(model.parameters(), torch.zeros(()))
    try:
        with torch.no_grad():
            model(parameter.new_zeros(1, *shape))
    except (RuntimeError, IndexError) as error:
        raise ValueError(f"model does not take an input of shape {tuple(shape)}: {error}") from None
