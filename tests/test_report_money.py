"""The money of a run: every USD once, by what came of it, and the same wherever it is told."""

from __future__ import annotations

import io
import json
import math
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from persd import report
from persd.ledger import Ledger
from persd.records import Outcome, TaskState
from persd.report import summary, tables, teacher
from persd.report.money import FATES, money
from report_run import HOSTILE, Page, a_try, fill, fill_served, one_case, served


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("money") / "paid"
    with Ledger(folder) as ledger:
        fill_served(ledger)
    return folder


@pytest.fixture
def ledger(run: Path) -> Iterator[Ledger]:
    with Ledger(run, read_only=True) as opened:
        yield opened


@pytest.fixture(scope="module")
def page(run: Path) -> Page:
    return Page(report.write(run).read_text(encoding="utf-8"))


def told(ledger: Ledger) -> str:
    out = io.StringIO()
    tables.print_money(Console(file=out, width=80, highlight=False), ledger)
    return out.getvalue()


# -- figures of a run whose every price is known by hand ---------------------------------------


def test_totals_tell_what_was_paid_wasted_and_at_risk(ledger: Ledger) -> None:
    totals = summary.totals(ledger)
    assert totals["usd"] == 0.1092
    assert totals["usd_wasted"] == 0.056
    assert totals["usd_at_risk"] == 0.13
    assert totals["usd_per_example"] == 0.0364  # three tasks have a verified repair
    assert (totals["calls"], totals["cached_tokens"]) == (25, 1000)
    assert totals["retries"] == {
        "rate_limited": 2,
        "connection": 1,
        "lost": 1,
        "timeout": 1,
        "unusable": 1,
    }
    assert json.loads(json.dumps(totals)) == totals


def test_usd_by_has_a_row_a_stage_round_and_model(ledger: Ledger) -> None:
    rows = summary.totals(ledger)["usd_by"]
    found = {(r["stage"], r["round"], r["role"], r["model"]): r for r in rows}
    assert {key: (r["calls"], r["tries"], r["usd"]) for key, r in found.items()} == {
        ("direct", 0, "teacher", "small"): (7, 0, 0.014),
        ("refinement", 1, "teacher", "big"): (2, 1, 0.06),
        ("refinement", 1, "teacher", "small"): (6, 4, 0.03),
        ("refinement", 2, "teacher", "small"): (1, 0, 0.004),
        ("evaluation", 0, "student", "pupil"): (3, 0, 0.0006),
        ("attempt", 1, "student", "pupil"): (5, 1, 0.0005),
        ("attempt", 2, "student", "pupil"): (1, 0, 0.0001),
    }
    direct = found["direct", 0, "teacher", "small"]
    assert [direct[f"{k}_tokens"] for k in ("input", "output", "cached")] == [700, 70, 280]


def test_every_usd_has_one_fate(ledger: Ledger) -> None:
    assert {p.name: (p.sum.asked, p.sum.usd) for p in money(ledger).fates} == {
        "repairs": (3, 0.038),
        "direct": (3, 0.006),
        "spare": (2, 0.004),
        "attempts": (6, 0.0006),
        "evaluation": (3, 0.0006),
        "open": (1, 0.004),
        "failed_refinement": (4, 0.043),
        "failed_direct": (1, 0.002),
        "unusable": (2, 0.008),
        "retries": (6, 0.003),
    }


def test_waste_is_told_by_reason(ledger: Ledger) -> None:
    found = [(fate, why, s.asked, s.usd) for fate, why, s in money(ledger).waste]
    assert found == [
        ("failed_refinement", "timeout", 1, 0.03),
        ("failed_refinement", "failed", 2, 0.008),
        ("failed_refinement", "error", 1, 0.005),
        ("failed_direct", "failed", 1, 0.002),
        ("unusable", "length", 1, 0.006),
        ("unusable", "refused", 1, 0.002),
        ("retries", "unusable", 1, 0.003),
        ("retries", "rate_limited", 2, 0.0),
        ("retries", "connection", 1, 0.0),
        ("retries", "lost", 1, 0.0),
        ("retries", "timeout", 1, 0.0),
    ]


def test_a_task_costs_by_how_it_ended(ledger: Ledger) -> None:
    found = {p.name: (p.count, p.sum.usd, p.usd_each) for p in money(ledger).by_state}
    assert found == {
        "refused": (1, 0.0421, 0.0421),
        "refined": (3, 0.0543, 0.0181),
        "solved": (1, 0.0021, 0.0021),
        "direct_failed": (1, 0.002, 0.002),
        "waiting": (0, 0.0081, None),
    }


def test_a_verified_example_costs_by_round_and_by_teacher(ledger: Ledger) -> None:
    paid = money(ledger)
    rounds = [(p.name, p.count, p.sum.usd, p.usd_each) for p in paid.rounds]
    assert rounds == [("1", 2, 0.0905, 0.04525), ("2", 1, 0.0041, 0.0041)]
    places = teacher.cascade(teacher.tries(ledger), paid)
    assert [(p.model, p.returned, p.settled, p.repairs.usd, p.usd_each) for p in places] == [
        ("small", 7, 2, 0.034, 0.017),
        ("big", 2, 1, 0.06, 0.06),
    ]


def test_tries_of_a_repair_tell_how_many_passed_and_how_close_they_stayed(ledger: Ledger) -> None:
    first, second, third = teacher.tries(ledger)
    assert (first.number, first.model, first.returned, first.judged, first.passed) == (
        1,
        "small",
        5,
        4,
        2,
    )
    assert first.closeness == pytest.approx(0.9)
    assert first.closeness_passed == pytest.approx(0.95)
    assert (second.returned, second.passed, second.closeness_passed) == (2, 0, None)
    assert second.closeness == pytest.approx(0.55)
    assert (third.model, third.passed) == ("big", 1)
    assert third.closeness_passed == pytest.approx(0.7)
    assert teacher.teacher(ledger).tasks == 5


@pytest.mark.parametrize("outcome", ["in_flight", "batched"])
def test_what_is_under_way_is_at_risk_and_no_failure(tmp_path: Path, outcome: Outcome) -> None:
    with Ledger(tmp_path / "r") as ledger:
        ledger.begin_try(a_try(1, "m0", outcome, None))
        totals, paid = summary.totals(ledger), money(ledger)
        assert [(r["calls"], r["tries"]) for r in totals["usd_by"]] == [(0, 0)]
        assert (totals["usd_at_risk"], totals["retries"], totals["usd"]) == (0.05, {}, 0.0)
        assert paid.waste == []
        ledger.end_try(a_try(2, "m0", "timeout", None, usd_at_most=None))
        assert summary.totals(ledger)["usd_at_risk"] is None
        assert "up to an unknown sum more for 2 whose cost is not known" in " ".join(
            told(ledger).split()
        )


# -- every sum agrees with every other -----------------------------------------------------------

prices = st.none() | st.integers(0, 10**6).map(lambda n: n / 10**6)
repairs = st.tuples(
    st.sampled_from(["direct", "refinement", "attempt"]),
    st.integers(0, 2),
    st.sampled_from(["passed", "failed", "timeout", None]),
    st.booleans(),
    prices,
)
outcomes = st.sampled_from(["lost", "timeout", "unusable", "rate_limited", "in_flight", "batched"])
failures = st.tuples(outcomes, st.integers(0, 2), st.integers(0, 4), prices, prices)
endings = st.dictionaries(
    st.tuples(st.integers(0, 4), st.integers(1, 2)),
    st.sampled_from(["refined", "refused", "solved", "unavailable"]),
)


@settings(max_examples=40, deadline=None)
@given(st.lists(repairs, max_size=12), st.lists(failures, max_size=6), endings)
def test_however_the_money_is_cut_it_adds_up(
    made: list[tuple[str, int, str | None, bool, float | None]],
    failed: list[tuple[str, int, int, float | None, float | None]],
    ended: dict[tuple[int, int], str],
) -> None:
    with tempfile.TemporaryDirectory() as folder, Ledger(Path(folder) / "r") as ledger:
        for n, (kind, round, status, has_code, usd) in enumerate(made):
            code = {} if has_code else {"code": None}
            name = f"m{n % 5}-{n}"
            served(ledger, name, kind, usd, status, round=round, **code)  # type: ignore[arg-type]
        for n, (outcome, round, task, usd, most) in enumerate(failed):
            made_try = a_try(n, f"m{task}", outcome, usd)  # type: ignore[arg-type]
            ledger.end_try(replace(made_try, round=round, usd_at_most=most))
        for (task, round), state in ended.items():
            ledger.set_state(TaskState(f"m{task}", round, state))  # type: ignore[arg-type]
        paid, totals = money(ledger), summary.totals(ledger)
    told_prices = [usd for *_, usd in made] + [usd or 0.0 for _, _, _, usd, _ in failed]
    whole = math.fsum(usd for usd in told_prices if usd is not None)
    assert paid.all.usd_known == pytest.approx(whole)
    assert (totals["usd"] is None) == (None in told_prices)
    assert sum(p.sum.usd_known for p in paid.fates) == pytest.approx(whole)
    assert sum(s.sum.usd_known for s in paid.spending) == pytest.approx(whole)
    assert sum(s.usd_known for *_, s in paid.waste) == pytest.approx(paid.wasted.usd_known)
    rest = sum(p.sum.usd_known for p in paid.fates if p.name == "evaluation")
    assert sum(p.sum.usd_known for p in paid.by_state) + rest == pytest.approx(whole)
    assert sum(r["calls"] for r in totals["usd_by"]) == len(made)
    if totals["usd"] is not None:
        assert sum(r["usd"] for r in totals["usd_by"]) == pytest.approx(totals["usd"])
    risks = [most for _, _, _, usd, most in failed if usd is None]
    at_risk = None if None in risks else math.fsum(r for r in risks if r is not None)
    assert totals["usd_at_risk"] == (None if at_risk is None else pytest.approx(at_risk))


# -- the terminal and the page ---------------------------------------------------------------------


def test_the_terminal_tells_the_money_in_a_table_and_a_sentence(ledger: Ledger) -> None:
    shown = told(ledger)
    assert max(map(len, shown.splitlines())) <= 80
    rows = [line.split() for line in shown.splitlines()]
    assert ["refinement", "1", "small", "6", "600", "240", "60", "0.0300"] in rows
    assert ["all", "25", "2,500", "1,000", "250", "0.1092"] in rows
    assert " ".join(shown.split()).endswith(
        "0.0364 USD per verified example; wasted 0.0560 USD (failed repairs 0.0430, failed "
        "direct answers 0.0020, unusable replies 0.0080, retries 0.0030); 6 tries failed: "
        "2 rate limited, 1 connection, 1 lost, 1 timeout, 1 unusable; up to 0.1300 USD more "
        "for 2 whose cost is not known"
    )


def test_a_run_that_paid_nobody_says_nothing_of_money(tmp_path: Path) -> None:
    with Ledger(tmp_path / "r") as ledger:
        one_case(ledger, 0, "refused", repairs=(("", "failed"),), usd=0.0)
        assert told(ledger) == ""
        assert summary.totals(ledger)["usd"] == 0.0
    page = Page(report.write(tmp_path / "r").read_text(encoding="utf-8"))
    assert page.table("Calls and money")[1][-1] == "0 USD"
    assert not [caption for caption in page.tables if caption.startswith("What was wasted")]


def test_a_served_model_that_costs_nothing_is_told(tmp_path: Path) -> None:
    with Ledger(tmp_path / "r") as ledger:
        served(ledger, "m0-r", "refinement", 0.0, "failed")
        assert "refinement" in told(ledger)
        assert "wasted 0 USD" in told(ledger)
    report.write(tmp_path / "r")


def test_an_unknown_price_makes_no_figure_smaller(tmp_path: Path) -> None:
    with Ledger(tmp_path / "r") as ledger:
        fill_served(ledger)
        served(ledger, "m0-x", "refinement", None, "failed")
        totals = summary.totals(ledger)
        assert (totals["usd"], totals["usd_wasted"], totals["usd_per_example"]) == (None,) * 3
        assert "wasted unknown (failed repairs unknown, " in " ".join(told(ledger).split())
    page = Page(report.write(tmp_path / "r").read_text(encoding="utf-8"))
    states = {r[0]: r[2:4] for r in page.table("What a task cost")[1:]}
    assert states["refined"] == ["unknown|1 call without a price, the others 0.0543 USD", "unknown"]


def test_the_page_tells_the_same_figures(page: Page, ledger: Ledger) -> None:
    fates = {r[0]: r[1:4] for r in page.table("What came of the money")[1:]}
    assert fates[FATES["failed_refinement"]] == ["4", "0.0430 USD", "39.4 %"]
    assert len(fates) == len(money(ledger).fates)
    waste = [r[:4] for r in page.table("What was wasted")[1:]]
    assert ["unusable replies", "length", "1", "0.0060 USD"] in waste
    assert waste[-1] == ["all", "13", "0.0560 USD", "0.1300 USD"]
    assert page.table("By round")[1] == ["1", "2", "13", "0.0905 USD", "0.0452 USD"]
    states = {r[0]: r[1:4] for r in page.table("What a task cost")[1:]}
    assert states["refined"] == ["3", "0.0543 USD", "0.0181 USD"]
    tries = [r[:6] for r in page.table("Tries of a repair")[1:]]
    assert tries[0] == ["1|small", "5", "2", "50.0 %", "0.900", "0.950"]
    assert tries[1][3:] == ["0.0 %", "0.550", "–"]
    assert page.table("Teachers, in the order")[2] == ["big", "2", "1", "0.0600 USD", "0.0600 USD"]
    assert page.table("Calls and money")[-1][1:] == [
        "25",
        "6",
        "2,500|1,000 cached",
        "250",
        "0.1092 USD",
    ]
    assert "up to 0.1300 USD more" in page.text


def test_bars_of_the_money_tile_the_whole_width(page: Page) -> None:
    source = page.source[page.source.index("<span>What came of the money") :]
    part = Page(source[source.index("<tbody>") : source.index("</table>")])
    bars = [(a["x"] or "", a["width"] or "") for t, a in part.tags if t == "rect" and "x" in a]
    end = 0.0
    for x, width in bars:
        assert float(x.removesuffix("%")) == pytest.approx(end, abs=0.01)
        end += float(width.removesuffix("%"))
    assert end == pytest.approx(100, abs=0.01)


def test_names_of_others_are_shown_and_not_obeyed(tmp_path: Path) -> None:
    with Ledger(tmp_path / "r") as ledger:
        fill(ledger)
        served(ledger, "m0-h", "refinement", 0.1, author=HOSTILE, code=None, finish=HOSTILE)
        assert not {c for c in told(ledger) if not c.isprintable() and c != "\n"}
    page = Page(report.write(tmp_path / "r").read_text(encoding="utf-8"))
    assert page.open == []
    assert "img" not in {tag for tag, _ in page.tags}
    assert not set(page.source) & {"\x1b", "\u202e"}
