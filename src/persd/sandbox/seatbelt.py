"""Seatbelt: macOS's own sandbox around a worker, by ``sandbox-exec``. Best effort.

Written from what is published, never run by us: sandbox-exec(1), which Apple calls deprecated
and ships with every macOS; the profiles of Swift's package manager, Nix, Codex and Chromium;
and reports of what breaks a profile (dyld must read ``/`` itself, paths must be real paths, no
sandbox starts inside another). Paths travel as parameters, so that no character in one can be
read as part of the profile.

What the profile is to do: read Python's own files, its packages and the system's libraries,
nothing else; write the worker's box; no network; start no program but Python itself, which
stays inside. New processes are not denied, since the worker has to fork, and names, sizes and
times of files can be seen. None of that is taken on trust: a worker says ``seatbelt`` only
after it has tried to break out (``check``).
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable, Sequence
from functools import cache, partial

from persd.sandbox import namespaces

MACOS = sys.platform == "darwin"
LABEL = "best effort"
EXECUTABLE = "/usr/bin/sandbox-exec"

#: A file that every macOS has, that everybody may read, and that the profile does not allow.
_WITNESS = "/private/etc/hosts"
_START_SECONDS = 30.0


def command(argv: Sequence[str], box: str, without: Sequence[str] = ()) -> list[str]:
    """The command line that starts ``argv`` inside a sandbox where ``box`` can be written.

    ``argv`` as it is where the sandbox does not work here (``trouble``) or is left off by
    ``without``; the worker then finds that nothing holds it, and says so.
    """
    if "seatbelt" in without or trouble():
        return list(argv)
    return [*prefix(argv[0], box), *argv]


def prefix(python: str, box: str) -> list[str]:
    """``sandbox-exec``, the profile and its parameters, to be followed by a command."""
    reads = _real([*_SYSTEM, *_PACKAGES, *namespaces.python_paths(), os.path.dirname(__file__)])
    programs = _real([python, *(p + _FRAMEWORK_PYTHON for p in namespaces.python_paths())])
    values = {"BOX": os.path.realpath(box)}
    values |= {f"READ_{n}": path for n, path in enumerate(reads)}
    values |= {f"PYTHON_{n}": path for n, path in enumerate(programs)}
    parameters = [f"-D{name}={value}" for name, value in values.items()]
    return [EXECUTABLE, "-p", profile(len(reads), len(programs)), *parameters, "--"]


def profile(reads: int, programs: int) -> str:
    """The profile for that many parameters READ_n (folders to read) and PYTHON_n (files to
    start), and BOX (the folder to write). In it the last rule that fits decides."""
    return _PROFILE.format(
        reads="".join(f'\n  (subpath (param "READ_{n}"))' for n in range(reads)),
        programs="".join(f'\n  (literal (param "PYTHON_{n}"))' for n in range(programs)),
    )


@cache
def trouble() -> str:
    """Why no sandbox can be started here, found by starting one; empty where it can."""
    import subprocess
    import tempfile

    if not MACOS:
        return "not macOS"
    if not os.path.exists(EXECUTABLE):
        return f"no {EXECUTABLE}"
    try:
        with tempfile.TemporaryDirectory() as box:
            line = [*prefix(sys.executable, box), sys.executable, "-I", "-c", "import json"]
            done = subprocess.run(line, capture_output=True, timeout=_START_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"sandbox-exec: {error}"
    said = done.stderr.decode(errors="replace").strip().splitlines()[-1:]
    return f"sandbox-exec ended with {done.returncode}: {''.join(said)}" if done.returncode else ""


def check(box: str) -> None:
    """Try what must be denied. Raises OSError naming the first thing that was not."""
    outside = os.path.join(os.path.dirname(box), f"persd-probe-{os.getpid()}")
    attempts: dict[str, Callable[[], None]] = {
        f"{_WITNESS} can be read": _read,
        "files outside the box can be written": partial(_create, outside),
        "the network can be reached": _connect,
        "programs can be started": _start_program,
    }
    for what, attempt in attempts.items():
        try:
            attempt()
        except PermissionError:
            continue
        except OSError as error:
            raise OSError(f"not in force: {what} ({namespaces.why(error)})") from None
        raise OSError(f"not in force: {what}")


def _read() -> None:
    os.close(os.open(_WITNESS, os.O_RDONLY))


def _create(path: str) -> None:
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    os.unlink(path)


def _connect() -> None:
    with socket.socket() as probe:
        probe.settimeout(1.0)
        probe.connect(("127.0.0.1", 9))


def _start_program() -> None:
    os.waitpid(os.posix_spawn("/usr/bin/true", ["true"], {}), 0)


def _real(paths: Sequence[str]) -> list[str]:
    """Each path and what it resolves to (the sandbox compares real paths), once."""
    return list(dict.fromkeys(p for path in paths for p in (os.path.realpath(path), path)))


_SYSTEM = (
    "/System/Library",
    "/System/Cryptexes",
    "/System/Volumes/Preboot/Cryptexes",
    "/private/preboot/Cryptexes",
    "/usr/lib",
    "/usr/share/zoneinfo",
    "/private/var/db/dyld",
    "/private/var/db/timezone",
    "/Library/Apple/System/Library",
    "/Library/Apple/usr/libexec/oah",
)
#: Libraries that a packaged Python loads: Homebrew's on both processors, MacPorts'.
_PACKAGES = (
    *("/opt/homebrew/Cellar", "/opt/homebrew/opt", "/opt/homebrew/lib"),
    *("/usr/local/Cellar", "/usr/local/opt", "/usr/local/lib"),
    "/opt/local/lib",
)
#: A framework build's ``bin/python3`` only starts this.
_FRAMEWORK_PYTHON = "/Resources/Python.app/Contents/MacOS/Python"

_PROFILE = """\
(version 1)
(deny default)
(import "system.sb")
(deny network*)
(deny file-read*
  (literal "/private/etc/passwd")
  (literal "/private/etc/master.passwd"))
(allow process-fork)
(allow process-exec*{programs})
(allow process-info* (target same-sandbox))
(allow signal (target same-sandbox))
(allow sysctl-read)
(allow file-read-metadata)
(allow file-read* (literal "/"))
(allow file-read* file-map-executable{reads}{programs})
(allow file-read* file-write-data
  (literal "/dev/null")
  (literal "/dev/zero"))
(allow file-read*
  (literal "/dev/random")
  (literal "/dev/urandom"))
(allow file-read* file-write*
  (subpath (param "BOX")))
(deny file-write-setugid)
"""
