"""The whole loop on a few tasks: every task ends in one named state."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from conftest import make_task
from persd.models import ModelUnavailable
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
