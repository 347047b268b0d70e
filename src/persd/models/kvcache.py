"""A key-value cache that neither copies what it has at every token nor keeps finished rows.

Imports torch and transformers, so it is imported only by the loop that samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer


def new_cache(model: Any, room: int) -> Any:
    """An empty cache of the library for one batch, with room for ``room`` tokens a row.

    Plain attention layers are ours; sliding windows and recurrent states stay the library's.
    """
    cache = DynamicCache(config=model.config.get_text_config(decoder=True))
    cache.layers = [
        BufferedLayer(room) if type(layer) is DynamicLayer else layer for layer in cache.layers
    ]
    return cache


def bytes_a_position(model: Any) -> int:
    """What one token of one row takes in the model's cache, found by reading one."""
    cache = new_cache(model, 0)
    token = torch.zeros(1, 1, dtype=torch.long, device=model.device)
    with torch.inference_mode():
        model(input_ids=token, past_key_values=cache, use_cache=True)
    held = [t for x in cache.layers for t in (x.keys, x.values) if isinstance(t, Tensor)]
    return sum(t.nbytes for t in held)


def positions_that_fit(model: Any) -> int | None:
    """Tokens, of all rows together, that the cache may hold; None: there is no GPU to ask.

    They take half of what is free: the other half is for logits, and copies as the cache grows.
    """
    if model.device.type != "cuda":
        return None
    unused = torch.cuda.memory_reserved(model.device) - torch.cuda.memory_allocated(model.device)
    free = torch.cuda.mem_get_info(model.device)[0] + unused
    return int(free / 2 / max(1, bytes_a_position(model)))


def can_be_joined(cache: Any) -> bool:
    """Whether all its layers are ours."""
    return all(type(layer) is BufferedLayer for layer in cache.layers)


def join(parts: Sequence[Any], room: int) -> Any:
    """One cache with the rows of all the caches, in order, each row ending at the same column.

    It has room for ``room`` tokens a row. What lies before a shorter part's columns is zero,
    and must be masked. The parts are used up.
    """
    for layers in zip(*(part.layers for part in parts), strict=True):
        layers[0].take(layers, room)
        for layer in layers[1:]:
            layer.reset()
    return parts[0]


class BufferedLayer(DynamicLayer):  # type: ignore[misc, unused-ignore]
    """Plain attention's keys and values of one layer, [rows, heads, tokens, size].

    New ones are written behind the old ones in place, where the library's own layer copies all
    of them at every token; rows are dropped by moving the last ones into the holes.
    """

    keys: Tensor
    values: Tensor

    def __init__(self, room: int) -> None:
        super().__init__()
        self.room = room
        self.buffers: tuple[Tensor, Tensor] | None = None

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        if self.buffers is None:
            self._rebuild(key_states, value_states, self.room)
            return self.keys, self.values
        rows, _, start, _ = self.keys.shape
        end = start + key_states.shape[-2]
        if end > self.buffers[0].shape[-2]:
            self._rebuild(self.keys, self.values, 2 * end)
        self.keys, self.values = (b[:rows, :, :end] for b in self.buffers)
        self.keys[:, :, start:] = key_states
        self.values[:, :, start:] = value_states
        return self.keys, self.values

    def take(self, layers: Sequence[BufferedLayer], room: int) -> None:
        """Hold the rows of all these layers, with room for so many tokens a row."""
        width = max(layer.keys.shape[-2] for layer in layers)
        keys, values = (
            torch.cat([pad(part, (0, 0, width - part.shape[-2], 0)) for part in parts])
            for parts in zip(*((layer.keys, layer.values) for layer in layers), strict=True)
        )
        self.room = room
        self._rebuild(keys, values, room)

    def reset(self) -> None:
        self.buffers = None
        super().reset()

    def reorder_cache(self, beam_idx: Tensor) -> None:
        if self.buffers is None:
            return
        count = len(beam_idx)
        if count > self.keys.shape[0]:
            self._rebuild(self.keys[beam_idx], self.values[beam_idx], self.room)
            return
        moved = (beam_idx != torch.arange(count, device=beam_idx.device)).nonzero()[:, 0]
        for part in (self.keys, self.values):
            part[moved] = part[beam_idx[moved]]
        self.keys, self.values = self.keys[:count], self.values[:count]

    def _rebuild(self, keys: Tensor, values: Tensor, room: int) -> None:
        """Buffers of ``room`` tokens a row that begin with these."""
        rows, heads, end, _ = keys.shape
        new = [t.new_empty(rows, heads, max(room, end), t.shape[-1]) for t in (keys, values)]
        self.buffers = (new[0], new[1])
        self.keys, self.values = (b[:, :, :end] for b in self.buffers)
        self.keys.copy_(keys)
        self.values.copy_(values)
