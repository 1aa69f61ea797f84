"""Mutation operators for Python and Triton. Each yields edits of one kind of mistake; only the changed span is written anew."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from itertools import pairwise

from .mutations import Edit
from .python_tree import Tree

_SYMBOLS: dict[type[ast.AST], str] = {
    ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">=", ast.Eq: "==", ast.NotEq: "!=", ast.Add: "+", ast.Sub: "-", ast.Mult: "*",
    ast.Div: "/", ast.FloorDiv: "//", ast.Mod: "%", ast.BitAnd: "&", ast.BitOr: "|", ast.And: "and", ast.Or: "or",
}
_OTHER = {
    "<": "<=", "<=": "<", ">": ">=", ">=": ">", "==": "!=", "!=": "==", "+": "-", "-": "+", "*": "/", "/": "*", "//": "*", "%": "//",
    "&": "|", "|": "&",
}
_OTHER_EXTREME = {"min": "max", "max": "min", "minimum": "maximum", "maximum": "minimum"}
_COARSER = {"float32": ("bfloat16", "float16"), "float64": ("float32",)}
_NARROWER = {"int64": "int32"}
_COMMUTATIVE = {"min", "max", "minimum", "maximum"}


def masks(tree: Tree) -> Iterator[Edit]:
    """A mask dropped, or one of its factors."""
    for call in tree.of(ast.Call):
        assert isinstance(call, ast.Call)
        if any(keyword.arg == "mask" for keyword in call.keywords):
            kept = [tree.text(keyword) for keyword in call.keywords if keyword.arg not in ("mask", "other")]
            start, end = tree.span(call.keywords[0])[0], tree.span(call.keywords[-1])[1]
            if not kept and call.args:
                start = tree.span(call.args[-1])[1]
            yield Edit("dropped mask", start, end, ", ".join(kept))
    for node in tree.of(ast.BinOp):
        assert isinstance(node, ast.BinOp)
        if isinstance(node.op, ast.BitAnd):
            yield from (_replace(tree, "dropped mask", node, side) for side in (tree.text(node.left), tree.text(node.right)))


def comparisons(tree: Tree) -> Iterator[Edit]:
    """``<`` for ``<=``, and a limit one more and one less."""
    for node in tree.of(ast.Compare):
        assert isinstance(node, ast.Compare)
        symbol = _SYMBOLS.get(type(node.ops[0]), "")
        if len(node.ops) == 1 and symbol in _OTHER:
            yield from _symbol(tree, "comparison", node.left, node.comparators[0], symbol)
            if symbol not in ("==", "!="):
                yield from _shifted(tree, "bound", node.comparators[0])


def loops(tree: Tree) -> Iterator[Edit]:
    """A range that starts late, ends early or late, or takes steps twice as wide."""
    for node in tree.of(ast.For):
        assert isinstance(node, ast.For)
        call = node.iter
        if not isinstance(call, ast.Call) or _name(call.func) not in ("range", "static_range"):
            continue
        limit = call.args[1] if len(call.args) > 1 else call.args[0]
        yield from _shifted(tree, "bound", limit)
        if len(call.args) > 1:
            yield _replace(tree, "start", call.args[0], f"({tree.text(call.args[0])} + 1)")
        else:
            yield _replace(tree, "start", limit, f"1, {tree.text(limit)}")
        if len(call.args) > 2:
            yield _replace(tree, "step", call.args[2], f"2 * {tree.text(call.args[2])}")


def constants(tree: Tree) -> Iterator[Edit]:
    """Zero for one, one for zero, one more, one less, twice."""
    for node in tree.of(ast.Constant):
        assert isinstance(node, ast.Constant)
        value = node.value
        if isinstance(value, bool) or not isinstance(value, int | float):
            continue
        if isinstance(value, int):
            others = [f"{value + 1}", *([f"{value - 1}"] if value else [])]
        else:
            others = ["1.0"] if value == 0 else ["0.0", repr(2 * value)]
        yield from (_replace(tree, "constant", node, other) for other in others)


def arithmetic(tree: Tree) -> Iterator[Edit]:
    """Another operator, or one operand left out."""
    for node in tree.of(ast.BinOp):
        assert isinstance(node, ast.BinOp)
        symbol = _SYMBOLS.get(type(node.op), "")
        if symbol in _OTHER:
            yield from _symbol(tree, "arithmetic", node.left, node.right, symbol)
            if symbol not in ("&", "|"):
                kept = tree.source[: tree.source.index(symbol, tree.span(node.left)[1])].rstrip()
                yield Edit("dropped term", len(kept), tree.span(node)[1], "")
    for assignment in tree.of(ast.AugAssign):
        assert isinstance(assignment, ast.AugAssign)
        symbol = _SYMBOLS.get(type(assignment.op), "")
        if symbol in _OTHER:
            yield from _symbol(tree, "arithmetic", assignment.target, assignment.value, symbol)


def signs(tree: Tree) -> Iterator[Edit]:
    """A minus or a negation left out."""
    for node in tree.of(ast.UnaryOp):
        assert isinstance(node, ast.UnaryOp)
        yield _replace(tree, "dropped sign", node, tree.text(node.operand))


def conditions(tree: Tree) -> Iterator[Edit]:
    """A condition negated, or always true."""
    for node in tree.of((ast.If, ast.IfExp)):
        assert isinstance(node, ast.If | ast.IfExp)
        yield _replace(tree, "negated condition", node.test, f"not ({tree.text(node.test)})")
        yield _replace(tree, "dropped guard", node.test, "True")
    for call in tree.of(ast.Call):
        assert isinstance(call, ast.Call)
        if _name(call.func) == "where" and len(call.args) == 3:
            yield _replace(tree, "dropped guard", call, tree.text(call.args[1]))


def types(tree: Tree) -> Iterator[Edit]:
    """A coarser or narrower type, or a conversion left out."""
    for node in tree.of(ast.Attribute):
        assert isinstance(node, ast.Attribute)
        for other in _COARSER.get(node.attr, ()):
            yield _replace(tree, "coarse type", node, f"{tree.text(node.value)}.{other}")
        if node.attr in _NARROWER:
            yield _replace(tree, "narrowed index", node, f"{tree.text(node.value)}.{_NARROWER[node.attr]}")
    for call in tree.of(ast.Call):
        assert isinstance(call, ast.Call)
        if isinstance(call.func, ast.Attribute) and call.func.attr == "to" and len(call.args) == 1:
            narrows = isinstance(call.args[0], ast.Attribute) and call.args[0].attr in _NARROWER
            yield _replace(tree, "narrowed index" if narrows else "dropped cast", call, tree.text(call.func.value))


def statements(tree: Tree) -> Iterator[Edit]:
    """A statement left out: an accumulation, a store, a second assignment, an early return."""
    bound: set[str] = set()
    for node in sorted(tree.of(ast.stmt), key=lambda node: tree.span(node)[0]):
        names = {target.id for target in getattr(node, "targets", []) if isinstance(target, ast.Name)}
        call = isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)
        again = isinstance(node, ast.Assign) and bool(names) and names <= bound
        if call or again or isinstance(node, ast.AugAssign) or (isinstance(node, ast.Return) and node.value is None):
            yield _replace(tree, "dropped statement", node, "pass")
        if isinstance(node, ast.FunctionDef):
            bound = {argument.arg for argument in node.args.args}
        bound |= names


def swapped_arguments(tree: Tree) -> Iterator[Edit]:
    """Two neighbouring positional arguments of a call in the wrong order."""
    for call in tree.of(ast.Call):
        assert isinstance(call, ast.Call)
        if _name(call.func) in _COMMUTATIVE:
            continue
        for first, second in pairwise(call.args):
            start, end = tree.span(first)[0], tree.span(second)[1]
            yield Edit("swapped arguments", start, end, f"{tree.text(second)}, {tree.text(first)}")


def extremes(tree: Tree) -> Iterator[Edit]:
    """Minimum for maximum."""
    for call in tree.of(ast.Call):
        assert isinstance(call, ast.Call)
        name = _name(call.func)
        if name in _OTHER_EXTREME:
            end = tree.span(call.func)[1]
            yield Edit("minimum and maximum", end - len(name), end, _OTHER_EXTREME[name])


OPERATORS = (
    masks, comparisons, loops, constants, arithmetic, signs, conditions, types, statements, swapped_arguments, extremes,
)


def _replace(tree: Tree, operator: str, node: ast.AST, after: str) -> Edit:
    return Edit(operator, *tree.span(node), after)


def _shifted(tree: Tree, operator: str, node: ast.expr) -> Iterator[Edit]:
    return (_replace(tree, operator, node, f"({tree.text(node)} {change} 1)") for change in "-+")


def _symbol(tree: Tree, operator: str, left: ast.expr, right: ast.expr, symbol: str) -> Iterator[Edit]:
    """The operator between two operands, replaced."""
    first = tree.span(left)[1]
    start = tree.source.find(symbol, first, tree.span(right)[0])
    if start >= 0:
        yield Edit(operator, start, start + len(symbol), _OTHER[symbol])


def _name(function: ast.expr) -> str:
    """Last part of a called name."""
    return function.attr if isinstance(function, ast.Attribute) else function.id if isinstance(function, ast.Name) else ""
