"""What the observer tells of a program, and that it changes nothing for the program."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from typing import Any

import pytest

from persd.pool.lanes import in_lanes
from persd.pool.observing import Subject, Watched, _setup, more_hashes, watching
from persd.sandbox import Program, Sandbox


@pytest.fixture(scope="module")
def box() -> Iterator[Sandbox]:
    with Sandbox() as box:
        yield box


def uses(box: Sandbox, body: str, above: str = "", ahead: float = 0.0) -> tuple[Any, list[str]]:
    """(what f(1) gives, encoded; what it uses)."""
    code = above + "def f(x):\n" + "".join(f"    {line}\n" for line in body.splitlines())
    calls = ("__observed__(f, 1)", "__observed__()")
    (outcome,) = box.run([Program(code, "f", calls, setup=_setup(ahead))])
    *_, call, last = outcome.frames
    value = call["v"]["tuple"][0] if "v" in call else call["e"]
    return value, last["v"]["tuple"]


def test_it_is_short_enough_to_be_compiled_once() -> None:
    source = _setup(0.0)
    assert len(source) < 10_000
    assert sum(map(source.count, "([{")) < 400


def test_it_leaves_one_name_and_no_import(box: Sandbox) -> None:
    names, _ = uses(box, "return sorted(globals())")
    assert names == ["__builtins__", "__doc__", "__loader__", "__name__", "__observed__",
                     "__package__", "__spec__", "f"]  # fmt: skip
    for name in ("os", "sys", "time", "datetime", "Any", "watch", "annotations"):
        value, _ = uses(box, f"return {name}")
        assert value[:2] == ["NameError", f"name '{name}' is not defined"]


QUIET = {
    "import in a call": "import ssl, http.client, xml.dom.minidom\nreturn x",
    "traceback": "import traceback\ntry:\n    1 / 0\nexcept Exception:\n    "
    "traceback.format_exc()\nreturn x",
    "logging": "import logging\nlogging.warning('x')\nreturn x",
    "warnings": "import warnings\nwarnings.warn('x')\nreturn x",
    "asyncio": "import asyncio\nasync def g():\n    await asyncio.sleep(0.001)\n"
    "asyncio.run(g())\nreturn x",
    "sleep": "import time\ntime.sleep(0.001)\nreturn x",
    "a time that is given": "import time\nreturn time.strftime('%Y', time.gmtime(0))",
    "print": "import sys\nprint(x, file=sys.stderr)\nreturn x",
    "sqlite in memory": "import sqlite3\nsqlite3.connect(':memory:')\nreturn x",
}


@pytest.mark.parametrize("name", QUIET)
def test_what_python_does_for_itself_is_no_use(box: Sandbox, name: str) -> None:
    value, used = uses(box, QUIET[name])
    assert (value, used) == ("1970" if "given" in name else 1, [])


LOUD = {
    "time.ctime()": "clock",
    "time.strftime('%Y')": "clock",
    "time.time_ns()": "clock",
    "datetime.datetime.utcnow()": "clock",
    "datetime.date.today()": "clock",
    "os.listdir('.')": "file",
    "os.path.getsize('.')": "file",
    "pathlib.Path('x').exists()": "file",
    "tempfile.mkstemp()": "file",
    "open(0)": "input",
    "sys.stdin.readline()": "input",
    "list(sys.stdin)": "input",
    "os.getenv('HOME')": "environment",
    "dict(os.environ)": "environment",
    "platform.node()": "environment",
    "os.system('true')": "process",
    "socket.gethostbyname('localhost')": "network",
}


@pytest.mark.parametrize("expression", LOUD)
def test_each_use_has_its_kind(box: Sandbox, expression: str) -> None:
    imports = "import datetime, os, pathlib, platform, socket, sys, tempfile, time\n"
    _, used = uses(box, f"try:\n    {expression}\nexcept OSError:\n    pass", imports)
    assert LOUD[expression] in {use.partition(":")[0] for use in used}
    assert len(used) <= 16
    assert all(len(use) <= 80 for use in used)


def test_all_clocks_are_ahead(box: Sandbox) -> None:
    body = """\
from datetime import date, datetime, timezone
now = datetime.now()
return [time.time(), time.time_ns() / 1e9, now.timestamp(), datetime.now(timezone.utc).timestamp(),
        time.mktime(time.localtime()), time.mktime(datetime.today().timetuple()),
        date.today() == now.date(), date.today().year == time.gmtime()[0],
        str(now.year) == time.strftime('%Y') == time.ctime()[-4:]]"""
    plain, _ = uses(box, body, "import time\n")
    later, _ = uses(box, body, "import time\n", ahead=400 * 86400.0)
    assert plain[6:] == later[6:] == [True, True, True]
    for before, after in zip(plain[:6], later[:6], strict=True):
        assert 400 * 86400 <= after - before < 400 * 86400 + 600


def test_changed_arguments_are_told_whatever_is_returned(box: Sandbox) -> None:
    cases = {"x.append(1)": True, "x[0].add(9)": True, "x[0].discard(1); x[0].add(1)": False,
             "y = x[:]; y.append(1)": False, "x = []": False}  # fmt: skip
    for body, changed in cases.items():
        program = Program(f"def f(x):\n    {body}\n", "f", ("__observed__(f, [{1, 2}])",
                          "__observed__(f, x=[{1, 2}])"), setup=_setup(0.0))  # fmt: skip
        (outcome,) = box.run([program])
        assert [frame["v"]["tuple"][1] for frame in outcome.frames[2:]] == [changed] * 2


def watched(box: Sandbox, *subjects: Subject) -> list[Watched]:
    with Sandbox(workers=1, seed=1) as elsewhere:
        boxes = [box, elsewhere, *more_hashes(elsewhere)]
        return [found for _, found in in_lanes(boxes, enumerate(subjects), watching)]


def test_further_sandboxes_are_kept_and_end_with_theirs(box: Sandbox) -> None:
    elsewhere = Sandbox(workers=1, seed=1)
    more = more_hashes(elsewhere)
    assert more_hashes(elsewhere) is more
    assert more_hashes(box) is not more
    assert all(one.isolation for one in more)
    elsewhere.close()
    del elsewhere
    gc.collect()
    for one in more:
        with pytest.raises(ValueError, match="closed"):
            list(one.run([Program("", "")]))


def test_a_subject_without_calls_or_with_a_broken_setup_is_named(box: Sandbox) -> None:
    good = "def f(x):\n    return x\n"
    none, broken, fine = watched(
        box,
        Subject(good, "f", ()),
        Subject(good, "f", ("f(1)",), setup="1 / 0\n"),
        Subject("def f(x):\n    return y\n", "f", ("f(1)",), setup="y = 3\n"),
    )
    assert none.rejection is not None
    assert none.rejection.state == "reference_fails"
    assert broken.rejection is not None
    assert broken.rejection.state == "not_run"
    assert "ZeroDivisionError" in broken.rejection.detail
    assert fine.rejection is None
    assert [answer.tree for answer in fine.answers] == [3]


def test_ties_that_two_orders_of_hashes_leave_alike_are_found_by_a_third(box: Sandbox) -> None:
    pairs = [(f"a{n}", f"b{n}") for n in range(24)]
    subjects = [
        Subject("def f(x):\n    return list({*x})\n", "f", (f"f({list(pair)})",)) for pair in pairs
    ]
    found = [w.rejection is not None for w in watched(box, *subjects)]
    assert sum(found) >= 17  # of one other order, half; of three, 7 in 8
