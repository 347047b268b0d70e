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
from persd.report import cases, compared, plots, sets, summary, tables, teacher, view
from persd.report.results import results
from report_run import HOSTILE, Page, a_call, a_task, an_exam, fill, fill_scores


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


@pytest.fixture(scope="module")
def scored_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with the outcomes of its samples, controls and samples part of no score."""
    folder = tmp_path_factory.mktemp("report") / "scored"
    with Ledger(folder) as ledger:
        fill(ledger)
        fill_scores(ledger)
    return folder


@pytest.fixture
def scored(scored_run: Path) -> Iterator[Ledger]:
    with Ledger(scored_run, read_only=True) as opened:
        yield opened


@pytest.fixture(scope="module")
def scored_page(scored_run: Path) -> Page:
    return Page(report.write(scored_run).read_text(encoding="utf-8"))


@pytest.fixture(params=["page", "scored_page"])
def any_page(request: pytest.FixtureRequest) -> Page:
    found: Page = request.getfixturevalue(request.param)
    return found


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


def test_the_page_is_well_formed_and_needs_nothing_else(any_page: Page) -> None:
    assert any_page.open == []
    names = {tag for tag, _ in any_page.tags}
    assert not names & {"script", "img", "link", "iframe", "object", "embed", "form", "base"}
    for _, attrs in any_page.tags:
        assert not {"src", "srcset", "action", "data", "xlink:href"} & set(attrs)
        assert not [a for a in attrs if a.startswith("on")]
        assert (attrs.get("href") or "#").startswith("#")
    style = re.search(r"<style>(.*?)</style>", any_page.source, re.DOTALL)
    assert style is not None
    assert "@import" not in style[1]
    assert set(re.findall(r"url\([^)]*\)", style[1])) <= {"url(#hatch)"}


def test_links_within_the_page_lead_somewhere(any_page: Page) -> None:
    ids = [attrs["id"] for _, attrs in any_page.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    links = {a["href"] for t, a in any_page.tags if t == "a"}
    assert links
    assert links <= {f"#{i}" for i in ids}


def test_every_table_has_a_caption_and_headers(any_page: Page) -> None:
    opened = [tag for tag, _ in any_page.tags]
    assert opened.count("table") == opened.count("caption") > 8
    headers = [attrs for tag, attrs in any_page.tags if tag == "th"]
    assert all(attrs.get("scope") in ("row", "col") for attrs in headers)


def test_hostile_text_is_shown_and_not_obeyed(any_page: Page) -> None:
    assert (
        "<img src=http://x/ onerror=alert(1)>{{ 7*7 }}\\x1b[31m\\ud800\\u202e[bold]"
        in any_page.text
    )
    assert not set(any_page.source) & {"\x1b", "\u202e", "\x00"}
    assert "secret" not in any_page.source
    any_page.source.encode("utf-8")


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


# -- what scores are compared to --------------------------------------------------------------


def exams(ledger: Ledger) -> list[dict[str, Any]]:
    """The rows of the results that have outcomes."""
    return [r for r in results(ledger) if r["benchmark"] == "exam"]


def in_percent(scores: dict[str, Any], k: str) -> str:
    low, high = (f"{100 * x:.1f}" for x in scores["interval"][k])
    return f"{100 * scores['pass@k'][k]:.1f}|{low}–{high}"


def in_points(found: dict[str, Any]) -> str:
    value, low, high = (
        f"{100 * x:+.1f}" if round(100 * x, 1) else "0.0"
        for x in (found["value"], *found["interval"])
    )
    return f"{value}|{low} to {high}{', clear' * found['clear']}"


def test_a_later_step_has_its_control_below_it_in_the_table(
    scored: Ledger, scored_page: Page
) -> None:
    head, *rows = scored_page.table("exam pass@k")
    assert head[:5] == ["Model", "Step", "Trained on", "pass@1", "pass@5"]
    expected = []
    for row in exams(scored):
        trained = "unknown" if row["examples"] is None else str(row["examples"])
        scores = [in_percent(row, k) for k in ("1", "5")]
        expected.append([row["model"], str(row["step"]), trained, *scores, str(row["calls"])])
        if control := row.get("resample"):
            scores = [in_percent(control, k) for k in ("1", "5")]
            expected.append(["resample", str(row["step"]), "", *scores, str(control["calls"])])
    assert [[*r[:5], r[6]] for r in rows] == expected
    assert [r[0] for r in rows].count("resample") == 2


@pytest.mark.parametrize(
    ("caption", "key", "models"),
    [
        ("exam, less the untrained student", "less_base", ["persd", "persd", "persd-combined"]),
        ("exam, less resample", "less_resample", ["base", "persd"]),
    ],
)
def test_differences_stand_with_their_intervals_and_tasks(
    scored: Ledger, scored_page: Page, caption: str, key: str, models: list[str]
) -> None:
    head, *rows = scored_page.table(caption)
    assert head == ["Model", "Step", "pass@1", "pass@5", "Newly solved", "Newly lost"]
    found = [r for r in exams(scored) if key in r]
    assert [r["model"] for r in found] == models
    for row, mine in zip(rows, found, strict=True):
        by_k = mine[key]
        assert row[:2] == [mine["model"], str(mine["step"])]
        assert row[2:4] == [in_points(by_k["1"]), in_points(by_k["5"])]
        assert row[4:] == [str(by_k["1"][n]) for n in ("newly_solved", "newly_lost")]
    assert any("clear" in row[2] for row in rows)


def test_pictures_of_differences_say_in_words_what_is_clear(
    scored: Ledger, scored_page: Page
) -> None:
    labels = [a.get("aria-label") or "" for t, a in scored_page.tags if t == "figure"]
    told = next(one for one in labels if one.startswith("pass@1 less the untrained student"))
    certain, uncertain = exams(scored)[2], exams(scored)[4]
    value = f"{100 * certain['less_base']['1']['value']:+.1f}"
    assert f"persd, step 1 {value}, clear;" in told
    assert not uncertain["less_base"]["1"]["clear"]
    assert "persd-combined, step 1 0.0. The table" in told
    assert sum(one.startswith("pass@5 less resample") for one in labels) == 1
    shown = [a["class"] or "" for t, a in scored_page.tags if t == "circle"]
    assert any(c.startswith("dot open") for c in shown)


def test_controls_have_a_mark_of_their_own_in_the_pictures_of_scores(
    scored: Ledger, scored_page: Page
) -> None:
    classes = [a.get("class") or "" for t, a in scored_page.tags if t == "svg"]
    assert sum(c.startswith("at control") for c in classes if c) == 1 + 4  # legend; 2 rows, 2 ks
    labels = [a.get("aria-label") or "" for t, a in scored_page.tags if t == "figure"]
    told = []
    for row in exams(scored):
        told.append(f"{row['model']}, step {row['step']} {100 * row['pass@k']['1']:.1f}")
        if control := row.get("resample"):
            told.append(f"resample {100 * control['pass@k']['1']:.1f}")
    assert any(", ".join(told) in one for one in labels)


def on_the_axis(value: float, ticks: list[dict[str, str]]) -> float:
    """Where a fraction belongs, in percent of the width, by the first and the last tick."""
    first, last = (float(t["text"]) / 100 for t in (ticks[0], ticks[-1]))
    return 100 * (value - first) / (last - first)


def test_marks_and_whiskers_are_where_the_axis_says(scored: Ledger) -> None:
    rows = exams(scored)
    (shown,) = plots.benchmarks(rows)
    scores = [s for r in rows for s in (r, r.get("resample")) if s]
    places: list[tuple[dict[str, Any], float, list[float], list[dict[str, str]]]] = []
    for panel in shown["panels"]:
        k = panel["k"]
        for dot, score in zip(panel["dots"], scores, strict=True):
            places.append((dot, score["pass@k"][k], score["interval"][k], shown["ticks"]))
    for part in shown["compared"]:
        for panel in part["panels"]:
            found = [r[compared.AGAINST[part["against"]]] for r in rows if _has(r, part)]
            for dot, differences in zip(panel["dots"], found, strict=True):
                one = differences[panel["k"]]
                places.append((dot, one["value"], one["interval"], part["ticks"]))
    assert len(places) == 2 * (7 + 3 + 2)
    for dot, value, (low, high), ticks in places:
        for name, x in (("at", value), ("low", low), ("high", high)):
            assert float(dot[name]) == pytest.approx(on_the_axis(x, ticks), abs=0.01)


def _has(row: dict[str, Any], part: dict[str, Any]) -> bool:
    return compared.AGAINST[part["against"]] in row


def test_outcomes_before_and_after_are_those_of_the_results(
    scored: Ledger, scored_page: Page
) -> None:
    head, *rows = scored_page.table("exam, step 1")
    mine = [r for r in exams(scored) if r["step"] == 1]
    assert head == ["Outcome", "base", "persd", "persd-combined"]
    odd = "Odd</pre></script><img src=http://x/ onerror=alert(1)>"
    names = ["passed", "AssertionError", "NameError", odd]
    judged = [r["outcomes"]["passed"] + sum(_wrong(r).values()) for r in mine]
    by_name = {row[0].split("|")[0][: len(odd)]: row[1:] for row in rows}
    assert set(by_name) == {*names, "in the score", "truncated", "not run"}
    for name in names:
        counts = [sum(n for o, n in r["outcomes"].items() if o.startswith(name)) for r in mine]
        shares = [f"{100 * n / all_:.1f} %|{n}" for n, all_ in zip(counts, judged, strict=True)]
        assert by_name[name] == shares
    assert by_name["in the score"] == [str(n) for n in judged]
    assert by_name["truncated"] == ["0", "0", "6"]
    assert by_name["not run"] == ["0", "0", "3"]


def _wrong(row: dict[str, Any]) -> dict[str, int]:
    return {o: n for o, n in row["outcomes"].items() if o not in ("passed", "truncated", "not_run")}


def test_rare_outcomes_are_counted_together(tmp_path: Path) -> None:
    before = {"t": {f"E{n:02}": 40 - n for n in range(20)}}
    after = {"t": {**before["t"], "passed": 5}}
    with Ledger(tmp_path / "r") as ledger:
        ledger.add_evaluation(an_exam("base", 1, before))
        ledger.add_evaluation(an_exam("persd", 1, after))
    page = Page(report.write(tmp_path / "r").read_text(encoding="utf-8"))
    rows = page.table("exam, step 1")[1:]
    assert [r[0] for r in rows[:2]] == ["passed", "E00"]
    rest = [f"E{n:02}" for n in range(plots.TYPES_SHOWN, 20)]
    assert rows[-2][0] == f"{len(rest)} rarer|{', '.join(rest)}"
    count = sum(before["t"][name] for name in rest)
    assert [cell.split("|")[1] for cell in rows[-2][1:]] == [str(count), str(count)]


def test_scores_without_outcomes_are_compared_with_nothing(page: Page, ledger: Ledger) -> None:
    assert "no later step to compare, with the outcome of every sample stored" in page.text
    assert "No outcomes of samples are stored." in page.text
    assert "compared" not in printed(tables.print_results, ledger)


def test_what_is_part_of_no_score_is_told_only_where_there_is_some(
    scored: Ledger, scored_page: Page, ledger: Ledger, page: Page
) -> None:
    row = exams(scored)[4]
    as_wrong = {k: f"{100 * v:.1f}" for k, v in row["truncated_as_wrong"].items()}
    brief = (
        f"persd-combined, step 1: 6 truncated (taken for wrong: pass@1 {as_wrong['1']}), "
        "3 not run, 1 task not in pass@5"
    )
    whole = brief.replace(")", f", pass@5 {as_wrong['5']})")
    shown = " ".join(printed(tables.print_results, scored).split())
    assert brief in shown
    assert whole in " ".join(scored_page.text.split())
    assert "persd, step 1: " not in shown
    assert "truncated" not in printed(tables.print_results, ledger)
    assert compared.APART not in page.text


@given(st.floats(-1, 0), st.floats(0.01, 1), st.floats(0, 1))
def test_an_axis_holds_what_it_is_made_for_and_nothing(low: float, high: float, at: float) -> None:
    axis = plots.Axis(low, high)
    places = [float(axis.place(v)) for v in (low, 0.0, low + at * (high - low), high)]
    assert all(-0.01 <= p <= 100.01 for p in places)
    assert places[0] <= min(places[1:])
    ticks = axis.ticks(lambda v: f"{100 * v:.0f}")
    assert 2 <= len(ticks) <= 8
    assert "0" in [t["text"] for t in ticks]
    assert [float(t["at"]) for t in ticks] == sorted({float(t["at"]) for t in ticks})


@pytest.mark.parametrize(
    ("fraction", "text"), [(0.1234, "+12.3"), (-0.02, "-2.0"), (0.0, "0.0"), (-0.0004, "0.0")]
)
def test_points_have_a_sign_unless_they_are_none(fraction: float, text: str) -> None:
    assert compared.points(fraction) == text


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


def test_the_terminal_has_the_control_below_a_later_step(scored: Ledger) -> None:
    lines = printed(tables.print_results, scored).splitlines()
    below = [i for i, line in enumerate(lines) if line.strip().startswith("resample  ")]
    told = [r for r in exams(scored) if "resample" in r]
    for i, row in zip(below, told, strict=True):
        assert lines[i - 1].split()[:2] == [row["model"], "2"]
        assert f"{100 * row['resample']['pass@k']['1']:.1f}" in lines[i].split()


def test_the_terminal_compares_in_points_and_says_what_is_clear(scored: Ledger) -> None:
    shown = printed(tables.print_results, scored)
    less_base, less_resample = shown.split("exam, compared: less ")[1:]
    for part, key in ((less_base, "less_base"), (less_resample, "less_resample")):
        lines = [line.split() for line in part.splitlines()]
        for row in exams(scored):
            for k, found in row.get(key, {}).items():
                value, span = in_points(found).split("|")
                low, high = span.removesuffix(", clear").split(" to ")
                cells = [row["model"], str(row["step"]), k, value, f"({low}", "to", f"{high})"]
                tasks = [str(found["newly_solved"]), str(found["newly_lost"])]
                assert [*cells, *tasks, *["clear"] * found["clear"]] in lines
    assert "clear" in less_base


def test_comparisons_fit_eighty_columns_and_break_no_number(scored: Ledger) -> None:
    rows = exams(scored)
    for number, row in enumerate(rows):
        row["model"], row["round"] = "persd-combined", 10 + number
        for found in row.get("less_base", {}).values():
            found |= {"value": -0.999, "interval": [-0.999, 0.999], "newly_lost": 9999}
    shown = printed(lambda console: [console.print(t) for t in tables.compared_tables(rows)])
    assert max(map(len, shown.splitlines())) <= 80
    assert "…" not in shown
    assert "-99.9 (-99.9 to +99.9)" in shown


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
