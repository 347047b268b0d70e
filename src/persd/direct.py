"""The teacher's own answers c, verified: only a task whose c passes is in the pool D.

PERsD, section 3.1 (standard distillation's pairs) and 3.2: the pool is what both the
standard and the personalised data sets are drawn from, so that they compare labels only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import chain

from persd.calls import Answer, Asker
from persd.domains.code import parse_reply, teacher_direct
from persd.records import Request, Solution, State, Task, Verdict, content_id, derive_seed
from persd.run import NO_CODE, Case, Run


def direct(run: Run, tasks: Iterable[Task], round: int) -> Iterator[Case]:
    """The cases in the pool D, each with its verified direct answer (None: not wanted).

    Ends ``untested`` what no test can judge, ``bad_task`` a task whose reference fails its
    tests, ``direct_failed`` one whose asked-for answer does, ``over_budget`` and
    ``unavailable`` where the teacher was not asked or did not answer.
    """
    how = run.config.teacher[0].direct
    tested = []
    for task in tasks:
        if task.tested:
            tested.append(task)
        else:
            run.end(Case(task), round, "untested", str(task.meta.get("untested", "")))
    if how == "none":
        yield from map(Case, tested)
        return
    known = [t for t in tested if t.reference is not None and how == "reference"]
    asked = [t for t in tested if t.reference is None or how == "ask"]
    answers = chain(((t, from_reference(t)) for t in known), _ask(run, asked, round))
    for case, verdict in run.judge((Case(t, s), t, s) for t, s in answers):
        if verdict.passed:
            yield case
        elif verdict.status == "not_run":
            run.end(case, round, "not_run", verdict.reason)
        else:
            by_reference = case.direct is not None and case.direct.author == "reference"
            state: State = "bad_task" if by_reference else "direct_failed"
            run.end(case, round, state, why_failed(case.direct, verdict))


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


def _ask(run: Run, tasks: list[Task], round: int) -> Iterator[tuple[Task, Solution]]:
    if not tasks:
        return
    spec = run.config.teacher[0]

    def request(case: Case) -> Request:
        return Request(
            purpose="direct",
            messages=teacher_direct(case.task),
            task=case.task,
            seed=derive_seed(run.config.run.seed, case.task.task_id, "direct"),
            temperature=spec.temperature,
            top_p=spec.top_p,
            max_tokens=spec.max_tokens,
            round=0,
        )

    # in order, so that a resumed run draws the same batches of attempts
    cases = map(Case, tasks)
    for case, solution in answered(run, run.teacher(), cases, round, request, in_order=True):
        yield case.task, solution


def answered(
    run: Run,
    asker: Asker,
    cases: Iterable[Case],
    round: int,
    request: Callable[[Case], Request],
    *,
    in_order: bool = False,
) -> Iterator[tuple[Case, Solution]]:
    """Every case with what the model wrote for it; ends those that got no answer."""
    waiting: dict[str, Case] = {}

    def requests() -> Iterator[Request]:
        for case in cases:
            waiting[case.task.task_id] = case
            yield request(case)

    for answer in (asker.in_order if in_order else asker.complete)(requests()):
        case = waiting.pop(answer.request.task.task_id)
        if answer.missing:
            run.end(case, round, answer.missing, answer.detail)
        else:
            yield case, solution_of(answer, asker.model.name)


def solution_of(answer: Answer, author: str) -> Solution:
    """What an answer amounts to: the reply and the program in it."""
    request, completion = answer.request, answer.completion
    assert completion is not None, "an answer that is missing is no solution"
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
