"""What became of a sample, in one word, and what those words add up to.

``passed``; the type of the first error, as the feedback names it; ``no code``. Two are part of
no score: ``truncated`` (the reply was cut within the program, which does not pass) and
``not_run`` (our trouble). Counted apart, they are never taken for wrong.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from persd.domains.parse import is_open
from persd.records import Evaluation, Solution, Task, Verdict

TRUNCATED, NOT_RUN, PASSED, NO_CODE = "truncated", "not_run", "passed", "no code"
#: Outcomes that are part of no score.
APART = frozenset({TRUNCATED, NOT_RUN})

_OURS = frozenset({TRUNCATED, NOT_RUN, PASSED, NO_CODE})

#: Error type of a status whose verdict names none, as the feedback calls it.
TYPE_OF: Mapping[str, str] = {
    "failed": "AssertionError",
    "error": "Exception",
    "timeout": "TimeoutError",
    "memory": "MemoryError",
    "crashed": "Crash",
    "syntax": "SyntaxError",
}

Counts = dict[str, tuple[int, int]]
"""By task_id: samples that are part of the score, and those of them that pass."""


def outcome_of(task: Task, solution: Solution, verdict: Verdict) -> str:
    """The one word for a judged sample."""
    if verdict.status in (PASSED, NOT_RUN):
        return verdict.status
    if solution.finish == "length" and is_open(task, solution.text, solution.code):
        return TRUNCATED
    if solution.code is None:
        return NO_CODE
    first = verdict.first_failure
    return error_type(verdict.status, first.error_type if first else None)


def error_type(status: str, named: str | None) -> str:
    """The type of a program's first error; ``named``: as its first failing test names it.

    A program names its own exceptions: what is an outcome of ours it cannot be called.
    """
    if status in ("timeout", "memory", "crashed") or not named or named in _OURS:
        return TYPE_OF.get(status, status)
    return named


def counts(evaluation: Evaluation) -> Counts:
    """Samples and passes of every task that has a sample in the score."""
    found = {}
    for task_id, outcomes in evaluation.outcomes.items():
        judged = sum(n for outcome, n in outcomes.items() if outcome not in APART)
        if judged:
            found[task_id] = (judged, outcomes.get(PASSED, 0))
    return found


def left_out(evaluation: Evaluation, k: int) -> int:
    """Tasks that pass@k leaves out: those with fewer than k samples in the score."""
    return evaluation.tasks - sum(judged >= k for judged, _ in counts(evaluation).values())


def truncated_as_wrong(evaluation: Evaluation) -> Counts:
    """As ``counts``, the truncated samples taken for wrong: what a model that never ends its
    replies cannot hide behind."""
    found = counts(evaluation)
    for task_id, outcomes in evaluation.outcomes.items():
        if cut := outcomes.get(TRUNCATED, 0):
            judged, passed = found.get(task_id, (0, 0))
            found[task_id] = (judged + cut, passed)
    return found


def totals(evaluation: Evaluation) -> dict[str, int]:
    """Samples by outcome, over all tasks, most frequent first."""
    found: Counter[str] = Counter()
    for outcomes in evaluation.outcomes.values():
        found.update(outcomes)
    return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))


def by_task(samples: Iterable[tuple[str, str]]) -> dict[str, dict[str, int]]:
    """Given (task_id, outcome) of every sample: by task, samples by outcome."""
    found: dict[str, Counter[str]] = {}
    for task_id, outcome in samples:
        found.setdefault(task_id, Counter())[outcome] += 1
    return {task_id: dict(sorted(c.items())) for task_id, c in found.items()}
