"""What an answer's function needs beside it: moved into the function, or kept after it."""

from __future__ import annotations

import ast
from collections.abc import Collection
from dataclasses import dataclass

from persd.domains.layout import Function
from persd.domains.names import BUILTINS, Names, Occurrence, Scope


@dataclass(frozen=True)
class Header:
    """A task's header, read: what stands before the ``def``, and the ``def``."""

    function: Function
    preamble: tuple[ast.stmt, ...]
    indent: str | None
    """Indentation its docstring sets for the body; None: the body may choose."""


def divide(
    header: Header, tree: ast.Module, names: Names, entry: int
) -> tuple[list[int], list[int]]:
    """Top-level statements to move into the function, and those to keep after it, by index."""
    users: dict[str, set[int]] = {}
    for o in names.occurrences:
        if names.meaning(o) is names.module and not (o.stores and o.scope is names.module):
            users.setdefault(o.name, set()).add(o.statement)
    function = tree.body[entry]
    _forget_signature(names, function, users, entry)
    known = {ast.dump(n) for n in header.preamble}
    dynamic = bool(users.keys() & DYNAMIC)
    inside, beside = list[int](), list[int]()
    for i, node in enumerate(tree.body):
        if i == entry or ast.dump(node) in known or is_future(node):
            continue
        bound = _bound_by(node)
        used = set[int]().union(*(users.get(name, set()) for name in bound))
        if isinstance(node, (ast.Import, ast.ImportFrom)) and not dynamic and "*" not in bound:
            if used == {entry} and not _declared_global(function, bound):
                inside.append(i)
            elif used:
                beside.append(i)
        elif (
            used == {entry}
            and not dynamic
            and all(len(bindings(names, name)) == 1 for name in bound)
            and _is_fixed(node, function, bound)
        ):
            inside.append(i)
        else:
            beside.append(i)
    return inside, beside


def _forget_signature(
    names: Names, function: ast.stmt, users: dict[str, set[int]], entry: int
) -> None:
    """Names that only the replaced signature used are used no more."""
    scope = names.scopes[function]
    needed = {
        o.name
        for o in names.occurrences
        if o.statement == entry and within(o.scope, scope) and names.meaning(o) is names.module
    }
    for name, places in users.items():
        if name not in needed:
            places.discard(entry)


def _is_fixed(node: ast.stmt, function: ast.stmt, bound: Collection[str]) -> bool:
    """Whether a constant may be made afresh in each call: plain data that is only read."""
    if isinstance(node, ast.Assign):
        targets, value = node.targets, node.value
    elif isinstance(node, ast.AnnAssign) and node.value is not None:
        targets, value = [node.target], node.value
    else:
        return False
    if not all(isinstance(t, ast.Name) for t in targets) or not _is_plain(value):
        return False
    if _declared_global(function, bound):
        return False
    return _is_immutable(value) or not _changed(function, bound)


def _is_immutable(value: ast.expr) -> bool:
    """Numbers, text and tuples of them, and arithmetic on those."""
    return all(isinstance(node, _IMMUTABLE) for node in ast.walk(value))


def _is_plain(value: ast.expr) -> bool:
    """Displays and arithmetic over literals, and builtin containers made of them."""
    for node in ast.walk(value):
        if isinstance(node, ast.Call):
            if not (isinstance(node.func, ast.Name) and node.func.id in _MAKERS):
                return False
        elif isinstance(node, ast.Name):
            if node.id not in _MAKERS:
                return False
        elif not isinstance(node, _PLAIN):
            return False
    return True


def _changed(function: ast.AST, bound: Collection[str]) -> bool:
    """Whether the function may change one of these objects, or hand it out to be changed."""
    reads = set[ast.AST]()
    for node in ast.walk(function):
        if isinstance(node, ast.Compare):
            reads.update(node.comparators)
        elif isinstance(node, (ast.For, ast.comprehension)):
            reads.add(node.iter)
        elif isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Load):
            reads.update((node.value, node.slice))
        elif isinstance(node, ast.Attribute) and node.attr in _READERS:
            reads.add(node.value)
        elif isinstance(node, ast.BinOp):
            reads.update((node.left, node.right))
        elif isinstance(node, ast.Call) and getattr(node.func, "id", "") in BUILTINS:
            reads.update(node.args)
    return any(
        isinstance(n, ast.Name) and n.id in bound and n not in reads for n in ast.walk(function)
    )


def bindings(names: Names, name: str) -> list[Occurrence]:
    return [
        o
        for o in names.occurrences
        if o.stores and o.name == name and names.meaning(o) is names.module
    ]


def is_future(node: ast.stmt) -> bool:
    return isinstance(node, ast.ImportFrom) and node.module == "__future__"


def _bound_by(node: ast.stmt) -> set[str]:
    """Names a top-level statement binds at the top level; ``*`` for a star import."""
    names = Names(ast.Module([node], []))
    return names.module.bound | ({"*"} if names.star_import else set())


def _declared_global(function: ast.AST, bound: Collection[str]) -> bool:
    return any(isinstance(n, ast.Global) and set(n.names) & set(bound) for n in ast.walk(function))


def within(scope: Scope | None, ancestor: Scope) -> bool:
    while scope is not None and scope is not ancestor:
        scope = scope.parent
    return scope is ancestor


DYNAMIC = frozenset({"eval", "exec", "globals", "locals", "vars", "__import__"})
_MAKERS = frozenset(
    {"set", "frozenset", "tuple", "list", "dict", "range", "float", "int", "str", "len", "zip"}
)
_READERS = frozenset(
    {"get", "items", "keys", "values", "index", "count", "startswith", "endswith", "find",
     "lower", "upper", "split", "join", "issubset", "issuperset", "union", "intersection"}
)  # fmt: skip
_PLAIN = (
    ast.Constant, ast.Tuple, ast.List, ast.Set, ast.Dict, ast.BinOp, ast.UnaryOp,
    ast.operator, ast.unaryop, ast.expr_context,
)  # fmt: skip
_IMMUTABLE = (
    ast.Constant, ast.Tuple, ast.BinOp, ast.UnaryOp, ast.operator, ast.unaryop, ast.expr_context,
)  # fmt: skip
