"""Sampling: tokens a second of ``LocalModel`` against ``generate``, in one run.

    python bench/sample.py [--model FOLDER] [--tasks 64] [--samples 1] [--batch 64] [--threads 1]

The same prompts (held-out tasks of the lab family), settings and batches for both; tokens are
those of the replies, without padding and end tokens. The greedy replies are compared as well.
Prints one JSON object; the two take turns, and the faster of ``--repeat``
turns counts. On a CPU that is shared, look at the ratio of CPU seconds.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.resources import files
from typing import Any

from persd.domains.code import task_prompt
from persd.models.local import LocalModel
from persd.records import Message, Request
from persd.tasks import lab

Sampler = Callable[[Sequence[Request]], list[str]]


def main() -> None:
    args = _arguments()
    local = LocalModel(args.model, batch=args.batch, device=args.device, threads=args.threads)
    print(json.dumps(compare(local, _requests(args), batch=args.batch, repeat=args.repeat)))


def compare(
    local: LocalModel,
    requests: Sequence[Request],
    *,
    batch: int,
    repeat: int,
    others: Sequence[LocalModel] = (),
) -> dict[str, Any]:
    """Both speeds, ours over that of ``generate``, and how many greedy replies are the same.

    ``others``: the same student with another engine, given as many requests as it likes.
    """
    theirs = _generate(local)
    ours = _texts_of(local)
    greedy = [replace(r, temperature=0.0) for r in requests[:batch]]
    same = sum(a == b for a, b in zip(ours(greedy), theirs(greedy), strict=True))
    samplers = [("local", ours, batch), ("generate", theirs, batch)]
    for other in others:
        samplers.append((other.engine, _texts_of(other), other.batch))
    best: dict[str, dict[str, float]] = {}
    for _ in range(repeat):
        for name, sampler, together in samplers:
            speed = _speed(local, sampler, requests, together)
            if name not in best or speed["cpu_seconds"] < best[name]["cpu_seconds"]:
                best[name] = speed
    ratios = {
        f"{kind}_ratio": round(_per(best["local"], kind) / _per(best["generate"], kind), 2)
        for kind in ("seconds", "cpu_seconds")
    }
    return {**best, **ratios, "greedy_same": f"{same}/{len(greedy)}"}


def _texts_of(local: LocalModel) -> Sampler:
    return lambda rows: [c.text for c in local.complete(rows)]


def _per(speed: dict[str, float], kind: str) -> float:
    return speed["tokens"] / speed[kind]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default=str(files("persd") / "lab" / "student"))
    parser.add_argument("--tasks", type=int, default=64)
    parser.add_argument("--samples", type=int, default=1, help="of each task, side by side")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--max-tokens", type=int, default=160)
    parser.add_argument("--temperature", type=float, default=0.3)
    parser.add_argument("--device")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeat", type=int, default=3)
    return parser.parse_args()


def _requests(args: argparse.Namespace) -> list[Request]:
    return [
        Request(
            purpose="attempt",
            messages=(Message("user", task_prompt(task)),),
            task=task,
            seed=1000 * i + sample,
            temperature=args.temperature,
            top_p=0.95,
            max_tokens=args.max_tokens,
        )
        for i, task in enumerate(lab.load(count=args.tasks, seed=0, split="heldout"))
        for sample in range(args.samples)
    ]


def _generate(local: LocalModel) -> Sampler:
    """``generate`` on the very model, tokenizer and prompts that ``local`` uses."""
    import torch

    from persd.tokens import prompt_ids, text_after

    loaded = local.load()

    def sample(rows: Sequence[Request]) -> list[str]:
        prompts = [prompt_ids(loaded.tokenizer, r.messages, "completions") for r in rows]
        width, device = max(map(len, prompts)), loaded.model.device
        ids = [[0] * (width - len(p)) + p for p in prompts]
        mask = [[0] * (width - len(p)) + [1] * len(p) for p in prompts]
        warm = rows[0].temperature > 0
        sampling = {"temperature": rows[0].temperature, "top_p": rows[0].top_p, "top_k": 0}
        out = loaded.model.generate(
            input_ids=torch.tensor(ids, device=device),
            attention_mask=torch.tensor(mask, device=device),
            max_new_tokens=rows[0].max_tokens,
            do_sample=warm,
            **(sampling if warm else {}),
        )[:, width:].tolist()
        new = [next((r[:i] for i, t in enumerate(r) if t in loaded.ends), r) for r in out]
        return [text_after(loaded.tokenizer, p, n) for p, n in zip(prompts, new, strict=True)]

    return sample


def _speed(
    local: LocalModel, sampler: Sampler, requests: Sequence[Request], batch: int
) -> dict[str, float]:
    tokenizer = local.load().tokenizer
    started, cpu = time.perf_counter(), time.process_time()
    parts = [requests[i : i + batch] for i in range(0, len(requests), batch)]
    texts = [text for rows in parts for text in sampler(rows)]
    seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    tokens = sum(len(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts)
    return {
        "tokens_per_second": round(tokens / seconds),
        "tokens_per_cpu_second": round(tokens / cpu),
        "samples_per_second": round(len(texts) / seconds, 1),
        "tokens": tokens,
        "seconds": round(seconds, 3),
        "cpu_seconds": round(cpu, 3),
    }


if __name__ == "__main__":
    main()
