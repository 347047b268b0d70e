"""Writing a file of the user's choosing: whole or not at all, and never over what is not ours."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from persd.errors import UserError

_SQLITE = b"SQLite format 3\x00"


@contextmanager
def replacing(path: Path, what: str, *, folder: bool = False) -> Iterator[Path]:
    """A path beside ``path`` to write to; it takes the place of ``path`` once it is whole.

    ``what`` names it in an error; ``folder`` makes its folder where there is none. Raises
    UserError for a folder, a device, a ledger, and where it cannot be written; nothing is
    left behind then.
    """
    refuse_target(path, what)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        if folder:
            path.parent.mkdir(parents=True, exist_ok=True)
        yield unfinished
        with unfinished.open("rb") as done:
            os.fsync(done.fileno())
        unfinished.replace(path)
    except OSError as error:
        raise _cannot(path, what, error.strerror or str(error)) from error
    finally:
        with suppress(OSError):
            unfinished.unlink()


def refuse_target(path: Path, what: str) -> None:
    """Raise UserError for a path that must not be replaced: before any work is done for it."""
    try:
        if path.is_dir() or not path.name:
            raise _cannot(path, what, "that is a folder")
        if path.exists() and not path.is_file():
            raise _cannot(path, what, "that is no plain file")
        if path.is_file():
            with path.open("rb") as there:
                if there.read(len(_SQLITE)) == _SQLITE:
                    raise _cannot(path, what, "that is a database, perhaps a run's ledger")
    except OSError as error:
        raise _cannot(path, what, error.strerror or str(error)) from error


def _cannot(path: Path, what: str, why: str) -> UserError:
    return UserError(f"cannot write {what}: {why}", where=str(path), hint="give --out another file")
