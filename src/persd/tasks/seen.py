"""What becomes of the seen tests of a source: the report behind ``persd tasks seen``.

Seen tests decide which samples a student is asked to refine, and what it is told. They are
validated as an evaluation validates them (``check.validated``), and the tests that are kept are
then run once more, whole sets together, so that "none is bad" is measured and not concluded.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, get_args

from persd.errors import UserError
from persd.progress import Progress
from persd.records import Task
from persd.sandbox import Sandbox
from persd.tasks import Split, items_of
from persd.tasks.rows import Fault, call_keys
from persd.tasks.sound import REFERENCE_LIMITS, Dropped, Seen, validated
from persd.verify import Job, verify


def seen_source(
    source: str,
    data: Path | None,
    limit: int | None,
    progress: Progress,
    *,
    split: str | None = None,
    unsafe: bool = False,
) -> dict[str, Any]:
    """``seen_report`` of a source by name (MBPP's train and test, without a ``split``) or of a
    task file. ``unsafe``: also where nothing keeps programs from the user's files.

    Raises UserError for an unknown source or split, for the first row that is no task, and
    where there is no task.
    """
    if split is not None and split not in get_args(Split):
        raise UserError(f'unknown split "{split}"', hint=f"Use one of {', '.join(get_args(Split))}")
    progress.stage("seen tests", limit)
    items = items_of(source, data, limit, split=split, unsafe=unsafe)  # type: ignore[arg-type]
    with Sandbox(unsafe=unsafe) as box:
        return {"source": source, **seen_report(box, _tasks(items), progress)}


def _tasks(items: Iterable[Task | Fault]) -> Iterator[Task]:
    for item in items:
        if isinstance(item, Fault):
            raise item.error()
        yield item


def seen_report(
    box: Sandbox, tasks: Iterable[Task], progress: Progress | None = None
) -> dict[str, Any]:
    """What the tasks' references say of their seen tests.

    {"tasks", "found" (seen tests), "kept", "with_seen" (tasks that keep one), "without_seen"
    (ids: none was found, or none kept), "dropped": [{"task_id", "call", "expected", "actual" or
    "reason"}], "tasks_dropped" (tasks that lose one: their set as found is bad), "left_without"
    (ids that lose all), "undecided" (kept, but there is no reference or it was not run),
    "bad_after" (tasks whose reference fails the tests it kept), "not_run_after" (the same, not
    run), "shared_with_hidden" (kept tests whose call is among the task's hidden ones),
    "tasks_shared"}.
    """
    seen = list[Seen]()
    for one in validated(box, tasks):
        seen.append(one)
        if progress:
            progress.step()
    dropped = [_told(one.task, drop) for one in seen for drop in one.dropped]
    kept = sum(len(one.task.seen_tests) for one in seen)
    shared = [len(shared_calls(one.task)) for one in seen]
    after = _statuses_after(box, seen)
    return {
        "tasks": len(seen),
        "found": kept + len(dropped),
        "kept": kept,
        "with_seen": sum(bool(one.task.seen_tests) for one in seen),
        "without_seen": [one.task.task_id for one in seen if not one.task.seen_tests],
        "dropped": dropped,
        "tasks_dropped": sum(bool(one.dropped) for one in seen),
        "left_without": [
            one.task.task_id for one in seen if one.dropped and not one.task.seen_tests
        ],
        "undecided": sum(len(one.undecided) for one in seen),
        "bad_after": sum(status not in ("passed", "not_run") for status in after),
        "not_run_after": after.count("not_run"),
        "shared_with_hidden": sum(shared),
        "tasks_shared": sum(map(bool, shared)),
    }


def _told(task: Task, drop: Dropped) -> dict[str, str]:
    said = {"reason": drop.reason} if drop.reason else {"actual": drop.actual}
    return {
        "task_id": task.task_id,
        "call": drop.test.call,
        "expected": drop.test.expected,
        **said,
    }


def shared_calls(task: Task) -> list[str]:
    """The task's seen tests that call with the arguments of a hidden one, by their calls."""
    hidden = set[str]()
    for test in task.tests:
        hidden |= call_keys(test.call, {task.entry_point})
    hidden |= call_keys(task.test_code or "", {task.entry_point, "candidate"})
    calls = [test.call for test in task.seen_tests]
    return [call for call in calls if call_keys(call, {task.entry_point}) & hidden]


def _statuses_after(box: Sandbox, seen: Iterable[Seen]) -> list[str]:
    """The verdict's status of each reference on the seen tests that its task keeps."""
    tasks = [one.task for one in seen if one.task.reference and one.task.seen_tests]
    jobs = [Job(t.task_id, t, t.reference or "", "seen", REFERENCE_LIMITS) for t in tasks]
    return [verdict.status for verdict in verify(box, jobs)]


def readable(found: dict[str, Any]) -> Iterator[str]:
    """The report for a reader, a line at a time."""
    for drop in found["dropped"]:
        gave = drop.get("reason") or drop["actual"]
        call = f"{drop['task_id']}: dropped {drop['call']}"
        yield f"{call}: expected {drop['expected']}, the reference gave {gave}"
    without = found["without_seen"]
    yield f"tasks                    {found['tasks']}"
    yield f"seen tests found         {found['found']}"
    yield f"kept                     {found['kept']}, in {found['with_seen']} tasks"
    yield f"dropped                  {len(found['dropped'])}, of {found['tasks_dropped']} tasks"
    yield f"tasks without seen tests {len(without)}{_listed(without)}"
    if found["undecided"]:
        yield f"kept undecided           {found['undecided']}: no reference ran on them"
    yield f"bad sets after dropping  {found['bad_after']}"
    if found["not_run_after"]:
        yield f"not run after dropping   {found['not_run_after']}"
    shared = f"{found['shared_with_hidden']}, of {found['tasks_shared']} tasks"
    yield f"calls that are hidden    {shared}{_NATURE if found['tasks_shared'] else ''}"


_NATURE = " (a docstring's examples may be among HumanEval's tests)"


def _listed(ids: list[str]) -> str:
    if not ids:
        return ""
    return f": {', '.join(ids[:12])}{', ...' if len(ids) > 12 else ''}"
