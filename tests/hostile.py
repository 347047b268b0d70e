"""Programs that misbehave, for the task "add two numbers", and what must be said of each."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Case:
    name: str
    want: str
    """Statuses that are right, ``|`` between them; ``!passed``: anything else. Then, perhaps,
    the exception's type or ``reason=`` with a part of the reason."""
    source: str
    """``{canary}`` stands for a directory outside the sandbox, ``{port}`` for a port there."""
    needs: str = ""
    """Layer of isolation without which the program may well succeed."""


RIGHT = "\ndef add(a, b): return a + b\n"

LEAK = """
def _leak(text):
    with open("{canary}/leaked", "w") as file:
        file.write(str(text))
    with open("leaked", "w") as file:
        file.write(str(text))
"""

TIME = [
    Case(
        "keeps the channel busy",
        "timeout",
        """
import os, time
def add(a, b):
    while True:
        os.write(3, b" ")
        time.sleep(0.01)
""",
    ),
    Case(
        "claims to make progress",
        "timeout",
        """
import gc, struct
W = [o for o in gc.get_objects() if type(o).__name__ == "Writer"][0]
def add(a, b):
    n = 1
    while True:
        n += 1
        W.shared[16:24] = struct.pack("=Q", n % 1000)
""",
    ),
    Case(
        "endless loop",
        "timeout",
        """
def add(a, b):
    while True: pass
""",
    ),
    Case(
        "sleep",
        "timeout",
        """
import time
def add(a, b):
    time.sleep(10**6)
    return a + b
""",
    ),
    Case(
        "one long C call",
        "timeout",
        """
def add(a, b):
    sum(range(10**13))
    return a + b
""",
    ),
    Case(
        "catches everything",
        "timeout",
        """
def add(a, b):
    while True:
        try:
            while True: pass
        except BaseException: pass
""",
    ),
    Case(
        "ignores signals",
        "timeout",
        """
import signal
for s in (signal.SIGALRM, signal.SIGXCPU, signal.SIGTERM):
    signal.signal(s, signal.SIG_IGN)
def add(a, b):
    while True: pass
""",
    ),
    Case(
        "blocks signals",
        "timeout",
        """
import signal
signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 64))
def add(a, b):
    while True: pass
""",
    ),
    Case(
        "stops itself",
        "timeout",
        """
import signal
def add(a, b):
    signal.raise_signal(signal.SIGSTOP)
    return a + b
""",
    ),
    Case(
        "loops while loading",
        "timeout",
        """
while True: pass
def add(a, b): return a + b
""",
    ),
    Case(
        "reads stdin",
        "error EOFError",
        """
def add(a, b):
    return int(input()) + 0 * a
""",
    ),
    Case(
        "busy thread",
        "passed",
        """
import threading
def _f():
    while True: pass
def add(a, b):
    threading.Thread(target=_f).start()
    return a + b
""",
    ),
    Case(
        "endless finaliser",
        "passed",
        """
class X:
    def __del__(s):
        while True: pass
x = X()
def add(a, b): return a + b
""",
    ),
    Case(
        "endless atexit",
        "passed",
        """
import atexit
@atexit.register
def _f():
    while True: pass
def add(a, b): return a + b
""",
    ),
    Case(
        "endless repr",
        "failed reason=not plain data",
        """
class X:
    def __repr__(s):
        while True: pass
def add(a, b): return X()
""",
    ),
    Case(
        "exception without a text",
        "error E",
        """
class E(Exception):
    def __str__(s): raise E()
    __repr__ = __str__
def add(a, b): raise E()
""",
    ),
]

MEMORY = [
    Case(
        "one big block",
        "memory",
        """
def add(a, b):
    x = bytearray(40 * 10**9)
    return a + b
""",
    ),
    Case(
        "many small blocks",
        "memory|timeout",
        """
import itertools
def add(a, b): return list(itertools.product(range(10), repeat=12))
""",
    ),
    Case(
        "keeps growing",
        "memory",
        """
def add(a, b):
    x = []
    while True: x.append(bytes(10**6))
""",
    ),
    Case(
        "prints a gigabyte",
        "passed reason=output cut",
        """
def add(a, b):
    for i in range(1500): print('x' * 10**6)
    return a + b
""",
    ),
    Case(
        "writes to stderr",
        "passed",
        """
import os
def add(a, b):
    for i in range(50): os.write(2, b'x' * 10**5)
    return a + b
""",
    ),
    Case(
        "big file",
        "error reason=quota",
        """
import io
def add(a, b):
    f = io.open('big', 'wb')
    for i in range(600): f.write(b'x' * 10**6)
    f.close()
    return a + b
""",
    ),
    Case(
        "many threads",
        "error|memory",
        """
import threading, time
def add(a, b):
    for i in range(3000):
        threading.Thread(target=time.sleep, args=(3,), daemon=True).start()
    return a + b
""",
    ),
    Case(
        "returns a flood", "failed reason=not plain data", "def add(a, b): return 'x' * (5 << 20)"
    ),
]

ENDS = [
    Case("recursion", "error RecursionError", "def add(a, b): return add(a, b)"),
    Case(
        "abort",
        "crashed reason=SIGABRT",
        """
import os
def add(a, b): os.abort()
""",
    ),
    Case(
        "kills itself",
        "crashed reason=SIGKILL",
        """
import signal
def add(a, b): signal.raise_signal(9)
""",
    ),
    Case(
        "segmentation fault",
        "crashed reason=SIGSEGV",
        """
import ctypes
def add(a, b): return ctypes.string_at(0)
""",
    ),
    Case(
        "leaves while loading",
        "crashed reason=early exit 0",
        """
import os
os._exit(0)
def add(a, b): return a + b
""",
    ),
    Case(
        "leaves while called",
        "crashed reason=early exit 0",
        """
import os
def add(a, b): os._exit(0)
""",
    ),
    Case(
        "sys.exit",
        "error SystemExit",
        """
import sys
sys.exit(0)
""",
    ),
    Case("keyboard interrupt", "error KeyboardInterrupt", "def add(a, b): raise KeyboardInterrupt"),
]

CHEATS = [
    Case(
        "equal to everything",
        "failed reason=not plain data",
        """
class T:
    def __eq__(s, o): return True
    def __ne__(s, o): return False
    def __sub__(s, o): return 0
def add(a, b): return T()
""",
    ),
    Case(
        "an int equal to everything",
        "failed",
        """
class T(int):
    def __eq__(s, o): return True
    __hash__ = int.__hash__
def add(a, b): return T(99)
""",
    ),
    Case(
        "appends to a result list",
        "failed",
        """
import sys
f = sys._getframe()
while f:
    r = f.f_locals.get('result')
    if hasattr(r, 'append'):
        r.append('passed')
    f = f.f_back
def add(a, b): return 0
""",
    ),
    Case(
        "overwrites details",
        "failed",
        """
import sys
f = sys._getframe()
while f:
    L = f.f_locals
    if 'stat' in L and 'details' in L:
        for i in range(len(L['details'])): L['details'][i] = True
    f = f.f_back
def add(a, b): return 0
""",
    ),
    Case(
        "finds expected values",
        "failed",
        """
import gc
_k = [0]
def add(a, b):
    c = [o for o in gc.get_objects() if type(o) is list and o == [3, 12, 0]]
    if c:
        _k[0] += 1
        return c[0][_k[0] - 1]
    return -1
""",
    ),
    Case(
        "tampers with builtins",
        "!passed",
        """
import builtins
builtins.abs = lambda x: 0
builtins.all = lambda x: True
builtins.isinstance = lambda *a: True
def add(a, b): return 0
""",
    ),
    Case(
        "tampers with json",
        "!passed",
        """
import json
json.dumps = lambda *a, **k: '{"i": 0, "v": 3}'
def add(a, b): return 0
""",
    ),
    Case(
        "tampers with the harness",
        "!passed",
        """
import sys
f = sys._getframe()
while f:
    for k in ('encode', 'dumps', 'codec', 'agrees', 'compile'):
        f.f_globals[k] = lambda *a, **k: True
    f = f.f_back
def add(a, b): return 0
""",
    ),
    Case(
        "runs code on unpickling",
        "failed reason=not plain data",
        """
import os
class E:
    def __reduce__(s):
        return (os.system, ('touch {canary}/unpickled',))
def add(a, b): return E()
""",
    ),
    Case(
        "writes to every descriptor",
        "!passed",
        """
import os
for i in range(3, 64):
    try: os.write(i, b'\\0\\0\\0\\x10passedpassedpass' * 4)
    except BaseException: pass
def add(a, b): return a + b
""",
    ),
    Case(
        "forges all frames and leaves",
        "failed",
        """
import os
os.write(3, b'{"i":-1}\\n' + b''.join(b'{"i":%d,"v":true}\\n' % i for i in range(9)))
os._exit(0)
""",
    ),
    Case(
        "scribbles over shared memory",
        "!passed",
        """
import gc, mmap
for o in gc.get_objects():
    if type(o).__name__ == "Writer":
        o.shared[:] = b"\\xff" * len(o.shared)
def add(a, b):
    for o in gc.get_objects():
        if type(o).__name__ == "Writer":
            o.shared[:] = b"\\xff" * len(o.shared)
    import os
    os._exit(0)
""",
    ),
    Case(
        "an array of the sum",
        "failed|error",
        """
import numpy as np
def add(a, b): return np.array([[True]]) * 0 + 3
""",
    ),
    Case(
        "repeats a frame",
        "!passed",
        """
import os
def add(a, b):
    os.write(3, b'{"i":0,"v":3}\\n' * 3)
    return a + b
""",
    ),
    Case(
        "writes half a frame",
        "!passed",
        """
import os
def add(a, b):
    os.write(3, b'{"i":0,"v":')
    os._exit(0)
""",
    ),
    Case(
        "writes frames that are no values",
        "error",
        """
import os
os.write(3, b'{"i":-1}\\n{"i":0,"v":{"tuple":7}}\\n{"i":1,"v":{"sub":1}}\\n{"i":2,"e":{}}\\n')
def add(a, b): return 0
""",
    ),
    Case(
        "floods the channel with lines",
        "!passed",
        """
import os
while True: os.write(3, b'\\n' * 10**5)
""",
    ),
    Case(
        "floods the channel with one line",
        "error reason=channel",
        """
import os
os.write(3, b'{"i":-1}\\n')
while True: os.write(3, b'[' * 10**5)
""",
    ),
    Case(
        "nests beyond every parser",
        "error",
        """
import os
os.write(3, b'{"i":-1}\\n{"i":0,"v":' + b'[' * 10**5 + b']' * 10**5 + b'}\\n')
def add(a, b): return 0
""",
    ),
    Case(
        "pretends the judge is at fault",
        "!passed",
        """
import os
os.write(3, b'{"i":-1}\\n{"i":0,"e":["SyntaxError","",null,null],"k":"call"}\\n')
def add(a, b): return 0
""",
    ),
    Case(
        "poisons what comes next",
        "failed",
        """
import json, os, random, sys
json.dumps = json.loads = None
open('json.py', 'w').write('dumps = loads = None')
sys.path.insert(0, os.getcwd())
os.environ['PYTHONPATH'] = os.getcwd()
def add(a, b): return None
""",
    ),
]

HOST = [
    Case(
        "reads the parent's environment",
        "error reason=denied",
        """
import os, io
def add(a, b):
    s = io.open('/proc/%d/environ' % os.getppid(), 'rb').read()
    _leak(s)
    return 0
""",
        "landlock",
    ),
    Case(
        "reads /etc/passwd",
        "error reason=denied",
        """
import io
def add(a, b):
    s = io.open('/etc/passwd').read()
    _leak(s[:20])
""",
        "landlock",
    ),
    Case(
        "reads a secret",
        "error reason=denied",
        """
def add(a, b):
    _leak(open('{canary}/data.txt').read())
""",
        "landlock",
    ),
    Case(
        "removes a directory",
        "error reason=denied",
        """
import importlib, os
importlib.reload(os)
def add(a, b):
    if os.system('rm -rf {canary}/dir') != 0: raise PermissionError('system')
    return 0
""",
        "seccomp",
    ),
    Case(
        "overwrites a file",
        "error reason=denied",
        """
def add(a, b):
    open('{canary}/data.txt', 'w').write('pwned')
    return 0
""",
        "landlock",
    ),
    Case(
        "writes a new file",
        "error reason=denied",
        """
import pathlib
def add(a, b):
    pathlib.Path('{canary}/new').write_text('x')
    return 0
""",
        "landlock",
    ),
    Case(
        "a directory that resists",
        "passed",
        """
import os
os.mkdir('d'); os.mkdir('d/e'); os.chmod('d', 0)
def add(a, b): return a + b
""",
    ),
    Case(
        "listens",
        "error reason=denied",
        """
import socket
def add(a, b):
    s = socket.socket(); s.bind(('127.0.0.1', 0)); s.listen()
    _leak('listen')
""",
        "seccomp",
    ),
    Case(
        "connects",
        "error reason=denied",
        """
import socket
def add(a, b):
    s = socket.create_connection(('127.0.0.1', {port}), 2)
    s.send(b'leak')
""",
        "seccomp",
    ),
    Case(
        "shared memory",
        "error",
        """
from multiprocessing import shared_memory
def add(a, b):
    shared_memory.SharedMemory(name='persd_canary', create=True, size=10**6)
    return 0
""",
        "landlock",
    ),
    Case(
        "fork and exec",
        "error reason=denied",
        """
import os
def add(a, b):
    if os.fork() == 0:
        os.execv('/usr/bin/touch', ['touch', '{canary}/exec'])
    return 0
""",
        "seccomp",
    ),
    Case(
        "leaves a process behind",
        "passed",
        """
import os, time
try:
    if os.fork() == 0:
        os.setsid()
        time.sleep(20)
        open('{canary}/survivor', 'w')
        os._exit(0)
except OSError: pass
def add(a, b): return a + b
""",
    ),
    Case(
        "multiprocessing",
        "error reason=denied",
        """
import multiprocessing as mp
def _f():
    import time; time.sleep(15)
def add(a, b):
    c = mp.get_context('fork').Process(target=_f); c.start(); c.join()
    return 0
""",
        "seccomp",
    ),
    Case(
        "kills its group",
        "error reason=denied",
        """
import os
def add(a, b):
    os.kill(0, 9)
    return 0
""",
        "seccomp",
    ),
    Case(
        "kills its parent",
        "failed|error|crashed",
        """
import ctypes
def add(a, b):
    l = ctypes.CDLL(None); l.kill(l.getppid(), 9)
    return 0
""",
        "seccomp",
    ),
    Case(
        "kills everybody",
        "error reason=denied",
        """
import os
def add(a, b):
    os.kill(-1, 9)
    return 0
""",
        "seccomp",
    ),
    Case(
        "opens its parent's memory",
        "error reason=denied",
        """
import os
def add(a, b):
    d = os.open('/proc/%d/mem' % os.getppid(), os.O_RDWR)
    _leak('mem')
""",
        "landlock",
    ),
    Case(
        "takes a descriptor of its parent",
        "failed|error",
        """
import ctypes, os
def add(a, b):
    l = ctypes.CDLL(None)
    p = l.syscall(434, os.getppid(), 0); r = l.syscall(438, p, 1, 0)
    if r >= 0: _leak('pidfd')
""",
        "seccomp",
    ),
    Case(
        "traces its parent",
        "failed|error",
        """
import ctypes, os
def add(a, b):
    l = ctypes.CDLL(None)
    if l.ptrace(16, os.getppid(), 0, 0) == 0: _leak('ptrace')
""",
        "seccomp",
    ),
]

PARSE = [
    Case("no colon", "syntax", "def add(a, b) return a + b"),
    Case("a null byte", "syntax", "def add(a, b): return a + b\n\0"),
    Case("a lone surrogate", "syntax", "x = '\ud800'\ndef add(a, b): return a + b"),
    Case("many parentheses", "syntax", "x = " + "(" * 9999 + "1" + ")" * 9999 + RIGHT),
    Case("many brackets", "syntax", "x = " + "[" * 300 + "]" * 300 + RIGHT),
    Case("many braces", "syntax", "x = " + "{" * 60 + RIGHT),
    Case("no entry point", "error reason=missing entry point", "def sub(a, b): return a - b"),
    Case("entry point is a value", "error reason=missing entry point", "add = 3"),
    Case("an odd message", "error ValueError", "def add(a, b): raise ValueError('\\ud800\\x00')"),
    Case("byte order mark", "passed", "\ufeff# -*- coding: utf-8 -*-" + RIGHT),
    Case("carriage returns", "passed", "def add(a, b):\r\n    return a + b\r\n"),
    Case(
        "future import",
        "passed",
        """
from __future__ import annotations
def add(a: X, b: Y) -> Z: return a + b
""",
    ),
    Case(
        "a dataclass",
        "passed",
        """
from dataclasses import dataclass
@dataclass
class P:
    x: int
def add(a, b): return P(a + b).x
""",
    ),
    Case(
        "main guard",
        "passed",
        """
def add(a, b): return a + b
if __name__ == '__main__': exit(1)
""",
    ),
]

MEANING = [
    Case(
        "closes every descriptor",
        "passed",
        """
import os
os.closerange(0, 64)
def add(a, b): return a + b
""",
    ),
    Case("infinity", "failed", "def add(a, b): return float('inf')"),
    Case("a float", "failed", "def add(a, b): return float(a + b)"),
    Case("a bool", "failed", "def add(a, b): return True"),
    Case("a string", "failed", "def add(a, b): return str(a + b)"),
    Case("nothing", "failed", "def add(a, b): print(a + b)"),
    Case(
        "asyncio",
        "passed",
        """
import asyncio
async def f(a, b): return a + b
def add(a, b): return asyncio.run(f(a, b))
""",
    ),
    Case(
        "a thread pool",
        "passed",
        """
from concurrent.futures import ThreadPoolExecutor as T
def add(a, b):
    with T(2) as t: return t.submit(lambda: a + b).result()
""",
    ),
    Case(
        "a temporary file",
        "passed",
        """
import tempfile
def add(a, b):
    with tempfile.TemporaryFile('w+') as f:
        f.write(str(a + b)); f.seek(0)
        return int(f.read())
""",
    ),
]

CASES = [*TIME, *MEMORY, *ENDS, *CHEATS, *HOST, *PARSE, *MEANING]
