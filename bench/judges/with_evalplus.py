"""evalplus as it is installed, on HumanEval's own tests; runs in the peers' environment.

    python with_evalplus.py LOAD WORKERS OUT

Timed is its ``evaluate("humaneval", .., base_only=True, parallel=WORKERS)`` from call to return,
on a local data set in its format: the inputs are those that HumanEval's ``check`` passes to the
canonical solution, the expected outputs what evalplus computes from it, before the clock starts.
OUT: {"seconds", "passed": [..]}.
"""

from __future__ import annotations

import contextlib
import copy
import importlib
import io
import json
import os
import random
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any


def main() -> None:
    load, workers, out = Path(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    with tempfile.TemporaryDirectory() as folder:
        result = evaluate(load, workers, Path(folder))
    out.write_text(json.dumps(result))
    sys.stdout.flush()
    os._exit(0)  # evalplus leaves a thread that would sleep for 20 seconds


def evaluate(load: Path, workers: int, folder: Path) -> dict[str, Any]:
    data, samples = folder / "data.jsonl", folder / "samples.jsonl"
    problems = [_problem(row) for row in _rows(load / "problems.jsonl")]
    data.write_text("".join(json.dumps(problem) + "\n" for problem in problems))
    samples.write_text((load / "samples.jsonl").read_text())
    os.environ["HUMANEVAL_OVERRIDE_PATH"] = str(data)
    os.environ["XDG_CACHE_HOME"] = str(folder)  # where it keeps the expected outputs
    evalplus = importlib.import_module("evalplus.evaluate")
    evalplus.get_groundtruth(
        evalplus.get_human_eval_plus(), evalplus.get_human_eval_plus_hash(), []
    )
    started = time.perf_counter()
    evalplus.evaluate("humaneval", samples=str(samples), base_only=True, parallel=workers)
    seconds = time.perf_counter() - started
    found = json.loads((folder / "samples_eval_results.json").read_text())["eval"]
    return {"seconds": seconds, "passed": _in_order(_rows(samples), found)}


def _in_order(samples: list[dict[str, Any]], found: dict[str, Any]) -> list[bool]:
    """Its results come by task, each task's in the order of the samples."""
    taken: dict[str, int] = defaultdict(int)
    passed = []
    for sample in samples:
        task_id = sample["task_id"]
        passed.append(found[task_id][taken[task_id]]["base_status"] == "pass")
        taken[task_id] += 1
    return passed


def _problem(row: dict[str, Any]) -> dict[str, Any]:
    """A HumanEval row as evalplus wants it. Its check of ``find_zero`` needs a tolerance."""
    return {
        **{name: row[name] for name in ("task_id", "prompt", "canonical_solution", "entry_point")},
        "contract": "",
        "base_input": _inputs(row),
        "plus_input": [],
        "atol": 1e-4 if row["entry_point"] == "find_zero" else 0,
    }


def _inputs(row: dict[str, Any]) -> list[list[Any]]:
    """The arguments of each call that the tests make of the canonical solution."""
    inputs: list[list[Any]] = []
    names: dict[str, Any] = {}
    random.seed(0)
    with contextlib.redirect_stdout(io.StringIO()):
        exec(row["prompt"] + row["canonical_solution"] + "\n" + row["test"], names)  # noqa: S102
        solution = names[row["entry_point"]]

        def record(*args: Any) -> Any:
            inputs.append(copy.deepcopy(list(args)))
            return solution(*args)

        names["check"](record)
    return inputs


def _rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


if __name__ == "__main__":
    main()
