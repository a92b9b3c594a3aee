"""What attacks share: their question, the test whether a point is adversarial, their result."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..autograd import (
    check_gradient,
    checked_logits,
    gradient,
    leaf_and_logits,
    logit_of,
    margin_gradient,
    norm,
    per_sample,
    ranking,
)
from ..validation import Bounds, Model, check_bounds, logits_alone, restricted

# So many roundings of the largest summands of two scores: within them they are equal.
_FEW_ROUNDINGS = 16


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
    margins: Tensor | None = None
    """`(batch, n_classes)`: Ψ^{i*} − Ψ^j at x."""
    twins: Tensor | None = None
    """`(batch, n_classes)` of bool: the twins of i*, see :func:`ask`; None if no sample has one."""
    terms: Tensor | None = None
    """`(batch, 2)`: the size of the summands of the scores at x, and how fast it grows from there."""

    def of(self, rows: Tensor) -> Task:
        """The same for some samples: the one place where an attack takes a part of its batch."""
        tensors = {name: t[rows] for name, t in self._asdict().items() if isinstance(t, Tensor)}
        return self._replace(model=restricted(self.model, rows), **tensors)

    def clip(self, y: Tensor) -> Tensor:
        """The nearest point inside the bounds; y itself where there are none."""
        return y if self.bounds is None else y.clamp(*self.bounds)


def ask(model: Model, x: Tensor, bounds: Bounds | None = None) -> Task:
    """Check what an attack was given, and find i* and a length that suits each sample.

    No step may depend on the units of the scores or of x. Distances to linearized
    boundaries do not: the unit is the one to the boundary with the strongest rival. A tie
    makes it zero, though, and no gradient makes it infinite. It is at least a thousand
    roundings of x, and where nothing else is known ‖x‖, or 1 for x = 0.

    A twin of i* ties with it at x and has its gradient there, both within rounding, as an equal
    row of weights has: there is no boundary between the two, and where one of them seems to lead
    that is rounding. So it is no rival, as long as it ties; see :func:`without_twins`.
    """
    bounds = check_bounds(x, bounds)
    leaf, logits = checked_logits(model, x)
    label, x = logits.argmax(1), x.detach().clone().as_subclass(Tensor)
    own = logit_of(logits, label)
    grad = gradient(own, leaf, keep_graph=True)
    check_gradient(grad.flatten(1).isfinite().all(1), label)
    terms = torch.stack([_summands(logits, x, grad), norm(grad)], 1)
    known = terms.isfinite().all(1)
    few = _FEW_ROUNDINGS * torch.finfo(x.dtype).eps
    twins, twin = torch.zeros_like(logits, dtype=torch.bool), torch.ones_like(known)
    distance, normal = torch.full_like(terms[:, 0], torch.inf), torch.zeros_like(x)
    # From the strongest rival on, up to the first one that nowhere ties: as a rule, that is the first.
    for rival in ranking(logits, label)[:, 1:].unbind(1):
        margin, slope = margin_gradient(logits, leaf, label, rival, keep_graph=True)
        found = hyperplane(margin, slope)
        distance = torch.where(twin, found[0], distance)
        normal = torch.where(per_sample(twin, x), found[1], normal)
        ties = known & (margin <= few * terms[:, 0])
        equal = ties & (norm(slope) <= few * terms[:, 1])
        twins.scatter_(1, rival[:, None], equal[:, None])
        twin = twin & equal
        if not ties.any():
            break
    size = norm(x)
    length = torch.maximum(distance.abs(), 1e3 * torch.finfo(x.dtype).eps * size)
    length = torch.where((norm(normal) > 0) & (length > 0), length, size)
    margins = (own[:, None] - logits).detach()
    length, twins = torch.where(length > 0, length, 1.0), twins if twins.any() else None
    task = Task(model, x, label, length, bounds, margins, twins, terms)
    return task._replace(x=task.clip(x))


# --- decisions ---------------------------------------------------------------


def without_twins(task: Task, y: Tensor, logits: Tensor) -> Tensor:
    """The scores `logits` at y, with −∞ for each twin of i* that ties with it within rounding."""
    if task.twins is None:
        return logits
    scores = logits.detach()
    summands = task.terms[:, 0] + task.terms[:, 1] * norm(y.detach() - task.x)
    few = _FEW_ROUNDINGS * torch.finfo(y.dtype).eps * (summands + _summands(scores, y))
    tie = (scores - logit_of(scores, task.label)[:, None]).abs() <= few[:, None]
    return logits.masked_fill(task.twins & tie, -torch.inf)


def decides_otherwise(task: Task, y: Tensor, logits: Tensor) -> Tensor:
    """Whether each y, with scores `logits`, is an adversary, `(batch,)` of bool.

    It is a point of numbers with scores that are numbers and another decision than i*.
    (The first NaN is the maximum for `argmax`: that is no decision. Nor is the lead of a twin.)
    """
    numbers = y.flatten(1).isfinite().all(1) & logits.isfinite().all(1)
    return numbers & (without_twins(task, y, logits).argmax(1) != task.label)


def scores(task: Task, y: Tensor) -> Tensor:
    """Ψ(y), `(batch, n_classes)`."""
    return logits_alone(task.model, y)


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
    found = (logits.amax(1) - logits.amin(1)).detach()
    logits = without_twins(task, y, logits)
    if spread is not None:
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
    outwards from x by a few roundings, and twice as far each time, at least once where the scores
    jump (rounded scores). Where the lead stays
    below (a rival that only ties) a point is settled if it decides otherwise like the one before
    and the one behind it, in company and alone, against a rival whose margin was more than
    rounding at x.
    """
    settled = found.clone()
    success = torch.zeros_like(task.label, dtype=torch.bool)
    # All that are points: what was an adversary in another company may lack a rounding here.
    waiting = found.flatten(1).isfinite().all(1).nonzero().flatten()
    if len(waiting) == 0:
        return settled, success
    tolerance, step = _roundings(task, found)
    away = unit(found - task.x)[2]
    in_a_row = torch.zeros_like(task.label)
    inner = is_adversarial(task, task.clip(found - per_sample(step, found) * away))
    for push in (0, *(2**k for k in range(12))):
        part, size = task.of(waiting), per_sample(push * step[waiting], found)
        y = part.clip(found[waiting] + size * away[waiting])
        logits = scores(part, y)
        lead, rival = without_twins(part, y, logits).max(1)
        lead = lead - logit_of(logits, part.label)
        fooled = decides_otherwise(part, y, logits)
        # A long lead right behind the boundary: the scores jump, and rounding decides where.
        jump = ~inner[waiting] & (lead > 16 * tolerance[waiting])
        good, inner[waiting] = fooled & (lead > tolerance[waiting]) & ~jump, fooled
        good[good.clone()] = _alone(task, y[good], waiting[good])
        settled[waiting[good]], success[waiting[good]] = y[good], True
        ties = fooled & (logit_of(part.margins, rival) + lead > tolerance[waiting])
        count = in_a_row[waiting]
        in_a_row[waiting] = torch.where(ties | (count > 2), count + 1, 0)
        second = ties & (count == 1)
        settled[waiting[second]] = y[second]
        waiting = waiting[~good]
        if len(waiting) == 0:
            return settled, success
    ties = waiting[in_a_row[waiting] > 2]
    if len(ties):
        y = settled[ties]
        success[ties] = is_adversarial(task.of(ties), y) & _alone(task, y, ties)
    return settled, success


def _alone(task: Task, y: Tensor, rows: Tensor) -> Tensor:
    """Whether each y, a point of the sample `rows`, is an adversary in a batch of its own."""
    if len(rows) == 0:  # which no model needs to answer
        return rows > 0
    one_by_one = zip(y.split(1), rows.split(1), strict=True)
    return torch.cat([is_adversarial(task.of(row), one) for one, row in one_by_one])


def _summands(logits: Tensor, y: Tensor, *grads: Tensor) -> Tensor:
    """Size of the summands of the scores at y, Σ |y_m ∂_m Ψ| and |Ψ| itself.

    Of scores in double precision, in their roundings and not in those of y, little is left.
    """
    finer = torch.finfo(logits.dtype).eps / torch.finfo(y.dtype).eps
    own = (min(finer, 1.0) * logits.detach().abs().amax(1)).to(y.dtype)
    return own + sum((w * y).abs().flatten(1).sum(1) for w in grads)


def _roundings(task: Task, y: Tensor) -> tuple[Tensor, Tensor]:
    """About how far rounding moves the scores at y, and y itself with as much of it as decides.

    The scores are rounded by a share of their largest terms; on the way to the boundary that is
    as if y were rounded by this over the slope of the margin, and by its own roundings.
    """
    leaf, logits = leaf_and_logits(task.model, y)
    own, top = logit_of(logits, task.label), without_twins(task, y, logits).amax(1)
    grads = gradient(own, leaf, keep_graph=True), gradient(top, leaf)
    size, eps = _summands(logits, y, *grads), torch.finfo(y.dtype).eps
    of_scores = (2 * eps * size).nan_to_num(0.0, posinf=0.0)
    # Where the margin is flat its slope says nothing: at most a small share of the distance.
    slack = hyperplane(of_scores, grads[1] - grads[0])[0].nan_to_num(0.0, posinf=0.0)
    return of_scores, eps * norm(y) + slack.minimum(1e-6 * norm(y - task.x))
