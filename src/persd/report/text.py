"""Texts and numbers as a reader sees them; nothing here changes what is stored."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table

#: Printed where a number is not known; a price that is not known is never 0.
UNKNOWN = "unknown"


def visible(text: str) -> str:
    """The text with what cannot be seen or encoded spelt out (``\\x1b``, ``\\ud800``).

    Control and format characters are escaped, those that turn the direction of writing too,
    so that the text can be written as UTF-8 and shown in a terminal; a line end of CR LF is
    one line end.
    """
    if text.isascii() and text.isprintable():
        return text
    lines = text.replace("\r\n", "\n")
    return "".join(c if c.isprintable() or c in "\n\t" else ascii(c)[1:-1] for c in lines)


def stored_text(value: Any) -> str:
    """A text column as SQLite gives it: one with lone surrogates is kept there as bytes."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "surrogatepass")
    return "" if value is None else str(value)


def without_password(text: str) -> str:
    """The text without the user and password that a URL in it may hold."""
    return re.sub(r"(?<=://)[^/\s@]+@", "…@", text)


def number(value: int) -> str:
    """A count with its thousands set apart."""
    return f"{value:,}"


def percent(fraction: float | None) -> str:
    """A fraction 0-1 in percent with one decimal, without the sign."""
    return "–" if fraction is None else f"{100 * fraction:.1f}"


def share(part: int, whole: int) -> str:
    """``part`` of ``whole`` in percent, with the sign; a dash where there is no whole."""
    return f"{100 * part / whole:.1f} %" if whole else "–"


def usd(value: float | None) -> str:
    """Money with the decimals its size needs; unknown is said."""
    if value is None:
        return UNKNOWN
    if value == 0:
        return "0 USD"
    if value >= 1:
        return f"{value:,.2f} USD"
    return f"{value:.4f} USD" if value >= 0.001 else f"{value:.2g} USD"


def duration(seconds: float | None) -> str:
    """Seconds, minutes or hours, whichever reads best."""
    if seconds is None:
        return "–"
    if seconds < 120:
        return f"{seconds:.1f} s"
    if seconds < 7200:
        return f"{seconds / 60:.1f} min"
    return f"{seconds / 3600:.1f} h"


def text_cell(value: str) -> Any:
    """Text of others: no markup is read in it, and nothing in it moves the cursor."""
    from rich.text import Text

    return Text(visible(value))


def new_table(title: str) -> Table:
    """An empty table in the one style all have here."""
    from rich import box
    from rich.table import Table

    return Table(
        title=text_cell(title),
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of a card."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def in_code(text: object) -> str:
    """A name of somebody else's making as it may stand between backticks in a card's table."""
    return re.sub(r"[`|\s]+", " ", visible(str(text)))
