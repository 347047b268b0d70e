"""Fine-tune the original student on a variant: TRL's SFTTrainer over rows tokenised here.

Loss on the completion and the end token alone; prompts are token for token those of inference;
a row that does not fit is refused or left out and counted, never cut (PERsD section 3.2, and
what its released scripts cut silently). The checkpoint appears whole or not at all.
"""

from __future__ import annotations

import json
import math
import platform
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from persd.errors import UserError, WorkFailed
from persd.models.checkpoint import (
    Source,
    context_length,
    find,
    load_model,
    load_tokenizer,
    need_extra,
    quiet,
    stored_dtype,
    use_threads,
)
from persd.records import Example, Message, content_id
from persd.tokens import Api, LossyText, check_prompt, completion_ids, prompt_ids

Policy = Literal["refuse", "skip"]
Progress = Callable[[int, int, float], None]
#: Label of a token without loss, as torch's cross entropy has it.
IGNORED = -100


@dataclass(frozen=True)
class TrainSettings:
    """All that decides a fine-tune beside base and examples."""

    epochs: float = 3
    max_steps: int | None = None
    """Optimizer steps in place of ``epochs``."""
    lr: float = 2e-5
    """Peak learning rate of AdamW."""
    batch_size: int = 16
    """Rows per optimizer step, over all processes."""
    micro_batch: int | None = None
    """Rows per forward pass; None: the whole batch on a GPU, 4 on a CPU. It must divide
    ``batch_size``; it changes time and memory, not the gradients."""
    max_length: int | None = None
    """Tokens of prompt, completion and end token; None: the model's context."""
    over_long: Policy = "refuse"
    """A longer row stops the training, or is left out and counted."""
    lossy: Policy = "refuse"
    """The same for a row that the tokenizer does not give back as it was."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    warmup_ratio: float = 0.05
    """Fraction of the steps in which the rate rises from 0."""
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    seed: int = 0
    """Order of the rows, and dropout where the model has any."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """``auto``: float32 weights, computed in bfloat16 on a GPU that has it; ``bfloat16``:
    weights as well, in half the memory."""
    gradient_checkpointing: bool = False
    """Less memory for about a third more time."""


@dataclass(frozen=True, slots=True)
class TokenRow:
    """One example as the model is trained on it."""

    example_id: str
    prompt: list[int]
    completion: list[int]
    """With the end token."""

    @property
    def input_ids(self) -> list[int]:
        return self.prompt + self.completion

    @property
    def labels(self) -> list[int]:
        """``IGNORED`` on the prompt: the loss is on the completion and the end token."""
        return [IGNORED] * len(self.prompt) + self.completion

    def __len__(self) -> int:
        return len(self.prompt) + len(self.completion)


@dataclass(frozen=True, slots=True)
class LeftOut:
    """An example that was not trained on, and why."""

    example_id: str
    reason: Literal["over_long", "lossy"]
    detail: str


def train(
    base: str,
    examples: Sequence[Example],
    out: Path,
    settings: TrainSettings,
    *,
    api: Api = "completions",
    revision: str | None = None,
    trust_remote_code: bool = False,
    on_progress: Progress | None = None,
) -> dict[str, float]:
    """Fine-tune the checkpoint ``base`` on the examples and write it to the folder ``out``.

    ``on_progress(step, steps, loss)`` is called after every optimizer step. Returns steps,
    epochs, first_loss and last_loss (means over the first and last tenth of the steps, in nats
    per label token), seconds, tokens (read, without padding), examples, and how many were left
    out as over_long and lossy. A training that is stopped leaves nothing at ``out``.

    Raises UserError for a missing base, no examples, a row that does not fit, memory that does
    not suffice; WorkFailed where the loss is no number.
    """
    started = time.perf_counter()
    need_extra("training", "trl", "datasets")
    settings_fit(settings)
    source = find(base, revision=revision, trust_remote_code=trust_remote_code)
    tokenizer = load_tokenizer(source)
    model, context = _open(source, settings)
    rows, left_out = encode(tokenizer, examples, settings, api=api, context=context)
    with _whole_or_nothing(Path(out)) as folder, quiet():
        losses, tokens = _fit(model, tokenizer, rows, folder, settings, on_progress)
        metrics = {
            **_loss_metrics(losses),
            **_row_metrics(rows, left_out),
            "epochs": float(settings.epochs),
            "tokens": float(tokens),
            "seconds": time.perf_counter() - started,
        }
        _save(model.to(stored_dtype(source)), tokenizer, folder)
        _check_saved_tokens(folder, examples, rows, api)
        facts = _manifest(source, examples, left_out, settings, api)
        _write_json(folder / "manifest.json", {**facts, "metrics": metrics})
    return metrics


def data_hash(
    base: str,
    examples: Sequence[Example],
    settings: TrainSettings,
    *,
    api: Api = "completions",
    revision: str | None = None,
) -> str:
    """Content hash of base weights, examples (in order) and settings: the same, the same
    checkpoint. Raises UserError where the base is missing."""
    return _data_hash(find(base, revision=revision), examples, settings, api)


def settings_fit(settings: TrainSettings) -> None:
    """Raises UserError for settings that contradict each other."""
    micro = settings.micro_batch or settings.batch_size
    if settings.batch_size % micro:
        raise UserError(
            f"train.micro_batch = {micro} does not divide train.batch_size = {settings.batch_size}",
            hint="Choose a divisor: the rest is accumulated.",
        )


def encode(
    tokenizer: Any,
    examples: Sequence[Example],
    settings: TrainSettings,
    *,
    api: Api,
    context: int | None = None,
) -> tuple[list[TokenRow], list[LeftOut]]:
    """The examples as token rows, in order, and those left out.

    ``context``: positions of the model. Raises UserError naming the first example that is too
    long or not given back by the tokenizer (where the settings do not say to leave it out),
    and where nothing remains.
    """
    limit = min(settings.max_length or math.inf, context or math.inf)
    rows, left_out = [], []
    for example in examples:
        try:
            row = encode_one(tokenizer, example.prompt, example.completion, api, example.example_id)
        except LossyText as e:
            left_out.append(LeftOut(example.example_id, "lossy", str(e)))
            continue
        if len(row) > limit:
            detail = f"{len(row)} tokens, the limit is {limit}"
            left_out.append(LeftOut(example.example_id, "over_long", detail))
        else:
            rows.append(row)
    _refuse(left_out, settings, by_context=limit == context)
    if not rows:
        raise UserError(
            f"no examples to train on ({len(left_out)} left out)",
            hint="Look at the run's funnel: persd report RUN.",
        )
    return rows, left_out


def encode_one(
    tokenizer: Any, prompt: str, completion: str, api: Api, example_id: str = ""
) -> TokenRow:
    """One pair as token rows have it. Raises LossyText where the tokenizer does not give it
    back as it was."""
    messages = (Message("user", prompt),)
    ids = prompt_ids(tokenizer, messages, api)
    check_prompt(tokenizer, messages, api, ids)
    return TokenRow(example_id, ids, completion_ids(tokenizer, ids, completion))


def _refuse(left_out: Sequence[LeftOut], settings: TrainSettings, *, by_context: bool) -> None:
    policies = {"over_long": settings.over_long, "lossy": settings.lossy}
    refused = [r for r in left_out if policies[r.reason] == "refuse"]
    if not refused:
        return
    first = refused[0]
    others = sum(r.reason == first.reason for r in refused) - 1
    more = f" (and {others} more)" if others else ""
    skip = f'leave such rows out with train.{first.reason} = "skip"'
    raise_it = first.reason == "over_long" and not by_context
    raise UserError(
        f"example {first.example_id}: {first.detail}{more}",
        hint=f"Raise train.max_length, or {skip}." if raise_it else f"{skip[0].upper()}{skip[1:]}.",
    )


def _open(source: Source, settings: TrainSettings) -> tuple[Any, int | None]:
    """The model to be trained, and the positions it has."""
    import torch

    dtype = torch.bfloat16 if settings.dtype == "bfloat16" else torch.float32
    model = load_model(source, dtype)
    model.train()
    use_threads(model)
    return model, context_length(model.config)


def _fit(
    model: Any,
    tokenizer: Any,
    rows: Sequence[TokenRow],
    folder: Path,
    settings: TrainSettings,
    on_progress: Progress | None,
) -> tuple[list[float], int]:
    """Train the model in place; the loss of every step and the tokens read."""
    import torch

    with quiet():  # importing TRL talks, too
        from persd.sft import make_trainer

    trainer = make_trainer(model, tokenizer, rows, folder, settings, on_progress)
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
    return losses, trainer.tokens_read


def _loss_metrics(losses: Sequence[float]) -> dict[str, float]:
    tenth = max(1, len(losses) // 10)
    first, last = losses[:tenth], losses[-tenth:]
    return {
        "steps": float(len(losses)),
        "first_loss": sum(first) / tenth,
        "last_loss": sum(last) / tenth,
    }


def _row_metrics(rows: Sequence[TokenRow], left_out: Sequence[LeftOut]) -> dict[str, float]:
    reasons = [r.reason for r in left_out]
    return {
        "examples": float(len(rows)),
        "over_long": float(reasons.count("over_long")),
        "lossy": float(reasons.count("lossy")),
    }


def _save(model: Any, tokenizer: Any, folder: Path) -> None:
    # What the trainer may have written is not part of a checkpoint.
    shutil.rmtree(folder)
    folder.mkdir(parents=True)
    model.save_pretrained(str(folder))
    tokenizer.save_pretrained(str(folder))


def _check_saved_tokens(
    folder: Path, examples: Sequence[Example], rows: Sequence[TokenRow], api: Api
) -> None:
    """Raises WorkFailed where the saved tokenizer makes other tokens of the trained prompts."""
    tokenizer = load_tokenizer(find(str(folder)))
    prompts = {e.example_id: e.prompt for e in examples}
    for row in rows[:64]:
        messages = (Message("user", prompts[row.example_id]),)
        if prompt_ids(tokenizer, messages, api) != row.prompt:
            raise WorkFailed(
                f"the saved tokenizer makes other tokens of example {row.example_id}'s prompt"
                " than it was trained on"
            )


def _data_hash(source: Source, examples: Sequence[Example], settings: Any, api: Api) -> str:
    texts = [[e.prompt, e.completion] for e in examples]
    # what an older version did not know, and is not used, does not make it another checkpoint
    settled = {k: v for k, v in asdict(settings).items() if (k, v) != ("max_steps", None)}
    return content_id(source.identity, texts, settled, api)


def _manifest(
    source: Source,
    examples: Sequence[Example],
    left_out: Sequence[LeftOut],
    settings: TrainSettings,
    api: Api,
) -> dict[str, Any]:
    """What makes this checkpoint: where it came from and with what."""
    return {
        "base": source.identity,
        "data_hash": _data_hash(source, examples, settings, api),
        "examples": len(examples),
        "left_out": [asdict(r) for r in left_out],
        "variants": sorted({e.variant for e in examples}),
        "api": api,
        "settings": asdict(settings),
        "seed": settings.seed,
        "versions": versions(),
    }


def versions() -> dict[str, str]:
    """Versions of the packages a checkpoint's weights depend on."""
    names = ("persd", "torch", "transformers", "trl", "accelerate", "datasets", "tokenizers")
    found = {"python": platform.python_version()}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")


@contextmanager
def _whole_or_nothing(out: Path) -> Iterator[Path]:
    """A folder beside ``out`` that takes its place once it is complete."""
    if out.exists() and not (out / "manifest.json").is_file() and not _is_empty(out):
        raise UserError(
            "the folder is in use and holds no checkpoint of ours",
            where=str(out),
            hint="Give another --out.",
        )
    part = out.with_name(f".{out.name}.part")
    try:
        shutil.rmtree(part, ignore_errors=True)  # left by a training that was killed
        part.mkdir(parents=True)
    except OSError as e:
        raise UserError(f"cannot write there: {e.strerror}", where=str(out)) from e
    try:
        yield part
        shutil.rmtree(out, ignore_errors=True)
        part.rename(out)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _is_empty(path: Path) -> bool:
    return path.is_dir() and not any(path.iterdir())
