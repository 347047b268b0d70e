"""The whole loop on a few tasks: every task ends in one named state."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from conftest import make_task
from persd.config import Config
from persd.ledger import Ledger
from persd.loop import run_all
from persd.models import ModelUnavailable
from persd.pool.of_run import load_pool
from persd.records import Evaluation
from persd.report import write
from persd.run import Run
from play import CHAT_RIGHT, CHAT_WRONG, Script, go, make_config, use


def test_every_task_ends_in_one_named_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = "    return a - b\n"
    names = ["solved", "refined", "second", "refused", "prose", "down", "bad", "untested", "cut"]
    tasks = [make_task(n) for n in names]
    tasks[6] = replace(tasks[6], reference="def add(a, b):\n    return 0\n")
    tasks[7] = replace(tasks[7], tests=())
    script = use(
        monkeypatch,
        Script(
            student={n: wrong for n in names if n != "solved"} | {"cut": ""},
            teacher={
                "second": [CHAT_WRONG, CHAT_RIGHT],
                "refused": CHAT_WRONG,
                "prose": "I am sorry, I cannot help with that.",
                "down": ModelUnavailable("no route"),
            },
        ),
    )
    states = go(make_config(tmp_path), tasks)
    assert {n: states[n].state for n in names} == {
        "solved": "solved",
        "refined": "refined",
        "second": "refined",
        "refused": "refused",
        "prose": "teacher_failed",
        "down": "unavailable",
        "bad": "bad_task",
        "untested": "untested",
        "cut": "refined",
    }
    assert script.asked["student"] == 7  # neither the bad task nor the untested one
    again = use(monkeypatch, Script(script.student, {**script.teacher, "down": CHAT_RIGHT}))
    resumed = go(make_config(tmp_path), tasks)
    assert resumed["down"].state == "refined"
    assert again.asked == Counter(teacher=1)


def test_two_rounds_on_the_embedded_student_and_teacher(tmp_path: Path) -> None:
    config = Config.model_validate(
        {
            "run": {"dir": str(tmp_path / "run"), "rounds": 2, "variants": ["persd-combined"]},
            "tasks": {"source": "lab", "limit": 16},
            "student": {"model": "lab", "max_tokens": 128},
            "teacher": {"model": "lab"},
            "train": {"epochs": 1, "lr": 1e-4},
            "evaluate": {
                "benchmarks": ["lab"],
                "limit": 4,
                "samples": 2,
                "k": [1, 2],
                "steps": 2,
                "max_tokens": 128,
            },
            "verify": {"timeout": 0.5, "memory_mb": 128},
        }
    )

    def whole() -> tuple[int, list[Evaluation]]:
        with Run(config) as run:
            load_pool(run)
            run_all(run)
            calls = run.ledger.query("SELECT COUNT(*) AS n FROM calls")[0]["n"]
            return calls, run.ledger.evaluations()

    calls, scores = whole()
    rows = [(s.model, s.round, s.step) for s in scores if not s.control]
    assert rows == [
        (model, round, step)
        for model, round in (("base", 0), ("persd-combined", 1), ("persd-combined", 2))
        for step in (1, 2)
    ]
    with Ledger(config.run.dir, read_only=True) as ledger:
        checkpoints = ledger.checkpoints()
        assert [c.round for c in checkpoints] == [1, 2]
        assert [c.base for c in checkpoints] == ["lab", "lab"]  # the original weights, each time
        for round in (1, 2):
            assert len(ledger.states(round)) == 16
        authors = {s.round: s.author for s in ledger.solutions(kind="attempt", benchmark="")}
        assert Path(checkpoints[0].path).name in authors[2]
        assert checkpoints[1].examples >= checkpoints[0].examples > 0  # the rounds' union
    page = write(tmp_path / "run").read_text()
    assert "no evidence for the paper" in page
    assert whole() == (calls, scores)
