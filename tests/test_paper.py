"""The paper's numbers: as they stand in its table, and only where they can be compared."""

from __future__ import annotations

from dataclasses import replace

import pytest

from persd.experiment.grid import OWN, Arm
from persd.experiment.paper import (
    BENCHMARKS,
    HEADLINES,
    KS,
    paper_examples,
    paper_row,
    paper_score,
)
from persd.records import VARIANTS

STEP_TWO = {"inpd-refine", "inpd-combined", "persd-refine", "persd-combined"}


@pytest.mark.parametrize(
    ("variant", "benchmark", "k", "step", "score"),
    [
        ("stand", "humaneval", 1, 1, 0.3241),
        ("stand", "mbpp", 20, 1, 0.6251),
        ("persd", "humaneval", 1, 1, 0.3463),
        ("persd-refine", "humaneval", 20, 2, 0.6476),
        ("inpd-refine", "mbpp", 1, 2, 0.4781),
        ("persd-combined", "humaneval", 1, 2, 0.3553),
        ("persd-combined", "mbpp", 5, 1, 0.5691),
    ],
)
def test_the_table(variant: str, benchmark: str, k: int, step: int, score: float) -> None:
    assert paper_score(variant, benchmark, k, step) == score


def test_it_is_whole_and_no_more() -> None:
    for variant in VARIANTS:
        for benchmark in BENCHMARKS:
            by_step = {s: [paper_score(variant, benchmark, k, s) for k in KS] for s in (1, 2, 3)}
            assert None not in by_step[1]
            assert (None not in by_step[2]) == (variant in STEP_TWO)
            assert set(by_step[3]) == {None}
            for scores in by_step.values():
                told = [s for s in scores if s is not None]
                assert told == sorted(told)
                assert all(0 < s < 1 for s in told)
    assert paper_score("base", "humaneval", 1, 1) is None
    assert paper_score("persd", "lab", 1, 1) is None
    assert paper_score("persd", "humaneval", 100, 1) is None


def test_the_sizes() -> None:
    assert {v: paper_examples(v) for v in VARIANTS} == {
        "stand": 10_000,
        "inpd": 3_300,
        "inpd-refine": 3_300,
        "inpd-combined": 6_500,
        "persd": 3_300,
        "persd-refine": 3_300,
        "persd-combined": 6_500,
    }
    assert paper_examples("stand+persd") is None


def test_the_headlines() -> None:
    assert {h.student: h.score for h in HEADLINES} == {
        "CodeGen-mono-16B": 0.364,
        "StarCoder": 0.458,
    }


def test_only_a_row_of_its_table_stands_beside_it() -> None:
    arm = Arm("lab", OWN, 3, ("persd",), 1.0)
    assert paper_row(arm) == "persd"
    others = [
        replace(arm, data_of="other"),
        replace(arm, variants=("stand", "persd")),
        replace(arm, variants=(), size=None),
        replace(arm, size=0.5),
        replace(arm, size=None, match=("size", "stand")),
        replace(arm, match=("steps", "stand")),
        replace(arm, rounds=(2,)),
        replace(arm, rounds=(1, 2)),
        replace(arm, feedback=False),
        replace(arm, prompt="blind"),
        replace(arm, equal="steps"),
        replace(arm, train={"lr": 1.0}),
    ]
    assert [paper_row(other) for other in others] == [None] * len(others)


def test_the_papers_mbpp_is_the_sanitized_one() -> None:
    for k in KS:
        told = paper_score("persd", "mbpp-sanitized", k, 1)
        assert told is not None
        assert told == paper_score("persd", "mbpp", k, 1)
    assert paper_score("persd", "lab", 1, 1) is None
