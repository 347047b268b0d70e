"""Part of the way from an attempt to a solution: some of the hunks of their line diff."""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Iterator

from persd.lab import edits


def partial_merges(attempt: str, solution: str, limit: int = 60) -> Iterator[tuple[str, int, int]]:
    """Programs with some, not all hunks towards the solution: (code, applied, hunks in all).

    Fewest hunks first; what does not parse is left out; at most ``limit``.
    """
    old, new = attempt.splitlines(keepends=True), solution.splitlines(keepends=True)
    matcher = difflib.SequenceMatcher(None, old, new, autojunk=False)
    pieces = matcher.get_opcodes()
    changed = [i for i, piece in enumerate(pieces) if piece[0] != "equal"]
    seen = {attempt, solution}
    for size in range(1, len(changed)):
        for chosen in itertools.combinations(changed, size):
            code = "".join(
                line
                for i, (_, a, b, c, d) in enumerate(pieces)
                for line in (new[c:d] if i in chosen else old[a:b])
            )
            if code in seen or edits.parse(code) is None:
                continue
            seen.add(code)
            yield code, size, len(changed)
            limit -= 1
            if limit == 0:
                return


def similarity(a: str, b: str) -> float:
    """How alike two programs are, by lines: 0 nothing in common, 1 the same."""
    return difflib.SequenceMatcher(None, a.splitlines(), b.splitlines(), autojunk=False).ratio()
