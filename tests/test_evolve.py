"""Tasks to be rewritten: those a student fails or nearly fails."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from persd.calls import DIFFICULTY
from persd.config import WAYS, GenerateTable, Way
from persd.errors import UserError
from persd.ledger import Ledger
from persd.pool.evolve import Parent, evolving, parents_of
from persd.records import (
    Solution,
    State,
    Status,
    Task,
    TaskState,
    Test,
    TestResult,
    Verdict,
)

TASK = Task(
    "t",
    "Return the sum of a and b.",
    "def add(a, b):\n",
    "add",
    tests=(Test("add(1, 2)", "3"), Test("add(0, 5)", "5"), Test("add(2, 2)", "4")),
    reference="def add(a, b):\n    return a + b\n",
)


def _rules(evolve: object, **more: Any) -> GenerateTable:
    return GenerateTable(count=1, evolve=str(evolve), **more)


# ---- of a run --------------------------------------------------------------------------------


def _tried(
    ledger: Ledger,
    task_id: str,
    passed: Sequence[int],
    *,
    round: int = 1,
    benchmark: str = "",
    finish: str = "stop",
) -> None:
    """Attempts at a task, each with how many of its three tests it passes."""
    for sample, count in enumerate(passed):
        name = f"{task_id}/{benchmark}/{round}/{sample}"
        ledger.add_solution(
            Solution(name, task_id, "attempt", "s", round, "", f"code of {name}", sample=sample,
                     benchmark=benchmark, finish=finish)
        )  # fmt: skip
        status: Status = "passed" if count == 3 else "failed"
        results = tuple(
            TestResult(test.call, "passed" if i < count else "failed")
            for i, test in enumerate(TASK.tests)
        )
        ledger.add_verdict(Verdict(name, status, results=results))


def _ended(ledger: Ledger, task_id: str, state: State, round: int = 1) -> None:
    ledger.set_state(TaskState(task_id, round, state))


def _parents(ledger: Ledger) -> dict[str, Parent]:
    ledger.flush()
    return {parent.task.task_id: parent for parent in parents_of(_rules(ledger.run))}


def test_tasks_that_the_student_failed_nearest_to_half_first(ledger: Ledger) -> None:
    ledger.add_tasks(
        [replace(TASK, task_id=i) for i in ("never", "third", "solved", "most", "new")]
    )
    for task_id, passed in {"never": 0, "third": 1, "solved": 3, "most": 2}.items():
        _tried(ledger, task_id, [passed])
        _ended(ledger, task_id, "solved" if passed == 3 else "refined")
    found = _parents(ledger)
    assert {i: p.rate for i, p in found.items()} == {"third": 1 / 3, "most": 2 / 3, "never": 0.0}
    assert list(found)[-1] == "never"
    assert found["third"].wrong == "code of third//1/0"


def test_of_several_samples_the_share_that_passes_counts(ledger: Ledger) -> None:
    ledger.add_tasks([replace(TASK, task_id=i) for i in ("nearly", "always")])
    _tried(ledger, "nearly", [3])
    _tried(ledger, "nearly", [3, 1, 3], round=0, benchmark=DIFFICULTY)
    _tried(ledger, "always", [3])
    _tried(ledger, "always", [3, 3], round=0, benchmark=DIFFICULTY)
    found = _parents(ledger)
    assert list(found) == ["nearly"]
    assert found["nearly"].rate == 3 / 4
    assert found["nearly"].wrong == f"code of nearly/{DIFFICULTY}/0/1"


def test_a_sample_that_was_cut_is_no_failure(ledger: Ledger) -> None:
    ledger.add_tasks([replace(TASK, task_id=i) for i in ("a", "b")])
    _tried(ledger, "a", [3])
    _tried(ledger, "a", [0], round=0, benchmark=DIFFICULTY, finish="length")
    _tried(ledger, "b", [0])
    assert list(_parents(ledger)) == ["b"]


def test_the_last_round_counts(ledger: Ledger) -> None:
    ledger.add_tasks([replace(TASK, task_id=i) for i in ("learnt", "lost")])
    for task_id, (first, second) in {"learnt": (0, 3), "lost": (3, 1)}.items():
        _tried(ledger, task_id, [first], round=1)
        _tried(ledger, task_id, [second], round=2)
    found = _parents(ledger)
    assert [(i, p.wrong) for i, p in found.items()] == [("lost", "code of lost//2/0")]


@pytest.mark.parametrize("state", ["contaminated", "bad_task", "direct_failed", "untested"])
def test_what_is_not_sound_is_not_built_on(ledger: Ledger, state: State) -> None:
    ledger.add_tasks([TASK, replace(TASK, task_id="good")])
    for task_id in ("t", "good"):
        _tried(ledger, task_id, [0])
    _ended(ledger, "t", state)
    assert list(_parents(ledger)) == ["good"]


def test_without_a_reference_a_direct_answer_that_passes_stands_for_it(ledger: Ledger) -> None:
    ledger.add_tasks([replace(TASK, task_id=i, reference=None) for i in ("with", "without")])
    for task_id, status in (("with", "passed"), ("without", "failed")):
        _tried(ledger, task_id, [0])
        code = "def add(a, b):\n    return b + a\n"
        ledger.add_solution(Solution(f"d {task_id}", task_id, "direct", "t", 0, "", code))
        ledger.add_verdict(Verdict(f"d {task_id}", status))  # type: ignore[arg-type]
    found = _parents(ledger)
    assert list(found) == ["with"]
    assert "b + a" in (found["with"].task.reference or "")


def test_a_run_whose_student_failed_nothing_says_so(ledger: Ledger) -> None:
    ledger.add_tasks([TASK])
    _tried(ledger, "t", [3])
    with pytest.raises(UserError, match=r"failed no task.*persd collect"):
        _parents(ledger)


def test_a_folder_that_is_no_run_says_so(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not a run"):
        parents_of(_rules(tmp_path))


# ---- of a task file --------------------------------------------------------------------------


def _file(path: Path, rates: dict[str, tuple[int, int] | None]) -> Path:
    rows = []
    for task_id, rate in rates.items():
        row: dict[str, Any] = {
            "task_id": task_id,
            "instruction": TASK.instruction,
            "entry_point": "add",
            "header": TASK.header,
            "tests": [{"call": t.call, "expected": t.expected} for t in TASK.tests],
            "reference": TASK.reference,
        }
        if rate:
            passed, samples = rate
            known = {"student": "s", "samples": samples, "passed": passed}
            row["meta"] = {"difficulty": known}
        rows.append(json.dumps(row))
    path.write_text("\n".join(rows))
    return path


def test_of_a_file_those_solved_now_and_then_come_first(tmp_path: Path) -> None:
    rates = {"never": (0, 4), "always": (4, 4), "once": (1, 4), "half": (2, 4), "unknown": None}
    found = parents_of(_rules(_file(tmp_path / "t.jsonl", rates)))
    assert [(p.task.task_id, p.wrong, p.rate) for p in found] == [
        ("half", None, 0.5),
        ("once", None, 0.25),
        ("never", None, 0.0),
    ]


def test_a_file_without_pass_rates_says_what_measures_them(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no task of it has a pass rate.*persd tasks difficulty"):
        parents_of(_rules(_file(tmp_path / "t.jsonl", {"a": None, "b": (3, 3)})))


def test_a_file_that_is_not_there_says_so() -> None:
    with pytest.raises(UserError, match="cannot read the file"):
        parents_of(_rules("gone.jsonl"))


# ---- turns -----------------------------------------------------------------------------------


@settings(deadline=None)
@given(
    st.integers(1, 12),
    st.lists(st.sampled_from(WAYS), min_size=1, unique=True),
    st.integers(0, 99),
    st.integers(0, 3),
)
def test_every_task_is_rewritten_in_every_way_before_a_pair_comes_again(
    count: int, ways: list[Way], seed: int, lap: int
) -> None:
    parents = [Parent(replace(TASK, task_id=str(i)), f"wrong {i}") for i in range(count)]
    rules = _rules("x", ways=ways, per_call=3, calls=9)
    whole = count * len(ways)
    briefs = [evolving(rules, parents, seed, lap * whole + i) for i in range(whole)]
    assert len({(b.parent and b.parent.task_id, b.way) for b in briefs}) == whole
    assert [b.parent for b in briefs[:count]] == [p.task for p in parents]
    assert all((b.count, b.calls, b.shown) == (3, 9, ()) for b in briefs)
    assert [b.wrong for b in briefs[:count]] == [p.wrong for p in parents]
