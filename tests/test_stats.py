"""What a task file is made of."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from conftest import make_task
from persd.cli import app
from persd.pool.files import Source, write_tasks
from persd.pool.stats import readable, stats
from persd.records import Task, Test


def pool() -> list[Task]:
    """Three tasks, the second measured, the third the first again."""
    other = Task(
        task_id="names",
        instruction="Sort the names of all guests by their last letter",
        header="def names(guests, key=None):\n",
        entry_point="names",
        tests=(
            Test("names(['a', 'b'], key=-1)", "{'a': (1.5, None)}"),
            Test("names([1, 'a'])", "b", "loose"),
        ),
        reference="def names(guests, key=None):\n\n    return sorted(guests, key=key)\n",
        meta={
            "origin": "evolved",
            "topic": "parties",
            "way": "deeper",
            "model": "m",
            "usd": 0.02,
            "difficulty": {"student": "s", "samples": 4, "passed": 1, "label": "hard"},
        },
    )
    first = replace(
        make_task(), meta={"origin": "seeds", "topic": "sums", "difficulty": "easy", "usd": 0.01}
    )
    return [first, other, replace(first, task_id="again", seen_tests=(), meta={})]


def test_sizes_types_and_lineage(tmp_path: Path) -> None:
    write_tasks(tmp_path / "t.jsonl", pool())
    found = stats(Source(str(tmp_path / "t.jsonl")))
    assert (found["tasks"], found["faults"]) == (3, [])
    assert found["words"] == {"least": 3, "median": 3, "mean": 5.33, "most": 10}
    assert found["lines"] == {"least": 2, "median": 2, "mean": 2, "most": 2}
    assert found["tests"]["hidden"] == {"least": 2, "median": 2, "mean": 2, "most": 2}
    assert found["without"]["seen_tests"] == 2
    assert found["entry_points"] == 2
    assert found["arguments"] == {"int": 3, "list[str]": 1, "list": 1}
    assert found["results"] == {"int": 2, "dict": 1, "text": 1}
    assert found["origins"] == {"seeds": 1, "evolved": 1}
    assert found["topics"] == {"sums": 1, "parties": 1}
    assert found["difficulties"] == {"easy": 1, "hard": 1}
    assert (found["ways"], found["models"]) == ({"deeper": 1}, {"m": 1})
    assert found["usd"] == {"total": 0.03, "tasks": 2, "per_task": 0.015}
    assert found["difficulty"]["students"] == {"s": 1}
    assert (found["difficulty"]["between"], found["difficulty"]["unknown"]) == (1, 2)
    assert [(n["task_id"], n["of"]) for n in found["near_duplicates"]] == [("again", "add")]
    assert (found["groups"], found["largest"]) == (1, 2)


def test_rows_that_are_no_task_are_told(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    write_tasks(path, pool())
    path.write_text(path.read_text() + '{"task_id": "x"}\nno\n')
    found = stats(Source(str(path)))
    assert found["tasks"] == 3
    assert [(f["task_id"], f["reason"]) for f in found["faults"]] == [
        ("x", "missing_key"),
        ("", "broken_json"),
    ]
    assert found["faults"][0]["where"] == f"{path}:4"


def test_nothing_is_made_up_where_there_is_nothing(tmp_path: Path) -> None:
    bare = replace(make_task(), instruction="", reference=None, tests=(), seen_tests=())
    bare = replace(bare, test_code="def check(candidate):\n    assert candidate(1, 2)\n")
    write_tasks(tmp_path / "t.jsonl", [bare])
    found = stats(Source(str(tmp_path / "t.jsonl")))
    assert found["words"] is found["lines"] is found["usd"] is found["difficulty"] is None
    assert found["tests"] == {"hidden": None, "seen": None}
    assert (found["test_code"], found["arguments"], found["topics"]) == (1, {}, {})
    assert dict(readable(found))["tests as code"] == "1"


@pytest.mark.parametrize(
    "meta", [{"usd": True}, {"usd": "1"}, {"topic": 3}, {"difficulty": [1]}, {"difficulty": {}}]
)
def test_what_a_source_means_otherwise_is_not_counted(
    tmp_path: Path, meta: dict[str, object]
) -> None:
    write_tasks(tmp_path / "t.jsonl", [replace(make_task(), meta=meta)])
    found = stats(Source(str(tmp_path / "t.jsonl")))
    assert found["usd"] is None
    assert found["topics"] == found["difficulties"] == {}


def test_the_command(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    write_tasks(path, pool())
    told = CliRunner().invoke(app, ["tasks", "stats", str(path)])
    assert told.exit_code == 0
    assert "list[str] 1" in told.stdout
    assert "again is a near-duplicate of add" in told.stdout
    found = CliRunner().invoke(app, ["tasks", "stats", str(path), "--json"])
    assert json.loads(found.stdout)["tasks"] == 3


def test_a_cost_that_is_no_price_is_not_counted(tmp_path: Path) -> None:
    odd = (float("inf"), float("nan"), 10**400, -1, True, "0.5", 0.25)
    tasks = [replace(make_task(), task_id=str(i), meta={"usd": usd}) for i, usd in enumerate(odd)]
    write_tasks(tmp_path / "t.jsonl", tasks)
    found = stats(Source(str(tmp_path / "t.jsonl")))
    assert found["usd"] == {"total": 0.25, "tasks": 1, "per_task": 0.25}
    assert json.dumps(found, allow_nan=False)
