"""Fine-tuning: what the loss is on, what is refused, what is left on disk."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("trl")

import torch

import tiny
from persd.config import TrainTable
from persd.errors import UserError, WorkFailed
from persd.models.local import LocalModel
from persd.records import Example, Message
from persd.tokens import Api, prompt_ids
from persd.train import Step, data_hash, train
from persd.train.order import SortedBatches
from persd.train.rows import IGNORED, encode
from persd.train.trainer import make_trainer
from test_tokens import merging

SETTINGS = TrainTable(epochs=12, lr=2e-2, batch_size=4, seed=3, warmup_ratio=0.1)


def example(i: int, prompt: str, completion: str) -> Example:
    return Example(f"e{i}", "persd", f"t{i}", 1, prompt, completion, "task")


EXAMPLES = [
    example(0, "def add(a, b):\n", "    return a + b\n"),
    example(1, "def double(x):\n", "    return x * 2\n"),
    example(
        2, "def total(xs):\n", "    out = 0\n    for x in xs:\n        out += x\n    return out\n"
    ),
    example(3, "# Count them.\ndef count(xs):\n", "    return len(xs)\n"),
    example(4, "def first(xs):\n", "    return xs[0]\n"),
    example(5, "def last(xs):\n", "    return xs[-1]\n"),
]


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = tmp_path_factory.mktemp("base") / "tiny"
    return tiny.checkpoint(where, hidden=48, spread=0.05)


@pytest.fixture(scope="module")
def trained(base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """One training that several tests look at."""
    out = tmp_path_factory.mktemp("runs") / "persd"
    seen: list[Step] = []
    metrics = train(str(base), EXAMPLES, out, SETTINGS, on_step=seen.append)
    return {"out": out, "metrics": metrics, "progress": seen}


def weights(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


def batches(tmp_path: Path, settings: TrainTable = SETTINGS, *, bos: bool = False) -> list[Any]:
    tok = tiny.tokenizer(bos=bos)
    rows, _ = encode(tok, EXAMPLES, settings, api="completions")
    trainer = make_trainer(tiny.model(len(tok)), tok, rows, tmp_path, settings)
    return list(trainer.get_train_dataloader())


def test_loss_falls_and_the_student_learns_its_rows(trained: dict[str, Any]) -> None:
    metrics = trained["metrics"]
    assert metrics["last_loss"] < metrics["first_loss"] / 3
    assert metrics["steps"] == 12 * 2
    assert metrics["examples"] == len(EXAMPLES)
    assert metrics["over_long"] == metrics["lossy"] == 0


def test_the_trained_checkpoint_loads_again_and_answers(
    base: Path, trained: dict[str, Any]
) -> None:
    local = LocalModel(str(trained["out"]), device="cpu", threads=1)
    assert local.identity != LocalModel(str(base)).identity
    (completion,) = local.complete([tiny.request(EXAMPLES[0].prompt, max_tokens=40)])
    assert completion.finish == "stop"  # the end token was learnt too
    assert completion.text.startswith("    return ")


def test_progress_is_told_every_step(trained: dict[str, Any]) -> None:
    told: list[Step] = trained["progress"]
    assert [s.step for s in told] == list(range(1, 25))
    assert {s.steps for s in told} == {24}
    assert all(s.loss > 0 and s.grad_norm and s.tokens > 0 and s.seconds > 0 for s in told)
    assert max(s.lr for s in told) == pytest.approx(SETTINGS.lr)
    assert told[-1].tokens == trained["metrics"]["tokens"]


def test_the_manifest_says_what_made_it(base: Path, trained: dict[str, Any]) -> None:
    manifest = json.loads((trained["out"] / "manifest.json").read_text())
    assert manifest["data_hash"] == data_hash(str(base), EXAMPLES, SETTINGS)
    assert manifest["base"]["weights"]
    assert manifest["seed"] == 3
    assert manifest["examples"] == len(EXAMPLES)
    assert {"torch", "transformers", "trl"} <= manifest["versions"].keys()
    assert manifest["metrics"]["steps"] == 24


def test_only_a_checkpoint_is_left(trained: dict[str, Any]) -> None:
    assert [p.name for p in trained["out"].parent.iterdir()] == ["persd"]
    left = {p.suffix for p in trained["out"].iterdir()}
    assert left <= {".safetensors", ".json", ".jsonl", ".jinja", ".md"}


def test_the_same_seed_gives_the_same_weights(
    base: Path, trained: dict[str, Any], tmp_path: Path
) -> None:
    train(str(base), EXAMPLES, tmp_path / "again", SETTINGS)
    assert weights(tmp_path / "again") == weights(trained["out"])
    train(str(base), EXAMPLES, tmp_path / "other", SETTINGS.but(seed=4))
    assert weights(tmp_path / "other") != weights(trained["out"])


@pytest.mark.parametrize("bos", [False, True])
def test_labels_are_on_completion_and_end_token_alone(tmp_path: Path, bos: bool) -> None:
    tok = tiny.tokenizer(bos=bos)
    found = {}
    for batch in batches(tmp_path, bos=bos):
        for ids, labels in zip(batch["input_ids"], batch["labels"], strict=True):
            counts = labels != IGNORED
            assert labels[counts].tolist() == ids[counts].tolist()
            assert labels[counts][-1] == tok.eos_token_id
            prompt = ids[: int(counts.nonzero()[0])].tolist()
            found[tok.decode(prompt, skip_special_tokens=True)] = tok.decode(labels[counts][:-1])
            assert prompt == prompt_ids(
                tok, (Message("user", tok.decode(prompt, skip_special_tokens=True)),), "completions"
            )
    assert found == {e.prompt: e.completion for e in EXAMPLES}


def test_every_row_comes_once_an_epoch(tmp_path: Path) -> None:
    rows = [ids.tolist() for batch in batches(tmp_path) for ids in batch["input_ids"]]
    assert len(rows) == len(EXAMPLES)


def test_prompt_ids_at_training_are_those_at_inference(base: Path) -> None:
    tok = LocalModel(str(base), device="cpu").load().tokenizer
    split_in_a_word = [example(0, "def add(a, b):\n  ", "  return a + b\n")]
    forms: tuple[Api, ...] = ("completions", "chat")
    for api in forms:
        (row,), _ = encode(tok, split_in_a_word, SETTINGS, api=api)
        asked = prompt_ids(tok, (Message("user", split_in_a_word[0].prompt),), api)
        assert row.prompt == asked
        assert row.labels[: len(asked)] == [IGNORED] * len(asked)
        assert row.labels[len(asked) :] == row.completion
        assert tok.decode(row.completion) == "  return a + b\n<|end|>"


def test_an_over_long_row_is_refused_with_its_length(base: Path, tmp_path: Path) -> None:
    tok = tiny.tokenizer()
    length = (
        len(tok(EXAMPLES[2].prompt)["input_ids"])
        + len(tok(EXAMPLES[2].completion)["input_ids"])
        + 1
    )
    with pytest.raises(UserError) as caught:
        train(str(base), EXAMPLES, tmp_path / "out", SETTINGS.but(max_length=length - 1))
    line = caught.value.one_line()
    assert "e2" in line
    assert f"{length} tokens" in line
    assert str(length - 1) in line
    assert "over_long" in line
    assert not (tmp_path / "out").exists()


def test_an_over_long_row_is_left_out_and_counted_where_asked(base: Path, tmp_path: Path) -> None:
    settings = SETTINGS.but(epochs=1, max_length=24, over_long="skip")
    metrics = train(str(base), EXAMPLES, tmp_path / "out", settings)
    assert metrics["over_long"] >= 1
    assert metrics["examples"] + metrics["over_long"] == len(EXAMPLES)
    left_out = json.loads((tmp_path / "out" / "manifest.json").read_text())["left_out"]
    assert "e2" in [r["example_id"] for r in left_out]


def test_a_row_longer_than_the_models_context_is_refused() -> None:
    with pytest.raises(UserError, match="limit is 16"):
        encode(tiny.tokenizer(), EXAMPLES, SETTINGS, api="completions", context=16)


def test_a_tokenizer_that_merges_spaces_is_refused() -> None:
    with pytest.raises(UserError, match=r"e0.*reads back differently"):
        encode(merging(), EXAMPLES, SETTINGS, api="completions")


def test_rows_that_are_not_given_back_can_be_left_out() -> None:
    odd = [*EXAMPLES, example(9, "def f():\n", "    return '<|end|>'\n")]
    rows, left_out = encode(tiny.tokenizer(), odd, SETTINGS.but(lossy="skip"), api="completions")
    assert [r.example_id for r in left_out] == ["e9"]
    assert len(rows) == len(EXAMPLES)


def test_no_examples_is_the_users_to_mend(base: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no examples"):
        train(str(base), [], tmp_path / "out", SETTINGS)


def test_a_missing_base_is_the_users_to_mend(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere"):
        train(str(tmp_path / "nowhere"), EXAMPLES, tmp_path / "out", SETTINGS)


def test_a_micro_batch_that_does_not_divide_is_refused() -> None:
    with pytest.raises(ValueError, match="micro_batch"):
        SETTINGS.but(micro_batch=3)


def test_a_stopped_training_leaves_nothing(base: Path, tmp_path: Path) -> None:
    def stop(step: Step) -> None:
        if step.step == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(str(base), EXAMPLES, tmp_path / "out", SETTINGS, on_step=stop)
    assert list(tmp_path.iterdir()) == []


def test_a_half_written_checkpoint_is_cleared_away(base: Path, tmp_path: Path) -> None:
    (tmp_path / ".out.part").mkdir()
    (tmp_path / ".out.part" / "model.safetensors").write_bytes(b"half")
    train(str(base), EXAMPLES, tmp_path / "out", SETTINGS.but(epochs=1))
    assert os.listdir(tmp_path) == ["out"]
    assert LocalModel(str(tmp_path / "out"), device="cpu").load()


def test_a_folder_of_others_is_not_overwritten(base: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="no checkpoint of ours"):
        train(str(base), EXAMPLES, tmp_path, SETTINGS.but(epochs=1))
    assert (tmp_path / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("within", ["", "adapter"])
def test_the_base_itself_is_not_replaced(base: Path, tmp_path: Path, within: str) -> None:
    out = tmp_path / "out"
    shutil.copytree(base, out / within)
    (out / "manifest.json").write_text('{"data_hash": "", "metrics": {}}')
    with pytest.raises(UserError, match="would be replaced"):
        train(str(out / within), EXAMPLES, tmp_path / "." / "out", SETTINGS)
    assert weights(out / within) == weights(base)


def test_tokens_that_would_be_others_once_saved_stop_it_before_it_begins(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import PreTrainedTokenizerFast

    other = tiny.tokenizer(vocab=300)
    save = PreTrainedTokenizerFast.save_pretrained
    monkeypatch.setattr(
        PreTrainedTokenizerFast, "save_pretrained", lambda self, to, **k: save(other, to, **k)
    )
    told: list[Step] = []
    with pytest.raises(WorkFailed, match="makes other tokens"):
        train(str(base), EXAMPLES, tmp_path / "out", SETTINGS, on_step=told.append)
    assert told == []


def test_the_hash_is_of_the_tasks_where_some_are_held_out(base: Path) -> None:
    moved = [replace(e, task_id="t0" if e.task_id == "t1" else e.task_id) for e in EXAMPLES]
    apart = SETTINGS.but(held_out=0.5)
    assert data_hash(str(base), EXAMPLES, SETTINGS) == data_hash(str(base), moved, SETTINGS)
    assert data_hash(str(base), EXAMPLES, apart) != data_hash(str(base), moved, apart)


@pytest.mark.parametrize(
    "change",
    [
        {"method": "lora"},
        {"lora": {"rank": 8}},
        {"held_out": 0.2},
        {"patience": 3},
        {"stages": [{"length": 64, "share": 1.0}]},
        {"packing": "on"},
        {"attention": "eager"},
        {"optimizer": "adafactor"},
        {"max_steps": 9},
        {"merge": False},
    ],
)
def test_the_hash_is_of_all_that_decides_about_weights(base: Path, change: dict[str, Any]) -> None:
    plain = data_hash(str(base), EXAMPLES, SETTINGS)
    assert data_hash(str(base), EXAMPLES, SETTINGS.but(**change)) != plain
    told = {"report_to": ["tensorboard"], "checkpoint_minutes": 1.0, "launch": "ddp"}
    assert data_hash(str(base), EXAMPLES, SETTINGS.but(**told)) == plain


def test_a_loss_that_is_no_number_stops_the_training(base: Path, tmp_path: Path) -> None:
    with pytest.raises(WorkFailed, match=r"train\.lr"):
        train(str(base), EXAMPLES, tmp_path / "out", SETTINGS.but(lr=1e30, max_grad_norm=0))
    assert not (tmp_path / "out").exists()


def test_accumulated_passes_give_the_whole_batchs_losses(base: Path, tmp_path: Path) -> None:
    def losses(settings: TrainTable, name: str) -> Sequence[float]:
        seen: list[float] = []
        train(
            str(base),
            EXAMPLES,
            tmp_path / name,
            settings,
            on_step=lambda step: seen.append(step.loss),
        )
        return seen

    whole = SETTINGS.but(epochs=3)
    assert losses(whole.but(micro_batch=1), "ones") == pytest.approx(
        losses(whole.but(micro_batch=4), "whole"), rel=1e-3
    )


def test_half_precision_bases_keep_their_type(tmp_path: Path) -> None:
    tok = tiny.tokenizer()
    tok.save_pretrained(str(tmp_path / "base"))
    tiny.model(len(tok)).half().save_pretrained(str(tmp_path / "base"))
    train(str(tmp_path / "base"), EXAMPLES, tmp_path / "out", SETTINGS.but(epochs=1))
    from safetensors import safe_open

    with safe_open(str(tmp_path / "out" / "model.safetensors"), "pt") as stored:
        kinds = {stored.get_tensor(k).dtype for k in stored.keys()}  # noqa: SIM118
    assert kinds == {torch.float16}


def test_a_batch_is_random_and_its_passes_hold_rows_of_like_length() -> None:
    lengths = [random.Random(i).randrange(10, 200) for i in range(300)]
    order = list(SortedBatches(lengths, 16, seed=1))
    assert sorted(order) == list(range(300))
    first = [lengths[i] for i in order[:16]]
    assert first == sorted(first)
    assert max(first) > 2 * min(first)

    def padded(rows: Sequence[int]) -> int:
        parts = [rows[i : i + 4] for i in range(0, len(rows), 4)]
        return sum(max(lengths[j] for j in part) * len(part) for part in parts)

    assert padded(order) < 0.8 * padded(range(300))


def test_the_order_differs_by_epoch_and_not_by_call() -> None:
    sampler = SortedBatches(list(range(5, 45)), 8, seed=1)
    first, again = list(sampler), list(sampler)
    sampler.set_epoch(1)
    assert first == again != list(sampler)


def test_the_loss_is_that_of_trls_own_head(tmp_path: Path) -> None:
    from trl import SFTTrainer

    tok = tiny.tokenizer()
    rows, _ = encode(tok, EXAMPLES, SETTINGS, api="completions")
    trainer = make_trainer(tiny.model(len(tok)), tok, rows, tmp_path, SETTINGS)
    for batch in trainer.get_train_dataloader():
        for items in (None, 37):
            ours = trainer.compute_loss(trainer.model, dict(batch), num_items_in_batch=items)
            theirs = SFTTrainer.compute_loss(
                trainer, trainer.model, dict(batch), num_items_in_batch=items
            )
            assert ours.item() == pytest.approx(theirs.item(), rel=1e-4)


def test_training_says_nothing_on_the_console(
    base: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    train(str(base), EXAMPLES, tmp_path / "out", SETTINGS.but(epochs=1))
    said = capfd.readouterr()
    assert (said.out, said.err) == ("", "")
