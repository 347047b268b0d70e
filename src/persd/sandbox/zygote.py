"""The zygote: a warm process that always has one child ready, waiting for its program.

Forked once from the server. All it does is fork, wait and tell, so that it touches few of its
own pages: a process that works between forks pays for copying its memory on every write, and
so do its children. The next child is forked while the current one runs.

    server -> zygote   one byte: the waiting child has been given its program
    zygote -> server   how a child ended, and the process id of the one that waits (``_NEWS``)
    server -> child    4-byte length, marshalled request; perhaps one descriptor
"""

from __future__ import annotations

import _socket
import gc
import importlib
import marshal
import mmap
import os
import resource
import signal
import socket
import struct
import sys
from collections.abc import Callable, Mapping
from typing import Any

from persd.sandbox import channel, check, child, linux
from persd.sandbox.cage import Cage

_RESULT_FD, _PEER_FD = 3, 4
_CONTROL, _EVEN, _ODD = 200, 201, 202
#: Bytes of a request that are asked for at first: nearly always all of it.
_FIRST = 1 << 14


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
            rights = peer.to_bytes(4, sys.byteorder)
            sent = sock.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
            sock.sendall(data[sent:])
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
    memory = sock.getsockopt(socket.SOL_SOCKET, linux.SO_MEMINFO, 64)
    place = 4 * linux.SK_MEMINFO_WMEM_ALLOC
    return any(memory[place : place + 4])


class _Nursery:
    """The zygote's own side."""

    def __init__(
        self, ends: list[int], cage: Cage, shared: mmap.mmap, modules: tuple[str, ...]
    ) -> None:
        try:
            _keep(ends)
            if not _walled(cage):
                _die_with_parent()
            for name in modules:
                _load(name)
            frames = child.Frames(channel.Writer(shared, _RESULT_FD))
            child.capture(frames.out)
            for number, value in _FIXED_LIMITS:
                set_limit(number, (value, value))
            requests = (_socket.socket(fileno=_EVEN), _socket.socket(fileno=_ODD))
            cage.restrict()
            seal = _sealing(cage)
            gc.collect()
            gc.freeze()
            gc.disable()
            _serve(requests, seal, frames)
        finally:
            os._exit(71)


def _serve(
    requests: tuple[_socket.socket, ...], seal: Callable[[], None], frames: child.Frames
) -> None:
    """Fork, tell, wait. All in one function: what a process touches between forks, it and its
    children pay for."""
    fork, wait, read, write, pack = os.fork, os.wait4, os.read, os.write, _NEWS.pack
    news, turn, current = (0, 0, 0, False), 0, 0
    while True:
        waiting = fork()
        if waiting == 0:
            _run_child(requests[turn], seal, frames)
        if current:
            _, status, usage = wait(current, os.WUNTRACED)
            stopped = os.WIFSTOPPED(status)
            if stopped:  # it has stopped itself
                os.kill(current, signal.SIGKILL)
                _, status, usage = wait(current, 0)
            news = (status, int(usage[0] * 1e6), int(usage[1] * 1e6), stopped)
        write(_CONTROL, pack(*news, waiting))
        if not read(_CONTROL, 1):
            return
        turn, current = 1 - turn, waiting


def _keep(ends: list[int]) -> None:
    """Only these descriptors and 0-2 stay open, under fixed numbers."""
    for place, fd in enumerate(ends):
        os.dup2(fd, _CONTROL + place, inheritable=False)
    os.closerange(3, _CONTROL)
    os.dup2(_CONTROL + len(ends) - 1, _RESULT_FD, inheritable=False)
    os.closerange(_CONTROL + len(ends) - 1, 256)


def _walled(cage: Cage) -> bool:
    """Whether the first process of a namespace takes all others along when it ends."""
    return "namespaces" in cage.layers


def _die_with_parent() -> None:
    if linux.LINUX:
        linux.prctl(linux.PR_SET_PDEATHSIG, signal.SIGKILL)


def _sealing(cage: Cage) -> Callable[[], None]:
    """What a program's process does first."""
    seal = cage.seal()
    if seal is not None and _walled(cage):
        return seal

    def alone() -> None:
        os.setsid()  # without a seal it may start processes: they are ended as a group
        _die_with_parent()
        if seal is not None:
            seal()

    return alone


def _load(name: str) -> None:
    """Import a module ahead of the programs; whether it is there is for them to find out."""
    try:
        importlib.import_module(name)
    except Exception:
        return


# --- the program's own process --------------------------------------------------------------


def _run_child(request: _socket.socket, seal: Callable[[], None], frames: child.Frames) -> None:
    """From the fork to the end. What needs no request is done before it comes."""
    status = 70
    try:
        os.close(_CONTROL)  # it tells the server that the zygote has ended
        seal()
        data, ancillary, _, _ = request.recvmsg(_FIRST, 32)
        if data:
            size = 4 + int.from_bytes(data[:4], "big")
            while len(data) < size:
                data += request.recv(size - len(data), socket.MSG_WAITALL)
            peer = descriptor_in(ancillary)
            if peer not in (None, _PEER_FD):
                os.dup2(peer, _PEER_FD, inheritable=False)
            os.closerange(_PEER_FD + (peer is not None), 256)
            # written by the server, which no program can write to
            _work(marshal.loads(memoryview(data)[4:]), frames, peer)
            status = 0
    finally:
        os._exit(status)


def descriptor_in(ancillary: list[tuple[int, int, bytes]]) -> int | None:
    """The descriptor that came with a message."""
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS and len(data) >= 4:
            return int.from_bytes(data[:4], sys.byteorder)
    return None


def _work(request: dict[str, Any], frames: child.Frames, peer: int | None) -> None:
    for number, pair in request["rlimits"]:
        set_limit(number, pair)
    frames.begin(request)
    gc.enable()
    if request["mode"] == "judge":
        check.judge(request, frames, _PEER_FD)
        return
    entry = child.run_all(request["programs"], frames)
    if entry is not None and peer is not None:
        check.serve(entry, frames, _PEER_FD)


_FIXED_LIMITS = ((_limit("NOFILE"), 64), (_limit("CORE"), 0))


def rlimits(limits: Mapping[str, Any], cpu_total: float) -> list[tuple[int, tuple[int, int]]]:
    """What ``set_limit`` is to be called with for a program."""
    megabyte = 1 << 20
    memory = int(limits["memory_mb"]) * megabyte
    wanted = {
        "DATA": memory,
        "AS": memory + 2048 * megabyte,
        "CPU": int(cpu_total) + 2,
        "FSIZE": int(limits["file_mb"]) * megabyte,
    }
    return [(_limit(name), (value, value)) for name, value in wanted.items()]


def set_limit(number: int, pair: tuple[int, int]) -> None:
    """Soft and hard, for good."""
    try:
        resource.setrlimit(number, pair)
    except (ValueError, OSError):
        return  # not on this system, or a lower limit is already there
