"""A run while it is open: its config, its ledger, who answers, and the judge."""

from __future__ import annotations

import json
import os
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeVar

from persd import tasks as task_sources
from persd.calibrate import limits_from
from persd.calls import Asker, Traffic
from persd.config import Config, Endpoint, changed_keys, stage_of, to_json
from persd.errors import UserError
from persd.ledger import Ledger
from persd.models import Role, Throttles, is_served, open_model
from persd.money import FREE, Budget, Price, price_of
from persd.progress import Progress
from persd.records import Solution, State, Task, TaskState, Verdict, content_id
from persd.sandbox import Limits, Sandbox
from persd.verify import Cache, Job, verify

T = TypeVar("T")

#: Reason of the verdict on a reply without code.
NO_CODE = "no code in the reply"
#: How a reply of the student ends where nothing was attempted, and the state its task ends in.
NOT_ATTEMPTS: Mapping[str, State] = {
    "prompt_too_long": "too_long",
    "prompt_not_encodable": "too_long",
    "rejected": "unavailable",
    "empty": "unavailable",
}


@dataclass(frozen=True, slots=True)
class Case:
    """One task on its way through a round, with what it has gathered."""

    task: Task
    direct: Solution | None = None
    attempt: Solution | None = None
    verdict: Verdict | None = None
    """The judge's verdict on the attempt."""
    refinement: Solution | None = None
    tries: tuple[tuple[Solution, Verdict], ...] = ()
    """Repairs that failed, each with its verdict."""


class Run:
    """Context manager over one run. One process at a time; closing commits and frees it.

    Raises UserError where the run's stored config or tasks contradict the given ones.
    """

    def __init__(self, config: Config, progress: Progress | None = None) -> None:
        self.config = config
        self.progress = progress or Progress()
        self.dir = Path(config.run.dir)
        self._stack = ExitStack()
        self._askers: dict[tuple[str, str], Asker] = {}
        self._budgets: dict[str, Budget] = {}
        self._throttles: Throttles = {}
        self.traffic = Traffic()
        self.stopping = threading.Event()
        """Set: finish what is paid for, begin nothing."""
        self._box: Sandbox | None = None
        self._verdicts = Cache()
        self._shown: list[str] = []
        self.ledger = self._stack.enter_context(Ledger(self.dir))
        try:
            self._agree()
        except BaseException:
            self.close()
            raise

    # -- what is stored must follow from this config ------------------------------------

    def _agree(self) -> None:
        old = self.ledger.meta("config")
        if old is not None:
            reached = self._stages_reached()
            clash = {
                key: values
                for key, values in changed_keys(old, self.config).items()
                if stage_of(key) in reached
            }
            if clash:
                told = "; ".join(f"{k}: {a!r} -> {b!r}" for k, (a, b) in sorted(clash.items()))
                raise UserError(
                    f"the run was made with another config, and what it holds would not follow "
                    f"from this one ({told})",
                    where=str(self.dir),
                    hint="put the keys back, or give run.dir another folder",
                )
        if old != to_json(self.config):
            self.ledger.set_meta("config", to_json(self.config))

    def _stages_reached(self) -> set[str]:
        count = "SELECT COUNT(*) AS n FROM"
        rounds = self.ledger.rounds()

        def some(rest: str) -> bool:
            return bool(self.ledger.query(f"{count} {rest}")[0]["n"])

        reached = {"tasks"} if some("tasks WHERE benchmark = ''") else set()
        if some("verdicts"):
            reached.add("verify")
        if some("solutions WHERE benchmark = ''"):
            reached.add("student")
        if some("calls WHERE role = 'teacher'"):
            reached.add("teacher")
        if rounds and max(rounds) > 1:
            reached |= {"train"}  # later rounds' attempts came from what was trained
        return reached

    def store_tasks(self, tasks: Iterable[Task]) -> None:
        """Store the pool the first time; later, refuse tasks that are not the stored ones.

        A stream of any length. Nothing is stored where drawing a task raises.
        """
        if self.ledger.count_tasks():
            self._refuse_other_tasks(tasks)
        elif not self.ledger.add_tasks(tasks):
            table = self.config.tasks
            raise UserError(
                "it holds no task", where=table.path or table.source, hint="persd tasks check"
            )

    def _refuse_other_tasks(self, tasks: Iterable[Task]) -> None:
        """Raise where the tasks differ from the stored ones in more than where they were read."""
        given: set[str] = set()
        differ = []
        for task in tasks:
            given.add(task.task_id)
            stored = self.ledger.task(task.task_id)
            if stored is None or _content(stored) != _content(task):
                differ.append(task.task_id)
        if len(given) != self.ledger.count_tasks():
            differ += [t.task_id for t in self.ledger.stream_tasks() if t.task_id not in given]
        if differ:
            raise UserError(
                f"the tasks are not those the run began with ({len(differ)} differ, "
                f"first: {min(differ)})",
                where=str(self.dir),
                hint="bring the tasks back, or give run.dir another folder",
            )

    # -- who answers ----------------------------------------------------------------------

    def student(self, model: str) -> Asker:
        """The student, or a checkpoint of it."""
        return self._asker("student", model, of_student(self.config.student, model))

    def teacher(self, index: int = 0) -> Asker:
        """The teacher at a place of the cascade."""
        return self._asker("teacher", str(index), self.config.teacher[index])

    def _asker(self, role: Role, place: str, spec: Endpoint) -> Asker:
        found = self._askers.get((role, place))
        if found is None:
            if role == "student":
                self._drop_students()
            said = "SELECT 1 FROM calls WHERE role = ? AND model = ? LIMIT 1"
            answered = bool(self.ledger.query(said, (role, spec.model)))
            model = open_model(
                spec,
                role,
                box=lambda: self.box,
                tasks=self.ledger.tasks,
                answered=answered,
                throttles=self._throttles,
            )
            price = price_for(spec, role)
            if spec.budget_usd is not None and price is None:
                raise UserError(
                    f"the price of {spec.model} is not known, so budget_usd cannot be kept",
                    hint=f"give {role}.price = {{ input = ..., output = ... }} "
                    "in USD per million tokens",
                )
            found = Asker(
                model,
                role,
                self.ledger,
                price,
                self._budget(role, place, spec, price),
                traffic=self.traffic,
                stopping=self.stopping,
                tick=self.progress.tick,
            )
            self._askers[role, place] = found
        return found

    def _budget(self, role: Role, place: str, spec: Endpoint, price: Price | None) -> Budget:
        key = f"{role} {place}"
        if key not in self._budgets:
            spent = self.ledger.spent(role=role, model=spec.model)
            if price is not None:
                # what was paid before the user gave a price counts at that price, and what was
                # sent without an answer at the most it can have cost
                unpriced = self.ledger.unpriced(role=role, model=spec.model)
                spent += sum(price.cost(usage) for usage in unpriced)
                tries = self.ledger.tries(role=role, model=spec.model)
                spent += sum(price.cost(t.usage) if t.usd is None else t.usd for t in tries)
            self._budgets[key] = Budget(spec.budget_usd, spent)
        return self._budgets[key]

    def _drop_students(self) -> None:
        # one student in memory at a time
        for key in [k for k in self._askers if k[0] == "student"]:
            self._askers.pop(key).close()

    # -- the judge ------------------------------------------------------------------------

    @property
    def box(self) -> Sandbox:
        """The sandbox of this run, started when first asked for."""
        if self._box is None:
            table = self.config.verify
            box = Sandbox(workers=table.workers or cores(), unsafe=table.unsafe)
            self._box = self._stack.enter_context(box)
        return self._box

    @property
    def limits(self) -> Limits | None:
        """The config's limits on a program, or None: the judge's own."""
        return limits_of(self.config)

    def judge(
        self,
        items: Iterable[tuple[T, Task, Solution]],
        tests: Literal["hidden", "seen"] = "hidden",
    ) -> Iterator[tuple[T, Verdict]]:
        """Store and judge solutions, in order, streaming; a stored verdict is not made again."""
        queue: deque[tuple[T, Verdict | None]] = deque()

        def jobs() -> Iterator[Job]:
            for item, task, solution in items:
                self.ledger.add_solution(solution)
                verdict = self._known(solution, tests)
                queue.append((item, verdict))
                if verdict is None:
                    code = solution.code or ""
                    yield Job(solution.solution_id, task, code, tests, self.limits)

        for verdict in verify(self.box, jobs(), cache=self._verdicts):
            while queue[0][1] is not None:
                yield queue.popleft()  # type: ignore[misc]
            self.ledger.add_verdict(verdict)
            yield queue.popleft()[0], verdict
        while queue:
            yield queue.popleft()  # type: ignore[misc]

    def _known(self, solution: Solution, tests: Literal["hidden", "seen"]) -> Verdict | None:
        stored = self.ledger.verdict(solution.solution_id, tests)
        if solution.kind == "attempt" and solution.finish in NOT_ATTEMPTS:
            return Verdict(solution.solution_id, "not_run", tests, solution.finish)
        if stored is None and solution.code is None:
            stored = Verdict(solution.solution_id, "syntax", tests, NO_CODE)
            self.ledger.add_verdict(stored)
        return stored

    def shows(self, evaluation_ids: Sequence[str]) -> None:
        """These scores belong to the config as it is now; those of another one stay stored."""
        self._shown += [i for i in evaluation_ids if i not in self._shown]
        self.ledger.set_meta("evaluations", json.dumps(self._shown))

    # -- rounds and states ----------------------------------------------------------------

    def begin_round(self, round: int) -> Unfinished:
        """The tasks that have no final state in this round yet."""
        todo = self.ledger.count_unfinished(round)
        if todo:
            self.progress.stage(f"round {round}", todo)
        return Unfinished(self.ledger, round)

    def end(self, case: Case, round: int, state: State, detail: str = "") -> None:
        """A task's end in a round."""
        self.ledger.set_state(
            TaskState(
                task_id=case.task.task_id,
                round=round,
                state=state,
                detail=detail,
                attempt_id=case.attempt.solution_id if case.attempt else None,
                refinement_id=case.refinement.solution_id if case.refinement else None,
                direct_id=case.direct.solution_id if case.direct else None,
            )
        )
        self._tell_money()
        self.progress.step(1, **{state: 1})

    def _tell_money(self) -> None:
        budgets = [b for b in self._budgets.values() if b.cap_usd is not None]
        caps = [b.cap_usd for b in budgets if b.cap_usd is not None]
        spent = sum(b.spent_usd for b in self._budgets.values())
        self.progress.money(spent, sum(caps) if caps else None)

    def close(self) -> None:
        """Let the calls under way end, then close models, sandbox and ledger. Safe twice."""
        for asker in self._askers.values():
            asker.close()
        self._askers.clear()
        self._stack.close()

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _content(task: Task) -> str:
    """What a task is, wherever it was read."""
    return content_id(replace(task, source=""))


@dataclass(frozen=True, slots=True)
class Unfinished:
    """A round's tasks that have no final state yet, read from the ledger a page at a time."""

    ledger: Ledger
    round: int

    def __iter__(self) -> Iterator[Task]:
        return self.ledger.unfinished(self.round)


def limits_of(config: Config) -> Limits | None:
    """A config's limits on a program, or None: the judge's own."""
    return limits_from(config.verify.timeout, config.verify.memory_mb)


def cores() -> int:
    """The cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def load_pool(run: Run) -> None:
    """Read the run's tasks from their source and hold them against what the run began with.

    A source on the Hub is not fetched again once its tasks are stored.
    """
    table = run.config.tasks
    on_hub = table.path is None and table.source in ("humaneval", "mbpp")
    if not (on_hub and run.ledger.count_tasks()):
        run.store_tasks(read_pool(run.config))


def read_pool(config: Config) -> Iterator[Task]:
    """The tasks a config names, read from their source. Raises UserError at the first fault."""
    table = config.tasks
    return task_sources.load(
        table.source, path=table.path, limit=table.limit, split="train", seed=config.run.seed
    )


def of_student(spec: Endpoint, model: str) -> Endpoint:
    """The student's settings for a checkpoint of it, which is loaded, not served."""
    if model == spec.model:
        return spec
    return spec.model_copy(update={"model": model, "base_url": None})


def price_for(spec: Endpoint, role: Role) -> Price | None:
    """What a model costs: the user's price, the list's (None: unknown), nothing if it runs here."""
    if spec.price is not None:
        return Price(spec.price.input, spec.price.output, spec.price.cached)
    return price_of(spec.model, spec.base_url) if is_served(spec, role) else FREE
