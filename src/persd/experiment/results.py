"""The rows of an experiment's tables: an arm over its seeds, beside what it is compared to.

A row is a student's arm on one benchmark at one step. Its score is the mean over seeds, with an
interval over seeds and tasks; beside it stand the blind control of a later step, the paired
differences to the untrained student and to the row it is to be held against, and, where the row
repeats one of the paper's table, the paper's own figure.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from statistics import fmean
from typing import Any

from persd.experiment.engine import Cell
from persd.experiment.grid import Arm, Grid
from persd.experiment.paper import paper_examples, paper_row, paper_score
from persd.outcomes import (
    NOT_RUN,
    TRUNCATED,
    Counts,
    counts,
    left_out,
    totals,
    truncated_as_wrong,
)
from persd.passk import mean_pass_at_k
from persd.records import Evaluation
from persd.scores import Score, difference_over_seeds, leaves_out_zero, over_seeds

#: What the intervals say, and what they do not.
INTERVAL = (
    "95 % bootstrap interval over seeds and tasks; with few seeds it is narrower than the truth"
)
ONE_SEED = (
    "95 % bootstrap interval over tasks: of one seed, so it says nothing of how another training "
    "would have come out"
)
LAB_NOTE = (
    "This experiment runs on embedded toy tasks. It exercises the experiment and is no evidence "
    "for the paper's claim: on this toy family the difference between the variants is mostly a "
    "matter of the style of the labels."
)


@dataclass(frozen=True, slots=True)
class Line:
    """An arm over its seeds."""

    cells: tuple[Cell, ...]
    """One a seed, ascending as the grid has them; those that could not be run too."""

    @property
    def arm(self) -> Arm:
        """Of the first seed; those of the others differ in the seed alone."""
        return self.cells[0].plan.arm

    @property
    def done(self) -> list[Cell]:
        return [c for c in self.cells if not c.plan.skipped]

    def found(self, benchmark: str, step: int, control: str = "") -> dict[int, Evaluation]:
        """The evaluations of one step by seed."""
        key = (benchmark, step, control)
        return {
            c.plan.arm.seed: e
            for c in self.done
            for e in c.evaluations
            if (e.benchmark, e.step, e.control) == key
        }

    def stages(self) -> list[tuple[str, int]]:
        """Its benchmarks and steps, in the order they were scored."""
        each = ((e.benchmark, e.step) for c in self.done for e in c.evaluations)
        return list(dict.fromkeys(each))


def lines_of(cells: Sequence[Cell]) -> list[Line]:
    """The cells by student and arm, in their order."""
    groups = groupby(cells, key=lambda c: (c.plan.arm.student, c.plan.arm.name))
    return [Line(tuple(group)) for _, group in groups]


def arms_of(grid: Grid, cells: Sequence[Cell]) -> list[dict[str, Any]]:
    """A row an arm: what it was trained on, and what became of that.

    Keys: ``student``, ``model`` (the arm's name), ``seeds`` that were run; each a mean over them,
    None where there is none: ``examples``, ``steps`` (of the optimizer), ``usd`` (what the
    examples cost; None: a price is unknown), ``first_loss`` and ``last_loss`` (nats a token),
    ``seconds`` of training; ``examples_by_seed``; ``train``: the settings that hold for it;
    ``notes`` and ``skipped``: sentences by seed where the seeds differ.
    """
    return [_arm(grid, line) for line in lines_of(cells)]


def rows_of(grid: Grid, cells: Sequence[Cell]) -> list[dict[str, Any]]:
    """A row an arm, benchmark and step, arms in the paper's order within a benchmark.

    Keys: ``student``, ``model``, ``benchmark``, ``step``, ``seeds``, ``examples`` and
    ``optimizer_steps`` and ``usd`` (means over seeds), ``pass@k`` and ``interval`` by k
    (fractions 0-1), ``tasks`` and ``samples`` (of a seed), ``calls`` (replies asked for at this
    step, all seeds); ``outcomes`` (samples by outcome), ``truncated`` and ``not_run`` (samples,
    part of no score), ``left_out`` (by k, tasks with fewer than k samples in the score), all
    seeds together; ``truncated_as_wrong``: pass@k with the truncated taken for wrong, where
    there are any. Where there is something to compare to: ``resample`` (``pass@k``,
    ``interval``, ``calls``), ``less_resample``, ``less_base`` and ``less_reference`` (by k:
    ``value``, ``interval``, ``clear``), ``reference`` (the name of that row), ``paper`` (the
    paper's pass@k by k) with ``paper_examples``.
    """
    lines = lines_of(cells)
    rows = [
        _row(grid, line, lines, benchmark, step)
        for line in lines
        for benchmark, step in line.stages()
    ]
    students = list(dict.fromkeys(line.arm.student for line in lines))
    order = [(s, b) for s in students for b in grid.table.evaluate.benchmarks]
    return sorted(rows, key=lambda r: order.index((r["student"], r["benchmark"])))


# ---- arms -------------------------------------------------------------------------------------


def _arm(grid: Grid, line: Line) -> dict[str, Any]:
    arm, done = line.arm, line.done
    return {
        "student": arm.student,
        "model": arm.name,
        "seeds": [c.plan.arm.seed for c in done],
        "examples": _mean([c.plan.examples for c in done]),
        "examples_by_seed": [c.plan.examples for c in done],
        "steps": _mean([c.metrics.get("steps", 0.0) for c in done]),
        "usd": _mean([c.plan.usd for c in done]),
        **{
            name: _mean([c.metrics.get(name) for c in done])
            for name in ("first_loss", "last_loss", "seconds")
        },
        "train": grid.train(arm).model_dump(mode="json") if arm.variants else {},
        "notes": _by_seed(line, lambda c: c.plan.note),
        "skipped": _by_seed(line, lambda c: c.plan.skipped),
    }


def _mean(values: Sequence[float | None]) -> float | None:
    """None where there is no value, or one is not known."""
    known = [v for v in values if v is not None]
    return fmean(known) if known and len(known) == len(values) else None


def _by_seed(line: Line, said: Callable[[Cell], str]) -> list[str]:
    """What is said of a line's cells: once where it is the same for all, else with the seed."""
    told = {c.plan.arm.seed: said(c) for c in line.cells if said(c)}
    if len(set(told.values())) <= 1 and len(told) in (0, len(line.cells)):
        return list(dict.fromkeys(told.values()))
    return [f"seed {seed}: {words}" for seed, words in told.items()]


# ---- rows -------------------------------------------------------------------------------------


def _row(
    grid: Grid, line: Line, lines: Sequence[Line], benchmark: str, step: int
) -> dict[str, Any]:
    here = line.found(benchmark, step)
    ks = sorted(grid.table.evaluate.k)
    runs = [counts(e) for e in here.values()]
    one = next(iter(here.values()))
    row: dict[str, Any] = {
        "student": line.arm.student,
        "model": line.arm.name,
        "benchmark": benchmark,
        "step": step,
        "seeds": list(here),
        "examples": _mean([c.plan.examples for c in line.done]),
        "optimizer_steps": _mean([c.metrics.get("steps", 0.0) for c in line.done]),
        "usd": _mean([c.plan.usd for c in line.done]),
        **_scores(runs, ks),
        "tasks": one.tasks,
        "samples": one.samples,
        "calls": sum(e.calls for e in here.values()),
        **_apart(list(here.values()), ks),
    }
    row |= _control(line, benchmark, step, ks)
    row |= _compared(grid, line, lines, benchmark, step, ks)
    return row | _paper(line.arm, benchmark, step, ks)


def _scores(runs: Sequence[Counts], ks: Sequence[int]) -> dict[str, Any]:
    found = {str(k): s for k in ks if (s := over_seeds(runs, k)) is not None}
    return {
        "pass@k": {k: s.value for k, s in found.items()},
        "interval": {k: list(s.interval) for k, s in found.items()},
    }


def _apart(here: Sequence[Evaluation], ks: Sequence[int]) -> dict[str, Any]:
    """What became of the samples, and what is part of no score."""
    outcomes: Counter[str] = Counter()
    for e in here:
        outcomes.update(totals(e))
    found: dict[str, Any] = {
        "outcomes": dict(sorted(outcomes.items(), key=lambda item: (-item[1], item[0]))),
        "truncated": outcomes[TRUNCATED],
        "not_run": outcomes[NOT_RUN],
        "left_out": {str(k): sum(left_out(e, k) for e in here) for k in ks},
    }
    if found["truncated"]:
        found["truncated_as_wrong"] = {
            str(k): fmean(mean_pass_at_k(rows, k) for rows in enough)
            for k in ks
            if (enough := _enough(here, k))
        }
    return found


def _enough(here: Sequence[Evaluation], k: int) -> list[list[tuple[int, int]]]:
    """Counts of the tasks with k samples, those truncated taken for wrong, a list a seed."""
    each = ([row for row in truncated_as_wrong(e).values() if row[0] >= k] for e in here)
    return [rows for rows in each if rows]


def _control(line: Line, benchmark: str, step: int, ks: Sequence[int]) -> dict[str, Any]:
    """The blind control of a step, and the difference to it."""
    control = line.found(benchmark, step, "resample")
    if not control:
        return {}
    blind = {
        **_scores([counts(e) for e in control.values()], ks),
        "calls": sum(e.calls for e in control.values()),
    }
    return {"resample": blind, "less_resample": _less(line.found(benchmark, step), control, ks)}


def _less(
    this: Mapping[int, Evaluation], other: Mapping[int, Evaluation], ks: Sequence[int]
) -> dict[str, dict[str, Any]]:
    """Paired differences by k, of the seeds both have."""
    seeds = [s for s in this if s in other]
    mine, theirs = ([counts(found[s]) for s in seeds] for found in (this, other))
    found = {str(k): difference_over_seeds(mine, theirs, k) for k in ks}
    return {k: _plain(d) for k, d in found.items() if d is not None}


def _plain(d: Score) -> dict[str, Any]:
    low, high = d.interval
    return {"value": d.value, "interval": [low, high], "clear": leaves_out_zero(d.interval)}


def _compared(
    grid: Grid, line: Line, lines: Sequence[Line], benchmark: str, step: int, ks: Sequence[int]
) -> dict[str, Any]:
    here, found = line.found(benchmark, step), dict[str, Any]()
    base = _base(line, lines)
    if base is not None and (there := base.found(benchmark, step)):
        if grid.table.evaluate.seed is not None:  # scored once: there is no other seed to it
            there = dict.fromkeys(here, next(iter(there.values())))
        found["less_base"] = _less(here, there, ks)
    other = _reference(grid, line, lines)
    if other is not None and (there := other.found(benchmark, step)):
        found |= {"reference": other.arm.name, "less_reference": _less(here, there, ks)}
    return found


def _base(line: Line, lines: Sequence[Line]) -> Line | None:
    """The untrained student of a line, told what it is told where that is there."""
    if not line.arm.variants:
        return None
    mine = [o for o in lines if not o.arm.variants and o.arm.student == line.arm.student]
    return next((o for o in mine if o.arm.feedback == line.arm.feedback), next(iter(mine), None))


def _reference(grid: Grid, line: Line, lines: Sequence[Line]) -> Line | None:
    """The line that a line is to be held against; None: the grid has none."""
    there = {cell.plan.arm: other for other in lines for cell in other.cells}
    for arm in _references(grid, line.arm):
        found = there.get(arm)
        if found is not None and found is not line:
            return found
    return None


def _references(grid: Grid, arm: Arm) -> Iterator[Arm]:
    """What an arm may be held against, the most telling first: what it is matched to; the same
    sets where the grid's axes have their first values; a mix without StanD; StanD."""
    if not arm.variants:
        return
    matched = grid.reference(arm)
    if matched is not None:
        yield matched
    first = grid.first()
    axes = ("rounds", "feedback", "prompt", "data_of", "equal")
    yield grid.merged(replace(arm, **{axis: getattr(first, axis) for axis in axes}))
    if others := tuple(v for v in arm.variants if v != "stand"):
        yield grid.merged(replace(arm, variants=others))
    stand = replace(first, student=arm.student, seed=arm.seed, variants=("stand",))
    yield grid.merged(replace(stand, equal=arm.equal))
    yield grid.merged(stand)


def _paper(arm: Arm, benchmark: str, step: int, ks: Sequence[int]) -> dict[str, Any]:
    """The paper's own figures of this row, where it has them."""
    variant = paper_row(arm)
    if variant is None:
        return {}
    scores = {str(k): paper_score(variant, benchmark, k, step) for k in ks}
    known = {k: score for k, score in scores.items() if score is not None}
    return {"paper": known, "paper_examples": paper_examples(variant)} if known else {}
