"""A file of the user's choosing: whole or not at all, never over what is not ours."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from persd.errors import UserError
from persd.files import replacing


def test_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "out.txt"
    path.write_text("old")
    with pytest.raises(ZeroDivisionError), replacing(path, "it") as unfinished:
        unfinished.write_text("half" * (1 // 0))
    assert path.read_text() == "old"
    with replacing(path, "it") as unfinished:
        unfinished.write_text("new")
    assert path.read_text() == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["out.txt"]


def test_what_is_refused(tmp_path: Path) -> None:
    database = tmp_path / "x.db"
    with sqlite3.connect(database) as db:
        db.execute("CREATE TABLE t (x)")
    db.close()
    refused = {
        tmp_path: "folder",
        Path("/dev/null"): "plain file",
        database: "database",
        tmp_path / "no" / "such" / "folder.txt": "No such file",
    }
    for path, why in refused.items():
        with pytest.raises(UserError, match=why), replacing(path, "it") as unfinished:
            unfinished.write_text("x")
