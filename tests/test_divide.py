"""Task files: what is left out, what is kept together, and that nothing else changes."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from persd.cli import app
from persd.errors import UserError
from persd.pool.divide import Groups, decontaminate, dedupe, read_shares, split
from persd.pool.files import Source, write_tasks
from persd.records import Task
from persd.tasks import lab


def make(number: int, copy: int = 0) -> Task:
    """Task ``number``, of whose words and program no other number has any; another ``copy`` of it
    says the same in other words."""
    base = lab.load(count=1, seed=number)[0]
    word = "".join(chr(ord("a") + int(digit)) for digit in str(number))
    text = " ".join(f"{word}{letter}" for letter in "qrtvwx") + ", please" * bool(copy)
    reference = f"def f(x):\n    return x + '{'abcdefghijkl'[number % 12] * (number + 3)}'\n"
    return replace(
        base, task_id=f"{number}.{copy}", instruction=text, header="def f(x):\n",
        reference=reference, meta={}, seen_tests=(),
    )  # fmt: skip


def file_of(path: Path, tasks: Sequence[Task]) -> Source:
    write_tasks(path, tasks)
    return Source(str(path))


def ids(path: Path) -> list[str]:
    return [json.loads(line)["task_id"] for line in path.read_text().splitlines()]


# -- leaving out ------------------------------------------------------------------------------


def test_the_first_of_each_is_kept(tmp_path: Path) -> None:
    tasks = [make(0), make(1), make(0, 1), make(2), make(1, 1), make(0, 2)]
    found = dedupe(file_of(tmp_path / "in.jsonl", tasks), tmp_path / "out.jsonl")
    assert ids(tmp_path / "out.jsonl") == ["0.0", "1.0", "2.0"]
    assert (found["tasks"], found["kept"], found["untested"]) == (6, 3, 0)
    assert [(d["task_id"], d["of"]) for d in found["dropped"]] == [
        ("0.1", "0.0"), ("1.1", "1.0"), ("0.2", "0.0"),
    ]  # fmt: skip
    assert all(0.5 < d["alike"] <= 1 and d["shared"] and d["measure"] for d in found["dropped"])


def test_what_another_pool_has_is_left_out(tmp_path: Path) -> None:
    pool = tmp_path / "pool.jsonl"
    write_tasks(pool, [make(1, 1)])
    source = file_of(tmp_path / "in.jsonl", [make(0), make(1), make(2)])
    found = dedupe(source, tmp_path / "out.jsonl", [pool])
    assert ids(tmp_path / "out.jsonl") == ["0.0", "2.0"]
    (dropped,) = found["dropped"]
    assert (dropped["task_id"], dropped["of"], dropped["file"]) == ("1.0", "1.1", str(pool))


def test_what_is_kept_has_no_near_duplicate_left(tmp_path: Path) -> None:
    tasks = [make(n % 10, n // 10) for n in range(30)]
    dedupe(file_of(tmp_path / "in.jsonl", tasks), tmp_path / "one.jsonl")
    again = dedupe(Source(str(tmp_path / "one.jsonl")), tmp_path / "two.jsonl")
    assert again["dropped"] == []
    assert (tmp_path / "one.jsonl").read_bytes() == (tmp_path / "two.jsonl").read_bytes()


def test_a_benchmarks_tasks_are_left_out_and_shown(tmp_path: Path) -> None:
    bench = tmp_path / "bench.jsonl"
    write_tasks(bench, [make(3), make(4)])
    source = file_of(tmp_path / "in.jsonl", [make(2), make(3, 1), make(5)])
    found = decontaminate(source, tmp_path / "out.jsonl", [f"jsonl={bench}"])
    assert ids(tmp_path / "out.jsonl") == ["2.0", "5.0"]
    (dropped,) = found["dropped"]
    assert (dropped["task_id"], dropped["benchmark"], dropped["of"]) == ("3.1", "jsonl", "3.0")
    row = found["overlap"]["benchmarks"]["jsonl"]
    assert (row["tasks"], row["touched"], row["flagged"]) == (2, ["3.0"], 1)
    assert row["matches"][0]["train_id"] == "3.1"


def test_nothing_is_written_where_a_row_is_broken(tmp_path: Path) -> None:
    path, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    write_tasks(path, [make(0)])
    path.write_text(path.read_text() + "{\n")
    works: list[Callable[[], object]] = [
        lambda: dedupe(Source(str(path)), out),
        lambda: split(Source(str(path)), [out, tmp_path / "b.jsonl"], [0.5]),
        lambda: decontaminate(Source(str(path)), out, [f"jsonl={path}"]),
    ]
    for work in works:
        with pytest.raises(UserError, match=r"in\.jsonl"):
            work()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.jsonl"]


# -- dividing ---------------------------------------------------------------------------------


def divided(
    tmp_path: Path, tasks: Sequence[Task], shares: Sequence[float], seed: int = 0
) -> list[list[str]]:
    outs = [tmp_path / f"{i}.jsonl" for i in range(len(shares))]
    split(file_of(tmp_path / "in.jsonl", tasks), outs, shares, seed)
    return [ids(out) for out in outs]


def test_parts_have_their_shares_and_keep_the_order(tmp_path: Path) -> None:
    tasks = [make(n) for n in range(40)]
    parts = divided(tmp_path, tasks, [0.8, 0.1, 0.1])
    assert [len(p) for p in parts] == [32, 4, 4]
    order = {t.task_id: n for n, t in enumerate(tasks)}
    assert sorted(i for p in parts for i in p) == sorted(order)
    assert all(p == sorted(p, key=order.__getitem__) for p in parts)


def test_near_duplicates_are_on_one_side(tmp_path: Path) -> None:
    tasks = [make(n, copy) for copy in range(4) for n in range(15)]
    random.Random(1).shuffle(tasks)
    for seed in range(3):
        first, second = divided(tmp_path, tasks, [0.75, 0.25], seed)
        assert {i.partition(".")[0] for i in first}.isdisjoint(i.partition(".")[0] for i in second)
        assert len(first) in (44, 48)  # of 45 wanted


def test_a_seed_divides_alike_and_another_otherwise(tmp_path: Path) -> None:
    tasks = [make(n) for n in range(30)]
    assert divided(tmp_path, tasks, [0.5, 0.5], 1) == divided(tmp_path, tasks, [0.5, 0.5], 1)
    assert divided(tmp_path, tasks, [0.5, 0.5], 1) != divided(tmp_path, tasks, [0.5, 0.5], 2)


def test_what_was_grouped_is_told(tmp_path: Path) -> None:
    source = file_of(tmp_path / "in.jsonl", [make(0), make(1), make(0, 1), make(2)])
    found = split(source, [tmp_path / "a.jsonl", tmp_path / "b.jsonl"], [0.5])
    assert found["groups"] == [["0.0", "0.1"]]
    assert [(n["task_id"], n["of"]) for n in found["near_duplicates"]] == [("0.1", "0.0")]
    assert [(p["tasks"], p["wanted"], p["share"]) for p in found["parts"]] == [(2, 0.5, 0.5)] * 2


def test_a_part_that_nothing_is_left_for_is_refused(tmp_path: Path) -> None:
    source = file_of(tmp_path / "in.jsonl", [make(0, copy) for copy in range(5)])
    with pytest.raises(UserError, match="1 groups of near-duplicates"):
        split(source, [tmp_path / "a.jsonl", tmp_path / "b.jsonl"], [0.5])
    assert not (tmp_path / "a.jsonl").exists()


def test_what_is_like_one_that_is_like_another_is_with_both() -> None:
    words = ["red", "green", "blue", "grey", "pink", "gold", "black", "brown", "white", "amber"]
    tasks = [
        replace(make(n), task_id=f"{n}", instruction=" ".join(words[n : n + 8]), reference=None)
        for n in range(3)
    ]
    groups = Groups()
    for task in (tasks[0], tasks[2]):
        groups.add(task)
    assert groups.members() == [[0], [1]]
    groups.add(tasks[1])
    assert groups.members() == [[0, 1, 2]]


@given(st.lists(st.floats(), max_size=4), st.integers(0, 4))
def test_shares_sum_to_one_or_are_refused(given: list[float], parts: int) -> None:
    try:
        shares = read_shares(given, parts)
    except UserError:
        return
    assert len(shares) == parts
    assert sum(shares) == pytest.approx(1)
    assert min(shares) > 0


@pytest.mark.parametrize(
    ("shares", "parts"),
    [([0.9], 1), ([], 2), ([1.0], 2), ([0.5, 0.6], 2), ([0.5, 0.5], 3), ([-0.1], 2)],
)
def test_shares_that_are_none(shares: list[float], parts: int) -> None:
    with pytest.raises(UserError, match=r"share|--out"):
        read_shares(shares, parts)


# -- the commands -----------------------------------------------------------------------------


def run(*args: str | Path) -> tuple[int, str]:
    found = CliRunner().invoke(app, ["tasks", *map(str, args)])
    return found.exit_code, found.stdout


@pytest.fixture
def tasks_file(tmp_path: Path) -> Path:
    write_tasks(tmp_path / "in.jsonl", [make(0), make(1), make(0, 1), make(2), make(3)])
    return tmp_path / "in.jsonl"


def test_dedupe_by_command(tasks_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    code, said = run("dedupe", tasks_file, "--out", out, "--json")
    assert code == 0
    assert json.loads(said)["kept"] == 4
    code, said = run("dedupe", tasks_file, "--out", out)
    assert code == 0
    assert "0.1 is a near-duplicate of 0.0" in said
    assert said.endswith(f"4 of 5 tasks: {out}\n")


def test_decontaminate_by_command(tasks_file: Path, tmp_path: Path) -> None:
    write_tasks(tmp_path / "bench.jsonl", [make(2)])
    out, against = tmp_path / "out.jsonl", f"jsonl={tmp_path / 'bench.jsonl'}"
    code, said = run("decontaminate", tasks_file, "--against", against, "--out", out)
    assert code == 0
    assert "2.0 overlaps jsonl 2.0" in said
    assert "1 tasks overlap 1 of its 1 tasks" in said
    assert ids(out) == ["0.0", "1.0", "0.1", "3.0"]


def test_split_by_command(tasks_file: Path, tmp_path: Path) -> None:
    outs = [tmp_path / name for name in ("train.jsonl", "test.jsonl")]
    args: list[str | Path] = ["--out", outs[0], "--out", outs[1], "--share", "0.8", "--seed", "3"]
    code, said = run("split", tasks_file, *args)
    assert code == 0
    assert "kept together: 0.0, 0.1" in said
    assert Counter(i.partition(".")[0] for i in ids(outs[0]) + ids(outs[1])) == {
        "0": 2, "1": 1, "2": 1, "3": 1,
    }  # fmt: skip


def test_check_tells_near_duplicates_and_overlap(tasks_file: Path, tmp_path: Path) -> None:
    write_tasks(tmp_path / "bench.jsonl", [make(2)])
    against = f"jsonl={tmp_path / 'bench.jsonl'}"
    _, said = run("check", tasks_file, "--against", against, "--json")
    found = json.loads(said)
    assert [(n["task_id"], n["of"]) for n in found["near_duplicates"]] == [("0.1", "0.0")]
    assert found["overlap"]["benchmarks"]["jsonl"]["touched"] == ["2.0"]
    assert not {"near_duplicate", "overlap"} & {p["reason"] for p in found["problems"]}
    _, said = run("check", tasks_file, "--json")
    assert "overlap" not in json.loads(said)
