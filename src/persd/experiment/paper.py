"""The paper's own numbers, to stand beside one's own where both exist.

They are of one student (CodeGen-mono-6B, ChatGPT as its teacher), without intervals or seeds:
what another student, teacher or pool of tasks gives may differ from them for good reasons.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from persd.experiment.grid import OWN, Arm

SOURCE = (
    "Chen, Saha, Hoi, Joty: Personalised Distillation, EMNLP 2023 (arXiv 2310.18628); "
    "CodeGen-mono-6B, figures of the authors' result table; pass@1 of 20 samples at temperature "
    "0.2, the others of 100 at 0.8; on MBPP, sanitized, its second step was told by the very tests "
    "that score"
)
#: pass@1 is of 20 samples at temperature 0.2, the others of 100 at 0.8; top-p 0.95.
KS = (1, 5, 10, 20)
BENCHMARKS = ("humaneval", "mbpp")

#: Percent: variant, examples in thousands, step, HumanEval pass@1/5/10/20, MBPP the same.
_TABLE = """
stand           10   1   32.41 41.79 45.67 49.26   43.11 55.24 59.07 62.51
inpd            3.3  1   31.65 44.55 50.72 56.76   43.59 55.83 63.13 67.34
inpd-refine     3.3  1   29.70 43.82 51.28 58.29   44.44 62.25 67.61 71.68
inpd-refine     3.3  2   29.70 41.99 47.89 53.51   47.81 66.43 71.44 75.22
inpd-combined   6.5  1   30.15 42.94 47.91 52.54   42.69 56.70 61.39 65.46
inpd-combined   6.5  2   32.30 45.27 50.50 55.46   47.25 62.17 66.49 70.22
persd           3.3  1   34.63 49.34 55.34 60.41   45.47 59.90 64.85 69.73
persd-refine    3.3  1   32.35 48.69 56.07 63.60   48.24 63.65 69.00 73.16
persd-refine    3.3  2   33.35 49.35 56.87 64.76   52.65 68.49 73.34 77.62
persd-combined  6.5  1   33.81 44.64 49.96 55.23   42.77 56.91 61.43 65.22
persd-combined  6.5  2   35.53 49.67 55.67 61.21   48.92 62.29 66.89 70.96
"""


@dataclass(frozen=True, slots=True)
class Headline:
    """A figure the paper leads with: HumanEval pass@1 of a student trained by its method."""

    student: str
    score: float
    """Fraction."""


HEADLINES = (Headline("CodeGen-mono-16B", 0.364), Headline("StarCoder", 0.458))


def paper_score(variant: str, benchmark: str, k: int, step: int) -> float | None:
    """The paper's pass@k (a fraction) of a variant after a step of inference; None: it gives
    none."""
    # the paper's MBPP is the sanitized one
    name = benchmark.removesuffix("-sanitized")
    return _SCORES.get((variant, name, k, step))


def paper_examples(variant: str) -> int | None:
    """How many examples the paper trained a variant on, as rounded there; None: it is not there."""
    return _EXAMPLES.get(variant)


def paper_row(arm: Arm) -> str | None:
    """The variant whose row of the paper's table an arm repeats; None: the table has no such row.

    It holds one set whole, of the student's own first round, made with feedback and the paper's
    prompt, trained for equal epochs.
    """
    plain = Arm(arm.student, OWN, arm.seed, arm.variants, 1.0)
    return arm.variants[0] if arm == plain and len(arm.variants) == 1 else None


def _read() -> tuple[Mapping[tuple[str, str, int, int], float], Mapping[str, int]]:
    scores, examples = {}, {}
    columns = [(benchmark, k) for benchmark in BENCHMARKS for k in KS]
    for line in _TABLE.strip().splitlines():
        variant, thousands, step, *percents = line.split()
        examples[variant] = round(1000 * float(thousands))
        for (benchmark, k), percent in zip(columns, percents, strict=True):
            # four decimals: the paper's two of a percent
            scores[variant, benchmark, k, int(step)] = round(float(percent) / 100, 4)
    return scores, examples


_SCORES, _EXAMPLES = _read()
