"""The losses of a run's trainings as lines: places in percent of a panel, its text beside it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean

from persd.ledger import Ledger
from persd.records import Checkpoint, Step
from persd.report import sets

#: Points of a line; more steps are drawn as means.
_POINTS = 120


@dataclass(frozen=True, slots=True)
class Curve:
    """One training."""

    name: str
    steps: int
    line: str
    """``points`` of a polyline, in percent of width and height."""
    held_out: tuple[tuple[str, str], ...]
    """Looks at the held-out rows: places in percent."""
    first: float
    """Nats per label token."""
    last: float
    top: float
    """What the height of the panel stands for, from 0 on; the same for all of a run."""
    tokens_per_second: int | None
    """None: a process that was killed made some of it, or it was too short to tell."""


def curves(ledger: Ledger) -> list[Curve]:
    """A curve a checkpoint of the run whose steps are known."""
    known = [(c, ledger.steps(c.data_hash)) for c in sets.trained(ledger)]
    drawn = [(c, steps) for c, steps in known if len(steps) > 1]
    lines = [_binned([(s.step, s.loss) for s in steps]) for _, steps in drawn]
    looks = [_looks(steps) for _, steps in drawn]
    top = max((y for points in (*lines, *looks) for _, y in points), default=0.0)
    return [
        _curve(checkpoint, steps, line, look, top or 1.0)
        for (checkpoint, steps), line, look in zip(drawn, lines, looks, strict=True)
    ]


def _looks(steps: Sequence[Step]) -> list[tuple[float, float]]:
    return [(s.step, s.held_out) for s in steps if s.held_out is not None]


def _binned(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """At most so many points, means of their neighbours."""
    size = -(-len(points) // _POINTS)
    groups = [points[i : i + size] for i in range(0, len(points), size)]
    return [(fmean(x for x, _ in g), fmean(y for _, y in g)) for g in groups]


def _curve(
    checkpoint: Checkpoint,
    steps: Sequence[Step],
    line: Sequence[tuple[float, float]],
    looks: Sequence[tuple[float, float]],
    top: float,
) -> Curve:
    total = steps[-1].steps

    def place(point: tuple[float, float]) -> tuple[str, str]:
        return f"{100 * point[0] / total:.2f}", f"{100 - 100 * point[1] / top:.2f}"

    return Curve(
        name=", ".join(_named(checkpoint)),
        steps=total,
        line=" ".join(",".join(place(p)) for p in line),
        held_out=tuple(place(p) for p in looks),
        first=line[0][1],
        last=line[-1][1],
        top=top,
        tokens_per_second=_rate(steps),
    )


def _named(checkpoint: Checkpoint) -> Iterator[str]:
    yield f"{checkpoint.variant}, round {checkpoint.round}"
    if checkpoint.settings.get("method", "full") != "full":
        yield str(checkpoint.settings["method"])
    if "lr" in checkpoint.settings:
        yield f"rate {checkpoint.settings['lr']:g}"


def _rate(steps: Sequence[Step]) -> int | None:
    first, last = steps[0], steps[-1]
    tokens, seconds = last.tokens - first.tokens, last.seconds - first.seconds
    one_process = all(a.seconds <= b.seconds for a, b in pairwise(steps))
    return round(tokens / seconds) if one_process and tokens > 0 < seconds else None
