"""Mixtures: shares by rows and by tokens, drawn from the seed alone, replay and files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from persd.config import TrainTable
from persd.errors import UserError
from persd.records import Example
from persd.train.mix import is_file, mixed, read_rows


def rows(name: str, count: int, length: int = 10) -> list[Example]:
    return [
        Example(f"{name}{i}", name, f"{name} task {i}", 1, f"{name} {i}\n", "x" * length, "task")
        for i in range(count)
    ]


def table(by: str = "rows", seed: int = 0, **shares: float) -> TrainTable:
    mix = [{"source": name, "share": share} for name, share in shares.items()]
    return TrainTable.model_validate({"mix": mix, "mix_by": by, "seed": seed})


def source(**sets: Sequence[Example]) -> dict[str, Sequence[Example]]:
    return dict(sets)


@given(
    own=st.integers(1, 200), share=st.floats(0.01, 0.6), seed=st.integers(0, 99), many=st.booleans()
)
def test_a_source_gives_its_share_of_the_whole_or_all_it_has(
    own: int, share: float, seed: int, many: bool
) -> None:
    there = rows("replay", 600 if many else 5)
    taken, (part,) = mixed(
        rows("persd", own), table(seed=seed, replay=share), source(replay=there).__getitem__
    )
    assert taken[:own] == rows("persd", own)
    assert len(taken) == own + part.rows
    if many:
        assert abs(part.rows - share * len(taken)) <= 1
        assert not part.is_short
    else:
        assert part.rows <= 5
        if part.wanted > 7:
            assert (part.rows, part.is_short) == (5, True)


def test_shares_count_tokens_where_asked() -> None:
    long, short = rows("stand", 100, 90), rows("persd", 50, 10)
    taken, (part,) = mixed(
        short, table("tokens", stand=0.5), lambda _: long, lambda e: len(e.completion)
    )
    assert part.size == pytest.approx(500, abs=45)
    assert part.rows == len(taken) - 50 == 6


def test_the_draw_follows_the_seed_and_keeps_the_order() -> None:
    there, own = rows("replay", 100), rows("persd", 30)

    def drawn(seed: int) -> list[str]:
        taken, _ = mixed(own, table(seed=seed, replay=0.25), lambda _: there)
        return [e.example_id for e in taken[30:]]

    assert drawn(1) == drawn(1) != drawn(2)
    assert drawn(1) == sorted(drawn(1), key=lambda i: int(i.removeprefix("replay")))
    smaller, _ = mixed(own, table(seed=1, replay=0.1), lambda _: there)
    assert {e.example_id for e in smaller[30:]} < set(drawn(1))


def test_a_pair_is_taken_once() -> None:
    own = rows("persd", 4)
    again = [
        Example(f"r{e.example_id}", "replay", "t", 1, e.prompt, e.completion, "task") for e in own
    ]
    taken, (part,) = mixed(own, table(replay=0.5), lambda _: again)
    assert (taken, part.rows) == (own, 0)


def test_several_sources_share_what_is_left() -> None:
    sets = source(stand=rows("stand", 99), replay=rows("replay", 99))
    taken, parts = mixed(rows("persd", 20), table(stand=0.3, replay=0.2), sets.__getitem__)
    assert [(p.source, p.rows) for p in parts] == [("stand", 12), ("replay", 8)]
    assert len(taken) == 40


def test_rows_come_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "more.jsonl"
    plain = [
        {"prompt": "a\u2028b", "completion": "c\n", "task_id": "t1"},
        {"prompt": "", "completion": "d"},
    ]
    path.write_text("\n\n".join(json.dumps(row) for row in plain) + "\n")
    found = read_rows(str(path))
    assert [(e.prompt, e.completion, e.task_id) for e in found] == [
        ("a\u2028b", "c\n", "t1"),
        ("", "d", "more.jsonl:3"),
    ]
    assert is_file(str(path))
    assert not is_file("replay")


@pytest.mark.parametrize(
    "line",
    [
        "{",
        "[]",
        '{"prompt": "a"}',
        '{"prompt": 1, "completion": "b"}',
        '{"prompt": "a", "completion": ""}',
    ],
)
def test_a_line_that_is_no_row_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "more.jsonl"
    path.write_text('{"prompt": "a", "completion": "b"}\n' + line + "\n")
    with pytest.raises(UserError, match=r"more\.jsonl:2"):
        read_rows(str(path))


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.jsonl"):
        read_rows(str(tmp_path / "none.jsonl"))


def test_shares_that_leave_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="leave nothing"):
        table(stand=0.6, replay=0.4)
