"""The folder a checkpoint is made in: what is kept of a training that was stopped."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from persd.errors import UserError, WorkFailed
from persd.train.folder import (
    COMPLETE,
    Unfinished,
    is_whole,
    seal,
    state_of,
    step_of,
    thin_out,
    unfinished,
    whole_states,
)


def put_down(folder: Path, step: int, *, whole: bool = True) -> Path:
    state = state_of(folder, step)
    (state / "deep").mkdir(parents=True)
    (state / "optimizer.pt").write_bytes(b"state")
    (state / "deep" / "shard").write_bytes(b"shard")
    if whole:
        seal(state)
    return state


def stop_with(out: Path, error: BaseException, *, whole: bool = True, key: str = "k") -> None:
    with unfinished(out, key) as part:
        put_down(part.state, 7, whole=whole)
        raise error


def kept(out: Path, key: str = "k") -> list[int]:
    """The steps whose states the next process finds."""
    found: list[int] = []

    def look() -> None:
        with unfinished(out, key) as part:
            found.extend(step_of(p) for p in whole_states(part.state))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        look()
    return found


def test_a_state_is_whole_once_it_is_sealed_and_as_long_as_its_files_are(tmp_path: Path) -> None:
    state = put_down(tmp_path, 3, whole=False)
    assert not is_whole(state)
    seal(state)
    assert is_whole(state)
    (state / "deep" / "shard").write_bytes(b"cut")
    assert not is_whole(state)
    (state / "deep" / "shard").unlink()
    assert not is_whole(state)


@pytest.mark.parametrize("marker", [b"", b"[]", b"{}", b"\xff", b'{"optimizer.pt": "x"}', b"7"])
def test_a_marker_that_says_nothing_marks_nothing(tmp_path: Path, marker: bytes) -> None:
    state = put_down(tmp_path, 3)
    (state / COMPLETE).write_bytes(marker)
    assert not is_whole(state)


def test_the_latest_whole_state_is_found(tmp_path: Path) -> None:
    for step in (2, 10, 9):
        put_down(tmp_path / "state", step)
    put_down(tmp_path / "state", 11, whole=False)
    (tmp_path / "state" / "checkpoint-best").mkdir()
    part = Unfinished(tmp_path, tmp_path / "out")
    assert part.last_state == tmp_path / "state" / "checkpoint-10"


def test_the_latest_states_and_the_best_one_are_kept(tmp_path: Path) -> None:
    for step in (2, 4, 6, 8):
        put_down(tmp_path, step)
    put_down(tmp_path, 7, whole=False)
    thin_out(tmp_path, best=2, keep=2)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "checkpoint-2",
        "checkpoint-6",
        "checkpoint-8",
    ]
    thin_out(tmp_path, best=None, keep=1)
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint-8"]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(1), RuntimeError("a GPU fell")])
def test_a_stopped_training_keeps_its_state(tmp_path: Path, error: BaseException) -> None:
    with pytest.raises(type(error)):
        stop_with(tmp_path / "out", error)
    assert kept(tmp_path / "out") == [7]


@pytest.mark.parametrize("error", [UserError("no"), WorkFailed("the loss became nan")])
def test_an_error_that_would_come_again_leaves_nothing(
    tmp_path: Path, error: BaseException
) -> None:
    with pytest.raises(type(error)):
        stop_with(tmp_path / "out", error)
    assert list(tmp_path.iterdir()) == []


def test_a_half_written_state_is_not_kept(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        stop_with(tmp_path / "out", KeyboardInterrupt(), whole=False)
    assert list(tmp_path.iterdir()) == []


def test_the_state_of_another_training_is_cleared_away(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        stop_with(tmp_path / "out", KeyboardInterrupt())
    assert kept(tmp_path / "out", "another") == []


def test_a_full_disk_is_told_in_a_line_and_the_state_kept(tmp_path: Path) -> None:
    full = OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(UserError, match=r"No space left.*goes on after step 7"):
        stop_with(tmp_path / "out", full)
    assert kept(tmp_path / "out") == [7]


def test_the_state_goes_once_the_checkpoint_stands(tmp_path: Path) -> None:
    with unfinished(tmp_path / "out", "k") as part:
        put_down(part.state, 7)
        (part.new / "manifest.json").write_text("{}")
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
