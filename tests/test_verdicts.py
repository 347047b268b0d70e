"""What happened becomes a verdict: statuses, reasons, and what the reader is told."""

from __future__ import annotations

import math
import signal
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from persd.domains.prompts import feedback
from persd.records import Task, Test, Verdict, from_json, to_json
from persd.samples import explained
from persd.sandbox import Limits, Outcome
from persd.sandbox.codec import encode
from persd.verdicts import Job, clean, judge, shorten

TESTS = (Test("f(1)", "2"), Test("f(2)", "3"))
TASK = Task("t", "Add one.", "def f(x):\n", "f", tests=TESTS)
CHECKED = replace(TASK, tests=(), test_code="def check(c): ...")
LIMITS = Limits(cpu_seconds=0.5, memory_mb=64)
LOADED = {"i": -1}

Frame = dict[str, Any]


def value(index: int, of: Any, **more: Any) -> Frame:
    return {"i": index, "v": encode(of), **more}


def raised(index: int, name: str, message: str = "", line: Any = None, number: Any = None,
           **more: Any) -> Frame:  # fmt: skip
    return {"i": index, "e": [name, message, line, number], **more}


def judged(*frames: Frame, task: Task = TASK, **ended: Any) -> Verdict:
    """The verdict on a program that sent these frames and ended so."""
    outcome = Outcome(**{"ran": True, "frames": frames, "cpu": 0.25, **ended})
    return judge(Job("s", task, "code"), outcome, LIMITS)


# ---- statuses --------------------------------------------------------------------------------

Case = tuple[list[Frame], dict[str, Any], str, str, str]
CASES: list[Case] = [
    ([LOADED, value(0, 2), value(1, 3)], {}, "passed", "", ""),
    ([LOADED, value(0, 2), value(1, 4)], {}, "failed", "", "OUTPUT: 4"),
    ([LOADED, value(0, 2.0), value(1, 3)], {}, "failed", "", "OUTPUT: 2.0"),
    ([LOADED, value(0, True), value(1, 3)], {}, "failed", "", "EXPECTED: 2"),
    ([LOADED, value(0, object()), value(1, 3)], {}, "failed", "not plain data", "EXPECTED: 2"),
    ([LOADED, raised(0, "KeyError", "'a'", 2), value(1, 3)], {}, "error", "", "KeyError: 'a'"),
    ([LOADED, raised(0, "OSError", "no", None, 13)], {}, "error", "denied", "OSError: no"),
    ([LOADED, raised(0, "PermissionError")], {}, "error", "denied", "PermissionError"),
    ([LOADED, raised(0, "OSError", "full", 3, 28)], {}, "error", "quota", "OSError: full"),
    ([LOADED, raised(0, "RuntimeError", "can't start new thread")], {}, "error", "quota", "thread"),
    ([LOADED, raised(0, "MemoryError")], {}, "memory", "", "memory"),
    ([raised(-1, "SyntaxError", "bad", 3, k="syntax")], {}, "syntax", "", "SyntaxError: bad"),
    ([raised(-1, "ValueError", "null", k="syntax")], {}, "syntax", "ValueError", "null"),
    ([raised(-1, "NameError", "no f", k="missing")], {}, "error", "missing entry point", "no f"),
    ([raised(-1, "ImportError", "no x", 1)], {}, "error", "", "ImportError: no x"),
    ([raised(-1, "MemoryError")], {}, "memory", "", "memory"),
    ([], {"killed": "cpu"}, "timeout", "over 0.5 s of CPU", "in time"),
    ([LOADED, value(0, 2)], {"killed": "cpu"}, "timeout", "over 0.5 s of CPU", "in time"),
    ([LOADED], {"killed": "wall"}, "timeout", "over the wall-clock backstop", "in time"),
    ([LOADED], {"killed": "idle"}, "timeout", "asleep", "in time"),
    ([LOADED], {"killed": "stopped"}, "timeout", "stopped itself", "in time"),
    ([LOADED], {"signal": signal.SIGXCPU}, "timeout", "over 0.5 s of CPU", "in time"),
    ([LOADED], {"signal": signal.SIGSEGV}, "crashed", "SIGSEGV", "SIGSEGV"),
    ([LOADED], {"signal": 99}, "crashed", "signal 99", "signal 99"),
    ([LOADED, value(0, 2)], {"exit": 0}, "crashed", "early exit 0", "early exit 0"),
    ([LOADED], {"exit": 3}, "crashed", "early exit 3", "early exit 3"),
    ([LOADED], {"killed": "flood"}, "error", "wrote to the judge's channel", "channel"),
    ([LOADED], {"broken": True, "exit": 0}, "error", "wrote to the judge's channel", "channel"),
    ([LOADED, {"i": 0, "v": {"tuple": 5}}], {}, "error", "wrote to the judge's channel", "channel"),
    ([LOADED, {"i": 0}], {}, "error", "wrote to the judge's channel", "channel"),
]  # fmt: skip


@pytest.mark.parametrize(("frames", "ended", "status", "reason", "says"), CASES)
def test_status_reason_and_feedback(
    frames: list[Frame], ended: dict[str, Any], status: str, reason: str, says: str
) -> None:
    verdict = judged(*frames, **ended)
    assert (verdict.status, verdict.reason) == (status, reason)
    assert verdict.limits == {"cpu_seconds": 0.5, "memory_mb": 64}
    assert verdict.seconds == 0.25
    assert from_json(Verdict, to_json(verdict)) == verdict
    if status == "passed":
        assert explained(verdict) == ""
        with pytest.raises(ValueError, match="no feedback"):
            feedback(verdict)
        return
    assert feedback(verdict).startswith("ERROR: ")
    assert says in feedback(verdict)
    assert feedback(verdict) in explained(verdict)
    assert reason in explained(verdict)


def test_every_status_has_its_cases() -> None:
    assert {status for *_, status, _, _ in CASES} == {
        "passed", "failed", "error", "timeout", "memory", "crashed", "syntax",
    }  # fmt: skip


def test_our_trouble_is_not_run_and_has_no_feedback() -> None:
    setup = replace(TASK, setup="import nothing")
    odd = replace(TASK, tests=(Test("f(1)", "nothing"),))
    for verdict, says in [
        (judged(ran=False, detail="the worker died"), "the worker died"),
        (judged(LOADED, task=replace(TASK, tests=())), "no tests"),
        (judged(raised(-2, "ImportError", "nothing"), task=setup), "setup fails: ImportError"),
        (judged(task=setup, exit=0), "setup fails: it ended"),
        (judged(LOADED, value(0, 2), task=odd), "test 1: expected 'nothing'"),
    ]:
        assert verdict.status == "not_run"
        assert says in verdict.reason
        assert explained(verdict) == verdict.reason
        with pytest.raises(ValueError, match="no feedback"):
            feedback(verdict)


def test_the_setups_frame_comes_before_the_programs() -> None:
    task = replace(TASK, setup="ONE = 1")
    assert judged({"i": -2}, LOADED, value(0, 2), value(1, 3), task=task).passed


def test_a_program_cannot_blame_a_sound_test() -> None:
    frames = [LOADED, raised(0, "SyntaxError", "no call", k="call"), value(1, 3)]
    assert judged(*frames).status == "error"
    broken = replace(TASK, tests=(Test("f(", "2"),))
    assert judged(*frames[:2], task=broken).status == "not_run"


# ---- what each test did ----------------------------------------------------------------------


def test_the_first_failure_names_the_status_and_all_are_told() -> None:
    verdict = judged(LOADED, value(0, 5, o="at 1\n", t=1500), raised(1, "KeyError", "2", 7))
    assert verdict.status == "failed"
    first, second = verdict.results
    assert (first.call, first.expected, first.actual) == ("f(1)", "2", "5")
    assert (first.stdout, first.cpu_ms) == ("at 1\n", 1.5)
    assert (second.status, second.error_type, second.message, second.line) == (
        "error", "KeyError", "2", 7,
    )  # fmt: skip
    assert feedback(verdict) == (
        "ERROR: AssertionError\nINPUT: (1)\nOUTPUT: 5\nEXPECTED: 2"
    )  # fmt: skip


def test_an_end_after_a_failure_does_not_hide_it() -> None:
    verdict = judged(LOADED, value(0, 5), killed="cpu")
    assert (verdict.status, verdict.reason) == ("failed", "")
    assert [r.status for r in verdict.results] == ["failed", "error"]
    assert verdict.results[1].error_type == "TimeoutError"


def test_frames_out_of_order_count_for_nothing() -> None:
    for frames in ([value(0, 2), value(1, 3)], [LOADED, value(1, 3), value(0, 2)], [LOADED] * 3):
        assert judged(*frames, exit=0).status == "crashed"


def test_where_it_stops_at_the_first_failure() -> None:
    job = Job("s", TASK, "code", stop_at_first_failure=True)
    outcome = Outcome(ran=True, frames=(LOADED, value(0, 5), value(1, 3)))
    assert [r.status for r in judge(job, outcome, LIMITS).results] == ["failed"]


def test_cut_output_is_flagged_and_not_failed() -> None:
    verdict = judged(LOADED, value(0, 2, o="x", c=True), value(1, 3))
    assert (verdict.status, verdict.reason) == ("passed", "output cut")
    assert judged(LOADED, value(0, 2, c=1), value(1, 3)).reason == ""


# ---- test code -------------------------------------------------------------------------------

CHECKS: list[tuple[Frame, dict[str, Any], str, str]] = [
    ({"k": "passed"}, {}, "passed", ""),
    ({"k": "failed", "call": "f(1)", "source": "assert c(1) == 2", "value": "3"}, {}, "failed", ""),
    (raised(0, "TypeError", "None", k="unfit"), {}, "failed", "TypeError in the test"),
    (raised(0, "KeyError", "1", 2, k="raised", call="f(1)"), {}, "error", ""),
    (raised(0, "MemoryError", k="raised"), {}, "memory", ""),
    (raised(0, "NameError", "x", k="fault"), {}, "not_run", "test code fails: NameError: x"),
    ({"k": "broken", "call": "f(1)"}, {}, "error", "wrote to the judge's channel"),
    ({"k": "gone", "call": "f(1)"}, {"killed": "cpu"}, "timeout", "over 0.5 s of CPU"),
    ({"k": "gone", "call": "f(1)"}, {"signal": 11}, "crashed", "SIGSEGV"),
    ({}, {"check_killed": "cpu"}, "not_run", "test code fails: cpu"),
    ({}, {}, "not_run", "test code fails: its process ended"),
    ({}, {"check_killed": "wall", "check_waiting": True, "killed": "idle"}, "timeout", "asleep"),
]


@pytest.mark.parametrize(("last", "ended", "status", "reason"), CHECKS)
def test_test_code_decides(last: Frame, ended: dict[str, Any], status: str, reason: str) -> None:
    verdict = judged(LOADED, task=CHECKED, check=last, **ended)
    assert verdict.status == status
    assert verdict.reason.endswith(reason)
    if status not in ("passed", "not_run"):
        assert feedback(verdict).startswith("ERROR: ")
        assert verdict.results[-1].call == last.get("call", "")


def test_what_the_test_code_saw_is_told() -> None:
    last = {"k": "failed", "call": "f(1)", "source": "assert c(1) == 2", "value": "3"}
    (result,) = judged(LOADED, task=CHECKED, check=last).results
    assert (result.call, result.expected, result.actual) == ("f(1)", "assert c(1) == 2", "3")


def test_calls_decide_before_test_code() -> None:
    both = replace(CHECKED, tests=TESTS)
    failed = judged(LOADED, value(0, 9), value(1, 3), task=both, check={"k": "passed"})
    assert failed.status == "failed"
    assert judged(LOADED, value(0, 2), value(1, 3), task=both, check={"k": "passed"}).passed


# ---- nothing in a frame breaks the judge -----------------------------------------------------

plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)
frames_of_any_kind = st.fixed_dictionaries(
    {"i": st.integers(-3, 3)}, optional=dict.fromkeys("vekotcs", plain)
)
checks = st.none() | st.dictionaries(
    st.sampled_from(["k", "e", "call", "value", "source", "i"]),
    plain | st.sampled_from(["passed", "failed", "raised", "unfit", "fault", "gone", "broken"]),
)


@given(
    st.lists(frames_of_any_kind, max_size=4),
    checks,
    st.sampled_from([TASK, CHECKED, replace(TASK, setup="x = 1")]),
    st.sampled_from(["", "cpu", "wall", "flood"]),
)
def test_whatever_a_program_sends_is_a_verdict(
    frames: list[Frame], check: Frame | None, task: Task, killed: str
) -> None:
    verdict = judged(*frames, task=task, check=check, killed=killed, exit=0)
    assert from_json(Verdict, to_json(verdict)).status == verdict.status
    text = explained(verdict)
    assert bool(text) == (not verdict.passed)
    text.encode()
    assert len(text) < 3000


@given(st.lists(st.integers() | st.floats() | st.text() | st.none() | st.booleans()))
def test_a_value_equal_to_what_is_expected_passes(found: list[Any]) -> None:
    nan = [item for item in found if isinstance(item, float) and not math.isfinite(item)]
    expected = repr([item for item in found if item not in nan])
    finite = [item for item in found if item not in nan]
    task = replace(TASK, tests=(Test("f(1)", expected),))
    assert judged(LOADED, value(0, finite), task=task).passed
    assert not judged(LOADED, value(0, [*finite, 0]), task=task).passed


# ---- text for readers ------------------------------------------------------------------------


@given(st.text(st.characters(), max_size=500))
def test_clean_text_goes_anywhere(text: str) -> None:
    shown = clean(text)
    shown.encode("utf-8")
    assert all(c.isprintable() or c in "\n\t" for c in shown)
    assert clean(shown) == shown
    if text.isprintable():
        assert shown == text


def test_long_text_is_cut_and_says_so() -> None:
    assert shorten("a" * 300) == "a" * 300
    assert shorten("a" * 301) == "a" * 300 + "... (301 characters)"
    (result, _) = judged(LOADED, value(0, "b" * 5000, o="c" * 5000), value(1, 3)).results
    assert len(result.actual) < 330
    assert result.stdout == "c" * 1000
