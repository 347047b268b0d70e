"""Namespaces: a worker that sees no other process, no network, and only the files it needs."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import re
import signal
import sys
from collections.abc import Iterable, Iterator

from persd.sandbox import linux

_NEWNS, _NEWUTS, _NEWIPC = 0x00020000, 0x04000000, 0x08000000
_NEWUSER, _NEWPID, _NEWNET = 0x10000000, 0x20000000, 0x40000000
_RDONLY, _NOSUID, _NODEV, _NOEXEC, _BIND, _REC, _PRIVATE = 1, 2, 4, 8, 1 << 12, 1 << 14, 1 << 18
_REMOUNT, _DETACH = 1 << 5, 2
#: What a mount of somebody else's must keep when its flags are set anew, by its name.
_KEPT = {"ro": 1, "nosuid": 2, "nodev": 4, "noexec": 8, "noatime": 1 << 10}
_KEPT |= {"nodiratime": 1 << 11, "relatime": 1 << 21}
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
            trouble = why(error).encode()
        finally:
            os.write(write_end, trouble)
            os._exit(0)
    os.close(write_end)
    os.waitpid(pid, 0)
    said = os.read(read_end, 4096).decode()
    os.close(read_end)
    return "" if said == "works" else said or "no answer"


def why(error: OSError) -> str:
    """What stood in the way, without the number."""
    return error.strerror or str(error)


@contextlib.contextmanager
def _step(name: str) -> Iterator[None]:
    """An error inside names the step it is of."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, f"{name}: {why(error)}") from None


def _probe_inner(root: str, readable: Iterable[str], devices: Iterable[str], fd: int) -> None:
    try:
        build(root, readable, devices)
        os.write(fd, b"works")
    except OSError as error:
        os.write(fd, why(error).encode())
    finally:
        os._exit(0)


def unshare() -> None:
    """Leave the user, mount, pid, net, ipc and uts namespaces. Raises OSError."""
    uid, gid = os.geteuid(), os.getegid()
    with _step("unshare"):
        linux.unshare(_NEWUSER | _NEWNS | _NEWPID | _NEWNET | _NEWIPC | _NEWUTS)
    for name, text in (
        ("setgroups", "deny"),
        ("uid_map", f"65534 {uid} 1"),
        ("gid_map", f"65534 {gid} 1"),
    ):
        with _step(name), open(f"/proc/self/{name}", "w") as file:
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
    with _step("mount"):
        linux.mount("none", "/", "", _REC | _PRIVATE)
        linux.mount("persd", root, "tmpfs", _NOSUID | _NODEV, "size=1m,mode=755")
        for path in readable:
            _view(root, path, _NOSUID | _NODEV)
        for path in devices:
            _view(root, path, _NOSUID)
        os.mkdir(root + _BOX)
        linux.mount("persd", root + _BOX, "tmpfs", _NOSUID | _NODEV | _NOEXEC, _BOX_OPTIONS)
    with _step("pivot_root"):
        _change_root(root)
        _set("/", _RDONLY | _NOSUID | _NODEV, recursive=False)
    return _BOX


def _change_root(root: str) -> None:
    os.mkdir(root + "/old")
    os.chdir(root)
    linux.syscall(
        linux.NR_PIVOT_ROOT[linux.MACHINE], ctypes.c_char_p(b"."), ctypes.c_char_p(b"old")
    )
    os.chdir("/")
    linux.unmount("/old", _DETACH)
    os.rmdir("/old")


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
    """Add flags to a mount, and to all below it. Raises OSError."""
    attributes = _MountAttributes(flags, 0, 0, 0)
    try:
        linux.syscall(
            linux.NR_MOUNT_SETATTR,
            -100,
            ctypes.c_char_p(path.encode()),
            _RECURSIVE if recursive else 0,
            ctypes.byref(attributes),
            ctypes.sizeof(attributes),
        )
    except OSError as error:
        if error.errno != errno.ENOSYS:
            raise
        # a kernel before 5.12, or a container's filter that is older than the call
        for mounted, kept in _mounts(path) if recursive else [(path, 0)]:
            linux.mount("none", mounted, "", _REMOUNT | _BIND | flags | kept)


def _mounts(path: str) -> list[tuple[str, int]]:
    """The mount at ``path`` and those below it, each with flags that must not be taken off."""
    found = []
    with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as file:
        for line in file:
            place, options = line.split(" ")[4:6]
            place = re.sub(r"\\([0-7]{3})", lambda digits: chr(int(digits[1], 8)), place)
            if (place + "/").startswith(os.path.realpath(path) + "/"):
                found.append((place, sum(_KEPT.get(name, 0) for name in options.split(","))))
    return found


def readable_paths() -> list[str]:
    """What Python needs to read: itself, its packages, the system's shared libraries."""
    system = ["/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib", "/usr/share/zoneinfo"]
    etc = ["/etc/ld.so.cache", "/etc/localtime"]
    return [*system, *etc, *python_paths()]


def python_paths() -> list[str]:
    """Where Python itself and its packages are, less what holds much else."""
    own = [sys.base_prefix, sys.prefix, sys.exec_prefix, sys.base_exec_prefix]
    wide = {"/", "/usr", "/usr/local"}
    return [path for path in dict.fromkeys(map(os.path.abspath, own)) if path not in wide]


DEVICES = ("/dev/null", "/dev/zero", "/dev/urandom", "/dev/random")
