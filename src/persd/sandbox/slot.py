"""One place where programs run: a worker for programs and, once needed, one for test code.

Programs are queued on it, so that its worker is never idle while this process is busy.
"""

from __future__ import annotations

import socket
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from persd.sandbox.program import (
    Outcome,
    Program,
    judge_request,
    parse_frames,
    program_request,
    read_outcomes,
)
from persd.sandbox.worker import Report, Worker

_DEPTH = 3
_START_SECONDS = 60.0

#: What answers: the worker of programs, the worker of test code.
Role = str
Done = Callable[[tuple[Outcome, ...]], None]


@dataclass(slots=True, eq=False)
class Ticket:
    """Programs that run in one process, one after the other; all but one only if tame."""

    programs: tuple[Program, ...]
    done: Done
    tries: int = 0
    patience: float = 0.0
    """Seconds after which a silent worker is given up: beyond every limit it enforces."""

    def fail(self, detail: str) -> None:
        """It could not be run."""
        self.done(tuple(Outcome(ran=False, detail=detail) for _ in self.programs))


class Slot:
    """Tickets on their way through a worker, in order."""

    def __init__(self, start: Callable[[], Worker]) -> None:
        self._start = start
        self.workers: dict[Role, Worker] = {}
        self.queue: deque[Ticket] = deque()
        self._reports: dict[Role, deque[Report]] = {"program": deque(), "judge": deque()}
        self._since = 0.0

    @property
    def room(self) -> bool:
        waiting = any(worker.writing for worker in self.workers.values())
        return len(self.queue) < _DEPTH and not waiting

    @property
    def overdue(self) -> bool:
        head = self.queue[0] if self.queue else None
        return head is not None and time.monotonic() - self._since > head.patience

    def give(self, ticket: Ticket) -> None:
        """Queue it. Raises WorkerDied."""
        if not self.queue:
            self._since = time.monotonic()
        self.queue.append(ticket)
        worker, first = self._worker("program"), ticket.programs[0]
        request = program_request(ticket.programs)
        ticket.patience = _patience(request)
        if first.check is None:
            worker.send(request)
            return
        judge = self._worker("judge")
        left, right = socket.socketpair()
        worker.send(request, left)
        judge.send(judge_request(first), right)

    def _worker(self, role: Role) -> Worker:
        if role not in self.workers:
            self.workers[role] = self._start()
        return self.workers[role]

    def receive(self, role: Role) -> None:
        """Write and read what can be; finish the tickets that are complete. Raises WorkerDied."""
        worker = self.workers[role]
        worker.flush()
        self._reports[role].extend(worker.read())
        while self.queue and (found := self._outcomes(self.queue[0])) is not None:
            self._since = time.monotonic()
            self.queue.popleft().done(found)

    def _outcomes(self, ticket: Ticket) -> tuple[Outcome, ...] | None:
        programs, judges = self._reports["program"], self._reports["judge"]
        check = ticket.programs[0].check is not None
        if not programs or (check and not judges):
            return None
        isolation = self.workers["program"].isolation
        report, raw = programs.popleft()
        if not check:
            # a frame a call, and a few around them
            most = sum(len(program.calls) + 8 for program in ticket.programs)
            return read_outcomes(report, raw, isolation, len(ticket.programs), most)
        verdict, said = judges.popleft()
        parsed, _ = parse_frames(said)
        outcome = read_outcomes(report, raw, isolation)[0]
        return (
            replace(
                outcome,
                check=parsed[-1] if parsed else {},
                check_killed=verdict["killed"],
                check_waiting=verdict["frames"] % 2 == 1,
                check_calls=verdict["frames"] // 2,
            ),
        )

    def empty(self) -> list[Ticket]:
        """End the workers; the tickets that were under way."""
        for role, worker in self.workers.items():
            worker.close()
            self._reports[role].clear()
        self.workers.clear()
        tickets = list(self.queue)
        self.queue.clear()
        return tickets


def _patience(request: Mapping[str, Any]) -> float:
    limits = request["limits"]
    steps = sum(len(program["calls"]) + 3 for program in request["programs"])
    longest = max(limits["cpu_seconds"], limits["load_seconds"]) * limits["wall_factor"] + 6
    return float(_START_SECONDS + steps * longest)
