"""The benches of training and sampling: they run where there is no GPU, and count as they say."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("trl")

import torch

from test_kill import load_bench

gpu, train, student = load_bench("gpu"), load_bench("train"), load_bench("student")


@pytest.fixture(scope="module")
def found() -> Any:
    """What a quick run on the CPU prints."""
    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        said: list[str] = []
        patch.setenv("CUDA_VISIBLE_DEVICES", "")
        patch.setattr("sys.argv", ["gpu.py", "--device", "cpu", "--size", "1M", "--quick"])
        patch.setattr(gpu, "print", said.append, raising=False)
        gpu.main()
    torch.set_num_threads(threads)
    return json.loads(said[0])


def test_without_a_gpu_its_figures_are_called_a_cpus(found: Any) -> None:
    assert found["device"].startswith("a CPU")
    assert found["train"]["share_of_peak"] is found["train"]["peak_memory_gb"] is None


def test_both_trainers_have_the_same_losses_on_the_same_batches(found: Any) -> None:
    curve = found["train"]["curve"]
    assert curve["steps"] == 2
    assert curve["persd"][1] < curve["persd"][0]
    assert curve["furthest_apart"] < 1e-4


def test_padding_is_counted_and_is_no_useful_token(found: Any) -> None:
    trained = found["train"]
    for name in ("persd", "plain", "plain_whole"):
        useful = 1 - trained["tokens"] / trained[name]["positions"]
        assert trained[name]["padding"] == pytest.approx(useful, abs=1e-3)
    assert trained["persd"]["positions"] < trained["plain_whole"]["positions"]


def test_greedy_replies_are_those_of_generate(found: Any) -> None:
    assert found["sample"]["greedy_same"] == "4/4"


def test_both_engines_are_timed_on_the_same_samples(found: Any) -> None:
    sampled = found["sample"]
    assert sampled["continuous"]["tokens"] == sampled["local"]["tokens"] > 0


def test_rows_without_any_data_are_functions_of_python() -> None:
    pairs = list(islice(student.python_functions(), 50))
    assert len(pairs) == 50
    for prompt, completion in pairs:
        compile(prompt + completion, "function", "exec")
        assert completion.strip()


def test_rows_of_a_file_are_taken_by_chance_and_the_same_every_time(tmp_path: Path) -> None:
    lines = [json.dumps({"prompt": str(i), "completion": "x"}) for i in range(40)]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    args = SimpleNamespace(release=None, data=tmp_path / "rows.jsonl", rows=10)
    taken = student.read_pairs(args)
    assert taken == student.read_pairs(args)
    assert len(set(taken)) == 10
    assert taken != [(str(i), "x") for i in range(10)]


def test_operations_of_a_training() -> None:
    model = student.make_model("1M", 4096, 0)
    rows = [[0] * 10, [0] * 20]
    job = SimpleNamespace(rows=rows, settings=SimpleNamespace(epochs=2))
    weights = sum(p.numel() for p in model.parameters())
    expected = 2 * (6 * weights * 30 + 6 * 3 * 96 * (100 + 400))  # three layers, 96 wide
    assert gpu.flops_of(job, model) == expected


def test_a_cards_peak_is_found_by_its_name() -> None:
    names = ["NVIDIA H200", "NVIDIA H100 PCIe", "NVIDIA H100 80GB HBM3", "NVIDIA L40S", "NVIDIA L4"]
    assert [gpu.peak_of(name) for name in names] == [989.0, 756.0, 989.0, 362.0, 121.0]
    assert gpu.peak_of("Abacus") is None
