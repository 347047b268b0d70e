"""What training tasks overlap of a run's benchmarks, and scores on the rest: figures by hand."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import test_screen
from persd.analysis import analyze
from persd.analysis.clean import clean_scores, overlap_of
from persd.benchmarks import held_out, place_of
from persd.config import Config
from persd.ledger import Ledger
from persd.loop import collect
from persd.progress import QUIET
from persd.records import Evaluation, TaskState
from persd.run import Run
from persd.scores import score
from play import Script, make_config, use
from report_run import HOSTILE
from test_analysis import evaluation, printed
from test_overlap import BENCHMARK, make

EVEN, LONG, PRIME = BENCHMARK
NAME = "held-out.jsonl"
BASE = {
    "even": {"passed": 2, "NameError": 2},
    "long": {"NameError": 4},
    "prime": {"passed": 4},
}
PERSD = {
    "even": {"passed": 4},
    "long": {"passed": 1, "NameError": 3},
    "prime": {"passed": 3, "truncated": 1},
}


def scored(
    outcomes: Mapping[str, Mapping[str, int]], model: str = "base", **changes: Any
) -> Evaluation:
    """An evaluation on the benchmark, its scores computed as an evaluation computes them."""
    made = evaluation(outcomes, model, benchmark=NAME, **changes)
    found = {
        task: (sum(n for o, n in each.items() if o != "truncated"), each.get("passed", 0))
        for task, each in outcomes.items()
    }
    scores = {str(k): s for k in (1, 4) if (s := score(found, k, len(outcomes)))}
    return replace(
        made,
        pass_at_k={k: s.value for k, s in scores.items()},
        interval={k: s.interval for k, s in scores.items()},
    )


def make_ledger(ledger: Ledger, **evaluate: Any) -> Config:
    """A pool with a twin of ``prime``, one of ``even`` that was kept out, and another task."""
    plain = make_config(Path("unused")).model_dump()
    plain["evaluate"]["benchmarks"] = [NAME]
    config = Config.model_validate(plain)
    pool = [
        replace(PRIME, task_id="twin"),
        replace(EVEN, task_id="kept-out"),
        make("other", "Draw a circle on the screen."),
    ]
    ledger.add_tasks(pool)
    ledger.set_state(TaskState("twin", 1, "solved"))
    ledger.set_state(TaskState("kept-out", 1, "contaminated"))
    ledger.add_tasks(BENCHMARK, place_of(ledger, NAME, config.evaluate, config.run.seed))
    ledger.set_meta("config", config.model_dump_json())
    return config


def test_what_was_kept_out_is_no_training_task(ledger: Ledger) -> None:
    config = make_ledger(ledger)
    found = overlap_of(ledger, config, QUIET)
    assert json.loads(json.dumps(found)) == found
    assert (found["train_tasks"], found["notes"]) == (2, {})
    row = found["benchmarks"][NAME]
    assert (row["tasks"], row["touched"], row["flagged"]) == (3, ["prime"], 1)
    assert row["clean"] == {"tasks": 2, "models": []}
    # a round that knew of no benchmark yet has trained on it
    ledger.set_state(TaskState("kept-out", 2, "refined"))
    again = overlap_of(ledger, config, QUIET)
    assert again["train_tasks"] == 3
    assert again["benchmarks"][NAME]["touched"] == ["even", "prime"]


def test_scores_whole_and_on_the_clean_tasks(ledger: Ledger) -> None:
    config = make_ledger(ledger)
    for each in (
        scored(BASE),
        scored(PERSD, "persd"),
        scored(PERSD, "persd", step=2),
        scored(BASE, "persd", step=2, control="resample"),
        evaluation({}, "inpd", benchmark=NAME),  # scored by a version that kept no outcomes
    ):
        ledger.add_evaluation(each)
    clean = overlap_of(ledger, config, QUIET)["benchmarks"][NAME]["clean"]
    assert clean["tasks"] == 2
    base, persd, later = clean["models"]
    assert [(r["model"], r["round"], r["step"]) for r in clean["models"]] == [
        ("base", 0, 1),
        ("persd", 1, 1),
        ("persd", 1, 2),
    ]
    assert base["whole"]["pass@k"]["1"] == pytest.approx((1 / 2 + 0 + 1) / 3)
    assert base["clean"]["pass@k"]["1"] == pytest.approx((1 / 2 + 0) / 2)
    assert base["clean"]["interval"]["1"] == [0.0, 0.5]
    assert persd["clean"]["pass@k"]["1"] == pytest.approx((1 + 1 / 4) / 2)
    assert persd["clean"]["tasks"] == {"1": 2, "4": 2}
    assert "less_base" not in base
    assert "less_base" not in later  # the base has no step 2
    less = persd["less_base"]["1"]
    assert less["value"] == pytest.approx(3 / 8)
    assert less["interval"] == pytest.approx([1 / 4, 1 / 2])
    assert (less["clear"], less["newly_solved"], less["newly_lost"]) == (True, 1, 0)


def test_where_nothing_is_clean_there_is_no_score() -> None:
    (row,) = clean_scores([scored(BASE)], [], QUIET)
    assert row["clean"] == {"pass@k": {}, "interval": {}, "tasks": {}}
    assert row["whole"]["pass@k"]["4"] == pytest.approx(2 / 3)


def test_a_benchmark_that_is_not_there_is_said(ledger: Ledger) -> None:
    config = make_ledger(ledger)
    other = config.evaluate.model_copy(update={"limit": 2, "benchmarks": [NAME, "lab"]})
    found = overlap_of(ledger, config.model_copy(update={"evaluate": other}), QUIET)
    assert found["benchmarks"] == {}
    assert found["train_tasks"] == 0
    assert set(found["notes"]) == {NAME, "lab"}
    assert "does not hold its tasks" in found["notes"][NAME]


def test_the_embedded_family_is_not_held_against_itself(tmp_path: Path) -> None:
    plain = make_config(tmp_path).model_dump()
    plain["tasks"] = {"source": "lab"}
    plain["evaluate"]["benchmarks"] = ["lab", "lab-validation"]
    config = Config.model_validate(plain)
    with Ledger(tmp_path / "run") as ledger:
        place = place_of(ledger, "lab", config.evaluate, config.run.seed)
        ledger.add_tasks([replace(EVEN, task_id="train")])
        ledger.add_tasks(BENCHMARK, place)
        found = overlap_of(ledger, config, QUIET)
    assert found["benchmarks"] == {}
    assert all("family" in why for why in found["notes"].values())


@pytest.mark.parametrize("then", ["gone", "edited"])
def test_the_tasks_that_were_scored_are_held_against_whatever_becomes_of_their_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, then: str
) -> None:
    use(monkeypatch, Script(dict(test_screen.STUDENT), dict(test_screen.TEACHER)))
    config = test_screen.make_config(tmp_path)
    name = config.evaluate.benchmarks[0]
    with Run(config) as run:
        run.store_tasks(test_screen.TASKS)
        held_out(run, name, config.evaluate)
        before = overlap_of(run.ledger, config, QUIET)
        if then == "gone":
            Path(name).unlink()
        else:
            Path(name).write_text("{}\n")
        assert overlap_of(run.ledger, config, QUIET) == before
    assert before["benchmarks"][name]["touched"] == ["sum-two"]


@pytest.mark.parametrize("screened", [True, False])
def test_a_whole_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, screened: bool) -> None:
    use(monkeypatch, Script(dict(test_screen.STUDENT), dict(test_screen.TEACHER)))
    config = test_screen.make_config(tmp_path, tasks={"decontaminate": screened})
    name = config.evaluate.benchmarks[0]
    with Run(config) as run:
        run.store_tasks(test_screen.TASKS)
        collect(run, 1, "student")
        held_out(run, name, config.evaluate)
    found = analyze(tmp_path / "run", variants=["persd"])["overlap"]
    row = found["benchmarks"][name]
    assert found["train_tasks"] == (2 if screened else 3)
    assert row["touched"] == ([] if screened else ["sum-two"])
    assert row["clean"]["tasks"] == (1 if screened else 0)


def test_the_tables_fit_eighty_columns(ledger: Ledger) -> None:
    config = make_ledger(ledger)
    for round, step in ((1, 1), (1, 2), (2, 1)):
        ledger.add_evaluation(scored(BASE, step=step, evaluation_id=f"base {round} {step}"))
        ledger.add_evaluation(scored(PERSD, "persd-combined", round=round, step=step))
    found = overlap_of(ledger, config, QUIET)
    hostile = f"a-benchmark-of-somebody-with-a-long-name{HOSTILE}.jsonl"
    found["benchmarks"] = {hostile: found["benchmarks"][NAME]}
    labels: dict[str, Any] = {"student": None, "note": "", "rounds": [], "variants": []}
    text = printed(
        {
            "labels": labels,
            "mistakes": [],
            "attempts": [],
            "overlap": {**found, "notes": {"humaneval": "why"}},
        }
    )
    assert max(map(len, text.splitlines())) <= 80
    assert "Overlap of 2 training tasks" in text
    assert "2 of 3 tasks are clean" in " ".join(text.split())
    assert "(+25.0 to +50.0)" in text
    assert "humaneval: why" in text
    assert "…" not in text  # nothing is cut
    assert "\x1b[31m" not in text
