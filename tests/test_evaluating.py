"""``persd evaluate``: models and samples scored alike, resumed for nothing, beside others."""

from __future__ import annotations

import gzip
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import persd as package
import tiny
from persd.config import EvaluateTable
from persd.errors import UserError
from persd.evaluating import (
    Settings,
    evaluate_models,
    read_benchmarks,
    read_data,
    read_price,
)
from persd.passk import mean_pass_at_k
from persd.records import Completion, Request
from persd.report.evaluation import print_evaluation
from persd.samples import verify_samples
from play import Script, use
from test_cli import endpoint, kill, persd
from test_tasks import write

RIGHT, WRONG = "    return a + b\n", "    return a - b\n"
Reply = Callable[[Request], "str | Completion"]


def task(name: str, **more: Any) -> dict[str, Any]:
    """Add two numbers, told by one seen test."""
    return {
        "task_id": name,
        "instruction": "Add two numbers.",
        "entry_point": "add",
        "header": "def add(a, b):\n",
        "tests": [{"call": "add(1, 2)", "expected": "3"}, {"call": "add(0, 5)", "expected": "5"}],
        "seen_tests": [{"call": "add(2, 2)", "expected": "4"}],
        "reference": f"def add(a, b):\n{RIGHT}",
        **more,
    }


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # default folders are made there
    monkeypatch.setenv("PYTHONPATH", str(Path(package.__file__).parents[1]))


@pytest.fixture
def tasks(tmp_path: Path) -> str:
    write(tmp_path / "tasks.jsonl", task("x"), task("y"), task("z"))
    for name in ("m", "old", "new", "base"):
        Path(name).touch()  # the scripts that ``Student`` answers for
    return "tasks.jsonl"


def settings(benchmark: str, **more: Any) -> Settings:
    return Settings(benchmarks=[benchmark], **more)


class Student(Script):
    """Answers as the functions say, by the model's name."""

    def __init__(self, **replies: Reply) -> None:
        super().__init__({}, {})
        self.replies = replies

    def open_model(self, spec: Any, role: str, **_: Any) -> Any:
        from persd.models.scripted import ScriptedModel

        name = spec.model.removeprefix("scripted:")

        def script(request: Request) -> str | Completion:
            self.asked[name] += 1
            self.requests.append(request)
            return self.replies[name](request)

        return ScriptedModel(script, name=name)


def right_in(*samples: tuple[str, int]) -> Reply:
    return lambda r: RIGHT if (r.task.task_id, r.sample) in samples or r.step > 1 else WRONG


def lines(path: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def samples_file(name: str, programs: Mapping[str, list[str]]) -> str:
    rows = [{"task_id": t, "completion": code} for t, codes in programs.items() for code in codes]
    write(Path(name), *rows)
    return name


def refused(model: str, how: Settings, **more: Any) -> str:
    with pytest.raises(UserError) as error:
        evaluate_models(model, how, **more)
    return error.value.one_line()


# ---- a model ----------------------------------------------------------------------------------


def test_scores_by_hand_and_the_files(monkeypatch: pytest.MonkeyPatch, tasks: str) -> None:
    use(monkeypatch, Student(m=right_in(("x", 0), ("x", 1), ("y", 3))))
    found = evaluate_models("scripted:m", settings(tasks, samples=4, ks=[1, 2], steps=2))
    one, two = found["rows"]
    assert one["pass@k"]["1"] == pytest.approx((2 / 4 + 1 / 4 + 0) / 3)
    assert one["pass@k"]["2"] == pytest.approx(mean_pass_at_k([(4, 2), (4, 1), (4, 0)], 2))
    assert one["outcomes"] == {"AssertionError": 9, "passed": 3}
    assert (two["pass@k"]["1"], two["calls"], two["resample"]["calls"]) == (1.0, 9, 9)
    assert (found["calls"], found["usd"]) == (12 + 9 + 9, 0.0)
    assert re.fullmatch("runs/evaluate/scripted-m-[0-9a-f]{6}", found["out"])
    paths = found["samples"][tasks]
    assert list(paths) == ["step1", "step2", "step2-resample"]
    rows = lines(paths["step1"])
    assert [(r["task_id"], r["sample"]) for r in rows] == [(t, n) for t in "xyz" for n in range(4)]
    assert [r["status"] for r in rows[:3]] == ["passed", "passed", "failed"]
    assert rows[0]["solution"] == f"def add(a, b):\n{RIGHT}"
    stored = json.loads((Path(found["out"]) / "results.json").read_text())
    assert {k: stored[k] for k in found} == found


def test_verify_says_the_same_of_the_samples(monkeypatch: pytest.MonkeyPatch, tasks: str) -> None:
    replies = ["", "no idea", RIGHT, WRONG, "    return a +\n", "    raise KeyError(a)\n"]
    use(monkeypatch, Student(m=lambda r: replies[r.sample]))
    found = evaluate_models("scripted:m", settings(tasks, samples=6))
    path = found["samples"][tasks]["step1"]
    verify_samples(Path(path), tasks, out=Path("verified.jsonl"))
    said = [(r["task_id"], r["passed"]) for r in lines("verified.jsonl")]
    assert said == [(r["task_id"], r["status"] == "passed") for r in lines(path)]
    # a reply without code is ``syntax`` to the one and, as an empty program, an error to the other
    verified, ours = ([r["status"] for r in lines(p)] for p in ("verified.jsonl", path))
    assert [s for n, s in enumerate(verified) if n % 6] == [s for n, s in enumerate(ours) if n % 6]


def test_run_again_it_asks_for_nothing_and_interrupted_for_the_rest(
    monkeypatch: pytest.MonkeyPatch, tasks: str
) -> None:
    how = settings(tasks, samples=2, steps=2)

    def stops(request: Request) -> str:
        if first.asked["m"] > 4:
            raise KeyboardInterrupt
        return WRONG

    first = use(monkeypatch, Student(m=stops))
    with pytest.raises(KeyboardInterrupt):
        evaluate_models("scripted:m", how)
    assert not list(Path("runs").rglob("samples"))
    rest = use(monkeypatch, Student(m=lambda r: WRONG))
    found = evaluate_models("scripted:m", how)
    assert rest.asked["m"] == 2 + 6 + 6
    again = use(monkeypatch, Student())
    repeated = evaluate_models("scripted:m", how)
    assert again.asked == {}
    for row in (*found["rows"], *repeated["rows"]):
        del row["seconds"]
    assert repeated["rows"] == found["rows"]


def test_more_samples_ask_only_for_the_new(monkeypatch: pytest.MonkeyPatch, tasks: str) -> None:
    script = use(monkeypatch, Student(m=lambda r: RIGHT))
    evaluate_models("scripted:m", settings(tasks, samples=1))
    evaluate_models("scripted:m", settings(tasks, samples=3))
    assert script.asked["m"] == 9


def test_a_cut_reply_is_counted_apart(monkeypatch: pytest.MonkeyPatch, tasks: str) -> None:
    cut = Completion("    return a +", finish="length")
    use(monkeypatch, Student(m=lambda r: cut if r.sample == 0 else RIGHT))
    found = evaluate_models("scripted:m", settings(tasks, samples=3, ks=[1, 3]))
    (row,) = found["rows"]
    assert (row["truncated"], row["pass@k"]) == (3, {"1": 1.0})
    assert row["truncated_as_wrong"]["1"] == pytest.approx(2 / 3)
    # and so it is when its samples are scored again
    path = found["samples"][tasks]["step1"]
    (again,) = evaluate_models(path, settings(tasks))["rows"]
    assert {k: again[k] for k in ("truncated", "outcomes")} == {
        k: row[k] for k in ("truncated", "outcomes")
    }
    assert again["pass@k"]["1"] == 1.0


# ---- samples ----------------------------------------------------------------------------------


def test_samples_score_as_the_model_that_wrote_them(
    monkeypatch: pytest.MonkeyPatch, tasks: str
) -> None:
    use(monkeypatch, Student(m=right_in(("x", 0), ("x", 1), ("z", 3))))
    model = evaluate_models("scripted:m", settings(tasks, samples=4, ks=[1, 2, 4]))
    path = model["samples"][tasks]["step1"]
    found = evaluate_models(path, settings(tasks, ks=[1, 2, 4]))
    same = ("pass@k", "interval", "outcomes", "statuses", "samples", "tasks")
    assert {k: found["rows"][0][k] for k in same} == {k: model["rows"][0][k] for k in same}
    assert found["calls"] == 0
    again = lines(found["samples"][tasks]["step1"])
    assert again == lines(path)


def test_samples_of_a_folder_and_what_is_left_out(tasks: str) -> None:
    for place, code in (("x/0.py", RIGHT), ("x/1.py", WRONG), ("z/0.py", RIGHT), ("z/1.py", RIGHT)):
        path = Path("given") / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"def add(a, b):\n{code}")
    (row,) = evaluate_models("given", settings(tasks, limit=2))["rows"]
    assert (row["tasks"], row["left_out"], row["pass@k"]) == (2, {"1": 1}, {"1": 0.5})


def test_samples_that_cannot_be_scored_are_told(tasks: str) -> None:
    path = samples_file("s.jsonl", {"x": [RIGHT] * 5, "y": [RIGHT] * 3, "z": [RIGHT] * 5})
    assert refused(path, settings(tasks, ks=[1, 5])) == (
        "s.jsonl: pass@5 needs 5 samples of every task, y has 3. Use --k up to 3"
    )
    assert "s.jsonl: y has 3 samples, not the 5 of --samples" in refused(
        path, settings(tasks, samples=5)
    )
    assert "s.jsonl: --steps 2" in refused(path, settings(tasks, steps=2))
    two = Settings(benchmarks=[tasks, "lab"])
    assert "samples are of one benchmark, 2 are asked for" in refused(path, two)
    other = samples_file("other.jsonl", {"x": [RIGHT], "w": [RIGHT]})
    assert 'other.jsonl:2: unknown task_id "w"' in refused(other, settings(tasks))
    none = samples_file("none.jsonl", {"z": [RIGHT]})
    assert "none.jsonl: it holds no sample of the 2 tasks" in refused(
        none, settings(tasks, limit=2)
    )
    write(Path("broken.jsonl"), {"task_id": "x", "completion": RIGHT}, {"task_id": "y"})
    assert 'broken.jsonl:2: neither "completion" nor "solution"' in refused(
        "broken.jsonl", settings(tasks)
    )
    assert refused("gone.jsonl", settings(tasks)).startswith("gone.jsonl: no such file of samples")


def test_usual_ks_are_those_the_samples_allow(tasks: str) -> None:
    path = samples_file("s.jsonl", {"x": [RIGHT] * 12, "y": [RIGHT] * 6, "z": [WRONG] * 7})
    (row,) = evaluate_models(path, settings(tasks))["rows"]
    assert row["pass@k"] == {"1": pytest.approx(2 / 3), "5": pytest.approx(2 / 3)}


# ---- beside others ----------------------------------------------------------------------------


def test_beside_a_model_samples_and_an_earlier_evaluation(
    monkeypatch: pytest.MonkeyPatch, tasks: str
) -> None:
    old, new = right_in(("x", 0), ("x", 1)), right_in(("y", 0), ("y", 1), ("z", 1))
    script = use(monkeypatch, Student(old=old, new=new))
    how = settings(tasks, samples=2)
    path = samples_file("s.jsonl", {"x": [RIGHT, RIGHT], "y": [WRONG] * 2, "z": [WRONG] * 2})
    first = evaluate_models("scripted:new", how, against=["scripted:old", path])
    asked = script.asked["old"]
    (folder,) = map(str, Path("runs/evaluate").glob("scripted-old-*"))
    second = evaluate_models("scripted:new", how, against=[folder])
    assert script.asked["old"] == asked == 6
    for found in (*first["differences"], *second["differences"]):
        assert found["value"] == pytest.approx((-1 + 1 + 1 / 2) / 3)
        assert (found["newly_solved"], found["newly_lost"]) == (["y", "z"], ["x"])
        assert found["interval"][0] <= found["value"] <= found["interval"][1]
        assert (found["step"], found["k"], found["tasks"], found["clear"]) == (1, 1, 3, False)
    assert [d["against"] for d in first["differences"]] == ["scripted:old", path]


def test_tasks_that_only_share_a_name_are_not_compared(
    monkeypatch: pytest.MonkeyPatch, tasks: str
) -> None:
    use(monkeypatch, Student(m=lambda r: RIGHT))
    evaluate_models("scripted:m", settings(tasks, samples=1), out=Path("before"))
    more = [{"call": "add(2, 2)", "expected": "4"}]
    write(Path(tasks), task("x", tests=more), task("y"), task("z", tests=more))
    found = evaluate_models("scripted:m", settings(tasks, samples=1), against=["before"])
    assert [d["tasks"] for d in found["differences"]] == [1]
    write(Path("others.jsonl"), task("x"))
    told = refused("scripted:m", settings("others.jsonl", samples=1), against=["before"])
    assert told == "before: it holds no score of others.jsonl. It holds tasks.jsonl"


def test_a_folder_keeps_what_was_scored_on_other_benchmarks(
    monkeypatch: pytest.MonkeyPatch, tasks: str
) -> None:
    script = use(monkeypatch, Student(m=lambda r: RIGHT, old=lambda r: WRONG))
    write(Path("others.jsonl"), task("w"))
    for benchmark in (tasks, "others.jsonl"):
        evaluate_models("scripted:old", settings(benchmark, samples=1), out=Path("before"))
    assert script.asked["old"] == 4
    found = evaluate_models("scripted:m", settings(tasks, samples=1), against=["before"])
    assert [d["newly_solved"] for d in found["differences"]] == [["x", "y", "z"]]


def test_the_same_task_at_another_place_of_its_file_is_the_same(
    monkeypatch: pytest.MonkeyPatch, tasks: str
) -> None:
    use(monkeypatch, Student(m=lambda r: RIGHT, old=lambda r: WRONG))
    evaluate_models("scripted:old", settings(tasks, samples=1), out=Path("before"))
    write(Path(tasks), task("new"), task("z"), task("y"), task("x"))
    found = evaluate_models("scripted:m", settings(tasks, samples=1), against=["before"])
    assert [d["newly_solved"] for d in found["differences"]] == [["x", "y", "z"]]


def test_a_changed_task_file_is_scored_anew_in_the_same_folder(
    monkeypatch: pytest.MonkeyPatch, tasks: str
) -> None:
    script = use(monkeypatch, Student(m=lambda r: RIGHT))
    path = samples_file("s.jsonl", {"x": [RIGHT], "y": [RIGHT], "z": [RIGHT]})
    whole = Path(tasks).read_text()
    wrong = [{"call": "add(1, 2)", "expected": "4"}]

    def scores() -> list[float]:
        how = settings(tasks, samples=1)
        return [evaluate_models(m, how)["rows"][0]["pass@k"]["1"] for m in ("scripted:m", path)]

    assert scores() == [1.0, 1.0]
    write(Path(tasks), task("x", tests=wrong), task("y"), task("z"))
    assert scores() == [pytest.approx(2 / 3)] * 2
    Path(tasks).write_text(whole)
    assert scores() == [1.0, 1.0]
    assert script.asked["m"] == 3  # the prompts are the same


def test_one_that_is_compared_to_keeps_its_own_comparison(
    monkeypatch: pytest.MonkeyPatch, tasks: str
) -> None:
    use(monkeypatch, Student(m=lambda r: RIGHT, old=lambda r: WRONG, base=right_in(("x", 0))))
    how = settings(tasks, samples=1)
    mine = evaluate_models("scripted:old", how, against=["scripted:base"])
    place = Path(mine["out"]) / "results.json"

    def kept() -> dict[str, Any]:
        stored = json.loads(place.read_text())
        return {k: stored[k] for k in ("differences", "seconds")}

    before = kept()
    assert before == {k: mine[k] for k in before}
    assert len(before["differences"]) == 1
    evaluate_models("scripted:m", how, against=["scripted:old"])
    assert kept() == before
    # of other scores they say nothing
    evaluate_models("scripted:m", settings(tasks, samples=2), against=["scripted:old"])
    assert kept()["differences"] == []


def test_different_models_have_different_folders(
    monkeypatch: pytest.MonkeyPatch, tasks: str
) -> None:
    names = ["org/m", "org-m", "/org/m", "../org/m", "org:m"]
    use(monkeypatch, Student(**{name: lambda r: RIGHT for name in [*names, "plain", "./plain"]}))
    how = settings(tasks, samples=1, endpoint={"base_url": "http://127.0.0.1:1/v1"})
    folders = [evaluate_models(name, how)["out"] for name in names]
    assert len(set(folders)) == len(names)
    assert evaluate_models("plain", how)["out"] == "runs/evaluate/plain"
    assert evaluate_models("./plain", how)["out"] == "runs/evaluate/plain"


def test_a_file_that_could_not_be_read_is_no_other_file(tasks: str) -> None:
    path = samples_file("s.jsonl", {"x": [RIGHT]})
    good = Path(tasks).read_text()
    Path(tasks).write_text("{}\n")
    assert refused(path, settings(tasks)).startswith("tasks.jsonl:1:")
    assert not Path("runs/evaluate/s.jsonl").exists()
    Path(tasks).write_text(good)
    assert evaluate_models(path, settings(tasks))["rows"][0]["pass@k"] == {"1": 1.0}


# ---- what is refused --------------------------------------------------------------------------


def test_what_cannot_be_is_refused_before_anything_is_made(tasks: str) -> None:
    assert refused("lab", settings(tasks, samples=5, ks=[1, 10])) == (
        "pass@10 needs 10 samples of every task, there are to be 5. "
        "Use --samples 10, or smaller --k"
    )
    assert 'unknown benchmark "humanevil"' in refused("lab", settings("humanevil"))
    assert "no benchmark" in refused("lab", Settings(benchmarks=[]))
    assert refused("lab", settings(tasks, temperature=0.0)) == (
        "at --temperature 0 all 20 samples of a task would be the same. "
        "Use --samples 1, or a temperature above 0"
    )
    assert "no file for humaneval" in refused(
        "lab", settings("humaneval", data={"humaneval": "gone.gz"})
    )
    assert "--data is for mbpp, which is not evaluated" in refused(
        "lab", settings("humaneval", data={"mbpp": tasks})
    )
    Path("empty").mkdir()
    assert "empty: the folder holds no checkpoint: config.json is missing" in refused(
        "empty", settings(tasks)
    )
    assert "gone.jsonl: no such script" in refused("scripted:gone.jsonl", settings(tasks))
    assert "holds no evaluation samples" in refused("recorded:runs/x", settings(tasks))
    served = {"base_url": "http://127.0.0.1:1/v1", "budget_usd": 1.0}
    remote = {"base_url": "https://models.example/v1", "budget_usd": 1.0}
    assert "--base-url: is no URL" in refused("model", settings(tasks, endpoint={"base_url": "x"}))
    assert "the price of no-such-model is not known" in refused(
        "no-such-model", settings(tasks, endpoint=remote)
    )
    assert "--max-in-flight" in refused(
        "model", settings(tasks, endpoint={**served, "max_in_flight": 0})
    )
    assert not Path("runs").exists()
    Path("taken").mkdir()
    Path("taken/results.json").write_text("[]")
    path = samples_file("s.jsonl", {"x": [RIGHT]})
    assert "taken/results.json: that is no evaluation's" in refused(
        path, settings(tasks), out=Path("taken")
    )


def test_an_evaluation_is_no_model(monkeypatch: pytest.MonkeyPatch, tasks: str) -> None:
    use(monkeypatch, Student(m=lambda r: RIGHT))
    out = evaluate_models("scripted:m", settings(tasks, samples=1))["out"]
    assert "that is an evaluation, not a model" in refused(out, settings(tasks))


def test_a_benchmark_row_with_a_missing_field_is_named(tmp_path: Path) -> None:
    broken = task("y")
    del broken["entry_point"]
    write(tmp_path / "bad.jsonl", task("x"), broken)
    path = samples_file("s.jsonl", {"x": [RIGHT]})
    told = refused(path, settings("bad.jsonl"))
    assert told.startswith('bad.jsonl:2: task y: no "entry_point"') or "bad.jsonl:2" in told


def test_a_checkpoint_without_a_tokenizer(tasks: str) -> None:
    pytest.importorskip("transformers")
    folder = tiny.checkpoint(Path("bare"))
    for path in folder.glob("tokenizer*"):
        path.unlink()
    told = refused("bare", settings(tasks, samples=1))
    assert "bare" in told
    assert "holds no tokenizer" in told
    assert not Path("runs/evaluate/bare").exists()


@pytest.mark.parametrize(
    ("given", "found"),
    [(["a,b"], ["a", "b"]), (["a", "b, a"], ["a", "b"]), (["", " "], [])],
)
def test_benchmarks_as_they_are_given(given: list[str], found: list[str]) -> None:
    assert read_benchmarks(given) == found


def test_data_as_it_is_given() -> None:
    assert read_data(["x=1.jsonl"], ["mbpp"]) == {"mbpp": "x=1.jsonl"}
    assert read_data(["m.jsonl"], ["lab", "mbpp"]) == {"mbpp": "m.jsonl"}
    assert read_data(["mbpp=m", "humaneval=h"], ["mbpp", "humaneval"]) == {
        "mbpp": "m",
        "humaneval": "h",
    }
    with pytest.raises(UserError, match="does not say of which benchmark"):
        read_data(["file"], ["mbpp", "humaneval"])


def test_prices_as_they_are_given() -> None:
    assert (read_price("0.25,2").input, read_price("0.25,2").output) == (0.25, 2.0)
    for wrong in ("1", "1,2,3", "a,b", "-1,2", "nan,1"):
        with pytest.raises(UserError, match="--price"):
            read_price(wrong)


def test_the_defaults_are_those_of_a_config() -> None:
    table, usual = EvaluateTable(), Settings(benchmarks=["lab"])
    assert usual.table(20, [1, 5, 10, 20]) == table.model_copy(update={"benchmarks": ["lab"]})


# ---- in the terminal --------------------------------------------------------------------------


def test_the_tables_fit_and_tell_what_is_apart(
    monkeypatch: pytest.MonkeyPatch, tasks: str, capsys: pytest.CaptureFixture[str]
) -> None:
    cut = Completion("    return a +", finish="length")
    mine = right_in(*((t, n) for t in "xy" for n in range(3, 20)))
    use(
        monkeypatch,
        Student(m=lambda r: cut if r.sample == 0 and r.step == 1 else mine(r), base=right_in()),
    )
    found = evaluate_models("scripted:m", settings(tasks, steps=2), against=["scripted:base"])
    print_evaluation(Console(highlight=False, width=200), found)
    said = capsys.readouterr().out
    assert max(map(len, said.splitlines())) <= 80
    for text in ("resample", "difference", "AssertionError", "newly lost: none"):
        assert text in said
    cut_short = "step 1: truncated: 3 of 60 samples, part of no score; taken for wrong: pass@1"
    assert cut_short in said.replace("\n", " ")
    assert "step 1: there is no pass@20: no task has 20 samples in the score" in said
    assert "step 1: newly solved: x, y" in said


# ---- the command ------------------------------------------------------------------------------


def test_the_command_with_a_served_model() -> None:
    kill.write_tasks(Path(), 6)
    with endpoint.serve(endpoint.Settings(wrong_share=0.5, seed=1)) as server:
        args = [
            "evaluate", "teacher", "--benchmark", "tasks.jsonl", "--samples", "2", "--k", "1,2",
            "--base-url", server.url, "--price", "1,2", "--budget-usd", "1", "--json",
        ]  # fmt: skip
        done = persd(*args)
        asked = server.stats()["answered"]
        again = persd(*args)
        assert server.stats()["answered"] == asked
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["calls"], asked) == (12, 12)
    assert found["usd"] > 0
    assert json.loads(again.stdout)["rows"][0]["pass@k"] == found["rows"][0]["pass@k"]


def test_the_command_killed_and_run_again() -> None:
    kill.write_tasks(Path(), 10)
    with endpoint.serve(endpoint.Settings(latency=0.1)) as server:
        args = [
            "evaluate", "teacher", "--benchmark", "tasks.jsonl", "--samples", "2",
            "--base-url", server.url, "--max-in-flight", "1", "--json",
        ]  # fmt: skip
        process = subprocess.Popen([sys.executable, "-m", "persd.cli", *args], env=os.environ)
        while server.stats()["answered"] < 6:
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.wait()
        done = persd(*args)
        # the one that was under way may have been answered to nobody
        assert 20 <= server.stats()["answered"] <= 21
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["rows"][0]["outcomes"] == {"passed": 20}


def test_the_command_prints_tables_and_tells_mistakes(tasks: str) -> None:
    path = samples_file("s.jsonl", {"x": [RIGHT], "y": [WRONG], "z": [RIGHT]})
    done = persd("evaluate", path, "--benchmark", tasks)
    assert done.returncode == 0, done.stderr
    assert f"{tasks}: {path}; 3 tasks, 1 sample each" in done.stdout
    assert "66.7" in done.stdout
    wrong = persd("evaluate", path, "--benchmark", tasks, "--k", "2")
    assert (wrong.returncode, wrong.stderr.count("\n")) == (2, 1)
    assert "pass@2 needs 2 samples" in wrong.stderr


# ---- the benchmarks' own solutions ------------------------------------------------------------


@pytest.fixture
def humaneval(data: Path) -> list[dict[str, Any]]:
    with gzip.open(data / "humaneval" / "HumanEval.jsonl.gz", "rt") as file:
        return [json.loads(line) for line in file]


def test_canonical_solutions_of_humaneval_score_100_percent(
    data: Path, humaneval: list[dict[str, Any]]
) -> None:
    file = {"humaneval": str(data / "humaneval" / "HumanEval.jsonl.gz")}
    path = samples_file(
        "canonical.jsonl", {r["task_id"]: [r["canonical_solution"]] for r in humaneval}
    )
    write(
        Path("script.jsonl"),
        *(
            {"task_id": r["task_id"], "purpose": "attempt", "text": r["canonical_solution"]}
            for r in humaneval
        ),
    )
    how = settings("humaneval", data=file, samples=1, steps=2)
    told = evaluate_models("scripted:script.jsonl", how, against=[path])
    assert [row["outcomes"] for row in told["rows"]] == [{"passed": 164}] * 2
    assert [d["value"] for d in told["differences"]] == [0.0]
    beside = json.loads(Path("runs/evaluate/canonical.jsonl/results.json").read_text())
    assert [row["pass@k"] for row in beside["rows"]] == [{"1": 1.0}]
    written = Path(told["samples"]["humaneval"]["step1"])
    assert [r["task_id"] for r in lines(str(written))] == [r["task_id"] for r in humaneval]
    verified = verify_samples(written, "humaneval", data=Path(file["humaneval"]))
    assert verified["statuses"] == {"passed": 164}


def test_references_of_mbpp(data: Path) -> None:
    file = data / "mbpp" / "mbpp.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()][10:70]
    write(Path("s.jsonl"), *({"task_id": r["task_id"], "solution": r["code"]} for r in rows))
    found = evaluate_models("s.jsonl", settings("mbpp", data={"mbpp": str(file)}, limit=60))
    (row,) = found["rows"]
    assert (row["tasks"], row["outcomes"]) == (60, {"passed": 60})
    ids = [r["task_id"] for r in lines(found["samples"]["mbpp"]["step1"])]
    assert ids == [f"Mbpp/{n}" for n in range(11, 71)]
