"""What attacks share: their question, the test whether a point is adversarial, their result."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..autograd import (
    checked_logits,
    gradient,
    leaf_and_logits,
    logit_of,
    norm,
    per_sample,
    ranking,
)
from ..validation import Bounds, Model, check_bounds, restricted


class AttackResult(NamedTuple):
    """Result of an attack."""

    distance: Tensor
    """`(batch,)`: ‖adversarial − x‖, an upper bound of ρ(x); +inf where the attack failed."""
    adversarial: Tensor
    """`(batch, *input_shape)`: classified differently from x; NaN where the attack failed."""
    success: Tensor
    """`(batch,)` of bool."""


class Task(NamedTuple):
    """What an attack is asked: for each sample a point near x with another decision than `label`."""

    model: Model
    x: Tensor
    label: Tensor
    """i*, `(batch,)`."""
    length: Tensor
    """`(batch,)`: the unit in which steps are measured. ρ̃(x) or a little more; see :func:`ask`."""
    bounds: Bounds | None = None

    def of(self, rows: Tensor) -> Task:
        """The same for some samples: the one place where an attack takes a part of its batch."""
        model = restricted(self.model, rows)
        return Task(model, self.x[rows], self.label[rows], self.length[rows], self.bounds)

    def clip(self, y: Tensor) -> Tensor:
        """The nearest point inside the bounds; y itself where there are none."""
        return y if self.bounds is None else y.clamp(*self.bounds)


def ask(model: Model, x: Tensor, bounds: Bounds | None = None) -> Task:
    """Check what an attack was given, and find i* and a length that suits each sample.

    No step may depend on the units of the scores or of x. Distances to linearized
    boundaries do not: the unit is the one to the boundary with the strongest rival. A tie
    makes it zero, though, and no gradient makes it infinite. It is at least a thousand
    roundings of x, and where nothing else is known ‖x‖, or 1 for x = 0.
    """
    bounds = check_bounds(x, bounds)
    leaf, logits = checked_logits(model, x)
    label, x = logits.argmax(1), x.detach().clone()
    distance, normal = boundary(logits, leaf, label)
    size = norm(x)
    length = torch.maximum(distance.abs(), 1e3 * torch.finfo(x.dtype).eps * size)
    length = torch.where((norm(normal) > 0) & (length > 0), length, size)
    task = Task(model, x, label, torch.where(length > 0, length, 1.0), bounds)
    return task._replace(x=task.clip(x))


# --- decisions ---------------------------------------------------------------


def decides_otherwise(task: Task, y: Tensor, logits: Tensor) -> Tensor:
    """Whether each y, with scores `logits`, is an adversary, `(batch,)` of bool.

    It is a point of numbers with scores that are numbers and another decision than i*.
    (The first NaN is the maximum for `argmax`: that is no decision.)
    """
    numbers = y.flatten(1).isfinite().all(1) & logits.isfinite().all(1)
    return numbers & (logits.argmax(1) != task.label)


@torch.no_grad()
def scores(task: Task, y: Tensor) -> Tensor:
    """Ψ(y), `(batch, n_classes)`, of a copy: some models change their input."""
    return task.model(y.clone())


def is_adversarial(task: Task, y: Tensor) -> Tensor:
    """Whether each y is an adversary; see :func:`decides_otherwise`."""
    return decides_otherwise(task, y, scores(task, y))


def advance(task: Task, y: Tensor, step: Tensor) -> tuple[Tensor, Tensor]:
    """Y + step inside the bounds, and whether it is an adversary.

    Where the scores there are no numbers the step is halved, a dozen times at most.
    """
    for _ in range(12):
        ahead = task.clip(y + step)
        logits = scores(task, ahead)
        lost = ~logits.isfinite().all(1)
        if not lost.any():
            break
        step = torch.where(per_sample(lost, step), step / 2, step)
    return ahead, decides_otherwise(task, ahead, logits)


def bisect(task: Task, y: Tensor, *, start: Tensor | None = None, halvings: int) -> Tensor:
    """Boundary point on the segment from x, or `start`, to an adversary y, on y's side."""
    x = task.x if start is None else start
    low, high = x.new_zeros(len(x)), x.new_ones(len(x))
    for _ in range(halvings):
        middle = (low + high) / 2
        fooled = is_adversarial(task, x + per_sample(middle, x) * (y - x))
        low, high = torch.where(fooled, low, middle), torch.where(fooled, middle, high)
    return torch.where(per_sample(high < 1, x), x + per_sample(high, x) * (y - x), y)


# --- gradients, in units of length -------------------------------------------


def unit(w: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """A scale and a length with ‖w‖ = scale · length, and w/‖w‖; zero where w has no direction.

    Two factors, because their product can leave the range of floating point.
    """
    scale = w.flatten(1).abs().amax(1).clamp(min=torch.finfo(w.dtype).tiny)
    scaled = w / per_sample(scale, w)
    length = norm(scaled)
    known = (length > 0) & length.isfinite()
    return scale, length, torch.where(per_sample(known, w), scaled / per_sample(length, w), 0.0)


def hyperplane(margin: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
    """Signed distance to {e : margin + ⟨w, e⟩ = 0} and its unit normal; ±inf and 0 for w = 0."""
    scale, length, normal = unit(w)
    distance = margin.detach().to(w.dtype) / scale / length
    return torch.where(normal.flatten(1).any(1), distance, torch.inf), normal


def boundary(
    logits: Tensor,
    leaf: Tensor,
    label: Tensor,
    rival: Tensor | None = None,
    *,
    lead: float | Tensor = 0.0,
    keep=False,
) -> tuple[Tensor, Tensor]:
    """:func:`hyperplane` of Ψ^label − Ψ^rival, linearized at `leaf`; by default the strongest rival.

    Beyond it the rival leads by more than `lead`.
    """
    rival = ranking(logits, label)[:, 1] if rival is None else rival
    margin = logit_of(logits, label) - logit_of(logits, rival)
    return hyperplane(margin + lead, gradient(margin, leaf, keep_graph=keep))


def ascent(
    task: Task, y: Tensor, *, spread: float | None = None, rival: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Unit vector in which the cross-entropy ℓ grows fastest at y; if y fools; if Ψ(y) is finite.

    Taken from log(e^ℓ − 1) = log Σ_{j≠label} e^{Ψ^j} − Ψ^label, whose gradient has the same
    direction: that of ℓ itself rounds to nothing where the network is sure of itself. The
    direction depends on the scale of the scores: at a small spread, largest minus least, all
    rivals count alike, at a large one the strongest alone. `spread`: scale the scores to it.
    `rival`: this one counts alone, `(batch,)`.
    """
    leaf, logits = leaf_and_logits(task.model, y)
    fooled, finite = decides_otherwise(task, y, logits), logits.isfinite().all(1)
    if spread is not None:
        found = (logits.amax(1) - logits.amin(1)).detach()
        logits = logits / found.clamp(min=torch.finfo(found.dtype).tiny)[:, None] * spread
    others = logits.scatter(1, task.label[:, None], -torch.inf)
    lead = others.logsumexp(1) if rival is None else logit_of(logits, rival)
    grad = gradient(lead - logit_of(logits, task.label), leaf)
    return unit(grad)[2], fooled, finite


# --- the result --------------------------------------------------------------


def as_result(task: Task, found: Tensor) -> AttackResult:
    """Judge the points `found`, one a sample: adversaries count, all else is a failure."""
    found, success = _settle(task, found)
    distance = torch.where(success, norm(found - task.x), torch.inf)
    success = distance.isfinite()
    return AttackResult(distance, found.where(per_sample(success, found), torch.nan), success)


def _settle(task: Task, found: Tensor) -> tuple[Tensor, Tensor]:
    """Move adversaries beyond the boundary until no rounding can bring them back.

    Rounding differs with the size of a batch. A decision counts as settled where the rival
    leads by more than the scores are rounded, in company, and leads alone. The points move
    outwards from x by a few roundings, and twice as far each time. Where the lead stays
    below (a rival that only ties), the point itself is kept if it is an adversary both in
    company and alone.
    """
    settled = found.clone()
    success = torch.zeros_like(task.label, dtype=torch.bool)
    # All that are points: what was an adversary in another company may lack a rounding here.
    waiting = found.flatten(1).isfinite().all(1).nonzero().flatten()
    if len(waiting) == 0:
        return settled, success
    tolerance, step = _roundings(task, found)
    away = unit(found - task.x)[2]
    for push in (0, *(2**k for k in range(12))):
        part, size = task.of(waiting), per_sample(push * step[waiting], found)
        y = part.clip(found[waiting] + size * away[waiting])
        logits = scores(part, y)
        lead = logits.amax(1) - logit_of(logits, part.label)
        good = decides_otherwise(part, y, logits) & (lead > tolerance[waiting])
        good[good.clone()] = _alone(task, y[good], waiting[good])
        settled[waiting[good]], success[waiting[good]] = y[good], True
        waiting = waiting[~good]
        if len(waiting) == 0:
            return settled, success
    fooled = is_adversarial(task.of(waiting), found[waiting])
    fooled[fooled.clone()] = _alone(task, found[waiting[fooled]], waiting[fooled])
    success[waiting] = fooled
    return settled, success


def _alone(task: Task, y: Tensor, rows: Tensor) -> Tensor:
    """Whether each y, a point of the sample `rows`, is an adversary in a batch of its own."""
    one_by_one = zip(y.split(1), rows.split(1), strict=True)
    return torch.cat([is_adversarial(task.of(row), one) for one, row in one_by_one] or [rows > 0])


def _roundings(task: Task, y: Tensor) -> tuple[Tensor, Tensor]:
    """About how far rounding moves the scores at y, and y itself with as much of it as decides.

    The scores are rounded by a share of their largest terms; on the way to the boundary that is
    as if y were rounded by this over the slope of the margin, and by its own roundings.
    """
    leaf, logits = leaf_and_logits(task.model, y)
    own = logit_of(logits, task.label)
    grads = gradient(own, leaf, keep_graph=True), gradient(logits.amax(1), leaf)
    terms = sum((w * y).abs().flatten(1).sum(1) for w in grads)
    size, eps = logits.detach().abs().amax(1) + terms.to(logits.dtype), torch.finfo(y.dtype).eps
    of_scores = (2 * eps * size).nan_to_num(0.0, posinf=0.0)
    # Where the margin is flat its slope says nothing: at most a small share of the distance.
    slack = hyperplane(of_scores, grads[1] - grads[0])[0].nan_to_num(0.0, posinf=0.0)
    return of_scores, eps * norm(y) + slack.minimum(1e-6 * norm(y - task.x))
