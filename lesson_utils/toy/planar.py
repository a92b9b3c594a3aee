"""ReLU networks on the plane, cut into the polygons on which they are affine."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from ..validation import check_agreement, check_input


@dataclass(frozen=True)
class LinearRegion:
    """A convex polygon of the plane on which the logits are affine: Ψ(y) = weight @ y + bias."""

    polygon: np.ndarray
    """Corners in order, `(k, 2)`."""
    weight: np.ndarray
    """Gradients of the logits, `(n_classes, 2)`."""
    bias: np.ndarray
    """`(n_classes,)`."""


class PlanarReLUNet(nn.Module):
    """A ReLU network on the plane, cut into its linear regions, with exact robustness.

    Within a square window every layer's neurons cut the regions of the layer before. The
    decision boundary is a set of segments, and ρ(x) the distance to the nearest point
    of another class over all regions.

    Parameters
    ----------
    net : nn.Sequential
        `nn.Linear` and `nn.ReLU` in turn (an `nn.Flatten` is skipped), from 2 inputs
        to at least 2 logits; as made by `models.mlp([2, …, n])`.

    Raises
    ------
    ValueError
        `net` has other layers, no 2 inputs, or a single output.
    """

    def __init__(self, net: nn.Sequential):
        super().__init__()
        layers = [m for m in net if not isinstance(m, nn.Flatten)]
        kinds = [nn.Linear if k % 2 == 0 else nn.ReLU for k in range(len(layers))]
        if len(layers) % 2 == 0 or not all(map(isinstance, layers, kinds)):
            raise ValueError("net must be an nn.Sequential of Linear, ReLU, Linear, …, Linear")
        if layers[0].in_features != 2:
            raise ValueError(f"net must have 2 inputs, got {layers[0].in_features}")
        if layers[-1].out_features < 2:
            raise ValueError(
                "net must have at least 2 logits, got 1: a binary score psi is the same classifier "
                "with the two logits (-psi / 2, psi / 2)"
            )
        self.net = net
        self._dense = [m for m in layers if isinstance(m, nn.Linear)]

    def forward(self, x: Tensor) -> Tensor:
        """Logits, `(batch, n_classes)`."""
        return self.net(x)

    def linear_regions(self, center=(0.0, 0.0), radius: float = 3.0) -> list[LinearRegion]:
        """All linear regions that meet the square of the given center and half-width."""
        corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]], dtype=float)
        regions = [LinearRegion(np.asarray(center) + radius * corners, np.eye(2), np.zeros(2))]
        for layer in self._dense:
            weight = layer.weight.detach().double().cpu().numpy()
            bias = 0.0 if layer.bias is None else layer.bias.detach().double().cpu().numpy()
            regions = [_compose(region, weight, bias) for region in regions]
            if layer is not self._dense[-1]:
                regions = [_rectify(piece) for region in regions for piece in _cut(region)]
        return regions

    def cells(self, center=(0.0, 0.0), radius: float = 3.0) -> list[tuple[int, np.ndarray]]:
        """Pairs of a class and a convex polygon `(k, 2)` of one region on which it wins."""
        found = []
        for region in self.linear_regions(center, radius):
            pieces = [(i, _cell(region, i)) for i in range(len(region.bias))]
            found += [(i, polygon) for i, polygon in pieces if len(polygon) >= 3]
        return found

    def boundary(self, center=(0.0, 0.0), radius: float = 3.0) -> tuple[np.ndarray, np.ndarray]:
        """Segments of the decision boundary in the window.

        Returns
        -------
        segments : array, `(m, 2, 2)`
            Two end points each.
        classes : array of int, `(m, 2)`
            The classes i < j that tie there.
        """
        segments, classes = [], []
        for region in self.linear_regions(center, radius):
            for i in range(len(region.bias)):
                cell = _cell(region, i)
                for j in range(i + 1, len(region.bias)):
                    edge = _tie(region, cell, i, j)
                    if edge is not None:
                        segments.append(edge)
                        classes.append((i, j))
        return np.array(segments).reshape(-1, 2, 2), np.array(classes, dtype=int).reshape(-1, 2)

    def _nearest(self, x: Tensor, segments, skip: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Distance to the nearest segment and the point on it, in a window that reaches far enough.

        `segments(center, radius)` gives start points, end points and owners; those owned by
        `skip[b]` do not count for point b.
        """
        points = x.detach().double().cpu().numpy()
        center, radius = points.mean(0), 1.0 + 2 * np.abs(points - points.mean(0)).max()
        distance, foot = np.full(len(points), np.inf), np.full_like(points, np.nan)
        far = np.ones(len(points), dtype=bool)
        for _ in range(20):
            start, end, owner = segments(center, radius)
            for b in np.flatnonzero(far):
                counts = owner != skip[b]
                distance[b], foot[b] = _nearest_point(points[b], start[counts], end[counts])
            # What lies beyond the window is not known, and may be nearer than what is far within it.
            far = ~(distance <= radius - np.abs(points - center).max(1))
            if not far.any():
                break
            radius *= 2
        return distance, foot

    def _nearest_other_class(self, x: Tensor) -> tuple[np.ndarray, np.ndarray]:
        check_input(self, x)
        check_agreement(self, x)

        def edges_of_cells(center, radius):
            return _edges(self.cells(center, radius))

        return self._nearest(x, edges_of_cells, self(x).argmax(1).cpu().numpy())

    def affine_radius(self, x: Tensor) -> Tensor:
        """Radius r of the largest ball around x inside one linear region, `(batch,)`.

        Where ρ̃ < r, ρ̃ = ρ; where not, ρ ≥ r is all that linearization proves.
        """
        check_input(self, x)
        check_agreement(self, x)

        def kinks(center, radius):
            regions = self.linear_regions(center, radius)
            start, end, owner = _edges([(0, region.polygon) for region in regions])
            on_frame = np.abs((start + end) / 2 - center).max(1) >= radius * (1 - 1e-9)
            return start, end, owner - on_frame  # edges of the window are no kinks: owner −1

        return torch.as_tensor(self._nearest(x, kinks, np.full(len(x), -1))[0]).to(x)

    def robustness(self, x: Tensor) -> Tensor:
        """Exact ρ(x), `(batch,)`; +inf if no other class exists (within 10^6 times the data)."""
        return torch.as_tensor(self._nearest_other_class(x)[0]).to(x)

    def closest_adversary(self, x: Tensor) -> Tensor:
        """Nearest point of the closure of another class, `(batch, 2)`; NaN where ρ = +inf."""
        return torch.as_tensor(self._nearest_other_class(x)[1]).to(x)


def _compose(region: LinearRegion, weight: np.ndarray, bias: np.ndarray) -> LinearRegion:
    """The affine map of a region, followed by a dense layer."""
    return LinearRegion(region.polygon, weight @ region.weight, weight @ region.bias + bias)


def _rectify(region: LinearRegion) -> LinearRegion:
    """ReLU on a region where no neuron changes its sign: switch the negative ones off."""
    middle = region.polygon.mean(0)
    on = (region.weight @ middle + region.bias) > 0
    return LinearRegion(region.polygon, region.weight * on[:, None], region.bias * on)


def _cut(region: LinearRegion) -> list[LinearRegion]:
    """Cut a region along the lines where one of its neurons is zero."""
    values = region.polygon @ region.weight.T + region.bias
    scale = 1e-12 * (1 + np.abs(values).max())
    crossing = (values.min(0) < -scale) & (values.max(0) > scale)
    pieces = [region.polygon]
    for normal, offset in zip(region.weight[crossing], region.bias[crossing], strict=True):
        halves = [_clip(p, s * normal, s * offset) for p in pieces for s in (1, -1)]
        pieces = [half for half in halves if len(half) >= 3]
    return [LinearRegion(piece, region.weight, region.bias) for piece in pieces]


def _clip(polygon: np.ndarray, normal: np.ndarray, offset: float) -> np.ndarray:
    """Part of a convex polygon where ⟨y, normal⟩ + offset ≥ 0 (Sutherland and Hodgman)."""
    value = polygon @ normal + offset
    value[np.abs(value) <= 1e-12 * (1 + np.abs(value).max())] = 0.0
    if (value >= 0).all():
        return polygon
    if (value <= 0).all():
        return polygon[:0]
    following, next_value = np.roll(polygon, -1, axis=0), np.roll(value, -1)
    crossing = value * next_value < 0
    with np.errstate(divide="ignore", invalid="ignore"):
        share = (value / (value - next_value))[:, None]
        meeting = polygon + share * (following - polygon)
    candidates = np.stack([polygon, meeting], axis=1)
    return candidates[np.stack([value >= 0, crossing], axis=1)]


def _cell(region: LinearRegion, i: int) -> np.ndarray:
    """Polygon of a region on which class i wins, with fewer than 3 corners where it does not."""
    polygon = region.polygon
    for j in range(len(region.bias)):
        normal, offset = region.weight[i] - region.weight[j], region.bias[i] - region.bias[j]
        if j < i and not normal.any() and offset == 0:
            return polygon[:0]  # a tie on the whole region: the first class has it
        if j != i and len(polygon):
            polygon = _clip(polygon, normal, offset)
    return polygon


def _tie(region: LinearRegion, cell: np.ndarray, i: int, j: int) -> np.ndarray | None:
    """Edge of the cell of class i on which class j ties with it."""
    normal, offset = region.weight[i] - region.weight[j], region.bias[i] - region.bias[j]
    if len(cell) < 3 or not normal.any():
        return None
    value = np.abs(cell @ normal + offset) / np.linalg.norm(normal)
    ends = cell[value <= 1e-9 * (1 + np.abs(cell).max())]
    return ends[:2] if len(ends) >= 2 else None


def _edges(cells: list[tuple[int, np.ndarray]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Start points, end points and classes of the edges of all cells."""
    start = np.concatenate([polygon for _, polygon in cells])
    end = np.concatenate([np.roll(polygon, -1, axis=0) for _, polygon in cells])
    owner = np.concatenate([np.full(len(polygon), i) for i, polygon in cells])
    return start, end, owner


def _nearest_point(
    point: np.ndarray, start: np.ndarray, end: np.ndarray
) -> tuple[float, np.ndarray]:
    """Distance from a point to the nearest of many segments, and the point that attains it."""
    if len(start) == 0:
        return np.inf, np.full(2, np.nan)
    along = end - start
    length = (along**2).sum(1)
    share = ((point - start) * along).sum(1) / np.where(length > 0, length, 1)
    feet = start + share.clip(0, 1)[:, None] * along
    distance = np.linalg.norm(feet - point, axis=1)
    return distance.min(), feet[distance.argmin()]
