"""HumanEval (Chen et al. 2021): 164 tasks whose prompt is the header, docstring and all."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import replace

from persd.domains.align import Misaligned, read_header
from persd.domains.names import undefined_names
from persd.records import Task, Test
from persd.sandbox.split import split_check
from persd.tasks.hub import hub_rows
from persd.tasks.rows import (
    Fault,
    Row,
    Wrong,
    call_fault,
    checked_header,
    checked_test_code,
    is_literal,
    open_header,
    read_rows,
    whole_program,
)

HUB_ID = "openai/openai_humaneval"


def read(path: str | None) -> Iterator[Task | Fault]:
    """All tasks, from a local ``.jsonl`` or ``.jsonl.gz`` (None: from the Hub).

    The hidden tests are the calls in ``check`` (its code whole where they are more than
    ``candidate(args) == literal``); the seen ones the docstring's examples.
    """
    rows = read_rows(path) if path is not None else hub_rows(HUB_ID, None, "test")
    for row in rows:
        if isinstance(row, Fault):
            yield row
            continue
        try:
            yield _task(row)
        except Wrong as wrong:
            yield row.fault(wrong)


def _task(row: Row) -> Task:
    task, test_code = described(row), checked_test_code(row.text("test"))
    tests = split_check(test_code, task.entry_point)
    return replace(task, tests=tests or (), test_code=None if tests else test_code)


def described(row: Row) -> Task:
    """A row as a task without its hidden tests: header, reference, the docstring's examples.

    Raises Wrong.
    """
    header, entry_point = row.text("prompt"), row.text("entry_point")
    task = Task(
        task_id=row.text("task_id"),
        instruction="",
        header=checked_header(header),
        entry_point=entry_point,
        source=row.where,
        meta=open_header(header),
    )
    try:
        docstring = ast.get_docstring(read_header(task).function) or ""
    except Misaligned:
        raise Wrong("bad_header", f"the prompt does not open {entry_point}") from None
    return replace(
        task,
        reference=whole_program(task, row.text("canonical_solution")),
        seen_tests=examples_in(docstring, entry_point),
    )


def examples_in(docstring: str, entry_point: str) -> tuple[Test, ...]:
    """The examples a docstring shows, as tests: ``>>> f(1)`` with its next line, ``f(1) == 2``,
    ``f(1) => 2``, ``f(1) returns 2`` and their like.

    Only whole literals count; whether the reference agrees is for the judge to say.
    """
    tests: dict[str, Test] = {}
    for match in re.finditer(rf"(?<![\w.]){re.escape(entry_point)}\s*\(", docstring):
        call = _call_at(docstring, match.start(), entry_point)
        if call is None:
            continue
        line_start = docstring.rfind("\n", 0, match.start()) + 1
        doctest = docstring[line_start : match.start()].strip() == ">>>"
        expected = _expected(docstring[match.start() + len(call) :], doctest)
        if expected is not None:
            call = " ".join(call.split("\n"))
            tests.setdefault(call, Test(call, expected, "equal"))
    return tuple(tests.values())


def _call_at(text: str, start: int, entry_point: str) -> str | None:
    """The call that begins at ``start``, up to the parenthesis that closes it."""
    for end in re.finditer(r"\)", text[start : start + 2000]):
        call = text[start : start + end.end()]
        if not call_fault(call, entry_point):
            return call if undefined_names(call) == (entry_point,) else None
    return None


def _expected(after: str, doctest: bool) -> str | None:
    """The literal that follows a call: behind a connector, or on a doctest's next line."""
    line, _, rest = after.partition("\n")
    connector = _CONNECTOR.match(line)
    if connector:
        return _literal_in(line[connector.end() :], rest)
    if doctest and not line.strip():
        block = re.split(r"\n\s*(?:>>>|\n|$)", "\n" + rest, maxsplit=1)[0]
        first = rest.partition("\n")[0].strip()
        for text in (block.strip(), first):
            if is_literal(text):
                return text
    return None


def _literal_in(text: str, rest: str) -> str | None:
    """The longest literal the text begins with, read on over the next lines if it is open."""
    text = re.sub(r"\b(true|false)\b(?=\W*$)", lambda m: m[0].title(), text.strip())
    text = text.removesuffix(".") if not text.endswith("..") else text
    for more in range(6):
        whole = "\n".join([text, *rest.split("\n")[:more]]).strip()
        if is_literal(whole):
            return whole
    for end in [m.start() for m in re.finditer(r"[\s.,;#)]", text)][::-1]:
        head = text[:end].strip().rstrip(".,;")
        if head and is_literal(head) and not _goes_on(text[end:]):
            return head
    return None


def _goes_on(rest: str) -> bool:
    """Whether what follows the literal is arithmetic on it (``11 - 4 = 7``), not prose."""
    return bool(re.match(r"\s*(?:[-+*/%]|==?|and\b|or\b|if\b)", rest))


_CONNECTOR = re.compile(
    r"\s*(?:#\s*)?(?:=*>|==|->|➞|→|=|"
    r"(?:(?:should|will|must)\s+)?(?:returns?|equals?|is|gives?)\b:?)\s*"
)
