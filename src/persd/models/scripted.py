"""A model that answers from a script: the shipped fake behind the real protocol.

For tests, dry runs and documentation. The script is a function, or a file of JSON lines
``{"task_id", "purpose", "text"}`` with optional ``attempt`` and ``round``; a request that no line
answers gets an empty reply, which a run treats as it treats any reply without code.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from persd.errors import UserError
from persd.records import Completion, Request, Usage, content_id
from persd.throttle import Throttle

Script = Callable[[Request], str | Completion]


class ScriptedModel:
    """Answers by calling ``script``; tokens are counted as whitespace-separated words."""

    def __init__(
        self,
        script: Script,
        *,
        name: str = "scripted",
        version: str = "1",
        batch: int = 1,
        in_flight: int = 1,
        throttle: Throttle | None = None,
    ) -> None:
        """``throttle``: to be asked as a served model is, with tries, limits and money."""
        self._script = script
        self.name = name
        self.identity: Mapping[str, str] = {"model": name, "script": version}
        self.batch = batch
        self.in_flight = in_flight
        self.throttle = throttle

    def complete(self, requests: Sequence[Request]) -> list[Completion]:
        return [self._answer(r) for r in requests]

    def _answer(self, request: Request) -> Completion:
        said = self._script(request)
        if isinstance(said, Completion):
            return said
        prompt = sum(len(m.content.split()) for m in request.messages)
        return Completion(said, usage=Usage(prompt, len(said.split())))

    def close(self) -> None:
        pass


def from_file(path: Path | str) -> ScriptedModel:
    """A scripted model of a JSON lines file. Raises UserError naming the line at fault."""
    path = Path(path)
    lines: dict[tuple[str, str, int, int], str] = {}
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as e:
        raise UserError(f"cannot read the script: {e}", where=str(path)) from e
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            key, said = _parse(line, f"{path}:{number}")
            lines[key] = said

    def script(request: Request) -> str:
        task, purpose = request.task.task_id, request.purpose
        places = ((request.round, request.attempt), (0, request.attempt), (0, 0))
        found = (lines.get((task, purpose, *place)) for place in places)
        return next((said for said in found if said is not None), "")

    return ScriptedModel(script, name=f"scripted:{path.name}", version=content_id(text))


def _parse(line: str, where: str) -> tuple[tuple[str, str, int, int], str]:
    try:
        row: Any = json.loads(line)
        key = str(row["task_id"]), str(row["purpose"])
        return (*key, int(row.get("round", 0)), int(row.get("attempt", 0))), str(row["text"])
    except (ValueError, KeyError, TypeError, AttributeError) as e:
        raise UserError(
            f"not a line of a script: {e!r}",
            where=where,
            hint='a line is {"task_id", "purpose", "text"}',
        ) from e
