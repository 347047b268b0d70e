"""The whole loop on a few tasks, with scripted models and the real sandbox."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from conftest import make_task
from persd import run as run_module
from persd.build import build_rounds
from persd.config import Config
from persd.errors import UserError
from persd.loop import collect
from persd.models import ModelUnavailable
from persd.models.scripted import ScriptedModel
from persd.records import Request, Task, TaskState, Test
from persd.run import Run

RIGHT = "    return a + b\n"
CHAT_RIGHT = "```python\ndef add(a, b):\n    return b + a\n```"
CHAT_WRONG = "```python\ndef add(a, b):\n    return a\n```"


def make_config(folder: Path, **teacher: Any) -> Config:
    return Config.model_validate(
        {
            "run": {"dir": str(folder / "run"), "variants": ["persd-combined"]},
            "tasks": {"source": "jsonl", "path": "unused.jsonl"},
            "student": {"model": "student"},
            "teacher": {"model": "scripted:teacher", **teacher},
        }
    )


class Script:
    """Answers by task; counts what each role was asked."""

    def __init__(self, student: dict[str, str], teacher: dict[str, Any]) -> None:
        self.student, self.teacher = student, teacher
        self.asked: Counter[str] = Counter()
        self.requests: list[Request] = []

    def open_model(self, spec: Any, role: str, **_: Any) -> ScriptedModel:
        said = self.student if role == "student" else self.teacher

        def script(request: Request) -> str:
            self.asked[role] += 1
            self.requests.append(request)
            answer = said.get(request.task.task_id, CHAT_RIGHT if role == "teacher" else RIGHT)
            if isinstance(answer, list):
                answer = answer[request.attempt - 1]
            if isinstance(answer, Exception):
                raise answer
            return answer

        return ScriptedModel(script, name=f"{role} {spec.model}", in_flight=4)


@pytest.fixture
def play(monkeypatch: pytest.MonkeyPatch) -> Callable[[Script], Script]:
    def use(script: Script) -> Script:
        monkeypatch.setattr(run_module, "open_model", script.open_model)
        return script

    return use


def go(config: Config, tasks: list[Task]) -> dict[str, TaskState]:
    with Run(config) as run:
        run.store_tasks(tasks)
        collect(run, 1, config.student.model)
        return run.ledger.states(1)


def test_every_task_ends_in_one_named_state(
    tmp_path: Path, play: Callable[[Script], Script]
) -> None:
    wrong = "    return a - b\n"
    names = ["solved", "refined", "second", "refused", "prose", "down", "bad", "untested", "cut"]
    tasks = [make_task(n) for n in names]
    tasks[6] = replace(tasks[6], reference="def add(a, b):\n    return 0\n")
    tasks[7] = replace(tasks[7], tests=())
    script = play(
        Script(
            student={n: wrong for n in names if n != "solved"} | {"cut": ""},
            teacher={
                "second": [CHAT_WRONG, CHAT_RIGHT],
                "refused": CHAT_WRONG,
                "prose": "I am sorry, I cannot help with that.",
                "down": ModelUnavailable("no route"),
            },
        )
    )
    states = go(make_config(tmp_path), tasks)
    assert {n: states[n].state for n in names} == {
        "solved": "solved",
        "refined": "refined",
        "second": "refined",
        "refused": "refused",
        "prose": "teacher_failed",
        "down": "unavailable",
        "bad": "bad_task",
        "untested": "untested",
        "cut": "refined",
    }
    assert script.asked["student"] == 7  # neither the bad task nor the untested one
    again = play(Script(script.student, {**script.teacher, "down": CHAT_RIGHT}))
    resumed = go(make_config(tmp_path), tasks)
    assert resumed["down"].state == "refined"
    assert again.asked == Counter(teacher=1)


def test_a_failed_repair_goes_back_with_its_own_feedback(
    tmp_path: Path, play: Callable[[Script], Script]
) -> None:
    script = play(
        Script({"add": "    return a - b\n"}, {"add": [CHAT_WRONG, CHAT_WRONG, CHAT_RIGHT]})
    )
    states = go(make_config(tmp_path, max_tries=3), [make_task()])
    assert states["add"].state == "refined"
    first, second, third = [r for r in script.requests if r.purpose == "refinement"]
    assert "a - b" in first.messages[-1].content
    assert "OUTPUT: -1" in first.messages[-1].content
    assert second.messages[: len(first.messages)] == first.messages
    assert second.messages[-2].content == CHAT_WRONG
    assert "OUTPUT: 1" in second.messages[-1].content
    assert len(third.messages) == len(second.messages) + 2
    assert third.earlier[1][1].status == "failed"


def test_a_cascade_goes_only_as_far_as_needed(
    tmp_path: Path, play: Callable[[Script], Script]
) -> None:
    base = make_config(tmp_path).model_dump()
    base["teacher"] = [
        {"model": "scripted:cheap", "max_tries": 1},
        {"model": "scripted:strong", "max_tries": 1},
    ]
    config = Config.model_validate(base)
    script = play(
        Script(
            dict.fromkeys(("easy", "hard"), "    return a - b\n"),
            {"hard": [CHAT_WRONG, CHAT_RIGHT]},
        )
    )
    states = go(config, [make_task("easy"), make_task("hard")])
    assert {s.state for s in states.values()} == {"refined"}
    asked = [(r.task.task_id, r.attempt) for r in script.requests if r.purpose == "refinement"]
    assert sorted(asked) == [("easy", 1), ("hard", 1), ("hard", 2)]
    last = script.requests[-1]
    assert last.earlier == ()  # the strong teacher starts from the student's attempt


def test_no_answer_cut_by_length_is_taken_for_code(
    tmp_path: Path, play: Callable[[Script], Script], monkeypatch: pytest.MonkeyPatch
) -> None:
    from persd.records import Completion

    script = Script({"add": "    return a - b\n"}, {})

    def opened(spec: Any, role: str, **_: Any) -> ScriptedModel:
        if role == "student":
            return script.open_model(spec, role)
        return ScriptedModel(lambda r: Completion(CHAT_RIGHT, finish="length"))

    monkeypatch.setattr(run_module, "open_model", opened)
    states = go(make_config(tmp_path), [make_task()])
    assert states["add"].state == "teacher_failed"
    assert "length" in states["add"].detail


def test_asked_directs_must_pass_to_be_in_the_pool(
    tmp_path: Path, play: Callable[[Script], Script]
) -> None:
    script = play(Script({}, {"wrong": CHAT_WRONG}))
    states = go(make_config(tmp_path, direct="ask"), [make_task("right"), make_task("wrong")])
    assert states["right"].state == "solved"
    assert states["wrong"].state == "direct_failed"
    assert script.asked["student"] == 1


def test_a_cap_leaves_the_rest_over_budget_and_more_money_goes_on(
    tmp_path: Path, play: Callable[[Script], Script]
) -> None:
    tasks = [make_task(f"t{i}") for i in range(6)]
    script = play(Script({t.task_id: "    return a - b\n" for t in tasks}, {}))
    price = {"input": 0.0, "output": 1000.0}
    teacher = {"price": price, "max_tokens": 10, "max_tries": 1}
    states = go(make_config(tmp_path, budget_usd=0.02, **teacher), tasks)
    count = Counter(s.state for s in states.values())
    assert count["over_budget"] + count["refined"] == 6
    assert 0 < count["refined"] < 6
    asked = script.asked["teacher"]
    states = go(make_config(tmp_path, budget_usd=5.0, **teacher), tasks)
    assert {s.state for s in states.values()} == {"refined"}
    assert script.asked["teacher"] == 6 == asked + count["over_budget"]


def test_a_cap_without_a_price_is_refused(tmp_path: Path, play: Callable[[Script], Script]) -> None:
    play(Script({}, {}))
    config = make_config(
        tmp_path, model="unheard-of", base_url="https://x.example/v1", budget_usd=1.0
    )
    with pytest.raises(UserError, match="price of unheard-of is not known"):
        go(config, [make_task()])


def test_a_changed_config_is_refused_by_key_unless_downstream(
    tmp_path: Path, play: Callable[[Script], Script]
) -> None:
    script = play(Script({}, {}))
    config = make_config(tmp_path)
    go(config, [make_task()])
    plain = config.model_dump()
    hot = Config.model_validate({**plain, "student": {**plain["student"], "temperature": 0.9}})
    with pytest.raises(UserError, match=r"student.temperature: 0.3 -> 0.9"):
        Run(hot)
    later = Config.model_validate(
        {
            **plain,
            "train": {**plain["train"], "lr": 1e-4},
            "run": {**plain["run"], "variants": ["persd"]},
            "teacher": [{**plain["teacher"][0], "max_tokens": 99}],  # nobody asked it yet
        }
    )
    asked = Counter(script.asked)
    go(later, [make_task()])
    assert script.asked == asked


def test_changed_tasks_are_refused(tmp_path: Path, play: Callable[[Script], Script]) -> None:
    play(Script({}, {}))
    go(make_config(tmp_path), [make_task()])
    other = make_task(tests=(Test("add(1, 1)", "2"),))
    with pytest.raises(UserError, match=r"tasks are not those the run began with.*first: add"):
        go(make_config(tmp_path), [other])


def test_the_seven_variants_from_one_ledger(
    tmp_path: Path, play: Callable[[Script], Script]
) -> None:
    play(Script({"bad": "    return a - b\n"}, {}))
    config = make_config(tmp_path)
    with Run(config) as run:
        run.store_tasks([make_task("good"), make_task("bad")])
        collect(run, 1, "student")
        sizes = {}
        for variant in ("stand", "inpd", "inpd-combined", "persd", "persd-refine"):
            examples, rejected = build_rounds(run.ledger, lambda: run.box, variant, [1])
            assert not rejected
            assert build_rounds(run.ledger, lambda: run.box, variant, [1]) == (examples, [])
            sizes[variant] = len(examples)
        assert sizes == {
            "stand": 2,
            "inpd": 1,
            "inpd-combined": 2,
            "persd": 1,
            "persd-refine": 1,
        }
        (example,), _ = build_rounds(run.ledger, lambda: run.box, "persd-refine", [1])
        lineage = run.ledger.lineage(example.example_id)
    assert example.completion.strip() == "return b + a"
    assert "a - b" in example.prompt
    assert lineage["refinement"]["call"].completion.text == CHAT_RIGHT
    assert lineage["attempt"]["verdict"].first_failure.actual == "-1"
    assert lineage["attempt"]["call"].params["temperature"] == 0.3
