"""How the weights are trained: which of them, in what precision, and how they are saved.

``full`` trains them all; ``lora`` adds a pair of thin matrices to every linear layer and trains
these alone (Hu et al. 2021); ``qlora`` holds the frozen rest in 4 bits (Dettmers et al. 2023).
Adapters are trained and kept in float32, and merged into the base as it is stored: read anew,
never into weights that were rounded for the training.
"""

from __future__ import annotations

import os
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from persd.config import TrainTable
from persd.errors import UserError
from persd.models.checkpoint import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    Source,
    has_bf16,
    load_config,
    load_merged,
    load_model,
    need_extra,
    pick_device,
    quiet,
    stored_dtype,
    use_threads,
)
from persd.train import ranks
from persd.train.folder import write_json
from persd.train.ready import need_bitsandbytes

_HALVES = (torch.bfloat16, torch.float16)
#: Where the adapter lies that was merged into a checkpoint.
KEPT = "adapter"


def open_model(source: Source, settings: TrainTable) -> Any:
    """The model to be trained, in training mode: with method lora or qlora peft's, with adapters
    that the seed decides.

    On the CPU, but for qlora, whose weights are packed where they are used. Raises UserError
    where the checkpoint cannot be read, or a method, optimizer, attention kernel or target of
    adapters is asked for that is not there.
    """
    device = pick_device(None)
    need_bitsandbytes(settings)
    _refuse_quantised(source)
    if settings.optimizer == "adamw_8bit":
        _need_bitsandbytes("train.optimizer", "adamw_8bit", "adafactor", device)
    if settings.method == "full":
        dtype = torch.bfloat16 if settings.dtype == "bfloat16" else torch.float32
        model = load_merged(source, dtype)
    elif settings.method == "lora":
        model = load_merged(source, _frozen_dtype(source, settings, device))
    else:
        model = _in_four_bits(source, settings, device)
    _set_attention(model, settings, device)
    if settings.method != "full":
        model = _with_adapters(model, source, settings)
    model.train()
    use_threads(model)
    return model


def save(model: Any, tokenizer: Any, source: Source, folder: Path, settings: TrainTable) -> None:
    """Write the checkpoint in the precision its base is stored in.

    Of adapters the base with them merged into it, and the adapter alone in ``folder/adapter``;
    without ``settings.merge`` the adapter alone.
    """
    dtype = stored_dtype(source)
    if settings.method == "full":
        model.to(dtype).save_pretrained(str(folder))
    else:
        alone = folder / KEPT if settings.merge else folder
        _save_adapter(model, source, alone)
        if settings.merge:
            trained = Source(KEPT, str(alone), None, source.trust_remote_code, source)
            load_merged(trained, dtype).save_pretrained(str(folder))
    tokenizer.save_pretrained(str(folder))


def computes_in_bf16(device: torch.device, settings: TrainTable) -> bool:
    """Whether the passes are computed in bfloat16, whatever the weights are held in."""
    return settings.dtype != "float32" and has_bf16(device)


def widen_adapters(model: Any) -> None:
    """Have a 4-bit model's adapters in float32 again: TRL rounds them to bfloat16, in which a
    step of the usual size is lost on a weight of the usual size."""
    if getattr(model, "is_loaded_in_4bit", False) and not _by_deepspeed():
        for weight in model.parameters():
            if weight.requires_grad:
                weight.data = weight.data.float()


def _refuse_quantised(source: Source) -> None:
    how = getattr(load_config(source), "quantization_config", None)
    if how:
        kind = how.get("quant_method") if isinstance(how, dict) else type(how).__name__
        raise UserError(
            f"the checkpoint is stored quantised ({kind}), and training needs its own weights",
            where=source.name,
            hint='Give the checkpoint it was made of; train.method = "qlora" packs that itself.',
        )


def _frozen_dtype(source: Source, settings: TrainTable, device: torch.device) -> torch.dtype:
    """Of the weights under adapters: half precision stays so where it is computed in anyway."""
    if settings.dtype == "bfloat16":
        return torch.bfloat16
    half = computes_in_bf16(device, settings) and stored_dtype(source) in _HALVES
    return torch.bfloat16 if half else torch.float32


def _in_four_bits(source: Source, settings: TrainTable, device: torch.device) -> Any:
    """The model with its linear layers in 4 bits (nf4, the scales quantised once more)."""
    from transformers import BitsAndBytesConfig

    _need_bitsandbytes("train.method", "qlora", "lora", device)
    if source.base is not None:
        raise UserError(
            f"{source.name} is an adapter, and train.method = 'qlora' needs whole weights",
            where=source.location,
            hint='Use train.method = "lora", or a checkpoint into which it was merged.',
        )
    if {"fsdp", "deepspeed"} & set(ranks.form().split()):
        raise UserError(
            'train.method = "qlora": 4-bit weights cannot be shared out by FSDP or DeepSpeed here',
            hint='Launch it without them, or use train.method = "lora".',
        )
    half = computes_in_bf16(device, settings) or settings.dtype == "bfloat16"
    dtype = torch.bfloat16 if half else torch.float32
    packed = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )
    own = f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if device.type == "cuda" else device.type
    return load_model(source, dtype, quantization_config=packed, device_map={"": own})


def _need_bitsandbytes(key: str, value: str, instead: str, device: torch.device) -> None:
    """Raises UserError where bitsandbytes does not work on the device."""
    other = f'{key} = "{instead}"'
    try:
        bitsandbytes = import_module("bitsandbytes")
        bitsandbytes.functional.quantize_4bit(torch.ones(64, device=device))
        if value == "adamw_8bit":
            _try_8bit(bitsandbytes, device)
    except Exception as e:  # whatever its kernels raise where they are not made for
        reason = " ".join(str(e).split())[:120] or type(e).__name__
        raise UserError(
            f'{key} = "{value}": bitsandbytes does not work on {device.type}: {reason}',
            hint=f"Use {other}.",
        ) from e


def _try_8bit(bitsandbytes: Any, device: torch.device) -> None:
    """One step of the optimizer on a weight large enough to have its state in 8 bits."""
    weight = torch.nn.Parameter(torch.ones(8192, device=device))
    weight.grad = torch.ones_like(weight)
    bitsandbytes.optim.AdamW8bit([weight], lr=0.1).step()
    if not bool((weight < 1).all()):
        raise RuntimeError("a step changed nothing")


def _set_attention(model: Any, settings: TrainTable, device: torch.device) -> None:
    """Have the attention kernel of the settings. Raises UserError for one that cannot be here."""
    asked = settings.attention
    if asked == "auto":
        kernel = "flash_attention_2"
        if _why_no_flash(kernel, settings, device) or not _takes_flash(model):
            return
    else:
        kernel = asked
        if reason := _why_no_flash(kernel, settings, device):
            raise UserError(
                f"train.attention = {kernel!r}: {reason}", hint='Use train.attention = "auto".'
            )
    try:
        with quiet():
            model.set_attn_implementation(kernel)
    except (ValueError, ImportError):
        pass  # it keeps the one it has
    if asked != "auto" and model.config._attn_implementation != kernel:
        raise UserError(
            f"train.attention = {kernel!r}: {type(model).__name__} has no such kernel",
            hint='Use train.attention = "auto".',
        )


def _takes_flash(model: Any) -> bool:
    return bool(getattr(model, "_supports_flash_attn", False))


def _why_no_flash(kernel: str, settings: TrainTable, device: torch.device) -> str | None:
    """Why a flash kernel cannot be used here; None: it can, or it is another kernel."""
    from transformers.utils import is_flash_attn_2_available, is_flash_attn_3_available

    versions = {
        "flash_attention_2": (is_flash_attn_2_available, "flash-attn", 8),
        "flash_attention_3": (is_flash_attn_3_available, "flash-attn-3", 9),
    }
    if kernel not in versions:
        return None
    available, package, generation = versions[kernel]
    if device.type != "cuda":
        return f"it is for NVIDIA GPUs, and this trains on {device.type}"
    if torch.cuda.get_device_capability(device)[0] < generation:
        return f"it is for GPUs of compute capability {generation}.0 and higher"
    if not available():
        return f"{package} is not installed"
    if not computes_in_bf16(device, settings):
        return f"it computes in bfloat16, and train.dtype is {settings.dtype!r}"
    return None


def _with_adapters(model: Any, source: Source, settings: TrainTable) -> Any:
    """The model with new adapters, which change nothing yet; all else is frozen."""
    need_extra(f'train.method = "{settings.method}"', "peft")
    with quiet():  # importing it talks, too
        from peft import LoraConfig, get_peft_model

    lora = settings.lora
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=float(lora.alpha),  # type: ignore[arg-type, unused-ignore]
        lora_dropout=lora.dropout,
        target_modules=_targets(model, lora.targets),
        task_type="CAUSAL_LM",
        base_model_name_or_path=_place_of(source),
        revision=source.revision,
    )
    torch.manual_seed(settings.seed or 0)
    with quiet():
        adapted = get_peft_model(model, config, autocast_adapter_dtype=not _by_deepspeed())
    config.base_model_name_or_path = _place_of(source)  # peft has put the folder it was read from
    return adapted


def _by_deepspeed() -> bool:
    """Whether DeepSpeed trains: it cannot gather weights of two types, and keeps float32 copies
    of those it trains itself."""
    return "deepspeed" in ranks.sharing()


def _place_of(source: Source) -> str:
    """What the checkpoint can be found by again: its Hub id, or its folder."""
    return source.location if source.revision is None else source.name


def _targets(model: Any, asked: str | list[str]) -> str | list[str]:
    """The modules that get adapters. Raises UserError for a name that is no linear layer's."""
    if isinstance(asked, str):
        return asked
    from transformers.pytorch_utils import Conv1D

    head = model.get_output_embeddings()  # TRL computes the loss past its adapter
    linear = [
        name
        for name, module in model.named_modules()
        if isinstance(module, (torch.nn.Linear, Conv1D)) and module is not head
    ]
    for target in asked:
        if not any(name == target or name.endswith(f".{target}") for name in linear):
            kinds = sorted({name.rpartition(".")[2] for name in linear})
            raise UserError(
                f"train.lora.targets: no linear layer is called {target!r}",
                hint=f'It has {", ".join(kinds)}; or say "all-linear".',
            )
    return sorted(asked)


def _save_adapter(model: Any, source: Source, folder: Path) -> None:
    """Write the adapter as peft reads it, the same bytes for the same weights."""
    from peft import get_peft_model_state_dict
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    weights = get_peft_model_state_dict(model, save_embedding_layers=False)
    plain = {name: w.detach().cpu().float().contiguous() for name, w in weights.items()}
    save_file(plain, folder / ADAPTER_WEIGHTS, metadata={"format": "pt"})
    config = model.peft_config["default"].to_dict() | {
        "inference_mode": True,
        "base_model_name_or_path": _place_of(source),
        "revision": source.revision,
    }
    sets = {key: sorted(v) for key, v in config.items() if isinstance(v, set)}
    write_json(folder / ADAPTER_CONFIG, {**config, **sets})
