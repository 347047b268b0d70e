"""The data sets of a run, what was trained on them, and how close repairs are to attempts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

from persd.ledger import Ledger
from persd.records import VARIANTS, Checkpoint

T = TypeVar("T")

#: Repairs whose closeness is computed; it takes milliseconds each.
CLOSENESS_LIMIT = 400


@dataclass(frozen=True, slots=True)
class DataSet:
    """One built data set: a variant's selection over the ledger."""

    build: str
    variant: str
    """Empty: the set holds nothing, so nothing says what it was built for."""
    rounds: tuple[int, ...]
    """Rounds its pairs come from."""
    examples: int
    tasks: int
    """Tasks with at least one example."""
    forms: Mapping[str, int]
    """Examples by prompt: ``task``, or ``refine`` (task, attempt and feedback)."""
    rejected: Mapping[str, int]
    """Pairs selected but left out, by reason."""


def data_sets(ledger: Ledger) -> list[DataSet]:
    """Every finished data set, by rounds and variant."""
    prefix = "build:"
    keys = ledger.query(
        "SELECT key FROM meta WHERE substr(key, 1, ?) = ? ORDER BY key", (len(prefix), prefix)
    )
    found = [_data_set(ledger, str(row["key"]).removeprefix(prefix)) for row in keys]
    return sorted(found, key=lambda d: (d.rounds, *_place(d.variant), d.build))


def _data_set(ledger: Ledger, build: str) -> DataSet:
    kept = ledger.query(
        "SELECT variant, round, form, task_id FROM examples WHERE build = ?", (build,)
    )
    left_out = ledger.query("SELECT variant, round, reason FROM rejected WHERE build = ?", (build,))
    rows = [*kept, *left_out]
    return DataSet(
        build=build,
        variant=", ".join(sorted({r["variant"] for r in rows})),
        rounds=tuple(sorted({r["round"] for r in rows})),
        examples=len(kept),
        tasks=len({r["task_id"] for r in kept}),
        forms=dict(sorted(Counter(r["form"] for r in kept).items(), reverse=True)),
        rejected=dict(sorted(Counter(r["reason"] for r in left_out).items())),
    )


def _place(variant: str) -> tuple[int, str]:
    return (VARIANTS.index(variant) if variant in VARIANTS else len(VARIANTS)), variant


def trained(ledger: Ledger) -> list[Checkpoint]:
    """The checkpoints of a run, by round and variant."""
    return sorted(ledger.checkpoints(), key=lambda c: (c.round, *_place(c.variant)))


@dataclass(frozen=True, slots=True)
class Closeness:
    """How alike programs are to the attempt, over tasks."""

    tasks: int
    """Tasks the means are over."""
    of: int
    """Tasks with an attempt, a verified repair and a direct answer."""
    means: Mapping[str, float]
    """As ``persd.closeness.closeness`` gives them."""


def closeness(ledger: Ledger, limit: int = CLOSENESS_LIMIT) -> Closeness | None:
    """How close verified repairs and direct answers are to the attempts, over all rounds.

    Of more than ``limit`` tasks, that many evenly spaced ones are compared. None: there is
    no task with all three programs.
    """
    from persd.closeness import closeness as means

    sql = (
        "SELECT a.solution_id AS a, r.solution_id AS r, d.solution_id AS d FROM states s "
        "JOIN solutions a ON a.solution_id = s.attempt_id AND a.code IS NOT NULL "
        "JOIN solutions r ON r.solution_id = s.refinement_id AND r.code IS NOT NULL "
        "JOIN solutions d ON d.solution_id = s.direct_id AND d.code IS NOT NULL "
        "WHERE s.state = 'refined' ORDER BY s.round, s.task_id"
    )
    rows = ledger.query(sql)
    chosen = evenly(rows, limit)
    if not chosen:
        return None
    programs = [
        (_code(ledger, x["a"]), _code(ledger, x["r"]), _code(ledger, x["d"])) for x in chosen
    ]
    return Closeness(len(chosen), len(rows), means(programs))


def _code(ledger: Ledger, solution_id: str) -> str:
    solution = ledger.solution(solution_id)
    return (solution.code or "") if solution else ""


def evenly(items: list[T], limit: int) -> list[T]:
    """At most ``limit`` of the items, evenly spaced, in their order."""
    if len(items) <= limit:
        return items
    return [items[i * len(items) // limit] for i in range(limit)]
