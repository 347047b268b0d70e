"""Task files are copied row by row as they are, and written so that they read back."""

from __future__ import annotations

import gzip
import json
import sys
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import make_task
from persd import tasks as task_sources
from persd.errors import UserError
from persd.pool.files import NOWHERE, Source, read_against, refuse_outs, row_of, write_tasks
from persd.records import Task, Test
from persd.sandbox import Sandbox
from persd.tasks.rows import lines_of
from persd.verify import Job, verify


def row(task_id: str, **more: object) -> str:
    fields = {
        "task_id": task_id,
        "instruction": "Twice n.",
        "entry_point": "double",
        "header": "def double(n):\n",
        "tests": [{"call": "double(2)", "expected": "4"}],
    }
    return json.dumps(fields | more)


def rows_of(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def without_place(task: Task) -> Task:
    return replace(task, source="")


# -- copying ----------------------------------------------------------------------------------


def test_rows_of_ones_own_file_are_copied_byte_for_byte(tmp_path: Path) -> None:
    odd = '  {"mine": [1.50, 1e3, "\\u00e9"],   ' + row("b")[1:] + "  "
    source = tmp_path / "mine.jsonl"
    source.write_bytes(f"{row('a')}\n\n{odd}\r\n{row('c', unknown={})}".encode())
    out = tmp_path / "out.jsonl"
    assert Source(str(source)).copy([out], lambda n: NOWHERE if n == 0 else 0) == [2]
    assert out.read_text() == f"{odd}\n{row('c', unknown={})}\n"


def test_rows_go_to_several_files_in_their_order(tmp_path: Path) -> None:
    source = tmp_path / "mine.jsonl"
    source.write_text("\n".join(row(str(i)) for i in range(6)))
    outs = [tmp_path / "a.jsonl", tmp_path / "deep" / "b.jsonl"]
    assert Source(str(source)).copy(outs, lambda n: n % 2) == [3, 3]
    assert [[r["task_id"] for r in rows_of(out)] for out in outs] == [
        ["0", "2", "4"],
        ["1", "3", "5"],
    ]


@pytest.mark.parametrize("indent", [None, 2])
def test_a_list_is_read_and_written_as_one(tmp_path: Path, indent: int | None) -> None:
    items = [json.loads(row(i, mine=[1.5, "a\nb]"])) for i in "abc"]
    source = tmp_path / "mine.json"
    source.write_text(json.dumps(items, indent=indent))
    lines, listed = tmp_path / "out.jsonl", tmp_path / "out.json"
    Source(str(source)).copy([lines], lambda n: -(n == 1))
    assert rows_of(lines) == [items[0], items[2]]
    Source(str(source)).copy([listed], lambda _: 0)
    assert json.loads(listed.read_text()) == items
    assert [t.task_id for t in Source(str(listed)).tasks()] == ["a", "b", "c"]


def test_packed_files_and_a_mark_of_utf8(tmp_path: Path) -> None:
    source = tmp_path / "mine.jsonl.gz"
    source.write_bytes(gzip.compress(b"\xef\xbb\xbf" + row("é", note="ü").encode()))
    outs = [tmp_path / "a.jsonl.gz", tmp_path / "b.jsonl.gz"]
    for out in outs:
        Source(str(source)).copy([out], lambda _: 0)
    assert outs[0].read_bytes() == outs[1].read_bytes()
    assert gzip.decompress(outs[0].read_bytes()).decode() == row("é", note="ü") + "\n"


def test_an_empty_list_is_a_list(tmp_path: Path) -> None:
    write_tasks(tmp_path / "none.json", [])
    assert json.loads((tmp_path / "none.json").read_text()) == []


def test_a_broken_row_is_named_with_its_line(tmp_path: Path) -> None:
    source = tmp_path / "mine.jsonl"
    source.write_text(row("a") + '\n{"task_id": "b"\n')
    with pytest.raises(UserError) as caught:
        list(Source(str(source)).tasks())
    assert caught.value.where == f"{source}:2"


def test_a_file_that_changes_meanwhile_is_told(tmp_path: Path) -> None:
    path, out = tmp_path / "mine.jsonl", tmp_path / "out.jsonl"
    path.write_text(row("a") + "\n")
    source = Source(str(path))
    list(source.tasks())
    path.write_text(row("a") + "\n" + row("b") + "\n")
    with pytest.raises(UserError, match="changed while it was read"):
        source.copy([out], lambda _: 0)
    assert not out.exists()


# -- the contract -----------------------------------------------------------------------------


def test_a_row_reads_back_as_the_task(tmp_path: Path) -> None:
    tests = (Test("add(1.0, 2)", "3.0", tolerance=1e-6), Test("add('a', 'b')", "ab", "loose"))
    task = replace(
        make_task(),
        tests=tests,
        setup="import math\n",
        meta={"topic": "sums", "usd": 0.01, "open_header": "def add(a, b):\n    "},
    )
    bare = replace(make_task("bare"), tests=(), seen_tests=(), reference=None)
    bare = replace(bare, test_code="def check(candidate):\n    assert candidate(1, 2) == 3\n")
    path = tmp_path / "tasks.jsonl"
    assert write_tasks(path, [task, bare]) == 2
    assert [without_place(t) for t in task_sources.load(str(path))] == [task, bare]
    assert set(row_of(bare)) == {
        "task_id",
        "instruction",
        "entry_point",
        "header",
        "test_code",
        "meta",
    } - {"meta"}


@given(st.text(alphabet=st.characters(exclude_categories=())))
def test_any_text_is_kept(text: str) -> None:
    encoded = json.dumps(row_of(replace(make_task(), instruction=text)))
    assert json.loads(encoded)["instruction"] == text


def test_a_lone_surrogate_is_written(tmp_path: Path) -> None:
    path = tmp_path / "tasks.jsonl"
    write_tasks(path, [replace(make_task(), instruction="a \ud800 b")])
    assert rows_of(path)[0]["instruction"] == "a \ud800 b"


@pytest.mark.parametrize(
    ("name", "file", "first", "last"),
    [("humaneval", "humaneval/HumanEval.jsonl.gz", 0, 164), ("mbpp", "mbpp/mbpp.jsonl", 900, 930)],
)
def test_a_benchmark_reads_back_as_it_was(
    tmp_path: Path, data: Path, name: str, file: str, first: int, last: int
) -> None:
    lines = [line for _, line in islice(lines_of(data / file), first, last)]
    (tmp_path / "some.jsonl").write_bytes(b"".join(lines))
    tasks = list(task_sources.load(name, path=str(tmp_path / "some.jsonl"), split="all"))
    out = tmp_path / "out.jsonl"
    write_tasks(out, tasks)
    again = list(task_sources.load(str(out)))
    other = [
        t.task_id for t, b in zip(again, tasks, strict=True) if without_place(t) != without_place(b)
    ]
    assert other == WRAPPED[name]
    with Sandbox(workers=2) as box:
        told = [t for t in again if t.task_id in other]
        assert all(t.test_code and not t.tests for t in told)
        jobs = [Job(t.task_id, t, t.reference or "") for t in told]
        wrong = [Job(t.task_id, t, f"def {t.entry_point}(*args):\n    return 7\n") for t in told]
        assert [v.status for v in verify(box, jobs)] == ["passed"] * len(told)
        assert "passed" not in [v.status for v in verify(box, wrong)]


#: Tasks with a test of more than a call of their function.
WRAPPED = {
    "humaneval": ["HumanEval/37", "HumanEval/52", "HumanEval/56", "HumanEval/61"],
    "mbpp": ["912"],
}


def test_tasks_of_the_family_read_back(tmp_path: Path) -> None:
    tasks, path = list(islice(Source("lab").tasks(), 20)), tmp_path / "lab.jsonl"
    write_tasks(path, tasks)
    assert list(map(without_place, task_sources.load(str(path)))) == tasks


# -- what may be written ----------------------------------------------------------------------


def test_what_is_read_and_what_is_no_task_file_is_not_replaced(tmp_path: Path) -> None:
    tasks, notes, new = tmp_path / "t.jsonl", tmp_path / "notes.txt", tmp_path / "new.jsonl"
    write_tasks(tasks, [make_task()])
    notes.write_text("dear diary")
    assert refuse_outs([new], [tasks, None]) == []
    assert refuse_outs([tasks, new], [notes]) == [tasks]
    for outs, inputs in (([tasks], [tasks]), ([new, new], []), ([notes], []), ([tmp_path], [])):
        with pytest.raises(UserError, match="cannot write the tasks"):
            refuse_outs(outs, inputs)
    assert notes.read_text() == "dear diary"


def test_benchmarks_to_hold_against(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)  # nothing is asked of the Hub
    path = tmp_path / "t.jsonl"
    write_tasks(path, [make_task()])
    found = read_against([str(path), f"jsonl={path}", "lab"])
    assert [t.task_id for t in found[str(path)]] == ["add"]
    assert list(found) == [str(path), "jsonl", "lab"]
    with pytest.raises(UserError, match="twice"):
        read_against([str(path), f"{path}={path}"])
    with pytest.raises(UserError, match="--against mbpp=FILE"):
        read_against(["mbpp"])
    with pytest.raises(UserError, match="nothing can be held against nonsense"):
        read_against(["nonsense"])


def test_a_link_to_itself_is_a_file_that_cannot_be_read_or_written(tmp_path: Path) -> None:
    loop, mine = tmp_path / "loop.jsonl", tmp_path / "mine.jsonl"
    loop.symlink_to(loop)
    mine.write_text(row("a"))
    assert refuse_outs([mine], [loop]) == [mine]
    assert refuse_outs([loop], [mine]) == []
