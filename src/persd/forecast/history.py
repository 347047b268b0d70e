"""How far every task of a run is, and what those that came further have asked and cost.

Read from the ledger in a few passes, for the forecast. A task's way through a round leads by
the stages of ``persd.forecast.plan``; at each it goes on or ends:

    reference, direct   goes on if its direct answer passes
    attempt             goes on if the student fails
    repair              goes on if the teacher's first repair does not settle it
    again               "goes on" if one of the later repairs passes
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from persd.forecast.plan import AGAIN, ASKS, ATTEMPT, DIRECT, REPAIR, STAGES, Payer
from persd.ledger import Ledger
from persd.money import most_tokens, spent_on
from persd.records import OPEN_STATES, Usage

#: Columns of a stage: tasks that came to it and are past it, those that went on, calls, tokens
#: in and out; then USD, a column a payer.
ENTERED, ON, CALLS, INPUT, OUTPUT, USD = range(6)


@dataclass(slots=True)
class Made:
    """What was asked of one payer, and what it cost with what failed on the way."""

    payer: int
    input_tokens: int
    output_tokens: int
    usd: float


@dataclass(slots=True)
class History:
    """What a run's tasks have shown. A unit is a task in a round."""

    width: int
    """Columns of a stage."""
    units: int = 0
    finished: int = 0
    touched: set[str] = field(default_factory=set)
    """Tasks that have begun, in whichever round."""
    refined: int = 0
    waiting: list[int] = field(default_factory=lambda: [0 for _ in STAGES])
    """Units by the stage they have come to and are not past."""
    later: int = 0
    """Attempts of later rounds that depend on whether the first lets their task in."""
    paid: list[int] = field(default_factory=lambda: [0 for _ in STAGES])
    """Calls of waiting units that are made and stored, by stage."""
    rows: dict[str, list[float]] = field(default_factory=dict)
    """What each task has shown: the stages' columns, one after the other."""
    squares: list[float] = field(default_factory=list)
    """Sums of squares over units, in the same columns."""
    calls: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    """Answered, by what they asked for."""
    input_tokens: int = 0
    output_tokens: int = 0
    spent: list[float | None] = field(default_factory=list)
    """USD by payer, of all its calls and failed tries; None: a price is not known."""

    def note(self, task_id: str, stage: int, went_on: bool, made: Sequence[Made]) -> None:
        """One unit is past a stage."""
        row = self.rows.setdefault(task_id, [0.0] * (self.width * len(STAGES)))
        seen = [0.0] * self.width
        seen[ENTERED], seen[ON], seen[CALLS] = 1.0, float(went_on), float(len(made))
        for m in made:
            seen[INPUT] += m.input_tokens
            seen[OUTPUT] += m.output_tokens
            seen[USD + m.payer] += m.usd
        base = stage * self.width
        for column, value in enumerate(seen, base):
            row[column] += value
            self.squares[column] += value * value


@dataclass(slots=True)
class _Unit:
    """What the ledger holds of one task in one round."""

    state: str | None = None
    made: dict[str, list[Made]] = field(default_factory=lambda: defaultdict(list))
    """By purpose, in their order."""
    passed_direct: bool = False
    failed_attempt: bool = False
    judged_repairs: int = 0

    @property
    def begun(self) -> bool:
        return bool(self.state or self.made)


def read(
    ledger: Ledger | None,
    entries: Mapping[str, int | None],
    rounds: int,
    payers: Sequence[Payer],
) -> History:
    """The history of a pool; ``entries`` gives the stage each task begins at. None: no run yet."""
    width = USD + len(payers)
    found = History(width, squares=[0.0] * (width * len(STAGES)), spent=[0.0 for _ in payers])
    units: dict[tuple[str, int], _Unit] = defaultdict(_Unit)
    if ledger is not None:
        _read_calls(ledger, payers, units, found)
        _read_states(ledger, units)
    for task_id, entry in entries.items():
        _follow(found, task_id, entry, [units.get((task_id, r)) for r in range(rounds + 1)])
    return found


# -- one task ---------------------------------------------------------------------------------


def _follow(
    found: History, task_id: str, entry: int | None, rounds: Sequence[_Unit | None]
) -> None:
    """Count one task in all its rounds; round 0 holds its direct answer."""
    direct = rounds[0] or _Unit()
    first = rounds[1] or _Unit()
    found.units += len(rounds) - 1
    came = _entry(found, task_id, entry, direct, first)
    for number, unit in enumerate([first, *(u or _Unit() for u in rounds[2:])], 1):
        if unit.begun or direct.begun:
            found.touched.add(task_id)
        final = unit.state is not None and unit.state not in OPEN_STATES
        found.finished += final
        found.refined += unit.state == "refined"
        if came or unit.failed_attempt:
            _attempt(found, task_id, unit, final)
        elif came is None and number > 1:
            found.later += not final


def _entry(
    found: History, task_id: str, entry: int | None, direct: _Unit, first: _Unit
) -> bool | None:
    """Whether the task is let into the pool D; None: that is not known yet."""
    final = first.state is not None and first.state not in OPEN_STATES
    if entry is None or first.state == "untested":
        return False
    ended = first.state in ("contaminated", "bad_task", "direct_failed")
    made = direct.made.get("direct", [])
    if entry != ATTEMPT or ended:
        if not (final or direct.passed_direct or first.failed_attempt):
            found.waiting[entry] += 1
            found.paid[entry] += len(made)
            return None
        found.note(task_id, entry, not ended, made if entry == DIRECT else [])
    return not ended


def _attempt(found: History, task_id: str, unit: _Unit, final: bool) -> None:
    made = unit.made.get("attempt", [])
    if not final and not unit.failed_attempt:
        found.waiting[ATTEMPT] += 1
        found.paid[ATTEMPT] += len(made)
        return
    ended = unit.state in ("solved", "too_long", "not_attempted")
    found.note(task_id, ATTEMPT, not ended, made)
    if not ended:
        _repair(found, task_id, unit, final)


def _repair(found: History, task_id: str, unit: _Unit, final: bool) -> None:
    made = unit.made.get("refinement", [])
    if not final and not unit.judged_repairs:
        found.waiting[REPAIR] += 1
        found.paid[REPAIR] += len(made)
        return
    settled = unit.state == "refined" and len(made) <= 1
    found.note(task_id, REPAIR, not settled, made[:1])
    if not final:
        found.waiting[AGAIN] += 1
        found.paid[AGAIN] += max(0, len(made) - 1)
    elif not settled:
        found.note(task_id, AGAIN, unit.state == "refined", made[1:])


# -- the ledger -------------------------------------------------------------------------------

_CALLS = (
    "SELECT call_id, role, model, purpose, task_id, round, usd, input_tokens AS i, "
    "output_tokens AS o, json_extract(completion, '$.usage.cached_tokens') AS cached, "
    "json_extract(completion, '$.usage.known') AS known FROM calls ORDER BY rowid"
)
_OPEN = ", ".join(repr(s) for s in sorted(OPEN_STATES))
_JUDGED = (
    "SELECT s.task_id, s.round, s.kind, v.status = 'passed' AS passed FROM solutions s "
    "JOIN verdicts v ON v.solution_id = s.solution_id AND v.tests = 'hidden' "
    "WHERE s.benchmark = '' AND NOT EXISTS (SELECT 1 FROM states t WHERE t.task_id = s.task_id "
    f"AND t.round = MAX(s.round, 1) AND t.state NOT IN ({_OPEN}))"
)
_PURPOSES = {"direct": ASKS[DIRECT], "attempt": ASKS[ATTEMPT], "refinement": ASKS[REPAIR]}


def _read_calls(
    ledger: Ledger,
    payers: Sequence[Payer],
    units: dict[tuple[str, int], _Unit],
    found: History,
) -> None:
    failed = _read_tries(ledger, payers, found)
    for row in ledger.query(_CALLS):
        place = _payer(payers, row["role"], row["model"])
        usage = Usage(row["i"], row["o"], row["cached"] or 0)
        if not row["known"]:
            usage = _at_most(ledger, row["call_id"])
        price = payers[place].price
        usd = price.cost(usage) if price else None
        _add(found.spent, place, usd if row["usd"] is None else row["usd"])
        if not payers[place].counts or (row["role"] == "student" and row["round"] == 0):
            continue  # a student that runs here, or the samples of an evaluation
        found.input_tokens += usage.input_tokens
        found.output_tokens += usage.output_tokens
        if row["purpose"] not in _PURPOSES:
            continue  # the pool was written before any task was begun
        made = Made(place, usage.input_tokens, usage.output_tokens, usd or 0.0)
        made.usd += failed.get(row["call_id"], 0.0)
        units[row["task_id"], row["round"]].made[row["purpose"]].append(made)
        found.calls[_PURPOSES[row["purpose"]] or ""] += 1


def _read_tries(ledger: Ledger, payers: Sequence[Payer], found: History) -> dict[str, float]:
    """USD of what was sent and gave no answer, by question."""
    failed: dict[str, float] = defaultdict(float)
    for sent in ledger.tries():
        place = _payer(payers, sent.role, sent.model)
        price = payers[place].price
        unknown = price is None and sent.usd is None and sent.usd_at_most is None
        usd = spent_on(sent, price)
        _add(found.spent, place, None if unknown else usd)
        failed[sent.call_id] += usd
    return failed


def _add(spent: list[float | None], place: int, usd: float | None) -> None:
    before = spent[place]
    spent[place] = None if before is None or usd is None else before + usd


def _payer(payers: Sequence[Payer], role: str, model: str) -> int:
    if role == "student":
        return 0
    return next((i for i, p in enumerate(payers) if i and p.spec.model == model), 1)


def _at_most(ledger: Ledger, call_id: str) -> Usage:
    """The tokens of a call whose endpoint did not tell them."""
    call = ledger.call(call_id)
    assert call is not None
    return most_tokens(call.messages, int(call.params["max_tokens"]))


def _read_states(ledger: Ledger, units: dict[tuple[str, int], _Unit]) -> None:
    for row in ledger.query("SELECT task_id, round, state FROM states"):
        units[row["task_id"], row["round"]].state = row["state"]
    for row in ledger.query(_JUDGED):
        unit: Any = units[row["task_id"], row["round"]]
        if row["kind"] == "direct":
            unit.passed_direct = unit.passed_direct or bool(row["passed"])
        elif row["kind"] == "attempt":
            unit.failed_attempt = unit.failed_attempt or not row["passed"]
        else:
            unit.judged_repairs += 1
