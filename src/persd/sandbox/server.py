"""The fork server: one warm process that forks one child a program, watches it, reports.

Started by ``persd.sandbox.worker`` with ``python -c``, never imported by the rest of persd.
It is single-threaded, knows no expected value, and takes what its children write as opaque
bytes. One request in, one report out, over a Unix socket:

    request   4-byte length, JSON (source, calls, limits, ...); perhaps one descriptor
    report    4-byte length, JSON (how the child ended), then the child's frames as they came
"""

from __future__ import annotations

import array
import gc
import importlib
import json
import mmap
import os
import random
import resource
import socket
import struct
import sys
import warnings
from collections.abc import Mapping
from typing import Any

from persd.sandbox import channel, check, child, cleanup
from persd.sandbox.cage import Cage, enter
from persd.sandbox.watch import watch

_RESULT_FD = 3
_PEER_FD = 4

#: What programs import most; anything else is there too, loaded when a program asks for it.
_PRELOADED = """
    bisect collections copy datetime functools heapq itertools json math operator random re
    string time typing
"""


# --- the server ---------------------------------------------------------------------------


def main(fd: int, box: str, without: list[str]) -> None:
    """Serve until the socket closes. ``without``: layers of isolation to leave off."""
    sock = socket.socket(fileno=fd)
    warnings.simplefilter("ignore")
    for name in _PRELOADED.split():
        importlib.import_module(name)
    random.seed(0)
    os.environ.clear()
    for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.putenv(name, "1")  # for C libraries only: a buffer per core would cost all memory
    cage = enter(box, frozenset(without))
    os.chdir(cage.box)
    _send(sock, {"isolation": cage.name, "missing": cage.missing}, b"")
    _hide()
    gc.collect()
    gc.freeze()
    gc.disable()
    shared = channel.create()
    while (received := receive(sock)) is not None:
        request, peer = received
        request["walled"] = "namespaces" in cage.layers
        report, frames = execute(request, peer, sock.fileno(), cage, shared)
        _send(sock, report, frames)
        if not cleanup.empty(cage.box):
            break  # the next program gets a new worker


def _hide() -> None:
    """``import persd`` in a program means what is installed, not this skeleton of it."""
    for name in [name for name in sys.modules if name.split(".")[0] == "persd"]:
        del sys.modules[name]


def _send(sock: socket.socket, report: Mapping[str, Any], frames: bytes) -> None:
    head = json.dumps({**report, "bytes": len(frames)}).encode()
    sock.sendall(struct.pack(">I", len(head)) + head + frames)


def receive(sock: socket.socket) -> tuple[dict[str, Any], int | None] | None:
    """One request and the descriptor that came with it; None at the end of the stream."""
    head, ancillary, _, _ = sock.recvmsg(4, socket.CMSG_SPACE(4), socket.MSG_WAITALL)
    if len(head) < 4:
        return None
    (size,) = struct.unpack(">I", head)
    body = bytearray()
    while len(body) < size:
        part = sock.recv(min(size - len(body), 1 << 20))
        if not part:
            return None
        body += part
    return json.loads(body), _descriptor(ancillary)


def _descriptor(ancillary: list[tuple[int, int, bytes]]) -> int | None:
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS and len(data) >= 4:
            return array.array("i", data[:4])[0]
    return None


# --- one program --------------------------------------------------------------------------


def execute(
    request: Mapping[str, Any], peer: int | None, parent: int, cage: Cage, shared: mmap.mmap
) -> tuple[dict[str, Any], bytes]:
    """Fork, watch, reap. The report says how the child ended; the bytes are its frames."""
    code = precompiled(request)
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        _child(request, channel.Writer(shared, _RESULT_FD), write_end, peer, code, cage)
    os.close(write_end)
    if peer is not None:
        os.close(peer)
    report, piped = watch(pid, read_end, parent, request, shared)
    os.close(read_end)
    return report, channel.take(shared, piped)


def precompiled(request: Mapping[str, Any]) -> Any:
    """The program compiled before the fork, where its text cannot harm the compiler."""
    source = request["source"]
    if request["mode"] == "judge" or not _tame(source):
        return None
    try:
        return child.compile_program(source)
    except Exception:
        return None  # the child meets the same error and reports it


def _tame(source: str) -> bool:
    """Small, and too shallow to exhaust the parser: such text is compiled in the server."""
    if len(source) > 10_000 or not source.isascii() or "\0" in source:
        return False
    lines = source.splitlines()
    return all(len(line) < 400 for line in lines) and sum(map(source.count, "([{")) < 400


def _child(
    request: Mapping[str, Any],
    writer: channel.Writer,
    write_end: int,
    peer: int | None,
    code: Any,
    cage: Cage,
) -> None:
    """The program's own process, from the fork to its end."""
    status = 70
    try:
        os.setsid()
        _descriptors(write_end, peer)
        _limit(request["limits"], len(request["calls"]))
        cage.seal()
        frames = child.Frames(writer, request)
        if request["mode"] == "judge":
            check.judge(request, frames, _PEER_FD)
        else:
            entry = child.run(request, frames, code)
            if entry is not None and peer is not None:
                check.serve(entry, frames, _PEER_FD)
        status = 0
    finally:
        os._exit(status)


def _descriptors(write_end: int, peer: int | None) -> None:
    """Only 0-2 (all /dev/null), the result pipe and perhaps the peer's socket stay open."""
    if peer is not None:
        peer = os.dup2(peer, 101, inheritable=False)
    os.dup2(write_end, 100, inheritable=False)
    os.dup2(100, _RESULT_FD, inheritable=False)
    if peer is not None:
        os.dup2(peer, _PEER_FD, inheritable=False)
    os.closerange(_RESULT_FD + 1 + (peer is not None), 256)


def _limit(limits: Mapping[str, Any], calls: int) -> None:
    megabyte = 1 << 20
    memory = int(limits["memory_mb"]) * megabyte
    total = float(limits["load_seconds"]) + float(limits["cpu_seconds"]) * max(calls, 10)
    wanted = {
        "RLIMIT_DATA": memory,
        "RLIMIT_AS": memory + 2048 * megabyte,
        "RLIMIT_CPU": int(total) + 2,
        "RLIMIT_FSIZE": int(limits["file_mb"]) * megabyte,
        "RLIMIT_NOFILE": 64,
        "RLIMIT_CORE": 0,
    }
    for name, value in wanted.items():
        try:
            resource.setrlimit(getattr(resource, name), (value, value))
        except (AttributeError, ValueError, OSError):
            continue  # not on this system, or a lower limit is already there
