"""kill -9 at random moments: the same data set, and nothing but what was in flight asked twice."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any


def load_bench(name: str) -> Any:
    path = Path(__file__).parent.parent / "bench" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"bench_{name}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    import sys

    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_kills_lose_and_repeat_nothing(tmp_path: Path) -> None:
    found = load_bench("kill").trial(tmp_path, kills=4, tasks=60, seed=1)
    assert found["same_data_set"]
    assert found["calls_killed"] == found["calls_whole"] == 60 + 40
    assert found["asked_whole"] == 40
    assert found["asked_twice"] <= found["kills"]
