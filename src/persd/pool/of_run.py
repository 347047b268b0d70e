"""A run's pool: read from its source or written by a teacher, then chosen by difficulty.

What is written goes through the run's own ledger, under its own cap. Once the pool is stored,
nothing is written or measured again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import cycle, islice
from pathlib import Path
from typing import Any, NoReturn

from persd.config import Config, GenerateTable
from persd.errors import UserError, WorkFailed
from persd.ledger import FILE_NAME, Ledger
from persd.pool.difficulty import calls_of, chosen, measured, note
from persd.pool.generate import (
    Ended,
    accepted,
    asking,
    benchmarks_of,
    generate,
    likely_questions,
)
from persd.records import Task, content_of
from persd.run import Run, read_pool
from persd.screen import against, read_benchmark
from persd.tasks import BENCHMARKS


def load_pool(run: Run) -> None:
    """Store the run's tasks, or hold them against those that the run began with.

    A source on the Hub is not fetched again once its tasks are stored; what is written by a
    teacher, or chosen by difficulty, is made once. Raises UserError or WorkFailed where fewer
    tasks came than are wanted (what came is kept, and the next run goes on), KeyboardInterrupt
    where it was stopped.
    """
    table = run.config.tasks
    is_made = table.generate is not None or table.difficulty is not None
    on_hub = table.path is None and table.source in BENCHMARKS
    if run.ledger.count_tasks() and (is_made or on_hub):
        return
    if is_made:
        _make(run)
    else:
        run.store_tasks(read_pool(run.config))


def _make(run: Run) -> None:
    """Have the pool written, or read, and choose from it."""
    table = run.config.tasks
    if table.generate is not None:
        _write(run, table.generate)
        tasks = accepted(run.ledger, table.generate.count)
    else:
        tasks = _read(run.config)
    # nobody is asked while they are being stored
    run.store_tasks(_chosen(run, tasks))


def refuse_unwritten(config: Config) -> None:
    """Raise UserError where a pilot would have a whole pool written and paid for first."""
    rules = config.tasks.generate
    if rules is None:
        return
    folder = Path(config.run.dir)
    if (folder / FILE_NAME).is_file():
        with Ledger(folder, read_only=True) as ledger:
            if ledger.count_tasks():
                return
    raise UserError(
        f"a pilot needs the pool, and its {rules.count} tasks are still to be written",
        where=str(folder),
        hint="persd tasks generate --count 20 shows what tasks cost; --dry-run, what the run asks",
    )


# -- written by a teacher -----------------------------------------------------------------------


def _write(run: Run, rules: GenerateTable) -> None:
    """Have a teacher write a run's tasks. Raises as ``load_pool``."""
    asked = asking(rules, run.config.run.seed, run.is_unsafe)
    benchmarks = benchmarks_of(run, rules, 'set tasks.generate.data = {{ "{}" = "FILE" }}')
    for name in against(run):  # of which [evaluate] may have some tasks, or another file
        named = benchmarks.get(name, ())
        known = {content_of(task) for task in named}
        scored = (t for t in read_benchmark(run, name) if content_of(t) not in known)
        benchmarks[name] = [*named, *scored]
    ended = generate(run, rules, asked, benchmarks)
    if ended.why == "stopped":
        raise KeyboardInterrupt
    if ended.why != "enough":
        _refuse_short(run, rules, ended)


def _refuse_short(run: Run, rules: GenerateTable, ended: Ended) -> NoReturn:
    """Raise where too few tasks were written. A pool that came out smaller because the money ran
    out would be another pool once there is more, so the run does not go on with it."""
    count = sum(1 for _ in accepted(run.ledger))
    got = f"{count} of {rules.count} tasks are written"
    if ended.why == "over_budget":
        lower = f", or tasks.generate.count = {count}" if count else ""
        raise UserError(
            f"{got}: {ended.detail}",
            where=str(run.dir),
            hint=f"raise the teacher's budget_usd{lower}, and run it again to go on",
        )
    raise WorkFailed(f"{got}, and no more come: {ended.detail}; what was accepted is kept")


# -- chosen by difficulty -----------------------------------------------------------------------


def _read(config: Config) -> Iterator[Task]:
    """A source's tasks: all that the choice is made from."""
    table = config.tasks
    # the embedded family makes as many as are asked for
    if table.difficulty is None or table.difficulty.select == "none" or table.source == "lab":
        return read_pool(config)
    whole = table.model_copy(update={"limit": None})
    return read_pool(config.model_copy(update={"tasks": whole}))


def _chosen(run: Run, tasks: Iterator[Task]) -> Iterable[Task]:
    """The pool as [tasks.difficulty] wants it, and at most ``tasks.limit`` of it."""
    table, limit = run.config.tasks.difficulty, run.config.tasks.limit
    if table is None:
        return islice(tasks, limit)
    student = run.config.student
    if table.select == "none":
        tasks = islice(tasks, limit)
    if table.samples:
        rules = run.config.tasks.generate
        total = None if rules is None else rules.count
        tasks = measured(
            run, tasks, table.samples, student=student, model=student.model, total=total
        )
    with run.heeding():
        found = chosen(tasks, table.select, limit, student.model)
    note(
        run.ledger,
        found,
        student=student.model,
        samples=table.samples,
        select=table.select,
    )
    if not found.tasks:
        raise UserError(
            f"the student solves all {found.rates.tasks} tasks, so none is left to learn from",
            where=str(run.dir),
            hint='take harder tasks, or set tasks.difficulty.select = "none"',
        )
    return found.tasks


# -- before anything is asked -------------------------------------------------------------------


def likely_pool(
    config: Config, ledger: Ledger | None
) -> tuple[list[Task], dict[str, Any], list[str]]:
    """The tasks that a run will have, as far as that can be told before its pool is made (those
    that are to be written are taken to be like the seeds); what making it still asks:
    ``pool_questions`` for tasks (as many as are usual), ``pool_usd_at_most`` for them,
    ``pool_attempts`` at measuring difficulty; and what is guessed, in words."""
    table, found, notes = config.tasks, dict[str, Any](), list[str]()
    if table.generate is None:
        tasks = list(read_pool(config))
    else:
        rules, seed = table.generate, config.run.seed
        asked = asking(rules, seed, config.verify.unsafe)
        likely = likely_questions(rules, asked, seed, ledger)
        usd = likely.usd(config.teacher[rules.author])
        found |= {"pool_questions": likely.questions, "pool_usd_at_most": usd}
        count = min(rules.count, table.limit or rules.count)
        alike = enumerate(islice(cycle(asked.known), count))
        tasks = [replace(task, task_id=f"task {n}") for n, task in alike]
        notes.append(
            f"the {rules.count} tasks are still to be written, and taken to be like the "
            f"{asked.name}; what that asks comes on top"
        )
    if table.difficulty is not None:
        if table.difficulty.select == "learnable":
            notes.append("tasks that the student always solves will be left out")
        if table.difficulty.samples:
            whole = table.generate.count if table.generate else sum(1 for _ in _read(config))
            found["pool_attempts"] = calls_of(table.difficulty, whole, table.limit)
    return tasks, found, notes
