"""Networks side by side: the table and the figure say what the single functions say."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from lesson_utils import BinaryClassifier, measure, minimal_l2, plots, saliency_map
from lesson_utils.comparison import compare
from lesson_utils.models import Normalize, SmallNet, mlp


@pytest.fixture(scope="module")
def models():
    torch.manual_seed(0)
    small = SmallNet((1, 8, 8), widths=(4, 4), hidden=8).eval()
    return {"dense": mlp([64, 12, 10]).eval(), "small": nn.Sequential(Normalize(0.5, 0.2), small)}


def test_the_table_holds_the_medians_of_the_single_functions(models):
    x, y = torch.rand(6, 1, 8, 8), torch.arange(6)
    found = compare(models, x, y)
    table = found.to_frame()
    assert list(table.index) == ["dense", "small"]
    for name, model in models.items():
        m, row = measure(model, x), table.loc[name]
        assert row["accuracy"] == pytest.approx((m.prediction == y).double().mean().item())
        for column in ("alignment", "linearized_robustness", "bound", "degree_of_homogeneity"):
            assert row[column] == pytest.approx(np.median(getattr(m, column)), rel=1e-5)
        assert row["norm"] == pytest.approx(np.median(m.input_norm))
        distance = minimal_l2(model, x).distance
        assert row["adversary"] == pytest.approx(np.median(distance), rel=1e-4)
        torch.testing.assert_close(found.maps[name], saliency_map(model, x))


def test_without_labels_and_without_adversaries(models):
    never = BinaryClassifier(torch.zeros(64).index_fill(0, torch.tensor([0]), 1.0), 5.0)
    x = torch.rand(3, 64)
    table = compare({"never": never}, x, bounds=(0, 1)).to_frame()
    assert "accuracy" not in table
    assert table.loc["never", "adversary"] == math.inf  # the boundary is outside of the box


def test_the_figure_has_an_image_and_a_map_of_each_model_in_a_row(models):
    x = torch.rand(5, 1, 8, 8)
    found = compare(models, x, torch.arange(5))
    figure = found.figure(2)
    titles = [axis.get_title() for axis in figure.axes]
    assert len(titles) == 6
    assert titles[0] == "class 0" and titles[3] == "class 1"
    m = found.measurements["small"]
    assert titles[5] == (
        f"small: class {m.prediction[1]}\nα = {m.alignment[1]:.3g}, ρ̃ = {m.linearized_robustness[1]:.3g}"
    )
    drawn = figure.axes[4].images[0].get_array()
    np.testing.assert_allclose(drawn, found.maps["dense"][1, 0])
    plots.picture(figure, "Closes it.")


def test_what_is_wrong_is_named_with_its_model(models):
    x = torch.rand(4, 1, 8, 8)
    with pytest.raises(ValueError, match="models is empty"):
        compare({}, x)
    with pytest.raises(TypeError, match="models must be a mapping"):
        compare(list(models.values()), x)
    for labels, error, message in (
        (torch.arange(3), ValueError, r"labels must be one label a sample of x, shape \(4,\)"),
        ([0, 1, 2, 3], TypeError, "labels must be a torch.Tensor"),
        (torch.rand(4), TypeError, "labels must hold labels"),
        (torch.tensor([0, 1, 2, 10]), IndexError, "labels must lie in 0 … 9"),
    ):
        with pytest.raises(error, match=message):
            compare(models, x, labels)
    with pytest.raises(ValueError, match="images must be at least 1"):
        compare(models, x).figure(0)
    mixing = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64), nn.Linear(64, 3)).train()
    with pytest.raises(ValueError) as error:
        compare(models | {"in train mode": mixing}, x)
    assert error.value.__notes__ == ["This is about the model 'in train mode'."]


def test_images_come_in_chunks(models):
    x, y = torch.rand(5, 1, 8, 8), torch.arange(5)
    whole, parts = compare(models, x, y), compare(models, x, y, chunk_size=2)
    np.testing.assert_allclose(whole.to_frame(), parts.to_frame(), rtol=1e-4)
    for name in models:
        torch.testing.assert_close(whole.maps[name], parts.maps[name])
        assert parts.adversaries[name].adversarial.shape == x.shape


def test_what_is_undefined_at_an_image_is_left_out():
    flat = nn.Sequential(nn.Flatten(), nn.ReLU(), nn.Linear(3, 2, bias=False)).eval()
    x = torch.tensor([[1.0, 2, 3], [-1, -1, -1], [2, 1, 4]])  # no gradient at the second
    column = compare({"flat": flat}, x).to_frame()["degree_of_homogeneity"]
    assert column["flat"] == pytest.approx(1.0)


def test_names_are_no_formulas():
    net = mlp([12, 3]).eval()
    figure = compare(
        {"a$b_c^$": nn.Sequential(nn.Flatten(), net).eval()}, torch.rand(2, 3, 2, 2)
    ).figure()
    figure.canvas.draw()
    assert any("a\\$b_c^\\$: class" in axis.get_title() for axis in figure.axes)
