"""A forecast holds what then comes, says what it rests on, and a pilot is paid once."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from conftest import make_task
from persd.config import Config
from persd.errors import UserError
from persd.forecast import dry_run, forecast, pilot_tasks, readable
from persd.ledger import Ledger
from persd.loop import collect
from persd.pool.of_run import load_pool
from persd.records import (
    Call,
    Completion,
    Kind,
    Solution,
    State,
    Task,
    TaskState,
    Try,
    Usage,
    Verdict,
)
from persd.run import Run
from play import CHAT_RIGHT, CHAT_WRONG, Script, use
from test_kill import load_bench

URL = "http://127.0.0.1:9/v1"
PRICE = {"input": 1.0, "output": 4.0, "cached": 0.0}
WRONG = "    return 0\n"


def make_config(folder: Path, *, run: dict[str, Any] | None = None, **teacher: Any) -> Config:
    given = {"model": "fake", "base_url": URL, "price": PRICE, **teacher}
    return Config.model_validate(
        {
            "run": {"dir": str(folder / "run"), **(run or {})},
            "tasks": {"source": "jsonl", "path": str(folder / "tasks.jsonl")},
            "student": {"model": "scripted:student.jsonl"},
            "teacher": {k: v for k, v in given.items() if v is not None},
        }
    )


def make_tasks(count: int) -> list[Task]:
    return [make_task(f"add-{n}") for n in range(count)]


def call(task_id: str, number: int, usage: Usage, purpose: str = "refinement") -> Call:
    return Call(
        call_id=f"{task_id} {purpose} {number}",
        role="teacher",
        model="fake",
        purpose=purpose,
        task_id=task_id,
        round=0 if purpose == "direct" else 1,
        messages=(),
        params={"max_tokens": 9},
        completion=Completion("x", usage=usage, usd=cost(usage)),
    )


def cost(usage: Usage) -> float:
    fresh = usage.input_tokens - usage.cached_tokens
    return (fresh + 4 * usage.output_tokens) / 1e6


Outcome = tuple[State, list[Usage]]


def draw_world(rng: random.Random, count: int) -> dict[str, Outcome]:
    """How each task ends and what its repairs take: a third is solved, long ones fail more."""
    found: dict[str, Outcome] = {}
    for n in range(count):
        size = rng.lognormvariate(6, 0.5)
        calls = [Usage(round(size), round(size / 4), round(size / 8))]
        state: State = "refined"
        if rng.random() < min(0.9, size / 1200):
            calls.append(Usage(round(1.5 * size), round(size / 4)))
            state = "refined" if rng.random() < 0.5 else "refused"
        found[f"add-{n}"] = ("solved", []) if rng.random() < 0.33 else (state, calls)
    return found


def write(ledger: Ledger, world: dict[str, Outcome], task_ids: Sequence[str]) -> None:
    """Store these tasks as finished."""
    calls = [call(i, n, u) for i in task_ids for n, u in enumerate(world[i][1])]
    if calls:
        ledger.add_calls(calls)
    for task_id in task_ids:
        ledger.set_state(TaskState(task_id, 1, world[task_id][0]))


def truth(world: dict[str, Outcome]) -> dict[str, float]:
    calls = [u for _, usages in world.values() for u in usages]
    return {
        "repairs": len(calls),
        "input_tokens": sum(u.input_tokens for u in calls),
        "output_tokens": sum(u.output_tokens for u in calls),
        "usd": sum(map(cost, calls)),
        "examples": sum(state == "refined" for state, _ in world.values()),
    }


def ranges(found: dict[str, Any]) -> dict[str, Any]:
    names = ("input_tokens", "output_tokens", "usd", "examples")
    return {"repairs": found["calls"]["repairs"], **{n: found[n] for n in names}}


def within(told: dict[str, float], value: float) -> bool:
    return told["low"] - 1e-9 <= value <= told["high"] + 1e-9


# -- what a forecast holds --------------------------------------------------------------------


@pytest.mark.parametrize("seen", [12, 40])
def test_the_intervals_hold_what_comes_about_as_often_as_they_say(
    tmp_path: Path, seen: int
) -> None:
    tasks, trials, held = make_tasks(150), 40, dict.fromkeys(truth({}), 0)
    for number in range(trials):
        rng = random.Random(number)
        world = draw_world(rng, len(tasks))
        config = make_config(tmp_path / str(number))
        with Ledger(config.run.dir) as ledger:
            ledger.add_tasks(tasks)
            write(ledger, world, rng.sample(sorted(world), seen))
            told = ranges(forecast(config, ledger, tasks))
        for name, value in truth(world).items():
            held[name] += within(told[name], value)
    assert all(0.83 * trials <= n for n in held.values()), held


def test_a_wider_basis_is_a_narrower_interval_and_a_whole_run_has_none(tmp_path: Path) -> None:
    world = draw_world(random.Random(1), 200)
    config, widths = make_config(tmp_path), []
    with Ledger(config.run.dir) as ledger:
        ledger.add_tasks(make_tasks(200))
        for count in (10, 40, 160, 200):
            write(ledger, world, [f"add-{n}" for n in range(count)])
            told = ranges(found := forecast(config, ledger))
            widths.append([r["high"] - r["low"] for r in told.values()])
    assert widths == sorted(widths, reverse=True)
    assert widths[-1] == [0] * 5
    for name, value in truth(world).items():
        assert told[name]["expected"] == pytest.approx(value)
    assert found["spent_usd"] == pytest.approx(truth(world)["usd"])
    assert found["usd_per_example"]["expected"] == pytest.approx(
        truth(world)["usd"] / truth(world)["examples"]
    )
    assert found["basis"] == "200 finished tasks of this run"


def test_the_same_history_has_the_same_forecast(tmp_path: Path) -> None:
    config = make_config(tmp_path)
    with Ledger(config.run.dir) as ledger:
        ledger.add_tasks(make_tasks(60))
        write(ledger, draw_world(random.Random(2), 60), [f"add-{n}" for n in range(20)])
        assert forecast(config, ledger) == forecast(config, ledger)


def test_what_was_never_seen_is_not_held_impossible(tmp_path: Path) -> None:
    config = make_config(tmp_path)
    with Ledger(config.run.dir) as ledger:
        ledger.add_tasks(make_tasks(100))
        write(
            ledger, {f"add-{n}": ("solved", []) for n in range(5)}, [f"add-{n}" for n in range(5)]
        )
        found = forecast(config, ledger)
    assert found["examples"]["low"] == 0
    assert found["examples"]["high"] >= 10
    assert found["calls"]["repairs"]["high"] >= 10
    assert found["usd"]["high"] > 0
    assert found["usd_per_example"] is None


def test_tasks_that_a_cap_left_half_way_are_not_taken_for_easy(tmp_path: Path) -> None:
    """All easy tasks have ended, those that need another repair wait for it."""
    config = make_config(tmp_path)
    tasks = make_tasks(100)
    with Ledger(config.run.dir) as ledger:
        ledger.add_tasks(tasks)
        world: dict[str, Outcome] = {f"add-{n}": ("refined", [Usage(100, 10)]) for n in range(60)}
        write(ledger, world, sorted(world))
        for task in tasks[60:]:
            leave_half_way(ledger, task.task_id)
        found = forecast(config, ledger, tasks)
    assert found["tasks_finished"] == 60
    assert found["calls"]["repairs"]["expected"] == 140
    assert found["examples"]["low"] <= 65
    assert found["examples"]["high"] >= 95


def leave_half_way(ledger: Ledger, task_id: str) -> None:
    """The attempt and one repair have failed, and the second was not asked for."""
    ledger.add_calls([call(task_id, 0, Usage(100, 10))])
    kinds: tuple[Kind, ...] = ("attempt", "refinement")
    for kind in kinds:
        name = f"{kind} {task_id}"
        ledger.add_solution(Solution(name, task_id, kind, "fake", 1, "x", "x"))
        ledger.add_verdict(Verdict(name, "failed"))
    ledger.set_state(TaskState(task_id, 1, "over_budget"))


def test_calls_that_failed_on_the_way_cost_what_they_may_have_cost(tmp_path: Path) -> None:
    config = make_config(tmp_path)
    answered, tasks = Usage(100, 10), make_tasks(40)
    lost = Try("", 0.0, "teacher", "fake", "refinement", "", 1, 1.0, Usage(), "timeout", None)
    with Ledger(config.run.dir) as ledger:
        ledger.add_tasks(tasks)
        world: dict[str, Outcome] = {f"add-{n}": ("refined", [answered]) for n in range(10)}
        for task_id in world:
            ledger.begin_try(replace(lost, call_id=f"{task_id} refinement 0", task_id=task_id))
        write(ledger, world, sorted(world))
        found = forecast(config, ledger, tasks)
    assert found["spent_usd"] == pytest.approx(10 * (1.0 + cost(answered)))
    assert found["usd"]["expected"] == pytest.approx(40 * (1.0 + cost(answered)))


def test_direct_answers_to_come_are_known(tmp_path: Path) -> None:
    config = make_config(tmp_path, direct="ask")
    world: dict[str, Outcome] = {f"add-{n}": ("refined", [Usage(100, 10)]) for n in range(12)}
    with Ledger(config.run.dir) as ledger:
        ledger.add_tasks(make_tasks(50))
        ledger.add_calls([call(i, 0, Usage(50, 20), "direct") for i in world])
        write(ledger, world, sorted(world))
        directs = forecast(config, ledger)["calls"]["directs"]
    assert directs == {"expected": 50, "low": 50, "high": 50}


def test_answers_that_are_stored_and_not_judged_are_not_asked_for_again(tmp_path: Path) -> None:
    config = make_config(tmp_path, direct="ask")
    world: dict[str, Outcome] = {f"add-{n}": ("solved", []) for n in range(12)}
    with Ledger(config.run.dir) as ledger:
        ledger.add_tasks(make_tasks(50))
        ledger.add_calls([call(f"add-{n}", 0, Usage(50, 20), "direct") for n in range(32)])
        write(ledger, world, sorted(world))
        found = forecast(config, ledger)
    assert found["calls"]["directs"] == {"expected": 50, "low": 50, "high": 50}


def test_later_rounds_are_like_the_first_but_ask_for_no_direct_answer(tmp_path: Path) -> None:
    config = make_config(tmp_path, run={"rounds": 3}, direct="ask")
    world: dict[str, Outcome] = {f"add-{n}": ("refined", [Usage(100, 10)]) for n in range(30)}
    with Ledger(config.run.dir) as ledger:
        ledger.add_tasks(make_tasks(60))
        ledger.add_calls([call(i, 0, Usage(50, 20), "direct") for i in world])
        write(ledger, world, sorted(world))
        found = forecast(config, ledger)
    assert found["calls"]["directs"]["high"] == 60
    assert found["calls"]["repairs"]["expected"] == pytest.approx(180, abs=1)
    assert found["tasks"] == 180
    assert "later rounds are taken to be like those seen" in found["notes"]


# -- caps and prices --------------------------------------------------------------------------


def test_a_cap_that_binds_tells_how_far_it_reaches(tmp_path: Path) -> None:
    each = Usage(1000, 250)  # 0.002 USD
    world: dict[str, Outcome] = {f"add-{n}": ("refined", [each]) for n in range(30)}
    found = {}
    for cap in (0.1, 10.0):
        config = make_config(tmp_path / str(cap), budget_usd=cap, max_tokens=250)
        with Ledger(config.run.dir) as ledger:
            ledger.add_tasks(make_tasks(100))
            write(ledger, world, sorted(world))
            found[cap] = forecast(config, ledger)
    assert found[10.0]["budget_reaches_tasks"] is None
    assert found[10.0]["cap_usd"] == 10.0
    assert found[0.1]["usd"]["expected"] == pytest.approx(0.2)  # what it would take
    assert 45 <= found[0.1]["budget_reaches_tasks"]["expected"] <= 50
    assert 45 <= found[0.1]["budget_reaches_examples"]["expected"] <= 50
    shown = dict(readable(found[0.1]))
    reached = found[0.1]["budget_reaches_tasks"]["expected"]
    assert shown["tasks the cap reaches"].startswith(str(reached))
    assert "tasks the cap reaches" not in dict(readable(found[10.0]))


def test_the_attempts_of_a_served_student_count_and_its_own_cap_binds(tmp_path: Path) -> None:
    plain = make_config(tmp_path).model_dump()
    price = {"input": 1.0, "output": 4.0}
    served = {"model": "small", "base_url": URL, "price": price, "max_tokens": 250}
    config = Config.model_validate({**plain, "student": {**served, "budget_usd": 0.1}})
    with Ledger(config.run.dir) as ledger:
        ledger.add_tasks(make_tasks(100))
        for n in range(30):
            usage = Usage(1000, 250)  # 0.002 USD
            asked = call(f"add-{n}", 0, usage, "attempt")
            ledger.add_calls([replace(asked, role="student", model="small")])
            ledger.set_state(TaskState(f"add-{n}", 1, "solved"))
        found = forecast(config, ledger)
    attempts = found["calls"]["attempts"]
    assert attempts["expected"] == attempts["high"] == 100  # or a reference may be found wrong
    assert 0.18 <= found["usd"]["low"] <= 0.2 <= found["usd"]["high"]
    assert 40 <= found["budget_reaches_tasks"]["expected"] <= 50


def test_an_unknown_price_is_unknown_and_tokens_are_forecast(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "k")
    config = make_config(tmp_path, base_url="https://gateway.example/v1", price=None)
    world: dict[str, Outcome] = {f"add-{n}": ("refined", [Usage(100, 10)]) for n in range(10)}
    with Ledger(config.run.dir) as ledger:
        ledger.add_tasks(make_tasks(40))
        write(ledger, world, sorted(world))
        found = forecast(config, ledger)
    assert found["usd"] is None
    assert found["usd_per_example"] is None
    assert found["input_tokens"]["expected"] == 4000
    assert dict(readable(found))["money"] == "unknown: give teacher.price"


# -- pilots -----------------------------------------------------------------------------------


def test_a_pilot_is_a_sample_that_does_not_depend_on_order(tmp_path: Path) -> None:
    tasks, drawn = make_tasks(50), []
    for name, order in (("a", tasks), ("b", tasks[::-1])):
        with Ledger(tmp_path / name) as ledger:
            ledger.add_tasks(order)
            drawn.append({t.task_id for t in pilot_tasks(ledger, 10, seed=0)})
            assert drawn[-1] < {t.task_id for t in pilot_tasks(ledger, 20, seed=0)}
            assert drawn[-1] != {t.task_id for t in pilot_tasks(ledger, 10, seed=1)}
            assert len(pilot_tasks(ledger, 99, seed=0)) == 50
    assert drawn[0] == drawn[1]
    assert len(drawn[0]) == 10


def test_a_pilot_twice_and_then_the_whole_asks_nothing_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks = make_tasks(24)
    said = {t.task_id: [CHAT_WRONG, CHAT_RIGHT] for t in tasks[::3]}
    script = use(monkeypatch, Script({t.task_id: WRONG for t in tasks[::2]}, said))
    config = make_config(tmp_path)
    told, asked = [], []
    for pilot in (8, 8, None):
        with Run(config) as run:
            run.store_tasks(tasks)
            chosen = None if pilot is None else pilot_tasks(run.ledger, pilot, config.run.seed)
            collect(run, 1, config.student.model, chosen)
            told.append(forecast(config, run.ledger))
            asked.append(script.asked.total())
    assert [f["basis"] for f in told[:2]] == ["pilot of 8 tasks"] * 2
    assert told[0] == told[1]
    assert 0 < asked[0] == asked[1] < asked[2]
    assert len({(r.purpose, r.task.task_id, r.attempt) for r in script.requests}) == asked[2]
    assert told[2]["tasks_finished"] == 24
    assert told[2]["calls"]["repairs"] == dict.fromkeys(("expected", "low", "high"), 12 + 4)
    assert within(told[0]["calls"]["repairs"], 12 + 4)


# -- dry runs ---------------------------------------------------------------------------------


def test_a_dry_run_of_no_run_is_an_upper_bound_and_leaves_no_folder(tmp_path: Path) -> None:
    load_bench("kill").write_tasks(tmp_path, 9)
    config = make_config(tmp_path, max_tokens=100)
    found = dry_run(config)
    told = found["forecast"]
    assert not (tmp_path / "run").exists()
    assert told["basis"] == "upper bound: nothing was asked yet"
    assert told["usd"] == {"expected": None, "low": None, "high": found["usd_at_most"]}
    assert told["calls"]["repairs"]["high"] == found["repairs_at_most"] == 18
    assert told["output_tokens"]["high"] == 18 * 100
    assert dict(readable(told))["repairs asked"] == "at most 18"


def test_a_dry_run_uses_what_a_run_holds_while_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load_bench("kill").write_tasks(tmp_path, 9)
    config = make_config(tmp_path)
    with Run(config) as run:
        load_pool(run)
        run.ledger.set_state(TaskState("scale-3", 1, "solved"))
        run.ledger.flush()
        found = dry_run(config)
    assert found["forecast"]["tasks_finished"] == 1
    assert found["forecast"]["tasks"] == 9


def test_a_dry_run_refuses_what_a_run_would(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load_bench("kill").write_tasks(tmp_path, 9)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(UserError, match="OPENAI_API_KEY"):
        dry_run(make_config(tmp_path, base_url="https://gateway.example/v1"))
