"""Expected values: what becomes a test, and which references are named as no function."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from persd.config import GenerateTable
from persd.pool.drafts import Draft, Rejection
from persd.pool.observing import Answer
from persd.pool.oracle import answered, as_test, tolerance
from persd.records import Task, Test
from persd.sandbox import Sandbox, WorkerDied, codec
from persd.sandbox.compare import agrees
from persd.verify import Job, verify

RULES = GenerateTable(count=1)
NUMBERS = ("1", "2", "3", "4", "5", "6")
WORDS = ("['pear', 'fig', 'kiwi']", "['x', 'yy', 'zzz']", "['m', 'n', 'o', 'p']",
         "['q', 'r', 's']", "['u', 'v', 'w']", "['a', 'b', 'c']")  # fmt: skip


@pytest.fixture(scope="module")
def box() -> Iterator[Sandbox]:
    with Sandbox() as box:
        yield box


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[Sandbox]:
    with Sandbox(seed=1) as box:
        yield box


def draft(body: str, arguments: tuple[str, ...] = NUMBERS, above: str = "") -> Draft:
    code = above + "def f(x):\n" + "".join(f"    {line}\n" for line in body.splitlines())
    return whole(code, arguments)


def whole(code: str, arguments: tuple[str, ...] = NUMBERS) -> Draft:
    task = Task("t", "Do it.", "def f(x):\n", "f", reference=code)
    return Draft(task, tuple(f"f({a})" for a in arguments))


def ask(
    box: Sandbox, elsewhere: Sandbox, drafts: list[Any], rules: GenerateTable = RULES
) -> list[Task | Rejection]:
    found = list(answered(box, elsewhere, enumerate(drafts), rules))
    assert [number for number, _ in found] == list(range(len(drafts)))
    return [result for _, result in found]


# ---- references that are none ----------------------------------------------------------------

BROKEN: dict[str, tuple[str, Draft]] = {
    "undefined name": ("reference_fails", draft("return y")),
    "does not load": ("reference_fails", draft("return x", above="import nothing_such\n")),
    "other function": ("reference_fails", whole("def g(x):\n    return x\n")),
    "no python": ("syntax", whole("def f(x:\n    return x\n")),
    "ends its process": ("reference_fails", draft("import os\nos._exit(0)")),
    "raises SystemExit": ("reference_fails", draft("raise SystemExit")),
    "kills itself": ("reference_fails", draft("import os\nos.kill(os.getpid(), 9)")),
    "takes all memory": ("reference_fails", draft("return len([0] * 10 ** 10)")),
    "endless for one": ("too_slow", draft("while x == 4:\n    pass\nreturn x")),
    "endless at the top": ("too_slow", whole("while True:\n    pass\n")),
    "sleeps": ("too_slow", draft("import time\ntime.sleep(100)")),
    "opens a file": ("file_dependent", draft("return open('/etc/hostname').read()")),
    "opens a file at the top": (
        "file_dependent", draft("return D + x", above="D = open('d.txt').read()\n")),
    "catches what a file does": (
        "file_dependent", draft("try:\n    open('a')\nexcept OSError:\n    pass\nreturn x")),
    "writes a file": ("file_dependent", draft("with open('o', 'w') as h:\n    h.write('1')")),
    "asks whether a file is there": (
        "file_dependent", draft("import os\nreturn os.path.exists(str(x))")),
    "reads input": ("file_dependent", draft("return int(input()) + x")),
    "reads stdin": ("file_dependent", draft("import sys\nreturn sys.stdin.read() + str(x)")),
    "reads the environment": (
        "file_dependent", draft("import os\nreturn os.environ.get('HOME', '') + str(x)")),
    "starts a process": (
        "file_dependent", draft("import subprocess\nsubprocess.run(['ls'])\nreturn x")),
    "forks": ("file_dependent", draft("import os\nwhile True:\n    os.fork()")),
    "asks the network": (
        "file_dependent",
        draft("import socket\nreturn socket.create_connection(('localhost', 1))")),
    "tells the time": ("time_dependent", draft("import time\nreturn int(time.time()) + x")),
    "times itself": (
        "time_dependent",
        draft("t = perf_counter()\ny = x * 2\nt = perf_counter() - t\nreturn y",
              above="from time import perf_counter\n")),
    "tells the year": (
        "time_dependent", draft("return date.today().year - x", above="from datetime import *\n")),
    "tells today": ("time_dependent", draft("import datetime as d\nreturn d.datetime.now().year")),
    "draws a number": ("non_deterministic", draft("import random\nreturn random.randint(0, 9)")),
    "tosses a coin": ("non_deterministic", draft("import random\nreturn random.choice('ab')")),
    "names by chance": ("non_deterministic", draft("import uuid\nreturn str(uuid.uuid4())")),
    "shows an address": ("non_deterministic", draft("return str(object()) + str(x)")),
    "orders by hashes": ("non_deterministic", draft("return list(set(x))", WORDS)),
    "breaks ties by hashes": (
        "non_deterministic", draft("return max({*x}, key=x.count) if len(x) < 4 else 0", WORDS)),
    "counts its calls": (
        "non_deterministic", draft("global n\nn += 1\nreturn x + n", above="n = 0\n")),
    "keeps what it is given": (
        "non_deterministic", whole("def f(x, seen=[]):\n    seen.append(x)\n    return len(seen)")),
    "sorts in place": ("mutates_input", draft("x.sort()\nreturn x", WORDS)),
    "sorts in place, silently": ("mutates_input", draft("x.sort()", WORDS)),
    "says nothing": ("silent", draft("y = x + 1")),
    "prints an empty line": ("silent", draft("print()")),
    "yields": ("not_plain", draft("yield x")),
    "returns a function": ("not_plain", draft("return lambda: x")),
    "returns objects": ("not_plain", draft("import datetime\nreturn [datetime.date(2020, 1, x)]")),
    "returns too much": ("not_plain", draft("return list(range(100_000))")),
    "prints too much": ("not_plain", draft("for _ in range(20):\n    print('x' * 10 ** 6)")),
    "takes the observer's name": (
        "reference_fails", draft("return x", above="__observed__ = lambda *a: 5\n")),
    "writes to the judge": (
        "reference_fails", draft("import os\nos.write(3, b'{\"i\": 0}\\n' * 50)\nreturn x")),
}  # fmt: skip


def test_each_broken_reference_gets_its_own_name_and_harms_no_other(
    box: Sandbox, elsewhere: Sandbox
) -> None:
    sound = draft("return x + 1")
    drafts = [d for _, one in BROKEN.values() for d in (one, sound)]
    found = ask(box, elsewhere, drafts)
    states = {
        name: result.state if isinstance(result, Rejection) else result
        for name, result in zip(BROKEN, found[::2], strict=True)
    }
    assert states == {name: state for name, (state, _) in BROKEN.items()}
    assert all(isinstance(result, Task) for result in found[1::2])
    assert all(isinstance(r, Rejection) and r.detail for r in found[::2])


def test_the_detail_names_the_call_the_values_and_the_condition(
    box: Sandbox, elsewhere: Sandbox
) -> None:
    names = ["counts its calls", "draws a number", "orders by hashes", "sorts in place",
             "opens a file", "times itself", "endless for one", "undefined name"]  # fmt: skip
    found = ask(box, elsewhere, [BROKEN[name][1] for name in names])
    details = [r.detail for r in found if isinstance(r, Rejection)]
    wanted = ["f(1) gives 2, then 7, with another order of the calls", "other random numbers",
              "order of hashes", "f(['pear', 'fig', 'kiwi']) changes", "'/etc/hostname'",
              "time.perf_counter", "f(4) is stopped (cpu)", "f(1) raises NameError"]  # fmt: skip
    for detail, part in zip(details, wanted, strict=True):
        assert part in detail


# ---- references that are sound ---------------------------------------------------------------

SOUND = {
    "number": draft("return x * 2"),
    "division": draft("return x / 3"),
    "text": draft("return '\\ud800\\0é' * x"),
    "mixed": draft("return {'a': (x, x / 7), 'b': [None, True, b'x', 2j, {1, 'a'}]}"),
    "odd floats": draft("return [float('nan'), float('inf'), -0.0, x / 3]"),
    "huge": draft("return 10 ** 5000 + x"),
    "subclasses": draft("from collections import Counter\nreturn Counter(str(x))"),
    "named tuple": draft(
        "return P(x, 1)", above="from collections import namedtuple\nP = namedtuple('P', 'a b')\n"
    ),
    "none now and then": draft("return x if x % 2 else None"),
    "prints": draft("print('n =', x)\nprint(x * 2)"),
    "prints at times": draft("if x % 2:\n    print(x)\nelse:\n    return x"),
    "own dice": draft("import random\nreturn random.Random(x).randint(0, 9)"),
    "dice that do not show": draft(
        "import random\ny = list(x)\nrandom.shuffle(y)\nreturn sorted(y)", WORDS
    ),
    "sets that do not show": draft("return sorted({*x})", WORDS),
    "imports": draft("import statistics, decimal, email\nreturn statistics.mean([x, 1])"),
    "threads": draft(
        "with ThreadPoolExecutor() as e:\n    return list(e.map(abs, [x]))",
        above="from concurrent.futures import ThreadPoolExecutor\n",
    ),
    "asyncio": draft(
        "async def g():\n    await asyncio.sleep(0)\n    return x\nreturn asyncio.run(g())",
        above="import asyncio\n",
    ),
    "dates": draft(
        "d = datetime.strptime('2020-01-30', '%Y-%m-%d') + timedelta(days=x)\n"
        "return repr(d), isinstance(d, datetime), isinstance(d, date), d.strftime('%d.%m.')",
        above="from datetime import date, datetime, timedelta\n",
    ),
    "paths that are only text": draft("import os\nreturn os.path.join('a', str(x))"),
    "shallow stack": draft("return x", above="import sys\nsys.setrecursionlimit(80)\n"),
    "a copy is sorted": draft("y = list(x)\ny.sort()\nreturn y", WORDS),
}


def test_sound_references_become_tasks_that_they_pass(box: Sandbox, elsewhere: Sandbox) -> None:
    found = ask(box, elsewhere, list(SOUND.values()))
    assert {n: r for n, r in zip(SOUND, found, strict=True) if isinstance(r, Rejection)} == {}
    tasks = [task for task in found if isinstance(task, Task)]
    assert all(len(task.seen_tests) + len(task.tests) == 6 for task in tasks)
    assert not any(set(task.seen_tests) & set(task.tests) for task in tasks)
    jobs = [
        Job(str(number), task, task.reference or "", which)
        for number, task in enumerate(tasks)
        for which in ("hidden", "seen")
    ]
    assert [v.status for v in verify(box, jobs)] == ["passed"] * len(jobs)
    assert [v.status for v in verify(elsewhere, jobs)] == ["passed"] * len(jobs)


def test_what_is_returned_is_the_test_or_what_is_printed(box: Sandbox, elsewhere: Sandbox) -> None:
    names = ["number", "division", "subclasses", "prints", "prints at times", "odd floats"]
    found = ask(box, elsewhere, [SOUND[name] for name in names])
    tests = [r.tests for r in found if isinstance(r, Task)]
    assert tests[0] == (Test("f(4)", "8"), Test("f(5)", "10"), Test("f(6)", "12"))
    assert (tests[1][0].expected, tests[1][0].tolerance) == (repr(4 / 3), tolerance(4 / 3))
    assert tests[2][0] == Test("f(4)", "{'4': 1}", "equal")
    assert tests[3][0] == Test("f(4)", "n = 4\n8", "loose")
    assert tests[4][:2] == (Test("f(4)", "4"), Test("f(5)", "5", "loose"))
    assert tests[5][0].expected.startswith("[float('nan'), float('inf'), -0.0, 1.33")


def test_answers_that_differ_in_rounding_do_not_differ() -> None:
    def answer(value: object) -> Answer:
        return Answer("f(1)", codec.encode(value))

    one = 0.1 + 0.2 + 0.3
    assert one != 0.3 + 0.2 + 0.1
    assert not answer([one, "a"]).differs(answer([0.3 + 0.2 + 0.1, "a"]))
    for other in ([one + 1e-6, "a"], [one, "b"], (one, "a"), [one], one, [one, object()]):
        assert answer([one, "a"]).differs(answer(other))
    assert answer(1).differs(answer(1.0))
    assert answer(10**20).differs(answer(10**20 + 1))


def test_a_call_is_made_however_it_is_written(box: Sandbox, elsewhere: Sandbox) -> None:
    task = Task("t", "Twice n.", "def f(n):\n", "f", reference="def f(n):\n    return 2 * n\n")
    calls = ("f(1)", "f (2)", "(f(3))", " f( 4 )", "f(\n5\n)", "f(6)  # why")
    ((_, made),) = answered(box, elsewhere, [(0, Draft(task, calls))], RULES)
    assert isinstance(made, Task)
    found = [(t.call, t.expected) for t in (*made.seen_tests, *made.tests)]
    assert found == [(call, str(2 * n)) for n, call in enumerate(calls, 1)]


def test_complex_numbers_have_room_for_rounding() -> None:
    assert tolerance(1 + 2j) == tolerance([(0.5 + 1j, 2.0)]) == pytest.approx(1e-9)
    made = as_test(Answer("f(1)", codec.encode((0.1 + 0.2j) * 3)))
    assert isinstance(made, Test)
    assert agrees(made, {"v": codec.encode(0.3 + 0.6j), "o": ""})
    assert not agrees(made, {"v": codec.encode(0.3 + 0.61j), "o": ""})


def test_floats_have_room_and_whole_numbers_beside_them_next_to_none() -> None:
    assert tolerance([1, "a", True]) is None
    assert tolerance({"a": [True, 1.5]}) == pytest.approx(1e-6, rel=1)
    mixed = tolerance((10**6, 0.5)) or 1.0
    assert 0 < mixed * 10**6 < 1


def test_a_call_that_raises_is_left_out(box: Sandbox, elsewhere: Sandbox) -> None:
    raising = draft("if x == 2:\n    raise ValueError('two')\nreturn x")
    often = draft("if x < 4:\n    raise ValueError('small')\nreturn x")
    task, rejection = ask(box, elsewhere, [raising, often])
    assert isinstance(task, Task)
    assert [t.call for t in task.seen_tests] == ["f(1)", "f(3)"]
    assert [t.call for t in task.tests] == ["f(4)", "f(5)", "f(6)"]
    assert isinstance(rejection, Rejection)
    assert rejection.state == "reference_fails"
    assert "3 of 6 calls" in rejection.detail
    assert "ValueError: small" in rejection.detail


def test_hidden_tests_are_never_all_alike_where_a_seen_one_differs(
    box: Sandbox, elsewhere: Sandbox
) -> None:
    (task,) = ask(box, elsewhere, [draft("return x > 2")])
    assert isinstance(task, Task)
    assert {t.expected for t in task.tests} == {"True", "False"}
    assert len({t.call for t in (*task.seen_tests, *task.tests)}) == 6


def test_seen_tests_are_as_many_as_the_rules_say(box: Sandbox, elsewhere: Sandbox) -> None:
    rules = GenerateTable(count=1, calls=3, seen=0, least_tests=3)
    (task,) = ask(box, elsewhere, [draft("return x")], rules)
    assert isinstance(task, Task)
    assert (len(task.seen_tests), len(task.tests)) == (0, 6)


def test_rejections_pass_in_their_turn_and_items_stream(box: Sandbox, elsewhere: Sandbox) -> None:
    taken = 0

    def items() -> Iterator[tuple[int, Draft | Rejection]]:
        nonlocal taken
        for number in range(2000):
            taken += 1
            yield number, Rejection("language", str(number)) if number % 3 else sound

    sound = draft("return x + 1")
    found = answered(box, elsewhere, items(), RULES)
    first = [next(found) for _ in range(5)]
    assert [number for number, _ in first] == [0, 1, 2, 3, 4]
    assert first[1][1] == Rejection("language", "1")
    assert taken < 1500
    found.close()  # type: ignore[attr-defined]


def test_what_the_sandbox_cannot_run_is_not_run(elsewhere: Sandbox) -> None:
    box = Sandbox()
    with box:
        assert box.isolation

        def start() -> Any:
            raise WorkerDied("no more processes")

        for slot in box._slots:
            slot.empty()
            slot._start = start
        (found,) = ask(box, elsewhere, [draft("return x")])
    assert isinstance(found, Rejection)
    assert found.state == "not_run"
