"""What a run is about to do and what it may cost at most: ``persd run --dry-run``.

Nothing is asked of anybody. The money here is an estimate on the high side: every task fails,
every repair takes all its tries, every reply is as long as it may be. What a run will really
ask, once it has asked something, is told by ``persd.forecast``. The promise is ``budget_usd``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from persd.config import Config, Endpoint, TeacherTable, is_served
from persd.domains.code import task_prompt, teacher_direct, teacher_refine
from persd.models import open_model
from persd.money import Price, most_tokens
from persd.records import Message, Role, Task, Usage
from persd.run import read_pool
from persd.session import price_for

#: Bytes of code a token stands for, on the high side, and of one rendered feedback.
_BYTES_A_TOKEN, _FEEDBACK = 5, 1500

#: The steps of a task's way through a round, in their order: its reference is judged, the
#: teacher is asked for a direct answer, the student attempts, the teacher is asked for a repair,
#: and asked again, by all its tries and those of the teachers after it.
STAGES = REFERENCE, DIRECT, ATTEMPT, REPAIR, AGAIN = range(5)
#: What the steps ask for.
ASKS = (None, "directs", "attempts", "repairs", "repairs")


@dataclass(frozen=True, slots=True)
class Payer:
    """Whose calls a cap is over."""

    role: Role
    spec: Endpoint
    price: Price | None
    """None: not known."""

    @property
    def counts(self) -> bool:
        """Whether its calls are worth telling; those of a student that runs here are not."""
        return self.role == "teacher" or is_served(self.spec, self.role)


def payers(config: Config) -> list[Payer]:
    """The student, and the teachers of the cascade."""
    teachers = [Payer("teacher", t, price_for(t, "teacher")) for t in config.teacher]
    return [Payer("student", config.student, price_for(config.student, "student")), *teachers]


def entry(task: Task, config: Config) -> int | None:
    """The stage a task begins at, or None: no test can judge it, so nothing is asked for it."""
    how = config.teacher[0].direct
    if not task.tested:
        return None
    if how == "none":
        return ATTEMPT
    return DIRECT if how == "ask" or task.reference is None else REFERENCE


def plan(config: Config, tasks: Sequence[Task] | None = None) -> dict[str, Any]:
    """The plan by name: tasks, calls, and USD on the high side (None: a price is not known).

    ``tasks``: the pool, where it has been read. Raises UserError for what a run would refuse:
    a broken task, a missing key.
    """
    pool = list(read_pool(config) if tasks is None else tasks)
    asked: list[tuple[Role, Endpoint]] = [("student", config.student)]
    asked += [("teacher", t) for t in config.teacher]
    for role, spec in asked:
        if is_served(spec, role):
            open_model(spec, role, box=_no_box, tasks=lambda: pool).close()
    most = bounds(pool, config)
    return {
        "tasks": len(pool),
        "rounds": config.run.rounds,
        "variants": list(config.run.variants),
        "student": config.student.model,
        "teachers": [t.model for t in config.teacher],
        "attempts": len(pool) * config.run.rounds,
        "direct_answers_asked": most.calls[DIRECT],
        "repairs_at_most": most.calls[REPAIR] + most.calls[AGAIN],
        "usd_at_most": most.usd(config),
        "budget_usd": [t.budget_usd for t in config.teacher],
        "trainings": len(config.run.variants) * config.run.rounds,
        "benchmarks": list(config.evaluate.benchmarks),
    }


# -- the worst case ---------------------------------------------------------------------------


@dataclass(slots=True)
class Bound:
    """The most that some tasks can ask. A reply that holds no code, which is asked for afresh,
    and a call that fails and is made again come on top."""

    calls: list[int]
    """By stage."""
    usage: list[list[Usage]]
    """By stage and payer."""

    def add(self, stage: int, payer: int, most: Usage, times: int = 1) -> None:
        old = self.usage[stage][payer]
        self.calls[stage] += times
        self.usage[stage][payer] = Usage(
            old.input_tokens + times * most.input_tokens,
            old.output_tokens + times * most.output_tokens,
            known=False,
        )

    def usd(self, config: Config) -> float | None:
        """What that can cost; no payer pays more than its cap. None: a price is not known."""
        total = 0.0
        for place, payer in enumerate(payers(config)):
            if payer.price is None:
                return None
            usd = sum(payer.price.cost(by_payer[place]) for by_payer in self.usage)
            total += usd if payer.spec.budget_usd is None else min(usd, payer.spec.budget_usd)
        return round(total, 4)


def bounds(tasks: Sequence[Task], config: Config) -> Bound:
    """The most that a whole run over these tasks can ask."""
    found = _nothing(config)
    for task in tasks:
        for stage, payer, most in _calls(task, config):
            if stage != DIRECT:
                found.add(stage, payer, most, config.run.rounds)
            elif entry(task, config) == DIRECT:
                found.add(stage, payer, most)  # a direct answer serves all rounds
    return found


def once(tasks: Sequence[Task], config: Config) -> Bound:
    """The most that these tasks can ask if each comes to every stage once."""
    found = _nothing(config)
    for task in tasks:
        for stage, payer, most in _calls(task, config):
            found.add(stage, payer, most)
    return found


def _nothing(config: Config) -> Bound:
    places = 1 + len(config.teacher)
    return Bound([0 for _ in STAGES], [[Usage(known=False)] * places for _ in STAGES])


def _calls(task: Task, config: Config) -> Iterator[tuple[int, int, Usage]]:
    """(stage, payer, the most it can be) of every call there can be for a task in a round."""
    first, student = config.teacher[0], config.student
    yield DIRECT, 1, most_tokens(teacher_direct(task), first.max_tokens)
    yield ATTEMPT, 0, most_tokens([Message("user", task_prompt(task))], student.max_tokens)
    attempt = "x" * (_BYTES_A_TOKEN * student.max_tokens)
    stage = REPAIR
    for place, teacher in enumerate(config.teacher, 1):
        for most in _tries(task, attempt, teacher, first.direct != "none"):
            yield stage, place, most
            stage = AGAIN


def _tries(task: Task, attempt: str, teacher: TeacherTable, direct: bool) -> Iterator[Usage]:
    """All tries of one repair, each with the ones before it in its chat."""
    answer = "x" * (_BYTES_A_TOKEN * teacher.max_tokens)
    own = (task.reference or answer) if direct else None
    chat = list(teacher_refine(task, attempt, "x" * _FEEDBACK, own))
    for _ in range(teacher.max_tries + (teacher.stay_close is not None)):
        yield most_tokens(chat, teacher.max_tokens)
        chat += [Message("assistant", answer), Message("user", "x" * _FEEDBACK)]


def _no_box() -> Any:
    raise AssertionError("a served model needs no sandbox")
