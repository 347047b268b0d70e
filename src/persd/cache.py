"""Verdicts that are known already: by program, tests and limits, never by who wrote it.

Models write the same program again and again, and a run over a million of them may be broken
off. What could not be run is never remembered.
"""

from __future__ import annotations

import hashlib
import sqlite3
import sys
import time
import zlib
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from persd.errors import UserError
from persd.records import Verdict, from_json, to_json
from persd.verdicts import Job

#: Part of every key: verdicts of a judge that judged differently are not reused.
_JUDGE = "3"
#: What marks a SQLite file as ours.
_APPLICATION_ID = 0x70765264
_SAVE_SECONDS, _SAVE_VERDICTS = 1.0, 1000
#: Seconds to wait for another process that writes to the same file.
_PATIENCE = 30.0


class Cache:
    """The last verdicts in memory; with a file, all of them on disk as well.

    A context manager; one thread's, but several processes may share a file. ``size``: how many
    test results are kept in memory (a verdict counts as one more), some 0.3 KB each. Raises
    UserError where the file is no cache of ours, cannot be read or cannot be written.
    """

    def __init__(self, path: Path | None = None, size: int = 100_000) -> None:
        self.size, self._held = size, 0
        self._recent = OrderedDict[str, Verdict]()
        self.hits = self.stored = 0
        """Verdicts it has given, and been given."""
        self.under = ""
        """How programs are run, where that may change (isolation, batches): part of each key."""
        self._unsaved: dict[str, bytes] = {}
        self._saved = time.monotonic()
        self._path = path
        self._db = None if path is None else _open(path)

    def get(self, key: str) -> Verdict | None:
        key = self.under + key
        found = self._recent.get(key)
        if found is None and self._db is not None:
            found = self._look_up(self._db, key)
        if found is not None:
            self.hits += 1
            self._remember(key, found)
        return found

    def _look_up(self, db: sqlite3.Connection, key: str) -> Verdict | None:
        packed = self._unsaved.get(key)
        if packed is None:
            with _explained(self._path):
                row = db.execute("SELECT verdict FROM verdicts WHERE key = ?", (key,)).fetchone()
            packed = None if row is None else row[0]
        return None if packed is None else _unpack(packed)

    def put(self, key: str, verdict: Verdict) -> None:
        """Remember a verdict; a second or so later it is on disk as well."""
        key = self.under + key
        self.stored += 1
        self._remember(key, verdict)
        if self._db is None:
            return
        self._unsaved[key] = zlib.compress(to_json(verdict).encode(), 1)
        late = time.monotonic() - self._saved > _SAVE_SECONDS
        if late or len(self._unsaved) >= _SAVE_VERDICTS:
            self._save(self._db)

    def _save(self, db: sqlite3.Connection) -> None:
        """All at once, so that nobody else who writes to the file waits for long."""
        with _explained(self._path), db:
            db.executemany("INSERT OR REPLACE INTO verdicts VALUES (?, ?)", self._unsaved.items())
        self._unsaved.clear()
        self._saved = time.monotonic()

    def _remember(self, key: str, verdict: Verdict) -> None:
        before = self._recent.pop(key, None)
        self._recent[key] = verdict
        self._held += _weight(verdict) - (0 if before is None else _weight(before))
        while self._held > self.size and len(self._recent) > 1:
            self._held -= _weight(self._recent.popitem(last=False)[1])

    def close(self) -> None:
        """Save what is not saved yet. Safe to call twice."""
        db, self._db = self._db, None
        if db is not None:
            with closing(db):
                self._save(db)

    def __enter__(self) -> Cache:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _weight(verdict: Verdict) -> int:
    return 1 + len(verdict.results)


def _open(path: Path) -> sqlite3.Connection:
    with _explained(path):
        db = sqlite3.connect(path, timeout=_PATIENCE)
        (application,) = db.execute("PRAGMA application_id").fetchone()
        (tables,) = db.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if application != _APPLICATION_ID and tables:
            db.close()
            raise sqlite3.DatabaseError("it is a database of something else")
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = NORMAL")
        if application != _APPLICATION_ID:
            _make(db)
        db.execute("SELECT key, verdict FROM verdicts LIMIT 1").fetchall()
    return db


def _make(db: sqlite3.Connection) -> None:
    with db:
        db.execute("BEGIN IMMEDIATE")
        db.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
        db.execute(
            "CREATE TABLE IF NOT EXISTS verdicts (key TEXT PRIMARY KEY, verdict BLOB NOT NULL)"
        )


@contextmanager
def _explained(path: Path | None) -> Iterator[None]:
    """Raises UserError where the file does not do as a cache."""
    try:
        yield
    except sqlite3.Error as error:
        raise UserError(
            f"it cannot be used as a cache of verdicts ({error})",
            where=str(path),
            hint="Name a new file, or one that persd verify --cache has made",
        ) from None


def _unpack(packed: object) -> Verdict | None:
    """A stored verdict; None where somebody else has written there."""
    try:
        assert isinstance(packed, bytes)
        return from_json(Verdict, zlib.decompress(packed))
    except (AssertionError, ValueError, zlib.error):
        return None


def job_key(job: Job, repeats: int = 1) -> str:
    """What a verdict depends on, as a SHA-256 in hexadecimal."""
    task, limits = job.task, job.limits
    parts: Mapping[str, Any] = {
        "judge": [_JUDGE, *sys.version_info[:2]],
        "code": job.code,
        "entry": task.entry_point,
        "setup": task.setup,
        "tests": [[t.call, t.expected, t.compare, t.tolerance] for t in job.chosen],
        "check": None if job.check is None else [job.check, task.header],
        "limits": None if limits is None else asdict(limits),
        "reference": task.reference,
        "stop": job.stop_at_first_failure,
        "seen": job.tests == "seen",
        "repeats": repeats,
    }
    return hashlib.sha256(to_json(parts).encode()).hexdigest()
