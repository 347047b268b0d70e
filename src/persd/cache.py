"""Verdicts that are known already: by program, tests and limits, never by who wrote it.

Models write the same program again and again, and a run over a million of them may be broken
off. What could not be run is never remembered.
"""

from __future__ import annotations

import hashlib
import sqlite3
import sys
import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from persd.errors import UserError
from persd.records import Verdict, from_json, to_json
from persd.verdicts import Job

#: Part of every key: verdicts of a judge that judged differently are not reused.
_JUDGE = "3"
_COMMIT_SECONDS = 1.0


class Cache:
    """The last ``size`` verdicts in memory; with a file, all of them on disk as well.

    A context manager. Raises UserError where the file is no cache of ours.
    """

    def __init__(self, path: Path | None = None, size: int = 10_000) -> None:
        self.size, self._recent = size, OrderedDict[str, Verdict]()
        self.hits = 0
        """Verdicts it has given."""
        self._db = None if path is None else _open(path)
        self._committed = time.monotonic()

    def get(self, key: str) -> Verdict | None:
        found = self._recent.get(key)
        if found is None and self._db is not None:
            row = self._db.execute("SELECT verdict FROM verdicts WHERE key = ?", (key,)).fetchone()
            found = None if row is None else _read(row[0])
        if found is not None:
            self.hits += 1
            self._remember(key, found)
        return found

    def put(self, key: str, verdict: Verdict) -> None:
        """Remember a verdict; within a second or two it is on disk as well."""
        self._remember(key, verdict)
        if self._db is None:
            return
        self._db.execute("INSERT OR REPLACE INTO verdicts VALUES (?, ?)", (key, to_json(verdict)))
        if time.monotonic() - self._committed > _COMMIT_SECONDS:
            self._db.commit()
            self._committed = time.monotonic()

    def _remember(self, key: str, verdict: Verdict) -> None:
        self._recent[key] = verdict
        self._recent.move_to_end(key)
        if len(self._recent) > self.size:
            self._recent.popitem(last=False)

    def close(self) -> None:
        """Commit. Safe to call twice."""
        if self._db is not None:
            self._db.commit()
            self._db.close()
            self._db = None

    def __enter__(self) -> Cache:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _open(path: Path) -> sqlite3.Connection:
    try:
        db = sqlite3.connect(path)
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = NORMAL")
        db.execute(
            "CREATE TABLE IF NOT EXISTS verdicts (key TEXT PRIMARY KEY, verdict TEXT NOT NULL) "
            "WITHOUT ROWID"
        )
        db.execute("SELECT key, verdict FROM verdicts LIMIT 1").fetchall()
    except sqlite3.Error as error:
        raise UserError(
            f"it cannot be used as a cache of verdicts ({error})",
            where=str(path),
            hint="Name a new file, or one that persd verify --cache has made",
        ) from None
    return db


def _read(text: str) -> Verdict | None:
    """A stored verdict; None where somebody else has written there."""
    try:
        return from_json(Verdict, text)
    except ValueError:
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
