"""The same program gets the same verdict: beside busy neighbours, on any worker, in any company."""

from __future__ import annotations

import importlib.util
import random
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest

from persd.records import Task, Test, Verdict
from persd.sandbox import Limits, Sandbox
from persd.verify import Job, verify

RIGHT = "def f(x): return x + 1\n"
SPEND = """
import time
def spend(seconds):
    end = time.thread_time() + seconds
    while time.thread_time() < end: pass
"""
#: The reference costs next to nothing: 0.1 CPU seconds a test, and 0.3 where all before passed.
TASK = Task(
    "t",
    "Add one.",
    "def f(x):\n",
    "f",
    tests=(Test("f(1)", "2"), Test("f(2)", "3"), Test("f(3)", "4")),
    reference=RIGHT,
)


def slow(seconds: float, where: str = "x == 3") -> str:
    return f"{SPEND}def f(x):\n    if {where}: spend({seconds})\n    return x + 1\n"


#: What limits decide: status by source, far enough from the limit for any machine.
LIMITED = {
    "right": (RIGHT, "passed"),
    "wrong": ("def f(x): return x", "failed"),
    "raises": ("def f(x): return x / 0", "error"),
    "slow in every test": (slow(0.05, "True"), "passed"),
    "over the first limit in the last test": (slow(0.17), "passed"),
    "over every limit": (slow(0.6), "timeout"),
    "over the limit in the first test": (slow(0.6, "x == 1"), "timeout"),
    "endless": ("def f(x):\n    while True: pass", "timeout"),
    "endless while loading": ("while True: pass", "timeout"),
    "waits": ("import time\ndef f(x):\n    time.sleep(0.2)\n    return x + 1", "passed"),
    "fills its memory": ("x = []\nwhile True: x.append(bytes(10**8))", "memory"),
    "calls itself": ("def f(x): return f(x)", "error"),
}

#: What a program takes for random: what ``f(1)`` returns is the same wherever it runs.
DRAWN = {
    "random": "import random\ndef f(x): return [random.random(), random.randint(1, 10**9)]",
    "shuffle": "import random\ndef f(x):\n    y = list(range(9)); random.shuffle(y)\n    return y",
    "gauss": "import random\ndef f(x): return [random.gauss(0, 1), random.gauss(0, 1)]",
    "seed()": "import random\ndef f(x):\n    random.seed()\n    return random.random()",
    "seed while loading": "import random\nrandom.seed(7)\ndef f(x): return random.random()",
    "Random()": "import random\ndef f(x): return [random.Random().random() for _ in range(3)]",
    "Random(None)": "import random\ndef f(x): return random.Random(None).random()",
    "SystemRandom": "import random\ndef f(x): return random.SystemRandom().randrange(10**9)",
    "a subclass": "import random\nclass R(random.Random): pass\ndef f(x): return R().random()",
    "urandom": "import os\ndef f(x): return os.urandom(8)",
    "secrets": "import secrets\ndef f(x): return [secrets.token_hex(8), secrets.randbelow(10**9)]",
    "uuid4": "import uuid\ndef f(x): return str(uuid.uuid4())",
    "names of files": "import tempfile\ndef f(x): return tempfile.mkdtemp(dir='.').split('/')[-1]",
    "order of a set": "def f(x): return list({str(n) for n in range(50)} | {None, (), 1.5, b''})",
    "order of a frozenset": "def f(x): return list(frozenset('abcdefghijkl'))",
    "hashes": "def f(x): return [hash('a'), hash(b'b'), hash((1, 'c')), hash(None) % 16]",
    "an element of a set": "def f(x): return {str(n * n) for n in range(99)}.pop()",
    "depth of recursion": """
def f(x):
    try: return f(x + 1)
    except RecursionError: return x
""",
    "numpy": """
import numpy as np
def f(x):
    a = [np.random.rand(), np.random.default_rng().random(), np.random.RandomState().rand()]
    np.random.seed()
    return [float(y) for y in (*a, np.random.rand(), np.random.permutation(99)[0])]
""",
    "numpy, without saying so": """
import importlib
def f(x):
    np = importlib.import_module('numpy')
    return [float(np.random.rand()), float(np.random.default_rng().random())]
""",
}
if importlib.util.find_spec("numpy") is None:
    DRAWN = {name: source for name, source in DRAWN.items() if "numpy" not in name}
DRAW = replace(TASK, tests=(Test("f(1)", "'?'"),), reference=None)

LIMITS = Limits(load_seconds=0.4, calibrate=True)
JOBS = [Job(name, TASK, source, limits=LIMITS) for name, (source, _) in LIMITED.items()]
JOBS += [Job(name, DRAW, source) for name, source in DRAWN.items()]


@contextmanager
def busy(processes: int) -> Iterator[None]:
    """With so many processes that want all of a core."""
    command = [sys.executable, "-c", "while True: pass"]
    started = [subprocess.Popen(command) for _ in range(processes)]
    try:
        yield
    finally:
        for process in started:
            process.kill()
            process.wait()


def told(verdicts: Iterator[Verdict]) -> dict[str, Any]:
    """By name: the status, and of each test what came of it."""
    return {
        verdict.solution_id: (
            verdict.status,
            [(r.call, r.status, r.actual, r.error_type, r.message) for r in verdict.results],
        )
        for verdict in verdicts
    }


@pytest.fixture(scope="module")
def alone() -> dict[str, Any]:
    """What is said of each in a sandbox of one worker, with nobody else about."""
    with Sandbox(workers=1) as box:
        return told(verify(box, JOBS))


def test_they_are_what_they_are(alone: dict[str, Any]) -> None:
    statuses = {name: alone[name][0] for name in LIMITED}
    assert statuses == {name: status for name, (_, status) in LIMITED.items()}
    drawn = {name: alone[name] for name in DRAWN}
    assert {name for name, (status, _) in drawn.items() if status != "failed"} == set()
    assert [name for name, (_, results) in drawn.items() if results[0][2] in ("", "None")] == []


def test_busy_neighbours_change_nothing(alone: dict[str, Any]) -> None:
    with busy(4), Sandbox(workers=2) as box:
        assert told(verify(box, JOBS)) == alone


def test_another_order_worker_and_company_change_nothing(alone: dict[str, Any]) -> None:
    """Each twice, in some order, after others that draw and hash and fill."""
    others = [
        Job(
            "", DRAW, "import random\nrandom.seed(3)\nx = {str(n) for n in range(10**5)}\n" + RIGHT
        ),
        Job("", DRAW, "import os, uuid\nx = [os.urandom(9), uuid.uuid4()]\n" + RIGHT),
        Job("", DRAW, "x = [object() for _ in range(10**5)]\n" + RIGHT),
    ]
    jobs = [job for job in JOBS if alone[job.solution_id][0] != "timeout"] * 2
    mixed = [random.Random(n).choice([[job], [*others, job]]) for n, job in enumerate(jobs)]
    random.Random(1).shuffle(mixed)
    with Sandbox(workers=2) as box:
        for n in range(2):
            found = told(verify(box, [job for part in mixed[n::2] for job in part]))
            found.pop("", None)
            assert found == {name: alone[name] for name in found}


def test_a_batch_changes_nothing(alone: dict[str, Any]) -> None:
    jobs = random.Random(2).sample(JOBS, len(JOBS))
    with Sandbox(workers=2) as box:
        assert told(verify(box, jobs, batch=True)) == alone


#: Right or not as the draw falls.
CHANCE = {
    "random": "import random\ndef f(x): return x + (random.random() < 0.5)",
    "urandom": "import os\ndef f(x): return x + (os.urandom(1)[0] < 128)",
    "secrets": "import secrets\ndef f(x): return x + secrets.randbelow(2)",
    "uuid4": "import uuid\ndef f(x): return x + (uuid.uuid4().bytes[0] < 128)",
    "numpy": "import numpy as np\ndef f(x): return x + int(np.random.rand() < 0.5)",
    "numpy's default": """
import numpy as np
def f(x): return x + int(np.random.default_rng().random() < 0.5)
""",
}
STEADY = {
    "right": RIGHT,
    "wrong": "def f(x): return x",
    "draws, and is right": "import random\ndef f(x): return x + 1 + int(random.random())",
    "seeds": "import random\ndef f(x):\n    random.seed(x)\n    return x + (random.random() < 0.2)",
    "loops": "def f(x):\n    while True: pass",
}


@pytest.mark.parametrize("batch", [False, True])
def test_what_hangs_on_chance_is_told(batch: bool) -> None:
    """Each repeat draws from another seed."""
    flaky = {name for name in CHANCE if "numpy" not in name or "numpy" in DRAWN}
    task = replace(TASK, tests=(Test("f(1)", "2"),))
    codes = {name: CHANCE[name] for name in flaky} | STEADY
    jobs = [Job(name, task, code) for name, code in codes.items()]
    with Sandbox(workers=2) as box:
        often = list(verify(box, jobs, repeats=8, batch=batch))
        assert {v.solution_id for v in often if v.reason.startswith("flaky: ")} == flaky
        assert not [v for v in often if v.passed and v.solution_id in flaky]
        assert not [v for v in verify(box, jobs, batch=batch) if "flaky" in v.reason]
