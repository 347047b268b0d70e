"""Seen tests that the task's own reference passes: those that it fails are no tests."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from persd.records import Task, Test, Verdict
from persd.sandbox import Limits, Sandbox
from persd.verify import Job, verify

#: A reference is given more time than an answer: that it is slow is not that it is wrong.
REFERENCE_LIMITS = Limits(cpu_seconds=10.0, load_seconds=10.0)


@dataclass(frozen=True, slots=True)
class Dropped:
    """A seen test that the task's own reference does not pass."""

    test: Test
    actual: str
    """What the reference gave, for reading; empty: nothing."""
    reason: str
    """Why there is no value: the error, or the verdict's status; empty: there is one."""


@dataclass(frozen=True, slots=True)
class Seen:
    """A task less the seen tests its reference does not pass, and what they were."""

    task: Task
    dropped: tuple[Dropped, ...] = ()
    undecided: tuple[Test, ...] = ()
    """Kept, for the reference could not be run on them (or there is none)."""


def sound_seen(box: Sandbox, tasks: Iterable[Task]) -> Iterator[Task]:
    """The tasks, less the seen tests that their own reference fails (``validated``)."""
    return (seen.task for seen in validated(box, tasks))


def validated(box: Sandbox, tasks: Iterable[Task]) -> Iterator[Seen]:
    """The tasks with the seen tests that their own reference passes, in flat memory, in order.

    31 of HumanEval's docstring test sets, as the paper's code extracts them, fail the
    canonical solution: a seen test that the reference fails is not a test. Nothing but the
    reference decides: what it could not be run on is kept, as are all tests of a task without
    one; and where it fails one test, each is run in a process of its own.
    """
    waiting: deque[Task] = deque()

    def jobs() -> Iterator[Job]:
        for task in tasks:
            waiting.append(task)
            if _decidable(task):
                yield Job(task.task_id, task, task.reference or "", "seen", REFERENCE_LIMITS)

    for verdict in verify(box, jobs()):
        while not _decidable(waiting[0]):
            yield _undecided(waiting.popleft())
        task = waiting.popleft()
        yield Seen(task) if verdict.passed else _one_by_one(box, task)
    yield from map(_undecided, waiting)


def _decidable(task: Task) -> bool:
    return task.reference is not None and bool(task.seen_tests)


def _undecided(task: Task) -> Seen:
    return Seen(task, undecided=task.seen_tests)


def _one_by_one(box: Sandbox, task: Task) -> Seen:
    """Each seen test decided by the reference alone, whatever the others do to its process."""
    reference = task.reference or ""
    jobs = [Job(t.call, task, reference, (t,), REFERENCE_LIMITS) for t in task.seen_tests]
    kept, dropped, undecided = list[Test](), list[Dropped](), list[Test]()
    for test, verdict in zip(task.seen_tests, verify(box, jobs), strict=True):
        if verdict.passed or verdict.status == "not_run":
            kept.append(test)
        else:
            dropped.append(_dropped(test, verdict))
        if verdict.status == "not_run":
            undecided.append(test)
    return Seen(replace(task, seen_tests=tuple(kept)), tuple(dropped), tuple(undecided))


def _dropped(test: Test, verdict: Verdict) -> Dropped:
    result = verdict.first_failure
    if result is not None and result.status == "failed":
        return Dropped(test, result.actual, "")
    said = [result.error_type, result.message] if result is not None else []
    return Dropped(test, "", ": ".join(filter(None, said)) or verdict.reason or verdict.status)
