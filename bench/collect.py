"""Asking a teacher: how near to what its latency allows, against two floors and two peers.

    python bench/collect.py [--quick] [--only NAME ...] [--peers DIR] [--json FILE]

All ask the same endpoint (``endpoint.py``, a process of its own) the same questions, each in a
process of its own (``collectors/``), one after another:

    ours           persd.calls.Asker over a ledger and the openai SDK
    bare           an HTTP client with a thread a connection, JSON in and out; nothing is kept
    sdk            one AsyncOpenAI and a semaphore, its own retries on; nothing is kept
    persd collect  the command: attempts, judge, calls, repairs, judge
    curator, distilabel   the peers, installed from PyPI into environments of their own

A ratio is wall time over (calls x latency / calls in flight), which is what an endpoint that
never refuses allows at best; ``asking`` is from the first question to the last answer, ``whole``
the process. CPU is that of the process and its children; memory is the peak RSS of the process
without them.
A row is lost where its question has not exactly one right answer at the end. The load average
of the machine stands beside each line: what others do at the same time changes the figures.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Any

from persd.errors import UserError, WorkFailed
from persd.files import refuse_target, replacing

if TYPE_CHECKING:
    from bench import endpoint, kill
    from bench.judge import Bar
else:  # a script finds its neighbours so
    import endpoint
    import kill
    from judge import Bar

HERE = Path(__file__).parent
#: distilabel imports requests and does not ask for it.
PEERS = {
    "curator": ("bespokelabs-curator==0.1.31",),
    "distilabel": ("distilabel[openai]==1.5.3", "requests"),
}
SCRIPTS = {
    "ours": ("ours.py",),
    "bare": ("floor.py",),
    "sdk": ("floor.py", "--sdk"),
    "curator": ("with_curator.py",),
    "distilabel": ("with_distilabel.py",),
}
COLLECT = "persd collect"
_LONGEST = 1800
"""Seconds after which a collector hangs."""
_LOOK = 0.2
"""Seconds between looks at a process."""


@dataclass(frozen=True)
class Run:
    """What one collector made of a number of questions; times in seconds."""

    name: str
    calls: int
    """Good replies that were to be had."""
    refused: float
    """The share of calls that got a 429."""
    ideal: float
    """calls x latency / in flight."""
    whole: float
    asking: float | None
    """From the first question to the last answer; None: it does not tell."""
    cpu: float
    """CPU seconds of the process and its children."""
    own_cpu: float | None
    """Those of the process alone; None: this is no Linux."""
    peak_mb: float | None
    """Peak RSS of the process; None: this is no Linux."""
    lost: int
    sent: int
    """Calls that reached the endpoint."""
    in_flight: float
    """Mean calls in flight, from the first call to the last."""
    load: float
    note: str = ""

    @property
    def whole_ratio(self) -> float:
        return self.whole / self.ideal

    @property
    def ratio(self) -> float | None:
        return None if self.asking is None else self.asking / self.ideal

    def line(self) -> str:
        return (
            f"{self.name:14}{self.calls:7}{self.refused:6.0%}"
            f"{_shown(self.asking, '.1f'):>9}{_shown(self.ratio, '.3f'):>8}"
            f"{self.whole:9.1f}{self.whole_ratio:8.3f}{self.cpu / self.calls * 1e3:9.2f}"
            f"{_shown(self.peak_mb, '.0f'):>9}{self.lost:6}{self.in_flight:11.0f}"
            f"{self.load:7.2f}  {self.note}"
        )


HEAD = (
    f"{'':14}{'calls':>7}{'429s':>6}{'asking s':>9}{'ratio':>8}{'whole s':>9}{'ratio':>8}"
    f"{'CPU ms':>9}{'peak MB':>9}{'lost':>6}{'in flight':>11}{'load':>7}"
)


def _shown(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def main() -> None:
    args = _arguments()
    try:
        if args.json:
            refuse_target(args.json, "the figures")
        _say(HEAD)
        runs = [run for run in measure(args) if run is not None]
        found = bars(runs)
        print("\n".join([HEAD, *(run.line() for run in runs), "", *(bar.line() for bar in found)]))
        if args.json:
            with replacing(args.json, "the figures") as path:
                path.write_text(json.dumps(_figures(runs, found), indent=1) + "\n")
    except (UserError, WorkFailed) as error:
        _say(str(error))
        sys.exit(2 if isinstance(error, UserError) else 1)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, default in (("calls", 5000), ("many", 20000), ("peer-calls", 3000)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--in-flight", type=int, default=256)
    parser.add_argument("--latency", type=float, default=1.0, help="seconds of a call")
    parser.add_argument("--quick", action="store_true", help="1,500 calls, ours and the floors")
    parser.add_argument("--only", nargs="+", choices=[*SCRIPTS, COLLECT])
    parser.add_argument("--peers", type=Path, default=HERE / ".peers", help="their environments")
    parser.add_argument("--json", type=Path, help="write all figures there as well")
    return parser.parse_args()


def measure(args: argparse.Namespace) -> Iterator[Run | None]:
    """The runs as they are made; None: a peer that is not to be had."""
    for name, calls, refused in _todo(args):
        if args.only and name not in args.only:
            continue
        if name in PEERS and (why := install(args.peers / name, PEERS[name])):
            _say(f"{name}: not to be had: {why}")
            continue
        with tempfile.TemporaryDirectory(prefix="persd-collect-") as folder:
            if name == COLLECT:
                run = persd_collect(Path(folder), calls, args)
            else:
                run = collector(Path(folder), name, calls, refused, args)
        _say(run.line())
        yield run


def _todo(args: argparse.Namespace) -> list[tuple[str, int, float]]:
    """(who, calls, share refused), in turn."""
    if args.quick:
        return [(name, 1500, share) for name in ("ours", "bare", "sdk") for share in (0.0, 0.1)]
    return [
        *((name, args.calls, share) for name in ("ours", "bare", "sdk") for share in (0.0, 0.1)),
        ("ours", args.many, 0.0),
        (COLLECT, args.calls, 0.0),
        (COLLECT, args.many, 0.0),
        *((name, args.peer_calls, share) for name in PEERS for share in (0.0, 0.1)),
    ]


# ---- one run -------------------------------------------------------------------------------


def collector(folder: Path, name: str, calls: int, refused: float, args: argparse.Namespace) -> Run:
    """Run one of the scripts on as many questions."""
    write_questions(folder / "questions.jsonl", calls)
    python = str(args.peers.absolute() / name / "bin" / "python") if name in PEERS else None
    script, *options = SCRIPTS[name]
    with endpoint.serve(_settings(args.latency, refused)) as server:
        command = [
            python or sys.executable,
            str(HERE / "collectors" / script),
            str(folder),
            server.url,
            str(args.in_flight),
            str(folder / "out.json"),
            *options,
        ]
        process = Watched(command, server, own=python is None)
        stats = server.stats()
    told = json.loads((folder / "out.json").read_text())
    return _run(
        process,
        stats,
        name=name,
        calls=calls,
        refused=refused,
        ideal=calls * args.latency / args.in_flight,
        asking=told["seconds"],
        lost=calls - told["rows"],
        note=told.get("error") or "",
    )


def persd_collect(folder: Path, tasks: int, args: argparse.Namespace) -> Run:
    """Run the command as a user does, on tasks that the student fails two of three times."""
    kill.write_tasks(folder, tasks)
    with endpoint.serve(_settings(args.latency, 0.0)) as server:
        config = kill.served_config(folder, server.url, folder / "run", args.in_flight)
        process = Watched([*kill.PERSD, "collect", str(config), "--json"], server, own=True)
        stats = server.stats()
    told = json.loads(process.said)
    calls = stats["answered"]
    judge = process.usage.ru_utime + process.usage.ru_stime - (process.own_cpu or 0.0)
    return _run(
        process,
        stats,
        name=COLLECT,
        calls=calls,
        refused=0.0,
        ideal=calls * args.latency / args.in_flight,
        asking=process.busy_seconds,
        lost=tasks - (told["states"].get("solved", 0) + told["states"].get("refined", 0)),
        note=f"{tasks} tasks; {_shown(process.own_cpu, '.1f')} s CPU its own, {judge:.1f} s "
        "the judge's workers",
    )


def _run(process: Watched, stats: Mapping[str, Any], **known: Any) -> Run:
    return Run(
        whole=process.seconds,
        cpu=process.usage.ru_utime + process.usage.ru_stime,
        own_cpu=process.own_cpu,
        peak_mb=process.peak_mb,
        sent=stats["requests"],
        in_flight=process.in_flight,
        load=os.getloadavg()[0],
        **known,
    )


def _settings(latency: float, refused: float) -> endpoint.Settings:
    faults = {"rate_limited": refused} if refused else {}
    return endpoint.Settings(latency=latency, faults=faults)


def write_questions(path: Path, count: int) -> None:
    """Questions of about 300 tokens, a row each: {"number", "text"}."""
    notes = "\n".join(
        f"Note {n}: the tests call the function with whole numbers." for n in range(20)
    )
    with path.open("w") as out:
        for number in range(2, count + 2):
            text = f"{notes}\nMultiply the number by {number}."
            out.write(json.dumps({"number": number, "text": text}) + "\n")


class Watched:
    """A command that has run to its end, and what was seen of it meanwhile.

    Raises WorkFailed with the last it said, where it fails or hangs.
    """

    def __init__(self, command: Sequence[str], server: endpoint.Server, *, own: bool) -> None:
        """``own``: with this environment's PYTHONPATH; a peer sees its own packages alone."""
        environment = dict(os.environ)
        if not own:
            environment.pop("PYTHONPATH", None)
        self.own_cpu: float | None = None
        self.peak_mb: float | None = None
        self._seen: list[tuple[float, int]] = []
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            began = time.monotonic()
            process = subprocess.Popen(command, stdout=out, stderr=err, env=environment)
            code = self._watch(process, server)
            self.seconds = time.monotonic() - began
            for stream in (out, err):
                stream.seek(0)
            self.said = out.read().decode(errors="replace")
            if code:
                lines = err.read().decode(errors="replace").strip().splitlines()
                detail = lines[-1] if lines else "it said nothing"
                raise WorkFailed(f"{Path(command[1]).name} failed ({code}): {detail}")

    def _watch(self, process: subprocess.Popen[bytes], server: endpoint.Server) -> int | str:
        """Look at it until it ends; gives its exit code, or what else ended it."""
        end, look = time.monotonic() + _LONGEST, 0.0
        while True:
            ended, status, self.usage = os.wait4(process.pid, os.WNOHANG)
            if ended:
                process.returncode = os.waitstatus_to_exitcode(status)
                return process.returncode
            if time.monotonic() > end:
                process.kill()
                process.wait()
                return f"still at it after {_LONGEST} s"
            if time.monotonic() > look:
                self._look(process.pid)
                self._seen.append((time.monotonic(), server.stats()["in_flight"]))
                look = time.monotonic() + _LOOK
            time.sleep(0.01)

    def _look(self, pid: int) -> None:
        with contextlib.suppress(OSError, IndexError, ValueError):
            lines = Path(f"/proc/{pid}/status").read_text().splitlines()
            (peak,) = (line.split()[1] for line in lines if line.startswith("VmHWM:"))
            self.peak_mb = int(peak) / 1024
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            self.own_cpu = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    @property
    def _busy(self) -> list[tuple[float, int]]:
        """What was in flight when, from the first look at a call to the last."""
        asked = [n for n, (_, calls) in enumerate(self._seen) if calls]
        return self._seen[asked[0] : asked[-1] + 1] if asked else []

    @property
    def in_flight(self) -> float:
        return mean(calls for _, calls in self._busy) if self._busy else 0.0

    @property
    def busy_seconds(self) -> float | None:
        """From the first call to the last answer, to about 0.4 s."""
        return self._busy[-1][0] - self._busy[0][0] if self._busy else None


def install(folder: Path, pins: Sequence[str]) -> str:
    """Put pinned packages into an environment, unless they are there; gives why it cannot."""
    stamp, wanted = folder / ".pins", "\n".join(pins)
    if stamp.is_file() and stamp.read_text() == wanted:
        return ""
    _say(f"installing {', '.join(pins)} into {folder}")
    for command in (
        [sys.executable, "-m", "venv", str(folder)],
        [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", *pins],
    ):
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            lines = (done.stderr or done.stdout).strip().splitlines()
            return lines[-1] if lines else f"exit code {done.returncode}"
    stamp.write_text(wanted)
    return ""


# ---- what came of it -----------------------------------------------------------------------


def bars(runs: Sequence[Run]) -> list[Bar]:
    """What this project is held to."""

    def of(name: str, keep: Callable[[Run], bool], what: Callable[[Run], float | None]) -> Any:
        found = [what(run) for run in runs if run.name == name and keep(run)]
        return found[0] if found else None

    def first(run: Run) -> bool:
        return not run.refused

    def refused(run: Run) -> bool:
        return bool(run.refused)

    def bar(what: str, measured: float | None, limit: float, unit: str = "x") -> Bar:
        return Bar(what, measured, limit, unit, at_least=False)

    own = [run for run in runs if run.name in ("ours", COLLECT)]
    peaks = [run.peak_mb for run in own if run.peak_mb is not None]
    return [
        bar("ours: asking / allowed", of("ours", first, lambda r: r.ratio), 1.10),
        bar("ours, 10 % refused: asking / allowed", of("ours", refused, lambda r: r.ratio), 1.30),
        bar("ours: whole process / allowed", of("ours", first, lambda r: r.whole_ratio), 1.10),
        bar("ours and persd collect: peak memory", max(peaks, default=None), 400, "MB"),
        bar("ours: memory of many calls / of few", _growth(runs, "ours"), 1.10),
        bar("persd collect: memory of many / of few", _growth(runs, COLLECT), 1.10),
        bar("rows lost", sum(run.lost for run in own) if own else None, 0, "rows"),
    ]


def _growth(runs: Sequence[Run], name: str) -> float | None:
    """Peak memory of the run with most calls over that with fewest, of those never refused."""
    mine = sorted((r for r in runs if r.name == name and not r.refused), key=lambda r: r.calls)
    if len(mine) < 2 or not mine[0].peak_mb or not mine[-1].peak_mb:
        return None
    return mine[-1].peak_mb / mine[0].peak_mb


def _figures(runs: Sequence[Run], found: Sequence[Bar]) -> dict[str, Any]:
    return {
        "runs": [
            {**asdict(run), "ratio": run.ratio, "whole_ratio": run.whole_ratio} for run in runs
        ],
        "bars": [{**asdict(bar), "reached": bar.reached} for bar in found],
    }


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
