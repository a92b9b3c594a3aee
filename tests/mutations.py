"""Small changes of a right answer, each of which makes it wrong or leaves it equal.

`mutants(source)` yields a key, `old → new`, and the changed source. The operators are those by
which answers of students differ from right ones: an absolute value, a square, a norm, a sign, an
axis or an index that is missing, arguments and operands exchanged, one too many, a clip, a strict
inequality, a mean for a median, a term left out.
"""

import ast
import copy
from collections.abc import Iterator

EXCHANGED_METHODS = (
    {"mean", "median", "sum", "nanmedian", "prod"},
    {"amax", "amin", "max", "min"},
    {"argmax", "argmin"},
    {"sin", "cos", "tan"},
    {"sinh", "cosh", "tanh"},
    {"sigmoid", "tanh"},
    {"log", "exp"},
    {"square", "sqrt", "abs"},
    {"deg2rad", "rad2deg"},
    {"erfc", "erf"},
    {"std", "var"},
    {"softmax", "log_softmax"},
)
NEVER_NEGATIVE = {
    "norm",
    "alignment",
    "robustness",
    "cdist",
    "sqrt",
    "square",
    "abs",
    "exp",
    "cosh",
}
NEVER_NEGATIVE |= {"softmax", "sigmoid", "erfc", "argmax", "argmin", "range", "arange", "one_hot"}
NEVER_NEGATIVE |= {"cross_entropy", "rand", "randint", "ones", "ones_like", "zeros_like"}
KEEPS_SIGN = {"sum", "mean", "amax", "amin", "min", "max", "median", "item", "view", "masked_fill"}
KEEPS_SIGN |= {"nan_to_num", "stack", "cat", "clone", "requires_grad_", "to", "sorted"}
TECHNICAL = {"view", "detach", "clone", "requires_grad_", "tolist", "item", "to", "stack", "cat"}
TECHNICAL |= {"zip", "deepcopy", "simplefilter", "Generator", "manual_seed", "Softmax", "range"}
"""What a student may leave out without being wrong, or gets an error for."""
EVEN = {"norm", "alignment", "square", "abs", "cos"}
"""Functions that do not see the sign of their arguments."""
OF_SHAPE = {"len", "shape", "ones_like", "zeros_like", "expand_as", "new_tensor"}
COMMUTE = ast.Add | ast.Mult | ast.BitAnd | ast.BitOr
EXCHANGED_OPERATORS = {
    ast.Add: [ast.Sub],
    ast.Sub: [ast.Add],
    ast.Mult: [ast.Div],
    ast.Div: [ast.Mult],
    ast.Pow: [ast.Mult],
    ast.Lt: [ast.LtE, ast.Gt],
    ast.LtE: [ast.Lt, ast.Gt],
    ast.Gt: [ast.GtE, ast.Lt],
    ast.GtE: [ast.Gt, ast.Lt],
    ast.Eq: [ast.NotEq, ast.Lt, ast.Gt],
    ast.NotEq: [ast.Eq, ast.Lt, ast.Gt],
    ast.BitAnd: [ast.BitOr],
    ast.BitOr: [ast.BitAnd],
}
WRAPPED = (
    "abs({})",
    "-({})",
    "({}) ** 2",
    "abs({}) ** 0.5",
    "2 * ({})",
    "({}) / 2",
    "1 / ({})",
    "({}).clamp(min=0)",
    "({}).clamp(max=1)",
    "({}).mean()",
    "({}).sum(0)",
    "({}).mean(0, keepdim=True).expand_as({})",
    "({}).flip(0)",
    "({}).sort(0).values",
    "({}).round()",
    "0 * ({})",
)
"""What is done to a whole result."""
GIVEN = (
    "abs({})",
    "-({})",
    "2 * ({})",
    "({}).flip(0)",
    "({})[:1].expand_as({})",
    "({}).mean(0, keepdim=True).expand_as({})",
    "({}).clamp(max=1)",
    "({}).sign()",
    "1 + 0 * ({})",
    "sorted(set({}), key=({}).index)",
    "({})[1:]",
    "[{0}[0], *[1.0 for _ in {0}[1:]]]",
    "1",
    "255.0",
)
"""What is done to an argument before anything else; what cannot be done stops, and is no answer."""


def expression(text: str) -> ast.expr:
    return ast.parse(text, mode="eval").body


def changed(node: ast.expr, signless: set[str], even: bool) -> Iterator[ast.expr]:
    """What may stand in the place of one expression, whose sign does not matter if it is even."""
    if isinstance(node, ast.Call):
        if name_of(node) not in TECHNICAL:
            yield from _of_call(node)
    elif isinstance(node, ast.BinOp):
        yield node.left
        yield node.right
        if not isinstance(node.op, COMMUTE):
            yield ast.BinOp(node.right, node.op, node.left)
        for other in EXCHANGED_OPERATORS.get(type(node.op), []):
            yield ast.BinOp(node.left, other(), node.right)
    elif isinstance(node, ast.UnaryOp):
        yield node.operand
    elif isinstance(node, ast.Compare):
        yield from _of_comparison(node)
    elif isinstance(node, ast.Constant) and type(node.value) in (int, float):
        yield ast.Constant(node.value + 1)
        yield ast.Constant(node.value - 1)
        if isinstance(node.value, float) or abs(node.value) > 1:
            yield ast.Constant(node.value * 1.1)
    elif isinstance(node, ast.Subscript):
        yield node.value
    elif isinstance(node, ast.IfExp):
        yield node.body
        yield node.orelse
    if even:
        return
    if isinstance(node, ast.BinOp | ast.Call | ast.Subscript | ast.Name) and not positive(
        node, signless
    ):
        yield expression(f"abs({ast.unparse(node)})")
    if isinstance(node, ast.Name):
        yield expression(f"-{node.id}")


def name_of(call: ast.Call) -> str:
    return getattr(call.func, "attr", getattr(call.func, "id", ""))


def positive(node: ast.expr, signless: set[str]) -> bool:
    """Whether an expression is never negative, given the names of others that are not."""
    if isinstance(node, ast.Call):
        name = name_of(node)
        if name in NEVER_NEGATIVE | signless:
            return True
        if name in ("sum", "mean", "amax", "amin", "median") and isinstance(
            node.func, ast.Attribute
        ):
            return positive(node.func.value, signless)
    if isinstance(node, ast.BinOp):
        both = all(positive(one, signless) for one in (node.left, node.right))
        square = isinstance(node.op, ast.Pow) and ast.unparse(node.right) == "2"
        square |= isinstance(node.op, ast.Mult) and ast.unparse(node.left) == ast.unparse(
            node.right
        )
        return square or (
            both and isinstance(node.op, ast.Add | ast.Mult | ast.Div | ast.FloorDiv | ast.Pow)
        )
    if isinstance(node, ast.Subscript):
        return positive(node.value, signless)
    if isinstance(node, ast.ListComp | ast.GeneratorExp):
        return positive(node.elt, signless)
    if isinstance(node, ast.IfExp):
        return all(positive(one, signless) for one in (node.body, node.orelse))
    if isinstance(node, ast.Name):
        return node.id in signless
    return isinstance(node, ast.Constant | ast.Compare) or ".shape" in ast.unparse(node)


def _of_call(node: ast.Call) -> Iterator[ast.expr]:
    arguments = node.args
    if isinstance(node.func, ast.Attribute):
        yield node.func.value  # without the method
        names = [g for g in EXCHANGED_METHODS if node.func.attr in g]
        for name in sorted(set().union(*names) - {node.func.attr}):
            other = copy.deepcopy(node)
            other.func.attr = name
            yield other
        if node.func.attr == "norm":
            for p in ("1", "float('inf')"):
                other = copy.deepcopy(node)
                other.keywords.append(ast.keyword("p", expression(p)))
                yield other
        if len(arguments) == 1:
            other = copy.deepcopy(node)
            other.func.value, other.args[0] = other.args[0], other.func.value
            yield other
    elif isinstance(node.func, ast.Name) and node.func.id in ("min", "max"):
        yield ast.Call(expression("max" if node.func.id == "min" else "min"), arguments, [])
    yield from arguments  # without the function
    for k in range(len(arguments)):
        other = copy.deepcopy(node)
        del other.args[k]
        yield other
        for j in range(k):
            other = copy.deepcopy(node)
            other.args[j], other.args[k] = other.args[k], other.args[j]
            yield other
    for k in range(len(node.keywords)):
        other = copy.deepcopy(node)
        del other.keywords[k]
        yield other


def _of_comparison(node: ast.Compare) -> Iterator[ast.expr]:
    left, (right,) = node.left, node.comparators
    for other in EXCHANGED_OPERATORS.get(type(node.ops[0]), []):
        yield ast.Compare(left, [other()], [right])
    if not isinstance(node.ops[0], ast.Eq | ast.NotEq):
        yield ast.Compare(right, node.ops, [left])
    if isinstance(right, ast.Constant):
        a, c = ast.unparse(left), ast.unparse(right)
        for width in ("0.001", "0.02", "0.05", "0.1"):
            yield expression(f"abs({a} - {c}) <= {width}")


def mutants(
    source: str, functions: set[str], answer: str, signless: set[str]
) -> Iterator[tuple[str, str]]:
    """Sources that differ in one place, inside of `functions`, from one that defines an answer;
    `signless` are the names of what is never negative where the answer is asked for.
    """
    tree = ast.parse(source)
    statements = [statement for statement in tree.body if names_of(statement) & functions]
    (whole,) = [statement for statement in statements if answer in names_of(statement)]
    yield from _of_result(tree, whole, signless)
    for parent in (node for statement in statements for node in ast.walk(statement)):
        if isinstance(parent, ast.Call) and name_of(parent) in TECHNICAL - {"stack", "cat"}:
            continue
        for name, old in ast.iter_fields(parent):
            if name in ("args", "func", "decorator_list", "returns") and not isinstance(old, list):
                continue
            for k, child in enumerate(old if isinstance(old, list) else [old]):
                if not isinstance(child, ast.expr):
                    continue
                even = (name == "args" and name_of(parent) in EVEN | OF_SHAPE) or (
                    isinstance(parent, ast.Attribute) and parent.attr in EVEN | OF_SHAPE
                )
                # A name or a number alone does not say where it stands.
                small = isinstance(child, ast.Name | ast.Constant)
                seen = parent if small and isinstance(parent, ast.expr) else None
                old_text = ast.unparse(seen or child)
                for new in changed(child, signless, even):
                    _put(parent, name, k, new)
                    new_text = unparsed(seen or new)
                    if new_text != old_text:
                        yield f"{old_text} → {new_text}", unparsed(tree)
                    _put(parent, name, k, child)


def _put(parent, name: str, k: int, value) -> None:
    if isinstance(getattr(parent, name), list):
        getattr(parent, name)[k] = value
    else:
        setattr(parent, name, value)


def unparsed(tree) -> str:
    return ast.unparse(ast.fix_missing_locations(tree))


def names_of(statement: ast.stmt) -> set[str]:
    if isinstance(statement, ast.FunctionDef):
        return {statement.name}
    if isinstance(statement, ast.Assign):
        return {target.id for target in statement.targets if isinstance(target, ast.Name)}
    return set()


def _of_result(tree, answer, signless: set[str]) -> Iterator[tuple[str, str]]:
    """The result or an argument changed as a whole; a statement left out."""
    if isinstance(answer, ast.FunctionDef):
        body = [s for s in answer.body if ast.get_docstring(answer) is None or s != answer.body[0]]
        for argument in answer.args.args:
            for text in GIVEN:
                if argument.arg in signless and text == "abs({})":
                    continue
                new = text.format(argument.arg, argument.arg)
                answer.body = [*ast.parse(f"{argument.arg} = {new}").body, *body]
                yield f"{argument.arg} := {new}", unparsed(tree)
        for k, statement in enumerate(body[:-1]):
            answer.body = [*body[:k], *body[k + 1 :]]
            yield f"without {ast.unparse(statement)}", unparsed(tree)
        answer.body = body
    place = answer.value if isinstance(answer, ast.Assign) else answer.body[-1]
    name = "body" if isinstance(place, ast.Lambda) else "value"
    if not hasattr(place, name):  # the solution is a function by its name
        return
    result = getattr(place, name)
    for text in WRAPPED:
        if "result" in signless and text in ("abs({})", "({}).clamp(min=0)"):
            continue
        new = ast.unparse(result)
        setattr(place, name, expression(text.format(new, new)))
        yield text.format("result", "result"), unparsed(tree)
    setattr(place, name, result)
