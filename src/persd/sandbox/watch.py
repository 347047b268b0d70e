"""Waiting for a program: until it has ended, or must."""

from __future__ import annotations

import mmap
import os
import select
import sys
import time
from collections.abc import Mapping
from typing import Any

from persd.sandbox import channel, cleanup
from persd.sandbox.zygote import Zygote

_ENDLESS = 1 << 60  # as ``program`` writes it
_LINUX = sys.platform == "linux"


def watch(
    zygote: Zygote, pid: int, parent: int, request: Mapping[str, Any], shared: mmap.mmap
) -> tuple[dict[str, Any], bytes]:
    """How the process ended (``killed``: why it had to; exit, signal, CPU and wall seconds), and
    what came through the pipe. ``parent``: a descriptor that hangs up when nobody wants to know."""
    clocks, piped, results = Clocks(pid, request), bytearray(), zygote.results
    news = zygote.control.fileno()
    poll = select.poll()
    poll.register(results, select.POLLIN)
    poll.register(news, select.POLLIN)
    poll.register(parent, 0)  # errors and hang-ups are always reported
    reason = ""
    while not reason:
        start, wait = time.monotonic(), clocks.next_wait()
        ready = [fd for fd, _ in poll.poll(wait * 1000)]
        if results in ready and not _drain(results, piped):
            poll.unregister(results)
        if news in ready:
            break
        if parent in ready:
            reason = "abandoned"
        elif len(piped) > int(request["limits"]["result_bytes"]):
            reason = "flood"
        else:
            waited = min(time.monotonic() - start, wait)
            reason = clocks.over(channel.frames(shared), waited)
    if reason:
        cleanup.kill(pid)
    ended = zygote.ended()
    before = -1
    while before < len(piped):  # all of it: the pipe may have been set to give it piece by piece
        before = len(piped)
        _drain(results, piped)
    report = {
        "killed": reason or ("stopped" if ended.stopped else ""),
        "exit": ended.exit,
        "signal": ended.signal,
        "cpu": max(0.0, ended.cpu - clocks.cpu_start),
        "wall": time.monotonic() - clocks.began,
        "frames": channel.frames(shared),
    }
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
        self.own_turns, self.load_frames = request["own_turns"], request["load_frames"]
        self.began = self.wall_mark = time.monotonic()
        self.idle = 0.0
        self.cpu_start = self.cpu_mark = self.cpu_seen = cpu_of(pid, self.began)

    @property
    def limit(self) -> float:
        """CPU seconds until the next frame; the first covers the program's own imports."""
        loading = self.frames < self.load_frames
        return float(self.limits["load_seconds" if loading else "cpu_seconds"])

    def next_wait(self) -> float:
        """Seconds to wait before looking at the clocks again."""
        left = self.limit - (self.cpu_seen - self.cpu_mark)
        return min(max(left, 0.001), 0.05)

    def over(self, frames: int, waited: float) -> str:
        """Why the child must go, or nothing. ``frames`` is the child's word: each is counted
        once, and no more than there can be. ``waited`` is how long poll was asked to wait: a
        machine that was suspended counts for no more than that."""
        backstop = float(self.limits["wall_factor"]) * self.limit + 1.0
        if self.own_turns < _ENDLESS <= self.most and time.monotonic() - self.began > 8 * backstop:
            return "wall"  # turns are the child's word, and with test code there may be any number
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
