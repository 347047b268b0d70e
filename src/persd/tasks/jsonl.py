"""Tasks from a file of one's own: JSON lines, a row a task.

    {"task_id": "double", "instruction": "Return twice n.", "entry_point": "double",
     "header": "def double(n):\\n", "tests": [{"call": "double(2)", "expected": "4"}],
     "seen_tests": [...], "reference": "    return 2 * n"}

``call`` is Python source of one call of the entry point, ``expected`` a Python literal; or
``test_code`` defining ``check(candidate)`` stands in place of ``tests``. ``seen_tests``,
``reference`` (a whole program or the body) and ``setup`` (source that runs first) may be
left out; a test may hold ``compare`` and ``tolerance``. Other keys are kept in ``meta``.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from persd.domains.align import Misaligned, read_header
from persd.records import Task, Test
from persd.tasks.rows import (
    Fault,
    Row,
    Wrong,
    checked_header,
    checked_test,
    checked_test_code,
    open_header,
    read_rows,
    shown,
    whole_program,
)

KEYS = (
    "task_id", "instruction", "entry_point", "header", "tests", "seen_tests", "reference",
    "test_code", "setup", "meta",
)  # fmt: skip
_COMPARE = ("value", "equal", "loose")
_TEST_KEYS = ("call", "expected", "compare", "tolerance")


def read(path: str) -> Iterator[Task | Fault]:
    """Every row of the file as a task, or as the fault that keeps it from being one.

    Raises UserError where the file cannot be read.
    """
    seen: dict[str, str] = {}
    for row in read_rows(path):
        if isinstance(row, Fault):
            yield row
            continue
        try:
            task = _task(row)
            first = seen.setdefault(task.task_id, row.where)
            if first != row.where:
                raise Wrong("duplicate_task_id", f"also at {first}", "Give each task its own id")
        except Wrong as wrong:
            yield row.fault(wrong)
        else:
            yield task


def _task(row: Row) -> Task:
    if "test_list" in row.fields and "entry_point" not in row.fields:
        raise Wrong(
            "missing_key",
            "a row in MBPP's own format, not a task of one's own",
            "Name the source mbpp, and this file as its data (--data FILE, or tasks.path)",
        )
    _refuse_misspelt(row)
    entry_point, header = row.text("entry_point"), row.text("header")
    task = Task(
        task_id=_task_id(row),
        instruction=row.text("instruction"),
        header=checked_header(header),
        entry_point=entry_point,
        tests=_tests(row, "tests", entry_point),
        seen_tests=_tests(row, "seen_tests", entry_point),
        test_code=_test_code(row),
        setup=row.text("setup", ""),
        source=row.where,
        meta=_meta(row) | open_header(header),
    )
    try:
        read_header(task)
    except Misaligned:
        raise Wrong(
            "bad_header",
            f"header {shown(header.strip())} does not open {entry_point}",
            f'End "header" with the line "def {entry_point}(...):" and perhaps its docstring',
        ) from None
    return replace(task, reference=_reference(row, task))


def _task_id(row: Row) -> str:
    found = row.fields.get("task_id")
    if isinstance(found, int) and not isinstance(found, bool):
        return str(found)
    task_id = row.text("task_id")
    if not task_id.strip():
        raise Wrong("missing_key", '"task_id" is empty', "Give each task an id of its own")
    if not task_id.isprintable():
        raise Wrong("bad_task_id", f"{task_id!a} holds control characters", "Use printable ids")
    return task_id


def _refuse_misspelt(row: Row) -> None:
    for key in row.fields.keys() - set(KEYS):
        near = difflib.get_close_matches(key, KEYS, n=1, cutoff=0.8)
        if near and near[0] not in row.fields:
            raise Wrong("unknown_key", f'unknown key "{key}"', f'Did you mean "{near[0]}"?')


def _tests(row: Row, key: str, entry_point: str) -> tuple[Test, ...]:
    found = row.fields.get(key)
    hint = f'Write "{key}": [{{"call": "{entry_point}(1)", "expected": "2"}}]'
    if found is None:
        found = []
    if not isinstance(found, list):
        raise Wrong("wrong_type", f'"{key}" is {shown(found)}, not a list', hint)
    if key == "tests" and not found and row.fields.get("test_code") is None:
        raise Wrong("no_tests", 'no "tests" and no "test_code"', hint)
    if key == "tests" and found and row.fields.get("test_code") is not None:
        raise Wrong("bad_test", '"tests" and "test_code" at once', "Keep one of the two")
    return tuple(checked_test(_test(item, hint), entry_point) for item in found)


def _test(item: Any, hint: str) -> Test:
    if not isinstance(item, dict):
        raise Wrong("wrong_type", f"a test is {shown(item)}, not an object", hint)
    for key in item:
        if key not in _TEST_KEYS:
            raise Wrong("unknown_key", f'unknown key "{key}" in a test', hint)
    for key in ("call", "expected"):
        if key not in item:
            raise Wrong("missing_key", f'a test without "{key}": {shown(item)}', hint)
        if not isinstance(item[key], str):
            quoted = f'Write it as text holding a literal: "{key}": "{shown(repr(item[key]))}"'
            raise Wrong("wrong_type", f'"{key}" is {shown(item[key])}, not text', quoted)
    compare, tolerance = item.get("compare", "value"), item.get("tolerance")
    if compare not in _COMPARE:
        raise Wrong("wrong_type", f'"compare" is {shown(compare)}', f"Use one of {_COMPARE}")
    if tolerance is not None and (isinstance(tolerance, bool) or not _is_tolerance(tolerance)):
        raise Wrong("wrong_type", f'"tolerance" is {shown(tolerance)}', "Use a number like 1e-6")
    return Test(item["call"], item["expected"], compare, tolerance)


def _is_tolerance(value: Any) -> bool:
    return isinstance(value, (int, float)) and value >= 0


def _test_code(row: Row) -> str | None:
    if row.fields.get("test_code") is None:
        return None
    return checked_test_code(row.text("test_code"))


def _reference(row: Row, task: Task) -> str | None:
    if row.fields.get("reference") is None:
        return None
    return whole_program(task, row.text("reference"))


def _meta(row: Row) -> dict[str, Any]:
    meta = row.fields.get("meta") or {}
    if not isinstance(meta, dict):
        raise Wrong("wrong_type", f'"meta" is {shown(meta)}, not an object')
    return meta | {k: v for k, v in row.fields.items() if k not in KEYS}
