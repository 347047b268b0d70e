"""Landlock: which files a worker and its children may touch, whatever their user may."""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Iterable

from persd.sandbox import linux

_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_REMOVE_DIR, _REMOVE_FILE, _MAKE_CHAR, _MAKE_DIR, _MAKE_REG = (1 << n for n in range(4, 9))
_MAKE_SOCK, _MAKE_FIFO, _MAKE_BLOCK, _MAKE_SYM = (1 << n for n in range(9, 13))
_REFER, _TRUNCATE, _IOCTL_DEV = 1 << 13, 1 << 14, 1 << 15

_READ = _READ_FILE | _READ_DIR
_DEVICE = _READ_FILE | _WRITE_FILE | _TRUNCATE
_OWN = (
    _READ | _WRITE_FILE | _REMOVE_DIR | _REMOVE_FILE | _MAKE_DIR | _MAKE_REG | _MAKE_SYM
    | _MAKE_FIFO | _REFER | _TRUNCATE
)  # fmt: skip

_ABSENT = {
    errno.ENOSYS: "not in this kernel (5.13 and later have it), or a container's filter hides it",
    errno.EOPNOTSUPP: "switched off when the kernel was booted",
    errno.EPERM: "a container's filter refuses it",
}
_RULE_PATH_BENEATH = 1
_SCOPE_ABSTRACT_UNIX, _SCOPE_SIGNAL = 1 << 0, 1 << 1


class _Ruleset(ctypes.Structure):
    _fields_ = (("fs", ctypes.c_uint64), ("net", ctypes.c_uint64), ("scoped", ctypes.c_uint64))


class _PathBeneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("allowed", ctypes.c_uint64), ("parent_fd", ctypes.c_int32))


def version() -> int:
    """The kernel's Landlock ABI. Raises OSError where there is none."""
    try:
        return linux.syscall(linux.NR_LANDLOCK_CREATE_RULESET, None, 0, 1)
    except OSError as error:
        number = error.errno or 0
        raise OSError(number, _ABSENT.get(number, error.strerror)) from None


def minds_truncation() -> bool:
    """Whether cutting a file needs the right to write it: from ABI 3 on."""
    try:
        return version() >= 3
    except OSError:
        return False


def restrict(readable: Iterable[str], devices: Iterable[str], own: str) -> None:
    """From here on: read ``readable``, use ``devices``, write below ``own``, nothing else.

    No TCP, no abstract Unix socket or signal to a process outside, where the kernel knows
    how (ABI 4 and 6). Needs no_new_privs. Raises OSError.
    """
    abi = version()
    known = _known(abi)
    ruleset = _create(abi, known)
    try:
        for path in readable:
            _allow(ruleset, path, _READ & known)
        for path in devices:
            _allow(ruleset, path, _DEVICE & known)
        _allow(ruleset, own, _OWN & known)
        linux.syscall(linux.NR_LANDLOCK_RESTRICT_SELF, ruleset, 0)
    finally:
        os.close(ruleset)


def _known(abi: int) -> int:
    rights = (1 << 13) - 1
    for since, right in ((2, _REFER), (3, _TRUNCATE), (5, _IOCTL_DEV)):
        rights |= right if abi >= since else 0
    return rights


def _create(abi: int, known: int) -> int:
    net = 0b11 if abi >= 4 else 0
    scoped = _SCOPE_ABSTRACT_UNIX | _SCOPE_SIGNAL if abi >= 6 else 0
    rules = _Ruleset(known, net, scoped)
    size = 24 if abi >= 6 else 16 if abi >= 4 else 8
    return linux.syscall(linux.NR_LANDLOCK_CREATE_RULESET, ctypes.byref(rules), size, 0)


def _allow(ruleset: int, path: str, rights: int) -> None:
    try:
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return  # what cannot be reached needs no rule
    try:
        if not os.path.isdir(path):
            rights &= _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL_DEV
        rule = _PathBeneath(rights, fd)
        linux.syscall(
            linux.NR_LANDLOCK_ADD_RULE, ruleset, _RULE_PATH_BENEATH, ctypes.byref(rule), 0
        )
    finally:
        os.close(fd)
