"""The door to attacks of other libraries."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from ..autograd import leaf_and_logits
from ..extras import needed_by
from ..validation import Model, as_tensor_of_logits, logits_alone
from .common import AttackResult, Task, as_result, ask, without_twins


@torch.inference_mode(False)
def by_foolbox(attack, model: Model, x: Tensor) -> AttackResult:
    """Run an L2 attack of foolbox on the predicted classes.

    foolbox knows no unbounded search. Its bounds are set to ±10 for every entry, or to twice
    the largest entry of x if that is more: far beyond any pixel that an adversary needs, so that all
    of R^d is searched in effect. Some attacks depend on the bounds, and by them on the batch.

    Parameters
    ----------
    attack : foolbox.attacks.Attack
        E.g. `foolbox.attacks.L2DeepFoolAttack()`; one that minimises the distance.
    model, x
        As in :func:`minimal_l2`.

    Returns
    -------
    AttackResult

    Raises
    ------
    TypeError
        `attack` needs a radius, and minimises nothing.
    TypeError, ValueError
        As in :func:`minimal_l2`.
    """
    with needed_by("by_foolbox"):
        import foolbox

    if not isinstance(attack, foolbox.attacks.base.MinimizationAttack):
        raise TypeError(
            f"attack must minimise the distance, but {type(attack).__name__} does not: "
            "use e.g. foolbox.attacks.L2DeepFoolAttack()"
        )
    task = ask(model, x)
    reach = max(10.0, 2 * task.x.abs().max().item())
    rivals = model if task.twins is None else partial(_scores_of_rivals, task)
    wrapped = foolbox.PyTorchModel(_Shielded(rivals).eval(), (-reach, reach), device=x.device)
    devices = [x.device] if x.device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        found, _, _ = attack(wrapped, task.x, task.label, epsilons=None)
    return as_result(task, found.to(task.x.dtype))


def _scores_of_rivals(task: Task, y: Tensor) -> Tensor:
    """The scores, with the least of them for a twin of i*: foolbox cannot know that it is no rival."""
    logits = as_tensor_of_logits(task.model(y))
    least = logits.detach().amin(1, keepdim=True)
    return torch.where(without_twins(task, y, logits) == -torch.inf, least, logits)


class _Shielded(nn.Module):
    """A model whose backward passes end at its input: foolbox's would leave `.grad` in the weights."""

    def __init__(self, model: Model):
        super().__init__()
        self.function = [model]  # no submodule: foolbox sets modes and devices

    def forward(self, x: Tensor) -> Tensor:
        if not (x.requires_grad and torch.is_grad_enabled()):
            return logits_alone(self.function[0], x)
        return _ByInputAlone.apply(x, self.function[0])


class _ByInputAlone(torch.autograd.Function):
    """model(x), differentiated by x only."""

    @staticmethod
    def forward(ctx, x: Tensor, model: Model) -> Tensor:
        ctx.leaf, ctx.logits = leaf_and_logits(model, x)
        return ctx.logits.detach()

    @staticmethod
    def backward(ctx, weights: Tensor) -> tuple[Tensor, None]:
        by_x = torch.autograd.grad(ctx.logits, ctx.leaf, weights, retain_graph=True)
        return by_x[0], None
