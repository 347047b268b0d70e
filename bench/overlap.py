"""Overlap: what of the paper's release is a benchmark's task again, and what it costs to know.

    python bench/overlap.py [--data FOLDER] [--sizes 12500,25000,50000]

One JSON object. ``release``: its tasks held against HumanEval and MBPP's test split, by
benchmark: ``touched``, ``flagged``, ``pairs`` and ``by_measure`` (see ``overlap_report``); the
thresholds were chosen on these very pairs, so they say nothing of what other data would give.
``mbpp``: MBPP's training split held against its test split, likewise.
``synthetic``: a row a size; the tasks are words of two of the release's instructions and the
program of a third, drawn with a seed, made as they are read. Cost is that of one process of its
own: ``seconds`` of CPU for building the index and holding the tasks against it (``making`` or
reading the tasks not counted), ``ms_a_task``, and ``peak_mb``: the process at its largest, the
interpreter and the release, which is kept to make tasks of, included.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from persd import tasks as task_sources
from persd.errors import UserError
from persd.overlap import overlap_report
from persd.records import Task


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("PERSD_DATA", ".")))
    parser.add_argument("--sizes", default="12500,25000,50000", help="synthetic tasks")
    args = parser.parse_args()
    try:
        release = _alone(args.data, 0)
        mbpp = of_mbpp(args.data)
        synthetic = [_alone(args.data, int(size)) for size in args.sizes.split(",")]
    except UserError as error:
        raise SystemExit(error.one_line()) from None
    costs = [{k: v for k, v in row.items() if k != "benchmarks"} for row in synthetic]
    print(json.dumps({"release": release, "mbpp": mbpp, "synthetic": costs}, indent=2))


def _alone(data: Path, size: int) -> dict[str, Any]:
    """``measured`` in a process of its own, whose peak memory is then its own."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(measured, data, size).result()


def measured(data: Path, size: int) -> dict[str, Any]:
    """The overlap of ``size`` synthetic tasks, 0: of the release itself, and its cost."""
    release = task_sources.load("persdistill", path=str(data / "persdistill"))
    benchmarks = {
        "humaneval": _read("humaneval", data / "humaneval" / "HumanEval.jsonl.gz"),
        "mbpp": _read("mbpp", data / "mbpp" / "mbpp.jsonl"),
    }
    train = Timed(synthetic_tasks(list(release), size) if size else release)
    began = time.process_time()
    report = overlap_report(train, benchmarks)
    seconds = time.process_time() - began - train.seconds
    return {
        "tasks": report["train_tasks"],
        "seconds": round(seconds, 1),
        "ms_a_task": round(1000 * seconds / report["train_tasks"], 2),
        "making": round(train.seconds, 1),
        "peak_mb": round(peak_mb()),
        "benchmarks": {name: _told(row) for name, row in report["benchmarks"].items()},
    }


def of_mbpp(data: Path) -> dict[str, Any]:
    """MBPP's own training split held against its test split."""
    path = data / "mbpp" / "mbpp.jsonl"
    train = task_sources.load("mbpp", path=str(path), split="train")
    report = overlap_report(train, {"mbpp": _read("mbpp", path)})
    return {"tasks": report["train_tasks"], **_told(report["benchmarks"]["mbpp"])}


def _read(source: str, path: Path) -> list[Task]:
    return list(task_sources.load(source, path=str(path), split="test"))


def _told(row: dict[str, Any]) -> dict[str, Any]:
    return {
        "benchmark_tasks": row["tasks"],
        "touched": len(row["touched"]),
        "flagged": row["flagged"],
        "pairs": row["pairs"],
        "by_measure": row["by_measure"],
    }


class Timed:
    """A stream of tasks, and the CPU seconds that making them took."""

    def __init__(self, tasks: Iterable[Task]) -> None:
        self.tasks = iter(tasks)
        self.seconds = 0.0

    def __iter__(self) -> Iterator[Task]:
        while True:
            began = time.process_time()
            task = next(self.tasks, None)
            self.seconds += time.process_time() - began
            if task is None:
                return
            yield task


def synthetic_tasks(known: Sequence[Task], size: int) -> Iterator[Task]:
    draw = random.Random(0)
    for number in range(size):
        first, second, program = draw.choices(known, k=3)
        words = first.instruction.split()[::2] + second.instruction.split()[1::2]
        yield replace(program, task_id=f"synthetic-{number}", instruction=" ".join(words))


def peak_mb() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1024 * 1024 if sys.platform == "darwin" else 1024)


if __name__ == "__main__":
    main()
