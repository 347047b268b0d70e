"""A run while it is open: what is stored must follow from its config; rounds and states."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from persd import tasks as task_sources
from persd.calibrate import limits_from
from persd.calls import Answer
from persd.config import Config, asks_more, changed_keys, stage_of, to_json
from persd.errors import UserError
from persd.ledger import Ledger
from persd.progress import Progress
from persd.records import Solution, State, Task, TaskState, Verdict, content_of
from persd.sandbox import Limits
from persd.session import Session

#: The ledger's fact of how a pool was chosen by difficulty.
CHOICE = "pool"


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


class Run(Session):
    """Context manager over one run. One process at a time; closing commits and frees it.

    Raises UserError where the run's stored config or tasks contradict the given ones.
    """

    def __init__(self, config: Config, progress: Progress | None = None) -> None:
        super().__init__(
            Path(config.run.dir),
            seed=config.run.seed,
            student=config.student,
            teachers=config.teacher,
            verify=config.verify,
            progress=progress,
        )
        self.config = config
        self._shown: list[str] = []
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
        # a pool that was chosen by difficulty is this student's
        if some("solutions WHERE benchmark = ''") or self.ledger.meta(CHOICE) is not None:
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
            if stored is None or content_of(stored) != content_of(task):
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
        with self.heeding():
            yield tasks
        if self.stopping.is_set():
            raise KeyboardInterrupt

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
        self.tell_money()
        self.progress.step(1, **{state: 1})


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


def stored_config(ledger: Ledger) -> Config:
    """The config a run was made with."""
    stored = ledger.meta("config")
    if stored is None:
        raise UserError("the run holds no config", where=str(ledger.path))
    return Config.model_validate(json.loads(stored))


def read_pool(config: Config) -> Iterator[Task]:
    """The tasks a config names, read from their source, as they are before a choice by difficulty.
    Raises UserError at the first fault."""
    table = config.tasks
    return task_sources.load(
        table.source,
        path=table.path,
        limit=table.limit,
        split="train",
        seed=config.run.seed,
        style=table.style,
        mix=table.mix,
        unsafe=config.verify.unsafe,
    )
