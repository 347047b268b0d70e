"""Which training tasks are a benchmark's tasks again: as text, as a program, or as both.

A score on tasks that the student was trained on says little, so training tasks are held against
the benchmarks before anybody is paid. An index holds the benchmarks; training tasks are a stream
of any length, each looked up by what it shares with them, never compared with all of them. Four
measures, each from 0 to 1; a pair counts where one reaches its threshold:

``words``
    A run of words that both instructions share, as a part of the shorter one. 13 words count
    anywhere, the N of Brown et al. 2020 (GPT-3, appendix C); 8 of them, its least N, where they
    are most of the shorter text, for MBPP's instructions have 12 words.
``instruction``
    Jaccard similarity of the sets of content words and of pairs of neighbouring ones (shingles:
    Broder 1997), each weighing the more the fewer of the benchmark's tasks have it.
``program``
    The same on the syntax of the reference programs: as in the near-duplicates of Lee et al.
    2022 and of Allamanis 2019, but over shingles of the tree, whose author's names, docstrings,
    comments and annotations are gone. 1: the same program but for names.
``both``
    The geometric mean of ``instruction`` and ``program``, where either alone would not do.

Beside them ``Overlap`` asks ``persd.pool.near``, which does not weigh rarity.

They see words and syntax, not meaning: a task that is told afresh and solved another way passes
(Yang et al. 2023 show how far that can go).
"""

from __future__ import annotations

import heapq
import math
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from difflib import SequenceMatcher
from typing import Any

from persd.domains.prompts import shorten
from persd.likeness import (
    LEAD,
    MEASURES,
    Match,
    Measure,
    Program,
    normalise,
    program_of,
    prose,
    singular,
    word_shingles,
)
from persd.records import Task

# All thresholds were chosen by eye on one set of pairs: the paper's release (3,243 tasks) against
# HumanEval (164) and MBPP's test split (500). Of the 33 pairs they leave there 26 are twins (and
# of the 13 that ``pool.near`` adds, 12); those figures are of the data they were fitted to, so
# they are favourable: other data may fare worse.
#: Words of a shared run that count anywhere, and where they are this part of the shorter text.
LONG_RUN, SHORT_RUN, RUN_SHARE = 13, 8, 0.75
SAME_WORDS = 0.57
SAME_PROGRAM = 0.8
#: Nodes of a program below which its syntax alone says nothing: ``return a + b`` joins and adds.
LEAST_NODES = 25
#: The least that both measures must reach, and their geometric mean.
EITHER, BOTH = 0.2, 0.36
#: Characters of what is shown.
_SHOWN = 200


# -- what is alike among many -----------------------------------------------------------------


class Sets:
    """Sets of features, each weighing the more the fewer of them have it (smoothed idf), to be
    found again by a similar set: ``near`` reads the lists of that set's rarest features only."""

    def __init__(self, sets: Sequence[frozenset[Hashable]]) -> None:
        self._sets = sets
        self._counts = Counter(f for s in sets for f in s)
        self._holders: dict[Hashable, list[int]] = defaultdict(list)
        for number, one in enumerate(sets):
            for feature in one:
                self._holders[feature].append(number)
        self._weights = [self._weigh(s) for s in sets]

    def _weigh(self, features: Iterable[Hashable]) -> float:
        return math.fsum(map(self.weight, features))  # the same in whatever order

    def weight(self, feature: Hashable) -> float:
        return 1 + math.log((1 + len(self._sets)) / (1 + self._counts[feature]))

    def alike(self, features: frozenset[Hashable], number: int) -> float:
        """Weighted Jaccard similarity with one of the sets, 0-1."""
        return self._alike(features, self._weigh(features), number)

    def _alike(self, features: frozenset[Hashable], weight: float, number: int) -> float:
        common = self._weigh(features & self._sets[number])
        return common / (weight + self._weights[number] - common) if common else 0.0

    def near(self, features: frozenset[Hashable], least: float) -> dict[int, float]:
        """Every set at least so much alike, 0-1, by its number."""
        total = left = self._weigh(features)
        found = set[int]()
        for feature in sorted(features, key=self._counts.__getitem__):
            if left < least * total:  # a set with none of the features so far is less alike
                break
            found.update(self._holders.get(feature, ()))
            left -= self.weight(feature)
        alike = {number: self._alike(features, total, number) for number in found}
        return {number: a for number, a in alike.items() if a >= least}


@dataclass(frozen=True, slots=True)
class _Features:
    """What is compared of a task."""

    words: list[str]
    shingles: frozenset[Hashable]
    program: Program | None


def _features(task: Task) -> _Features:
    words = normalise(prose(task))
    lead = next((i for i, w in enumerate(words) if w not in LEAD), 0)
    return _Features(words[lead:], word_shingles(words), program_of(task))


class Index:
    """One benchmark, to be asked which of its tasks a training task overlaps."""

    def __init__(self, name: str, tasks: Sequence[Task]) -> None:
        self.name = name
        self.tasks = tasks
        self._own = [_features(t) for t in tasks]
        self._texts = Sets([f.shingles for f in self._own])
        empty = frozenset[Hashable]()
        self._programs = Sets([f.program.shingles if f.program else empty for f in self._own])
        self._runs: dict[tuple[str, ...], set[int]] = defaultdict(set)
        for number, own in enumerate(self._own):
            for run in _runs_of(own.words):
                self._runs[run].add(number)

    def matches(self, features: _Features) -> list[Match]:
        """The tasks it overlaps, the most alike first."""
        program = features.program.shingles if features.program else frozenset[Hashable]()
        texts = self._texts.near(features.shingles, EITHER)
        programs = self._programs.near(program, EITHER)
        runs = {n for run in _runs_of(features.words) for n in self._runs.get(run, ())}
        found = (
            self._match(features, number, texts.get(number, 0.0), programs.get(number, 0.0))
            for number in sorted(runs | texts.keys() | programs.keys())
        )
        return sorted((m for m in found if m), key=lambda m: -m.alike)

    def _match(self, theirs: _Features, number: int, text: float, program: float) -> Match | None:
        own = self._own[number]
        run = _longest_run(own.words, theirs.words)
        said = _said(text, program, theirs.program, run, min(len(own.words), len(theirs.words)))
        if not said:
            return None
        measure = max(said, key=said.__getitem__)
        shared = _shown(measure, own, theirs, run)
        twin = self.tasks[number]
        alike = round(said[measure], 4)
        return Match(self.name, twin.task_id, measure, alike, shared, _text(twin))


def _said(
    text: float, program: float, theirs: Program | None, run: list[str], shorter: int
) -> dict[Measure, float]:
    """The measures that reach their thresholds; ``shorter``: words of the shorter instruction."""
    said: dict[Measure, float] = {}
    share = len(run) / max(1, shorter)
    if len(run) >= LONG_RUN or (len(run) >= SHORT_RUN and share >= RUN_SHARE):
        said["words"] = share
    if text >= SAME_WORDS:
        said["instruction"] = text
    if program >= SAME_PROGRAM and theirs is not None and theirs.nodes >= LEAST_NODES:
        said["program"] = program
    mean = math.sqrt(text * program)
    if min(text, program) >= EITHER and mean >= BOTH:
        said["both"] = mean
    return said


def _shown(measure: Measure, own: _Features, theirs: _Features, run: list[str]) -> str:
    """What a pair shares, for reading."""
    if measure == "words":
        shared = run
    elif measure == "program":
        assert own.program is not None
        assert theirs.program is not None
        shared = _longest_run(list(own.program.tree), list(theirs.program.tree))
    else:
        words = own.shingles & theirs.shingles
        shared = [w for w in dict.fromkeys(own.words) if singular(w) in words]
    return shorten(" ".join(shared), _SHOWN)


def _text(task: Task) -> str:
    """What a task asks, for reading."""
    return shorten(" ".join(prose(task).split()), _SHOWN)


def _runs_of(words: Sequence[str]) -> Iterator[tuple[str, ...]]:
    return (tuple(words[i : i + SHORT_RUN]) for i in range(len(words) - SHORT_RUN + 1))


def _longest_run(a: list[str], b: list[str]) -> list[str]:
    found = SequenceMatcher(None, a, b, autojunk=False).find_longest_match()
    return a[found.a : found.a + found.size]


# -- benchmarks and a stream of training tasks ------------------------------------------------


class Overlap:
    """Several benchmarks, by name, to be asked which of their tasks a training task overlaps.

    What is told by rare words and what ``pool.near`` finds, which does not ask how rare they are:
    each sees some twins that the other does not.
    """

    def __init__(self, benchmarks: Mapping[str, Sequence[Task]]) -> None:
        from persd.pool.near import Near

        self._indexes = [Index(name, tasks) for name, tasks in benchmarks.items()]
        self._near, self._places = Near(), list[tuple[str, Task]]()
        for name, tasks in benchmarks.items():
            for task in tasks:
                self._near.add(task)
                self._places.append((name, task))

    def matches(self, task: Task) -> list[Match]:
        """The benchmarks' tasks that it overlaps, the most alike first."""
        features = _features(task)
        found = [m for index in self._indexes for m in index.matches(features)]
        told = {(m.benchmark, m.task_id) for m in found}
        for number, match in self._near.numbered(task):
            benchmark, twin = self._places[number]
            if (benchmark, match.task_id) not in told:
                found.append(replace(match, benchmark=benchmark, text=_text(twin)))
        return sorted(found, key=lambda m: -m.alike)


@dataclass(slots=True)
class _Tally:
    """What training tasks overlap of one benchmark."""

    flagged: int = 0
    pairs: int = 0
    touched: set[str] = field(default_factory=set)
    measures: Counter[str] = field(default_factory=Counter)
    """Pairs by the measure that says it loudest."""
    most: list[tuple[float, int, str, Match]] = field(default_factory=list)
    """A heap of the pairs most alike: likeness, order, training task."""

    def add(self, task_id: str, matches: Sequence[Match], keep: int) -> None:
        self.flagged += 1
        for match in matches:
            self.pairs += 1
            self.touched.add(match.task_id)
            self.measures[match.measure] += 1
            put = heapq.heappush if len(self.most) < keep else heapq.heappushpop
            put(self.most, (match.alike, -self.pairs, task_id, match))


class Report:
    """``overlap_report`` of tasks as they come."""

    def __init__(self, benchmarks: Mapping[str, Sequence[Task]], keep: int = 200) -> None:
        self._benchmarks, self._keep = benchmarks, keep
        self._overlap, self._count = Overlap(benchmarks), 0
        self._tallies = {name: _Tally() for name in benchmarks}

    def add(self, task: Task) -> list[Match]:
        """Counts a training task; what it overlaps, the most alike first."""
        self._count += 1
        matches = self._overlap.matches(task)
        found = defaultdict[str, list[Match]](list)
        for match in matches:
            found[match.benchmark].append(match)
        for name, of_one in found.items():
            self._tallies[name].add(task.task_id, of_one, self._keep)
        return matches

    def plain(self) -> dict[str, Any]:
        rows = {name: _told(self._tallies[name], t) for name, t in self._benchmarks.items()}
        return {"train_tasks": self._count, "benchmarks": rows}


def overlap_report(
    train: Iterable[Task], benchmarks: Mapping[str, Sequence[Task]], keep: int = 200
) -> dict[str, Any]:
    """What the training tasks, a stream of any length, overlap of each benchmark; plain JSON.

    Keys: ``train_tasks``; ``benchmarks``, by name: ``tasks``; ``touched``: ids of its tasks that
    a training task overlaps, in its order; ``flagged``: training tasks that overlap one;
    ``pairs`` of the two; ``by_measure``: pairs by the measure that says it loudest; ``matches``:
    the ``keep`` pairs most alike, each {"train_id", "task_id", "measure", "alike", "shared",
    "text"}, the last what the benchmark's task asks.
    """
    report = Report(benchmarks, keep)
    for task in train:
        report.add(task)
    return report.plain()


def _told(tally: _Tally, tasks: Sequence[Task]) -> dict[str, Any]:
    most = sorted(tally.most, key=lambda row: row[:2], reverse=True)
    return {
        "tasks": len(tasks),
        "touched": [t.task_id for t in tasks if t.task_id in tally.touched],
        "flagged": tally.flagged,
        "pairs": tally.pairs,
        "by_measure": {m: tally.measures[m] for m in MEASURES},
        "matches": [_row(train_id, match) for _, _, train_id, match in most],
    }


def _row(train_id: str, match: Match) -> dict[str, Any]:
    row = asdict(match)
    del row["benchmark"]
    return {"train_id": train_id, **row}


def clean_ids(
    report: Mapping[str, Any], benchmarks: Mapping[str, Sequence[Task]]
) -> dict[str, list[str]]:
    """By benchmark, the ids of its tasks that no training task overlaps, in its order: those
    that a score on the clean part of it counts. ``report``: ``overlap_report``'s."""
    touched = {name: set(row["touched"]) for name, row in report["benchmarks"].items()}
    return {
        name: [t.task_id for t in tasks if t.task_id not in touched[name]]
        for name, tasks in benchmarks.items()
    }
