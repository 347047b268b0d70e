"""The sandbox itself: programs out to warm workers, outcomes back, in order.

Each of N threads owns one worker for programs and, once a task needs it, one for test code.
A worker that dies is replaced and the program tried once more; what then still has no report
is ``not_run``.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from persd.sandbox.program import Outcome, Program
from persd.sandbox.worker import Pair, WorkerDied

_log = logging.getLogger("persd.sandbox")


@dataclass(frozen=True, slots=True)
class Isolation:
    """What holds the programs on this machine."""

    name: str
    missing: Mapping[str, str]
    """A layer that is not there, and why."""

    @property
    def guards_files(self) -> bool:
        return "namespaces" in self.name or "landlock" in self.name


class Sandbox:
    """Runs untrusted programs in separate, limited processes. A context manager; thread-safe.

    ``workers`` programs run at once. Workers start with the first program (or when ``isolation``
    is asked for) and end with ``close``. ``unsafe=True``: no warning where this machine cannot
    keep programs from the user's files. ``without`` names layers of isolation to leave off.
    """

    def __init__(
        self, *, workers: int = 2, unsafe: bool = False, without: Iterable[str] = ()
    ) -> None:
        if workers < 1:
            raise ValueError("a sandbox needs at least one worker")
        self.workers, self.unsafe = workers, unsafe
        self._all = [Pair(tuple(without)) for _ in range(workers)]
        self._pairs: queue.SimpleQueue[Pair] = queue.SimpleQueue()
        for pair in self._all:
            self._pairs.put(pair)
        self._threads: ThreadPoolExecutor | None = None
        self._lock = threading.Lock()
        self._closed = False
        self._isolation: Isolation | None = None

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def isolation(self) -> str:
        """The isolation its programs run under, by name. Raises WorkerDied."""
        return self.probe().name

    def probe(self) -> Isolation:
        """Start a worker, if none runs yet, and say what holds it. Raises WorkerDied."""
        if self._isolation is None:
            self._isolation = self._pool().submit(self._probe).result()
            if not self._isolation.guards_files and not self.unsafe:
                _log.warning("programs run with %s: they can read your files", self._isolation.name)
        return self._isolation

    def run(self, programs: Iterable[Program]) -> Iterator[Outcome]:
        """Outcomes in the order of the programs, as they are ready; at most a few programs
        more than there are workers are taken ahead, so any number goes through flat memory.

        Raises ValueError after ``close``."""
        with contextlib.suppress(WorkerDied, OSError):  # then each outcome says so
            self.probe()
        window: deque[Future[Outcome]] = deque()
        try:
            for program in programs:
                window.append(self._pool().submit(self._execute, program))
                while len(window) >= 4 * self.workers or (window and window[0].done()):
                    yield window.popleft().result()
            while window:
                yield window.popleft().result()
        finally:
            for future in window:
                future.cancel()

    def _pool(self) -> ThreadPoolExecutor:
        with self._lock:
            if self._closed:
                raise ValueError("the sandbox is closed")
            if self._threads is None:
                self._threads = ThreadPoolExecutor(self.workers, "persd-sandbox")
            return self._threads

    def _execute(self, program: Program) -> Outcome:
        pair = self._pairs.get()
        try:
            return pair.execute(program)
        finally:
            self._pairs.put(pair)

    def _probe(self) -> Isolation:
        pair = self._pairs.get()
        try:
            worker = pair.worker("program")
            return Isolation(worker.isolation, worker.missing)
        finally:
            self._pairs.put(pair)

    def close(self) -> None:
        """End the workers, and with them what they run. Safe to call twice."""
        with self._lock:
            self._closed = True
            threads, self._threads = self._threads, None
        for pair in self._all:
            pair.hang_up()
        if threads is not None:
            threads.shutdown(wait=True, cancel_futures=True)
        for pair in self._all:
            pair.close()


def probe_isolation() -> str:
    """The isolation this machine offers, by name, found by starting one worker; ``none`` where
    none starts. ``Sandbox.probe().missing`` says why a layer is not there. Never raises."""
    with Sandbox(workers=1, unsafe=True) as box:
        try:
            return box.isolation
        except (WorkerDied, OSError):
            return "none"
