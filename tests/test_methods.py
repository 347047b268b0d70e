"""LoRA, QLoRA, precision, optimizers, attention: what is trained, saved and refused."""

from __future__ import annotations

import json
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("trl")
pytest.importorskip("peft")

import torch

import tiny
from persd.config import TrainTable
from persd.errors import UserError
from persd.models.checkpoint import content_hash, find, load_merged, load_model, load_tokenizer
from persd.models.local import LocalModel
from persd.train import train
from persd.train.methods import open_model, save
from test_local import family_folder
from test_train import EXAMPLES

LORA = TrainTable(
    method="lora", epochs=6, lr=2e-2, batch_size=4, seed=3, warmup_ratio=0.1, schedule="constant"
)
needs_bitsandbytes = pytest.mark.skipif(
    find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed"
)


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.checkpoint(tmp_path_factory.mktemp("base") / "tiny", hidden=48, spread=0.2)


@pytest.fixture(scope="module")
def trained(base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """One training of adapters that several tests look at."""
    out, before = tmp_path_factory.mktemp("runs") / "merged", content_hash(base)
    losses: list[float] = []
    metrics = train(str(base), EXAMPLES, out, LORA, on_step=lambda step: losses.append(step.loss))
    return {"out": out, "metrics": metrics, "losses": losses, "before": before}


@pytest.fixture(scope="module")
def alone(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same training, whose adapter was not merged."""
    out = tmp_path_factory.mktemp("runs") / "alone"
    train(str(base), EXAMPLES, out, LORA.but(merge=False))
    return out


def weights(folder: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    (file,) = folder.glob("*.safetensors")
    return load_file(file)


def logits(model: Any) -> torch.Tensor:
    with torch.inference_mode():
        found: torch.Tensor = model.eval()(torch.arange(3, 60)[None]).logits
    return found


def greedy(folder: Path) -> list[str]:
    local = LocalModel(str(folder), device="cpu", threads=1)
    return [c.text for c in local.complete([tiny.request(e.prompt) for e in EXAMPLES])]


def test_adapters_learn_and_leave_the_base_as_it_was(base: Path, trained: dict[str, Any]) -> None:
    metrics = trained["metrics"]
    assert metrics["last_loss"] < metrics["first_loss"] / 2
    assert content_hash(base) == trained["before"]
    old, new = weights(base), weights(trained["out"])
    changed = {name for name in old if not torch.equal(old[name], new[name])}
    assert changed == {n for n in old if "_proj." in n}  # every linear layer and nothing else


def test_merged_weights_are_the_base_with_the_adapter(
    base: Path, trained: dict[str, Any], alone: Path
) -> None:
    merged = logits(load_model(find(str(trained["out"])), torch.float32))
    for folder in (trained["out"] / "adapter", alone):
        source = find(str(folder))
        assert torch.allclose(logits(load_model(source, torch.float32)), merged, atol=1e-4)
        assert torch.allclose(logits(load_merged(source, torch.float32)), merged, atol=1e-6)
    assert not torch.allclose(logits(load_model(find(str(base)), torch.float32)), merged, atol=1e-1)


def test_an_adapter_alone_is_sampled_from_on_its_base(
    base: Path, trained: dict[str, Any], alone: Path
) -> None:
    left = {p.name for p in alone.iterdir()}
    assert {"adapter_config.json", "adapter_model.safetensors", "manifest.json"} <= left
    assert "tokenizer.json" in left
    assert not {"model.safetensors", "config.json"} & left
    assert greedy(alone) == greedy(trained["out"]) != greedy(base)


def test_the_adapter_says_where_its_base_is(base: Path, alone: Path) -> None:
    config = json.loads((alone / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(base.resolve())
    assert config["target_modules"] == sorted(config["target_modules"])
    assert load_tokenizer(find(str(alone))).eos_token == "<|end|>"


def test_the_same_seed_gives_the_same_adapter(
    base: Path, trained: dict[str, Any], alone: Path
) -> None:
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        assert (trained["out"] / "adapter" / name).read_bytes() == (alone / name).read_bytes()
    first, other = (open_model(find(str(base)), LORA.but(seed=s)) for s in (3, 4))
    a, b = ({n: p for n, p in m.named_parameters() if "lora_A" in n} for m in (first, other))
    assert not any(torch.equal(a[name], b[name]) for name in a)


def test_gradient_checkpointing_gives_the_same_losses(
    base: Path, trained: dict[str, Any], tmp_path: Path
) -> None:
    seen: list[float] = []
    settings = LORA.but(gradient_checkpointing=True)
    train(str(base), EXAMPLES, tmp_path / "out", settings, on_step=lambda s: seen.append(s.loss))
    assert seen == pytest.approx(trained["losses"], rel=1e-3)


def test_a_merged_base_keeps_its_precision(tmp_path: Path) -> None:
    tok = tiny.tokenizer()
    tok.save_pretrained(str(tmp_path / "base"))
    tiny.model(len(tok)).bfloat16().save_pretrained(str(tmp_path / "base"))
    train(str(tmp_path / "base"), EXAMPLES, tmp_path / "out", LORA.but(max_steps=1))
    assert {w.dtype for w in weights(tmp_path / "out").values()} == {torch.bfloat16}
    assert {w.dtype for w in weights(tmp_path / "out" / "adapter").values()} == {torch.float32}


def test_bfloat16_holds_the_frozen_weights_and_not_the_adapters(base: Path) -> None:
    model = open_model(find(str(base)), LORA.but(dtype="bfloat16"))
    kinds = {p.requires_grad: p.dtype for p in model.parameters()}
    assert kinds == {True: torch.float32, False: torch.bfloat16}


def test_an_adapter_can_be_trained_on(trained: dict[str, Any], alone: Path, tmp_path: Path) -> None:
    short = LORA.but(max_steps=1, lr=1e-3)
    whole = train(str(alone), EXAMPLES, tmp_path / "whole", short.but(method="full"))
    assert whole["first_loss"] < trained["metrics"]["first_loss"] / 2
    assert "adapter" not in {p.name for p in (tmp_path / "whole").iterdir()}
    train(str(alone), EXAMPLES, tmp_path / "upon", short.but(merge=False))
    upon = find(str(tmp_path / "upon"))
    assert upon.base is not None
    assert upon.base.location == str(alone.resolve())
    below = find(str(alone))
    a, b = (logits(load_model(source, torch.float32)) for source in (upon, below))
    assert torch.allclose(a, b, atol=0.5)
    assert not torch.equal(a, b)


@pytest.mark.parametrize("name", ["CodeGen", "GPT2", "Starcoder2", "Qwen2", "Mpt", "Lfm2"])
def test_adapters_of_other_families_merge(name: str, tmp_path: Path) -> None:
    folder, source = tmp_path / "out", find(family_folder(name, tmp_path / "base"))
    model = open_model(source, LORA)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight.normal_(std=0.1)
    save(model, load_tokenizer(source), source, folder, LORA)
    expected = logits(model)
    assert not torch.allclose(logits(load_model(source, torch.float32)), expected, atol=0.1)
    for made in (folder, folder / "adapter"):
        found = logits(load_model(find(str(made)), torch.float32))
        assert torch.allclose(found, expected, rtol=1e-3, atol=1e-3)


def test_a_checkpoint_that_is_stored_quantised_is_refused(base: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(base, tmp_path / "base")
    config = json.loads((copy / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "gptq", "bits": 4}
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"quantised \(gptq\)"):
        open_model(find(str(copy)), LORA)


@needs_bitsandbytes
def test_four_bits_are_not_shared_out(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(UserError, match="FSDP"):
        open_model(find(str(base)), LORA.but(method="qlora"))


def test_targets_can_be_named(base: Path) -> None:
    named = LORA.but(lora={"targets": ["q_proj", "v_proj"], "rank": 2})
    model = open_model(find(str(base)), named)
    trainable = {n.split(".")[-4]: p.shape for n, p in model.named_parameters() if p.requires_grad}
    assert set(trainable) == {"q_proj", "v_proj"}
    assert 2 in trainable["q_proj"]


@pytest.mark.parametrize("target", ["query", "lm_head", "embed_tokens"])
def test_a_target_that_is_no_linear_layer_is_refused(base: Path, target: str) -> None:
    with pytest.raises(UserError, match=f"{target}.*down_proj, gate_proj.*all-linear"):
        open_model(find(str(base)), LORA.but(lora={"targets": ["q_proj", target]}))


@pytest.mark.parametrize(
    ("settings", "key", "instead"),
    [
        ({"method": "qlora"}, "train.method", 'train.method = "lora"'),
        ({"optimizer": "adamw_8bit"}, "train.optimizer", 'train.optimizer = "adafactor"'),
    ],
)
def test_without_bitsandbytes_it_says_how_to_go_on(
    base: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any], key: str, instead: str
) -> None:
    monkeypatch.setattr("persd.train.ready.find_spec", lambda name: None)
    with pytest.raises(UserError) as caught:
        open_model(find(str(base)), LORA.but(**settings))
    line = caught.value.one_line()
    assert key in line
    assert "pip install 'persd[qlora]'" in line
    assert instead in line


def test_adafactor_learns_too(base: Path, tmp_path: Path) -> None:
    settings = LORA.but(method="full", optimizer="adafactor", epochs=4)
    metrics = train(str(base), EXAMPLES, tmp_path / "out", settings)
    assert metrics["last_loss"] < metrics["first_loss"] / 2


def test_the_attention_kernel_is_the_one_asked_for(base: Path) -> None:
    source = find(str(base))
    kernels = {
        asked: open_model(source, LORA.but(attention=asked)).config._attn_implementation
        for asked in ("auto", "eager", "sdpa")
    }
    assert kernels == {"auto": "sdpa", "eager": "eager", "sdpa": "sdpa"}


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("kernel", ["flash_attention_2", "flash_attention_3"])
def test_flash_attention_without_a_gpu_is_refused(base: Path, kernel: str) -> None:
    with pytest.raises(UserError, match=rf'{kernel}.*NVIDIA.*train\.attention = "auto"'):
        open_model(find(str(base)), LORA.but(attention=kernel))


def test_a_kernel_that_the_model_does_not_have_is_refused(tmp_path: Path) -> None:
    from transformers import CodeGenConfig, CodeGenForCausalLM

    tok = tiny.tokenizer()
    tok.save_pretrained(str(tmp_path))
    config = CodeGenConfig(
        vocab_size=len(tok), n_embd=32, n_layer=1, n_head=4, rotary_dim=8, n_positions=64
    )
    CodeGenForCausalLM(config).save_pretrained(str(tmp_path))
    with pytest.raises(UserError, match=r"sdpa.*CodeGenForCausalLM"):
        open_model(find(str(tmp_path)), LORA.but(attention="sdpa"))
    assert open_model(find(str(tmp_path)), LORA)


@needs_bitsandbytes
def test_four_bits_train_adapters_that_are_merged_into_the_stored_weights(
    base: Path, tmp_path: Path
) -> None:
    settings = LORA.but(method="qlora", lora={"targets": ["up_proj", "down_proj"]})
    model = open_model(find(str(base)), settings)
    assert model.is_loaded_in_4bit
    metrics = train(str(base), EXAMPLES, tmp_path / "out", settings)
    assert metrics["last_loss"] < metrics["first_loss"] / 1.5
    old, new = weights(base), weights(tmp_path / "out")
    changed = {name for name in old if not torch.equal(old[name], new[name])}
    assert changed == {
        n for n in old if "up_proj" in n or "down_proj" in n
    }  # the others were not rounded
    adapter = weights(tmp_path / "out" / "adapter")
    assert {w.dtype for w in adapter.values()} == {torch.float32}
    assert not any(torch.equal(w, w.bfloat16().float()) for w in adapter.values())  # trained so


@needs_bitsandbytes
def test_the_optimizer_in_eight_bits_learns(base: Path, tmp_path: Path) -> None:
    settings = LORA.but(method="full", optimizer="adamw_8bit", epochs=4)
    metrics = train(str(base), EXAMPLES, tmp_path / "out", settings)
    assert metrics["last_loss"] < metrics["first_loss"] / 2


@needs_bitsandbytes
def test_four_bits_need_whole_weights(alone: Path) -> None:
    with pytest.raises(UserError, match=r'whole weights.*train\.method = "lora"'):
        open_model(find(str(alone)), LORA.but(method="qlora"))


def test_what_is_beside_the_weights_is_no_part_of_them(
    trained: dict[str, Any], tmp_path: Path
) -> None:
    copy = shutil.copytree(trained["out"], tmp_path / "copy")
    before = content_hash(copy)
    shutil.rmtree(copy / "adapter")
    (copy / "README.md").write_text("words")
    assert content_hash(copy) == before
