"""What a student's samples come to before and after a training, by how they had failed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from persd.analysis.means import ratio, ratio_interval
from persd.outcomes import APART, PASSED, totals
from persd.records import Evaluation

#: By task_id: how many samples end so before and, drawn from the same seed, so after.
Pairs = Mapping[str, Mapping[tuple[str, str], int]]


def mistakes(before: Evaluation, after: Evaluation, pairs: Pairs | None = None) -> dict[str, Any]:
    """What a student's samples come to before and after a training, on the same tasks.

    A task's share of an outcome is its samples with that outcome over its n samples that are
    neither truncated nor not run; tasks without such samples on either side are left out.

    ``outcomes``: of each outcome the mean share over tasks, ``before`` and ``after``, and
    their ``change``, paired by task. ``passed`` is pass@1.

    ``classes``: what became of the tasks that ended so before, over the tasks with n >= 2 on
    both sides. Task t weighs w = its share of the class before, and the weights sum to
    ``weight``: the expected number of tasks, were one sample drawn of each. Over them, by
    weight: ``solved_before``: the share of *other* samples of the task that passed before,
    c / (n - 1), for a sample that failed in this class is not among the c; so the figure does
    not fall for having been chosen by a failure. ``solved_after``: the share that passed after.
    ``change``: their difference; of a student that did not change, zero but for chance.
    ``again_before`` and ``again_after``: the share that ends in this very class, likewise.
    ``contribution``: the class's part of these tasks' change in pass@1; the parts of all
    classes add up to it (where no sample is truncated). The class ``passed`` says what is
    forgotten.

    ``pairs``: the samples of both sides that were drawn from the same seed, which a student
    loaded here draws alike until its choices differ. After, too, only the others then count:
    else a student that did not change would seem to repeat what it was chosen for. None: the
    two sides were drawn independently. ``paired`` says which.

    What it can mean: tasks on which the student used to fail in this way are now solved with
    that chance. No sample is the mended form of another: it cannot say that the mistake itself
    was mended (a task may be solved another way, or fail in another class), nor that the class
    is why: hard classes gather hard tasks. Differences of classes within one training compare
    tasks, not treatments; the same class compared between variants, evaluated on the same
    tasks, is a fair comparison.
    """
    both = [t for t in before.outcomes if t in after.outcomes]
    joint = [None if pairs is None else pairs[t] for t in both]
    tasks = [
        _Task(before.outcomes[t], after.outcomes[t], j) for t, j in zip(both, joint, strict=True)
    ]
    counted = [t for t in tasks if t.n_before and t.n_after]
    everything = before.outcomes.keys() | after.outcomes.keys()
    return {
        "tasks": len(counted),
        "left_out": len(everything) - len(counted),
        "paired": pairs is not None,
        "apart": {"before": _apart(before), "after": _apart(after)},
        "outcomes": _shares(counted),
        "classes": _classes([t for t in counted if min(t.n_before, t.n_after) > 1]),
    }


class _Task:
    """One task's samples before and after, and both at once where they were drawn in pairs."""

    def __init__(
        self,
        before: Mapping[str, int],
        after: Mapping[str, int],
        joint: Mapping[tuple[str, str], int] | None,
    ) -> None:
        self.before, self.after, self.joint = before, after, joint
        self.n_before, self.n_after = _judged(before), _judged(after)

    def shares(self, outcome: str) -> tuple[float, float]:
        """Before and after."""
        return (
            self.before.get(outcome, 0) / self.n_before,
            self.after.get(outcome, 0) / self.n_after,
        )

    def of_others(self, outcome: str, chosen: str) -> tuple[float, float]:
        """The shares among the samples beside one that ended as ``chosen`` before."""
        others = (self.before.get(outcome, 0) - (outcome == chosen)) / (self.n_before - 1)
        if self.joint is None:
            return others, self.shares(outcome)[1]
        ends = {end: n for (begun, end), n in self.joint.items() if begun == chosen}
        count = self.after.get(outcome, 0)
        after = sum(
            n * (count - (end == outcome)) / (self.n_after - (end not in APART))
            for end, n in ends.items()
        )
        return others, after / sum(ends.values())


def _judged(outcomes: Mapping[str, int]) -> int:
    return sum(n for outcome, n in outcomes.items() if outcome not in APART)


def _apart(found: Evaluation) -> dict[str, int]:
    """Samples counted apart, over all tasks."""
    counted = totals(found)
    return {outcome: counted.get(outcome, 0) for outcome in sorted(APART)}


def _shares(tasks: Sequence[_Task]) -> list[dict[str, Any]]:
    rows = []
    for outcome in _outcomes(tasks):
        pairs = [task.shares(outcome) for task in tasks]
        before, after = [b for b, _ in pairs], [a for _, a in pairs]
        change = [a - b for b, a in pairs]
        row: dict[str, Any] = {"outcome": outcome}
        for name, values in (("before", before), ("after", after), ("change", change)):
            row |= {name: ratio(values), f"{name}_interval": ratio_interval(values)}
        rows.append(row)
    return rows


def _outcomes(tasks: Sequence[_Task]) -> list[str]:
    """``passed``, then the others, those with most samples before first."""
    before, after = Counter[str](), Counter[str]()
    for task in tasks:
        before.update(task.before)
        after.update(task.after)
    named = (before.keys() | after.keys()) - APART
    return sorted(named, key=lambda o: (o != PASSED, -before[o], -after[o], o))


def _classes(tasks: Sequence[_Task]) -> list[dict[str, Any]]:
    found = (_class(tasks, outcome) for outcome in _outcomes(tasks))
    return [row for row in found if row["weight"]]


def _class(tasks: Sequence[_Task], name: str) -> dict[str, Any]:
    """One row of ``classes``; see ``mistakes``."""
    there = [t for t in tasks if name in t.before]
    weights = [t.shares(name)[0] for t in there]

    def weighed(values: Iterable[float]) -> list[float]:
        return [w * v for w, v in zip(weights, values, strict=True)]

    solved = [t.of_others(PASSED, name) for t in there]
    again = [t.of_others(name, name) for t in there]
    change = weighed(after - before for before, after in solved)
    return {
        "class": name,
        "tasks": len(there),
        "weight": sum(weights),
        "solved_before": ratio(weighed(before for before, _ in solved), weights),
        "solved_after": ratio(weighed(after for _, after in solved), weights),
        "change": ratio(change, weights),
        "change_interval": ratio_interval(change, weights),
        "again_before": ratio(weighed(before for before, _ in again), weights),
        "again_after": ratio(weighed(after for _, after in again), weights),
        "contribution": sum(change) / len(tasks),
    }
