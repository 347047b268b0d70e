"""The one judge: attempts, refinements, direct answers, seen and hidden tests alike.

A job goes in, a verdict comes out, in order. The program runs in the sandbox with nothing but
its calls; what it returns is compared here, on this side, as plain data.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable, Iterator
from dataclasses import replace

from persd.cache import Cache, job_key
from persd.calibrate import References, first_limits, measuring, more_limits
from persd.records import Task, Test, Verdict
from persd.sandbox import Limits, Outcome, Program, Sandbox, Session
from persd.verdicts import Job, judge

#: What a program that uses persd as a library needs to judge others.
__all__ = ["Cache", "Job", "Limits", "Sandbox", "Task", "Test", "Verdict", "verify"]


def verify(
    box: Sandbox,
    jobs: Iterable[Job | Verdict],
    *,
    batch: bool = False,
    cache: Cache | None = None,
    repeats: int = 1,
) -> Iterator[Verdict]:
    """Verdicts in the order of the jobs, as they are ready, in flat memory; one that is known
    already, and stands in a job's place, comes back in its turn.

    ``batch``: tame programs (``sandbox/tame.py``) share processes, ``BATCH`` at a time, and each
    that does not pass is run again alone; quicker, and weaker between the programs of a batch:
    not for evaluation. ``cache`` answers programs that were judged before. ``repeats``: run each
    program so often, with other random seeds; where the verdicts differ it is ``flaky``.

    Never raises for a bad program or a bad test: a test that cannot be run or read is
    ``not_run`` with the reason, and so is a job without tests. Raises UserError where this
    machine cannot hold the programs (``Sandbox``).
    """
    with Session(box) as session:
        line = _Line(session, box, batch, cache, repeats)
        for job in jobs:
            line.add(job)
            yield from line.ready(box.ahead)
        yield from line.ready(0)


#: Programs that share a process in the batch lane.
BATCH = 8


class _Case:
    """A job on its way to its verdict."""

    __slots__ = ("job", "key", "steps", "verdict")

    def __init__(self, job: Job, steps: Steps, key: str) -> None:
        self.job, self.steps, self.key = job, steps, key
        self.verdict: Verdict | None = None


class _Known:
    """A verdict that was there before, in its turn."""

    __slots__ = ("verdict",)

    def __init__(self, verdict: Verdict) -> None:
        self.verdict: Verdict | None = verdict


class _Line:
    """Jobs in order, each taken through its steps as the sandbox answers."""

    def __init__(
        self, session: Session, box: Sandbox, batch: bool, cache: Cache | None, repeats: int
    ) -> None:
        self.session, self.box, self.batch = session, box, batch
        self.cache, self.repeats = cache, repeats
        self.references = References.of(box)
        self.order: deque[_Case | _Known] = deque()
        self.group: list[tuple[_Case, Program]] = []
        self.waiting: dict[str, list[_Case]] = {}

    def add(self, job: Job | Verdict) -> None:
        """Begin a job, unless its verdict is known or being found."""
        if isinstance(job, Verdict):
            self.order.append(_Known(job))
            return
        key = "" if self.cache is None else job_key(job, self.repeats)
        case = _Case(job, _steps(job, self.references, self.repeats), key)
        self.order.append(case)
        if self.cache is not None and self._is_known(case):
            return
        program = next(case.steps)
        quick = program.limits == first_limits(job)  # not one that is known to need longer
        if self.batch and quick and program.check is None:
            self._share(case, program)
        else:
            self.session.submit([case], (program,))

    def _is_known(self, case: _Case) -> bool:
        """Whether its verdict is there, or will be once that of a job like it is."""
        assert self.cache is not None
        known = self.cache.get(case.key)
        if known is not None:
            case.verdict = replace(known, solution_id=case.job.solution_id)
            return True
        if case.key in self.waiting:
            self.waiting[case.key].append(case)
            return True
        self.waiting[case.key] = []
        return False

    def _share(self, case: _Case, program: Program) -> None:
        """Put it with others to share a process; workers that are idle do not wait."""
        if self.group and self.group[0][1].limits != program.limits:
            self._flush()
        self.group.append((case, program))
        if len(self.group) >= BATCH or self.session.pending < self.box.workers:
            self._flush()

    def _flush(self) -> None:
        if self.group:
            programs = tuple(program for _, program in self.group)
            self.session.submit([case for case, _ in self.group], programs)
            self.group = []

    def ready(self, most: int) -> Iterator[Verdict]:
        """Verdicts that are next in order; waits while more than ``most`` jobs are under way."""
        while self.order:
            full = len(self.order) > most
            if full and self.session.pending < self.box.workers:
                self._flush()
            known = self.order[0].verdict is not None
            for cases, outcomes in self.session.take(block=full and not known):
                for case, outcome in zip(cases, outcomes, strict=True):
                    self._go_on(case, outcome)
            verdict = self.order[0].verdict
            if verdict is not None:
                self.order.popleft()
                yield verdict
            elif not full:
                return

    def _go_on(self, case: _Case, outcome: Outcome) -> None:
        try:
            following = case.steps.send(outcome)
        except StopIteration as end:
            self._settle(case, end.value)
        else:
            self.session.submit([case], (following,))

    def _settle(self, case: _Case, verdict: Verdict) -> None:
        case.verdict = verdict
        if self.cache is not None:
            if verdict.status != "not_run":
                self.cache.put(case.key, verdict)
            for other in self.waiting.pop(case.key):
                other.verdict = replace(verdict, solution_id=other.job.solution_id)


# --- the steps of one job ------------------------------------------------------------------

#: Gives the program to run next, is sent its outcome, returns the verdict.
Steps = Generator[Program, Outcome, Verdict]


def _steps(job: Job, references: References, repeats: int) -> Steps:
    verdict = yield from _one_verdict(job, references, 0)
    for seed in range(1, repeats):
        if verdict.status == "not_run":
            break
        again = yield from _one_verdict(job, references, seed)
        if again.status not in (verdict.status, "not_run"):
            worse = again if verdict.passed else verdict
            seen = f"flaky: {verdict.status}, then {again.status}"
            return replace(worse, reason=", ".join(filter(None, (seen, worse.reason))))
    return verdict


def _one_verdict(job: Job, references: References, seed: int) -> Steps:
    """Run it; alone, if it did not pass in a batch; with more time, if time is what it lacked
    and its reference or its earlier tests say that it may have more."""
    limits = first_limits(job, references.get(job))
    verdict = yield from _run(job, limits, seed)
    while verdict.status == "timeout":
        if not references.knows(job):
            yield from _measure(job, references)
        more = more_limits(job, verdict, limits, references.get(job))
        if more is None:
            break
        limits = more
        verdict = yield from _run(job, limits, seed)
    return verdict


def _run(job: Job, limits: Limits, seed: int) -> Steps:
    program = program_of(job, limits, seed)
    outcome = yield program
    verdict = judge(job, outcome, limits)
    if not outcome.shared or verdict.passed:
        return verdict
    outcome = yield program  # alone, for its mates may be to blame
    return judge(job, outcome, limits)


def _measure(job: Job, references: References) -> Generator[Program, Outcome, None]:
    """Run the task's reference with time to spare, to learn what these tests cost."""
    known, limits = replace(job, code=job.task.reference or ""), measuring(job)
    outcome = yield program_of(known, limits, 0)
    passed = judge(known, outcome, limits).passed
    references.put(job, outcome if passed else None)


def program_of(job: Job, limits: Limits, seed: int = 0) -> Program:
    """What the sandbox is to run of a job."""
    return Program(
        source=job.code,
        entry_point=job.task.entry_point,
        calls=tuple(test.call for test in job.chosen),
        setup=job.task.setup,
        check=job.check,
        header=job.task.header if job.check is not None else "",
        texts=any(test.compare == "loose" for test in job.chosen),
        stop=job.stop_at_first_failure,
        seed=seed,
        limits=limits,
    )
