"""The folder a checkpoint is made in: what is kept of a training that was stopped."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from persd.errors import UserError, WorkFailed
from persd.train.folder import (
    COMPLETE,
    Unfinished,
    clear_away,
    is_whole,
    seal,
    state_of,
    step_of,
    thin_out,
    unfinished,
    whole_states,
)

#: The least that a checkpoint of ours says of itself.
OURS = '{"data_hash": "k", "metrics": {}}'


def finish(out: Path, text: str) -> None:
    """Have a checkpoint with these words stand there."""
    with unfinished(out, text) as part:
        (part.new / "manifest.json").write_text(OURS)
        (part.new / "words.txt").write_text(text)


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


@pytest.mark.parametrize(
    "error", [KeyboardInterrupt(), SystemExit(1), RuntimeError("a GPU fell"), UserError("too big")]
)
def test_a_stopped_training_keeps_its_state(tmp_path: Path, error: BaseException) -> None:
    with pytest.raises(type(error)):
        stop_with(tmp_path / "out", error)
    assert kept(tmp_path / "out") == [7]


def test_an_error_that_would_come_again_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(WorkFailed):
        stop_with(tmp_path / "out", WorkFailed("the loss became nan"))
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
        (part.new / "manifest.json").write_text(OURS)
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_the_old_checkpoint_is_there_until_the_new_one_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, rename = tmp_path / "out", Path.rename
    finish(out, "old")

    def breaks(self: Path, target: Path) -> Path:
        if self.name == "new":
            raise OSError(errno.EIO, "the disk fell off")
        return rename(self, target)

    with monkeypatch.context() as broken:
        broken.setattr(Path, "rename", breaks)
        with pytest.raises(UserError, match="fell off"), unfinished(out, "new") as part:
            put_down(part.state, 7)
    assert (out / "words.txt").read_text() == "old"
    finish(out, "new")
    assert (out / "words.txt").read_text() == "new"
    assert os.listdir(tmp_path) == ["out"]


@pytest.mark.parametrize("again", [lambda out: kept(out, "another"), clear_away])
def test_a_kill_between_old_and_new_leaves_the_old_one(
    tmp_path: Path, again: Callable[[Path], object]
) -> None:
    finish(tmp_path / "out", "old")
    (tmp_path / ".out.part").mkdir()
    (tmp_path / "out").rename(tmp_path / ".out.part" / "old")
    again(tmp_path / "out")
    assert (tmp_path / "out" / "words.txt").read_text() == "old"
    assert os.listdir(tmp_path) == ["out"]


def test_two_trainings_do_not_make_one_folder(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with unfinished(out, "k") as part:
        put_down(part.state, 7, whole=False)
        for key in ("k", "another"):
            with pytest.raises(UserError, match="another process is training into it"):
                finish(tmp_path / "in" / ".." / "out", key)
        clear_away(out)
        assert state_of(part.state, 7).is_dir()
        (part.new / "manifest.json").write_text(OURS)
    finish(out, "another")
    assert (out / "words.txt").read_text() == "another"


def test_a_link_stays_and_a_dot_is_the_folder_one_is_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    (tmp_path / "later").symlink_to(tmp_path / "made.of.dots")
    for name in ("link", "later"):
        finish(tmp_path / name, name)
        assert (tmp_path / name).is_symlink()
        assert (tmp_path / name / "words.txt").read_text() == name
    monkeypatch.chdir(tmp_path / "real")
    finish(Path("."), "here")
    assert (tmp_path / "link" / "words.txt").read_text() == "here"
    assert sorted(os.listdir(tmp_path)) == ["later", "link", "made.of.dots", "real"]


@pytest.mark.parametrize("place", ["/", "/dev"])
def test_a_whole_file_system_is_not_replaced(place: str) -> None:
    with pytest.raises(UserError, match="whole file system"):
        finish(Path(place), "")


@pytest.mark.parametrize("manifest", ['{"name": "a browser extension"}', "{}", "[]", "\0"])
def test_a_manifest_of_others_does_not_make_a_folder_ours(tmp_path: Path, manifest: str) -> None:
    (tmp_path / "manifest.json").write_text(manifest)
    with pytest.raises(UserError, match="no checkpoint of ours"):
        finish(tmp_path, "")
    assert os.listdir(tmp_path) == ["manifest.json"]


@pytest.mark.parametrize("name", ["student.gguf", "scores/table.json", "LICENSE"])
def test_what_lies_beside_a_checkpoint_is_not_lost_with_it(tmp_path: Path, name: str) -> None:
    finish(tmp_path / "out", "old")
    (tmp_path / "out" / name).parent.mkdir(exist_ok=True)
    (tmp_path / "out" / name).write_text("mine")
    with pytest.raises(UserError, match="would be lost"):
        finish(tmp_path / "out", "new")
    assert (tmp_path / "out" / name).read_text() == "mine"


def test_a_place_that_cannot_be_is_told_in_a_line(tmp_path: Path) -> None:
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    for out in (tmp_path / ("x" * 300), tmp_path / "circle"):
        with pytest.raises(UserError, match="cannot write there"):
            finish(out, "")
