"""The zygote: a warm process that always has one child ready, waiting for its program.

Forked once from the server. All it does is fork, wait and tell, so that it touches few of its
own pages: a process that works between forks pays for copying its memory on every write, and
so do its children. The next child is forked while the current one runs.

    server -> zygote   one byte: the waiting child has been given its program
    zygote -> server   how a child ended, and the process id of the one that waits (``_NEWS``)
    server -> child    4-byte length, marshalled request; perhaps one descriptor
"""

from __future__ import annotations

import array
import fcntl
import gc
import importlib
import marshal
import mmap
import os
import resource
import signal
import socket
import struct
import termios
from collections.abc import Mapping
from typing import Any

from persd.sandbox import channel, check, child, linux
from persd.sandbox.cage import Cage

_RESULT_FD, _PEER_FD, _REQUEST_FD = 3, 4, 5
_CONTROL, _EVEN, _ODD, _RESULT = 200, 201, 202, 203


def _limit(name: str) -> int:
    """The number of a limit; one that no system has where this one lacks it."""
    return int(getattr(resource, f"RLIMIT_{name}", 999))


#: Wait status, user and system microseconds, whether it had stopped itself, the next child.
_NEWS = struct.Struct("=iQQ?i")
_LENGTH = struct.Struct(">I")
#: How long a child may take to read its request.
_SEND_SECONDS = 30.0


class Ended:
    """How a child ended."""

    def __init__(self, status: int, cpu: float, stopped: bool) -> None:
        code = os.waitstatus_to_exitcode(status)
        self.exit = code if code >= 0 else None
        self.signal = -code if code < 0 else None
        self.cpu, self.stopped = cpu, stopped


class Zygote:
    """The server's side. Raises OSError, EOFError where the zygote has died."""

    def __init__(self, cage: Cage, shared: mmap.mmap, modules: tuple[str, ...] = ()) -> None:
        """Fork a zygote that has ``modules`` imported beside what the server has."""
        self.control, control = socket.socketpair()
        even, even_end = socket.socketpair()
        odd, odd_end = socket.socketpair()
        self.requests = (even, odd)
        self.results, results = os.pipe()
        os.set_blocking(self.results, False)
        self.turn = 0
        self.pid = os.fork()
        if self.pid == 0:
            ends = [s.fileno() for s in (control, even_end, odd_end)]
            _Nursery([*ends, results], cage, shared, modules)  # never returns
        for end in (control, even_end, odd_end):
            end.close()
        for sock in self.requests:
            sock.settimeout(_SEND_SECONDS)
        os.close(results)
        self.child = self._news()[1]

    def give(self, request: bytes, peer: int | None) -> int:
        """Hand the waiting child its program; its process id."""
        sock = self.requests[self.turn]
        self.turn = 1 - self.turn
        data = _LENGTH.pack(len(request)) + request
        if peer is None:
            sock.sendall(data)
        else:
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [peer]))]
            sock.sendall(data[sock.sendmsg([data], rights) :])
        self.control.sendall(b"g")
        return self.child

    def ended(self) -> Ended:
        """How the child that was given its program ended; waits for it."""
        end, self.child = self._news()
        if _unread(self.requests[1 - self.turn]):
            raise EOFError("a child ended before it had its program")
        return end

    def _news(self) -> tuple[Ended, int]:
        data = self.control.recv(_NEWS.size, socket.MSG_WAITALL)
        if len(data) < _NEWS.size:
            raise EOFError("the zygote has ended")
        status, user, system, stopped, following = _NEWS.unpack(data)
        return Ended(status, (user + system) / 1e6, stopped), following

    def close(self) -> None:
        """End the zygote and the child that waits."""
        for sock in (self.control, *self.requests):
            sock.close()
        os.close(self.results)
        for pid in (self.child, self.pid):
            try:
                os.kill(pid, signal.SIGKILL)
            except OSError:
                continue
        os.waitpid(self.pid, 0)


def _unread(sock: socket.socket) -> bool:
    """Whether something that was sent has not been read: the next child must never have it."""
    if not linux.LINUX:
        return False
    return fcntl.ioctl(sock, termios.TIOCOUTQ, b"\0\0\0\0") != b"\0\0\0\0"


class _Nursery:
    """The zygote's own side."""

    def __init__(
        self,
        ends: list[int],
        cage: Cage,
        shared: mmap.mmap,
        modules: tuple[str, ...],
    ) -> None:
        try:
            self.cage = cage
            _keep(ends)
            _die_with_parent(cage)
            for name in modules:
                _load(name)
            self.frames = child.Frames(channel.Writer(shared, _RESULT_FD))
            child.capture(self.frames.out)
            for number, value in _FIXED_LIMITS:
                set_limit(number, value)
            cage.restrict()
            gc.collect()
            gc.freeze()
            gc.disable()
            self.serve()
        finally:
            os._exit(71)

    def serve(self) -> None:
        turn, waiting = 0, self.fork(0)
        news = _NEWS.pack(0, 0, 0, False, waiting)
        while True:
            os.write(_CONTROL, news)
            if not os.read(_CONTROL, 1):
                return
            turn = 1 - turn
            current, waiting = waiting, self.fork(turn)
            status, usage, stopped = _wait(current)
            user, system = int(usage.ru_utime * 1e6), int(usage.ru_stime * 1e6)
            news = _NEWS.pack(status, user, system, stopped, waiting)

    def fork(self, turn: int) -> int:
        pid = os.fork()
        if pid == 0:
            _run_child((_EVEN, _ODD)[turn], self.cage, self.frames)
        return pid


def _keep(ends: list[int]) -> None:
    """Only these descriptors and 0-2 stay open, under fixed numbers."""
    for place, fd in enumerate(ends):
        os.dup2(fd, _CONTROL + place, inheritable=False)
    os.closerange(3, _CONTROL)
    os.closerange(_CONTROL + len(ends), 256)


def _die_with_parent(cage: Cage) -> None:
    if linux.LINUX and "namespaces" not in cage.layers:  # there the first process takes all along
        linux.prctl(linux.PR_SET_PDEATHSIG, signal.SIGKILL)


def _load(name: str) -> None:
    """Import a module ahead of the programs; whether it is there is for them to find out."""
    try:
        importlib.import_module(name)
    except Exception:
        return


def _wait(pid: int) -> tuple[int, resource.struct_rusage, bool]:
    """The end of a child; one that stops itself is ended."""
    stopped = False
    while True:
        _, status, usage = os.wait4(pid, os.WUNTRACED)
        if not os.WIFSTOPPED(status):
            return status, usage, stopped
        stopped = True
        os.kill(pid, signal.SIGKILL)


# --- the program's own process --------------------------------------------------------------


def _run_child(request_fd: int, cage: Cage, frames: child.Frames) -> None:
    """From the fork to the end. What needs no request is done before it comes."""
    status = 70
    try:
        if "seccomp" not in cage.layers:  # it may start processes: they are ended as a group
            os.setsid()
            _die_with_parent(cage)
        _descriptors(request_fd)
        cage.seal()
        request, peer = _receive()
        if request is not None:
            for name, value in request["rlimits"]:
                set_limit(name, value)
            frames.begin(request)
            gc.enable()
            _work(request, frames, peer)
            status = 0
    finally:
        os._exit(status)


def _descriptors(request_fd: int) -> None:
    """Only 0-2 (all /dev/null), the result pipe and the request socket stay open."""
    os.dup2(_RESULT, _RESULT_FD, inheritable=False)
    os.dup2(request_fd, _REQUEST_FD, inheritable=False)
    os.closerange(_REQUEST_FD + 1, 256)


def _receive() -> tuple[dict[str, Any] | None, int | None]:
    """The request; the descriptor of the peer where one comes with it, at its number."""
    with socket.socket(fileno=_REQUEST_FD) as sock:
        head, ancillary, _, _ = sock.recvmsg(4, socket.CMSG_SPACE(4), socket.MSG_WAITALL)
        if len(head) < 4:
            return None, None
        (size,) = _LENGTH.unpack(head)
        body = sock.recv(size, socket.MSG_WAITALL)
    # written by the server, which no program can write to
    request = marshal.loads(body)
    peer = descriptor_in(ancillary)
    if peer is not None and peer != _PEER_FD:
        os.dup2(peer, _PEER_FD, inheritable=False)
        os.close(peer)
    return request, peer


def descriptor_in(ancillary: list[tuple[int, int, bytes]]) -> int | None:
    """The descriptor that came with a message."""
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS and len(data) >= 4:
            return array.array("i", data[:4])[0]
    return None


def _work(request: dict[str, Any], frames: child.Frames, peer: int | None) -> None:
    if request["mode"] == "judge":
        check.judge(request, frames, _PEER_FD)
        return
    entry = child.run_all(request["programs"], frames)
    if entry is not None and peer is not None:
        check.serve(entry, frames, _PEER_FD)


_FIXED_LIMITS = ((_limit("NOFILE"), 64), (_limit("CORE"), 0))


def rlimits(limits: Mapping[str, Any], cpu_total: float) -> list[tuple[int, int]]:
    """What ``set_limit`` is to be called with for a program."""
    megabyte = 1 << 20
    memory = int(limits["memory_mb"]) * megabyte
    return [
        (_limit("DATA"), memory),
        (_limit("AS"), memory + 2048 * megabyte),
        (_limit("CPU"), int(cpu_total) + 2),
        (_limit("FSIZE"), int(limits["file_mb"]) * megabyte),
    ]


def set_limit(name: int, value: int) -> None:
    """Soft and hard, for good."""
    try:
        resource.setrlimit(name, (value, value))
    except (ValueError, OSError):
        return  # not on this system, or a lower limit is already there
