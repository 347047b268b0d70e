"""What a run is evaluated on is kept out of what it trains on.

Tasks that are a benchmark's task again (``persd.overlap``) end as ``contaminated`` before the
student or a teacher is asked about them. Held against are the benchmarks that the config names
when a task is collected; what one named later overlaps is left out when examples are built.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from persd.errors import UserError
from persd.ledger import Ledger
from persd.likeness import Match
from persd.overlap import Overlap
from persd.records import Task, content_id
from persd.run import Case, Run, stored_config


def screen(run: Run, tasks: Iterable[Task], round: int) -> Iterable[Task]:
    """The tasks that overlap no benchmark of the config; ends the others ``contaminated``.

    Streams, and may be read as often as ``tasks`` may. Where there is nothing to hold against
    one another no benchmark is read. Raises UserError where a benchmark cannot be read.
    """
    names = against(run)
    if not names:
        return tasks
    # read before any task is: reading them runs their seen tests in the box that judges tasks
    return Screened(run, tasks, round, Overlap({name: read_benchmark(run, name) for name in names}))


def against(run: Run) -> list[str]:
    """The benchmarks that the run's tasks are held against."""
    if not run.config.tasks.decontaminate:
        return []
    from persd.benchmarks import unlike_pool

    return unlike_pool(run.config)


def read_benchmark(run: Run, name: str) -> list[Task]:
    """The tasks of one of the config's benchmarks. Raises UserError where it cannot be read."""
    from persd.benchmarks import held_out

    try:
        return held_out(run, name, run.config.evaluate)
    except UserError as error:
        raise UserError(
            f"the tasks cannot be held against {name}: {error.what}",
            where=error.where,
            hint=f'set evaluate.data = {{ "{name}" = "FILE" }}, or tasks.decontaminate = false',
        ) from error


def twins(ledger: Ledger) -> dict[str, str]:
    """Of a run's pool the tasks that are a benchmark's again, by task_id, in words: held against
    those of the config's benchmarks whose tasks the ledger holds. A benchmark that was named only
    after the tasks were collected is so kept out of what is trained on, too."""
    from persd.benchmarks import place_of, unlike_pool

    if ledger.meta("config") is None:
        return {}
    config = stored_config(ledger)
    if not config.tasks.decontaminate:
        return {}
    table, seed = config.evaluate, config.run.seed
    places = {n: place_of(ledger, n, table, seed) for n in unlike_pool(config)}
    places = {name: place for name, place in places.items() if ledger.count_tasks(place)}
    if not places:
        return {}
    key = f"twins {content_id(places, ledger.count_tasks())}"
    known = ledger.meta(key)
    if known is not None:
        return dict(json.loads(known))
    overlap = Overlap({name: ledger.tasks(place) for name, place in places.items()})
    found = {t.task_id: in_words(m) for t in ledger.stream_tasks() if (m := overlap.matches(t))}
    if not ledger.read_only:
        ledger.set_meta(key, json.dumps(found))
    return found


@dataclass(frozen=True, slots=True)
class Screened:
    """The tasks of a stream that overlap no benchmark."""

    run: Run
    tasks: Iterable[Task]
    round: int
    overlap: Overlap

    def __iter__(self) -> Iterator[Task]:
        for task in self.tasks:
            matches = self.overlap.matches(task)
            if matches:
                self.run.end(Case(task), self.round, "contaminated", in_words(matches))
            else:
                yield task


def in_words(matches: list[Match]) -> str:
    """The most alike of them, and how many there are."""
    first, more = matches[0], len(matches) - 1
    words = f"{first.benchmark} {first.task_id}: {first.measure} {first.alike:.2f} alike"
    return f"{words} ({first.text or first.shared})" + (f", and {more} more" if more else "")
