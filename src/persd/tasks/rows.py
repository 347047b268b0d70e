"""Rows of a task file, read one by one, and the ways a row can be wrong.

A source gives a Task or a Fault for each row: ``load`` stops at the first fault, ``persd
tasks check`` lists them all.
"""

from __future__ import annotations

import ast
import gzip
import json
import zlib
from codecs import BOM_UTF8
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from persd.domains.names import Names, clean, parse
from persd.errors import UserError
from persd.records import Task, Test
from persd.sandbox import codec
from persd.sandbox.compare import NotLiteral, literal, read_expected


@dataclass(frozen=True)
class Fault:
    """One row that is no task: what is wrong, where, and what to do."""

    task_id: str
    """As far as it is known; empty where the row could not be read."""
    reason: str
    """``broken_json``, ``missing_key``, ``unknown_key``, ``wrong_type``, ``no_tests``,
    ``bad_test``, ``bad_header``, ``bad_reference``, ``duplicate_task_id`` or
    ``wrong_benchmark``."""
    detail: str
    where: str
    hint: str = ""

    def error(self) -> UserError:
        task = f"task {self.task_id}: " if self.task_id else ""
        return UserError(f"{task}{self.detail}", where=self.where, hint=self.hint)


class Wrong(Exception):
    """What is wrong with the row at hand; the reader makes it a Fault."""

    def __init__(self, reason: str, detail: str, hint: str = "") -> None:
        self.reason, self.detail, self.hint = reason, detail, hint
        super().__init__(detail)


@dataclass(frozen=True)
class Row:
    """A row as read: its fields, and where it stands."""

    fields: Mapping[str, Any]
    where: str

    @property
    def task_id(self) -> str:
        found = self.fields.get("task_id")
        return str(found) if isinstance(found, (str, int)) else ""

    @property
    def keys(self) -> str:
        """The names of its fields, for a message."""
        return ", ".join(sorted(self.fields)) or "nothing"

    def fault(self, wrong: Wrong) -> Fault:
        return Fault(self.task_id, wrong.reason, wrong.detail, self.where, wrong.hint)

    def text(self, key: str, default: str | None = None) -> str:
        """A field that is text. Raises Wrong where it is missing or something else."""
        if key not in self.fields or (self.fields[key] is None and default is not None):
            if default is not None:
                return default
            raise Wrong("missing_key", f'no "{key}" (the row has {self.keys})', f'Add "{key}"')
        value = self.fields[key]
        if not isinstance(value, str):
            raise Wrong("wrong_type", f'"{key}" is {shown(value)}, not text', "Put it in quotes")
        return clean(value)

    def texts(self, key: str) -> list[str]:
        """A field that is a list of texts; missing: none."""
        value = self.fields.get(key) or []
        if not isinstance(value, list) or not all(isinstance(v, str) for v in value):
            raise Wrong("wrong_type", f'"{key}" is {shown(value)}, not a list of texts')
        return [clean(v) for v in value]


def read_rows(path: str | Path) -> Iterator[Row | Fault]:
    """The objects of a ``.jsonl`` or ``.json`` file, gzip or not, blank lines skipped; a file
    that opens with ``[`` is one list of them.

    Raises UserError where the file cannot be read; gives a Fault for a line that is no
    JSON object.
    """
    for number, line in lines_of(Path(path)):
        where = f"{path}:{number}"
        if not line.strip():
            continue
        try:
            fields = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
        except UnicodeDecodeError as error:
            yield Fault("", "broken_json", f"not UTF-8 ({error.reason})", where, "Save it as UTF-8")
            continue
        except (ValueError, RecursionError) as error:
            detail = f"broken JSON: {error} in {shown(line.decode(errors='replace'))}"
            yield Fault("", "broken_json", detail, where, "Mend or remove the line")
            continue
        if number == 1 and isinstance(fields, list):
            yield from (_row(item, f"{path}[{i}]") for i, item in enumerate(fields))
        else:
            yield _row(fields, where)


def _row(fields: Any, where: str) -> Row | Fault:
    if isinstance(fields, dict):
        return Row(fields, where)
    detail = f"a JSON object is wanted, not {shown(fields)}"
    return Fault("", "broken_json", detail, where, 'Write rows as {"task_id": ...}')


def lines_of(path: Path) -> Iterator[tuple[int, bytes]]:
    """The lines of a file, gzip or not, numbered from 1; one that is a list is one line.

    Raises UserError where it cannot be read.
    """
    number = 0
    try:
        with path.open("rb") as raw:
            packed = raw.peek(2)[:2] == b"\x1f\x8b"  # a pipe cannot go back
            with gzip.open(raw) if packed else raw as stream:
                first = stream.readline()
                if path.suffix == ".json" or first.removeprefix(BOM_UTF8).lstrip()[:1] == b"[":
                    yield 1, first + stream.read()
                    return
                for number, line in enumerate(chain([first], stream), 1):
                    yield number, line
    except (EOFError, zlib.error, gzip.BadGzipFile):
        raise UserError(
            "the gzip file is torn: it ends or breaks after this line",
            where=f"{path}:{number}",
            hint="Download it again",
        ) from None
    except OSError as error:
        raise UserError(
            f"cannot read the file ({error.strerror or error})",
            where=str(path),
            hint="Check the path",
        ) from None


# ---- the parts of a row ----------------------------------------------------------------------


def shown(value: Any, limit: int = 60) -> str:
    """A value for an error message, cut to ``limit`` characters."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= limit else text[: limit - 3] + "..."


def checked_header(header: str) -> str:
    """The header with exactly one line end."""
    return header.rstrip() + "\n"


OPEN_HEADER = "open_header"
"""Key of a task's ``meta``: its header as given, where that ends within a line, as in
``"def f(x):\\n    "``. What we prompt with is the checked one; what others sampled may go on
from this one."""


def open_header(header: str) -> dict[str, str]:
    """What ``meta`` keeps of a header as given; nothing where the checked one says it all."""
    return {OPEN_HEADER: header} if header[-1:] in (" ", "\t") else {}


def continued(task: Task, text: str) -> str:
    """The whole program of a text that continues the task's header.

    Where the header as given ends in an open line, a text whose first line of code is not
    indented goes on from that line.
    """
    given = task.meta.get(OPEN_HEADER)
    return (given if isinstance(given, str) and not is_body(text) else task.header) + text


def is_body(code: str) -> bool:
    """Whether the code can only go on from a whole header: its first line is indented."""
    for line in code.split("\n"):
        if line.strip() and not line.lstrip().startswith("#"):
            return line[0] in " \t"
    return True


def checked_test(test: Test, entry_point: str) -> Test:
    """The test, if it is one expression that calls the entry point and expects a literal.

    Raises Wrong otherwise.
    """
    wrong = call_fault(test.call, entry_point)
    if wrong:
        use = f'Write "call" as {entry_point}(...), or use "test_code"'
        raise Wrong("bad_test", f"test {shown(test.call)}: {wrong}", use)
    if test.compare != "loose" and not is_literal(test.expected):
        raise Wrong(
            "bad_test",
            f"test {shown(test.call)}: expected {shown(test.expected)} is no Python literal",
            'Write a literal ("\'text\'" for a string), or use "test_code"',
        )
    return test


def call_fault(call: str, entry_point: str) -> str:
    """Why a text is not one call of the entry point; empty: it is."""
    try:
        tree = ast.parse(call.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return "not an expression"
    if not isinstance(tree, ast.Call):
        return "not a call"
    if not isinstance(tree.func, ast.Name) or tree.func.id != entry_point:
        return f"not a call of {entry_point}"
    return ""


def call_keys(source: str, names: Collection[str]) -> frozenset[str]:
    """What the calls of these names in a text are made with, however it is spelt: two calls
    with the same key pass the same arguments. None where the text does not parse."""
    try:
        nodes = list(ast.walk(ast.parse(source.strip())))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return frozenset()
    calls = [n for n in nodes if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)]
    return frozenset(_arguments(n) for n in calls if n.func.id in names)  # type: ignore[attr-defined]


def _arguments(call: ast.Call) -> str:
    try:
        values = [literal(arg) for arg in call.args]
        named = {str(k.arg): literal(k.value) for k in call.keywords}
        return codec.canonical(codec.dumps([values, named]))
    except (ValueError, TypeError, RecursionError):
        return ", ".join(map(ast.unparse, (*call.args, *call.keywords)))


def is_literal(text: str) -> bool:
    """Whether the judge can read the text as an expected value."""
    try:
        read_expected(text)
    except NotLiteral:
        return False
    return True


def checked_test_code(code: str) -> str:
    """Test code, if it parses and defines ``check``. Raises Wrong otherwise."""
    try:
        bound = Names(parse(code)).module.bound
    except SyntaxError as error:
        raise Wrong("bad_test", f'"test_code" does not parse: {error.msg}') from None
    if "check" not in bound:
        raise Wrong("bad_test", '"test_code" defines no check(candidate)')
    return code


def whole_program(task: Task, text: str) -> str:
    """A reference as a whole program; what does not define the entry point continues the header.

    Raises Wrong where neither reading parses.
    """
    programs, entry_point = [text, continued(task, text)], task.entry_point
    problems = []
    for program in programs:
        try:
            if entry_point in Names(parse(program)).module.bound:
                return program
            problems.append(f"defines no {entry_point}")
        except SyntaxError as error:
            problems.append(f"line {error.lineno}: {error.msg}")
        except RecursionError:
            problems.append("nested too deeply")
    problem = problems[1] if text[:1] in (" ", "\t", "\n") else problems[0]
    raise Wrong(
        "bad_reference",
        f"the reference is no program with {entry_point} ({problem})",
        "Give the whole program, or the indented body that continues the header",
    )
