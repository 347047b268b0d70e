"""Namespaces: a worker that sees no other process, no network, and only the files it needs."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
from collections.abc import Iterable

from persd.sandbox import linux

_NEWNS, _NEWUTS, _NEWIPC = 0x00020000, 0x04000000, 0x08000000
_NEWUSER, _NEWPID, _NEWNET = 0x10000000, 0x20000000, 0x40000000
_RDONLY, _NOSUID, _NODEV, _NOEXEC, _BIND, _REC, _PRIVATE = 1, 2, 4, 8, 1 << 12, 1 << 14, 1 << 18
_DETACH = 2
_RECURSIVE = 0x8000
_BOX = "/box"
_BOX_OPTIONS = "size=64m,nr_inodes=4096,mode=700"


def available(root: str, readable: Iterable[str], devices: Iterable[str]) -> str:
    """Whether all of it works here, tried in a fork: empty, or what stands in the way."""
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        trouble = b""
        try:
            unshare()
            inner = os.fork()
            if inner == 0:
                _probe_inner(root, readable, devices, write_end)
            os.waitpid(inner, 0)
        except OSError as error:
            trouble = str(error).encode()
        finally:
            os.write(write_end, trouble)
            os._exit(0)
    os.close(write_end)
    os.waitpid(pid, 0)
    said = os.read(read_end, 4096).decode()
    os.close(read_end)
    return "" if said == "works" else said or "no answer"


def _probe_inner(root: str, readable: Iterable[str], devices: Iterable[str], fd: int) -> None:
    try:
        build(root, readable, devices)
        os.write(fd, b"works")
    except OSError as error:
        os.write(fd, str(error).encode())
    finally:
        os._exit(0)


def unshare() -> None:
    """Leave the user, mount, pid, net, ipc and uts namespaces. Raises OSError."""
    uid, gid = os.geteuid(), os.getegid()
    linux.unshare(_NEWUSER | _NEWNS | _NEWPID | _NEWNET | _NEWIPC | _NEWUTS)
    for name, text in (
        ("setgroups", "deny"),
        ("uid_map", f"65534 {uid} 1"),
        ("gid_map", f"65534 {gid} 1"),
    ):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)


def become_first(root: str) -> None:
    """Fork into the new pid namespace: the child, its process 1, returns; this process waits
    for it, removes the empty directory ``root`` and ends as it did."""
    parent, name = os.path.split(root)
    above = os.open(parent, os.O_PATH | os.O_DIRECTORY)  # out of sight once the root has changed
    pid = os.fork()
    if pid == 0:
        os.close(above)
        linux.prctl(linux.PR_SET_PDEATHSIG, signal.SIGKILL)
        return
    os.closerange(3, above)
    os.closerange(above + 1, 256)
    _, status = os.waitpid(pid, 0)
    with contextlib.suppress(OSError):
        os.rmdir(name, dir_fd=above)
    os._exit(os.waitstatus_to_exitcode(status) & 0xFF)


def build(root: str, readable: Iterable[str], devices: Iterable[str]) -> str:
    """A file system of read-only views and one small writable directory, whose path it returns.

    Runs in process 1 of the namespaces; ``root`` is an empty directory. Raises OSError.
    """
    linux.mount("none", "/", "", _REC | _PRIVATE)
    linux.mount("persd", root, "tmpfs", _NOSUID | _NODEV, "size=1m,mode=755")
    for path in readable:
        _view(root, path, _NOSUID | _NODEV)
    for path in devices:
        _view(root, path, _NOSUID)
    os.mkdir(root + _BOX)
    linux.mount("persd", root + _BOX, "tmpfs", _NOSUID | _NODEV | _NOEXEC, _BOX_OPTIONS)
    os.mkdir(root + "/old")
    os.chdir(root)
    linux.syscall(
        linux.NR_PIVOT_ROOT[linux.MACHINE], ctypes.c_char_p(b"."), ctypes.c_char_p(b"old")
    )
    os.chdir("/")
    linux.unmount("/old", _DETACH)
    os.rmdir("/old")
    _set("/", _RDONLY, recursive=False)
    return _BOX


def _view(root: str, path: str, flags: int) -> None:
    """What is at ``path``, read-only, at the same path below the new root."""
    target = root + path
    if os.path.lexists(target) or not os.path.lexists(path):
        return
    os.makedirs(os.path.dirname(target), exist_ok=True)
    if os.path.islink(path):
        os.symlink(os.readlink(path), target)
        return
    if os.path.isdir(path):
        os.mkdir(target)
    else:
        os.close(os.open(target, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o600))
    linux.mount(path, target, "", _BIND | _REC)
    device = path.startswith("/dev/")
    _set(target, flags if device else flags | _RDONLY, recursive=True)


class _MountAttributes(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_uint64) for name in ("set", "clear", "propagation", "userns"))


def _set(path: str, flags: int, *, recursive: bool) -> None:
    attributes = _MountAttributes(flags, 0, 0, 0)
    linux.syscall(
        linux.NR_MOUNT_SETATTR,
        -100,
        ctypes.c_char_p(path.encode()),
        _RECURSIVE if recursive else 0,
        ctypes.byref(attributes),
        ctypes.sizeof(attributes),
    )


def readable_paths() -> list[str]:
    """What Python needs to read: itself, its packages, the system's shared libraries."""
    system = ["/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib", "/usr/share/zoneinfo"]
    etc = ["/etc/ld.so.cache", "/etc/localtime"]
    own = [sys.base_prefix, sys.prefix, sys.exec_prefix, sys.base_exec_prefix]
    wide = {"/", "/usr", "/usr/local"}
    prefixes = [path for path in dict.fromkeys(map(os.path.abspath, own)) if path not in wide]
    return [*system, *etc, *prefixes]


DEVICES = ("/dev/null", "/dev/zero", "/dev/urandom", "/dev/random")
