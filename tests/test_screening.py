"""From a reply to decided candidates, with the real sandbox."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from conftest import make_task
from persd.config import GenerateTable
from persd.domains.authoring import render
from persd.overlap import Overlap
from persd.pool.drafts import Draft, Rejection
from persd.pool.near import Near
from persd.pool.screening import WAITS, Screen, more_calls_of, opened, task_id_of
from persd.pool.strength import Weak
from persd.records import Brief, Candidate, Completion, Proposal, Task, Usage
from persd.sandbox import Sandbox

RULES = GenerateTable(count=1)
PARENT = make_task("parent")
BRIEF = Brief(7, 2, 8, shown=(PARENT,), topic="text", difficulty="easy")

COUNT = Proposal(
    "Given a list of whole numbers and a limit, return how many of the numbers are above the limit "
    "and even.",
    "def count_even_above(numbers, limit):\n"
    "    return sum(1 for n in numbers if n > limit and n % 2 == 0)\n",
    (
        "count_even_above([1, 2, 3, 4], 1)",
        "count_even_above([], 0)",
        "count_even_above([2, 4, 6], 2)",
        "count_even_above([10, 11, 12], 10)",
        "count_even_above([-2, -4], -3)",
        "count_even_above([5, 7], 1)",
        "count_even_above([8, 8, 8], 7)",
        "count_even_above([0, 100], 50)",
    ),
    "count_even_above",
)
WEAK = Proposal(
    "Given a word of up to forty letters, return it in upper case; of a longer word return the sum "
    "of the places of its letters that are odd, less three for each even place after the seventh, "
    "as text.",
    "def shift_word(word):\n"
    "    if len(word) > 40:\n"
    "        total = 0\n"
    "        for place in range(len(word)):\n"
    "            if place % 2 == 1:\n"
    "                total = total + place * 2 - place // 2\n"
    "            elif place > 7:\n"
    "                total = total - 3 * 1\n"
    "        return str(total + 5 - 5)\n"
    "    return word.upper()\n",
    tuple(f"shift_word({w!r})" for w in ("a", "bc", "def", "ghij", "klmno", "pq", "rst", "u")),
    "shift_word",
)
SILENT = Proposal(
    "Given two whole numbers, work out their greatest common divisor.",
    "def divisor(a, b):\n    while b:\n        a, b = b, a % b\n",
    tuple(f"divisor({a}, {b})" for a, b in ((4, 6), (9, 3), (7, 5), (8, 4), (12, 18), (100, 75))),
    "divisor",
)


@pytest.fixture(scope="module")
def boxes() -> Iterator[tuple[Sandbox, Sandbox]]:
    with Sandbox(workers=2) as box, Sandbox(workers=2, seed=1) as elsewhere:
        yield box, elsewhere


def screen_of(boxes: tuple[Sandbox, Sandbox], overlap: Overlap | None = None) -> Screen:
    return Screen(*boxes, RULES, Near("seeds"), Near("pool"), overlap)


def opened_of(
    *proposals: Proposal, less: int = 0, **completion: object
) -> list[tuple[Candidate, object]]:
    """``less``: characters that are missing at the reply's end."""
    text = "\n\n".join(map(render, proposals))
    text = text[: len(text) - less]
    given = {"usage": Usage(10, 20), "usd": 0.004, "model": "writer", **completion}
    return list(opened(Completion(text, **given), "call", BRIEF, RULES, "hash"))  # type: ignore[arg-type]


def screened(screen: Screen, *proposals: Proposal) -> list[Candidate]:
    items = opened(Completion("\n\n".join(map(render, proposals))), "call", BRIEF, RULES)
    return [screen.decided(candidate, found) for candidate, found in screen.tried(items)]


# -- replies ------------------------------------------------------------------------------------


def test_what_a_filter_broke_off_is_no_task() -> None:
    found = opened_of(COUNT, SILENT, less=30, finish="filtered")
    assert isinstance(found[0][1], Draft)
    last = found[1][1]
    assert isinstance(last, Rejection)
    assert (last.state, "ended as filtered" in last.detail) == ("cut", True)


def test_a_reply_becomes_candidates_in_order() -> None:
    found = opened_of(COUNT, SILENT)
    assert [c.place for c, _ in found] == [0, 1]
    assert len({c.candidate_id for c, _ in found}) == 2
    assert all(isinstance(d, Draft) for _, d in found)
    first = found[0][0]
    assert first.proposal == COUNT
    assert (first.state, first.task, first.number) == ("not_run", None, 7)
    assert first.lineage == {
        "origin": "seeds",
        "seeds": ["parent"],
        "topic": "text",
        "difficulty": "easy",
        "way": "",
        "parent": "",
        "model": "writer",
        "prompt": "hash",
        "call": "call",
        "usd": 0.002,
    }
    assert found == opened_of(COUNT, SILENT)


def test_a_rewrite_names_its_parent() -> None:
    brief = Brief(0, 1, 8, way="deeper", parent=PARENT)
    (candidate, _), *_ = opened(Completion(render(COUNT), usd=None), "call", brief, RULES)
    assert candidate.lineage["origin"] == "evolved"
    assert (candidate.lineage["way"], candidate.lineage["parent"]) == ("deeper", "parent")
    assert candidate.lineage["usd"] is None


@pytest.mark.parametrize("text", ["", "I cannot help with that.", "\ud800\x00"])
def test_a_reply_without_a_task_is_one_candidate(text: str) -> None:
    ((candidate, found),) = opened(Completion(text), "call", BRIEF, RULES)
    assert isinstance(found, Rejection)
    assert found.state == "no_task"
    assert candidate.proposal.code == text


def test_what_the_end_of_a_reply_has_cut_is_no_task() -> None:
    whole = opened_of(COUNT, SILENT, finish="length")
    assert all(isinstance(what, Draft) for _, what in whole)
    found = opened_of(COUNT, SILENT, less=12, finish="length")
    assert isinstance(found[0][1], Draft)
    assert isinstance(found[1][1], Rejection)
    assert found[1][1].state == "cut"


def test_how_a_reply_ended_is_told() -> None:
    ((_, found),) = opened(Completion("", finish="filtered"), "call", BRIEF, RULES)
    assert isinstance(found, Rejection)
    assert found.state == "no_task"
    assert "filtered" in found.detail


def test_a_name_follows_from_the_content() -> None:
    assert task_id_of(COUNT) == task_id_of(COUNT)
    assert task_id_of(COUNT) != task_id_of(SILENT)
    assert task_id_of(COUNT).startswith("gen/")


# -- decisions ----------------------------------------------------------------------------------


def test_from_replies_to_ends(boxes: tuple[Sandbox, Sandbox]) -> None:
    screen = screen_of(boxes)
    good, silent, weak = screened(screen, COUNT, SILENT, WEAK)
    assert (good.state, silent.state) == ("accepted", "silent")
    assert good.task is not None
    assert good.task.meta == dict(good.lineage)
    assert good.task.seen_tests[0].expected == "2"
    assert len(good.task.tests) == 5
    assert weak.state == "not_run"
    assert weak.detail.startswith(WAITS)
    # the same again under another name is not new
    again = Proposal(COUNT.instruction, COUNT.code.replace("limit", "least"), COUNT.calls, "")
    (twin,) = screened(screen, again)
    assert twin.state == "near_duplicate"
    assert good.task.task_id in twin.detail


def test_the_seeds_are_not_written_again(boxes: tuple[Sandbox, Sandbox]) -> None:
    screen = screen_of(boxes)
    seed = Task("601", COUNT.instruction, "", "count_even_above", reference=COUNT.code)
    screen.known.add(seed)
    (found,) = screened(screen, COUNT)
    assert found.state == "near_duplicate"
    assert "seeds 601" in found.detail


def test_a_benchmarks_task_is_not_run(boxes: tuple[Sandbox, Sandbox]) -> None:
    own = Task("11", COUNT.instruction, "", "count_even_above", reference=COUNT.code)
    screen = screen_of(boxes, Overlap({"mbpp": [own]}))
    found, silent = screened(screen, COUNT, SILENT)
    assert found.state == "contaminated"
    assert "mbpp 11" in found.detail
    assert silent.state == "silent"


def test_more_calls_make_weak_tests_strong(boxes: tuple[Sandbox, Sandbox]) -> None:
    screen = screen_of(boxes)
    ((candidate, draft),) = opened(Completion(render(WEAK), usd=0.25), "call", BRIEF, RULES)
    ((_, weak),) = screen.tried([(candidate, draft)])
    assert isinstance(weak, Weak)
    waiting = screen.decided(candidate, weak)
    long = ("a" * 41, "bc" * 25, "xyz" * 20, "q" * 55)
    calls = "\n".join(f"shift_word({w!r})" for w in long)
    reply = Completion(f"```python\n{calls}\n```", usd=0.5)
    again, wider = more_calls_of(waiting, weak, reply, "call 2", RULES)
    assert isinstance(wider, Draft)
    assert again.lineage["usd"] == 0.75
    assert again.lineage["more_calls"] == "call 2"
    ((_, found),) = screen.tried([(again, wider)])
    ended = screen.decided(again, found)
    assert (ended.state, ended.asked_again) == ("accepted", True)
    assert ended.task is not None
    assert ended.task.task_id == weak.task.task_id
    assert any("a" * 41 in t.call for t in ended.task.tests)


@pytest.mark.parametrize("reply", ["", "none come to mind", "```\nshift_word('a')\n```"])
def test_a_reply_without_another_call_ends_it(boxes: tuple[Sandbox, Sandbox], reply: str) -> None:
    screen = screen_of(boxes)
    ((candidate, _),) = opened(Completion(render(WEAK)), "call", BRIEF, RULES)
    weak = Weak(Task("gen/1", "", "", "shift_word"), "0 of 4 fail", "")
    again, found = more_calls_of(candidate, weak, Completion(reply), "call 2", RULES)
    assert isinstance(found, Rejection)
    ended = screen.decided(again, found)
    assert (ended.state, ended.asked_again) == ("weak_tests", True)
    assert "0 of 4 fail" in ended.detail


def test_weak_after_more_calls_is_the_end(boxes: tuple[Sandbox, Sandbox]) -> None:
    screen = screen_of(boxes)
    ((candidate, draft),) = opened(Completion(render(WEAK)), "call", BRIEF, RULES)
    ((_, weak),) = screen.tried([(candidate, draft)])
    assert isinstance(weak, Weak)
    reply = Completion("```\nshift_word('other')\n```")
    again, wider = more_calls_of(candidate, weak, reply, "call 2", RULES)
    ((_, found),) = screen.tried([(again, wider)])
    assert screen.decided(again, found).state == "weak_tests"
