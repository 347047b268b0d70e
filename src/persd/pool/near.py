"""Which tasks of a pool are one task twice, among hundreds of thousands.

Every task is kept as two sets of hashes: of what its instruction says (content words and pairs of
neighbours, as in ``persd.likeness``, less what any instruction says, numbers all alike) and of its
reference's syntax (runs of nodes, own names, numbers and single letters all alike). Two MinHash
indexes (Broder 1997; banded as in Indyk and Motwani 1998) find what may be alike; the exact
Jaccard similarities decide. A pair counts by one of three measures, from 0 to 1:

``instruction``
    The instructions say nearly the same, whatever the programs do.
``program``
    The programs are the same but for names, and the instructions have something in common; or
    they are nearly the same (small ones: the same but for numbers and letters), and more is.
    Where one of the tasks has no words at all, a program that is not too small decides alone.
``both``
    The geometric mean of the two, where either alone would not do.

A task costs the same however many there are, while few are alike. Where very many share a bucket
of an index, those that came first stand for the others: a task that meets ``CROWD`` of them in an
index is looked up there, but not put there. Of a crowd not every pair is found, then, but a task
that is alike to one of those that stand for it is.

They see words and syntax, not meaning.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from itertools import pairwise
from zlib import crc32

from rensa import RMinHash, RMinHashLSH  # type: ignore[import-untyped]

from persd.domains.prompts import shorten
from persd.likeness import END, LEAD, OWN, Match, Measure, normalise, program_of, prose, singular
from persd.records import Task

# Chosen by eye on pairs within MBPP (974 tasks) and within the paper's release (3,243 tasks).
SAME_WORDS = 0.75
#: So much of the words must be in common where the trees are the same and not too small, and so
#: much where the programs are so much alike: entirely, where they are small.
SOME_WORDS, MORE_WORDS = 0.1, 0.3
SAME_PROGRAM, LEAST_NODES = 0.8, 20
#: The least that both must reach, and their geometric mean.
EITHER, BOTH = 0.3, 0.65

#: Tasks that a lookup in one index may give before the next is kept out of it.
CROWD = 200
#: Matches of one task that are given.
MOST = 20
#: Hashes a band, and bands: a pair of Jaccard similarity s is found with 1 - (1 - s^5)^bands.
_ROWS, _WORD_BANDS, _PROGRAM_BANDS = 5, 24, 16
_SHINGLE, _SHOWN, _LONG = 6, 200, 80


class Near:
    """The tasks put in so far, to be asked which of them another task is again.

    ``name`` is what matches call it. A task takes about 3 KB.
    """

    def __init__(self, name: str = "pool") -> None:
        self.name = name
        self._ids: list[str] = []
        self._words, self._programs = _Index(_WORD_BANDS), _Index(_PROGRAM_BANDS)
        self._nodes, self._trees = array("L"), array("Q")
        self._last: _Told | None = None

    def __len__(self) -> int:
        return len(self._ids)

    def matches(self, task: Task) -> list[Match]:
        """The tasks that it is again, the most alike first; those put in earlier before others.
        The first ``MOST``, where a crowd is alike."""
        return [match for _, match in self.numbered(task)]

    def numbered(self, task: Task) -> list[tuple[int, Match]]:
        """The same, each with the number of what it is again, from 0."""
        told = self._told(task)
        return [(row[0], self._match(told, *row)) for row in self._found(told)[:MOST]]

    def numbers(self, task: Task) -> list[int]:
        """All of them, by the order in which they were put in, from 0."""
        return [number for number, _, _ in self._found(self._told(task))]

    def add(self, task: Task) -> None:
        """Puts a task in; its id should be new."""
        told = self._told(task)
        self._ids.append(task.task_id)
        self._nodes.append(len(told.nodes))
        self._trees.append(told.tree)
        self._words.add(told.words)
        self._programs.add(told.program)

    def _told(self, task: Task) -> _Told:
        """A task is mostly looked up and then put in: it is read once."""
        if self._last is None or self._last.task is not task:
            self._last = _Told(task)
        return self._last

    def _found(self, told: _Told) -> list[tuple[int, Measure, float]]:
        """Number, measure and likeness of what it is again, the most alike first."""
        if told.found is None or told.found[0] != len(self):
            numbers = self._words.near(told.words) | self._programs.near(told.program)
            found = [(n, *said) for n in sorted(numbers) if (said := self._said(told, n))]
            told.found = len(self), sorted(found, key=lambda row: -row[2])
        return told.found[1]

    def _said(self, told: _Told, number: int) -> tuple[Measure, float] | None:
        """The measure that says it loudest, and how alike the two are; None: they are not."""
        wordless = not told.words.hashes or not self._words.size(number)
        words = self._words.alike(told.words, number)
        if words < SOME_WORDS and not wordless:
            return None
        program = self._programs.alike(told.program, number)
        same_tree = bool(told.nodes) and told.tree == self._trees[number]
        nodes = min(len(told.nodes), self._nodes[number])
        said = _said(words, program, same_tree, nodes, wordless)
        return max(said.items(), key=lambda item: item[1], default=None)

    def _match(self, told: _Told, number: int, measure: Measure, alike: float) -> Match:
        if measure == "program":
            shared = told.shared_nodes(self._programs.of(number))
        else:
            shared = told.shared_words(self._words.of(number))
        shown = shorten(" ".join(shared), _SHOWN)
        return Match(self.name, self._ids[number], measure, round(alike, 4), shown)


def compared(tasks: Iterable[Task]) -> Iterator[tuple[int, int]]:
    """The numbers of every pair that counts, the earlier first: each task is compared with each,
    which ``Near`` spares itself, so that what it misses can be told."""
    near = Near()
    for number, task in enumerate(tasks):
        told = near._told(task)
        yield from ((other, number) for other in range(number) if near._said(told, other))
        near.add(task)


def _said(
    words: float, program: float, same_tree: bool, nodes: int, wordless: bool
) -> dict[Measure, float]:
    """The measures that reach their thresholds; ``nodes`` of the smaller program."""
    said: dict[Measure, float] = {}
    if words >= SAME_WORDS:
        said["instruction"] = words
    large = nodes >= LEAST_NODES
    same = same_tree and large and (wordless or words >= SOME_WORDS)
    if same or (program >= (SAME_PROGRAM if large else 1.0) and words >= MORE_WORDS):
        said["program"] = program
    mean = math.sqrt(words * program)
    if min(words, program) >= EITHER and mean >= BOTH:
        said["both"] = mean
    return said


# -- a task as two sets of hashes ---------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Set:
    """Shingles, and their hashes in the same order."""

    shingles: Sequence[bytes]
    order: Sequence[int]
    hashes: frozenset[int]


def _hashed(shingles: Iterable[str]) -> _Set:
    encoded = [s.encode("utf-8", "surrogatepass") for s in shingles]
    order = [crc32(s) for s in encoded]
    return _Set(encoded, order, frozenset(order))


class _Told:
    """What is compared of one task."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.found: tuple[int, list[tuple[int, Measure, float]]] | None = None
        """What was found among so many tasks."""
        program = program_of(task)
        tree = program.tree if program else ()
        self.nodes = [_node(OWN.sub("$", n)) for n in tree if n != END]
        digest = blake2b("\n".join(tree).encode("utf-8", "surrogatepass"), digest_size=8)
        self.tree = int.from_bytes(digest.digest(), "big")

    @cached_property
    def _content(self) -> list[tuple[str, str]]:
        """The words that say what is asked: as written, and as compared."""
        known = normalise(prose(self.task))
        content = [w for w in known if w not in LEAD and w not in _LITTLE]
        return [(w, _alike(w)) for w in content or known]

    @cached_property
    def words(self) -> _Set:
        content = [alike for _, alike in self._content]
        return _hashed([*content, *map(" ".join, pairwise(content))])

    @cached_property
    def program(self) -> _Set:
        runs = range(max(1, len(self.nodes) - _SHINGLE + 1)) if self.nodes else ()
        return _hashed("\n".join(self.nodes[i : i + _SHINGLE]) for i in runs)

    def shared_words(self, theirs: Iterable[int]) -> list[str]:
        """The words that both instructions have, in the order of this one."""
        common = self.words.hashes.intersection(theirs)
        written = dict(zip((w for w, _ in self._content), self.words.order, strict=False))
        return [word for word, hashed in written.items() if hashed in common]

    def shared_nodes(self, theirs: Iterable[int]) -> list[str]:
        """The longest run of nodes whose shingles both programs have."""
        common = self.program.hashes.intersection(theirs)
        best = first = 0, 0
        for end, hashed in enumerate(self.program.order, 1):
            first = (first[0], end) if hashed in common else (end, end)
            best = max(best, first, key=lambda run: run[1] - run[0])
        return self.nodes[best[0] : best[1] + _SHINGLE - 1]


def _node(label: str) -> str:
    """A node's label without the number or the single letter that may stand there."""
    if label[0].isdigit():
        return "0"
    if len(label) == 3 and label[0] in "'\"":
        return "''"
    if len(label) > _LONG:  # a constant: hashed, for every shingle would repeat it
        return blake2b(label.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
    return label


def _alike(word: str) -> str:
    """A word as compared: numbers are alike, and so are the names of a few common things."""
    return "0" if word.isdecimal() else _COMMON.get(one := singular(word), one)


#: What instructions are told with, beside what they open with (``LEAD``).
_LITTLE = frozenset(
    normalise(
        "to of in and that from with for using is by or into if which as are whether its it on out "
        "their can be at such any following specified given use used not return returns print "
        "output input this than then there will would should so but find check calculate compute "
        "determine get implement take takes"
    )
)
_COMMON = {
    "array": "list",
    "integer": "number",
    "element": "item",
    "largest": "maximum",
    "biggest": "maximum",
    "highest": "maximum",
    "smallest": "minimum",
    "lowest": "minimum",
}


# -- many sets of hashes ------------------------------------------------------------------------


class _Index:
    """Sets of hashes by number, in the order they came, and a MinHash index of them."""

    def __init__(self, bands: int) -> None:
        self._hashes, self._ends = array("I"), array("Q", [0])
        self._size = _ROWS * bands
        self._lsh = RMinHashLSH(threshold=0.5, num_perm=self._size, num_bands=bands)

    def _sketch(self, own: _Set) -> RMinHash:
        sketch = RMinHash(num_perm=self._size, seed=1)
        sketch.update(own.shingles)
        return sketch

    def near(self, own: _Set) -> set[int]:
        """Numbers of the sets that may be alike."""
        return set(self._lsh.query(self._sketch(own))) if own.hashes else set()

    def add(self, own: _Set) -> None:
        number = len(self._ends) - 1
        self._hashes.extend(own.hashes)
        self._ends.append(len(self._hashes))
        if own.hashes:
            sketch = self._sketch(own)
            if len(self._lsh.query(sketch)) < CROWD:
                self._lsh.insert(number, sketch)

    def of(self, number: int) -> array[int]:
        return self._hashes[self._ends[number] : self._ends[number + 1]]

    def size(self, number: int) -> int:
        return self._ends[number + 1] - self._ends[number]

    def alike(self, own: _Set, number: int) -> float:
        """Jaccard similarity, 0-1; 0 where one of them is empty."""
        common = len(own.hashes.intersection(self.of(number)))
        whole = len(own.hashes) + self.size(number) - common
        return common / whole if common else 0.0
