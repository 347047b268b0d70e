"""The folder a checkpoint is made in: whole or not at all, and gone on with where it was killed.

Beside ``OUT`` stands ``.OUT.part`` while it is made: ``key``, what is being trained; ``state``,
the trainer's own checkpoints, each ``complete`` once it is; ``new``, the checkpoint being
written, which takes the place of ``OUT`` in one step.
"""

from __future__ import annotations

import json
import platform
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from persd.errors import UserError

#: Written into a trainer's checkpoint last.
COMPLETE = "complete"
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
        whole = [p.parent for p in self.state.glob(f"checkpoint-*/{COMPLETE}")]
        return max(whole, key=lambda p: int(p.name.rpartition("-")[2]), default=None)


@contextmanager
def unfinished(out: Path, key: str) -> Iterator[Unfinished]:
    """The folder in which ``out`` is made; ``out`` is replaced at the end of the block.

    What an earlier process left of the same training (``key``) is kept, of another one cleared
    away. A block that raises leaves the trainer's checkpoints where there are any, unless it is
    an error that would come again. Raises UserError for an ``out`` that holds something else,
    or cannot be written.
    """
    _refuse_others(out)
    part = Unfinished(out.with_name(f".{out.name}.part"))
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
        yield part
        shutil.rmtree(out, ignore_errors=True)
        part.new.rename(out)
    except (KeyboardInterrupt, SystemExit, OSError):
        keep = part.last_state is not None
        raise
    finally:
        if not keep:
            shutil.rmtree(part.folder, ignore_errors=True)


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
