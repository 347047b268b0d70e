"""The teacher repairs the student's own attempt from the execution feedback.

PERsD, section 3.2 steps 3 and 4. A repair that fails the tests goes back with its own
feedback, up to ``max_tries``, then to the next teacher of the cascade; only a repair that
passes is kept. The first try streams behind the student; the later ones are few.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from persd.config import TeacherTable
from persd.direct import answered, why_failed
from persd.domains.code import feedback, teacher_refine, teacher_retry
from persd.records import Message, Request, Solution, Verdict, derive_seed
from persd.run import Case, Run


def refine(run: Run, cases: Iterable[Case], round: int) -> None:
    """End every case: ``refined``, ``refused`` by the tests, ``teacher_failed`` (no try held
    code), ``not_run``, ``over_budget`` or ``unavailable``."""
    number = 0
    for place, spec in enumerate(run.config.teacher):
        for again in range(spec.max_tries):
            number += 1
            cases = list(_one_try(run, cases, round, (place, again, number)))
        # the next teacher starts from the attempt, not from another's failures
        cases = [replace(c, refinement=None) for c in cases]
    for case in cases:
        solution, verdict = case.tries[-1]
        held_code = any(s.code is not None for s, _ in case.tries)
        case = replace(case, refinement=solution)
        state = "refused" if held_code else "teacher_failed"
        run.end(case, round, state, why_failed(solution, verdict))  # type: ignore[arg-type]


def _one_try(
    run: Run, cases: Iterable[Case], round: int, place: tuple[int, int, int]
) -> Iterator[Case]:
    """One try of every case; ends those it settles and gives those that need another."""
    written = answered(
        run, run.teacher(place[0]), cases, round, lambda c: refine_request(run, c, round, place)
    )
    repairs = (replace(case, refinement=solution) for case, solution in written)
    for case, verdict in run.judge((c, c.task, c.refinement) for c in repairs if c.refinement):
        if verdict.passed:
            run.end(case, round, "refined")
        elif verdict.status == "not_run":
            run.end(case, round, "not_run", verdict.reason)
        elif case.refinement is not None:
            yield replace(case, tries=(*case.tries, (case.refinement, verdict)))


def refine_request(run: Run, case: Case, round: int, place: tuple[int, int, int]) -> Request:
    """The teacher's question: task, own answer, the student's attempt, what went wrong.

    ``place`` is (teacher of the cascade, tries that teacher made, number of the try from 1).
    """
    assert case.attempt is not None
    assert case.verdict is not None
    teacher, again, number = place
    spec: TeacherTable = run.config.teacher[teacher]
    earlier = case.tries[len(case.tries) - again :] if again else ()
    return Request(
        purpose="refinement",
        messages=_messages(case, earlier),
        task=case.task,
        seed=derive_seed(run.config.run.seed, case.task.task_id, "refinement", round, number),
        temperature=spec.temperature,
        top_p=spec.top_p,
        max_tokens=spec.max_tokens,
        parent=case.attempt,
        verdict=case.verdict,
        earlier=earlier,
        round=round,
        attempt=number,
    )


def _messages(case: Case, earlier: tuple[tuple[Solution, Verdict], ...]) -> tuple[Message, ...]:
    assert case.attempt is not None
    assert case.verdict is not None
    messages = teacher_refine(
        case.task,
        case.attempt.code if case.attempt.code is not None else case.task.header,
        feedback(case.verdict),
        case.direct.code if case.direct else None,
    )
    for solution, verdict in earlier:
        messages = teacher_retry(messages, solution.text, feedback(verdict))
    return messages
