"""Checkpoints that are damaged, of another kind, or adapters: found, read, or refused in a line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("peft")

import torch

import tiny
from persd.errors import UserError
from persd.models.checkpoint import (
    content_hash,
    context_length,
    find,
    load_config,
    load_merged,
    load_model,
    load_tokenizer,
    stored_dtype,
)
from persd.models.local import LocalModel


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.checkpoint(tmp_path_factory.mktemp("whole") / "base", spread=0.2)


@pytest.fixture(scope="module")
def lora(whole: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter as peft itself saves it, of random weights, without a tokenizer."""
    return saved_adapter(whole, tmp_path_factory.mktemp("lora") / "adapter")


def saved_adapter(base: Path, folder: Path, *, seed: int = 1, **settings: Any) -> Path:
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(seed)
    usual = {"target_modules": ["q_proj", "up_proj"], "init_lora_weights": False}
    config = LoraConfig(**usual | settings, task_type="CAUSAL_LM")
    get_peft_model(load_model(find(str(base)), torch.float32), config).save_pretrained(str(folder))
    return folder


def refusal(act: Callable[[], Any]) -> str:
    with pytest.raises(UserError) as caught:
        act()
    line = caught.value.one_line()
    assert caught.value.hint
    assert "\n" not in line
    assert len(line) < 600
    return line


def read(folder: Path) -> Any:
    """As a student is opened: tokenizer, then weights."""
    return LocalModel(str(folder), device="cpu").load()


def copy(folder: Path, to: Path) -> Path:
    return shutil.copytree(folder, to / folder.name)


def change(file: Path, **values: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


def logits(model: Any) -> torch.Tensor:
    with torch.inference_mode():
        found: torch.Tensor = model.eval()(torch.arange(3, 60)[None]).logits
    return found


# Adapters


def test_an_adapter_is_found_with_its_base(whole: Path, lora: Path) -> None:
    source = find(str(lora))
    assert source.base == find(str(whole))
    assert load_tokenizer(source).eos_token == "<|end|>"
    assert context_length(load_config(source)) == 256
    assert stored_dtype(source) == torch.float32


def test_it_lies_on_its_base_as_peft_has_it(whole: Path, lora: Path) -> None:
    from peft import PeftModel

    expected = logits(PeftModel.from_pretrained(load_model(find(str(whole)), torch.float32), lora))
    assert torch.equal(logits(load_model(find(str(lora)), torch.float32)), expected)
    merged = load_merged(find(str(lora)), torch.float32)
    assert torch.allclose(logits(merged), expected, atol=1e-4)
    assert not any("lora" in name for name, _ in merged.named_parameters())
    assert all(p.requires_grad for p in merged.parameters())


def test_adapters_lie_on_one_another(lora: Path, tmp_path: Path) -> None:
    upper = tmp_path / "upper"
    shutil.copytree(lora, upper)
    change(upper / "adapter_config.json", base_model_name_or_path=str(lora))
    both = logits(load_model(find(str(upper)), torch.float32))
    assert not torch.allclose(both, logits(load_model(find(str(lora)), torch.float32)), atol=1e-2)
    assert {"base_weights", "base_base_weights"} <= find(str(upper)).identity.keys()


def test_identity_is_of_adapter_and_base_and_not_of_their_places(
    whole: Path, lora: Path, tmp_path: Path
) -> None:
    there = find(str(lora)).identity
    moved, base = copy(lora, tmp_path), copy(whole, tmp_path)
    change(moved / "adapter_config.json", base_model_name_or_path=str(base))
    assert find(str(moved)).identity == there
    (base / "generation_config.json").write_text('{"eos_token_id": 1}')
    assert find(str(moved)).identity != there
    change(moved / "adapter_config.json", base_model_name_or_path=str(whole), lora_alpha=99)
    assert find(str(moved)).identity != there


def test_its_own_tokenizer_goes_before_the_bases(lora: Path, tmp_path: Path) -> None:
    own = copy(lora, tmp_path)
    tok = tiny.tokenizer()
    tok.chat_template = "{{ messages[0]['content'] }}"
    tok.save_pretrained(str(own))
    assert load_tokenizer(find(str(own))).chat_template == tok.chat_template


def test_a_copy_of_the_bases_config_does_not_make_it_whole(
    whole: Path, lora: Path, tmp_path: Path
) -> None:
    own = copy(lora, tmp_path)
    shutil.copy(whole / "config.json", own)
    assert find(str(own)).base == find(str(whole))


def test_an_adapter_whose_base_is_absent_names_both(lora: Path, tmp_path: Path) -> None:
    own = copy(lora, tmp_path)
    change(own / "adapter_config.json", base_model_name_or_path=str(tmp_path / "gone"))
    line = refusal(lambda: find(str(own)))
    assert str(own) in line
    assert str(tmp_path / "gone") in line


def test_an_adapter_for_itself_is_refused(lora: Path, tmp_path: Path) -> None:
    own = copy(lora, tmp_path)
    change(own / "adapter_config.json", base_model_name_or_path=str(own))
    assert "on one another" in refusal(lambda: find(str(own)))


def test_a_pickled_adapter_is_refused(lora: Path, tmp_path: Path) -> None:
    own = copy(lora, tmp_path)
    (own / "adapter_model.safetensors").rename(own / "adapter_model.bin")
    assert "pickled weights (adapter_model.bin)" in refusal(lambda: find(str(own)))
    (own / "adapter_model.bin").unlink()
    assert "without its weights" in refusal(lambda: find(str(own)))


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"peft_type": "IA3"}, "kind 'IA3'"),
        ({"layer_replication": [[0, 2], [0, 2]]}, "repeats layers"),
        ({"task_type": "SEQ_CLS"}, "SEQ_CLS"),
        ({"base_model_name_or_path": None}, "does not say which checkpoint"),
        ({"base_model_name_or_path": ["a"]}, "does not say which checkpoint"),
    ],
)
def test_an_adapter_of_another_kind_is_refused(
    lora: Path, tmp_path: Path, values: dict[str, Any], said: str
) -> None:
    own = copy(lora, tmp_path)
    change(own / "adapter_config.json", **values)
    assert said in refusal(lambda: find(str(own)))


@pytest.mark.parametrize("text", ["", "{", "[]", '"x"', "{}", "\x00"])
def test_a_broken_adapter_configuration_is_refused(lora: Path, tmp_path: Path, text: str) -> None:
    own = copy(lora, tmp_path)
    (own / "adapter_config.json").write_text(text)
    assert "adapter_config.json" in refusal(lambda: find(str(own)))


def test_an_adapter_that_does_not_fit_is_refused(whole: Path, lora: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    own = copy(lora, tmp_path)
    file = own / "adapter_model.safetensors"
    parts = load_file(file)
    fewer = dict(list(parts.items())[2:])
    save_file(fewer, file)
    assert "does not fill its layers: 2" in refusal(lambda: read(own))
    save_file({**parts, "base_model.model.elsewhere.lora_A.weight": torch.zeros(1)}, file)
    assert "layers that are not there: 1" in refusal(lambda: read(own))
    file.write_bytes(file.read_bytes()[:500])
    assert "adapter cannot be read" in refusal(lambda: read(own))
    wide = tiny.checkpoint(tmp_path / "wide", hidden=64)
    other = copy(lora, tmp_path / "2")
    change(other / "adapter_config.json", base_model_name_or_path=str(wide))
    assert "size mismatch" in refusal(lambda: read(other))


@pytest.mark.parametrize("end", ["lm_head", "embed_tokens"])
def test_an_adapter_on_a_weight_that_is_two_is_not_merged(
    whole: Path, tmp_path: Path, end: str
) -> None:
    own = saved_adapter(whole, tmp_path / "own", target_modules=["q_proj", end])
    assert read(own)
    assert "cannot be merged" in refusal(lambda: load_merged(find(str(own)), torch.float32))


def test_an_adapter_of_a_kind_that_cannot_be_merged_is_refused(lora: Path, tmp_path: Path) -> None:
    own = copy(lora, tmp_path)
    change(own / "adapter_config.json", alora_invocation_tokens=[3])
    assert "not support merging" in refusal(lambda: load_merged(find(str(own)), torch.float32))


def test_an_adapter_beside_whole_weights_is_refused(
    whole: Path, lora: Path, tmp_path: Path
) -> None:
    both = copy(whole, tmp_path)
    shutil.copy(lora / "adapter_config.json", both)
    assert "beside whole weights" in refusal(lambda: read(both))


@pytest.mark.parametrize(
    "name",
    ["no--model", "a..b/model", "model.git", "~nobody-is-called-this", "m" * 5000, "a\0b", ""],
)
def test_a_name_that_nothing_can_have_is_told_in_a_line(
    lora: Path, tmp_path: Path, name: str
) -> None:
    with pytest.raises(UserError, match="no checkpoint folder"):
        find(name)
    own = copy(lora, tmp_path)
    change(own / "adapter_config.json", base_model_name_or_path=name)
    with pytest.raises(UserError, match=r"adapter_config\.json"):
        find(str(own))


@pytest.mark.parametrize("name", ["../base/model.safetensors", "deep/model.safetensors"])
def test_weights_that_lie_elsewhere_are_refused(whole: Path, tmp_path: Path, name: str) -> None:
    own = copy(whole, tmp_path)
    index = {"metadata": {}, "weight_map": {"lm_head.weight": name}}
    (own / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "not in the folder itself" in refusal(lambda: find(str(own)))


# Other kinds of models


def other_kinds(vocab: int) -> dict[str, Callable[[], Any]]:
    import transformers as hf

    small = {"vocab_size": vocab, "hidden_size": 32, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 2, "intermediate_size": 32}
    t5 = {"d_model": 32, "d_kv": 16, "d_ff": 32, "num_layers": 1, "num_heads": 2}
    bart = {"encoder_layers": 1, "decoder_layers": 1, "d_model": 32}
    return {
        "BertModel": lambda: hf.BertModel(hf.BertConfig(**small, **heads)),
        "BertForMaskedLM": lambda: hf.BertForMaskedLM(hf.BertConfig(**small, **heads)),
        "T5ForConditionalGeneration": lambda: hf.T5ForConditionalGeneration(
            hf.T5Config(vocab_size=vocab, **t5)
        ),
        "BartForConditionalGeneration": lambda: hf.BartForConditionalGeneration(
            hf.BartConfig(vocab_size=vocab, **bart)
        ),
        "ViTModel": lambda: hf.ViTModel(
            hf.ViTConfig(hidden_size=32, num_hidden_layers=1, **heads, image_size=32)
        ),
        "LlamaForSequenceClassification": lambda: hf.LlamaForSequenceClassification(
            hf.LlamaConfig(**small, **heads, pad_token_id=2)
        ),
    }


@pytest.mark.parametrize("kind", sorted(other_kinds(8)))
def test_a_checkpoint_that_is_no_causal_model_says_what_it_is(kind: str, tmp_path: Path) -> None:
    tok = tiny.tokenizer()
    tok.save_pretrained(str(tmp_path))
    other_kinds(len(tok))[kind]().save_pretrained(str(tmp_path))
    line = refusal(lambda: read(tmp_path))
    assert f"no causal language model: it is {kind}" in line
    assert "no causal language model" in refusal(lambda: load_model(find(str(tmp_path)), None))


def test_an_older_name_of_an_architecture_is_let_through(whole: Path, tmp_path: Path) -> None:
    own = copy(whole, tmp_path)
    change(own / "config.json", architectures=["LLaMAForCausalLM"])
    assert read(own)
    change(own / "config.json", architectures=None)
    assert read(own)


# Tokenizers


def test_a_tokenizer_that_ends_nothing_is_refused(whole: Path, tmp_path: Path) -> None:
    own = copy(whole, tmp_path)
    file = own / "tokenizer_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "eos_token": None}))
    assert "end-of-sequence" in refusal(lambda: read(own))


def test_a_tokenizer_with_more_tokens_than_the_model_is_refused(
    whole: Path, tmp_path: Path
) -> None:
    own = copy(whole, tmp_path)
    rows = len(tiny.tokenizer())
    tok = tiny.tokenizer()
    tok.add_tokens(["<new>"])
    tok.save_pretrained(str(own))
    line = refusal(lambda: read(own))
    assert f"'<new>' is number {rows}, the model has {rows}" in line


# Damage


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"model_type": "nonesuch"}', "\x00\x01"])
def test_a_corrupt_configuration_is_refused(whole: Path, tmp_path: Path, text: str) -> None:
    own = copy(whole, tmp_path)
    (own / "config.json").write_text(text)
    refusal(lambda: read(own))


@pytest.mark.parametrize(
    "values",
    [
        {"num_attention_heads": 0},
        {"num_hidden_layers": "two"},
        {"hidden_act": "nonesuch"},
        {"rope_scaling": 5},
        {"hidden_size": -1},
        {"dtype": "float99"},
        {"architectures": 3},
        {"hidden_size": 64},
        {"intermediate_size": 10**9},
        {"num_hidden_layers": 3},
    ],
    ids=str,
)
def test_a_configuration_that_does_not_fit_the_weights_is_refused(
    whole: Path, tmp_path: Path, values: dict[str, Any]
) -> None:
    own = copy(whole, tmp_path)
    change(own / "config.json", **values)
    refusal(lambda: read(own))


def _cut(data: bytes) -> bytes:
    return data[: len(data) // 2]


def _wrong_header(data: bytes) -> bytes:
    return data[:8] + b"x" * 32 + data[40:]


def _endless_header(data: bytes) -> bytes:
    return b"\xff" * 8 + data[8:]


@pytest.mark.parametrize("damage", [_cut, _wrong_header, _endless_header, lambda data: b""])
def test_corrupt_weights_are_refused(
    whole: Path, tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    own = copy(whole, tmp_path)
    file = own / "model.safetensors"
    file.write_bytes(damage(file.read_bytes()))
    assert "cannot be read" in refusal(lambda: read(own))


def test_what_is_beside_the_weights_is_not_hashed(whole: Path, lora: Path, tmp_path: Path) -> None:
    own = copy(whole, tmp_path)
    before = content_hash(own)
    copy(lora, own)
    (own / "README.md").write_text("words")
    (own / "steps.jsonl").write_text("{}\n")
    assert content_hash(own) == before
