"""Where tasks come from, a module a source; ``load`` opens one by its name."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from importlib import import_module
from itertools import chain, islice
from pathlib import Path
from typing import Any, Literal

from persd.errors import UserError
from persd.records import Task
from persd.tasks.rows import Fault

#: Benchmarks by name, from a local file or the Hub, and the module that reads each.
BENCHMARKS = {
    "humaneval": "humaneval",
    "humaneval+": "evalplus",
    "mbpp": "mbpp",
    "mbpp+": "evalplus",
    "mbpp-sanitized": "mbpp",
}
#: Those with MBPP's ids and splits.
MBPP = ("mbpp", "mbpp+", "mbpp-sanitized")
SOURCES = (*BENCHMARKS, "persdistill", "lab", "jsonl")
Split = Literal["train", "test", "all", "validation"]


def load(
    source: str,
    *,
    path: str | None = None,
    limit: int | None = None,
    split: Split = "train",
    seed: int = 0,
    style: str | None = None,
    mix: Mapping[str, float] | None = None,
    unsafe: bool = False,
) -> Iterator[Task]:
    """The tasks of a source, in its order; the first ``limit`` of them.

    ``path`` is a local file (a folder for ``persdistill``) in place of the Hub. ``split``
    matters where a source has one: MBPP and its kin (train 601-974, test 11-510; all 1-974,
    every assert hidden) and lab (train, test or validation), which makes its tasks from ``seed``
    with references in a ``style`` (None: chain) and shares by the steps of a task (``mix``). A
    source that is a file's path is read as ``jsonl``. ``unsafe``: see ``read``. Raises UserError
    at the first row that is no task.
    """
    if limit is not None and limit < 1:
        raise UserError(f"a limit of {limit} tasks", hint="Use 1 or more, or leave it out")
    if source == "lab":
        yield from _lab(limit, split, seed, style, mix)
        return
    for item in islice(read(source, path=path, split=split, unsafe=unsafe), limit):
        if isinstance(item, Fault):
            raise item.error()
        yield item


def read(
    source: str, *, path: str | None = None, split: Split = "train", unsafe: bool = False
) -> Iterator[Task | Fault]:
    """Every row of a source as a task, or as the fault that keeps it from being one.

    ``unsafe``: where the expected values of HumanEval+ and MBPP+ are computed, run their
    solutions even where nothing keeps them from the user's files.
    """
    if source not in SOURCES and source.endswith((".jsonl", ".jsonl.gz", ".json")):
        source, path = "jsonl", source
    if source not in SOURCES or source == "lab":
        raise UserError(
            f'unknown task source "{source}"', hint=f"Use one of {', '.join(SOURCES)}, or a file"
        )
    if source == "jsonl" and path is None:
        raise UserError("the jsonl source needs a file", hint='Set tasks.path = "my-tasks.jsonl"')
    module = import_module(f"persd.tasks.{BENCHMARKS.get(source, source)}")
    options: dict[str, Any] = {"split": split} if source in MBPP else {}
    if source == "mbpp-sanitized":
        options["config"] = "sanitized"
    if source.endswith("+"):
        options |= {"source": source, "unsafe": unsafe}
    yield from module.read(path, **options)


def items_of(
    source: str,
    data: Path | None,
    limit: int | None,
    *,
    split: Split | None = None,
    unsafe: bool = False,
) -> Iterator[Task | Fault]:
    """The rows of a source by name, or of a task file; without a ``split`` of MBPP's, those of
    train and test, each fault once. Raises UserError where there is none, as ``read`` and
    ``load``."""
    path = None if data is None else str(data)
    if source == "lab":
        yield from load("lab", limit=limit, split=split or "train")
        return
    items: Iterable[Task | Fault]
    if source in MBPP and split is None:
        test = read(source, path=path, split="test", unsafe=unsafe)
        items = chain(
            read(source, path=path, split="train", unsafe=unsafe),
            (item for item in test if not isinstance(item, Fault)),  # told once already
        )
    else:
        items = read(source, path=path, split=split or "train", unsafe=unsafe)
    found = islice(items, limit)
    first = next(found, None)
    if first is None:
        raise UserError("it holds no task", where=path or source, hint="A row a task; README.md")
    yield first
    yield from found


def normal_id(source: str, task_id: object) -> str:
    """A task's id as ``load`` gives it: MBPP's ``11``, ``"11"`` and ``"Mbpp/11"`` are one."""
    text = str(task_id)
    return re.sub("^mbpp/", "", text, flags=re.IGNORECASE) if source in MBPP else text


def _lab(
    limit: int | None, split: Split, seed: int, style: str | None, mix: Mapping[str, float] | None
) -> Iterator[Task]:
    from persd.tasks import lab

    count = 300 if limit is None else limit
    named = _LAB_SPLITS.get(split, split)
    # what is no number of steps becomes 0 steps, which lab refuses in its own words
    shares = {int(n) if n.isdecimal() else 0: share for n, share in mix.items()} if mix else None
    tasks = lab.load(count=count, seed=seed, split=named, mix=shares)  # type: ignore[arg-type]
    yield from (lab.in_style(task, style) for task in tasks) if style else tasks


#: The embedded family's names for what others call their splits.
_LAB_SPLITS = {"train": "pool", "test": "heldout", "all": "heldout"}
