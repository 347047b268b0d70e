"""Batches by tokens: what is sampled together changes time and memory, and no sample."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

import torch

import tiny
from persd.errors import UserError
from persd.models import kvcache
from persd.models.local import LocalModel
from persd.models.sampling import Row, batches
from persd.records import Request

PROMPTS = (
    "x",
    "def add(a, b):\n",
    "# Return the sum of the even numbers of the list.\ndef total(xs):\n    ",
    "def count(xs):\n    total = 0\n    for x in xs:\n",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.checkpoint(tmp_path_factory.mktemp("tiny") / "checkpoint")


def row(length: int, *, max_tokens: int = 10, first: int = 1) -> Row:
    return Row([first] * length, max_tokens, 0.0, 1.0, 0)


def samples(count: int) -> list[Request]:
    """Samples of every prompt in turn, so that those of one are not neighbours."""
    return [
        tiny.request(prompt, seed=seed, temperature=0.8, max_tokens=12 + 4 * (seed % 3))
        for seed in range(count)
        for prompt in PROMPTS
    ]


@pytest.mark.parametrize("bound", [None, 200, 60, 1])
def test_samples_are_the_same_whatever_is_sampled_together(
    folder: Path, bound: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.set_num_threads(1)
    alone = LocalModel(str(folder), batch=1, device="cpu", threads=1)
    expected = [alone.complete([request])[0].text for request in samples(4)]
    assert len(set(expected)) > len(PROMPTS)  # samples of one prompt differ
    monkeypatch.setattr("persd.models.sampling._READ_BY_CPU", 40)  # several passes a batch
    local = LocalModel(str(folder), batch=7, batch_tokens=bound, device="cpu", threads=1)
    assert [c.text for c in local.complete(samples(4))] == expected


@pytest.mark.parametrize("bound", [None, 64])
def test_continuous_batching_draws_the_same_samples(folder: Path, bound: int | None) -> None:
    requests = [
        tiny.request(prompt, seed=seed, temperature=0.8 * (seed % 2), max_tokens=6 + 9 * seed)
        for seed in range(3)
        for prompt in PROMPTS[:3]
    ]
    own = LocalModel(str(folder), device="cpu", threads=1)
    other = LocalModel(
        str(folder), engine="continuous", batch=4, batch_tokens=bound, device="cpu", threads=1
    )
    expected = [(c.text, c.finish, c.usage) for c in own.complete(requests)]
    assert [(c.text, c.finish, c.usage) for c in other.complete(requests)] == expected
    assert other.identity == own.identity


def test_continuous_batching_refuses_a_model_that_would_read_no_cache(tmp_path: Path) -> None:
    from test_local import family

    tok = tiny.tokenizer()
    family("CodeGen", 400).save_pretrained(str(tmp_path))
    tok.save_pretrained(str(tmp_path))
    local = LocalModel(str(tmp_path), engine="continuous", device="cpu")
    with pytest.raises(UserError, match="continuous batching") as caught:
        local.complete([tiny.request("x")])
    assert "own" in caught.value.hint


def test_a_batch_is_bounded_by_rows_and_by_padded_tokens() -> None:
    rows = [row(5), row(30), row(7), row(6), row(5, max_tokens=90), row(31)]
    found = [[len(r.prompt) for r in part] for part in batches(rows, 64, 100)]
    assert found == [[5], [5], [6, 7], [30, 31]]  # 95 + 15, 90 + 95 are too many, 3 x 40 as well
    assert [len(part) for part in batches(rows, 4, None)] == [4, 2]


def test_a_row_alone_always_goes() -> None:
    assert [len(part) for part in batches([row(5000), row(5000)], 64, 1)] == [1, 1]


def test_samples_of_one_prompt_are_sampled_side_by_side() -> None:
    mixed = [row(9, first=1 + i % 3) for i in range(12)]
    firsts = [[r.prompt[0] for r in part] for part in batches(mixed, 4, None)]
    assert firsts == [[1] * 4, [2] * 4, [3] * 4]


def test_what_a_position_takes_is_counted_in_the_cache() -> None:
    model = tiny.model(300, hidden=32, layers=2, heads=2)
    assert kvcache.bytes_a_position(model) == 2 * 2 * 32 * 4  # layers, keys and values, float32
    assert kvcache.bytes_a_position(model.bfloat16()) == 2 * 2 * 32 * 2
    assert kvcache.positions_that_fit(model) is None  # on a CPU nothing is asked


def test_on_a_gpu_half_of_what_is_free_is_for_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    figures = {"memory_reserved": 50_000, "memory_allocated": 30_000, "mem_get_info": (180_000, 0)}
    for name, figure in figures.items():
        monkeypatch.setattr(f"torch.cuda.{name}", lambda device, figure=figure: figure)
    monkeypatch.setattr(kvcache, "bytes_a_position", lambda model: 512)
    on_gpu = SimpleNamespace(device=torch.device("cuda"))
    assert kvcache.positions_that_fit(on_gpu) == 200_000 // 2 // 512


def test_joined_caches_hold_all_rows_behind_zeros() -> None:
    torch.manual_seed(0)
    model = tiny.model(300)
    ids = [torch.randint(3, 300, (rows, width)) for rows, width in ((2, 3), (1, 7))]
    parts = [kvcache.new_cache(model, 0) for _ in ids]
    for part, each in zip(parts, ids, strict=True):
        model(input_ids=each, past_key_values=part, use_cache=True)
    short, long = (part.layers[0].keys.clone() for part in parts)
    keys = kvcache.join(parts, room=20).layers[0].keys
    assert keys.shape[:3] == (3, 2, 7)
    assert torch.equal(keys[:2, :, 4:], short)
    assert torch.equal(keys[2:], long)
    assert not keys[:2, :, :4].any()
