"""The pool of a run or of ``persd tasks generate``: what was proposed, and what became of it.

Pure functions from the ledger, as all of the report. Every proposed task is in one named state, so
the funnel adds up, from the questions to the accepted tasks; how the pool was then chosen by
difficulty stands beside it. The page, the terminal and ``--json`` print these.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from persd.domains.code import task_prompt
from persd.ledger import Ledger
from persd.records import CANDIDATE_STATES, Candidate, Task
from persd.report.money import Money, Sum, money
from persd.report.plots import place
from persd.report.sets import evenly
from persd.report.text import new_table, number, share, stored_text, text_cell, usd, visible

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

ACCEPTED = "accepted"
#: Every state of a proposed task, and what it says of it; as in ``records.CandidateState``.
WORDS: Mapping[str, str] = {
    "no_task": "the reply, or a part of it, holds no task that can be read",
    "cut": "the reply ended within the task",
    "syntax": "its reference does not compile",
    "no_function": "its reference defines no function that can be a task",
    "instruction_size": "its instruction has too few words, or too many",
    "reference_size": "its reference has too few lines, or too many",
    "language": "its instruction is not English prose",
    "bad_calls": "too few calls with arguments that are plain data",
    "reference_fails": "its reference raises, or does not define what it should",
    "too_slow": "its reference runs into the limits",
    "not_plain": "its reference returns what is no plain data",
    "silent": "its reference returns None and prints nothing",
    "mutates_input": "its reference changes its arguments",
    "non_deterministic": "its reference gives other values when it is run again",
    "time_dependent": "its reference depends on the time",
    "file_dependent": "its reference uses files, the environment, input or the network",
    "constant": "all its tests expect the same",
    "stub_passes": "a function that does nothing, or gives its argument back, passes its tests",
    "weak_tests": "its tests pass too many changed copies of its reference",
    "near_duplicate": "too like a seed, or a task accepted before",
    "contaminated": "a benchmark's task again",
    "not_run": "not decided yet: waits for more calls, or could not be run",
    ACCEPTED: "in the pool",
}

#: Candidates that the page shows: accepted ones, and of each reason of a rejection.
ACCEPTED_SHOWN, REASON_SHOWN = 8, 3
#: Characters of one text of a candidate that the page shows.
TEXT_SHOWN = 20_000
#: What the acceptance is told by, as keys of a candidate's lineage.
SLICES: Mapping[str, str] = {
    "origin": "where it comes from",
    "topic": "topic",
    "difficulty": "difficulty asked for",
    "way": "way of rewriting",
}


#: How a pool was chosen by difficulty: keys of ``pool.difficulty.noted``, in words.
CHOICE: Mapping[str, str] = {
    "between": "solved now and then",
    "unknown": "not known",
    "never": "never solved",
    "always": "always solved",
    "left_out": "left out as always solved",
    "beyond": "left out by the limit",
    "taken": "taken",
}


@dataclass(frozen=True, slots=True)
class Ending:
    """The candidates that ended in one state."""

    state: str
    count: int
    usd: float | None
    """Their shares of what their replies cost. None: a price is not known."""


@dataclass(frozen=True, slots=True)
class Slice:
    """The candidates that were asked for alike."""

    name: str
    candidates: int
    accepted: int


@dataclass(frozen=True)
class Funnel:
    """From the questions for tasks to the tasks that were accepted."""

    questions: int
    """Asked, answered or not."""
    replies: int
    endings: Sequence[Ending]
    """In the order of the screening, accepted ones last; their counts add up to the candidates."""
    asked_again: int
    """Candidates for which more calls were asked."""
    paid: Sum
    """For questions, for more calls, and for what was sent in vain."""

    @cached_property
    def candidates(self) -> int:
        return sum(e.count for e in self.endings)

    @cached_property
    def accepted(self) -> int:
        return next((e.count for e in self.endings if e.state == ACCEPTED), 0)

    @property
    def usd_per_accepted(self) -> float | None:
        return self.paid.per(self.accepted)

    @property
    def usd_per_candidate(self) -> float | None:
        return self.paid.per(self.candidates)

    @cached_property
    def usd_rejected(self) -> float | None:
        """What was paid for candidates that were rejected: their shares of their replies. None: a
        price is not known."""
        found = [e.usd for e in self.endings if e.state not in (ACCEPTED, "not_run")]
        known = [u for u in found if u is not None]
        return round(sum(known), 9) if len(known) == len(found) else None


def funnel(ledger: Ledger, paid: Money | None = None) -> Funnel | None:
    """The funnel of a ledger's candidates; ``paid``: its money, where it is known already. None:
    nothing was asked and nothing proposed."""
    sql = (
        "SELECT state, COUNT(*) AS n, TOTAL(json_extract(lineage, '$.usd')) AS usd, "
        "COUNT(json_extract(lineage, '$.usd')) AS known, SUM(asked_again = 'true') AS again "
        "FROM candidates GROUP BY state"
    )
    rows = {stored_text(r["state"]): r for r in ledger.query(sql)}
    replies = _count(ledger, "calls WHERE purpose = 'task'")
    asked = replies + _count(
        ledger,
        "(SELECT DISTINCT call_id FROM tries WHERE purpose = 'task' "
        "AND call_id NOT IN (SELECT call_id FROM calls))",
    )
    if not rows and not asked:
        return None
    order = [*(s for s in CANDIDATE_STATES if s != ACCEPTED), ACCEPTED]
    groups = (paid or money(ledger)).groups
    return Funnel(
        questions=asked,
        replies=replies,
        endings=[
            Ending(s, r["n"], round(r["usd"], 9) if r["known"] == r["n"] else None)
            for s in order
            if (r := rows.get(s))
        ],
        asked_again=sum(int(r["again"] or 0) for r in rows.values()),
        paid=sum((g.sum for g in groups if g.stage in ("task", "calls")), Sum()),
    )


def _count(ledger: Ledger, what: str) -> int:
    return int(ledger.query(f"SELECT COUNT(*) AS n FROM {what}")[0]["n"])


def totals(ledger: Ledger, paid: Money | None = None) -> dict[str, Any]:
    """The pool in a few numbers, for JSON: ``questions``, ``replies``, ``candidates``, ``states``
    (they add up to the candidates), ``accepted``, ``asked_again``, ``usd``, ``usd_per_accepted``,
    ``usd_per_candidate``, ``usd_rejected`` (each None: unknown, or of none), ``usd_at_risk``; and
    as ``difficulty`` what ``pool.difficulty.noted`` gives. What there is nothing of is left out;
    ``paid``: the ledger's money, where it is known already."""
    from persd.pool.difficulty import noted

    found, difficulty = funnel(ledger, paid), noted(ledger)
    plain = {} if found is None else _plain(found)
    return plain if difficulty is None else {**plain, "difficulty": difficulty}


def _plain(found: Funnel) -> dict[str, Any]:
    return {
        "questions": found.questions,
        "replies": found.replies,
        "candidates": found.candidates,
        "states": {e.state: e.count for e in found.endings},
        "accepted": found.accepted,
        "asked_again": found.asked_again,
        "usd": found.paid.usd,
        "usd_per_accepted": found.usd_per_accepted,
        "usd_per_candidate": found.usd_per_candidate,
        "usd_rejected": found.usd_rejected,
        "usd_at_risk": found.paid.at_risk,
    }


def slices(ledger: Ledger) -> dict[str, list[Slice]]:
    """Acceptance by what was asked for, in the words of ``SLICES``; what was never asked for, or
    the same of all, is left out."""
    found = {}
    for key, words in SLICES.items():
        rows = ledger.query(
            # as bytes, for a lone surrogate is no text to SQLite
            "SELECT CAST(COALESCE(json_extract(lineage, ?), '') AS BLOB) AS name, COUNT(*) AS n, "
            "SUM(state = 'accepted') AS good FROM candidates GROUP BY 1 ORDER BY 1",
            (f"$.{key}",),
        )
        if len(rows) > 1:
            found[words] = [Slice(stored_text(r["name"]), r["n"], r["good"]) for r in rows]
    return found


# -- in the terminal ---------------------------------------------------------------------------


def _surplus_lines(ledger: Ledger, found: Funnel) -> list[tuple[str, str]]:
    """What was accepted beyond what was wanted, which only a higher count takes."""
    book = json.loads(ledger.meta("generate") or "{}")
    surplus = found.accepted - int(book.get("count", found.accepted))
    return [("of them beyond those that are wanted", number(surplus))] if surplus > 0 else []


def _money_lines(found: Funnel) -> list[tuple[str, str]]:
    if not found.paid.is_money:
        return []
    lines = [("cost", usd(found.paid.usd))]
    if found.accepted:
        lines.append(("per accepted task", usd(found.usd_per_accepted)))
    lines.append(("per candidate", usd(found.usd_per_candidate)))
    lines.append(("on rejected candidates", usd(found.usd_rejected)))
    return lines


def _difficulty_lines(ledger: Ledger) -> list[tuple[str, str]]:
    from persd.pool.difficulty import noted

    found = noted(ledger)
    if found is None:
        return []
    tried = [(f"tasks tried by {found['student']}", number(found["tasks"]))]
    return tried + [(f"  {w}", number(found[k])) for k, w in CHOICE.items() if k in found]


def print_pool(console: Console, ledger: Ledger) -> None:
    """The funnel as a table and its money as lines; nothing where there is none."""
    found = funnel(ledger)
    if found is not None:
        console.print(funnel_table(found))
        for name, value in [*_surplus_lines(ledger, found), *_money_lines(found)]:
            console.print(text_cell(f"{name}: {value}"))
    for name, value in _difficulty_lines(ledger):
        console.print(text_cell(f"{name}: {value}"))


def funnel_table(found: Funnel) -> Table:
    """Every state with its candidates, their share and what it means."""
    title = (
        f"{number(found.candidates)} candidates of {number(found.replies)} replies "
        f"to {number(found.questions)} questions"
    )
    table = new_table(title)
    table.add_column("state", no_wrap=True)
    table.add_column("candidates", justify="right", no_wrap=True)
    table.add_column("share", justify="right", no_wrap=True)
    table.add_column("meaning")
    for e in found.endings:
        name = text_cell(e.state.replace("_", " "))
        table.add_row(name, number(e.count), share(e.count, found.candidates), WORDS[e.state])
    return table


# -- on the page -------------------------------------------------------------------------------


def contents(ledger: Ledger, paid: Money) -> dict[str, Any] | None:
    """Everything the page shows of a pool, by the names ``pool.html`` uses. None: there is none."""
    from persd.pool.difficulty import noted

    found, difficulty = funnel(ledger, paid), noted(ledger)
    if found is None and difficulty is None:
        return None
    return {
        "funnel": found,
        "bars": [] if found is None else _bars(found),
        "slices": {name: _slice_bars(parts) for name, parts in slices(ledger).items()},
        "difficulty": difficulty,
        "histogram": _histogram((difficulty or {}).get("histogram") or []),
        "samples": sample(ledger),
        "words": WORDS,
    }


def _bars(found: Funnel) -> list[dict[str, Any]]:
    """A bar a state; each begins where the last ended, so that together they are all of them."""
    bars, before = [], 0
    for ending in found.endings:
        bars.append(
            {
                "ending": ending,
                "tone": {ACCEPTED: "taught", "not_run": "open"}.get(ending.state, "dropped"),
                "start": place(before, found.candidates),
                "width": place(ending.count, found.candidates),
            }
        )
        before += ending.count
    return bars


def _slice_bars(parts: Sequence[Slice]) -> list[dict[str, Any]]:
    return [{"slice": s, "width": place(s.accepted, s.candidates)} for s in parts]


def _histogram(marks: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A bar a rate, scaled to the commonest."""
    most = max((m["tasks"] for m in marks), default=0)
    return [{**m, "width": place(m["tasks"], most), "tone": _tone(m["rate"])} for m in marks]


def _tone(rate: float) -> str:
    return "known" if rate == 1 else "dropped" if rate == 0 else "taught"


@dataclass(frozen=True)
class Shown:
    """One candidate as a reader sees it."""

    candidate: Candidate
    like: Task | None = None
    """The task that it is too like, where the ledger holds it."""

    @property
    def name(self) -> str:
        task = self.candidate.task
        return self.candidate.candidate_id if task is None else task.task_id

    @property
    def facts(self) -> list[tuple[str, str]]:
        """Where it comes from, and why it ended as it did."""
        lineage = dict(self.candidate.lineage)
        seeds = lineage.get("seeds")
        found = [
            ("Why", self.candidate.detail),
            ("Origin", str(lineage.get("origin") or "")),
            ("Seeds shown", ", ".join(map(str, seeds)) if isinstance(seeds, list) else ""),
            ("Parent", str(lineage.get("parent") or "")),
            ("Way", str(lineage.get("way") or "")),
            ("Topic", str(lineage.get("topic") or "")),
            ("Difficulty asked for", str(lineage.get("difficulty") or "")),
            ("Written by", str(lineage.get("model") or "")),
            ("Call", f"{self.candidate.call_id}, task {self.candidate.place + 1} of its reply"),
            ("Its share of the cost", _share_of(lineage)),
            ("More calls", "were asked for" if self.candidate.asked_again else ""),
            ("Pass rate", self._rate),
        ]
        return [(name, value) for name, value in found if value]

    @property
    def _rate(self) -> str:
        from persd.pool.difficulty import counts_of, measured_for

        task = self.candidate.task
        found = None if task is None else counts_of(task)
        if task is None or found is None:
            return ""
        return f"{found[0]} of {found[1]} samples of {measured_for(task)}"

    @property
    def texts(self) -> list[tuple[str, str]]:
        """Titles and texts: of a task as it is in the pool, of another as it was proposed."""
        task, proposal = self.candidate.task, self.candidate.proposal
        if task is not None:
            found = [
                ("Instruction", task.instruction),
                ("Reference", task.reference or ""),
                ("Tests that may be seen", _tests(task.seen_tests)),
                ("Hidden tests", _tests(task.tests)),
            ]
        else:
            read = bool(proposal.instruction)
            found = [
                ("Instruction", proposal.instruction),
                ("Reference" if read else "The reply, or the part of it", proposal.code),
                ("Calls proposed", "\n".join(proposal.calls)),
            ]
        if self.like is not None:
            found += [
                (f"What it is like: {self.like.task_id}", task_prompt(self.like)),
                ("Its reference", self.like.reference or ""),
            ]
        return [(title, _cut(text)) for title, text in found if text]


def _share_of(lineage: Mapping[str, Any]) -> str:
    """Empty where the model costs nothing."""
    value = lineage.get("usd", 0.0)
    return usd(value) if value != 0 else ""


def _tests(tests: Sequence[Any]) -> str:
    return "\n".join(f"{t.call} == {t.expected}" for t in tests)


def _cut(text: str) -> str:
    if len(text) <= TEXT_SHOWN:
        return text
    rest = number(len(text) - TEXT_SHOWN)
    return f"{text[:TEXT_SHOWN]}\n... ({rest} more characters are in the ledger)"


def sample(ledger: Ledger) -> list[tuple[str, int, list[Shown]]]:
    """Some accepted tasks, and some candidates of each reason of a rejection, evenly spaced over
    the order in which they were decided: (state, how many there are, those shown)."""
    by_state: dict[str, list[str]] = {}
    rows = ledger.query("SELECT candidate_id, state FROM candidates ORDER BY position, rowid")
    for row in rows:
        by_state.setdefault(row["state"], []).append(row["candidate_id"])
    found = []
    for state in (ACCEPTED, *(s for s in WORDS if s != ACCEPTED)):
        ids = by_state.get(state, [])
        most = ACCEPTED_SHOWN if state == ACCEPTED else REASON_SHOWN
        shown = [c for i in evenly(ids, most) if (c := ledger.candidate(i))]
        if shown:
            found.append((state, len(ids), [Shown(c, _like(ledger, c)) for c in shown]))
    return found


def _like(ledger: Ledger, candidate: Candidate) -> Task | None:
    """The task that a candidate was found to be too like, by the name and id that its detail
    begins with (``screen.in_words``). None: the ledger does not hold it, as it does no seeds."""
    if candidate.state not in ("near_duplicate", "contaminated"):
        return None
    name, _, task_id = candidate.detail.partition(": ")[0].partition(" ")
    same = "json_extract(task, '$.task_id') = ?"
    sql = f"SELECT candidate_id FROM candidates WHERE state = 'accepted' AND {same}"
    places = "SELECT DISTINCT benchmark FROM tasks WHERE task_id = ?"
    if candidate.state == "near_duplicate":
        rows = ledger.query(sql, (visible(task_id),))
        other = ledger.candidate(rows[0]["candidate_id"]) if rows else None
        return other.task if other else None
    found = [str(row["benchmark"]) for row in ledger.query(places, (visible(task_id),))]
    # a benchmark's place is its name and what chose its tasks
    place = next((p for p in found if p.rpartition(" ")[0] == name), None)
    return None if place is None else ledger.task(task_id, place)


def settings_of(ledger: Ledger) -> dict[str, Any]:
    """What a folder's tasks were written with, as ``persd tasks generate`` keeps it; empty where
    it keeps nothing."""
    stored = ledger.meta("generate")
    book = json.loads(stored) if stored else {}
    found = book.get("settings") if isinstance(book, dict) else None
    return found if isinstance(found, dict) else {}
