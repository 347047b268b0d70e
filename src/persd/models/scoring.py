"""How likely the student itself finds a label: the loss training would start from, row by row.

A label the student might have written costs few nats, one in a foreign hand many. Rows are
tokenised as training tokenises them, so the nats are those of its loss: on the completion and
the end token, given the prompt. Nothing is cut to fit.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal

from persd.errors import UserError
from persd.models.sampling import split
from persd.tokens import Api, LossyText
from persd.train.rows import IGNORED, TokenRow, encode_one

if TYPE_CHECKING:
    from torch import Tensor

    from persd.models.local import Loaded, LocalModel

#: Pairs sorted by length together; the scores of that many wait to be given in order.
_WINDOW = 512
#: Logits held at once, in numbers: half a gigabyte in float32.
_LOGITS = 2**27


@dataclass(frozen=True, slots=True)
class LabelScore:
    """What one label costs the student."""

    tokens: int
    """Of the completion, with the end token; 0 where it was not scored."""
    nats: float | None
    """Sum of -log p over those tokens, in natural logarithms; None: it was not scored."""
    reason: Literal["", "over_long", "lossy"] = ""
    """Why not, in training's words: longer than the context, or not read back by the tokenizer."""
    detail: str = ""


def label_scores(
    model: LocalModel, pairs: Iterable[tuple[str, str]], *, batch_tokens: int = 4096
) -> Iterator[LabelScore]:
    """One score a pair of prompt and completion, in their order, as the pairs stream in.

    ``batch_tokens``: positions read together, padding included; it changes time and memory,
    and the scores by rounding only. Logits are held where a label is, half a gigabyte at most
    in float32, whatever the vocabulary. Raises UserError where the model cannot be loaded, or
    one row does not fit the GPU's memory.
    """
    loaded, api = model.load(), model.api
    source = iter(pairs)
    while window := list(islice(source, _WINDOW)):
        yield from _scored(loaded, [_encoded(loaded, api, *pair) for pair in window], batch_tokens)


def _encoded(loaded: Loaded, api: Api, prompt: str, completion: str) -> TokenRow | LabelScore:
    """The pair as training has it, or why it cannot be scored."""
    try:
        row = encode_one(loaded.tokenizer, prompt, completion, api)
    except LossyText as e:
        return LabelScore(0, None, "lossy", str(e))
    if loaded.context is not None and len(row) > loaded.context:
        detail = f"{len(row)} tokens, the model has {loaded.context}"
        return LabelScore(0, None, "over_long", detail)
    return row


def _scored(
    loaded: Loaded, window: Sequence[TokenRow | LabelScore], batch_tokens: int
) -> list[LabelScore]:
    """The window's scores, in order; read in batches of like length."""
    import torch

    scores = [s if isinstance(s, LabelScore) else None for s in window]
    rows = [(i, row) for i, row in enumerate(window) if isinstance(row, TokenRow)]
    rows.sort(key=lambda pair: len(pair[1]))
    for batch in _batches(loaded.model, rows, batch_tokens):
        with torch.inference_mode():
            nats = _in_parts(loaded.model, [row for _, row in batch])
        for (i, row), each in zip(batch, nats, strict=True):
            scores[i] = LabelScore(len(row.completion), each)
    return [score for score in scores if score is not None]


def _batches(
    model: Any, rows: Sequence[tuple[int, TokenRow]], batch_tokens: int
) -> Iterator[list[tuple[int, TokenRow]]]:
    """The rows, which come sorted by length, in batches whose ids and logits are bounded."""
    kept = _positions_kept(model)

    def fit(some: Sequence[tuple[int, TokenRow]]) -> bool:
        width = len(some[-1][1])
        span = width - min(len(row.prompt) for _, row in some)
        return len(some) * width <= batch_tokens and len(some) * (span + 1) <= kept

    return split(rows, fit)


def _positions_kept(model: Any) -> int:
    """Positions whose logits may be held at once; 1 at least."""
    return max(1, _LOGITS // int(model.config.get_text_config().vocab_size))


def _in_parts(model: Any, rows: Sequence[TokenRow]) -> list[float]:
    """The nats of the rows, read together or in halves where a GPU does not hold them."""
    import torch

    try:
        return _nats(model, rows)
    except torch.OutOfMemoryError:
        if len(rows) == 1:
            raise UserError(
                f"a label and its prompt of {len(rows[0])} tokens do not fit the GPU's memory",
                hint="Use a smaller student, or one in bfloat16.",
            ) from None
    torch.cuda.empty_cache()
    half = len(rows) // 2
    return _in_parts(model, rows[:half]) + _in_parts(model, rows[half:])


def _nats(model: Any, rows: Sequence[TokenRow]) -> list[float]:
    """Sum of -log p over each row's label, from right-padded rows.

    A label so long that its own logits are too many is read again for each part of it.
    """
    from torch.nn.functional import cross_entropy

    ids, labels = (
        _padded([r.input_ids for r in rows], 0),
        _padded([r.labels for r in rows], IGNORED),
    )
    mask = _padded([[1] * len(r) for r in rows], 0)
    first = min(len(row.prompt) for row in rows) - 1
    step = max(1, _positions_kept(model) // len(rows))
    nats = [0.0] * len(rows)
    for start in range(first, ids.shape[1] - 1, step):
        stop = min(start + step, ids.shape[1] - 1)
        logits = _logits(model, ids, mask, start, stop)
        wanted = labels[:, start + 1 : stop + 1].to(logits.device)
        for i in range(len(rows)):  # a row at a time: a batch in float32 would be a second one
            at = wanted[i] != IGNORED
            each = cross_entropy(logits[i][at].float(), wanted[i][at], reduction="none")
            nats[i] += float(each.double().sum())
    return nats


def _logits(model: Any, ids: Tensor, mask: Tensor, start: int, stop: int) -> Tensor:
    """Logits [rows, stop - start, vocabulary] behind the positions from start to stop."""
    import torch

    takes = inspect.signature(type(model).forward).parameters
    inputs = {"input_ids": ids.to(model.device), "attention_mask": mask.to(model.device)}
    if "logits_to_keep" not in takes:
        whole: Tensor = model(**inputs, use_cache=False).logits
        return whole[:, start:stop]
    wanted = torch.arange(start, stop, device=model.device)
    logits: Tensor = model(**inputs, use_cache=False, logits_to_keep=wanted).logits
    return logits


def _padded(rows: Sequence[Sequence[int]], filler: int) -> Tensor:
    """The rows as one tensor [rows, longest], padded on the right."""
    import torch

    width = max(map(len, rows))
    return torch.tensor([[*row, *[filler] * (width - len(row))] for row in rows])
