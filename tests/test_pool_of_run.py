"""A run's pool: written by a teacher through the run's own ledger, chosen by difficulty, once."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from persd import session as session_module
from persd.config import Config
from persd.errors import UserError, WorkFailed
from persd.experiment.grid import load_grid
from persd.forecast import dry_run
from persd.ledger import Ledger
from persd.models.scripted import ScriptedModel
from persd.pool import of_run
from persd.pool.difficulty import noted, pass_rate
from persd.pool.files import write_tasks
from persd.pool.generate import Ended
from persd.pool.of_run import load_pool
from persd.records import Request
from persd.run import Run
from persd.tasks import lab

POOL = lab.load(count=12, seed=3)


def config_of(folder: Path, **tables: Any) -> Config:
    plain: dict[str, Any] = {
        "run": {"dir": str(folder / "run"), "variants": ["persd"]},
        "tasks": {"source": "generate", "generate": {"count": 4, "seeds": seeds(folder)}},
        "student": {"model": "student"},
        "teacher": {"model": "lab"},
        "evaluate": {"benchmarks": ["lab"]},
    }
    for name, table in tables.items():
        plain[name] = {**plain.get(name, {}), **table}
    return Config.model_validate(plain)


def generating(folder: Path, count: int, **tasks: Any) -> dict[str, Any]:
    return {"generate": {"count": count, "seeds": seeds(folder)}, **tasks}


def seeds(folder: Path) -> str:
    """A file of a few seeds."""
    path = folder / "own.jsonl"
    if not path.exists():
        write_tasks(path, POOL)
    return str(path)


def test_a_pool_is_written_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = config_of(tmp_path)
    with Run(config) as run:
        load_pool(run)
        tasks = run.ledger.tasks()
        asked = run.ledger.query("SELECT COUNT(*) AS n FROM calls")[0]["n"]
    assert len(tasks) == 4
    assert all(t.task_id.startswith("gen/") and t.tests and t.seen_tests for t in tasks)
    assert all(t.meta["origin"] == "seeds" for t in tasks)

    def nobody(*_: Any, **__: Any) -> Any:
        pytest.fail("nobody is asked again")

    monkeypatch.setattr(session_module, "open_model", nobody)
    with Run(config) as run:
        load_pool(run)
        assert run.ledger.tasks() == tasks
        assert run.ledger.query("SELECT COUNT(*) AS n FROM calls")[0]["n"] == asked
    with pytest.raises(UserError, match=r"tasks\.generate\.count: 4 -> 5"):
        Run(config_of(tmp_path, tasks=generating(tmp_path, 5)))
    free = {"data": {"humaneval": "elsewhere.jsonl"}}
    tasks_table = {"generate": {"count": 4, "seeds": seeds(tmp_path), **free}}
    Run(config_of(tmp_path, tasks=tasks_table)).close()


def test_scoring_on_a_part_of_a_benchmark_keeps_all_of_it_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "mine.jsonl"
    write_tasks(file, POOL[:5])
    held = {"against": [str(file)], "count": 2, "seeds": seeds(tmp_path)}
    scored = {"benchmarks": [str(file)], "limit": 1}
    config = config_of(tmp_path, tasks={"generate": held}, evaluate=scored)
    found: dict[str, Any] = {}

    def generate(run: Run, rules: Any, asked: Any, benchmarks: Any) -> Any:
        found.update(benchmarks)
        return Ended("stopped")

    monkeypatch.setattr(of_run, "generate", generate)
    with Run(config) as run, pytest.raises(KeyboardInterrupt):
        load_pool(run)
    assert {t.task_id for t in found[str(file)]} == {t.task_id for t in POOL[:5]}


def test_what_was_written_is_said_again_for_nothing(tmp_path: Path) -> None:
    with Run(config_of(tmp_path)) as run:
        load_pool(run)
        written = [(t.instruction, t.reference, t.tests) for t in run.ledger.tasks()]
    other = {"run": {"dir": str(tmp_path / "other")}, "teacher": {"model": f"recorded:{run.dir}"}}
    with Run(config_of(tmp_path, **other)) as again:
        load_pool(again)
        told = [(t.instruction, t.reference, t.tests) for t in again.ledger.tasks()]
    assert told == written


def test_the_limit_takes_the_first(tmp_path: Path) -> None:
    with Run(config_of(tmp_path, tasks=generating(tmp_path, 4, limit=2))) as run:
        load_pool(run)
        assert run.ledger.count_tasks() == 2
        assert run.ledger.count_candidates()["accepted"] >= 4


def test_a_run_does_not_go_on_with_a_smaller_pool(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Out of money it stops with what to do, and goes on once there is more."""
    price = {"price": {"input": 1.0, "output": 1.0}}
    config = config_of(
        tmp_path, teacher={**price, "budget_usd": 0.02}, tasks=generating(tmp_path, 30)
    )
    with Run(config) as run:
        with pytest.raises(UserError, match="raise the teacher's budget_usd") as caught:
            load_pool(run)
        assert run.ledger.count_tasks() == 0
        spent = run.ledger.spent()
        got = run.ledger.count_candidates()["accepted"]
    assert 0 < spent <= 0.02
    assert f"{got} of 30 tasks are written" in str(caught.value)
    assert f"tasks.generate.count = {got}" in str(caught.value)
    with Run(config_of(tmp_path, teacher=price, tasks=generating(tmp_path, got))) as run:
        load_pool(run)
        assert run.ledger.count_tasks() == got
        assert run.ledger.spent() == spent


def test_a_teacher_that_cannot_write_tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def open_model(spec: Any, role: str, **_: Any) -> ScriptedModel:
        return ScriptedModel(lambda r: "I cannot.", name="mute")

    monkeypatch.setattr(session_module, "open_model", open_model)
    config = config_of(tmp_path, teacher={"model": "scripted:x"}, evaluate={"benchmarks": []})
    with Run(config) as run:
        with pytest.raises(WorkFailed, match=r"0 of 4 tasks are written.*no_task"):
            load_pool(run)
        assert run.ledger.count_candidates().keys() == {"no_task"}


# -- chosen by difficulty -----------------------------------------------------------------------


class Student:
    """Solves task n of the pool in ``n % 4`` of three samples."""

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()
        self.places = {t.task_id: n for n, t in enumerate(POOL)}

    def open_model(self, spec: Any, role: str, **_: Any) -> ScriptedModel:
        def script(request: Request) -> str:
            place = self.places[request.task.task_id]
            sample = self.asked[request.task.task_id]
            self.asked[request.task.task_id] += 1
            solves = sample < place % 4
            return (request.task.reference or "") if solves else "def f(x):\n    return 1 / 0\n"

        return ScriptedModel(script, name="student")


def test_any_pool_is_chosen_by_difficulty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    student = Student()
    monkeypatch.setattr(session_module, "open_model", student.open_model)
    tasks = {
        "source": "jsonl",
        "path": seeds(tmp_path),
        "generate": None,
        "limit": 7,
        "difficulty": {"samples": 3},
    }
    config = config_of(tmp_path, tasks=tasks, student={"api": "chat"})
    with Run(config) as run:
        load_pool(run)
        found = [(student.places[t.task_id], pass_rate(t)) for t in run.ledger.tasks()]
        told = noted(run.ledger)
    # of the whole file: solved now and then first, never solved after them, always solved not
    assert sorted(n for n, _ in found[:6]) == [1, 2, 5, 6, 9, 10]
    assert found[6] == (0, 0.0)
    assert all(rate == pytest.approx(n % 4 / 3) for n, rate in found)
    assert told is not None
    assert (told["always"], told["left_out"], told["taken"], told["beyond"]) == (3, 3, 7, 2)
    assert set(student.asked.values()) == {3}
    with Run(config) as run:
        load_pool(run)
    assert set(student.asked.values()) == {3}
    with pytest.raises(UserError, match=r"student\.temperature"):
        Run(config_of(tmp_path, tasks=tasks, student={"api": "chat", "temperature": 0.9}))


def test_nothing_left_to_learn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    student = Student()
    student.places = dict.fromkeys(student.places, 3)
    monkeypatch.setattr(session_module, "open_model", student.open_model)
    difficulty = {"samples": 2}
    tasks = {"source": "jsonl", "path": seeds(tmp_path), "generate": None, "difficulty": difficulty}
    with (
        Run(config_of(tmp_path, tasks=tasks, student={"api": "chat"})) as run,
        pytest.raises(UserError, match="the student solves all 12 tasks"),
    ):
        load_pool(run)


def test_an_experiments_arms_share_a_pool_that_is_there(tmp_path: Path) -> None:
    grid = tmp_path / "grid.toml"
    grid.write_text(
        f'[experiment]\ndir = "{tmp_path}/grid"\nvariants = ["persd"]\n'
        '[[student]]\nname = "lab"\nmodel = "lab"\n[teacher]\nmodel = "lab"\n'
        '[tasks]\nsource = "generate"\n[tasks.generate]\ncount = 4\n'
    )
    with pytest.raises(UserError, match="persd tasks generate"):
        load_grid(grid, [])


# -- before anything is asked --------------------------------------------------------------------


def test_a_dry_run_of_a_pool_to_be_written(tmp_path: Path) -> None:
    tasks = generating(tmp_path, 40, difficulty={"samples": 4}, limit=30)
    price = {"price": {"input": 1.0, "output": 2.0}, "budget_usd": 0.5}
    config = config_of(tmp_path, tasks=tasks, teacher=price)
    with pytest.raises(UserError, match="40 tasks are still to be written"):
        of_run.refuse_unwritten(config)  # a pilot would pay for all of them
    found = dry_run(config)
    assert found["tasks"] == 30
    assert 20 <= found["pool_questions"] <= 40
    assert 0 < found["pool_usd_at_most"] <= 0.5
    assert found["pool_attempts"] == 160
    assert any("still to be written" in note for note in found["forecast"]["notes"])
    assert json.dumps(found)
    assert not (tmp_path / "run").exists()


def test_a_dry_run_of_a_pool_that_is_written(tmp_path: Path) -> None:
    config = config_of(tmp_path, teacher={"price": {"input": 1.0, "output": 1.0}})
    with Run(config) as run:
        load_pool(run)
        spent = run.ledger.spent()
    of_run.refuse_unwritten(config)
    found = dry_run(config)
    assert found["tasks"] == 4
    assert "pool_questions" not in found
    assert found["forecast"]["spent_usd"] == pytest.approx(spent)
    assert not any("to be written" in note for note in found["forecast"]["notes"])
    with Ledger(config.run.dir, read_only=True) as ledger:
        assert ledger.count_tasks() == 4
