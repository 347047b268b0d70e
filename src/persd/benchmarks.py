"""The held-out tasks a model is scored on, read once a folder, their seen tests validated."""

from __future__ import annotations

from pathlib import Path

from persd import tasks as task_sources
from persd.config import EvaluateTable
from persd.errors import UserError
from persd.records import Task, content_id
from persd.session import Session
from persd.tasks.check import sound_seen

#: Benchmarks that the embedded family makes, and the split each is.
LAB_SPLITS = {"lab": "test", "lab-validation": "validation"}


def held_out(session: Session, benchmark: str, table: EvaluateTable) -> list[Task]:
    """The tasks of a benchmark: read once, then the folder's own, so that all models meet the
    same. Tasks without a test are left out. Raises UserError for a benchmark that cannot be read
    or holds no task."""
    seed = session.seed if table.seed is None else table.seed
    # kept under what chose them: another limit or file is another set of tasks
    chosen_by = content_id(table.limit, table.data.get(benchmark), seed)
    place = f"{benchmark} {chosen_by}"
    stored = session.ledger.tasks(place)
    if stored:
        return stored
    source, path = source_of(benchmark, table)
    loaded = task_sources.load(
        source,
        path=path,
        limit=table.limit,
        split=LAB_SPLITS.get(benchmark, "test"),  # type: ignore[arg-type]
        seed=seed,
    )
    # a seen test that the reference fails is not a test: its feedback would mislead
    tasks = list(sound_seen(session.box, (t for t in loaded if t.tested)))
    if not tasks:
        raise UserError("it holds no task with a test", where=table.data.get(benchmark, benchmark))
    session.ledger.add_tasks(tasks, place)
    return tasks


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
