"""What is run and what came of it, and both as they travel to a worker and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from persd.sandbox import codec

_ENDLESS = 1 << 60
#: CPU seconds a frame for programs that share a process.
_BATCH_SECONDS = 0.1
#: Index of the frame before each program of a batch, as ``child`` sends it.
NEXT = -3


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
    calibrate: bool = False
    """The CPU seconds are the judge's to choose, by the task's reference (``calibrate``)."""


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
    seed: int = 0
    """Where what it takes for random starts."""
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
    wall: float = 0.0
    """Wall seconds."""
    shared: bool = False
    """It ran in one process with others, one after the other."""
    check: Mapping[str, Any] | None = None
    """The last frame of the test code's process."""
    check_killed: str = ""
    """Why that process was stopped."""
    check_waiting: bool = False
    """It was stopped while it waited for the program."""
    check_calls: int = 0
    """How many answers it had from the program."""
    isolation: str = ""


# --- as they travel ------------------------------------------------------------------------


def program_request(programs: Sequence[Program]) -> dict[str, Any]:
    """What the worker that runs programs is sent: sources and calls. All have the same limits."""
    limits, check, alone = programs[0].limits, programs[0].check, len(programs) == 1
    if not alone:  # who needs longer does so alone, and holds nobody up
        limits = replace(limits, cpu_seconds=min(limits.cpu_seconds, _BATCH_SECONDS))
    loads = sum(2 if program.setup else 1 for program in programs)
    frames = loads + sum(len(program.calls) for program in programs)
    frames += 0 if alone else len(programs)
    total = limits.load_seconds + limits.cpu_seconds * max(frames, 10)
    return {
        "mode": "run",
        "programs": [_plain(program) for program in programs],
        "frames": frames if check is None else _ENDLESS,
        "own_turns": frames if check is not None else _ENDLESS,
        "load_frames": loads if alone else 0,
        "cpu_total": total,
        "limits": _limits(limits),
    }


def _plain(program: Program) -> dict[str, Any]:
    return {
        "source": program.source,
        "entry": program.entry_point,
        "setup": program.setup,
        "calls": program.calls,
        "texts": program.texts,
        "stop": program.stop,
        "seed": program.seed,
    }


def judge_request(program: Program) -> dict[str, Any]:
    """What the worker that runs the test code is sent: the test code, not the program."""
    return {
        "mode": "judge",
        "source": program.check,
        "headers": [program.header, program.header.rstrip() + "\n    pass\n"],
        "entry": program.entry_point,
        "setup": program.setup,
        "frames": _ENDLESS,
        "own_turns": 0,
        "load_frames": 1,
        "cpu_total": program.limits.load_seconds + 10 * program.limits.cpu_seconds,
        "limits": _limits(program.limits),
    }


def _limits(limits: Limits) -> dict[str, Any]:
    return {
        "cpu_seconds": limits.cpu_seconds,
        "load_seconds": max(limits.load_seconds, limits.cpu_seconds),
        "wall_factor": limits.wall_factor,
        "memory_mb": limits.memory_mb,
        "file_mb": limits.file_mb,
        "output_bytes": limits.output_bytes,
        "value_bytes": limits.value_bytes,
        "result_bytes": limits.result_bytes,
    }


#: Frames that are read of one program whose calls are not counted beforehand.
MOST_FRAMES = 100_000


def read_outcomes(
    report: Mapping[str, Any],
    raw: bytes,
    isolation: str,
    programs: int = 1,
    most: int = MOST_FRAMES,
) -> tuple[Outcome, ...]:
    """A worker's report and the frames behind it, ``most`` of them, as an outcome for each
    program."""
    frames, broken = parse_frames(raw, most)
    return tuple(
        Outcome(
            ran=True,
            frames=part,
            broken=broken,
            killed=report["killed"],
            exit=report["exit"],
            signal=report["signal"],
            cpu=report["cpu"] / programs,
            wall=report["wall"] / programs,
            shared=programs > 1,
            isolation=isolation,
        )
        for part in _parts(frames, programs)
    )


def _parts(frames: tuple[Mapping[str, Any], ...], programs: int) -> list[Any]:
    """The frames of each program, divided by what comes before each; of those that were not
    run, none."""
    if programs == 1:
        return [frames]
    parts: list[list[Mapping[str, Any]]] = [[] for _ in range(programs)]
    place = programs
    for frame in frames:
        if frame["i"] == NEXT:
            place = frame["n"] if type(frame.get("n")) is int else programs
        elif 0 <= place < programs:
            parts[place].append(frame)
    return [tuple(part) for part in parts]


def parse_frames(raw: bytes, most: int = MOST_FRAMES) -> tuple[tuple[Mapping[str, Any], ...], bool]:
    """The whole frames at the start, and whether something else follows; ``most`` of them, for
    a line costs more memory here than it cost to write.

    A last line without its end is a frame that was being written when the process ended.
    """
    *lines, torn = raw.split(b"\n", most)
    frames = _parse_together(lines)
    if frames is not None:
        return frames, b"\n" in torn
    good: list[Mapping[str, Any]] = []
    for line in lines:
        try:
            frame = codec.parse(line)
        except codec.CodecError:
            return tuple(good), True
        if not _is_frame(frame):
            return tuple(good), True
        good.append(frame)
    return tuple(good), b"\n" in torn


def _parse_together(lines: list[bytes]) -> tuple[Mapping[str, Any], ...] | None:
    """All lines at once, which is quicker; None: they are for a closer look."""
    try:
        frames = codec.parse(b"[" + b",".join(lines) + b"]")
    except codec.CodecError:
        return None
    fine = len(frames) == len(lines) and all(map(_is_frame, frames))
    return tuple(frames) if fine else None


def _is_frame(frame: Any) -> bool:
    return isinstance(frame, dict) and type(frame.get("i")) is int
