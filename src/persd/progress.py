"""Progress as a person reads it: counts, rate, money and time left, on standard error.

The library reports to a ``Progress``; only the CLI makes one that speaks. On a terminal it
is a live line, elsewhere a plain line every few seconds.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, TextIO


class Progress:
    """Says nothing; the base of those that do."""

    def stage(self, name: str, total: int | None) -> None:
        """A stage begins; ``total`` units are expected (None: unknown)."""

    def step(self, units: int = 1, **counts: int) -> None:
        """Units are done; counts are added up by name (states, errors ...)."""

    def resume(self, units: int) -> None:
        """Units of this stage that an earlier process has done."""

    def note(self, text: str) -> None:
        """What the last unit said of itself; the next one's takes its place."""

    def money(self, usd: float, cap_usd: float | None) -> None:
        """What the run has cost so far."""

    def watch(self, traffic: Callable[[], Mapping[str, int]]) -> None:
        """What is going on with served models: ``persd.calls.Traffic`` by name of its counts."""

    def tick(self) -> None:
        """About a second has passed in which nothing was done."""

    def say(self, text: str) -> None:
        """One line for the reader."""

    def close(self) -> None:
        """The stage has ended."""

    def __enter__(self) -> Progress:
        return self

    def abandon(self) -> None:
        """The stage was broken off by an error, which is told elsewhere."""
        self.close()

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            self.close()
        else:
            self.abandon()


#: For those who want to hear nothing.
QUIET = Progress()


class _Counting(Progress):
    def __init__(self) -> None:
        self._name = ""
        self._total: int | None = None
        self._done = 0
        self._counts: Counter[str] = Counter()
        self._began = time.monotonic()
        self._note, self._before = "", 0
        self._usd, self._cap = 0.0, None  # type: tuple[float, float | None]
        self._traffic: Callable[[], Mapping[str, int]] = dict

    def stage(self, name: str, total: int | None) -> None:
        self.close()
        self._name, self._total, self._done = name, total, 0
        self._counts.clear()
        self._note, self._before = "", 0
        self._began = time.monotonic()

    def step(self, units: int = 1, **counts: int) -> None:
        self._done += units
        self._counts.update(counts)

    def resume(self, units: int) -> None:
        self._done += units
        self._before += units

    def note(self, text: str) -> None:
        self._note = text

    def money(self, usd: float, cap_usd: float | None) -> None:
        self._usd, self._cap = usd, cap_usd

    def watch(self, traffic: Callable[[], Mapping[str, int]]) -> None:
        self._traffic = traffic

    def _line(self) -> str:
        took = time.monotonic() - self._began
        rate = (self._done - self._before) / took if took > 0.05 else 0.0
        total = f"/{self._total}" if self._total is not None else ""
        # what a narrow terminal cuts off comes last
        parts = [f"{self._name} {self._done}{total}"]
        if self._total and rate and self._done < self._total:
            parts.append(f"{_clock((self._total - self._done) / rate)} left")
        else:
            parts.append(_clock(took))
        if self._usd or self._cap is not None:
            cap = "" if self._cap is None else f" of {self._cap:.{2 if self._cap >= 0.1 else 4}f}"
            parts.append(f"{self._usd:.4f}{cap} USD")
        parts += [self._note] if self._note else []
        parts.append(f"{rate:.1f}/s")
        parts += [f"{n} {k.replace('_', ' ')}" for k, n in sorted(self._counts.items()) if n]
        parts += _told(self._traffic())
        return " · ".join(parts)


class PlainProgress(_Counting):
    """A line at the end of each stage, and every ``every`` seconds within it."""

    def __init__(self, out: TextIO | None = None, every: float = 10.0) -> None:
        super().__init__()
        self._out = out or sys.stderr
        self._every = every
        self._spoke = time.monotonic()

    def stage(self, name: str, total: int | None) -> None:
        super().stage(name, total)
        self._spoke = time.monotonic()

    def step(self, units: int = 1, **counts: int) -> None:
        super().step(units, **counts)
        self.tick()

    def tick(self) -> None:
        if self._name and time.monotonic() - self._spoke >= self._every:
            self._spoke = time.monotonic()
            self.say(self._line())

    def say(self, text: str) -> None:
        print(text, file=self._out, flush=True)

    def close(self) -> None:
        if self._name:
            self.say(self._line())
        self._name = ""

    def abandon(self) -> None:
        self._name = ""


class LiveProgress(_Counting):
    """One line that is rewritten in place, left standing when its stage ends."""

    def __init__(self) -> None:
        super().__init__()
        from rich.console import Console

        self._console = Console(stderr=True, highlight=False)
        self._live: Any = None

    def stage(self, name: str, total: int | None) -> None:
        super().stage(name, total)
        from rich.live import Live

        self._live = Live(
            get_renderable=self._renderable,
            console=self._console,
            refresh_per_second=4,
            redirect_stdout=False,
        )
        self._live.start()

    def _renderable(self) -> Any:
        from rich.text import Text

        return Text(self._line(), overflow="ellipsis", no_wrap=True)

    def say(self, text: str) -> None:
        self._console.print(text, markup=False)

    def close(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None
        self._name = ""


def progress_for(stream: TextIO) -> Progress:
    """A live line on a terminal, plain lines elsewhere."""
    return LiveProgress() if stream.isatty() else PlainProgress(stream)


def _told(traffic: Mapping[str, int]) -> list[str]:
    """What is going on with served models; nothing where none was asked."""
    said = [
        f"{traffic[name]} {words}"
        for name, words in (("in_flight", "in flight"), ("resting", "to be tried again"))
        if traffic.get(name)
    ]
    tokens = traffic.get("input_tokens", 0) + traffic.get("output_tokens", 0)
    return [*said, f"{short(tokens)} tokens"] if tokens else said


def short(number: int) -> str:
    """A count in three figures: 12.3 k."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return str(number)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
