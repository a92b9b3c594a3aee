"""The five attacks of the experiments, each an upper bound of ρ over all of R^d."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import Tensor, nn

from ..extras import needed_by
from .common import AttackResult
from .gradient_attacks import line_search, projected_gradient
from .minimal import minimal_l2
from .other_libraries import by_foolbox

ATTACKS = ("gradient", "pgd", "deepfool", "carlini_wagner", "minimal_l2")
"""Their names, in every record."""


def protocol_attacks(
    cw_rounds: int, cw_steps: int
) -> dict[str, Callable[[nn.Module, Tensor], AttackResult]]:
    """The attacks of the experiments, under their names in a record.

    Parameters
    ----------
    cw_rounds, cw_steps : int
        Of the attack by Carlini and Wagner: values of its constant, and steps of Adam for each.

    Raises
    ------
    ModuleNotFoundError
        foolbox is missing; the message says how to get it.
    """
    with needed_by("The attacks DeepFool and Carlini-Wagner"):
        from foolbox.attacks import L2CarliniWagnerAttack, L2DeepFoolAttack
    carlini_wagner = L2CarliniWagnerAttack(
        cw_rounds, cw_steps, stepsize=1 / cw_steps, initial_const=1.0
    )
    deepfool = partial(by_foolbox, L2DeepFoolAttack())
    by_cw = partial(by_foolbox, carlini_wagner)
    functions = line_search, projected_gradient, deepfool, by_cw, minimal_l2
    return dict(zip(ATTACKS, functions, strict=True))
