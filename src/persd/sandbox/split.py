"""Test code made of plain assertions, taken apart into tests that need no second process."""

from __future__ import annotations

import ast
import copy
import operator
from collections.abc import Callable
from typing import Any

from persd.records import Test
from persd.sandbox.compare import literal


def split_check(test_code: str, entry_point: str) -> tuple[Test, ...] | None:
    """The tests a ``check(candidate)`` is made of, or None where only running it is exact.

    Taken apart: ``assert candidate(literals) == literal`` and its mirror image, builtins around
    the call (``tuple(candidate(..)) == ..``), ``is True`` (``False``, ``None``),
    ``assert candidate(...)`` and ``assert not candidate(...)``, beside imports and metadata.
    One statement of any other kind: None.
    """
    try:
        body = ast.parse(test_code).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    checks = [n for n in body if isinstance(n, ast.FunctionDef) and n.name == "check"]
    others = [node for node in body if node not in checks]
    if len(checks) != 1 or not all(map(_idle, others)):
        return None
    arguments = checks[0].args
    if len(arguments.args) != 1 or checks[0].decorator_list:
        return None
    return _tests(checks[0].body, arguments.args[0].arg, entry_point)


def _tests(body: list[ast.stmt], candidate: str, entry_point: str) -> tuple[Test, ...] | None:
    tests = []
    for node in body:
        if _idle(node) or _always_true(node):
            continue
        test = as_test(node, candidate, entry_point)
        if test is None:
            return None
        tests.append(test)
    return tuple(tests) or None


def as_test(node: ast.stmt, candidate: str, entry_point: str) -> Test | None:
    """One assertion as a test of ``entry_point``, or None."""
    if not isinstance(node, ast.Assert):
        return None
    claim = node.test
    if isinstance(claim, ast.Compare) and len(claim.ops) == 1:
        return _comparison(claim, candidate, entry_point)
    if isinstance(claim, ast.UnaryOp) and isinstance(claim.op, ast.Not):
        call = _call(claim.operand, candidate, entry_point)
        return Test(f"not {call}", "True") if call else None
    call = _call(claim, candidate, entry_point)
    return Test(f"not not {call}", "True") if call else None


def _comparison(claim: ast.Compare, candidate: str, entry_point: str) -> Test | None:
    sides = (claim.left, claim.comparators[0])
    for left, right in (sides, sides[::-1]):
        call, expected = _expression(left, candidate, entry_point), _folded(right)
        if call is None or expected is None:
            continue
        if expected in ("True", "False") and _call(left, candidate, entry_point) is None:
            return None  # ``all(...) == True`` could be had by tampering with ``all``
        if isinstance(claim.ops[0], ast.Eq):
            return Test(call, expected, compare="equal")
        if isinstance(claim.ops[0], ast.Is) and expected in ("True", "False", "None"):
            return Test(call, expected)
    return None


def _call(node: ast.expr, candidate: str, entry_point: str) -> str | None:
    """Source of a bare call of the candidate, under its own name."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == candidate:
        return _expression(node, candidate, entry_point)
    return None


def _expression(node: ast.expr, candidate: str, entry_point: str) -> str | None:
    """Source of an expression made of calls of the candidate, literals and builtins."""
    names = []
    for part in ast.walk(node):
        if not isinstance(part, _PARTS):
            return None
        names += [part.id] if isinstance(part, ast.Name) else []
    if candidate not in names or not set(names) <= {candidate, *_BUILTINS}:
        return None
    if candidate == entry_point:
        return ast.unparse(node)
    return ast.unparse(_Rename(candidate, entry_point).visit(copy.deepcopy(node)))


class _Rename(ast.NodeTransformer):
    def __init__(self, old: str, new: str) -> None:
        self.old, self.new = old, new

    def visit_Name(self, node: ast.Name) -> ast.Name:
        return ast.Name(self.new, node.ctx) if node.id == self.old else node


_PARTS = (
    *(ast.Call, ast.Name, ast.Constant, ast.List, ast.Tuple, ast.Set, ast.Dict, ast.keyword),
    *(ast.UnaryOp, ast.BinOp, ast.Subscript, ast.Slice, ast.Attribute),
    *(ast.expr_context, ast.operator, ast.USub, ast.UAdd),
)
_WRAPPERS = """
    abs bool complex dict float frozenset int len list max min range round set sorted str sum
    tuple type
"""
_BUILTINS = frozenset(_WRAPPERS.split())


def _folded(node: ast.expr) -> str | None:
    """Source of the literal an expression stands for: ``(3 + 5, 3 * 5)`` is ``(8, 15)``."""
    try:
        folded = ast.fix_missing_locations(_Fold().visit(copy.deepcopy(node)))
        literal(folded)
        return ast.unparse(folded)
    except (ValueError, TypeError, ArithmeticError, RecursionError):
        return None


class _Fold(ast.NodeTransformer):
    def visit_BinOp(self, node: ast.BinOp) -> ast.expr:
        self.generic_visit(node)
        operate = _ARITHMETIC.get(type(node.op))
        try:
            left, right = literal(node.left), literal(node.right)
        except ValueError:
            return node
        small = all(type(v) in (int, float) and abs(v) < 1 << 64 for v in (left, right))
        if operate is None or not small:
            return node
        return ast.parse(repr(operate(left, right)), mode="eval").body


_ARITHMETIC: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}


def _idle(node: ast.stmt) -> bool:
    """Statements that test nothing and define nothing a test could use."""
    if isinstance(node, ast.Assign):
        names = [target.id for target in node.targets if isinstance(target, ast.Name)]
        return names == ["METADATA"]
    return isinstance(node, (ast.Pass, ast.Import, ast.ImportFrom)) or (
        isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    )


def _always_true(node: ast.stmt) -> bool:
    return (
        isinstance(node, ast.Assert)
        and isinstance(node.test, ast.Constant)
        and node.test.value is True
    )
