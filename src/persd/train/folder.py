"""The folder a checkpoint is made in: whole or not at all, and gone on with where it was killed.

Beside ``OUT`` stands ``.OUT.part`` while it is made: ``key``, what is being trained; ``state``,
the trainer's own checkpoints, each ``complete`` once it is; ``new``, the checkpoint being
written, which takes the place of ``OUT`` in one step.
"""

from __future__ import annotations

import errno
import json
import os
import platform
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
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
    """Where it will stand."""

    @property
    def state(self) -> Path:
        """The trainer's own checkpoints, ``checkpoint-STEP`` each."""
        return self.folder / "state"

    @property
    def new(self) -> Path:
        """What becomes ``OUT``."""
        return self.folder / "new"

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
    sizes = {}
    for path in sorted(p for p in state.rglob("*") if p.is_file() and p.name != COMPLETE):
        with path.open("r+b") as file:
            os.fsync(file.fileno())
        sizes[path.relative_to(state).as_posix()] = path.stat().st_size
    with (state / f"{COMPLETE}.new").open("w", encoding="utf-8") as file:
        json.dump(sizes, file)
        file.flush()
        os.fsync(file.fileno())
    (state / f"{COMPLETE}.new").rename(state / COMPLETE)


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
    _refuse_others(out)
    try:
        if _key_of(part) != key:
            shutil.rmtree(part.folder, ignore_errors=True)
            part.folder.mkdir(parents=True)
            (part.folder / "key").write_text(key, encoding="utf-8")
        shutil.rmtree(part.new, ignore_errors=True)
        part.new.mkdir()
    except OSError as e:
        raise UserError(f"cannot write there: {e.strerror}", where=str(out)) from e
    keep = False
    try:
        ranks.wait()
        yield part
        shutil.rmtree(out, ignore_errors=True)
        part.new.rename(out)
    except (UserError, WorkFailed):
        raise
    except BaseException as e:
        keep = part.last_state is not None
        if isinstance(e, OSError) and e.errno in _DISK:
            raise _unwritable(part, e) from e
        raise
    finally:
        if not keep:
            shutil.rmtree(part.folder, ignore_errors=True)


def clear_away(out: Path) -> None:
    """Delete what processes that were ended left of ``out``, unless it can be gone on with."""
    if _beside(out).last_state is None:
        shutil.rmtree(_beside(out).folder, ignore_errors=True)


def _beside(out: Path) -> Unfinished:
    return Unfinished(out.with_name(f".{out.name}.part"), out)


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
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not (out / "manifest.json").is_file():
        raise UserError(
            "the folder is in use and holds no checkpoint of ours",
            where=str(out),
            hint="Give another --out.",
        )


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
