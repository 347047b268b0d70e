"""Which rows are trained on, and in which order: held-out tasks, stages, the schedule's steps."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import pytest

from persd.config import StageTable, TrainTable
from persd.errors import UserError
from persd.train.order import (
    StagedBatches,
    all_steps,
    epoch_steps,
    held_out_tasks,
    rows_of_a_pass,
    split,
    stage_rows,
    stage_steps,
)
from persd.train.rows import TokenRow

XGEN = [StageTable(length=n, share=s) for n, s in ((20, 0.533), (40, 0.267), (80, 0.2))]
LENGTHS = [5, 10, 15, 20, 21, 30, 40, 41, 60, 80]


def row(name: str) -> TokenRow:
    return TokenRow(name, [1, 2], [3])


def test_each_stage_has_its_share_of_the_steps() -> None:
    assert stage_steps(XGEN, 1000) == [533, 267, 200]
    assert [sum(stage_steps(XGEN, n)) for n in range(1, 60)] == list(range(1, 60))
    assert stage_steps(XGEN, 15) == [8, 4, 3]


def test_a_stage_takes_only_rows_that_fit() -> None:
    order = list(StagedBatches(LENGTHS, XGEN, steps=15, batch=2, seed=0))
    assert len(order) == 15 * 2 == len(StagedBatches(LENGTHS, XGEN, 15, 2, 0))
    stages = order[:16], order[16:24], order[24:]
    for stage, rows in zip(XGEN, stages, strict=True):
        assert max(LENGTHS[i] for i in rows) <= stage.length
    assert max(LENGTHS[i] for i in stages[2]) > 40


def test_a_stage_goes_through_its_rows_before_one_comes_again() -> None:
    order = list(StagedBatches(LENGTHS, [StageTable(length=40, share=1)], 7, 2, seed=1))
    assert len(set(order[:6])) == 6
    seen = Counter(order)
    assert seen.keys() == set(range(7))  # seven rows fit, fourteen places
    assert set(seen.values()) == {2}


def test_the_staged_order_is_the_seeds_alone_and_batches_are_sorted() -> None:
    first = list(StagedBatches(LENGTHS, XGEN, 15, 4, seed=1))
    assert first == list(StagedBatches(LENGTHS, XGEN, 15, 4, seed=1))
    assert first != list(StagedBatches(LENGTHS, XGEN, 15, 4, seed=2))
    for i in range(0, len(first), 4):
        lengths = [LENGTHS[j] for j in first[i : i + 4]]
        assert all(a <= b for a, b in pairwise(lengths))


def test_a_stage_without_rows_is_named_with_the_shortest() -> None:
    with pytest.raises(UserError, match=r"stage 1 .*up to 20 tokens.*shortest has 33") as caught:
        stage_rows([33, 50], XGEN)
    assert "length = 33" in caught.value.hint


def test_the_steps_of_a_training() -> None:
    settings = TrainTable(epochs=2.5, batch_size=4)
    assert epoch_steps(6, settings) == 2
    assert all_steps(6, settings) == 5
    assert all_steps(6, settings.but(max_steps=3)) == 3


def test_both_forms_of_a_task_are_on_one_side() -> None:
    rows = [row(f"{form} {i}") for i in range(20) for form in ("plain", "refine")]
    tasks = {r.example_id: r.example_id.split()[1] for r in rows}
    settings = TrainTable(held_out=0.2, seed=5)
    train, held_out = split(rows, tasks, settings)
    assert len({tasks[r.example_id] for r in held_out}) == 4
    assert len(held_out) == 8
    assert not {tasks[r.example_id] for r in train} & {tasks[r.example_id] for r in held_out}
    assert {r.example_id for r in [*train, *held_out]} == {r.example_id for r in rows}


def test_the_held_out_tasks_are_the_seeds_alone() -> None:
    tasks, settings = [f"t{i}" for i in range(50)], TrainTable(held_out=0.1, seed=1)
    assert held_out_tasks(tasks, settings) == held_out_tasks(tasks[::-1], settings)
    assert held_out_tasks(tasks, settings) != held_out_tasks(tasks, settings.but(seed=2))
    assert held_out_tasks(tasks, settings.but(held_out=0)) == frozenset()


@pytest.mark.parametrize(("share", "count"), [(0.01, 1), (0.5, 2), (0.99, 2)])
def test_each_side_has_a_task(share: float, count: int) -> None:
    assert len(held_out_tasks(["a", "b", "c"], TrainTable(held_out=share))) == count


def test_one_task_cannot_be_split() -> None:
    with pytest.raises(UserError, match="one task in all"):
        held_out_tasks(["a", "a"], TrainTable(held_out=0.5))


@pytest.mark.parametrize(
    ("micro_batch", "share", "device", "rows"),
    [
        (2, 16, "cpu", 2),
        (None, 16, "cpu", 4),
        (None, 6, "cpu", 2),
        (None, 64, "cuda", 16),
        (None, 24, "cuda", 8),
        (None, 4, "mps", 4),
        (None, 7, "cuda", 1),
    ],
)
def test_rows_of_a_pass_divide_the_share_of_a_batch(
    micro_batch: int | None, share: int, device: str, rows: int
) -> None:
    settings = TrainTable(batch_size=16, micro_batch=micro_batch)
    assert rows_of_a_pass(settings, share, device) == rows
