"""HumanEval+ and MBPP+ from both kinds of file: the release's inputs, the Hub's test column."""

from __future__ import annotations

import ast
import gzip
import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from persd.errors import UserError
from persd.pool.check import check
from persd.records import Task, Test
from persd.sample_rows import Benchmark
from persd.sandbox import Sandbox
from persd.sandbox.compare import literal, read_expected
from persd.tasks import Split, load, normal_id, read
from persd.tasks.evalplus import literal_text, tolerance_of
from persd.tasks.rows import Fault, call_keys
from persd.tasks.seen import shared_calls
from persd.verify import Job, verify


@pytest.fixture(scope="module")
def box() -> Iterator[Sandbox]:
    with Sandbox(workers=1) as opened:
        yield opened


def write(path: Path, *rows: Any) -> str:
    path.write_text("".join(f"{r if isinstance(r, str) else json.dumps(r)}\n" for r in rows))
    return str(path)


def human(number: int, name: str, header: str, body: str, **more: Any) -> dict[str, Any]:
    """A row of HumanEvalPlus.jsonl."""
    return {
        "task_id": f"HumanEval/{number}",
        "prompt": header,
        "entry_point": name,
        "canonical_solution": body,
        "contract": "\n    assert True # $_CONTRACT_$\n",
        "atol": 0,
        **more,
    }


TRUNCATE = human(
    2,
    "truncate_number",
    'def truncate_number(number: float) -> float:\n    """ Give the decimal part.\n'
    '    >>> truncate_number(3.5)\n    0.5\n    """\n',
    "\n\n    return number - int(number)\n\n",
    base_input=[[3.5], [1.33]],
    plus_input=[[0.0], [1000000.25], [3.5]],
    atol=1e-06,
)
ZERO = human(
    32,
    "find_zero",
    "import math\n\n\ndef find_zero(xs: list):\n"
    '    """ xs are coefficients of a polynomial; find x such that it is zero. """\n',
    "\n\n    return -xs[0] / xs[1]\n\n",
    base_input=[[[1, 2]], [[-6, 3]]],
    plus_input=[[[4, -2]]],
    atol=0.0001,
)


def mbpp(number: int, code: str, *claims: str, **more: Any) -> dict[str, Any]:
    """A row of MbppPlus.jsonl: the prompt shows the first assert, ``assertion`` all of them."""
    name = ast.parse(code.strip()).body[-1].name  # type: ignore[attr-defined]
    lines = [f"assert {claim}" for claim in claims]
    return {
        "task_id": f"Mbpp/{number}",
        "prompt": f'"""\nWrite a function for {name}.\n{lines[0]}\n"""\n',
        "entry_point": name,
        "canonical_solution": f"\n{code}",
        "contract": "\n  assert True # $_CONTRACT_$\n",
        "assertion": "\n" + "\n".join(lines),
        "atol": 0,
        **more,
    }


SIMILAR = mbpp(
    2,
    "def similar_elements(a, b):\n  return tuple(set(a) & set(b))\n",
    "set(similar_elements((3, 4, 5, 6),(5, 7, 4, 10))) == set((4, 5))",
    "set(similar_elements((1, 2, 3, 4),(5, 4, 3, 7))) == set((3, 4))",
    base_input=[[[3, 4, 5, 6], [5, 7, 4, 10]], [[1, 2, 3, 4], [5, 4, 3, 7]]],
    plus_input=[[[], []], [[1, 2], [2, 1]]],
)
ADD_LISTS = mbpp(
    106,
    "def add_lists(test_list, test_tup):\n  return test_tup + tuple(test_list)\n",
    "add_lists([5, 6, 7], (9, 10)) == (9, 10, 5, 6, 7)",
    "add_lists([6, 7, 8], (10, 11)) == (10, 11, 6, 7, 8)",
    base_input=[[[5, 6, 7], [9, 10]], [[6, 7, 8], [10, 11]]],
    plus_input=[[[], []], [["a"], [None]]],
)


def hub_test(inputs: str, results: str | None, claim: str = "assertion(f(*inp), exp, 0)") -> str:
    """A ``test`` column as EvalPlus writes it."""
    known = f"results = {results}\n" if results is not None else ""
    loop = "zip(inputs, results)" if results is not None else "inputs"
    return (
        "import numpy as np\nfrom math import inf\n\n"
        "def is_floats(x) -> bool:\n    return isinstance(x, float)\n\n\n"
        "def assertion(out, exp, atol):\n"
        "    if atol == 0 and is_floats(exp):\n        atol = 1e-6\n"
        "    if out != exp and atol != 0:\n"
        "        assert np.allclose(out, exp, rtol=1e-07, atol=atol)\n"
        "    else:\n        assert out == exp, f'out: {out}, exp: {exp}'\n\n"
        f"inputs = {inputs}\n{known}for i, (inp, exp) in enumerate({loop}):\n    {claim}\n"
    )


HUB_MBPP = {
    "task_id": 106,
    "code": ADD_LISTS["canonical_solution"],
    "prompt": "Write a function for add_lists.",
    "source_file": "Benchmark Questions Verification V2.ipynb",
    "test_imports": [],
    "test_list": [
        "assert add_lists([5, 6, 7], (9, 10)) == (9, 10, 5, 6, 7)",
        "assert add_lists([6, 7, 8], (10, 11)) == (10, 11, 6, 7, 8)",
    ],
    "test": hub_test(
        "[[[5, 6, 7], (9, 10)], [[6, 7, 8], (10, 11)], [[], ()], [['a'], (None,)]]",
        "[(9, 10, 5, 6, 7), (10, 11, 6, 7, 8), (), (None, 'a')]",
    ),
}
HUB_TRUNCATE = {
    **{k: TRUNCATE[k] for k in ("task_id", "prompt", "canonical_solution", "entry_point")},
    "test": "def check(candidate):\n    inputs = [[3.5], [1.33], [0.0], [1000000.25], [3.5]]\n"
    "    results = [0.5, 0.33000000000000007, 0.0, 0.25, 0.5]\n"
    "    for i, (inp, exp) in enumerate(zip(inputs, results)):\n"
    "        assertion(candidate(*inp), exp, 1e-06)\n",
}


def one(tmp_path: Path, row: Any, source: str = "mbpp+", split: Split = "all") -> Task:
    (task,) = load(source, path=write(tmp_path / "plus.jsonl", row), split=split)
    return task


def passes(box: Sandbox, task: Task, code: str) -> bool:
    (verdict,) = verify(box, [Job("x", task, code)])
    assert verdict.status != "not_run", verdict.reason
    return verdict.passed


# ---- HumanEval+ ------------------------------------------------------------------------------


@pytest.mark.parametrize("row", [TRUNCATE, HUB_TRUNCATE], ids=["release", "hub"])
def test_a_humaneval_plus_task(tmp_path: Path, box: Sandbox, row: dict[str, Any]) -> None:
    task = one(tmp_path, row, "humaneval+")
    assert (task.task_id, task.entry_point, task.instruction) == (
        "HumanEval/2", "truncate_number", "",
    )  # fmt: skip
    assert task.seen_tests == (Test("truncate_number(3.5)", "0.5", "equal"),)
    assert [(t.call, t.expected) for t in task.tests] == [
        ("truncate_number(3.5)", "0.5"),
        ("truncate_number(1.33)", "0.33000000000000007"),
        ("truncate_number(0.0)", "0.0"),
        ("truncate_number(1000000.25)", "0.25"),
    ]
    assert all(t.tolerance and t.compare == "equal" for t in task.tests)
    assert passes(box, task, task.reference or "")
    assert passes(box, task, "def truncate_number(n):\n    return n % 1 + 5e-7\n")
    assert not passes(box, task, "def truncate_number(n):\n    return n % 1 + 5e-6\n")


def test_a_zero_is_whatever_makes_the_polynomial_small(tmp_path: Path, box: Sandbox) -> None:
    hub = {k: ZERO[k] for k in ("task_id", "prompt", "canonical_solution", "entry_point")} | {
        "test": "import math\n\ndef _poly(xs: list, x: float):\n    return sum(xs)\n\n"
        "def check(candidate):\n    inputs = [[[1, 2]], [[-6, 3]], [[4, -2]]]\n"
        "    results = [-0.5, 2.0, 2.0]\n"
        "    for i, (inp, exp) in enumerate(zip(inputs, results)):\n"
        "        assert _poly(*candidate(*inp), inp) <= 0.0001\n"
    }
    for row in (ZERO, hub):
        task = one(tmp_path, row, "humaneval+")
        assert task.tests == ()
        assert "<= 0.0001" in (task.test_code or "")
        for off, right in ((0, True), (1e-5, True), (1e-3, False)):
            code = f"def find_zero(xs):\n    return -xs[0] / xs[1] + {off}\n"
            assert passes(box, task, code) is right


def test_a_tolerance_accepts_what_evalplus_accepts() -> None:
    assert tolerance_of(3, 0) is None
    assert tolerance_of([1, 2.0], 0) is None
    for expected in (0.0, 0.5, 7.25, -1e9):
        for atol in (0.0, 1e-6, 1e-4):
            told = tolerance_of(expected, atol) or 0.0
            theirs = (atol or 1e-6) + 1e-7 * abs(expected)
            for off, right in ((0.99, True), (1.01, False)):
                given = expected + off * theirs
                assert math.isclose(given, expected, rel_tol=told, abs_tol=told) is right
    mixed = tolerance_of([0.0, 1e6], 0) or 0.0
    assert mixed >= 1e-6


@pytest.mark.parametrize(
    "value",
    [
        math.inf, [-math.inf, (1,)], {"a": {1, 2}, (2,): None}, set(), frozenset({3}), 1 + 2j,
        "it's\n\\x", [], (), 10**5000, [-(10**5000)], {"inf": [True]}, frozenset(), b"\x00",
    ],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_source_of_plain_data_reads_back(value: Any) -> None:
    text = literal_text(value)
    assert read_expected(text).value == value
    assert eval(text, {}) == value  # noqa: S307 -- as a program evaluates a call's arguments


# ---- MBPP+ -----------------------------------------------------------------------------------


@pytest.mark.parametrize("row", [ADD_LISTS, HUB_MBPP], ids=["release", "hub"])
def test_an_mbpp_plus_task(tmp_path: Path, box: Sandbox, row: dict[str, Any]) -> None:
    task = one(tmp_path, row, split="test")
    assert (task.task_id, task.entry_point) == ("106", "add_lists")
    assert task.header == "def add_lists(test_list, test_tup):\n"
    lines = task.instruction.splitlines()
    assert lines[0] == "Write a function for add_lists."
    assert len(lines) == 2
    assert lines[1].startswith("assert add_lists([5, 6, 7], (9, 10)) ==")
    assert task.seen_tests == (Test("add_lists([5, 6, 7], (9, 10))", "(9, 10, 5, 6, 7)", "equal"),)
    assert [(t.call, t.expected) for t in task.tests] == [
        ("add_lists([6, 7, 8], (10, 11))", "(10, 11, 6, 7, 8)"),
        ("add_lists([], ())", "()"),
        ("add_lists(['a'], (None,))", "(None, 'a')"),
    ]
    assert shared_calls(task) == []
    assert passes(box, task, task.reference or "")
    assert not passes(box, task, "def add_lists(a, b):\n    return (9, 10, 5, 6, 7)\n")
    every = one(tmp_path, row)
    assert (len(every.tests), every.seen_tests) == (4, ())
    assert "assert" not in every.instruction
    path = write(tmp_path / "plus.jsonl", row)
    assert list(load("mbpp+", path=path, split="train")) == []


def test_sets_are_compared_as_sets(tmp_path: Path, box: Sandbox) -> None:
    task = one(tmp_path, SIMILAR)
    assert task.tests[0].call == "set(similar_elements((3, 4, 5, 6), (5, 7, 4, 10)))"
    assert task.tests[2].expected == "set()"
    assert passes(
        box, task, "def similar_elements(a, b):\n    return [x for x in b if x in a] * 2\n"
    )
    assert not passes(box, task, "def similar_elements(a, b):\n    return a\n")


def test_what_is_found_need_not_be_plain_data(tmp_path: Path, box: Sandbox) -> None:
    code = 'import re\ndef check_str(string):\n  return re.search("^[aeiou]", string)\n'
    row = mbpp(
        737, code, 'check_str("annie")', 'not check_str("dawood")',
        base_input=[["annie"], ["dawood"]], plus_input=[[""]],
    )  # fmt: skip
    task = one(tmp_path, row, split="train")
    assert task.seen_tests == (Test("not not check_str('annie')", "True"),)
    assert [(t.call, t.expected) for t in task.tests] == [
        ("not not check_str('dawood')", "False"),
        ("not not check_str('')", "False"),
    ]
    assert passes(box, task, "def check_str(s):\n    return s[:1] in list('aeiou')\n")


ODD = [
    (
        mbpp(164, "def are_equivalent(a, b):\n  return a == b\n", "are_equivalent(1, 2) == False",
             base_input=[[1, 2]], plus_input=[[3, 3]]),
        "def are_equivalent(a, b):\n    return 'anything'\n",
        "def are_equivalent(a, b):\n    raise ValueError\n",
    ),
    (
        mbpp(295, "def sum_div(n):\n  return sum(i for i in range(1, n) if n % i == 0)\n",
             "sum_div(8) == 7", base_input=[[8]], plus_input=[[12]]),
        "def sum_div(n):\n    return 0\n",
        "def sum_div(n):\n    return 1\n",
    ),
    (
        mbpp(581, "def surface_Area(b, s):\n  return 2 * b * s + b * b\n",
             "surface_Area(3, 4) == 33", base_input=[[3, 4]], plus_input=[[1, 2]]),
        "def surface_Area(b, h):\n"
        "    return round(b * b + 2 * b * ((b / 2) ** 2 + h ** 2) ** 0.5)\n",
        "def surface_Area(b, s):\n    return b * s + b * b\n",
    ),
    (
        mbpp(558, "def digit_distance_nums(a, b):\n"
             "  return sum(abs(int(x) - int(y)) for x, y in zip(str(a), str(b)))\n",
             "digit_distance_nums(1, 2) == 1", base_input=[[1, 2]], plus_input=[[100, 1]]),
        "def digit_distance_nums(a, b):\n    a, b = str(a).zfill(3), str(b).zfill(3)\n"
        "    return sum(abs(int(x) - int(y)) for x, y in zip(a, b))\n",
        "def digit_distance_nums(a, b):\n    return abs(a - b)\n",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("row", "right", "wrong"), ODD, ids=[r["entry_point"] for r, _, _ in ODD])
def test_tasks_with_more_than_one_right_answer(
    tmp_path: Path, box: Sandbox, row: dict[str, Any], right: str, wrong: str
) -> None:
    task = one(tmp_path, row)
    assert task.tests == ()
    assert passes(box, task, task.reference or "")
    assert passes(box, task, right)
    assert not passes(box, task, wrong)
    shown = one(tmp_path, {**row, "task_id": "Mbpp/11"}, split="test")
    assert len(shown.seen_tests) == 1
    assert shared_calls(shown) == []
    assert passes(box, shown, right)


@pytest.mark.parametrize(
    ("number", "given", "taken"),
    [
        (2, [[1], [2]], ((1,), (2,))),
        (63, [[[1, 2], [3, 4]]], ([(1, 2), (3, 4)],)),
        (75, [[[1, 2]], 3], ([(1, 2)], 3)),
        (250, [[1], 2], ((1,), 2)),
        (401, [[[1], [2]], [[3]]], (((1,), (2,)), ((3,),))),
        (278, [[1, [2]]], ((1, (2,)),)),
        (307, [[1, [2]], 3, 4], ((1, [2]), 3, 4)),
        (722, [{"a": [1, 2]}, 3], ({"a": (1, 2)}, 3)),
        (580, [[1, [2, [3]]]], ((1, (2, (3,))),)),
        (115, [[[1, 2], []]], ([{1, 2}, {}],)),
        (124, ["1", "(0+1j)"], (1.0, 1j)),
        (252, ["(1+2j)"], (1 + 2j,)),
        (3, [[1, [2]]], ([1, [2]],)),
    ],
)
def test_inputs_are_what_the_functions_of_mbpp_take(
    tmp_path: Path, number: int, given: list[Any], taken: tuple[Any, ...]
) -> None:
    row = mbpp(
        number, "def f(*args):\n  return repr(args)\n", "f() == '()'",
        base_input=[given], plus_input=[],
    )  # fmt: skip
    (test,) = one(tmp_path, row).tests
    call = ast.parse(test.call).body[0].value  # type: ignore[attr-defined]
    assert tuple(map(literal, call.args)) == taken
    assert eval(read_expected(test.expected).value) == taken  # noqa: S307


def test_mbpp_ids_are_one() -> None:
    assert normal_id("mbpp+", "Mbpp/11") == normal_id("mbpp-sanitized", 11) == "11"
    assert normal_id("humaneval+", "HumanEval/3") == "HumanEval/3"


def test_samples_are_judged_by_all_tests(tmp_path: Path) -> None:
    path = tmp_path / "MbppPlus.jsonl.gz"
    path.write_bytes(gzip.compress(f"{json.dumps(ADD_LISTS)}\n".encode()))
    benchmark = Benchmark("mbpp+", path)
    assert all(name in benchmark for name in ("Mbpp/106", "106"))
    assert len(benchmark.tasks["106"].tests) == 4


# ---- what the solution does not answer ------------------------------------------------------


def test_inputs_without_an_outcome_are_left_out_and_named(tmp_path: Path, box: Sandbox) -> None:
    code = (
        "import os\ndef f(x):\n  if x == 1:\n    raise ValueError('no')\n"
        "  if x == 2:\n    os._exit(3)\n  if x == 3:\n    return object()\n  return [x]\n"
    )
    row = mbpp(11, code, "f(0) == [0]", base_input=[[0], [1], [2], [3]], plus_input=[[4]])
    task = one(tmp_path, row)
    assert [t.call for t in task.tests] == ["f(0)", "f(4)"]
    assert [(out["call"], out["reason"]) for out in task.meta["left_out"]] == [
        ("f(1)", "the solution raises ValueError: no"),
        ("f(2)", "the solution ends its process"),
        ("f(3)", "it returns <object: not plain data>"),
    ]
    found = check(box, [task])
    assert [w["reason"] for w in found["warnings"]] == ["left_out"]
    none = mbpp(11, "def f(x):\n  raise KeyError\n", "f(0) == 0", base_input=[[1]], plus_input=[])
    (fault,) = read("mbpp+", path=write(tmp_path / "plus.jsonl", none), split="all")
    assert isinstance(fault, Fault)
    assert (fault.reason, "KeyError" in fault.detail) == ("no_tests", True)
    broken = mbpp(11, "import nothing_such\ndef f(x):\n  return x\n", "f(0) == 0",
                  base_input=[[1]], plus_input=[[2]])  # fmt: skip
    (fault,) = read("mbpp+", path=write(tmp_path / "plus.jsonl", broken), split="all")
    assert isinstance(fault, Fault)
    assert "does not load: ModuleNotFoundError" in fault.detail


def test_a_test_column_without_results_is_answered_by_the_solution(tmp_path: Path) -> None:
    crossed = {**HUB_MBPP, "test": hub_test("[[[1], (2,)]]", None, "assertion(f(*inp), 1, 0)")}
    assert [t.expected for t in one(tmp_path, crossed).tests] == ["(2, 1)"]


def test_long_numbers_are_written_so_that_python_reads_them(tmp_path: Path, box: Sandbox) -> None:
    row = human(
        100, "power", "def power(n):\n", "    return [9 ** n]\n", base_input=[[2]],
        plus_input=[[9000]],
    )  # fmt: skip
    task = one(tmp_path, row, "humaneval+")
    assert read_expected(task.tests[1].expected).value == [9**9000]
    assert passes(box, task, task.reference or "")
    assert not passes(box, task, "def power(n):\n    return [9 ** n + n // 9000]\n")


# ---- bad input ------------------------------------------------------------------------------


def less(row: dict[str, Any], *keys: str) -> dict[str, Any]:
    return {k: v for k, v in row.items() if k not in keys}


FAULTS: list[tuple[str, Any, str]] = [
    ("humaneval+", ADD_LISTS, "Use mbpp+"),
    ("humaneval+", HUB_MBPP, "Use mbpp+"),
    ("mbpp+", TRUNCATE, "Use humaneval+"),
    ("mbpp", TRUNCATE, "MBPP's integer"),
    ("humaneval+", less(TRUNCATE, "plus_input"), '"plus_input"'),
    ("humaneval+", less(TRUNCATE, "base_input", "plus_input"), '"test"'),
    ("humaneval+", less(TRUNCATE, "prompt"), '"prompt"'),
    ("humaneval+", less(TRUNCATE, "entry_point"), '"entry_point"'),
    ("humaneval+", less(TRUNCATE, "canonical_solution"), '"canonical_solution"'),
    ("humaneval+", {**TRUNCATE, "base_input": [1]}, "argument lists"),
    ("humaneval+", {**TRUNCATE, "atol": "x"}, "tolerance"),
    ("humaneval+", {**HUB_TRUNCATE, "test": "def check(c):\n    assert c(1) == 1\n"},
     "Use humaneval"),
    ("humaneval+", {**HUB_TRUNCATE, "test": "inputs = [[1]]\nresults = []"}, "0 results"),
    ("humaneval+", {**HUB_TRUNCATE, "test": "inputs = [[f(1)]]\nresults = [1]"}, "read"),
    ("humaneval+", {**HUB_TRUNCATE, "test": "inputs = ["}, "read"),
    ("mbpp+", less(ADD_LISTS, "assertion"), '"assertion"'),
    ("mbpp+", less(ADD_LISTS, "task_id"), '"task_id"'),
    ("mbpp+", {**ADD_LISTS, "assertion": "assert ("}, '"assertion"'),
    ("mbpp+", {**ADD_LISTS, "base_input": [[1, 2]]}, "MBPP/106"),
    ("mbpp+", less(HUB_MBPP, "code"), '"code"'),
    ("mbpp+", "{", "broken JSON"),
]  # fmt: skip


@pytest.mark.parametrize(("source", "row", "said"), FAULTS, ids=[f"{s} {t}" for s, _, t in FAULTS])
def test_a_bad_row_is_one_line_with_its_place(
    tmp_path: Path, source: str, row: Any, said: str
) -> None:
    good = {"humaneval+": TRUNCATE, "mbpp+": ADD_LISTS, "mbpp": less(HUB_MBPP, "test")}[source]
    path = write(tmp_path / "plus.jsonl", good, row)
    with pytest.raises(UserError) as error:
        list(load(source, path=path, split="all"))
    line = error.value.one_line()
    assert line.startswith(f"{path}:2: ")
    assert said in line
    assert "\n" not in line


def test_an_empty_file_holds_no_task(tmp_path: Path) -> None:
    path = Path(write(tmp_path / "plus.jsonl"))
    for name in ("humaneval+", "mbpp+"):
        with pytest.raises(UserError, match="no task"):
            Benchmark(name, path)


def test_the_hub_has_both(monkeypatch: pytest.MonkeyPatch) -> None:
    hub, asked = ModuleType("datasets"), list[tuple[Any, ...]]()

    def load_dataset(name: str, config: str | None, *, split: str) -> Any:
        asked.append((name, config, split))
        return [HUB_TRUNCATE if "humaneval" in name else HUB_MBPP]

    vars(hub)["load_dataset"] = load_dataset
    monkeypatch.setitem(sys.modules, "datasets", hub)
    assert [t.task_id for t in load("humaneval+")] == ["HumanEval/2"]
    assert [t.task_id for t in load("mbpp+", split="test")] == ["106"]
    assert [t.task_id for t in load("mbpp-sanitized", split="test")] == ["106"]
    assert asked == [
        ("evalplus/humanevalplus", None, "test"),
        ("evalplus/mbppplus", None, "test"),
        ("google-research-datasets/mbpp", "sanitized", "test"),
    ]


# ---- at the size of HumanEval ---------------------------------------------------------------


def test_outputs_found_for_humanevals_own_inputs_are_those_it_expects(
    data: Path, tmp_path: Path, box: Sandbox
) -> None:
    """A release file of HumanEval's own inputs: what its solutions return must be what its
    tests expect, for every call they share."""
    source = data / "humaneval" / "HumanEval.jsonl.gz"
    own = {t.task_id: t for t in load("humaneval", path=str(source))}
    with gzip.open(source) as lines:
        rows = [json.loads(line) for line in lines]
    made = []
    for row in rows:
        task = own[row["task_id"]]
        inputs = [found for test in task.tests if (found := json_arguments(test, task)) is not None]
        if inputs:
            made.append({**less(row, "test"), "base_input": inputs, "plus_input": [], "atol": 0})
    plus = list(load("humaneval+", path=write(tmp_path / "plus.jsonl", *made)))
    compared = 0
    for task in plus:
        before = own[task.task_id]
        assert task.seen_tests == before.seen_tests
        wanted = {next(iter(keys(t, before)), ""): t for t in before.tests}
        for test in task.tests:
            (key,) = keys(test, task)
            if wanted[key].call.startswith(task.entry_point):
                value = read_expected(wanted[key].expected).value
                assert (
                    read_expected(test.expected).value == pytest.approx(value, nan_ok=True)
                    if isinstance(value, float)
                    else read_expected(test.expected).value == value
                )
                compared += 1
    assert (len(made), len(plus)) == (153, 153)
    assert compared > 1000
    jobs = [Job(t.task_id, t, t.reference or "") for t in plus]
    assert [v.solution_id for v in verify(box, jobs) if not v.passed] == []


def keys(test: Test, task: Task) -> frozenset[str]:
    return call_keys(test.call, {task.entry_point})


def json_arguments(test: Test, task: Task) -> list[Any] | None:
    """The arguments of a test's one call where JSON can hold them."""
    nodes = ast.walk(ast.parse(test.call))
    calls = [n for n in nodes if isinstance(n, ast.Call)
             and isinstance(n.func, ast.Name) and n.func.id == task.entry_point]  # fmt: skip
    if len(calls) != 1 or calls[0].keywords:
        return None
    try:
        args = [literal(arg) for arg in calls[0].args]
    except ValueError:
        return None
    return args if json.loads(json.dumps(args)) == args else None
