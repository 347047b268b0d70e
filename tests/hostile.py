"""Programs that misbehave, for the task "add two numbers", and what must be said of each."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Case:
    name: str
    want: str
    """Statuses that are right, ``|`` between them; ``!passed``: anything else; ``any``: it may
    even pass, for it is the next program that must not notice. Then, perhaps, the exception's
    type or ``reason=`` with a part of the reason."""
    source: str
    """``{canary}`` stands for a directory outside the sandbox, ``{port}`` for a port there;
    ``_leak`` and ``_frames`` are defined where they are used."""
    needs: str = ""
    """Layer of isolation without which the program may well succeed."""

    def code(self, canary: Path, port: int = 1) -> str:
        """The whole program. ``port``: 1 where nobody listens."""
        used = [text for name, text in _HELPERS.items() if name in self.source]
        text = "".join([*used, self.source.lstrip("\n")])
        return text.replace("{canary}", str(canary)).replace("{port}", str(port))


RIGHT = "\ndef add(a, b): return a + b\n"

_LEAK = """
def _leak(text):
    with open("{canary}/leaked", "w") as file:
        file.write(str(text))
    with open("leaked", "w") as file:
        file.write(str(text))
"""

_FRAMES = """
import sys
def _frames():
    f = sys._getframe()
    while f is not None:
        for v in list(f.f_locals.values()):
            if type(v).__name__ == "Frames": return v
        f = f.f_back
    raise LookupError("the harness is not where it was")
"""

_SYSCALL = """
import ctypes
_libc = ctypes.CDLL(None, use_errno=True)
def _syscall(*numbers):
    return _libc.syscall(*(ctypes.c_long(n) if isinstance(n, int) else n for n in numbers))
"""

_PUT = """
import os
def _put(data, fd=3):
    data = memoryview(data)
    while data: data = data[os.write(fd, data[:65536]):]
def _alike(count, form):
    return b','.join(form % (n * (2**61 - 1)) for n in range(count))
"""

_HELPERS = {"_leak(": _LEAK, "_frames(": _FRAMES, "_syscall(": _SYSCALL, "_put(": _PUT}

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
import struct
W = _frames().writer
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
        "overwrites shared counters",
        "failed",
        """
import multiprocessing.sharedctypes as s, sys
f = sys._getframe()
while f and 'stat' not in f.f_locals: f = f.f_back
if f:
    L = f.f_locals
    L['stat'].value = 1
    for i in range(len(L['details'])): L['details'][i] = True
    import os; os._exit(0)
def add(a, b): return 0
""",
    ),
    Case(
        "writes over what descriptors map",
        "failed",
        """
import mmap, os
n = 0
for i in range(3, 64):
    try:
        m = mmap.mmap(i, 0); m[:] = b'\\1' * len(m); n += 1
    except (OSError, ValueError): pass
def add(a, b): return -n
""",
    ),
    Case(
        "runs code on unpickling",
        "failed reason=not plain data",
        """
import os, sys
class E:
    def __reduce__(s):
        return (os.system, ('touch {canary}/unpickled',))
f = sys._getframe()
while f:
    for r in list(f.f_locals.values()):
        if type(r) is list: r.append(E())
    f = f.f_back
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
        "crashed reason=early exit 0",
        """
import os
S = _frames().writer.shared
def add(a, b):
    S[:] = b"\\xff" * len(S)
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

# --- attacks on this very sandbox ---------------------------------------------------------


def _forged(*frames: str) -> str:
    """A program that writes these frames itself, behind one that says it has loaded; each is
    an expression of bytes, without the end of the line."""
    loaded = """b'{"i":-1}'"""
    puts = "".join(f"_put({frame} + b'\\n')\n" for frame in (loaded, *frames))
    return f"import os\n{puts}os._exit(0)\ndef add(a, b): return 0\n"


def _value(text: str, more: str = "") -> str:
    """The same of one frame, that of the first test; ``text``: an expression of bytes."""
    return _forged(f"""b'{{"i":0,"v":' + {text} + b'{more}}}'""")


#: Frames of the program's own making. They can say what a value is, and nothing more.
FRAMES = [
    Case(
        "a header that promises more",
        "error reason=channel",
        """
import os, struct
S = _frames().writer.shared
def add(a, b):
    S[24:] = b"\\n" * (len(S) - 24)
    S[:24] = struct.pack("=QQQ", 0, 1 << 62, 1 << 62)
    os._exit(0)
""",
    ),
    Case(
        "a header that promises less",
        "crashed reason=early exit 0",
        """
import os, struct
S = _frames().writer.shared
def add(a, b):
    S[:24] = struct.pack("=QQQ", 1 << 62, 24, 1)
    os._exit(0)
""",
    ),
    Case(
        "forges frames in shared memory",
        "failed",
        """
import os, struct
S = _frames().writer.shared
text = b''.join(b'{"i":%d,"v":true}\\n' % i for i in range(-1, 3))
S[24:24 + len(text)] = text
S[:24] = struct.pack("=QQQ", 0, len(text), 4)
os._exit(0)
""",
    ),
    Case(
        "answers out of order", "crashed", _forged(*(f"""b'{{"i":{n},"v":0}}'""" for n in (1, 0)))
    ),
    Case("leaves one out", "!passed", _forged("""b'{"i":1,"v":12}\\n{"i":2,"v":0}'""")),
    Case("starts again and again", "!passed", _forged("""b'{"i":-1}\\n{"i":0,"v":3}\\n' * 3""")),
    Case(
        "says more after the last",
        "passed",
        _forged("""b'{"i":0,"v":3}\\n{"i":1,"v":12}\\n{"i":2,"v":0}\\n{"i":0,"v":9}\\n\\0'"""),
    ),
    Case("opens a batch", "!passed", _forged("""b'{"i":-3,"n":0}\\n{"i":0,"v":3}'""")),
    Case("bytes that are no text", "error reason=channel", _forged("b'\\xff\\xfe'")),
    Case("a million digits", "error reason=channel", _value("b'9' * 10**6")),
    Case("an index of false", "error reason=channel", _forged("""b'{"i":false,"v":3}'""")),
    Case("an index of 0.0", "error reason=channel", _forged("""b'{"i":0.0,"v":3}'""")),
    Case("an index without end", "!passed", _forged("""b'{"i":%s,"v":3}' % (b'9' * 4000)""")),
    Case("a key said twice", "failed", _forged("""b'{"i":5,"i":0,"v":3,"v":0}'""")),
    Case("tokens that JSON lacks", "failed", _value("b'[NaN,Infinity,-Infinity]'")),
    Case("half of a pair", "failed", _value("""b'"\\\\ud800"'""")),
    Case("a tag too many", "error reason=channel", _value("""b'{"tuple":[3],"list":1}'""")),
    Case("no tag at all", "error reason=channel", _value("b'{}'")),
    *[
        Case(f"a time of {name}", "failed", _value("b'4'", f',"t":{text}'))
        for name, text in {
            "a thousand digits": "1" + 999 * "0",
            "infinity": "1e999",
            "nothing": "NaN",
            "minus one": "-1",
            "a text": '"x"',
            "truth": "true",
        }.items()
    ],
    Case(
        "a line of a thousand digits",
        "error",
        _forged("""b'{"i":0,"e":[7,{},%s,1e999]}' % (b'9' * 1000)"""),
    ),
    Case(
        "an exception that is a dict",
        "error",
        _forged("""b'{"i":0,"e":{"a":[]},"k":{},"o":7,"s":[],"c":1}'"""),
    ),
    *[
        Case(
            f"a set within {depth} lists",
            "!passed",
            _value(f"""b'[' * {depth} + b'{{"set":[]}}' + b']' * {depth}"""),
        )
        for depth in (120, 480, 700, 960, 985)
    ],
    *[
        Case(
            f"{depth} subclasses within each other",
            "!passed",
            _value(f"""b'{{"sub":["a",' * {depth} + b'1' + b']}}' * {depth}"""),
        )
        for depth in (120, 240, 300, 480)
    ],
    Case("members of one hash", "!passed", _value("""b'{"set":[%s]}' % _alike(40000, b'%d')""")),
    Case("keys of one hash", "!passed", _value("""b'{"dict":[%s]}' % _alike(40000, b'[%d,0]')""")),
    Case("ten million lists", "!passed", _value("b'[' + b'[],' * 10**7 + b'0]'")),
    Case("a million frames", "!passed", _forged("""b'{"i":0}\\n' * 10**6""")),
    Case("ten million empty lines", "!passed", _forged("b'\\n' * 10**7")),
    Case(
        "megabytes of output",
        "!passed",
        _forged("""b'{"i":0,"v":3,"o":"%s"}' % (b'x' * 3 * 10**7)"""),
    ),
    Case(
        "prints frames",
        "failed",
        """
import sys
def add(a, b):
    for out in (sys.stdout, sys.stderr, sys.__stdout__, sys.stdout.buffer):
        try: out.write('{"i":0,"v":3}\\n')
        except TypeError: out.write(b'{"i":0,"v":3}\\n')
    return 0
""",
    ),
    Case(
        "replaces who writes the frames",
        "failed",
        """
F = type(_frames())
F.value = lambda self, index, value: self.send({"i": index}, "true")
def add(a, b): return 0
""",
    ),
    Case(
        "traces the harness",
        "!passed",
        """
import sys
def t(frame, event, arg):
    for name in list(frame.f_locals):
        if name in ('value', 'fine', 'body'): frame.f_locals[name] = True
    return t
sys.settrace(t); sys.setprofile(t)
def add(a, b): return 0
""",
    ),
    Case(
        "interrupts the harness",
        "!passed",
        """
import signal
class Now(BaseException): pass
def f(*_): raise Now
signal.signal(signal.SIGALRM, f)
signal.setitimer(signal.ITIMER_REAL, 0.0001, 0.0001)
def add(a, b): return 0
""",
    ),
]

#: What a program could leave behind for the next one.
POISON = [
    Case(
        "leaves the channel unblocked",
        "passed",
        """
import fcntl, os
os.set_blocking(3, False)
try: fcntl.ioctl(3, 0x5421, b'\\1\\0\\0\\0')
except OSError: pass
def add(a, b): return a + b
""",
    ),
    *[
        Case(
            "leaves packets in the channel",
            "any",
            """
import fcntl, os
fcntl.fcntl(3, 1031, 1 << 20)
fcntl.fcntl(3, fcntl.F_SETFL, os.O_WRONLY | os.O_DIRECT)
text = b'{"i":-1}\\n{"i":0,"v":99}\\n{"i":1,"v":99}\\n{"i":2,"v":99}'
os.write(3, (text + b' ' * (4095 - len(text)) + b'\\n') * 256)
os.kill(os.getpid(), 9)
""",
        )
    ]
    * 5,
    Case(
        "narrows the channel",
        "passed",
        """
import fcntl
fcntl.fcntl(3, 1031, 4096)
def add(a, b): return a + b
""",
    ),
    Case(
        "fills the channel and is killed",
        "!passed",
        """
import os
def add(a, b):
    os.write(3, b'{"i":-1}\\n{"i":0,"v":99}\\n{"i":1,"v":99}\\n{"i":2,"v":99}\\n' * 1000)
    os.abort()
""",
    ),
    Case(
        "writes frames to the last",
        "any",
        """
import threading
S = _frames().writer.shared
text = b'{"i":-1}\\n{"i":0,"v":99}\\n{"i":1,"v":99}\\n{"i":2,"v":99}\\n'
def f():
    while True:
        S[24:24 + len(text)] = text
        S[8:16] = len(text).to_bytes(8, "little")
for _ in range(8): threading.Thread(target=f, daemon=True).start()
def add(a, b): return a + b
""",
    ),
    Case(
        "maps the shared memory away",
        "crashed",
        """
import ctypes
S = _frames().writer.shared
at = ctypes.addressof(ctypes.c_char.from_buffer(S))
l = ctypes.CDLL(None)
def add(a, b):
    l.madvise(ctypes.c_void_p(at), 1 << 16, 9)
    l.mprotect(ctypes.c_void_p(at), 1 << 16, 0)
    return a + b
""",
    ),
    Case(
        "patches what every program uses",
        "any",
        """
import builtins, gc, marshal, os, random, socket, sys, time
for m in (marshal, os, random, socket, time, gc):
    for n in list(vars(m)):
        if not n.startswith('__'): setattr(m, n, None)
sys.path.clear(); sys.meta_path.clear(); sys.modules.clear()
builtins.compile = builtins.len = builtins.__import__ = None
def add(a, b): return a + b
""",
    ),
    Case(
        "wears out the interpreter",
        "passed",
        """
import gc, locale, os, signal, sys, threading
sys.setrecursionlimit(50); gc.disable(); sys.setswitchinterval(100); sys.set_int_max_str_digits(0)
sys.settrace(lambda *a: None); threading.stack_size(1 << 20); os.umask(0o777); os.chdir('/')
signal.signal(signal.SIGTERM, signal.SIG_IGN); sys.addaudithook(lambda *a: None)
def add(a, b): return a + b
""",
    ),
    Case(
        "lowers its own limits",
        "any",
        """
import resource
for n in ('CPU', 'FSIZE', 'NOFILE', 'STACK', 'NPROC', 'AS', 'DATA'):
    resource.setrlimit(getattr(resource, 'RLIMIT_' + n), (1, 1))
def add(a, b): return a + b
""",
    ),
    Case(
        "raises its own limits",
        "error",
        """
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, (10**6, 10**6))
def add(a, b): return a + b
""",
    ),
    Case(
        "holds every lock",
        "passed",
        """
import _imp, logging, threading
_imp.acquire_lock(); logging._acquireLock()
L = threading.Lock(); L.acquire()
threading.Thread(target=L.acquire).start()
def add(a, b): return a + b
""",
    ),
    Case(
        "directories without an end",
        "passed",
        """
import os
for n in range(400):
    os.mkdir('d' * 200); os.chdir('d' * 200)
os.chmod('.', 0)
def add(a, b): return a + b
""",
    ),
    Case(
        "a thousand directories and more",
        "any",
        """
import os
def add(a, b):
    try:
        for n in range(1500): os.makedirs(f'{n}/x')
    except OSError: pass
    return a + b
""",
    ),
    Case(
        "names that no shell likes",
        "passed",
        """
import os
for n in (b'\\xff\\xfe', b'-rf', b'*', b'\\n', b' ', b'a' * 255, b'..a', b'\\\\'):
    os.mkdir(n); open(n + b'/' + n[:200], 'w').close()
    os.chmod(n, 0)
def add(a, b): return a + b
""",
    ),
    Case(
        "a directory without rights",
        "passed",
        """
import os
open('x', 'w').close(); os.chmod('x', 0); os.chmod('.', 0)
def add(a, b): return a + b
""",
    ),
    Case(
        "links that lead out",
        "passed",
        """
import os
for n, to in enumerate(('{canary}', '{canary}/dir', '{canary}/data.txt', '/', '..', '.', 'l5')):
    os.symlink(to, f'l{n}')
os.mkdir('d'); os.symlink('{canary}', 'd/l')
def add(a, b): return a + b
""",
    ),
    Case(
        "a second name for a secret",
        "error",
        """
import os
def add(a, b): os.link('{canary}/data.txt', 'mine')
""",
        "landlock",
    ),
    Case(
        "removes its directory",
        "error",
        """
import os
def add(a, b): os.rmdir(os.getcwd())
""",
        "landlock",
    ),
    Case(
        "moves its directory",
        "error",
        """
import os
def add(a, b): os.rename(os.getcwd(), '{canary}/box')
""",
        "landlock",
    ),
    Case(
        "fills its directory",
        "error|passed",
        """
def add(a, b):
    for n in range(8):
        with open(str(n), 'wb') as f:
            for _ in range(10): f.write(bytes(1 << 20))
    return a + b
""",
    ),
    Case(
        "a module for the next one",
        "passed",
        """
for name in ('random', 'math', 'sitecustomize', 'encodings', 'numpy'):
    open(name + '.py', 'w').write('raise SystemExit')
def add(a, b): return a + b
""",
    ),
]

#: Ways to run on, or to end, that limits and the watch must see.
ENDURE = [
    Case(
        "the first thread leaves, another sleeps",
        "timeout",
        """
import threading, time
def add(a, b):
    threading.Thread(target=time.sleep, args=(1000,)).start()
    _syscall({"x86_64": 60}.get(__import__('os').uname().machine, 93), 0)
""",
    ),
    Case(
        "the first thread leaves, another is busy",
        "timeout",
        """
import threading
def f():
    while True: pass
def add(a, b):
    threading.Thread(target=f).start()
    _syscall({"x86_64": 60}.get(__import__('os').uname().machine, 93), 0)
""",
    ),
    Case(
        "busy outside Python",
        "timeout",
        """
import hashlib, threading
def f():
    data = bytes(1 << 20)
    while True: hashlib.sha256(data)
def add(a, b):
    for _ in range(16): threading.Thread(target=f).start()
    f()
""",
    ),
    Case(
        "waits for itself",
        "timeout",
        """
import threading
L = threading.Lock()
def add(a, b):
    L.acquire(); L.acquire()
""",
    ),
    Case(
        "wakes again and again",
        "timeout",
        """
import time
def add(a, b):
    while True: time.sleep(0.001)
""",
    ),
    Case(
        "a text without end for its exception",
        "timeout",
        """
class E(SystemExit):
    def __str__(s):
        while True: pass
def add(a, b): raise E
""",
    ),
    Case(
        "an alarm",
        "crashed reason=SIGALRM",
        """
import signal, time
def add(a, b):
    signal.setitimer(signal.ITIMER_REAL, 0.001)
    time.sleep(1)
""",
    ),
    Case(
        "leaves from another thread",
        "crashed reason=early exit 7",
        """
import os, threading, time
def add(a, b):
    threading.Thread(target=os._exit, args=(7,)).start()
    time.sleep(1)
""",
    ),
    Case(
        "leaves from a finaliser",
        "crashed reason=early exit 0",
        """
import os
class X:
    def __del__(s): os._exit(0)
def add(a, b): X()
""",
    ),
    Case(
        "overflows C's stack",
        "crashed reason=SIGSEGV",
        """
def add(a, b):
    x = ()
    for _ in range(3 * 10**5): x = (x,)
    return hash(x)
""",
    ),
    Case(
        "recursion without a limit",
        "memory|timeout|crashed",
        """
import sys
sys.setrecursionlimit(10**9)
def add(a, b): return add(a, b) + 1
""",
    ),
    Case(
        "threads with small stacks",
        "error|memory|timeout|passed",
        """
import threading
threading.stack_size(32768)
E = threading.Event()
def add(a, b):
    while True: threading.Thread(target=E.wait, daemon=True).start()
""",
    ),
    Case(
        "memory shared with nobody",
        "error|memory",
        """
import ctypes, mmap
def add(a, b):
    m = mmap.mmap(-1, 1 << 30)
    ctypes.memset(ctypes.addressof(ctypes.c_char.from_buffer(m)), 1, 1 << 30)
    return a + b
""",
        "seccomp",
    ),
    Case(
        "a finally within each finally",
        "syntax|timeout|memory",
        "def add(a, b):\n"
        + "".join(f"{' ' * n}try: return a\n{' ' * n}finally:\n" for n in range(1, 20))
        + " " * 20
        + "return a\n",
    ),
    Case(
        "many ways into each finally",
        "syntax|timeout|memory",
        "def add(a, b):\n"
        + "".join(
            f"{p}try:\n" + f"{p} if a: return a\n" * 40 + f"{p}finally:\n"
            for p in (" ", "  ", "   ", "    ")
        )
        + "     a\n",
    ),
    Case(
        "functions within functions",
        "passed|timeout",
        "x = " + "\\\n".join(["lambda: " * 45] * 30) + "0" + RIGHT,
    ),
    Case("a sum of thousands", "error|syntax|passed", "x = " + "\\\n+ ".join(["1"] * 2000) + RIGHT),
    Case(
        "a sign before each sign",
        "syntax|passed",
        "x = " + "\\\n".join(["-" * 390] * 24) + "1" + RIGHT,
    ),
    Case("megabytes of source", "passed", f"x = '''{'y' * (3 << 20)}'''" + RIGHT),
    Case(
        "a list that holds itself",
        "failed",
        "def add(a, b):\n    x = []\n    x.append(x)\n    return x",
    ),
    Case(
        "a list beyond every depth",
        "failed",
        "def add(a, b):\n    x = []\n    for _ in range(10**5): x = [x]\n    return x",
    ),
    Case("a megabyte of control characters", "failed", "def add(a, b): return '\\0' * (1 << 20)"),
    Case("a generator", "failed reason=not plain data", "def add(a, b):\n    while True: yield 3"),
    Case(
        "lies about its type",
        "failed",
        """
class T:
    __class__ = property(lambda s: int)
    __index__ = __int__ = lambda s: 3
    __eq__ = lambda s, o: True
def add(a, b): return T()
""",
    ),
    Case(
        "a number by another name",
        "failed",
        """
class T(int):
    __module__ = 'numpy'
    __qualname__ = 'int64'
    def item(s):
        class U(int): pass
        return U(3)
    def __eq__(s, o): return True
T.__name__ = T.__qualname__ = 'int64'
def add(a, b): return T(9)
""",
    ),
]

#: Ways to what lies outside.
BEYOND = [
    *[
        Case(
            f"{name} to its parents",
            "error reason=denied",
            f"""
import os, signal
def add(a, b):
    for pid in {pids}: os.kill(pid, signal.{name})
    return a + b
""",
            "seccomp",
        )
        for name, pids in {
            "SIGSTOP": "(os.getppid(), 1)",
            "SIGKILL": "(1, -1)",
            "SIGXCPU": "(-1,)",
        }.items()
    ],
    Case(
        "forks without end",
        "error reason=denied",
        """
import os
def add(a, b):
    while True: os.fork()
""",
        "seccomp",
    ),
    Case(
        "clones by number",
        "failed",
        """
import os
x86 = os.uname().machine == 'x86_64'
def add(a, b):
    for flags in (17, 0x100 | 17, 0x4000 | 0x100 | 17, 0x10000000 | 17, 0):
        if _syscall(56 if x86 else 220, flags, 0, 0, 0, 0) >= 0: _leak('clone')
    if _syscall(435, ctypes.create_string_buffer(88), 88) >= 0: _leak('clone3')
    if x86 and _syscall(58) >= 0: _leak('vfork')
""",
        "seccomp",
    ),
    Case(
        "clones in the other table of calls",
        "failed",
        """
def add(a, b):
    for n in (56, 57, 58, 59, 62, 520):
        if _syscall(0x40000000 + n, 17, 0, 0, 0, 0) >= 0: _leak(n)
""",
        "seccomp",
    ),
    *[
        Case(
            f"a socket of {family}",
            "error reason=denied",
            f"import socket\ndef add(a, b): socket.{family}",
            "seccomp",
        )
        for family in (
            "socket(socket.AF_UNIX)",
            "socket(socket.AF_INET6, socket.SOCK_DGRAM)",
            "socket(socket.AF_NETLINK, socket.SOCK_RAW)",
            "socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)",
        )
    ],
    Case(
        "sends itself its descriptors",
        "passed",
        """
import os, socket
a_, b_ = socket.socketpair()
socket.send_fds(a_, [b'x'], [0, 1, 3])
fds = socket.recv_fds(b_, 1, 8)[1]
for fd in fds: os.close(fd)
def add(a, b): return a + b
""",
    ),
    Case(
        "descriptors that are not its own",
        "failed",
        """
import os
def there(fd):
    try: os.fstat(fd); return True
    except OSError: return False
def add(a, b):
    more = [fd for fd in range(4, 4096) if there(fd)]
    if more: _leak(more)
    return len(more) - 1
""",
    ),
    *[
        Case(f"starves others by {call}", "error", f"import os\ndef add(a, b): {call}", "seccomp")
        for call in (
            "os.nice(-5)",
            "os.setpriority(os.PRIO_PROCESS, 0, -5)",
            "os.sched_setaffinity(0, {0})",
            "os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))",
        )
    ],
    *[
        Case(f"other roots by {call}", "error", f"import os\ndef add(a, b): {call}", "seccomp")
        for call in (
            "os.chroot('.')",
            "os.setuid(0)",
            "os.mknod('x', 0o20666, 259)",
            "os.mkfifo('x')",
        )
    ],
]

#: Programs of which each passes or fails alone as it does beside the others: (what a program
#: does to its mates, the programs, how the tests compare).
MATES: list[tuple[str, tuple[str, ...], str]] = [
    (
        "attributes named by a pattern",
        (
            """
def add(a, b): return a + b
T = type(add)
match add:
    case T(__globals__=g): pass
B = g["__builtins__"]
if type(B) is not dict:
    M = type(B)
    match B:
        case M(__dict__=D): B = D
M = type(B["__import__"]("sys"))
match B["__import__"]("sys"):
    case M(_getframe=G): pass
f, F = G(), None
TF = type(f)
while F is None:
    match f:
        case TF(f_locals=L, f_back=K): F, f = L.get("frames"), K
TT = type(F)
def value(self, index, v):
    match self:
        case TT(send=send): send({"i": index}, ["3", "12", "0"][index])
B["setattr"](TT, "value", value)
""",
            "def add(a, b): return 0",
        ),
        "value",
    ),
    (
        "attributes named by a formatter",
        (
            """
import string
def add(a, b): return a + b
GF = string.Formatter().get_field
def ga(o, n): return GF("0." + n, (o,), {})[0]
B = ga(add, "__globals__")["__builtins__"]
B = B if isinstance(B, dict) else ga(B, "__dict__")
f, F = ga(B["__import__"]("sys"), "_getframe")(), None
while F is None: F, f = ga(f, "f_locals").get("frames"), ga(f, "f_back")
def value(self, index, v): ga(self, "send")({"i": index}, ["3", "12", "0"][index])
B["setattr"](B["type"](F), "value", value)
""",
            "def add(a, b): return 0",
        ),
        "value",
    ),
    (
        "reads what its mates have answered",
        (
            "def add(a, b): return a + b",
            r"""
import re
def said():
    path = "{0.__traceback__.tb_frame"
    try: 1 / 0
    except Exception as e: err = e
    for _ in range(12):
        path += ".f_back"
        try: used = int((path + ".f_locals[frames].writer.used}").format(err))
        except Exception: continue
        byte = path + ".f_locals[frames].writer.shared[%d]}"
        return "".join((byte % n).format(err)[2:-1] for n in range(24, 24 + used))
def add(a, b): return int(re.findall(r'"v":(\d+)', said())[{1: 0, 5: 1, 0: 2}[a]])
""",
        ),
        "value",
    ),
    (
        "sets attributes by copying",
        (
            """
import copy, math
S = {"__reduce_ex__": lambda s, p: (lambda: math, (), (None, {"gcd": lambda a, b: a + b}))}
copy.copy(type("T", (), S)())
def add(a, b): return a + b
""",
            "import math\ndef add(a, b): return math.gcd(a, b)",
        ),
        "value",
    ),
    (
        "lends its functions",
        (
            """
import typing
@typing.overload
def add(a, b): return a + b
def add(a, b): return a + b
""",
            """
import typing
def add(a, b): return 0
F = typing.get_overloads(add)
def add(a, b): return F[0](a, b)
""",
        ),
        "value",
    ),
    (
        "speaks while another's turn is on",
        (
            """
def g():
    try:
        while True: yield
    finally: print("3")
def add(a, b): return a + b
G = g()
next(G)
""",
            "def add(a, b):\n    x = [[] for _ in range(3000)]",
            "def add(a, b):\n    x = [[] for _ in range(3000)]",
        ),
        "loose",
    ),
    (
        "comes back whenever it is collected",
        (
            """
def spawn():
    x = g(); next(x)
    y = [x]; y.append(y)
def g():
    try:
        while True: yield
    finally:
        print("3")
        spawn()
def add(a, b): return a + b
spawn()
""",
            *["def add(a, b):\n    x = [[y] for y in range(3000)]"] * 6,
        ),
        "loose",
    ),
    (
        "draws from another's stream",
        (
            """
import random
def g():
    try:
        while True: yield
    finally: random.seed(1)
def add(a, b): return a + b
G = g()
next(G)
""",
            """
import random
def add(a, b):
    x = [[] for _ in range(3000)]
    return a + b if random.random() < 0.3 else 0
""",
        ),
        "value",
    ),
    (
        "modules within modules",
        (
            """
import typing
def add(a, b): return a + b
class_ = type("W", (), {"write": lambda s, t: None, "some": False, "take": lambda s: ("3", False)})
def g():
    with typing.contextlib.redirect_stdout(class_()): yield
G = g()
next(G)
""",
            "import re\ndef add(a, b): return re.enum.bltns.len('abc') - 3",
        ),
        "loose",
    ),
    (
        "functions within functions",
        (
            "x = " + "\\\n".join(["lambda: " * 45] * 25) + "0" + RIGHT,
            "def add(a, b): return a + b",
            "def add(a, b): return a",
        ),
        "value",
    ),
    (
        "spends what is there for all",
        (
            "x = []\nwhile True: x.append(bytes(10**8))",
            "def add(a, b): return add(a, b)",
            "def add(a, b):\n    while True: pass",
            "def add(a, b): return a + b",
            "x = iter(())\nfor _ in range(10**6): x = map(abs, x)\nnext(x, 0)" + RIGHT,
            "def add(a, b): return a + b",
        ),
        "value",
    ),
    (
        "hides what everybody uses",
        (
            "len = abs = isinstance = print = range = None\ndel len" + RIGHT,
            "def add(a, b):\n    global sorted\n    sorted = lambda x: x\n    return sorted(a)",
            "def add(a, b, s=[]):\n    s.append(a)\n    return a + b + (len(s) > 3)",
            "def add(a, b): return len(range(a + b)) * isinstance(a, int)",
            "def add(a, b): return sorted([a, b])[0]",
        ),
        "value",
    ),
]

#: Against test code in a process of its own: wanted, source, test code.
_LOOP = "def check(c):\n    for n in range(3):\n        assert c(n, 1) == n + 1\n"
_USES = "def check(c):\n    for _ in range(c(3, 4)): pass\n    assert c(3, 4) == 7\n"
_WAIT = "\n    while True: pass\n"
ACROSS = [
    *[
        (Case(name, want, f"def add(a, b):\n    _put({answer}, 4){_WAIT}"), _LOOP)
        for name, want, answer in (
            (
                "an answer of one hash",
                "!passed",
                """b'{"v":{"set":[%s]}}\\n' % _alike(40000, b'%d')""",
            ),
            ("a million dicts", "!passed", """b'{"v":[%s0]}\\n' % (b'{"":0},' * 10**6)"""),
            (
                "subclasses within each other",
                "!passed",
                """b'{"v":%s1%s}\\n' % (b'{"sub":["a",' * 300, b']}' * 300)""",
            ),
            (
                "a set within lists",
                "!passed",
                """b'{"v":%s{"set":[]}%s}\\n' % (b'[' * 700, b']' * 700)""",
            ),
            ("an argument that is none", "!passed", """b'{"v":1,"a":7}\\n'"""),
            ("half an answer", "timeout|error", """b'{"v":1'"""),
            ("an exception of its own", "!passed", """b'{"e":["AssertionError","",{},[]]}\\n'"""),
            ("an exception that is no list", "!passed", """b'{"e":7}\\n'"""),
        )
    ],
    (Case("answers unasked", "failed", """_put(b'{"v":7,"a":null}\\n' * 3, 4)""" + RIGHT), _LOOP),
    (Case("hangs up", "timeout", "import os\ndef add(a, b):\n    os.close(4)" + _WAIT), _LOOP),
    (Case("what a test counts up to", "timeout|failed", "def add(a, b): return 10**15"), _USES),
    (
        Case(
            "turns without number",
            "timeout",
            "import time\nW = _frames().writer\n"
            "def add(a, b):\n    while True: W.tick(); time.sleep(0.01)",
        ),
        _LOOP,
    ),
]

#: What the layers of isolation have a part in.
HELD = [*TIME, *MEMORY, *ENDS, *CHEATS, *HOST, *PARSE, *MEANING, *POISON, *BEYOND]
CASES = [*HELD, *FRAMES, *ENDURE]
