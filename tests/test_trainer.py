"""The trainer: goes on where it was killed, looks at held-out rows, stages, packs, tells."""

from __future__ import annotations

import gc
import json
import os
import pickle
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("trl")

import torch
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, OPTConfig, OPTForCausalLM

import tiny
from persd.config import TrainTable
from persd.errors import UserError
from persd.records import Example, Message
from persd.tokens import Api, prompt_ids
from persd.train import Step, keeping, train
from persd.train.folder import seal, whole_states
from persd.train.rows import IGNORED, TokenRow, encode
from persd.train.trainer import make_trainer
from test_tokens import merging
from test_train import EXAMPLES, example, weights

SETTINGS = TrainTable(epochs=4, lr=2e-2, batch_size=4, seed=3, warmup_ratio=0.1)
#: Put down as often as can be.
OFTEN = SETTINGS.but(checkpoint_minutes=1e-9)
STAGES = [{"length": 20, "share": 0.5}, {"length": 64, "share": 0.5}]


@pytest.fixture(autouse=True, scope="module")
def _quick() -> None:
    """One thread; and what is imported is not looked through for garbage by each training."""
    torch.set_num_threads(1)
    gc.freeze()


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With dropout: random numbers decide its weights, too."""
    folder = tiny.checkpoint(tmp_path_factory.mktemp("base") / "tiny", hidden=48, spread=0.05)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"attention_dropout": 0.2}))
    return folder


@pytest.fixture
def no_weights(base: Path, tmp_path: Path) -> Path:
    """A checkpoint whose weights cannot be read: what is refused with it, was so before them."""
    shutil.copytree(base, tmp_path / "hollow")
    (tmp_path / "hollow" / "model.safetensors").write_bytes(b"no weights")
    return tmp_path / "hollow"


@pytest.fixture
def each_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Training is put down after every step, however long that takes."""
    monkeypatch.setattr(keeping, "_WORTH", 0.0)


@pytest.fixture(scope="module")
def unbroken(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("unbroken") / "out"
    train(str(base), EXAMPLES, out, SETTINGS)
    return out


def stop_at(step: int) -> Callable[[Step], None]:
    def stop(told: Step) -> None:
        if told.step == step and told.held_out is None:
            raise KeyboardInterrupt

    return stop


def interrupt(base: Path, out: Path, settings: TrainTable, step: int) -> Path:
    """Stop a training as a step is told, and give the folder of its states."""
    with pytest.raises(KeyboardInterrupt):
        train(str(base), EXAMPLES, out, settings, on_step=stop_at(step))
    return out.with_name(f".{out.name}.part") / "state"


def facts(out: Path) -> Any:
    """The manifest, without what differs from one run to the next."""
    manifest = json.loads((out / "manifest.json").read_text())
    del manifest["metrics"]["seconds"], manifest["data_hash"]
    del manifest["settings"]["checkpoint_minutes"]
    return manifest


def rows_of(
    tok: Any, examples: Sequence[Example] = EXAMPLES, api: Api = "completions"
) -> list[TokenRow]:
    return encode(tok, examples, SETTINGS, api=api)[0]


KILLED = """
import os, signal, sys
from pathlib import Path
import torch
from persd.train import keeping, train
from test_trainer import EXAMPLES, OFTEN
torch.set_num_threads(1)
keeping._WORTH = 0.0
def kill(step):
    if step.step == 6:
        os.kill(os.getpid(), signal.SIGKILL)
train(sys.argv[1], EXAMPLES, Path(sys.argv[2]), OFTEN, on_step=kill)
"""


def test_a_killed_training_goes_on_to_the_same_weights(
    base: Path, unbroken: Path, tmp_path: Path
) -> None:
    out, paths = tmp_path / "out", os.pathsep.join([*sys.path, str(Path(__file__).parent)])
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, str(base), str(out)],
        env=os.environ | {"PYTHONPATH": paths},
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL
    assert not out.exists()
    told: list[Step] = []
    train(str(base), EXAMPLES, out, OFTEN, on_step=told.append)
    assert [s.step for s in told] == [6, 7, 8]
    assert weights(out) == weights(unbroken)
    assert facts(out) == facts(unbroken)
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


@pytest.mark.usefixtures("each_step")
@pytest.mark.parametrize(
    ("step", "changes"),
    [
        (5, {"max_steps": 7, "micro_batch": 2, "schedule": "linear", "packing": "on"}),
        (6, {"stages": STAGES, "method": "lora", "lora": {"rank": 4, "dropout": 0.2}}),
        (3, {"held_out": 0.34, "patience": 9}),
        (3, {"dtype": "bfloat16", "optimizer": "adafactor"}),
    ],
)
def test_an_interrupted_training_goes_on_to_the_same_weights(
    base: Path, tmp_path: Path, step: int, changes: dict[str, Any]
) -> None:
    train(str(base), EXAMPLES, tmp_path / "whole", SETTINGS.but(**changes))
    interrupt(base, tmp_path / "out", OFTEN.but(**changes), step)
    told: list[Step] = []
    train(str(base), EXAMPLES, tmp_path / "out", OFTEN.but(**changes), on_step=told.append)
    assert told[0].step == step
    assert weights(tmp_path / "out") == weights(tmp_path / "whole")
    assert facts(tmp_path / "out") == facts(tmp_path / "whole")


@pytest.mark.usefixtures("each_step")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_asked_to_stop_it_puts_itself_down_after_the_step(
    base: Path, unbroken: Path, tmp_path: Path, number: signal.Signals
) -> None:
    def ask(told: Step) -> None:
        if told.step == 5:
            os.kill(os.getpid(), number)

    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt):
        train(str(base), EXAMPLES, tmp_path / "out", SETTINGS, on_step=ask)
    assert signal.getsignal(number) == before
    states = [p.name for p in (tmp_path / ".out.part" / "state").iterdir()]
    assert states in (["checkpoint-5"], ["checkpoint-6"])  # by when the signal was heard
    train(str(base), EXAMPLES, tmp_path / "out", SETTINGS)
    assert weights(tmp_path / "out") == weights(unbroken)


def test_asked_twice_it_ends_at_once(base: Path, tmp_path: Path) -> None:
    told: list[int] = []

    def ask(step: Step) -> None:
        told.append(step.step)
        for _ in range(2):
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        train(str(base), EXAMPLES, tmp_path / "out", SETTINGS, on_step=ask)
    assert told == [1]
    assert not (tmp_path / ".out.part").exists()


def test_what_does_not_fit_after_all_goes_on_with_smaller_passes(
    base: Path, unbroken: Path, tmp_path: Path, each_step: None
) -> None:
    def full(told: Step) -> None:
        if told.step == 5:
            raise UserError("the GPU's memory does not hold 4 rows", hint="micro_batch")

    with pytest.raises(UserError):
        train(str(base), EXAMPLES, tmp_path / "out", OFTEN, on_step=full)
    steps: list[int] = []
    smaller = OFTEN.but(micro_batch=2, gradient_checkpointing=True)
    metrics = train(
        str(base), EXAMPLES, tmp_path / "out", smaller, on_step=lambda s: steps.append(s.step)
    )
    assert steps[0] in (5, 6)
    whole = json.loads((unbroken / "manifest.json").read_text())["metrics"]
    assert metrics["steps"] == whole["steps"]
    # dropout draws other numbers in other passes
    assert metrics["last_loss"] == pytest.approx(whole["last_loss"], rel=0.3)


def test_a_state_that_cannot_be_read_gives_way_to_the_one_before(
    base: Path, unbroken: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, each_step: None
) -> None:
    states = interrupt(base, tmp_path / "out", OFTEN, 6)
    last = whole_states(states)[0]
    size = (last / "optimizer.pt").stat().st_size
    (last / "optimizer.pt").write_bytes(b"\x80" * size)
    told: list[Step] = []
    train(str(base), EXAMPLES, tmp_path / "out", OFTEN, on_step=told.append)
    assert told[0].step == 5
    assert f"{last.name}: cannot be read" in caplog.text
    assert weights(tmp_path / "out") == weights(unbroken)


class Payload:
    """Pickled code: it would make a file where it is run."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


@pytest.mark.usefixtures("each_step")
def test_nothing_in_a_state_is_run_and_without_one_it_begins_again(
    base: Path, unbroken: Path, tmp_path: Path, each_step: None
) -> None:
    states = interrupt(base, tmp_path / "out", OFTEN, 6)
    names = {p.name for state in whole_states(states) for p in state.iterdir()}
    assert {"optimizer.pt", "scheduler.pt", "rng_state.pth"} <= names
    assert "training_args.bin" not in names
    for state, name in zip(whole_states(states), ("rng_state.pth", "optimizer.pt"), strict=True):
        for file in (name, "training_args.bin"):
            (state / file).write_bytes(pickle.dumps(Payload(tmp_path / "run")))
        seal(state)
    told: list[Step] = []
    train(str(base), EXAMPLES, tmp_path / "out", OFTEN, on_step=told.append)
    assert told[0].step == 1
    assert weights(tmp_path / "out") == weights(unbroken)
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("each_step")
def test_a_training_with_other_rows_begins_afresh(
    base: Path, tmp_path: Path, each_step: None
) -> None:
    interrupt(base, tmp_path / "out", OFTEN, 6)
    told: list[Step] = []
    train(str(base), EXAMPLES[:5], tmp_path / "out", OFTEN, on_step=told.append)
    assert told[0].step == 1


def test_putting_it_down_takes_a_tenth_of_the_time_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    clock = SimpleNamespace(perf_counter=lambda: now)
    monkeypatch.setattr("persd.train.keeping.time", clock)
    keeper = keeping.Keeper(minutes=1)
    keeper.trainer = SimpleNamespace(accelerator=SimpleNamespace(num_processes=1))

    def due(seconds: float, step: int = 5) -> bool:
        nonlocal now
        now += seconds
        control = SimpleNamespace(should_save=False)
        keeper.on_step_end(None, SimpleNamespace(global_step=step, max_steps=10), control)
        return bool(control.should_save)

    assert not due(59)
    assert due(1)
    keeper.saved(30)
    assert not due(269)
    assert due(1)
    keeper.saved(1)
    assert not due(59)
    assert not due(100, step=10)  # it is written in full then


@pytest.fixture
def small_files() -> Iterator[None]:
    """A file may hold no more than the weights: the optimizer's state does not fit."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.usefixtures("small_files")
def test_a_training_that_cannot_be_put_down_goes_on(
    base: Path, unbroken: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    train(str(base), EXAMPLES, tmp_path / "out", OFTEN)
    assert "step 1 cannot be put down" in caplog.text
    assert weights(tmp_path / "out") == weights(unbroken)


@pytest.mark.usefixtures("small_files")
def test_best_weights_that_cannot_be_kept_are_told_in_a_line(base: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"out: cannot write there \(.*Make room"):
        train(str(base), EXAMPLES, tmp_path / "out", OFTEN.but(held_out=0.34))


# -- held-out rows ------------------------------------------------------------------------------


def exact_loss(folder: Path, rows: Sequence[TokenRow]) -> float:
    """Nats per label token, a row at a time."""
    model = AutoModelForCausalLM.from_pretrained(str(folder)).eval()
    total = 0.0
    for row in rows:
        with torch.no_grad():
            logits = model(torch.tensor([row.input_ids])).logits[0, :-1]
        total += float(
            cross_entropy(logits, torch.tensor(row.labels[1:]), ignore_index=-100, reduction="sum")
        )
    return total / sum(len(row.completion) for row in rows)


def test_the_weights_of_the_lowest_held_out_loss_are_kept(base: Path, tmp_path: Path) -> None:
    told: list[Step] = []
    settings = SETTINGS.but(epochs=12, held_out=0.34, patience=2)
    metrics = train(str(base), EXAMPLES, tmp_path / "out", settings, on_step=told.append)
    looks = {s.step: s.held_out for s in told if s.held_out is not None}
    best = min(looks, key=looks.__getitem__)
    assert metrics["stopped_early"] == 1
    assert metrics["best_step"] == best == max(looks) - 2  # an epoch is one step here
    assert metrics["steps"] == max(looks) < 12
    assert metrics["held_out"] == 2
    assert metrics["examples"] == 4
    apart = json.loads((tmp_path / "out" / "manifest.json").read_text())["held_out"]
    rows = [r for r in rows_of(tiny.tokenizer()) if r.example_id in apart]
    assert len(rows) == 2
    assert exact_loss(tmp_path / "out", rows) == pytest.approx(looks[best], rel=1e-5)
    assert metrics["best_held_out"] == looks[best]
    trained = sum(map(len, rows_of(tiny.tokenizer()))) - sum(map(len, rows))
    assert metrics["tokens"] == metrics["steps"] * trained


def test_every_epoch_is_looked_at_and_its_steps_told(base: Path, tmp_path: Path) -> None:
    told: list[Step] = []
    settings = SETTINGS.but(batch_size=2, micro_batch=1, held_out=0.34, patience=9, lr=1e-3)
    metrics = train(str(base), EXAMPLES, tmp_path / "out", settings, on_step=told.append)
    assert [s.step for s in told if s.held_out is None] == [*range(1, 9)]
    assert [s.step for s in told if s.held_out is not None] == [2, 4, 6, 8]
    assert metrics["stopped_early"] == 0


def test_one_task_cannot_be_held_out_and_trained_on(no_weights: Path, tmp_path: Path) -> None:
    same = [Example(f"e{i}", "persd", "t", 1, e.prompt, e.completion, "task") for i, e in
            enumerate(EXAMPLES)]  # fmt: skip
    with pytest.raises(UserError, match=r"train\.held_out"):
        train(str(no_weights), same, tmp_path / "out", SETTINGS.but(held_out=0.5))


# -- stages -------------------------------------------------------------------------------------


def test_stages_take_their_share_of_the_steps_and_rows_that_fit(base: Path, tmp_path: Path) -> None:
    tok = tiny.tokenizer()
    rows, settings = rows_of(tok), SETTINGS.but(stages=STAGES, epochs=5)
    trainer = make_trainer(tiny.model(len(tok)), tok, rows, tmp_path, settings)
    widths = [batch["input_ids"].shape[1] for batch in trainer.get_train_dataloader()]
    assert len(widths) == 10
    assert max(widths[:5]) <= 20 < max(widths[5:])
    metrics = train(str(base), EXAMPLES, tmp_path / "out", settings)
    assert metrics["steps"] == 10
    assert metrics["stage_1_rows"] == sum(len(r) <= 20 for r in rows) < len(rows)
    assert metrics["stage_2_rows"] == len(rows)


def test_a_row_longer_than_the_longest_stage_is_refused(no_weights: Path, tmp_path: Path) -> None:
    settings = SETTINGS.but(stages=[{"length": 20, "share": 1}])
    with pytest.raises(UserError, match=r"e\d: \d+ tokens, the limit is 20"):
        train(str(no_weights), EXAMPLES, tmp_path / "out", settings)


def test_a_stage_without_rows_is_refused_before_weights_are_read(
    no_weights: Path, tmp_path: Path
) -> None:
    stages = [{"length": 8, "share": 0.5}, {"length": 100, "share": 0.5}]
    with pytest.raises(UserError, match=r"stage 1 of train\.stages"):
        train(str(no_weights), EXAMPLES, tmp_path / "out", SETTINGS.but(stages=stages))


# -- packing and batches ------------------------------------------------------------------------


def loss_and_gradients(packing: str, folder: Path) -> tuple[float, torch.Tensor]:
    """Of the first batch."""
    tok = tiny.tokenizer()
    settings = SETTINGS.but(packing=packing, batch_size=3, micro_batch=3)
    trainer = make_trainer(tiny.model(len(tok)), tok, rows_of(tok), folder, settings)
    batch = next(iter(trainer.get_train_dataloader()))
    assert batch["input_ids"].shape[0] == (1 if packing == "on" else 3)
    loss = trainer.compute_loss(trainer.model, dict(batch))
    loss.backward()
    gradients = [p.grad.flatten() for p in trainer.model.parameters()]
    return float(loss.detach()), torch.cat(gradients)


def test_packed_rows_give_the_loss_and_gradients_of_padded_ones(tmp_path: Path) -> None:
    padded, packed = loss_and_gradients("off", tmp_path), loss_and_gradients("on", tmp_path)
    assert packed[0] == pytest.approx(padded[0], rel=1e-5)
    assert torch.allclose(packed[1], padded[1], rtol=1e-4, atol=1e-5)
    assert padded[1].abs().max() > 0.01


def test_packed_rows_do_not_see_each_other(tmp_path: Path) -> None:
    tok = tiny.tokenizer()
    rows = rows_of(tok)
    trainer = make_trainer(
        tiny.model(len(tok)), tok, rows, tmp_path, SETTINGS.but(packing="on", batch_size=2)
    )

    def logits(first: list[int], second: list[int]) -> torch.Tensor:
        plain = [{"input_ids": ids, "labels": ids} for ids in (first, second)]
        inputs = {k: v for k, v in trainer.data_collator(plain).items() if k != "labels"}
        with torch.no_grad():
            out: torch.Tensor = trainer.model(**inputs).logits[0, len(first) :]
        return out

    one, other = rows[0].input_ids, rows[1].input_ids
    assert torch.equal(logits(one, other), logits(one[::-1], other))
    assert not torch.equal(logits(one, other), logits(one, other[::-1]))
    labels = trainer.data_collator([{"input_ids": one, "labels": one}] * 2)["labels"][0]
    assert labels[len(one)] == IGNORED  # the end of a row says nothing of the next one's start


def test_a_model_that_reads_on_into_the_next_row_is_not_packed(tmp_path: Path) -> None:
    tok = tiny.tokenizer()
    config = OPTConfig(
        vocab_size=len(tok),
        hidden_size=32,
        ffn_dim=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=256,
        word_embed_proj_dim=32,
        init_std=0.5,
    )
    with pytest.raises(UserError, match=r"packing = 'on'.*opt does not keep"):
        make_trainer(
            OPTForCausalLM(config), tok, rows_of(tok), tmp_path, SETTINGS.but(packing="on")
        )


def test_without_flash_attention_rows_are_padded(tmp_path: Path) -> None:
    tok = tiny.tokenizer()
    trainer = make_trainer(tiny.model(len(tok)), tok, rows_of(tok), tmp_path, SETTINGS)
    assert "attention_mask" in next(iter(trainer.get_train_dataloader()))


@pytest.mark.parametrize("packing", ["off", "on"])
def test_every_batch_weighs_its_tokens_alike_the_last_one_too(
    base: Path, tmp_path: Path, packing: str
) -> None:
    """Six rows in batches of four, two rows a pass: the second batch has one pass."""
    settings = SETTINGS.but(epochs=1, lr=1e-12, micro_batch=2, packing=packing)
    tok, told = tiny.tokenizer(), list[Step]()
    shutil.copytree(base, tmp_path / "base")
    config = json.loads((base / "config.json").read_text()) | {"attention_dropout": 0.0}
    (tmp_path / "base" / "config.json").write_text(json.dumps(config))
    train(str(tmp_path / "base"), EXAMPLES, tmp_path / "out", settings, on_step=told.append)
    rows = rows_of(tok)
    trainer = make_trainer(tiny.model(len(tok)), tok, rows, tmp_path / "x", settings)
    order = list(trainer._get_train_sampler())
    for step, batch in zip(told, (order[:4], order[4:]), strict=True):
        expected = exact_loss(tmp_path / "base", [rows[i] for i in batch])
        assert step.loss == pytest.approx(expected, rel=1e-5)


def test_a_batch_that_processes_cannot_share_says_which_could(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tok = tiny.tokenizer()
    monkeypatch.setenv("WORLD_SIZE", "4")
    settings = SETTINGS.but(batch_size=12, micro_batch=2)
    with pytest.raises(UserError, match=r"12 cannot be shared by 4 processes.*multiple of 8") as e:
        make_trainer(tiny.model(len(tok)), tok, rows_of(tok), tmp_path, settings)
    assert "train.batch_size = 8 or 16" in e.value.hint


@pytest.mark.parametrize("api", ["chat", "completions"])
def test_a_batchs_prompts_are_those_of_inference_in_either_form(tmp_path: Path, api: Api) -> None:
    tok = tiny.tokenizer()
    trainer = make_trainer(tiny.model(len(tok)), tok, rows_of(tok, api=api), tmp_path, SETTINGS)
    found = {}
    for batch in trainer.get_train_dataloader():
        for ids, labels in zip(batch["input_ids"], batch["labels"], strict=True):
            counts = labels != IGNORED
            assert labels[counts][-1] == tok.eos_token_id
            prompt = tuple(ids[: int(counts.nonzero()[0])].tolist())
            found[prompt] = tok.decode(labels[counts][:-1])
    asked = {tuple(prompt_ids(tok, (Message("user", e.prompt),), api)): e for e in EXAMPLES}
    assert found == {ids: e.completion for ids, e in asked.items()}


# -- what is refused before weights are read ----------------------------------------------------


def test_rows_that_do_not_fit_are_refused_before_weights_are_read(
    no_weights: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="limit is 24"):
        train(str(no_weights), EXAMPLES, tmp_path / "out", SETTINGS.but(max_length=24))
    assert not (tmp_path / "out").exists()


def test_a_tokenizer_that_merges_spaces_is_refused_before_weights_are_read(
    no_weights: Path, tmp_path: Path
) -> None:
    merging().save_pretrained(str(no_weights))
    with pytest.raises(UserError, match=r"e\d.*reads back differently"):
        train(str(no_weights), EXAMPLES, tmp_path / "out", SETTINGS)


def test_rows_whose_end_token_is_in_their_text_are_counted_by_training(
    base: Path, tmp_path: Path
) -> None:
    odd = [*EXAMPLES, example(9, "def f():\n", "    return '<|end|>'\n")]
    with pytest.raises(UserError, match="e9"):
        train(str(base), odd, tmp_path / "out", SETTINGS)
    metrics = train(str(base), odd, tmp_path / "out", SETTINGS.but(lossy="skip", epochs=1))
    assert metrics["lossy"] == 1


# -- trackers -----------------------------------------------------------------------------------

TRACKER = """
told = []
__version__ = "1.0"
config = {}
class _Space:
    def get(self): return None
class context_vars: current_space_id = _Space()
class _Config(dict):
    def update(self, values, **kwargs): dict.update(self, values)
config = _Config()
def init(**kwargs): told.append(("init", kwargs))
def log(metrics, **kwargs): told.append(("log", dict(metrics)))
def finish(): told.append(("finish", None))
"""


def test_a_tracker_is_told_of_every_step(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "trackio").mkdir()
    (tmp_path / "trackio" / "__init__.py").write_text(TRACKER)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "trackio", raising=False)
    train(str(base), EXAMPLES, tmp_path / "mine", SETTINGS.but(epochs=1, report_to=["trackio"]))
    told = sys.modules.pop("trackio").told
    (begun,) = [content for kind, content in told if kind == "init"]
    assert (begun["project"], begun["name"], begun["space_id"]) == ("persd", "mine", None)
    losses = [c["train/loss"] for kind, c in told if kind == "log" and "train/loss" in c]
    assert len(losses) == 2


def test_a_tracker_that_is_not_installed_is_told_before_weights_are_read(
    no_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("persd.train.watching.find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install wandb"):
        train(str(no_weights), EXAMPLES, tmp_path / "out", SETTINGS.but(report_to=["wandb"]))
