"""A student of 150 M parameters through training and sampling on your GPU, in one run.

    python bench/gpu.py [--size 150M | 400M] [--release DIR | --data FILE.jsonl]
    python bench/gpu.py --device cpu --size 1M --quick      # the same code, where there is no GPU

Random weights of Qwen2's shape and a tokenizer trained on the rows: nothing is downloaded.
Training: useful tokens a second of ``persd.train`` against a plain padded SFTTrainer (see
``bench/train.py``), peak memory, and the share of the card's dense bf16 peak that the useful
tokens' arithmetic is: 6 operations a parameter and token, and those of attention (null where
the card is not in the table and ``--peak-tflops`` is not given). Sampling, with the student just
trained: tokens a second of ``LocalModel``, with either engine, against ``generate`` (see
``bench/sample.py``).
Prints one JSON object; ``device`` says whose figures they are.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from persd.models.checkpoint import find, load_model
from persd.models.local import LocalModel
from persd.records import Message, Request, Task

if TYPE_CHECKING:
    from bench import sample, train
    from bench.student import SHAPES, Pair, add_row_arguments, make_student, read_pairs
else:  # a script finds its neighbours so
    import sample
    import train
    from student import SHAPES, Pair, add_row_arguments, make_student, read_pairs

#: Dense bf16 peaks in TFLOP/s, of the card whose name holds the words; the first that fits.
PEAKS = {
    "B200": 2250.0,
    "GH200": 989.0,
    "H200": 989.0,
    "H100 PCIe": 756.0,
    "H100 NVL": 835.0,
    "H100": 989.0,
    "A100": 312.0,
    "L40S": 362.0,
    "L40": 181.0,
    "L4": 121.0,
    "A10": 125.0,
    "A6000": 155.0,
    "RTX 4090": 165.0,
    "RTX 3090": 71.0,
}


def main() -> None:
    args = _arguments()
    if args.device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # before torch looks for any
    import torch

    if args.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("no GPU is here; to try the bench: --device cpu --size 1M --quick")
    if args.device == "cpu":
        torch.set_num_threads(1)
    pairs = read_pairs(args)
    found = {"device": _device(), "size": args.size}
    with TemporaryDirectory() as scratch:
        source = find(str(make_student(Path(scratch) / "base", args.size, pairs)))
        job = train.prepare(source, pairs, train.table(args))
        found["train"] = _training(job, args)
        trained = _trained(job, Path(scratch) / "trained")
        found["sample"] = _sampling(trained, pairs, args)
    print(json.dumps(found))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    add_row_arguments(parser, rows=1000)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--size", choices=SHAPES, default="150M")
    train.add_train_arguments(parser, batch=128, micro=16)
    parser.add_argument("--prompts", type=int, default=256, help="sampled from")
    parser.add_argument("--together", type=int, default=128, help="rows sampled together")
    parser.add_argument("--max-tokens", type=int, default=256)
    parser.add_argument("--peak-tflops", type=float, help="of the card, dense bf16")
    parser.add_argument("--quick", action="store_true", help="a few rows: does it run at all?")
    args = parser.parse_args()
    if args.quick:
        args.rows, args.batch, args.micro, args.repeat, args.curve = 8, 4, 2, 1, 2
        args.prompts, args.together, args.max_tokens = 4, 4, 8
    return args


def _device() -> str:
    import torch

    if train.on_gpu():
        return str(torch.cuda.get_device_name())
    return "a CPU: its figures say nothing of a GPU"


def _training(job: train.Job, args: argparse.Namespace) -> dict[str, Any]:
    found = train.compare(job, args.repeat)
    found |= train.curves(job, args.curve)
    found["peak_memory_gb"] = _peak_memory(job)
    flops = flops_of(job, load_model(job.source, "auto"))
    achieved = flops / found["persd"]["seconds"] / 1e12
    peak = args.peak_tflops or peak_of(_device())
    return {
        **found,
        "tflops": round(achieved, 3),
        "peak_tflops": peak,
        "share_of_peak": round(achieved / peak, 3) if peak else None,
    }


def peak_of(device: str) -> float | None:
    """TFLOP/s of a card by its name; None: not in the table."""
    return next((peak for words, peak in PEAKS.items() if words in device), None)


def flops_of(job: train.Job, model: Any) -> float:
    """Operations of forward and backward over the useful tokens, those of causal attention too.

    The embeddings count once: looked up they cost nothing, but the head has the same weights.
    """
    weights = sum(p.numel() for p in model.parameters())
    lengths = [len(row) for row in job.rows]
    layers, width = model.config.num_hidden_layers, model.config.hidden_size
    attention = 6 * layers * width * sum(n * n for n in lengths)
    return float((6 * weights * sum(lengths) + attention) * job.settings.epochs)


def _peak_memory(job: train.Job) -> dict[str, float] | None:
    """Gigabytes held at most in a training of two steps, of ours and of the plain trainer."""
    import torch

    if not train.on_gpu():
        return None
    few = train.Job(job.source, job.tokenizer, job.rows, job.settings.but(max_steps=2))
    peaks = {}
    for name, build in (("persd", train.ours), ("plain", train.plain)):
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        train.losses(build, few)
        peaks[name] = round(torch.cuda.max_memory_allocated() / 1e9, 2)
    return peaks


def _trained(job: train.Job, folder: Path) -> Path:
    """The student after the training: random weights would ramble, and never choose a token."""
    import torch

    model = load_model(job.source, torch.float32).train()
    trainer = train.ours(job, model, folder.parent / "state")
    trainer.train()
    model.cpu().save_pretrained(str(folder))
    job.tokenizer.save_pretrained(str(folder))
    return folder


def _sampling(folder: Path, pairs: Sequence[Pair], args: argparse.Namespace) -> dict[str, Any]:
    requests = [
        Request("attempt", (Message("user", prompt),), Task(str(i), "", "", ""), seed=i,
                temperature=0.3, top_p=0.95, max_tokens=args.max_tokens)
        for i, (prompt, _) in enumerate(pairs[: args.prompts])
    ]  # fmt: skip
    local, continuous = (
        LocalModel(str(folder), batch=args.together, device=args.device, engine=engine)
        for engine in ("own", "continuous")
    )
    return sample.compare(
        local, requests, batch=args.together, repeat=args.repeat, others=[continuous]
    )


if __name__ == "__main__":
    main()
