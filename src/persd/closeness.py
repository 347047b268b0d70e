"""How close repairs and direct answers are to the attempts: "personalised" as a number."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import SequenceMatcher
from statistics import fmean


def closeness(programs: Iterable[tuple[str, str, str]]) -> dict[str, float]:
    """Means over tasks, given (attempt, refinement, direct answer) as whole programs.

    ``attempt_refinement`` and ``attempt_direct`` are mean similarities, 0-1.
    ``refinement_closer`` is the share of tasks whose refinement is the closer one, a tie
    counting half (the probability of superiority of Mann and Whitney); ``equally_close`` is
    the share of ties, most of them the same program twice. All are 0.0 where there is no task.
    """
    pairs = [(similarity(a, r), similarity(a, c)) for a, r, c in programs]
    return {
        "attempt_refinement": _mean(near for near, _ in pairs),
        "attempt_direct": _mean(far for _, far in pairs),
        "refinement_closer": _mean((near > far) + (near == far) / 2 for near, far in pairs),
        "equally_close": _mean(near == far for near, far in pairs),
    }


def _mean(values: Iterable[float]) -> float:
    known = list(values)
    return fmean(known) if known else 0.0


def similarity(a: str, b: str) -> float:
    """Ratio of matching characters, 0-1, each run of white space counted as one space."""
    a, b = " ".join(a.split()), " ".join(b.split())
    return SequenceMatcher(None, a, b, autojunk=False).ratio()
