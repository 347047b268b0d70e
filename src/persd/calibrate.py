"""How much CPU time a test may take: measured on the task's own reference where there is one.

A fixed limit is too long for most tasks (an endless loop costs all of it) and too short for a
few (MBPP 123 takes seconds). So a program gets ``LEAST`` first; only one that needs more has its
task's reference run, once, and may then have 20 times what that took, within ``LEAST`` and
``MOST`` and never under 3 times. A program that had passed every earlier test is given 3 times
its limit in the end, so that a busy machine does not decide.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, replace
from typing import ClassVar
from weakref import WeakKeyDictionary

from persd.records import Verdict
from persd.sandbox import Limits, Outcome, Sandbox
from persd.verdicts import Job

#: CPU seconds a test.
LEAST, MOST = 0.1, 3.0
_TIMES, _NEVER_UNDER, _AGAIN = 20.0, 3.0, 3.0
#: A reference that waits longer than this many seconds is not judged by its CPU time.
_WAITING = 0.5
#: CPU seconds a reference may take while it is measured.
_MEASURING = 10.0


@dataclass(frozen=True, slots=True)
class Cost:
    """What the tests of a task cost its reference."""

    cpu_seconds: float
    """Of the dearest test."""
    waits: bool
    """It sleeps, so that CPU time says little."""


class References:
    """What is known of tasks' references; a handful, since few programs need more than LEAST."""

    _of: ClassVar[WeakKeyDictionary[Sandbox, References]] = WeakKeyDictionary()

    def __init__(self) -> None:
        self._costs: dict[Hashable, Cost | None] = {}

    @classmethod
    def of(cls, box: Sandbox) -> References:
        """Those measured in a sandbox, as long as it lives."""
        return cls._of.setdefault(box, References())

    def knows(self, job: Job) -> bool:
        """Whether there is nothing to measure (any more)."""
        return job.task.reference is None or _key(job) in self._costs

    def get(self, job: Job) -> Cost | None:
        """The cost of these tests; None: no reference, or it does not pass."""
        return self._costs.get(_key(job)) if self._costs else None

    def put(self, job: Job, outcome: Outcome | None) -> None:
        """The reference ran (None: it did not pass). The first measurement stays."""
        self._costs.setdefault(_key(job), None if outcome is None else _cost(outcome))


def _key(job: Job) -> Hashable:
    return (job.task.task_id, job.task.reference, job.chosen, job.check)


def _cost(outcome: Outcome) -> Cost:
    """Frames are the program's word, and the process's own time bounds it."""
    told = [frame.get("t") for frame in outcome.frames]
    times = [t / 1e6 for t in told if type(t) is int and 0 <= t < 1 << 50]
    dearest = max(times, default=outcome.cpu) if outcome.check is None else outcome.cpu
    return Cost(min(dearest, outcome.cpu), outcome.wall - outcome.cpu > _WAITING)


def limits_from(timeout: float | None, memory_mb: int | None) -> Limits | None:
    """Limits with what a user gave: CPU seconds a test (None: by the task), memory in MB."""
    if timeout is None and memory_mb is None:
        return None
    usual = Limits()
    seconds = usual.cpu_seconds if timeout is None else timeout
    memory = usual.memory_mb if memory_mb is None else memory_mb
    return Limits(cpu_seconds=seconds, memory_mb=memory, calibrate=timeout is None)


def first_limits(job: Job, cost: Cost | None = None) -> Limits:
    """What a program gets at first; ``cost``: where the tests' is known by now."""
    given = job.limits or Limits(calibrate=True)
    if not given.calibrate:
        return given
    if cost is not None:
        return _with(given, _fair(job, cost))
    return replace(given, cpu_seconds=LEAST if job.task.reference is not None else MOST)


def measuring(job: Job) -> Limits:
    """What the task's reference gets while it is measured."""
    return _with(first_limits(job), _MEASURING)


def more_limits(job: Job, verdict: Verdict, had: Limits, cost: Cost | None) -> Limits | None:
    """What a program that ran out of time may have next; None: no more."""
    fair = _fair(job, cost)
    if had.cpu_seconds < fair:
        return _with(had, fair)
    again = _AGAIN * fair
    if had.calibrate and had.cpu_seconds < again and _earlier_tests_passed(verdict):
        return _with(had, again)
    return None


def _fair(job: Job, cost: Cost | None) -> float:
    """CPU seconds a test that the task calls for."""
    least = _NEVER_UNDER * cost.cpu_seconds if cost is not None else 0.0
    if job.limits is not None and not job.limits.calibrate:
        return max(job.limits.cpu_seconds, least)
    if cost is None or cost.waits:
        return max(MOST, least)
    return max(min(max(_TIMES * cost.cpu_seconds, LEAST), MOST), least)


def _with(limits: Limits, cpu_seconds: float) -> Limits:
    load = max(limits.load_seconds, cpu_seconds)
    return replace(limits, cpu_seconds=cpu_seconds, load_seconds=load)


def _earlier_tests_passed(verdict: Verdict) -> bool:
    *earlier, _last = verdict.results or (None,)
    return bool(earlier) and all(r is not None and r.status == "passed" for r in earlier)
