"""No small change of a right answer passes its check, unless it is equal where it is asked for."""

import ast
import json
import warnings
from dataclasses import replace
from itertools import cycle

import pytest
import torch
from mutations import mutants, names_of
from test_exercises import MODULES, NOTEBOOKS, exercises

from lesson_utils.checks import DRAWS

# Names of what is never negative where the statement asks; "result" is the answer itself.
SIGNLESS = {
    "lesson01.alignment_by_hand": {"x", "result"},
    "lesson01.on_ink": {"x", "share_on_black", "result"},
    "lesson01.loss_gradient": {"x", "p", "i", "leaf"},
    "lesson02.attack_direction": {"x", "prediction", "rival", "rows", "len", "norm"},
    "lesson02.by_samples": {"x", "decision", "k", "other", "_nearest", "found", "result"},
    "lesson02.certificate": {"rho", "result"},
    "lesson03.angle": {"result"},
    "lesson04.in_pixels": {"mean", "std", "result"},
    "lesson04.subtract": {"top", "winner", "lengths", "distances", "result"},
    "lesson05.foot": {"value"},
    "lesson05.probabilities": {"margin", "rho", "m", "r", "value", "slope", "tanh", "result"},
    "lesson05.lipschitz": {"i", "j", "winner", "length", "steepest", "differences", "result"},
    "lesson06.beta": {"x", "i", "isinstance"},
    "lesson06.fold": {"s"},
    "lesson07.gap_from_angle": {"size", "degrees", "angle", "deg2rad", "sin", "result"},
    "lesson07.rho_from_alpha": {"a", "alpha", "layers", "depth", "degree", "one", "result"},
    "lesson08.our_strength": {
        "strength",
        "batch_size",
        "white",
        "x",
        "pixels",
        "mean",
        "ours",
        "y",
    },
    "lesson08.factor": {"t", "after", "before", "loss", "_penalty", "len", "ones", "result"},
    "lesson09.upper_bound": {"distances", "column", "min", "result"},
    "lesson09.exponent": {"rho", "alpha"},
    "lesson10.share_of_noise": {"alpha", "size", "d", "z", "_tail", "cdf", "result"},
    "lesson10.gpu_hours": {
        *("strength", "plain", "cost", "epochs", "per_second", "speed", "seconds", "count", "len"),
        *("IMAGES", "result"),
    },
    "lesson11.bias_factor": {"degree", "s", "b", "opposite", "where", "result"},
    "lesson11.degree_from": {"part", "rest", "result"},
    "lesson12.centred_map": {"prediction", "k", "len"},
    "lesson12.share_inside": {"result"},
    "lesson13.in_units_of_x": {"value", "sigma", "alpha", "_along"},
    "lesson13.rank_of_rival": {"rival", "order", "int", "len", "arange", "argsort", "result"},
}


def exchanged(*pairs):
    """Differences whose sign does not matter."""
    return {f"{left} - {right} → {right} - {left}" for left, right in pairs}


def signless(*expressions):
    """Expressions that are never negative where the statement asks."""
    return {f"{one} → abs({one})" for one in expressions}


def even(*names):
    """Arguments whose sign does not matter."""
    return {f"{name} := -({name})" for name in names}


def homogeneous(*names):
    """Arguments of which twice is as good."""
    return {f"{name} := 2 * ({name})" for name in names}


def at_most_one(*names):
    """Arguments that are never larger than 1."""
    return {f"{name} := ({name}).clamp(max=1)" for name in names}


SHARE = {"(result).clamp(max=1)"}  # a share, a degree or a correlation is at most 1
ONE_NUMBER = {  # order and mean of a result that is one number
    "(result).flip(0)",
    "(result).mean()",
    "(result).mean(0, keepdim=True).expand_as(result)",
    "(result).sort(0).values",
    "(result).sum(0)",
}
PIXELS = "Normalize(mean.tolist(), std.tolist())(x)"
SCORE = f"({PIXELS} * g).sum((1, 2, 3))"
NEAREST = "torch.cdist(x, x).masked_fill(same, torch.inf)"
INSIDE = "sum((inner(g, v.expand_as(g))[:, None] * v for v in basis))"
LOSS = "cross_entropy(scores, torch.ones(len(m), dtype=torch.long)"
LABELS = "torch.randint(2, (batch_size,), generator=dice)"
MEASURED = "torch.cat([one(a, 2 ** depth) for a, depth in pairs])"
EIGENVALUES = "torch.linalg.eigvalsh(weight @ weight.T)"
LIPSCHITZ = "_over(net, x, lambda i, j: _steepest(net) * (outer[i] - outer[j]).norm())"
# Mutants that agree with the solution wherever the statement asks for an answer.
EQUAL = {
    "lesson01.alignment_by_hand": even("g", "x")
    | homogeneous("g")
    | at_most_one("x")
    # The absolute value is taken of products, and grey values are not negative.
    | signless("x.flatten(1)")
    | {
        "torch.cosine_similarity(x.flatten(1), g.flatten(1)) → "
        "torch.cosine_similarity(g.flatten(1), x.flatten(1))",
        "g.flatten → (-g).flatten",
        "x.flatten → (-x).flatten",
        "x * g → -x * g",
        "x * g → x * -g",
    },
    "lesson01.on_ink": even("g", "x")
    | homogeneous("g")
    | at_most_one("x")
    # α does not see the sign of a map; minus zero is zero; a share is at most 1.
    | {"torch.where(x == 0, 0, g) → torch.where(x == 0, 0, -g)", "x == 0 → -x == 0"}
    | signless("1 - share_on_black"),
    "lesson01.loss_gradient": at_most_one("x")
    | signless("of(model(leaf).softmax(1).amax(1))")  # −log p of a probability
    | signless("x.clone()", "x.clone().requires_grad_(True)")  # grey values
    | {"p.log → (-p).log"},  # in a default that the solution of another exercise replaces
    "lesson02.attack_direction": at_most_one("x")
    # Entries of unit vectors are at most 1; the class that wins is the one by default.
    | signless("norm(downhill).view(-1, 1, 1, 1)", "norm(v).view(-1, 1, 1, 1)")
    | {
        "(result).clamp(max=1)",
        "saliency_map(model, x, target=prediction) → saliency_map(model, x)",
    },
    "lesson02.by_samples": even("x", "decision")
    | homogeneous("decision")
    | exchanged(("x[counts]", "point"))
    | signless("norm(x[counts] - point).min()", "torch.stack(found)", NEAREST, f"{NEAREST}.amin(1)")
    | {
        "_nearest(x, decision, other=True) → _nearest(-x, decision, other=True)",
        "_nearest(x, decision, other=True) → _nearest(x, -decision, other=True)",
        "decision[None, :] → decision",
        "norm(x[counts] - point).min() → norm(x[counts] - point).amin()",
        f"{NEAREST}.amin(1) → {NEAREST}.amin(0)",  # distances are symmetric
    },
    "lesson02.certificate": exchanged(("x", "point"))
    | signless("(rho[:, None] - torch.cdist(x, y)).amax(0).clamp(min=0)")
    | signless("_bounds(x, rho, y).amax(1).clamp(min=0)"),
    "lesson03.angle": even("x", "z")
    | homogeneous("z")
    # The absolute value is taken of a product or of one of its factors.
    | signless("x @ z", "x @ z / (x.norm(dim=1) * z.norm())")
    | {
        "BinaryClassifier(z) → BinaryClassifier(-z)",
        "BinaryClassifier(z).robustness(x) → BinaryClassifier(z).robustness(-x)",
        "x @ z → -x @ z",
        "x @ z → x @ -z",
    },
    "lesson03.adversary": even("z")
    | homogeneous("z")
    | signless("z @ z")
    | {"BinaryClassifier(z) → BinaryClassifier(-z)"},
    "lesson04.in_pixels": even("g")
    | homogeneous("g")
    | at_most_one("mean", "std")
    # α sees neither the sign nor a factor of a map, and the samples do not mix.
    | signless("mean.view(3, 1, 1)", "std.view(3, 1, 1)", SCORE)
    | {
        "(1, 2, 3) → (0, 2, 3)",
        f"{SCORE} → ({PIXELS} * g).mean((1, 2, 3))",
        f"{SCORE} → ({PIXELS} * g).sum()",
        f"{SCORE} → {PIXELS} * g",
        f"{PIXELS} * g → {PIXELS} * -g",
        f"{PIXELS} → Normalize(mean.tolist(), std.tolist())(-x)",
        "g / std → -g / std",
        "g / std → g / -std",
        "gradient(score, x) → gradient(-score, x)",
        "gradient(score, x) → gradient(abs(score), x)",
        "mean.tolist → (-mean).tolist",  # an offset has no gradient
        "x.detach → (-x).detach",
    },
    "lesson04.subtract": homogeneous("weight", "x")
    | exchanged(("weight[winner][:, None]", "weight"))
    | signless("top[:, None] - scores", "(top[:, None] - scores) / lengths")
    | signless("distances.nan_to_num(torch.inf)")
    | {"(result).round()"},  # a class is a whole number
    "lesson04.origin": exchanged(("values", "values.mean(0)")) | {"_centred(bias) → bias"},
    "lesson05.foot": signless("lin.value / norm(g)", "(lin.value / norm(g))[:, None]")
    | {
        "model := (model)[1:]",  # without nn.Flatten, on samples that are flat
        "saliency_map(model, x, target=lin.prediction) → saliency_map(model, x)",
    },
    "lesson05.probabilities": even("margin", "rho")  # sinh(m)/m is even; a distance has no sign
    | signless("r.view(1, 1)", "torch.cat(values)")
    | {"m / r → -m / r", "m / r → m / -r", "margin / 2 → -margin / 2", "r.view → (-r).view"},
    # Norms, margins of the winner and positions are not negative; ‖v_i − v_j‖ is symmetric.
    "lesson05.lipschitz": exchanged(("outer[i]", "outer[j]"), ("outer[winner][:, None]", "outer"))
    | signless(
        "(scores[i] - scores[j]) / length(i, j)",
        "(top[:, None] - logits) / (steepest * differences)",
        LIPSCHITZ,
        f"{LIPSCHITZ}.amin(1)",
        "_steepest(net) * (outer[i] - outer[j]).norm()",
        "_steepest(net)",
        "length(i, j)",
        "quotients.nan_to_num(torch.inf)",
        "quotients.nan_to_num(torch.inf).amin(1)",
        "scores[i] - scores[j]",
        "steepest * differences",
        "top[:, None] - logits",
        f"{EIGENVALUES}",
        f"{EIGENVALUES}[-1]",
        "torch.linalg.matrix_norm(net[1].weight, 2)",
        "torch.stack(rest)",
        "torch.stack(rows)",
    )
    | {
        "(result).clamp(min=0)",
        "abs(result)",
        "length(i, j) → length(j, i)",
        "quotients.nan_to_num → abs(quotients).nan_to_num",
        "weight @ weight.T → weight.T @ weight",
    },
    "lesson06.beta": ONE_NUMBER
    | at_most_one("x")
    | signless("x[0]", "logits.argmax(1).item()")
    # A batch of one image; a network whose gradients have never been computed.
    | {
        "(0, i) → (-1, i)",
        "logits.argmax(1) → logits.argmax()",
        "net(x).amax() → net(x).max()",
        "net.zero_grad() → net",
        "without net.zero_grad()",
        "x := (x).flip(0)",
        "x := (x).mean(0, keepdim=True).expand_as(x)",
        "x := (x)[:1].expand_as(x)",
        "x[0] → x",
        "x[0] → x[-1]",
    },
    "lesson06.fold": {  # of a batch of one, or of two of the same
        "gradients[0] → gradients[-1]",
        "torch.zeros(1, weight.shape[1]) → torch.zeros(2, weight.shape[1])",
        "value[0] → value[-1]",
    },
    "lesson06.hidden_part": {  # no neuron is exactly at the kink
        "net[1](net[0](x)) > 6 → net[1](net[0](x)) >= 6",
    },
    "lesson07.gap_from_angle": even("degrees")
    | exchanged(("one", "one.new_tensor([1.0, 0.0])"))
    | signless("one.new_tensor([1.0, 0.0])")
    | {"angle.sin → (-angle).sin", "degrees.deg2rad → (-degrees).deg2rad"},
    "lesson07.rho_from_alpha": even("alpha")
    # ρ̃ sees no factor of the scores, and the degrees are even.
    | signless("a.view(1, 1)", MEASURED, "y ** degree / 2", "y ** degree")
    | {
        f"{sign}y ** degree / 2 → {sign}y ** degree{change}"
        for sign in ("", "-")
        for change in ("", " * 2", " / 1", " / 2.2", " / 3")
    }
    | {
        "a.view → (-a).view",
        "one(a, 2 ** depth) → one(-a, 2 ** depth)",
        "y ** degree → (-y) ** degree",
        "y ** degree → abs(y) ** degree",
    },
    "lesson08.our_strength": even("batch_size", "white")  # they are squared
    # A ratio of penalties sees neither the strength of ours nor which network or labels these are.
    | signless("(strength * norm(theirs).square().mean() / ours).item()")
    | signless("(white * x).requires_grad_(True)", "torch.randn(5, **options)")
    | {
        "abs(result)",
        "batch_size * white → -batch_size * white",
        "batch_size * white → batch_size * -white",
        "gradient_penalty_loss(model, x, y, 1.0) → gradient_penalty_loss(model, x, y, 1.1)",
        "gradient_penalty_loss(model, x, y, 1.0) → gradient_penalty_loss(model, x, y, 2.0)",
        "torch.autograd.grad(mean, pixels) → torch.autograd.grad(-mean, pixels)",
        f"{LABELS} → torch.randint(1, (batch_size,), generator=dice)",
        f"{LABELS} → torch.randint(2, (batch_size,))",
    },
    "lesson08.factor": signless("torch.ones(1).to(m)")
    # Squares, and quotients in which a factor cancels; samples of one dimension.
    | {
        "after / before → -after / before",
        "after / before → after / -before",
        "t * torch.sigmoid(-t * m) → -t * torch.sigmoid(-t * m)",
        f"{LOSS}, reduction='sum') → {LOSS})",
        "norm(torch.autograd.grad(loss, leaf)[0]) → torch.autograd.grad(loss, leaf)[0]",
        "torch.autograd.grad(loss, leaf) → torch.autograd.grad(-loss, leaf)",
        "torch.autograd.grad(loss, leaf)[0] → torch.autograd.grad(loss, leaf)[-1]",
    },
    "lesson09.upper_bound": ONE_NUMBER
    | signless("sorted((min(column) for column in columns))[distances.shape[1] // 2]")
    | {
        "distances := (distances).flip(0)",  # the attacks in another order
        # there is no NaN
        "np.median(distances.amin(0)) → np.nanmedian(distances.amin(0))",
        "float(np.median(distances.amin(0))) → np.median(distances.amin(0))",
        "float(np.median(distances.amin(0))) → abs(float(np.median(distances.amin(0))))",
        "np.median(distances.amin(0)) → abs(np.median(distances.amin(0)))",
    },
    "lesson09.exponent": ONE_NUMBER
    | homogeneous("alpha", "rho")  # an exponent has no unit
    # Once x is centred, a constant in y does not matter.
    | signless("y.mean()")
    | {f"y.mean() → y.{other}()" for other in ("median", "nanmedian", "sum")}
    | {"y - y.mean() → y", "y - y.mean() → y + y.mean()"}
    | {"y.mean → (-y).mean", "y.mean → abs(y).mean", "(0, 0) → (0, -1)"},
    "lesson10.share_of_noise": SHARE,
    "lesson10.correlation": SHARE
    | homogeneous("a", "b")
    | {"inner(a, b) → inner(b, a)"}
    | signless("a.mean(1, keepdim=True)", "b.mean(1, keepdim=True)"),  # strengths and contrasts
    "lesson10.gpu_hours": signless("len(strengths) - plain", "2.5 * (len(strengths) - plain)")
    | signless("plain + 2.5 * (len(strengths) - plain)")
    | {"2.5 if strength else 1.0 → 2.5 if -strength else 1.0"}
    | {"0.0 → -1.0", "0.0 → 1.0"}  # a second more or less, or one image
    | {f"1281167 → {n}" for n in (1281166, 1281168)}
    | {f"cost * epochs * 1281167 → cost * epochs * {n}" for n in (1281166, 1281168)},
    "lesson11.bias_factor": at_most_one("degree")
    | exchanged(("s", "b"), ("2 * degree", "1"))
    | signless("1 - degree")
    | {"agree := (agree).sign()", "s / (s + b) → s", "s / (s + b) → s * (s + b)"},  # s + b = 1
    "lesson11.degree_from": SHARE
    | exchanged(("homogeneous", "shift"), ("score", "part"))
    | signless("score - part")
    | {"(score - part) / part → (score - part) / -part"},
    "lesson12.share_inside": SHARE
    | even("basis", "g")
    | homogeneous("g")
    | at_most_one("basis")
    # Orthonormal rows may change signs and order; what is squared may change its sign.
    | exchanged(("g", INSIDE))
    | signless(f"g - {INSIDE}", "1 - (norm(left) / norm(g)) ** 2")
    | {
        "basis := (basis).flip(0)",
        "basis → -basis",
        "basis.T → (-basis).T",
        "g @ basis.T → -g @ basis.T",
        "inner(g, v.expand_as(g)) → inner(v.expand_as(g), g)",
    },
    "lesson13.in_units_of_x": even("gradient")
    | homogeneous("gradient")
    # The absolute value is taken of the product; deviations and distances are not negative.
    | signless("sigma * value")
    | {
        "_along(sigma * u + mu, gradient) → _along(sigma * u + mu, -gradient)",
        "torch.einsum('bd,bd->b', x, gradient) → torch.einsum('bd,bd->b', -x, gradient)",
        "torch.einsum('bd,bd->b', x, gradient) → torch.einsum('bd,bd->b', gradient, x)",
        "torch.einsum('bd,bd->b', x, gradient) → torch.einsum('bd,bd->b', x, -gradient)",
        "x * gradient → -x * gradient",
        "x * gradient → x * -gradient",
    },
    "lesson13.rank_of_rival": homogeneous("scores")
    | signless("(order == rival[:, None]).int()", "scores.argsort(1, descending=True)")
    | signless("rival[:, None]")
    | {
        "(result).round()",  # ranks are whole numbers
        "scores.argsort(1, descending=True) → scores.argsort(descending=True)",  # the last axis
    },
}

NAMES = [(module, name) for module in MODULES for name in exercises(module)]


def from_exercises(module, name):
    """The solution of an exercise and the functions that it calls, with the imports."""
    body = ast.parse(MODULES[module].read_text(encoding="utf-8")).body
    (call,) = [s.value for s in body if names_of(s) == {name}]
    (solution,) = [k.value for k in call.keywords if k.arg == "solution"]
    answer = solution.id if isinstance(solution, ast.Name) else "answer"
    if answer == "answer":
        body = [*body, *ast.parse(f"answer = {ast.unparse(solution)}").body]
    used, before = {answer}, set()
    while used != before:
        before = used
        needed = [s for s in body if names_of(s) & used]
        used = used | {n.id for s in needed for n in ast.walk(s) if isinstance(n, ast.Name)}
    imports = [s for s in body if isinstance(s, ast.Import | ast.ImportFrom)]
    source = "\n".join(map(ast.unparse, [*imports, *needed]))
    return source, answer, {n for s in needed for n in names_of(s)}


def from_notebook(module, name):
    """The solution that a reader is shown, with the imports of the lesson."""
    cells = json.loads(NOTEBOOKS[module].read_text(encoding="utf-8"))["cells"]
    texts = ["".join(c["source"]) for c in cells if c["cell_type"] == "code"]
    (cell,) = [t for t in texts if f"assert exercises.{name}.check(" in t]
    functions = [s for s in ast.parse(cell).body if isinstance(s, ast.FunctionDef)]
    used = {n.id for f in functions for n in ast.walk(f) if isinstance(n, ast.Name)}
    imports = [
        ast.unparse(statement)
        for text in texts
        if "%" not in text
        for statement in ast.parse(text).body
        if isinstance(statement, ast.Import | ast.ImportFrom)
        and used & {(alias.asname or alias.name).split(".")[0] for alias in statement.names}
    ]
    answer = cell.split(f"exercises.{name}.check(")[1].split(")")[0]
    body = [ast.unparse(f) for f in functions]
    return "\n".join([*imports, *body]), answer, {f.name for f in functions}


def answer_of(source, answer):
    """The function; a module that stops, or a function that is none, is no answer."""
    names = {"__name__": "mutant"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SyntaxWarning)
        exec(compile(source, "<mutant>", "exec"), names)
    return names[answer]


def drawn(exercise, seed):
    """The exercise with the arguments and right answers of one seed, for many answers."""
    dice = torch.Generator().manual_seed(seed)
    cases = [exercise.inputs(dice) for _ in range(DRAWS)]
    right = cycle([exercise.solution(*case) for case in cases])
    again = cycle(cases)
    return replace(
        exercise,
        inputs=lambda dice: next(again),
        solution=lambda *case: next(right),
        mistakes={},
    )


def survivors(module, name):
    """Mutants that pass on some seed, and how many were tried."""
    exercise = exercises(module)[name]
    fixed = [drawn(exercise, seed) for seed in range(3)]
    signless = SIGNLESS.get(f"{module}.{name}", set())
    found, tried = set(), 0
    for source, answer, functions in (from_exercises(module, name), from_notebook(module, name)):
        assert all(one.check(answer_of(source, answer)) for one in fixed)
        for key, changed in mutants(source, functions, answer, signless):
            tried += 1
            try:
                mutant = answer_of(changed, answer)
            except Exception:
                continue
            if any(one.check(mutant) for one in fixed):
                found.add(key)
    return found, tried


@pytest.mark.parametrize(("module", "name"), NAMES, ids=lambda one: one)
def test_no_mutant_passes(module, name):
    found, tried = survivors(module, name)
    assert tried > 40
    assert found <= EQUAL.get(f"{module}.{name}", set())
