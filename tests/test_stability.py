"""The same program, the same verdict: on a busy machine, in another worker, after others."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from persd.records import Task, Test, Verdict
from persd.sandbox import Sandbox
from persd.verify import Job, verify

TASK = Task(
    "f",
    "",
    "def f(x):\n",
    "f",
    tests=(Test("f(1)", "1"), Test("f(2)", "2")),
    reference="def f(x):\n    return x\n",
)
WHAT_IT_DRAWS = """
import os, random, secrets, tempfile, uuid
def f(x):
    with tempfile.NamedTemporaryFile() as file:
        name = file.name
    own = random.Random()
    random.seed()
    return [name, own.random(), random.random(), secrets.token_hex(4), str(uuid.uuid4()),
            os.urandom(4).hex(), random.SystemRandom().random(), hash("a"), list({"a", "b", "c"})]
"""
PROGRAMS = (
    "def f(x): return x",
    "def f(x): return x + 1",
    "def f(x): raise ValueError(x)",
    "def f(x):\n    while True: pass",
    "def f(x): return sum(range(10**6)) and x",
    "import random\ndef f(x): return x if random.random() < 0.5 else -x",
    "def f(x): return x if list({'a', 'b'})[0] == 'a' else -x",
    "import time\ndef f(x):\n    time.sleep(0.2)\n    return x",
    "def f(x) return x",
    WHAT_IT_DRAWS,
)


def verdicts(box: Sandbox, **options: bool) -> list[tuple[str, str, str]]:
    jobs = [Job(str(n), TASK, code) for n, code in enumerate(PROGRAMS)]
    return [told(verdict) for verdict in verify(box, jobs, **options)]  # type: ignore[arg-type]


def told(verdict: Verdict) -> tuple[str, str, str]:
    first = verdict.first_failure
    return verdict.status, verdict.reason, first.actual if first else ""


@contextmanager
def busy(processes: int) -> Iterator[None]:
    """So many processes that do nothing but count."""
    started = [
        subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(processes)
    ]
    try:
        yield
    finally:
        for process in started:
            process.kill()
            process.wait()


def test_a_busy_machine_changes_no_verdict() -> None:
    with Sandbox(workers=2, unsafe=True) as box:
        alone = verdicts(box)
        assert [status for status, *_ in alone[:4]] == ["passed", "failed", "error", "timeout"]
        with busy(4):
            assert verdicts(box) == alone


def test_no_program_draws_anything_new() -> None:
    with Sandbox(workers=1, unsafe=True) as one, Sandbox(workers=1, unsafe=True) as other:
        first = verdicts(one)
        assert verdicts(one) == first
        assert verdicts(other) == first
        assert verdicts(other, batch=True) == first


def test_what_changes_with_the_seed_is_flaky() -> None:
    by_chance = "import random\ndef f(x): return x if random.random() < 0.5 else -x"
    by_hash = "def f(x): return x if list({str(n) for n in range(9)})[0] in '01234' else -x"
    with Sandbox(workers=1, unsafe=True) as box:
        jobs = [Job("chance", TASK, by_chance), Job("sure", TASK, "def f(x): return x")]
        chance, sure = verify(box, jobs, repeats=12)
    assert not chance.passed
    assert "flaky" in chance.reason
    assert (sure.status, sure.reason) == ("passed", "")
    found = set()
    for seed in range(6):
        with Sandbox(workers=1, unsafe=True, seed=seed) as box:
            found |= {verdict.status for verdict in verify(box, [Job("hash", TASK, by_hash)])}
    assert found == {"passed", "failed"}
