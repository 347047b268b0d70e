"""The pictures of the scores: places in percent of the width, so that no text is ever scaled."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import groupby
from math import ceil, floor
from typing import Any

from persd.outcomes import APART, NOT_RUN, PASSED, TRUNCATED
from persd.report import compared
from persd.report.text import percent, share

#: Error types that get a row of their own; the rest stand together.
TYPES_SHOWN = 12
#: Widths of a step of an axis, of which the least that leaves few enough steps is taken.
STEPS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
_MOST_STEPS = 6

Row = Mapping[str, Any]


def place(part: float, whole: float) -> str:
    """Percent of the width; nothing of nothing is at the left."""
    return f"{100 * part / whole:.3f}" if whole else "0"


def benchmarks(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """The results by benchmark: rows for the tables, and what the pictures show.

    Keys: ``name``; ``rows``, those of the results with their ``name``; ``ks``; ``names``, the
    columns that tell rows apart; ``ticks`` and ``panels`` (one a k) of the scores;
    ``compared`` (one for each thing compared to); ``outcomes`` (None: not recorded);
    ``controls``: whether there are any; ``apart``: what is part of no score, in words.
    """
    found = []
    for name, group in groupby(rows, key=lambda r: r["benchmark"]):
        plain = list(group)
        names = compared.names(plain)
        mine = [{**r, "name": compared.name_of(r, names)} for r in plain]
        ks = list(dict.fromkeys(k for r in mine for k in r["pass@k"]))
        axis = Axis(0.0, max(_highest(mine), 0.1))
        found.append(
            {
                "name": name,
                "rows": mine,
                "ks": ks,
                "names": names,
                "ticks": axis.ticks(lambda v: f"{100 * v:.0f}"),
                "panels": [_panel(mine, k, axis) for k in ks],
                "compared": [c for a in compared.AGAINST if (c := _compared(mine, a))],
                "outcomes": _outcomes(mine),
                "controls": any("resample" in r for r in mine),
                "apart": compared.apart(plain),
            }
        )
    return found


class Axis:
    """From a round figure at or below ``low`` <= 0 to one at or above ``high`` > 0."""

    def __init__(self, low: float, high: float) -> None:
        wide = high - low - 1e-9
        self.step = next((s for s in STEPS if wide <= s * _MOST_STEPS), STEPS[-1])
        # what rounding adds is not past a tick
        self._first = floor(low / self.step + 1e-9)
        self._last = ceil(high / self.step - 1e-9)

    def place(self, value: float) -> str:
        return place(value / self.step - self._first, self._last - self._first)

    def ticks(self, text: Callable[[float], str]) -> list[dict[str, str]]:
        """Where a line is drawn, and what stands below it."""
        values = [i * self.step for i in range(self._first, self._last + 1)]
        return [{"at": self.place(v), "text": text(v)} for v in values]


def _highest(rows: Sequence[Row]) -> float:
    scores = [*rows, *(r["resample"] for r in rows if "resample" in r)]
    return max((_bar(s, k)[1] for s in scores for k in s["pass@k"]), default=0.0)


def _bar(scores: Row, k: str) -> tuple[float, float]:
    """The interval of a score, or the score where it has none."""
    value = scores["pass@k"][k]
    low, high = scores["interval"].get(k) or (value, value)
    return low, high


def _panel(rows: Sequence[Row], k: str, axis: Axis) -> dict[str, Any]:
    """The scores at one k: a dot a row, and below a later step its control."""
    dots = []
    for row in rows:
        mark = "base" if row["model"] == "base" else ""
        later = " later" if row["step"] > 1 else ""
        if k in row["pass@k"]:
            dots.append({"name": row["name"], **_dot(row, k, axis, f"dot {mark}{later}")})
        control = row.get("resample", {"pass@k": {}})
        if k in control["pass@k"]:
            dots.append({"name": "resample", **_dot(control, k, axis, f"control {mark}")})
    base = next((r["pass@k"][k] for r in rows if _is_start(r) and k in r["pass@k"]), None)
    return {"k": k, "dots": dots, "base": None if base is None else axis.place(base)}


def _is_start(row: Row) -> bool:
    """Whether a row is of the untrained student's first step."""
    return bool(row["model"] == "base" and row["step"] == 1)


def _dot(scores: Row, k: str, axis: Axis, mark: str) -> dict[str, str]:
    low, high = _bar(scores, k)
    value = scores["pass@k"][k]
    return {
        "mark": mark,
        "at": axis.place(value),
        "low": axis.place(low),
        "high": axis.place(high),
        "text": percent(value),
    }


# -- differences ------------------------------------------------------------------------------


def _compared(rows: Sequence[Row], against: str) -> dict[str, Any] | None:
    """All differences to one thing on one axis; None where there are none."""
    found = compared.comparisons(rows, against)
    if not found:
        return None
    low, high = min(c.interval[0] for c in found), max(c.interval[1] for c in found)
    axis = Axis(min(low, -0.01), max(high, 0.01))
    ks = list(dict.fromkeys(c.k for c in found))
    return {
        "against": against,
        "ks": ks,
        "ticks": axis.ticks(lambda v: f"{100 * v:+.0f}" if v else "0"),
        "zero": axis.place(0.0),
        "panels": [{"k": k, "dots": [_difference(c, axis) for c in found if c.k == k]} for k in ks],
        "rows": _differences(found),
    }


def _difference(one: compared.Comparison, axis: Axis) -> dict[str, Any]:
    return {
        "one": one,
        "at": axis.place(one.value),
        "low": axis.place(one.interval[0]),
        "high": axis.place(one.interval[1]),
        "name": one.row["name"],
        "mark": f"dot{' base' * (one.row['model'] == 'base')}{' open' * (not one.clear)}",
    }


def _differences(found: Iterable[compared.Comparison]) -> list[dict[str, Any]]:
    """For the table: a row of the results, its differences by k, its tasks at the least k."""
    rows = []
    for _, group in groupby(found, key=lambda c: id(c.row)):
        by_k = {c.k: c for c in group}
        first = next(iter(by_k.values()))
        rows.append({"row": first.row, "by_k": by_k, "first": first})
    return rows


# -- what goes wrong --------------------------------------------------------------------------


def _outcomes(rows: Sequence[Row]) -> dict[str, Any] | None:
    """Samples of the first step by outcome, a column a model; None where none are recorded.

    Shares are of the samples in the score (``judged``, a model each); those ``apart`` are
    counted. Bars are scaled to the largest share.
    """
    mine = [r for r in rows if r["step"] == 1 and r["outcomes"]]
    if not mine:
        return None
    names = [n for n in compared.names(rows) if n != "step"]
    judged = [sum(n for o, n in r["outcomes"].items() if o not in APART) for r in mine]
    lines = [(name, of, _counts(mine, of)) for name, of in _named(mine)]
    shares = [n / all_ for _, _, line in lines for n, all_ in zip(line, judged, strict=True) if n]
    most = max(shares, default=0.0)
    return {
        "names": [compared.name_of(r, names) for r in mine],
        "judged": judged,
        "lines": [
            {
                "outcome": name,
                "of": of,
                "cells": [_cell(n, all_, most) for n, all_ in zip(line, judged, strict=True)],
            }
            for name, of, line in lines
        ],
        "apart": {
            name: counts for name in (TRUNCATED, NOT_RUN) if any(counts := _counts(mine, [name]))
        },
    }


def _named(rows: Sequence[Row]) -> list[tuple[str, list[str]]]:
    """Lines of the table: what each is called, and the outcomes it counts.

    ``passed``, then what goes wrong, that which does so most before training first; the rarest
    together.
    """
    before: Mapping[str, int] = next((r["outcomes"] for r in rows if r["model"] == "base"), {})
    named = {o for r in rows for o in r["outcomes"]} - APART - {PASSED}
    every = {o: sum(_counts(rows, [o])) for o in named}
    ordered = [PASSED, *sorted(named, key=lambda o: (-before.get(o, 0), -every[o], o))]
    if len(ordered) <= TYPES_SHOWN + 2:  # one alone is no group
        return [(o, [o]) for o in ordered]
    shown, rest = ordered[: TYPES_SHOWN + 1], ordered[TYPES_SHOWN + 1 :]
    return [*((o, [o]) for o in shown), (f"{len(rest)} rarer", rest)]


def _counts(rows: Sequence[Row], of: Sequence[str]) -> list[int]:
    return [sum(r["outcomes"].get(o, 0) for o in of) for r in rows]


def _cell(count: int, judged: int, most: float) -> dict[str, Any]:
    width = place(count / judged, most) if judged else "0"
    return {"count": count, "share": share(count, judged), "width": width}
