"""What a label costs the student: the loss of training, whatever is read together."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("trl")

import torch

import tiny
from persd.config import TrainTable
from persd.models import EMBEDDED_STUDENT, scoring
from persd.models.local import LocalModel
from persd.models.scoring import LabelScore, label_scores
from persd.records import Example
from persd.tokens import Api
from persd.train.rows import TokenRow, encode
from persd.train.trainer import make_trainer

PAIRS = [
    ("def add(a, b):\n", "    return a + b\n"),
    ("# Sum the even numbers, then double them.\ndef f(xs):\n", "    return 2 * sum(xs)\n"),
    (
        "def total(xs):\n",
        "    out = 0\n    for x in xs:\n        if x > 2:\n            out += x\n    return out\n",
    ),
    ("def first(xs):\n", "    return xs[0]\n"),
    ("def last(values):\n", "    pass\n"),
]


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def student() -> LocalModel:
    return LocalModel(str(EMBEDDED_STUDENT), device="cpu", dtype="float32", threads=1)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A checkpoint of 256 positions, with a chat template."""
    return str(tiny.checkpoint(tmp_path_factory.mktemp("tiny") / "tiny", tok=tiny.tokenizer()))


def rows_of(model: LocalModel, api: Api = "completions") -> list[TokenRow]:
    """The pairs as the trainer is given them."""
    examples = [Example(f"e{i}", "persd", "t", 1, p, c, "task") for i, (p, c) in enumerate(PAIRS)]
    rows, left_out = encode(model.load().tokenizer, examples, TrainTable(), api=api)
    assert not left_out
    return rows


def one_by_one(model: LocalModel, rows: list[TokenRow]) -> Iterator[float]:
    """-log p of each label, a row and a token at a time, without padding."""
    for row in rows:
        with torch.inference_mode():
            logits = model.load().model(torch.tensor([row.input_ids])).logits[0]
        log_p = torch.log_softmax(logits.double(), -1)
        start = len(row.prompt)
        yield -sum(float(log_p[start + i - 1, t]) for i, t in enumerate(row.completion))


def test_nats_are_those_of_each_row_alone(student: LocalModel) -> None:
    rows = rows_of(student)
    found = list(label_scores(student, PAIRS))
    assert [s.nats for s in found] == pytest.approx(list(one_by_one(student, rows)), rel=1e-4)
    assert [s.tokens for s in found] == [len(row.completion) for row in rows]
    assert all(s.reason == "" for s in found)


def test_their_mean_is_the_loss_training_begins_with(student: LocalModel, tmp_path: Path) -> None:
    rows, loaded = rows_of(student), student.load()
    settings = TrainTable(batch_size=len(rows), micro_batch=len(rows))
    trainer = make_trainer(loaded.model, loaded.tokenizer, rows, tmp_path, settings)
    (batch,) = trainer.get_train_dataloader()
    with torch.inference_mode():
        loss = float(trainer.compute_loss(loaded.model, batch))
        own = float(loaded.model(**batch).loss)  # the model's own, over the masked labels
    found = list(label_scores(student, PAIRS))
    mean = sum(s.nats or 0.0 for s in found) / sum(s.tokens for s in found)
    assert mean == pytest.approx(loss, rel=1e-4)
    assert mean == pytest.approx(own, rel=1e-4)


def test_a_chat_model_is_scored_behind_its_template(small: str) -> None:
    chat = LocalModel(small, api="chat", device="cpu", threads=1)
    found = [s.nats for s in label_scores(chat, PAIRS)]
    assert found == pytest.approx(list(one_by_one(chat, rows_of(chat, "chat"))), rel=1e-4)
    plain = LocalModel(small, device="cpu", threads=1)
    assert found != pytest.approx([s.nats for s in label_scores(plain, PAIRS)], rel=1e-2)


@pytest.mark.parametrize("batch_tokens", [1, 60, 10_000])
def test_what_is_read_together_does_not_matter(student: LocalModel, batch_tokens: int) -> None:
    expected = [s.nats for s in label_scores(student, PAIRS)]
    found = list(label_scores(student, PAIRS[::-1], batch_tokens=batch_tokens))[::-1]
    assert [s.nats for s in found] == pytest.approx(expected, rel=1e-4)


def kept_logits(model: LocalModel, limit: int, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Counts the logits of every pass from now on, of which ``limit`` may be held."""
    monkeypatch.setattr(scoring, "_LOGITS", limit)
    seen: list[int] = []
    head = model.load().model.get_output_embeddings()
    head.register_forward_hook(lambda _, __, out: seen.append(out.numel()))
    return seen


def test_logits_are_bounded_whatever_the_labels_length(
    small: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = LocalModel(small, device="cpu", threads=1)
    expected = [s.nats for s in label_scores(model, PAIRS)]
    vocabulary = int(model.load().model.config.vocab_size)
    seen = kept_logits(model, 7 * vocabulary, monkeypatch)
    found = [s.nats for s in label_scores(model, PAIRS)]
    assert found == pytest.approx(expected, rel=1e-4)
    assert max(seen) <= 7 * vocabulary
    assert len(seen) > len(PAIRS)  # a label longer than that was read in parts


def test_a_model_that_keeps_all_its_logits_is_scored_the_same(
    small: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = LocalModel(small, device="cpu", threads=1)
    expected = [s.nats for s in label_scores(model, PAIRS)]
    loaded = model.load()
    kept = type(loaded.model)

    class Whole(kept):  # type: ignore[valid-type, misc, unused-ignore]
        def forward(self, input_ids: Any, attention_mask: Any, use_cache: bool) -> Any:
            return super().forward(input_ids, attention_mask=attention_mask, use_cache=use_cache)

    monkeypatch.setattr(loaded.model, "__class__", Whole)
    found = [s.nats for s in label_scores(model, PAIRS)]
    assert found == pytest.approx(expected, rel=1e-4)


def test_what_does_not_fit_is_said_and_not_cut(small: str) -> None:
    model = LocalModel(small, device="cpu", threads=1)
    pairs = [PAIRS[0], (PAIRS[0][0], "    x = 1\n" * 200), ("<|end|>", "    pass\n"), PAIRS[3]]
    first, over_long, lossy, last = label_scores(model, pairs)
    alone = [s.nats for s in label_scores(model, [PAIRS[0], PAIRS[3]])]
    assert [first.nats, last.nats] == pytest.approx(alone, rel=1e-4)
    assert (over_long.nats, over_long.tokens, over_long.reason) == (None, 0, "over_long")
    assert "the model has 256" in over_long.detail
    assert (lossy.nats, lossy.reason) == (None, "lossy")


def test_pairs_are_drawn_as_scores_are_given(small: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scoring, "_WINDOW", 3)
    drawn = itertools.count()
    pairs = (PAIRS[next(drawn) % len(PAIRS)] for _ in itertools.count())  # without end
    scores = label_scores(LocalModel(small, device="cpu", threads=1), pairs)
    found = list(itertools.islice(scores, 7))
    assert next(drawn) == 9
    assert all(isinstance(s, LabelScore) and s.nats for s in found)
    again = [replace(s, nats=round(s.nats or 0.0, 3)) for s in found]
    assert again[:2] == again[5:7]


def test_nothing_in_nothing_out(student: LocalModel) -> None:
    assert list(label_scores(student, [])) == []
