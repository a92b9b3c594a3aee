"""Helpers of the book *Robustness and Saliency*.

Importing this package loads torch and numpy only. The rooms with heavier needs are
imported by name: `lesson_utils.data`, `models`, `plots`, `training`.
"""

from .attacks import AttackResult, minimal_l2
from .geometry import LinearizedRobustness, alignment, linearized_robustness, saliency_map
from .gradients import jacobian
from .toy import AffineClassifier, BinaryClassifier
from .training import gradient_penalty_loss

__version__ = "0.1.0"

__all__ = [
    "AffineClassifier",
    "AttackResult",
    "BinaryClassifier",
    "LinearizedRobustness",
    "alignment",
    "gradient_penalty_loss",
    "jacobian",
    "linearized_robustness",
    "minimal_l2",
    "saliency_map",
]
