"""The page's contents as plain values; ``page.html`` only lays them out."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from persd.ledger import Ledger
from persd.report import cases, compared, curves, plots, pool, sets, summary, teacher
from persd.report.money import FATES, Money, Part, money
from persd.report.plots import TYPES_SHOWN, place
from persd.report.results import results
from persd.report.summary import WORDS
from persd.report.text import percent, stored_text, without_password

#: How a state is coloured and grouped: taught, known already, dropped, or still open.
TONES: Mapping[str, str] = {
    "refined": "taught",
    "solved": "known",
    "waiting": "open",
    "over_budget": "open",
    "unavailable": "open",
    "not_run": "open",
}


def contents(ledger: Ledger, limit: int) -> dict[str, Any]:
    """Everything the page shows, by the names ``page.html`` uses; ``limit`` attempts."""
    found = summary.funnels(ledger)
    keys, there = cases.select(ledger, limit=limit)
    released = summary.released_error_types(ledger)
    paid, repairs = money(ledger), teacher.teacher(ledger)
    made = pool.contents(ledger, paid)
    return {
        "name": ledger.run.resolve().name or "run",
        "kind": kind_of(ledger, made),
        "pool": made,
        "lab": summary.is_lab(ledger),
        "facts": facts(ledger),
        "config": list(config_rows(summary.config_of(ledger) or pool.settings_of(ledger))),
        "answerers": answerers(ledger),
        "totals": summary.totals(ledger, paid),
        "funnels": [_funnel(f) for f in found],
        "words": WORDS,
        "benchmarks": plots.benchmarks(results(ledger)),
        "apart_means": compared.APART,
        "errors": [_errors(e.failing, e.types, e) for e in summary.error_types(ledger)],
        "released": _errors(sum(released.values()), released) if released else None,
        "money": paid,
        "fates": FATES,
        "money_bars": money_bars(paid),
        "by_state": _dearest(paid.by_state),
        "teacher": repairs,
        "tries": _tries(repairs),
        "cascade": teacher.cascade(repairs.tries, paid),
        "data_sets": sets.data_sets(ledger),
        "checkpoints": sets.trained(ledger),
        "curves": curves.curves(ledger),
        "closeness": sets.closeness(ledger),
        "cases": list(cases.gather(ledger, keys)),
        "cases_there": there,
        "states_shown": [s for s in cases.REPAIRED if any(k[2] == s for k in keys)],
    }


def kind_of(ledger: Ledger, made: Mapping[str, Any] | None) -> str:
    """``run``; or ``tasks``: a folder that holds a pool, and no run on it."""
    alone = made is not None and not ledger.count_tasks() and not summary.config_of(ledger)
    return "tasks" if alone else "run"


# -- what the run is --------------------------------------------------------------------------


def facts(ledger: Ledger) -> list[tuple[str, str]]:
    """The run in a few lines: what, who, how, when."""
    config = summary.config_of(ledger)
    run, tasks = config.get("run") or {}, config.get("tasks") or {}
    found = [
        ("Folder", str(run.get("dir") or ledger.run)),
        ("Tasks", _tasks(ledger, tasks)),
        ("Student", _model(config.get("student") or {})),
        ("Teacher", ", then ".join(_model(t) for t in config.get("teacher") or [])),
        ("Seed", str(run.get("seed", ""))),
        ("Rounds", f"{len(ledger.rounds())} of {run['rounds']} begun" if "rounds" in run else ""),
        ("Variants", ", ".join(run.get("variants") or [])),
        ("persd", ", ".join(_versions(ledger, "persd"))),
        ("Isolation", _isolation(ledger)),
        ("Answers", _when(ledger)),
    ]
    return [(name, value) for name, value in found if value]


def _tasks(ledger: Ledger, table: Mapping[str, Any]) -> str:
    count = ledger.count_tasks()
    if count or table:
        return f"{count:,} from {table.get('source', 'a file')}"
    accepted = ledger.count_candidates().get(pool.ACCEPTED, 0)
    return f"{accepted:,} accepted" if accepted else ""


def _model(spec: Mapping[str, Any]) -> str:
    at = f" at {without_password(spec['base_url'])}" if spec.get("base_url") else ""
    return f"{spec.get('model', '')}{at}"


def _isolation(ledger: Ledger) -> str:
    sql = "SELECT isolation, COUNT(*) AS n FROM verdicts GROUP BY isolation ORDER BY n DESC"
    rows = [(stored_text(r["isolation"]) or "not recorded", r["n"]) for r in ledger.query(sql)]
    return "; ".join(f"{name} ({n:,} verdicts)" for name, n in rows)


def _when(ledger: Ledger) -> str:
    row = ledger.query("SELECT MIN(created) AS first, MAX(created) AS last FROM calls")[0]
    if row["first"] is None:
        return ""
    first, last = (
        f"{datetime.fromtimestamp(row[key], UTC):%Y-%m-%d %H:%M:%S}" for key in ("first", "last")
    )
    return f"{first} to {last} UTC"


def _versions(ledger: Ledger, name: str) -> list[str]:
    rows = ledger.query("SELECT DISTINCT versions FROM calls")
    return sorted({str(v[name]) for v in (json.loads(r["versions"]) for r in rows) if name in v})


def config_rows(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Every key of the config, dotted, with its value as JSON; None is left out."""
    for key, value in config.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            yield from config_rows(value, f"{name}.")
        elif isinstance(value, list) and any(isinstance(v, Mapping) for v in value):
            for i, one in enumerate(value):
                yield from config_rows(one, f"{name}.{i}.")
        elif value is not None:
            yield name, without_password(json.dumps(value, ensure_ascii=False))


def answerers(ledger: Ledger) -> list[dict[str, Any]]:
    """Who answered: role, model, calls, and everything its answers depend on."""
    sql = (
        "SELECT role, model, versions, COUNT(*) AS n FROM calls GROUP BY role, model, versions "
        "ORDER BY role DESC, model, versions"
    )
    return [
        {
            "role": r["role"],
            "model": stored_text(r["model"]),
            "calls": r["n"],
            "versions": sorted(json.loads(r["versions"]).items()),
        }
        for r in ledger.query(sql)
    ]


# -- pictures: bars ---------------------------------------------------------------------------


def _funnel(found: summary.Funnel) -> dict[str, Any]:
    """A bar a state; each begins where the last ended, so that together they are all tasks."""
    bars, before = [], 0
    for state, count in found.states.items():
        bars.append(
            {
                "state": state,
                "count": count,
                "tone": TONES.get(state, "dropped"),
                "start": place(before, found.tasks),
                "width": place(count, found.tasks),
            }
        )
        before += count
    return {"round": found.round, "tasks": found.tasks, "bars": bars}


def money_bars(paid: Money) -> list[dict[str, Any]]:
    """A bar a fate; each begins where the last ended, so that together they are all the money."""
    bars, before = [], 0.0
    for part in paid.fates:
        usd = part.sum.usd_known
        bars.append(
            {
                "part": part,
                "tone": _FATE_TONES.get(part.name, "open" if part.name == "open" else "dropped"),
                "start": place(before, paid.all.usd_known),
                "width": place(usd, paid.all.usd_known),
                "share": _share(usd, paid.all.usd_known),
            }
        )
        before += usd
    return bars


#: What was paid for is coloured like the tasks: taught, known already, dropped, or still open.
_FATE_TONES: Mapping[str, str] = {
    "tasks": "taught",
    "difficulty": "known",
    "repairs": "taught",
    "direct": "taught",
    "spare": "known",
    "attempts": "known",
    "evaluation": "known",
}


def _share(part: float, whole: float) -> str:
    return f"{percent(part / whole)} %" if whole else "–"


def _dearest(parts: Sequence[Part]) -> list[dict[str, Any]]:
    """Bars of what a task of each state cost, scaled to the dearest."""
    each = [p.usd_each or 0.0 for p in parts]
    most = max(each, default=0.0)
    return [{"part": p, "width": place(usd, most)} for p, usd in zip(parts, each, strict=True)]


def _tries(found: teacher.Teacher) -> list[dict[str, Any]]:
    """A bar a try: the tasks it settled, of all with a repair, beginning where the last ended."""
    bars, before = [], 0
    for made in found.tries:
        start, width = place(before, found.tasks), place(made.passed, found.tasks)
        bars.append({"made": made, "start": start, "width": width})
        before += made.passed
    return bars


def _errors(
    failing: int, types: Mapping[str, int], found: summary.ErrorTypes | None = None
) -> dict[str, Any]:
    """Bars of the most frequent types, scaled to the most frequent, and the rest by name."""
    items = list(types.items())
    most = items[0][1] if items else 0
    return {
        "round": found.round if found else None,
        "attempts": found.attempts if found else failing,
        "failing": failing,
        "statuses": found.statuses if found else {},
        "bars": [{"type": t, "count": n, "width": place(n, most)} for t, n in items[:TYPES_SHOWN]],
        "rest": items[TYPES_SHOWN:],
    }
