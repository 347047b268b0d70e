"""What the command line's files share: options that many commands have, and how they talk."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

if TYPE_CHECKING:
    from persd.progress import Progress

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on standard output.")]
Set = Annotated[
    list[str] | None, typer.Option("--set", metavar="A.B=V", help="Override a key of the config.")
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Print the plan and what it is to cost, and stop.")
]
Pilot = Annotated[
    int | None,
    typer.Option(
        min=1, metavar="N", help="Take N tasks by chance through it, and forecast the rest."
    ),
]
Unsafe = Annotated[
    bool, typer.Option("--unsafe", help="Run programs even where nothing keeps your files safe.")
]
RunDir = Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run.")]
ConfigFile = Annotated[Path, typer.Argument(metavar="CONFIG.toml", help="The config of a run.")]


def watched() -> Progress:
    from persd.progress import progress_for

    return progress_for(sys.stderr)


def console() -> Any:
    from rich.console import Console

    return Console(highlight=False)


def print_json(value: Any) -> None:
    print(json.dumps(value, ensure_ascii=True))


def say(text: str) -> None:
    from persd.report.text import visible

    print(visible(text), file=sys.stderr, flush=True)


def hint(command: str) -> None:
    say(f"next: {command}")


def fail(text: str, code: int) -> NoReturn:
    from persd.report.text import visible

    print(f"persd: {visible(text)}", file=sys.stderr)
    raise SystemExit(code)
