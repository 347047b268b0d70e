"""One word a sample: what is part of the score, and what is counted apart."""

from __future__ import annotations

import pytest

from conftest import make_task
from persd.domains.parse import is_open, parse_reply
from persd.outcomes import (
    by_task,
    counts,
    error_type,
    outcome_of,
    totals,
    truncated_as_wrong,
)
from persd.records import Evaluation, Solution, TestResult, Verdict

TASK = make_task("t")  # def add(a, b): ...


def an_outcome(text: str, status: str, finish: str = "stop", error: str = "") -> str:
    code = parse_reply(TASK, text).code
    solution = Solution("s", "t", "attempt", "m", 0, text, code, finish=finish)
    results = (TestResult("add(1, 2)", "error", error_type=error),) if error else ()
    return outcome_of(TASK, solution, Verdict("s", status, results=results))  # type: ignore[arg-type]


def test_outcomes_are_named_as_the_feedback_names_them() -> None:
    body = "    return a - b\n"
    assert an_outcome(body, "passed") == "passed"
    assert an_outcome(body, "failed") == "AssertionError"
    assert an_outcome(body, "error", error="ZeroDivisionError") == "ZeroDivisionError"
    assert an_outcome(body, "timeout") == "TimeoutError"
    assert an_outcome(body, "not_run") == "not_run"
    assert an_outcome("I cannot.", "syntax") == "no code"
    assert error_type("memory", "ValueError") == "MemoryError"


@pytest.mark.parametrize(
    "text",
    [
        "    total = a\n    for x in",  # within a line
        "    total = a\n    return (total +\n        b",  # within a bracket
        "    if a:\n",  # before a block
        "    total = a + b\n    total = to",  # within a name: it parses
        "",  # nothing came
        "```python\ndef add(a, b):\n    return a +",  # within a fence
        "def helper(x):\n    return x\n\n\ndef ad",  # before the function itself
    ],
)
def test_a_reply_cut_within_its_program_is_truncated(text: str) -> None:
    assert an_outcome(text, "syntax", "length") == "truncated"
    assert an_outcome(text, "passed", "length") == "passed"


@pytest.mark.parametrize(
    "text",
    [
        "    return a - b\n\n\nprint(add(1, 2))\nprint(add(",  # the program is whole before it
        "    return a - b\n\n\ndef other(x):\n    return x\n\n\ndef third(x):\n    ret",
        "```python\ndef add(a, b):\n    return a - b\n```\nThis adds the two numbers, since",
        "    return a - b\n\n\n\n\n\n",  # done, and only empty lines after
        "    return a b c\n    x = 1\n    y = 2\n    z = 3\n    w = 4\n",  # wrong from the start
    ],
)
def test_a_whole_program_that_fails_is_wrong_however_the_reply_ends(text: str) -> None:
    assert an_outcome(text, "failed", "length") != "truncated"


def test_is_open_reads_any_text() -> None:
    for text in ("\x00", "def add(", "\ud800", "(" * 500):
        assert is_open(TASK, text, parse_reply(TASK, text).code) in (True, False)


@pytest.mark.parametrize("name", ["passed", "truncated", "not_run", "no code"])
def test_a_program_cannot_name_its_own_outcome(name: str) -> None:
    # class passed(Exception): ...; raise passed()
    assert an_outcome("    raise x\n", "error", error=name) == "Exception"


def an_evaluation(outcomes: dict[str, dict[str, int]]) -> Evaluation:
    return Evaluation("e", "m", 0, "b", 1, len(outcomes), 4, {}, {}, outcomes=outcomes)


def test_counts_leave_out_what_is_apart() -> None:
    found = an_evaluation(
        {
            "x": {"passed": 2, "truncated": 1, "not_run": 1},
            "y": {"AssertionError": 4},
            "z": {"truncated": 4},
        }
    )
    assert counts(found) == {"x": (2, 2), "y": (4, 0)}
    assert truncated_as_wrong(found) == {"x": (3, 2), "y": (4, 0), "z": (4, 0)}
    assert totals(found) == {"truncated": 5, "AssertionError": 4, "passed": 2, "not_run": 1}


def test_by_task_adds_up() -> None:
    assert by_task([("x", "passed"), ("y", "E"), ("x", "passed"), ("x", "A")]) == {
        "x": {"A": 1, "passed": 2},
        "y": {"E": 1},
    }
