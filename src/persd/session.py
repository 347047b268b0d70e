"""A folder while it is open: its ledger, who answers, what that may cost, and the judge.

What a collection, an evaluation and an experiment have in common: models asked through one
ledger and one budget, and every program judged by the one judge, each verdict stored.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Literal, Self, TypeVar, overload

from persd.batches import Batches, refuse_open
from persd.calibrate import limits_from
from persd.calls import Asker, Traffic
from persd.config import Endpoint, VerifyTable, is_served
from persd.errors import UserError
from persd.ledger import Ledger
from persd.models import Throttles, open_model
from persd.models.openai_batch import BatchModel
from persd.money import FREE, Budget, Price, price_of, spent_on
from persd.progress import Progress
from persd.records import Role, Solution, State, Task, Verdict
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


class Session:
    """Context manager over one folder. One process at a time; closing commits and frees it.

    ``student`` and ``teachers`` say who answers, ``seed`` what all sampling derives from.
    """

    def __init__(
        self,
        folder: Path,
        *,
        seed: int,
        student: Endpoint,
        teachers: Sequence[Endpoint] = (),
        verify: VerifyTable | None = None,
        progress: Progress | None = None,
    ) -> None:
        self.dir, self.seed = Path(folder), seed
        self._student, self._teachers = student, teachers
        self._verify = verify or VerifyTable()
        self.progress = progress or Progress()
        self._stack = ExitStack()
        self._askers: dict[tuple[str, str], Asker] = {}
        self._budgets: dict[str, Budget] = {}
        self._throttles: Throttles = {}
        self.traffic = Traffic()
        self.stopping = threading.Event()
        """Set: finish what is paid for, begin nothing."""
        self._is_heeding = False
        self.progress.watch(self.traffic.counts)
        self._box: Sandbox | None = None
        self._verdicts = Cache(size=20_000)
        self.ledger = self._stack.enter_context(Ledger(self.dir))

    # -- who answers ----------------------------------------------------------------------

    def student(self, model: str) -> Asker:
        """The student, or a checkpoint of it."""
        return self._asker("student", model, of_student(self._student, model))

    def teacher(self, index: int = 0) -> Asker:
        """The teacher at a place of the cascade."""
        return self._asker("teacher", str(index), self._teachers[index])

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
            spent, untold = spent_so_far(self.ledger, role, spec.model, price)
            self._budgets[key] = Budget(spec.budget_usd, spent, untold, is_free=price == FREE)
        return self._budgets[key]

    def _drop_students(self) -> None:
        # one student in memory at a time
        for key in [k for k in self._askers if k[0] == "student"]:
            self._askers.pop(key).close()

    def tell_money(self) -> None:
        """Show what is spent, and the cap where all that may cost has one."""
        budgets = self._budgets.values()
        caps = [b.cap_usd for b in budgets if b.cap_usd is not None]
        spent = sum(b.spent_usd for b in budgets)
        # what may cost something and has no cap makes a sum of caps mean nothing
        whole = caps and all(b.cap_usd is not None or b.is_free for b in budgets)
        self.progress.money(spent, sum(caps) if whole else None)

    # -- the judge ------------------------------------------------------------------------

    @property
    def box(self) -> Sandbox:
        """The sandbox of this run, started when first asked for."""
        if self._box is None:
            table = self._verify
            box = Sandbox(workers=table.workers or cores(), unsafe=table.unsafe)
            self._box = self._stack.enter_context(box)
        return self._box

    @property
    def limits(self) -> Limits | None:
        """The [verify] table's limits on a program, or None: the judge's own."""
        return limits_from(self._verify.timeout, self._verify.memory_mb)

    @property
    def is_unsafe(self) -> bool:
        """Whether programs run even where nothing keeps them from the user's files."""
        return self._verify.unsafe

    @property
    def judged_by(self) -> dict[str, object]:
        """What of the [verify] table a verdict depends on."""
        return self._verify.model_dump(exclude={"workers"})

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
        queue: deque[tuple[T, bool, bool]] = deque()

        def jobs() -> Iterator[Job | Verdict]:
            for item, task, solution in items:
                if solution is None:
                    job: Job | Verdict = NOTHING
                else:
                    job = self._known(solution, tests) or Job(
                        solution.solution_id, task, solution.code or "", tests, self.limits
                    )
                scores = solution is not None and bool(solution.benchmark)
                queue.append((item, isinstance(job, Verdict), scores))
                yield job

        for verdict in verify(self.box, jobs(), cache=self._verdicts):
            item, is_known, scores = queue.popleft()
            if not is_known:
                # of what is only scored no test is looked at beyond the first that fails
                self.ledger.add_verdict(_to_first_failure(verdict) if scores else verdict)
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

    # -- the end ---------------------------------------------------------------------------

    @contextmanager
    def heeding(self) -> Iterator[None]:
        """While it lasts ``stop`` is heeded: what is under way is finished, no more is begun."""
        self._is_heeding = True
        try:
            yield
        finally:
            self._is_heeding = False

    def stop(self) -> str | None:
        """Begin nothing more: calls under way are finished and judged, then the work ends.

        Returns what is waited for, in words; None: it cannot be stopped softly now, for nothing
        that heeds it is going on, or it was asked to before.
        """
        if not self._is_heeding or self.stopping.is_set():
            return None
        self.stopping.set()
        if any(a.batches is not None for a in self._askers.values()):
            return "what the judge has begun is finished; batches stay with their provider"
        return f"{self.traffic.in_flight} calls under way are finished"

    def close(self) -> None:
        """Let the calls under way end, then close models, sandbox and ledger. Safe twice."""
        self.stopping.set()  # one model's calls are not waited for while another sends more
        with self._stack:
            for asker in self._askers.values():
                self._stack.callback(asker.close)
            self._askers.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _to_first_failure(verdict: Verdict) -> Verdict:
    """The verdict with the first failing result alone."""
    first = verdict.first_failure
    return replace(verdict, results=() if first is None else (first,))


def cores() -> int:
    """The cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def spent_so_far(
    ledger: Ledger, role: Role, model: str, price: Price | None
) -> tuple[float, float]:
    """USD that a ledger's calls of a model count against its cap, and how much of it nobody told.

    What was paid before the user gave a price counts at that price, and what was sent without
    an answer at the most it can have cost.
    """
    spent = ledger.spent(role=role, model=model)
    if price is None:
        return spent, 0.0
    tries = ledger.tries(role=role, model=model)
    spent += sum(price.cost(usage) for usage in ledger.unpriced(role=role, model=model))
    spent += sum(spent_on(sent, price) for sent in tries)
    return spent, sum(spent_on(sent, price) for sent in tries if sent.usd is None)


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
