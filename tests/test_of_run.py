"""From a run's examples to a trained student: what is reused, mixed in, noted and told."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("trl")

import torch

import tiny
from conftest import make_task
from persd.build import build_examples
from persd.config import Config
from persd.errors import UserError
from persd.ledger import Ledger
from persd.loop import collect
from persd.progress import Progress
from persd.run import Run
from persd.train.folder import manifest_of
from persd.train.of_run import train_run, train_variant
from play import Script, make_config, use


class Heard(Progress):
    def __init__(self) -> None:
        self.stages: list[tuple[str, int | None]] = []
        self.notes: list[str] = []
        self.said: list[str] = []
        self.units = 0

    def stage(self, name: str, total: int | None) -> None:
        self.stages.append((name, total))

    def step(self, units: int = 1, **counts: int) -> None:
        self.units += units

    def note(self, text: str) -> None:
        self.notes.append(text)

    def say(self, text: str) -> None:
        self.said.append(text)


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.checkpoint(tmp_path_factory.mktemp("base") / "tiny", spread=0.05, context=512)


def a_config(folder: Path, base: Path, **train: Any) -> Config:
    plain = make_config(folder).model_dump()
    plain["run"]["variants"] = ["persd"]
    plain["student"]["model"] = str(base)
    plain["train"] = {"epochs": 2, "batch_size": 2, "lr": 1e-3, **train}
    return Config.model_validate(plain)


@pytest.fixture
def config(tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    """Of a run that is collected: three tasks failed and repaired, three solved."""
    wrong = {f"bad{i}": f"    return a - b - {i}\n" for i in range(3)}
    right = {f"good{i}": f"    return {i} + a + b - {i}\n" for i in range(3)}
    use(monkeypatch, Script({**wrong, **right}, {}))
    found = a_config(tmp_path, base)
    with Run(found) as run:
        run.store_tasks([make_task(name) for name in (*wrong, *right)])
        collect(run, 1, found.student.model)
    return found


def test_a_student_is_trained_once_and_its_steps_are_in_the_ledger(config: Config) -> None:
    heard = Heard()
    with Run(config, progress=heard) as run:
        examples = build_examples(run, "persd", 1)
        first = train_variant(run, "persd", 1, examples)
        again = train_variant(run, "persd", 1, examples)
        assert first is not None
        assert first == again
        steps = run.ledger.steps(first.data_hash)
    assert [s.step for s in steps] == [1, 2, 3, 4]  # two batches of three rows, twice
    assert steps[-1].tokens == first.metrics["tokens"]
    assert all(s.loss > 0 for s in steps)
    titles = [name for name, _ in heard.stages]
    assert titles.count("train persd, steps") == 1
    assert heard.notes[-1].startswith("loss ")
    assert "tokens/s" in heard.notes[-1]


def test_a_checkpoint_that_was_finished_before_a_kill_is_taken_as_it_is(config: Config) -> None:
    with Run(config) as run:
        examples = build_examples(run, "persd", 1)
        first = train_variant(run, "persd", 1, examples)
        assert first is not None
        run.ledger._write("DELETE FROM checkpoints", [()], durable=True)
        before = (Path(first.path) / "model.safetensors").stat().st_mtime_ns
        again = train_variant(run, "persd", 1, examples)
    assert again == first
    assert (Path(first.path) / "model.safetensors").stat().st_mtime_ns == before


def test_a_folder_that_holds_another_training_by_now_is_not_taken(
    config: Config, tmp_path: Path
) -> None:
    out = tmp_path / "mine"
    train_run(Path(config.run.dir), "persd", out, None, Progress())
    shutil.rmtree(out)
    train_run(Path(config.run.dir), "stand", out, None, Progress())
    with Run(config) as run:
        trained = train_variant(run, "persd", 1, build_examples(run, "persd", 1))
        assert trained is not None
        assert Path(trained.path) != out.resolve()


def test_another_training_is_not_replaced_by_a_slip(config: Config, tmp_path: Path) -> None:
    out, run = tmp_path / "mine", Path(config.run.dir)
    train_run(run, "persd", out, None, Progress())
    before = (out / "model.safetensors").read_bytes()
    with pytest.raises(UserError, match="another training is finished there"):
        train_run(run, "persd", out, None, Progress(), overrides=["train.lr=1e-5"])
    assert (out / "model.safetensors").read_bytes() == before


def test_a_stopped_training_is_not_replaced_by_a_slip(config: Config, tmp_path: Path) -> None:
    class Stops(Progress):
        asked = False

        def note(self, text: str) -> None:
            if not self.asked:
                signal.raise_signal(signal.SIGINT)
            self.asked = True

    out, run = tmp_path / "mine", Path(config.run.dir)
    with pytest.raises(KeyboardInterrupt):
        train_run(run, "persd", out, None, Stops())
    with pytest.raises(UserError, match="stopped there at step 2"):
        train_run(run, "persd", out, None, Progress(), overrides=["train.lr=1e-5"])
    heard = Heard()
    found = train_run(run, "persd", out, None, heard, overrides=["train.micro_batch=1"])
    assert found["steps"] == 4
    assert heard.said[0].startswith("going on at step 3 of 4")


def test_the_base_may_be_asked_in_another_form(config: Config, base: Path, tmp_path: Path) -> None:
    run, out = Path(config.run.dir), tmp_path / "mine"
    train_run(run, "persd", out, str(base), Progress(), asked={"api": "chat"})
    assert manifest_of(out)["api"] == "chat"


def test_the_command_notes_what_it_trained_in_the_ledger(config: Config, tmp_path: Path) -> None:
    out = tmp_path / "mine"
    found = train_run(
        Path(config.run.dir), "persd", out, None, Progress(), overrides=["train.epochs=1"]
    )
    assert (found["steps"], found["examples"], found["path"]) == (2, 3, str(out))
    with Ledger(config.run.dir, read_only=True) as ledger:
        (noted,) = ledger.checkpoints()
        assert noted.path == str(out.resolve())
        assert noted.settings["epochs"] == 1
        assert len(ledger.steps(noted.data_hash)) == 2
    assert manifest_of(out)["data_hash"] == noted.data_hash


def test_a_ledger_that_another_writes_costs_no_training(config: Config, tmp_path: Path) -> None:
    heard = Heard()
    held: list[Ledger] = []

    class Grabs(Heard):
        def note(self, text: str) -> None:
            if not held:
                held.append(Ledger(config.run.dir))

        def say(self, text: str) -> None:
            heard.say(text)

    train_run(Path(config.run.dir), "persd", tmp_path / "mine", None, Grabs())
    held[0].close()
    assert "not noted" in heard.said[-1]
    assert manifest_of(tmp_path / "mine")


def test_the_same_command_again_trains_nothing_again(config: Config, tmp_path: Path) -> None:
    run, out, heard = Path(config.run.dir), tmp_path / "mine", Heard()
    first = train_run(run, "persd", out, None, Progress())
    with Ledger(run) as ledger:  # as if it had been killed before it was noted
        ledger._write("DELETE FROM checkpoints", [()], durable=True)
    before = (out / "model.safetensors").stat().st_mtime_ns
    assert train_run(run, "persd", out, None, heard) == first
    assert (out / "model.safetensors").stat().st_mtime_ns == before
    assert "not done again" in heard.said[-1]
    with Ledger(run, read_only=True) as ledger:
        assert len(ledger.checkpoints()) == 1
    (out / "model.safetensors").unlink()
    train_run(run, "persd", out, None, Progress())
    assert (out / "model.safetensors").is_file()


def test_rows_are_mixed_in_and_told(config: Config, tmp_path: Path) -> None:
    more = tmp_path / "more.jsonl"
    rows = [{"prompt": f"# {i}\n", "completion": f"x = {i}\n"} for i in range(9)]
    more.write_text("".join(json.dumps(row) + "\n" for row in rows))
    heard = Heard()
    overrides = [f'train.mix=[{{ source = "{more}", share = 0.5 }}]']
    found = train_run(
        Path(config.run.dir), "persd", tmp_path / "mine", None, heard, overrides=overrides
    )
    assert found["examples"] == 6
    assert heard.said == [f"mixed in from {more}: 3 rows"]
    assert manifest_of(tmp_path / "mine")["variants"] == ["more.jsonl", "persd"]


def test_the_students_own_passing_attempts_are_replayed(config: Config, tmp_path: Path) -> None:
    heard = Heard()
    overrides = ['train.mix=[{ source = "replay", share = 0.4 }]', 'train.mix_by="tokens"']
    found = train_run(
        Path(config.run.dir), "persd", tmp_path / "mine", None, heard, overrides=overrides
    )
    assert 4 <= found["examples"] <= 6
    assert heard.said[0].startswith("mixed in from replay: ")
    assert "tokens" in heard.said[0]


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("student.model=other", "is no key of"),
        ("train.lr=-1", "greater than 0"),
        ("train.speed=1", "speed"),
    ],
)
def test_only_the_training_can_be_changed(
    config: Config, tmp_path: Path, override: str, told: str
) -> None:
    with pytest.raises(UserError, match=told) as caught:
        train_run(
            Path(config.run.dir), "persd", tmp_path / "x", None, Progress(), overrides=[override]
        )
    assert override.split("=")[0] in caught.value.one_line()


def test_a_variant_without_examples_is_the_users_to_mend(
    tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, Script({}, {}))
    config = a_config(tmp_path, base)
    with Run(config) as run:
        run.store_tasks([make_task("good")])
        collect(run, 1, config.student.model)
    with pytest.raises(UserError, match="no example of persd"):
        train_run(Path(config.run.dir), "persd", tmp_path / "x", None, Progress())
