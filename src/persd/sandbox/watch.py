"""Waiting for a program: until it has ended, or must."""

from __future__ import annotations

import mmap
import os
import resource
import select
import sys
import time
from collections.abc import Mapping
from typing import Any

from persd.sandbox import channel, cleanup

_LINUX = sys.platform == "linux"


def watch(
    pid: int, read_end: int, parent: int, request: Mapping[str, Any], shared: mmap.mmap
) -> tuple[dict[str, Any], bytes]:
    """How the child ended (``killed``: why it had to; exit, signal, CPU seconds), and what came
    through the pipe. ``parent`` is a descriptor that hangs up when nobody wants to know."""
    clocks, piped, ended = Clocks(pid, request), bytearray(), Ended(pid)
    poll = select.poll()
    poll.register(read_end, select.POLLIN)
    poll.register(parent, 0)  # errors and hang-ups are always reported
    if ended.fd >= 0:
        poll.register(ended.fd, select.POLLIN)
    os.set_blocking(read_end, False)
    reason = ""
    while not reason:
        start, wait = time.monotonic(), clocks.next_wait() if ended.fd >= 0 else 0.001
        ready = [fd for fd, _ in poll.poll(wait * 1000)]
        if read_end in ready and not _drain(read_end, piped):
            poll.unregister(read_end)
        if ended.now(ready):
            break
        if parent in ready:
            reason = "abandoned"
        elif len(piped) > int(request["limits"]["result_bytes"]):
            reason = "flood"
        else:
            waited = min(time.monotonic() - start, wait)
            reason = clocks.over(channel.frames(shared), waited) or ended.stopped()
    if reason:
        cleanup.kill(pid)
    report = {"killed": reason, **ended.report()}
    _drain(read_end, piped)
    cleanup.end_strays(pid)
    return report, bytes(piped)


def _drain(fd: int, into: bytearray) -> bool:
    """Read what there is; False at the end of the stream."""
    try:
        data = os.read(fd, 1 << 20)
    except BlockingIOError:
        return True
    into += data
    return bool(data)


class Clocks:
    """The clocks of one child: CPU since its last frame, wall since its last frame, idling."""

    def __init__(self, pid: int, request: Mapping[str, Any]) -> None:
        self.pid, self.limits = pid, request["limits"]
        self.frames, self.most = 0, request["frames"]
        self.own_turns = request["own_turns"]
        self.cpu_mark = self.cpu_seen = self.idle = 0.0
        self.wall_mark = time.monotonic()

    @property
    def limit(self) -> float:
        """CPU seconds until the next frame; the first covers the program's own imports."""
        loading = self.frames < int(self.limits["load_frames"])
        return float(self.limits["load_seconds" if loading else "cpu_seconds"])

    def next_wait(self) -> float:
        """Seconds to wait before looking at the clocks again."""
        left = self.limit - (self.cpu_seen - self.cpu_mark)
        return min(max(left, 0.001), 0.05)

    def over(self, frames: int, waited: float) -> str:
        """Why the child must go, or nothing. ``frames`` is the child's word: each is counted
        once, and no more than there can be. ``waited`` is how long poll was asked to wait: a
        machine that was suspended counts for no more than that."""
        if self.frames < frames <= self.most:
            self.frames = frames
            self.cpu_mark = self.cpu_seen = cpu_of(self.pid, self.wall_mark)
            self.wall_mark, self.idle = time.monotonic(), 0.0
            return ""
        cpu, wall = cpu_of(self.pid, self.wall_mark), time.monotonic() - self.wall_mark
        self.idle = self.idle + waited if cpu - self.cpu_seen < 0.001 else 0.0
        self.cpu_seen = cpu
        if cpu - self.cpu_mark > self.limit:
            return "cpu"
        backstop = float(self.limits["wall_factor"]) * self.limit + 1.0
        if self.frames >= self.own_turns:  # the peer may be at work: it has limits of its own
            return "wall" if wall > backstop + 5.0 else ""
        if self.idle > max(1.0, self.limit):
            return "idle"
        return "wall" if wall > backstop else ""


def cpu_of(pid: int, wall_mark: float) -> float:
    """CPU seconds of a live child, all threads; where there is no such clock, wall seconds."""
    if _LINUX:
        try:
            return time.clock_gettime((~pid << 3) | 2)
        except OSError:
            return 0.0
    return time.monotonic() - wall_mark


class Ended:
    """Tells that a child has ended, by a descriptor to poll where the system has one."""

    def __init__(self, pid: int) -> None:
        self.pid, self.fd = pid, -1
        self.status: tuple[int, int, resource.struct_rusage] | None = None
        try:
            self.fd = os.pidfd_open(pid)
        except (AttributeError, OSError):
            return  # macOS, or a kernel before 5.3: asked again every millisecond

    def now(self, ready: list[int]) -> bool:
        if self.fd >= 0:
            return self.fd in ready
        done = os.wait4(self.pid, os.WNOHANG)
        self.status = done if done[0] else None
        return self.status is not None

    def stopped(self) -> str:
        """Whether the child has stopped itself (SIGSTOP), without reaping it if it has ended."""
        if not _LINUX:
            return ""
        flags = os.WSTOPPED | os.WNOHANG | os.WNOWAIT
        try:
            return "stopped" if os.waitid(os.P_PID, self.pid, flags) else ""
        except ChildProcessError:
            return ""  # it has ended a moment ago

    def report(self) -> dict[str, Any]:
        """Reap the child; its exit code or signal, its CPU seconds."""
        if self.fd >= 0:
            os.close(self.fd)
        _, status, usage = self.status or os.wait4(self.pid, 0)
        code = os.waitstatus_to_exitcode(status)
        return {
            "exit": code if code >= 0 else None,
            "signal": -code if code < 0 else None,
            "cpu": usage.ru_utime + usage.ru_stime,
        }
