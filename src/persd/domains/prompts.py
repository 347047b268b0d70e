"""How a code task is put to the student and to the teacher.

Every prompt is rendered here, once, for training and inference alike; the texts are
constants at the foot of the file.
"""

from __future__ import annotations

import ast
import re

from persd.domains.names import BUILTINS
from persd.records import Message, Task, TestResult, Verdict

VALUE_LIMIT = 240
"""Characters of one value in a feedback; longer ones keep their two ends."""


def task_prompt(task: Task) -> str:
    """The student's prompt t: the instruction as a docstring, then the header to be continued.

    It is Python source, so prompt + completion is a whole program. Without an instruction
    (HumanEval) it is the header alone.
    """
    if not task.instruction:
        return task.header
    return f"{_as_docstring(task.instruction)}\n\n{task.header}"


def refine_prompt(task: Task, attempt_code: str, feedback: str) -> str:
    """The student's refinement prompt T(t, a, f) (PERsD, section 3.2), trained on and asked.

    It ends as ``task_prompt`` ends, so that the same completion continues both. Where the
    header carries the task, the first mention of the task is the attempt's own header.
    Without ``feedback`` (the ablation) the attempt stands alone.
    """
    attempt = attempt_code.strip("\n")
    if task.instruction:
        first = f"TASK:\n{_as_docstring(task.instruction)}\n\n"
    else:
        first = "" if attempt.startswith(task.header.strip()) else f"TASK:\n{task.header}\n"
    told = f"{feedback}\n\n" if feedback else ""
    return REFINE.format(task=first, attempt=attempt, feedback=told) + task_prompt(task)


def feedback(verdict: Verdict) -> str:
    """The execution feedback f of a verdict that did not pass: its first failing test.

    A wrong value gives ERROR, INPUT, OUTPUT and EXPECTED lines; an exception, a syntax
    error or a limit gives ``ERROR: Type: message``. Long values are shortened. Raises
    ValueError for a verdict that passed or was not run: neither is the author's failure.
    """
    if verdict.status in ("passed", "not_run"):
        raise ValueError(f"a verdict that is {verdict.status} has no feedback")
    if verdict.status in LIMITS:
        return f"ERROR: {_limit_text(verdict)}"
    first = verdict.first_failure
    if first is not None and first.status == "failed" and first.call:
        return _wrong_value(first)
    kind = (first.error_type if first else "") or (
        "SyntaxError" if verdict.status == "syntax" else "AssertionError"
    )
    message = (first.message if first else "") or verdict.reason
    return f"ERROR: {kind}: {shorten(message)}" if message else f"ERROR: {kind}"


def teacher_direct(task: Task) -> tuple[Message, ...]:
    """The chat that asks the teacher for its own answer c."""
    ask = TEACHER_DIRECT.format(task=_task_section(task))
    return (Message("system", TEACHER), Message("user", ask))


def teacher_refine(
    task: Task, attempt_code: str, feedback: str, direct: str | None, *, close: bool = True
) -> tuple[Message, ...]:
    """The chat that asks the teacher to repair the student's attempt.

    The constant part comes first (provider caches), and the teacher's own answer, where
    there is one, is its earlier turn, as in the paper's released code. ``close``: it is to
    stay with the attempt. Without ``feedback`` (the ablation) it is told no more than that
    the attempt does not pass.
    """
    told = TEACHER_RESULT.format(feedback=feedback) if feedback else TEACHER_NO_RESULT
    ask = TEACHER_REPAIR if close else TEACHER_REPAIR_FREE
    repair = ask.format(attempt=fenced(attempt_code), result=told)
    rules = TEACHER if close else TEACHER_FREE
    if direct is None:
        ask = TEACHER_REPAIR_TASK.format(task=_task_section(task)) + repair
        return (Message("system", rules), Message("user", ask))
    asked = (Message("system", rules), *teacher_direct(task)[1:])
    return (*asked, Message("assistant", fenced(direct)), Message("user", repair))


def teacher_retry(
    messages: tuple[Message, ...], reply: str, feedback: str, *, close: bool = True
) -> tuple[Message, ...]:
    """The chat that gives a repair back to the teacher with what became of it; without
    ``feedback`` (the ablation) with no more than that it does not pass. ``close`` as for
    ``teacher_refine``."""
    told = f":\n\n{feedback}" if feedback else "."
    again = (TEACHER_RETRY if close else TEACHER_RETRY_FREE).format(told=told)
    return (*messages, Message("assistant", reply), Message("user", again))


def teacher_closer(messages: tuple[Message, ...], reply: str) -> tuple[Message, ...]:
    """The chat that asks once more for a repair that passes, but strays from the attempt."""
    return (*messages, Message("assistant", reply), Message("user", TEACHER_CLOSER))


def teacher_shorter(messages: tuple[Message, ...]) -> tuple[Message, ...]:
    """The chat asked afresh after a reply that the limit of length had cut."""
    last = messages[-1]
    return (*messages[:-1], Message(last.role, f"{last.content}\n\n{TEACHER_SHORTER}"))


def shorten(text: str, limit: int = VALUE_LIMIT) -> str:
    """The text, or its two ends with the count of characters left out between them."""
    text = text.strip()
    if len(text) <= limit:
        return text
    head, tail = limit * 2 // 3, limit // 3
    return f"{text[:head]} ...{len(text) - head - tail} more characters... {text[-tail:]}"


def _as_docstring(text: str) -> str:
    """The text as a triple-quoted literal on lines of its own, spelt as given where it can be."""
    text = text.strip("\n").replace('"""', "'''")
    literal = f'"""\n{text}\n"""'
    if "\\" in text and not _is_literal(literal):
        literal = literal.replace("\\", "\\\\")
    return literal


def _is_literal(source: str) -> bool:
    try:
        ast.literal_eval(source)
    except (SyntaxError, ValueError):
        return False
    return True


def _wrong_value(result: TestResult) -> str:
    arguments = _arguments(result.call)
    output = shorten(result.actual)
    if result.stdout.strip() and result.actual in ("", "None"):
        output = f"{output or 'None'} (printed: {shorten(result.stdout)})"
    return WRONG_VALUE.format(
        arguments=shorten(arguments), output=output, expected=shorten(result.expected)
    )


def _arguments(call: str) -> str:
    """The argument list of a call, parentheses and all; of the inner one where it is wrapped
    (``sorted(f(1))``). A call that was shortened is taken apart as text."""
    try:
        nodes = [n for n in ast.walk(ast.parse(call)) if isinstance(n, ast.Call)]
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        nodes = []
    for node in nodes:
        if isinstance(node.func, ast.Name) and node.func.id not in BUILTINS:
            found = ast.get_source_segment(call, node) or call
            return found[len(node.func.id) :].strip()
    return re.sub(r"^\s*[\w.]+\s*(?=\()", "", call)


def _limit_text(verdict: Verdict) -> str:
    what = LIMITS[verdict.status]
    if verdict.status == "crashed" and verdict.reason:
        return f"{what} ({shorten(verdict.reason)})"
    return what


def _task_section(task: Task) -> str:
    return fenced(task_prompt(task))


def fenced(code: str, language: str = "python") -> str:
    """The code as one fenced block, under a fence longer than any inside it."""
    longest = max((len(run) for run in re.findall(r"`{3,}", code)), default=2)
    fence = "`" * (longest + 1)
    return f"{fence}{language}\n{code.strip(chr(10))}\n{fence}"


# ---- the texts: ours, short for the student's sake -------------------------------------------

REFINE = """Correct the code so that it does the task and the error is gone.

{task}CODE:
{attempt}

{feedback}"""

WRONG_VALUE = """ERROR: AssertionError
INPUT: {arguments}
OUTPUT: {output}
EXPECTED: {expected}"""

LIMITS = {
    "timeout": "TimeoutError: the program did not finish in time",
    "memory": "MemoryError: the program used too much memory",
    "crashed": "SystemExit: the program ended before it returned a value",
}

_TEACHER_ROLE = """You help a student programmer who is learning Python. You are shown a task \
whose last lines open a function, and sometimes the student's attempt at it with the error it met.

Rules for every answer:
- Keep the function's name and its parameters exactly as given.
- Do what the task asks, return what its tests expect, and read no input.
- Keep every import, helper and constant that the function needs.
- Reply with one fenced python block that holds the whole function, and nothing else.

"""

TEACHER = (
    _TEACHER_ROLE
    + """Rules for repairing an attempt:
- Change as little as will make it right: keep the student's approach, structure, names and \
style, and stay closest to the attempt.
- Only where the approach is hopeless, write the function afresh.
- Do not write code for the one input that is shown."""
)

TEACHER_FREE = (
    _TEACHER_ROLE
    + """Rules for repairing an attempt:
- Make it right in the way you would write it yourself, as far from the attempt as you like.
- Do not write code for the one input that is shown."""
)

TEACHER_DIRECT = """Write the function for this task.

{task}"""

TEACHER_REPAIR_TASK = """This is the task.

{task}

"""

TEACHER_REPAIR = """This is the student's attempt at the task.

{attempt}

{result}

Repair the attempt, by the rules for repairing, and reply with one fenced python block that \
holds the whole repaired function."""

TEACHER_REPAIR_FREE = """This is the student's attempt at the task.

{attempt}

{result}

Write the function as it should be, and reply with one fenced python block that holds it whole."""

TEACHER_RESULT = """It was executed, with this result:

{feedback}"""

TEACHER_NO_RESULT = "It does not pass the tests."

TEACHER_RETRY = """That repair was executed and does not pass{told}

Repair the student's attempt again, under the same rules: as close to it as you can, in one \
fenced python block that holds the whole function."""

TEACHER_RETRY_FREE = """That function was executed and does not pass{told}

Write it again as it should be, under the same rules, in one fenced python block that holds the \
whole function."""

TEACHER_CLOSER = """That repair passes, but it is further from the student's attempt than need be. \
Repair the attempt once more: start from the student's own text and change only the lines that \
must be, in one fenced python block that holds the whole function."""

TEACHER_SHORTER = "Reply with the code alone: a reply longer than it must be is cut off."
