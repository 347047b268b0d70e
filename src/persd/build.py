"""From a ledger to data sets, and from data sets to trained students.

A variant is built from the ledger alone: the selections are ``persd.examples``, the training
is ``persd.train``. What was built or trained from the same content before is taken as it is.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from persd.config import Config, TrainTable
from persd.domains.code import feedback
from persd.errors import UserError
from persd.examples import TaskRecord, build, export, parts_of
from persd.files import refuse_target
from persd.ledger import Ledger
from persd.models import checkpoint_of
from persd.progress import QUIET, Progress
from persd.records import (
    Checkpoint,
    Example,
    Rejected,
    Solution,
    TaskState,
    Verdict,
    content_id,
)
from persd.run import Run, limits_of, stored_config
from persd.sandbox import Limits, Sandbox
from persd.screen import twins
from persd.train import Step, data_hash, train


def build_examples(run: Run, variant: str, round: int) -> list[Example]:
    """The examples a variant trains on after a round: of all rounds so far, or of this one."""
    run.progress.stage(f"build {variant}, examples", None)
    examples, rejected = build_rounds(
        run.ledger,
        lambda: run.box,
        variant,
        rounds_of(run.config, round),
        limits=run.limits,
        progress=run.progress,
    )
    run.progress.step(0, left_out=len(rejected))
    run.progress.close()
    return examples


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


# -- training -------------------------------------------------------------------------------


def train_variant(
    run: Run, variant: str, round: int, examples: Sequence[Example]
) -> Checkpoint | None:
    """The student trained on a variant after a round; None: there is no example to train on."""
    if not examples:
        run.progress.say(f"{variant}: no example to train on")
        return None
    base = run.config.student.model
    if run.config.run.start == "last" and round > 1:
        earlier = [c for c in run.ledger.checkpoints() if c.variant == variant]
        base = next((c.path for c in reversed(earlier) if c.round == round - 1), base)
    settings = train_settings(run.config.train, run.config.run.seed)
    key = data_hash(
        checkpoint_of(base), examples, settings, api=run.config.student.api or "completions"
    )
    for checkpoint in run.ledger.checkpoints():
        facts = (checkpoint.data_hash, checkpoint.variant, checkpoint.round)
        if facts == (key, variant, round) and Path(checkpoint.path, "config.json").is_file():
            return checkpoint
    out = run.dir / "checkpoints" / f"round{round}-{variant}-{key[:8]}"
    metrics = _trained(run, base, examples, out, settings, key, variant)
    checkpoint = Checkpoint(
        checkpoint_id=content_id(key, variant, round),
        path=str(out),
        base=base,
        variant=variant,
        round=round,
        examples=len(examples),
        data_hash=key,
        settings=run.config.train.model_dump(),
        metrics=metrics,
    )
    run.ledger.add_checkpoint(checkpoint)
    return checkpoint


def _trained(
    run: Run,
    base: str,
    examples: Sequence[Example],
    out: Path,
    settings: TrainTable,
    key: str,
    variant: str,
) -> dict[str, float]:
    manifest = out / "manifest.json"
    if manifest.is_file():
        # the checkpoint was finished and its process killed before the ledger heard of it
        told = json.loads(manifest.read_text(encoding="utf-8"))
        if told.get("data_hash") == key:
            return {k: float(v) for k, v in told["metrics"].items()}
    return _train(base, examples, out, settings, run.config, run.progress, f"train {variant}")


def _train(
    base: str,
    examples: Sequence[Example],
    out: Path,
    settings: TrainTable,
    config: Config,
    progress: Progress,
    title: str,
) -> dict[str, float]:
    begun = False

    def on_step(step: Step) -> None:
        nonlocal begun
        if not begun:
            progress.stage(f"{title} on {len(examples)} examples, steps", step.steps)
            begun = True
        progress.step(1)

    api = config.student.api or "completions"
    metrics = train(checkpoint_of(base), examples, out, settings, api=api, on_step=on_step)
    progress.close()
    return metrics


def train_settings(table: TrainTable, seed: int) -> TrainTable:
    """The [train] table with the seed that holds where it names none."""
    return table if table.seed is not None else table.but(seed=seed)


# -- the commands ---------------------------------------------------------------------------


def build_run(
    run_dir: Path,
    variant: str,
    fmt: str,
    out: Path,
    round: int | None,
    untested: bool,
    progress: Progress,
    *,
    unsafe: bool = False,
) -> dict[str, Any]:
    """``persd build``: write a variant's data set; gives examples, rejected by reason, path.

    ``unsafe`` is asked for anew, whatever the run's config says: a run may be somebody else's.
    """
    parts_of(variant)
    refuse_target(out, "the data set")
    with Ledger(run_dir, create=False) as ledger:
        rounds = ledger.rounds()
        if not rounds or (round is not None and round not in rounds):
            raise UserError(
                f"the run holds rounds {rounds}, not {round}" if rounds else "nothing is collected",
                where=str(run_dir),
                hint="persd collect CONFIG.toml",
            )
        chosen = [round] if round is not None else rounds[-1:]
        progress.stage(f"build {variant}, examples", None)
        with Sandbox(unsafe=unsafe) as box:
            examples, rejected = build_rounds(
                ledger,
                lambda: box,
                variant,
                chosen,
                untested=untested,
                limits=limits_of(stored_config(ledger)),
                progress=progress,
            )
        progress.step(0, left_out=len(rejected))
        progress.close()
        export(examples, fmt, out, variant=variant, rejected=rejected)
    reasons = dict(sorted(Counter(r.reason for r in rejected).items()))
    return {"examples": len(examples), "rejected": reasons, "path": str(out)}


def train_run(
    run_dir: Path,
    variant: str,
    out: Path,
    model: str | None,
    progress: Progress,
    *,
    unsafe: bool = False,
) -> dict[str, Any]:
    """``persd train``: fine-tune a base on a variant of a run, into a folder of the user's.

    ``unsafe`` as for ``build_run``.
    """
    with Ledger(run_dir, create=False) as ledger:
        config = stored_config(ledger)
        with Sandbox(unsafe=unsafe) as box:
            rounds = rounds_of(config, max(ledger.rounds(), default=0))
            examples, _ = build_rounds(
                ledger, lambda: box, variant, rounds, limits=limits_of(config)
            )
    if not examples:
        raise UserError(
            f"the run has no example of {variant}", where=str(run_dir), hint="persd report RUN"
        )
    base = model or config.student.model
    settings = train_settings(config.train, config.run.seed)
    metrics = _train(base, examples, out, settings, config, progress, f"train {variant}")
    counts = {k: int(v) if v.is_integer() and k != "epochs" else v for k, v in metrics.items()}
    return {**counts, "examples": len(examples), "path": str(out), "base": base}
