"""Seen tests: what the reference keeps, what it drops and why, and how it is told."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from persd.cli import app
from persd.errors import UserError
from persd.progress import Progress
from persd.records import Task, Test
from persd.sandbox import Sandbox
from persd.tasks.rows import call_keys
from persd.tasks.seen import readable, seen_report, seen_source, shared_calls
from persd.tasks.sound import Dropped, sound_seen, validated


@pytest.fixture(scope="module")
def box() -> Iterator[Sandbox]:
    with Sandbox(workers=1) as opened:
        yield opened


def a_task(reference: str | None = "    return 2 * n\n", **more: Any) -> Task:
    fields: dict[str, Any] = {
        "tests": (Test("double(2)", "4"), Test("double(-1)", "-2")),
        "reference": reference and f"def double(n):\n{reference}",
    }
    return Task("double", "Return twice n.", "def double(n):\n", "double", **{**fields, **more})


WRONG, RIGHT = Test("double(1)", "3"), Test("double(1)", "2")


def test_seen_tests_the_reference_fails_are_dropped(box: Sandbox) -> None:
    seen = (WRONG, RIGHT)
    tasks = [a_task(None, seen_tests=seen), a_task(seen_tests=seen), a_task(), a_task(None)]
    kept = list(sound_seen(box, tasks))
    assert [t.seen_tests for t in kept] == [seen, seen[1:], (), ()]


def test_what_was_dropped_is_told_with_the_reason(box: Sandbox) -> None:
    reference = "    if n == 7:\n        raise ValueError('no sevens')\n    return 2 * n\n"
    seven = Test("double(7)", "14")
    (one,) = validated(box, [a_task(reference, seen_tests=(WRONG, seven, RIGHT))])
    assert one.task.seen_tests == (RIGHT,)
    assert one.dropped == (Dropped(WRONG, "2", ""), Dropped(seven, "", "ValueError: no sevens"))
    assert one.undecided == ()


def test_a_test_that_ends_the_reference_decides_nothing_of_the_others(box: Sandbox) -> None:
    reference = "    import os\n    return os._exit(3) if n == 7 else 2 * n\n"
    seven = Test("double(7)", "14")
    (one,) = validated(box, [a_task(reference, seen_tests=(seven, RIGHT, WRONG))])
    assert one.task.seen_tests == (RIGHT,)
    assert [(d.test, d.actual) for d in one.dropped] == [(seven, ""), (WRONG, "2")]
    assert "exit 3" in one.dropped[0].reason


def test_only_the_reference_decides(box: Sandbox) -> None:
    """Where it cannot be run, for want of one or of a setup that works, all is kept."""
    broken = a_task(seen_tests=(WRONG, RIGHT), setup="import no_such_module\n")
    found = list(validated(box, [a_task(None, seen_tests=(WRONG,)), broken, a_task()]))
    assert [one.task.seen_tests for one in found] == [(WRONG,), (WRONG, RIGHT), ()]
    assert [one.undecided for one in found] == [(WRONG,), (WRONG, RIGHT), ()]
    assert not any(one.dropped for one in found)


def test_the_order_of_tasks_stays(box: Sandbox) -> None:
    tasks = [
        a_task(None if i % 3 == 0 else "    return 2 * n\n", setup=f"N = {i}\n",
               seen_tests=(WRONG, RIGHT)[i % 2 :])
        for i in range(12)
    ]  # fmt: skip
    assert [t.setup for t in sound_seen(box, tasks)] == [t.setup for t in tasks]


def test_the_report_counts(box: Sandbox) -> None:
    shared = a_task(seen_tests=(Test("double( 2 )", "4"), RIGHT))
    tasks = [shared, a_task(seen_tests=(WRONG,)), a_task(), a_task(None, seen_tests=(RIGHT,))]
    report = seen_report(box, tasks)
    assert report == {
        "tasks": 4, "found": 4, "kept": 3, "with_seen": 2, "without_seen": ["double", "double"],
        "dropped": [{"task_id": "double", "call": "double(1)", "expected": "3", "actual": "2"}],
        "tasks_dropped": 1, "left_without": ["double"], "undecided": 1, "bad_after": 0,
        "not_run_after": 0, "shared_with_hidden": 1, "tasks_shared": 1,
    }  # fmt: skip
    lines = list(readable(report))
    assert lines[0] == "double: dropped double(1): expected 3, the reference gave 2"
    assert "bad sets after dropping  0" in lines


def test_a_set_that_fails_only_as_a_whole_is_bad_after(box: Sandbox) -> None:
    """One by one the reference passes; together it does not, for it remembers."""
    reference = "    told.append(n)\n    return 2 * n if len(told) < 2 else 0\n"
    task = a_task(reference, setup="told = []\n", seen_tests=(RIGHT, Test("double(3)", "6")))
    report = seen_report(box, [task])
    assert (report["kept"], report["bad_after"]) == (2, 1)


def test_calls_are_the_same_by_their_arguments() -> None:
    def key(text: str) -> str:
        (found,) = call_keys(text, {"f"})
        return found

    assert key("f( [1,2], 'a' )") == key('f([1, 2], "a")') == key("assert not f([1,2], 'a')")
    assert key("f({2, 1})") == key("f({1, 2})")
    assert key("f(1)") != key("f('1')")
    assert key("f((1,))") != key("f([1])")
    assert key("f(x=1)") != key("f(1)")
    assert key("f(Node(1))") == key("f( Node( 1 ) )")
    assert call_keys("g(1) + f(1) + f(2)", {"f"}) == {key("f(1)"), key("f(2)")}
    assert call_keys("f(", {"f"}) == call_keys("g(1)", {"f"}) == frozenset()


def test_calls_in_test_code_are_hidden_ones() -> None:
    code = "def check(candidate):\n    double = candidate\n    assert candidate(1) == 2\n" \
           "    assert double(5) > 9\n"  # fmt: skip
    seen = tuple(Test(f"double({n})", str(2 * n)) for n in (1, 3, 5))
    task = a_task(tests=(), test_code=code, seen_tests=seen)
    assert shared_calls(task) == ["double(1)", "double(5)"]


# ---- sources and the command -----------------------------------------------------------------


def test_a_row_that_is_no_task_is_told_with_its_place(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text('\n{"task_id": "x"}\n')
    with pytest.raises(UserError) as error:
        seen_source(str(path), None, None, Progress())
    assert error.value.where == f"{path}:2"
    path.write_text("\n")
    with pytest.raises(UserError, match="no task"):
        seen_source(str(path), None, None, Progress())
    with pytest.raises(UserError, match="split"):
        seen_source("mbpp", path, None, Progress(), split="dev")


def test_the_command_prints_one_object() -> None:
    result = CliRunner().invoke(app, ["tasks", "seen", "lab", "--limit", "3", "--json"])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout.splitlines()[-1])
    assert (found["source"], found["tasks"], found["bad_after"]) == ("lab", 3, 0)
    result = CliRunner().invoke(app, ["tasks", "seen", "lab", "--limit", "3"])
    assert "bad sets after dropping  0" in result.stdout


def test_humanevals_docstring_examples(data: Path) -> None:
    path = data / "humaneval" / "HumanEval.jsonl.gz"
    found = seen_source("humaneval", path, None, Progress())
    assert (found["tasks"], found["found"], found["kept"]) == (164, 396, 390)
    assert (found["with_seen"], found["tasks_dropped"], found["bad_after"]) == (138, 4, 0)
    assert {d["task_id"] for d in found["dropped"]} == {
        "HumanEval/47", "HumanEval/116", "HumanEval/130", "HumanEval/148",
    }  # fmt: skip
    assert all(("actual" in drop) is not ("reason" in drop) for drop in found["dropped"])


def test_mbpps_seen_tests_are_not_among_its_hidden_ones(data: Path) -> None:
    found = seen_source("mbpp", data / "mbpp" / "mbpp.jsonl", None, Progress())
    assert (found["tasks"], found["kept"], found["without_seen"]) == (874, 873, ["37"])
    assert (found["dropped"], found["bad_after"], found["shared_with_hidden"]) == ([], 0, 0)
