"""The commands as a user meets them: exit codes, one line for what can be mended, JSON alone on
standard output. Each runs in a process of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from persd.errors import UserError
from test_kill import load_bench

endpoint, kill = load_bench("endpoint"), load_bench("kill")


def persd(*args: str | Path, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "persd.cli", *map(str, args)],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "HF_HUB_OFFLINE": "1", **(env or {})},
    )


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A run of twelve tasks with a scripted student and teacher."""
    kill.write_tasks(tmp_path, 12)
    repairs = [
        {
            "task_id": f"scale-{n}",
            "purpose": "refinement",
            "text": f"```python\ndef scale(x):\n    return x * {n}\n```",
        }
        for n in range(2, 14)
    ]
    script = tmp_path / "teacher.jsonl"
    script.write_text("".join(json.dumps(r) + "\n" for r in repairs))
    path = tmp_path / "run.toml"
    path.write_text(
        f'[run]\ndir = "{tmp_path}/run"\nvariants = ["persd"]\n'
        f'[tasks]\nsource = "jsonl"\npath = "{tmp_path}/tasks.jsonl"\n'
        f'[student]\nmodel = "scripted:{tmp_path}/student.jsonl"\n'
        f'[teacher]\nmodel = "scripted:{script}"\n'
    )
    return path


def mend(done: subprocess.CompletedProcess[str]) -> str:
    """The one line of a mistake the user can mend."""
    assert done.returncode == 2, (done.stdout, done.stderr)
    assert "Traceback" not in done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("persd: ")]
    assert len(lines) == 1, done.stderr
    assert done.stderr.rstrip().endswith(lines[0])
    return lines[0]


def test_collect_build_report_view(config: Path, tmp_path: Path) -> None:
    done = persd("collect", config, "--json")
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    assert (found["tasks"], found["examples"], found["usd"]) == (12, 8, 0.0)
    assert {k: v for k, v in found["states"].items() if v} == {"refined": 8, "solved": 4}
    again = json.loads(persd("collect", config, "--json").stdout)
    assert again == found

    out = tmp_path / "data.any-suffix"
    built = persd("build", tmp_path / "run", "--variant", "persd-combined", "--out", out, "--json")
    assert json.loads(built.stdout) == {"examples": 16, "rejected": {}, "path": str(out)}
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert len(rows) == 16
    assert all(r["prompt"].endswith("def scale(x):\n") for r in rows)
    assert "persd-combined" in (tmp_path / "data.any-suffix.md").read_text()

    report = persd("report", tmp_path / "run")
    assert Path(report.stdout.strip()).read_text().lower().startswith("<!doctype html>")
    seen = persd("view", tmp_path / "run", "--task", "scale-4")
    assert "return x * 5" in seen.stdout
    assert "return x * 4" in seen.stdout


def test_tables_go_to_stdout_and_talk_to_stderr(config: Path) -> None:
    done = persd("collect", config)
    assert "refined" in done.stdout
    assert "round 1 12/12" in done.stderr
    assert "next: persd build" in done.stderr


def test_dry_run_asks_nobody(config: Path, tmp_path: Path) -> None:
    done = persd("run", config, "--dry-run", "--json")
    found = json.loads(done.stdout)
    assert (found["tasks"], found["repairs_at_most"], found["usd_at_most"]) == (12, 24, 0.0)
    assert not (tmp_path / "run").exists()


def test_a_changed_config_is_refused(config: Path) -> None:
    assert persd("collect", config).returncode == 0
    told = mend(persd("collect", config, "--set", "student.temperature=0.9"))
    assert "student.temperature: 0.3 -> 0.9" in told


def test_version_and_help() -> None:
    assert persd("--version").stdout.startswith("persd 0.")
    assert "collect" in persd("--help").stdout


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys, persd.cli; "
        "heavy = {'torch', 'transformers', 'openai', 'datasets', 'pyarrow', 'trl', 'numpy'}; "
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[]"


def test_doctor_names_keys_and_never_shows_them() -> None:
    done = persd("doctor", "--json", env={"OPENAI_API_KEY": "sk-hidden-value"})
    found = json.loads(done.stdout)
    assert found["isolation"]
    assert found["keys_set"] == ["OPENAI_API_KEY"]
    assert "sk-hidden-value" not in done.stdout + done.stderr


TASK = {
    "task_id": "a",
    "instruction": "Add.",
    "entry_point": "f",
    "header": "def f(x):\n",
    "tests": [{"call": "f(1)", "expected": "2"}],
}


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ('{"task_id": "a", ', "JSON"),
        (json.dumps({**TASK, "tests": []}), "test"),
        (json.dumps({**TASK, "tests": [{"call": "x = 1", "expected": "2"}]}), "call"),
        (json.dumps({**TASK, "tests": [{"call": "g(1)", "expected": "2"}]}), "call"),
        (json.dumps({k: v for k, v in TASK.items() if k != "header"}), "header"),
        ("[1, 2]", "object"),
    ],
)
def test_a_broken_task_is_named_with_its_line(config: Path, row: str, says: str) -> None:
    tasks = config.parent / "tasks.jsonl"
    whole = tasks.read_text().splitlines()
    tasks.write_text("\n".join([*whole[:2], row, *whole[2:]]) + "\n")
    told = mend(persd("collect", config))
    assert f"{tasks}:3" in told
    assert says in told


def test_toml_typo_and_unknown_key(config: Path) -> None:
    text = config.read_text()
    config.write_text(text.replace("[student]", "[student"))
    assert f"{config}:7: not TOML" in mend(persd("run", config))
    config.write_text(text + "max_triez = 3\n")
    assert "did you mean max_tries?" in mend(persd("run", config))


def test_unknown_variant(config: Path, tmp_path: Path) -> None:
    persd("collect", config)
    told = mend(persd("build", tmp_path / "run", "--variant", "persdd", "--out", "x"))
    assert "persdd" in told
    assert "persd-combined" in told


def test_unknown_format(config: Path, tmp_path: Path) -> None:
    persd("collect", config)
    told = mend(
        persd("build", tmp_path / "run", "--variant", "persd", "--format", "xml", "--out", "x")
    )
    assert "trl" in told


def test_missing_checkpoint(config: Path, tmp_path: Path) -> None:
    told = mend(persd("run", config, "--set", f'student.model="{tmp_path}/no-such-checkpoint"'))
    assert "no-such-checkpoint" in told


def test_read_only_run_folder(config: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir(mode=0o555)
    assert "read-only" in mend(persd("collect", config))


def test_a_run_folder_that_cannot_be(config: Path) -> None:
    assert "cannot write the run" in mend(persd("collect", config, "--set", 'run.dir="/proc/x/y"'))


def test_not_a_run(tmp_path: Path) -> None:
    for command in (["report"], ["view"], ["build", "--variant", "persd", "--out", "x"]):
        assert "is not a run" in mend(persd(command[0], tmp_path, *command[1:]))


def test_missing_benchmark_files(tmp_path: Path) -> None:
    told = mend(persd("import", "persdistill", tmp_path / "nowhere", "--run", tmp_path / "r"))
    assert "nowhere" in told
    assert not (tmp_path / "r").exists()
    assert "--data" in mend(persd("tasks", "check", "humaneval"))
    told = mend(persd("tasks", "check", "humaneval", "--data", tmp_path / "none.jsonl"))
    assert "none.jsonl" in told


def test_a_missing_key_is_told_before_anything_is_asked(config: Path, tmp_path: Path) -> None:
    env = {"OPENAI_API_KEY": ""}
    told = mend(persd("collect", config, "--set", 'teacher.model="gpt-5-mini"', env=env))
    assert "OPENAI_API_KEY is not set" in told


@pytest.mark.parametrize(
    "args",
    [
        ["frobnicate"],
        ["run"],
        ["--nope"],
        ["tasks", "check", "lab", "--limit", "-5"],
        ["doctor", "extra"],
    ],
)
def test_a_wrong_flag_is_one_line(args: list[str]) -> None:
    assert "--help" in mend(persd(*args))


def test_an_interrupt_is_told_and_nothing_is_lost(config: Path, tmp_path: Path) -> None:
    with endpoint.serve(endpoint.Settings(latency=0.2)) as server:
        slow = f'teacher={{model="x", base_url="{server.url}", max_in_flight=1}}'
        process = subprocess.Popen(
            [sys.executable, "-m", "persd.cli", "collect", str(config), "--set", slow],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            # who runs the tests in the background ignores it, and a child inherits that
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL) and None,
        )
        ledger = tmp_path / "run" / "ledger.sqlite"
        for _ in range(200):
            if ledger.is_file() and stored_calls(ledger.parent) > 13:
                break
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        told = process.communicate(timeout=30)[1]
        assert process.returncode == 130
        assert told.rstrip().endswith("run it again to go on")
        assert stored_calls(ledger.parent) > 13
        assert persd("collect", config, "--set", slow).returncode == 0


def stored_calls(run: Path) -> int:
    from persd.ledger import Ledger

    try:
        with Ledger(run, read_only=True) as opened:
            return int(opened.query("SELECT COUNT(*) AS n FROM calls")[0]["n"])
    except UserError:  # just being made
        return 0


def test_a_student_that_cannot_be_trained_is_refused_before_anything(config: Path) -> None:
    assert "persd collect" in mend(persd("run", config))
    assert not (config.parent / "run").exists()


def test_out_never_replaces_what_is_not_ours(config: Path, tmp_path: Path) -> None:
    persd("collect", config)
    run = tmp_path / "run"
    ledger = run / "ledger.sqlite"
    before = ledger.read_bytes()
    for out, why in ((ledger, "database"), (tmp_path, "folder"), ("/dev/null", "plain file")):
        assert why in mend(persd("build", run, "--variant", "persd", "--out", out))
        assert why in mend(persd("report", run, "--out", out))
    assert ledger.read_bytes() == before


def test_a_dead_endpoint_is_a_failure_with_its_reason(config: Path) -> None:
    teacher = 'teacher={model="x", base_url="http://127.0.0.1:9/v1", max_in_flight=8}'
    done = persd("collect", config, "--set", teacher, "--json")
    assert done.returncode == 1
    assert "Connection refused" in done.stderr
    assert "Traceback" not in done.stderr
    assert "retry" not in done.stderr


def test_tasks_check_names_what_is_wrong(config: Path) -> None:
    tasks = config.parent / "tasks.jsonl"
    good = persd("tasks", "check", tasks, "--json")
    assert good.returncode == 0, good.stdout + good.stderr
    assert json.loads(good.stdout)["problems"] == []
    bad = {**TASK, "reference": "def f(x):\n    return x\n"}
    with tasks.open("a") as out:
        out.write(json.dumps(bad) + "\n{broken\n")
    done = persd("tasks", "check", tasks, "--json")
    assert done.returncode == 1
    found = json.loads(done.stdout)
    assert found["ok"] == 12
    assert {p["task_id"] for p in found["problems"]} >= {"a"}
    assert len(found["problems"]) >= 2
