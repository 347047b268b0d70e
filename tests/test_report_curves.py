"""The losses of trainings in the report."""

from __future__ import annotations

from pathlib import Path

import pytest

from persd import report
from persd.ledger import Ledger
from persd.records import Step
from persd.report.curves import curves
from report_run import fill


def steps(count: int) -> list[Step]:
    return [
        Step(i, count, 4.0 / i, 1e-4, 1.0, tokens=100 * i, seconds=0.5 * i)
        for i in range(1, count + 1)
    ]


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    found = Ledger(tmp_path)
    fill(found)
    return found


def note(ledger: Ledger, told: list[Step], key: str = "h") -> None:
    for step in told:
        ledger.add_step(key, step)


def points(line: str) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in (p.split(",") for p in line.split())]


def test_a_line_runs_from_the_first_step_to_the_last(ledger: Ledger) -> None:
    note(ledger, steps(8))
    (curve,) = curves(ledger)
    line = points(curve.line)
    assert (curve.name, curve.steps, len(line)) == ("persd, round 1", 8, 8)
    assert line[0] == (12.5, 0.0)  # the highest loss there is
    assert line[-1] == pytest.approx((100.0, 100 - 100 / 8), abs=0.01)
    assert (curve.first, curve.last, curve.tokens_per_second) == (4.0, 0.5, 200)


def test_many_steps_are_drawn_as_means(ledger: Ledger) -> None:
    note(ledger, steps(1000))
    (curve,) = curves(ledger)
    assert len(points(curve.line)) <= 120
    assert curve.first == pytest.approx(sum(4.0 / i for i in range(1, 10)) / 9)


def test_looks_at_held_out_tasks_are_dots(ledger: Ledger) -> None:
    told = steps(4)
    note(ledger, told)
    note(ledger, [Step(2, 4, 2.0, 1e-4, held_out=8.0)])
    (curve,) = curves(ledger)
    assert curve.held_out == (("50.00", "0.00"),)
    assert points(curve.line)[0][1] == 50.0


def test_the_speed_of_a_training_that_was_killed_is_not_told(ledger: Ledger) -> None:
    first, second, third = steps(3)
    note(ledger, [first, second, Step(3, 3, third.loss, 1e-4, tokens=300, seconds=0.1)])
    (curve,) = curves(ledger)
    assert curve.tokens_per_second is None


def test_a_run_whose_steps_are_not_known_has_no_curve(ledger: Ledger) -> None:
    note(ledger, steps(5), key="another training")
    assert curves(ledger) == []


def test_the_page_shows_a_curve_in_words_and_as_a_picture(ledger: Ledger, tmp_path: Path) -> None:
    note(ledger, steps(5))
    ledger.close()
    html = report.write(tmp_path).read_text(encoding="utf-8")
    assert 'aria-label="persd, round 1: from 4.000 to 0.800 in 5 steps"' in html
    assert "<polyline" in html
