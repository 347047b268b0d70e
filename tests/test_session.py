"""A session: models asked through one ledger, every program judged once, all of it freed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from conftest import make_task
from persd.config import Endpoint, VerifyTable
from persd.errors import UserError
from persd.ledger import Ledger
from persd.records import Message, Request, Solution
from persd.session import NO_CODE, Session, of_student, price_for
from play import RIGHT, Script, use


def a_session(folder: Path) -> Session:
    return Session(
        folder,
        seed=3,
        student=Endpoint(model="student"),
        teachers=[Endpoint(model="scripted:teacher")],
        verify=VerifyTable(workers=1),
    )


def a_solution(name: str, code: str | None) -> Solution:
    return Solution(name, "add", "attempt", "m", 0, code or "prose", code)


def test_answers_are_kept_and_not_asked_for_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = use(monkeypatch, Script({"add": RIGHT}, {}))
    request = Request("attempt", (Message("user", "add"),), make_task(), 1, 0.3, 0.95, 64)
    for _ in range(2):
        with a_session(tmp_path) as session:
            (answer,) = session.student("student").complete([request])
            assert answer.completion is not None
            assert answer.completion.text == RIGHT
            assert session.student("student") is session.student("student")
    assert script.asked["student"] == 1


def test_a_verdict_is_stored_and_not_made_again(tmp_path: Path) -> None:
    task, right = make_task(), a_solution("right", "def add(a, b):\n    return a + b\n")
    prose = a_solution("prose", None)
    cut = replace(a_solution("long", None), finish="prompt_too_long")
    with a_session(tmp_path) as session:
        found = dict(session.judge((s.solution_id, task, s) for s in (right, prose, cut)))
        assert found["right"].passed
        assert (found["prose"].status, found["prose"].reason) == ("syntax", NO_CODE)
        assert (found["long"].status, found["long"].reason) == ("not_run", "prompt_too_long")
        again = dict(session.judge([("right", task, right)]))
        assert again["right"] == found["right"]
        seen = dict(session.judge([("right", task, right), ("none", task, None)], tests="seen"))
        assert seen["right"] is not None
        assert seen["right"].tests == "seen"
        assert seen["none"] is None
    with Ledger(tmp_path, read_only=True) as ledger:
        assert ledger.verdict("right") == found["right"]
        assert ledger.verdict("long") is None  # it was not run: the next time may do it


def test_one_process_at_a_time_and_closing_frees_it(tmp_path: Path) -> None:
    with a_session(tmp_path) as first:
        with pytest.raises(UserError):
            a_session(tmp_path)
        assert not first.is_unsafe
    with a_session(tmp_path) as second:
        second.close()
        second.close()
        with a_session(tmp_path):
            pass


def test_a_checkpoint_of_a_served_student_is_loaded() -> None:
    served = Endpoint(model="m", base_url="http://127.0.0.1:1/v1")
    assert of_student(served, "m") is served
    assert of_student(served, "folder").base_url is None
    assert price_for(Endpoint(model="lab"), "student") is not None
