"""Tests that tell right from wrong are let through; those that do not are named."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest

from persd.config import GenerateTable
from persd.pool.drafts import Draft, Rejection
from persd.pool.oracle import answered
from persd.pool.strength import Weak, same_answer, tried
from persd.records import Task, Test
from persd.sandbox import Sandbox
from persd.tasks import load
from persd.tasks.mutants import mutants, stubs, with_body
from persd.verify import Job, verify

RULES = GenerateTable(count=1)


@pytest.fixture(scope="module")
def box() -> Iterator[Sandbox]:
    with Sandbox() as box:
        yield box


def a_task(body: str, expected: dict[str, str], above: str = "", **more: Any) -> Task:
    header = "def f(x):\n"
    reference = above + header + "".join(f"    {line}\n" for line in body.splitlines())
    tests = tuple(Test(f"f({x})", value) for x, value in expected.items())
    return Task("t", "Do it.", header, "f", tests=tests, reference=reference, **more)


def ask(
    box: Sandbox, items: Sequence[Task | Rejection], rules: GenerateTable = RULES
) -> list[Task | Weak | Rejection]:
    found = list(tried(box, enumerate(items), rules))
    assert [number for number, _ in found] == list(range(len(items)))
    return [result for _, result in found]


def state(found: Task | Weak | Rejection) -> str:
    return found.state if isinstance(found, Rejection) else type(found).__name__


SUM = {"[1, 2]": "3", "[3]": "3", "[]": "0", "[5, -5, 7]": "7"}
LOOP = "n = 0\nfor v in x:\n    n += v\nreturn n"
FAR = "if x > 99:\n    x = x * 5\n    x -= 3\n    x += 1\n    return x\nreturn x * 2"


def test_strong_tests_pass_and_each_weakness_has_its_name(box: Sandbox) -> None:
    seen = (Test("f(3)", "6"),)
    tasks: dict[str, tuple[str, Task | Rejection]] = {
        "strong": ("Task", a_task(LOOP, SUM)),
        "no mutants": ("Task", a_task("return x", {"1": "1"}, seen_tests=())),
        "identity": ("stub_passes", a_task("return abs(x)", {"1": "1", "2": "2", "0": "0"})),
        "nothing": ("stub_passes", a_task("return x.get(1)", {"{}": "None"})),
        "constant": ("constant", a_task("return x * 0", {"1": "0", "2": "0"})),
        "constant, hidden": ("Weak", a_task("return x > 5", {"1": "False", "2": "False"},
                                            seen_tests=(Test("f(9)", "True"),))),
        "far from the branch": ("Weak", a_task(FAR, {"1": "2", "4": "8"}, seen_tests=seen)),
        "wrong": ("reference_fails", a_task(LOOP, {**SUM, "[1]": "2"})),
        "wrong where it is seen": ("reference_fails", a_task(LOOP, SUM,
                                                             seen_tests=(Test("f([])", "1"),))),
        "too slow": ("too_slow", a_task("while x:\n    pass\nreturn x", {"0": "0", "1": "2"})),
        "rejected before": ("language", Rejection("language", "French")),
        "cannot share a process": ("Task", a_task("return '{}-{}'.format(x, len(x))",
                                                  {"'ab'": "'ab-2'", "''": "'-0'"})),
        "prints": ("Task", replace(a_task("print(x + 1)", {}), tests=(
            Test("f(1)", "2", "loose"), Test("f(2)", "3", "loose")))),
    }  # fmt: skip
    tasks["no mutants"] = ("stub_passes", tasks["no mutants"][1])
    found = ask(box, [task for _, task in tasks.values()])
    assert dict(zip(tasks, map(state, found), strict=True)) == {n: s for n, (s, _) in tasks.items()}
    assert found[0] is tasks["strong"][1]
    for (name, (_, task)), result in zip(tasks.items(), found, strict=True):
        if isinstance(result, Weak):
            assert isinstance(task, Task)
            assert (result.task, bool(result.detail)) == (task, True), name
            (verdict,) = verify(box, [Job("survivor", task, result.survivor)])
            assert verdict.passed, name


def test_mutants_that_never_end_are_killed_soon(box: Sandbox) -> None:
    body = "n = 0\nwhile x > 0:\n    x -= 1\n    n += 2\nreturn n"
    endless = a_task(body, {"1": "2", "3": "6", "7": "14"})
    reference = endless.reference or ""
    assert any("pass" in code for code in mutants(reference))
    found = ask(box, [endless] * 3)
    assert [state(result) for result in found] == ["Task"] * 3


def test_the_rules_say_how_many_must_fail(box: Sandbox) -> None:
    weak = a_task(FAR, {"1": "2", "4": "8"}, seen_tests=(Test("f(3)", "6"),))
    for kills, mutants_, wanted in [(0.0, 6, Task), (1.0, 6, Weak), (1.0, 0, Task)]:
        rules = GenerateTable(count=1, kills=kills, mutants=mutants_)
        assert isinstance(ask(box, [weak], rules)[0], wanted)


def test_hostile_references_end_in_a_state_and_harm_no_other(box: Sandbox) -> None:
    bodies = ["import os\nos._exit(0)", "return x.append(x) or [0] * 10 ** 10",
              "import os\nwhile True:\n    os.fork()", "print('x' * 10 ** 8)\nreturn sum(x)",
              "import sys\nsys.setrecursionlimit(10 ** 9)\nreturn f(x)"]  # fmt: skip
    sound = a_task(LOOP, SUM)
    items = [task for body in bodies for task in (a_task(body, SUM), sound)]
    found = ask(box, items)
    assert all(result is sound for result in found[1::2])
    assert [state(r) for r in found[:6:2]] == ["reference_fails"] * 3
    assert all(isinstance(r, (Rejection, Weak, Task)) for r in found)


def test_sound_lab_tasks_are_strong(box: Sandbox) -> None:
    tasks = list(load("lab", limit=60))
    found = ask(box, tasks)
    assert sum(result is task for result, task in zip(found, tasks, strict=True)) >= 59


def test_it_goes_on_from_the_oracle_in_the_same_sandbox(box: Sandbox) -> None:
    task = a_task(LOOP, {})
    drafts = [Draft(task, tuple(f"f([{n}, {i}])" for i in range(6))) for n in range(40)]
    with Sandbox(workers=1, seed=1) as elsewhere:
        items = answered(box, elsewhere, enumerate(drafts), RULES)
        found = list(tried(box, items, RULES))
    assert [number for number, _ in found] == list(range(40))
    assert all(isinstance(result, Task) for _, result in found)


def test_the_same_answer_wants_different_calls() -> None:
    one, other = Test("f(1)", "0"), Test("f(2)", "0")
    assert same_answer((one, other)) == "0"
    assert same_answer((one, one)) == ""
    assert same_answer((one, Test("f(2)", "1"))) == ""
    assert same_answer(()) == ""


def test_stubs_stand_under_the_header() -> None:
    task = a_task("return x", {"1": "1"})
    assert dict(stubs(task)) == {
        "returns None": "def f(x):\n    pass\n",
        "returns its first argument": "def f(x):\n    return x\n",
    }
    assert list(stubs(replace(task, header="def f(:\n"))) == []
    assert with_body(task, "return ][") == ""


CHANGED = {
    "if x > 1:\n    return 1\nreturn 2": {
        "if not x > 1:", "if x <= 1:", "if x > 2:", "return None", "return 3"},
    "return sorted(x.strip())": {"return x.strip()", "return sorted(x)"},
    "raise ValueError('no ' + x)": set(),
    '"""Says 1 + 1."""\nreturn x': set(),
    "return math.floor(x)": set(),
    "return list(x)": set(),
}  # fmt: skip


@pytest.mark.parametrize("body", CHANGED)
def test_what_a_call_would_show_is_changed(body: str) -> None:
    task = a_task(body, {}, above="import math\n")
    lines = (task.reference or "").splitlines()
    new = {line for code in mutants(task.reference or "", 99) for line in code.splitlines()}
    assert CHANGED[body] <= {line.strip() for line in new}
    if not CHANGED[body]:
        assert new == set()
    assert all(code != "\n".join(lines) for code in mutants(task.reference or "", 99))


def test_mutants_are_few_different_and_always_the_same() -> None:
    reference = a_task(LOOP + " if n != 3 else 'three'", {}).reference or ""
    found = list(mutants(reference, 3))
    assert len(set(found)) == len(found) == 3
    assert found == list(mutants(reference, 3))
    assert list(mutants(reference, 0)) == []
    assert list(mutants("def f(")) == list(mutants("f(" * 5000)) == list(mutants("\0")) == []


@pytest.mark.parametrize("use", ["print(n)", "warnings.warn('low')", "logger.info('%s', n)"])
def test_what_is_said_beside_a_value_is_left_as_it_is(use: str) -> None:
    above = "import logging, warnings\nlogger = logging.getLogger()\n"
    reference = f"{above}def f(n):\n    if n:\n        {use}\n    n += 1\n    return n\n"
    found = list(mutants(reference, 99))
    assert found
    assert all(ast.unparse(ast.parse(use)) in code for code in found)


def test_what_is_printed_in_place_of_a_value_is_changed() -> None:
    reference = "def f(n):\n    def g():\n        return 1\n    print(n)\n    return\n"
    assert any("print(n)" not in code for code in mutants(reference, 99))


def test_only_what_the_entry_point_may_call_is_changed() -> None:
    parts = {
        "add": "def add(a, b):\n    c = a + 1\n    return c\n",
        "f": "def f(n):\n    m = add(n, 2) + SIZE\n    return m\n",
        "size": "def size():\n    s = 3\n    return s\n",
        "SIZE": "SIZE = size()\n",
        "main": "def main():\n    x = f(7)\n    return x\n",
        "test_f": "def test_f():\n    y = f(8)\n    return y\n",
        "guard": "if __name__ == '__main__':\n    main()\n",
    }
    found = list(mutants("".join(parts.values()), 99, "f"))
    changed = {name for name, part in parts.items() for code in found
               if ast.unparse(ast.parse(part)) not in code}  # fmt: skip
    assert changed == {"add", "f", "size"}
    assert len(list(mutants("".join(parts.values()), 99))) > len(found)
