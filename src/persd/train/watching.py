"""What a training tells while it goes on: one record an optimizer step, kept beside the weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path

from persd.errors import UserError
from persd.records import Step, from_json, to_json

OnStep = Callable[[Step], None]
#: The steps of a training, JSON a line, in its checkpoint.
STEPS_FILE = "steps.jsonl"


class Recorder:
    """Appends every step to a file before it tells of it.

    Steps that a process before this one made, and that are made again, give way to the new ones.
    """

    def __init__(self, path: Path, on_step: OnStep | None = None) -> None:
        self.path, self.on_step, self.begun = path, on_step, False

    def __call__(self, step: Step) -> None:
        if not self.begun:
            kept = [s for s in read_steps(self.path) if s.step < step.step]
            self.path.write_text("".join(f"{to_json(s)}\n" for s in kept), encoding="utf-8")
            self.begun = True
        with self.path.open("a", encoding="utf-8") as out:
            out.write(f"{to_json(step)}\n")
        if self.on_step:
            self.on_step(step)


def read_steps(path: Path) -> list[Step]:
    """The steps of a file, as far as they are whole; none where there is no file."""
    found = []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return []
    for line in lines:
        try:
            found.append(from_json(Step, line))
        except ValueError:
            break  # its process was killed as it wrote
    return found


def need_trackers(names: Sequence[str]) -> None:
    """Raises UserError where the package of a tracker (``train.report_to``) is not installed."""
    absent = [name for name in names if find_spec(name) is None]
    if absent:
        raise UserError(
            f"train.report_to = {absent[0]!r} needs a package that is not installed",
            hint=f"Install it: pip install {' '.join(absent)}.",
        )


__all__ = ["STEPS_FILE", "OnStep", "Recorder", "Step", "need_trackers", "read_steps"]
