"""Figures are drawn for real and looked at as arrays."""

import math
from itertools import pairwise

import matplotlib.pyplot as plt
import numpy as np
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
        (torch.rand(2, 8, 8), {"size": 0}, "^size must be a number > 0 and finite, got 0$"),
        (torch.rand(2, 8, 8), {"size": -1.0}, "^size must be a number > 0"),
        (torch.rand(2, 8, 8), {"size": math.nan}, "^size must be a number > 0"),
    ],
)
def test_bad_grids(images, options, message):
    with pytest.raises(ValueError, match=message):
        plots.image_grid(images, **options)


def test_the_size_of_a_grid_is_a_number():
    with pytest.raises(TypeError, match="must be a number, got 'a'"):
        plots.image_grid(torch.rand(2, 8, 8), size="a")


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


def test_texts_on_each_other_and_cut_texts_are_found(monkeypatch):
    figure, axes = plt.subplots(figsize=(4, 3), layout="constrained")
    axes.set(xlim=(0, 1), ylim=(0, 1), title="A title", xlabel="x")
    axes.text(0.1, 0.2, "here")
    axes.text(0.1, 0.8, "there")
    assert plots.colliding_texts(figure) == []
    axes.text(0.12, 0.21, "and here")
    axes.text(0.9, 0.5, "over the edge", in_layout=False)
    assert plots.colliding_texts(figure) == [("over the edge", "edge"), ("here", "and here")]
    monkeypatch.setenv("LESSONS_CHECK_FIGURES", "1")
    with pytest.raises(ValueError, match="'here', 'and here'"):
        plots.picture(figure, "Too much.")
    monkeypatch.delenv("LESSONS_CHECK_FIGURES")
    assert plots.picture(figure, "A reader sees it all the same.")


def test_what_is_not_drawn_collides_with_nothing():
    figure, axes = plt.subplots(figsize=(4, 2), layout="constrained")
    axes.set_xticks([0, 0.5, 0.5001, 5, 5.01], ["0", "near", "near", "far", "far"])
    axes.set_xlim(0, 1)
    assert plots.colliding_texts(figure) == [("near", "near")]
    axes.set_axis_off()
    assert plots.colliding_texts(figure) == []


def test_rows_of_images_have_names():
    images = torch.rand(4, 1, 8, 8)
    with plt.style.context(plots.STYLE):
        figure = plots.image_grid(images, columns=2, rows=["image", "map"])
    assert [axis.texts[0].get_text() for axis in (figure.axes[0], figure.axes[2])] == [
        "image",
        "map",
    ]
    assert plots.colliding_texts(figure) == []
    with pytest.raises(ValueError, match="2 rows of images, but 1 names of rows"):
        plots.image_grid(images, columns=2, rows=["image"])


def test_labels_stand_where_they_are_told():
    _, axis = plt.subplots()
    for offset, side in ((None, "left"), ((-8, -18), "right"), ((0, 9), "center")):
        plots.point(axis, (0, 0), "here", offset=offset)
        assert axis.texts[-1].get_horizontalalignment() == side
    plots.arrow(axis, (0, 0), (1, 1), "there", offset=(-10, -4))
    assert axis.texts[-1].xyann == (-10, -4)


@pytest.mark.parametrize(
    ("column", "texts"),
    [
        ([0.97, 0.9861], ["0.970", "0.986"]),
        ([0.37, 4.0], ["0.37", "4.00"]),  # within a factor of 100: as many decimals
        ([7.77e-16, 0.25], ["0.000", "0.250"]),  # beside 0.25 it is rounding
        ([2.3e-15, 0.114], ["2.30e-15", "0.114"]),
        ([7.77e-16], ["7.77e-16"]),
        ([0.0, 1.0], ["0.00", "1.00"]),
        ([-0.03, 0.5], ["−0.030", "0.500"]),
        ([56.3918, 1234.5], ["56", "1,234"]),
        ([0.9999], ["1.000"]),
        ([241546, 3, True, "a"], ["241,546", "3", "True", "a"]),
        ([float("inf"), float("nan"), 2.0], ["∞", "–", "2.00"]),
        ([1e-5, 2e-5], ["1.00e-05", "2.00e-05"]),
    ],
)
def test_three_digits(column, texts):
    assert plots.three_digits(column) == texts


def test_table_in_html_and_as_text(monkeypatch):
    shown = {}
    monkeypatch.setattr("IPython.display.display", lambda data, raw: shown.update(data))
    rows = {0.0: [torch.tensor(0.974), 3], ("a & b", 0.1): np.array([0.5, 1200.0]), "one": [1, "x"]}
    plots.table(["λ", "accuracy", 5], rows)
    assert shown["text/plain"].split("\n")[0].split() == ["λ", "accuracy", "5"]
    assert shown["text/plain"].split("\n")[1].split() == ["0", "0.974", "3"]
    page = shown["text/html"]
    assert page.count('<th scope="row">') == 3 and '<th scope="row">a &amp; b, 0.1</th>' in page
    assert "overflow-x:auto" in page
    plots.table(["network", "value"], {"one": 0.5, "two": torch.tensor([0.25])})
    assert shown["text/plain"].split()[-2:] == ["two", "0.250"]
    with pytest.raises(ValueError, match="row 'one' has 2 entries, but there are 1 headings"):
        plots.table(["network", "value"], {"one": [1, 2]})


def test_answers_are_folded_but_not_in_the_book(monkeypatch, capsys):
    shown = {}
    monkeypatch.setattr("IPython.display.display", lambda data, raw: shown.update(data))
    monkeypatch.delenv("LESSONS_BOOK", raising=False)
    with plots.folded():
        print("2 < 3")
    assert capsys.readouterr().out == ""
    assert shown["text/plain"] == "2 < 3"
    assert shown["text/html"] == (
        "<details><summary>Answer in numbers</summary><pre>2 &lt; 3\n</pre></details>"
    )
    monkeypatch.setenv("LESSONS_BOOK", "1")
    shown.clear()
    with plots.folded():
        print("2 < 3")
    assert capsys.readouterr().out == "2 < 3\n" and not shown
