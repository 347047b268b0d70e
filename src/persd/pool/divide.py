"""Leaving tasks out of a file, and dividing a file: ``persd tasks dedupe|decontaminate|split``.

All read their source twice (``persd.pool.files``) and hold a byte or two a task, beside what
finds near-duplicates (``persd.pool.near``).
"""

from __future__ import annotations

import math
import random
from array import array
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from persd.errors import UserError
from persd.likeness import Match
from persd.overlap import Report
from persd.pool.files import NOWHERE, Source, read_against, refuse_outs
from persd.pool.near import Near
from persd.progress import QUIET, Progress
from persd.records import Task, derive_seed


def dedupe(
    source: Source, out: Path, against: Sequence[Path] = (), progress: Progress = QUIET
) -> dict[str, Any]:
    """Copies the tasks that are none of those before them again, and none of those in the task
    files ``against``.

    Gives ``tasks``, ``kept``, ``untested`` (tasks without a test of a source by name, which no
    task file can hold), ``dropped``: [{"task_id", "of", "measure", "alike", "shared", "text"}] in
    their order, with ``file`` where ``of`` is in one of ``against``; ``path`` and ``replaced``.
    Raises UserError, before anything is written.
    """
    replaced = refuse_outs([out], [source.own, source.data, *against])
    pools = [_pool(path, progress) for path in against]
    own, dropped = Near(), list[dict[str, Any]]()

    def is_kept(task: Task) -> bool:
        matches = [*own.matches(task), *(m for pool in pools for m in pool.matches(task))]
        if matches:
            match = max(matches, key=lambda m: m.alike)
            where = {} if match.benchmark == own.name else {"file": match.benchmark}
            dropped.append(row_of_match(task.task_id, match) | where)
            return False
        own.add(task)
        return True

    return _copied(source, out, is_kept, progress) | {
        "dropped": dropped,
        "replaced": [str(p) for p in replaced],
    }


def _pool(path: Path, progress: Progress) -> Near:
    """The tasks of a file, to be asked about."""
    pool = Near(str(path))
    progress.stage(f"read {path.name}", None)
    for task in Source(str(path)).tasks(progress):
        pool.add(task)
    return pool


def decontaminate(
    source: Source,
    out: Path,
    against: Sequence[str],
    progress: Progress = QUIET,
    *,
    unsafe: bool = False,
) -> dict[str, Any]:
    """Copies the tasks that overlap no benchmark; ``against``: as ``read_against``.

    Gives ``tasks``, ``kept``, ``untested``, ``path`` and ``replaced`` as ``dedupe``;
    ``dropped``: [{"task_id", "benchmark", "of", "measure", "alike", "shared", "text", "more"}],
    the match most alike and how many others there are; ``overlap``: as ``overlap_report``. Raises
    UserError, before anything is written.
    """
    files = [Path(p) for text in against if (p := text.partition("=")[2])]
    replaced = refuse_outs([out], [source.own, source.data, *files])
    progress.stage("read benchmarks", None)
    report, dropped = Report(read_against(against, unsafe=unsafe)), list[dict[str, Any]]()

    def is_kept(task: Task) -> bool:
        matches = report.add(task)
        if matches:
            row, first = row_of_match(task.task_id, matches[0]), matches[0]
            dropped.append(row | {"benchmark": first.benchmark, "more": len(matches) - 1})
        return not matches

    copied = _copied(source, out, is_kept, progress)
    return copied | {
        "dropped": dropped,
        "overlap": report.plain(),
        "replaced": [str(p) for p in replaced],
    }


def row_of_match(task_id: str, match: Match) -> dict[str, Any]:
    """A match for JSON: which task, of which it is a near-duplicate, and how that shows."""
    return {
        "task_id": task_id,
        "of": match.task_id,
        "measure": match.measure,
        "alike": match.alike,
        "shared": match.shared,
        "text": match.text,
    }


def _copied(
    source: Source, out: Path, is_kept: Callable[[Task], bool], progress: Progress
) -> dict[str, Any]:
    """Copies the tasks that are to be kept."""
    places, untested = array("b"), 0
    progress.stage("compare tasks", None)
    for task in source.tasks(progress):
        kept = is_kept(task)
        untested += kept and not task.tested
        places.append(0 if kept and task.tested else NOWHERE)
    progress.stage("write tasks", len(places))
    kept_count = source.copy([out], places.__getitem__, progress)[0]
    return {"tasks": len(places), "kept": kept_count, "untested": untested, "path": str(out)}


# -- dividing -----------------------------------------------------------------------------------


def split(
    source: Source,
    outs: Sequence[Path],
    shares: Sequence[float],
    seed: int = 0,
    progress: Progress = QUIET,
) -> dict[str, Any]:
    """Divides the tasks by chance; near-duplicates, and theirs in turn, go to one file.

    ``shares``: of the tasks (0-1), for each file or for all but the last, which gets the rest.
    They are met as nearly as the groups allow. The same seed divides the same tasks alike; in
    each file they keep their order. Gives ``tasks``, ``untested`` (as ``dedupe``), ``parts``:
    [{"path", "tasks", "share", "wanted"}], ``groups``: [[task_id, ...]] of those that were kept
    together, ``near_duplicates`` (what joined them, as ``dropped`` of ``dedupe``), ``replaced``.
    Raises UserError, before anything is written.
    """
    wanted = read_shares(shares, len(outs))
    replaced = refuse_outs(outs, [source.own, source.data])
    groups, numbers, count = Groups(), array("l"), 0
    progress.stage("compare tasks", None)
    for task in source.tasks(progress):
        numbers.append(groups.add(task) if task.tested else NOWHERE)
        count += 1
    members = groups.members()
    sides = _sides(members, wanted, seed)
    for part, out in enumerate(outs):
        if part not in sides:
            what = f"of {len(sides)} tasks in {len(members)} groups of near-duplicates none is left"
            raise UserError(f"{what} for it", where=str(out), hint="Ask for fewer parts")
    places = [NOWHERE if number < 0 else sides[number] for number in numbers]
    progress.stage("write tasks", count)
    counts = source.copy(outs, places.__getitem__, progress)
    together = [[groups.ids[n] for n in group] for group in members if len(group) > 1]
    return {
        "tasks": count,
        "untested": count - len(sides),
        "parts": [
            {"path": str(out), "tasks": n, "share": round(n / len(sides), 6), "wanted": share}
            for out, n, share in zip(outs, counts, wanted, strict=True)
        ],
        "groups": together,
        "near_duplicates": groups.joined,
        "replaced": [str(p) for p in replaced],
    }


class Groups:
    """Tasks as they come, and which of them are near-duplicates of one another, or of one that
    is, and so on."""

    def __init__(self) -> None:
        self.ids: list[str] = []
        self.joined: list[dict[str, Any]] = []
        """A row (``row_of_match``) for each task that is one before it again: the most alike."""
        self._near = Near()
        self._parents = array("L")

    def add(self, task: Task) -> int:
        """Puts a task with its near-duplicates; its number, from 0."""
        number = len(self.ids)
        self.ids.append(task.task_id)
        self._parents.append(number)
        for other in self._near.numbers(task):
            first, second = self._root(other), self._root(number)
            self._parents[max(first, second)] = min(first, second)
        if matches := self._near.matches(task):
            self.joined.append(row_of_match(task.task_id, matches[0]))
        self._near.add(task)
        return number

    def _root(self, number: int) -> int:
        while self._parents[number] != number:
            self._parents[number] = self._parents[self._parents[number]]
            number = self._parents[number]
        return number

    def members(self) -> list[list[int]]:
        """The numbers of each group's tasks, in their order; a task alone is a group."""
        found: dict[int, list[int]] = {}
        for number in range(len(self.ids)):
            found.setdefault(self._root(number), []).append(number)
        return list(found.values())


def read_shares(given: Sequence[float], parts: int) -> list[float]:
    """The share of each of so many parts; the last may be left out. Raises UserError."""
    hint = f"Give --share for each of the {parts} --out, or for all but the last; they sum to 1"
    if parts < 2:
        raise UserError(f"{parts} file to divide the tasks into", hint="Give --out twice or more")
    shares = [*given, 1 - math.fsum(given)] if len(given) == parts - 1 else list(given)
    told = ", ".join(f"{s:g}" for s in given) or "none"
    if len(shares) != parts or not all(0 < s < 1 for s in shares):
        raise UserError(f"shares {told} for {parts} files", hint=hint)
    if abs(math.fsum(shares) - 1) > 1e-6:
        raise UserError(f"shares {told} sum to {math.fsum(shares):g}", hint=hint)
    return [round(s, 9) for s in shares]


def _sides(groups: Sequence[Sequence[int]], shares: Sequence[float], seed: int) -> array[int]:
    """The part of each task: large groups first, each to a part that it fits in, by chance as
    the room there; what fits nowhere goes where most room is."""
    total = sum(map(len, groups))
    rooms = _rooms(total, shares)
    sides = array("b", bytes(total))
    draw = random.Random(derive_seed("split", seed))
    mixed = draw.sample(groups, len(groups))
    for group in sorted(mixed, key=len, reverse=True):
        weights = [room if room >= len(group) else 0 for room in rooms]
        if any(weights):
            part = draw.choices(range(len(rooms)), weights)[0]
        else:
            part = max(range(len(rooms)), key=rooms.__getitem__)
        rooms[part] -= len(group)
        for number in group:
            sides[number] = part
    return sides


def _rooms(total: int, shares: Sequence[float]) -> list[int]:
    """Tasks for each part: whole numbers that sum to all, the nearest to the shares."""
    rooms = [math.floor(total * share) for share in shares]
    rest = sorted(range(len(shares)), key=lambda i: rooms[i] - total * shares[i])
    for part in rest[: total - sum(rooms)]:
        rooms[part] += 1
    return rooms
