"""Verdicts that are known: what they hang on, how many are kept, what a file survives."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from conftest import make_task
from persd.cache import Cache, job_key
from persd.errors import UserError
from persd.ledger import FILE_NAME, Ledger
from persd.records import Test, TestResult, Verdict
from persd.sandbox import Limits, Sandbox
from persd.sandbox.pool import Session
from persd.sandbox.program import Program
from persd.verify import Job, verify

TASK = make_task()
CODE = "def add(a, b):\n    return a + b\n"
JOB = Job("s", TASK, CODE)

texts = st.text(st.characters(), max_size=30)  # lone surrogates too
results = st.builds(
    TestResult,
    call=texts,
    status=st.sampled_from(["passed", "failed", "error"]),
    expected=texts,
    actual=texts,
    error_type=texts,
    message=texts,
    line=st.none() | st.integers(),
    stdout=texts,
    cpu_ms=st.none() | st.floats(0, 1e9),
)
verdicts = st.builds(
    Verdict,
    solution_id=texts,
    status=st.sampled_from(["passed", "failed", "error", "timeout", "memory", "crashed", "syntax"]),
    tests=st.sampled_from(["hidden", "seen"]),
    reason=texts,
    results=st.lists(results, max_size=3).map(tuple),
    seconds=st.floats(0, 1e6),
    isolation=texts,
    limits=st.dictionaries(texts, st.integers(0, 1 << 40) | st.floats(0, 1e6), max_size=2),
)


def a_verdict(n: int, tests: int = 0) -> Verdict:
    return Verdict(str(n), "passed", results=(TestResult("f()", "passed"),) * tests)


# ---- what is kept ----------------------------------------------------------------------------


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(texts, verdicts, max_size=4))
def test_what_was_put_is_got_in_memory_and_from_disk(
    tmp_path: Path, known: dict[str, Verdict]
) -> None:
    file = tmp_path / "verdicts.db"
    file.unlink(missing_ok=True)
    with Cache(file) as cache:
        for key, verdict in known.items():
            cache.put(key, verdict)
        assert {key: cache.get(key) for key in known} == known
        assert cache.get("x" * 40) is None
        assert (cache.stored, cache.hits) == (len(known), len(known))
    with Cache(file) as cache:
        assert {key: cache.get(key) for key in known} == known


def test_what_was_used_last_is_kept() -> None:
    cache = Cache(size=3)
    for n in range(3):
        cache.put(str(n), a_verdict(n))
    assert cache.get("0")
    cache.put("3", a_verdict(3))
    assert [n for n in range(4) if cache.get(str(n))] == [0, 2, 3]


def test_memory_is_bounded_by_test_results() -> None:
    cache = Cache(size=100)
    for n in range(50):
        cache.put(str(n), a_verdict(n, tests=9))
        cache.put(str(n), a_verdict(n, tests=9))
    assert [n for n in range(50) if cache.get(str(n))] == list(range(40, 50))
    cache.put("large", a_verdict(0, tests=1000))
    assert cache.get("large")
    assert cache.get("49") is None


@pytest.mark.parametrize("size", [1, 1000])
def test_a_file_holds_what_memory_has_forgotten(tmp_path: Path, size: int) -> None:
    with Cache(tmp_path / "c", size=size) as cache:
        for n in range(2500):
            cache.put(str(n), a_verdict(n))
        assert [n for n in range(2500) if cache.get(str(n)) != a_verdict(n)] == []


# ---- files -----------------------------------------------------------------------------------


def test_several_processes_may_share_a_file(tmp_path: Path) -> None:
    with Cache(tmp_path / "c") as one, Cache(tmp_path / "c") as other:
        for n in range(3000):
            (one if n % 2 else other).put(str(n), a_verdict(n))
    with Cache(tmp_path / "c") as cache:
        assert [n for n in range(3000) if cache.get(str(n)) is None] == []


def foreign(folder: Path) -> Iterator[Path]:
    (folder / "text").write_text("a sample file, " * 100)
    (folder / "short").write_bytes(b"SQLite format 3\0")
    yield from (folder / "text", folder / "short")
    with sqlite3.connect(folder / "other.db") as db:
        db.execute("CREATE TABLE verdicts (key TEXT, verdict TEXT)")
    db.close()
    yield folder / "other.db"
    with Ledger(folder / "run"):
        pass
    yield folder / "run" / FILE_NAME
    yield folder
    yield folder / "no" / "such" / "folder"


def test_a_file_that_is_none_of_ours_is_refused_and_left_alone(tmp_path: Path) -> None:
    for path in foreign(tmp_path):
        before = path.read_bytes() if path.is_file() else None
        with pytest.raises(UserError) as error:
            Cache(path)
        assert str(path) in error.value.one_line()
        assert "cache of verdicts" in error.value.one_line()
        assert (path.read_bytes() if path.is_file() else None) == before


def test_an_empty_file_becomes_a_cache(tmp_path: Path) -> None:
    (tmp_path / "c").touch()
    with Cache(tmp_path / "c") as cache:
        cache.put("k", a_verdict(1))
    assert (tmp_path / "c").stat().st_size > 0


def test_a_row_that_nobody_can_read_is_judged_again(tmp_path: Path) -> None:
    with Cache(tmp_path / "c") as cache:
        cache.put("k", a_verdict(1))
    texts = ("", "5", "{}", '{"status": "fine"}')
    for stored in ("text", 5, b"\xff", *(zlib.compress(text.encode()) for text in texts)):
        with sqlite3.connect(tmp_path / "c") as db:
            db.execute("UPDATE verdicts SET verdict = ?", (stored,))
        db.close()
        with Cache(tmp_path / "c") as cache:
            assert cache.get("k") is None


def test_a_file_that_breaks_later_is_an_error_with_a_remedy(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "c")
    for n in range(999):
        cache.put(str(n), a_verdict(n))
    with sqlite3.connect(tmp_path / "c") as db:
        db.execute("DROP TABLE verdicts")
    db.close()
    with pytest.raises(UserError, match="cache of verdicts"):
        cache.close()
    cache.close()


WRITER = """
import sys
from pathlib import Path
from persd.cache import Cache
from persd.records import Verdict
cache = Cache(Path(sys.argv[1]))
for n in range(10**9):
    cache.put(str(n), Verdict(str(n), "passed"))
    if n == 5000:
        print("go on", flush=True)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no kill -9 here")
def test_a_writer_that_was_killed_leaves_a_file_that_goes_on(tmp_path: Path) -> None:
    for _ in range(2):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path / "c")], stdout=subprocess.PIPE
        )
        assert writer.stdout is not None
        writer.stdout.readline()
        os.kill(writer.pid, signal.SIGKILL)
        writer.communicate()
        with Cache(tmp_path / "c") as cache:
            known = [n for n in range(5001) if cache.get(str(n)) == Verdict(str(n), "passed")]
            assert known == list(range(len(known)))
            assert len(known) >= 5000
            cache.put("mine", a_verdict(1))


# ---- keys ------------------------------------------------------------------------------------


def test_who_wrote_it_and_for_which_task_is_no_part_of_the_key() -> None:
    other = replace(TASK, task_id="other", instruction="Sum.", source="x:1", meta={"level": 1})
    assert job_key(JOB) == job_key(replace(JOB, solution_id="t", task=other))
    assert job_key(JOB) == job_key(replace(JOB, tests=TASK.tests))


CHECKED = replace(TASK, tests=(), test_code="def check(c):\n    assert c(1, 2) == 3\n")
DIFFERENT: list[Job] = [
    JOB,
    replace(JOB, code=CODE + "\n"),
    replace(JOB, code=CODE + "\ud800"),
    replace(JOB, tests="seen"),
    replace(JOB, tests=TASK.tests[:1]),
    replace(JOB, tests=TASK.tests[::-1]),
    replace(JOB, limits=Limits()),
    replace(JOB, limits=Limits(cpu_seconds=1)),
    replace(JOB, limits=Limits(memory_mb=64)),
    replace(JOB, limits=Limits(calibrate=True, memory_mb=64)),
    replace(JOB, stop_at_first_failure=True),
    replace(JOB, task=replace(TASK, reference=None)),
    replace(JOB, task=replace(TASK, reference=CODE + "# slow\n")),
    replace(JOB, task=replace(TASK, setup="import math")),
    replace(JOB, task=replace(TASK, entry_point="plus")),
    replace(JOB, task=CHECKED),
    replace(JOB, task=replace(CHECKED, header="import math\ndef add(a, b):\n")),
    replace(JOB, task=replace(CHECKED, tests=TASK.tests)),
    *(
        replace(JOB, tests=(Test("add(1, 2)", "3", **more),))
        for more in ({"compare": "loose"}, {"compare": "equal"}, {"tolerance": 0.1})
    ),
]


def test_what_a_verdict_hangs_on_is_part_of_the_key() -> None:
    keys = [job_key(job) for job in DIFFERENT] + [job_key(JOB, repeats=2)]
    assert len(set(keys)) == len(keys)
    assert [job_key(job) for job in DIFFERENT] == keys[:-1]


def test_how_programs_are_run_is_part_of_the_key(tmp_path: Path) -> None:
    with Cache(tmp_path / "c") as cache:
        cache.under = "no isolation "
        cache.put("k", a_verdict(1))
        cache.under = "namespaces "
        assert cache.get("k") is None
        cache.put("k", a_verdict(2))
    for under, verdict in [("no isolation ", a_verdict(1)), ("namespaces ", a_verdict(2))]:
        with Cache(tmp_path / "c") as cache:
            cache.under = under
            assert cache.get("k") == verdict


# ---- in the judge ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def box() -> Iterator[Sandbox]:
    with Sandbox(workers=2) as sandbox:
        sandbox.probe()
        yield sandbox


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The sources of the programs that reach the sandbox."""
    sources: list[str] = []
    submit = Session.submit

    def counted(self: Session, key: Any, programs: tuple[Program, ...]) -> None:
        sources.extend(program.source for program in programs)
        submit(self, key, programs)

    monkeypatch.setattr(Session, "submit", counted)
    return sources


@pytest.mark.parametrize("batch", [False, True])
def test_identical_jobs_in_one_stream_run_once(box: Sandbox, ran: list[str], batch: bool) -> None:
    codes = [CODE, CODE + "# 1\n", "def add(a, b):\n    import os\n    return a + b\n"]
    jobs = [Job(str(n), TASK, codes[n % 3]) for n in range(60)]
    found = list(verify(box, jobs, batch=batch, cache=Cache()))
    assert [v.solution_id for v in found] == [str(n) for n in range(60)]
    assert all(v.passed for v in found)
    assert set(ran) == set(codes)
    assert len(ran) <= 3 + batch  # what is not tame is run again alone


def test_without_a_cache_each_is_run(box: Sandbox, ran: list[str]) -> None:
    assert [v.status for v in verify(box, [JOB] * 3)] == ["passed"] * 3
    assert ran == [CODE] * 3


def test_a_verdict_is_given_under_each_solutions_own_id(box: Sandbox, ran: list[str]) -> None:
    cache = Cache()
    (first,) = verify(box, [JOB], cache=cache)
    (second,) = verify(box, [replace(JOB, solution_id="t")], cache=cache)
    assert (first.solution_id, second) == ("s", replace(first, solution_id="t"))
    assert ran == [CODE]


def test_what_could_not_be_run_is_never_remembered(
    box: Sandbox, ran: list[str], tmp_path: Path
) -> None:
    broken = Job("b", replace(TASK, tests=(Test("add(", "3"),)), f"{CODE}# broken\n")
    with Cache(tmp_path / "c") as cache:
        for _ in range(2):
            found = list(verify(box, [broken, broken, JOB], cache=cache))
            assert [v.status for v in found] == ["not_run", "not_run", "passed"]
        assert cache.stored == 1
    assert ran.count(CODE) == 1
    # two at once are one; the second is run, too, where the first is done before it is asked for
    assert 2 <= ran.count(broken.code) <= 4
    assert sqlite3.connect(tmp_path / "c").execute("SELECT key FROM verdicts").fetchall() == [
        (job_key(JOB),)
    ]


def test_a_file_serves_the_next_run(box: Sandbox, ran: list[str], tmp_path: Path) -> None:
    jobs = [replace(JOB, solution_id=str(n), code=f"{CODE}# {n}\n") for n in range(5)]
    jobs.append(replace(JOB, code="def add(a, b):\n    return 1 / 0\n"))
    with Cache(tmp_path / "c") as cache:
        first = list(verify(box, jobs, cache=cache))
    assert len(ran) == 6
    with Cache(tmp_path / "c") as cache:
        assert list(verify(box, jobs, cache=cache)) == first
        assert (cache.hits, cache.stored) == (6, 0)
    assert len(ran) == 6
