"""An experiment's tables by hand-made counts: means over seeds, pairs, the paper beside them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from io import StringIO
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from persd.cli import app
from persd.experiment import page, tables
from persd.experiment.engine import Cell, Plan, score_file
from persd.experiment.grid import Arm, Grid, load_grid
from persd.experiment.paper import paper_score
from persd.experiment.results import arms_of, rows_of
from persd.ledger import Ledger
from persd.passk import pass_at_k
from persd.records import Evaluation

TEXT = """[experiment]
dir = "unset"
seeds = [0, 1]
variants = ["stand", "persd"]

[[student]]
name = "small"
model = "lab"

[tasks]
source = "mbpp"

[teacher]
model = "gpt-5-mini"

[evaluate]
benchmarks = ["humaneval"]
samples = 4
k = [1, 2]
steps = 2
"""
TASKS = ("a", "b", "c")


def grid_of(folder: Path, *overrides: str, text: str = TEXT) -> Grid:
    path = folder / "g.toml"
    path.write_text(text)
    return load_grid(path, [f'experiment.dir="{folder / "x"}"', *overrides])


def outcomes(passed: Sequence[int], samples: int = 4) -> dict[str, dict[str, int]]:
    """Of every task, how many samples pass; the others are wrong."""
    return {
        task: {"passed": n, "AssertionError": samples - n}
        for task, n in zip(TASKS, passed, strict=True)
    }


def scored(
    arm: Arm,
    found: Mapping[str, Mapping[str, int]],
    *,
    step: int = 1,
    control: Any = "",
    benchmark: str = "humaneval",
) -> Evaluation:
    return Evaluation(
        evaluation_id=f"{arm.key}{benchmark}{step}{control}",
        model=arm.name,
        round=0,
        benchmark=benchmark,
        step=step,
        tasks=len(TASKS),
        samples=4,
        pass_at_k={},
        interval={},
        control=control,
        calls=12,
        outcomes=found,
    )


#: By name and seed: of every task, how many of four samples pass at step 1.
PASSED: Mapping[str, Sequence[Sequence[int]]] = {
    "base": ((0, 1, 2), (1, 1, 2)),
    "stand": ((1, 1, 2), (1, 2, 2)),
    "persd": ((4, 2, 2), (4, 3, 1)),
}


def cell(grid: Grid, arm: Arm, benchmark: str = "humaneval") -> Cell:
    passed = PASSED[arm.name][arm.seed]
    later = [min(4, n + 1) for n in passed]
    found = (
        scored(arm, outcomes(passed), benchmark=benchmark),
        scored(arm, outcomes(later), step=2, benchmark=benchmark),
        scored(arm, outcomes(passed), step=2, control="resample", benchmark=benchmark),
    )
    examples = 100 + arm.seed if arm.variants else 0
    metrics = {"steps": 7.0, "first_loss": 2.0, "last_loss": 1.0, "seconds": 3.0}
    return Cell(Plan(arm, examples, usd=examples / 100), found, metrics if arm.variants else {})


def cells_of(grid: Grid, benchmark: str = "humaneval") -> list[Cell]:
    return [cell(grid, arm, benchmark) for arm in grid.arms()]


def find(rows: Sequence[dict[str, Any]], model: str, step: int = 1) -> dict[str, Any]:
    (row,) = [r for r in rows if (r["model"], r["step"]) == (model, step)]
    return row


def mean(runs: Sequence[Sequence[int]], k: int) -> float:
    return fmean(pass_at_k(4, n, k) for run in runs for n in run)


# ---- rows -------------------------------------------------------------------------------------


def test_a_row_is_the_mean_over_seeds(tmp_path: Path) -> None:
    grid = grid_of(tmp_path)
    rows = rows_of(grid, cells_of(grid))
    names = ["base", "base", "stand", "stand", "persd", "persd"]
    assert [r["model"] for r in rows] == names
    assert [r["step"] for r in rows] == [1, 2] * 3
    row = find(rows, "persd")
    for k in (1, 2):
        assert row["pass@k"][str(k)] == pytest.approx(mean(PASSED["persd"], k))
        low, high = row["interval"][str(k)]
        assert low <= row["pass@k"][str(k)] <= high
    assert (row["seeds"], row["examples"], row["optimizer_steps"]) == ([0, 1], 100.5, 7.0)
    assert row["usd"] == pytest.approx(1.005)
    assert (row["tasks"], row["samples"], row["calls"]) == (3, 4, 24)
    assert row["outcomes"] == {"passed": 16, "AssertionError": 8}
    assert (row["truncated"], row["not_run"], row["left_out"]) == (0, 0, {"1": 0, "2": 0})


def test_differences_are_paired_by_seed_and_task(tmp_path: Path) -> None:
    grid = grid_of(tmp_path)
    rows = rows_of(grid, cells_of(grid))
    row = find(rows, "persd")
    for key, other in (("less_base", "base"), ("less_reference", "stand")):
        less = mean(PASSED["persd"], 1) - mean(PASSED[other], 1)
        assert row[key]["1"]["value"] == pytest.approx(less)
        low, high = row[key]["1"]["interval"]
        assert row[key]["1"]["clear"] == (low > 0 or high < 0)
    assert row["reference"] == "stand"
    assert "reference" not in find(rows, "stand")
    assert not {"less_base", "less_reference"} & find(rows, "base").keys()
    later = find(rows, "persd", 2)
    assert later["resample"]["pass@k"]["1"] == pytest.approx(mean(PASSED["persd"], 1))
    gain = later["pass@k"]["1"] - later["resample"]["pass@k"]["1"]
    assert later["less_resample"]["1"]["value"] == pytest.approx(gain)
    assert "resample" not in row


def test_a_base_that_is_scored_once_is_compared_with_every_seed(tmp_path: Path) -> None:
    grid = grid_of(tmp_path, "evaluate.seed=5")
    assert [a.seed for a in grid.arms() if not a.variants] == [0]
    row = find(rows_of(grid, cells_of(grid)), "persd")
    once = [PASSED["base"][0]] * 2
    assert row["less_base"]["1"]["value"] == pytest.approx(mean(PASSED["persd"], 1) - mean(once, 1))


def test_a_seed_that_could_not_be_run_is_paired_with_nothing(tmp_path: Path) -> None:
    grid = grid_of(tmp_path)
    cells = cells_of(grid)
    place = next(i for i, c in enumerate(cells) if c.plan.arm.name == "stand")
    cells[place] = Cell(Plan(cells[place].plan.arm, skipped="no money"))
    rows = rows_of(grid, cells)
    assert find(rows, "stand")["seeds"] == [1]
    row = find(rows, "persd")
    alone = mean(PASSED["persd"][1:], 1) - mean(PASSED["stand"][1:], 1)
    assert row["less_reference"]["1"]["value"] == pytest.approx(alone)
    (stand,) = [a for a in arms_of(grid, cells) if a["model"] == "stand"]
    assert (stand["seeds"], stand["skipped"]) == ([1], ["seed 0: no money"])


def test_what_is_part_of_no_score_is_counted_apart(tmp_path: Path) -> None:
    grid = grid_of(tmp_path, "experiment.seeds=[0]")
    (arm,) = [a for a in grid.arms() if a.name == "persd"]
    found = {
        "a": {"passed": 2, "truncated": 2},
        "b": {"not_run": 3, "AssertionError": 1},
        "c": {"passed": 4},
    }
    (row,) = rows_of(grid, [Cell(Plan(arm, 9), (scored(arm, found),))])
    assert (row["truncated"], row["not_run"]) == (2, 3)
    assert row["left_out"] == {"1": 0, "2": 1}
    assert row["pass@k"]["1"] == pytest.approx((1 + 0 + 1) / 3)
    assert row["pass@k"]["2"] == pytest.approx(1.0)
    assert row["truncated_as_wrong"]["1"] == pytest.approx((0.5 + 0 + 1) / 3)
    said = tables.apart([row])
    assert any("2 truncated" in line and "3 not run" in line for line in said)


@pytest.mark.parametrize(
    ("overrides", "extra", "arm", "reference"),
    [
        (['experiment.rounds=["1", "2"]'], "", "persd round 2", "persd"),
        (["experiment.feedback=[true, false]"], "", "persd, no feedback", "persd"),
        (["experiment.variants=['stand+persd', 'persd']"], "", "stand+persd", "persd"),
        ([], 'match = { size = "persd" }\nvariant = "stand"', "stand, size of persd", "persd"),
        ([], 'size = 0.5\nvariant = "persd"', "persd 50 %", "stand"),
    ],
)
def test_the_row_that_a_row_is_held_against(
    tmp_path: Path, overrides: list[str], extra: str, arm: str, reference: str
) -> None:
    text = TEXT + (f"\n[[arm]]\n{extra}\n" if extra else "")
    grid = grid_of(tmp_path, *overrides, text=text)
    cells = [Cell(Plan(a, 9), (scored(a, outcomes((1, 2, 3))),)) for a in grid.arms()]
    assert find(rows_of(grid, cells), arm)["reference"] == reference


def test_the_papers_figures_stand_beside_rows_that_repeat_its_own(tmp_path: Path) -> None:
    grid = grid_of(tmp_path, text=TEXT + '\n[[arm]]\nvariant = "persd"\nsize = 0.5\n')
    arms = grid.arms()
    cells = [Cell(Plan(a, 9), (scored(a, outcomes((1, 2, 3))),)) for a in arms]
    rows = rows_of(grid, cells)
    # the paper gives pass@1, and no pass@2
    assert find(rows, "persd")["paper"] == {"1": paper_score("persd", "humaneval", 1, 1)}
    assert find(rows, "persd")["paper_examples"] == 3300
    assert "paper" not in find(rows, "persd 50 %")
    assert "paper" not in find(rows, "base")
    other = [Cell(Plan(a, 9), (scored(a, outcomes((1, 2, 3)), benchmark="lab"),)) for a in arms]
    lab = grid_of(tmp_path, 'evaluate.benchmarks=["lab"]')
    assert not any("paper" in row for row in rows_of(lab, other))


# ---- in the terminal --------------------------------------------------------------------------


def found_of(grid: Grid, cells: Sequence[Cell]) -> dict[str, Any]:
    for collection in grid.collections():
        Ledger(Path(grid.config(collection).run.dir)).close()
    return page.results(grid, cells, 12.3, grid.dir / page.REPORT)


def printed(found: Mapping[str, Any]) -> str:
    console = Console(file=StringIO(), width=200, highlight=False)
    tables.print_results(console, found)
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


def test_the_tables_fit_eighty_columns(tmp_path: Path) -> None:
    long = '\n[[arm]]\nvariant = "stand"\nmatch = { steps = "persd" }\ntrain = { lr = 1e-4 }\n'
    grid = grid_of(tmp_path, "evaluate.samples=20", "evaluate.k=[1, 2, 3, 4]", text=TEXT + long)
    cells = [Cell(Plan(a, 9999), (scored(a, outcomes((1, 2, 3))),)) for a in grid.arms()]
    found = found_of(grid, cells)
    lines = [line for t in tables.score_tables(found["rows"]) for line in rendered(t)]
    lines += [line for t in tables.compared_tables(found["rows"]) for line in rendered(t)]
    assert max(map(len, lines)) <= 80
    text = "\n".join(lines)
    assert all(f"pass@{k}" in text for k in (1, 2, 3, 4))
    assert text.count("paper") >= 1
    assert "34.6" in text  # the paper's own pass@1 of persd


def rendered(table: Any) -> list[str]:
    console = Console(file=StringIO(), width=200)
    console.print(table)
    text: str = console.file.getvalue()  # type: ignore[attr-defined]
    return [line.rstrip() for line in text.splitlines()]


def test_scores_stand_in_the_papers_order_with_the_control_below(tmp_path: Path) -> None:
    grid = grid_of(tmp_path)
    text = printed(found_of(grid, cells_of(grid)))
    rows = re.findall(r"^ (base|stand|persd|  resample) +(\d) ", text, re.M)
    assert rows[3:12] == [  # after what was trained
        (name, step)
        for model in ("base", "stand", "persd")
        for name, step in ((model, "1"), (model, "2"), ("  resample", "2"))
    ]
    assert "narrower than the truth" in text
    assert "CodeGen-mono-6B" in text
    assert "no evidence" not in text


def test_one_seed_says_nothing_of_another_training(tmp_path: Path) -> None:
    grid = grid_of(tmp_path, "experiment.seeds=[0]")
    text = " ".join(printed(found_of(grid, cells_of(grid))).split())
    assert "of one seed" in text
    assert "mean over seeds, with" not in text


def test_toy_tasks_are_no_evidence_and_a_skipped_row_says_why(tmp_path: Path) -> None:
    grid = grid_of(tmp_path, 'tasks.source="lab"', 'evaluate.benchmarks=["lab"]')
    cells = cells_of(grid, "lab")
    cells[-2:] = [Cell(Plan(c.plan.arm, skipped="its sets hold no example")) for c in cells[-2:]]
    found = found_of(grid, cells)
    text = " ".join(printed(found).split())
    assert "no evidence for the paper's claim" in text
    assert "persd: not run: its sets hold no example" in text
    assert (found["arms"], found["skipped"]) == (6, 2)


# ---- the files --------------------------------------------------------------------------------


def test_the_report_is_one_file_and_escapes_what_others_wrote(tmp_path: Path) -> None:
    evil = '<script>alert("x")</script>'
    grid = grid_of(tmp_path, f"teacher.model='{evil}'")
    cells = cells_of(grid)
    plan = Plan(cells[-1].plan.arm, skipped=f"why {evil}")
    cells[-1] = Cell(plan)
    found = found_of(grid, cells)
    text = page.write_report(grid, cells, found).read_text()
    assert "<script" not in text
    assert "&lt;script&gt;" in text
    assert not re.search(r'(src|href)="(?!#)', text)
    assert "default-src 'none'" in text
    assert text.count('role="img"') == 2  # a picture a k
    assert "why &lt;script" in text
    for row in found["rows"]:
        assert f"{100 * row['pass@k']['1']:.1f}" in text


def test_the_results_are_plain_json(tmp_path: Path) -> None:
    grid = grid_of(tmp_path)
    found = found_of(grid, cells_of(grid))
    path = page.write_results(grid, found)
    assert path == grid.dir / "results.json"
    told = json.loads(path.read_text())
    assert told == found
    assert {"rows", "arms", "seconds", "usd", "report", "dir"} <= told.keys()
    assert told["usd"] == 0


def test_a_dry_run_tells_what_is_done_and_does_nothing(tmp_path: Path) -> None:
    grid = grid_of(
        tmp_path,
        'tasks={source="lab", limit=6}',
        "teacher={model='lab', direct='ask', price={input=1.0, output=2.0}, budget_usd=0.5}",
    )
    done = score_file(grid, grid.arms()[0])
    done.parent.mkdir(parents=True)
    done.write_text("{}")
    found = page.dry_run(grid)
    assert (found["arms"], found["done"]) == (6, 1)
    assert [(r["model"], r["seeds"], r["done"]) for r in found["rows"]] == [
        ("base", 2, 1),
        ("stand", 2, 0),
        ("persd", 2, 0),
    ]
    assert [c["name"] for c in found["collections"]] == ["small-seed0", "small-seed1"]
    for collection in found["collections"]:
        assert (collection["tasks"], collection["tasks_finished"]) == (6, 0)
        assert collection["calls_at_most"] >= 2 * 6  # a direct answer and a repair each
        assert collection["usd_at_most"] > 0
    assert found["usd_at_most"] <= 0.5
    assert not (grid.dir / "collect").exists()


def test_the_command_prints_its_plan(tmp_path: Path) -> None:
    path = tmp_path / "g.toml"
    path.write_text(TEXT.replace('source = "mbpp"', 'source = "lab"\nlimit = 5'))
    lab = ["--set", 'teacher.model="lab"', "--set", f'experiment.dir="{tmp_path / "x"}"']
    shown = CliRunner().invoke(app, ["experiment", str(path), "--dry-run", *lab])
    assert shown.exit_code == 0, shown.output
    assert "6 arms, 0 of them done" in shown.output
    told = CliRunner().invoke(app, ["experiment", str(path), "--dry-run", "--json", *lab])
    assert json.loads(told.stdout)["arms"] == 6
    assert not (tmp_path / "x").exists()
