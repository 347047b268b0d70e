"""Benchmarks from the Hugging Face Hub, for those who gave no file."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

from persd.errors import UserError
from persd.tasks.rows import Row

log = logging.getLogger(__name__)


def hub_rows(dataset: str, config: str | None, split: str) -> Iterator[Row]:
    """The rows of one split. Raises UserError where ``datasets`` is missing or nothing comes."""
    try:
        from datasets import load_dataset
    except ImportError:
        raise UserError(
            f"reading {dataset} from the Hub needs the datasets package",
            hint="pip install 'persd[train]', or give a local copy with --data FILE",
        ) from None
    try:
        rows: Any = load_dataset(dataset, config, split=split)
    except (
        Exception
    ) as error:  # offline, renamed, a proxy, a broken cache: all the same to the user
        log.debug("load_dataset", exc_info=True)
        raise UserError(
            f"{dataset} did not come from the Hub ({type(error).__name__})",
            hint="Give a local copy with --data FILE (in a config: tasks.path)",
        ) from None
    yield from (Row(dict(row), f"hf:{dataset}/{split}:{i}") for i, row in enumerate(rows, 1))
