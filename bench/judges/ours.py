"""This project's judge, in a process of its own.

    python ours.py LOAD WORKERS OUT [--batch] [--cpu-seconds S]

The clock of ``seconds`` starts when the sandbox is warm (each problem's canonical solution has
been judged once) and covers judging alone; the jobs lie ready. Without S, a test's limit in CPU
seconds is the judge's usual one. OUT: {"seconds", "passed": [..], "statuses": [..],
"import_seconds", "first_seconds" (from ``Sandbox()`` to the first verdict), "isolation",
"cpu_limits": [lowest, highest]}.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from persd.sandbox import Sandbox
    from persd.verify import Job


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("load", type=Path)
    parser.add_argument("workers", type=int)
    parser.add_argument("out", type=Path)
    parser.add_argument("--batch", action="store_true", help="several programs in one process")
    parser.add_argument("--cpu-seconds", type=float)
    args = parser.parse_args()
    args.out.write_text(json.dumps(judge(args)))


def judge(args: argparse.Namespace) -> dict[str, Any]:
    started = time.perf_counter()
    from persd.sandbox import Sandbox
    from persd.verify import verify

    imported = time.perf_counter()
    # unsafe: where no layer of isolation is to be had, these programs are known to be harmless
    with Sandbox(workers=args.workers, unsafe=True) as box:
        _add(box)
        ready = time.perf_counter()
        jobs = _jobs(box, args)
        begun = time.perf_counter()
        verdicts = list(verify(box, jobs, batch=args.batch))
        seconds = time.perf_counter() - begun
        isolation = box.isolation
    limits = [verdict.limits["cpu_seconds"] for verdict in verdicts]
    return {
        "seconds": seconds,
        "passed": [verdict.passed for verdict in verdicts],
        "statuses": [verdict.status for verdict in verdicts],
        "import_seconds": imported - started,
        "first_seconds": ready - imported,
        "isolation": isolation,
        "cpu_limits": [min(limits), max(limits)],
    }


def _add(box: Sandbox) -> None:
    """The first program: the least there is to judge."""
    from persd.records import Task, Test
    from persd.verify import Job, verify

    task = Task("add", "", "def add(a, b):\n", "add", tests=(Test("add(1, 2)", "3"),))
    (verdict,) = verify(box, [Job("add", task, "def add(a, b):\n    return a + b\n")])
    assert verdict.passed, verdict


def _jobs(box: Sandbox, args: argparse.Namespace) -> list[Job]:
    """A job a row; on the way every canonical solution is judged once."""
    from persd import tasks
    from persd.sandbox import Limits
    from persd.verify import Job, verify

    known = {t.task_id: t for t in tasks.load("humaneval", path=str(args.load / _PROBLEMS))}
    references = [Job(t.task_id, t, t.reference or "") for t in known.values()]
    list(verify(box, references, batch=args.batch))
    limits = Limits(cpu_seconds=args.cpu_seconds) if args.cpu_seconds else None
    return [
        Job(str(number), known[task_id], code, limits=limits)
        for number, (task_id, code) in enumerate(_programs(args.load))
    ]


_PROBLEMS = "problems.jsonl"


def _programs(load: Path) -> list[tuple[str, str]]:
    """Task id and whole program of each row."""
    prompts = {row["task_id"]: row["prompt"] for row in _rows(load / _PROBLEMS)}
    return [
        (row["task_id"], prompts[row["task_id"]] + row["completion"])
        for row in _rows(load / "samples.jsonl")
    ]


def _rows(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


if __name__ == "__main__":
    main()
