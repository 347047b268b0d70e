"""The doctor says what there is, and never what a key is."""

from __future__ import annotations

import json
import sys
from types import ModuleType, SimpleNamespace

import pytest

from persd import doctor
from persd.doctor import examine, lines
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
