"""The tables in the terminal: within 80 columns, and plain text where it is no terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

from persd.ledger import Ledger
from persd.report import compared, pool, sets, summary
from persd.report.money import FATES, WASTED, Money, Sum, money
from persd.report.results import results
from persd.report.text import new_table, number, percent, share, text_cell, usd

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

#: Columns a table may take, whatever the terminal.
WIDTH = 80


def print_funnel(console: Console, ledger: Ledger) -> None:
    """How the pool was made, where it was, and where the tasks of each round ended."""
    pool.print_pool(console, ledger)
    for found in summary.funnels(ledger):
        console.print(funnel_table(found))


def funnel_table(found: summary.Funnel) -> Table:
    """One round: states, tasks, share and what the state means."""
    table = new_table(f"Round {found.round}: {number(found.tasks)} tasks")
    table.add_column("state", no_wrap=True)
    table.add_column("tasks", justify="right", no_wrap=True)
    table.add_column("share", justify="right", no_wrap=True)
    table.add_column("meaning")
    for state, count in found.states.items():
        words = summary.WORDS[state]
        table.add_row(
            text_cell(state.replace("_", " ")), number(count), share(count, found.tasks), words
        )
    table.add_section()
    table.add_row("all", number(found.tasks), share(found.tasks, found.tasks), "")
    return table


def print_results(console: Console, ledger: Ledger) -> None:
    """The scores of base and variants and what they are compared to; or that there are none."""
    rows = results(ledger)
    if not rows:
        console.print("No model has been evaluated yet.", markup=False)
        return
    for table in result_tables(rows):
        console.print(table)
    say(console, "pass@k in percent, with the 95 % bootstrap interval over tasks")
    if any("resample" in row for row in rows):
        say(console, compared.RESAMPLE)
    _say_apart(console, rows)
    differences = list(compared_tables(rows))
    for table in differences:
        console.print(table)
    if differences:
        say(console, compared.POINTS)


def _say_apart(console: Console, rows: Sequence[Mapping[str, Any]]) -> None:
    """What is part of no score, a line a row of the results; nothing where there is nothing."""
    found = [line for _, group in _by_benchmark(rows) for line in compared.apart(group, True)]
    for line in found:
        say(console, line)
    if found:
        say(console, compared.APART)


def _by_benchmark(
    rows: Sequence[Mapping[str, Any]],
) -> Iterator[tuple[str, list[Mapping[str, Any]]]]:
    for benchmark, group in groupby(rows, key=lambda r: r["benchmark"]):
        yield benchmark, list(group)


def result_tables(rows: Sequence[Mapping[str, Any]]) -> Iterator[Table]:
    """A table a benchmark; more where its ks do not fit beside each other."""
    for benchmark, found in _by_benchmark(rows):
        names = compared.names(found)
        room = WIDTH - 12 - max(len(r["model"]) for r in found) - sum(len(n) + 2 for n in names)
        ks = list(dict.fromkeys(k for r in found for k in r["pass@k"]))
        gap = " " if len(ks) * BESIDE <= room else "\n"
        fit = max(1, room // (BESIDE if gap == " " else BELOW))
        for start in range(0, len(ks), fit):
            yield _result_table(benchmark, found, names, ks[start : start + fit], gap)


#: Columns of a score with its interval beside it, and below it, and the space to the next.
BESIDE, BELOW = 21, 13


def _result_table(
    benchmark: str,
    rows: Sequence[Mapping[str, Any]],
    names: Sequence[str],
    ks: Sequence[str],
    gap: str,
) -> Table:
    first = rows[0]
    same = len({(r["tasks"], r["samples"]) for r in rows}) == 1
    size = f": {number(first['tasks'])} tasks, {first['samples']} samples each" if same else ""
    table = new_table(f"{benchmark}{size}")
    table.add_column("model", no_wrap=True)
    for name in [*names, "examples", *(f"pass@{k}" for k in ks)]:
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        places = [str(row[n] or "–") for n in names]
        trained = "?" if row["examples"] is None else number(row["examples"])
        scores = (score_cell(row, k, gap) for k in ks)
        table.add_row(text_cell(row["model"]), *places, trained, *scores)
        if control := row.get("resample"):
            scores = (score_cell(control, k, gap) for k in ks)
            table.add_row("  resample", *places, "", *scores)
    return table


def score_cell(row: Mapping[str, Any], k: str, gap: str) -> str:
    """A score in percent and its interval, beside it or on the line below."""
    if k not in row["pass@k"]:
        return "–"
    low, high = row["interval"].get(k, (None, None))
    interval = "" if low is None else f"{percent(low)}–{percent(high)}"
    interval = interval and (f" ({interval})" if gap == " " else f"\n{interval}")
    return f"{percent(row['pass@k'][k])}{interval}"


def compared_tables(rows: Sequence[Mapping[str, Any]]) -> Iterator[Table]:
    """A table a benchmark and what is compared to: a row a model, step and k."""
    for benchmark, group in _by_benchmark(rows):
        names = compared.names(group)
        for against in compared.AGAINST:
            if found := compared.comparisons(group, against):
                yield _compared_table(f"{benchmark}, compared: less {against}", names, found)


def _compared_table(
    title: str, names: Sequence[str], found: Sequence[compared.Comparison]
) -> Table:
    table = new_table(title)
    table.add_column("model", overflow="fold")
    for name in [*names, "k", "points", "solved", "lost"]:
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for one in found:
        places = [str(one.row[n] or "–") for n in names]
        cells = f"{one.points} ({one.span})", number(one.newly_solved), number(one.newly_lost)
        clear = "clear" if one.clear else ""
        table.add_row(text_cell(one.row["model"]), *places, one.k, *cells, clear)
    return table


def print_money(console: Console, ledger: Ledger, paid: Money | None = None) -> None:
    """What was paid and what for; nothing where nothing was paid and no endpoint was asked.

    ``paid``: the money where it is known already, so that it is not summed up again.
    """
    paid = paid or money(ledger)
    if paid.all.is_money:
        console.print(money_table(paid))
        console.print(text_cell(money_line(paid)))


def money_table(paid: Money) -> Table:
    """A row a stage, round and model that was served or paid; all together at the foot."""
    cached = bool(paid.all.cached_tokens)
    table = new_table("Calls and money")
    table.add_column("stage", no_wrap=True)
    table.add_column("round", justify="right", no_wrap=True)
    table.add_column("model", overflow="fold")
    for name in ("calls", "tokens in", *(["cached"] if cached else []), "out", "USD"):
        table.add_column(name, justify="right", no_wrap=True)
    shown = [s for s in paid.spending if s.sum.is_money]
    for s in shown:
        table.add_row(s.stage, str(s.round or "–"), text_cell(s.model), *_amounts(s.sum, cached))
    table.add_section()
    table.add_row("all", "", "", *_amounts(sum((s.sum for s in shown), Sum()), cached))
    return table


def _amounts(found: Sum, cached: bool) -> list[str]:
    tokens = [found.input_tokens, *([found.cached_tokens] if cached else []), found.output_tokens]
    return [number(found.calls), *map(number, tokens), usd(found.usd).removesuffix(" USD")]


def money_line(paid: Money) -> str:
    """What a verified example cost, what was wasted and what went wrong, in one sentence."""
    parts = []
    if paid.examples and paid.usd_per_example is not None:
        parts.append(f"{usd(paid.usd_per_example)} per verified example")
    parts.append(f"wasted {usd(paid.wasted.usd)}{_wasted_on(paid)}")
    if paid.retries:
        reasons = ", ".join(f"{number(n)} {k.replace('_', ' ')}" for k, n in paid.retries.items())
        count = sum(paid.retries.values())
        parts.append(f"{number(count)} {'try' if count == 1 else 'tries'} failed: {reasons}")
    if paid.all.untold:
        most = "an unknown sum" if paid.all.at_risk is None else usd(paid.all.at_risk)
        parts.append(f"up to {most} more for {number(paid.all.untold)} whose cost is not known")
    return "; ".join(parts)


def _wasted_on(paid: Money) -> str:
    """By what it was paid for, in brackets."""
    parts = [
        f"{FATES[p.name]} {usd(p.sum.usd).removesuffix(' USD')}"
        for p in paid.fates
        if p.name in WASTED and p.sum.usd != 0
    ]
    return f" ({', '.join(parts)})" if parts else ""


def print_data_sets(console: Console, ledger: Ledger) -> None:
    """The data sets built from the run, or a line that there are none."""
    found = sets.data_sets(ledger)
    console.print(data_sets_table(found) if found else "No data set has been built yet.")


def data_sets_table(found: Sequence[sets.DataSet]) -> Table:
    """A row a data set: how many examples, and what was left out for which reason."""
    table = new_table("Data sets")
    table.add_column("variant", no_wrap=True)
    table.add_column("rounds", no_wrap=True)
    table.add_column("examples", justify="right", no_wrap=True)
    table.add_column("tasks", justify="right", no_wrap=True)
    table.add_column("left out")
    for data in found:
        reasons = ", ".join(f"{number(n)} {reason}" for reason, n in data.rejected.items())
        table.add_row(
            text_cell(data.variant or "(empty)"),
            ", ".join(map(str, data.rounds)),
            number(data.examples),
            number(data.tasks),
            text_cell(reasons or "none"),
        )
    return table


def print_facts(console: Console, title: str, facts: Mapping[str, Any]) -> None:
    """Named figures one below the other; what is nested is set in."""
    table = new_table(title)
    table.add_column("", overflow="fold")
    table.add_column("", justify="right", overflow="fold")
    for name, value in _flat(facts):
        table.add_row(text_cell(name), text_cell(value))
    table.show_header = False
    console.print(table)


def _flat(facts: Mapping[str, Any], depth: int = 0) -> Iterator[tuple[str, str]]:
    for name, value in facts.items():
        shown = "  " * depth + str(name).replace("_", " ")
        if isinstance(value, Mapping):
            yield shown, ""
            yield from _flat(value, depth + 1)
        else:
            yield shown, _value(value)


def _value(value: Any) -> str:
    if value is None:
        return "unknown"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return number(value)
    if isinstance(value, float):
        return f"{value:.3f}"
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return str(value)


def say(console: Console, text: str) -> None:
    """A remark under a table."""
    console.print(text_cell(text), style="dim")
