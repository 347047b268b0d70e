"""``persd tasks ...``: write, check, choose and divide tasks before anyone pays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from persd.cli_shared import (
    DryRun,
    Json,
    Unsafe,
    console,
    hint,
    print_json,
    print_plan,
    say,
    stoppable,
    watched,
)
from persd.errors import UserError, WorkFailed

if TYPE_CHECKING:
    from persd.pool.generate import Ended
    from persd.pool.generating import Order

tasks_app = typer.Typer(
    help="Tasks: write, check, choose and divide them before anyone pays.", no_args_is_help=True
)


Out = Annotated[Path, typer.Option(help="File to write; a card goes beside it.")]
Count = Annotated[int, typer.Option(min=1, max=10**7, metavar="N", help="Tasks wanted.")]
Writer = Annotated[str, typer.Option("--teacher", metavar="MODEL", help="Who writes; or lab.")]
Against = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME[=FILE]",
        help="Benchmark (or task file) whose tasks are kept out, or none; in place of the default: "
        "humaneval and mbpp for a teacher that is served.",
    ),
]
Folder = Annotated[
    Path | None,
    typer.Option(
        "--run",
        help="Its ledger's folder; default: runs/tasks/ and OUT's name without .jsonl, "
        "wherever OUT is.",
    ),
]
Seed = Annotated[int, typer.Option(min=0, max=2**31 - 1)]
BaseUrl = Annotated[str | None, typer.Option(metavar="URL", help="MODEL is served there.")]
KeyName = Annotated[
    str | None, typer.Option("--api-key-env", metavar="NAME", help="Variable that holds the key.")
]
Price = Annotated[str | None, typer.Option(metavar="IN,OUT", help="USD per million tokens.")]
Budget = Annotated[float | None, typer.Option("--budget-usd", help="Hard cap on what it may cost.")]
InFlight = Annotated[
    int | None, typer.Option("--max-in-flight", help="Calls at once; default: 16.")
]
SetAny = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=V", help="Any other key of the tables tasks.generate and teacher."
    ),
]


@tasks_app.command("generate")
def tasks_generate(
    count: Count,
    teacher: Writer,
    out: Out,
    seeds: Annotated[
        str | None,
        typer.Option(help="Examples: mbpp (its training tasks), another source, or a task file."),
    ] = None,
    data: Annotated[Path | None, typer.Option(help="Local file of the seeds' source.")] = None,
    topic: Annotated[
        list[str] | None, typer.Option(help="What tasks are about, in turn; default: some forty.")
    ] = None,
    against: Against = None,
    run_dir: Folder = None,
    seed: Seed = 0,
    base_url: BaseUrl = None,
    api_key_env: KeyName = None,
    price: Price = None,
    budget_usd: Budget = None,
    max_in_flight: InFlight = None,
    overrides: SetAny = None,
    dry_run: DryRun = False,
    unsafe: Unsafe = False,
    as_json: Json = False,
) -> None:
    """Have tasks written from seeds, tested and screened. Run it again to go on."""
    from persd.pool.generating import order_of

    order = order_of(
        {
            "count": count,
            "seeds": seeds,
            "path": None if data is None else str(data),
            "topics": topic,
        },
        _endpoint(teacher, base_url, api_key_env, price, budget_usd, max_in_flight),
        overrides or [],
        against,
        out=out,
        run=run_dir,
        seed=seed,
        command="persd tasks generate",
        unsafe=unsafe,
    )
    _generate(order, dry_run, as_json)


@tasks_app.command("evolve")
def tasks_evolve(
    source: Annotated[
        str,
        typer.Argument(
            metavar="FROM",
            help="A run's folder: what its student failed; or a task file with pass rates.",
        ),
    ],
    count: Count,
    teacher: Writer,
    out: Out,
    way: Annotated[
        list[str] | None,
        typer.Option(help="deeper, constraint, input, misdirection; default: all in turn."),
    ] = None,
    against: Against = None,
    run_dir: Folder = None,
    seed: Seed = 0,
    base_url: BaseUrl = None,
    api_key_env: KeyName = None,
    price: Price = None,
    budget_usd: Budget = None,
    max_in_flight: InFlight = None,
    overrides: SetAny = None,
    dry_run: DryRun = False,
    unsafe: Unsafe = False,
    as_json: Json = False,
) -> None:
    """Have tasks rewritten around those a student failed or nearly failed."""
    from persd.pool.generating import order_of

    order = order_of(
        {"count": count, "evolve": source, "ways": way},
        _endpoint(teacher, base_url, api_key_env, price, budget_usd, max_in_flight),
        overrides or [],
        against,
        out=out,
        run=run_dir,
        seed=seed,
        command="persd tasks evolve",
        unsafe=unsafe,
    )
    _generate(order, dry_run, as_json)


def _endpoint(
    model: str,
    base_url: str | None,
    api_key_env: str | None,
    price: str | None,
    budget_usd: float | None,
    max_in_flight: int | None,
) -> dict[str, Any]:
    from persd.evaluating import read_price

    return {
        "model": model,
        "base_url": base_url,
        "api_key_env": api_key_env,
        "price": None if price is None else read_price(price).model_dump(),
        "budget_usd": budget_usd,
        "max_in_flight": max_in_flight,
    }


def _generate(order: Order, dry_run: bool, as_json: bool) -> None:
    """Write what is ordered, or say what it would ask."""
    from persd.pool import generating

    if dry_run:
        found = generating.planned(order)
        if as_json:
            print_json(found)
        else:
            print_plan(found)
        return
    with (
        watched() as progress,
        generating.opened(order, progress) as session,
        stoppable(session),
    ):
        ended, found = generating.written(session, order)
        if not as_json:
            from persd.report.pool import print_pool

            print_pool(console(), session.ledger)
    if as_json:
        print_json(found)
    elif found["tasks"]:
        new = found["states"]["accepted"]
        of = f" (the first of {new} accepted)" if new > found["tasks"] else ""
        print(f"{found['tasks']} tasks{of} -> {found['path']}  (card: {order.card})")
    _tell_ended(ended, found)


def _tell_ended(ended: Ended, found: Mapping[str, Any]) -> None:
    """Why no more was asked, and what to do next."""
    where = f"; {found['path']} holds the {found['tasks']} tasks so far" if found["tasks"] else ""
    if ended.why == "stopped":
        say(f"stopped{where}")
        raise KeyboardInterrupt
    if ended.why == "over_budget":
        say(f"the cap is reached ({ended.detail}){where}; raise --budget-usd and run it again")
    elif ended.why == "nothing":
        raise WorkFailed(f"{ended.detail}{where}")
    elif found["path"]:
        hint(f"persd tasks check {found['path']}")


@tasks_app.command("difficulty")
def tasks_difficulty(
    source: Annotated[str, typer.Argument(help="A benchmark, lab or a task file.")],
    student: Annotated[
        str, typer.Option(metavar="MODEL", help="A folder, a Hub id, lab, or a served model.")
    ],
    out: Annotated[Path, typer.Option(help="File to write: the tasks with their pass rates.")],
    samples: Annotated[int, typer.Option(min=1, max=1000, help="Attempts at each task.")] = 8,
    select: Annotated[
        str,
        typer.Option(
            metavar="none|learnable",
            help="learnable: those solved now and then first, without those always solved.",
        ),
    ] = "none",
    data: Annotated[Path | None, typer.Option(help="Local file of the benchmark.")] = None,
    limit: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=10**9,
            help="Tasks to try, from the first on; with --select, tasks to keep: all are tried.",
        ),
    ] = None,
    temperature: Annotated[float, typer.Option(min=0, max=2)] = 0.3,
    top_p: Annotated[float, typer.Option(min=1e-6, max=1)] = 0.95,
    max_tokens: Annotated[int, typer.Option(min=1, help="Of a reply.")] = 512,
    run_dir: Annotated[
        Path | None,
        typer.Option("--run", help="Its ledger's folder; default: runs/difficulty/SOURCE."),
    ] = None,
    seed: Seed = 0,
    base_url: BaseUrl = None,
    api: Annotated[str | None, typer.Option(help="chat or completions; served: chat.")] = None,
    api_key_env: KeyName = None,
    price: Price = None,
    budget_usd: Budget = None,
    max_in_flight: InFlight = None,
    revision: Annotated[
        str | None, typer.Option(help="Branch, tag or commit of a Hub id; default: main.")
    ] = None,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run a checkpoint's own Python code.")
    ] = False,
    unsafe: Unsafe = False,
    as_json: Json = False,
) -> None:
    """How often a student solves each task. Run it again to go on."""
    from persd.config import StudentTable, VerifyTable, from_flags
    from persd.pool import measuring

    if select not in ("none", "learnable"):
        raise UserError(f"--select {select!r} is neither none nor learnable")
    given = {
        **_endpoint(student, base_url, api_key_env, price, budget_usd, max_in_flight),
        "api": api,
        "temperature": temperature,
        "top_p": top_p,
        "max_tokens": max_tokens,
        "revision": revision,
        "trust_remote_code": trust_remote_code,
    }
    given = {key: value for key, value in given.items() if value is not None}
    order = measuring.Order(
        source=source,
        student=from_flags(StudentTable, given, "persd tasks difficulty"),
        samples=samples,
        out=out,
        data=data,
        limit=limit,
        select="learnable" if select == "learnable" else "none",
        run=run_dir,
        seed=seed,
        verify=VerifyTable(unsafe=unsafe),
    )
    with watched() as progress:
        found = measuring.measure(order, progress)
    if as_json:
        print_json(found)
        return
    from persd.report import tables

    tables.print_facts(console(), f"{source}, tried by {student}", measuring.readable(found))


HeldAgainst = Annotated[
    list[str] | None,
    typer.Option(
        "--against", metavar="NAME[=FILE]", help="Benchmark, or task file, it is held against."
    ),
]


@tasks_app.command("check")
def tasks_check(
    source: Annotated[str, typer.Argument(help="humaneval, mbpp, lab or a task file.")],
    data: Annotated[Path | None, typer.Option(help="Local file of the benchmark.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, max=10**9, help="Tasks to check.")] = None,
    against: HeldAgainst = None,
    unsafe: Unsafe = False,
    as_json: Json = False,
) -> None:
    """Run every reference and a stub: bad tests are named before anyone pays."""
    from persd.pool.check import check_source

    with watched() as progress:
        found = check_source(source, data, limit, progress, against=against or [], unsafe=unsafe)
    from persd.report.text import visible

    if as_json:
        print_json(found)
    else:
        for fault in found["problems"]:
            print(visible(f"{fault['task_id']}: {fault['reason']}: {fault['detail']}"))
        for fault in found.get("warnings", []):
            say(f"warning: {fault['task_id']}: {fault['reason']}: {fault['detail']}")
        _tell_near(found["near_duplicates"])
        _tell_overlap(found.get("overlap"))
        print(f"{found['ok']} of {found['tasks']} tasks are sound")
    if found["problems"]:
        raise typer.Exit(1)


@tasks_app.command("seen")
def tasks_seen(
    source: Annotated[str, typer.Argument(help="A benchmark, lab or a task file.")],
    data: Annotated[Path | None, typer.Option(help="Local file of the benchmark.")] = None,
    split: Annotated[
        str | None, typer.Option(help="train, test or all; default: MBPP's train and test.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, max=10**9, help="Tasks to look at.")] = None,
    unsafe: Unsafe = False,
    as_json: Json = False,
) -> None:
    """Which of the tests that may be shown does the reference pass, and which are dropped."""
    from persd.tasks.seen import readable, seen_source

    with watched() as progress:
        found = seen_source(source, data, limit, progress, split=split, unsafe=unsafe)
    if as_json:
        print_json(found)
        return
    from persd.report.text import visible

    for line in readable(found):
        print(visible(line))


SourceName = Annotated[
    str, typer.Argument(metavar="SOURCE", help="A task file, a benchmark, persdistill or lab.")
]
SourceData = Annotated[
    Path | None, typer.Option("--data", help="Local file of a benchmark; folder of persdistill.")
]
TaskFile = Annotated[Path, typer.Option("--out", help="Task file to write.")]


@tasks_app.command("stats")
def tasks_stats(
    source: SourceName, data: SourceData = None, unsafe: Unsafe = False, as_json: Json = False
) -> None:
    """What a task file is made of: sizes, tests, types, pass rates, near-duplicates, cost."""
    from persd.pool.files import Source
    from persd.pool.stats import readable, stats

    with watched() as progress:
        found = stats(Source(source, data, unsafe), progress)
    if as_json:
        print_json(found)
        return
    from persd.report.tables import print_facts

    print_facts(console(), source, dict(readable(found)))
    for fault in found["faults"]:
        say(f"{fault['where']}: {fault['reason']}: {fault['detail']}")
    _tell_near(found["near_duplicates"])


@tasks_app.command("dedupe")
def tasks_dedupe(
    source: SourceName,
    out: TaskFile,
    data: SourceData = None,
    against_pool: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="Leave out what is in this task file, too."),
    ] = None,
    unsafe: Unsafe = False,
    as_json: Json = False,
) -> None:
    """Keep the first of tasks that are one task twice."""
    from persd.pool.divide import dedupe
    from persd.pool.files import Source

    with watched() as progress:
        found = dedupe(Source(source, data, unsafe), out, against_pool or [], progress)
    if as_json:
        print_json(found)
        return
    _tell_near(found["dropped"], "left out: ")
    _tell_kept(found)


@tasks_app.command("decontaminate")
def tasks_decontaminate(
    source: SourceName,
    out: TaskFile,
    against: Annotated[
        list[str],
        typer.Option(
            metavar="NAME[=FILE]", help="Benchmark, or task file, whose tasks are left out."
        ),
    ],
    data: SourceData = None,
    unsafe: Unsafe = False,
    as_json: Json = False,
) -> None:
    """Leave out the tasks that are a benchmark's tasks again."""
    from persd.pool.divide import decontaminate
    from persd.pool.files import Source

    with watched() as progress:
        found = decontaminate(Source(source, data, unsafe), out, against, progress, unsafe=unsafe)
    if as_json:
        print_json(found)
        return
    _tell_overlap(found["overlap"])
    _tell_kept(found)


@tasks_app.command("split")
def tasks_split(
    source: SourceName,
    out: Annotated[list[Path], typer.Option(help="Task file to write; one for each part.")],
    share: Annotated[
        list[float],
        typer.Option(metavar="S", help="Share of the tasks (0-1), for each --out in turn."),
    ],
    data: SourceData = None,
    seed: Seed = 0,
    unsafe: Unsafe = False,
    as_json: Json = False,
) -> None:
    """Divide tasks by chance, near-duplicates to one side."""
    from persd.pool.divide import split
    from persd.pool.files import Source

    with watched() as progress:
        found = split(Source(source, data, unsafe), out, share, seed, progress)
    if as_json:
        print_json(found)
        return
    from persd.report.text import number, visible

    for group in found["groups"][:_LINES]:
        print(visible(f"kept together: {', '.join(group)}"))
    if len(found["groups"]) > _LINES:
        print(f"{number(len(found['groups']) - _LINES)} more groups (--json has them)")
    _tell_replaced(found)
    for part in found["parts"]:
        share_told = f"{100 * part['share']:.1f} %, wanted {100 * part['wanted']:g} %"
        print(visible(f"{part['path']}: {number(part['tasks'])} tasks ({share_told})"))


#: Lines of one kind that are shown in a terminal; all are in --json.
_LINES = 40


def _tell_near(rows: Sequence[Mapping[str, Any]], what: str = "") -> None:
    from persd.report.text import number, visible

    for row in rows[:_LINES]:
        where = f" in {row['file']}" if "file" in row else ""
        told = f"{row['measure']} {row['alike']:.2f} alike ({row['text'] or row['shared']})"
        print(visible(f"{what}{row['task_id']} is a near-duplicate of {row['of']}{where}: {told}"))
    if len(rows) > _LINES:
        print(f"{what}{number(len(rows) - _LINES)} more near-duplicates (--json has them)")


def _tell_overlap(found: Mapping[str, Any] | None) -> None:
    """What tasks overlap of benchmarks: the pairs, then how many of each benchmark."""
    from persd.report.text import number, visible

    for name, row in (found or {"benchmarks": {}})["benchmarks"].items():
        for match in row["matches"][:_LINES]:
            told = f"{match['measure']} {match['alike']:.2f} alike ({match['text']})"
            print(visible(f"{match['train_id']} overlaps {name} {match['task_id']}: {told}"))
        if row["pairs"] > _LINES:
            more = number(row["pairs"] - _LINES)
            print(visible(f"{more} more pairs overlap with {name} (--json has the most alike)"))
        touched = f"{number(len(row['touched']))} of its {number(row['tasks'])} tasks"
        print(visible(f"{name}: {number(row['flagged'])} tasks overlap {touched}"))


def _tell_kept(found: Mapping[str, Any]) -> None:
    from persd.report.text import number, visible

    _tell_replaced(found)
    print(visible(f"{number(found['kept'])} of {number(found['tasks'])} tasks: {found['path']}"))


def _tell_replaced(found: Mapping[str, Any]) -> None:
    for path in found["replaced"]:
        say(f"{path} was there and is replaced")
    if found["untested"]:
        say(f"{found['untested']} tasks without a test are left out: a task file cannot hold them")
