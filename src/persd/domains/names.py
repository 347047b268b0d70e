"""Which name means what in a program: scopes, undefined names, renaming at token positions.

The language's scoping rules (functions, classes, comprehensions, ``global``, ``nonlocal``,
walrus) over ``ast``, so that a parameter can be renamed where it is meant and nowhere else,
and the author's formatting and comments stay as they are.
"""

from __future__ import annotations

import ast
import builtins
import re
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

BUILTINS = frozenset(dir(builtins)) | {
    "__name__", "__file__", "__doc__", "__builtins__", "__package__", "__spec__", "__loader__",
    "__annotations__", "__dict__", "__class__", "__path__", "__module__", "__qualname__",
}  # fmt: skip


def clean(source: str) -> str:
    """The source with one kind of line end and no byte-order mark."""
    return source.replace("\r\n", "\n").replace("\r", "\n").removeprefix("\ufeff")


def parse(source: str) -> ast.Module:
    """The tree of a program that compiles. Raises SyntaxError for whatever does not.

    Too deep, too large, NUL bytes and lone surrogates included; nothing is executed.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(source)
            compile(source, "<program>", "exec", dont_inherit=True)
    except (ValueError, RecursionError, MemoryError, OverflowError) as error:
        raise SyntaxError(f"{type(error).__name__}: {error}") from None
    return tree


class CannotRename(Exception):
    """A name stands where no token position is known (an f-string, ``except ... as name``)."""


@dataclass(eq=False)
class Scope:
    """A function (a lambda and a comprehension too), a class or the module."""

    kind: str
    """``module``, ``function``, ``class`` or ``comprehension``."""
    parent: Scope | None
    node: ast.AST
    bound: set[str] = field(default_factory=set)
    global_names: set[str] = field(default_factory=set)
    nonlocal_names: set[str] = field(default_factory=set)


@dataclass(frozen=True)
class Occurrence:
    """One mention of a name. ``line`` counts from 1, ``column`` in UTF-8 bytes from 0."""

    name: str
    line: int
    column: int
    """-1: the name has no position of its own in the tree."""
    scope: Scope
    statement: int
    """Index of the top-level statement it stands in."""
    stores: bool = False


class Names(ast.NodeVisitor):
    """Every mention of every name in a module, and the scope each one resolves to."""

    def __init__(self, tree: ast.Module) -> None:
        self.module = Scope("module", None, tree)
        self.occurrences: list[Occurrence] = []
        self.scopes: dict[ast.AST, Scope] = {tree: self.module}
        self.star_import = False
        self._scope = self.module
        self._statement = 0
        for self._statement, node in enumerate(tree.body):
            self.visit(node)

    def resolve(self, name: str, scope: Scope) -> Scope:
        """The scope whose binding ``name`` means when mentioned in ``scope``."""
        here: Scope | None = scope
        while here is not None and here is not self.module:
            if name in here.global_names:
                return self.module
            visible = here is scope or here.kind != "class"
            if visible and name in here.bound and name not in here.nonlocal_names:
                return here
            here = here.parent
        return self.module

    def meaning(self, occurrence: Occurrence) -> Scope:
        return self.resolve(occurrence.name, occurrence.scope)

    def undefined(self) -> set[str]:
        """Names used that nothing in the program binds and Python does not provide."""
        if self.star_import:
            return set()
        return {
            o.name
            for o in self.occurrences
            if not o.stores
            and self.meaning(o) is self.module
            and o.name not in self.module.bound
            and o.name not in BUILTINS
        }

    # ---- binding -------------------------------------------------------------------------

    def _bind(self, name: str, scope: Scope) -> None:
        target = scope
        if name in scope.global_names:
            target = self.module
        target.bound.add(name)

    def _mention(self, name: str, node: ast.AST, column: int | None = None, **how: bool) -> None:
        line = getattr(node, "lineno", 0)
        column = getattr(node, "col_offset", -1) if column is None else column
        scope = self._scope
        self.occurrences.append(Occurrence(name, line, column, scope, self._statement, **how))

    def _store(self, name: str, node: ast.AST) -> None:
        """A binding written as a plain string in the tree: it has no position of its own."""
        self._bind(name, self._scope)
        self._mention(name, node, -1, stores=True)

    def _inside(
        self, kind: str, node: ast.AST, bound: Iterable[str], body: Iterable[ast.AST]
    ) -> None:
        outer, self._scope = self._scope, Scope(kind, self._scope, node, set(bound))
        self.scopes[node] = self._scope
        self._declare(body)
        for child in body:
            self.visit(child)
        self._scope = outer

    def _declare(self, body: Iterable[ast.AST]) -> None:
        """``global`` and ``nonlocal`` of this scope, before its bindings are met."""
        todo = list(body)
        while todo:
            node = todo.pop()
            if isinstance(node, ast.Global):
                self._scope.global_names.update(node.names)
            elif isinstance(node, ast.Nonlocal):
                self._scope.nonlocal_names.update(node.names)
            elif not isinstance(node, (*_FUNCTIONS, ast.ClassDef, ast.Lambda)):
                todo.extend(ast.iter_child_nodes(node))

    # ---- what opens a scope --------------------------------------------------------------

    def _visit_function(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        for part in (*node.decorator_list, *_signature_parts(node.args), node.returns):
            if part is not None:
                self.visit(part)
        self._store(node.name, node)
        params = {a.arg for a in parameters(node.args)}
        type_params = {str(p.name) for p in getattr(node, "type_params", ())}
        self._inside("function", node, params | type_params, node.body)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        self._visit_function(node)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> None:
        self._visit_function(node)

    def visit_Lambda(self, node: ast.Lambda) -> None:
        for part in _signature_parts(node.args):
            self.visit(part)
        self._inside("function", node, {a.arg for a in parameters(node.args)}, [node.body])

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        for part in (*node.decorator_list, *node.bases, *node.keywords):
            self.visit(part)
        self._store(node.name, node)
        type_params = {str(p.name) for p in getattr(node, "type_params", ())}
        self._inside("class", node, type_params, node.body)

    def _visit_comprehension(
        self, node: ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp
    ) -> None:
        first = node.generators[0]
        self.visit(first.iter)
        outer, self._scope = self._scope, Scope("comprehension", self._scope, node)
        self.scopes[node] = self._scope
        for generator in node.generators:
            self.visit(generator.target)
            if generator is not first:
                self.visit(generator.iter)
            for condition in generator.ifs:
                self.visit(condition)
        if isinstance(node, ast.DictComp):
            self.visit(node.key)
            self.visit(node.value)
        else:
            self.visit(node.elt)
        self._scope = outer

    visit_ListComp = visit_SetComp = visit_DictComp = visit_GeneratorExp = _visit_comprehension

    # ---- what mentions a name ------------------------------------------------------------

    def visit_Name(self, node: ast.Name) -> None:
        stores = isinstance(node.ctx, ast.Store)
        if not isinstance(node.ctx, ast.Load):
            self._bind(node.id, self._scope)
        self._mention(node.id, node, stores=stores)

    def visit_NamedExpr(self, node: ast.NamedExpr) -> None:
        self.visit(node.value)
        scope = self._scope
        while scope.kind == "comprehension" and scope.parent is not None:
            scope = scope.parent
        self._bind(node.target.id, scope)
        self._mention(node.target.id, node.target, stores=True)

    def _visit_import(self, node: ast.Import | ast.ImportFrom) -> None:
        for alias in node.names:
            if alias.name == "*":
                self.star_import = True
            else:
                self._store(alias.asname or alias.name.partition(".")[0], node)

    visit_Import = visit_ImportFrom = _visit_import

    def visit_ExceptHandler(self, node: ast.ExceptHandler) -> None:
        if node.name:
            self._store(node.name, node)
        self.generic_visit(node)

    def visit_MatchAs(self, node: ast.MatchAs) -> None:
        if node.name:
            self._store(node.name, node)
        self.generic_visit(node)

    def visit_MatchStar(self, node: ast.MatchStar) -> None:
        if node.name:
            self._store(node.name, node)

    def visit_MatchMapping(self, node: ast.MatchMapping) -> None:
        if node.rest:
            self._store(node.rest, node)
        self.generic_visit(node)

    def _visit_declaration(self, node: ast.Global | ast.Nonlocal) -> None:
        for name in node.names:
            self._mention(name, node, -1, stores=True)

    visit_Global = visit_Nonlocal = _visit_declaration


_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def parameters(args: ast.arguments) -> list[ast.arg]:
    """All parameters, in the order they are written."""
    star = [args.vararg] if args.vararg else []
    stars = [args.kwarg] if args.kwarg else []
    return [*args.posonlyargs, *args.args, *star, *args.kwonlyargs, *stars]


def _signature_parts(args: ast.arguments) -> list[ast.expr]:
    """What a signature evaluates outside the function: annotations and defaults."""
    annotations = [a.annotation for a in parameters(args) if a.annotation]
    return [*annotations, *args.defaults, *(d for d in args.kw_defaults if d)]


def undefined_names(source: str) -> tuple[str, ...]:
    """Names the program uses but binds nowhere, sorted; builtins are bound.

    Nothing is reported under a star import, which may bind anything. Raises SyntaxError.
    """
    return tuple(sorted(Names(parse(source)).undefined()))


def rename(source: str, places: Iterable[Occurrence], new: Mapping[str, str]) -> str:
    """The source with each of these mentions spelt by its new name, all else untouched.

    Raises CannotRename where the text at a position is not the name: f-strings before
    Python 3.12 have wrong positions, ``except ... as name`` none.
    """
    lines = source.split("\n")
    for place in sorted(set(places), key=lambda o: (o.line, o.column), reverse=True):
        if place.column < 0:
            raise CannotRename(place.name)
        line = lines[place.line - 1].encode()
        end = place.column + len(place.name.encode())
        after = line[end : end + 1].decode(errors="replace")
        if line[place.column : end].decode(errors="replace") != place.name or after.isidentifier():
            raise CannotRename(place.name)
        text = line[: place.column] + new[place.name].encode() + line[end:]
        lines[place.line - 1] = text.decode()
    return "\n".join(lines)


def name_of_definition(source: str, node: ast.AST, scope: Scope, statement: int) -> Occurrence:
    """Where the name in ``def name`` or ``class name`` stands. Raises CannotRename."""
    assert isinstance(node, (*_FUNCTIONS, ast.ClassDef))
    line = source.split("\n")[node.lineno - 1].encode()[node.col_offset :].decode()
    found = re.match(r"(?:async[ \t]+)?(?:def|class)[ \t]+", line)
    if not found:
        raise CannotRename(node.name)
    column = node.col_offset + len(found.group().encode())
    return Occurrence(node.name, node.lineno, column, scope, statement)
