"""The held-out tasks a model is scored on, read once a folder, their seen tests validated."""

from __future__ import annotations

from pathlib import Path

from persd import tasks as task_sources
from persd.config import Config, EvaluateTable
from persd.errors import UserError
from persd.records import Task, content_id
from persd.session import Session
from persd.tasks.check import sound_seen

#: Benchmarks that the embedded family makes, and the split each is.
LAB_SPLITS: dict[str, task_sources.Split] = {"lab": "test", "lab-validation": "validation"}


def held_out(session: Session, benchmark: str, table: EvaluateTable) -> list[Task]:
    """The tasks of a benchmark: read once, then the folder's own, so that all models meet the
    same. Tasks without a test are left out. Raises UserError for a benchmark that cannot be read
    or holds no task."""
    place = place_of(benchmark, table, session.seed)
    stored = session.ledger.tasks(place)
    if stored:
        return stored
    source, path = source_of(benchmark, table)
    loaded = task_sources.load(
        source,
        path=path,
        limit=table.limit,
        split=LAB_SPLITS.get(benchmark, "test"),
        seed=_seed(table, session.seed),
        mix=table.mix,
        unsafe=session.is_unsafe,
    )
    # a seen test that the reference fails is not a test: its feedback would mislead
    tasks = list(sound_seen(session.box, (t for t in loaded if t.tested)))
    if not tasks:
        raise UserError("it holds no task with a test", where=table.data.get(benchmark, benchmark))
    session.ledger.add_tasks(tasks, place)
    return tasks


def place_of(benchmark: str, table: EvaluateTable, seed: int) -> str:
    """What a ledger keeps a benchmark's tasks under: its name and what chose them, for another
    limit or file is another set of tasks. ``seed``: the run's."""
    chosen_by = content_id(table.limit, table.data.get(benchmark), table.mix, _seed(table, seed))
    return f"{benchmark} {chosen_by}"


def _seed(table: EvaluateTable, seed: int) -> int:
    """The seed of the benchmarks' tasks and samples, in a run of that seed."""
    return seed if table.seed is None else table.seed


def unlike_pool(config: Config) -> list[str]:
    """The benchmarks of a config that its pool can be held against, each once.

    Of the embedded family no split is held against the pool of the same family. They share no
    chain of steps (``lab.family.split_of``), but the words of each step: 3 in 100 of the pool
    would pass for twins of held-out tasks, and are none.
    """
    is_lab = config.tasks.source == "lab"
    names = dict.fromkeys(config.evaluate.benchmarks)
    return [n for n in names if not (is_lab and n in LAB_SPLITS)]


def source_of(benchmark: str, table: EvaluateTable) -> tuple[str, str | None]:
    """The task source a benchmark is read from, and its local file (None: the Hub)."""
    if benchmark in LAB_SPLITS:
        return "lab", None
    if benchmark in task_sources.SOURCES and benchmark != "jsonl":
        return benchmark, table.data.get(benchmark)
    path = table.data.get(benchmark, benchmark)
    if not Path(path).exists():
        known = ", ".join(s for s in task_sources.SOURCES if s not in ("jsonl", "persdistill"))
        raise UserError(
            f'unknown benchmark "{benchmark}"', hint=f"Use one of {known}, or a task file"
        )
    return "jsonl", path
