"""Tasks from seeds: what it takes to screen 10,000 candidates, and how well they are told apart.

    python bench/tasks.py [--candidates 10000] [--data FOLDER] [--workers 2] [--only PART ...]

One JSON object with these parts; ``load`` is the machine's load before and after.

``screening``: candidates of the lab author (its usual share of broken ones), written before and
counted apart, are screened whole, as a run does it: forms, HumanEval and MBPP, execution in
several conditions, stubs and mutants, more calls once for the weak, near-duplicates.
``seconds`` of the clock; ``cpu``: of this process by step (``programs``: everything that ran in
the sandboxes); ``peak_mb``: PSS of the process and all below it at its highest, looked at from
outside twice a second; ``rss_mb``: the same as RSS, which counts what processes share once for
each. ``floor``: the accepted tasks' references judged once on their hidden tests.
``labelled``: replies whose end is known (``lab.author_labelled``), by how they must end: how many
did, how else they ended, and which kinds were ``accepted`` in its place. ``mbpp``: MBPP's training
tasks as if an author had proposed them, with the calls of their tests and others of the same
types, held against HumanEval: by how they end. ``dedupe``: see ``dedupe.py``.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from random import Random
from typing import Any, TypeVar

from persd import tasks as task_sources
from persd.config import GenerateTable
from persd.domains.authoring import read_tasks, render
from persd.errors import UserError
from persd.lab.author import calls_for, new_tasks
from persd.lab.author_labelled import Labelled, labelled, proposed
from persd.overlap import Overlap
from persd.pool.near import Near
from persd.pool.screening import Opened, Screen, more_calls_of, opened
from persd.pool.steer import brief_of
from persd.pool.strength import Weak
from persd.records import Brief, Candidate, Completion, Task, derive_seed
from persd.sandbox import Sandbox
from persd.tasks import lab
from persd.verify import Job, verify

BAR_SECONDS, BAR_MB = 600, 1000
PARTS = ("screening", "labelled", "mbpp", "dedupe")
_SEED = 0
SEEDS = lab.load(count=40, seed=_SEED)
_LOOKS = 0.5
"""Seconds between two looks at the memory."""
T = TypeVar("T")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--candidates", type=int, default=10_000)
    parser.add_argument("--labelled", type=int, default=1000, help="sound; broken: about as many")
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("PERSD_DATA", ".")))
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    try:
        found = _PARTS[args.part](args) if args.part else _all(args)
    except UserError as error:
        raise SystemExit(error.one_line()) from None
    print(json.dumps(found, indent=2))


def _all(args: argparse.Namespace) -> dict[str, Any]:
    load = os.getloadavg()[0]
    parts = {part: _watched(part, args) for part in args.only}
    return {**parts, "load": [round(load, 2), round(os.getloadavg()[0], 2)]}


def _watched(part: str, args: argparse.Namespace) -> dict[str, Any]:
    """A part in a process of its own, and the most memory that it holds with all below it."""
    command = [sys.executable, __file__, "--part", part, "--data", str(args.data)]
    command += [f"--{name}={getattr(args, name)}" for name in ("candidates", "labelled", "workers")]
    look = import_module("judges.footprint")  # beside this file
    peak: dict[str, float] = {"pss_mb": 0.0, "rss_mb": 0.0}
    with tempfile.TemporaryFile("w+") as out:
        with subprocess.Popen(command, stdout=out) as process:
            while process.poll() is None:
                looked = look.memory(process.pid)
                peak = {name: max(most, looked[name]) for name, most in peak.items()}
                time.sleep(_LOOKS)
        if process.returncode:
            raise SystemExit(process.returncode)
        out.seek(0)
        found: dict[str, Any] = json.load(out)
    return {**found, "peak_mb": round(peak["pss_mb"]), "rss_mb": round(peak["rss_mb"])}


# ---- the screening, as a run does it ----------------------------------------------------------


@dataclass(slots=True)
class Spent:
    """CPU seconds of this process, by step."""

    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))

    def timed(self, step: str, work: Callable[[], T]) -> T:
        began = time.process_time()
        try:
            return work()
        finally:
            self.seconds[step] += time.process_time() - began


Again = Callable[[Candidate, Weak], str]
"""The author's reply to the question for more calls."""


def ended(
    screen: Screen,
    replies: Iterable[tuple[Completion, Brief]],
    again: Again,
    spent: Spent | None = None,
) -> Iterator[Candidate]:
    """The candidates of some replies, decided; those that more calls were asked for at the end."""
    spent, weak = spent or Spent(), list[tuple[Candidate, Weak]]()
    for candidate, found in screen.tried(_opened(replies, screen.rules, spent)):
        decided = spent.timed("near", lambda c=candidate, f=found: screen.decided(c, f))  # type: ignore[misc]
        if decided.state == "not_run" and isinstance(found, Weak):
            weak.append((decided, found))
        else:
            yield decided
    wider = (
        more_calls_of(c, w, Completion(again(c, w)), f"more {c.call_id}", screen.rules)
        for c, w in weak
    )
    for candidate, found in screen.tried(wider):
        yield screen.decided(candidate, found)


def _opened(
    replies: Iterable[tuple[Completion, Brief]], rules: GenerateTable, spent: Spent
) -> Iterator[Opened]:
    for number, (completion, brief) in enumerate(replies):
        yield from spent.timed(
            "forms",
            lambda n=number, c=completion, b=brief: opened(c, f"call {n}", b, rules),  # type: ignore[misc]
        )


def lab_calls(candidate: Candidate, weak: Weak) -> str:
    """More calls as the lab author gives them."""
    rng = Random(derive_seed("more", candidate.call_id, candidate.place))
    return "\n".join(calls_for(weak.task, rng, 8))


class _TimedOverlap(Overlap):
    """The benchmarks, timed."""

    spent: Spent

    def matches(self, task: Task) -> list[Any]:
        return self.spent.timed("benchmarks", lambda: super(_TimedOverlap, self).matches(task))


def benchmarks(data: Path) -> dict[str, Sequence[Task]]:
    """The tasks that a pool must not hold, by benchmark. Raises UserError without the files."""
    paths = {"humaneval": "humaneval/HumanEval.jsonl.gz", "mbpp": "mbpp/mbpp.jsonl"}
    return {
        name: list(task_sources.load(name, path=str(data / path), split="test"))
        for name, path in paths.items()
    }


# ---- many candidates --------------------------------------------------------------------------


def screening(args: argparse.Namespace) -> dict[str, Any]:
    rules = GenerateTable(count=args.candidates)
    spent, states, accepted = Spent(), Counter[str](), list[Task]()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "replies.jsonl"
        questions = spent.timed("writing", lambda: _write(path, rules, SEEDS, args.candidates))
        writing = spent.seconds.pop("writing")
        began, own = time.perf_counter(), time.process_time()
        for candidate in _screened(path, rules, args, spent):
            states[candidate.state] += 1
            accepted += [candidate.task] if candidate.task is not None else []
        seconds, own = time.perf_counter() - began, time.process_time() - own
    cpu = {**spent.seconds, "driving": own - sum(spent.seconds.values()), "programs": _children()}
    floor = _floor(accepted, args.workers)
    times = (seconds / states.total()) / (floor["seconds"] / max(1, len(accepted)))
    return {
        "candidates": states.total(),
        "questions": questions,
        "seconds": round(seconds, 1),
        "bar": {"seconds": BAR_SECONDS, "mb": BAR_MB},
        "a_second": round(states.total() / seconds, 1),
        "cpu": {name: round(s, 1) for name, s in cpu.items()},
        "floor": floor,
        "times_the_floor": round(times, 2),
        "writing": round(writing, 1),
        "states": dict(states.most_common()),
    }


def _screened(
    path: Path, rules: GenerateTable, args: argparse.Namespace, spent: Spent
) -> Iterator[Candidate]:
    """The candidates of a file of replies, decided."""
    overlap = spent.timed("benchmarks", lambda: _TimedOverlap(benchmarks(args.data)))
    overlap.spent = spent
    with (
        Sandbox(workers=args.workers) as box,
        Sandbox(workers=args.workers, seed=1) as elsewhere,
    ):
        screen = Screen(box, elsewhere, rules, _known(SEEDS), Near(), overlap)
        yield from ended(screen, _read(path, rules, SEEDS), lab_calls, spent)


def _children() -> float:
    """CPU seconds of processes below this one that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _known(seeds: Iterable[Task]) -> Near:
    known = Near("seeds")
    for task in seeds:
        known.add(task)
    return known


def _write(path: Path, rules: GenerateTable, seeds: Sequence[Task], candidates: int) -> int:
    """Put the author's replies into a file, a question a line, until they hold so many
    candidates; the questions."""
    written = number = 0
    with path.open("w", encoding="utf-8") as file:
        while written < candidates:
            brief = brief_of(rules, seeds, _SEED, number)
            text, finish = new_tasks(brief, _SEED)
            file.write(json.dumps([text, finish]) + "\n")
            written, number = written + len(read_tasks(text)), number + 1
    return number


def _read(
    path: Path, rules: GenerateTable, seeds: Sequence[Task]
) -> Iterator[tuple[Completion, Brief]]:
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file):
            text, finish = json.loads(line)
            yield Completion(text, finish), brief_of(rules, seeds, _SEED, number)


def _floor(tasks: Sequence[Task], workers: int) -> dict[str, Any]:
    """What the judge takes for one run of each reference, and nothing else."""
    began = time.perf_counter()
    with Sandbox(workers=workers) as box:
        jobs = (Job(t.task_id, t, t.reference or "") for t in tasks)
        passed = sum(verdict.passed for verdict in verify(box, jobs))
    seconds = time.perf_counter() - began
    return {"references": len(tasks), "passed": passed, "seconds": round(seconds, 1)}


# ---- candidates whose end is known ------------------------------------------------------------


def told_apart(args: argparse.Namespace) -> dict[str, Any]:
    """The labelled set screened: by how a reply must end, how it did."""
    known = benchmarks(args.data)
    each = max(1, args.labelled // 20)
    twins = [t for tasks in known.values() for t in tasks]
    rows = labelled(_SEED + 1, args.labelled, each, twins, seeds=SEEDS, slow=max(1, each // 5))
    began = time.perf_counter()
    found = ends_of(rows, Overlap(known), args.workers)
    return {**confusion(rows, found), "seconds": round(time.perf_counter() - began, 1)}


def ends_of(
    rows: Sequence[Labelled],
    overlap: Overlap | None,
    workers: int,
    rules: GenerateTable | None = None,
) -> list[Candidate]:
    """What became of each reply, in their order; of one with several tasks, of the first."""
    rules = rules or GenerateTable(count=len(rows))
    replies = (
        (Completion(row.reply, row.finish), Brief(number, 1, rules.calls))
        for number, row in enumerate(rows)
    )
    ends: dict[int, Candidate] = {}
    with Sandbox(workers=workers) as box, Sandbox(workers=workers, seed=1) as elsewhere:
        screen = Screen(box, elsewhere, rules, _known(SEEDS), Near(), overlap)
        for candidate in ended(screen, replies, lab_calls):
            if candidate.place == 0:
                ends[candidate.number] = candidate
    return [ends[number] for number in range(len(rows))]


def confusion(rows: Sequence[Labelled], found: Sequence[Candidate]) -> dict[str, Any]:
    """Sound ones and, by how they must end, broken ones: ``right`` ended so, ``other`` names;
    ``accepted``: those that nothing was found wrong with, by kind."""
    by_state: dict[str, list[tuple[Labelled, Candidate]]] = defaultdict(list)
    for row, candidate in zip(rows, found, strict=True):
        mended = row.end == "accepted" and row.state != "accepted"
        by_state["mended" if mended else row.end].append((row, candidate))
    told = {state: _told(pairs) for state, pairs in by_state.items()}
    broken = [row for state, row in told.items() if state not in ("accepted", "mended")]
    return {
        "sound": told.pop("accepted", {}),
        "mended": told.pop("mended", {}),
        "broken": sum(row["replies"] for row in broken),
        "broken_right": sum(row["right"] for row in broken),
        "by_defect": told,
    }


def _told(pairs: Sequence[tuple[Labelled, Candidate]]) -> dict[str, Any]:
    others = [(row, c) for row, c in pairs if c.state != row.end]
    examples = [f"{row.kind}: {c.state}: {c.detail}" for row, c in others]
    return {
        "replies": len(pairs),
        "right": len(pairs) - len(others),
        "other": dict(Counter(f"{row.kind}: {c.state}" for row, c in others)),
        "examples": [" ".join(e.split())[:200] for e in examples[:5]],
    }


def of_mbpp(args: argparse.Namespace) -> dict[str, Any]:
    """MBPP's training tasks as proposals, held against HumanEval."""
    path = args.data / "mbpp" / "mbpp.jsonl"
    train = list(task_sources.load("mbpp", path=str(path), split="train"))
    rules = GenerateTable(count=len(train))
    rng = Random(_SEED)
    rows = [
        Labelled(render(proposed(rng, task, rules.calls)), "accepted", task.task_id)
        for task in train
    ]
    overlap = Overlap({"humaneval": benchmarks(args.data)["humaneval"]})
    found = ends_of(rows, overlap, args.workers, rules)
    states = Counter(c.state for c in found)
    examples: dict[str, list[str]] = defaultdict(list)
    for row, candidate in zip(rows, found, strict=True):
        if candidate.state != "accepted" and len(examples[candidate.state]) < 4:
            detail = " ".join(candidate.detail.split())[:160]
            examples[candidate.state].append(f"{row.kind}: {detail}")
    return {"tasks": len(train), "states": dict(states.most_common()), "examples": dict(examples)}


def dedupe(args: argparse.Namespace) -> dict[str, Any]:
    """What ``dedupe.py`` prints."""
    script = Path(__file__).with_name("dedupe.py")
    command = [sys.executable, str(script), "--data", str(args.data)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


_PARTS: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    "screening": screening,
    "labelled": told_apart,
    "mbpp": of_mbpp,
    "dedupe": dedupe,
}


if __name__ == "__main__":
    main()
