"""``persd verify``: a sample file becomes verdicts, a row a program, in order."""

from __future__ import annotations

import gzip
import json
import os
import signal
import subprocess
import sys
import threading
import time
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from persd import samples as samples_module
from persd.errors import UserError
from persd.progress import Progress
from persd.records import Verdict
from persd.sample_rows import Benchmark, read_samples
from persd.samples import read_ks, read_limits, verify_samples
from persd.sandbox import Limits
from persd.verify import Job
from test_cli import mend, persd
from test_tasks import MBPP_ROW, write

ADD: dict[str, Any] = {
    "task_id": "own/add",
    "instruction": "Add two numbers.",
    "entry_point": "add",
    "header": "def add(a, b):\n",
    "tests": [{"call": "add(1, 2)", "expected": "3"}, {"call": "add(0, 5)", "expected": "5"}],
}
TWICE: dict[str, Any] = {
    "task_id": 7,
    "instruction": "Twice n.",
    "entry_point": "twice",
    "header": 'def twice(n):\n    """Twice n."""\n',
    "test_code": "def check(candidate):\n    assert candidate(4) == 8\n",
}
RIGHT, WRONG = "    return a + b\n", "    return a - b\n"


def row(completion: str, task_id: str | int = "own/add", **more: Any) -> dict[str, Any]:
    return {"task_id": task_id, "completion": completion, **more}


@pytest.fixture
def tasks(tmp_path: Path) -> str:
    return str(write(tmp_path / "tasks.jsonl", ADD, TWICE))


def judged(path: Path, tasks: str, **more: Any) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The summary and the results of a sample file."""
    out = path.parent / "results.jsonl"
    summary = verify_samples(path, tasks, out=out, **more)
    return summary, [json.loads(line) for line in out.read_text().splitlines()]


def codes(path: Path, tasks: str, data: Path | None = None) -> list[str | None]:
    """The programs that a file's rows stand for; None: a broken row."""
    found = read_samples(path, Benchmark(tasks, data), None)
    return [sample.job.code if sample.job else None for sample in found]


# ---- rows ------------------------------------------------------------------------------------

HEADER, ALONE = ADD["header"], "def add(a, b):\n    return b + a\n"


@pytest.mark.parametrize(
    ("given", "program"),
    [
        ({"completion": RIGHT}, f"{HEADER}{RIGHT}"),
        ({"completion": "\n\n  return 3"}, f"{HEADER}\n\n  return 3"),
        ({"completion": ALONE}, f"{HEADER}{ALONE}"),
        ({"completion": "```python\n```"}, f"{HEADER}```python\n```"),
        ({"completion": ""}, HEADER),
        ({"completion": "\ufeff\r\n\ud800"}, f"{HEADER}\ufeff\r\n\ud800"),
        ({"solution": ALONE}, ALONE),
        ({"solution": ""}, ""),
        ({"solution": ALONE, "completion": RIGHT, "_identifier": 5}, ALONE),
        ({"solution": None, "completion": RIGHT}, f"{HEADER}{RIGHT}"),
        ({"prompt": "x", "completion": RIGHT, "result": [1]}, f"{HEADER}{RIGHT}"),
    ],
)
def test_a_row_is_a_program_as_it_is_written(
    tmp_path: Path, tasks: str, given: dict[str, Any], program: str
) -> None:
    path = write(tmp_path / "s.jsonl", {"task_id": "own/add", **given})
    assert codes(path, tasks) == [program]


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ('{"task_id": "own/add",', "broken JSON"),
        ('["own/add"]', "object"),
        ({"completion": RIGHT}, "task_id"),
        ({"task_id": True, "completion": RIGHT}, "true"),
        ({"task_id": ["own/add"], "completion": RIGHT}, "own/add"),
        ({"task_id": "own/sub", "completion": RIGHT}, "own/sub"),
        ({"task_id": "own/add", "code": RIGHT}, "code"),
        ({"task_id": "own/add", "completion": None, "solution": None}, "solution"),
        ({"task_id": "own/add", "completion": [RIGHT]}, "repeat the task_id"),
        ({"task_id": "own/add", "completion": RIGHT, "solution": 5}, '"solution" is 5'),
    ],
)
def test_a_broken_row_says_where_and_what(
    tmp_path: Path, tasks: str, given: Any, says: str
) -> None:
    path = write(tmp_path / "s.jsonl", row(RIGHT), "", given, row(WRONG))
    first, broken, last = read_samples(path, Benchmark(tasks), None)
    assert first.job
    assert last.job
    assert (broken.job, broken.index, last.index) == (None, 1, 2)
    assert broken.fault.startswith(f"{path}:3: ")
    assert says in broken.fault


def test_mbpp_completions_are_whole_programs_or_bodies(tmp_path: Path) -> None:
    data = write(tmp_path / "mbpp.jsonl", MBPP_ROW)
    header = "K = 1\n\n\ndef add(a, b=K):\n"
    body, whole = "\n# add\n  return a + b", "import math\ndef add(a, b=1):\n  return a + b"
    given = [body, whole, f"```python\n{whole}\n```", " 'doc'\n return 3", ""]
    path = write(tmp_path / "s.jsonl", *[row(text, 602) for text in given])
    assert codes(path, "mbpp", data) == [
        header + body, whole, f"```python\n{whole}\n```", header + " 'doc'\n return 3", header,
    ]  # fmt: skip


def test_ids_are_those_of_the_benchmark(tmp_path: Path, tasks: str) -> None:
    data = write(tmp_path / "mbpp.jsonl", MBPP_ROW)
    ids = [602, "602", "Mbpp/602", "HumanEval/602", 11]
    path = write(tmp_path / "s.jsonl", *[{"task_id": i, "solution": MBPP_ROW["code"]} for i in ids])
    summary, results = judged(path, "mbpp", data=data)
    assert [r["task_id"] for r in results] == ids
    assert [r["status"] for r in results] == ["passed"] * 3 + ["not_run"] * 2
    assert (summary["tasks"], summary["pass@k"], summary["broken_rows"]) == (1, {"1": 1.0}, 2)
    own = write(tmp_path / "own.jsonl", row("    return 2 * n", 7), row("    return 2 * n", "7"))
    assert None not in codes(own, tasks)


OPEN = [
    ("    return a + b\n", "def add(a, b):\n    return a + b\n"),
    ("return a + b\n", "def add(a, b):\n    return a + b\n"),
    ("c = a\n    return c + b", "def add(a, b):\n    c = a\n    return c + b"),
    ("    c = a\n    return c + b", "def add(a, b):\n    c = a\n    return c + b"),
    ("\n    return a + b", "def add(a, b):\n\n    return a + b"),
    ("# sum\n    return a + b", "def add(a, b):\n# sum\n    return a + b"),
]


def test_a_header_may_end_in_indentation_that_completions_go_on_from(tmp_path: Path) -> None:
    own = {**ADD, "header": "def add(a, b):\n    ", "reference": "return b + a\n"}
    tasks = str(write(tmp_path / "open.jsonl", own))
    path = write(tmp_path / "s.jsonl", *[row(text) for text, _ in OPEN], row("return a - b"))
    assert codes(path, tasks)[:-1] == [program for _, program in OPEN]
    _, results = judged(path, tasks)
    assert [r["status"] for r in results] == ["passed"] * len(OPEN) + ["failed"]


def test_an_open_prompt_of_a_benchmark_is_gone_on_from_as_it_stands(tmp_path: Path) -> None:
    problem = {
        "task_id": "HumanEval/0",
        "prompt": 'def add(a, b):\n    """Add."""\n    ',
        "entry_point": "add",
        "canonical_solution": "c = a + b\n    return c\n",
        "test": "def check(candidate):\n    assert candidate(1, 2) == 3\n",
    }
    data = write(tmp_path / "humaneval.jsonl", problem)
    path = write(tmp_path / "s.jsonl", row(problem["canonical_solution"], "HumanEval/0"))
    assert judged(path, "humaneval", data=data)[0]["passed"] == 1


# ---- files -----------------------------------------------------------------------------------


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_samples_and_tasks_may_come_through_a_pipe(
    tmp_path: Path, tasks: str, pack: Callable[[bytes], bytes]
) -> None:
    rows = write(tmp_path / "s.jsonl", *[row(RIGHT)] * 3, row(WRONG))
    feeders = []
    for name, source in [("samples", rows), ("tasks", Path(tasks))]:
        os.mkfifo(tmp_path / name)
        feed = (tmp_path / name).write_bytes
        feeders.append(threading.Thread(target=feed, args=[pack(source.read_bytes())]))
        feeders[-1].start()
    summary, _ = judged(tmp_path / "samples", str(tmp_path / "tasks"))
    for feeder in feeders:
        feeder.join()
    assert summary["statuses"] == {"failed": 1, "passed": 3}


def test_gzip_is_known_by_its_bytes(tmp_path: Path, tasks: str) -> None:
    text = "\ufeff" + "".join(json.dumps(row(code)) + "\n" for code in (RIGHT, WRONG))
    for name, raw in [("s.txt", gzip.compress(text.encode())), ("s.gz", text.encode())]:
        (tmp_path / name).write_bytes(raw)
        assert codes(tmp_path / name, tasks) == [HEADER + RIGHT, HEADER + WRONG]


def test_a_torn_gzip_is_judged_up_to_the_tear(tmp_path: Path, tasks: str) -> None:
    rows = [json.dumps(row(f"    return a + b  # {os.urandom(40).hex()}\n")) for _ in range(3000)]
    path = tmp_path / "s.jsonl.gz"
    path.write_bytes(gzip.compress(("\n".join(rows) + "\n").encode())[:-3000])
    *whole, last = read_samples(path, Benchmark(tasks), None)
    assert len(whole) > 2500
    assert all(sample.job for sample in whole)
    assert last.job is None
    assert last.fault.startswith(f"{path}:{len(whole)}: ")
    assert "torn" in last.fault


def test_evalplus_folders(tmp_path: Path, tasks: str) -> None:
    folder = tmp_path / "samples"
    for place, name, code in [
        ("own_add", "10.py", WRONG),
        ("own_add", "2.py", ALONE),
        ("own_add", "notes.txt", "x"),
        ("7", "0.py", "def twice(n):\n    return n + n\n"),
        ("own_sub", "0.py", ALONE),
    ]:
        (folder / place).mkdir(parents=True, exist_ok=True)
        (folder / place / name).write_text(code)
    (folder / "own_add" / "11.py").write_bytes(b"\xff")
    (folder / "stray.py").write_text("x")
    summary, results = judged(folder, tasks)
    assert [(r["task_id"], r["status"]) for r in results] == [
        ("7", "passed"),
        ("own/add", "passed"),
        ("own/add", "syntax"),
        (None, "not_run"),
        ("own/sub", "not_run"),
    ]
    assert f"{folder}/own_add/11.py" in results[3]["feedback"]
    assert (summary["tasks"], summary["programs"]) == (2, 5)


@pytest.mark.parametrize("content", ["", "\n \n", None])
def test_nothing_to_judge_is_an_error(tmp_path: Path, tasks: str, content: str | None) -> None:
    path = tmp_path / "s.jsonl"
    if content is None:
        path.mkdir()
    else:
        path.write_text(content)
    out = tmp_path / "out"
    with pytest.raises(UserError, match="no sample"):
        verify_samples(path, tasks, out=out)
    assert not out.exists()


def test_what_cannot_be_read_or_written_is_told_before_anything_runs(
    tmp_path: Path, tasks: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = write(tmp_path / "s.jsonl", row(RIGHT))
    bad = write(tmp_path / "bad.jsonl", {**ADD, "header": 5})
    twice = write(tmp_path / "mbpp.jsonl", MBPP_ROW, MBPP_ROW)
    torn = tmp_path / "torn.gz"
    torn.write_bytes(gzip.compress(good.read_bytes())[:12])
    before = good.read_bytes()
    monkeypatch.setattr(samples_module, "verify", None)  # nothing may be judged
    cases: list[tuple[str, Path, str, dict[str, Any]]] = [
        ("none.jsonl", tmp_path / "none.jsonl", tasks, {}),
        ("torn", torn, tasks, {}),
        ("bad.jsonl:1", good, str(bad), {}),
        ("there twice", good, "mbpp", {"data": twice}),
        ('unknown tasks "humanevil"', good, "humanevil", {}),
        ("--data", good, tasks, {"data": good}),
        ("replace", good, tasks, {"out": good}),
        ("replace", good, tasks, {"out": Path(tasks)}),
        ("replace", good, tasks, {"out": tmp_path / "new", "cache": tmp_path / "new"}),
        ("cache of verdicts", good, tasks, {"cache": good}),
        ("cache of verdicts", good, tasks, {"cache": tmp_path}),
        ("cache of verdicts", good, tasks, {"cache": tmp_path / "no" / "cache"}),
        ("folder", good, tasks, {"out": tmp_path}),
        ("No such file", good, tasks, {"out": tmp_path / "no" / "out"}),
    ]
    for says, path, named, more in cases:
        with pytest.raises(UserError) as error:
            verify_samples(path, named, **more)
        assert says in error.value.one_line()
    assert good.read_bytes() == before


def test_a_sandbox_that_refuses_leaves_no_file(
    tmp_path: Path, tasks: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, Any] = {}

    def refuse(**options: Any) -> Any:
        given.update(options)
        raise UserError("no isolation here")

    monkeypatch.setattr(samples_module, "Sandbox", refuse)
    path, out = write(tmp_path / "s.jsonl", row(RIGHT)), tmp_path / "out"
    with pytest.raises(UserError, match="no isolation"):
        verify_samples(path, tasks, out=out, workers=3, unsafe=True)
    assert given == {"workers": 3, "unsafe": True}
    assert not out.exists()


# ---- results ---------------------------------------------------------------------------------


def test_order_is_kept_round_slow_programs_and_broken_rows(tmp_path: Path, tasks: str) -> None:
    slow = "    while True: pass\n"
    rows = ["{", row(slow), "{", row(RIGHT), "[]", row(slow), *[row(WRONG)] * 5, row(RIGHT), "{"]
    path = write(tmp_path / "s.jsonl", *rows)
    summary, results = judged(path, tasks, limits=read_limits(0.2, None), workers=2)
    assert [r["index"] for r in results] == list(range(len(rows)))
    assert [r["status"] for r in results] == [
        "not_run", "timeout", "not_run", "passed", "not_run", "timeout", *["failed"] * 5, "passed",
        "not_run",
    ]  # fmt: skip
    assert [r["feedback"].startswith(f"{path}:{i}: ") for i, r in enumerate(results, 1)] == [
        r["status"] == "not_run" for r in results
    ]
    assert summary["statuses"] == {"failed": 5, "not_run": 4, "passed": 2, "timeout": 2}
    assert (summary["programs"], summary["passed"], summary["broken_rows"]) == (13, 2, 4)
    assert summary["pass@k"] == {"1": pytest.approx(2 / 9)}
    assert all(r["passed"] == (r["status"] == "passed") for r in results)
    assert results[1]["limits"]["cpu_seconds"] == 0.2
    assert results[1]["seconds"] >= 0.2


@pytest.mark.parametrize(
    ("code", "status", "says"),
    [
        (RIGHT, "passed", []),
        (WRONG, "failed", ["(1, 2)", "OUTPUT: -1", "EXPECTED: 3", "CALL: add(1, 2)"]),
        ("    if a: return 3\n    raise KeyError(a)\n", "error", ["KeyError: 0", "LINE: 3"]),
        ("    return (a\n", "syntax", ["SyntaxError", "LINE: 2"]),
        ("    import os\n    os._exit(0)\n", "crashed", ["early exit 0", "CALL: add(1, 2)"]),
        (f"{RIGHT}del add\n", "error", ["missing entry point"]),
    ],
)
def test_feedback_says_what_went_wrong(
    tmp_path: Path, tasks: str, code: str, status: str, says: list[str]
) -> None:
    _, (found,) = judged(write(tmp_path / "s.jsonl", row(code)), tasks, workers=1)
    assert found["status"] == status
    assert bool(found["feedback"]) == (status != "passed")
    assert [text for text in says if text not in found["feedback"]] == []


def test_scores_are_over_judged_samples_and_possible_ks(tmp_path: Path, tasks: str) -> None:
    told: list[str] = []

    class Told(Progress):
        def say(self, text: str) -> None:
            told.append(text)

    rows = [row(RIGHT)] * 3 + [row(WRONG)] * 7 + [row("    return 2 * n\n", 7)] * 12
    path = write(tmp_path / "s.jsonl", *rows, row(RIGHT, "own/sub"))
    assert set(verify_samples(path, tasks)["pass@k"]) == {"1", "10"}
    found = verify_samples(path, tasks, ks=[1, 2, 11], progress=Told())
    assert found["pass@k"]["1"] == pytest.approx((0.3 + 1) / 2)
    assert found["pass@k"]["2"] == pytest.approx((1 - 21 / 45 + 1) / 2)
    assert set(found["interval"]) == set(found["pass@k"]) == {"1", "2"}
    assert found["interval"]["1"] == pytest.approx((0.3, 1.0))
    assert (found["programs"], found["passed"], found["tasks"]) == (23, 15, 2)
    assert found["isolation"]
    assert found["programs_per_second"] == pytest.approx(23 / found["seconds"], rel=0.05)
    assert [text.split(":")[0].split(" is ")[0] for text in told] == [
        "1 of 23 rows could not be judged; the first",
        "pass@11",
    ]


def test_memory_is_flat_whatever_the_number_of_rows(
    tmp_path: Path, tasks: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fake(box: object, jobs: Iterable[Job], **_: Any) -> Iterator[Verdict]:
        return (Verdict(job.solution_id, "passed") for job in jobs)

    monkeypatch.setattr(samples_module, "verify", fake)
    path, out, rows = tmp_path / "s.jsonl", tmp_path / "out", 12_000
    with path.open("w") as file:
        for n in range(rows):
            broken = "{" if n % 3000 > 1500 else ""
            file.write(f"{broken}{json.dumps(row('    # ' + 'x' * 1000))}\n")
    verify_samples(write(tmp_path / "warm.jsonl", row(RIGHT)), tasks)
    tracemalloc.start()
    found = verify_samples(path, tasks, out=out, workers=1)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found["broken_rows"] == 4 * 1499
    assert [json.loads(line)["index"] for line in out.open()] == list(range(rows))
    assert peak < path.stat().st_size / 4


def test_what_was_judged_before_an_interrupt_is_kept_under_another_name(
    tmp_path: Path, tasks: str
) -> None:
    told: list[str] = []

    class Impatient(Progress):
        steps = 0

        def step(self, units: int = 1, **counts: int) -> None:
            self.steps += 1
            if self.steps == 3:
                raise KeyboardInterrupt

        def say(self, text: str) -> None:
            told.append(text)

    path = write(tmp_path / "s.jsonl", *[row(RIGHT)] * 5)
    out = tmp_path / "out.jsonl"
    with pytest.raises(KeyboardInterrupt):
        verify_samples(path, tasks, out=out, progress=Impatient())
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "out.jsonl.partial", "s.jsonl", "tasks.jsonl",
    ]  # fmt: skip
    partial = tmp_path / "out.jsonl.partial"
    assert [json.loads(line)["index"] for line in partial.open()] == [0, 1, 2]
    assert str(partial) in told[0]


# ---- verdicts that are known -----------------------------------------------------------------


def test_programs_that_repeat_are_judged_once_and_counted_as_cached(
    tmp_path: Path, tasks: str
) -> None:
    twice = "    return n + n\n"
    rows = [row(RIGHT), row(WRONG), "{", row(RIGHT), row(twice, 7), row(RIGHT), row(twice, 7)]
    path = write(tmp_path / "s.jsonl", *rows)
    summary, results = judged(path, tasks)
    assert (summary["programs"], summary["cached"], summary["passed"]) == (7, 3, 5)
    assert [r["index"] for r in results] == list(range(7))
    assert results[3] == {**results[0], "index": 3}
    assert "flaky" not in summary


def test_what_was_broken_off_goes_on_from_the_cache(tmp_path: Path, tasks: str) -> None:
    class Impatient(Progress):
        left = 30

        def step(self, units: int = 1, **counts: int) -> None:
            self.left -= 1
            if not self.left:
                raise KeyboardInterrupt

    rows = [row(f"    return a + b  # {n}\n") for n in range(40)]
    path, cache = write(tmp_path / "s.jsonl", *rows), tmp_path / "verdicts.db"
    with pytest.raises(KeyboardInterrupt):
        verify_samples(path, tasks, cache=cache, progress=Impatient())
    again, results = judged(path, tasks, cache=cache)
    assert 30 <= again["cached"] <= 40
    assert [r["index"] for r in results] == list(range(40))
    last, same = judged(path, tasks, cache=cache)
    assert (last["cached"], last["passed"], same) == (40, 40, results)
    for more in ({"limits": read_limits(2, None)}, {"batch": True}, {"repeats": 2}):
        assert verify_samples(path, tasks, cache=cache, **more)["cached"] == 0


class Counts(Progress):
    """What a progress line has counted."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def step(self, units: int = 1, **counts: int) -> None:
        self.counts.update(counts)


def test_the_progress_line_counts_what_is_cached(tmp_path: Path, tasks: str) -> None:
    told = Counts()
    path = write(tmp_path / "s.jsonl", *[row(RIGHT), row(WRONG)] * 20, "{")
    found = verify_samples(path, tasks, progress=told)
    assert found["cached"] == 38
    assert told.counts == {"passed": 20, "failed": 20, "not_run": 1, "cached": 38}


def test_programs_whose_verdict_changes_are_named_flaky(tmp_path: Path, tasks: str) -> None:
    lucky = "    import random\n    return a + b if random.random() < 0.5 else 0\n"
    path = write(tmp_path / "s.jsonl", row(lucky), row(RIGHT), row(WRONG))
    once = verify_samples(path, tasks)
    assert "flaky" not in once
    summary, results = judged(path, tasks, repeats=6)
    assert summary["flaky"] == 1
    assert [r["reason"].startswith("flaky: ") for r in results] == [True, False, False]
    assert [r["status"] for r in results] == ["failed", "passed", "failed"]
    assert "flaky" in results[0]["feedback"]


def test_limits_and_ks_of_the_command_line() -> None:
    assert read_limits(None, None) is None
    assert read_limits(0.5, None) == Limits(cpu_seconds=0.5)
    assert read_limits(20, 64) == Limits(cpu_seconds=20, memory_mb=64)
    assert read_limits(None, 64) == Limits(memory_mb=64, calibrate=True)
    for timeout in (0, -1, float("nan"), float("inf"), 4000):
        with pytest.raises(UserError, match="--timeout"):
            read_limits(timeout, None)
    assert read_ks("10, 1,10") == [10, 1]
    for text in ("", "0", "1;2", "1,-5", "all"):
        with pytest.raises(UserError, match="--k"):
            read_ks(text)


# ---- the command -----------------------------------------------------------------------------


def test_the_command_gives_one_json_object_and_talks_elsewhere(tmp_path: Path, tasks: str) -> None:
    path = write(tmp_path / "s.jsonl", row(RIGHT), row(WRONG), "{\x1b[2J", row("    return 8", 7))
    out = tmp_path / "out.any-suffix"
    done = persd(
        "verify", path, "--tasks", tasks, "--out", out, "--json", "--k", "1,2",
        "--workers", "1", "--timeout", "2", "--memory", "256",
        "--cache", tmp_path / "cache", "--repeat", "2",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert set(found) >= {
        "programs", "passed", "pass@k", "seconds", "programs_per_second", "statuses", "tasks",
        "isolation", "broken_rows", "cached", "flaky",
    }  # fmt: skip
    assert (found["programs"], found["passed"], found["pass@k"]) == (4, 2, {"1": 0.75})
    assert "verify 4/4" in done.stderr
    assert "pass@2 is left out" in done.stderr
    assert f"{path}:3" in done.stderr
    assert "\x1b" not in done.stderr
    results = [json.loads(line) for line in out.read_text().splitlines()]
    assert [r["status"] for r in results] == ["passed", "failed", "not_run", "passed"]
    assert results[0]["limits"] == {"cpu_seconds": 2.0, "memory_mb": 256}


def test_the_table_has_percent(tmp_path: Path, tasks: str) -> None:
    done = persd("verify", write(tmp_path / "s.jsonl", row(RIGHT), row(WRONG)), "--tasks", tasks)
    assert done.returncode == 0, done.stderr
    assert "50.0 %" in done.stdout
    assert "isolation" in done.stdout


def test_what_the_user_can_mend_is_one_line(tmp_path: Path, tasks: str) -> None:
    path = write(tmp_path / "s.jsonl", row(RIGHT))
    assert "none.jsonl" in mend(persd("verify", tmp_path / "none.jsonl", "--tasks", tasks))
    assert "replace" in mend(persd("verify", path, "--tasks", tasks, "--out", path))
    assert "--tasks" in mend(persd("verify", path))
    assert "--k" in mend(persd("verify", path, "--tasks", tasks, "--k", "x"))
    assert "cache" in mend(persd("verify", path, "--tasks", tasks, "--cache", tasks))


def test_a_judge_that_cannot_run_anything_has_failed(tmp_path: Path) -> None:
    tasks = write(tmp_path / "tasks.jsonl", {**ADD, "setup": "import nothing_of_that_name"})
    done = persd("verify", write(tmp_path / "s.jsonl", row(RIGHT)), "--tasks", tasks, "--json")
    assert done.returncode == 1
    assert json.loads(done.stdout)["statuses"] == {"not_run": 1}
    assert "nothing_of_that_name" in done.stderr
    assert "Traceback" not in done.stderr


def test_ctrl_c_is_130_and_leaves_no_whole_looking_file(tmp_path: Path, tasks: str) -> None:
    path = write(tmp_path / "s.jsonl", *[row("    while True: pass\n")] * 500)
    out = tmp_path / "out.jsonl"
    args = ["verify", path, "--tasks", tasks, "--out", out, "--timeout", "0.2"]
    process = subprocess.Popen(
        [sys.executable, "-m", "persd.cli", *map(str, args)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # who runs the tests in the background ignores it, and a child inherits that
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL) and None,
    )
    for _ in range(200):
        if list(tmp_path.glob(".out.jsonl.*")):
            break
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    told = process.communicate(timeout=30)[1]
    assert process.returncode == 130, told
    assert "Traceback" not in told
    assert "out.jsonl.partial" in told
    assert not out.exists()


# ---- the benchmarks --------------------------------------------------------------------------


def test_humaneval_references_pass_as_completions(tmp_path: Path, data: Path) -> None:
    benchmark = data / "humaneval" / "HumanEval.jsonl.gz"
    with gzip.open(benchmark, "rt") as lines:
        problems = [json.loads(line) for line in lines]
    rows = [row(p["canonical_solution"], p["task_id"]) for p in problems]
    path = write(tmp_path / "s.jsonl", *rows)
    assert codes(path, "humaneval", benchmark) == [
        p["prompt"] + p["canonical_solution"] for p in problems
    ]
    summary, results = judged(path, "humaneval", data=benchmark)
    assert [r for r in results if not r["passed"]] == []
    assert (summary["programs"], summary["tasks"], summary["pass@k"]) == (164, 164, {"1": 1.0})


def test_mbpp_references_pass_every_assert(tmp_path: Path, data: Path) -> None:
    benchmark = data / "mbpp" / "mbpp.jsonl"
    problems = [json.loads(line) for line in benchmark.open()]
    rows = [{"task_id": f"Mbpp/{p['task_id']}", "solution": p["code"]} for p in problems]
    summary, results = judged(write(tmp_path / "s.jsonl", *rows), "mbpp", data=benchmark)
    assert [r for r in results if not r["passed"]] == []
    assert (summary["programs"], summary["tasks"]) == (974, 974)
