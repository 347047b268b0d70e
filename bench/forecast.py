"""Forecast a run from a pilot of it, then make the whole run and see whether it came so.

    python bench/forecast.py --seeds 1 --pilots 60

Every trial is 400 tasks, a student that is right on every third, and a teacher served on this
machine, with prices, whose first repair of a third of the tasks is wrong; with one try (then
those are refused) and with two. A pilot of 20 tasks is forecast, one of 50 (it holds the 20),
then the run is made whole, and once more under a cap of half the money that was expected. Each
row: what was forecast (95 %), and beside it what came. Then as many other pilots are looked at,
by leaving in a copy of the whole run's ledger what only their tasks have shown. Last: how many
intervals held what came.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import shutil
import sqlite3
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from persd.config import Config
from persd.forecast import forecast, pilot_tasks
from persd.ledger import FILE_NAME, Ledger
from persd.loop import collect
from persd.pool.of_run import load_pool
from persd.run import Run

if TYPE_CHECKING:
    from bench import endpoint, kill
else:  # a script finds its neighbours so
    import endpoint
    import kill

TASKS = 400
PILOTS = (20, 50)
#: Share of the tasks whose first repair is wrong.
WRONG = 0.33
PRICE = {"input": 1.0, "output": 8.0, "cached": 0.1}
#: What is forecast and then counted.
WHAT = ("repairs", "input_tokens", "output_tokens", "usd", "examples")


def config_of(folder: Path, url: str, name: str, seed: int, **teacher: Any) -> Config:
    return Config.model_validate(
        {
            "run": {"dir": str(folder / name), "seed": seed},
            "tasks": {"source": "jsonl", "path": str(folder / "tasks.jsonl")},
            "student": {"model": f"scripted:{folder}/student.jsonl"},
            "teacher": {"model": "fake", "base_url": url, "price": PRICE, **teacher},
        }
    )


def take(config: Config, count: int | None) -> dict[str, Any]:
    """Collect a pilot of so many tasks, or (None) all, and forecast the run."""
    student = config.student.model
    with Run(config) as run:
        load_pool(run)
        seed = config.run.seed
        collect(run, 1, student, None if count is None else pilot_tasks(run.ledger, count, seed))
        run.ledger.flush()
        return forecast(config, run.ledger)


def trial(folder: Path, server: Any, seed: int, tries: int, pilots: int) -> list[dict[str, Any]]:
    """The pilots of one run with its end, and the run under a cap: a row a figure."""
    config = config_of(folder, server.url, f"whole-{seed}-{tries}", seed, max_tries=tries)
    told = [(f"pilot of {n}", take(config, n)) for n in PILOTS]
    take(config, None)
    came = counted(Path(config.run.dir))
    print_rows(rows := rows_of(told, came), seed, tries)
    found = capped(folder, server, seed, tries, told[-1][1])
    print_rows(found, seed, tries)
    others = [
        (f"pilot of {n}", other_pilot(config, folder / "part", n, number))
        for n in PILOTS
        for number in range(pilots)
    ]
    return rows + found + rows_of(others, came)


def rows_of(told: list[tuple[str, dict[str, Any]]], came: dict[str, float]) -> list[dict[str, Any]]:
    return [
        row(basis, what, found["calls"].get(what) or found[what], came[what])
        for basis, found in told
        for what in WHAT
    ]


def other_pilot(config: Config, part: Path, count: int, number: int) -> dict[str, Any]:
    """The forecast from so many other tasks of a whole run, as if only they had been asked."""
    part.mkdir(exist_ok=True)
    shutil.copy(Path(config.run.dir) / FILE_NAME, part / FILE_NAME)
    with contextlib.closing(sqlite3.connect(part / FILE_NAME)) as db:
        ids = [i for (i,) in db.execute("SELECT task_id FROM tasks ORDER BY task_id")]
        chosen = random.Random(number).sample(ids, count)
        marks = ",".join("?" * count)
        for table in ("calls", "solutions", "states"):
            db.execute(f"DELETE FROM {table} WHERE task_id NOT IN ({marks})", chosen)
        db.commit()
    with Ledger(part, read_only=True) as ledger:
        return forecast(config, ledger)


def capped(
    folder: Path, server: Any, seed: int, tries: int, told: dict[str, Any]
) -> list[dict[str, Any]]:
    """The same under a cap, forecast from a pilot of 50."""
    cap = told["usd"]["expected"] / 2
    name = f"capped-{seed}-{tries}"
    config = config_of(folder, server.url, name, seed, max_tries=tries, budget_usd=cap)
    found = take(config, PILOTS[-1])
    end = take(config, None)
    came = {"tasks": end["tasks_finished"], **counted(Path(config.run.dir))}
    return [
        row("cap of half", f"{what} reached", found[f"budget_reaches_{what}"], came[what])
        for what in ("tasks", "examples")
    ]


def counted(run: Path) -> dict[str, float]:
    """What a run asked, cost and gave, counted in its ledger."""
    sums = "COUNT(*) AS n, TOTAL(input_tokens) AS i, TOTAL(output_tokens) AS o, TOTAL(usd) AS usd"
    with Ledger(run, read_only=True) as ledger:
        calls = ledger.query(f"SELECT {sums} FROM calls WHERE role = 'teacher'")[0]
        refined = ledger.query("SELECT COUNT(*) AS n FROM states WHERE state = 'refined'")[0]
    return {
        "repairs": calls["n"],
        "input_tokens": calls["i"],
        "output_tokens": calls["o"],
        "usd": calls["usd"],
        "examples": refined["n"],
    }


def row(basis: str, what: str, told: dict[str, Any], came: float) -> dict[str, Any]:
    held = told["low"] - 1e-9 <= came <= told["high"] + 1e-9
    return {"basis": basis, "what": what, **told, "came": came, "held": held}


def print_rows(rows: list[dict[str, Any]], seed: int, tries: int) -> None:
    for r in rows:
        told = f"{r['expected']:10.6g} ({r['low']:.6g} - {r['high']:.6g})"
        came = f"{r['came']:10.6g}{'' if r['held'] else '  not held'}"
        print(f"{seed:3} {tries} {r['basis']:12} {r['what']:17} {told:36} {came}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--pilots", type=int, default=60, help="other pilots to look at")
    args = parser.parse_args()
    started = time.monotonic()
    held: dict[tuple[str, str], list[bool]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        kill.write_tasks(folder, TASKS)
        settings = endpoint.Settings(wrong_share=WRONG, cached_share=0.5)
        with endpoint.serve(settings) as server:
            for seed in range(args.seeds):
                server.set(seed=seed)
                for tries in (1, 2):
                    for r in trial(folder, server, seed, tries, args.pilots):
                        held[r["basis"], r["what"]].append(r["held"])
    print("\nheld by the interval:")
    for (basis, what), each in held.items():
        print(f"    {basis:12} {what:17} {sum(each)} of {len(each)}")
    print(f"{time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
