"""Programs that misbehave are judged right, harm nobody, and leave nothing to the next one."""

from __future__ import annotations

import contextlib
import json
import os
import random
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest

from hostile import ACROSS, CASES, HELD, MATES, Case
from persd.records import Task, Test, Verdict
from persd.sandbox import Limits, Outcome, Program, Sandbox, Session, linux
from persd.verdicts import judge as judge_outcome
from persd.verify import Job, verify

FAST = Limits(cpu_seconds=0.2, load_seconds=0.2)
TESTS = (Test("add(1, 2)", "3"), Test("add(5, 7)", "12"), Test("add(0, 0)", "0"))
TASK = Task("add", "Add two numbers.", "def add(a, b):\n", "add", tests=TESTS)
RIGHT = "def add(a, b): return a + b"
WRONG = "def add(a, b): return 99"
#: Uses all that an earlier program might have spoilt: the directory, the whole channel.
ROOM = """
import os
def add(a, b):
    open('mine', 'w').close()
    return os.listdir(), 'x' * 300_000
"""
ROOM_TASK = replace(TASK, tests=(Test("add(1, 2)", repr((["mine"], "x" * 300_000))),))
NEXT = [
    (Job("right", TASK, RIGHT, limits=FAST), "passed"),
    (Job("wrong", TASK, WRONG, limits=FAST), "failed"),
    (Job("room", ROOM_TASK, ROOM, limits=FAST), "passed"),
]


@pytest.fixture(scope="module")
def box() -> Iterator[Sandbox]:
    with Sandbox(workers=1) as sandbox:
        yield sandbox


def judge(box: Sandbox, code: str, task: Task = TASK) -> Verdict:
    return next(verify(box, [Job("s", task, code, limits=FAST)]))


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    return make_canary(tmp_path)


def make_canary(folder: Path) -> Path:
    """A directory outside the sandbox, which must stay as it is."""
    (folder / "dir").mkdir()
    (folder / "data.txt").write_text("secret")
    return folder


def is_untouched(canary: Path) -> bool:
    names = {path.name for path in canary.iterdir()}
    return names == {"dir", "data.txt"} and (canary / "data.txt").read_text() == "secret"


def right(want: str, verdict: Verdict) -> bool:
    if want == "any":
        return verdict.status != "not_run"
    if want == "!passed":
        return verdict.status not in ("passed", "not_run")
    statuses, _, finer = want.partition(" ")
    if verdict.status not in statuses.split("|"):
        return False
    if finer.startswith("reason="):
        return finer.removeprefix("reason=") in verdict.reason
    failure = verdict.first_failure
    return not finer or (failure is not None and failure.error_type == finer)


# ---- one by one -----------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_hostile_program(case: Case, box: Sandbox, canary: Path) -> None:
    try_out(case, box, canary)


def try_out(case: Case, box: Sandbox, canary: Path) -> None:
    """The verdict is right, nothing outside is touched, and the next programs are well."""
    if case.needs and case.needs not in box.isolation:
        pytest.skip(f"this machine has no {case.needs}")
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0)
        verdict = judge(box, case.code(canary, server.getsockname()[1]))
        with pytest.raises(BlockingIOError):
            server.accept()
    assert right(case.want, verdict), verdict
    assert is_untouched(canary)
    following = list(verify(box, [job for job, _ in NEXT]))
    assert [verdict.status for verdict in following] == [status for _, status in NEXT]


# ---- many in one stream ---------------------------------------------------------------------

#: Programs that take seconds, or on a slow disk too near the stream's limit; each is tried out by
#: itself above.
SLOW = {
    "fills its directory",
    "many ways into each finally",
    "keys of one hash",
    "members of one hash",
    "ten million lists",
    "floods the channel with lines",
}


def stream(
    box: Sandbox, canary: Path, cases: list[Case], seed: int, batch: bool = False
) -> list[str]:
    """Judge them all in one stream, in some order, with others in between; what went wrong."""
    chance = random.Random(seed)
    held = [c for c in cases if c.needs in box.isolation and c.name not in SLOW]
    jobs: list[tuple[Job, str]] = []
    for number, case in enumerate(chance.sample(held, len(held))):
        job = Job(f"{number} {case.name}", TASK, case.code(canary), limits=FAST)
        jobs += [(job, case.want), *chance.sample(NEXT, 2)]
    wrong = []
    verdicts = verify(box, [job for job, _ in jobs], batch=batch)
    for (job, want), verdict in zip(jobs, verdicts, strict=True):
        if verdict.solution_id != job.solution_id or not right(want, verdict):
            said = f"{verdict.solution_id}: {verdict.status} {verdict.reason}"
            wrong.append(f"{job.solution_id}: {want}; {said}")
    if not is_untouched(canary):
        wrong.append(f"left outside: {list(canary.iterdir())}")
    return wrong


def test_a_stream_without_namespaces(canary: Path) -> None:
    """As in a container that may not make namespaces."""
    with Sandbox(workers=2, without=("namespaces",)) as cage:
        assert stream(cage, canary, HELD, 1) == []


def test_a_stream_of_a_plain_user() -> None:
    from test_tiers import elsewhere, nobody

    found = json.loads(elsewhere("import test_sandbox\ntest_sandbox.as_somebody()", **nobody()))
    assert found == {"wrong": [], "root": False}


def as_somebody() -> None:
    """A stream of whoever runs this, with files of their own beside it."""
    with tempfile.TemporaryDirectory() as folder, Sandbox(workers=2) as box:
        wrong = stream(box, make_canary(Path(folder)), HELD, 2)
        print(json.dumps({"wrong": wrong, "root": os.geteuid() == 0}))


@pytest.mark.skipif(sys.platform != "linux", reason="asks /proc")
def test_a_stream_in_the_batch_lane_leaves_nothing_behind(tmp_path: Path) -> None:
    """No wrong verdict, process, directory, descriptor or memory; nothing on standard error."""
    from test_tiers import elsewhere

    code = f"import test_sandbox\ntest_sandbox.watched({str(tmp_path)!r})"
    found = json.loads(elsewhere(code))
    assert found.pop("megabytes") < 256
    assert found == {"wrong": [], "descriptors": [], "running": [], "directories": []}


def watched(folder: str) -> None:
    """A stream in a process that has many files open and adopts whoever is left alone."""
    tempfile.tempdir = folder
    linux.prctl(linux.PR_SET_CHILD_SUBREAPER, 1)
    kept = [os.open(os.devnull, os.O_RDONLY) for _ in range(300)]
    before = os.listdir("/proc/self/fd")
    with tempfile.TemporaryDirectory() as outside, Sandbox(workers=2) as box:
        wrong = stream(box, make_canary(Path(outside)), CASES, 3, batch=True)
    found = {
        "wrong": wrong,
        "descriptors": sorted(set(os.listdir("/proc/self/fd")) ^ set(before)),
        "running": _left_running(),
        "directories": os.listdir(folder),
        "megabytes": _peak(),
    }
    print(json.dumps(found))
    for fd in kept:
        os.close(fd)


def _peak() -> int:
    """Megabytes of this process; what getrusage tells is also those of the one it came from."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) >> 10


def _left_running() -> list[int]:
    """What has become nobody's child is ours, and is reaped here once it has ended."""
    end = time.monotonic() + 5
    with contextlib.suppress(ChildProcessError):
        while time.monotonic() < end:
            if os.waitpid(-1, os.WNOHANG)[0] == 0:
                time.sleep(0.02)
        return descendants(os.getpid())[1:]
    return []


# ---- the batch lane -------------------------------------------------------------------------


@pytest.mark.parametrize("mates", MATES, ids=lambda mates: mates[0])
def test_nobody_passes_by_the_help_of_a_mate(
    mates: tuple[str, tuple[str, ...], Literal["value", "loose"]], box: Sandbox
) -> None:
    _, codes, compare = mates
    tests = TESTS if compare == "value" else (replace(TESTS[0], compare=compare),)
    task = replace(TASK, tests=tests)
    jobs = [Job(str(n), task, code, limits=FAST) for n, code in enumerate((RIGHT, *codes))]
    alone = [judge(box, job.code, task) for job in jobs]
    together = in_one_process(box, jobs)
    for job, one, other in zip(jobs, alone, together, strict=True):
        assert one.passed or not other.passed, job.code
    statuses = [verdict.status for verdict in alone]
    assert "not_run" not in statuses
    assert [v.status for v in verify(box, jobs, batch=True)] == statuses


def in_one_process(box: Sandbox, jobs: list[Job]) -> list[Verdict]:
    """Verdicts on programs that share a process, as far as the lane lets them."""
    calls = tuple(test.call for test in jobs[0].chosen)
    texts = jobs[0].chosen[0].compare == "loose"
    with Session(box) as session:
        programs = (Program(job.code, "add", calls, texts=texts, limits=FAST) for job in jobs)
        session.submit(0, tuple(programs))
        ((_, outcomes),) = session.take(block=True)
    assert all(outcome.shared for outcome in outcomes)
    return [judge_outcome(*pair, FAST) for pair in zip(jobs, outcomes, strict=True)]


# ---- test code in a process of its own -------------------------------------------------------


def test_test_code_holds_against_what_it_is_told() -> None:
    limits = Limits(cpu_seconds=0.1, load_seconds=0.1)
    jobs = [
        Job(
            case.name, replace(TASK, tests=(), test_code=check), case.code(Path("/")), limits=limits
        )
        for case, check in ACROSS
    ]
    with Sandbox(workers=6) as box:
        verdicts = list(verify(box, jobs))
        good = [replace(job, code=RIGHT) for job in jobs[:6]]
        assert [verdict.status for verdict in verify(box, good)] == ["passed"] * 6
    pairs = zip(ACROSS, verdicts, strict=True)
    wrong = [(c.name, c.want, v.status, v.reason) for (c, _), v in pairs if not right(c.want, v)]
    assert wrong == []


# ---- who waits, who pays ----------------------------------------------------------------------


def test_limits_hold_while_a_request_is_on_its_way(box: Sandbox) -> None:
    """A worker that reads ahead goes on watching what runs."""
    calls, limits = ("add(1, 2)",), Limits(cpu_seconds=0.1, load_seconds=0.1)
    slow = "import time\ndef add(a, b):\n    while time.process_time() < 0.6: pass\n    return 3"
    large = f"x = '''{'y' * (20 << 20)}'''\n{RIGHT}"
    with Session(box) as session:
        session.submit("first", (Program("import time\ntime.sleep(0.5)", ""),))
        session.submit("slow", (Program(slow, "add", calls, limits=limits),))
        session.submit("large", (Program(large, "add", calls),))
        session.take(block=False)
        time.sleep(1.5)  # nobody sends the rest of the large one
        found: dict[str, Outcome] = {}
        while session.pending:
            found |= {key: outcome for key, (outcome,) in session.take(block=True)}
    assert found["slow"].killed == "cpu"
    assert len(found["large"].frames) == 2


@pytest.mark.skipif(sys.platform != "linux", reason="asks /proc")
@pytest.mark.parametrize("without", [(), ("namespaces",)])
def test_a_program_ends_with_its_worker(without: tuple[str, ...]) -> None:
    """Whatever it has asked the kernel for, and even where the worker is killed."""
    code = """
import ctypes, time
ctypes.CDLL(None).prctl(1, 0, 0, 0, 0)
time.sleep(1000)
"""
    with Sandbox(workers=1, without=without) as box, Session(box) as session:
        worker = box._slots[0].workers["program"]
        session.submit(0, (Program(code, ""),))
        time.sleep(0.3)
        inside = descendants(worker.process.pid)
        assert len(inside) >= 2
        for pid in inside[:-1]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, 9)
        box.close()
    end = time.monotonic() + 5
    while left := [pid for pid in inside if is_running(pid)]:
        assert time.monotonic() < end, left
        time.sleep(0.02)


def descendants(pid: int) -> list[int]:
    """A process and those below it, the oldest of each first."""
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [pid, *(inner for child in text.split() for inner in descendants(int(child)))]


def is_running(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False
