"""What a run's training tasks overlap of its benchmarks, and the scores on the rest of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from persd.benchmarks import place_of, unlike_pool
from persd.config import Config
from persd.ledger import Ledger
from persd.outcomes import counts
from persd.overlap import clean_ids, overlap_report
from persd.progress import Progress
from persd.records import Evaluation, Task
from persd.report.results import BASE, less, shown
from persd.scores import score

SAME_FAMILY = "it is of the family that the pool is from, whose splits share no task"
NOT_HERE = "the run does not hold its tasks: no model has been scored on it"


def overlap_of(ledger: Ledger, config: Config, progress: Progress) -> dict[str, Any]:
    """The run's training tasks held against the benchmarks that its config names now.

    Training tasks are those of the pool that did not end ``contaminated``, in any round, whether
    or not a label came of them. Keys: those of ``overlap_report`` (``train_tasks`` is 0 where
    there is nothing to hold them against), and of each benchmark ``clean``: ``tasks`` (how many
    no training task overlaps) and ``models``: ``clean_scores``; ``notes``: why a benchmark of
    the config is not among them, by its name.
    """
    table, comparable = config.evaluate, unlike_pool(config)
    read = {n: ledger.tasks(place_of(ledger, n, table, config.run.seed)) for n in comparable}
    held = {name: tasks for name, tasks in read.items() if tasks}
    notes = {
        name: NOT_HERE if name in comparable else SAME_FAMILY
        for name in table.benchmarks
        if name not in held
    }
    train = _training_tasks(ledger, progress) if held else iter(())
    report = overlap_report(train, held)
    clean = clean_ids(report, held)
    known = [e for e in shown(ledger) if e.outcomes and not e.control]
    progress.stage("score on what is clean, scores", sum(e.benchmark in held for e in known))
    for name, row in report["benchmarks"].items():
        models = clean_scores([e for e in known if e.benchmark == name], clean[name], progress)
        row["clean"] = {"tasks": len(clean[name]), "models": models}
    progress.close()
    return {**report, "notes": notes}


def _training_tasks(ledger: Ledger, progress: Progress) -> Iterator[Task]:
    """The pool without the tasks that every round they met has ended ``contaminated``."""
    sql = "SELECT task_id FROM states GROUP BY task_id HAVING SUM(state <> 'contaminated') = 0"
    kept_out = {str(row["task_id"]) for row in ledger.query(sql)}
    progress.stage("hold tasks against benchmarks", ledger.count_tasks() - len(kept_out))
    for task in ledger.stream_tasks():
        if task.task_id not in kept_out:
            yield task
            progress.step(1)
    progress.close()


def clean_scores(
    found: Sequence[Evaluation], clean: Sequence[str], progress: Progress
) -> list[dict[str, Any]]:
    """Every model's scores on one benchmark, whole and on the ``clean`` of its tasks.

    A row an evaluation: ``model``, ``round``, ``step``; ``whole`` and ``clean``: ``pass@k`` and
    ``interval`` (95 % bootstrap over tasks) by k, fractions 0-1; of ``clean`` also ``tasks`` by
    k, those with k samples in the score. A k with no such task is left out. ``less_base``: as in
    ``report.results``, on the clean tasks, against the base at the same step; a trained model
    has none where no base was scored.
    """
    parts = [_restricted(e, clean) for e in found]
    bases = {e.step: e for e in parts if e.model == BASE}
    rows = []
    for whole, part in zip(found, parts, strict=True):
        row = {
            "model": whole.model,
            "round": whole.round,
            "step": whole.step,
            "whole": _plain(whole.pass_at_k, whole.interval),
            "clean": _scored(part, len(clean)),
        }
        if whole.model != BASE and whole.step in bases:
            row["less_base"] = less(part, bases[whole.step])
        rows.append(row)
        progress.step(1)
    return rows


def _restricted(e: Evaluation, clean: Sequence[str]) -> Evaluation:
    """The evaluation with the outcomes of those tasks alone, in their order."""
    return replace(e, outcomes={t: e.outcomes[t] for t in clean if t in e.outcomes})


def _scored(part: Evaluation, tasks: int) -> dict[str, Any]:
    judged = counts(part)
    scores = {k: s for k in part.pass_at_k if (s := score(judged, int(k), tasks))}
    values = {k: s.value for k, s in scores.items()}
    plain = _plain(values, {k: s.interval for k, s in scores.items()})
    return {**plain, "tasks": {k: scores[k].tasks for k in plain["pass@k"]}}


def _plain(
    values: Mapping[str, float], intervals: Mapping[str, tuple[float, float]]
) -> dict[str, Any]:
    """Scores as JSON has them, the least k first."""
    ks = sorted(values, key=int)
    return {
        "pass@k": {k: values[k] for k in ks},
        "interval": {k: list(intervals[k]) for k in ks if k in intervals},
    }
