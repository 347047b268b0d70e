"""What a proposed task is between two steps of the screening."""

from __future__ import annotations

from dataclasses import dataclass

from persd.records import CandidateState, Task


@dataclass(frozen=True, slots=True)
class Draft:
    """A proposal that reads as a task: all but what its calls give."""

    task: Task
    """Instruction, header, entry point and whole reference; no tests."""
    calls: tuple[str, ...]
    """Different calls of the entry point with literal arguments."""


@dataclass(frozen=True, slots=True)
class Rejection:
    """Why a proposal is no task."""

    state: CandidateState
    detail: str
    """With the value or the match, for reading."""
