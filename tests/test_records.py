"""Records survive the way to disk and back, and nothing else is taken for one."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import make_task
from persd.records import (
    Completion,
    Solution,
    Task,
    Usage,
    Verdict,
    content_id,
    derive_seed,
    from_json,
    from_plain,
    to_json,
)

texts = st.text(st.characters(exclude_categories=()), max_size=40)  # surrogates too


@given(text=texts, finish=texts, n=st.integers(0, 10**9), usd=st.none() | st.floats(0, 1e6))
def test_completion_round_trip(text: str, finish: str, n: int, usd: float | None) -> None:
    record = Completion(text, finish, Usage(n, n, 0), usd)
    assert from_json(Completion, to_json(record)) == record


def test_task_round_trip() -> None:
    task = make_task()
    assert from_json(Task, to_json(task)) == task


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"status": "great"}, "Verdict.status"),
        ({"seconds": "1"}, "Verdict.seconds"),
        ({"speed": 1}, "speed"),
        ({"results": [{"call": 1, "status": "passed"}]}, "Verdict.results.call"),
        ({"results": 3}, "Verdict.results"),
    ],
)
def test_a_wrong_field_is_named(change: dict[str, Any], field: str) -> None:
    plain = json.loads(to_json(Verdict("s", "passed"))) | change
    with pytest.raises(ValueError, match=field):
        from_plain(Verdict, plain)


def test_a_missing_field_is_refused() -> None:
    with pytest.raises(ValueError, match="Solution"):
        from_plain(Solution, {"solution_id": "x"})


@given(st.lists(texts, min_size=1, max_size=3), st.lists(texts, min_size=1, max_size=3))
def test_ids_follow_content(a: list[str], b: list[str]) -> None:
    assert (content_id(*a) == content_id(*b)) == (a == b)
    assert 0 <= derive_seed(*a) < 2**31
