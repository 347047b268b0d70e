"""The paper's release as a run: the funnel adds up, and going on costs nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from persd.errors import UserError
from persd.importing import import_release
from persd.ledger import Ledger
from persd.progress import QUIET
from persd.tasks.persdistill import FILES


def write_release(folder: Path) -> None:
    """Three tasks: one repaired, one whose repair fails, one without a test."""
    kinds: dict[str, list[dict[str, Any]]] = {"direct": [], "refinement": [], "attempt": []}
    labels = {1: "    return x + 1", 2: "    return x + 7", 3: "    return x"}
    for task_id, label in labels.items():
        text = f'"""\nAdd {task_id}.\n"""\n\n'
        prompt = text + "def add(x):\n"
        direct = f"\n    return {task_id} + x"
        feedback = (
            "AssertionError\nINPUT: (1)\nOUTPUT: 1\nEXPECTED: " + str(1 + task_id)
            if task_id < 3
            else "TypeError: bad operand : "
        )
        shown = (
            "Rectify the below code for the given task based on the errors obtained in the "
            f"unit tests. \n\nTASK: \n{text}\n\ndef add(x):\n\n    return x\n\nERROR: \n{feedback}"
            f"\n\n{text}"
        )
        rows = {
            "direct": (prompt, direct),
            "refinement": (prompt, label),
            "attempt": (shown, direct),
        }
        for kind, (asked, completion) in rows.items():
            kinds[kind].append(
                {
                    "finetuning_prompt": asked,
                    "finetuning_completion": completion,
                    "task_id": task_id,
                }
            )
    folder.mkdir()
    for kind, found in kinds.items():
        (folder / FILES[kind]).write_text("".join(json.dumps(r) + "\n" for r in found))


def test_a_small_release(tmp_path: Path) -> None:
    write_release(tmp_path / "release")
    found = import_release(tmp_path / "release", tmp_path / "run", QUIET)
    assert (found["tasks"], found["tested"]) == (3, 2)
    assert (found["attempts_failing"], found["refinements_passing"]) == (2, 1)
    assert found["directs_passing"] == 2
    assert found["states"] == {"refined": 1, "refused": 1, "untested": 1}
    assert found["closeness"]["attempt_refinement"] > found["closeness"]["attempt_direct"]
    again = import_release(tmp_path / "release", tmp_path / "run", QUIET)
    assert again == found


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    write_release(tmp_path / "release")
    (tmp_path / "release" / FILES["direct"]).unlink()
    with pytest.raises(UserError, match=FILES["direct"]):
        import_release(tmp_path / "release", tmp_path / "run", QUIET)
    assert not (tmp_path / "run").exists()


def test_the_paper_s_release(data: Path, tmp_path: Path) -> None:
    """A first part of the real files; the whole is ``persd import persdistill``."""
    folder = tmp_path / "release"
    folder.mkdir()
    for name in FILES.values():
        lines = (data / "persdistill" / name).read_text().splitlines()[:300]
        (folder / name).write_text("\n".join(lines) + "\n")
    found = import_release(folder, tmp_path / "run", QUIET)
    assert sum(found["states"].values()) == found["tasks"] > 150
    assert found["attempts_failing"] / found["tested"] > 0.97
    assert found["refinements_passing"] / found["tested"] > 0.9
    assert found["directs_passing"] / found["tested"] > 0.9
    close = found["closeness"]
    assert close["attempt_refinement"] > close["attempt_direct"] + 0.1
    assert close["refinement_closer"] > 0.8
    with Ledger(tmp_path / "run", read_only=True) as ledger:
        assert len(ledger.states(1)) == found["tasks"]
