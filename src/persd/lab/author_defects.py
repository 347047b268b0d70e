"""What is wrong with a task that an author writes, in several ways each.

``DEFECTS`` holds, for each state that a proposed task can end in (``records.CandidateState``),
the ways an author gets there; each makes a task of the family and spoils one thing about it. A
way says nothing of itself in the text. Here are those that leave program, words and calls sound
by themselves: tests that cannot tell right from wrong, and tasks that are not new. What is wrong
with a reply, rather than with a task (``no_task``, ``cut``), is in ``author``; what only a
benchmark shows (``contaminated``) in ``author_labelled``.
"""

from __future__ import annotations

import ast
import random
import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from persd.domains.authoring import proposal_of
from persd.lab import family
from persd.lab.author_drafts import STYLES, Desk, Sketch, call_of, program_with
from persd.lab.author_forms import FORMS
from persd.lab.author_twists import TWISTS, Defect, Twist
from persd.lab.family import Link
from persd.records import CandidateState, Proposal
from persd.tasks.mutants import mutants

# ---- what the tests can tell ------------------------------------------------------------------


def _few(desk: Desk) -> int:
    """The calls wanted; at most 12, for there are not many inputs of a special kind."""
    return min(desk.calls, 12)


def _same_answers(desk: Desk) -> Proposal:
    """Calls that all give the same, of a program that can give more."""
    while True:
        sketch = desk.sketch(ends="I")
        groups: dict[str, list[Any]] = {}
        for _ in range(12):
            for value in family.draw_inputs(desk.rng, sketch.chain[0].step.source)[:-2]:
                group = groups.setdefault(repr(family.run(sketch.chain, value)), [])
                if value not in group:
                    group.append(value)
        most = max(groups.values(), key=len)
        if len(most) >= (count := _few(desk)):
            return replace(sketch, calls=tuple(map(call_of, most[:count]))).proposal


_CONSTANT: Mapping[str, Defect] = {
    "a number": Twist(last=("return 0",)),
    "a truth": Twist(last=("return result is not None",)),
    "a type": Twist(last=("return type(result).__name__",)),
    "an empty list": Twist(last=("return [v for v in [result] if v != result]",)),
    "its length": Twist(last=("return len([result])",)),
    "the same answers": _same_answers,
}


def _unchanged(desk: Desk) -> Proposal:
    """Calls with inputs that the program gives back, of a program that changes others."""
    while True:
        sketch = desk.sketch()
        kind = sketch.chain[0].step.source
        inert: list[Any] = []
        for _ in range(8 if kind == sketch.chain[-1].step.target else 0):
            for value in family.draw_inputs(desk.rng, kind)[:-2]:
                for _ in range(3):
                    value = family.run(sketch.chain, value)
                if family.run(sketch.chain, value) == value and value not in inert:
                    inert.append(value)
        if len(inert) >= (count := _few(desk)):
            return replace(sketch, calls=tuple(map(call_of, inert[:count]))).proposal


_COPIES: Mapping[str, Mapping[str, str]] = {
    "L": {"list({x})": "a copy", "[v for v in {x}]": "all its numbers", "{x}[:]": "a new list"},
    "W": {"list({x})": "a copy", "[w for w in {x}]": "all its words", "{x}[:]": "a new list"},
    "S": {'"".join(ch for ch in {x})': "all its characters", "str({x})": "it as a text"},
    "I": {"int({x})": "it as a whole number", "{x} + 0": "it with nothing added"},
}


def _copied(desk: Desk) -> Proposal:
    """A program that gives its argument back."""
    sketch = desk.sketch()
    kind = sketch.chain[0].step.source
    expr, what = desk.rng.choice(list(_COPIES[kind].items()))
    code = f"def f({sketch.name}):\n    return {expr.replace('{x}', sketch.name)}\n"
    noun = {"L": "a list of numbers", "W": "a list of words", "S": "a text", "I": "a number"}[kind]
    wording = desk.rng.choice(
        ("Given {}, return {}.", "For {}, give back {}.", "Take {}; hand on {}.")
    )
    return replace(sketch, text=wording.format(noun, what), code=code).proposal


_STUB_PASSES: Mapping[str, Defect] = {
    "inputs that stay": _unchanged,
    "a copy": _copied,
    "the input itself": Twist("In the end give back the input.", last=("return {x}",)),
}

#: Inputs below a size: a number to compare with, and how the comparison reads.
_LIMITS = {"L": 4, "W": 3, "S": 5}
_SIZED = {
    "L": ("holds more than {k} numbers", "has over {k} items"),
    "W": ("holds more than {k} words", "has over {k} entries"),
    "S": ("is longer than {k} characters", "has over {k} characters"),
}
_OTHERWISE = (
    ("return its length", "len({x})"),
    ("count what is there", "len({x})"),
    ("return its length plus one", "len({x}) + 1"),
    ("return twice its length", "2 * len({x})"),
)


def guarded(desk: Desk) -> Sketch:
    """A task that asks for its steps only where the input is long; its calls all are short, so
    that hardly a line of the program is run."""
    while True:
        sketch = desk.sketch("LWS", steps=4)
        kind = sketch.chain[0].step.source
        limit = _LIMITS[kind]
        instead, expr = desk.rng.choice(_OTHERWISE)
        sized = desk.rng.choice(_SIZED[kind]).format(k=limit)
        text = f"{sketch.text} Do so only if the input {sized}; otherwise {instead}."
        sketch = replace(sketch, text=text, code=family.program(sketch.chain, "loop"))
        first = (f"if len({{x}}) <= {limit}:", f"    return {expr}")
        code = program_with(sketch, first=first)
        inputs = _short_inputs(desk.rng, kind, limit, _few(desk))
        if _misses_most(code, inputs):
            return replace(sketch, code=code, calls=tuple(map(call_of, inputs)))


def is_stubborn(code: str) -> bool:
    """Whether the author of such a task, asked for more calls, thinks of short ones again: of
    half of those that are ``guarded``, whichever they are."""
    return (
        bool(re.search(r"^    if len\(\w+\) <= \d:$", code, re.M))
        and zlib.crc32(code.encode()) % 2 == 0
    )


def short_calls(rng: random.Random, kind: str, count: int) -> list[str]:
    """Calls that a guarded task's program answers without its steps."""
    return [call_of(x) for x in _short_inputs(rng, kind, _LIMITS.get(kind, 1), min(count, 12))]


def _short_inputs(rng: random.Random, kind: str, limit: int, count: int) -> list[Any]:
    """Different inputs of every length up to ``limit``, the lengths in turn."""
    found: list[Any] = []
    while len(found) < count:
        longer = rng.choice(family.draw_inputs(rng, kind)[:-2])
        value = longer[: 1 + len(found) % limit]
        if value not in found:
            found.append(value)
    return found


def _too_short(desk: Desk) -> Proposal:
    """Calls so short that changed copies of the program give the same answers."""
    while True:
        sketch = desk.sketch("LWS", steps=4)
        inputs = _short_inputs(desk.rng, sketch.chain[0].step.source, 2, _few(desk))
        if _misses_most(sketch.code, inputs):
            return replace(sketch, calls=tuple(map(call_of, inputs))).proposal


def _misses_most(code: str, inputs: Sequence[Any]) -> bool:
    """Whether most changed copies of a program of the family answer as it does, although its
    answers differ and are not the inputs."""
    right = _answers(code, inputs)
    if len(set(right[len(right) // 2 :])) < 2 or right == list(map(repr, inputs)):
        return False
    copies = list(mutants(code))
    killed = 0
    for copy in copies:
        killed += _answers(copy, inputs) != right
        if killed > 0.4 * len(copies):
            return False
    return bool(copies)


def _answers(code: str, inputs: Sequence[Any]) -> list[str]:
    # A program of the step table with one operator or number changed: never a model's text.
    scope: dict[str, Any] = {}
    exec(compile(ast.parse(code), "family", "exec"), scope)  # noqa: S102
    try:
        return [repr(scope[family.ENTRY_POINT](x)) for x in inputs]
    except Exception:
        return []


_WEAK_TESTS: Mapping[str, Defect] = {
    "short inputs": _too_short,
    "a branch not taken": lambda desk: guarded(desk).proposal,
}


# ---- whether it is new ------------------------------------------------------------------------


def _twin_of(desk: Desk) -> Sketch:
    """A sound task that was proposed before: the desk's, else one that authors are fond of."""
    return desk.twin or favourite(desk.rng)


def _reworded(desk: Desk) -> Proposal:
    """The same program, told in other words but for half of the steps."""
    twin = _twin_of(desk)
    for _ in range(1000):
        text = family.instruction(desk.rng, twin.chain)
        same = sum(_is_said_alike(link, text, twin.text) for link in twin.chain)
        if len(twin.chain) <= 2 * same < 2 * len(twin.chain):
            break
    return replace(twin, text=text).proposal


def _is_said_alike(link: Link, one: str, other: str) -> bool:
    said = [link.fill(words).lower() for words in link.step.texts]
    return any(words in one.lower() and words in other.lower() for words in said)


def _renamed(desk: Desk) -> Proposal:
    """The same program with other names in it, under the same words in another order."""
    twin = _twin_of(desk)
    code = family.program(twin.chain, "loop")
    for old, new in (("a", "first"), ("b", "second"), ("c", "third"), ("d", "fourth")):
        code = _with_name(code, old, new)
    return replace(twin, code=code, text=f"Please do this. {twin.text}").proposal


def _with_name(code: str, old: str, new: str) -> str:
    tree = ast.parse(code)
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and node.id == old:
            node.id = new
    return f"{ast.unparse(tree)}\n"


def _other_constant(desk: Desk) -> Proposal:
    """The same steps with one number or letter changed."""
    twin = _twin_of(desk)
    places = [i for i, link in enumerate(twin.chain) if link.step.params]
    if not places:
        return _reworded(desk)
    place = desk.rng.choice(places)
    step = twin.chain[place].step
    while (params := family.draw_params(desk.rng, step)) == twin.chain[place].params:
        pass
    chain = (*twin.chain[:place], Link(step, params), *twin.chain[place + 1 :])
    text = _worded_alike(twin, chain)
    style = next((s for s in STYLES if family.program(twin.chain, s) == twin.code), STYLES[0])
    return replace(twin, text=text, code=family.program(chain, style)).proposal


def _worded_alike(twin: Sketch, chain: family.Chain) -> str:
    """The chain in the words of a twin that has other parameters."""
    for seed in range(10_000):
        if family.instruction(random.Random(seed), twin.chain) == twin.text:
            return family.instruction(random.Random(seed), chain)
    return family.instruction(random.Random(0), chain)


def _seed_again(desk: Desk) -> Proposal:
    """A seed that was shown, told as it was; without one, a task told before."""
    seeds = [s for s in desk.shown if s.reference and (s.seen_tests or s.tests)]
    if not seeds:
        return _reworded(desk)
    proposal = proposal_of(desk.rng.choice(seeds))
    return replace(proposal, calls=proposal.calls[: desk.calls])


_NEAR_DUPLICATE: Mapping[str, Defect] = {
    "reworded": _reworded,
    "renamed": _renamed,
    "another constant": _other_constant,
    "a seed again": _seed_again,
}


def favourite(rng: random.Random) -> Sketch:
    """One of a few tasks that every author writes sooner or later."""
    number = rng.randrange(12)
    return Desk(random.Random(number), steps=2 + number % 3).sketch()


DEFECTS: Mapping[CandidateState, Mapping[str, Defect]] = {
    **FORMS,
    **TWISTS,
    "constant": _CONSTANT,
    "stub_passes": _STUB_PASSES,
    "weak_tests": _WEAK_TESTS,
    "near_duplicate": _NEAR_DUPLICATE,
}
