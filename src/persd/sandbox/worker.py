"""One worker process, seen from outside: started, written to, read from, ended.

A worker is started with ``subprocess`` (an exec, never a fork of this process with its threads
or its CUDA), with an empty environment, and is given one end of a socket. Nothing here waits:
requests are queued and go out, reports come in, as the socket allows.
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
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from persd.sandbox import seatbelt

_BOOT = """
import os, sys, types
for name, path in (("persd", {root!r}), ("persd.sandbox", {here!r})):
    module = types.ModuleType(name)
    module.__path__ = [path]
    sys.modules[name] = module
register, os.register_at_fork = os.register_at_fork, lambda **_: None
from persd.sandbox import server  # each program's randomness is fixed: no new seed at each fork
os.register_at_fork = register
server.main({fd}, {box!r}, {without!r})
"""
_LENGTH = struct.Struct(">I")
_CHUNK = 1 << 16  # bytes: a larger buffer would be mapped and unmapped for each report

Report = tuple[dict[str, Any], bytes]


class WorkerDied(Exception):
    """A worker's process has ended, keeps silent, or none could be started."""


class Worker:
    """One worker process and the socket to it. Raises WorkerDied where none starts."""

    def __init__(self, without: tuple[str, ...] = (), seed: int = 0) -> None:
        try:
            self.box = tempfile.mkdtemp(prefix="persd-box-")
            self._remove = weakref.finalize(self, shutil.rmtree, self.box, ignore_errors=True)
            self.sock, theirs = socket.socketpair()
            with theirs:
                self.process = _start(theirs.fileno(), self.box, without, seed)
        except OSError as error:
            raise WorkerDied(f"no worker could be started: {error}") from None
        self.sock.setblocking(False)
        self._out: deque[tuple[memoryview, socket.socket | None]] = deque()
        self._in = bytearray()
        self.isolation = ""
        """Known with its first report."""
        self.missing: dict[str, str] = {}

    @property
    def writing(self) -> bool:
        """Whether something queued has not gone out yet."""
        return bool(self._out)

    def send(self, request: Mapping[str, Any], peer: socket.socket | None = None) -> None:
        """Queue a request; ``peer`` travels along and is closed here. Raises WorkerDied."""
        body = json.dumps(request).encode()
        self._out.append((memoryview(_LENGTH.pack(len(body)) + body), peer))
        if len(self._out) == 1:
            self.flush()

    def flush(self) -> None:
        """Write what the socket takes now. Raises WorkerDied."""
        try:
            while self._out:
                data, peer = self._out[0]
                if peer is None:
                    sent = self.sock.send(data)
                else:
                    rights = array.array("i", [peer.fileno()])
                    level, kind = socket.SOL_SOCKET, socket.SCM_RIGHTS
                    sent = self.sock.sendmsg([data], [(level, kind, rights)])
                    peer.close()
                if sent == len(data):
                    self._out.popleft()
                else:
                    self._out[0] = (data[sent:], None)
        except BlockingIOError:
            return
        except OSError as error:
            raise WorkerDied(f"the worker's socket: {error}") from None

    def read(self) -> list[Report]:
        """The reports that have come whole since the last time. Raises WorkerDied."""
        try:
            while True:
                part = self.sock.recv(_CHUNK)
                if not part:
                    raise WorkerDied("the worker has ended")
                self._in += part
                if len(part) < _CHUNK:
                    break
        except BlockingIOError:
            pass
        except OSError as error:
            raise WorkerDied(f"the worker's socket: {error}") from None
        reports = list(self._whole())
        if reports and not self.isolation:
            hello, _ = reports.pop(0)
            self.isolation, self.missing = str(hello["isolation"]), hello["missing"]
        return reports

    def _whole(self) -> list[Report]:
        found, start = [], 0
        while len(self._in) - start >= 4:
            (size,) = _LENGTH.unpack_from(self._in, start)
            body = start + 4 + size
            if len(self._in) < body:
                break
            try:
                report = json.loads(self._in[start + 4 : body])
                end = body + int(report["bytes"])
            except (ValueError, KeyError) as error:
                raise WorkerDied(f"no report from the worker: {error!r}") from None
            if len(self._in) < end:
                break
            found.append((report, bytes(self._in[body:end])))
            start = end
        del self._in[:start]
        return found

    def hang_up(self) -> None:
        """The worker ends its program, if one runs, and itself; ``read`` then raises."""
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """End the worker and wait for it."""
        self.hang_up()
        self.sock.close()
        for _, peer in self._out:
            if peer is not None:
                peer.close()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._remove()


def _start(fd: int, box: str, without: tuple[str, ...], seed: int) -> subprocess.Popen[bytes]:
    here = Path(__file__).resolve().parent
    boot = _BOOT.format(
        root=str(here.parent), here=str(here), fd=fd, box=box, without=list(without)
    )
    argv = [sys.executable, "-s", "-P", "-B", "-X", "utf8", "-c", boot]
    return subprocess.Popen(
        seatbelt.command(argv, box, without),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        pass_fds=(fd,),
        env={"PYTHONHASHSEED": str(seed), "LD_BIND_NOW": "1"},
        cwd="/",
        start_new_session=True,
    )
