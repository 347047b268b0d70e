"""A model that says again what was said before: replays a ledger, or the paper's release.

As a teacher or a student it costs nothing and needs no key. A request is matched by its task,
purpose, round and try, whatever its prompt: a replay is what that model said *then*. It holds
no evaluation samples. No match: ModelUnavailable.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from persd.ledger import Ledger
from persd.models import ModelUnavailable
from persd.records import Completion, Request, Solution, Task, content_id

_Key = tuple[str, str, int, int]


class RecordedModel:
    """Replays texts by (task, purpose, round, try)."""

    batch = 1
    in_flight = 1
    throttle = None

    def __init__(self, name: str, texts: Mapping[_Key, Completion]) -> None:
        self.name = name
        self._texts = texts
        said = sorted((k, c.text) for k, c in texts.items())
        self.identity: Mapping[str, str] = {"model": name, "recorded": content_id(said)}

    def complete(self, requests: Sequence[Request]) -> list[Completion]:
        return [self._answer(r) for r in requests]

    def _answer(self, request: Request) -> Completion:
        task, purpose = request.task.task_id, request.purpose
        found = self._texts.get((task, purpose, request.round, request.attempt))
        if found is None:
            raise ModelUnavailable(
                f"{self.name} holds no {purpose} for task {task} (round {request.round}, "
                f"try {request.attempt})"
            )
        return found

    def close(self) -> None:
        pass


def from_ledger(run: Path | str, role: str) -> RecordedModel:
    """Replay what the student or the teacher of another run said."""
    with Ledger(run, create=False, read_only=True) as ledger:
        texts: dict[_Key, Completion] = {}
        sql = (
            "SELECT s.* FROM solutions s JOIN calls c USING (call_id) "
            "WHERE c.role = ? AND s.benchmark = '' AND s.sample = 0 ORDER BY s.rowid"
        )
        ids = [row["solution_id"] for row in ledger.query(sql, (role,))]
        for solution in filter(None, map(ledger.solution, ids)):
            key = (solution.task_id, solution.kind, solution.round, solution.attempt)
            stored = ledger.completion(solution.call_id or "")
            texts.setdefault(key, stored or _completion(solution))
        # questions for tasks, which no solution stands for, have numbers in place of tasks
        sql = (
            "SELECT call_id, task_id, purpose, round FROM calls "
            "WHERE role = ? AND purpose IN ('task', 'calls') ORDER BY rowid"
        )
        for row in ledger.query(sql, (role,)):
            said = ledger.completion(row["call_id"])
            if said is not None:
                texts.setdefault((row["task_id"], row["purpose"], row["round"], 1), said)
    return RecordedModel(f"recorded:{Path(run).name}", texts)


def from_release(tasks: Iterable[Task], role: str) -> RecordedModel:
    """Replay the paper's release: its tasks carry CodeGen's attempts and ChatGPT's replies."""
    fields = {"attempt": "attempt"} if role == "student" else _TEACHER_FIELDS
    texts: dict[_Key, Completion] = {}
    for task in tasks:
        for purpose, field in fields.items():
            round = 0 if purpose == "direct" else 1
            if isinstance(text := task.meta.get(field), str):
                texts[(task.task_id, purpose, round, 1)] = Completion(text)
    return RecordedModel("codegen-mono-6b" if role == "student" else "chatgpt", texts)


_TEACHER_FIELDS = {"direct": "direct", "refinement": "refinement"}


def _completion(solution: Solution) -> Completion:
    return Completion(solution.text, finish=solution.finish, note=solution.note)
