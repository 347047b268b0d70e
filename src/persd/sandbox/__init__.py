"""Runs programs nobody has read, in processes of their own, and compares what they return.

How. A worker is a warm fork server, started with an exec, never forked from a process with
threads. It puts layers of isolation around itself once (``cage``) and forks one child a
program (``server``, ``watch``, ``child``). The child gets source and calls; it answers each
call with one frame of tagged JSON (``codec``, ``channel``). Expected values stay here, where
they are compared with the frames (``compare``); tests that need to run code do so in a judge
process of their own (``check``). Nothing that comes back is unpickled, evaluated or called.

What it promises, one test each in ``tests/test_sandbox_promises.py``:
 1. A program never holds an expected value or test code, nor does the server it is forked from.
 2. A program cannot make a wrong answer right: not by its own ``__eq__``, not by tampering
    with builtins, not by writing frames, not by leaving with exit code 0.
 3. Every program ends: limits are on the CPU clock, with the wall clock behind it.
 4. What a program leaves running (threads, ``__del__``, ``atexit``) is not waited for.
 5. Memory, file sizes, threads and output are bounded; too much output is cut, not failed.
 6. A program that dies takes nothing along: results so far are kept, the next one is well.
 7. The environment is empty, the directory is private and emptied after each program.
 8. Each program starts the same: hash seed and unseeded ``random`` are fixed.
 9. With ``namespaces`` or ``landlock``: files outside Python's own are neither read nor written.
10. With ``namespaces`` or ``seccomp``: no network. With ``seccomp``: no new processes, no
    signals to others.
11. The layers in force are named in ``Sandbox.isolation`` and in every verdict.

What it does not promise: protection against faults of the kernel, side channels (time, load,
caches), or a program that reads the interpreter's own files. Programs of one worker share its
memory from before the fork, earlier programs' source and calls perhaps included, never their
expected values. Values the program computes are the program's word: what it returns, prints
and measures may be made up, and is only ever data. On macOS and where no layer is to be had
there are only separate processes and limits, and the name says so: ``rlimits only``; then a
program may do whatever its user may, to this process too.
"""

from __future__ import annotations

from persd.sandbox.pool import Isolation, Sandbox, Session, probe_isolation
from persd.sandbox.program import Limits, Outcome, Program
from persd.sandbox.split import as_test, split_check
from persd.sandbox.worker import WorkerDied

__all__ = [
    "Isolation",
    "Limits",
    "Outcome",
    "Program",
    "Sandbox",
    "Session",
    "WorkerDied",
    "as_test",
    "probe_isolation",
    "split_check",
]
