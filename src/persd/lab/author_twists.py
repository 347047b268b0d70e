"""What is wrong with a program that an author writes: a sound one, with lines put in.

``TWISTS`` holds, for the states that are found by running a program, the ways to get there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from persd.lab.author_drafts import KINDS, Desk, program_with, said
from persd.records import CandidateState, Proposal

Defect = Callable[[Desk], Proposal]


@dataclass(frozen=True, slots=True)
class Twist:
    """A sound program with lines before and after its own (``author_drafts.program_with``)."""

    says: str = ""
    """What the instruction says of it."""
    top: str = ""
    first: tuple[str, ...] = ()
    last: tuple[str, ...] = ("return result",)
    kinds: str = KINDS
    """Types of input it is for."""

    def __call__(self, desk: Desk) -> Proposal:
        sketch = desk.sketch(self.kinds)
        code = program_with(sketch, top=self.top, first=self.first, last=self.last)
        told = said(sketch, self.says) if self.says else sketch
        return replace(told, code=code).proposal


def _adds(
    says: str, expr: str, top: str = "", first: tuple[str, ...] = (), kinds: str = KINDS
) -> Twist:
    """The result in a list with something more."""
    return Twist(says, top, first, (f"return [result, {expr}]",), kinds)


_REFERENCE_FAILS: Mapping[str, Defect] = {
    "misspelt name": Twist(last=("return resutl",)),
    "no such method": Twist(last=("return result.total()",)),
    "wrong types": Twist(last=("return result + None",)),
    "beyond the end": Twist(last=("return [result][1]",)),
    "division by zero": Twist(last=("return [result, 1 / (len([result]) - 1)]",)),
    "no such key": Twist(last=("table = {'a': result}", "return table['b']")),
    "assertion": Twist(first=("assert {x} is None, 'not ready'",)),
    "not written yet": Twist(first=("raise NotImplementedError",)),
    "no import": Twist(last=("return math.floor(len(str(result)))",)),
    "unknown module": Twist(top="import listtools_extra"),
    "fails on import": Twist(top="LIMIT = int('ten')"),
    "calls itself": Twist(first=("return f({x})",)),
    "leaves": Twist(top="import sys", last=("sys.exit(result)",)),
}
_TOO_SLOW: Mapping[str, Defect] = {
    "endless": Twist(last=("while result is not None:", "    pass", "return result")),
    "counts long": Twist(
        last=("total = 0", "for i in range(10**12):", "    total += i", "return [result, total]")
    ),
    "exponential": Twist(
        top="def grow(n):\n    return n if n < 2 else grow(n - 1) + grow(n - 2)\n",
        last=("return [result, grow(60)]",),
    ),
    "all orders": Twist(
        top="from itertools import permutations",
        last=("count = sum(1 for _ in permutations(range(14)))", "return [result, count]"),
    ),
}
_BOX = "class Box:\n    def __init__(self, value):\n        self.value = value\n"
_NOT_PLAIN: Mapping[str, Defect] = {
    "generator": Twist(last=("return (v for v in [result])",)),
    "map": Twist(last=("return map(str, [result])",)),
    "filter": Twist(last=("return filter(None, [result])",)),
    "reversed": Twist(last=("return reversed([result])",)),
    "zip": Twist(last=("return zip([result], [1])",)),
    "function": Twist(last=("def inner():", "    return result", "return inner")),
    "lambda": Twist(last=("return lambda: result",)),
    "object": Twist(top=_BOX, last=("return Box(result)",)),
    "list of objects": Twist(top=_BOX, last=("return [Box(result), Box(None)]",)),
    "keys": Twist(last=("return {str(result): 1}.keys()",)),
    "deque": Twist(top="from collections import deque", last=("return deque([result])",)),
    "range": Twist(last=("return range(len(str(result)))",)),
}
_SILENT: Mapping[str, Defect] = {
    "no return": Twist(last=()),
    "returns nothing": Twist(last=("return",)),
    "returns None": Twist(last=("return None",)),
    "result of append": Twist(last=("out = []", "return out.append(result)")),
    "result of sort": Twist(last=("out = [str(result), 'a']", "return out.sort()")),
    "returns within": Twist(last=("def finish():", "    return result", "finish()")),
    "only if": Twist(last=("if result is None:", "    return 'nothing'")),
}
_MUTATES_INPUT: Mapping[str, Defect] = {
    "sorts": Twist(last=("{x}.sort()", "return result"), kinds="LW"),
    "reverses": Twist(last=("{x}.reverse()", "return result"), kinds="LW"),
    "appends": Twist(last=("{x}.append({x}[:1])", "return result"), kinds="LW"),
    "clears": Twist(last=("{x}.clear()", "return result"), kinds="LW"),
    "pops": Twist(last=("while len({x}) > 2:", "    {x}.pop()", "return result"), kinds="LW"),
    "deletes": Twist(last=("del {x}[:1]", "return result"), kinds="LW"),
    "assigns a slice": Twist(last=("{x}[:] = {x}[::-1]", "return result"), kinds="LW"),
    "doubles in place": Twist(
        last=("for i in range(len({x})):", "    {x}[i] = {x}[i] * 2", "return result"), kinds="LW"
    ),
    "extends itself": Twist(last=("{x} += {x}[:1]", "return result"), kinds="LW"),
    "through another name": Twist(
        last=("same = {x}", "same.insert(0, same[-1:])", "return result"), kinds="LW"
    ),
}
_NON_DETERMINISTIC: Mapping[str, Defect] = {
    "random number": _adds("Add a random number.", "random.randint(1, 1000)", "import random"),
    "random choice": _adds(
        "Add one element chosen at random.",
        "random.choice(list({x}) or [0])",
        "import random",
        kinds="LWS",
    ),
    "shuffle": Twist(
        "Add the input in a random order.",
        "import random",
        last=("mixed = list({x})", "random.shuffle(mixed)", "return [result, mixed]"),
        kinds="LWS",
    ),
    "own generator": _adds("Add a random part.", "random.Random().random()", "import random"),
    "uuid": _adds("Give every answer a key of its own.", "uuid.uuid4().hex", "import uuid"),
    "secrets": _adds(
        "Add a token that nobody can guess.", "secrets.token_hex(4)", "import secrets"
    ),
    "order of a set": _adds(
        "Add the different parts of the input as texts.",
        "list({str(v) + 'z' for v in {x}})",
        kinds="LWS",
    ),
    "joined set": Twist(
        "Write the different parts of the input behind it.",
        last=("return str(result) + ''.join(set(str(v) for v in {x}))",),
        kinds="LWS",
    ),
    "hash": _adds("Add a checksum of the input as a text.", "hash(str({x})) % 1000"),
    "address": _adds("Add a number that tells it from others.", "id({x})", kinds="LWS"),
    "text of an object": _adds("Add the text of a new object.", "str(object())"),
    "text of a generator": _adds(
        "Add the parts as one text.", "str(str(v) for v in {x})", kinds="LWS"
    ),
}
_TIME_DEPENDENT: Mapping[str, Defect] = {
    "time.time": _adds("Add the current time in seconds.", "int(time.time())", "import time"),
    "from time": _adds("Add the seconds since 1970.", "round(time())", "from time import time"),
    "datetime.now": _adds(
        "Add the current year.", "datetime.now().year", "from datetime import datetime"
    ),
    "date.today": _adds(
        "Add the date of today.", "datetime.date.today().isoformat()", "import datetime"
    ),
    "weekday": _adds(
        "Say whether today is a working day.",
        "date.today().weekday() < 5",
        "from datetime import date",
    ),
    "strftime": _adds("Add the current month as a text.", "time.strftime('%Y-%m')", "import time"),
    "localtime": _adds("Add the hour of the day.", "time.localtime().tm_hour", "import time"),
    "now in UTC": _adds(
        "Add how many days have passed since 2020.",
        "(datetime.now(timezone.utc) - datetime(2020, 1, 1, tzinfo=timezone.utc)).days",
        "from datetime import datetime, timezone",
    ),
    "stop watch": _adds(
        "Say how long it took.",
        "time.perf_counter() - start",
        "import time",
        ("start = time.perf_counter()",),
    ),
    "monotonic": _adds(
        "Say whether it took less than five seconds.",
        "time.monotonic() - start < 5",
        "import time",
        ("start = time.monotonic()",),
    ),
}
_FILE_DEPENDENT: Mapping[str, Defect] = {
    "reads a file": Twist(
        "Add the name of this computer.",
        last=("with open('/etc/hostname') as file:", "    return [result, file.read()]"),
    ),
    "reads its own": _adds("Add what is in numbers.txt.", "open('numbers.txt').read()"),
    "falls back": Twist(
        "Use the limit from limit.txt, or 3 without one.",
        first=(
            "try:",
            "    limit = int(open('limit.txt').read())",
            "except OSError:",
            "    limit = 3",
        ),
        last=("return [result, limit]",),
    ),
    "writes a file": Twist(
        "Keep the answer in out.txt as well.",
        last=("with open('out.txt', 'w') as file:", "    file.write(str(result))", "return result"),
    ),
    "environment": _adds(
        "Add the name of the home folder.", "os.environ.get('HOME', '')", "import os"
    ),
    "getenv": _adds("Add the name of the user.", "os.getenv('USER')", "import os"),
    "lists a folder": _adds("Add how many files are here.", "len(os.listdir('.'))", "import os"),
    "looks for a file": _adds(
        "Say whether data.txt is there.", "os.path.exists('data.txt')", "import os"
    ),
    "pathlib": _adds(
        "Say whether there is a file data.csv.",
        "Path('data.csv').is_file()",
        "from pathlib import Path",
    ),
    "asks": _adds("Ask the user for a number and add it.", "int(input('Number: '))"),
    "reads stdin": _adds("Add what the standard input holds.", "sys.stdin.read()", "import sys"),
    "folder": _adds("Add the current folder.", "os.getcwd()", "import os"),
    "process": _adds(
        "Add what the command date ends with.",
        "subprocess.run(['date'], capture_output=True).returncode",
        "import subprocess",
    ),
    "shell": _adds("Add the code of the command true.", "os.system('true')", "import os"),
    "network": _adds(
        "Add the first line of the page example.org.",
        "urllib.request.urlopen('http://example.org').readline()",
        "import urllib.request",
    ),
    "host name": _adds("Add the name of the host.", "socket.gethostname()", "import socket"),
}

TWISTS: Mapping[CandidateState, Mapping[str, Defect]] = {
    "reference_fails": _REFERENCE_FAILS,
    "too_slow": _TOO_SLOW,
    "not_plain": _NOT_PLAIN,
    "silent": _SILENT,
    "mutates_input": _MUTATES_INPUT,
    "non_deterministic": _NON_DETERMINISTIC,
    "time_dependent": _TIME_DEPENDENT,
    "file_dependent": _FILE_DEPENDENT,
}
