"""Whether a proposal has the form of a task: a function, words, and calls on plain data."""

from __future__ import annotations

import ast
import re
from collections.abc import Collection, Iterable

from persd.config import GenerateTable
from persd.domains.align import without_usage
from persd.domains.divide import bindings
from persd.domains.layout import Function, without_statements
from persd.domains.names import Names, clean, parameters, parse
from persd.domains.parse import blocks_in
from persd.domains.prompts import shorten
from persd.pool.drafts import Draft, Rejection
from persd.records import CandidateState, Proposal, Task
from persd.sandbox import codec
from persd.sandbox.compare import literal
from persd.tasks.rows import call_fault


class _No(Exception):
    """Why the proposal at hand is no task."""

    def __init__(self, state: CandidateState, detail: str) -> None:
        self.rejection = Rejection(state, detail)


def drafted(proposal: Proposal, task_id: str, rules: GenerateTable) -> Draft | Rejection:
    """The proposal as a task whose calls are still to be answered, or why it is none.

    The reference is the whole program less lines that only show it in use; the header is its
    ``def`` line, with what the signature needs before it. Nothing is run.
    """
    try:
        return _drafted(proposal, task_id, rules)
    except _No as no:
        return no.rejection
    except RecursionError:
        return Rejection("syntax", "the reference is nested too deeply")


def _drafted(proposal: Proposal, task_id: str, rules: GenerateTable) -> Draft:
    program = _program(proposal.code)
    names = Names(parse(program))
    entry = _entry(proposal, names)
    instruction = clean(proposal.instruction).strip()
    _check_words(instruction, rules)
    _check_lines(program, entry, rules)
    task = Task(
        task_id=task_id,
        instruction=instruction,
        header=_header(entry, names),
        entry_point=entry.name,
        reference=program,
    )
    return Draft(task, _calls(proposal.calls, entry, rules))


def _program(code: str) -> str:
    """The program without what only shows it in use."""
    source = clean(code)
    try:
        tree = parse(source)
    except SyntaxError as error:
        line = f"line {error.lineno}: " if error.lineno else ""
        raise _No("syntax", f"{line}{error.msg}") from None
    own = {node.name for node in tree.body if isinstance(node, Function)}
    shown = {node for node in tree.body if _calls_one_of(node, own)}
    source = without_statements(source, tree, shown) if own else source
    return without_usage(source, parse(source)).strip("\n") + "\n"


def _calls_one_of(node: ast.stmt, names: Collection[str]) -> bool:
    """Whether a statement is a bare call of one of these functions."""
    call = node.value if isinstance(node, ast.Expr) else None
    return isinstance(call, ast.Call) and getattr(call.func, "id", None) in names


# ---- the entry point -------------------------------------------------------------------------


def _entry(proposal: Proposal, names: Names) -> Function:
    """The function that is the task: the one the reply names, the one that the calls call, or
    the last one that is no helper. Raises _No."""
    tree = names.module.node
    assert isinstance(tree, ast.Module)
    functions = {node.name: node for node in tree.body if isinstance(node, Function)}
    told = proposal.entry_point
    if told in functions:
        return _checked(functions[told], names)
    if told and told in names.module.bound:
        raise _No("no_function", f"{told} is {_what_is(told, tree)}")
    if not functions:
        raise _No("no_function", f"it defines no function at its top level ({_contents(tree)})")
    called = [name for name in map(_called, proposal.calls) if name]
    if called and not functions.keys() & set(called):
        raise _No("no_function", _not_called(called, list(functions), names))
    public = [name for name in functions if not name.startswith("_")]
    wanted = [name for name in called if name in functions] or (public or list(functions))[-1:]
    return _checked(functions[wanted[0]], names)


def _not_called(called: list[str], functions: list[str], names: Names) -> str:
    """What it is that the calls call, in words, where that is no function of the program."""
    tree = names.module.node
    assert isinstance(tree, ast.Module)
    for name in called:
        if name in names.module.bound:
            return f"{name} is {_what_is(name, tree)}"
    return f"the calls call {called[0]}, it defines {', '.join(functions[:4])}"


def _called(call: str) -> str:
    found = re.match(r"\s*(\w+)\s*\(", call)
    return found[1] if found else ""


def _what_is(name: str, tree: ast.Module) -> str:
    for node in tree.body:
        if name not in Names(ast.Module([node], [])).module.bound:
            continue
        if isinstance(node, ast.Assign):
            return "a lambda" if isinstance(node.value, ast.Lambda) else "a variable"
        kinds = {ast.ClassDef: "a class", ast.Import: "imported", ast.ImportFrom: "imported"}
        return kinds.get(type(node), "bound within another statement")
    return "bound within another statement"


def _contents(tree: ast.Module) -> str:
    kinds = dict.fromkeys(type(node).__name__ for node in tree.body)
    return ", ".join(list(kinds)[:4]) or "nothing"


def _checked(entry: Function, names: Names) -> Function:
    """The function, where a student can be asked to write it. Raises _No."""
    name = entry.name
    if isinstance(entry, ast.AsyncFunctionDef):
        raise _No("no_function", f"{name} is async: a call of it gives a coroutine")
    if _yields(entry):
        raise _No("no_function", f"{name} is a generator: a call of it gives no plain data")
    odd = [d for d in map(ast.unparse, entry.decorator_list) if not _CACHES.match(d)]
    if odd:
        raise _No("no_function", f"{name} is decorated with {shorten(odd[0], 60)}")
    again = [o.line for o in bindings(names, name) if o.line > (entry.end_lineno or 0)]
    if again:
        raise _No("no_function", f"{name} is bound again in line {again[0]}")
    if not (entry.args.posonlyargs or entry.args.args or entry.args.kwonlyargs):
        raise _No("no_function", f"{name}({ast.unparse(entry.args)}) names no parameter")
    return entry


def _yields(entry: Function) -> bool:
    todo: list[ast.AST] = list(entry.body)
    while todo:
        node = todo.pop()
        if isinstance(node, (ast.Yield, ast.YieldFrom)):
            return True
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.ClassDef)):
            todo.extend(ast.iter_child_nodes(node))
    return False


# ---- its header ------------------------------------------------------------------------------


def _header(entry: Function, names: Names) -> str:
    """``def name(parameters):`` behind the imports and constants that its signature needs.

    Annotations that need more than those are left out. Raises _No where defaults do.
    """
    tree = names.module.node
    assert isinstance(tree, ast.Module)
    arguments = ast.unparse(entry.args)
    returns = f" -> {ast.unparse(entry.returns)}" if entry.returns else ""
    bare = _without_annotations(entry.args)
    lines = [f"def {entry.name}({arguments}){returns}:\n", f"def {entry.name}({bare}):\n"]
    for line in lines[1:] if getattr(entry, "type_params", None) else lines:
        needs = _undefined(line)
        preamble = _preamble(tree.body[: tree.body.index(entry)], needs)
        if preamble is not None:
            text = "".join(f"{ast.unparse(node)}\n" for node in preamble)
            return f"{text}\n\n{line}" if text else line
    raise _No("no_function", f"its signature needs {', '.join(sorted(needs))}")


def _undefined(line: str) -> set[str]:
    return Names(parse(f"{line}    pass")).undefined()


def _preamble(nodes: list[ast.stmt], needed: Collection[str]) -> list[ast.stmt] | None:
    """The imports and assignments that bind these names, and what those need in turn; None:
    something else binds one, or nothing does."""
    wanted, bound, kept = set(needed), set[str](), list[ast.stmt]()
    for node in reversed(nodes):
        own = Names(ast.Module([node], []))
        if not own.module.bound & wanted:
            continue
        if not isinstance(node, (ast.Import, ast.ImportFrom, ast.Assign, ast.AnnAssign)):
            return None
        kept.insert(0, node)
        bound |= own.module.bound
        wanted |= own.undefined()
    return kept if wanted <= bound else None


def _without_annotations(args: ast.arguments) -> str:
    bare = ast.parse(f"def f({ast.unparse(args)}): pass").body[0]
    assert isinstance(bare, ast.FunctionDef)
    for parameter in parameters(bare.args):
        parameter.annotation = None
    return ast.unparse(bare.args)


# ---- its size and language -------------------------------------------------------------------


def _check_words(instruction: str, rules: GenerateTable) -> None:
    least, most = rules.words
    count = len(instruction.split())
    if not least <= count <= most:
        raise _No("instruction_size", f"{count} words, {_between(least, most)}")
    fault = language_fault(instruction) if rules.language else ""
    if fault:
        raise _No("language", fault)


def _check_lines(program: str, entry: Function, rules: GenerateTable) -> None:
    """Blank lines, the signature's own and a docstring's are not counted."""
    least, most = rules.lines
    lines = [bool(line.strip()) for line in program.split("\n")]
    body = entry.body
    if ast.get_docstring(entry, clean=False) is not None:
        lines[body[0].lineno - 1 : body[0].end_lineno] = [False] * _height(body[0])
    count = sum(lines) - max(body[0].lineno - entry.lineno, 0) - len(entry.decorator_list)
    if not least <= count <= most:
        raise _No("reference_size", f"{count} lines, {_between(least, most)}")


def _height(node: ast.stmt) -> int:
    return (node.end_lineno or node.lineno) - node.lineno + 1


def _between(least: int, most: int) -> str:
    return f"where {least} to {most} are wanted"


def language_fault(text: str) -> str:
    """Why a text is no English prose; empty: it is. Code that it quotes does not count.

    Prose has mostly ASCII letters, and enough of the small words that English cannot do without.
    """
    if _is_program(text):
        return "it is a program, not what is asked in words"
    prose = _prose(text)
    letters = [c for c in prose if c.isalpha()]
    ascii = sum(c.isascii() for c in letters)
    if ascii < ASCII * len(letters):
        return (
            f"{len(letters) - ascii} of its {len(letters)} letters are not of the English alphabet"
        )
    words = [word.lower() for word in _WORD.findall(prose)]
    small = sum(word in _SMALL for word in words)
    if not words or small < SMALL * len(words):
        return f"{small} of its {len(words)} words are such as English prose is made of"
    return ""


def _is_program(text: str) -> bool:
    """Whether it is Python that does something: a bare word is a program, too."""
    try:
        body = ast.parse(text).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return any(not isinstance(node, ast.Expr) for node in body)


def _prose(text: str) -> str:
    """The text less fenced blocks, code in backquotes, and lines that are Python in use."""
    lines = text.split("\n")
    for block in blocks_in(text):
        lines[block.first : block.last + 1] = [""] * len(block)
    kept = (line for line in lines if not _CODE.match(line))
    return re.sub(r"`[^`\n]*`", " ", "\n".join(kept))


#: Least share of letters that are ASCII, and of words that are among ``_SMALL``.
ASCII, SMALL = 0.9, 0.12


# ---- its calls -------------------------------------------------------------------------------


def _calls(calls: Iterable[str], entry: Function, rules: GenerateTable) -> tuple[str, ...]:
    """The different calls that can be made and whose arguments arrive as they were written.

    Raises _No where they are too few.
    """
    kept, faults = dict[str, str](), list[str]()
    for call in map(str.strip, calls):
        try:
            key = _key(call, entry)
        except _BadCall as bad:
            faults.append(f"{shorten(call, 80)}: {bad}")
        else:
            if key in kept:
                faults.append(f"{shorten(call, 80)}: the arguments of {shorten(kept[key], 80)}")
            kept.setdefault(key, call)
    wanted = rules.seen + rules.least_tests
    if len(kept) < wanted:
        why = "".join(f"; {fault}" for fault in faults[:3])
        raise _No("bad_calls", f"{len(kept)} of {wanted} calls that are wanted{why}")
    return tuple(kept.values())


class _BadCall(ValueError):
    """Why a text is no call that can be made."""


def _key(call: str, entry: Function) -> str:
    """What the call passes, parameter by parameter, however it is spelt. Raises _BadCall."""
    if fault := call_fault(call, entry.name):
        raise _BadCall(fault)
    node = ast.parse(call, mode="eval").body
    assert isinstance(node, ast.Call)
    passed = _passed(node, entry.args)
    try:
        values = {name: _value(value) for name, value in passed.items()}
        text = codec.dumps(values)
        same = codec.canonical(codec.dumps(codec.loads(text))) == codec.canonical(text)
    except (ValueError, TypeError, RecursionError, MemoryError, OverflowError) as error:
        raise _BadCall(f"an argument is no plain data ({error})") from None
    if not same or '{"other":' in text:
        raise _BadCall("an argument is no plain data")
    return codec.canonical(text)


def _value(node: ast.expr) -> object:
    loose = next((n.id for n in ast.walk(node) if isinstance(n, ast.Name) and n.id in _LOOSE), "")
    if loose:
        raise _BadCall(f"{loose} is a name")
    return literal(node)


def _passed(call: ast.Call, args: ast.arguments) -> dict[str, ast.expr]:
    """The arguments by the parameters they go to. Raises _BadCall where they do not fit."""
    positional = [a.arg for a in (*args.posonlyargs, *args.args)]
    given = call.args
    if any(isinstance(a, ast.Starred) for a in given) or any(not k.arg for k in call.keywords):
        raise _BadCall("* and ** stand for arguments that are not written down")
    if len(given) > len(positional) and not args.vararg:
        raise _BadCall(f"{len(given)} arguments, {len(positional)} can be given")
    names = [*positional, *(f"*{i}" for i in range(len(given) - len(positional)))]
    passed = dict(zip(names, given, strict=False))
    accepted = {a.arg for a in (*args.args, *args.kwonlyargs)}
    for keyword in call.keywords:
        name = str(keyword.arg)
        if name in passed or (name not in accepted and not args.kwarg):
            raise _BadCall(f"{name} is given twice, or is no parameter")
        passed[name] = keyword.value
    missing = [a for a in _required(args) if a not in passed]
    if missing:
        raise _BadCall(f"{missing[0]} is not given")
    return passed


def _required(args: ast.arguments) -> list[str]:
    positional = [a.arg for a in (*args.posonlyargs, *args.args)]
    named = zip(args.kwonlyargs, args.kw_defaults, strict=True)
    return [
        *positional[: len(positional) - len(args.defaults)],
        *(a.arg for a, default in named if default is None),
    ]


#: Decorators that change how often a function runs, and nothing of what it gives.
_CACHES = re.compile(r"(?:functools\.)?(?:lru_cache|cache)(?:\(|$)")
#: What ``literal`` knows by name and a program does not.
_LOOSE = frozenset({"nan", "inf"})
_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)?")
_CODE = re.compile(r"\s*(?:>>>|\.\.\. |(?:assert|def|import|from|print|return|class|@)\b.*[(:=.])")
_SMALL_WORDS = (
    "the of to and that this these those it its is are be been has have was were does do must "
    "should can will not no only each every all any both other others another same different "
    "given takes take where when which whose what while how if then else otherwise than there "
    "they them their as at by for from into with without within between after before until or "
    "but so such write function return returns find add sum count number numbers word words value "
    "values two first last"
)
#: What English instructions for programs are made of beside these.
_TOLD = """
an using create generate write implement design develop construct perform make given program
function algorithm number numbers string strings array element elements character characters word
words python sort sorted order reverse value values convert classify insert into
"""
_SMALL = frozenset((_SMALL_WORDS + _TOLD).split())
