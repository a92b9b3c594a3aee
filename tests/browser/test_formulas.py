"""The explorers compute in the browser what Python computes: ρ, α, ρ̃ and the affine radius, to 1e-9."""

import numpy as np
import pytest
import torch

from lesson_utils import alignment, linearized_robustness, plots, saliency_map
from lesson_utils.models import mlp
from lesson_utils.toy import BinaryClassifier, PlanarReLUNet
from lesson_utils.widgets import AffineExplorer, PlanarExplorer, ToyExplorer

TOLERANCE = {"rtol": 1e-9, "atol": 1e-9}


def in_browser(page, explorer, function, arguments):
    """Call an exported function of an explorer's module once for each list of arguments."""
    module = plots.data_url("text/javascript", str(explorer._esm).encode())
    call = f"""async ([module, calls]) => {{
        const {{ {function} }} = await import(module);
        return calls.map((call) => {function}(...call));
    }}"""
    return page.evaluate(call, [module, arguments])


def column(results, key):
    return np.array([result[key] for result in results], dtype=float)


def test_toy(page):
    rng = np.random.default_rng(0)
    x, z = 3 * rng.normal(size=(2, 500, 2))
    shown = in_browser(page, ToyExplorer, "toy", np.stack([x, z], 1).tolist())
    points = torch.as_tensor(x)[:, None]
    models = [BinaryClassifier(row) for row in z]
    rho = [m.robustness(p).item() for m, p in zip(models, points, strict=True)]
    alpha = [alignment(p, saliency_map(m, p)).item() for m, p in zip(models, points, strict=True)]
    feet = [m.closest_adversary(p)[0].tolist() for m, p in zip(models, points, strict=True)]
    np.testing.assert_allclose(column(shown, "rho"), rho, **TOLERANCE)
    np.testing.assert_allclose(column(shown, "alpha"), alpha, **TOLERANCE)
    np.testing.assert_allclose(column(shown, "product"), alpha, **TOLERANCE)
    np.testing.assert_allclose(column(shown, "foot"), feet, **TOLERANCE)


def test_affine(page):
    rng = np.random.default_rng(1)
    names = ("x", "z", "v", "c")
    states = []
    for k in range(300):
        state = {
            name: vector.tolist()
            for name, vector in zip(names, rng.normal(size=(4, 2)), strict=True)
        }
        b, shift = rng.normal(size=2).tolist()
        states.append(
            state
            | {"b": b, "shift": shift, "three": k % 2 == 0, "third": rng.normal(size=3).tolist()}
        )
    shown = in_browser(page, AffineExplorer, "affine", [[state] for state in states])
    for result, state in zip(shown, states, strict=True):
        explorer = AffineExplorer(**state)
        x, c = torch.tensor([[state["x"], state["c"]]], dtype=torch.float64).unbind(1)
        g = saliency_map(explorer.model, x)
        np.testing.assert_allclose(result["rho"], explorer.model.robustness(x).item(), **TOLERANCE)
        np.testing.assert_allclose(result["alpha"], alignment(x - c, g).item(), **TOLERANCE)
        assert result["winner"] == explorer.model(x).argmax().item()


@pytest.mark.parametrize("sizes", [[2, 8, 3], [2, 5, 5, 4], [2, 10, 2]])
def test_planar(page, sizes):
    torch.manual_seed(sum(sizes))
    layers = mlp(sizes).double()
    x = torch.rand(300, 2, dtype=torch.float64) * 3.9 - 1.95
    with torch.no_grad():
        layers[-1].bias -= layers(x).mean(0)  # or one class might win everywhere
    net = PlanarReLUNet(layers)
    explorer = PlanarExplorer(net, view=2.0)
    state = {key: getattr(explorer, key) for key in ("regions", "cells", "reach")}
    shown = in_browser(page, explorer, "planar", [[state, point] for point in x.tolist()])
    lin = linearized_robustness(net, x)
    np.testing.assert_allclose(column(shown, "tilde"), lin.value, **TOLERANCE)
    assert column(shown, "winner").tolist() == lin.prediction.tolist()
    known = explorer.reach - x.abs().amax(1)  # beyond, the browser says that it does not know
    for key, exact in (("rho", net.robustness(x)), ("radius", net.affine_radius(x))):
        there = (exact <= known).numpy()
        assert there.mean() > 0.4, f"{key} is hardly ever known"
        np.testing.assert_allclose(column(shown, key)[there], exact[there], **TOLERANCE)
        assert np.isinf(column(shown, key)[~there]).all()


def test_zero_saliency_is_undefined_not_an_error(page):
    state = {"x": [1.0, 0.0], "z": [0.0, 2.0], "b": 1.0, "three": False, "third": [0.0, 0.0, 0.0]}
    state |= {"shift": 1.0, "v": [0.0, -1.0], "c": [0.0, 0.0]}  # z/2 + v = 0
    (shown,) = in_browser(page, AffineExplorer, "affine", [[state]])
    assert np.isnan(shown["alpha"]) and shown["rho"] == 0.5
