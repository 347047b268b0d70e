"""Many items on their way through a few sandboxes at once, each step by step, out in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from persd.sandbox import Outcome, Program, Sandbox, Session

K = TypeVar("K")
D = TypeVar("D")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Run:
    """Programs to run next, in one process one after the other, and in which of the sandboxes."""

    programs: tuple[Program, ...]
    place: int = 0


#: Gives what to run next, is sent the outcomes of its programs, returns what came of it.
Steps = Generator[Run, Sequence[Outcome], R]


def in_lanes(
    boxes: Sequence[Sandbox], items: Iterable[tuple[K, D]], begin: Callable[[D], Steps[R]]
) -> Iterator[tuple[K, R]]:
    """(key, what came of it) for each (key, item), in order, in flat memory: no more items are
    taken ahead than keep the first sandbox busy. A sandbox that no step asks for never starts.

    Raises what a step raises, and UserError as ``Sandbox.probe``.
    """
    with ExitStack() as stack:
        lanes = _Lanes(boxes, stack)
        line: deque[tuple[K, _Case[R]]] = deque()
        for key, item in items:
            case = _Case(begin(item))
            line.append((key, case))
            lanes.advance(case, None)
            yield from _ready(line, lanes, boxes[0].ahead)
        yield from _ready(line, lanes, 0)


class _Case(Generic[R]):
    """One item under way; it has ended once it has a result."""

    __slots__ = ("place", "result", "steps")

    def __init__(self, steps: Steps[R]) -> None:
        self.steps, self.place = steps, 0
        self.result: tuple[R] | None = None


class _Lanes:
    """The sandboxes, each with a session once it is needed."""

    def __init__(self, boxes: Sequence[Sandbox], stack: ExitStack) -> None:
        self.boxes, self.stack = boxes, stack
        self.sessions: dict[int, Session] = {}

    def advance(self, case: _Case[Any], outcomes: Sequence[Outcome] | None) -> None:
        """Let a case take its next step."""
        try:
            run = next(case.steps) if outcomes is None else case.steps.send(outcomes)
        except StopIteration as end:
            case.result = (end.value,)
            return
        if run.place not in self.sessions:
            session = self.stack.enter_context(Session(self.boxes[run.place]))
            self.sessions[run.place] = session
        case.place = run.place
        self.sessions[run.place].submit(case, run.programs)

    def look(self, place: int | None = None) -> None:
        """Take what is done, everywhere; or wait until something is at one place."""
        for number, session in list(self.sessions.items()):
            if place in (None, number):
                for case, outcomes in session.take(block=place is not None):
                    self.advance(case, outcomes)


def _ready(line: deque[tuple[K, _Case[R]]], lanes: _Lanes, most: int) -> Iterator[tuple[K, R]]:
    """What is done and next in order; waits while more than ``most`` are under way."""
    while line:
        key, head = line[0]
        if head.result is not None:
            line.popleft()
            yield key, head.result[0]
            continue
        lanes.look()
        if head.result is None:
            if len(line) <= most:
                return
            lanes.look(head.place)
