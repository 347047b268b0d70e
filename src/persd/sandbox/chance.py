"""What a program takes for random is the same each time it runs, so that verdicts are stable.

Unseeded generators, ``os.urandom`` and what is built on it (``secrets``, ``uuid4``, NumPy's
``default_rng()``) are drawn from one stream that starts anew for each program. Hashes are
fixed by the worker's environment. The clock, addresses and the system call itself are not.
"""

from __future__ import annotations

import _random
import os
import random
import sys
from typing import Any

_stream = random.Random(0)
_shared: Any = random._inst
_seed = random.Random.seed
_plain_seed = _random.Random.seed  # what ``_seed`` does for a whole number


def fix() -> None:
    """From here on, in this process and its forks."""
    random.Random.seed = _from_stream  # type: ignore[method-assign]
    random.seed = _shared.seed
    os.urandom = random._urandom = _stream.randbytes  # type: ignore[attr-defined]


def _from_stream(self: random.Random, a: Any = None, version: int = 2) -> None:
    _seed(self, _stream.getrandbits(64) if a is None else a, version)


def start(seed: int) -> None:
    """A program begins: the stream and the shared generators start anew."""
    _plain_seed(_stream, seed)
    _plain_seed(_shared, seed)
    _shared.gauss_next = None
    numpy = sys.modules.get("numpy.random")
    if numpy is not None:
        numpy.seed(seed)
