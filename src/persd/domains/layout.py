"""A function's text taken apart and put together line by line, as its author wrote it."""

from __future__ import annotations

import ast
import io
import tokenize
from collections.abc import Collection

FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
Function = ast.FunctionDef | ast.AsyncFunctionDef


def body_text(source: str, function: Function, indent: str | None) -> tuple[str, str]:
    """The function's body as written, less its docstring where the header has one; its indent."""
    lines = source.split("\n")
    end = function.end_lineno or len(lines)
    start, column = _signature_end(lines, function)
    first = function.body[0]
    if first.lineno == start:  # def f(x): return x
        text = "\n".join([lines[start - 1][column:], *lines[start:end]]).strip()
        return f"{indent or ' ' * 4}{text}\n", indent or " " * 4
    own = indent_of(source, first)
    if indent is not None and has_docstring(function):
        if len(function.body) == 1:
            return f"{indent}pass\n", indent
        start = first.end_lineno or start
    text = "\n".join(lines[start:end]) + "\n"
    if indent is None or indent == own:
        return text, own
    return _shifted(source, start, end, own, indent), indent


def _shifted(source: str, start: int, end: int, old: str, new: str) -> str:
    """Lines start+1..end with indentation ``old`` made ``new``, insides of strings untouched."""
    lines = source.split("\n")
    inside = _string_lines(source)
    shifted = [
        new + line[len(old) :] if number not in inside and line.startswith(old) else line
        for number, line in enumerate(lines[start:end], start + 1)
    ]
    return "\n".join(shifted) + "\n"


def _string_lines(source: str) -> set[int]:
    """Numbers of the lines that begin inside a string."""
    inside, opened = set[int](), list[int]()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        kind = tokenize.tok_name[token.type]
        if kind == "STRING":
            inside.update(range(token.start[0] + 1, token.end[0] + 1))
        elif kind.endswith("STRING_START"):
            opened.append(token.start[0])
        elif kind.endswith("STRING_END"):
            inside.update(range(opened.pop() + 1, token.end[0] + 1))
    return inside


def _signature_end(lines: list[str], function: Function) -> tuple[int, int]:
    """Line (from 1) and column just after the colon that ends the signature."""
    text = "\n".join(lines[function.lineno - 1 :]) + "\n"
    depth = 0
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.string in ("(", "[", "{"):
            depth += 1
        elif token.string in (")", "]", "}"):
            depth -= 1
        elif token.string == ":" and depth == 0:
            return function.lineno + token.end[0] - 1, token.end[1]
    raise SyntaxError("a signature without an end")


def leading_docstring(source: str, function: Function) -> str:
    """The lines of the docstring the body opens with, or nothing."""
    if not has_docstring(function) or len(function.body) < 2:
        return ""
    lines = source.split("\n")
    start, _ = _signature_end(lines, function)
    first = function.body[0]
    if first.lineno == start or first.end_lineno == function.body[1].lineno:
        return ""
    return "\n".join(lines[start : first.end_lineno]) + "\n"


def without_statements(source: str, tree: ast.Module, dropped: Collection[ast.stmt]) -> str:
    """The source less these top-level statements and the comment lines right above them.

    Whatever shares a line with another statement stays, and so does a program of nothing else.
    """
    lines, gone = source.split("\n"), set[int]()
    kept = {line for node in tree.body if node not in dropped for line in line_span(node)}
    for node in dropped:
        span = set(line_span(node)) - kept
        gone |= span
        above = min(span, default=1) - 1
        while span and above > 0 and lines[above - 1].startswith("#"):
            gone.add(above)
            above -= 1
    if not gone or not kept:
        return source
    return "\n".join(line for i, line in enumerate(lines, 1) if i not in gone).lstrip("\n")


def statement_text(source: str, nodes: list[ast.stmt], index: int) -> str:
    """A top-level statement as written, with the comment lines right above it."""
    lines, node = source.split("\n"), nodes[index]
    span = line_span(node)
    beside = nodes[max(0, index - 1) : index] + nodes[index + 1 : index + 2]
    shared = any(set(span) & set(line_span(n)) for n in beside)
    if shared:
        return (ast.get_source_segment(source, node) or "") + "\n"
    start = span[0]
    while start > 1 and lines[start - 2].startswith("#"):
        start -= 1
    return "\n".join(lines[start - 1 : span[-1]]) + "\n"


def spaced(pieces: list[str], nodes: list[ast.stmt]) -> str:
    """Pieces one after the other: two blank lines around definitions, one before the rest."""
    text = pieces[0].rstrip() + "\n"
    blocks = (*FUNCTIONS, ast.ClassDef)
    for piece, node, before in zip(pieces[1:], nodes[1:], nodes, strict=False):
        apart = isinstance(node, blocks) or isinstance(before, blocks)
        text += ("\n\n" if apart else "") + piece.rstrip() + "\n"
    return text


def has_docstring(function: Function) -> bool:
    return ast.get_docstring(function, clean=False) is not None


def indent_of(source: str, node: ast.stmt) -> str:
    line = source.split("\n")[node.lineno - 1]
    return line[: len(line) - len(line.lstrip())]


def line_span(node: ast.stmt) -> range:
    decorators = getattr(node, "decorator_list", [])
    first = min([node.lineno, *(d.lineno for d in decorators)])
    return range(first, (node.end_lineno or node.lineno) + 1)
