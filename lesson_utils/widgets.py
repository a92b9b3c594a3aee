"""Widgets that live in JupyterLab with a kernel and in a built page without one.

`FrameSlider` turns a function that draws a figure into a figure with sliders. The
explorers compute in the browser, in the modules of the folder `explorers`. On a page each
keeps its state in the page's address, so that a link leads to what one sees.

While a book is built (this book's build sets the environment variable `LESSONS_BOOK`),
a widget displays itself as HTML that needs no kernel and no other file: a player of
frames drawn beforehand, or the explorer's module itself. `.html()` gives the same text.
"""

from __future__ import annotations

import hashlib
import html
import inspect
import io
import itertools
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from .browser import Packed, digits_for_browser, for_browser
from .extras import needed_by
from .plots import data_url, image_tag, picture, save
from .saliency import saliency_map
from .toy import AffineClassifier, BinaryClassifier, PlanarReLUNet

with needed_by("lesson_utils.widgets"):
    import anywidget
    import ipywidgets
    import traitlets
    from matplotlib.figure import Figure

FOLDER = Path(__file__).with_name("explorers")
_NUMBER = itertools.count()
MAX_PLAYER = 500_000
"""Largest size of a player in bytes, so that a page stays quick on a phone."""


def building_book() -> bool:
    """Whether the notebook runs in order to be built into a page."""
    return bool(os.environ.get("LESSONS_BOOK"))


class FrameSlider:
    """A figure with one or two sliders.

    In JupyterLab the function really runs whenever a slider moves. In a built page the
    same output is a player of all its frames, drawn once.

    Parameters
    ----------
    draw : callable
        Called with one value of each slider; returns a new matplotlib figure. All
        figures must have one size.
    caption : callable
        Called with the same values; returns one or two sentences that say what one sees
        with them. It is the caption and the alternative text.
    sliders : mapping of str to sequence
        The values of each slider under its name. Values are shown as `str`, numbers
        with up to three digits.

    Raises
    ------
    ValueError
        Not one or two sliders, a slider without values, or frames of more than
        `MAX_PLAYER` bytes.

    Examples
    --------
    The last expression of a cell shows it; `.html()` gives the player as text, for
    any other page::

        def draw(b):
            figure, axis = plots.plane(BinaryClassifier([1, 2], b))
            return figure

        FrameSlider(draw, lambda b: f"The boundary for b = {b}.", {"bias b": [0, 1, 2]})
    """

    def __init__(
        self,
        draw: Callable[..., Figure],
        caption: Callable[..., str],
        sliders: Mapping[str, Sequence],
    ):
        if len(sliders) not in (1, 2):
            raise ValueError(f"sliders must be one or two, got {len(sliders)}")
        for name, values in sliders.items():
            if len(values) == 0:
                raise ValueError(f"slider {name!r} has no values")
        self.draw, self.caption = draw, caption
        self.sliders = {name: list(values) for name, values in sliders.items()}

    def _repr_mimebundle_(self, **kwargs) -> dict:
        text = self.caption(*(values[0] for values in self.sliders.values()))
        if building_book():
            return {"text/html": self.html(), "text/plain": f"[Figure with sliders: {text}]"}
        return self.live()._repr_mimebundle_(**kwargs)

    def live(self) -> ipywidgets.VBox:
        """The widget for JupyterLab: sliders, picture and caption, with `draw` behind them."""
        controls = [
            ipywidgets.SelectionSlider(
                options=[(_shown(value), value) for value in values],
                description=name,
                style={"description_width": "initial"},
                layout={"width": "min(100%, 480px)"},
            )
            for name, values in self.sliders.items()
        ]
        shown, words = ipywidgets.HTML(), ipywidgets.HTML()

        def redraw(_=None):
            values = [control.value for control in controls]
            text = self.caption(*values)
            shown.value = picture(self.draw(*values), text)
            words.value = html.escape(text)

        for control in controls:
            control.observe(redraw, names="value")
        redraw()
        return ipywidgets.VBox([*controls, shown, words])

    def html(self) -> str:
        """The player: all frames, one for each combination of values, and a script that shows them."""
        with needed_by("FrameSlider.html"):
            from tqdm import tqdm

        combinations = list(itertools.product(*self.sliders.values()))
        # The real standard error, not the notebook's: a progress bar is no part of a page.
        bar = tqdm(combinations, "frames", file=sys.__stderr__, disable=None, leave=False)
        frames, width = [], 0
        for values in bar:
            figure = self.draw(*values)
            width = round(figure.get_figwidth() * 100)
            frames.append(_smallest(figure))
        captions = [self.caption(*values) for values in combinations]
        page = self._page(frames, captions, width)
        if len(page.encode()) > MAX_PLAYER:
            raise ValueError(
                f"the player has {len(page.encode()):,} bytes, more than {MAX_PLAYER:,}: "
                f"give the sliders fewer values ({len(frames)} frames now) or draw less"
            )
        return page

    def _page(self, frames: list[str], captions: list[str], width: int) -> str:
        controls = "".join(
            f"<label>{html.escape(name)} <span>{html.escape(_shown(values[0]))}</span>"
            f'<input type="range" min="0" max="{len(values) - 1}" value="0" '
            f'aria-label="{html.escape(name)}" aria-valuetext="{html.escape(_shown(values[0]))}"></label>'
            for name, values in self.sliders.items()
        )
        texts = [[_shown(value) for value in values] for values in self.sliders.values()]
        content = _script({"texts": texts, "captions": captions, "frames": [None, *frames[1:]]})
        return (
            f"<div class='frames' data-kind='frames' role='group' aria-label='Figure with sliders'><style>{_read('player.css')}</style>"
            f"<div>{image_tag(frames[0], width, captions[0])}</div>{controls}"
            f"<p>{html.escape(captions[0])}</p><div class='said' aria-live='polite'></div>"
            f"<script type='application/json'>{content}</script>"
            f"<script>{{{_read('address.js')}{_read('player.js')}}}</script></div>"
        )


def _shown(value) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _script(content) -> str:
    """JSON for a script element, which "</" would end wherever it stands."""
    return json.dumps(content).replace("</", "<\\/")


def _smallest(figure: Figure) -> str:
    """A figure as data URL: svg, or lossless or lossy webp, whichever is smallest."""
    with needed_by("FrameSlider.html"):
        from PIL import Image

    pixels = io.BytesIO()
    figure.savefig(pixels, format="png", dpi=150)
    files = [("image/svg+xml", save(figure, "svg"))]
    for options in ({"lossless": True}, {"quality": 80}):
        buffer = io.BytesIO()
        Image.open(pixels).convert("RGB").save(buffer, format="webp", **options)
        files.append(("image/webp", buffer.getvalue()))
    return data_url(*min(files, key=lambda file: len(file[1])))


def _read(name: str) -> str:
    return (FOLDER / name).read_text(encoding="utf-8")


def _vector(*default: float) -> traitlets.List:
    """A point of the plane that Python and the browser share."""
    return traitlets.List(traitlets.Float(), list(default), minlen=2, maxlen=2).tag(sync=True)


class Explorer(anywidget.AnyWidget):
    """Base of the explorers: one module for the browser, and the state that it shares with Python.

    Every trait is read and written by both sides, so `observe` sees what the mouse does,
    and an assignment in Python moves the picture.
    """

    def open(self) -> None:
        """Connect to the browser, unless a page is built: then nobody is there."""
        if not building_book():
            super().open()

    def _repr_mimebundle_(self, **kwargs):
        if building_book():
            return {
                "text/html": self.html(),
                "text/plain": f"[{inspect.getdoc(type(self)).splitlines()[0]}]",
            }
        return super()._repr_mimebundle_(**kwargs)

    def html(self) -> str:
        """The explorer for a page without a kernel: its module, its present state, a stand-in model."""
        module = data_url("text/javascript", str(self._esm).encode())
        content = _script(self._page_state())
        digest = hashlib.sha256((module + content).encode()).hexdigest()[:12]
        name = f"explorer-{digest}-{next(_NUMBER)}"  # two may be in the same state
        kind = type(self).__name__.removesuffix("Explorer").lower()
        return (
            f'<div id="{name}" data-kind="{kind}"></div><script type="module">'
            f'import widget from "{module}";\n'
            f'const place = document.getElementById("{name}");\n'
            f"const state = {content}, listeners = {{}};\n"
            f"{_read('address.js')}{_read('model.js')}</script>"
        )

    def _page_state(self) -> dict:
        """What a page without a kernel starts with: all that is shared with the browser."""
        shared = set(self.trait_names(sync=True)) - set(anywidget.AnyWidget.class_trait_names())
        return self.get_state(sorted(name for name in shared if name[0] != "_"))


class PlaneExplorer(Explorer):
    """Base of the explorers of the plane."""

    view = traitlets.Float(3.0, min=1e-6, help="half-width of the square that is drawn").tag(
        sync=True
    )


class ToyExplorer(PlaneExplorer):
    """Linear toy model in the plane: drag x, turn z; ρ, α and ``‖x‖·|cos δ|`` stay one number.

    Lesson 3. Source: Etmann et al. 2019, section 2.
    """

    _esm = _read("core.js") + _read("toy.js")
    x = _vector(1.5, 1.0)
    z = _vector(0.5, 1.5)

    @property
    def model(self) -> BinaryClassifier:
        """The classifier that is shown, as a model for the functions of this package."""
        return BinaryClassifier(self.z)


class AffineExplorer(PlaneExplorer):
    """Affine classifier in the plane: a bias, a third class, a shift of all scores, another origin.

    The scores of the first two classes are ∓(⟨x, z⟩ + b)/2, that of the third is
    ⟨x, third[:2]⟩ + third[2]; `shift` · ⟨x, v⟩ is added to all of them. α is taken in
    the coordinates x − c. Lesson 4.
    """

    _esm = _read("core.js") + _read("affine.js")
    x = _vector(1.2, 1.4)
    z = _vector(0.8, 1.6)
    b = traitlets.Float(0.0).tag(sync=True)
    three = traitlets.Bool(False).tag(sync=True)
    third = traitlets.List(traitlets.Float(), [1.6, -0.4, -0.8], minlen=3, maxlen=3).tag(sync=True)
    shift = traitlets.Float(0.0).tag(sync=True)
    v = _vector(1.0, -0.5)
    c = _vector(0.0, 0.0)

    @property
    def model(self) -> AffineClassifier:
        """The classifier that is shown, as a model for the functions of this package."""
        two = BinaryClassifier(self.z, self.b)
        weight, bias = two.weight.tolist(), two.bias.tolist()
        if self.three:
            weight, bias = [*weight, self.third[:2]], [*bias, self.third[2]]
        return AffineClassifier(np.array(weight) + self.shift * np.array(self.v), bias)


class PlanarExplorer(PlaneExplorer):
    """ReLU network in the plane: drag x; its region, exact ρ, linearized ρ̃ and the affine radius of x.

    Lesson 5.

    Parameters
    ----------
    net : PlanarReLUNet
        Its linear regions and cells are computed once, in Python, in a window three
        times as large as the one that is drawn.
    names : sequence of str, optional
        Of the classes; without them they have numbers.
    """

    _esm = _read("core.js") + _read("relu.js")
    x = _vector(0.0, 0.0)
    regions = traitlets.List().tag(sync=True)
    cells = traitlets.List().tag(sync=True)
    boundary = traitlets.List().tag(sync=True)
    reach = traitlets.Float().tag(sync=True)
    names = traitlets.List(traitlets.Unicode()).tag(sync=True)

    def __init__(self, net: PlanarReLUNet, **state):
        reach = 3 * state.get("view", type(self).view.default_value)
        regions = [
            {name: part.tolist() for name, part in vars(region).items()}
            for region in net.linear_regions(radius=reach)
        ]
        cells = [[int(k), polygon.tolist()] for k, polygon in net.cells(radius=reach)]
        boundary = net.boundary(radius=reach)[0].tolist()
        super().__init__(regions=regions, cells=cells, boundary=boundary, reach=reach, **state)
        self.model = net


class HuntExplorer(PlaneExplorer):
    """Counterexample hunt: a claim about classifiers of the plane, and a search for one that breaks it.

    Lessons 4 and 5. A claim compares two expressions by <, <=, =, >= or >, as in "rho <= alpha" or
    "if margin <= margin2 then rho <= rho2". Its names are rho (exact), tilde, alpha, margin, norm,
    bound and degree at a point x; with a 2 at a second point, with a 0 at x without any bias. What
    breaks it is made simpler while it still does.
    """

    _esm = _read("core.js") + _read("random.js") + _read("hunt.js")
    view = traitlets.Float(4.0, min=1e-6).tag(sync=True)
    claim = traitlets.Unicode("rho <= alpha").tag(sync=True)
    kind = traitlets.Enum(("affine", "ReLU network"), "affine").tag(sync=True)
    seed = traitlets.Int(0, min=0).tag(sync=True)


def _with_engine(*files: str) -> str:
    """What explorers with a worker share; the worker runs these files."""
    source = json.dumps("".join(map(_read, files)))
    return _read("core.js") + f"const ENGINE = {source};\n" + _read("network.js")


def _sent(packed: Packed) -> dict:
    """What the browser gets; on a page it gets the key alone, and reads the scripts of that name."""
    return {
        "key": packed.digest,
        "description": packed.description,
        "numbers": packed.numbers,
    }


def _as_list(x: Tensor, _=None) -> list[float]:
    return x.flatten().tolist()


def _as_image(values: list[float], explorer: NetworkExplorer) -> Tensor:
    return torch.tensor(values, dtype=explorer.x.dtype).view(1, *explorer.shape)


class NetworkExplorer(Explorer):
    """Robustness bench: draw an image; two networks answer with map, α, ρ̃, bound and adversary.

    Lesson 9; other lessons show a part of it.

    The networks run in the browser (see :mod:`lesson_utils.browser`); one with layers that the
    browser's engine does not know is computed by the kernel behind the widget, and cannot stand on
    a page without one. In a built page the weights are scripts of the book that are read when a
    reader asks for the network; the extension `book/_ext/networks.py` writes those of the records.

    Parameters
    ----------
    models : mapping of str to nn.Module
        Networks in eval mode, by the names under which they are shown.
    images : Tensor, `(n, channels, height, width)`
        To choose from and to draw on, in pixels of [0, 1].
    **state
        Where to start: `x`, `first` and `second` (names of networks; the second may be "").
        And `part`, what is shown of it: "all"; "class", the maps of all classes (`target`, −1 for
        the decision); "scale", the scores of c·x (`c`); "black", where the black image lies;
        "shift", the same with κ/2 · ‖x‖² added to every score (`shift` is κ).

    Attributes
    ----------
    x : Tensor, `(1, channels, height, width)`
        The image that is shown, or drawn: `measure(model, explorer.x)` has the numbers of the
        widget. Assign to it, or `observe` it.

    Raises
    ------
    TypeError
        `images` is no tensor of floating-point numbers; on a page: a network needs a kernel.
    ValueError
        There are no models or images, or a model is in train mode or does not take such images.
    """

    _esm = _with_engine("engine.js") + _read("bench.js")
    networks = traitlets.List().tag(sync=True)
    images = traitlets.List().tag(sync=True)
    shape = traitlets.List(traitlets.Int()).tag(sync=True)
    x = traitlets.Instance(Tensor).tag(sync=True, to_json=_as_list, from_json=_as_image)
    first = traitlets.Unicode().tag(sync=True)
    second = traitlets.Unicode("").tag(sync=True)
    part = traitlets.Enum(("all", "class", "scale", "black", "shift"), "all").tag(sync=True)
    c = traitlets.Float(1.0, min=0.0, max=2.0).tag(sync=True)
    target = traitlets.Int(-1, min=-1).tag(sync=True)
    shift = traitlets.Float(0.0, min=-1.0, max=1.0).tag(sync=True)

    def __init__(self, models: Mapping[str, nn.Module], images: Tensor, **state):
        if not isinstance(images, Tensor) or not images.is_floating_point():
            raise TypeError(
                "images must be a floating-point torch.Tensor: use images.float() / 255"
            )
        if images.ndim != 4 or len(images) == 0:
            raise ValueError(
                f"images must have the shape (n, channels, height, width), got {tuple(images.shape)}"
            )
        if not models:
            raise ValueError("models is empty: give at least one network by its name")
        self.models = dict(models)
        shape = list(images.shape[1:])
        start = {"x": images[:1].detach().clone(), "first": next(iter(self.models))}
        networks = [_described(name, model, shape) for name, model in self.models.items()]
        shown = [_as_list(image) for image in images]
        super().__init__(shape=shape, networks=networks, images=shown, **(start | state))
        self.on_msg(self._answer)

    @traitlets.validate("x")
    def _check_x(self, proposal) -> Tensor:
        shape = (1, *self.shape)
        if tuple(proposal.value.shape) != shape:
            raise traitlets.TraitError(
                f"x must have the shape {shape} of one image, got {tuple(proposal.value.shape)}"
            )
        return proposal.value.detach().clone()

    @traitlets.validate("first", "second")
    def _check_name(self, proposal) -> str:
        known = [*self.models, *([""] if proposal.trait.name == "second" else [])]
        if proposal.value not in known:
            raise traitlets.TraitError(f"there is no network {proposal.value!r}, only {known}")
        return proposal.value

    def _page_state(self) -> dict:
        networks = []
        for network in self.networks:
            if "key" not in network:  # say why: the engine knows it
                for_browser(self.models[network["name"]], self.shape)
            networks.append({"name": network["name"], "key": network["key"]})
        return super()._page_state() | {"networks": networks}

    def _answer(self, _, job: dict, buffers) -> None:
        """Answer the browser for a network that its engine cannot compute."""
        model = self.models[job["network"]]
        like = next(model.parameters(), self.x)
        x = torch.tensor(job["images"], dtype=like.dtype, device=like.device).view(-1, *self.shape)
        with torch.no_grad():
            scores = model(x)
        result = scores.tolist()
        if job["job"] != "scores":
            classes = (
                range(scores.shape[1]) if job["job"] == "gradients" else [int(scores.argmax())]
            )
            targets = [torch.tensor([k], device=like.device) for k in classes]
            maps = [_as_list(saliency_map(model, x, target)) for target in targets]
            result = {"scores": result[0], "gradients": maps}
        self.send({"id": job["id"], "result": result})


def _described(name: str, model: nn.Module, shape: Sequence[int]) -> dict:
    """A network as the browser gets it: with its weights, or with a word that the kernel has them."""
    try:
        network = for_browser(model, shape)
    except TypeError:
        return {"name": name, "kernel": True}
    return {"name": name, **_sent(network)}


class TrainingExplorer(Explorer):
    """Robust training: two networks from one seed, each with its strength of the gradient penalty.

    Lesson 8. The MLP 64-100-10 of the lesson, trained in the browser on the digits of 8×8 pixels by
    Adam and double backpropagation written by hand; watch the maps, and the medians of α and ρ̃.
    """

    _esm = _with_engine("engine.js", "random.js", "training.js") + _read("train.js")
    STRENGTHS = (0, 0.01, 0.03, 0.1, 0.3, 1, 3, 10)
    """The penalties that the sliders offer."""
    digits = traitlets.Dict().tag(sync=True)
    first = traitlets.Float(0.0).tag(sync=True)
    second = traitlets.Float(1.0).tag(sync=True)
    seed = traitlets.Int(0, min=0).tag(sync=True)

    def __init__(self, **state):
        super().__init__(digits=_sent(digits_for_browser()), **state)

    @traitlets.validate("first", "second")
    def _check_strength(self, proposal) -> float:
        if proposal.value not in self.STRENGTHS:
            raise traitlets.TraitError(f"λ must be one of {self.STRENGTHS}, got {proposal.value}")
        return proposal.value

    def _page_state(self) -> dict:
        return super()._page_state() | {"digits": {"key": self.digits["key"]}}
