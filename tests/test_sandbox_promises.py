"""One test for each promise in the header of ``persd.sandbox``, in its order."""

from __future__ import annotations

import ast
import os
import secrets
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import persd.verify as verify_module
from hostile import CHEATS, ENDS, FRAMES, MEMORY, RIGHT, TIME
from persd.errors import UserError
from persd.records import Task, Test, Verdict
from persd.sandbox import Limits, Program, Sandbox, Session, probe_isolation
from persd.sandbox.linux import MACHINE
from persd.verify import Job, verify
from test_sandbox import descendants

FAST = Limits(cpu_seconds=0.2, load_seconds=0.2)
#: Of a program that reads all its memory, and that of others.
SEARCH = Limits(cpu_seconds=3.0)
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


def judge(box: Sandbox, code: str, task: Task = TASK, limits: Limits | None = None) -> Verdict:
    return next(verify(box, [Job("s", task, code, limits=limits or FAST)]))


def value(box: Sandbox, body: str) -> Any:
    """What ``add`` returns, its body being the one given."""
    code = "import os\ndef add(a, b):\n" + "".join(f"    {line}\n" for line in body.splitlines())
    results = judge(box, code, replace(TASK, tests=(Test("add(1, 2)", "'?'"),))).results
    assert results[0].error_type == "", results[0]
    return ast.literal_eval(results[0].actual)


SCAN = '''
import os, re
def parent(pid):
    return int(open(f"/proc/{pid}/stat").read().rpartition(")")[2].split()[1])
def add(marker, b):
    """Kinds of markers in the memory of this process and of those that it came from."""
    found, pids = set(), [os.getpid()]
    while os.getsid(pids[-1]) != pids[-1] or len(pids) < 3: pids.append(parent(pids[-1]))
    for pid in pids:
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
    bare = boxes[-1]  # no layer keeps it from looking
    for _ in range(3):  # what an earlier program left behind would be found as well
        assert judge(bare, SCAN, task, SEARCH).results[0].actual == "['GIVEN']"
    check = f"def check(c):\n    assert c({given!r}, 0) == {wanted!r}\n"
    for _ in range(3):
        verdict = judge(bare, SCAN, replace(TASK, tests=(), test_code=check), SEARCH)
        assert verdict.results[0].actual == "['GIVEN']"


def test_2_a_wrong_answer_stays_wrong(box: Sandbox, tmp_path: Path) -> None:
    for case in CHEATS:
        verdict = judge(box, case.code(tmp_path))
        assert verdict.status not in ("passed", "not_run"), case.name
    for case in FRAMES:
        if case.want.startswith("failed"):
            assert judge(box, case.code(tmp_path)).status == "failed", case.name
    assert not list(tmp_path.iterdir())


def test_3_every_program_ends(box: Sandbox) -> None:
    for case in TIME:
        if case.want == "timeout":
            assert judge(box, case.code(Path("/"))).status == "timeout", case.name


def test_4_nobody_waits_for_what_a_program_leaves_running(box: Sandbox) -> None:
    cases = [case for case in TIME if case.want == "passed"]
    calls = tuple(test.call for test in TESTS)
    programs = [Program(case.code(Path("/")), "add", calls, limits=FAST) for case in cases]
    for case, outcome in zip(cases, box.run(programs), strict=True):
        ended = (outcome.killed, outcome.exit, len(outcome.frames))
        assert ended == ("", 0, 4), case.name  # by itself, and not for its limit


def test_5_memory_files_threads_and_output_are_bounded(box: Sandbox) -> None:
    for case in MEMORY:
        verdict = judge(box, case.code(Path("/")))
        assert verdict.status in case.want.split(" ")[0].split("|"), case.name
        assert all(len(result.stdout) <= 1000 for result in verdict.results)


def test_6_a_program_that_dies_takes_nothing_along(box: Sandbox) -> None:
    for case in ENDS:
        assert judge(box, case.code(Path("/"))).status == case.want.split(" ")[0], case.name
        assert judge(box, RIGHT).passed, case.name
    for ending in ("os.abort()", "os._exit(0)", "os.kill(os.getpid(), 9)"):
        late = f"import os\ndef add(a, b):\n    if not a: {ending}\n    return a + b"
        verdict = judge(box, late)
        assert verdict.status == "crashed", ending
        assert [r.status for r in verdict.results] == ["passed", "passed", "error"], ending
        assert judge(box, RIGHT).passed, ending


def test_6_a_program_that_was_never_begun_is_run_by_a_new_worker() -> None:
    if not os.path.exists("/proc/self/task"):
        pytest.skip("processes cannot be found here")
    with Sandbox(workers=1) as box:
        assert judge(box, RIGHT).passed
        worker = box._slots[0].workers["program"]
        os.kill(descendants(worker.process.pid)[-1], 9)  # the child that waits
        codes = [RIGHT, "def add(a, b): return 0", RIGHT] * 2
        jobs = [Job(str(n), TASK, code, limits=FAST) for n, code in enumerate(codes)]
        assert [v.status for v in verify(box, jobs)] == ["passed", "failed", "passed"] * 2


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
    body = (
        "import random\nreturn [hash('a'), random.random(), os.urandom(4), list({'a', 'b', 'c'})]"
    )
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


#: Calls that no program has a use for, by their numbers on x86_64 and aarch64.
REFUSED = {
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271),
    "process_madvise": (440, 440), "pidfd_open": (434, 434), "pidfd_getfd": (438, 438),
    "pidfd_send_signal": (424, 424), "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240), "kcmp": (312, 272), "unshare": (272, 97), "setns": (308, 268),
    "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41), "chroot": (161, 51),
    "fsopen": (430, 430), "open_tree": (428, 428), "move_mount": (429, 429),
    "mount_setattr": (442, 442), "bpf": (321, 280), "perf_event_open": (298, 241),
    "io_uring_setup": (425, 425), "io_uring_enter": (426, 426), "userfaultfd": (323, 282),
    "keyctl": (250, 219), "add_key": (248, 217), "request_key": (249, 218), "shmget": (29, 194),
    "shmat": (30, 196), "semget": (64, 190), "msgget": (68, 186), "mq_open": (240, 180),
    "inotify_init1": (294, 26), "fanotify_init": (300, 262), "quotactl": (179, 60),
    "swapon": (167, 224), "reboot": (169, 142), "sethostname": (170, 161), "personality": (135, 92),
    "init_module": (175, 105), "kexec_load": (246, 104), "settimeofday": (164, 170),
    "clock_settime": (227, 112), "adjtimex": (159, 171), "setpriority": (141, 140),
    "ioprio_set": (251, 30), "sched_setaffinity": (203, 122), "sched_setscheduler": (144, 119),
    "sched_setattr": (314, 274), "mlockall": (151, 230), "migrate_pages": (256, 238),
    "move_pages": (279, 239), "mbind": (237, 235), "socket": (41, 198), "bind": (49, 200),
    "connect": (42, 203), "listen": (50, 201), "accept4": (288, 242), "execve": (59, 221),
    "execveat": (322, 281), "landlock_create_ruleset": (444, 444), "seccomp": (317, 277),
    "capset": (126, 91), "setuid": (105, 146), "setgroups": (116, 159), "setpgid": (109, 154),
    "name_to_handle_at": (303, 264), "open_by_handle_at": (304, 265), "setxattr": (188, 5),
    "memfd_secret": (447, 447), "syslog": (103, 116), "acct": (163, 89), "vhangup": (153, 58),
}  # fmt: skip


def test_10_what_is_not_on_the_list_is_refused(boxes: list[Sandbox]) -> None:
    known = {"x86_64": 0, "aarch64": 1}
    numbers = {name: pair[known[MACHINE]] for name, pair in REFUSED.items() if MACHINE in known}
    body = f"""
import ctypes, errno
call = ctypes.CDLL(None, use_errno=True).syscall
done = []
for name, number in {numbers!r}.items():
    ctypes.set_errno(0)
    result = call(ctypes.c_long(number), *[ctypes.c_long(0)] * 6)
    if result != -1 or ctypes.get_errno() != errno.EPERM: done.append(name)
return done"""
    for box in boxes:
        if "seccomp" in box.isolation:
            assert value(box, body) == []


def test_11_the_layers_in_force_are_named(boxes: list[Sandbox]) -> None:
    whole = boxes[0].isolation
    assert probe_isolation() == whole
    for box, without in zip(boxes, TIERS, strict=True):
        assert judge(box, RIGHT).isolation == box.isolation
        there = [part for part in whole.split(" + ") if part not in without]
        name = " + ".join(there) if len(there) > 1 else "rlimits only"
        assert box.isolation == name
        assert set(without) <= set(box.probe().missing)
    for without in (("seccomp",), ("namespaces", "landlock"), TIERS[-1]):
        with Sandbox(workers=1, without=(*without, "seatbelt")) as weak:
            with pytest.raises(UserError, match="--unsafe"):
                judge(weak, RIGHT)
            with pytest.raises(UserError, match="--unsafe"):
                list(weak.run([Program(RIGHT, "add", ("add(1, 2)",))]))


def test_12_programs_share_a_process_only_where_that_is_asked_for(box: Sandbox) -> None:
    seen: list[bool] = []

    class Watched(Session):
        def take(self, block: bool) -> list[tuple[Any, Any]]:
            found = super().take(block)
            seen.extend(outcome.shared for _, outcomes in found for outcome in outcomes)
            return found

    slow = f"import time\ntime.sleep(0.3){RIGHT}"
    wild = f"import sys{RIGHT}"
    codes = [slow, *[RIGHT, "def add(a, b): return 0", wild] * 5]
    jobs = [Job(str(n), TASK, code, limits=FAST) for n, code in enumerate(codes)]
    wanted = ["passed", *["passed", "failed", "passed"] * 5]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(verify_module, "Session", Watched)
        assert [v.status for v in verify(box, jobs)] == wanted
        assert len(seen) == len(jobs)
        assert not any(seen)
        seen.clear()
        assert [v.status for v in verify(box, jobs, batch=True)] == wanted
    assert sum(seen) >= 8
    assert len(seen) - sum(seen) >= 10  # those that fail, and those that are not tame
