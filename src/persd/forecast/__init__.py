"""What a run will ask and cost, and how many examples will come, from what it has asked so far.

A pilot (``pilot_tasks``) is a random sample of the pool that is really taken through a round:
paid, kept, and never paid again. What it showed, or what the run has shown since, is led on to
the rest (``persd.forecast.futures``); before anything was asked only an upper bound is known.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from operator import mul
from pathlib import Path
from typing import Any

from persd.config import Config, asks_more, changed_keys
from persd.forecast.futures import Future, Rates, all_futures, all_seen, future, without_example
from persd.forecast.history import CALLS, ENTERED, INPUT, History, read
from persd.forecast.plan import (
    AGAIN,
    ATTEMPT,
    DIRECT,
    REFERENCE,
    REPAIR,
    Payer,
    bounds,
    entry,
    payers,
    plan,
)
from persd.ledger import FILE_NAME, Ledger
from persd.money import spent_on
from persd.records import OPEN_STATES, Task, Usage
from persd.run import read_pool
from persd.tasks import BENCHMARKS

Range = dict[str, Any]
"""{"expected", "low", "high"}: 95 %; None: not known."""


def pilot_tasks(ledger: Ledger, count: int, seed: int, round: int = 1) -> list[Task]:
    """Those of a random sample of the pool that have no final state in this round yet.

    The sample depends on the tasks' names and the seed alone, not on their order, and a larger
    one holds the smaller: the same pilot again has nothing left to do.
    """
    rows = ledger.query("SELECT task_id FROM tasks WHERE benchmark = ''")
    drawn = _drawn([row["task_id"] for row in rows], seed)[:count]
    states = ledger.states(round)
    done = {i for i, s in states.items() if s.state not in OPEN_STATES}
    found = [ledger.task(task_id) for task_id in drawn if task_id not in done]
    return [task for task in found if task is not None]


def _drawn(task_ids: Sequence[str], seed: int) -> list[str]:
    """The tasks in an order by chance."""

    def lot(task_id: str) -> bytes:
        return hashlib.sha256(f"{seed}\x1f{task_id}".encode("utf-8", "replace")).digest()

    return sorted(task_ids, key=lot)


def dry_run(config: Config) -> dict[str, Any]:
    """The plan, and under ``forecast`` what a run of this config will ask and cost.

    A run that exists is read, also while another process writes it; none is made. Raises
    UserError for what a run would refuse: a broken task, a missing key.
    """
    if not (Path(config.run.dir) / FILE_NAME).is_file():
        return _plan_and_forecast(config, None)
    with Ledger(config.run.dir, read_only=True) as ledger:
        found = _plan_and_forecast(config, ledger)
        before = ledger.meta("config")
        if before and asks_more(changed_keys(before, config)):
            more = "what was given up is asked about again, which is not counted"
            found["forecast"]["notes"].append(more)
        return found


def _plan_and_forecast(config: Config, ledger: Ledger | None) -> dict[str, Any]:
    tasks, making, notes = _pool(config, ledger)
    told = forecast(config, ledger, tasks)
    told["notes"] += notes
    return {**plan(config, tasks), **making, "forecast": told}


def _pool(config: Config, ledger: Ledger | None) -> tuple[list[Task], dict[str, Any], list[str]]:
    """The pool, what making it still asks, and what is guessed of it, in words."""
    table = config.tasks
    is_made = table.generate is not None or table.difficulty is not None
    on_hub = table.path is None and table.source in BENCHMARKS
    if ledger is not None and ledger.count_tasks() and (is_made or on_hub):
        return ledger.tasks(), {}, []
    if not is_made:
        return list(read_pool(config)), {}, []
    from persd.pool.of_run import likely_pool

    return likely_pool(config, ledger)


def forecast(
    config: Config, ledger: Ledger | None, tasks: Sequence[Task] | None = None
) -> dict[str, Any]:
    """The whole run, what was spent included; ``tasks``: the pool, by default the ledger's.

    Keys: ``basis``, what it rests on, with ``tasks`` and ``tasks_finished`` (of all rounds);
    ``calls`` by what they ask for (``attempts`` of a served student, ``directs``, ``repairs``),
    ``input_tokens``, ``output_tokens``, ``examples`` (verified repairs, of all rounds),
    ``usd``, ``usd_per_example``, each a Range; ``usd_text``, why there are no USD, else empty;
    ``spent_usd`` with ``at_risk_usd`` of it for calls whose cost nobody
    told; ``cap_usd`` over all payers; where the cap may bind, the Ranges
    ``budget_reaches_tasks`` and ``budget_reaches_examples``, else None; ``notes``. Where no task
    is finished only ``high`` is known. USD are None where a price is.
    """
    if tasks is None:
        tasks = ledger.tasks() if ledger else []
    paying = payers(config)
    entries = {t.task_id: entry(t, config) for t in tasks}
    history = read(ledger, entries, config.run.rounds, paying)
    known = _from_history(history, tasks, config) if history.finished else None
    return {
        "basis": _basis(history, entries, config),
        "tasks": history.units,
        "tasks_finished": history.finished,
        **(known or _at_most(history, tasks, config)),
        "usd_text": _unknown(paying),
        "spent_usd": _sum(history.spent),
        "at_risk_usd": _at_risk(ledger, paying),
        "cap_usd": _cap(paying),
        "notes": _notes(history, config, paying),
    }


def _at_risk(ledger: Ledger | None, paying: Sequence[Payer]) -> float:
    """USD held for calls under way or lost, at the most they can cost."""
    tries = [t for t in ledger.tries() if t.usd is None] if ledger else []
    prices = {(p.role, p.spec.model): p.price for p in paying}
    return sum(spent_on(t, prices.get((t.role, t.model))) for t in tries)


def _basis(history: History, entries: Mapping[str, int | None], config: Config) -> str:
    if not history.finished:
        asked = sum(history.calls.values())
        return f"upper bound: {'no task is finished yet' if asked else 'nothing was asked yet'}"
    begun = len(history.touched)
    if begun < len(entries):
        first = _drawn(list(entries), config.run.seed)[:begun]
        if set(first) == history.touched:
            return f"pilot of {begun} task{'s' * (begun != 1)}"
    one = history.finished == 1
    return f"{history.finished} finished task{'s' * (not one)} of this run"


def _notes(history: History, config: Config, paying: Sequence[Payer]) -> list[str]:
    notes = []
    if config.run.rounds > 1:
        notes.append("later rounds are taken to be like those seen")
    if not history.finished:
        notes.append("replies that hold no code and failed calls, asked again, come on top")
    elif history.waiting[DIRECT] and not _past(history, DIRECT):
        notes.append("no direct answer was asked yet: they are counted at their longest")
    return notes


def _unknown(paying: Sequence[Payer]) -> str:
    roles = [p.role for p in paying if p.price is None]
    return f"unknown: give {roles[0]}.price" if roles else ""


def _past(history: History, stage: int) -> float:
    """Units that are past a stage."""
    return sum(row[stage * history.width + ENTERED] for row in history.rows.values())


def _cap(paying: Sequence[Payer]) -> float | None:
    given = [p.spec.budget_usd for p in paying if p.spec.budget_usd is not None]
    return sum(given) if given else None


def _sum(usd: Sequence[float | None]) -> float | None:
    known = [u for u in usd if u is not None]
    return round(sum(known), 9) if len(known) == len(usd) else None


# -- nothing to go by -------------------------------------------------------------------------


def _at_most(history: History, tasks: Sequence[Task], config: Config) -> dict[str, Any]:
    most = bounds(tasks, config)
    usages = [usage for by_payer in most.usage for usage in by_payer]
    served = payers(config)[0].counts
    if not served:
        usages = [u for by_payer in most.usage for u in by_payer[1:]]
    usd = most.usd(config)
    return {
        "calls": {
            "attempts": _bound(most.calls[ATTEMPT] if served else 0),
            "directs": _bound(most.calls[DIRECT]),
            "repairs": _bound(most.calls[REPAIR] + most.calls[AGAIN]),
        },
        "input_tokens": _bound(sum(u.input_tokens for u in usages)),
        "output_tokens": _bound(sum(u.output_tokens for u in usages)),
        "examples": _bound(sum(t.tested for t in tasks) * config.run.rounds),
        "usd": None if usd is None else _bound(usd),
        "usd_per_example": None,
        "budget_reaches_tasks": None,
        "budget_reaches_examples": None,
    }


def _bound(high: float) -> Range:
    return {"expected": None, "low": None, "high": high}


# -- what they amount to ----------------------------------------------------------------------


def _from_history(history: History, tasks: Sequence[Task], config: Config) -> dict[str, Any]:
    seen = all_seen(history)
    plain = [s.plain for s in seen]
    without_example(seen, plain, tasks, config)
    still = [[0.0] * len(s.spread) for s in seen]
    middle = future(history, plain, mul, still)
    futures = all_futures(history, seen, plain)

    def total(of: Callable[[Future], float], done: int) -> Range:
        return _range(done + of(middle), [done + of(f) for f in futures], None)

    def calls(asks: str) -> Range:
        return total(lambda f: f.calls.get(asks, 0.0), history.calls.get(asks, 0))

    return {
        "calls": {asks: calls(asks) for asks in ("attempts", "directs", "repairs")},
        "input_tokens": total(lambda f: f.tokens[0], history.input_tokens),
        "output_tokens": total(lambda f: f.tokens[1], history.output_tokens),
        "examples": total(lambda f: f.examples, history.refined),
        **_money(history, plain, middle, futures, config),
    }


def _money(
    history: History,
    plain: Sequence[Rates],
    middle: Future,
    futures: Sequence[Future],
    config: Config,
) -> dict[str, Any]:
    names = ("usd", "usd_per_example", *_NO_REACH)
    spent = _sum(history.spent)
    if spent is None or any(p.price is None for p in payers(config)):
        return dict.fromkeys(names)
    usd = _range(spent + sum(middle.usd), [spent + sum(f.usd) for f in futures], 9)
    each = _each(spent, history, middle, futures)
    return {"usd": usd, "usd_per_example": each, **_reach(history, plain, middle, futures, config)}


def _range(expected: float, drawn: Sequence[float], digits: int | None) -> Range:
    """The 95 % interval of what was drawn, and the value held to be most likely within it."""
    ordered = sorted(drawn)
    low, high = ordered[round(0.025 * len(ordered))], ordered[round(0.975 * len(ordered)) - 1]
    middle = min(max(expected, low), high)
    if digits is None:
        return {
            "expected": round(middle),
            "low": math.floor(low + _CRUMB),
            "high": math.ceil(high - _CRUMB),
        }
    return {k: round(v, digits) for k, v in zip(_ENDS, (middle, low, high), strict=True)}


#: What rounding may add to a sum.
_CRUMB = 1e-6
_ENDS = ("expected", "low", "high")
_NO_REACH: dict[str, Any] = {"budget_reaches_tasks": None, "budget_reaches_examples": None}


def _each(
    spent: float, history: History, middle: Future, futures: Sequence[Future]
) -> Range | None:
    """USD an example; an end is None where there may be no example."""

    def each(f: Future) -> float:
        examples = history.refined + f.examples
        return (spent + sum(f.usd)) / examples if examples else math.inf

    found = _range(each(middle), [each(f) for f in futures], 9)
    found = {k: None if math.isinf(v) else v for k, v in found.items()}
    return found if found["expected"] is not None else None


def _reach(
    history: History,
    plain: Sequence[Rates],
    middle: Future,
    futures: Sequence[Future],
    config: Config,
) -> dict[str, Any]:
    """How far the caps reach, where in one of forty futures or more they are not enough."""
    left = _left(history, plain, config)
    reached = [_reached(history, f, left) for f in (middle, *futures)]
    short = sum(share < 1 for share, _, _ in reached)
    if short * 40 < len(reached):
        return _NO_REACH
    (_, tasks, examples), *others = reached
    return {
        "budget_reaches_tasks": _range(tasks, [t for _, t, _ in others], None),
        "budget_reaches_examples": _range(examples, [e for _, _, e in others], None),
    }


def _left(history: History, plain: Sequence[Rates], config: Config) -> list[float]:
    """USD that each payer may still spend; the most that one call can cost stays unspent."""
    found = []
    for place, payer in enumerate(payers(config)):
        cap, spent, price = payer.spec.budget_usd, history.spent[place], payer.price
        if cap is None or spent is None or price is None:
            found.append(math.inf)
            continue
        asked = plain[ATTEMPT if place == 0 else REPAIR].means[INPUT - CALLS]
        held = price.cost(Usage(round(_BYTES * asked), payer.spec.max_tokens))
        found.append(max(0.0, cap - spent - held))
    return found


#: Bytes a token of a question has in the mean; a call is held to have a token a byte.
_BYTES = 4


def _reached(history: History, f: Future, left: Sequence[float]) -> tuple[float, float, float]:
    """(share of what is asked that the caps allow, tasks that end, examples that come).

    Tasks go through all stages one after the other, so the first ones get all their calls.
    """
    shares = [
        min(1.0, have / need) if need > 0 else 1.0 for have, need in zip(left, f.usd, strict=True)
    ]
    share = min(shares)
    if shares[0] == share:
        cut_off = f.units[ATTEMPT]
    else:  # those with a direct answer to be asked for, and of the others those to be repaired
        asked = f.units[DIRECT]
        entering = asked + f.units[REFERENCE] + history.waiting[ATTEMPT]
        repairs = f.units[REPAIR] + history.waiting[AGAIN]
        cut_off = asked + (1 - asked / max(1.0, entering)) * repairs
    ended = history.units - (1 - share) * cut_off
    return share, ended, history.refined + share * f.examples


# -- for people -------------------------------------------------------------------------------


def readable(found: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The rows of a forecast, (what, how much), in the order they are read."""
    from persd.report.text import number, usd

    def count(value: float) -> str:
        return number(round(value))

    rows = [("rests on", str(found["basis"]))]
    rows += [(_CALLS[k], _shown(v, count)) for k, v in found["calls"].items() if v["high"]]
    rows.append(("input tokens", _shown(found["input_tokens"], count)))
    rows.append(("output tokens", _shown(found["output_tokens"], count)))
    rows.append(("verified examples", _shown(found["examples"], count)))
    rows.append(("money", _shown(found["usd"], usd) if found["usd"] else found["usd_text"]))
    if found["usd_per_example"]:
        rows.append(("money an example", _shown(found["usd_per_example"], usd)))
    held = found["at_risk_usd"]
    untold = f" (and up to {usd(held)} in calls whose cost nobody told)" if held else ""
    spent = None if found["spent_usd"] is None else found["spent_usd"] - held
    rows.append(("spent so far", usd(spent) + untold))
    if found["cap_usd"] is not None:
        rows.append(("cap", usd(found["cap_usd"])))
    if found["budget_reaches_tasks"]:
        rows.append(("tasks the cap reaches", _shown(found["budget_reaches_tasks"], count)))
        rows.append(("examples the cap reaches", _shown(found["budget_reaches_examples"], count)))
    return [*rows, *(("note", note) for note in found["notes"])]


_CALLS = {
    "attempts": "calls of the student",
    "directs": "direct answers asked",
    "repairs": "repairs asked",
}


def _shown(value: Range, text: Callable[[float], str]) -> str:
    """``312 (271 - 358)``, or ``at most 800``."""
    low, middle, high = value["low"], value["expected"], value["high"]
    if middle is None:
        return f"at most {text(high)}"
    if low == high:
        return text(middle)
    return f"{text(middle)} ({text(low)} - {'?' if high is None else text(high)})"
