"""The variants: seven pure selections over the same records, then label, execution, export.

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
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from persd.domains.code import Misaligned, label, refine_prompt, task_prompt
from persd.errors import UserError
from persd.files import replacing
from persd.progress import QUIET, Progress
from persd.records import (
    VARIANTS,
    Example,
    Rejected,
    Solution,
    Task,
    Verdict,
    content_id,
)
from persd.sandbox import Limits, Sandbox
from persd.verify import Job, verify

Form = Literal["task", "refine"]
Pool = Literal["D", "F"]
Label = Literal["direct", "refinement"]
Part = tuple[Pool, Form, Label]

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
    and repair. ``include_untested`` counts ``untested`` records too, by what they hold.
    Raises UserError for an unknown variant.
    """
    return [
        Pair(record, form, solution)
        for record in records
        for pool, form, kind in parts_of(variant)
        if _drawn(record, pool, form, include_untested)
        and (solution := _answer(record, kind)) is not None
    ]


def parts_of(variant: str) -> tuple[Part, ...]:
    """What a variant is made of. Raises UserError for an unknown one."""
    if variant not in PARTS:
        raise UserError(f'unknown variant "{variant}"', hint=f"Use one of {', '.join(VARIANTS)}")
    return PARTS[variant]


def _answer(record: TaskRecord, kind: Label) -> Solution | None:
    solution = record.direct if kind == "direct" else record.refinement
    return solution if solution is not None and solution.code is not None else None


def _drawn(record: TaskRecord, pool: Pool, form: Form, include_untested: bool) -> bool:
    """Whether the record is in the pool the part draws from."""
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
    if not _encodable(prompt + completion):
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


def _encodable(text: str) -> bool:
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


def _id_of(solution: Solution, kind: Label) -> str | None:
    return solution.solution_id if solution.kind == kind else None


# ---- export ----------------------------------------------------------------------------------

COLUMNS = ("prompt", "completion", "task_id", "example_id")


def export(
    examples: Sequence[Example],
    fmt: str,
    path: str | Path,
    *,
    variant: str = "",
    rejected: Sequence[Rejected] = (),
    note: str = "",
) -> None:
    """Write the data set to that very path, whole or not at all, and its card to PATH.md.

    ``trl``: JSON lines for TRL's prompt-completion training; ``parquet``: the same columns.
    ``note`` goes into the card. Raises UserError for an unknown format, a missing package or
    a path that cannot be written.
    """
    if fmt not in FORMATS:
        raise UserError(f'unknown format "{fmt}"', hint=f"Use one of {', '.join(FORMATS)}")
    path = Path(path)
    rows = [{column: getattr(e, column) for column in COLUMNS} for e in examples]
    variant = variant or (examples[0].variant if examples else "")
    with replacing(path, "the data set", folder=True) as unfinished:
        FORMATS[fmt](rows, unfinished)
    with replacing(path.with_name(f"{path.name}.md"), "its card") as unfinished:
        unfinished.write_text(_card(variant, fmt, examples, rejected, note), encoding="utf-8")


def _write_trl(rows: Sequence[Mapping[str, str]], path: Path) -> None:
    with path.open("w", encoding="utf-8", newline="\n") as out:
        for row in rows:
            out.write(json.dumps(row, ensure_ascii=True) + "\n")


def _write_parquet(rows: Sequence[Mapping[str, str]], path: Path) -> None:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise UserError(
            "writing Parquet needs the pyarrow package",
            hint="pip install 'persd[train]', or --format trl",
        ) from None
    schema = pyarrow.schema([(column, pyarrow.string()) for column in COLUMNS])
    parquet.write_table(pyarrow.Table.from_pylist(list(rows), schema=schema), path)


FORMATS: Mapping[str, Callable[[Sequence[Mapping[str, str]], Path], None]] = {
    "trl": _write_trl,
    "parquet": _write_parquet,
}


def _card(
    variant: str,
    fmt: str,
    examples: Sequence[Example],
    rejected: Sequence[Rejected],
    note: str,
) -> str:
    forms = Counter(e.form for e in examples)
    reasons = Counter(r.reason for r in rejected)
    left_out = "".join(f"- {reason}: {n}\n" for reason, n in sorted(reasons.items()))
    return CARD.format(
        variant=variant or "(empty)",
        fmt=fmt,
        columns=", ".join(COLUMNS),
        examples=len(examples),
        tasks=len({e.task_id for e in examples}),
        rounds=", ".join(str(r) for r in sorted({e.round for e in examples})) or "none",
        task_form=forms["task"],
        refine_form=forms["refine"],
        rejected=len(rejected),
        left_out=left_out or "- nothing\n",
        labels=LABELS.get(variant, "none"),
        note=f"\n{note.strip()}\n" if note.strip() else "",
    )


LABELS = {
    "stand": "t -> c, all tasks with a verified direct answer",
    "inpd": "t -> c, tasks the student failed",
    "inpd-refine": "T(t, a, f) -> c, tasks the student failed",
    "inpd-combined": "t -> c and T(t, a, f) -> c, tasks the student failed",
    "persd": "t -> r, tasks the student failed",
    "persd-refine": "T(t, a, f) -> r, tasks the student failed",
    "persd-combined": "T(t, a, f) -> r and t -> c, tasks the student failed",
}

CARD = """# Training data: {variant}

Personalised distillation (Chen, Saha, Hoi, Joty, EMNLP 2023), variant `{variant}`: {labels}.
t is the task, a the student's attempt, f its execution feedback, c the teacher's direct
answer, r the teacher's repair of the attempt.

| | |
|---|---|
| examples | {examples} |
| tasks | {tasks} |
| rounds | {rounds} |
| prompted by the task | {task_form} |
| prompted by task, attempt and feedback | {refine_form} |
| left out | {rejected} |
| format | {fmt}: {columns} |

Left out, by reason:

{left_out}
Every completion was aligned with its task's header, and task prompt + completion was executed
against the task's tests before it was kept (untested tasks, where included, were not). Train
with the loss on the completion and the end-of-sequence token only.
{note}"""
