"""Wrong programs that good tests notice: small changes of the reference, and functions that do
nothing.

What is changed (as in mutation testing; DeMillo et al. 1978): operators, conditions, constants,
statements left out, values not returned, calls whose argument is taken in their place, slices
that are not cut. Nothing is changed where a call would hardly show it: docstrings, annotations,
defaults, the texts of errors, warnings and logs, what a function prints beside the value that it
returns, and what stands beside functions and classes.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable, Iterator, Set
from typing import Any, NamedTuple

from persd.domains.align import Misaligned, read_header
from persd.records import Task
from persd.tasks.rows import Wrong, whole_program

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
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.And: ast.Or,
    ast.Or: ast.And,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
    ast.BitXor: ast.BitAnd,
    ast.LShift: ast.RShift,
    ast.RShift: ast.LShift,
    ast.Pow: ast.Mult,
}

#: Puts a node in the place of another, and gives the other.
_Put = Callable[[Any], Any]


class _Change(NamedTuple):
    line: int
    """Of the statement."""
    put: _Put
    new: ast.AST


def mutants(program: str, most: int = 6, entry_point: str = "") -> Iterator[str]:
    """Up to ``most`` copies of the program with one change each, no two the same.

    The changes are spread evenly over its statements, of functions that ``entry_point`` (empty:
    anybody) may come to call; the same program, the same mutants.
    """
    try:
        tree = ast.parse(program)
        known = {ast.unparse(tree)}
        for change in _spread(_changes(tree, entry_point), most):
            old = change.put(change.new)
            changed = ast.unparse(tree)
            change.put(old)
            if changed not in known:
                known.add(changed)
                yield changed
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return


def _spread(changes: Iterable[_Change], most: int) -> Iterator[_Change]:
    """One of each statement, then another of each; of texts, which may well not occur in what a
    test gives, last."""
    lines: dict[int, list[_Change]] = {}
    for change in changes:
        lines.setdefault(change.line, []).append(change)
    groups = [sorted(group, key=_is_text) for group in lines.values()]
    for turn in range(max(map(len, groups), default=0)):
        found = [group[turn] for group in groups if turn < len(group)]
        step = len(found) / max(1, min(most, len(found)))
        chosen = [found[int(i * step)] for i in range(min(most, len(found)))]
        yield from chosen
        most -= len(chosen)


def _is_text(change: _Change) -> bool:
    return isinstance(change.new, ast.Constant) and isinstance(change.new.value, str)


def _changes(tree: ast.Module, entry_point: str) -> Iterator[_Change]:
    imported = {
        (name.asname or name.name).partition(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for name in node.names
    }
    reached = _reached(tree, entry_point)
    for node in tree.body:
        if isinstance(node, _DEFINITIONS) and node.name in reached:
            yield from _within(node, node.lineno, imported)


def _reached(tree: ast.Module, entry_point: str) -> set[str]:
    """The functions and classes whose names the entry point or a statement beside them uses, and
    theirs in turn; all, where it is none of them. What only shows the program in use is none."""
    own = [node for node in tree.body if isinstance(node, _DEFINITIONS)]
    uses = {name: set[str]() for name in (node.name for node in own)}
    if entry_point not in uses:
        return set(uses)
    for node in own:
        uses[node.name] |= _named(node) & uses.keys()
    found, todo = set[str](), [entry_point]
    beside = [n for n in tree.body if not isinstance(n, _DEFINITIONS) and not _is_main(n)]
    todo += [name for node in beside for name in _named(node)]
    while todo:
        name = todo.pop()
        if name in uses and name not in found:
            found.add(name)
            todo += uses[name]
    return found


def _is_main(node: ast.stmt) -> bool:
    """``if __name__ == "__main__":``"""
    return isinstance(node, ast.If) and "__name__" in _named(node.test)


def _named(node: ast.AST) -> set[str]:
    return {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}


_DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
#: Parts of definitions and statements that no call shows.
_UNSHOWN = frozenset({"decorator_list", "returns", "bases", "annotation", "msg", "type_params"})
_UNSHOWN_NODES = (ast.arguments, ast.Raise, ast.JoinedStr, ast.Import, ast.ImportFrom)


def _within(
    node: ast.AST, line: int, imported: Set[str], aside: Set[str] = frozenset()
) -> Iterator[_Change]:
    """All that may be changed in a node, in the order of the source."""
    if isinstance(node, _FUNCTIONS):
        aside = {*imported & _ASIDE, "logger", *(["print"] if _returns(node) else [])}
    for name, value in ast.iter_fields(node):
        if name in _UNSHOWN:
            continue
        for place, item in enumerate(value if isinstance(value, list) else [value]):
            if not isinstance(item, ast.AST) or isinstance(item, _UNSHOWN_NODES) or _is_doc(item):
                continue
            if _says(item) in aside:
                continue
            put = _putting(node, name, place if isinstance(value, list) else None)
            line = item.lineno if isinstance(item, ast.stmt) else line
            if not (isinstance(node, _DEFINITIONS) and item is node.body[-1]):  # a stub is that
                yield from (_Change(line, put, new) for new in _instead(item, imported))
            yield from _within(item, line, imported, aside)


_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
#: Modules through which nothing is said that is in an answer.
_ASIDE = frozenset({"warnings", "logging"})


def _says(node: ast.AST) -> str:
    """What a statement calls, or calls a method of, by its name; empty: nothing."""
    call = node.value if isinstance(node, ast.Expr) else None
    called = call.func if isinstance(call, ast.Call) else None
    return getattr(called.value if isinstance(called, ast.Attribute) else called, "id", "")


def _returns(function: ast.AST) -> bool:
    """Whether it returns a value, by itself."""
    todo = [function]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.Return) and not _is_none(node.value):
            return True
        inner = (n for n in ast.iter_child_nodes(node) if not isinstance(n, _DEFINITIONS))
        todo.extend(inner)
    return False


def _is_doc(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _putting(node: ast.AST, name: str, place: int | None) -> _Put:
    def put(new: Any) -> Any:
        if place is None:
            old = getattr(node, name)
            setattr(node, name, new)
        else:
            items = getattr(node, name)
            old, items[place] = items[place], new
        return old

    return put


def _instead(node: ast.AST, imported: Set[str]) -> Iterator[ast.AST]:
    """What may stand in a node's place."""
    if type(node) in _SWAPS:
        yield _SWAPS[type(node)]()
    elif isinstance(node, ast.Constant):
        yield from _constant(node.value)
    elif isinstance(node, (ast.If, ast.IfExp)):
        opposite = ast.UnaryOp(ast.Not(), node.test)
        yield type(node)(opposite, node.body, node.orelse)  # type: ignore[arg-type]
    elif isinstance(node, ast.Return) and not _is_none(node.value):
        yield ast.Return(ast.Constant(None))
    elif isinstance(node, (ast.AugAssign, ast.Expr, ast.Break, ast.Continue)):
        yield ast.Pass()
    elif isinstance(node, ast.Call):
        yield from _unwrapped(node, imported)
    elif isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Slice):
        yield node.value


def _is_none(node: ast.expr | None) -> bool:
    return node is None or (isinstance(node, ast.Constant) and node.value is None)


def _constant(value: object) -> Iterator[ast.Constant]:
    if isinstance(value, bool):
        yield ast.Constant(not value)
    elif isinstance(value, (int, float)):
        yield ast.Constant(value + 1)
    elif isinstance(value, str):
        yield ast.Constant(value + "x" if value else " ")


def _unwrapped(call: ast.Call, imported: Set[str]) -> Iterator[ast.expr]:
    """``sorted(x)`` as ``x``, ``x.strip()`` as ``x``; no module in place of what it gives."""
    if isinstance(call.func, ast.Name) and len(call.args) == 1:
        lazy = isinstance(call.args[0], (ast.Starred, ast.GeneratorExp))
        if not lazy and call.func.id not in _ALIKE:
            yield call.args[0]
    elif isinstance(call.func, ast.Attribute):
        owner = call.func.value
        if not (isinstance(owner, ast.Name) and owner.id in imported):
            yield owner


#: Functions whose argument often does as well as what they make of it.
_ALIKE = frozenset({"list", "tuple", "iter", "bool", "float", "dict", "print"})


# ---- functions that do nothing ---------------------------------------------------------------


def stubs(task: Task) -> Iterator[tuple[str, str]]:
    """Programs that solve nothing: what the function does, and the program."""
    try:
        args = read_header(task).function.args
    except Misaligned:
        return
    names = [a.arg for a in (*args.posonlyargs, *args.args)]
    bodies = {"returns None": "pass"}
    if names:
        bodies["returns its first argument"] = f"return {names[0]}"
    for what, body in bodies.items():
        if program := with_body(task, body):
            yield what, program


def with_body(task: Task, body: str) -> str:
    """The task's header with one line of code behind it, whole; empty: that is no program."""
    try:
        indent = read_header(task).indent or " " * 4
        return whole_program(task, f"{task.header}{indent}{body}\n")
    except (Misaligned, Wrong):
        return ""
