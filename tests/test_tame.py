"""The batch lane: which programs may share a process, and that it changes no verdict."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from persd.records import Task, Test, Verdict
from persd.sandbox import Limits, Sandbox
from persd.sandbox.child import compile_program
from persd.sandbox.tame import is_tame
from persd.tasks import load
from persd.tasks.mutants import mutants
from persd.verify import Job, verify


@pytest.fixture(scope="module")
def box() -> Iterator[Sandbox]:
    with Sandbox(workers=2) as sandbox:
        yield sandbox


# ---- which -----------------------------------------------------------------------------------

TAME = [
    "",
    "def f(x):\n    return x + 1\n",
    "from typing import List, Optional\ndef f(x: List[int]) -> Optional[int]:\n    return x[0]\n",
    "import math, re, heapq as h, collections.abc\ndef f(x):\n    return math.sqrt(x)\n",
    "from collections import Counter as C, defaultdict\ndef f(x):\n    return C(x)\n",
    "def f(x):\n    import itertools\n    return list(itertools.chain(x))\n",
    "def f(x):\n    def g(y):\n        nonlocal x\n        x += y\n    g(1)\n    return x\n",
    "f = lambda x: [y for y in {z: z for z in x} if y in {w for w in x}]\n",
    "n = 0\ndef f(x):\n    global n\n    n += x\n    return n\n",
    "def f(x):\n    try:\n        x[0]\n    except IndexError as e:\n        return str(e)\n",
    "def f(x):\n    for _ in range(3):\n        x, _ = x * 2, x\n    return x\n",
    "def f(x):\n    '''__import__('os'), eval, x.__class__'''\n    return '__globals__'\n",
    "def f(x):\n    x[0] = 1; del x[1]; x.append(2); print(x)\n    yield from x\n",
    "def f(x):\n    match x:\n        case [a, *_]: return a\n        case {'k': v}: return v\n",
    "async def f(x):\n    return x\n",
    "def f(x, /, *a, k=1, **kw):\n    assert x, 'no'\n    return f'{x:>3}{a}{kw}'\n",
    "x = 'a' 'b'; y = (1, 2); z = x if y else not x\nwhile x: x = x[1:]\n",
]

WILD = [
    # code that leads to other code
    "eval('1')",
    "exec('1')",
    "compile('1', '', 'eval')",
    "ｅｖａｌ('1')",
    "𝓮𝔁𝓮𝓬('1')",
    "x = y._﹍class﹍_",
    "f = breakpoint",
    "def f(x):\n    return [ｇｅｔａｔｔｒ(y, 'a') for y in x]\n",
    "globals()['x'] = 1",
    "vars()",
    "x = getattr",
    "def f(x):\n    g = setattr\n",
    "def f(x):\n    return (lambda: [delattr for _ in x])\n",
    "super",
    "f = object",
    # names with an underscore in front
    "__builtins__",
    "x = ().__class__",
    "def f(x):\n    return x.__class__.__mro__\n",
    "def f(x):\n    return x._private\n",
    "__name__ == '__main__'",
    "_x = 1",
    "import __main__",
    "import _io",
    "from collections import _sys",
    # attributes that are set
    "import math\nmath.pi = 3",
    "def f(x):\n    x.n = 1\n",
    "def f(x):\n    x.n += 1\n",
    "def f(x):\n    del x.n\n",
    "def f(x):\n    for x.n in [1]: pass\n",
    "def f(x):\n    with x as x.n: pass\n",
    "def f(x):\n    f.cache = {}\n    return x\n",
    "def f(x):\n    [x.n, y] = 1, 2\n",
    # classes
    "class A: pass",
    "def f(x):\n    class A:\n        pass\n    return A\n",
    "def f(x):\n    return [g for g in x if (lambda: 1)]\ndef h():\n    class B(int): pass\n",
    # imports
    "import os",
    "import sys",
    "import os.path as p",
    "import math, os",
    "import numpy as np",
    "import threading",
    "from os import path",
    "from math import *",
    "from . import x",
    "import collections.other",
    "import importlib",
    "def f(x):\n    try:\n        import ctypes\n    except ImportError: pass\n",
    # what listed modules have within
    "import random\nrandom.os",
    "import typing\ntyping.sys.modules",
    "from typing import sys",
    "from functools import wraps",
    "from operator import attrgetter as a, methodcaller",
    "import operator as o\no.attrgetter('x')",
    "from typing import get_type_hints",
    "import collections\ncollections.abc.Sized.register(int)",
    # frames
    "def f(x):\n    yield f.gi_frame\n",
    "def f(g):\n    return g.gi_frame.f_back\n",
    "def f(x):\n    try: x()\n    except Exception as e: return e.with_traceback(None)\n",
    "def f(t):\n    return t.tb_frame\n",
    "def f(c):\n    return c.cr_frame.f_globals\n",
    # whoever reads or waits
    "input()",
    "open('x')",
    "exit()",
    "def f(x): quit()",
]  # fmt: skip


@pytest.mark.parametrize("source", TAME)
def test_what_keeps_to_its_own_names_is_tame(source: str) -> None:
    assert is_tame(compile_program(source))


@pytest.mark.parametrize("source", WILD)
def test_what_may_reach_further_is_not(source: str) -> None:
    assert not is_tame(compile_program(source))


def test_many_names_before_an_import_hide_nothing() -> None:
    names = "\n".join(f"n{i} = {i}" for i in range(300))
    assert not is_tame(compile_program(f"{names}\nimport os\n"))
    assert is_tame(compile_program(f"import math\n{names}\n"))
    assert not is_tame(compile_program(f"import os\n{names}\n"))
    inside = "\n".join(f"    x.m{i}" for i in range(300))
    assert is_tame(compile_program(f"def f(x):\n{inside}\n"))
    assert not is_tame(compile_program(f"def f(x):\n{inside}\n    import os\n"))
    assert not is_tame(compile_program(f"def f(x):\n{inside}\n    x.q = 1\n"))
    assert not is_tame(compile_program(f"def f(x):\n{inside}\n    class A: pass\n"))
    assert not is_tame(compile_program(f"def f(x):\n{inside}\n    eval\n"))


def test_depth_hides_nothing() -> None:
    for inner in ("eval", "import os", "x.n = 1", "class A: pass", "x._n"):
        source = inner
        for depth in range(8):
            source = f"def f{depth}(x):\n" + "\n".join("    " + s for s in source.split("\n"))
        assert not is_tame(compile_program(source))
        assert is_tame(compile_program(source.replace(inner, "pass")))


# ---- that it changes no verdict --------------------------------------------------------------

TASK = Task(
    "t", "Add one.", "def f(x):\n", "f", tests=tuple(Test(f"f({n})", str(n + 1)) for n in range(4))
)
RIGHT = "def f(x):\n    return x + 1\n"
NEIGHBOURS = [
    RIGHT,
    "def f(x):\n    return x\n",
    "def f(x):\n    raise KeyError(x)\n",
    "def f(x):\n    return (x\n",
    "def g(x):\n    return x\n",
    "def f(x):\n    while x: x = x\n    return 1\n",
    "def f(x):\n    return [0] * 10**9\n",
    "def f(x):\n    return f(x)\n",
    "while True: pass\n",
    "import os\nos._exit(0)\n",
    "import os\ndef f(x): os.abort()\n",
    "import random\ndef f(x):\n    return x + (random.random() < 0.9)\n",
    "import random\nrandom.seed(5)\ndef f(x):\n    return x + random.randint(0, 2)\n",
    "seen = []\ndef f(x):\n    seen.append(x)\n    return x + (len(seen) < 5)\n",
    "x = 1 / 0\n",
    "def f(x):\n    print('y' * 9999)\n    return x + 1\n",
    "raise SystemExit(0)\n",
    "len = abs\ndef f(x):\n    return x + len(-1)\n",
    "import math\nf = math.sqrt\n",
    "def f(x):\n    return x + len('a')\n",
]


def told(verdict: Verdict) -> tuple[object, ...]:
    """All of a verdict but how long it took, and so how long it was given."""
    results = tuple(replace(r, cpu_ms=None) for r in verdict.results)
    return (verdict.status, verdict.reason, results, verdict.isolation)


def both(box: Sandbox, jobs: list[Job]) -> tuple[list[Verdict], list[Verdict]]:
    """The verdicts alone, and in batches."""
    alone, together = (list(verify(box, jobs, batch=batch)) for batch in (False, True))
    assert [v.solution_id for v in together] == [job.solution_id for job in jobs]
    return alone, together


def test_neighbours_change_nothing(box: Sandbox) -> None:
    codes = [code for bad in NEIGHBOURS[1:] for code in (RIGHT, bad, NEIGHBOURS[-1])]
    limits = Limits(cpu_seconds=0.3, load_seconds=0.3, memory_mb=96)
    jobs = [Job(str(n), TASK, code, limits=limits) for n, code in enumerate(codes)]
    alone, together = both(box, jobs)
    for job, one, other in zip(jobs, alone, together, strict=True):
        assert told(one) == told(other), job.code
    assert [v.status for v in alone][::3] == ["passed"] * (len(NEIGHBOURS) - 1)


def test_other_limits_tests_and_setups_go_together(box: Sandbox) -> None:
    tasks = [TASK, replace(TASK, setup="ONE = 1\n"), replace(TASK, tests=TASK.tests[:1])]
    checked = replace(TASK, tests=(), test_code="def check(c):\n    assert c(1) == 2\n")
    given = [None, Limits(cpu_seconds=1), Limits(memory_mb=64)]
    codes = [RIGHT, "def f(x):\n    return x + ONE\n", "def f(x):\n    return 1\n"]
    jobs = [
        Job(f"{n}", task, code, limits=limits, stop_at_first_failure=n % 2 == 0)
        for n in range(4)
        for task in (*tasks, checked)
        for code in codes
        for limits in given
    ]
    alone, together = both(box, jobs)
    assert list(map(told, alone)) == list(map(told, together))


def humaneval(data: Path) -> list[Task]:
    return list(load("humaneval", path=str(data / "humaneval" / "HumanEval.jsonl.gz")))


def test_most_of_humaneval_is_tame(data: Path) -> None:
    wild = [t.task_id for t in humaneval(data) if not is_tame(compile_program(t.reference or ""))]
    assert wild == ["HumanEval/160", "HumanEval/162"]  # eval, and hashlib


def test_humaneval_references_and_mutants_get_the_verdicts_they_get_alone(
    box: Sandbox, data: Path
) -> None:
    jobs = []
    for task in humaneval(data):
        programs = [task.reference or "", *mutants(task.reference or "", most=2)]
        jobs += [Job(f"{task.task_id}.{n}", task, code) for n, code in enumerate(programs)]
    alone, together = both(box, jobs)
    differing = [
        (one.solution_id, one.status, other.status)
        for one, other in zip(alone, together, strict=True)
        if _answers(one) != _answers(other)
    ]
    assert differing == []
    assert {v.status for v in alone} >= {"passed", "failed", "error", "timeout"}
    assert all(v.passed for v in together if v.solution_id.endswith(".0"))


def _answers(verdict: Verdict) -> tuple[object, ...]:
    """What does not hang on the last milliseconds before a limit."""
    return verdict.status, [(r.call, r.status, r.actual, r.error_type) for r in verdict.results]


# --- ways out that were found, and closed ----------------------------------------------------

_PATCH = "(math, 'sqrt', lambda v: 42)"
WAYS_OUT = {
    "a class pattern": f"""
import math
def f(x):
    F = type(f)
    match f:
        case F(__globals__=g):
            g['__builtins__']['setattr']{_PATCH}
    return x + 1
""",
    "attributes by text": f"""
import math, string
def f(x):
    found, _ = string.Formatter().get_field('0.__globals__[__builtins__]', (f,), {{}})
    found['setattr']{_PATCH}
    return x + 1
""",
    "a class made by a call": """
import copy, math
def f(x):
    state = (None, {'sqrt': lambda v: 42})
    X = type('X', (), {'__reduce_ex__': lambda s, p: (lambda: math, (), state)})
    copy.copy(X())
    return x + 1
""",
    "a module within a module": "import re\ndef f(x):\n    return re.enum.Enum('E', {})\n",
    "a class of classes": "import typing\ndef f(x):\n    return typing.ABCMeta('E', (), {})\n",
    "the type behind an alias": "import typing\ndef f(x):\n    return typing.get_origin(x)\n",
}
#: Passes only where somebody has replaced ``math.sqrt``.
VICTIM = "import math\ndef f(x):\n    return math.sqrt(-1) - 42 + x + 1\n"


@pytest.mark.parametrize("name", WAYS_OUT)
def test_no_way_out_is_tame(name: str) -> None:
    assert not is_tame(compile_program(WAYS_OUT[name]))


def test_no_mate_makes_a_wrong_program_pass() -> None:
    task = Task("t", "", "def f(x):\n", "f", tests=(Test("f(1)", "2"),))
    codes = [code for way in WAYS_OUT.values() for code in (way, VICTIM)] * 4
    with Sandbox(workers=1, unsafe=True) as box:
        jobs = [Job(str(n), task, code) for n, code in enumerate(codes)]
        found = [verdict.status for verdict in verify(box, jobs, batch=True)]
    assert set(found[1::2]) == {"error"}
