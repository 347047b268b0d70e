"""Direct answers: only a task whose own answer passes is in the pool."""

from __future__ import annotations

from pathlib import Path

import pytest

from conftest import make_task
from play import CHAT_WRONG, Script, go, make_config, use


def test_asked_directs_must_pass_to_be_in_the_pool(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = use(monkeypatch, Script({}, {"wrong": CHAT_WRONG}))
    states = go(make_config(tmp_path, direct="ask"), [make_task("right"), make_task("wrong")])
    assert states["right"].state == "solved"
    assert states["wrong"].state == "direct_failed"
    assert script.asked["student"] == 1
