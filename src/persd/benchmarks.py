"""The held-out tasks a model is scored on, read once a folder, their seen tests validated."""

from __future__ import annotations

from hashlib import file_digest, sha256
from pathlib import Path

from persd import tasks as task_sources
from persd.config import Config, EvaluateTable
from persd.errors import UserError
from persd.ledger import Ledger
from persd.records import Task, content_id
from persd.session import Session
from persd.tasks.sound import sound_seen

#: Benchmarks that the embedded family makes, and the split each is.
LAB_SPLITS: dict[str, task_sources.Split] = {"lab": "test", "lab-validation": "validation"}


def held_out(session: Session, benchmark: str, table: EvaluateTable) -> list[Task]:
    """The tasks of a benchmark: read once, then the folder's own, so that all models meet the
    same; read again where its local file is another than before. Tasks without a test are left
    out. Raises UserError for a benchmark that cannot be read or holds no task."""
    ledger, last = session.ledger, _last(benchmark, table, session.seed)
    now = hash_of(benchmark, table)
    place = _place(benchmark, table, session.seed, now)
    if now is None:  # a file that is not there any more: the tasks that were read of it
        place = ledger.meta(last) or place
    tasks = ledger.tasks(place)
    if not tasks:
        tasks = _read(session, benchmark, table)
        ledger.add_tasks(tasks, place)
    if ledger.meta(last) != place:
        ledger.set_meta(last, place)
    return tasks


def _read(session: Session, benchmark: str, table: EvaluateTable) -> list[Task]:
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
    return tasks


def place_of(ledger: Ledger, benchmark: str, table: EvaluateTable, seed: int) -> str:
    """What a ledger keeps a benchmark's tasks under: those it was scored on last, whatever has
    become of their file since. ``seed``: the run's."""
    last = ledger.meta(_last(benchmark, table, seed))
    return last or _place(benchmark, table, seed, hash_of(benchmark, table))


def _place(benchmark: str, table: EvaluateTable, seed: int, content: str | None) -> str:
    """A benchmark's name and what chose its tasks, for another limit or other content of its
    file is another set of tasks."""
    return f"{benchmark} {content_id(table.limit, table.mix, _seed(table, seed), content)}"


def _last(benchmark: str, table: EvaluateTable, seed: int) -> str:
    """The meta key that names the place of the tasks used last."""
    path = table.data.get(benchmark)
    return f"tasks of {benchmark} {content_id(table.limit, path, table.mix, _seed(table, seed))}"


def hash_of(benchmark: str, table: EvaluateTable) -> str | None:
    """A hash of the bytes of a benchmark's local file, or of its folder's files; None: it is
    not there, or the benchmark has none. Raises UserError where it cannot be read."""
    path = _path_of(benchmark, table)
    if path is None or not Path(path).exists():
        return None
    parts = sorted(p for p in Path(path).rglob("*") if p.is_file()) or [Path(path)]
    digest = sha256()
    try:
        for part in parts:
            with part.open("rb") as file:
                digest.update(file_digest(file, "sha256").digest())
    except OSError as error:
        told = f"cannot read {benchmark}: {error.strerror or error}"
        raise UserError(told, where=path) from error
    return digest.hexdigest()


def _seed(table: EvaluateTable, seed: int) -> int:
    """The seed of the benchmarks' tasks and samples, in a run of that seed."""
    return seed if table.seed is None else table.seed


def unlike_pool(config: Config) -> list[str]:
    """The benchmarks of a config that its pool can be held against, each once.

    Of the embedded family no split is held against a pool of the same family. They share no
    chain of steps (``lab.family.split_of``), but the words of each step: 3 in 100 of the pool
    would pass for twins of held-out tasks, and are none.
    """
    written = config.tasks.generate
    author = "" if written is None else config.teacher[written.author].model
    is_lab = "lab" in (config.tasks.source, author)
    names = dict.fromkeys(config.evaluate.benchmarks)
    return [n for n in names if not (is_lab and n in LAB_SPLITS)]


def _path_of(benchmark: str, table: EvaluateTable) -> str | None:
    """The local file or folder a benchmark is read from, there or not; None: it has none."""
    if benchmark in LAB_SPLITS:
        return None
    is_source = benchmark in task_sources.SOURCES and benchmark != "jsonl"
    return table.data.get(benchmark, None if is_source else benchmark)


def source_of(benchmark: str, table: EvaluateTable) -> tuple[str, str | None]:
    """The task source a benchmark is read from, and its local file (None: the Hub)."""
    path = _path_of(benchmark, table)
    if benchmark in LAB_SPLITS:
        return "lab", None
    if benchmark in task_sources.SOURCES and benchmark != "jsonl":
        return benchmark, path
    if path is None or not Path(path).exists():
        known = ", ".join(s for s in task_sources.SOURCES if s not in ("jsonl", "persdistill"))
        raise UserError(
            f'unknown benchmark "{benchmark}"', hint=f"Use one of {known}, or a task file"
        )
    return "jsonl", path
