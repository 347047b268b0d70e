"""What the embedded student fails at, and what its teacher's search repairs.

``python -m persd.lab.measure --tasks 300``: the student attempts tasks at temperature 0.3,
the teacher repairs what fails, and all of it is judged by the hidden tests. Counted a kind of
repair (``edit``, ``hunks``, ``rewrote``): how many, how many pass the hidden tests the search
never saw, how many are word for word the solution in the student's loop style (where all that
the attempt had right was already in its words), and how much of the attempt they keep.
Use ``--split validation`` (the default) for anything that is to be chosen by these figures.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import mean, quantiles
from typing import Any

from persd.domains.code import feedback, task_prompt, teacher_refine
from persd.domains.parse import parse_reply
from persd.lab import family, hunks
from persd.models import EMBEDDED_STUDENT
from persd.models.local import LocalModel
from persd.models.repair import RepairTeacher
from persd.records import Message, Request, Solution, Task, Verdict, derive_seed
from persd.sandbox import Sandbox
from persd.tasks import lab
from persd.verify import Job, verify

TEMPERATURE, TOP_P, MAX_TOKENS = 0.3, 0.95, 256


@dataclass(frozen=True, slots=True)
class Repaired:
    """One failed attempt and its repair."""

    kind: str
    """The word before the colon of the teacher's note."""
    holds: bool
    """Passes the hidden tests."""
    same_as_solution: bool
    """Word for word the solution in loop style."""
    kept: float
    """Likeness of attempt and repair by lines, 0-1."""
    seconds: float
    """Wall clock, the sandbox having one worker."""
    candidates: int
    note: str


def attempts(
    box: Sandbox, tasks: list[Task], model: str, seed: int
) -> list[tuple[Solution, Verdict]]:
    """One attempt a task, judged by the hidden tests."""
    student = LocalModel(model)
    solutions: list[Solution] = []
    for start in range(0, len(tasks), student.batch):
        batch = tasks[start : start + student.batch]
        answers = student.complete([_ask(task, seed) for task in batch])
        for task, answer in zip(batch, answers, strict=True):
            code = parse_reply(task, answer.text).code
            name = f"attempt-{len(solutions)}"
            solutions.append(
                Solution(name, task.task_id, "attempt", student.name, 1, answer.text, code)
            )
    student.close()
    pairs = zip(solutions, tasks, strict=True)
    judged = verify(box, (Job(s.solution_id, t, s.code or "") for s, t in pairs))
    return list(zip(solutions, judged, strict=True))


def _ask(task: Task, seed: int) -> Request:
    return Request(
        purpose="attempt",
        messages=(Message("user", task_prompt(task)),),
        task=task,
        seed=derive_seed("measure", seed, task.task_id),
        temperature=TEMPERATURE,
        top_p=TOP_P,
        max_tokens=MAX_TOKENS,
    )


def repair(
    box: Sandbox, teacher: RepairTeacher, task: Task, attempt: Solution, verdict: Verdict
) -> Repaired:
    """Have one failed attempt repaired and the repair judged."""
    code = attempt.code or ""
    request = Request(
        purpose="refinement",
        messages=teacher_refine(task, code, feedback(verdict), None),
        task=task,
        seed=0,
        temperature=0.0,
        top_p=1.0,
        max_tokens=1024,
        parent=attempt,
        verdict=verdict,
    )
    started = time.perf_counter()
    answer = teacher.complete([request])[0]
    seconds = time.perf_counter() - started
    repaired = parse_reply(task, answer.text).code or ""
    holds = next(verify(box, [Job("repair", task, repaired)])).passed
    chain = family.chain_of(task)
    solution = family.program(chain, "loop") if chain else ""
    numbers = [int(word) for word in answer.note.split() if word.isdigit()]
    return Repaired(
        kind=answer.note.split(":")[0],
        holds=holds,
        same_as_solution=repaired.split() == solution.split(),
        kept=hunks.similarity(code, repaired),
        seconds=seconds,
        candidates=numbers[-1] if numbers else 0,
        note=answer.note,
    )


def summary(
    tasks: list[Task], tried: list[tuple[Solution, Verdict]], repairs: list[Repaired]
) -> dict[str, Any]:
    """The counts and shares, as plain JSON."""
    by_steps: dict[int, list[bool]] = {}
    for task, (_, verdict) in zip(tasks, tried, strict=True):
        by_steps.setdefault(task.meta["difficulty"], []).append(verdict.passed)
    times = [r.seconds for r in repairs]
    return {
        "tasks": len(tasks),
        "attempts": dict(Counter(v.status for _, v in tried).most_common()),
        "pass_by_steps": {n: round(mean(by_steps[n]), 3) for n in sorted(by_steps)},
        "repairs": {
            kind: _kind_summary([r for r in repairs if r.kind == kind], len(repairs))
            for kind in sorted({r.kind for r in repairs})
        },
        "hold": round(mean(r.holds for r in repairs), 3),
        "candidates_mean": round(mean(r.candidates for r in repairs), 1),
        "seconds": {
            "mean": round(mean(times), 3),
            "p95": round(quantiles(times, n=20)[-1], 3),
            "max": round(max(times), 3),
        },
    }


def _kind_summary(repairs: list[Repaired], of: int) -> dict[str, float]:
    return {
        "count": len(repairs),
        "share": round(len(repairs) / of, 3),
        "pass_hidden": round(mean(r.holds for r in repairs), 3),
        "same_as_loop_solution": round(mean(r.same_as_solution for r in repairs), 3),
        "keep_half": round(mean(r.kept >= 0.5 for r in repairs), 3),
        "lines_kept": round(mean(r.kept for r in repairs), 3),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--tasks", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--split", choices=("validation", "pool", "heldout"), default="validation")
    parser.add_argument("--model", default=str(EMBEDDED_STUDENT), help="folder of the student")
    parser.add_argument("--out", help="write every repair to this file, a JSON line each")
    parser.add_argument("--unsafe", action="store_true", help="also where nothing holds programs")
    given = parser.parse_args(arguments)
    tasks = lab.load(count=given.tasks, seed=given.seed, split=given.split, mix=lab.POOL_MIX)
    with Sandbox(workers=1, unsafe=given.unsafe) as box:
        tried = attempts(box, tasks, given.model, given.seed)
        teacher = RepairTeacher(box)
        failed = [(t, a, v) for t, (a, v) in zip(tasks, tried, strict=True) if not v.passed]
        print(f"{len(failed)} of {len(tasks)} attempts failed", file=sys.stderr)
        repairs = [repair(box, teacher, *case) for case in failed]
    if given.out:
        with open(given.out, "w", encoding="utf-8") as out:
            for (_, attempt, _), repaired in zip(failed, repairs, strict=True):
                out.write(json.dumps({"attempt": attempt.code, **asdict(repaired)}) + "\n")
    print(json.dumps(summary(tasks, tried, repairs), indent=2))


if __name__ == "__main__":
    main()
