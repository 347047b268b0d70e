"""A key-value cache that neither copies what it has at every token nor keeps finished rows.

Imports torch and transformers, so it is imported only by the loop that samples.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
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
