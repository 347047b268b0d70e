"""A model is asked once, an answer is stored before it is seen, a cap is a cap."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from conftest import make_task
from persd.calls import Asker, call_id
from persd.ledger import Ledger
from persd.models import ModelUnavailable
from persd.models.scripted import ScriptedModel
from persd.money import Budget, Price
from persd.records import Completion, Message, Request, Usage


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
