"""Make the embedded student: ``python -m persd.lab.pretrain --out DIR``.

A Llama-type model of 0.9 M parameters and a byte-level BPE tokenizer, both trained from
scratch on the lab family's pre-training split. The loss is on completion and end token
alone, as in fine-tuning. ``manifest.json`` beside the weights records the seed, every
setting, the data sizes, the versions and the losses. The same seed, versions and number
of threads on the same machine give the same weights.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import random
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from persd.lab import family
from persd.lab.corpus import Mix, rows
from persd.records import content_id

if TYPE_CHECKING:
    import torch
    from tokenizers import Tokenizer

END, PAD = "<|end|>", "<|pad|>"
_END_ID, _PAD_ID = 0, 1
#: Newlines, digits and runs of spaces stand alone, so a prompt that ends with a newline and
#: its completion give the same tokens apart and together.
PIECES = r"\n| {2,}|\d| ?[A-Za-z_]+| ?[^\sA-Za-z_\d]+|\s"
_IGNORED = -100
_Ids = list[int]


@dataclass(frozen=True, slots=True)
class Settings:
    """All that decides the weights. Tokens count padding."""

    seed: int = 0
    steps: int = 2600
    batch_tokens: int = 1700
    learning_rate: float = 4e-3
    warmup: int = 100
    weight_decay: float = 0.01
    vocabulary: int = 1024
    hidden: int = 128
    layers: int = 4
    heads: int = 4
    feed_forward: int = 320
    positions: int = 2048
    threads: int = 1
    mix: Mix = field(default_factory=Mix)


def make(out: Path, settings: Settings) -> dict[str, Any]:
    """Train tokenizer and model, save both under ``out`` and return the manifest."""
    import torch

    started = time.monotonic()
    with _reproducible(settings):
        torch.manual_seed(settings.seed)
        tokenizer = train_tokenizer(settings)
        model = new_model(settings)
        run = train(model, tokenizer, settings)
    model.eval()
    out.mkdir(parents=True, exist_ok=True)
    save(out, model, tokenizer)
    manifest = {
        "command": "python -m persd.lab.pretrain --out DIR "
        f"--seed {settings.seed} --steps {settings.steps} --threads {settings.threads}",
        "settings": asdict(settings),
        "parameters": sum(p.numel() for p in model.parameters()),
        "data": run,
        "loss_validation": validation_loss(model, tokenizer, settings),
        "corpus": fingerprint(settings),
        "sha256": {name: _sha256(out / name) for name in ("model.safetensors", "tokenizer.json")},
        "seconds": round(time.monotonic() - started, 1),
        "versions": _versions(),
    }
    (out / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n")
    return manifest


def fingerprint(settings: Settings) -> str:
    """A hash of the corpus's first rows: changes with the family, the prompts and the seed."""
    return content_id([list(row) for row in islice(rows(settings.seed, settings.mix), 500)])


def train_tokenizer(settings: Settings) -> Tokenizer:
    """A byte-level BPE trained on the family; ids 0 and 1 are end and padding."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PIECES), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=settings.vocabulary,
        special_tokens=[END, PAD],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    sample = islice(rows(settings.seed + 1, settings.mix), 8000)
    tokenizer.train_from_iterator(("".join(row) for row in sample), trainer)
    return tokenizer


def new_model(settings: Settings) -> Any:
    """An untrained Llama-type causal LM with tied embeddings."""
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=settings.vocabulary,
            hidden_size=settings.hidden,
            intermediate_size=settings.feed_forward,
            num_hidden_layers=settings.layers,
            num_attention_heads=settings.heads,
            num_key_value_heads=settings.heads,
            max_position_embeddings=settings.positions,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=_END_ID,
            pad_token_id=_PAD_ID,
        )
    )


def train(model: Any, tokenizer: Tokenizer, settings: Settings) -> dict[str, Any]:
    """Run the steps; returns the counts of rows and tokens, and the loss along the way."""
    import torch

    optimizer = torch.optim.AdamW(
        model.parameters(),
        lr=settings.learning_rate,
        betas=(0.9, 0.98),
        weight_decay=settings.weight_decay,
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda i: _rate(i, settings))
    counts = {"rows": 0, "tokens": 0, "label_tokens": 0}
    losses: dict[int, float] = {}
    recent: list[float] = []
    for step, batch in enumerate(islice(_batches(tokenizer, settings), settings.steps), start=1):
        ids, labels, mask = _tensors(batch)
        loss = model(input_ids=ids, attention_mask=mask, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        counts["rows"] += len(batch)
        counts["tokens"] += ids.numel()
        counts["label_tokens"] += int((labels != _IGNORED).sum())
        recent.append(loss.item())
        if step % 100 == 0 or step == settings.steps:
            losses[step] = round(sum(recent) / len(recent), 5)
            print(f"step {step}/{settings.steps} loss {losses[step]}", file=sys.stderr, flush=True)
            recent.clear()
    return {**counts, "loss_by_step": losses}


def validation_loss(model: Any, tokenizer: Tokenizer, settings: Settings) -> dict[str, float]:
    """Loss a token, by number of steps, on loop solutions of chains never trained on."""
    import torch

    from persd.domains.code import task_prompt
    from persd.tasks import lab

    losses: dict[str, float] = {}
    for length in (2, 3, 4):
        tasks = lab.load(count=64, seed=settings.seed, split="validation", mix={length: 1.0})
        chains = [chain for task in tasks if (chain := family.chain_of(task))]
        pairs = zip(tasks, chains, strict=True)
        batch = [_encode(tokenizer, task_prompt(t), family.body(c, "loop")) for t, c in pairs]
        ids, labels, mask = _tensors(batch)
        with torch.no_grad():
            loss = model(input_ids=ids, attention_mask=mask, labels=labels).loss.item()
        losses[str(length)] = round(loss, 4)
    return losses


def save(out: Path, model: Any, tokenizer: Tokenizer) -> None:
    """Write the checkpoint as AutoModelForCausalLM and AutoTokenizer read it."""
    from transformers import PreTrainedTokenizerFast

    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END,
        pad_token=PAD,
        model_max_length=model.config.max_position_embeddings,
        clean_up_tokenization_spaces=False,
        padding_side="left",
    )
    model.save_pretrained(out)
    fast.save_pretrained(out)
    (out / "model.safetensors").chmod(0o644)  # it comes out readable by its owner alone


@contextmanager
def _reproducible(settings: Settings) -> Iterator[None]:
    """The threads asked for and deterministic algorithms; what was set before comes back."""
    import torch

    threads, strict = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    torch.set_num_threads(settings.threads)
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(strict)


def _rate(step: int, settings: Settings) -> float:
    """Linear warm-up, then a cosine down to 2 % of the peak."""
    if step < settings.warmup:
        return (step + 1) / settings.warmup
    done = (step - settings.warmup) / max(1, settings.steps - settings.warmup)
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


def _encode(tokenizer: Tokenizer, prompt: str, completion: str) -> tuple[_Ids, _Ids]:
    head = tokenizer.encode(prompt).ids
    return head, [*tokenizer.encode(completion).ids, _END_ID]


def _batches(tokenizer: Tokenizer, settings: Settings) -> Iterator[Sequence[tuple[_Ids, _Ids]]]:
    """Batches of rows of like length, at most ``batch_tokens`` with padding, without end."""
    source = rows(settings.seed, settings.mix)
    rng = random.Random(settings.seed)
    while True:
        window = [_encode(tokenizer, *row) for row in islice(source, 1024)]
        window.sort(key=lambda row: len(row[0]) + len(row[1]))
        groups: list[list[tuple[_Ids, _Ids]]] = [[]]
        for row in window:
            size = len(row[0]) + len(row[1])  # the longest so far: rows come sorted
            if (len(groups[-1]) + 1) * size > settings.batch_tokens and groups[-1]:
                groups.append([])
            groups[-1].append(row)
        rng.shuffle(groups)
        yield from groups


def _tensors(
    batch: Sequence[tuple[_Ids, _Ids]],
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Ids, labels and mask of shape (rows, longest), padded on the right."""
    import torch

    width = max(len(head) + len(tail) for head, tail in batch)
    ids = torch.full((len(batch), width), _PAD_ID)
    labels = torch.full((len(batch), width), _IGNORED)
    mask = torch.zeros((len(batch), width), dtype=torch.long)
    for i, (head, tail) in enumerate(batch):
        end = len(head) + len(tail)
        ids[i, :end] = torch.tensor(head + tail)
        labels[i, len(head) : end] = torch.tensor(tail)
        mask[i, :end] = 1
    return ids, labels, mask


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _versions() -> dict[str, str]:
    from importlib.metadata import version

    python = ".".join(map(str, sys.version_info[:3]))
    return {"python": python} | {
        name: version(name) for name in ("torch", "transformers", "tokenizers", "safetensors")
    }


def main(arguments: Sequence[str] | None = None) -> None:
    default = Settings()
    parser = argparse.ArgumentParser(description="Make the embedded student from scratch.")
    parser.add_argument("--out", type=Path, required=True, help="folder of the checkpoint")
    for name in ("seed", "steps", "threads"):
        parser.add_argument(f"--{name}", type=int, default=getattr(default, name))
    given = parser.parse_args(arguments)
    settings = Settings(seed=given.seed, steps=given.steps, threads=given.threads)
    manifest = make(given.out, settings)
    print(json.dumps({k: manifest[k] for k in ("parameters", "loss_validation", "seconds")}))


if __name__ == "__main__":
    main()
