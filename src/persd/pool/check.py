"""Are the tasks sound? Every reference and a few stubs are run before anyone pays.

A reference that fails its own tests, a stub that passes them, an answer that changes from
run to run and a reference that always answers the same are problems of the task, not of a
student; so is a row that is no task, and a reference that is no function of its arguments (it
reads the clock or files, changes what it is given, depends on chance: ``persd.pool.observing``,
as for tasks that are written for us). That the tests kill few mutants of the reference is a
warning, and so is a quirk of a benchmark's reference that leaves its tests right.
"""

from __future__ import annotations

import ast
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from persd.domains.prompts import feedback
from persd.likeness import prose
from persd.pool.lanes import Steps, in_lanes
from persd.pool.observing import Subject, Watched, more_hashes, watching
from persd.progress import Progress
from persd.records import Task, Verdict
from persd.sandbox import Limits, Sandbox
from persd.sandbox.compare import literal
from persd.tasks import BENCHMARKS, items_of, read
from persd.tasks.mutants import mutants, stubs
from persd.tasks.rows import Fault
from persd.tasks.sound import REFERENCE_LIMITS
from persd.verify import Job, verify

MUTANT_LIMITS = Limits(cpu_seconds=0.5)
WEAK = 0.5
"""Tests that kill less than this share of the mutants are warned of."""


def check_source(
    source: str,
    data: Path | None,
    limit: int | None,
    progress: Progress,
    *,
    against: Sequence[str] = (),
    unsafe: bool = False,
) -> dict[str, Any]:
    """``check`` on a source by name (both splits of MBPP) or on a task file. ``unsafe``: also
    where nothing keeps programs from the user's files.

    Gives ``near_duplicates``, too: [{"task_id", "of", "measure", "alike", "shared", "text"}],
    tasks that are an earlier one again; and ``overlap``, where there are benchmarks it is held
    ``against`` (``pool.files.read_against``): ``overlap_report``. Neither is a problem of a task.
    Raises UserError for an unknown source or a file that cannot be read or holds no task.
    """
    from persd.overlap import Report
    from persd.pool.divide import Groups
    from persd.pool.files import read_against

    groups, report = Groups(), Report(read_against(against, unsafe=unsafe))

    def noted(items: Iterable[Task | Fault]) -> Iterator[Task | Fault]:
        for item in items:
            if isinstance(item, Task):
                groups.add(item)
                report.add(item)
            yield item

    progress.stage("tasks", limit)
    with Sandbox(unsafe=unsafe) as box:
        items = noted(items_of(source, data, limit, unsafe=unsafe))
        found = check(box, items, progress, benchmark=source in BENCHMARKS)
    found["near_duplicates"] = groups.joined
    return found | ({"overlap": report.plain()} if against else {})


def check(
    box: Sandbox,
    items: Iterable[Task | Fault] | str,
    progress: Progress | None = None,
    *,
    benchmark: bool = False,
) -> dict[str, Any]:
    """{"tasks", "ok", "problems": [{"task_id", "reason", "detail"}], "warnings": [the same]}.

    ``items`` are tasks and faults, or a task file. Reasons of a problem: those of a Fault,
    ``reference_fails``, ``seen_test_fails``, ``flaky``, ``silent``, ``constant``,
    ``stub_passes``, ``not_run``, and of references whose tests hold all the same
    ``file_dependent``, ``time_dependent``, ``non_deterministic``, ``mutates_input`` (of a
    ``benchmark`` these four are warnings); of a warning: ``seen_test_fails`` (of an example found
    in a docstring), ``no_instruction``, ``no_reference``, ``untested``, ``left_out`` (inputs
    whose outcome is not known), ``slow``, ``weak_tests``.
    """
    findings = _Findings()
    rows = read("jsonl", path=items) if isinstance(items, str) else items
    with Sandbox(workers=box.workers, unsafe=box.unsafe, seed=_OTHER_HASHES) as elsewhere:
        cases = _again(elsewhere, _probed(box, rows, findings))
        for case in _watched([box, elsewhere, *more_hashes(elsewhere)], cases):
            before = len(findings.problems)
            _judge(case, findings, benchmark)
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


def _watched(boxes: list[Sandbox], cases: Iterator[_Case]) -> Iterator[_Case]:
    """The cases in order; what a reference that passes does beside that has been looked at."""

    def begin(case: _Case) -> Steps[Watched | None]:
        calls = _calls(case.task) if case.sound else ()
        if not calls:
            return None
        task = case.task
        subject = Subject(
            task.reference or "", task.entry_point, calls, task.setup, REFERENCE_LIMITS
        )
        return (yield from watching(subject))

    for case, found in in_lanes(boxes, ((case, case) for case in cases), begin):
        case.watched = found
        yield case


#: Calls of a task that its reference is looked at with.
_CALLS = 12


def _calls(task: Task) -> tuple[str, ...]:
    """Calls of the entry point with literal arguments, as they stand in its tests."""
    found: dict[str, None] = {}
    for test in (*task.tests[:_CALLS], *task.seen_tests):
        found |= dict.fromkeys(_calls_in(test.call, task.entry_point, task.entry_point))
    if task.test_code is not None:
        found |= dict.fromkeys(_calls_in(task.test_code, "", task.entry_point))
    return tuple(found)[:_CALLS]


def _calls_in(text: str, name: str, entry_point: str) -> Iterator[str]:
    """Those of ``name`` (empty: of what ``check`` is given) in a text, as calls of the entry
    point."""
    try:
        nodes = list(ast.walk(ast.parse(text.strip())))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return
    checks = [n for n in nodes if isinstance(n, ast.FunctionDef) and n.name == "check"]
    names = {name} if name else {n.args.args[0].arg for n in checks if n.args.args}
    calls = [n for n in nodes if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)]
    for call in calls:
        if call.func.id in names and _is_plain(call):  # type: ignore[attr-defined]
            yield f"{entry_point}({ast.unparse(call).partition('(')[2]}"


def _is_plain(call: ast.Call) -> bool:
    """Whether all its arguments are literals."""
    try:
        for value in (*call.args, *(k.value for k in call.keywords)):
            literal(value)
    except (ValueError, TypeError, RecursionError):
        return False
    return all(k.arg for k in call.keywords)


# ---- what is run -----------------------------------------------------------------------------


@dataclass
class _Case:
    task: Task
    probes: list[tuple[str, Job]]
    """(what is run, the job): ``reference``, reversed too, ``seen``, stubs, mutants."""
    verdicts: list[Verdict] = field(default_factory=list)
    elsewhere: Verdict | None = None
    """On a reference that passed, with other hashes and random numbers."""
    watched: Watched | None = None
    """What else it does; None: nobody looked."""

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
        if not prose(item).strip():
            findings.warn(item.task_id, "no_instruction", "nothing in words says what to write")
        if not item.tested:
            why = str(item.meta.get("untested", "no tests"))
            findings.warn(item.task_id, "untested", why)
        elif item.reference is None:
            findings.warn(item.task_id, "no_reference", "nothing to check its tests with")
        if left_out := _left_out(item):
            findings.warn(item.task_id, "left_out", left_out)
        if case.probes:
            waiting.append(case)
            yield from (job for _, job in case.probes)


def _left_out(task: Task) -> str:
    """The inputs of a benchmark that make no test; empty: none, or a user's own ``meta`` that
    only shares the name."""
    match task.meta.get("left_out"):
        case [{"call": call, "reason": reason}, *_] as rows:
            return f"{len(rows)} inputs, the first {call}: {reason}"
    return ""


def _probes(task: Task) -> list[tuple[str, Job]]:
    if not task.tested:
        return []
    probes = [("stub", Job(what, task, code)) for what, code in stubs(task)]
    reference = task.reference
    if reference is None:
        return probes
    again = Job("reference", task, reference, limits=REFERENCE_LIMITS)
    backwards = replace(again, task=replace(task, tests=task.tests[::-1]))
    probes += [("reference", again), ("backwards", backwards)]
    if task.seen_tests:
        probes.append(("seen", replace(again, tests="seen")))
    for code in mutants(reference, entry_point=task.entry_point):
        probes.append(("mutant", Job("mutant", task, code, "hidden", MUTANT_LIMITS, True)))
    return probes


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


def _judge(case: _Case, findings: _Findings, benchmark: bool) -> None:
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
    if _judge_conduct(case, findings, benchmark):
        return
    answers = [r for v in (*references[:1], *case.named("seen")) for r in v.results]
    same = {(r.actual, r.stdout) for r in answers}
    if len({r.call for r in answers}) > 1 and len(same) == 1:
        detail = f"the reference answers {answers[0].actual} to all {len(answers)} tests"
        findings.problem(task_id, "constant", detail)
    _judge_strength(case, references[0], findings)


def _judge_conduct(case: _Case, findings: _Findings, benchmark: bool) -> bool:
    """What is wrong with a reference that passes; whether its answers say nothing at all."""
    task_id, watched = case.task.task_id, case.watched or Watched()
    found = watched.rejection
    if found is not None and found.state in _QUIRKS:
        (findings.warn if benchmark else findings.problem)(task_id, found.state, found.detail)
    silent = bool(watched.answers) and all(answer.is_silent for answer in watched.answers)
    if silent and found is None:
        detail = f"the reference returns None and prints nothing in {len(watched.answers)} calls"
        findings.problem(task_id, "silent", detail)
    return silent and found is None


_QUIRKS = ("file_dependent", "time_dependent", "non_deterministic", "mutates_input")


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
