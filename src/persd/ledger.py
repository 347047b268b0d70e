"""The run: one SQLite file, written by one process, in which nothing is lost.

A reply is committed before anything uses it; what is derived from replies (solutions,
verdicts, states) is committed with the next reply, or with the next write once half a second
has passed, because it can be derived again. Killed at any moment, the next run finds every
reply it received under the key of its request and asks nobody for it twice.

A table a record: the columns are the record's fields (``persd.records``), nested fields
are JSON. Nothing is ever updated in place except a task's state and the run's own facts.
"""

from __future__ import annotations

import dataclasses
import fcntl
import json
import os
import sqlite3
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from persd.errors import UserError
from persd.records import (
    Call,
    Checkpoint,
    Completion,
    Evaluation,
    Example,
    Rejected,
    Solution,
    Task,
    TaskState,
    Usage,
    Verdict,
    from_json,
    from_plain,
)

SCHEMA_VERSION = "1"
FILE_NAME = "ledger.sqlite"
#: Longest time derived records wait for a commit, in seconds.
COMMIT_EVERY = 0.5

R = TypeVar("R")


@dataclasses.dataclass(frozen=True, slots=True)
class _Table:
    name: str
    record: type[Any]
    key: tuple[str, ...]
    extra: tuple[str, ...] = ()
    """Columns beside the record's own."""


TASKS = _Table("tasks", Task, ("benchmark", "task_id"), ("benchmark", "position"))
CALLS = _Table("calls", Call, ("call_id",), ("usd", "input_tokens", "output_tokens", "created"))
SOLUTIONS = _Table("solutions", Solution, ("solution_id",))
VERDICTS = _Table("verdicts", Verdict, ("solution_id", "tests"))
STATES = _Table("states", TaskState, ("task_id", "round"))
EXAMPLES = _Table("examples", Example, ("build", "example_id"), ("build",))
REJECTED = _Table("rejected", Rejected, ("build", "task_id", "round", "form"), ("build",))
CHECKPOINTS = _Table("checkpoints", Checkpoint, ("checkpoint_id",))
EVALUATIONS = _Table("evaluations", Evaluation, ("evaluation_id",))
TABLES = (
    TASKS,
    CALLS,
    SOLUTIONS,
    VERDICTS,
    STATES,
    EXAMPLES,
    REJECTED,
    CHECKPOINTS,
    EVALUATIONS,
)


class Ledger:
    """One run's ledger. Thread-safe; one writing process at a time, any number of readers.

    Raises UserError where the folder cannot be written, is written by another process,
    holds no ledger (``create=False``), or one of another version.
    """

    def __init__(self, run: Path | str, *, create: bool = True, read_only: bool = False) -> None:
        self.run = Path(run)
        self.path = self.run / FILE_NAME
        self.read_only = read_only
        self._lock = threading.RLock()
        self._pending_since: float | None = None
        self._claim: int | None = None
        if (read_only or not create) and not self.path.is_file():
            raise UserError(
                f"{self.run} is not a run: it holds no {FILE_NAME}",
                hint="persd run CONFIG.toml makes one",
            )
        if not read_only:
            self._claim = _claim(self.run)
        try:
            self._db = self._connect()
            self._check_schema()
        except sqlite3.Error as e:
            self.close()
            raise UserError(f"cannot open the ledger: {e}", where=str(self.path)) from e
        except BaseException:
            self.close()
            raise

    def _connect(self) -> sqlite3.Connection:
        mode = "ro" if self.read_only else "rwc"
        uri = f"{self.path.absolute().as_uri()}?mode={mode}"
        db = sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False)
        db.row_factory = sqlite3.Row
        db.execute("PRAGMA busy_timeout=10000")
        if not self.read_only:
            db.execute("PRAGMA journal_mode=WAL")
            db.execute("PRAGMA synchronous=FULL")
        return db

    def _check_schema(self) -> None:
        if not self.read_only:
            self._db.execute("BEGIN IMMEDIATE")
            self._db.execute("CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT)")
            for table in TABLES:
                self._db.execute(_create(table))
            self._db.execute("CREATE INDEX IF NOT EXISTS solutions_task ON solutions(task_id)")
            self._db.execute(
                "INSERT OR IGNORE INTO meta VALUES ('schema_version', ?)", (SCHEMA_VERSION,)
            )
            self._db.execute("COMMIT")
        found = self.meta("schema_version")
        if found != SCHEMA_VERSION:
            raise UserError(
                f"the ledger has schema {found}, this version reads {SCHEMA_VERSION}",
                where=str(self.path),
                hint="use the version of persd that wrote it, or another run.dir",
            )

    # -- writing ----------------------------------------------------------------------

    def _write(self, sql: str, rows: Sequence[Sequence[Any]], *, durable: bool) -> None:
        with self._lock:
            if self._pending_since is None:
                self._db.execute("BEGIN IMMEDIATE")
                self._pending_since = time.monotonic()
            self._db.executemany(sql, rows)
            if durable or time.monotonic() - self._pending_since > COMMIT_EVERY:
                self.flush()

    def flush(self) -> None:
        """Commit what is pending."""
        with self._lock:
            if self._pending_since is not None:
                self._db.execute("COMMIT")
                self._pending_since = None

    def _insert(
        self,
        table: _Table,
        records: Iterable[Any],
        *,
        durable: bool = False,
        replace: bool = False,
        extra: Sequence[Sequence[Any]] | None = None,
    ) -> None:
        rows = [_row(r) for r in records]
        if extra is not None:
            rows = [[*row, *more] for row, more in zip(rows, extra, strict=True)]
        if rows:
            verb = "INSERT OR REPLACE" if replace else "INSERT OR IGNORE"
            marks = ",".join("?" * len(rows[0]))
            self._write(f"{verb} INTO {table.name} VALUES ({marks})", rows, durable=durable)

    def set_meta(self, key: str, value: str) -> None:
        self._write("INSERT OR REPLACE INTO meta VALUES (?, ?)", [(key, value)], durable=True)

    def add_tasks(self, tasks: Sequence[Task], benchmark: str = "") -> None:
        """Store the tasks of the pool (``benchmark=""``) or of a benchmark, in their order."""
        places = [(benchmark, i) for i in range(len(tasks))]
        self._insert(TASKS, tasks, extra=places, durable=True)

    def add_calls(self, calls: Sequence[Call]) -> None:
        """Store answers, all or none, durably: on return they survive kill -9."""
        extra = [
            (
                c.completion.usd,
                c.completion.usage.input_tokens,
                c.completion.usage.output_tokens,
                time.time(),
            )
            for c in calls
        ]
        self._insert(CALLS, calls, extra=extra, durable=True)

    def add_solution(self, solution: Solution) -> None:
        self._insert(SOLUTIONS, [solution])

    def add_verdict(self, verdict: Verdict) -> None:
        """Store a verdict. ``not_run`` is no verdict on the program and is not kept."""
        if verdict.status != "not_run":
            self._insert(VERDICTS, [verdict])

    def set_state(self, state: TaskState) -> None:
        self._insert(STATES, [state], replace=True)

    def add_build(
        self, build: str, examples: Sequence[Example], rejected: Sequence[Rejected]
    ) -> None:
        """Store one built data set, whole, under the id of what it was built from."""
        with self._lock:
            self._insert(EXAMPLES, examples, extra=[(build,)] * len(examples))
            self._insert(REJECTED, rejected, extra=[(build,)] * len(rejected))
            self.set_meta(f"build:{build}", str(len(examples)))

    def add_checkpoint(self, checkpoint: Checkpoint) -> None:
        self._insert(CHECKPOINTS, [checkpoint], durable=True, replace=True)

    def add_evaluation(self, evaluation: Evaluation) -> None:
        self._insert(EVALUATIONS, [evaluation], durable=True, replace=True)

    # -- reading ----------------------------------------------------------------------

    def _all(self, cls: type[R], sql: str, args: Sequence[Any] = ()) -> list[R]:
        with self._lock:
            rows = self._db.execute(sql, args).fetchall()
        return [_record(cls, row) for row in rows]

    def _one(self, cls: type[R], sql: str, args: Sequence[Any] = ()) -> R | None:
        with self._lock:
            row = self._db.execute(sql, args).fetchone()
        return None if row is None else _record(cls, row)

    def query(self, sql: str, args: Sequence[Any] = ()) -> list[sqlite3.Row]:
        """Rows of one SELECT, for the report."""
        with self._lock:
            return self._db.execute(sql, args).fetchall()

    def meta(self, key: str) -> str | None:
        rows = self.query("SELECT value FROM meta WHERE key = ?", (key,))
        return None if not rows else str(rows[0]["value"])

    def tasks(self, benchmark: str = "") -> list[Task]:
        sql = "SELECT * FROM tasks WHERE benchmark = ? ORDER BY position"
        return self._all(Task, sql, (benchmark,))

    def completion(self, call_id: str) -> Completion | None:
        """The stored answer to a request, or None: it was never asked, or never answered."""
        rows = self.query("SELECT completion FROM calls WHERE call_id = ?", (call_id,))
        return from_json(Completion, rows[0]["completion"]) if rows else None

    def call(self, call_id: str) -> Call | None:
        return self._one(Call, "SELECT * FROM calls WHERE call_id = ?", (call_id,))

    def solution(self, solution_id: str) -> Solution | None:
        sql = "SELECT * FROM solutions WHERE solution_id = ?"
        return self._one(Solution, sql, (solution_id,))

    def solutions(self, **where: Any) -> list[Solution]:
        """Solutions by the values of columns, in the order they were stored."""
        clause = " AND ".join(f"{column} = ?" for column in where) or "1"
        sql = f"SELECT * FROM solutions WHERE {clause} ORDER BY rowid"
        return self._all(Solution, sql, tuple(where.values()))

    def verdict(self, solution_id: str, tests: str = "hidden") -> Verdict | None:
        sql = "SELECT * FROM verdicts WHERE solution_id = ? AND tests = ?"
        return self._one(Verdict, sql, (solution_id, tests))

    def verdicts(self, tests: str = "hidden") -> list[Verdict]:
        return self._all(Verdict, "SELECT * FROM verdicts WHERE tests = ?", (tests,))

    def states(self, round: int) -> dict[str, TaskState]:
        """The state of every task that has one in this round, by task_id."""
        states = self._all(TaskState, "SELECT * FROM states WHERE round = ?", (round,))
        return {s.task_id: s for s in states}

    def rounds(self) -> list[int]:
        """The rounds that have states, in order."""
        return [r["round"] for r in self.query("SELECT DISTINCT round FROM states ORDER BY round")]

    def build(self, build: str) -> tuple[list[Example], list[Rejected]] | None:
        """A stored data set, or None where it was not finished."""
        if self.meta(f"build:{build}") is None:
            return None
        order = "WHERE build = ? ORDER BY rowid"
        examples = self._all(Example, f"SELECT * FROM examples {order}", (build,))
        return examples, self._all(Rejected, f"SELECT * FROM rejected {order}", (build,))

    def example(self, example_id: str) -> Example | None:
        return self._one(
            Example, "SELECT * FROM examples WHERE example_id = ? LIMIT 1", (example_id,)
        )

    def checkpoints(self) -> list[Checkpoint]:
        return self._all(Checkpoint, "SELECT * FROM checkpoints ORDER BY rowid")

    def evaluations(self) -> list[Evaluation]:
        return self._all(Evaluation, "SELECT * FROM evaluations ORDER BY rowid")

    def spent(self, **where: str) -> float:
        """USD of the stored calls, by the values of columns; unknown costs count as 0 here."""
        clause = " AND ".join(f"{column} = ?" for column in where) or "1"
        sql = f"SELECT COALESCE(SUM(usd), 0) AS usd FROM calls WHERE {clause}"
        return float(self.query(sql, tuple(where.values()))[0]["usd"])

    def unpriced(self, **where: str) -> list[Usage]:
        """Usage of the stored calls whose cost is unknown, by the values of columns."""
        clause = " AND ".join(["usd IS NULL", *(f"{column} = ?" for column in where)])
        rows = self.query(f"SELECT completion FROM calls WHERE {clause}", tuple(where.values()))
        return [from_json(Completion, row["completion"]).usage for row in rows]

    def lineage(self, example_id: str) -> dict[str, Any]:
        """Everything behind an example: its solutions, their verdicts and their calls.

        Keys: ``example``, and for each of ``attempt``, ``refinement``, ``direct`` that it
        rests on: ``solution``, ``verdict``, ``call`` (prompt, raw reply, model, seed,
        versions, money; None for what was read from a file).
        """
        example = self.example(example_id)
        if example is None:
            raise UserError(f"no example {example_id!r} in {self.path}")
        out: dict[str, Any] = {"example": example}
        for kind in ("attempt", "refinement", "direct"):
            solution_id = getattr(example, f"{kind}_id")
            solution = self.solution(solution_id) if solution_id else None
            if solution is not None:
                out[kind] = {
                    "solution": solution,
                    "verdict": self.verdict(solution.solution_id),
                    "call": self.call(solution.call_id) if solution.call_id else None,
                }
        return out

    # -- life -------------------------------------------------------------------------

    def close(self) -> None:
        """Commit, and give the run back to others. Safe to call twice."""
        with self._lock:
            if hasattr(self, "_db"):
                try:
                    self.flush()
                finally:
                    self._db.close()
                    del self._db
            if self._claim is not None:
                os.close(self._claim)
                self._claim = None

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _claim(run: Path) -> int:
    """Make the run's folder and lock it for this process; the kernel frees it on any death."""
    mend = "give run.dir a folder you may write to"
    try:
        run.mkdir(parents=True, exist_ok=True)
        # root passes every permission check, yet a folder marked read-only means it
        if not run.stat().st_mode & 0o222:
            raise PermissionError(13, "the folder is read-only")
        claim = os.open(run / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as e:
        raise UserError(
            f"cannot write the run: {e.strerror or e}", where=str(run), hint=mend
        ) from e
    try:
        fcntl.flock(claim, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as e:
        holder = os.pread(claim, 32, 0).decode(errors="replace").strip() or "unknown"
        os.close(claim)
        raise UserError(
            f"another process (pid {holder}) is writing this run",
            where=str(run),
            hint="wait for it to end, or use another run.dir",
        ) from e
    os.ftruncate(claim, 0)
    os.pwrite(claim, str(os.getpid()).encode(), 0)
    return claim


# -- records and rows: scalars are columns, the rest is JSON --------------------------------

_SCALARS = ("str", "int", "float", "str | None", "float | None")


def _is_json(cls: type[Any], field: dataclasses.Field[Any]) -> bool:
    spelled = str(field.type)
    if spelled in _SCALARS:
        return False
    hint = get_type_hints(cls)[field.name]
    return not (getattr(hint, "__origin__", None) is not None and "Literal" in str(hint)[:16])


_JSON_FIELDS = {
    table.record: frozenset(
        f.name for f in dataclasses.fields(table.record) if _is_json(table.record, f)
    )
    for table in TABLES
}


def _create(table: _Table) -> str:
    columns = [f.name for f in dataclasses.fields(table.record)] + list(table.extra)
    key = ", ".join(table.key)
    return f"CREATE TABLE IF NOT EXISTS {table.name} ({', '.join(columns)}, PRIMARY KEY ({key}))"


def _row(record: Any) -> list[Any]:
    nested = _JSON_FIELDS[type(record)]
    return [
        json.dumps(_plain(value), sort_keys=True) if name in nested else _sql(value)
        for name, value in ((f.name, getattr(record, f.name)) for f in dataclasses.fields(record))
    ]


def _sql(value: Any) -> Any:
    # a reply may hold lone surrogates, which SQLite's TEXT cannot: such a text is kept as BLOB
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            return value.encode("utf-8", "surrogatepass")
    return value


def _unsql(value: Any) -> Any:
    return value.decode("utf-8", "surrogatepass") if isinstance(value, bytes) else value


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return value


def _record(cls: type[R], row: sqlite3.Row) -> R:
    nested = _JSON_FIELDS[cls]
    plain = {
        f.name: json.loads(row[f.name]) if f.name in nested else _unsql(row[f.name])
        for f in dataclasses.fields(cls)  # type: ignore[arg-type]
    }
    return from_plain(cls, plain)
