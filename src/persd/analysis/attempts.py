"""What goes wrong in the pool's attempts, and what the teacher makes of it."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

from persd.ledger import Ledger
from persd.outcomes import NO_CODE, error_type
from persd.records import Solution, Verdict
from persd.report.summary import WAITING, notes_of


def training_mistakes(ledger: Ledger, round: int) -> dict[str, Any]:
    """Failing attempts of a round by the type of their first error, and what became of them.

    ``types``, most frequent first: ``type`` (as in ``report.summary.error_types``),
    ``attempts``, ``refined`` (of them a verified repair came out), ``states`` (of their tasks)
    and ``repairs``: the verified repairs by their kind, as the teacher's note names it
    (``edit``, ``hunks``, ``rewrote``; empty: it says nothing of them).
    """
    verdicts = {v.solution_id: v for v in ledger.verdicts(benchmark="")}
    notes = {s.solution_id: s.note for s in ledger.solutions(benchmark="", kind="refinement")}
    states = ledger.states(round)
    attempts = 0
    failing: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for attempt in ledger.solutions(benchmark="", kind="attempt", round=round):
        verdict, ended = verdicts.get(attempt.solution_id), states.get(attempt.task_id)
        if verdict is None:
            continue
        attempts += 1
        if not verdict.passed:
            state = ended.state if ended else WAITING
            note = notes.get(ended.refinement_id or "", "") if ended else ""
            failing[_error(attempt, verdict)].append((state, notes_of(note)))
    types = [_type(kind, found) for kind, found in failing.items()]
    return {
        "round": round,
        "attempts": attempts,
        "failing": sum(t["attempts"] for t in types),
        "types": sorted(types, key=lambda t: (-t["attempts"], t["type"])),
    }


def _error(attempt: Solution, verdict: Verdict) -> str:
    first = verdict.first_failure
    named = first.error_type if first else None
    return NO_CODE if attempt.code is None else error_type(verdict.status, named)


def _type(kind: str, found: Sequence[tuple[str, str]]) -> dict[str, Any]:
    repairs = Counter(note for state, note in found if state == "refined")
    return {
        "type": kind,
        "attempts": len(found),
        "refined": repairs.total(),
        "states": dict(sorted(Counter(state for state, _ in found).items())),
        "repairs": dict(sorted(repairs.items())),
    }
