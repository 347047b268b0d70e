"""From the examples of a run to a trained student: what was trained before is taken as it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

from persd.build import build_rounds, rounds_of
from persd.config import Config, StudentTable, TrainTable, retrained, seeded
from persd.errors import UserError
from persd.ledger import Ledger
from persd.models import checkpoint_of
from persd.progress import Progress, short
from persd.records import Checkpoint, Example, Step, content_id
from persd.run import Run, limits_of, stored_config
from persd.sandbox import Sandbox
from persd.tokens import Api
from persd.train import OnStep, data_hash, ranks, train, without_passes
from persd.train.folder import manifest_of, refuse_other
from persd.train.mix import with_mix
from persd.train.ready import refuse_unready
from persd.train.watching import STEPS_FILE, read_steps


@dataclass(frozen=True, slots=True)
class Job:
    """One training: all that its weights follow from."""

    student: StudentTable
    """Where the base comes from, and how it is asked."""
    examples: Sequence[Example]
    settings: TrainTable

    @property
    def base(self) -> str:
        return checkpoint_of(self.student.model)

    @property
    def api(self) -> Api:
        return self.student.form

    def key(self, *, going_on: bool = False) -> str:
        """Its content hash; ``going_on``: that of a stopped one which it goes on with. Raises
        UserError where the base is missing."""
        settings = without_passes(self.settings) if going_on else self.settings
        revision = self.student.revision
        return data_hash(self.base, self.examples, settings, api=self.api, revision=revision)

    def run(self, out: Path, progress: Progress, on_step: OnStep | None = None) -> dict[str, float]:
        """Train it into ``out``, telling the steps; gives its metrics."""
        teller = _Teller(progress, f"train {self.name}, steps")

        def told(step: Step) -> None:
            teller.tell(step)
            if on_step:
                on_step(step)

        metrics = train(
            self.base,
            self.examples,
            out,
            self.settings,
            api=self.api,
            revision=self.student.revision,
            trust_remote_code=self.student.trust_remote_code,
            on_step=told,
        )
        progress.close()
        return metrics

    @property
    def name(self) -> str:
        """The variant that is trained on; of a mixture, the first."""
        return self.examples[0].variant


class _Teller:
    """Tells the steps of a training as progress, from the first that this process makes."""

    def __init__(self, progress: Progress, title: str) -> None:
        self.progress, self.title = progress, title
        self.first: Step | None = None

    def tell(self, step: Step) -> None:
        if self.first is None:
            self.first = step
            if step.step > 1:
                self.progress.say(f"going on at step {step.step} of {step.steps}")
            self.progress.stage(self.title, step.steps)
            self.progress.resume(step.step - 1)
        self.progress.note(self._said(self.first, step))
        self.progress.step(int(step.held_out is None))

    def _said(self, first: Step, step: Step) -> str:
        """A step in a few words: its loss, and the speed since the first."""
        held_out = f", held out {step.held_out:.3f}" if step.held_out is not None else ""
        tokens, seconds = step.tokens - first.tokens, step.seconds - first.seconds
        rate = f", {short(round(tokens / seconds))} tokens/s" if tokens > 0 < seconds else ""
        return f"loss {step.loss:.3f}{held_out}{rate}"


# -- the students of a run ----------------------------------------------------------------------


def train_variant(
    run: Run, variant: str, round: int, examples: Sequence[Example]
) -> Checkpoint | None:
    """The student trained on a variant after a round; None: there is no example to train on."""
    if not examples:
        run.progress.say(f"{variant}: no example to train on")
        return None
    settings = seeded(run.config.train, run.config.run.seed)
    job = Job(_base(run, variant, round), examples, settings)
    key = job.key()
    for checkpoint in run.ledger.checkpoints():
        facts = (checkpoint.data_hash, checkpoint.variant, checkpoint.round)
        if facts == (key, variant, round) and finished(checkpoint.path, key):
            return checkpoint
    out = run.dir / "checkpoints" / f"round{round}-{variant}-{key[:8]}"
    # it may have been finished and its process killed before the ledger heard of it
    metrics = finished(out, key) or job.run(out, run.progress, partial(run.ledger.add_step, key))
    checkpoint = _checkpoint(job, key, out, round, metrics)
    run.ledger.add_checkpoint(checkpoint)
    return checkpoint


def _base(run: Run, variant: str, round: int) -> StudentTable:
    """The original student, or the variant's own of the round before (``run.start``)."""
    student = run.config.student
    if run.config.run.start == "last" and round > 1:
        earlier = [c for c in run.ledger.checkpoints() if c.variant == variant]
        path = next((c.path for c in reversed(earlier) if c.round == round - 1), None)
        if path is not None:
            return student.model_copy(update={"model": path, "revision": None})
    return student


def finished(folder: str | Path, key: str) -> dict[str, float] | None:
    """What the training of that content hash said, where it is finished there; else None."""
    told = manifest_of(folder)
    if told.get("data_hash") != key or not any(Path(folder).glob("*.safetensors")):
        return None
    return {name: float(value) for name, value in told["metrics"].items()}


def _checkpoint(
    job: Job, key: str, out: Path, round: int, metrics: Mapping[str, float]
) -> Checkpoint:
    return Checkpoint(
        checkpoint_id=content_id(key, job.name, round),
        path=str(out),
        base=job.student.model,
        variant=job.name,
        round=round,
        examples=len(job.examples),
        data_hash=key,
        settings=job.settings.model_dump(mode="json"),
        metrics=metrics,
    )


# -- the command --------------------------------------------------------------------------------


def train_run(
    run_dir: Path,
    variant: str,
    out: Path,
    model: str | None,
    progress: Progress,
    *,
    asked: Mapping[str, Any] = MappingProxyType({}),
    overrides: Sequence[str] = (),
    unsafe: bool = False,
) -> dict[str, Any]:
    """``persd train``: fine-tune a base on a variant of a run, into a folder of the user's.

    ``asked``: keys of [student] that hold for ``model``. ``overrides`` lie over the run's [train];
    ``unsafe`` as for ``persd build``. The ledger is open while examples are built and once it is
    done, so that several may train on one run. What ``out`` holds already is not trained again.
    Gives the metrics, with ``path`` and ``base``.
    """

    def built() -> tuple[Job, int]:
        with Ledger(run_dir, create=False) as ledger:
            config = retrained(stored_config(ledger), overrides)
            refuse_unready(config.train)
            student = config.student
            if model:
                student = student.model_copy(update={"model": model, "revision": None})
            student = StudentTable.model_validate(student.model_dump() | dict(asked))
            return _job(ledger, variant, config, student, progress, unsafe)

    job, round = ranks.from_main(built)
    key = job.key()
    metrics = ranks.from_main(lambda: finished(out, key))
    if metrics is None:
        ranks.from_main(lambda: refuse_other(out, key, job.key(going_on=True)))
        metrics = job.run(out, progress)
    else:
        progress.say(f"{out} holds this very training: it is not done again")
    if ranks.is_main():
        _note(run_dir, _checkpoint(job, key, out.resolve(), round, metrics), progress)
    counts = {k: int(v) if v.is_integer() and k != "epochs" else v for k, v in metrics.items()}
    return {
        **counts,
        "path": str(out),
        "base": job.student.model,
    }


def _job(
    ledger: Ledger,
    variant: str,
    config: Config,
    student: StudentTable,
    progress: Progress,
    unsafe: bool,
) -> tuple[Job, int]:
    """What is to be trained, and the last round its examples come from."""
    last = max(ledger.rounds(), default=0)
    settings = seeded(config.train, config.run.seed)
    with Sandbox(unsafe=unsafe) as box:

        def build(name: str) -> list[Example]:
            rounds = rounds_of(config, last)
            limits = limits_of(config)
            return build_rounds(ledger, lambda: box, name, rounds, limits=limits)[0]

        examples = with_mix(build(variant), settings, build, student, progress)
    if not examples:
        raise UserError(
            f"the run has no example of {variant}",
            where=str(ledger.run),
            hint=f"persd report {ledger.run} shows what became of its tasks.",
        )
    return Job(student, examples, settings), last


def _note(run_dir: Path, checkpoint: Checkpoint, progress: Progress) -> None:
    """Note a training down in the run's ledger; where that cannot be it is told, and no error."""
    try:
        with Ledger(run_dir, create=False) as ledger:
            for step in read_steps(Path(checkpoint.path, STEPS_FILE)):
                ledger.add_step(checkpoint.data_hash, step)
            ledger.add_checkpoint(checkpoint)
    except UserError as e:
        progress.say(f"the training is not noted in the run's ledger: {e.one_line()}")
