"""The data released with the PERsD paper: real attempts, feedback, repairs and direct answers.

Three JSON-lines files of {finetuning_prompt, finetuning_completion, task_id}, joined on
task_id. Their prompts were assembled and their feedback printed as text; this module takes
both apart again. A task's one real unit test is the INPUT and EXPECTED of its feedback;
where there is none the task is untested and ``meta["untested"]`` says why.

``meta`` holds the texts as released: ``attempt`` (CodeGen-mono-6B), ``direct`` and
``refinement`` (ChatGPT), the three programs as completions of the header, and
``released_feedback``; ``feedback`` is the same in the words of ``persd.domains.prompts``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from persd.domains.names import clean, undefined_names
from persd.domains.prompts import LIMITS
from persd.errors import UserError
from persd.records import Kind, Solution, Task, Test, content_id
from persd.tasks.rows import Fault, Row, Wrong, call_fault, checked_header, read_rows, shown

FILES = {
    "direct": "finetuning_data_chatgpt_gold.jsonl",
    "refinement": "finetuning_data_chatgpt_newgold_rectification_only_.jsonl",
    "attempt": "finetuning_data_gold_rectification_nochatgpt.jsonl",
}
AUTHORS = {"attempt": "codegen-mono-6b", "direct": "chatgpt", "refinement": "chatgpt"}


def read(path: str | None) -> Iterator[Task | Fault]:
    """The tasks of which all three files have a row, in the release's order.

    ``path`` is the folder that holds the files. Raises UserError where one is missing.
    """
    if path is None:
        raise UserError(
            "the release is read from a folder", hint='Set tasks.path = "folder of the release"'
        )
    rows: dict[str, dict[str, Row]] = {}
    for kind, name in FILES.items():
        rows[kind] = {}
        for row in read_rows(Path(path) / name):
            if isinstance(row, Fault):
                yield row
            else:
                rows[kind][row.task_id] = row
    for task_id, direct in rows["direct"].items():
        try:
            if task_id in rows["attempt"] and task_id in rows["refinement"]:
                yield _task(rows["attempt"][task_id], rows["refinement"][task_id], direct)
        except Wrong as wrong:
            yield direct.fault(wrong)


def recorded(task: Task, kind: Kind) -> Solution:
    """A released program as a Solution: header + text exactly as released."""
    text = str(task.meta[kind])
    return Solution(
        solution_id=content_id("release", task.task_id, kind, text),
        task_id=task.task_id,
        kind=kind,
        author=AUTHORS[kind],
        round=0 if kind == "direct" else 1,
        text=text,
        code=task.header + text,
        parent=recorded(task, "attempt").solution_id if kind == "refinement" else None,
        note="from the paper's release",
    )


@dataclass(frozen=True)
class LabelFaults:
    """Released labels that do not stand under their own prompt, by task id."""

    unparsable: tuple[str, ...]
    undefined_names: tuple[str, ...]
    """Parsable, but with a name bound nowhere in prompt and label."""


def label_faults(tasks: list[Task], kind: Kind = "refinement") -> LabelFaults:
    """What prompt + label gives as released: no alignment, no repair of any kind."""
    unparsable, undefined = list[str](), list[str]()
    for task in tasks:
        try:
            if undefined_names(clean(task.header + str(task.meta[kind]))):
                undefined.append(task.task_id)
        except (SyntaxError, RecursionError):
            unparsable.append(task.task_id)
    return LabelFaults(tuple(unparsable), tuple(undefined))


# ---- a row's three texts taken apart ---------------------------------------------------------


def _task(attempt: Row, refinement: Row, direct: Row) -> Task:
    prompt = _PROMPT.fullmatch(direct.text("finetuning_prompt"))
    if prompt is None:
        raise Wrong("bad_header", "the prompt is not a docstring and a header")
    instruction, header = prompt["instruction"], checked_header(prompt["header"])
    names = re.findall(r"^(?:async )?def\s+(\w+)", header, re.MULTILINE)
    if not names:
        raise Wrong("bad_header", f"no def in the header {shown(header)}")
    entry_point = names[-1]
    attempted, feedback, note = _attempt_and_feedback(attempt, instruction, header)
    test, untested = _test(feedback, header, entry_point)
    meta = {
        "attempt": attempted,
        "feedback": _as_rendered(feedback),
        "released_feedback": feedback,
        "direct": _completion(direct),
        "refinement": _completion(refinement),
    }
    notes = {"untested": untested, "attempt_note": note}
    return Task(
        task_id=direct.task_id,
        instruction=instruction,
        header=header,
        entry_point=entry_point,
        tests=(test,) if test else (),
        source=direct.where,
        meta=meta | {k: v for k, v in notes.items() if v},
    )


def _completion(row: Row) -> str:
    """The label as released, carriage returns and all."""
    row.text("finetuning_completion")
    return str(row.fields["finetuning_completion"])


def _attempt_and_feedback(row: Row, instruction: str, header: str) -> tuple[str, str, str]:
    """The attempt as a completion of the header, the feedback, and a note on what was mended."""
    text = row.text("finetuning_prompt")
    task = f'"""\n{instruction}\n"""\n'
    start, end = text.find(task), text.rfind(f"\n\n{task}")
    error = text.rfind("\n\nERROR: \n", 0, end)
    if start < 0 or error < start:
        raise Wrong("wrong_type", "no task, attempt and ERROR in the refinement prompt")
    program = text[start + len(task) : error]
    feedback = text[error + len("\n\nERROR: \n") : end].strip("\n")
    line = re.escape(header.rstrip().rpartition("\n")[2])
    opening = re.search(rf"^{line}(?:\n|\Z)", program, re.MULTILINE)
    if opening:
        return program[opening.end() :], feedback, ""
    preamble = re.sub(r"\A(?:\s*#.*\n)+", "", header.strip().rpartition("\n")[0])
    if _squeezed(program).startswith(_squeezed(preamble)):
        # where the header holds other functions the release lost the entry point's def line
        return _after(program, preamble), feedback, "the header's def line put back"
    return program, feedback, "the release lost the header's place"


def _as_rendered(feedback: str) -> str:
    """The released feedback as our own renderer words it: a time-out is not an exit code."""
    if feedback.startswith("Exit code: None"):
        return f"ERROR: {LIMITS['timeout']}"
    return f"ERROR: {feedback.rstrip().removesuffix(':').rstrip()}"


def _after(program: str, preamble: str) -> str:
    """What follows the preamble in the program, whatever the white space between them."""
    pattern = r"\s+".join(re.escape(word) for word in preamble.split())
    match = re.match(rf"\s*{pattern}", program)
    return program[match.end() if match else 0 :].lstrip("\n")


def _test(feedback: str, header: str, entry_point: str) -> tuple[Test | None, str]:
    """The feedback's INPUT and EXPECTED as a test; or why there is none."""
    if not feedback.startswith("AssertionError\nINPUT: "):
        return None, f"no INPUT in the feedback: {shown(feedback.partition(chr(10))[0])}"
    rest = feedback.removeprefix("AssertionError\nINPUT: ")
    call, after, why = None, "", "the feedback has no OUTPUT"
    for mark in re.finditer(r"\nOUTPUT: ?", rest):
        call, why = _call(rest[: mark.start()], header, entry_point)
        after = rest[mark.end() :]
        if call is not None:
            break
    if call is None:
        return None, why
    expected = re.split(r"\nEXPECTED: ?", "\n" + after)
    if len(expected) != 2:
        return None, f"{len(expected) - 1} EXPECTED in the feedback"
    return Test(call, expected[1], "loose"), ""


def _call(arguments: str, header: str, entry_point: str) -> tuple[str | None, str]:
    """The argument list as a call of the entry point, ``(a, b)`` or bare; or why it is none."""
    arguments = arguments.strip()
    for call in (f"{entry_point}{arguments}", f"{entry_point}({arguments})"):
        if not call_fault(call, entry_point):
            unknown = undefined_names(f"{header}    pass\n{call}")
            if unknown:
                return None, f"INPUT uses {', '.join(unknown)}: {shown(arguments)}"
            return call, ""
    return None, f"INPUT is no argument list: {shown(arguments)}"


def _squeezed(text: str) -> str:
    return "".join(text.split())


_PROMPT = re.compile(r'"""\n(?P<instruction>.*?)\n"""\n\n(?P<header>.*)', re.DOTALL)
