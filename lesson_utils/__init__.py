"""Helpers of the book *Robustness and Saliency*.

Importing this package loads torch and numpy only. The other rooms are imported by name:
`lesson_utils.checks`, `comparison`, `data`, `experiments`, `models`, `photographs`, `plots`,
`records`, `training`, `widgets`.
"""

from .attacks import AttackResult, minimal_l2
from .autograd import jacobian
from .bound import BoundTerms, Measurements, binarize, bound_terms, measure
from .homogeneity import Decomposition, homogeneous_decomposition
from .linearized import LinearizedRobustness, linearized_robustness
from .saliency import alignment, saliency_map
from .toy import AffineClassifier, BinaryClassifier
from .training import gradient_penalty_loss

__version__ = "0.1.0"

__all__ = [
    "AffineClassifier",
    "AttackResult",
    "BinaryClassifier",
    "BoundTerms",
    "Decomposition",
    "LinearizedRobustness",
    "Measurements",
    "alignment",
    "binarize",
    "bound_terms",
    "gradient_penalty_loss",
    "homogeneous_decomposition",
    "jacobian",
    "linearized_robustness",
    "measure",
    "minimal_l2",
    "saliency_map",
]
