"""Affine classifiers: hyperplanes, to the nearest of which the distance has a closed form."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ..autograd import norm
from ..validation import check_agreement, check_finite, check_input


class AffineClassifier(nn.Module):
    """n classes with affine logits, ``Ψ^i(x) = ⟨x, z_i⟩ + b_i``.

    Parameters
    ----------
    weight : array-like, `(n_classes, d)`
        Rows z_i. Python floats become float64.
    bias : array-like, `(n_classes,)`, optional
        b_i; without it the classifier is linear.

    Raises
    ------
    ValueError
        Fewer than two classes, a bias of another length, or all rows equal (then
        the decision is the same everywhere).
    """

    def __init__(self, weight, bias=None):
        super().__init__()
        weight = _floats(weight)
        if weight.ndim != 2 or len(weight) < 2:
            raise ValueError(
                f"weight must have shape (n_classes ≥ 2, d), got {tuple(weight.shape)}"
            )
        bias = weight.new_zeros(len(weight)) if bias is None else _floats(bias).to(weight)
        if bias.shape != (len(weight),):
            raise ValueError(f"bias must have shape ({len(weight)},), got {tuple(bias.shape)}")
        if (weight == weight[0]).all():
            raise ValueError("weight must not have all rows equal: the decision would never change")
        self.register_buffer("weight", weight)
        self.register_buffer("bias", bias)

    def forward(self, x: Tensor) -> Tensor:
        """Logits, `(batch, n_classes)`."""
        return x.flatten(1) @ self.weight.T + self.bias

    def effective_bias(self) -> Tensor:
        """The bias of each logit, `(n_classes,)`."""
        return self.bias

    def _nearest_boundary(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """ρ, `(batch,)`, and the step from x to the nearest boundary, `(batch, d)`."""
        check_input(self, x)
        check_agreement(self, x)
        if x[0].numel() != self.weight.shape[1]:
            found = (
                f"{x[0].numel()} entries a sample, but weight has rows of {self.weight.shape[1]}"
            )
            raise ValueError(f"x has {found}: pass samples of that size")
        logits = self(x)
        check_finite("Ψ(x)", logits)
        prediction = logits.argmax(1)
        # Scores of any scale have this ρ: a power of two keeps differences and lengths in range.
        d, largest = self.weight.shape[1], self.weight.abs().amax()
        room = 2.0 ** -math.ceil(math.log2(4 * d**0.5)) if largest > 1 else 1.0
        weight, logits = room * self.weight, room * logits
        normals = weight[prediction][:, None] - weight  # (batch, n, d)
        margins = logits.gather(1, prediction[:, None]) - logits
        lengths = norm(normals.flatten(0, 1)).view_as(margins)
        # An equal row (i* itself, or a twin of it) has no boundary with i*.
        distances = torch.where(lengths == 0, torch.inf, margins / lengths)
        rho, rival = distances.min(1)
        rows = torch.arange(len(x), device=x.device)
        unit = normals[rows, rival] / lengths[rows, rival][:, None]
        return rho, -rho[:, None] * unit

    def robustness(self, x: Tensor) -> Tensor:
        """Exact robustness, ``ρ(x) = min_{j≠i*} (Ψ^{i*} − Ψ^j) / ‖z_{i*} − z_j‖``.

        The region of class i* is an intersection of half-spaces, so the distance to
        its complement is the smallest distance to one of the bounding hyperplanes. An equal
        row has none: a twin of i* does not count, not even at a tie.

        Parameters
        ----------
        x : Tensor, `(batch, *input_shape)` with d entries a sample

        Returns
        -------
        Tensor, `(batch,)`, in the L2 units of x.
        """
        return self._nearest_boundary(x)[0]

    def closest_adversary(self, x: Tensor) -> Tensor:
        """Foot of the perpendicular from x to the nearest boundary, of the shape of x.

        The two classes tie there, and any step beyond changes the decision. Up to rounding the
        infimum in ρ is attained there if the rival comes before i*, and only approached if it
        comes after: of several maximal classes the first one wins.
        """
        return x + self._nearest_boundary(x)[1].view_as(x)


class BinaryClassifier(AffineClassifier):
    """``F(x) = sgn Ψ(x)`` with ``Ψ(x) = ⟨x, z⟩ + b``, written with the two logits (−Ψ/2, +Ψ/2).

    Class 1 is Ψ > 0. The symmetric form keeps Ψ^1 − Ψ^0 = Ψ, makes softmax the logistic
    function of Ψ, and gives both classes the same alignment ``|⟨x, z⟩| / ‖z‖``.

    Parameters
    ----------
    z : array-like, `(d,)`
        Normal vector, not zero.
    b : float
        Bias; 0 gives the linear toy model with ρ = α.
    """

    def __init__(self, z, b: float = 0.0):
        z = _floats(z)
        if z.ndim != 1 or not z.any():
            raise ValueError(
                f"z must be one vector (d,) with a non-zero entry, got shape {tuple(z.shape)}"
            )
        b = torch.as_tensor(b, dtype=z.dtype, device=z.device)
        super().__init__(torch.stack([-z / 2, z / 2]), torch.stack([-b / 2, b / 2]))

    def score(self, x: Tensor) -> Tensor:
        """``Ψ(x) = ⟨x, z⟩ + b``, `(batch,)`."""
        logits = self(x)
        return logits[:, 1] - logits[:, 0]


def _floats(values) -> Tensor:
    """A tensor as it is; numbers and arrays of any other kind as float64."""
    if isinstance(values, Tensor) and values.is_floating_point():
        return values.detach().clone()
    return torch.as_tensor(values, dtype=torch.float64).clone()
