"""The loop with a student that a real OpenAI-compatible server answers for: transformers' own,
started on this machine with a copy of the embedded student."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from persd.ledger import Ledger
from persd.models import EMBEDDED_STUDENT
from persd.records import OPEN_STATES, STATES, Call, Request
from test_cli import persd

MISSING = [name for name in ("transformers", "torch", "fastapi", "uvicorn") if not find_spec(name)]
pytestmark = pytest.mark.skipif(
    bool(MISSING), reason=f"{', '.join(MISSING)} not installed: pip install 'persd[train,dev]'"
)

TASKS, GREEDY_TASKS = 16, 6
#: Longest the server may take to load the model and listen, in seconds.
START_WITHIN = 120.0
#: `transformers serve`, which ends with whoever holds the other end of its standard input: were
#: the tests killed, nobody else would end it.
SERVE = """
import os, threading
threading.Thread(target=lambda: (os.read(0, 1), os._exit(1)), daemon=True).start()
from transformers.cli.transformers import main
main()
"""


@dataclass
class Server:
    url: str
    log: Path

    def answered(self) -> int:
        """Completions it has given, by its own log."""
        return self.log.read_text().count('"POST /v1/completions HTTP/1.1" 200')

    def asked(self) -> int:
        return self.log.read_text().count('"POST ')


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("served")
    copy_student(folder / "student")
    log = folder / "server.log"
    command = [sys.executable, "-c", SERVE, "serve", "student"]
    with log.open("w") as out:
        process = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", "0", "--device", "cpu"],
            cwd=folder,  # the server knows a model by the path it loaded it from
            env={**os.environ, "HF_HUB_OFFLINE": "1"},
            stdin=subprocess.PIPE,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield Server(url_when_ready(process, log), log)
    finally:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        process.communicate()


def copy_student(to: Path) -> None:
    """The embedded student, to be sampled: the server draws greedily, whatever temperature it
    is asked for, unless the checkpoint itself says ``do_sample``."""
    shutil.copytree(EMBEDDED_STUDENT, to)
    settings = to / "generation_config.json"
    settings.write_text(json.dumps({**json.loads(settings.read_text()), "do_sample": True}))


def url_when_ready(process: subprocess.Popen[bytes], log: Path) -> str:
    """The base_url, once the server says that it listens; else a failure that shows its log."""
    until = time.monotonic() + START_WITHIN
    while time.monotonic() < until and process.poll() is None:
        if found := re.search(r"running on (http://127\.0\.0\.1:\d+)", log.read_text()):
            return f"{found[1]}/v1"
        time.sleep(0.05)
    ended = process.poll()
    how = f"did not listen within {START_WITHIN} s" if ended is None else f"ended with {ended}"
    pytest.fail(f"the server {how}:\n{log.read_text()}", pytrace=False)


@pytest.fixture(scope="module")
def config(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made-up tasks, the served student, the embedded teacher.

    One call at a time: the server draws all requests from one random state, so that only then
    a seed settles what is drawn.
    """
    folder = tmp_path_factory.mktemp("loop")
    path = folder / "run.toml"
    path.write_text(
        f'[run]\ndir = "{folder}/run"\nvariants = ["persd"]\n'
        f'[tasks]\nsource = "lab"\nlimit = {TASKS}\n'
        f'[student]\nmodel = "student"\nbase_url = "{server.url}"\napi = "completions"\n'
        "max_tokens = 160\nmax_in_flight = 1\n"
        '[teacher]\nmodel = "lab"\n'
    )
    return path


@pytest.fixture(scope="module")
def collected(config: Path) -> Path:
    """The run's folder, every task attempted and judged and every failed one with the teacher."""
    collect(config)
    return config.parent / "run"


def collect(config: Path, *settings: str) -> dict[str, Any]:
    sets = [part for setting in settings for part in ("--set", setting)]
    done = persd("collect", config, *sets, "--json")
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def student_calls(ledger: Ledger) -> dict[str, Call]:
    """What the student was asked, by task."""
    rows = ledger.query("SELECT call_id FROM calls WHERE role = 'student'")
    calls = [call for row in rows if (call := ledger.call(row["call_id"]))]
    assert len({call.task_id for call in calls}) == len(calls)
    return {call.task_id: call for call in calls}


def test_every_attempt_came_from_the_server(collected: Path, server: Server) -> None:
    with Ledger(collected, read_only=True) as ledger:
        calls, attempts = student_calls(ledger), ledger.solutions(kind="attempt")
        assert set(calls) == {task.task_id for task in ledger.tasks()}
    assert len(calls) == TASKS
    assert {a.call_id for a in attempts} == {c.call_id for c in calls.values()}
    assert {c.model for c in calls.values()} == {a.author for a in attempts} == {"student"}
    for call in calls.values():
        told = call.completion
        assert (told.model, told.usd) == ("student@main", 0.0)
        assert told.usage.known
        assert told.usage.input_tokens > 0
        assert 0 < told.usage.output_tokens <= 160
        assert told.finish == ("length" if told.usage.output_tokens == 160 else "stop")


def test_failed_attempts_are_repaired_and_every_task_has_its_state(collected: Path) -> None:
    with Ledger(collected, read_only=True) as ledger:
        states = ledger.states(1)
        assert len(states) == TASKS
        assert {s.state for s in states.values()} <= set(STATES) - OPEN_STATES
        by_state = {name: [s for s in states.values() if s.state == name] for name in STATES}
        assert by_state["solved"]
        assert by_state["refined"]
        for state in by_state["solved"] + by_state["refined"]:
            tried = ledger.verdict(state.attempt_id or "")
            assert tried is not None
            assert tried.passed == (state.state == "solved")
        for state in by_state["refined"]:
            repaired = ledger.verdict(state.refinement_id or "")
            assert repaired is not None
            assert repaired.passed


def test_build_gives_an_example_a_repair(collected: Path, tmp_path: Path) -> None:
    with Ledger(collected, read_only=True) as ledger:
        refined = [s.task_id for s in ledger.states(1).values() if s.state == "refined"]
    out = tmp_path / "data.jsonl"
    built = persd("build", collected, "--variant", "persd", "--out", out, "--json")
    assert built.returncode == 0, built.stderr
    found = json.loads(built.stdout)
    assert found["examples"] == len(out.read_text().splitlines()) > 0
    assert found["examples"] + sum(found["rejected"].values()) == len(refined)


def test_again_asks_the_server_nothing(config: Path, collected: Path, server: Server) -> None:
    asked = server.asked()
    assert asked >= TASKS
    with Ledger(collected, read_only=True) as ledger:
        before = student_calls(ledger)
    again = collect(config)
    assert (again["tasks"], sum(again["states"].values())) == (TASKS, TASKS)
    assert server.asked() == asked
    with Ledger(collected, read_only=True) as ledger:
        assert student_calls(ledger) == before


def test_greedily_it_says_what_the_loaded_student_says(
    config: Path, collected: Path, server: Server, tmp_path: Path
) -> None:
    """Token for token: neither side adds, strips or forgets any; also several at once."""
    from persd.models.local import LocalModel

    answered = server.answered()
    settings = ("student.temperature=0.0", "student.max_in_flight=4", f"tasks.limit={GREEDY_TASKS}")
    collect(config, f'run.dir="{tmp_path}/greedy"', *settings)
    assert server.answered() == answered + GREEDY_TASKS
    with Ledger(tmp_path / "greedy", read_only=True) as ledger:
        greedy, tasks = student_calls(ledger), {t.task_id: t for t in ledger.tasks()}
    asked = [
        Request("attempt", call.messages, tasks[call.task_id], **call.params)
        for call in greedy.values()
    ]
    loaded = LocalModel(str(EMBEDDED_STUDENT), device="cpu", batch=1).complete(asked)
    for call, expected in zip(greedy.values(), loaded, strict=True):
        told = call.completion
        assert (told.text, told.finish) == (expected.text, expected.finish)
        assert told.usage.input_tokens == expected.usage.input_tokens
    with Ledger(collected, read_only=True) as ledger:
        sampled = student_calls(ledger)
    both = greedy.keys() & sampled.keys()
    assert any(greedy[t].completion.text != sampled[t].completion.text for t in both)
