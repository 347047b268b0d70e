"""The folder a checkpoint is made in: whole or not at all, and gone on with where it was killed.

Beside ``OUT`` stands ``.OUT.part`` while it is made: ``key``, what is being trained; ``state``,
the trainer's own checkpoints, each ``complete`` once it is; ``new``, the checkpoint being
written, which takes the place of ``OUT``; ``old``, what stood there until then. One process at a
time: it has the folder locked.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import platform
import shlex
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from persd.errors import UserError, WorkFailed
from persd.train import ranks

#: Written into a trainer's checkpoint last: the sizes of its files, as JSON.
COMPLETE = "complete"
#: Errors of a disk that is full or may not be written to.
_DISK = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS})
#: What torch's writer of files calls itself in its errors.
_WRITER = ("inline_container", "PytorchStreamWriter")
#: What a checkpoint is made of.
_SUFFIXES = frozenset(
    {".safetensors", ".json", ".jsonl", ".md", ".jinja", ".model", ".txt", ".tiktoken", ".py"}
)
_FOLDERS = frozenset({"adapter", "additional_chat_templates", "__pycache__"})
_PACKAGES = (
    "persd",
    "torch",
    "transformers",
    "trl",
    "accelerate",
    "datasets",
    "tokenizers",
    "peft",
    "bitsandbytes",
    "deepspeed",
)


@dataclass(frozen=True, slots=True)
class Unfinished:
    """A checkpoint in the making."""

    folder: Path
    """``.OUT.part``."""
    out: Path
    """Where it will stand: an absolute path without links."""

    @property
    def state(self) -> Path:
        """The trainer's own checkpoints, ``checkpoint-STEP`` each."""
        return self.folder / "state"

    @property
    def new(self) -> Path:
        """What becomes ``OUT``."""
        return self.folder / "new"

    @property
    def old(self) -> Path:
        """What was ``OUT``, while the new one takes its place."""
        return self.folder / "old"

    @property
    def last_state(self) -> Path | None:
        """The latest of the trainer's checkpoints that was written whole."""
        return next(iter(whole_states(self.state)), None)


def state_of(folder: Path, step: int) -> Path:
    """The trainer's checkpoint after a step."""
    return folder / f"checkpoint-{step}"


def step_of(state: Path) -> int:
    """The step after which a trainer's checkpoint was written."""
    return int(state.name.rpartition("-")[2])


def whole_states(folder: Path) -> list[Path]:
    """The trainer's checkpoints that were written whole, the latest first."""
    return sorted((p for p in _states(folder) if is_whole(p)), key=step_of, reverse=True)


def _states(folder: Path) -> list[Path]:
    return [p for p in folder.glob("checkpoint-*") if p.name.rpartition("-")[2].isdecimal()]


def seal(state: Path) -> None:
    """Mark a trainer's checkpoint as whole, once its files have reached the disk."""
    files = [p for p in _to_disk(state) if p.name != COMPLETE]
    sizes = {p.relative_to(state).as_posix(): p.stat().st_size for p in files}
    with (state / f"{COMPLETE}.new").open("w", encoding="utf-8") as file:
        json.dump(sizes, file)
        file.flush()
        os.fsync(file.fileno())
    (state / f"{COMPLETE}.new").rename(state / COMPLETE)


def _to_disk(folder: Path) -> list[Path]:
    """Wait until the files of a folder have reached the disk; gives them."""
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    for path in files:
        with path.open("rb") as file:
            os.fsync(file.fileno())
    return files


def is_whole(state: Path) -> bool:
    """Whether all of a trainer's checkpoint is there, in its full size."""
    try:
        sizes = json.loads((state / COMPLETE).read_bytes())
        return bool(sizes) and all((state / p).stat().st_size == n for p, n in sizes.items())
    except (OSError, ValueError, AttributeError, TypeError):
        return False


def thin_out(folder: Path, best: int | None, keep: int) -> None:
    """Keep so many of the trainer's checkpoints, the latest, and that of the best step."""
    kept = {*whole_states(folder)[:keep], *([state_of(folder, best)] if best else [])}
    for state in _states(folder):
        if state not in kept:
            drop(state)


def drop(state: Path) -> None:
    """Delete a trainer's checkpoint; one that is deleted in part does not count as whole."""
    (state / COMPLETE).unlink(missing_ok=True)
    shutil.rmtree(state, ignore_errors=True)


@contextmanager
def writing() -> Iterator[None]:
    """Turns what the libraries raise where a file cannot be written into an OSError."""
    from safetensors import SafetensorError

    try:
        yield
    except SafetensorError as e:
        raise OSError(errno.EIO, " ".join(str(e).split())) from e
    except RuntimeError as e:
        if not any(name in str(e) for name in _WRITER):
            raise
        raise OSError(errno.EIO, "the file could not be written whole") from e


@contextmanager
def unfinished(out: Path, key: str) -> Iterator[Unfinished]:
    """The folder in which ``out`` is made; ``out`` is replaced at the end of the block.

    What an earlier process left of the same training (``key``) is kept, of another one cleared
    away. A block that raises leaves the trainer's checkpoints where there are any, unless it is
    an error that would come again. Raises UserError for an ``out`` that holds something else,
    or cannot be written.
    """
    part = _beside(out)
    if not ranks.is_main():
        ranks.wait()  # until the main process has made it ready
        yield part
        return
    _refuse_others(part.out)
    with _held(part):
        try:
            _make_ready(part, key)
        except OSError as e:
            raise _no_place(part, e) from e
        keep = False
        try:
            ranks.wait()
            yield part
            _replace(part)
        except WorkFailed:
            raise  # it would come again
        except BaseException as e:
            keep = part.last_state is not None
            if isinstance(e, OSError) and e.errno in _DISK:
                raise _unwritable(part, e) from e
            raise
        finally:
            with suppress(OSError):
                _put_back(part)
            if not keep:
                _drop(part)


def clear_away(out: Path) -> None:
    """Delete what processes that were ended left of ``out``, unless it can be gone on with, or
    another process has it."""
    with suppress(UserError):
        part = _beside(out)
        if part.folder.is_dir():
            with _held(part):
                with suppress(OSError):
                    _put_back(part)
                if part.last_state is None:
                    _drop(part)


def refuse_other(out: Path, key: str, state_key: str) -> None:
    """Raises UserError where ``out`` holds another training than that of the data hash ``key``,
    or one that was stopped on the way and is not that of ``state_key``: neither is to be lost by
    a slip."""
    out, told = out.resolve(), manifest_of(out)
    if told.get("data_hash", key) != key:
        raise UserError(
            "another training is finished there (other examples, base or settings)",
            where=str(out),
            hint=f"Give another --out, or delete it: rm -r {shlex.quote(str(out))}.",
        )
    part = _beside(out)
    stopped, state = (_key_of(part) or state_key).split()[:1], part.last_state
    if state is not None and stopped != [state_key]:
        raise UserError(
            f"another training was stopped there at step {step_of(state)}"
            " (other examples, base or settings)",
            where=str(part.folder),
            hint="Ask for it again to go on with it; or give another --out, or delete it: "
            f"rm -r {shlex.quote(str(part.folder))}.",
        )


def _beside(out: Path) -> Unfinished:
    try:
        out = out.resolve()
    except (OSError, RuntimeError) as e:  # links in a circle
        raise UserError(f"cannot write there: {e}", where=str(out)) from e
    if not out.name or os.path.ismount(out):
        raise UserError(
            "a checkpoint cannot take the place of a whole file system",
            where=str(out),
            hint=f"Give --out a folder in it: {out / 'student'}.",
        )
    return Unfinished(out.with_name(f".{out.name}.part"), out)


@contextmanager
def _held(part: Unfinished) -> Iterator[None]:
    """The folder, made where there is none, for this process alone: no other one of this machine
    gets it. Raises UserError where one has it, or it cannot be made."""
    try:
        claim = _claim(part)
    except BlockingIOError as e:
        raise UserError(
            "another process is training into it",
            where=str(part.out),
            hint="Wait for it to end, or give another --out.",
        ) from e
    except OSError as e:
        raise _no_place(part, e) from e
    try:
        yield
    finally:
        os.close(claim)


def _claim(part: Unfinished) -> int:
    """The locked folder, as a file descriptor."""
    while True:
        part.folder.mkdir(parents=True, exist_ok=True)
        claim = os.open(part.folder, os.O_RDONLY)
        try:
            fcntl.flock(claim, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(claim)
            raise
        except OSError:
            return claim  # a file system without locks
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(claim), part.folder.stat()):
                return claim
        os.close(claim)  # who had it has just deleted it


def _make_ready(part: Unfinished, key: str) -> None:
    """An empty ``new``, and of what is left that which belongs to the training ``key``."""
    _put_back(part)
    if _key_of(part) != key:
        for path in part.folder.iterdir():
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        (part.folder / "key").write_text(key, encoding="utf-8")
    shutil.rmtree(part.new, ignore_errors=True)
    part.new.mkdir()


def _replace(part: Unfinished) -> None:
    """Have ``new`` take the place of ``OUT``, which is there until ``new`` is."""
    _to_disk(part.new)
    if part.out.exists():
        part.out.rename(part.old)
    part.new.rename(part.out)


def _put_back(part: Unfinished) -> None:
    """What was ``OUT``, where no other one has taken its place."""
    if part.old.exists() and not part.out.exists():
        part.old.rename(part.out)


def _drop(part: Unfinished) -> None:
    """Delete the folder, but for what was ``OUT`` and could not be put back."""
    if part.out.exists() or not part.old.exists():
        shutil.rmtree(part.folder, ignore_errors=True)


def _no_place(part: Unfinished, error: OSError) -> UserError:
    return UserError(f"cannot write there: {error.strerror or error}", where=str(part.out))


def _unwritable(part: Unfinished, error: OSError) -> UserError:
    last = part.last_state
    free = shutil.disk_usage(part.folder.parent).free / 1e9
    again = f" The same command then goes on after step {step_of(last)}." if last else ""
    return UserError(
        f"cannot write there ({free:.1f} GB are free): {error.strerror or error}",
        where=str(part.out),
        hint=f"Make room, or give another --out.{again}",
    )


def _key_of(part: Unfinished) -> str | None:
    try:
        return (part.folder / "key").read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None


def _refuse_others(out: Path) -> None:
    """Raises UserError where ``out`` is neither free nor a checkpoint that was trained here."""
    try:
        if not out.exists() or (out.is_dir() and not any(out.iterdir())):
            return
    except OSError as e:
        raise UserError(f"cannot write there: {e.strerror}", where=str(out)) from e
    if "data_hash" not in manifest_of(out):
        raise UserError(
            "the folder is in use and holds no checkpoint of ours",
            where=str(out),
            hint="Give another --out.",
        )
    other = next((p for p in sorted(out.iterdir()) if not _may_go(p)), None)
    if other is not None:
        raise UserError(
            f"beside a checkpoint the folder holds {other.name!r}, which would be lost",
            where=str(out),
            hint="Move it away, or give another --out.",
        )


def _may_go(path: Path) -> bool:
    """Whether it looks like a part of a checkpoint, which goes where a new one takes its place."""
    return path.name in _FOLDERS if path.is_dir() else path.suffix in _SUFFIXES


def manifest_of(folder: str | Path) -> Mapping[str, Any]:
    """What a finished checkpoint says of itself; empty: there is none."""
    try:
        told = json.loads(Path(folder, "manifest.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return told if isinstance(told, dict) and isinstance(told.get("metrics"), dict) else {}


def versions() -> dict[str, str]:
    """Versions of the packages a checkpoint's weights depend on, where they are installed."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """JSON that a person can read."""
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
