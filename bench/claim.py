"""Does personalised distillation beat standard distillation? On the embedded family, on a CPU.

    python bench/claim.py [--quick] [--out runs/claim] [--workers 2]

Several base students (the shipped one, others pre-trained from scratch from seeds of their own),
and for each a pool of its own: the seven variants, beside StanD and InpD from a teacher that
writes in the student's own style (rows ``style-matched``). Learning rate and epochs of each row are
the best of the same few trials on the family's validation split; beside that, all rows at equal
epochs and in equal optimizer steps. The held-out tasks are drawn by a seed that nothing else uses.
Beside the second step stands ``resample``: the same calls spent on blind new samples.

Printed: the trials, the table with 95 % intervals over bases and tasks, the paired differences
that the paper's claims are about, and in words what they support and what not. Killed, it goes on.

How the setting was chosen, on other tasks of the validation split: with the demo's mix of tasks and
300 of them no fine-tune helped the student at all; with tasks of two and three steps the standard
distillation of style-matched answers did. That was chosen before there was any figure of PERsD.
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
#: Each row as it was best on the validation split; all rows at the same epochs; all rows in as
#: many optimizer steps as the longest takes at those.
BLOCKS = ("tuned", "epochs", "steps")
#: Learning rate, epochs and optimizer steps (None: as the epochs give) of a fine-tune.
Train = tuple[float, float, int | None]
BASE: Row = ("base", False)
#: Seed of the validation tasks, on which the fine-tunes are chosen.
VALIDATION = 20_231_207


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
    epochs: tuple[float, ...]
    """Those tried; the last is what all rows get where epochs are equal."""
    fresh: int
    """Seed of the held-out tasks and their samples, of nothing else."""
    mix: tuple[tuple[str, float], ...] = (("2", 0.3), ("3", 0.7))
    """Shares of tasks of so many steps, in the pool and held out. Of four steps no student of
    this size does any, so they could tell nothing apart."""

    @property
    def trials(self) -> list[Train]:
        return [(lr, epochs, None) for epochs in self.epochs for lr in self.rates]

    @property
    def blocks(self) -> tuple[str, ...]:
        """The ways of comparing: where one number of epochs is tried, tuned is equal epochs."""
        return BLOCKS if len(self.epochs) > 1 else ("tuned", "steps")


FULL = Size(3, 2000, 300, 120, 4, 80, 2, (3e-4, 1e-3, 3e-3), (2.0, 4.0), 774_102_911)
QUICK = Size(1, 0, 160, 80, 3, 60, 2, (1e-3, 3e-3), (4.0,), 20_231_206)


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
        "seed": VALIDATION if tuning else size.fresh,
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
                "train": {"max_length": 1024, "warmup_ratio": 0.1, **first["train"]},
                "evaluate": evaluate,
                "verify": {"timeout": 0.5, "memory_mb": 128},
            }
        )
    )


def arms(wanted: Mapping[Row, Sequence[Train]], *, matched: bool) -> list[dict[str, Any]]:
    """The wanted fine-tunes of the rows of one kind, each once."""
    return [
        {"variant": variant, "train": {"lr": lr, "epochs": epochs} | _in_steps(steps)}
        for (variant, is_matched), trains in wanted.items()
        if is_matched == matched
        for lr, epochs, steps in dict.fromkeys(trains)
    ]


def _in_steps(steps: int | None) -> dict[str, int]:
    return {} if steps is None else {"max_steps": steps}


def run_all(
    size: Size,
    folder: Path,
    students: Sequence[Path],
    wanted: Sequence[Mapping[Row, Sequence[Train]]],
    progress: Progress,
    *,
    workers: int,
    tuning: bool = False,
) -> list[dict[tuple[Row, Train], Cell]]:
    """By base, every wanted fine-tune of every row, and the untrained student.

    The style-matched grids come second: their teacher says again what the others' said.
    """
    found: list[dict[tuple[Row, Train], Cell]] = [{} for _ in students]
    for matched in (False, True):
        grids = [
            grid(
                size,
                folder / f"base{seed}",
                base,
                seed,
                matched=matched,
                arms=arms(wanted[seed], matched=matched),
                tuning=tuning,
            )
            for seed, base in enumerate(students)
        ]
        cells_of = run_grids(grids, workers=workers, progress=progress)
        for mine, made, cells in zip(found, grids, cells_of, strict=True):
            for cell in cells:
                mine[_which(made, cell, matched)] = cell
    return found


def _which(made: Grid, cell: Cell, matched: bool) -> tuple[Row, Train]:
    arm = cell.plan.arm
    if not arm.variants:
        return BASE, UNTRAINED
    table = made.train(arm)
    return (arm.variants[0], matched), (table.lr, table.epochs, table.max_steps)


UNTRAINED: Train = (0.0, 0.0, None)
Cells = Mapping[tuple[Row, str], Sequence[Cell]]
Trials = Mapping[Row, Mapping[Train, float]]


def tuned(
    size: Size, folder: Path, base: Path, progress: Progress, workers: int
) -> tuple[Trials, float]:
    """pass@1 on the validation split by fine-tune, for every row, on the first base; and that
    of the base itself."""
    wanted = dict.fromkeys(ROWS, size.trials)
    (found,) = run_all(size, folder, [base], [wanted], progress, workers=workers, tuning=True)
    score = {which: cell.evaluations[0].pass_at_k["1"] for which, cell in found.items()}
    trials = {row: {train: score[row, train] for train in size.trials} for row in ROWS}
    return trials, score[BASE, UNTRAINED]


def best(found: Mapping[Train, float], epochs: float | None = None) -> Train:
    """The fine-tune with the highest score, of equals the gentlest; of some epochs, or of all."""
    tried = sorted(t for t in found if epochs is None or t[1] == epochs)
    return max(tried, key=lambda t: found[t])


def scored(
    size: Size,
    folder: Path,
    students: Sequence[Path],
    trials: Trials,
    progress: Progress,
    workers: int,
) -> Cells:
    """The cells of every row in every block, one a base, in their order."""
    chosen = {
        row: {"tuned": best(found), "epochs": best(found, size.epochs[-1])}
        for row, found in trials.items()
    }
    wanted = [{row: list(trains.values()) for row, trains in chosen.items()}] * len(students)
    found = run_all(size, folder, students, wanted, progress, workers=workers)
    longest = [
        max(int(mine[row, chosen[row]["epochs"]].metrics["steps"]) for row in ROWS)
        for mine in found
    ]
    steps: list[dict[Row, Sequence[Train]]] = [
        {row: [(*chosen[row]["tuned"][:2], n)] for row in ROWS} for n in longest
    ]
    in_steps = run_all(size, folder, students, steps, progress, workers=workers)
    cells: dict[tuple[Row, str], list[Cell]] = {
        (BASE, "tuned"): [mine[BASE, UNTRAINED] for mine in found]
    }
    for row in ROWS:
        for block in ("tuned", "epochs"):
            cells[row, block] = [mine[row, chosen[row][block]] for mine in found]
        cells[row, "steps"] = [
            mine[row, told[row][0]] for mine, told in zip(in_steps, steps, strict=True)
        ]
    return cells


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


def side(cells: Cells, which: tuple[Row, int, str], block: str) -> list[Counts]:
    row, step, control = which
    return counts_of(cells[row, "tuned" if row == BASE else block], step, control)


def compared(cells: Cells, claim: Claim, block: str) -> Score:
    """The paired difference in pass@1 over bases and tasks."""
    this, other = side(cells, claim.this, block), side(cells, claim.other, block)
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
        for block in ("tuned",) if row == BASE else size.blocks:
            mine = cells[row, block]
            for step, control in ((1, ""), (2, ""), (2, "resample")):
                for k in sorted({1, size.samples}):
                    found = over_seeds(counts_of(mine, step, control), k)
                    assert found is not None, "every held-out task has k samples"
                    yield {
                        "row": label(row),
                        "block": "" if row == BASE else block,
                        "step": step,
                        "control": control,
                        "k": k,
                        "pass@k": found.value,
                        "interval": list(found.interval),
                        "examples": [c.plan.examples for c in mine],
                        "steps": [int(c.metrics.get("steps", 0)) for c in mine],
                    }


# ---- what is printed --------------------------------------------------------------------------


def print_tuning(trials: Trials, base: float, size: Size) -> None:
    print("\npass@1 in percent on the validation split (first base), by epochs x learning rate")
    heads = "".join(f"{f'{e:g} x {lr:g}':>11}" for lr, e, _ in size.trials)
    print(f"{'':24}{heads}   taken")
    for row, found in trials.items():
        shown = "".join(f"{100 * found[t]:11.1f}" for t in size.trials)
        lr, epochs, _ = best(found)
        print(f"{label(row):24}{shown}   {epochs:g} x {lr:g}")
    print(f"{'base':24}{100 * base:11.1f}")


def print_table(rows: Sequence[Mapping[str, Any]], size: Size) -> None:
    first = {(r["row"], r["block"], r["step"], r["control"], r["k"]): r for r in rows}
    most = size.samples
    for block in size.blocks:
        head = "tuned" if block == "tuned" else f"equal {block}"
        print(f"\n{head:24} {'data':>5} {'steps':>5}  {'pass@1':19} pass@{most}")
        for r in rows:
            if r["k"] != 1 or r["block"] not in ("", block):
                continue
            many = first[r["row"], r["block"], r["step"], r["control"], most]
            name = r["row"] if r["step"] == 1 else f"  {r['control'] or 'step 2'}"
            data, steps = (_mean(r[key]) if r["step"] == 1 else "" for key in ("examples", "steps"))
            print(f"{name:24} {data:>5} {steps:>5}  {_shown(r):19} {_shown(many)}")


def _mean(values: Sequence[int]) -> str:
    return f"{sum(values) / len(values):.0f}"


def _shown(row: Mapping[str, Any]) -> str:
    low, high = row["interval"]
    return f"{100 * row['pass@k']:4.1f} ({100 * low:4.1f} to {100 * high:4.1f})"


def print_claims(found: Sequence[Mapping[str, Any]]) -> None:
    print("\npaired differences in pass@1, points, 95 % over bases and held-out tasks")
    for claim in CLAIMS:
        print(claim.says)
        for f in found:
            if f["says"] == claim.says:
                low, high = f["interval"]
                points = f"{100 * f['value']:+5.1f} ({100 * low:+5.1f} to {100 * high:+5.1f})"
                print(f"    {_named(f['block']):14} {points}  {f['verdict']}")


def _named(block: str) -> str:
    return "tuned" if block == "tuned" else f"equal {block}"


def in_words(found: Sequence[Mapping[str, Any]], size: Size) -> Iterator[str]:
    """What the differences support and what not, claim by claim, whatever came out."""
    for claim in CLAIMS:
        mine = {f["block"]: f["verdict"] for f in found if f["says"] == claim.says}
        if len(set(mine.values())) == 1:
            (what,) = set(mine.values())
            words = {
                "supported": "Supported in every way of comparing",
                "contradicted": "Contradicted, the reverse holds in every way of comparing",
                "undecided": "Not decided in any way of comparing",
            }[what]
        else:
            words = ", ".join(f"{v} {_named(b)}" for b, v in mine.items()).capitalize()
        yield f"{words}: {claim.says}.{_but(claim, mine, found)}"
    yield (
        "Learning rate and epochs were chosen on the first base, by what the first step scores; "
        f"{len(found)} differences are told, and none is corrected for the others."
    )
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


def _but(claim: Claim, mine: Mapping[str, str], found: Sequence[Mapping[str, Any]]) -> str:
    """What a reader of a supported comparison has to know of the untrained student."""
    improves = {f["says"]: f["verdict"] for f in found if f["block"] == "tuned"}
    trained = {"persd": "PERsD improves the student", "stand": "StanD improves the student"}
    says = trained.get(claim.this[0][0])
    if says in (None, claim.says) or "supported" not in mine.values():
        return ""
    return "" if improves[says] == "supported" else " (The better one is not above the base.)"


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
        trials, untrained = tuned(size, folder, students[0], progress, given.workers)
        cells = scored(size, folder, students, trials, progress, given.workers)
    rows = list(table(cells, size))
    claims = [
        {
            "says": c.says,
            "block": block,
            "value": d.value,
            "interval": list(d.interval),
            "verdict": verdict(d),
        }
        for c in CLAIMS
        for block in size.blocks
        for d in [compared(cells, c, block)]
    ]
    print_tuning(trials, untrained, size)
    print_table(rows, size)
    print_claims(claims)
    words = list(in_words(claims, size))
    print("\n" + "\n".join(words))
    seconds = time.monotonic() - started
    print(f"\n{seconds / 60:.1f} minutes")
    plain = {"size": asdict(size), "rows": rows, "claims": claims, "words": words}
    tuning = {
        label(row): {f"{e:g} x {lr:g}": score for (lr, e, _), score in found.items()}
        for row, found in trials.items()
    }
    (folder / "claim.json").write_text(
        json.dumps({**plain, "tuning": tuning, "seconds": seconds}, indent=1) + "\n"
    )


if __name__ == "__main__":
    main()
