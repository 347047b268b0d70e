"""The model card of a checkpoint: what its manifest knows, in words, and nothing else."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from shlex import quote
from typing import Any

#: Settings that do not change the weights, or are told elsewhere in the card.
_UNTOLD = frozenset({"report_to", "checkpoint_minutes", "launch", "merge"})
_FORMS = {
    "completions": "plain text that the model continues",
    "chat": "the chat template's form",
}


def card(manifest: Mapping[str, Any], name: str) -> str:
    """README.md of the checkpoint ``name``, with the header that the Hub reads.

    ``manifest``: as ``persd.train`` writes it, with ``metrics``.
    """
    parts = [
        _header(manifest),
        f"# {_plain(name)}",
        _opening(manifest),
        "## Data",
        _data(manifest),
        "## Training",
        _training(manifest),
        f"```toml\n[train]\n{_settings(manifest['settings'])}\n```",
        "## Use",
        _use(manifest, name),
        "## What is not known",
        "What it solves was not measured as it was trained: `persd evaluate` measures it. No"
        " licence is stated: those of the base, of the data and of whoever wrote the answers"
        " apply.",
        "## Made with",
        ", ".join(f"{package} {v}" for package, v in sorted(manifest["versions"].items())) + ".",
    ]
    return "\n\n".join(parts) + "\n"


def _header(manifest: Mapping[str, Any]) -> str:
    """YAML, whose strings are JSON's. A base is named where it is the Hub's."""
    alone = _is_adapter(manifest)
    base, method = manifest["base"], manifest["settings"]["method"]
    tags = ["persd", *manifest["variants"], *([] if method == "full" else ["lora"])]
    lines = [
        f"library_name: {'peft' if alone else 'transformers'}",
        "pipeline_tag: text-generation",
    ]
    if "revision" in base:
        lines.append(f"base_model: {json.dumps(base['model'])}")
        lines.append(f"base_model_relation: {'adapter' if alone else 'finetune'}")
    lines += ["tags:", *(f"- {json.dumps(tag)}" for tag in dict.fromkeys(tags))]
    return "\n".join(["---", *lines, "---"])


def _opening(manifest: Mapping[str, Any]) -> str:
    version = manifest["versions"].get("persd", "")
    what = {
        "full": "All weights of {base} were trained",
        "lora": "Low-rank adapters of {base} were trained",
        "qlora": "Low-rank adapters of {base}, held in 4 bits, were trained",
    }[manifest["settings"]["method"]]
    end = ""
    if manifest["settings"]["method"] != "full":
        end = (
            "; this folder holds them alone"
            if _is_adapter(manifest)
            else ", and merged into its weights; the adapter alone is in `adapter/`"
        )
    made = f" by persd {version}".rstrip()
    return f"{what.format(base=_base(manifest))}{made}{end}."


def _base(manifest: Mapping[str, Any]) -> str:
    base = manifest["base"]
    if "revision" in base:
        return f"`{_plain(base['model'])}` (revision `{base['revision'][:12]}`)"
    return f"`{_plain(base['model'])}` (a folder, content `{base['weights'][:12]}`)"


def _data(manifest: Mapping[str, Any]) -> str:
    metrics = manifest["metrics"]
    reasons = Counter(row["reason"] for row in manifest["left_out"])
    rows = [
        ("Variant", ", ".join(f"`{_plain(v)}`" for v in manifest["variants"])),
        ("Examples given", _count(manifest["examples"])),
        ("Trained on", _count(metrics["examples"])),
        *((f"Left out, {reason.replace('_', '-')}", _count(n)) for reason, n in reasons.items()),
        ("Held out", _count(metrics.get("held_out", 0))),
        ("Prompts", _FORMS[manifest["api"]]),
        ("Loss on", "the answer and the end token alone"),
        ("Hash of base, examples and settings", f"`{manifest['data_hash']}`"),
    ]
    return _table(rows)


def _training(manifest: Mapping[str, Any]) -> str:
    metrics = manifest["metrics"]
    rows = [
        ("Optimizer steps", _count(metrics["steps"])),
        ("Epochs", f"{metrics['epochs']:.4g}"),
        ("Loss of the first tenth of the steps", f"{metrics['first_loss']:.4f} nats a token"),
        ("Loss of the last tenth", f"{metrics['last_loss']:.4f} nats a token"),
        ("Tokens read", _count(metrics["tokens"])),
        ("Seconds", f"{metrics['seconds']:.0f}"),
        ("Processes", _count(manifest.get("processes", 1))),
    ]
    if "best_held_out" in metrics:
        best = f"{metrics['best_held_out']:.4f} nats a token, at step {metrics['best_step']:.0f}"
        rows.insert(4, ("Lowest loss on what was held out, whose weights these are", best))
    return _table(rows)


def _settings(settings: Mapping[str, Any]) -> str:
    """The settings as the lines of a config that differ from nothing: those that are set."""
    adapters = {"lora"} if settings["method"] == "full" else set()
    told = {k: v for k, v in settings.items() if k not in _UNTOLD | adapters}
    return "\n".join(
        f"{key} = {_toml(v)}" for key, v in sorted(told.items()) if v not in (None, [])
    )


def _use(manifest: Mapping[str, Any], name: str) -> str:
    library, auto = ("transformers", "AutoModelForCausalLM")
    if _is_adapter(manifest):
        library, auto = ("peft", "AutoPeftModelForCausalLM")
    api, folder = manifest["api"], json.dumps(_plain(name))
    return (
        f"```python\nfrom transformers import AutoTokenizer\nfrom {library} import {auto}\n\n"
        f"model = {auto}.from_pretrained({folder})\n"
        f"tokenizer = AutoTokenizer.from_pretrained({folder})\n```\n\n"
        f"```\npersd evaluate {quote(_plain(name))} --benchmark humaneval --api {api}\n```"
    )


def _is_adapter(manifest: Mapping[str, Any]) -> bool:
    """Whether the checkpoint is an adapter alone."""
    settings = manifest["settings"]
    return settings["method"] != "full" and not settings["merge"]


def _table(rows: Iterable[tuple[str, str]]) -> str:
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)])


def _count(number: float) -> str:
    return f"{number:,.0f}"


def _plain(text: str) -> str:
    """A name of the user's as it can stand in a line, a cell and a code span."""
    return " ".join(text.split()).replace("`", "'").replace("|", "/")


def _toml(value: Any) -> str:
    if isinstance(value, Mapping):
        inner = ", ".join(f"{k} = {_toml(v)}" for k, v in sorted(value.items()) if v is not None)
        return f"{{ {inner} }}"
    if isinstance(value, list):
        return f"[{', '.join(_toml(v) for v in value)}]"
    return json.dumps(value, ensure_ascii=False)
