"""What this machine offers a run: ``persd doctor``."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
from collections.abc import Iterator, Mapping
from typing import Any

from persd import __version__

_EXTRAS = ("torch", "transformers", "trl", "peft", "accelerate", "datasets", "pyarrow")
_KEYS = ("OPENAI_API_KEY", "OPENROUTER_API_KEY", "ANTHROPIC_API_KEY", "HF_TOKEN")


def examine() -> dict[str, Any]:
    """Facts by name. Keys are named where they are set; their values are never read out.

    Does not raise: what cannot be found out is told as such.
    """
    from persd.session import cores

    packages = {name: _version(name) for name in _EXTRAS}
    return {
        "persd": __version__,
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cores": cores(),
        **_sandbox(),
        "packages": packages,
        "training": "ready" if all(packages.values()) else "needs: pip install 'persd[train]'",
        "device": _device(),
        "keys_set": [name for name in _KEYS if os.environ.get(name)],
    }


def lines(found: Mapping[str, Any]) -> Iterator[str]:
    """The facts as they are printed, a line each; a list has a line for each of its items."""
    for name, value in found.items():
        if name == "missing":
            value = [f"{layer}: {why}" for layer, why in value.items()] or ["nothing"]
        elif isinstance(value, dict):
            value = ", ".join(f"{key} {fact}" for key, fact in value.items())
        for item in value if isinstance(value, list) else [value]:
            yield f"{name:12} {item}"


# -- the sandbox --------------------------------------------------------------------------------


def _sandbox() -> dict[str, Any]:
    """What holds programs: isolation and tier, what is missing and why, and what to do.

    ``tier`` is one of ``persd.sandbox.tiers``, or ``none`` where no worker starts.
    """
    from persd.sandbox import Sandbox, tiers
    from persd.session import cores

    try:
        with Sandbox(workers=1, unsafe=True) as box:
            isolation = box.probe()
        name, missing = isolation.name, dict(isolation.missing)
        tier: str = tiers.tier(name)
    except Exception as error:  # whatever it is, it is what the user wants to know
        name, tier, missing = "none", "none", {"worker": str(error) or repr(error)}
    return {
        "isolation": name,
        "tier": tier,
        "missing": missing,
        "advice": tiers.advice(missing),
        "kernel": _kernel(),
        "workers": cores(),
    }


def _kernel() -> dict[str, str]:
    """What the kernel says of the layers, whatever a worker came to."""
    from persd.sandbox import landlock, linux, tiers

    if not linux.LINUX:
        return {}
    try:
        abi = f"ABI {landlock.version()}"
    except OSError as error:
        abi = f"none: {error.strerror}"
    return {
        "landlock": abi,
        "seccomp": "filters" if os.path.exists("/proc/sys/kernel/seccomp") else "not known",
        "user_namespaces": "there" if os.path.exists("/proc/self/ns/user") else "none",
        **tiers.settings(),
    }


# -- training -----------------------------------------------------------------------------------


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _device() -> str:
    try:
        if importlib.util.find_spec("torch") is None:
            return "unknown: torch is not installed"
        import torch

        if torch.cuda.is_available():
            return f"cuda: {torch.cuda.get_device_name(0)}"
        return f"cpu, {torch.get_num_threads()} threads"
    except Exception as error:  # a torch that does not fit its driver raises what it likes
        return f"unknown: {error}"
