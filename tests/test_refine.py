"""Repairs: tries with their own feedback, a cascade, replies that are no code, the cap."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from conftest import make_task
from persd import session as session_module
from persd.build import task_records
from persd.config import Config
from persd.direct import AFRESH
from persd.domains.code import teacher_direct
from persd.ledger import Ledger
from persd.loop import collect
from persd.models import ModelUnavailable
from persd.models.scripted import ScriptedModel
from persd.records import Completion, Request
from persd.run import Run
from persd.throttle import Throttle
from play import CHAT_RIGHT, CHAT_WRONG, Script, go, make_config, use


def test_a_failed_repair_goes_back_with_its_own_feedback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = use(
        monkeypatch,
        Script({"add": "    return a - b\n"}, {"add": [CHAT_WRONG, CHAT_WRONG, CHAT_RIGHT]}),
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
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = make_config(tmp_path).model_dump()
    base["teacher"] = [
        {"model": "scripted:cheap", "max_tries": 1},
        {"model": "scripted:strong", "max_tries": 1},
    ]
    config = Config.model_validate(base)
    script = use(
        monkeypatch,
        Script(
            dict.fromkeys(("easy", "hard"), "    return a - b\n"),
            {"hard": [CHAT_WRONG, CHAT_RIGHT]},
        ),
    )
    states = go(config, [make_task("easy"), make_task("hard")])
    assert {s.state for s in states.values()} == {"refined"}
    asked = [(r.task.task_id, r.attempt) for r in script.requests if r.purpose == "refinement"]
    assert sorted(asked) == [("easy", 1), ("hard", 1), ("hard", 2)]
    last = script.requests[-1]
    assert last.earlier == ()  # the strong teacher starts from the student's attempt


def test_no_answer_cut_by_length_is_taken_for_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = Script({"add": "    return a - b\n"}, {})

    def opened(spec: Any, role: str, **_: Any) -> ScriptedModel:
        if role == "student":
            return script.open_model(spec, role)
        return ScriptedModel(lambda r: Completion(CHAT_RIGHT, finish="length"))

    monkeypatch.setattr(session_module, "open_model", opened)
    states = go(make_config(tmp_path), [make_task()])
    assert states["add"].state == "teacher_failed"
    assert "length" in states["add"].detail


def test_a_cap_leaves_the_rest_over_budget_and_more_money_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks = [make_task(f"t{i}") for i in range(6)]
    script = use(monkeypatch, Script({t.task_id: "    return a - b\n" for t in tasks}, {}))
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


def replying(monkeypatch: pytest.MonkeyPatch, replies: dict[str, list[Any]]) -> Script:
    """The student is wrong on every task; served teachers, by model, reply in this order."""
    script = Script(dict.fromkeys(("add", "sub"), "    return a - b\n"), {})
    asked: Counter[str] = Counter()

    def opened(spec: Any, role: str, **_: Any) -> ScriptedModel:
        if role == "student":
            return script.open_model(spec, role)

        def teacher(request: Request) -> Completion | str:
            script.requests.append(request)
            said: Any = replies[spec.model][asked[spec.model]]
            asked[spec.model] += 1
            if isinstance(said, Exception):
                raise said
            return said  # type: ignore[no-any-return]

        return ScriptedModel(teacher, name=spec.model, in_flight=1, throttle=Throttle(1))

    monkeypatch.setattr(session_module, "open_model", opened)
    return script


CUT = Completion("```python\ndef add(a, b):\n    ret", finish="length")
REFUSAL = Completion("I would rather not.", finish="refused")


def test_a_reply_without_code_is_asked_for_afresh_and_is_no_try(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = replying(monkeypatch, {"scripted:teacher": [REFUSAL, CUT, CHAT_RIGHT]})
    states = go(make_config(tmp_path, max_tries=1), [make_task()])
    assert states["add"].state == "refined"
    first, second, third = [r for r in script.requests if r.purpose == "refinement"]
    assert second.messages == first.messages  # a refusal is not argued with
    assert "code alone" in third.messages[-1].content  # what was cut is to be shorter
    assert len({r.seed for r in (first, second, third)}) == 3


def test_replies_without_code_come_to_an_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = replying(monkeypatch, {"scripted:teacher": [REFUSAL] * 9})
    states = go(make_config(tmp_path), [make_task()])
    assert states["add"].state == "teacher_failed"
    assert "refused" in states["add"].detail
    assert sum(r.purpose == "refinement" for r in script.requests) == 1 + AFRESH


def test_a_rejected_question_is_not_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = replying(monkeypatch, {"scripted:teacher": [Completion("", finish="rejected")] * 9})
    assert go(make_config(tmp_path), [make_task()])["add"].state == "teacher_failed"
    assert sum(r.purpose == "refinement" for r in script.requests) == 1


def cascade(folder: Path, *teachers: dict[str, Any]) -> Config:
    plain = make_config(folder).model_dump()
    return Config.model_validate({**plain, "teacher": list(teachers)})


def test_the_next_teacher_takes_what_one_does_not_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    silent = ModelUnavailable("nobody there")
    script = replying(monkeypatch, {"scripted:a": [silent], "scripted:b": [CHAT_RIGHT]})
    config = cascade(tmp_path, {"model": "scripted:a"}, {"model": "scripted:b"})
    assert go(config, [make_task()])["add"].state == "refined"
    assert len([r for r in script.requests if r.purpose == "refinement"]) == 2


def test_the_last_teachers_silence_is_asked_again_by_the_next_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    silent = ModelUnavailable("nobody there")
    replying(monkeypatch, {"scripted:a": [CHAT_WRONG, CHAT_WRONG], "scripted:b": [silent]})
    config = cascade(tmp_path, {"model": "scripted:a"}, {"model": "scripted:b"})
    assert go(config, [make_task()])["add"].state == "unavailable"
    replying(monkeypatch, {"scripted:a": [], "scripted:b": [CHAT_RIGHT]})
    assert go(config, [make_task()])["add"].state == "refined"


FAR = (
    "```python\ndef add(a, b):\n    first, second = int(a), int(b)\n"
    "    return sum((first, second))\n```"
)
NEAR = "```python\ndef add(a, b):\n    return a + b\n```"


@pytest.mark.parametrize(
    ("second", "kept"),
    [(NEAR, "return a + b"), (CHAT_WRONG, "sum((first"), (REFUSAL, "sum((first")],
)
def test_a_repair_that_strays_is_asked_for_once_more_and_the_closer_one_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, second: Completion | str, kept: str
) -> None:
    script = replying(monkeypatch, {"scripted:teacher": [FAR, second]})
    with Run(make_config(tmp_path, stay_close=0.9)) as run:
        run.store_tasks([make_task()])
        collect(run, 1, "student")
        state = run.ledger.states(1)["add"]
        repairs = run.ledger.solutions(kind="refinement")
        settled = run.ledger.solution(state.refinement_id or "")
    assert state.state == "refined"
    assert settled is not None
    assert kept in (settled.code or "")
    assert len(repairs) == 2
    assert repairs[0].closeness is not None
    assert repairs[0].closeness < 0.9
    last = script.requests[-1].messages
    assert last[-2].content == FAR
    assert "further from the student's attempt" in last[-1].content


def test_a_close_repair_is_taken_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = replying(monkeypatch, {"scripted:teacher": [NEAR]})
    assert go(make_config(tmp_path, stay_close=0.5), [make_task()])["add"].state == "refined"
    assert sum(r.purpose == "refinement" for r in script.requests) == 1


def test_the_constant_part_of_all_questions_comes_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = replying(monkeypatch, {"scripted:teacher": [CHAT_RIGHT, CHAT_RIGHT]})
    go(make_config(tmp_path), [make_task()])
    (repair,) = [r for r in script.requests if r.purpose == "refinement"]
    direct = teacher_direct(make_task())
    assert repair.messages[: len(direct)] == direct


@pytest.mark.parametrize("prompt", ["close", "free", "blind"])
@pytest.mark.parametrize("tells", [True, False])
def test_the_teacher_is_shown_what_the_config_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, prompt: str, tells: bool
) -> None:
    script = replying(monkeypatch, {"scripted:teacher": [CHAT_WRONG, CHAT_RIGHT]})
    plain = make_config(tmp_path, prompt=prompt).model_dump()
    plain["run"]["feedback"] = tells
    config = Config.model_validate(plain)
    assert go(config, [make_task()])["add"].state == "refined"
    repairs = [r for r in script.requests if r.purpose == "refinement"]
    said = "\n".join(m.content for m in repairs[-1].messages)
    assert ("EXPECTED" in said) == tells
    assert all((r.verdict is not None) == tells for r in repairs)
    assert ("close" in said) == (prompt != "free")
    assert ("return a + b" in said) == (prompt != "blind")
    with Ledger(config.run.dir, read_only=True) as ledger:
        (record,) = task_records(ledger, 1)
    assert bool(record.feedback) == tells


def test_a_cap_sends_nothing_on_to_a_dearer_teacher(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = replying(monkeypatch, {"scripted:a": [], "scripted:b": [CHAT_RIGHT]})
    price = {"input": 1.0, "output": 1000.0}
    cheap = {"model": "scripted:a", "price": price, "budget_usd": 0.001}
    state = go(cascade(tmp_path, cheap, {"model": "scripted:b"}), [make_task()])["add"]
    assert state.state == "over_budget"
    assert "of the cap of 0.001 USD 0.0000 are gone, and the next call may cost" in state.detail
    assert not [r for r in script.requests if r.purpose == "refinement"]


def test_a_long_cascade_of_many_tries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"scripted:{n}" for n in range(12)]
    replying(monkeypatch, {name: [CHAT_WRONG] * 10 for name in names})
    config = cascade(tmp_path, *({"model": name, "max_tries": 10} for name in names))
    with Run(config) as run:
        run.store_tasks([make_task()])
        collect(run, 1, "student")
        assert run.ledger.states(1)["add"].state == "refused"
        assert len(run.ledger.solutions(kind="refinement")) == 120


def test_an_earlier_teachers_tries_buy_no_later_ones_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = {"scripted:a": [CHAT_WRONG] * 9, "scripted:b": [CHAT_WRONG] * 9}

    def go_on(first: dict[str, Any]) -> list[Request]:
        script = replying(monkeypatch, asked)
        both = ({"model": "scripted:a", **first}, {"model": "scripted:b", "max_tries": 2})
        assert go(cascade(tmp_path, *both), [make_task()])["add"].state == "refused"
        return [r for r in script.requests if r.purpose == "refinement"]

    assert len(go_on({"max_tries": 1})) == 3
    assert len(go_on({"max_tries": 1, "price": {"input": 0.0, "output": 0.0}})) == 0
    assert len(go_on({"max_tries": 2})) == 1  # the new try, and no other


def test_a_teacher_that_was_away_is_asked_once_it_is_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = cascade(tmp_path, {"model": "scripted:a"}, {"model": "scripted:b", "max_tries": 1})
    away = ModelUnavailable("away")
    replying(monkeypatch, {"scripted:a": [away], "scripted:b": [CHAT_WRONG]})
    assert go(config, [make_task()])["add"].state == "unavailable"
    script = replying(monkeypatch, {"scripted:a": [CHAT_WRONG, CHAT_WRONG], "scripted:b": []})
    assert go(config, [make_task()])["add"].state == "refused"
    assert len([r for r in script.requests if r.purpose == "refinement"]) == 2


@pytest.mark.parametrize("caps", [(0.0, 5.0), (5.0, 0.0), (None, 0.0), (0.0, None)])
def test_one_model_at_two_places_has_one_purse_and_its_smaller_cap(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caps: tuple[float | None, float | None]
) -> None:
    script = replying(monkeypatch, {"scripted:a": [CHAT_RIGHT] * 4})
    price = {"input": 1.0, "output": 1.0}
    twice = ({"model": "scripted:a", "price": price, "budget_usd": cap} for cap in caps)
    assert go(cascade(tmp_path, *twice), [make_task()])["add"].state == "over_budget"
    assert not [r for r in script.requests if r.purpose == "refinement"]
