"""The rows of a pass end to end, without padding: where it pays, and where rows stay apart.

What tells rows apart is that their positions start anew; flash attention is given their
borders, and most families of transformers make a mask of blocks. Some know nothing of it and
would read one row as the continuation of another, so a model is tried before it is trained so.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from persd.config import TrainTable
from persd.errors import UserError
from persd.train.rows import TokenRow

#: Tokens of a row with which a model is tried.
_PROBE = 24


def packs(trainer: Any, rows: Sequence[TokenRow], settings: TrainTable) -> bool:
    """Whether the trainer is to put rows end to end.

    Raises UserError where that was asked for and the model would not keep rows apart.
    """
    if settings.packing == "off":
        return False
    kernel = str(getattr(trainer.model.config, "_attn_implementation", None) or "eager")
    flash = kernel.startswith("flash_attention")
    if settings.packing == "auto" and not flash:
        return False
    sharded = trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled
    if flash if sharded else keeps_rows_apart(trainer, rows):  # a shard cannot be tried
        return True
    if settings.packing == "auto":
        return False
    raise UserError(
        f"train.packing = 'on': with attention {kernel!r}, {trainer.model.config.model_type}"
        f" {'is not known to keep' if sharded else 'does not keep'} the rows of a pass apart",
        hint="Use train.packing = 'off', or flash attention where it is installed.",
    )


def keeps_rows_apart(trainer: Any, rows: Sequence[TokenRow]) -> bool:
    """Whether a row's logits behind another row are those it has alone, and stay the same when
    the other one is changed."""
    device, half = trainer.args.device, bool(trainer.args.bf16)
    model, collate = trainer.model, type(trainer.data_collator)(pad_token_id=0, padding_free=True)
    first, row = (r.input_ids[-_PROBE:] for r in (rows[0], rows[-1]))
    vocabulary = int(model.config.get_text_config().vocab_size)
    was_training = model.training
    model.eval()

    def logits(*packed: list[int]) -> torch.Tensor:
        inputs = collate([{"input_ids": ids, "labels": ids} for ids in packed])
        del inputs["labels"]
        moved = {k: v.to(device) if torch.is_tensor(v) else v for k, v in inputs.items()}
        given: torch.Tensor = model(**moved, use_cache=False).logits[0, -len(row) :]
        return given.float()

    try:
        with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=half):
            behind, alone = logits(first, row), logits(row)
            changed = logits([(i + 1) % vocabulary for i in first], row)
    except (TypeError, ValueError):  # a forward that takes no positions
        return False
    finally:
        model.train(was_training)
    size = behind.abs().max()
    coarse = half or model.dtype != torch.float32
    same, like = (1e-2, 5e-2) if coarse else (1e-5, 1e-3)
    leaked, moved = (behind - changed).abs().max(), (behind - alone).abs().max()
    return bool(leaked <= same * size and moved <= like * size)
