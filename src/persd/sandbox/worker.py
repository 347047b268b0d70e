"""One fork server, seen from outside: started, asked, replaced.

A server is started with ``subprocess`` (an exec, never a fork of this process with its threads
or its CUDA), with an empty environment, and is given one end of a socket.
"""

from __future__ import annotations

import array
import contextlib
import json
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from persd.sandbox.program import (
    Outcome,
    Program,
    judge_request,
    parse_frames,
    program_request,
    read_outcome,
)

_START_SECONDS = 60.0
_BOOT = """
import sys, types
for name, path in (("persd", {root!r}), ("persd.sandbox", {here!r})):
    module = types.ModuleType(name)
    module.__path__ = [path]
    sys.modules[name] = module
from persd.sandbox import server
server.main({fd}, {box!r}, {without!r})
"""


class WorkerDied(Exception):
    """A server's socket closed or kept silent."""


class Worker:
    """One fork server and the socket to it. Raises WorkerDied, OSError where none starts."""

    def __init__(self, without: tuple[str, ...] = ()) -> None:
        self.box = tempfile.mkdtemp(prefix="persd-box-")
        self._remove = weakref.finalize(self, shutil.rmtree, self.box, ignore_errors=True)
        self.sock, theirs = socket.socketpair()
        with theirs:
            self.process = _start(theirs.fileno(), self.box, without)
        self.sock.settimeout(_START_SECONDS)
        try:
            hello, _ = self.receive()
        except WorkerDied:
            self.close()
            raise
        self.isolation = str(hello["isolation"])
        self.missing: dict[str, str] = hello["missing"]

    def send(self, request: Mapping[str, Any], descriptor: int | None = None) -> None:
        body = json.dumps(request).encode()
        data = struct.pack(">I", len(body)) + body
        try:
            if descriptor is not None:
                rights = array.array("i", [descriptor])
                level, kind = socket.SOL_SOCKET, socket.SCM_RIGHTS
                sent = self.sock.sendmsg([data[:4]], [(level, kind, rights)])
                data = data[sent:]
            self.sock.settimeout(_patience(request))
            self.sock.sendall(data)
        except OSError as error:
            raise WorkerDied(f"the worker's socket: {error}") from None

    def receive(self) -> tuple[dict[str, Any], bytes]:
        try:
            (size,) = struct.unpack(">I", self._exactly(4))
            report = json.loads(self._exactly(size))
            return report, self._exactly(int(report["bytes"]))
        except (OSError, ValueError, KeyError) as error:
            raise WorkerDied(f"no report from the worker: {error!r}") from None

    def _exactly(self, size: int) -> bytes:
        data = bytearray()
        while len(data) < size:
            part = self.sock.recv(min(size - len(data), 1 << 20))
            if not part:
                raise OSError("closed")
            data += part
        return bytes(data)

    def hang_up(self) -> None:
        """The worker ends its program, if one runs, and itself; ``receive`` raises."""
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """End the worker and wait for it."""
        self.hang_up()
        self.sock.close()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._remove()


def _patience(request: Mapping[str, Any]) -> float:
    """Seconds after which a silent worker is given up: beyond every limit it enforces."""
    limits, tests = request["limits"], len(request["calls"]) + 3
    longest = max(limits["cpu_seconds"], limits["load_seconds"]) * limits["wall_factor"] + 6
    return float(60 + tests * longest)


def _start(fd: int, box: str, without: tuple[str, ...]) -> subprocess.Popen[bytes]:
    here = Path(__file__).resolve().parent
    boot = _BOOT.format(
        root=str(here.parent), here=str(here), fd=fd, box=box, without=list(without)
    )
    return subprocess.Popen(
        [sys.executable, "-s", "-P", "-B", "-X", "utf8", "-c", boot],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        pass_fds=(fd,),
        env={"PYTHONHASHSEED": "0"},
        cwd="/",
        start_new_session=True,
    )


class Pair:
    """What one thread owns: a worker for programs, one for test code, both started when needed."""

    def __init__(self, without: tuple[str, ...]) -> None:
        self.without = without
        self.workers: dict[str, Worker] = {}
        self.closing = False

    def worker(self, role: str) -> Worker:
        if role not in self.workers:
            self.workers[role] = Worker(self.without)
        return self.workers[role]

    def execute(self, program: Program) -> Outcome:
        """The program's outcome; after trouble of ours, of one more try on fresh workers."""
        detail = ""
        for _ in range(2):
            try:
                return self._once(program)
            except (WorkerDied, OSError) as error:
                detail = str(error)
                self.close()
            if self.closing:
                return Outcome(ran=False, detail="the sandbox was closed")
        return Outcome(ran=False, detail=detail)

    def _once(self, program: Program) -> Outcome:
        worker = self.worker("program")
        if program.check is None:
            worker.send(program_request(program))
            return read_outcome(*worker.receive(), worker.isolation)
        judge = self.worker("judge")
        left, right = socket.socketpair()
        with left, right:
            worker.send(program_request(program), left.fileno())
            judge.send(judge_request(program), right.fileno())
        done = worker.receive()
        report, frames = judge.receive()
        parsed, _ = parse_frames(frames)
        last = parsed[-1] if parsed else {}
        return read_outcome(*done, worker.isolation, check=last, check_killed=report["killed"])

    def hang_up(self) -> None:
        """Let a program that runs now come to its end, from any thread."""
        self.closing = True
        for worker in list(self.workers.values()):
            worker.hang_up()

    def close(self) -> None:
        while self.workers:
            self.workers.popitem()[1].close()
