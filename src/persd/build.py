"""From a ledger to data sets.

A variant is built from the ledger alone: the selections are ``persd.examples``. What was built
from the same content before is taken as it is.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

from persd.config import Config, seeded
from persd.domains.code import feedback
from persd.examples import TaskRecord, build, parts_of
from persd.ledger import Ledger
from persd.progress import QUIET, Progress
from persd.records import (
    Example,
    Rejected,
    Solution,
    TaskState,
    Verdict,
    content_id,
)
from persd.run import Run
from persd.sandbox import Limits, Sandbox
from persd.screen import twins
from persd.train.mix import with_mix


def build_examples(run: Run, variant: str, round: int) -> list[Example]:
    """The examples a variant trains on after a round: of all rounds so far, or of this one, and
    what ``train.mix`` adds to them."""
    run.progress.stage(f"build {variant}, examples", None)
    build = partial(
        build_rounds,
        run.ledger,
        lambda: run.box,
        rounds=rounds_of(run.config, round),
        limits=run.limits,
        progress=run.progress,
    )
    examples, rejected = build(variant)
    run.progress.step(0, left_out=len(rejected))
    run.progress.close()
    settings = seeded(run.config.train, run.config.run.seed)
    return with_mix(examples, settings, lambda v: build(v)[0], run.config.student, run.progress)


def rounds_of(config: Config, round: int) -> range:
    """The rounds whose examples a student is trained on after a round."""
    return range(1 if config.run.examples == "union" else round, round + 1)


def build_rounds(
    ledger: Ledger,
    box: Callable[[], Sandbox],
    variant: str,
    rounds: Iterable[int],
    *,
    untested: bool = False,
    limits: Limits | None = None,
    progress: Progress = QUIET,
) -> tuple[list[Example], list[Rejected]]:
    """A variant over some rounds, deterministic; the same pair of two rounds is kept once."""
    parts_of(variant)  # an unknown variant is refused before anything runs
    known = twins(ledger)
    kept: dict[tuple[str, str, str], Example] = {}
    left_out: list[Rejected] = []
    for round in rounds:
        records = task_records(ledger, round)
        key = _build_id(variant, records, untested, limits)
        stored = ledger.build(key)
        if stored is None:
            stored = build(
                variant,
                records,
                box(),
                include_untested=untested,
                limits=limits,
                progress=progress,
            )
            if not ledger.read_only and all(r.reason != "not_run" for r in stored[1]):
                ledger.add_build(key, *stored)
        else:
            progress.step(len(stored[0]) + len(stored[1]))
        for example in stored[0]:
            if example.task_id in known:
                left_out.append(_contaminated(example, known[example.task_id]))
            else:
                kept.setdefault((example.task_id, example.prompt, example.completion), example)
        left_out.extend(stored[1])
    return list(kept.values()), left_out


def _contaminated(example: Example, detail: str) -> Rejected:
    return Rejected(
        example.variant, example.task_id, example.round, example.form, "contaminated", detail
    )


def task_records(ledger: Ledger, round: int) -> list[TaskRecord]:
    """What a run knows of every task that has a state in a round, in the tasks' order.

    Without feedback where the run is the ablation that tells none (``run.feedback``).
    """
    config = ledger.meta("config")
    tells = config is None or json.loads(config)["run"].get("feedback", True)
    states = ledger.states(round)
    solutions = {s.solution_id: s for s in ledger.solutions(benchmark="")}
    verdicts = {v.solution_id: v for v in ledger.verdicts(benchmark="")}
    records = []
    for task in ledger.tasks():
        state = states.get(task.task_id)
        if state is None:
            continue
        attempt = solutions.get(state.attempt_id or "")
        records.append(
            TaskRecord(
                task=task,
                attempt=attempt,
                feedback=_feedback(verdicts.get(state.attempt_id or ""), task.meta)
                if tells
                else "",
                direct=_verified(state, state.direct_id, solutions, verdicts),
                refinement=_verified(state, state.refinement_id, solutions, verdicts),
                state=state.state,
                round=round,
            )
        )
    return records


def _verified(
    state: TaskState,
    solution_id: str | None,
    solutions: dict[str, Solution],
    verdicts: dict[str, Verdict],
) -> Solution | None:
    solution = solutions.get(solution_id or "")
    if solution is None or state.state == "untested":
        return solution  # nothing can verify it; exported only when asked for
    verdict = verdicts.get(solution.solution_id)
    return solution if verdict is not None and verdict.passed else None


def _feedback(verdict: Verdict | None, meta: Any) -> str:
    if verdict is not None and verdict.status not in ("passed", "not_run"):
        return feedback(verdict)
    return str(meta.get("feedback", ""))


def _build_id(
    variant: str, records: Sequence[TaskRecord], untested: bool, limits: Limits | None
) -> str:
    facts = [
        (
            content_id(r.task),
            r.state,
            r.round,
            r.feedback,
            r.attempt.solution_id if r.attempt else None,
            r.direct.solution_id if r.direct else None,
            r.refinement.solution_id if r.refinement else None,
        )
        for r in records
    ]
    return content_id(variant, facts, untested, limits, _renderer())


@cache
def _renderer() -> str:
    # an edited renderer must build anew, and nobody remembers to raise a version
    folder = Path(__file__).parent
    sources = [*sorted((folder / "domains").glob("*.py")), folder / "examples.py"]
    return content_id(*(p.read_text(encoding="utf-8") for p in sources))
