"""Records as rows: a table a record, scalars are columns, the rest is JSON."""

from __future__ import annotations

import dataclasses
import json
import sqlite3
from collections.abc import Mapping
from typing import Any, TypeVar, get_type_hints

from persd.records import (
    Batch,
    BatchRow,
    Call,
    Candidate,
    Checkpoint,
    Evaluation,
    Example,
    Rejected,
    Solution,
    Step,
    Task,
    TaskState,
    Try,
    Verdict,
    from_plain,
)

R = TypeVar("R")


@dataclasses.dataclass(frozen=True, slots=True)
class Table:
    name: str
    record: type[Any]
    key: tuple[str, ...]
    extra: tuple[str, ...] = ()
    """Columns beside the record's own."""


TASKS = Table("tasks", Task, ("benchmark", "task_id"), ("benchmark", "position"))
CALLS = Table("calls", Call, ("call_id",), ("usd", "input_tokens", "output_tokens", "created"))
TRIES = Table("tries", Try, ("call_id", "sent"))
BATCHES = Table("batches", Batch, ("key",))
BATCH_ROWS = Table("batch_rows", BatchRow, ("call_id", "batch"))
SOLUTIONS = Table("solutions", Solution, ("solution_id",))
VERDICTS = Table("verdicts", Verdict, ("solution_id", "tests"))
STATES = Table("states", TaskState, ("task_id", "round"))
EXAMPLES = Table("examples", Example, ("build", "example_id"), ("build",))
REJECTED = Table("rejected", Rejected, ("build", "task_id", "round", "form"), ("build",))
CHECKPOINTS = Table("checkpoints", Checkpoint, ("checkpoint_id",))
STEPS = Table("steps", Step, ("data_hash", "step"), ("data_hash",))
EVALUATIONS = Table("evaluations", Evaluation, ("evaluation_id",))
CANDIDATES = Table("candidates", Candidate, ("candidate_id",))
TABLES = (
    TASKS,
    CALLS,
    TRIES,
    BATCHES,
    BATCH_ROWS,
    SOLUTIONS,
    VERDICTS,
    STATES,
    EXAMPLES,
    REJECTED,
    CHECKPOINTS,
    STEPS,
    EVALUATIONS,
    CANDIDATES,
)


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


def columns_of(table: Table) -> list[str]:
    return [f.name for f in dataclasses.fields(table.record)] + list(table.extra)


def places_of(table: Table) -> str:
    """Where a row goes, column by column: one that was added later stands last in its table."""
    columns = columns_of(table)
    return f"{table.name} ({', '.join(columns)}) VALUES ({','.join('?' * len(columns))})"


def create_sql(table: Table) -> str:
    columns, key = ", ".join(columns_of(table)), ", ".join(table.key)
    return f"CREATE TABLE IF NOT EXISTS {table.name} ({columns}, PRIMARY KEY ({key}))"


def default_sql(table: Table, column: str) -> str:
    """What a column that was added later holds in older rows: the field's own default."""
    found = {f.name: f for f in dataclasses.fields(table.record)}.get(column)
    if found is None or found.default is None:
        return "NULL"
    if found.default is dataclasses.MISSING:  # the fields made by a factory are mappings
        return "'{}'"
    return repr(found.default)


def to_row(record: Any) -> list[Any]:
    nested = _JSON_FIELDS[type(record)]
    return [
        json.dumps(_plain(value), sort_keys=True) if name in nested else _sql(value)
        for name, value in ((n, getattr(record, n)) for n in _names(type(record)) or ())
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


_NAMES: dict[type[Any], tuple[str, ...] | None] = {}


def _names(cls: type[Any]) -> tuple[str, ...] | None:
    """The fields of a record; None: it is none."""
    if cls not in _NAMES:
        known = dataclasses.is_dataclass(cls)
        _NAMES[cls] = tuple(f.name for f in dataclasses.fields(cls)) if known else None
    return _NAMES[cls]


def _plain(value: Any) -> Any:
    names = _names(type(value))
    if names is not None:  # as dataclasses.asdict, which copies every leaf
        return {name: _plain(getattr(value, name)) for name in names}
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return value


def to_record(cls: type[R], row: sqlite3.Row) -> R:
    nested = _JSON_FIELDS[cls]
    plain = {
        f.name: json.loads(row[f.name]) if f.name in nested else _unsql(row[f.name])
        for f in dataclasses.fields(cls)  # type: ignore[arg-type]
    }
    return from_plain(cls, plain)
