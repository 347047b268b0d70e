"""Kill a run at random, many times, and see whether anything is lost or paid twice.

    python bench/kill.py --kills 20            a scripted student and a teacher served over HTTP
    python bench/kill.py --kills 20 --lab      the embedded student and teacher, trained as well

The same run is made once without interruption. Each kill is SIGKILL to the whole process group
at a random moment; the run is then started again, until it ends. Printed: whether both data
sets are the same bytes, how many calls each asked for, and how many were asked twice (at most
one a kill: the call in flight).
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

PERSD = (sys.executable, "-m", "persd.cli")


@dataclass
class Teacher:
    """An endpoint on this machine that repairs; counts how often each question was asked."""

    latency: float = 0.05
    asked: Counter[str] = field(default_factory=Counter)

    @contextlib.contextmanager
    def serve(self) -> Iterator[str]:
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                outer.asked[hashlib.sha256(body).hexdigest()] += 1
                time.sleep(outer.latency)
                data = json.dumps(_reply(json.loads(body))).encode()
                with contextlib.suppress(OSError):  # the asker may be dead by now
                    self.send_response(200)
                    self.send_header("content-type", "application/json")
                    self.send_header("content-length", str(len(data)))
                    self.end_headers()
                    self.wfile.write(data)

            def log_message(self, *args: Any) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/v1"
        finally:
            server.shutdown()
            server.server_close()

    @property
    def repeated(self) -> int:
        return sum(n - 1 for n in self.asked.values())


def _reply(body: dict[str, Any]) -> dict[str, Any]:
    task = "".join(m["content"] for m in body["messages"])
    number = int(task.split("by ")[1].split(".")[0])
    code = f"```python\ndef scale(x):\n    return x * {number}\n```"
    return {
        "id": "1",
        "object": "chat.completion",
        "created": 1,
        "model": body["model"],
        "choices": [
            {
                "index": 0,
                "finish_reason": "stop",
                "message": {"role": "assistant", "content": code},
            }
        ],
        "usage": {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120},
    }


def write_tasks(folder: Path, count: int) -> None:
    """Tasks ``scale a number by n``, and a student that is right on every third."""
    tasks, script = [], []
    for n in range(2, count + 2):
        tasks.append(
            {
                "task_id": f"scale-{n}",
                "instruction": f"Multiply the number by {n}.",
                "entry_point": "scale",
                "header": "def scale(x):\n",
                "tests": [
                    {"call": "scale(3)", "expected": str(3 * n)},
                    {"call": "scale(-1)", "expected": str(-n)},
                ],
                "reference": f"def scale(x):\n    return {n} * x\n",
            }
        )
        wrong = n if n % 3 == 0 else n + 1
        text = f"    return x * {wrong}\n"
        script.append({"task_id": f"scale-{n}", "purpose": "attempt", "text": text})
    (folder / "tasks.jsonl").write_text("".join(json.dumps(t) + "\n" for t in tasks))
    (folder / "student.jsonl").write_text("".join(json.dumps(s) + "\n" for s in script))


def served_config(folder: Path, url: str, run: Path) -> Path:
    """A run with the scripted student and the served teacher, one call at a time."""
    return _config(
        folder,
        run,
        f'[tasks]\nsource = "jsonl"\npath = "{folder}/tasks.jsonl"\n'
        f'[student]\nmodel = "scripted:{folder}/student.jsonl"\n'
        f'[teacher]\nmodel = "fake"\nbase_url = "{url}"\nmax_in_flight = 1\n',
    )


def lab_config(folder: Path, run: Path, tasks: int) -> Path:
    """The embedded student and teacher."""
    return _config(
        folder,
        run,
        f'[tasks]\nsource = "lab"\nlimit = {tasks}\n'
        '[student]\nmodel = "lab"\nmax_tokens = 160\nbatch = 16\n[teacher]\nmodel = "lab"\n'
        "[train]\nlr = 1e-3\nepochs = 1\n",
    )


def _config(folder: Path, run: Path, rest: str) -> Path:
    path = folder / f"{run.name}.toml"
    path.write_text(f'[run]\ndir = "{run}"\nvariants = ["persd-combined"]\n{rest}')
    return path


def finish(config: Path, command: str) -> None:
    """Run to the end; raises CalledProcessError where it fails."""
    subprocess.run([*PERSD, command, str(config)], check=True, capture_output=True)


def finish_with_kills(
    config: Path, command: str, kills: int, rng: random.Random, longest: float
) -> int:
    """Run to the end with up to ``kills`` SIGKILLs; gives how many struck a living run."""
    struck = 0
    for _ in range(kills):
        process = subprocess.Popen(
            [*PERSD, command, str(config)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(rng.uniform(0.2, longest))
        if process.poll() is None:
            struck += 1
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    finish(config, command)
    return struck


def data_set(run: Path, out: Path) -> bytes:
    """The bytes of the run's data set."""
    command = [*PERSD, "build", str(run), "--variant", "persd-combined", "--out", str(out)]
    subprocess.run(command, check=True, capture_output=True)
    return out.read_bytes()


def trial(folder: Path, *, kills: int, tasks: int, seed: int, lab: bool = False) -> dict[str, Any]:
    """One run without and one with kills, compared."""
    command = "run" if lab else "collect"
    write_tasks(folder, tasks)
    whole, killed = Teacher(), Teacher()
    with whole.serve() as url, killed.serve() as other_url:
        runs = [folder / "whole", folder / "killed"]
        configs = (
            [lab_config(folder, r, tasks) for r in runs]
            if lab
            else [served_config(folder, u, r) for u, r in zip((url, other_url), runs, strict=True)]
        )
        started = time.monotonic()
        finish(configs[0], command)
        took = time.monotonic() - started
        struck = finish_with_kills(configs[1], command, kills, random.Random(seed), 0.6 + took / 8)
    same = data_set(runs[0], folder / "a.jsonl") == data_set(runs[1], folder / "b.jsonl")
    return {
        "kills": struck,
        "tasks": tasks,
        "seconds_whole": round(took, 1),
        "same_data_set": same,
        "calls_whole": _stored_calls(runs[0]),
        "calls_killed": _stored_calls(runs[1]),
        "asked_whole": sum(whole.asked.values()),
        "asked_killed": sum(killed.asked.values()),
        "asked_twice": killed.repeated,
    }


def _stored_calls(run: Path) -> int:
    from persd.ledger import Ledger

    with Ledger(run, read_only=True) as ledger:
        return int(ledger.query("SELECT COUNT(*) AS n FROM calls")[0]["n"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--tasks", type=int, default=240)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--lab", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = trial(
            Path(folder), kills=args.kills, tasks=args.tasks, seed=args.seed, lab=args.lab
        )
    for name, value in found.items():
        print(f"{name:16} {value}")
    sys.exit(0 if found["same_data_set"] else 1)


if __name__ == "__main__":
    main()
