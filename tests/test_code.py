"""The code domain: prompts, feedback, replies read back, labels aligned with their header."""

from __future__ import annotations

import ast
import re
import symtable
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from conftest import make_task
from persd.domains import code as domain
from persd.domains.code import (
    Misaligned,
    label,
    parse_reply,
    refine_prompt,
    task_prompt,
    teacher_refine,
    teacher_retry,
    undefined_names,
)
from persd.records import Status, Task, TestResult, Verdict

HEADER_WITH_DOCSTRING = '''from typing import List


def f(x: List[int]) -> int:
    """What f does.

    >>> f([1])
    1
    """
'''


def a_task(header: str = "def f(x):\n", instruction: str = "Do it.", name: str = "f") -> Task:
    return Task("t", instruction, header, name)


def program_of(task: Task, completion: str) -> str:
    return task_prompt(task) + completion


def run(program: str, name: str, *args: Any) -> tuple[str, Any]:
    """What a call of a program of ours gives: its value, or the type of its exception."""
    scope: dict[str, Any] = {"__name__": "program"}
    try:
        exec(compile(program, "<program>", "exec"), scope)  # noqa: S102
        return "value", scope[name](*args)
    except Exception as error:
        return "error", type(error).__name__


# ---- prompts -----------------------------------------------------------------------------------


def test_task_prompt_is_instruction_and_header() -> None:
    assert task_prompt(a_task()) == '"""\nDo it.\n"""\n\ndef f(x):\n'
    assert task_prompt(a_task(HEADER_WITH_DOCSTRING, "")) == HEADER_WITH_DOCSTRING


@given(st.text(st.characters(exclude_categories=("Cs", "Cc")), max_size=40))
def test_task_prompt_is_a_program_whatever_the_instruction(instruction: str) -> None:
    tree = ast.parse(program_of(a_task(instruction=f"Say {instruction}"), "    return x\n"))
    assert isinstance(tree.body[-1], ast.FunctionDef)


@pytest.mark.parametrize("text", ['Print """ thrice', "Use \\N and \\x and \\u", "end \\", 'a "'])
def test_task_prompt_survives_quotes_and_backslashes(text: str) -> None:
    prompt = task_prompt(a_task(instruction=text))
    assert ast.parse(f"{prompt}    pass\n").body
    assert "Use" not in text or "\\N" in prompt


@pytest.mark.parametrize(
    "task", [a_task(), a_task(HEADER_WITH_DOCSTRING, "")], ids=["instruction", "docstring"]
)
def test_refine_prompt_ends_as_the_task_prompt(task: Task) -> None:
    attempt = f"{task.header}    return x + 1\n"
    prompt = domain.refine_prompt(task, attempt, "ERROR: TypeError: no")
    assert prompt.endswith("\n\n" + task_prompt(task))
    order = [prompt.index(part) for part in ("return x + 1", "ERROR: TypeError: no")]
    assert order == sorted(order)
    assert prompt.count(task.instruction or "What f does.") == 2


def test_refine_prompt_shows_the_header_to_an_attempt_without_it() -> None:
    task = a_task(HEADER_WITH_DOCSTRING, "")
    prompt = domain.refine_prompt(task, "def g(): pass", "ERROR: NameError: f")
    assert prompt.count("What f does.") == 2


# ---- feedback ----------------------------------------------------------------------------------


def verdict(status: Status, *results: TestResult, reason: str = "") -> Verdict:
    return Verdict("s", status, reason=reason, results=results)


def test_feedback_of_a_wrong_value_is_of_the_first_failing_test() -> None:
    found = verdict(
        "failed",
        TestResult("f(1)", "passed", "1", "1"),
        TestResult("f([2], k='(')", "failed", "3", "4"),
        TestResult("f(9)", "failed", "9", "0"),
    )
    assert domain.feedback(found) == (
        "ERROR: AssertionError\nINPUT: ([2], k='(')\nOUTPUT: 4\nEXPECTED: 3"
    )


def test_feedback_says_what_was_printed_instead_of_returned() -> None:
    found = verdict("failed", TestResult("f(1)", "failed", "1", "None", stdout="1\n"))
    assert "OUTPUT: None (printed: 1)" in domain.feedback(found)


def test_feedback_finds_the_arguments_of_a_wrapped_call() -> None:
    found = verdict("failed", TestResult("sorted(f(1, 2))", "failed", "[1]", "[]"))
    assert "INPUT: (1, 2)\n" in domain.feedback(found)


@pytest.mark.parametrize(
    ("found", "text"),
    [
        (
            verdict("error", TestResult("f(1)", "error", error_type="TypeError", message="bad")),
            "ERROR: TypeError: bad",
        ),
        (
            verdict("syntax", TestResult("", "error", error_type="IndentationError", message="x")),
            "ERROR: IndentationError: x",
        ),
        (verdict("syntax"), "ERROR: SyntaxError"),
        (verdict("error", reason="missing entry point"), "missing entry point"),
        (verdict("timeout", reason="over 3 s of CPU"), "ERROR: TimeoutError: "),
        (verdict("memory"), "ERROR: MemoryError: "),
        (verdict("crashed", reason="SIGABRT"), "(SIGABRT)"),
    ],
)
def test_feedback_of_other_failures_is_a_type_and_a_message(found: Verdict, text: str) -> None:
    assert text in domain.feedback(found)
    assert "None" not in domain.feedback(found)


@pytest.mark.parametrize("status", ["passed", "not_run"])
def test_what_is_no_failure_has_no_feedback(status: Status) -> None:
    with pytest.raises(ValueError, match=status):
        domain.feedback(verdict(status))


def test_long_values_are_shortened_and_say_so() -> None:
    found = verdict("failed", TestResult("f(1)", "failed", "7" * 5000, "0"))
    text = domain.feedback(found)
    assert len(text) < 500
    assert "4760 more characters" in text


# ---- the teacher's chats -----------------------------------------------------------------------


def test_without_feedback_nobody_is_told_what_the_judge_said() -> None:
    task = make_task()
    told = refine_prompt(task, "def add(a, b):\n    return a\n", "ERROR: NameError: x")
    bare = refine_prompt(task, "def add(a, b):\n    return a\n", "")
    assert "ERROR" in told
    assert bare == told.replace("ERROR: NameError: x\n\n", "")
    messages = teacher_refine(task, "def add(a, b): ...", "", None)
    assert "does not pass" in messages[-1].content
    assert "with this result" not in messages[-1].content
    assert teacher_retry(messages, "reply", "")[-1].content.startswith(
        "That repair was executed and does not pass.\n"
    )


def test_a_teacher_that_is_free_is_not_told_to_stay_close() -> None:
    task = make_task()
    for direct in (None, "def add(a, b):\n    return a + b\n"):
        close = teacher_refine(task, "def add(a, b): ...", "ERROR: E", direct)
        free = teacher_refine(task, "def add(a, b): ...", "ERROR: E", direct, close=False)
        said = "\n".join(m.content for m in free)
        assert "stay closest" in close[0].content
        assert "closest" not in said
        assert "as little" not in said
        assert "ERROR: E" in free[-1].content
        assert len(free) == len(close)


def test_teacher_sees_its_own_answer_as_its_earlier_turn() -> None:
    task = a_task()
    alone = domain.teacher_refine(task, "def f(x):\n    return 1\n", "ERROR: E", None)
    after = domain.teacher_refine(task, "def f(x):\n    return 1\n", "ERROR: E", "def f(x): ...")
    assert [m.role for m in alone] == ["system", "user"]
    assert [m.role for m in after] == ["system", "user", "assistant", "user"]
    assert after[:2] == domain.teacher_direct(task)
    assert alone[0] == after[0]
    for chat in (alone, after):
        assert "ERROR: E" in chat[-1].content
        assert "return 1" in chat[-1].content


def test_a_fence_inside_an_attempt_does_not_end_its_block() -> None:
    attempt = 'def f(x):\n    """\n```\nx\n```\n    """\n'
    last = domain.teacher_refine(a_task(), attempt, "ERROR: E", None)[-1].content
    assert f"````python\n{attempt}````" in last


# ---- replies -----------------------------------------------------------------------------------

BODY = "    return x + 1\n"
WHOLE = "def f(x):\n    return x + 1\n"


@pytest.mark.parametrize(
    ("reply", "code", "note"),
    [
        (BODY, WHOLE, ""),
        (BODY.replace("\n", "\r\n"), WHOLE, ""),
        ("\treturn x + 1\n", "def f(x):\n\treturn x + 1\n", ""),
        (WHOLE, WHOLE, ""),
        (f"```python\n{WHOLE}```", WHOLE, ""),
        (f"```\n{WHOLE}```", WHOLE, ""),
        (f"Sure! Here:\n\n```python\n{WHOLE}", WHOLE, ""),
        ("1. Code:\n   ```py\n   def f(x):\n       return x + 1\n   ```\n", WHOLE, ""),
        (f"```python\n{WHOLE}```\nUse:\n```python\nprint(f(2))\n```", WHOLE, "1 of 2 blocks"),
        (f"```bash\npip install x\n```\n```python\n{WHOLE}```", WHOLE, ""),
        (f"```python\ndef f(x):\n    pass\n```\nBetter:\n```python\n{WHOLE}```", WHOLE, "the last"),
        (f"```\n{BODY}```", WHOLE, "a body without its header"),
        ("```\nreturn x + 1\n```", WHOLE, "a body without its header"),
        (f"{BODY}```\nThat is all.", WHOLE, "trimmed"),
        (f"{BODY}\nprint(f(3))\na = int(input())\nprint(f(a))\n# done\n", WHOLE, "left out 5"),
        (f"{BODY}\nif __name__ == '__main__':\n    main()\n", WHOLE, "left out"),
        (f"HEADER:\n{WHOLE}", WHOLE, "trimmed 1 line"),
        ("", None, "empty"),
        ("  \n", None, "empty"),
        ("I am sorry, I cannot help with that.", None, "no code"),
        ("```python\n\n```", None, "empty"),
    ],
)
def test_replies_are_read(reply: str, code: str | None, note: str) -> None:
    parsed = parse_reply(a_task(), reply)
    assert (parsed.code and parsed.code.rstrip()) == (code and code.rstrip())
    assert note in parsed.note
    assert bool(parsed.note) == bool(note)


@pytest.mark.parametrize(
    "rest",
    [
        "def other(y):\n    for i in",
        "This function adds one.\n",
        "class Half:\n    def __init__(self,",
        '"""\nNext task: isn\'t it\n',
        "x = (1,\n",
    ],
)
def test_what_a_base_model_runs_on_with_is_trimmed_and_noted(rest: str) -> None:
    parsed = parse_reply(a_task(), f"{BODY}\n{rest}")
    assert parsed.code is not None
    assert parsed.code.rstrip() == WHOLE.rstrip()
    assert re.match(r"trimmed \d line", parsed.note)


def test_helpers_imports_classes_and_constants_stay() -> None:
    reply = (
        "```python\nimport math\nfrom collections import deque\n\nLIMIT = 3\n\n\n"
        "class Box:\n    pass\n\n\ndef helper(x):\n    return math.sqrt(x)\n\n\n"
        "def f(x):\n    return helper(x) + LIMIT, Box, deque\n```"
    )
    code = parse_reply(a_task(), reply).code or ""
    assert all(
        part in code for part in ("import math", "deque", "LIMIT = 3", "class Box", "helper")
    )
    run_on = "    return helper(x)\n\n\ndef helper(x):\n    return K\n\n\nK = 3\nprint(f(1))\n"
    code = parse_reply(a_task(), run_on).code or ""
    assert run(code, "f", 0) == ("value", 3)
    assert "print" not in code


def test_a_helper_in_a_block_of_its_own_is_joined() -> None:
    reply = (
        "First:\n```python\ndef helper(x):\n    return x + 1\n```\nThen:\n"
        "```python\ndef f(x):\n    return helper(x)\n```"
    )
    assert run(parse_reply(a_task(), reply).code or "", "f", 1) == ("value", 2)


def test_the_headers_imports_come_with_a_whole_function_that_needs_them() -> None:
    reply = "```python\ndef f(x: List[int]) -> int:\n    return len(x)\n```"
    code = parse_reply(a_task(HEADER_WITH_DOCSTRING, ""), reply).code or ""
    assert run(code, "f", [1, 2]) == ("value", 2)


@pytest.mark.parametrize("reply", ["    return x +\n", "    return (x\n", "return x\nx = 1\n"])
def test_what_does_not_parse_is_kept_whole_for_the_judge(reply: str) -> None:
    parsed = parse_reply(a_task(), reply)
    assert parsed.code is not None
    assert reply in parsed.code
    assert parsed.note == "does not parse"


def test_another_function_is_not_taken_for_the_body() -> None:
    parsed = parse_reply(a_task(), "```python\ndef g(x):\n    return x\n```")
    assert (parsed.code or "").startswith("def g(x)")
    assert parsed.note == "no block defines f"


def test_a_fence_within_a_string_is_part_of_the_program() -> None:
    reply = "    '''doc\n```\n'''\n    return x\n"
    assert parse_reply(a_task(), reply).code == f"def f(x):\n{reply}"


PIECES = st.sampled_from(
    [
        "    return x", "def f(x):", "```python", "```", "~~~", "prose, isn't it", "", "\t",
        "import re", "class A:", "print(f(1))", '"""', "'''", "(", "]", "# c",
        "    if x:", "        pass",
        "\x0c", "\ufeff", "x = 1", "@dec", "return", "    '''", "\x00", "\ud800", "\r", "lambda:",
    ]
)  # fmt: skip


@given(st.lists(PIECES, max_size=12))
@settings(max_examples=300)
def test_any_reply_is_read_without_an_error(lines: list[str]) -> None:
    reply = "\n".join(lines)
    parsed = parse_reply(a_task(), reply)
    if parsed.code is None:
        assert parsed.note
        return
    refused = set[str]()
    try:
        assert label(a_task(), parsed.code).endswith("\n")
    except Misaligned as misaligned:
        refused.add(misaligned.reason)
    assert refused <= {"unparsable", "undefined_names", "signature"}


# ---- labels ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        BODY,
        "    # why\n    y = x  # and how\n\n    return y\n",
        "\tif x:\n\t\treturn 1\n\treturn 2\n",
        "  return x\n",
        "    '''own doc'''\n    return x\n\n\ndef helper():\n    return 1\n",
    ],
)
def test_a_continuation_is_its_own_label(body: str) -> None:
    task = a_task()
    assert label(task, task.header + body) == body
    assert label(task, (task.header + body).replace("\n", "\r\n")) == body
    assert label(task, f"\n{task_prompt(task)}\n{body}\n\n") == body


def test_blank_lines_around_a_label_go() -> None:
    assert label(a_task(), "def f(x):\n\n  \n    return x\n\n\n") == "    return x\n"


def aligned(header: str, code: str, name: str = "f", instruction: str = "Do it.") -> str:
    task = a_task(header, instruction, name)
    return program_of(task, label(task, code))


def test_renamed_parameters_get_the_headers_names_where_they_are_meant() -> None:
    code = (
        "def f(lst, k):\n"
        "    # keep lst as it is\n"
        "    g = lambda lst: lst + 1  # another lst\n"
        "    lst = [k for k in lst] + [g(k)]\n"
        "    return lst, 'lst', lst.count(k)\n"
    )
    program = aligned("def f(values, item):\n", code)
    assert "# keep lst as it is\n    g = lambda lst: lst + 1  # another lst\n" in program
    assert "    values = [k for k in values] + [g(item)]\n" in program
    assert run(program, "f", [1], 2) == run(code, "f", [1], 2)


@pytest.mark.parametrize(
    ("header", "code", "args"),
    [
        # the header's name is a builtin the body uses: the answer's function is called
        ("def f(list):\n", "def f(lst):\n    return list(lst) + [1]\n", ([2],)),
        # the header's name is a local of the body: one line binds the answer's name
        ("def f(s):\n", "def f(text):\n    s = set()\n    s.add(text)\n    return s\n", ("a",)),
        # swapped
        ("def f(a, b):\n", "def f(b, a):\n    return b - a\n", (5, 3)),
        ("def f(a, b):\n", "def f(b, a):\n    def g():\n        nonlocal a\n        a += 1\n"
         "    g()\n    return b - a\n", (5, 3)),
        # a name an inner scope would capture
        ("def f(i):\n", "def f(n):\n    return [n * i for i in range(n)]\n", (3,)),
        ("def f(i):\n", "def f(n):\n    return (lambda i: n + i)(1)\n", (3,)),
        # except ... as, import ... as, del
        ("def f(e):\n", "def f(n):\n    try:\n        1 / n\n    except ZeroDivisionError as e:\n"
         "        return str(e)\n    return n\n", (0,)),
        ("def f(m):\n", "def f(n):\n    import math as m\n    return m.floor(n)\n", (1.5,)),
        # a memo of its own, decorators, extra defaults, star parameters
        ("def f(n):\n", "def f(n, memo={}):\n    if n < 2:\n        return n\n"
         "    if n not in memo:\n        memo[n] = f(n - 1, memo) + f(n - 2, memo)\n"
         "    return memo[n]\n", (30,)),
        ("def f(n):\n", "from functools import lru_cache\n\n\n@lru_cache(maxsize=None)\ndef f(n):\n"
         "    return n if n < 2 else f(n - 1) + f(n - 2)\n", (60,)),
        ("def f(a, b):\n", "def f(*args):\n    return sum(args)\n", (1, 2)),
        ("def f(a, b=2):\n", "def f(x, y=5):\n    return x + y\n", (1, 3)),
        ("def f(a, step=0):\n", "def f(a):\n    return f(a - 1) if a else 'end'\n", (2,)),
        ("def f(*a, **k):\n", "def f(*xs, **kw):\n    return len(xs), kw\n", (1, 2)),
        # recursion by keyword
        ("def f(n):\n", "def f(m):\n    return 0 if m == 0 else f(m=m - 1) + 1\n", (3,)),
        # one line, tabs, a lambda, two definitions
        ("def f(x):\n", "def f(y): return y + 1\n", (1,)),
        ("def f(x):\n", "def f(y):\n\tif y:\n\t\treturn y\n\treturn 0\n", (1,)),
        ("def f(x):\n", "f = lambda y: y + 1\n", (1,)),
        ("def f(x):\n", "def f(y):\n    return 1\n\n\ndef f(y):\n    return 2\n", (1,)),
        # what the function needs
        ("def f(x):\n", "import math\nfrom re import sub as s\n\nK = 3\n\n\ndef f(y):\n"
         "    return math.floor(y) + K, s('a', 'b', 'a')\n", (1.5,)),
        ("def f(x):\n", "import math\n\n\ndef g(z):\n    return math.floor(z)\n\n\n"
         "def f(y):\n    return g(y) + math.ceil(y)\n", (1.5,)),
        ("def f(x):\n", "CACHE = {}\n\n\ndef f(y):\n    CACHE[y] = y\n    return CACHE\n", (1,)),
        ("def f(x):\n", "N = 0\n\n\ndef f(y):\n    global N\n    N += y\n    return N\n", (4,)),
        ("def f(x):\n", "from math import *\n\n\ndef f(y):\n    return floor(y)\n", (1.5,)),
        ("def f(x):\n", "def f(y):\n    return eval('y + 1')\n", (1,)),
        ("def f(x):\n", "class A:\n    v = 1\n\n    def f(self):\n        return self.v\n\n\n"
         "def f(y):\n    return A().f() + y\n", (1,)),
        # a generator, an f-string, a nested function of the same name
        ("def f(x):\n", "def f(y):\n    return f'{y!r:>{y}} {\"y\"}'\n", (5,)),
        ("def f(x):\n", "def f(y):\n    def f(x):\n        return x + y\n    return f(y)\n", (5,)),
    ],
)  # fmt: skip
def test_what_is_aligned_behaves_as_before(header: str, code: str, args: tuple[Any, ...]) -> None:
    program = aligned(header, code)
    assert program.count('"""\n\ndef f(') == 1
    assert run(program, "f", *args) == run(code, "f", *args)
    again = [run(program, "f", *args)[0] for _ in range(2)]
    assert again == ["value", "value"]


def test_imports_and_constants_move_in_unless_a_helper_needs_them() -> None:
    code = (
        "import math\nimport re\nimport os\nLIMIT = 10\n\n\n"
        "def helper(x):\n    return re.escape(x)\n\n\n"
        "def f(x):\n    '''doc'''\n    return math.floor(LIMIT), helper(x)\n\n\nprint(f('a'))\n"
    )
    completion = label(a_task(), code)
    assert completion == (
        "    '''doc'''\n    import math\n    LIMIT = 10\n    return math.floor(LIMIT), helper(x)\n"
        "\n\nimport re\n\n\ndef helper(x):\n    return re.escape(x)\n"
    )


def test_a_header_with_a_docstring_sets_the_bodys_indentation() -> None:
    task = a_task(HEADER_WITH_DOCSTRING, "")
    code = "def f(xs):\n  '''doc'''\n  # c\n  text = '''\n  kept\n'''\n  if xs:\n    return text\n"
    completion = label(task, code)
    assert completion.startswith("    # c\n    text = '''\n  kept\n'''\n    if x:\n")
    assert run(program_of(task, completion), "f", [1]) == run(code, "f", [1])


def test_the_headers_own_helpers_are_not_repeated() -> None:
    task = a_task("def g(x):\n    return x\n\n\ndef f(x):\n")
    assert label(task, "def g(x):\n    return x\n\n\ndef f(y):\n    return g(y)\n") == (
        "    return g(x)\n"
    )


@pytest.mark.parametrize(
    ("header", "code", "reason"),
    [
        ("def f(x):\n", "def f(x:\n", "unparsable"),
        ("def f(x):\n", "def f(x):\n    return 1\n  return 2\n", "unparsable"),
        ("def f(x):\n", "def f(x):\n    return '\x00'\n", "unparsable"),
        ("def f(x):\n", "return 1\n", "unparsable"),
        ("def f(x):\n", "x = " + "(" * 300 + ")" * 300, "unparsable"),
        ("def f(x):\n", "def f(x):\n    return lost(x)\n", "undefined_names"),
        ("def f(x):\n", "def f(x):\n    return math.pi\n", "undefined_names"),
        ("def f(x):\n", "def g(x):\n    return x\n", "signature"),
        ("def f(x):\n", "class S:\n    def f(self, x):\n        return x\n", "signature"),
        ("def f(x):\n", "async def f(x):\n    return x\n", "signature"),
        ("def f(x):\n", "def f(x, y):\n    return x\n", "signature"),
        ("def f(x, y):\n", "def f(x):\n    return x\n", "signature"),
        ("def f(x):\n", "from math import floor as f\n", "signature"),
        ("x = 1\n", "def f(x):\n    return x\n", "signature"),
    ],
)
def test_what_cannot_be_aligned_is_refused_by_name(header: str, code: str, reason: str) -> None:
    with pytest.raises(Misaligned) as refused:
        label(a_task(header), code)
    assert refused.value.reason == reason
    assert refused.value.detail


def test_names_the_setup_binds_are_defined() -> None:
    task = Task("t", "Do it.", "def f(x):\n", "f", setup="import math\n")
    assert label(task, "def f(x):\n    return math.pi\n") == "    return math.pi\n"


# ---- random functions --------------------------------------------------------------------------

NAMES = ["a", "b", "i", "n", "lst", "list", "sum", "max", "text"]


@st.composite
def functions(draw: st.DrawFn) -> tuple[str, str, tuple[int, ...]]:
    """(header, a program whose parameters have other names, arguments)."""
    count = draw(st.integers(1, 3))
    old = draw(st.lists(st.sampled_from(NAMES), min_size=count, max_size=count, unique=True))
    new = draw(st.lists(st.sampled_from(NAMES), min_size=count, max_size=count, unique=True))
    known = list(old)
    lines: list[str] = []
    for _ in range(draw(st.integers(1, 5))):
        p, q = draw(st.sampled_from(known)), draw(st.sampled_from(NAMES))
        template = draw(st.sampled_from(TEMPLATES))
        target = draw(st.sampled_from(NAMES))
        lines += ["    " + line for line in template.format(p=p, q=q, t=target).split("\n")]
        known.append(target)
    lines.append(f"    return {', '.join(sorted(set(known)))}")
    program = f"import math\n\n\ndef f({', '.join(old)}):\n" + "\n".join(lines) + "\n"
    arguments = tuple(draw(st.integers(0, 6)) for _ in old)
    return f"def f({', '.join(new)}):\n", program, arguments


TEMPLATES = [
    "{t} = {p} + 1",
    "{t} = [{q} for {q} in range(3)][0] + {p}",
    "{t} = [{p} for {q} in range(3)][0]",
    "{t} = (lambda {q}: {q} * 2)({p})",
    "{t} = (lambda {q}: {p} * 2)(3)",
    "{t} = max([1, {p}])",
    "{t} = len(list(range({p} % 4)))",
    "{t} = sum({q} for {q} in range({p} % 5))",
    "def inner({q}):\n    return {q} + {p}\n{t} = inner(2)",
    "def inner():\n    nonlocal {p}\n    {p} = 7\n    return {p}\n{t} = inner()",
    "{t} = 0\nfor {q} in range(2):\n    {t} = {t} + {p}",
    "class Box:\n    {q} = {p}\n{t} = Box.{q}",
    "{t} = f'{{{p}}}' * 1",
    "{t} = math.floor(({q} := {p}) / 2)",
    "try:\n    {t} = 1 // {p}\nexcept ZeroDivisionError as {q}:\n    {t} = 9",
    "{t} = dict({p}=1)",
]


@given(functions())
@settings(max_examples=400, deadline=None)
def test_a_random_function_behaves_the_same_under_its_header(
    case: tuple[str, str, tuple[int, ...]],
) -> None:
    header, code, args = case
    try:
        compile(code, "<program>", "exec")
    except SyntaxError:
        assume(False)
    task = a_task(header)
    kind, value = run(code, "f", *args)
    assume(kind == "value")  # what a broken program breaks on may change
    program = program_of(task, label(task, code))
    assert run(program, "f", *args) == (kind, value)


@given(functions())
@settings(max_examples=100, deadline=None)
def test_a_body_under_its_own_header_is_kept_to_the_letter(
    case: tuple[str, str, tuple[int, ...]],
) -> None:
    _, code, _ = case
    try:
        compile(code, "<program>", "exec")
    except SyntaxError:
        assume(False)
    before, _, body = code.partition("):\n")
    task = a_task(f"{before}):\n")
    assert label(task, code) == body
    assert parse_reply(task, body).code == code
    assert parse_reply(task, f"Sure:\n```python\n{code}```\nDone.").code == code


# ---- undefined names ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("def f(x):\n    return x + y\n", ("y",)),
        ("def f(x):\n    return len(x)\n", ()),
        ("def f():\n    global g\n    g = 1\n\ndef h():\n    return g\n", ()),
        ("class A:\n    v = 1\n    def m(self):\n        return v\n", ("v",)),
        ("class A:\n    v = 1\n    w = v\n", ()),
        ("x = [i for i in range(3)]\ny = i\n", ("i",)),
        ("x = [(y := i) for i in range(3)]\nz = y\n", ()),
        ("def f(a=b):\n    pass\n", ("b",)),
        ("def f(a: T) -> U:\n    pass\n", ("T", "U")),
        ("try:\n    pass\nexcept E as e:\n    print(e)\n", ("E",)),
        ("import a.b as c, d.e\nc, d, a\n", ("a",)),
        ("from m import *\nanything\n", ()),
        (
            "match 1:\n    case {'k': v, **r}:\n        v, r\n    case [a, *b]:\n        a, b\n",
            (),
        ),
        ("with open('f') as (a, b):\n    a, b\n", ()),
        ("def f():\n    return f\n", ()),
        ("lambda x: x + q\n", ("q",)),
        ("for i in j:\n    pass\nelse:\n    i\n", ("j",)),
        (
            "def f():\n    x = 1\n    def g():\n        nonlocal x\n        x = 2\n    return g\n",
            (),
        ),
        ("print(f'{a} {b!r:{c}}')\n", ("a", "b", "c")),
        ("del z\n", ()),
        ("__name__, __file__\n", ()),
    ],
)
def test_undefined_names(source: str, names: tuple[str, ...]) -> None:
    assert undefined_names(source) == names


@given(functions())
@settings(max_examples=100, deadline=None)
def test_globals_agree_with_the_compilers_symbol_table(
    case: tuple[str, str, tuple[int, ...]],
) -> None:
    code = case[1].replace("import math", "") + "\nunknown\n"
    try:
        table = symtable.symtable(code, "<program>", "exec")
    except SyntaxError:
        assume(False)
    todo, unbound = [table], set[str]()
    bound = {s.get_name() for s in table.get_symbols() if s.is_assigned() or s.is_namespace()}
    while todo:
        scope = todo.pop()
        todo += scope.get_children()
        for symbol in scope.get_symbols():
            if symbol.is_referenced() and (symbol.is_global() or scope is table):
                unbound.add(symbol.get_name())
    known = {"list", "sum", "max", "len", "range", "ZeroDivisionError", "dict"}
    assert set(undefined_names(code)) == unbound - bound - known
