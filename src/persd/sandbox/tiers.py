"""Tiers: which layers together are enough to run programs nobody has read.

full         namespaces, landlock and seccomp: root and plain users, where the kernel lets them
contained    seccomp and one of the other two: files, network and other processes are out of
             reach. Landlock is what ordinary containers and Ubuntu 24.04 leave; namespaces are
             what kernels without Landlock have (RHEL 8, Debian 11)
best effort  macOS's Seatbelt, which denies less and which we could not try
unsafe       anything less: a program may do what its user may, so nothing runs unless the
             user says ``--unsafe`` in so many words

Each of landlock and namespaces guards files alone. Namespaces: the root is made of read-only
views of Python and of the system's libraries, nothing else was mounted, the old root is gone
(``pivot_root``), and no descriptor, process, signal or network leads out. Landlock: no other
path can be opened; what the owner of a file may do without opening it, seccomp refuses (see
``seccomp``). What the contained tiers lack is the second lock on the same door. With Landlock
alone names, sizes and times of the user's files can be seen, and the box has no quota beyond
that of each file. Neither is enough without seccomp: programs could start others, reach the
network or end their worker, and much more of the kernel lies open to them.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from persd.errors import UserError
from persd.sandbox import seatbelt

Tier = Literal["full", "contained", "best effort", "unsafe"]

_SYSCTL = Path("/proc/sys")
#: What keeps user namespaces from users: the setting, its forbidding value, the one to give.
_SWITCHES = (
    ("kernel.apparmor_restrict_unprivileged_userns", "1", "0"),  # Ubuntu 23.10 and later
    ("kernel.unprivileged_userns_clone", "0", "1"),  # Debian and its kin
    ("user.max_user_namespaces", "0", "15000"),  # RHEL and its kin
)
#: Files that container engines leave inside, the last one by Kubernetes.
_CONTAINER = ("/.dockerenv", "/run/.containerenv", "/var/run/secrets/kubernetes.io")


def tier(name: str) -> Tier:
    """The tier of an isolation by its name (``Isolation.name``)."""
    layers = set(name.removesuffix(f" ({seatbelt.LABEL})").split(" + "))
    if "seccomp" in layers and layers & {"namespaces", "landlock"}:
        return "full" if layers >= {"namespaces", "landlock"} else "contained"
    return "best effort" if "seatbelt" in layers else "unsafe"


def refusal(name: str, missing: Mapping[str, str]) -> UserError | None:
    """Why nothing may run under this isolation, and what to do; None where it may.

    ``missing`` says why a layer is not there (``Isolation.missing``).
    """
    if tier(name) != "unsafe":
        return None
    told = "; ".join(f"no {layer}: {why}" for layer, why in _telling(missing).items())
    steps = [*advice(missing), "to run them all the same: --unsafe (or verify.unsafe = true)"]
    return UserError(
        f"programs nobody has read would run with {name}, which cannot hold them "
        f"({told or 'nothing says why'})",
        hint="Mend that: " + "; ".join(steps),
    )


def advice(missing: Mapping[str, str]) -> list[str]:
    """What the user or an administrator can do about each layer that is not there."""
    found = [step for layer in _telling(missing) for step in _ADVICE[layer]()]
    return list(dict.fromkeys(found))


def settings() -> dict[str, str]:
    """The kernel's settings that rule user namespaces, as far as this kernel has them."""
    values = {name: _setting(name) for name, _, _ in _SWITCHES}
    return {name: value for name, value in values.items() if value is not None}


def _telling(missing: Mapping[str, str]) -> dict[str, str]:
    """The layers whose absence says something: on macOS those of Linux do not."""
    found = {layer: why for layer, why in missing.items() if why != "not Linux"}
    if "seatbelt" in found and seatbelt.trouble():
        found["seatbelt"] = seatbelt.trouble()
    return {layer: why for layer, why in found.items() if layer in _ADVICE}


def _setting(name: str) -> str | None:
    try:
        return _SYSCTL.joinpath(*name.split(".")).read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return None


def _in_container() -> bool:
    return any(os.path.exists(path) for path in _CONTAINER)


def _for_namespaces() -> list[str]:
    steps = [
        f"sudo sysctl {name}={give}"
        for name, forbids, give in _SWITCHES
        if _setting(name) == forbids
    ]
    if _in_container():
        steps.append(
            "start the container with --security-opt seccomp=unconfined "
            "--security-opt apparmor=unconfined"
        )
    return steps


def _for_landlock() -> list[str]:
    if _in_container():
        return ["use a container engine that knows Landlock (Docker 23, containerd 1.6 or later)"]
    return ["boot a kernel of 5.13 or later with landlock among its lsm= parameter"]


def _for_seccomp() -> list[str]:
    return ["use a kernel with seccomp filters, on x86_64 or aarch64"]


def _for_seatbelt() -> list[str]:
    return ["start persd outside other sandboxes, or in a Linux container or virtual machine"]


_ADVICE = {
    "namespaces": _for_namespaces,
    "landlock": _for_landlock,
    "seccomp": _for_seccomp,
    "seatbelt": _for_seatbelt,
}
