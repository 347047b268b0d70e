"""The mistakes behind the scores of a run, sample by sample."""

from __future__ import annotations

from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

from persd.analysis.mistakes import Pairs, mistakes
from persd.ledger import Ledger
from persd.outcomes import NOT_RUN, by_task, outcome_of
from persd.progress import QUIET, Progress
from persd.records import Evaluation
from persd.report.results import shown
from persd.run import stored_config


def evaluated_mistakes(ledger: Ledger, progress: Progress = QUIET) -> list[dict[str, Any]]:
    """``mistakes`` of every trained student against the base, at step 1, benchmark by benchmark.

    Controls are left out, and scores stored without the samples' outcomes.
    """
    known = [e for e in shown(ledger) if e.step == 1 and e.outcomes and not e.control]
    bases = {e.benchmark: e for e in known if e.model == "base"}
    compared = [e for e in known if e.model != "base" and e.benchmark in bases]
    progress.stage("compare outcomes before and after, scores", len(compared))
    rows = []
    drawn = _Drawn(ledger)
    for e in compared:
        place = {"benchmark": e.benchmark, "model": e.model, "round": e.round}
        base = bases[e.benchmark]
        rows.append({**place, **mistakes(base, e, drawn.pairs(base, e))})
        progress.step(1)
    progress.close()
    return rows


Numbered = dict[str, dict[int, str]]
"""By task_id: the outcome of each sample, by its number."""


class _Drawn:
    """The samples behind evaluations at step 1, one by one, from the ledger."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.by_author: dict[str, dict[str, Numbered]] = {}

    def pairs(self, before: Evaluation, after: Evaluation) -> Pairs | None:
        """Outcomes of the samples with the same number, which have the same seed.

        None: the samples of one side are not found, or are not those that were counted.
        """
        first, then = self._samples(before), self._samples(after)
        if first is None or then is None:
            return None
        return {
            task: Counter((o, then[task].get(i, NOT_RUN)) for i, o in numbered.items())
            for task, numbered in first.items()
            if task in then
        }

    def _samples(self, found: Evaluation) -> Numbered | None:
        if found.benchmark not in self.by_author:
            self.by_author[found.benchmark] = self._read(found.benchmark)
        samples = self.by_author[found.benchmark].get(self._author(found), {})
        flat = ((task, o) for task, numbered in samples.items() for o in numbered.values())
        counted = {task: dict(outcomes) for task, outcomes in found.outcomes.items()}
        return samples if by_task(flat) == counted else None

    def _author(self, found: Evaluation) -> str:
        """The name a model signs its samples with."""
        for checkpoint in self.ledger.checkpoints():
            if checkpoint.checkpoint_id == found.checkpoint_id:
                return Path(checkpoint.path).name
        model = stored_config(self.ledger).student.model
        return Path(model).resolve().name if Path(model).is_dir() else model

    def _read(self, benchmark: str) -> dict[str, Numbered]:
        verdicts = {v.solution_id: v for v in self.ledger.verdicts(benchmark=benchmark)}
        places = self.ledger.query("SELECT DISTINCT benchmark FROM tasks")
        # kept under the benchmark's name and what chose its tasks
        mine = [p["benchmark"] for p in places if p["benchmark"].startswith(f"{benchmark} ")]
        tasks = {task.task_id: task for place in mine for task in self.ledger.tasks(place)}
        found: dict[str, Numbered] = defaultdict(lambda: defaultdict(dict))
        for s in self.ledger.solutions(benchmark=benchmark, step=1):
            verdict = verdicts.get(s.solution_id)
            outcome = outcome_of(tasks[s.task_id], s, verdict) if verdict else NOT_RUN
            found[s.author][s.task_id][s.sample] = outcome
        return found
