"""Preference pairs from the same ledger: a verified answer, and the student's failed attempt.

Both are completions of one prompt, the attempt aligned with its task's header as labels are.
What is to be rejected is executed as prompt + attempt before it is kept, and has to fail.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from persd.domains.code import Misaligned, label, task_prompt
from persd.domains.names import clean
from persd.examples import TaskRecord, encodable
from persd.progress import QUIET, Progress
from persd.records import Example, Rejected, Solution, Task, Verdict
from persd.sandbox import Limits, Sandbox
from persd.verify import Cache, Job, verify

#: Why an example has no failed attempt beside it, in words; or one of ``Misaligned``'s reasons,
#: where the attempt cannot be a completion of the prompt.
UNPAIRED: Mapping[str, str] = {
    "solved": "the student's attempt passed",
    "no_attempt": "the student attempted nothing",
    "untested": "no test can say that the attempt fails",
    "no_code": "the attempt holds no code",
    "same": "the attempt is the answer",
    "passed": "under the prompt's own header the attempt passes",
    "not_run": "the judge could not run it; the next build tries again",
}


@dataclass(frozen=True, slots=True)
class Preference:
    """A verified answer, and a failed attempt at the same prompt."""

    example: Example
    """The prompt, and as its completion what is to be chosen."""
    rejected: str
    """Exactly what follows the prompt, as ``example.completion`` does."""


def pair(
    examples: Sequence[Example],
    records: Sequence[TaskRecord],
    box: Sandbox,
    *,
    limits: Limits | None = None,
    progress: Progress = QUIET,
) -> tuple[list[Preference], list[Rejected]]:
    """The examples with their failed attempts, and those that have none, by reason.

    Together they are the examples. ``records``: those of all rounds that the examples are of.
    """
    known = {(r.task.task_id, r.round): r for r in records}
    pairs: list[tuple[Task, Preference]] = []
    alone: list[Rejected] = []
    for example in examples:
        record = known[example.task_id, example.round]
        try:
            pairs.append((record.task, _preference(example, record)))
        except Misaligned as why:
            alone.append(_alone(example, why.reason, why.detail))
    kept = []
    for found, verdict in _executed(pairs, box, limits):
        progress.step(1)
        if verdict.status in ("passed", "not_run"):
            alone.append(_alone(found.example, verdict.status, verdict.reason))
        else:
            kept.append(found)
    return kept, alone


def _preference(example: Example, record: TaskRecord) -> Preference:
    """The pair, before it is executed. Raises Misaligned, also for the reasons of UNPAIRED."""
    if record.state in ("solved", "untested"):
        raise Misaligned(record.state, "")
    if record.attempt is None:
        raise Misaligned("no_attempt", "")
    rejected = _completion(record.task, record.attempt)
    if rejected == example.completion:
        raise Misaligned("same", "")
    return Preference(example, rejected)


def _completion(task: Task, attempt: Solution) -> str:
    """The attempt as a completion of its task's prompt.

    A student that continues the header writes much that cannot be aligned: syntax errors,
    names that nobody defines. Such an attempt is cut where the header ends, and is what it
    wrote. Raises Misaligned where that cannot be done either.
    """
    try:
        completion = label(task, attempt.code or "") if attempt.code else ""
    except Misaligned:
        source = clean(attempt.code or "")
        if not source.startswith(task.header):
            raise
        completion = source.removeprefix(task.header)
        completion = re.sub(r"\A(?:[ \t\f]*\n)+", "", completion).rstrip() + "\n"
    if not completion.strip():
        raise Misaligned("no_code", "")
    if not encodable(completion):
        raise Misaligned("unparsable", "it holds characters that cannot be encoded")
    return completion


def _executed(
    pairs: Sequence[tuple[Task, Preference]], box: Sandbox, limits: Limits | None
) -> Iterator[tuple[Preference, Verdict]]:
    """Every pair with the verdict on its rejected side, in order."""
    jobs = (
        Job(p.example.example_id, task, task_prompt(task) + p.rejected, limits=limits)
        for task, p in pairs
    )
    # a variant of two forms has each attempt twice
    verdicts = verify(box, jobs, cache=Cache())
    for (_, found), verdict in zip(pairs, verdicts, strict=True):
        yield found, verdict


def _alone(example: Example, reason: str, detail: str) -> Rejected:
    return Rejected(example.variant, example.task_id, example.round, example.form, reason, detail)
