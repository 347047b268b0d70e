"""Which rows are trained on, and in which order: the seed decides, before training begins."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate, count, islice, pairwise, repeat

from persd.config import StageTable, TrainTable
from persd.errors import UserError
from persd.train.rows import TokenRow

#: Rows of a pass by kind of device: a CPU gains nothing from more, and fewer pad less.
_ROWS = {"cpu": 4}
_ROWS_ELSEWHERE = 16


def rows_of_a_pass(settings: TrainTable, share: int, device: str) -> int:
    """Rows that a process reads together, of its ``share`` of a batch, on a kind of device."""
    return settings.micro_batch or math.gcd(share, _ROWS.get(device, _ROWS_ELSEWHERE))


class SortedBatches:
    """Random orders of the rows, one an epoch, in which every batch is sorted by length.

    The batches are those of plain shuffling, so the gradients are too; sorted, the passes that
    make up a batch hold rows of like length and little padding. (Whole batches of like length
    save more, and learn worse: each step then sees one kind of row, and weighs short rows'
    tokens more.) Deterministic from the seed.
    """

    def __init__(self, lengths: Sequence[int], batch: int, seed: int) -> None:
        self.lengths, self.batch, self.seed, self.epoch = lengths, batch, seed, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        order = list(range(len(self.lengths)))
        random.Random(f"{self.seed} {self.epoch}").shuffle(order)
        for i in range(0, len(order), self.batch):
            yield from sorted(order[i : i + self.batch], key=self.lengths.__getitem__)


class Evened:
    """An order with blank rows (the place after the last row's) at its end.

    Several processes then make as many passes each. (Left alone, accelerate fills up with rows
    of the epoch's beginning, which count twice.)
    """

    def __init__(self, order: SortedBatches, blanks: int) -> None:
        self.order, self.blanks = order, blanks

    def set_epoch(self, epoch: int) -> None:
        self.order.set_epoch(epoch)

    def __len__(self) -> int:
        return len(self.order) + self.blanks

    def __iter__(self) -> Iterator[int]:
        yield from self.order
        yield from repeat(len(self.order), self.blanks)


class StagedBatches:
    """The whole training as one epoch: each stage's steps in turn, with rows that fit it alone.

    A stage goes through its rows in random orders, one after the other, and all its batches are
    full. Batches are sorted by length. Deterministic from the seed.
    """

    def __init__(
        self,
        lengths: Sequence[int],
        stages: Sequence[StageTable],
        steps: int,
        batch: int,
        seed: int,
    ) -> None:
        self.lengths, self.batch, self.seed = lengths, batch, seed
        self.pools = stage_rows(lengths, stages)
        self.steps = stage_steps(stages, steps)

    def __len__(self) -> int:
        return sum(self.steps) * self.batch

    def __iter__(self) -> Iterator[int]:
        for stage, (pool, steps) in enumerate(zip(self.pools, self.steps, strict=True)):
            rows = self._passes(stage, pool)
            for _ in range(steps):
                yield from sorted(islice(rows, self.batch), key=self.lengths.__getitem__)

    def _passes(self, stage: int, pool: Sequence[int]) -> Iterator[int]:
        for each in count():
            order = list(pool)
            random.Random(f"{self.seed} stage {stage} {each}").shuffle(order)
            yield from order


def stage_rows(lengths: Sequence[int], stages: Sequence[StageTable]) -> list[list[int]]:
    """The rows that fit each stage, by their places. Raises UserError for a stage without any."""
    pools = [[i for i, n in enumerate(lengths) if n <= stage.length] for stage in stages]
    for number, (stage, pool) in enumerate(zip(stages, pools, strict=True), start=1):
        if not pool:
            raise UserError(
                f"stage {number} of train.stages takes rows of up to {stage.length} tokens, and"
                f" the shortest has {min(lengths)}",
                hint=f"Leave the stage out, or give it length = {min(lengths)} or more.",
            )
    return pools


def stage_steps(stages: Sequence[StageTable], steps: int) -> list[int]:
    """How many of the training's steps each stage has; they add up to all of them."""
    ends = [round(steps * share) for share in accumulate(s.share for s in stages)]
    return [after - before for before, after in pairwise([0, *ends[:-1], steps])]


def epoch_steps(rows: int, settings: TrainTable) -> int:
    """Optimizer steps in which so many rows are read once."""
    return math.ceil(rows / settings.batch_size)


def all_steps(rows: int, settings: TrainTable) -> int:
    """Optimizer steps of a training on so many rows that is not stopped early."""
    return settings.max_steps or math.ceil(epoch_steps(rows, settings) * settings.epochs)


def split(
    rows: Sequence[TokenRow], tasks: Mapping[str, str], settings: TrainTable
) -> tuple[list[TokenRow], list[TokenRow]]:
    """The rows to train on and those held out; ``tasks``: the task of each example.

    All rows of a task are on one side. Raises UserError where one side would be empty.
    """
    apart = held_out_tasks((tasks[row.example_id] for row in rows), settings)
    train = [row for row in rows if tasks[row.example_id] not in apart]
    return train, [row for row in rows if tasks[row.example_id] in apart]


def held_out_tasks(tasks: Iterable[str], settings: TrainTable) -> frozenset[str]:
    """The tasks not trained on: ``settings.held_out`` of them, one at least, by chance from the
    seed. Raises UserError where nothing would be left to train on."""
    names = sorted(set(tasks))
    if not settings.held_out:
        return frozenset()
    if len(names) < 2:
        raise UserError(
            f"train.held_out = {settings.held_out:g} wants some tasks beside those trained on, and"
            " there is one task in all",
            hint="Give more tasks, or train.held_out = 0.",
        )
    wanted = min(max(1, round(settings.held_out * len(names))), len(names) - 1)
    return frozenset(random.Random(f"{settings.seed or 0} held out").sample(names, wanted))
