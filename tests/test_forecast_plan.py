"""The dry run's bound holds, and it refuses what the run would refuse."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from persd.config import Config
from persd.errors import UserError
from persd.forecast.plan import plan
from persd.ledger import Ledger
from persd.loop import collect
from persd.pool.of_run import load_pool
from persd.run import Run
from test_kill import load_bench

endpoint, kill = load_bench("endpoint"), load_bench("kill")


def make_config(folder: Path, url: str, **teacher: Any) -> Config:
    kill.write_tasks(folder, 9)
    return Config.model_validate(
        {
            "run": {"dir": str(folder / "run")},
            "tasks": {"source": "jsonl", "path": str(folder / "tasks.jsonl")},
            "student": {"model": f"scripted:{folder}/student.jsonl"},
            "teacher": {"model": "fake", "base_url": url, **teacher},
        }
    )


def test_the_bound_holds(tmp_path: Path) -> None:
    with endpoint.serve(endpoint.Settings(wrong_share=0.4)) as server:
        price = {"input": 1.0, "output": 2.0}
        config = make_config(tmp_path, server.url, price=price, direct="ask")
        found = plan(config)
        with Run(config) as run:
            load_pool(run)
            collect(run, 1, config.student.model)
        with Ledger(tmp_path / "run", read_only=True) as ledger:
            spent = ledger.spent()
    assert (found["tasks"], found["direct_answers_asked"], found["repairs_at_most"]) == (9, 9, 18)
    assert 0 < spent <= found["usd_at_most"]


def test_the_bound_is_every_call_at_its_longest(tmp_path: Path) -> None:
    price = {"input": 0.0, "output": 1e6}  # a dollar a token that is answered
    config = make_config(tmp_path, "http://127.0.0.1:9/v1", price=price, max_tokens=10, max_tries=3)
    assert plan(config)["usd_at_most"] == 9 * 3 * 10
    later = config.model_copy(update={"run": config.run.model_copy(update={"rounds": 2})})
    assert plan(later)["usd_at_most"] == 2 * 9 * 3 * 10
    closer = make_config(
        tmp_path, "http://127.0.0.1:9/v1", price=price, max_tokens=10, stay_close=0.5
    )
    assert plan(closer)["repairs_at_most"] == 9 * (2 + 1)


def test_a_cap_bounds_the_bound(tmp_path: Path) -> None:
    price = {"input": 100.0, "output": 200.0}
    config = make_config(tmp_path, "http://127.0.0.1:9/v1", price=price, budget_usd=0.5)
    assert plan(config)["usd_at_most"] == 0.5


def test_an_unknown_price_is_unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "k")
    assert plan(make_config(tmp_path, "https://gateway.example/v1"))["usd_at_most"] is None


def test_a_missing_key_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(UserError, match="OPENAI_API_KEY"):
        plan(make_config(tmp_path, "https://gateway.example/v1"))
