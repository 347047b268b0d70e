"""What happens in the process of one program: define, call, send a frame a test.

Runs in a fork of the fork server, and never returns from ``run``. It knows the program and
the calls, never an expected value. Everything here is at the program's mercy: the judge
believes nothing of it but the values themselves, which it compares on its own side.

A frame is one line of JSON: ``{"i": index, "v": value}`` or ``{"i": index, "e": raised}``,
with ``"o"`` the tail of what was printed, ``"s"`` the value's ``str``, ``"t"`` CPU microseconds.
Index -2 is the setup (sent where there is one), -1 the program's own top level. The process
ends with the last of them: threads, finalisers and exit handlers are not waited for.
"""

# ruff: noqa: S102, S307 -- this is the place where untrusted code runs
from __future__ import annotations

import errno
import io
import marshal
import mmap
import sys
import time
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from persd.sandbox import chance, channel, codec

#: Index of the frame before each program of a batch.
NEXT = -3
FILENAME = "<program>"
MODULE = "solution"
_MESSAGE = 500
_DEPTH = 1000

_cpu = time.thread_time_ns  # exact, where the process clock under a CPU limit moves by ticks
_set_depth = sys.setrecursionlimit


class Tail(io.BufferedIOBase):
    """The bytes side of ``Out``: ``sys.stdout.buffer``."""

    def __init__(self, out: Out) -> None:
        self.out = out

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self.out.keep(bytes(data[-self.out.limit :]), len(data))
        return len(data)


class Out(io.TextIOBase):
    """Stands in for ``sys.stdout``: keeps the last ``limit`` bytes, notes if more was written."""

    encoding = "utf-8"
    errors = "backslashreplace"

    def __init__(self) -> None:
        self.limit, self.kept, self.cut = 0, bytearray(), False
        self.buffer = Tail(self)

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return 1

    def write(self, text: str) -> int:
        end = text[-self.limit :] if len(text) > self.limit else text
        self.keep(end.encode("utf-8", "backslashreplace"), len(text))
        return len(text)

    def reconfigure(self, **_: Any) -> None:
        """As it is, whatever a program asks for."""

    def keep(self, data: bytes, size: int) -> None:
        self.kept += data
        self.cut = self.cut or size > self.limit
        if len(self.kept) > 4 * self.limit:
            del self.kept[: -self.limit]
            self.cut = True

    @property
    def some(self) -> bool:
        """Whether anything was printed since the last time."""
        return self.cut or len(self.kept) > 0

    def take(self) -> tuple[str, bool]:
        """What was kept since the last time, and whether it is only the end of it."""
        cut = self.cut or len(self.kept) > self.limit
        text = self.kept[-self.limit :].decode("utf-8", "backslashreplace")
        self.kept, self.cut = bytearray(), False
        return text, cut


class Frames:
    """Writes what the program did, a frame a test."""

    def __init__(self, writer: channel.Writer) -> None:
        self.writer, self.limit = writer, 0
        self.texts = self.walled = False
        self.out = Out()
        self.ballast = mmap.mmap(-1, 1 << 20, mmap.MAP_PRIVATE)  # freed to report a MemoryError
        self.started = 0
        self.spent = False
        """Memory ran out: every further test would fill it again, a second at a time."""

    def begin(self, request: Mapping[str, Any]) -> None:
        """The limits of a request, and whether files beyond the sandbox do not exist here."""
        limits = request["limits"]
        self.limit, self.out.limit = limits["value_bytes"], limits["output_bytes"]
        self.walled = request["walled"]

    def start(self) -> None:
        if self.out.some:
            self.out.take()
        self.started = _cpu()

    def turn(self) -> None:
        """A call across to or from test code begins or ends: its clock starts anew."""
        self.writer.tick()

    def value(self, index: int, value: Any) -> None:
        frame: dict[str, Any] = {"i": index}
        body = codec.dumps(value)
        if len(body) > self.limit:
            kind = codec.type_name(type(value))
            body = codec.compact({"other": f"{kind} of {len(body)} bytes, too large"})
        if self.texts:
            frame["s"] = str(value)[: self.out.limit]
        self.send(frame, body)

    def raised(self, index: int, error: BaseException, **more: Any) -> None:
        self.ballast.close()
        self.spent = isinstance(error, MemoryError)
        _set_depth(_DEPTH)
        self.send({"i": index, "e": describe(error, self.walled), **more})

    def send(self, frame: dict[str, Any], body: str = "") -> None:
        frame["t"] = (_cpu() - self.started) // 1000
        if self.out.some:
            frame["o"], cut = self.out.take()
            if cut:
                frame["c"] = True
        head = codec.compact(frame)
        line = f'{head[:-1]},"v":{body}}}\n' if body else f"{head}\n"
        self.writer.put(line.encode("ascii"))


def run_all(programs: Sequence[Mapping[str, Any]], frames: Frames) -> Any:
    """Run one program after the other (more than one only in the batch lane); the entry point
    of the last where all of it worked, else None."""
    entry = None
    for program in programs:
        if "place" in program:
            frames.send({"i": NEXT, "n": program["place"]})
        entry = run(program, frames)
    return entry


def run(program: Mapping[str, Any], frames: Frames) -> Any:
    """Define the program and make the calls; errors of every kind become frames.

    Returns the entry point where all of it worked, else None.
    """
    chance.start(program["seed"])
    frames.texts = program["texts"]
    scope = new_scope()
    fine = _define(program, scope, frames)
    for index, call in enumerate(program["calls"] if fine else ()):
        fine = _call(index, call, scope, frames) and fine
        if frames.spent or (not fine and program["stop"]):
            break
    return scope.get(program["entry"]) if fine else None


def new_scope() -> dict[str, Any]:
    module = types.ModuleType(MODULE)
    module.__dict__["__builtins__"] = __builtins__
    sys.modules[MODULE] = module
    return module.__dict__


def capture(out: Out) -> None:
    """From here on what is printed goes to ``out``; what goes to descriptors 1 and 2 is lost."""
    sys.stdout = out
    sys.argv = [""]


def _define(program: Mapping[str, Any], scope: dict[str, Any], frames: Frames) -> bool:
    if program["setup"] and not _setup(program["setup"], scope, frames):
        return False
    frames.start()
    code = program["code"]
    if code is None:
        try:
            code = compile_program(program["source"])
        except BaseException as error:
            frames.raised(-1, error, k="syntax")
            return False
    try:
        exec(code, scope)
    except BaseException as error:
        frames.raised(-1, error, k="load")
        return False
    entry = program["entry"]
    if entry and not callable(scope.get(entry)):
        frames.raised(-1, NameError(f"name {entry!r} is not defined"), k="missing")
        return False
    frames.send({"i": -1})
    return True


def compile_program(source: str) -> types.CodeType:
    """The program's code object. Raises SyntaxError and what else compile() raises."""
    source.encode("utf-8")
    return compile(source.removeprefix("\ufeff"), FILENAME, "exec", dont_inherit=True)


def _setup(source: str | bytes, scope: dict[str, Any], frames: Frames) -> bool:
    try:
        execute(source, "<setup>", scope)
    except BaseException as error:
        frames.raised(-2, error)
        return False
    frames.send({"i": -2})
    return True


def execute(source: str | bytes, name: str, scope: dict[str, Any]) -> None:
    """Run source, or what the server has compiled it to."""
    if isinstance(source, bytes):
        exec(marshal.loads(source), scope)
    else:
        exec(compile(source, name, "exec", dont_inherit=True), scope)


def _call(index: int, call: str | bytes, scope: dict[str, Any], frames: Frames) -> bool:
    """One test. Its code builds its arguments, so they are fresh."""
    frames.start()
    try:
        evaluate = _compile_call(call)
    except BaseException as error:
        frames.raised(index, error, k="call")
        return False
    try:
        frames.value(index, evaluate(scope))
        return True
    except BaseException as error:
        frames.raised(index, error)
        return False


def _compile_call(call: str | bytes) -> Callable[[dict[str, Any]], Any]:
    """An expression; or statements of which the last is one (objects built before the call)."""
    if isinstance(call, bytes):  # compiled and written by the server
        known = marshal.loads(call)
        return lambda scope: eval(known, scope)
    try:
        code = compile(call.strip(), "<call>", "eval", dont_inherit=True)
        return lambda scope: eval(code, scope)
    except SyntaxError:
        import ast  # rarely needed: not worth its memory in every fork

        tree = ast.parse(call.strip())
        if len(tree.body) < 2 or not isinstance(tree.body[-1], ast.Expr):
            raise
    last = compile(ast.Expression(tree.body.pop().value), "<call>", "eval", dont_inherit=True)  # type: ignore[attr-defined]
    first = compile(tree, "<call>", "exec", dont_inherit=True)

    def evaluate(scope: dict[str, Any]) -> Any:
        exec(first, scope)
        return eval(last, scope)

    return evaluate


def describe(error: BaseException, walled: bool) -> list[Any]:
    """[type name, message, line of the program or None, errno or None], nothing made safe."""
    try:
        bare = isinstance(error, SyntaxError) and error.filename == FILENAME
        message = str(error.msg if bare else error)[:_MESSAGE]  # type: ignore[attr-defined]
    except BaseException:
        message = ""
    name = codec.type_name(type(error)).removeprefix("__main__.")
    return [name, message, _line(error), _errno(error, walled)]


def _errno(error: BaseException, walled: bool) -> int | None:
    """The error's number; EPERM for a file that only this sandbox does not have."""
    if not isinstance(error, OSError) or type(error.errno) is not int:
        return None
    elsewhere = isinstance(error.filename, str) and error.filename.startswith("/")
    missing = walled and elsewhere and error.errno == errno.ENOENT
    return errno.EPERM if missing else error.errno


def _line(error: BaseException) -> int | None:
    if isinstance(error, SyntaxError) and error.filename == FILENAME:
        return error.lineno if type(error.lineno) is int else None
    line, trace = None, error.__traceback__
    for _ in range(100 * _DEPTH):
        if trace is None:
            break
        if trace.tb_frame.f_code.co_filename == FILENAME:
            line = trace.tb_lineno
        trace = trace.tb_next
    return line
