"""Several processes: who does what, and that every row counts once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("trl")

import torch
from accelerate.data_loader import BatchSamplerShard, SkipBatchSampler
from torch.utils.data import BatchSampler

import tiny
from persd.errors import UserError
from persd.train import ranks
from persd.train.order import Evened, SortedBatches
from persd.train.rows import BLANK, IGNORED, encode
from persd.train.trainer import make_trainer
from test_train import EXAMPLES, SETTINGS


def be(monkeypatch: pytest.MonkeyPatch, rank: int, size: int) -> None:
    """One of several processes, as a launcher tells it."""
    monkeypatch.setenv("RANK", str(rank))
    monkeypatch.setenv("WORLD_SIZE", str(size))


def test_one_process_alone_is_the_main_one_and_waits_for_nobody() -> None:
    assert (ranks.rank(), ranks.size(), ranks.form()) == (0, 1, "")
    ranks.wait()
    assert ranks.from_main(lambda: 3) == 3


def test_a_launcher_says_who_is_who(monkeypatch: pytest.MonkeyPatch) -> None:
    be(monkeypatch, 2, 4)
    assert (ranks.rank(), ranks.size(), ranks.is_main()) == (2, 4, False)
    assert ranks.form() == "4"
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    assert ranks.form() == "4 fsdp"


def test_an_error_of_all_is_left_to_the_main_process(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    monkeypatch.setattr("time.sleep", waited.append)
    monkeypatch.setattr(ranks, "end_with_parent", lambda: None)

    def fail(rank: int) -> None:
        be(monkeypatch, rank, 2)
        with pytest.raises(UserError), ranks.one_voice():
            raise UserError("no such base")

    fail(0)
    assert not waited  # it speaks at once
    fail(1)
    assert waited  # in which its launcher ends it, unless the main process is well


def test_an_orders_end_is_filled_with_blank_rows() -> None:
    order = SortedBatches([9, 4, 7, 5, 8], 4, seed=1)
    evened = Evened(order, 3)
    assert list(evened) == [*order, 5, 5, 5]
    assert len(evened) == 8
    evened.set_epoch(1)
    assert list(evened)[:5] == list(order) != list(SortedBatches(order.lengths, 4, seed=1))


def shares(rows: Sequence[int], processes: int, micro: int) -> list[list[list[int]]]:
    """The passes of each process, as accelerate deals them out."""
    passes = BatchSampler(rows, micro, drop_last=False)
    return [list(BatchSamplerShard(passes, processes, i)) for i in range(processes)]


@pytest.mark.parametrize("count", range(1, 18))
def test_every_row_is_read_once_by_one_process(count: int) -> None:
    processes, micro, batch = 2, 2, 8
    order = SortedBatches(list(range(count)), batch, seed=1)
    dealt = shares(list(Evened(order, -count % (processes * micro))), processes, micro)
    read = [i for passes in dealt for one in passes for i in one if i < count]
    assert sorted(read) == list(range(count))
    assert len({len(passes) for passes in dealt}) == 1  # nobody waits for another's pass
    steps = batch // (processes * micro)
    for i in range(0, len(dealt[0]), steps):  # a step's rows are those of one process alone
        together = [
            r for passes in dealt for one in passes[i : i + steps] for r in one if r < count
        ]
        at = i * micro * processes
        assert sorted(together) == sorted(list(order)[at : at + batch])


def test_going_on_within_an_epoch_several_processes_have_that_epochs_order(
    tmp_path: Path,
) -> None:
    tok = tiny.tokenizer()
    rows, _ = encode(tok, EXAMPLES, SETTINGS, api="completions")
    trainer = make_trainer(tiny.model(len(tok)), tok, rows, tmp_path, SETTINGS)
    dealt = BatchSamplerShard(BatchSampler(trainer._get_train_sampler(), 4, False), 2, 0)
    rest = SkipBatchSampler(dealt, 0)  # through which accelerate does not tell the epoch
    trainer.state.global_step = 5  # of 2 an epoch
    trainer.callback_handler.on_epoch_begin(trainer.args, trainer.state, trainer.control)
    expected = SortedBatches(trainer.row_lengths, SETTINGS.batch_size, SETTINGS.seed or 0)
    expected.set_epoch(2)
    assert next(iter(rest)) == list(expected)[:4]


def test_a_blank_row_teaches_nothing(tmp_path: Path) -> None:
    tok = tiny.tokenizer()
    rows, _ = encode(tok, EXAMPLES, SETTINGS, api="completions")
    trainer = make_trainer(tiny.model(len(tok)), tok, rows, tmp_path, SETTINGS)
    trainer.model.train()

    def gradient(ready: Sequence[Any]) -> torch.Tensor:
        plain = [{"input_ids": r.input_ids, "labels": r.labels} for r in ready]
        trainer.model.zero_grad()
        loss = trainer.compute_loss(
            trainer.model, trainer.data_collator(plain), num_items_in_batch=9
        )
        loss.backward()
        return torch.cat([p.grad.flatten() for p in trainer.model.parameters()])

    assert BLANK.labels == [IGNORED, IGNORED]
    assert torch.allclose(gradient(rows[:2]), gradient([*rows[:2], BLANK]), atol=1e-6)
    assert not gradient([BLANK, BLANK]).any()


def test_a_process_whose_parent_was_killed_ends(tmp_path: Path) -> None:
    # a parent that starts a child which ends with it, says the child's number, and is killed
    child = "import time; from persd.train import ranks; ranks.end_with_parent(); time.sleep(60)"
    parent = (
        "import os, subprocess, sys, time\n"
        "env = {**os.environ, 'PERSD_PARENT': str(os.getpid())}\n"
        f"child = subprocess.Popen([sys.executable, '-c', {child!r}], env=env)\n"
        "print(child.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        process.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 20
    while _runs(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _runs(pid)


def _runs(pid: int) -> bool:
    """Whether there is such a process, and it has not merely been left unburied."""
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except ProcessLookupError:
        return False
    except FileNotFoundError:  # no /proc here
        return True
