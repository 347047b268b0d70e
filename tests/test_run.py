"""An open run: what may change when it goes on, and what may not."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from conftest import make_task
from persd.config import Config
from persd.errors import UserError
from persd.records import Test
from persd.run import Run
from play import CHAT_RIGHT, CHAT_WRONG, Script, go, make_config, use


def test_a_cap_without_a_price_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, Script({}, {}))
    config = make_config(
        tmp_path, model="unheard-of", base_url="https://x.example/v1", budget_usd=1.0
    )
    with pytest.raises(UserError, match="price of unheard-of is not known"):
        go(config, [make_task()])


def test_a_changed_config_is_refused_by_key_unless_downstream(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = use(monkeypatch, Script({}, {}))
    config = make_config(tmp_path)
    go(config, [make_task()])
    plain = config.model_dump()
    hot = Config.model_validate({**plain, "student": {**plain["student"], "temperature": 0.9}})
    with pytest.raises(UserError, match=r"student.temperature: 0.3 -> 0.9"):
        Run(hot)
    later = Config.model_validate(
        {
            **plain,
            "train": {**plain["train"], "lr": 1e-4},
            "run": {**plain["run"], "variants": ["persd"]},
            "teacher": [{**plain["teacher"][0], "max_tokens": 99}],  # nobody asked it yet
        }
    )
    asked = Counter(script.asked)
    go(later, [make_task()])
    assert script.asked == asked


def test_changed_tasks_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, Script({}, {}))
    go(make_config(tmp_path), [make_task()])
    other = make_task(tests=(Test("add(1, 1)", "2"),))
    with pytest.raises(UserError, match=r"tasks are not those the run began with.*first: add"):
        go(make_config(tmp_path), [other])


def test_more_tries_and_more_teachers_go_on_with_what_was_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = dict.fromkeys(("add", "sub"), "    return a - b\n")
    said = {"add": [CHAT_RIGHT], "sub": [CHAT_WRONG, CHAT_WRONG, CHAT_RIGHT]}
    script = use(monkeypatch, Script(wrong, said))
    tasks = [make_task("add"), make_task("sub")]
    states = go(make_config(tmp_path, max_tries=1), tasks)
    assert (states["add"].state, states["sub"].state) == ("refined", "refused")
    states = go(make_config(tmp_path, max_tries=2), tasks)
    assert states["sub"].state == "refused"
    assert script.asked["teacher"] == 3  # the first try of each, and the new one
    plain = make_config(tmp_path, max_tries=2).model_dump()
    another = Config.model_validate(
        {**plain, "teacher": [*plain["teacher"], {"model": "scripted:strong", "max_tries": 1}]}
    )
    assert go(another, tasks)["sub"].state == "refined"
    assert script.asked["teacher"] == 4
    with pytest.raises(UserError, match=r"teacher.0.max_tries: 2 -> 1.*recorded:"):
        go(make_config(tmp_path, max_tries=1), tasks)
