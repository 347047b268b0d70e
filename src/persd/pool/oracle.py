"""Expected values: what the reference gives, where it is a function of its arguments alone.

The paper takes what the teacher's own code returns, or prints where it returns None. Here that
code is looked at in different conditions first (``observing``), and a call becomes a test only
where the judge can tell its answer from another.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from persd.config import GenerateTable
from persd.pool.drafts import Draft, Rejection
from persd.pool.lanes import Steps, in_lanes
from persd.pool.observing import Answer, Subject, more_hashes, watching
from persd.records import Task, Test
from persd.sandbox import Sandbox, codec
from persd.sandbox.compare import NotLiteral, agrees
from persd.tasks.evalplus import literal_text, tolerance_of
from persd.verdicts import shorten

T = TypeVar("T")


def answered(
    box: Sandbox,
    elsewhere: Sandbox,
    items: Iterable[tuple[T, Draft | Rejection]],
    rules: GenerateTable,
) -> Iterator[tuple[T, Task | Rejection]]:
    """Each draft as a task with its tests, or why it is none; in order, streaming.

    ``elsewhere`` is a sandbox whose hashes start elsewhere. The first ``rules.seen`` calls that
    make a test are seen, the others hidden; where they are few, fewer are seen, so that at least
    ``rules.least_tests`` are hidden. Raises UserError as ``Sandbox.probe``.
    """

    def begin(found: Draft | Rejection) -> Steps[Task | Rejection]:
        if isinstance(found, Rejection):
            return found
        task = found.task
        watched = yield from watching(
            Subject(task.reference or "", task.entry_point, found.calls, task.setup)
        )
        return watched.rejection or tested(task, watched.answers, rules)

    yield from in_lanes([box, elsewhere, *more_hashes(elsewhere)], items, begin)


def tested(task: Task, answers: Sequence[Answer], rules: GenerateTable) -> Task | Rejection:
    """The task with a test for each answer that can be one."""
    if all(answer.is_silent for answer in answers):
        return Rejection("silent", "it returns None and prints nothing, whatever the call")
    made = [(answer, as_test(answer)) for answer in answers]
    tests = [found for _, found in made if isinstance(found, Test)]
    wanted = rules.least_tests + min(1, rules.seen)
    if len(tests) < wanted:
        left = [(answer, found) for answer, found in made if isinstance(found, Rejection)]
        return _too_few(left, len(answers), wanted)
    seen = min(rules.seen, len(tests) - rules.least_tests)
    shown, hidden = _divided(tests, seen)
    return replace(task, seen_tests=tuple(shown), tests=tuple(hidden))


def _divided(tests: Sequence[Test], seen: int) -> tuple[list[Test], list[Test]]:
    """The first are seen, unless the others would all expect the same: then one that expects
    something else goes to them, in exchange for their first."""
    shown, hidden = list(tests[:seen]), list(tests[seen:])
    if len({test.expected for test in hidden}) == 1:
        unlike = [i for i, test in enumerate(shown) if test.expected != hidden[0].expected]
        for i in unlike[-1:]:
            shown[i], hidden[0] = hidden[0], shown[i]
    return shown, hidden


def _too_few(left: Sequence[tuple[Answer, Rejection]], calls: int, wanted: int) -> Rejection:
    """What keeps most of the calls from being tests."""
    if not left:
        return Rejection("bad_calls", f"{calls} calls, where {wanted} are wanted")
    states = Counter(found.state for _, found in left)
    state = states.most_common(1)[0][0]
    answer, first = next(pair for pair in left if pair[1].state == state)
    call = shorten(answer.call, 120)
    many = f"{len(left)} of {calls} calls make no test"
    return Rejection(state, f"{many}: {call} {first.detail}")


# ---- tests -----------------------------------------------------------------------------------

#: How far two right ways to compute one float may be apart: EvalPlus' tolerance for floats alone;
#: beside whole numbers, which it would loosen, and of complex ones, no more than rounding.
_BESIDE_INTS = 1e-9


def as_test(answer: Answer) -> Test | Rejection:
    """The test of an answer, or why the judge could not tell it from others."""
    if answer.error:
        return Rejection("reference_fails", f"raises {answer.error}")
    test = _printed(answer) if answer.tree is None else _returned(answer)
    if isinstance(test, Rejection):
        return test
    frame = {"v": answer.tree, "o": answer.printed}
    try:
        holds = agrees(test, frame)
    except (NotLiteral, codec.CodecError, RecursionError):
        holds = False
    return test if holds else Rejection("not_plain", f"gives {answer.shown}, which reads otherwise")


def _printed(answer: Answer) -> Test | Rejection:
    """None was returned: what counts is what was printed, if anything."""
    text = answer.printed.strip()
    if not answer.printed:
        return Test(answer.call, "None")
    if answer.cut:
        return Rejection("not_plain", "prints more than is kept of it")
    if text in ("", "None"):
        return Rejection("silent", f"prints {answer.printed!r}, as good as nothing")
    return Test(answer.call, text, "loose")


def _returned(answer: Answer) -> Test | Rejection:
    value = codec.unwrap(codec.decode(answer.tree))
    if '{"other":' in codec.compact(answer.tree):
        return Rejection("not_plain", f"gives {answer.shown}")
    compare: Any = "equal" if '{"sub":' in codec.compact(answer.tree) else "value"
    return Test(answer.call, literal_text(value), compare, tolerance(value))


def tolerance(value: Any) -> float | None:
    """The tolerance of a test that expects a value; None: exact."""
    kinds = {type(number) for number in numbers(value)}
    if not kinds & {float, complex}:
        return None
    return _BESIDE_INTS if kinds & {int, complex} else tolerance_of(value, 1e-6)


def numbers(value: Any) -> Iterator[int | float | complex]:
    """The numbers in plain data, but for those that are looked up."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        for item in value:
            yield from numbers(item)
    elif isinstance(value, (int, float, complex)) and not isinstance(value, bool):
        yield value
