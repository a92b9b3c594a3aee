"""Networks side by side: what lessons 1 to 7 define, for any models, in one table and one figure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from .attacks import AttackResult, minimal_l2
from .bound import Measurements, measure
from .extras import needed_by
from .saliency import saliency_map
from .validation import (
    Bounds,
    Model,
    check_input,
    check_integer,
    check_label_range,
    check_labels,
    in_chunks,
    leaf_and_logits,
    restricted,
)


class Comparison(NamedTuple):
    """Result of :func:`compare`."""

    x: Tensor
    labels: Tensor | None
    measurements: dict[str, Measurements]
    """Of each model, by its name."""
    adversaries: dict[str, AttackResult]
    """The nearest that :func:`lesson_utils.attacks.minimal_l2` found."""
    maps: dict[str, Tensor]
    """Saliency maps of the predicted classes, of the shape of x."""

    def to_frame(self):
        """One row a model, as a pandas data frame: medians over the images, in the L2 units of x.

        What is undefined at an image (NaN) is left out.

        `accuracy` (if there are labels); `norm` ‖x‖; `alignment` α; `linearized_robustness` ρ̃;
        `adversary`, the distance of the nearest one found, +inf where none was; `bound`, that of
        the theorem; `degree_of_homogeneity`.
        """
        with needed_by("Comparison.to_frame"):
            import pandas

        rows = {}
        for name, m in self.measurements.items():
            columns = {
                "norm": m.input_norm,
                "alignment": m.alignment,
                "linearized_robustness": m.linearized_robustness,
                "adversary": self.adversaries[name].distance,
                "bound": m.bound,
                "degree_of_homogeneity": m.degree_of_homogeneity,
            }
            rows[name] = {}
            if self.labels is not None:
                rows[name]["accuracy"] = (m.prediction == self.labels).double().mean().item()
            rows[name] |= {key: _median(value) for key, value in columns.items()}
        return pandas.DataFrame.from_dict(rows, orient="index")

    def figure(self, images: int = 4, *, size: float = 2.2):
        """The first images, one a row, and beside each the saliency map of every model.

        The loudest hundredth of the pixels of a map are drawn alike: see `quantile` of
        :func:`lesson_utils.plots.image_grid`.

        Parameters
        ----------
        images : int
            At least 1; of fewer in x, all.
        size : float
            Width of one image in inches.

        Returns
        -------
        matplotlib.figure.Figure
            For :func:`lesson_utils.plots.show`.
        """
        from .plots import image_grid

        cells, titles = [], []
        for row in range(min(check_integer("images", images), len(self.x))):
            cells.append(self.x[row])
            titles.append("" if self.labels is None else f"class {self.labels[row]}")
            for name, m in self.measurements.items():
                cells.append(self.maps[name][row])
                values = f"α = {m.alignment[row]:.3g}, ρ̃ = {m.linearized_robustness[row]:.3g}"
                plain = str(name).replace("$", r"\$")  # and no formula
                titles.append(f"{plain}: class {m.prediction[row]}\n{values}")
        columns = 1 + len(self.measurements)
        signed = [k % columns > 0 for k in range(len(cells))]
        options = {"columns": columns, "signed": signed, "quantile": 0.99, "size": size}
        return image_grid(torch.stack(cells), titles, **options)


def _median(values: Tensor) -> float:
    known = values[~values.isnan()].cpu()
    return float(np.median(known)) if len(known) else float("nan")


def compare(
    models: Mapping[str, Model],
    x: Tensor,
    labels: Tensor | None = None,
    *,
    bounds: Bounds | None = None,
    chunk_size: int | None = None,
) -> Comparison:
    """Measure several models on the same images, and attack them.

    Each model may have its own normalisation, as a layer: all lengths are then in the units of
    x, and can be compared.

    Parameters
    ----------
    models : mapping of str to callable
        Each maps `(batch, *input_shape)` to logits `(batch, n_classes)`; in eval mode. The
        numbers of classes may differ.
    x : Tensor, `(batch, *input_shape)`
    labels : Tensor of int `(batch,)`, optional
        The true classes, in the numbering of all the models.
    bounds : (float, float), optional
        Least and largest pixel of an adversary, see :func:`lesson_utils.attacks.minimal_l2`.
    chunk_size : int, optional
        Samples at once, see :func:`lesson_utils.bound.measure`; images by the thousand may come.

    Returns
    -------
    Comparison
        With a table, :meth:`Comparison.to_frame`, and a figure, :meth:`Comparison.figure`.

    Raises
    ------
    TypeError, ValueError
        `models` is no mapping, or empty; `labels` do not fit x; or as :func:`lesson_utils.bound.measure` and
        :func:`lesson_utils.attacks.minimal_l2`: a note names the model.

    Examples
    --------
    ::

        found = compare({"mine": net, "yours": other}, x, y)
        found.to_frame().round(3)
        plots.show(found.figure(), "Two images, and their saliency maps.")
    """
    if not isinstance(models, Mapping):
        raise TypeError(f"models must be a mapping, {{'name': model}}, got {type(models).__name__}")
    if not models:
        raise ValueError("models is empty: name at least one, {'name': model}")
    measurements, adversaries, maps = {}, {}, {}
    for name, model in models.items():
        try:
            check_input(model, x)
            if labels is not None:
                check_labels(labels, x, name="labels")
                first = restricted(model, torch.arange(1))
                check_label_range(labels, leaf_and_logits(first, x[:1])[1], name="labels")
            attacked, seen = [], []
            for rows in in_chunks(x, chunk_size):
                part = restricted(model, rows)
                attacked.append(minimal_l2(part, x[rows], bounds=bounds))
                seen.append(saliency_map(part, x[rows]))
            measurements[name] = measure(model, x, chunk_size=chunk_size)
            adversaries[name] = AttackResult(*map(torch.cat, zip(*attacked, strict=True)))
            maps[name] = torch.cat(seen)
        except Exception as error:
            error.add_note(f"This is about the model {name!r}.")
            raise
    return Comparison(x.detach(), labels, measurements, adversaries, maps)
