"""An experiment's results in the terminal: the paper's layout, within 80 columns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

from persd.experiment.paper import SOURCE
from persd.experiment.results import INTERVAL, LAB_NOTE, ONE_SEED
from persd.report import compared
from persd.report.tables import BELOW, BESIDE, WIDTH, say, score_cell
from persd.report.text import new_table, number, percent, text_cell, usd

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

Row = Mapping[str, Any]

#: Columns of the names of arms; longer ones are folded.
_NAME = 24
#: Columns of a figure of the paper with the space before it.
_PAPER = 6

#: Columns of a difference with its interval beside it, and below it, and the space to the next.
_POINTS_BESIDE, _POINTS_BELOW = 25, 17

POINTS = "points: difference in percent, paired by seed and task; * where the interval leaves out 0"


def print_results(console: Console, found: Mapping[str, Any]) -> None:
    """What ``page.results`` gives: what was trained, the scores, what they are compared to."""
    for (student,), arms in _grouped(found["trained"], "student"):
        console.print(arms_table(student, arms))
    for line in said_of(found["trained"]):
        say(console, line)
    for _, rows in _grouped(found["rows"], "student", "benchmark"):
        for table in score_tables(rows):
            console.print(table)
        for line in apart(rows):
            say(console, line)
    for line in closing(found["rows"]):
        say(console, line)
    tables = list(compared_tables(found["rows"]))
    for table in tables:
        console.print(table)
    if tables:
        say(console, POINTS)
    if found["lab"]:
        say(console, LAB_NOTE)


def _grouped(rows: Sequence[Row], *keys: str) -> Iterator[tuple[tuple[str, ...], list[Row]]]:
    for values, group in groupby(rows, key=lambda row: tuple(row[key] for key in keys)):
        yield values, list(group)


# ---- what was trained -------------------------------------------------------------------------


def arms_table(student: str, arms: Sequence[Row]) -> Table:
    """A row an arm: its seeds, and means over them."""
    table = new_table(f"{student}: what was trained, means over seeds")
    table.add_column("arm", overflow="fold", max_width=_NAME + 12)
    for name in ("seeds", "examples", "steps", "loss", "USD"):
        table.add_column(name, justify="right", no_wrap=True)
    for arm in arms:
        table.add_row(text_cell(arm["model"]), *_facts(arm))
    return table


def _facts(arm: Row) -> Iterator[str]:
    yield number(len(arm["seeds"]))
    if not arm["seeds"]:
        yield from ("not run", "–", "–", "–")
        return
    yield size(arm["examples"])
    yield size(arm["steps"])
    yield "–" if arm["last_loss"] is None else f"{arm['last_loss']:.3f}"
    yield _money(arm["usd"])


def size(mean: float | None) -> str:
    """A mean of counts: whole where it is whole; a dash for nothing."""
    if not mean:
        return "–"
    return number(int(mean)) if float(mean).is_integer() else f"{mean:,.1f}"


def said_of(arms: Sequence[Row]) -> list[str]:
    """A sentence for every note on an arm, and for every one that could not be run."""
    named = len({arm["student"] for arm in arms}) > 1
    lines = []
    for arm in arms:
        name = f"{arm['student']}: {arm['model']}" if named else arm["model"]
        lines += [f"{name}: not run: {why}" for why in arm["skipped"]]
        lines += [f"{name}: {note}" for note in arm["notes"]]
    return lines


# ---- scores -----------------------------------------------------------------------------------


def score_tables(rows: Sequence[Row]) -> Iterator[Table]:
    """A student's scores on one benchmark; more tables where the ks do not fit side by side."""
    ks = list(dict.fromkeys(k for row in rows for k in row["pass@k"]))
    named = {row["model"] for row in rows}
    has_steps = len({row["step"] for row in rows}) > 1
    beside = _PAPER if any("paper" in row for row in rows) else 0
    room = WIDTH - min(_NAME, max(map(len, [*named, "  resample"]))) - 6 * has_steps - 10
    gap = " " if len(ks) * (BESIDE + beside) <= room else "\n"
    fit = max(1, room // ((BESIDE if gap == " " else BELOW) + beside))
    for start in range(0, len(ks), fit):
        yield _score_table(rows, ks[start : start + fit], gap, has_steps, bool(beside))


def _score_table(
    rows: Sequence[Row], ks: Sequence[str], gap: str, has_steps: bool, has_paper: bool
) -> Table:
    table = new_table(_title(rows))
    table.add_column("arm", overflow="fold", max_width=_NAME)
    for name in [*["step"] * has_steps, "data"]:
        table.add_column(name, justify="right", no_wrap=True)
    for k in ks:
        table.add_column(f"pass@{k}", justify="right", no_wrap=True)
        if has_paper:
            table.add_column("paper", justify="right", no_wrap=True)
    for row in rows:
        step = [str(row["step"])] * has_steps
        scores = _cells(row, ks, gap, row.get("paper", {}) if has_paper else None)
        table.add_row(text_cell(row["model"]), *step, size(row["examples"]), *scores)
        if control := row.get("resample"):
            table.add_row(
                "  resample", *step, "", *_cells(control, ks, gap, {} if has_paper else None)
            )
    return table


def _cells(
    row: Row, ks: Sequence[str], gap: str, paper: Mapping[str, float] | None
) -> Iterator[str]:
    """Scores by k, each with the paper's beside it; ``paper`` None: there is no such column."""
    for k in ks:
        yield score_cell(row, k, gap)
        if paper is not None:
            yield percent(paper[k]) if k in paper else ""


def _title(rows: Sequence[Row]) -> str:
    first = rows[0]
    seeds = max(len(row["seeds"]) for row in rows)
    return (
        f"{first['benchmark']}, {first['student']}: {number(first['tasks'])} tasks, "
        f"{first['samples']} samples each, {seeds} seed{'s' * (seeds != 1)}"
    )


def closing(rows: Sequence[Row]) -> list[str]:
    """What the figures of the tables are."""
    several = any(len(row["seeds"]) > 1 for row in rows)
    lines = [f"pass@k in percent, mean over seeds, with the {INTERVAL if several else ONE_SEED}"]
    if not several:
        lines = [f"pass@k in percent, with the {ONE_SEED}"]
    if any("resample" in row for row in rows):
        lines.append(compared.RESAMPLE)
    if any("paper" in row for row in rows):
        lines.append(
            f"paper: the paper's own figure, for what it is worth beside another student: {SOURCE}"
        )
    return lines if rows else ["No arm was scored."]


def apart(rows: Sequence[Row]) -> list[str]:
    """What is part of no score, a sentence a row that has any, and what it means."""
    found = compared.apart([{**row, "round": 0} for row in rows])
    return [*found, compared.APART] if found else []


# ---- differences ------------------------------------------------------------------------------

#: What is compared to, and the key of the differences in a row.
AGAINST: Mapping[str, str] = {
    "the untrained student": "less_base",
    "the row named": "less_reference",
    "resample": "less_resample",
}


def compared_tables(rows: Sequence[Row]) -> Iterator[Table]:
    """A student's differences on a benchmark: a table for each thing compared to, more where the
    ks do not fit side by side."""
    for (student, benchmark), group in _grouped(rows, "student", "benchmark"):
        for words, key in AGAINST.items():
            found = [row for row in group if row.get(key)]
            ks = list(dict.fromkeys(k for row in found for k in row[key]))
            names = max((len(row["model"]) for row in found), default=0)
            other = max((len(row["reference"]) for row in found), default=0) if _named(key) else -2
            room = WIDTH - min(_NAME, names) - 6 - min(_NAME - 8, other) - 2
            gap = " " if len(ks) * _POINTS_BESIDE <= room else "\n"
            fit = max(1, room // (_POINTS_BESIDE if gap == " " else _POINTS_BELOW))
            for start in range(0, len(ks), fit):
                title = f"{benchmark}, {student}: less {words}, points"
                yield _compared_table(title, key, found, ks[start : start + fit], gap)


def _compared_table(
    title: str, key: str, rows: Sequence[Row], ks: Sequence[str], gap: str
) -> Table:
    table = new_table(title)
    table.add_column("arm", overflow="fold", max_width=_NAME)
    if _named(key):
        table.add_column("less", overflow="fold", max_width=_NAME - 8)
    for name in ("step", *(f"pass@{k}" for k in ks)):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        other = [text_cell(row["reference"])] if _named(key) else []
        found = (_points(row[key].get(k), gap) for k in ks)
        table.add_row(text_cell(row["model"]), *other, str(row["step"]), *found)
    return table


def _named(key: str) -> bool:
    """Whether what is compared to is another row, a row."""
    return key == "less_reference"


def _points(found: Row | None, gap: str) -> str:
    """A difference in points with its interval, a star where that leaves out 0."""
    if found is None:
        return "–"
    interval = f" ({span(found)})" if gap == " " else f"\n{span(found)}"
    return f"{compared.points(found['value'])}{'*' * found['clear']}{interval}"


def span(found: Row) -> str:
    """The interval of a difference in points."""
    return " to ".join(map(compared.points, found["interval"]))


# ---- what is to be done -----------------------------------------------------------------------


def print_plan(console: Console, found: Mapping[str, Any]) -> None:
    """What ``page.dry_run`` gives: arms and what is done of them, collections and their price."""
    table = new_table(f"{number(found['arms'])} arms, {number(found['done'])} of them done")
    table.add_column("student", overflow="fold", max_width=_NAME)
    table.add_column("arm", overflow="fold", max_width=_NAME + 12)
    table.add_column("seeds", justify="right", no_wrap=True)
    table.add_column("done", justify="right", no_wrap=True)
    for row in found["rows"]:
        counts = number(row["seeds"]), number(row["done"])
        table.add_row(text_cell(row["student"]), text_cell(row["model"]), *counts)
    console.print(table)
    console.print(_collections_table(found["collections"]))
    for line in found["notes"]:
        say(console, line)


def _collections_table(collections: Sequence[Row]) -> Table:
    table = new_table("collections, each at most")
    table.add_column("collection", overflow="fold", max_width=_NAME + 12)
    for name in ("tasks", "finished", "teacher calls", "USD spent", "at most"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in collections:
        facts = [number(row[name]) for name in ("tasks", "tasks_finished", "calls_at_most")]
        table.add_row(
            text_cell(row["name"]), *facts, _money(row["usd"]), _money(row["usd_at_most"])
        )
    return table


def _money(value: float | None) -> str:
    return usd(value).removesuffix(" USD")
