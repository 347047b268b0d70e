"""Sampling by transformers' continuous batching: a row that has ended makes room for the next.

An engine beside ``persd.models.sampling``, drawing the same samples from the same seeds (but for
rounding): the library is told to take the likeliest token of scores in which the token that the
row's own seed draws is the only one. Imports torch and transformers.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import ContinuousBatchingConfig, GenerationConfig, LogitsProcessorList
from transformers.cache_utils import DynamicSlidingWindowLayer
from transformers.generation.continuous_batching.cb_logits_processors import (
    ContinuousBatchingLogitsProcessor,
    ContinuousBatchingLogitsProcessorList,
)

from persd.errors import UserError, WorkFailed
from persd.models.kvcache import BufferedLayer, new_cache
from persd.models.sampling import Row, choose

#: Tokens of a page of the cache.
_PAGE = 32
#: Tokens read in one pass, prompts included; at least as many as rows are sampled together.
_PASS = 1024
#: Seconds between looks at whether the library's thread is still there.
_LOOK = 1.0


def sample_continuously(
    model: Any, rows: Sequence[Row], ends: Collection[int], *, most: int, positions: int | None
) -> None:
    """Fill ``new`` and ``ended`` of every row, as ``sample`` does.

    ``most`` rows are sampled together, in a cache of ``positions`` tokens (None: of what they
    can need). Raises UserError for a model whose attention is not the library's, or that has
    layers without keys and values, WorkFailed where the library gives a row up.
    """
    _check(model)
    live = {str(i): row for i, row in enumerate(rows) if row.max_tokens > 0}
    if not live:
        return
    manager = _manager(model, list(live.values()), ends, most, positions)
    manager.start()
    try:
        for name, row in live.items():
            manager.add_request(
                list(row.prompt),
                request_id=name,
                max_new_tokens=row.max_tokens,
                **_draws(row),
            )
        _collect(manager, live, ends)
    finally:
        manager.stop(block=True)
        manager.destroy()


def _check(model: Any) -> None:
    # such a model would read no cache at all, and ramble
    layers = new_cache(model, 0).layers
    known = all(isinstance(x, BufferedLayer | DynamicSlidingWindowLayer) for x in layers)
    if not model._supports_attention_backend or not known:
        raise UserError(
            f"{type(model).__name__} cannot be sampled by continuous batching",
            hint='Set student.engine = "own".',
        )


def _manager(
    model: Any, rows: Sequence[Row], ends: Collection[int], most: int, positions: int | None
) -> Any:
    pages = sorted(-(-(len(row.prompt) + row.max_tokens) // _PAGE) + 1 for row in rows)
    wanted = sum(pages[-most:])
    held = wanted if positions is None else min(wanted, max(pages[-1], positions // _PAGE))
    manager = model.init_continuous_batching(
        generation_config=GenerationConfig(do_sample=False, eos_token_id=sorted(ends)),
        continuous_batching_config=ContinuousBatchingConfig(
            page_size=_PAGE,
            num_blocks=held,
            max_batch_tokens=max(_PASS, most),
            max_requests_per_batch=most,
            auto_switch_to_flash=False,
            # drawing looks at the scores, and the next draw at the last one
            use_cuda_graph=False,
            use_async_batching=False,
        ),
    )
    first, second = Given("temperature"), Given("top_p")
    drawing = LogitsProcessorList([first, second, Draw(first, second)])
    manager.logit_processor = ContinuousBatchingLogitsProcessorList(drawing)
    manager.logit_processor.tensors_required = len(drawing)
    return manager


def _draws(row: Row) -> Mapping[str, list[float]]:
    """What each of a row's tokens is drawn with."""
    numbers = random.Random(row.seed)
    return {
        "temperature": [row.temperature] * row.max_tokens,
        "top_p": [row.top_p] * row.max_tokens,
        "uniform": [numbers.random() for _ in range(row.max_tokens)],
    }


def _collect(manager: Any, live: Mapping[str, Row], ends: Collection[int]) -> None:
    waiting = set(live)
    while waiting:
        found = manager.get_result(timeout=_LOOK)
        if found is None:
            if not manager.is_running():
                raise WorkFailed("continuous batching broke off: set student.engine to own")
            continue
        if found.error is not None:
            raise WorkFailed(f"continuous batching gave a row up: {found.error}")
        if found.is_finished():
            row, new = live[found.request_id], list(found.generated_tokens)
            row.ended = bool(new) and new[-1] in ends
            row.new = new[:-1] if row.ended else new
            waiting.discard(found.request_id)


class Given(ContinuousBatchingLogitsProcessor):  # type: ignore[misc, unused-ignore]
    """Carries a number of each row's next token to the device, and leaves the scores alone."""

    ignored_kwargs = ()

    def __init__(self, name: str) -> None:
        self.name = name
        self.supported_kwargs = {name: list}
        self.numbers = torch.empty(0)

    def fill_defaults(self, int32_tensor: Tensor) -> None:
        int32_tensor.zero_()

    def prepare_tensor_args(self, requests_with_new_token: Sequence[Any]) -> Tensor:
        numbers = [
            request.state.logit_processor_kwargs[self.name][_drawn(request.state)]
            for request in requests_with_new_token
        ]
        return torch.tensor(numbers, dtype=torch.float32).view(torch.int32)

    def __call__(self, scores: Tensor, tensor_arg: Tensor) -> Tensor:
        self.numbers = tensor_arg[: len(scores)].view(torch.float32)
        return scores


class Draw(Given):
    """Leaves of each row's scores the token that its uniform number draws."""

    def __init__(self, temperature: Given, top_p: Given) -> None:
        super().__init__("uniform")
        self.temperature, self.top_p = temperature, top_p

    def __call__(self, scores: Tensor, tensor_arg: Tensor) -> Tensor:
        super().__call__(scores, tensor_arg)
        drawn = choose(scores, self.temperature.numbers, self.top_p.numbers, self.numbers)
        return torch.zeros_like(scores).scatter(-1, drawn[:, None], 1.0)


def _drawn(state: Any) -> int:
    """Tokens of the reply so far; those a row had when its pages were taken away count."""
    before = len(state.initial_tokens) - state._true_initial_tokens
    return len(state.generated_tokens) + (before if state._true_initial_tokens else 0)
