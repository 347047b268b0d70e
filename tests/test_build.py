"""Data sets from one ledger, with their lineage."""

from __future__ import annotations

from pathlib import Path

import pytest

from conftest import make_task
from persd.build import build_rounds
from persd.loop import collect
from persd.run import Run
from play import CHAT_RIGHT, Script, make_config, use


def test_the_seven_variants_from_one_ledger(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, Script({"bad": "    return a - b\n"}, {}))
    config = make_config(tmp_path)
    with Run(config) as run:
        run.store_tasks([make_task("good"), make_task("bad")])
        collect(run, 1, "student")
        sizes = {}
        for variant in ("stand", "inpd", "inpd-combined", "persd", "persd-refine", "replay"):
            examples, rejected = build_rounds(run.ledger, lambda: run.box, variant, [1])
            assert not rejected
            assert build_rounds(run.ledger, lambda: run.box, variant, [1]) == (examples, [])
            sizes[variant] = len(examples)
        assert sizes == {
            "stand": 2,
            "inpd": 1,
            "inpd-combined": 2,
            "persd": 1,
            "persd-refine": 1,
            "replay": 1,
        }
        (example,), _ = build_rounds(run.ledger, lambda: run.box, "persd-refine", [1])
        lineage = run.ledger.lineage(example.example_id)
    assert example.completion.strip() == "return b + a"
    assert "a - b" in example.prompt
    assert lineage["refinement"]["call"].completion.text == CHAT_RIGHT
    assert lineage["attempt"]["verdict"].first_failure.actual == "-1"
    assert lineage["attempt"]["call"].params["temperature"] == 0.3
