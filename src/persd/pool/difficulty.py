"""How hard each task is for the student, and a pool chosen by it.

The student tries every task some times; the share of its samples that pass the hidden tests is the
task's pass rate, kept in ``meta["difficulty"]``. The samples are asked for and judged as those of
an evaluation (``persd.evaluate``), so they are stored, resumed, batched and paid for alike; what is
no verdict on the student (a reply that was cut, a program that could not be run, a prompt that does
not fit) is counted apart and is in no rate.

A task that is always solved teaches nothing, one that is never solved perhaps little yet: those in
between come first, the nearest to one half before the others, for p (1 - p) is what can be learnt
of a task (as in Rutherford et al. 2024, who choose tasks by it; PERsD, section 3.2, drops what the
student solves).
"""

from __future__ import annotations

import heapq
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import count, islice
from pathlib import Path
from typing import Any, Literal

from persd.calls import DIFFICULTY
from persd.config import DifficultyTable, EvaluateTable, StudentTable
from persd.errors import UserError
from persd.evaluate import Exam, Sample, first_question, judged
from persd.ledger import Ledger
from persd.outcomes import APART, PASSED
from persd.records import Request, Task
from persd.run import CHOICE
from persd.session import NOT_ATTEMPTS, Session

Select = Literal["none", "learnable"]

#: Key of a task's ``meta``, and in it what a source's own value of that name is kept under.
KEY, LABEL = "difficulty", "label"
#: Marks of a histogram beside 0.
_MARKS = 10


# -- measuring --------------------------------------------------------------------------------


def measured(
    session: Session,
    tasks: Iterable[Task],
    samples: int,
    *,
    student: StudentTable,
    model: str,
    total: int | None = None,
) -> Iterator[Task]:
    """Each task again, in its order, with ``meta["difficulty"]``: ``student`` (``model``),
    ``samples`` that are part of the rate and how many of them ``passed``, ``asked``, and how they
    were drawn (``temperature``, ``top_p``, ``max_tokens``); where there are any, ``truncated``,
    ``not_run``, ``too_long`` and ``not_attempted`` samples, which are part of none.

    ``student`` says how ``model`` (its own, or a checkpoint of it) is sampled. Streams; what the
    folder's ledger holds is not asked again, and more samples ask only for the new ones. A task
    without a test is not asked about. ``total``: how many tasks there are, where it is known.
    Raises WorkFailed where an answer is missing, UserError where an id comes twice at once.
    """
    table = EvaluateTable(
        samples=samples,
        k=[1],
        temperature=student.temperature,
        top_p=student.top_p,
        max_tokens=student.max_tokens,
    )
    exam = Exam(session, DIFFICULTY, (), table, work="the measuring of difficulty")
    waiting: dict[str, _Sat] = {}

    def questions() -> Iterator[Request]:
        for task in tasks:
            if task.task_id in waiting:
                raise UserError(f"two tasks have the id {task.task_id!r}", where=task.source)
            asked = samples if task.tested else 0
            waiting[task.task_id] = _Sat(task, asked)
            bare = without_rate(task)  # a task that was measured before is the same task
            yield from (first_question(exam, bare, number) for number in range(asked))

    session.progress.stage(f"difficulty for {model}", None if total is None else total * samples)
    for sample in judged(exam, session.student(model), questions(), is_last=True):
        waiting[sample.task.task_id].found[_counted_as(session.ledger, sample)] += 1
        yield from _finished(waiting, student, model)
    if session.stopping.is_set():
        raise KeyboardInterrupt
    yield from _finished(waiting, student, model)
    session.progress.close()


@dataclass(slots=True)
class _Sat:
    """A task whose samples are coming in."""

    task: Task
    asked: int
    found: Counter[str] = field(default_factory=Counter)
    """Samples by ``_counted_as``."""


def _counted_as(ledger: Ledger, sample: Sample) -> str:
    """``passed``, ``failed``, or why a sample is part of no rate."""
    if not sample.is_attempt:
        solution = ledger.solution(sample.solution_id)
        assert solution is not None, "a judged sample is in the ledger"
        return NOT_ATTEMPTS[solution.finish]
    if sample.outcome in (PASSED, *APART):
        return sample.outcome
    return "failed"


def _finished(waiting: dict[str, _Sat], student: StudentTable, model: str) -> Iterator[Task]:
    """The tasks that are next in order and whose samples are all there."""
    while waiting:
        task_id, sat = next(iter(waiting.items()))
        if sat.found.total() < sat.asked:
            return
        del waiting[task_id]
        yield _with_rate(sat, student, model) if sat.asked else without_rate(sat.task)


def _with_rate(sat: _Sat, student: StudentTable, model: str) -> Task:
    apart = {name: n for name, n in sorted(sat.found.items()) if name not in (PASSED, "failed")}
    rate: dict[str, Any] = {
        "student": model,
        "samples": sat.found[PASSED] + sat.found["failed"],
        "passed": sat.found[PASSED],
        "asked": sat.asked,
        "temperature": student.temperature,
        "top_p": student.top_p,
        "max_tokens": student.max_tokens,
        **apart,
    }
    bare = without_rate(sat.task)
    if KEY in bare.meta:
        rate[LABEL] = bare.meta[KEY]
    return replace(bare, meta={**bare.meta, KEY: rate})


def without_rate(task: Task) -> Task:
    """The task as it was before it was measured."""
    if _record(task) is None:
        return task
    meta = {k: v for k, v in task.meta.items() if k != KEY}
    label = task.meta[KEY].get(LABEL)
    return replace(task, meta=meta if label is None else {**meta, KEY: label})


# -- reading ----------------------------------------------------------------------------------


def _record(task: Task) -> Mapping[str, Any] | None:
    """What was measured of a task; None: nothing, or its source means something else by it."""
    found = task.meta.get(KEY)
    if not isinstance(found, dict) or not isinstance(found.get("student"), str):
        return None
    samples, passed = found.get("samples"), found.get("passed")
    if type(samples) is not int or type(passed) is not int or not 0 <= passed <= samples:
        return None
    return found


def counts_of(task: Task, student: str | None = None) -> tuple[int, int] | None:
    """Samples that passed, and all that were judged, of any student or of this one. None: none
    was judged."""
    found = _record(task)
    if found is None or not found["samples"]:
        return None
    if student is not None and not same_student(found["student"], student):
        return None
    return found["passed"], found["samples"]


def pass_rate(task: Task, student: str | None = None) -> float | None:
    """The share of the student's samples that passed, 0-1. None: it is not known."""
    found = counts_of(task, student)
    return None if found is None else found[0] / found[1]


def measured_for(task: Task) -> str | None:
    """The student that the task was measured for. None: none."""
    found = _record(task)
    return None if found is None else str(found["student"])


def same_student(name: str, other: str) -> bool:
    """Whether two names mean one model: the same text, or the same folder."""
    if name == other:
        return True
    try:
        return Path(name).is_dir() and Path(name).resolve() == Path(other).resolve()
    except (OSError, ValueError):  # a name that can be no path
        return False


# -- counting ---------------------------------------------------------------------------------


@dataclass(slots=True)
class Rates:
    """Tasks by their pass rates."""

    by_counts: Counter[tuple[int, int]] = field(default_factory=Counter)
    """Tasks by (samples that passed, samples)."""
    unknown: int = 0
    apart: Counter[str] = field(default_factory=Counter)
    """Samples that are part of no rate, by reason."""

    def add(self, task: Task, student: str | None = None) -> None:
        found = counts_of(task, student)
        if found is None:
            self.unknown += 1
        else:
            self.by_counts[found] += 1
        record = _record(task)
        if record is None or (student and not same_student(record["student"], student)):
            return
        for name in (*sorted(APART), "too_long", "not_attempted"):
            if type(record.get(name)) is int:
                self.apart[name] += record[name]

    @property
    def always(self) -> int:
        return sum(n for (passed, of), n in self.by_counts.items() if passed == of)

    @property
    def never(self) -> int:
        return sum(n for (passed, _), n in self.by_counts.items() if not passed)

    @property
    def between(self) -> int:
        return self.by_counts.total() - self.always - self.never

    @property
    def tasks(self) -> int:
        return self.by_counts.total() + self.unknown

    def histogram(self) -> list[dict[str, Any]]:
        """Tasks by the nearest of evenly spaced rates, as many as the samples can give and 11 at
        most: [{"rate", "tasks"}]. Only what never passed is at 0, what always did at 1."""
        if not self.by_counts:
            return []
        marks = min(_MARKS, max(of for _, of in self.by_counts))
        found: Counter[int] = Counter()
        for (passed, of), n in self.by_counts.items():
            found[_mark(passed, of, marks)] += n
        return [{"rate": round(i / marks, 4), "tasks": found[i]} for i in range(marks + 1)]

    def plain(self) -> dict[str, Any]:
        """For JSON: ``tasks``, ``always``, ``never``, ``between`` and ``unknown``, which add up to
        them, ``histogram``, and ``apart``: samples that are part of no rate, by reason."""
        return {
            "tasks": self.tasks,
            "always": self.always,
            "never": self.never,
            "between": self.between,
            "unknown": self.unknown,
            "histogram": self.histogram(),
            "apart": {name: n for name, n in self.apart.items() if n},
        }


def _mark(passed: int, of: int, marks: int) -> int:
    if passed in (0, of):
        return marks if passed else 0
    return min(max(round(passed / of * marks), 1), max(marks - 1, 1))


# -- choosing ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Chosen:
    """A pool chosen by difficulty, and what became of all that were looked at."""

    tasks: list[Task]
    """In the order in which they are to be taught."""
    rates: Rates
    """Of all tasks that were looked at."""
    left_out: int
    """Tasks that the student always solves."""
    beyond: int
    """Tasks that would have been taken, had the limit been higher."""

    @property
    def always(self) -> int:
        return self.rates.always

    @property
    def never(self) -> int:
        return self.rates.never

    @property
    def between(self) -> int:
        return self.rates.between

    @property
    def unknown(self) -> int:
        return self.rates.unknown

    def plain(self) -> dict[str, Any]:
        """For JSON: as ``Rates.plain``, and ``left_out``, ``beyond`` and ``taken``, which add up
        to the tasks."""
        counts = {"left_out": self.left_out, "beyond": self.beyond, "taken": len(self.tasks)}
        return self.rates.plain() | counts


def chosen(
    tasks: Iterable[Task], select: Select, limit: int | None = None, student: str | None = None
) -> Chosen:
    """The first ``limit`` tasks: as they come (``none``), or by what they can teach.

    ``learnable``: tasks solved now and then first, the nearest to one half before the others;
    then those whose rate is not known, for some of them are of that kind; then those never
    solved. Equal ones keep their order; those always solved are left out. ``student``: whose
    rates count; None: whoever's. With a limit no more than that many tasks are held; ``none``
    draws no more than that. Raises UserError where ``learnable`` meets a rate of another student.
    """
    rates = Rates()
    if select == "none":
        taken = []
        for task in islice(tasks, limit):
            rates.add(task, student)
            taken.append(task)
        return Chosen(taken, rates, 0, 0)
    places = count()
    able = 0

    def learnable() -> Iterator[tuple[float, int, Task]]:
        nonlocal able
        for task in tasks:
            _refuse_other(task, student)
            rates.add(task, student)
            rate = pass_rate(task, student)
            if rate != 1.0:
                able += 1
                yield _rank(rate), next(places), task

    ranked = sorted(learnable()) if limit is None else heapq.nsmallest(limit, learnable())
    return Chosen([task for *_, task in ranked], rates, rates.always, able - len(ranked))


def _rank(rate: float | None) -> float:
    """The lower, the earlier."""
    if rate is None:
        return 1.0
    return 2.0 if rate == 0.0 else abs(rate - 0.5)


def _refuse_other(task: Task, student: str | None) -> None:
    other = measured_for(task)
    if student is None or other is None or same_student(other, student):
        return
    raise UserError(
        f"the pass rate of task {task.task_id} is that of {other}, the student is {student}",
        where=task.source,
        hint='[tasks.difficulty] samples = 8 measures this student\'s, select = "none" takes the '
        "tasks in their order",
    )


def calls_of(table: DifficultyTable, tasks: int, limit: int | None = None) -> int:
    """Questions to the student that the choice of a pool takes, where none was asked before:
    ``tasks`` are there, ``limit`` are wanted. What the ledger holds of them: ``calls_made``."""
    looked_at = tasks if table.select == "learnable" or limit is None else min(tasks, limit)
    return looked_at * table.samples


def calls_made(ledger: Ledger) -> int:
    """Questions about difficulty that were answered."""
    sql = "SELECT COUNT(*) AS n FROM calls WHERE role = 'student' AND purpose = ?"
    return int(ledger.query(sql, (DIFFICULTY,))[0]["n"])


# -- what a ledger keeps of it ----------------------------------------------------------------


def note(
    ledger: Ledger, found: Chosen | Rates, *, student: str, samples: int, select: Select
) -> None:
    """Keep how a pool was chosen, for the report: nothing is dropped silently."""
    plain = {"student": student, "samples": samples, "select": select, **found.plain()}
    ledger.set_meta(CHOICE, json.dumps(plain))


def noted(ledger: Ledger) -> dict[str, Any] | None:
    """What ``note`` kept: ``student``, ``samples`` of a task, ``select``, and ``Chosen.plain``
    (of a task file that was only measured: ``Rates.plain``). None: nothing."""
    stored = ledger.meta(CHOICE)
    found = None if stored is None else json.loads(stored)
    return found if isinstance(found, dict) else None
