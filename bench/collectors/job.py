"""What every collector is told, and how its answers are counted. Standard library only: the
peers' environments have nothing else in common.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def parser(doc: str | None) -> argparse.ArgumentParser:
    """``FOLDER URL IN_FLIGHT OUT``, as all of them are called."""
    made = argparse.ArgumentParser(description=(doc or "").split("\n")[0])
    made.add_argument("folder", type=Path)
    made.add_argument("url")
    made.add_argument("in_flight", type=int)
    made.add_argument("out", type=Path)
    return made


def questions(folder: Path) -> list[dict[str, Any]]:
    """The questions: {"number", "text"}."""
    with (folder / "questions.jsonl").open() as lines:
        return [json.loads(line) for line in lines]


def right(asked: list[dict[str, Any]], answers: Mapping[int, str | None]) -> int:
    """How many of them were rightly answered, given the answers by number."""
    return sum(f"x * {q['number']}\n" in (answers.get(q["number"]) or "") for q in asked)
