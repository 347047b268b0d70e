"""The judge: statuses, reasons and what each test did."""

from __future__ import annotations

import ast
import contextlib
import gzip
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from persd.records import Task, Test, Verdict, from_json, to_json
from persd.sandbox import Limits, Sandbox, as_test, probe_isolation, split_check
from persd.verify import Job, verify

TESTS = (Test("f(1)", "2"), Test("f(2)", "3"), Test("f(3)", "4"))
TASK = Task("t", "Add one.", "def f(x):\n", "f", tests=TESTS, seen_tests=(Test("f(9)", "10"),))
RIGHT = "def f(x):\n    return x + 1\n"


@pytest.fixture(scope="module")
def box() -> Iterator[Sandbox]:
    with Sandbox(workers=2) as sandbox:
        yield sandbox


def judge(box: Sandbox, code: str, task: Task = TASK, **more: Any) -> Verdict:
    return next(verify(box, [Job("s", task, code, **more)]))


def test_a_right_program_passes_with_every_result(box: Sandbox) -> None:
    verdict = judge(box, RIGHT)
    assert verdict.passed
    assert [(r.call, r.status, r.actual) for r in verdict.results] == [
        ("f(1)", "passed", "2"),
        ("f(2)", "passed", "3"),
        ("f(3)", "passed", "4"),
    ]
    assert verdict.isolation == box.isolation
    assert verdict.limits == {"cpu_seconds": 3.0, "memory_mb": 512}
    assert 0 < verdict.seconds < 1
    assert from_json(Verdict, to_json(verdict)) == verdict


def test_a_wrong_value_names_call_expected_and_actual(box: Sandbox) -> None:
    verdict = judge(box, "def f(x):\n    print('at', x)\n    return x + (x != 2)")
    assert verdict.status == "failed"
    failure = verdict.first_failure
    assert failure is not None
    assert (failure.call, failure.expected, failure.actual) == ("f(2)", "3", "2")
    assert failure.stdout == "at 2\n"
    assert [r.status for r in verdict.results] == ["passed", "failed", "passed"]


def test_an_exception_names_type_message_and_the_programs_line(box: Sandbox) -> None:
    code = "def g(x):\n    return 1 // x\n\ndef f(x):\n    return g(x - 1)"
    task = replace(TASK, setup="import math\n\n\n\n")
    verdict = judge(box, code, task)
    failure = verdict.first_failure
    assert verdict.status == "error"
    assert failure is not None
    assert failure.error_type == "ZeroDivisionError"
    assert failure.message == "integer division or modulo by zero"
    assert failure.line == 2


def test_an_error_while_loading_has_a_result_without_a_call(box: Sandbox) -> None:
    verdict = judge(box, "import math\nx = undefined_name\n" + RIGHT)
    assert verdict.status == "error"
    (result,) = verdict.results
    assert (result.call, result.error_type, result.line) == ("", "NameError", 2)
    verdict = judge(box, "def f(x):\n    return (x +\n")
    assert verdict.status == "syntax"
    assert verdict.results[0].error_type == "SyntaxError"
    assert verdict.results[0].message == "'(' was never closed"
    assert verdict.results[0].line == 2


@pytest.mark.parametrize(
    ("ending", "status", "reason"),
    [
        ("import os; os._exit(0)", "crashed", "early exit 0"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "crashed", "SIGKILL"),
        ("while True: pass", "timeout", "over 0.2 s of CPU"),
    ],
)
def test_an_end_at_a_late_test_keeps_what_came_before(
    box: Sandbox, ending: str, status: str, reason: str
) -> None:
    code = f"def f(x):\n    if x == 3:\n        {ending}\n    return x + 1"
    verdict = judge(box, code, limits=Limits(cpu_seconds=0.2))
    assert (verdict.status, verdict.reason) == (status, reason)
    assert [r.status for r in verdict.results] == ["passed", "passed", "error"]
    assert verdict.results[-1].call == "f(3)"
    assert verdict.results[-1].message == reason


def test_the_first_failure_decides_the_status(box: Sandbox) -> None:
    code = "def f(x):\n    if x == 2: return 0\n    if x == 3: raise KeyError\n    return x + 1"
    verdict = judge(box, code)
    assert verdict.status == "failed"
    assert [r.status for r in verdict.results] == ["passed", "failed", "error"]
    first = judge(box, code, stop_at_first_failure=True)
    assert [r.status for r in first.results] == ["passed", "failed"]


def test_each_test_gets_fresh_arguments_and_the_limit_is_per_test(box: Sandbox) -> None:
    test = Test("f([1, 2])", "[1, 2, 0]")
    code = (
        "import time\ndef f(x):\n    end = time.process_time() + 0.15\n"
        "    while time.process_time() < end: pass\n    x.append(0)\n    return x"
    )
    task = replace(TASK, tests=(test,) * 4)
    assert judge(box, code, task, limits=Limits(cpu_seconds=0.3)).passed


def test_which_tests_decide(box: Sandbox) -> None:
    code = "def f(x): return 10"
    assert judge(box, code).status == "failed"
    seen = judge(box, code, tests="seen")
    assert (seen.status, seen.tests) == ("passed", "seen")
    assert judge(box, code, tests=(Test("f(0)", "10"), Test("f(5)", "10"))).passed


def test_setup_runs_before_the_program_and_its_faults_are_the_tasks(box: Sandbox) -> None:
    task = replace(TASK, setup="ONE = 1\n")
    assert judge(box, "def f(x): return x + ONE", task).passed
    broken = judge(box, RIGHT, replace(TASK, setup="1 / 0"))
    assert broken.status == "not_run"
    assert "ZeroDivisionError" in broken.reason
    assert judge(box, RIGHT, replace(TASK, setup="import os; os._exit(0)")).status == "not_run"


@pytest.mark.parametrize(
    ("test", "reason"),
    [
        (Test("f(", "1"), "test 1: not a call"),
        (Test("x = 1", "1"), "test 1: not a call"),
        (Test("f(1)", "open('x')"), "test 1: expected"),
    ],
)
def test_a_bad_test_is_not_run_and_never_the_programs_fault(
    box: Sandbox, test: Test, reason: str
) -> None:
    verdict = judge(box, RIGHT, replace(TASK, tests=(test, *TESTS)))
    assert verdict.status == "not_run"
    assert verdict.reason.startswith(reason)


def test_without_tests_nothing_is_judged(box: Sandbox) -> None:
    verdict = judge(box, RIGHT, replace(TASK, tests=()))
    assert (verdict.status, verdict.reason) == ("not_run", "no tests")


def test_a_call_may_build_its_arguments_first(box: Sandbox) -> None:
    test = Test("n = Node(4)\nn.next = Node(5)\nf(n)", "9")
    code = "class Node:\n    def __init__(s, v): s.v = v\ndef f(n): return n.v + n.next.v"
    assert judge(box, code, replace(TASK, tests=(test,))).passed


def test_loose_tests_take_the_text_of_the_value_or_of_stdout(box: Sandbox) -> None:
    task = replace(TASK, tests=(Test("f(1)", "Hello 1", compare="loose"),))
    assert judge(box, "def f(x): print('Hello', x)", task).passed
    assert judge(box, "def f(x): return f'Hello {x}'", task).passed
    assert judge(
        box, "class A:\n    __str__ = lambda s: 'Hello 1'\ndef f(x): return A()", task
    ).passed
    assert judge(box, "def f(x): print('Hello')", task).status == "failed"


def test_long_texts_are_shortened_for_reading_and_say_so(box: Sandbox) -> None:
    task = replace(TASK, tests=(Test("f('" + "a" * 1000 + "')", "'" + "b" * 1000 + "'"),))
    (result,) = judge(box, "def f(x):\n    print('p' * 9999)\n    return x", task).results
    for text in (result.call, result.expected, result.actual):
        assert len(text) < 340
        assert "characters)" in text
    assert len(result.stdout) == 1000
    assert judge(box, "def f(x):\n    print('p' * 9999)\n    return x", task).reason == "output cut"


def test_texts_are_safe_for_any_file_and_terminal(box: Sandbox) -> None:
    code = (
        "def f(x):\n    print('\\x1b[31m', '\\ud800')\n"
        "    raise ValueError('\\x1b]0;title\\x07\\ud800\\0')"
    )
    result = judge(box, code).results[0]
    for text in (result.stdout, result.message):
        assert all(c.isprintable() or c in "\n\t" for c in text)
        text.encode("utf-8")


def test_verdicts_come_in_order_from_a_stream_in_a_small_window(box: Sandbox) -> None:
    taken = 0

    def jobs() -> Iterator[Job]:
        nonlocal taken
        for n in range(1500):
            taken += 1
            slow = "import time; time.sleep(0.05)\n" if n == 0 else ""
            yield Job(str(n), TASK, slow + RIGHT)

    stream = verify(box, jobs())
    first = [next(stream).solution_id for _ in range(5)]
    assert taken <= box.ahead + 5
    assert [*first, *(v.solution_id for v in stream)] == [str(n) for n in range(1500)]


def test_one_sandbox_serves_several_threads(box: Sandbox) -> None:
    def work(n: int) -> list[str]:
        code = f"def f(x): return x + {n}"
        return [v.status for v in verify(box, [Job(str(n), TASK, code)] * 20)]

    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(work, [1, 2, 1, 3]))
    assert found == [["passed"] * 20, ["failed"] * 20, ["passed"] * 20, ["failed"] * 20]


def test_a_worker_that_dies_is_replaced(box: Sandbox) -> None:
    assert judge(box, RIGHT).passed
    for slot in box._slots:
        for worker in slot.workers.values():
            worker.process.kill()
    time.sleep(0.05)
    assert [v.status for v in verify(box, [Job("s", TASK, RIGHT)] * 6)] == ["passed"] * 6


def test_closing_ends_what_runs() -> None:
    box = Sandbox(workers=1)
    code = "import time\ndef f(x): time.sleep(60)"
    with ThreadPoolExecutor(1) as threads:
        future = threads.submit(judge, box, code)
        while not any(slot.queue for slot in box._slots):
            time.sleep(0.01)
        time.sleep(0.3)
        start = time.monotonic()
        box.close()
        assert time.monotonic() - start < 2
        assert future.result().status == "not_run"
    box.close()
    with pytest.raises(ValueError, match="closed"):
        judge(box, RIGHT)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="asks /proc")
@pytest.mark.parametrize("without", [(), ("namespaces",)], ids=["all layers", "no namespaces"])
def test_nothing_is_left_of_a_parent_that_was_killed(without: tuple[str, ...]) -> None:
    code = f"""
from persd.sandbox import Program, Sandbox
with Sandbox(workers=1, unsafe=True, without={without!r}) as box:
    print(box.isolation, box._slots[0].workers["program"].box, sep="|", flush=True)
    list(box.run([Program("import time; time.sleep(60)", "f", ("f()",))]))
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    isolation, directory = process.stdout.readline().strip().split("|")
    time.sleep(0.3)
    processes = _below(process.pid)
    assert len(processes) >= 3  # a server, a zygote, a program
    process.kill()
    process.wait()
    end = time.monotonic() + 5
    while any(map(_runs, processes)):
        assert time.monotonic() < end, "workers outlive their parent"
        time.sleep(0.02)
    if "namespaces" in isolation:
        assert not Path(directory).exists()


def _below(pid: int) -> list[int]:
    """The processes that descend from one."""
    parents = {}
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            text = (entry / "stat").read_text()
            parents[int(entry.name)] = int(text.rpartition(")")[2].split()[1])
    found = [pid]
    for one in found:
        found += [child for child, parent in parents.items() if parent == one]
    return found[1:]


def _runs(pid: int) -> bool:
    with contextlib.suppress(OSError), open(f"/proc/{pid}/stat") as file:
        return file.read().rpartition(")")[2].split()[0] != "Z"  # ended, but nobody's child
    return False


def test_a_machine_where_no_worker_starts_gives_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nonexistent/python")
    with Sandbox(workers=1) as broken:
        verdict = judge(broken, RIGHT)
    assert verdict.status == "not_run"
    assert "nonexistent" in verdict.reason
    assert probe_isolation() == "none"


# --- tests in test code -------------------------------------------------------------------

CHECK = """
def check(candidate):
    for n in range(5):
        assert candidate(n) == n + 1
    assert abs(candidate(0.5) - 1.5) < 1e-6
"""
CHECKED = replace(TASK, tests=(), test_code=CHECK)


def test_test_code_judges_from_a_process_of_its_own(box: Sandbox) -> None:
    assert judge(box, RIGHT, CHECKED).passed
    wrong = judge(box, "def f(x): return x + 1 if x != 3 else 7", CHECKED)
    assert wrong.status == "failed"
    failure = wrong.first_failure
    assert failure is not None
    assert (failure.call, failure.actual) == ("f(3)", "7")
    assert failure.expected == "assert candidate(n) == n + 1"


@pytest.mark.parametrize(
    ("code", "status", "reason"),
    [
        ("def f(x): raise KeyError(x)", "error", ""),
        ("def f(x):\n    while True: pass", "timeout", "over 0.3 s of CPU"),
        ("import os\ndef f(x): os._exit(0)", "crashed", "early exit 0"),
        ("def f(x): return bytearray(1 << 40)", "memory", ""),
        ("def f(x): return None", "failed", ""),
        ("def f(x): return x + 1 if type(x) is int else None", "failed", "TypeError in the test"),
        ("def g(x): return x", "error", "missing entry point"),
        ("def f(x) return", "syntax", ""),
        (
            "class T:\n    def __eq__(s, o): return True\n    def __sub__(s, o): return 0\n"
            "def f(x): return T()",
            "failed",
            "",
        ),
        (
            "import os\ndef f(x):\n    os.write(4, b'junk\\n')\n    return x + 1",
            "error",
            "wrote to the judge's channel",
        ),
        (
            "import os\ndef f(x):\n    while True: os.write(4, b'junk' * 1000)",
            "error",
            "wrote to the judge's channel",
        ),
        ("import gc, sys\nfor o in gc.get_objects():\n    if 'candidate' in str(type(o)): 1/0\n"
         "def f(x): return sys._getframe(1).f_globals.get('check') or x + 1", "passed", ""),
    ],
)  # fmt: skip
def test_programs_under_test_code(box: Sandbox, code: str, status: str, reason: str) -> None:
    verdict = judge(box, code, CHECKED, limits=Limits(cpu_seconds=0.3, load_seconds=0.3))
    assert (verdict.status, verdict.reason) == (status, reason)


def test_test_code_may_expect_exceptions_and_see_arguments_changed(box: Sandbox) -> None:
    check = """
def check(candidate):
    try:
        candidate(None)
    except TypeError as error:
        assert "NoneType" in str(error)
    else:
        raise AssertionError("no exception")
    items = [3, 1, 2]
    assert candidate(items) is None
    assert items == [1, 2, 3]
"""
    task = replace(CHECKED, test_code=check)
    assert judge(box, "def f(x):\n    x.sort() if x is not None else x + 1", task).passed
    assert judge(box, "def f(x):\n    sorted(x)", task).status == "failed"


def test_test_code_may_use_what_the_header_and_the_setup_define(box: Sandbox) -> None:
    header = 'def helper(x):\n    return x + 1\n\n\ndef f(x):\n    """Add one."""\n'
    check = "def check(c):\n    assert c(3) == helper(3) == f(3) == ONE + 3\n"
    task = replace(CHECKED, header=header, test_code=check, setup="ONE = 1\n")
    assert judge(box, header + "    return x + ONE\n", task).passed


@pytest.mark.parametrize(
    "check",
    [
        "def check(c): undefined",
        "def check(c) assert",
        "x = 1",
        "def check(c): c(lambda: 1)",
        "import os; os._exit(0)",
        "def check(c):\n    while True: pass",
    ],
)
def test_a_fault_of_the_test_code_is_not_the_programs(box: Sandbox, check: str) -> None:
    limits = Limits(cpu_seconds=0.3, load_seconds=0.3)
    verdict = judge(box, RIGHT, replace(CHECKED, test_code=check), limits=limits)
    assert verdict.status == "not_run"
    assert "test code fails" in verdict.reason


def test_tests_decide_before_test_code(box: Sandbox) -> None:
    both = replace(CHECKED, tests=TESTS)
    assert len(judge(box, RIGHT, both).results) == 3
    assert judge(box, "def f(x): return x", both).first_failure is not None


# --- test code taken apart ----------------------------------------------------------------


def test_plain_assertions_become_tests() -> None:
    code = """
import math
METADATA = {"author": "x"}

def check(candidate):
    "Doc."
    assert candidate([1], k=2) == [3], "message"
    assert (1, 2) == candidate(3 * 5)
    assert candidate("a") is None
    assert candidate(1)
    assert not candidate(2)
    assert tuple(candidate(3)) == (3 + 5, 7)
    assert True, "for debugging"
"""
    assert split_check(code, "f") == (
        Test("f([1], k=2)", "[3]", compare="equal"),
        Test("f(3 * 5)", "(1, 2)", compare="equal"),
        Test("f('a')", "None"),
        Test("not not f(1)", "True"),
        Test("not f(2)", "True"),
        Test("tuple(f(3))", "(8, 7)", compare="equal"),
    )


@pytest.mark.parametrize(
    "body",
    [
        "assert candidate(1) < 2",
        "assert candidate(x) == 1",
        "assert candidate(1) == other(1)",
        "assert all(candidate(1)) == True",
        "assert abs(candidate(1.0) - 2.0) < 1e-6",
        "assert candidate(1) == 2 == 2",
        "assert [candidate(i) for i in (1, 2)] == [1, 2]",
        "assert candidate(1) is 2",
        "for x in (1, 2): assert candidate(x) == x",
        "x = 1",
        "pass",
        "assert 1 == 1",
    ],
)
def test_anything_else_is_left_to_be_run(body: str) -> None:
    assert split_check(f"def check(candidate):\n    {body}\n", "f") is None


@pytest.mark.parametrize("code", ["", "def check(", "check = 1", "def check(a, b): pass"])
def test_what_is_no_check_is_left_alone(code: str) -> None:
    assert split_check(code, "f") is None


# --- the benchmarks -----------------------------------------------------------------------


def humaneval(data: Path) -> Iterator[Job]:
    with gzip.open(data / "humaneval" / "HumanEval.jsonl.gz", "rt") as lines:
        for row in map(json.loads, lines):
            name, prompt = row["entry_point"], row["prompt"]
            tests = split_check(row["test"], name)
            code = None if tests else row["test"]
            task = Task(row["task_id"], "", prompt, name, tests=tests or (), test_code=code)
            yield Job(row["task_id"], task, prompt + row["canonical_solution"])


def test_humaneval_references_pass(box: Sandbox, data: Path) -> None:
    verdicts = list(verify(box, humaneval(data)))
    assert [v.solution_id for v in verdicts if not v.passed] == []
    assert len(verdicts) == 164


def test_humaneval_stubs_fail(box: Sandbox, data: Path) -> None:
    jobs = (replace(job, code=job.task.header + "    return None\n") for job in humaneval(data))
    assert {v.status for v in verify(box, jobs)} <= {"failed", "error"}


def mbpp(data: Path) -> Iterator[Job]:
    with (data / "mbpp" / "mbpp.jsonl").open() as lines:
        for row in map(json.loads, lines):
            functions = [n for n in ast.parse(row["code"]).body if isinstance(n, ast.FunctionDef)]
            asserts = [line for line in row["test_list"] if line.strip()]
            names = {n.id for n in ast.walk(ast.parse(asserts[0])) if isinstance(n, ast.Name)}
            name = next(f.name for f in functions if f.name in names)
            tests = [as_test(ast.parse(line).body[0], name, name) for line in asserts]
            if row["test_setup_code"] or None in tests:
                tests = [_in_place(line, row["test_setup_code"]) for line in asserts]
            whole = tuple(test for test in tests if test is not None)
            yield Job(
                str(row["task_id"]), Task(str(row["task_id"]), "", "", name, whole), row["code"]
            )


def _in_place(line: str, setup: str) -> Test:
    """An assertion whose arguments need the program's own classes, or a module."""
    claim = ast.parse(line).body[0].test  # type: ignore[attr-defined]
    left, right = map(ast.unparse, (claim.left, claim.comparators[0]))
    if "getsizeof" in right:
        return Test(f"{left} == {right}", "True")
    return Test(f"{setup}\n{left}", right, compare="equal")


def test_mbpp_references_pass(box: Sandbox, data: Path) -> None:
    verdicts = list(verify(box, mbpp(data)))
    assert [(v.solution_id, v.reason) for v in verdicts if not v.passed] == []
    assert len(verdicts) == 974


def test_a_program_that_fills_its_memory_is_stopped_there(box: Sandbox) -> None:
    code = "def f(x):\n    a = [x]\n    for y in a:\n        a.append(y)\n"
    verdict = judge(box, code, limits=Limits(memory_mb=96))
    assert verdict.status == "memory"
    assert [(r.call, r.error_type) for r in verdict.results] == [("f(1)", "MemoryError")]
