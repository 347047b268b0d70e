"""This project's calls with their ledger, in a process of its own.

    python ours.py FOLDER URL IN_FLIGHT OUT

FOLDER holds ``questions.jsonl``; the ledger is written there. The clock of ``seconds`` starts
with the first question, ``openai`` imported, and stops with the last answer. OUT: {"seconds",
"rows" (questions that the ledger holds exactly once, rightly answered), "tries" (sent in vain)}.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bench.collectors import job

    from persd.records import Request
else:  # a script finds its neighbours so
    import job


def main() -> None:
    args = job.parser(__doc__).parse_args()
    args.out.write_text(json.dumps(collect(args)))


def collect(args: argparse.Namespace) -> dict[str, Any]:
    import openai  # noqa: F401

    from persd.calls import Asker
    from persd.ledger import Ledger
    from persd.models.openai_chat import OpenAIModel

    model = OpenAIModel("fake", base_url=args.url, in_flight=args.in_flight)
    with Ledger(args.folder / "run") as ledger:
        asker = Asker(model, "teacher", ledger)
        began = time.perf_counter()
        for _ in asker.complete(requests(args.folder)):
            pass
        seconds = time.perf_counter() - began
        asker.close()
        tries = ledger.query("SELECT COUNT(*) AS n FROM tries")[0]["n"]
    return {"seconds": seconds, "rows": rows(args.folder), "tries": tries}


def requests(folder: Path) -> Iterator[Request]:
    """A question a line, as a stage asks them."""
    from persd.records import Message, Request, Task

    # a line at a time: what is measured is the memory of asking
    with (folder / "questions.jsonl").open() as lines:
        for line in lines:
            row = json.loads(line)
            yield Request(
                purpose="refinement",
                messages=(Message("user", row["text"]),),
                task=Task(f"scale-{row['number']}", row["text"], "def scale(x):\n", "scale"),
                seed=row["number"],
                temperature=0.3,
                top_p=0.95,
                max_tokens=1024,
            )


def rows(folder: Path) -> int:
    """The questions that are in the ledger exactly once, rightly answered."""
    from persd.ledger import Ledger

    sql = "SELECT task_id, COUNT(*) AS n, MAX(completion) AS completion FROM calls GROUP BY task_id"
    with Ledger(folder / "run", read_only=True) as ledger:
        found = {row["task_id"]: row for row in ledger.query(sql)}
    numbers = [question["number"] for question in job.questions(folder)]
    kept = ((n, found.get(f"scale-{n}")) for n in numbers)
    return sum(
        row is not None and row["n"] == 1 and f"x * {n}\\n" in row["completion"] for n, row in kept
    )


if __name__ == "__main__":
    main()
