"""The thousand futures of a run: how the tasks to come may fall, given what was seen of others.

The tasks that are past a stage (``persd.forecast.history``) tell what share of them goes on and
what it costs there; the tasks that are not past it will do likewise. A future draws two
uncertainties together: what the shares and means are (the tasks seen are weighted anew, a
Bayesian bootstrap, with Jeffreys' half a task added to either outcome of a stage, so that what
was never seen is not taken for impossible), and how the tasks to come fall.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from operator import mul

from persd.config import Config
from persd.forecast.history import CALLS, ENTERED, ON, USD, History
from persd.forecast.plan import (
    AGAIN,
    ASKS,
    ATTEMPT,
    DIRECT,
    REFERENCE,
    REPAIR,
    STAGES,
    Bound,
    once,
    payers,
)
from persd.records import Task

#: Futures drawn, and groups the tasks are weighted in (alone where they are no more).
DRAWS, GROUPS = 1000, 100
#: Tasks whose longest possible calls stand for a stage that no task has come to.
_FEW = 100
#: Relative error of a mean that rests on fewer than two tasks.
_GUESS = 0.5


# -- the shares and means of the stages -------------------------------------------------------


@dataclass(slots=True)
class Rates:
    """What a stage does to a task, in one of the futures."""

    share: float
    """Of the tasks, that go on."""
    means: list[float]
    """A task: calls, tokens in and out, USD by payer."""


@dataclass(slots=True)
class Seen:
    """What a stage was seen to do: its columns, summed up in groups of tasks."""

    columns: list[list[float] | None]
    """None: nothing but 0."""
    count: float
    spread: list[float]
    """Standard deviation over tasks, of calls, tokens in and out, and USD by payer."""

    @property
    def plain(self) -> Rates:
        """The shares and means as they were seen."""
        sums = [0.0 if c is None else sum(c) for c in self.columns]
        share = sums[ON] / self.count if self.count else 0.5
        return Rates(share, [x / max(1.0, self.count) for x in sums[CALLS:]])


def all_seen(history: History) -> list[Seen]:
    """What was seen at each stage."""
    count = min(GROUPS, len(history.rows))
    groups = [[0.0] * len(history.squares) for _ in range(count)]
    for number, row in enumerate(history.rows.values()):
        group = groups[number % count]
        for column, value in enumerate(row):
            if value:
                group[column] += value
    columns = [list(c) for c in zip(*groups, strict=True)]
    found = []
    for stage in STAGES:
        base = stage * history.width
        own = columns[base : base + history.width]
        squares = history.squares[base : base + history.width]
        n = sum(own[ENTERED])
        spread = [_deviation(sum(c), q, n) for c, q in zip(own, squares, strict=True)]
        found.append(Seen([c if any(c) else None for c in own], n, spread[CALLS:]))
    return found


def _deviation(total: float, squares: float, n: float) -> float:
    return math.sqrt(max(0.0, squares - total * total / n) / (n - 1)) if n > 1 else 0.0


def _drawn_rates(seen: Seen, plain: Rates, weights: list[float], rng: random.Random) -> Rates:
    """The shares and means as they may be, given what was seen."""

    def weighed(column: int) -> float:
        values = seen.columns[column]
        return 0.0 if values is None else sum(map(mul, weights, values))

    entered = weighed(ENTERED)
    on, off = rng.gammavariate(0.5, 1.0), rng.gammavariate(0.5, 1.0)
    share = (weighed(ON) + on) / (entered + on + off)
    if seen.count < 2:
        scale = math.exp(_GUESS * rng.gauss(0.0, 1.0))
        return Rates(share, [m * scale for m in plain.means])
    stretch = _stretch(min(seen.count, len(weights)))
    drawn = [weighed(c) / entered for c in range(CALLS, len(seen.columns))]
    # as a factor: costs are skewed, and a few tasks miss the dear ones more often than not
    pairs = zip(plain.means, drawn, strict=True)
    means = [m * math.exp(min(_MOST, stretch * (d / m - 1))) if m else 0.0 for m, d in pairs]
    return Rates(share, means)


#: Largest logarithm of what a mean may be off by.
_MOST = 3.0


def _stretch(n: float) -> float:
    """How much wider than the bootstrap's the error of a mean of ``n`` is: Student's t."""
    df = n - 1
    t = 1 + (1.96**2 + 1) / (4 * df) + (5 * 1.96**4 + 16 * 1.96**2 + 3) / (96 * df * df)
    return t * math.sqrt((n + 1) / df)


def without_example(
    seen: Sequence[Seen], plain: list[Rates], tasks: Sequence[Task], config: Config
) -> None:
    """Give stages that nobody came to the means of what is nearest to them."""
    longest: Bound | None = None
    for stage in (DIRECT, ATTEMPT, REPAIR, AGAIN):
        if seen[stage].count:
            continue
        if stage == AGAIN and seen[REPAIR].count:
            more = sum(t.max_tries for t in config.teacher) - 1
            plain[AGAIN].means = [m * more for m in plain[REPAIR].means]
            continue
        few = tasks[:: max(1, len(tasks) // _FEW)]
        longest = longest or once(few, config)
        plain[stage].means = _longest(longest, stage, len(few), config)


def _longest(bound: Bound, stage: int, count: int, config: Config) -> list[float]:
    by_payer = bound.usage[stage]
    paying = payers(config)
    if stage == ATTEMPT and not paying[0].counts:
        return [0.0] * (USD - CALLS + len(paying))
    usd = [p.price.cost(u) if p.price else 0.0 for p, u in zip(paying, by_payer, strict=True)]
    tokens = [sum(u.input_tokens for u in by_payer), sum(u.output_tokens for u in by_payer)]
    return [x / count for x in (bound.calls[stage], *tokens, *usd)]


# -- the futures ------------------------------------------------------------------------------


@dataclass(slots=True)
class Future:
    """What is still to come, in one of the futures."""

    calls: dict[str, float] = field(default_factory=dict)
    tokens: list[float] = field(default_factory=lambda: [0.0, 0.0])
    usd: list[float] = field(default_factory=list)
    """By payer."""
    examples: float = 0.0
    units: list[float] = field(default_factory=list)
    """That come to each stage."""


Count = Callable[[float, float], float]
"""How many of so many tasks go on, given the share."""


def future(
    history: History, rates: Sequence[Rates], count: Count, noise: Sequence[Sequence[float]]
) -> Future:
    """Lead the waiting units through the stages. ``noise``: what a unit's cost varies by."""
    w, share = history.waiting, [r.share for r in rates]
    let_in = count(w[REFERENCE], share[REFERENCE]) + count(w[DIRECT], share[DIRECT])
    entering = w[REFERENCE] + w[DIRECT]
    later = history.later / entering if entering else 0.0
    attempts = w[ATTEMPT] + let_in * (1 + later)
    repairs = w[REPAIR] + count(attempts, share[ATTEMPT])
    asked_again = count(repairs, share[REPAIR])
    again = w[AGAIN] + asked_again
    refined = repairs - asked_again + count(again, share[AGAIN])
    units = [float(w[REFERENCE]), float(w[DIRECT]), attempts, repairs, again]
    found = Future(units=units, examples=refined, usd=[0.0] * (history.width - USD))
    for stage in (DIRECT, ATTEMPT, REPAIR, AGAIN):
        _charge(found, stage, rates[stage].means, noise[stage], history.paid[stage])
    return found


def _charge(
    found: Future, stage: int, means: Sequence[float], noise: Sequence[float], paid: int
) -> None:
    """Add what the units at a stage cost, but for the calls that are paid."""
    n = found.units[stage]
    root = math.sqrt(n)
    sums = [max(0.0, n * mean + root * z) for mean, z in zip(means, noise, strict=True)]
    left = max(0.0, 1 - paid / sums[0]) if sums[0] else 0.0
    calls, tokens_in, tokens_out, *usd = (left * x for x in sums)
    asks = ASKS[stage] or ""
    found.calls[asks] = found.calls.get(asks, 0.0) + calls
    found.tokens[0] += tokens_in
    found.tokens[1] += tokens_out
    found.usd = [a + b for a, b in zip(found.usd, usd, strict=True)]


def _binomial(n: float, p: float, rng: random.Random) -> float:
    """How many of ``n`` go on, by chance."""
    n = round(n)
    if n <= 50:
        return float(sum(rng.random() < p for _ in range(n)))
    drawn = round(n * p + math.sqrt(n * p * (1 - p)) * rng.gauss(0.0, 1.0))
    return float(min(n, max(0, drawn)))


def all_futures(history: History, seen: Sequence[Seen], plain: Sequence[Rates]) -> list[Future]:
    """A thousand futures, always the same of the same history."""
    rng = random.Random(0)
    groups = min(GROUPS, len(history.rows))
    found = []
    for _ in range(DRAWS):
        weights = [rng.expovariate(1.0) for _ in range(groups)]
        rates = [_drawn_rates(s, p, weights, rng) for s, p in zip(seen, plain, strict=True)]
        noise = []
        for s in seen:
            z = rng.gauss(0.0, 1.0)
            noise.append([d * z for d in s.spread])
        found.append(future(history, rates, lambda n, p: _binomial(n, p, rng), noise))
    return found
