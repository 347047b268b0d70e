"""From text to token ids and back, once, for training and for inference.

A student must be asked exactly what it was trained on, token for token, also where prompt and
completion meet. So prompts are tokenised by one function, completions apart from them (a token
never covers the end of a prompt and the start of a completion), and every training row is read
back before it is used: a tokenizer that merges spaces would ruin Python.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

from persd.errors import UserError
from persd.records import Message, plain_text

Api = Literal["chat", "completions"]

#: Given to every chat template, so that prompts are the same in training and inference; those
#: that know no such argument do not mind. A template that lets its model think (Qwen3's) is told
#: not to, for the replies trained on hold no thoughts; one that names the day (Llama 3's) is given
#: always the same, its own default.
TEMPLATE: Mapping[str, Any] = {"enable_thinking": False, "date_string": "26 Jul 2024"}
#: How a prompt ends whose template has its model think whatever it is told.
_THINKS = "<think>"


class LossyText(ValueError):
    """The tokenizer does not give the text back (merged spaces, special tokens, unknown bytes)."""


def prompt_ids(tokenizer: Any, messages: Sequence[Message], api: Api) -> list[int]:
    """Token ids of a prompt.

    ``completions``: the text of the turns (a student's prompt is one), begun the way the
    tokenizer begins a text (its own BOS habit) and left open at the end. ``chat``: the chat
    template, up to where the assistant's turn starts. Raises UserError where a chat template
    is asked for and there is none, LossyText where the text cannot be encoded.
    """
    if api == "chat":
        return _chat_ids(tokenizer, messages)
    text = plain_text(messages)
    ids = _encode(tokenizer, text, special=True)
    closing = {tokenizer.eos_token_id, tokenizer.sep_token_id} - {None, tokenizer.bos_token_id}
    plain = _encode(tokenizer, text, special=False)
    while ids and ids[-1] in closing and ids[-len(plain) :] != plain:
        ids.pop()
    # A model cannot continue nothing at all.
    return ids or [
        int(tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id)
    ]


def completion_ids(tokenizer: Any, prompt: Sequence[int], completion: str) -> list[int]:
    """Token ids of what follows a prompt, closed by the end-of-sequence token.

    Tokenised apart from the prompt. Raises LossyText where no way of doing so reads back as
    ``completion`` behind that prompt.
    """
    for ids in _continuations(tokenizer, completion):
        if text_after(tokenizer, prompt, ids) == completion:
            return [*ids, int(tokenizer.eos_token_id)]
    read = text_after(tokenizer, prompt, next(_continuations(tokenizer, completion)))
    raise LossyText(f"the completion reads back differently {_first_difference(completion, read)}")


def check_prompt(tokenizer: Any, messages: Sequence[Message], api: Api, ids: Sequence[int]) -> None:
    """Raises LossyText where the last message cannot be read back from a prompt's ids.

    A chat template may trim a message and put text around it, so there it must be contained.
    """
    asked, read = plain_text(messages), _decode(tokenizer, ids)
    if read == asked or (api == "chat" and asked.strip() in read):
        return
    raise LossyText(f"the prompt reads back differently {_first_difference(asked, read)}")


def text_after(tokenizer: Any, prompt: Sequence[int], new: Sequence[int]) -> str:
    """The text that ``new`` ids add behind ``prompt`` ids, without special tokens.

    Decoded in context: some tokenizers drop the first space of whatever stands first.
    """
    head, whole = _decode(tokenizer, prompt), _decode(tokenizer, [*prompt, *new])
    return whole[len(head) :] if whole.startswith(head) else _decode(tokenizer, new)


def end_ids(tokenizer: Any, generation_config: Any, also: Iterable[int] = ()) -> frozenset[int]:
    """The ids that end a reply: those the checkpoint names, the one training appends, and
    ``also`` (``persd.models.families.end_tokens``)."""
    named = getattr(generation_config, "eos_token_id", None)
    several = named if isinstance(named, list | tuple) else [named]
    return frozenset(int(i) for i in (*several, tokenizer.eos_token_id, *also) if i is not None)


def _chat_ids(tokenizer: Any, messages: Sequence[Message]) -> list[int]:
    if not tokenizer.chat_template:
        raise UserError(
            "the checkpoint's tokenizer has no chat template",
            hint='Base models continue text: api = "completions".',
        )
    turns = [{"role": m.role, "content": m.content} for m in messages]
    encoded = tokenizer.apply_chat_template(
        turns, add_generation_prompt=True, tokenize=True, return_dict=True, **TEMPLATE
    )
    ids = [int(i) for i in encoded["input_ids"]]
    if str(tokenizer.decode(ids[-12:])).rstrip().endswith(_THINKS):
        raise UserError(
            "the chat template has the model think first, and the replies it is trained on hold"
            " no thoughts",
            hint="Take the family's model that does not think (Qwen: Instruct, not Thinking).",
        )
    return ids


def _continuations(tokenizer: Any, text: str) -> Iterator[list[int]]:
    """Ways to tokenise text that starts nowhere: alone, and behind a newline that is cut off.

    The second is for tokenizers that put a space before whatever stands first.
    """
    yield _encode(tokenizer, text, special=False)
    anchor = _encode(tokenizer, "\n", special=False)
    behind = _encode(tokenizer, f"\n{text}", special=False)
    if behind[: len(anchor)] == anchor:
        yield behind[len(anchor) :]


def _encode(tokenizer: Any, text: str, *, special: bool) -> list[int]:
    try:
        ids = tokenizer(text, add_special_tokens=special, verbose=False)["input_ids"]
    except (UnicodeEncodeError, TypeError) as e:  # a lone surrogate
        raise LossyText(f"the text cannot be encoded: {e}") from None
    return [int(i) for i in ids]


def _decode(tokenizer: Any, ids: Sequence[int]) -> str:
    return str(
        tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
    )


def _first_difference(text: str, read: str) -> str:
    at = next((i for i, (a, b) in enumerate(zip(text, read, strict=False)) if a != b), None)
    at = min(len(text), len(read)) if at is None else at
    return f"at character {at}: {text[at : at + 24]!r} becomes {read[at : at + 24]!r}"
