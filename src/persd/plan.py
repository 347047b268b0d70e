"""What a run is about to do and what it may cost: ``persd run --dry-run``.

Nothing is asked of anybody. The money is an estimate on the high side: every task fails, every
repair takes all its tries, every reply is as long as it may be. The promise is ``budget_usd``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from persd.config import Config, Endpoint, TeacherTable
from persd.domains.code import task_prompt, teacher_direct, teacher_refine
from persd.models import Role, is_served, open_model
from persd.money import Price
from persd.records import Message, Task
from persd.run import price_for, read_pool

#: Bytes of code a token stands for, on the high side, and of one rendered feedback.
_BYTES_A_TOKEN, _FEEDBACK = 5, 1500


def plan(config: Config) -> dict[str, Any]:
    """The plan by name: tasks, calls, and USD on the high side (None: a price is not known).

    Raises UserError for what a run would refuse: a broken task, a missing key.
    """
    tasks = list(read_pool(config))
    asked: list[tuple[Role, Endpoint]] = [("student", config.student)]
    asked += [("teacher", t) for t in config.teacher]
    for role, spec in asked:
        if is_served(spec, role):
            open_model(spec, role, box=_no_box, tasks=lambda: tasks).close()
    directs = _directs_asked(tasks, config.teacher[0])
    costs = [_student(tasks, config)]
    for place, teacher in enumerate(config.teacher):
        costs.append(_teacher(tasks, teacher, directs if place == 0 else [], config))
    repairs = sum(t.max_tries for t in config.teacher) * len(tasks) * config.run.rounds
    return {
        "tasks": len(tasks),
        "rounds": config.run.rounds,
        "variants": list(config.run.variants),
        "student": config.student.model,
        "teachers": [t.model for t in config.teacher],
        "attempts": len(tasks) * config.run.rounds,
        "direct_answers_asked": len(directs),
        "repairs_at_most": repairs,
        "usd_at_most": None if None in costs else round(sum(c or 0.0 for c in costs), 4),
        "budget_usd": [t.budget_usd for t in config.teacher],
        "trainings": len(config.run.variants) * config.run.rounds,
        "benchmarks": list(config.evaluate.benchmarks),
    }


def _directs_asked(tasks: Sequence[Task], teacher: TeacherTable) -> list[Task]:
    if teacher.direct == "none":
        return []
    return [t for t in tasks if t.tested and (teacher.direct == "ask" or t.reference is None)]


def _student(tasks: Sequence[Task], config: Config) -> float | None:
    """The attempts of a served student; its evaluation is known only with its tasks."""
    spec = config.student
    price = price_for(spec, "student")
    if price is None:
        return None
    once = sum(price.at_most([Message("user", task_prompt(t))], spec.max_tokens) for t in tasks)
    return _capped(once, spec.budget_usd)


def _teacher(
    tasks: Sequence[Task], teacher: TeacherTable, directs: Sequence[Task], config: Config
) -> float | None:
    price = price_for(teacher, "teacher")
    if price is None:
        return None
    total = sum(price.at_most(teacher_direct(t), teacher.max_tokens) for t in directs)
    attempt = "x" * (_BYTES_A_TOKEN * config.student.max_tokens)
    repairs = sum(_repairs(task, attempt, teacher, price) for task in tasks)
    return _capped(total + config.run.rounds * repairs, teacher.budget_usd)


def _repairs(task: Task, attempt: str, teacher: TeacherTable, price: Price) -> float:
    """All tries of one repair, each with the ones before it in its chat."""
    answer = "x" * (_BYTES_A_TOKEN * teacher.max_tokens)
    direct = None if teacher.direct == "none" else task.reference or answer
    chat = list(teacher_refine(task, attempt, "x" * _FEEDBACK, direct))
    total = 0.0
    for _ in range(teacher.max_tries):
        total += price.at_most(chat, teacher.max_tokens)
        chat += [Message("assistant", answer), Message("user", "x" * _FEEDBACK)]
    return total


def _capped(usd: float, cap: float | None) -> float:
    return usd if cap is None else min(usd, cap)


def _no_box() -> Any:
    raise AssertionError("a served model needs no sandbox")
