"""How far the teacher's repairs held: by kind, by try, by teacher."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from persd.ledger import Ledger
from persd.report.money import Money, Sum
from persd.report.summary import notes_of
from persd.report.text import stored_text


@dataclass(frozen=True, slots=True)
class Repairs:
    """Repairs of one kind, as the teacher names it."""

    kind: str
    """Empty: the teacher says nothing of them."""
    returned: int
    """All of them, with code or without, later tries of the same repair too."""
    verified: int
    """Those that the hidden tests passed."""
    not_judged: int
    """Those without a verdict: there is no test, or not yet."""

    @property
    def judged(self) -> int:
        return self.returned - self.not_judged


@dataclass(frozen=True, slots=True)
class Try:
    """One teacher's repairs made at one try, over all rounds."""

    number: int
    """1: the first; counted on from teacher to teacher of a cascade."""
    model: str
    returned: int
    judged: int
    passed: int
    closeness: float | None
    """Mean similarity to the attempt, 0-1; None: of no repair it is known."""
    closeness_passed: float | None
    """The same of those that passed."""


@dataclass(frozen=True, slots=True)
class Teacher:
    """The teacher's repairs of a run, several teachers of a cascade together."""

    repairs: tuple[Repairs, ...]
    tries: tuple[Try, ...]
    """In the order they are made."""
    tasks: int
    """Tasks with a repair, in each round anew."""

    @property
    def returned(self) -> int:
        return sum(r.returned for r in self.repairs)

    @property
    def judged(self) -> int:
        return sum(r.judged for r in self.repairs)

    @property
    def passed(self) -> int:
        return sum(r.verified for r in self.repairs)


@dataclass(frozen=True, slots=True)
class Place:
    """One teacher of the cascade."""

    model: str
    returned: int
    settled: int
    """Tasks it repaired, in each round anew."""
    repairs: Sum
    """What its repairs cost, failed ones and failed tries included."""

    @property
    def usd_each(self) -> float | None:
        """USD of a task it settled. None: there is none, or a price is not known."""
        return self.repairs.per(self.settled)


def teacher(ledger: Ledger) -> Teacher:
    """The teacher's repairs over the whole run."""
    sql = (
        "SELECT COUNT(*) AS n FROM (SELECT DISTINCT task_id, round FROM solutions "
        "WHERE kind = 'refinement' AND benchmark = '')"
    )
    return Teacher(repairs(ledger), tries(ledger), ledger.query(sql)[0]["n"])


def tries(ledger: Ledger) -> tuple[Try, ...]:
    """Repairs by the number of their try and by who made them."""
    sql = (
        "SELECT s.attempt, s.author, COUNT(*) AS returned, COUNT(v.status) AS judged, "
        "COUNT(CASE WHEN v.status = 'passed' THEN 1 END) AS passed, AVG(s.closeness) AS near, "
        "AVG(CASE WHEN v.status = 'passed' THEN s.closeness END) AS near_passed "
        "FROM solutions s LEFT JOIN verdicts v "
        "ON v.solution_id = s.solution_id AND v.tests = 'hidden' "
        "WHERE s.kind = 'refinement' AND s.benchmark = '' "
        "GROUP BY s.attempt, s.author ORDER BY s.attempt, s.author"
    )
    return tuple(
        Try(
            number=r["attempt"],
            model=stored_text(r["author"]),
            returned=r["returned"],
            judged=r["judged"],
            passed=r["passed"],
            closeness=r["near"],
            closeness_passed=r["near_passed"],
        )
        for r in ledger.query(sql)
    )


def cascade(found: Sequence[Try], paid: Money) -> list[Place]:
    """The teachers in the order they are asked, with what their repairs cost."""
    places = []
    for model in dict.fromkeys(t.model for t in found):
        mine = [t for t in found if t.model == model]
        places.append(
            Place(
                model=model,
                returned=sum(t.returned for t in mine),
                settled=sum(t.passed for t in mine),
                repairs=paid.of_repairs(model),
            )
        )
    return places


def repairs(ledger: Ledger) -> tuple[Repairs, ...]:
    """Every repair returned, by kind: a try that failed and was made again counts too."""
    sql = (
        "SELECT s.note, v.status FROM solutions s LEFT JOIN verdicts v "
        "ON v.solution_id = s.solution_id AND v.tests = 'hidden' "
        "WHERE s.kind = 'refinement' AND s.benchmark = '' ORDER BY s.rowid"
    )
    by_kind: dict[str, list[str | None]] = {}
    for row in ledger.query(sql):
        by_kind.setdefault(notes_of(row["note"]), []).append(row["status"])
    found = [_repairs(kind, statuses) for kind, statuses in by_kind.items()]
    return tuple(sorted(found, key=lambda r: (-r.returned, r.kind)))


def _repairs(kind: str, statuses: Sequence[str | None]) -> Repairs:
    return Repairs(kind, len(statuses), statuses.count("passed"), statuses.count(None))
