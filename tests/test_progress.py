"""Progress in plain lines: counts, rate, money, time left."""

from __future__ import annotations

import io
import time

from persd.progress import LiveProgress, PlainProgress, progress_for


def test_a_line_at_the_end_of_a_stage() -> None:
    out = io.StringIO()
    with PlainProgress(out) as progress:
        progress.stage("round 1", 3)
        progress.money(0.25, 5.0)
        progress.step(2, refined=2)
        progress.step(1, over_budget=1)
    (line,) = out.getvalue().splitlines()
    assert line.startswith("round 1 3/3 · 0:00 · 0.2500 of 5.00 USD · ")
    assert line.endswith(" · 1 over budget · 2 refined")


def test_a_line_every_so_often_with_the_time_left() -> None:
    out = io.StringIO()
    progress = PlainProgress(out, every=0.0)
    progress.stage("train", 100)
    time.sleep(0.1)
    progress.step(10)
    (line,) = out.getvalue().splitlines()
    assert line.startswith("train 10/100 · ")
    assert " left · " in line


def test_stages_follow_one_another() -> None:
    out = io.StringIO()
    with PlainProgress(out) as progress:
        progress.stage("one", 1)
        progress.step()
        progress.stage("two", None)
        progress.step()
        progress.say("a word")
    assert [line.split(" ")[0] for line in out.getvalue().splitlines()] == ["one", "a", "two"]


def test_a_pipe_gets_plain_lines() -> None:
    assert isinstance(progress_for(io.StringIO()), PlainProgress)


def test_the_live_line_starts_and_stops() -> None:
    progress = LiveProgress()
    progress.stage("x", 1)
    progress.step(1, done=1)
    progress.stage("y", 1)
    progress.close()
    progress.close()


def test_what_goes_on_with_served_models_is_told_also_while_nothing_ends() -> None:
    out = io.StringIO()
    progress = PlainProgress(out, every=0.0)
    counts = {"in_flight": 12, "resting": 3, "input_tokens": 1_200_000, "output_tokens": 34_000}
    progress.watch(lambda: counts)
    progress.tick()  # before there is a stage there is nothing to tell
    progress.stage("round 1", 100)
    progress.tick()
    (line,) = out.getvalue().splitlines()
    assert line.endswith(" · 12 in flight · 3 to be tried again · 1.23 M tokens")
