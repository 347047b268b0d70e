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
from play import Script, go, make_config, use


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
