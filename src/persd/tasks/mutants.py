"""Small wrong changes of a program: good tests notice most of them."""

from __future__ import annotations

import ast
import copy
from collections.abc import Iterator

_SWAPS: dict[type[ast.AST], type[ast.AST]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Add,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.FloorDiv,
    ast.Lt: ast.GtE,
    ast.LtE: ast.Gt,
    ast.Gt: ast.LtE,
    ast.GtE: ast.Lt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.And: ast.Or,
    ast.Or: ast.And,
}


def mutants(program: str, most: int = 6) -> Iterator[str]:
    """Up to ``most`` copies of the program with one operator or number changed each.

    The places are spread evenly over the program; the same program, the same mutants.
    """
    try:
        tree = ast.parse(program)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return
    places = [i for i, node in enumerate(ast.walk(tree)) if _mutable(node)]
    step = max(1, len(places) / most)
    chosen = sorted({places[int(i * step)] for i in range(most) if int(i * step) < len(places)})
    for place in chosen:
        changed = copy.deepcopy(tree)
        for i, node in enumerate(ast.walk(changed)):
            if i == place:
                _change(node)
                break
        yield ast.unparse(changed)


def _mutable(node: ast.AST) -> bool:
    if isinstance(node, ast.Constant):
        return isinstance(node.value, int)
    if isinstance(node, ast.Compare):
        return type(node.ops[0]) in _SWAPS
    return isinstance(node, (ast.BinOp, ast.BoolOp, ast.AugAssign)) and type(node.op) in _SWAPS


def _change(node: ast.AST) -> None:
    if isinstance(node, ast.Constant):
        value = node.value
        node.value = not value if isinstance(value, bool) else value + 1  # type: ignore[operator]
    elif isinstance(node, ast.Compare):
        node.ops[0] = _SWAPS[type(node.ops[0])]()  # type: ignore[call-overload]
    elif isinstance(node, (ast.BinOp, ast.BoolOp, ast.AugAssign)):
        node.op = _SWAPS[type(node.op)]()  # type: ignore[assignment]
