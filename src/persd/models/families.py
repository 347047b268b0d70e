"""What a family of checkpoints needs to be asked and trained rightly, beyond what it says itself.

One record a family, found by the checkpoint's configuration (and, where that is another
family's, by its tokenizer); what can be read off the checkpoint, such as its chat template, is
read and not listed here. Sampling and training use the same facts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from persd.tokens import TEMPLATE, Api


@dataclass(frozen=True, slots=True)
class Family:
    """Facts of one family of causal language models."""

    name: str
    model_types: frozenset[str] = frozenset()
    """``model_type`` of its configurations; empty: any other."""
    tokenizers: frozenset[str] = frozenset()
    """Tokenizer classes that tell it from another family of the same ``model_type``."""
    ends: frozenset[str] = frozenset()
    """Tokens that end a reply, where its vocabulary has them, beside the end-of-sequence tokens
    that the checkpoint names: ends of a turn, and what stands between two files, behind which a
    base model would go on with the next one."""
    stages: tuple[tuple[int, float], ...] = ()
    """Lengths (tokens) it was trained on one after the other, with their shares of the steps:
    what to give as ``train.stages`` (``persd doctor --model`` shows them)."""
    note: str = ""
    """What a user should know."""


def _set(*names: str) -> frozenset[str]:
    return frozenset(names)


_QWEN_ENDS = _set("<|endoftext|>", "<|im_end|>", "<|file_sep|>", "<|repo_name|>")

XGEN = Family(
    "XGen, CodeGen2.5",
    _set("llama"),
    _set("XgenTokenizer", "CodeGen25Tokenizer"),
    _set("<|endoftext|>"),
    stages=((2048, 0.533), (4096, 0.267), (8192, 0.2)),
    note="its tokenizer is Python code of the repository: trust_remote_code, and tiktoken",
)
CODEGEN = Family(
    "CodeGen",
    _set("codegen"),
    ends=_set("<|endoftext|>"),
    note="runs of spaces are tokens of their own; 2,048 positions",
)
STARCODER = Family(
    "StarCoder",
    _set("gpt_bigcode"),
    ends=_set("<|endoftext|>", "<reponame>", "<filename>", "<gh_stars>"),
)
STARCODER2 = Family(
    "StarCoder2",
    _set("starcoder2"),
    ends=_set("<|endoftext|>", "<file_sep>", "<repo_name>", "<|im_end|>"),
)
QWEN2 = Family("Qwen2.5-Coder", _set("qwen2", "qwen2_moe"), ends=_QWEN_ENDS)
QWEN3 = Family(
    "Qwen3, Qwen3-Coder",
    _set("qwen3", "qwen3_moe", "qwen3_next"),
    ends=_QWEN_ENDS,
    note="asked not to think, in training and inference alike",
)
LLAMA = Family(
    "Llama, CodeLlama",
    _set("llama"),
    ends=_set("<|eot_id|>", "<|eom_id|>", "<|end_of_text|>"),
)
OTHER = Family("other", note="no facts of this family are known: all is as the checkpoint says")

#: Those known by their tokenizer come before those of the same ``model_type``.
FAMILIES = (XGEN, CODEGEN, STARCODER, STARCODER2, QWEN2, QWEN3, LLAMA)


def family_of(config: Any, tokenizer: Any) -> Family:
    """The family of a checkpoint, by its configuration and tokenizer; ``OTHER`` where it is of
    none."""
    kind, written = config.get_text_config().model_type, type(tokenizer).__name__
    for family in FAMILIES:
        if kind in family.model_types and (not family.tokenizers or written in family.tokenizers):
            return family
    return OTHER


def end_tokens(family: Family, tokenizer: Any, api: Api) -> frozenset[int]:
    """Ids that end a reply beside those the checkpoint names: the family's, and in the chat form
    what the template puts behind a reply."""
    known = tokenizer.get_added_vocab()
    ids = {int(known[token]) for token in family.ends if token in known}
    if api == "chat":
        behind = _behind_a_reply(tokenizer)
        ids |= {int(i) for token, i in known.items() if behind.startswith(token)}
    return frozenset(ids)


def usual_api(tokenizer: Any) -> Api:
    """How a checkpoint wants to be asked: ``chat`` where its template closes a reply with the
    very token that ends its texts. (Base models may have a template, and end otherwise.)"""
    eos = str(tokenizer.eos_token)
    return "chat" if eos and _behind_a_reply(tokenizer).startswith(eos) else "completions"


def advice(tokenizer: Any, api: Api) -> str:
    """What to tell the user of the form chosen; empty: it is the usual one."""
    usual = usual_api(tokenizer)
    if usual == api:
        return ""
    if usual == "chat":
        return 'it is a chat model, asked to continue text: student.api = "chat" is its usual form'
    return (
        "it has a chat template, and its texts end otherwise: it is likely a base model, "
        'whose usual form is student.api = "completions"'
    )


def positions(config: Any) -> int | None:
    """Positions a model was made for; None: not said.

    Where the rotary embedding is stretched (yarn, or any that names the length it starts from)
    a configuration may still name the length before; where it names none to start from, what
    it names is taken to be stretched already.
    """
    from persd.models.checkpoint import context_length

    named = context_length(config)
    rope = getattr(config.get_text_config(), "rope_parameters", None) or {}
    first, factor = rope.get("original_max_position_embeddings"), rope.get("factor")
    if named is None or not first or not factor or rope.get("rope_type") == "llama3":
        return named
    return max(named, int(first * factor))


def _behind_a_reply(tokenizer: Any) -> str:
    """What the chat template writes behind a reply; empty: there is no template, or it takes no
    such conversation."""
    if not getattr(tokenizer, "chat_template", None):
        return ""
    mark = "REPLY"
    turns = [{"role": "user", "content": "x"}, {"role": "assistant", "content": mark}]
    try:
        text = str(tokenizer.apply_chat_template(turns, tokenize=False, **TEMPLATE))
    except Exception:  # a template raises what it likes
        return ""
    return text.rpartition(mark)[2].lstrip() if mark in text else ""
