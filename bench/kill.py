"""Kill a run at random, many times, and see whether anything is lost or paid twice.

    python bench/kill.py                   a scripted student, a served teacher, one call at once
    python bench/kill.py --kills 200 --tasks 2000 --in-flight 64 --longest 1.8
    python bench/kill.py --kills 20 --lab  the embedded student and teacher, trained as well

The same run is made once without interruption. Each kill is SIGKILL to the whole process group
at a random moment of its life, from start-up to closing; the run is then started again, even
where it has ended, until all kills have struck: a quarter before its first question, the others
within ``--longest`` seconds after it. Printed: whether both data sets are the same
bytes, what each asked for, and what was asked again. The teacher (``endpoint.py``) knows when it
had written a reply: one that is asked for again although it was written more than 0.25 s before
the kill was lost; none may be. A part of the teacher's first repairs is wrong, so that some
questions rest on earlier replies.
"""

from __future__ import annotations

import argparse
import bisect
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bench import endpoint
else:
    import endpoint  # a script finds its neighbours so

PERSD = (sys.executable, "-m", "persd.cli")
PHASES = ("starting", "asking", "between", "done")
LOST_AFTER = 0.25
"""Seconds after which a reply that was written must be durable at the caller's."""


@dataclass(frozen=True)
class Plan:
    """What is killed how often. ``longest`` is the most seconds a life may last after its first
    question (of the lab: in all; None: a share of the unbroken run); ``latency`` and ``jitter``
    are the teacher's."""

    kills: int = 20
    tasks: int = 240
    seed: int = 0
    lab: bool = False
    in_flight: int = 1
    latency: float = 0.05
    jitter: float = 0.0
    longest: float | None = None

    def teacher(self) -> endpoint.Settings:
        return endpoint.Settings(
            latency=self.latency, jitter=self.jitter, seed=self.seed, wrong_share=0.5
        )


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


def served_config(folder: Path, url: str, run: Path, in_flight: int = 1) -> Path:
    """A run with the scripted student and the served teacher."""
    return _config(
        folder,
        run,
        f'[tasks]\nsource = "jsonl"\npath = "{folder}/tasks.jsonl"\n'
        f'[student]\nmodel = "scripted:{folder}/student.jsonl"\n'
        f'[teacher]\nmodel = "fake"\nbase_url = "{url}"\nmax_in_flight = {in_flight}\n',
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


# ---- killing -------------------------------------------------------------------------------


@dataclass
class Kills:
    """When a run was killed, and while it did what."""

    rng: random.Random
    times: list[tuple[float, float]] = field(default_factory=list)
    """``time.monotonic`` of each kill, in their order, and when the teacher had seen it."""
    phases: Counter[str] = field(default_factory=Counter)
    """``starting`` (it had asked nothing yet), ``asking`` (calls were in flight), ``between``
    (it had asked, and waited for no reply: judging or closing), ``done`` (a life before this one
    had ended by itself: nothing is left to ask)."""
    in_flight: int = 0
    """Calls in flight at all kills together."""
    lives: int = 0
    before_asking: float = 1.0
    """Seconds from the start of a life to its first question, or to its end where it asks none."""
    done: bool = False

    def wait(
        self, process: subprocess.Popen[bytes], server: endpoint.Server, asked: int, plan: Plan
    ) -> None:
        """Until a random moment of a life, or its end. ``asked``: calls before this life."""
        began = time.monotonic()
        if plan.lab or self.done or self.rng.random() < 0.25:
            most = (plan.longest or 1.0) if plan.lab else self.before_asking
        else:
            while process.poll() is None and server.stats()["requests"] == asked:
                time.sleep(0.02)
            self.before_asking, most = time.monotonic() - began, plan.longest or plan.latency
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(self.rng.uniform(0, most))
        if process.poll() is not None:
            self.before_asking, self.done = time.monotonic() - began, not plan.lab

    def strike(
        self, process: subprocess.Popen[bytes], before: Mapping[str, Any], server: endpoint.Server
    ) -> None:
        """Kill, and note what the teacher knew of it; ``before``: its counts before this life."""
        now, struck = server.stats(), time.monotonic()
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        _settled(server)
        self.times.append((struck, time.monotonic()))
        asked = now["requests"] - before["requests"]
        self.in_flight += now["in_flight"]
        asking = "asking" if now["in_flight"] else "between" if asked else "starting"
        self.phases["done" if self.done else asking] += 1


def finish(config: Path, command: str) -> None:
    """Run to the end; raises CalledProcessError where it fails."""
    subprocess.run([*PERSD, command, str(config)], check=True, capture_output=True)


def kill_often(config: Path, command: str, server: endpoint.Server, plan: Plan) -> Kills:
    """Start a run and kill it, again and again; one that has ended is started all the same."""
    kills = Kills(random.Random(plan.seed))
    while len(kills.times) < plan.kills and kills.lives < 3 * plan.kills:
        kills.lives += 1
        before = _settled(server)
        process = subprocess.Popen(
            [*PERSD, command, str(config)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        kills.wait(process, server, before["requests"], plan)
        if process.poll() is None:
            kills.strike(process, before, server)
    return kills


def _settled(server: endpoint.Server) -> Mapping[str, Any]:
    """The teacher's counts once it has seen that nobody waits any more."""
    while (stats := server.stats())["in_flight"]:
        time.sleep(0.005)
    return stats


# ---- what came of it -----------------------------------------------------------------------


def repeats(
    questions: Mapping[str, Sequence[float]], kills: Sequence[tuple[float, float]]
) -> dict[str, Any]:
    """What was asked again although a good reply to it had been written.

    ``questions``: for each, when its replies had been written; ``kills``: when the caller was
    killed, and when the teacher had seen that it was gone, in order. A reply's age is the
    seconds from its writing to the kill; until it has seen it, the teacher writes to the dead.
    """
    written = [t for times in questions.values() for t in sorted(times)[:-1]]
    gone = [seen for _, seen in kills]
    ages = [kills[n][0] - t for t in written if (n := bisect.bisect_left(gone, t)) < len(gone)]
    return {
        "answered_twice": len(written),
        "answered_twice_without_a_kill": len(written) - len(ages),
        "oldest_reply_asked_again": round(max(ages, default=0.0), 4),
        "replies_lost": sum(age > LOST_AFTER for age in ages),
    }


def data_set(run: Path, out: Path) -> bytes:
    """The bytes of the run's data set."""
    command = [*PERSD, "build", str(run), "--variant", "persd-combined", "--out", str(out)]
    subprocess.run(command, check=True, capture_output=True)
    return out.read_bytes()


def trial(folder: Path, plan: Plan) -> dict[str, Any]:
    """One run without and one with kills, compared."""
    command = "run" if plan.lab else "collect"
    write_tasks(folder, plan.tasks)
    runs = [folder / "whole", folder / "killed"]
    settings = plan.teacher()
    with endpoint.serve(settings) as calm, endpoint.serve(settings) as server:
        urls = (calm.url, server.url)
        configs = (
            [lab_config(folder, r, plan.tasks) for r in runs]
            if plan.lab
            else [
                served_config(folder, url, r, plan.in_flight)
                for url, r in zip(urls, runs, strict=True)
            ]
        )
        started = time.monotonic()
        finish(configs[0], command)
        took = time.monotonic() - started
        if plan.longest is None:
            plan = replace(plan, longest=0.6 + took / 8)
        kills = kill_often(configs[1], command, server, plan)
        answered = _settled(server)
        finish(configs[1], command)
        killed = time.monotonic() - started - took
        asked_whole = calm.stats()["requests"]
        stats = server.stats(questions=True)
    same = data_set(runs[0], folder / "a.jsonl") == data_set(runs[1], folder / "b.jsonl")
    return {
        "kills": len(kills.times),
        **{f"kills_{phase}": kills.phases[phase] for phase in PHASES},
        "lives": kills.lives,
        "tasks": plan.tasks,
        "seconds_whole": round(took, 1),
        "seconds_killed": round(killed, 1),
        "same_data_set": same,
        "calls_whole": _stored_calls(runs[0]),
        "calls_killed": _stored_calls(runs[1]),
        "asked_whole": asked_whole,
        "asked_killed": stats["requests"],
        "answered_by_the_last_kill": answered["answered"] - answered["repeated"],
        "asked_again": stats["requests"] - len(stats["questions"]),
        "in_flight_at_kills": kills.in_flight,
        "tries_lost": _lost_tries(runs[1]),
        **repeats(stats["questions"], kills.times),
    }


def _stored_calls(run: Path) -> int:
    return _count(run, "SELECT COUNT(*) AS n FROM calls")


def _lost_tries(run: Path) -> int:
    return _count(run, "SELECT COUNT(*) AS n FROM tries WHERE outcome = 'lost'")


def _count(run: Path, sql: str) -> int:
    from persd.ledger import Ledger

    with Ledger(run, read_only=True) as ledger:
        return int(ledger.query(sql)[0]["n"])


def faults(found: Mapping[str, Any]) -> list[str]:
    """What must not be, in words; empty: nothing was lost, and nothing paid twice in vain."""
    wrong = {
        "the data sets differ": not found["same_data_set"],
        "the runs do not hold the same calls": found["calls_whole"] != found["calls_killed"],
        "replies were lost": bool(found["replies_lost"]),
        "a question was answered twice without a kill": bool(
            found["answered_twice_without_a_kill"]
        ),
        "more was asked again than the ledger knows was in flight": (
            found["asked_again"] > found["tries_lost"]
        ),
    }
    return [what for what, is_so in wrong.items() if is_so]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, default in (("kills", 20), ("tasks", 240), ("seed", 0), ("in-flight", 1)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--latency", type=float, default=1.0, help="seconds of a call, at least")
    parser.add_argument("--jitter", type=float, default=1.0, help="the most added, as a share")
    parser.add_argument("--longest", type=float, help="seconds of a life after its first question")
    parser.add_argument("--lab", action="store_true")
    plan = Plan(**vars(parser.parse_args()))
    with tempfile.TemporaryDirectory() as folder:
        found = trial(Path(folder), plan)
    for name, value in found.items():
        print(f"{name:30} {value}")
    wrong = faults(found)
    print("\n".join(f"NOT reached: {what}" for what in wrong) or "nothing lost, nothing in vain")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
