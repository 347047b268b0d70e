"""A run made by hand for the report: most states, two rounds, hostile text everywhere."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

from persd.ledger import Ledger
from persd.outcomes import counts
from persd.records import (
    Call,
    Checkpoint,
    Completion,
    Evaluation,
    Example,
    Kind,
    Message,
    Outcome,
    Rejected,
    Solution,
    State,
    Status,
    Task,
    TaskState,
    Test,
    TestResult,
    Try,
    Usage,
    Verdict,
)
from persd.scores import score

HOSTILE = "</pre></script><img src=http://x/ onerror=alert(1)>{{ 7*7 }}\x1b[31m\ud800\u202e[bold]"
ATTEMPT = "def f(x):\n    y = x + 1\n    return y\n"
REPAIR = "def f(x):\n    y = x + 2\n    return y\n"


def a_task(number: int, **changes: Any) -> Task:
    task = Task(
        task_id=f"t{number}",
        instruction=f"Add two, number {number}. {HOSTILE}",
        header="def f(x):\n",
        entry_point="f",
        tests=(Test("f(1)", "3"),),
    )
    return replace(task, **changes)


def a_solution(name: str, kind: Kind, code: str | None, **changes: Any) -> Solution:
    task_id = name.split("-")[0]
    found = Solution(
        solution_id=name,
        task_id=task_id,
        kind=kind,
        author="student" if kind == "attempt" else "big",
        round=0 if kind == "direct" else 1,
        text=f"{code}\n# {HOSTILE}",
        code=code,
        call_id=f"call-{name}",
        parent=f"{task_id}-a" if kind == "refinement" else None,
    )
    return replace(found, **changes)


def a_verdict(name: str, status: Status, error_type: str = "") -> Verdict:
    results: tuple[TestResult, ...] = ()
    if status == "failed":
        results = (TestResult("f(1)", "failed", expected="3", actual="2"),)
    elif error_type:
        results = (TestResult("f(1)", "error", error_type=error_type, message=HOSTILE),)
    return Verdict(name, status, results=results, seconds=0.01, isolation="namespaces")


def a_call(name: str, usd: float | None, **changes: Any) -> Call:
    found = Call(
        call_id=name,
        role="teacher",
        model="big",
        purpose="refinement",
        task_id="t0",
        round=1,
        messages=(Message("user", HOSTILE),),
        params={"seed": 7, "temperature": 0.3},
        completion=Completion(HOSTILE, usage=Usage(100, 10), usd=usd, model="big-2026"),
        versions={"persd": "1.2.3", "model": "big"},
    )
    return replace(found, **changes)


def one_case(
    ledger: Ledger,
    number: int,
    state: State,
    *,
    repairs: tuple[tuple[str, Status], ...] = (),
    round: int = 1,
    usd: float = 0.01,
) -> None:
    """A task that failed its attempt and had some repairs (note, status), in their order."""
    name = f"t{number}{'' if round == 1 else f'-r{round}'}"
    attempt = a_solution(f"{name}-a", "attempt", ATTEMPT, task_id=f"t{number}", round=round)
    ledger.add_solution(attempt)
    ledger.add_verdict(a_verdict(attempt.solution_id, "failed"))
    last = None
    for n, (note, status) in enumerate(repairs, 1):
        code = None if status == "syntax" else REPAIR
        made = a_solution(f"{name}-r{n}", "refinement", code, task_id=f"t{number}", round=round)
        made = replace(made, attempt=n, note=note, parent=attempt.solution_id)
        ledger.add_solution(made)
        ledger.add_verdict(a_verdict(made.solution_id, status))
        call = a_call(f"call-{made.solution_id}", usd, round=round, task_id=f"t{number}")
        ledger.add_calls([call])
        last = made.solution_id
    direct = a_solution(f"{name}-d", "direct", "def f(x):\n    return x + 2\n")
    ledger.add_solution(replace(direct, task_id=f"t{number}"))
    ledger.set_state(
        TaskState(f"t{number}", round, state, HOSTILE, attempt.solution_id, last, f"{name}-d")
    )


def evaluation(model: str, step: int, value: float, checkpoint: str | None = None) -> Evaluation:
    return Evaluation(
        evaluation_id=f"{model}{step}",
        model=model,
        round=0 if model == "base" else 1,
        benchmark="held-out",
        step=step,
        tasks=50,
        samples=20,
        pass_at_k={"10": value + 0.2, "1": value},
        interval={"1": (value - 0.05, value + 0.05), "10": (value + 0.1, value + 0.25)},
        statuses={"passed": 300, "truncated": 2},
        seconds=12.5,
        checkpoint_id=checkpoint,
    )


def fill(ledger: Ledger, *, source: str = "jsonl") -> None:
    """A run of two rounds with a task in most states, three still waiting."""
    config = {
        "run": {"dir": "runs/x", "seed": 3, "rounds": 2, "variants": ["persd"]},
        "tasks": {"source": source, "limit": None},
        "student": {"model": HOSTILE},
        "teacher": [{"model": "big", "base_url": "https://me:secret@example.org/v1"}],
    }
    ledger.set_meta("config", json.dumps(config))
    ledger.add_tasks([a_task(i) for i in range(12)])
    one_case(ledger, 0, "refined", repairs=(("edit: 1 change", "failed"), ("edit: x", "passed")))
    one_case(ledger, 1, "refined", repairs=((f"rewrote: {HOSTILE}", "passed"),))
    one_case(ledger, 2, "refused", repairs=(("edit: 1 change", "failed"),))
    one_case(ledger, 3, "teacher_failed", repairs=(("gave up: no", "syntax"),))
    one_case(ledger, 4, "over_budget")
    ledger.add_solution(a_solution("t5-a", "attempt", REPAIR))
    ledger.add_verdict(a_verdict("t5-a", "passed"))
    ledger.set_state(TaskState("t5", 1, "solved", attempt_id="t5-a"))
    ledger.add_solution(a_solution("t6-a", "attempt", ATTEMPT))
    ledger.add_verdict(a_verdict("t6-a", "error", f"Odd{HOSTILE}"))
    ledger.set_state(TaskState("t7", 1, "bad_task", "failed"))
    ledger.set_state(TaskState("t8", 1, "untested"))
    one_case(ledger, 2, "refined", repairs=(("", "passed"),), round=2)
    scores = [evaluation("persd", 1, 0.4, "c1"), evaluation("persd", 2, 0.5, "c1")]
    for found in [*scores, evaluation("base", 1, 0.3)]:
        ledger.add_evaluation(found)
    metrics = {"steps": 9.0, "first_loss": 2.5, "last_loss": 0.5, "seconds": 5.0}
    ledger.add_checkpoint(
        Checkpoint("c1", f"runs/x/{HOSTILE}", "lab", "persd", 1, 2, "h", {}, metrics)
    )
    example = Example("e1", "persd", "t0", 1, "p", "c", "task", "t0-a", "t0-r2")
    left_out = Rejected("persd", "t1", 1, "task", "undefined_names", HOSTILE)
    ledger.add_build("b1", [example, replace(example, example_id="e2", task_id="t2")], [left_out])
    ledger.add_build("b2", [], [])


Outcomes = Mapping[str, Mapping[str, int]]


def an_exam(model: str, step: int, outcomes: Outcomes, **changes: Any) -> Evaluation:
    """An evaluation of those outcomes by task, its scores computed from them."""
    bare = Evaluation(
        evaluation_id=f"{model}-{step}-{changes.get('control', '')}",
        model=model,
        round=0 if model == "base" else 1,
        benchmark="exam",
        step=step,
        tasks=len(outcomes),
        samples=max(sum(o.values()) for o in outcomes.values()),
        pass_at_k={},
        interval={},
        calls=60,
        outcomes=outcomes,
    )
    found = {str(k): score(counts(bare), k, bare.tasks) for k in (1, 5)}
    told = {k: s for k, s in found.items() if s is not None}
    scores = {k: s.value for k, s in told.items()}
    return replace(
        bare, pass_at_k=scores, interval={k: s.interval for k, s in told.items()}, **changes
    )


def some_outcomes(passed: int, *, odd: int = 1, cut: int = 0, not_run: int = 0) -> Outcomes:
    """20 tasks of 10 samples, of which ``passed`` pass on every other task; no ``odd`` errors,
    no truncated and no unrun ones on the last."""
    tasks: dict[str, Mapping[str, int]] = {}
    for n in range(20):
        passing = passed if n % 2 else 0
        wrong = {"AssertionError": 10 - passing - odd, f"Odd{HOSTILE}": odd, "passed": passing}
        tasks[f"x{n}"] = {name: count for name, count in wrong.items() if count}
    tasks["x0"] = {"NameError": 10 - cut - not_run, "truncated": cut, "not_run": not_run}
    return tasks


def fill_scores(ledger: Ledger) -> None:
    """Scores with their outcomes: a student that gets better for certain though it loses a task,
    one that does not, later steps with their controls, samples cut and not run."""
    better = some_outcomes(8, odd=0)
    wrong, right = {"AssertionError": 10}, {"AssertionError": 9, "passed": 1}
    better = {**better, "x1": wrong, "x2": right, "x4": right}
    for found in (
        an_exam("base", 1, some_outcomes(2)),
        an_exam("base", 2, some_outcomes(3)),
        an_exam("base", 2, some_outcomes(3), control="resample", calls=61),
        an_exam("persd", 1, better),
        an_exam("persd", 2, some_outcomes(9, odd=1)),
        an_exam("persd", 2, some_outcomes(5), control="resample", calls=62),
        an_exam("persd-combined", 1, some_outcomes(2, cut=6, not_run=3)),
    ):
        ledger.add_evaluation(found)


def served(
    ledger: Ledger,
    name: str,
    kind: Kind,
    usd: float | None,
    status: Status | None = None,
    **changes: Any,
) -> None:
    """A solution named ``m<task>-...`` with its call and its verdict, if there is one."""
    made = replace(a_solution(name, kind, REPAIR, parent=None), **{"author": "small", **changes})
    ledger.add_solution(made)
    if status is not None:
        ledger.add_verdict(a_verdict(name, status))
    ledger.add_calls(
        [
            a_call(
                f"call-{name}",
                usd,
                role="student" if kind == "attempt" else "teacher",
                model=made.author,
                purpose=kind,
                task_id=made.task_id,
                round=made.round,
                completion=Completion("x", usage=Usage(100, 10, 40), usd=usd),
                versions={"endpoint": "https://example.org/v1"},
            )
        ]
    )


def a_try(number: int, task_id: str, outcome: Outcome, usd: float | None, **changes: Any) -> Try:
    found = Try(
        call_id=f"tried-{number}",
        sent=float(number),
        role="teacher",
        model="small",
        purpose="refinement",
        task_id=task_id,
        round=1,
        usd_at_most=0.05,
        usage=Usage(500, 100, known=False),
        outcome=outcome,
        usd=usd,
    )
    return replace(found, **changes)


def fill_served(ledger: Ledger) -> None:
    """A run that pays: a served student, a cascade of two teachers, tries without an answer.

    In USD: a direct answer 0.002, an attempt 0.0001, an evaluation's sample 0.0002.
    """
    config = {
        "run": {"rounds": 2},
        "tasks": {"source": "jsonl"},
        "student": {"model": "pupil", "base_url": "https://example.org/v1"},
        "teacher": [{"model": "small"}, {"model": "big"}],
    }
    ledger.set_meta("config", json.dumps(config))
    ledger.add_tasks([a_task(i, task_id=f"m{i}") for i in range(6)])
    served(ledger, "m4-d0", "direct", 0.002, code=None, finish="refused")
    for n in range(6):
        served(ledger, f"m{n}-d", "direct", 0.002, "failed" if n == 5 else "passed")
    for n in range(5):
        status: Status = "passed" if n == 3 else "failed"
        served(ledger, f"m{n}-a", "attempt", 0.0001, status, author="pupil")
    served(ledger, "m2-b", "attempt", 0.0001, "failed", author="pupil", round=2)
    for n in range(3):
        name = f"m0-e{n}"
        served(ledger, name, "attempt", 0.0002, author="pupil", round=0, benchmark="held-out")
    _fill_repairs(ledger)
    ended: list[tuple[str, int, State]] = [
        ("m0", 1, "refined"),
        ("m1", 1, "refined"),
        ("m2", 1, "refused"),
        ("m2", 2, "refined"),
        ("m3", 1, "solved"),
        ("m5", 1, "direct_failed"),
    ]
    for task_id, round, state in ended:
        ledger.set_state(TaskState(task_id, round, state))
    student = {"role": "student", "model": "pupil", "purpose": "attempt"}
    for ended_try in (
        a_try(1, "m0", "rate_limited", 0.0),
        a_try(2, "m0", "rate_limited", 0.0),
        a_try(3, "m0", "timeout", None),
        a_try(4, "m1", "unusable", 0.003),
        a_try(5, "m2", "lost", None, model="big", usd_at_most=0.08),
        a_try(6, "m3", "connection", 0.0, **student),
    ):
        ledger.end_try(ended_try)


def _fill_repairs(ledger: Ledger) -> None:
    def repair(name: str, usd: float, number: int, status: Status | None, **more: Any) -> None:
        served(ledger, name, "refinement", usd, status, attempt=number, **more)

    repair("m0-r1", 0.004, 1, "passed", closeness=0.9)
    repair("m1-r1", 0.004, 1, "failed", closeness=0.8)
    repair("m1-r2", 0.005, 2, "error", closeness=0.6)
    repair("m1-r3", 0.03, 3, "passed", closeness=0.7, author="big")
    repair("m2-r1", 0.006, 1, "syntax", code=None, finish="length")
    repair("m2-r2", 0.004, 2, "failed", closeness=0.5)
    repair("m2-r3", 0.03, 3, "timeout", closeness=0.4, author="big")
    repair("m4-r1", 0.004, 1, None)
    repair("m2-r4", 0.004, 1, "passed", closeness=1.0, round=2)


VOID = {"meta", "br", "col", "input", "img", "link", "hr"}


class Page(HTMLParser):
    """A page taken apart: its tags in order, its tables, its text."""

    def __init__(self, source: str) -> None:
        super().__init__(convert_charrefs=True)
        self.source = source
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.tables: dict[str, list[list[str]]] = {}
        self.text = ""
        self._rows: list[list[str]] = []
        self._caption = ""
        self.feed(source)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "table":
            self._rows, self._caption = [], ""
        elif tag == "tr":
            self._rows.append([])
        elif tag in ("td", "th"):
            self._rows[-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag
        if tag == "table":
            self.tables[self._caption] = [[cell.strip() for cell in row] for row in self._rows]

    def handle_data(self, data: str) -> None:
        self.text += data
        if "caption" in self.open:
            self._caption += data
        elif self.open[-1:] == ["small"] and {"td", "th"} & set(self.open):
            self._rows[-1][-1] += f"|{data}"
        elif {"td", "th"} & set(self.open):
            self._rows[-1][-1] += data

    def table(self, caption: str) -> list[list[str]]:
        return next(rows for name, rows in self.tables.items() if name.startswith(caption))
