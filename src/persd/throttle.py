"""How fast an endpoint may be asked: one limiter for all who share it.

A call waits for its turn until there is room in flight, until the requests and tokens that a
minute allows are there, and until an endpoint that said "later" is to be asked again. The limit
in flight starts at its most and falls only under pressure: after every window of about as many
answers as are in flight it is cut in proportion to the share that were turned away or timed out,
or a little where answers take much longer than the best did (they stand in a queue there);
else it rises by a step. Additive increase, multiplicative decrease (Chiu and Jain 1989), in
proportion to the share as in DCTCP (Alizadeh et al. 2010), so that a few stray refusals among
many answers do not slow a run down.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

#: Share of a window's calls that may be turned away before the limit falls.
TOLERATED = 0.2
#: Share from which everybody waits as long as one was told to.
REFUSING = 0.5
#: How many times the best window's median answer time is a queue.
QUEUEING = 3.0
#: Longest that an endpoint's word is heeded, in seconds.
LONGEST_HOLD = 120.0
#: Seconds of a minute's allowance that may be used at once.
BURST = 2.0
#: Seconds between looks, in line, at whether the run is being stopped: who is at its head may
#: belong to another that is not.
_LOOK = 2.0


class Stopped(Exception):
    """The run is being stopped: what was not sent is not to be sent."""


@dataclass(slots=True)
class _Bucket:
    """An allowance a minute that fills steadily; may be overdrawn by one call's estimate."""

    per_minute: float
    level: float = 0.0
    filled: float = 0.0

    def __post_init__(self) -> None:
        self.level = self._most
        self.filled = time.monotonic()

    @property
    def _most(self) -> float:
        return max(1.0, self.per_minute * BURST / 60)

    def wait(self, now: float) -> float:
        """Seconds until something is there."""
        self.level = min(self._most, self.level + (now - self.filled) * self.per_minute / 60)
        self.filled = now
        return 0.0 if self.level > 0 else (1e-3 - self.level) * 60 / self.per_minute


@dataclass(slots=True)
class _Window:
    """What came of the calls since the limit was last looked at."""

    answered: int = 0
    refused: int = 0
    seconds: list[float] = field(default_factory=list)
    told: float = 0.0
    """Longest wait that a refused call was told, in seconds."""
    began: float = field(default_factory=lambda: time.monotonic())

    @property
    def count(self) -> int:
        return self.answered + self.refused

    @property
    def middle(self) -> float:
        """Median of the seconds an answer took; 0.0: there was none."""
        return sorted(self.seconds)[len(self.seconds) // 2] if self.seconds else 0.0


class Throttle:
    """The limiter of one (endpoint, model, key). Thread-safe."""

    def __init__(
        self,
        in_flight: int,
        requests_per_minute: float | None = None,
        tokens_per_minute: float | None = None,
    ) -> None:
        self.most = in_flight
        self.limit = float(in_flight)
        """Calls that may be in flight now."""
        self.in_flight = 0
        self._requests = _Bucket(requests_per_minute) if requests_per_minute else None
        self._tokens = _Bucket(tokens_per_minute) if tokens_per_minute else None
        self._hold_until = 0.0
        self._best = float("inf")
        """Shortest median answer time of a window, in seconds."""
        self._rate_owed = 0.0
        """Answers a second that should still come after a cut, if there was a queue."""
        self._window = _Window()
        # one waits at the head of the line for the others: they need no waking
        self._head = threading.Lock()
        self._changed = threading.Condition()

    @contextmanager
    def turn(self, tokens: int, stopping: Callable[[], bool]) -> Iterator[None]:
        """Wait for a turn and hold it. ``tokens`` is what the call may use, in and out.

        Raises Stopped where ``stopping`` says so before the turn has come.
        """
        self._wait(tokens, stopping)
        try:
            yield
        finally:
            with self._changed:
                self.in_flight -= 1
                self._changed.notify_all()

    def _wait(self, tokens: int, stopping: Callable[[], bool]) -> None:
        while not self._head.acquire(timeout=_LOOK):
            if stopping():
                raise Stopped
        try:
            self._wait_at_head(tokens, stopping)
        finally:
            self._head.release()

    def _wait_at_head(self, tokens: int, stopping: Callable[[], bool]) -> None:
        with self._changed:
            while not stopping():
                now = time.monotonic()
                pause = self._pause(now)
                if self.in_flight < max(1, int(self.limit)) and pause <= 0:
                    self._take(tokens)
                    return
                # half a second at most, to see that the run is being stopped
                self._changed.wait(min(0.5, pause) if pause > 0 else 0.5)
        raise Stopped

    def _pause(self, now: float) -> float:
        buckets = [b.wait(now) for b in (self._requests, self._tokens) if b]
        return max([self._hold_until - now, *buckets])

    def _take(self, tokens: int) -> None:
        self.in_flight += 1
        if self._requests:
            self._requests.level -= 1
        if self._tokens:
            self._tokens.level -= tokens

    def answered(self, seconds: float, held_tokens: int, used_tokens: int) -> None:
        """A call was answered in ``seconds``; of the tokens held back it used so many."""
        with self._changed:
            if self._tokens:
                self._tokens.level += held_tokens - used_tokens
            self._window.answered += 1
            self._window.seconds.append(seconds)
            self._look()

    def refused(self, told: float | None = None) -> None:
        """A call was turned away or timed out; ``told`` is the wait it was told, in seconds."""
        with self._changed:
            self._window.refused += 1
            self._window.told = max(self._window.told, min(told or 0.0, LONGEST_HOLD))
            self._look()

    def told(self, headers: Mapping[str, str]) -> None:
        """What an endpoint's headers say of what is left: at nothing, everybody waits for more.

        OpenAI's names (``x-ratelimit-remaining-requests``, ``-reset-requests``, the same for
        tokens), which most endpoints use; others say nothing here.
        """
        for what in ("requests", "tokens"):
            left = headers.get(f"x-ratelimit-remaining-{what}", "")
            if left.isdecimal() and int(left) == 0:
                reset = seconds_of(headers.get(f"x-ratelimit-reset-{what}", ""))
                if reset:
                    self._hold(reset)

    def _hold(self, seconds: float) -> None:
        with self._changed:
            until = time.monotonic() + min(seconds, LONGEST_HOLD)
            self._hold_until = max(self._hold_until, until)

    def _look(self) -> None:
        """Set the limit anew, once a window is full."""
        window = self._window
        if window.count < max(4, int(self.limit)):
            return
        self._window = _Window()
        share = window.refused / window.count
        if share > REFUSING and window.told:
            self._hold(window.told)
        step = max(1.0, self.most / 16)
        if share > TOLERATED:
            self.limit = max(1.0, self.limit * (1 - share / 2))
        elif self._is_queueing(window, step):
            self.limit = max(1.0, self.limit - step)
        else:
            self.limit = min(float(self.most), self.limit + step)
        self._changed.notify_all()

    def _is_queueing(self, window: _Window, step: float) -> bool:
        """Whether answers take long because they wait for each other at the endpoint.

        If they do, a lower limit lets no fewer through; where it did, the questions had become
        longer, and what they take now is the new measure.
        """
        middle = window.middle
        rate = window.answered / max(1e-9, time.monotonic() - window.began)
        if rate < self._rate_owed:
            self._best = middle
        self._best = min(self._best, middle or self._best)
        queueing = middle > QUEUEING * self._best
        self._rate_owed = rate * (1 - 0.5 * min(1.0, step / self.limit)) if queueing else 0.0
        return queueing


_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_UNITS = {"ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def seconds_of(text: str) -> float | None:
    """Seconds of ``1.5``, ``20ms``, ``6m0s``; None: the text is no duration."""
    text = text.strip().lower()
    if re.fullmatch(r"\d+(\.\d+)?", text):
        return float(text)
    parts = _PART.findall(text)
    if not parts or "".join(n + u for n, u in parts) != text:
        return None
    return sum(float(number) * _UNITS[unit] for number, unit in parts)
