"""Scores with intervals: of one model, of a pair of models on the same tasks, over seeds.

All of it is computed from counts a task (``outcomes.counts``): the bootstrap draws tasks, not
samples, because tasks are what a benchmark is a sample of.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from persd.outcomes import Counts, counts
from persd.passk import bootstrap_interval, mean_pass_at_k, pass_at_k
from persd.records import Evaluation

Interval = tuple[float, float]
RESAMPLES = 2000
_ROUNDING = 1e-9
#: Share of the tasks that all seeds must have to be taken for one set of tasks; the rest of it
#: was truncated or not run in one of them.
_MOST = 0.8


@dataclass(frozen=True, slots=True)
class Score:
    """pass@k, a fraction 0-1, over the tasks that have at least k samples in the score."""

    value: float
    interval: Interval
    """95 % bootstrap interval over tasks."""
    tasks: int
    left_out: int
    """Tasks with too few samples: the others were truncated or not run."""


def score(found: Counts, k: int, tasks: int) -> Score | None:
    """pass@k of a model; ``tasks``: how many the benchmark has. None: no task has k samples."""
    rows = [found[t] for t in sorted(found) if found[t][0] >= k]
    if not rows:
        return None
    interval = bootstrap_interval([pass_at_k(n, c, k) for n, c in rows])
    return Score(mean_pass_at_k(rows, k), interval, len(rows), tasks - len(rows))


def leaves_out_zero(interval: Interval) -> bool:
    """Whether a difference is clear of 0, by more than rounding."""
    low, high = interval
    return low > _ROUNDING or high < -_ROUNDING


@dataclass(frozen=True, slots=True)
class Difference:
    """One model less another, on the tasks both were scored on."""

    value: float
    """Mean over tasks of the difference in pass@k, -1 to 1."""
    interval: Interval
    """95 % bootstrap interval over tasks, which are drawn for both together."""
    tasks: int
    newly_solved: tuple[str, ...]
    """task_ids none of the other's samples passes and one of this one's does."""
    newly_lost: tuple[str, ...]
    """The reverse."""

    @property
    def is_clear(self) -> bool:
        """Whether the interval leaves out 0, by more than rounding."""
        return leaves_out_zero(self.interval)


def difference(this: Counts, other: Counts, k: int) -> Difference | None:
    """The paired difference in pass@k. None: no task has k samples of both."""
    shared = [t for t in sorted(this) if t in other and min(this[t][0], other[t][0]) >= k]
    if not shared:
        return None
    each = [pass_at_k(*this[t], k) - pass_at_k(*other[t], k) for t in shared]
    return Difference(
        value=fmean(each),
        interval=bootstrap_interval(each),
        tasks=len(shared),
        newly_solved=tuple(t for t in shared if this[t][1] and not other[t][1]),
        newly_lost=tuple(t for t in shared if other[t][1] and not this[t][1]),
    )


def difference_of(this: Evaluation, other: Evaluation, k: int) -> Difference | None:
    """The paired difference of two evaluations of one benchmark."""
    return difference(counts(this), counts(other), k)


# ---- over seeds -------------------------------------------------------------------------------


def over_seeds(runs: Sequence[Counts], k: int) -> Score | None:
    """Mean pass@k over seeds with an interval that covers both seeds and tasks.

    ``runs``: counts a seed, of the same benchmark. The bootstrap draws seeds and, apart from
    that, tasks (both with replacement); with few seeds it is narrower than the truth. With one
    seed it is the interval over tasks.
    """
    values = [{t: pass_at_k(n, c, k) for t, (n, c) in run.items() if n >= k} for run in runs]
    return _over([v for v in values if v], are_same=_are_same(runs))


def difference_over_seeds(this: Sequence[Counts], other: Sequence[Counts], k: int) -> Score | None:
    """Mean paired difference over seeds; the seeds of the two belong together, in order."""
    values = []
    for mine, theirs in zip(this, other, strict=True):
        shared = [t for t in mine if t in theirs and min(mine[t][0], theirs[t][0]) >= k]
        values.append({t: pass_at_k(*mine[t], k) - pass_at_k(*theirs[t], k) for t in shared})
    return _over([v for v in values if v], are_same=_are_same([*this, *other]))


def _are_same(runs: Sequence[Counts]) -> bool:
    """Whether the seeds were scored on the same tasks, and not each on its own; a few of them may
    lack in one, truncated or not run."""
    ids = [set(run) for run in runs if run]
    return bool(ids) and len(set.intersection(*ids)) >= _MOST * len(set.union(*ids))


def _over(values: Sequence[Mapping[str, float]], *, are_same: bool) -> Score | None:
    if not values:
        return None
    tasks = sorted(set().union(*values))
    shared = [t for t in tasks if all(t in v for v in values)]
    if not are_same or not shared:
        return _nested(values)
    return _crossed(values, shared, len(tasks) - len(shared))


def _crossed(values: Sequence[Mapping[str, float]], shared: Sequence[str], rest: int) -> Score:
    """Seeds and tasks drawn apart from each other."""
    table = [[v[t] for t in shared] for v in values]
    draw, means = random.Random(0), []
    for _ in range(RESAMPLES):
        seeds = draw.choices(table, k=len(table))
        places = draw.choices(range(len(shared)), k=len(shared))
        means.append(fmean(fmean(row[p] for p in places) for row in seeds))
    whole = fmean(fmean(row) for row in table)
    return Score(whole, _percentiles(means), len(shared), rest)


def _nested(values: Sequence[Mapping[str, float]]) -> Score:
    """Seeds drawn first, then tasks within each."""
    table = [[v[t] for t in sorted(v)] for v in values]
    draw, means = random.Random(0), []
    for _ in range(RESAMPLES):
        seeds = draw.choices(table, k=len(table))
        means.append(fmean(fmean(draw.choices(row, k=len(row))) for row in seeds))
    whole = fmean(fmean(row) for row in table)
    return Score(whole, _percentiles(means), min(map(len, table)), 0)


def _percentiles(means: Sequence[float], level: float = 0.95) -> Interval:
    ordered, tail = sorted(means), (1 - level) / 2
    last = len(ordered) - 1
    return ordered[int(tail * last)], ordered[math.ceil((1 - tail) * last)]
