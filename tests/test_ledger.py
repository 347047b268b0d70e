"""Nothing stored is lost, whoever is killed; nobody writes a run beside another."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from conftest import make_task
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
    TaskState,
    TestResult,
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
