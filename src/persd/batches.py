"""Questions in batches: half the price, answered within a day.

A batch is a file of questions that is uploaded, created, asked after and collected:

    upload -> note in the ledger -> create -> wait ... -> store every raw result -> use them

The ledger knows a batch before the provider does, and the provider keeps the ledger's key with
it, so that whatever dies, the batch is found again and nothing in it is paid for twice. What a
batch can cost is held back before it is created and settled row by row. A row that failed, or
that an expired batch left out, is asked again in another batch; the others are handed on.

Stopping leaves a batch with its provider, where it goes on; the next run collects it first.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar

from persd.calls import Answer, Failures
from persd.errors import UserError
from persd.ledger import Ledger
from persd.models import TryAgain
from persd.models.openai_batch import ENDED, ROWS, BatchModel, Json, error_of, response_of
from persd.models.openai_chat import usage_of
from persd.money import Budget, Reservation, most_tokens, spent_on
from persd.records import Batch, Call, Completion, Outcome, Request, Role, Try, Usage, content_id
from persd.throttle import Stopped

if TYPE_CHECKING:
    from persd.calls import Asker, Line
    from persd.config import Endpoint

T = TypeVar("T")

#: Seconds between two looks at a batch: at first, and at most.
PAUSES = (2.0, 60.0)
#: Seconds after which a batch that its provider does not know will not turn up any more.
GONE_AFTER = 48 * 3600.0
#: Why a batch is not taken now and will be later: too much stands in the provider's queue.
_QUEUE_FULL = frozenset({"token_limit_exceeded", "request_limit_exceeded"})
#: Replies that are no answer, and what they are called among the tries.
_NO_ANSWER: Mapping[str, Outcome] = {
    "malformed": "malformed",
    "empty": "unusable",
    "other_model": "unusable",
}
#: Batches that a thread of this process waits for, by key.
_WATCHED: set[str] = set()


def refuse_open(ledger: Ledger, role: Role, spec: Endpoint) -> None:
    """Raise UserError where a model that is to be asked live has batches under way."""
    found = ledger.open_batches(role, spec.model, spec.base_url or "default")
    if found:
        rows = sum(b.rows for b in found)
        raise UserError(
            f"{rows} questions to {spec.model} are in batches that were not collected yet, "
            "and would be paid for twice",
            where=str(ledger.run),
            hint=f'{role}.mode = "batch" collects them first',
        )


@dataclass(slots=True)
class _Row:
    """A question that has no answer yet, and those who ask it."""

    key: str
    requests: list[Request]
    failures: int = 0
    unusable: int = 0
    why: str = ""

    @property
    def pairs(self) -> list[tuple[str, Request]]:
        return [(self.key, request) for request in self.requests]


@dataclass(frozen=True, slots=True)
class _Collected:
    """What came of a batch, beside the results that the ledger now keeps."""

    failed: Mapping[str, Try]
    """The tries that gave no result, by call_id."""
    mend: UserError | None = None
    """Why none of it will do until the user has mended that."""
    queue_full: bool = False
    """The provider has not taken it now."""
    cancelled: bool = False
    """Somebody has cancelled it there."""


class Batches:
    """Asks a model in batches, for one asker. Thread-safe.

    ``say`` is told what a person should know; ``pauses`` are the seconds between two looks at
    a batch, at first and at most.
    """

    def __init__(
        self,
        model: BatchModel,
        say: Callable[[str], None] = lambda text: None,
        pauses: tuple[float, float] = PAUSES,
    ) -> None:
        self._model, self.say, self._pauses = model, say, pauses
        self._recovering = threading.Lock()

    def ask(self, asker: Asker, batch: Sequence[tuple[str, Request]], line: Line) -> list[Answer]:
        """What came of the questions; those answered first are handed on first.

        Results of earlier batches are used before anything is sent. Returns without the rest
        where the run is being stopped. Raises UserError where only the user can mend it.
        """
        unit = _Unit(self, asker, line, batch)
        try:
            self._recover(unit)
            unit.ask()
        except Stopped:
            return []
        except TryAgain as e:
            if e.mend is not None:
                raise e.mend from e
            return asker.no_answer(unit.left, f"{self._model.name}: {e}")
        return []

    # -- one batch ------------------------------------------------------------------------

    def send(self, unit: _Unit, rows: Sequence[_Row]) -> tuple[int, _Collected | None]:
        """Ask as many of the rows as fit into a file and the budget, from the first on, and
        store what comes back. Gives how many they were; None: the budget has room for none."""
        asker = unit.asker
        lines = self._model.lines([(r.key, r.requests[0]) for r in rows])
        tries = [_try_of(asker, row) for row in rows[: len(lines)]]
        worst = [spent_on(t, asker.price) for t in tries]
        with affordable(asker.budget, worst, unit.line.is_stopping) as (count, held):
            if unit.line.is_stopping():
                raise Stopped
            if held is None:
                return 0, None
            file = unit.patiently(lambda: self._model.upload(lines[:count]))
            batch = self._batch_of(asker, tries[:count])
            _WATCHED.add(batch.key)
            asker.traffic.add(in_flight=count)
            try:
                asker.ledger.add_batch(batch, tries[:count])
                path = str(json.loads(lines[0])["url"])
                return count, self._collect(unit, self._create(unit, batch, file, path))
            finally:
                asker.traffic.add(in_flight=-count)
                held.settle(_spent(asker, batch))
                _WATCHED.discard(batch.key)

    def _batch_of(self, asker: Asker, tries: Sequence[Try]) -> Batch:
        return Batch(
            key=content_id([(t.call_id, t.sent) for t in tries]),
            role=asker.role,
            model=self._model.name,
            endpoint=self._model.identity["endpoint"],
            created=time.time(),
            rows=len(tries),
        )

    def _create(self, unit: _Unit, batch: Batch, file: str, path: str) -> Batch:
        """Create a batch that is noted; a reply that did not come may hide that it exists."""
        tried = False

        def create() -> str:
            nonlocal tried
            found = self._model.find(batch.key, batch.created) if tried else None
            tried = True
            try:
                return found or self._model.create(file, path, batch.key)
            except UserError:
                unit.asker.ledger.drop_batch(batch.key)
                raise

        return self._named(unit.asker, batch, unit.patiently(create))

    def _named(self, asker: Asker, batch: Batch, batch_id: str) -> Batch:
        batch = replace(batch, batch_id=batch_id)
        asker.ledger.set_batch(batch)
        self.say(
            f"{batch_id}: {batch.rows} questions are with {self._model.where} for up to a day; "
            "stopping leaves them there, and the next run collects the answers"
        )
        return batch

    def _wait(self, unit: _Unit, batch: Batch) -> Json | None:
        """The batch once it has ended; None: its provider does not know it any more."""
        name = batch.batch_id or ""
        pause = self._pauses[0]
        while True:
            told = unit.patiently(lambda: self._model.look(name), paid=True)
            if told is None and time.time() - batch.created < GONE_AFTER:
                raise UserError(
                    f"{name}, sent by this run, is not known there",
                    where=self._model.where,
                    hint="use the key it was sent with; two days after that it is given up",
                )
            if told is None or told["status"] in ENDED:
                return told
            unit.rest(pause)
            pause = min(self._pauses[1], pause * 1.5)

    def rest_for_queue(self, unit: _Unit) -> None:
        """Wait until the provider's queue may have emptied."""
        unit.rest(self._pauses[1])

    # -- what came back -------------------------------------------------------------------

    def _collect(self, unit: _Unit, batch: Batch) -> _Collected:
        """Wait for a batch that has been created, and store all that came of it."""
        asker = unit.asker
        try:
            told = self._wait(unit, batch)
        except Stopped:
            self.say(
                f"{batch.batch_id}: {batch.rows} questions stay with {self._model.where}; "
                "run it again to collect the answers"
            )
            raise
        if told is not None and told["status"] == "failed":
            asker.ledger.drop_batch(batch.key)
            return self._not_taken(batch, told)
        ended = told or {}
        found = unit.patiently(lambda: self._model.results(ended), paid=True)
        tries = [
            self._settled(asker, t, found.get(t.call_id))
            for t in asker.ledger.batch_tries(batch.key)
        ]
        mend = self._refusal(asker, tries, found)
        if mend is not None:
            tries = [replace(t, outcome="refused") if _has_result(t) else t for t in tries]
        results = {t.call_id: json.dumps(found[t.call_id]) for t in tries if _has_result(t)}
        asker.ledger.collect_batch(replace(batch, state="collected"), tries, results)
        failed = {t.call_id: t for t in tries if not _has_result(t)}
        asker.traffic.add(failed=len(failed))
        return _Collected(failed, mend, cancelled=ended.get("status") == "cancelled")

    def _not_taken(self, batch: Batch, told: Json) -> _Collected:
        """Why a batch failed before any of it was worked on: nobody was asked."""
        data = (told.get("errors") or {}).get("data") or []
        first: Json = data[0] if data else {}
        if first.get("code") in _QUEUE_FULL:
            self.say(f"{batch.batch_id} has to wait: {first.get('message')}")
            return _Collected({}, queue_full=True)
        at = f" (line {first['line']})" if first.get("line") else ""
        why = f"{first.get('code')}: {first.get('message')}{at}" if first else "no reason given"
        mend = UserError(
            f"{batch.batch_id} was not taken: {why}",
            where=self._model.where,
            hint='mend that, or set mode = "live"',
        )
        return _Collected({}, mend)

    def _settled(self, asker: Asker, sent: Try, row: Json | None) -> Try:
        """A try by what the provider says of its row; ``batched`` still: it has a result.

        Only a row that was answered costs anything; of one that is in no file nobody knows.
        """
        sent = replace(sent, seconds=time.time() - sent.sent)
        if row is None:
            return replace(sent, outcome="lost", detail="its batch ended without a word on it")
        status, body = response_of(row)
        if status == 200:
            used = usage_of(body.get("usage") if isinstance(body, dict) else None)
            if not used.known:
                return sent
            usd = None if asker.price is None else asker.price.cost(used)
            return replace(sent, usage=used, usd=usd)
        code, detail, setting = error_of(row)
        if status in (400, 422):
            left_out = self._model.refuses(setting, {setting: None} if setting else {})
            outcome: Outcome = "refused" if left_out else "batched"
        else:
            outcome = _failure(status, code)
        return replace(sent, outcome=outcome, usd=0.0, detail=detail)

    def _refusal(
        self, asker: Asker, tries: Sequence[Try], found: Mapping[str, Json]
    ) -> UserError | None:
        """Why the user has to mend something before any row will be answered.

        Where every row that was run was refused, and not for a setting that is left out the
        next time: the key, the model or the account are at fault; of refused prompts only
        where nothing was ever answered.
        """
        run = [(t, response_of(found[t.call_id])[0]) for t in tries if t.call_id in found]
        run = [(t, status) for t, status in run if status is not None]
        bad = [t for t, status in run if status in (400, 422) and _has_result(t)]
        denied = [t for t, status in run if t.outcome == "refused" and status not in (400, 422)]
        if (
            not run
            or len(bad) + len(denied) < len(run)
            or (not denied and asker.ledger.has_answered(asker.role, self._model.name))
        ):
            return None
        first = (denied or bad)[0]
        return UserError(
            f"{self._model.name} refused every question of the batch ({first.detail})",
            where=self._model.where,
            hint="check the model, its settings and the key in the config",
        )

    def read(self, result: str, request: Request) -> Completion:
        """The completion in a row's raw result."""
        row = json.loads(result)
        status, body = response_of(row)
        if status != 200:
            return Completion("", finish="rejected", note=error_of(row)[1])
        found = self._model.read(body, request)
        if found is None:
            return Completion(json.dumps(body), finish="malformed", usage=Usage(known=False))
        return found

    # -- batches of another time ----------------------------------------------------------

    def _recover(self, unit: _Unit) -> None:
        """Collect the batches that no thread waits for: those of an earlier process, and those
        left when the run was stopped."""
        while not self._recovering.acquire(timeout=0.5):
            if unit.line.is_stopping():
                raise Stopped
        try:
            asker, endpoint = unit.asker, self._model.identity["endpoint"]
            for batch in asker.ledger.open_batches(asker.role, self._model.name, endpoint):
                if batch.key not in _WATCHED:
                    self._recover_one(unit, batch)
        finally:
            self._recovering.release()

    def _recover_one(self, unit: _Unit, batch: Batch) -> None:
        asker = unit.asker
        counted = _spent(asker, batch)
        asker.traffic.add(in_flight=batch.rows)
        try:
            if batch.batch_id is None:
                found = unit.patiently(lambda: self._model.find(batch.key, batch.created))
                if found is None:
                    asker.ledger.drop_batch(batch.key)
                    return
                batch = self._named(asker, batch, found)
            else:
                self.say(f"{batch.batch_id}: collecting the answers to {batch.rows} questions")
            # what is wrong with its rows is told when they are asked again
            self._collect(unit, batch)
        finally:
            asker.traffic.add(in_flight=-batch.rows)
            asker.budget.correct(_spent(asker, batch) - counted)


class _Unit:
    """The questions of one thread on their way through batches."""

    def __init__(
        self,
        batches: Batches,
        asker: Asker,
        line: Line,
        questions: Sequence[tuple[str, Request]],
    ) -> None:
        self.batches, self.asker, self.line = batches, asker, line
        # a batch holds no call_id twice
        rows: dict[str, _Row] = {}
        for key, request in questions:
            rows.setdefault(key, _Row(key, [])).requests.append(request)
        self.rows = list(rows.values())
        """Those without an answer so far."""

    @property
    def left(self) -> list[tuple[str, Request]]:
        return [pair for row in self.rows for pair in row.pairs]

    def ask(self) -> None:
        """Batch after batch, until every row has an answer or is given up."""
        most, refusals = ROWS, 0
        while True:
            self._failed(self._use())
            if not self.rows:
                return
            sent, came = self.batches.send(self, self.rows[:most])
            if came is None:
                self._over_budget()
                return
            if came.mend is not None:
                raise came.mend
            refusals = refusals + 1 if came.queue_full else 0
            if came.queue_full:
                # a smaller batch finds room earlier
                most = max(1, sent // 2)
                if sent == 1 and refusals >= self.asker.retry.tries:
                    raise TryAgain("rate_limited", "the provider's queue stays full")
                self.batches.rest_for_queue(self)
            elif came.cancelled:
                self._give_up([r for r in self.rows if r.key in came.failed], "cancelled there")
            else:
                self._failed(came.failed)

    def _use(self) -> dict[str, Try]:
        """Hand on what has a stored result; gives the tries whose result holds no answer."""
        calls: list[Call] = []
        answers: list[Answer] = []
        ended: dict[str, Try] = {}
        for row in self.rows:
            stored = self.asker.ledger.batch_result(row.key)
            if stored is None:
                continue
            sent, result = stored
            found = self.batches.read(result, row.requests[0])
            if found.finish in _NO_ANSWER:
                detail = found.note or f"the reply is {found.finish.replace('_', ' ')}"
                outcome = _NO_ANSWER[found.finish]
                ended[row.key] = replace(sent, outcome=outcome, text=found.text, detail=detail)
            else:
                call = self.asker.call_of(row.key, row.requests[0], found, sent.seconds)
                calls.append(call)
                answers += [Answer(r, key, call.completion) for key, r in row.pairs]
        if calls or ended:
            self.asker.ledger.use_results(calls, list(ended.values()))
        self._count(calls, ended)
        self._drop({c.call_id for c in calls})
        self._hand_on(answers)
        return ended

    def _count(self, calls: Sequence[Call], ended: Mapping[str, Try]) -> None:
        if calls:
            self.asker.heard()
        for call in calls:
            self.asker.traffic.add(call.completion.usage, answered=1)
        self.asker.traffic.add(failed=len(ended))

    def _failed(self, failed: Mapping[str, Try]) -> None:
        """Count the failures, give up what failed too often, and wait before the others."""
        retry = self.asker.retry
        here = [r for r in self.rows if r.key in failed]
        for row in here:
            row.failures += 1
            row.unusable += failed[row.key].outcome == "unusable"
            row.why = failed[row.key].detail
        lost = [r for r in here if r.failures >= retry.tries or r.unusable >= retry.unusable]
        self._give_up(lost)
        if len(here) > len(lost):
            self.rest(retry.wait(max(r.failures for r in here), None))

    def _give_up(self, lost: Sequence[_Row], why: str = "") -> None:
        self._drop({row.key for row in lost})
        for row in lost:
            times = f"after {row.failures} {'try' if row.failures == 1 else 'tries'}"
            told = f"{self.asker.model.name}: {why or f'{row.why} ({times})'}"
            self._hand_on(self.asker.no_answer(row.pairs, told))

    def _over_budget(self) -> None:
        worst = spent_on(_try_of(self.asker, self.rows[0]), self.asker.price)
        self._hand_on(self.asker.over_budget(self.left, worst))

    def _drop(self, keys: set[str]) -> None:
        self.rows = [row for row in self.rows if row.key not in keys]

    def _hand_on(self, answers: list[Answer]) -> None:
        if answers:
            self.line.hand_on(answers)

    def patiently(self, call: Callable[[], T], *, paid: bool = False) -> T:
        """What a call to the provider gives, tried as often as it makes sense; only time ends
        that where what it gives is ``paid``. Raises UserError, Stopped, or TryAgain where it
        was given up."""
        retry = self.asker.retry
        failures = Failures(replace(retry, tries=10**9) if paid else retry)
        while True:
            try:
                return call()
            except TryAgain as e:
                wait = failures.next_wait(e)
                if wait is None:
                    raise
                if failures.total == 1:
                    self.batches.say(f"{self.asker.model.name}: {e}; it is tried again")
            self.rest(wait)

    def rest(self, seconds: float) -> None:
        """Wait; raises Stopped where the run is being stopped."""
        self.line.pause(seconds)
        if self.line.is_stopping():
            raise Stopped


def _try_of(asker: Asker, row: _Row) -> Try:
    request = row.requests[0]
    most = most_tokens(request.messages, request.max_tokens)
    sent = asker.try_of(row.key, request, most)
    return replace(sent, sent=time.time(), outcome="batched")


def _has_result(sent: Try) -> bool:
    return sent.outcome == "batched"


def _failure(status: int | None, code: str) -> Outcome:
    """What a row without an answer amounts to."""
    if status is None:
        return "timeout" if code == "batch_expired" else "server_error"
    if status == 429 and code != "insufficient_quota":
        return "rate_limited"
    return "server_error" if status >= 500 or status in (408, 409, 425) else "refused"


def _spent(asker: Asker, batch: Batch) -> float:
    """USD of a batch as the ledger knows it: 0.0 where it was dropped, the most it can cost
    while it is under way, what its rows cost once it is collected."""
    return sum(spent_on(t, asker.price) for t in asker.ledger.batch_tries(batch.key))


@contextmanager
def affordable(
    budget: Budget, worst: Sequence[float], stopping: Callable[[], bool] = lambda: False
) -> Iterator[tuple[int, Reservation | None]]:
    """Hold back the most that as many rows can cost as the budget has room for, from the first
    on; gives how many they are, 0 and None where there is no room for one, or where
    ``stopping`` says so while others are waited for."""
    count = len(worst)
    while count and not stopping():
        with budget.reserve(sum(worst[:count]), stopping) as held:
            if held is not None:
                yield count, held
                return
        count = min(count - 1, _fitting(worst, (budget.cap_usd or 0.0) - budget.spent_usd))
    yield 0, None


def _fitting(worst: Sequence[float], room: float) -> int:
    """How many of the first rows cost no more than there is room for."""
    total = 0.0
    for count, usd in enumerate(worst):
        total += usd
        if total > room + 1e-12:
            return count
    return len(worst)
