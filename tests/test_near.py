"""Tasks that are one task twice are found, others are not, and a crowd of them costs little."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from persd import tasks as task_sources
from persd.lab import family
from persd.pool import near as near_module
from persd.pool.near import Near, compared
from persd.records import Task
from persd.tasks import lab

COUNT_ABOVE = """
def count_above(numbers):
    found = 0
    for number in numbers:
        if number > 2:
            found += 1
    return found
"""
LONGEST = """
def longest(words):
    best = ""
    for word in words:
        if len(word) > len(best):
            best = word
    return best
"""
JOINED = "def joined(words):\n    return ' '.join(words)\n"


def make(task_id: str, instruction: str, program: str | None = None) -> Task:
    entry_point = (program or "def f(x)").partition("def ")[2].partition("(")[0]
    return Task(task_id, instruction, f"def {entry_point}(x):\n", entry_point, reference=program)


def found(task: Task, *pool: Task) -> list[tuple[str, str]]:
    near = Near()
    for other in pool:
        near.add(other)
    return [(m.task_id, m.measure) for m in near.matches(task)]


ABOVE = make("above", "Count the numbers of a list that are greater than 2.", COUNT_ABOVE)
WORDS = make("words", "Return the longest word of a sentence given as a list.", LONGEST)


# -- what counts ------------------------------------------------------------------------------


def test_another_constant_is_no_other_task() -> None:
    program = COUNT_ABOVE.replace("> 2", "> 3").replace("number ", "n ").replace("found", "k")
    again = make("again", "How many numbers of a list are greater than 3?", program)
    assert found(again, WORDS, ABOVE) == [("above", "program")]


def test_nearly_the_same_words_count_whatever_the_program() -> None:
    other = "def best(ws):\n    return max(ws, key=len)\n"
    again = make("again", "Write a function to find the longest word in a sentence list.", other)
    assert found(again, ABOVE, WORDS) == [("words", "instruction")]


def test_the_same_program_counts_where_the_words_have_something_in_common() -> None:
    again = make("again", "Which word of a given list has the most letters?", LONGEST)
    assert found(again, WORDS) == [("words", "program")]
    assert found(replace(again, instruction="Rank the bids of an auction."), WORDS) == []


def test_a_small_program_says_little_alone() -> None:
    lines = make("lines", "Join the words of a list with blanks between them.", JOINED)
    assert found(make("cards", "Show the cards and their words to a player.", JOINED), lines) == []
    assert found(make("again", "Join the words of a list, a blank between.", JOINED), lines) == [
        ("lines", "program")
    ]


def test_another_string_is_another_program() -> None:
    matching = "import re\ndef f(text):\n    return bool(re.search('{}', text))\n"
    one = make("one", "Tell whether a text has an a and then some b.", matching.format("ab*"))
    two = make("two", "Tell whether a text ends with digits.", matching.format("[0-9]+$"))
    assert found(two, one) == []


def test_without_any_words_a_whole_program_decides() -> None:
    bare = make("bare", "", LONGEST)
    assert found(replace(bare, task_id="again"), bare) == [("bare", "program")]
    assert found(replace(bare, task_id="told", instruction="Do it."), bare) == [("bare", "program")]
    assert found(make("small", "", JOINED), make("other", "", JOINED)) == []
    assert found(make("above", "", COUNT_ABOVE), bare) == []


def test_without_programs_the_words_decide() -> None:
    bare = replace(ABOVE, task_id="bare", reference=None)
    assert found(bare, WORDS, ABOVE) == [("above", "instruction")]


def test_a_docstring_is_an_instruction() -> None:
    header = (
        'def longest(words):\n    """Return the longest word of a sentence given as a list."""\n'
    )
    task = replace(WORDS, task_id="again", instruction="", header=header, reference=None)
    assert found(task, WORDS) == [("words", "instruction")]


def test_empty_tasks_are_like_nothing() -> None:
    empty = make("empty", "")
    assert found(replace(empty, task_id="again"), empty, ABOVE) == []
    assert found(make("marks", "?!"), make("more", "..."), empty) == []


def test_the_most_alike_comes_first_with_what_is_shared() -> None:
    near = Near("pool")
    bare = replace(ABOVE, reference=None)
    near.add(replace(bare, task_id="some", instruction=f"{ABOVE.instruction} Today."))
    near.add(bare)
    first, second = near.matches(replace(bare, task_id="again"))
    assert (first.benchmark, first.task_id, first.alike) == ("pool", "above", 1.0)
    assert second.task_id == "some"
    assert len(near) == 2
    assert first.shared == "count numbers list greater 2"


def test_shared_nodes_are_shown_of_a_program() -> None:
    near = Near()
    near.add(WORDS)
    again = make("again", "Which of several words is the longest?", LONGEST)
    shared = near.matches(again)[0].shared
    assert shared.startswith("def arguments $ Assign $ '' For $ $ If Compare Call len")
    assert "more characters" in shared or shared.endswith("Return $")


# -- hostile texts ----------------------------------------------------------------------------


@given(
    st.text(alphabet=st.characters(exclude_categories=())),
    st.text(alphabet=st.characters(exclude_categories=())),
)
def test_any_text_can_be_looked_up(instruction: str, program: str) -> None:
    near, task = Near(), make("x", instruction, program)
    near.add(task)
    again = replace(task, task_id="y")
    assert near.matches(again) == near.matches(again)
    assert all(m.task_id == "x" for m in near.matches(again))


def test_odd_and_huge_texts() -> None:
    huge = make("huge", "count the words " * 20_000, f"def f(x):\n    return '{'é' * 10**5}'\n")
    odd = make("odd", "Return \ud800 the \0 longest word", "def f(x):\n    return '\\ud800\\0'\n")
    deep = make("deep", "Return it", f"def f(x):\n    return {'(' * 5000}x{')' * 5000}\n")
    near = Near()
    for task in (huge, odd, deep):
        near.add(task)
        assert near.matches(replace(task, task_id="again"))[0].task_id == task.task_id
    assert len(near.matches(replace(huge, task_id="again"))[0].shared) < 300


# -- many -------------------------------------------------------------------------------------


def crowd(size: int) -> list[Task]:
    return [
        replace(ABOVE, task_id=f"{i}", instruction=f"{ABOVE.instruction} w{i}") for i in range(size)
    ]


def test_of_a_crowd_those_that_came_first_stand_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(near_module, "CROWD", 30)
    near, looked_at = Near(), []
    for task in crowd(200):
        looked_at.append(len(near.numbers(task)))
        near.add(task)
    assert looked_at[:31] == list(range(31))
    assert max(looked_at[31:]) <= 60  # 30 of each index at most
    assert len(near.matches(replace(ABOVE, task_id="again"))) == near_module.MOST
    near.add(WORDS)  # what is no part of it is found as ever
    assert near.matches(replace(WORDS, task_id="again"))[0].task_id == "words"


def found_by_index(tasks: Sequence[Task]) -> set[tuple[int, int]]:
    near, pairs = Near(), set[tuple[int, int]]()
    for number, task in enumerate(tasks):
        pairs |= {(other, number) for other in near.numbers(task)}
        near.add(task)
    return pairs


@pytest.fixture(scope="module")
def mbpp(data: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Task]:
    """The tasks from 551 on."""
    lines = (data / "mbpp" / "mbpp.jsonl").read_text().splitlines()[550:]
    path = tmp_path_factory.mktemp("mbpp") / "mbpp.jsonl"
    path.write_text("\n".join(lines))
    return list(task_sources.load("mbpp", path=str(path), split="all"))


def test_the_indexes_miss_nothing_of_mbpp(mbpp: list[Task]) -> None:
    pairs, found = set(compared(mbpp)), found_by_index(mbpp)
    assert len(pairs) > 10
    assert len(found) >= 0.99 * len(pairs)
    assert found <= pairs


def test_known_twins_of_mbpp_are_found(mbpp: list[Task]) -> None:
    pairs = {(mbpp[a].task_id, mbpp[b].task_id) for a, b in found_by_index(mbpp)}
    assert {("591", "625"), ("794", "879"), ("595", "699"), ("719", "930")} <= pairs
    assert not {("797", "962"), ("707", "903"), ("672", "924"), ("581", "731")} & pairs


def test_tasks_of_other_steps_are_seldom_alike() -> None:
    tasks, signatures = [], set[str]()
    for task in lab.load(count=500, seed=5):
        chain = family.chain_of(task)
        assert chain is not None
        if (signature := family.signature(chain)) not in signatures:
            signatures.add(signature)
            tasks.append(task)
    assert len(tasks) > 300
    assert len({b for _, b in found_by_index(tasks)}) < 0.05 * len(tasks)


def test_the_same_steps_with_other_numbers_are_alike() -> None:
    tasks = lab.load(count=100, seed=5)
    near, twins = Near(), 0
    for task in tasks:
        near.add(task)
    for task in tasks:
        assert task.reference is not None
        text, reference = (x.replace("2", "4") for x in (task.instruction, task.reference))
        other = replace(task, task_id="again", instruction=text, reference=reference)
        twins += bool(near.matches(other))
    assert twins == len(tasks)
