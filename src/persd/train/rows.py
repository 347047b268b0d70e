"""From examples to token rows: what the loss is on, what fits, what the tokenizer gives back."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from persd.config import TrainTable
from persd.errors import UserError
from persd.records import Example, Message
from persd.tokens import Api, LossyText, check_prompt, completion_ids, prompt_ids

#: Label of a token without loss, as torch's cross entropy has it.
IGNORED = -100


@dataclass(frozen=True, slots=True)
class TokenRow:
    """One example as the model is trained on it."""

    example_id: str
    prompt: list[int]
    completion: list[int]
    """With the end token."""

    @property
    def input_ids(self) -> list[int]:
        return self.prompt + self.completion

    @property
    def labels(self) -> list[int]:
        """``IGNORED`` on the prompt: the loss is on the completion and the end token."""
        return [IGNORED] * len(self.prompt) + self.completion

    def __len__(self) -> int:
        return len(self.prompt) + len(self.completion)


class _Blank(TokenRow):
    """A row of two tokens without loss: the model reads it, and learns nothing."""

    @property
    def labels(self) -> list[int]:
        return [IGNORED] * len(self)


BLANK = _Blank("", [0], [0])


@dataclass(frozen=True, slots=True)
class LeftOut:
    """An example that was not trained on, and why."""

    example_id: str
    reason: Literal["over_long", "lossy"]
    detail: str


def encode(
    tokenizer: Any,
    examples: Sequence[Example],
    settings: TrainTable,
    *,
    api: Api,
    context: int | None = None,
) -> tuple[list[TokenRow], list[LeftOut]]:
    """The examples as token rows, in order, and those left out.

    ``context``: positions of the model. Raises UserError naming the first example that is too
    long or not given back by the tokenizer (where the settings do not say to leave it out),
    and where nothing remains.
    """
    limit = min(settings.max_length or math.inf, context or math.inf)
    rows, left_out = [], []
    for example in examples:
        try:
            row = encode_one(tokenizer, example.prompt, example.completion, api, example.example_id)
        except LossyText as e:
            left_out.append(LeftOut(example.example_id, "lossy", str(e)))
            continue
        if len(row) > limit:
            detail = f"{len(row)} tokens, the limit is {limit}"
            left_out.append(LeftOut(example.example_id, "over_long", detail))
        else:
            rows.append(row)
    _refuse(left_out, settings, by_context=limit == context)
    if not rows:
        raise UserError(
            f"no examples to train on ({len(left_out)} left out)",
            hint="Look at the run's funnel: persd report RUN.",
        )
    return rows, left_out


def encode_one(
    tokenizer: Any, prompt: str, completion: str, api: Api, example_id: str = ""
) -> TokenRow:
    """One pair as token rows have it. Raises LossyText where the tokenizer does not give it
    back as it was."""
    messages = (Message("user", prompt),)
    ids = prompt_ids(tokenizer, messages, api)
    check_prompt(tokenizer, messages, api, ids)
    return TokenRow(example_id, ids, completion_ids(tokenizer, ids, completion))


def _refuse(left_out: Sequence[LeftOut], settings: TrainTable, *, by_context: bool) -> None:
    policies = {"over_long": settings.over_long, "lossy": settings.lossy}
    refused = [r for r in left_out if policies[r.reason] == "refuse"]
    if not refused:
        return
    first = refused[0]
    others = sum(r.reason == first.reason for r in refused) - 1
    more = f" (and {others} more)" if others else ""
    skip = f'leave such rows out with train.{first.reason} = "skip"'
    raise_it = first.reason == "over_long" and not by_context
    raise UserError(
        f"example {first.example_id}: {first.detail}{more}",
        hint=f"Raise train.max_length, or {skip}." if raise_it else f"{skip[0].upper()}{skip[1:]}.",
    )
