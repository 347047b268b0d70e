"""The variants as selections, examples executed as trained on."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from persd import examples as examples_module
from persd.domains.code import refine_prompt, task_prompt
from persd.errors import UserError
from persd.examples import TaskRecord, build, parts_of, select
from persd.records import VARIANTS, Kind, Solution, State, Task, Test
from persd.sandbox import Sandbox


@pytest.fixture(scope="module")
def box() -> Iterator[Sandbox]:
    with Sandbox(workers=1) as opened:
        yield opened


def a_task(task_id: str, *, tested: bool = True) -> Task:
    return Task(
        task_id=task_id,
        instruction="Add one.",
        header="def inc(n):\n",
        entry_point="inc",
        tests=(Test("inc(1)", "2"), Test("inc(-1)", "0")) if tested else (),
    )


def answer(task_id: str, kind: Kind, body: str) -> Solution:
    code = f"def inc(n):\n    {body}\n" if not body.startswith("def") else body
    return Solution(
        f"{task_id}-{kind}", task_id, kind, "somebody", 0 if kind == "direct" else 1, code, code
    )


def a_record(
    task_id: str,
    state: State,
    *,
    direct: str | None = "return 1 + n",
    refinement: str | None = None,
    attempt: str = "return n + 2",
    tested: bool = True,
) -> TaskRecord:
    attempted = state != "untested" or refinement is not None
    return TaskRecord(
        task=a_task(task_id, tested=tested),
        attempt=answer(task_id, "attempt", attempt) if attempted else None,
        feedback="ERROR: AssertionError\nINPUT: (1)\nOUTPUT: 3\nEXPECTED: 2",
        direct=answer(task_id, "direct", direct) if direct else None,
        refinement=answer(task_id, "refinement", refinement) if refinement else None,
        state=state,
        round=1,
    )


RECORDS = [
    a_record("solved", "solved", attempt="return n + 1  # mine"),
    a_record("one", "refined", refinement="return n + 1"),
    a_record("refused", "refused"),
    a_record("failed", "direct_failed", direct=None),
    a_record("two", "refined", refinement="return (n + 1)"),
    a_record("loose", "untested", refinement="return n + 1", tested=False),
]


def chosen(variant: str, untested: bool = False) -> list[tuple[str, str, str]]:
    pairs = select(variant, RECORDS, include_untested=untested)
    return [(p.record.task.task_id, p.form, p.solution.kind) for p in pairs]


@pytest.mark.parametrize(
    ("variant", "expected"),
    [
        ("stand", [(t, "task", "direct") for t in ("solved", "one", "refused", "two")]),
        ("inpd", [(t, "task", "direct") for t in ("one", "two")]),
        ("inpd-refine", [(t, "refine", "direct") for t in ("one", "two")]),
        (
            "inpd-combined",
            [(t, form, "direct") for t in ("one", "two") for form in ("task", "refine")],
        ),
        ("persd", [(t, "task", "refinement") for t in ("one", "two")]),
        ("persd-refine", [(t, "refine", "refinement") for t in ("one", "two")]),
        (
            "persd-combined",
            [
                (t, form, kind)
                for t in ("one", "two")
                for form, kind in (("refine", "refinement"), ("task", "direct"))
            ],
        ),
    ],
)
def test_the_seven_variants_are_the_papers(
    variant: str, expected: list[tuple[str, str, str]]
) -> None:
    assert chosen(variant) == expected
    assert {t for t, *_ in chosen(variant, untested=True)} == {t for t, *_ in expected} | {"loose"}


def test_every_variant_is_defined_and_an_unknown_one_is_refused() -> None:
    assert set(examples_module.PARTS) == set(VARIANTS)
    with pytest.raises(UserError, match="persd-combined"):
        select("perds", RECORDS)


def test_replay_is_what_the_student_solved_and_no_variant(box: Sandbox) -> None:
    assert "replay" not in VARIANTS
    assert parts_of("replay") == (("S", "task", "attempt"),)
    assert chosen("replay") == chosen("replay", untested=True) == [("solved", "task", "attempt")]
    (example,), rejected = build("replay", RECORDS, box)
    assert rejected == []
    assert (example.variant, example.task_id, example.form) == ("replay", "solved", "task")
    assert example.prompt == task_prompt(RECORDS[0].task)
    assert example.completion == "    return n + 1  # mine\n"
    assert (example.attempt_id, example.direct_id, example.refinement_id) == (
        "solved-attempt", None, None,
    )  # fmt: skip


def test_an_attempt_that_fails_under_its_header_is_not_replayed(box: Sandbox) -> None:
    wrong = a_record("wrong", "solved", attempt="return n - 1")
    kept, rejected = build("replay", [wrong], box)
    assert kept == []
    assert [(r.task_id, r.reason) for r in rejected] == [("wrong", "failed")]


def test_examples_hold_prompt_label_and_lineage(box: Sandbox) -> None:
    kept, rejected = build("persd-combined", RECORDS, box)
    assert rejected == []
    assert [e.form for e in kept] == ["refine", "task"] * 2
    record = RECORDS[1]
    assert record.attempt is not None
    refine, task = kept[:2]
    assert refine.prompt == refine_prompt(record.task, record.attempt.code or "", record.feedback)
    assert refine.completion == "    return n + 1\n"
    assert task.prompt == task_prompt(record.task)
    assert task.completion == "    return 1 + n\n"
    assert (refine.attempt_id, refine.refinement_id, refine.direct_id) == (
        "one-attempt", "one-refinement", None,
    )  # fmt: skip
    assert (task.refinement_id, task.direct_id) == (None, "one-direct")
    assert len({e.example_id for e in kept}) == len(kept)


def test_building_twice_gives_the_same(box: Sandbox) -> None:
    assert build("persd", RECORDS, box) == build("persd", list(RECORDS), box)


@pytest.mark.parametrize(
    ("repair", "reason", "detail"),
    [
        ("return n + 2", "failed", "inc(1)"),
        ("return n / 0", "error", "ZeroDivisionError"),
        ("while True: pass", "timeout", "CPU"),
        ("return lost(n)", "undefined_names", "lost"),
        ("return (", "unparsable", "SyntaxError"),
        ("def inc(n, m):\n    return n", "signature", "n, m"),
        ("def other(n):\n    return n + 1\n", "signature", "inc"),
    ],
)
def test_what_fails_as_prompt_and_completion_is_named_and_left_out(
    box: Sandbox, repair: str, reason: str, detail: str
) -> None:
    bad = a_record("bad", "refined", refinement=repair)
    kept, rejected = build("persd", [RECORDS[1], bad, RECORDS[4]], box)
    assert [e.task_id for e in kept] == ["one", "two"]
    assert [(r.task_id, r.form, r.reason) for r in rejected] == [("bad", "task", reason)]
    assert detail in rejected[0].detail


def test_a_renamed_parameter_is_aligned_before_it_is_executed(box: Sandbox) -> None:
    renamed = a_record("r", "refined", refinement="def inc(value):\n    return value + 1\n")
    kept, rejected = build("persd", [renamed], box)
    assert (kept[0].completion, rejected) == ("    return n + 1\n", [])


def test_a_task_without_the_wanted_direct_answer_is_named(box: Sandbox) -> None:
    alone = a_record("alone", "refined", direct=None, refinement="return n + 1")
    kept, rejected = build("persd-combined", [alone], box)
    assert [e.form for e in kept] == ["refine"]
    assert [(r.form, r.reason) for r in rejected] == [("task", "no_direct")]


def test_untested_tasks_come_only_when_asked_for(box: Sandbox) -> None:
    assert [e.task_id for e in build("persd", RECORDS, box)[0]] == ["one", "two"]
    kept, _ = build("persd", RECORDS, box, include_untested=True)
    assert [e.task_id for e in kept] == ["one", "two", "loose"]
