"""A grid is run once, goes on where it was broken off, and its arms are what the others decide."""

from __future__ import annotations

import os
import pickle
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from persd.config import TrainTable
from persd.errors import UserError, WorkFailed
from persd.experiment import engine
from persd.experiment.engine import (
    Cell,
    Plan,
    Pool,
    cell_folder,
    collect_one,
    drawn,
    examples_of,
    plan,
    run_cell,
    run_grid,
    score_file,
    steps_of,
    trained_on,
)
from persd.experiment.grid import Collection, Grid, load_grid
from persd.ledger import Ledger
from persd.progress import Progress
from persd.records import Call, Completion, Evaluation, Example
from persd.train import of_run

TINY = """[experiment]
dir = "unset"
seeds = [0, 1]
variants = ["stand", "persd"]

[[student]]
name = "lab"
model = "lab"
max_tokens = 128
batch = 64

[tasks]
source = "lab"
limit = 8

[teacher]
model = "lab"
direct = "ask"
price = { input = 0.25, output = 2.0 }

[train]
epochs = 1
lr = 1e-4
max_length = 512

[evaluate]
benchmarks = ["lab"]
limit = 4
samples = 2
k = [1, 2]
steps = 2
temperature = 0.3
max_tokens = 128

[verify]
timeout = 0.5
memory_mb = 128
"""


def tiny(folder: Path, *overrides: str, text: str = TINY) -> Grid:
    path = folder / "g.toml"
    path.write_text(text)
    return load_grid(path, [f'experiment.dir="{folder / "x"}"', *overrides])


class Heard(Progress):
    """Remembers what it is told."""

    def __init__(self) -> None:
        self.stages: list[tuple[str, int | None]] = []
        self.steps = 0
        self.said: list[str] = []

    def stage(self, name: str, total: int | None) -> None:
        self.stages.append((name, total))

    def step(self, units: int = 1, **counts: int) -> None:
        self.steps += units

    def say(self, text: str) -> None:
        self.said.append(text)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Grid, list[Cell], Heard]:
    grid, heard = tiny(tmp_path_factory.mktemp("grid")), Heard()
    return grid, run_grid(grid, progress=heard), heard


def timeless(evaluation: Evaluation) -> Evaluation:
    return replace(evaluation, seconds=0.0)


def figures(cells: list[Cell]) -> dict[tuple[str, int], Any]:
    """All of the cells that is no time."""
    found = {}
    for cell in cells:
        metrics = {k: v for k, v in cell.metrics.items() if "second" not in k}
        scores = [timeless(e) for e in cell.evaluations]
        found[cell.plan.arm.name, cell.plan.arm.seed] = (cell.plan, metrics, scores)
    return found


def calls(grid: Grid) -> int:
    """Answers in all of an experiment's ledgers."""
    total = 0
    for path in grid.dir.glob("*/*/ledger.sqlite"):
        with Ledger(path.parent, read_only=True) as ledger:
            total += ledger.query("SELECT COUNT(*) AS n FROM calls")[0]["n"]
    assert total, "a ledger has another name now"
    return total


# ---- the whole --------------------------------------------------------------------------------


def test_every_arm_is_trained_and_scored(done: tuple[Grid, list[Cell], Heard]) -> None:
    grid, cells, heard = done
    assert [c.plan.arm for c in cells] == grid.arms()
    for cell in cells:
        stages = [(e.step, e.control) for e in cell.evaluations]
        assert stages == [(1, ""), (2, ""), (2, "resample")]
        assert all(sum(e.statuses.values()) == 4 * 2 for e in cell.evaluations)
        arm, metrics = cell.plan.arm, cell.metrics
        assert bool(arm.variants) == bool(metrics)
        if arm.variants:
            assert metrics["examples"] == cell.plan.examples == len(examples_of(grid, arm))
            settings = TrainTable(epochs=1, batch_size=16)
            assert metrics["steps"] == steps_of(cell.plan.examples, settings)
    assert heard.stages == [("collections", 2), ("arms", 6)]
    assert heard.steps == 2 + 6
    assert [s.partition(":")[0] for s in heard.said] == ["lab-seed0", "lab-seed1"]


def test_what_is_mixed_in_stands_beside_the_examples_that_were_drawn(
    done: tuple[Grid, list[Cell], Heard],
) -> None:
    grid, cells, _ = done
    planned = next(c.plan for c in cells if c.plan.arm.name == "persd")
    own = trained_on(grid, planned)
    mix = {"mix": [{"source": "stand", "share": 0.3}]}
    mixed = trained_on(grid, replace(planned, arm=replace(planned.arm, train=mix)))
    assert len(own) == planned.examples
    assert mixed[: len(own)] == own
    assert {e.variant for e in mixed[len(own) :]} == {"stand"}
    assert abs(len(mixed) - len(own) / 0.7) <= 1


def test_standard_examples_cost_less_than_personal_ones(
    done: tuple[Grid, list[Cell], Heard],
) -> None:
    _, cells, _ = done
    for seed in (0, 1):
        usd = {c.plan.arm.name: c.plan.usd for c in cells if c.plan.arm.seed == seed}
        assert usd["base"] == 0.0
        assert (
            0 < (usd["stand"] or 0) < (usd["persd"] or 0)
        )  # the repairs come on top of the direct answers


def test_run_again_it_does_nothing(done: tuple[Grid, list[Cell], Heard]) -> None:
    grid, cells, _ = done
    files = sorted(grid.dir.glob("cells/*/cell-*.json"))
    before = [f.stat().st_mtime_ns for f in files], calls(grid)
    assert len(files) == len(cells)
    assert figures(run_grid(grid)) == figures(cells)
    assert ([f.stat().st_mtime_ns for f in files], calls(grid)) == before


def test_a_cell_that_was_broken_off_is_made_again_of_what_is_there(
    done: tuple[Grid, list[Cell], Heard],
) -> None:
    grid, cells, _ = done
    before = calls(grid)
    path = score_file(grid, cells[0].plan.arm)
    path.write_text(path.read_text()[:100])
    assert figures([run_cell(grid, cells[0].plan)]) == figures(cells[:1])
    assert calls(grid) == before


def test_interrupted_with_two_workers_it_goes_on_to_the_same_figures(
    tmp_path: Path, done: tuple[Grid, list[Cell], Heard]
) -> None:
    grid = tiny(tmp_path, "experiment.seeds=[0]")
    wanted = [c for c in done[1] if c.plan.arm.seed == 0]
    command = [sys.executable, "-m", "persd.cli", "experiment", str(tmp_path / "g.toml")]
    command += ["--workers", "2", "--set", f'experiment.dir="{grid.dir}"']
    command += ["--set", "experiment.seeds=[0]"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        wait_for(lambda: any(grid.dir.glob("cells/*/cell-*.json")), process)
        workers = children_of(process.pid)
        os.kill(process.pid, signal.SIGINT)  # the process alone: it has to end the others
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert (process.returncode, out) == (130, "")
    last = "persd: interrupted; what is done is kept, run it again to go on"
    assert (err.splitlines()[-1], "Traceback" in err) == (last, False)
    wait_for(lambda: not any(is_alive(pid) for pid in workers))
    kept = {f: f.stat().st_mtime_ns for f in grid.dir.glob("cells/*/cell-*.json")}
    assert 0 < len(kept) < len(wanted)
    assert figures(run_grid(grid, workers=2)) == figures(wanted)
    assert {f: f.stat().st_mtime_ns for f in kept} == kept


def wait_for(holds: Any, process: subprocess.Popen[str] | None = None) -> None:
    for _ in range(1200):
        if holds():
            return
        if process is not None and process.poll() is not None:
            break
        time.sleep(0.05)
    raise AssertionError(process.communicate() if process else "it never came")


def children_of(pid: int) -> list[int]:
    """Processes that a process started, by Linux's /proc; none known elsewhere."""
    found: list[int] = []
    for path in Path("/proc").glob(f"{pid}/task/*/children"):
        found += map(int, path.read_text().split())
    return found


def is_alive(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def test_a_failing_arm_is_named_and_what_is_done_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    overrides = ["experiment.seeds=[0]", 'experiment.variants=["persd"]']
    grid = tiny(tmp_path, *overrides)

    def fails(*_: Any, **__: Any) -> Any:
        raise UserError("the disk is full", where="there", hint="make room")

    with monkeypatch.context() as patch:
        patch.setattr(of_run, "train", fails)
        with pytest.raises(UserError, match="arm persd of lab, seed 0: the disk is full") as told:
            run_grid(grid)
    assert (told.value.where, told.value.hint) == ("there", "make room")
    base, persd = grid.arms()
    assert score_file(grid, base).is_file()
    assert not score_file(grid, persd).is_file()
    assert [c.plan.arm for c in run_grid(grid)] == [base, persd]

    # other scores are asked for: what was trained is not trained again
    manifest = cell_folder(grid, persd) / "checkpoint" / "manifest.json"
    before = manifest.stat().st_mtime_ns
    other = tiny(tmp_path, *overrides, "evaluate.samples=3", "evaluate.k=[3]")
    cells = run_grid(other)
    assert [{e.samples for e in c.evaluations} for c in cells] == [{3}, {3}]
    assert [set(e.pass_at_k) for c in cells for e in c.evaluations] == [{"3"}] * 6
    assert manifest.stat().st_mtime_ns == before


def test_what_is_not_there_to_be_scored_on_is_told_before_anything_is_done(
    tmp_path: Path,
) -> None:
    for overrides, what in (
        (["evaluate.benchmarks=[]"], "evaluate.benchmarks is empty"),
        (['evaluate.benchmarks=["humanevil"]'], "humanevil"),
        (['evaluate.benchmarks=["mbpp"]', 'evaluate.data={mbpp="gone.jsonl"}'], "gone.jsonl"),
    ):
        grid = tiny(tmp_path, *overrides)
        with pytest.raises(UserError, match=what):
            run_grid(grid)
        assert not grid.dir.exists()


# ---- processes --------------------------------------------------------------------------------


def _half(number: int) -> int:
    if number < 0:
        raise UserError(f"{number} is too small", hint="say more")
    return number // 2


def test_after_an_error_what_is_under_way_is_finished() -> None:
    for workers in (1, 2):
        with Pool(workers) as pool:
            assert sorted(pool.each(_half, [2, 4, 6])) == [1, 2, 3]
            with pytest.raises(UserError, match=r"-1 is too small\. say more"):
                list(pool.each(_half, [8, -1]))


def _dies(number: int) -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return number


def test_a_killed_process_is_told_in_words() -> None:
    with pytest.raises(WorkFailed, match="fewer --workers"), Pool(2) as pool:
        list(pool.each(_dies, [1]))


def test_an_error_reaches_another_process_whole() -> None:
    error = pickle.loads(pickle.dumps(UserError("what", where="f:1", hint="how")))  # noqa: S301 (ours)
    assert (error.what, error.where, error.hint) == ("what", "f:1", "how")
    assert error.one_line() == str(error) == "f:1: what. how"


# ---- what the arms decide about each other ----------------------------------------------------

MATCHED = (
    TINY
    + """
[[arm]]
variant = "stand"
match = { size = "persd" }
[[arm]]
variant = "stand"
match = { usd = "persd" }
[[arm]]
variant = "persd"
match = { usd = "stand" }
[[arm]]
variant = "persd"
match = { steps = "stand" }
[[arm]]
variant = "stand"
match = { steps = "persd" }
[[arm]]
variant = "persd"
size = 0.5
[[arm]]
variant = "persd"
size = 60
[[arm]]
variant = "persd"
equal = "steps"
"""
)


def example(number: int) -> Example:
    return Example(f"e{number}", "v", f"t{number}", 1, f"p{number}", "c", "task")


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """How many examples each variant is said to have: 100 of StanD, 40 of PERsD."""
    counts = {"stand": 100, "persd": 40}

    def of(grid: Grid, arm: Any) -> list[Example]:
        return [example(i) for i in range(sum(counts[v] for v in arm.variants))]

    monkeypatch.setattr(engine, "examples_of", of)
    return counts


def paid(grid: Grid, direct: float | None, repairs: float) -> None:
    """A collection's ledger in which ten direct answers and ten repairs cost that in all."""
    (collection,) = grid.collections()
    with Ledger(Path(grid.config(collection).run.dir)) as ledger:
        for purpose, usd in (("direct", direct), ("refinement", repairs)):
            for i in range(10):
                done = Completion("text", usd=None if usd is None else usd / 10)
                name = f"{purpose}{i}"
                ledger.add_calls([Call(name, "teacher", "lab", purpose, name, 1, (), {}, done)])


def planned(folder: Path, *overrides: str, text: str = MATCHED, **usd: float | None) -> Any:
    grid = tiny(folder, "experiment.seeds=[0]", *overrides, text=text)
    paid(grid, usd.get("direct", 1.0), 3.0)
    return {p.arm.name: p for p in plan(grid)}


def test_sizes_and_matches_by_hand(tmp_path: Path, counted: dict[str, int]) -> None:
    plans = planned(tmp_path)
    sizes = {name: p.examples for name, p in plans.items()}
    assert sizes == {
        "base": 0,
        "stand": 100,
        "stand, size of persd": 40,
        "stand, money of persd": 100,  # 4.00 USD buy 400, and there are 100
        "stand, steps of persd": 100,
        "persd": 40,
        "persd 50 %": 20,
        "persd on 60": 40,
        "persd, money of stand": 10,  # 1.00 USD at 4.00 / 40 each
        "persd, steps of stand": 40,
        "persd, equal steps": 40,
    }
    assert plans["stand, money of persd"].note == "only 100 there"
    assert plans["persd on 60"].note == "only 40 there"
    assert plans["persd, money of stand"].note == "for 1.0000 USD"
    usd = {name: p.usd for name, p in plans.items()}
    assert usd["stand"] == pytest.approx(1.0)
    assert usd["persd"] == pytest.approx(4.0)
    assert usd["persd 50 %"] == pytest.approx(2.0)
    assert usd["persd, money of stand"] == pytest.approx(1.0)
    # 100 rows are 7 batches of 16, 40 are 3; an epoch each
    steps = {name: p.max_steps for name, p in plans.items() if p.max_steps is not None}
    assert steps == {
        "stand, steps of persd": 3,
        "persd, steps of stand": 7,
        "persd, equal steps": 7,
    }


def test_money_that_is_not_known_matches_nothing(tmp_path: Path, counted: dict[str, int]) -> None:
    plans = planned(tmp_path, direct=None)
    for name in ("stand, money of persd", "persd, money of stand"):
        assert plans[name].skipped == "cannot be matched in money: a price is unknown"
    assert plans["stand"].usd is None
    assert not plans["stand"].skipped


def test_examples_that_cost_nothing_match_no_money(tmp_path: Path, counted: dict[str, int]) -> None:
    plans = planned(tmp_path, direct=0.0)
    assert "cost nothing" in plans["stand, money of persd"].skipped


def test_what_is_matched_to_nothing_is_skipped_with_why(
    tmp_path: Path, counted: dict[str, int]
) -> None:
    counted["persd"] = 0
    plans = planned(tmp_path)
    assert plans["persd"].skipped == "its sets hold no example"
    for kind in ("size", "money", "steps"):
        said = plans[f"stand, {kind} of persd"].skipped
        assert said.startswith("persd, which it is matched to, cannot be run: its sets hold no")
    grid = tiny(tmp_path, "experiment.seeds=[0]", text=MATCHED)
    skipped = plans["stand, size of persd"]
    assert run_cell(grid, skipped) == Cell(skipped)
    assert not (grid.dir / "cells").exists()


@given(
    count=st.integers(0, 30),
    seed=st.integers(0, 3),
    sizes=st.tuples(st.integers(0, 35), st.integers(0, 35)),
)
def test_a_smaller_draw_is_part_of_a_larger(count: int, seed: int, sizes: tuple[int, int]) -> None:
    examples = [example(i) for i in range(count)]
    small, large = (drawn(examples, size, seed) for size in sorted(sizes))
    assert len(small) == min(count, min(sizes))
    assert [e for e in large if e in small] == small
    assert [e for e in examples if e in large] == large


# ---- what the collections share ---------------------------------------------------------------


def collected(grid: Grid) -> Iterator[tuple[Collection, Path]]:
    for collection in grid.collections():
        collect_one((grid, collection), unsafe=False, workers=1)
        yield collection, Path(grid.config(collection).run.dir)


def teacher_calls(folder: Path, purpose: str) -> dict[str, tuple[str, float, float]]:
    """Call id: the prompt, what it cost where it was paid, what it costs here."""
    sql = "SELECT call_id, usd FROM calls WHERE role = 'teacher' AND purpose = ?"
    with Ledger(folder, read_only=True) as ledger:
        here = {row["call_id"]: row["usd"] for row in ledger.query(sql, (purpose,))}
        found = {}
        for call_id, usd in here.items():
            call = ledger.call(call_id)
            assert call is not None
            assert call.completion.usd is not None
            text = "\n".join(m.content for m in call.messages)
            found[call_id] = text, call.completion.usd, usd
    return found


#: As the feedback of the judge looks in a prompt.
FEEDBACK = re.compile(r"^ERROR: \w+|^EXPECTED: ", re.M)


def test_an_ablation_pays_for_its_own_questions_only_and_tells_nobody_the_feedback(
    tmp_path: Path,
) -> None:
    grid = tiny(
        tmp_path,
        "experiment.seeds=[0]",
        'experiment.variants=["stand", "persd-refine"]',
        "experiment.feedback=[true, false]",
    )
    (_, told), (_, blind) = collected(grid)
    paid, free = teacher_calls(told, "direct"), teacher_calls(blind, "direct")
    assert len(paid) == 8
    assert {i: text for i, (text, *_) in paid.items()} == {i: t for i, (t, *_) in free.items()}
    assert all(usd == here > 0 for _, usd, here in paid.values())
    assert all(usd > 0 and here == 0.0 for _, usd, here in free.values())
    with Ledger(told, read_only=True) as one, Ledger(blind, read_only=True) as other:
        attempts = [{s.solution_id for s in x.solutions(kind="attempt")} for x in (one, other)]
    assert attempts[0] == attempts[1]

    repairs = [teacher_calls(folder, "refinement") for folder in (told, blind)]
    assert all(repairs)
    assert all(FEEDBACK.search(text) for text, *_ in repairs[0].values())
    assert not any(FEEDBACK.search(text) for text, *_ in repairs[1].values())
    assert all(usd == here for _, usd, here in repairs[1].values())

    by_feedback = {a.feedback: examples_of(grid, a) for a in grid.arms() if "persd" in a.name}
    assert len(by_feedback[True]) == len(by_feedback[False]) > 0
    assert all(FEEDBACK.search(e.prompt) for e in by_feedback[True])
    assert not any(FEEDBACK.search(e.prompt) for e in by_feedback[False])

    plans = {p.arm.name: p for p in plan(grid)}
    assert plans["stand"].usd == plans["stand, no feedback"].usd  # whoever was asked first


def test_a_student_that_is_told_nothing_sees_no_feedback_at_its_second_step(
    tmp_path: Path,
) -> None:
    grid = tiny(
        tmp_path,
        "experiment.seeds=[0]",
        'experiment.variants=["persd"]',
        "experiment.feedback=[true, false]",
    )
    for arm in [a for a in grid.arms() if not a.variants]:
        run_cell(grid, Plan(arm))
        with Ledger(cell_folder(grid, arm), read_only=True) as ledger:
            repaired = [s for s in ledger.solutions(kind="attempt") if s.parent is not None]
            asked = [ledger.call(s.call_id or "") for s in repaired]
        assert asked, "the second step asked nothing"
        prompts = [call.messages[0].content for call in asked if call is not None]
        assert [bool(FEEDBACK.search(text)) for text in prompts] == [arm.feedback] * len(asked)


def test_examples_of_another_student(tmp_path: Path) -> None:
    warm = '[[student]]\nname = "warm"\nmodel = "lab"\ntemperature = 1.2\nmax_tokens = 128\n'
    grid = tiny(
        tmp_path,
        "experiment.seeds=[0]",
        'experiment.variants=["persd"]',
        'experiment.data_of=["own", "warm"]',
        text=TINY.replace("[tasks]", f"{warm}\n[tasks]"),
    )
    folders = {c.student: folder for c, folder in collected(grid)}
    assert set(folders) == {"lab", "warm"}
    attempts = {}
    for student, folder in folders.items():
        with Ledger(folder, read_only=True) as ledger:
            attempts[student] = {s.solution_id for s in ledger.solutions(kind="attempt")}
    assert not attempts["lab"] & attempts["warm"]
    arms = {a.name: a for a in grid.arms() if a.student == "lab" and a.variants}
    own, theirs = (examples_of(grid, arms[n]) for n in ("persd", "persd of warm"))
    assert own
    assert theirs
    assert {e.attempt_id for e in own} <= attempts["lab"]
    assert {e.attempt_id for e in theirs} <= attempts["warm"]


def test_the_cap_is_the_experiments_and_not_a_collections(tmp_path: Path) -> None:
    cap = 0.02
    grid = tiny(
        tmp_path,
        'experiment.variants=["persd"]',
        f"teacher.budget_usd={cap}",
        "teacher.max_tokens=64",
        "teacher.price={input=1.0, output=20.0}",
    )
    spent = []
    for _, folder in collected(grid):
        with Ledger(folder, read_only=True) as ledger:
            spent.append(ledger.spent(role="teacher"))
            states = {s.state for s in ledger.states(1).values()}
    assert "over_budget" in states
    assert 0 < sum(spent) <= cap
    assert spent[0] > cap / 2  # so that two such would be more than there is
