"""pass@k against a table worked out by hand, against counting, and its interval."""

from __future__ import annotations

import math
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from persd.passk import bootstrap_interval, mean_pass_at_k, pass_at_k


@pytest.mark.parametrize(
    ("n", "c", "k", "expected"),
    [
        (5, 0, 1, 0.0),
        (5, 5, 1, 1.0),
        (5, 2, 1, 2 / 5),
        (5, 2, 2, 1 - 3 / 10),
        (5, 2, 4, 1.0),
        (10, 1, 5, 1 / 2),
        (20, 3, 10, 1 - 120 / 1140),
        (20, 1, 20, 1.0),
        (20, 1, 1, 1 / 20),
        (20, 2, 5, 1 - 8568 / 15504),
        (200, 1, 100, 1 / 2),
        (1, 0, 1, 0.0),
        (1, 1, 1, 1.0),
    ],
)
def test_by_hand(n: int, c: int, k: int, expected: float) -> None:
    assert pass_at_k(n, c, k) == pytest.approx(expected)


@given(st.integers(1, 8), st.data())
def test_it_counts_the_draws_that_hold_a_pass(n: int, data: st.DataObject) -> None:
    c, k = data.draw(st.integers(0, n)), data.draw(st.integers(1, n))
    draws = list(combinations([True] * c + [False] * (n - c), k))
    assert pass_at_k(n, c, k) == pytest.approx(sum(map(any, draws)) / len(draws))


@given(st.integers(1, 400), st.data())
def test_it_is_the_product_form_of_human_eval(n: int, data: st.DataObject) -> None:
    c, k = data.draw(st.integers(0, n)), data.draw(st.integers(1, n))
    factors = (1.0 - k / i for i in range(n - c + 1, n + 1))
    expected = 1.0 if n - c < k else 1.0 - math.prod(factors)
    assert pass_at_k(n, c, k) == pytest.approx(expected, abs=1e-9)


def test_fewer_samples_than_k_is_an_error() -> None:
    with pytest.raises(ValueError, match="pass@10 needs at least 10 samples, there are 5"):
        pass_at_k(5, 5, 10)


@pytest.mark.parametrize(("n", "c", "k"), [(5, 6, 1), (5, -1, 1), (5, 1, 0)])
def test_impossible_counts(n: int, c: int, k: int) -> None:
    with pytest.raises(ValueError, match="impossible"):
        pass_at_k(n, c, k)


def test_mean_over_tasks() -> None:
    assert mean_pass_at_k([(4, 4), (4, 0)], 2) == 0.5
    with pytest.raises(ValueError):
        mean_pass_at_k([], 1)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=40), st.integers(0, 5))
def test_the_interval_brackets_sensibly(values: list[float], seed: int) -> None:
    low, high = bootstrap_interval(values, seed=seed, resamples=200)
    assert min(values) - 1e-9 <= low <= high <= max(values) + 1e-9
    assert (low, high) == bootstrap_interval(values, seed=seed, resamples=200)


def test_the_interval_covers_the_mean_and_narrows() -> None:
    few, many = [0.0, 1.0] * 10, [0.0, 1.0] * 200
    low, high = bootstrap_interval(few)
    assert low < 0.5 < high
    low2, high2 = bootstrap_interval(many)
    assert high2 - low2 < (high - low) / 2
