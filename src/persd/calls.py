"""Asking a model: stored answers first, then the model, durably and within the budget.

Every question any stage asks any model goes through ``complete``. It looks the request up
in the ledger; what is not there goes to the model, in batches and threads as the model
likes; every answer is committed in the thread that received it, before anybody sees it.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Literal

from persd import __version__
from persd.errors import WorkFailed
from persd.ledger import Ledger
from persd.models import Model, ModelUnavailable
from persd.money import FREE, Budget, Price
from persd.records import Call, Completion, Request, content_id

#: Calls a model may leave unanswered before its first answer.
SILENCE = 8
#: Stored answers handed on together.
_HITS = 64

Missing = Literal["over_budget", "unavailable"]
"""Why there is no answer; both are asked again by the next run."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A request with what came of it."""

    request: Request
    call_id: str
    completion: Completion | None
    missing: Missing | None = None
    detail: str = ""


@dataclass(slots=True)
class Asker:
    """A model in its role in a run: who answers, what it may cost, where answers are kept."""

    model: Model
    role: Literal["student", "teacher"]
    ledger: Ledger
    price: Price | None = FREE
    budget: Budget = field(default_factory=lambda: Budget(None))
    _silent: int | None = 0
    """Calls in a row without an answer, before the first answer; None: it has answered."""
    _pools: list[ThreadPoolExecutor] = field(default_factory=list)

    def complete(self, requests: Iterable[Request]) -> Iterator[Answer]:
        """An answer for every request, as they come in; a model of one thread keeps the order.

        Requests are drawn from the iterable only as fast as they can be sent, so a stream of
        any length takes flat memory. Closing the iterator waits for what is under way (it is
        paid for, and stored) and sends nothing more.
        """
        source = iter(requests)
        pool = ThreadPoolExecutor(self.model.in_flight, thread_name_prefix=self.model.name)
        self._pools.append(pool)
        pending: set[Future[list[Answer]]] = set()
        ready: list[Answer] = []
        try:
            while True:
                self._fill(source, pool, pending, ready)
                if ready:
                    yield from ready
                    ready.clear()
                    continue
                if not pending:
                    return
                done, pending = wait(pending, return_when=FIRST_COMPLETED)
                # the next batch goes out before these answers are looked at
                for future in done:
                    ready.extend(future.result())
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
            self._pools.remove(pool)

    def in_order(self, requests: Iterable[Request]) -> Iterator[Answer]:
        """The same, in the order of the requests."""
        order: deque[str] = deque()

        def noted() -> Iterator[Request]:
            for request in requests:
                order.append(call_id(self.model, request))
                yield request

        early: dict[str, Answer] = {}
        for answer in self.complete(noted()):
            early[answer.call_id] = answer
            while order and order[0] in early:
                yield early.pop(order.popleft())

    def close(self) -> None:
        """Wait for the calls under way (they are paid for, and stored), send no more, and
        close the model. Safe to call twice."""
        for pool in list(self._pools):
            pool.shutdown(wait=True, cancel_futures=True)
        self.model.close()

    def _fill(
        self,
        source: Iterator[Request],
        pool: ThreadPoolExecutor,
        pending: set[Future[list[Answer]]],
        ready: list[Answer],
    ) -> None:
        while len(pending) < self.model.in_flight:
            batch: list[tuple[str, Request]] = []
            drawn = False
            for request in source:
                drawn = True
                key = call_id(self.model, request)
                stored = self.ledger.completion(key)
                if stored is not None:
                    ready.append(Answer(request, key, stored))
                else:
                    batch.append((key, request))
                # a begun batch is always filled, so that a resumed run has the same batches
                if len(batch) >= self.model.batch or (not batch and len(ready) >= _HITS):
                    break
            if batch:
                pending.add(pool.submit(self._ask, batch))
            if not drawn or len(ready) >= _HITS:
                return

    def _ask(self, batch: Sequence[tuple[str, Request]]) -> list[Answer]:
        price = self.price or FREE
        worst = sum(price.at_most(r.messages, r.max_tokens) for _, r in batch)
        with self.budget.reserve(worst) as held:
            if held is None:
                cap = f"the cap of {self.budget.cap_usd} USD leaves no room for this call"
                return [Answer(r, key, None, "over_budget", cap) for key, r in batch]
            started = time.monotonic()
            try:
                completions = self.model.complete([r for _, r in batch])
            except ModelUnavailable as e:
                self._note_silence(e)
                return [Answer(r, key, None, "unavailable", str(e)) for key, r in batch]
            self._silent = None
            seconds = (time.monotonic() - started) / len(batch)
            calls = [
                self._call(key, r, c, seconds)
                for (key, r), c in zip(batch, completions, strict=True)
            ]
            # settled first: should storing fail, the money is gone all the same
            costs = [c.completion.usd for c in calls]
            known = sum(c for c in costs if c is not None)
            held.settle(None if self.price is not None and None in costs else known)
            self.ledger.add_calls(calls)
        return [
            Answer(r, call.call_id, call.completion)
            for (_, r), call in zip(batch, calls, strict=True)
        ]

    def _note_silence(self, error: ModelUnavailable) -> None:
        """A model that has answered nothing yet and does not begin to is not asked further."""
        if self._silent is not None:
            self._silent += 1
            if self._silent >= SILENCE:
                raise WorkFailed(
                    f"{self.model.name} does not answer ({error}); what was collected is kept, "
                    "run it again to go on"
                )

    def _call(self, key: str, request: Request, c: Completion, seconds: float) -> Call:
        priced = Completion(
            text=c.text,
            finish=c.finish,
            usage=c.usage,
            usd=None if self.price is None or not c.usage.known else self.price.cost(c.usage),
            model=c.model or self.model.name,
            seconds=seconds,
            note=c.note,
        )
        return Call(
            call_id=key,
            role=self.role,
            model=self.model.name,
            purpose=request.purpose,
            task_id=request.task.task_id,
            round=request.round,
            messages=request.messages,
            params=params(request),
            completion=priced,
            versions={**self.model.identity, "persd": __version__},
        )


def params(request: Request) -> dict[str, float | int]:
    """The sampling settings of a request, as the ledger keeps them."""
    return {
        "temperature": request.temperature,
        "top_p": request.top_p,
        "max_tokens": request.max_tokens,
        "seed": request.seed,
    }


def call_id(model: Model, request: Request) -> str:
    """The key of a request: the same model, question and seed have the same answer."""
    return content_id(
        dict(model.identity),
        request.purpose,
        request.task.task_id,
        [(m.role, m.content) for m in request.messages],
        params(request),
        request.sample,
        request.attempt,
    )
