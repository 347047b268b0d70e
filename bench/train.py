"""Training: useful tokens a second of ``persd.train`` against a plain SFTTrainer, in one run.

    python bench/train.py [--model FOLDER] [--data FILE.jsonl] [--rows 300] [--epochs 1]

The same rows, base, batch size, optimizer and schedule for both. The plain one is TRL's trainer
as it comes, with what would cost memory or precision on a CPU switched off (checkpointing of
activations, bf16) and rows in random order. Tokens count neither padding nor what is cut; the
two take turns, and the faster of ``--repeat`` turns counts. ``--data`` has rows of
``prompt`` and ``completion``; without it, rows of the lab family. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from importlib.resources import files
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from persd.config import TrainTable
from persd.lab import corpus
from persd.models.checkpoint import find, load_model, load_tokenizer, quiet
from persd.records import Example
from persd.train.rows import TokenRow, encode

Builder = Callable[[Any, Any, Sequence[TokenRow], Path, TrainTable], Any]


def main() -> None:
    import torch

    from persd.train.trainer import make_trainer

    args = _arguments()
    torch.set_num_threads(args.threads)
    settings = TrainTable(epochs=args.epochs, lr=args.lr, over_long="skip", lossy="skip")
    source = find(args.model)
    tokenizer = load_tokenizer(source)
    context = load_model(source, torch.float32).config.max_position_embeddings
    rows, left_out = encode(
        tokenizer, _examples(args), settings, api="completions", context=context
    )
    best: dict[str, dict[str, float]] = {}
    builders: dict[str, Builder] = {"persd": make_trainer, "plain": _plain}
    for _ in range(args.repeat):
        for name, build in builders.items():
            model = load_model(source, torch.float32)
            speed = _speed(build, model.train(), tokenizer, rows, settings)
            if name not in best or speed["cpu_seconds"] < best[name]["cpu_seconds"]:
                best[name] = speed
    ratios = {
        f"{kind}_ratio": round(best["plain"][kind] / best["persd"][kind], 2)
        for kind in ("seconds", "cpu_seconds")
    }
    print(json.dumps({**best, **ratios, "rows": len(rows), "left_out": len(left_out)}))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default=str(files("persd") / "lab" / "student"))
    parser.add_argument("--data", type=Path)
    parser.add_argument("--rows", type=int, default=300)
    parser.add_argument("--epochs", type=float, default=1)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeat", type=int, default=2)
    return parser.parse_args()


def _examples(args: argparse.Namespace) -> list[Example]:
    if args.data:
        lines = map(json.loads, args.data.read_text(encoding="utf-8").splitlines())
        pairs = ((row["prompt"], row["completion"]) for row in lines)
    else:
        pairs = (row for row in corpus.rows(0, corpus.Mix()))
    return [
        Example(f"row {i}", "", "", 0, prompt, completion, "task")
        for i, (prompt, completion) in enumerate(islice(pairs, args.rows))
    ]


def _plain(
    model: Any, tokenizer: Any, rows: Sequence[TokenRow], folder: Path, settings: TrainTable
) -> Any:
    from datasets import Dataset
    from transformers import PrinterCallback
    from trl import SFTConfig, SFTTrainer

    trainer = SFTTrainer(
        model=model,
        args=SFTConfig(
            output_dir=str(folder),
            num_train_epochs=settings.epochs,
            per_device_train_batch_size=settings.batch_size,
            learning_rate=settings.lr,
            lr_scheduler_type="cosine",
            bf16=False,
            gradient_checkpointing=False,
            max_length=None,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=not _on_gpu(),
        ),
        train_dataset=Dataset.from_dict(
            {"input_ids": [r.input_ids for r in rows], "labels": [r.labels for r in rows]}
        ),
        processing_class=tokenizer,
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def _on_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def _speed(
    build: Builder, model: Any, tokenizer: Any, rows: Sequence[TokenRow], settings: TrainTable
) -> dict[str, float]:
    """Building the trainer counts: preparing the rows is part of what it costs."""
    with TemporaryDirectory() as folder, quiet():
        started, cpu = time.perf_counter(), time.process_time()
        trainer = build(model, tokenizer, rows, Path(folder), settings)
        trainer.train()
        seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    losses = [e["loss"] for e in trainer.state.log_history if "loss" in e]
    tokens = sum(map(len, rows)) * settings.epochs
    return {
        "tokens_per_second": round(tokens / seconds),
        "tokens_per_cpu_second": round(tokens / cpu),
        "seconds": round(seconds, 2),
        "cpu_seconds": round(cpu, 2),
        "last_loss": round(losses[-1], 4),
    }


if __name__ == "__main__":
    main()
