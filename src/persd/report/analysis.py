"""What ``persd.analysis`` found, in the terminal: within 80 columns, the largest rows first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from persd.likeness import MEASURES
from persd.report import compared
from persd.report.compared import points
from persd.report.tables import say, score_cell
from persd.report.text import new_table, number, percent, share, text_cell

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

#: Rows of a table of outcomes or classes; the rest is in ``--json``.
SHOWN = 8


def print_analysis(console: Console, found: Mapping[str, Any]) -> None:
    """The sections of ``persd.analysis.analyze``; what is empty is left out or said."""
    labels = found["labels"]
    if labels["variants"]:
        console.print(labels_table(labels))
        _say_left_out(console, labels)
    if labels["note"]:
        say(console, f"No nats per token: {labels['note']}")
    for attempts in found["attempts"]:
        if attempts["types"]:
            console.print(attempts_table(attempts))
    for row in found["mistakes"]:
        console.print(outcomes_table(row))
        console.print(classes_table(row))
        _say_more(console, row)
    if found["mistakes"]:
        say(console, CLASSES)
    else:
        say(
            console, "No scores of a trained student and of the base, with their samples' outcomes."
        )
    print_overlap(console, found["overlap"])


def print_overlap(console: Console, found: Mapping[str, Any]) -> None:
    """The section ``overlap``: what is overlapped, the scores on the rest, what is not there."""
    if found["benchmarks"]:
        console.print(overlap_table(found))
        say(console, OVERLAP)
    for name, row in found["benchmarks"].items():
        if row["clean"]["models"]:
            console.print(clean_table(name, row))
    if any(row["clean"]["models"] for row in found["benchmarks"].values()):
        say(console, CLEAN)
    for name, why in found["notes"].items():
        say(console, f"Training tasks are not held against {name}: {why}.")


def overlap_table(found: Mapping[str, Any]) -> Table:
    """A row a benchmark: how much of it the training tasks overlap, and by which measure."""
    table = new_table(f"Overlap of {number(found['train_tasks'])} training tasks with benchmarks")
    table.add_column("benchmark", overflow="fold")
    for name in ("tasks", "touched", "flagged", *MEASURES):
        table.add_column(name, justify="right", no_wrap=True)
    for name, row in found["benchmarks"].items():
        counts = row["tasks"], len(row["touched"]), row["flagged"], *row["by_measure"].values()
        table.add_row(text_cell(name), *map(number, counts))
    return table


def clean_table(name: str, row: Mapping[str, Any]) -> Table:
    """One benchmark's scores, whole and on its clean tasks: a row a model and k."""
    models = row["clean"]["models"]
    places = compared.names(models)
    # two lines where round and step leave no room beside each other
    gap = "\n" if places else " "
    tasks = f"{number(row['clean']['tasks'])} of {number(row['tasks'])} tasks are clean"
    table = new_table(f"{name}: {tasks}, pass@k in %")
    table.add_column("model", overflow="fold")
    for column in (*places, "k", "whole", "clean", "clean, less base"):
        table.add_column(column, justify="right", no_wrap=True)
    for model in models:
        where = [str(model[n] or "–") for n in places]
        for k in model["whole"]["pass@k"]:
            scores = (score_cell(model[part], k, gap) for part in ("whole", "clean"))
            less = _less(model.get("less_base", {}).get(k), gap)
            table.add_row(text_cell(model["model"]), *where, k, *scores, less)
    return table


def labels_table(labels: Mapping[str, Any]) -> Table:
    """A row a variant: how close its labels are to attempts, and how likely to the student."""
    student = f" (nats under {labels['student']})" if labels["student"] else ""
    table = new_table(f"Labels and the student's own attempts{student}")
    table.add_column("variant", no_wrap=True)
    table.add_column("examples", justify="right", no_wrap=True)
    table.add_column("similarity", justify="right", no_wrap=True)
    table.add_column("nats per token", justify="right", no_wrap=True)
    for row in labels["variants"]:
        table.add_row(
            text_cell(row["variant"]),
            number(row["examples"]),
            _measured(row["similarity"], row["similarity_interval"]),
            _measured(row["nats_per_token"], row["nats_interval"]),
        )
    return table


def _say_left_out(console: Console, labels: Mapping[str, Any]) -> None:
    """The examples no figure is of, by variant and reason; nothing where there is none."""
    parts = [
        f"{number(n)} {reason.replace('_', ' ')} of {row['variant']}"
        for row in labels["variants"]
        for reason, n in row["left_out"].items()
    ]
    if parts:
        say(console, f"Left out: {', '.join(parts)}.")


def attempts_table(found: Mapping[str, Any]) -> Table:
    """A row an error type of the pool's attempts: how many were repaired, and how."""
    failing = f"{number(found['failing'])} of {number(found['attempts'])} attempts fail"
    table = new_table(f"Round {found['round']}: {failing}")
    table.add_column("first error", overflow="fold")
    for name in ("attempts", "refined", "share"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("repairs")
    for row in found["types"]:
        repairs = [f"{number(n)} {kind}" for kind, n in row["repairs"].items() if kind]
        counts = number(row["attempts"]), number(row["refined"])
        part = share(row["refined"], row["attempts"])
        table.add_row(text_cell(row["type"]), *counts, part, text_cell(", ".join(repairs) or "–"))
    return table


def outcomes_table(found: Mapping[str, Any]) -> Table:
    """A row an outcome: its share of a task's samples before and after the training."""
    table = new_table(f"{_trained(found)}: outcomes, %")
    table.add_column("outcome", overflow="fold")
    for name in ("base", "trained", "change"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in found["outcomes"][:SHOWN]:
        shares = percent(row["before"]), percent(row["after"])
        change = _change(row["change"], row["change_interval"])
        table.add_row(text_cell(row["outcome"]), *shares, change)
    return table


def classes_table(found: Mapping[str, Any]) -> Table:
    """A row a class of the base's samples: what its tasks come to after the training."""
    table = new_table(f"{_trained(found)}: by the base's outcome, %")
    table.add_column("base's sample", overflow="fold")
    for name in ("tasks", "solved", "then", "change", "again", "then", "part"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in found["classes"][:SHOWN]:
        table.add_row(
            text_cell(row["class"]),
            f"{row['weight']:.1f}",
            percent(row["solved_before"]),
            percent(row["solved_after"]),
            _change(row["change"], row["change_interval"]),
            percent(row["again_before"]),
            percent(row["again_after"]),
            points(row["contribution"]),
        )
    return table


def _trained(found: Mapping[str, Any]) -> str:
    tasks = f"{number(found['tasks'])} task{'s' * (found['tasks'] != 1)}"
    return f"{found['model']}, round {found['round']}, {found['benchmark']} ({tasks})"


def _say_more(console: Console, found: Mapping[str, Any]) -> None:
    """What the tables of one student leave out, in a line; nothing where that is nothing."""
    rows = max(len(found["outcomes"]), len(found["classes"])) - SHOWN
    apart = Counter(found["apart"]["before"]) + Counter(found["apart"]["after"])
    parts = [f"{number(n)} samples {kind.replace('_', ' ')}" for kind, n in apart.items()]
    if not found["paired"]:
        say(console, "The samples themselves are not at hand: taken to be drawn independently.")
    if found["left_out"]:
        parts.append(f"{number(found['left_out'])} tasks not judged on both sides")
    if rows > 0:
        parts.append(f"{number(rows)} rarer outcomes not shown (--json has them)")
    if parts:
        say(console, f"Left out: {', '.join(parts)}.")


def _measured(value: float | None, interval: Sequence[float] | None) -> str:
    if value is None or interval is None:
        return "–"
    return f"{value:.3f} ({interval[0]:.3f}–{interval[1]:.3f})"


def _change(value: float | None, interval: Sequence[float] | None, gap: str = " ") -> str:
    """A difference of fractions in points of percent, with its interval."""
    if value is None or interval is None:
        return "–"
    return f"{points(value)}{gap}({points(interval[0])} to {points(interval[1])})"


def _less(found: Mapping[str, Any] | None, gap: str) -> str:
    """A difference as in the results; a dash where there is none."""
    if found is None:
        return "–"
    return _change(found["value"], found["interval"], gap)


CLASSES = (
    "tasks: how many one sample each of the base would put there. solved, then: how often other "
    "samples of the base, and those of the trained student, pass on them; again: end in the same "
    "way. part: of the change in pass@1. A task is solved, which does not say that the mistake "
    "was mended. Brackets: 95 % bootstrap interval over tasks."
)
OVERLAP = (
    "touched: tasks of the benchmark that a training task overlaps; flagged: training tasks that "
    "overlap one; then pairs, by the measure that says it loudest (--json has the pairs)."
)
CLEAN = (
    "clean: on the tasks that no training task overlaps; its difference to the base is paired by "
    "task. Brackets: 95 % bootstrap interval over tasks."
)
