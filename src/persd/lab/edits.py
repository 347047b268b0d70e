"""Small changes of a program: what one slip of the hand could have got wrong.

Every change is a replacement in the author's own text, so the rest keeps its formatting and
comments: a constant, an operator, two operands, a name, a method, a slice, a statement left
out or exchanged with its neighbour. Likelier changes come first.
"""

from __future__ import annotations

import ast
import builtins
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

MAX_SOURCE = 20_000
"""Characters; a longer program is not searched."""

_COMPARE: dict[type[ast.cmpop], tuple[str, tuple[str, ...]]] = {
    ast.Lt: ("<", ("<=", ">", ">=")),
    ast.LtE: ("<=", ("<", ">=", ">")),
    ast.Gt: (">", (">=", "<", "<=")),
    ast.GtE: (">=", (">", "<=", "<")),
    ast.Eq: ("==", ("!=", "<=", ">=")),
    ast.NotEq: ("!=", ("==",)),
    ast.In: ("in", ("not in",)),
    ast.NotIn: ("not in", ("in",)),
    ast.Is: ("is", ("is not",)),
    ast.IsNot: ("is not", ("is",)),
}
_ARITHMETIC: dict[type[ast.operator], tuple[str, tuple[str, ...]]] = {
    ast.Add: ("+", ("-", "*")),
    ast.Sub: ("-", ("+",)),
    ast.Mult: ("*", ("+", "//", "**")),
    ast.FloorDiv: ("//", ("%", "/", "*")),
    ast.Div: ("/", ("//", "*")),
    ast.Mod: ("%", ("//",)),
    ast.Pow: ("**", ("*",)),
}
_GROWS = frozenset({"append", "insert", "extend"})
_SIBLINGS = (
    {"upper", "lower", "title", "capitalize", "swapcase"},
    {"startswith", "endswith"},
    {"isdigit", "isalpha", "isalnum", "isspace"},
    {"append", "extend"},
    {"strip", "lstrip", "rstrip"},
    {"keys", "values", "items"},
    {"find", "rfind"},
    {"min", "max"},
    {"len", "sum"},
    {"any", "all"},
    {"int", "str", "float"},
    {"sorted", "reversed"},
)


@dataclass(frozen=True, slots=True)
class Edit:
    """Replace the bytes ``start`` to ``end`` of a program by ``new``."""

    start: int
    end: int
    new: str


@dataclass(frozen=True, slots=True)
class Hints:
    """What may guide the search: constants the task names, and the line an error left."""

    numbers: tuple[int, ...] = ()
    texts: tuple[str, ...] = ()
    line: int | None = None


def hints_of(instruction: str, line: int | None = None) -> Hints:
    """Constants mined from the words of a task.

    Values of the failing test are left out on purpose: a constant taken from an expected
    value is how a repair comes to fit one test alone.
    """
    numbers = tuple(dict.fromkeys(int(n) for n in re.findall(r"-?\b\d{1,6}\b", instruction)))
    quoted = re.findall(r"'([^'\n]{1,12})'|\"([^\"\n]{1,12})\"", instruction)
    alone = re.findall(r"(?<![^\s(])([^\W\d]|[-_+/,:;|#*])(?=[\s.,;)]|$)", instruction)
    texts = tuple(dict.fromkeys([a or b for a, b in quoted] + alone))
    return Hints(numbers, texts, line)


def single_edits(
    code: str, hints: Hints, lines: range | None = None, limit: int = 80
) -> Iterator[str]:
    """Programs one change away from ``code``, likeliest first, at most ``limit``.

    ``lines`` keeps to changes that start on these 1-based lines. A program that does not
    parse gives its line-level repairs instead.
    """
    tree = parse(code)
    if tree is None:
        yield from _distinct(code, _mend_syntax(code), limit)
        return
    text = _Text(code)
    ranked = []
    for rank, edit in _all_edits(tree, text, hints):
        line = text.line_of(edit.start)
        if lines is None or line in lines:
            ranked.append((line != hints.line, rank, edit.start, edit))
    ranked.sort(key=lambda r: r[:3])
    yield from _distinct(code, (text.apply([edit]) for *_, edit in ranked), limit)


def parse(code: str) -> ast.Module | None:
    """The tree, or None for what does not parse or is too long to be searched."""
    if len(code) > MAX_SOURCE:
        return None
    try:
        return ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def rename(code: str, names: dict[str, str]) -> str:
    """The code with variables renamed; text inside strings stays. Needs code that parses."""
    text = _Text(code)
    edits = [
        Edit(*text.span(node), names[node.id])
        for node in ast.walk(ast.parse(code))
        if isinstance(node, ast.Name) and node.id in names
    ]
    return text.apply(edits)


class _Text:
    """A program's bytes, addressed as ``ast`` addresses them: line and UTF-8 column."""

    def __init__(self, code: str) -> None:
        self.bytes = code.encode()
        self._starts = [0]
        for line in self.bytes.splitlines(keepends=True):
            self._starts.append(self._starts[-1] + len(line))

    def at(self, line: int, column: int) -> int:
        return self._starts[line - 1] + column

    def span(self, node: ast.expr | ast.stmt) -> tuple[int, int]:
        start = self.at(node.lineno, node.col_offset)
        return start, self.at(node.end_lineno or node.lineno, node.end_col_offset or 0)

    def of(self, node: ast.expr | ast.stmt) -> str:
        start, end = self.span(node)
        return self.bytes[start:end].decode()

    def rows(self, node: ast.stmt) -> tuple[int, int]:
        """The whole lines of a statement."""
        last = node.end_lineno or node.lineno
        return self._starts[node.lineno - 1], self._starts[min(last, len(self._starts) - 1)]

    def line_of(self, position: int) -> int:
        return next(
            i for i, s in enumerate(self._starts[1:], 1) if position < s or s == len(self.bytes)
        )

    def apply(self, edits: Sequence[Edit]) -> str:
        out = self.bytes
        for edit in sorted(edits, key=lambda e: e.start, reverse=True):
            out = out[: edit.start] + edit.new.encode() + out[edit.end :]
        return out.decode()


def _distinct(code: str, candidates: Iterator[str], limit: int) -> Iterator[str]:
    """New programs that parse and have a chance to end."""
    seen = {code}
    for candidate in candidates:
        if candidate in seen:
            continue
        seen.add(candidate)
        tree = parse(candidate)
        if tree is not None and not _grows_without_end(tree):
            yield candidate
            limit -= 1
        if limit == 0:
            return


def _grows_without_end(tree: ast.Module) -> bool:
    """Does a list grow while it is walked over, or is it put into itself?"""
    for node in ast.walk(tree):
        walked = _names(node.iter) if isinstance(node, ast.For) else set()
        for call in ast.walk(node) if walked else (node,):
            if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Attribute):
                continue
            owner = call.func.value
            if call.func.attr not in _GROWS or not isinstance(owner, ast.Name):
                continue
            if owner.id in walked or any(_is_name(a, owner.id) for a in call.args):
                return True
    return False


def _is_name(node: ast.expr, name: str) -> bool:
    return isinstance(node, ast.Name) and node.id == name


def _names(tree: ast.AST) -> set[str]:
    return {n.id for n in ast.walk(tree) if isinstance(n, ast.Name)}


def _all_edits(tree: ast.Module, text: _Text, hints: Hints) -> Iterator[tuple[int, Edit]]:
    """Every change with its rank: 0 is the likeliest kind."""
    bound = _bound_names(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant):
            yield from _constant(node, text, hints)
        elif isinstance(node, ast.Compare):
            yield from _compare(node, text)
        elif isinstance(node, ast.BinOp):
            yield from _arithmetic(node, text)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
            yield from _name(node, text, bound)
        elif isinstance(node, ast.Attribute):
            end = text.span(node)[1]
            for other in _siblings(node.attr):
                yield 3, Edit(end - len(node.attr.encode()), end, other)
        elif isinstance(node, ast.Slice):
            yield from _slice(node, text)
        elif isinstance(node, ast.Call):
            yield from _call(node, text)
        elif isinstance(node, ast.AugAssign):
            yield from _augmented(node, text)
        elif isinstance(node, ast.If | ast.While | ast.IfExp):
            start, end = text.span(node.test)
            yield 4, Edit(start, end, f"not ({text.of(node.test)})")
        yield from _statements(node, text)


def _constant(node: ast.Constant, text: _Text, hints: Hints) -> Iterator[tuple[int, Edit]]:
    start, end = text.span(node)
    value = node.value
    if isinstance(value, bool):
        yield 2, Edit(start, end, repr(not value))
    elif isinstance(value, int):
        for number in hints.numbers:
            yield 0, Edit(start, end, repr(number))
        for number in dict.fromkeys((value + 1, value - 1, 0, 1, 2)):
            yield 3, Edit(start, end, repr(number))
    elif isinstance(value, str) and len(value) <= 12:
        quote = text.of(node)[-1]
        for other in hints.texts:
            if quote not in other and "\\" not in other:
                yield 0, Edit(start, end, f"{quote}{other}{quote}")


def _compare(node: ast.Compare, text: _Text) -> Iterator[tuple[int, Edit]]:
    left: ast.expr = node.left
    for op, right in zip(node.ops, node.comparators, strict=True):
        sign, others = _COMPARE[type(op)]
        gap = _find(text, text.span(left)[1], text.span(right)[0], sign)
        if gap:
            for other in others:
                yield 1, Edit(*gap, other)
        left = right
    if len(node.ops) == 1:
        yield 5, _swap(node.left, node.comparators[0], text)


def _arithmetic(node: ast.BinOp, text: _Text) -> Iterator[tuple[int, Edit]]:
    sign, others = _ARITHMETIC.get(type(node.op), ("", ()))
    gap = _find(text, text.span(node.left)[1], text.span(node.right)[0], sign)
    if sign and gap:
        for other in others:
            yield 1, Edit(*gap, other)
    yield 4, _swap(node.left, node.right, text)


def _find(text: _Text, start: int, end: int, sign: str) -> tuple[int, int] | None:
    """Where an operator stands between its operands."""
    at = text.bytes.find(sign.encode(), start, end)
    return (at, at + len(sign)) if at >= 0 else None


def _swap(left: ast.expr, right: ast.expr, text: _Text) -> Edit:
    (start, middle), (after, end) = text.span(left), text.span(right)
    between = text.bytes[middle:after].decode()
    return Edit(start, end, text.of(right) + between + text.of(left))


def _bound_names(tree: ast.Module) -> list[str]:
    """Parameters and variables, in order of appearance."""
    names: dict[str, None] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.arg):
            names[node.arg] = None
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names[node.id] = None
    return list(names)


def _name(node: ast.Name, text: _Text, bound: list[str]) -> Iterator[tuple[int, Edit]]:
    start, end = text.span(node)
    siblings = _siblings(node.id)
    for other in siblings:
        yield 2, Edit(start, end, other)
    if node.id not in bound and hasattr(builtins, node.id):
        return
    for other in bound:
        yield (2 if node.id not in bound else 5), Edit(start, end, other)


def _siblings(name: str) -> list[str]:
    return [other for group in _SIBLINGS if name in group for other in sorted(group - {name})]


def _slice(node: ast.Slice, text: _Text) -> Iterator[tuple[int, Edit]]:
    """``[:k]`` and ``[k:]`` for each other; ``[k:]`` and ``[-k:]`` likewise."""
    if node.step is not None or (node.lower is None) == (node.upper is None):
        return
    bound = node.lower or node.upper
    if bound is None:
        return
    start, end = text.span(node)
    shown = text.of(bound)
    flipped = shown[1:] if shown.startswith("-") else f"-{shown}"
    yield 2, Edit(start, end, f":{shown}" if node.lower else f"{shown}:")
    yield 4, Edit(start, end, f"{flipped}:")
    yield 4, Edit(start, end, f":{flipped}")


def _call(node: ast.Call, text: _Text) -> Iterator[tuple[int, Edit]]:
    """``append(x)`` and ``insert(0, x)`` for each other; the two arguments exchanged."""
    start, end = text.span(node)
    function = node.func
    if isinstance(function, ast.Attribute):
        owner = text.of(function.value)
        if function.attr == "append" and len(node.args) == 1:
            yield 4, Edit(start, end, f"{owner}.insert(0, {text.of(node.args[0])})")
        elif function.attr == "insert" and len(node.args) == 2:
            yield 2, Edit(start, end, f"{owner}.append({text.of(node.args[1])})")
    if len(node.args) == 2:
        yield 4, _swap(node.args[0], node.args[1], text)


def _augmented(node: ast.AugAssign, text: _Text) -> Iterator[tuple[int, Edit]]:
    start, end = text.span(node)
    target, value = text.of(node.target), text.of(node.value)
    for sign in ("+", "-", "*"):
        yield 4, Edit(start, end, f"{target} {sign}= {value}")
    yield 5, Edit(start, end, f"{target} = {value} + {target}")


def _statements(node: ast.AST, text: _Text) -> Iterator[tuple[int, Edit]]:
    """A statement left out, exchanged with the next one, or moved out of its loop."""
    for field in ("body", "orelse"):
        body = getattr(node, field, None)
        if not isinstance(body, list):
            continue
        for i, statement in enumerate(body):
            if isinstance(statement, ast.FunctionDef | ast.ClassDef | ast.Return):
                if isinstance(statement, ast.Return) and isinstance(node, ast.For | ast.If):
                    yield from _dedent(statement, text)
                continue
            start, end = text.rows(statement)
            indent = " " * statement.col_offset
            if len(body) > 1:
                yield 5, Edit(start, end, "")
            else:
                yield 6, Edit(start, end, f"{indent}pass\n")
            if i + 1 < len(body):
                begin, stop = text.rows(body[i + 1])
                if not isinstance(body[i + 1], ast.Return) and begin >= end:
                    moved = text.bytes[begin:stop] + text.bytes[end:begin] + text.bytes[start:end]
                    yield 6, Edit(start, stop, moved.decode())


def _dedent(statement: ast.Return, text: _Text) -> Iterator[tuple[int, Edit]]:
    start, end = text.rows(statement)
    line = text.bytes[start:end].decode()
    for width in range(4, statement.col_offset, 4):
        yield 2, Edit(start, end, line[width:])


def _mend_syntax(code: str) -> Iterator[str]:
    """Repairs of the line where parsing stops: a bracket, a quote, a colon, the line itself."""
    if len(code) > MAX_SOURCE:
        return
    try:
        ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        number = getattr(error, "lineno", None) or 1
    else:
        return
    lines = code.splitlines()
    for at in dict.fromkeys((number, number - 1)):
        if not 1 <= at <= len(lines):
            continue
        before, line, after = lines[: at - 1], lines[at - 1], lines[at:]
        variants = [
            line + tail for tail in (")", "]", "))", "])", "}", '"', "'", '")', "')", ":", "):")
        ]
        variants += [line[:-1], line[4:] if line.startswith("        ") else f"    {line}"]
        for variant in variants:
            yield "\n".join([*before, variant, *after]) + "\n"
        yield "\n".join([*before, *after]) + "\n"
