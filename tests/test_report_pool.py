"""The pool in the report: every candidate in one place, what it cost, and what it looks like."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from persd import report
from persd.config import Config, to_json
from persd.export.card import about_run
from persd.ledger import Ledger
from persd.pool.difficulty import chosen, note
from persd.records import (
    CANDIDATE_STATES,
    Candidate,
    CandidateState,
    Completion,
    Proposal,
    Task,
    Test,
    Try,
    Usage,
)
from persd.report import pool, summary
from persd.report.money import money
from persd.report.tables import print_money
from report_run import HOSTILE, Page, a_call, a_task, fill

SERVED = {"endpoint": "https://example.org/v1"}


def a_candidate(number: int, place: int, state: CandidateState, **changes: Any) -> Candidate:
    name = f"c{number}-{place}"
    accepted = a_task(0, task_id=f"gen/{name}", reference="def f(x):\n    return x + 2\n")
    found = Candidate(
        candidate_id=name,
        call_id=f"task-{number}",
        number=number,
        place=place,
        state=state,
        detail="" if state == "accepted" else f"for {state}: {HOSTILE}",
        proposal=Proposal(f"Add two. {HOSTILE}", f"def f(x): pass  # {HOSTILE}", ("f(1)",)),
        task=replace(accepted, seen_tests=(Test("f(2)", "4"),)) if state == "accepted" else None,
        lineage={
            "origin": "seeds",
            "seeds": ["mbpp/601", HOSTILE],
            "topic": "sums" if place else f"words {HOSTILE}",
            "difficulty": "easy",
            "way": "",
            "parent": "",
            "model": "big",
            "call": f"task-{number}",
            "usd": 0.01,
        },
        position=2 * number + place,
    )
    return replace(found, **changes)


def paid_call(name: str, purpose: str, usd: float | None, task_id: str) -> Any:
    return a_call(
        name,
        usd,
        purpose=purpose,
        task_id=task_id,
        round=0,
        completion=Completion("x", usage=Usage(100, 10), usd=usd),
        versions=SERVED,
    )


def write_pool(ledger: Ledger) -> None:
    """Three replies of two candidates each, more calls for one of them, and a try in vain."""
    ledger.add_calls([paid_call(f"task-{n}", "task", 0.02, f"question {n}") for n in range(3)])
    ledger.add_calls([paid_call("calls-0", "calls", 0.005, "gen/weak")])
    lost = Try("task-3", 1.0, "teacher", "big", "task", "question 3", 0, 0.5, Usage(known=False))
    ledger.end_try(replace(lost, outcome="timeout"))
    ledger.add_candidates(
        [
            a_candidate(0, 0, "accepted"),
            a_candidate(0, 1, "near_duplicate"),
            a_candidate(1, 0, "no_task", proposal=Proposal("", HOSTILE + "x" * 50_000)),
            a_candidate(1, 1, "weak_tests", asked_again=True),
            a_candidate(2, 0, "accepted"),
            a_candidate(2, 1, "not_run"),
        ]
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As ``persd tasks generate`` leaves it: no config, no tasks, no rounds."""
    folder = tmp_path_factory.mktemp("pool") / "written"
    with Ledger(folder) as ledger:
        write_pool(ledger)
        ledger.set_meta("generate", json.dumps({"settings": {"count": 2, "seeds": "mbpp"}}))
    return folder


@pytest.fixture
def ledger(folder: Path) -> Iterator[Ledger]:
    with Ledger(folder, read_only=True) as opened:
        yield opened


@pytest.fixture(scope="module")
def page(folder: Path) -> Page:
    return Page(report.write(folder).read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def run_page(tmp_path_factory: pytest.TempPathFactory) -> Page:
    """A run that wrote its pool and chose it by difficulty."""
    folder = tmp_path_factory.mktemp("pool") / "run"
    with Ledger(folder) as ledger:
        fill(ledger, source="generate")
        write_pool(ledger)
        choose(ledger)
    return Page(report.write(folder).read_text(encoding="utf-8"))


def choose(ledger: Ledger) -> None:
    def tried(number: int, passed: int) -> Task:
        rate = {"student": HOSTILE, "samples": 4, "passed": passed, "truncated": number}
        return a_task(number, meta={"difficulty": rate})

    tasks = [tried(n, passed) for n, passed in enumerate([0, 1, 1, 2, 4])]
    found = chosen([*tasks, a_task(9)], "learnable", 3, HOSTILE)
    note(ledger, found, student=HOSTILE, samples=4, select="learnable")


# -- what is counted --------------------------------------------------------------------------


def test_every_state_has_a_meaning() -> None:
    assert set(pool.WORDS) == set(CANDIDATE_STATES)


def test_the_funnel_adds_up_and_says_what_a_task_cost(ledger: Ledger) -> None:
    found = pool.funnel(ledger)
    assert found is not None
    assert (found.questions, found.replies, found.asked_again) == (4, 3, 1)
    states = {e.state: e.count for e in found.endings}
    assert states == {
        "no_task": 1,
        "weak_tests": 1,
        "near_duplicate": 1,
        "not_run": 1,
        "accepted": 2,
    }
    assert list(states)[-1] == "accepted"
    assert states == ledger.count_candidates()
    assert found.paid.usd == pytest.approx(0.065)
    assert found.usd_per_accepted == pytest.approx(0.0325)
    assert found.usd_per_candidate == pytest.approx(0.065 / 6)
    assert found.usd_rejected == pytest.approx(0.03)
    assert found.paid.at_risk == 0.5
    totals = summary.totals(ledger)["pool"]
    assert totals == pool.totals(ledger)
    assert totals["states"] == states
    assert sum(totals["states"].values()) == totals["candidates"]


def test_a_price_that_is_not_known_makes_no_cost_smaller(tmp_path: Path) -> None:
    with Ledger(tmp_path / "r") as ledger:
        ledger.add_calls([paid_call("task-0", "task", None, "question 0")])
        good = a_candidate(0, 0, "accepted")
        ledger.add_candidates([replace(good, lineage={**good.lineage, "usd": None})])
        found = pool.funnel(ledger)
        assert found is not None
        assert (found.paid.usd, found.usd_per_accepted, found.endings[0].usd) == (None,) * 3
        assert "cost: unknown" in printed(ledger)


def test_a_ledger_without_a_pool_says_nothing_of_one(tmp_path: Path) -> None:
    with Ledger(tmp_path / "r") as ledger:
        fill(ledger)
        assert pool.funnel(ledger) is None
        assert printed(ledger) == ""
        assert "pool" not in summary.totals(ledger)
        assert 'id="pool"' not in report.render(ledger)


def test_acceptance_is_told_by_what_was_asked_for(ledger: Ledger) -> None:
    found = pool.slices(ledger)
    assert list(found) == ["topic"]  # all else was the same for all
    assert {s.name.split()[0]: (s.candidates, s.accepted) for s in found["topic"]} == {
        "sums": (3, 0),
        "words": (3, 2),
    }


def test_samples_are_of_every_reason_and_evenly_spaced(tmp_path: Path) -> None:
    with Ledger(tmp_path / "r") as ledger:
        ledger.add_candidates([a_candidate(n, 0, "accepted") for n in range(80)])
        ledger.add_candidates([a_candidate(n, 1, "silent") for n in range(9)])
        (good, of, shown), (bad, rejected, some) = pool.sample(ledger)
        assert (good, of, bad, rejected) == ("accepted", 80, "silent", 9)
        assert [s.candidate.number for s in shown] == list(range(0, 80, 10))
        assert [s.candidate.number for s in some] == [0, 3, 6]
        assert pool.sample(ledger) == pool.sample(ledger)


def test_a_twin_stands_beside_what_it_is_like(tmp_path: Path) -> None:
    twin = replace(a_candidate(1, 0, "near_duplicate"), detail="pool gen/c0-0: program 1.00 alike")
    seed = replace(a_candidate(2, 0, "near_duplicate"), detail="seeds 601: instruction 0.9 alike")
    known = replace(a_candidate(3, 0, "contaminated"), detail="mbpp 11: words 1.00 alike (x)")
    with Ledger(tmp_path / "r") as ledger:
        ledger.add_candidates([a_candidate(0, 0, "accepted"), twin, seed, known])
        ledger.add_tasks([a_task(0, task_id="11", instruction="Of the benchmark.")], "mbpp 0abc")
        like = [
            c.like.task_id if c.like else None
            for state, _, shown in pool.sample(ledger)
            if state != "accepted"
            for c in shown
        ]
        assert like == ["gen/c0-0", None, "11"]
        page = report.render(ledger)
    assert "What it is like: gen/c0-0" in page
    assert "Of the benchmark." in page


# -- the money --------------------------------------------------------------------------------


def test_writing_tasks_is_a_stage_of_the_money_and_every_usd_has_one_fate(ledger: Ledger) -> None:
    paid = money(ledger)
    assert [(s.stage, s.round, s.sum.usd_known) for s in paid.spending] == [
        ("calls", 0, 0.005),
        ("task", 0, 0.06),
    ]
    fates = {p.name: p.sum.usd_known for p in paid.fates}
    # the one reply without an accepted task is wasted, and so are the calls of a weak one
    assert fates == {"tasks": 0.04, "failed_task": 0.025, "retries": 0.0}
    assert paid.waste[0][:2] == ("failed_task", "several reasons")
    assert sum(fates.values()) == pytest.approx(paid.all.usd_known)
    assert paid.by_state == []
    assert paid.rounds == []


def test_questions_that_are_not_decided_are_open(tmp_path: Path) -> None:
    with Ledger(tmp_path / "r") as ledger:
        ledger.add_calls([paid_call(f"task-{n}", "task", 0.02, f"question {n}") for n in range(2)])
        ledger.add_candidates([a_candidate(1, 0, "not_run")])
        assert [(p.name, p.sum.calls) for p in money(ledger).fates] == [("open", 2)]


def test_more_calls_for_a_task_that_was_accepted_are_no_waste(tmp_path: Path) -> None:
    with Ledger(tmp_path / "r") as ledger:
        ledger.add_candidates([a_candidate(0, 0, "accepted")])
        ledger.add_calls([paid_call("calls-0", "calls", 0.005, "gen/c0-0")])
        assert [p.name for p in money(ledger).fates] == ["tasks"]


def printed(ledger: Ledger) -> str:
    out = io.StringIO()
    pool.print_pool(Console(file=out, width=80), ledger)
    return out.getvalue()


def test_the_terminal_shows_what_the_tasks_cost(ledger: Ledger) -> None:
    out = io.StringIO()
    print_money(Console(file=out, width=80), ledger)
    shown = out.getvalue() + printed(ledger)
    assert "task " in shown
    assert "calls" in shown
    assert "per accepted task: 0.0325 USD" in shown
    assert "6 candidates of 3 replies to 4 questions" in shown
    assert "near duplicate" in shown
    assert max(map(len, shown.splitlines())) <= 80
    assert re.search(r"near duplicate +1 +16\.7 %", shown)
    assert "beyond" not in shown


def test_what_was_accepted_beyond_the_count_is_told(tmp_path: Path) -> None:
    with Ledger(tmp_path / "r") as ledger:
        ledger.add_candidates([a_candidate(0, place, "accepted") for place in range(3)])
        ledger.set_meta("generate", json.dumps({"count": 2}))
        assert "of them beyond those that are wanted: 1" in printed(ledger)


# -- the page ---------------------------------------------------------------------------------


def test_a_folder_of_tasks_has_a_page_of_its_own(page: Page) -> None:
    assert page.open == []
    assert "written · persd tasks" in page.text
    ids = {a["id"] for _, a in page.tags if "id" in a}
    assert {"pool", "money"} <= ids
    assert not ids & {"scores", "attempts", "tasks", "teacher", "data"}
    links = {a["href"] for t, a in page.tags if t == "a"}
    assert links <= {f"#{i}" for i in ids}
    assert page.table("Config of the run")[1:] == [["count", "2"], ["seeds", '"mbpp"']]


def test_a_run_has_its_pool_before_its_rounds(run_page: Page) -> None:
    assert run_page.open == []
    ids = [a["id"] for _, a in run_page.tags if "id" in a]
    assert len(ids) == len(set(ids))
    assert ids.index("pool") < ids.index("tasks") < ids.index("attempts")


def test_the_page_shows_the_figures_of_the_funnel(page: Page) -> None:
    rows = page.table("6 candidates")
    shown = {r[0].split("|")[0].replace(" ", "_"): r[1:4] for r in rows[1:]}
    assert shown == {
        "no_task": ["1", "16.7 %", "0.0100 USD"],
        "weak_tests": ["1", "16.7 %", "0.0100 USD"],
        "near_duplicate": ["1", "16.7 %", "0.0100 USD"],
        "not_run": ["1", "16.7 %", "0.0100 USD"],
        "accepted": ["2", "33.3 %", "0.0200 USD"],
        "all": ["6", "100.0 %", ""],
    }
    bars = [a for t, a in page.tags if t == "rect" and "x" in a][:5]
    end = 0.0
    for bar in bars:
        assert float((bar["x"] or "").rstrip("%")) == pytest.approx(end, abs=0.01)
        end += float((bar["width"] or "").rstrip("%"))
    assert end == pytest.approx(100, abs=0.01)


def test_samples_are_shown_in_full_and_not_obeyed(page: Page) -> None:
    states = [a["data-candidate"] for t, a in page.tags if t == "article"]
    assert states == ["accepted"] * 2 + ["no_task", "weak_tests", "near_duplicate", "not_run"]
    for words in ("f(2) == 4", "f(1) == 3", "mbpp/601", "Written by", "for near_duplicate: "):
        assert words in page.text
    names = {tag for tag, _ in page.tags}
    assert not names & {"script", "img", "iframe", "link"}
    assert "<img src=http://x/ onerror=alert(1)>{{ 7*7 }}\\x1b[31m\\ud800" in page.text
    assert not set(page.source) & {"\x1b", "\u202e", "\x00"}
    assert "more characters are in the ledger" in page.text
    assert len(page.source) < 120_000


def test_the_page_shows_how_hard_the_tasks_are(run_page: Page) -> None:
    rates = {r[0]: r[1] for r in run_page.table("Pass rates")[1:]}
    assert rates == {"never": "1", "25.0 %": "2", "50.0 %": "1", "75.0 %": "0", "always": "1"}
    assert "left out as always solved: 1, by the limit: 2." in run_page.text
    assert "Samples that are part of no rate as truncated: 10." in run_page.text


def test_a_task_file_that_was_measured_has_a_page(tmp_path: Path) -> None:
    with Ledger(tmp_path / "r") as ledger:
        choose(ledger)
    page = Page(report.write(tmp_path / "r").read_text(encoding="utf-8"))
    assert "persd tasks" in page.text
    assert page.table("Pass rates")
    assert page.open == []


def test_the_same_ledger_gives_the_same_page(folder: Path, tmp_path: Path) -> None:
    one, two = (report.write(folder, tmp_path / n).read_bytes() for n in ("a.html", "b.html"))
    assert one == two


# -- the card of a data set -------------------------------------------------------------------


def a_config(**generate: Any) -> Config:
    return Config.model_validate(
        {
            "run": {"dir": "runs/x"},
            "tasks": {"source": "generate", "generate": {"count": 2, **generate}},
            "student": {"model": "student"},
            "teacher": {"model": "big", "base_url": "https://example.org/v1"},
            "evaluate": {"benchmarks": ["mbpp"]},
        }
    )


def test_the_card_says_who_wrote_the_tasks_and_what_they_were_screened_against(
    tmp_path: Path,
) -> None:
    with Ledger(tmp_path / "r") as ledger:
        write_pool(ledger)
        choose(ledger)
        config = a_config(seeds="/home/me/mine.jsonl", against=["humaneval", "/home/me/own.jsonl"])
        ledger.set_meta("config", to_json(config))
        text = about_run(ledger)
    rows = {
        cells[0]: cells[-1]
        for line in text.splitlines()
        if line.startswith("|") and (cells := [c.strip() for c in line.strip("|").split("|")])
    }
    assert rows["written by"] == "`big`"
    assert rows["shown as seeds"] == "tasks of `mine.jsonl`"
    assert rows["screened against"] == "`humaneval`, `own.jsonl`, `mbpp`"
    assert (rows["proposed tasks"], rows["accepted"]) == ("6", "2")
    assert (rows["near_duplicate"], rows["weak_tests"]) == ("1", "1")
    assert rows["cost of an accepted task"] == "0.0325 USD"
    assert (rows["left out as always solved"], rows["left out by the limit"]) == ("1", "2")
    assert "Held against `humaneval`, `own.jsonl` as they were written" in text
    assert "/home/me" not in text
    assert not set(text) & {"\x1b", "\u202e"}


def test_a_pool_that_was_read_has_no_such_part_on_its_card(tmp_path: Path) -> None:
    config = a_config().model_dump() | {"tasks": {"source": "jsonl", "path": "x.jsonl"}}
    with Ledger(tmp_path / "r") as ledger:
        ledger.set_meta("config", to_json(Config.model_validate(config)))
        text = about_run(ledger)
    assert "## The tasks" not in text
    assert "## Chosen by difficulty" not in text


@pytest.mark.parametrize(("author", "told"), [("lab", True), ("big", False)])
def test_tasks_that_the_embedded_teacher_wrote_are_no_evidence(
    tmp_path: Path, author: str, told: bool
) -> None:
    config = a_config().model_dump() | {"teacher": [{"model": author}]}
    with Ledger(tmp_path / "r") as ledger:
        ledger.set_meta("config", to_json(Config.model_validate(config)))
        assert summary.is_lab(ledger) is told
