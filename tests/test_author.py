"""The embedded teacher as an author: tasks as asked for, some broken, always the same."""

from __future__ import annotations

import ast
import random
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from persd.domains.authoring import read_calls, read_tasks, render
from persd.errors import UserError
from persd.lab import author, family
from persd.lab.author_defects import DEFECTS, favourite, guarded, is_stubborn
from persd.lab.author_drafts import Desk, kind_of, program_with, telling_calls
from persd.records import CANDIDATE_STATES, Brief, Message, Proposal, Request, Task, Test
from persd.tasks import lab

BRIEF = Brief(number=3, count=4, calls=8)
WRITES = ("no_task", "cut")


def request(brief: Brief | None, purpose: str = "task", max_tokens: int = 3000) -> Request:
    task = Task("question", "", "", "")
    asked = (Message("user", "?"),)
    return Request(purpose, asked, task, 7, 0.8, 0.95, max_tokens, brief=brief)  # type: ignore[arg-type]


def sound(brief: Brief, seed: int = 0) -> list[Proposal]:
    text, finish = author.new_tasks(brief, seed, broken=0.0)
    assert finish == "stop"
    found = read_tasks(text)
    assert all(isinstance(p, Proposal) for p in found)
    return found  # type: ignore[return-value]


def values_of(code: str, calls: Iterable[str]) -> list[str]:
    """What a program of the family, never a model's, gives."""
    scope: dict[str, Any] = {}
    exec(code, scope)  # noqa: S102
    return [repr(scope["f"](argument(call))) for call in calls]


def argument(call: str) -> Any:
    return ast.literal_eval(call[2:-1])


# ---- what it writes ---------------------------------------------------------------------------


def test_as_many_tasks_and_calls_as_asked_for() -> None:
    found = sound(replace(BRIEF, count=5, calls=11))
    assert [len(p.calls) for p in found] == [11] * 5
    assert all(len(set(p.calls)) == 11 for p in found)
    assert len({p.code for p in found}) == 5


def test_many_calls_can_be_had() -> None:
    found = sound(replace(BRIEF, calls=40))
    assert [len(set(p.calls)) for p in found] == [40] * 4
    for number in range(30):
        text, _ = author.new_tasks(replace(BRIEF, number=number, calls=100), 0, broken=1.0)
        assert read_tasks(text)


def test_the_same_question_has_the_same_answer() -> None:
    assert author.write(request(BRIEF)) == author.write(request(BRIEF))
    other = replace(BRIEF, number=4)
    assert author.write(request(BRIEF)) != author.write(request(other))
    assert author.new_tasks(BRIEF, 1) != author.new_tasks(BRIEF, 2)


@given(st.integers(0, 10**6))
@settings(max_examples=25, deadline=None)
def test_a_sound_task_runs_and_its_calls_tell_it_apart(seed: int) -> None:
    for proposal in sound(replace(BRIEF, count=2), seed):
        values = values_of(proposal.code, proposal.calls)
        given = [call[2:-1] for call in proposal.calls]
        assert len(set(values[3:])) >= 2
        assert values != given


def test_difficulty_and_topic_steer() -> None:
    def chain_lengths(difficulty: str) -> set[int]:
        desks = [
            author.desk_for(replace(BRIEF, difficulty=difficulty), random.Random(i))
            for i in range(30)
        ]
        return {desk.steps for desk in desks}

    assert chain_lengths("easy: one idea") == {2}
    assert chain_lengths("hard") == {4}
    assert chain_lengths("") == {2, 3, 4}
    for topic, parameter in (("strings and text", "(s)"), ("whole numbers", "(n)")):
        found = sound(replace(BRIEF, topic=topic, count=6))
        assert all(parameter in p.code.split("\n")[0] for p in found)


def test_tasks_are_of_the_pool() -> None:
    """Nothing that is held out, or that the embedded student learnt from, is written."""
    desk = Desk(random.Random(5))
    for _ in range(30):
        assert family.split_of(family.signature(desk.sketch().chain)) == "pool"
    assert family.split_of(family.signature(favourite(random.Random(1)).chain)) == "pool"


def test_telling_calls_end_with_an_edge_and_show_some_first() -> None:
    task = lab.load(count=1, seed=0)[0]
    calls = telling_calls(task, 8)
    assert list(calls[:3]) == [t.call for t in task.seen_tests[:3]]
    assert calls[-1] == task.tests[-2].call
    assert telling_calls(task, 2) == (task.seen_tests[0].call, task.tests[-2].call)


# ---- what is broken ---------------------------------------------------------------------------


def test_every_state_but_two_has_defects_of_several_kinds() -> None:
    """What only a benchmark shows is made from one; ``not_run`` is nobody's defect."""
    elsewhere = {"accepted", "not_run", "contaminated", *WRITES}
    assert set(DEFECTS) == set(CANDIDATE_STATES) - elsewhere
    assert all(len(kinds) >= 2 for kinds in DEFECTS.values())


def test_a_share_is_broken_and_the_rest_is_not() -> None:
    fates = Counter(
        author._fate(random.Random(i), 0.3)
        for i in range(3000)  # a draw a task, as it is written
    )
    assert 0.65 < fates["accepted"] / 3000 < 0.75
    assert set(fates) >= {*WRITES, *DEFECTS}
    assert fates["too_slow"] < fates["syntax"]


def test_no_label_is_in_what_is_read() -> None:
    """No text names its own defect: states and kinds of two words do not occur."""
    desk = Desk(random.Random(0))
    for state, kinds in DEFECTS.items():
        for kind, make in kinds.items():
            text = render(make(desk))
            assert state not in text, (state, kind)


def test_a_reply_that_is_cut_says_so() -> None:
    for number in range(400):
        text, finish = author.new_tasks(replace(BRIEF, number=number), 0, broken=0.9)
        if finish == "length":
            break
    whole = len(read_tasks(text))
    assert whole <= BRIEF.count
    assert not text.endswith("```\n")


def test_no_reply_is_longer_than_may_be_paid_for() -> None:
    text, finish = author.write(request(BRIEF, max_tokens=50), broken=0.0)
    assert len(text) == 200
    assert finish == "length"


def test_a_question_without_its_brief_is_refused() -> None:
    with pytest.raises(UserError, match="brief"):
        author.write(request(None))


# ---- around a task ----------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["deeper", "constraint", "input", "misdirection"])
def test_a_rewrite_is_another_task_around_the_parent(way: str) -> None:
    parent = lab.load(count=1, seed=3, mix={3: 1.0})[0]
    chain = family.chain_of(parent)
    assert chain
    wrong = "def f(xs):\n    return 'nothing of this'\n"
    brief = Brief(0, 3, 8, way=way, parent=parent, wrong=wrong)
    for found in sound(brief):
        assert found.code != parent.reference
        if way == "misdirection":
            assert "nothing of this" in found.instruction
        if way == "input":
            assert found.code.split("\n")[0] + "\n" != parent.header
        if way in ("deeper", "constraint"):
            assert found.code.split("\n")[0] + "\n" == parent.header


def test_a_parent_of_another_source_is_answered_with_the_family() -> None:
    parent = Task("mbpp/3", "Add one.", "def g(a):\n", "g", reference="def g(a):\n    return a\n")
    for way in ("deeper", "input", "misdirection"):
        assert len(sound(Brief(0, 1, 8, way=way, parent=parent))) == 1


# ---- more calls -------------------------------------------------------------------------------


def test_more_calls_are_of_the_tasks_own_kind() -> None:
    for task in lab.load(count=8, seed=1):
        brief = Brief(0, 1, 6, parent=task)
        text, finish = author.write(request(brief, "calls"))
        calls = read_calls(text, "f")
        assert (len(calls), finish) == (6, "stop")
        assert len(set(values_of(task.reference or "", calls))) > 1


def test_who_thinks_of_short_inputs_only_does_so_again() -> None:
    kept = {True: 0, False: 0}
    for seed in range(20):
        sketch = guarded(Desk(random.Random(seed)))
        task = Task("t", sketch.text, sketch.code.split("\n")[0] + "\n", "f", reference=sketch.code)
        limit = int(sketch.code.split("<= ")[1][0])
        found = [len(argument(c)) > limit for c in author.calls_for(task, random.Random(seed), 8)]
        assert any(found) != is_stubborn(sketch.code)
        kept[is_stubborn(sketch.code)] += 1
    assert min(kept.values()) >= 4


def test_calls_for_a_task_told_by_its_tests() -> None:
    task = Task("t", "", "def g(items):\n", "g", tests=(Test("g(['a'])", "1"),))
    assert kind_of(task) == "W"
    assert all(c.startswith("g([") for c in author.calls_for(task, random.Random(0), 4))
    assert kind_of(replace(task, tests=(Test("g('a')", "1"),))) == "S"
    assert kind_of(replace(task, tests=(Test("g(4)", "1"),))) == "I"
    assert kind_of(replace(task, tests=(Test("g(not python", "1"),))) == "L"


def test_a_program_keeps_its_lines_around_what_is_put_in() -> None:
    sketch = Desk(random.Random(2)).sketch("L")
    code = program_with(sketch, top="import os", first=("{x} = list({x})",), last=("return 1",))
    lines = code.split("\n")
    assert lines[0] == "import os"
    assert "    xs = list(xs)" in lines
    assert lines[-2] == "    return 1"
