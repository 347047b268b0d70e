"""``persd tasks ...``: write, check, choose and divide tasks before anyone pays."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from persd.cli_shared import Json, Unsafe, print_json, say, watched

tasks_app = typer.Typer(
    help="Tasks: write, check, choose and divide them before anyone pays.", no_args_is_help=True
)


@tasks_app.command("check")
def tasks_check(
    source: Annotated[str, typer.Argument(help="humaneval, mbpp, lab or a task file.")],
    data: Annotated[Path | None, typer.Option(help="Local file of the benchmark.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, max=10**9, help="Tasks to check.")] = None,
    unsafe: Unsafe = False,
    as_json: Json = False,
) -> None:
    """Run every reference and a stub: bad tests are named before anyone pays."""
    from persd.tasks.check import check_source

    with watched() as progress:
        found = check_source(source, data, limit, progress, unsafe=unsafe)
    from persd.report.text import visible

    if as_json:
        print_json(found)
    else:
        for fault in found["problems"]:
            print(visible(f"{fault['task_id']}: {fault['reason']}: {fault['detail']}"))
        for fault in found.get("warnings", []):
            say(f"warning: {fault['task_id']}: {fault['reason']}: {fault['detail']}")
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
