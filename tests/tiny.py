"""A tiny checkpoint made on the spot: a Llama of random weights and a byte-level BPE tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from persd.records import Message, Request, Task

#: Text the tokenizer is trained on: enough for merges across words, indents and digits.
CORPUS = (
    "def add(a, b):\n    return a + b\n",
    "def count(xs):\n    total = 0\n    for x in xs:\n        if x > 2:\n"
    "            total += 1\n    return total\n",
    "# Return the sum of the even numbers of the list, then double it.\n",
    "def double(values):\n    out = []\n    for v in values:\n        out.append(v * 2)\n"
    "    return out\n",
)
CHAT_TEMPLATE = (
    "{% for m in messages %}<|{{ m['role'] }}|>\n{{ m['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)


def tokenizer(*, corpus: Sequence[str] = CORPUS, vocab: int = 384, bos: bool = False) -> Any:
    """Byte-level BPE; ``<|end|>`` ends a text and, with ``bos``, ``<|start|>`` begins it."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab,
        special_tokens=["<|end|>", "<|start|>", "<|pad|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(corpus, trainer)
    if bos:
        core.post_processor = processors.TemplateProcessing(
            single="<|start|> $A", special_tokens=[("<|start|>", 1)]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        eos_token="<|end|>",
        bos_token="<|start|>" if bos else None,
        pad_token="<|pad|>",
        chat_template=CHAT_TEMPLATE,
    )


def model(
    vocab: int,
    *,
    seed: int = 0,
    hidden: int = 32,
    layers: int = 2,
    heads: int = 2,
    context: int = 256,
    spread: float = 0.5,
) -> Any:
    """A Llama of random weights; ``spread`` (their deviation) makes its choices differ."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocab,
        hidden_size=hidden,
        intermediate_size=hidden * 5 // 2,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=context,
        tie_word_embeddings=True,
        initializer_range=spread,
        bos_token_id=None,
        eos_token_id=0,
        pad_token_id=2,
    )
    return LlamaForCausalLM(config).eval()


def checkpoint(folder: Path, *, tok: Any = None, **shape: Any) -> Path:
    """Write a tiny checkpoint into ``folder`` and return it; ``shape`` goes to ``model``."""
    tok = tok or tokenizer()
    tok.save_pretrained(str(folder))
    model(len(tok), **shape).save_pretrained(str(folder))
    return folder


def request(prompt: str, **changes: Any) -> Request:
    """A plain attempt at a task of no consequence."""
    values: dict[str, Any] = {
        "purpose": "attempt",
        "messages": (Message("user", prompt),),
        "task": Task("t", "", "", "f"),
        "seed": 0,
        "temperature": 0.0,
        "top_p": 0.95,
        "max_tokens": 24,
    }
    return Request(**{**values, **changes})
