"""A run while it is open: its config, its ledger, who answers, and the judge."""

from __future__ import annotations

import json
import os
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeVar, overload

from persd import tasks as task_sources
from persd.batches import Batches, refuse_open
from persd.calibrate import limits_from
from persd.calls import Answer, Asker, Traffic
from persd.config import Config, Endpoint, asks_more, changed_keys, is_served, stage_of, to_json
from persd.errors import UserError
from persd.ledger import Ledger
from persd.models import Throttles, open_model
from persd.models.openai_batch import BatchModel
from persd.money import FREE, Budget, Price, price_of, spent_on
from persd.progress import Progress
from persd.records import Role, Solution, State, Task, TaskState, Verdict, content_id
from persd.sandbox import Limits, Sandbox
from persd.verify import Cache, Job, verify

T = TypeVar("T")

Tests = Literal["hidden", "seen"]
#: Stands for the verdict on nothing.
NOTHING = Verdict("", "not_run", reason="nothing to judge")
#: Reason of the verdict on a reply without code.
NO_CODE = "no code in the reply"
#: How a reply of the student ends where nothing was attempted, and the state its task ends in.
NOT_ATTEMPTS: Mapping[str, State] = {
    "prompt_too_long": "too_long",
    "prompt_not_encodable": "too_long",
    "rejected": "not_attempted",
    "empty": "not_attempted",
    "refused": "not_attempted",
    "filtered": "not_attempted",
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
    """Repairs that did not do, each with its verdict."""
    since: int = 0
    """Where in ``tries`` those of the present teacher begin."""
    passing: Solution | None = None
    """A repair that passes but strays from the attempt; a closer one is being asked for."""
    missing: Answer | None = None
    """The answer that the present teacher did not give."""
    unanswered: Answer | None = None
    """The answer that an earlier teacher of the cascade did not give, and may give another time."""

    @property
    def own_tries(self) -> tuple[tuple[Solution, Verdict], ...]:
        """The present teacher's tries."""
        return self.tries[self.since :]


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
        self.progress.watch(self.traffic.counts)
        self._box: Sandbox | None = None
        self._verdicts = Cache(size=20_000)
        self._shown: list[str] = []
        self._is_collecting = False
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
            changed = changed_keys(old, self.config)
            more = asks_more(changed)
            clash = {
                key: values
                for key, values in changed.items()
                if stage_of(key) in reached and (key not in more or "train" in reached)
            }
            if clash:
                told = "; ".join(f"{k}: {a!r} -> {b!r}" for k, (a, b) in sorted(clash.items()))
                raise UserError(
                    f"the run was made with another config, and what it holds would not follow "
                    f"from this one ({told})",
                    where=str(self.dir),
                    hint="put the keys back, or give run.dir another folder, where teacher.model "
                    f'= "recorded:{self.dir}" says again what this one was told, for nothing',
                )
            if more and "train" not in reached:
                # what the teachers had given up is asked about again
                self.ledger.reopen(("refused", "teacher_failed"))
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
            model = open_model(
                spec,
                role,
                box=lambda: self.box,
                tasks=self.ledger.tasks,
                answered=self.ledger.has_answered(role, spec.model),
                throttles=self._throttles,
            )
            batches = None
            if isinstance(model, BatchModel):
                batches = Batches(model, self.progress.say)
            elif is_served(spec, role):
                refuse_open(self.ledger, role, spec)
            price = price_for(spec, role)
            if spec.budget_usd is not None and price is None:
                raise UserError(
                    f"the price of {spec.model} is not known, so budget_usd cannot be kept",
                    hint=f"give {role}.price = {{ input = ..., output = ... }} "
                    "in USD per million tokens",
                )
            if spec.budget_usd is not None and price == FREE and is_served(spec, role):
                self.progress.say(
                    f"{role} {spec.model} at {spec.base_url} is taken to cost nothing, so "
                    "budget_usd guards nothing there; give its price if it passes questions on"
                )
            found = Asker(
                model,
                role,
                self.ledger,
                price,
                self._budget(role, spec, price),
                traffic=self.traffic,
                stopping=self.stopping,
                tick=self.progress.tick,
                batches=batches,
            )
            self._askers[role, place] = found
        return found

    def _budget(self, role: Role, spec: Endpoint, price: Price | None) -> Budget:
        key = f"{role} {spec.model}"
        if key in self._budgets:
            # who asks one model twice in a cascade has one purse for it, and its smaller cap
            caps = [self._budgets[key].cap_usd, spec.budget_usd]
            self._budgets[key].cap_usd = min((c for c in caps if c is not None), default=None)
        else:
            spent, untold = self.ledger.spent(role=role, model=spec.model), 0.0
            if price is not None:
                # what was paid before the user gave a price counts at that price, and what was
                # sent without an answer at the most it can have cost
                unpriced = self.ledger.unpriced(role=role, model=spec.model)
                spent += sum(price.cost(usage) for usage in unpriced)
                tries = self.ledger.tries(role=role, model=spec.model)
                spent += sum(spent_on(t, price) for t in tries)
                untold = sum(spent_on(t, price) for t in tries if t.usd is None)
            self._budgets[key] = Budget(spec.budget_usd, spent, untold, is_free=price == FREE)
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

    @overload
    def judge(
        self, items: Iterable[tuple[T, Task, Solution]], tests: Tests = "hidden"
    ) -> Iterator[tuple[T, Verdict]]: ...

    @overload
    def judge(
        self, items: Iterable[tuple[T, Task, Solution | None]], tests: Tests = "hidden"
    ) -> Iterator[tuple[T, Verdict | None]]: ...

    def judge(
        self, items: Iterable[tuple[T, Task, Solution | None]], tests: Tests = "hidden"
    ) -> Iterator[tuple[T, Verdict | None]]:
        """Store and judge solutions, in order, streaming; a stored verdict is not made again,
        and an item without a solution is handed on in its turn."""
        queue: deque[tuple[T, bool]] = deque()

        def jobs() -> Iterator[Job | Verdict]:
            for item, task, solution in items:
                if solution is None:
                    job: Job | Verdict = NOTHING
                else:
                    job = self._known(solution, tests) or Job(
                        solution.solution_id, task, solution.code or "", tests, self.limits
                    )
                queue.append((item, isinstance(job, Verdict)))
                yield job

        for verdict in verify(self.box, jobs(), cache=self._verdicts):
            item, is_known = queue.popleft()
            if not is_known:
                self.ledger.add_verdict(verdict)
            yield item, None if verdict is NOTHING else verdict

    def _known(self, solution: Solution, tests: Tests) -> Verdict | None:
        """Store a solution; the verdict on it that needs no judge, or none any more."""
        self.ledger.add_solution(solution)
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

    @contextmanager
    def collecting(
        self, round: int, pilot: Sequence[Task] | None = None
    ) -> Iterator[Iterable[Task]]:
        """The tasks (or those of a pilot) that have no final state in this round yet.

        While it lasts ``stop`` is heeded: what is under way is finished, and on leaving
        KeyboardInterrupt is raised.
        """
        wanted = None if pilot is None else frozenset(t.task_id for t in pilot)
        tasks = Unfinished(self.ledger, round, self.stopping, wanted)
        todo = self.ledger.count_unfinished(round) if wanted is None else sum(1 for _ in tasks)
        if todo:
            self.progress.stage(f"round {round}", todo)
        self._is_collecting = True
        try:
            yield tasks
        finally:
            self._is_collecting = False
        if self.stopping.is_set():
            raise KeyboardInterrupt

    def stop(self) -> str | None:
        """Begin nothing more: calls under way are finished and judged, then the run ends.

        Returns what is waited for, in words; None: it cannot be stopped softly now, for it is
        not collecting, or was asked to before.
        """
        if not self._is_collecting or self.stopping.is_set():
            return None
        self.stopping.set()
        if any(a.batches is not None for a in self._askers.values()):
            return "what the judge has begun is finished; batches stay with their provider"
        return f"{self.traffic.in_flight} calls under way are finished"

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
        budgets = self._budgets.values()
        caps = [b.cap_usd for b in budgets if b.cap_usd is not None]
        spent = sum(b.spent_usd for b in budgets)
        # what may cost something and has no cap makes a sum of caps mean nothing
        whole = caps and all(b.cap_usd is not None or b.is_free for b in budgets)
        self.progress.money(spent, sum(caps) if whole else None)

    def close(self) -> None:
        """Let the calls under way end, then close models, sandbox and ledger. Safe twice."""
        self.stopping.set()  # one model's calls are not waited for while another sends more
        with self._stack:
            for asker in self._askers.values():
                self._stack.callback(asker.close)
            self._askers.clear()

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _content(task: Task) -> str:
    """What a task is, wherever it was read."""
    return content_id(replace(task, source=""))


@dataclass(frozen=True, slots=True)
class Unfinished:
    """A round's tasks that have no final state yet, read from the ledger a page at a time, until
    the run is being stopped."""

    ledger: Ledger
    round: int
    stopping: threading.Event
    wanted: frozenset[str] | None = None
    """Those of a pilot, by task_id; None: all."""

    def __iter__(self) -> Iterator[Task]:
        for task in self.ledger.unfinished(self.round):
            if self.stopping.is_set():
                return
            if self.wanted is None or task.task_id in self.wanted:
                yield task


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
    return spec.model_copy(update={"model": model, "base_url": None, "mode": "live"})


def price_for(spec: Endpoint, role: Role) -> Price | None:
    """What a model costs: the user's price, the list's (None: unknown), nothing if it runs here.

    Both are those of a call; in a batch a call costs a share of them (``money.price_of``).
    """
    batch = spec.mode == "batch"
    if spec.price is not None:
        price = Price(spec.price.input, spec.price.output, spec.price.cached)
        return price.times(spec.price.batch) if batch else price
    return price_of(spec.model, spec.base_url, batch=batch) if is_served(spec, role) else FREE
