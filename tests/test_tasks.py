"""Task sources: rows become tasks or faults that name file, line, value and what to do."""

from __future__ import annotations

import gzip
import json
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from persd.errors import UserError
from persd.pool.check import check, check_source
from persd.progress import Progress
from persd.records import Task, Test
from persd.sandbox import Sandbox
from persd.tasks import load, normal_id, read
from persd.tasks.humaneval import examples_in
from persd.tasks.mutants import mutants
from persd.tasks.rows import Fault
from persd.tasks.sound import sound_seen

ROW: dict[str, Any] = {
    "task_id": "double",
    "instruction": "Return twice n.",
    "entry_point": "double",
    "header": "def double(n):\n",
    "tests": [{"call": "double(2)", "expected": "4"}, {"call": "double(-1)", "expected": "-2"}],
    "seen_tests": [{"call": "double(5)", "expected": "10"}],
    "reference": "    return 2 * n\n",
}


@pytest.fixture(scope="module")
def box() -> Iterator[Sandbox]:
    with Sandbox(workers=1) as opened:
        yield opened


def write(path: Path, *rows: Any) -> Path:
    path.write_text("".join(f"{r if isinstance(r, str) else json.dumps(r)}\n" for r in rows))
    return path


def tasks_of(path: Path) -> list[Task]:
    return list(load("jsonl", path=str(path)))


# ---- a file of one's own -------------------------------------------------------------------


def test_a_row_is_a_task(tmp_path: Path) -> None:
    path = write(tmp_path / "t.jsonl", ROW, "", {**ROW, "task_id": 7, "level": "easy"})
    first, second = tasks_of(path)
    assert first.tests == (Test("double(2)", "4"), Test("double(-1)", "-2"))
    assert first.seen_tests == (Test("double(5)", "10"),)
    assert first.reference == "def double(n):\n    return 2 * n\n"
    assert first.source == f"{path}:1"
    assert (second.task_id, second.meta, second.source) == ("7", {"level": "easy"}, f"{path}:3")


def test_a_reference_may_be_the_whole_program(tmp_path: Path) -> None:
    whole = "import math\n\n\ndef double(n):\n    return 2 * n\n"
    assert tasks_of(write(tmp_path / "t.jsonl", {**ROW, "reference": whole}))[0].reference == whole


def test_the_header_ends_with_one_line_end(tmp_path: Path) -> None:
    rows = [{**ROW, "task_id": str(i), "header": f"def double(n):{end}"}
            for i, end in enumerate(["", "\n\n", "  \r\n", "\n    "])]  # fmt: skip
    assert {t.header for t in tasks_of(write(tmp_path / "t.jsonl", *rows))} == {"def double(n):\n"}


def test_a_header_that_ends_in_indentation_is_kept_as_given_too(tmp_path: Path) -> None:
    given = "def double(n):\n    "
    references = ["return 2 * n\n", "    return 2 * n\n", "def double(n):\n    return 2 * n\n"]
    rows = [{**ROW, "task_id": str(i), "header": given, "reference": r}
            for i, r in enumerate(references)]  # fmt: skip
    tasks = tasks_of(write(tmp_path / "t.jsonl", *rows))
    assert {t.header for t in tasks} == {"def double(n):\n"}
    assert {t.reference for t in tasks} == {references[2]}
    assert [dict(t.meta) for t in tasks] == [{"open_header": given}] * 3


def test_test_code_takes_the_place_of_tests(tmp_path: Path) -> None:
    code = "def check(candidate):\n    assert candidate(2) == 4\n"
    row = {k: v for k, v in ROW.items() if k != "tests"} | {"test_code": code}
    (task,) = tasks_of(write(tmp_path / "t.jsonl", row))
    assert task.test_code == code
    assert task.tested


def test_a_gzipped_file_and_a_path_as_source(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl.gz"
    path.write_bytes(gzip.compress(f"\ufeff{json.dumps(ROW)}\n".encode()))
    assert [t.task_id for t in load(str(path))] == ["double"]


def without(key: str) -> dict[str, Any]:
    return {k: v for k, v in ROW.items() if k != key}


FAULTS: list[tuple[Any, str, str]] = [
    ('{"task_id": "x",', "broken_json", "broken JSON"),
    ("[1, 2]", "broken_json", "object is wanted"),
    (without("task_id"), "missing_key", '"task_id"'),
    (without("entry_point"), "missing_key", '"entry_point"'),
    ({"task_id": 1, "text": "Add.", "test_list": ["assert f(1) == 1"]}, "missing_key", "MBPP"),
    (without("header"), "missing_key", '"header"'),
    (without("instruction"), "missing_key", '"instruction"'),
    (without("tests"), "no_tests", '"test_code"'),
    ({**ROW, "tests": []}, "no_tests", '"test_code"'),
    ({**without("tests"), "test": ROW["tests"]}, "unknown_key", '"tests"'),
    ({**without("reference"), "referense": "pass"}, "unknown_key", '"reference"'),
    ({**ROW, "task_id": ["a"]}, "wrong_type", '["a"]'),
    ({**ROW, "task_id": " "}, "missing_key", "empty"),
    ({**ROW, "instruction": 5}, "wrong_type", "5"),
    ({**ROW, "tests": {"call": "double(1)"}}, "wrong_type", "not a list"),
    ({**ROW, "tests": ["double(1) == 2"]}, "wrong_type", "double(1) == 2"),
    ({**ROW, "tests": [{"call": "double(1)"}]}, "missing_key", '"expected"'),
    ({**ROW, "tests": [{"call": "double(1)", "expected": 2}]}, "wrong_type", "2"),
    ({**ROW, "tests": [{"call": "double(1)", "expected": "2", "x": 1}]}, "unknown_key", '"x"'),
    ({**ROW, "tests": [{"call": "double(1)", "expected": "two"}]}, "bad_test", "two"),
    ({**ROW, "tests": [{"call": "double", "expected": "2"}]}, "bad_test", "not a call"),
    ({**ROW, "tests": [{"call": "x = double(1)", "expected": "2"}]}, "bad_test", "expression"),
    ({**ROW, "tests": [{"call": "sum([double(1)])", "expected": "2"}]}, "bad_test", "call of"),
    ({**ROW, "seen_tests": [{"call": "half(1)", "expected": "2"}]}, "bad_test", "half(1)"),
    (
        {**ROW, "tests": [{"call": "double(1)", "expected": "2", "compare": "fuzzy"}]},
        "wrong_type",
        "fuzzy",
    ),
    (
        {**ROW, "tests": [{"call": "double(1)", "expected": "2", "tolerance": -1}]},
        "wrong_type",
        "tolerance",
    ),
    ({**ROW, "test_code": "def check(c): pass"}, "bad_test", "at once"),
    ({**without("tests"), "test_code": "def check(c:"}, "bad_test", "parse"),
    ({**without("tests"), "test_code": "def test(c): pass"}, "bad_test", "check"),
    ({**ROW, "header": "def triple(n):\n"}, "bad_header", "triple"),
    ({**ROW, "header": "x = 1\n"}, "bad_header", "x = 1"),
    ({**ROW, "reference": "def double(n) return"}, "bad_reference", "line 1"),
    ({**ROW, "reference": "    return (2 * n"}, "bad_reference", "line 2"),
    ({**ROW, "reference": "def other(n):\n    pass"}, "bad_reference", "double"),
    (
        {**ROW, "reference": f"def double(n):\n    return n{' + 0' * 970}"},
        "bad_reference",
        "nested",
    ),
    ({**ROW, "meta": []}, "ok", ""),
    ({**ROW, "meta": "x"}, "wrong_type", "meta"),
]


@pytest.mark.parametrize(("row", "reason", "said"), FAULTS, ids=[f"{r}-{s}" for _, r, s in FAULTS])
def test_every_fault_names_the_line_the_value_and_the_remedy(
    tmp_path: Path, row: Any, reason: str, said: str
) -> None:
    path = write(tmp_path / "t.jsonl", {**ROW, "task_id": "first"}, row)
    faults = [item for item in read("jsonl", path=str(path)) if isinstance(item, Fault)]
    if reason == "ok":
        assert faults == []
        return
    assert [f.reason for f in faults] == [reason]
    with pytest.raises(UserError) as error:
        tasks_of(path)
    assert error.value.where == f"{path}:2"
    assert said in error.value.one_line()
    assert "\n" not in error.value.one_line()


def test_a_duplicate_id_names_both_places(tmp_path: Path) -> None:
    path = write(tmp_path / "t.jsonl", ROW, ROW)
    with pytest.raises(UserError, match=rf"{path}:2: .*{path}:1"):
        tasks_of(path)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="No such file"):
        tasks_of(tmp_path / "none.jsonl")
    with pytest.raises(UserError, match="cannot read"):
        tasks_of(tmp_path)
    torn = tmp_path / "torn.jsonl.gz"
    torn.write_bytes(gzip.compress(f"{json.dumps(ROW)}\n".encode() * 2000)[:-40])
    with pytest.raises(UserError, match="torn"):
        list(read("jsonl", path=str(torn)))
    latin = tmp_path / "latin.jsonl"
    latin.write_bytes(b'{"task_id": "\xe9"}\n')
    with pytest.raises(UserError, match="UTF-8"):
        tasks_of(latin)


@given(st.binary(max_size=60))
def test_no_line_of_bytes_breaks_the_reader(line: bytes) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "t.jsonl")
        path.write_bytes(b"\n" + line.replace(b"\x1f\x8b", b"") + b"\n")
        assert all(isinstance(item, Fault) for item in read("jsonl", path=str(path)))


def test_load_stops_at_the_limit_and_refuses_nonsense(tmp_path: Path) -> None:
    path = write(tmp_path / "t.jsonl", ROW, "broken")
    assert len(list(load("jsonl", path=str(path), limit=1))) == 1
    for call in (
        load("jsonl", path=str(path), limit=0),
        load("jsonl"),
        load("humanevil"),
        load("persdistill"),
    ):
        with pytest.raises(UserError):
            list(call)


def test_lab_comes_by_its_name() -> None:
    pool = list(load("lab", limit=4, seed=1))
    held_out = list(load("lab", limit=4, seed=1, split="test"))
    assert len(pool) == len(held_out) == 4
    assert pool == list(load("lab", limit=4, seed=1))
    assert not {t.instruction for t in pool} & {t.instruction for t in held_out}


# ---- benchmarks ----------------------------------------------------------------------------

MBPP_ROW = {
    "task_id": 602,
    "text": "Write a function to add.",
    "code": "import math\r\nK = 1\r\ndef helper(x):\r\n  return x\r\n"
    "def add(a, b = K):\r\n  return helper(a) + b",
    "test_list": ["assert add(1, 2) == 3", "assert add(2) == 3", "assert add(2, 2) == 4, 'no'"],
    "test_setup_code": "",
    "challenge_test_list": [],
}


def test_mbpp_shows_the_first_assert_and_hides_the_others(tmp_path: Path) -> None:
    path = write(tmp_path / "mbpp.jsonl", MBPP_ROW, {**MBPP_ROW, "task_id": 11})
    (task,) = load("mbpp", path=str(path))
    assert (task.task_id, task.entry_point) == ("602", "add")
    assert task.header == "K = 1\n\n\ndef add(a, b=K):\n"
    assert "\r" not in (task.reference or "")
    assert task.seen_tests == (Test("add(1, 2)", "3", "equal"),)
    assert task.tests == (Test("add(2)", "3", "equal"), Test("add(2, 2)", "4", "equal"))
    assert task.instruction == "Write a function to add.\nassert add(1, 2) == 3"
    assert [t.task_id for t in load("mbpp", path=str(path), split="test")] == ["11"]


def test_mbpp_has_a_validation_split(tmp_path: Path) -> None:
    ids = [510, 511, 600, 601]
    path = write(tmp_path / "mbpp.jsonl", *[{**MBPP_ROW, "task_id": i} for i in ids])
    found = load("mbpp", path=str(path), split="validation")
    assert [t.task_id for t in found] == ["511", "600"]


def test_mbpp_all_hides_every_assert(tmp_path: Path) -> None:
    ids = [1, 11, 602, 974, 975]
    path = write(tmp_path / "mbpp.jsonl", *[{**MBPP_ROW, "task_id": i} for i in ids])
    tasks = list(load("mbpp", path=str(path), split="all"))
    assert [t.task_id for t in tasks] == ["1", "11", "602", "974"]
    for task in tasks:
        assert [t.call for t in task.tests] == ["add(1, 2)", "add(2)", "add(2, 2)"]
        assert task.seen_tests == ()
        assert "add(1, 2)" not in task.instruction


def test_mbpp_asserts_of_another_shape_become_test_code(tmp_path: Path, box: Sandbox) -> None:
    asserts = ["assert add(1, 2) == 3", "assert add(2) < 4", "assert add(2, 2) == 4"]
    path = write(tmp_path / "mbpp.jsonl", {**MBPP_ROW, "test_list": asserts})
    (task,) = load("mbpp", path=str(path))
    assert task.tests == ()
    assert "add(2) < 4" in (task.test_code or "")
    assert check(box, [task])["problems"] == []


def test_mbpp_faults_are_named(tmp_path: Path) -> None:
    rows = [
        {**MBPP_ROW, "task_id": "abc"},
        {**MBPP_ROW, "test_list": []},
        {**MBPP_ROW, "code": "def other(): pass"},
        {**MBPP_ROW, "code": "def add("},
    ]
    found = list(read("mbpp", path=str(write(tmp_path / "mbpp.jsonl", *rows))))
    reasons = [f.reason for f in found if isinstance(f, Fault)]
    assert reasons == ["wrong_type", "no_tests", "bad_test", "bad_reference"]


SANITIZED_ROW = {
    "source_file": "Benchmark Questions Verification V2.ipynb",
    "task_id": 602,
    "prompt": "Write a function to find a root.",
    "code": "import math\ndef root(x):\n  return math.sqrt(x)",
    "test_imports": ["import math"],
    "test_list": ["assert root(4) == 2", "assert math.isclose(root(2), 1.4142, rel_tol=1e-3)"],
}


@pytest.mark.parametrize("name", ["sanitized-mbpp.json", "sanitized.jsonl", "sanitized.json.gz"])
@pytest.mark.parametrize("indent", [None, 2])
def test_sanitized_mbpp_is_one_array(
    tmp_path: Path, box: Sandbox, name: str, indent: int | None
) -> None:
    text = json.dumps([SANITIZED_ROW, {**SANITIZED_ROW, "task_id": 11}], indent=indent).encode()
    path = tmp_path / name
    path.write_bytes(gzip.compress(text) if name.endswith(".gz") else b"\xef\xbb\xbf" + text)
    for source in ("mbpp", "mbpp-sanitized"):
        (task,) = load(source, path=str(path))
        assert (task.task_id, task.setup) == ("602", "import math\n")
        assert task.instruction == "Write a function to find a root.\nassert root(4) == 2"
        assert task.source == f"{path}[0]"
        assert [t.task_id for t in load(source, path=str(path), split="all")] == ["602", "11"]
    assert check(box, [task])["problems"] == []


def test_a_row_of_an_array_that_is_no_task_is_named(tmp_path: Path) -> None:
    path = tmp_path / "sanitized-mbpp.json"
    path.write_text(json.dumps([SANITIZED_ROW, {**SANITIZED_ROW, "code": None}, 7]))
    faults = [item for item in read("mbpp", path=str(path)) if isinstance(item, Fault)]
    assert [(f.where, f.reason) for f in faults] == [
        (f"{path}[1]", "wrong_type"), (f"{path}[2]", "broken_json"),
    ]  # fmt: skip


def test_a_call_that_is_shown_is_not_hidden_however_it_is_written(tmp_path: Path) -> None:
    asserts = ["assert add( 1,2 ) == 3", "assert 3 == add(1, 2)", "assert add(2, 2) == 4"]
    path = write(tmp_path / "mbpp.jsonl", {**MBPP_ROW, "test_list": asserts})
    (task,) = load("mbpp", path=str(path))
    assert [t.call for t in task.seen_tests] == ["add(1, 2)"]
    assert [t.call for t in task.tests] == ["add(2, 2)"]


@pytest.mark.parametrize("given", [11, "11", "Mbpp/11"])
def test_mbpp_ids_are_one(given: object) -> None:
    assert normal_id("mbpp", given) == "11"
    assert normal_id("mbpp", "HumanEval/11") == "HumanEval/11"
    assert normal_id("humaneval", "HumanEval/3") == "HumanEval/3"


@pytest.mark.parametrize(
    ("text", "examples"),
    [
        (">>> f(1)\n2\n>>> f(3)\n4", {"f(1)": "2", "f(3)": "4"}),
        (">>> f([1,\n    2])\n[1]", {"f([1,     2])": "[1]"}),
        ("f(1) == 2 and more", {}),
        ("f(1) == 2, f(3) => 4.", {"f(1)": "2", "f(3)": "4"}),
        ("f(1) ==> 2\nf('(') -> ')'", {"f(1)": "2", "f('(')": "')'"}),
        ("f(1) returns 2 because", {"f(1)": "2"}),
        ("f(1) # => 'a b'", {"f(1)": "'a b'"}),
        ("f(1) -> 19 - 5 = 14", {}),
        ("f(1) ➞ true", {"f(1)": "True"}),
        ("f(1) = [1,\n        2]", {"f(1)": "[1,\n        2]"}),
        ("f(a) == 2", {}),
        ("g(1) == 2, x.f(1) == 3", {}),
        ("f(1) is nice", {}),
        (">>> f(1)\nTraceback", {}),
        ("f(1 == 2", {}),
    ],
)
def test_examples_are_found_in_docstrings(text: str, examples: dict[str, str]) -> None:
    found = {t.call: t.expected for t in examples_in(text, "f")}
    assert found == examples


def test_the_hub_out_of_reach_is_an_error_with_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = ModuleType("datasets")

    def load_dataset(*_: Any, **__: Any) -> Any:
        raise ConnectionError("offline")

    vars(broken)["load_dataset"] = load_dataset
    monkeypatch.setitem(sys.modules, "datasets", broken)
    for source in ("humaneval", "mbpp"):
        with pytest.raises(UserError, match="--data FILE"):
            list(load(source))
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match=r"persd\[train\]"):
        list(load("mbpp"))


def test_the_hubs_rows_are_read_as_a_files(monkeypatch: pytest.MonkeyPatch) -> None:
    hub = ModuleType("datasets")
    asked: list[str] = []

    def load_dataset(*_: Any, split: str) -> Any:
        asked.append(split)
        return [MBPP_ROW]

    vars(hub)["load_dataset"] = load_dataset
    monkeypatch.setitem(sys.modules, "datasets", hub)
    assert [t.task_id for t in load("mbpp")] == ["602"]
    assert [t.task_id for t in load("mbpp", split="all")] == ["602"]
    assert asked == ["train", "train+test+validation+prompt"]


def test_humaneval_as_released(data: Path, box: Sandbox) -> None:
    tasks = list(load("humaneval", path=str(data / "humaneval" / "HumanEval.jsonl.gz")))
    assert len(tasks) == 164
    assert all(t.tested and t.reference and not t.instruction for t in tasks)
    examples = sum(len(t.seen_tests) for t in tasks)
    sound = list(sound_seen(box, tasks))
    assert [t.task_id for t in sound] == [t.task_id for t in tasks]
    lost = {t.task_id for t, s in zip(tasks, sound, strict=True) if t != s}
    assert lost == {"HumanEval/47", "HumanEval/116", "HumanEval/130", "HumanEval/148"}
    assert (examples, sum(len(t.seen_tests) for t in sound)) == (396, 390)


def test_mbpp_as_released(data: Path) -> None:
    path = str(data / "mbpp" / "mbpp.jsonl")
    train, test = list(load("mbpp", path=path)), list(load("mbpp", path=path, split="test"))
    assert (len(train), len(test)) == (374, 500)
    assert [t.task_id for t in train + test if not t.seen_tests] == ["37"]  # one assert, thrice
    for task in train + test:
        assert task.tests
        assert not set(task.tests) & set(task.seen_tests)
    every = list(load("mbpp", path=path, split="all"))
    assert [t.task_id for t in every] == [str(i) for i in range(1, 975)]
    assert not any(t.seen_tests for t in every)
    asserts = [line for t in every for line in (t.test_code or "").splitlines() if "assert" in line]
    assert sum(len(t.tests) for t in every) + len(asserts) == 3 * 974


# ---- check ---------------------------------------------------------------------------------


def a_task(reference: str | None = "    return 2 * n\n", **more: Any) -> Task:
    fields: dict[str, Any] = {
        "tests": (Test("double(2)", "4"), Test("double(-1)", "-2")),
        "reference": reference and f"def double(n):\n{reference}",
    }
    return Task("double", "Return twice n.", "def double(n):\n", "double", **{**fields, **more})


def reasons(report: dict[str, Any], key: str = "problems") -> list[str]:
    return [p["reason"] for p in report[key]]


def test_a_sound_task_has_no_problem(box: Sandbox) -> None:
    assert check(box, [a_task()]) == {"tasks": 1, "ok": 1, "problems": [], "warnings": []}


FLAKY = "    import os\n    return 2 * n + len(os.urandom(1)) * (os.urandom(1)[0] % 9)\n"


@pytest.mark.parametrize(
    ("task", "reason", "detail"),
    [
        (a_task("    return n\n"), "reference_fails", "EXPECTED: 4"),
        (a_task("    raise ValueError('no')\n"), "reference_fails", "ValueError: no"),
        (a_task("    return n\n", tests=(Test("double(0)", "0"),)), "stub_passes", "argument"),
        (a_task("    return None\n", tests=(Test("double(1)", "None"),)), "stub_passes", "None"),
        (a_task("    return 7\n", tests=(Test("double(1)", "7"), Test("double(2)", "7"))),
         "constant", "7"),
        (a_task(FLAKY, tests=tuple(Test(f"double({i})", str(2 * i)) for i in range(1, 9))),
         "flaky", "gives"),
        (a_task(seen_tests=(Test("double(1)", "3"),)), "seen_test_fails", "EXPECTED: 3"),
        (a_task(tests=(), test_code="def check(c):\n    assert c(1) == undefined\n"),
         "reference_fails", "NameError in the test"),
    ],
)  # fmt: skip
def test_problems_are_named(box: Sandbox, task: Task, reason: str, detail: str) -> None:
    report = check(box, [task, a_task()])
    assert reason in reasons(report)
    assert detail in " ".join(p["detail"] for p in report["problems"])
    assert (report["tasks"], report["ok"]) == (
        2,
        2 - len({p["task_id"] for p in report["problems"]}),
    )


WORDS = [f"word{n}" for n in range(20)]


def test_a_reference_that_leans_on_the_order_of_hashes_is_flaky(box: Sandbox) -> None:
    body = f"    return 2 * n if list(set({WORDS}))[0] == '{{}}' else None\n"
    tasks = [replace(a_task(body.format(word)), task_id=word) for word in WORDS]
    problems = check(box, [*tasks, a_task()])["problems"]
    assert Counter(p["reason"] for p in problems) == {
        "reference_fails": len(WORDS) - 1, "flaky": 1,
    }  # fmt: skip
    assert "order of hashes" in str(problems)


def test_a_reference_that_leans_on_chance_is_flaky(box: Sandbox) -> None:
    body = "    import random\n    return 2 * n if (random.random() < 0.5) is {} else 0\n"
    code = "def check(c):\n    assert c(2) == 4\n"
    tasks = [
        a_task(body.format(wanted), **tests)
        for wanted in (True, False)
        for tests in ({"tests": (Test("double(2)", "4"),)}, {"tests": (), "test_code": code})
    ]
    found = [check(box, [task])["problems"] for task in tasks]
    assert Counter(p["reason"] for problems in found for p in problems) == {
        "flaky": 2, "reference_fails": 2,
    }  # fmt: skip
    assert "random numbers" in str(found)


def test_chance_that_does_not_show_is_no_problem(box: Sandbox) -> None:
    body = "    import random\n    return n + sorted({'a', 'b'}).index('a') + random.choice([n])\n"
    assert check(box, [a_task(body)])["problems"] == []


SAME = tuple(Test(f"double({n})", str(2 * n)) for n in (1, 2, 3))
CONDUCT = {
    "mutates_input": a_task("    n.sort()\n    return n\n", tests=(
        Test("double([2, 1])", "[1, 2]"), Test("double([1, 3])", "[1, 3]"))),
    "file_dependent": a_task("    import os\n    os.getcwd()\n    return 2 * n\n", tests=SAME),
    "time_dependent": a_task("    import time\n    time.time()\n    return 2 * n\n", tests=SAME),
    "non_deterministic": replace(
        a_task(tests=(), test_code="def check(c):\n    assert round(c(2)) == 4\n"
               "    assert round(c(3)) == 6\n"),
        reference="m = []\ndef double(n):\n    m.append(n)\n    return 2 * n + len(m) / 1e9\n"),
    "silent": a_task("    n += 1\n", tests=(
        Test("double(1)", "None"), Test("double(2)", "None"))),
}  # fmt: skip


@pytest.mark.parametrize("reason", CONDUCT)
def test_a_reference_that_is_no_function_of_its_arguments_is_named(
    box: Sandbox, reason: str
) -> None:
    report = check(box, [CONDUCT[reason], a_task()])
    assert reason in reasons(report)
    assert report["ok"] == 1
    quirks = check(box, [CONDUCT[reason]], benchmark=True)
    where = "problems" if reason == "silent" else "warnings"
    assert reason in reasons(quirks, where)
    assert (quirks["ok"] == 1) == (reason != "silent")


def test_test_code_is_checked_too(box: Sandbox) -> None:
    code = "def check(candidate):\n    assert candidate(2) > 3\n    assert candidate(-1) < -1\n"
    assert check(box, [a_task(tests=(), test_code=code)])["problems"] == []
    weak = "def check(candidate):\n    assert candidate(2) == 2 or True\n"
    assert "stub_passes" in reasons(check(box, [a_task(tests=(), test_code=weak)]))


@pytest.mark.parametrize("mine", [5, "x", [], [5], [{}], {"call": "f(1)"}])
def test_a_note_of_ones_own_that_is_called_left_out_is_none_of_ours(
    box: Sandbox, mine: object
) -> None:
    found = check(box, [replace(a_task(), meta={"left_out": mine})])
    assert (found["ok"], found["warnings"]) == (1, [])


def test_warnings_are_no_problems(box: Sandbox) -> None:
    report = check(box, [a_task(None)])
    assert (reasons(report, "warnings"), report["ok"]) == (["no_reference"], 1)
    report = check(box, [a_task(tests=())])
    assert (reasons(report, "warnings"), report["ok"]) == (["untested"], 1)
    report = check(box, [replace(a_task(), instruction=" ")])
    assert (reasons(report, "warnings"), report["ok"]) == (["no_instruction"], 1)
    loose = a_task("    if n > 99:\n        n = n * 5\n        n -= 3\n        n += 1\n"
                   "        return n\n    return 2 * n\n")  # fmt: skip
    assert reasons(check(box, [loose]), "warnings") == ["weak_tests"]


def test_the_faults_of_a_file_are_problems_too(tmp_path: Path) -> None:
    bad = {**ROW, "task_id": "bad", "reference": "    return n\n"}
    path = write(tmp_path / "t.jsonl", ROW, "{", without("tests"), bad, ROW)
    report = check_source(str(path), None, None, Progress())
    assert (report["tasks"], report["ok"]) == (5, 1)
    assert [(p["task_id"], p["reason"]) for p in report["problems"]] == [
        ("t.jsonl:2", "broken_json"),
        ("double", "no_tests"),
        ("double", "duplicate_task_id"),
        ("bad", "reference_fails"),
    ]
    assert "t.jsonl:3" in report["problems"][1]["detail"]
    with pytest.raises(UserError):
        check_source(str(tmp_path / "none.jsonl"), None, None, Progress())


def test_lab_tasks_are_sound() -> None:
    report = check_source("lab", None, 3, Progress())
    assert (report["tasks"], report["ok"], report["problems"]) == (3, 3, [])


def test_mutants_differ_from_the_program_and_from_each_other() -> None:
    program = "def f(n):\n    total = 0\n    for i in range(1, n + 1):\n        total += i * 2\n" \
              "    return total if n > 0 else -1\n"  # fmt: skip
    found = list(mutants(program))
    assert len(set(found)) == len(found) == 6
    assert program not in found
    assert found == list(mutants(program))
    assert list(mutants("def f(x):\n    return x\n")) == []
    assert list(mutants("def f(")) == []
