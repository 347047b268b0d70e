"""Single tasks: the attempt, what the judge said of it, and the repairs, with their lineage."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from persd.domains.code import feedback, task_prompt
from persd.errors import UserError
from persd.ledger import Ledger
from persd.records import Call, Solution, Task, TaskState, Verdict
from persd.report import diff
from persd.report.sets import evenly
from persd.report.summary import WAITING, WORDS

#: States whose tasks have an attempt beside a repair, in the order they are shown.
REPAIRED = ("refined", "refused", "teacher_failed")


@dataclass(frozen=True)
class Piece:
    """One program of a case: whose it is, what became of it, and the call behind it."""

    solution: Solution
    verdict: Verdict | None
    """The hidden tests' verdict; None: not judged (yet)."""
    call: Call | None
    """None: read from a file."""

    @property
    def shown(self) -> str:
        """The program as judged, or the raw reply where it held none."""
        return self.solution.text if self.solution.code is None else self.solution.code

    @property
    def status(self) -> str:
        if self.verdict is None:
            return "not judged"
        return f"{self.verdict.status}{f' ({self.verdict.reason})' if self.verdict.reason else ''}"

    @property
    def lineage(self) -> dict[str, Any]:
        """Where it comes from: ids, model, seed and settings, tokens and money, isolation."""
        found: dict[str, Any] = {"solution": self.solution.solution_id}
        if self.solution.parent:
            found["repairs"] = self.solution.parent
        found["author"] = self.solution.author
        if self.call is not None:
            done = self.call.completion
            found["call"] = self.call.call_id
            if done.model and done.model != self.solution.author:
                found["answered by"] = done.model
            found |= dict(sorted(self.call.params.items()))
            found["tokens in, out"] = f"{done.usage.input_tokens}, {done.usage.output_tokens}"
            found["USD"] = "unknown" if done.usd is None else f"{done.usd:g}"
            found["versions"] = ", ".join(f"{k} {v}" for k, v in sorted(self.call.versions.items()))
        found["ended"] = self.solution.finish
        if self.verdict is not None:
            found["judged under"] = self.verdict.isolation or "not recorded"
            found["CPU seconds"] = f"{self.verdict.seconds:.3f}"
        return found


@dataclass(frozen=True)
class Shown:
    """One task in one round, as it is shown to a reader."""

    task: Task
    round: int
    state: str
    detail: str
    attempt: Piece | None
    repair: Piece | None
    """The verified repair, or the last one refused."""
    tries: tuple[Piece, ...]
    """Every repair of this attempt that was returned, in order, the one above included."""
    direct: Piece | None

    @property
    def prompt(self) -> str:
        """The task as the student is given it."""
        return task_prompt(self.task)

    @property
    def feedback(self) -> str:
        """What the judge said of the attempt; empty where it did not fail."""
        verdict = self.attempt.verdict if self.attempt else None
        if verdict is not None:
            return "" if verdict.status in ("passed", "not_run") else feedback(verdict)
        released = self.task.meta.get("feedback")
        return released if isinstance(released, str) else ""

    @cached_property
    def rows(self) -> list[diff.Row]:
        """The attempt beside the repair; empty where there are not both."""
        if self.attempt is None or self.repair is None:
            return []
        return diff.rows(self.attempt.shown, self.repair.shown)

    @cached_property
    def closeness(self) -> tuple[float | None, float | None]:
        """Similarity 0-1 of the attempt to the repair and to the direct answer; None: no code."""
        from persd.closeness import similarity

        old = self.attempt.solution.code if self.attempt else None
        others = (p.solution.code if p else None for p in (self.repair, self.direct))
        near, far = (
            similarity(old, new) if old is not None and new is not None else None for new in others
        )
        return near, far


def select(
    ledger: Ledger,
    *,
    states: Sequence[str] = REPAIRED,
    limit: int | None = None,
    task: str | None = None,
) -> tuple[list[tuple[str, int, str]], int]:
    """Which (task, round, state) to show, and how many there are.

    Where there are more than ``limit``, every state gets its even share of places, and within
    a state the tasks are evenly spaced over rounds and pool: the same run, the same choice.
    With ``task`` its rounds, whatever their states. Raises UserError for an unknown one.
    """
    if task is not None:
        found = [k for k in _all(ledger) if k[0] == task]
        if not found:
            raise UserError(
                f"the run has no task {task!r}",
                where=str(ledger.path),
                hint=f"persd view {ledger.run} shows some",
            )
        return found[:limit], len(found)
    by_state: dict[str, list[tuple[str, int, str]]] = {state: [] for state in states}
    for key in _all(ledger):
        if key[2] in by_state:
            by_state[key[2]].append(key)
    places = _places([len(keys) for keys in by_state.values()], limit)
    chosen = [
        key for keys, n in zip(by_state.values(), places, strict=True) for key in evenly(keys, n)
    ]
    return chosen, sum(map(len, by_state.values()))


def _all(ledger: Ledger) -> Iterator[tuple[str, int, str]]:
    sql = (
        "SELECT t.task_id, COALESCE(s.state, ?) AS state FROM tasks t LEFT JOIN states s "
        "ON s.task_id = t.task_id AND s.round = ? WHERE t.benchmark = '' ORDER BY t.position"
    )
    for round in ledger.rounds() or [1]:
        for row in ledger.query(sql, (WAITING, round)):
            yield row["task_id"], round, row["state"]


def _places(sizes: list[int], limit: int | None) -> list[int]:
    """Even shares of ``limit`` places; what one does not need goes to the others."""
    if limit is None or sum(sizes) <= limit:
        return sizes
    places = [0] * len(sizes)
    for _ in range(max(limit, 0)):
        open_ = [i for i, size in enumerate(sizes) if places[i] < size]
        places[min(open_, key=lambda i: (places[i], i))] += 1
    return places


def gather(ledger: Ledger, keys: Sequence[tuple[str, int, str]]) -> Iterator[Shown]:
    """Everything the ledger holds on the chosen tasks."""
    tasks = {t.task_id: t for t in ledger.tasks()}
    states = {round: ledger.states(round) for round in {k[1] for k in keys}}
    for task_id, round, state in keys:
        yield _gather(ledger, tasks[task_id], states[round].get(task_id), round, state)


def _gather(ledger: Ledger, task: Task, ended: TaskState | None, round: int, state: str) -> Shown:
    here = {"task_id": task.task_id, "benchmark": ""}
    attempts = ledger.solutions(**here, kind="attempt", round=round)
    attempt = _chosen(ledger, ended.attempt_id if ended else None, attempts)
    repairs = ledger.solutions(**here, kind="refinement", round=round)
    tries = tuple(
        _piece(ledger, s)
        for s in sorted(repairs, key=lambda s: s.attempt)
        if attempt is None or s.parent in (None, attempt.solution.solution_id)
    )
    directs = ledger.solutions(**here, kind="direct")
    return Shown(
        task=task,
        round=round,
        state=state,
        detail=ended.detail if ended else "",
        attempt=attempt,
        repair=_chosen(ledger, ended.refinement_id if ended else None, [t.solution for t in tries]),
        tries=tries,
        direct=_chosen(ledger, ended.direct_id if ended else None, directs),
    )


def _chosen(ledger: Ledger, solution_id: str | None, found: Sequence[Solution]) -> Piece | None:
    """The solution the state names, else the last one stored."""
    solution = ledger.solution(solution_id) if solution_id else (found[-1] if found else None)
    return _piece(ledger, solution) if solution else None


def _piece(ledger: Ledger, solution: Solution) -> Piece:
    return Piece(
        solution=solution,
        verdict=ledger.verdict(solution.solution_id),
        call=ledger.call(solution.call_id) if solution.call_id else None,
    )


def known_state(state: str) -> str:
    """The state's name. Raises UserError where there is no such state."""
    name = state.strip().replace(" ", "_").replace("-", "_")
    if name not in WORDS:
        raise UserError(f"there is no state {state!r}", hint=f"The states: {', '.join(WORDS)}")
    return name
