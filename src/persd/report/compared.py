"""What a score is compared to, and what is part of no score: rows and words for all who show it.

Everything is taken from the rows of ``results``; nothing is computed anew.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from persd.report.text import number, percent

#: What is compared to, and the key of the differences in a row of the results.
AGAINST: Mapping[str, str] = {"base": "less_base", "resample": "less_resample"}

#: What the names in tables of scores and differences mean.
RESAMPLE = "resample: the samples whose seen tests fail, drawn anew from the task alone"
POINTS = (
    "points: difference in percent, paired by task, with its 95 % bootstrap interval over tasks; "
    "clear: the interval leaves out 0; solved, lost: tasks that only the one, or only the other, "
    "passes with any sample"
)
APART = (
    "samples truncated (cut at max_tokens within the program) or not run (our trouble, not the "
    "model's) are part of no score, nor are tasks with fewer than k others"
)


@dataclass(frozen=True, slots=True)
class Comparison:
    """One score less another, of the same benchmark and tasks."""

    row: Mapping[str, Any]
    """Whose score: a row of the results."""
    against: str
    """``base`` (at the same step) or ``resample``."""
    k: str
    value: float
    """Difference in pass@k, -1 to 1."""
    interval: tuple[float, float]
    clear: bool
    """Whether the interval leaves out 0."""
    newly_solved: int
    """Tasks none of the other's samples passes, and one of this one's does."""
    newly_lost: int
    """The reverse."""

    @property
    def points(self) -> str:
        """The difference in points of percent: ``+2.0``."""
        return points(self.value)

    @property
    def span(self) -> str:
        """Its interval in points: ``-1.0 to +5.0``."""
        return " to ".join(map(points, self.interval))


def comparisons(rows: Sequence[Mapping[str, Any]], against: str) -> list[Comparison]:
    """Every difference the rows hold to ``base`` or to ``resample``; a row a k, in their order."""
    return [
        Comparison(
            row=row,
            against=against,
            k=k,
            value=found["value"],
            interval=(found["interval"][0], found["interval"][1]),
            clear=found["clear"],
            newly_solved=found["newly_solved"],
            newly_lost=found["newly_lost"],
        )
        for row in rows
        for k, found in row.get(AGAINST[against], {}).items()
    ]


def points(fraction: float) -> str:
    """A difference of fractions in points of percent, with its sign; nothing has none."""
    value = round(100 * fraction, 1)
    return f"{value:+.1f}" if value else "0.0"


def names(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The keys, ``round`` and ``step``, that tell apart the rows of a model on one benchmark."""
    rounds = {r["round"] for r in rows if r["model"] != "base"}
    steps = {r["step"] for r in rows}
    return ["round"] * (len(rounds) > 1) + ["step"] * (len(steps) > 1)


def name_of(row: Mapping[str, Any], told_apart_by: Sequence[str]) -> str:
    """A row in words: ``persd, round 2, step 1``, as far as ``names`` needs it."""
    parts = [f"{name} {row[name]}" for name in told_apart_by if row[name]]
    return ", ".join([row["model"], *parts])


def apart(rows: Sequence[Mapping[str, Any]], brief: bool = False) -> list[str]:
    """A sentence a row that has samples or tasks in no score; none where there are none.

    ``brief``: what the truncated would make of the score at the least k alone.
    """
    told_apart_by = names(rows)
    said = [(name_of(row, told_apart_by), ", ".join(_apart(row, brief))) for row in rows]
    return [f"{name}: {words}" for name, words in said if words]


def _apart(row: Mapping[str, Any], brief: bool) -> Iterator[str]:
    if row["truncated"]:
        worst = list(row.get("truncated_as_wrong", {}).items())[: 1 if brief else None]
        scores = ", ".join(f"pass@{k} {percent(value)}" for k, value in worst)
        taken = f" (taken for wrong: {scores})" if worst else ""
        yield f"{number(row['truncated'])} truncated{taken}"
    if row["not_run"]:
        yield f"{number(row['not_run'])} not run"
    for k, tasks in row["left_out"].items():
        if tasks:
            yield f"{number(tasks)} task{'s' * (tasks != 1)} not in pass@{k}"
