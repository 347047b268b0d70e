"""Pass rates: what is counted, what is asked again, and which tasks a pool is made of."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import make_task
from persd import report
from persd import session as session_module
from persd import tasks as task_sources
from persd.cli import main
from persd.config import DifficultyTable, PriceTable, StudentTable
from persd.errors import UserError, WorkFailed
from persd.ledger import Ledger
from persd.models.scripted import ScriptedModel
from persd.pool import difficulty
from persd.pool.difficulty import chosen, measured, pass_rate
from persd.records import Completion, Request, Task, Usage
from persd.report.money import money
from persd.session import Session
from persd.throttle import Throttle

RIGHT, WRONG = "    return a + b\n", "    return a - b\n"
STUDENT = StudentTable(model="student", max_tokens=40)


class Student:
    """Right in so many of the first samples of a task; counts what it is asked."""

    def __init__(self, right: dict[str, int], **told: str | Completion) -> None:
        self.right, self.told = right, told
        self.asked: list[Request] = []
        self.served = False

    def open_model(self, spec: Any, role: str, **_: Any) -> ScriptedModel:
        throttle = Throttle(4) if self.served else None
        return ScriptedModel(self._say, name=spec.model, in_flight=4, throttle=throttle)

    def _say(self, request: Request) -> str | Completion:
        self.asked.append(request)
        told = self.told.get(request.task.task_id)
        if told is not None:
            return told
        return RIGHT if request.sample < self.right.get(request.task.task_id, 0) else WRONG


@pytest.fixture
def student(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Student]:
    def use(right: dict[str, int], **told: str | Completion) -> Student:
        made = Student(right, **told)
        monkeypatch.setattr(session_module, "open_model", made.open_model)
        return made

    return use


def measure(folder: Path, tasks: list[Task], samples: int, **changes: Any) -> list[Task]:
    spec = STUDENT.model_copy(update=changes)
    with Session(folder, seed=0, student=spec) as session:
        return list(measured(session, tasks, samples, student=spec, model=spec.model))


def rated(task_id: str, passed: int, samples: int, student: str = "student") -> Task:
    rate = {"student": student, "samples": samples, "passed": passed}
    return replace(make_task(task_id), meta={"difficulty": rate})


# -- measuring --------------------------------------------------------------------------------


def test_the_rate_is_the_share_of_samples_that_pass(
    tmp_path: Path, student: Callable[..., Student]
) -> None:
    script = student({"always": 4, "now and then": 1})
    tasks = [make_task("always"), make_task("never"), make_task("now and then")]
    found = measure(tmp_path, tasks, 4)
    assert [t.task_id for t in found] == [t.task_id for t in tasks]
    assert [pass_rate(t) for t in found] == [1.0, 0.0, 0.25]
    assert found[2].meta["difficulty"] == {
        "student": "student",
        "samples": 4,
        "passed": 1,
        "asked": 4,
        "temperature": 0.3,
        "top_p": 0.95,
        "max_tokens": 40,
    }
    assert len({r.seed for r in script.asked}) == 12  # every sample is drawn by its own
    assert {r.max_tokens for r in script.asked} == {40}


def test_what_is_in_the_ledger_is_not_asked_again(
    tmp_path: Path, student: Callable[..., Student]
) -> None:
    script = student({"x": 1})
    first = measure(tmp_path, [make_task("x")], 2)
    assert pass_rate(first[0]) == 0.5
    assert measure(tmp_path, first, 2) == first
    assert len(script.asked) == 2
    # more samples ask for the new ones alone, of a task that was measured before too
    assert pass_rate(measure(tmp_path, first, 5)[0]) == 0.2
    assert [r.sample for r in script.asked] == [0, 1, 2, 3, 4]
    with Ledger(tmp_path, read_only=True) as ledger:
        assert difficulty.calls_made(ledger) == 5
        assert len(ledger.solutions(benchmark="difficulty")) == 5
        assert not ledger.solutions(benchmark="")


def test_what_is_no_verdict_on_the_student_is_in_no_rate(
    tmp_path: Path, student: Callable[..., Student]
) -> None:
    cut = Completion("    return a +", finish="length")
    long = Completion("", finish="prompt_too_long")
    empty = Completion("", finish="refused")
    student({"x": 1}, cut=cut, long=long, empty=empty)
    tasks = [make_task(name) for name in ("cut", "long", "empty", "x")]
    found = measure(tmp_path, tasks, 2)
    assert [pass_rate(t) for t in found] == [None, None, None, 0.5]
    rates = [t.meta["difficulty"] for t in found]
    assert [r["samples"] for r in rates] == [0, 0, 0, 2]
    assert (rates[0]["truncated"], rates[1]["too_long"], rates[2]["not_attempted"]) == (2, 2, 2)
    counted = difficulty.Rates()
    for task in found:
        counted.add(task)
    assert counted.plain()["apart"] == {"truncated": 2, "too_long": 2, "not_attempted": 2}
    assert (counted.unknown, counted.between) == (3, 1)


def test_a_task_without_a_test_is_not_asked_about(
    tmp_path: Path, student: Callable[..., Student]
) -> None:
    script = student({})
    untested = [make_task("a", tests=()), make_task("b", tests=())]
    found = measure(tmp_path, [untested[0], make_task("x"), untested[1]], 1)
    assert [found[0], found[2]] == untested
    assert [r.task.task_id for r in script.asked] == ["x"]


def test_a_label_of_the_source_is_kept(tmp_path: Path, student: Callable[..., Student]) -> None:
    student({"x": 1})
    labelled = replace(make_task("x"), meta={"difficulty": "easy", "topic": "sums"})
    (found,) = measure(tmp_path, [labelled], 1)
    assert found.meta["difficulty"]["label"] == "easy"
    assert found.meta["topic"] == "sums"
    assert difficulty.without_rate(found) == labelled
    assert measure(tmp_path, [found], 1) == [found]


def test_two_tasks_of_one_id_are_refused(tmp_path: Path, student: Callable[..., Student]) -> None:
    student({})
    with pytest.raises(UserError, match="two tasks have the id 'x'"):
        measure(tmp_path, [make_task("x"), make_task("x")], 4)


def test_tasks_are_drawn_as_they_are_needed(
    tmp_path: Path, student: Callable[..., Student]
) -> None:
    student({})
    drawn = 0

    def tasks() -> Iterator[Task]:
        nonlocal drawn
        for drawn in range(1, 301):
            yield make_task(f"t{drawn}", tests=make_task().tests[:1])

    with Session(tmp_path, seed=0, student=STUDENT) as session:
        stream = measured(session, tasks(), 1, student=STUDENT, model="student")
        assert next(stream).task_id == "t1"
        assert drawn < 250
        stream.close()  # type: ignore[attr-defined]


def test_a_served_student_costs_and_stops_at_its_cap(
    tmp_path: Path, student: Callable[..., Student]
) -> None:
    script = student({}, x=Completion(WRONG, usage=Usage(100, 10)))
    script.served = True
    price = PriceTable(input=1000.0, output=1000.0)
    served = {"base_url": "http://127.0.0.1:1/v1", "price": price}
    measure(tmp_path, [make_task("x")], 2, **served)
    with Ledger(tmp_path, read_only=True) as ledger:
        (spend,) = money(ledger).spending
        assert (spend.stage, spend.round, spend.sum.calls) == ("difficulty", 0, 2)
        assert spend.sum.usd == pytest.approx(0.22)
        assert [p.name for p in money(ledger).fates] == ["difficulty"]
    with pytest.raises(WorkFailed, match="the measuring of difficulty stopped, over budget"):
        measure(tmp_path, [make_task("x")], 3, budget_usd=0.22, **served)
    assert len(script.asked) == 2


# -- reading ----------------------------------------------------------------------------------

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["student", "samples", "passed", "x"]), inner, max_size=4)
    ),
    max_leaves=6,
)


@given(JSON)
def test_whatever_a_file_says_a_rate_is_a_fraction_or_none(value: Any) -> None:
    rate = pass_rate(replace(make_task(), meta={"difficulty": value}))
    assert rate is None or 0.0 <= rate <= 1.0


def test_a_folder_is_the_same_student_by_any_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "model").mkdir()
    monkeypatch.chdir(tmp_path)
    assert difficulty.same_student("model", str(tmp_path / "model"))
    assert not difficulty.same_student("model", "other")
    assert not difficulty.same_student("a\0b", "other")


# -- choosing ---------------------------------------------------------------------------------


def test_what_can_be_learnt_comes_first_and_what_is_known_is_left_out() -> None:
    tasks = [
        rated("solved", 8, 8),
        rated("never", 0, 8),
        rated("seldom", 1, 8),
        make_task("unknown"),
        rated("half", 4, 8),
        rated("often", 7, 8),
        rated("half too", 2, 4),
    ]
    found = chosen(tasks, "learnable", None, "student")
    order = ["half", "half too", "seldom", "often", "unknown", "never"]
    assert [t.task_id for t in found.tasks] == order
    assert (found.always, found.never, found.between, found.unknown) == (1, 1, 4, 1)
    assert (found.left_out, found.beyond) == (1, 0)
    few = chosen(iter(tasks), "learnable", 2, "student")
    assert ([t.task_id for t in few.tasks], few.beyond) == (order[:2], 4)
    as_they_come = chosen(tasks, "none", 2, "student")
    assert [t.task_id for t in as_they_come.tasks] == ["solved", "never"]


RATES = st.integers(0, 6).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))


@given(st.lists(RATES, max_size=20), st.none() | st.integers(1, 25))
def test_every_task_is_counted_once(rates: list[tuple[int, int]], limit: int | None) -> None:
    tasks = [rated(f"t{i}", passed, of) for i, (passed, of) in enumerate(rates)]
    plain = chosen(tasks, "learnable", limit, "student").plain()
    assert plain["tasks"] == len(tasks)
    assert sum(plain[k] for k in ("always", "never", "between", "unknown")) == len(tasks)
    assert plain["left_out"] + plain["beyond"] + plain["taken"] == len(tasks)
    assert sum(m["tasks"] for m in plain["histogram"]) == len(tasks) - plain["unknown"]
    if plain["histogram"]:
        assert plain["histogram"][0] == {"rate": 0.0, "tasks": plain["never"]}
        assert plain["histogram"][-1] == {"rate": 1.0, "tasks": plain["always"]}


def test_rates_of_another_student_are_refused_and_never_used() -> None:
    tasks = [rated("x", 1, 8, "other")]
    with pytest.raises(UserError, match="is that of other, the student is student"):
        chosen(tasks, "learnable", None, "student")
    assert chosen(tasks, "none", None, "student").unknown == 1
    assert chosen(tasks, "learnable", None, None).between == 1


@pytest.mark.parametrize(
    ("select", "limit", "calls"), [("learnable", 10, 800), ("none", 10, 80), ("none", None, 800)]
)
def test_how_many_calls_a_choice_takes(select: Any, limit: int | None, calls: int) -> None:
    table = DifficultyTable(samples=8, select=select)
    assert difficulty.calls_of(table, 100, limit) == calls


def test_the_ledger_keeps_how_the_pool_was_chosen(ledger: Ledger) -> None:
    assert difficulty.noted(ledger) is None
    found = chosen([rated("x", 1, 8), rated("y", 8, 8)], "learnable", 1, "student")
    difficulty.note(ledger, found, student="student", samples=8, select="learnable")
    noted = difficulty.noted(ledger)
    assert noted is not None
    assert (noted["student"], noted["left_out"], noted["taken"]) == ("student", 1, 1)


# -- the command ------------------------------------------------------------------------------


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two tasks as somebody wrote them, and a script that solves the second."""
    monkeypatch.chdir(tmp_path)
    rows = [
        {
            "task_id": number,
            "note": "mine",
            "instruction": "Add two numbers.",
            "header": "def add(a, b):\n",
            "entry_point": "add",
            "reference": "    return a + b",
            "tests": [{"call": "add(1, 2)", "expected": "3"}],
            "difficulty": "easy",
        }
        for number in (1, 2)
    ]
    path = tmp_path / "mine.jsonl"
    path.write_text("".join(f"{json.dumps(row)}\n\n" for row in rows))
    (tmp_path / "script.jsonl").write_text(
        json.dumps({"task_id": "2", "purpose": "attempt", "text": RIGHT})
        + "\n"
        + json.dumps({"task_id": "1", "purpose": "attempt", "text": WRONG})
    )
    return path


def command(capsys: pytest.CaptureFixture[str], *options: str) -> tuple[int, dict[str, Any], str]:
    given = ["tasks", "difficulty", "mine.jsonl", "--student", "scripted:script.jsonl"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["persd", *given, "--out", "out.jsonl", "--json", *options])
        with pytest.raises(SystemExit) as end:
            main()
    out = capsys.readouterr()
    code = end.value.code
    return (code if isinstance(code, int) else 0), json.loads(out.out or "{}"), out.err


def test_the_command_writes_the_rows_with_their_rates(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, found, _ = command(capsys, "--samples", "2")
    assert code == 0
    assert {k: found[k] for k in ("tasks", "always", "never", "between", "unknown", "usd")} == {
        "tasks": 2,
        "always": 1,
        "never": 1,
        "between": 0,
        "unknown": 0,
        "usd": 0.0,
    }
    assert [m["tasks"] for m in found["histogram"]] == [1, 0, 1]
    given = [json.loads(line) for line in file.read_text().splitlines() if line]
    written = [json.loads(line) for line in Path(found["path"]).read_text().splitlines()]
    for before, after, passed in zip(given, written, (0, 2), strict=True):
        rate = after["difficulty"]
        assert {**after, "difficulty": "easy"} == before
        assert (rate["passed"], rate["samples"], rate["label"]) == (passed, 2, "easy")
    # the file is a source like any, and knows its rates
    rates = [pass_rate(t, "scripted:script.jsonl") for t in task_sources.load(found["path"])]
    assert rates == [0.0, 1.0]
    _, again, _ = command(capsys, "--samples", "3")
    assert again["calls"] == 6
    assert Path("runs/difficulty/mine/ledger.sqlite").is_file()
    assert report.write(Path("runs/difficulty/mine")).is_file()


def test_the_command_can_choose(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, found, _ = command(capsys, "--samples", "1", "--select", "learnable", "--run", "here")
    assert (code, found["written"], found["left_out"], found["run"]) == (0, 1, 1, "here")
    (row,) = [json.loads(line) for line in Path("out.jsonl").read_text().splitlines()]
    assert (row["task_id"], row["note"]) == (1, "mine")


def test_no_file_is_replaced_by_none_of_its_tasks(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file.write_text(file.read_text().split("\n\n")[1] + "\n")
    Path("out.jsonl").write_bytes(file.read_bytes())
    code, found, said = command(capsys, "--samples", "1", "--select", "learnable")
    assert (code, found) == (2, {})
    assert "solves all 1 tasks" in said
    assert Path("out.jsonl").read_bytes() == file.read_bytes()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--student", "no/such/folder/"], "no/such/folder"),
        (["--student", "scripted:none.jsonl"], "no such script"),
        (["--select", "hard"], "neither none nor learnable"),
        (["--out", "mine.jsonl"], "cannot write the tasks"),
        (["--price", "x"], "--price"),
    ],
)
def test_what_cannot_be_is_told_before_anybody_is_asked(
    file: Path, capsys: pytest.CaptureFixture[str], options: list[str], told: str
) -> None:
    before = file.read_bytes()
    code, _, said = command(capsys, *options)
    assert code == 2
    assert told in said
    assert said.count("\n") == 1
    assert file.read_bytes() == before
    assert not Path("runs").exists()


def test_a_broken_row_is_told_before_anybody_is_asked(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file.write_text(file.read_text() + '{"task_id": 3}\n')
    code, _, said = command(capsys)
    assert (code, Path("runs").exists()) == (2, False)
    assert "mine.jsonl:5" in said
