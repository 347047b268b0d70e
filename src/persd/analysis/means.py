"""Means over tasks with their intervals."""

from __future__ import annotations

from collections.abc import Sequence

from persd.passk import bootstrap_interval


def ratio(values: Sequence[float], weights: Sequence[float] | None = None) -> float | None:
    """Sum of values over sum of weights, or over their number; None: there is nothing."""
    whole = len(values) if weights is None else sum(weights)
    return sum(values) / whole if whole else None


def ratio_interval(
    values: Sequence[float], weights: Sequence[float] | None = None
) -> list[float] | None:
    """The bootstrap interval of ``ratio`` over tasks, linearised where weights differ.

    Each task counts as ratio + (value - ratio * weight) / mean weight, whose mean is the ratio:
    to first order these vary as the ratio does when tasks are drawn anew.
    """
    whole = ratio(values, weights)
    if whole is None:
        return None
    each = list(values)
    if weights is not None:
        mean = sum(weights) / len(weights)
        each = [whole + (v - whole * w) / mean for v, w in zip(values, weights, strict=True)]
    return list(bootstrap_interval(each))
