"""The layers around a worker, put on once: as many as this machine offers, each one named.

namespaces   no other process, no network, a read-only root, a small writable box
landlock     files and signals, also where namespaces are not to be had
seccomp      per program: no new process, no exec, no socket, no signal to others
rlimits      per program: CPU, memory, file size, descriptors
"""

from __future__ import annotations

from collections.abc import Mapping

from persd.sandbox import landlock, linux, namespaces, seccomp

LAYERS = ("namespaces", "landlock", "seccomp", "rlimits")


class Cage:
    """What holds this worker."""

    def __init__(self, box: str) -> None:
        self.box = box  # the writable directory, as the worker sees it
        self.layers: list[str] = []
        self.missing: dict[str, str] = {}  # a layer that could not be put on, and why
        self.filter: seccomp.Filter | None = None

    @property
    def name(self) -> str:
        return " + ".join(self.layers) if len(self.layers) > 1 else "rlimits only"

    def seal(self) -> None:
        """The layer of the program's own process; the last thing before the program runs."""
        if self.filter is not None:
            self.filter.install()


def enter(box: str, without: frozenset[str] = frozenset()) -> Cage:
    """Put on every layer there is but those ``without``. May go on in another process."""
    cage = Cage(box)
    for layer, put_on in (
        ("namespaces", _namespaces),
        ("landlock", _landlock),
        ("seccomp", _seccomp),
    ):
        try:
            if layer in without:
                raise OSError("switched off")
            if not linux.LINUX:
                raise OSError("not Linux")
            put_on(cage)
            cage.layers.append(layer)
        except OSError as error:
            cage.missing[layer] = str(error)
    cage.layers.append("rlimits")
    if linux.LINUX:
        _give_up_root()
    return cage


def _give_up_root() -> None:
    """Without capabilities even root is an ordinary owner of files."""
    linux.prctl(linux.PR_SET_CHILD_SUBREAPER, 1)  # what a program leaves behind is ours to end
    linux.prctl(linux.PR_SET_NO_NEW_PRIVS, 1)
    if linux.MACHINE in linux.NR_CAPSET:
        linux.drop_capabilities()


def _namespaces(cage: Cage) -> None:
    _known_machine(linux.NR_PIVOT_ROOT)
    paths, devices = namespaces.readable_paths(), namespaces.DEVICES
    trouble = namespaces.available(cage.box, paths, devices)
    if trouble:
        raise OSError(trouble)
    namespaces.unshare()
    namespaces.become_first(cage.box)
    cage.box = namespaces.build(cage.box, paths, devices)


def _landlock(cage: Cage) -> None:
    linux.prctl(linux.PR_SET_NO_NEW_PRIVS, 1)
    landlock.restrict(namespaces.readable_paths(), namespaces.DEVICES, cage.box)


def _seccomp(cage: Cage) -> None:
    _known_machine(linux.NR_SECCOMP)
    linux.prctl(linux.PR_SET_NO_NEW_PRIVS, 1)
    cage.filter = seccomp.Filter()
    cage.filter.probe()


def _known_machine(table: Mapping[str, int]) -> None:
    if linux.MACHINE not in table:
        raise OSError(f"not known on {linux.MACHINE}")
