"""Write a load for the executors beside this file: what each of them judges, row by row.

    python load.py canonical HUMANEVAL OUT --copies 4      every canonical solution, four times
    python load.py mixed HUMANEVAL OUT --programs 164      right and wrong programs, mixed by seed
    python load.py numpy HUMANEVAL OUT                     canonical ones among some that use NumPy

OUT gets problems.jsonl, in HumanEval's format, and samples.jsonl: a row a program, {"task_id",
"completion", "kind"}. Every program ends in a comment of its own: no two are the same text.
"""

from __future__ import annotations

import argparse
import ast
import gzip
import json
import random
from collections.abc import Callable, Iterator, Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import Any

Problem = dict[str, Any]

SHARES = {"right": 0.60, "wrong": 0.25, "raises": 0.10, "syntax": 0.02, "endless": 0.03}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("load", choices=("canonical", "mixed", "numpy"))
    parser.add_argument("humaneval", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--copies", type=int, default=4)
    parser.add_argument("--programs", type=int, default=164)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    problems = read_problems(args.humaneval)
    if args.load == "mixed":
        pairs = mixed(problems, args.programs, args.seed)
    elif args.load == "numpy":
        pairs = with_numpy(problems)
    else:
        pairs = [(problem, "right") for _ in range(args.copies) for problem in problems]
    write(args.out, pairs)


def read_problems(path: Path) -> list[Problem]:
    """HumanEval's rows."""
    data = path.read_bytes()
    text = (gzip.decompress(data) if path.suffix == ".gz" else data).decode()
    return [json.loads(line) for line in text.splitlines() if line.strip()]


def write(out: Path, pairs: Sequence[tuple[Problem, str]]) -> None:
    """Problems and samples; a problem without a sample is left out, as both peers want it."""
    out.mkdir(parents=True, exist_ok=True)
    used = {problem["task_id"]: problem for problem, _ in pairs}
    samples = [
        {
            "task_id": problem["task_id"],
            "completion": f"{KINDS[kind](problem)}\n# program {number}\n",
            "kind": kind,
        }
        for number, (problem, kind) in enumerate(pairs)
    ]
    for name, rows in (("problems", list(used.values())), ("samples", samples)):
        (out / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def mixed(problems: Sequence[Problem], count: int, seed: int) -> list[tuple[Problem, str]]:
    """``count`` programs of all kinds, in shares as near to ``SHARES`` as whole numbers go."""
    kinds = [kind for kind, n in _whole(SHARES, count).items() for _ in range(n)]
    random.Random(seed).shuffle(kinds)
    return list(zip(islice(cycle(problems), count), kinds, strict=True))


def _whole(shares: dict[str, float], count: int) -> dict[str, int]:
    """Shares of ``count`` in whole numbers that add up: the largest remainders are rounded up."""
    whole = {name: int(share * count + 1e-9) for name, share in shares.items()}
    by_remainder = sorted(shares, key=lambda name: whole[name] - shares[name] * count)
    for name in by_remainder[: count - sum(whole.values())]:
        whole[name] += 1
    return whole


def with_numpy(problems: Sequence[Problem], count: int = 60) -> list[tuple[Problem, str]]:
    """Each canonical solution, and ``count`` NumPy programs spread among them."""
    problem = {
        "task_id": "numpy/0",
        "prompt": "import numpy as np\n\n\ndef total(n):\n",
        "entry_point": "total",
        "canonical_solution": "    return sum(int(np.arange(n).sum()) for _ in range(10_000))\n",
        "test": "def check(candidate):\n    assert candidate(1000) == 4995000000\n",
    }
    every = max(1, len(problems) // count)
    pairs = [(p, "right") for p in problems]
    for place in range(count):
        pairs.insert(place * (every + 1), (problem, "right"))
    return pairs


# --- a completion of each kind ---------------------------------------------------------------


def _right(problem: Problem) -> str:
    return str(problem["canonical_solution"])


def _raises(problem: Problem) -> str:
    return _first('raise ValueError("not written yet")', problem)


def _endless(problem: Problem) -> str:
    return _first("while True: pass", problem)


def _first(statement: str, problem: Problem) -> str:
    """The canonical body after a statement of the same indentation."""
    body = _right(problem)
    line = next(line for line in body.splitlines() if line.strip())
    return f"{line[: len(line) - len(line.lstrip())]}{statement}\n{body}"


def _syntax(problem: Problem) -> str:
    return f"{_right(problem).rstrip()}\n    return (\n"


def _wrong(problem: Problem) -> str:
    """The canonical solution, returning another value of the same type."""
    prompt = str(problem["prompt"])
    lines = [line.encode() for line in (prompt + _right(problem)).splitlines(keepends=True)]
    for value in sorted(_returned(problem), key=lambda node: (node.lineno, node.col_offset))[::-1]:
        for line, column, text in (
            (value.end_lineno, value.end_col_offset, b"))"),
            (value.lineno, value.col_offset, b"_off(("),
        ):
            assert line is not None
            whole = lines[line - 1]
            lines[line - 1] = whole[:column] + text + whole[column:]
    return b"".join(lines).decode()[len(prompt) :].rstrip() + "\n\n\n" + OFF


def _returned(problem: Problem) -> list[ast.expr]:
    """The values that the entry point itself returns, not the functions within it."""
    tree = ast.parse(str(problem["prompt"]) + _right(problem))
    functions = [
        node
        for node in tree.body
        if isinstance(node, ast.FunctionDef) and node.name == problem["entry_point"]
    ]
    return [value for statement in functions[-1].body for value in _returns(statement)]


def _returns(node: ast.AST) -> Iterator[ast.expr]:
    if isinstance(node, ast.Return) and node.value is not None:
        yield node.value
    elif not isinstance(node, (ast.FunctionDef, ast.Lambda, ast.ClassDef)):
        for child in ast.iter_child_nodes(node):
            yield from _returns(child)


KINDS: dict[str, Callable[[Problem], str]] = {
    "right": _right,
    "wrong": _wrong,
    "raises": _raises,
    "syntax": _syntax,
    "endless": _endless,
}

OFF = """\
def _off(value):
    if isinstance(value, bool):
        return not value
    if isinstance(value, (int, float)):
        return value + 1
    if isinstance(value, str):
        return value + "x"
    if isinstance(value, (list, tuple)):
        return type(value)([*value, *(value[-1:] or [0])])
    if isinstance(value, dict):
        return {**value, "x": 0}
    return 0
"""


if __name__ == "__main__":
    main()
