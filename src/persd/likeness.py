"""A task as what it says in words and as the syntax of its program: what is compared of two.

Neither its author's names, docstrings and comments nor the examples in its text say what a task
is, so they are left out.
"""

from __future__ import annotations

import ast
import re
import unicodedata
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from persd.domains.align import Misaligned, read_header
from persd.domains.layout import FUNCTIONS, has_docstring
from persd.domains.names import BUILTINS, clean, parse
from persd.records import Task

Measure = Literal["words", "instruction", "program", "both"]
MEASURES: tuple[Measure, ...] = ("words", "instruction", "program", "both")

#: Nodes of a shingle of a program.
SHINGLE = 6


@dataclass(frozen=True, slots=True)
class Match:
    """A benchmark's task that a training task overlaps, by the measure that says it loudest."""

    benchmark: str
    task_id: str
    """The benchmark's task."""
    measure: Measure
    alike: float
    """0-1, 1: the same."""
    shared: str
    """What they share, for reading: words, or nodes of the syntax tree."""
    text: str = ""
    """What the benchmark's task asks, in its own words; empty: not told."""


# -- a task as words --------------------------------------------------------------------------


def prose(task: Task) -> str:
    """What a task says in words: instruction and docstring, without examples and asserts."""
    text = task.instruction
    try:
        text += "\n" + (ast.get_docstring(read_header(task).function) or "")
    except (Misaligned, RecursionError):
        pass
    return "\n".join(_without_examples(text, task.entry_point))


def _without_examples(text: str, entry_point: str) -> Iterator[str]:
    """The lines that are prose; a doctest ends with a blank line."""
    in_doctest = False
    call = re.compile(rf"\b{re.escape(entry_point)}\s*\(")
    for line in text.splitlines():
        in_doctest = bool(line.strip()) and (in_doctest or line.lstrip().startswith(">>>"))
        if not (in_doctest or line.lstrip().startswith("assert ") or call.search(line)):
            yield line


def normalise(text: str) -> list[str]:
    """The words of a text in lower case, without marks and punctuation. Takes any text, and
    gives the words of its own words again."""
    plain = unicodedata.normalize("NFKD", text.casefold())
    plain = unicodedata.normalize("NFKD", plain.casefold())
    return _WORD.findall("".join(c for c in plain if not unicodedata.combining(c)))


_WORD = re.compile(r"[^\W_]+")


def word_shingles(words: Sequence[str]) -> frozenset[Hashable]:
    """Content words, without the s of a plural, and pairs of neighbours among them."""
    content = [singular(w) for w in words if w not in LEAD]
    return frozenset([*content, *pairwise(content)])


def singular(word: str) -> str:
    return word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word


# -- a task as a program ----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Program:
    """The syntax of a program's functions and classes, without what its author named."""

    tree: tuple[str, ...]
    """Nodes in order; own names are numbered as they come."""
    shingles: frozenset[Hashable]
    """Runs of nodes, own names all alike."""
    nodes: int


def program_of(task: Task) -> Program | None:
    """A task's reference, or the direct answer it was released with; None: it has none that
    parses and defines something."""
    source, direct = task.reference, task.meta.get("direct")
    if source is None and isinstance(direct, str):
        source = task.header + direct
    return None if source is None else read_program(source)


def read_program(source: str) -> Program | None:
    """The syntax of a source; None where it does not compile or defines nothing."""
    try:
        tree = parse(clean(source))
        kept = [n for n in tree.body if isinstance(n, (*FUNCTIONS, ast.ClassDef))]
        nodes = _Nodes(kept).found
    except (SyntaxError, RecursionError):
        return None
    flat = [OWN.sub("$", n) for n in nodes if n != END]
    runs = range(max(1, len(flat) - SHINGLE + 1))
    shingles = frozenset(tuple(flat[i : i + SHINGLE]) for i in runs)
    return Program(tuple(nodes), shingles, len(flat)) if flat else None


#: What a tree has after the last child of a node, and what it has for an own name.
END = ")"
OWN = re.compile(r"\$\d+")


class _Nodes(ast.NodeVisitor):
    """The nodes of some definitions in order, ``END`` after the last child of each."""

    def __init__(self, definitions: Sequence[ast.AST]) -> None:
        self.found: list[str] = []
        self._numbers: dict[str, int] = {}
        for node in definitions:
            self.visit(node)

    def _name(self, name: str) -> str:
        known = name in BUILTINS and name not in self._numbers
        return name if known else f"${self._numbers.setdefault(name, len(self._numbers))}"

    def _put(self, label: str, *children: ast.AST | None) -> None:
        self.found.append(label)
        for child in children:
            if child is not None:
                self.visit(child)
        self.found.append(END)

    def generic_visit(self, node: ast.AST) -> None:
        self._put(type(node).__name__, *ast.iter_child_nodes(node))

    def visit_Name(self, node: ast.Name) -> None:
        if isinstance(node.ctx, ast.Store):
            self._numbers.setdefault(node.id, len(self._numbers))
        self.found.append(self._name(node.id))

    def visit_arg(self, node: ast.arg) -> None:
        self._numbers.setdefault(node.arg, len(self._numbers))
        self.found.append(self._name(node.arg))

    def visit_Constant(self, node: ast.Constant) -> None:
        self.found.append(repr(node.value))

    def visit_Attribute(self, node: ast.Attribute) -> None:
        self._put(f".{node.attr}", node.value)

    def visit_Slice(self, node: ast.Slice) -> None:
        bounds = {"lower": node.lower, "upper": node.upper, "step": node.step}
        given = [name for name, bound in bounds.items() if bound is not None]
        self._put(" ".join(["Slice", *given]), *bounds.values())

    def visit_Load(self, node: ast.Load) -> None:
        """Says nothing; nor do the other contexts, imports and bare strings."""

    visit_Store = visit_Del = visit_Import = visit_ImportFrom = visit_Load  # type: ignore[assignment]

    def visit_Expr(self, node: ast.Expr) -> None:
        if not isinstance(node.value, ast.Constant):
            self.visit(node.value)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        self._put("Assign", node.target, node.value)

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        self._numbers.setdefault(node.name, len(self._numbers))
        body = node.body[1:] if has_docstring(node) else node.body
        self._put("def", node.args, *body)

    visit_AsyncFunctionDef = visit_FunctionDef


#: What instructions are introduced with, which says nothing of what is asked.
LEAD = frozenset(
    normalise(
        "a an the please write create develop construct generate design build implement compose "
        "make formulate define devise code produce edit modify python function program script "
        "method algorithm snippet"
    )
)
