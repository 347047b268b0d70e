"""Asking a model: stored answers first, then the model, durably and within the budget.

Every question any stage asks any model goes through ``complete``. It looks the request up
in the ledger; what is not there goes to the model, in batches and threads as the model
likes; every answer is committed in the thread that received it, before anybody sees it.

A served model is asked one try at a time. Each try reserves the most it can cost, waits for its
turn at the endpoint (``persd.throttle``), is noted in the ledger before it is sent, and settled
when it ends, however it ends. A try that failed as the next may not waits without holding a
turn; what it may have cost stays counted.
"""

from __future__ import annotations

import queue
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field, fields, replace
from typing import Literal, Protocol, TypeVar

from persd import __version__
from persd.errors import UserError, WorkFailed
from persd.ledger import Ledger
from persd.models import Model, ModelUnavailable, TryAgain
from persd.money import FREE, Budget, Price, Reservation, most_tokens
from persd.records import Call, Completion, Outcome, Request, Role, Try, Usage, content_id
from persd.throttle import LONGEST_HOLD, Stopped, Throttle

#: Questions a model may leave unanswered before its first answer.
SILENCE = 8
#: Benchmark of the samples that tell how hard the pool's tasks are (``pool.difficulty``), and the
#: purpose of their calls.
DIFFICULTY = "difficulty"
#: Stored answers handed on together.
_HITS = 64
#: Seconds between looks at what else there is to do while no answer comes.
_TICK = 1.0

T = TypeVar("T")

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


@dataclass(frozen=True, slots=True)
class Retry:
    """How long to try one question, and how long to wait between tries, in seconds."""

    tries: int = 8
    """Tries that may fail; being turned away for now (429) is none."""
    unheard: int = 5
    """The same, before the model has answered anything."""
    unusable: int = 5
    """Tries that may end in a whole reply that holds no answer."""
    unmended: int = 3
    """Tries of a question that are refused, or answered with no protocol of ours, before
    anything was answered."""
    patience: float = 600.0
    """After so many seconds of failures no other try is made."""
    first: float = 0.5
    most: float = 30.0

    def wait(self, failures: int, told: float | None) -> float:
        """Seconds before the next try: what the endpoint asked for, else twice as long each
        time, by chance up to a half less, so that those who failed together do not meet again."""
        own = min(self.most, self.first * 2.0 ** min(failures - 1, 60)) * random.uniform(0.5, 1.0)
        return own if told is None else min(told, LONGEST_HOLD) + random.uniform(0, 0.1) * own


@dataclass(slots=True)
class Traffic:
    """What is going on between a run and its served models, for those who watch. Thread-safe."""

    in_flight: int = 0
    answered: int = 0
    failed: int = 0
    """Tries that gave no answer."""
    resting: int = 0
    """Questions that wait for their next try."""
    input_tokens: int = 0
    output_tokens: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def counts(self) -> dict[str, int]:
        """The counts by name."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name != "_lock"}

    def add(self, usage: Usage | None = None, **counts: int) -> None:
        """Add to the counts by name, and the tokens of an answer."""
        with self._lock:
            for name, number in counts.items():
                setattr(self, name, getattr(self, name) + number)
            if usage is not None:
                self.input_tokens += usage.input_tokens
                self.output_tokens += usage.output_tokens


class Together(Protocol):
    """Who asks many questions together, to be answered later (``persd.batches``)."""

    def ask(self, asker: Asker, batch: Batch, line: Line) -> list[Answer]:
        """What came of them, beside what was handed on to the line before."""
        ...


@dataclass(slots=True)
class Asker:
    """A model in its role in a run: who answers, what it may cost, where answers are kept."""

    model: Model
    role: Role
    ledger: Ledger
    price: Price | None = FREE
    budget: Budget = field(default_factory=lambda: Budget(None))
    retry: Retry = field(default_factory=Retry)
    traffic: Traffic = field(default_factory=Traffic)
    stopping: threading.Event = field(default_factory=threading.Event)
    """Set: what is under way is finished, nothing else is begun."""
    tick: Callable[[], None] = lambda: None
    """Called about every second in which there is nothing else to do."""
    batches: Together | None = None
    """Who asks, where questions are sent many together to be answered later."""
    _silent: int = 0
    """Questions without an answer, before the first answer."""
    _has_answered: bool = False
    _counting: threading.Lock = field(default_factory=threading.Lock)
    _lines: list[Line] = field(default_factory=list)

    def complete(self, requests: Iterable[Request]) -> Iterator[Answer]:
        """An answer for every request, as they come in; a model of one thread keeps the order.

        Requests are drawn from the iterable only as fast as they can be sent, so a stream of
        any length takes flat memory. Closing the iterator waits for what is under way (it is
        paid for, and stored) and sends nothing more. Once ``stopping`` is set no more are drawn,
        and those not sent yet get no answer.
        """
        with closing(self._answers(requests)) as answers:
            yield from (a for a in answers if a is not None)

    def stream(
        self, items: Iterable[tuple[T, Request | None]]
    ) -> Iterator[tuple[T, Answer | None]]:
        """The same for questions that are about something, each item with its answer; an item
        without a question is handed on in its turn."""
        waiting: dict[int, T] = {}
        passing: deque[T] = deque()

        def requests() -> Iterator[Request | None]:
            for item, request in items:
                if request is None:
                    passing.append(item)
                else:
                    waiting[id(request)] = item
                yield request

        with closing(self._answers(requests())) as answers:
            for answer in answers:
                if answer is None:
                    yield passing.popleft(), None
                else:
                    yield waiting.pop(id(answer.request)), answer

    def _answers(self, requests: Iterable[Request | None]) -> Generator[Answer | None, None, None]:
        """An answer a request; None comes back as it is, in its turn."""
        source = iter(requests)
        line = Line(self)
        self._lines.append(line)
        ready: list[Answer | None] = []
        try:
            while True:
                self._fill(source, line, ready)
                if not ready:
                    if not line.under_way:
                        return
                    ready.extend(line.take(self.tick))
                    if line.is_busy:
                        # the next goes out before these answers are looked at
                        self._fill(source, line, ready)
                yield from ready
                ready.clear()
        finally:
            line.close()
            self._lines.remove(line)

    def close(self) -> None:
        """Wait for the calls under way (they are paid for, and stored), send no more, and
        close the model. Safe to call twice."""
        for line in list(self._lines):
            line.close()
        self.model.close()

    def _fill(
        self, source: Iterator[Request | None], line: Line, ready: list[Answer | None]
    ) -> None:
        if self.stopping.is_set():
            self._drain(source, ready)
            return
        while line.has_room and not self.stopping.is_set():
            batch: list[tuple[str, Request]] = []
            drawn = False
            for request in source:
                drawn = True
                if unanswered := self._look_up(request, ready):
                    batch.append(unanswered)
                # a begun batch is always filled, so that a resumed run has the same batches
                if len(batch) >= self.model.batch or (not batch and len(ready) >= _HITS):
                    break
            if len(batch) == self.model.batch or (batch and not self.stopping.is_set()):
                line.put(batch)
            # where questions come slowly, an answer that is there does not wait for the next
            if not drawn or len(ready) >= _HITS or (line.has_news and not line.is_busy):
                return

    def _drain(self, source: Iterator[Request | None], ready: list[Answer | None]) -> None:
        """Draw the rest of a source that is stopping, so that what was asked before it is looked
        at; what would have to be asked is let go."""
        for request in source:
            self._look_up(request, ready)
            if len(ready) >= _HITS:
                return

    def _look_up(
        self, request: Request | None, ready: list[Answer | None]
    ) -> tuple[str, Request] | None:
        """Put the stored answer to a request, or None as it is, with what is ready; returns a
        request that has none, with its key."""
        if request is None:
            ready.append(None)
            return None
        key = call_id(self.model, request)
        stored = self.ledger.completion(key)
        if stored is None:
            return key, request
        ready.append(Answer(request, key, stored))
        return None

    # -- in the threads of a line ---------------------------------------------------------

    def ask(self, batch: Batch, line: Line) -> list[Answer]:
        """What came of a batch, tried as often as it makes sense; none, where it was not sent
        because the run is stopping."""
        if self.batches is not None:
            return self.batches.ask(self, batch, line)
        failures = Failures(self.retry)
        while True:
            try:
                return self._once(batch, line)
            except Stopped:
                return []
            except ModelUnavailable as e:
                return self.no_answer(batch, str(e))
            except TryAgain as e:
                wait = failures.next_wait(e, self._has_answered)
                if wait is None:
                    if e.mend is not None:
                        raise e.mend from e
                    return self.no_answer(batch, f"{self.model.name}: {e} ({failures.text})")
            self._rest(wait, line)

    def _once(self, batch: Batch, line: Line) -> list[Answer]:
        most = [most_tokens(r.messages, r.max_tokens) for _, r in batch]
        worst = [(self.price or FREE).cost(usage) for usage in most]
        with self.budget.reserve(sum(worst), line.is_stopping) as held:
            if held is None:
                if line.is_stopping():
                    raise Stopped
                return self.over_budget(batch, worst[0])
            started = time.monotonic()
            if self.model.throttle is None:
                completions = self.model.complete([r for _, r in batch])
            else:
                key, request = batch[0]
                sent = self.try_of(key, request, most[0])
                completions = [self._send(request, sent, held, self.model.throttle, line)]
            self.heard()
            seconds = (time.monotonic() - started) / len(batch)
            calls = [
                self.call_of(key, r, c, seconds)
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

    def _send(
        self,
        request: Request,
        sent: Try,
        held: Reservation,
        throttle: Throttle,
        line: Line,
    ) -> Completion:
        """One try of one question at an endpoint; how it ended is in the ledger if it failed."""
        tokens = sent.usage.input_tokens // 4 + sent.usage.output_tokens
        with throttle.turn(tokens, line.is_stopping):
            sent = replace(sent, sent=time.time())
            self.ledger.begin_try(sent)
            self.traffic.add(in_flight=1)
            started = time.monotonic()
            try:
                (completion,) = self.model.complete([request])
            except (TryAgain, ModelUnavailable, UserError) as e:
                seconds = time.monotonic() - started
                self._failed(replace(sent, seconds=seconds), held, e)
                if isinstance(e, TryAgain) and _is_pressure(e):
                    throttle.refused(e.wait)
                raise
            except BaseException:
                held.settle(None)  # it was sent; its try is ended by the next opening
                raise
            finally:
                self.traffic.add(in_flight=-1)
            used = completion.usage
            seconds = time.monotonic() - started
            spent = used.input_tokens + used.output_tokens if used.known else tokens
            throttle.answered(seconds, tokens, spent)
            self.traffic.add(used, answered=1)
        return completion

    def _failed(self, sent: Try, held: Reservation, error: Exception) -> None:
        """Settle and note a try that gave no answer."""
        outcome: Outcome = error.kind if isinstance(error, TryAgain) else "refused"
        reply = error.reply if isinstance(error, TryAgain) else None
        usd: float | None = 0.0
        if isinstance(error, TryAgain) and error.billed:
            known = reply is not None and reply.usage.known and self.price is not None
            usd = self.price.cost(reply.usage) if known and reply and self.price else None
        held.settle(usd)
        self.traffic.add(failed=1)
        self.ledger.end_try(
            replace(
                sent,
                outcome=outcome,
                usd=usd,
                usage=reply.usage if reply is not None and reply.usage.known else sent.usage,
                text=reply.text if reply is not None else "",
                detail=str(error),
            )
        )

    def _rest(self, seconds: float, line: Line) -> None:
        """Wait without holding a turn; no longer where the run is being stopped."""
        self.traffic.add(resting=1)
        line.rest(seconds)
        self.traffic.add(resting=-1)

    def heard(self) -> None:
        """The model has answered."""
        self._has_answered = True

    def over_budget(self, batch: Batch, usd: float) -> list[Answer]:
        """The cap has no room for these, of which one may cost so many USD."""
        why = f"{self.role} {self.model.name}: {self.budget.no_room_for(usd)}"
        return [Answer(r, key, None, "over_budget", why) for key, r in batch]

    def no_answer(self, batch: Batch, why: str) -> list[Answer]:
        """A model that has answered nothing yet and does not begin to is not asked further."""
        with self._counting:
            self._silent += 1
            # a model in this process has said that it has no answer to these
            served = self.model.throttle is not None
            is_mute = served and self._silent >= SILENCE and not self._has_answered
        if is_mute:
            raise WorkFailed(
                f"{self.role} {self.model.name} does not answer ({why}); what was collected "
                "is kept, run it again to go on"
            )
        return [Answer(r, key, None, "unavailable", why) for key, r in batch]

    def try_of(self, key: str, request: Request, most: Usage) -> Try:
        return Try(
            call_id=key,
            sent=0.0,
            role=self.role,
            model=self.model.name,
            purpose=purpose_of(request),
            task_id=request.task.task_id,
            round=request.round,
            usd_at_most=None if self.price is None else self.price.cost(most),
            usage=most,
        )

    def call_of(self, key: str, request: Request, c: Completion, seconds: float) -> Call:
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
            purpose=purpose_of(request),
            task_id=request.task.task_id,
            round=request.round,
            messages=request.messages,
            params=params(request),
            completion=priced,
            versions={**self.model.identity, "persd": __version__},
        )


Batch = Sequence[tuple[str, Request]]


def _is_pressure(error: TryAgain) -> bool:
    """Whether an endpoint is asked too much: it turns calls away, says when to come back, or
    does not answer in time."""
    told = error.kind == "server_error" and error.wait is not None
    return told or error.kind in ("rate_limited", "timeout")


@dataclass(frozen=True, slots=True)
class _Came:
    """What a batch's thread has to give."""

    answers: list[Answer]
    error: BaseException | None = None
    ended: bool = True
    """Whether that is the last of it."""


class Line:
    """Batches under way in threads of their own, and their answers as they come."""

    def __init__(self, asker: Asker) -> None:
        self._asker = asker
        # those that wait for their next try keep a thread, and hold up nobody
        most = asker.model.in_flight * (1 if asker.model.throttle is None else 2)
        self._pool = ThreadPoolExecutor(most, thread_name_prefix=asker.model.name)
        self._most = most
        self._answers: queue.SimpleQueue[_Came] = queue.SimpleQueue()
        self._closing = threading.Event()
        self._lock = threading.Lock()
        self._resting = 0
        self.under_way = 0

    @property
    def _room(self) -> int:
        return min(self._most, self._asker.model.in_flight + self._resting)

    @property
    def has_room(self) -> bool:
        return self.under_way < self._room

    @property
    def is_busy(self) -> bool:
        """Whether questions come faster than answers."""
        return 2 * self.under_way > self._room

    @property
    def has_news(self) -> bool:
        """Whether an answer is there to be taken."""
        return not self._answers.empty()

    def is_stopping(self) -> bool:
        return self._closing.is_set() or self._asker.stopping.is_set()

    def rest(self, seconds: float) -> None:
        """Wait in a batch's thread, while others take its place."""
        with self._lock:
            self._resting += 1
        self.hand_on([])  # who asks has room for another now
        self.pause(seconds)
        with self._lock:
            self._resting -= 1

    def pause(self, seconds: float) -> None:
        """Wait in a batch's thread; no longer where the run is being stopped."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0 and not self.is_stopping():
            self._closing.wait(min(left, 0.5))

    def hand_on(self, answers: list[Answer]) -> None:
        """Give answers of a batch of which others are still to come."""
        self._answers.put(_Came(answers, ended=False))

    def put(self, batch: Batch) -> None:
        self.under_way += 1
        self._pool.submit(self._work, batch)

    def _work(self, batch: Batch) -> None:
        try:
            self._answers.put(_Came(self._asker.ask(batch, self)))
        except BaseException as e:
            self._answers.put(_Came([], e))

    def take(self, tick: Callable[[], None]) -> list[Answer]:
        """The answers that are there; waits for one. Raises what ended a batch."""
        found: list[Answer] = []
        while True:
            try:
                came = self._answers.get(timeout=_TICK)
                break
            except queue.Empty:
                tick()
        while True:
            self.under_way -= came.ended
            if came.error is not None:
                raise came.error
            found += came.answers
            try:
                came = self._answers.get_nowait()
            except queue.Empty:
                return found

    def close(self) -> None:
        """Wait for what has been sent; what has not is not sent any more."""
        self._closing.set()
        self._pool.shutdown(wait=True, cancel_futures=True)


class Failures:
    """The failed tries of one question."""

    def __init__(self, retry: Retry) -> None:
        self._retry = retry
        self.total = self._turned_away = self._unusable = 0
        self._began = 0.0

    @property
    def text(self) -> str:
        return f"after {self.total} {'try' if self.total == 1 else 'tries'}"

    def next_wait(self, error: TryAgain, heard: bool = True) -> float | None:
        """Seconds until the next try; None: it is given up. ``heard``: the model has answered
        other questions."""
        now = time.monotonic()
        if not self.total:
            self._began = now
        self.total += 1
        self._turned_away += error.kind == "rate_limited"
        self._unusable += error.kind == "unusable"
        # where nothing was ever answered, what the user has to mend is told soon
        tries = self._retry.tries if heard else min(self._retry.tries, self._retry.unheard)
        if error.mend is not None:
            tries = min(tries, self._retry.unmended)
        if (
            self.total - self._turned_away >= tries
            or self._unusable >= self._retry.unusable
            or now - self._began >= self._retry.patience
        ):
            return None
        return self._retry.wait(self.total, error.wait)


def purpose_of(request: Request) -> str:
    """What the ledger says a question was for. The samples that tell how hard the pool's tasks are
    are asked for as any attempt, but what they cost is neither a round's nor an evaluation's."""
    return DIFFICULTY if request.benchmark == DIFFICULTY else request.purpose


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
        # not changed by what other teachers of a cascade did before
        request.own_attempt or request.attempt,
    )
