"""Data sets as files: formats of other trainers, preference pairs, cards, the Hub."""

from __future__ import annotations

from hashlib import file_digest
from pathlib import Path

from persd.export.card import card, license_id
from persd.export.formats import DataSet, format_of, write
from persd.export.push import push
from persd.files import replacing


def export(
    data: DataSet, fmt: str, path: Path, *, about: str = "", license: str | None = None
) -> None:
    """Write the data set to that very path, whole or not at all, and its card to PATH.md.

    ``about`` is what the card tells of the run. Raises UserError for an unknown format, a
    missing package or a path that cannot be written.
    """
    format_of(fmt)
    with replacing(path, "the data set", folder=True) as unfinished:
        write(data, fmt, unfinished)
    text = card(data, fmt, about, license=license_id(license), sha256=_sha256(path))
    with replacing(path.with_name(f"{path.name}.md"), "its card") as unfinished:
        unfinished.write_text(text, encoding="utf-8")


def publish(
    data: DataSet,
    fmt: str,
    path: Path,
    repo: str,
    *,
    about: str = "",
    license: str | None = None,
    private: bool = False,
) -> str:
    """Push what ``export`` wrote to a repository of the Hub; gives its URL. Raises UserError."""
    file = f"data/train{format_of(fmt).suffix}"
    text = card(data, fmt, about, license=license_id(license), sha256=_sha256(path), file=file)
    return push(path, text, repo, file=file, private=private)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()
