"""Time limits: learnt from the task's reference, and never so short that it would fail itself."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from persd import calibrate
from persd.calibrate import Cost, first_limits, limits_from, measuring, more_limits
from persd.records import Task, Test, TestResult, Verdict
from persd.sandbox import Limits, Outcome, Program, Sandbox
from persd.sandbox.pool import Session
from persd.verify import Job, verify

TESTS = (Test("f(1)", "1"), Test("f(2)", "2"))
QUICK = "def f(x):\n    return x\n"
ENDLESS = "def f(x):\n    while True: pass\n"
LATE = "def f(x):\n    while x == 2: pass\n    return x\n"


def busy(seconds: float, only: str = "True") -> str:
    """A right program that takes so many seconds of CPU a test."""
    return (
        "import time\ndef f(x):\n"
        f"    end = time.process_time() + ({seconds} if {only} else 0)\n"
        "    while time.process_time() < end: pass\n    return x\n"
    )


def asleep(seconds: float) -> str:
    return f"import time\ndef f(x):\n    time.sleep({seconds} if x == 1 else 0)\n    return x\n"


def task(reference: str | None, tests: tuple[Test, ...] = TESTS) -> Task:
    return Task("t", "The same.", "def f(x):\n", "f", tests=tests, reference=reference)


@pytest.fixture(scope="module")
def box() -> Iterator[Sandbox]:
    with Sandbox(workers=1) as sandbox:
        sandbox.probe()
        yield sandbox


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[Program]:
    """The programs that reach the sandbox."""
    programs: list[Program] = []
    submit = Session.submit

    def noted(self: Session, key: Any, group: tuple[Program, ...]) -> None:
        programs.extend(group)
        submit(self, key, group)

    monkeypatch.setattr(Session, "submit", noted)
    return programs


def judge(box: Sandbox, code: str, reference: str | None, **more: Any) -> Verdict:
    return next(verify(box, [Job("s", task(reference), code, **more)]))


def seconds(verdict: Verdict) -> float:
    """The CPU limit it was judged under."""
    return float(verdict.limits["cpu_seconds"])


# ---- through the judge -----------------------------------------------------------------------


def test_a_program_slower_than_its_reference_passes(box: Sandbox, ran: list[Program]) -> None:
    verdict = judge(box, busy(0.4, "x == 1"), busy(0.3, "x == 1"))
    assert (verdict.status, seconds(verdict)) == ("passed", calibrate.MOST)
    limits = [program.limits.cpu_seconds for program in ran]
    assert limits == [calibrate.LEAST, 10.0, calibrate.MOST]  # it, its reference, it again


def test_a_reference_slower_than_the_longest_limit_still_sets_one(
    box: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calibrate, "MOST", 0.2)
    reference = busy(0.35, "x == 1")
    for code in (reference, busy(0.6, "x == 1")):
        verdict = judge(box, code, reference)
        assert verdict.passed
        assert seconds(verdict) > 3 * 0.3


def test_an_endless_loop_costs_the_first_limit_only(box: Sandbox, ran: list[Program]) -> None:
    verdict = judge(box, ENDLESS, QUICK)
    assert (verdict.status, seconds(verdict)) == ("timeout", calibrate.LEAST)
    assert [program.source for program in ran] == [ENDLESS, QUICK]


def test_the_reference_is_measured_once_and_only_if_time_runs_out(
    box: Sandbox, ran: list[Program]
) -> None:
    reference = busy(0.15, "x == 1")
    slow, slower = busy(0.4, "x == 1"), busy(0.41, "x == 1")
    for code in (QUICK, "def f(x):\n    return 1 / 0\n", slow, slower):
        judge(box, code, reference)
    assert [program.source for program in ran].count(reference) == 1
    assert [program.source for program in ran[:2]] == [QUICK, "def f(x):\n    return 1 / 0\n"]
    assert [p.limits.cpu_seconds for p in ran if p.source == slower] == [calibrate.MOST]


def test_other_tests_of_a_task_are_measured_for_themselves(
    box: Sandbox, ran: list[Program]
) -> None:
    reference = busy(0.14)
    judge(box, busy(0.4), reference, tests=TESTS[:1])
    judge(box, busy(0.4), reference, tests=TESTS[1:])
    assert [program.source for program in ran].count(reference) == 2


def test_without_a_reference_the_limit_is_the_longest(
    box: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert seconds(judge(box, QUICK, None)) == calibrate.MOST == 3.0
    monkeypatch.setattr(calibrate, "MOST", 0.2)
    verdict = judge(box, ENDLESS, None)
    assert (verdict.status, seconds(verdict)) == ("timeout", 0.2)


def test_a_reference_that_does_not_pass_says_nothing(
    box: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calibrate, "MOST", 0.25)
    for reference in ("def f(x):\n    return 0\n", "def f(x):\n    return 1 / 0\n", "def f(x"):
        verdict = judge(box, ENDLESS, reference)
        assert (verdict.status, seconds(verdict)) == ("timeout", 0.25)
        assert judge(box, busy(0.15, "x == 1"), reference).passed


def test_a_program_that_passed_all_earlier_tests_gets_three_times_its_limit(
    box: Sandbox, ran: list[Program]
) -> None:
    verdict = judge(box, LATE, QUICK)
    assert verdict.status == "timeout"
    assert seconds(verdict) == pytest.approx(3 * calibrate.LEAST)
    assert [r.status for r in verdict.results] == ["passed", "error"]
    ran.clear()
    wrong_first = "def f(x):\n    while x == 2: pass\n    return 0\n"
    verdict = judge(box, wrong_first, QUICK)
    assert (verdict.status, seconds(verdict)) == ("failed", calibrate.LEAST)
    assert len(ran) == 1


def test_limits_that_a_user_set_are_kept_but_never_under_three_times_the_reference(
    box: Sandbox,
) -> None:
    given = Limits(cpu_seconds=0.1)
    assert seconds(judge(box, LATE, None, limits=given)) == 0.1
    assert seconds(judge(box, LATE, QUICK, limits=given)) == 0.1
    assert judge(box, busy(0.5), QUICK, limits=given).status == "timeout"
    reference = busy(0.2, "x == 1")
    verdict = judge(box, busy(0.4, "x == 1"), reference, limits=given)
    assert verdict.passed
    assert 0.5 < seconds(verdict) < calibrate.MOST
    assert verdict.limits["memory_mb"] == given.memory_mb
    assert judge(box, ENDLESS, reference, limits=given).status == "timeout"


def test_where_the_reference_sleeps_a_program_may(box: Sandbox) -> None:
    reference = asleep(0.7)
    verdict = judge(box, asleep(1.6), reference)  # beyond the wall clock of the first limit
    assert (verdict.status, seconds(verdict)) == ("passed", calibrate.MOST)


def test_test_code_is_measured_as_a_whole(box: Sandbox) -> None:
    code = "def check(c):\n    assert [c(n) for n in range(4)] == [0, 1, 2, 3]\n"
    slow = replace(task(busy(0.1, "x == 1")), tests=(), test_code=code)
    verdict = next(verify(box, [Job("s", slow, busy(0.4, "x == 1"))]))
    assert verdict.passed
    assert seconds(verdict) > 0.4


def test_in_a_batch_limits_are_the_same(box: Sandbox) -> None:
    endless = "def f(x):\n    while x: x = x\n    return x\n"
    codes = [QUICK, endless, QUICK + "# 1\n", LATE, QUICK + "# 2\n"]
    jobs = [Job(str(n), task(QUICK), code) for n, code in enumerate(codes)]
    alone, together = (list(verify(box, jobs, batch=batch)) for batch in (False, True))
    told = [[(v.status, v.limits, v.reason) for v in found] for found in (alone, together)]
    assert told[0] == told[1]
    assert [v.status for v in alone] == ["passed", "timeout", "passed", "timeout", "passed"]


# ---- by themselves ---------------------------------------------------------------------------


def timed_out(*statuses: Any) -> Verdict:
    return Verdict("s", "timeout", results=tuple(TestResult("f(1)", s) for s in statuses))


@pytest.mark.parametrize(
    ("cost", "given", "fair"),
    [
        (None, None, 3.0),
        (Cost(0.0, waits=False), None, 0.1),
        (Cost(0.01, waits=False), None, 0.2),
        (Cost(0.1, waits=False), None, 2.0),
        (Cost(0.5, waits=False), None, 3.0),
        (Cost(2.0, waits=False), None, 6.0),
        (Cost(0.0, waits=True), None, 3.0),
        (Cost(2.0, waits=True), None, 6.0),
        (None, Limits(cpu_seconds=0.3), 0.3),
        (Cost(0.01, waits=False), Limits(cpu_seconds=0.3), 0.3),
        (Cost(0.2, waits=False), Limits(cpu_seconds=0.3), 0.6),
        (Cost(0.2, waits=True), Limits(cpu_seconds=5.0), 5.0),
    ],
)
def test_what_a_program_may_have_when_time_ran_out(
    cost: Cost | None, given: Limits | None, fair: float
) -> None:
    job = Job("s", task(QUICK), ENDLESS, limits=given)
    first = first_limits(job)
    assert first.cpu_seconds == (0.1 if given is None else given.cpu_seconds)
    more = more_limits(job, timed_out("error"), first, cost) or first
    assert more.cpu_seconds == pytest.approx(fair)
    assert more is first or more.load_seconds >= more.cpu_seconds
    assert more_limits(job, timed_out("error"), more, cost) is None
    last = more_limits(job, timed_out("passed", "error"), more, cost)
    if given is not None:
        assert last is None  # what the user said is final
    else:
        assert last is not None
        assert last.cpu_seconds == pytest.approx(3 * fair)
        assert more_limits(job, timed_out("passed", "error"), last, cost) is None


def test_a_known_cost_is_the_first_limit() -> None:
    job = Job("s", task(QUICK), ENDLESS)
    assert first_limits(job, Cost(0.1, waits=False)).cpu_seconds == 2.0
    given = replace(job, limits=Limits(memory_mb=64, calibrate=True))
    assert first_limits(given, Cost(0.1, waits=False)).memory_mb == 64
    assert measuring(given).memory_mb == 64
    assert measuring(given).cpu_seconds == 10.0


@pytest.mark.parametrize("told", [10**9, 5000.0, float("nan"), -1, True, None, "long", [1]])
def test_what_a_reference_says_of_its_time_is_bounded_by_the_process(told: Any) -> None:
    known, job = calibrate.References(), Job("s", task(QUICK), ENDLESS)
    assert not known.knows(job)
    known.put(job, Outcome(ran=True, frames=({"i": 0, "t": told},), cpu=0.25, wall=0.3))
    assert known.knows(job)
    assert known.get(job) == Cost(0.25, waits=False)
    known.put(job, None)
    assert known.get(job) == Cost(0.25, waits=False)


def test_limits_of_a_user() -> None:
    assert limits_from(None, None) is None
    assert limits_from(0.5, None) == Limits(cpu_seconds=0.5)
    assert limits_from(None, 64) == Limits(memory_mb=64, calibrate=True)
