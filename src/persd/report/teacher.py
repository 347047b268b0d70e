"""What the teacher cost and how far its repairs held."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from persd.ledger import Ledger
from persd.report.summary import notes_of


@dataclass(frozen=True, slots=True)
class Spend:
    """Calls of one model for one purpose in one round."""

    role: str
    model: str
    purpose: str
    """``attempt``, ``direct``, ``refinement`` or ``evaluation``."""
    round: int
    """0: no round owns them (direct answers, evaluation samples)."""
    calls: int
    input_tokens: int
    output_tokens: int
    usd_known: float
    unknown: int
    """Calls whose price is not known."""

    @property
    def usd(self) -> float | None:
        return None if self.unknown else self.usd_known


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
class Teacher:
    """The teacher's part of a run."""

    calls: int
    input_tokens: int
    output_tokens: int
    usd_known: float
    unknown: int
    verified: int
    """Verified repairs that were kept, all rounds together."""
    repairs: tuple[Repairs, ...]

    @property
    def usd(self) -> float | None:
        return None if self.unknown else self.usd_known

    @property
    def usd_per_verified(self) -> float | None:
        """None: a price is unknown, or nothing was verified."""
        if self.usd is None or not self.verified:
            return None
        return self.usd / self.verified

    @property
    def returned(self) -> int:
        return sum(r.returned for r in self.repairs)

    @property
    def judged(self) -> int:
        return sum(r.judged for r in self.repairs)

    @property
    def passed(self) -> int:
        return sum(r.verified for r in self.repairs)


def spending(ledger: Ledger) -> list[Spend]:
    """All calls of a run, the teacher's first, by model, purpose and round."""
    sql = (
        "SELECT role, model, round, CASE WHEN role = 'student' AND round = 0 THEN 'evaluation' "
        "ELSE purpose END AS use, COUNT(*) AS calls, TOTAL(input_tokens) AS i, "
        "TOTAL(output_tokens) AS o, TOTAL(usd) AS usd, COUNT(*) - COUNT(usd) AS unknown "
        "FROM calls GROUP BY role, model, use, round ORDER BY role DESC, round, use, model"
    )
    return [
        Spend(
            role=r["role"],
            model=r["model"],
            purpose=r["use"],
            round=r["round"],
            calls=r["calls"],
            input_tokens=int(r["i"]),
            output_tokens=int(r["o"]),
            usd_known=round(float(r["usd"]), 9),
            unknown=r["unknown"],
        )
        for r in ledger.query(sql)
    ]


def teacher(ledger: Ledger) -> Teacher:
    """The teacher's calls, money and repairs over the whole run."""
    spent = [s for s in spending(ledger) if s.role == "teacher"]
    kept = ledger.query("SELECT COUNT(*) AS n FROM states WHERE state = 'refined'")[0]["n"]
    return Teacher(
        calls=sum(s.calls for s in spent),
        input_tokens=sum(s.input_tokens for s in spent),
        output_tokens=sum(s.output_tokens for s in spent),
        usd_known=round(sum(s.usd_known for s in spent), 9),
        unknown=sum(s.unknown for s in spent),
        verified=kept,
        repairs=repairs(ledger),
    )


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
