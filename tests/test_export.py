"""Data sets as files: read back by the libraries they are for, whole, with a card that adds up."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import test_screen
from conftest import make_task
from persd.config import to_json
from persd.domains.code import task_prompt
from persd.errors import UserError
from persd.examples import TaskRecord, build
from persd.export import export
from persd.export.formats import FORMATS, DataSet, write
from persd.export.of_run import build_run
from persd.export.pairs import Preference, pair
from persd.ledger import Ledger
from persd.progress import QUIET
from persd.records import Example, Kind, Solution, State, Task
from persd.sandbox import Sandbox
from play import CHAT_WRONG, Script, go, make_config, use

#: What the student says; all but ``good`` and ``shown`` fail in a way of their own.
STUDENT = {
    "bad": "    return a - b\n",
    "broken": "    return a +\n",
    "lost": "    return a + c\n",
    "raises": "    raise ValueError(a)\n",
    "empty": "",
    "chatty": "```python\ndef add(a):\n    return (\n```",
    "shown": "```python\ndef add(a, b):\n    return a + b\n\nassert add(1, 1) == 3\n```",
    "stubborn": "    return 0\n",
}
REPAIRED = [t for t in STUDENT if t != "stubborn"]
#: Attempts as completions of their prompts.
FAILED = {t: STUDENT[t] for t in ("bad", "broken", "lost", "raises")}
PROMPT = task_prompt(make_task())
SFT = [name for name, form in FORMATS.items() if not form.rejects]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return a_run(tmp_path_factory.mktemp("export"))


def a_run(folder: Path) -> Path:
    """A run of nine tasks: one solved, one refused, seven repaired."""
    with pytest.MonkeyPatch.context() as patch:
        use(patch, Script(STUDENT, {"stubborn": CHAT_WRONG}))
        states = go(make_config(folder), [make_task(t) for t in ("good", *STUDENT)])
    assert {t for t, s in states.items() if s.state == "refined"} == set(REPAIRED)
    assert (states["good"].state, states["stubborn"].state) == ("solved", "refused")
    return folder / "run"


def built(run: Path, variant: str, fmt: str, out: Path, **more: Any) -> dict[str, Any]:
    return build_run(run, variant, fmt, out, None, False, QUIET, **more)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]]


# ---- the formats, read back --------------------------------------------------------------------


def texts(fmt: str, row: Mapping[str, Any]) -> tuple[str, str]:
    """Prompt and completion of a row, whatever its format calls them."""
    if fmt in ("messages", "openai"):
        assert [m["role"] for m in row["messages"]] == ["user", "assistant"]
        asked, said = row["messages"]
        return asked["content"], said["content"]
    if fmt == "sharegpt":
        assert [m["from"] for m in row["conversations"]] == ["human", "gpt"]
        asked, said = row["conversations"]
        return asked["value"], said["value"]
    if fmt == "alpaca":
        assert row["input"] == ""
        return row["instruction"], row["output"]
    return row["prompt"], row["completion"]


def load(path: Path, fmt: str = "trl") -> Any:
    """The file as ``datasets`` reads it."""
    datasets = pytest.importorskip("datasets")
    reader = "parquet" if fmt == "parquet" else "json"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", path.parent / "cache")
        return datasets.load_dataset(
            reader, data_files=str(path), split="train", cache_dir=str(path.parent / "cache")
        )


@pytest.mark.parametrize("fmt", SFT)
def test_datasets_reads_every_row_back(run: Path, tmp_path: Path, fmt: str) -> None:
    found = built(run, "persd-combined", fmt, tmp_path / "data.set")
    assert found == {
        "examples": 2 * len(REPAIRED),
        "rejected": {},
        "path": str(tmp_path / "data.set"),
    }
    rows = list(load(tmp_path / "data.set", fmt))
    built(run, "persd-combined", "trl", tmp_path / "trl")
    expected = [(r["prompt"], r["completion"]) for r in lines(tmp_path / "trl")]
    assert [texts(fmt, row) for row in rows] == expected
    assert {c for _, c in expected} == {"    return a + b\n", "    return b + a\n"}


def test_openai_lines_hold_messages_and_nothing_else(run: Path, tmp_path: Path) -> None:
    built(run, "persd", "openai", tmp_path / "d")
    for row in lines(tmp_path / "d"):
        assert list(row) == ["messages"]
        assert all(list(m) == ["role", "content"] for m in row["messages"])


def test_rows_name_their_task_and_example(run: Path, tmp_path: Path) -> None:
    built(run, "persd", "trl", tmp_path / "d")
    rows = lines(tmp_path / "d")
    assert list(rows[0]) == ["prompt", "completion", "task_id", "example_id"]
    assert [r["task_id"] for r in rows] == REPAIRED
    with Ledger(run, create=False) as ledger:
        example = ledger.example(rows[0]["example_id"])
    assert example is not None
    assert (example.prompt, example.completion) == (rows[0]["prompt"], rows[0]["completion"])


ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"]))
NASTY = [
    "a\u2028b\u2029c\x85d\x0ce\x1cf",
    "\x00",
    "\r\n\r",
    "\ufeff",
    "😀\\u0041",
    '"',
    "",
    "2020-01-01",
]


def a_set(prompts: list[str], completions: list[str], rejected: list[str]) -> DataSet:
    examples = [
        Example(f"e{i}", "persd", f"t{i}", 1, p, c, "task")
        for i, (p, c) in enumerate(zip(prompts, completions, strict=True))
    ]
    pairs = [Preference(e, r) for e, r in zip(examples, rejected, strict=True)]
    return DataSet("persd", examples, preferences=pairs)


@pytest.mark.parametrize("fmt", FORMATS)
@settings(max_examples=40)
@given(st.lists(st.tuples(ANY_TEXT, ANY_TEXT, ANY_TEXT), min_size=1, max_size=4))
def test_any_text_survives_every_format(
    tmp_path_factory: pytest.TempPathFactory, fmt: str, drawn: list[tuple[str, str, str]]
) -> None:
    path = tmp_path_factory.getbasetemp() / f"any-{fmt}"
    write(a_set(*(list(column) for column in zip(*drawn, strict=True))), fmt, path)
    if fmt == "parquet":
        rows = pytest.importorskip("pyarrow.parquet").read_table(path).to_pylist()
    else:
        assert path.read_bytes().isascii()
        rows = lines(path)
    if fmt == "dpo":
        assert [(r["prompt"], r["chosen"], r["rejected"]) for r in rows] == drawn
    elif fmt == "kto":
        wanted = [(p, c, True) for p, c, _ in drawn] + [(p, r, False) for p, _, r in drawn]
        assert [(r["prompt"], r["completion"], r["label"]) for r in rows] == wanted
    else:
        assert [texts(fmt, r) for r in rows] == [(p, c) for p, c, _ in drawn]


@pytest.mark.parametrize("fmt", ["trl", "messages", "dpo", "parquet"])
def test_datasets_gives_nasty_text_back_as_it_was(tmp_path: Path, fmt: str) -> None:
    write(a_set(NASTY, NASTY, NASTY), fmt, tmp_path / "d")
    for row, text in zip(load(tmp_path / "d", fmt), NASTY, strict=True):
        if fmt == "dpo":
            assert [row[k] for k in ("prompt", "chosen", "rejected")] == [text] * 3
        else:
            assert texts(fmt, row) == (text, text)


# ---- preference pairs --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def box() -> Iterator[Sandbox]:
    with Sandbox(workers=1) as opened:
        yield opened


def test_a_pair_is_a_verified_answer_and_the_failed_attempt(run: Path, tmp_path: Path) -> None:
    found = built(run, "persd", "dpo", tmp_path / "d")
    assert found["pairs"] == len(FAILED)
    assert found["unpaired"] == {"no_code": 1, "passed": 1, "unparsable": 1}
    assert found["pairs"] + sum(found["unpaired"].values()) == found["examples"]
    rows = lines(tmp_path / "d")
    assert {r["task_id"]: r["rejected"] for r in rows} == FAILED
    assert {(r["prompt"], r["chosen"]) for r in rows} == {(PROMPT, "    return b + a\n")}
    assert list(rows[0]) == ["prompt", "chosen", "rejected", "task_id", "example_id"]


def test_both_forms_of_a_variant_have_their_pairs(run: Path, tmp_path: Path) -> None:
    found = built(run, "persd-combined", "dpo", tmp_path / "d")
    rows = lines(tmp_path / "d")
    assert found["pairs"] == len(rows) == 2 * len(FAILED)
    refine = [r for r in rows if r["prompt"] != PROMPT]
    assert {r["task_id"]: r["rejected"] for r in refine} == FAILED
    assert all(r["prompt"].endswith(PROMPT) and r["chosen"] != r["rejected"] for r in rows)


def test_a_variant_of_solved_tasks_leaves_them_out_by_name(run: Path, tmp_path: Path) -> None:
    found = built(run, "stand", "dpo", tmp_path / "d")
    assert found["unpaired"] == {"no_code": 1, "same": 1, "solved": 1, "unparsable": 1}
    assert {r["task_id"] for r in lines(tmp_path / "d")} == {*FAILED, "stubborn"}


def test_kto_labels_answers_passing_and_failing_attempts(run: Path, tmp_path: Path) -> None:
    found = built(run, "persd", "kto", tmp_path / "d")
    rows = lines(tmp_path / "d")
    said = {label: {r["task_id"] for r in rows if r["label"] is label} for label in (True, False)}
    assert said == {True: {*REPAIRED, "good"}, False: set(FAILED)}
    assert len(rows) == found["examples"] + 1 + found["pairs"]
    (replayed,) = [r for r in rows if r["task_id"] == "good"]
    assert (replayed["prompt"], replayed["completion"]) == (PROMPT, "    return a + b\n")
    built(run, "persd-refine", "kto", tmp_path / "d")
    assert "good" not in {r["task_id"] for r in lines(tmp_path / "d")}
    built(run, "stand", "kto", tmp_path / "d")  # its answer and the attempt are the same text
    assert [r["task_id"] for r in lines(tmp_path / "d")].count("good") == 1


def test_the_same_run_gives_the_same_bytes(run: Path, tmp_path: Path) -> None:
    for fmt in ("kto", "parquet"):
        for name in ("one", "two"):
            built(run, "persd", fmt, tmp_path / name)
        assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
        one, two = ((tmp_path / f"{name}.md").read_text() for name in ("one", "two"))
        assert one == two


def test_without_a_pair_nothing_is_written_and_it_is_said_why(run: Path, tmp_path: Path) -> None:
    for fmt in ("dpo", "kto"):
        with pytest.raises(UserError, match=r"replay has no failed attempt.*1 solved"):
            built(run, "replay", fmt, tmp_path / "d")
    assert list(tmp_path.iterdir()) == []


def a_record(state: State, attempt: str | None, task: Task | None = None) -> TaskRecord:
    task = task or make_task()

    def solution(kind: Kind, code: str) -> Solution:
        return Solution(f"{kind}-{state}", task.task_id, kind, "somebody", 1, code, code)

    return TaskRecord(
        task=task,
        attempt=None if attempt is None else solution("attempt", attempt),
        feedback="",
        direct=solution("direct", "def add(a, b):\n    return a + b\n"),
        refinement=solution("refinement", "def add(a, b):\n    return a + b\n"),
        state=state,
        round=1,
    )


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (a_record("over_budget", None), "no_attempt"),
        (a_record("refused", "def add(a, b):\n"), "no_code"),
        (a_record("refused", "def add(a, b):\n    return '\ud800'\n"), "unparsable"),
        (a_record("refused", "def add(x, y):\n    return lost(x)\n"), "undefined_names"),
        (a_record("refused", "def add():\n    return 0\n"), "signature"),
        (a_record("refused", "def add(a, b):\n    return b + a\n"), "passed"),
        (a_record("refused", "def add(a, b):\n    return a + b\n"), "same"),
    ],
)
def test_what_is_no_failed_attempt_has_a_name(
    box: Sandbox, record: TaskRecord, reason: str
) -> None:
    examples, _ = build("stand", [record], box)
    assert len(examples) == 1
    found, alone = pair(examples, [record], box)
    assert found == []
    assert [(r.task_id, r.form, r.reason) for r in alone] == [("add", "task", reason)]


def test_what_nobody_can_judge_is_not_rejected(box: Sandbox) -> None:
    record = a_record("untested", "def add(a, b):\n    return 0\n", make_task(tests=()))
    examples, _ = build("persd", [record], box, include_untested=True)
    assert [r.reason for r in pair(examples, [record], box)[1]] == ["untested"]


def test_an_attempt_of_another_round_is_not_taken(box: Sandbox) -> None:
    first = a_record("refined", "def add(a, b):\n    return 1\n")
    second = replace(a_record("refined", "def add(a, b):\n    return 2\n"), round=2)
    examples = [e for r in (first, second) for e in build("persd", [r], box)[0]]
    found, alone = pair(examples, [second, first], box)
    assert [(p.example.round, p.rejected) for p in found] == [
        (1, "    return 1\n"),
        (2, "    return 2\n"),
    ]
    assert alone == []


# ---- trainers take them ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A checkpoint of random weights."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("trl")
    import tiny

    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("student") / "tiny"
    return str(tiny.checkpoint(folder, hidden=16, layers=1, context=512, spread=0.02))


STEP: Mapping[str, Any] = {
    "max_steps": 1,
    "per_device_train_batch_size": 2,
    "report_to": "none",
    "use_cpu": True,
    "bf16": False,
    "gradient_checkpointing": False,
    "learning_rate": 1e-2,
    "disable_tqdm": True,
}


def one_step(trainer: Any) -> float:
    """Train a step; the loss. What was trained is not what it was."""
    import torch

    before = [p.detach().clone() for p in trainer.model.parameters()]
    loss = trainer.train().training_loss
    assert any(
        not torch.equal(a, b) for a, b in zip(before, trainer.model.parameters(), strict=True)
    )
    return float(loss)


@pytest.mark.parametrize("fmt", ["trl", "messages", "sharegpt"])
def test_trl_trains_on_pairs(run: Path, tmp_path: Path, student: str, fmt: str) -> None:
    from trl import SFTConfig, SFTTrainer

    built(run, "persd", fmt, tmp_path / "d")
    config = SFTConfig(output_dir=str(tmp_path / "out"), max_length=None, **STEP)
    rows = load(tmp_path / "d")
    trainer = SFTTrainer(student, config, train_dataset=rows)
    read = trainer.processing_class.decode(trainer.train_dataset[0]["input_ids"])
    assert PROMPT in read
    assert "    return b + a\n" in read
    assert one_step(trainer) > 0


def test_a_dpo_step_prefers_the_answer_to_the_attempt(
    run: Path, tmp_path: Path, student: str
) -> None:
    from trl import DPOConfig, DPOTrainer

    built(run, "persd", "dpo", tmp_path / "d")
    config = DPOConfig(output_dir=str(tmp_path / "out"), max_length=None, **STEP)
    rows = load(tmp_path / "d")
    trainer = DPOTrainer(student, args=config, train_dataset=rows)
    # before a step the student is its own reference: -log sigmoid(0)
    assert one_step(trainer) == pytest.approx(0.6931, abs=1e-3)


def test_a_kto_step_runs(run: Path, tmp_path: Path, student: str) -> None:
    trl = pytest.importorskip("trl")
    if not hasattr(trl, "KTOTrainer"):
        pytest.skip("this trl has no KTOTrainer of its own")
    built(run, "persd", "kto", tmp_path / "d")
    config = trl.KTOConfig(output_dir=str(tmp_path / "out"), max_length=None, **STEP)
    rows = load(tmp_path / "d")
    assert set(rows["label"]) == {True, False}
    trainer = trl.KTOTrainer(student, args=config, train_dataset=rows)
    assert one_step(trainer) > 0


# ---- the card ----------------------------------------------------------------------------------


def card_of(path: Path) -> tuple[dict[str, Any], str]:
    """The YAML at a card's head, and its text."""
    text = path.with_name(f"{path.name}.md").read_text(encoding="utf-8")
    hub = pytest.importorskip("huggingface_hub")
    return hub.DatasetCard(text).data.to_dict(), text


def cells(text: str) -> dict[str, list[str]]:
    """A card's tables: what stands right of the first cell, by the first cell."""
    rows = [r.strip("| ").split(" | ") for r in text.splitlines() if r.startswith("|")]
    return {first: rest for first, *rest in rows}


def test_the_card_is_one_the_hub_reads(run: Path, tmp_path: Path) -> None:
    built(run, "persd", "trl", tmp_path / "d", license="Apache-2.0")
    head, text = card_of(tmp_path / "d")
    assert head["license"] == "apache-2.0"
    assert head["language"] == ["code", "en"]
    assert head["task_categories"] == ["text-generation"]
    assert head["size_categories"] == ["n<1K"]
    assert "configs" not in head
    assert "`apache-2.0`" in text
    built(run, "persd", "trl", tmp_path / "d")
    head, text = card_of(tmp_path / "d")
    assert head["license"] == "unknown"
    assert "terms of a teacher's provider may restrict" in text


def test_the_card_counts_as_the_run_does(run: Path, tmp_path: Path) -> None:
    found = built(run, "persd", "dpo", tmp_path / "d")
    _, text = card_of(tmp_path / "d")
    table = cells(text)
    assert table["rows"] == table["examples with a failed attempt"] == [str(found["pairs"])]
    assert table["examples"] == table["tasks"] == [str(found["examples"])]
    states = {s: int(table[s][-1]) for s in ("solved", "refused", "refined")}
    assert states == {"solved": 1, "refused": 1, "refined": 7}
    assert int(table["all"][-1]) == sum(states.values())
    for reason, n in found["unpaired"].items():
        assert f"- {reason}: {n}" in text
    assert sha256((tmp_path / "d").read_bytes()).hexdigest() in text
    assert table["tasks with a verified repair"] == ["7"]
    assert table["paid"] == ["0 USD"]
    assert table["seed"] == ["0"]
    assert table["attempts by"] == ["`student student`"]
    assert table["direct answers by"] == ["`reference` (the tasks' own programs)"]
    assert table["repairs by"] == ["`teacher scripted:teacher`"]


def test_the_card_tells_names_but_no_paths_and_no_addresses(run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "secret-folder" / "run"
    copy.mkdir(parents=True)
    (copy / "ledger.sqlite").write_bytes((run / "ledger.sqlite").read_bytes())
    with Ledger(copy) as ledger:
        config = json.loads(ledger.meta("config") or "")
        config["teacher"][0]["base_url"] = "https://secret.example/v1"
        config["tasks"]["path"] = "/home/secret-me/tasks.jsonl"
        ledger.set_meta("config", json.dumps(config))
        ledger.query(
            "UPDATE solutions SET author = '/home/secret-me/models/my|stu`dent' "
            "WHERE kind = 'attempt'"
        )
    built(copy, "persd", "trl", tmp_path / "d")
    _, text = card_of(tmp_path / "d")
    assert "secret" not in text
    assert str(tmp_path) not in text
    assert "`tasks.jsonl`" in cells(text)["tasks from"][0]
    assert cells(text)["attempts by"] == ["`my stu dent`"]


def test_the_card_says_what_the_tasks_were_held_against(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, Script(test_screen.STUDENT, test_screen.TEACHER))
    config = test_screen.make_config(tmp_path)
    go(config, test_screen.TASKS)
    built(tmp_path / "run", "replay", "trl", tmp_path / "d")
    _, text = card_of(tmp_path / "d")
    assert "Held against `held-out.jsonl`. Tasks kept out before anybody was asked" in text
    assert "about them: 1;" in text
    assert [cells(text)[s][-1] for s in ("contaminated", "solved", "refined")] == ["1"] * 3
    assert str(tmp_path) not in text
    with Ledger(tmp_path / "run") as ledger:
        free = test_screen.make_config(tmp_path, tasks={"decontaminate": False})
        ledger.set_meta("config", to_json(free))
    built(tmp_path / "run", "replay", "trl", tmp_path / "d")
    assert "Not screened: the run was told not to" in card_of(tmp_path / "d")[1]


def test_a_licence_that_is_none_is_refused_before_anything_is_done(
    run: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"apache-2\.0, mit"):
        built(run, "persd", "trl", tmp_path / "d", license="mine\ntags: [x]")
    assert list(tmp_path.iterdir()) == []


# ---- files -------------------------------------------------------------------------------------

ONE = a_set(["p"], ["c"], ["r"])


def test_an_empty_set_is_a_file_of_no_rows(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    export(DataSet("persd", []), "parquet", tmp_path / "d")
    assert parquet.read_table(tmp_path / "d").num_rows == 0
    export(DataSet("persd", []), "trl", tmp_path / "d")
    assert (tmp_path / "d").read_bytes() == b""


def test_nothing_is_left_beside_the_file_and_its_card(tmp_path: Path) -> None:
    export(ONE, "trl", tmp_path / "deep" / "data.set")
    assert sorted(p.name for p in (tmp_path / "deep").iterdir()) == ["data.set", "data.set.md"]


def test_parquet_without_its_package_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UserError, match=r"persd\[train\]"):
        export(ONE, "parquet", tmp_path / "d")
    assert list(tmp_path.iterdir()) == []


def test_a_write_that_fails_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "d.jsonl"
    path.write_text("old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("os.fsync", full)
        with pytest.raises(UserError, match="No space left"):
            export(ONE, "trl", path)
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["d.jsonl"]


def test_a_bad_path_format_or_variant_is_a_user_error(run: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        built(run, "persd", "trl", tmp_path / "file" / "below")
    with pytest.raises(UserError, match=r"trl, messages, openai, .*, dpo, kto"):
        built(run, "persd", "csv", tmp_path / "d")
    with pytest.raises(UserError, match="persd-combined, replay"):
        built(run, "perds", "trl", tmp_path / "d")
    with pytest.raises(UserError, match="--push OWNER/NAME"):
        built(run, "persd", "trl", tmp_path / "d", private=True)
