"""The teacher's own answers c, verified: only a task whose c passes is in the pool D.

PERsD, section 3.1 (standard distillation's pairs) and 3.2: the pool is what both the
standard and the personalised data sets are drawn from, so that they compare labels only.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import chain

from persd.calls import Answer, Asker
from persd.domains.code import parse_reply, teacher_direct
from persd.records import Request, Solution, State, Task, Verdict, content_id, derive_seed
from persd.run import Case, Run
from persd.session import NO_CODE

#: Times that a served model is asked afresh after a reply that holds no answer.
AFRESH = 4

#: A case, and what was written for it, the answer that did not come, or None: not yet asked.
Written = tuple[Case, Solution | Answer | None]


def direct(run: Run, tasks: Iterable[Task], round: int) -> Iterator[Case]:
    """The cases in the pool D, each with its verified direct answer (None: not wanted).

    Ends ``untested`` what no test can judge, ``bad_task`` a task whose reference fails its
    tests, ``direct_failed`` one whose asked-for answer does, ``over_budget`` and
    ``unavailable`` where the teacher was not asked or did not answer. ``tasks`` is read twice
    where answers are asked for.
    """
    how = run.config.teacher[0].direct
    if how == "none":
        yield from _tested(run, tasks, round)
        return
    known = (c for c in _tested(run, tasks, round) if _is_known(c.task, how))
    asked = (Case(t) for t in tasks if t.tested and not _is_known(t, how))
    answers = chain(((c, from_reference(c.task)) for c in known), _ask(run, asked, round))
    for case, verdict in run.judge((replace(c, direct=s), c.task, s) for c, s in answers):
        if verdict.passed:
            yield case
        elif verdict.status == "not_run":
            run.end(case, round, "not_run", verdict.reason)
        else:
            by_reference = case.direct is not None and case.direct.author == "reference"
            state: State = "bad_task" if by_reference else "direct_failed"
            run.end(case, round, state, why_failed(case.direct, verdict))


def _is_known(task: Task, how: str) -> bool:
    return how == "reference" and task.reference is not None


def _tested(run: Run, tasks: Iterable[Task], round: int) -> Iterator[Case]:
    """The tasks that can be judged; ends the others."""
    for task in tasks:
        if task.tested:
            yield Case(task)
        else:
            run.end(Case(task), round, "untested", str(task.meta.get("untested", "")))


def from_reference(task: Task) -> Solution:
    """A task's reference as its direct answer."""
    text = task.reference or ""
    return Solution(
        solution_id=content_id("direct", task.task_id, "reference", text),
        task_id=task.task_id,
        kind="direct",
        author="reference",
        round=0,
        text=text,
        code=text,
    )


def _ask(run: Run, cases: Iterable[Case], round: int) -> Iterator[tuple[Case, Solution]]:
    """The teacher's answers; a reply that holds none is asked for afresh."""
    first = next(cases := iter(cases), None)
    if first is None:
        return  # a teacher that is not needed is not opened
    asker = run.teacher()
    loaded, order = run.config.student.base_url is None, deque[str]()

    def begin() -> Iterator[Written]:
        for case in chain([first], cases):
            if loaded:
                order.append(case.task.task_id)
            yield case, None

    written: Iterable[Written] = begin()
    tries = 1 + (AFRESH if asker.model.throttle is not None else 0)
    for number in range(1, tries + 1):
        written = _one_try(run, asker, written, number, tries)
    if loaded:
        written = _in_order(written, order)
    for case, found in written:
        if isinstance(found, Solution):
            yield case, found
        elif found is not None and found.missing:
            run.end(case, round, found.missing, found.detail)


def _one_try(
    run: Run, asker: Asker, cases: Iterable[Written], number: int, tries: int
) -> Iterator[Written]:
    items = ((w, None if w[1] else _request(run, w[0], number)) for w in cases)
    for (case, found), answer in asker.stream(items):
        if answer is None:
            yield case, found
        elif answer.missing:
            yield case, answer
        else:
            solution = solution_of(answer, asker.model.name)
            settled = solution.code is not None or solution.finish == "rejected" or number == tries
            if not settled:  # the judge stores what it is given
                run.ledger.add_solution(solution)
            yield case, solution if settled else None


def _in_order(written: Iterable[Written], order: deque[str]) -> Iterator[Written]:
    """The same in the order of the tasks, so that a student that is loaded here attempts them
    in the same batches when a run goes on."""
    early: dict[str, Written] = {}
    for case, found in written:
        early[case.task.task_id] = case, found
        while order and order[0] in early:
            yield early.pop(order.popleft())
    yield from early.values()


def _request(run: Run, case: Case, number: int) -> Request:
    spec = run.config.teacher[0]
    again = (number,) if number > 1 else ()
    return Request(
        purpose="direct",
        messages=teacher_direct(case.task),
        task=case.task,
        seed=derive_seed(run.config.run.seed, case.task.task_id, "direct", *again),
        temperature=spec.temperature,
        top_p=spec.top_p,
        max_tokens=spec.max_tokens,
        round=0,
        attempt=number,
    )


def answered(
    run: Run,
    asker: Asker,
    cases: Iterable[Case],
    round: int,
    request: Callable[[Case], Request],
) -> Iterator[tuple[Case, Solution]]:
    """Every case with what the model wrote for it; ends those that got no answer."""
    for case, answer in asker.stream((case, request(case)) for case in cases):
        if answer is None or answer.missing:
            assert answer is not None, "every case has a request"
            run.end(case, round, answer.missing or "unavailable", answer.detail)
        else:
            yield case, solution_of(answer, asker.model.name)


def solution_of(answer: Answer, author: str) -> Solution:
    """What an answer amounts to: the reply and the program in it."""
    request, completion = answer.request, answer.completion
    assert completion is not None, "an answer that is missing is no solution"
    assert request.purpose in ("attempt", "direct", "refinement"), "the others ask for no program"
    parsed = parse_reply(request.task, completion.text)
    # a teacher's reply that is cut, filtered or rejected is never taken for code
    usable = request.purpose == "attempt" or completion.finish == "stop"
    return Solution(
        solution_id=content_id(answer.call_id),
        task_id=request.task.task_id,
        kind=request.purpose,
        author=author,
        round=request.round,
        text=completion.text,
        code=parsed.code if usable else None,
        step=request.step,
        sample=request.sample,
        attempt=request.attempt,
        parent=request.parent.solution_id if request.parent else None,
        call_id=answer.call_id,
        finish=completion.finish,
        note="; ".join(n for n in (completion.note, parsed.note) if n),
        benchmark=request.benchmark,
    )


def why_failed(solution: Solution | None, verdict: Verdict) -> str:
    """Why a teacher's answer does not count, in words."""
    if solution is not None and solution.code is None:
        how = "" if solution.finish == "stop" else f"the reply ended as {solution.finish}"
        return "; ".join(p for p in (NO_CODE, how, solution.note) if p)
    return f"{verdict.status}: {verdict.reason}".rstrip(": ")
