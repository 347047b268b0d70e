"""Evaluation: hidden tests score, seen tests guide, not-run is not wrong, resuming is free."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from conftest import make_task
from persd import tasks as task_sources
from persd.config import Config, EvaluateTable
from persd.errors import WorkFailed
from persd.evaluate import Sample, evaluate_benchmarks, scored
from persd.outcomes import outcome_of, truncated_as_wrong
from persd.passk import mean_pass_at_k
from persd.records import Request, Solution, Task, Test, Verdict
from persd.run import Run
from play import Script, make_config, use

RIGHT, WRONG = "    return a + b\n", "    return a - b\n"


def evaluation_config(folder: Path, **table: Any) -> Config:
    plain = make_config(folder).model_dump()
    plain["evaluate"] = {"benchmarks": ["lab"], "samples": 4, "k": [1, 2], **table}
    return Config.model_validate(plain)


class Sampler(Script):
    """Right in the samples named; asked to refine, it answers as ``refined`` says."""

    def __init__(self, right: set[tuple[str, int]], refined: str = RIGHT) -> None:
        super().__init__({}, {})
        self.right, self.refined = right, refined

    def open_model(self, spec: Any, role: str, **_: Any) -> Any:
        from persd.models.scripted import ScriptedModel

        def script(request: Request) -> str:
            self.asked[role] += 1
            self.requests.append(request)
            if request.step > 1:
                return self.refined
            return RIGHT if (request.task.task_id, request.sample) in self.right else WRONG

        return ScriptedModel(script, name="sampler")


@pytest.fixture
def two_tasks(monkeypatch: pytest.MonkeyPatch) -> list[Task]:
    tasks = [make_task("x"), make_task("y")]
    monkeypatch.setattr(task_sources, "load", lambda *a, **k: iter(tasks))
    return tasks


def test_scores_by_hand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, two_tasks: list[Task]
) -> None:
    script = use(monkeypatch, Sampler({("x", 0), ("x", 1), ("y", 3)}))
    config = evaluation_config(tmp_path)
    with Run(config) as run:
        (found,) = evaluate_benchmarks(run, "base", 0, "student", None)
        assert found.pass_at_k["1"] == pytest.approx((2 / 4 + 1 / 4) / 2)
        assert found.pass_at_k["2"] == pytest.approx(mean_pass_at_k([(4, 2), (4, 1)], 2))
        assert found.statuses == {"failed": 5, "passed": 3}
        low, high = found.interval["1"]
        assert low <= found.pass_at_k["1"] <= high
        assert script.asked["student"] == 8
        assert evaluate_benchmarks(run, "base", 0, "student", None) == [found]
    with Run(config) as run:
        assert evaluate_benchmarks(run, "base", 0, "student", None) == [found]
    assert script.asked["student"] == 8


def test_other_tests_of_the_same_prompts_are_judged_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = use(monkeypatch, Sampler({("x", i) for i in range(4)}))
    scores = []
    for file, expected in (("a.jsonl", "3"), ("b.jsonl", "4")):
        task = replace(make_task("x", tests=(Test("add(1, 2)", expected),)), reference=None)
        monkeypatch.setattr(task_sources, "load", lambda *a, task=task, **k: iter([task]))
        path = tmp_path / file
        path.write_text(expected)
        config = evaluation_config(
            tmp_path, benchmarks=["humaneval"], data={"humaneval": str(path)}
        )
        with Run(config) as run:
            (found,) = evaluate_benchmarks(run, "base", 0, "student", None)
        scores.append(found.pass_at_k["1"])
    assert scores == [1.0, 0.0]
    assert script.asked["student"] == 4  # nothing was asked twice


def test_an_interrupted_evaluation_asks_only_for_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, two_tasks: list[Task]
) -> None:
    class Stops(Sampler):
        def open_model(self, spec: Any, role: str, **_: Any) -> Any:
            model = super().open_model(spec, role)
            inner = model.complete

            def complete(requests: list[Request]) -> Any:
                if self.asked["student"] >= 5:
                    raise KeyboardInterrupt
                return inner(requests)

            model.complete = complete
            return model

    first = use(monkeypatch, Stops(set()))
    with pytest.raises(KeyboardInterrupt), Run(evaluation_config(tmp_path)) as run:
        evaluate_benchmarks(run, "base", 0, "student", None)
    assert first.asked["student"] == 5
    second = use(monkeypatch, Sampler(set()))
    with Run(evaluation_config(tmp_path)) as run:
        evaluate_benchmarks(run, "base", 0, "student", None)
    assert second.asked["student"] == 3


def test_step_two_refines_only_what_fails_the_seen_tests(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, two_tasks: list[Task]
) -> None:
    script = use(monkeypatch, Sampler({("x", 0), ("x", 1), ("x", 2), ("x", 3), ("y", 0)}))
    with Run(evaluation_config(tmp_path, steps=2)) as run:
        one, two, control = evaluate_benchmarks(run, "base", 0, "student", None)
    assert (one.step, one.pass_at_k["1"]) == (1, 5 / 8)
    assert (two.step, two.pass_at_k["1"]) == (2, 1.0)
    later = [r for r in script.requests if r.step == 2]
    asked = [r for r in later if r.parent is not None]
    assert sorted((r.task.task_id, r.sample) for r in asked) == [("y", 1), ("y", 2), ("y", 3)]
    for request in asked:
        # the feedback is of the seen test add(2, 2); the scoring tests never show
        assert "INPUT: (2, 2)" in request.prompt
        assert "(0, 5)" not in request.prompt
    blind = [r for r in later if r.parent is None]
    assert sorted((r.task.task_id, r.sample) for r in blind) == [("y", 1), ("y", 2), ("y", 3)]
    assert {r.prompt for r in blind} == {
        r.prompt for r in script.requests if r.task.task_id == "y"
    } - {r.prompt for r in asked}
    assert not {r.seed for r in blind} & {r.seed for r in script.requests if r.step == 1}
    assert (control.control, control.step, control.calls, two.calls) == ("resample", 2, 3, 3)


@pytest.mark.parametrize("finish", ["length", "prompt_too_long"])
def test_a_later_step_that_writes_nothing_whole_leaves_what_stood(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, two_tasks: list[Task], finish: str
) -> None:
    class Cut(Sampler):
        def open_model(self, spec: Any, role: str, **_: Any) -> Any:
            model = super().open_model(spec, role)
            inner = model.complete

            def complete(requests: list[Request]) -> Any:
                found = inner(requests)
                return [
                    replace(c, finish=finish, text="    return (a") if r.parent else c
                    for r, c in zip(requests, found, strict=True)
                ]

            model.complete = complete
            return model

    use(monkeypatch, Cut({("x", 0), ("x", 1), ("y", 0)}))
    with Run(evaluation_config(tmp_path, steps=2)) as run:
        one, two, _ = evaluate_benchmarks(run, "base", 0, "student", None)
    # the failures are failures still: a score does not rise for want of an answer
    assert two.pass_at_k == one.pass_at_k
    assert two.outcomes == one.outcomes
    assert two.calls == 5


def test_a_model_that_never_ends_has_no_score_and_stops_nobody() -> None:
    x = make_task("x")
    cut = [sample(x, n, "syntax", "length") for n in range(2)]
    found = scored(cut, [x], EvaluateTable(samples=2, k=[1]))
    assert found.pass_at_k == {}
    assert found.statuses == {"truncated": 2}


def test_step_two_cannot_see_a_hidden_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # the seen test passes, the hidden one fails: nothing tells the student, so nothing changes
    task = make_task("z", tests=(Test("add(1, 1)", "3"),))
    task = Task(**{**{f: getattr(task, f) for f in task.__slots__}, "reference": None})
    monkeypatch.setattr(task_sources, "load", lambda *a, **k: iter([task]))
    script = use(monkeypatch, Sampler({("z", i) for i in range(4)}))
    with Run(evaluation_config(tmp_path, steps=2)) as run:
        _, two, _ = evaluate_benchmarks(run, "base", 0, "student", None)
    assert two.pass_at_k["1"] == 0.0
    assert all(r.step == 1 for r in script.requests)


def sample(task: Task, n: int, status: str, finish: str = "stop") -> Sample:
    solution = Solution(
        f"{task.task_id}{n}", task.task_id, "attempt", "m", 0, "", "", finish=finish
    )
    verdict = Verdict(solution.solution_id, status)  # type: ignore[arg-type]
    return Sample(task, n, solution.solution_id, status, outcome_of(task, solution, verdict))


def test_not_run_is_left_out_and_counted() -> None:
    table = EvaluateTable(samples=2, k=[1])
    x, y = make_task("x"), make_task("y")
    samples = [
        sample(x, 0, "passed"),
        sample(x, 1, "not_run"),
        sample(y, 0, "failed"),
        sample(y, 1, "passed"),
    ]
    found = scored(samples, [x, y], table)
    assert found.pass_at_k["1"] == pytest.approx((1 / 1 + 1 / 2) / 2)
    assert found.statuses == {"passed": 2, "failed": 1, "not_run": 1}
    assert found.outcomes["x"] == {"not_run": 1, "passed": 1}


def test_a_truncated_sample_is_counted_apart_and_never_as_wrong() -> None:
    table = EvaluateTable(samples=3, k=[1, 2])
    x = make_task("x")
    samples = [
        sample(x, 0, "passed", "length"),
        sample(x, 1, "syntax", "length"),
        sample(x, 2, "failed"),
    ]
    found = scored(samples, [x], table)
    assert found.statuses == {"failed": 1, "passed": 1, "truncated": 1}
    assert found.pass_at_k["1"] == 0.5
    assert truncated_as_wrong(found) == {"x": (3, 1)}


def test_fewer_judged_samples_than_k_is_an_error() -> None:
    table = EvaluateTable(samples=2, k=[2])
    x = make_task("x")
    with pytest.raises(WorkFailed, match="no task has as many as 2 judged samples"):
        scored([sample(x, 0, "passed"), sample(x, 1, "not_run")], [x], table)
