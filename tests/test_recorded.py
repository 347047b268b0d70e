"""Recorded models: another run, or the paper's release, said again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from conftest import make_task
from persd.config import Config
from persd.models import ModelUnavailable
from persd.models.recorded import from_ledger, from_release
from play import CHAT_RIGHT, CHAT_WRONG, Script, go, make_config, use
from test_calls import make_request


def test_a_run_replayed_gives_the_same_states(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = "    return a - b\n"
    tasks = [make_task(n) for n in ("easy", "hard", "hopeless")]
    with monkeypatch.context() as patch:
        script = Script(
            {"hard": wrong, "hopeless": wrong},
            {"hard": [CHAT_WRONG, CHAT_RIGHT], "hopeless": CHAT_WRONG},
        )
        use(patch, script)
        first = go(make_config(tmp_path), tasks)
    plain = make_config(tmp_path).model_dump()
    plain["run"]["dir"] = str(tmp_path / "again")
    plain["student"]["model"] = f"recorded:{tmp_path / 'run'}"
    plain["teacher"][0]["model"] = f"recorded:{tmp_path / 'run'}"
    again = go(Config.model_validate(plain), tasks)
    assert {i: s.state for i, s in again.items()} == {i: s.state for i, s in first.items()}


def test_what_was_never_said_is_unavailable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, Script({}, {}))
    go(make_config(tmp_path), [make_task("easy")])
    with pytest.raises(ModelUnavailable, match="no attempt for task t1"):
        from_ledger(tmp_path / "run", "student").complete([make_request(1)])


def test_the_release_by_its_tasks() -> None:
    meta = {
        "attempt": "    return a\n",
        "refinement": "    return a + b\n",
        "direct": "    return 3\n",
    }
    task = replace(make_task("t1"), meta=meta)
    student, teacher = from_release([task], "student"), from_release([task], "teacher")
    assert student.complete([make_request(1)])[0].text == meta["attempt"]
    asked = make_request(1, purpose="refinement")
    assert teacher.complete([asked])[0].text == meta["refinement"]
    direct = make_request(1, purpose="direct", round=0)
    assert teacher.complete([direct])[0].text == meta["direct"]
    with pytest.raises(ModelUnavailable):
        student.complete([make_request(2)])
