"""TRL's SFTTrainer, set up so that nothing is tokenised, cut, reported or sent by it unasked.

It is given rows that are ready, groups them by length and computes the loss on the labels
alone. What it costs beside forward and backward was measured and switched off. Imports torch
and TRL, so it is imported only by the function that trains.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch.nn.functional import cross_entropy
from transformers import PrinterCallback, TrainerCallback
from trl import SFTConfig, SFTTrainer
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from persd.config import TrainTable
from persd.errors import UserError, WorkFailed
from persd.models.checkpoint import pick_device, quiet
from persd.train.folder import Unfinished
from persd.train.order import SortedBatches
from persd.train.rows import IGNORED, TokenRow
from persd.train.watching import OnStep, Step

_SCHEDULES = {"cosine": "cosine", "linear": "linear", "constant": "constant_with_warmup"}
#: Rows of a pass on a CPU, which gains nothing from more and pads less with fewer.
_CPU_ROWS = 4


@dataclass(frozen=True, slots=True)
class Fit:
    """A training that has ended."""

    model: Any
    """As it is to be saved, unwrapped."""
    losses: list[float]
    """Of every step, in nats per label token."""
    tokens: int
    """Read without padding."""


def fit(
    model: Any,
    tokenizer: Any,
    rows: Sequence[TokenRow],
    part: Unfinished,
    settings: TrainTable,
    on_step: OnStep | None,
) -> Fit:
    """Train the model on the rows, in place.

    Raises UserError where the GPU's memory does not hold a pass, WorkFailed where the loss is
    no number.
    """
    trainer = make_trainer(model, tokenizer, rows, part.state, settings, on_step)
    try:
        trainer.train()
    except torch.OutOfMemoryError:
        raise UserError(
            f"the GPU's memory does not hold {settings.micro_batch or settings.batch_size} rows"
            f" of up to {max(map(len, rows))} tokens",
            hint="Lower train.micro_batch, or turn on train.gradient_checkpointing.",
        ) from None
    losses = [float(e["loss"]) for e in trainer.state.log_history if "loss" in e]
    trainer.accelerator.free_memory()
    return Fit(model, losses, trainer.tokens_read)


def make_trainer(
    model: Any,
    tokenizer: Any,
    rows: Sequence[TokenRow],
    folder: Path,
    settings: TrainTable,
    on_step: OnStep | None = None,
) -> Any:
    """TRL's SFTTrainer over rows that are ready: it neither tokenises nor cuts them.

    Batches hold rows of like length; nothing is logged, saved, reported or sent anywhere.
    """
    data = {"input_ids": [r.input_ids for r in rows], "labels": [r.labels for r in rows]}
    pad = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    watcher = Watcher(on_step)
    with quiet():
        trainer = Trainer(
            model=model,
            args=_arguments(folder, len(rows), settings),
            train_dataset=Dataset.from_dict(data),
            data_collator=DataCollatorForLanguageModeling(pad_token_id=pad),
            processing_class=tokenizer,
            callbacks=[watcher],
        )
    trainer.row_lengths = [len(row) for row in rows]
    watcher.trainer = trainer
    trainer.remove_callback(PrinterCallback)
    return trainer


def _arguments(folder: Path, rows: int, settings: TrainTable) -> Any:
    device = pick_device(None)
    micro, accumulate = _batches(settings, device)
    steps = settings.max_steps or math.ceil(math.ceil(rows / settings.batch_size) * settings.epochs)
    return SFTConfig(
        output_dir=str(folder),
        num_train_epochs=settings.epochs,
        max_steps=settings.max_steps or -1,
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=accumulate,
        learning_rate=settings.lr,
        lr_scheduler_type=_SCHEDULES[settings.schedule],
        warmup_steps=math.ceil(settings.warmup_ratio * steps),
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.max_grad_norm,
        seed=settings.seed or 0,
        bf16=_computes_in_bf16(device, settings),
        gradient_checkpointing=settings.gradient_checkpointing,
        max_length=None,  # ours: never cut
        packing=False,
        dataset_kwargs={"skip_prepare_dataset": True},
        remove_unused_columns=False,
        dataloader_num_workers=0,
        dataloader_pin_memory=device.type == "cuda",
        logging_steps=1,
        logging_nan_inf_filter=False,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
        use_cpu=device.type == "cpu",
    )


def _batches(settings: TrainTable, device: torch.device) -> tuple[int, int]:
    """Rows per forward pass of one process, and passes per step."""
    processes = int(os.environ.get("WORLD_SIZE") or 1)
    share, rest = divmod(settings.batch_size, processes)
    micro = settings.micro_batch or (math.gcd(share, _CPU_ROWS) if device.type == "cpu" else share)
    if rest or not share or share % micro:
        raise UserError(
            f"train.batch_size = {settings.batch_size} cannot be shared by {processes} processes"
            f" in passes of {micro or 1} rows",
            hint="Make it a multiple of processes x train.micro_batch.",
        )
    return micro, share // micro


def _computes_in_bf16(device: torch.device, settings: TrainTable) -> bool:
    if settings.dtype == "float32" or device.type != "cuda":
        return False
    return bool(torch.cuda.is_bf16_supported(including_emulation=False))


class Trainer(SFTTrainer):  # type: ignore[misc, unused-ignore]
    """SFTTrainer that sorts each batch by length, counts them, and tells nobody of its use."""

    row_lengths: Sequence[int] = ()
    tokens_read = 0

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        batch = self.args.train_batch_size * self.args.gradient_accumulation_steps
        return SortedBatches(self.row_lengths, batch * self.args.world_size, self.args.seed)

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        self.tokens_read += int(inputs["attention_mask"].sum())
        if return_outputs or inputs["input_ids"].device.type != "cpu":
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        # TRL's fused head computes the logits twice and an entropy with them, to save GPU
        # memory: on a CPU a sixth more time for the same loss.
        labels = inputs["labels"][:, 1:]
        asked = {k: v for k, v in inputs.items() if k != "labels"}
        logits = model(**asked, use_cache=False).logits[:, :-1]
        counts = labels != IGNORED
        loss = cross_entropy(logits[counts].float(), labels[counts], reduction="sum")
        if num_items_in_batch is None:
            return loss / counts.sum().clamp(min=1)
        shares = self.accelerator.num_processes if self.args.average_tokens_across_devices else 1
        return loss / torch.as_tensor(num_items_in_batch).clamp(min=1) * shares

    def _send_telemetry(self) -> None:
        return None


class Watcher(TrainerCallback):  # type: ignore[misc, unused-ignore]
    """Passes every step on, and stops where the loss is no number."""

    def __init__(self, on_step: OnStep | None) -> None:
        self.on_step = on_step
        self.trainer: Any = None
        self.began = time.perf_counter()

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        loss = (logs or {}).get("loss")
        if loss is None:
            return
        if not math.isfinite(loss):
            raise WorkFailed(f"the loss became {loss} at step {state.global_step}: lower train.lr")
        if self.on_step:
            self.on_step(
                Step(
                    step=state.global_step,
                    steps=state.max_steps,
                    loss=float(loss),
                    lr=float(logs.get("learning_rate", 0.0)),
                    grad_norm=_number(logs.get("grad_norm")),
                    tokens=self.trainer.tokens_read,
                    seconds=time.perf_counter() - self.began,
                )
            )


def _number(value: Any) -> float | None:
    return None if value is None else float(value)
