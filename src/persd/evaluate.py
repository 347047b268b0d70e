"""Did the student get better? Samples on held-out tasks, judged, scored with intervals.

PERsD, section 4.2: pass@k of n samples a task at top-p 0.95. In multi-step inference (section
3.3) step 1 writes from the task; a later step asks the same model to refine, with the very
prompt it was trained on, those samples whose *seen* tests fail. The score is on the hidden
tests at every step, and no step's feedback ever comes from them. Beside a later step stands its
control: as many calls spent on blind new samples of the task, in place of the same samples.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from persd.benchmarks import held_out
from persd.calls import Asker
from persd.config import EvaluateTable
from persd.direct import solution_of
from persd.domains.code import feedback, refine_prompt, task_prompt
from persd.errors import WorkFailed
from persd.outcomes import TRUNCATED, by_task, counts, outcome_of
from persd.records import (
    Checkpoint,
    Evaluation,
    Message,
    Request,
    Solution,
    Task,
    Verdict,
    content_id,
    content_of,
    derive_seed,
)
from persd.run import Run
from persd.scores import score as score_of
from persd.session import NOT_ATTEMPTS, Session

Control = Literal["", "resample"]


@dataclass(frozen=True, slots=True)
class Sample:
    """One sample of one task as it stands after a step. Its text stays in the ledger."""

    task: Task
    number: int
    """Which sample of the task, from 0."""
    solution_id: str
    status: str
    """The judge's, on the hidden tests."""
    outcome: str
    """``outcomes.outcome_of``."""
    told: str | None = None
    """Feedback of the first seen test that fails; None: none fails, or there is none."""
    is_attempt: bool = True
    """False: nothing was written, for the prompt did not fit or was not taken."""


@dataclass(frozen=True, slots=True)
class Exam:
    """What a model is scored on, and how: everything that is the same for all models."""

    session: Session
    benchmark: str
    tasks: Sequence[Task]
    table: EvaluateTable
    tells: bool = True
    """Whether a later step is told what the seen tests said; false: the ablation."""
    work: str = "the evaluation"
    """What stops where an answer is missing."""

    @property
    def seed(self) -> int:
        return self.session.seed if self.table.seed is None else self.table.seed

    def stages(self) -> list[tuple[int, Control]]:
        """Every step, and the control beside each later one."""
        later = range(2, self.table.steps + 1)
        controls: tuple[Control, ...] = ("", "resample")
        return [(1, ""), *((s, c) for s in later for c in controls)]

    def evaluation_id(self, asker: Asker, step: int, control: Control) -> str:
        """The same model, tasks, samples and judge: the same id."""
        table = self.table.model_dump(exclude={"benchmarks", "data", "limit", "seed", "k"})
        return content_id(
            dict(asker.model.identity),
            self.benchmark,
            [content_of(t) for t in self.tasks],
            {**table, "k": sorted(self.table.k)},
            self.seed,
            self.session.judged_by,
            self.tells,
            step,
            control,
        )


OnSamples = Callable[[Evaluation, Sequence[Sample]], None]


def evaluate_benchmarks(
    run: Run, name: str, round: int, student: str, checkpoint: Checkpoint | None
) -> list[Evaluation]:
    """Score a model on every benchmark of the config; scores already stored are given back."""
    table = run.config.evaluate
    found = []
    for benchmark in table.benchmarks:
        tasks = held_out(run, benchmark, table)
        exam = Exam(run, benchmark, tasks, table, run.config.run.feedback)
        found += evaluate(exam, student, name=name, round=round, checkpoint=checkpoint)
    run.shows([e.evaluation_id for e in found])
    return found


def evaluate(
    exam: Exam,
    student: str,
    *,
    name: str,
    round: int = 0,
    checkpoint: Checkpoint | None = None,
    on_samples: OnSamples | None = None,
) -> list[Evaluation]:
    """Score a model on one benchmark: an evaluation a step, and one a control.

    What is stored is given back; what was answered is not asked again. ``on_samples`` gets
    the samples behind each. Raises WorkFailed where an answer is missing or nothing is judged.
    """
    session = exam.session
    asker = session.student(student)
    ids = {stage: exam.evaluation_id(asker, *stage) for stage in exam.stages()}
    stored = {e.evaluation_id: e for e in session.ledger.evaluations()}
    if on_samples is None and all(_is_final(stored.get(i)) for i in ids.values()):
        return [replace(stored[i], model=name, round=round) for i in ids.values()]
    samples: dict[Control, list[Sample]] = {}
    found: list[Evaluation] = []
    for (step, control), evaluation_id in ids.items():
        started = time.monotonic()
        before = samples.get(control) or samples.get("") or []
        calls, samples[control] = _stage(exam, asker, name, before, step, control)
        if control == "" and step == 1:
            samples["resample"] = samples[""]  # both go on from the same first step
        evaluation = replace(
            scored(samples[control], exam.tasks, exam.table),
            evaluation_id=evaluation_id,
            model=name,
            round=round,
            benchmark=exam.benchmark,
            step=step,
            control=control,
            calls=calls,
            seconds=time.monotonic() - started,
            checkpoint_id=checkpoint.checkpoint_id if checkpoint else None,
        )
        session.ledger.add_evaluation(evaluation)
        found.append(evaluation)
        if on_samples is not None:
            on_samples(evaluation, samples[control])
    return found


def _is_final(evaluation: Evaluation | None) -> bool:
    return evaluation is not None and not evaluation.statuses.get("not_run")


def _stage(
    exam: Exam, asker: Asker, name: str, before: Sequence[Sample], step: int, control: Control
) -> tuple[int, list[Sample]]:
    """How many replies one step asks for, and the samples as they stand after it."""
    if step == 1:
        requests = first_step(exam)
        failing: list[Sample] = []
        asked, kept = len(exam.tasks) * exam.table.samples, list[Sample]()
    else:
        failing = [s for s in before if s.told is not None]
        requests = next_step(exam, failing, step, control)
        asked, kept = len(failing), [s for s in before if s.told is None]
    which = f", step {step}" if step > 1 else ""
    by = f" ({control})" if control else ""
    progress = exam.session.progress
    progress.stage(f"evaluate {name} on {exam.benchmark}{which}{by}", asked)
    made = list(judged(exam, asker, requests, is_last=step == exam.table.steps))
    progress.close()
    return asked, kept + (made if step == 1 else _standing(failing, made))


def _standing(before: Sequence[Sample], after: Sequence[Sample]) -> list[Sample]:
    """The samples after a later step: where it wrote no whole program, the one before stands.

    Else a failure that was cut, or whose prompt is too long, would leave the score, and what is
    left of it would look better with nothing solved.
    """
    earlier = {(s.task.task_id, s.number): replace(s, told=None) for s in before}
    return [
        s if s.is_attempt and s.outcome != TRUNCATED else earlier[s.task.task_id, s.number]
        for s in after
    ]


def first_step(exam: Exam) -> Iterator[Request]:
    """``samples`` samples of every task, written from the task alone."""
    return (
        first_question(exam, task, number)
        for task in exam.tasks
        for number in range(exam.table.samples)
    )


def first_question(exam: Exam, task: Task, sample: int) -> Request:
    """The question for one sample, written from the task alone."""
    return _request(exam, task, sample, task_prompt(task))


def next_step(
    exam: Exam, failing: Sequence[Sample], step: int, control: Control
) -> Iterator[Request]:
    """The samples whose seen tests fail, refined; or, as control, drawn once more."""
    for sample in failing:
        if control:
            prompt = task_prompt(sample.task)
            yield replace(
                _request(exam, sample.task, sample.number, prompt, step, control), step=step
            )
            continue
        parent = exam.session.ledger.solution(sample.solution_id)
        assert parent is not None, "a judged sample is in the ledger"
        code = sample.task.header if parent.code is None else parent.code
        prompt = refine_prompt(sample.task, code, (sample.told or "") if exam.tells else "")
        asked = _request(exam, sample.task, sample.number, prompt, step)
        yield replace(asked, parent=parent, step=step)


def _request(exam: Exam, task: Task, sample: int, prompt: str, *which: object) -> Request:
    """One sample's question; a later step has a seed of its own."""
    return Request(
        purpose="attempt",
        messages=(Message("user", prompt),),
        task=task,
        seed=derive_seed(exam.seed, exam.benchmark, task.task_id, sample, *which),
        temperature=exam.table.temperature,
        top_p=exam.table.top_p,
        max_tokens=exam.table.max_tokens,
        benchmark=exam.benchmark,
        round=0,
        sample=sample,
    )


Written = tuple[Task, Solution]


def _answered(exam: Exam, asker: Asker, requests: Iterable[Request]) -> Iterator[Written]:
    keys = {task.task_id: content_of(task) for task in exam.tasks}
    for answer in asker.complete(requests):
        if answer.missing:
            raise WorkFailed(
                f"{exam.work} stopped, {answer.missing.replace('_', ' ')}: {answer.detail}; "
                "run it again to go on"
            )
        task, solution = answer.request.task, solution_of(answer, asker.model.name)
        # the same reply to the same prompt, judged by other tests, is another solution
        key = keys.get(task.task_id) or content_of(task)
        yield task, replace(solution, solution_id=content_id(answer.call_id, key))


def judged(
    exam: Exam, asker: Asker, requests: Iterable[Request], *, is_last: bool
) -> Iterator[Sample]:
    """Written, judged by the hidden tests and, where another step follows, by the seen ones.

    Streams, so the tasks asked about may be more than the exam names. Raises WorkFailed where an
    answer is missing.
    """
    session = exam.session
    written = ((w, *w) for w in _answered(exam, asker, requests))
    hidden = session.judge(written)

    def to_see() -> Iterator[tuple[tuple[Written, Verdict], Task, Solution | None]]:
        for (task, solution), verdict in hidden:
            sees = not is_last and bool(task.seen_tests)
            yield ((task, solution), verdict), task, solution if sees else None

    for ((task, solution), verdict), seen in session.judge(to_see(), tests="seen"):
        session.progress.step(1, passed=int(verdict.passed))
        fails = seen is not None and seen.status not in ("passed", "not_run")
        yield Sample(
            task,
            solution.sample,
            solution.solution_id,
            verdict.status,
            outcome_of(task, solution, verdict),
            feedback(seen) if fails and seen is not None else None,
            solution.finish not in NOT_ATTEMPTS,
        )


def scored(samples: Sequence[Sample], tasks: Sequence[Task], table: EvaluateTable) -> Evaluation:
    """pass@k with intervals. What was truncated or not run is counted apart, never as wrong; a
    task with fewer than k samples besides is left out of pass@k, and where all are there is none.
    """
    statuses = Counter(s.outcome if s.outcome == TRUNCATED else s.status for s in samples)
    order = {t.task_id: i for i, t in enumerate(tasks)}
    in_order = sorted(samples, key=lambda s: order[s.task.task_id])
    evaluation = Evaluation(
        evaluation_id="",
        model="",
        round=0,
        benchmark="",
        step=1,
        tasks=len(tasks),
        samples=table.samples,
        pass_at_k={},
        interval={},
        statuses=dict(sorted(statuses.items())),
        outcomes=by_task((s.task.task_id, s.outcome) for s in in_order),
    )
    found = counts(evaluation)
    scores = {str(k): s for k in table.k if (s := score_of(found, k, len(tasks)))}
    if not scores and statuses["not_run"]:
        raise WorkFailed(
            f"no task has as many as {min(table.k)} judged samples: {statuses['not_run']} could "
            f"not be run, {statuses[TRUNCATED]} were cut; persd doctor"
        )
    return replace(
        evaluation,
        pass_at_k={k: s.value for k, s in scores.items()},
        interval={k: s.interval for k, s in scores.items()},
    )
