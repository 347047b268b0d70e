"""What a run amounts to: pure functions from its ledger to counts.

The page, the terminal and ``--json`` all print these, so that they cannot disagree. Only the
ledger is read; a run that is still being written gives what it holds so far.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from persd.ledger import Ledger
from persd.outcomes import error_type
from persd.report.money import Money, Spend, Sum, money
from persd.report.text import stored_text, usd

#: State of a task that no stage has ended in this round yet.
WAITING = "waiting"

#: Every state in the order of the flow, and what it says of a task.
WORDS: Mapping[str, str] = {
    "contaminated": "a near-twin of a task it is evaluated on: kept out of training",
    "untested": "no test can judge it",
    "bad_task": "its own reference fails its own tests",
    "direct_failed": "the teacher's direct answer does not pass: not in the pool",
    "too_long": "the prompt does not fit the student's context",
    "not_attempted": "the student's endpoint does not take the question, or refuses it",
    "solved": "the student's attempt passed: nothing to teach",
    "refused": "the tests refused every repair",
    "teacher_failed": "no code in the teacher's replies, or it gave up",
    "over_budget": "the cap left no room for the next call; more money goes on",
    "unavailable": "the model did not answer; the next run asks again",
    "not_run": "the judge could not run it; the next run tries again",
    WAITING: "not finished yet",
    "refined": "a repair of the student's own attempt passed: it teaches",
}


@dataclass(frozen=True, slots=True)
class Funnel:
    """One round: every task in exactly one state."""

    round: int
    tasks: int
    states: Mapping[str, int]
    """Tasks by state, in the order of the flow, states without a task left out; the counts
    add up to ``tasks``."""


def funnel(ledger: Ledger, round: int) -> Funnel:
    """The states of the pool's tasks in one round; a task without one is ``waiting``."""
    sql = (
        "SELECT COALESCE(s.state, ?) AS state, COUNT(*) AS n FROM tasks t "
        "LEFT JOIN states s ON s.task_id = t.task_id AND s.round = ? "
        "WHERE t.benchmark = '' GROUP BY 1"
    )
    found = {r["state"]: r["n"] for r in ledger.query(sql, (WAITING, round))}
    states = {state: found[state] for state in WORDS if state in found}
    return Funnel(round, sum(states.values()), states)


def funnels(ledger: Ledger) -> list[Funnel]:
    """A funnel a round; round 1, all waiting, for a run that has not begun."""
    return [funnel(ledger, round) for round in ledger.rounds() or [1]]


# -- what goes wrong in attempts ------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ErrorTypes:
    """Why the student's attempts of one round fail."""

    round: int
    attempts: int
    """Attempts that were judged."""
    failing: int
    types: Mapping[str, int]
    """Failing attempts by the type of their first error, most frequent first."""
    statuses: Mapping[str, int]
    """Failing attempts by the judge's status, most frequent first."""


def error_types(ledger: Ledger) -> list[ErrorTypes]:
    """Error types of the training pool's attempts, a round each."""
    sql = (
        "SELECT s.round, s.code IS NULL AS no_code, v.status, v.results FROM solutions s "
        "JOIN verdicts v ON v.solution_id = s.solution_id AND v.tests = 'hidden' "
        "WHERE s.kind = 'attempt' AND s.benchmark = '' ORDER BY s.round, s.rowid"
    )
    attempts: Counter[int] = Counter()
    types: dict[int, Counter[str]] = {}
    statuses: dict[int, Counter[str]] = {}
    for row in ledger.query(sql):
        round = row["round"]
        attempts[round] += 1
        if row["status"] != "passed":
            kind = "no code" if row["no_code"] else _error_type(row["status"], row["results"])
            types.setdefault(round, Counter())[kind] += 1
            statuses.setdefault(round, Counter())[row["status"]] += 1
    return [
        ErrorTypes(
            round=round,
            attempts=attempts[round],
            failing=sum(statuses.get(round, Counter()).values()),
            types=_most_first(types.get(round, Counter())),
            statuses=_most_first(statuses.get(round, Counter())),
        )
        for round in sorted(attempts)
    ]


def _error_type(status: str, results: str) -> str:
    failing = (r["error_type"] for r in json.loads(results) if r["status"] in ("failed", "error"))
    return error_type(status, next(failing, None))


def released_error_types(ledger: Ledger) -> dict[str, int]:
    """Error types in the feedback that the paper's release prints, by tasks that carry it.

    Empty for a run on other tasks.
    """
    found: Counter[str] = Counter()
    for task in ledger.tasks():
        text = task.meta.get("feedback")
        if isinstance(text, str) and text.strip():
            found[text.split("\n", 1)[0].split(":", 1)[0].strip()] += 1
    return _most_first(found)


def _most_first(counts: Counter[str]) -> dict[str, int]:
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


# -- the whole in a few numbers -------------------------------------------------------------


def totals(ledger: Ledger, paid: Money | None = None) -> dict[str, Any]:
    """The run so far in a few numbers, all its processes together; ``paid``: where it is known.

    Keys: ``tasks``; ``rounds`` begun; ``states`` of the latest round (they add up to
    ``tasks``); ``examples``: tasks with a verified repair, in whichever round; ``calls``
    that were answered by the teacher and by a served student; ``input_tokens``,
    ``output_tokens`` and ``cached_tokens`` (part of the input) of those calls.

    Money: ``usd`` known to be paid, failed tries that were billed included, None
    where a price is unknown, with ``usd_text`` in words; ``usd_at_risk``: what other tries may
    have cost at most because nobody told, in no other figure, None where a price is unknown;
    ``usd_wasted``, part of ``usd``: paid and led to no verified program; ``usd_per_example``:
    ``usd`` over ``examples``, None where there is none; ``retries``: tries that failed, by
    outcome; ``usd_by``: rows whose ``usd`` add up to ``usd``, with ``stage``, ``round`` (0:
    of no round), ``role``, ``model``, ``calls``, ``tries`` (that failed), tokens. Where the pool
    was written or chosen, ``pool``: ``report.pool.totals``.
    """
    from persd.report import pool

    paid = paid or money(ledger)
    made = pool.totals(ledger, paid)
    latest = funnels(ledger)[-1]
    roles = ["teacher", "student"] if _student_is_served(ledger) else ["teacher"]
    spent = sum((s.sum for s in paid.spending if s.role in roles), Sum())
    return {
        "tasks": latest.tasks,
        "rounds": len(ledger.rounds()),
        "states": dict(latest.states),
        "examples": paid.examples,
        "calls": spent.calls,
        "usd": paid.all.usd,
        "usd_text": money_text(paid.all.usd_known, paid.all.unknown),
        "input_tokens": spent.input_tokens,
        "output_tokens": spent.output_tokens,
        "cached_tokens": spent.cached_tokens,
        "usd_at_risk": paid.all.at_risk,
        "usd_wasted": paid.wasted.usd,
        "usd_per_example": paid.usd_per_example,
        "retries": paid.retries,
        "usd_by": [_spend_row(s) for s in paid.spending],
        **({"pool": made} if made else {}),
    }


def _spend_row(spend: Spend) -> dict[str, Any]:
    return {
        "stage": spend.stage,
        "round": spend.round,
        "role": spend.role,
        "model": spend.model,
        "calls": spend.sum.calls,
        "tries": spend.sum.tries,
        "input_tokens": spend.sum.input_tokens,
        "output_tokens": spend.sum.output_tokens,
        "cached_tokens": spend.sum.cached_tokens,
        "usd": spend.sum.usd,
    }


def money_text(known: float, unknown_calls: int) -> str:
    """What was spent, in words: ``0.1234 USD``, and how many calls have no known price."""
    if not unknown_calls:
        return usd(known)
    calls = f"{unknown_calls} call{'s' * (unknown_calls != 1)} at an unknown price"
    return f"{usd(known)} and {calls}" if known else calls


def config_of(ledger: Ledger) -> dict[str, Any]:
    """The config the run was made with, as plain data; empty where none is stored."""
    stored = ledger.meta("config")
    config = json.loads(stored) if stored else {}
    return config if isinstance(config, dict) else {}


def is_lab(ledger: Ledger) -> bool:
    """Whether the run's tasks are of the embedded toy family, made or written."""
    config = config_of(ledger)
    tasks = config.get("tasks") or {}
    written = tasks.get("generate")
    if not written:
        return bool(tasks.get("source") == "lab")
    teachers = config.get("teacher") or []
    return [t.get("model") for t in teachers[written.get("author", 0) :]][:1] == ["lab"]


def _student_is_served(ledger: Ledger) -> bool:
    return bool((config_of(ledger).get("student") or {}).get("base_url"))


def notes_of(value: Any) -> str:
    """The kind of a repair, as its author names it: the words before the note's first colon."""
    first, colon, _ = stored_text(value).split(";", 1)[0].partition(":")
    return first.strip() if colon and len(first) <= 40 else ""
