"""Direct answers: only a task whose own answer passes is in the pool."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from conftest import make_task
from persd import session as session_module
from persd.models import ModelUnavailable
from persd.models.scripted import ScriptedModel
from persd.records import Completion, Request
from persd.throttle import Throttle
from play import CHAT_RIGHT, CHAT_WRONG, RIGHT, Script, go, make_config, use


def test_asked_directs_must_pass_to_be_in_the_pool(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = use(monkeypatch, Script({}, {"wrong": CHAT_WRONG}))
    states = go(make_config(tmp_path, direct="ask"), [make_task("right"), make_task("wrong")])
    assert states["right"].state == "solved"
    assert states["wrong"].state == "direct_failed"
    assert script.asked["student"] == 1


def test_an_answer_without_code_is_asked_for_afresh(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = ["no code at all", Completion("", finish="filtered"), CHAT_RIGHT]
    seeds: list[int] = []

    def opened(spec: Any, role: str, **_: Any) -> ScriptedModel:
        if role == "student":
            return ScriptedModel(lambda r: RIGHT)

        def teacher(request: Request) -> Completion | str:
            seeds.append(request.seed)
            return said[len(seeds) - 1]  # type: ignore[return-value]

        return ScriptedModel(teacher, throttle=Throttle(1))

    monkeypatch.setattr(session_module, "open_model", opened)
    config = make_config(tmp_path, direct="ask")
    assert go(config, [make_task()])["add"].state == "solved"
    assert len(set(seeds)) == 3


def test_an_answer_that_does_not_come_ends_the_task_as_such(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, Script({}, {"gone": ModelUnavailable("down")}))
    states = go(make_config(tmp_path, direct="ask"), [make_task("gone"), make_task("there")])
    assert (states["gone"].state, states["there"].state) == ("unavailable", "solved")
