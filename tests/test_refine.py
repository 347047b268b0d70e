"""Repairs: tries with their own feedback, a cascade, replies that are no code, the cap."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from conftest import make_task
from persd import run as run_module
from persd.config import Config
from persd.models.scripted import ScriptedModel
from persd.records import Completion
from play import CHAT_RIGHT, CHAT_WRONG, Script, go, make_config, use


def test_a_failed_repair_goes_back_with_its_own_feedback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = use(
        monkeypatch,
        Script({"add": "    return a - b\n"}, {"add": [CHAT_WRONG, CHAT_WRONG, CHAT_RIGHT]}),
    )
    states = go(make_config(tmp_path, max_tries=3), [make_task()])
    assert states["add"].state == "refined"
    first, second, third = [r for r in script.requests if r.purpose == "refinement"]
    assert "a - b" in first.messages[-1].content
    assert "OUTPUT: -1" in first.messages[-1].content
    assert second.messages[: len(first.messages)] == first.messages
    assert second.messages[-2].content == CHAT_WRONG
    assert "OUTPUT: 1" in second.messages[-1].content
    assert len(third.messages) == len(second.messages) + 2
    assert third.earlier[1][1].status == "failed"


def test_a_cascade_goes_only_as_far_as_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = make_config(tmp_path).model_dump()
    base["teacher"] = [
        {"model": "scripted:cheap", "max_tries": 1},
        {"model": "scripted:strong", "max_tries": 1},
    ]
    config = Config.model_validate(base)
    script = use(
        monkeypatch,
        Script(
            dict.fromkeys(("easy", "hard"), "    return a - b\n"),
            {"hard": [CHAT_WRONG, CHAT_RIGHT]},
        ),
    )
    states = go(config, [make_task("easy"), make_task("hard")])
    assert {s.state for s in states.values()} == {"refined"}
    asked = [(r.task.task_id, r.attempt) for r in script.requests if r.purpose == "refinement"]
    assert sorted(asked) == [("easy", 1), ("hard", 1), ("hard", 2)]
    last = script.requests[-1]
    assert last.earlier == ()  # the strong teacher starts from the student's attempt


def test_no_answer_cut_by_length_is_taken_for_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = Script({"add": "    return a - b\n"}, {})

    def opened(spec: Any, role: str, **_: Any) -> ScriptedModel:
        if role == "student":
            return script.open_model(spec, role)
        return ScriptedModel(lambda r: Completion(CHAT_RIGHT, finish="length"))

    monkeypatch.setattr(run_module, "open_model", opened)
    states = go(make_config(tmp_path), [make_task()])
    assert states["add"].state == "teacher_failed"
    assert "length" in states["add"].detail


def test_a_cap_leaves_the_rest_over_budget_and_more_money_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks = [make_task(f"t{i}") for i in range(6)]
    script = use(monkeypatch, Script({t.task_id: "    return a - b\n" for t in tasks}, {}))
    price = {"input": 0.0, "output": 1000.0}
    teacher = {"price": price, "max_tokens": 10, "max_tries": 1}
    states = go(make_config(tmp_path, budget_usd=0.02, **teacher), tasks)
    count = Counter(s.state for s in states.values())
    assert count["over_budget"] + count["refined"] == 6
    assert 0 < count["refined"] < 6
    asked = script.asked["teacher"]
    states = go(make_config(tmp_path, budget_usd=5.0, **teacher), tasks)
    assert {s.state for s in states.values()} == {"refined"}
    assert script.asked["teacher"] == 6 == asked + count["over_budget"]
