"""The sandbox itself: programs out to warm workers, outcomes back.

No thread of its own: whoever waits for an outcome moves everybody's programs along (one at a
time; the others are told). So a single caller pays for no hand-over between threads, and
several may call at once. A worker that dies is replaced and its program tried once more; what
then still has no report is not run.
"""

from __future__ import annotations

import selectors
import socket
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from persd.sandbox.program import Outcome, Program
from persd.sandbox.slot import Slot, Ticket
from persd.sandbox.tiers import refusal
from persd.sandbox.worker import Worker, WorkerDied

#: Seconds a caller waits before it looks at the clock again.
_TURN = 1.0
#: Workers that may die at birth, one after the other, before nothing is tried twice any more.
_STILLBORN = 4


@dataclass(frozen=True, slots=True)
class Isolation:
    """What holds the programs on this machine."""

    name: str
    missing: Mapping[str, str]
    """A layer that is not there, and why."""


class Sandbox:
    """Runs untrusted programs in separate, limited processes. A context manager; thread-safe.

    ``workers`` programs run at once. Workers start with the first program (or when ``isolation``
    is asked for) and end with ``close``. Where this machine cannot keep programs from the user's
    files, nothing runs (UserError) unless ``unsafe``. ``without`` names layers of isolation to
    leave off; ``seed`` is where hashes start.
    """

    def __init__(
        self,
        *,
        workers: int = 2,
        unsafe: bool = False,
        without: Iterable[str] = (),
        seed: int = 0,
    ) -> None:
        if workers < 1:
            raise ValueError("a sandbox needs at least one worker")
        self.workers, self.unsafe = workers, unsafe
        start = partial(Worker, tuple(without), seed)
        self._slots = [Slot(start) for _ in range(workers)]
        self._ready: deque[Ticket] = deque()
        self._state = threading.Condition(threading.RLock())
        self._leading = self._closed = False
        self._stillborn = 0
        self._selector = selectors.DefaultSelector()
        self._alarm, self._bell = socket.socketpair()
        self._alarm.setblocking(False)
        self._selector.register(self._bell, selectors.EVENT_READ)
        self._isolation: Isolation | None = None

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def isolation(self) -> str:
        """The isolation its programs run under, by name. Raises as ``probe``."""
        return self.probe().name

    def probe(self) -> Isolation:
        """Start a worker, if none runs yet, and say what holds it.

        Raises WorkerDied where none starts, UserError where it must not be used.
        """
        if self._isolation is None:
            found = self._look()
            error = None if self.unsafe else refusal(found.name, found.missing)
            if error is not None:
                raise error
            self._isolation = found
        return self._isolation

    def _look(self) -> Isolation:
        """A worker does nothing, and so tells what holds it."""
        session = Session(self)
        session.submit(None, (Program("", ""),))
        (_, (outcome,)) = session.take(block=True)[0]
        for slot in self._slots:
            worker = slot.workers.get("program")
            if worker is not None and worker.isolation:
                return Isolation(worker.isolation, worker.missing)
        raise WorkerDied(outcome.detail or "no worker answers")

    def run(self, programs: Iterable[Program]) -> Iterator[Outcome]:
        """Outcomes in the order of the programs, as they are ready; few more are taken ahead
        than it needs to keep its workers busy, so any number goes through flat memory.

        Raises ValueError after ``close``, UserError as ``probe``."""
        with Session(self) as session:
            order: deque[int] = deque()
            ready: dict[int, Outcome] = {}
            for number, program in enumerate(programs):
                session.submit(number, (program,))
                order.append(number)
                yield from _in_order(session, order, ready, self.ahead)
            yield from _in_order(session, order, ready, 0)

    @property
    def ahead(self) -> int:
        """How many programs are taken before the first of them must be done: enough for the
        other workers while one of them waits for a time-out."""
        return 256 * self.workers

    # -- callers and their programs, under the lock ---------------------------------------

    def add(self, ticket: Ticket) -> None:
        """Queue programs. Raises ValueError after ``close``."""
        with self._state:
            if self._closed:
                raise ValueError("the sandbox is closed")
            self._ready.append(ticket)
            self._assign()

    def drop(self, tickets: Iterable[Ticket]) -> None:
        """Nobody waits for these any more; those that have not begun never will."""
        with self._state:  # under which they also come to their end
            dropped = set(map(id, tickets))
            self._ready = deque(t for t in self._ready if id(t) not in dropped)

    def advance(self, block: bool, enough: Callable[[], bool]) -> None:
        """Move programs along: until something has happened, or only what can be done now."""
        with self._state:
            if enough() or self._closed:
                return
            if self._leading:
                if block:
                    self._state.wait(_TURN)
                return
            self._leading = True
        try:
            events = self._selector.select(_TURN if block else 0)
            with self._state:
                for key, _ in events:
                    if key.data is not None and not self._closed:
                        self._receive(*key.data)
                self._give_up_silent()
                self._assign()
        finally:
            with self._state:
                self._leading = False
                self._state.notify_all()

    def _assign(self) -> None:
        while self._ready:
            slot = min(self._slots, key=lambda slot: len(slot.queue))
            if not slot.room:
                return
            before = set(slot.workers)
            try:
                slot.give(self._ready.popleft())
            except WorkerDied as error:
                self._bury(slot, str(error))
                continue
            self._listen(slot, before)

    def _listen(self, slot: Slot, before: set[str] | frozenset[str] = frozenset()) -> None:
        """Wait for what its workers say, and for room where something is still to be written."""
        for role, worker in slot.workers.items():
            events = selectors.EVENT_READ | (selectors.EVENT_WRITE if worker.writing else 0)
            if role not in before:
                self._selector.register(worker.sock, events, (slot, role))
            elif self._selector.get_key(worker.sock).events != events:
                self._selector.modify(worker.sock, events, (slot, role))

    def _receive(self, slot: Slot, role: str) -> None:
        if role not in slot.workers:
            return  # buried a moment ago
        try:
            slot.receive(role)
        except WorkerDied as error:
            self._bury(slot, str(error))
        else:
            self._listen(slot, frozenset(slot.workers))

    def _give_up_silent(self) -> None:
        for slot in self._slots:
            if slot.overdue:
                self._bury(slot, "the worker keeps silent")

    def _bury(self, slot: Slot, detail: str) -> None:
        """End a slot's workers. The first of its programs has had one try; all are tried anew,
        unless workers die one after the other before they can say a word."""
        stillborn = not any(worker.isolation for worker in slot.workers.values())
        self._stillborn = self._stillborn + 1 if stillborn else 0
        for worker in slot.workers.values():
            if worker.sock in self._selector.get_map():
                self._selector.unregister(worker.sock)
        tickets = slot.empty()
        if tickets:
            tickets[0].tries += 1
        for ticket in reversed(tickets):
            if self._closed or ticket.tries > 1 or self._stillborn > _STILLBORN:
                ticket.fail(detail)
            else:
                self._ready.appendleft(ticket)

    def close(self) -> None:
        """End the workers, and with them what they run. Safe to call twice."""
        with self._state:
            if self._closed:
                return
            self._closed = True
            for slot in self._slots:
                self._bury(slot, "the sandbox was closed")
            while self._ready:
                self._ready.popleft().fail("the sandbox was closed")
            self._alarm.send(b"x")
            while self._leading:
                self._state.wait(_TURN)
            self._selector.close()
            self._alarm.close()
            self._bell.close()
            self._state.notify_all()


class Session:
    """One caller's programs under way. A context manager: leaving it drops what has not begun.

    Raises UserError on entry, as ``Sandbox.probe``.
    """

    def __init__(self, box: Sandbox) -> None:
        self.box = box
        self._open: dict[int, Ticket] = {}
        self._done: deque[tuple[Any, tuple[Outcome, ...]]] = deque()
        self._serial = 0

    def __enter__(self) -> Session:
        try:
            self.box.probe()
        except (WorkerDied, OSError):
            pass  # then each outcome says so
        return self

    def __exit__(self, *_: object) -> None:
        self.box.drop(self._open.values())

    @property
    def pending(self) -> int:
        """Submissions that have no outcome yet."""
        return len(self._open)

    def submit(self, key: Any, programs: tuple[Program, ...]) -> None:
        """Run these in one process, one after the other. Raises ValueError after ``close``."""
        self._serial += 1
        serial = self._serial

        def done(outcomes: tuple[Outcome, ...]) -> None:
            self._open.pop(serial, None)
            self._done.append((key, outcomes))

        ticket = Ticket(programs, done)
        self._open[serial] = ticket
        self.box.add(ticket)

    def _has_news(self) -> bool:
        return bool(self._done) or not self._open

    def take(self, block: bool) -> list[tuple[Any, tuple[Outcome, ...]]]:
        """What is done, as (key, outcomes); ``block``: wait until something is."""
        if not self._done:
            self.box.advance(False, self._has_news)
        while block and not self._has_news():
            self.box.advance(True, self._has_news)
        found = []
        while self._done:
            found.append(self._done.popleft())
        return found


def _in_order(
    session: Session, order: deque[int], ready: dict[int, Outcome], most: int
) -> Iterator[Outcome]:
    """What is done and next in order; waits while more than ``most`` are under way."""
    while order:
        for number, (outcome,) in session.take(block=len(order) > most and order[0] not in ready):
            ready[number] = outcome
        if order[0] not in ready:
            if len(order) > most:
                continue
            return
        yield ready.pop(order.popleft())


def probe_isolation() -> str:
    """The isolation this machine offers, by name, found by starting one worker; ``none`` where
    none starts. ``Sandbox.probe().missing`` says why a layer is not there. Never raises."""
    with Sandbox(workers=1, unsafe=True) as box:
        try:
            return box.isolation
        except (WorkerDied, OSError):
            return "none"
