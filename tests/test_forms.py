"""Whether a proposal has the form of a task, and what it is refused for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from persd.config import GenerateTable
from persd.domains.align import read_header
from persd.domains.authoring import proposal_of
from persd.domains.names import undefined_names
from persd.pool.drafts import Draft, Rejection
from persd.pool.forms import drafted, language_fault
from persd.records import Proposal, Task
from persd.tasks import load

WORDS = "Return the sum of a and b, which are whole numbers."
CODE = "def add(a, b=0):\n    return a + b\n"
CALLS = ("add(1, 2)", "add(3)", "add(-1, 1)")
RULES = GenerateTable(count=1, calls=3, seen=1, least_tests=2)


def _read(
    code: str = CODE,
    calls: tuple[str, ...] = CALLS,
    words: str = WORDS,
    name: str = "",
    rules: GenerateTable = RULES,
) -> Draft | Rejection:
    return drafted(Proposal(words, code, calls, name), "t", rules)


def _draft(*args: Any, **named: Any) -> Draft:
    found = _read(*args, **named)
    assert isinstance(found, Draft), found
    return found


def _refused(*args: Any, **named: Any) -> Rejection:
    found = _read(*args, **named)
    assert isinstance(found, Rejection), found
    return found


def _with(**changed: Any) -> GenerateTable:
    return GenerateTable(**{"count": 1, "calls": 3, "seen": 1, "least_tests": 2, **changed})


def test_a_proposal_in_form_is_a_task_without_tests() -> None:
    assert _draft() == Draft(Task("t", WORDS, "def add(a, b=0):\n", "add", reference=CODE), CALLS)


# ---- the entry point and its header ----------------------------------------------------------

HELPED = f"def _plus(a, b):\n    return a + b\n\n\n{CODE}\n\ndef shown(x):\n    return x\n"


def test_the_entry_point_is_the_one_the_reply_names() -> None:
    calls = ("add(1)", "shown(1)", "shown(2)", "shown(3)")
    assert _draft(HELPED, calls, name="shown").calls == calls[1:]


def test_else_it_is_the_one_that_is_called() -> None:
    assert _draft(HELPED, CALLS).task.entry_point == "add"
    assert _draft(HELPED, CALLS, name="gone").task.entry_point == "add"


def test_else_it_is_the_last_one_that_is_no_helper() -> None:
    found = _refused(f"{HELPED}\n\ndef _more(x):\n    return x\n", ("1", "2", "[x.add(3)]"))
    assert found.state == "bad_calls"
    assert _draft(HELPED, name="shown", calls=("shown(1)", "shown(2)", "shown(3)"))


def test_calls_of_what_is_not_defined_find_no_function() -> None:
    found = _refused(HELPED, ("other(1)",) * 3, name="other")
    assert found.state == "no_function"
    assert found.detail == "the calls call other, it defines _plus, add, shown"


HEADERS = {
    "def f(x: int, *, y: str='a') -> str:\n    return y * x\n":
        "def f(x: int, *, y: str='a') -> str:\n",
    "def f(x):  # why\n    '''Words.'''\n    return x\n":
        "def f(x):\n",
    "def f(\n    x,\n    y=(1,\n       2),\n):\n    return x\n":
        "def f(x, y=(1, 2)):\n",
    "def f(x): return x\n":
        "def f(x):\n",
    "from typing import Any\nimport re\n\ndef f(x: Any) -> Any:\n    return re.split('a', x)\n":
        "from typing import Any\n\n\ndef f(x: Any) -> Any:\n",
    "import math\nINF = math.inf\n\ndef f(x, y=INF):\n    return x\n":
        "import math\nINF = math.inf\n\n\ndef f(x, y=INF):\n",
    "class Node:\n    pass\n\ndef f(x: Node, y: 'Node' = None) -> Node:\n    return x\n":
        "def f(x, y=None):\n",
    "from functools import lru_cache\n\n@lru_cache(maxsize=None)\ndef f(x):\n    return x\n":
        "def f(x):\n",
    "def f(x):\n    return 1\n\ndef f(x, y=2):\n    return 2\n":
        "def f(x, y=2):\n",
}  # fmt: skip


@pytest.mark.parametrize("code", HEADERS)
def test_the_header_is_the_def_line_with_what_its_signature_needs(code: str) -> None:
    task = _draft(code, ("f(1)", "f(2)", "f(3)")).task
    assert task.header == HEADERS[code]
    assert task.reference == code
    assert read_header(task).function.name == "f"
    assert undefined_names(f"{task.header}    pass") == ()


@pytest.mark.parametrize(
    ("code", "why"),
    [
        ("x = 1\n", "defines no function at its top level"),
        ("f = lambda x: x\n", "no function at its top level"),
        ("f = lambda x: x\n\ndef g(y):\n    return f(y)\n", "f is a lambda"),
        ("class f:\n    def g(x):\n        return x\n\ndef h(x):\n    return x\n", "f is a class"),
        ("from m import f\n\ndef g(y):\n    return f(y)\n", "f is imported"),
        ("if True:\n    def f(x):\n        return x\n", "no function at its top level"),
        ("async def f(x):\n    return x\n", "async"),
        ("def f(x):\n    yield x\n", "generator"),
        ("def d(g):\n    return g\n\n@d\ndef f(x):\n    return x\n", "decorated with d"),
        ("def f(x):\n    return x\n\nf = max\n", "bound again in line 4"),
        ("def f(*xs):\n    return xs\n", "names no parameter"),
        ("def f():\n    return 1\n", "names no parameter"),
        ("def g():\n    return 1\n\ndef f(x=g()):\n    return x\n", "its signature needs g"),
    ],
)
def test_what_cannot_be_a_task_is_no_function(code: str, why: str) -> None:
    found = _refused(code, ("f(1)", "f(2)", "f(3)"))
    assert found.state == "no_function"
    assert why in found.detail


def test_a_generator_within_the_function_is_none_of_its_own() -> None:
    code = "def f(x):\n    def g():\n        yield x\n    return list(g())\n"
    assert _draft(code, ("f(1)", "f(2)", "f(3)")).task.entry_point == "f"


def test_lines_that_only_show_the_program_in_use_are_left_out() -> None:
    used = f"{CODE}\nprint(add(1))\nadd(2)\nassert add(1, 2) == 3\n\nif __name__ == '__main__':\n"
    assert _draft(f"{used}    print(add(9))\n").task.reference == CODE


@pytest.mark.parametrize(
    "code",
    ["def f(x:\n", "return 1\n", "\0", "\ud800 = 1", "f(" * 500, "x = " + "-" * 200_000 + "1"],
)
def test_what_does_not_compile_is_syntax(code: str) -> None:
    found = _refused(code)
    assert (found.state, bool(found.detail)) == ("syntax", True)


# ---- size and language -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "bounds"), [("Add them.", (3, 9)), ("add the two " * 4, (3, 9)), ("", (1, 9))]
)
def test_an_instruction_of_too_few_or_many_words(words: str, bounds: tuple[int, int]) -> None:
    found = _refused(words=words, rules=_with(words=bounds))
    assert found.state == "instruction_size"
    assert str(len(words.split())) in found.detail


def test_blank_lines_docstring_and_signature_are_no_lines_of_the_reference() -> None:
    code = (
        'def add(\n    a,\n    b=0,\n):\n    """Sum.\n\n    Of two.\n    """\n\n    return a + b\n'
    )
    assert _draft(code, rules=_with(lines=(1, 1)))
    found = _refused(code, rules=_with(lines=(2, 80)))
    assert (found.state, found.detail[:7]) == ("reference_size", "1 lines")


@pytest.mark.parametrize(
    "words",
    [
        "Schreiben Sie eine Funktion, die die Summe zweier ganzer Zahlen berechnet.",
        "Escribe una función que devuelva la suma de dos números enteros positivos.",
        "Écrivez une fonction qui renvoie la somme de deux nombres entiers donnés.",
        "Напишите функцию, которая возвращает сумму двух чисел.",
        "编写一个函数 返回 两个 整数 的和 并且 处理 空列表",
        "def add(a, b): return a + b\nassert add(1, 2) == 3",
        "add(a, b) a + b x y z w foo bar baz",
        "```python\ndef add(a, b):\n    return the_sum_of_both_and_that_is_it\n```",
        "lorem ipsum dolor sit amet consectetur adipiscing elit sed do eiusmod",
        "12 34 56 78 90 12 34",
        "def f(xs):\n    for x in xs:\n        if x not in xs and x is not 3:\n            return",
        "result = [x for x in numbers if x not in (1, 2) and x is not None or x in numbers]",
    ],
)
def test_what_is_no_english_prose_is_refused(words: str) -> None:
    assert _refused(words=words).state == "language"
    assert _draft(words=words, rules=_with(language=False))


@pytest.mark.parametrize(
    "words",
    [
        "Sum a list.",
        "Write a function to sort the given list.",
        "Create an algorithm to detect duplicate elements in an array.",
        "Reverse an array in place.",
        "Given naïve café menus (a dict), return the price in € of each.",
        "Correct this:\n```python\ndef f(x):\n    return y\n```\nIt must return twice the number.",
    ],
)
def test_english_prose_is_taken(words: str) -> None:
    assert not language_fault(words)


# ---- calls -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "why"),
    [
        ("add(x)", "no plain data"),
        ("add([i for i in range(3)])", "no plain data"),
        ("add(lambda: 1)", "no plain data"),
        ("add(open('f'))", "no plain data"),
        ("add(nan)", "nan is a name"),
        ("add(f'{1}')", "no plain data"),
        ("add({[1]})", "no plain data"),
        ("add(*[1, 2])", "stand for arguments"),
        ("add(**{'a': 1})", "stand for arguments"),
        ("add(" + "[" * 160 + "]" * 160 + ")", "no plain data"),
        ("sub(1, 2)", "not a call of add"),
        ("add(1) == 2", "not a call"),
        ("add(", "not an expression"),
        ("add()", "a is not given"),
        ("add(1, 2, 3)", "3 arguments, 2 can be given"),
        ("add(1, c=2)", "c is given twice, or is no parameter"),
        ("add(1, a=2)", "a is given twice"),
        ("add(3, b=0.0 + 0)", "no plain data"),
        ("add(a=3)", "the arguments of add(3)"),
        ("add( 3 )", "the arguments of add(3)"),
    ],
)
def test_a_call_that_cannot_be_made_is_dropped_and_named(call: str, why: str) -> None:
    assert _draft(calls=(*CALLS, call)).calls == CALLS
    found = _refused(calls=(CALLS[1], call))
    assert found.state == "bad_calls"
    assert why in found.detail


@pytest.mark.parametrize(
    "value",
    ["{1, 2}", "(1,)", "b'a'", "1.5", "-2", "{'a': [None, True]}", "set()", "float('nan')", "1+2j",
     "frozenset({1})", "'\\ud800'", "'''a\nb'''"],
)  # fmt: skip
def test_plain_data_of_every_kind_arrives(value: str) -> None:
    calls = (f"add({value})", f"add([{value}])", f"add(1, b={value})")
    assert _draft(calls=calls).calls == calls


def test_one_is_not_true_and_not_one_point_zero() -> None:
    assert len(_draft(calls=("add(1)", "add(True)", "add(1.0)")).calls) == 3


@settings(max_examples=150, deadline=None)
@given(
    st.text(max_size=40),
    st.text(max_size=60) | st.sampled_from([CODE, HELPED, *HEADERS]),
    st.lists(st.text(max_size=20) | st.sampled_from([*CALLS, "f(1)"]), max_size=5),
    st.sampled_from(["", "add", "f", "\ud800", "("]),
)
def test_no_proposal_makes_it_fail(words: str, code: str, calls: list[str], name: str) -> None:
    found = _read(code, tuple(calls), words, name)
    assert isinstance(found, (Draft, Rejection))


# ---- benchmarks ------------------------------------------------------------------------------


def test_tasks_of_benchmarks_are_in_form(data: Path) -> None:
    """Only those that are called with objects, or have no docstring of their own, are missed."""
    rules = _with(seen=0, least_tests=1)
    tasks = list(load("mbpp", path=str(data / "mbpp" / "mbpp.jsonl")))
    tasks += load("humaneval", path=str(data / "humaneval" / "HumanEval.jsonl.gz"))
    refused = {}
    for task in tasks:
        found = drafted(proposal_of(task), task.task_id, rules)
        if isinstance(found, Rejection):
            refused[task.task_id] = found.state
        else:
            assert found.task.entry_point == task.entry_point
    assert {i for i, state in refused.items() if state != "bad_calls"} == {"HumanEval/115"}
    assert refused.keys() == {
        *("601", "927"),
        *(f"HumanEval/{i}" for i in (32, 38, 50, 115, 129)),
    }
