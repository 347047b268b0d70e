"""The local student: its sampling loop, its refusals, its identity."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

import torch

import tiny
from persd.errors import UserError
from persd.models.checkpoint import use_threads
from persd.models.local import LocalModel
from persd.models.sampling import choose
from persd.records import Message, Request
from persd.tokens import prompt_ids

PROMPTS = (
    "def add(a, b):\n",
    "# Return the sum of the even numbers of the list.\ndef total(xs):\n    ",
    "x",
    "def count(xs):\n    total = 0\n    for x in xs:\n",
    "def add(a, b):\n",
)
LENGTHS = (24, 40, 9, 17, 24)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.checkpoint(tmp_path_factory.mktemp("tiny") / "checkpoint")


@pytest.fixture(scope="module")
def local(folder: Path) -> LocalModel:
    return LocalModel(str(folder), device="cpu", threads=1)


def generated(local: LocalModel, request: Request, eos: Sequence[int] = ()) -> list[int]:
    """What ``generate`` gives for one prompt alone, without the end token."""
    loaded = local.load()
    ids = prompt_ids(loaded.tokenizer, request.messages, "completions")
    ends = list(eos or loaded.ends)
    out: list[int] = loaded.model.generate(
        torch.tensor([ids]),
        attention_mask=torch.ones(1, len(ids), dtype=torch.long),
        max_new_tokens=request.max_tokens,
        do_sample=False,
        eos_token_id=ends,
    )[0, len(ids) :].tolist()
    return out[:-1] if out[-1] in ends else out


def text_of(local: LocalModel, ids: Sequence[int]) -> str:
    return str(local.load().tokenizer.decode(list(ids), skip_special_tokens=True))


def test_greedy_equals_generate_for_uneven_prompts(local: LocalModel) -> None:
    requests = [tiny.request(p, max_tokens=n) for p, n in zip(PROMPTS, LENGTHS, strict=True)]
    for request, completion in zip(requests, local.complete(requests), strict=True):
        expected = generated(local, request)
        assert completion.text == text_of(local, expected)
        assert completion.usage.output_tokens == len(expected)


def test_greedy_equals_generate_when_rows_end_at_different_steps(folder: Path) -> None:
    local = LocalModel(str(folder), device="cpu", threads=1)
    requests = [tiny.request(p, max_tokens=60) for p in PROMPTS]
    free = [c for r in requests for c in [generated(local, r)]]
    ends = {free[0][3], free[1][11], free[2][30]}  # tokens that occur early in some rows
    loaded = local.load()
    local._state = type(loaded)(loaded.model, loaded.tokenizer, frozenset(ends), None)
    completions = local.complete(requests)
    lengths = set()
    for request, completion in zip(requests, completions, strict=True):
        expected = generated(local, request, eos=sorted(ends))
        assert completion.text == text_of(local, expected)
        assert completion.finish == ("stop" if len(expected) < 60 else "length")
        lengths.add(len(expected))
    assert len(lengths) > 2  # the batch did shrink, more than once


def test_a_sample_does_not_depend_on_its_batch_mates(local: LocalModel) -> None:
    requests = [
        tiny.request(p, seed=s, temperature=t, top_p=q, max_tokens=m)
        for p in PROMPTS
        for s, t, q, m in ((1, 0.3, 0.95, 24), (2, 1.0, 1.0, 12), (3, 0.0, 0.5, 30))
    ]
    together = [c.text for c in local.complete(requests)]
    backwards = [c.text for c in local.complete(requests[::-1])][::-1]
    alone = [local.complete([r])[0].text for r in requests]
    assert together == alone == backwards


def test_the_seed_decides_the_sample(local: LocalModel) -> None:
    def draw(seed: int) -> str:
        return local.complete([tiny.request(PROMPTS[0], seed=seed, temperature=1.0)])[0].text

    assert draw(7) == draw(7)
    assert len({draw(seed) for seed in range(6)}) > 1


def test_finish_is_length_at_max_tokens_and_usage_counts_tokens(local: LocalModel) -> None:
    request = tiny.request(PROMPTS[1], max_tokens=5)
    (completion,) = local.complete([request])
    prompt = prompt_ids(local.load().tokenizer, request.messages, "completions")
    assert completion.finish == "length"
    assert completion.usage.output_tokens == 5
    assert completion.usage.input_tokens == len(prompt)


def test_any_end_id_of_the_generation_config_stops(folder: Path, tmp_path: Path) -> None:
    request = tiny.request(PROMPTS[0], max_tokens=30)
    third = generated(LocalModel(str(folder), device="cpu"), request)[2]
    copy = shutil.copytree(folder, tmp_path / "copy")
    config = json.loads((copy / "generation_config.json").read_text())
    config["eos_token_id"] = [0, third]
    (copy / "generation_config.json").write_text(json.dumps(config))
    (completion,) = LocalModel(str(copy), device="cpu").complete([request])
    assert completion.finish == "stop"
    assert completion.usage.output_tokens <= 2


def test_a_prompt_that_does_not_fit_is_not_cut(local: LocalModel) -> None:
    long = "x = 1\n" * 120
    short = tiny.request(PROMPTS[0])
    first, second = local.complete([tiny.request(long, max_tokens=32), short])
    assert (first.text, first.finish) == ("", "prompt_too_long")
    assert str(first.usage.input_tokens) in first.note
    assert "32" in first.note
    assert "256" in first.note
    assert second.text == local.complete([short])[0].text


def test_the_whole_context_can_be_used(local: LocalModel) -> None:
    request = tiny.request(PROMPTS[0])
    prompt = prompt_ids(local.load().tokenizer, request.messages, "completions")
    exact = tiny.request(PROMPTS[0], max_tokens=256 - len(prompt))
    more = tiny.request(PROMPTS[0], max_tokens=257 - len(prompt))
    assert local.complete([exact])[0].finish in ("stop", "length")
    assert local.complete([more])[0].finish == "prompt_too_long"


def test_text_that_cannot_be_encoded_is_answered_by_name(local: LocalModel) -> None:
    completion = local.complete([tiny.request("a\ud800b")])[0]
    assert (completion.text, completion.finish) == ("", "prompt_not_encodable")


def test_the_chat_form_uses_the_template(folder: Path, local: LocalModel) -> None:
    chat = LocalModel(str(folder), api="chat", device="cpu")
    messages = (Message("system", "Be brief."), Message("user", "Add."))
    (asked,) = chat.complete([tiny.request("", messages=messages)])
    rendered = "<|system|>\nBe brief.<|end|>\n<|user|>\nAdd.<|end|>\n<|assistant|>\n"
    (plain,) = local.complete([tiny.request(rendered)])
    assert asked.usage.input_tokens == plain.usage.input_tokens
    assert asked.text == plain.text


def test_no_template_is_the_users_to_mend(folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(folder, tmp_path / "copy")
    (copy / "chat_template.jinja").unlink()
    with pytest.raises(UserError, match="completions"):
        LocalModel(str(copy), api="chat", device="cpu").complete([tiny.request("x")])


def test_identity_follows_the_content_not_the_place(folder: Path, tmp_path: Path) -> None:
    same = LocalModel(str(shutil.copytree(folder, tmp_path / folder.name)))
    assert same.identity == LocalModel(str(folder)).identity
    other = LocalModel(str(tiny.checkpoint(tmp_path / "other" / folder.name, seed=1)))
    assert other.identity != same.identity
    assert other.name == same.name


def test_identity_changes_when_the_folder_is_trained_again(tmp_path: Path) -> None:
    where = tiny.checkpoint(tmp_path / "checkpoint", seed=0)
    before = LocalModel(str(where)).identity
    tiny.checkpoint(where, seed=1)
    assert LocalModel(str(where)).identity != before


def family(name: str, vocab: int) -> Any:
    """A model of random weights with another kind of attention, positions or cache."""
    import transformers as hf

    ends = {"vocab_size": vocab, "eos_token_id": 0, "pad_token_id": 2, "initializer_range": 0.5}
    gpt = {**ends, "n_positions": 256, "n_embd": 32, "n_layer": 2, "n_head": 4}
    wide = {
        **ends,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
    }
    mpt = {"d_model": 32, "n_heads": 4, "n_layers": 2, "max_seq_len": 256}
    configs = {
        "CodeGen": lambda: hf.CodeGenConfig(**gpt, rotary_dim=4),
        "GPT2": lambda: hf.GPT2Config(**gpt),
        "Starcoder2": lambda: hf.Starcoder2Config(**wide),
        "Qwen2": lambda: hf.Qwen2Config(**wide),
        "Mistral": lambda: hf.MistralConfig(**wide, sliding_window=8),
        "Mpt": lambda: hf.MptConfig(**mpt, vocab_size=vocab, initializer_range=0.5),
        "Lfm2": lambda: hf.Lfm2Config(**wide, layer_types=["conv", "full_attention"]),
        "Mamba": lambda: hf.MambaConfig(**ends, hidden_size=32, num_hidden_layers=1),
    }
    config = configs[name]()
    torch.manual_seed(0)
    model = getattr(hf, "GPT2LMHeadModel" if name == "GPT2" else f"{name}ForCausalLM")(config)
    model.generation_config.eos_token_id = 0
    return model


def family_folder(name: str, folder: Path) -> str:
    tok = tiny.tokenizer()
    family(name, len(tok)).save_pretrained(str(folder))
    tok.save_pretrained(str(folder))
    return str(folder)


@pytest.mark.parametrize(
    "name", ["CodeGen", "GPT2", "Starcoder2", "Qwen2", "Mistral", "Mpt", "Lfm2"]
)
def test_other_families_sample_as_generate_does(name: str, tmp_path: Path) -> None:
    local = LocalModel(family_folder(name, tmp_path), device="cpu")
    requests = [tiny.request(p, max_tokens=n) for p, n in zip(PROMPTS, LENGTHS, strict=True)]
    assert local.load().context == 256
    for request, completion in zip(requests, local.complete(requests), strict=True):
        assert completion.text == text_of(local, generated(local, request))


def test_a_model_without_a_key_value_cache_is_refused(tmp_path: Path) -> None:
    assert "no key-value cache" in refusal(family_folder("Mamba", tmp_path))


def refusal(model: str, **options: Any) -> str:
    with pytest.raises(UserError) as caught:
        LocalModel(model, device="cpu", **options).complete([tiny.request("x")])
    line = caught.value.one_line()
    assert caught.value.hint
    assert "\n" not in line
    return line


@pytest.mark.parametrize("name", ["./nowhere", "/no/such/place", "a/b/c", "~/nowhere-at-all"])
def test_a_path_that_is_not_there_is_not_looked_for_on_the_hub(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", pytest.fail)
    assert name in refusal(name)


def test_a_name_in_a_folder_that_is_here_is_a_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", pytest.fail)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    assert "runs/first" in refusal("runs/first")


def test_an_unreachable_hub_is_asked_once_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def unreachable(url: str, **options: Any) -> None:
        asked.append(url)
        raise ConnectionError("no route")

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", unreachable)
    assert "cannot be reached" in refusal("no-such-org-of-ours/no-such-model")
    assert len(asked) == 1


def test_what_the_hub_left_in_the_cache_serves_without_a_network(
    folder: Path, tmp_path: Path, local: LocalModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository, commit = tmp_path / "models--ours--tiny", "0123456789abcdef0123456789abcdef01234567"
    shutil.copytree(folder, repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    cached = LocalModel("ours/tiny", device="cpu")
    assert cached.name == "ours/tiny"
    assert cached.identity["revision"] == commit
    request = tiny.request(PROMPTS[0])
    assert cached.complete([request])[0].text == local.complete([request])[0].text


def test_a_folder_without_config_is_refused(tmp_path: Path) -> None:
    assert "config.json" in refusal(str(tmp_path))


@pytest.mark.parametrize("beside", ["nothing", "other safetensors", "an index that names it"])
def test_pickled_weights_are_refused(folder: Path, tmp_path: Path, beside: str) -> None:
    copy = shutil.copytree(folder, tmp_path / "copy")
    weights = copy / "model.safetensors"
    if beside == "other safetensors":
        shutil.copy(weights, copy / "adapter_model.safetensors")
    if beside == "an index that names it":
        index = {"metadata": {}, "weight_map": {"lm_head.weight": "pytorch_model.bin"}}
        (copy / "model.safetensors.index.json").write_text(json.dumps(index))
    weights.unlink()
    torch.save({}, copy / "pytorch_model.bin")
    assert "pytorch_model.bin" in refusal(str(copy))


def test_weights_in_several_files_are_read(folder: Path, tmp_path: Path, local: LocalModel) -> None:
    copy = shutil.copytree(folder, tmp_path / "copy")
    (copy / "model.safetensors").unlink()
    local.load().model.save_pretrained(str(copy), max_shard_size="20KB")
    assert not (copy / "model.safetensors").exists()
    request = tiny.request(PROMPTS[0])
    sharded = LocalModel(str(copy), device="cpu")
    assert sharded.complete([request])[0].text == local.complete([request])[0].text


def test_damaged_weights_are_refused(folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(folder, tmp_path / "copy")
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:200])
    assert "cannot be read" in refusal(str(copy))


def test_weights_of_another_model_are_refused(folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(folder, tmp_path / "copy")
    config = json.loads((copy / "config.json").read_text())
    config["num_hidden_layers"] = 3
    (copy / "config.json").write_text(json.dumps(config))
    assert "does not fill the model" in refusal(str(copy))


def test_code_of_the_checkpoint_is_not_run(folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(folder, tmp_path / "copy")
    config = json.loads((copy / "config.json").read_text())
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "own.Own"}}
    (copy / "config.json").write_text(json.dumps(config))
    (copy / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    assert "trust_remote_code" in refusal(str(copy))
    assert not (tmp_path / "ran").exists()


def test_a_tokenizer_without_end_token_is_refused(folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(folder, tmp_path / "copy")
    config = json.loads((copy / "tokenizer_config.json").read_text())
    config.pop("eos_token")
    (copy / "tokenizer_config.json").write_text(json.dumps(config))
    assert "end-of-sequence" in refusal(str(copy))


def test_an_unknown_device_is_refused(folder: Path) -> None:
    with pytest.raises(UserError, match="device"):
        LocalModel(str(folder), device="no-such-device").load()


def test_a_small_model_takes_one_thread_unless_told(
    local: LocalModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = local.load().model
    before = torch.get_num_threads()
    try:
        assert use_threads(model) == torch.get_num_threads() == 1
        assert use_threads(model, 2) == torch.get_num_threads() == 2
        monkeypatch.setenv("PERSD_THREADS", "3")
        assert use_threads(model) == torch.get_num_threads() == 3
        monkeypatch.setenv("PERSD_THREADS", "many")
        with pytest.raises(UserError, match="PERSD_THREADS"):
            use_threads(model)
    finally:
        torch.set_num_threads(before)


def test_close_can_be_called_twice_and_the_model_comes_back(folder: Path) -> None:
    local = LocalModel(str(folder), device="cpu")
    before = local.complete([tiny.request(PROMPTS[0])])
    local.close()
    local.close()
    assert local.complete([tiny.request(PROMPTS[0])])[0].text == before[0].text


def frequencies(probs: Sequence[float], top_p: float, temperature: float) -> list[float]:
    """Shares of each token over an even grid of uniform numbers."""
    grid = (torch.arange(20_000) + 0.5) / 20_000
    logits = torch.tensor(probs).log().expand(len(grid), -1)
    ones = torch.ones(len(grid))
    tokens = choose(logits, temperature * ones, top_p * ones, grid)
    return (torch.bincount(tokens, minlength=len(probs)) / len(grid)).tolist()


def test_draws_follow_the_distribution() -> None:
    assert frequencies([0.1, 0.6, 0.3], 1.0, 1.0) == pytest.approx([0.1, 0.6, 0.3], abs=1e-3)


def test_top_p_keeps_the_smallest_set_that_holds_the_mass() -> None:
    drawn = frequencies([0.1, 0.5, 0.3, 0.1], 0.7, 1.0)
    assert drawn == pytest.approx([0, 0.625, 0.375, 0], abs=1e-3)


def test_temperature_sharpens() -> None:
    expected = torch.tensor([0.2, 0.8]) ** 2
    expected = expected / expected.sum()
    assert frequencies([0.2, 0.8], 1.0, 0.5) == pytest.approx(expected.tolist(), abs=1e-3)


def test_a_wide_top_p_set_is_drawn_from_whole() -> None:
    flat = [1 / 200] * 200
    drawn = frequencies(flat, 0.9, 1.0)
    assert sum(share > 0 for share in drawn) == pytest.approx(180, abs=1)
