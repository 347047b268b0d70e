"""Can the tests tell right from wrong? The reference must pass them; a function that does nothing,
one that always answers the same, and most of a few mutants of the reference must not.

One process runs all programs of a task one after the other, where they cannot reach one another
(``sandbox.tame``); each that this does not decide is run alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from persd.config import GenerateTable
from persd.domains.prompts import feedback
from persd.pool.drafts import Rejection
from persd.pool.lanes import Run, Steps, in_lanes
from persd.records import Status, Task, Test, Verdict
from persd.sandbox import Limits, Outcome, Sandbox
from persd.tasks.mutants import mutants, stubs, with_body
from persd.verdicts import Job, judge, shorten
from persd.verify import program_of

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Weak:
    """A task whose tests notice too little; more calls may help."""

    task: Task
    detail: str
    survivor: str
    """A wrong program that passes its hidden tests."""


#: CPU seconds a test of the reference, and of what is tried beside it: a wrong program that takes
#: longer than this, and ten times longer than the reference, has failed.
_REFERENCE = Limits(cpu_seconds=1.0)
_QUICK, _TIMES = 0.1, 10.0


def tried(
    box: Sandbox, items: Iterable[tuple[T, Task | Rejection]], rules: GenerateTable
) -> Iterator[tuple[T, Task | Weak | Rejection]]:
    """Each task as it is, or why its tests are not enough; in order, streaming.

    ``reference_fails``, ``too_slow`` or ``not_run`` where the reference does not pass all tests,
    ``constant`` where they all expect the same, ``stub_passes``; Weak where fewer than
    ``rules.kills`` of ``rules.mutants`` mutants fail the hidden ones, or these alone expect the
    same. Raises UserError as ``Sandbox.probe``.
    """

    def begin(found: Task | Rejection) -> Steps[Task | Weak | Rejection]:
        if isinstance(found, Rejection):
            return found
        return (yield from _tried(found, rules))

    yield from in_lanes([box], items, begin)


def same_answer(tests: Sequence[Test]) -> str:
    """What all of several different calls expect, for reading; empty: not the same."""
    expected = {(test.expected, test.compare) for test in tests}
    several = len({test.call for test in tests}) > 1
    return shorten(tests[0].expected) if several and len(expected) == 1 else ""


def _tried(task: Task, rules: GenerateTable) -> Steps[Task | Weak | Rejection]:
    if same := same_answer((*task.seen_tests, *task.tests)):
        return Rejection("constant", f"all {len(task.seen_tests + task.tests)} tests expect {same}")
    reference = task.reference or ""
    known = Job("reference", replace(task, tests=(*task.seen_tests, *task.tests)), reference)
    lazy = list(stubs(task))
    changed = mutants(reference, rules.mutants, task.entry_point)
    wrong = [*lazy, *(("a changed copy", code) for code in changed)]
    verdicts = yield from _verdicts(known, [Job(what, task, code) for what, code in wrong])
    first, *others = verdicts
    if not first.passed:
        return _not_passing(first)
    for (what, _), verdict in zip(lazy, others, strict=False):
        if verdict.passed:
            return Rejection("stub_passes", f"a function that {what} passes every hidden test")
    return _strong(task, wrong[len(lazy) :], others[len(lazy) :], rules)


_FAILS: dict[Status, str] = {"timeout": "too_slow", "not_run": "not_run"}


def _not_passing(verdict: Verdict) -> Rejection:
    said = " ".join(f"{feedback(verdict)} {verdict.reason}".split())
    state = _FAILS.get(verdict.status, "reference_fails")
    return Rejection(state, f"the reference does not pass its own tests: {said}")  # type: ignore[arg-type]


def _strong(
    task: Task,
    changed: Sequence[tuple[str, str]],
    verdicts: Sequence[Verdict],
    rules: GenerateTable,
) -> Task | Weak:
    """The task, where its hidden tests notice enough."""
    passing = [code for (_, code), v in zip(changed, verdicts, strict=True) if v.passed]
    run = Counter(v.status != "not_run" for v in verdicts)[True]
    if same := same_answer(task.tests):
        told = f"all {len(task.tests)} hidden tests expect {same}"
        return Weak(task, told, _constant(task))
    if run and run - len(passing) < rules.kills * run:
        told = f"{run - len(passing)} of {run} changed copies of the reference fail the tests"
        return Weak(task, told, passing[0])
    return task


def _constant(task: Task) -> str:
    """A program that gives what the first hidden test expects."""
    test = task.tests[0]
    give = f"print({test.expected!r})" if test.compare == "loose" else f"return {test.expected}"
    return with_body(task, give)


# ---- running ---------------------------------------------------------------------------------


def _verdicts(reference: Job, wrong: Sequence[Job]) -> Steps[list[Verdict]]:
    """On the reference, then on each of the others."""
    jobs = [replace(job, stop_at_first_failure=True) for job in wrong]
    together = [reference, *jobs]
    found: dict[int, Verdict] = {}
    alone: list[int] = []
    waiting = list(range(len(together)))
    while len(waiting) > 1:
        limits = replace(_REFERENCE, cpu_seconds=_QUICK)
        outcomes = yield Run(tuple(program_of(together[i], limits) for i in waiting))
        for number, outcome in zip(waiting, outcomes, strict=True):
            verdict = judge(together[number], outcome, limits)
            if _decides(verdict, outcome, number):
                found[number] = verdict
        waiting, ends = _left(waiting, outcomes, found)
        alone += ends
    cost = 0.0
    for number in sorted([*alone, *waiting]):
        limits = _limits(cost) if number else _REFERENCE
        (outcome,) = yield Run((program_of(together[number], limits),))
        found[number] = judge(together[number], outcome, limits)
        if number == 0:
            cost = outcome.cpu
    return [found[number] for number in range(len(together))]


def _limits(cost: float) -> Limits:
    return replace(_REFERENCE, cpu_seconds=min(max(_QUICK, _TIMES * cost), _REFERENCE.cpu_seconds))


def _decides(verdict: Verdict, outcome: Outcome, number: int) -> bool:
    """Whether a verdict from a shared process stands: a wrong value or an exception is no mate's
    doing, as nobody there reaches another; time, memory and an early end may be."""
    if not outcome.frames:
        return False
    if number == 0:
        return verdict.passed
    return verdict.status in ("passed", "failed", "error", "syntax")


def _left(
    waiting: Sequence[int], outcomes: Sequence[Outcome], found: dict[int, Verdict]
) -> tuple[list[int], list[int]]:
    """Who is run together once more, and who alone: all, where nobody stopped the process (they
    cannot share it); else the one at which it was stopped."""
    left = [number for number in waiting if number not in found]
    begun = [n for n, o in zip(waiting, outcomes, strict=True) if o.frames and n in left]
    if not begun:
        return [], left
    return [n for n in left if n not in begun], begun
