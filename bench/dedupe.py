"""Near-duplicates: what it costs to find them among many tasks, and how many are missed.

    python bench/dedupe.py [--data FOLDER] [--sizes 10000,50000,200000] [--crowd 50000]

One JSON object, whose rows go to standard error as they come. ``synthetic``: a row a size; the
tasks are those of ``overlap.py``, made as they are read, each looked up and kept where it is new,
as ``persd tasks dedupe`` does. Cost is that of one process of its own: ``seconds`` of CPU
(``making`` the tasks not counted), ``ms_a_task``, ``ratio`` of that to the first size's,
``peak_mb``: the process at its largest, the interpreter and the release, which is kept to make
tasks of, included. ``crowd``: the same of a worst case, one large family: ``dedupe`` keeps one of
each kind, ``groups`` (as ``split`` and ``stats``) keeps all, so that nearly all share their
buckets; at the full size and at a fifth of it. ``recall``: MBPP's 974 tasks, and the release's,
each against each: pairs that count (``pairs``), and how many of them the indexes find.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from overlap import Timed, peak_mb, synthetic_tasks  # type: ignore[import-not-found]

from persd import tasks as task_sources
from persd.errors import UserError
from persd.pool.divide import Groups
from persd.pool.near import Near, compared
from persd.records import Task

#: Kinds of tasks in the crowd.
_KINDS = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("PERSD_DATA", ".")))
    parser.add_argument("--sizes", default="10000,50000,200000", help="synthetic tasks")
    parser.add_argument("--crowd", type=int, default=50_000, help="tasks of the worst case")
    args = parser.parse_args()
    sizes = [int(size) for size in args.sizes.split(",")]
    try:
        synthetic = [_alone(measured, args.data, size) for size in sizes]
        crowd = [
            _alone(of_crowd, args.data, size, keeps_all)
            for keeps_all in (False, True)
            for size in (max(1, args.crowd // 5), args.crowd)
        ]
        recall = _alone(of_recall, args.data)
    except UserError as error:
        raise SystemExit(error.one_line()) from None
    for row in synthetic:
        row["ratio"] = round(row["ms_a_task"] / synthetic[0]["ms_a_task"], 2)
    print(json.dumps({"synthetic": synthetic, "crowd": crowd, "recall": recall}, indent=2))


def _alone(work: Callable[..., Any], *args: Any) -> Any:
    """In a process of its own, whose peak memory is then its own; told on standard error."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        found = pool.submit(work, *args).result()
    print(json.dumps(found), file=sys.stderr, flush=True)
    return found


def measured(data: Path, size: int) -> dict[str, Any]:
    """What ``size`` synthetic tasks cost, of which the new ones are kept."""
    return _cost(Timed(synthetic_tasks(_release(data), size)), keeps_all=False)


def of_crowd(data: Path, size: int, keeps_all: bool) -> dict[str, Any]:
    """What a family of near-duplicates costs, kept or not."""
    tasks = Timed(crowd(_release(data), size))
    return {"keeps": "all" if keeps_all else "the first"} | _cost(tasks, keeps_all)


def crowd(known: Sequence[Task], size: int) -> Iterator[Task]:
    """Near-duplicates of a few tasks, and, one in ten, another task with the same program."""
    draw = random.Random(0)
    kinds = [t for t in known if len(t.instruction.split()) > 14][:_KINDS]
    words = [w for t in known for w in t.instruction.split()]
    for number in range(size):
        kind = kinds[number % _KINDS]
        said = [*kind.instruction.split(), *draw.choices(words, k=1)]
        if number % 10 == 9:
            said = draw.choices(words, k=20)
        yield replace(kind, task_id=f"crowd-{number}", instruction=" ".join(said))


def _cost(tasks: Timed, keeps_all: bool) -> dict[str, Any]:
    near, groups, count, found = Near(), Groups(), 0, 0
    began = time.process_time()
    for task in tasks:
        count += 1
        if keeps_all:
            groups.add(task)
        elif near.matches(task):
            found += 1
        else:
            near.add(task)
    seconds = time.process_time() - began - tasks.seconds
    return {
        "tasks": count,
        "near_duplicates": len(groups.joined) if keeps_all else found,
        "seconds": round(seconds, 1),
        "ms_a_task": round(1000 * seconds / count, 3),
        "making": round(tasks.seconds, 1),
        "peak_mb": round(peak_mb()),
    }


def of_recall(data: Path) -> dict[str, Any]:
    """How many of the pairs that count are found."""
    mbpp = task_sources.load("mbpp", path=str(data / "mbpp" / "mbpp.jsonl"), split="all")
    return {"mbpp": _found(list(mbpp)), "release": _found(_release(data))}


def _found(tasks: Sequence[Task]) -> dict[str, Any]:
    near, found = Near(), set[tuple[int, int]]()
    for number, task in enumerate(tasks):
        found |= {(other, number) for other in near.numbers(task)}
        near.add(task)
    pairs = set(compared(tasks))
    missed = len(pairs - found)
    share = round(1 - missed / len(pairs), 4) if pairs else None
    return {"tasks": len(tasks), "pairs": len(pairs), "missed": missed, "recall": share}


def _release(data: Path) -> list[Task]:
    return list(task_sources.load("persdistill", path=str(data / "persdistill")))


if __name__ == "__main__":
    main()
