"""Fine-tune the original student on a variant: TRL's SFTTrainer over rows tokenised here.

Loss on the completion and the end token alone; prompts are token for token those of inference;
a row that does not fit is refused or left out and counted, never cut (PERsD section 3.2, and
what its released scripts cut silently). The checkpoint appears whole or not at all, and a
training that was killed goes on where it was.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from persd.config import TrainTable
from persd.errors import UserError, WorkFailed
from persd.models.checkpoint import (
    Source,
    find,
    load_config,
    load_tokenizer,
    need_extra,
    quiet,
)
from persd.models.families import positions
from persd.records import Example, Message, content_id
from persd.tokens import Api, prompt_ids
from persd.train import ranks
from persd.train.card import card
from persd.train.folder import Unfinished, unfinished, versions, write_json, writing
from persd.train.memory import refuse_too_big
from persd.train.order import epoch_steps, split, stage_rows
from persd.train.ready import need_bitsandbytes
from persd.train.rows import LeftOut, TokenRow, encode
from persd.train.watching import STEPS_FILE, OnStep, Recorder, Step, need_trackers

if TYPE_CHECKING:
    from persd.train.trainer import Fit

#: Settings that change how long a training takes and who is told of it, and not its result.
_FREE = {"report_to", "checkpoint_minutes", "launch"}
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
    and lossy; with ``settings.held_out`` also held_out (rows), best_held_out (nats per label
    token), best_step and stopped_early (0 or 1); with stages the rows that fit each.

    Called again with the same arguments after it was killed, it goes on where it was.

    Raises UserError for a missing base, no examples, a row that does not fit, memory that does
    not suffice; WorkFailed where the loss is no number.
    """
    started = time.perf_counter()
    need_extra("training", "trl", "datasets")
    need_trackers(settings.report_to)
    need_bitsandbytes(settings)
    source = find(base, revision=revision, trust_remote_code=trust_remote_code)
    _refuse_own_base(source, out)
    if settings.launch and ranks.size() == 1:
        from persd.train.launch import Job, launch

        alone = settings.but(launch=None)
        job = Job(base, examples, Path(out), alone, api, source.revision, trust_remote_code)
        return launch(settings.launch, job, on_step)
    tokenizer = load_tokenizer(source)
    context = positions(load_config(source))
    limits = [n for n in (context, max((s.length for s in settings.stages), default=None)) if n]
    limit = min(limits, default=None)
    rows, left_out = encode(tokenizer, examples, settings, api=api, context=limit)
    rows, held_out = split(rows, {e.example_id: e.task_id for e in examples}, settings)
    stages = stage_rows([len(row) for row in rows], settings.stages)
    _check_kept_tokens(tokenizer, source, examples, rows, api)
    refuse_too_big(source, settings, [len(row) for row in (*rows, *held_out)])
    state = data_hash_of(source, examples, without_passes(settings), api)
    key = f"{state} {ranks.form()}".strip()
    with unfinished(Path(out), key) as part, quiet():
        steps = part.folder / STEPS_FILE
        told = Recorder(steps, on_step) if ranks.is_main() else None
        fit = _fit(source, tokenizer, rows, held_out, part, settings, told)
        metrics = {
            **_loss_metrics(fit.losses),
            **_row_metrics(rows, left_out),
            **_look_metrics(fit, held_out),
            **{f"stage_{i}_rows": float(len(fits)) for i, fits in enumerate(stages, start=1)},
            "epochs": len(fit.losses) / epoch_steps(len(rows), settings),
            "tokens": float(fit.tokens),
            "seconds": time.perf_counter() - started,
        }
        if ranks.is_main():
            saved = find(str(part.new), trust_remote_code=trust_remote_code)
            _check_tokens(saved, examples, rows, api)
            facts = _manifest(source, examples, left_out, settings, api)
            facts["held_out"] = [row.example_id for row in held_out]
            facts["metrics"] = metrics
            write_json(part.new / "manifest.json", facts)
            (part.new / "README.md").write_text(card(facts, part.out.name), encoding="utf-8")
            steps.rename(part.new / STEPS_FILE)
    return metrics


def without_passes(settings: TrainTable) -> TrainTable:
    """What has to stay for a stopped training to be gone on with: all but what changes time and
    memory alone, so that one that did not fit goes on with smaller passes."""
    return settings.but(micro_batch=None, gradient_checkpointing=False)


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
    tasks = bool(settings.held_out)  # which rows are held out follows from their tasks
    texts = [[e.prompt, e.completion, *([e.task_id] if tasks else [])] for e in examples]
    plain, usual = settings.model_dump(mode="json"), TrainTable().model_dump(mode="json")
    settled = {k: v for k, v in plain.items() if k not in _FREE and (k in _FIRST or v != usual[k])}
    return content_id(source.identity, texts, settled, api)


def _refuse_own_base(source: Source, out: Path) -> None:
    """Raises UserError where ``out`` is or holds the base, which would be gone in the end."""
    below: Source | None = source
    while below is not None:
        place = Path(below.location)
        if below.revision is None and place.is_relative_to(os.path.realpath(out)):
            raise UserError(
                f"the base {below.name!r} lies there, and would be replaced",
                where=str(out),
                hint="Give another --out.",
            )
        below = below.base


def _fit(
    source: Source,
    tokenizer: Any,
    rows: Sequence[TokenRow],
    held_out: Sequence[TokenRow],
    part: Unfinished,
    settings: TrainTable,
    on_step: OnStep | None,
) -> Fit:
    """Train the base on the rows and write it to ``part.new``."""
    with quiet():  # importing TRL talks, too
        from persd.train import methods
        from persd.train.trainer import fit

    model = methods.open_model(source, settings)
    done = fit(model, tokenizer, rows, part, settings, on_step, held_out)
    if ranks.is_main():
        if done.weights is not None:
            model = methods.open_model(source, settings)
            model.load_state_dict(done.weights)
        with writing():
            methods.save(model, tokenizer, source, part.new, settings)
    return done


def _loss_metrics(losses: Sequence[float]) -> dict[str, float]:
    tenth = max(1, len(losses) // 10)
    first, last = losses[:tenth], losses[-tenth:]
    return {
        "steps": float(len(losses)),
        "first_loss": sum(first) / tenth,
        "last_loss": sum(last) / tenth,
    }


def _look_metrics(fit: Fit, held_out: Sequence[TokenRow]) -> dict[str, float]:
    """What the held-out rows decided; empty: none were held out."""
    if not held_out:
        return {}
    step, loss = min(fit.looks, key=lambda look: look[1])
    return {
        "held_out": float(len(held_out)),
        "best_held_out": loss,
        "best_step": float(step),
        "stopped_early": float(fit.stopped_early),
    }


def _row_metrics(rows: Sequence[TokenRow], left_out: Sequence[LeftOut]) -> dict[str, float]:
    reasons = [r.reason for r in left_out]
    return {
        "examples": float(len(rows)),
        "over_long": float(reasons.count("over_long")),
        "lossy": float(reasons.count("lossy")),
    }


def _check_kept_tokens(
    tokenizer: Any,
    source: Source,
    examples: Sequence[Example],
    rows: Sequence[TokenRow],
    api: Api,
) -> None:
    """Before a training is done for nothing: the tokenizer saved and read again, as
    ``_check_tokens``."""
    with tempfile.TemporaryDirectory() as folder, quiet():
        load_config(source).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        saved = Source(source.name, folder, None, source.trust_remote_code)
        _check_tokens(saved, examples, rows, api)


def _check_tokens(
    saved: Source, examples: Sequence[Example], rows: Sequence[TokenRow], api: Api
) -> None:
    """Raises WorkFailed where the saved tokenizer makes other tokens of the trained prompts."""
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
        "processes": ranks.size(),
        "versions": versions(),
    }


__all__ = ["OnStep", "Step", "data_hash", "train", "without_passes"]
