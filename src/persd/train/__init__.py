"""Fine-tune the original student on a variant: TRL's SFTTrainer over rows tokenised here.

Loss on the completion and the end token alone; prompts are token for token those of inference;
a row that does not fit is refused or left out and counted, never cut (PERsD section 3.2, and
what its released scripts cut silently). The checkpoint appears whole or not at all, and a
training that was killed goes on where it was.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from persd.config import TrainTable
from persd.errors import WorkFailed
from persd.models.checkpoint import (
    Source,
    context_length,
    find,
    load_config,
    load_tokenizer,
    need_extra,
    quiet,
)
from persd.records import Example, Message, content_id
from persd.tokens import Api, prompt_ids
from persd.train.folder import Unfinished, unfinished, versions, write_json
from persd.train.rows import LeftOut, TokenRow, encode
from persd.train.watching import OnStep, Step

if TYPE_CHECKING:
    from persd.train.trainer import Fit

#: Settings that change how long a training takes and who is told of it, and not its result.
_FREE = {"report_to", "checkpoint_minutes"}
#: Settings that older versions had; of the others, those at their default enter no hash.
_FIRST = {
    "epochs",
    "lr",
    "batch_size",
    "micro_batch",
    "max_length",
    "over_long",
    "lossy",
    "schedule",
    "warmup_ratio",
    "weight_decay",
    "max_grad_norm",
    "seed",
    "dtype",
    "gradient_checkpointing",
}


def train(
    base: str,
    examples: Sequence[Example],
    out: Path,
    settings: TrainTable,
    *,
    api: Api = "completions",
    revision: str | None = None,
    trust_remote_code: bool = False,
    on_step: OnStep | None = None,
) -> dict[str, float]:
    """Fine-tune the checkpoint ``base`` on the examples and write it to the folder ``out``.

    ``on_step`` is called after every optimizer step. Returns steps, epochs, first_loss and
    last_loss (means over the first and last tenth of the steps, in nats per label token),
    seconds, tokens (read, without padding), examples, and how many were left out as over_long
    and lossy. Called again with the same arguments after it was killed, it goes on where it was.

    Raises UserError for a missing base, no examples, a row that does not fit, memory that does
    not suffice; WorkFailed where the loss is no number.
    """
    started = time.perf_counter()
    need_extra("training", "trl", "datasets")
    source = find(base, revision=revision, trust_remote_code=trust_remote_code)
    tokenizer = load_tokenizer(source)
    context = context_length(load_config(source))
    rows, left_out = encode(tokenizer, examples, settings, api=api, context=context)
    with unfinished(Path(out), data_hash_of(source, examples, settings, api)) as part, quiet():
        fit = _fit(source, tokenizer, rows, part, settings, on_step)
        _check_saved_tokens(part.new, source, examples, rows, api)
        metrics = {
            **_loss_metrics(fit.losses),
            **_row_metrics(rows, left_out),
            "epochs": float(settings.epochs),
            "tokens": float(fit.tokens),
            "seconds": time.perf_counter() - started,
        }
        facts = _manifest(source, examples, left_out, settings, api)
        write_json(part.new / "manifest.json", {**facts, "metrics": metrics})
    return metrics


def data_hash(
    base: str,
    examples: Sequence[Example],
    settings: TrainTable,
    *,
    api: Api = "completions",
    revision: str | None = None,
) -> str:
    """Content hash of base weights, examples (in order) and settings: the same, the same
    checkpoint. Raises UserError where the base is missing."""
    return data_hash_of(find(base, revision=revision), examples, settings, api)


def data_hash_of(
    source: Source, examples: Sequence[Example], settings: TrainTable, api: Api
) -> str:
    """``data_hash`` of a base that was found."""
    texts = [[e.prompt, e.completion] for e in examples]
    plain, usual = settings.model_dump(mode="json"), TrainTable().model_dump(mode="json")
    settled = {k: v for k, v in plain.items() if k not in _FREE and (k in _FIRST or v != usual[k])}
    return content_id(source.identity, texts, settled, api)


def _fit(
    source: Source,
    tokenizer: Any,
    rows: Sequence[TokenRow],
    part: Unfinished,
    settings: TrainTable,
    on_step: OnStep | None,
) -> Fit:
    """Train the base on the rows and write it to ``part.new``."""
    with quiet():  # importing TRL talks, too
        from persd.train import methods
        from persd.train.trainer import fit

    model = methods.open_model(source, settings)
    done = fit(model, tokenizer, rows, part, settings, on_step)
    methods.save(done.model, tokenizer, source, part.new)
    return done


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


def _check_saved_tokens(
    folder: Path,
    source: Source,
    examples: Sequence[Example],
    rows: Sequence[TokenRow],
    api: Api,
) -> None:
    """Raises WorkFailed where the saved tokenizer makes other tokens of the trained prompts."""
    saved = find(str(folder), trust_remote_code=source.trust_remote_code)
    tokenizer = load_tokenizer(saved)
    prompts = {e.example_id: e.prompt for e in examples}
    for row in rows[:64]:
        messages = (Message("user", prompts[row.example_id]),)
        if prompt_ids(tokenizer, messages, api) != row.prompt:
            raise WorkFailed(
                f"the saved tokenizer makes other tokens of example {row.example_id}'s prompt"
                " than it was trained on"
            )


def _manifest(
    source: Source,
    examples: Sequence[Example],
    left_out: Sequence[LeftOut],
    settings: TrainTable,
    api: Api,
) -> dict[str, Any]:
    """What makes this checkpoint: where it came from and with what."""
    return {
        "base": source.identity,
        "data_hash": data_hash_of(source, examples, settings, api),
        "examples": len(examples),
        "left_out": [asdict(r) for r in left_out],
        "variants": sorted({e.variant for e in examples}),
        "api": api,
        "settings": settings.model_dump(mode="json"),
        "seed": settings.seed,
        "versions": versions(),
    }


__all__ = ["OnStep", "Step", "data_hash", "train"]
