"""Tasks rewritten around those a student fails or nearly fails (Evol-Instruct: Xu et al. 2023; on
code: Luo et al. 2023): what the student is at the edge of is what the next pool practises."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from persd.calls import DIFFICULTY
from persd.config import GenerateTable
from persd.errors import UserError
from persd.ledger import Ledger
from persd.pool.difficulty import counts_of
from persd.pool.seeds import usable
from persd.records import Brief, Task, derive_seed
from persd.tasks import load


@dataclass(frozen=True, slots=True)
class Parent:
    """A task to be rewritten."""

    task: Task
    wrong: str | None = None
    """A program that the student wrote for it and that is wrong; None: none is known."""
    rate: float | None = None
    """How nearly the student does it, 0-1: the share of its samples that pass; where one attempt
    is all there is, the share of the hidden tests that it passed. None: nobody knows."""


def parents_of(rules: GenerateTable, unsafe: bool = False) -> list[Parent]:
    """The tasks that ``rules.evolve``, a run's folder or a task file, says the student fails:
    those it nearly does first, those it never does after them; those it always does are left out.

    Of the last round in which the student tried a task. ``unsafe``: see ``tasks.load``. Raises
    UserError where there is no such task, or nothing to read.
    """
    where = rules.evolve or ""
    path = Path(where)
    if path.is_dir():
        with Ledger(path, read_only=True) as ledger:
            found = list(_of_run(ledger))
        none = "the student of this run has failed no task"
        hint = "collect more of it with persd collect, or give another run or a task file"
    else:
        found = list(_of_file(where, unsafe))
        none = "no task of it has a pass rate below 1"
        hint = "persd tasks difficulty measures them"
    failed = [parent for parent in found if parent.rate != 1.0]
    if not failed:
        raise UserError(none, where=where, hint=hint)
    shown = {task.task_id for task in usable((p.task for p in failed), where)}
    return sorted((p for p in failed if p.task.task_id in shown), key=_turn)


def evolving(rules: GenerateTable, parents: Sequence[Parent], seed: int, number: int) -> Brief:
    """What question ``number`` (from 0) asks: parents in turn, ways in turn, so that every task is
    rewritten in every way before a pair comes again."""
    lap, place = divmod(number, len(parents))
    way = rules.ways[(place + lap + derive_seed(seed, "ways")) % len(rules.ways)]
    parent = parents[place]
    return Brief(
        number=number,
        count=rules.per_call,
        calls=rules.calls,
        way=way,
        parent=parent.task,
        wrong=parent.wrong,
    )


def _turn(parent: Parent) -> float:
    """The lower, the earlier: nearest to one half, then unknown, then never."""
    if parent.rate is None:
        return 1.0
    return abs(parent.rate - 0.5) if parent.rate else 2.0


# ---- of a task file --------------------------------------------------------------------------


def _of_file(path: str, unsafe: bool) -> Iterator[Parent]:
    for task in load("jsonl", path=path, unsafe=unsafe):
        counts = counts_of(task)
        if counts is not None:
            yield Parent(task, None, counts[0] / counts[1])


# ---- of a run --------------------------------------------------------------------------------


@dataclass(slots=True)
class _Tried:
    """A student's tries of one task."""

    round: int = 0
    passed: int = 0
    of: int = 0
    wrong: str = ""
    """The first that failed: a solution's id."""


def _of_run(ledger: Ledger) -> Iterator[Parent]:
    tried = _tries(ledger)
    unsound = {
        task_id
        for round in ledger.rounds()
        for task_id, state in ledger.states(round).items()
        if state.state in _UNSOUND
    }
    for task in ledger.stream_tasks():
        own = tried.get(task.task_id)
        if own is None or task.task_id in unsound:
            continue
        wrong = ledger.solution(own.wrong) if own.wrong else None
        rate = _rate(ledger, task, own)
        yield Parent(_with_reference(ledger, task), wrong.code if wrong else None, rate)


def _with_reference(ledger: Ledger, task: Task) -> Task:
    """The task, with the direct answer that passed its tests where it has no reference."""
    if task.reference is not None:
        return task
    for direct in ledger.solutions(kind="direct", task_id=task.task_id):
        verdict = ledger.verdict(direct.solution_id)
        if direct.code is not None and verdict is not None and verdict.passed:
            return replace(task, reference=direct.code)
    return task


def _tries(ledger: Ledger) -> dict[str, _Tried]:
    """By task, the judged attempts of the last round that has any, and the samples by which its
    difficulty was measured, which belong to no round."""
    sql = (
        "SELECT s.task_id, s.round, s.benchmark, s.solution_id, v.status FROM solutions s "
        "JOIN verdicts v ON v.solution_id = s.solution_id AND v.tests = 'hidden' "
        "WHERE s.kind = 'attempt' AND s.step = 1 AND s.benchmark IN ('', ?) "
        "AND (s.finish <> 'length' OR v.status = 'passed' OR s.benchmark = '') "
        "ORDER BY s.benchmark, s.round, s.rowid"
    )
    found: dict[str, _Tried] = {}
    for row in ledger.query(sql, (DIFFICULTY,)):
        own = found.setdefault(row["task_id"], _Tried())
        if not row["benchmark"] and row["round"] > own.round:
            own = found[row["task_id"]] = _Tried(row["round"])
        own.of += 1
        own.passed += row["status"] == "passed"
        if row["status"] != "passed" and not own.wrong:
            own.wrong = row["solution_id"]
    return found


def _rate(ledger: Ledger, task: Task, own: _Tried) -> float:
    passed, of = counts_of(task) or (0, 0)
    if own.of > 1 or own.passed or of:
        passed, of = (own.passed, own.of) if own.of > 1 else (passed + own.passed, of + 1)
        return passed / of
    verdict = ledger.verdict(own.wrong)
    passed = sum(r.status == "passed" for r in verdict.results) if verdict else 0
    tests = max(len(task.tests), len(verdict.results) if verdict else 0)
    return min(passed, tests - 1) / tests if tests > 1 else 0.0


#: Ends of tasks that are not to be built on.
_UNSOUND = ("contaminated", "bad_task", "direct_failed", "untested")
