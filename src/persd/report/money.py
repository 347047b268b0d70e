"""The money of a run: what was paid, for what, and what came of it.

One pass over the calls and one over the tries that gave no answer, summed up by SQLite into a
few groups of what is alike; every figure the page, the terminal and ``--json`` print is a sum
of groups, so that they cannot disagree. A price that is not known makes a sum unknown (None),
never smaller. What a failed try may have cost, where nobody said, is in no sum but ``at_risk``.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

from persd.ledger import Ledger
from persd.report.text import stored_text

K = TypeVar("K", bound=Hashable)

#: What came of what was paid, in the order it is shown, in words.
FATES: Mapping[str, str] = {
    "tasks": "replies with tasks that were accepted, and more calls for them",
    "difficulty": "the student's samples that tell how hard tasks are",
    "repairs": "repairs that passed",
    "direct": "direct answers behind verified repairs",
    "spare": "direct answers that passed, of tasks without a verified repair",
    "attempts": "the student's attempts",
    "evaluation": "the student's samples in evaluations",
    "open": "calls under way, and answers not judged",
    "failed_task": "replies whose tasks were all rejected",
    "failed_refinement": "failed repairs",
    "failed_direct": "failed direct answers",
    "unusable": "unusable replies",
    "retries": "retries",
}
#: Fates of what led to no verified program.
WASTED = ("failed_task", "failed_refinement", "failed_direct", "unusable", "retries")

#: Stages that are about no task of a round.
APART = ("task", "calls", "difficulty", "evaluation")

#: Outcomes of tries that have not ended.
_UNDER_WAY = "x.outcome IN ('in_flight', 'batched')"
#: Calls or tries of an evaluation: of samples, which no round owns.
_EVALUATION = "x.role = 'student' AND x.round = 0 AND x.purpose = 'attempt'"
#: Those that a pool is made and chosen by; no round owns them, nor one task of the pool.
_POOL = "x.purpose IN ('task', 'calls', 'difficulty')"
_ROUND = f"CASE WHEN {_POOL} THEN 0 ELSE x.round END AS round"
_STAGE = f"CASE WHEN {_EVALUATION} THEN 'evaluation' ELSE x.purpose END AS stage"
# a direct answer belongs to no round; the first one asks for it
_STATES = (
    "LEFT JOIN states t ON t.task_id = x.task_id AND t.round = MAX(x.round, 1) "
    f"AND NOT ({_EVALUATION} OR {_POOL})"
)
_CANDIDATES = (
    "LEFT JOIN (SELECT call_id, MAX(state = 'accepted') AS good, MAX(state = 'not_run') AS waits, "
    "CASE WHEN COUNT(DISTINCT state) = 1 THEN MIN(state) ELSE 'several reasons' END AS reason "
    "FROM candidates GROUP BY call_id) c ON c.call_id = x.call_id"
)
_ACCEPTED = "SELECT json_extract(task, '$.task_id') FROM candidates WHERE state = 'accepted'"
_FATE = (
    f"CASE WHEN {_EVALUATION} THEN 'evaluation' WHEN x.purpose = 'difficulty' THEN 'difficulty' "
    "WHEN x.role = 'student' THEN 'attempts' "
    "WHEN x.purpose = 'task' AND c.good THEN 'tasks' "
    "WHEN x.purpose = 'task' AND (c.waits OR c.call_id IS NULL) THEN 'open' "
    # more calls are asked for by the id of the task that wants them
    f"WHEN x.purpose = 'calls' AND x.task_id IN ({_ACCEPTED}) THEN 'tasks' "
    "WHEN x.purpose IN ('task', 'calls') THEN 'failed_task' "
    "WHEN s.solution_id IS NULL THEN 'open' WHEN s.code IS NULL THEN 'unusable' "
    "WHEN v.status IS NULL THEN 'open' WHEN v.status <> 'passed' THEN 'failed_' || x.purpose "
    "WHEN x.purpose = 'refinement' THEN 'repairs' "
    "WHEN x.task_id IN (SELECT task_id FROM states WHERE state = 'refined') THEN 'direct' "
    "ELSE 'spare' END AS fate"
)
_CALLS = (
    "SELECT role, model, round, stage, fate, why, state, COUNT(*) AS calls, 0 AS tries, "
    "0 AS under_way, TOTAL(i) AS input_tokens, TOTAL(o) AS output_tokens, "
    "TOTAL(cached) AS cached_tokens, TOTAL(usd) AS usd, COUNT(*) - COUNT(usd) AS unknown, "
    "0 AS untold, 0.0 AS risk, 0 AS risk_unknown, MAX(served) AS served FROM ("
    f"SELECT x.role, x.model, {_ROUND}, {_STAGE}, t.state, x.usd, "
    "x.input_tokens AS i, x.output_tokens AS o, "
    "json_extract(x.completion, '$.usage.cached_tokens') AS cached, "
    "json_extract(x.versions, '$.endpoint') IS NOT NULL AS served, "
    f"{_FATE}, "
    "CASE WHEN x.purpose = 'task' AND NOT c.good AND NOT c.waits THEN c.reason "
    "WHEN s.solution_id IS NULL THEN '' WHEN s.code IS NOT NULL THEN COALESCE(v.status, '') "
    "WHEN s.finish = 'stop' THEN 'no code' ELSE s.finish END AS why "
    "FROM calls x LEFT JOIN solutions s ON s.task_id = x.task_id AND s.kind = x.purpose "
    "AND s.call_id = x.call_id AND x.role = 'teacher' "
    "LEFT JOIN verdicts v ON v.solution_id = s.solution_id AND v.tests = 'hidden' "
    # the limit keeps whole replies out of what is sorted into groups
    f"{_CANDIDATES} {_STATES} LIMIT -1) GROUP BY role, model, round, stage, fate, why, state"
)
_TRIES = (
    f"SELECT x.role, x.model, {_ROUND}, {_STAGE}, x.outcome AS why, t.state, "
    f"CASE WHEN {_UNDER_WAY} THEN 'open' ELSE 'retries' END AS fate, "
    f"0 AS calls, SUM(NOT {_UNDER_WAY}) AS tries, SUM({_UNDER_WAY}) AS under_way, "
    "0 AS input_tokens, 0 AS output_tokens, 0 AS cached_tokens, "
    "TOTAL(x.usd) AS usd, 0 AS unknown, "
    "SUM(x.usd IS NULL) AS untold, "
    "TOTAL(CASE WHEN x.usd IS NULL THEN x.usd_at_most END) AS risk, "
    "SUM(x.usd IS NULL AND x.usd_at_most IS NULL) AS risk_unknown, 1 AS served "
    f"FROM tries x {_STATES} GROUP BY role, model, 3, stage, why, t.state"
)


@dataclass(frozen=True, slots=True)
class Sum:
    """Calls and failed tries together: how many, their tokens, what they cost."""

    calls: int = 0
    """Those that were answered."""
    tries: int = 0
    """Those that failed; their tokens are not in the sums below."""
    under_way: int = 0
    """Those that have neither been answered nor failed."""
    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    """Part of the input."""
    usd_known: float = 0.0
    unknown: int = 0
    """Calls whose price is not known."""
    untold: int = 0
    """Tries of which nobody said what they cost."""
    at_risk_known: float = 0.0
    """What those may have cost at most."""
    at_risk_unknown: int = 0
    """Those of them whose price is not known either."""
    served: bool = False
    """An endpoint was asked."""

    @property
    def usd(self) -> float | None:
        """What was paid for certain. None: a price is not known."""
        return None if self.unknown else self.usd_known

    @property
    def at_risk(self) -> float | None:
        """None: a price is not known."""
        return None if self.at_risk_unknown else self.at_risk_known

    @property
    def asked(self) -> int:
        """Answered or not."""
        return self.calls + self.tries + self.under_way

    @property
    def is_money(self) -> bool:
        """Whether there is anything to tell: money, or an endpoint that was asked."""
        return self.served or bool(self.usd_known or self.unknown)

    def per(self, count: int) -> float | None:
        """USD of each of ``count``. None: there is none, or a price is not known."""
        return None if self.usd is None or not count else round(self.usd / count, 9)

    def __add__(self, other: Sum) -> Sum:
        return Sum(
            calls=self.calls + other.calls,
            tries=self.tries + other.tries,
            under_way=self.under_way + other.under_way,
            input_tokens=self.input_tokens + other.input_tokens,
            output_tokens=self.output_tokens + other.output_tokens,
            cached_tokens=self.cached_tokens + other.cached_tokens,
            # to a billionth, so that sums of sums are equal
            usd_known=round(self.usd_known + other.usd_known, 9),
            unknown=self.unknown + other.unknown,
            untold=self.untold + other.untold,
            at_risk_known=round(self.at_risk_known + other.at_risk_known, 9),
            at_risk_unknown=self.at_risk_unknown + other.at_risk_unknown,
            served=self.served or other.served,
        )


@dataclass(frozen=True, slots=True)
class Group:
    """Calls, or failed tries, alike in all that money is told by."""

    role: str
    model: str
    round: int
    """0: no round owns them (direct answers, evaluation samples, what makes the pool)."""
    stage: str
    """``task``, ``calls``, ``difficulty``, ``attempt``, ``direct``, ``refinement`` or
    ``evaluation``."""
    fate: str
    """One of FATES."""
    why: str
    """The judge's status; of an unusable reply how it ended; of rejected tasks why they were; of a
    try its outcome."""
    state: str
    """How the task ended the round (direct answers: the first); empty: not yet."""
    sum: Sum


@dataclass(frozen=True, slots=True)
class Spend:
    """Calls of one model for one purpose in one round."""

    role: str
    model: str
    stage: str
    round: int
    sum: Sum


@dataclass(frozen=True, slots=True)
class Part:
    """A part of the money under a name, and what it bought."""

    name: str
    sum: Sum
    count: int = 0
    """Tasks of a state; tasks with a verified repair of a round."""

    @property
    def usd_each(self) -> float | None:
        return self.sum.per(self.count)


@dataclass(frozen=True)
class Money:
    """All the money of a run, in groups."""

    groups: tuple[Group, ...]
    examples: int
    """Tasks with a verified repair, in whichever round."""
    states: Mapping[tuple[int, str], int]
    """Tasks by (round, state)."""

    @cached_property
    def all(self) -> Sum:
        return _total(self.groups)

    @cached_property
    def wasted(self) -> Sum:
        """What was paid and led to no verified program: failed repairs and direct answers,
        replies without code, tries that were billed. A student's attempts are none."""
        return _total(g for g in self.groups if g.fate in WASTED)

    @property
    def usd_per_example(self) -> float | None:
        """All that is known to be paid (not what is at risk), over the verified examples."""
        return self.all.per(self.examples)

    @cached_property
    def retries(self) -> dict[str, int]:
        """Tries that failed by outcome, most frequent first; those under way have not."""
        found = _by(self.groups, lambda g: g.why if g.fate == "retries" else None)
        counts = {outcome: s.tries for outcome, s in found.items()}
        return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))

    @property
    def teacher_calls(self) -> int:
        return _total(g for g in self.groups if g.role == "teacher").calls

    @cached_property
    def spending(self) -> list[Spend]:
        """By model, stage and round; the teacher's first."""
        found = _by(self.groups, lambda g: (g.role != "teacher", g.round, g.stage, g.model))
        return [
            Spend("student" if student else "teacher", model, stage, round, s)
            for (student, round, stage, model), s in sorted(found.items())
        ]

    @cached_property
    def fates(self) -> list[Part]:
        """Every USD once, by what came of it; fates without calls are left out."""
        found = _by(self.groups, lambda g: g.fate)
        return [Part(fate, found[fate]) for fate in FATES if fate in found]

    @cached_property
    def waste(self) -> list[tuple[str, str, Sum]]:
        """(fate, why, sum) of what was wasted, the dearest of a fate first."""
        found = _by(self.groups, lambda g: (g.fate, g.why) if g.fate in WASTED else None)
        parts = [(fate, why, s) for (fate, why), s in found.items()]
        return sorted(parts, key=lambda p: (WASTED.index(p[0]), -p[2].usd_known, -p[2].asked, p[1]))

    @cached_property
    def rounds(self) -> list[Part]:
        """Attempts and repairs of each round, and the tasks they gave a verified repair."""
        found = _by(self.groups, lambda g: g.round or None)
        taught = {r: n for (r, state), n in self.states.items() if state == "refined"}
        return [Part(str(r), found[r], taught.get(r, 0)) for r in sorted(found)]

    def of_repairs(self, model: str) -> Sum:
        """What a teacher's repairs cost, those that failed and tries without an answer too."""
        return _total(g for g in self.groups if g.stage == "refinement" and g.model == model)

    @cached_property
    def by_state(self) -> list[Part]:
        """What the tasks of each state cost, over all rounds; evaluations, and what the pool was
        made by, are left out. The dearest task first."""
        found = _by(self.groups, lambda g: (g.state or "waiting") if g.stage not in APART else None)
        tasks: dict[str, int] = {}
        for (_, state), n in self.states.items():
            tasks[state] = tasks.get(state, 0) + n
        parts = [Part(state, s, tasks.get(state, 0)) for state, s in found.items()]
        return sorted(parts, key=lambda p: (-(p.sum.usd_known / (p.count or 1)), p.name))


def money(ledger: Ledger) -> Money:
    """The money of a run so far."""
    rows = [*ledger.query(_CALLS), *ledger.query(_TRIES)]
    taught = ledger.query("SELECT COUNT(DISTINCT task_id) AS n FROM states WHERE state = 'refined'")
    states = ledger.query("SELECT round, state, COUNT(*) AS n FROM states GROUP BY round, state")
    return Money(
        groups=tuple(map(_group, rows)),
        examples=taught[0]["n"],
        states={(r["round"], r["state"]): r["n"] for r in states},
    )


def _group(row: sqlite3.Row) -> Group:
    return Group(
        role=stored_text(row["role"]),
        model=stored_text(row["model"]),
        round=row["round"],
        stage=stored_text(row["stage"]),
        fate=stored_text(row["fate"]),
        why=stored_text(row["why"]),
        state=stored_text(row["state"]),
        sum=_sum(row),
    )


def _sum(row: sqlite3.Row) -> Sum:
    return Sum(
        calls=row["calls"],
        tries=row["tries"],
        under_way=row["under_way"],
        input_tokens=int(row["input_tokens"]),
        output_tokens=int(row["output_tokens"]),
        cached_tokens=int(row["cached_tokens"]),
        usd_known=round(row["usd"], 9),
        unknown=row["unknown"],
        untold=row["untold"],
        at_risk_known=round(row["risk"], 9),
        at_risk_unknown=row["risk_unknown"],
        served=bool(row["served"]),
    )


def _total(groups: Iterable[Group]) -> Sum:
    return sum((g.sum for g in groups), Sum())


def _by(groups: Iterable[Group], key: Callable[[Group], K | None]) -> dict[K, Sum]:
    """Sums by key; a group whose key is None is left out."""
    found: dict[K, Sum] = {}
    for group in groups:
        name = key(group)
        if name is not None:
            found[name] = found.get(name, Sum()) + group.sum
    return found
