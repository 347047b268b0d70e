"""What each question asks follows from its number, and everything comes evenly."""

from __future__ import annotations

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from persd.config import GenerateTable
from persd.pool.steer import DIFFICULTIES, TOPICS, brief_of, combination, drawn, shuffled
from persd.records import Task

SEEDS = [Task(f"t{i}", "", "", "") for i in range(374)]
RULES = GenerateTable(count=1)


@settings(deadline=None)
@given(st.integers(1, 200), st.integers(0, 2**31))
def test_a_shuffled_deck_holds_each_card_once(count: int, key: int) -> None:
    assert sorted(shuffled(i, count, key) for i in range(count)) == list(range(count))


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 60), st.integers(1, 20), st.integers(0, 99), st.integers(1, 40))
def test_seeds_are_shown_equally_often_and_none_twice_at_once(
    count: int, shots: int, seed: int, questions: int
) -> None:
    shots = min(shots, count)
    shown = Counter(dict.fromkeys(range(count), 0))
    for number in range(questions):
        places = drawn(count, shots, seed, number)
        assert len(set(places)) == shots
        shown.update(places)
        assert max(shown.values()) - min(shown.values()) <= 1


def test_two_questions_hardly_ever_show_the_same_seeds() -> None:
    sets = {frozenset(drawn(374, 3, 0, number)) for number in range(5000)}
    assert len(sets) > 4990


@settings(deadline=None)
@given(st.integers(1, 12), st.integers(1, 6), st.integers(0, 99), st.integers(0, 5))
def test_every_topic_meets_every_difficulty_before_a_pair_comes_again(
    topics: int, grades: int, seed: int, lap: int
) -> None:
    rows, columns = [f"t{i}" for i in range(topics)], [f"d{i}" for i in range(grades)]
    begin = lap * topics * grades
    pairs = [combination(rows, columns, seed, begin + i) for i in range(topics * grades)]
    assert len(set(pairs)) == topics * grades
    assert {row for row, _ in pairs[:topics]} == set(rows)
    half = Counter(column for _, column in pairs[: topics * grades // 2])
    assert max(half.values(), default=0) - min((half[c] for c in columns), default=0) <= 1 + topics


def test_a_question_is_the_same_whenever_it_is_asked() -> None:
    assert brief_of(RULES, SEEDS, 7, 123) == brief_of(RULES, SEEDS, 7, 123)
    assert brief_of(RULES, SEEDS, 7, 123) != brief_of(RULES, SEEDS, 8, 123)


def test_the_rules_say_what_is_asked() -> None:
    rules = GenerateTable(
        count=1, topics=["a", "b"], difficulties=["x"], shots=2, per_call=5, calls=9
    )
    briefs = [brief_of(rules, SEEDS, 0, number) for number in range(2)]
    assert {brief.topic for brief in briefs} == {"a", "b"}
    assert [(b.number, b.count, b.calls, b.difficulty, len(b.shown)) for b in briefs] == [
        (0, 5, 9, "x", 2),
        (1, 5, 9, "x", 2),
    ]


def test_fewer_seeds_than_are_to_be_shown_are_all_shown() -> None:
    assert {t.task_id for t in brief_of(RULES, SEEDS[:2], 0, 5).shown} == {"t0", "t1"}
    assert brief_of(RULES, [], 0, 5).shown == ()


def test_topics_and_difficulties_differ() -> None:
    assert len(set(TOPICS)) == len(TOPICS) >= 40
    assert len(set(DIFFICULTIES)) == len(DIFFICULTIES) == 4
