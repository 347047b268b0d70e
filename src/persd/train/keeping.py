"""Putting a training down while it goes on, and finding what was put down last.

The trainer's own checkpoints: weights, optimizer, schedule, random numbers and the log. They are
read with ``weights_only``: nothing in them can run.
"""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import broadcast
from safetensors import safe_open
from transformers import TrainerCallback
from transformers.trainer_pt_utils import safe_globals

from persd.train import ranks
from persd.train.folder import drop, is_whole, state_of, step_of, whole_states

log = logging.getLogger(__name__)

#: Time of training for each second of putting it down.
_WORTH = 9.0


class Keeper(TrainerCallback):  # type: ignore[misc, unused-ignore]
    """Has the training put down every so often, and no more than a tenth of its time."""

    def __init__(self, minutes: float) -> None:
        self.every = 60 * minutes
        self.took = 0.0
        """Seconds the last time."""
        self.since = time.perf_counter()
        self.trainer: Any = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.since = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step >= state.max_steps:
            return  # it is written in full now
        passed = time.perf_counter() - self.since
        if agreed(self.trainer.accelerator, passed >= max(self.every, _WORTH * self.took)):
            control.should_save = True

    def saved(self, seconds: float) -> None:
        """It was put down, which took so long."""
        self.took, self.since = seconds, time.perf_counter()


def agreed(accelerator: Any, wanted: bool) -> bool:
    """What the main process wants, in all processes."""
    if accelerator.num_processes == 1:
        return wanted
    return bool(broadcast(torch.tensor(int(wanted), device=accelerator.device)).item())


def last_readable(folder: Path) -> Path | None:
    """The latest of the trainer's checkpoints in ``folder`` that can be gone on from, in all
    processes the same; later ones are deleted, and it is said."""
    return ranks.from_main(lambda: _last_readable(folder))


def _last_readable(folder: Path) -> Path | None:
    for state in whole_states(folder):
        if is_readable(state):
            return state
        log.warning("%s: cannot be read, so the training goes on from before it", state)
        drop(state)
    return None


def is_readable(state: Path) -> bool:
    """Whether the files of a trainer's checkpoint are what they should be, and the weights of
    the best look before it are still there."""
    try:
        for path in state.iterdir():
            if path.suffix == ".safetensors":
                with safe_open(str(path), "pt") as stored:
                    stored.keys()
            elif path.suffix in (".pt", ".pth"):
                with safe_globals():
                    torch.load(path, map_location="cpu", mmap=True, weights_only=True)
        best = best_step(json.loads((state / "trainer_state.json").read_bytes())["log_history"])
    except Exception:  # whatever the readers raise on files that are not theirs
        log.debug("%s", state, exc_info=True)
        return False
    return best in (None, step_of(state)) or is_whole(state_of(state.parent, best))


def looks(history: list[dict[str, Any]]) -> list[tuple[int, float]]:
    """Steps after which the held-out rows were looked at, and the loss on them, from the log."""
    return [(int(e["step"]), float(e["eval_loss"])) for e in history if "eval_loss" in e]


def best_step(history: list[dict[str, Any]]) -> int | None:
    """The step of the lowest loss on the held-out rows; None: there was no look."""
    found = looks(history)
    return min(found, key=lambda look: look[1])[0] if found else None
