"""What a training would fail for is told before anything is paid."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

import tiny
from persd.config import StudentTable, TrainTable
from persd.errors import UserError
from persd.train import memory
from persd.train.ready import refuse_unfit, refuse_unready


@pytest.mark.parametrize(
    ("settings", "package", "told"),
    [
        ({"method": "qlora"}, "bitsandbytes", r"persd\[qlora\].*lora"),
        ({"optimizer": "adamw_8bit"}, "bitsandbytes", "adafactor"),
        ({"report_to": ["wandb"]}, "wandb", "pip install wandb"),
    ],
)
def test_a_package_that_is_not_there_is_named(
    settings: dict[str, Any], package: str, told: str
) -> None:
    if find_spec(package):
        pytest.skip(f"{package} is installed")
    with pytest.raises(UserError) as caught:
        refuse_unready(TrainTable().but(**settings))
    assert re.search(f"{package}.*{told}", caught.value.one_line())


def test_what_is_mixed_in_has_to_be_there(tmp_path: Path) -> None:
    def mix(source: str) -> TrainTable:
        return TrainTable().but(mix=[{"source": source, "share": 0.2}])

    for known in ("replay", "stand"):
        refuse_unready(mix(known))
    with pytest.raises(UserError, match="nonsense"):
        refuse_unready(mix("nonsense"))
    with pytest.raises(UserError, match=r"none\.jsonl"):
        refuse_unready(mix(str(tmp_path / "none.jsonl")))


def test_a_launch_file_has_to_be_one(tmp_path: Path) -> None:
    refuse_unready(TrainTable(launch="cpu2"))
    with pytest.raises(UserError, match=r"none\.yaml"):
        refuse_unready(TrainTable(launch=str(tmp_path / "none.yaml")))


def test_a_student_that_fits_with_no_row_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    student = StudentTable(model=str(tiny.checkpoint(tmp_path / "tiny")))
    refuse_unfit(student, TrainTable())
    monkeypatch.setattr(memory, "available", lambda kind: 1000)
    with pytest.raises(UserError, match="needs about"):
        refuse_unfit(student, TrainTable())
    refuse_unfit(student, TrainTable(launch="zero3"))


def test_a_served_student_is_trained_in_the_form_it_is_asked_in() -> None:
    served = StudentTable(model="m", base_url="http://127.0.0.1:1/v1")
    assert served.form == "chat"
    assert StudentTable(model="m").form == "completions"
    assert StudentTable(model="m", api="chat").form == "chat"
