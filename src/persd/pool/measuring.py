"""``persd tasks difficulty``: a task file again, with a student's pass rates.

In a folder of its own, whose ledger holds every sample, so that the same command goes on where it
was broken off and a higher ``--samples`` asks only for what is missing. Rows of the user's own file
stay as they are, beside the key ``difficulty``.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from persd.config import StudentTable, VerifyTable
from persd.errors import UserError
from persd.evaluating import refuse_endpoint, slug
from persd.pool.difficulty import KEY, Chosen, Rates, Select, chosen, measured, measured_for, note
from persd.pool.files import Source, refuse_outs, row_of, write_rows
from persd.progress import QUIET, Progress
from persd.records import Task
from persd.report.money import money
from persd.report.text import number, usd
from persd.session import Session
from persd.tasks.rows import Row, read_rows

#: Where a source's folder is made when none is given.
FOLDER = Path("runs/difficulty")
#: A bar of the histogram in the terminal: what it is drawn with, and how long it is at most.
BAR, WIDTH = "▇", 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What is measured, for whom, and where it goes."""

    source: str
    """The name of a source, or a task file."""
    student: StudentTable
    """Who is asked, and how it is sampled."""
    samples: int
    out: Path
    data: Path | None = None
    """Local file of a source that is a benchmark; None: the Hub."""
    limit: int | None = None
    """Tasks to measure, from the first on; of a choice: tasks to take. None: all."""
    select: Select = "none"
    run: Path | None = None
    """The folder of its ledger; None: one named after the source."""
    seed: int = 0
    verify: VerifyTable = VerifyTable()  # noqa: RUF009 (it is frozen)

    @property
    def folder(self) -> Path:
        return self.run or FOLDER / slug(Path(self.source).name.split(".")[0])


def measure(order: Order, progress: Progress = QUIET) -> dict[str, Any]:
    """Measure the tasks of a source and write them with their pass rates, whole or not at all.

    For JSON: ``Rates.plain`` (of a choice ``Chosen.plain``), ``student``, ``samples`` of a task,
    ``select``, ``written`` tasks, ``path``, ``run``, ``calls`` and ``usd`` (None: unknown) of all
    that the folder holds of this, ``seconds``.

    Raises UserError before anything is asked for a source, model or file that is none, WorkFailed
    where an answer is missing; what was answered is kept.
    """
    started = time.monotonic()
    source = Source(order.source, order.data, order.verify.unsafe)
    spec = order.student
    for path in refuse_outs([order.out], [source.own, order.data]):
        progress.say(f"{path} is replaced")
    refuse_endpoint(spec, spec.temperature, order.samples)
    total = _checked(order, source)
    with Session(
        order.folder, seed=order.seed, student=spec, verify=order.verify, progress=progress
    ) as session:
        session.student(spec.model)  # one that is not there is told at once
        found, written = _written(session, order, source, total)
        if session.ledger.meta("config") is None:  # a run keeps how its own pool was chosen
            told = {"student": spec.model, "samples": order.samples, "select": order.select}
            note(session.ledger, found, **told)  # type: ignore[arg-type]
        session.ledger.flush()
        spent = [s.sum for s in money(session.ledger).spending if s.stage == KEY]
    return {
        **found.plain(),
        "student": spec.model,
        "samples": order.samples,
        "select": order.select,
        "written": written,
        "path": str(order.out),
        "run": str(order.folder),
        "calls": sum(s.calls for s in spent),
        "usd": None if any(s.unknown for s in spent) else sum(s.usd_known for s in spent),
        "seconds": round(time.monotonic() - started, 3),
    }


def _checked(order: Order, source: Source) -> int:
    """How many tasks are to be measured. Raises UserError at the first row that is no task, so
    that nobody is asked in vain."""
    ids: set[str] = set()
    for task in _tasks(order, source):
        if task.task_id in ids:
            raise UserError(f"two tasks have the id {task.task_id!r}", where=task.source)
        ids.add(task.task_id)
    if not ids:
        raise UserError("it holds no task", where=order.source)
    return len(ids)


def _tasks(order: Order, source: Source) -> Iterator[Task]:
    return islice(source.tasks(), order.limit if order.select == "none" else None)


def _written(
    session: Session, order: Order, source: Source, total: int
) -> tuple[Rates | Chosen, int]:
    """What was found, and how many tasks the file holds."""
    spec = order.student
    tasks = measured(
        session, _tasks(order, source), order.samples, student=spec, model=spec.model, total=total
    )
    if order.select != "none":
        found = chosen(tasks, order.select, order.limit, spec.model)
        if not found.tasks:
            raise UserError(
                f"the student solves all {found.rates.tasks} tasks, so none is left to write",
                where=order.source,
                hint="take harder tasks, or --select none",
            )
        return found, write_rows(order.out, _rows_of(source, found.tasks))
    rates = Rates()

    def counted() -> Iterator[Task]:
        for task in tasks:
            rates.add(task, spec.model)
            yield task

    return rates, write_rows(order.out, _rows(source, counted()))


Fields = Mapping[str, Any]


def _rows(source: Source, tasks: Iterable[Task]) -> Iterator[Fields]:
    """The rows of a source's tasks, which are in its order, with their pass rates."""
    if source.own is None:
        return map(row_of, tasks)
    return (_with_rate(row, task) for task, row in zip(tasks, _own(source.own), strict=False))


def _rows_of(source: Source, tasks: Sequence[Task]) -> Iterator[Fields]:
    """The rows of some of them, in another order."""
    if source.own is None:
        return map(row_of, tasks)
    wanted = {t.task_id for t in tasks}
    rows = {i: row for row in _own(source.own) if (i := str(row["task_id"])) in wanted}
    return (_with_rate(rows[t.task_id], t) for t in tasks)


def _own(path: Path) -> Iterator[Fields]:
    """The rows of a file of which every row was found to be a task."""
    return (row.fields for row in read_rows(path) if isinstance(row, Row))


def _with_rate(row: Fields, task: Task) -> Fields:
    """A row with the pass rate of its task, where it has one; all else stays."""
    return row if measured_for(task) is None else {**row, KEY: task.meta[KEY]}


def readable(found: Mapping[str, Any]) -> dict[str, Any]:
    """The same for a terminal, in the order it is read."""
    told: dict[str, Any] = {
        "tasks": found["tasks"],
        "  solved now and then": found["between"],
        "  never solved": found["never"],
        "  always solved": found["always"],
        "  not known": found["unknown"],
    }
    told |= {f"samples that are no sample: {k}": n for k, n in found["apart"].items()}
    of = found["tasks"] - found["unknown"]
    for mark in found["histogram"]:
        bar = BAR * round(WIDTH * mark["tasks"] / of)
        told[f"pass rate {mark['rate']:.0%}"] = f"{bar} {number(mark['tasks'])}"
    if "left_out" in found:
        told["left out as always solved"] = found["left_out"]
        told["left out by the limit"] = found["beyond"]
    told["tasks in the file"] = found["written"]
    told["calls"] = found["calls"]
    return told if found["usd"] == 0 else {**told, "cost": usd(found["usd"])}
