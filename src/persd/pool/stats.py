"""What a task file, or any source of tasks, is made of: ``persd tasks stats``."""

from __future__ import annotations

import ast
from array import array
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from persd.domains.names import clean
from persd.likeness import normalise, prose
from persd.pool.difficulty import Rates, measured_for
from persd.pool.divide import Groups
from persd.pool.files import Source
from persd.progress import QUIET, Progress
from persd.records import Task
from persd.tasks.rows import Fault

#: Tests of a task, of each kind, whose values are looked at for their types.
_LOOKED_AT = 10
#: USD that a task may say it cost; more, infinity included, is no price.
_DEAR = 1e9
#: What a teacher's tasks say of themselves (``pool.screening``), by its name here.
_LINEAGE = {"origins": "origin", "topics": "topic", "difficulties": "difficulty", "ways": "way"}


def stats(source: Source, progress: Progress = QUIET) -> dict[str, Any]:
    """``tasks``; ``faults``: rows that are none, [{"task_id", "reason", "detail", "where"}];
    ``words`` of an instruction and ``lines`` of a reference (blank ones not counted), ``tests``:
    ``hidden`` and ``seen`` of a task: each {"least", "median", "mean", "most"}, of the tasks that
    have any, and None where none has. ``without``: tasks without an instruction (a docstring counts
    as one), a reference, seen tests, or any test; ``test_code``: tasks with that in place of tests.
    ``entry_points``: how many different; ``arguments`` and ``results``: types of the first tests'
    values, by how many tasks have them. ``origins``, ``topics``, ``difficulties``, ``ways``,
    ``models``: of tasks that say it, by how many. ``difficulty``: ``pool.difficulty.Rates.plain``
    and ``students``, None where no task has a pass rate. ``near_duplicates``: as
    ``divide.split``; ``groups`` of them, ``largest``. ``usd``: {"total", "tasks", "per_task"} of
    tasks that say what they cost, else None.

    Raises UserError where the source cannot be read.
    """
    found, groups = _Found(), Groups()
    progress.stage("read tasks", None)
    for item in source.items():
        if isinstance(item, Fault):
            found.fault(item)
        else:
            found.add(item)
            groups.add(item)
        progress.step()
    sizes = [len(g) for g in groups.members() if len(g) > 1]
    return {
        **found.plain(),
        "near_duplicates": groups.joined,
        "groups": len(sizes),
        "largest": max(sizes, default=0),
    }


@dataclass(slots=True)
class _Found:
    """What is counted."""

    tasks: int = 0
    faults: list[dict[str, str]] = field(default_factory=list)
    words: array[int] = field(default_factory=lambda: array("L"))
    lines: array[int] = field(default_factory=lambda: array("L"))
    hidden: array[int] = field(default_factory=lambda: array("L"))
    seen: array[int] = field(default_factory=lambda: array("L"))
    without: Counter[str] = field(default_factory=Counter)
    entry_points: set[str] = field(default_factory=set)
    arguments: Counter[str] = field(default_factory=Counter)
    results: Counter[str] = field(default_factory=Counter)
    said: dict[str, Counter[str]] = field(
        default_factory=lambda: {name: Counter() for name in (*_LINEAGE, "models")}
    )
    rates: Rates = field(default_factory=Rates)
    students: Counter[str] = field(default_factory=Counter)
    usd: list[float] = field(default_factory=list)

    def fault(self, fault: Fault) -> None:
        self.faults.append(
            {
                "task_id": fault.task_id,
                "reason": fault.reason,
                "detail": fault.detail,
                "where": fault.where,
            }
        )

    def add(self, task: Task) -> None:
        self.tasks += 1
        self.entry_points.add(task.entry_point)
        self._sizes(task)
        self.arguments.update(_argument_types(task))
        self.results.update(_result_types(task))
        self._lineage(task)
        self.rates.add(task)
        if student := measured_for(task):
            self.students[student] += 1

    def _sizes(self, task: Task) -> None:
        lines = [li for li in (task.reference or "").splitlines() if li.strip()]
        parts = {
            "instruction": (self.words, len(normalise(prose(task)))),
            "reference": (self.lines, len(lines)),
            "seen_tests": (self.seen, len(task.seen_tests)),
            "tests": (self.hidden, len(task.tests)),
        }
        for name, (counts, count) in parts.items():
            if count:
                counts.append(count)
            elif name != "tests":
                self.without[name] += 1
        self.without["tests"] += not task.tested
        self.without["literal tests"] += task.test_code is not None

    def _lineage(self, task: Task) -> None:
        meta = task.meta
        for name, key in (*_LINEAGE.items(), ("models", "model")):
            value = meta.get(key)
            if key == "difficulty" and isinstance(value, Mapping):
                value = value.get("label")  # what it was called before it was measured
            if isinstance(value, str) and value:
                self.said[name][value] += 1
        usd = meta.get("usd")
        if isinstance(usd, int | float) and not isinstance(usd, bool) and 0 <= usd <= _DEAR:
            self.usd.append(usd)

    def plain(self) -> dict[str, Any]:
        is_rated = bool(self.rates.by_counts)
        total = sum(self.usd)
        return {
            "tasks": self.tasks,
            "faults": self.faults,
            "words": _spread(self.words),
            "lines": _spread(self.lines),
            "tests": {"hidden": _spread(self.hidden), "seen": _spread(self.seen)},
            "test_code": self.without.pop("literal tests", 0),
            "without": dict(self.without),
            "entry_points": len(self.entry_points),
            "arguments": dict(self.arguments.most_common()),
            "results": dict(self.results.most_common()),
            **{name: dict(counts.most_common()) for name, counts in self.said.items()},
            "difficulty": self.rates.plain() | {"students": dict(self.students)}
            if is_rated
            else None,
            "usd": {"total": total, "tasks": len(self.usd), "per_task": total / len(self.usd)}
            if self.usd
            else None,
        }


def _spread(counts: array[int]) -> dict[str, float] | None:
    """The least, the median, the mean and the most of some counts."""
    if not counts:
        return None
    ordered, middle = sorted(counts), len(counts) // 2
    median = (ordered[middle] + ordered[-1 - middle]) / 2
    mean = round(sum(ordered) / len(ordered), 2)
    return {"least": ordered[0], "median": median, "mean": mean, "most": ordered[-1]}


# -- the types of values ------------------------------------------------------------------------


def _argument_types(task: Task) -> set[str]:
    tests = (*task.tests[:_LOOKED_AT], *task.seen_tests[:_LOOKED_AT])
    calls = [n for n in (_expression(t.call) for t in tests) if isinstance(n, ast.Call)]
    return {
        _type(value) for call in calls for value in (*call.args, *(k.value for k in call.keywords))
    }


def _result_types(task: Task) -> set[str]:
    tests = (*task.tests[:_LOOKED_AT], *task.seen_tests[:_LOOKED_AT])
    found = {(_type(_expression(t.expected)), t.compare) for t in tests}
    return {"text" if name == "other" and how == "loose" else name for name, how in found}


def _expression(source: str) -> ast.expr | None:
    try:
        return ast.parse(clean(source).strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _type(node: ast.expr | None) -> str:
    """The type of a literal's value; of a list, a set or a tuple of one type, with it."""
    match node:
        case ast.Constant(value=value):
            return type(value).__name__
        case ast.UnaryOp(operand=operand):
            return _type(operand)
        case ast.List() | ast.Set() | ast.Tuple():
            return _holding(type(node).__name__.lower(), node.elts)
        case ast.Dict():
            return "dict"
        case ast.Call(func=ast.Name(id="set" | "frozenset" as name)):
            return name
        case ast.BinOp(right=ast.Constant(value=complex())):
            return "complex"
    return "other"


def _holding(name: str, elements: list[ast.expr]) -> str:
    holders = (ast.List, ast.Set, ast.Tuple)
    inner = {type(e).__name__.lower() if isinstance(e, holders) else _type(e) for e in elements}
    return f"{name}[{inner.pop()}]" if len(inner) == 1 else name


# -- for reading --------------------------------------------------------------------------------


def readable(found: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Name and value, in the order they are read."""
    yield "tasks", f"{found['tasks']:,}"
    yield "rows that are none", f"{len(found['faults']):,}"
    yield "words of an instruction", _told(found["words"])
    yield "lines of a reference", _told(found["lines"])
    yield "hidden tests of a task", _told(found["tests"]["hidden"])
    yield "seen tests of a task", _told(found["tests"]["seen"])
    yield "tests as code", f"{found['test_code']:,}"
    for name, count in found["without"].items():
        if count:
            yield f"without {name.replace('_', ' ')}", f"{count:,}"
    yield "different entry points", f"{found['entry_points']:,}"
    for name in ("arguments", "results", *_LINEAGE, "models"):
        if found[name]:
            yield name, _listed(found[name])
    if rates := found["difficulty"]:
        told = ("always", "never", "between", "unknown")
        yield "solved", ", ".join(f"{name} {rates[name]:,}" for name in told)
        marks = [f"{row['rate']:g}: {row['tasks']:,}" for row in rates["histogram"]]
        yield "tasks by pass rate", ", ".join(marks)
        yield "students", _listed(rates["students"])
    near = f"{len(found['near_duplicates']):,} in {found['groups']:,} groups"
    yield "near-duplicates", f"{near}, the largest of {found['largest']:,}"
    if usd := found["usd"]:
        yield "cost", f"{usd['total']:.4f} USD for {usd['tasks']:,} tasks"
        yield "cost of a task", f"{usd['per_task']:.6f} USD"


def _told(spread: Mapping[str, float] | None) -> str:
    if spread is None:
        return "none"
    least, median, mean, most = spread.values()
    return f"{least:g} to {most:g}, median {median:g}, mean {mean:g}"


def _listed(counts: Mapping[str, int], most: int = 8) -> str:
    first = [f"{name} {count:,}" for name, count in list(counts.items())[:most]]
    more = [f"and {len(counts) - most} more"] if len(counts) > most else []
    return ", ".join([*first, *more])
