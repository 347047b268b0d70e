"""The student tries every task once; what it already can do teaches it nothing.

PERsD, section 3.2 step 1: one attempt at temperature 0.3, top-p 0.95. A task whose attempt
passes is dropped (input personalisation).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from persd.direct import answered
from persd.domains.code import task_prompt
from persd.records import Message, Request, derive_seed
from persd.run import Case, Run
from persd.session import NOT_ATTEMPTS


def attempt(run: Run, cases: Iterable[Case], round: int, student: str) -> Iterator[Case]:
    """The cases the student failed, each with its attempt and the verdict on it.

    Ends ``solved`` what passes, ``too_long`` a task that does not fit the student's context,
    ``not_attempted`` what a served student does not take or refuses,
    ``not_run`` what the judge could not run, ``over_budget`` and ``unavailable`` where a
    served student was not asked or did not answer.
    """
    asker = run.student(student)

    def attempts() -> Iterator[Case]:
        written = answered(run, asker, cases, round, lambda c: attempt_request(run, c, round))
        for case, solution in written:
            case = replace(case, attempt=solution)
            if solution.finish in NOT_ATTEMPTS:
                run.ledger.add_solution(solution)
                run.end(case, round, NOT_ATTEMPTS[solution.finish], solution.note)
            else:
                yield case

    judged = run.judge((c, c.task, c.attempt) for c in attempts() if c.attempt)
    for case, verdict in judged:
        if verdict.passed:
            run.end(case, round, "solved")
        elif verdict.status == "not_run":
            run.end(case, round, "not_run", verdict.reason)
        else:
            yield replace(case, verdict=verdict)


def attempt_request(run: Run, case: Case, round: int) -> Request:
    """The student's question: the task alone."""
    spec = run.config.student
    return Request(
        purpose="attempt",
        messages=(Message("user", task_prompt(case.task)),),
        task=case.task,
        seed=derive_seed(run.config.run.seed, case.task.task_id, "attempt", round),
        temperature=spec.temperature,
        top_p=spec.top_p,
        max_tokens=spec.max_tokens,
        round=round,
    )
