"""Differences are paired over tasks; over seeds both seeds and tasks are drawn."""

from __future__ import annotations

from statistics import fmean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from persd.outcomes import Counts
from persd.passk import mean_pass_at_k, pass_at_k
from persd.scores import (
    difference,
    difference_over_seeds,
    leaves_out_zero,
    over_seeds,
    score,
)


def test_a_score_by_hand() -> None:
    found = score({"x": (4, 2), "y": (4, 1), "z": (1, 1)}, 2, tasks=4)
    assert found is not None
    assert found.value == pytest.approx((5 / 6 + 1 / 2) / 2)
    assert (found.tasks, found.left_out) == (2, 2)
    assert score({"x": (1, 1)}, 2, tasks=1) is None


def test_a_difference_by_hand() -> None:
    this: Counts = {"x": (2, 2), "y": (2, 1), "z": (2, 0), "only": (2, 2)}
    other: Counts = {"x": (2, 0), "y": (2, 1), "z": (2, 2), "few": (1, 1)}
    found = difference(this, other, 1)
    assert found is not None
    assert found.value == pytest.approx((1 + 0 - 1) / 3)
    assert (found.newly_solved, found.newly_lost) == (("x",), ("z",))
    assert not found.is_clear
    assert difference({"x": (1, 1)}, {"x": (2, 1)}, 2) is None


def test_what_rounding_leaves_of_zero_is_not_clear() -> None:
    assert not leaves_out_zero((-0.15, -1.1e-17))
    assert not leaves_out_zero((1e-16, 0.2))
    assert leaves_out_zero((0.01, 0.2))
    assert leaves_out_zero((-0.2, -0.01))


def test_a_paired_interval_is_narrower_than_that_of_unpaired_scores() -> None:
    # hard and easy tasks vary far more than the two models differ
    this = {str(i): (10, 9 if i % 2 else 1) for i in range(60)}
    other = {str(i): (10, 8 if i % 2 else 0) for i in range(60)}
    paired, alone = difference(this, other, 1), score(this, 1, 60)
    assert paired is not None
    assert alone is not None
    assert paired.value == pytest.approx(0.1)
    assert paired.interval == pytest.approx((0.1, 0.1))
    assert paired.is_clear
    assert alone.interval[1] - alone.interval[0] > 0.1


def test_over_seeds_covers_seeds_as_well_as_tasks() -> None:
    tasks = [str(i) for i in range(200)]
    seeds: list[Counts] = [dict.fromkeys(tasks, (10, n)) for n in (2, 5, 8)]
    found, one = over_seeds(seeds, 1), over_seeds(seeds[:1], 1)
    assert found is not None
    assert one is not None
    assert found.value == pytest.approx(0.5)
    assert found.interval == pytest.approx((0.2, 0.8))  # all tasks alike: what is left is seeds
    assert one.interval == pytest.approx((0.2, 0.2))
    assert over_seeds([{}], 1) is None


def test_tasks_that_a_seed_lacks_make_no_other_tasks_of_the_rest() -> None:
    # each seed has lost another tenth to truncation: they are the same tasks all the same
    tasks = [str(i) for i in range(100)]
    found = [
        {t: (1 if i // 10 == lost else 2, 1 if i % 2 else 0) for i, t in enumerate(tasks)}
        for lost in range(3)
    ]
    crossed = over_seeds(found, 2)
    assert crossed is not None
    assert crossed.tasks == 70
    alone = over_seeds(found[:1], 2)
    assert alone is not None
    # three seeds that agree say no more of the tasks than one does
    width, one = (s.interval[1] - s.interval[0] for s in (crossed, alone))
    assert width > 0.9 * one


def test_seeds_with_tasks_of_their_own_are_drawn_one_within_the_other() -> None:
    first: Counts = {f"a{i}": (2, 2) for i in range(30)}
    second: Counts = {f"b{i}": (2, 0) for i in range(30)}
    found = over_seeds([first, second], 1)
    assert found is not None
    assert found.value == 0.5
    assert found.interval == (0.0, 1.0)


def test_differences_over_seeds_pair_the_seeds() -> None:
    this: list[Counts] = [{"x": (10, 3), "y": (10, 5)}, {"x": (10, 7), "y": (10, 9)}]
    other: list[Counts] = [{"x": (10, 2), "y": (10, 4)}, {"x": (10, 6), "y": (10, 8)}]
    found = difference_over_seeds(this, other, 1)
    assert found is not None
    assert found.value == pytest.approx(0.1)
    assert found.interval == pytest.approx((0.1, 0.1))


COUNTS = st.dictionaries(
    st.sampled_from("abcdefgh"),
    st.integers(2, 6).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n))),
    min_size=1,
)


@given(COUNTS, COUNTS)
def test_a_difference_is_what_its_tasks_say(this: Counts, other: Counts) -> None:
    found = difference(this, other, 2)
    shared = sorted(set(this) & set(other))
    if not shared:
        assert found is None
        return
    assert found is not None
    mean = fmean(pass_at_k(*this[t], 2) - pass_at_k(*other[t], 2) for t in shared)
    assert found.value == pytest.approx(mean)
    low, high = found.interval
    assert low - 1e-9 <= found.value <= high + 1e-9
    back = difference(other, this, 2)
    assert back is not None
    assert set(back.newly_solved) == set(found.newly_lost)


@given(COUNTS)
def test_one_seed_is_the_plain_score(found: Counts) -> None:
    over, plain = over_seeds([found], 1), mean_pass_at_k(list(found.values()), 1)
    assert over is not None
    assert over.value == pytest.approx(plain)
