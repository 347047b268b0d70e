"""The doctor says what there is, and never what a key is."""

from __future__ import annotations

import io
import json
import re
import shlex
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from persd import doctor
from persd.doctor import examine, lines, show
from persd.errors import UserError
from persd.sandbox import Sandbox, tiers


@pytest.fixture(autouse=True)
def light(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looking at the device would import torch each time."""
    monkeypatch.setattr(doctor, "_device", lambda: "cpu")


def test_facts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-do-not-show")
    found = examine()
    assert found["isolation"]
    assert found["cores"] >= 1
    assert found["workers"] >= 1
    assert found["keys_set"] == ["OPENAI_API_KEY"]
    assert "do-not-show" not in json.dumps(found)


def test_the_tier_is_that_of_the_isolation_in_force() -> None:
    found = examine()
    with Sandbox(workers=1, unsafe=True) as box:
        isolation = box.probe()
    assert found["isolation"] == isolation.name
    assert found["missing"] == isolation.missing
    assert found["tier"] == tiers.tier(isolation.name)
    assert (found["tier"] == "full") == (not isolation.missing)
    if sys.platform == "linux":
        assert ("ABI" in found["kernel"]["landlock"]) or ("landlock" in found["missing"])


class Lesser:
    """A sandbox on a machine that offers less."""

    found: SimpleNamespace | Exception

    def __init__(self, **_: object) -> None: ...

    def __enter__(self) -> Lesser:
        return self

    def __exit__(self, *_: object) -> None: ...

    def probe(self) -> SimpleNamespace:
        if isinstance(self.found, Exception):
            raise self.found
        return self.found


def test_what_is_missing_is_told_with_its_reason_and_a_remedy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    missing = {"namespaces": "unshare: Operation not permitted"}
    Lesser.found = SimpleNamespace(name="landlock + seccomp + rlimits", missing=missing)
    monkeypatch.setattr("persd.sandbox.Sandbox", Lesser)
    monkeypatch.setattr(tiers, "_setting", {"kernel.unprivileged_userns_clone": "0"}.get)
    found = examine()
    assert (found["tier"], found["missing"]) == ("contained", missing)
    assert "sudo sysctl kernel.unprivileged_userns_clone=1" in found["advice"]
    assert found["kernel"]["kernel.unprivileged_userns_clone"] == "0"
    told = [line.split(None, 1) for line in lines(found)]
    assert ["tier", "contained"] in told
    assert ["missing", "namespaces: unshare: Operation not permitted"] in told
    assert ["advice", "sudo sysctl kernel.unprivileged_userns_clone=1"] in told


@pytest.mark.parametrize("error", [OSError(24, "Too many open files"), RuntimeError("odd")])
def test_where_no_worker_starts_the_reason_is_told(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    Lesser.found = error
    monkeypatch.setattr("persd.sandbox.Sandbox", Lesser)
    found = examine()
    assert (found["isolation"], found["tier"]) == ("none", "none")
    assert str(error) in found["missing"]["worker"]
    assert found["advice"] == []
    assert any(str(error) in line for line in lines(found))


def test_a_broken_torch_is_told_not_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()

    class Broken(ModuleType):
        def __getattr__(self, name: str) -> object:
            raise RuntimeError("no driver")

    torch = Broken("torch")
    torch.__spec__ = SimpleNamespace(name="torch")  # type: ignore[assignment]
    monkeypatch.setitem(sys.modules, "torch", torch)
    assert doctor._device() == "unknown: no driver"


# -- what fits --------------------------------------------------------------------------------


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Say where training is and how many GiB there are."""
    pytest.importorskip("torch")
    from persd.train.memory import GIB, Place

    def say(gib: float, kind: Any = "cuda", four_bit: bool = True) -> None:
        place = Place(kind, bf16=kind == "cuda", four_bit=four_bit)
        monkeypatch.setattr(doctor, "_place", lambda: (place, int(gib * GIB)))

    return say


def billions(told: str) -> float:
    return 0.0 if told == "none" else float(told[:-1]) * {"B": 1.0, "M": 1e-3}[told[-1]]


def test_what_fits_grows_with_the_machine_and_by_method(machine: Any) -> None:
    found = {}
    for gib in (8, 24, 80):
        machine(gib)
        found[gib] = {row["method"]: row for row in examine()["fits"]}
    for method, row in found[80].items():
        sizes = [billions(found[gib][method]["sparing_memory"]) for gib in (8, 24, 80)]
        assert sizes == sorted(sizes)
        assert sizes[0] < sizes[-1]
        assert billions(row["parameters"]) <= billions(row["sparing_memory"])
    best = [billions(found[24][m]["sparing_memory"]) for m in ("full", "full, bfloat16", "qlora")]
    assert best == sorted(best)
    assert best[0] < best[-1]


def test_4_bits_are_only_offered_where_they_can_be_had(machine: Any) -> None:
    machine(24, four_bit=False)
    assert "qlora" not in {row["method"] for row in examine()["fits"]}


def test_memory_and_disk_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    room = examine()["memory_gib"]
    assert 0 < room["free"] <= room["total"]
    assert room["disk_free_here"] > 0
    monkeypatch.setattr("persd.train.memory.ram_free", lambda: None)
    found = examine()
    assert found["memory_gib"]["free"] is None
    assert any("free -" in line for line in lines(found))


def test_optional_packages_are_there_or_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_version", {"wandb": "1.2"}.get)
    found = examine()
    assert found["optional"]["wandb"] == "1.2"
    assert found["optional"]["bitsandbytes"] is None
    assert found["next"] == "pip install 'persd[train]'"


def test_versions_outside_what_is_asked_for_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = {
        "persd": [
            "torch>=2.6 ; extra == 'train'",
            "trl<2 ; extra == 'train'",
            "ruff ; extra == 'dev'",
        ],
        "trl": ["transformers>=4.56", "nonsense !!"],
    }
    there = {"torch": "2.1.0+cpu", "trl": "1.16.0", "transformers": "5.23.0", "ruff": "0.0.1"}
    monkeypatch.setattr(doctor, "_requirements", lambda name: asked.get(name, []))
    monkeypatch.setattr(doctor, "_version", there.get)
    (told,) = doctor._out_of_range()
    assert told.startswith("torch 2.1.0+cpu: persd asks for >=2.6")
    monkeypatch.setattr(doctor, "_version", {**there, "torch": "2.7"}.get)
    assert doctor._out_of_range() == []


def test_a_clash_is_mended_first(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("trl")
    clash = "torch 2.1: persd asks for >=2.6; pip install 'torch>=2.6'"
    monkeypatch.setattr(doctor, "_out_of_range", lambda: [clash])
    found = examine()
    assert found["clashes"] == [clash]
    if found["tier"] not in ("none", "unsafe"):
        assert found["next"] == "pip install 'torch>=2.6'"


def test_nothing_clashes_here() -> None:
    assert doctor._out_of_range() == []


@pytest.mark.parametrize(
    ("cuda", "available", "driver", "said"),
    [
        (None, False, True, "without CUDA"),
        ("13.0", False, True, "built for CUDA 13.0"),
        ("13.0", True, True, None),
        (None, False, False, None),
    ],
)
def test_a_torch_that_does_not_fit_the_driver_is_named(
    cuda: str | None,
    available: bool,
    driver: bool,
    said: str | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch = ModuleType("torch")
    torch.__spec__ = SimpleNamespace(name="torch")  # type: ignore[assignment]
    torch.__version__ = "9.9"  # type: ignore[attr-defined]
    torch.version = SimpleNamespace(cuda=cuda)  # type: ignore[attr-defined]
    torch.cuda = SimpleNamespace(is_available=lambda: available)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch", torch)
    monkeypatch.setattr(doctor, "_has_driver", lambda: driver)
    told = doctor._torch_clashes()
    assert (said in told[0]) if said else (told == [])


def test_gpus_are_told_with_what_they_bear() -> None:
    gib = 2**30
    torch = SimpleNamespace(
        cuda=SimpleNamespace(
            get_device_properties=lambda i: SimpleNamespace(name=f"G{i}", major=9, minor=0),
            mem_get_info=lambda i: (70 * gib, 80 * gib),
        )
    )
    gpu = doctor._gpu(torch, 1)
    assert (gpu["name"], gpu["memory_gib"], gpu["free_gib"], gpu["bf16"]) == ("G1", 80, 70, True)


# -- a model ----------------------------------------------------------------------------------


def test_a_models_family_and_needs_are_told(tmp_path: Path, machine: Any) -> None:
    import families

    folder = str(families.qwen25_instruct(tmp_path / "mine"))
    machine(24)
    found = examine(folder)
    model = found["model"]
    assert (model["family"], model["context"], model["api"]) == ("Qwen2.5-Coder", 256, "chat")
    assert {row["here"] for row in model["needs"]} == {"fits"}
    assert found["next"].startswith(f"persd run CONFIG.toml --set student.model={folder}")
    machine(0.1)
    small = examine(folder)
    assert {row["here"] for row in small["model"]["needs"]} == {"too big"}
    assert "smaller model" in small["next"]


def shown(found: dict[str, Any]) -> str:
    """What a person reads, in a terminal of 80 columns."""
    console = Console(file=io.StringIO(), width=80, highlight=False)
    show(console, found)
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


def test_what_fits_is_a_table_a_person_can_read(tmp_path: Path, machine: Any) -> None:
    import families

    folder = str(families.qwen25_instruct(tmp_path / "mine"))
    machine(24)
    found = examine(folder)
    told = shown(found)
    for row in (*found["fits"], *found["model"]["needs"]):
        cells = [row[key] for key in row]
        assert any(re.split(r"  +", line.strip()) == cells for line in told.splitlines())
    assert "taken as Qwen2.5-Coder" in told
    assert 'api = "chat"' in told
    assert told.splitlines()[-1].split(None, 1) == ["next", found["next"]]
    assert "{" not in told.replace(folder, "")


def test_the_next_command_reads_the_model_as_it_was_looked_at(tmp_path: Path, machine: Any) -> None:
    import families

    folder = str(families.qwen25_instruct(tmp_path / "my model"))
    machine(24)
    given = shlex.split(examine(folder, trust_remote_code=True)["next"])
    assert f"student.model={folder}" in given
    assert "student.trust_remote_code=true" in given
    assert "trust_remote_code" not in examine(folder)["next"]


def test_a_models_stages_are_told_as_train_takes_them(machine: Any) -> None:
    machine(24)
    model = {"name": "x", "family": "XGen", "note": "its code", "parameters": "7B"}
    model |= {"context": 8192, "api": "completions", "stages": [[2048, 0.6], [4096, 0.4]]}  # type: ignore[dict-item]
    found = {"fits": [], "model": {**model, "needs": []}, "next": "go"}
    told = shown(found)
    assert "0.6 of 2,048, 0.4 of 4,096 tokens" in told
    assert "its code" in told


def test_the_embedded_student_can_be_looked_at() -> None:
    pytest.importorskip("transformers")
    assert examine("lab")["model"]["parameters"] == "0.9M"


def test_a_model_that_is_not_there_is_the_users_to_mend() -> None:
    pytest.importorskip("transformers")
    with pytest.raises(UserError, match="no checkpoint folder"):
        examine("./nowhere")


def test_what_is_no_causal_model_is_named(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    import tiny

    folder = tiny.checkpoint(tmp_path / "bert")
    config = json.loads((folder / "config.json").read_text()) | {"model_type": "t5"}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="no causal"):
        examine(str(folder))
