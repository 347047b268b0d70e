"""The paper's release as a run: ``persd import persdistill``.

The released files hold, for 3,243 tasks, what CodeGen-mono-6B tried, what its program did, and
ChatGPT's direct answer and repair. They become a run like any other: all three programs are
executed here against the one real unit test a task's feedback carries, and every task ends in
a named state. Nobody is asked anything.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from persd.closeness import closeness
from persd.config import Config
from persd.errors import UserError
from persd.pool.of_run import load_pool
from persd.progress import Progress
from persd.records import Kind, State, Task, Verdict
from persd.run import Case, Run
from persd.tasks.persdistill import FILES, label_faults, recorded

KINDS: tuple[Kind, ...] = ("direct", "attempt", "refinement")


def import_release(
    folder: Path, run_dir: Path, progress: Progress, *, unsafe: bool = False
) -> dict[str, Any]:
    """Make (or finish) the run and count what came of it.

    Gives tasks, tested, attempts_failing, directs_passing, refinements_passing (of the tested
    tasks), failing_attempt_passing_repair, statuses by kind, labels_unparsable and
    labels_undefined_names (of the released repairs under their own header), closeness, states.
    Raises UserError where a file is missing or holds a broken line.
    """
    missing = [name for name in FILES.values() if not (folder / name).is_file()]
    if missing:
        raise UserError(
            f"the release is incomplete: no {missing[0]}",
            where=str(folder),
            hint="persd import persdistill FOLDER --run RUN, FOLDER holding the released files",
        )
    with Run(release_config(folder, run_dir, unsafe=unsafe), progress) as run:
        load_pool(run)
        tasks = run.ledger.tasks()
        verdicts = {kind: _judged(run, tasks, kind) for kind in KINDS}
        states = Counter(_settle(run, task, verdicts) for task in tasks)
    tested = [t for t in tasks if t.tested]
    passing = {
        kind: {t.task_id for t in tested if verdicts[kind][t.task_id].passed} for kind in KINDS
    }
    failing = {
        t.task_id
        for t in tested
        if verdicts["attempt"][t.task_id].status not in ("passed", "not_run")
    }
    faults = label_faults(tasks)
    return {
        "tasks": len(tasks),
        "tested": len(tested),
        "attempts_failing": len(failing),
        "refinements_passing": len(passing["refinement"]),
        "directs_passing": len(passing["direct"]),
        "failing_attempt_passing_repair": len(failing & passing["refinement"]),
        "labels_unparsable": len(faults.unparsable),
        "labels_undefined_names": len(faults.undefined_names),
        "closeness": closeness(_programs(tasks)),
        "states": dict(sorted(states.items())),
        "statuses": {
            kind: dict(sorted(Counter(v.status for v in verdicts[kind].values()).items()))
            for kind in KINDS
        },
    }


def release_config(folder: Path, run_dir: Path, *, unsafe: bool = False) -> Config:
    """The config of an imported run: everybody in it is recorded."""
    return Config.model_validate(
        {
            "run": {"dir": str(run_dir)},
            "tasks": {"source": "persdistill", "path": str(folder)},
            "student": {"model": "recorded"},
            "teacher": {"model": "recorded", "direct": "ask", "max_tries": 1},
            "verify": {"unsafe": unsafe},
        }
    )


def _judged(run: Run, tasks: list[Task], kind: Kind) -> dict[str, Verdict]:
    run.progress.stage(f"judge the {kind}s", sum(t.tested for t in tasks))
    found: dict[str, Verdict] = {}
    items = ((t.task_id, t, recorded(t, kind)) for t in tasks if t.tested)
    for task_id, verdict in run.judge(items):
        found[task_id] = verdict
        run.progress.step(1, **{verdict.status: 1})
    for task in tasks:
        if not task.tested:
            run.ledger.add_solution(recorded(task, kind))
    run.progress.close()
    return found


def _settle(run: Run, task: Task, verdicts: dict[Kind, dict[str, Verdict]]) -> State:
    case = Case(
        task,
        direct=recorded(task, "direct"),
        attempt=recorded(task, "attempt"),
        refinement=recorded(task, "refinement"),
    )
    state: State = "untested"
    detail = str(task.meta.get("untested", ""))
    if task.tested:
        state, detail = _state_of({kind: verdicts[kind][task.task_id] for kind in KINDS})
    run.end(case, 1, state, detail)
    return state


def _state_of(verdicts: dict[Kind, Verdict]) -> tuple[State, str]:
    unrun = [v for v in verdicts.values() if v.status == "not_run"]
    if unrun:
        return "not_run", unrun[0].reason
    if not verdicts["direct"].passed:
        return "direct_failed", verdicts["direct"].status
    if verdicts["attempt"].passed:
        return "solved", ""
    if not verdicts["refinement"].passed:
        return "refused", verdicts["refinement"].status
    return "refined", ""


def _programs(tasks: list[Task]) -> list[tuple[str, str, str]]:
    def program(task: Task, kind: Kind) -> str:
        return recorded(task, kind).code or ""

    return [(program(t, "attempt"), program(t, "refinement"), program(t, "direct")) for t in tasks]
