"""Candidates whose end is known, through the whole screening: each ends as it must."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

import pytest

from persd.lab.author_labelled import Labelled, labelled, told_again
from persd.overlap import Overlap
from persd.records import CANDIDATE_STATES
from test_kill import load_bench

bench = load_bench("tasks")

SOUND, EACH = 200, 12


@pytest.fixture(scope="module")
def rows() -> list[Labelled]:
    return labelled(20, SOUND, EACH, seeds=bench.SEEDS, slow=2)


@pytest.fixture(scope="module")
def found(rows: list[Labelled]) -> Any:
    return bench.confusion(rows, bench.ends_of(rows, None, 2))


def test_the_set_holds_every_defect(rows: list[Labelled]) -> None:
    states = Counter(row.state for row in rows)
    assert states["accepted"] == SOUND
    assert states.total() - SOUND >= 200
    assert set(states) == set(CANDIDATE_STATES) - {"not_run", "contaminated"}


def test_every_broken_candidate_ends_with_its_name(found: Any) -> None:
    wrong = {state: row["examples"] for state, row in found["by_defect"].items() if row["other"]}
    assert not wrong
    assert found["broken_right"] == found["broken"] >= 200


def test_tests_that_were_too_weak_are_mended_by_more_calls(found: Any) -> None:
    """Not all: of some, what a changed copy does can hardly be told from what is right."""
    assert found["mended"]["right"] >= 0.7 * found["mended"]["replies"] > 3


def test_hardly_a_sound_candidate_is_rejected(found: Any) -> None:
    assert found["sound"]["replies"] == SOUND
    assert found["sound"]["right"] >= 0.98 * SOUND, found["sound"]["other"]


def test_a_benchmarks_tasks_told_again_are_found(data: Path) -> None:
    known = bench.benchmarks(data)
    twins = [task for tasks in known.values() for task in tasks]
    rows = list(told_again(Random(0), twins, 30))
    told = bench.confusion(rows, bench.ends_of(rows, Overlap(known), 1))
    assert len(rows) == 30
    assert told["broken_right"] == 30, told["by_defect"]
