"""kill -9 at random moments: the same data set, and nothing but what was in flight asked twice."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any


def load_bench(name: str) -> Any:
    """A module of bench/, which finds its neighbours there."""
    import sys

    path = Path(__file__).parent.parent / "bench" / f"{name}.py"
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    spec = importlib.util.spec_from_file_location(f"bench_{name}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


kill = load_bench("kill")


def test_kills_lose_and_repeat_nothing(tmp_path: Path) -> None:
    plan = kill.Plan(kills=4, tasks=60, seed=1, in_flight=8, latency=0.1, jitter=1.0, longest=0.4)
    found = kill.trial(tmp_path, plan)
    assert kill.faults(found) == []
    assert found["kills"] == 4
    assert found["calls_killed"] == 60 + found["asked_whole"]
    assert 40 < found["asked_whole"] < 80  # a part of the first repairs is wrong
    assert found["asked_again"] <= 4 * 8


def test_a_lost_reply_is_told_from_one_in_flight() -> None:
    kills = [(10.0, 10.1), (20.0, 20.1)]
    questions = {
        "once": [5.0],
        "received as it was killed": [9.9, 15.0],
        "written to the dead": [10.05, 15.0],
        "lost": [12.0, 21.0],
        "paid twice in one life": [30.0, 31.0],
    }
    assert kill.repeats(questions, kills) == {
        "answered_twice": 4,
        "answered_twice_without_a_kill": 1,
        "oldest_reply_asked_again": 8.0,
        "replies_lost": 1,
    }
