"""What the tests share: a small task, a small ledger, the data folder."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from persd.ledger import Ledger
from persd.records import Task, Test

# the same examples every time; HYPOTHESIS_PROFILE=default draws new ones
settings.register_profile("same", derandomize=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def make_task(task_id: str = "add", *, tests: tuple[Test, ...] | None = None) -> Task:
    """Add two numbers."""
    return Task(
        task_id=task_id,
        instruction="Add two numbers.",
        header="def add(a, b):\n",
        entry_point="add",
        tests=tests if tests is not None else (Test("add(1, 2)", "3"), Test("add(0, 5)", "5")),
        seen_tests=(Test("add(2, 2)", "4"),),
        reference="def add(a, b):\n    return a + b\n",
    )


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with Ledger(tmp_path / "run") as opened:
        yield opened


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of benchmark files; tests that need it skip without it."""
    folder = os.environ.get("PERSD_DATA")
    if not folder:
        pytest.skip("PERSD_DATA is not set: the benchmark files are not here")
    return Path(folder)


def pytest_collection_finish() -> None:
    """What was imported is not looked through again: every training collects garbage, and with
    torch and its libraries loaded that takes longer than a tiny one."""
    gc.freeze()
