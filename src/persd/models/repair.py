"""The embedded teacher: repairs an attempt by search, smallest change first.

Guided by the verdict, it looks for the statements at fault and for small edits of them, and
says in its note what it did: ``edit`` (only the attempt's own text, changed in places),
``hunks`` (some statements taken from a solution, the rest kept), ``rewrote`` (nothing smaller
passed within the budget) or ``gave up`` (no solution to fall back on). Its search runs a
task's seen tests and the failing tests that verdicts have revealed; the other hidden tests it
never looks at, so a repair may still be refused. Its direct answers are the task's reference.
Asked for tasks, it writes some (``lab.author``).
"""

from __future__ import annotations

import itertools
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from persd.errors import UserError
from persd.lab import author, blocks, family, hunks
from persd.lab.edits import Hints, hints_of, single_edits
from persd.records import Completion, Request, Status, Task, Test, Usage, Verdict, content_id
from persd.sandbox import Limits, Sandbox
from persd.verify import Job, verify

_CHUNK = 8
_LIMITS, _LAB_LIMITS = Limits(cpu_seconds=1.0), Limits(cpu_seconds=0.5, memory_mb=256)
"""Tighter than the judge's: a candidate that is slow is not on its way to a repair."""
_SLOW = 24
"""How many candidates one counts for that ran into a limit."""
_EDITS_HERE, _EDITS_ELSEWHERE, _EDITS_ANYWHERE, _HUNKS = 40, 24, 120, 60


@dataclass(frozen=True, slots=True)
class Repair:
    """A program the search settled on, and how it came to it."""

    code: str
    how: str


class RepairTeacher:
    """The model ``lab`` as a teacher. ``complete`` may be called from several threads."""

    name = "lab"
    batch = 1
    in_flight = 2
    throttle = None

    def __init__(
        self,
        box: Sandbox,
        *,
        max_candidates: int = 240,
        max_seconds: float = 60.0,
        rewrites: bool = False,
    ) -> None:
        """``max_candidates`` programs are run for one repair; ``max_seconds`` of the clock is a
        backstop far above what they take, so that timing does not change the answer.
        ``rewrites``: it does not search, but gives its own solution (``prompt = "free"``)."""
        self._box = box
        self._max_candidates, self._max_seconds = max_candidates, max_seconds
        self._rewrites = rewrites
        self.identity: Mapping[str, str] = {
            "model": "lab teacher",
            "version": "1",
            "max_candidates": str(max_candidates),
            **({"prompt": "free"} if rewrites else {}),
        }

    def complete(self, requests: Sequence[Request]) -> list[Completion]:
        return [self._answer(request) for request in requests]

    def close(self) -> None:
        pass  # the sandbox is its owner's

    def _answer(self, request: Request) -> Completion:
        started = time.monotonic()
        if request.purpose == "attempt":
            raise UserError(
                "the lab teacher repairs and answers, it makes no attempts",
                hint='Use student.model = "lab"',
            )
        if request.purpose in ("task", "calls"):
            text, finish = author.write(request)
            seconds = time.monotonic() - started
            return Completion(text, finish, _as_if_paid(request, text), seconds=seconds)
        if request.purpose == "direct":
            found = _direct(request.task)
        else:
            search = _Search(self._box, request, self._max_candidates, self._max_seconds)
            found = _repair(request, search, self._rewrites)
        text = _fenced(found.code) if found.code else ""
        return Completion(
            text,
            usage=_as_if_paid(request, text),
            seconds=time.monotonic() - started,
            note=found.how,
        )


def _as_if_paid(request: Request, text: str) -> Usage:
    """Tokens of four bytes, so that with a price a rehearsal costs what the real thing may."""
    return Usage(len(request.prompt.encode("utf-8", "replace")) // 4, len(text) // 4)


def _fenced(code: str) -> str:
    """The program as a paid model would send it, under a fence longer than any inside it."""
    longest = max((len(run) for run in re.findall(r"`{3,}", code)), default=2)
    fence = "`" * (longest + 1)
    return f"{fence}python\n{code.rstrip()}\n{fence}"


def _direct(task: Task) -> Repair:
    if task.reference is None:
        return Repair("", "no answer: the task has no reference")
    return Repair(task.reference, "reference")


def _repair(request: Request, search: _Search, rewrites: bool) -> Repair:
    """The smallest repair the budget finds, else the solution, else nothing."""
    task, attempt = request.task, request.parent.code if request.parent else None
    chain = family.chain_of(task)
    solution = family.program(chain, "loop") if chain else task.reference
    if rewrites:
        return _last_resort(solution, "not asked to stay close")
    if attempt is None:
        return _last_resort(solution, "no code to repair")
    if not search.tests:
        return _last_resort(solution, "no test to search by")
    line = _error_line(request.verdict)
    hints = hints_of(task.instruction, line)
    found = _by_blocks(attempt, task, chain, hints, search) if chain else None
    found = found or _by_edit(attempt, hints, search, _EDITS_ANYWHERE)
    if not found and solution:
        found = _by_hunks(attempt, _nearest(attempt, chain, solution), search)
    return found or _last_resort(solution, f"tried {_candidates(search.spent)}")


def _last_resort(solution: str | None, why: str) -> Repair:
    return Repair(solution, f"rewrote: {why}") if solution else Repair("", f"gave up: {why}")


def _candidates(count: int) -> str:
    return f"{count} candidate{'s' * (count != 1)}"


def _error_line(verdict: Verdict | None) -> int | None:
    failure = verdict.first_failure if verdict else None
    return failure.line if failure else None


# ---- the ways to a repair ---------------------------------------------------------------------


def _by_edit(attempt: str, hints: Hints, search: _Search, limit: int) -> Repair | None:
    """One small change anywhere, at the line of the error first."""
    hit = search.first_passing(single_edits(attempt, hints, limit=limit))
    return Repair(hit, f"edit: 1 change, {_candidates(search.spent)}") if hit else None


def _by_hunks(attempt: str, solution: str, search: _Search) -> Repair | None:
    """Some of the diff's hunks towards the solution."""
    merges = {c: (n, of) for c, n, of in hunks.partial_merges(attempt, solution, _HUNKS)}
    hit = search.first_passing(merges)
    if hit is None:
        return None
    applied, of = merges[hit]
    return Repair(hit, f"hunks: {applied} of {of}, {_candidates(search.spent)}")


def _by_blocks(
    attempt: str, task: Task, chain: family.Chain, hints: Hints, search: _Search
) -> Repair | None:
    """Find the steps at fault by exchanging them for the solution's, then edit just those.

    Where an edit of the attempt's own statement does as well as the exchange, it is taken.
    """
    function = blocks.take_apart(attempt, task.entry_point)
    if function is None:
        return None
    built: dict[str, blocks.Plan] = {}
    for plan in blocks.plans(len(function.blocks), len(chain)):
        made = blocks.assemble(function, chain, plan)
        if made and made.code != attempt:
            built.setdefault(made.code, plan)
    code = search.first_passing(built)
    if code is None:
        return None
    plan, edited = built[code], 0
    for step, block in blocks.pair_up(plan, len(function.blocks)).items():
        tried = _edit_step(function, chain, plan.keep(step, block), step, hints, search)
        if tried:
            code, function = tried
            plan, edited = plan.keep(step, block), edited + 1
    exchanged = plan.kept < len(chain)  # then one change elsewhere would still be smaller
    elsewhere = _by_edit(attempt, hints, search, _EDITS_ELSEWHERE) if exchanged else None
    return elsewhere or Repair(code, _say_blocks(plan, edited, search.spent))


def _edit_step(
    function: blocks.Function,
    chain: family.Chain,
    plan: blocks.Plan,
    step: int,
    hints: Hints,
    search: _Search,
) -> tuple[str, blocks.Function] | None:
    """A passing program with one change in the attempt's own block at ``step``, if there is."""
    made = blocks.assemble(function, chain, plan)
    block = plan.source[step]
    if made is None or block is None:
        return None
    part = made.parts[step]
    hit = search.first_passing(single_edits(made.code, hints, part.lines, _EDITS_HERE))
    if hit is None:
        return None
    return hit, blocks.with_edit(function, block, part, made.code, hit)


def _say_blocks(plan: blocks.Plan, edited: int, spent: int) -> str:
    taken = len(plan.source) - plan.kept
    changes = (
        f"{edited} change{'s' * (edited != 1)}" if edited else "statements left out or rewired"
    )
    if not taken:
        return f"edit: {changes}, {_candidates(spent)}"
    also = f" and {changes}" if edited else ""
    return f"hunks: {taken} of {len(plan.source)} steps{also}, {_candidates(spent)}"


def _nearest(attempt: str, chain: family.Chain | None, solution: str) -> str:
    """The solution in the style nearest to the attempt; of equals the student's own, loops."""
    if chain is None:
        return solution
    styles: tuple[family.Style, ...] = ("loop", "chain", "nested")
    return max(
        (family.program(chain, s) for s in styles), key=lambda p: hunks.similarity(attempt, p)
    )


# ---- what may be run --------------------------------------------------------------------------


class _Search:
    """Runs candidates against the tests that may be known, within the budget."""

    def __init__(self, box: Sandbox, request: Request, limit: int, seconds: float) -> None:
        self._box, self._task, self._left = box, request.task, limit
        self._deadline = time.monotonic() + seconds
        self._limits = _LAB_LIMITS if request.task.task_id.startswith("lab/") else _LIMITS
        refused = (solution.code for solution, _ in request.earlier if solution.code)
        self._known: dict[str, Status] = {_plain(code): "failed" for code in refused}
        self.tests = known_tests(request)
        self.spent = 0

    def first_passing(self, candidates: Iterable[str]) -> str | None:
        """The first candidate, in their order, that passes; None: none, or the budget is spent."""
        source = iter(candidates)
        while chunk := list(itertools.islice(source, max(0, min(_CHUNK, self._left)))):
            self._run(chunk)
            for code in chunk:
                status = self._known[_plain(code)]
                self.spent += 1
                self._left -= _SLOW if status in ("timeout", "memory") else 1
                if status == "passed":
                    return code
            if time.monotonic() > self._deadline:
                return None
        return None

    def _run(self, chunk: list[str]) -> None:
        fresh = {_plain(code): code for code in chunk if _plain(code) not in self._known}
        jobs = (
            Job(
                content_id(code),
                self._task,
                code,
                tests=self.tests,
                limits=self._limits,
                stop_at_first_failure=True,
            )
            for code in fresh.values()
        )
        for plain, verdict in zip(fresh, verify(self._box, jobs), strict=True):
            self._known[plain] = verdict.status


def _plain(code: str) -> str:
    """The code without what never matters to it."""
    return "\n".join(line.rstrip() for line in code.strip().splitlines() if line.strip())


def known_tests(request: Request) -> tuple[Test, ...]:
    """The tests a repair may be tried on: failures that verdicts revealed, then seen tests.

    Where a request tells no verdict on the attempt, it tells none on earlier repairs either.
    """
    told: list[Verdict] = []
    if request.verdict:
        told = [request.verdict, *(verdict for _, verdict in request.earlier)]
    revealed = (_revealed(request.task, verdict) for verdict in told)
    return tuple(dict.fromkeys([*filter(None, revealed), *request.task.seen_tests]))


def _revealed(task: Task, verdict: Verdict) -> Test | None:
    """The one test whose failure the verdict shows, whole: its texts there are shortened."""
    tests = task.tests if verdict.tests == "hidden" else task.seen_tests
    shown = zip(tests, verdict.results, strict=False)
    return next((test for test, result in shown if result is verdict.first_failure), None)
