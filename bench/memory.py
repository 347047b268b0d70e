"""What trainings take of memory, against what is foretold: estimate, measured peak, their ratio.

    python bench/memory.py

Each shape is trained for two steps by ``persd.train`` in a process of its own, on rows of one
length. On a CPU the peak is that of the process's resident memory over what it had before the
weights were read; on a GPU what torch had allocated at most.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

#: What is foretold should lie in this range of what is measured.
WANTED = (0.8, 1.5)
#: Hidden size, inner size, layers, heads, vocabulary; rows of a pass, tokens of a row; settings.
SHAPES: dict[str, tuple[tuple[int, int, int, int, int], tuple[int, int], dict[str, Any]]] = {
    "weights count most": ((768, 2048, 6, 12, 2000), (1, 64), {}),
    "activations count most": ((256, 1024, 6, 8, 1000), (4, 1024), {}),
    "the same, checkpointed": (
        (256, 1024, 6, 8, 1000),
        (4, 1024),
        {"gradient_checkpointing": True},
    ),
    "logits count most": ((256, 704, 4, 8, 32000), (4, 512), {}),
    "half precision": ((768, 2048, 6, 12, 2000), (1, 256), {"dtype": "bfloat16"}),
    "small states": ((768, 2048, 6, 12, 2000), (1, 64), {"optimizer": "adafactor"}),
    "adapters": ((768, 2048, 6, 12, 2000), (2, 256), {"method": "lora"}),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--only", help="a shape's name, or the beginning of it")
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measure(args.one)))
        return
    print(f"{'':28}{'parameters':>12}{'foretold':>12}{'measured':>12}{'ratio':>8}")
    for name in SHAPES:
        if not args.only or name.startswith(args.only):
            tell(name, in_a_process_of_its_own(name))


def in_a_process_of_its_own(name: str) -> dict[str, float]:
    command = [sys.executable, __file__, "--one", name]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    if done.returncode:
        raise SystemExit(f"{name}: {done.stderr[-2000:]}")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def tell(name: str, found: dict[str, float]) -> None:
    ratio = found["foretold"] / found["measured"]
    sizes = "".join(f"{found[k] / 2**20:>9.0f} MB" for k in ("foretold", "measured"))
    outside = "" if WANTED[0] <= ratio <= WANTED[1] else "  out of range"
    print(f"{name:28}{found['parameters'] / 1e6:>11.1f}M{sizes}{ratio:>8.2f}{outside}")


def measure(name: str) -> dict[str, float]:
    """Train two steps of that shape; bytes foretold and measured."""
    from persd.config import TrainTable
    from persd.models.checkpoint import find, load_config
    from persd.records import Example
    from persd.train import train
    from persd.train.memory import need, place_here, shape_of

    dimensions, (rows, length), changes = SHAPES[name]
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder) / "base"
        make(base, *dimensions)
        text = "x" * (length // 2)
        examples = [
            Example(f"e{i}", "persd", f"t{i}", 1, text, text[1:], "task") for i in range(2 * rows)
        ]
        settings = TrainTable(max_steps=2, batch_size=rows, micro_batch=rows, seed=0, **changes)
        place = place_here()
        shape = shape_of(load_config(find(str(base))))
        foretold = need(shape, settings, length, place).total
        warm_up(folder)
        with Peak(place.kind) as peak:
            train(str(base), examples, Path(folder) / "out", settings)
    return {"foretold": foretold, "measured": peak.bytes, "parameters": shape.parameters}


def warm_up(folder: str) -> None:
    """Train something tiny, so that the libraries are there and count to nobody."""
    from persd.config import TrainTable
    from persd.records import Example
    from persd.train import train

    base = Path(folder) / "tiny"
    make(base, 32, 64, 1, 2, 300)
    row = Example("e", "persd", "t", 1, "xx", "xx", "task")
    train(str(base), [row], Path(folder) / "warm", TrainTable(max_steps=1, batch_size=1, seed=0))


def make(folder: Path, hidden: int, inner: int, layers: int, heads: int, vocabulary: int) -> None:
    """A checkpoint of random weights whose tokens are bytes."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    names = ["<|end|>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    core = Tokenizer(models.BPE(vocab={name: i for i, name in enumerate(names)}, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    tok = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<|end|>", pad_token="<|end|>")
    tok.save_pretrained(str(folder))
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
        eos_token_id=0,
    )
    LlamaForCausalLM(config).save_pretrained(str(folder))


class Peak:
    """Context manager: the most memory taken in it, over what was taken when it began."""

    def __init__(self, kind: str) -> None:
        self.kind, self.bytes, self.begun, self.over = kind, 0, 0, threading.Event()

    def __enter__(self) -> Peak:
        import gc

        gc.collect()
        if self.kind == "cuda":
            import torch

            torch.cuda.reset_peak_memory_stats()
            return self
        self.begun = resident()
        self.thread = threading.Thread(target=self._watch, daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.kind == "cuda":
            import torch

            self.bytes = torch.cuda.max_memory_reserved()
            return
        self.over.set()
        self.thread.join()

    def _watch(self) -> None:
        while not self.over.is_set():
            self.bytes = max(self.bytes, resident() - self.begun)
            time.sleep(0.002)


def resident() -> int:
    """Bytes of this process in memory (Linux)."""
    import os

    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    main()
