"""Does personalised distillation beat standard distillation? On the embedded family, on a CPU.

    python bench/claim.py [--quick] [--out runs/claim] [--workers 2]

Several base students (pre-trained from scratch, each from its own seed), and for each a pool of
its own, collected anew: the seven variants, beside StanD and InpD from a teacher that writes in
the student's own style (rows ``style-matched``), at equal epochs and at equal optimizer steps. The
learning rate of each row is the best of the same few on the family's validation split, in equal
numbers of trials; the table's held-out tasks are drawn by a seed that nothing else uses.
Beside the second step stands ``resample``: the same calls spent on blind new samples.

Printed: the table with 95 % intervals over bases and tasks, the paired differences that the
paper's claims are about, and in words what they support and what not. Killed, it goes on.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from persd.experiment.engine import Cell, run_grids
from persd.experiment.grid import Grid, GridTable
from persd.lab.pretrain import Settings, make
from persd.models import EMBEDDED_STUDENT
from persd.outcomes import Counts, counts
from persd.progress import Progress, progress_for
from persd.records import VARIANTS
from persd.scores import Score, difference_over_seeds, leaves_out_zero, over_seeds

#: A row of the table: the variant, and whether its direct answers are in the student's own style.
Row = tuple[str, bool]
MATCHED = ("stand", "inpd")
ROWS: tuple[Row, ...] = (*((v, False) for v in VARIANTS), *((v, True) for v in MATCHED))
EQUALS = ("epochs", "steps")
BASE: Row = ("base", False)
#: Seed of the held-out tasks and their samples, of nothing else.
FRESH = 20_231_206


@dataclass(frozen=True)
class Size:
    """How much of everything."""

    bases: int
    """Base students; the first is the one that is shipped."""
    pretrain_steps: int
    pool: int
    """Tasks that a base's examples are collected from."""
    held_out: int
    samples: int
    """Of each held-out task."""
    tuning_tasks: int
    tuning_samples: int
    rates: tuple[float, ...]
    epochs: float
    mix: tuple[tuple[str, float], ...] = (("2", 0.3), ("3", 0.7))
    """Shares of tasks of so many steps, in the pool and held out. Of four steps no student of
    this size does any, so they could tell nothing apart."""


FULL = Size(3, 2000, 500, 150, 5, 120, 2, (3e-4, 1e-3, 2e-3), 4)
QUICK = Size(1, 0, 160, 60, 3, 40, 2, (3e-4, 1e-3), 3)


# ---- what is run ------------------------------------------------------------------------------


def bases(size: Size, folder: Path, workers: int, progress: Progress) -> list[Path]:
    """The base students: the shipped one, and others made as it was, from other seeds."""
    made = [folder / f"base{seed}-{size.pretrain_steps}" for seed in range(1, size.bases)]
    missing = [(n, p) for n, p in enumerate(made, 1) if not (p / "manifest.json").is_file()]
    if missing:
        progress.stage("pre-training", len(missing))
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
            wanted = [
                (str(path), Settings(seed=n, steps=size.pretrain_steps)) for n, path in missing
            ]
            for _ in pool.map(_pretrain, wanted):
                progress.step(1)
        progress.close()
    return [EMBEDDED_STUDENT, *made]


def _pretrain(wanted: tuple[str, Settings]) -> None:
    make(Path(wanted[0]), wanted[1])


def grid(
    size: Size,
    place: Path,
    base: Path,
    seed: int,
    *,
    matched: bool,
    arms: Sequence[Mapping[str, Any]],
    tuning: bool = False,
) -> Grid:
    """One base's arms, over one collection; ``matched``: direct answers in its own style."""
    first, *rest = arms  # a grid has a product of axes: here one row, the others beside it
    told = {"model": "lab"}
    if matched:
        # the very attempts and repairs of the other collection: only the direct answers differ
        told = {"model": f"recorded:{place / 'own' / 'collect' / f'base-seed{seed}'}"}
    evaluate = {
        "benchmarks": ["lab-validation" if tuning else "lab"],
        "limit": size.tuning_tasks if tuning else size.held_out,
        "samples": size.tuning_samples if tuning else size.samples,
        "k": [1] if tuning else sorted({1, size.samples}),
        "steps": 1 if tuning else 2,
        "temperature": 0.3,
        "max_tokens": 192,
        "seed": FRESH + 1 if tuning else FRESH,
        "mix": dict(size.mix),
    }
    style = {"style": "loop"} if matched else {}
    return Grid(
        GridTable.model_validate(
            {
                "experiment": {
                    "dir": str(place / ("style-matched" if matched else "own")),
                    "seeds": [seed],
                    "variants": [first["variant"]],
                    "sizes": [1.0],
                    "base": not matched,
                    "promote": "persd",
                },
                "arm": list(rest),
                "student": [
                    {
                        "name": "base",
                        "model": str(base),
                        "temperature": 0.3,
                        "max_tokens": 192,
                        "batch": 128,
                    }
                ],
                "tasks": {"source": "lab", "limit": size.pool, "mix": dict(size.mix), **style},
                "teacher": [told],
                "train": {"epochs": size.epochs, "max_length": 1024, **first["train"]},
                "evaluate": evaluate,
                "verify": {"timeout": 0.5, "memory_mb": 128},
            }
        )
    )


def tuned(
    size: Size, place: Path, base: Path, workers: int, progress: Progress
) -> tuple[dict[Row, dict[float, float]], float]:
    """pass@1 on the validation split by learning rate, for every row, on the first base; and
    that of the base."""
    rates = [{"lr": rate} for rate in size.rates]
    grids = [
        grid(
            size,
            place,
            base,
            0,
            matched=matched,
            arms=[{"variant": v, "train": rate} for v, m in ROWS if m == matched for rate in rates],
            tuning=True,
        )
        for matched in (False, True)
    ]
    found: dict[Row, dict[float, float]] = {row: {} for row in ROWS}
    untrained = 0.0
    for matched, made in zip((False, True), _in_turn(grids, workers, progress), strict=True):
        for cell in made:
            if not cell.plan.arm.variants:
                untrained = cell.evaluations[0].pass_at_k["1"]
            else:
                row = (cell.plan.arm.variants[0], matched)
                rate = float(cell.plan.arm.train.get("lr", size.rates[0]))  # the first row's
                found[row][rate] = cell.evaluations[0].pass_at_k["1"]
    return found, untrained


def best(found: Mapping[float, float]) -> float:
    """The rate with the highest score; of equals the lowest."""
    return max(sorted(found), key=lambda rate: found[rate])


def _in_turn(grids: Sequence[Grid], workers: int, progress: Progress) -> list[list[Cell]]:
    """The style-matched grid follows: its teacher says again what the other's said."""
    return [run_grids([g], workers=workers, progress=progress)[0] for g in grids]


def scored(
    size: Size,
    folder: Path,
    students: Sequence[Path],
    rates: Mapping[Row, float],
    workers: int,
    progress: Progress,
) -> dict[tuple[Row, str], list[Cell]]:
    """The cells of every row at equal epochs and at equal steps, one a base, in their order."""
    places = [folder / f"base{seed}" for seed in range(len(students))]
    own = [
        {"variant": v, "equal": equal, "train": {"lr": rates[v, False]}}
        for v in VARIANTS
        for equal in EQUALS
    ]
    grids = [
        grid(size, place, base, seed, matched=False, arms=own)
        for seed, (place, base) in enumerate(zip(places, students, strict=True))
    ]
    found: dict[tuple[Row, str], list[Cell]] = {}
    longest = []
    for cells in run_grids(grids, workers=workers, progress=progress):
        longest.append(max(int(c.metrics.get("steps", 0)) for c in cells))
        for cell in cells:
            arm = cell.plan.arm
            row = (arm.variants[0], False) if arm.variants else BASE
            found.setdefault((row, arm.equal), []).append(cell)
    grids = [
        grid(size, place, base, seed, matched=True, arms=_matched(rates, longest[seed]))
        for seed, (place, base) in enumerate(zip(places, students, strict=True))
    ]
    for cells in run_grids(grids, workers=workers, progress=progress):
        for cell in cells:
            arm = cell.plan.arm
            equal = "steps" if "max_steps" in arm.train else "epochs"
            found.setdefault(((arm.variants[0], True), equal), []).append(cell)
    return found


def _matched(rates: Mapping[Row, float], longest: int) -> list[dict[str, Any]]:
    """The style-matched rows, at equal epochs and in as many steps as the longest of all rows."""
    told = [{"variant": v, "train": {"lr": rates[v, True]}} for v in MATCHED]
    steps = [{"variant": v, "train": {"lr": rates[v, True], "max_steps": longest}} for v in MATCHED]
    return [*told, *steps]


# ---- what it amounts to -----------------------------------------------------------------------


def counts_of(cells: Sequence[Cell], step: int, control: str = "") -> list[Counts]:
    """By base: samples and passes of every held-out task after a step, or of its control."""
    found = []
    for cell in cells:
        (evaluation,) = [e for e in cell.evaluations if (e.step, e.control) == (step, control)]
        found.append(counts(evaluation))
    return found


@dataclass(frozen=True)
class Claim:
    """A difference that something is claimed of."""

    says: str
    """What is true if the difference is above 0."""
    this: tuple[Row, int, str]
    """Row, step, control."""
    other: tuple[Row, int, str]


def _at(variant: str, *, matched: bool = False, step: int = 1, control: str = "") -> Any:
    return ((variant, matched), step, control)


CLAIMS = (
    Claim("PERsD improves the student", _at("persd"), _at("base")),
    Claim("StanD improves the student", _at("stand"), _at("base")),
    Claim("PERsD beats StanD", _at("persd"), _at("stand")),
    Claim("PERsD beats InpD (the same tasks and prompts)", _at("persd"), _at("inpd")),
    Claim(
        "PERsD beats InpD whose answers are in the student's style",
        _at("persd"),
        _at("inpd", matched=True),
    ),
    Claim(
        "PERsD beats StanD whose answers are in the student's style",
        _at("persd"),
        _at("stand", matched=True),
    ),
    Claim("InpD beats StanD", _at("inpd"), _at("stand")),
    Claim("style alone: matched InpD beats InpD", _at("inpd", matched=True), _at("inpd")),
    Claim(
        "PERsD-combined with its second step beats PERsD",
        _at("persd-combined", step=2),
        _at("persd"),
    ),
    *(
        Claim(
            f"the second step of {v} beats blind resampling",
            _at(v, step=2),
            _at(v, step=2, control="resample"),
        )
        for v in ("persd-refine", "persd-combined")
    ),
)

Cells = Mapping[tuple[Row, str], Sequence[Cell]]


def side(cells: Cells, which: tuple[Row, int, str], equal: str) -> list[Counts]:
    row, step, control = which
    return counts_of(cells[row, "epochs" if row == BASE else equal], step, control)


def compared(cells: Cells, claim: Claim, equal: str) -> Score:
    """The paired difference in pass@1 over bases and tasks."""
    this, other = side(cells, claim.this, equal), side(cells, claim.other, equal)
    found = difference_over_seeds(this, other, 1)
    assert found is not None, "every held-out task has a sample"
    return found


def verdict(found: Score) -> str:
    if not leaves_out_zero(found.interval):
        return "undecided"
    return "supported" if found.value > 0 else "contradicted"


def label(row: Row) -> str:
    return f"{row[0]}, style-matched" if row[1] else row[0]


def table(cells: Cells, size: Size) -> Iterator[dict[str, Any]]:
    """The rows of the table, controls among them."""
    for row in (BASE, *ROWS):
        for equal in ("epochs",) if row == BASE else EQUALS:
            mine = cells[row, equal]
            for step, control in ((1, ""), (2, ""), (2, "resample")):
                for k in sorted({1, size.samples}):
                    found = over_seeds(counts_of(mine, step, control), k)
                    assert found is not None, "every held-out task has k samples"
                    yield {
                        "row": label(row),
                        "equal": "" if row == BASE else equal,
                        "step": step,
                        "control": control,
                        "k": k,
                        "pass@k": found.value,
                        "interval": list(found.interval),
                        "examples": [c.plan.examples for c in mine],
                        "steps": [int(c.metrics.get("steps", 0)) for c in mine],
                        "lr": mine[0].plan.arm.train.get("lr"),
                    }


# ---- what is printed --------------------------------------------------------------------------


def print_tuning(trials: Mapping[Row, Mapping[float, float]], base: float) -> None:
    print("\nlearning rates, pass@1 in percent on the validation split (first base)")
    for row, found in trials.items():
        shown = "  ".join(f"{r:g}: {100 * p:5.1f}" for r, p in sorted(found.items()))
        print(f"  {label(row):24} {shown}   taken: {best(found):g}")
    print(f"  {'base':24} {100 * base:5.1f}")


def print_table(rows: Sequence[Mapping[str, Any]], size: Size) -> None:
    first = {(r["row"], r["equal"], r["step"], r["control"], r["k"]): r for r in rows}
    most = size.samples
    print(f"\n{'':24} {'equal':6} {'data':>5} {'steps':>5}  {'pass@1':19} pass@{most}")
    for r in rows:
        if r["k"] != 1:
            continue
        many = first[r["row"], r["equal"], r["step"], r["control"], most]
        name = r["row"] if r["step"] == 1 else f"  {r['control'] or 'step 2'}"
        data = f"{sum(r['examples']) / len(r['examples']):.0f}" if r["step"] == 1 else ""
        steps = f"{sum(r['steps']) / len(r['steps']):.0f}" if r["step"] == 1 else ""
        equal = r["equal"] if r["step"] == 1 else ""
        print(f"{name:24} {equal:6} {data:>5} {steps:>5}  {_shown(r):19} {_shown(many)}")


def _shown(row: Mapping[str, Any]) -> str:
    low, high = row["interval"]
    return f"{100 * row['pass@k']:4.1f} ({100 * low:4.1f} to {100 * high:4.1f})"


def print_claims(found: Sequence[Mapping[str, Any]]) -> None:
    print("\npaired differences in pass@1, points, 95 % over bases and held-out tasks")
    for f in found:
        low, high = f["interval"]
        points = f"{100 * f['value']:+5.1f} ({100 * low:+5.1f} to {100 * high:+5.1f})"
        print(f"  {f['says']:58} equal {f['equal']:6}  {points}  {f['verdict']}")


def in_words(found: Sequence[Mapping[str, Any]], size: Size) -> Iterator[str]:
    """What the differences support and what not, claim by claim, whatever came out."""
    for claim in CLAIMS:
        mine = {f["equal"]: f["verdict"] for f in found if f["says"] == claim.says}
        if len(set(mine.values())) == 1:
            (what,) = set(mine.values())
            words = {
                "supported": "Supported, at equal epochs and at equal steps",
                "contradicted": "Contradicted: the reverse holds, at equal epochs and equal steps",
                "undecided": "Not decided: the interval holds 0 both ways",
            }[what]
        else:
            words = ", ".join(f"{v} at equal {e}" for e, v in mine.items()).capitalize()
        yield f"{words}: {claim.says}."
    yield (
        "All of it for a student of a million parameters on a family of made-up tasks, "
        f"{size.bases} base{'s' * (size.bases > 1)}, {size.pool} tasks a pool, "
        f"{size.held_out} held out. The "
        "embedded teacher repairs by search and falls back on a solution in the student's own "
        "style, so it says nothing of how a large model's repairs compare. It is no evidence for "
        "or against the paper's figures."
    )
    if size.bases < 5:
        yield "With so few bases the intervals are narrower than the truth."


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="one base, few tasks")
    parser.add_argument("--out", type=Path, default=None)
    parser.add_argument("--workers", type=int, default=2)
    given = parser.parse_args()
    size = QUICK if given.quick else FULL
    folder = given.out or Path("runs/claim-quick" if given.quick else "runs/claim")
    started = time.monotonic()
    with progress_for(sys.stderr) as progress:
        students = bases(size, folder, given.workers, progress)
        trials, untrained = tuned(size, folder / "base0", students[0], given.workers, progress)
        rates = {row: best(found) for row, found in trials.items()}
        cells = scored(size, folder, students, rates, given.workers, progress)
    rows = list(table(cells, size))
    claims = [
        {
            "says": c.says,
            "equal": equal,
            "value": d.value,
            "interval": list(d.interval),
            "verdict": verdict(d),
        }
        for c in CLAIMS
        for equal in EQUALS
        for d in [compared(cells, c, equal)]
    ]
    print_tuning(trials, untrained)
    print_table(rows, size)
    print_claims(claims)
    words = list(in_words(claims, size))
    print("\n" + "\n".join(words))
    seconds = time.monotonic() - started
    print(f"\n{seconds / 60:.1f} minutes")
    plain = {"size": asdict(size), "rows": rows, "claims": claims, "words": words}
    tuning = {label(r): {f"{k:g}": v for k, v in f.items()} for r, f in trials.items()}
    (folder / "claim.json").write_text(
        json.dumps({**plain, "tuning": tuning, "seconds": seconds}, indent=1) + "\n"
    )


if __name__ == "__main__":
    main()
