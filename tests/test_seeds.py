"""The tasks that a teacher is shown."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from persd.config import GenerateTable
from persd.errors import UserError
from persd.pool import seeds
from persd.pool.seeds import read_seeds

GOOD: dict[str, Any] = {
    "task_id": "add",
    "instruction": "Return the sum of a and b.",
    "entry_point": "add",
    "header": "def add(a, b):\n",
    "tests": [{"call": "add(1, 2)", "expected": "3"}],
    "reference": "def add(a, b):\n    return a + b\n",
}
NO_REFERENCE = {**GOOD, "task_id": "bare", "reference": None}
NO_CALL = {**GOOD, "task_id": "code", "tests": [], "test_code": "def check(c):\n    assert c\n"}


def _file(path: Path, *rows: dict[str, Any]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_tasks_that_can_be_shown_whole_are_seeds(tmp_path: Path) -> None:
    path = _file(tmp_path / "s.jsonl", NO_REFERENCE, GOOD, NO_CALL)
    assert [t.task_id for t in read_seeds(GenerateTable(count=1, seeds=path))] == ["add"]


def test_a_benchmark_gives_its_training_tasks(data: Path) -> None:
    rules = GenerateTable(count=1, path=str(data / "mbpp" / "mbpp.jsonl"))
    found = read_seeds(rules)
    assert len(found) == 372  # two are called with objects that they define
    assert all(601 <= int(task.task_id) <= 974 for task in found)


def test_without_a_task_to_show_it_says_what_a_seed_is(tmp_path: Path) -> None:
    path = _file(tmp_path / "s.jsonl", NO_REFERENCE, NO_CALL)
    with pytest.raises(UserError, match=r"no task can be shown.*bare: .*A seed has") as raised:
        read_seeds(GenerateTable(count=1, seeds=path))
    assert raised.value.where == path


def test_an_unknown_source_is_refused() -> None:
    with pytest.raises(UserError, match='unknown task source "nope"'):
        read_seeds(GenerateTable(count=1, seeds="nope"))


def test_a_file_that_is_not_there_is_refused() -> None:
    with pytest.raises(UserError, match=r"gone\.jsonl: cannot read"):
        read_seeds(GenerateTable(count=1, seeds="gone.jsonl"))


def test_offline_the_flag_for_a_local_copy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: Any, **__: Any) -> Any:
        raise UserError("mbpp did not come from the Hub", hint="set tasks.path")

    monkeypatch.setattr(seeds, "load", offline)
    with pytest.raises(UserError, match=r"--data FILE \(in a config: tasks\.generate\.path\)"):
        read_seeds(GenerateTable(count=1))
