"""Two programs line by line, with what changed inside a line."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Literal

#: Changed blocks with more pairs of lines than this are paired by position.
_PAIRS = 2_500
#: Programs longer than this are compared only as a common start, a middle and a common end.
_LINES = 1_500
#: Lines longer than this are marked whole.
_CHARACTERS = 1_000
#: Least similarity of two lines that are shown as one line changed.
_ALIKE = 0.4

Span = tuple[str, bool]
"""A piece of a line, and whether it differs from the other side."""


@dataclass(frozen=True, slots=True)
class Line:
    """One line of one side."""

    number: int
    """1-based."""
    spans: tuple[Span, ...]

    @property
    def text(self) -> str:
        return "".join(text for text, _ in self.spans)


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the old program beside its line of the new one; None: it has none."""

    kind: Literal["same", "changed", "removed", "added"]
    old: Line | None
    new: Line | None


def rows(old: str, new: str) -> list[Row]:
    """Both programs whole, side by side: no line is left out. Line ends are not compared."""
    a, b = _lines(old), _lines(new)
    found: list[Row] = []
    for tag, i1, i2, j1, j2 in _opcodes(a, b):
        if tag == "equal":
            for i, j in zip(range(i1, i2), range(j1, j2), strict=True):
                found.append(Row("same", _whole(a, i, False), _whole(b, j, False)))
        else:
            found += _changed(a, b, range(i1, i2), range(j1, j2))
    return found


def counts(found: Sequence[Row]) -> tuple[int, int]:
    """Lines removed and lines added; a changed line is one of each."""
    removed = sum(r.kind in ("changed", "removed") for r in found)
    return removed, sum(r.kind in ("changed", "added") for r in found)


def unified(found: Sequence[Row]) -> Iterator[tuple[str, Line]]:
    """The rows as one column: (``" "``, ``"-"`` or ``"+"``, line), removals before additions."""
    held: list[Line] = []
    for row in found:
        if row.kind == "same" and row.new is not None:
            yield from (("+", line) for line in held)
            held.clear()
            yield " ", row.new
            continue
        if row.old is not None:
            yield "-", row.old
        if row.new is not None:
            held.append(row.new)
    yield from (("+", line) for line in held)


def _lines(text: str) -> list[str]:
    lines = re.split(r"\r\n|\r|\n", text)
    while lines and not lines[-1].strip():
        lines.pop()
    return lines


def _whole(lines: Sequence[str], index: int, changed: bool) -> Line:
    return Line(index + 1, ((lines[index], changed),))


def _opcodes(a: list[str], b: list[str]) -> list[tuple[str, int, int, int, int]]:
    if max(len(a), len(b)) <= _LINES:
        return list(SequenceMatcher(None, a, b, autojunk=False).get_opcodes())
    start = 0
    while start < min(len(a), len(b)) and a[start] == b[start]:
        start += 1
    end = 0
    while end < min(len(a), len(b)) - start and a[-1 - end] == b[-1 - end]:
        end += 1
    cut_a, cut_b = len(a) - end, len(b) - end
    return [
        ("equal", 0, start, 0, start),
        ("replace", start, cut_a, start, cut_b),
        ("equal", cut_a, len(a), cut_b, len(b)),
    ]


def _changed(a: list[str], b: list[str], old: range, new: range) -> Iterator[Row]:
    """A block that differs: the lines that belong together beside each other."""
    i, j = old.start, new.start
    for k, m in [*_pairs(a, b, old, new), (old.stop, new.stop)]:
        yield from (Row("removed", _whole(a, x, True), None) for x in range(i, k))
        yield from (Row("added", None, _whole(b, x, True)) for x in range(j, m))
        if k < old.stop and m < new.stop:
            left, right = _inside(a[k], b[m])
            yield Row("changed", Line(k + 1, left), Line(m + 1, right))
        i, j = k + 1, m + 1


def _pairs(a: list[str], b: list[str], old: range, new: range) -> list[tuple[int, int]]:
    """The pairs of alike lines, in order, whose similarities add up to the most."""
    n, m = len(old), len(new)
    if n * m > _PAIRS:
        return list(zip(old, new, strict=False))
    alike = [[_alike(a[i], b[j]) for j in new] for i in old]
    best = [[0.0] * (m + 1) for _ in range(n + 1)]
    for i in range(n - 1, -1, -1):
        for j in range(m - 1, -1, -1):
            joined = alike[i][j] + best[i + 1][j + 1] if alike[i][j] else 0.0
            best[i][j] = max(best[i + 1][j], best[i][j + 1], joined)
    pairs, i, j = [], 0, 0
    while i < n and j < m and best[i][j]:
        if alike[i][j] and best[i][j] == alike[i][j] + best[i + 1][j + 1]:
            pairs.append((old[i], new[j]))
            i, j = i + 1, j + 1
        elif best[i][j] == best[i + 1][j]:
            i += 1
        else:
            j += 1
    return pairs


def _alike(a: str, b: str) -> float:
    """Similarity of two lines without their indents; 0 where it is too small to count."""
    a, b = a.strip(), b.strip()
    if not a or not b:
        return 0.0
    if a == b:
        return 1.0
    if max(len(a), len(b)) > _CHARACTERS:
        return 0.0
    matcher = SequenceMatcher(None, a, b, autojunk=False)
    if matcher.real_quick_ratio() < _ALIKE or matcher.quick_ratio() < _ALIKE:
        return 0.0
    ratio = matcher.ratio()
    return ratio if ratio >= _ALIKE else 0.0


_WORD = re.compile(r"\w+|\s+|[^\w\s]")


def _inside(old: str, new: str) -> tuple[tuple[Span, ...], tuple[Span, ...]]:
    """Two lines word by word."""
    if max(len(old), len(new)) > _CHARACTERS:
        return ((old, True),), ((new, True),)
    a, b = _WORD.findall(old), _WORD.findall(new)
    left: list[Span] = []
    right: list[Span] = []
    for tag, i1, i2, j1, j2 in SequenceMatcher(None, a, b, autojunk=False).get_opcodes():
        left.append(("".join(a[i1:i2]), tag != "equal"))
        right.append(("".join(b[j1:j2]), tag != "equal"))
    return _joined(left), _joined(right)


def _joined(spans: list[Span]) -> tuple[Span, ...]:
    return tuple((text, changed) for text, changed in spans if text) or (("", False),)
