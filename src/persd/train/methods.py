"""How the weights are trained: which of them, in what precision, and how they are saved."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from persd.config import TrainTable
from persd.models.checkpoint import Source, load_model, stored_dtype, use_threads


def open_model(source: Source, settings: TrainTable) -> Any:
    """The model to be trained, on the CPU, in training mode."""
    import torch

    dtype = torch.bfloat16 if settings.dtype == "bfloat16" else torch.float32
    model = load_model(source, dtype)
    model.train()
    use_threads(model)
    return model


def save(model: Any, tokenizer: Any, source: Source, folder: Path) -> None:
    """Write the checkpoint in the precision its base is stored in."""
    model.to(stored_dtype(source)).save_pretrained(str(folder))
    tokenizer.save_pretrained(str(folder))
