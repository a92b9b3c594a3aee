"""Figures and tables of the lessons: image grids, signed saliency maps, decision regions.

A lesson starts with `plots.use_style()`, draws, and ends each figure with
`plots.show(figure, alt)`, which puts the alternative text into the page. Numbers that are more
than one or two stand in a `plots.table(headings, rows)`.
"""

from __future__ import annotations

import base64
import html
import io
import itertools
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from .extras import needed_by
from .validation import check_integer, check_number

with needed_by("lesson_utils.plots"):
    import matplotlib.pyplot as plt
    from matplotlib.axes import Axes
    from matplotlib.collections import PolyCollection
    from matplotlib.colors import ListedColormap
    from matplotlib.figure import Figure
    from matplotlib.patches import Circle
    from matplotlib.text import Text

STYLE = Path(__file__).with_name("lessons.mplstyle")
SIGNED = "PuOr"
"""Diverging map for signed values, safe for colour-blind readers; always centred on zero."""
REGIONS = ListedColormap(["#cfe3f1", "#fbe0cc", "#cdeadf", "#f2dfeb", "#faedc4", "#e3e3e3"])
"""Pale colours of decision regions, in the order of the classes."""
INK = "#222222"
Offset = tuple[float, float] | None
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
    """The file of a figure, sharp on a screen of twice the usual density; closes the figure.

    Where the environment variable `LESSONS_CHECK_FIGURES` is set, as in tests and in the book,
    texts that lie on each other are an error.
    """
    if os.environ.get("LESSONS_CHECK_FIGURES") and (found := colliding_texts(figure)):
        raise ValueError(f"texts of the figure lie on each other or are cut: {found}")
    buffer = io.BytesIO()
    figure.savefig(buffer, format=kind, dpi=200)
    plt.close(figure)
    return buffer.getvalue()


def colliding_texts(figure: Figure) -> list[tuple[str, str]]:
    """Pairs of texts of a figure that lie on each other, and texts that its edge cuts.

    Slanted labels of an axis are left out: their boxes overlap where they themselves do not.
    """
    figure.canvas.draw()
    boxes = []
    for text in _texts(figure):
        if text.get_visible() and text.get_text().strip() and text.get_rotation() % 90 == 0:
            boxes.append((text.get_text(), text.get_window_extent().padded(-1)))
    page = figure.bbox
    whole = [page.contains(*box.min) and page.contains(*box.max) for _, box in boxes]
    cut = [(name, "edge") for (name, _), inside in zip(boxes, whole, strict=True) if not inside]
    pairs = itertools.combinations(boxes, 2)
    return cut + [(one, other) for (one, a), (other, b) in pairs if a.overlaps(b)]


def _texts(figure: Figure) -> Iterator[Text]:
    """The texts of a figure that are drawn: not the labels of ticks outside the window."""
    yield from figure.texts
    for axes in figure.axes:
        yield from (axes.title, *axes.texts)
        if axes.get_legend():
            yield from axes.get_legend().get_texts()
        for axis in (axes.xaxis, axes.yaxis) if axes.axison else ():
            low, high = sorted(axis.get_view_interval())
            yield axis.label
            for tick in axis.get_major_ticks():
                if low <= tick.get_loc() <= high:
                    yield tick.label1


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


def table(headings: Sequence[str], rows: Mapping[object, object]) -> None:
    """Display a table, in JupyterLab and in the built book, and as plain text elsewhere.

    Numbers have three significant digits. Those of a column that lie within a factor of 100
    have as many decimals as the largest of them, others each their own.

    Parameters
    ----------
    headings : sequence of str
        Of the columns, with units; the first is that of the names of the rows.
    rows : mapping
        The name of each row, and its entries: a number or a text, or a sequence of them. A number
        as a name, such as λ, is written as short as it is; the parts of a tuple, with a comma.

    Raises
    ------
    ValueError
        A row has more or fewer entries than there are headings for.
    """
    with needed_by("plots.table"):
        import pandas
        from IPython.display import display

    entries = {_row_name(name): _entries(row) for name, row in rows.items()}
    for name, row in entries.items():
        if len(row) != len(headings) - 1:
            raise ValueError(
                f"row {name!r} has {len(row)} entries, but there are {len(headings) - 1} headings "
                "beside that of the names"
            )
    columns = [three_digits(column) for column in zip(*entries.values(), strict=True)]
    frame = pandas.DataFrame(
        list(zip(*columns, strict=True)), list(entries), [str(heading) for heading in headings[1:]]
    )
    frame = frame.rename_axis(columns=headings[0])
    page = frame.to_html(border=0, classes="numbers")
    page = page.replace("<tr>\n      <th>", '<tr>\n      <th scope="row">')
    # scrolls where it is wider than the page
    page = f'<div class="scrolls" style="overflow-x:auto">{page}</div>'
    display({"text/html": page, "text/plain": frame.to_string()}, raw=True)


@contextmanager
def folded(summary: str = "Answer in numbers") -> Iterator[None]:
    """Fold what is printed or displayed inside, for a solution.

    JupyterLab folds code, but opens every output when it runs a cell. In the built book the whole
    cell is folded, and this does nothing.

    Parameters
    ----------
    summary : str
        What can be read, and pressed, before it is open.
    """
    if os.environ.get("LESSONS_BOOK"):
        yield
        return
    with needed_by("plots.folded"):
        from IPython.display import display
        from IPython.utils.capture import capture_output

    with capture_output() as shown:
        yield
    printed = f"<pre>{html.escape(shown.stdout)}</pre>" if shown.stdout else ""
    inside = printed + "".join(one.data.get("text/html", "") for one in shown.outputs)
    page = f"<details><summary>{html.escape(summary)}</summary>{inside}</details>"
    text = "\n".join([shown.stdout, *(one.data["text/plain"] for one in shown.outputs)])
    display({"text/html": page, "text/plain": text.strip()}, raw=True)


def _row_name(name: object) -> str:
    """A number as short as it is, the parts of a tuple with commas between them."""
    if isinstance(name, tuple):
        return ", ".join(map(_row_name, name))
    return f"{name:g}" if isinstance(name, float) else str(name)


def _entries(row: object) -> list:
    """The entries of a row: numbers of Python, and texts."""
    if isinstance(row, Tensor | np.ndarray | np.generic):
        row = row.tolist()
    several = isinstance(row, Sequence) and not isinstance(row, str)
    return [one.item() if hasattr(one, "item") else one for one in (row if several else [row])]


def three_digits(column: Sequence) -> list[str]:
    """Entries of a column as texts; see :func:`table`."""
    sizes = [abs(v) for v in column if isinstance(v, float) and v and math.isfinite(v)]
    # what is smaller beside the others is rounding, and shown as 0
    sizes = [size for size in sizes if size > 1e-14 * max(sizes)]
    alike = bool(sizes) and 1e-3 <= max(sizes) <= 100 * min(sizes)
    decimals = max(0, 2 - math.floor(math.log10(max(sizes)))) if alike else None
    return [_three_digits(value, decimals) for value in column]


def _three_digits(value: object, decimals: int | None) -> str:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return str(value)
    if isinstance(value, int):
        text = f"{value:,}"
    elif not math.isfinite(value):
        text = str(value).replace("inf", "∞").replace("nan", "–")
    elif decimals is not None:
        text = f"{value:,.{decimals}f}"
    elif value == 0:
        text = "0"
    else:
        text = f"{value:,.0f}" if abs(value) >= 999.5 else f"{value:#.3g}".rstrip(".")
    return text.replace("-", "−") if text[0] == "-" else text


def image_grid(
    images: Tensor,
    titles: Sequence[str] | None = None,
    *,
    columns: int | None = None,
    rows: Sequence[str] = (),
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
    rows : sequence of str, optional
        What stands before each row.
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
    TypeError, ValueError
        Wrong shape, or numbers of titles, flags and images that differ, or of rows and their
        names; `size` is no number above 0.
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
    columns = len(images) if columns is None else check_integer("columns", columns)
    height = -(-len(images) // columns)
    if rows and len(rows) != height:
        raise ValueError(f"{height} rows of images, but {len(rows)} names of rows")
    check_number("size", size, positive=True)
    width = columns * size + (1.2 if rows else 0)
    inches = width, height * size * (1.25 if any(titles) else 1.0)
    figure, axes = plt.subplots(height, columns, figsize=inches, squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    for axis, name in zip(axes[:, 0], rows, strict=False):
        axis.annotate(
            name,
            (0, 0.5),
            (-8, 0),
            xycoords="axes fraction",
            textcoords="offset points",  # an offset in axes would move while these are laid out
            ha="right",
            va="center",
        )
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


def arrow(
    axis: Axes, start, end, label: str = "", *, color: str = INK, offset: Offset = None
) -> None:
    """Draw an arrow between two points of the plane, with a label at its tip: see :func:`point`."""
    start, end = np.asarray(start, dtype=float), np.asarray(end, dtype=float)
    axis.annotate(
        "", xy=end, xytext=start, arrowprops={"arrowstyle": "-|>", "color": color, "lw": 2}
    )
    _label(axis, end, label, color, offset)


def point(
    axis: Axes,
    where,
    label: str = "",
    *,
    marker: str = "o",
    color: str = INK,
    offset: Offset = None,
) -> None:
    """Mark a point of the plane, with a label beside it.

    The label stands where the axes have more room, or at an offset in points: to the left of what
    it names where the first number is negative, above or below it where that is zero.
    """
    where = np.asarray(where, dtype=float)
    axis.plot(*where, marker=marker, color=color, ls="", ms=7)
    _label(axis, where, label, color, offset)


def _label(axis: Axes, where: np.ndarray, label: str, color: str, offset: Offset) -> None:
    right = where[0] > sum(axis.get_xlim()) / 2
    across, up = offset or (-7 if right else 7, 6)
    side = "center" if across == 0 else ("right" if across < 0 else "left")
    axis.annotate(
        label, where, xytext=(across, up), textcoords="offset points",
        ha=side, color=color, fontsize=13,
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
