"""Where a student's weights come from: a folder or the Hugging Face Hub, safetensors only.

Checkpoints are untrusted. Pickled weights are never read, the repository's own Python is run
only where the user turned ``trust_remote_code`` on, and a checkpoint that does not fill every
weight of the model is refused rather than completed with random numbers.
"""

from __future__ import annotations

import hashlib
import json
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

    @property
    def identity(self) -> dict[str, str]:
        """Name and content. A folder is known by its content, so that it may be moved, and a
        checkpoint trained again in the same place is another one."""
        if self.revision is None:
            return {"model": self.name, "weights": content_hash(Path(self.location))}
        return {"model": self.name, "revision": self.revision}

    @property
    def arguments(self) -> dict[str, Any]:
        return {"revision": self.revision, "trust_remote_code": self.trust_remote_code}


def find(model: str, *, revision: str | None = None, trust_remote_code: bool = False) -> Source:
    """The checkpoint of that name: a folder where there is one, else a Hub repository.

    Raises UserError, quickly, where there is none: a name that can only be a path is not
    looked for on the Hub, and an unreachable Hub is asked once.
    """
    folder = Path(model).expanduser()
    if folder.is_dir():
        _check_folder(folder, model)
        folder = folder.resolve()
        return Source(folder.name, str(folder), None, trust_remote_code)
    if _is_path(model):
        raise UserError(
            f"no checkpoint folder {model!r}",
            hint="Give a folder with config.json and model.safetensors, or a Hub id.",
        )
    location, commit = _on_hub(model, revision or "main")
    return Source(model, location, commit, trust_remote_code)


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
    """Hash of one file, remembered as long as its size and time stay the same."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def load_tokenizer(source: Source) -> Any:
    """The checkpoint's own tokenizer. Raises UserError where it cannot be read."""
    from transformers import AutoTokenizer

    if source.revision is None and not _holds_tokenizer(Path(source.location)):
        raise UserError(
            "the checkpoint holds no tokenizer (no tokenizer.json)",
            where=source.location,
            hint="Save its base model's there: tokenizer.save_pretrained(FOLDER).",
        )
    with quiet(), _readable(source, "tokenizer"):
        tokenizer = AutoTokenizer.from_pretrained(source.location, **source.arguments)
    if tokenizer.eos_token_id is None:
        raise UserError(
            "the tokenizer names no end-of-sequence token, so no reply would end",
            where=source.name,
            hint='Set "eos_token" in its tokenizer_config.json.',
        )
    return tokenizer


def _holds_tokenizer(folder: Path) -> bool:
    """Whether there is a vocabulary in one of the usual forms, or the code that makes one."""
    kinds = ("tokenizer.json", "*.model", "vocab.*", "merges.txt", "*.tiktoken", "tokenization*.py")
    return any(any(folder.glob(kind)) for kind in kinds)


def load_model(source: Source, dtype: Any) -> Any:
    """The causal language model, on the CPU, with weights of ``dtype`` (a ``torch.dtype``).

    Raises UserError where the weights are missing, pickled, damaged or of another model.
    """
    from transformers import AutoModelForCausalLM

    with quiet(), _readable(source, "model"):
        model, report = AutoModelForCausalLM.from_pretrained(
            source.location,
            dtype=dtype,
            use_safetensors=True,
            output_loading_info=True,
            **source.arguments,
        )
    _check_complete(source, report)
    return model


def load_config(source: Source) -> Any:
    """The checkpoint's configuration. Raises UserError where it cannot be read."""
    from transformers import AutoConfig

    with quiet(), _readable(source, "configuration"):
        return AutoConfig.from_pretrained(source.location, **source.arguments)


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
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as e:
        text = " ".join(str(e).split())
        if "trust_remote_code" in text:
            raise UserError(
                f"its {part} is Python code of the checkpoint, which is not run",
                where=source.name,
                hint="If you trust the authors: trust_remote_code = true.",
            ) from None
        shown = text if len(text) <= 240 else f"{text[:240]}..."
        raise UserError(
            f"the {part} cannot be read: {type(e).__name__}: {shown}",
            where=source.name,
            hint="Get the checkpoint again, or give another one.",
        ) from e


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the progress bars and advice of the libraries; their errors still come through."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
