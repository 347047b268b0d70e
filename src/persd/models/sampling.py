"""The sampling loop of the local student, over the model's own key-value cache.

Each row is drawn from its own seed by inverse CDF over its top-p set, one uniform number a
token, so that a sample depends on its prompt and seed and not on what else is in the batch
(but for rounding). Prompts that occur several times are read once; a row leaves the batch with
the token that ends it. Under greedy decoding the tokens are those of ``generate``.
"""

from __future__ import annotations

import inspect
import random
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from torch import Tensor

#: Probabilities looked at before the whole vocabulary is sorted; most top-p sets are smaller.
#: (More than 16 of a small vocabulary take a CPU four times as long.)
_HEAD = 16


#: Positions of prompts read in one pass, padding included.
_READ_BY_CPU, _READ_BY_GPU = 1024, 16384

T = TypeVar("T")


@dataclass(slots=True)
class Row:
    """One reply to draw, and what has been drawn of it."""

    prompt: Sequence[int]
    """Token ids, at least one."""
    max_tokens: int
    temperature: float
    """0: greedy."""
    top_p: float
    seed: int
    new: list[int] = field(default_factory=list)
    """Token ids drawn, without the one that ended the reply."""
    ended: bool = False
    """Whether the model ended the reply itself; else ``max_tokens`` cut it."""


def sample(model: Any, rows: Sequence[Row], ends: Collection[int]) -> None:
    """Fill ``new`` and ``ended`` of every row: left-padded batch, one token a step.

    ``model`` is a causal language model of transformers in eval mode; ``ends`` are the ids that
    end a reply. Call it under ``torch.inference_mode``.
    """
    live = [row for row in rows if row.max_tokens > 0]
    if not live:
        return
    batch = _Batch(model, live)
    randoms = [random.Random(row.seed) for row in live]
    while True:
        drawn = batch.draw([r.random() for r in randoms])
        keep = [i for i, token in enumerate(drawn) if not _finish(live[i], token, ends)]
        if not keep:
            return
        if len(keep) < len(live):
            keep = _fill_holes(keep, len(live))
            live, randoms = [live[i] for i in keep], [randoms[i] for i in keep]
            batch.keep(keep)
        batch.step([drawn[i] for i in keep])


def batches(rows: Sequence[Row], most: int, positions: int | None) -> Iterator[list[Row]]:
    """The rows in batches of like length, samples of one prompt side by side.

    A batch has ``most`` rows, and as many ``positions`` (prompt and reply of every row, padding
    included; None: no bound), or is one row.
    """

    def fit(some: Sequence[Row]) -> bool:
        width = max(len(row.prompt) for row in some) + max(row.max_tokens for row in some)
        return len(some) <= most and (positions is None or len(some) * width <= positions)

    return split(sorted(rows, key=lambda row: (len(row.prompt), tuple(row.prompt))), fit)


def split(items: Iterable[T], fits: Callable[[Sequence[T]], bool]) -> Iterator[list[T]]:
    """The items in order, in parts as large as fit; one item alone always goes."""
    part: list[T] = []
    for item in items:
        if part and not fits([*part, item]):
            yield part
            part = []
        part.append(item)
    if part:
        yield part


def _finish(row: Row, token: int, ends: Collection[int]) -> bool:
    """Take one token into a row; whether the row is done with it."""
    if token in ends:
        row.ended = True
        return True
    row.new.append(token)
    return len(row.new) >= row.max_tokens


def _fill_holes(keep: Sequence[int], rows: int) -> list[int]:
    """An order of the kept rows that moves as few as possible: the last ones fill the holes."""
    kept, tail = set(keep), [i for i in keep if i >= len(keep)]
    return [i if i in kept else tail.pop() for i in range(min(len(keep), rows))]


class _Batch:
    """The tensors of the rows in flight: cache, padding mask, positions, last logits."""

    def __init__(self, model: Any, rows: Sequence[Row]) -> None:
        import torch

        self.model, self.device = model, model.device
        self.takes = inspect.signature(type(model).forward).parameters
        unique = list(dict.fromkeys(tuple(row.prompt) for row in rows))
        width, room = max(map(len, unique)), max(row.max_tokens for row in rows)
        mask = _left_padded(unique, width)[1]
        logits = self._read(unique, width + room)
        place = {prompt: i for i, prompt in enumerate(unique)}
        order = [place[tuple(row.prompt)] for row in rows]
        if order != list(range(len(unique))):
            self.cache.reorder_cache(torch.tensor(order, device=self.device))
            logits, mask = logits[order], mask[order]
        self.logits, self.width = logits, width
        self.mask = torch.ones(len(rows), width + room, dtype=torch.long, device=self.device)
        self.mask[:, :width] = mask
        self.positions = mask.sum(1, keepdim=True)
        self.temperature = torch.tensor([row.temperature for row in rows], device=self.device)
        self.top_p = torch.tensor([row.top_p for row in rows], device=self.device)

    def _read(self, prompts: Sequence[Sequence[int]], room: int) -> Tensor:
        """Fill the cache with the prompts; the logits behind each, [prompts, vocabulary].

        In parts, where caches can be joined: a short prompt is then not padded to the longest,
        and what a pass takes of memory does not grow with the batch.
        """
        import torch

        from persd.models.kvcache import can_be_joined, join, new_cache

        self.cache = new_cache(self.model, room)
        if not can_be_joined(self.cache):
            return self._read_part(prompts)
        at_once = _READ_BY_CPU if self.device.type == "cpu" else _READ_BY_GPU
        caches, logits = [], []
        for part in split(prompts, lambda some: len(some) * max(map(len, some)) <= at_once):
            self.cache = new_cache(self.model, 0)
            logits.append(self._read_part(part))
            caches.append(self.cache)
        self.cache = join(caches, room)
        return torch.cat(logits)

    def _read_part(self, prompts: Sequence[Sequence[int]]) -> Tensor:
        ids, mask = _left_padded(prompts, max(map(len, prompts)))
        return self._forward(ids, mask, (mask.cumsum(1) - 1).clamp(min=0))

    def draw(self, uniform: Sequence[float]) -> list[int]:
        """The next token of every row, from the last logits."""
        import torch

        numbers = torch.tensor(uniform, device=self.device, dtype=torch.float32)
        chosen = choose(self.logits, self.temperature, self.top_p, numbers)
        return [int(i) for i in chosen.tolist()]

    def keep(self, rows: Sequence[int]) -> None:
        """Let go of all rows but these, in this order."""
        import torch

        order = torch.tensor(rows, device=self.device)
        self.cache.reorder_cache(order)
        self.mask, self.positions = self.mask[order], self.positions[order]
        self.temperature, self.top_p = self.temperature[order], self.top_p[order]

    def step(self, tokens: Sequence[int]) -> None:
        """Read one token a row."""
        import torch

        self.width += 1
        ids = torch.tensor(tokens, device=self.device)[:, None]
        self.logits = self._forward(ids, self.mask[:, : self.width], self.positions)
        self.positions = self.positions + 1

    def _forward(self, ids: Tensor, mask: Tensor, positions: Tensor) -> Tensor:
        inputs = {
            "input_ids": ids.to(self.device),
            "attention_mask": mask.to(self.device),
            "past_key_values": self.cache,
            "use_cache": True,
        }
        if "position_ids" in self.takes:
            inputs["position_ids"] = positions.to(self.device)
        if "logits_to_keep" in self.takes:
            inputs["logits_to_keep"] = 1
        logits: Tensor = self.model(**inputs).logits[:, -1]
        return logits


def _left_padded(prompts: Sequence[Sequence[int]], width: int) -> tuple[Tensor, Tensor]:
    """Ids and padding mask, both [prompts, width]. Which id pads is of no consequence."""
    import torch

    ids = torch.zeros(len(prompts), width, dtype=torch.long)
    mask = torch.zeros(len(prompts), width, dtype=torch.long)
    for i, prompt in enumerate(prompts):
        ids[i, width - len(prompt) :] = torch.tensor(prompt)
        mask[i, width - len(prompt) :] = 1
    return ids, mask


def choose(logits: Tensor, temperature: Tensor, top_p: Tensor, uniform: Tensor) -> Tensor:
    """One token a row [rows] from logits [rows, vocabulary].

    ``temperature`` 0 takes the likeliest; else inverse CDF at ``uniform`` in [0, 1) over the
    smallest set of likeliest tokens that holds ``top_p`` of the mass. All of shape [rows].
    """
    import torch

    greedy = temperature <= 0
    some_greedy = bool(greedy.any())
    if some_greedy and bool(greedy.all()):
        return logits.argmax(-1)
    warmth = torch.where(greedy, 1.0, temperature)[:, None]
    probs = torch.softmax(logits.float() / warmth, -1)
    head, ids = probs.topk(min(_HEAD, probs.shape[-1]), -1)
    drawn = _inverse_cdf(head, ids, top_p, uniform)
    # Decided row by row, so that a row's draw does not depend on its neighbours.
    wide = (head.sum(-1) < top_p).nonzero()[:, 0]
    if len(wide) and head.shape[-1] < probs.shape[-1]:
        tail, order = probs[wide].sort(dim=-1, descending=True, stable=True)
        drawn[wide] = _inverse_cdf(tail, order, top_p[wide], uniform[wide])
    return torch.where(greedy, logits.argmax(-1), drawn) if some_greedy else drawn


def _inverse_cdf(probs: Tensor, ids: Tensor, top_p: Tensor, uniform: Tensor) -> Tensor:
    """The id at ``uniform`` of the top-p set's mass; ``probs`` [rows, n] fall along a row."""
    mass = probs.cumsum(-1)
    inside = (mass - probs) < top_p[:, None]
    inside[:, 0] = True
    last = inside.sum(-1, keepdim=True) - 1
    target = uniform[:, None] * mass.gather(-1, last)
    at = (mass <= target).sum(-1, keepdim=True).minimum(last)
    return ids.gather(-1, at)[:, 0]


def keeps_a_cache(model: Any) -> bool:
    """Whether the model reads the library's cache; some recurrent ones have their own."""
    return "past_key_values" in inspect.signature(type(model).forward).parameters
