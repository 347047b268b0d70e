"""A student in this process: any causal language model that transformers can load.

The embedded student, a checkpoint just trained and a repository of the Hub come through the
same code. Loaded at the first request; safetensors only (see ``persd.models.checkpoint``).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from persd.errors import UserError
from persd.models.checkpoint import (
    DType,
    Source,
    find,
    has_bf16,
    load_model,
    load_tokenizer,
    need_extra,
    pick_device,
    use_threads,
)
from persd.models.families import advice, end_tokens, family_of, positions
from persd.models.sampling import Row, batches, keeps_a_cache, sample
from persd.records import Completion, Request, Usage
from persd.tokens import Api, LossyText, end_ids, prompt_ids, text_after

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)

#: Requests a row of continuous batching, so that some wait for the place of those that end.
_QUEUE = 4


@dataclass(frozen=True, slots=True)
class Loaded:
    model: Any
    tokenizer: Any
    ends: frozenset[int]
    context: int | None
    """Positions the model has; None: no limit is known."""


class LocalModel:
    """A checkpoint folder or Hub id as a ``Model`` (see ``persd.models``).

    ``api``: whether requests go through the chat template or are continued as they stand.
    ``batch``: rows sampled together, fewer where they hold more than ``batch_tokens`` positions
    (None: what fits a GPU's memory; on a CPU no bound). ``engine``: what samples them, this
    package or transformers' continuous batching. ``device``: ``cpu``, ``cuda``, ``mps``;
    None: the best there is. ``dtype``: ``auto`` is bfloat16 on a GPU that has it, else float32.
    ``threads``: CPU threads of torch for the whole process; None: as ``use_threads`` chooses.
    Raises UserError at once where the checkpoint is not there.
    """

    throttle = None

    def __init__(
        self,
        model: str,
        *,
        api: Api = "completions",
        batch: int = 64,
        batch_tokens: int | None = None,
        engine: Literal["own", "continuous"] = "own",
        device: str | None = None,
        dtype: DType = "auto",
        revision: str | None = None,
        trust_remote_code: bool = False,
        threads: int | None = None,
        name: str | None = None,
    ) -> None:
        need_extra("a student loaded in this process")
        self._source = find(model, revision=revision, trust_remote_code=trust_remote_code)
        self._api, self._batch, self._device, self._dtype = api, batch, device, dtype
        self._batch_tokens, self.engine = batch_tokens, engine
        self._threads, self._name = threads, name or self._source.name
        self._state: Loaded | None = None

    @property
    def name(self) -> str:
        return self._name

    @cached_property
    def identity(self) -> Mapping[str, str]:
        return {**self._source.identity, "api": self._api, "dtype": self._dtype}

    @property
    def api(self) -> Api:
        """How requests reach it: through its chat template, or as text it continues."""
        return self._api

    @property
    def batch(self) -> int:
        return self._batch * (_QUEUE if self.engine == "continuous" else 1)

    @property
    def in_flight(self) -> int:
        return 1

    def complete(self, requests: Sequence[Request]) -> list[Completion]:
        """One completion a request, in their order.

        ``finish`` is ``stop`` where the model ended its reply, ``length`` where ``max_tokens``
        cut it, ``prompt_too_long`` where prompt and ``max_tokens`` exceed the model's context
        (nothing is cut to fit; ``note`` has the numbers), ``prompt_not_encodable`` where the
        tokenizer cannot take the text.
        """
        loaded = self.load()
        started = time.perf_counter()
        rows = [_row(loaded, self._api, request) for request in requests]
        drawn = [row for row in rows if isinstance(row, Row)]
        self._sample(loaded, drawn)
        seconds = (time.perf_counter() - started) / max(1, len(requests))
        return [_completion(loaded, row, seconds) if isinstance(row, Row) else row for row in rows]

    def _sample(self, loaded: Loaded, rows: Sequence[Row]) -> None:
        import torch

        from persd.models.kvcache import positions_that_fit

        positions = self._batch_tokens or positions_that_fit(loaded.model)
        if self.engine == "continuous":
            from persd.models.continuous import sample_continuously

            sample_continuously(
                loaded.model, rows, loaded.ends, most=self._batch, positions=positions
            )
            return
        with torch.inference_mode():
            for part in batches(rows, self._batch, positions):
                _sample_in_parts(loaded, part)

    def close(self) -> None:
        self._state = None
        import torch

        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def load(self) -> Loaded:
        """Model and tokenizer, read at the first call. Raises UserError where they cannot be."""
        if self._state is None:
            self._state = _open(self._source, self._api, self._device, self._dtype, self._threads)
            if told := advice(self._state.tokenizer, self._api):
                log.warning("%s: %s", self._name, told)
        return self._state


def _open(
    source: Source, api: Api, device: str | None, dtype: DType, threads: int | None
) -> Loaded:
    where = pick_device(device)
    tokenizer = load_tokenizer(source)
    model = load_model(source, _dtype_on(where, dtype)).to(where).eval()
    if not keeps_a_cache(model):
        raise UserError(
            f"{type(model).__name__} has no key-value cache, so it cannot be sampled here",
            where=source.name,
            hint="Serve it, and set student.base_url.",
        )
    use_threads(model, threads)
    also = end_tokens(family_of(model.config, tokenizer), tokenizer, api)
    ends = end_ids(tokenizer, model.generation_config, also)
    return Loaded(model, tokenizer, ends, positions(model.config))


def _dtype_on(device: torch.device, dtype: DType) -> torch.dtype:
    import torch

    if dtype != "auto":
        return {
            "float32": torch.float32,
            "bfloat16": torch.bfloat16,
            "float16": torch.float16,
        }[dtype]
    return torch.bfloat16 if has_bf16(device) else torch.float32


def _row(loaded: Loaded, api: Api, request: Request) -> Row | Completion:
    try:
        prompt = prompt_ids(loaded.tokenizer, request.messages, api)
    except LossyText as e:
        return Completion("", finish="prompt_not_encodable", note=str(e))
    needed = len(prompt) + request.max_tokens
    if loaded.context is not None and needed > loaded.context:
        note = (
            f"prompt of {len(prompt)} tokens and max_tokens {request.max_tokens}"
            f" exceed the model's {loaded.context}"
        )
        usage = Usage(input_tokens=len(prompt))
        return Completion("", finish="prompt_too_long", usage=usage, note=note)
    return Row(prompt, request.max_tokens, request.temperature, request.top_p, request.seed)


def _sample_in_parts(loaded: Loaded, rows: Sequence[Row]) -> None:
    """Sample the rows together, or in halves where a GPU's memory does not hold them."""
    import torch

    try:
        sample(loaded.model, rows, loaded.ends)
        return
    except torch.OutOfMemoryError:
        if len(rows) == 1:
            raise UserError(
                f"a prompt of {len(rows[0].prompt)} tokens does not fit the GPU's memory",
                hint="Lower max_tokens, or use a smaller student.",
            ) from None
    torch.cuda.empty_cache()
    for part in (rows[: len(rows) // 2], rows[len(rows) // 2 :]):
        for row in part:
            row.new, row.ended = [], False
        _sample_in_parts(loaded, part)


def _completion(loaded: Loaded, row: Row, seconds: float) -> Completion:
    return Completion(
        text_after(loaded.tokenizer, row.prompt, row.new),
        finish="stop" if row.ended else "length",
        usage=Usage(input_tokens=len(row.prompt), output_tokens=len(row.new)),
        seconds=seconds,
    )
