"""The shipped fake: answers by task, purpose, round and try."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from persd.errors import UserError
from persd.models.scripted import from_file
from test_calls import make_request


def test_a_file_of_answers(tmp_path: Path) -> None:
    rows = [
        {"task_id": "t1", "purpose": "attempt", "text": "any round"},
        {"task_id": "t1", "purpose": "refinement", "attempt": 1, "text": "first"},
        {"task_id": "t1", "purpose": "refinement", "attempt": 2, "text": "second"},
        {"task_id": "t1", "purpose": "attempt", "round": 2, "attempt": 1, "text": "round two"},
    ]
    path = tmp_path / "script.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    model = from_file(path)
    asked = [
        make_request(1),
        make_request(1, purpose="refinement"),
        make_request(1, purpose="refinement", attempt=2),
        make_request(1, round=2),
        make_request(2),
    ]
    said = [c.text for c in model.complete(asked)]
    assert said == ["any round", "first", "second", "round two", ""]


def test_another_script_is_another_model(tmp_path: Path) -> None:
    path = tmp_path / "s.jsonl"
    path.write_text('{"task_id": "t1", "purpose": "attempt", "text": "a"}\n')
    before = from_file(path).identity
    path.write_text('{"task_id": "t1", "purpose": "attempt", "text": "b"}\n')
    assert from_file(path).identity != before


@pytest.mark.parametrize("line", ["{", '{"task_id": "x"}', "[]", "3"])
def test_a_broken_line_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "s.jsonl"
    path.write_text(f'{{"task_id": "t", "purpose": "attempt", "text": ""}}\n{line}\n')
    with pytest.raises(UserError, match=r"s\.jsonl:2"):
        from_file(path)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot read the script"):
        from_file(tmp_path / "absent")
