"""Did the student get better? Samples on held-out tasks, judged, scored with intervals.

PERsD, section 4.2: pass@k of n samples a task at top-p 0.95. In multi-step inference (section
3.3) step 1 writes from the task; a later step asks the same model to refine, with the very
prompt it was trained on, those samples whose *seen* tests fail. The score is on the hidden
tests at every step, and no step's feedback ever comes from them.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from persd import tasks as task_sources
from persd.calls import Asker
from persd.config import EvaluateTable
from persd.direct import solution_of
from persd.domains.code import feedback, refine_prompt, task_prompt
from persd.errors import WorkFailed
from persd.passk import bootstrap_interval, mean_pass_at_k, pass_at_k
from persd.records import (
    Checkpoint,
    Evaluation,
    Message,
    Request,
    Solution,
    Task,
    Verdict,
    content_id,
    derive_seed,
)
from persd.run import Run
from persd.tasks.check import sound_seen


@dataclass(frozen=True, slots=True)
class Sample:
    """One sample of one task at one step, with the verdict of the hidden tests."""

    task: Task
    solution: Solution
    verdict: Verdict


def evaluate_benchmarks(
    run: Run, name: str, round: int, student: str, checkpoint: Checkpoint | None
) -> list[Evaluation]:
    """Score a model on every benchmark of the config; scores already stored are given back."""
    found = [
        evaluation
        for benchmark in run.config.evaluate.benchmarks
        for evaluation in _evaluate(run, name, round, student, benchmark, checkpoint)
    ]
    run.shows([e.evaluation_id for e in found])
    return found


def _evaluate(
    run: Run, name: str, round: int, student: str, benchmark: str, checkpoint: Checkpoint | None
) -> list[Evaluation]:
    tasks = held_out(run, benchmark)
    asker = run.student(student)
    table = run.config.evaluate
    ids = [
        content_id(
            dict(asker.model.identity),
            benchmark,
            [content_id(t) for t in tasks],
            table.model_dump(exclude={"benchmarks", "data", "limit"}),
            run.config.run.seed,
            run.config.verify.model_dump(exclude={"workers"}),
            step,
        )
        for step in range(1, table.steps + 1)
    ]
    stored = {e.evaluation_id: e for e in run.ledger.evaluations()}
    if all(i in stored and not stored[i].statuses.get("not_run") for i in ids):
        return [stored[i] for i in ids]
    run.progress.stage(f"evaluate {name} on {benchmark}", len(tasks) * table.samples * table.steps)
    started = time.monotonic()
    found: list[Evaluation] = []
    samples = list(first_step(run, asker, benchmark, tasks))
    for step, evaluation_id in enumerate(ids, 1):
        if step > 1:
            samples = list(next_step(run, asker, benchmark, samples, step))
        evaluation = replace(
            score(samples, tasks, table),
            evaluation_id=evaluation_id,
            model=name,
            round=round,
            benchmark=benchmark,
            step=step,
            seconds=time.monotonic() - started,
            checkpoint_id=checkpoint.checkpoint_id if checkpoint else None,
        )
        run.ledger.add_evaluation(evaluation)
        found.append(evaluation)
    run.progress.close()
    return found


def held_out(run: Run, benchmark: str) -> list[Task]:
    """The tasks of a benchmark: read once, then the run's own, so that all models meet the same."""
    table = run.config.evaluate
    # kept under what chose them: another limit or file is another set of tasks
    chosen_by = content_id(table.limit, table.data.get(benchmark), run.config.run.seed)
    place = f"{benchmark} {chosen_by}"
    stored = run.ledger.tasks(place)
    if stored:
        return stored
    source = benchmark if benchmark in ("humaneval", "mbpp", "lab") else "jsonl"
    path = table.data.get(benchmark) or (benchmark if source == "jsonl" else None)
    loaded = task_sources.load(
        source, path=path, limit=table.limit, split="test", seed=run.config.run.seed
    )
    # a seen test that the reference fails is not a test: its feedback would mislead
    tasks = list(sound_seen(run.box, (t for t in loaded if t.tested)))
    run.ledger.add_tasks(tasks, place)
    return tasks


def first_step(run: Run, asker: Asker, benchmark: str, tasks: list[Task]) -> Iterator[Sample]:
    """``samples`` samples of every task, written from the task alone."""
    requests = (
        _request(run, benchmark, task, sample, task_prompt(task))
        for task in tasks
        for sample in range(run.config.evaluate.samples)
    )
    return _judged(run, _answered(asker, requests))


def next_step(
    run: Run, asker: Asker, benchmark: str, samples: list[Sample], step: int
) -> Iterator[Sample]:
    """Samples whose seen tests fail are refined; the others (or without seen tests) stay."""
    with_seen = [s for s in samples if s.task.seen_tests]
    kept = [s for s in samples if not s.task.seen_tests]
    failing: list[tuple[Sample, Verdict]] = []
    judged = run.judge(((s, s.task, s.solution) for s in with_seen), tests="seen")
    for sample, seen in judged:
        if seen.status in ("passed", "not_run"):
            kept.append(sample)
        else:
            failing.append((sample, seen))
    run.progress.step(len(kept))
    yield from kept
    requests = (
        replace(
            _request(run, benchmark, s.task, s.solution.sample, _refine_text(s, seen), step),
            parent=s.solution,
            step=step,
        )
        for s, seen in failing
    )
    yield from _judged(run, _answered(asker, requests))


def _request(run: Run, benchmark: str, task: Task, sample: int, prompt: str, *step: int) -> Request:
    """One sample's question; a later step has a seed of its own."""
    table = run.config.evaluate
    return Request(
        purpose="attempt",
        messages=(Message("user", prompt),),
        task=task,
        seed=derive_seed(run.config.run.seed, benchmark, task.task_id, sample, *step),
        temperature=table.temperature,
        top_p=table.top_p,
        max_tokens=table.max_tokens,
        benchmark=benchmark,
        round=0,
        sample=sample,
    )


def _refine_text(sample: Sample, seen: Verdict) -> str:
    code = sample.solution.code
    return refine_prompt(sample.task, sample.task.header if code is None else code, feedback(seen))


def _answered(asker: Asker, requests: Iterable[Request]) -> Iterator[tuple[Task, Solution]]:
    for answer in asker.complete(requests):
        if answer.missing:
            raise WorkFailed(
                f"the evaluation stopped, {answer.missing.replace('_', ' ')}: {answer.detail}; "
                "run it again to go on"
            )
        yield answer.request.task, solution_of(answer, asker.model.name)


def _judged(run: Run, solutions: Iterable[tuple[Task, Solution]]) -> Iterator[Sample]:
    for (task, solution), verdict in run.judge(((t, s), t, s) for t, s in solutions):
        run.progress.step(1, passed=int(verdict.passed))
        yield Sample(task, solution, verdict)


def score(samples: Iterable[Sample], tasks: list[Task], table: EvaluateTable) -> Evaluation:
    """pass@k with intervals; a sample that was not run is left out and counted, never wrong."""
    counts: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    statuses: Counter[str] = Counter()
    for sample in samples:
        statuses[sample.verdict.status] += 1
        if sample.solution.finish == "length":
            statuses["cut"] += 1
        if sample.verdict.status != "not_run":
            counts[sample.task.task_id][0] += 1
            counts[sample.task.task_id][1] += int(sample.verdict.passed)
    in_order = (counts[t.task_id] for t in tasks if t.task_id in counts)
    rows = [(n, c) for n, c in in_order if n >= max(table.k)]
    if not rows:
        raise WorkFailed(
            f"no task has {max(table.k)} judged samples; the judge could not run "
            f"{statuses['not_run']}: persd doctor"
        )
    return Evaluation(
        evaluation_id="",
        model="",
        round=0,
        benchmark="",
        step=1,
        tasks=len(rows),
        samples=table.samples,
        pass_at_k={str(k): mean_pass_at_k(rows, k) for k in table.k},
        interval={
            str(k): bootstrap_interval([pass_at_k(n, c, k) for n, c in rows]) for k in table.k
        },
        statuses=dict(sorted(statuses.items())),
    )
