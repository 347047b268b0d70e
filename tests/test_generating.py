"""``persd tasks generate`` and ``persd tasks evolve`` as a user meets them."""

from __future__ import annotations

import json
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from persd import session as session_module
from persd.cli_tasks import tasks_app
from persd.errors import UserError
from persd.ledger import Ledger
from persd.models.scripted import ScriptedModel
from persd.pool import generate
from persd.pool.files import write_tasks
from persd.pool.generating import Order, opened, order_of, planned, written
from persd.progress import QUIET
from persd.tasks import lab, load
from test_cli import persd

SEEDS = lab.load(count=6, seed=3)


@pytest.fixture
def seeds(tmp_path: Path) -> Path:
    path = tmp_path / "seeds.jsonl"
    write_tasks(path, SEEDS)
    return path


def order(folder: Path, *overrides: str, against: list[str] | None = None, **given: Any) -> Order:
    names = ("price", "budget_usd", "base_url")
    endpoint: dict[str, Any] = {k: given.pop(k) for k in names if k in given}
    rules = {"count": 3, "seeds": str(folder / "seeds.jsonl"), **given}
    return order_of(
        rules,
        {"model": "lab", **endpoint},
        overrides,
        against,
        out=folder / "out.jsonl",
        run=folder / "run",
        seed=0,
        command="persd tasks generate",
    )


def generated(order: Order) -> tuple[str, dict[str, Any]]:
    with opened(order, QUIET) as session:
        ended, found = written(session, order)
        return ended.why, found


def said(*args: str | Path) -> Any:
    """What ``persd tasks`` prints as JSON."""
    done = CliRunner().invoke(tasks_app, [str(a) for a in args], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


# -- the command line ----------------------------------------------------------------------------


def test_a_file_is_written_without_network_or_key(tmp_path: Path, seeds: Path) -> None:
    out, run = tmp_path / "mine.jsonl", tmp_path / "run"
    command = ("tasks", "generate", "--seeds", seeds, "--count", "5", "--teacher", "lab")
    done = persd(*command, "--out", out, "--run", run, "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["tasks"] == 5
    assert found["path"] == str(out)
    assert found["candidates"] == sum(found["states"].values()) >= 5
    assert found["states"]["accepted"] >= 5
    assert (found["usd"], found["usd_per_task"], found["unanswered"]) == (0.0, 0.0, {})
    assert found["against"] == []
    assert found["run"] == str(run)
    assert "held against no benchmark, and against 6 seeds" in done.stderr
    tasks = list(load(str(out)))
    assert len(tasks) == 5
    assert all(t.tests and t.seen_tests and t.reference for t in tasks)
    assert {t.meta["origin"] for t in tasks} == {"seeds"}
    assert "written by" in Path(f"{out}.md").read_text()
    again = persd(*command, "--out", out, "--run", run)
    assert again.returncode == 0, again.stderr
    assert "accepted" in again.stdout
    assert list(load(str(out))) == tasks


def test_around_what_a_student_failed(tmp_path: Path) -> None:
    rates = [{"student": "s", "samples": 4, "passed": n, "asked": 4} for n in (0, 2, 4)]
    tasks = [replace(t, meta={"difficulty": r}) for t, r in zip(SEEDS[:3], rates, strict=True)]
    write_tasks(tmp_path / "rated.jsonl", tasks)
    out = tmp_path / "evolved.jsonl"
    found = said(
        *("evolve", tmp_path / "rated.jsonl", "--count", "2", "--teacher", "lab"),
        *("--out", out, "--run", tmp_path / "run", "--way", "deeper", "--json"),
    )
    assert found["tasks"] == 2
    written = list(load(str(out)))
    assert {t.meta["origin"] for t in written} == {"evolved"}
    assert {t.meta["way"] for t in written} == {"deeper"}
    assert {t.meta["parent"] for t in written} <= {t.task_id for t in tasks[:2]}


def test_what_set_says_of_benchmarks_holds(tmp_path: Path, seeds: Path) -> None:
    file = str(seeds)
    set_so = order(tmp_path, 'against=["mine"]', f'data.mine="{file}"').rules
    assert (set_so.against, set_so.data) == (["mine"], {"mine": file})
    assert order(tmp_path, 'against=["mine"]', against=["none"]).rules.against == []
    with pytest.raises(UserError, match="author=1"):
        order(tmp_path, "author=1")


def test_a_run_is_left_alone(tmp_path: Path, seeds: Path) -> None:
    with Ledger(tmp_path / "run") as ledger:
        ledger.set_meta("config", "{}")
    with pytest.raises(UserError, match="folder of a run"):
        generated(order(tmp_path))
    with Ledger(tmp_path / "run", read_only=True) as ledger:
        assert ledger.count_candidates() == {}


def test_a_plan_asks_nobody(tmp_path: Path, seeds: Path) -> None:
    found = said(
        *("generate", "--seeds", seeds, "--count", "100", "--teacher", "gpt-x"),
        *("--price", "1,2", "--out", tmp_path / "out.jsonl", "--run", tmp_path / "run"),
        *("--against", "none", "--dry-run", "--json"),
    )
    assert found["tasks"] == 100
    assert 50 <= found["questions"] <= 80
    assert 0 < found["usd_at_most"] < 2
    assert found["usd_without_cap"] >= found["usd_at_most"]
    assert found["seeds"] == 6
    assert "new task" in found["prompt"]
    assert not (tmp_path / "run").exists()
    assert not (tmp_path / "out.jsonl").exists()


@pytest.mark.parametrize(
    ("overrides", "given", "said"),
    [
        (["shoots=3"], {}, "shoots: unknown key"),
        (["shots=0"], {}, "--shots"),
        (["shots"], {}, "a.b=value"),
        (["calls=2"], {}, "fewer than seen"),
        ([], {"against": ["mbpp=no.jsonl"]}, "no file for mbpp"),
        ([], {"base_url": "ftp://x"}, "--base-url"),
        ([], {"base_url": "http://example.com/v1", "budget_usd": 1.0}, "--price IN,OUT"),
    ],
)
def test_the_flag_at_fault_is_named(
    tmp_path: Path, overrides: list[str], given: dict[str, Any], said: str
) -> None:
    with pytest.raises(UserError) as caught:
        order(tmp_path, *overrides, **given)
    assert said in caught.value.one_line()


def test_a_benchmark_that_cannot_be_read_is_told_before_anybody_is_paid(
    tmp_path: Path, seeds: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def held_out(*_: Any) -> Any:
        raise UserError("there is no network")

    monkeypatch.setattr(generate, "held_out", held_out)
    with pytest.raises(UserError) as caught:
        generated(order(tmp_path, against=["humaneval"]))
    line = caught.value.one_line()
    assert "held against humaneval: there is no network" in line
    assert "--against humaneval=FILE" in line
    assert "--against none" in line


# -- in a folder ---------------------------------------------------------------------------------


def test_what_is_not_said_is_chosen_by_who_writes(tmp_path: Path, seeds: Path) -> None:
    lab_order = order(tmp_path)
    assert lab_order.rules.against == []
    given = {"count": 1}
    served = {"model": "gpt-x"}
    out = Path("some/tasks.v2.jsonl")
    how: dict[str, Any] = {"out": out, "run": None, "seed": 0, "command": "persd tasks generate"}
    found = order_of(given, served, [], None, **how)
    assert (found.rules.against, found.rules.seeds) == (["humaneval", "mbpp"], "mbpp")
    assert found.run == Path("runs/tasks/tasks.v2")
    assert found.card == Path("some/tasks.v2.jsonl.md")
    found = order_of(given, {"model": "lab"}, ["max_tokens=50", "timeout=9.5"], None, **how)
    assert (found.rules.seeds, found.rules.max_tokens, found.teacher.timeout) == ("lab", 50, 9.5)
    file = tmp_path / "seeds.jsonl"
    found = order_of(given, served, [], [f"mbpp={file}", "lab"], **how)
    assert (found.rules.against, found.rules.data) == (["mbpp", "lab"], {"mbpp": str(file)})
    assert order_of(given, served, [], ["none"], **how).rules.against == []
    with pytest.raises(UserError, match="none"):
        order_of(given, served, [], ["none", "mbpp"], **how)


def test_the_file_is_refused_before_anything_is_done(tmp_path: Path, seeds: Path) -> None:
    for out in (seeds, tmp_path, tmp_path / "notes.txt"):
        (tmp_path / "notes.txt").write_text("mine")
        refused = replace(order(tmp_path), out=out)
        with pytest.raises(UserError, match="cannot write"), opened(refused, QUIET):
            pytest.fail("it was opened")
    assert not (tmp_path / "run").exists()
    with pytest.raises(UserError, match="cannot write"):
        planned(replace(order(tmp_path), out=seeds))


def test_a_file_of_others_is_refused_and_what_a_folder_held_is_told(
    tmp_path: Path, seeds: Path
) -> None:
    out = tmp_path / "out.jsonl"
    write_tasks(out, SEEDS)
    before = out.read_bytes()
    command = ("tasks", "generate", "--seeds", seeds, "--teacher", "lab", "--out", out)
    foreign = persd(*command, "--run", tmp_path / "run", "--count", "5")
    assert foreign.returncode == 2
    assert "not written here" in foreign.stderr
    assert out.read_bytes() == before
    out.unlink()
    first = persd(*command, "--run", tmp_path / "run", "--count", "5")
    assert first.returncode == 0, first.stderr
    assert "already" not in first.stderr
    again = persd(*command, "--run", tmp_path / "run", "--count", "2")
    held = re.search(r"holds (\d+) accepted tasks already", again.stderr)
    assert held is not None
    told = f"the first of {held[1]} accepted"
    assert f"2 tasks ({told}) -> " in again.stdout
    assert f"| 2, {told} |" in out.with_name("out.jsonl.md").read_text()
    odd = persd(*command, "--count", "2", "--set", "tasks.generate.calls=9")
    assert "--set tasks: unknown key; name no table" in odd.stderr


def test_what_is_paid_is_of_the_folder(tmp_path: Path, seeds: Path) -> None:
    price: dict[str, Any] = {"price": {"input": 1.0, "output": 1.0}}
    why, found = generated(order(tmp_path, budget_usd=0.02, count=30, **price))
    assert why == "over_budget"
    assert 0 < found["tasks"] < 30
    assert found["unanswered"]["over_budget"] > 0
    assert 0 < found["usd"] <= 0.02
    assert len(list(load(str(tmp_path / "out.jsonl")))) == found["tasks"]
    accepted = found["states"]["accepted"]
    assert found["usd_per_task"] == pytest.approx(found["usd"] / accepted)
    left = planned(order(tmp_path, count=30, **price))
    assert left["accepted"] == accepted
    why, more = generated(order(tmp_path, count=accepted, **price))
    assert (why, more["usd"], more["calls"]) == ("enough", found["usd"], found["calls"])
    with pytest.raises(UserError, match=r"per_call: 2 -> 3"):
        generated(order(tmp_path, "per_call=3", count=40))


def test_a_teacher_that_gives_nothing(
    tmp_path: Path, seeds: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def open_model(*_: Any, **__: Any) -> ScriptedModel:
        return ScriptedModel(lambda r: "Which tasks?", name="mute")

    monkeypatch.setattr(session_module, "open_model", open_model)
    why, found = generated(order(tmp_path))
    assert why == "nothing"
    assert found["tasks"] == 0
    assert found["path"] is None
    assert found["usd_per_task"] is None
    assert found["states"] == {"no_task": found["candidates"]}
    assert not (tmp_path / "out.jsonl").exists()


def test_benchmarks_are_held_against(tmp_path: Path, seeds: Path) -> None:
    """What the teacher writes is first written, then held against as a benchmark."""
    _, first = generated(order(tmp_path, count=4))
    os.rename(tmp_path / "out.jsonl", tmp_path / "bench.jsonl")
    again = replace(
        order(tmp_path, against=[str(tmp_path / "bench.jsonl")], count=4), run=tmp_path / "run2"
    )
    _, found = generated(again)
    assert found["states"]["contaminated"] >= 4
    ids = {t.task_id for t in load(str(tmp_path / "bench.jsonl"))}
    assert first["tasks"] == found["tasks"] == 4
    assert not ids & {t.task_id for t in load(str(tmp_path / "out.jsonl"))}
    assert "bench.jsonl" in (tmp_path / "out.jsonl.md").read_text()
    assert str(tmp_path) not in (tmp_path / "out.jsonl.md").read_text()
