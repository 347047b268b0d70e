"""Tiny checkpoints of each family: its own configuration and model class with random weights, and
its own tokenizer class over a vocabulary made on the spot."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import tiny

#: As Qwen's: turns between <|im_start|> and <|im_end|>.
CHATML = (
    "{%- for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n"
    "{% endfor %}{%- if add_generation_prompt %}<|im_start|>assistant\n"
)
QWEN2_TEMPLATE = CHATML + "{% endif %}"
#: Qwen3's: an empty thought where thinking is switched off.
QWEN3_TEMPLATE = (
    CHATML + "{% if enable_thinking is defined and enable_thinking is false %}"
    "<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
THINKING_TEMPLATE = CHATML + "<think>\n{% endif %}"
LLAMA3_TEMPLATE = (
    "{% if not date_string is defined %}{% set date_string = strftime_now('%d %b %Y') %}{% endif %}"
    "{{ bos_token }}<|start_header_id|>system<|end_header_id|>\n\n"
    "Today Date: {{ date_string }}<|eot_id|>"
    "{% for m in messages %}<|start_header_id|>{{ m['role'] }}<|end_header_id|>\n\n"
    "{{ m['content'] | trim }}<|eot_id|>{% endfor %}{% if add_generation_prompt %}"
    "<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
_QWEN_SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|repo_name|>", "<|file_sep|>")


def codegen(folder: Path) -> Path:
    """Runs of spaces and tabs are added tokens, as in CodeGen's own vocabulary."""
    from tokenizers import AddedToken
    from transformers import CodeGenConfig, CodeGenForCausalLM, CodeGenTokenizer

    vocab, merges = _byte_level(("<|endoftext|>",))
    tok = CodeGenTokenizer(vocab=vocab, merges=merges)
    runs = [" " * n for n in range(31, 1, -1)] + ["\t" * n for n in range(9, 1, -1)]
    tok.add_tokens([AddedToken(run, normalized=True, special=False) for run in runs])
    config = CodeGenConfig(
        vocab_size=len(tok) + 5,  # the real one is padded too
        n_positions=256,
        n_ctx=256,
        n_embd=64,
        n_layer=2,
        n_head=4,
        rotary_dim=8,
        bos_token_id=1,
        eos_token_id=tok.eos_token_id,
        initializer_range=0.05,
    )
    return _save(folder, tok, CodeGenForCausalLM, config)


def starcoder(folder: Path) -> Path:
    """Multi-query attention and learnt positions; names of files between files."""
    from transformers import GPT2Tokenizer, GPTBigCodeConfig, GPTBigCodeForCausalLM

    special = ("<|endoftext|>", "<fim_prefix>", "<filename>", "<gh_stars>", "<reponame>")
    vocab, merges = _byte_level(special)
    tok = GPT2Tokenizer(vocab=vocab, merges=merges, additional_special_tokens=list(special[1:]))
    config = GPTBigCodeConfig(
        vocab_size=len(tok),
        n_positions=256,
        n_embd=48,
        n_layer=2,
        n_head=4,
        bos_token_id=0,
        eos_token_id=0,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        initializer_range=0.05,
    )
    return _save(folder, tok, GPTBigCodeForCausalLM, config)


def starcoder2(folder: Path) -> Path:
    from transformers import GPT2Tokenizer, Starcoder2Config, Starcoder2ForCausalLM

    special = ("<|endoftext|>", "<fim_prefix>", "<repo_name>", "<file_sep>")
    vocab, merges = _byte_level(special)
    tok = GPT2Tokenizer(vocab=vocab, merges=merges, additional_special_tokens=list(special[1:]))
    config = Starcoder2Config(
        **_shape(len(tok)), sliding_window=64, use_bias=True, bos_token_id=0, eos_token_id=0
    )
    return _save(folder, tok, Starcoder2ForCausalLM, config)


def qwen25(folder: Path) -> Path:
    """The base model: it has a chat template, but its texts end with <|endoftext|>."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    tok = _qwen_tokenizer(QWEN2_TEMPLATE, eos="<|endoftext|>")
    config = Qwen2Config(
        **_shape(len(tok)), tie_word_embeddings=True, bos_token_id=0, eos_token_id=0
    )
    return _save(folder, tok, Qwen2ForCausalLM, config)


def qwen25_instruct(folder: Path) -> Path:
    from transformers import Qwen2Config, Qwen2ForCausalLM

    tok = _qwen_tokenizer(QWEN2_TEMPLATE, eos="<|im_end|>")
    config = Qwen2Config(**_shape(len(tok)), bos_token_id=0, eos_token_id=2)
    return _save(folder, tok, Qwen2ForCausalLM, config)


def qwen3(folder: Path, template: str = QWEN3_TEMPLATE) -> Path:
    from transformers import Qwen3Config, Qwen3ForCausalLM

    tok = _qwen_tokenizer(template, eos="<|im_end|>")
    config = Qwen3Config(**_shape(len(tok)), head_dim=16, bos_token_id=0, eos_token_id=2)
    return _save(folder, tok, Qwen3ForCausalLM, config)


def qwen3_coder(folder: Path) -> Path:
    """Experts, as the larger Qwen3-Coder has them."""
    from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

    tok = _qwen_tokenizer(QWEN2_TEMPLATE, eos="<|im_end|>")
    config = Qwen3MoeConfig(
        **_shape(len(tok)),
        head_dim=16,
        num_experts=4,
        num_experts_per_tok=2,
        moe_intermediate_size=48,
        bos_token_id=0,
        eos_token_id=2,
    )
    return _save(folder, tok, Qwen3MoeForCausalLM, config)


def llama3(folder: Path) -> Path:
    """Byte-level, with a token that begins every text; the checkpoint names one end of three."""
    from tokenizers import processors
    from transformers import PreTrainedTokenizerFast

    special = (
        "<|begin_of_text|>",
        "<|end_of_text|>",
        "<|eot_id|>",
        "<|start_header_id|>",
        "<|end_header_id|>",
    )
    core = _byte_level_core(special)
    core.post_processor = processors.TemplateProcessing(
        single="<|begin_of_text|> $A", special_tokens=[("<|begin_of_text|>", 0)]
    )
    tok = PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token="<|begin_of_text|>",
        eos_token="<|end_of_text|>",
        chat_template=LLAMA3_TEMPLATE,
    )
    return _save_llama(folder, tok, bos_token_id=0, eos_token_id=1)


def llama2(folder: Path) -> Path:
    """As sentencepiece: ▁ for spaces, one before whatever stands first, bytes where no piece is."""
    from transformers import LlamaTokenizer

    vocab, merges = _pieces(("<unk>", "<s>", "</s>"))
    tok = LlamaTokenizer(vocab=vocab, merges=merges, add_bos_token=True)
    return _save_llama(folder, tok, bos_token_id=1, eos_token_id=2)


def code_llama(folder: Path) -> Path:
    from transformers import CodeLlamaTokenizer

    vocab, merges = _pieces(("<unk>", "<s>", "</s>", "▁<PRE>", "▁<MID>", "▁<SUF>", "▁<EOT>"))
    tok = CodeLlamaTokenizer(vocab=vocab, merges=merges)
    return _save_llama(folder, tok, bos_token_id=1, eos_token_id=2)


def xgen(folder: Path, code: str | None = None) -> Path:
    """Llama's weights, and a tokenizer that is Python code of the repository; ``code``: other
    code than ``tokenization_xgen.py`` below."""
    from transformers import LlamaConfig, LlamaForCausalLM

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenization_xgen.py").write_text(code or XGEN_CODE, encoding="utf-8")
    told = {
        "auto_map": {"AutoTokenizer": ["tokenization_xgen.XgenTokenizer", None]},
        "tokenizer_class": "XgenTokenizer",
        "eos_token": "<|endoftext|>",
        "add_eos_token": False,
        "model_max_length": 256,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(told))
    config = LlamaConfig(**_shape(288), bos_token_id=256, eos_token_id=256)
    _model(LlamaForCausalLM, config).save_pretrained(str(folder))
    return folder


#: By family: who makes a checkpoint of it, and how it is usually asked.
MAKERS: dict[str, tuple[Callable[[Path], Path], str]] = {
    "codegen": (codegen, "completions"),
    "starcoder": (starcoder, "completions"),
    "starcoder2": (starcoder2, "completions"),
    "qwen2.5-coder": (qwen25, "completions"),
    "qwen2.5-coder-instruct": (qwen25_instruct, "chat"),
    "qwen3": (qwen3, "chat"),
    "qwen3-coder": (qwen3_coder, "chat"),
    "llama-2": (llama2, "completions"),
    "code-llama": (code_llama, "completions"),
    "llama-3": (llama3, "completions"),
    "xgen": (xgen, "completions"),
}

#: Bytes, and runs of spaces as tokens of their own, behind the class and methods that XGen's has.
XGEN_CODE = """\
from transformers.tokenization_utils import PreTrainedTokenizer


class XgenTokenizer(PreTrainedTokenizer):
    model_input_names = ["input_ids", "attention_mask"]

    def __init__(self, eos_token="<|endoftext|>", add_eos_token=False, **kwargs):
        self.add_eos_token = add_eos_token
        self.runs = {" " * n: 256 + n for n in range(2, 24)}
        super().__init__(eos_token=eos_token, add_eos_token=add_eos_token, **kwargs)

    @property
    def vocab_size(self):
        return 280

    def get_vocab(self):
        plain = {f"<0x{i:02X}>": i for i in range(256)} | self.runs | {"<|endoftext|>": 256}
        return plain | self.added_tokens_encoder

    def _tokenize(self, text, **kwargs):
        pieces, i = [], 0
        while i < len(text):
            run = len(text[i:]) - len(text[i:].lstrip(" "))
            if run > 1:
                pieces.append(" " * min(run, 23))
                i += min(run, 23)
            else:
                pieces += [f"<0x{b:02X}>" for b in text[i].encode()]
                i += 1
        return pieces

    def _convert_token_to_id(self, token):
        return self.get_vocab()[token]

    def _convert_id_to_token(self, index):
        return {i: token for token, i in self.get_vocab().items()}.get(index, "")

    def _decode(self, token_ids, skip_special_tokens=False, **kwargs):
        ids = token_ids if isinstance(token_ids, list) else [token_ids]
        if skip_special_tokens:
            ids = [i for i in ids if i not in self.all_special_ids]
        out = b""
        for i in ids:
            token = self._convert_id_to_token(i)
            out += bytes([i]) if i < 256 else token.encode()
        return out.decode("utf-8", "replace")

    def build_inputs_with_special_tokens(self, token_ids_0, token_ids_1=None):
        return token_ids_0 + ([self.eos_token_id] if self.add_eos_token else [])

    def save_vocabulary(self, save_directory, filename_prefix=None):
        return ()
"""


# -- parts ----------------------------------------------------------------------------------------


def _shape(vocab: int) -> dict[str, Any]:
    return {
        "vocab_size": vocab,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
        "initializer_range": 0.05,
    }


def _model(kind: Any, config: Any) -> Any:
    import torch

    torch.manual_seed(0)
    return kind(config).eval()


def _save(folder: Path, tok: Any, kind: Any, config: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    tok.save_pretrained(str(folder))
    _model(kind, config).save_pretrained(str(folder))
    return folder


def _save_llama(folder: Path, tok: Any, **ends: int) -> Path:
    from transformers import LlamaConfig, LlamaForCausalLM

    return _save(folder, tok, LlamaForCausalLM, LlamaConfig(**_shape(len(tok)), **ends))


def _qwen_tokenizer(template: str, eos: str) -> Any:
    from transformers import Qwen2Tokenizer

    vocab, merges = _byte_level(_QWEN_SPECIAL)
    return Qwen2Tokenizer(
        vocab=vocab,
        merges=merges,
        eos_token=eos,
        additional_special_tokens=list(_QWEN_SPECIAL[1:]),
        chat_template=template,
    )


def _byte_level_core(special: Sequence[str]) -> Any:
    from tokenizers import Tokenizer, decoders, pre_tokenizers
    from tokenizers.models import BPE

    vocab, merges = _byte_level(special)
    made = Tokenizer(BPE(vocab=vocab, merges=merges))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens(list(special))
    return made


def _byte_level(special: Sequence[str]) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Vocabulary and merges of a byte-level BPE; the special tokens have the first ids."""
    learnt = json.loads(tiny.tokenizer(vocab=340).backend_tokenizer.to_str())["model"]
    plain = [name for name in learnt["vocab"] if not name.startswith("<|")]
    vocab = {name: i for i, name in enumerate([*special, *plain])}
    return vocab, [(a, b) for a, b in learnt["merges"]]


def _pieces(special: Sequence[str]) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Vocabulary and merges as a sentencepiece BPE with bytes to fall back on has them."""
    from tokenizers import Tokenizer, models, trainers

    lines = [f"▁{line}".replace(" ", "▁") for text in tiny.CORPUS for line in text.split("\n")]
    core = Tokenizer(models.BPE())
    core.train_from_iterator(lines, trainers.BpeTrainer(vocab_size=200, show_progress=False))
    learnt = json.loads(core.to_str())["model"]
    names = [*special, *(f"<0x{i:02X}>" for i in range(256)), *learnt["vocab"]]
    merges = [(a, b) for a, b in learnt["merges"]]
    return {name: i for i, name in enumerate(names)}, merges
