"""Prices are known or said to be unknown; a cap holds whatever is in flight."""

from __future__ import annotations

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from persd.money import FREE, Budget, Price, is_loopback, price_of
from persd.records import Message, Usage


def test_cost_counts_cached_tokens_as_such() -> None:
    price = Price(input=1.0, output=2.0, cached=0.1)
    usage = Usage(input_tokens=1_000_000, output_tokens=500_000, cached_tokens=400_000)
    assert price.cost(usage) == pytest.approx(0.6 + 0.04 + 1.0)
    assert Price(1.0, 2.0).cost(usage) == pytest.approx(2.0)


def test_list_prices() -> None:
    known = price_of("gpt-5-mini", None)
    assert known is not None
    assert 0 < known.input < known.output
    assert known.cached is not None
    assert known.cached < known.input
    assert price_of("no-such-model-anywhere", None) is None
    assert price_of("gpt-5-mini", "https://gateway.example/v1") is None
    assert price_of("anything", "http://127.0.0.1:8000/v1") == FREE


@pytest.mark.parametrize(
    ("url", "own"),
    [
        ("http://127.0.0.1:8000/v1", True),
        ("http://localhost/v1", True),
        ("http://[::1]:1/v1", True),
        ("https://api.openai.com/v1", False),
        ("http://localhost.evil.example/v1", False),
        ("http://127.0.0.1.evil.example/v1", False),
        (None, False),
    ],
)
def test_loopback(url: str | None, own: bool) -> None:
    assert is_loopback(url) is own


@given(text=st.text(max_size=200), max_tokens=st.integers(1, 4096))
def test_the_reservation_is_an_upper_bound(text: str, max_tokens: int) -> None:
    price = Price(1.0, 2.0)
    worst = price.at_most([Message("user", text)], max_tokens)
    assert worst >= price.cost(Usage(len(text.encode()), max_tokens))


@given(st.lists(st.floats(0, 2), max_size=60), st.floats(0, 20))
def test_a_cap_is_never_passed(costs: list[float], cap: float) -> None:
    budget = Budget(cap)
    for cost in costs:
        with budget.reserve(cost) as granted:
            if granted:
                granted.settle(cost)
    assert budget.spent_usd <= cap + 1e-9


def test_a_cap_holds_over_threads() -> None:
    budget = Budget(1.0)
    gate = threading.Barrier(20)

    def spend() -> None:
        gate.wait()
        with budget.reserve(0.1) as granted:
            if granted:
                granted.settle(0.1)

    threads = [threading.Thread(target=spend) for _ in range(20)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert budget.spent_usd == pytest.approx(1.0)


def test_no_cap_grants_everything() -> None:
    with Budget(None).reserve(1e9) as granted:
        assert granted


def test_a_call_waits_for_room_that_others_may_leave() -> None:
    budget = Budget(1.0)
    begun, done = threading.Event(), threading.Event()
    granted: list[bool] = []

    def second() -> None:
        begun.set()
        with budget.reserve(0.6) as held:
            granted.append(held is not None)
        done.set()

    with budget.reserve(0.9) as held:
        assert held is not None
        thread = threading.Thread(target=second)
        thread.start()
        begun.wait()
        assert not done.wait(0.05)
        held.settle(0.1)
    thread.join(5)
    assert granted == [True]
    assert budget.spent_usd == pytest.approx(0.1)


def test_an_unknown_cost_counts_as_the_most_it_can_be() -> None:
    budget = Budget(1.0)
    with budget.reserve(0.4) as held:
        assert held is not None
        held.settle(None)
    assert budget.spent_usd == 0.4
