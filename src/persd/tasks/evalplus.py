"""HumanEval+ and MBPP+ (Liu et al. 2023): the tasks of both benchmarks, with many more tests.

Two files hold them. EvalPlus' own release (``HumanEvalPlus.jsonl``, ``MbppPlus.jsonl``) has
inputs and no outputs: what is expected is what the canonical solution returns, so it is run,
in the sandbox, as the file is read. The data sets of the Hub (``evalplus/humanevalplus``,
``evalplus/mbppplus``) have ``inputs = [...]`` and ``results = [...]`` in their ``test`` column,
which is read and never run; where it compares with a copy of the solution instead of
``results``, that is run in the sandbox too.

Every input becomes a test of one value, compared as EvalPlus compares. The tasks it has rules
of its own for get them here: three of MBPP+ are judged by whether something is found, eight by
the set of what is returned, four have more than one right answer (or any), and HumanEval/32 is
right where its polynomial is near zero; the last five are test code, which runs apart from the
program. An input whose outcome cannot be known (the solution fails, is too slow, or returns
what is no plain data or is too large) is left out and listed in ``meta["left_out"]``.

Seen tests are those of HumanEval and MBPP: the docstring's examples, and the assert that the
prompt shows, whose call is then not among the hidden ones. MBPP+ has MBPP's ids and splits.
"""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any, Literal

from persd.domains.names import parse
from persd.errors import WorkFailed
from persd.records import Task, Test
from persd.sandbox import Limits, Outcome, Program, Sandbox, codec
from persd.sandbox.compare import NotLiteral, literal
from persd.tasks import Split, humaneval, mbpp
from persd.tasks.hub import hub_rows
from persd.tasks.rows import (
    Fault,
    Row,
    Wrong,
    call_keys,
    is_literal,
    read_rows,
    shown,
)

Plus = Literal["humaneval+", "mbpp+"]
HUB_IDS: Mapping[Plus, str] = {
    "humaneval+": "evalplus/humanevalplus",
    "mbpp+": "evalplus/mbppplus",
}
#: Rows whose solutions are run together.
_TOGETHER = 16
#: A solution may take longer than an answer, but return no more than the judge takes.
_LIMITS = Limits(cpu_seconds=10.0, load_seconds=10.0)


def read(
    path: str | None, *, source: Plus, split: Split = "train", unsafe: bool = False
) -> Iterator[Task | Fault]:
    """The tasks of a local file of either kind (None: from the Hub), in its order.

    ``split`` is MBPP+'s (``persd.tasks.mbpp``). Raises UserError where solutions must be run
    and nothing here keeps them from the user's files, unless ``unsafe``; WorkFailed where the
    sandbox does not run them.
    """
    from persd.session import cores

    rows = read_rows(path) if path is not None else hub_rows(HUB_IDS[source], None, "test")
    drafts = _drafts(rows, source, split)
    with Sandbox(workers=cores(), unsafe=unsafe) as box:
        while group := list(islice(drafts, _TOGETHER)):
            for draft in _answered(box, group):
                yield draft if isinstance(draft, Fault) else _finished(draft)


@dataclass(frozen=True)
class _Draft:
    """A task on its way: what goes in, and what is known of what comes out."""

    row: Row
    task: Task
    inputs: tuple[tuple[Any, ...], ...]
    atol: float
    results: tuple[Any, ...] | None
    """One an input; None: the reference has to say."""
    left_out: Mapping[int, str] = field(default_factory=dict)
    """Inputs without a result, by their place, and why."""

    @property
    def calls(self) -> list[str]:
        """A test's call an input, as the task's rule has it made."""
        shape = _SHAPES.get(self.rule, "{}")
        return [shape.format(call_text(self.task.entry_point, args)) for args in self.inputs]

    @property
    def rule(self) -> str:
        rules = _MBPP_RULES if self.task.instruction else _HUMANEVAL_RULES
        return rules.get(self.task.entry_point, "")


def _drafts(
    rows: Iterator[Row | Fault] | Iterator[Row], source: Plus, split: Split
) -> Iterator[_Draft | Fault]:
    for row in rows:
        if isinstance(row, Fault):
            yield row
            continue
        try:
            _refuse_other(row, source)
            if source == "humaneval+":
                yield _draft(row, humaneval.described(row), 0)
            elif (number := mbpp.number_of(row)) in mbpp.IDS[split]:
                show = split != "all"
                task = mbpp.task_of(_mbpp_row(row), number, show_first=show, more=True)
                yield _draft(row, replace(task, tests=(), test_code=None), number)
        except Wrong as wrong:
            yield row.fault(wrong)


def _refuse_other(row: Row, source: Plus) -> None:
    """Raise Wrong for a row of the other benchmark."""
    given = row.fields.get("task_id")
    told = str(given).lower()
    other = "humaneval+" if told.startswith("humaneval/") else ""
    if told.startswith("mbpp/") or told.isdecimal():
        other = "mbpp+"
    if other and other != source:
        detail = f'"task_id" is {shown(given)}: this is no file of {source}'
        raise Wrong("wrong_benchmark", detail, f"Use {other} for it")


def _draft(row: Row, task: Task, number: int) -> _Draft:
    """The task with the inputs of its row, less those that a seen test of MBPP+ calls with.

    ``number`` is the task's in MBPP, 0 for HumanEval. Raises Wrong.
    """
    if "base_input" in row.fields or "plus_input" in row.fields:
        given = [*_list(row, "base_input"), *_list(row, "plus_input")]
        inputs = [_argument_list(i, number) for i in given]
        draft = _Draft(row, task, tuple(inputs), _atol(row.fields.get("atol", 0)), None)
    elif "test" in row.fields:
        draft = _from_test(row, task)
    else:
        raise Wrong(
            "missing_key",
            f'no "base_input" and "plus_input", and no "test" (the row has {row.keys})',
            "Give EvalPlus' release, or the data set of the Hub as JSON lines",
        )
    return _distinct(draft, frozenset() if not number else _seen_keys(task))


def _list(row: Row, key: str) -> list[Any]:
    found = row.fields.get(key)
    if found is None:
        raise Wrong("missing_key", f'no "{key}" (the row has {row.keys})', f'Add "{key}"')
    if not isinstance(found, list) or not all(isinstance(item, list) for item in found):
        raise Wrong("wrong_type", f'"{key}" is {shown(found)}, not a list of argument lists')
    return found


def _atol(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not value >= 0:
        raise Wrong("wrong_type", f'"atol" is {shown(value)}, not a tolerance')
    return float(value)


def _seen_keys(task: Task) -> frozenset[str]:
    keys = (call_keys(test.call, {task.entry_point}) for test in task.seen_tests)
    return frozenset().union(*keys)


def _distinct(draft: _Draft, seen: frozenset[str]) -> _Draft:
    """Each input once, and none that a seen test has. Raises Wrong where none is left."""
    places: dict[str, int] = {}
    for place, call in enumerate(draft.calls):
        if not (seen and call_keys(call, {draft.task.entry_point}) & seen):
            places.setdefault(call, place)
    if not places:
        raise Wrong("no_tests", "no input but those of its seen test", "Remove the row")
    kept = list(places.values())
    results = draft.results
    return replace(
        draft,
        inputs=tuple(draft.inputs[i] for i in kept),
        results=None if results is None else tuple(results[i] for i in kept),
    )


# ---- the Hub's rows --------------------------------------------------------------------------


def _from_test(row: Row, task: Task) -> _Draft:
    """The inputs, results and tolerance that a row's ``test`` is written with. Raises Wrong."""
    try:
        nodes = list(ast.walk(ast.parse(row.text("test"))))
        lists = {name: _assigned(nodes, name) for name in ("inputs", "results")}
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError) as error:
        raise Wrong("bad_test", f'"test" cannot be read: {error}') from None
    inputs, results = lists["inputs"], lists["results"]
    if inputs is None:
        plain = "Use humaneval for HumanEval itself, mbpp for MBPP"
        raise Wrong("bad_test", '"test" holds no inputs = [...]', plain)
    if results is not None and len(inputs) != len(results):
        told = f'"test" has {len(inputs)} inputs and {len(results)} results'
        raise Wrong("bad_test", told, "Download the file again")
    if not all(isinstance(item, (list, tuple)) for item in inputs):
        raise Wrong("bad_test", 'the inputs in "test" are no argument lists')
    known = None if results is None else tuple(results)
    return _Draft(row, task, tuple(map(tuple, inputs)), _test_atol(nodes), known)


def _assigned(nodes: Sequence[ast.AST], name: str) -> list[Any] | None:
    """The list a name is set to; None: it is not. Raises NotLiteral."""
    for node in nodes:
        if isinstance(node, ast.Assign) and [ast.unparse(t) for t in node.targets] == [name]:
            value = literal(node.value)
            if not isinstance(value, list):
                raise NotLiteral(f"{name} is no list")
            return value
    return None


def _test_atol(nodes: Sequence[ast.AST]) -> float:
    """The tolerance: last argument of ``assertion(.., exp, atol)``, or ``.. <= atol``."""
    for node in nodes:
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            if node.func.id == "assertion" and len(node.args) == 3:
                return _atol(literal(node.args[2]))
        elif isinstance(node, ast.Compare) and isinstance(node.ops[0], ast.LtE):
            return _atol(literal(node.comparators[0]))
    return 0.0


# ---- MBPP+ -----------------------------------------------------------------------------------


def _mbpp_row(row: Row) -> Row:
    """A row of either kind with the fields of MBPP's own: text, code, asserts. Raises Wrong."""
    if "test_list" in row.fields:
        return row
    prompt = row.text("prompt").strip().strip('"').strip()
    code, claims = row.text("canonical_solution"), row.text("assertion")
    try:
        body = parse(claims).body
    except SyntaxError as error:
        raise Wrong("bad_test", f'"assertion" does not parse: {error.msg}') from None
    asserts = [ast.unparse(node) for node in body if isinstance(node, ast.Assert)]
    imports = [ast.unparse(n) for n in body if isinstance(n, (ast.Import, ast.ImportFrom))]
    words, shown_one = _taken_apart(prompt)
    if shown_one in asserts:
        asserts.remove(shown_one)
        asserts.insert(0, shown_one)
    fields = {"text": words, "code": code, "test_list": asserts, "test_imports": imports}
    return Row({"task_id": row.fields.get("task_id"), **fields}, row.where)


def _taken_apart(prompt: str) -> tuple[str, str]:
    """A prompt's words, and the assert it ends with, as ``ast`` writes it; empty: none."""
    found = re.search(r"^assert\b", prompt, re.MULTILINE)
    if found is None:
        return prompt, ""
    try:
        claim = ast.unparse(ast.parse(prompt[found.start() :]).body[0])
    except (SyntaxError, ValueError):
        claim = ""
    return prompt[: found.start()].strip(), claim


def _argument_list(given: Sequence[Any], number: int) -> tuple[Any, ...]:
    """An input as MBPP task ``number`` takes it: JSON knows lists alone, where many of MBPP's
    functions take tuples, and three sets or complex numbers. Raises Wrong where it has another
    shape."""
    try:
        return tuple(_FORMS[_FORM_OF[number]](list(given))) if number in _FORM_OF else tuple(given)
    except (TypeError, ValueError, LookupError, AttributeError) as error:
        raise Wrong("bad_test", f"input {shown(list(given))} of MBPP/{number}: {error}") from None


def _tuples(value: Any) -> Any:
    """Every list in it as a tuple."""
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _inner(rows: Any) -> list[Any]:
    """A list whose lists are tuples."""
    return [tuple(item) if isinstance(item, list) else item for item in rows]


#: What is done with the argument list, by EvalPlus' mbpp_deserialize_inputs.
_FORMS: Mapping[str, Any] = {
    "tuples": lambda a: [tuple(x) for x in a],
    "lists of tuples": lambda a: [[tuple(x) for x in xs] for xs in a],
    "first a list of tuples": lambda a: [[tuple(x) for x in a[0]], a[1]],
    "second a tuple": lambda a: [a[0], tuple(a[1])],
    "first a tuple": lambda a: [tuple(a[0]), *a[1:]],
    "tuples of tuples": lambda a: [tuple(tuple(x) for x in xs) for xs in a],
    "tuple of some": lambda a: [tuple(_inner(a[0]))],
    "dict of tuples": lambda a: [{k: tuple(v) for k, v in a[0].items()}, *a[1:]],
    "all tuples": lambda a: _tuples(a),
    "sets": lambda a: [[set(x) if isinstance(x, list) and x else {} for x in a[0]]],
    "float and complex": lambda a: [float(a[0]), complex(a[1])],
    "complex": lambda a: [complex(a[0])],
}
_TASKS_OF: Mapping[str, str] = {
    "tuples": "2 116 132 143 222 261 273 394 399 421 424 429 470 560 579 596 616 630 726 740 744 "
    "809",
    "lists of tuples": "63 64 70 94 120 237 272 299 400 409 417 438 473 614 780",
    "first a list of tuples": "75 413 444 753",
    "second a tuple": "106 750",
    "first a tuple": "250 307 405 446 617 720 763 808",
    "tuples of tuples": "259 401 445",
    "tuple of some": "278",
    "dict of tuples": "722",
    "all tuples": "580 615 791",
    "sets": "115",
    "float and complex": "124",
    "complex": "252",
}
_FORM_OF = {int(task): form for form, tasks in _TASKS_OF.items() for task in tasks.split()}


# ---- what the reference returns --------------------------------------------------------------


def _answered(box: Sandbox, group: Sequence[_Draft | Fault]) -> Iterator[_Draft | Fault]:
    """The drafts with their results, in order; the references that are needed have been run."""
    unknown = [d for d in group if isinstance(d, _Draft) and d.results is None]
    outcomes = box.run([_program(d, d.calls) for d in unknown])
    answers = [_answers(box, d, o) for d, o in zip(unknown, outcomes, strict=True)]
    found = iter(answers)
    for draft in group:
        if isinstance(draft, _Draft) and draft.results is None:
            yield next(found)
        else:
            yield draft


def _program(draft: _Draft, calls: Sequence[str]) -> Program:
    task = draft.task
    return Program(
        task.reference or "", task.entry_point, tuple(calls), setup=task.setup, limits=_LIMITS
    )


def _answers(box: Sandbox, draft: _Draft, outcome: Outcome) -> _Draft:
    """What the reference returned, call by call. One that ends the process is left out, and
    the calls behind it are made in another."""
    calls, results, left_out = draft.calls, list[Any](), dict[int, str]()
    while True:
        if not outcome.ran:
            raise WorkFailed(
                f"task {draft.task.task_id}: the reference did not run: {outcome.detail}"
            )
        frames = [frame for frame in outcome.frames if frame["i"] >= 0]
        for frame in frames:
            value, why = _value(frame)
            if why:
                left_out[len(results)] = why
            results.append(value)
        if len(results) == len(calls):
            return replace(draft, results=tuple(results), left_out=left_out)
        left_out[len(results)] = _why_ended(outcome)
        results.append(None)
        if not frames and len(results) > 1:  # twice in a row: the rest is no better
            rest = range(len(results), len(calls))
            left_out |= dict.fromkeys(rest, "not run after the one before it")
            return replace(draft, results=(*results, *(None for _ in rest)), left_out=left_out)
        (outcome,) = box.run([_program(draft, calls[len(results) :])])


def _why_ended(outcome: Outcome) -> str:
    """Why there is no frame for the next call."""
    last = outcome.frames[-1] if outcome.frames else {}
    if last.get("i", 0) < 0 and "e" in last:
        return f"the solution does not load: {_raised(last)}"
    return f"stopped: {outcome.killed}" if outcome.killed else "the solution ends its process"


def _raised(frame: Mapping[str, Any]) -> str:
    return ": ".join(map(str, frame["e"][:2]))[:100]


def _value(frame: Mapping[str, Any]) -> tuple[Any, str]:
    """A frame's value as plain data, or why there is none."""
    if "e" in frame:
        return None, f"the solution raises {_raised(frame)}"
    value = codec.unwrap(codec.decode(frame["v"]))
    return value, "" if is_literal(literal_text(value)) else f"it returns {shown(repr(value))}"


# ---- tests -----------------------------------------------------------------------------------

_HUMANEVAL_RULES = {"find_zero": "root"}
_MBPP_RULES = {
    **dict.fromkeys(["check_str", "text_match_three", "text_starta_endb"], "found"),
    **dict.fromkeys(
        ["similar_elements", "find_char_long", "common_in_nested_lists", "extract_singly"], "set"
    ),
    **dict.fromkeys(["larg_nnum", "intersection_array", "find_dissimilar", "Diff"], "set"),
    "are_equivalent": "any",
    "sum_div": "or zero",
    "surface_Area": "or by height",
    "digit_distance_nums": "or padded",
}
#: How a rule has the entry point called.
_SHAPES = {"found": "not not {}", "set": "set({})"}


def _finished(draft: _Draft) -> Task | Fault:
    """The draft as a task whose tests compare as EvalPlus does."""
    assert draft.results is not None
    known = [place for place in range(len(draft.inputs)) if place not in draft.left_out]
    calls = draft.calls
    left_out = [{"call": shown(calls[i], 200), "reason": r} for i, r in draft.left_out.items()]
    meta = {**draft.task.meta, **({"left_out": left_out} if left_out else {})}
    if not known:
        told = f"nothing is known of what {len(left_out)} inputs give: {left_out[0]['reason']}"
        return draft.row.fault(Wrong("no_tests", told, "Remove the row"))
    task = replace(draft.task, meta=meta)
    if draft.rule and draft.rule not in _SHAPES:
        lines = [_assertion(draft, place) for place in known]
        return replace(task, test_code=_CHECK + "".join(f"    {line}\n" for line in lines))
    try:
        return replace(task, tests=tuple(_test(draft, calls[i], i) for i in known))
    except TypeError as error:  # a set of what cannot be in one
        return draft.row.fault(Wrong("bad_test", f"its results are no sets: {error}"))


def _test(draft: _Draft, call: str, place: int) -> Test:
    assert draft.results is not None
    result = draft.results[place]
    if draft.rule == "found":
        result = bool(result)
    if draft.rule == "set":
        return Test(call, literal_text(set(result)), "equal")
    return Test(call, literal_text(result), "equal", tolerance_of(result, draft.atol))


def tolerance_of(expected: Any, atol: float) -> float | None:
    """The tolerance of a test where EvalPlus takes ``|a - b| <= atol + 1e-7 |b|``, with an
    ``atol`` of 1e-6 for floats where the task has none; None: exact.

    A test's tolerance is relative and absolute at once: the smallest is taken that accepts all
    that EvalPlus accepts, which for one number is the very same.
    """
    if not atol and not _floats(expected):
        return None
    atol = atol or 1e-6
    sizes = [abs(n) for n in _numbers(expected) if math.isfinite(n)]
    return max(((atol + 1e-7 * n) / max(1.0, n) for n in sizes), default=atol)


def _floats(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return all(isinstance(item, float) for item in value)
    return isinstance(value, float)


def _numbers(value: Any) -> Iterator[float]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (list, tuple, set, frozenset)):
        for item in value:
            yield from _numbers(item)
    elif isinstance(value, int) and not isinstance(value, bool) and value.bit_length() < 1000:
        yield float(value)
    elif isinstance(value, float):
        yield value


_CHECK = """\
import math


def near(value, wanted, tolerance):
    try:
        return math.isclose(value, wanted, rel_tol=tolerance, abs_tol=tolerance)
    except (TypeError, OverflowError):
        return value == wanted


def check(candidate):
"""


def _assertion(draft: _Draft, place: int) -> str:
    """A line of test code for a task with more than one right answer."""
    assert draft.results is not None
    args, result = draft.inputs[place], draft.results[place]
    call = call_text("candidate", args)
    if draft.rule == "any":
        return call
    if draft.rule == "root":
        powers = f"sum(c * math.pow(x, i) for i, c in enumerate({literal_text(args[0])}))"
        return f"x = {call}; assert abs({powers}) <= {draft.atol or 1e-4!r}"
    others = {"or zero": lambda *_: 0, "or by height": _by_height, "or padded": _padded}
    tolerance = tolerance_of(result, draft.atol) or 0.0
    wanted = [result, others[draft.rule](*args)]
    near = [f"near(x, {literal_text(w)}, {tolerance!r})" for w in wanted]
    return f"x = {call}; assert {' or '.join(near)}"


def _by_height(base: float, height: float) -> int:
    """MBPP/581, its height read as the pyramid's and not its side's."""
    return round(base**2 + 2 * base * math.sqrt((base / 2) ** 2 + height**2))


def _padded(one: int, other: int) -> int:
    """MBPP/558, the shorter number filled up with zeros."""
    width = max(len(str(one)), len(str(other)))
    pairs = zip(str(one).zfill(width), str(other).zfill(width), strict=True)
    return sum(abs(int(a) - int(b)) for a, b in pairs)


# ---- source ----------------------------------------------------------------------------------


def call_text(name: str, args: Sequence[Any]) -> str:
    """Source of a call with these values."""
    return f"{name}({', '.join(map(literal_text, args))})"


def literal_text(value: Any) -> str:
    """Source of plain data that is right in a program and as an expected value: no name but
    builtin ones, and no decimal number too long for Python to read."""
    if isinstance(value, float) and not math.isfinite(value):
        return f"float('{value}')"
    if type(value) is int:
        return codec.show(value)
    if type(value) is list:
        return f"[{', '.join(map(literal_text, value))}]"
    if type(value) is tuple:
        inner = ", ".join(map(literal_text, value))
        return f"({inner},)" if len(value) == 1 else f"({inner})"
    if type(value) in (set, frozenset) and value:
        inner = ", ".join(sorted(map(literal_text, value)))
        return f"{{{inner}}}" if type(value) is set else f"frozenset({{{inner}}})"
    if type(value) is dict:
        pairs = (f"{literal_text(k)}: {literal_text(v)}" for k, v in value.items())
        return f"{{{', '.join(pairs)}}}"
    return repr(value)
