"""One test for each promise in the header of ``persd.sandbox``, in its order."""

from __future__ import annotations

import ast
import os
import secrets
import socket
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hostile import CHEATS, ENDS, MEMORY, RIGHT, TIME
from persd.records import Task, Test, Verdict
from persd.sandbox import Limits, Sandbox, probe_isolation
from persd.verify import Job, verify

FAST = Limits(cpu_seconds=0.2, load_seconds=0.2)
TESTS = (Test("add(1, 2)", "3"), Test("add(5, 7)", "12"), Test("add(0, 0)", "0"))
TASK = Task("add", "Add two numbers.", "def add(a, b):\n", "add", tests=TESTS)
TIERS: tuple[tuple[str, ...], ...] = (
    (),
    ("namespaces",),
    ("landlock",),
    ("namespaces", "landlock"),
    ("namespaces", "landlock", "seccomp"),
)


@pytest.fixture(scope="module")
def boxes() -> Iterator[list[Sandbox]]:
    """One sandbox for each tier that this machine may offer."""
    made = [Sandbox(workers=1, unsafe=True, without=without) for without in TIERS]
    yield made
    for box in made:
        box.close()


@pytest.fixture(scope="module")
def box(boxes: list[Sandbox]) -> Sandbox:
    return boxes[0]


def judge(box: Sandbox, code: str, task: Task = TASK) -> Verdict:
    return next(verify(box, [Job("s", task, code, limits=FAST)]))


def value(box: Sandbox, body: str) -> Any:
    """What ``add`` returns, its body being the one given."""
    code = "import os\ndef add(a, b):\n" + "".join(f"    {line}\n" for line in body.splitlines())
    results = judge(box, code, replace(TASK, tests=(Test("add(1, 2)", "'?'"),))).results
    assert results[0].error_type == "", results[0]
    return ast.literal_eval(results[0].actual)


SCAN = '''
import os, re
def add(marker, b):
    """Kinds of markers in the memory of this process and of the one it came from."""
    found = set()
    for pid in (os.getpid(), os.getppid()):
        try:
            maps, memory = open(f"/proc/{pid}/maps"), open(f"/proc/{pid}/mem", "rb", 0)
        except PermissionError:
            continue
        with maps, memory:
            for line in maps:
                span, rights, *rest = line.split()
                if not rights.startswith("rw") or line.endswith("[vvar]\\n"):
                    continue
                start, end = (int(x, 16) for x in span.split("-"))
                memory.seek(start)
                try:
                    held = memory.read(end - start)
                except OSError:
                    continue
                found |= set(re.findall(rb"(GIVEN|WANTED)-[0-9a-f]{16}", held))
    return sorted(kind.decode() for kind in found)
'''


def test_1_expected_values_and_test_code_are_nowhere_near_the_program(
    boxes: list[Sandbox],
) -> None:
    if not os.path.exists("/proc/self/mem"):
        pytest.skip("memory cannot be searched here")
    given, wanted = (f"{kind}-{secrets.token_hex(8)}" for kind in ("GIVEN", "WANTED"))
    task = replace(TASK, tests=(Test(f"add({given!r}, 0)", repr(wanted)),))
    bare = boxes[-1]
    for _ in range(3):  # what an earlier program left behind would be found as well
        assert judge(bare, SCAN, task).results[0].actual == "['GIVEN']"
    check = f"def check(c):\n    assert c({given!r}, 0) == {wanted!r}\n"
    for _ in range(3):
        verdict = judge(bare, SCAN, replace(TASK, tests=(), test_code=check))
        assert verdict.results[0].actual == "['GIVEN']"


def test_2_a_wrong_answer_stays_wrong(box: Sandbox, tmp_path: Path) -> None:
    for case in CHEATS:
        verdict = judge(box, case.source.replace("{canary}", str(tmp_path)))
        assert verdict.status not in ("passed", "not_run"), case.name
    assert not list(tmp_path.iterdir())


def test_3_every_program_ends(box: Sandbox) -> None:
    for case in TIME:
        if case.want != "timeout":
            continue
        start = time.monotonic()
        verdict = judge(box, case.source)
        assert verdict.status == "timeout", case.name
        assert verdict.seconds < 3 * FAST.cpu_seconds, case.name
        assert time.monotonic() - start < 20, case.name


def test_4_nobody_waits_for_what_a_program_leaves_running(box: Sandbox) -> None:
    for case in TIME:
        if case.want == "passed":
            verdict = judge(box, case.source)
            assert verdict.passed, case.name
            assert verdict.seconds < FAST.cpu_seconds, case.name


def test_5_memory_files_threads_and_output_are_bounded(box: Sandbox) -> None:
    for case in MEMORY:
        verdict = judge(box, case.source)
        assert verdict.status in case.want.split(" ")[0].split("|"), case.name
        assert all(len(result.stdout) <= 1000 for result in verdict.results)


def test_6_a_program_that_dies_takes_nothing_along(box: Sandbox) -> None:
    for case in ENDS:
        assert judge(box, case.source).status == case.want.split(" ")[0], case.name
        assert judge(box, RIGHT).passed, case.name
    for ending in ("os.abort()", "os._exit(0)", "os.kill(os.getpid(), 9)"):
        late = f"import os\ndef add(a, b):\n    if not a: {ending}\n    return a + b"
        verdict = judge(box, late)
        assert verdict.status == "crashed", ending
        assert [r.status for r in verdict.results] == ["passed", "passed", "error"], ending
        assert judge(box, RIGHT).passed, ending


def test_7_empty_environment_and_a_directory_of_its_own(boxes: list[Sandbox]) -> None:
    os.environ["PERSD_CANARY"] = "secret"
    try:
        with Sandbox(workers=1) as fresh:
            assert value(fresh, "return dict(os.environ)") == {}
    finally:
        del os.environ["PERSD_CANARY"]
    for box in boxes:
        body = "open('left', 'w').close(); os.makedirs('x/y'); os.chmod('x', 0)\nreturn 1"
        assert value(box, body) == 1
        assert value(box, "return os.listdir()") == []
        assert value(box, "return os.getcwd()") != os.getcwd()


def test_8_each_program_starts_the_same() -> None:
    body = "import random\nreturn [hash('a'), random.random(), list({'a', 'b', 'c'})]"
    with Sandbox(workers=1) as one, Sandbox(workers=1) as other:
        first = value(one, body)
        assert [value(one, body), value(other, body)] == [first, first]


def test_9_files_are_out_of_reach(boxes: list[Sandbox], tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("secret")
    guarded = [box for box in boxes if "namespaces" in box.isolation or "landlock" in box.isolation]
    if not guarded:
        pytest.skip("neither namespaces nor landlock on this machine")
    for box in guarded:
        for path in (str(secret), "/etc/passwd", "/proc/self/maps", str(Path(__file__))):
            code = f"def add(a, b): return len(open({path!r}).read())"
            verdict = judge(box, code)
            assert (verdict.status, verdict.reason) == ("error", "denied"), path
        for action in (
            f"open({str(tmp_path / 'new')!r}, 'w')",
            f"open({str(secret)!r}, 'a')",
            f"os.unlink({str(secret)!r})",
            f"os.rename({str(secret)!r}, 'mine')",
            f"os.symlink('x', {str(tmp_path / 'link')!r})",
            f"os.mkdir({str(tmp_path / 'dir')!r})",
        ):
            verdict = judge(box, f"import os\ndef add(a, b): {action}")
            assert verdict.status == "error", (box.isolation, action)
    assert [p.name for p in tmp_path.iterdir()] == ["secret"]
    assert secret.read_text() == "secret"


def test_10_no_network_no_processes_no_signals(boxes: list[Sandbox]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0)
        port = server.getsockname()[1]
        connect = (
            f"import socket\ndef add(a, b): socket.create_connection(('127.0.0.1', {port}), 1)"
        )
        for box in boxes:
            if "namespaces" in box.isolation or "seccomp" in box.isolation:
                assert judge(box, connect).status == "error"
        with pytest.raises(BlockingIOError):
            server.accept()
    for box in boxes:
        if "seccomp" not in box.isolation:
            continue
        for action in (
            "os.fork()",
            "os.execv('/bin/true', ['true'])",
            "os.posix_spawn('/bin/true', ['true'], {})",
            "os.kill(os.getppid(), 0)",
            "os.kill(0, 0)",
            "os.kill(-1, 0)",
            "os.killpg(1, 0)",
        ):
            verdict = judge(box, f"import os\ndef add(a, b): {action}")
            assert (verdict.status, verdict.reason) == ("error", "denied"), action


def test_11_the_layers_in_force_are_named(boxes: list[Sandbox]) -> None:
    whole = boxes[0].isolation
    assert probe_isolation() == whole
    for box, without in zip(boxes, TIERS, strict=True):
        assert judge(box, RIGHT).isolation == box.isolation
        there = [part for part in whole.split(" + ") if part not in without]
        name = " + ".join(there) if len(there) > 1 else "rlimits only"
        assert box.isolation == name
        assert set(without) <= set(box.probe().missing)
