"""Nothing stored is lost, whoever is killed; nobody writes a run beside another."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from conftest import make_task
from persd import ledger as ledger_module
from persd.errors import UserError
from persd.ledger import Ledger
from persd.records import (
    Call,
    Checkpoint,
    Completion,
    Evaluation,
    Example,
    Message,
    Rejected,
    Solution,
    State,
    Task,
    TaskState,
    TestResult,
    Try,
    Usage,
    Verdict,
)

texts = st.text(st.characters(exclude_categories=()), max_size=60)


def make_call(call_id: str, text: str = "hello", usd: float | None = 0.25) -> Call:
    return Call(
        call_id=call_id,
        role="teacher",
        model="m",
        purpose="refinement",
        task_id="add",
        round=1,
        messages=(Message("user", "fix it"),),
        params={"seed": 3, "temperature": 0.5},
        completion=Completion(text, usage=Usage(10, 5, 2), usd=usd),
        versions={"model": "m"},
    )


def make_solution(solution_id: str, **change: object) -> Solution:
    base = Solution(
        solution_id=solution_id,
        task_id="add",
        kind="attempt",
        author="m",
        round=1,
        text="    return a",
        code="def add(a, b):\n    return a",
    )
    return replace(base, **change)  # type: ignore[arg-type]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=texts, usd=st.none() | st.floats(0, 10), code=st.none() | texts)
def test_what_goes_in_comes_out(
    ledger: Ledger, text: str, usd: float | None, code: str | None
) -> None:
    call = make_call(f"c{hash((text, usd, code))}", text, usd)
    solution = make_solution(f"s{call.call_id}", text=text, code=code, call_id=call.call_id)
    verdict = Verdict(
        solution.solution_id,
        "failed",
        results=(TestResult("add(1, 2)", "failed", actual=text),),
        limits={"memory_mb": 512.0},
    )
    ledger.add_calls([call])
    ledger.add_solution(solution)
    ledger.add_verdict(verdict)
    assert ledger.call(call.call_id) == call
    assert ledger.completion(call.call_id) == call.completion
    assert ledger.solution(solution.solution_id) == solution
    assert ledger.verdict(solution.solution_id) == verdict


def test_tasks_keep_their_order_and_benchmarks_apart(ledger: Ledger) -> None:
    pool = [make_task(i) for i in ("b", "a", "c")]
    ledger.add_tasks(pool)
    ledger.add_tasks([make_task("a")], "lab")
    assert ledger.tasks() == pool
    assert ledger.tasks("lab") == [make_task("a")]


def test_a_state_is_the_latest(ledger: Ledger) -> None:
    ledger.set_state(TaskState("add", 1, "over_budget"))
    ledger.set_state(TaskState("add", 1, "refined", attempt_id="x"))
    assert ledger.states(1) == {"add": TaskState("add", 1, "refined", attempt_id="x")}
    assert ledger.rounds() == [1]


def test_not_run_is_no_verdict(ledger: Ledger) -> None:
    ledger.add_verdict(Verdict("s", "not_run"))
    assert ledger.verdict("s") is None


def test_money_adds_up_and_unknown_is_not_hidden_as_zero(ledger: Ledger) -> None:
    ledger.add_calls([make_call("a", usd=0.5), make_call("b", usd=None)])
    assert ledger.spent(role="teacher") == 0.5
    assert ledger.spent(role="student") == 0.0
    assert ledger.call("b").completion.usd is None  # type: ignore[union-attr]


def test_a_build_is_whole_or_absent(ledger: Ledger) -> None:
    example = Example("e", "persd", "add", 1, "p", "c", "task", attempt_id="s")
    assert ledger.build("b1") is None
    ledger.add_build("b1", [example], [Rejected("persd", "x", 1, "task", "unparsable")])
    assert ledger.build("b1") == ([example], [Rejected("persd", "x", 1, "task", "unparsable")])
    ledger.add_build("b2", [], [])
    assert ledger.build("b2") == ([], [])


def test_checkpoints_and_evaluations(ledger: Ledger) -> None:
    checkpoint = Checkpoint("c", "/x", "base", "persd", 1, 3, "h", {"lr": 1e-3}, {"steps": 2.0})
    score = Evaluation("e", "persd", 1, "lab", 1, 2, 5, {"1": 0.5}, {"1": (0.25, 0.75)})
    ledger.add_checkpoint(checkpoint)
    ledger.add_evaluation(score)
    assert ledger.checkpoints() == [checkpoint]
    assert ledger.evaluations() == [score]


def test_lineage_reaches_the_raw_reply(ledger: Ledger) -> None:
    ledger.add_calls([make_call("ca", "attempt text"), make_call("cr", "repair text")])
    ledger.add_solution(make_solution("a", call_id="ca"))
    ledger.add_solution(make_solution("r", kind="refinement", parent="a", call_id="cr"))
    ledger.add_verdict(Verdict("a", "failed"))
    example = Example("e", "persd", "add", 1, "p", "c", "task", attempt_id="a", refinement_id="r")
    ledger.add_build("b", [example], [])
    found = ledger.lineage("e")
    assert found["refinement"]["call"].completion.text == "repair text"
    assert found["attempt"]["verdict"].status == "failed"
    assert found["refinement"]["call"].params["seed"] == 3
    with pytest.raises(UserError, match="no example 'nope'"):
        ledger.lineage("nope")


def test_one_writer_many_readers(tmp_path: Path) -> None:
    with Ledger(tmp_path / "run") as ledger:
        with pytest.raises(UserError, match=f"pid {os.getpid()}"):
            Ledger(tmp_path / "run")
        ledger.add_calls([make_call("a")])
        with Ledger(tmp_path / "run", read_only=True) as reader:
            assert reader.spent() == 0.25
    with Ledger(tmp_path / "run") as again:
        assert again.spent() == 0.25


def test_threads_may_write_together(ledger: Ledger) -> None:
    def write(n: int) -> None:
        for i in range(20):
            ledger.add_calls([make_call(f"{n}-{i}", usd=1.0)])

    threads = [threading.Thread(target=write, args=(n,)) for n in range(5)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert ledger.spent() == 100.0


def test_not_a_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not a run"):
        Ledger(tmp_path, read_only=True)


def test_a_read_only_folder_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    folder.chmod(0o555)
    with pytest.raises(UserError, match="read-only"):
        Ledger(folder)


def test_a_file_that_is_no_ledger(tmp_path: Path) -> None:
    (tmp_path / "ledger.sqlite").write_text("not a database at all, sorry" * 100)
    with pytest.raises(UserError, match="cannot open the ledger"):
        Ledger(tmp_path)


def test_another_schema_is_refused(tmp_path: Path) -> None:
    with Ledger(tmp_path) as ledger:
        ledger.set_meta("schema_version", "999")
    with pytest.raises(UserError, match="schema 999"):
        Ledger(tmp_path)


WRITER = """
import sys
sys.path.insert(0, {tests!r})
from persd.ledger import Ledger
from test_ledger import make_call, make_solution
ledger = Ledger({run!r})
i = 0
while True:
    ledger.add_solution(make_solution(f"s{{i}}"))
    ledger.add_calls([make_call(f"c{{i}}")])
    print(i, flush=True)
    i += 1
"""


def test_a_reply_acknowledged_survives_kill_9(tmp_path: Path) -> None:
    run = str(tmp_path / "run")
    code = WRITER.format(tests=str(Path(__file__).parent), run=run)
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    acknowledged = [int(process.stdout.readline()) for _ in range(30)][-1]
    process.send_signal(signal.SIGKILL)
    process.wait()
    with Ledger(run) as ledger:
        for i in range(acknowledged + 1):
            assert ledger.completion(f"c{i}") is not None
            assert ledger.solution(f"s{i}") is not None


# -- many threads, one disk ---------------------------------------------------------------------

MANY = """
import sys, threading
sys.path.insert(0, {tests!r})
from persd.ledger import Ledger
from test_ledger import make_call, make_try
ledger = Ledger({run!r})
lock = threading.Lock()
def write(n):
    i = 0
    while True:
        ledger.begin_try(make_try(f"{{n}}-{{i}}"))
        ledger.add_calls([make_call(f"{{n}}-{{i}}")])
        with lock:
            print(f"{{n}}-{{i}}", flush=True)
        i += 1
for n in range(32):
    threading.Thread(target=write, args=(n,)).start()
"""


def test_replies_acknowledged_to_many_threads_survive_kill_9(tmp_path: Path) -> None:
    run = str(tmp_path / "run")
    code = MANY.format(tests=str(Path(__file__).parent), run=run)
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    acknowledged = [process.stdout.readline().strip() for _ in range(300)]
    process.send_signal(signal.SIGKILL)
    rest = process.stdout.read().split("\n")[:-1]
    process.wait()
    with Ledger(run) as ledger:
        for call_id in acknowledged + rest:
            assert ledger.completion(call_id) is not None
        # of every thread at most the last try is without an answer, and none has both
        lost = [t.call_id for t in ledger.tries()]
        assert {t.outcome for t in ledger.tries()} <= {"lost"}
        assert len({c.split("-")[0] for c in lost}) == len(lost)
        assert all(ledger.completion(c) is None for c in lost)


class SlowDisk:
    """An fsync that waits until it is let go; counts how often it was asked."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked = 0
        self.begun, self.go = threading.Event(), threading.Event()
        monkeypatch.setattr("persd.ledger.os.fsync", self)

    def __call__(self, fd: int) -> None:
        self.asked += 1
        self.begun.set()
        assert self.go.wait(30)


@pytest.fixture
def slow_disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[SlowDisk]:
    disk = SlowDisk(monkeypatch)
    yield disk
    disk.go.set()


def test_a_slow_disk_holds_up_only_who_waits_for_it(ledger: Ledger, slow_disk: SlowDisk) -> None:
    with ThreadPoolExecutor(8) as pool:
        first = pool.submit(ledger.add_calls, [make_call("a")])
        assert slow_disk.begun.wait(30)
        # all this goes on while the disk is at it
        assert ledger.call("a") is not None
        ledger.add_solution(make_solution("s"))
        ledger.set_state(TaskState("add", 1, "refined"))
        ledger.begin_try(make_try("t"))
        assert ledger.solution("s") is not None
        assert ledger.states(1).keys() == {"add"}
        others = [pool.submit(ledger.add_calls, [make_call(f"b{n}")]) for n in range(7)]
        while any(ledger.call(f"b{n}") is None for n in range(7)):
            pass
        assert not first.done()
        assert not any(f.done() for f in others)
        slow_disk.go.set()
        for future in (first, *others):
            future.result(30)
    assert slow_disk.asked == 2  # once for the first, once for all who came meanwhile


def test_nothing_is_acknowledged_that_is_not_on_the_disk(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(fd: int) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr("persd.ledger.os.fsync", broken)
        with pytest.raises(sqlite3.OperationalError, match="Input/output"):
            ledger.add_calls([make_call("a")])
    # the pages may be gone, and a later sync would not say so
    with pytest.raises(sqlite3.OperationalError, match="failed before"):
        ledger.add_calls([make_call("b")])


# -- interrupted and out of room ----------------------------------------------------------------


class Interrupted:
    """A connection in which Ctrl-C is struck right after one statement was carried out."""

    def __init__(self, db: sqlite3.Connection, after: str) -> None:
        self._db, self._after = db, after

    def execute(self, sql: str, *args: Any) -> Any:
        found = self._db.execute(sql, *args)
        if sql.startswith(self._after):
            self._after = "-"
            raise KeyboardInterrupt
        return found

    def __getattr__(self, name: str) -> Any:
        return getattr(self._db, name)


@pytest.mark.parametrize("after", ["BEGIN", "COMMIT"])
def test_an_interrupt_at_any_moment_leaves_a_ledger_that_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: str
) -> None:
    """What is in flight while the run is being stopped is paid for and must still be stored."""
    monkeypatch.setattr(ledger_module, "COMMIT_EVERY", -1.0)  # each write is committed
    with Ledger(tmp_path / "run") as ledger:
        ledger._db = Interrupted(ledger._db, after)  # type: ignore[assignment]
        with pytest.raises(KeyboardInterrupt):
            ledger.add_solution(make_solution("s"))
        ledger.add_calls([make_call("a")])
        ledger.add_solution(make_solution("s"))
    with Ledger(tmp_path / "run") as again:
        assert again.completion("a") is not None
        assert again.solution("s") is not None


def test_a_full_disk_is_said_and_what_comes_later_is_kept(tmp_path: Path) -> None:
    with Ledger(tmp_path / "run") as ledger:
        ledger.begin_try(make_try("a"))
        pages = ledger.query("PRAGMA page_count")[0][0]
        ledger.query(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(sqlite3.OperationalError, match="full"):
            ledger.add_calls([make_call("a", "x" * 100_000)])
        ledger.query("PRAGMA max_page_count = 1000000")
        ledger.add_calls([make_call("b")])
    with Ledger(tmp_path / "run") as again:
        assert again.completion("b") is not None
        assert again.completion("a") is None
        assert [t.call_id for t in again.tries()] == ["a"]  # asked, and still counted


def test_an_answer_and_the_end_of_its_try_are_one(ledger: Ledger) -> None:
    ledger.begin_try(make_try("a"))
    unfit = replace(make_call("a"), params={"seed": object()})
    with pytest.raises(TypeError):
        ledger.add_calls([unfit])
    assert [t.call_id for t in ledger.tries()] == ["a"]


def test_an_answer_and_the_end_of_its_try_are_committed_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger_module, "COMMIT_EVERY", -1.0)
    with Ledger(tmp_path / "run") as ledger:
        ledger.begin_try(make_try("a"))
        statements: list[str] = []
        ledger._db.set_trace_callback(statements.append)
        ledger.add_calls([make_call("a")])
        kinds = [s.split()[0] for s in statements]
    assert kinds.count("COMMIT") == 1
    assert kinds[-1] == "COMMIT"


# -- tries --------------------------------------------------------------------------------------


def make_try(call_id: str, sent: float = 1.0, **change: object) -> Try:
    base = Try(
        call_id=call_id,
        sent=sent,
        role="teacher",
        model="m",
        purpose="refinement",
        task_id="add",
        round=1,
        usd_at_most=0.5,
        usage=Usage(100, 50, known=False),
    )
    return replace(base, **change)  # type: ignore[arg-type]


def test_tries_are_kept_until_they_are_answered(ledger: Ledger) -> None:
    failed, second = make_try("a", 1.0), make_try("a", 2.0)
    ledger.begin_try(failed)
    ended = replace(failed, outcome="malformed", text="<html>\ud800", detail="no JSON", usd=None)
    ledger.end_try(ended)
    ledger.begin_try(second)
    ledger.begin_try(make_try("b", 3.0, role="student"))
    assert ledger.tries() == [ended, second, make_try("b", 3.0, role="student")]
    assert ledger.tries(role="teacher") == [ended, second]
    ledger.add_calls([make_call("a")])
    assert ledger.tries(role="teacher") == [ended]


SENDER = """
import sys
sys.path.insert(0, {tests!r})
from persd.ledger import Ledger
from test_ledger import make_try
ledger = Ledger({run!r})
ledger.begin_try(make_try("a"))
ledger.begin_try(make_try("b"))
ledger.end_try(make_try("b", outcome="unusable", text="paid for", usd=0.1))
print("sent", flush=True)
sys.stdin.read()
"""


def test_what_a_killed_process_had_sent_is_lost_and_known(tmp_path: Path) -> None:
    run = str(tmp_path / "run")
    code = SENDER.format(tests=str(Path(__file__).parent), run=run)
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "sent\n"
        process.send_signal(signal.SIGKILL)
    with Ledger(run, read_only=True) as reader:  # who only looks changes nothing
        assert [t.outcome for t in reader.tries()] == ["in_flight", "unusable"]
    with Ledger(run) as ledger:
        lost, kept = ledger.tries()
        assert lost == make_try("a", outcome="lost")
        assert (kept.text, kept.usd) == ("paid for", 0.1)


# -- tasks in streams ---------------------------------------------------------------------------


def test_tasks_are_stored_all_or_none(ledger: Ledger) -> None:
    def broken() -> Iterator[Task]:
        for n in range(1000):
            yield make_task(f"t{n}")
        raise UserError("line 1001 is no task")

    ledger.add_solution(make_solution("before"))
    with pytest.raises(UserError, match="line 1001"):
        ledger.add_tasks(broken())
    assert ledger.count_tasks() == 0
    assert ledger.solution("before") is not None
    assert ledger.add_tasks(make_task(f"t{n}") for n in range(1000)) == 1000
    assert ledger.count_tasks() == 1000


def test_pages_follow_one_another_while_states_are_set(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger_module, "PAGE", 7)
    names = [f"t{n}" for n in range(50)]
    ledger.add_tasks(make_task(n) for n in names)
    ledger.add_tasks([make_task("other")], "lab")
    assert [t.task_id for t in ledger.stream_tasks()] == names
    seen = []
    for n, task in enumerate(ledger.unfinished(1)):
        seen.append(task.task_id)
        state: State = "refined" if n % 2 else "over_budget"
        ledger.set_state(TaskState(task.task_id, 1, state))
        if n >= 20:  # of the tasks still to come some end meanwhile, as in a cascade
            ledger.set_state(TaskState(names[min(49, n + 9)], 1, "solved"))
    assert len(seen) == len(set(seen))
    assert seen[:29] == names[:29]
    open_now = [n for n, s in ledger.states(1).items() if s.state == "over_budget"]
    assert {t.task_id for t in ledger.unfinished(1)} == set(open_now)
    assert ledger.count_unfinished(1) == len(open_now)
    assert [t.task_id for t in ledger.unfinished(2)] == names


# -- older ledgers ------------------------------------------------------------------------------

OLD_SOLUTIONS = (
    "solution_id, task_id, kind, author, round, text, code, step, sample, attempt, parent, "
    "call_id, finish, note, benchmark"
)


def make_old(run: Path) -> None:
    """A ledger as schema 1 had it: no tries, no closeness."""
    with Ledger(run) as ledger:
        ledger.add_tasks([make_task()])
        ledger.add_calls([make_call("c")])
        ledger.add_solution(make_solution("s", call_id="c"))
    with closing(sqlite3.connect(run / "ledger.sqlite")) as db, db:
        db.execute(f"CREATE TABLE old ({OLD_SOLUTIONS}, PRIMARY KEY (solution_id))")
        db.execute(f"INSERT INTO old SELECT {OLD_SOLUTIONS} FROM solutions")
        db.execute("DROP TABLE solutions")
        db.execute("ALTER TABLE old RENAME TO solutions")
        for table in ("tries", "batches", "batch_rows"):
            db.execute(f"DROP TABLE IF EXISTS {table}")
        db.execute("UPDATE meta SET value = '1' WHERE key = 'schema_version'")


def test_evaluations_of_schema_2_are_read_as_what_they_were(tmp_path: Path) -> None:
    run = tmp_path / "run"
    old = Evaluation("e", "base", 0, "lab", 1, 4, 2, {"1": 0.5}, {"1": (0.2, 0.8)})
    with Ledger(run) as ledger:
        ledger.add_evaluation(old)
    with closing(sqlite3.connect(run / "ledger.sqlite")) as db, db:
        for column in ("control", "calls", "outcomes"):
            db.execute(f"ALTER TABLE evaluations DROP COLUMN {column}")
        db.execute("UPDATE meta SET value = '2' WHERE key = 'schema_version'")
    with Ledger(run) as ledger:
        assert ledger.evaluations() == [old]


# -- what another ledger was told ---------------------------------------------------------------


def test_answers_are_adopted_as_paid_for_elsewhere(tmp_path: Path) -> None:
    with Ledger(tmp_path / "one") as one:
        told: dict[str, dict[str, Any]] = {
            "direct": {"purpose": "direct", "round": 0},
            "attempt": {"role": "student", "purpose": "attempt", "round": 1},
            "later": {"role": "student", "purpose": "attempt", "round": 2},
            "repair": {"purpose": "refinement"},
        }
        calls = {name: replace(make_call(name), **facts) for name, facts in told.items()}
        one.add_calls(list(calls.values()))
        assert one.spent() > 0
    with Ledger(tmp_path / "two") as two:
        for _ in range(2):
            two.adopt(tmp_path / "one" / "ledger.sqlite", attempts=False)
        assert two.completion("direct") == calls["direct"].completion
        assert two.completion("attempt") is None
        two.adopt(tmp_path / "one" / "ledger.sqlite", attempts=True)
        assert two.completion("attempt") == calls["attempt"].completion
        assert two.completion("later") is None
        assert two.completion("repair") is None
        assert two.spent() == 0.0


def test_an_older_ledger_is_brought_up_to_date(tmp_path: Path) -> None:
    run = tmp_path / "run"
    make_old(run)
    with pytest.raises(UserError, match="brings it up to date"):
        Ledger(run, read_only=True)
    for _ in range(2):
        with Ledger(run) as ledger:
            assert ledger.solution("s") == make_solution("s", call_id="c")
            assert ledger.completion("c") == make_call("c").completion
            assert ledger.tasks() == [make_task()]
    with Ledger(run) as ledger:
        near = make_solution("near", closeness=0.75)
        ledger.add_solution(near)
        ledger.begin_try(make_try("a"))
        assert ledger.solution("near") == near
        assert ledger.tries() == [make_try("a")]
    with Ledger(run, read_only=True) as reader:
        assert reader.solution("near") == near
