"""Choose the demo's learning rate on the embedded family's validation split.

    python bench/lr.py RUN [--lr 1e-4 3e-4 1e-3] [--epochs 2 3] [--tasks 100] [--samples 5]

RUN is a collected run of `lab` tasks (`persd demo` makes one). Every variant of its config is
trained at every rate and sampled on *validation* tasks, which no table of the demo shows. Printed:
pass@1 in percent by variant and rate, and the mean over variants, by which the rate is chosen, so
that it favours no variant.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Mapping
from pathlib import Path
from statistics import fmean

from persd.build import build_rounds
from persd.config import TrainTable, seeded
from persd.domains.code import parse_reply, task_prompt
from persd.ledger import Ledger
from persd.models import EMBEDDED_STUDENT
from persd.models.local import LocalModel
from persd.records import Example, Message, Request, Task, derive_seed
from persd.run import stored_config
from persd.sandbox import Limits, Sandbox
from persd.tasks import lab
from persd.train import train
from persd.verify import Job, verify


def pass_at_1(folder: str, tasks: list[Task], samples: int, box: Sandbox) -> float:
    """Share of samples at temperature 0.3 that pass."""
    model = LocalModel(folder, batch=256)
    requests = [
        Request(
            purpose="attempt",
            messages=(Message("user", task_prompt(task)),),
            task=task,
            seed=derive_seed("lr", task.task_id, sample),
            temperature=0.3,
            top_p=0.95,
            max_tokens=192,
        )
        for task in tasks
        for sample in range(samples)
    ]
    replies = [
        c.text for i in range(0, len(requests), 256) for c in model.complete(requests[i : i + 256])
    ]
    limits = Limits(cpu_seconds=0.5, memory_mb=128)
    jobs = (
        Job(str(i), r.task, parse_reply(r.task, text).code or "", limits=limits)
        for i, (r, text) in enumerate(zip(requests, replies, strict=True))
    )
    return fmean(v.passed for v in verify(box, jobs))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--lr", type=float, nargs="+", default=[1e-4, 3e-4, 1e-3])
    parser.add_argument("--epochs", type=float, nargs="+", default=[3])
    parser.add_argument("--tasks", type=int, default=100)
    parser.add_argument("--samples", type=int, default=5)
    args = parser.parse_args()
    tasks = lab.load(count=args.tasks, seed=0, split="validation")
    with Ledger(args.run, read_only=True) as ledger, Sandbox() as box:
        config = stored_config(ledger)
        settings = seeded(config.train, config.run.seed)
        data: dict[str, list[Example]] = {
            v: build_rounds(ledger, lambda: box, v, [1])[0] for v in config.run.variants
        }
        base = pass_at_1(str(EMBEDDED_STUDENT), tasks, args.samples, box)
        print(f"base {100 * base:.1f}", flush=True)
        for epochs in args.epochs:
            for lr in args.lr:
                row = _row(data, settings.but(lr=lr, epochs=epochs), tasks, args.samples, box)
                print(f"lr {lr:g} epochs {epochs:g}: {row}", flush=True)


def _row(
    data: Mapping[str, list[Example]],
    settings: TrainTable,
    tasks: list[Task],
    samples: int,
    box: Sandbox,
) -> str:
    scores = {}
    for variant, examples in data.items():
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "checkpoint"
            train(str(EMBEDDED_STUDENT), examples, out, settings)
            scores[variant] = pass_at_1(str(out), tasks, samples, box)
    shown = ", ".join(f"{v} {100 * s:.1f}" for v, s in scores.items())
    return f"{shown}; mean {100 * fmean(scores.values()):.1f}"


if __name__ == "__main__":
    main()
