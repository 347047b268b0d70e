"""Each family from attempt to score: a tiny random model of its architecture, its own tokenizer."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("trl")

import torch

import families
import tiny
from persd.cli import main
from persd.config import Config, TrainTable
from persd.errors import UserError
from persd.loop import run_all
from persd.models.checkpoint import find, load_config, load_tokenizer
from persd.models.families import OTHER, advice, end_tokens, family_of, positions, usual_api
from persd.models.local import LocalModel
from persd.pool.of_run import load_pool
from persd.records import Example, Message
from persd.run import Run
from persd.tokens import Api, LossyText, completion_ids, prompt_ids
from persd.train import train
from persd.train.rows import encode_one

REPAIRS = {
    "add": "def add(a, b):\n    return a + b\n",
    "clip": "def clip(x):\n    if x > 2:\n        return 2\n    return x\n",
    "both": "def both(x):\n    for y in [x, 2 * x]:\n        if y > 4:\n            return y\n"
    "    return 0\n",
}
TASKS = [
    ("add", "def add(a, b):\n", [("add(1, 2)", "3"), ("add(0, 5)", "5")]),
    ("clip", "def clip(x):\n", [("clip(5)", "2"), ("clip(1)", "1")]),
    ("both", "def both(x):\n", [("both(3)", "6"), ("both(1)", "0")]),
]


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Every family's checkpoint."""
    where = tmp_path_factory.mktemp("families")
    return {name: make(where / name) for name, (make, _) in families.MAKERS.items()}


def config_of(folder: Path, student: Path, **keys: Any) -> Config:
    """A run on three tasks whose teacher knows the repairs, scored on the same tasks."""
    tasks, teacher = folder / "tasks.jsonl", folder / "teacher.jsonl"
    rows: list[dict[str, Any]] = [
        {
            "task_id": name,
            "instruction": "",
            "entry_point": name,
            "header": header,
            "tests": [{"call": call, "expected": value} for call, value in tests],
            "reference": REPAIRS[name],
        }
        for name, header, tests in TASKS
    ]
    tasks.write_text("".join(json.dumps(row) + "\n" for row in rows))
    said = [
        {"task_id": name, "purpose": "refinement", "text": f"```python\n{repair}```"}
        for name, repair in REPAIRS.items()
    ]
    teacher.write_text("".join(json.dumps(row) + "\n" for row in said))
    return Config.model_validate(
        {
            "run": {"dir": str(folder / "run"), "variants": ["persd"]},
            "tasks": {"source": "jsonl", "path": str(tasks), "decontaminate": False},
            "student": {"model": str(student), "max_tokens": 60, **keys},
            "teacher": {"model": f"scripted:{teacher}"},
            "train": {"epochs": 55, "lr": 1e-2, "batch_size": 4, "warmup_ratio": 0.1},
            "evaluate": {
                "benchmarks": [str(tasks)],
                "samples": 1,
                "k": [1],
                "temperature": 0.0,
                "max_tokens": 60,
            },
            "verify": {"workers": 1, "timeout": 0.5, "memory_mb": 128},
        }
    )


def generated(local: LocalModel, prompt: Sequence[int], limit: int) -> list[int]:
    """What ``generate`` continues one prompt with, without the end token."""
    loaded = local.load()
    ends = sorted(loaded.ends)
    out: list[int] = loaded.model.generate(
        torch.tensor([list(prompt)]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
        max_new_tokens=limit,
        do_sample=False,
        eos_token_id=ends,
        pad_token_id=ends[0],
    )[0, len(prompt) :].tolist()
    return out[:-1] if out[-1] in ends else out


@pytest.mark.parametrize("name", families.MAKERS)
def test_from_attempt_to_score(name: str, made: dict[str, Path], tmp_path: Path) -> None:
    api: Any = families.MAKERS[name][1]
    trust = name == "xgen"
    config = config_of(tmp_path, made[name], api=api, trust_remote_code=trust)
    with Run(config) as run:
        load_pool(run)
        run_all(run)
        scores = {e.model: e.pass_at_k.get("1") for e in run.ledger.evaluations()}
        (checkpoint,) = run.ledger.checkpoints()
        states = {s.state for s in run.ledger.states(1).values()}
    assert states == {"refined"}
    assert scores.pop("persd") == 1.0  # indents, the end token and all were learnt
    assert not any(scores.values())  # the base's replies are wrong, or never end
    local = LocalModel(checkpoint.path, api=api, device="cpu", threads=1, trust_remote_code=trust)
    check_sampling(local, api)


def check_sampling(local: LocalModel, api: Api) -> None:
    """Prompts as they were trained on, replies as ``generate`` gives them, ended by the model."""
    loaded = local.load()
    asked = [header for _, header, _ in TASKS]
    done = local.complete([tiny.request(p, max_tokens=60) for p in asked])
    for prompt, reply, repair in zip(asked, done, REPAIRS.values(), strict=True):
        body = repair.removeprefix(prompt)
        row = encode_one(loaded.tokenizer, prompt, body, api)
        assert row.prompt == prompt_ids(loaded.tokenizer, (Message("user", prompt),), api)
        assert row.completion[-1] in loaded.ends
        assert (reply.text, reply.finish) == (body, "stop")
        assert reply.usage.output_tokens == len(generated(local, row.prompt, 60))


@pytest.mark.parametrize("name", ["qwen2.5-coder-instruct", "qwen3", "llama-3"])
def test_greedy_equals_generate_in_both_forms(name: str, made: dict[str, Path]) -> None:
    forms: tuple[Api, ...] = ("chat", "completions")
    for api in forms:
        local = LocalModel(str(made[name]), api=api, device="cpu", threads=1)
        request = tiny.request("def add(a, b):\n", max_tokens=30)
        (reply,) = local.complete([request])
        loaded = local.load()
        expected = generated(local, prompt_ids(loaded.tokenizer, request.messages, api), 30)
        assert reply.usage.output_tokens == len(expected)


FAMILY_NAMES = {
    "codegen": "CodeGen",
    "starcoder": "StarCoder",
    "starcoder2": "StarCoder2",
    "qwen2.5-coder": "Qwen2.5-Coder",
    "qwen2.5-coder-instruct": "Qwen2.5-Coder",
    "qwen3": "Qwen3, Qwen3-Coder",
    "qwen3-coder": "Qwen3, Qwen3-Coder",
    "llama-2": "Llama, CodeLlama",
    "code-llama": "Llama, CodeLlama",
    "llama-3": "Llama, CodeLlama",
    "xgen": "XGen, CodeGen2.5",
}


def opened(folder: Path) -> tuple[Any, Any]:
    """Configuration and tokenizer of a checkpoint whose code is trusted."""
    source = find(str(folder), trust_remote_code=True)
    return load_config(source), load_tokenizer(source)


def test_families_are_known_by_configuration_and_tokenizer(made: dict[str, Path]) -> None:
    assert {name: family_of(*opened(made[name])).name for name in made} == FAMILY_NAMES


def test_an_unknown_family_adds_nothing() -> None:
    from transformers import GPT2Config

    tok = tiny.tokenizer()
    assert family_of(GPT2Config(), tok) is OTHER
    assert end_tokens(OTHER, tok, "completions") == frozenset()


ENDS = {
    "codegen": {"<|endoftext|>"},
    "starcoder": {"<|endoftext|>", "<filename>", "<gh_stars>", "<reponame>"},
    "starcoder2": {"<|endoftext|>", "<repo_name>", "<file_sep>"},
    "qwen2.5-coder": {"<|endoftext|>", "<|im_end|>", "<|repo_name|>", "<|file_sep|>"},
    "llama-2": {"</s>"},
    "llama-3": {"<|end_of_text|>", "<|eot_id|>"},
    "xgen": {"<|endoftext|>"},
}


@pytest.mark.parametrize("name", ENDS)
def test_a_reply_ends_at_the_familys_ends(name: str, made: dict[str, Path]) -> None:
    local = LocalModel(str(made[name]), device="cpu", trust_remote_code=True)
    loaded = local.load()
    assert {loaded.tokenizer.convert_ids_to_tokens(i) for i in loaded.ends} == ENDS[name]


def test_the_chat_form_also_ends_where_the_template_closes_a_turn() -> None:
    """Whatever its family, and though the checkpoint names another token."""
    tok = tiny.tokenizer()
    tok.add_special_tokens({"additional_special_tokens": ["<|over|>"]})
    tok.chat_template = tiny.CHAT_TEMPLATE.replace("<|end|>", "<|over|>")
    over = tok.convert_tokens_to_ids("<|over|>")
    assert end_tokens(OTHER, tok, "chat") == {over}
    assert end_tokens(OTHER, tok, "completions") == frozenset()


def test_the_usual_form_is_told_where_another_is_chosen(made: dict[str, Path]) -> None:
    for name, (_, usual) in families.MAKERS.items():
        _, tok = opened(made[name])
        assert usual_api(tok) == usual
        assert advice(tok, usual) == ""
    _, base = opened(made["qwen2.5-coder"])
    assert "likely a base model" in advice(base, "chat")
    _, chat = opened(made["qwen3"])
    assert "chat model" in advice(chat, "completions")


def test_a_model_asked_otherwise_than_usual_says_so(
    made: dict[str, Path], caplog: pytest.LogCaptureFixture
) -> None:
    LocalModel(str(made["qwen3"]), device="cpu", name="mine").load()
    assert "mine: it is a chat model" in caplog.text
    caplog.clear()
    LocalModel(str(made["qwen3"]), api="chat", device="cpu").load()
    assert not caplog.text


def test_a_model_that_can_think_is_asked_not_to(made: dict[str, Path]) -> None:
    _, tok = opened(made["qwen3"])
    text = tok.decode(prompt_ids(tok, (Message("user", "Add."),), "chat"))
    assert text.endswith("<|im_start|>assistant\n<think>\n\n</think>\n\n")


def test_a_model_that_must_think_is_refused(tmp_path: Path) -> None:
    folder = families.qwen3(tmp_path / "thinking", families.THINKING_TEMPLATE)
    with pytest.raises(UserError, match="has the model think first"):
        LocalModel(str(folder), api="chat", device="cpu").complete([tiny.request("x")])


def test_a_template_that_names_the_day_names_always_the_same(made: dict[str, Path]) -> None:
    _, tok = opened(made["llama-3"])
    text = tok.decode(prompt_ids(tok, (Message("user", "Add."),), "chat"))
    assert "Today Date: 26 Jul 2024<" in text


def test_code_goes_through_every_tokenizer_or_is_refused(made: dict[str, Path]) -> None:
    code = "\tif a:\n" + "".join(f"{' ' * n}x = {n}\n" for n in range(1, 40)) + "\n\n  \n# ∑ é\n"
    for name in made:
        _, tok = opened(made[name])
        prompt = prompt_ids(tok, (Message("user", "def f(a):\n"),), "completions")
        ids = completion_ids(tok, prompt, code)
        assert tok.decode(ids[:-1], skip_special_tokens=True).lstrip() == code.lstrip()


def test_text_that_a_family_rewrites_is_refused(made: dict[str, Path]) -> None:
    """Qwen's tokenizer composes characters."""
    _, tok = opened(made["qwen2.5-coder"])
    with pytest.raises(LossyText, match="reads back differently"):
        completion_ids(tok, [5], "    return 'e\u0301'\n")


def test_a_tokenizer_that_merges_spaces_is_refused_before_training(tmp_path: Path) -> None:
    from test_tokens import merging

    folder = tiny.checkpoint(tmp_path / "merging", tok=merging())
    (folder / "model.safetensors").write_bytes(b"not even read")
    rows = [Example("e0", "persd", "t", 1, "def f(x):\n", "    return x\n", "task")]
    with pytest.raises(UserError, match=r"e0: .*reads back differently"):
        train(str(folder), rows, tmp_path / "out", TrainTable())
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("kind", "scaling", "expected"),
    [
        ("Llama", None, 4096),
        ("Llama", {"rope_type": "linear", "factor": 4.0}, 4096),  # may be counted already
        ("Llama", {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 4096}, 16384),
        ("Llama", {"type": "yarn", "factor": 2.0, "original_max_position_embeddings": 2048}, 4096),
        (
            "Llama",
            {
                "rope_type": "llama3",
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 1024,
            },
            4096,
        ),
    ],
)
def test_positions_of_stretched_embeddings(kind: str, scaling: Any, expected: int) -> None:
    from transformers import LlamaConfig

    assert positions(LlamaConfig(max_position_embeddings=4096, rope_scaling=scaling)) == expected


# -- code of the repository -----------------------------------------------------------------------


def test_a_repositorys_code_is_not_run_unless_trusted(
    made: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = config_of(tmp_path, made["xgen"])
    args = ["evaluate", str(made["xgen"]), "--benchmark", config.tasks.path or "", "--samples", "1"]
    args += ["--temperature", "0", "--max-tokens", "8", "--out", str(tmp_path / "out")]
    monkeypatch.setattr("sys.argv", ["persd", *args])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert "is not run" in said
    assert "trust" in said
    monkeypatch.setattr("sys.argv", ["persd", *args, "--trust-remote-code", "--json"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code in (0, None)
    (row,) = json.loads(capsys.readouterr().out)["rows"]
    assert row["statuses"]


BROKEN = {
    "no_such_package": f"import no_such_package\n{families.XGEN_CODE}",
    # what was written for an older transformers sets up too late
    "no attribute .*runs.*version of transformers": families.XGEN_CODE.replace(
        "self.runs = ", "later = "
    ),
}


@pytest.mark.parametrize("said", BROKEN)
def test_code_that_fails_is_told_in_one_line(said: str, tmp_path: Path) -> None:
    folder = families.xgen(tmp_path / "broken", BROKEN[said])
    with pytest.raises(UserError, match=said) as caught:
        LocalModel(str(folder), device="cpu", trust_remote_code=True).load()
    assert "\n" not in caught.value.one_line()


def test_revision_and_trust_reach_the_loader(monkeypatch: pytest.MonkeyPatch) -> None:
    from persd.config import StudentTable
    from persd.evaluating import Settings, subject_of
    from persd.models import local, open_model

    given: dict[str, Any] = {}
    monkeypatch.setattr(local, "LocalModel", lambda model, **k: given.update(k, model=model))
    told = {"revision": "v2", "trust_remote_code": True}
    spec = StudentTable(model="ours/tiny", revision="v2", trust_remote_code=True)
    open_model(spec, "student", box=pytest.fail, tasks=list)
    assert told.items() <= given.items()
    open_model(StudentTable(model="lab"), "student", box=pytest.fail, tasks=list)
    assert (given["revision"], given["trust_remote_code"]) == (None, False)
    settings = Settings(benchmarks=["lab"], endpoint=told)
    subject = subject_of("ours/tiny", settings).endpoint
    other = subject_of("ours/other", settings, is_other=True).endpoint
    assert subject is not None
    assert other is not None
    assert (subject.revision, other.revision) == ("v2", None)
    assert subject.trust_remote_code
    assert other.trust_remote_code
