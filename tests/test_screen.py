"""Tasks that a run is evaluated on end as contaminated, and cost nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from conftest import make_task
from persd import report
from persd.benchmarks import held_out
from persd.build import build_rounds
from persd.config import Config, EvaluateTable, to_json
from persd.errors import UserError
from persd.forecast import forecast
from persd.loop import collect
from persd.records import Task, Test
from persd.report.summary import funnel
from persd.run import Run
from persd.screen import against, screen, twins
from play import Script, use

TWIN = "Write a function that adds two numbers, whichever they are, and gives their sum."
HELD_OUT = {
    "task_id": "sum-two",
    "instruction": TWIN.replace("Write a", "Create a Python"),
    "entry_point": "plus",
    "header": "def plus(x, y):\n",
    "tests": [{"call": "plus(1, 2)", "expected": "3"}],
    "seen_tests": [{"call": "plus(2, 2)", "expected": "4"}],
    "reference": "def plus(x, y):\n    return x + y\n",
}


def make_config(folder: Path, *, tasks: dict[str, Any] | None = None, **teacher: Any) -> Config:
    """A run that is evaluated on a file of one task."""
    held_out = folder / "held-out.jsonl"
    held_out.write_text(json.dumps(HELD_OUT) + "\n")
    return Config.model_validate(
        {
            "run": {"dir": str(folder / "run"), "rounds": 2, "variants": ["persd"]},
            "tasks": {"source": "jsonl", "path": "unused.jsonl", **(tasks or {})},
            "student": {"model": "student"},
            "teacher": {"model": "scripted:teacher", **teacher},
            "evaluate": {"benchmarks": [str(held_out)]},
            "verify": {"workers": 1},
        }
    )


def other(number: int) -> Task:
    """A task that has nothing of the benchmark's, not even its program."""
    return replace(
        make_task(f"other-{number}"),
        instruction=f"Print {number} stars in a row of characters.",
        header="def stars(n):\n",
        entry_point="stars",
        tests=(Test(f"stars({number})", repr("*" * number)),),
        seen_tests=(),
        reference="def stars(n):\n    return '*' * n\n",
    )


TASKS = [other(1), replace(make_task("twin"), instruction=TWIN), other(2)]
STARS = "    return n * '*'\n"
STUDENT = {"other-1": STARS, "other-2": "    return n\n"}
TEACHER = {"other-2": "```python\ndef stars(n):\n    return n * '*'\n```"}


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Script:
    return use(monkeypatch, Script(dict(STUDENT), dict(TEACHER)))


def test_a_twin_ends_contaminated_and_nobody_is_asked(tmp_path: Path, script: Script) -> None:
    with Run(make_config(tmp_path)) as run:
        run.store_tasks(TASKS)
        collect(run, 1, "student")
        states = run.ledger.states(1)
        told = funnel(run.ledger, 1)
    assert {i: s.state for i, s in states.items()} == {
        "other-1": "solved",
        "twin": "contaminated",
        "other-2": "refined",
    }
    assert "sum-two" in states["twin"].detail
    assert "1.00 alike" in states["twin"].detail
    assert "adds two numbers" in states["twin"].detail
    assert "twin" not in {r.task.task_id for r in script.requests}
    assert told.states == {"contaminated": 1, "solved": 1, "refined": 1}
    assert sum(told.states.values()) == told.tasks == 3


def test_it_is_screened_in_every_round_and_once_in_each(tmp_path: Path, script: Script) -> None:
    config = make_config(tmp_path)
    for _ in range(2):
        with Run(config) as run:
            run.store_tasks(TASKS)
            for round in (1, 2):
                collect(run, round, "student")
                assert run.ledger.states(round)["twin"].state == "contaminated"
    assert "twin" not in {r.task.task_id for r in script.requests}
    assert script.asked["student"] == 4  # two tasks, two rounds


def test_asked_for_direct_answers_read_the_tasks_twice(tmp_path: Path, script: Script) -> None:
    script.teacher["other-1"] = TEACHER["other-2"]
    with Run(make_config(tmp_path, direct="ask")) as run:
        run.store_tasks(TASKS)
        collect(run, 1, "student")
        states = {i: s.state for i, s in run.ledger.states(1).items()}
    assert states == {"other-1": "solved", "twin": "contaminated", "other-2": "refined"}
    directs = {r.task.task_id for r in script.requests if r.purpose == "direct"}
    assert directs == {"other-1", "other-2"}


def test_it_streams(tmp_path: Path, script: Script) -> None:
    read: list[str] = []

    def tasks() -> Iterator[Task]:
        for task in TASKS:
            read.append(task.task_id)
            yield task

    with Run(make_config(tmp_path)) as run:
        run.store_tasks(TASKS)
        screened = iter(screen(run, tasks(), 1))
        assert next(screened).task_id == "other-1"
        assert read == ["other-1"]
        assert next(screened).task_id == "other-2"


@pytest.mark.parametrize("how", ["switched off", "no benchmark"])
def test_without_a_benchmark_or_the_wish_nothing_is_read(
    tmp_path: Path, script: Script, how: str
) -> None:
    script.student["twin"] = "    return a + b\n"
    config = make_config(tmp_path, tasks={"decontaminate": how != "switched off"})
    (tmp_path / "held-out.jsonl").unlink()
    if how == "no benchmark":
        config = config.model_copy(update={"evaluate": type(config.evaluate)()})
    with Run(config) as run:
        run.store_tasks(TASKS)
        collect(run, 1, "student")
        assert run.ledger.states(1)["twin"].state == "solved"


def test_a_benchmark_that_cannot_be_read_is_named_with_the_way_out(
    tmp_path: Path, script: Script
) -> None:
    config = make_config(tmp_path)
    (tmp_path / "held-out.jsonl").unlink()
    with Run(config) as run:
        run.store_tasks(TASKS)
        with pytest.raises(UserError, match=r"held-out\.jsonl.*decontaminate = false"):
            collect(run, 1, "student")
        assert run.ledger.states(1) == {}
    assert not script.asked


def test_the_switch_cannot_be_turned_once_tasks_are_stored(tmp_path: Path) -> None:
    with Run(make_config(tmp_path)) as run:
        run.store_tasks(TASKS)
    with pytest.raises(UserError, match=r"tasks\.decontaminate: True -> False"):
        Run(make_config(tmp_path, tasks={"decontaminate": False}))


def test_the_embedded_family_is_not_held_against_itself(tmp_path: Path) -> None:
    plain = make_config(tmp_path).model_dump()
    plain["evaluate"]["benchmarks"] = ["lab", "humaneval", "lab-validation"]
    plain["tasks"]["source"] = "lab"
    plain["student"]["model"] = "lab"
    with Run(Config.model_validate(plain)) as run:
        assert against(run) == ["humaneval"]


@pytest.mark.parametrize("direct", ["reference", "ask", "none"])
def test_a_forecast_expects_the_share_of_twins_to_go_on(
    tmp_path: Path, script: Script, direct: str
) -> None:
    """Ten tasks seen of which nine are twins: of thirty more about three are paid for."""
    config = make_config(tmp_path, direct=direct).model_dump()
    config["run"]["rounds"] = 1
    tasks = [replace(TASKS[1], task_id=f"twin-{n}") for n in range(36)] + [
        replace(other(2), task_id=f"other-{n}") for n in range(4)
    ]
    script.student.update({f"other-{n}": "    return n\n" for n in range(4)})
    script.teacher.update({f"other-{n}": TEACHER["other-2"] for n in range(4)})
    with Run(Config.model_validate(config)) as run:
        run.store_tasks(tasks)
        collect(run, 1, "student", [*tasks[:9], tasks[36]])
        told = forecast(run.config, run.ledger, tasks)
    assert told["tasks_finished"] == 10
    assert 2 <= told["examples"]["expected"] <= 8
    assert told["calls"]["repairs"]["expected"] <= 10


def test_the_report_names_the_state(tmp_path: Path, script: Script) -> None:
    with Run(make_config(tmp_path)) as run:
        run.store_tasks(TASKS)
        collect(run, 1, "student")
    assert "kept out of training" in report.write(tmp_path / "run").read_text(encoding="utf-8")


def test_a_benchmark_named_later_is_kept_out_of_what_is_built(
    tmp_path: Path, script: Script
) -> None:
    script.student["twin"] = "    return a - b\n"
    script.teacher["twin"] = "```python\ndef add(a, b):\n    return a + b\n```"
    later = make_config(tmp_path)
    before = later.model_copy(update={"evaluate": EvaluateTable()})
    with Run(before) as run:
        run.store_tasks(TASKS)
        collect(run, 1, "student")
        built, _ = build_rounds(run.ledger, lambda: run.box, "persd", [1])
        assert {e.task_id for e in built} == {"other-2", "twin"}
    with Run(later) as run:
        held_out(run, later.evaluate.benchmarks[0], later.evaluate)
        built, rejected = build_rounds(run.ledger, lambda: run.box, "persd", [1])
        assert {e.task_id for e in built} == {"other-2"}
        assert [(r.task_id, r.reason) for r in rejected] == [("twin", "contaminated")]
        assert "sum-two" in rejected[0].detail
        assert twins(run.ledger) == twins(run.ledger)
    free = make_config(tmp_path, tasks={"decontaminate": False})
    with Run(before) as run:
        run.ledger.set_meta("config", to_json(free))
        assert twins(run.ledger) == {}
