"""Held-out tasks: read once a folder, told apart by what chose them, their seen tests sound."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from persd.benchmarks import hash_of, held_out, place_of, source_of, unlike_pool
from persd.config import Config, Endpoint, EvaluateTable
from persd.errors import UserError
from persd.experiment.engine import Plan, run_cell
from persd.experiment.grid import load_grid
from persd.session import Session
from play import make_config

ROW = {
    "task_id": "add",
    "instruction": "Add two numbers.",
    "entry_point": "add",
    "header": "def add(a, b):\n",
    "tests": [{"call": "add(1, 2)", "expected": "3"}],
    "seen_tests": [
        {"call": "add(2, 2)", "expected": "4"},
        {"call": "add(2, 3)", "expected": "6"},
    ],
    "reference": "def add(a, b):\n    return a + b\n",
}


GRID = """[experiment]
seeds = [0]
variants = ["persd"]
[[student]]
name = "lab"
model = "lab"
[tasks]
source = "lab"
limit = 4
[teacher]
model = "lab"
[evaluate]
benchmarks = ["lab"]
samples = 1
k = [1]
max_tokens = 32
"""


@pytest.fixture
def session(tmp_path: Path) -> Iterator[Session]:
    with Session(tmp_path / "s", seed=0, student=Endpoint(model="student")) as opened:
        yield opened


def a_file(folder: Path, *rows: dict[str, Any]) -> str:
    path = folder / "tasks.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    return str(path)


def test_a_seen_test_that_the_reference_fails_is_none(session: Session, tmp_path: Path) -> None:
    (task,) = held_out(session, a_file(tmp_path, ROW), EvaluateTable())
    assert [t.call for t in task.seen_tests] == ["add(2, 2)"]
    assert [t.call for t in task.tests] == ["add(1, 2)"]


def test_tasks_are_read_once_and_then_the_folders_own(session: Session, tmp_path: Path) -> None:
    path = a_file(tmp_path, ROW)
    first = held_out(session, path, EvaluateTable())
    assert held_out(session, path, EvaluateTable()) == first
    Path(path).unlink()
    assert held_out(session, path, EvaluateTable()) == first
    assert session.ledger.tasks(place_of(session.ledger, path, EvaluateTable(), 0)) == first


def test_a_file_that_was_edited_is_read_again(session: Session, tmp_path: Path) -> None:
    path, table = a_file(tmp_path, ROW), EvaluateTable()
    before = held_out(session, path, table)
    a_file(tmp_path, {**ROW, "tests": [{"call": "add(4, 4)", "expected": "8"}]})
    # nobody has been scored on it yet
    assert session.ledger.tasks(place_of(session.ledger, path, table, 0)) == before
    (after,) = held_out(session, path, table)
    assert [t.call for t in after.tests] == ["add(4, 4)"]
    assert session.ledger.tasks(place_of(session.ledger, path, table, 0)) == [after]
    # the last that were used, not the last that were read
    a_file(tmp_path, ROW)
    assert held_out(session, path, table) == before
    Path(path).unlink()
    assert held_out(session, path, table) == before
    with pytest.raises(UserError, match="unknown benchmark"):
        held_out(session, path, EvaluateTable(limit=1))


def test_a_file_of_a_known_benchmark_is_told_by_its_content(tmp_path: Path) -> None:
    path = a_file(tmp_path, ROW)
    table = EvaluateTable(data={"humaneval": path})
    first = hash_of("humaneval", table)
    assert first is not None
    assert first == hash_of(path, EvaluateTable())
    a_file(tmp_path, ROW, {**ROW, "task_id": "more"})
    assert hash_of("humaneval", table) not in (first, None)
    Path(path).unlink()
    assert hash_of("humaneval", table) is None
    assert hash_of("humaneval", EvaluateTable()) is None
    assert hash_of("lab", EvaluateTable()) is None
    release = tmp_path / "release"
    release.mkdir()
    folder = EvaluateTable(data={"persdistill": str(release)})
    found = set()
    for text in ("a", "b"):
        (release / "part.jsonl").write_text(text)
        found.add(hash_of("persdistill", folder))
    assert len(found) == 2


def test_an_arm_of_an_experiment_follows_from_the_files_it_is_scored_on(tmp_path: Path) -> None:
    text = GRID.replace('"lab"]', json.dumps(a_file(tmp_path, ROW)) + "]")
    grid = tmp_path / "g.toml"
    grid.write_text(text)

    def base(*overrides: str) -> Any:
        given = load_grid(str(grid), [f"experiment.dir={tmp_path / 'grid'}", *overrides])
        (arm,) = [a for a in given.arms() if not a.variants]
        return run_cell(given, Plan(arm)).evaluations[0]

    first = base()
    # nothing of it is trained, so it is read again, seconds and all
    assert base("train.epochs=3") == first
    changed = [{"call": "add(4, 4)", "expected": "8"}, {"call": "add(0, 1)", "expected": "1"}]
    a_file(tmp_path, {**ROW, "tests": changed})
    assert base().evaluation_id != first.evaluation_id


def test_what_chose_the_tasks_tells_them_apart(session: Session) -> None:
    tables = [EvaluateTable(limit=3), EvaluateTable(limit=4), EvaluateTable(limit=3, seed=5)]
    found = [held_out(session, "lab", table) for table in tables]
    assert [len(tasks) for tasks in found] == [3, 4, 3]
    assert found[0] == found[1][:3]
    assert found[2] != found[0]
    validation = held_out(session, "lab-validation", tables[0])
    assert not {t.task_id for t in validation} & {t.task_id for t in found[0]}
    mixed = held_out(session, "lab", EvaluateTable(limit=3, mix={"2": 1.0}))
    assert [t.meta["difficulty"] for t in mixed] == [2, 2, 2]
    places = {place_of(session.ledger, "lab", table, 0) for table in tables}
    assert len(places) == 3


def test_what_is_no_benchmark_is_named(session: Session, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r'unknown benchmark "humanevl".*humaneval'):
        held_out(session, "humanevl", EvaluateTable())
    untested = {k: v for k, v in ROW.items() if k != "tests"}
    with pytest.raises(UserError):
        held_out(session, a_file(tmp_path, untested), EvaluateTable())
    with pytest.raises(UserError, match="mix"):
        held_out(session, "lab", EvaluateTable(limit=2, mix={"nine": 1.0}))


def test_sources_and_their_files() -> None:
    table = EvaluateTable(data={"humaneval": "h.jsonl"})
    assert source_of("humaneval", table) == ("humaneval", "h.jsonl")
    assert source_of("mbpp+", table) == ("mbpp+", None)
    assert source_of("lab-validation", table) == ("lab", None)


def test_the_embedded_family_is_not_held_against_itself(tmp_path: Path) -> None:
    plain = make_config(tmp_path).model_dump()
    plain["evaluate"] = {"benchmarks": ["lab", "humaneval"]}
    other = Config.model_validate(plain)
    plain["tasks"] = {"source": "lab"}
    lab = Config.model_validate(plain)
    assert list(unlike_pool(other)) == ["lab", "humaneval"]
    assert list(unlike_pool(lab)) == ["humaneval"]
