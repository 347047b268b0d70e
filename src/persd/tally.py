"""What judged samples add up to: pass@k with its interval, statuses, what was not judged."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from persd.passk import bootstrap_interval, mean_pass_at_k, pass_at_k
from persd.records import Verdict
from persd.report.text import number, percent, share, visible
from persd.sample_rows import Benchmark, Sample


class Tally:
    """The counts of what was judged: a task's samples and passes, statuses, broken rows.

    ``repeats``: how often each program is run.
    """

    def __init__(self, repeats: int = 1) -> None:
        self.repeats = repeats
        self.tasks: dict[str, tuple[int, int]] = {}
        """Judged samples and passes, by the task's id."""
        self.statuses: Counter[str] = Counter()
        self.broken_rows = self.flaky = 0
        self.cached = 0
        """Rows whose verdict was known; as far as can be told, and at the end exactly."""
        self.first_not_run = ""

    def add(self, sample: Sample, verdict: Verdict, found: int) -> int:
        """Count one row. ``found``: verdicts that had to be found by now, for this row, those
        before it and perhaps some after. Gives how many more rows are known to be cached."""
        self._count(sample, verdict)
        judged, before = self.statuses.total() - self.statuses["not_run"], self.cached
        self.cached = max(before, judged - found)
        return self.cached - before

    def _count(self, sample: Sample, verdict: Verdict) -> None:
        self.statuses[verdict.status] += 1
        self.flaky += verdict.reason.startswith("flaky: ")
        self.broken_rows += sample.job is None
        if sample.job is None or verdict.status == "not_run":
            self.first_not_run = self.first_not_run or verdict.reason
            return
        task_id = sample.job.task.task_id
        judged, passed = self.tasks.get(task_id, (0, 0))
        self.tasks[task_id] = judged + 1, passed + verdict.passed

    def summary(self, ks: Sequence[int], isolation: str, seconds: float) -> dict[str, Any]:
        """The figures; ``seconds`` is the time it took. pass@k is over the judged samples."""
        programs, counts = self.statuses.total(), list(self.tasks.values())
        kept = self._possible(ks)
        return {
            "programs": programs,
            "passed": self.statuses["passed"],
            "pass@k": {str(k): mean_pass_at_k(counts, k) for k in kept},
            "interval": {str(k): _interval(counts, k) for k in kept},
            "tasks": len(counts),
            "statuses": dict(sorted(self.statuses.items())),
            "broken_rows": self.broken_rows,
            "cached": self.cached,
            **({"flaky": self.flaky} if self.repeats > 1 else {}),
            "isolation": isolation,
            "seconds": round(seconds, 3),
            "programs_per_second": round(programs / seconds, 1),
        }

    def _possible(self, ks: Sequence[int]) -> list[int]:
        fewest = min((judged for judged, _ in self.tasks.values()), default=0)
        return [k for k in ks if k <= fewest]

    def notes(self, benchmark: Benchmark, ks: Sequence[int] | None) -> Iterator[str]:
        """What a reader of the figures has to know: rows and tasks not judged, ks left out."""
        not_run, missing = self.statuses["not_run"], len(benchmark.tasks) - len(self.tasks)
        if not_run:
            rows = f"{number(not_run)} of {number(self.statuses.total())} rows"
            yield visible(f"{rows} could not be judged; the first: {self.first_not_run}")
        if missing and self.tasks:
            of = f"{number(missing)} of {number(len(benchmark.tasks))} tasks"
            yield f"{of} have no judged sample; pass@k is over the others"
        for k in sorted(set(ks or ()) - set(self._possible(ks or ()))):
            yield f"pass@{k} is left out: not every task has {k} judged samples"


_DRAWS = 20_000_000
"""Draws of an interval at most, whatever the number of tasks: some ten seconds."""


def _interval(counts: Sequence[tuple[int, int]], k: int) -> tuple[float, float]:
    scores = [pass_at_k(judged, passed, k) for judged, passed in counts]
    return bootstrap_interval(scores, resamples=max(200, min(2000, _DRAWS // len(scores))))


def readable(summary: Mapping[str, Any]) -> dict[str, Any]:
    """The summary as named figures for a table, scores in percent with their interval."""
    programs, facts = summary["programs"], {}
    for k, score in summary["pass@k"].items():
        low, high = summary["interval"][k]
        facts[f"pass@{k} (95 % interval)"] = f"{percent(score)} % ({percent(low)}–{percent(high)})"
    return {
        **facts,
        "tasks": summary["tasks"],
        "programs": programs,
        "statuses": {
            k: f"{number(n)} ({share(n, programs)})" for k, n in summary["statuses"].items()
        },
        "broken rows": summary["broken_rows"],
        "from the cache": f"{number(summary['cached'])} ({share(summary['cached'], programs)})",
        **({"flaky": summary["flaky"]} if "flaky" in summary else {}),
        "isolation": summary["isolation"],
        "seconds": f"{summary['seconds']:.1f}",
        "programs per second": f"{summary['programs_per_second']:,.1f}",
    }
