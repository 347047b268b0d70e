"""The report of a run: one HTML file that needs nothing beside it, read from the ledger.

``summary`` and ``money`` say what the numbers are; ``page``, ``tables`` and ``view`` show them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from persd.files import replacing
from persd.ledger import Ledger

#: Attempts beside their repairs that the page shows.
SHOWN = 40


def write(run: Path, out: Path | None = None, shown: int = SHOWN) -> Path:
    """Write the report of a run, whole or not at all, and give its path (RUN/report.html).

    The run may still be being written: the page then shows one moment of it. The same ledger
    gives the same bytes. Raises UserError where there is no run or the file cannot be written.
    """
    with Ledger(run, read_only=True) as ledger, _one_moment(ledger):
        page = render(ledger, shown)
    path = Path(run) / "report.html" if out is None else Path(out)
    with replacing(path, "the report") as unfinished:
        unfinished.write_text(page, encoding="utf-8", newline="\n")
    return path


def render(ledger: Ledger, shown: int = SHOWN) -> str:
    """The page as text, with up to ``shown`` attempts beside their repairs."""
    from persd.report import page

    return str(_template().render(page.contents(ledger, shown)))


@contextmanager
def _one_moment(ledger: Ledger) -> Iterator[None]:
    # a read transaction: all queries see the ledger as it was at the first of them
    ledger.query("BEGIN")
    try:
        yield
    finally:
        ledger.query("COMMIT")


def _template() -> Any:
    """The page's template: every value is made visible and escaped on its way out."""
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    from persd.report import text

    def shown(value: Any) -> Any:
        plain = isinstance(value, str) and not isinstance(value, Markup)
        return text.visible(value) if plain else value

    environment = Environment(
        loader=PackageLoader("persd.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": text.number,
        "percent": text.percent,
        "usd": text.usd,
        "duration": text.duration,
    }
    environment.globals |= {"share": text.share}
    return environment.get_template("page.html")
