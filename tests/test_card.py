"""The model card: what it says is what the manifest says."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest

from persd.config import TrainTable
from persd.train.card import card


def manifest(base: dict[str, str] | None = None, **settings: Any) -> dict[str, Any]:
    return {
        "base": base or {"model": "Qwen/Qwen2.5-Coder-0.5B", "revision": "0123456789abcdef" * 2},
        "data_hash": "d" * 16,
        "examples": 1234,
        "left_out": [
            {"example_id": "a", "reason": "over_long", "detail": ""},
            {"example_id": "b", "reason": "over_long", "detail": ""},
        ],
        "variants": ["persd-combined"],
        "api": "completions",
        "settings": TrainTable(seed=7, **settings).model_dump(mode="json"),
        "seed": 7,
        "versions": {"persd": "0.1.0", "torch": "2.13.0"},
        "metrics": {
            "steps": 77.0,
            "epochs": 1.0,
            "examples": 1232.0,
            "first_loss": 2.5,
            "last_loss": 0.75,
            "tokens": 98765.0,
            "seconds": 60.0,
        },
    }


def header(text: str) -> dict[str, Any]:
    from huggingface_hub import ModelCard

    data: Any = ModelCard(text).data
    return dict(data.to_dict())


def test_the_header_is_read_by_the_hub() -> None:
    found = header(card(manifest(), "out"))
    assert found["base_model"] == "Qwen/Qwen2.5-Coder-0.5B"
    assert found["library_name"] == "transformers"
    assert found["base_model_relation"] == "finetune"
    assert found["tags"] == ["persd", "persd-combined"]
    assert "license" not in found
    alone = header(card(manifest(method="lora", merge=False), "out"))
    assert (alone["library_name"], alone["base_model_relation"]) == ("peft", "adapter")
    assert "lora" in alone["tags"]


def test_a_folder_is_no_base_of_the_hubs() -> None:
    text = card(manifest({"model": "mine", "weights": "f" * 64}), "out")
    assert "base_model" not in header(text)
    assert "`mine` (a folder, content `ffffffffffff`)" in text


def test_its_figures_are_the_manifests() -> None:
    text = card(manifest(), "out")
    for told in (
        "| Examples given | 1,234 |",
        "| Trained on | 1,232 |",
        "| Left out, over-long | 2 |",
        "| Optimizer steps | 77 |",
        "| Loss of the first tenth of the steps | 2.5000 nats a token |",
        "| Loss of the last tenth | 0.7500 nats a token |",
        "`dddddddddddddddd`",
        "persd 0.1.0, torch 2.13.0.",
    ):
        assert told in text
    assert "held out, whose" not in text


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"method": "lora", "lora": {"rank": 4, "targets": ["q_proj"]}, "lr": 1e-4},
        {"stages": [{"length": 64, "share": 0.5}, {"length": 128, "share": 0.5}]},
    ],
)
def test_its_settings_make_the_same_training(settings: dict[str, Any]) -> None:
    text = card(manifest(**settings), "out")
    block = text.split("```toml\n")[1].split("```")[0]
    assert TrainTable(**tomllib.loads(block)["train"]) == TrainTable(seed=7, **settings)


def test_held_out_rows_are_told_where_there_are_any() -> None:
    facts = manifest()
    facts["metrics"] |= {"held_out": 12.0, "best_held_out": 0.5, "best_step": 40.0}
    assert "| 0.5000 nats a token, at step 40 |" in card(facts, "out")
    assert "| Held out | 12 |" in card(facts, "out")


def test_names_do_not_break_out_of_their_place() -> None:
    facts = manifest({"model": "a`b|c\n# d", "weights": "f" * 64})
    text = card(facts, "x\n---\nlicense: mit; rm `y`")
    assert "`a'b/c # d`" in text
    assert "license" not in header(text)
    assert "persd evaluate 'x --- license: mit; rm '\"'\"'y'\"'\"'' --benchmark" in text


def test_a_training_leaves_its_card(tmp_path: Path) -> None:
    pytest.importorskip("trl")
    import tiny
    from persd.train import train
    from test_train import EXAMPLES, SETTINGS

    base = tiny.checkpoint(tmp_path / "base", hidden=16)
    train(str(base), EXAMPLES, tmp_path / "out", SETTINGS.but(max_steps=1))
    facts = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert (tmp_path / "out" / "README.md").read_text() == card(facts, "out")


@pytest.mark.parametrize(
    ("settings", "auto"),
    [
        ({}, "AutoModelForCausalLM"),
        ({"method": "lora"}, "AutoModelForCausalLM"),
        ({"method": "qlora", "merge": False}, "AutoPeftModelForCausalLM"),
    ],
)
def test_it_says_how_to_load_it(settings: dict[str, Any], auto: str) -> None:
    assert f'= {auto}.from_pretrained("out")' in card(manifest(**settings), "out")
