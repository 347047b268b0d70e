"""The loop that has tasks written: waves, resume, money, order. Replies are really read; what the
sandbox would say of a task stands in its instruction, so that hundreds cost nothing."""

from __future__ import annotations

import random
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import make_task
from persd import session as session_module
from persd.config import GenerateTable, StudentTable, TeacherTable
from persd.domains.authoring import render
from persd.errors import UserError
from persd.ledger import Ledger
from persd.likeness import Match
from persd.models import ModelUnavailable
from persd.models.scripted import ScriptedModel
from persd.pool import generate as module
from persd.pool.drafts import Rejection
from persd.pool.generate import Asking, Ended, accepted, generate, wave_size
from persd.pool.screening import Screen
from persd.pool.strength import Weak
from persd.records import Brief, Candidate, Proposal, Request, Task, Test
from persd.session import Session
from persd.throttle import Throttle


def reply(*words: str, number: int = 0) -> str:
    """A reply that proposes a task for each of the words, which say what becomes of it."""
    return "\n\n".join(
        render(
            Proposal(
                f"Return n plus {number} in way {place}: {word}.",
                f"def f(n):\n    return n + {number} + {place}\n",
                tuple(f"f({i})" for i in range(8)),
                "f",
            )
        )
        for place, word in enumerate(words)
    )


class FakeNear:
    """Tasks are the same where their instructions are, or both have the word ``same``."""

    def __init__(self) -> None:
        self.seen: set[str] = set()

    def matches(self, task: Task) -> list[Match]:
        key = self._key(task)
        return [Match("pool", key, "words", 1.0, key)] if key in self.seen else []

    def add(self, task: Task) -> None:
        self.seen.add(self._key(task))

    def _key(self, task: Task) -> str:
        return "same" if "same" in task.instruction else task.instruction


def fake_tried(screen: Screen, items: Any) -> Iterator[tuple[Any, Any]]:
    for item, found in items:
        if isinstance(found, Rejection):
            yield item, found
            continue
        task = found.task
        word = re.split(r"[:.]", task.instruction)[1].strip()
        tests = tuple(Test(c, "1") for c in found.calls)
        if word in ("silent", "not_run"):
            yield item, Rejection(word, word)  # type: ignore[arg-type]
        elif word.startswith("weak") and "f(99)" not in found.calls:
            yield item, Weak(task, "0 of 6 fail", "def f(n):\n    return n\n")
        else:
            yield item, replace(task, tests=tests)


@pytest.fixture(autouse=True)
def _fakes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Screen, "tried", fake_tried)

    def near(name: str, tasks: Any) -> FakeNear:
        found = FakeNear()
        for task in tasks:
            found.add(task)
        return found

    monkeypatch.setattr(module, "_near", near)


class Teacher:
    """Answers question n with what ``said(n)`` gives, and counts."""

    def __init__(self, said: Callable[[int], str], calls: str = "```\nf(99)\n```") -> None:
        self.said, self.calls = said, calls
        self.asked: Counter[tuple[str, int]] = Counter()
        self.dies_after: int | None = None
        self.naps: random.Random | None = None
        self.on_answer: Callable[[int], None] = lambda n: None

    def __call__(self, request: Request) -> str:
        assert request.brief is not None
        number = request.brief.number
        if self.dies_after is not None and self.asked.total() >= self.dies_after:
            raise SystemError("killed")
        if self.naps:
            time.sleep(self.naps.uniform(0, 0.02))
        self.asked[request.purpose, number] += 1
        self.on_answer(self.asked.total())
        if request.purpose == "calls":
            return self.calls
        return self.said(number)

    @property
    def questions(self) -> int:
        return sum(n for (purpose, _), n in self.asked.items() if purpose == "task")


SEED = make_task("seed")
ASKING = Asking(lambda n: Brief(n, 2, 8, shown=(SEED,), topic=f"topic {n % 3}"), [SEED], "seeds")


def rules_of(count: int, **other: Any) -> GenerateTable:
    return GenerateTable.model_validate({"count": count, "language": False, **other})


def go(
    folder: Path,
    teacher: Teacher,
    rules: GenerateTable,
    *,
    in_flight: int = 1,
    asking: Asking = ASKING,
    seed: int = 0,
    before: Callable[[Session], None] = lambda s: None,
    benchmarks: Mapping[str, Sequence[Task]] = MappingProxyType({}),
    **endpoint: Any,
) -> Ended:
    def open_model(spec: Any, role: str, **_: Any) -> ScriptedModel:
        return ScriptedModel(
            teacher, name="writer", in_flight=in_flight, throttle=Throttle(in_flight)
        )

    spec = {"price": {"input": 1.0, "output": 1.0}, **endpoint}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(session_module, "open_model", open_model)
        with Session(
            folder,
            seed=seed,
            student=StudentTable(model="nobody"),
            teachers=[TeacherTable.model_validate({"model": "writer", **spec})],
        ) as session:
            before(session)
            return generate(session, rules, asking, benchmarks)


def stored(folder: Path) -> list[Candidate]:
    with Ledger(folder, read_only=True) as ledger:
        return ledger.candidates()


def pool(folder: Path, count: int | None = None) -> list[str]:
    with Ledger(folder, read_only=True) as ledger:
        return [t.instruction for t in accepted(ledger, count)]


def good(number: int) -> str:
    return reply("fine", "fine", number=number)


def mixed(number: int) -> str:
    """All kinds, by the number."""
    words = ["fine", "silent", "same", "weak", "weak same", "fine"]
    return reply(words[number % 6], words[(number // 2 + 1) % 6], number=number)


# -- how much is asked ---------------------------------------------------------------------------


def test_as_many_as_are_wanted(tmp_path: Path) -> None:
    teacher = Teacher(good)
    assert go(tmp_path, teacher, rules_of(10)) == Ended("enough")
    assert len(pool(tmp_path, 10)) == 10
    assert 5 <= teacher.questions <= 8  # one and a half of two are taken to be accepted
    assert set(teacher.asked.values()) == {1}


def test_a_surplus_is_kept_and_used_when_more_are_wanted(tmp_path: Path) -> None:
    teacher = Teacher(good)
    go(tmp_path, teacher, rules_of(3))
    before, asked = pool(tmp_path), teacher.questions
    assert len(before) > 3
    assert go(tmp_path, teacher, rules_of(len(before))) == Ended("enough")
    assert teacher.questions == asked
    go(tmp_path, teacher, rules_of(len(before) + 1))
    assert pool(tmp_path)[: len(before)] == before
    assert teacher.questions > asked


@pytest.mark.parametrize("good_ones", [1, 3])
def test_money_is_not_spent_on_far_more(tmp_path: Path, good_ones: int) -> None:
    """Of ten questions some give one task: as many are asked as that takes, and a tenth more."""

    def said(number: int) -> str:
        return reply("fine" if number % 10 < good_ones else "silent", number=number)

    teacher = Teacher(said)
    count = 10 * good_ones
    go(tmp_path, teacher, rules_of(count))
    needed = count * 10 / good_ones
    assert needed * 0.9 <= teacher.questions <= needed * 1.2 + 20


@given(
    need=st.integers(1, 10**6),
    asked=st.integers(0, 10**5),
    share=st.floats(0, 1),
    per_call=st.integers(1, 20),
)
def test_a_wave_is_what_is_needed(need: int, asked: int, share: float, per_call: int) -> None:
    new = int(asked * per_call * share)
    size = wave_size(need, asked, new, per_call, 1000)
    assert 1 <= size <= 1000
    assert wave_size(need + 1, asked, new, per_call, 1000) >= size
    assert wave_size(need, asked, new + 1, per_call, 1000) <= size


def test_nothing_comes(tmp_path: Path) -> None:
    teacher = Teacher(lambda n: "I cannot help with that." if n % 3 else reply("silent", number=n))
    ended = go(tmp_path, teacher, rules_of(1000))
    assert ended.why == "nothing"
    assert "no_task" in ended.detail
    assert "silent" in ended.detail
    assert teacher.questions <= 50
    assert pool(tmp_path) == []
    assert go(tmp_path, teacher, rules_of(1000)).why == "nothing"
    assert teacher.questions <= 100  # asked once more it costs no more than before


# -- the same answers, the same pool --------------------------------------------------------------


def outcome(folder: Path) -> list[tuple[Any, ...]]:
    return [
        (c.number, c.place, c.position, c.state, c.asked_again, c.task and c.task.task_id)
        for c in stored(folder)
    ]


def test_timing_changes_nothing(tmp_path: Path) -> None:
    go(tmp_path / "slow", Teacher(mixed), rules_of(30))
    for seed in (1, 2):
        teacher = Teacher(mixed)
        teacher.naps = random.Random(seed)
        go(tmp_path / str(seed), teacher, rules_of(30), in_flight=16)
        assert outcome(tmp_path / str(seed)) == outcome(tmp_path / "slow")
    assert {s for _, _, _, s, _, _ in outcome(tmp_path / "slow")} >= {
        "accepted",
        "silent",
        "near_duplicate",
    }


@pytest.mark.parametrize("after", [1, 19, 30])
def test_killed_it_goes_on_and_pays_nothing_twice(tmp_path: Path, after: int) -> None:
    whole = Teacher(mixed)
    go(tmp_path / "whole", whole, rules_of(30))
    teacher = Teacher(mixed)
    teacher.dies_after = after
    with pytest.raises(SystemError):
        go(tmp_path / "killed", teacher, rules_of(30), in_flight=4)
    assert teacher.asked.total() == after
    teacher.dies_after = None
    assert go(tmp_path / "killed", teacher, rules_of(30), in_flight=4) == Ended("enough")
    assert teacher.asked == whole.asked
    assert pool(tmp_path / "killed") == pool(tmp_path / "whole")
    assert outcome(tmp_path / "killed") != []


SCARCE = ("weak", "weak same", "fine"), ("silent", "fine", "weak"), ("fine", "weak same")
PLENTY = (("fine", "weak", "fine"),)


@pytest.mark.parametrize("after", [3, 6, 8, 10, 16, 24])
@pytest.mark.parametrize("words", [SCARCE, PLENTY])
def test_killed_between_decisions_it_decides_alike(
    tmp_path: Path, words: Any, after: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever it is struck: before it had enough, among more calls, and once it had enough."""

    def said(number: int) -> str:
        return reply(*words[number % len(words)], number=number)

    whole, teacher = Teacher(said), Teacher(said)
    go(tmp_path / "whole", whole, rules_of(10))
    left, add = [after], Ledger.add_candidates

    def struck(ledger: Ledger, candidates: Sequence[Candidate]) -> None:
        if not left[0]:
            raise SystemError("killed")
        left[0] -= 1
        add(ledger, candidates)

    with monkeypatch.context() as patch, suppress(SystemError):
        patch.setattr(Ledger, "add_candidates", struck)
        go(tmp_path / "killed", teacher, rules_of(10), in_flight=4)
    assert go(tmp_path / "killed", teacher, rules_of(10), in_flight=4) == Ended("enough")
    assert teacher.asked <= whole.asked  # what it had not sent when it had enough is not bought
    assert pool(tmp_path / "killed", 10) == pool(tmp_path / "whole", 10)
    found = outcome(tmp_path / "killed")
    assert "not_run" not in {state for _, _, _, state, _, _ in found}
    assert {n for n, *_ in found} == {n for purpose, n in teacher.asked if purpose == "task"}
    if teacher.asked == whole.asked:
        assert found == outcome(tmp_path / "whole")


def test_stopped_softly_it_keeps_what_is_decided(tmp_path: Path) -> None:
    teacher = Teacher(mixed)

    def before(session: Session) -> None:
        def stop(answers: int) -> None:
            if answers == 12:
                assert session.stop() is not None
                assert session.stop() is None  # once is enough

        teacher.on_answer = stop

    ended = go(tmp_path / "a", teacher, rules_of(30), in_flight=2, before=before)
    assert ended.why == "stopped"
    assert 12 <= teacher.questions <= 14
    teacher.on_answer = lambda n: None
    go(tmp_path / "a", teacher, rules_of(30), in_flight=2)
    go(tmp_path / "b", Teacher(mixed), rules_of(30))
    assert pool(tmp_path / "a") == pool(tmp_path / "b")
    assert set(teacher.asked.values()) == {1}


# -- what gets no answer --------------------------------------------------------------------------


def test_the_cap(tmp_path: Path) -> None:
    teacher = Teacher(good)
    capped = go(tmp_path, teacher, rules_of(40), budget_usd=0.012, in_flight=3)
    assert capped.why == "over_budget"
    assert "cap" in capped.detail
    assert 0 < len(pool(tmp_path)) < 40
    with Ledger(tmp_path, read_only=True) as ledger:
        assert ledger.spent() <= 0.012
    asked = teacher.questions
    assert go(tmp_path, teacher, rules_of(40), in_flight=3) == Ended("enough")
    assert len(pool(tmp_path, 40)) == 40
    assert set(teacher.asked.values()) == {1}
    assert asked < teacher.questions <= 40


def test_a_question_without_an_answer_is_no_candidate(tmp_path: Path) -> None:
    def said(number: int) -> str:
        if number == 2 and not mended:
            raise ModelUnavailable("it cannot say")
        return good(number)

    mended: list[int] = []
    teacher = Teacher(said)
    assert go(tmp_path, teacher, rules_of(10)) == Ended("enough")
    assert 2 not in {c.number for c in stored(tmp_path)}
    mended.append(1)
    enough = len(pool(tmp_path))
    assert go(tmp_path, teacher, rules_of(enough + 1)) == Ended("enough")
    assert 2 in {c.number for c in stored(tmp_path)}  # it comes first


def test_what_could_not_be_run_is_screened_again(tmp_path: Path) -> None:
    words = ["not_run"]
    teacher = Teacher(lambda n: reply(words[0] if n == 1 else "fine", number=n))
    go(tmp_path, teacher, rules_of(3))
    (waiting,) = [c for c in stored(tmp_path) if c.state == "not_run"]
    assert waiting.number == 1
    assert Counter(c.state for c in stored(tmp_path))["accepted"] >= 3


# -- settings --------------------------------------------------------------------------------------


def test_other_settings_are_refused_by_name(tmp_path: Path) -> None:
    teacher = Teacher(good)
    go(tmp_path, teacher, rules_of(4))
    asked = teacher.asked.total()
    with pytest.raises(UserError, match=r"shots: 3 -> 5"):
        go(tmp_path, teacher, rules_of(40, shots=5))
    with pytest.raises(UserError, match=r"seed: 0 -> 1"):
        go(tmp_path, teacher, rules_of(40), seed=1)
    other = Asking(ASKING.brief, [make_task("another")], "seeds")
    with pytest.raises(UserError, match="content of the seeds"):
        go(tmp_path, teacher, rules_of(40), asking=other)
    assert teacher.asked.total() == asked
    assert (
        go(tmp_path, teacher, rules_of(4, path="elsewhere.jsonl"), budget_usd=9.0).why == "enough"
    )


def test_another_benchmark_is_refused_by_name(tmp_path: Path) -> None:
    rules, teacher = rules_of(4, against=["mine"]), Teacher(good)
    mine = {"mine": [replace(make_task("a"), instruction="Say a.")], "scored": [make_task("b")]}
    go(tmp_path, teacher, rules, benchmarks=mine)
    asked = teacher.asked.total()
    assert go(tmp_path, teacher, rules, benchmarks={**mine, "scored": []}) == Ended("enough")
    other = {"mine": [replace(make_task("a"), instruction="Say b.")]}
    with pytest.raises(UserError, match="content of mine"):
        go(tmp_path, teacher, rules_of(40, against=["mine"]), benchmarks=other)
    assert teacher.asked.total() == asked


# -- weak tests ------------------------------------------------------------------------------------


def test_weak_tests_get_more_calls_once(tmp_path: Path) -> None:
    teacher = Teacher(lambda n: reply("weak", number=n))
    go(tmp_path, teacher, rules_of(4))
    found = stored(tmp_path)
    assert Counter(c.state for c in found)["accepted"] >= 4
    first = found[0]
    assert first.asked_again
    assert first.task is not None
    assert first.task.tests[-1].call == "f(99)"
    assert first.lineage["usd"] > 0
    with Ledger(tmp_path, read_only=True) as ledger:
        calls = [ledger.call(c.lineage["more_calls"]) for c in found if c.state == "accepted"]
        share = ledger.call(first.call_id)
    assert all(c is not None and c.purpose == "calls" for c in calls)
    assert share is not None
    assert calls[0] is not None
    cost = (share.completion.usd or 0) + (calls[0].completion.usd or 0)
    assert first.lineage["usd"] == pytest.approx(cost)


def test_weak_tests_that_stay_weak(tmp_path: Path) -> None:
    teacher = Teacher(
        lambda n: reply("weak" if n % 2 else "fine", number=n), calls="```\nf(0)\n```"
    )
    go(tmp_path, teacher, rules_of(6))
    weak = [c for c in stored(tmp_path) if c.number % 2]
    assert {c.state for c in weak} == {"weak_tests"}
    assert max(n for (purpose, _), n in teacher.asked.items() if purpose == "calls") == 1


def test_no_calls_are_bought_for_what_is_not_new(tmp_path: Path) -> None:
    teacher = Teacher(lambda n: reply("weak same" if n else "same", "fine", number=n))
    go(tmp_path, teacher, rules_of(6))
    assert not any(purpose == "calls" for purpose, _ in teacher.asked)
    assert Counter(c.state for c in stored(tmp_path))["near_duplicate"] >= 3


# -- lineage ---------------------------------------------------------------------------------------


def test_where_a_task_comes_from(tmp_path: Path) -> None:
    go(tmp_path, Teacher(good), rules_of(2))
    first = stored(tmp_path)[0]
    assert first.task is not None
    assert first.task.task_id.startswith("gen/")
    assert first.task.meta == dict(first.lineage)
    assert first.lineage["seeds"] == ["seed"]
    assert first.lineage["origin"] == "seeds"
    assert first.lineage["topic"] == "topic 0"
    assert first.lineage["model"] == "writer"
    assert first.lineage["call"] == first.call_id


# -- counts add up ---------------------------------------------------------------------------------

FATES = st.lists(
    st.lists(st.sampled_from(["fine", "silent", "same", "weak", "none"]), min_size=1, max_size=3),
    min_size=1,
    max_size=8,
)


@settings(max_examples=10, deadline=None)
@given(fates=FATES, count=st.integers(1, 12))
def test_every_proposed_task_has_one_end(
    tmp_path_factory: pytest.TempPathFactory, fates: list[list[str]], count: int
) -> None:
    folder = tmp_path_factory.mktemp("run")

    def said(number: int) -> str:
        words = fates[number % len(fates)]
        kept = [w for w in words if w != "none"]
        return reply(*kept, number=number) if kept else "Sorry."

    teacher = Teacher(said)
    ended = go(folder, teacher, rules_of(count))
    found = stored(folder)
    new = [c for c in found if c.state == "accepted"]
    assert (len(new) >= count) == (ended.why == "enough")
    assert len({(c.number, c.place) for c in found}) == len(found)
    assert len({c.position for c in found}) == len(found)
    assert {c.number for c in found} == set(range(teacher.questions))
    assert "not_run" not in {c.state for c in found}
    assert all((c.task is not None) == (c.state == "accepted") for c in found)
    expected = sum(
        max(1, len([w for w in fates[n % len(fates)] if w != "none"]))
        for n in range(teacher.questions)
    )
    assert len(found) == expected
