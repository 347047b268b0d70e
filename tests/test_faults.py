"""The whole loop with a teacher that fails in every way an endpoint can, and its bill."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from persd import session as session_module
from persd.calls import Asker, Retry
from persd.config import Config
from persd.ledger import Ledger
from persd.loop import collect
from persd.progress import Progress
from persd.records import STATES, Task, TaskState, Test
from persd.run import Run
from test_kill import load_bench

endpoint = load_bench("endpoint")

#: USD per million tokens, in and out.
PRICE = 1000.0
RETRY = Retry(first=0.01, most=0.05)
KINDS = load_bench("faults").FAULTS
FAULTS = dict.fromkeys(KINDS, 0.05)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short waits between tries."""
    monkeypatch.setattr(session_module, "Asker", partial(Asker, retry=RETRY))


@pytest.fixture
def server() -> Iterator[Any]:
    settings = endpoint.Settings(
        seed=1,  # every kind of fault strikes among the first 45 calls
        latency=0.02,
        jitter=0.5,
        faults=FAULTS,
        hang=5.0,
        retry_after=0.05,
        input_price=PRICE,
        output_price=PRICE,
    )
    with endpoint.serve(settings) as served:
        yield served


def make_tasks(count: int) -> list[Task]:
    """Tasks ``scale``: multiply by 2, 3, ..."""
    return [
        Task(
            task_id=f"scale-{n}",
            instruction=f"Multiply the number by {n}.",
            header="def scale(x):\n",
            entry_point="scale",
            tests=(Test("scale(3)", str(3 * n)), Test("scale(-1)", str(-n))),
            reference=f"def scale(x):\n    return {n} * x\n",
        )
        for n in range(2, count + 2)
    ]


def make_config(
    folder: Path, server: Any, tasks: list[Task], right: int = 0, **more: Any
) -> Config:
    """A student that is right on every ``right``-th task (0: on none)."""
    lines = []
    for i, task in enumerate(tasks):
        number = i + 2 if right and i % right == 0 else i + 3
        text = f"    return x * {number}\n"
        lines.append(json.dumps({"task_id": task.task_id, "purpose": "attempt", "text": text}))
    script = folder / "student.jsonl"
    script.write_text("\n".join(lines))
    teacher = {
        "model": "fake",
        "base_url": server.url,
        "price": {"input": PRICE, "output": PRICE},
        "max_tokens": 64,
        "max_in_flight": 64,
        "timeout": 0.5,
        **more,
    }
    return Config.model_validate(
        {
            "run": {"dir": str(folder / "run"), "variants": ["persd-combined"]},
            "tasks": {"source": "jsonl", "path": "unused.jsonl"},
            "student": {"model": f"scripted:{script}"},
            "teacher": teacher,
        }
    )


def go(config: Config, tasks: list[Task]) -> dict[str, TaskState]:
    with Run(config) as run:
        run.store_tasks(tasks)
        collect(run, 1, config.student.model)
        return run.ledger.states(1)


def at_risk(ledger: Ledger) -> float:
    """USD of all that was sent to the teacher: known, or the most it can have been."""
    tries = ledger.tries(role="teacher")
    unknown = sum(t.usd if t.usd is not None else t.usd_at_most or 0.0 for t in tries)
    return ledger.spent(role="teacher") + unknown


def excuse(ledger: Ledger, state: TaskState) -> bool:
    """Whether what came back explains that a task is not refined."""
    replies = ledger.solutions(task_id=state.task_id, kind="refinement")
    tries = ledger.tries(role="teacher", task_id=state.task_id)
    if state.state == "teacher_failed":
        return len(replies) >= 3 and all(r.code is None for r in replies)
    failed = [t for t in tries if t.outcome != "rate_limited"]
    empty = [t for t in tries if t.outcome == "unusable"]
    return state.state == "unavailable" and (
        len(failed) >= RETRY.tries or len(empty) >= RETRY.unusable
    )


def test_every_fault_is_borne_and_counted(tmp_path: Path, server: Any) -> None:
    tasks = make_tasks(60)
    config = make_config(tmp_path, server, tasks, right=4)
    states = go(config, tasks)
    count = Counter(s.state for s in states.values())
    assert sum(count.values()) == 60
    assert count.keys() <= set(STATES)
    assert count["solved"] == 15
    assert count["refined"] >= 38  # of 45, where hardly one is so unlucky
    told = server.stats()
    assert told["faults"].keys() == FAULTS.keys()
    with Ledger(tmp_path / "run", read_only=True) as ledger:
        for state in states.values():
            assert state.state in ("solved", "refined") or excuse(ledger, state)
        outcomes = Counter(t.outcome for t in ledger.tries())
        assert "in_flight" not in outcomes
        assert outcomes["malformed"] == told["faults"]["malformed"]
        assert outcomes["server_error"] == told["faults"]["server_error"]
        assert outcomes["unusable"] == told["faults"]["empty"]
        limited = told["faults"]["rate_limited"] + told["faults"]["rate_limited_told"]
        assert outcomes["rate_limited"] == limited
        assert outcomes["connection"] >= told["faults"]["cut"]
        assert ledger.spent(role="teacher") <= told["billed_usd"] + 1e-9
        assert told["billed_usd"] <= at_risk(ledger) + 1e-9
    server.set(faults={})
    again = go(config, tasks)
    assert {s.state for s in again.values()} <= {"solved", "refined", "teacher_failed"}
    assert server.stats()["requests"] == told["requests"] + count["unavailable"]


def test_no_fault_makes_it_pass_the_cap(tmp_path: Path, server: Any) -> None:
    tasks, cap = make_tasks(60), 12.0
    states = go(make_config(tmp_path, server, tasks, budget_usd=cap), tasks)
    count = Counter(s.state for s in states.values())
    assert sum(count.values()) == 60
    assert count["over_budget"] > 0
    assert count["refined"] > 0
    told = server.stats()
    with Ledger(tmp_path / "run", read_only=True) as ledger:
        assert told["billed_usd"] <= at_risk(ledger) + 1e-9
        assert at_risk(ledger) <= cap + 1e-9
    server.set(faults={})
    rest = go(make_config(tmp_path, server, tasks, budget_usd=1000.0), tasks)
    open_before = count["over_budget"] + count["unavailable"]
    assert sum(s.state == "refined" for s in rest.values()) == count["refined"] + open_before


class Stopping(Progress):
    """Asks the run to stop once so many tasks have ended."""

    def __init__(self, after: int) -> None:
        self.run: Run | None = None
        self._left = after

    def step(self, units: int = 1, **counts: int) -> None:
        self._left -= units
        if self._left == 0 and self.run is not None:
            self.run.stop()


def test_a_stopped_run_goes_on_without_asking_again(tmp_path: Path, server: Any) -> None:
    server.set(faults={})
    tasks = make_tasks(60)
    config = make_config(tmp_path, server, tasks, max_in_flight=4)
    progress = Stopping(after=10)
    with Run(config, progress) as run:
        progress.run = run
        run.store_tasks(tasks)
        with pytest.raises(KeyboardInterrupt):
            collect(run, 1, config.student.model)
        ended = len(run.ledger.states(1))
        assert 10 <= ended < 60
        assert run.ledger.tries() == []
    states = go(config, tasks)
    assert {s.state for s in states.values()} == {"refined"}
    assert len(states) == 60
    told = server.stats()
    assert (told["requests"], told["repeated"]) == (60, 0)
