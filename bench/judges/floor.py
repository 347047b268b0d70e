"""The floor: bare ``exec`` of program and test, one after the other in this very process.

    python floor.py LOAD 1 OUT

No isolation, no limits: an endless program never ends here. OUT: {"seconds", "passed": [..]}.
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
import time
from pathlib import Path


def main() -> None:
    load, out = Path(sys.argv[1]), Path(sys.argv[3])
    problems = {p["task_id"]: p for p in _rows(load / "problems.jsonl")}
    for problem in problems.values():  # what they import is there before the clock starts
        _passes(problem, problem["canonical_solution"])
    samples = [(problems[s["task_id"]], s["completion"]) for s in _rows(load / "samples.jsonl")]
    started = time.perf_counter()
    passed = [_passes(problem, completion) for problem, completion in samples]
    seconds = time.perf_counter() - started
    out.write_text(json.dumps({"seconds": seconds, "passed": passed}))


def _rows(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def _passes(problem: dict[str, str], completion: str) -> bool:
    test = f"{problem['test']}\ncheck({problem['entry_point']})"
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            exec(f"{problem['prompt']}{completion}\n{test}", {})  # noqa: S102
        return True
    except Exception:
        return False


if __name__ == "__main__":
    main()
