"""What a training needs, what there is, and what is said where it does not fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("trl")

import families
import tiny
from persd.config import TrainTable
from persd.errors import UserError
from persd.models.checkpoint import find, load_config, load_model
from persd.records import Example
from persd.train import memory, train
from persd.train.memory import (
    GIB,
    Place,
    Shape,
    available,
    fitting,
    largest,
    need,
    ram_free,
    refuse_too_big,
    shape_of,
    usual_shape,
)

CPU, GPU = Place("cpu"), Place("cuda", bf16=True, four_bit=True)
SETTINGS = TrainTable(batch_size=16, micro_batch=8)
SEVEN = usual_shape(7.6e9)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.checkpoint(tmp_path_factory.mktemp("memory") / "tiny", hidden=48)


@pytest.mark.parametrize("name", [n for n in families.MAKERS if n not in ("llama-2", "xgen")])
def test_parameters_are_counted_exactly(name: str, tmp_path: Path) -> None:
    import torch

    source = find(str(families.MAKERS[name][0](tmp_path / name)))
    shape = shape_of(load_config(source))
    model = load_model(source, torch.float32)
    assert shape.parameters == model.num_parameters()  # tied embeddings once
    head = model.get_output_embeddings().weight.numel()
    linear = [m.weight.numel() for m in model.modules() if isinstance(m, torch.nn.Linear)]
    assert shape.linear == sum(linear) - head
    assert (shape.layers, shape.vocabulary) == (2, model.config.vocab_size)


def test_counting_allocates_nothing() -> None:
    from transformers import LlamaConfig

    shape = shape_of(LlamaConfig())  # Llama's own 7B
    assert shape.parameters == 6_738_415_616
    assert shape.linear == 32 * (4 * 4096 * 4096 + 3 * 4096 * 11008)


def total(shape: Shape = SEVEN, place: Place = GPU, longest: int = 1024, **changes: Any) -> int:
    return need(shape, SETTINGS.but(**changes), longest, place).total


def test_it_is_the_sum_of_its_named_parts() -> None:
    found = need(SEVEN, SETTINGS, 1024, CPU)
    assert found.weights == found.gradients == 4 * SEVEN.parameters
    assert found.optimizer == 8 * SEVEN.parameters
    assert sum(found.parts.values()) == found.total


def test_more_asks_for_more() -> None:
    for place in (CPU, GPU):
        assert total(place=place) < total(place=place, longest=2048)
        assert total(place=place, micro_batch=4) < total(place=place)
        assert total(usual_shape(1.5e9), place) < total(SEVEN, place)
        assert total(place=place) < total(place=place, attention="eager")


def test_what_saves_memory_saves_memory() -> None:
    full: list[dict[str, Any]] = [
        {},
        {"gradient_checkpointing": True},
        {"gradient_checkpointing": True, "dtype": "bfloat16"},
        {"gradient_checkpointing": True, "dtype": "bfloat16", "optimizer": "adamw_8bit"},
        {"gradient_checkpointing": True, "dtype": "bfloat16", "method": "lora"},
        {"gradient_checkpointing": True, "dtype": "bfloat16", "method": "qlora"},
    ]
    sizes = [total(**changes) for changes in full]
    assert sizes == sorted(sizes, reverse=True)
    assert len(set(sizes)) == len(sizes)


def test_shards_share_the_states_and_not_the_activations() -> None:
    whole, part = (need(SEVEN, SETTINGS, 512, Place("cuda", shards=n)) for n in (1, 4))
    assert part.weights == whole.weights // 4
    assert part.optimizer == whole.optimizer // 4
    assert part.activations == whole.activations


def test_the_mildest_change_that_fits_is_told() -> None:
    least = total(micro_batch=1, gradient_checkpointing=True)
    half = total(micro_batch=1, gradient_checkpointing=True, dtype="bfloat16")
    for have, changes in (
        (total(), {}),
        (total(micro_batch=2), {"micro_batch": 2}),
        (least, {"micro_batch": 1, "gradient_checkpointing": True}),
        (half, {"micro_batch": 1, "gradient_checkpointing": True, "dtype": "bfloat16"}),
        (20 * GIB, {"method": "lora"}),
        (8 * GIB, {"method": "qlora"}),
    ):
        found = fitting(SEVEN, SETTINGS, 1024, GPU, have)
        assert found is not None
        assert changes.items() <= found.items()
        assert total(**found) <= have
    assert fitting(SEVEN, SETTINGS, 1024, GPU, 2 * GIB) is None


def test_a_change_that_a_later_one_makes_needless_is_not_told() -> None:
    """With few tokens adapters alone save all that is lacking."""
    have = total(longest=64, method="lora", dtype="bfloat16")
    found = fitting(SEVEN, SETTINGS, 64, GPU, have)
    assert found is not None
    assert "micro_batch" not in found


def test_what_bitsandbytes_is_needed_for_is_only_told_where_it_is() -> None:
    for have in (2, 8, 16, 30, 60, 90, 120):
        found = fitting(SEVEN, SETTINGS, 1024, Place("cuda", bf16=True), have * GIB) or {}
        assert found.get("method") != "qlora"
        assert found.get("optimizer") != "adamw_8bit"


def test_the_largest_student_grows_with_the_memory() -> None:
    found = [largest(SETTINGS.but(micro_batch=1), 1024, GPU, n * GIB) for n in (1, 8, 24, 80)]
    assert found == sorted(found)
    assert found[0] < found[1] < found[-1]
    for size, have in zip(found[1:], (8, 24, 80), strict=True):
        assert total(usual_shape(size), micro_batch=1) <= have * GIB
        assert total(usual_shape(1.1 * size), micro_batch=1) > have * GIB


def refusal(base: Path, have: int, settings: TrainTable = SETTINGS) -> str:
    with pytest.raises(UserError) as caught:
        refuse_too_big(find(str(base)), settings, [40, 100], have=have)
    return caught.value.one_line()


def test_it_is_refused_with_need_and_have_and_what_would_fit(base: Path) -> None:
    shape = shape_of(load_config(find(str(base))))
    have = need(shape, SETTINGS.but(micro_batch=1), 100, memory.place_here()).total
    line = refusal(base, have)
    assert "8 rows of up to 100 tokens needs about" in line
    assert f"there are {memory.gib(have)}" in line
    assert "train.micro_batch = " in line
    assert "would fit" in line


def test_where_no_setting_helps_a_smaller_student_is_named(base: Path) -> None:
    assert "No student fits here" in refusal(base, have=2**20)


def test_what_fits_is_not_refused(base: Path) -> None:
    refuse_too_big(find(str(base)), SETTINGS, [40, 100], have=2**40)
    refuse_too_big(find(str(base)), SETTINGS, [40, 100])  # as much as there is


def test_a_training_is_refused_before_its_weights_are_read(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    copy = Path(shutil.copytree(base, tmp_path / "base"))
    (copy / "model.safetensors").write_bytes(b"never read")
    monkeypatch.setattr(memory, "available", lambda kind: 100 * 2**20)
    rows = [Example("e", "persd", "t", 1, "def f():\n", "    return 1\n", "task")]
    with pytest.raises(UserError, match=r"needs about .* there are 100 MiB"):
        train(str(copy), rows, tmp_path / "out", TrainTable())
    assert not (tmp_path / "out").exists()


def machine(folder: Path, available: int, group: dict[str, str], line: str) -> Path:
    """Files as Linux has them."""
    (folder / "proc/self").mkdir(parents=True)
    (folder / "proc/meminfo").write_text(f"MemTotal: 99 kB\nMemAvailable: {available} kB\n")
    (folder / "proc/self/cgroup").write_text(line)
    for name, text in group.items():
        path = folder / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


@pytest.mark.parametrize(
    ("group", "line", "free"),
    [
        ({}, "0::/\n", 1000 * 1024),
        ({"memory.max": "max", "memory.current": "9"}, "0::/\n", 1000 * 1024),
        (
            {
                "a/b/memory.max": "max",
                "a/memory.max": "600000",
                "a/memory.current": "500000",
                "a/memory.stat": "anon 7\ninactive_file 100000\n",
            },
            "0::/a/b\n",
            200000,
        ),
        (
            {
                "memory/j/memory.limit_in_bytes": "600000",
                "memory/j/memory.usage_in_bytes": "500000",
                "memory/j/memory.stat": "cache 1\n",
            },
            "3:cpu:/other\n9:memory:/j\n",
            100000,
        ),
        (
            {
                "memory/memory.limit_in_bytes": str(2**63 - 4096),
                "memory/memory.usage_in_bytes": "5",
                "memory/memory.stat": "",
            },
            "9:memory:/\n",
            1000 * 1024,
        ),
    ],
)
def test_free_memory_is_within_the_groups_limits(
    tmp_path: Path, group: dict[str, str], line: str, free: int
) -> None:
    assert ram_free(machine(tmp_path, 1000, group, line)) == free


def test_what_is_not_told_is_not_known(tmp_path: Path) -> None:
    assert ram_free(tmp_path) is None


def test_the_user_knows_better_what_there_is(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "ram_free", lambda: 2**20)
    with pytest.raises(UserError, match="PERSD_MEMORY"):
        refuse_too_big(find(str(base)), SETTINGS, [40, 100])
    monkeypatch.setenv("PERSD_MEMORY", "64.5")
    refuse_too_big(find(str(base)), SETTINGS, [40, 100])
    assert memory.available("cuda") == 64.5 * GIB
    monkeypatch.setenv("PERSD_MEMORY", "much")
    with pytest.raises(UserError, match="no number of GiB"):
        memory.available("cpu")


def test_processes_of_one_machine_share_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "ram_free", lambda: 16 * GIB)
    assert available("cpu") == 15 * GIB
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert available("cpu") == 7.5 * GIB
