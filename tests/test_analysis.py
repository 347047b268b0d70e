"""What labels and mistakes amount to: figures by hand, and whole runs."""

from __future__ import annotations

import importlib.util
import itertools
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from conftest import make_task
from persd.analysis import analyze
from persd.analysis.attempts import training_mistakes
from persd.analysis.evaluated import evaluated_mistakes
from persd.analysis.labels import Label, label_closeness
from persd.analysis.mistakes import mistakes
from persd.closeness import similarity
from persd.errors import UserError
from persd.importing import import_release
from persd.ledger import Ledger
from persd.models.scoring import LabelScore
from persd.progress import QUIET
from persd.records import Checkpoint, Evaluation
from persd.report import sets, summary
from persd.report.analysis import print_analysis
from persd.tasks.persdistill import FILES
from play import Script, go, make_config, use
from report_run import HOSTILE, a_solution, a_task, a_verdict, fill
from test_cli import mend, persd
from test_importing import write_release


def evaluation(
    outcomes: Mapping[str, Mapping[str, int]], model: str = "base", **changes: Any
) -> Evaluation:
    values: dict[str, Any] = {
        "evaluation_id": f"{model} {changes}",
        "model": model,
        "round": 0 if model == "base" else 1,
        "benchmark": "mbpp",
        "step": 1,
        "tasks": len(outcomes),
        "samples": 4,
        "pass_at_k": {},
        "interval": {},
        "outcomes": outcomes,
    }
    return Evaluation(**{**values, **changes})


def row(rows: list[dict[str, Any]], key: str, name: str) -> dict[str, Any]:
    return next(r for r in rows if r[key] == name)


# -- labels -----------------------------------------------------------------------------------


def test_similarity_is_a_mean_over_tasks_and_nats_over_tokens() -> None:
    labels = [
        Label("a", "same", "same", LabelScore(10, 5.0)),
        Label("a", "xyzw", "same", LabelScore(30, 3.0)),
        Label("b", "same", "same", LabelScore(20, 4.0)),
    ]
    found = label_closeness("persd", labels)
    assert (found["variant"], found["examples"], found["tasks"]) == ("persd", 3, 2)
    assert found["similarity"] == pytest.approx(0.75)
    assert found["similarity_interval"] == [0.5, 1.0]  # a mean over a, over b, or over both
    assert found["tokens"] == 60
    assert found["nats_per_token"] == pytest.approx(12 / 60)
    low, high = found["nats_interval"]
    assert low <= found["nats_per_token"] <= high
    assert found["left_out"] == {}


def test_what_cannot_be_compared_or_scored_is_counted() -> None:
    labels = [
        Label("a", "same", None, LabelScore(10, 5.0)),
        Label("b", "same", "same", LabelScore(0, None, "over_long", "4096 tokens")),
    ]
    found = label_closeness("persd", labels)
    assert found["left_out"] == {"no_attempt": 1, "over_long": 1}
    assert (found["similarity"], found["nats_per_token"]) == (1.0, 0.5)


def test_without_a_student_or_examples_nothing_is_invented() -> None:
    found = label_closeness("persd", [Label("a", "x", "x")])
    assert (found["nats_per_token"], found["nats_interval"], found["tokens"]) == (None, None, None)
    empty = label_closeness("persd", [])
    assert (empty["similarity"], empty["similarity_interval"], empty["examples"]) == (None, None, 0)


def test_the_interval_of_nats_narrows_with_tasks_and_holds_long_labels_to_their_weight() -> None:
    few = [Label(str(i), "", None, LabelScore(10, 5.0 + i % 5)) for i in range(10)]
    many = [Label(str(i), "", None, LabelScore(10, 5.0 + i % 5)) for i in range(1000)]
    widths = []
    for labels in (few, many):
        low, high = label_closeness("persd", labels)["nats_interval"]
        widths.append(high - low)
    assert widths[1] < widths[0] / 5
    # 1 nat a token everywhere: whatever is drawn, the ratio does not vary
    even = [Label(str(i), "", None, LabelScore(i + 1, i + 1.0)) for i in range(20)]
    assert label_closeness("persd", even)["nats_interval"] == pytest.approx([1.0, 1.0])


# -- mistakes ---------------------------------------------------------------------------------

BEFORE = {
    "a": {"AssertionError": 2, "NameError": 1, "passed": 1},
    "b": {"AssertionError": 4},
    "c": {"passed": 4, "truncated": 2},
    "d": {"not_run": 4},
}
AFTER = {
    "a": {"passed": 3, "AssertionError": 1},
    "b": {"passed": 2, "TypeError": 2},
    "c": {"passed": 3, "TypeError": 1},
    "d": {"passed": 4},
    "e": {"passed": 4},
}


def test_shares_before_and_after_are_means_over_tasks() -> None:
    found = mistakes(evaluation(BEFORE), evaluation(AFTER, "persd"))
    assert (found["tasks"], found["left_out"]) == (3, 2)  # d was not judged before, e not there
    assert found["apart"]["before"] == {"truncated": 2, "not_run": 4}
    names = [r["outcome"] for r in found["outcomes"]]
    assert names == ["passed", "AssertionError", "NameError", "TypeError"]
    passed = row(found["outcomes"], "outcome", "passed")
    assert passed["before"] == pytest.approx((1 / 4 + 0 + 1) / 3)
    assert passed["after"] == pytest.approx((3 / 4 + 1 / 2 + 3 / 4) / 3)
    assert passed["change"] == pytest.approx(passed["after"] - passed["before"])
    low, high = passed["change_interval"]
    assert (low, high) == pytest.approx((-0.25, 0.5))  # c drawn three times, a or b
    assert row(found["outcomes"], "outcome", "TypeError")["before"] == 0
    for side in ("before", "after"):
        assert sum(r[side] for r in found["outcomes"]) == pytest.approx(1.0)


def test_what_became_of_the_tasks_of_a_class() -> None:
    found = mistakes(evaluation(BEFORE), evaluation(AFTER, "persd"))["classes"]
    wrong = row(found, "class", "AssertionError")
    assert (wrong["tasks"], wrong["weight"]) == (2, pytest.approx(1.5))
    # a: of the other three samples one passed; b: none
    assert wrong["solved_before"] == pytest.approx((0.5 * 1 / 3 + 1 * 0) / 1.5)
    assert wrong["solved_after"] == pytest.approx((0.5 * 3 / 4 + 1 * 1 / 2) / 1.5)
    assert wrong["again_before"] == pytest.approx((0.5 * 1 / 3 + 1 * 1) / 1.5)
    assert wrong["again_after"] == pytest.approx((0.5 * 1 / 4) / 1.5)
    low, high = wrong["change_interval"]
    assert low <= wrong["change"] <= high
    forgotten = row(found, "class", "passed")
    assert forgotten["change"] < 0
    assert "TypeError" not in {r["class"] for r in found}  # nobody failed so before


OUTCOMES = st.dictionaries(
    st.sampled_from(["passed", "AssertionError", "NameError", "truncated"]),
    st.integers(1, 4),
    min_size=1,
).filter(lambda o: sum(n for k, n in o.items() if k != "truncated") > 1)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(OUTCOMES, OUTCOMES), min_size=1, max_size=6))
def test_the_parts_of_all_classes_add_up_to_the_change(
    tasks: list[tuple[dict[str, int], dict[str, int]]],
) -> None:
    before = evaluation({str(i): b for i, (b, _) in enumerate(tasks)})
    after = evaluation({str(i): a for i, (_, a) in enumerate(tasks)}, "persd")
    found = mistakes(before, after)
    parts = sum(r["contribution"] for r in found["classes"])
    passed = next((r["change"] for r in found["outcomes"] if r["outcome"] == "passed"), 0.0)
    assert parts == pytest.approx(passed, abs=1e-9)


def test_a_student_that_did_not_change_mends_nothing() -> None:
    """Every pair of two samples before and two after, as often as it is to be expected."""
    faces = ["passed", "passed", "AssertionError", "NameError"]  # a half, a quarter, a quarter
    draws = list(itertools.product(faces, repeat=2))
    pairs = list(itertools.product(draws, repeat=2))
    sides: list[dict[str, dict[str, int]]] = [
        {str(i): {o: pair[side].count(o) for o in set(pair[side])} for i, pair in enumerate(pairs)}
        for side in (0, 1)
    ]
    found = mistakes(evaluation(sides[0]), evaluation(sides[1], "persd"))
    assert {r["class"] for r in found["classes"]} == set(faces)
    for each in found["classes"]:
        assert each["solved_before"] == pytest.approx(0.5)  # chosen by a failure, yet not lower
        assert each["solved_after"] == pytest.approx(0.5)
        assert each["again_before"] == pytest.approx(each["again_after"])


def test_one_sample_a_task_says_nothing_of_its_other_samples() -> None:
    found = mistakes(evaluation({"a": {"NameError": 1}}), evaluation({"a": {"passed": 1}}, "persd"))
    assert found["classes"] == []
    assert row(found["outcomes"], "outcome", "passed")["change"] == 1.0


def test_samples_of_the_same_seed_are_not_taken_for_others() -> None:
    """A student that draws the very same samples again has neither mended nor forgotten."""
    same = evaluation(BEFORE)
    pairs = {task: {(o, o): n for o, n in outcomes.items()} for task, outcomes in BEFORE.items()}
    found = mistakes(same, evaluation(BEFORE, "persd"), pairs)
    assert found["paired"]
    for each in found["classes"]:
        assert each["change"] == pytest.approx(0.0)
        assert each["again_after"] == pytest.approx(each["again_before"])
    alone = mistakes(same, evaluation(BEFORE, "persd"))
    assert not alone["paired"]
    assert row(alone["classes"], "class", "AssertionError")["again_after"] > 0.8  # 0.5 / 1.5 less


def test_of_paired_samples_the_others_are_counted_one_by_one() -> None:
    draws = [("NameError", "passed"), ("passed", "passed"), ("passed", "truncated")]
    sides = [{o: side.count(o) for o in side} for side in map(list, zip(*draws, strict=True))]
    before, after = (evaluation({"a": side}) for side in sides)
    found = mistakes(before, after, {"a": dict.fromkeys(draws, 1)})["classes"]
    name = row(found, "class", "NameError")
    assert (name["solved_before"], name["solved_after"]) == (1.0, 1.0)  # 1 of the 1 judged other
    passed = row(found, "class", "passed")
    assert passed["solved_before"] == 0.5
    assert passed["solved_after"] == pytest.approx((1 / 1 + 2 / 2) / 2)


def test_each_student_is_held_against_the_base_of_its_benchmark(ledger: Ledger) -> None:
    other = {"x": {"NameError": 2}}
    ledger.set_meta("config", (make_config(Path("unused"))).model_dump_json())
    for scores in (
        evaluation(BEFORE),
        evaluation(other, benchmark="humaneval"),
        evaluation(AFTER, "persd"),
        evaluation({"x": {"passed": 2}}, "persd", benchmark="humaneval"),
        evaluation(AFTER, "persd", step=2),
        evaluation(AFTER, "persd", control="resample"),
        evaluation({}, "stand"),  # scored by a version that kept no outcomes
        evaluation(AFTER, "inpd", benchmark="lab"),  # no base there
    ):
        ledger.add_evaluation(scores)
    found = evaluated_mistakes(ledger)
    assert [(f["model"], f["round"], f["benchmark"]) for f in found] == [
        ("persd", 1, "mbpp"),
        ("persd", 1, "humaneval"),
    ]
    assert found[1]["classes"][0]["solved_after"] == 1.0
    assert not found[1]["paired"]  # the ledger holds no such samples


def add_samples(ledger: Ledger, author: str, drawn: str) -> dict[str, int]:
    """Samples of one task, ``p`` passing, ``a`` and ``n`` not; and what they add up to."""
    statuses: dict[str, tuple[Any, str]] = {
        "p": ("passed", ""),
        "a": ("failed", ""),
        "n": ("error", "NameError"),
    }
    for i, letter in enumerate(drawn):
        name = f"{author}-{i}"
        made = a_solution(name, "attempt", "x", task_id="t1", author=author, round=0, sample=i)
        ledger.add_solution(replace(made, benchmark="mbpp"))
        ledger.add_verdict(a_verdict(name, *statuses[letter]))
    names = {"p": "passed", "a": "AssertionError", "n": "NameError"}
    return {names[letter]: drawn.count(letter) for letter in sorted(set(drawn))}


def test_samples_are_paired_by_their_number_in_the_ledger(ledger: Ledger) -> None:
    ledger.set_meta("config", (make_config(Path("unused"))).model_dump_json())
    ledger.add_tasks([a_task(1)], "mbpp chosen")
    ledger.add_checkpoint(Checkpoint("c1", "run/checkpoints/c1", "student", "persd", 1, 1, "h"))
    before = add_samples(ledger, "student", "panp")
    after = add_samples(ledger, "c1", "paap")
    ledger.add_evaluation(evaluation({"t1": before}))
    ledger.add_evaluation(evaluation({"t1": after}, "persd", checkpoint_id="c1"))
    (found,) = evaluated_mistakes(ledger)
    assert found["paired"]
    assert row(found["classes"], "class", "AssertionError")["solved_after"] == pytest.approx(2 / 3)
    assert row(found["classes"], "class", "passed")["change"] == 0.0
    add_samples(ledger, "student", "ppppp")  # a fifth one, that no score counts
    (found,) = evaluated_mistakes(ledger)
    assert not found["paired"]


# -- attempts ---------------------------------------------------------------------------------


def test_attempts_by_error_and_what_the_teacher_made_of_them(ledger: Ledger) -> None:
    fill(ledger)
    found = training_mistakes(ledger, 1)
    (counted, later) = summary.error_types(ledger)
    assert {t["type"]: t["attempts"] for t in found["types"]} == counted.types
    assert (found["attempts"], found["failing"]) == (counted.attempts, counted.failing)
    wrong = row(found["types"], "type", "AssertionError")
    assert wrong["states"] == {
        "over_budget": 1,
        "refined": 2,
        "refused": 1,
        "teacher_failed": 1,
    }
    assert (wrong["refined"], wrong["repairs"]) == (2, {"edit": 1, "rewrote": 1})
    odd = next(t for t in found["types"] if t["type"] != "AssertionError")
    assert odd["states"] == {"waiting": 1}
    assert (odd["refined"], odd["repairs"]) == (0, {})
    second = training_mistakes(ledger, 2)
    assert second["types"][0]["repairs"] == {"": 1}  # nothing said
    assert second["failing"] == later.failing == 1


# -- whole runs -------------------------------------------------------------------------------


@pytest.fixture
def run_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One task solved, one repaired, by scripted models."""
    use(monkeypatch, Script({"bad": "    return a - b\n"}, {}))
    config = make_config(tmp_path)
    states = go(config, [make_task("good"), make_task("bad")])
    assert states["bad"].state == "refined"
    return Path(config.run.dir)


def with_student(run_dir: Path, **student: Any) -> None:
    """Let the run's config name another student."""
    with Ledger(run_dir) as ledger:
        config = json.loads(ledger.meta("config") or "{}")
        config["student"] |= student
        ledger.set_meta("config", json.dumps(config))


def test_a_run_whose_student_is_recorded_has_closeness_and_says_why_no_nats(run_dir: Path) -> None:
    with_student(run_dir, model="recorded")
    found = analyze(run_dir)
    assert json.loads(json.dumps(found)) == found
    labels = found["labels"]
    assert (labels["student"], labels["rounds"]) == (None, [1])
    assert "recorded" in labels["note"]
    persd, direct = (row(labels["variants"], "variant", v) for v in ("persd", "inpd"))
    attempt = "def add(a, b):\n    return a - b\n"
    assert persd["similarity"] == similarity(attempt, "def add(a, b):\n    return b + a\n")
    assert direct["similarity"] == similarity(attempt, "def add(a, b):\n    return a + b\n")
    assert persd["nats_per_token"] is None
    assert len(labels["variants"]) == 7
    (attempts,) = found["attempts"]
    assert (attempts["attempts"], attempts["failing"]) == (2, 1)
    assert found["mistakes"] == []


def test_a_served_student_has_no_likelihood(run_dir: Path) -> None:
    with_student(run_dir, base_url="http://127.0.0.1:9/v1")
    found = analyze(run_dir, variants=["persd"])
    assert "served" in found["labels"]["note"]
    assert [v["variant"] for v in found["labels"]["variants"]] == ["persd"]


def test_without_torch_the_note_says_what_to_install(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_student(run_dir, model="lab")
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name == "torch" else find(name, *a)
    )
    found = analyze(run_dir, variants=["persd"])
    assert found["labels"]["variants"][0]["nats_per_token"] is None
    assert found["labels"]["variants"][0]["similarity"] > 0.5
    assert "pip install 'persd[train]'" in found["labels"]["note"]
    with pytest.raises(UserError, match="pip install"):
        analyze(run_dir, model="lab")


def test_labels_under_a_checkpoint(run_dir: Path) -> None:
    pytest.importorskip("torch")
    found = analyze(run_dir, model="lab", variants=["inpd", "persd", "inpd-combined"])
    labels = found["labels"]
    assert (labels["student"], labels["note"]) == ("lab", "")
    inpd, persd, combined = labels["variants"]
    assert inpd["nats_per_token"] > 0
    assert persd["nats_per_token"] > inpd["nats_per_token"]  # b + a is the less likely form
    assert combined["tokens"] == 2 * inpd["tokens"]
    assert combined["left_out"] == {}


def test_what_cannot_be_analysed_is_said(run_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not a run"):
        analyze(tmp_path / "nothing")
    with pytest.raises(UserError, match="unknown variant"):
        analyze(run_dir, variants=["perzd"])
    pytest.importorskip("torch")
    with pytest.raises(UserError, match="no checkpoint folder"):
        analyze(run_dir, model=str(tmp_path / "nothing"))


def test_a_run_that_is_going_on_is_only_read(run_dir: Path) -> None:
    with_student(run_dir, model="recorded")
    with Ledger(run_dir) as writing:
        before = writing.query("SELECT COUNT(*) AS n FROM meta")[0]["n"]
        analyze(run_dir)
        assert writing.query("SELECT COUNT(*) AS n FROM meta")[0]["n"] == before


def test_closeness_of_the_paper_s_labels_is_that_of_its_programs(
    data: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "release"
    folder.mkdir()
    for name in FILES.values():
        lines = (data / "persdistill" / name).read_text().splitlines()[:150]
        (folder / name).write_text("\n".join(lines) + "\n")
    import_release(folder, tmp_path / "run", QUIET)
    found = analyze(tmp_path / "run", variants=["inpd", "persd"])["labels"]
    with Ledger(tmp_path / "run", read_only=True) as ledger:
        released = sets.closeness(ledger)
    assert released is not None
    inpd, persd = found["variants"]
    # labels are aligned with their header, and those that cannot be are left out
    assert persd["similarity"] == pytest.approx(released.means["attempt_refinement"], abs=0.02)
    assert inpd["similarity"] == pytest.approx(released.means["attempt_direct"], abs=0.02)
    assert persd["similarity_interval"][0] > inpd["similarity_interval"][1]


def test_a_small_release(tmp_path: Path) -> None:
    write_release(tmp_path / "release")
    import_release(tmp_path / "release", tmp_path / "run", QUIET)
    (tested,) = analyze(tmp_path / "run", variants=["persd"])["labels"]["variants"]
    (whole,) = analyze(tmp_path / "run", variants=["persd"], untested=True)["labels"]["variants"]
    assert (tested["examples"], whole["examples"]) == (1, 2)


# -- the tables -------------------------------------------------------------------------------


def printed(found: Mapping[str, Any]) -> str:
    console = Console(width=80, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    print_analysis(console, found)
    return console.export_text()


def test_the_tables_fit_eighty_columns_and_hold_the_figures(ledger: Ledger) -> None:
    fill(ledger)
    many = {f"LongNameOfAnErrorOfSomebody{i}{HOSTILE}": 1 for i in range(12)}
    before, after = evaluation({**BEFORE, "m": many}), evaluation({**AFTER, "m": many}, "persd")
    labels = [Label("a", "same", "same", LabelScore(10, 5.0)), Label("b", "x", None)]
    text = printed(
        {
            "labels": {
                "student": "lab",
                "note": "",
                "rounds": [1],
                "variants": [label_closeness("persd-combined", labels)],
            },
            "attempts": [training_mistakes(ledger, 1)],
            "mistakes": [
                {"benchmark": "mbpp", "model": "persd", "round": 1, **mistakes(before, after)}
            ],
            "overlap": {"train_tasks": 0, "benchmarks": {}, "notes": {}},
        }
    )
    assert max(map(len, text.splitlines())) <= 80
    assert "0.500 (0.500–0.500)" in text
    assert "1 no attempt of persd-combined" in text
    assert "persd, round 1, mbpp (4 tasks)" in text
    assert "rarer outcomes not shown" in text
    assert "\x1b[31m" not in text
    assert "\u202e" not in text


def test_a_run_without_scores_says_so(run_dir: Path) -> None:
    with_student(run_dir, model="recorded")
    text = " ".join(printed(analyze(run_dir)).split())
    assert "No nats per token: a recorded student" in text
    assert "No scores of a trained student" in text


# -- the command ------------------------------------------------------------------------------


def test_the_command_prints_tables_or_json(run_dir: Path, tmp_path: Path) -> None:
    with_student(run_dir, model="recorded")
    told = persd("analyze", run_dir, "--variant", "persd", "--variant", "inpd", "--json")
    assert told.returncode == 0, told.stderr
    assert json.loads(told.stdout) == analyze(run_dir, variants=["persd", "inpd"])
    shown = persd("analyze", run_dir, "--variant", "persd", env={"COLUMNS": "80"})
    assert "Labels and the student's own attempts" in shown.stdout
    assert max(map(len, shown.stdout.splitlines())) <= 80
    assert "compare labels with attempts" not in shown.stdout
    assert "unknown variant" in mend(persd("analyze", run_dir, "--variant", "perzd"))
    assert "not a run" in mend(persd("analyze", tmp_path / "nothing"))
