"""A student made on the spot and rows to train it on, for the benches of training and sampling.

Nothing is downloaded: a Qwen2 of random weights, a byte-level BPE tokenizer trained on the rows,
and rows of the paper's release (``--release``), of a file (``--data``) or, without either, the
functions of Python's own library: signature and docstring, then the body.
"""

from __future__ import annotations

import argparse
import ast
import json
import random
import sysconfig
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

#: Hidden size, layers, heads, key-value heads and vocabulary, by size.
SHAPES = {
    "1M": (96, 3, 4, 2, 4096),
    "5M": (256, 4, 4, 2, 8192),
    "150M": (768, 16, 12, 4, 16384),
    "400M": (1024, 28, 16, 8, 16384),
}
CONTEXT = 2048

Pair = tuple[str, str]


def add_row_arguments(parser: argparse.ArgumentParser, rows: int) -> None:
    parser.add_argument("--release", type=Path, help="folder of the paper's released files")
    parser.add_argument("--data", type=Path, help="JSON lines with prompt and completion")
    parser.add_argument("--rows", type=int, default=rows, help="taken by chance from them; 0: all")


def read_pairs(args: argparse.Namespace) -> list[Pair]:
    """Prompts and completions to train on: ``--rows`` of them, the same ones every time."""
    if args.release:
        pairs = released(args.release)
    elif args.data:
        lines = map(json.loads, args.data.read_text(encoding="utf-8").splitlines())
        pairs = [(row["prompt"], row["completion"]) for row in lines]
    else:
        pairs = list(python_functions())
    wanted = min(args.rows or len(pairs), len(pairs))
    return random.Random(0).sample(pairs, wanted)


def released(folder: Path) -> list[Pair]:
    """PERsD-combined of the released files, imported, judged and built as the product does."""
    from persd.build import build_rounds
    from persd.importing import import_release, release_config
    from persd.progress import QUIET
    from persd.run import Run

    with TemporaryDirectory() as scratch:
        import_release(folder, Path(scratch) / "run", QUIET)
        with Run(release_config(folder, Path(scratch) / "run"), QUIET) as run:
            examples, _ = build_rounds(
                run.ledger, lambda: run.box, "persd-combined", [1], limits=run.limits
            )
    return [(e.prompt, e.completion) for e in examples]


def python_functions(longest: int = 120) -> Iterator[Pair]:
    """Documented functions of Python's own library, of so many lines at most."""
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        text = path.read_text(encoding="utf-8", errors="replace")
        lines = text.splitlines(keepends=True)
        for node in ast.parse(text).body:
            if isinstance(node, ast.FunctionDef) and ast.get_docstring(node) and node.body[1:]:
                body, end = node.body[0].end_lineno, node.end_lineno
                if body and end and end - node.lineno < longest:
                    yield "".join(lines[node.lineno - 1 : body]), "".join(lines[body:end])


def make_student(folder: Path, size: str, pairs: Sequence[Pair]) -> Path:
    """Write a checkpoint of random weights whose tokenizer knows the rows; gives the folder."""
    tokenizer = make_tokenizer([p + c for p, c in pairs], SHAPES[size][-1])
    tokenizer.save_pretrained(str(folder))
    make_model(size, len(tokenizer), tokenizer.eos_token_id).save_pretrained(str(folder))
    return folder


def make_model(size: str, vocabulary: int, end: int) -> Any:
    """A Qwen2 of random weights, always the same."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    hidden, layers, heads, kv_heads, _ = SHAPES[size]
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=-(-vocabulary // 64) * 64,
        hidden_size=hidden,
        intermediate_size=hidden * 8 // 3 // 32 * 32,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        eos_token_id=end,
        pad_token_id=end,
        bos_token_id=None,
    )
    return Qwen2ForCausalLM(config)


def make_tokenizer(texts: Sequence[str], vocabulary: int) -> Any:
    """A byte-level BPE of so many tokens at most, trained on the texts."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=core, eos_token="<|endoftext|>", pad_token="<|endoftext|>"
    )
