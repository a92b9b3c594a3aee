"""Attacks: adversarial examples as upper bounds of the robustness ρ(x).

An attack that finds F(x + e) ≠ F(x) proves ρ(x) ≤ ‖e‖ and nothing more. The
definition of ρ knows no box, so the default searches all of R^d; `bounds=(0, 1)`
keeps the adversary an image and can only make the distance larger.
"""

from .common import AttackResult
from .gradient_attacks import line_search, projected_gradient
from .minimal import minimal_l2
from .other_libraries import by_foolbox
from .protocol import ATTACKS, protocol_attacks

__all__ = [
    "ATTACKS",
    "AttackResult",
    "by_foolbox",
    "line_search",
    "minimal_l2",
    "projected_gradient",
    "protocol_attacks",
]
