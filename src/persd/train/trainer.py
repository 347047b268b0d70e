"""TRL's SFTTrainer, set up so that nothing is tokenised, cut, reported or sent by it unasked.

It is given rows that are ready, groups them by length and computes the loss on the labels
alone. What it costs beside forward and backward was measured and switched off. Imports torch
and TRL, so it is imported only by the function that trains.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch.nn.functional import cross_entropy
from transformers import PrinterCallback, TrainerCallback
from transformers.integrations import TensorBoardCallback
from transformers.trainer import TRAINING_ARGS_NAME
from trl import SFTConfig, SFTTrainer
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from persd.config import TrainTable
from persd.errors import UserError, WorkFailed
from persd.models.checkpoint import pick_device, quiet
from persd.train import ranks
from persd.train.folder import Unfinished, drop, is_whole, seal, state_of, thin_out, writing
from persd.train.keeping import (
    Keeper,
    best_step,
    keep_precision,
    last_readable,
    looks,
    stoppable,
)
from persd.train.methods import computes_in_bf16, widen_adapters
from persd.train.order import (
    Evened,
    SortedBatches,
    StagedBatches,
    all_steps,
    epoch_steps,
    rows_of_a_pass,
)
from persd.train.packing import packs
from persd.train.rows import BLANK, IGNORED, TokenRow
from persd.train.watching import OnStep, Step

log = logging.getLogger(__name__)

_SCHEDULES = {"cosine": "cosine", "linear": "linear", "constant": "constant_with_warmup"}
_OPTIMIZERS = {"adamw_8bit": "adamw_bnb_8bit", "adafactor": "adafactor"}


@dataclass(frozen=True, slots=True)
class Fit:
    """A training that has ended."""

    model: Any
    """As it is to be saved, unwrapped."""
    losses: list[float]
    """Of every step, in nats per label token."""
    tokens: int
    """Read without padding, over all processes."""
    looks: list[tuple[int, float]]
    """Steps after which the held-out rows were looked at, and the loss on them."""
    stopped_early: bool
    """Whether the looks stopped it before its last step."""
    weights: dict[str, torch.Tensor] | None
    """The model's, in the main process, where each holds but a part of it; None: it is whole."""


def fit(
    model: Any,
    tokenizer: Any,
    rows: Sequence[TokenRow],
    part: Unfinished,
    settings: TrainTable,
    on_step: OnStep | None,
    held_out: Sequence[TokenRow] = (),
) -> Fit:
    """Train the model on the rows, in place, from where an earlier process was killed.

    With ``held_out``, its weights are those of the lowest loss on these rows. Raises UserError
    where the GPU's memory does not hold a pass, WorkFailed where the loss is no number.
    """
    trainer = make_trainer(
        model, tokenizer, rows, part.state, settings, on_step, held_out=held_out, out=part.out
    )
    last = last_readable(part.state)
    try:
        with stoppable(trainer.keeper):
            trainer.train(resume_from_checkpoint=str(last) if last else None)
        trainer.take_best()
    except torch.OutOfMemoryError:
        raise UserError(
            f"the GPU's memory does not hold {trainer.args.per_device_train_batch_size} rows"
            f" of up to {max(map(len, [*rows, *held_out]))} tokens",
            hint="Lower train.micro_batch, or turn on train.gradient_checkpointing.",
        ) from None
    state = trainer.state
    losses = [float(e["loss"]) for e in state.log_history if "loss" in e]
    early = state.global_step < state.max_steps
    weights = ranks.whole_weights(trainer)
    trainer.accelerator.free_memory()
    return Fit(model, losses, trainer.tokens_read, looks(state.log_history), early, weights)


def make_trainer(
    model: Any,
    tokenizer: Any,
    rows: Sequence[TokenRow],
    folder: Path,
    settings: TrainTable,
    on_step: OnStep | None = None,
    *,
    held_out: Sequence[TokenRow] = (),
    out: Path | None = None,
) -> Any:
    """TRL's SFTTrainer over rows that are ready: it neither tokenises nor cuts them.

    Batches hold rows of like length; nothing is sent anywhere that was not asked for. It puts
    itself down in ``folder``. ``out``: the checkpoint to be, whose name trackers are told.
    """
    ready = [*rows, *([BLANK] if ranks.size() > 1 else [])]
    data = {"input_ids": [r.input_ids for r in ready], "labels": [r.labels for r in ready]}
    pad = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    watcher, keeper = Watcher(on_step), Keeper(settings.checkpoint_minutes)
    with quiet():
        trainer = Trainer(
            model=model,
            args=_arguments(folder, len(rows), settings, out),
            train_dataset=Dataset.from_dict(data),
            data_collator=DataCollatorForLanguageModeling(pad_token_id=pad),
            processing_class=tokenizer,
            callbacks=[watcher, keeper],
        )
    widen_adapters(model)
    trainer.settings, trainer.watcher, trainer.keeper = settings, watcher, keeper
    trainer.row_lengths, trainer.held_out = [len(row) for row in rows], held_out
    watcher.trainer = keeper.trainer = trainer
    trainer.data_collator.padding_free = packs(trainer, rows, settings)
    trainer.remove_callback(PrinterCallback)
    _place_tensorboard(trainer, out)
    return trainer


def _place_tensorboard(trainer: Any, out: Path | None) -> None:
    """Its files are to outlive the folder the checkpoint is made in: tensorboard/OUT beside it."""
    for callback in trainer.callback_handler.callbacks:
        if isinstance(callback, TensorBoardCallback) and not callback.logging_dir and out:
            callback.logging_dir = str(out.parent / "tensorboard" / out.name)


def _arguments(folder: Path, rows: int, settings: TrainTable, out: Path | None) -> Any:
    device = pick_device(None)
    micro, accumulate = _batches(settings, device)
    on_cuda = device.type == "cuda"
    staged = bool(settings.stages)  # then one epoch is the whole training
    optimizer = _OPTIMIZERS.get(settings.optimizer)
    return SFTConfig(
        output_dir=str(folder),
        run_name=out.name if out else None,
        project="persd",
        num_train_epochs=1 if staged else settings.epochs,
        max_steps=-1 if staged else settings.max_steps or -1,
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=accumulate,
        learning_rate=settings.lr,
        lr_scheduler_type=_SCHEDULES[settings.schedule],
        warmup_steps=math.ceil(settings.warmup_ratio * all_steps(rows, settings)),
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.max_grad_norm,
        **({"optim": optimizer} if optimizer else {}),
        seed=settings.seed or 0,
        bf16=computes_in_bf16(device, settings),
        gradient_checkpointing=settings.gradient_checkpointing,
        max_length=None,  # ours: never cut
        packing=False,
        dataset_kwargs={"skip_prepare_dataset": True},
        router_aux_loss_coef=0.0,  # the loss is on the labels alone
        remove_unused_columns=False,
        dataloader_num_workers=0,
        dataloader_pin_memory=on_cuda,
        accelerator_config={"non_blocking": on_cuda},
        logging_steps=1,
        logging_nan_inf_filter=False,
        report_to=list(settings.report_to) or "none",
        save_strategy="no",  # the keeper says when
        disable_tqdm=True,
        use_cpu=device.type == "cpu",
    )


def _batches(settings: TrainTable, device: torch.device) -> tuple[int, int]:
    """Rows per forward pass of one process, and passes per step."""
    processes = ranks.size()
    share, rest = divmod(settings.batch_size, processes)
    micro = rows_of_a_pass(settings, share, device.type)
    if rest or not share or share % micro:
        raise _unshared(settings.batch_size, processes, settings.micro_batch or 1)
    return micro, share // micro


def _unshared(batch: int, processes: int, micro: int) -> UserError:
    unit = processes * micro
    passes = f" in passes of {micro} rows" if micro > 1 else ""
    fits = [n for n in (batch // unit * unit, (batch // unit + 1) * unit) if n]
    return UserError(
        f"train.batch_size = {batch} cannot be shared by {processes} processes{passes}:"
        f" it must be a multiple of {unit}",
        hint=f"Use train.batch_size = {' or '.join(map(str, fits))}"
        f"{', or a smaller train.micro_batch' if micro > 1 else ''}.",
    )


class Trainer(SFTTrainer):  # type: ignore[misc, unused-ignore]
    """SFTTrainer that sorts each batch by length, looks at held-out rows, puts itself down whole
    or not at all, and tells nobody of its use."""

    settings = TrainTable()
    row_lengths: Sequence[int] = ()
    held_out: Sequence[TokenRow] = ()
    order: SortedBatches | None = None
    blanks = 0
    """Blank rows at the end of an epoch, with which all processes make as many passes."""
    watcher: Watcher
    keeper: Keeper
    tokens_read = 0
    """Without padding, over all processes, up to the last step that was logged."""
    _unread: Any = 0
    """By this process since then: a tensor, so that a GPU need not be waited for."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # so that labels are counted over a step's passes for every model: one whose forward
        # takes no further arguments would weigh the passes alike, however many labels they have
        self.model_accepts_loss_kwargs = True

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        batch, settings = self.settings.batch_size, self.settings
        if settings.stages:
            steps = all_steps(len(self.row_lengths), settings)
            stages = settings.stages
            return StagedBatches(self.row_lengths, stages, steps, batch, self.args.seed)
        self.order = SortedBatches(self.row_lengths, batch, self.args.seed)
        passes = self.args.per_device_train_batch_size * self.args.world_size
        self.blanks = -len(self.order) % passes
        return Evened(self.order, self.blanks) if ranks.size() > 1 else self.order

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        if self.model.training:
            mask = inputs.get("attention_mask")
            self._unread = self._unread + (inputs["labels"].numel() if mask is None else mask.sum())
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

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs:
            unread = torch.as_tensor(self._unread, device=self.args.device)
            self.tokens_read += int(self.accelerator.reduce(unread, "sum")) - self._blank_tokens()
            self._unread = 0
            logs["tokens"] = self.tokens_read
        super().log(logs, start_time)

    def _blank_tokens(self) -> int:
        """Those of the blank rows of the last step, at the end of an epoch."""
        at_end = self.state.global_step % epoch_steps(len(self.row_lengths), self.settings) == 0
        return self.blanks * len(BLANK) if at_end and ranks.size() > 1 else 0

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Look at the held-out rows, after a step."""
        loss = self._held_out_loss()
        self.log({"eval_loss": loss})
        self.model_wrapped.train()
        self.watcher.looked(loss)
        self.control.should_evaluate = False
        return {"eval_loss": loss}

    def _held_out_loss(self) -> float:
        """Nats per label token on the held-out rows: an exact mean over tokens. Leaves the model
        in evaluation mode."""
        total = torch.zeros((), dtype=torch.float64)
        self.model_wrapped.eval()
        for batch, counts in self._held_out_batches():
            inputs = self._prepare_inputs(batch)
            with torch.no_grad(), self.compute_loss_context_manager():
                nats = self.compute_loss(self.model_wrapped, inputs, num_items_in_batch=1)
            total += counts * nats.double().cpu() / self.accelerator.num_processes
        if self.args.world_size > 1:
            total = self.accelerator.reduce(total.to(self.args.device), "sum")
        return float(total) / sum(len(row.completion) for row in self.held_out)

    def _held_out_batches(self) -> list[tuple[dict[str, Any], int]]:
        """This process' batches, as many as every other one's; 0: one that does not count."""
        rows = sorted(self.held_out, key=len)
        size, processes = self.args.per_device_train_batch_size, self.args.world_size
        parts = [rows[i : i + size] for i in range(0, len(rows), size)]
        shared = []
        for i in range(self.args.process_index, -(-len(parts) // processes) * processes, processes):
            part = parts[min(i, len(parts) - 1)]
            plain = [{"input_ids": r.input_ids, "labels": r.labels} for r in part]
            shared.append((self.data_collator(plain), int(i < len(parts))))
        return shared

    def create_optimizer(self, *args: Any, **kwargs: Any) -> torch.optim.Optimizer:
        optimizer: torch.optim.Optimizer = super().create_optimizer(*args, **kwargs)
        shared_out = self.is_fsdp_enabled or self.is_deepspeed_enabled
        if self.settings.optimizer == "adafactor" and not shared_out:
            keep_precision(optimizer)
        return optimizer

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        began, step = time.perf_counter(), self.state.global_step
        try:
            with writing():
                self._put_down(model, trial)
        except OSError as e:
            if self.args.world_size > 1 or best_step(self.state.log_history) == step:
                raise
            drop(state_of(Path(self.args.output_dir), step))
            why = e.strerror or e
            log.warning("step %d cannot be put down (%s): the training goes on", step, why)
        self.keeper.saved(time.perf_counter() - began)

    def _put_down(self, model: Any, trial: Any) -> None:
        """Write a checkpoint, which counts once it is whole; earlier ones make room for it, as
        it has three times the size of the weights."""
        folder, history, step = self.args.output_dir, self.state.log_history, self.state.global_step
        if self.args.should_save:
            earlier = best_step([e for e in history if e["step"] < step])
            thin_out(Path(folder), earlier, keep=1)
        super()._save_checkpoint(model, trial)
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            seal(state_of(Path(folder), step))
            thin_out(Path(folder), best_step(history), keep=2)

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        if hasattr(self.model, "peft_config") and self.args.should_save:
            # else peft asks the Hub whether the base has another vocabulary
            self.model.save_pretrained(
                output_dir, state_dict=state_dict, save_embedding_layers=False
            )
            return
        super()._save(output_dir, state_dict)
        if output_dir and self.args.should_save:  # a pickle, which nobody needs
            (Path(output_dir) / TRAINING_ARGS_NAME).unlink(missing_ok=True)

    def take_best(self) -> None:
        """Have the weights that the held-out rows were best with. Raises WorkFailed where they
        were deleted."""
        step = best_step(self.state.log_history)
        if step is None or step == self.state.global_step:
            return
        state = state_of(Path(self.args.output_dir), step)
        if not is_whole(state):
            raise WorkFailed(f"{state}: the weights of the best step are gone")
        self.state.best_model_checkpoint = str(state)
        ranks.share_out(self)
        self._load_best_model()

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        return None

    def _send_telemetry(self) -> None:
        return None


class Watcher(TrainerCallback):  # type: ignore[misc, unused-ignore]
    """Passes every step on, has the held-out rows looked at, and stops where the loss is no
    number or where looks bring nothing."""

    def __init__(self, on_step: OnStep | None) -> None:
        self.on_step = on_step
        self.trainer: Any = None
        self.began = time.perf_counter()
        self.last: Step | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        read = [e["tokens"] for e in state.log_history if "tokens" in e]
        self.trainer.tokens_read = read[-1] if read else 0

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        # told by the trainer as well, but not where several processes go on within an epoch
        if self.trainer.order:
            steps = epoch_steps(len(self.trainer.row_lengths), self.trainer.settings)
            self.trainer.order.set_epoch(state.global_step // steps)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        epoch = epoch_steps(len(self.trainer.row_lengths), self.trainer.settings)
        at_end = state.global_step % epoch == 0 or state.global_step >= state.max_steps
        if self.trainer.held_out and at_end:
            control.should_evaluate = True

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        loss = (logs or {}).get("loss")
        if loss is None:
            return
        if not math.isfinite(loss):
            raise WorkFailed(f"the loss became {loss} at step {state.global_step}: lower train.lr")
        step = Step(
            step=state.global_step,
            steps=state.max_steps,
            loss=float(loss),
            lr=float(logs.get("learning_rate", 0.0)),
            grad_norm=_number(logs.get("grad_norm")),
            tokens=self.trainer.tokens_read,
            seconds=time.perf_counter() - self.began,
        )
        self._tell(step)

    def looked(self, loss: float) -> None:
        """The held-out rows were looked at: keep the weights, go on, or stop."""
        state, control = self.trainer.state, self.trainer.control
        if not math.isfinite(loss):
            raise WorkFailed(f"the loss on the held-out rows is {loss}: lower train.lr")
        if self.last:
            self._tell(replace(self.last, held_out=loss))
        best, patience = best_step(state.log_history), self.trainer.settings.patience
        if best == state.global_step:
            control.should_save = state.global_step < state.max_steps
        elif sum(s > (best or 0) for s, _ in looks(state.log_history)) >= patience:
            control.should_training_stop = True

    def _tell(self, step: Step) -> None:
        self.last = step
        if self.on_step and self.trainer.is_world_process_zero():
            self.on_step(step)


def _number(value: Any) -> float | None:
    return None if value is None else float(value)
