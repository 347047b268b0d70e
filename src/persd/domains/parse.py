"""From a reply to the program it holds.

A base model continues the header, and runs on; a chat model answers with fenced blocks,
prose around them. Code is taken whole: imports, helpers, classes and constants stay. What
is left out is said in the note.
"""

from __future__ import annotations

import ast
import re
import textwrap
from dataclasses import dataclass

from persd.domains.layout import without_statements
from persd.domains.names import Names, clean, parse
from persd.records import Task


@dataclass(frozen=True)
class Parsed:
    """A reply, read."""

    code: str | None
    """The whole program to be judged; None: the reply holds no code."""
    note: str = ""
    """What was left out or had to be guessed; empty: the reply was taken as it is."""


def parse_reply(task: Task, text: str) -> Parsed:
    """The program in a reply: a continuation of the task's header, or a program of its own.

    Text that parses in no reading is kept whole, so that the judge calls it ``syntax``.
    """
    text = clean(text)
    if not text.strip():
        return Parsed(None, "empty reply")
    try:
        return _read(task, text)
    except RecursionError:
        return Parsed(task.header + text, "nested too deeply to be read")


def _read(task: Task, text: str) -> Parsed:
    continued = task.header + text
    if _opens_with_body(text) and _defines(continued, task.entry_point):
        return _less_use(task, continued, "")
    blocks = _fenced_blocks(text)
    if blocks:
        before, after = text[: blocks[0].start], text[blocks[0].start :]
        body = _continuation(task, before, after) if _opens_with_body(before) else None
        return body or _from_blocks(task, [b.code for b in blocks])
    if _opens_with_body(text):
        return _continuation(task, text) or Parsed(continued, "does not parse")
    if _defines(text, task.entry_point):
        return Parsed(_with_preamble(task, text))
    return _own_function(task, text) or _continuation_or_none(task, text)


# ---- a continuation of the header ------------------------------------------------------------


def _opens_with_body(text: str) -> bool:
    """Whether the first line that says something is indented, as a function's body is."""
    first = next((line for line in text.split("\n") if line.strip()), "")
    return first[:1] in (" ", "\t")


def _continuation(task: Task, text: str, after: str = "") -> Parsed | None:
    """Header + the longest run of lines that parses, cut only after the function's end.

    ``after`` is what follows the fence that closes the text; it is left out.
    """
    lines = text.rstrip("\n").split("\n")
    end = _longest(task.header, lines)
    kept = "\n".join(lines[:end])
    if not kept.strip() or not _defines(f"{task.header}{kept}\n", task.entry_point):
        return None
    trimmed = len(lines) - end + (_line_count(after) if after.strip("`~\n ") else 0)
    return _less_use(task, f"{task.header}{kept}\n", _trimmed(trimmed))


def _longest(before: str, lines: list[str]) -> int:
    """How many of the lines parse behind ``before``: all, or up to some top-level line.

    A longer run would hold the line at which the parser gave up, so few runs are tried.
    """
    cuts = [i for i, line in enumerate(lines) if i and line[:1] not in ("", " ", "\t")]
    end = len(lines)
    while end > 0:
        try:
            parse(before + "\n".join(lines[:end]) + "\n")
        except SyntaxError as error:
            bad = (error.lineno or end) - before.count("\n")
            end = max((cut for cut in cuts if cut < min(end, max(bad, 1))), default=0)
        else:
            return end
    return 0


def _less_use(task: Task, program: str, note: str) -> Parsed:
    """The program less what a base model runs on with: prints, trials, comments at its end."""
    tree = parse(program)
    reduced = without_statements(program, tree, _use_of(tree, task.entry_point))
    reduced = re.sub(r"(?:\n#.*|\n)+\Z", "\n", reduced)
    dropped = _line_count(program) - _line_count(reduced)
    if dropped <= 0:
        return Parsed(program, note)
    return Parsed(reduced, "; ".join(filter(None, [note, f"left out {_lines(dropped)} of use"])))


def _use_of(tree: ast.Module, entry_point: str) -> set[ast.stmt]:
    """Statements after the entry point that no function, class or other statement builds on."""
    names = Names(tree)
    mentions: dict[int, set[str]] = {}
    needed = set[str]()
    for o in names.occurrences:
        if names.meaning(o) is names.module and not o.stores:
            mentions.setdefault(o.statement, set()).add(o.name)
    nodes = list(enumerate(tree.body))
    for index, node in nodes:
        if isinstance(node, _DEFINITIONS):
            needed |= mentions.get(index, set())
    entry = max((i for i, n in nodes if getattr(n, "name", "") == entry_point), default=len(nodes))
    dropped = set[ast.stmt]()
    for index, node in reversed(nodes[entry + 1 :]):
        bound = Names(ast.Module([node], [])).module.bound
        if isinstance(node, _DEFINITIONS) or bound & needed or _sets_up(node):
            needed |= mentions.get(index, set())
        else:
            dropped.add(node)
    return dropped


def _sets_up(node: ast.stmt) -> bool:
    """Whether a statement calls into a module, as ``sys.setrecursionlimit`` does."""
    call = node.value if isinstance(node, ast.Expr) else None
    if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Attribute):
        return False
    return isinstance(call.func.value, ast.Name) and call.func.value.id in _SET_UP


def _continuation_or_none(task: Task, text: str) -> Parsed:
    """Unindented text that defines nothing: broken code, or prose."""
    if any(_CODE.match(line) for line in text.split("\n")):
        return Parsed(task.header + text, "does not parse")
    return Parsed(None, "no code in the reply")


# ---- a program of its own --------------------------------------------------------------------


def _own_function(task: Task, text: str) -> Parsed | None:
    """The longest run of lines around ``def entry_point`` that parses: prose around it goes."""
    lines = text.rstrip("\n").split("\n")
    opens = re.compile(rf"(?:async\s+)?def\s+{re.escape(task.entry_point)}\b")
    at = next((i for i, line in enumerate(lines) if opens.match(line)), None)
    if at is None:
        return None
    starts = [i for i, line in enumerate(lines[: at + 1]) if line[:1] not in ("", " ", "\t")]
    for start in [*starts[:40], at]:
        cut = _longest("", lines[start:])
        kept = "\n".join(lines[start : start + cut]) + "\n"
        if start + cut > at and _defines(kept, task.entry_point):
            return Parsed(_with_preamble(task, kept), _trimmed(len(lines) - cut))
    return Parsed(_with_preamble(task, "\n".join(lines[at:]) + "\n"), "does not parse")


def _from_blocks(task: Task, blocks: list[str]) -> Parsed:
    """The fenced block that defines the entry point, with the blocks it needs beside it."""
    if not any(block.strip() for block in blocks):
        return Parsed(None, "an empty code block")
    defining = [i for i, block in enumerate(blocks) if _defines(block, task.entry_point)]
    if not defining:
        return _from_loose_blocks(task, blocks)
    main = defining[-1]
    needed = _undefined(blocks[main])
    used = [main]
    for i, block in enumerate(blocks):
        if i not in defining and needed & _bound(block):
            used.append(i)
    code = "\n\n".join(blocks[i].strip("\n") for i in sorted(used)) + "\n"
    if len(used) > 1 and not _defines(code, task.entry_point):
        used, code = [main], blocks[main]
    notes = [f"the last of {len(defining)} blocks that define it"] if len(defining) > 1 else []
    left = len(blocks) - len(used) - len(defining) + 1
    if left:
        notes.append(f"{left} of {len(blocks)} blocks left out")
    return Parsed(_with_preamble(task, code), "; ".join(notes))


def _from_loose_blocks(task: Task, blocks: list[str]) -> Parsed:
    """No block defines the entry point: a body without its header, a cut or another function."""
    for block in blocks:
        if _names(block) is not None:
            continue  # a program of its own, of another function or of none
        for body in (block, textwrap.indent(textwrap.dedent(block), " " * 4)):
            if _opens_with_body(body) and _defines(task.header + body, task.entry_point):
                return Parsed(task.header + body, "a body without its header")
    joined = "\n\n".join(block.strip("\n") for block in blocks) + "\n"
    if _defines(joined, task.entry_point):
        return Parsed(_with_preamble(task, joined), f"{len(blocks)} blocks joined")
    cut = _own_function(task, joined)
    return cut or Parsed(joined, f"no block defines {task.entry_point}")


def _with_preamble(task: Task, code: str) -> str:
    """The program, with what stands before the header's ``def`` where it leans on that."""
    try:
        header = parse(f"{task.header}\n    pass")
    except SyntaxError:
        return code
    if len(header.body) < 2:
        return code
    first = header.body[-1]
    line = min([first.lineno, *(d.lineno for d in getattr(first, "decorator_list", []))])
    preamble = "\n".join(task.header.split("\n")[: line - 1]).strip("\n")
    if not _undefined(code) & _bound(preamble):
        return code
    return f"{preamble}\n\n\n{code}"


# ---- fences ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block of a text."""

    start: int
    """Offset in the text of the line that opens it."""
    first: int
    """Number of that line, from 0."""
    last: int
    """Number of the line that closes it; of the text's last one where none does."""
    language: str
    """What follows the opening fence, in lower case: ``python``, or nothing."""
    code: str
    closed: bool

    def __len__(self) -> int:
        """Lines, fences and all."""
        return self.last - self.first + 1

    @property
    def is_python(self) -> bool:
        """Python, or of no named language."""
        return self.language in _LANGUAGES


def blocks_in(text: str) -> list[Block]:
    """The fenced blocks of a text, whatever their language; the last one may lack its end."""
    blocks, offset, opened = list[Block](), 0, None
    fence, lines, all_lines = "", list[str](), text.split("\n")
    for number, line in enumerate(all_lines):
        if opened is None:
            found = _opening(line)
            if found:
                fence, language = found
                indent = len(line) - len(line.lstrip())
                opened, lines = (offset, number, language, indent), []
        elif line.strip().startswith(fence) and not line.strip().strip(fence[0]):
            blocks.append(_block(opened, number, lines, closed=True))
            opened = None
        else:
            lines.append(line)
        offset += len(line) + 1
    if opened is not None:
        blocks.append(_block(opened, len(all_lines) - 1, lines, closed=False))
    return blocks


def _opening(line: str) -> tuple[str, str] | None:
    """The fence that a line ends with, and the language it names; prose may stand before it."""
    if "```" not in line and "~~~" not in line:
        return None
    end = max(line.rfind("```"), line.rfind("~~~")) + 3
    language = line[end:].strip()
    start = len(line[:end].rstrip(line[end - 1]))
    if (start and not line[start - 1].isspace()) or not _LANGUAGE.fullmatch(language):
        return None
    return line[start:end], language.lower()


def _block(
    opened: tuple[int, int, str, int], last: int, lines: list[str], *, closed: bool
) -> Block:
    start, first, language, indent = opened
    return Block(start, first, last, language, _dedented(lines, indent), closed)


def _fenced_blocks(text: str) -> list[Block]:
    """Python blocks (or blocks of no named language); the last one may lack its end."""
    return [block for block in blocks_in(text) if block.is_python]


def _dedented(lines: list[str], indent: int) -> str:
    """A block's lines; a block inside a list is indented with its fence."""
    text = "\n".join(lines) + "\n"
    return textwrap.dedent(text) if indent else text


# ---- small facts -----------------------------------------------------------------------------


def _names(source: str) -> Names | None:
    try:
        return Names(parse(source))
    except (SyntaxError, RecursionError):
        return None


def _defines(source: str, entry_point: str) -> bool:
    """Whether the source parses and binds the entry point at its top level."""
    names = _names(source)
    return names is not None and entry_point in names.module.bound


def _bound(source: str) -> set[str]:
    names = _names(source)
    return names.module.bound if names else set()


def _undefined(source: str) -> set[str]:
    names = _names(source)
    return names.undefined() if names else set()


def _line_count(text: str) -> int:
    return len(text.rstrip("\n").split("\n"))


def _lines(count: int) -> str:
    return f"{count} line" if count == 1 else f"{count} lines"


def _trimmed(count: int) -> str:
    return f"trimmed {_lines(count)}" if count else ""


_DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Import, ast.ImportFrom)
_SET_UP = ("sys", "random", "math", "decimal", "locale", "warnings", "np", "numpy")
_LANGUAGES = ("", "python", "py", "python3", "python2", "py3", "pycon", "ipython")
_LANGUAGE = re.compile(r"[\w+-]*")
_CODE = re.compile(
    r"\s+\S|(?:async\s+)?def\s+\w+\s*\(|class\s+\w+.*:|import\s+\w+\s*$|from\s+\S+\s+import\b"
    r"|return\b(?!\s+\w+\s+\w+\s+\w)|@\w|[\w.]+(?:\[.*\])?\s*[-+*/%|&]?=(?!=)|[\w.]+\(.*\)\s*$"
    r"|(?:if|elif|for|while|with|try|else)\b.*:\s*$"
)


# ---- replies that were cut -------------------------------------------------------------------


def is_open(task: Task, text: str, code: str | None) -> bool:
    """Whether a reply ends within its program, so that one that was cut may have been cut there.

    ``code`` is the program ``parse_reply`` took from it. A program that something follows (a
    closed fence, another definition, prose) is whole, and so is one with an error well before
    its end: length did not spoil those.
    """
    text = clean(text)
    if code is None:
        return True  # it was cut before it came to the code
    if _last_line(text) != _last_line(code):
        return False
    if text.endswith("\n\n\n") and _defines(code, task.entry_point):
        return False  # a model that goes on with empty lines alone is done with its program
    return _ends_open(task, code) or _ends_open(task, text)


def _ends_open(task: Task, source: str) -> bool:
    """Whether the source stops within the task's function, or before it comes to it."""
    try:
        body = parse(source).body
    except SyntaxError as error:
        said = str(error.msg)
        at_end = (error.lineno or 0) >= len(source.rstrip().splitlines())
        return at_end or "never closed" in said or "unterminated triple" in said
    except RecursionError:
        return True
    names = [getattr(node, "name", "") for node in body]
    return task.entry_point not in names or names[-1] == task.entry_point


def _last_line(text: str) -> str:
    lines = text.rstrip().splitlines()
    return lines[-1].strip() if lines else ""
