"""Classifiers whose robustness ρ(x) is known exactly: the ground truth of the book."""

from .affine import AffineClassifier, BinaryClassifier
from .planar import LinearRegion, PlanarReLUNet

__all__ = ["AffineClassifier", "BinaryClassifier", "LinearRegion", "PlanarReLUNet"]
