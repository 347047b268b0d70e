"""The way of frames from a program's process to its server: shared memory, and a pipe behind.

A frame costs a copy, not a system call, and what was written stays when the process is killed.
The server finds it when the process has ended. What does not fit goes through the pipe, in
order. The header counts, so that a kill at any moment neither loses nor repeats a frame:

    bytes that went through the pipe | bytes in the buffer | frames so far | the buffer
"""

from __future__ import annotations

import mmap
import os
import struct

_HEAD = struct.Struct("=QQQ")
_SIZE = 1 << 16
_ROOM = _SIZE - _HEAD.size
_write = os.write


def create() -> mmap.mmap:
    """Memory that a process and its forks share."""
    return mmap.mmap(-1, _SIZE)


class Writer:
    """The program's end. Frames are whole lines."""

    def __init__(self, shared: mmap.mmap, fd: int) -> None:
        self.shared, self.fd = shared, fd
        self.sent = self.used = self.frames = 0

    def put(self, line: bytes) -> None:
        size = len(line)
        if size > _ROOM - self.used:
            self._flush()
        if size > _ROOM:
            self._send(line)
        else:
            start = _HEAD.size + self.used
            self.shared[start : start + size] = line
            self.used += size
        self.frames += 1
        self._count()

    def tick(self) -> None:
        """Count a frame that says nothing."""
        self.frames += 1
        self._count()

    def _flush(self) -> None:
        self._send(self.shared[_HEAD.size : _HEAD.size + self.used])
        self.used = 0
        self._count()

    def _send(self, data: bytes) -> None:
        os.set_blocking(self.fd, True)  # the pipe is shared: an earlier program may have changed it
        view = memoryview(data)
        while view:
            view = view[_write(self.fd, view) :]
        self.sent += len(data)

    def _count(self) -> None:
        _HEAD.pack_into(self.shared, 0, self.sent, self.used, self.frames)


def frames(shared: mmap.mmap) -> int:
    """How many frames the program says it has written."""
    return int(_HEAD.unpack_from(shared)[2])


def take(shared: mmap.mmap, piped: bytes) -> bytes:
    """All that was written, given what came through the pipe; the memory is wiped.

    The header is the program's word: whatever it says, the answer is bytes and within bounds.
    """
    sent, used, _ = _HEAD.unpack_from(shared)
    known = len(piped) - sent if sent <= len(piped) else used  # of the buffer, piped already
    rest = shared[_HEAD.size + min(known, _ROOM) : _HEAD.size + min(used, _ROOM)]
    wipe(shared)
    return piped + rest


def wipe(shared: mmap.mmap) -> None:
    """Nothing of one program is left for the next."""
    try:
        shared.madvise(mmap.MADV_REMOVE)
    except (AttributeError, OSError):
        shared[:] = bytes(_SIZE)
