"""In which order the rows are trained on: decided by the seed, before the training begins."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence


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
