"""What the command line's files share: options that many commands have, and how they talk."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

if TYPE_CHECKING:
    from persd.progress import Progress
    from persd.session import Session

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


def print_plan(found: Mapping[str, Any]) -> None:
    """A plan by name, a line each, but for texts of several lines."""
    from persd.report.text import visible

    for name, value in found.items():
        items = value if isinstance(value, list) else [value]
        shown = ", ".join("none" if item is None else str(item) for item in items) or "none"
        apart = "\n" if "\n" in shown else " "
        print(visible(f"{name.replace('_', ' '):24}{apart}{shown}"))


def say(text: str) -> None:
    from persd.report.text import visible

    print(visible(text), file=sys.stderr, flush=True)


def hint(command: str) -> None:
    say(f"next: {command}")


def fail(text: str, code: int) -> NoReturn:
    from persd.report.text import visible

    print(f"persd: {visible(text)}", file=sys.stderr)
    raise SystemExit(code)


#: Exit code of a command that was interrupted.
INTERRUPTED = 130


@contextmanager
def stoppable(opened: Session) -> Iterator[None]:
    """The first Ctrl-C or SIGTERM lets the work finish what is paid for, the next ends it."""

    def asked(number: int, frame: object) -> None:
        waited_for = opened.stop()
        if waited_for is not None:
            say(f"stopping once {waited_for}; again to stop now")
        elif opened.stopping.is_set():
            opened.progress.abandon()
            say(f"left {opened.traffic.in_flight} calls under way, which count as paid for")
            os._exit(INTERRUPTED)  # as safe as any other death: what came is in the ledger
        else:
            raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread hears signals
        return
    before = {s: signal.signal(s, asked) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
