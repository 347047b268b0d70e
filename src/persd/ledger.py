"""The run: one SQLite file, written by one process, in which nothing is lost.

A reply is committed and on the disk before anything uses it; what is derived from replies
(solutions, verdicts, states) is committed with the next reply, or with the next write once half
a second has passed, because it can be derived again. That a question is being sent is committed
before it is sent. Killed at any moment, the next run finds every reply it received under the key
of its request and asks nobody for it twice, and what was in flight is known and counted.

A table a record: the columns are the record's fields (``persd.records``), nested fields
are JSON. Nothing is ever updated in place except a task's state and the run's own facts.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from persd.errors import UserError
from persd.money import most_tokens
from persd.records import (
    OPEN_STATES,
    Batch,
    BatchRow,
    Call,
    Candidate,
    Checkpoint,
    Completion,
    Evaluation,
    Example,
    Rejected,
    Role,
    Solution,
    State,
    Step,
    Task,
    TaskState,
    Try,
    Usage,
    Verdict,
    from_json,
)
from persd.rows import (
    BATCH_ROWS,
    BATCHES,
    CALLS,
    CANDIDATES,
    CHECKPOINTS,
    EVALUATIONS,
    EXAMPLES,
    REJECTED,
    SOLUTIONS,
    STATES,
    STEPS,
    TABLES,
    TASKS,
    TRIES,
    VERDICTS,
    Table,
    columns_of,
    create_sql,
    default_sql,
    places_of,
    to_record,
    to_row,
)

#: 2 added ``tries`` and ``solutions.closeness``; 3 ``control``, ``calls`` and ``outcomes`` of
#: evaluations; 4 ``steps``; 5 ``candidates``.
SCHEMA_VERSION = "5"
_OLDER = ("1", "2", "3", "4")
FILE_NAME = "ledger.sqlite"
#: Longest time derived records wait for a commit, in seconds.
COMMIT_EVERY = 0.5

#: Tasks read together.
PAGE = 256

R = TypeVar("R")

_SET_META = "INSERT OR REPLACE INTO meta VALUES (?, ?)"
_UNFINISHED = (
    "NOT EXISTS (SELECT 1 FROM states s WHERE s.task_id = tasks.task_id AND s.round = ? "
    f"AND s.state NOT IN ({', '.join(repr(s) for s in sorted(OPEN_STATES))}))"
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
        self._is_whole = False
        """Several writes are being made that belong together."""
        self._sync_turn = threading.Lock()
        """Never waited for while holding ``_lock``."""
        self._written = self._committed = self._synced = 0
        """Counts of durable writes: made, committed, known to be on the disk."""
        self._wal: int | None = None
        self._is_broken = False
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
            raise UserError(
                f"cannot open the ledger: {e}",
                where=str(self.path),
                hint="persd run CONFIG.toml mends one whose run was killed as it began; "
                "else give run.dir another folder",
            ) from e
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
            mode = db.execute("PRAGMA journal_mode=WAL").fetchone()[0]
            # in WAL mode we sync the log ourselves, once for all who wait and outside the lock
            db.execute(f"PRAGMA synchronous={'NORMAL' if mode == 'wal' else 'FULL'}")
            self._syncs = mode == "wal"
        return db

    def _check_schema(self) -> None:
        if not self.read_only:
            self._db.execute("BEGIN IMMEDIATE")
            self._db.execute("CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT)")
            for table in TABLES:
                self._db.execute(create_sql(table))
            self._db.execute("CREATE INDEX IF NOT EXISTS solutions_task ON solutions(task_id)")
            self._db.execute("CREATE INDEX IF NOT EXISTS tasks_at ON tasks(benchmark, position)")
            self._db.execute(
                "INSERT OR IGNORE INTO meta VALUES ('schema_version', ?)", (SCHEMA_VERSION,)
            )
            if self.meta("schema_version") in _OLDER:
                self._bring_up_to_date()
            self._db.execute("COMMIT")
        found = self.meta("schema_version")
        if found != SCHEMA_VERSION:
            mend = "use the version of persd that wrote it, or another run.dir"
            raise UserError(
                f"the ledger has schema {found}, this version reads {SCHEMA_VERSION}",
                where=str(self.path),
                hint="persd run CONFIG.toml brings it up to date" if found in _OLDER else mend,
            )
        if not self.read_only:
            # whoever sent these is dead: what they cost is not known
            self._db.execute("UPDATE tries SET outcome = 'lost' WHERE outcome = 'in_flight'")

    def _bring_up_to_date(self) -> None:
        """Give tables of an older schema the columns they lack; what is there stays."""
        for table in TABLES:
            there = {row["name"] for row in self._db.execute(f"PRAGMA table_info({table.name})")}
            for column in columns_of(table):
                if column not in there:
                    default = default_sql(table, column)
                    self._db.execute(
                        f"ALTER TABLE {table.name} ADD COLUMN {column} DEFAULT {default}"
                    )
        self._db.execute(
            "UPDATE meta SET value = ? WHERE key = 'schema_version'", (SCHEMA_VERSION,)
        )

    # -- writing ----------------------------------------------------------------------

    def _write(self, sql: str, rows: Iterable[Sequence[Any]], *, durable: bool = False) -> None:
        with self._lock:
            self._begin()
            self._db.executemany(sql, rows)
            if not durable:
                waited = time.monotonic() - (self._pending_since or 0.0)
                if waited > COMMIT_EVERY and not self._is_whole:
                    self._commit()
                return
            self._written += 1
            mine = self._written
        self._sync(mine)

    @contextmanager
    def _together(self) -> Iterator[None]:
        """Writes that are committed all or none, durably on leaving."""
        with self._lock:
            self._begin()
            self._db.execute("SAVEPOINT together")
            self._is_whole = True
            try:
                yield
            except BaseException:
                if self._db.in_transaction:  # a full disk ends it by itself
                    self._db.execute("ROLLBACK TO together")
                raise
            finally:
                self._is_whole = False
                if self._db.in_transaction:
                    self._db.execute("RELEASE together")
        self.flush()

    def _begin(self) -> None:
        # asked of SQLite: an interrupt or a full disk may have come between
        if not self._db.in_transaction:
            self._db.execute("BEGIN IMMEDIATE")
            self._pending_since = time.monotonic()

    def _commit(self) -> None:
        """What is pending survives the death of this process; ``_sync``: that of the machine."""
        if self._db.in_transaction:
            self._db.execute("COMMIT")
            self._pending_since = None
        self._committed = self._written

    def _sync(self, mine: int) -> None:
        """Return once the durable write of that number is on the disk.

        Whoever has the turn does it for all who have written meanwhile, and holds up nobody
        who only writes or reads.
        """
        with self._sync_turn:
            if self._synced >= mine:
                return
            with self._lock:
                self._commit()
                reached = self._committed
            if self._syncs:
                self._sync_log()
            self._synced = reached

    def _sync_log(self) -> None:
        """Raises sqlite3.OperationalError where the disk fails, from then on always: after a
        failed sync a later one says nothing of what was lost."""
        if self._is_broken:
            raise sqlite3.OperationalError("the disk has failed before")
        try:
            os.fsync(self._wal_file())
        except OSError as e:
            self._is_broken = True
            raise sqlite3.OperationalError(f"the disk fails: {e.strerror or e}") from e

    def _wal_file(self) -> int:
        if self._wal is None:
            self._wal = os.open(f"{self.path}-wal", os.O_RDONLY | os.O_CLOEXEC)
        return self._wal

    def flush(self) -> None:
        """Commit what is pending, durably."""
        with self._lock:
            self._written += 1
            mine = self._written
        self._sync(mine)

    def _insert(
        self,
        table: Table,
        records: Iterable[Any],
        *,
        durable: bool = False,
        replace: bool = False,
        extra: Sequence[Sequence[Any]] | None = None,
    ) -> None:
        rows = [to_row(r) for r in records]
        if extra is not None:
            rows = [[*row, *more] for row, more in zip(rows, extra, strict=True)]
        if rows:
            verb = "INSERT OR REPLACE" if replace else "INSERT OR IGNORE"
            self._write(f"{verb} INTO {places_of(table)}", rows, durable=durable)

    def set_meta(self, key: str, value: str) -> None:
        self._write(_SET_META, [(key, value)], durable=True)

    def add_tasks(self, tasks: Iterable[Task], benchmark: str = "") -> int:
        """Store the tasks of the pool (``benchmark=""``) or of a benchmark, in their order.

        All of them or, where drawing one raises, none; the tasks may be a stream of any length.
        Returns how many they were.
        """
        count = 0

        def rows() -> Iterator[list[Any]]:
            nonlocal count
            for count, task in enumerate(tasks, 1):
                yield [*to_row(task), benchmark, count - 1]

        with self._together():
            self._write(f"INSERT OR IGNORE INTO {places_of(TASKS)}", rows())
        return count

    def begin_try(self, sent: Try) -> None:
        """Note that a question is about to be sent; on return that survives kill -9."""
        with self._lock:
            self._insert(TRIES, [sent])
            self._commit()

    def end_try(self, ended: Try) -> None:
        """Note what became of it, durably where a reply came back: it is paid for."""
        self._insert(TRIES, [ended], replace=True, durable=bool(ended.text))

    def add_calls(self, calls: Sequence[Call]) -> None:
        """Store answers, all or none, durably: on return they survive kill -9.

        They end the tries under way of the same questions.
        """
        with self._together():
            self._add_calls(calls)

    def _add_calls(self, calls: Sequence[Call]) -> None:
        extra = [
            (
                c.completion.usd,
                c.completion.usage.input_tokens,
                c.completion.usage.output_tokens,
                time.time(),
            )
            for c in calls
        ]
        ended = "DELETE FROM tries WHERE call_id = ? AND outcome IN ('in_flight', 'batched')"
        self._write(ended, [(c.call_id,) for c in calls])
        self._insert(CALLS, calls, extra=extra)

    def adopt(self, other: Path, *, attempts: bool) -> None:
        """Take over what another ledger's teacher was told as direct answers, and its student's
        first attempts, as paid for there: the same question is then answered here for nothing."""
        names = columns_of(CALLS)
        taken = ", ".join("0.0" if name == "usd" else name for name in names)
        which = "purpose = 'direct'" + (" OR purpose = 'attempt' AND round = 1" * attempts)
        with self._lock:
            self._commit()  # nothing is attached within a transaction
            self._db.execute("ATTACH ? AS other", (str(other),))
            try:
                self._begin()
                self._db.execute(
                    f"INSERT OR IGNORE INTO calls ({', '.join(names)}) "
                    f"SELECT {taken} FROM other.calls WHERE {which}"
                )
                self._commit()
            except BaseException:
                self._db.rollback()  # nothing is detached within a transaction
                raise
            finally:
                self._db.execute("DETACH other")

    def add_batch(self, batch: Batch, tries: Sequence[Try]) -> None:
        """Note a batch that is about to be created and its rows, durably."""
        with self._together():
            self._insert(BATCHES, [batch])
            self._insert(BATCH_ROWS, [BatchRow(t.call_id, batch.key, t.sent) for t in tries])
            self._insert(TRIES, tries)

    def set_batch(self, batch: Batch) -> None:
        """Note what has become of a batch, durably."""
        self._insert(BATCHES, [batch], durable=True, replace=True)

    def drop_batch(self, key: str) -> None:
        """Forget a batch that was never worked on: nobody was asked."""
        rows = "(SELECT call_id, sent FROM batch_rows WHERE batch = ?)"
        with self._together():
            self._write(f"DELETE FROM tries WHERE (call_id, sent) IN {rows}", [(key,)])
            self._write("DELETE FROM batch_rows WHERE batch = ?", [(key,)])
            self._write("DELETE FROM batches WHERE key = ?", [(key,)])

    def collect_batch(self, batch: Batch, tries: Sequence[Try], results: Mapping[str, str]) -> None:
        """Store what came of a batch, whole and durably: its tries as they now stand, and the
        raw result of every ``batched`` one, by call_id."""
        with self._together():
            self._insert(BATCHES, [batch], replace=True)
            self._insert(TRIES, tries, replace=True)
            rows = [BatchRow(t.call_id, batch.key, t.sent, results.get(t.call_id)) for t in tries]
            self._insert(BATCH_ROWS, rows, replace=True)

    def use_results(self, calls: Sequence[Call], ended: Sequence[Try]) -> None:
        """Store, durably, the answers that were read from collected rows, and the tries whose
        reply holds none; their raw results are not needed any more."""
        used = [*((c.call_id,) for c in calls), *((t.call_id,) for t in ended)]
        with self._together():
            self._write("UPDATE batch_rows SET result = NULL WHERE call_id = ?", used)
            self._insert(TRIES, ended, replace=True)
            self._add_calls(calls)

    def add_solution(self, solution: Solution) -> None:
        self._insert(SOLUTIONS, [solution])

    def add_verdict(self, verdict: Verdict) -> None:
        """Store a verdict. ``not_run`` is no verdict on the program and is not kept."""
        if verdict.status != "not_run":
            self._insert(VERDICTS, [verdict])

    def set_state(self, state: TaskState) -> None:
        self._insert(STATES, [state], replace=True)

    def reopen(self, states: Sequence[State]) -> None:
        """Take the tasks in these states up again, in every round."""
        marks = ",".join("?" * len(states))
        self._write(f"DELETE FROM states WHERE state IN ({marks})", [states], durable=True)

    def add_build(
        self, build: str, examples: Sequence[Example], rejected: Sequence[Rejected]
    ) -> None:
        """Store one built data set, whole, under the id of what it was built from."""
        with self._together():
            self._insert(EXAMPLES, examples, extra=[(build,)] * len(examples))
            self._insert(REJECTED, rejected, extra=[(build,)] * len(rejected))
            self._write(_SET_META, [(f"build:{build}", str(len(examples)))])

    def add_checkpoint(self, checkpoint: Checkpoint) -> None:
        self._insert(CHECKPOINTS, [checkpoint], durable=True, replace=True)

    def add_step(self, data_hash: str, step: Step) -> None:
        """One step of the training of a checkpoint (``Checkpoint.data_hash``); one that is made
        again, after the training was killed, takes its place."""
        self._insert(STEPS, [step], extra=[(data_hash,)], replace=True)

    def add_evaluation(self, evaluation: Evaluation) -> None:
        self._insert(EVALUATIONS, [evaluation], durable=True, replace=True)

    def add_candidates(self, candidates: Sequence[Candidate]) -> None:
        """Store what was decided on proposed tasks; one that is decided again takes its place."""
        self._insert(CANDIDATES, candidates, replace=True)

    # -- reading ----------------------------------------------------------------------

    def _all(self, cls: type[R], sql: str, args: Sequence[Any] = ()) -> list[R]:
        with self._lock:
            rows = self._db.execute(sql, args).fetchall()
        return [to_record(cls, row) for row in rows]

    def _one(self, cls: type[R], sql: str, args: Sequence[Any] = ()) -> R | None:
        with self._lock:
            row = self._db.execute(sql, args).fetchone()
        return None if row is None else to_record(cls, row)

    def query(self, sql: str, args: Sequence[Any] = ()) -> list[sqlite3.Row]:
        """Rows of one SELECT, for the report."""
        with self._lock:
            return self._db.execute(sql, args).fetchall()

    def meta(self, key: str) -> str | None:
        rows = self.query("SELECT value FROM meta WHERE key = ?", (key,))
        return None if not rows else str(rows[0]["value"])

    def tasks(self, benchmark: str = "") -> list[Task]:
        return list(self.stream_tasks(benchmark))

    def stream_tasks(self, benchmark: str = "") -> Iterator[Task]:
        """The same, a page at a time."""
        return self._pages("benchmark = ?", (benchmark,))

    def task(self, task_id: str, benchmark: str = "") -> Task | None:
        sql = "SELECT * FROM tasks WHERE benchmark = ? AND task_id = ?"
        return self._one(Task, sql, (benchmark, task_id))

    def count_tasks(self, benchmark: str = "") -> int:
        sql = "SELECT COUNT(*) AS n FROM tasks WHERE benchmark = ?"
        return int(self.query(sql, (benchmark,))[0]["n"])

    def unfinished(self, round: int) -> Iterator[Task]:
        """The tasks of the pool without a final state in this round, in their order, a page at
        a time; states may be set meanwhile."""
        return self._pages(f"benchmark = '' AND {_UNFINISHED}", (round,))

    def count_unfinished(self, round: int) -> int:
        sql = f"SELECT COUNT(*) AS n FROM tasks WHERE benchmark = '' AND {_UNFINISHED}"
        return int(self.query(sql, (round,))[0]["n"])

    def _pages(self, where: str, args: tuple[Any, ...]) -> Iterator[Task]:
        last = -1
        while True:
            sql = f"SELECT * FROM tasks WHERE {where} AND position > ? ORDER BY position LIMIT ?"
            rows = self.query(sql, (*args, last, PAGE))
            for row in rows:
                yield to_record(Task, row)
            if len(rows) < PAGE:
                return
            last = rows[-1]["position"]

    def completion(self, call_id: str) -> Completion | None:
        """The stored answer to a request, or None: it was never asked, or never answered."""
        rows = self.query("SELECT completion FROM calls WHERE call_id = ?", (call_id,))
        return from_json(Completion, rows[0]["completion"]) if rows else None

    def has_answered(self, role: Role, model: str) -> bool:
        """Whether a model has answered this run before, in that role."""
        said = "SELECT 1 FROM calls WHERE role = ? AND model = ? LIMIT 1"
        return bool(self.query(said, (role, model)))

    def call(self, call_id: str) -> Call | None:
        return self._one(Call, "SELECT * FROM calls WHERE call_id = ?", (call_id,))

    def solution(self, solution_id: str) -> Solution | None:
        sql = "SELECT * FROM solutions WHERE solution_id = ?"
        return self._one(Solution, sql, (solution_id,))

    def solutions(self, **where: Any) -> list[Solution]:
        """Solutions by the values of columns, in the order they were stored."""
        sql = f"SELECT * FROM solutions WHERE {_by(where)} ORDER BY rowid"
        return self._all(Solution, sql, tuple(where.values()))

    def verdict(self, solution_id: str, tests: str = "hidden") -> Verdict | None:
        sql = "SELECT * FROM verdicts WHERE solution_id = ? AND tests = ?"
        return self._one(Verdict, sql, (solution_id, tests))

    def verdicts(self, tests: str = "hidden", benchmark: str | None = None) -> list[Verdict]:
        """All of a kind; or those on solutions of a benchmark (``""``: of the pool)."""
        if benchmark is None:
            return self._all(Verdict, "SELECT * FROM verdicts WHERE tests = ?", (tests,))
        sql = (
            "SELECT v.* FROM verdicts v JOIN solutions s USING (solution_id) "
            "WHERE v.tests = ? AND s.benchmark = ?"
        )
        return self._all(Verdict, sql, (tests, benchmark))

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

    def steps(self, data_hash: str) -> list[Step]:
        """What was told of a training, step by step."""
        sql = "SELECT * FROM steps WHERE data_hash = ? ORDER BY step"
        return self._all(Step, sql, (data_hash,))

    def evaluations(self) -> list[Evaluation]:
        return self._all(Evaluation, "SELECT * FROM evaluations ORDER BY rowid")

    def candidate(self, candidate_id: str) -> Candidate | None:
        sql = "SELECT * FROM candidates WHERE candidate_id = ?"
        return self._one(Candidate, sql, (candidate_id,))

    def candidates(self, **where: Any) -> list[Candidate]:
        """Proposed tasks by the values of columns, in the order they were decided."""
        sql = f"SELECT * FROM candidates WHERE {_by(where)} ORDER BY position, rowid"
        return self._all(Candidate, sql, tuple(where.values()))

    def count_candidates(self) -> dict[str, int]:
        """How many proposed tasks ended in each state."""
        rows = self.query("SELECT state, COUNT(*) AS n FROM candidates GROUP BY state")
        return {str(row["state"]): int(row["n"]) for row in rows}

    def spent(self, **where: str) -> float:
        """USD of the stored calls, by the values of columns; unknown costs count as 0 here."""
        sql = f"SELECT COALESCE(SUM(usd), 0) AS usd FROM calls WHERE {_by(where)}"
        return float(self.query(sql, tuple(where.values()))[0]["usd"])

    def unpriced(self, **where: str) -> list[Usage]:
        """Usage of the stored calls whose cost is unknown, by the values of columns; the most
        it can have been (``known=False``) where the endpoint did not say."""
        sql = f"SELECT * FROM calls WHERE usd IS NULL AND {_by(where)}"
        calls = self._all(Call, sql, tuple(where.values()))
        told = ((c, c.completion.usage) for c in calls)
        return [
            used if used.known else most_tokens(c.messages, c.params["max_tokens"])
            for c, used in told
        ]

    def tries(self, **where: str) -> list[Try]:
        """What was sent and gave no answer, by the values of columns."""
        sql = f"SELECT * FROM tries WHERE {_by(where)} ORDER BY sent"
        return self._all(Try, sql, tuple(where.values()))

    def open_batches(self, role: str, model: str, endpoint: str) -> list[Batch]:
        """Batches whose results were not collected yet, the oldest first."""
        sql = (
            "SELECT * FROM batches WHERE state = 'open' AND role = ? AND model = ? "
            "AND endpoint = ? ORDER BY created"
        )
        return self._all(Batch, sql, (role, model, endpoint))

    def batch_tries(self, key: str) -> list[Try]:
        """The tries that a batch consists of; answers that were used are none any more."""
        rows = "(SELECT call_id, sent FROM batch_rows WHERE batch = ?)"
        return self._all(Try, f"SELECT * FROM tries WHERE (call_id, sent) IN {rows}", (key,))

    def batch_result(self, call_id: str) -> tuple[Try, str] | None:
        """The raw result of a question that was answered in a batch and not used yet."""
        rows = self.query(
            "SELECT t.*, r.result FROM batch_rows r JOIN tries t USING (call_id, sent) "
            "WHERE r.call_id = ? AND r.result IS NOT NULL AND t.outcome = 'batched'",
            (call_id,),
        )
        return (to_record(Try, rows[0]), str(rows[0]["result"])) if rows else None

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
                    self._commit()  # closing the last connection syncs it
                finally:
                    self._db.close()
                    del self._db
                    if self._wal is not None:
                        os.close(self._wal)
                        self._wal = None
            if self._claim is not None:
                os.close(self._claim)
                self._claim = None

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _by(where: Mapping[str, Any]) -> str:
    """The condition that columns have the values that go with it; of none, that always holds."""
    return " AND ".join(f"{column} = ?" for column in where) or "1"


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
