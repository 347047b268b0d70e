"""Tests that are no ``f(args) == literal``: test code and program, each in its own process.

``judge`` runs where the test code is: it defines ``check(candidate)`` and calls it with a
stand-in for the entry point. Every call of the stand-in travels over a socket, as tagged
JSON, to ``serve``, which runs where the program is. So the program's process never holds the
test code or an expected value, and the test code never touches an object of the program's.

Both count a turn when a call begins and one when it ends; the servers that watch them hold a
process to its limits only while it is its turn.
"""

from __future__ import annotations

import builtins
import socket
from collections.abc import Mapping
from typing import Any

from persd.sandbox import chance, child, codec

TEST_FILE = "<test>"


class Gone(BaseException):
    """The program's process has ended; no ``except Exception`` of a test may hide it."""


class Broken(BaseException):
    """What came back is no answer of ours."""


class Raised(Exception):
    """What a program raised, where its type is none of Python's own."""


# --- the program's side -------------------------------------------------------------------


def serve(function: Any, frames: child.Frames, fd: int) -> None:
    """Answer calls until the judge hangs up."""
    with socket.socket(fileno=fd) as sock, sock.makefile("rb") as lines:
        for line in lines:
            frames.turn()
            answer = _answer(function, line, frames)
            frames.turn()
            sock.sendall(answer.encode("ascii") + b"\n")


def _answer(function: Any, line: bytes, frames: child.Frames) -> str:
    try:
        args, kwargs = codec.loads(line)
        before = codec.dumps(args)
        value = codec.dumps(function(*args, **kwargs))
        after = codec.dumps(args)
        if len(value) > frames.limit:
            value = codec.compact({"other": "too large"})
        return f'{{"v":{value},"a":{after if after != before else "null"}}}'
    except BaseException as error:
        frames.ballast.close()
        return codec.compact({"e": child.describe(error, frames.walled)})


# --- the test code's side -----------------------------------------------------------------


class Candidate:
    """The stand-in for the entry point: calls travel, plain data comes back."""

    def __init__(self, fd: int, frames: child.Frames, name: str) -> None:
        self.frames, self.__name__, self.calls = frames, name, 0
        self.sock = socket.socket(fileno=fd)
        self.lines = self.sock.makefile("rb")
        self.sent, self.error = "", None  # of the last call, like what follows
        self.value: tuple[Any] | None = None
        self.raised: BaseException | None = None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.value, self.error, self.raised = None, None, None
        self.sent = codec.dumps([list(args), kwargs])
        if '{"other":' in self.sent:
            raise TypeError("an argument of the call is not plain data")
        answer = self._exchange(self.sent)
        self.calls += 1
        if "e" in answer:
            self.error = answer["e"]
            self.raised = _exception(self.error)
            raise self.raised
        try:
            _update(args, answer.get("a"))
            self.value = (codec.decode(answer.get("v")),)
        except codec.CodecError:
            raise Broken from None
        return codec.unwrap(self.value[0])

    @property
    def call(self) -> str:
        """Source of the last call, as it was made."""
        if not self.sent:
            return ""
        args, kwargs = codec.loads(self.sent)
        parts = [codec.show(a) for a in args] + [f"{k}={codec.show(v)}" for k, v in kwargs.items()]
        return f"{self.__name__}({', '.join(parts)})"[:2000]

    @property
    def shown(self) -> str:
        """What the last call returned, as text; empty where it did not."""
        return "" if self.value is None else codec.show(self.value[0])[:2000]

    def _exchange(self, line: str) -> Any:
        self.frames.turn()
        try:
            self.sock.sendall(line.encode("ascii") + b"\n")
            answer = self.lines.readline(3 * self.frames.limit)
        except OSError:
            answer = b""
        self.frames.turn()
        if not answer:
            raise Gone
        try:
            parsed = codec.parse(answer)
        except codec.CodecError:
            raise Broken from None
        if not answer.endswith(b"\n") or not isinstance(parsed, dict) or not parsed:
            raise Broken
        return parsed


def _exception(error: Any) -> BaseException:
    """The builtin exception of that name with that message, so that a test may expect it."""
    name, message, *_ = [*map(str, error if isinstance(error, list) else ()), "Exception", ""]
    kind = getattr(builtins, name, None)
    if isinstance(kind, type) and issubclass(kind, Exception):
        try:
            return kind(message)
        except TypeError:
            pass
    return Raised(f"{name}: {message}")


def _update(args: tuple[Any, ...], changed: Any) -> None:
    """Arguments the program changed in place are changed in the test code too."""
    if changed is None:
        return
    for old, new in zip(args, codec.unwrap(codec.decode(changed)), strict=False):
        if isinstance(old, (list, bytearray)) and isinstance(new, (list, bytearray)):
            old[:] = new
        elif isinstance(old, (dict, set)) and type(old) is type(new):
            old.clear()
            old.update(new)


def judge(request: Mapping[str, Any], frames: child.Frames, peer: int) -> None:
    """Run the test code; the last frame says what came of it."""
    chance.start(0)
    candidate = Candidate(peer, frames, request["entry"])
    scope = child.new_scope()
    verdict: dict[str, Any] = {"k": "passed"}
    try:
        _prepare(request, scope, candidate)
        scope["check"](candidate)
    except BaseException as error:
        frames.ballast.close()
        verdict = _explain(error, candidate, request["source"])
    frames.send({"i": 0, **verdict})


def _prepare(request: Mapping[str, Any], scope: dict[str, Any], candidate: Candidate) -> None:
    """Setup and header define what tests rely on (HumanEval's ``poly``); then the tests."""
    child.execute(request["setup"], "<setup>", scope)
    for header in request["headers"]:
        try:
            child.execute(header, "<header>", scope)
            break
        except Exception:
            continue  # a header is a fragment; what cannot be defined is not there
    scope[request["entry"]] = candidate
    child.execute(request["test"], TEST_FILE, scope)


def _explain(error: BaseException, candidate: Candidate, source: str) -> dict[str, Any]:
    kind = "fault"
    if isinstance(error, (Gone, Broken)):
        kind = type(error).__name__.lower()
    elif candidate.raised is not None and error is candidate.raised:
        kind = "raised"
    elif isinstance(error, AssertionError):
        kind = "failed"
    elif candidate.calls:
        kind = "unfit"  # the test could not handle what the program returned
    raised = candidate.error if kind == "raised" else child.describe(error, False)
    return {
        "k": kind,
        "e": raised,
        "call": candidate.call,
        "value": candidate.shown,
        "source": _statement(error, source),
    }


def _statement(error: BaseException, source: str) -> str:
    """The statement of the test code in which the error arose."""
    import ast  # only where a test has failed: not worth its memory in every fork

    line, trace = None, error.__traceback__
    while trace is not None:
        here = trace.tb_frame.f_code.co_filename == TEST_FILE
        line, trace = trace.tb_lineno if here else line, trace.tb_next
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.Assert, ast.Expr, ast.Assign)) and node.lineno == line:
            return ast.unparse(node)[:500]
    return ""
