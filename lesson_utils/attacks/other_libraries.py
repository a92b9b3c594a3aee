"""The door to attacks of other libraries."""

from __future__ import annotations

from torch import Tensor, nn

from ..autograd import checked_logits
from ..extras import needed_by
from .common import AttackResult, as_result


def by_foolbox(attack, model: nn.Module, x: Tensor) -> AttackResult:
    """Run an L2 attack of foolbox on the predicted classes.

    foolbox knows no unbounded search. Its bounds are set to ±10 for every entry, far
    beyond any pixel that an adversary needs, so that all of R^d is searched in effect.

    Parameters
    ----------
    attack : foolbox.attacks.Attack
        E.g. `foolbox.attacks.L2DeepFoolAttack()`; one that minimises the distance.
    model, x
        As in :func:`minimal_l2`; `model` must be an nn.Module.

    Returns
    -------
    AttackResult
    """
    with needed_by("by_foolbox"):
        import foolbox

    _, logits = checked_logits(model, x)
    x, label = x.detach(), logits.argmax(1)
    wrapped = foolbox.PyTorchModel(model, bounds=(-10, 10), device=x.device)
    found, _, _ = attack(wrapped, x, label, epsilons=None)
    return as_result(model, x, found, label)
