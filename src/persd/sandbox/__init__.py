"""Runs programs nobody has read, in processes of their own, and gives back what they returned.

How. A worker is a process started with an exec, never forked from a process with threads. It
puts layers of isolation around itself once (``cage``), compiles what it is sent (``server``) and
keeps a warm process that does nothing but fork, one child ahead (``zygote``): a child a program,
watched by the server (``watch``). The child gets source and calls (``child``); it answers each
call with one frame of tagged JSON (``codec``, ``channel``). Expected values stay here, where
they are compared with the frames (``compare``); tests that need to run code do so in a judge
process of their own (``check``). Nothing that comes back is unpickled, evaluated or called.
Here ``pool`` sends requests ahead and takes reports as they come (``slot``, ``worker``).

What it promises, one test each in ``tests/test_sandbox_promises.py``:
 1. A program never holds an expected value or test code, nor does any process it is forked from.
 2. A program cannot make a wrong answer right: not by its own ``__eq__``, not by tampering
    with builtins, not by writing frames, not by leaving with exit code 0.
 3. Every program ends: limits are on the CPU clock, with the wall clock behind it.
 4. What a program leaves running (threads, ``__del__``, ``atexit``) is not waited for.
 5. Memory, file sizes, threads and output are bounded; too much output is cut, not failed.
 6. A program that dies takes nothing along: results so far are kept, the next one is well.
    Where a process dies before it has its program, the program is run again, by a new worker.
 7. The environment is empty, the directory is private and emptied after each program.
 8. Each program starts the same: hash seed and what is drawn without a seed are fixed.
 9. With ``namespaces`` or ``landlock``: files outside Python's own are neither read nor written.
10. With ``namespaces`` or ``seccomp``: no network. With ``seccomp``: no new processes, no
    signals to others.
11. The layers in force are named in ``Sandbox.isolation`` and in every verdict; where they are
    too few (``tiers``) nothing runs, unless the user says so in so many words.
12. Programs share a process only where the caller asks for it (the batch lane), and then only
    those that cannot reach one another (``tame``); each that does not pass is run again alone.

What it does not promise: protection against faults of the kernel, side channels (time, load,
caches), or a program that reads the interpreter's own files. Programs of one worker share its
memory from before the fork, earlier programs' source and calls perhaps included, never their
expected values. Values the program computes are the program's word: what it returns, prints
and measures may be made up, and is only ever data. Verdicts of programs that read the clock or
addresses may differ from run to run. In the batch lane a program can spend time and memory of
its mates, which then run alone. On macOS Seatbelt and limits are the best effort, and the name
says so. With ``unsafe`` and no layers a program may do whatever its user may, to this process too.
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
