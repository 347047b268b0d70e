"""After a program: nothing of it runs on, nothing it wrote stays."""

from __future__ import annotations

import os
import signal
import time


def kill(pid: int) -> None:
    """Kill a child and the process group it leads."""
    for send in (os.killpg, os.kill):
        try:
            send(pid, signal.SIGKILL)
        except OSError:
            continue


def end_strays() -> None:
    """Kill and reap every child: processes that programs left behind, where they could."""
    for _ in range(200):
        try:
            if os.waitpid(-1, os.WNOHANG)[0] == 0:
                _kill_strays()
                time.sleep(0.001)
        except ChildProcessError:
            return


def _kill_strays() -> None:
    if os.getpid() == 1:
        os.kill(-1, signal.SIGKILL)  # all there is in this pid namespace
    for pid in _children():
        kill(pid)


def _children() -> list[int]:
    """Processes whose parent is this one (it adopts orphans; see ``cage``)."""
    try:
        names = [name for name in os.listdir("/proc") if name.isdigit()]
    except OSError:
        return []
    return [int(name) for name in names if _parent(name) == os.getpid()]


def _parent(name: str) -> int:
    try:
        with open(f"/proc/{name}/stat", "rb") as file:
            return int(file.read().rpartition(b")")[2].split()[1])
    except (OSError, IndexError, ValueError):
        return 0


def empty(box: str) -> bool:
    """Remove what the program wrote, however deep and whatever the permissions. False: some of
    it resists. One level at a time, so that no path is too long."""
    inside: list[str] = []
    try:
        os.chmod(box, 0o700)
        os.chdir(box)
        while True:
            directory = _clear_files()
            if directory:
                os.chmod(directory, 0o700)
                os.chdir(directory)
                inside.append(directory)
            elif inside:
                os.chdir("..")
                os.rmdir(inside.pop())
            else:
                return True
    except OSError:
        return False


def _clear_files() -> str:
    """Remove the files of the current directory; a directory in it, or nothing."""
    with os.scandir(".") as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                return entry.name
            os.unlink(entry.name)
    return ""
