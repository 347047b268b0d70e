"""A model is asked once, an answer is stored before it is seen, a cap is a cap."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest

from conftest import make_task
from persd import calls as calls_module
from persd.calls import SILENCE, Asker, Retry, call_id
from persd.errors import UserError, WorkFailed
from persd.ledger import Ledger
from persd.models import ModelUnavailable, TryAgain
from persd.models.scripted import ScriptedModel
from persd.money import Budget, Price
from persd.records import Completion, Message, Outcome, Request, Try, Usage
from persd.run import Run
from persd.throttle import Throttle
from play import Script, make_config, use


def make_request(n: int, **change: object) -> Request:
    fields: dict[str, object] = {
        "purpose": "attempt",
        "messages": (Message("user", f"question {n}"),),
        "task": make_task(f"t{n}"),
        "seed": n,
        "temperature": 0.3,
        "top_p": 0.95,
        "max_tokens": 10,
    }
    return Request(**{**fields, **change})  # type: ignore[arg-type]


class Counting:
    """Counts what it is asked, and says whether the ledger had the answer when it was seen."""

    def __init__(self, batch: int = 1, in_flight: int = 1) -> None:
        self.asked: list[list[str]] = []
        self.batch, self.in_flight = batch, in_flight
        self.name, self.throttle = "counting", None
        self.identity = {"model": "counting"}

    def complete(self, requests: Sequence[Request]) -> list[Completion]:
        self.asked.append([r.task.task_id for r in requests])
        return [Completion(r.prompt.upper(), usage=Usage(10, 10)) for r in requests]

    def close(self) -> None:
        pass


def test_asked_once_then_answered_from_the_ledger(ledger: Ledger) -> None:
    model = Counting()
    asker = Asker(model, "student", ledger)
    first = list(asker.complete(make_request(i) for i in range(5)))
    again = list(asker.complete(make_request(i) for i in range(5)))
    assert [a.completion.text for a in first if a.completion] == [f"QUESTION {i}" for i in range(5)]
    assert [a.completion for a in again] == [a.completion for a in first]
    assert len(model.asked) == 5


def test_stored_before_it_is_seen(ledger: Ledger) -> None:
    asker = Asker(Counting(batch=3), "student", ledger)
    for answer in asker.complete(make_request(i) for i in range(7)):
        assert ledger.completion(answer.call_id) == answer.completion


def test_a_resumed_run_has_the_same_batches(tmp_path: Path) -> None:
    whole, halves = Counting(batch=4), Counting(batch=4)
    with Ledger(tmp_path / "a") as ledger:
        list(Asker(whole, "student", ledger).complete(make_request(i) for i in range(10)))
    with Ledger(tmp_path / "b") as ledger:
        for answer in Asker(halves, "student", ledger).complete(make_request(i) for i in range(10)):
            if answer.request.task.task_id == "t1":
                break
        list(Asker(halves, "student", ledger).complete(make_request(i) for i in range(10)))
    assert sorted(halves.asked) == sorted(whole.asked)


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 99},
        {"temperature": 0.9},
        {"max_tokens": 11},
        {"messages": (Message("user", "another"),)},
        {"sample": 1},
        {"attempt": 2},
    ],
)
def test_another_question_is_another_call(change: dict[str, object]) -> None:
    model = Counting()
    assert call_id(model, make_request(1)) == call_id(model, make_request(1))
    assert call_id(model, make_request(1)) != call_id(model, make_request(1, **change))


def test_the_cap_is_not_passed_and_the_rest_is_named(ledger: Ledger) -> None:
    price = Price(1.0, 1000.0)  # 0.01 USD for ten tokens
    asker = Asker(Counting(in_flight=4), "teacher", ledger, price, Budget(0.055))
    answers = list(asker.complete(make_request(i) for i in range(20)))
    paid = [a for a in answers if a.completion]
    assert len(answers) == 20
    assert len(paid) == 5
    assert {a.missing for a in answers if not a.completion} == {"over_budget"}
    assert ledger.spent(role="teacher") <= 0.055
    raised = Asker(Counting(), "teacher", ledger, price, Budget(1.0, ledger.spent(role="teacher")))
    assert all(a.completion for a in raised.complete(make_request(i) for i in range(20)))


def test_an_unknown_price_is_stored_as_unknown(ledger: Ledger) -> None:
    asker = Asker(Counting(), "teacher", ledger, price=None)
    (answer,) = asker.complete([make_request(1)])
    stored = ledger.completion(answer.call_id)
    assert stored is not None
    assert stored.usd is None


def test_no_answer_is_named_and_asked_again(ledger: Ledger) -> None:
    down = True

    def script(request: Request) -> str:
        if down:
            raise ModelUnavailable("connection refused")
        return "ok"

    asker = Asker(ScriptedModel(script), "teacher", ledger)
    (answer,) = asker.complete([make_request(1)])
    assert answer.missing == "unavailable"
    assert "refused" in answer.detail
    down = False
    (answer,) = asker.complete([make_request(1)])
    assert answer.completion is not None


def test_the_source_is_drawn_only_as_fast_as_it_is_used(ledger: Ledger) -> None:
    drawn = 0

    def source() -> object:
        nonlocal drawn
        for i in range(10_000):
            drawn += 1
            yield make_request(i)

    answers = Asker(Counting(batch=2, in_flight=2), "student", ledger).complete(source())  # type: ignore[arg-type]
    for _ in range(10):
        next(answers)
    answers.close()  # type: ignore[attr-defined]
    assert drawn < 40


def test_calls_overlap(ledger: Ledger) -> None:
    together = threading.Barrier(4, timeout=10)

    def script(request: Request) -> str:
        together.wait()  # passes only when four calls are under way at once
        return "ok"

    asker = Asker(ScriptedModel(script, in_flight=4), "teacher", ledger)
    assert len(list(asker.complete(make_request(i) for i in range(8)))) == 8


# -- tries at an endpoint -----------------------------------------------------------------------

PRICE = Price(100.0, 1000.0)
#: No waiting between tries.
AT_ONCE = Retry(first=0.0)


def served(
    script: Callable[[Request], str | Completion],
    in_flight: int = 4,
    throttle: Throttle | None = None,
) -> ScriptedModel:
    """A scripted model that is asked as an endpoint is."""
    throttle = throttle or Throttle(in_flight)
    return ScriptedModel(script, in_flight=throttle.most, throttle=throttle)


def teacher(
    ledger: Ledger, model: ScriptedModel, cap: float | None = None, retry: Retry = AT_ONCE
) -> Asker:
    return Asker(model, "teacher", ledger, PRICE, Budget(cap), retry=retry)


def questions(count: int) -> Iterator[Request]:
    return (make_request(n) for n in range(count))


def most_of(request: Request) -> float:
    return PRICE.at_most(request.messages, request.max_tokens)


def test_a_try_is_noted_before_it_is_sent_and_ended_by_its_answer(ledger: Ledger) -> None:
    seen: list[Try] = []

    def script(request: Request) -> str:
        seen.extend(ledger.tries())
        return "ok"

    (answer,) = teacher(ledger, served(script)).complete(questions(1))
    (noted,) = seen
    assert (noted.call_id, noted.outcome, noted.role) == (answer.call_id, "in_flight", "teacher")
    assert noted.usd_at_most == most_of(answer.request)
    assert not noted.usage.known
    assert ledger.tries() == []
    assert ledger.completion(answer.call_id) is not None


def test_what_was_in_flight_when_a_run_died_counts_against_its_cap(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, Script({}, {}))
    price = {"input": 100.0, "output": 1000.0}
    config = make_config(tmp_path, price=price, budget_usd=1.0)
    with Run(config) as run:
        asker = run.teacher()
        assert asker.budget.spent_usd == 0.0
        name = asker.model.name
    with Ledger(tmp_path / "run") as ledger:
        usage = Usage(1000, 100, known=False)
        dead = Try("a", 1.0, "teacher", config.teacher[0].model, "refinement", "t", 1, 0.2, usage)
        ledger.begin_try(dead)
        ledger.begin_try(replace(dead, call_id="b"))
        ledger.end_try(replace(dead, call_id="b", outcome="rate_limited", usd=0.0))
    assert name
    with Run(config) as run:
        assert run.teacher().budget.spent_usd == pytest.approx(0.2)
        outcomes = {t.call_id: t.outcome for t in run.ledger.tries()}
    assert outcomes == {"a": "lost", "b": "rate_limited"}


class Faulty:
    """Fails as endpoints do, at the same tries always; keeps the provider's book."""

    def __init__(self, seed: int = 0) -> None:
        self._rng, self._lock = random.Random(seed), threading.Lock()
        self.billed = 0.0
        self.together = self.most_together = 0

    def __call__(self, request: Request) -> Completion:
        with self._lock:
            luck = self._rng.random()
            self.together += 1
            self.most_together = max(self.most_together, self.together)
        try:
            return self._reply(request, luck)
        finally:
            with self._lock:
                self.together -= 1

    def _reply(self, request: Request, luck: float) -> Completion:
        if luck < 0.1:
            raise TryAgain("rate_limited", "429")
        if luck < 0.2:
            raise TryAgain("server_error", "500")
        usage = Usage(len(request.prompt), request.max_tokens)
        with self._lock:
            self.billed += PRICE.cost(usage)
        if luck < 0.3:
            raise TryAgain("timeout", "late", billed=True)
        if luck < 0.4:
            raise TryAgain("connection", "cut", billed=True)
        found = Completion("said", usage=usage)
        if luck < 0.5:
            raise TryAgain("unusable", "empty", billed=True, reply=replace(found, finish="empty"))
        return found


def at_risk(ledger: Ledger) -> float:
    """USD of all that was sent: known, or the most it can have been."""
    tries = sum(t.usd if t.usd is not None else t.usd_at_most or 0.0 for t in ledger.tries())
    return ledger.spent() + tries


@pytest.mark.parametrize("questions_paid", [0.5, 7, 60, 10_000])
def test_tries_keep_the_cap_with_64_in_flight(ledger: Ledger, questions_paid: float) -> None:
    cap = questions_paid * most_of(make_request(100))
    faulty = Faulty()
    asker = teacher(ledger, served(faulty, 64), cap)
    answers = list(asker.complete(questions(200)))
    assert len(answers) == 200
    assert {a.missing for a in answers} <= {None, "over_budget", "unavailable"}
    assert faulty.billed <= asker.budget.spent_usd + 1e-9
    assert asker.budget.spent_usd <= cap + 1e-9
    assert at_risk(ledger) == pytest.approx(asker.budget.spent_usd)
    assert faulty.most_together <= 64
    if questions_paid == 10_000:
        assert sum(a.completion is not None for a in answers) > 190
    else:
        assert any(a.missing == "over_budget" for a in answers)


def test_a_limit_and_a_cap_that_are_both_tight_come_to_an_end(ledger: Ledger) -> None:
    """Who holds money waits for a turn, and who would have a turn waits for money."""
    asker = teacher(ledger, served(Faulty(), throttle=Throttle(2)), 3.5 * most_of(make_request(1)))
    asker.model.in_flight = 32  # type: ignore[misc]
    assert len(list(asker.complete(questions(60)))) == 60


def test_a_question_that_rests_holds_no_turn(ledger: Ledger) -> None:
    failed: set[str] = set()

    def script(request: Request) -> str:
        name = request.task.task_id
        if name in ("t0", "t1") and name not in failed:
            failed.add(name)
            time.sleep(0.1)  # whoever asks has nothing else to do by now
            raise TryAgain("server_error", "busy", wait=1.0)
        return "ok"

    answers = list(teacher(ledger, served(script, 2)).complete(questions(8)))
    assert {a.request.task.task_id for a in answers[-2:]} == {"t0", "t1"}
    assert all(a.completion for a in answers)


def test_being_turned_away_for_now_is_no_failed_try(ledger: Ledger) -> None:
    left = [TryAgain("rate_limited", "429") for _ in range(20)]

    def script(request: Request) -> str:
        if left:
            raise left.pop()
        return "ok"

    retry = Retry(tries=3, first=0.0)
    (answer,) = teacher(ledger, served(script), retry=retry).complete(questions(1))
    assert answer.completion is not None
    assert [(t.outcome, t.usd) for t in ledger.tries()] == [("rate_limited", 0.0)] * 20


def test_a_wait_is_bounded_however_often_it_failed() -> None:
    retry = Retry(first=0.5, most=30.0)
    assert 0.25 <= retry.wait(1, None) <= 0.5
    assert 1.0 <= retry.wait(3, None) <= 2.0
    assert 15.0 <= retry.wait(5000, None) <= 30.0
    assert 7.0 <= retry.wait(1, 7.0) <= 7.1
    assert retry.wait(1, 1e9) <= 121


@pytest.mark.parametrize(
    ("kind", "retry", "says"),
    [
        ("server_error", Retry(tries=1, first=0.0), "scripted: oh (after 1 try)"),
        ("server_error", Retry(tries=4, first=0.0), "scripted: oh (after 4 tries)"),
        ("unusable", Retry(tries=9, unusable=2, first=0.0), "scripted: oh (after 2 tries)"),
        ("rate_limited", Retry(patience=0.0, first=0.0), "scripted: oh (after 1 try)"),
    ],
)
def test_what_is_given_up_says_why(ledger: Ledger, kind: Outcome, retry: Retry, says: str) -> None:
    def script(request: Request) -> str:
        raise TryAgain(kind, "oh")

    (answer,) = teacher(ledger, served(script), retry=retry).complete(questions(1))
    assert (answer.missing, answer.detail) == ("unavailable", says)


def test_waiting_for_a_turn_is_no_failure(ledger: Ledger) -> None:
    throttle = Throttle(1)
    failed: list[Request] = []

    def script(request: Request) -> str:
        if not failed:
            failed.append(request)
            raise TryAgain("server_error", "busy")
        return "ok"

    asker = teacher(ledger, served(script, throttle=throttle), retry=Retry(first=0, patience=0.2))
    with ThreadPoolExecutor(1) as pool:
        with throttle.turn(1, lambda: False):
            answers = pool.submit(lambda: list(asker.complete(questions(1))))
            time.sleep(0.4)  # in line for longer than failures are borne
        assert answers.result(30)[0].completion is not None


def test_a_reply_that_is_no_answer_is_kept_with_its_cost(ledger: Ledger) -> None:
    reply = Completion("I am another", finish="other_model", usage=Usage(9, 4))

    def script(request: Request) -> str:
        raise TryAgain("unusable", "answered by another", billed=True, reply=reply)

    asker = teacher(ledger, served(script))
    (answer,) = asker.complete(questions(1))
    assert answer.missing == "unavailable"
    kept = ledger.tries()
    assert len(kept) == asker.retry.unusable
    for found in kept:
        assert (found.outcome, found.text, found.usage) == ("unusable", reply.text, reply.usage)
        assert found.usd == PRICE.cost(reply.usage)
        assert found.detail == "answered by another"
    assert asker.budget.spent_usd == pytest.approx(Retry().unusable * PRICE.cost(reply.usage))


def test_a_model_that_answers_nothing_at_all_is_not_asked_for_ever(ledger: Ledger) -> None:
    asked = []

    def script(request: Request) -> str:
        asked.append(request)
        raise TryAgain("connection", "no route")

    asker = teacher(ledger, served(script, 1), retry=Retry(tries=1, first=0.0))
    with pytest.raises(WorkFailed, match=r"does not answer.*no route"):
        list(asker.complete(questions(100)))
    assert len(asked) == SILENCE


def test_once_it_has_answered_it_may_be_silent_for_long(ledger: Ledger) -> None:
    def script(request: Request) -> str:
        if request.task.task_id == "t0":
            return "ok"
        raise TryAgain("connection", "no route")

    asker = teacher(ledger, served(script, 1), retry=Retry(tries=1, first=0.0))
    answers = list(asker.complete(questions(3 * SILENCE)))
    assert [a.missing for a in answers].count("unavailable") == 3 * SILENCE - 1


# -- ends ---------------------------------------------------------------------------------------


class Gate:
    """Lets calls come in, and their answers go out when it is opened."""

    def __init__(self, expected: int) -> None:
        self._all_in = threading.Semaphore(0)
        self._expected = expected
        self.open = threading.Event()
        self.asked: list[str] = []

    def __call__(self, request: Request) -> str:
        self.asked.append(request.task.task_id)
        self._all_in.release()
        assert self.open.wait(30)
        return "ok"

    def wait(self) -> None:
        """Until the expected calls are under way."""
        for _ in range(self._expected):
            assert self._all_in.acquire(timeout=30)


def test_a_stop_ends_softly(ledger: Ledger) -> None:
    gate = Gate(4)
    asker = teacher(ledger, served(gate, 4))
    with ThreadPoolExecutor(1) as pool:
        found = pool.submit(lambda: list(asker.complete(questions(50))))
        gate.wait()
        asker.stopping.set()
        gate.open.set()
        answers = found.result(30)
    assert len(answers) == len(gate.asked) == 4
    assert all(ledger.completion(a.call_id) == a.completion for a in answers)
    assert len(list(asker.complete(questions(50)))) == 4  # what is stored is handed on
    assert len(gate.asked) == 4
    assert ledger.tries() == []


def test_a_stop_ends_what_waits_for_a_turn_or_its_next_try(ledger: Ledger) -> None:
    throttle, gate = Throttle(4), Gate(1)
    throttle.limit = 1.0

    def script(request: Request) -> str:
        if request.task.task_id == "t0":
            asking.set()
            raise TryAgain("server_error", "busy", wait=100.0)
        return gate(request)

    asking = threading.Event()
    asker = teacher(ledger, served(script, throttle=throttle))
    with ThreadPoolExecutor(1) as pool:
        found = pool.submit(lambda: list(asker.complete(questions(50))))
        assert asking.wait(30)
        gate.wait()
        asker.stopping.set()
        gate.open.set()
        answers = found.result(30)
    assert [a.request.task.task_id for a in answers] == gate.asked
    assert len(answers) == 1
    assert [t.outcome for t in ledger.tries()] == ["server_error"]


def test_closing_waits_for_what_is_paid_for_and_for_nothing_else(ledger: Ledger) -> None:
    gate, rested = Gate(1), threading.Event()

    def script(request: Request) -> str:
        name = request.task.task_id
        if name == "t1":
            rested.set()
            raise TryAgain("server_error", "busy", wait=100.0)
        if name == "t2":
            return gate(request)
        gate.wait()
        assert rested.wait(30)
        return "ok"

    asker = teacher(ledger, served(script, 3))
    answers = asker.complete(make_request(n) for n in range(3))
    first = next(answers)
    assert first.request.task.task_id == "t0"
    threading.Timer(0.2, gate.open.set).start()
    answers.close()  # type: ignore[attr-defined]
    stored = [ledger.completion(call_id(asker.model, make_request(n))) for n in range(3)]
    assert [c is not None for c in stored] == [True, False, True]
    assert asker.traffic.in_flight == asker.traffic.resting == 0


def test_an_error_only_the_user_can_mend_loses_no_other_reply(ledger: Ledger) -> None:
    gate = Gate(3)

    def script(request: Request) -> str:
        if request.task.task_id == "t0":
            gate.wait()
            gate.open.set()
            raise UserError("the key is refused")
        return gate(request)

    asker = teacher(ledger, served(script, 4))
    with pytest.raises(UserError, match="the key is refused"):
        list(asker.complete(questions(50)))
    asked = [n for n in range(50) if f"t{n}" in gate.asked]
    assert len(asked) >= 3
    for n in asked:
        assert ledger.completion(call_id(asker.model, make_request(n))) is not None
    assert [(t.task_id, t.outcome, t.usd) for t in ledger.tries()] == [("t0", "refused", 0.0)]


def test_what_nobody_foresaw_may_have_cost_the_most(ledger: Ledger) -> None:
    def script(request: Request) -> str:
        raise RuntimeError("a fault of ours")

    asker = teacher(ledger, served(script))
    with pytest.raises(RuntimeError, match="a fault of ours"):
        list(asker.complete(questions(1)))
    assert asker.budget.spent_usd == pytest.approx(most_of(make_request(0)))
    assert at_risk(ledger) == pytest.approx(most_of(make_request(0)))


def test_an_interrupt_keeps_what_is_under_way(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calls_module, "_TICK", 0.01)
    gate = Gate(2)

    def struck() -> None:
        gate.wait()
        threading.Timer(0.1, gate.open.set).start()
        raise KeyboardInterrupt

    asker = teacher(ledger, served(gate, 2))
    asker.tick = struck
    with pytest.raises(KeyboardInterrupt):
        list(asker.complete(questions(50)))
    assert sorted(gate.asked) == ["t0", "t1"]
    for n in range(2):
        assert ledger.completion(call_id(asker.model, make_request(n))) is not None


def test_a_source_that_fails_ends_it_and_keeps_what_was_asked(ledger: Ledger) -> None:
    gate = Gate(3)

    def source() -> Iterator[Request]:
        yield from questions(3)
        gate.wait()
        gate.open.set()
        raise UserError("line 4 is no task")

    asker = teacher(ledger, served(gate, 8))
    with pytest.raises(UserError, match="line 4"):
        list(asker.complete(source()))
    for n in range(3):
        assert ledger.completion(call_id(asker.model, make_request(n))) is not None


def test_no_thread_is_left(ledger: Ledger) -> None:
    before = set(threading.enumerate())
    asker = teacher(ledger, served(Faulty(), 16))
    list(asker.complete(questions(60)))
    open_end = asker.complete(make_request(n) for n in range(100, 200))
    next(open_end)
    asker.close()
    asker.close()
    assert set(threading.enumerate()) <= before
    open_end.close()  # type: ignore[attr-defined]


def test_a_batch_that_a_stop_left_unfilled_is_not_sent(ledger: Ledger) -> None:
    """It would be another batch when the run is resumed, with other answers."""
    model = Counting(batch=4)
    asker = Asker(model, "student", ledger)

    def source() -> Iterator[Request]:
        yield from questions(6)
        asker.stopping.set()  # those before it give no more

    list(asker.complete(source()))
    assert model.asked == [["t0", "t1", "t2", "t3"]]


def test_two_who_share_an_endpoint_share_its_limit(ledger: Ledger) -> None:
    throttle, faulty = Throttle(3), Faulty()
    roles: tuple[Literal["student", "teacher"], ...] = ("student", "teacher")
    askers = [
        Asker(served(faulty, throttle=throttle), role, ledger, PRICE, retry=AT_ONCE)
        for role in roles
    ]
    sources = [(make_request(n + 100 * i) for n in range(60)) for i in range(2)]
    with ThreadPoolExecutor(2) as pool:
        found = [
            pool.submit(lambda a, s: list(a.complete(s)), asker, source)
            for asker, source in zip(askers, sources, strict=True)
        ]
        assert [len(f.result(60)) for f in found] == [60, 60]
    assert faulty.most_together <= 3
    assert throttle.in_flight == 0


def test_rounding_leaves_nothing_that_somebody_waits_for() -> None:
    budget = Budget(2e5)
    with budget.reserve(13436.43), budget.reserve(84743.38), budget.reserve(76377.46):
        pass
    found: list[object] = []

    def more_than_there_is() -> None:
        with budget.reserve(3e5) as held:
            found.append(held)

    thread = threading.Thread(target=more_than_there_is, daemon=True)
    thread.start()
    thread.join(10)
    assert found == [None]


def test_a_recorded_model_that_lacks_many_answers_is_not_mute(ledger: Ledger) -> None:
    def script(request: Request) -> str:
        raise ModelUnavailable("it holds none for this task")

    asker = Asker(ScriptedModel(script), "teacher", ledger)
    answers = list(asker.complete(questions(3 * SILENCE)))
    assert {a.missing for a in answers} == {"unavailable"}
