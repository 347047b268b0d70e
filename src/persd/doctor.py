"""What this machine offers a run: ``persd doctor``."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
from typing import Any

from persd import __version__

_EXTRAS = ("torch", "transformers", "trl", "peft", "accelerate", "datasets", "pyarrow")
_KEYS = ("OPENAI_API_KEY", "OPENROUTER_API_KEY", "ANTHROPIC_API_KEY", "HF_TOKEN")


def examine() -> dict[str, Any]:
    """Facts by name. Keys are named where they are set; their values are never read out."""
    from persd.run import cores
    from persd.sandbox import probe_isolation

    packages = {name: _version(name) for name in _EXTRAS}
    return {
        "persd": __version__,
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cores": cores(),
        "isolation": probe_isolation(),
        "packages": packages,
        "training": "ready" if all(packages.values()) else "needs: pip install 'persd[train]'",
        "device": _device(),
        "keys_set": [name for name in _KEYS if os.environ.get(name)],
    }


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _device() -> str:
    if importlib.util.find_spec("torch") is None:
        return "unknown: torch is not installed"
    import torch

    if torch.cuda.is_available():
        return f"cuda: {torch.cuda.get_device_name(0)}"
    return f"cpu, {torch.get_num_threads()} threads"
