"""System calls of Linux that Python has no function for, through ctypes."""

from __future__ import annotations

import ctypes
import os
import platform
import sys
from typing import Any

LINUX = sys.platform == "linux"
#: x86_64 and aarch64 are known; elsewhere the layers that need call numbers are missing.
MACHINE = platform.machine()

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
PR_SET_NO_NEW_PRIVS = 38

#: Of a socket: how much memory it uses, and in that list of numbers what is sent and unread.
SO_MEMINFO, SK_MEMINFO_WMEM_ALLOC = 55, 2

#: The same on every architecture (calls added since the tables were unified).
NR_MOUNT_SETATTR = 442
NR_LANDLOCK_CREATE_RULESET = 444
NR_LANDLOCK_ADD_RULE = 445
NR_LANDLOCK_RESTRICT_SELF = 446
NR_SECCOMP = {"x86_64": 317, "aarch64": 277}
NR_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
NR_CAPSET = {"x86_64": 126, "aarch64": 91}

_libc: Any = ctypes.CDLL(None, use_errno=True) if LINUX else None
#: syscall(number, ...) of C values, without errno: for where every microsecond counts.
SYSCALL: Any = ctypes.CDLL(None).syscall if LINUX else None


def syscall(number: int, *arguments: Any) -> int:
    """The result of a system call. Raises OSError."""
    wide = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    return _checked(_libc.syscall(ctypes.c_long(number), *wide))


def prctl(option: int, value: int) -> None:
    """Raises OSError."""
    zero = ctypes.c_ulong(0)
    _checked(_libc.prctl(option, ctypes.c_ulong(value), zero, zero, zero))


def unshare(flags: int) -> None:
    """Raises OSError."""
    _checked(_libc.unshare(flags))


def mount(source: str, target: str, kind: str, flags: int, data: str = "") -> None:
    """Raises OSError."""
    texts = [text.encode() for text in (source, target, kind)]
    _checked(_libc.mount(*texts, ctypes.c_ulong(flags), data.encode()))


def unmount(target: str, flags: int) -> None:
    """Raises OSError."""
    _checked(_libc.umount2(target.encode(), flags))


def drop_capabilities() -> None:
    """Give up all capabilities, for good once no_new_privs is set. Raises OSError."""
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    empty = (ctypes.c_uint32 * 6)()
    syscall(NR_CAPSET[MACHINE], ctypes.byref(header), ctypes.byref(empty))


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return int(result)
