"""The five attacks of the experiments, each an upper bound of ρ over all of R^d."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from ..autograd import per_sample
from ..extras import needed_by
from ..validation import Model
from .common import AttackResult, Task, as_result, ask, scores, without_twins
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
        from foolbox.attacks import L2DeepFoolAttack
    deepfool = partial(by_foolbox, L2DeepFoolAttack())
    by_cw = partial(_carlini_wagner, cw_rounds, cw_steps)
    functions = line_search, projected_gradient, deepfool, by_cw, minimal_l2
    return dict(zip(ATTACKS, functions, strict=True))


class _Nearby(nn.Module):
    """v ↦ Ψ(x + length · v) / margin, with a length (about ρ̃) and a margin for each sample."""

    def __init__(self, task: Task, margin: Tensor):
        super().__init__()
        self.task, self.margin = task, margin

    def forward(self, v: Tensor) -> Tensor:
        y = self.task.x + per_sample(self.task.length, v) * v
        return self.task.model(y) / self.margin[:, None]

    def restricted_to(self, rows: Tensor) -> _Nearby:
        return _Nearby(self.task.of(rows), self.margin[rows])


@torch.inference_mode(False)
def _carlini_wagner(rounds: int, steps: int, model: Model, x: Tensor) -> AttackResult:
    """Foolbox's attack by Carlini and Wagner, in units that suit each sample.

    Its steps move every entry of every sample by one size, and its constant weighs scores against
    squared distances: on a photograph the first step would lead far beyond the boundary. Around x, in
    units of the length and of the margin, a linear network is crossed for every constant above 2.
    """
    from foolbox.attacks import L2CarliniWagnerAttack

    task = ask(model, x)
    first, second = without_twins(task, task.x, scores(task, task.x)).topk(2).values.T
    margin = torch.maximum(first - second, torch.finfo(first.dtype).eps * first.abs())
    margin = margin.where((margin > 0) & margin.isfinite(), 1.0)
    nearby, origin = _Nearby(task, margin), torch.zeros_like(task.x)
    share = 20 / steps  # of its length, that a step of Adam takes; tried: 5, 10, 20, 40
    stepsize = share / origin[0].numel() ** 0.5 / 10  # foolbox's unit is the bound, ±10
    attack = L2CarliniWagnerAttack(rounds, steps, stepsize=stepsize, initial_const=1.0)
    found = by_foolbox(attack, nearby, origin).adversarial
    return as_result(task, task.x + per_sample(task.length, found) * found)
