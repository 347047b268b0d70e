"""One model on benchmarks, beside others: ``persd evaluate``.

A model is sampled and judged as a run's evaluation does it (``persd.evaluate``), in a folder of
its own: the ledger, so that the same command goes on where it was broken off, the samples in
evalplus's format, so that others can check the score, and ``results.json``. What somebody else
sampled is judged and scored alike; an earlier evaluation's folder is taken as it is.
"""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any

from persd.benchmarks import held_out, source_of
from persd.config import (
    Endpoint,
    EvaluateTable,
    PriceTable,
    StudentTable,
    VerifyTable,
    from_flags,
)
from persd.errors import UserError
from persd.evaluate import Exam, Sample, evaluate, scored
from persd.files import replacing
from persd.ledger import FILE_NAME, Ledger
from persd.outcomes import NOT_RUN, TRUNCATED, outcome_of
from persd.progress import QUIET, Progress
from persd.records import Evaluation, Role, Solution, Task, content_id, content_of
from persd.report.results import rows_of
from persd.report.text import number
from persd.sample_rows import Benchmark, read_samples
from persd.scores import difference_of
from persd.session import Session, price_for
from persd.tasks import BENCHMARKS, MBPP
from persd.tasks.rows import Row, Wrong

FOLDER = Path("runs/evaluate")
"""Where a model's folder is made when none is given."""
RESULTS = "results.json"
USUAL_KS = (1, 5, 10, 20)
_SAMPLES = re.compile(r"\.jsonl?(\.gz)?$")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How the models are asked and scored; what is None is chosen by what there is."""

    benchmarks: Sequence[str]
    data: Mapping[str, str] = field(default_factory=dict)
    """Local file of a benchmark, by its name."""
    samples: int | None = None
    """A task; None: 20, or as many as a samples file has."""
    ks: Sequence[int] | None = None
    """None: those of ``USUAL_KS`` that the samples allow."""
    steps: int = 1
    temperature: float = 0.2
    top_p: float = 0.95
    max_tokens: int = 512
    limit: int | None = None
    seed: int = 0
    endpoint: Mapping[str, Any] = field(default_factory=dict)
    """Keys of a ``StudentTable``; without ``base_url`` models are loaded. ``revision`` is the
    model's own, and no other's that it is compared to."""
    verify: VerifyTable = VerifyTable()  # noqa: RUF009 (it is frozen)

    @property
    def of_a_task(self) -> int:
        """Samples that a model is asked for."""
        return 20 if self.samples is None else self.samples

    def table(self, samples: int, ks: Sequence[int]) -> EvaluateTable:
        """The same as a config's table."""
        return EvaluateTable(
            benchmarks=list(self.benchmarks),
            data=dict(self.data),
            limit=self.limit,
            samples=samples,
            k=list(ks),
            steps=self.steps,
            temperature=self.temperature,
            top_p=self.top_p,
            max_tokens=self.max_tokens,
        )


@dataclass(frozen=True, slots=True)
class Subject:
    """What is scored: a model that is asked, or what one wrote before."""

    name: str
    endpoint: StudentTable | None = None
    """None: it is not asked."""
    samples: Path | None = None
    """A file or folder of samples."""
    earlier: Path | None = None
    """The folder of an earlier evaluation."""


@dataclass(slots=True)
class Scored:
    """What came of one subject."""

    name: str
    evaluations: list[Evaluation] = field(default_factory=list)
    tasks: dict[str, dict[str, str]] = field(default_factory=dict)
    """By benchmark: the content id of every task, by task_id."""
    paths: dict[str, dict[str, str]] = field(default_factory=dict)
    """By benchmark: the samples files by step (``step1``, ``step2``, ``step2-resample``)."""
    ks: Sequence[int] = ()
    calls: int = 0
    """Replies in the folder's ledger, and in ``usd`` what they cost (None: unknown)."""
    usd: float | None = 0.0


def evaluate_models(
    model: str,
    settings: Settings,
    *,
    against: Sequence[str] = (),
    out: Path | None = None,
    name: str = "",
    progress: Progress = QUIET,
) -> dict[str, Any]:
    """Score a model, and others to compare it to; all of it is also in ``out``/results.json.

    ``model`` and each of ``against``: a checkpoint's folder, a Hub id, ``lab``,
    ``scripted:FILE``, a served model's name, or samples (a file, or a folder TASK/N.py); of
    ``against`` also the folder of an earlier evaluation.

    {"model", "k", "rows" (``results.rows_of``), "differences": [{"against", "benchmark", "step",
    "k", "value", "interval", "clear", "tasks", "newly_solved", "newly_lost" (task_ids)}],
    "samples" (``Scored.paths``), "calls" and "usd" (of all that the folder holds; usd null:
    unknown), "seconds", "out"}.

    Raises UserError before anything is asked for a model, benchmark, file or option that is
    none; WorkFailed where an answer is missing or nothing can be judged.
    """
    started = time.monotonic()
    _refuse(settings)
    subject = subject_of(model, settings, name)
    others = [subject_of(other, settings, is_other=True) for other in against]
    # others' samples have a number of their own
    free = replace(settings, samples=None, ks=None, steps=1)
    places = [out or FOLDER / slug(model), *(FOLDER / slug(other) for other in against)]
    sat = [(subject, settings), *((one, free if one.samples else settings) for one in others)]
    for one, how in sat:
        _refuse_subject(one, how)
    done: dict[int, Scored] = {}
    # what is there is read first: a fault in it is told before a model is asked
    for i in sorted(range(len(sat)), key=lambda i: sat[i][0].endpoint is not None):
        one, how = sat[i]
        done[i] = _stored(one, settings) if one.earlier else _score(one, how, places[i], progress)
    this, folder = done[0], places[0]
    differences = []
    for i, other in enumerate(against, 1):
        found = _differences(this, done[i], other)
        if not found:
            progress.say(
                f"{other} shares no scored task with this one: another file, seed or limit"
            )
        differences += found
        for e in _unmatched(this, done[i]):
            progress.say(f"{other} has no step {e.step} of {e.benchmark}: not compared")
    result = _result(this, folder, differences, time.monotonic() - started)
    _write_results(this, result, folder)
    return result


# ---- what is asked for ------------------------------------------------------------------------


def _refuse(settings: Settings) -> None:
    """Raise UserError for benchmarks, data or ks that cannot be."""
    if not settings.benchmarks:
        raise UserError("no benchmark", hint="Give one, as in --benchmark humaneval")
    table = settings.table(1, [1])
    for benchmark in settings.benchmarks:
        _, path = source_of(benchmark, table)
        if path is not None and not Path(path).is_file():
            raise UserError(f"no file for {benchmark}", where=path, hint="Check --data")
    for benchmark in settings.data:
        if benchmark not in settings.benchmarks or benchmark not in BENCHMARKS:
            asked = benchmark in settings.benchmarks
            why = "which is read from no other file" if asked else "which is not evaluated"
            known = [b for b in settings.benchmarks if b in BENCHMARKS]
            raise UserError(
                f"--data is for {benchmark}, {why}",
                hint=f"Use --data {known[0]}=FILE" if known else "Leave --data out",
            )


def _refuse_subject(subject: Subject, settings: Settings) -> None:
    """Raise UserError where this subject cannot be scored so."""
    if subject.samples is not None:
        if settings.steps > 1:
            raise UserError(
                f"--steps {settings.steps}: samples that were written before have one step",
                where=str(subject.samples),
                hint="Leave --steps out, or give the model that wrote them",
            )
        if len(settings.benchmarks) > 1:
            raise UserError(
                f"samples are of one benchmark, {len(settings.benchmarks)} are asked for",
                where=str(subject.samples),
                hint=f"Use --benchmark {settings.benchmarks[0]}",
            )
    elif subject.endpoint is not None:
        samples = settings.of_a_task
        if settings.ks and max(settings.ks) > samples:
            most = max(settings.ks)
            raise UserError(
                f"pass@{most} needs {most} samples of every task, there are to be {samples}",
                hint=f"Use --samples {most}, or smaller --k",
            )
        refuse_endpoint(subject.endpoint, settings.temperature, samples)


def refuse_endpoint(spec: StudentTable, temperature: float, samples: int) -> None:
    """Raise UserError for a model that is not there, or that cannot be sampled so, before it is
    opened."""
    loaded = spec.base_url is None and not _is_script(spec.model)
    if temperature == 0 and samples > 1 and loaded:
        raise UserError(
            f"at --temperature 0 all {samples} samples of a task would be the same",
            hint="Use --samples 1, or a temperature above 0",
        )
    script = Path(spec.model.partition(":")[2])
    if _is_script(spec.model) and not script.is_file():
        raise UserError("no such script", where=str(script), hint="Check the path")
    if loaded and spec.model != "lab":
        from persd.models.checkpoint import find, need_extra

        need_extra("a model loaded in this process")
        find(spec.model, revision=spec.revision, trust_remote_code=spec.trust_remote_code)
    refuse_unpriced(spec, "student")


def subject_of(
    model: str, settings: Settings, name: str = "", *, is_other: bool = False
) -> Subject:
    """What a model's name on the command line stands for. Raises UserError for what is none."""
    path, name = Path(model), name or model
    if (path / RESULTS).is_file() and (path / FILE_NAME).is_file():
        if is_other:
            return Subject(name, earlier=path)
        raise UserError(
            "that is an evaluation, not a model",
            where=model,
            hint=f"Use --against {model}, or its samples under {path / 'samples'}",
        )
    if path.is_file() or _is_samples_folder(path):
        return Subject(name, samples=path)
    if _SAMPLES.search(model) and not _is_script(model):
        raise UserError("no such file of samples", where=model, hint="Check the path")
    if model.startswith("recorded:"):
        raise UserError(
            f"{model} says again what was written in training, which holds no evaluation samples",
            hint="Give a file of samples, or the model itself",
        )
    given = dict(settings.endpoint)
    if path.is_dir() or _is_script(model):
        given.pop("base_url", None)
    if is_other:
        given.pop("revision", None)
    endpoint = from_flags(StudentTable, {"model": model, **given}, "persd evaluate")
    return Subject(name, endpoint=endpoint)


def _is_script(model: str) -> bool:
    return model.startswith("scripted:")


def _is_samples_folder(path: Path) -> bool:
    return path.is_dir() and not (path / "config.json").exists() and any(path.glob("*/*.py"))


def slug(text: str) -> str:
    """A file name for a model or a benchmark; different ones have different names."""
    text = os.path.normpath(text)
    plain = re.sub(r"[^\w.+-]+", "-", text).strip("-.") or "model"
    is_text = plain == text and len(text) <= 100
    return plain if is_text else f"{plain[-80:]}-{content_id(text)[:6]}"


# ---- one subject ------------------------------------------------------------------------------


def _score(subject: Subject, settings: Settings, folder: Path, progress: Progress) -> Scored:
    """Every benchmark, in the subject's folder."""
    from persd.report.money import money

    done = Scored(subject.name)
    started = time.monotonic()
    if (folder / RESULTS).is_file():
        _read_results(folder)  # what would not be replaced is told before the work
    with _opened(subject, settings, folder, progress) as session:
        if subject.endpoint is not None and settings.temperature == 0:
            progress.say("at temperature 0 a model may write the same reply every time")
        for benchmark in settings.benchmarks:
            _sit(session, subject, settings, benchmark, done)
        session.ledger.flush()
        paid = money(session.ledger).all
    done.calls, done.usd = paid.calls, paid.usd
    # of those that are compared to too, so that they need not be scored again
    _write_results(done, _result(done, folder, None, time.monotonic() - started), folder)
    return done


@contextmanager
def _opened(
    subject: Subject, settings: Settings, folder: Path, progress: Progress
) -> Iterator[Session]:
    """A subject's folder; one that was made here and in which nobody was asked and nothing was
    judged is removed again."""
    student = subject.endpoint or StudentTable(model=f"samples {subject.samples}")
    is_new, is_empty = not folder.exists(), False
    try:
        with Session(
            folder, seed=settings.seed, student=student, verify=settings.verify, progress=progress
        ) as session:
            try:
                yield session
            finally:
                # what is sent is noted before, so nothing that is under way is lost
                work = ("tries", "calls", "solutions")
                is_empty = not any(session.ledger.query(f"SELECT 1 FROM {t} LIMIT 1") for t in work)
    finally:
        if is_new and is_empty:
            shutil.rmtree(folder, ignore_errors=True)


def _sit(
    session: Session, subject: Subject, settings: Settings, benchmark: str, done: Scored
) -> None:
    """One benchmark: its evaluations, and the samples behind them written."""
    samples = settings.of_a_task
    ks = settings.ks or [k for k in USUAL_KS if k <= samples]
    table = settings.table(samples, ks)
    if subject.endpoint is not None:
        session.student(subject.endpoint.model)  # one that is not there is told at once
    tasks = held_out(session, benchmark, table)
    done.tasks[benchmark] = {t.task_id: content_of(t) for t in tasks}
    paths = done.paths.setdefault(benchmark, {})

    def keep(evaluation: Evaluation, samples: Sequence[Sample]) -> None:
        step = f"step{evaluation.step}" + (evaluation.control and f"-{evaluation.control}")
        path = session.dir / "samples" / f"{slug(benchmark)}-{step}.jsonl"
        write_samples(path, session.ledger, benchmark, tasks, samples)
        paths[step] = str(path)

    if subject.samples is not None:
        found, written, ks = _score_samples(session, subject, settings, benchmark, tasks)
        keep(found, written)
        done.evaluations.append(found)
    else:
        assert subject.endpoint is not None, "an earlier evaluation is not scored again"
        exam = Exam(session, benchmark, tasks, table)
        done.evaluations += evaluate(
            exam, subject.endpoint.model, name=subject.name, on_samples=keep
        )
    done.ks = sorted(ks)


def write_samples(
    path: Path, ledger: Ledger, benchmark: str, tasks: Sequence[Task], samples: Sequence[Sample]
) -> None:
    """A line a sample, in the order of the tasks: {"task_id" (as evalplus has it), "solution"
    (the program as it was judged; the reply, where it holds none), "sample", "status",
    "outcome"}. The file is there whole or not at all.
    """
    order = {t.task_id: i for i, t in enumerate(tasks)}
    with replacing(path, "the samples", folder=True) as unfinished, unfinished.open("w") as file:
        for sample in sorted(samples, key=lambda s: (order[s.task.task_id], s.number)):
            solution = ledger.solution(sample.solution_id)
            code = "" if solution is None else solution.code
            text = solution.text if solution is not None and code is None else code
            task_id = sample.task.task_id
            row = {
                "task_id": f"Mbpp/{task_id}" if benchmark in MBPP else task_id,
                "solution": text,
                "sample": sample.number,
                "status": sample.status,
                "outcome": sample.outcome,
            }
            file.write(f"{json.dumps(row)}\n")


# ---- samples that were written before ---------------------------------------------------------


class _HeldOut(Benchmark):
    """The tasks that are scored, as what samples may name; beside them all that the benchmark
    has, of which samples are left out."""

    def __init__(self, name: str, tasks: Sequence[Task], settings: Settings) -> None:
        self.name, self.settings = name, settings
        self.source = name if name in BENCHMARKS else "jsonl"
        self.tasks = {task.task_id: task for task in tasks}
        self._whole: Benchmark | None = None
        self.outcome: object = None
        """What the row read last says of itself."""

    def task(self, row: Row) -> Task:
        try:
            return super().task(row)
        except Wrong as wrong:
            if wrong.reason != "unknown_task" or not self._has_more:
                raise
            return self.whole.task(row)

    @property
    def _has_more(self) -> bool:
        return self.name in BENCHMARKS or Path(self.name).is_file()

    @property
    def whole(self) -> Benchmark:
        if self._whole is None:
            data = self.settings.data.get(self.name)
            unsafe = self.settings.verify.unsafe
            self._whole = Benchmark(self.name, Path(data) if data else None, unsafe=unsafe)
        return self._whole

    def program(self, row: Row, task: Task) -> str:
        self.outcome = row.fields.get("outcome")
        return super().program(row, task)


#: A sample's task, number, and what its row says became of it.
_Given = tuple[Task, int, object]


def _score_samples(
    session: Session,
    subject: Subject,
    settings: Settings,
    benchmark: str,
    tasks: Sequence[Task],
) -> tuple[Evaluation, list[Sample], Sequence[int]]:
    """The score of samples that were written before, what became of each, and for which ks."""
    assert subject.samples is not None, "only samples are judged as such"
    started = time.monotonic()
    given = list(_read(session, subject, settings, benchmark, tasks))
    held = Counter(task.task_id for (task, _, _), _, _ in given)
    ks = _ks_of(held, settings, subject.samples)
    session.progress.stage(f"judge {subject.name} on {benchmark}", len(given))
    samples = []
    for ((task, count, said), solution), verdict in session.judge(
        (((item, solution), task, solution if item[2] != NOT_RUN else None))
        for item, task, solution in given
    ):
        status = NOT_RUN if verdict is None else verdict.status
        outcome = NOT_RUN if verdict is None else outcome_of(task, solution, verdict)
        if said == TRUNCATED and status not in ("passed", NOT_RUN):
            outcome = TRUNCATED
        samples.append(Sample(task, count, solution.solution_id, status, outcome))
        session.progress.step(1, passed=int(status == "passed"))
    session.progress.close()
    table = settings.table(min(held.values()), ks)
    evaluation = replace(
        scored(samples, tasks, table),
        evaluation_id=content_id(
            "samples", [(s.solution_id, s.outcome) for s in samples], ks, session.judged_by
        ),
        model=subject.name,
        benchmark=benchmark,
        seconds=time.monotonic() - started,
    )
    session.ledger.add_evaluation(evaluation)
    return evaluation, samples, ks


def _read(
    session: Session,
    subject: Subject,
    settings: Settings,
    benchmark: str,
    tasks: Sequence[Task],
) -> Iterator[tuple[_Given, Task, Solution]]:
    """The samples of the tasks that are scored. Raises UserError for a row that is none."""
    path = subject.samples
    assert path is not None, "only samples are read"
    known = _HeldOut(benchmark, tasks, settings)
    counts: Counter[str] = Counter()
    for sample in read_samples(path, known, session.limits):
        if sample.job is None:
            raise UserError(sample.fault)
        task = sample.job.task
        counts[task.task_id] += 1
        if task.task_id not in known.tasks:
            continue
        count = counts[task.task_id] - 1
        solution = _as_solution(subject.name, benchmark, task, count, sample.job.code)
        yield (task, count, known.outcome), task, solution
    missing = [t for t in known.tasks if t not in counts]
    extra = sum(n for task_id, n in counts.items() if task_id not in known.tasks)
    if len(missing) == len(known.tasks):
        raise UserError(
            f"it holds no sample of the {number(len(missing))} tasks of {benchmark} to be scored",
            where=str(path),
            hint=f"Their ids are like {missing[0]}",
        )
    if missing:
        of = f"{number(len(missing))} of {number(len(known.tasks))} tasks"
        session.progress.say(f"{of} have no sample and are left out (the first: {missing[0]})")
    if extra:
        session.progress.say(
            f"{number(extra)} samples are of tasks of {benchmark} that are not scored here"
        )


def _as_solution(author: str, benchmark: str, task: Task, count: int, code: str) -> Solution:
    return Solution(
        solution_id=content_id("sample", benchmark, content_of(task), count, code),
        task_id=task.task_id,
        kind="attempt",
        author=author,
        round=0,
        text=code,
        code=code,
        sample=count,
        benchmark=benchmark,
    )


def _ks_of(held: Mapping[str, int], settings: Settings, path: Path) -> Sequence[int]:
    """The ks that the samples allow. Raises UserError where they are not what was asked for."""
    fewest = min(held, key=lambda task_id: held[task_id])
    if settings.samples is not None:
        for task_id, count in held.items():
            if count != settings.samples:
                raise UserError(
                    f"{task_id} has {count} samples, not the {settings.samples} of --samples",
                    where=str(path),
                    hint="Leave --samples out to take what is there",
                )
    if settings.ks and max(settings.ks) > held[fewest]:
        most = max(settings.ks)
        raise UserError(
            f"pass@{most} needs {most} samples of every task, {fewest} has {held[fewest]}",
            where=str(path),
            hint=f"Use --k up to {held[fewest]}",
        )
    return settings.ks or [k for k in USUAL_KS if k <= held[fewest]]


# ---- beside others ----------------------------------------------------------------------------


def _stored(subject: Subject, settings: Settings) -> Scored:
    """What an earlier evaluation's folder holds. Raises UserError where none of it is wanted."""
    folder = subject.earlier
    assert folder is not None, "only an earlier evaluation is read"
    plain = _read_results(folder)
    wanted = {b: e for b, e in plain["evaluated"].items() if b in settings.benchmarks}
    if not wanted:
        raise UserError(
            f"it holds no score of {', '.join(settings.benchmarks)}",
            where=str(folder),
            hint=f"It holds {', '.join(plain['evaluated']) or 'none at all'}",
        )
    with Ledger(folder, create=False, read_only=True) as ledger:
        stored = {e.evaluation_id: e for e in ledger.evaluations()}
    ids = [i for entry in wanted.values() for i in entry["evaluations"]]
    tasks = {b: entry["tasks"] for b, entry in wanted.items()}
    return Scored(plain["model"], [stored[i] for i in ids if i in stored], tasks)


def _read_results(folder: Path) -> dict[str, Any]:
    """A folder's results.json. Raises UserError where it is none."""
    path = folder / RESULTS
    try:
        plain = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(plain["model"], str) and isinstance(plain["evaluated"], dict):
            return dict(plain)
        why = "it holds something else"
    except (OSError, ValueError, KeyError, TypeError) as error:
        why = repr(error)
    raise UserError(
        f"that is no evaluation's {RESULTS} ({why})",
        where=str(path),
        hint="Remove it, and evaluate that model again",
    )


def _differences(this: Scored, other: Scored, given: str) -> list[dict[str, Any]]:
    """The paired differences at every benchmark, step and k that both have."""
    theirs = _by_place(other)
    found = []
    for e in this.evaluations:
        match = theirs.get((e.benchmark, e.step))
        if e.control or match is None:
            continue
        same = _same_tasks(this, other, e.benchmark)
        for k in sorted(int(k) for k in e.pass_at_k):
            d = difference_of(_only(e, same), _only(match, same), k)
            if d is not None:
                found.append(
                    {
                        "against": given,
                        "benchmark": e.benchmark,
                        "step": e.step,
                        "k": k,
                        "value": d.value,
                        "interval": list(d.interval),
                        "clear": d.is_clear,
                        "tasks": d.tasks,
                        "newly_solved": list(d.newly_solved),
                        "newly_lost": list(d.newly_lost),
                    }
                )
    return found


def _by_place(scored: Scored) -> dict[tuple[str, int], Evaluation]:
    return {(e.benchmark, e.step): e for e in scored.evaluations if not e.control}


def _unmatched(this: Scored, other: Scored) -> list[Evaluation]:
    """What the other was not scored on."""
    theirs = _by_place(other)
    return [e for place, e in _by_place(this).items() if place not in theirs]


def _same_tasks(this: Scored, other: Scored, benchmark: str) -> set[str]:
    """Tasks of both that are the same, and not only called so."""
    theirs = other.tasks.get(benchmark, {})
    return {t for t, content in this.tasks[benchmark].items() if theirs.get(t) == content}


def _only(evaluation: Evaluation, tasks: set[str]) -> Evaluation:
    kept = {t: outcomes for t, outcomes in evaluation.outcomes.items() if t in tasks}
    return replace(evaluation, outcomes=kept)


# ---- the results ------------------------------------------------------------------------------


def _result(
    done: Scored, folder: Path, differences: list[dict[str, Any]] | None, seconds: float
) -> dict[str, Any]:
    """``differences``: None where this subject is held against nothing now."""
    return {
        "model": done.name,
        "k": list(done.ks),
        "rows": [row for row, _ in rows_of(done.evaluations)],
        "differences": differences,
        "samples": done.paths,
        "calls": done.calls,
        "usd": done.usd,
        "seconds": round(seconds, 3),
        "out": str(folder),
    }


def _write_results(done: Scored, result: dict[str, Any], folder: Path) -> None:
    """The results, and what a later comparison needs: by benchmark, which evaluations on which
    tasks. What the folder holds of the same model on other benchmarks is kept; where there are no
    differences now, so are its seconds, and its differences of the same scores."""
    before = _read_results(folder) if (folder / RESULTS).is_file() else {}
    if before.get("model") != done.name:
        before = {}
    evaluated = dict(before.get("evaluated", {}))
    for benchmark, tasks in done.tasks.items():
        ids = [e.evaluation_id for e in done.evaluations if e.benchmark == benchmark]
        evaluated[benchmark] = {"evaluations": ids, "tasks": tasks}
    whole = {**result, "evaluated": evaluated}
    if result["differences"] is None:
        whole["seconds"] = before.get("seconds", result["seconds"])
        whole["differences"] = [
            d
            for d in before.get("differences", [])
            if evaluated.get(d["benchmark"]) == before["evaluated"].get(d["benchmark"])
        ]
    with replacing(folder / RESULTS, "the results", folder=True) as unfinished:
        unfinished.write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")


# ---- what is given on the command line --------------------------------------------------------


def read_benchmarks(given: Sequence[str]) -> list[str]:
    """``humaneval,mbpp`` and repetitions as names, each once."""
    names = chain.from_iterable(part.split(",") for part in given)
    return list(dict.fromkeys(name.strip() for name in names if name.strip()))


def read_data(given: Sequence[str], benchmarks: Sequence[str]) -> dict[str, str]:
    """``NAME=FILE`` as files by name; a plain FILE is that of the one benchmark that has one.

    Raises UserError where it does not say whose file it is.
    """
    found = {}
    takers = [b for b in benchmarks if b in BENCHMARKS] or list(benchmarks[:1])
    for item in given:
        name, separator, path = item.partition("=")
        if separator and (name in benchmarks or name in BENCHMARKS):
            found[name] = path
        elif len(takers) == 1:
            found[takers[0]] = item
        else:
            raise UserError(
                f'--data "{item}" does not say of which benchmark it is',
                hint=f"Use --data {(*takers, 'humaneval')[0]}={item}",
            )
    return found


def refuse_unpriced(spec: Endpoint, role: Role) -> None:
    """Raise UserError for a cap over what nobody knows the price of."""
    if spec.budget_usd is not None and price_for(spec, role) is None:
        raise UserError(
            f"the price of {spec.model} is not known, so --budget-usd cannot be kept",
            hint="Use --price IN,OUT, in USD per million tokens",
        )


def read_price(text: str) -> PriceTable:
    """``0.25,2`` as USD per million tokens in and out. Raises UserError for what is none."""
    try:
        into, out = (float(part) for part in text.split(","))
    except ValueError:
        into = out = -1.0
    if not (math.isfinite(into) and math.isfinite(out) and min(into, out) >= 0):
        raise UserError(
            f'--price "{text}"', hint="Give USD per million tokens in and out: --price 0.25,2"
        )
    return PriceTable(input=into, output=out)
