"""Attempts: the task alone is asked, what passes is dropped, what does not fit is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from conftest import make_task
from persd import session as session_module
from persd.domains.code import task_prompt
from persd.models.scripted import ScriptedModel
from persd.records import Completion, Request
from play import CHAT_RIGHT, Script, go, make_config, use


def test_the_student_sees_the_task_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = use(monkeypatch, Script({}, {}))
    task = make_task()
    assert go(make_config(tmp_path), [task])["add"].state == "solved"
    (request,) = script.requests
    assert [m.content for m in request.messages] == [task_prompt(task)]
    assert (request.temperature, request.top_p) == (0.3, 0.95)  # PERsD, section 4.1


def test_seeds_differ_by_task_and_not_by_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seeds = []
    for name in ("a", "b"):
        script = use(monkeypatch, Script({}, {}))
        go(make_config(tmp_path / name), [make_task("x"), make_task("y")])
        seeds.append({r.task.task_id: r.seed for r in script.requests})
    assert seeds[0] == seeds[1]
    assert seeds[0]["x"] != seeds[0]["y"]


def test_a_prompt_that_does_not_fit_is_no_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def opened(spec: Any, role: str, **_: Any) -> ScriptedModel:
        def script(request: Request) -> Completion:
            assert role == "student"
            return Completion("", finish="prompt_too_long", note="2100 tokens of 2048")

        return ScriptedModel(script)

    monkeypatch.setattr(session_module, "open_model", opened)
    states = go(make_config(tmp_path), [make_task()])
    assert (states["add"].state, states["add"].detail) == (
        "too_long",
        "2100 tokens of 2048; empty reply",
    )


def test_a_chat_students_whole_function_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, Script({"add": CHAT_RIGHT}, {}))
    assert go(make_config(tmp_path), [make_task()])["add"].state == "solved"


@pytest.mark.parametrize("finish", ["rejected", "refused", "filtered"])
def test_what_a_served_student_does_not_take_is_no_failure_of_its(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, finish: str
) -> None:
    script = use(monkeypatch, Script({}, {}))

    def opened(spec: Any, role: str, **_: Any) -> ScriptedModel:
        said = Completion("I would rather not.", finish=finish, note="flagged")
        return ScriptedModel(lambda r: said) if role == "student" else script.open_model(spec, role)

    monkeypatch.setattr(session_module, "open_model", opened)
    states = go(make_config(tmp_path), [make_task()])
    assert states["add"].state == "not_attempted"
    assert script.asked["teacher"] == 0
