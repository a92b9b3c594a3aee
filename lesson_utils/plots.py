"""Figures of the lessons: image grids, signed saliency maps, decision regions in the plane.

A lesson starts with `plots.use_style()`, draws, and ends each figure with
`plots.show(figure, alt)`, which puts the alternative text into the page.
"""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from .extras import needed_by

with needed_by("lesson_utils.plots"):
    import matplotlib.pyplot as plt
    from matplotlib.axes import Axes
    from matplotlib.collections import PolyCollection
    from matplotlib.colors import ListedColormap
    from matplotlib.figure import Figure
    from matplotlib.patches import Circle

STYLE = Path(__file__).with_name("lessons.mplstyle")
SIGNED = "PuOr"
"""Diverging map for signed values, safe for colour-blind readers; always centred on zero."""
REGIONS = ListedColormap(["#cfe3f1", "#fbe0cc", "#cdeadf", "#f2dfeb", "#faedc4", "#e3e3e3"])
"""Pale colours of decision regions, in the order of the classes."""
INK = "#222222"
LEGIBLE = 0.65
"""Smallest scale at which the lettering can be read; on a narrower screen a figure scrolls."""


def use_style() -> None:
    """Set the one matplotlib style of the book for all figures drawn after this call."""
    plt.style.use(STYLE)


def picture(figure: Figure, alt: str) -> str:
    """HTML of a figure as an image with alternative text; closes the figure.

    Parameters
    ----------
    figure : Figure
    alt : str
        One or two sentences that say what one sees, for readers who do not see it.

    Raises
    ------
    ValueError
        `alt` is empty.
    """
    if not alt.strip():
        raise ValueError("alt must describe the figure in a sentence or two")
    width = round(figure.get_figwidth() * 100)
    return image_tag(data_url("image/png", save(figure, "png")), width, alt)


def image_tag(source: str, width: int, alt: str) -> str:
    """HTML of an image of the given address, width in CSS pixels, and alternative text."""
    # The class keeps the theme's dark mode from dimming the picture: colours carry values here.
    return (
        f'<img class="dark-light" style="width:{width}px;max-width:100%;'
        f'min-width:{LEGIBLE * width:.0f}px;background:white" '
        f'alt="{html.escape(alt)}" src="{source}">'
    )


def save(figure: Figure, kind: str) -> bytes:
    """The file of a figure, sharp on a screen of twice the usual density; closes the figure."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format=kind, dpi=200)
    plt.close(figure)
    return buffer.getvalue()


def data_url(kind: str, content: bytes) -> str:
    """An address that is the file itself, so that a page needs no other file."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def show(figure: Figure, alt: str) -> None:
    """Display a figure with alternative text, in JupyterLab and in the built book, and close it.

    Parameters and errors are those of :func:`picture`.
    """
    with needed_by("plots.show"):
        from IPython.display import display

    display({"text/html": picture(figure, alt), "text/plain": f"[Figure: {alt}]"}, raw=True)


def image_grid(
    images: Tensor,
    titles: Sequence[str] | None = None,
    *,
    columns: int | None = None,
    signed: bool | Sequence[bool] = False,
    quantile: float = 1.0,
    size: float = 1.3,
) -> Figure:
    """Images side by side, row by row.

    Parameters
    ----------
    images : Tensor, `(n, channels, height, width)` or `(n, height, width)`
        One or three channels. Unsigned images must lie in [0, 1]. Signed images (saliency
        maps) are summed over the channels and drawn on a map centred on zero, each scaled
        by its own largest absolute value: the map shows the direction of g, not its length.
    titles : sequence of str, optional
    columns : int, optional
        Images a row; by default all in one row.
    signed : bool or sequence of bool
        Whether the images have a sign, for all or for each.
    quantile : float
        Of a signed image, the share of the absolute values that the colours tell apart; larger
        values are drawn like the largest of these. Less than 1 for maps of photographs, which
        few loud pixels would make pale.
    size : float
        Width of one image in inches.

    Raises
    ------
    ValueError
        Wrong shape, or numbers of titles, flags and images that differ.
    """
    images = images.detach().cpu()
    if images.ndim == 3:
        images = images.unsqueeze(1)
    if images.ndim != 4 or images.shape[1] not in (1, 3) or len(images) == 0:
        raise ValueError(
            f"images must have shape (n, 1 or 3, height, width), got {tuple(images.shape)}"
        )
    flags = [signed] * len(images) if isinstance(signed, bool) else list(signed)
    titles = [""] * len(images) if titles is None else list(titles)
    if not len(flags) == len(titles) == len(images):
        raise ValueError(
            f"{len(images)} images, but {len(titles)} titles and {len(flags)} signed flags"
        )
    columns = columns or len(images)
    rows = -(-len(images) // columns)
    height = size * (1.25 if any(titles) else 1.0)
    figure, axes = plt.subplots(
        rows, columns, figsize=(columns * size, rows * height), squeeze=False
    )
    for axis in axes.flat:
        axis.set_axis_off()
    for axis, image, title, flag in zip(axes.flat, images, titles, flags, strict=False):
        if flag:  # purple positive, orange negative, white zero
            values = image.sum(0).numpy()
            limit = np.quantile(np.abs(values), quantile) or 1.0
            axis.imshow(values, cmap=SIGNED, vmin=-limit, vmax=limit)
        else:
            axis.imshow(image.permute(1, 2, 0).numpy(), cmap="gray", vmin=0, vmax=1)
        axis.set_title(title)
    return figure


def decision_regions(
    axis: Axes,
    model: nn.Module,
    *,
    xlim: tuple[float, float] = (-3, 3),
    ylim: tuple[float, float] = (-3, 3),
    resolution: int = 300,
) -> None:
    """Paint the plane by the predicted class of `model` and draw the decision boundary.

    Parameters
    ----------
    axis : Axes
    model : nn.Module
        Maps `(batch, 2)` to logits; at most six classes are told apart by colour.
    xlim, ylim : (float, float)
        The window; its axes get equal scale, so that circles are round.
    resolution : int
        Grid points along each axis.
    """
    horizontal, vertical = np.linspace(*xlim, resolution), np.linspace(*ylim, resolution)
    grid = np.stack(np.meshgrid(horizontal, vertical), axis=-1).reshape(-1, 2)
    dtype = next((p.dtype for p in (*model.parameters(), *model.buffers())), torch.float32)
    with torch.no_grad():
        logits = model(torch.as_tensor(grid, dtype=dtype))
    classes = logits.argmax(1).view(resolution, resolution).numpy()
    axis.imshow(
        classes, origin="lower", extent=(*xlim, *ylim), cmap=REGIONS, vmin=0, vmax=5, zorder=0
    )
    for i in range(logits.shape[1]):  # where logit i meets the best of the others
        own = logits[:, i]
        others = logits.index_fill(1, torch.tensor([i]), -torch.inf).amax(1)
        margin = (own - others).view(resolution, resolution).numpy()
        if margin.min() < 0 < margin.max():
            axis.contour(horizontal, vertical, margin, levels=[0], colors=INK, linewidths=1.5)
    axis.set(xlim=xlim, ylim=ylim, aspect="equal", xlabel="$x_1$", ylabel="$x_2$")


def plane(
    model: nn.Module, xlim: tuple[float, float] = (-3, 3), ylim: tuple[float, float] = (-3, 3)
) -> tuple[Figure, Axes]:
    """Square figure with the :func:`lesson_utils.plots.decision_regions` of one model."""
    figure, axis = plt.subplots(figsize=(5, 5))
    decision_regions(axis, model, xlim=xlim, ylim=ylim)
    return figure, axis


def cloud(axis: Axes, points: Tensor, classes: Tensor, names: Sequence[str]) -> None:
    """Mark points `(n, 2)` with one colour and one marker a class, and name the classes."""
    for k, (name, marker) in enumerate(zip(names, "os^Dv*", strict=False)):
        axis.plot(*points[classes == k].T, ls="", marker=marker, ms=4, label=name)
    axis.legend(loc="upper left")


def segment(axis: Axes, start, end, label: str, *, thick: bool = False) -> None:
    """Draw a straight segment, to be read as a distance; the thick one is solid."""
    ends = np.stack([np.asarray(start, dtype=float), np.asarray(end, dtype=float)])
    color, style, width = ("#B34700", "-", 4) if thick else ("#0072B2", "--", 2)
    axis.plot(*ends.T, color=color, ls=style, lw=width, label=label)


def ball(axis: Axes, center: Tensor, radius: float, *, solid: bool = False) -> None:
    """Draw the circle of the given radius around a point of the plane."""
    color, style = ("#B34700", "-") if solid else (INK, "--")
    axis.add_patch(Circle(center.tolist(), float(radius), fill=False, lw=2, ls=style, ec=color))


def outlines(axis: Axes, polygons: Sequence[np.ndarray]) -> None:
    """Draw the thin outlines of polygons `(k, 2)`, such as the linear regions of a network."""
    axis.add_collection(
        PolyCollection(polygons, facecolors="none", edgecolors="#777777", linewidths=0.7)
    )


def arrow(axis: Axes, start, end, label: str = "", *, color: str = INK) -> None:
    """Draw an arrow between two points of the plane, with a label at its tip."""
    start, end = np.asarray(start, dtype=float), np.asarray(end, dtype=float)
    axis.annotate(
        "", xy=end, xytext=start, arrowprops={"arrowstyle": "-|>", "color": color, "lw": 2}
    )
    _label(axis, end, label, color)


def point(axis: Axes, where, label: str = "", *, marker: str = "o", color: str = INK) -> None:
    """Mark a point of the plane, with a label beside it."""
    where = np.asarray(where, dtype=float)
    axis.plot(*where, marker=marker, color=color, ls="", ms=7)
    _label(axis, where, label, color)


def _label(axis: Axes, where: np.ndarray, label: str, color: str) -> None:
    """Write beside a point, on the side where the axes have more room."""
    right = where[0] > sum(axis.get_xlim()) / 2
    axis.annotate(
        label, where, xytext=(-7 if right else 7, 6), textcoords="offset points",
        ha="right" if right else "left", color=color, fontsize=13,
    )  # fmt: skip


def agreement(axis: Axes, horizontal: Tensor, vertical: Tensor, xlabel: str, ylabel: str) -> None:
    """Scatter two quantities of one unit against each other, with the diagonal of equality."""
    axis.scatter(horizontal, vertical, s=14, alpha=0.6, linewidths=0)
    top = 1.05 * max(float(horizontal.max()), float(vertical.max()))
    axis.axline((0, 0), slope=1, color=INK, lw=1, ls="-", zorder=0)
    axis.set(xlim=(0, top), ylim=(0, top), aspect="equal", xlabel=xlabel, ylabel=ylabel)


def stacked_bars(axis: Axes, parts: dict[str, Tensor], reference: Tensor, name: str) -> None:
    """One bar a sample, stacked from named parts `(n,)`, with a diamond at the reference value."""
    bottom = torch.zeros_like(reference)
    for (label, values), hatch in zip(parts.items(), ("", "//", "xx", ".."), strict=False):
        axis.bar(range(len(values)), values, bottom=bottom, label=label, hatch=hatch, ec="white")
        bottom = bottom + values
    axis.plot(range(len(reference)), reference, "D", color=INK, ms=5, label=name)
    axis.set_xticks([])
    axis.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=len(parts) + 1)
