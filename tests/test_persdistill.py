"""The paper's release: three files joined, texts taken apart, closeness and label faults."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from persd.closeness import closeness, similarity
from persd.domains.code import Misaligned, label, parse_reply
from persd.errors import UserError
from persd.records import Kind, Task, Test
from persd.tasks import load
from persd.tasks.persdistill import FILES, label_faults, recorded

INSTRUCTION = "Sort a list."
HEADER = "def sort_it(list, up=True):\n"
FEEDBACK = "AssertionError\nINPUT: ([2, 1])\nOUTPUT: [2, 1]\nEXPECTED: [1, 2]"
OTHER = "import re\n\ndef helper(x):\n    return x\n\ndef sort_it(list):\n"


def release(folder: Path, **row: Any) -> Path:
    """A folder with one task of the release; ``row`` overrides its texts."""
    header = row.get("header", HEADER)
    attempt = row.get("attempt", f"\n\n{header}\n    return list\n\n")
    feedback = row.get("feedback", FEEDBACK)
    doc = f'"""\n{INSTRUCTION}\n"""\n'
    prompts = {
        "direct": f"{doc}\n{header}",
        "refinement": f"{doc}\n{header}",
        "attempt": f"Rectify it. \n\nTASK: \n{doc}{attempt}\n\nERROR: \n{feedback}\n\n{doc}\n\n",
    }
    labels = {
        "direct": row.get("direct", "\r\n    return sorted(list)"),
        "refinement": row.get("refinement", "\n    return sorted(list)\n"),
        "attempt": "    return sorted(list)\n",
    }
    for kind, name in FILES.items():
        fields = {
            "finetuning_prompt": prompts[kind],
            "finetuning_completion": labels[kind],
            "task_id": 5,
        }
        (folder / name).write_text(json.dumps(fields) + "\n", encoding="utf-8")
    return folder


def the_task(folder: Path, **row: Any) -> Task:
    (task,) = load("persdistill", path=str(release(folder, **row)))
    return task


def test_a_task_is_joined_from_the_three_files(tmp_path: Path) -> None:
    task = the_task(tmp_path)
    assert (task.task_id, task.instruction, task.header) == ("5", INSTRUCTION, HEADER)
    assert task.entry_point == "sort_it"
    assert task.reference is None
    assert task.tests == (Test("sort_it([2, 1])", "[1, 2]", "loose"),)
    assert task.meta["direct"] == "\r\n    return sorted(list)"
    assert task.meta["attempt"] == "\n    return list\n\n"
    assert task.meta["feedback"].startswith("ERROR: AssertionError\nINPUT: ([2, 1])\n")


def test_recorded_programs_are_header_and_text_as_released(tmp_path: Path) -> None:
    task = the_task(tmp_path)
    attempt, direct = recorded(task, "attempt"), recorded(task, "direct")
    repair = recorded(task, "refinement")
    assert direct.code == HEADER + "\r\n    return sorted(list)"
    assert direct.text == task.meta["direct"]
    assert (attempt.round, direct.round, repair.round) == (1, 0, 1)
    assert repair.parent == attempt.solution_id
    assert len({attempt.solution_id, direct.solution_id, repair.solution_id}) == 3
    assert label(task, direct.code or "") == "    return sorted(list)\n"


@pytest.mark.parametrize(
    ("given", "call"),
    [
        ("([2, 1], up=False)", "sort_it([2, 1], up=False)"),
        ("('a, b', \"it's (\")", "sort_it('a, b', \"it's (\")"),
        ("([1,\n 2])", "sort_it([1,\n 2])"),
        ("('OUTPUT: EXPECTED: x')", "sort_it('OUTPUT: EXPECTED: x')"),
        ("('''a\nOUTPUT: b''')", "sort_it('''a\nOUTPUT: b''')"),
        ("[2, 1]", "sort_it([2, 1])"),
        ("()", "sort_it()"),
    ],
)
def test_input_is_read_as_an_argument_list(tmp_path: Path, given: str, call: str) -> None:
    feedback = f"AssertionError\nINPUT: {given}\nOUTPUT: x\ny\nEXPECTED: [1,\n 2]"
    assert the_task(tmp_path, feedback=feedback).tests == (Test(call, "[1,\n 2]", "loose"),)


@pytest.mark.parametrize(
    ("feedback", "why"),
    [
        ("TypeError: no : ", "no INPUT in the feedback: TypeError"),
        ("AssertionError", "no INPUT"),
        ("AssertionError\nINPUT: ([1)\nOUTPUT: 1\nEXPECTED: 2", "no argument list"),
        ("AssertionError\nINPUT: (1) sort_it(2)\nOUTPUT: 1\nEXPECTED: 2", "no argument list"),
        ("AssertionError\nINPUT: (np.array([1]))\nOUTPUT: 1\nEXPECTED: 2", "INPUT uses np"),
        ("AssertionError\nINPUT: (1)\nOUTPUT: 1", "0 EXPECTED"),
        ("AssertionError\nINPUT: (1)\nOUTPUT: \nEXPECTED: 1\nEXPECTED: 2", "2 EXPECTED"),
        ("AssertionError\nINPUT: (1)", "no OUTPUT"),
    ],
)
def test_what_is_no_test_is_untested_and_says_why(tmp_path: Path, feedback: str, why: str) -> None:
    task = the_task(tmp_path, feedback=feedback)
    assert not task.tested
    assert why in task.meta["untested"]


def test_a_name_the_header_imports_may_stand_in_the_input(tmp_path: Path) -> None:
    feedback = "AssertionError\nINPUT: (re.escape('a'))\nOUTPUT: \nEXPECTED: a"
    task = the_task(tmp_path, header=OTHER, attempt=f"\n\n{OTHER}    pass", feedback=feedback)
    assert task.entry_point == "sort_it"
    assert task.tests[0].call == "sort_it(re.escape('a'))"


@pytest.mark.parametrize(
    ("released", "rendered"),
    [
        ("TypeError: bad : ", "ERROR: TypeError: bad"),
        ("KeyError: 'a:' : ", "ERROR: KeyError: 'a:'"),
        ("Exit code: None : ", "ERROR: TimeoutError: the program did not finish in time"),
    ],
)
def test_feedback_is_worded_as_ours(tmp_path: Path, released: str, rendered: str) -> None:
    task = the_task(tmp_path, feedback=released)
    assert task.meta["feedback"] == rendered
    assert task.meta["released_feedback"] == released.strip("\n")


def test_a_lost_def_line_is_put_back(tmp_path: Path) -> None:
    helper = OTHER.rpartition("def ")[0]
    task = the_task(tmp_path, header=OTHER, attempt=f"{helper}\n\n    return helper(list)\n")
    assert recorded(task, "attempt").code == f"{OTHER}    return helper(list)\n"
    assert "put back" in task.meta["attempt_note"]


def test_crlf_prompts_are_read(tmp_path: Path) -> None:
    folder = release(tmp_path)
    for name in FILES.values():
        text = (folder / name).read_text()
        (folder / name).write_text(text.replace(":\\n", ":\\r\\n").replace(".\\n", ".\\r\\n"))
    (task,) = load("persdistill", path=str(folder))
    assert task.tested
    assert "\r" not in task.header + task.instruction


def test_what_is_missing_or_broken_is_a_user_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="finetuning_data"):
        list(load("persdistill", path=str(tmp_path)))
    release(tmp_path)
    (tmp_path / FILES["attempt"]).write_text('{"task_id": 5, "finetuning_prompt": "?"}\n')
    with pytest.raises(UserError, match="refinement prompt"):
        list(load("persdistill", path=str(tmp_path)))


def test_label_faults_are_those_of_prompt_and_label_as_released(tmp_path: Path) -> None:
    texts = ["    return sorted(lst)\n", "def sort_it(list):\n    pass\n", "    return list\n"]
    tasks = [the_task(tmp_path, refinement=text) for text in texts]
    tasks = [Task(**{**_fields(t), "task_id": str(i)}) for i, t in enumerate(tasks)]
    found = label_faults(tasks)
    assert (found.undefined_names, found.unparsable) == (("0",), ("1",))
    assert label_faults(tasks, "direct").unparsable == ()


def _fields(task: Task) -> dict[str, Any]:
    return {name: getattr(task, name) for name in task.__dataclass_fields__}


# ---- closeness -----------------------------------------------------------------------------


def test_closeness_of_known_texts() -> None:
    assert similarity("a  b\n", "a b") == 1.0
    assert similarity("abcd", "bcde") == 0.75
    near, far = ("abcd", "abcx", "wxyz"), ("abcd", "wxyz", "abcx")
    found = closeness([near, near, near, far])
    assert found["attempt_refinement"] == pytest.approx((3 * 0.75 + 0) / 4)
    assert found["attempt_direct"] == pytest.approx(0.75 / 4)
    assert found["refinement_closer"] == 0.75
    assert closeness([])["refinement_closer"] == 0.0


@given(st.text(max_size=30), st.text(max_size=30))
def test_similarity_is_a_fraction_and_one_for_itself(a: str, b: str) -> None:
    assert 0.0 <= similarity(a, b) <= 1.0
    assert similarity(a, a) == 1.0


# ---- the release itself --------------------------------------------------------------------


@pytest.fixture(scope="module")
def released() -> list[Task]:
    import os

    folder = os.environ.get("PERSD_DATA")
    if not folder:
        pytest.skip("PERSD_DATA is not set: the benchmark files are not here")
    return list(load("persdistill", path=str(Path(folder, "persdistill"))))


def test_the_release_has_the_known_counts(released: list[Task]) -> None:
    assert len(released) == 3243
    assert sum(t.tested for t in released) == 2503
    assert all(t.tested or t.meta["untested"] for t in released)
    repairs, directs = label_faults(released), label_faults(released, "direct")
    assert (len(repairs.unparsable), len(directs.unparsable)) == (36, 3)
    assert 102 <= len(repairs.undefined_names) <= 133


def test_most_unparsable_labels_of_the_release_can_be_aligned(released: list[Task]) -> None:
    lost = set(label_faults(released).unparsable)
    saved = 0
    for task in released:
        if task.task_id in lost:
            code = parse_reply(task, str(task.meta["refinement"])).code
            try:
                saved += bool(label(task, code or ""))
            except Misaligned:
                continue
    assert saved >= 30


def test_repairs_are_closer_to_the_attempts_than_direct_answers(released: list[Task]) -> None:
    sample = released[::20]
    found = closeness(
        (_code(t, "attempt"), _code(t, "refinement"), _code(t, "direct")) for t in sample
    )
    assert found["attempt_refinement"] == pytest.approx(0.64, abs=0.05)
    assert found["attempt_direct"] == pytest.approx(0.435, abs=0.05)
    assert found["refinement_closer"] > 0.8


def _code(task: Task, kind: Kind) -> str:
    return recorded(task, kind).code or ""
