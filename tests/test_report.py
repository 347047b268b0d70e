"""The report: what it counts, that it shows what it counts, and that it is safe to open."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from persd import report
from persd.errors import UserError
from persd.ledger import Ledger
from persd.records import STATES
from persd.report import cases, sets, summary, tables, teacher, view
from persd.report.results import results
from report_run import HOSTILE, Page, a_call, a_task, fill


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report") / "first"
    with Ledger(folder) as ledger:
        fill(ledger)
    return folder


@pytest.fixture
def ledger(run: Path) -> Iterator[Ledger]:
    with Ledger(run, read_only=True) as opened:
        yield opened


@pytest.fixture(scope="module")
def page(run: Path) -> Page:
    return Page(report.write(run).read_text(encoding="utf-8"))


# -- what is counted --------------------------------------------------------------------------


def test_every_task_is_in_one_named_state_and_they_add_up(ledger: Ledger) -> None:
    first, second = summary.funnels(ledger)
    assert first.states == {
        "untested": 1,
        "bad_task": 1,
        "solved": 1,
        "refused": 1,
        "teacher_failed": 1,
        "over_budget": 1,
        "waiting": 4,
        "refined": 2,
    }
    assert second.states == {"waiting": 11, "refined": 1}
    for funnel in (first, second):
        assert sum(funnel.states.values()) == funnel.tasks == len(ledger.tasks())
    assert set(summary.WORDS) == {*STATES, "waiting"}


def test_totals_are_those_of_the_run(ledger: Ledger) -> None:
    totals = summary.totals(ledger)
    assert totals["tasks"] == 12
    assert totals["states"] == {"waiting": 11, "refined": 1}
    assert totals["examples"] == 3  # t0 and t1 in round 1, t2 in round 2
    assert (totals["calls"], totals["usd"]) == (6, 0.06)
    assert (totals["input_tokens"], totals["output_tokens"]) == (600, 60)
    assert json.loads(json.dumps(totals)) == totals


def test_an_unknown_price_is_unknown_and_never_nothing(tmp_path: Path) -> None:
    with Ledger(tmp_path / "r") as ledger:
        fill(ledger)
        ledger.add_calls([a_call("more", None)])
        totals = summary.totals(ledger)
        assert totals["usd"] is None
        assert totals["usd_text"] == "0.0600 USD and 1 call at an unknown price"
        assert totals["usd_per_example"] is None
    page = Page(report.write(tmp_path / "r").read_text(encoding="utf-8"))
    assert "cost of each unknown" in page.text
    refinements = [r for r in page.table("Calls and money") if r[2:4] == ["refinement", "1"]]
    assert refinements[0][-1] == "unknown|1 call without a price, the others 0.0500 USD"


def test_results_put_the_base_first_and_say_what_was_trained_on(ledger: Ledger) -> None:
    rows = results(ledger)
    assert [(r["model"], r["step"], r["examples"]) for r in rows] == [
        ("base", 1, 0),
        ("persd", 1, 2),
        ("persd", 2, 2),
    ]
    assert list(rows[0]["pass@k"]) == ["1", "10"]
    assert rows[1]["pass@k"]["1"] == 0.4
    assert rows[1]["interval"]["1"] == [pytest.approx(0.35), pytest.approx(0.45)]


def test_error_types_are_those_of_failing_attempts(ledger: Ledger) -> None:
    first, second = summary.error_types(ledger)
    assert (first.attempts, first.failing) == (7, 6)
    assert first.types == {"AssertionError": 5, f"Odd{HOSTILE}": 1}
    assert first.statuses == {"failed": 5, "error": 1}
    assert (second.attempts, second.failing) == (1, 1)


def test_repairs_count_every_try_by_what_the_teacher_says(ledger: Ledger) -> None:
    found = {r.kind: (r.returned, r.verified) for r in teacher.repairs(ledger)}
    assert found == {"edit": (3, 1), "rewrote": (1, 1), "gave up": (1, 0), "": (1, 1)}
    found_all = teacher.teacher(ledger)
    assert (found_all.returned, found_all.judged, found_all.passed) == (6, 6, 3)


def test_data_sets_say_what_was_left_out(ledger: Ledger) -> None:
    empty, kept = sets.data_sets(ledger)
    assert (empty.variant, empty.examples) == ("", 0)
    assert (kept.variant, kept.examples, kept.tasks) == ("persd", 2, 2)
    assert kept.rejected == {"undefined_names": 1}


def test_closeness_is_over_the_refined_tasks(ledger: Ledger) -> None:
    found = sets.closeness(ledger)
    assert found is not None
    assert (found.tasks, found.of) == (3, 3)
    assert found.means["attempt_refinement"] > found.means["attempt_direct"]
    fewer = sets.closeness(ledger, limit=2)
    assert fewer is not None
    assert (fewer.tasks, fewer.of) == (2, 3)


@given(st.lists(st.integers(), max_size=40), st.integers(-1, 50))
def test_an_even_choice_keeps_the_order(items: list[int], limit: int) -> None:
    pairs = list(enumerate(items))
    chosen = sets.evenly(pairs, limit)
    assert len(chosen) == max(0, min(limit, len(pairs)))
    assert chosen == sorted(set(chosen))


def test_the_choice_of_attempts_is_spread_over_the_states(ledger: Ledger) -> None:
    keys, there = cases.select(ledger, limit=3)
    assert there == 5
    assert [state for _, _, state in keys] == ["refined", "refused", "teacher_failed"]
    assert cases.select(ledger, limit=100)[0] == cases.select(ledger)[0]
    assert [k[:2] for k in cases.select(ledger, task="t2")[0]] == [("t2", 1), ("t2", 2)]


# -- the page ---------------------------------------------------------------------------------


def test_the_page_is_well_formed_and_needs_nothing_else(page: Page) -> None:
    assert page.open == []
    names = {tag for tag, _ in page.tags}
    assert not names & {"script", "img", "link", "iframe", "object", "embed", "form", "base"}
    for _, attrs in page.tags:
        assert not {"src", "srcset", "action", "data", "xlink:href"} & set(attrs)
        assert not [a for a in attrs if a.startswith("on")]
        assert (attrs.get("href") or "#").startswith("#")
    style = re.search(r"<style>(.*?)</style>", page.source, re.DOTALL)
    assert style is not None
    assert "@import" not in style[1]
    assert set(re.findall(r"url\([^)]*\)", style[1])) <= {"url(#hatch)"}


def test_links_within_the_page_lead_somewhere(page: Page) -> None:
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    links = {a["href"] for t, a in page.tags if t == "a"}
    assert links
    assert links <= {f"#{i}" for i in ids}


def test_every_table_has_a_caption_and_headers(page: Page) -> None:
    opened = [tag for tag, _ in page.tags]
    assert opened.count("table") == opened.count("caption") > 8
    headers = [attrs for tag, attrs in page.tags if tag == "th"]
    assert all(attrs.get("scope") in ("row", "col") for attrs in headers)


def test_hostile_text_is_shown_and_not_obeyed(page: Page) -> None:
    assert "<img src=http://x/ onerror=alert(1)>{{ 7*7 }}\\x1b[31m\\ud800\\u202e[bold]" in page.text
    assert not set(page.source) & {"\x1b", "\u202e", "\x00"}
    assert "secret" not in page.source
    page.source.encode("utf-8")


def test_the_page_shows_the_numbers_of_the_summary(page: Page, ledger: Ledger) -> None:
    for funnel in summary.funnels(ledger):
        rows = page.table(f"Round {funnel.round}: ")
        shown = {r[0].split("|")[0].replace(" ", "_"): r[1] for r in rows[1:]}
        assert shown == {**{s: str(n) for s, n in funnel.states.items()}, "all": str(funnel.tasks)}
    scores = page.table("held-out")
    assert scores[0][:5] == ["Model", "Step", "Trained on", "pass@1", "pass@10"]
    for row, found in zip(scores[1:], results(ledger), strict=True):
        low, high = (f"{100 * x:.1f}" for x in found["interval"]["1"])
        assert row[:3] == [found["model"], str(found["step"]), str(found["examples"])]
        assert row[3] == f"{100 * found['pass@k']['1']:.1f}|{low}–{high}"
    repairs = {r[0]: r[1:3] for r in page.table("Repairs")[1:-1]}
    assert repairs == {
        r.kind or "nothing said": [str(r.returned), str(r.verified)]
        for r in teacher.repairs(ledger)
    }
    left_out = {r[0]: (r[2], r[5]) for r in page.table("Data sets")[1:]}
    assert left_out == {"(empty)": ("0", "none"), "persd": ("2", "1 undefined names")}
    errors = next(v for k, v in page.tables.items() if k.startswith("Round 1 6 of 7 attempts"))
    assert [r[1] for r in errors[1:]] == ["5", "1"]


def test_bars_of_a_round_tile_the_whole_width(page: Page, ledger: Ledger) -> None:
    bars = [(a["x"] or "", a["width"] or "") for t, a in page.tags if t == "rect" and "x" in a]
    end = 0.0
    for x, width in bars[: len(summary.funnel(ledger, 1).states)]:
        assert float(x.removesuffix("%")) == pytest.approx(end, abs=0.01)
        end += float(width.removesuffix("%"))
    assert end == pytest.approx(100, abs=0.01)


def test_attempts_stand_beside_their_repairs(page: Page) -> None:
    shown = [a["data-state"] for t, a in page.tags if t == "article"]
    assert shown == ["refined", "refined", "refined", "refused", "teacher_failed"]
    assert "Showing 5 of 5" in page.text
    rows = page.table("t0: the attempt")
    assert rows[2] == ["2 −", "y = x + 1", "2 +", "y = x + 2"]
    assert "<del>1</del>" in page.source
    assert "<ins>2</ins>" in page.source


def test_fewer_attempts_are_shown_and_said_to_be_fewer(run: Path, tmp_path: Path) -> None:
    page = Page(report.write(run, tmp_path / "r.html", shown=2).read_text(encoding="utf-8"))
    assert "Showing 2 of 5" in page.text
    assert sum(tag == "article" for tag, _ in page.tags) == 2


def test_the_same_ledger_gives_the_same_bytes(run: Path, tmp_path: Path) -> None:
    one, two = (report.write(run, tmp_path / name).read_bytes() for name in ("a.html", "b.html"))
    assert one == two


@pytest.mark.parametrize(("source", "told"), [("lab", True), ("jsonl", False)])
def test_a_lab_run_says_that_it_is_no_evidence(tmp_path: Path, source: str, told: bool) -> None:
    with Ledger(tmp_path / "r") as ledger:
        fill(ledger, source=source)
    page = report.write(tmp_path / "r").read_text(encoding="utf-8")
    assert ("It is no evidence for the paper's claim" in page.replace("&#39;", "'")) is told


def test_a_run_that_has_only_begun_is_told_in_words(tmp_path: Path) -> None:
    with Ledger(tmp_path / "r") as ledger:
        empty = Page(report.write(tmp_path / "r").read_text(encoding="utf-8"))
        assert empty.open == []
        ledger.add_tasks([a_task(1)])
        page = Page(report.write(tmp_path / "r").read_text(encoding="utf-8"))
    assert page.table("Round 1: 1 task")[1][:3] == ["waiting|not finished yet", "1", "100.0 %"]
    for words in (
        "No model has been evaluated in this run yet.",
        "No attempt has been judged yet.",
        "The teacher has not been asked anything in this run.",
        "No data set has been built yet.",
        "No attempt has been repaired yet.",
    ):
        assert words in empty.text
        assert words in page.text


def test_what_cannot_be_written_is_said_and_leaves_nothing(run: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot write the report"):
        report.write(run, tmp_path / "missing" / "r.html")
    (tmp_path / "r.html").mkdir()
    with pytest.raises(UserError, match="cannot write the report"):
        report.write(run, tmp_path / "r.html")
    assert [p.name for p in tmp_path.iterdir()] == ["r.html"]
    with pytest.raises(UserError, match="is not a run"):
        report.write(tmp_path)


def test_error_types_of_the_release_stand_beside_those_found(tmp_path: Path) -> None:
    texts = ["AssertionError\nINPUT: 1", "AssertionError\nINPUT: 2", "NameError: name 'x'"]
    with Ledger(tmp_path / "r") as ledger:
        ledger.add_tasks([a_task(i, meta={"feedback": t}) for i, t in enumerate(texts)])
        assert summary.released_error_types(ledger) == {"AssertionError": 2, "NameError": 1}
    page = Page(report.write(tmp_path / "r").read_text(encoding="utf-8"))
    rows = page.table("The release's own feedback")
    assert [r[:3] for r in rows[1:]] == [
        ["AssertionError|a wrong value", "2", "66.7 %"],
        ["NameError", "1", "33.3 %"],
    ]


# -- the terminal -----------------------------------------------------------------------------


def printed(do: Any, *args: Any, **more: Any) -> str:
    out = io.StringIO()
    do(Console(file=out, width=80, highlight=False), *args, **more)
    return out.getvalue()


def test_tables_fit_eighty_columns_and_break_no_number(ledger: Ledger) -> None:
    rows = results(ledger)
    for k in ("20", "100"):
        for row in rows:
            row["pass@k"][k], row["interval"][k] = 1.0, [1.0, 1.0]
            row["model"], row["examples"] = "persd-combined", 123456
    shown = printed(lambda console: [console.print(t) for t in tables.result_tables(rows)])
    assert max(map(len, shown.splitlines())) <= 80
    assert "…" not in shown
    words = shown.split()
    for row in rows:
        for k, value in row["pass@k"].items():
            low, high = row["interval"][k]
            assert f"{100 * value:.1f}" in words
            assert f"{100 * low:.1f}–{100 * high:.1f}" in words


def test_the_terminal_has_the_funnel_the_scores_and_the_data_sets(ledger: Ledger) -> None:
    funnel = printed(tables.print_funnel, ledger)
    assert re.search(r"teacher failed +1 +8\.3 %", funnel)
    assert re.search(r"all +12 +100\.0 %", funnel)
    scores = printed(tables.print_results, ledger)
    assert re.search(r"base +1 +0 +30\.0 \(25\.0–35\.0\)", scores)
    assert "1 undefined_names" in printed(tables.print_data_sets, ledger)


def test_view_shows_the_diff_and_where_it_comes_from(ledger: Ledger) -> None:
    shown = printed(view.show, ledger, task="t0")
    assert "-   2      y = x + 1" in shown
    assert "+   2      y = x + 2" in shown
    assert "repair, try 2: passed · edit: x" in shown
    assert "EXPECTED: 3" in shown
    flat = " ".join(shown.split())
    for part in ("call call-t0-r2", "answered by big-2026", "seed 7", "persd 1.2.3"):
        assert part in flat


def test_view_lets_nothing_through_to_the_terminal(ledger: Ledger) -> None:
    shown = printed(view.show, ledger, limit=50)
    assert "\\x1b[31m\\ud800\\u202e[bold]" in "".join(shown.split("\n"))
    assert not {c for c in shown if not c.isprintable() and c != "\n"}
    assert shown.count("round 1 · refined") == 2


def test_view_says_how_many_there_are_and_refuses_what_is_not(ledger: Ledger) -> None:
    shown = printed(view.show, ledger, state="teacher failed", limit=5)
    assert "t3 · round 1 · teacher_failed" in shown
    assert "1 of 5 tasks" in printed(view.show, ledger, limit=1)
    assert "No task is not run" in printed(view.show, ledger, state="not_run")
    with pytest.raises(UserError, match="no state 'fine'"):
        printed(view.show, ledger, state="fine")
    with pytest.raises(UserError, match="no task 't99'"):
        printed(view.show, ledger, task="t99")
