"""What a run is about to do and what it may cost at most: ``persd run --dry-run``.

Nothing is asked of anybody. The bound holds whatever the student does: every task fails, every
repair takes all its tries, every reply is as long as it may be.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from persd import tasks as task_sources
from persd.config import Config, TeacherTable
from persd.domains.code import teacher_direct
from persd.models import is_served, open_model
from persd.records import Task
from persd.run import price_for


def plan(config: Config) -> dict[str, Any]:
    """The plan by name: tasks, calls and USD at most (None: a price is not known).

    Raises UserError for what a run would refuse: a broken task, a missing key.
    """
    table = config.tasks
    tasks = list(
        task_sources.load(
            table.source,
            path=table.path,
            limit=table.limit,
            split="train",
            seed=config.run.seed,
        )
    )
    for role, spec in (("student", config.student), *(("teacher", t) for t in config.teacher)):
        if is_served(spec, role):  # type: ignore[arg-type]
            open_model(spec, role, box=_no_box, tasks=lambda: tasks).close()  # type: ignore[arg-type]
    asked = _directs_asked(tasks, config.teacher[0])
    repairs = sum(t.max_tries for t in config.teacher) * len(tasks) * config.run.rounds
    costs = [
        _at_most(tasks, t, asked if i == 0 else 0, config) for i, t in enumerate(config.teacher)
    ]
    return {
        "tasks": len(tasks),
        "rounds": config.run.rounds,
        "variants": list(config.run.variants),
        "student": config.student.model,
        "teachers": [t.model for t in config.teacher],
        "attempts": len(tasks) * config.run.rounds,
        "direct_answers_asked": asked,
        "repairs_at_most": repairs,
        "usd_at_most": None if None in costs else round(sum(c or 0.0 for c in costs), 4),
        "budget_usd": [t.budget_usd for t in config.teacher],
        "trainings": len(config.run.variants) * config.run.rounds,
        "benchmarks": list(config.evaluate.benchmarks),
    }


def _directs_asked(tasks: Sequence[Task], teacher: TeacherTable) -> int:
    if teacher.direct == "none":
        return 0
    return sum(1 for t in tasks if t.tested and (teacher.direct == "ask" or t.reference is None))


def _at_most(
    tasks: Sequence[Task], teacher: TeacherTable, asked: int, config: Config
) -> float | None:
    price = price_for(teacher, "teacher")
    if price is None:
        return None
    # a repair shows the task, a direct answer and an attempt, each at most its reply's length,
    # and every further try the replies before it; four characters make at least a token
    total = 0.0
    per_task = [price.at_most(teacher_direct(t), teacher.max_tokens) for t in tasks]
    total += sum(per_task[:asked])
    reply = price.input * teacher.max_tokens / 1e6
    for attempt in range(1, teacher.max_tries + 1):
        total += config.run.rounds * sum(c + (attempt + 1) * reply for c in per_task)
    return total if teacher.budget_usd is None else min(total, teacher.budget_usd)


def _no_box() -> Any:
    raise AssertionError("a served model needs no sandbox")
