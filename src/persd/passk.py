"""pass@k without bias, and its uncertainty.

pass@k = mean over tasks of 1 - C(n-c, k) / C(n, k), with n samples of a task of which c pass
(Chen et al. 2021, "Evaluating large language models trained on code", section 2.1).
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence


def pass_at_k(samples: int, passed: int, k: int) -> float:
    """The unbiased estimate for one task: the chance that k of its samples hold a pass.

    Raises ValueError where samples < k (there is no unbiased estimate), or the counts are
    impossible.
    """
    if k < 1 or not 0 <= passed <= samples:
        raise ValueError(f"impossible counts: {passed} passed of {samples}, k = {k}")
    if samples < k:
        raise ValueError(f"pass@{k} needs at least {k} samples, there are {samples}")
    if samples - passed < k:
        return 1.0
    return 1.0 - math.comb(samples - passed, k) / math.comb(samples, k)


def mean_pass_at_k(counts: Sequence[tuple[int, int]], k: int) -> float:
    """The mean over tasks, given (samples, passed) of each. Raises ValueError if there is none."""
    if not counts:
        raise ValueError("pass@k of no tasks")
    return sum(pass_at_k(n, c, k) for n, c in counts) / len(counts)


def bootstrap_interval(
    values: Sequence[float], *, seed: int = 0, resamples: int = 2000, level: float = 0.95
) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean over tasks; deterministic for a seed.

    ``values`` holds one score a task. It says how the score would vary with other tasks of
    the same kind, not with other seeds of training.
    """
    if not values:
        raise ValueError("an interval of no values")
    draw = random.Random(seed)
    n = len(values)
    means = sorted(sum(draw.choices(values, k=n)) / n for _ in range(resamples))
    tail = (1 - level) / 2
    low = means[int(tail * resamples)]
    high = means[min(resamples - 1, math.ceil((1 - tail) * resamples) - 1)]
    return low, high
