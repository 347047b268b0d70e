"""The embedded teacher: small edits for small bugs, honest about the rest."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from persd.domains.parse import parse_reply
from persd.errors import UserError
from persd.lab import blocks, family, hunks
from persd.lab.edits import hints_of, parse, rename, single_edits
from persd.lab.family import Link
from persd.lab.steps import STEPS
from persd.models.repair import RepairTeacher, known_tests
from persd.records import (
    Brief,
    Completion,
    Message,
    Request,
    Solution,
    Task,
    Test,
    TestResult,
    Verdict,
)
from persd.sandbox import Sandbox
from persd.tasks import lab
from persd.verify import Job, verify

MAXIMUM = Task(
    task_id="max",
    instruction="Return how many numbers are above 7.",
    header="def count(xs):\n",
    entry_point="count",
    tests=(
        Test("count([1, 8, 9])", "2"),
        Test("count([])", "0"),
        Test("count([7, 7, 10])", "1"),
        Test("count([100])", "1"),
    ),
    seen_tests=(Test("count([8, 3, 8, 7])", "2"), Test("count([1, 2])", "0")),
    reference="def count(xs):\n    return len([x for x in xs if x > 7])\n",
)
RIGHT = """\
def count(xs):
    total = 0  # how many
    for x in xs:
        if x > 7:
            total += 1
    return total
"""


@pytest.fixture(scope="module")
def box() -> Iterator[Sandbox]:
    with Sandbox(workers=2) as sandbox:
        yield sandbox


@pytest.fixture(scope="module")
def teacher(box: Sandbox) -> RepairTeacher:
    return RepairTeacher(box)


def ask(box: Sandbox, task: Task, code: str | None) -> Request:
    """The request a run makes for an attempt that fails."""
    attempt = Solution("a", task.task_id, "attempt", "me", 1, code or "", code)
    verdict = next(verify(box, [Job("a", task, code or "")]))
    assert not verdict.passed
    return request(task, attempt, verdict)


def request(task: Task, attempt: Solution | None, verdict: Verdict | None) -> Request:
    return Request(
        purpose="refinement" if attempt else "direct",
        messages=(Message("user", "?"),),
        task=task,
        seed=0,
        temperature=0.0,
        top_p=1.0,
        max_tokens=512,
        parent=attempt,
        verdict=verdict,
    )


def code_of(task: Task, completion: Completion) -> str:
    code = parse_reply(task, completion.text).code
    assert code is not None
    return code


def passes(box: Sandbox, task: Task, code: str) -> bool:
    return next(verify(box, [Job("r", task, code)])).passed


# ---- planted bugs -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("good", "bad"),
    [
        ("x > 7", "x > 3"),  # a constant the task names
        ("x > 7", "x < 7"),
        ("x > 7", "x >= 7"),
        ("x > 7", "7 > x"),
        ("total = 0", "total = 1"),
        ("total += 1", "total -= 1"),
        ("total += 1", "total += 2"),
        ("return total", "return x"),
        ("return total", "return totl"),
        ("    return total", "        return total"),
        ("in xs:", "in xs"),
    ],
)
def test_a_planted_bug_is_mended_by_one_edit(
    box: Sandbox, teacher: RepairTeacher, good: str, bad: str
) -> None:
    assert good in RIGHT
    wrong = RIGHT.replace(good, bad)
    answer = teacher.complete([ask(box, MAXIMUM, wrong)])[0]
    assert answer.note.startswith("edit: 1 change")
    code = code_of(MAXIMUM, answer)
    assert passes(box, MAXIMUM, code)
    changed = set(code.splitlines()) ^ set(wrong.splitlines())
    assert len(changed) <= 2  # the one line, before and after
    assert "# how many" in code or bad == "total = 1"


def test_a_lost_statement_comes_back_from_the_solution(
    box: Sandbox, teacher: RepairTeacher
) -> None:
    task = replace(MAXIMUM, reference=RIGHT.replace("# how many", "# the count"))
    wrong = RIGHT.replace("            total += 1\n", "            pass\n")
    answer = teacher.complete([ask(box, task, wrong)])[0]
    assert answer.note.startswith("hunks: 1 of 2, ")
    assert code_of(task, answer).strip() == RIGHT.strip()  # the comment is the attempt's own


def test_it_says_so_when_it_rewrote_or_gave_up(box: Sandbox, teacher: RepairTeacher) -> None:
    hopeless = "def count(xs):\n    print(xs)\n"
    answer = teacher.complete([ask(box, MAXIMUM, hopeless)])[0]
    assert answer.note.startswith("rewrote: ")
    assert passes(box, MAXIMUM, code_of(MAXIMUM, answer))
    unknown = replace(MAXIMUM, reference=None)
    answer = teacher.complete([ask(box, unknown, hopeless)])[0]
    assert answer.note.startswith("gave up: ")
    assert answer.text == ""
    assert answer.finish == "stop"
    answer = teacher.complete([ask(box, MAXIMUM, None)])[0]
    assert answer.note == "rewrote: no code to repair"


def test_not_asked_to_stay_close_it_gives_its_own_solution(box: Sandbox) -> None:
    free = RepairTeacher(box, rewrites=True)
    answer = free.complete([ask(box, MAXIMUM, RIGHT.replace(">", "<"))])[0]
    assert answer.note == "rewrote: not asked to stay close"
    assert code_of(MAXIMUM, answer) == MAXIMUM.reference
    assert free.identity != RepairTeacher(box).identity


def test_without_feedback_it_searches_by_the_seen_tests_alone(
    box: Sandbox, teacher: RepairTeacher
) -> None:
    request = ask(box, MAXIMUM, RIGHT.replace(">", "<"))
    assert request.verdict is not None
    told = known_tests(request)
    blind = known_tests(replace(request, verdict=None))
    assert blind == MAXIMUM.seen_tests
    assert set(told) > set(blind)


def test_without_a_solution_an_edit_is_still_found(box: Sandbox, teacher: RepairTeacher) -> None:
    unknown = replace(MAXIMUM, reference=None)
    answer = teacher.complete([ask(box, unknown, RIGHT.replace(">", "<"))])[0]
    assert answer.note.startswith("edit: ")
    assert passes(box, unknown, code_of(unknown, answer))


def test_the_budget_is_kept(box: Sandbox) -> None:
    wrong = RIGHT.replace("total += 1", "total = 1")
    stingy = RepairTeacher(box, max_candidates=1)
    answer = stingy.complete([ask(box, MAXIMUM, wrong)])[0]
    assert answer.note == "rewrote: tried 1 candidate"
    assert stingy.identity != RepairTeacher(box).identity


# ---- lab tasks --------------------------------------------------------------------------------


def chain_task(*steps: tuple[str, dict[str, str]]) -> Task:
    chain = tuple(Link(STEPS[name], params) for name, params in steps)
    task = family.make_task(chain, family.instruction(random.Random(0), chain))
    assert task is not None
    return task


THREE = chain_task(("keep_above", {"k": "2"}), ("multiply", {"k": "3"}), ("sum", {}))


def loop_program(task: Task) -> str:
    chain = family.chain_of(task)
    assert chain
    return family.program(chain, "loop")


@pytest.mark.parametrize(
    ("good", "bad", "note"),
    [
        ("v > 2", "v > 4", "edit: 1 change,"),
        ("v > 2", "v < 2", "edit: 1 change,"),
        ("v * 3", "v + 3", "edit: 1 change,"),
        ("for v in b", "for v in a", "edit: statements left out or rewired"),
        ("        b.append(v * 3)\n", "        b.insert(0, v % 3)\n", "hunks: 1 of 3 steps"),
        ("        b.append(v * 3)\n", "        b.append(v * 3))\n", "edit: 1 change,"),
        ("    b = []\n    for v in a:\n        b.append(v * 3)\n", "    b = a\n", "hunks: 1 of 3"),
        ("    b = []\n    for v in a:\n        b.append(v * 3)\n", "", "hunks: 1 of 3 steps"),
    ],
)
def test_a_wrong_step_is_mended_and_the_others_stay(
    box: Sandbox, teacher: RepairTeacher, good: str, bad: str, note: str
) -> None:
    right = loop_program(THREE)
    assert good in right
    answer = teacher.complete([ask(box, THREE, right.replace(good, bad))])[0]
    assert answer.note.startswith(note)
    code = code_of(THREE, answer)
    assert passes(box, THREE, code)
    assert code.splitlines()[:4][-1] == right.splitlines()[:4][-1] or "v > 2" in good


def test_two_wrong_constants_are_two_edits(box: Sandbox, teacher: RepairTeacher) -> None:
    wrong = loop_program(THREE).replace("v > 2", "v > 4").replace("v * 3", "v * 2")
    answer = teacher.complete([ask(box, THREE, wrong)])[0]
    assert answer.note.startswith("edit: 2 changes")
    assert passes(box, THREE, code_of(THREE, answer))


def test_an_attempt_in_another_style_keeps_its_style(box: Sandbox, teacher: RepairTeacher) -> None:
    assert THREE.reference
    wrong = THREE.reference.replace("v * 3", "v * 2")
    answer = teacher.complete([ask(box, THREE, wrong)])[0]
    assert answer.note.startswith("edit: 1 change")
    assert code_of(THREE, answer).strip() == THREE.reference.strip()


def test_the_same_question_has_the_same_answer(box: Sandbox, teacher: RepairTeacher) -> None:
    for task in lab.load(count=6, seed=21):
        chain = family.chain_of(task)
        assert chain
        question = ask(box, task, family.program(chain[:-1] or chain, "loop"))
        first, second = (RepairTeacher(box).complete([question])[0] for _ in range(2))
        assert (first.text, first.note) == (second.text, second.note)


def test_direct_answers_are_the_reference_in_the_teachers_style(teacher: RepairTeacher) -> None:
    answer = teacher.complete([request(THREE, None, None)])[0]
    assert code_of(THREE, answer).strip() == (THREE.reference or "").strip()
    assert answer.note == "reference"
    nothing = teacher.complete([request(replace(THREE, reference=None), None, None)])[0]
    assert (nothing.text, nothing.finish) == ("", "stop")
    assert "no answer" in nothing.note


def test_a_program_with_a_fence_in_it_arrives_whole(teacher: RepairTeacher) -> None:
    program = 'def count(xs):\n    text = """\n```\n"""\n    return len(text)'
    task = replace(MAXIMUM, reference=program)
    answer = teacher.complete([request(task, None, None)])[0]
    assert code_of(task, answer).strip() == program


def test_it_makes_no_attempts(teacher: RepairTeacher) -> None:
    with pytest.raises(UserError, match="makes no attempts"):
        teacher.complete([replace(request(THREE, None, None), purpose="attempt")])


# ---- tasks it is asked for --------------------------------------------------------------------


def test_it_writes_tasks_and_calls_and_counts_as_if_paid(teacher: RepairTeacher) -> None:
    brief = Brief(number=0, count=2, calls=8, parent=MAXIMUM)
    asked = replace(request(MAXIMUM, None, None), brief=brief, max_tokens=3000)
    for purpose in ("task", "calls"):
        answer = teacher.complete([replace(asked, purpose=purpose)])[0]
        assert answer.text, answer.finish
        assert answer.usage.output_tokens == len(answer.text) // 4 > 0
        assert answer.usage.input_tokens == len(asked.prompt) // 4
    assert answer.finish == "stop"


# ---- what it may know -------------------------------------------------------------------------


def test_hidden_tests_are_not_seen(box: Sandbox, teacher: RepairTeacher) -> None:
    """Hidden tests that contradict the visible ones do not move the repair."""
    wrong = RIGHT.replace("x > 7", "x > 3")
    honest = ask(box, MAXIMUM, wrong)
    shown = known_tests(honest)
    assert set(shown) <= {*MAXIMUM.seen_tests, MAXIMUM.tests[2]}
    lies = tuple(
        t if t in shown else replace(t, expected="12345") for t in MAXIMUM.tests
    )  # the failing one is in the verdict
    contradicted = replace(MAXIMUM, tests=lies)
    answers = [teacher.complete([replace(honest, task=t)])[0] for t in (MAXIMUM, contradicted)]
    assert answers[0].text == answers[1].text
    assert answers[0].note == answers[1].note
    assert not passes(box, contradicted, code_of(MAXIMUM, answers[1]))


def test_what_earlier_tries_revealed_is_used(box: Sandbox, teacher: RepairTeacher) -> None:
    task = replace(MAXIMUM, seen_tests=(Test("count([8, 3, 8])", "2"),))
    results = (TestResult(MAXIMUM.tests[0].call, "failed", "2", "3"),)
    told = Verdict("a", "failed", results=results)
    wrong = RIGHT.replace("x > 7", "x > 0")
    attempt = Solution("a", task.task_id, "attempt", "me", 1, wrong, wrong)
    first = request(task, attempt, told)
    assert known_tests(first) == (task.tests[0], *task.seen_tests)
    answer = teacher.complete([first])[0]
    refused = Solution("r", task.task_id, "refinement", "lab", 1, "", code_of(task, answer))
    later = (
        TestResult(task.tests[0].call, "passed"),
        TestResult(task.tests[1].call, "passed"),
        TestResult(task.tests[2].call, "failed", "1", "3"),
    )
    second = replace(first, earlier=((refused, Verdict("r", "failed", results=later)),))
    assert known_tests(second) == (task.tests[0], task.tests[2], *task.seen_tests)
    again = teacher.complete([second])[0]
    assert code_of(task, again) != refused.code


def test_constants_are_mined_from_the_words_alone() -> None:
    hints = hints_of('Keep 3 words with the letter b, join with -, then add "abc" 12 times.')
    assert hints.numbers == (3, 12)
    assert {"b", "-", "abc"} <= set(hints.texts)
    assert "k" not in hints.texts


# ---- the parts --------------------------------------------------------------------------------


@given(st.integers(0, 10**6), st.sampled_from(["loop", "chain", "nested"]))
@settings(max_examples=40, deadline=None)
def test_edits_parse_differ_and_are_one_change(seed: int, style: family.Style) -> None:
    rng = random.Random(seed)
    chain = family.draw_chain(rng, rng.randint(1, 4))
    code = family.program(chain, style)
    found = list(single_edits(code, hints_of("by 3 and b"), limit=60))
    assert found or style != "loop"  # "return s.split()" holds nothing to change
    assert len(found) == len(set(found)) <= 60
    for candidate in found:
        assert candidate != code
        assert parse(candidate) is not None


@given(st.text(alphabet="def f(x):\n \t()[]'\"é+=1ab", max_size=80))
@settings(max_examples=150, deadline=None)
def test_no_text_breaks_the_edits(text: str) -> None:
    for candidate in single_edits(text, hints_of(text), limit=20):
        assert parse(candidate) is not None
    blocks.take_apart(text, "f")


def test_edits_keep_to_their_lines() -> None:
    code = loop_program(THREE)
    for candidate in single_edits(code, hints_of(""), lines=range(4, 5)):
        assert candidate.splitlines()[:3] == code.splitlines()[:3]
        assert candidate.splitlines()[-3:] == code.splitlines()[-3:]


def test_renaming_leaves_strings_alone() -> None:
    code = 'a = []\nfor w in b:\n    a.append("a" + w + "é")\n'
    assert rename(code, {"a": "c"}) == 'c = []\nfor w in b:\n    c.append("a" + w + "é")\n'


@given(st.integers(0, 10**6))
@settings(max_examples=40, deadline=None)
def test_a_program_taken_apart_goes_back_together(seed: int) -> None:
    rng = random.Random(seed)
    chain = family.draw_chain(rng, rng.randint(1, 4))
    for style in ("loop", "chain"):
        code = family.program(chain, style)
        function = blocks.take_apart(code, "f")
        assert function
        assert len(function.blocks) == len(chain)
        made = blocks.assemble(function, chain, blocks.Plan(tuple(range(len(chain)))))
        assert made
        assert made.code == code


def test_plans_keep_most_first() -> None:
    kept = [plan.kept for plan in blocks.plans(3, 3)]
    assert kept == sorted(kept, reverse=True)
    assert kept.count(3) == 1
    assert kept.count(2) == 9
    assert min(kept) == 1


def test_partial_merges_are_proper_and_smallest_first() -> None:
    old, new = "a = 1\nb = 2\nc = 3\nd = 4\n", "a = 1\nb = 0\nc = 3\nd = 0\ne = 5\n"
    found = list(hunks.partial_merges(old, new))
    assert [(n, of) for _, n, of in found] == [(1, 2), (1, 2)]
    assert new not in [code for code, *_ in found]
    assert hunks.similarity(old, old) == 1.0
