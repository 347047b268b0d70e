"""READ FIRST: one round of personalised distillation (PERsD, section 3; Chen et al. 2023).

    tasks ─> direct ─> attempt ─> verify ─failed─> refine ─> verify ─> examples ─> train ─> evaluate
             teacher   student    sandbox          teacher   sandbox   variants    student
                       ^                                                           │
                       └──────────────────────── next round ───────────────────────┘

Every stage is a generator from cases to cases: a task that has failed is with the teacher
while others are still being attempted. A stage that ends a task says so by ``run.end`` with a
named state and passes the rest on; at the end of a round every task has one.
"""

from __future__ import annotations

from collections.abc import Sequence

from persd.attempt import attempt
from persd.build import build_examples
from persd.direct import direct
from persd.evaluate import evaluate_benchmarks
from persd.records import VARIANTS, Checkpoint, Task, Variant
from persd.refine import refine
from persd.run import Run
from persd.screen import screen
from persd.train.of_run import train_variant


def collect(run: Run, round: int, student: str, pilot: Sequence[Task] | None = None) -> None:
    """Take every task of one round, or of a pilot, to a named state; what is stored is not
    asked for again. Raises KeyboardInterrupt where it was stopped before the end."""
    with run.collecting(round, pilot) as tasks:
        tasks = screen(run, tasks, round)  # none that the run is evaluated on
        pool = direct(run, tasks, round)  # (t, u, c) with c verified: the pool D
        failed = attempt(run, pool, round, student)  # (t, a, f): what the student cannot do yet
        refine(run, failed, round)  # (t, a, f, r) with r verified: F


def one_round(run: Run, round: int, student: str) -> dict[Variant, Checkpoint]:
    """Collect, build, train and evaluate one round; gives the trained student a variant."""
    collect(run, round, student)
    trained: dict[Variant, Checkpoint] = {}
    for variant in sorted(run.config.run.variants, key=VARIANTS.index):
        examples = build_examples(run, variant, round)
        if checkpoint := train_variant(run, variant, round, examples):
            trained[variant] = checkpoint
            evaluate_benchmarks(run, variant, round, checkpoint.path, checkpoint)
    return trained


def run_all(run: Run) -> None:
    """Every round of a run, each with the student that the round before trained."""
    student = run.config.student.model
    evaluate_benchmarks(run, "base", 0, student, None)
    for round in range(1, run.config.run.rounds + 1):
        trained = one_round(run, round, student)
        promoted = trained.get(run.config.run.promoted)
        if promoted is None:
            return
        student = promoted.path
