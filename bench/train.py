"""Training: useful tokens a second of ``persd.train`` against a plain SFTTrainer, in one run.

    python bench/train.py --release DIR      # the paper's released rows of PERsD-combined
    python bench/train.py [--data FILE.jsonl] [--model FOLDER] [--size 5M] [--rows 256]

The same rows, base, batch size, optimizer and schedule for all. The plain one is TRL's trainer
as it comes, rows in random order and padded, with what would cost memory or precision on a CPU
switched off (checkpointing of activations, bf16); it reads a batch in passes of as many rows as
ours (``plain``) and in one (``plain_whole``), and the faster is what ours is compared with.
Useful tokens are neither padding nor cut; all take turns, and the best of ``--repeat`` turns
counts: on a shared CPU, look at the ratio of CPU seconds. ``of_it_padding`` is the part of the
ratio that comes of fewer positions read, the rest of it of more positions a second. Then both
train on the same batches, and the losses of all steps are compared. Prints one JSON object.
Without ``--release`` and ``--data``, the rows are functions of Python's own library.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from persd.config import TrainTable
from persd.models.checkpoint import Source, find, load_model, load_tokenizer, quiet
from persd.records import Example
from persd.train.rows import TokenRow, encode

if TYPE_CHECKING:
    from bench.student import CONTEXT, SHAPES, Pair, add_row_arguments, make_student, read_pairs
else:  # a script finds its neighbours so
    from student import CONTEXT, SHAPES, Pair, add_row_arguments, make_student, read_pairs


@dataclass(frozen=True)
class Job:
    """What is trained on what."""

    source: Source
    tokenizer: Any
    rows: list[TokenRow]
    settings: TrainTable

    @property
    def tokens(self) -> float:
        """Useful ones, over all epochs."""
        return sum(map(len, self.rows)) * self.settings.epochs


#: Makes a trainer of a model in a folder.
Builder = Callable[[Job, Any, Path], Any]


def main() -> None:
    import torch

    args = _arguments()
    torch.set_num_threads(args.threads)
    pairs = read_pairs(args)
    settings = table(args)
    with TemporaryDirectory() as scratch:
        model = args.model or str(make_student(Path(scratch), args.size, pairs))
        job = prepare(find(model), pairs, settings)
        print(json.dumps({**compare(job, args.repeat), **curves(job, args.curve)}))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    add_row_arguments(parser, rows=256)
    parser.add_argument("--model", help="a checkpoint; by default one made on the spot")
    parser.add_argument("--size", choices=SHAPES, default="5M", help="of the one that is made")
    add_train_arguments(parser, batch=16, micro=4)
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


def add_train_arguments(parser: argparse.ArgumentParser, batch: int, micro: int) -> None:
    parser.add_argument("--epochs", type=float, default=1)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--batch", type=int, default=batch, help="rows of an optimizer step")
    parser.add_argument("--micro", type=int, default=micro, help="rows of a pass")
    parser.add_argument("--repeat", type=int, default=2)
    parser.add_argument("--curve", type=int, default=12, help="steps whose losses are compared")


def table(args: argparse.Namespace) -> TrainTable:
    """The settings of all trainers."""
    return TrainTable(
        epochs=args.epochs,
        lr=args.lr,
        batch_size=args.batch,
        micro_batch=args.micro,
        over_long="skip",
        lossy="skip",
    )


def prepare(source: Source, pairs: Sequence[Pair], settings: TrainTable) -> Job:
    examples = [Example(f"row {i}", "", "", 0, p, c, "task") for i, (p, c) in enumerate(pairs)]
    tokenizer = load_tokenizer(source)
    rows, _ = encode(tokenizer, examples, settings, api="completions", context=CONTEXT)
    return Job(source, tokenizer, rows, settings)


def compare(job: Job, repeat: int) -> dict[str, Any]:
    """Speeds of all, and ours over the faster plain one.

    A GPU is not asked to hold a whole batch at once: there is one plain trainer there.
    """
    builders: dict[str, Builder] = {"persd": ours, "plain": plain}
    if not on_gpu():
        builders["plain_whole"] = plain_whole
    import persd.train.trainer  # noqa: F401  importing is not what is timed

    clock = "seconds" if on_gpu() else "cpu_seconds"
    best: dict[str, dict[str, float]] = {}
    for _ in range(repeat):
        for name, build in builders.items():
            speed = measure(build, job)
            if name not in best or speed[clock] < best[name][clock]:
                best[name] = speed
    rival = min(best.keys() - {"persd"}, key=lambda name: best[name][clock])
    mine, other = best["persd"], best[rival]
    return {
        "rows": len(job.rows),
        "tokens": job.tokens,
        **best,
        "compared_with": rival,
        "seconds_ratio": round(other["seconds"] / mine["seconds"], 2),
        "cpu_seconds_ratio": round(other["cpu_seconds"] / mine["cpu_seconds"], 2),
        "of_it_padding": round(other["positions"] / mine["positions"], 2),
    }


def ours(job: Job, model: Any, folder: Path) -> Any:
    from persd.train.trainer import make_trainer

    return make_trainer(model, job.tokenizer, job.rows, folder, job.settings)


def plain(job: Job, model: Any, folder: Path, **changes: Any) -> Any:
    """TRL's trainer on the same rows, in passes of as many as ours."""
    from datasets import Dataset
    from transformers import PrinterCallback
    from trl import SFTConfig, SFTTrainer

    settings = job.settings
    micro = settings.micro_batch or settings.batch_size
    options = {
        "num_train_epochs": settings.epochs,
        "per_device_train_batch_size": micro,
        "gradient_accumulation_steps": settings.batch_size // micro,
        "learning_rate": settings.lr,
        "lr_scheduler_type": settings.schedule,
        "warmup_steps": settings.warmup_ratio,
        "bf16": on_gpu(),
        "gradient_checkpointing": settings.gradient_checkpointing,
        "max_length": None,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": not on_gpu(),
        **changes,
    }
    data = {"input_ids": [r.input_ids for r in job.rows], "labels": [r.labels for r in job.rows]}
    trainer = SFTTrainer(
        model=model,
        args=SFTConfig(output_dir=str(folder), **options),
        train_dataset=Dataset.from_dict(data),
        processing_class=job.tokenizer,
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def plain_whole(job: Job, model: Any, folder: Path) -> Any:
    """The same, each batch in one pass, as TRL does unless it is told otherwise."""
    rows = job.settings.batch_size
    options = {"per_device_train_batch_size": rows, "gradient_accumulation_steps": 1}
    return plain(job, model, folder, **options)


def on_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


class Counted:
    """A collator that counts what it hands out: ``positions``, padding included."""

    def __init__(self, collator: Any) -> None:
        self.collator, self.positions = collator, 0

    def __call__(self, rows: Any) -> Any:
        batch = self.collator(rows)
        self.positions += batch["input_ids"].numel()
        return batch

    def __getattr__(self, name: str) -> Any:
        return getattr(self.collator, name)


def measure(build: Builder, job: Job) -> dict[str, float]:
    """Building the trainer counts: preparing the rows is part of what it costs."""
    import torch

    model = load_model(job.source, torch.float32).train()
    with TemporaryDirectory() as folder, quiet():
        started, cpu = time.perf_counter(), time.process_time()
        trainer = build(job, model, Path(folder))
        trainer.data_collator = counted = Counted(trainer.data_collator)
        trainer.train()
        seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    return {
        "tokens_per_second": round(job.tokens / seconds),
        "tokens_per_cpu_second": round(job.tokens / cpu),
        "seconds": round(seconds, 2),
        "cpu_seconds": round(cpu, 2),
        "positions": counted.positions,
        "padding": round(1 - job.tokens / counted.positions, 3),
    }


def curves(job: Job, steps: int) -> dict[str, Any]:
    """The losses of both on the same batches, and where they are furthest apart."""
    few = Job(job.source, job.tokenizer, job.rows, job.settings.but(max_steps=steps))
    mine, other = losses(ours, few), losses(plain_in_our_order, few)
    apart = [abs(a - b) for a, b in zip(mine, other, strict=True)]
    return {
        "curve": {
            "steps": len(mine),
            "persd": [round(mine[0], 4), round(mine[-1], 4)],
            "plain": [round(other[0], 4), round(other[-1], 4)],
            "furthest_apart": float(f"{max(apart):.2g}"),
        }
    }


def plain_in_our_order(job: Job, model: Any, folder: Path) -> Any:
    """The plain trainer, told ours' order and warm-up, so that its steps can be laid beside."""
    guide = ours(job, deepcopy(model), folder)
    options = {"max_steps": guide.args.max_steps, "warmup_steps": guide.args.warmup_steps}
    trainer = plain(job, model, folder, logging_steps=1, **options)
    trainer._get_train_sampler = lambda *_: guide._get_train_sampler()
    return trainer


def losses(build: Builder, job: Job) -> list[float]:
    """Of every step."""
    import torch

    model = load_model(job.source, torch.float32).train()
    with TemporaryDirectory() as folder, quiet():
        trainer = build(job, model, Path(folder))
        trainer.train()
    return [float(e["loss"]) for e in trainer.state.log_history if "loss" in e]


if __name__ == "__main__":
    main()
