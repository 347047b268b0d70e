"""Putting a training down while it goes on, and finding what was put down last.

The trainer's own checkpoints: weights, optimizer, schedule, random numbers and the log. They are
read with ``weights_only``: nothing in them can run.
"""

from __future__ import annotations

import json
import logging
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
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
        self.stopping = False
        """Whether it is put down after this step, and ends there."""
        self.finished = False

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.since = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step >= state.max_steps:
            self.finished = True
            return  # it is written in full now
        if self.stopping:
            control.should_save = control.should_training_stop = True
            return
        passed = time.perf_counter() - self.since
        if agreed(self.trainer.accelerator, passed >= max(self.every, _WORTH * self.took)):
            control.should_save = True

    def saved(self, seconds: float) -> None:
        """It was put down, which took so long."""
        self.took, self.since = seconds, time.perf_counter()


@contextmanager
def stoppable(keeper: Keeper) -> Iterator[None]:
    """Ctrl-C or SIGTERM has a training of one process put down after the step under way, a second
    one ends it at once. Raises KeyboardInterrupt at the end where it was stopped."""
    alone = ranks.size() == 1 and threading.current_thread() is threading.main_thread()
    if not alone:  # only the main thread hears signals; several processes are ended together
        yield
        return

    def asked(number: int, frame: object) -> None:
        if keeper.stopping:
            raise KeyboardInterrupt
        keeper.stopping = True
        log.warning("stopping after the step under way; again to stop at once")

    before = {s: signal.signal(s, asked) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
    if keeper.stopping and not keeper.finished:
        raise KeyboardInterrupt


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


def keep_precision(optimizer: torch.optim.Optimizer) -> None:
    """Have the optimizer's states loaded in the precision they were put down in: torch rounds
    them to that of the weights, and Adafactor's are finer than weights in bfloat16."""
    given: dict[str, Any] = {}

    def after(loaded: torch.optim.Optimizer) -> None:
        numbers = [n for group in given["param_groups"] for n in group["params"]]
        weights = [weight for group in loaded.param_groups for weight in group["params"]]
        for number, weight in zip(numbers, weights, strict=True):
            for name, value in given["state"].get(number, {}).items():
                if torch.is_tensor(value):
                    loaded.state[weight][name] = value.to(weight.device)
        given.clear()

    optimizer.register_load_state_dict_pre_hook(lambda _, state: given.update(state))
    optimizer.register_load_state_dict_post_hook(after)


def looks(history: list[dict[str, Any]]) -> list[tuple[int, float]]:
    """Steps after which the held-out rows were looked at, and the loss on them, from the log."""
    return [(int(e["step"]), float(e["eval_loss"])) for e in history if "eval_loss" in e]


def best_step(history: list[dict[str, Any]]) -> int | None:
    """The step of the lowest loss on the held-out rows; None: there was no look."""
    found = looks(history)
    return min(found, key=lambda look: look[1])[0] if found else None
