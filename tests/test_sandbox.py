"""Programs that misbehave are judged right, and harm nobody."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from hostile import CASES, CHEATS, HOST, LEAK, Case
from persd.records import Task, Test, Verdict
from persd.sandbox import Limits, Sandbox
from persd.verify import Job, verify

FAST = Limits(cpu_seconds=0.5, load_seconds=0.5)
TESTS = (Test("add(1, 2)", "3"), Test("add(5, 7)", "12"), Test("add(0, 0)", "0"))
TASK = Task("add", "Add two numbers.", "def add(a, b):\n", "add", tests=TESTS)
RIGHT = "def add(a, b): return a + b"


@pytest.fixture(scope="module")
def box() -> Iterator[Sandbox]:
    with Sandbox(workers=1) as sandbox:
        yield sandbox


@pytest.fixture(scope="module")
def cage() -> Iterator[Sandbox]:
    """As in a container that may not make namespaces."""
    with Sandbox(workers=1, without=("namespaces",)) as sandbox:
        yield sandbox


def judge(box: Sandbox, code: str) -> Verdict:
    return next(verify(box, [Job("s", TASK, code, limits=FAST)]))


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    (tmp_path / "dir").mkdir()
    (tmp_path / "data.txt").write_text("secret")
    return tmp_path


def right(want: str, verdict: Verdict) -> bool:
    if want == "!passed":
        return verdict.status not in ("passed", "not_run")
    statuses, _, finer = want.partition(" ")
    if verdict.status not in statuses.split("|"):
        return False
    if finer.startswith("reason="):
        return finer.removeprefix("reason=") in verdict.reason
    failure = verdict.first_failure
    return not finer or (failure is not None and failure.error_type == finer)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_hostile_program(case: Case, box: Sandbox, canary: Path) -> None:
    try_out(case, box, canary)


@pytest.mark.parametrize("case", HOST + CHEATS, ids=lambda case: case.name)
def test_hostile_program_without_namespaces(case: Case, cage: Sandbox, canary: Path) -> None:
    try_out(case, cage, canary)


def try_out(case: Case, box: Sandbox, canary: Path) -> None:
    """The verdict is right, nothing outside is touched, and the next program is well."""
    if case.needs and case.needs not in box.isolation:
        pytest.skip(f"this machine has no {case.needs}")
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0)
        leak = LEAK if "_leak(" in case.source else ""
        source = (leak + case.source.lstrip("\n")).replace("{canary}", str(canary))
        verdict = judge(box, source.replace("{port}", str(server.getsockname()[1])))
        with pytest.raises(BlockingIOError):
            server.accept()
    assert right(case.want, verdict), verdict
    left = {p.name for p in canary.iterdir()}
    assert left == {"dir", "data.txt"}
    assert (canary / "data.txt").read_text() == "secret"
    assert judge(box, RIGHT).status == "passed"
