"""Prompt and completion as token ids: the same at training and at inference, and reversible."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("transformers")

from hypothesis import given, settings
from hypothesis import strategies as st

import tiny
from persd.records import Message
from persd.tokens import LossyText, check_prompt, completion_ids, end_ids, prompt_ids, text_after

PLAIN = tiny.tokenizer()
WITH_BOS = tiny.tokenizer(bos=True)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=60).filter(
    lambda text: "<|" not in text  # a special token spelt out is refused, as it should be
)


def user(text: str) -> tuple[Message, ...]:
    return (Message("user", text),)


def spaced() -> Any:
    """A tokenizer of the older Llama kind: a space before whatever stands first, newlines as
    bytes."""
    from tokenizers import Tokenizer, decoders, models, normalizers, trainers
    from transformers import PreTrainedTokenizerFast

    lines = [f"▁{line}".replace(" ", "▁") for text in tiny.CORPUS for line in text.split("\n")]
    learnt = Tokenizer(models.BPE())
    trainer = trainers.BpeTrainer(vocab_size=200, show_progress=False)
    learnt.train_from_iterator(lines, trainer)
    bpe = json.loads(learnt.to_str())["model"]
    names = ["</s>", "<unk>", *(f"<0x{i:02X}>" for i in range(256)), *bpe["vocab"]]
    core = Tokenizer(
        models.BPE(
            vocab={name: i for i, name in enumerate(names)},
            merges=[(a, b) for a, b in bpe["merges"]],
            unk_token="<unk>",
            byte_fallback=True,
        )
    )
    core.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    core.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(content=" ", left=1, right=0),
        ]
    )
    return PreTrainedTokenizerFast(tokenizer_object=core, eos_token="</s>", unk_token="<unk>")


def merging() -> Any:
    """A tokenizer that makes one space of several."""
    from tokenizers import Regex, normalizers

    tok = tiny.tokenizer()
    tok.backend_tokenizer.normalizer = normalizers.Replace(Regex(" +"), " ")
    return tok


@given(prompt=TEXTS, completion=TEXTS)
@settings(max_examples=150, deadline=None)
def test_what_is_tokenised_reads_back(prompt: str, completion: str) -> None:
    for tok in (PLAIN, WITH_BOS):
        ids = prompt_ids(tok, user(prompt), "completions")
        new = completion_ids(tok, ids, completion)
        assert new[-1] == tok.eos_token_id
        assert text_after(tok, ids, new) == completion
        check_prompt(tok, user(prompt), "completions", ids)


def test_a_prompt_begins_as_the_tokenizer_begins_a_text() -> None:
    assert prompt_ids(WITH_BOS, user("x = 1"), "completions")[0] == WITH_BOS.bos_token_id
    assert WITH_BOS.bos_token_id not in prompt_ids(PLAIN, user("x = 1"), "completions")


def test_a_prompt_is_left_open_where_the_tokenizer_closes_texts() -> None:
    from tokenizers import processors

    tok = tiny.tokenizer()
    tok.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="$A <|end|>", special_tokens=[("<|end|>", 0)]
    )
    assert tok("x = 1")["input_ids"][-1] == tok.eos_token_id
    assert prompt_ids(tok, user("x = 1"), "completions") == PLAIN("x = 1")["input_ids"]


def test_an_empty_prompt_still_has_a_token() -> None:
    assert prompt_ids(PLAIN, user(""), "completions") == [PLAIN.eos_token_id]


def test_tokens_never_span_the_boundary() -> None:
    prompt, completion = "def add(a, b):\n  ", "  return a + b\n"
    together = PLAIN(prompt + completion)["input_ids"]
    ids = prompt_ids(PLAIN, user(prompt), "completions")
    assert together[: len(ids)] != ids  # the four spaces would be one token
    assert text_after(PLAIN, ids, completion_ids(PLAIN, ids, completion)) == completion


def test_a_first_space_of_the_tokenizers_own_is_no_part_of_the_completion() -> None:
    tok = spaced()
    for completion in ("return a", "    return a\n", "\n    x = 1"):
        ids = prompt_ids(tok, user("def add(a, b):\n"), "completions")
        new = completion_ids(tok, ids, completion)
        assert tok.decode([*ids, *new], skip_special_tokens=True) == (
            "def add(a, b):\n" + completion
        )


def test_merged_spaces_are_refused() -> None:
    tok = merging()
    ids = prompt_ids(tok, user("def f(x):\n"), "completions")
    with pytest.raises(LossyText, match="completion"):
        completion_ids(tok, ids, "    return x\n")
    with pytest.raises(LossyText, match="prompt"):
        check_prompt(
            tok,
            user("if x:\n    y"),
            "completions",
            prompt_ids(tok, user("if x:\n    y"), "completions"),
        )


def test_an_end_token_inside_a_completion_is_refused() -> None:
    ids = prompt_ids(PLAIN, user("print("), "completions")
    with pytest.raises(LossyText):
        completion_ids(PLAIN, ids, "'<|end|>')\n")


def test_the_chat_form_ends_where_the_assistant_starts() -> None:
    ids = prompt_ids(PLAIN, user("Add.\n"), "chat")
    assert PLAIN.decode(ids) == "<|user|>\nAdd.\n<|end|>\n<|assistant|>\n"
    check_prompt(PLAIN, user("Add.\n"), "chat", ids)


def test_end_ids_join_the_checkpoints_and_the_tokenizers() -> None:
    for named, expected in (([5, 6], {0, 5, 6}), (7, {0, 7}), (None, {0})):
        assert end_ids(PLAIN, SimpleNamespace(eos_token_id=named)) == expected
    assert end_ids(PLAIN, SimpleNamespace(eos_token_id=7), {9}) == {0, 7, 9}
