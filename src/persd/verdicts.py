"""From what happened to a verdict: frames against expected values, and text for readers.

Everything in an outcome is the program's word. It is compared as plain data, shortened and
cleaned before anybody reads it.
"""

from __future__ import annotations

import ast
import signal
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from persd.records import Status, Task, Test, TestResult, Verdict
from persd.sandbox import Limits, Outcome, codec
from persd.sandbox.compare import NotLiteral, agrees

_TEXT = 300
_DENIED = frozenset({1, 13, 30, 38, 97})  # EPERM EACCES EROFS ENOSYS EAFNOSUPPORT
_QUOTA = frozenset({23, 24, 27, 28, 122})  # ENFILE EMFILE EFBIG ENOSPC EDQUOT
_TIMEOUTS = {
    "cpu": "over {0:g} s of CPU",
    "wall": "over the wall-clock backstop",
    "idle": "asleep",
    "stopped": "stopped itself",
}


@dataclass(frozen=True, slots=True)
class Job:
    """One program to judge, and by which tests."""

    solution_id: str
    task: Task
    code: str
    """The whole program; it defines ``task.entry_point``."""
    tests: Literal["hidden", "seen"] | tuple[Test, ...] = "hidden"
    """``hidden``: the task's tests and test code; ``seen``: its seen tests; or these."""
    limits: Limits | None = None
    """None: the default limits."""
    stop_at_first_failure: bool = False

    @property
    def chosen(self) -> tuple[Test, ...]:
        if self.tests == "hidden":
            return self.task.tests
        return self.task.seen_tests if self.tests == "seen" else self.tests

    @property
    def check(self) -> str | None:
        return self.task.test_code if self.tests == "hidden" else None


@dataclass(frozen=True, slots=True)
class _Finding:
    """A status, its reason, and the test results behind it."""

    status: Status
    reason: str = ""
    results: tuple[TestResult, ...] = ()


def judge(job: Job, outcome: Outcome, limits: Limits) -> Verdict:
    """The verdict on a job whose program ran within these limits."""
    found = _find(job, outcome, limits)
    reasons = [found.reason] if found.reason else []
    if any(frame.get("c") is True for frame in outcome.frames):
        reasons.append("output cut")
    return Verdict(
        solution_id=job.solution_id,
        status=found.status,
        tests="seen" if job.tests == "seen" else "hidden",
        reason=", ".join(reasons),
        results=found.results,
        seconds=outcome.cpu,
        isolation=outcome.isolation,
        limits={"cpu_seconds": limits.cpu_seconds, "memory_mb": limits.memory_mb},
    )


def _find(job: Job, outcome: Outcome, limits: Limits) -> _Finding:
    if not outcome.ran:
        return _Finding("not_run", outcome.detail)
    if not job.chosen and job.check is None:
        return _Finding("not_run", "no tests")
    frames = deque(outcome.frames)
    if job.task.setup:
        setup = _take(frames, -2)
        if setup is None or "e" in setup:
            return _Finding("not_run", f"the task's setup fails: {_brief(setup)}")
    loaded = _take(frames, -1)
    if loaded is None:
        return _ended("", outcome, limits, ())
    if "e" in loaded:
        return _not_loaded(loaded)
    found = _tests(job, frames, outcome, limits)
    if found.status != "passed" or job.check is None:
        return found
    return _checked(found.results, outcome, limits)


def _take(frames: deque[Mapping[str, Any]], index: int) -> Mapping[str, Any] | None:
    if frames and frames[0]["i"] == index:
        return frames.popleft()
    return None


def _brief(frame: Mapping[str, Any] | None) -> str:
    if frame is None:
        return "it ended the process"
    name, message, *_ = _raised(frame)
    return f"{name}: {message}"[:200]


def _raised(frame: Mapping[str, Any]) -> tuple[str, str, int | None, int | None]:
    """Type name, message, line, errno of an exception frame, whatever is in it."""
    raw = frame.get("e")
    parts = list(raw) if isinstance(raw, list) else []
    name, message, line, number = (parts + [None] * 4)[:4]
    return (
        clean(name, 80) if isinstance(name, str) else "Exception",
        clean(message, 500) if isinstance(message, str) else "",
        line if type(line) is int else None,
        number if type(number) is int else None,
    )


def _not_loaded(frame: Mapping[str, Any]) -> _Finding:
    name, message, line, number = _raised(frame)
    result = TestResult(
        call="",
        status="error",
        error_type=name,
        message=message,
        line=line,
        stdout=_stdout(frame),
        cpu_ms=_cpu_ms(frame),
    )
    kind = frame.get("k")
    if kind == "syntax":
        return _Finding("syntax", name if name not in _SYNTAX else "", (result,))
    if kind == "missing":
        return _Finding("error", "missing entry point", (result,))
    status, reason = _error_status(name, message, number)
    return _Finding(status, reason, (result,))


_SYNTAX = frozenset({"SyntaxError", "IndentationError", "TabError"})


def _error_status(name: str, message: str, number: int | None) -> tuple[Status, str]:
    if name == "MemoryError":
        return "memory", ""
    if number in _DENIED or name == "PermissionError":
        return "error", "denied"
    if number in _QUOTA or message.startswith("can't start new thread"):
        return "error", "quota"
    return "error", ""


def _tests(
    job: Job, frames: deque[Mapping[str, Any]], outcome: Outcome, limits: Limits
) -> _Finding:
    """Judge call by call; the first test that did not pass decides the status."""
    results: list[TestResult] = []
    first: _Finding | None = None
    for index, test in enumerate(job.chosen):
        frame = _take(frames, index)
        if frame is None:
            ended = _ended(test.call, outcome, limits, tuple(results))
            return _Finding(first.status, first.reason, ended.results) if first else ended
        found = _one(test, frame)
        if found.status == "not_run":
            return _Finding("not_run", f"test {index + 1}: {found.reason}")
        results.extend(found.results)
        first = first or (found if found.status != "passed" else None)
        if first and (job.stop_at_first_failure or found.status == "memory"):
            break
    if first is None:
        return _Finding("passed", "", tuple(results))
    return _Finding(first.status, first.reason, tuple(results))


def _one(test: Test, frame: Mapping[str, Any]) -> _Finding:
    if "e" in frame:
        return _test_raised(test, frame)
    try:
        passed = agrees(test, frame)
        value = codec.decode(frame["v"])
    except NotLiteral as error:
        return _Finding("not_run", f"expected {test.expected[:60]!r} is {error}")
    except (codec.CodecError, KeyError, RecursionError):
        return _Finding("error", _BROKEN, (_result(test, "error", frame, message=_BROKEN),))
    actual = codec.show(value)
    reason = "not plain data" if isinstance(value, codec.Other) and not passed else ""
    result = _result(test, "passed" if passed else "failed", frame, actual=actual)
    return _Finding("passed" if passed else "failed", reason, (result,))


_BROKEN = "wrote to the judge's channel"


def _test_raised(test: Test, frame: Mapping[str, Any]) -> _Finding:
    name, message, line, number = _raised(frame)
    if frame.get("k") == "call" and not _is_call(test.call):
        return _Finding("not_run", f"not a call: {name}: {message}")
    status, reason = _error_status(name, message, number)
    more = {"error_type": name, "message": message, "line": line}
    return _Finding(status, reason, (_result(test, "error", frame, **more),))


def _is_call(source: str) -> bool:
    """Whether the test itself is sound, for a program may only say that it is not."""
    try:
        body = ast.parse(source.strip()).body
        return bool(body) and isinstance(body[-1], ast.Expr)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False


def _result(
    test: Test,
    status: Literal["passed", "failed", "error"],
    frame: Mapping[str, Any],
    **more: Any,
) -> TestResult:
    more["actual"] = shorten(clean(more.get("actual", "")))
    return TestResult(
        call=shorten(test.call),
        status=status,
        expected=shorten(clean(test.expected)),
        stdout=_stdout(frame),
        cpu_ms=_cpu_ms(frame),
        **more,
    )


def _ended(
    call: str, outcome: Outcome, limits: Limits, results: tuple[TestResult, ...]
) -> _Finding:
    """The process was gone before its frame came: say why."""
    status, reason, name = _end(outcome, limits)
    last = TestResult(call=shorten(call), status="error", error_type=name, message=reason)
    return _Finding(status, reason, (*results, last))


def _end(outcome: Outcome, limits: Limits) -> tuple[Status, str, str]:
    if outcome.broken or outcome.killed == "flood":
        return "error", _BROKEN, "Error"
    if outcome.killed in _TIMEOUTS:
        reason = _TIMEOUTS[outcome.killed].format(limits.cpu_seconds)
        return "timeout", reason, "TimeoutError"
    if outcome.signal is not None:
        if outcome.signal == signal.SIGXCPU:
            return "timeout", _TIMEOUTS["cpu"].format(limits.cpu_seconds), "TimeoutError"
        return "crashed", _signal_name(outcome.signal), "Crash"
    return "crashed", f"early exit {outcome.exit}", "Crash"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _checked(results: tuple[TestResult, ...], outcome: Outcome, limits: Limits) -> _Finding:
    """The verdict of test code that ran in its own process."""
    last = outcome.check or {}
    kind = last.get("k")
    if kind == "passed":
        return _Finding("passed", "", results)
    call = clean(str(last.get("call", "")))
    if kind == "gone" or (outcome.check_waiting and outcome.check_killed):
        return _ended(call, outcome, limits, results)
    if kind == "broken":
        last_result = TestResult(shorten(call), "error", error_type="Error", message=_BROKEN)
        return _Finding("error", _BROKEN, (*results, last_result))
    if kind is None and outcome.check_killed and outcome.check_calls:
        reason = "the test came to no end with its answers"
        return _Finding("timeout", reason, (*results, TestResult("", "error", message=reason)))
    if kind not in ("raised", "failed", "unfit"):
        why = _brief(last) if kind == "fault" else outcome.check_killed or "its process ended"
        return _Finding("not_run", f"the task's test code fails: {why}")
    name, message, line, number = _raised(last)
    result = TestResult(
        call=shorten(call),
        status="error" if kind == "raised" else "failed",
        expected=shorten(clean(str(last.get("source", "")))),
        actual=shorten(clean(str(last.get("value", "")))),
        error_type=name if kind != "failed" else "",
        message=message,
        line=line if kind == "raised" else None,
    )
    if kind == "raised":
        status, reason = _error_status(name, message, number)
        return _Finding(status, reason, (*results, result))
    reason = f"{name} in the test" if kind == "unfit" else ""
    return _Finding("failed", reason, (*results, result))


# --- text for readers ---------------------------------------------------------------------


def shorten(text: str, limit: int = _TEXT) -> str:
    """At most ``limit`` characters of text, and a mark that says how many there were."""
    if len(text) <= limit:
        return text
    return f"{text[:limit]}... ({len(text)} characters)"


def clean(text: str, limit: int = 100_000) -> str:
    """Text any file, terminal or database takes: no lone surrogates, no control characters."""
    text = text[:limit]
    if text.isascii() and text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in "\n\t" else ascii(c)[1:-1] for c in text)


def _stdout(frame: Mapping[str, Any]) -> str:
    printed = frame.get("o")
    return clean(printed)[-1000:] if isinstance(printed, str) else ""


def _cpu_ms(frame: Mapping[str, Any]) -> float | None:
    spent = frame.get("t")
    return spent / 1000 if type(spent) is int and 0 <= spent < 1 << 50 else None
