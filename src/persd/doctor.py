"""What this machine offers a run, and what of a model fits it: ``persd doctor``."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import shlex
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from persd import __version__
from persd.config import TrainTable

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from persd.train.memory import Place, Shape

_EXTRAS = ("torch", "transformers", "trl", "peft", "accelerate", "datasets", "pyarrow")
#: Packages that some settings need, by what for.
_OPTIONAL = {
    "bitsandbytes": "qlora, adamw_8bit",
    "flash-attn": "attention without padding",
    "deepspeed": "several GPUs",
    "trackio": "report_to",
    "wandb": "report_to",
    "tensorboard": "report_to",
    "tiktoken": "XGen's tokenizer",
}
#: Tokens of the rows that what fits is told for.
_ROW = 1024
#: Ways to train, and the settings that make each.
_METHODS: Mapping[str, Mapping[str, str]] = {
    "full": {"dtype": "auto"},
    "full, bfloat16": {"dtype": "bfloat16"},
    "lora": {"method": "lora"},
    "lora, bfloat16": {"method": "lora", "dtype": "bfloat16"},
    "qlora": {"method": "qlora"},
}
#: What makes any of them need less, for time.
_SPARING = {"micro_batch": 1, "gradient_checkpointing": True}
_KEYS = ("OPENAI_API_KEY", "OPENROUTER_API_KEY", "ANTHROPIC_API_KEY", "HF_TOKEN")


def examine(
    model: str | None = None, *, revision: str | None = None, trust_remote_code: bool = False
) -> dict[str, Any]:
    """Facts by name. Keys are named where they are set; their values are never read out.

    ``model``: a checkpoint to look at too; UserError where it is not there or cannot be read.
    Else it does not raise: what cannot be found out is told as such.
    """
    from persd.session import cores

    packages = {name: _version(name) for name in _EXTRAS}
    found = {
        "persd": __version__,
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cores": cores(),
        **_sandbox(),
        "packages": packages,
        "training": "ready" if all(packages.values()) else "needs: pip install 'persd[train]'",
        "optional": {name: _version(name) for name in _OPTIONAL},
        "device": _device(),
        "gpus": _gpus(),
        **_room(),
        "clashes": [*_out_of_range(), *_torch_clashes()],
        "fits": _fits(),
        "keys_set": [name for name in _KEYS if os.environ.get(name)],
    }
    if model is not None:
        found["model"] = _model(model, revision, trust_remote_code)
    return {**found, "next": _next(found)}


#: Facts that ``show`` has tables for, or says last.
_APART = ("fits", "model", "next")
_SPARING_SAID = "sparing memory"


def show(console: Console, found: Mapping[str, Any]) -> None:
    """The facts, a line each, and in tables what can be trained; last what to do next."""
    from persd.report.text import visible

    for line in lines(found):
        console.print(line, markup=False, soft_wrap=True)
    for title, table in _tables(found):
        console.print(f"\n{visible(title)}", style="bold", markup=False)
        console.print(table)
    if found.get("fits"):
        settings = ", ".join(f"{key} = {str(value).lower()}" for key, value in _SPARING.items())
        console.print(f"{_SPARING_SAID}: {settings} under [train]", style="dim", markup=False)
    console.print(f"\n{'next':12} {found['next']}", markup=False, soft_wrap=True)


def lines(found: Mapping[str, Any]) -> Iterator[str]:
    """The facts that have no table, a line each; a list has a line for each of its items."""
    from persd.report.text import visible

    for name in (name for name in found if name not in _APART):
        value = found[name]
        if name == "missing":
            value = [f"{layer}: {why}" for layer, why in value.items()] or ["nothing"]
        elif name == "optional":
            value = [f"{k} {v or 'is not installed'} ({_OPTIONAL[k]})" for k, v in value.items()]
        for item in value if isinstance(value, list) else [value]:
            yield visible(f"{name.replace('_gib', ' GiB'):12} {_said(item)}")


def _said(item: Any) -> str:
    if not isinstance(item, dict):
        return str(item)
    told = [f"{key.replace('_gib', ' GiB')} {_shown(fact)}" for key, fact in item.items()]
    return ", ".join(told)


def _shown(fact: Any) -> str:
    if isinstance(fact, bool):
        return "yes" if fact else "no"
    return "-" if fact is None else str(fact)


def _tables(found: Mapping[str, Any]) -> Iterator[tuple[str, Table]]:
    """What can be trained here, with its title: any student, and the one that was asked about."""
    if found.get("fits"):
        title = (
            f"The largest student that can be trained here (parameters, rows of {_ROW:,} tokens)"
        )
        columns = {"method": "method", "parameters": "by default", "sparing_memory": _SPARING_SAID}
        yield title, _table(columns, found["fits"])
    if model := found.get("model"):
        columns = {"method": "method", "needs": "by default", "sparing_memory": _SPARING_SAID}
        columns["here"] = "here"
        yield _title(model), _table(columns, model["needs"])


def _title(model: Mapping[str, Any]) -> str:
    """A model in a few words."""
    context = f"{model['context']:,} tokens" if model["context"] else "not told"
    title = (
        f"{model['name']}: {model['parameters']} parameters, context {context}\n"
        f'taken as {model["family"]}, asked by api = "{model["api"]}"'
    )
    if model["stages"]:
        stages = ", ".join(f"{share:g} of {length:,}" for length, share in model["stages"])
        title += f"\ntrained in stages: {stages} tokens"
    return f"{title}\n{model['note']}\nmemory that training takes, by method".replace("\n\n", "\n")


def _table(columns: Mapping[str, str], rows: Sequence[Mapping[str, str]]) -> Table:
    from persd.report.text import new_table, text_cell

    table = new_table("")
    table.title = None
    for key, head in columns.items():
        table.add_column(head, justify="left" if key in ("method", "here") else "right")
    for row in rows:
        table.add_row(*(text_cell(row[key]) for key in columns))
    return table


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


def _room() -> dict[str, Any]:
    """Memory and disk, in GiB; None: not told."""
    from persd.train.memory import GIB, ram_free, ram_total

    total, free = ram_total(), ram_free()
    sizes = {"total": total, "free": free, "disk_free_here": shutil.disk_usage(".").free}
    return {"memory_gib": {k: None if v is None else round(v / GIB, 1) for k, v in sizes.items()}}


def _gpus() -> list[dict[str, Any]]:
    """The GPUs that torch sees, with their memory in GiB."""
    try:
        if importlib.util.find_spec("torch") is None:
            return []
        import torch

        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        return [_gpu(torch, i) for i in range(count)]
    except Exception:  # ``device`` has told the reason
        return []


def _gpu(torch: Any, index: int) -> dict[str, Any]:
    from persd.train.memory import GIB

    facts = torch.cuda.get_device_properties(index)
    free, total = torch.cuda.mem_get_info(index)
    recent = (facts.major, facts.minor) >= (8, 0)
    return {
        "name": facts.name,
        "memory_gib": round(total / GIB, 1),
        "free_gib": round(free / GIB, 1),
        "capability": f"{facts.major}.{facts.minor}",
        "bf16": recent,
        "flash_attention": recent and _version("flash-attn") is not None,
    }


def _out_of_range() -> list[str]:
    """Installed packages that are outside what persd, or another of them, asks for."""
    try:
        from packaging.requirements import InvalidRequirement, Requirement
    except ImportError:
        return []
    told = []
    for owner in ("persd", *_EXTRAS):
        for line in _requirements(owner):
            try:
                wanted = Requirement(line)
            except InvalidRequirement:
                continue
            if wanted.marker and not wanted.marker.evaluate({"extra": "train"}):
                continue
            there = _version(wanted.name)
            if there is not None and not wanted.specifier.contains(there, prereleases=True):
                told.append(
                    f"{wanted.name} {there}: {owner} asks for {wanted.specifier};"
                    f" pip install '{wanted.name}{wanted.specifier}'"
                )
    return told


def _requirements(owner: str) -> list[str]:
    try:
        return importlib.metadata.requires(owner) or []
    except importlib.metadata.PackageNotFoundError:
        return []


def _has_driver() -> bool:
    """Whether NVIDIA's driver is on this machine."""
    return Path("/proc/driver/nvidia/version").exists() or shutil.which("nvidia-smi") is not None


def _torch_clashes() -> list[str]:
    """A torch that does not fit the machine's driver."""
    try:
        if not _has_driver() or importlib.util.find_spec("torch") is None:
            return []
        import torch

        if torch.cuda.is_available():
            return []
        if torch.version.cuda is None:
            return [
                f"torch {torch.__version__} is a build without CUDA, and there is an NVIDIA"
                " driver: pip install --force-reinstall torch"
            ]
        return [
            f"torch {torch.__version__} is built for CUDA {torch.version.cuda}, and finds no GPU"
            " with the driver that is here: nvidia-smi says which CUDA it bears"
        ]
    except Exception:  # ``device`` has told the reason
        return []


# -- what fits ----------------------------------------------------------------------------------


def _place() -> tuple[Place, int] | None:
    """Where training would be, and the bytes it may take there; None: not known."""
    try:
        if importlib.util.find_spec("torch") is None:
            return None
        from persd.train.memory import available, place_here

        place = place_here()
        have = available(place.kind)
    except Exception:  # a torch that does not fit its driver raises what it likes
        return None
    return None if have is None else (place, have)


def _fits() -> list[dict[str, str]]:
    """The largest student that can be trained here, by method: with the default batch, and with
    one row a pass and gradient checkpointing; rows of ``_ROW`` tokens."""
    if (here := _place()) is None:
        return []
    from persd.train.memory import largest, size_name

    place, have = here
    rows = []
    for name, changes in _methods(place):
        settings = TrainTable().but(**changes)
        sizes = [largest(s, _ROW, place, have) for s in (settings, settings.but(**_SPARING))]
        default, sparing = (f"{size_name(n)}" if n else "none" for n in sizes)
        rows.append({"method": name, "parameters": default, "sparing_memory": sparing})
    return rows


def _methods(place: Place) -> Iterator[tuple[str, Mapping[str, str]]]:
    for name, changes in _METHODS.items():
        if changes.get("method") != "qlora" or place.four_bit:
            yield name, changes


def _model(name: str, revision: str | None, trust_remote_code: bool) -> dict[str, Any]:
    """A checkpoint: its family, what it takes to train it, whether that is here."""
    from persd.models import checkpoint_of
    from persd.models.checkpoint import find, load_config, load_tokenizer, need_extra
    from persd.models.families import family_of, positions, usual_api
    from persd.train.memory import size_name

    need_extra("looking at a model")
    source = find(checkpoint_of(name), revision=revision, trust_remote_code=trust_remote_code)
    config, tokenizer = load_config(source), load_tokenizer(source)
    family, shape = family_of(config, tokenizer), _shape(source, config)
    return {
        "name": name,
        "revision": revision,
        "trust_remote_code": trust_remote_code,
        "family": family.name,
        "note": family.note,
        "parameters": size_name(shape.parameters),
        "context": positions(config),
        "api": usual_api(tokenizer),
        "stages": [list(stage) for stage in family.stages],
        "needs": _needs(shape),
    }


def _shape(source: Any, config: Any) -> Shape:
    from persd.errors import UserError
    from persd.train.memory import shape_of

    try:
        return shape_of(config, trust_remote_code=source.trust_remote_code)
    except Exception as e:  # whatever code of the repository raises
        reason = " ".join(str(e).split())[:120]
        raise UserError(
            f"it is no causal language model that can be loaded here: {reason}",
            where=source.name,
            hint="Give one that AutoModelForCausalLM knows.",
        ) from e


def _needs(shape: Shape) -> list[dict[str, str]]:
    """What training takes by method, as ``_fits`` has them, beside what there is."""
    if (here := _place()) is None:
        return []
    from persd.train.memory import gib, need

    place, have = here
    rows = []
    for name, changes in _methods(place):
        settings = TrainTable().but(**changes)
        usual, least = (
            need(shape, s, _ROW, place).total for s in (settings, settings.but(**_SPARING))
        )
        fits = "fits" if usual <= have else "fits sparing memory" if least <= have else "too big"
        rows.append(
            {"method": name, "needs": gib(usual), "sparing_memory": gib(least), "here": fits}
        )
    return rows


def _next(found: Mapping[str, Any]) -> str:
    """What to do next, in one line."""
    if found["tier"] in ("none", "unsafe"):
        advice = [line for line in found["advice"] if line]
        return advice[0] if advice else "programs cannot be judged here: see missing"
    if not all(found["packages"].values()):
        return "pip install 'persd[train]'"
    if found["clashes"]:
        return str(found["clashes"][0]).rpartition(": ")[2].rpartition("; ")[2]
    if model := found.get("model"):
        return _next_of(model)
    if not found["keys_set"]:
        return "persd demo; for a real teacher: export OPENAI_API_KEY=..."
    return "persd run CONFIG.toml --dry-run"


def _next_of(model: Mapping[str, Any]) -> str:
    """What to do with a model: the first method that fits, as settings of a run."""
    sets = f"--set student.model={shlex.quote(model['name'])} --set student.api={model['api']}"
    if model["revision"]:
        sets += f" --set student.revision={shlex.quote(model['revision'])}"
    if model["trust_remote_code"]:
        sets += " --set student.trust_remote_code=true"
    for row in model["needs"]:
        if row["here"] != "too big":
            settings = dict(_METHODS[row["method"]])
            if row["here"] != "fits":
                settings |= {k: str(v).lower() for k, v in _SPARING.items()}
            told = "".join(f" --set train.{k}={v}" for k, v in settings.items() if v != "auto")
            return f"persd run CONFIG.toml {sets}{told}"
    return "take a smaller model (see fits), or a larger machine"


# -- the device ---------------------------------------------------------------------------------


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
