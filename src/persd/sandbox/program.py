"""What is run and what came of it, and both as they travel to a worker and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from persd.sandbox import codec

_ENDLESS = 1 << 60


@dataclass(frozen=True, slots=True)
class Limits:
    """What one program may use."""

    cpu_seconds: float = 3.0
    """CPU seconds per test, all threads together; the wall clock is only the backstop."""
    load_seconds: float = 3.0
    """CPU seconds for the program's top level and its imports; at least ``cpu_seconds``."""
    wall_factor: float = 4.0
    """Wall backstop per test: this times ``cpu_seconds``, plus one second (sleeps, deadlocks)."""
    memory_mb: int = 512
    file_mb: int = 16
    """Largest file it may write."""
    output_bytes: int = 4096
    """How much of the end of each test's stdout is kept."""
    value_bytes: int = 4 << 20
    """Largest encoded value; a larger one counts as not plain data."""
    result_bytes: int = 32 << 20
    """All frames of a program together."""


@dataclass(frozen=True, slots=True)
class Program:
    """Something to run: source and calls, and nothing of what should come out."""

    source: str
    entry_point: str
    calls: tuple[str, ...] = ()
    setup: str = ""
    check: str | None = None
    """Test code defining ``check(candidate)``; runs in a process of its own."""
    header: str = ""
    """What ``check`` may rely on; defined beside it, not in the program."""
    texts: bool = False
    """Also report ``str(value)``."""
    stop: bool = False
    """Make no more calls after one that raised."""
    limits: Limits = field(default_factory=Limits)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a program did. Nothing in it is trusted but as data."""

    ran: bool
    """False: our trouble, and ``detail`` says which."""
    detail: str = ""
    frames: tuple[Mapping[str, Any], ...] = ()
    """As the program's process sent them, parsed; up to the first that is no frame."""
    broken: bool = False
    """Something that is no frame was written to the channel."""
    killed: str = ""
    """Why it was stopped: cpu, wall, idle, stopped, flood; empty: it ended by itself."""
    exit: int | None = None
    signal: int | None = None
    cpu: float = 0.0
    """CPU seconds."""
    check: Mapping[str, Any] | None = None
    """The last frame of the test code's process."""
    check_killed: str = ""
    isolation: str = ""


# --- as they travel ------------------------------------------------------------------------


def program_request(program: Program) -> dict[str, Any]:
    """What the worker that runs the program is sent: source and calls."""
    loads = 2 if program.setup else 1
    frames = loads + len(program.calls)
    return {
        "mode": "run",
        "source": program.source,
        "entry": program.entry_point,
        "setup": program.setup,
        "calls": program.calls,
        "texts": program.texts,
        "stop": program.stop,
        "frames": frames if program.check is None else _ENDLESS,
        "own_turns": frames if program.check is not None else _ENDLESS,
        "limits": _limits(program.limits, loads),
    }


def judge_request(program: Program) -> dict[str, Any]:
    """What the worker that runs the test code is sent: the test code, not the program."""
    return {
        "mode": "judge",
        "source": program.check,
        "header": program.header,
        "entry": program.entry_point,
        "setup": program.setup,
        "calls": (),
        "texts": False,
        "frames": _ENDLESS,
        "own_turns": 0,
        "limits": _limits(program.limits, 1),
    }


def _limits(limits: Limits, loads: int) -> dict[str, Any]:
    return {
        "cpu_seconds": limits.cpu_seconds,
        "load_seconds": max(limits.load_seconds, limits.cpu_seconds),
        "load_frames": loads,
        "wall_factor": limits.wall_factor,
        "memory_mb": limits.memory_mb,
        "file_mb": limits.file_mb,
        "output_bytes": limits.output_bytes,
        "value_bytes": limits.value_bytes,
        "result_bytes": limits.result_bytes,
    }


def read_outcome(
    report: Mapping[str, Any],
    raw: bytes,
    isolation: str,
    check: Mapping[str, Any] | None = None,
    check_killed: str = "",
) -> Outcome:
    """A worker's report and the frames behind it as an outcome."""
    frames, broken = parse_frames(raw)
    return Outcome(
        ran=True,
        frames=frames,
        broken=broken,
        killed=report["killed"],
        exit=report["exit"],
        signal=report["signal"],
        cpu=report["cpu"],
        check=check,
        check_killed=check_killed,
        isolation=isolation,
    )


def parse_frames(raw: bytes) -> tuple[tuple[Mapping[str, Any], ...], bool]:
    """The whole frames at the start, and whether something else follows.

    A last line without its end is a frame that was being written when the process ended.
    """
    frames: list[Mapping[str, Any]] = []
    *lines, _torn = raw.split(b"\n")
    for line in lines:
        try:
            frame = codec.parse(line)
        except codec.CodecError:
            return tuple(frames), True
        if not isinstance(frame, dict) or type(frame.get("i")) is not int:
            return tuple(frames), True
        frames.append(frame)
    return tuple(frames), False
