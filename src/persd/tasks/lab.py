"""The embedded task family: chains of 1-4 small steps over lists, words, text and numbers.

Deterministic, without files: the same seed gives the same tasks in the same order, and a
smaller count a prefix of a larger one. Tasks of the splits ``pool``, ``heldout``,
``validation`` and ``pretrain`` (what the embedded student learnt from) share no chain.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import replace

from persd.errors import UserError
from persd.lab import family
from persd.records import Task, derive_seed

POOL_MIX: Mapping[int, float] = {2: 0.4, 3: 0.4, 4: 0.2}
HELDOUT_MIX: Mapping[int, float] = {2: 0.2, 3: 0.6, 4: 0.2}
_TRIES = 2000


def load(
    *,
    count: int,
    seed: int,
    split: family.Split = "pool",
    mix: Mapping[int, float] | None = None,
) -> list[Task]:
    """``count`` different tasks of a split.

    ``mix`` gives the share of each number of steps (1-4); None: 40/40/20 % of 2/3/4 steps
    for the pool, 20/60/20 % for the others. Every prefix keeps to the shares. Raises
    UserError where the mix is unusable or the split holds too few different tasks.
    """
    shares = _shares(mix if mix is not None else POOL_MIX if split == "pool" else HELDOUT_MIX)
    rng = random.Random(derive_seed("lab", split, seed))
    tasks: dict[str, Task] = {}
    made = dict.fromkeys(shares, 0)
    while len(tasks) < count:
        length = max(shares, key=lambda n: shares[n] * (len(tasks) + 1) - made[n])
        task = _new_task(rng, length, split, tasks)
        tasks[task.task_id] = task
        made[length] += 1
    return list(tasks.values())


def in_style(task: Task, style: str) -> Task:
    """The task with its reference in another of the family's styles: ``loop`` is the student's
    own, ``chain`` and ``nested`` are foreign to it."""
    chain = family.chain_of(task)
    if chain is None:
        return task
    return replace(task, reference=family.program(chain, style))  # type: ignore[arg-type]


def _shares(mix: Mapping[int, float]) -> dict[int, float]:
    bad = [n for n, share in mix.items() if n not in family.PRETRAIN_SHARE or share < 0]
    total = sum(mix.values())
    if bad or total <= 0:
        raise UserError(
            f"lab mix {dict(mix)!r} is not a share for each number of steps",
            hint="Use steps 1 to 4 with positive shares, as in {2 = 0.4, 3 = 0.6}",
        )
    return {n: share / total for n, share in sorted(mix.items()) if share > 0}


def _new_task(
    rng: random.Random, length: int, split: family.Split, known: Mapping[str, Task]
) -> Task:
    for _ in range(_TRIES):
        chain = family.draw_chain(rng, length)
        if family.split_of(family.signature(chain)) != split:
            continue
        task = family.make_task(chain, family.instruction(rng, chain), split)
        if task is not None and task.task_id not in known:
            return task
    raise UserError(
        f"the lab split {split!r} has no more tasks of {length} step(s)",
        hint="Ask for fewer tasks, or for chains of other lengths",
    )
