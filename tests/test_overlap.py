"""Training tasks that are a benchmark's again are found, and others are left alone."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from persd import tasks as task_sources
from persd.likeness import normalise, program_of, prose, read_program
from persd.overlap import Overlap, clean_ids, overlap_report
from persd.records import Task

SUM_EVEN = """
def total(numbers):
    result = 0
    for number in numbers:
        if number % 2 == 0:
            result = result + number
    return max(result, 0)
"""
LONGEST = """
def longest(words):
    best = ""
    for word in words:
        if len(word) > len(best):
            best = word
    return best
"""
OTHER_WAY = "def longest(words):\n    return max(words, key=len, default='')\n"


def make(task_id: str, instruction: str, program: str | None = None, header: str = "") -> Task:
    header = header or "def f(x):\n"
    entry_point = (program or header).partition("def ")[2].partition("(")[0]
    return Task(task_id, instruction, header, entry_point, reference=program)


BENCHMARK = [
    make("even", "Write a function to add up all the even numbers of a given list.", SUM_EVEN),
    make("long", "Write a python function to find the longest word of a sentence.", LONGEST),
    make("prime", "Write a function to check whether a number is prime or not.", None),
]


def matched(task: Task, benchmark: Sequence[Task] = BENCHMARK) -> list[tuple[str, str]]:
    return [(m.task_id, m.measure) for m in Overlap({"b": benchmark}).matches(task)]


# -- words ------------------------------------------------------------------------------------


@given(st.text(alphabet=st.characters(exclude_categories=())))
def test_any_text_is_normalised_once_and_for_all(text: str) -> None:
    words = normalise(text)
    assert normalise(" ".join(words)) == words
    assert all(w and not any(c.isspace() or c == "_" for c in w) for w in words)


def test_case_marks_and_punctuation_do_not_count() -> None:
    assert normalise("The  NAÏVE, `list_of` x-s!") == ["the", "naive", "list", "of", "x", "s"]
    assert normalise("ﬁnd Straße") == ["find", "strasse"]


@given(st.text(alphabet=st.characters(exclude_categories=())))
def test_any_text_is_a_program_or_none(text: str) -> None:
    program = read_program(text)
    assert program is None or program.nodes > 0
    assert read_program("x = " + "(" * 5000 + ")" * 5000) is None


def test_examples_and_asserts_are_no_prose() -> None:
    header = (
        'def f(x):\n    """ Add one to x.\n    f(3) gives 4\n    >>> f(1)\n    2\n\n'
        '    Never less.\n    """\n'
    )
    assert normalise(prose(make("t", "", header=header))) == [
        "add",
        "one",
        "to",
        "x",
        "never",
        "less",
    ]
    told = make("t", "Add one.\nassert f(1) == 2", header="no header (")
    assert normalise(prose(told)) == ["add", "one"]


# -- twins and others -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("instruction", "program", "found"),
    [
        # the words again, under another introduction
        (
            "Develop a program to check whether a number is prime or not, in Python",
            None,
            [("prime", "words")],
        ),
        ("Check whether a NUMBER is prime!", None, [("prime", "instruction")]),
        (
            "Create code to find the longest word in a given sentence!",
            None,
            [("long", "instruction")],
        ),
        ("Find the longest word of a sentence", OTHER_WAY, [("long", "instruction")]),
        # the program again, under other names and with comments
        (
            "Sum what divides by two.",
            SUM_EVEN.replace("number", "n").replace("    result = 0", "    # from\n    result = 0"),
            [("even", "program")],
        ),
        # both, where neither would do
        (
            "Give back the longest word of some text.",
            LONGEST.replace("return best", "return best.strip()"),
            [("long", "both")],
        ),
        # another task in much the same words, and another with much the same program
        ("Write a function to find the shortest path of a graph.", None, []),
        ("Write a function to square a list.", "def f(x):\n    return [y * y for y in x]\n", []),
    ],
)
def test_twins_are_found_and_others_are_not(
    instruction: str, program: str | None, found: list[tuple[str, str]]
) -> None:
    assert matched(make("t", instruction, program)) == found


def test_a_match_says_how_alike_and_shows_what_is_shared() -> None:
    (match,) = Overlap({"b": BENCHMARK}).matches(BENCHMARK[2])
    assert (match.benchmark, match.task_id, match.alike) == ("b", "prime", 1.0)
    assert "number is prime" in match.shared


def test_a_short_program_alone_says_nothing() -> None:
    joined = "def join(one, two):\n    return one + two\n"
    adds = [make("add", "Add two numbers.", "def add(a, b):\n    return a + b\n")]
    assert matched(make("t", "Join texts.", joined), adds) == []
    assert matched(make("t", "Add numbers.", joined), adds) == [("add", "both")]


def test_names_and_notes_of_a_program_do_not_count_and_constants_do() -> None:
    def tree(source: str) -> tuple[str, ...]:
        program = read_program(source)
        assert program is not None
        return program.tree

    renamed = (
        'import os\ndef g(y: int = 3) -> int:\n    """Text."""\n    z: int = y % 2  # why\n'
        "    return sum([z])\nprint(g(1))\n"
    )
    plain = "def f(x=3):\n    a = x % 2\n    return sum([a])\n"
    assert tree(renamed) == tree(plain)
    assert tree(plain) != tree(plain.replace("% 2", "% 3"))
    assert tree(plain) != tree(plain.replace("sum", "max"))
    assert tree("def f(x, y):\n    return x\n") != tree("def f(x, y):\n    return y\n")


def test_the_released_direct_answer_stands_for_a_reference() -> None:
    task = replace(make("t", ""), header="def f(x):\n", meta={"direct": "\r\n    return x\r\n"})
    program = program_of(task)
    assert program is not None
    assert program == read_program("def g(y):\n    return y\n")
    assert program_of(replace(task, meta={})) is None


def test_nothing_overlaps_nothing() -> None:
    assert matched(make("t", ""), [make("u", "")]) == []
    assert matched(make("t", "Anything."), []) == []
    assert overlap_report([], {"b": []})["benchmarks"]["b"]["pairs"] == 0


# -- the report -------------------------------------------------------------------------------


def test_the_report_counts_tasks_pairs_and_measures() -> None:
    twins = [replace(BENCHMARK[n], task_id=f"twin-{n}-{m}") for n in (0, 2) for m in range(3)]
    other = make("other", "Draw a circle on the screen.")
    report = overlap_report(iter([other, *twins]), {"b": BENCHMARK, "none": []}, keep=4)
    found = report["benchmarks"]["b"]
    assert json.loads(json.dumps(report)) == report
    assert report["train_tasks"] == 7
    assert (found["tasks"], found["flagged"], found["pairs"]) == (3, 6, 6)
    assert found["touched"] == ["even", "prime"]
    assert sum(found["by_measure"].values()) == found["pairs"]
    assert [m["train_id"] for m in found["matches"]] == [t.task_id for t in twins[:4]]
    assert clean_ids(report, {"b": BENCHMARK, "none": []}) == {"b": ["long"], "none": []}


# -- real data --------------------------------------------------------------------------------


def test_the_release_holds_near_twins_of_mbpp(data: Path) -> None:
    mbpp = str(data / "mbpp" / "mbpp.jsonl")
    tests = list(task_sources.load("mbpp", path=mbpp, split="test"))
    release = task_sources.load("persdistill", path=str(data / "persdistill"))
    report = overlap_report(release, {"mbpp": tests})
    found = report["benchmarks"]["mbpp"]
    pairs = {(m["train_id"], m["task_id"]) for m in found["matches"]}
    # the same task by eye, and not the same though much is
    assert {("447", "226"), ("12090", "262"), ("10606", "247"), ("6974", "24")} <= pairs
    assert not pairs & {("9422", "380"), ("3550", "203"), ("10057", "13"), ("13128", "325")}
    assert 15 <= len(found["touched"]) <= 40
    again = overlap_report(tests, {"mbpp": tests})["benchmarks"]["mbpp"]
    assert len(again["touched"]) == len(tests)
