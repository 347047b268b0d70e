"""Runs with scripted models and the real sandbox, for the tests of the stages."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from persd import session as session_module
from persd.config import Config
from persd.loop import collect
from persd.models.scripted import ScriptedModel
from persd.records import Request, Task, TaskState
from persd.run import Run

RIGHT = "    return a + b\n"
CHAT_RIGHT = "```python\ndef add(a, b):\n    return b + a\n```"
CHAT_WRONG = "```python\ndef add(a, b):\n    return a\n```"


def make_config(folder: Path, **teacher: Any) -> Config:
    return Config.model_validate(
        {
            "run": {"dir": str(folder / "run"), "variants": ["persd-combined"]},
            "tasks": {"source": "jsonl", "path": "unused.jsonl"},
            "student": {"model": "student"},
            "teacher": {"model": "scripted:teacher", **teacher},
        }
    )


class Script:
    """Answers by task; counts what each role was asked."""

    def __init__(self, student: dict[str, str], teacher: dict[str, Any]) -> None:
        self.student, self.teacher = student, teacher
        self.asked: Counter[str] = Counter()
        self.requests: list[Request] = []

    def open_model(self, spec: Any, role: str, **_: Any) -> ScriptedModel:
        said = self.student if role == "student" else self.teacher

        def script(request: Request) -> str:
            self.asked[role] += 1
            self.requests.append(request)
            answer = said.get(request.task.task_id, CHAT_RIGHT if role == "teacher" else RIGHT)
            if isinstance(answer, list):
                answer = answer[request.attempt - 1]
            if isinstance(answer, Exception):
                raise answer
            return answer

        return ScriptedModel(script, name=f"{role} {spec.model}", in_flight=4)


def use(monkeypatch: pytest.MonkeyPatch, script: Script) -> Script:
    """Let the script answer for every model that a run opens."""
    monkeypatch.setattr(session_module, "open_model", script.open_model)
    return script


def go(config: Config, tasks: list[Task]) -> dict[str, TaskState]:
    with Run(config) as run:
        run.store_tasks(tasks)
        collect(run, 1, config.student.model)
        return run.ledger.states(1)
