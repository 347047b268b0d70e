"""A mixture: a variant's rows with shares of others, in one training.

Two uses: replay of the student's own attempts that passed, against forgetting; and the paper's
mixing experiment (StanD with each of PERsD's sets, which it found to harm).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from persd.config import StudentTable, TrainTable
from persd.errors import UserError
from persd.models import source_of
from persd.progress import QUIET, Progress
from persd.records import Example, content_id, derive_seed


@dataclass(frozen=True, slots=True)
class Part:
    """What a mixture took from one source."""

    source: str
    rows: int
    size: int
    """Rows, or tokens, as the shares count."""
    wanted: float
    """The size asked for."""

    @property
    def is_short(self) -> bool:
        """Whether the source had clearly less than was asked for."""
        return self.size < 0.95 * self.wanted - 1


def mixed(
    examples: Sequence[Example],
    settings: TrainTable,
    source: Callable[[str], Sequence[Example]],
    size: Callable[[Example], int] = lambda example: 1,
) -> tuple[list[Example], list[Part]]:
    """The examples, then those drawn from each source of ``settings.mix``, and what was taken.

    ``source(name)`` gives all rows of a source, ``size`` what a row counts (1, or its tokens).
    Rows are drawn by chance and without replacement, from the seed alone, until a source's share
    of the whole is reached; one that has less gives all it has. A pair that is there already is
    not taken again.
    """
    own = sum(map(size, examples))
    whole = own / (1 - sum(m.share for m in settings.mix))
    taken, parts = list(examples), []
    there = {(e.prompt, e.completion) for e in examples}
    for table in settings.mix:
        drawn = _drawn(source(table.source), table.share * whole, size, there, settings.seed or 0)
        taken += drawn
        parts.append(Part(table.source, len(drawn), sum(map(size, drawn)), table.share * whole))
    return taken, parts


def _drawn(
    rows: Sequence[Example],
    wanted: float,
    size: Callable[[Example], int],
    there: set[tuple[str, str]],
    seed: int,
) -> list[Example]:
    """Rows by chance up to a size, in their order; adds their pairs to ``there``."""
    by_chance = sorted(rows, key=lambda e: derive_seed(seed, "mix", e.example_id))
    chosen, total = set(), 0
    for example in by_chance:
        pair, count = (example.prompt, example.completion), size(example)
        if pair in there:
            continue
        if total + count / 2 > wanted:
            break
        there.add(pair)
        chosen.add(example.example_id)
        total += count
    return [e for e in rows if e.example_id in chosen]


def with_mix(
    examples: list[Example],
    settings: TrainTable,
    build: Callable[[str], Sequence[Example]],
    student: StudentTable,
    progress: Progress = QUIET,
) -> list[Example]:
    """The examples and what ``train.mix`` adds; ``build`` gives a selection of the run.

    Says what was taken from where. Raises UserError for a source that is neither a selection
    nor a file of rows.
    """
    if not settings.mix or not examples:
        return examples

    def rows(source: str) -> Sequence[Example]:
        return read_rows(source) if is_file(source) else build(source)

    size = _tokens(student) if settings.mix_by == "tokens" else (lambda example: 1)
    taken, parts = mixed(examples, settings, rows, size)
    for part in parts:
        short = f", {part.wanted:.0f} were asked for" if part.is_short else ""
        of = f" of {part.size} tokens" if settings.mix_by == "tokens" else ""
        progress.say(f"mixed in from {part.source}: {part.rows} rows{of}{short}")
    return taken


def _tokens(student: StudentTable) -> Callable[[Example], int]:
    """How many tokens of the student's a row has, near enough for a share."""
    from persd.models.checkpoint import load_tokenizer

    tokenizer = load_tokenizer(source_of(student))
    return lambda e: len(tokenizer(e.prompt + e.completion, verbose=False)["input_ids"])


def is_file(source: str) -> bool:
    """Whether a source is a file of rows rather than a selection of a run."""
    return source.endswith((".jsonl", ".json")) or "/" in source


def read_rows(path: str) -> list[Example]:
    """Rows of ``prompt`` and ``completion``, JSON a line; other keys but ``task_id`` are ignored.

    Raises UserError naming file and line.
    """
    try:
        with Path(path).open("rb") as lines:
            return list(_rows(path, lines))
    except OSError as e:
        raise UserError(
            f"cannot read the rows to mix in: {e.strerror}", where=path, hint="Mend train.mix."
        ) from e


def _rows(path: str, lines: Any) -> Iterator[Example]:
    name = Path(path).name
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        try:
            row = json.loads(line)
            prompt, completion = row["prompt"], row["completion"]
        except (ValueError, KeyError, TypeError) as e:
            raise _no_row(where, f"{type(e).__name__}: {e}") from None
        if not (isinstance(prompt, str) and isinstance(completion, str) and completion):
            raise _no_row(where, "they must be texts, the completion not empty")
        yield Example(
            example_id=content_id("mix", name, number, prompt, completion),
            variant=name,
            task_id=str(row.get("task_id") or f"{name}:{number}"),
            round=0,
            prompt=prompt,
            completion=completion,
            form="task",
        )


def _no_row(where: str, why: str) -> UserError:
    return UserError(
        f'no row of "prompt" and "completion": {why}',
        where=where,
        hint="Mend the line; persd build RUN --format trl writes such files.",
    )
