"""The variants: seven pure selections over the same records, then label and execution.

PERsD (Chen et al. 2023), section 3 and the table of its data sets. D is the pool of tasks
with a verified direct answer c; F the tasks whose verified repair r of the student's own
attempt a (with feedback f) came out of the loop.

    stand           t -> c                           all of D
    inpd            t -> c                           F
    inpd-refine     T(t, a, f) -> c                  F
    inpd-combined   inpd and inpd-refine             F
    persd           t -> r                           F
    persd-refine    T(t, a, f) -> r                  F
    persd-combined  T(t, a, f) -> r and t -> c       F

And one that is no variant of the paper's: replay, the attempts of the tasks S that the student
solved, to be mixed in against forgetting.

    replay          t -> a                           S
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from persd.domains.code import Misaligned, label, refine_prompt, task_prompt
from persd.errors import UserError
from persd.progress import QUIET, Progress
from persd.records import Example, Kind, Rejected, Solution, Task, Verdict, content_id
from persd.sandbox import Limits, Sandbox
from persd.verify import Job, verify

Form = Literal["task", "refine"]
Pool = Literal["D", "F", "S"]
Part = tuple[Pool, Form, Kind]

#: What each variant is made of: (the set drawn from, the prompt's form, the label's kind).
PARTS: Mapping[str, tuple[Part, ...]] = {
    "stand": (("D", "task", "direct"),),
    "inpd": (("F", "task", "direct"),),
    "inpd-refine": (("F", "refine", "direct"),),
    "inpd-combined": (("F", "task", "direct"), ("F", "refine", "direct")),
    "persd": (("F", "task", "refinement"),),
    "persd-refine": (("F", "refine", "refinement"),),
    "persd-combined": (("F", "refine", "refinement"), ("F", "task", "direct")),
}

#: The student's own attempts that passed, as a selection.
REPLAY = "replay"
SELECTIONS: Mapping[str, tuple[Part, ...]] = {**PARTS, REPLAY: (("S", "task", "attempt"),)}


@dataclass(frozen=True, slots=True)
class TaskRecord:
    """What a run knows of one task in one round; verified means: it passed the tests."""

    task: Task
    attempt: Solution | None
    feedback: str
    """The rendered feedback on the attempt; empty where there is none."""
    direct: Solution | None
    """The verified direct answer c; None: there is none."""
    refinement: Solution | None
    """The verified repair r; None: there is none."""
    state: str
    round: int


@dataclass(frozen=True, slots=True)
class Pair:
    """One training pair as selected: not yet rendered, aligned or executed."""

    record: TaskRecord
    form: Form
    solution: Solution
    """The answer that becomes the label."""


def select(
    variant: str, records: Iterable[TaskRecord], *, include_untested: bool = False
) -> list[Pair]:
    """The variant's pairs: a pure function of the records, in their order.

    D is every record with a verified direct answer; F those in state ``refined`` with attempt
    and repair; S those in state ``solved``. ``include_untested`` counts ``untested`` records
    to D and F, by what they hold. Raises UserError for an unknown variant.
    """
    return [
        Pair(record, form, solution)
        for record in records
        for pool, form, kind in parts_of(variant)
        if _drawn(record, pool, form, include_untested)
        and (solution := _answer(record, kind)) is not None
    ]


def parts_of(variant: str) -> tuple[Part, ...]:
    """What a variant, or ``replay``, is made of. Raises UserError for an unknown one."""
    if variant not in SELECTIONS:
        raise UserError(f'unknown variant "{variant}"', hint=f"Use one of {', '.join(SELECTIONS)}")
    return SELECTIONS[variant]


def _answer(record: TaskRecord, kind: Kind) -> Solution | None:
    solution = {
        "attempt": record.attempt,
        "direct": record.direct,
        "refinement": record.refinement,
    }[kind]
    return solution if solution is not None and solution.code is not None else None


def _drawn(record: TaskRecord, pool: Pool, form: Form, include_untested: bool) -> bool:
    """Whether the record is in the pool the part draws from."""
    if pool == "S":  # never an untested one: nobody knows that its attempt passes
        return record.state == "solved"
    if record.state == "untested":
        return include_untested and (form == "task" or record.attempt is not None)
    in_f = record.state == "refined" and record.attempt is not None
    return pool == "D" or (in_f and record.refinement is not None)


def build(
    variant: str,
    records: Sequence[TaskRecord],
    box: Sandbox,
    *,
    include_untested: bool = False,
    limits: Limits | None = None,
    progress: Progress = QUIET,
) -> tuple[list[Example], list[Rejected]]:
    """The variant's examples, each executed as prompt + completion, and what was left out.

    The program executed is task prompt + completion for both forms: a refinement prompt ends
    with the task prompt. Untested tasks, where asked for, are aligned and checked for
    undefined names, but there is nothing to execute them against. A task of F without a
    direct answer is rejected as ``no_direct`` where one is wanted. Raises UserError for an
    unknown variant.
    """
    rejected = [
        Rejected(variant, record.task.task_id, record.round, form, "no_direct")
        for record in records
        for pool, form, kind in parts_of(variant)
        if pool == "F" and kind == "direct" and record.state == "refined"
        if _answer(record, kind) is None
    ]
    aligned: list[tuple[Pair, Example]] = []
    for pair in select(variant, records, include_untested=include_untested):
        try:
            aligned.append((pair, _example(variant, pair)))
        except Misaligned as refused:
            rejected.append(_rejected(variant, pair, refused.reason, refused.detail))
    kept = []
    for pair, example, verdict in _executed(aligned, box, limits):
        progress.step(1)
        if verdict is None or verdict.passed:
            kept.append(example)
        else:
            rejected.append(_rejected(variant, pair, verdict.status, _why(verdict)))
    return kept, rejected


def _example(variant: str, pair: Pair) -> Example:
    """The pair as the student will see it. Raises Misaligned."""
    record, task = pair.record, pair.record.task
    prompt, attempt = task_prompt(task), record.attempt
    if pair.form == "refine":
        assert attempt is not None
        code = attempt.code if attempt.code is not None else task.header
        prompt = refine_prompt(task, code, record.feedback)
    completion = label(task, pair.solution.code or "")
    if not encodable(prompt + completion):
        raise Misaligned("unparsable", "it holds characters that cannot be encoded")
    key = (variant, task.task_id, record.round, pair.form, prompt, completion)
    return Example(
        example_id=content_id(*key),
        variant=variant,
        task_id=task.task_id,
        round=record.round,
        prompt=prompt,
        completion=completion,
        form=pair.form,
        attempt_id=attempt.solution_id if attempt else None,
        refinement_id=_id_of(pair.solution, "refinement"),
        direct_id=_id_of(pair.solution, "direct"),
    )


def encodable(text: str) -> bool:
    """Whether a text can be written as UTF-8: one with lone surrogates cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _executed(
    aligned: Sequence[tuple[Pair, Example]], box: Sandbox, limits: Limits | None
) -> Iterator[tuple[Pair, Example, Verdict | None]]:
    """Every pair with the verdict on its program, in order; None: the task has no test."""
    jobs = (
        Job(
            example.example_id,
            pair.record.task,
            task_prompt(pair.record.task) + example.completion,
            limits=limits,
        )
        for pair, example in aligned
        if pair.record.task.tested
    )
    verdicts = verify(box, jobs)
    for pair, example in aligned:
        yield pair, example, next(verdicts) if pair.record.task.tested else None


def _rejected(variant: str, pair: Pair, reason: str, detail: str) -> Rejected:
    record = pair.record
    return Rejected(variant, record.task.task_id, record.round, pair.form, reason, detail)


def _why(verdict: Verdict) -> str:
    first = verdict.first_failure
    said = f"{first.error_type}: {first.message}" if first and first.error_type else ""
    return verdict.reason or said or (f"{first.call} gave {first.actual}" if first else "")


def _id_of(solution: Solution, kind: Kind) -> str | None:
    return solution.solution_id if solution.kind == kind else None
