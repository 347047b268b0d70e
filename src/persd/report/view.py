"""Tasks in the terminal: attempt, feedback, repair as a diff, verdict and lineage."""

from __future__ import annotations

from typing import TYPE_CHECKING

from persd.ledger import Ledger
from persd.report import diff
from persd.report.cases import REPAIRED, Piece, Shown, gather, known_state, select
from persd.report.summary import WORDS
from persd.report.text import number, percent, visible

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

_STYLES = {"-": "red", "+": "green", " ": ""}


def show(
    console: Console,
    ledger: Ledger,
    *,
    task: str | None = None,
    state: str | None = None,
    limit: int = 5,
) -> int:
    """Show the rounds of one task, or up to ``limit`` tasks of one state.

    Without either: tasks with a repair, spread over refined, refused and teacher_failed.
    Gives the number shown. Raises UserError for a task or a state there is none of.
    """
    states = REPAIRED if state is None else (known_state(state),)
    keys, there = select(ledger, states=states, limit=None if task else limit, task=task)
    for case in gather(ledger, keys):
        _show_case(console, case)
    wanted = " or ".join(s.replace("_", " ") for s in states)
    if not there:
        _say(console, f"No task is {wanted} in this run so far.", "dim")
    elif len(keys) < there:
        _say(
            console,
            f"{len(keys)} of {number(there)} tasks ({wanted}) are shown; --limit shows more, "
            "--task one of them, --state those of one state.",
            "dim",
        )
    return len(keys)


def _show_case(console: Console, case: Shown) -> None:
    console.rule(_text(f"{case.task.task_id} · round {case.round} · {case.state}"), align="left")
    why = f" ({case.detail})" if case.detail else ""
    _say(console, f"{WORDS[case.state]}{why}", "italic")
    _part(console, "task", case.prompt)
    if case.attempt is not None:
        status = case.attempt.status
        # beside a repair the diff shows the attempt
        _part(console, f"attempt: {status}", "" if case.rows else case.attempt.shown)
    if case.feedback:
        _part(console, "feedback", case.feedback)
    for piece in case.tries:
        _show_try(console, case, piece)
    if case.direct is not None and case.repair is None:
        _part(console, f"direct answer: {case.direct.status}", case.direct.shown)
    _show_lineage(console, case)


def _show_try(console: Console, case: Shown, piece: Piece) -> None:
    note = f" · {piece.solution.note}" if piece.solution.note else ""
    _say(console, f"repair, try {piece.solution.attempt}: {piece.status}{note}", "bold")
    last = case.repair is not None and piece.solution.solution_id == (
        case.repair.solution.solution_id
    )
    rows = case.rows if last else []
    if not rows and case.attempt is not None:
        rows = diff.rows(case.attempt.shown, piece.shown)
    for sign, line in diff.unified(rows):
        console.print(_diff_line(sign, line), soft_wrap=True)
    removed, added = diff.counts(rows)
    near = percent(case.closeness[0]) if last else "–"
    closeness = f"; {near} % alike" if near != "–" else ""
    _say(console, f"lines: {removed} removed, {added} added{closeness}", "dim")


def _diff_line(sign: str, line: diff.Line) -> Text:
    shown = _text(f"{sign} {line.number:>3}  ", _STYLES[sign])
    for text, changed in line.spans:
        emphasis = " bold reverse" if changed and sign != " " else ""
        shown.append(visible(text), style=f"{_STYLES[sign]}{emphasis}".strip() or None)
    return shown


def _show_lineage(console: Console, case: Shown) -> None:
    for name, piece in (
        ("attempt", case.attempt),
        ("repair", case.repair),
        ("direct answer", case.direct),
    ):
        if piece is not None:
            facts = " · ".join(f"{k} {v}" for k, v in piece.lineage.items())
            _say(console, f"{name}: {facts}", "dim")
    console.print()


def _part(console: Console, title: str, body: str) -> None:
    _say(console, title, "bold")
    if body:
        for line in body.strip("\n").split("\n"):
            console.print(_text(f"      {line}"), soft_wrap=True)


def _say(console: Console, text: str, style: str = "") -> None:
    console.print(_text(text, style))


def _text(text: str, style: str = "") -> Text:
    """Text of others: no markup is read in it, and nothing in it moves the cursor."""
    from rich.text import Text

    return Text(visible(text), style=style)
