"""The lab family, its corpus and the checkpoint that ships."""

from __future__ import annotations

import hashlib
import json
import random
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import persd.lab
from persd.domains.code import refine_prompt, task_prompt
from persd.errors import UserError
from persd.lab import family
from persd.lab.corpus import Mix, rows
from persd.lab.steps import STEPS
from persd.records import Message, Request, Task, from_json, to_json
from persd.sandbox import Sandbox
from persd.tasks import lab
from persd.verify import Job, verify

STUDENT = Path(persd.lab.__file__).parent / "student"
STYLES: tuple[family.Style, ...] = ("loop", "chain", "nested")
SPLITS: tuple[family.Split, ...] = ("pretrain", "pool", "heldout", "validation")


def signatures(tasks: list[Task]) -> set[str]:
    return {family.signature(chain) for t in tasks if (chain := family.chain_of(t))}


def draw(seed: int) -> family.Chain:
    rng = random.Random(seed)
    return family.draw_chain(rng, rng.randint(1, 4))


# ---- tasks ------------------------------------------------------------------------------------


def test_same_seed_same_tasks_and_a_smaller_count_is_a_prefix() -> None:
    tasks = lab.load(count=40, seed=3)
    assert lab.load(count=40, seed=3) == tasks
    assert lab.load(count=15, seed=3) == tasks[:15]
    assert lab.load(count=15, seed=4) != tasks[:15]
    assert len({t.task_id for t in tasks}) == 40


def test_splits_share_no_signature() -> None:
    mix = {2: 0.5, 3: 0.5}
    drawn = [signatures(lab.load(count=150, seed=1, split=s, mix=mix)) for s in SPLITS]
    assert sum(map(len, drawn)) == len(set.union(*drawn))
    # no seed moves a chain from one split to another
    again = signatures(lab.load(count=150, seed=2, split="heldout", mix=mix))
    assert not again & (drawn[0] | drawn[1] | drawn[3])


def test_a_mix_is_kept_to_by_every_prefix() -> None:
    steps = [t.meta["difficulty"] for t in lab.load(count=50, seed=0, split="heldout")]
    assert [steps.count(n) for n in (2, 3, 4)] == [10, 30, 10]
    assert [steps[:10].count(n) for n in (2, 3, 4)] == [2, 6, 2]


@pytest.mark.parametrize("mix", [{}, {5: 1.0}, {2: -1.0, 3: 2.0}, {2: 0.0}])
def test_a_mix_that_is_none_is_refused(mix: dict[int, float]) -> None:
    with pytest.raises(UserError, match="mix"):
        lab.load(count=3, seed=0, mix=mix)


def test_a_split_without_such_tasks_says_so() -> None:
    with pytest.raises(UserError, match="no more tasks of 1 step"):
        lab.load(count=1, seed=0, split="pool", mix={1: 1.0})


def test_tasks_survive_json_and_keep_their_chain() -> None:
    for task in lab.load(count=10, seed=5):
        back = from_json(Task, to_json(task))
        assert back == task
        chain = family.chain_of(back)
        assert chain
        assert family.program(chain, "chain") == task.reference
        assert family.header(chain) == task.header


def test_every_style_of_every_task_passes_and_stubs_fail() -> None:
    tasks = lab.load(count=30, seed=7, split="validation")
    right, wrong = [], []
    for task in tasks:
        chain = family.chain_of(task)
        assert chain
        right += [Job("r", task, family.program(chain, style), tests=t) for style in STYLES
                  for t in ("hidden", "seen")]  # fmt: skip
        argument = family.PARAMETER[chain[0].step.source]
        stubs = (argument, "None", task.tests[0].expected)
        wrong += [Job("s", task, f"{task.header}    return {stub}\n") for stub in stubs]
        assert len({t.expected for t in task.tests}) >= 3
        assert len(task.tests) >= 8
        assert len(task.seen_tests) >= 3
        assert not {t.call for t in task.tests} & {t.call for t in task.seen_tests}
    with Sandbox(workers=2) as box:
        assert {v.status for v in verify(box, right)} == {"passed"}
        assert {v.status for v in verify(box, wrong)} <= {"failed", "error"}


def test_tests_notice_a_lost_step() -> None:
    for task in lab.load(count=40, seed=11, mix={3: 1.0}):
        chain = family.chain_of(task)
        assert chain
        for i, link in enumerate(chain):
            if link.step.source == link.step.target:
                shorter = chain[:i] + chain[i + 1 :]
                values = [repr(family.run(shorter, argument(t.call))) for t in task.tests]
                assert values != [t.expected for t in task.tests]


def argument(call: str) -> Any:
    import ast

    tree = ast.parse(call, mode="eval").body
    assert isinstance(tree, ast.Call)
    return ast.literal_eval(tree.args[0])


@given(st.integers(0, 10**6))
@settings(max_examples=60, deadline=None)
def test_chains_fit_and_are_worded_whole(seed: int) -> None:
    chain = draw(seed)
    for before, after in pairwise(chain):
        assert before.step.target == after.step.source
    text = family.instruction(random.Random(seed), chain)
    assert "{" not in text
    for link in chain:
        worded = [link.fill(t) for t in link.step.texts]
        assert any(w.lower() in text.lower() for w in worded)
    for style in STYLES:
        compile(family.program(chain, style), "<lab>", "exec")


def test_every_step_says_the_same_in_all_styles() -> None:
    jobs = []
    for seed, step in enumerate(STEPS.values()):
        rng = random.Random(seed)
        chain = (family.Link(step, family.draw_params(rng, step)),)
        task = family.make_task(chain, step.name, "pretrain")
        if task is not None:
            jobs += [Job(step.name, task, family.program(chain, s)) for s in STYLES]
    assert len({j.solution_id for j in jobs}) > 0.9 * len(STEPS)
    with Sandbox(workers=2) as box:
        assert [v.solution_id for v in verify(box, jobs) if not v.passed] == []


# ---- the corpus and the checkpoint ------------------------------------------------------------


def test_the_corpus_is_deterministic_and_of_the_pretraining_split() -> None:
    first = list(islice(rows(0, Mix()), 400))
    assert first == list(islice(rows(0, Mix()), 400))
    refinements = [p for p, _ in first if "CODE:" in p]
    assert 5 <= len(refinements) <= 50
    held = {task_prompt(t) for t in lab.load(count=200, seed=0, split="heldout")}
    assert not held & {p for p, _ in first}


def test_the_student_is_small_and_what_its_manifest_says() -> None:
    manifest = json.loads((STUDENT / "manifest.json").read_text())
    assert sum(f.stat().st_size for f in STUDENT.iterdir()) < 4_000_000
    for name, digest in manifest["sha256"].items():
        assert hashlib.sha256((STUDENT / name).read_bytes()).hexdigest() == digest
    assert manifest["settings"]["seed"] == 0
    assert min(manifest["data"]["loss_by_step"].values()) < 0.1


def test_the_student_was_trained_on_the_family_and_prompts_of_this_version() -> None:
    from persd.lab.pretrain import Settings, fingerprint

    manifest = json.loads((STUDENT / "manifest.json").read_text())
    known = manifest["settings"]
    mix: dict[str, Any] = {
        k: tuple(v) if isinstance(v, list) else v for k, v in known["mix"].items()
    }
    made_with = Settings(**{**known, "mix": Mix(**mix)})
    assert made_with == Settings(), "the defaults changed: run python -m persd.lab.pretrain"
    assert manifest["corpus"] == fingerprint(made_with), "run python -m persd.lab.pretrain"


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    transformers = pytest.importorskip("transformers")
    return transformers.AutoTokenizer.from_pretrained(STUDENT)


def test_the_tokenizer_gives_every_prompt_back_and_knows_no_seam(tokenizer: Any) -> None:
    for task in lab.load(count=40, seed=2):
        chain = family.chain_of(task)
        assert chain
        attempt = family.program(chain, "loop")
        for prompt in (task_prompt(task), refine_prompt(task, attempt, "ERROR: IndexError: x")):
            for style in STYLES:
                body = family.body(chain, style)
                apart = tokenizer(prompt)["input_ids"] + tokenizer(body)["input_ids"]
                assert tokenizer(prompt + body)["input_ids"] == apart
                assert tokenizer.decode(apart) == prompt + body
                assert len(apart) < 1024


@given(text=st.text(max_size=60))
@settings(max_examples=60, deadline=None)
def test_the_tokenizer_is_lossless(tokenizer: Any, text: str) -> None:
    plain = text.encode("utf-8", "ignore").decode()
    assert tokenizer.decode(tokenizer(plain)["input_ids"]) == plain


def test_the_student_solves_what_it_was_trained_on_and_not_everything() -> None:
    pytest.importorskip("transformers")
    from persd.models.local import LocalModel

    easy = lab.load(count=20, seed=4, split="pretrain", mix={1: 1.0})
    hard = lab.load(count=12, seed=4, split="validation", mix={4: 1.0})
    student = LocalModel(str(STUDENT), batch=32, device="cpu", threads=1)
    answers = student.complete([greedy(task) for task in easy + hard])
    student.close()
    jobs = [Job("", t, t.header + a.text) for t, a in zip(easy + hard, answers, strict=True)]
    with Sandbox(workers=2) as box:
        passed = [v.passed for v in verify(box, jobs)]
    assert sum(passed[:20]) >= 17
    assert sum(passed[20:]) <= 5


def greedy(task: Task) -> Request:
    return Request(
        purpose="attempt",
        messages=(Message("user", task_prompt(task)),),
        task=task,
        seed=0,
        temperature=0.0,
        top_p=1.0,
        max_tokens=120,
    )


def test_pretraining_makes_a_checkpoint_and_twice_the_same(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    from persd.lab.pretrain import Settings, make

    small = Settings(
        steps=3, batch_tokens=400, vocabulary=400, hidden=16, layers=1, heads=2,
        feed_forward=16, positions=512, threads=1,
    )  # fmt: skip
    first, second = make(tmp_path / "a", small), make(tmp_path / "b", small)
    assert first["sha256"] == second["sha256"]
    assert first["data"]["rows"] > 3
    assert json.loads((tmp_path / "a" / "manifest.json").read_text())["settings"]["steps"] == 3
