"""What holds programs on machines that offer less, and what is refused.

Lesser machines are made, not imagined: a filter of system calls as container engines put on,
a limit on namespaces as Ubuntu and RHEL set it, a user who is nobody.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import io
import json
import os
import platform
import struct
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import typer

from conftest import make_task
from hostile import HOST, Case
from persd import cli
from persd.config import VerifyTable
from persd.errors import UserError
from persd.ledger import Ledger
from persd.records import Task, Test, Verdict
from persd.run import Run
from persd.sandbox import Limits, Sandbox, linux, seatbelt, tiers
from persd.verify import Job, verify
from play import Script, go, make_config, use
from test_importing import write_release
from test_kill import load_bench
from test_sandbox import canary, try_out

kill = load_bench("kill")
__all__ = ["canary"]  # a fixture of the hostile programs
LINUX = sys.platform == "linux"
TASK = Task("add", "Add.", "def add(a, b):\n", "add", tests=(Test("add(1, 2)", "3"),))
RIGHT, WRONG = "def add(a, b): return a + b", "def add(a, b): return a - b"
SPY = "def add(a, b): return len(open('/etc/passwd').read())"
GOOD = [["passed", ""], ["failed", ""], ["error", "denied"]]

#: Calls by their name: numbers on x86_64 and aarch64.
UNSHARE = {"x86_64": 272, "aarch64": 97}.get(platform.machine(), -1)
LANDLOCK, MOUNT_SETATTR = linux.NR_LANDLOCK_CREATE_RULESET, linux.NR_MOUNT_SETATTR


def judge(box: Sandbox, code: str, task: Task = TASK) -> Verdict:
    return next(verify(box, [Job("s", task, code, limits=Limits(cpu_seconds=1.0))]))


# -- names ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "tier"),
    [
        ("namespaces + landlock + seccomp + rlimits", "full"),
        ("landlock + seccomp + rlimits", "contained"),
        ("namespaces + seccomp + rlimits", "contained"),
        ("namespaces + landlock + rlimits", "unsafe"),
        ("seccomp + rlimits", "unsafe"),
        ("landlock + rlimits", "unsafe"),
        ("rlimits only", "unsafe"),
        ("seatbelt + rlimits (best effort)", "best effort"),
    ],
)
def test_a_tier_is_read_off_the_name(name: str, tier: str) -> None:
    assert tiers.tier(name) == tier
    assert (tiers.refusal(name, {}) is None) == (tier != "unsafe")


def test_a_refusal_says_what_is_missing_why_and_what_to_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tiers, "_SYSCTL", tmp_path)
    monkeypatch.setattr(tiers, "_CONTAINER", ())
    missing = {"namespaces": "unshare: Operation not permitted", "landlock": "switched off"}
    error = tiers.refusal("seccomp + rlimits", missing)
    assert error is not None
    told = error.one_line()
    assert "\n" not in told
    for part in (
        "seccomp + rlimits",
        "no namespaces: unshare: Operation not permitted",
        "--unsafe",
    ):
        assert part in told
    assert "verify.unsafe = true" in told
    assert "no landlock: switched off" in told


@pytest.mark.parametrize(
    ("setting", "value", "step"),
    [
        (
            "kernel/apparmor_restrict_unprivileged_userns",
            "1",
            "sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0",
        ),
        ("kernel/unprivileged_userns_clone", "0", "sudo sysctl kernel.unprivileged_userns_clone=1"),
        ("user/max_user_namespaces", "0", "sudo sysctl user.max_user_namespaces=15000"),
    ],
)
def test_advice_follows_the_kernel_s_settings(
    setting: str, value: str, step: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tiers, "_SYSCTL", tmp_path)
    monkeypatch.setattr(tiers, "_CONTAINER", ())
    file = tmp_path / setting
    file.parent.mkdir()
    file.write_text(value + "\n")
    assert tiers.advice({"namespaces": "unshare: no"}) == [step]
    assert tiers.settings() == {setting.replace("/", "."): value}
    file.write_text(step.rpartition("=")[2] + "\n")
    assert tiers.advice({"namespaces": "unshare: no"}) == []


def test_advice_in_a_container(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tiers, "_SYSCTL", tmp_path)
    monkeypatch.setattr(tiers, "_CONTAINER", (str(tmp_path),))
    first, second = tiers.advice({"namespaces": "unshare: no", "landlock": "no"})
    assert "--security-opt seccomp=unconfined" in first
    assert "Docker 23" in second


# -- the tiers of this machine ----------------------------------------------------------------


@pytest.fixture(scope="module")
def whole() -> None:
    """Only where this machine has every layer can one be taken away."""
    with Sandbox(workers=1, unsafe=True) as box:
        missing = box.probe().missing
    if missing:
        pytest.skip("; ".join(f"no {layer}: {why}" for layer, why in missing.items()))


def test_less_than_contained_is_refused_unless_said() -> None:
    bare = ("namespaces", "landlock", "seatbelt")
    for without in (bare, (*bare, "seccomp"), ("seccomp", "seatbelt")):
        with (
            Sandbox(workers=1, without=without) as box,
            pytest.raises(UserError, match="--unsafe") as told,
        ):
            judge(box, RIGHT)
        assert "switched off" in str(told.value)
        with Sandbox(workers=1, without=without, unsafe=True) as box:
            assert judge(box, RIGHT).passed
            assert tiers.tier(box.isolation) == "unsafe"


@pytest.fixture(scope="module", params=["namespaces", "landlock"])
def contained(request: pytest.FixtureRequest, whole: None) -> Iterator[Sandbox]:
    """A sandbox with one of the two that guard files left off."""
    with Sandbox(workers=1, without=(request.param,)) as box:
        assert tiers.tier(box.isolation) == "contained"
        yield box


@pytest.mark.parametrize("case", HOST, ids=lambda case: case.name)
def test_hostile_programs_are_contained(case: Case, contained: Sandbox, canary: Path) -> None:
    try_out(replace(case, needs=""), contained, canary)


@pytest.mark.parametrize(
    "action",
    [
        "open(P).read()",
        "open(P, 'a')",
        "os.chmod(P, 0o777)",
        "os.utime(P, (1, 1))",
        "os.truncate(P, 0)",
        "os.open(P, os.O_RDONLY | os.O_TRUNC)",
        "os.open(P, 3 | os.O_TRUNC)",
        "os.chown(P, 1, 1)",
        "os.setxattr(P, 'user.x', b'x')",
        "os.link(P, 'mine')",
        "os.rename(P, 'mine')",
        "os.chmod(os.path.dirname(P), 0)",
    ],
)
def test_one_guard_of_files_is_enough(contained: Sandbox, action: str, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("secret")
    secret.chmod(0o644)
    before = (secret.stat(), tmp_path.stat().st_mode)
    code = f"import os\nP = {str(secret)!r}\ndef add(a, b):\n    {action}\n    return 1 + 2"
    verdict = judge(contained, code)
    assert verdict.status in ("error", "passed"), verdict
    after = (secret.stat(), tmp_path.stat().st_mode)
    assert [facts(before[0]), before[1]] == [facts(after[0]), after[1]]
    assert secret.read_text() == "secret"


def facts(stat: os.stat_result) -> tuple[int, ...]:
    return (stat.st_mode, stat.st_uid, stat.st_size, stat.st_mtime_ns, stat.st_nlink)


@pytest.mark.parametrize(
    "body",
    [
        "import shutil; open('a', 'w'); shutil.copy('a', 'b'); return int(os.path.isfile('b'))",
        "import pathlib; pathlib.Path('t').touch(); return len(os.listdir())",
        "import tempfile\n    with tempfile.TemporaryDirectory(dir='.') as d: return len(d[:1])",
        "open('f', 'w').close(); os.chmod('f', 0o600); return len(os.listdir())",
        "f = open('f', 'w+'); f.write('abc'); f.truncate(1); f.seek(0); return len(f.read())",
    ],
)
def test_a_program_s_own_files_work_in_every_tier(contained: Sandbox, body: str) -> None:
    task = replace(TASK, tests=(Test("add(1, 2)", "1"),))
    assert judge(contained, f"import os\ndef add(a, b):\n    {body}", task).passed


def test_a_filter_minds_what_an_old_landlock_does_not(tmp_path: Path) -> None:
    if not LINUX or linux.MACHINE not in linux.NR_SECCOMP:
        pytest.skip("seccomp is not known here")
    victim, own = tmp_path / "victim", tmp_path / "own"
    victim.write_text("secret")
    code = f"""
import os
from persd.sandbox import linux, seccomp
linux.prctl(linux.PR_SET_NO_NEW_PRIVS, 1)
seccomp.Filter(read_only=False, truncation=False).restrict()
for flags in (os.O_RDONLY | os.O_TRUNC, 3 | os.O_TRUNC):
    try:
        os.open({str(victim)!r}, flags)
    except PermissionError:
        print("denied")
try:
    os.truncate({str(victim)!r}, 0)
except PermissionError:
    print("denied")
open({str(own)!r}, "w").write("mine")
open({str(own)!r}, "w").write("me")
print(open({str(own)!r}).read())
"""
    assert elsewhere(code).splitlines() == ["denied", "denied", "denied", "me"]
    assert victim.read_text() == "secret"


# -- lesser machines --------------------------------------------------------------------------


def elsewhere(code: str, **user: Any) -> str:
    """What a script prints in a process of its own, whose user may be another."""
    folders = [str(Path(__file__).parent), str(Path(tiers.__file__).parents[2])]
    env = {"PATH": os.environ.get("PATH", ""), "PYTHONPATH": os.pathsep.join(folders)}
    line = [sys.executable, "-c", code]
    done = subprocess.run(line, env=env, **user, capture_output=True, text=True, cwd="/")
    assert done.returncode == 0, done.stderr
    return str(done.stdout)


def nobody() -> dict[str, Any]:
    """A plain user, who must be able to read Python and these tests."""
    if os.geteuid():
        return {}
    user: dict[str, Any] = {"user": 65534, "group": 65534, "extra_groups": []}
    try:
        elsewhere("import typer, pytest, conftest, persd.errors", **user)
    except (OSError, AssertionError) as error:
        pytest.skip(f"user 65534 cannot read Python and its packages: {str(error)[-200:]}")
    return user


def on(setup: str, **user: Any) -> dict[str, Any]:
    """Isolation, missing layers and verdicts where ``setup`` has been run before."""
    return dict(json.loads(elsewhere(f"import test_tiers\n{setup}\ntest_tiers.report()", **user)))


def report() -> None:
    with Sandbox(workers=1) as box:
        try:
            isolation = box.probe()
        except UserError as error:
            print(json.dumps({"refused": error.one_line()}))
            return
        verdicts = [judge(box, code) for code in (RIGHT, WRONG, SPY)]
        found = [[verdict.status, verdict.reason] for verdict in verdicts]
        names = {verdict.isolation for verdict in verdicts}
    assert names == {isolation.name}
    facts = {"isolation": isolation.name, "missing": dict(isolation.missing), "verdicts": found}
    print(json.dumps({**facts, "tier": tiers.tier(isolation.name)}))


def forbid(answers: Mapping[int, int]) -> None:
    """As container engines do: from here on these calls fail with these numbers."""
    steps = [(0x20, 0, 0, 0)]
    for number, error in answers.items():
        steps += [(0x15, 0, 1, number), (0x06, 0, 0, 0x00050000 | error)]
    steps.append((0x06, 0, 0, 0x7FFF0000))
    packed = b"".join(struct.pack("<HBBI", *step) for step in steps)
    code = ctypes.create_string_buffer(packed, len(packed))
    program = struct.pack("=H6xQ", len(steps), ctypes.addressof(code))
    linux.prctl(linux.PR_SET_NO_NEW_PRIVS, 1)
    linux.syscall(linux.NR_SECCOMP[linux.MACHINE], 1, 0, ctypes.c_char_p(program))


def limit_namespaces() -> None:
    """A place where user namespaces are used up: a namespace whose own limit is none."""
    uid, gid = os.getuid(), os.getgid()
    linux.unshare(0x10000000)
    for name, text in (("setgroups", "deny"), ("uid_map", f"0 {uid} 1"), ("gid_map", f"0 {gid} 1")):
        Path("/proc/self", name).write_text(text)
    Path("/proc/sys/user/max_user_namespaces").write_text("0")


@pytest.mark.usefixtures("whole")
def test_an_ordinary_container_is_contained() -> None:
    found = on(f"test_tiers.forbid({{{UNSHARE}: {errno.EPERM}}})")
    assert found["tier"] == "contained"
    assert found["isolation"] == "landlock + seccomp + rlimits"
    assert found["missing"] == {"namespaces": "unshare: Operation not permitted"}
    assert found["verdicts"] == GOOD


@pytest.mark.usefixtures("whole")
def test_a_machine_that_limits_namespaces_is_contained() -> None:
    found = on("test_tiers.limit_namespaces()")
    assert found["tier"] == "contained"
    assert found["missing"] == {"namespaces": "unshare: No space left on device"}
    assert found["verdicts"] == GOOD
    told = elsewhere(
        "import test_tiers\ntest_tiers.limit_namespaces()\n"
        "print(*test_tiers.tiers.advice({'namespaces': 'unshare: no'}))"
    )
    assert "sudo sysctl user.max_user_namespaces=15000" in told


@pytest.mark.usefixtures("whole")
def test_a_kernel_without_landlock_is_contained() -> None:
    found = on(f"test_tiers.forbid({{{LANDLOCK}: {errno.ENOSYS}}})")
    assert found["tier"] == "contained"
    assert found["isolation"] == "namespaces + seccomp + rlimits"
    assert "5.13" in found["missing"]["landlock"]
    assert found["verdicts"] == GOOD


@pytest.mark.usefixtures("whole")
def test_an_old_container_is_refused() -> None:
    found = on(f"test_tiers.forbid({{{UNSHARE}: {errno.EPERM}, {LANDLOCK}: {errno.EPERM}}})")
    assert "no namespaces: unshare: Operation not permitted" in found["refused"]
    assert "no landlock: a container's filter refuses it" in found["refused"]
    assert "--unsafe" in found["refused"]


@pytest.mark.usefixtures("whole")
def test_an_old_kernel_s_mounts_are_as_read_only() -> None:
    """Before 5.12 flags of mounts are set one by one; Python's files stay as they are."""
    found = elsewhere(
        f"""
import json, test_tiers
test_tiers.forbid({{{MOUNT_SETATTR}: {errno.ENOSYS}, {LANDLOCK}: {errno.ENOSYS}}})
actions = ["open(json.__file__, 'a')", "os.chmod(json.__file__, 0o644)", "open('/mine', 'w')",
           "os.mkdir(os.path.dirname(json.__file__) + '/mine')", "open('mine', 'w')"]
with test_tiers.Sandbox(workers=1) as box:
    assert box.isolation == "namespaces + seccomp + rlimits", box.probe()
    for action in actions:
        code = f"import json, os\\ndef add(a, b):\\n    {{action}}\\n    return 3"
        print(test_tiers.judge(box, code).status)
"""
    )
    assert found.split() == ["error", "error", "error", "error", "passed"]


@pytest.mark.usefixtures("whole")
def test_a_plain_user_has_the_full_tier() -> None:
    found = on("import os; assert os.geteuid()", **nobody())
    why = found["missing"].get("namespaces")
    if why and tiers.advice(found["missing"]):  # settings, or a container, keep users from them
        pytest.skip(f"plain users have no namespaces here: {why}")
    assert found["tier"] == "full"
    assert found["missing"] == {}
    assert found["verdicts"] == GOOD


# -- in so many words ---------------------------------------------------------------------------


def commands(*lines: list[str | Path]) -> None:
    """Run persd's commands on a machine that cannot hold programs; prints exit codes and talk."""
    forbid({UNSHARE: errno.EPERM, LANDLOCK: errno.EPERM})
    found = []
    for line in lines:
        talk = io.StringIO()
        sys.argv = ["persd", *map(str, line)]
        with (
            contextlib.redirect_stderr(talk),
            contextlib.redirect_stdout(io.StringIO()),
        ):
            code = 0
            try:
                cli.main()
            except SystemExit as end:
                code = int(end.code or 0)
        found.append([code, talk.getvalue()])
    print(json.dumps(found))


def refused_then_done(*lines: list[str | Path]) -> None:
    """Each command is refused, and done with ``--unsafe``."""
    pairs = [given for line in lines for given in (line, [*line, "--unsafe"])]
    script = [[str(part) for part in line] for line in pairs]
    told = json.loads(elsewhere(f"import test_tiers\ntest_tiers.commands(*{script!r})"))
    for line, (code, talk), after in zip(lines, told[::2], told[1::2], strict=True):
        assert code == 2, (line, talk)
        assert "no landlock: a container's filter refuses it" in talk.splitlines()[-1], line
        assert "--unsafe" in talk.splitlines()[-1], line
        assert "Traceback" not in talk
        assert after[0] == 0, (line, after[1])


@pytest.mark.usefixtures("whole")
def test_commands_that_run_programs_are_refused_until_told(tmp_path: Path) -> None:
    kill.write_tasks(tmp_path, 4)
    write_release(tmp_path / "release")
    (tmp_path / "teacher.jsonl").write_text("")
    config = tmp_path / "run.toml"
    config.write_text(
        f'[run]\ndir = "{tmp_path}/run"\n'
        f'[tasks]\nsource = "jsonl"\npath = "{tmp_path}/tasks.jsonl"\n'
        f'[student]\nmodel = "scripted:{tmp_path}/student.jsonl"\n'
        f'[teacher]\nmodel = "scripted:{tmp_path}/teacher.jsonl"\n'
    )
    refused_then_done(
        ["tasks", "check", tmp_path / "tasks.jsonl"],
        ["collect", config],
        ["build", tmp_path / "run", "--variant", "stand", "--out", tmp_path / "stand.jsonl"],
        ["import", "persdistill", tmp_path / "release", "--run", tmp_path / "imported"],
    )
    with Ledger(tmp_path / "run", read_only=True) as ledger:
        assert {v.isolation for v in ledger.verdicts() if v.results} == {"seccomp + rlimits"}


@pytest.mark.parametrize("name", ["demo", "run", "collect", "build", "train", "verify"])
def test_every_command_that_runs_programs_takes_the_word(name: str) -> None:
    command = typer.main.get_command(cli.app).commands[name]  # type: ignore[attr-defined]
    assert ["--unsafe"] in [parameter.opts for parameter in command.params]


def test_a_run_may_go_on_with_the_word_or_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, Script({}, {}))
    config = make_config(tmp_path)
    unsafe = config.model_copy(update={"verify": VerifyTable(unsafe=True)})
    for given, task in ((unsafe, "one"), (config, "one"), (unsafe, "one")):
        assert go(given, [make_task(task)])["one"].state == "solved"
    with Run(unsafe) as run:
        assert run.box.unsafe
    with Run(config) as run:
        assert not run.box.unsafe


# -- macOS, as far as it can be told from here ------------------------------------------------


def test_every_path_of_the_seatbelt_travels_as_a_parameter() -> None:
    box = '/tmp/a "box" (allow default) \\ \u00e9'
    line = seatbelt.prefix(sys.executable, box)
    assert line[:2] == [seatbelt.EXECUTABLE, "-p"]
    assert line[-1] == "--"
    text, given = line[2], dict(part[2:].split("=", 1) for part in line[3:-1])
    assert text.isascii()
    assert box not in text
    assert given["BOX"] == box
    used = {part.partition('"')[0] for part in text.split('(param "')[1:]}
    assert used == given.keys()
    reads = {value for name, value in given.items() if name.startswith("READ_")}
    assert {os.path.realpath(sys.prefix), os.path.dirname(seatbelt.__file__)} <= reads
    assert not reads & {"/", "/Users", "/private", "/private/etc", "/usr", "/usr/local", "/tmp"}
    programs = {value for name, value in given.items() if name.startswith("PYTHON_")}
    assert os.path.realpath(sys.executable) in programs


def test_the_seatbelt_denies_by_default_and_the_network_last() -> None:
    text = seatbelt.profile(1, 1)
    assert text.count("(") == text.count(")")
    rules = [line for line in text.splitlines() if line.startswith("(")]
    assert rules[:2] == ["(version 1)", "(deny default)"]
    assert rules.index("(deny network*)") > rules.index('(import "system.sb")')
    assert not [rule for rule in rules if rule.startswith("(allow network")]
    written = [part for part in text.split("\n(") if "file-write*" in part]
    assert written == ['allow file-read* file-write*\n  (subpath (param "BOX")))']
    assert '(allow file-read* (literal "/"))' in text  # dyld ends without it, and says nothing


def test_elsewhere_a_worker_starts_as_before() -> None:
    if seatbelt.MACOS:
        pytest.skip("this is macOS")
    assert seatbelt.command(["python", "-c", "pass"], "/box") == ["python", "-c", "pass"]
    assert seatbelt.trouble() == "not macOS"


def test_on_macos_a_worker_starts_inside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(seatbelt, "trouble", lambda: "")
    line = seatbelt.command([sys.executable, "-c", "pass"], str(tmp_path))
    assert line == [*seatbelt.prefix(sys.executable, str(tmp_path)), sys.executable, "-c", "pass"]
    off = seatbelt.command(["python", "-c", "pass"], str(tmp_path), ("seatbelt",))
    assert off == ["python", "-c", "pass"]
    monkeypatch.setattr(seatbelt, "trouble", lambda: "sandbox-exec ended with 71: no")
    assert seatbelt.command(["python"], str(tmp_path)) == ["python"]


def test_the_seatbelt_is_not_believed_but_tried(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    witness = tmp_path / "witness"
    monkeypatch.setattr(seatbelt, "_WITNESS", str(witness))
    (tmp_path / "box").mkdir()
    with pytest.raises(OSError, match="witness can be read"):
        seatbelt.check(str(tmp_path / "box"))  # not there is not denied
    witness.write_text("x")
    with pytest.raises(OSError, match=r"not in force: .*witness can be read"):
        seatbelt.check(str(tmp_path / "box"))


@pytest.mark.usefixtures("whole")
def test_a_sandbox_that_holds_is_recognised(tmp_path: Path) -> None:
    """Landlock and seccomp stand in for the seatbelt: what must be denied is."""
    (tmp_path / "box").mkdir()
    (tmp_path / "witness").write_text("x")
    code = f"""
from persd.sandbox import landlock, linux, namespaces, seatbelt, seccomp
seatbelt._WITNESS = {str(tmp_path / "witness")!r}
linux.prctl(linux.PR_SET_NO_NEW_PRIVS, 1)
landlock.restrict(namespaces.readable_paths(), namespaces.DEVICES, {str(tmp_path / "box")!r})
own = seccomp.Filter()
own.restrict()
own.install()
seatbelt.check({str(tmp_path / "box")!r})
print("in force")
"""
    assert elsewhere(code) == "in force\n"
