"""Ctrl-C: what is paid for is finished and kept, and only then the run stops."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from persd.ledger import Ledger
from test_kill import load_bench

kill = load_bench("kill")
endpoint = load_bench("endpoint")


def config_for(folder: Path, url: str) -> Path:
    kill.write_tasks(folder, 60)
    path = folder / "run.toml"
    path.write_text(
        f'[run]\ndir = "{folder}/run"\n'
        f'[tasks]\nsource = "jsonl"\npath = "{folder}/tasks.jsonl"\n'
        f'[student]\nmodel = "scripted:{folder}/student.jsonl"\n'
        f'[teacher]\nmodel = "fake"\nbase_url = "{url}"\nmax_in_flight = 4\n'
    )
    return path


def collect(config: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "persd.cli", "collect", str(config), "--json"]
    return subprocess.Popen(command, stdout=-1, stderr=-1, text=True)


def wait_until(server: Any, asked: int) -> None:
    for _ in range(600):
        if server.stats()["requests"] >= asked:
            return
        time.sleep(0.05)
    pytest.fail(f"never asked: {server.stats()}")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_finishes_what_is_under_way(tmp_path: Path, number: int) -> None:
    with endpoint.serve(endpoint.Settings(latency=0.5)) as server:
        config = config_for(tmp_path, server.url)
        process = collect(config)
        wait_until(server, 6)
        process.send_signal(number)
        said = process.communicate(timeout=60)[1]
        stats = server.stats()
        assert process.returncode == 130
        assert "stopping once" in said
        assert "run it again to go on" in said
        assert stats["abandoned"] == 0
        assert stats["requests"] == stats["answered"] < 40
        server.set(latency=0.0)
        process = collect(config)
        totals = json.loads(process.communicate(timeout=60)[0])
        assert totals["states"] == {"solved": 20, "refined": 40}
        assert totals["retries"] == {}
        assert server.stats()["requests"] == 40  # nothing was asked twice


def test_the_second_signal_ends_it_and_what_was_in_flight_is_counted(tmp_path: Path) -> None:
    with endpoint.serve(endpoint.Settings(latency=0.3)) as server:
        config = config_for(tmp_path, server.url)
        process = collect(config)
        wait_until(server, 6)
        server.set(latency=60.0)
        time.sleep(2.0)  # the quick ones are answered by now
        assert server.stats()["in_flight"] == 4
        process.send_signal(signal.SIGINT)
        time.sleep(1.0)
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130
        server.set(latency=0.0)
        process = collect(config)
        totals = json.loads(process.communicate(timeout=60)[0])
        assert totals["states"] == {"solved": 20, "refined": 40}
        assert totals["retries"] == {"lost": 4}


def test_all_that_was_answered_is_judged_before_it_stops(tmp_path: Path) -> None:
    with endpoint.serve(endpoint.Settings(latency=0.3, wrong_share=0.5)) as server:
        process = collect(config_for(tmp_path, server.url))
        wait_until(server, 14)
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=60)
        assert process.returncode == 130
    with Ledger(tmp_path / "run", read_only=True) as ledger:
        calls = ledger.query("SELECT call_id FROM calls WHERE role = 'teacher'")
        judged = ledger.query(
            "SELECT s.call_id FROM solutions s JOIN verdicts v USING (solution_id) "
            "WHERE s.kind = 'refinement'"
        )
        assert {row["call_id"] for row in calls} == {row["call_id"] for row in judged}
        assert 14 <= len(calls) < 60
