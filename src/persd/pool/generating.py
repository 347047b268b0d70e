"""A task file written by a teacher: ``persd tasks generate`` and ``persd tasks evolve``.

In a folder of its own, whose ledger holds every question, reply and candidate, so that the same
command goes on where it was broken off and a higher ``--count`` asks only for what is missing.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from persd import __version__
from persd.config import (
    Endpoint,
    GenerateTable,
    StudentTable,
    TeacherTable,
    VerifyTable,
    from_flags,
    given_keys,
    is_served,
)
from persd.errors import UserError
from persd.evaluating import refuse_unpriced
from persd.files import refuse_target, replacing
from persd.ledger import FILE_NAME, Ledger
from persd.pool.files import refuse_outs, write_tasks
from persd.pool.generate import (
    BOOK,
    Asking,
    Counts,
    Ended,
    accepted,
    asking,
    benchmarks_of,
    generate,
    likely_questions,
    question,
)
from persd.progress import Progress
from persd.records import CANDIDATE_STATES
from persd.report.money import money
from persd.report.text import in_code, markdown_table, number, usd
from persd.session import Session

#: Where a file's folder is made when none is given.
FOLDER = Path("runs/tasks")
#: What tasks are held against where nothing is said.
USUAL = ("humaneval", "mbpp")
_SECONDS = "seconds of writing"


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What is wanted, by whom, and where it goes."""

    rules: GenerateTable
    teacher: TeacherTable
    out: Path
    run: Path
    """The folder of its ledger."""
    seed: int = 0
    verify: VerifyTable = VerifyTable()  # noqa: RUF009 (it is frozen)

    @property
    def card(self) -> Path:
        return self.out.with_name(f"{self.out.name}.md")


def order_of(
    given: Mapping[str, Any],
    endpoint: Mapping[str, Any],
    overrides: Sequence[str],
    against: Sequence[str] | None,
    *,
    out: Path,
    run: Path | None,
    seed: int,
    command: str,
    unsafe: bool = False,
) -> Order:
    """What the command line asks for. ``given``: keys of a GenerateTable, ``endpoint``: of a
    TeacherTable, those that are None left out; ``overrides``: ``key=value`` of either.

    Raises UserError naming the flag at fault.
    """
    rules, teacher = ({k: v for k, v in t.items() if v is not None} for t in (given, endpoint))
    for key, value in given_keys(overrides).items():
        # what a teacher is told beside an endpoint's settings is about repairs
        if key not in GenerateTable.model_fields and key not in Endpoint.model_fields:
            known = sorted({*GenerateTable.model_fields, *Endpoint.model_fields})
            table = "; name no table" if key in ("tasks", "teacher") else ""
            raise UserError(f"--set {key}: unknown key{table}", hint=f"Known: {', '.join(known)}")
        (rules if key in GenerateTable.model_fields else teacher)[key] = value
    by = from_flags(TeacherTable, teacher, command)
    refuse_unpriced(by, "teacher")
    if rules.setdefault("author", 0) != 0:
        raise UserError(f"--set author={rules['author']}: there is one teacher, which is 0")
    usual = _against(against, by)
    rules = rules | usual if against is not None else usual | rules
    if by.model == "lab":
        rules = {"seeds": "lab"} | rules
    return Order(
        rules=from_flags(GenerateTable, rules, command),
        teacher=by,
        out=out,
        run=run or FOLDER / (re.sub(r"\.jsonl?(\.gz)?$", "", out.name) or "tasks"),
        seed=seed,
        verify=VerifyTable(unsafe=unsafe),
    )


def _against(given: Sequence[str] | None, teacher: TeacherTable) -> dict[str, Any]:
    """``NAME[=FILE]`` as the rules have them; ``none``: nothing."""
    if given is None:
        names = list(USUAL) if is_served(teacher, "teacher") else []
        return {"against": names, "data": {}}
    pairs = [item.partition("=") for item in given if item != "none"]
    if len(pairs) < len(given) and pairs:
        raise UserError('--against "none" and others', hint="Give the one or the others")
    files = {name: path for name, equals, path in pairs if equals}
    for name, path in files.items():
        if not Path(path).is_file():
            raise UserError(f"no file for {name}", where=path, hint="Check --against")
    return {"against": [name for name, _, _ in pairs], "data": files}


# -- writing ------------------------------------------------------------------------------------


@contextmanager
def opened(order: Order, progress: Progress) -> Iterator[Session]:
    """The folder of an order, while tasks are written in it."""
    _refuse_out(order)
    nobody = StudentTable(model="nobody")
    teachers, verify = [order.teacher], order.verify
    with Session(
        order.run,
        seed=order.seed,
        student=nobody,
        teachers=teachers,
        verify=verify,
        progress=progress,
    ) as session:
        if session.ledger.meta("config") is not None:  # whose money and funnel are its own
            raise UserError("it is the folder of a run", where=str(order.run), hint="--run another")
        yield session


def _refuse_out(order: Order) -> None:
    """Raises UserError where the file could not be written, or is there and none of ours, before
    anything is paid."""
    read = (order.rules.path, order.rules.seeds, order.rules.evolve, *order.rules.data.values())
    there = refuse_outs([order.out], [Path(p) for p in read if p is not None])
    refuse_target(order.card, "the card")
    if there and not order.card.exists():
        raise UserError(
            "these tasks were not written here: there is no card beside them",
            where=str(order.out),
            hint="give --out another file, or move it away",
        )
    folder = next(p for p in (order.out.parent, *order.out.absolute().parents) if p.exists())
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise UserError(
            "cannot write the tasks there", where=str(order.out), hint="give --out another file"
        )


def written(session: Session, order: Order) -> tuple[Ended, dict[str, Any]]:
    """Have the tasks written, and the file with them; also what is there where it ended early.

    Why it ended, and for JSON, all of it totals of the folder: ``tasks`` in the file, its
    ``path`` (None: there is no task to write), ``candidates``, ``states`` of those, ``questions``
    that have a candidate, ``unanswered`` by why, ``usd`` (None: a price is not known),
    ``usd_per_task`` (over all that are accepted), ``calls``, ``seconds``, ``against``, ``run``.
    """
    started = time.monotonic()
    before = float(session.ledger.meta(_SECONDS) or 0.0)
    rules = order.rules
    asked = asking(rules, order.seed, session.is_unsafe)
    benchmarks = benchmarks_of(session, rules, "use --against {}=FILE, or --against none")
    session.progress.say(_held_against(rules, asked))
    if before_now := Counts.of(session.ledger).accepted:
        session.progress.say(f"{order.run} holds {number(before_now)} accepted tasks already")
    ended = generate(session, rules, asked, benchmarks)
    session.progress.close()
    session.ledger.set_meta(_SECONDS, str(round(before + time.monotonic() - started, 3)))
    found = totals(session.ledger, order)
    if found["tasks"]:
        # the card first: a file without one is taken for somebody else's
        with replacing(order.card, "the card", folder=True) as unfinished:
            unfinished.write_text(card(order, asked, found), encoding="utf-8")
        write_tasks(order.out, accepted(session.ledger, rules.count))
    return ended, found


def _held_against(rules: GenerateTable, asked: Asking) -> str:
    names = ", ".join(rules.against) or "no benchmark"
    return f"held against {names}, and against {number(len(asked.known))} {asked.name}"


def totals(ledger: Ledger, order: Order) -> dict[str, Any]:
    """What a folder amounts to (``written``)."""
    counts = ledger.count_candidates()
    states = {state: counts[state] for state in CANDIDATE_STATES if state in counts}
    paid, new = money(ledger).all, states.get("accepted", 0)
    tasks = min(new, order.rules.count)
    book = json.loads(ledger.meta(BOOK) or "{}")
    return {
        "tasks": tasks,
        "path": str(order.out) if tasks else None,
        "candidates": sum(states.values()),
        "states": states,
        "questions": Counts.of(ledger).questions,
        "unanswered": dict(sorted(Counter(book.get("unanswered", {}).values()).items())),
        "usd": paid.usd,
        "usd_at_risk": paid.at_risk,
        "usd_per_task": paid.per(new),
        "calls": paid.calls,
        "seconds": float(ledger.meta(_SECONDS) or 0.0),
        "against": list(order.rules.against),
        "run": str(order.run),
    }


# -- before anything is asked -------------------------------------------------------------------


def planned(order: Order) -> dict[str, Any]:
    """What an order will ask: as ``prompt`` the first question, ``tasks`` wanted, ``accepted`` so
    far, ``questions`` for the rest where as many are accepted as before (or as is usual),
    ``usd_at_most`` for those (None: the price is not known), ``usd_without_cap``: the same if
    ``budget_usd`` did not end it before, ``teacher``, how many ``seeds`` (or ``parents``),
    ``against`` and ``run``."""
    _refuse_out(order)
    rules = order.rules
    asked = asking(rules, order.seed, order.verify.unsafe)
    likely, new = likely_questions(rules, asked, order.seed), 0
    if (order.run / FILE_NAME).is_file():
        with Ledger(order.run, read_only=True) as ledger:
            likely = likely_questions(rules, asked, order.seed, ledger)
            new = Counts.of(ledger).accepted
    first = question(rules, asked.brief(0), order.seed)
    free = order.teacher.model_copy(update={"budget_usd": None})
    return {
        "prompt": first.prompt,
        "tasks": rules.count,
        "accepted": new,
        "questions": likely.questions,
        "usd_at_most": likely.usd(order.teacher),
        "usd_without_cap": likely.usd(free),
        "budget_usd": order.teacher.budget_usd,
        "teacher": order.teacher.model,
        asked.name: len(asked.known),
        "against": list(rules.against),
        "run": str(order.run),
    }


# -- the card -----------------------------------------------------------------------------------


def card(order: Order, asked: Asking, found: Mapping[str, Any]) -> str:
    """What is in the file, for who finds it: no path, URL or key of whoever made it."""
    rules = order.rules
    source = Path(rules.evolve or rules.seeds).name
    against = ", ".join(f"`{in_code(Path(n).name)}`" for n in rules.against)
    new = found["states"].get("accepted", 0)
    of = f", the first of {number(new)} accepted" if new > found["tasks"] else ""
    facts = [
        ("tasks", f"{number(found['tasks'])}{of}"),
        ("written by", f"`{in_code(order.teacher.model)}`"),
        (f"from {asked.name}", f"{number(len(asked.known))} of `{in_code(source)}`"),
        ("held against", against or "nothing"),
        ("seed", str(order.seed)),
        ("cost", usd(found["usd"])),
        ("cost of an accepted task", usd(found["usd_per_task"])),
        ("calls", number(found["calls"])),
    ]
    states = [(s.replace("_", " "), number(n)) for s, n in found["states"].items()]
    return CARD.format(
        facts=markdown_table(("", ""), facts),
        states=markdown_table(("state", "candidates"), states),
        version=__version__,
    )


CARD = """# Tasks written by a model

{facts}
The model proposed each task with a solution and calls; what the calls give was found by running
the solution in a sandbox, several times in different conditions.

## What became of every proposed task

{states}
## Made by

persd {version}. The terms of the model's provider may restrict training on what it writes.
"""
