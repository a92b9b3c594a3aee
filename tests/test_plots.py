"""Figures are drawn for real and looked at as arrays."""

from itertools import pairwise

import matplotlib.pyplot as plt
import pytest
import torch

from lesson_utils import AffineClassifier, plots


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def test_signed_maps_are_centred_on_zero():
    figure = plots.image_grid(torch.tensor([[[[1.0, -4.0], [0.0, 2.0]]]]), signed=True)
    (image,) = figure.axes[0].images
    assert image.get_clim() == (-4.0, 4.0)
    middle = image.cmap(0.5)[:3]
    assert min(middle) > 0.95  # zero is (nearly) white


def test_unsigned_images_keep_their_brightness():
    figure = plots.image_grid(torch.full((1, 1, 2, 2), 0.5))
    assert figure.axes[0].images[0].get_clim() == (0, 1)


def test_grid_layout_titles_and_flags():
    figure = plots.image_grid(torch.rand(5, 8, 8), list("abcde"), columns=3, signed=[True] * 5)
    assert [axis.get_title() for axis in figure.axes[:5]] == list("abcde")
    assert len(figure.axes) == 6
    assert not figure.axes[5].images
    colour = plots.image_grid(torch.rand(2, 3, 8, 8))
    assert colour.axes[0].images[0].get_array().shape == (8, 8, 3)


@pytest.mark.parametrize(
    ("images", "options", "message"),
    [
        (torch.rand(2, 5, 8, 8), {}, "1 or 3"),
        (torch.rand(8, 8), {}, "1 or 3"),
        (torch.rand(0, 1, 8, 8), {}, "1 or 3"),
        (torch.rand(2, 8, 8), {"titles": ["one"]}, "2 images, but 1 titles"),
        (torch.rand(2, 8, 8), {"signed": [True]}, "1 signed flags"),
    ],
)
def test_bad_grids(images, options, message):
    with pytest.raises(ValueError, match=message):
        plots.image_grid(images, **options)


def test_regions_show_the_decisions_and_the_exact_boundary():
    model = AffineClassifier([[1.0, 0.0], [-1.0, 0.0]], [-0.5, 0.5])  # boundary x1 = 0.5
    _, axis = plots.plane(model, (-2, 2), (-1, 1))
    classes = axis.images[0].get_array()
    assert classes[:, 0].min() == 1
    assert classes[:, -1].max() == 0
    lines = [
        path.vertices for c in axis.collections for path in c.get_paths() if len(path.vertices)
    ]
    assert all(abs(vertices[:, 0] - 0.5).max() < 1e-6 for vertices in lines)
    assert lines
    assert axis.get_aspect() == 1


def test_show_puts_the_escaped_alternative_text_into_the_page(monkeypatch):
    shown = {}
    monkeypatch.setattr("IPython.display.display", lambda data, raw: shown.update(data))
    figure = plt.figure()
    plots.show(figure, 'a "quoted" text & more')
    assert 'alt="a &quot;quoted&quot; text &amp; more"' in shown["text/html"]
    assert 'class="dark-light"' in shown["text/html"]
    assert shown["text/plain"] == '[Figure: a "quoted" text & more]'
    assert not plt.fignum_exists(figure.number)
    with pytest.raises(ValueError, match="alt must describe"):
        plots.show(plt.figure(), " ")


def test_palette_changes_line_style_with_colour():
    with plt.style.context(plots.STYLE):
        cycle = list(plt.rcParams["axes.prop_cycle"])
    assert len({c["color"] for c in cycle}) == len(cycle) >= 6
    assert all(a["linestyle"] != b["linestyle"] for a, b in pairwise(cycle))


def test_loud_pixels_can_be_drawn_alike():
    values = torch.linspace(-1, 1, 101).view(1, 1, 1, 101).clone()
    values[..., -1] = 50.0  # one loud pixel
    for quantile, limit in ((1.0, 50.0), (0.99, 1.0)):
        figure = plots.image_grid(values, signed=True, quantile=quantile)
        (image,) = figure.axes[0].images
        assert image.norm.vmax == -image.norm.vmin == pytest.approx(limit, rel=0.01)
        plots.picture(figure, "Closes it.")
