"""The server of a worker: one request in, one report out, over a Unix socket.

Started by ``persd.sandbox.worker`` with ``python -c``, never imported by the rest of persd.
It puts the cage on, then keeps zygotes (``zygote``): one for most programs, one for each set of
large packages that programs import. It is single-threaded, never runs a program, knows no
expected value, and takes what programs write as opaque bytes.

    request   4-byte length, JSON (programs, limits, ...); perhaps one descriptor
    report    4-byte length, JSON (how the process ended), then the frames as they came
"""

from __future__ import annotations

import gc
import importlib
import importlib.util
import json
import marshal
import os
import socket
import struct
import sys
import warnings
from collections.abc import Mapping
from functools import cache, lru_cache
from types import CodeType
from typing import Any

from persd.sandbox import chance, channel, check, child, cleanup
from persd.sandbox.cage import Cage, enter
from persd.sandbox.tame import is_tame
from persd.sandbox.watch import watch
from persd.sandbox.zygote import Zygote, descriptor_in, rlimits

#: What programs import most. Each module makes every fork a little dearer.
_PRELOADED = """
    bisect collections copy datetime functools heapq itertools json math operator random re
    string time typing
"""
#: What takes long to import, and what is loaded with it in a zygote of its own. Anything else
#: is there too, loaded when a program asks for it.
_SLOW = ("dataclasses", "decimal", "fractions", "hashlib", "inspect", "statistics", "textwrap")
_LARGE: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(_SLOW, _SLOW),
    **{name: (name,) for name in ("networkx", "pandas", "scipy", "sklearn", "sympy")},
    "numpy": ("numpy", "numpy.random", "numpy.linalg"),
}
_ZYGOTES = 4
#: Bytes of the largest request that is made ready while a program runs.
_AHEAD = 1 << 16
#: The report on a batch of which nothing could be run together.
_NOTHING = {"killed": "", "exit": 0, "signal": None, "cpu": 0.0, "wall": 0.0}


def main(fd: int, box: str, without: list[str]) -> None:
    """Serve until the socket closes. ``without``: layers of isolation to leave off."""
    if fd != 3:  # a low number: forks close what is below 256, whatever the caller had open
        os.dup2(fd, 3, inheritable=False)
        os.close(fd)
    sock = socket.socket(fileno=3)
    warnings.simplefilter("ignore")
    for name in _PRELOADED.split():
        importlib.import_module(name)
    chance.fix()
    os.environ.clear()
    for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.putenv(name, "1")  # for C libraries only: a buffer per core would cost all memory
    cage = enter(box, frozenset(without))
    os.chdir(cage.box)
    _hide()
    gc.collect()
    gc.freeze()
    gc.disable()
    server = Server(sock, cage)
    _send(sock, {"isolation": cage.name, "missing": cage.missing}, b"")
    while server.serve():
        pass


def _hide() -> None:
    """``import persd`` in a program means what is installed, not this skeleton of it."""
    for name in [name for name in sys.modules if name.split(".")[0] == "persd"]:
        del sys.modules[name]


def _send(sock: socket.socket, report: Mapping[str, Any], frames: bytes) -> None:
    head = json.dumps({**report, "bytes": len(frames)}).encode()
    sock.sendall(struct.pack(">I", len(head)) + head + frames)


class Server:
    """The requests of one socket, one after the other."""

    def __init__(self, sock: socket.socket, cage: Cage) -> None:
        self.sock, self.cage = sock, cage
        self.shared = channel.create()
        self.zygotes: dict[tuple[str, ...], Zygote] = {}
        self.ahead: Task | None = None
        self.zygote(())

    def zygote(self, modules: tuple[str, ...]) -> Zygote:
        """The zygote with these modules; the one not used for longest makes room."""
        found = self.zygotes.pop(modules, None)
        if found is None:
            if len(self.zygotes) >= _ZYGOTES:
                oldest = next(key for key in self.zygotes if key)
                self.zygotes.pop(oldest).close()
            found = Zygote(self.cage, self.shared, modules)
        self.zygotes[modules] = found
        return found

    def serve(self) -> bool:
        """One request; False: the next one is for a new worker."""
        task = self.ahead or receive(self.sock)
        self.ahead = None
        if task is None:
            return False
        report, frames = self.execute(task)
        _send(self.sock, report, frames)
        return report["killed"] != "abandoned" and self._tidy()

    def execute(self, task: Task) -> tuple[dict[str, Any], bytes]:
        """Run, watch. The report says how the process ended; the bytes are its frames."""
        if task.empty:
            return dict(_NOTHING), b""
        request = task.request
        request["walled"] = "namespaces" in self.cage.layers
        zygote = self.zygote(task.modules)
        pid = zygote.give(_packed(request), task.peer)
        if task.peer is not None:
            os.close(task.peer)
        if _is_there(self.sock):
            self.ahead = receive(self.sock)  # made ready while this one runs
        report, piped = watch(zygote, pid, self.sock.fileno(), request, self.shared)
        return report, channel.take(self.shared, piped)

    def _tidy(self) -> bool:
        """Nothing of the program is left. False where some of it resists."""
        if "seccomp" not in self.cage.layers:  # it may have started processes
            while self.zygotes:
                self.zygotes.popitem()[1].close()
            cleanup.end_strays()
            self.zygote(())
        return cleanup.empty(self.cage.box)


class Task:
    """A request, made ready: what can be compiled is, where text cannot harm the compiler; once,
    and in a process that no program is forked from."""

    def __init__(self, request: dict[str, Any], peer: int | None) -> None:
        self.request, self.peer = request, peer
        self.modules: tuple[str, ...] = ()
        """What its zygote has loaded."""
        request["rlimits"] = rlimits(request["limits"], request["cpu_total"])
        if request["mode"] == "judge":
            self._test()
        else:
            self._programs()

    @property
    def empty(self) -> bool:
        """Nothing of the batch can be run together."""
        return self.request["mode"] == "run" and not self.request["programs"]

    def _test(self) -> None:
        request = self.request
        request["setup"] = _fragment(request["setup"], "<setup>")
        request["headers"] = [_fragment(text, "<header>") for text in request["headers"]]
        request["test"] = _fragment(request["source"], check.TEST_FILE)

    def _programs(self) -> None:
        programs = self.request["programs"]
        for place, program in enumerate(programs):
            source = program["source"]
            program["code"] = _compiled(source) if _shallow(source) else None
            program["setup"] = _fragment(program["setup"], "<setup>")
            program["calls"] = [_call(text) for text in program["calls"]]
            if len(programs) > 1:
                program["place"] = place
        if len(programs) > 1:  # what is not tame is left to be run alone
            self.request["programs"] = [p for p in programs if p["code"] and is_tame(p["code"])]
        else:
            self.modules = _large(programs[0]["source"])


def receive(sock: socket.socket) -> Task | None:
    """One request, made ready; None at the end of the stream."""
    head, ancillary, _, _ = sock.recvmsg(4, socket.CMSG_SPACE(4), socket.MSG_WAITALL)
    if len(head) < 4:
        return None
    (size,) = struct.unpack(">I", head)
    body = sock.recv(size, socket.MSG_WAITALL)
    if len(body) < size:
        return None
    return Task(json.loads(body), descriptor_in(ancillary))


def _packed(request: dict[str, Any]) -> bytes:
    """The request as it is handed on; code nested too deep for that is compiled again there."""
    try:
        return marshal.dumps(request)
    except ValueError:
        for program in request["programs"]:
            program["code"] = None
        return marshal.dumps(request)


def _is_there(sock: socket.socket) -> bool:
    """Whether a whole request waits, so that nobody has to wait for the rest of it."""
    try:
        data = sock.recv(_AHEAD, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return False
    return len(data) >= 4 and len(data) >= 4 + struct.unpack(">I", data[:4])[0]


# --- what is done ahead of the program ----------------------------------------------------


def _compiled(source: str) -> CodeType | None:
    try:
        return child.compile_program(source)
    except Exception:
        return None  # the program's process meets the same error and reports it


def _shallow(source: str) -> bool:
    """Small, and too shallow to exhaust the compiler: such text is compiled in the server. Each
    ``finally`` is compiled several times, with all that is in it."""
    if len(source) > 10_000 or "\0" in source or source.count("finally") > 4:
        return False
    lines = source.splitlines()
    return all(len(line) < 400 for line in lines) and sum(map(source.count, "([{")) < 400


@lru_cache(maxsize=4096)
def _call(text: str) -> bytes | str:
    """A call as code, or as it is where that is for the program's process to see to."""
    if len(text) > 1_000 or not _shallow(text):
        return text
    try:
        return marshal.dumps(compile(text.strip(), "<call>", "eval", dont_inherit=True))
    except Exception:
        return text


@lru_cache(maxsize=256)
def _fragment(text: str, name: str) -> bytes | str:
    """Setup, header or test code as code, or as it is."""
    if not text or not _shallow(text):
        return text
    try:
        return marshal.dumps(compile(text, name, "exec", dont_inherit=True))
    except Exception:
        return text


def _large(source: str) -> tuple[str, ...]:
    """The modules of the zygote that a program is to be forked from."""
    if "import" not in source:
        return ()
    named = [name for name in _LARGE if name in source and _imports(source, name)]
    return tuple(sorted({part for name in named for part in _LARGE[name]}))


def _imports(source: str, name: str) -> bool:
    if not _installed(name):
        return False
    for line in source.splitlines():
        words = line.replace(",", " ").split()
        named = [word.split(".")[0] for word in words[1:]]
        if words[:1] in (["import"], ["from"]) and name in named:
            return True
    return False


@cache
def _installed(name: str) -> bool:
    return importlib.util.find_spec(name) is not None
