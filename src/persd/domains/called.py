"""Which calls of which functions a text makes: in a program, a list of calls, or prose."""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Collection, Iterator

from persd.domains.layout import Function


def calls_in(text: str, names: Collection[str], *, told: bool = False) -> list[str]:
    """Source of the calls of these functions that a text makes when it runs, in order.

    A call within a call counts as part of it. What is no Python (``f(1) -> 2``, prose) is
    searched too. ``told``: a line or statement that should have been such a call and is none
    is given as it stands, so that somebody can say what is wrong with it.
    """
    tree = tree_of(text)
    if tree is None and ">>>" in text:
        text = _session(text)
        tree = tree_of(text)
    if tree is not None:
        return _of_tree(text, tree, names, told)
    found = list[str]()
    for chunk in _chunks(text):
        tree = tree_of(chunk) if "(" in chunk else None
        calls = _scanned(chunk, names) if tree is None else _of_tree(chunk, tree, names, told)
        found += calls or ([chunk] if told and tree is None else [])
    return found


def tree_of(text: str) -> ast.Module | None:
    """The syntax tree of a text; None: it is blank, no Python, or nested too deeply."""
    if not text.strip():
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError, OverflowError):
        return None


def functions_of(text: str) -> list[str]:
    """Names of the functions that a program defines at its top level, in order."""
    tree = tree_of(text)
    body = tree.body if tree is not None else []
    return [node.name for node in body if isinstance(node, Function)]


def docstrings_of(text: str) -> list[str]:
    """The docstrings of the functions that a program defines at its top level."""
    tree = tree_of(text)
    body = tree.body if tree is not None else []
    return [ast.get_docstring(n) or "" for n in body if isinstance(n, Function)]


def only_calls(text: str) -> bool:
    """Whether a block of code shows functions in use, and defines none."""
    tree = tree_of(text)
    if tree is None:
        return text.lstrip().startswith(">>>")
    use = all(isinstance(node, (ast.Expr, ast.Assert)) for node in tree.body)
    return use and any(isinstance(node, ast.Call) for node in ast.walk(tree))


def _of_tree(text: str, tree: ast.Module, names: Collection[str], told: bool) -> list[str]:
    lines = [line.encode("utf-8", "surrogatepass") for line in text.split("\n")]
    found = list[str]()
    for statement in tree.body:
        calls = [_segment(lines, node) for node in _outermost(statement, names)]
        if told and not calls and isinstance(statement, (ast.Expr, ast.Assign)):
            calls = _quoted(statement.value, names)
        if told and not calls and isinstance(statement, ast.Expr):
            calls = [_segment(lines, statement)]
        found += calls
    return found


def _quoted(node: ast.expr, names: Collection[str]) -> list[str]:
    """Calls that are told as a list of texts, ``["f(1)", "f(2)"]``; empty: it is none."""
    items = node.elts if isinstance(node, (ast.List, ast.Tuple)) else []
    texts = [i.value for i in items if isinstance(i, ast.Constant) and isinstance(i.value, str)]
    if len(texts) < len(items):
        return []
    return [call for text in texts for call in calls_in(text, names)]


def _outermost(tree: ast.AST, names: Collection[str]) -> Iterator[ast.Call]:
    """The calls that are within no other one and in no function but a test."""
    todo = [tree]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.Call) and getattr(node.func, "id", None) in names:
            yield node
        elif not (isinstance(node, _BODIES) and not _is_test(node)):
            todo.extend(reversed(list(ast.iter_child_nodes(node))))


def _is_test(node: ast.AST) -> bool:
    return getattr(node, "name", "").lower().startswith(("test", "main", "check"))


def _segment(lines: list[bytes], node: ast.expr | ast.stmt) -> str:
    """A node's source; ``ast.get_source_segment`` takes the whole text apart for each."""
    first, last = node.lineno - 1, (node.end_lineno or node.lineno) - 1
    taken = lines[first : last + 1]
    taken[-1] = taken[-1][: node.end_col_offset]
    taken[0] = taken[0][node.col_offset :]
    return b"\n".join(taken).decode("utf-8", "surrogatepass")


def _session(text: str) -> str:
    """What was typed in an interactive session; a text that is none as it is."""
    lines = text.split("\n")
    if not any(line.lstrip().startswith(">>>") for line in lines):
        return text
    typed = list[str]()
    for line in map(str.lstrip, lines):
        if line.startswith(("... ", ">>> ")):
            typed.append(line[4:])
    return "\n".join(typed)


def _chunks(text: str) -> list[str]:
    """Lines with those that go on from them: indented ones, and closing brackets."""
    chunks, gap = list[list[str]](), True
    for line in text.split("\n"):
        if not line.strip():
            gap = True
        elif gap or line[0] not in " \t)]}":
            chunks.append([line])
            gap = False
        else:
            chunks[-1].append(line)
    return ["\n".join(lines).strip() for lines in chunks]


def _scanned(text: str, names: Collection[str]) -> list[str]:
    """Calls in what does not parse: a name and its parenthesis, up to the one that closes it."""
    found, opened = list[str](), list[int | None]()
    outer = 0
    for token in _TOKENS.finditer(text):
        if token["close"]:
            start = opened.pop() if opened else None
            if start is not None:
                outer -= 1
                if not outer:
                    found.append(text[start : token.end()])
        elif token["open"]:
            called = token["name"] in names
            outer += called
            opened.append(token.start("name") if called else None)
    return found


_BODIES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)
# an apostrophe that opens no string is passed over; outside of strings, too, a backslash and
# what follows it go together, so that no failed string is looked for twice
_TOKENS = re.compile(
    r"""
    \"\"\"(?:[^\\]|\\.)*?\"\"\" | '''(?:[^\\]|\\.)*?'''
    | "(?:[^"\\\n]|\\.)*" | '(?:[^'\\\n]|\\.)*'
    | \\.
    | (?P<close>[)\]}])
    | (?P<open>(?<![\w.])(?P<name>[^\W\d]\w*)\s?\( | [(\[{])
    | \w+
    """,
    re.VERBOSE | re.DOTALL,
)
