"""seccomp: the system calls a program may make. What is not on the list is refused (EPERM).

The list is what single programs of the standard library and NumPy need: files, memory,
threads, clocks, pipes. Not on it: new processes, exec, sockets (a stream socketpair apart,
for asyncio), signals to others, ptrace, mounts, System V memory, io_uring, bpf, keys.
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Callable, Mapping

from persd.sandbox import linux

_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
_EPERM, _ENOMEM, _ENOSYS, _ENOTTY = 1, 12, 38, 25
_SET_MODE_FILTER, _SPEC_ALLOW = 1, 4
_LOAD, _JEQ, _JGE, _AND, _RETURN = 0x20, 0x15, 0x35, 0x54, 0x06
_NR, _ARCH = 0, 4
_AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}

Instruction = tuple[int, int, int, int]
#: Name of a call, the tests that let it pass, the error number otherwise.
Conditions = tuple[tuple[str, list[Instruction], int], ...]


def _argument(index: int) -> int:
    """Offset of the low half of an argument; all that are tested here are 32 bits wide."""
    return 16 + 8 * index


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))


class Filter:
    """Two filters, assembled once. ``restrict`` puts on the list; it is taken by the zygote, which
    may still fork, and handed down. ``install`` is what a program's process adds: few steps,
    since each process pays for them."""

    def __init__(self, *, read_only: bool = True, truncation: bool = True) -> None:
        """``read_only``: files outside the program's own directory are on read-only mounts.
        ``truncation``: something else sees to it that they are not cut. Where not, the filter
        does, at the price of a few calls that the program's own files lose as well."""
        numbers = {n: nr[linux.MACHINE == "aarch64"] for n, nr in _CALLS.items()}
        self._known = {name: number for name, number in numbers.items() if number >= 0}
        answers = dict.fromkeys(_ABSENT, _ENOSYS) | ({} if read_only else _OWNERS)
        conditions = _CONDITIONS
        if not truncation:
            answers |= {"truncate": _EPERM, "openat2": _ENOSYS}
            conditions += _OPEN
        steps = [*self._head(), *self._blocks(conditions), *self._allowed(conditions, answers)]
        self._list = _Code(steps)
        own = [(_LOAD, 0, 0, _NR), *self._blocks(_OWN), (_RETURN, 0, 0, _ALLOW)]
        self._own = _Code(own)

    def restrict(self) -> None:
        """From here on only the list, new processes still among it. Needs no_new_privs.
        Raises OSError."""
        self._list.install()

    def install(self) -> None:
        """From here on, after ``restrict``: no new process, no signal to others. Raises OSError."""
        self._own.install()

    def installer(self) -> Callable[[], None]:
        """``install`` as one small function: every function that a new process calls costs it
        copies of the memory that holds it."""
        return self._own.installer()

    def probe(self) -> None:
        """Raises OSError where filters are not to be had; tried in a fork."""
        pid = os.fork()
        if pid == 0:
            try:
                self.restrict()
                self.install()
                os._exit(0)
            except OSError as error:
                os._exit(error.errno or 1)
        _, status = os.waitpid(pid, 0)
        code = os.waitstatus_to_exitcode(status)
        if code:
            raise OSError(code, "seccomp filters are refused")

    def _head(self) -> list[Instruction]:
        wrong = [(_RETURN, 0, 0, _ERRNO | _ENOSYS)]
        steps = [(_LOAD, 0, 0, _ARCH), (_JEQ, 1, 0, _AUDIT_ARCH[linux.MACHINE]), *wrong]
        steps += [(_LOAD, 0, 0, _NR)]
        # x86's other call table (x32) starts there: its numbers mean other calls
        return [*steps, (_JGE, 0, 1, 0x40000000), *wrong]

    def _blocks(self, conditions: Conditions) -> list[Instruction]:
        """Calls allowed for some arguments only. Each block starts and ends with the number
        loaded and is skipped by the others."""
        steps: list[Instruction] = []
        for name, tests, refusal in conditions:
            if name in self._known:
                body = [*tests, (_RETURN, 0, 0, _ERRNO | refusal), (_RETURN, 0, 0, _ALLOW)]
                steps += [(_JEQ, 0, len(body), self._known[name]), *body]
        return steps

    def _allowed(self, conditions: Conditions, answers: Mapping[str, int]) -> list[Instruction]:
        special = {name for name, _, _ in conditions} | answers.keys()
        plain = sorted({nr for name, nr in self._known.items() if name not in special})
        steps: list[Instruction] = []
        for name, answer in answers.items():
            if name in self._known:
                steps += [(_JEQ, 0, 1, self._known[name]), (_RETURN, 0, 0, _ERRNO | answer)]
        for number in plain:
            steps += [(_JEQ, 0, 1, number), (_RETURN, 0, 0, _ALLOW)]
        return [*steps, (_RETURN, 0, 0, _ERRNO | _EPERM)]


class _Code:
    """One filter as the kernel takes it; the caller's pid is put in when it is installed."""

    def __init__(self, steps: list[Instruction]) -> None:
        self._own_pid = [i for i, step in enumerate(steps) if step[3] == _PID]
        packed = b"".join(struct.pack("<HBBI", *step) for step in steps)
        self._code = ctypes.create_string_buffer(packed, len(packed))
        self._bytes = memoryview(self._code).cast("B")
        self._program = _Program(len(steps), ctypes.cast(self._code, ctypes.c_void_p))
        number = ctypes.c_long(linux.NR_SECCOMP[linux.MACHINE])
        mode, flags = ctypes.c_long(_SET_MODE_FILTER), ctypes.c_long(_SPEC_ALLOW)
        self._arguments = (number, mode, flags, ctypes.byref(self._program))

    def install(self) -> None:
        """Raises OSError."""
        self.installer()()

    def installer(self) -> Callable[[], None]:
        """What installs it. Raises OSError when called."""
        syscall, arguments, code = linux.SYSCALL, self._arguments, self._bytes
        places = [slice(8 * index + 4, 8 * index + 8) for index in self._own_pid]

        def install() -> None:
            pid = os.getpid().to_bytes(4, "little")
            for place in places:
                code[place] = pid
            if syscall(*arguments) != 0:
                raise OSError(_EPERM, "the kernel refuses a seccomp filter")

        return install


# --- conditions: each jumps over the refusal (to ALLOW) where its last test holds ----------

_PID = 0xFFFFFFF1  # stands for the pid until ``install``
_CLONE_THREAD = 0x00010000
_SHARED_ANONYMOUS = 0x21


def _one_of(index: int, *values: int) -> list[Instruction]:
    steps: list[Instruction] = [(_LOAD, 0, 0, _argument(index))]
    for place, value in enumerate(values):
        steps.append((_JEQ, len(values) - place, 0, value))
    return steps


def _masked(index: int, mask: int, value: int) -> list[Instruction]:
    return [(_LOAD, 0, 0, _argument(index)), (_AND, 0, 0, mask), (_JEQ, 1, 0, value)]


def _unlike(index: int, mask: int, value: int) -> list[Instruction]:
    return [(_LOAD, 0, 0, _argument(index)), (_AND, 0, 0, mask), (_JEQ, 0, 1, value)]


def _none_of(index: int, *values: int) -> list[Instruction]:
    steps: list[Instruction] = [(_LOAD, 0, 0, _argument(index))]
    for place, value in enumerate(values):
        last = place == len(values) - 1
        steps.append((_JEQ, 0 if last else len(values) - 1 - place, int(last), value))
    return steps


_STREAM = [
    *[(_LOAD, 0, 0, _argument(0)), (_JEQ, 0, 3, 1)],  # AF_UNIX, or to the refusal
    *[(_LOAD, 0, 0, _argument(1)), (_AND, 0, 0, 0xF), (_JEQ, 1, 0, 1)],
]
#: What a program's process adds: only threads, only itself.
_OWN: Conditions = (
    ("clone", _masked(0, _CLONE_THREAD, _CLONE_THREAD), _EPERM),
    ("kill", _one_of(0, _PID), _EPERM),
    ("tkill", _one_of(0, _PID), _EPERM),
    ("tgkill", _one_of(0, _PID), _EPERM),
    ("prlimit64", _one_of(0, 0, _PID), _EPERM),
    ("seccomp", [], _EPERM),
)
_CONDITIONS: Conditions = (
    # to end with its parent; names of threads and of memory areas
    ("prctl", _one_of(0, 1, 15, 16, 0x53564D41), _EPERM),
    # shared memory without a file, which no limit of a process counts
    ("mmap", _unlike(3, _SHARED_ANONYMOUS, _SHARED_ANONYMOUS), _ENOMEM),
    # filters: more of them only take away
    ("seccomp", _one_of(0, _SET_MODE_FILTER), _EPERM),
    # isatty, window size, close-on-exec, non-blocking, bytes to read
    ("ioctl", _one_of(1, 0x5401, 0x5413, 0x5450, 0x5451, 0x5421, 0x541B), _ENOTTY),
    # signals and leases on descriptors: SETOWN, SETSIG, SETOWN_EX, SETLEASE, NOTIFY
    ("fcntl", _none_of(1, 8, 10, 15, 1024, 1026), _EPERM),
    ("socketpair", _STREAM, _EPERM),
)
_ABSENT = ("clone3", "memfd_create")  # their callers know another way

#: What the owner of a file may do to it, whatever Landlock says, and the answer to it. Error 0:
#: answered as done and not done, since ``shutil.copy`` needs no more. ``Path.touch`` goes another
#: way where times cannot be set, and would be deceived.
_OWNERS = dict.fromkeys(("chmod", "fchmod", "fchmodat"), 0) | dict.fromkeys(
    ("utime", "utimes", "utimensat", "futimesat"), _EPERM
)

_TRUNC, _HOW = 0x200, 3


def _not_cutting(index: int) -> list[Instruction]:
    """Opening that cuts a file needs to be opening for writing, which Landlock sees. (Flags 0
    is reading, 3 is neither; with O_TRUNC the kernel cuts the file all the same.)"""
    return [
        (_LOAD, 0, 0, _argument(index)),
        (_AND, 0, 0, _TRUNC | _HOW),
        (_JEQ, 1, 0, _TRUNC),
        (_JEQ, 0, 1, _TRUNC | _HOW),
    ]


_OPEN: Conditions = (("open", _not_cutting(1), _EPERM), ("openat", _not_cutting(2), _EPERM))

#: name:number on x86_64:number on aarch64, -1 where it does not exist.
_TABLE = """
    read:0:63 write:1:64 readv:19:65 writev:20:66 pread64:17:67 pwrite64:18:68 preadv:295:69
    pwritev:296:70 preadv2:327:286 pwritev2:328:287 sendfile:40:71 copy_file_range:326:285
    splice:275:76 tee:276:77 close:3:57 close_range:436:436 open:2:-1 openat:257:56
    openat2:437:437 creat:85:-1 dup:32:23 dup2:33:-1 dup3:292:24 fcntl:72:25 flock:73:32
    fsync:74:82 fdatasync:75:83 sync_file_range:277:84 fallocate:285:47 fadvise64:221:223
    truncate:76:45 ftruncate:77:46 lseek:8:62 ioctl:16:29 stat:4:-1 fstat:5:80 lstat:6:-1
    newfstatat:262:-1 statx:332:291 statfs:137:43 fstatfs:138:44 access:21:-1 faccessat:269:48
    faccessat2:439:439 getdents:78:-1 getdents64:217:61 getcwd:79:17 chdir:80:49 fchdir:81:50
    umask:95:166 rename:82:-1 renameat:264:38 renameat2:316:276 mkdir:83:-1 mkdirat:258:34
    rmdir:84:-1 link:86:-1 linkat:265:37 unlink:87:-1 unlinkat:263:35 symlink:88:-1
    symlinkat:266:36 readlink:89:-1 readlinkat:267:78 chmod:90:-1 fchmod:91:52 fchmodat:268:53
    utime:132:-1 utimes:235:-1 utimensat:280:88 futimesat:261:-1 mmap:9:222 munmap:11:215
    mprotect:10:226 mremap:25:216 madvise:28:233 msync:26:227 mincore:27:232 brk:12:214
    rt_sigaction:13:134 rt_sigprocmask:14:135 rt_sigreturn:15:139 rt_sigpending:127:136
    rt_sigsuspend:130:133 rt_sigtimedwait:128:137 sigaltstack:131:132 pause:34:-1 alarm:37:-1
    getitimer:36:102 setitimer:38:103 signalfd:282:-1 signalfd4:289:74 timer_create:222:107
    timer_settime:223:110 timer_gettime:224:108 timer_getoverrun:225:109 timer_delete:226:111
    timerfd_create:283:85 timerfd_settime:286:86 timerfd_gettime:287:87 nanosleep:35:101
    clock_nanosleep:230:115 clock_gettime:228:113 clock_getres:229:114 gettimeofday:96:169
    time:201:-1 times:100:153 select:23:-1 pselect6:270:72 poll:7:-1 ppoll:271:73
    epoll_create:213:-1 epoll_create1:291:20 epoll_ctl:233:21 epoll_wait:232:-1
    epoll_pwait:281:22 epoll_pwait2:441:441 eventfd:284:-1 eventfd2:290:19 pipe:22:-1
    pipe2:293:59 socketpair:53:199 sendto:44:206 sendmsg:46:211 recvfrom:45:207 recvmsg:47:212
    shutdown:48:210 getsockopt:55:209 setsockopt:54:208 getsockname:51:204 getpeername:52:205
    futex:202:98 futex_waitv:449:449 set_robust_list:273:99 get_robust_list:274:100
    set_tid_address:218:96 rseq:334:293 membarrier:324:283 restart_syscall:219:128 exit:60:93
    exit_group:231:94 clone:56:220 clone3:435:435 memfd_create:319:279 kill:62:129 tkill:200:130
    tgkill:234:131 prctl:157:167 arch_prctl:158:-1 prlimit64:302:261 getrlimit:97:163
    setrlimit:160:164 getrusage:98:165 sysinfo:99:179 uname:63:160 getrandom:318:278
    sched_yield:24:124 sched_getaffinity:204:123 sched_getparam:143:121
    sched_getscheduler:145:120 sched_get_priority_max:146:125 sched_get_priority_min:147:126
    getpriority:140:141 getcpu:309:168 getpid:39:172 getppid:110:173 gettid:186:178
    getuid:102:174 geteuid:107:175 getgid:104:176 getegid:108:177 getresuid:118:148
    getresgid:120:150 getgroups:115:158 getpgid:121:155 getpgrp:111:-1 getsid:124:156
    wait4:61:260 waitid:247:95 setsid:112:157 seccomp:317:277
"""
_CALLS: dict[str, tuple[int, int]] = {
    name: (int(x86), int(arm)) for name, x86, arm in (entry.split(":") for entry in _TABLE.split())
}
