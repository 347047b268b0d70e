"""Are the tasks sound? Every reference and a few stubs are run before anyone pays.

A reference that fails its own tests, a stub that passes them, an answer that changes from
run to run and a reference that always answers the same are problems of the task, not of a
student; so is a row that is no task. That the tests kill few mutants of the reference is a
warning.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from pathlib import Path
from typing import Any

from persd.domains.align import Misaligned, read_header
from persd.domains.prompts import feedback
from persd.errors import UserError
from persd.progress import Progress
from persd.records import Task, Verdict
from persd.sandbox import Limits, Sandbox
from persd.tasks import load, read
from persd.tasks.mutants import mutants
from persd.tasks.rows import Fault, Wrong, whole_program
from persd.verify import Job, verify

#: A reference is given more time than an answer: that it is slow is not that it is wrong.
REFERENCE_LIMITS = Limits(cpu_seconds=10.0, load_seconds=10.0)
MUTANT_LIMITS = Limits(cpu_seconds=0.5)
WEAK = 0.5
"""Tests that kill less than this share of the mutants are warned of."""


def check_source(
    source: str, data: Path | None, limit: int | None, progress: Progress, *, unsafe: bool = False
) -> dict[str, Any]:
    """``check`` on a source by name (both splits of MBPP) or on a task file. ``unsafe``: also
    where nothing keeps programs from the user's files.

    Raises UserError for an unknown source or a file that cannot be read.
    """
    path = None if data is None else str(data)
    items: Iterable[Task | Fault]
    if source == "lab":
        items = load("lab", limit=limit)
    elif source == "mbpp":
        test = read(source, path=path, split="test")
        items = chain(
            read(source, path=path, split="train"),
            (item for item in test if not isinstance(item, Fault)),  # told once already
        )
    else:
        items = read(source, path=path)
    progress.stage("tasks", limit)
    with Sandbox(unsafe=unsafe) as box:
        found = check(box, islice(items, limit), progress)
    if not found["tasks"]:
        raise UserError("it holds no task", where=path or source, hint="A row a task; README.md")
    return found


def check(
    box: Sandbox, items: Iterable[Task | Fault] | str, progress: Progress | None = None
) -> dict[str, Any]:
    """{"tasks", "ok", "problems": [{"task_id", "reason", "detail"}], "warnings": [the same]}.

    ``items`` are tasks and faults, or a task file. Reasons of a problem: those of a Fault,
    ``reference_fails``, ``seen_test_fails``, ``flaky``, ``constant``, ``stub_passes``,
    ``not_run``; of a warning: ``seen_test_fails`` (of an example found in a docstring),
    ``no_reference``, ``untested``, ``slow``, ``weak_tests``.
    """
    findings = _Findings()
    rows = read("jsonl", path=items) if isinstance(items, str) else items
    with Sandbox(workers=box.workers, unsafe=box.unsafe, seed=_OTHER_HASHES) as elsewhere:
        for case in _again(elsewhere, _probed(box, rows, findings)):
            before = len(findings.problems)
            _judge(case, findings)
            findings.bad += len(findings.problems) > before
            if progress:
                progress.step()
    return findings.report()


#: Where hashes start in the sandbox that a sound reference is run in once more.
_OTHER_HASHES = 1
#: How often it is run there, each time with other random numbers.
_SEEDS = 4


def _probed(box: Sandbox, items: Iterable[Task | Fault], findings: _Findings) -> Iterator[_Case]:
    """The tasks with the verdicts on their probes, in order."""
    waiting: deque[_Case] = deque()
    for verdict in verify(box, _jobs(items, waiting, findings)):
        case = waiting[0]
        case.verdicts.append(verdict)
        if len(case.verdicts) == len(case.probes):
            yield waiting.popleft()


def _again(elsewhere: Sandbox, cases: Iterator[_Case]) -> Iterator[_Case]:
    """The cases in order; where the reference passed, it is run with other hashes, and with
    other random numbers."""
    waiting: deque[_Case] = deque()

    def jobs() -> Iterator[Job]:
        for case in cases:
            waiting.append(case)
            if case.sound:
                yield Job(
                    "reference", case.task, case.task.reference or "", limits=REFERENCE_LIMITS
                )

    for verdict in verify(elsewhere, jobs(), repeats=_SEEDS):
        while not waiting[0].sound:
            yield waiting.popleft()
        waiting[0].elsewhere = verdict
        yield waiting.popleft()
    yield from waiting


def sound_seen(box: Sandbox, tasks: Iterable[Task]) -> Iterator[Task]:
    """The tasks, less the seen tests that their own reference fails.

    31 of HumanEval's docstring test sets, as the paper's code extracts them, fail the
    canonical solution: a seen test that the reference fails is not a test. Tasks without a
    reference keep theirs. In flat memory, in order.
    """
    waiting: deque[Task] = deque()

    def jobs() -> Iterator[Job]:
        for task in tasks:
            waiting.append(task)
            if task.reference is not None and task.seen_tests:
                yield Job(task.task_id, task, task.reference, "seen", REFERENCE_LIMITS)

    for verdict in verify(box, jobs()):
        while not (waiting[0].reference is not None and waiting[0].seen_tests):
            yield waiting.popleft()
        yield _less_failing(waiting.popleft(), verdict)
    yield from waiting


def _less_failing(task: Task, verdict: Verdict) -> Task:
    if verdict.passed:
        return task
    kept = tuple(
        test
        for test, result in zip(task.seen_tests, verdict.results, strict=False)
        if result.status == "passed"
    )
    return replace(task, seen_tests=kept)


# ---- what is run -----------------------------------------------------------------------------


@dataclass
class _Case:
    task: Task
    probes: list[tuple[str, Job]]
    """(what is run, the job): ``reference``, reversed too, ``seen``, stubs, mutants."""
    verdicts: list[Verdict] = field(default_factory=list)
    elsewhere: Verdict | None = None
    """On a reference that passed, with other hashes and random numbers."""

    @property
    def sound(self) -> bool:
        """The reference passes, whichever way its tests are run."""
        found = [*self.named("reference"), *self.named("backwards")]
        return bool(found) and all(v.passed for v in found)

    def named(self, name: str) -> list[Verdict]:
        return [v for (n, _), v in zip(self.probes, self.verdicts, strict=True) if n == name]


def _jobs(
    items: Iterable[Task | Fault], waiting: deque[_Case], findings: _Findings
) -> Iterator[Job]:
    for item in items:
        findings.tasks += 1
        if isinstance(item, Fault):
            where = item.where.rpartition("/")[2]
            detail = f"{where}: {item.detail}. {item.hint}".rstrip(". ")
            findings.problem(item.task_id or where, item.reason, detail)
            findings.bad += 1
            continue
        case = _Case(item, _probes(item))
        if not item.tested:
            why = str(item.meta.get("untested", "no tests"))
            findings.warn(item.task_id, "untested", why)
        elif item.reference is None:
            findings.warn(item.task_id, "no_reference", "nothing to check its tests with")
        if case.probes:
            waiting.append(case)
            yield from (job for _, job in case.probes)


def _probes(task: Task) -> list[tuple[str, Job]]:
    if not task.tested:
        return []
    probes = [("stub", Job(what, task, code)) for what, code in _stubs(task)]
    reference = task.reference
    if reference is None:
        return probes
    again = Job("reference", task, reference, limits=REFERENCE_LIMITS)
    backwards = replace(again, task=replace(task, tests=task.tests[::-1]))
    probes += [("reference", again), ("backwards", backwards)]
    if task.seen_tests:
        probes.append(("seen", replace(again, tests="seen")))
    for code in mutants(reference):
        probes.append(("mutant", Job("mutant", task, code, "hidden", MUTANT_LIMITS, True)))
    return probes


def _stubs(task: Task) -> Iterator[tuple[str, str]]:
    """Programs that solve nothing: what they do, and the program."""
    try:
        header = read_header(task)
    except Misaligned:
        return
    args = header.function.args
    names = [a.arg for a in (*args.posonlyargs, *args.args)]
    bodies = {"returns None": "pass"}
    if names:
        bodies["returns its first argument"] = f"return {names[0]}"
    for what, body in bodies.items():
        try:
            completion = f"{header.indent or ' ' * 4}{body}\n"
            yield what, whole_program(task, task.header + completion)
        except Wrong:
            continue


# ---- what it shows ---------------------------------------------------------------------------


class _Findings:
    def __init__(self) -> None:
        self.tasks = self.bad = 0
        self.problems: list[dict[str, str]] = []
        self.warnings: list[dict[str, str]] = []

    def problem(self, task_id: str, reason: str, detail: str) -> None:
        self.problems.append({"task_id": task_id, "reason": reason, "detail": detail})

    def warn(self, task_id: str, reason: str, detail: str) -> None:
        self.warnings.append({"task_id": task_id, "reason": reason, "detail": detail})

    def report(self) -> dict[str, Any]:
        return {
            "tasks": self.tasks,
            "ok": self.tasks - self.bad,
            "problems": self.problems,
            "warnings": self.warnings,
        }


def _judge(case: _Case, findings: _Findings) -> None:
    task_id = case.task.task_id
    for (name, job), verdict in zip(case.probes, case.verdicts, strict=True):
        if verdict.status == "not_run":
            findings.problem(task_id, "not_run", verdict.reason)
            return
        if name == "stub" and verdict.passed:
            detail = f"a function that {job.solution_id} passes every test"
            findings.problem(task_id, "stub_passes", detail)
            break
    references = [*case.named("reference"), *case.named("backwards")]
    if not references:
        return
    changed = _flaky(references) or _changed_elsewhere(case.elsewhere)
    if changed or not references[0].passed:
        reason = "flaky" if changed else "reference_fails"
        findings.problem(task_id, reason, changed or _said(references[0]))
        return
    _judge_seen(case, findings)
    answers = [r for v in (*references[:1], *case.named("seen")) for r in v.results]
    same = {(r.actual, r.stdout) for r in answers}
    if len({r.call for r in answers}) > 1 and len(same) == 1:
        detail = f"the reference answers {answers[0].actual} to all {len(answers)} tests"
        findings.problem(task_id, "constant", detail)
    _judge_strength(case, references[0], findings)


def _judge_seen(case: _Case, findings: _Findings) -> None:
    for verdict in case.named("seen"):
        if not verdict.passed:
            found_in_prose = not case.task.instruction
            say = findings.warn if found_in_prose else findings.problem
            say(case.task.task_id, "seen_test_fails", _said(verdict))


def _judge_strength(case: _Case, reference: Verdict, findings: _Findings) -> None:
    slow = Limits().cpu_seconds / 3
    if reference.seconds > slow * max(1, len(reference.results)):
        detail = f"the reference takes {reference.seconds:.1f} s of CPU"
        findings.warn(case.task.task_id, "slow", detail)
    tried = Counter(v.passed for v in case.named("mutant"))
    if tried and tried[False] < WEAK * tried.total():
        detail = f"{tried[False]} of {tried.total()} changed copies of the reference fail the tests"
        findings.warn(case.task.task_id, "weak_tests", detail)


def _flaky(verdicts: list[Verdict]) -> str:
    """How the runs of one program differ; empty: they do not."""
    if len({v.status for v in verdicts}) > 1:
        return f"the reference's verdict changes: {', '.join(v.status for v in verdicts)}"
    first: dict[str, tuple[str, str]] = {}
    for verdict in verdicts:
        for result in verdict.results:
            answer = (result.actual, result.stdout)
            before = first.setdefault(result.call, answer)
            if before != answer:
                return f"{result.call} gives {before[0]}, then {answer[0]}"
    return ""


def _changed_elsewhere(verdict: Verdict | None) -> str:
    """What a reference that passed did with other hashes and random numbers; empty: it passed."""
    if verdict is None or verdict.passed or verdict.status == "not_run":
        return ""
    why = "random numbers" if verdict.reason.startswith("flaky") else "the order of hashes"
    return f"the reference passes, but not always; it may depend on {why}: {_said(verdict)}"


def _said(verdict: Verdict) -> str:
    reason = f" ({verdict.reason})" if verdict.reason else ""
    return " ".join(f"{feedback(verdict)}{reason}".split())
