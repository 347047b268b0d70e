"""Expected against returned: literals read without eval, values compared as plain data."""

from __future__ import annotations

import ast
import cmath
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from persd.records import Test
from persd.sandbox import codec

_NUMBERS = (int, float)
_NAMES = {"nan": math.nan, "inf": math.inf}
_CALLS: dict[str, Any] = {
    "set": set,
    "frozenset": frozenset,
    "tuple": tuple,
    "list": list,
    "bytearray": bytearray,
    "float": float,
}


class NotLiteral(ValueError):
    """Source that is not a literal."""


@dataclass(frozen=True, slots=True)
class Expected:
    """An expected value, read once for all programs."""

    value: Any
    canonical: str


def read_expected(text: str) -> Expected:
    """The value of a Python literal. Beyond ``ast.literal_eval``: ``nan``, ``inf``,
    ``float('nan')``, ``set()``, ``frozenset(...)``, ``bytearray(...)``.

    Raises NotLiteral.
    """
    return _read_cached(text) if len(text) < 4000 else _read(text)


def _read(text: str) -> Expected:
    try:
        value = literal(ast.parse(text.strip(), mode="eval").body)
        return Expected(value, codec.canonical(codec.dumps(value)))
    except NotLiteral:
        raise
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError) as error:
        raise NotLiteral(f"not a Python literal: {type(error).__name__}") from None


_read_cached = lru_cache(maxsize=4096)(_read)


def literal(node: ast.expr) -> Any:
    """The value of a literal's syntax tree. Raises NotLiteral, or what building it raises."""
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, ast.List):
        return [literal(item) for item in node.elts]
    if isinstance(node, ast.Tuple):
        return tuple(literal(item) for item in node.elts)
    if isinstance(node, ast.Set):
        return {literal(item) for item in node.elts}
    if isinstance(node, ast.Dict):
        return _literal_dict(node)
    if isinstance(node, ast.Name) and node.id in _NAMES:
        return _NAMES[node.id]
    if isinstance(node, ast.Call):
        return _literal_call(node)
    return _literal_number(node)


def _literal_dict(node: ast.Dict) -> Any:
    if None in node.keys:
        raise NotLiteral("** in a dict")
    keys = [literal(key) for key in node.keys if key is not None]
    return dict(zip(keys, map(literal, node.values), strict=True))


def _literal_call(node: ast.Call) -> Any:
    if not isinstance(node.func, ast.Name) or node.func.id not in _CALLS or node.keywords:
        raise NotLiteral("a call")
    args = [literal(arg) for arg in node.args]
    text = node.func.id == "float"
    if len(args) > 1 or (args and isinstance(args[0], str) is not text):
        raise NotLiteral("a call")
    return _CALLS[node.func.id](*args)


def _literal_number(node: ast.expr) -> Any:
    """-1, +1, 1+2j."""
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.USub, ast.UAdd)):
        value = literal(node.operand)
        if type(value) in (int, float, complex):
            return -value if isinstance(node.op, ast.USub) else value
    if isinstance(node, ast.BinOp) and isinstance(node.op, (ast.Add, ast.Sub)):
        left, right = literal(node.left), literal(node.right)
        if type(left) in _NUMBERS and type(right) is complex:
            return left + right if isinstance(node.op, ast.Add) else left - right
    raise NotLiteral(f"not a Python literal: {type(node).__name__}")


def agrees(test: Test, frame: Mapping[str, Any]) -> bool:
    """Whether the frame of a call holds what the test expects.

    ``value``: same types throughout, equal, NaN equal to NaN. ``equal``: Python's ``==`` on
    plain data (1 == 1.0 == True, a Counter equals its dict). ``loose``: as ``equal``, or the
    text of the value or of stdout. Raises NotLiteral (``value``, ``equal``), codec.CodecError.
    """
    if test.compare == "loose":
        return _loose(test, frame)
    expected = read_expected(test.expected)
    if test.compare == "value" and test.tolerance is None:
        text = codec.compact(frame["v"])
        return text == expected.canonical or codec.canonical(text) == expected.canonical
    return _same(expected.value, frame["v"], test.tolerance, exact=test.compare == "value")


def _loose(test: Test, frame: Mapping[str, Any]) -> bool:
    wanted = test.expected.strip()
    if any(isinstance(frame.get(k), str) and frame[k].strip() == wanted for k in ("s", "o")):
        return True
    try:
        expected = read_expected(test.expected)
    except NotLiteral:
        return False
    return _same(expected.value, frame["v"], test.tolerance, exact=False)


def _same(expected: Any, tree: Any, tolerance: float | None, *, exact: bool) -> bool:
    value = codec.decode(tree)
    try:
        return close(expected, value if exact else codec.unwrap(value), tolerance, exact=exact)
    except (TypeError, OverflowError, RecursionError):
        return False


def close(a: Any, b: Any, tolerance: float | None, *, exact: bool) -> bool:
    """Equality of plain data. With a tolerance, numbers agree within it, relative or absolute,
    whether int or float; without, ``exact`` asks for the same types."""
    if isinstance(a, _NUMBERS) and isinstance(b, _NUMBERS):
        return _close_numbers(a, b, tolerance, exact)
    if exact and type(a) is not type(b):
        return False
    if isinstance(a, complex) or isinstance(b, complex):
        loose = tolerance is not None and isinstance(a, complex) and isinstance(b, complex)
        return cmath.isclose(a, b, rel_tol=tolerance, abs_tol=tolerance) if loose else a == b  # type: ignore[arg-type]
    if isinstance(a, (list, tuple)) and type(a) is type(b):
        pairs = zip(a, b, strict=False)
        return len(a) == len(b) and all(close(x, y, tolerance, exact=exact) for x, y in pairs)
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(close(a[k], b[k], tolerance, exact=exact) for k in a)
    return bool(a == b)


def _close_numbers(a: float, b: float, tolerance: float | None, exact: bool) -> bool:
    bools = isinstance(a, bool) or isinstance(b, bool)
    if exact and type(a) is not type(b) and (tolerance is None or bools):
        return False
    if a != a and b != b:
        return True
    if tolerance is None or bools:
        return a == b
    return math.isclose(a, b, rel_tol=tolerance, abs_tol=tolerance)
