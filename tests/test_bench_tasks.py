"""The bench of tasks from seeds: it counts what it says it counts."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

import pytest

from persd.config import GenerateTable
from persd.domains.authoring import read_tasks
from persd.lab.author_labelled import Labelled
from persd.records import Candidate, CandidateState, Proposal
from test_kill import load_bench

bench = load_bench("tasks")


@pytest.fixture
def few(data: Path) -> Namespace:
    return Namespace(candidates=24, labelled=20, data=data, workers=1, part=None, only=[])


def test_the_screening_counts_every_candidate_once(few: Namespace) -> None:
    found = bench.screening(few)
    assert found["candidates"] == sum(found["states"].values()) in (24, 25)
    assert 12 <= found["questions"] <= 24
    assert found["floor"]["passed"] == found["states"]["accepted"]
    assert found["cpu"]["programs"] > 0
    assert set(found["cpu"]) == {"forms", "benchmarks", "near", "driving", "programs"}


def test_memory_is_that_of_the_process_and_all_below_it(few: Namespace) -> None:
    few.candidates = 4
    found = bench._watched("screening", few)
    assert found["candidates"] in (4, 5)
    assert 20 < found["peak_mb"] <= found["rss_mb"]


def test_replies_are_read_as_they_were_written(tmp_path: Path) -> None:
    rules = GenerateTable(count=10)
    path = tmp_path / "replies"
    questions = bench._write(path, rules, bench.SEEDS, 10)
    replies = list(bench._read(path, rules, bench.SEEDS))
    assert [brief.number for _, brief in replies] == list(range(questions))
    assert sum(len(read_tasks(reply.text)) for reply, _ in replies) in (10, 11)
    again = tmp_path / "again"
    bench._write(again, rules, bench.SEEDS, 10)
    assert again.read_bytes() == path.read_bytes()


def candidate(state: CandidateState) -> Candidate:
    return Candidate("c", "call", 0, 0, state, "why", Proposal("", ""))


def test_confusion_tells_right_from_other_and_missed() -> None:
    rows = [
        Labelled("", "accepted", "2 steps"),
        Labelled("", "accepted", "3 steps"),
        Labelled("", "silent", "no return"),
        Labelled("", "silent", "no return"),
        Labelled("", "weak_tests", "short", after="accepted"),
    ]
    ends: list[CandidateState] = ["accepted", "weak_tests", "silent", "accepted", "accepted"]
    found = bench.confusion(rows, [candidate(state) for state in ends])
    assert found["sound"]["replies"] == 2
    assert found["sound"]["other"] == {"3 steps: weak_tests": 1}
    assert found["mended"]["right"] == 1
    assert (found["broken"], found["broken_right"]) == (2, 1)
    assert found["by_defect"]["silent"]["other"] == {"no return: accepted": 1}
