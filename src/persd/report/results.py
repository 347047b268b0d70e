"""The results: a row a model, benchmark and step, with what it is to be compared to.

Beside every score stand what it is compared to: at a later step the blind control that spends the
same calls, and for a trained model the untrained one, both as paired differences over tasks.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from persd.ledger import Ledger
from persd.outcomes import NOT_RUN, TRUNCATED, counts, left_out, totals, truncated_as_wrong
from persd.passk import mean_pass_at_k
from persd.records import VARIANTS, Evaluation
from persd.scores import difference

BASE = "base"


def results(ledger: Ledger) -> list[dict[str, Any]]:
    """The results table of a run: a row a model, benchmark and step; the base model first.

    Those of ``rows_of``, with ``model``, ``round`` and ``examples`` (trained on; 0 for the base
    model, None: unknown).
    """
    examples = {c.checkpoint_id: c.examples for c in ledger.checkpoints()}
    rows = []
    for row, e in rows_of(sorted(shown(ledger), key=_place)):
        trained = examples.get(e.checkpoint_id) if e.checkpoint_id else None
        known = {
            "model": e.model,
            "round": e.round,
            "examples": 0 if e.model == BASE else trained,
        }
        rows.append({**known, **row})
    return rows


def shown(ledger: Ledger) -> list[Evaluation]:
    """A run's evaluations under its present config; those that another one gave stay stored."""
    told = ledger.meta("evaluations")
    current = None if told is None else set(json.loads(told))
    return [e for e in ledger.evaluations() if current is None or e.evaluation_id in current]


def rows_of(found: Sequence[Evaluation]) -> Iterable[tuple[dict[str, Any], Evaluation]]:
    """A row an evaluation that is no control, in their order.

    Keys: ``benchmark``, ``step``, ``pass@k`` and ``interval`` by k (fractions 0-1, 95 %
    bootstrap over tasks), ``statuses`` (samples by verdict), ``outcomes`` (samples by
    ``outcomes.outcome_of``), ``samples`` (a task), ``tasks``, ``calls`` (replies asked for at
    this step), ``seconds``; ``truncated`` and ``not_run``: samples counted apart;
    ``truncated_as_wrong``: pass@k by k with the truncated taken for wrong, where there are any;
    ``left_out``: by k, tasks with fewer than k samples in the score. Where there is something
    to compare to: ``resample`` (``pass@k``, ``interval``, ``calls`` of the control, and what is
    apart in it), ``less_resample`` and ``less_base`` (by k: ``value``, ``interval``, ``clear``,
    ``newly_solved`` and ``newly_lost`` as numbers of tasks; at the same step).
    """
    controls = {_key(e): e for e in found if e.control}
    bases = {(e.benchmark, e.step): e for e in found if e.model == BASE and not e.control}
    for e in found:
        if e.control:
            continue
        row = _plain(e)
        if (control := controls.get(_key(e))) is not None:
            row["resample"] = {
                "pass@k": _in_order(control.pass_at_k),
                "interval": {k: list(v) for k, v in _in_order(control.interval).items()},
                "calls": control.calls,
                **_told_apart(control),
            }
            row["less_resample"] = less(e, control)
        base = bases.get((e.benchmark, e.step))
        if base is not None and base is not e:
            row["less_base"] = less(e, base)
        yield row, e


def _key(e: Evaluation) -> tuple[object, ...]:
    return e.model, e.round, e.benchmark, e.step


def _plain(e: Evaluation) -> dict[str, Any]:
    row: dict[str, Any] = {
        "benchmark": e.benchmark,
        "step": e.step,
        "pass@k": _in_order(e.pass_at_k),
        "interval": {k: list(v) for k, v in _in_order(e.interval).items()},
        "statuses": dict(e.statuses),
        "outcomes": totals(e),
        "samples": e.samples,
        "tasks": e.tasks,
        "calls": e.calls,
        "seconds": e.seconds,
        **_told_apart(e),
    }
    if row["truncated"]:
        worst = truncated_as_wrong(e).values()
        row["truncated_as_wrong"] = {
            k: mean_pass_at_k([(n, c) for n, c in worst if n >= int(k)], int(k))
            for k in row["pass@k"]
        }
    return row


def _told_apart(e: Evaluation) -> dict[str, Any]:
    """What is part of no score, and the tasks that it leaves out of each pass@k."""
    apart = totals(e)
    return {
        "truncated": apart.get(TRUNCATED, 0),
        "not_run": apart.get(NOT_RUN, e.statuses.get(NOT_RUN, 0)),
        "left_out": {k: left_out(e, int(k)) for k in _in_order(e.pass_at_k) if e.outcomes},
    }


def less(this: Evaluation, other: Evaluation) -> dict[str, dict[str, Any]]:
    """The paired differences of two evaluations by k."""
    found = {k: difference(counts(this), counts(other), int(k)) for k in _in_order(this.pass_at_k)}
    return {
        k: {
            "value": d.value,
            "interval": list(d.interval),
            "clear": d.is_clear,
            "newly_solved": len(d.newly_solved),
            "newly_lost": len(d.newly_lost),
        }
        for k, d in found.items()
        if d is not None
    }


def _place(e: Evaluation) -> tuple[str, int, int, int, str, int]:
    known = e.model in VARIANTS
    order = -1 if e.model == BASE else VARIANTS.index(e.model) if known else len(VARIANTS)
    return e.benchmark, e.round, order, e.step, e.model, e.samples


def _in_order(by_k: Mapping[str, Any]) -> dict[str, Any]:
    return dict(sorted(by_k.items(), key=_by_k))


def _by_k(item: tuple[str, Any]) -> tuple[int, str]:
    return (int(item[0]) if item[0].isdecimal() else 0), item[0]
