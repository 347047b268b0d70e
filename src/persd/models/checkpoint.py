"""Where a student's weights come from: a folder or the Hugging Face Hub, safetensors only.

Checkpoints are untrusted. Pickled weights are never read, the repository's own Python is run
only where the user turned ``trust_remote_code`` on, and a checkpoint that does not fill every
weight of the model is refused rather than completed with random numbers. A folder may hold a
LoRA adapter in place of whole weights; it names the checkpoint it is for.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from persd.errors import UserError

if TYPE_CHECKING:
    import torch

DType = Literal["auto", "float32", "bfloat16", "float16"]

#: What a checkpoint's answers depend on; ``manifest.json``, cards and logs are left out.
_WEIGHTS = ".safetensors"
_SETTINGS = frozenset({".json", ".jinja", ".model", ".txt", ".tiktoken", ".py"})
_NOT_SETTINGS = frozenset({"manifest.json", "trainer_state.json", "all_results.json"})
_PICKLED = frozenset({".bin", ".pt", ".pth", ".ckpt", ".pkl"})
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_HUB_SECONDS = 10.0
#: Of a LoRA adapter: what it is, and its weights.
ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
#: Keys of an adapter's configuration that tell where its base is, and not what it is.
_BASE_KEYS = ("base_model_name_or_path", "revision")
#: Adapters that may lie on one another.
_DEEPEST = 4
#: Parameters below which one CPU thread serves best.
_SMALL = 5_000_000


@dataclass(frozen=True, slots=True)
class Source:
    """A checkpoint that was found: its configuration is there, its weights are not read yet."""

    name: str
    """The Hub id, or the folder's own name."""
    location: str
    """What the loaders are given: a folder's absolute path, or the Hub id."""
    revision: str | None
    """Commit of the Hub repository; None: a folder of the user's."""
    trust_remote_code: bool = False
    base: Source | None = None
    """The checkpoint that the LoRA adapter at ``location`` is for; None: whole weights."""

    @property
    def identity(self) -> dict[str, str]:
        """Name and content, with those of an adapter's base. A folder is known by its content,
        so that it may be moved, and a checkpoint trained again in the same place is another
        one."""
        below = self.base.identity if self.base else {}
        under = {f"base_{key}": value for key, value in below.items()}
        if self.revision is None:
            return {"model": self.name, "weights": content_hash(Path(self.location)), **under}
        return {"model": self.name, "revision": self.revision}

    @property
    def arguments(self) -> dict[str, Any]:
        return {"revision": self.revision, "trust_remote_code": self.trust_remote_code}


def find(model: str, *, revision: str | None = None, trust_remote_code: bool = False) -> Source:
    """The checkpoint of that name: a folder where there is one, else a Hub repository.

    A folder may hold a LoRA adapter, whose base is found as well, by the name in it. Raises
    UserError, quickly, where there is none: a name that can only be a path is not looked for on
    the Hub, and an unreachable Hub is asked once.
    """
    return _find(model, revision, trust_remote_code, depth=0)


def _find(model: str, revision: str | None, trust_remote_code: bool, depth: int) -> Source:
    folder = _folder(model)
    if folder is not None:
        base = None
        if _is_adapter(folder):
            base = _base_of(folder, model, trust_remote_code, depth)
        else:
            _check_folder(folder, model)
        folder = folder.resolve()
        return Source(folder.name, str(folder), None, trust_remote_code, base)
    if _is_path(model):
        raise UserError(
            f"no checkpoint folder {model!r}",
            hint="Give a folder with config.json and model.safetensors, or a Hub id.",
        )
    location, commit = _on_hub(model, revision or "main")
    return Source(model, location, commit, trust_remote_code)


def _folder(model: str) -> Path | None:
    """The folder of that name; None: there is none, or it cannot be the name of one."""
    path = os.path.expanduser(model)
    return Path(path) if os.path.isdir(path) else None


def _is_adapter(folder: Path) -> bool:
    """Whether the folder holds an adapter and no whole weights (a copy of its base's
    config.json may lie beside it)."""
    whole = ("model.safetensors", "model.safetensors.index.json")
    return (folder / ADAPTER_CONFIG).is_file() and not any((folder / n).exists() for n in whole)


def _base_of(folder: Path, shown: str, trust_remote_code: bool, depth: int) -> Source:
    """The checkpoint that a folder's adapter is for. Raises UserError for an adapter that is
    none we read, and where its base is absent."""
    if not (folder / ADAPTER_WEIGHTS).is_file():
        pickled = sorted(p.name for p in folder.iterdir() if p.suffix in _PICKLED)
        raise UserError(
            f"pickled weights ({pickled[0]}) can run code when they are read, so they are refused"
            if pickled
            else f"the folder holds an adapter's configuration without its weights"
            f" ({ADAPTER_WEIGHTS})",
            where=shown,
            hint="Save the adapter with safe_serialization=True where you trust it.",
        )
    config = _adapter_config(folder)
    name, revision = config["base_model_name_or_path"], config.get("revision")
    if depth >= _DEEPEST:
        raise UserError(
            f"more than {_DEEPEST} adapters lie on one another",
            where=shown,
            hint="Give a checkpoint into which they were merged.",
        )
    try:
        return _find(name, revision, trust_remote_code, depth + 1)
    except UserError as e:
        below = _folder(name)
        if below is not None and _is_adapter(below):
            raise  # it has spoken of its own base
        raise UserError(
            f"the adapter {shown!r} is for {name!r}, which is not there: {e}",
            where=str(folder / ADAPTER_CONFIG),
            hint="Put the base there, or write its place into base_model_name_or_path.",
        ) from e


def _adapter_config(folder: Path) -> dict[str, Any]:
    """What an adapter says of itself: that it is LoRA's, of a causal model, and for which."""
    config = _json_object(folder / ADAPTER_CONFIG)
    kind, task = config.get("peft_type"), config.get("task_type")
    names = (config.get("base_model_name_or_path"), config.get("revision") or "")
    if kind != "LORA" or task not in (None, "CAUSAL_LM"):
        raise UserError(
            f"an adapter of kind {kind!r} for {task!r}; LoRA for CAUSAL_LM is what can be loaded",
            where=str(folder / ADAPTER_CONFIG),
            hint="Merge it into its base with the tool that made it.",
        )
    if config.get("layer_replication"):
        raise UserError(
            "the adapter repeats layers of its base, which cannot be merged as they are",
            where=str(folder / ADAPTER_CONFIG),
            hint="Merge it into its base with the tool that made it.",
        )
    if not all(isinstance(name, str) for name in names) or not names[0]:
        raise UserError(
            f"{ADAPTER_CONFIG} does not say which checkpoint the adapter is for",
            where=str(folder / ADAPTER_CONFIG),
            hint="Write its folder or Hub id into base_model_name_or_path.",
        )
    return config


def need_extra(what: str, *more: str) -> None:
    """Raises UserError where the packages of the ``train`` extra are not installed."""
    from importlib.util import find_spec

    absent = [name for name in ("torch", "transformers", *more) if find_spec(name) is None]
    if absent:
        raise UserError(
            f"{what} needs {' and '.join(absent)}", hint="Install it: pip install 'persd[train]'."
        )


def pick_device(name: str | None) -> torch.device:
    """The device of that name, or the best there is. Raises UserError where it is not there."""
    import torch

    if name is None:
        best = "cuda" if torch.cuda.is_available() else "cpu"
        return torch.device("mps" if torch.backends.mps.is_available() else best)
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as e:
        reason = " ".join(str(e).split())[:120]
        raise UserError(f"device {name!r} cannot be used: {reason}", hint='Use "cpu".') from None
    return device


def has_bf16(device: torch.device) -> bool:
    """Whether the device computes in bfloat16 by itself: a GPU that need not emulate it."""
    import torch

    return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)


def use_threads(model: Any, count: int | None = None) -> int:
    """Set torch's CPU threads for work with this model, and return how many.

    ``count``, else PERSD_THREADS, else torch's own choice; but one for a model of a few million
    parameters. Its operations are too small to share: measured on two cores, a second thread
    saves a third of the time on an idle machine and makes it four times as long on a busy one,
    where each waits for the other; and with one the results do not depend on the machine's
    cores. Raises UserError for a PERSD_THREADS that is no positive number.
    """
    import torch

    told = os.environ.get("PERSD_THREADS", "")
    if told and not (told.isdecimal() and int(told)):
        raise UserError(f"PERSD_THREADS = {told!r} is no number of threads", hint="Say 1 or more.")
    own = _threads_of_torch()
    small = sum(p.numel() for p in model.parameters()) < _SMALL
    chosen = count or int(told or 0) or (1 if small else own)
    torch.set_num_threads(chosen)
    return chosen


@cache
def _threads_of_torch() -> int:
    """Torch's own choice, remembered before it is changed."""
    import torch

    return torch.get_num_threads()


def _is_path(model: str) -> bool:
    """Whether the name can only be a path, or lies in a folder that is here."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils._validators import validate_repo_id

    try:
        validate_repo_id(model)
    except HFValidationError:
        return True
    if not _HUB_ID.fullmatch(model):
        return True
    return "/" in model and Path(model).parent.is_dir()


def _check_folder(folder: Path, shown: str) -> None:
    names = {p.name for p in folder.iterdir()}
    if "config.json" not in names:
        raise UserError(
            "the folder holds no checkpoint: config.json is missing",
            where=shown,
            hint="Give the folder that save_pretrained wrote.",
        )
    weights = _shards(folder) or names & {"model.safetensors"}
    elsewhere = sorted(name for name in weights if Path(name).name != name)
    if elsewhere:
        raise UserError(
            f"its index of weights names {elsewhere[0]!r}, which is not in the folder itself",
            where=shown,
            hint="Put all files of the checkpoint into one folder.",
        )
    if weights and all(name.endswith(_WEIGHTS) for name in weights):
        return
    pickled = sorted(n for n in names | weights if Path(n).suffix in _PICKLED)
    if pickled:
        raise UserError(
            f"pickled weights ({pickled[0]}) can run code when they are read, so they are refused",
            where=shown,
            hint="Convert them where you trust them: "
            "AutoModelForCausalLM.from_pretrained(A).save_pretrained(B).",
        )
    raise UserError(
        "the folder holds no weights (model.safetensors)",
        where=shown,
        hint="Give the folder that save_pretrained wrote.",
    )


def _shards(folder: Path) -> set[str]:
    """The files that the index of weights in several files names; empty: there is no index."""
    try:
        index = json.loads((folder / "model.safetensors.index.json").read_bytes())
        return {str(name) for name in index["weight_map"].values()}
    except FileNotFoundError:
        return set()
    except (ValueError, KeyError, TypeError, AttributeError) as e:
        raise UserError(
            "model.safetensors.index.json is no index of weights",
            where=str(folder),
            hint="Get the checkpoint again, or give another one.",
        ) from e


def _on_hub(model: str, revision: str) -> tuple[str, str]:
    """Where to load from and the commit: the Hub, asked once, else what it left in the cache."""
    from huggingface_hub import constants, get_hf_file_metadata, get_token, hf_hub_url
    from huggingface_hub import errors as hub

    if not constants.HF_HUB_OFFLINE:
        url = hf_hub_url(model, "config.json", revision=revision)
        try:
            found = get_hf_file_metadata(url, token=get_token(), timeout=_HUB_SECONDS)
            if found.commit_hash:
                return model, str(found.commit_hash)
        except hub.GatedRepoError:
            raise UserError(
                f"the Hub asks for an agreement before it gives {model!r}",
                hint=f"Accept it at {constants.ENDPOINT}/{model}, then run: hf auth login.",
            ) from None
        except (
            hub.RepositoryNotFoundError,
            hub.RevisionNotFoundError,
            hub.EntryNotFoundError,
        ) as e:
            raise UserError(
                f"no checkpoint {model!r} at revision {revision!r} on the Hub"
                f" ({type(e).__name__}), and no such folder",
                hint="Check the name; a private one needs: hf auth login.",
            ) from None
        except Exception:  # no network: what is in the cache still serves
            pass
    return _in_cache(model, revision)


def _in_cache(model: str, revision: str) -> tuple[str, str]:
    """The snapshot folder and its commit: loaders given it do not try the network again."""
    from huggingface_hub import try_to_load_from_cache

    cached = try_to_load_from_cache(model, "config.json", revision=revision)
    if isinstance(cached, str):
        _check_folder(Path(cached).parent, model)
        return str(Path(cached).parent), Path(cached).parent.name
    raise UserError(
        f"no folder {model!r}, and the Hugging Face Hub cannot be reached",
        hint="Give the path of a checkpoint folder, or download it where there is a network.",
    )


def content_hash(folder: Path) -> str:
    """SHA-256 (hex) of the files of a folder that a checkpoint's answers depend on."""
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        settings = path.suffix in _SETTINGS and path.name not in _NOT_SETTINGS
        if path.is_file() and (settings or path.suffix == _WEIGHTS):
            stat = path.stat()
            digest.update(
                f"{path.name}:{_file_hash(path, stat.st_size, stat.st_mtime_ns)}\n".encode()
            )
    return digest.hexdigest()


@lru_cache(maxsize=256)
def _file_hash(path: Path, size: int, mtime_ns: int) -> str:
    """Hash of one file, remembered as long as its size and time stay the same. The place of an
    adapter's base is left out: the base's own content stands for it."""
    if path.name == ADAPTER_CONFIG:
        config = {k: v for k, v in _json_object(path).items() if k not in _BASE_KEYS}
        return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def load_tokenizer(source: Source) -> Any:
    """The checkpoint's own tokenizer, an adapter's base's where it has none.

    Raises UserError where it cannot be read, ends nothing, or has tokens the model does not.
    """
    from transformers import AutoTokenizer

    here = source.revision is not None or _holds_tokenizer(Path(source.location))
    if source.base is not None and not here:
        return load_tokenizer(source.base)
    if not here:
        raise UserError(
            "the checkpoint holds no tokenizer (no tokenizer.json)",
            where=source.location,
            hint="Save its base model's there: tokenizer.save_pretrained(FOLDER).",
        )
    config = load_config(source)
    with quiet(), _readable(source, "tokenizer"):
        tokenizer = AutoTokenizer.from_pretrained(
            source.location, config=config, **source.arguments
        )
    if tokenizer.eos_token_id is None:
        raise UserError(
            "the tokenizer names no end-of-sequence token, so no reply would end",
            where=source.name,
            hint='Set "eos_token" in its tokenizer_config.json.',
        )
    _check_vocabulary(source, tokenizer, config)
    return tokenizer


def _check_vocabulary(source: Source, tokenizer: Any, config: Any) -> None:
    """Raises UserError where a token has no row in the embedding: reading it would fail."""
    rows = getattr(config.get_text_config(), "vocab_size", None)
    vocabulary = tokenizer.get_vocab()
    if tokenizer.unk_token not in (tokenizer.eos_token, tokenizer.pad_token):
        vocabulary.pop(tokenizer.unk_token, None)  # some classes add one that no text gives
    token, number = max(vocabulary.items(), key=lambda item: item[1])
    if isinstance(rows, int) and number >= rows:
        raise UserError(
            f"the tokenizer's token {token!r} is number {number}, the model has {rows}"
            " (numbered from 0)",
            where=source.name,
            hint="Give the model its own tokenizer, or resize its embedding and train it.",
        )


def _holds_tokenizer(folder: Path) -> bool:
    """Whether there is a vocabulary in one of the usual forms, or the code that makes one."""
    kinds = ("tokenizer.json", "*.model", "vocab.*", "merges.txt", "*.tiktoken", "tokenization*.py")
    return any(any(folder.glob(kind)) for kind in kinds)


def load_model(source: Source, dtype: Any, **more: Any) -> Any:
    """The causal language model, on the CPU, with weights of ``dtype`` (a ``torch.dtype``).

    An adapter lies on its base without being merged. ``more`` goes to ``from_pretrained``.
    Raises UserError where the weights are missing, pickled, damaged or of another model.
    """
    from transformers import AutoModelForCausalLM

    if source.base is not None:
        return _adapted(source, source.base, dtype).get_base_model()
    config = load_config(source)
    _refuse_embedded_adapter(source)
    with quiet(), _readable(source, "model"):
        model, report = AutoModelForCausalLM.from_pretrained(
            source.location,
            config=config,
            dtype=dtype,
            use_safetensors=True,
            output_loading_info=True,
            **source.arguments,
            **more,
        )
    _check_complete(source, report)
    return model


def load_merged(source: Source, dtype: Any) -> Any:
    """The model as ``load_model`` has it, but with an adapter added to the weights. Raises
    UserError for an adapter that cannot be."""
    if source.base is None:
        return load_model(source, dtype)
    adapted = _adapted(source, source.base, dtype)
    _refuse_tied(source, adapted.get_base_model())
    with quiet(), _readable(source, "adapter"):
        return adapted.merge_and_unload().requires_grad_(True)


def _refuse_tied(source: Source, model: Any) -> None:
    """Raises UserError where an adapter lies on the embedding or the head of a model in which
    they are one weight: added to it, it would change both."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    ends = {"embedding": model.get_input_embeddings(), "head": model.get_output_embeddings()}
    adapted = [name for name, layer in ends.items() if isinstance(layer, BaseTunerLayer)]
    if adapted and getattr(model.config.get_text_config(), "tie_word_embeddings", False):
        raise UserError(
            f"the adapter changes the {' and the '.join(adapted)}, and the base has one weight for"
            " embedding and head: it cannot be merged",
            where=source.name,
            hint="It can be sampled from as it is; train one on other layers to go on from.",
        )


def _adapted(source: Source, base: Source, dtype: Any) -> Any:
    """The base with the adapter on it: peft's model, nothing of it trainable.

    Raises UserError where the adapter does not fit, or leaves a part of itself unset.
    """
    need_extra("a LoRA adapter", "peft")
    with quiet():  # importing it talks, too
        from peft import LoraConfig, PeftModelForCausalLM, set_peft_model_state_dict
    from safetensors.torch import load_file

    model = load_merged(base, dtype)
    with quiet(), _readable(source, "adapter"):
        config = LoraConfig.from_pretrained(source.location)
        config.inference_mode = True
        model = PeftModelForCausalLM(model, config)
        weights = load_file(Path(source.location) / ADAPTER_WEIGHTS)
        report = set_peft_model_state_dict(model, weights)
    absent = [k for k in report.missing_keys if "default" in k.split(".")]
    odd = absent or list(report.unexpected_keys)
    if odd:
        what = "does not fill its layers" if absent else "has weights for layers that are not there"
        raise UserError(
            f"the adapter {what}: {len(odd)}, first {odd[0]}",
            where=source.name,
            hint=f"It may be for another base than {base.name}: get it again.",
        )
    return model.eval()


def _refuse_embedded_adapter(source: Source) -> None:
    """The loaders put an adapter that lies beside whole weights on them, or on others, unasked."""
    from transformers.utils.peft_utils import find_adapter_config_file

    with quiet(), _readable(source, "model"):
        found = find_adapter_config_file(source.location, revision=source.revision)
    if found is not None:
        raise UserError(
            f"there is an adapter ({ADAPTER_CONFIG}) beside whole weights",
            where=source.name,
            hint="Move the one that is not meant into a folder of its own.",
        )


def load_config(source: Source) -> Any:
    """The checkpoint's configuration, an adapter's base's. Raises UserError where it cannot be
    read or is not a causal language model's."""
    from transformers import AutoConfig

    if source.base is not None:
        return load_config(source.base)
    if source.revision is None:
        _json_object(Path(source.location) / "config.json")
    with quiet(), _readable(source, "configuration"):
        config = AutoConfig.from_pretrained(source.location, **source.arguments)
        _check_causal(source, config)
    return config


def _json_object(path: Path) -> dict[str, Any]:
    """A JSON object of a file. Raises UserError for what is none."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as e:
        found = str(e) or type(e).__name__
    if isinstance(found, dict):
        return found
    reason = found if isinstance(found, str) else "no object"
    raise UserError(
        f"{path.name} cannot be read: {reason}",
        where=str(path),
        hint="Get the checkpoint again, or give another one.",
    )


def _check_causal(source: Source, config: Any) -> None:
    """Raises UserError for a checkpoint of another kind of model: the loaders refuse it with a
    page of names, or complete it with random numbers."""
    import transformers
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    if "AutoModelForCausalLM" in (getattr(config, "auto_map", None) or {}):
        return
    made_of = [str(name) for name in config.architectures or ()]
    causal: set[str] = set()
    for names in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values():
        causal.update([names] if isinstance(names, str) else names)
    other = bool(made_of) and not causal.intersection(made_of)
    # An architecture that transformers does not have under this name may be an older name; of a
    # model for text and images, the part for text is loaded.
    known = all(hasattr(transformers, name) for name in made_of)
    alone = config.get_text_config() is config
    if type(config) not in transformers.MODEL_FOR_CAUSAL_LM_MAPPING or (other and known and alone):
        kind = ", ".join(made_of) or f"of type {config.model_type}"
        raise UserError(
            f"the checkpoint is no causal language model: it is {kind}",
            where=source.name,
            hint="Give one whose architecture is ...ForCausalLM.",
        )


def stored_dtype(source: Source) -> Any:
    """The ``torch.dtype`` the checkpoint says its weights have; float32 where it does not say."""
    import torch

    dtype = load_config(source).get_text_config().dtype
    return dtype if isinstance(dtype, torch.dtype) else torch.float32


def context_length(config: Any) -> int | None:
    """Positions a model was made for, whatever its family calls them; None: not said."""
    text = config.get_text_config()
    for name in ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "n_ctx"):
        value = getattr(text, name, None)
        if isinstance(value, int) and value > 0:
            return value
    return None


def _check_complete(source: Source, report: Mapping[str, Any]) -> None:
    absent = sorted(report.get("missing_keys") or ())
    other = sorted(str(k) for k in report.get("mismatched_keys") or ())
    if absent or other:
        what = f"{len(absent)} missing" if absent else f"{len(other)} of another shape"
        raise UserError(
            f"the checkpoint does not fill the model: {what}, first {(absent + other)[0]}",
            where=source.name,
            hint="It may be no causal language model, or its download was cut: get it again.",
        )


@contextmanager
def _readable(source: Source, part: str) -> Iterator[None]:
    """Turns what the loaders raise on a bad checkpoint into one line for the user."""
    try:
        yield
    except (UserError, MemoryError):
        raise
    except Exception as e:  # what the loaders raise on a broken file is of a dozen kinds
        text = " ".join(str(e).split())
        if "trust_remote_code" in text:
            raise UserError(
                f"its {part} is Python code of the checkpoint, which is not run",
                where=source.name,
                hint="If you trust the authors: student.trust_remote_code = true"
                " (persd evaluate: --trust-remote-code).",
            ) from None
        shown = text if len(text) <= 240 else f"{text[:240]}..."
        raise UserError(
            f"the {part} cannot be read: {type(e).__name__}: {shown}",
            where=source.name,
            hint="Its own Python code may need a package (XGen's: pip install tiktoken), or another"
            " version of transformers."
            if source.trust_remote_code
            else "Get the checkpoint again, or give another one.",
        ) from e


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the progress bars and advice of the libraries; their errors still come through."""
    from transformers.utils import logging as talk

    # imported by others, it tells of faster kernels that might be installed
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    level, bars = talk.get_verbosity(), talk.is_progress_bar_enabled()
    talk.set_verbosity_error()
    talk.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        talk.set_verbosity(level)
        if bars:
            talk.enable_progress_bar()
