"""An experiment's results as plain values, and its report: one HTML file, laid out by page.html."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from persd import __version__
from persd.experiment.engine import Cell, cell_folder, need_benchmarks, score_file
from persd.experiment.grid import Collection, Grid
from persd.experiment.paper import SOURCE
from persd.experiment.results import INTERVAL, LAB_NOTE, ONE_SEED, arms_of, rows_of
from persd.experiment.tables import AGAINST, apart, said_of, size, span
from persd.files import replacing
from persd.ledger import FILE_NAME, Ledger
from persd.report import compared, plots, summary
from persd.report.money import Money, Sum, money

REPORT, RESULTS = "report.html", "results.json"


def results(grid: Grid, cells: Sequence[Cell], seconds: float, report: Path) -> dict[str, Any]:
    """An experiment in one object, as ``--json`` prints it and results.json holds it.

    {"rows" (``results.rows_of``), "trained" (``results.arms_of``), "arms" (their number, seeds
    and those that could not be run counted), "skipped", "collections": [{"name", "calls" of the
    teacher, "usd"}], "usd" (null: unknown), "seconds", "lab": whether it is on toy tasks, "dir",
    "report"}.
    """
    paid = [(c.name, _paid(grid, c)) for c in grid.collections()]
    return {
        "rows": rows_of(grid, cells),
        "trained": arms_of(grid, cells),
        "arms": len(cells),
        "skipped": sum(bool(c.plan.skipped) for c in cells),
        "collections": [
            {"name": name, "calls": one.teacher_calls, "usd": one.all.usd} for name, one in paid
        ],
        "usd": sum((one.all for _, one in paid), Sum()).usd,
        "seconds": round(seconds, 1),
        "lab": is_lab(grid),
        "dir": str(grid.dir),
        "report": str(report),
    }


def _paid(grid: Grid, collection: Collection) -> Money:
    with Ledger(grid.config(collection).run.dir, read_only=True) as ledger:
        return money(ledger)


def is_lab(grid: Grid) -> bool:
    """Whether anything is of the embedded toy family: tasks trained on, or scored on."""
    benchmarks = grid.table.evaluate.benchmarks
    return grid.table.tasks.source == "lab" or any(b.startswith("lab") for b in benchmarks)


def write_results(grid: Grid, found: Mapping[str, Any]) -> Path:
    """``results`` as DIR/results.json, whole or not at all."""
    path = grid.dir / RESULTS
    with replacing(path, "the results", folder=True) as unfinished:
        unfinished.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return path


def write_report(grid: Grid, cells: Sequence[Cell], found: Mapping[str, Any]) -> Path:
    """Write the report to its path, whole or not at all. Raises UserError where it cannot be."""
    path = Path(found["report"])
    page = render(grid, cells, found)
    with replacing(path, "the report", folder=True) as unfinished:
        unfinished.write_text(page, encoding="utf-8", newline="\n")
    return path


def render(grid: Grid, cells: Sequence[Cell], found: Mapping[str, Any]) -> str:
    """The page as text, in the house style of a run's report."""
    from jinja2 import ChoiceLoader, PackageLoader

    from persd.report import _template

    house = _template().environment
    own = PackageLoader("persd.experiment", ".")
    environment = house.overlay(loader=ChoiceLoader([own, house.loader]), cache_size=50)
    return str(environment.get_template("page.html").render(contents(grid, cells, found)))


# ---- the page ---------------------------------------------------------------------------------


def contents(grid: Grid, cells: Sequence[Cell], found: Mapping[str, Any]) -> dict[str, Any]:
    """Everything the page shows, by the names ``page.html`` uses."""
    from persd.report.page import config_rows
    from persd.report.summary import WORDS

    several = any(len(row["seeds"]) > 1 for row in found["rows"])
    return {
        "name": grid.dir.resolve().name or "experiment",
        "lab_note": LAB_NOTE if found["lab"] else "",
        "found": found,
        "facts": _facts(grid, found),
        "config": list(config_rows(grid.table.model_dump(mode="json", exclude_unset=True))),
        "trained": [_trained(grid, arm) for arm in found["trained"]],
        "several_students": len(grid.table.student) > 1,
        "said": said_of(found["trained"]),
        "interval": INTERVAL if several else ONE_SEED,
        "boards": [_board(*board) for board in _boards(found["rows"])],
        "collections": [_collection(grid, c) for c in grid.collections()],
        "answerers": _answerers(grid, cells),
        "words": WORDS,
        "apart_means": compared.APART,
        "source": SOURCE,
        "size": size,
    }


def _facts(grid: Grid, found: Mapping[str, Any]) -> list[tuple[str, str]]:
    table = grid.table
    students = (f"{row.name} ({row.model})" for row in table.student)
    return [
        ("Folder", str(grid.dir)),
        ("Students", ", ".join(students)),
        ("Teacher", ", then ".join(t.model for t in table.teacher)),
        ("Tasks", f"{table.tasks.source}{f', {table.tasks.limit:,}' if table.tasks.limit else ''}"),
        ("Scored on", ", ".join(table.evaluate.benchmarks)),
        ("Seeds", ", ".join(map(str, table.experiment.seeds))),
        ("Versions", ", ".join(f"{name} {version}" for name, version in versions().items())),
    ]


def versions() -> dict[str, str]:
    """Of this program and of what trains and samples, as they are installed here."""
    import platform
    from importlib.metadata import PackageNotFoundError, version

    found = {"persd": __version__, "Python": platform.python_version()}
    for name in ("torch", "transformers", "trl"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _trained(grid: Grid, arm: Mapping[str, Any]) -> dict[str, Any]:
    """An arm with its settings that are not everybody's, in words."""
    common = grid.table.train.model_dump(mode="json")
    own = {k: v for k, v in arm["train"].items() if v != common[k]}
    shown = ("epochs", "lr", "batch_size")
    main = {k: arm["train"][k] for k in shown if k in arm["train"]}
    words = ", ".join(f"{k.replace('_', ' ')} {v}" for k, v in (main | own).items())
    return {**arm, "settings": words}


def _boards(rows: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """The rows by student."""
    for student in dict.fromkeys(row["student"] for row in rows):
        yield student, [dict(row) for row in rows if row["student"] == student]


def _board(student: str, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What is shown of one student: for each benchmark the pictures and the tables."""
    # a picture is told what it draws: scores and controls, of no round
    drawn = [
        {
            **{k: v for k, v in row.items() if not k.startswith("less_")},
            "round": 0,
            "statuses": {},
            "seconds": 0.0,
        }
        for row in rows
    ]
    boards = []
    for board in plots.benchmarks(drawn):
        mine = [row for row in rows if row["benchmark"] == board["name"]]
        boards.append(
            {
                **board,
                "rows": mine,
                "apart": apart(mine)[:-1],
                "has_paper": any("paper" in row for row in mine),
                "compared": [c for words, key in AGAINST.items() if (c := _less(mine, words, key))],
            }
        )
    return {"student": student, "benchmarks": boards}


def _less(rows: Sequence[Mapping[str, Any]], words: str, key: str) -> dict[str, Any] | None:
    """The differences to one thing: a row an arm and step; None where there are none."""
    found = [row for row in rows if row.get(key)]
    if not found:
        return None
    ks = list(dict.fromkeys(k for row in found for k in row[key]))
    cells = [
        {k: (compared.points(d["value"]), span(d), d["clear"]) for k, d in row[key].items()}
        for row in found
    ]
    rows = [{**row, "cells": cell} for row, cell in zip(found, cells, strict=True)]
    return {"words": words, "named": key == "less_reference", "ks": ks, "rows": rows}


def _collection(grid: Grid, collection: Collection) -> dict[str, Any]:
    """One collection: its rounds' funnels and its money."""
    from persd.report.page import _funnel

    with Ledger(grid.config(collection).run.dir, read_only=True) as ledger:
        funnels = [_funnel(f) for f in summary.funnels(ledger)]
        return {"name": collection.name, "funnels": funnels, "money": money(ledger)}


def _answerers(grid: Grid, cells: Sequence[Cell]) -> list[dict[str, Any]]:
    """Who answered, over all folders, and what its answers depend on."""
    from persd.report.page import answerers

    folders = [Path(grid.config(c).run.dir) for c in grid.collections()]
    folders += [cell_folder(grid, c.plan.arm) for c in cells if not c.plan.skipped]
    found: dict[str, dict[str, Any]] = {}
    for folder in folders:
        if not (folder / FILE_NAME).is_file():
            continue
        with Ledger(folder, read_only=True) as ledger:
            for one in answerers(ledger):
                key = json.dumps([one["role"], one["model"], one["versions"]])
                if key in found:
                    found[key]["calls"] += one["calls"]
                else:
                    found[key] = one
    return list(found.values())


# ---- before anything is done ------------------------------------------------------------------


def dry_run(grid: Grid) -> dict[str, Any]:
    """What an experiment would do, and at most pay: no work is done.

    {"arms", "done", "rows": [{"student", "model", "seeds", "done"}], "collections": [{"name",
    "dir", "tasks", "tasks_finished", "calls_at_most" (of the teacher), "usd" (spent),
    "usd_at_most" (null: unknown)}], "usd_at_most" (of all, caps kept), "notes"}.
    """
    need_benchmarks(grid)
    done: dict[tuple[str, str], list[bool]] = {}
    for arm in grid.arms():
        is_done = score_file(grid, arm).is_file()
        done.setdefault((arm.student, arm.name), []).append(is_done)
    collections = [_expected(grid, c) for c in grid.collections()]
    return {
        "arms": len(grid.arms()),
        "done": sum(map(sum, done.values())),
        "rows": [
            {"student": student, "model": name, "seeds": len(seeds), "done": sum(seeds)}
            for (student, name), seeds in done.items()
        ],
        "collections": collections,
        "usd_at_most": _capped(grid, [c["usd_at_most"] for c in collections]),
        "notes": list(_notes(grid, collections)),
    }


def _expected(grid: Grid, collection: Collection) -> dict[str, Any]:
    from persd.forecast import dry_run as forecast

    config = grid.config(collection)
    told = forecast(config)["forecast"]
    calls, most = told["calls"], told["usd"]
    return {
        "name": collection.name,
        "dir": config.run.dir,
        "tasks": told["tasks"],
        "tasks_finished": told["tasks_finished"],
        "calls_at_most": calls["directs"]["high"] + calls["repairs"]["high"],
        "usd": told["spent_usd"],
        "usd_at_most": None if most is None else most["high"],
    }


def _capped(grid: Grid, usd: Sequence[float | None]) -> float | None:
    """What all collections cost at most together; the caps are the experiment's."""
    caps = [t.budget_usd for t in grid.table.teacher]
    cap = sum(c for c in caps if c is not None) if None not in caps else None
    known = [u for u in usd if u is not None]
    if len(known) < len(usd):
        return cap
    return sum(known) if cap is None else min(cap, sum(known))


def _notes(grid: Grid, collections: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    from persd.report.text import usd

    most = _capped(grid, [c["usd_at_most"] for c in collections])
    yield f"the teacher costs at most {usd(most)} in all; arms ask no teacher"
    caps = [t for t in grid.table.teacher if t.budget_usd is not None]
    for teacher in caps:
        cap = usd(teacher.budget_usd)
        yield f"{teacher.model}: the cap of {cap} is for all collections together"
    if len({c.seed for c in grid.collections()}) < len(collections):
        yield (
            "collections of a seed share what they ask alike, which is counted for each here: "
            "direct answers, and a student's first attempts"
        )
