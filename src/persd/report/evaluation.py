"""What ``persd evaluate`` found, in the terminal: within 80 columns, ids in full only in JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

from persd.outcomes import APART
from persd.report.tables import BELOW, BESIDE, WIDTH, score_cell
from persd.report.text import duration, new_table, number, percent, share, text_cell, usd

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

#: Task ids of a list, and steps of a breakdown; the rest is in ``--json``.
SHOWN, STEPS_SHOWN = 10, 3
#: Columns of the first two columns of a table of scores.
_NAMES = 22


def print_evaluation(console: Console, found: Mapping[str, Any]) -> None:
    """What ``evaluating.evaluate_models`` gives: scores, what became of the samples, and the
    differences to others."""
    for _, group in groupby(found["rows"], key=lambda row: row["benchmark"]):
        rows = list(group)
        first = rows[0]
        each = "1 sample" if first["samples"] == 1 else f"{number(first['samples'])} samples"
        size = f"{number(first['tasks'])} tasks, {each} each"
        _head(console, f"{first['benchmark']}: {found['model']}; {size}")
        for table in score_tables(rows, list(map(str, found["k"]))):
            console.print(table)
        _head(console, f"{first['benchmark']}: what became of the samples")
        console.print(outcome_table(rows))
        for row in rows:
            for line in apart_lines(row, found["k"], several=len(rows) > 1):
                _say(console, line)
    if found["rows"]:
        console.print(_NOTE, style="dim")
    for (other, benchmark), group in groupby(found["differences"], key=_pair):
        print_differences(console, found["model"], other, benchmark, list(group))


def closing(found: Mapping[str, Any]) -> str:
    """The last line: time, and what the folder holds by now."""
    calls = f"{number(found['calls'])} calls for {usd(found['usd'])}"
    return f"{duration(found['seconds'])}; {found['out']} holds {calls}, samples and results.json"


_NOTE = "pass@k in percent, with the 95 % bootstrap interval over tasks"


def _pair(difference: Mapping[str, Any]) -> tuple[str, str]:
    return difference["against"], difference["benchmark"]


def _say(console: Console, text: str) -> None:
    console.print(text_cell(text), width=min(WIDTH, console.width))


def _head(console: Console, text: str) -> None:
    """A table's title, which a narrow table would break."""
    console.print(text_cell(text), style="bold", width=min(WIDTH, console.width))


# ---- scores -----------------------------------------------------------------------------------


def score_tables(rows: Sequence[Mapping[str, Any]], ks: Sequence[str]) -> list[Table]:
    """One benchmark: a row a step, below a later one its control and the difference to it; more
    tables where the ks do not fit beside each other."""
    room = WIDTH - _NAMES
    gap = " " if len(ks) * BESIDE <= room else "\n"
    fit = max(1, room // (BESIDE if gap == " " else BELOW))
    return [_score_table(rows, ks[start : start + fit], gap) for start in range(0, len(ks), fit)]


def _score_table(rows: Sequence[Mapping[str, Any]], ks: Sequence[str], gap: str) -> Table:
    table = _untitled()
    table.add_column("step", no_wrap=True)
    for name in ["calls", *(f"pass@{k}" for k in ks)]:
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        scores = [score_cell(row, k, gap) for k in ks]
        table.add_row(str(row["step"]), number(row["calls"]), *scores)
        if control := row.get("resample"):
            scores = [score_cell(control, k, gap) for k in ks]
            table.add_row("  resample", number(control["calls"]), *scores)
            less = row["less_resample"]
            table.add_row("  difference", "", *(_difference(less.get(k), gap) for k in ks))
    return table


def _difference(found: Mapping[str, Any] | None, gap: str) -> str:
    """A difference in points and its interval."""
    if found is None:
        return "–"
    low, high = (_signed(bound) for bound in found["interval"])
    interval = f" ({low} to {high})" if gap == " " else f"\n{low} to {high}"
    return f"{_signed(found['value'])}{interval}"


def _untitled() -> Table:
    table = new_table("")
    table.title = None
    return table


def _signed(fraction: float) -> str:
    return f"{100 * fraction:+.1f}"


# ---- what became of the samples ---------------------------------------------------------------


def outcome_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Samples in the score by outcome, a column a step; of many steps the first and the last."""
    shown = list(rows) if len(rows) <= STEPS_SHOWN else [*rows[: STEPS_SHOWN - 1], rows[-1]]
    table = _untitled()
    table.add_column("outcome", overflow="fold")
    for row in shown:
        name = f"step {row['step']}" if len(rows) > 1 else "samples"
        table.add_column(name, justify="right", no_wrap=True)
        table.add_column("share", justify="right", no_wrap=True)
    names = dict.fromkeys(o for row in reversed(shown) for o in row["outcomes"] if o not in APART)
    for name in names:
        cells: list[str] = []
        for row in shown:
            count = row["outcomes"].get(name, 0)
            cells += [number(count), share(count, _judged(row))]
        table.add_row(text_cell(name), *cells)
    return table


def _judged(row: Mapping[str, Any]) -> int:
    """Samples that are part of the score."""
    return sum(n for outcome, n in row["outcomes"].items() if outcome not in APART)


def apart_lines(row: Mapping[str, Any], ks: Sequence[int], *, several: bool) -> list[str]:
    """What is no part of the score: samples cut short or not run, tasks left out. ``several``:
    there are other steps, so each line says its own."""
    at = f"step {row['step']}: " if several else ""
    of = f"of {number(sum(row['outcomes'].values()))} samples"
    lines = []
    if row["truncated"]:
        worst = row.get("truncated_as_wrong", {}).items()
        scores = ", ".join(f"pass@{k} {percent(score)}" for k, score in worst)
        lines.append(
            f"{at}truncated: {number(row['truncated'])} {of}, part of no score; taken for wrong: "
            f"{scores}"
        )
    if row["not_run"]:
        lines.append(f"{at}not run: {number(row['not_run'])} {of}, part of no score")
    for k, count in row["left_out"].items():
        if count:
            tasks = f"{number(count)} of {number(row['tasks'])} tasks"
            lines.append(f"{at}pass@{k} leaves out {tasks}, which have fewer samples in the score")
    for k in ks:
        if str(k) not in row["pass@k"]:
            lines.append(f"{at}there is no pass@{k}: no task has {k} samples in the score")
    return lines


# ---- beside others ----------------------------------------------------------------------------


def print_differences(
    console: Console, model: str, other: str, benchmark: str, found: Sequence[Mapping[str, Any]]
) -> None:
    """One model less another on one benchmark, and which tasks that solves and loses."""
    _head(console, f"{benchmark}: {model} less {other}, in points of pass@k")
    console.print(difference_table(found))
    by_step = {d["step"]: d for d in reversed(found)}
    for step, d in sorted(by_step.items()):
        at = f"step {step}: " if len(by_step) > 1 else ""
        for name in ("newly_solved", "newly_lost"):
            _say(console, f"{at}{name.replace('_', ' ')}: {_listed(d[name])}")


def difference_table(found: Sequence[Mapping[str, Any]]) -> Table:
    """The paired differences by step and k, in points."""
    table = _untitled()
    for name in ("step", "k", "difference", "tasks", "newly solved", "newly lost", "clear"):
        table.add_column(name, justify="right", no_wrap=True)
    for d in found:
        changed = [number(len(d[name])) for name in ("newly_solved", "newly_lost")]
        clear = "yes" if d["clear"] else "no"
        score = _difference(d, " ")
        table.add_row(str(d["step"]), str(d["k"]), score, number(d["tasks"]), *changed, clear)
    return table


def _listed(ids: Sequence[str]) -> str:
    if not ids:
        return "none"
    more = f", and {number(len(ids) - SHOWN)} more" if len(ids) > SHOWN else ""
    return f"{', '.join(ids[:SHOWN])}{more}"
