"""The tasks that a teacher is shown as examples."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from persd.config import GenerateTable
from persd.domains.authoring import proposal_of
from persd.errors import UserError
from persd.pool.drafts import Rejection
from persd.pool.forms import drafted
from persd.records import Task
from persd.tasks import BENCHMARKS, load


def read_seeds(rules: GenerateTable, unsafe: bool = False) -> list[Task]:
    """The tasks of ``rules.seeds`` that can be shown whole: words, a program and a call.

    Of a source with splits it is the training tasks. ``unsafe``: see ``tasks.load``. Raises
    UserError where the source cannot be read, or holds no such task.
    """
    try:
        tasks = list(load(rules.seeds, path=rules.path, unsafe=unsafe))
    except UserError as error:
        if rules.path is not None or rules.seeds not in BENCHMARKS:
            raise
        raise UserError(
            f"the seeds cannot be read: {error.what}",
            where=error.where,
            hint="give a local copy with --data FILE (in a config: tasks.generate.path), or "
            "other seeds",
        ) from error
    return usable(tasks, rules.path or rules.seeds)


def usable(tasks: Iterable[Task], where: str) -> list[Task]:
    """The tasks that a question can show whole. Raises UserError where there is none."""
    found, reasons, first = list[Task](), Counter[str](), ""
    for task in tasks:
        fault = showable(task)
        if fault is None:
            found.append(task)
        else:
            reasons[fault.state] += 1
            first = first or f"{task.task_id}: {fault.detail}"
    if found:
        return found
    told = ", ".join(f"{count} {state}" for state, count in reasons.most_common())
    raise UserError(
        f"no task can be shown to a teacher ({told}; {first})" if told else "it holds no task",
        where=where,
        hint="A seed has an instruction, a reference and tests that call its entry point with "
        "plain data",
    )


def showable(task: Task) -> Rejection | None:
    """Why a task cannot be shown whole; None: it can. Its size and language do not matter."""
    found = drafted(proposal_of(task), task.task_id, _ANY)
    return found if isinstance(found, Rejection) else None


_ANY = GenerateTable(
    count=1, seen=0, least_tests=1, words=(1, 10**9), lines=(1, 10**9), language=False
)
