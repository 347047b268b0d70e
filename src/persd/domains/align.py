"""From a whole program to the label: what follows the task's header in a training pair.

The paper's release cut programs with string splits, and some of its labels no longer parse
under their prompt or use names that were lost. Here a signature that differs is aligned
with ``ast``: parameters renamed where they are meant, what the function needs moved into it
or kept beside it; a program that cannot be aligned is refused by name.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping

from persd.domains.divide import DYNAMIC, Header, bindings, divide, is_future, within
from persd.domains.layout import (
    FUNCTIONS,
    Function,
    body_text,
    has_docstring,
    indent_of,
    leading_docstring,
    spaced,
    statement_text,
    without_statements,
)
from persd.domains.names import (
    CannotRename,
    Names,
    Occurrence,
    Scope,
    clean,
    name_of_definition,
    parameters,
    parse,
    rename,
)
from persd.domains.prompts import task_prompt
from persd.records import Task


class Misaligned(Exception):
    """A program that cannot stand under its task's header.

    ``reason`` is ``unparsable``, ``undefined_names`` or ``signature``; ``detail`` says what.
    """

    def __init__(self, reason: str, detail: str) -> None:
        self.reason, self.detail = reason, detail
        super().__init__(f"{reason}: {detail}")


def label(task: Task, code: str) -> str:
    """The completion under which ``task_prompt(task) + completion`` behaves as ``code``.

    The body keeps the author's formatting and comments. Lines of use at the top level
    (prints, asserts, ``if __name__ == "__main__"``) are left out, and imports nobody uses.
    Raises Misaligned.
    """
    source = clean(code)
    try:
        tree = parse(source)
    except SyntaxError as error:
        raise Misaligned("unparsable", _say(error)) from None
    header = read_header(task)
    try:
        source = without_usage(source, tree)
        if source.startswith(task.header) and _under_header(task, parse(source)):
            completion = source.removeprefix(task.header)
        else:
            completion = _fit(task, header, source)
    except RecursionError:
        raise Misaligned("unparsable", "nested too deeply") from None
    completion = re.sub(r"\A(?:[ \t\f]*\n)+", "", completion).rstrip() + "\n"
    _check(task, completion)
    return completion


def read_header(task: Task) -> Header:
    """The task's header as a tree. Raises Misaligned where it opens no entry point."""
    text, body = clean(task.header), f"\n{' ' * 4}pass"
    indent = None
    try:
        try:
            tree = parse(text + body)
        except SyntaxError:
            tree = parse(text)  # a docstring indented otherwise
        function = tree.body[-1]
        assert isinstance(function, Function)
        assert function.name == task.entry_point
    except (SyntaxError, AssertionError, IndexError):
        raise Misaligned("signature", f"the header does not open {task.entry_point}") from None
    if has_docstring(function):
        indent = indent_of(text, function.body[0])
    return Header(function, tuple(tree.body[:-1]), indent)


def without_usage(source: str, tree: ast.Module) -> str:
    """The source less the top-level statements that only show the program in use."""
    return without_statements(source, tree, {n for n in tree.body if _is_usage(n)})


# ---- fitting a function with a signature of its own ------------------------------------------


def _fit(task: Task, header: Header, source: str) -> str:
    tree = parse(source)
    entry = [n for n in tree.body if isinstance(n, Function) and n.name == task.entry_point]
    names = Names(tree)
    if task.entry_point not in names.module.bound:
        raise Misaligned("signature", f"no {task.entry_point} at the top level")
    if not entry or len(bindings(names, task.entry_point)) > 1:
        return _delegated(task, header, source, None)
    function = entry[0]
    if isinstance(function, ast.AsyncFunctionDef) != isinstance(
        header.function, ast.AsyncFunctionDef
    ):
        raise Misaligned("signature", "one of header and answer is async, the other is not")
    if not _inline_possible(header.function, function, names):
        return _delegated(task, header, source, function)
    try:
        source, rebind = _renamed(header.function, function, names, source)
    except CannotRename:
        return _delegated(task, header, source, function)
    return _inlined(task, header, source, rebind)


def _inline_possible(header: Function, function: Function, names: Names) -> bool:
    """Whether the body can follow the header as it is, parameters matched by position."""
    want, have = header.args, function.args
    decorators = [ast.dump(d) for d in function.decorator_list]
    if decorators and decorators != [ast.dump(d) for d in header.decorator_list]:
        return False
    extra = _positional(want)[len(_positional(have)) :]
    if len(_positional(have)) > len(_positional(want)) or len(extra) > len(want.defaults):
        return False
    if bool(want.vararg) != bool(have.vararg) or bool(want.kwarg) != bool(have.kwarg):
        return False
    if [a.arg for a in want.kwonlyargs] != [a.arg for a in have.kwonlyargs]:
        return False
    recursive = any(o.name == function.name and not o.stores for o in names.occurrences)
    return not (recursive and _required(have) < _required(want))


def _renamed(
    header: Function, function: Function, names: Names, source: str
) -> tuple[str, list[str]]:
    """The source with the header's parameter names, and rebinding lines where names clash.

    Raises CannotRename where neither keeps every name's meaning.
    """
    pairs = _pairs(header, function)
    mapping = {old: new for old, new in pairs if old != new}
    scope = names.scopes[function]
    own = [o for o in names.occurrences if within(o.scope, scope)]
    outside = {o.name for o in own if names.meaning(o) is names.module}
    if outside & {a.arg for a in parameters(header.args)}:
        raise CannotRename("a header parameter is another name's meaning in the body")
    if not mapping:
        return source, []
    if outside & DYNAMIC or _keyword_calls(names, function.name, mapping):
        raise CannotRename("the parameters' names are used as data")
    places = {o for o in own if o.name in mapping and names.meaning(o) is scope}
    taken = {o.name for o in own if o not in places} | _inner_params(names, scope)
    if not taken & set(mapping.values()):
        try:
            return rename(source, places, mapping), []
        except CannotRename:
            pass
    if set(mapping) & set(mapping.values()):
        return source, [f"{', '.join(mapping)} = {', '.join(mapping.values())}"]
    return source, [f"{old} = {new}" for old, new in mapping.items()]


def _inlined(task: Task, header: Header, source: str, rebind: list[str]) -> str:
    """The function's body under the header, what it needs inside or after it."""
    tree = parse(source)
    names = Names(tree)
    index = next(
        i for i, n in enumerate(tree.body) if isinstance(n, Function) and n.name == task.entry_point
    )
    function = tree.body[index]
    assert isinstance(function, Function)
    inside, beside = divide(header, tree, names, index)
    body, indent = body_text(source, function, header.indent)
    opening = [ast.get_source_segment(source, tree.body[i]) or "" for i in inside] + rebind
    opened = "".join(f"{indent}{line}\n" for line in opening)
    docstring = "" if header.indent is not None else leading_docstring(source, function)
    if docstring and opened:
        opened = docstring + opened
        body = body.removeprefix(docstring)
    pieces = [opened + body, *(statement_text(source, tree.body, i) for i in beside)]
    return spaced(pieces, [tree.body[index], *(tree.body[i] for i in beside)])


# ---- or calling it from under the header -----------------------------------------------------


def _delegated(task: Task, header: Header, source: str, function: Function | None) -> str:
    """A body that calls the answer's own function, kept whole after it under a free name.

    For what cannot stand under the header: decorators, parameters of its own, names whose
    meaning a renaming would change. Raises Misaligned where even the call is impossible.
    """
    if isinstance(header.function, ast.AsyncFunctionDef):
        raise Misaligned("signature", "async, with a signature of its own")
    tree = parse(source)
    names = Names(tree)
    call = _arguments(header.function, function)
    used = {o.name for o in names.occurrences} | {a.arg for a in parameters(header.function.args)}
    helper = f"_{task.entry_point.lstrip('_')}"
    while helper in used:
        helper += "_"
    places = _places_of(names, source, task.entry_point)
    try:
        source = rename(source, places, {task.entry_point: helper})
    except CannotRename:
        raise Misaligned("signature", f"{task.entry_point} cannot be renamed safely") from None
    known = {ast.dump(n) for n in header.preamble}
    keep = [i for i, n in enumerate(tree.body) if ast.dump(n) not in known and not is_future(n)]
    nodes = parse(source).body
    pieces = [statement_text(source, nodes, i) for i in keep]
    first = f"{header.indent or ' ' * 4}return {helper}({call})\n"
    return spaced([first, *pieces], [header.function, *(nodes[i] for i in keep)])


def _arguments(header: Function, function: Function | None) -> str:
    """The header's parameters as the arguments of a call the function accepts."""
    want = header.args
    given = [a.arg for a in _positional(want)]
    if function is not None:
        have = function.args
        room = len(given) if have.vararg else len(_positional(have))
        fixed = len(given) - len(want.defaults)
        named = {a.arg for a in have.kwonlyargs}
        kwonly = {a.arg for a in want.kwonlyargs}
        required = {a.arg for a, d in zip(have.kwonlyargs, have.kw_defaults, strict=True) if not d}
        if room < fixed or len(given) < _required(have) or not required <= kwonly:
            raise Misaligned("signature", _differ(header, function))
        if (want.vararg and not have.vararg) or (want.kwarg and not have.kwarg):
            raise Misaligned("signature", _differ(header, function))
        if not have.kwarg and not kwonly <= named:
            raise Misaligned("signature", _differ(header, function))
        given = given[:room]
    star = [f"*{want.vararg.arg}"] if want.vararg else []
    named_args = [f"{a.arg}={a.arg}" for a in want.kwonlyargs]
    stars = [f"**{want.kwarg.arg}"] if want.kwarg else []
    return ", ".join([*given, *star, *named_args, *stars])


def _places_of(names: Names, source: str, entry: str) -> list[Occurrence]:
    """Every mention of the module's ``entry``, its definitions included."""
    definitions = {
        node.lineno: node
        for node in ast.walk(names.module.node)
        if isinstance(node, (*FUNCTIONS, ast.ClassDef)) and node.name == entry
    }
    places = []
    for o in names.occurrences:
        if o.name == entry and names.meaning(o) is names.module:
            if o.column < 0:
                if o.line not in definitions:
                    raise Misaligned("signature", f"{entry} cannot be renamed safely")
                o = name_of_definition(source, definitions[o.line], o.scope, o.statement)
            places.append(o)
    return places


# ---- small facts about nodes -----------------------------------------------------------------


def _check(task: Task, completion: str) -> None:
    """What is trained on parses, defines the entry point and uses no name it lost."""
    try:
        names = Names(parse(clean(task_prompt(task)) + completion))
        known = Names(parse(clean(task.setup))).module.bound if task.setup else set()
    except (SyntaxError, RecursionError) as error:
        raise Misaligned("unparsable", _say(error)) from None
    undefined = names.undefined() - known
    if undefined:
        raise Misaligned("undefined_names", ", ".join(sorted(undefined)))


def _under_header(task: Task, tree: ast.Module) -> bool:
    """Whether the program's entry point is the very function the header opens."""
    bound = bindings(Names(tree), task.entry_point)
    return len(bound) == 1 and bound[0].line <= task.header.count("\n")


def _is_usage(node: ast.stmt) -> bool:
    if isinstance(node, ast.Assert):
        return True
    if isinstance(node, ast.Expr):
        if isinstance(node.value, ast.Constant):
            return True
        called = node.value.func if isinstance(node.value, ast.Call) else None
        return getattr(called, "id", "") == "print" or getattr(called, "attr", "") == "testmod"
    return isinstance(node, ast.If) and re.fullmatch(
        r"__name__ == '__main__'|'__main__' == __name__", ast.unparse(node.test)
    ) is not None  # fmt: skip


def _keyword_calls(names: Names, entry: str, mapping: Mapping[str, str]) -> bool:
    """Whether the program calls its entry point with one of these names as a keyword."""
    return any(
        isinstance(n, ast.Call)
        and getattr(n.func, "id", "") == entry
        and any(k.arg is None or k.arg in mapping for k in n.keywords)
        for n in ast.walk(names.module.node)
    )


def _pairs(header: Function, function: Function) -> list[tuple[str, str]]:
    """(the answer's parameter, the header's parameter) by position; stars by kind."""
    want, have = header.args, function.args
    pairs = [(b.arg, a.arg) for a, b in zip(_positional(want), _positional(have), strict=False)]
    for a, b in ((want.vararg, have.vararg), (want.kwarg, have.kwarg)):
        if a and b:
            pairs.append((b.arg, a.arg))
    return pairs


def _inner_params(names: Names, scope: Scope) -> set[str]:
    inner = (s for s in names.scopes.values() if s is not scope and within(s, scope))
    return set[str]().union(*(s.bound for s in inner))


def _positional(args: ast.arguments) -> list[ast.arg]:
    return [*args.posonlyargs, *args.args]


def _required(args: ast.arguments) -> int:
    return len(_positional(args)) - len(args.defaults)


def _differ(header: Function, function: Function) -> str:
    return f"({ast.unparse(function.args)}) cannot be called as ({ast.unparse(header.args)})"


def _say(error: BaseException) -> str:
    if isinstance(error, SyntaxError) and error.lineno:
        return f"{type(error).__name__}: {error.msg} (line {error.lineno})"
    return f"{type(error).__name__}: {error}"
