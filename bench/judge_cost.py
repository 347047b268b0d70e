"""What a program costs the judge, and where the time goes.

    python bench/judge_cost.py [--data HumanEval.jsonl.gz] [--copies 4]

One JSON object, times in milliseconds. ``floors``: forking a process that does nothing and
waiting for its end, from a bare interpreter and from one with what the judge's zygote has
loaded; and HumanEval's canonical solutions by bare ``exec``, all of them and without the dearest.
``ours``: CPU time a program by who spent it (this process; the workers and all that they forked,
user and system; their start not counted) and page faults, for a program that does nothing and
for the canonical solutions, isolated and batched, by plain calls and by test code. CPU time moves
less than the clock where others use the machine too; ``per_second`` is the clock's.
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import io
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from persd import tasks
from persd.errors import UserError
from persd.sandbox import Sandbox
from persd.sandbox.server import _PRELOADED
from persd.verify import Job, Task, Test, verify

_ENGINE = "json socket ctypes mmap resource select struct"
_FORKS = """
import gc, importlib, os, sys, time
for name in sys.argv[1].split():
    importlib.import_module(name)
gc.collect(); gc.freeze(); gc.disable()
best = 9.0
for _ in range(5):
    began = time.perf_counter()
    for _ in range(200):
        pid = os.fork()
        if pid == 0:
            os._exit(0)
        os.waitpid(pid, 0)
    best = min(best, time.perf_counter() - began)
print(best / 200 * 1000)
"""
_NOTHING = Task("nothing", "", "def f(x):\n", "f", tests=(Test("f(1)", "1"),))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path)
    parser.add_argument("--copies", type=int, default=4)
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()
    path = args.data or Path(os.environ.get("PERSD_DATA", "."), "humaneval", "HumanEval.jsonl.gz")
    try:
        pool = list(tasks.load("humaneval", path=str(path)))
    except UserError as error:
        raise SystemExit(error.one_line()) from None
    print(json.dumps({"floors": floors(path), "ours": ours(pool, args)}, indent=2))


def floors(path: Path) -> dict[str, Any]:
    """What no judge of this kind can go below."""
    loaded = f"{_ENGINE} {_PRELOADED}"
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    spent = sorted(min(_bare(row) for _ in range(3)) for row in rows)
    return {
        "fork_bare_interpreter": _forks(""),
        "fork_with_preloaded_modules": _forks(loaded),
        "exec_mean": round(1000 * sum(spent) / len(spent), 3),
        "exec_mean_without_the_3_dearest": round(1000 * sum(spent[:-3]) / len(spent[:-3]), 3),
        "exec_dearest": [round(1000 * s, 1) for s in spent[-3:]],
    }


def _forks(modules: str) -> float:
    """Milliseconds of a fork, the child's end and the wait for it."""
    command = [sys.executable, "-I", "-S", "-c", _FORKS, modules]
    return round(float(subprocess.run(command, capture_output=True, check=True).stdout), 3)


def _bare(row: dict[str, str]) -> float:
    """Seconds of a canonical solution and its tests in this process."""
    program = row["prompt"] + row["canonical_solution"] + "\n" + row["test"]
    began = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()):
        exec(program + f"\ncheck({row['entry_point']})\n", {})  # noqa: S102 -- the benchmark's own
    return time.perf_counter() - began


def ours(pool: Sequence[Task], args: argparse.Namespace) -> dict[str, Any]:
    """CPU milliseconds a program, by lane."""
    dearest = "HumanEval/75"  # more than half of all the time the canonical solutions take
    plain = [t for t in pool if t.test_code is None and t.task_id != dearest]
    judged = [t for t in pool if t.test_code is not None]
    return {
        "nothing, isolated": _cost([_NOTHING] * 600, False, args.workers),
        "canonical calls, isolated": _cost(plain * args.copies, False, args.workers),
        "canonical calls, batched": _cost(plain * args.copies, True, args.workers),
        "canonical test code, isolated": _cost(judged * args.copies, False, args.workers),
    }


def _cost(pool: Sequence[Task], batch: bool, workers: int) -> dict[str, float]:
    jobs = [Job(t.task_id, t, t.reference or "def f(x): return x") for t in pool]
    started = _spent(jobs[:workers], [], batch, workers)
    spent = _spent(jobs[:workers], jobs, batch, workers)
    each = {name: (spent[name] - started[name]) / len(jobs) for name in spent}
    return {
        "programs": len(jobs),
        "per_second": round(1 / each["seconds"]),
        "cpu_this_process": round(1000 * each["mine"], 3),
        "cpu_workers_user": round(1000 * each["user"], 3),
        "cpu_workers_system": round(1000 * each["system"], 3),
        "page_faults": round(each["faults"]),
    }


def _spent(first: list[Job], jobs: list[Job], batch: bool, workers: int) -> dict[str, float]:
    """Seconds and faults of a sandbox's whole life; wall and own seconds without its start."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with Sandbox(workers=workers, unsafe=True) as box:
        list(verify(box, first))
        mine, began = time.process_time(), time.perf_counter()
        assert all(verdict.passed for verdict in verify(box, jobs, batch=batch))
        seconds, mine = time.perf_counter() - began, time.process_time() - mine
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {
        "seconds": seconds,
        "mine": mine,
        "user": after.ru_utime - before.ru_utime,
        "system": after.ru_stime - before.ru_stime,
        "faults": after.ru_minflt - before.ru_minflt,
    }


if __name__ == "__main__":
    main()
