"""The formats of a data set, a small function a format: what other trainers read.

JSON lines hold nothing but ASCII: line separators of Unicode, NUL and whatever else a reader
may stumble over stand as escapes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from persd.errors import UserError
from persd.export.pairs import Preference
from persd.records import Example, Rejected

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class DataSet:
    """A selection of a run's pairs, and what was left out of it."""

    variant: str
    examples: Sequence[Example]
    rejected: Sequence[Rejected] = ()
    preferences: Sequence[Preference] = ()
    """The examples that have a failed attempt, each with it."""
    unpaired: Sequence[Rejected] = ()
    """The others, and why."""
    replay: Sequence[Example] = ()
    """The student's own attempts that passed, where the format and the prompts take them."""


@dataclass(frozen=True, slots=True)
class Format:
    """What a format's rows are, and what they are for."""

    rows: Callable[[DataSet], Iterable[Row]]
    use: str
    """How to train on it, in a sentence."""
    suffix: str = ".jsonl"
    """What its files are called where a name is needed."""
    rejects: bool = False
    """Whether it holds failed attempts."""
    replays: bool = False
    """Whether it holds the student's passing attempts, too."""


def write(data: DataSet, fmt: str, path: Path) -> None:
    """Write the rows to a new file. Raises UserError where a package is missing."""
    rows = format_of(fmt).rows(data)
    if fmt == "parquet":
        _write_parquet(rows, path)
        return
    with path.open("w", encoding="utf-8", newline="\n") as out:
        out.writelines(json.dumps(row, ensure_ascii=True) + "\n" for row in rows)


def format_of(fmt: str) -> Format:
    """Raises UserError for an unknown format."""
    if fmt not in FORMATS:
        raise UserError(f'unknown format "{fmt}"', hint=f"Use one of {', '.join(FORMATS)}")
    return FORMATS[fmt]


def _write_parquet(rows: Iterable[Row], path: Path) -> None:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise UserError(
            "writing Parquet needs the pyarrow package",
            hint="pip install 'persd[train]', or --format trl",
        ) from None
    columns = ("prompt", "completion", "task_id", "example_id")
    schema = pyarrow.schema([(column, pyarrow.string()) for column in columns])
    parquet.write_table(pyarrow.Table.from_pylist(list(rows), schema=schema), path)


# ---- rows of verified pairs ------------------------------------------------------------------


def trl(example: Example) -> Row:
    return {"prompt": example.prompt, "completion": example.completion, **_ids(example)}


def messages(example: Example) -> Row:
    return {**openai(example), **_ids(example)}


def openai(example: Example) -> Row:
    """The messages alone: what OpenAI's fine-tuning asks for, and no key beside them."""
    return {
        "messages": [
            {"role": "user", "content": example.prompt},
            {"role": "assistant", "content": example.completion},
        ]
    }


def sharegpt(example: Example) -> Row:
    return {
        "conversations": [
            {"from": "human", "value": example.prompt},
            {"from": "gpt", "value": example.completion},
        ]
    }


def alpaca(example: Example) -> Row:
    return {"instruction": example.prompt, "input": "", "output": example.completion}


# ---- rows with what is to be rejected --------------------------------------------------------


def dpo(preference: Preference) -> Row:
    example = preference.example
    return {
        "prompt": example.prompt,
        "chosen": example.completion,
        "rejected": preference.rejected,
        **_ids(example),
    }


def kto(data: DataSet) -> Iterator[Row]:
    """Every answer and passing attempt as wanted, each once, and every failed attempt as not."""
    there = set[tuple[str, str, str]]()
    for example in (*data.examples, *data.replay):
        key = (example.task_id, example.prompt, example.completion)
        if key not in there:
            there.add(key)
            yield _labelled(example, example.completion, True)
    for preference in data.preferences:
        yield _labelled(preference.example, preference.rejected, False)


def _labelled(example: Example, completion: str, label: bool) -> Row:
    row = {"prompt": example.prompt, "completion": completion, "label": label}
    return {**row, **_ids(example)}


def _ids(example: Example) -> Row:
    return {"task_id": example.task_id, "example_id": example.example_id}


def _each(shape: Callable[[Example], Row]) -> Callable[[DataSet], Iterable[Row]]:
    return lambda data: map(shape, data.examples)


_COMPLETION = "Train with the loss on the completion and the end-of-sequence token only."
_ANSWER = "Train with the loss on the assistant's turn only."
_REJECTED = (
    "What is rejected is the student's own failed attempt: executed under the same prompt, it "
    "fails."
)
FORMATS: Mapping[str, Format] = {
    "trl": Format(_each(trl), f"Rows of TRL's SFTTrainer. {_COMPLETION}"),
    "messages": Format(
        _each(messages),
        f"Conversations of TRL's SFTTrainer (`assistant_only_loss=True`). {_ANSWER}",
    ),
    "openai": Format(_each(openai), "Conversations as OpenAI's fine-tuning takes them."),
    "sharegpt": Format(_each(sharegpt), f"Conversations in ShareGPT's form. {_ANSWER}"),
    "alpaca": Format(_each(alpaca), f"Rows in Alpaca's form, without an input. {_COMPLETION}"),
    "parquet": Format(_each(trl), f"Rows of TRL's SFTTrainer. {_COMPLETION}", ".parquet"),
    "dpo": Format(
        lambda data: map(dpo, data.preferences),
        f"Rows of TRL's DPOTrainer. {_REJECTED}",
        rejects=True,
    ),
    "kto": Format(
        kto,
        "Rows of TRL's KTOTrainer: true are verified answers and, where a prompt is the task "
        f"alone, the student's attempts that passed. {_REJECTED}",
        rejects=True,
        replays=True,
    ),
}
