"""The teacher repairs the student's own attempt from the execution feedback.

PERsD, section 3.2 steps 3 and 4. A repair that fails the tests goes back with its own
feedback, up to ``max_tries``, then to the next teacher of the cascade; only a repair that
passes is kept. Beyond the paper, a repair that passes but strays from the attempt may be asked
for once more (``stay_close``). Each try is a stage of its own, so that second tries are under
way while others are still being attempted.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from dataclasses import replace

from persd.closeness import similarity
from persd.config import TeacherTable
from persd.direct import AFRESH, solution_of, why_failed
from persd.domains.code import (
    feedback,
    teacher_closer,
    teacher_refine,
    teacher_retry,
    teacher_shorter,
)
from persd.records import Message, Request, Solution, Verdict, derive_seed
from persd.run import Case, Run


def refine(run: Run, cases: Iterable[Case], round: int) -> None:
    """End every case: ``refined``, ``refused`` by the tests, ``teacher_failed`` (no try held
    code), ``not_run``, ``over_budget`` or ``unavailable``.

    A teacher that does not answer leaves the case to the next one of the cascade; one that has
    reached its cap does not.
    """
    stages = 0
    for place, spec in enumerate(run.config.teacher):
        cases = _next_teacher(cases)
        for _ in range(spec.max_tries + AFRESH + (spec.stay_close is not None)):
            cases = _one_try(run, cases, round, place)
            stages += 1
    # each stage draws from the one before it, a dozen calls deeper
    sys.setrecursionlimit(max(sys.getrecursionlimit(), 1000 + 20 * stages))
    for case in cases:
        _end(run, case, round)


def _end(run: Run, case: Case, round: int) -> None:
    """The end of a case that no teacher has settled, or one whose repair could be closer."""
    if case.passing is not None:
        run.end(replace(case, refinement=case.passing), round, "refined")
    elif gap := case.missing or case.unanswered:
        run.end(case, round, gap.missing or "unavailable", gap.detail)
    else:
        solution, verdict = case.tries[-1]
        held_code = any(s.code is not None for s, _ in case.tries)
        why = why_failed(solution, verdict)
        case = replace(case, refinement=solution)
        run.end(case, round, "refused" if held_code else "teacher_failed", why)


def _next_teacher(cases: Iterable[Case]) -> Iterator[Case]:
    """The next teacher starts from the attempt, not from another's failures."""
    for case in cases:
        if case.passing is None:
            case = replace(case, since=len(case.tries), missing=None)
        yield case


def _one_try(run: Run, cases: Iterable[Case], round: int, place: int) -> Iterator[Case]:
    """One try of every case that this teacher is to be asked about; ends those it settles."""
    written = _written(run, cases, round, place)
    for case, verdict in run.judge((case, case.task, case.refinement) for case in written):
        if verdict is None or case.refinement is None:
            yield case
        elif verdict.passed:
            yield from _passed(run, case, verdict, round, place)
        elif case.passing is not None:
            _end(run, case, round)
        elif verdict.status == "not_run":
            run.end(case, round, "not_run", verdict.reason)
        else:
            tries = (*case.tries, (case.refinement, verdict))
            yield replace(case, tries=tries, refinement=None)


def _passed(run: Run, case: Case, verdict: Verdict, round: int, place: int) -> Iterator[Case]:
    """End it with this repair, or with the closer of two; gives it where one is to be asked."""
    repair, least = case.refinement, run.config.teacher[place].stay_close
    assert repair is not None
    if case.passing is not None:
        closer = max((case.passing, repair), key=lambda s: s.closeness or 0.0)
        run.end(replace(case, refinement=closer), round, "refined")
    elif least is None or repair.closeness is None or repair.closeness >= least:
        run.end(case, round, "refined")
    else:
        tries = (*case.tries, (repair, verdict))
        yield replace(case, tries=tries, passing=repair, refinement=None)


def _written(run: Run, cases: Iterable[Case], round: int, place: int) -> Iterator[Case]:
    """All cases, those that are to be with what this teacher wrote."""
    asker = run.teacher(place)
    served = asker.model.throttle is not None
    asked = ((case, _question(run, case, round, place, served)) for case in cases)
    for case, answer in asker.stream(asked):
        if answer is None:
            yield case
        elif answer.missing == "over_budget" and case.passing is None:
            # a cap is no reason to go on to a dearer teacher: it waits for more money
            run.end(case, round, "over_budget", answer.detail)
        elif answer.missing:
            later = answer if served else case.unanswered
            yield replace(case, missing=answer, unanswered=later)
        else:
            yield replace(case, refinement=_measured(case, solution_of(answer, asker.model.name)))


def _measured(case: Case, repair: Solution) -> Solution:
    """The repair with its closeness to the attempt, where both hold code."""
    attempt = case.attempt.code if case.attempt else None
    if attempt is None or repair.code is None:
        return repair
    return replace(repair, closeness=similarity(attempt, repair.code))


def _question(run: Run, case: Case, round: int, place: int, served: bool) -> Request | None:
    """What this teacher is to be asked about a case; None: nothing more."""
    spec = run.config.teacher[place]
    if case.missing is not None or not (case.passing or _wants_try(case, spec, served)):
        return None
    return refine_request(run, case, round, place)


def _wants_try(case: Case, spec: TeacherTable, served: bool) -> bool:
    own = [solution for solution, _ in case.own_tries]
    if not served:  # it would say the same again
        return len(own) < spec.max_tries
    usable = sum(s.code is not None for s in own)
    unusable = len(own) - usable
    rejected = any(s.finish == "rejected" for s in own)
    return usable < spec.max_tries and unusable <= AFRESH and not rejected


def refine_request(run: Run, case: Case, round: int, place: int) -> Request:
    """The teacher's question: task, own answer, the student's attempt, what went wrong.

    ``place`` is the teacher's in the cascade.
    """
    assert case.attempt is not None
    assert case.verdict is not None
    spec: TeacherTable = run.config.teacher[place]
    own = len(case.own_tries) + 1
    who = (own, place) if place else (own,)
    return Request(
        purpose="refinement",
        messages=_messages(case, spec, run.config.run.feedback),
        task=case.task,
        seed=derive_seed(run.config.run.seed, case.task.task_id, "refinement", round, *who),
        temperature=spec.temperature,
        top_p=spec.top_p,
        max_tokens=spec.max_tokens,
        parent=case.attempt,
        verdict=case.verdict if run.config.run.feedback else None,
        earlier=case.own_tries,
        round=round,
        attempt=len(case.tries) + 1,
        own_attempt=own,
    )


def _messages(case: Case, spec: TeacherTable, tells: bool) -> tuple[Message, ...]:
    """The chat so far. A reply without code is left out of it: asked for afresh, not discussed."""
    assert case.attempt is not None
    assert case.verdict is not None
    messages = teacher_refine(
        case.task,
        case.attempt.code if case.attempt.code is not None else case.task.header,
        feedback(case.verdict) if tells else "",
        case.direct.code if case.direct and spec.prompt != "blind" else None,
        close=spec.prompt != "free",
    )
    for solution, verdict in case.own_tries:
        if verdict.passed:
            messages = teacher_closer(messages, solution.text)
        elif solution.code is not None:
            told = feedback(verdict) if tells else ""
            messages = teacher_retry(messages, solution.text, told, close=spec.prompt != "free")
    if any(s.finish == "length" for s, _ in case.own_tries):
        messages = teacher_shorter(messages)
    return messages
