"""The layers around a worker, put on once: as many as this machine offers, each one named.

namespaces   no other process, no network, a read-only root, a small writable box
landlock     files and signals, also where namespaces are not to be had
seccomp      per program: no new process, no exec, no socket, no signal to others
seatbelt     macOS, in place of the three: files and network; put on by how a worker is started
rlimits      per program: CPU, memory, file size, descriptors

``tiers`` says which of them together are enough.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from persd.sandbox import landlock, linux, namespaces, seatbelt, seccomp


class Cage:
    """What holds this worker."""

    def __init__(self, box: str) -> None:
        self.box = box  # the writable directory, as the worker sees it
        self.layers: list[str] = []
        self.missing: dict[str, str] = {}  # a layer that could not be put on, and why
        self.filter: seccomp.Filter | None = None

    @property
    def name(self) -> str:
        if len(self.layers) < 2:
            return "rlimits only"
        label = f" ({seatbelt.LABEL})" if "seatbelt" in self.layers else ""
        return " + ".join(self.layers) + label

    def restrict(self) -> None:
        """The layer of the process that programs are forked from."""
        if self.filter is not None:
            self.filter.restrict()

    def seal(self) -> Callable[[], None] | None:
        """What puts on the layer of a program's own process, the last thing before the program
        runs; None: there is none."""
        return None if self.filter is None else self.filter.installer()


def enter(box: str, without: frozenset[str] = frozenset()) -> Cage:
    """Put on every layer there is but those ``without``. May go on in another process."""
    cage = Cage(box)
    for layer, put_on in _PUT_ON.items():
        try:
            if layer in without:
                raise OSError("switched off")
            put_on(cage)
            cage.layers.append(layer)
        except OSError as error:
            cage.missing[layer] = namespaces.why(error)
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
    _known(linux.NR_PIVOT_ROOT)
    paths, devices = namespaces.readable_paths(), namespaces.DEVICES
    trouble = namespaces.available(cage.box, paths, devices)
    if trouble:
        raise OSError(trouble)
    namespaces.unshare()
    namespaces.become_first(cage.box)
    cage.box = namespaces.build(cage.box, paths, devices)


def _landlock(cage: Cage) -> None:
    _known({linux.MACHINE: 0})  # the same call numbers everywhere
    linux.prctl(linux.PR_SET_NO_NEW_PRIVS, 1)
    landlock.restrict(namespaces.readable_paths(), namespaces.DEVICES, cage.box)


def _seccomp(cage: Cage) -> None:
    _known(linux.NR_SECCOMP)
    linux.prctl(linux.PR_SET_NO_NEW_PRIVS, 1)
    walled = "namespaces" in cage.layers
    cage.filter = seccomp.Filter(read_only=walled, truncation=walled or landlock.minds_truncation())
    cage.filter.probe()


def _known(table: Mapping[str, int]) -> None:
    if not linux.LINUX:
        raise OSError("not Linux")
    if linux.MACHINE not in table:
        raise OSError(f"not known on {linux.MACHINE}")


def _seatbelt(cage: Cage) -> None:
    seatbelt.check(cage.box)


_PUT_ON: dict[str, Callable[[Cage], None]] = {
    "namespaces": _namespaces,
    "landlock": _landlock,
    "seccomp": _seccomp,
    **({"seatbelt": _seatbelt} if seatbelt.MACOS else {}),
}
