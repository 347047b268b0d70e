"""Several processes train one student: who writes and speaks, and how they wait for each other.

A launcher (``accelerate launch``, torchrun) starts them alike and tells each its number by the
environment. The first, the main process, alone opens a ledger and a sandbox, writes folders and
speaks. One that fails ends, and its launcher ends the others: none needs to be told. With one
process nothing here does anything.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

from persd.errors import UserError, WorkFailed

T = TypeVar("T")

#: Number of the process that starts others, where it says so: it may have ended before they look.
PARENT = "PERSD_PARENT"
#: How long the processes wait for one of them, which may be building examples or merging weights.
_PATIENCE = timedelta(hours=2)
#: Seconds in which an error of all processes is left to the main one to tell.
_GRACE = 5.0
#: Seconds between two looks at whether the parent is still there.
_LOOK = 0.5


def size() -> int:
    """How many processes train together."""
    return int(os.environ.get("WORLD_SIZE") or 1)


def rank() -> int:
    """Which of them this one is, from 0 on."""
    return int(os.environ.get("RANK") or 0) if size() > 1 else 0


def is_main() -> bool:
    return rank() == 0


def form() -> str:
    """How a training's state is shared out over the processes; empty: there is only one."""
    return "" if size() == 1 else " ".join([str(size()), *sharing()])


def sharing() -> list[str]:
    """What shares the weights out over the processes: ``fsdp``, ``deepspeed``, or nothing."""
    kinds = ("fsdp", "deepspeed")
    return [k for k in kinds if os.environ.get(f"ACCELERATE_USE_{k.upper()}") == "true"]


def wait() -> None:
    """Until all processes are here."""
    if size() > 1:
        _join().wait_for_everyone()


def from_main(work: Callable[[], T]) -> T:
    """What ``work`` gives in the main process, in all of them; it is called there alone."""
    if size() == 1:
        return work()
    done = [work() if is_main() else None]  # the others wait for it as they join
    _join()
    from accelerate.utils import broadcast_object_list

    return broadcast_object_list(done)[0]  # type: ignore[no-any-return]


def share_out(trainer: Any) -> None:
    """Have FSDP hold every weight in parts again: a pass without a backward one leaves the
    outermost gathered, into which parts cannot be loaded."""
    if trainer.is_fsdp_enabled:
        for module in trainer.model_wrapped.modules():
            if hasattr(module, "reshard"):
                module.reshard()


def whole_weights(trainer: Any) -> dict[str, Any] | None:
    """The weights by name, gathered in the main process, where FSDP or DeepSpeed has shared them
    out; None: every process holds the model whole. Called by all processes."""
    if not (trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled):
        return None
    share_out(trainer)
    weights = dict(trainer.accelerator.get_state_dict(trainer.model_wrapped) or {})
    if trainer.is_deepspeed_enabled:
        from transformers.integrations.deepspeed import unset_hf_deepspeed_config

        unset_hf_deepspeed_config()  # or the next model would be loaded in parts, too
    return weights


def _join() -> Any:
    """Connected with the other processes, once all have come."""
    import torch
    from accelerate import PartialState

    if torch.distributed.is_initialized():
        return PartialState()
    from persd.models.checkpoint import pick_device, quiet

    with quiet():
        return PartialState(cpu=pick_device(None).type == "cpu", timeout=_PATIENCE)


@contextmanager
def one_voice() -> Iterator[None]:
    """An error of all processes is raised by the main one alone, one of another by that one.

    Which of the two it is the others learn by waiting: the launcher ends them once the main
    process has failed. The main one waits likewise with an error that may be no more than
    another's sudden end.
    """
    if size() > 1:
        end_with_parent()
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # it warns by process, at length
    try:
        yield
    except KeyboardInterrupt:
        if not is_main():
            raise SystemExit(130) from None
        raise
    except (UserError, WorkFailed):
        if not is_main():
            time.sleep(_GRACE)
        raise
    except Exception:
        if size() > 1:
            time.sleep(_GRACE)
        raise
    _leave()


def _leave() -> None:
    if size() > 1:
        import torch

        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


def end_with_parent() -> None:
    """From now on this process ends where the one that started it does, even if that is killed."""
    parent = int(os.environ.get(PARENT) or os.getppid())
    threading.Thread(target=_watch, args=(parent,), daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_LOOK)
    os._exit(1)
