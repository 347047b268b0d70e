"""Watches a program from beside it, in the sandbox: what it uses, and what its calls change.

This file's text runs there as a program's setup (``persd.pool.oracle``), with a few lines after
it that call ``watch`` and clear the program's names of ours; it must stay short (what is longer
than 10,000 characters is compiled in every process anew) and imports nothing of ours. What it
tells is the program's word like anything that comes from there: read as data, and of what a
call returns nothing is believed that the judge does not find as well.

A use counts where it comes from the program's own frames, whatever it calls on the way, and not
from what is done to import a module or to show a traceback. Not seen: clocks and files that C
extensions read by themselves.
"""

from __future__ import annotations

import datetime
import os
import sys
import time
from typing import Any

#: Files in which code of the program itself runs.
_OWN = frozenset({"<program>", "<call>"})
#: By kind of use, modules that may look for themselves.
_ASIDE = {
    "clock": "asyncio concurrent logging queue selectors threading",
    "file": "gettext inspect locale warnings",
    "environment": "argparse asyncio concurrent gettext locale logging",
}
_LOADING = ("importlib", "zipimport", "linecache", "tokenize", "traceback", "_colorize")
#: By kind, audit events (https://docs.python.org/3/library/audit_events.html) or their first word.
_EVENTS = {
    "file": "open sqlite3.connect ctypes.dlopen glob shutil tempfile fcntl",
    "input": "builtins.input",
    "network": "socket urllib ftplib http smtplib",
    "process": "subprocess pty",
}
#: By kind, events of ``os``, and its functions that have none.
_OS_EVENTS = {
    "file": "chdir chmod chown link listdir mkdir remove rename rmdir scandir symlink truncate "
    "utime walk fwalk",
    "environment": "putenv unsetenv",
    "process": "exec fork forkpty kill posix_spawn spawn system",
}
_OS_CALLS = {
    "file": "access getcwd getcwdb lstat readlink stat statvfs",
    "environment": "cpu_count getlogin getpid getppid getuid uname",
}
_CLOCKS = ("time", "monotonic", "perf_counter", "process_time", "thread_time", "clock_gettime")
_MOST, _LENGTH = 16, 80


def watch(shift: float) -> Any:
    """From here on. ``shift``: seconds by which all clocks are ahead.

    Gives a function. Called with a function and its arguments: (what that returns, whether it
    changed its arguments, the uses so far); called without: the uses so far, each as
    ``"kind: what"`` (kinds: clock, file, input, environment, process, network).
    """
    frame: Any = sys._getframe()
    while "codec" not in frame.f_globals:  # the sandbox's own, which programs cannot import
        frame = frame.f_back
    codec, uses = frame.f_globals["codec"], list[str]()

    def observed(*call: Any, **named: Any) -> Any:
        if not call:
            return tuple(uses)
        function, *args = call
        before = codec.dumps([args, named])
        value = function(*args, **named)
        after = codec.dumps([args, named])
        changed = before != after and codec.canonical(before) != codec.canonical(after)
        return value, changed, tuple(uses)

    aside = {kind: {*_LOADING, *names.split()} for kind, names in _ASIDE.items()}

    def note(kind: str, what: object) -> None:
        if len(uses) < _MOST and _is_own(aside.get(kind, _LOADING)):
            text = f"{kind}: {what if type(what) is str else ascii(what)}"[:_LENGTH]
            if text not in uses:
                uses.append(text)

    _watch_clocks(note, shift)
    _watch_files(note)
    _watch_surroundings(note)
    return observed


def _is_own(aside: Any) -> bool:
    """Whether the program does it, and no module that is to be left ``aside``."""
    frame: Any = sys._getframe(2)
    while frame is not None:
        if frame.f_code.co_filename in _OWN:
            return True
        if str(frame.f_globals.get("__name__")).partition(".")[0] in aside:
            return False
        frame = frame.f_back
    return False


def _watch_clocks(note: Any, shift: float) -> None:
    """The functions of ``time``, and ``datetime.datetime``; ``date.today`` asks ``time``."""
    real_time, whole = time.time, int(shift * 1e9)

    def clock(name: str, ahead: float) -> Any:
        real = getattr(time, name)

        def read(*args: Any) -> Any:
            note("clock", f"time.{name}")
            return real(*args) + ahead

        return read

    def shown(name: str, place: int, told: Any) -> Any:
        """One that shows the time it is given as argument ``place``, or the present."""
        real = getattr(time, name)

        def show(*args: Any) -> Any:
            if len(args) > place and args[place] is not None:
                return real(*args)
            note("clock", f"time.{name}")
            return real(*args[:place], told(real_time() + shift))

        return show

    local = time.localtime
    for name in ("localtime", "gmtime", "ctime"):
        setattr(time, name, shown(name, 0, float))
    time.asctime, time.strftime = shown("asctime", 0, local), shown("strftime", 1, local)
    for name in _CLOCKS:
        if hasattr(time, name):
            setattr(time, name, clock(name, shift))
            setattr(time, f"{name}_ns", clock(f"{name}_ns", whole))
    _watch_datetime(note, shift)


def _watch_datetime(note: Any, shift: float) -> None:
    real = datetime.datetime

    class Kind(type):
        def __instancecheck__(cls, value: object) -> bool:
            return isinstance(value, real)

    class Shown(real, metaclass=Kind):  # type: ignore[misc, valid-type]
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            note("clock", "datetime.now")
            ahead = real.now(datetime.UTC) + datetime.timedelta(seconds=shift)
            return cls.fromtimestamp(ahead.timestamp(), tz)

        @classmethod
        def utcnow(cls) -> Any:
            note("clock", "datetime.utcnow")
            return cls.now(datetime.UTC).replace(tzinfo=None)

        @classmethod
        def today(cls) -> Any:
            return cls.now()

        def __repr__(self) -> str:
            return f"datetime.{real.__repr__(self)}"

    Shown.__module__, Shown.__name__, Shown.__qualname__ = "datetime", "datetime", "datetime"
    datetime.datetime = Shown  # type: ignore[misc]


def _watch_files(note: Any) -> None:
    """By audit events, and by what ``os`` offers without one."""

    events = _by_name(_EVENTS) | _by_name(_OS_EVENTS, "os.")

    def hook(event: str, args: Any) -> None:
        kind = events.get(event) or events.get(event.partition(".")[0])
        if kind is None or event == "socket.__new__":  # as asyncio wakes itself up
            return
        about: Any = args[0] if args else None
        if event == "open" and type(about) is int:
            if about == 0:
                note("input", "file descriptor 0")
        elif about != ":memory:":
            plain = type(about) in (str, bytes)
            note(kind, f"{event} {about[:60]!a}" if plain else event)

    def counted(name: str, kind: str, real: Any) -> Any:
        def call(*args: Any, **named: Any) -> Any:
            note(kind, f"os.{name}")
            return real(*args, **named)

        return call

    sys.addaudithook(hook)
    for name, kind in _by_name(_OS_CALLS).items():
        if hasattr(os, name):
            setattr(os, name, counted(name, kind, getattr(os, name)))


def _by_name(table: dict[str, str], prefix: str = "") -> dict[str, str]:
    """Names by kind as kinds by name."""
    return {prefix + name: kind for kind, names in table.items() for name in names.split()}


def _watch_surroundings(note: Any) -> None:
    """The environment and what comes in at ``sys.stdin``."""
    if "platform" in sys.modules:  # the sandbox has asked it already
        sys.modules["platform"]._uname_cache = None  # type: ignore[attr-defined]
    environ: Any = type(os.environ)

    def counted(name: str) -> Any:
        real = getattr(environ, name)

        def call(self: Any, *args: Any) -> Any:
            note("environment", f"os.environ {args[0]!a}" if args else "os.environ")
            return real(self, *args)

        return call

    for name in ("__getitem__", "__setitem__", "__delitem__", "__iter__"):
        setattr(environ, name, counted(name))

    class Input:
        """In place of ``sys.stdin``."""

        def __getattr__(self, name: str) -> Any:
            note("input", f"sys.stdin.{name}")
            return getattr(real, name)

        def __iter__(self) -> Any:
            note("input", "sys.stdin")
            return iter(real or ())

    real: Any = sys.stdin
    if real is not None:
        sys.stdin = Input()
