"""What the README says can be typed can be typed."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from persd import tasks
from persd.config import Config
from persd.experiment.grid import Grid, GridTable

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
PERSD = [sys.executable, "-m", "persd.cli"]


def blocks(kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def commands() -> dict[str, set[str]]:
    """Every ``persd ...`` of the README: the command's name and the flags given to it."""
    lines = [line for block in blocks("sh") for line in block.splitlines()]
    there, _not_yet = README.split("## Limits")
    lines += re.findall(r"`(persd [^`]+)`", there)
    found: dict[str, set[str]] = {}
    for line in lines:
        words = shlex.split(line.replace("[", " ").replace("]", " "), comments=True)
        if words[:1] != ["persd"]:
            continue
        length = 2 if words[1] in ("tasks", "import") else 1
        flags = {word for word in words if word.startswith("--")}
        found.setdefault(" ".join(words[1 : 1 + length]), set()).update(flags)
    return found


@pytest.mark.parametrize("command", [name for name in commands() if not name.startswith("-")])
def test_commands_and_their_flags_are_there(command: str) -> None:
    done = subprocess.run(
        [*PERSD, *command.split(), "--help"],
        capture_output=True,
        text=True,
        env={**os.environ, "COLUMNS": "300", "NO_COLOR": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for flag in commands()[command]:
        assert flag in done.stdout, flag


def test_the_python_runs() -> None:
    for source in blocks("python"):
        done = subprocess.run(
            [sys.executable, "-c", source], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        assert "failed" in done.stdout


def test_the_configs_parse() -> None:
    first, *others = (tomllib.loads(block) for block in blocks("toml"))
    Config.model_validate(first)
    for other in others:
        if "experiment" in other:
            shared = {k: v for k, v in first.items() if k in ("tasks", "teacher", "evaluate")}
            assert Grid(GridTable.model_validate({**shared, **other})).arms()
        else:
            Config.model_validate({**first, **other})


def test_the_task_is_one(tmp_path: Path) -> None:
    path = tmp_path / "tasks.jsonl"
    path.write_text("".join(blocks("json")), encoding="utf-8")
    assert [task.task_id for task in tasks.load("jsonl", path=str(path))] == ["add"]
