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

import ast
import heapq
import math
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from difflib import SequenceMatcher
from itertools import pairwise
from typing import Any, Literal

from persd.domains.align import Misaligned, read_header
from persd.domains.layout import FUNCTIONS, has_docstring
from persd.domains.names import BUILTINS, clean, parse
from persd.domains.prompts import shorten
from persd.records import Task

Measure = Literal["words", "instruction", "program", "both"]
MEASURES: tuple[Measure, ...] = ("words", "instruction", "program", "both")

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
#: Nodes of a shingle of a program; characters of what is shown.
_SHINGLE, _SHOWN = 6, 200


@dataclass(frozen=True, slots=True)
class Match:
    """A benchmark's task that a training task overlaps, by the measure that says it loudest."""

    benchmark: str
    task_id: str
    """The benchmark's task."""
    measure: Measure
    alike: float
    """0-1, 1: the same."""
    shared: str
    """What they share, for reading: words, or nodes of the syntax tree."""


# -- a task as words --------------------------------------------------------------------------


def prose(task: Task) -> str:
    """What a task says in words: instruction and docstring, without examples and asserts."""
    text = task.instruction
    try:
        text += "\n" + (ast.get_docstring(read_header(task).function) or "")
    except (Misaligned, RecursionError):
        pass
    return "\n".join(_without_examples(text, task.entry_point))


def _without_examples(text: str, entry_point: str) -> Iterator[str]:
    """The lines that are prose; a doctest ends with a blank line."""
    in_doctest = False
    call = re.compile(rf"\b{re.escape(entry_point)}\s*\(")
    for line in text.splitlines():
        in_doctest = bool(line.strip()) and (in_doctest or line.lstrip().startswith(">>>"))
        if not (in_doctest or line.lstrip().startswith("assert ") or call.search(line)):
            yield line


def normalise(text: str) -> list[str]:
    """The words of a text in lower case, without marks and punctuation. Takes any text, and
    gives the words of its own words again."""
    plain = unicodedata.normalize("NFKD", text.casefold())
    plain = unicodedata.normalize("NFKD", plain.casefold())
    return _WORD.findall("".join(c for c in plain if not unicodedata.combining(c)))


_WORD = re.compile(r"[^\W_]+")


def word_shingles(words: Sequence[str]) -> frozenset[Hashable]:
    """Content words, without the s of a plural, and pairs of neighbours among them."""
    content = [singular(w) for w in words if w not in LEAD]
    return frozenset([*content, *pairwise(content)])


def singular(word: str) -> str:
    return word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word


# -- a task as a program ----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Program:
    """The syntax of a program's functions and classes, without what its author named."""

    tree: tuple[str, ...]
    """Nodes in order; own names are numbered as they come."""
    shingles: frozenset[Hashable]
    """Runs of nodes, own names all alike."""
    nodes: int


def program_of(task: Task) -> Program | None:
    """A task's reference, or the direct answer it was released with; None: it has none that
    parses and defines something."""
    source, direct = task.reference, task.meta.get("direct")
    if source is None and isinstance(direct, str):
        source = task.header + direct
    return None if source is None else read_program(source)


def read_program(source: str) -> Program | None:
    """The syntax of a source; None where it does not compile or defines nothing."""
    try:
        tree = parse(clean(source))
        kept = [n for n in tree.body if isinstance(n, (*FUNCTIONS, ast.ClassDef))]
        nodes = _Nodes(kept).found
    except (SyntaxError, RecursionError):
        return None
    flat = [OWN.sub("$", n) for n in nodes if n != END]
    runs = range(max(1, len(flat) - _SHINGLE + 1))
    shingles = frozenset(tuple(flat[i : i + _SHINGLE]) for i in runs)
    return Program(tuple(nodes), shingles, len(flat)) if flat else None


#: What a tree has after the last child of a node, and what it has for an own name.
END = ")"
OWN = re.compile(r"\$\d+")


class _Nodes(ast.NodeVisitor):
    """The nodes of some definitions in order, ``END`` after the last child of each."""

    def __init__(self, definitions: Sequence[ast.AST]) -> None:
        self.found: list[str] = []
        self._numbers: dict[str, int] = {}
        for node in definitions:
            self.visit(node)

    def _name(self, name: str) -> str:
        known = name in BUILTINS and name not in self._numbers
        return name if known else f"${self._numbers.setdefault(name, len(self._numbers))}"

    def _put(self, label: str, *children: ast.AST | None) -> None:
        self.found.append(label)
        for child in children:
            if child is not None:
                self.visit(child)
        self.found.append(END)

    def generic_visit(self, node: ast.AST) -> None:
        self._put(type(node).__name__, *ast.iter_child_nodes(node))

    def visit_Name(self, node: ast.Name) -> None:
        if isinstance(node.ctx, ast.Store):
            self._numbers.setdefault(node.id, len(self._numbers))
        self.found.append(self._name(node.id))

    def visit_arg(self, node: ast.arg) -> None:
        self._numbers.setdefault(node.arg, len(self._numbers))
        self.found.append(self._name(node.arg))

    def visit_Constant(self, node: ast.Constant) -> None:
        self.found.append(repr(node.value))

    def visit_Attribute(self, node: ast.Attribute) -> None:
        self._put(f".{node.attr}", node.value)

    def visit_Slice(self, node: ast.Slice) -> None:
        bounds = {"lower": node.lower, "upper": node.upper, "step": node.step}
        given = [name for name, bound in bounds.items() if bound is not None]
        self._put(" ".join(["Slice", *given]), *bounds.values())

    def visit_Load(self, node: ast.Load) -> None:
        """Says nothing; nor do the other contexts, imports and bare strings."""

    visit_Store = visit_Del = visit_Import = visit_ImportFrom = visit_Load  # type: ignore[assignment]

    def visit_Expr(self, node: ast.Expr) -> None:
        if not isinstance(node.value, ast.Constant):
            self.visit(node.value)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        self._put("Assign", node.target, node.value)

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        self._numbers.setdefault(node.name, len(self._numbers))
        body = node.body[1:] if has_docstring(node) else node.body
        self._put("def", node.args, *body)

    visit_AsyncFunctionDef = visit_FunctionDef


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
        return Match(
            self.name, self.tasks[number].task_id, measure, round(said[measure], 4), shared
        )


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


def _runs_of(words: Sequence[str]) -> Iterator[tuple[str, ...]]:
    return (tuple(words[i : i + SHORT_RUN]) for i in range(len(words) - SHORT_RUN + 1))


def _longest_run(a: list[str], b: list[str]) -> list[str]:
    found = SequenceMatcher(None, a, b, autojunk=False).find_longest_match()
    return a[found.a : found.a + found.size]


#: What instructions are introduced with, which says nothing of what is asked.
LEAD = frozenset(
    normalise(
        "a an the please write create develop construct generate design build implement compose "
        "make formulate define devise code produce edit modify python function program script "
        "method algorithm snippet"
    )
)


# -- benchmarks and a stream of training tasks ------------------------------------------------


class Overlap:
    """Several benchmarks, by name, to be asked which of their tasks a training task overlaps.

    What is told by rare words and what ``pool.near`` finds, which does not ask how rare they are:
    each sees some twins that the other does not.
    """

    def __init__(self, benchmarks: Mapping[str, Sequence[Task]]) -> None:
        from persd.pool.near import Near

        self._indexes = [Index(name, tasks) for name, tasks in benchmarks.items()]
        self._near, self._places = Near(), list[tuple[str, str]]()
        for name, tasks in benchmarks.items():
            for task in tasks:
                self._near.add(task)
                self._places.append((name, task.task_id))

    def matches(self, task: Task) -> list[Match]:
        """The benchmarks' tasks that it overlaps, the most alike first."""
        features = _features(task)
        found = [m for index in self._indexes for m in index.matches(features)]
        told = {(m.benchmark, m.task_id) for m in found}
        for number, match in self._near.numbered(task):
            place = self._places[number]
            if place not in told:
                found.append(replace(match, benchmark=place[0]))
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
    the ``keep`` pairs most alike, each {"train_id", "task_id", "measure", "alike", "shared"}.
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
