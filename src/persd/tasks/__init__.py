"""Where tasks come from, a module a source; ``load`` opens one by its name."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib import import_module
from itertools import islice
from typing import Literal

from persd.errors import UserError
from persd.records import Task
from persd.tasks.rows import Fault

SOURCES = ("humaneval", "mbpp", "persdistill", "lab", "jsonl")
Split = Literal["train", "test", "all"]


def load(
    source: str,
    *,
    path: str | None = None,
    limit: int | None = None,
    split: Split = "train",
    seed: int = 0,
) -> Iterator[Task]:
    """The tasks of a source, in its order; the first ``limit`` of them.

    ``path`` is a local file (a folder for ``persdistill``) in place of the Hub. ``split``
    matters where a source has one: MBPP (train 601-974, test 11-510; all 1-974, every assert
    hidden) and lab (train or test), which makes its tasks from ``seed``. A source that is a
    file's path is read as ``jsonl``. Raises UserError at the first row that is no task.
    """
    if limit is not None and limit < 1:
        raise UserError(f"a limit of {limit} tasks", hint="Use 1 or more, or leave it out")
    if source == "lab":
        yield from _lab(limit, split, seed)
        return
    for item in islice(read(source, path=path, split=split), limit):
        if isinstance(item, Fault):
            raise item.error()
        yield item


def read(source: str, *, path: str | None = None, split: Split = "train") -> Iterator[Task | Fault]:
    """Every row of a source as a task, or as the fault that keeps it from being one."""
    if source not in SOURCES and source.endswith((".jsonl", ".jsonl.gz", ".json")):
        source, path = "jsonl", source
    if source not in SOURCES or source == "lab":
        raise UserError(
            f'unknown task source "{source}"', hint=f"Use one of {', '.join(SOURCES)}, or a file"
        )
    if source == "jsonl" and path is None:
        raise UserError("the jsonl source needs a file", hint='Set tasks.path = "my-tasks.jsonl"')
    module = import_module(f"persd.tasks.{source}")
    if source == "mbpp":
        yield from module.read(path, split=split)
    else:
        yield from module.read(path)


def normal_id(source: str, task_id: object) -> str:
    """A task's id as ``load`` gives it: MBPP's ``11``, ``"11"`` and ``"Mbpp/11"`` are one."""
    text = str(task_id)
    return re.sub("^mbpp/", "", text, flags=re.IGNORECASE) if source == "mbpp" else text


def _lab(limit: int | None, split: Split, seed: int) -> Iterator[Task]:
    from persd.tasks import lab

    count = 300 if limit is None else limit
    yield from lab.load(count=count, seed=seed, split="pool" if split == "train" else "heldout")
