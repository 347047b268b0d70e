"""What a training needs of memory and what there is: said before any weights are read.

The parameters are counted exactly, on a model without storage built from the configuration.
What they cost in weights, gradients and optimizer states is arithmetic; what the forward pass
keeps for the backward one is an estimate (``_activations``), held against measured trainings by
``bench/memory.py``. All is of one process, in bytes; shared-out states only where told.
"""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

from persd.config import TrainTable
from persd.errors import UserError
from persd.models.checkpoint import Source, has_bf16, load_config, pick_device, quiet
from persd.train import ranks
from persd.train.order import rows_of_a_pass

GIB = 2**30
Kind = Literal["cuda", "cpu", "mps"]

#: Tokens and vocabulary of one tile of the logits as TRL's head makes them on a GPU.
_TILE = (4096, 32768)
#: Numbers kept by a layer for the backward pass, a token: of the hidden size, of the inner one.
#: Counted in a Llama's layer it is 11 and 4; measured, with what the allocator leaves unused, 16
#: and 5 (``bench/memory.py``).
_KEPT = (16, 5)
#: Numbers a token and entry of the vocabulary on a CPU: logits, their softmax and its gradients,
#: the last two where there are labels.
_LOGITS = 2.5
#: What libraries, kernels and buffers take beside, in bytes.
_BESIDE = {"cuda": GIB // 2, "cpu": GIB // 8, "mps": GIB // 4}
#: Bytes of a weight in 4 bits, with its share of the scales.
_FOUR_BITS = 0.53


@dataclass(frozen=True, slots=True)
class Shape:
    """What of a model decides about memory."""

    parameters: int
    """Tied embeddings counted once."""
    linear: int
    """Those of them in linear layers, without the head: what 4 bits apply to."""
    linear_ends: int
    """Inputs and outputs of these layers, added up: an adapter has so many, times its rank."""
    hidden: int
    inner: int
    """Width of the feed-forward part that a token goes through."""
    layers: int
    heads: int
    vocabulary: int
    half: bool = True
    """Whether its checkpoint is stored in half precision."""


@dataclass(frozen=True, slots=True)
class Need:
    """Bytes that a training takes, by what for."""

    weights: int
    gradients: int
    optimizer: int
    activations: int
    logits: int
    beside: int
    merging: int = 0
    """What writing the checkpoint takes more than training it: the base read anew, to merge the
    adapters into it."""

    @property
    def total(self) -> int:
        return sum(self.parts.values())

    @property
    def parts(self) -> dict[str, int]:
        return {name: int(getattr(self, name)) for name in self.__slots__}


@dataclass(frozen=True, slots=True)
class Place:
    """Where it is to be trained."""

    kind: Kind
    bf16: bool = False
    """Whether it computes in bfloat16 by itself (``train.dtype = "auto"``)."""
    four_bit: bool = False
    """Whether bitsandbytes is there: 4-bit weights and 8-bit optimizers."""
    processes: int = 1
    shards: int = 1
    """Over how many processes weights, gradients and states are shared out."""


# -- what it needs --------------------------------------------------------------------------------


def shape_of(config: Any, *, trust_remote_code: bool = False) -> Shape:
    """The shape of a causal model, from its configuration alone; nothing is allocated.

    Raises ValueError where there is no causal model of that configuration.
    """
    import torch
    from transformers import AutoModelForCausalLM

    with quiet(), torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)
    head = model.get_output_embeddings()
    linear = [m for m in model.modules() if isinstance(m, torch.nn.Linear) and m is not head]
    text = config.get_text_config()
    return Shape(
        parameters=sum(p.numel() for p in model.parameters()),
        linear=sum(m.weight.numel() for m in linear),
        linear_ends=sum(m.in_features + m.out_features for m in linear),
        hidden=text.hidden_size,
        inner=_inner(text),
        layers=text.num_hidden_layers,
        heads=text.num_attention_heads,
        vocabulary=text.vocab_size,
        half=text.dtype in (torch.bfloat16, torch.float16),
    )


def _inner(text: Any) -> int:
    """Width of the feed-forward part, of all the experts that a token is given to."""
    experts = getattr(text, "num_experts_per_tok", None)
    if experts and getattr(text, "moe_intermediate_size", None):
        return int(experts * text.moe_intermediate_size)
    for name in ("intermediate_size", "n_inner", "ffn_dim"):
        if value := getattr(text, name, None):
            return int(value)
    return 4 * int(text.hidden_size)


#: Parameters (billions), hidden size, inner size, layers, heads of usual code models.
_USUAL = (
    (0.1, 512, 1536, 12, 8),
    (0.5, 896, 4864, 24, 14),
    (1.5, 1536, 8960, 28, 12),
    (3.0, 2048, 11008, 36, 16),
    (7.6, 3584, 18944, 28, 28),
    (14.8, 5120, 13824, 48, 40),
    (32.8, 5120, 27648, 64, 40),
    (72.7, 8192, 29568, 80, 64),
)


def usual_shape(parameters: float) -> Shape:
    """A model of that many parameters, of the proportions that code models of that size have."""
    billions = parameters / 1e9
    first, second = _around(billions)
    share = (math.log(billions) - math.log(first[0])) / (math.log(second[0]) - math.log(first[0]))
    share = min(1.0, max(0.0, share))
    hidden, inner, layers, heads = (
        int(a + share * (b - a)) for a, b in zip(first[1:], second[1:], strict=True)
    )
    vocabulary = 152_000
    embedded = vocabulary * hidden * (1 if billions < 5 else 2)
    linear = max(int(parameters) - embedded, int(parameters) // 2)
    ends = layers * (7 * hidden + 3 * (hidden + inner))
    return Shape(int(parameters), linear, ends, hidden, inner, layers, heads, vocabulary)


def _around(billions: float) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The two usual models between which a size lies; the outermost two for one beyond."""
    pairs = list(pairwise(_USUAL))
    return next((pair for pair in pairs if billions <= pair[1][0]), pairs[-1])


def _rows(settings: TrainTable, place: Place) -> int:
    """Rows that one process reads together."""
    return rows_of_a_pass(settings, max(1, settings.batch_size // place.processes), place.kind)


def need(shape: Shape, settings: TrainTable, longest: int, place: Place) -> Need:
    """What a training takes whose longest row has ``longest`` tokens."""
    rows = _rows(settings, place)
    in_half = settings.dtype == "bfloat16" or (settings.dtype == "auto" and place.bf16)
    computed = 2 if in_half else 4
    stored = _stored(shape, settings, place)
    weights, trained = _weights(shape, settings, stored, computed)
    of_trained = stored if settings.method == "full" else 4
    found = Need(
        weights=weights // place.shards,
        gradients=trained * of_trained // place.shards,
        optimizer=_states(trained, settings, of_trained) // place.shards,
        activations=_activations(shape, settings, rows, longest, computed, stored),
        logits=_logits(shape, rows * longest, computed, place),
        beside=_BESIDE[place.kind],
    )
    return replace(found, merging=_merging(shape, settings, found, place))


def _stored(shape: Shape, settings: TrainTable, place: Place) -> int:
    """Bytes of a weight: frozen ones stay in half precision where it is computed in anyway."""
    frozen = settings.method != "full" and settings.dtype == "auto" and place.bf16 and shape.half
    return 2 if settings.dtype == "bfloat16" or frozen else 4


def _weights(shape: Shape, settings: TrainTable, stored: int, computed: int) -> tuple[int, int]:
    """Bytes of the weights, and how many are trained; adapters are in float32.

    Where stored and computed differ, autocast holds the linear layers once more as computed,
    until the backward pass is done.
    """
    copies = shape.linear * computed if computed < stored else 0
    if settings.method == "full":
        return shape.parameters * stored + copies, shape.parameters
    adapters = settings.lora.rank * shape.linear_ends
    if settings.method == "qlora":
        rest = (shape.parameters - shape.linear) * computed
        return int(shape.linear * _FOUR_BITS) + rest + adapters * 4, adapters
    return shape.parameters * stored + copies + adapters * 4, adapters


def _states(trained: int, settings: TrainTable, stored: int) -> int:
    """Bytes of the optimizer's states, which are of the weights' own type."""
    each = {"adamw": 2.0 * stored, "adamw_8bit": 2.0, "adafactor": 0.05}[settings.optimizer]
    return int(trained * each)


def _merging(shape: Shape, settings: TrainTable, training: Need, place: Place) -> int:
    """The base once more, where it is read into the same memory; what training took is free."""
    if settings.method == "full" or not settings.merge or place.kind == "cuda":
        return 0
    freed = training.gradients + training.optimizer + training.activations + training.logits
    return max(0, shape.parameters * (2 if shape.half else 4) - freed)


def _activations(
    shape: Shape, settings: TrainTable, rows: int, longest: int, computed: int, stored: int
) -> int:
    """Bytes that the forward pass keeps.

    tokens x layers x (16 x hidden + 5 x inner) numbers as computed; with gradient checkpointing
    the input of every layer, as stored, and all of one layer with its gradients. The kernels of
    sdpa and flash attention keep no scores; eager attention keeps rows x heads x length^2, twice.
    """
    tokens = rows * longest
    layer = tokens * (_KEPT[0] * shape.hidden + _KEPT[1] * shape.inner) * computed
    if settings.attention == "eager":
        layer += 2 * rows * shape.heads * longest**2 * computed
    if settings.gradient_checkpointing:
        return 2 * layer + shape.layers * tokens * shape.hidden * stored
    return layer * shape.layers


def _logits(shape: Shape, tokens: int, computed: int, place: Place) -> int:
    """Bytes of the logits and what the loss makes of them: whole on a CPU, in tiles on a GPU."""
    if place.kind == "cpu":
        return int(_LOGITS * tokens * shape.vocabulary * 4)
    tile = min(tokens, _TILE[0]) * min(shape.vocabulary, _TILE[1])
    return 2 * tile * computed + tokens * shape.hidden * 4


# -- what there is --------------------------------------------------------------------------------


def place_here() -> Place:
    """The device that a training in this process takes, and what it offers."""
    from importlib.util import find_spec

    device = pick_device(None)
    cuda = device.type == "cuda"
    kind: Kind = "cuda" if cuda else "mps" if device.type == "mps" else "cpu"
    return Place(
        kind,
        bf16=has_bf16(device),
        four_bit=cuda and find_spec("bitsandbytes") is not None,
        processes=ranks.size(),
        shards=ranks.size() if ranks.sharing() else 1,
    )


def available(kind: Kind) -> int | None:
    """Bytes a training may take in this process; None: it cannot be found out.

    As many GiB as PERSD_MEMORY says; else a GPU's free memory, with what torch holds of it
    unused, or the machine's, within the limit of this process's group, less a reserve of a
    sixteenth, and shared by the processes that train together here. Raises UserError for a
    PERSD_MEMORY that is no number.
    """
    if told := os.environ.get("PERSD_MEMORY"):
        return _told(told)
    if kind == "cuda":
        import torch

        free, _ = torch.cuda.mem_get_info()
        return int(free + torch.cuda.memory_reserved() - torch.cuda.memory_allocated())
    free_here = ram_free()
    if free_here is None:
        return None
    beside = int(os.environ.get("LOCAL_WORLD_SIZE") or 1)
    return int(free_here * 15 / 16) // beside


def _told(gibs: str) -> int:
    """Bytes of a number of GiB that the user gives."""
    try:
        return int(float(gibs) * GIB)
    except (ValueError, OverflowError):
        raise UserError(
            f"PERSD_MEMORY = {gibs!r} is no number of GiB", hint="Say 64, or leave it out."
        ) from None


def ram_total() -> int | None:
    """Bytes of memory of this machine, or of this process's group where it has less."""
    try:
        whole = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return None
    limit = _group_limit()
    return min(whole, limit[0]) if limit else whole


def ram_free(root: Path = Path("/")) -> int | None:
    """Bytes that could be taken without pushing others out."""
    found = []
    try:
        for line in (root / "proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                found.append(int(line.split()[1]) * 1024)
    except (OSError, ValueError, IndexError):
        total = ram_total() if root == Path("/") else None
        if total is not None and sys.platform == "darwin":
            found.append(total // 2)  # what is free there is not told; half is a fair guess
    if limit := _group_limit(root):
        found.append(max(0, limit[0] - limit[1]))
    return min(found, default=None)


def _group_limit(root: Path = Path("/")) -> tuple[int, int] | None:
    """Limit and use, in bytes, of the tightest control group around this process; None: none.

    What a group keeps of files (``inactive_file``) can be taken back and is no use of it.
    """
    limits = [limit for folder in _groups(root) if (limit := _limit_in(folder)) is not None]
    return min(limits, key=lambda limit: limit[0] - limit[1], default=None)


def _groups(root: Path) -> Iterator[Path]:
    """Folders of this process's control groups, versions 2 and 1, up to their roots."""
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        _, kinds, inside = [*line.split(":", 2), "", "", ""][:3]
        top = root / "sys/fs/cgroup"
        if kinds and "memory" not in kinds.split(","):
            continue
        top = top / "memory" if kinds else top
        folder = top / inside.lstrip("/")
        yield from [f for f in (folder, *folder.parents) if f.is_relative_to(top)]


def _limit_in(folder: Path) -> tuple[int, int] | None:
    for limit, use in (
        ("memory.max", "memory.current"),
        ("memory.limit_in_bytes", "memory.usage_in_bytes"),
    ):
        try:
            most = int((folder / limit).read_text())
            used = int((folder / use).read_text())
            kept = (folder / "memory.stat").read_text().split()
        except (OSError, ValueError):  # "max": no limit
            continue
        if most < 2**60:  # version 1 says so that there is none
            files = int(kept[kept.index("inactive_file") + 1]) if "inactive_file" in kept else 0
            return most, max(0, used - files)
    return None


# -- what would fit -------------------------------------------------------------------------------


def refuse_too_big(
    source: Source, settings: TrainTable, lengths: Sequence[int], *, have: int | None = None
) -> None:
    """Raises UserError where a training will not fit, with what would; nothing is loaded.

    ``lengths``: tokens of the rows. ``have``: bytes, in place of what there is. Where either
    cannot be known (no such model, no such figure) nothing is refused: loading will tell.
    """
    place = place_here()
    have = available(place.kind) if have is None else have
    if have is None or not lengths:
        return
    try:
        config = load_config(source)
        shape = shape_of(config, trust_remote_code=source.trust_remote_code)
    except (UserError, ValueError, AttributeError, ImportError, TypeError):
        return
    longest = max(lengths)
    wanted = need(shape, settings, longest, place)
    if wanted.total <= have:
        return
    most = sorted(wanted.parts.items(), key=lambda part: -part[1])[:3]
    told = ", ".join(f"{name} {gib(size)}" for name, size in most)
    rows = _rows(settings, place)
    raise UserError(
        f"training this model of {size_name(shape.parameters)} parameters on {rows} rows of up to"
        f" {longest} tokens needs about {gib(wanted.total)} ({told}), and there are {gib(have)}",
        where=source.name,
        hint=f"{_what_fits(shape, settings, longest, place, have)} (PERSD_MEMORY = the GiB there"
        " are, where you know better.)",
    )


def _what_fits(shape: Shape, settings: TrainTable, longest: int, place: Place, have: int) -> str:
    """What to change so that it fits, as one sentence."""
    changes = fitting(shape, settings, longest, place, have)
    if changes:
        told = ", ".join(f"train.{key} = {_toml(value)}" for key, value in changes.items())
        would = need(shape, settings.but(**changes), longest, place).total
        return f"{told} would fit ({gib(would)})."
    size = largest(settings.but(**_least(place)), longest, place, have)
    if not size:
        return "No student fits here: use another machine, or shorter rows (train.max_length)."
    return (
        f"No setting makes it fit: a student of up to {size_name(size)} parameters would,"
        f" with {', '.join(f'train.{k} = {_toml(v)}' for k, v in _least(place).items())}."
    )


def fitting(
    shape: Shape, settings: TrainTable, longest: int, place: Place, have: int
) -> dict[str, Any] | None:
    """The first changes of the settings with which a training fits, the mildest first; None:
    there are none, {}: it fits as it is."""
    for changes in _milder(settings, place):
        if need(shape, settings.but(**changes), longest, place).total <= have:
            return _without_the_needless(changes, shape, settings, longest, place, have)
    return None


def _milder(settings: TrainTable, place: Place) -> Iterator[dict[str, Any]]:
    """Changes one upon the other, by how little they change: fewer rows a pass (the gradients
    stay the same), time for memory, half precision, smaller states, adapters, 4 bits."""
    changes: dict[str, Any] = {}
    yield changes
    rows = _rows(settings, place)
    share = max(1, settings.batch_size // place.processes)
    for fewer in (r for r in range(rows - 1, 0, -1) if share % r == 0):
        changes = {**changes, "micro_batch": fewer}
        yield changes
    for key, value in _steps(settings, place):
        changes = {**changes, key: value}
        yield changes


def _steps(settings: TrainTable, place: Place) -> Iterator[tuple[str, Any]]:
    if not settings.gradient_checkpointing:
        yield "gradient_checkpointing", True
    if settings.dtype != "bfloat16":
        yield "dtype", "bfloat16"
    if settings.method == "full" and settings.optimizer == "adamw":
        yield "optimizer", "adamw_8bit" if place.four_bit else "adafactor"
    if settings.method == "full":
        yield "method", "lora"
    if settings.method != "qlora" and place.four_bit:
        yield "method", "qlora"


def _without_the_needless(
    changes: dict[str, Any],
    shape: Shape,
    settings: TrainTable,
    longest: int,
    place: Place,
    have: int,
) -> dict[str, Any]:
    """The changes without those that the last one makes needless."""
    kept = dict(changes)
    for key in list(changes)[:-1]:
        fewer = {k: v for k, v in kept.items() if k != key}
        if need(shape, settings.but(**fewer), longest, place).total <= have:
            kept = fewer
    return kept


def _least(place: Place) -> dict[str, Any]:
    """The settings that need least."""
    return dict(_steps(TrainTable(), place)) | {"micro_batch": 1}


def largest(settings: TrainTable, longest: int, place: Place, have: int) -> int:
    """Parameters of the largest model of usual proportions that fits; 0: none of 10 million."""
    low, high = 10**7, 10**12

    def fits(parameters: int) -> bool:
        return need(usual_shape(parameters), settings, longest, place).total <= have

    if not fits(low):
        return 0
    while high > 1.02 * low:
        middle = int(math.sqrt(low * high))
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def gib(size: float) -> str:
    """Bytes as a person reads them."""
    return f"{size / GIB:.1f} GiB" if size >= GIB / 10 else f"{size / 2**20:.0f} MiB"


def size_name(parameters: float) -> str:
    """A number of parameters as a person reads it: 7.6B, 350M."""
    if parameters >= 1e9:
        return f"{parameters / 1e9:.1f}B"
    return f"{parameters / 1e6:.0f}M" if parameters >= 1e7 else f"{parameters / 1e6:.1f}M"


def _toml(value: Any) -> str:
    return json.dumps(value)  # of a word, a number and a truth it is TOML too
