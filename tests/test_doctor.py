"""The doctor says what there is, and never what a key is."""

from __future__ import annotations

import json

import pytest

from persd.doctor import examine


def test_facts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-do-not-show")
    found = examine()
    assert found["isolation"]
    assert found["cores"] >= 1
    assert found["keys_set"] == ["OPENAI_API_KEY"]
    assert "do-not-show" not in json.dumps(found)
